//! Releases of Debian and Ubuntu: their archives, and what their smallest roots lack.

use super::settings::DebianArchive;
use super::yaml_writer::plain_or_quoted;

/// Release of a base if no variable names one.
pub(super) const DEFAULT_RELEASE: &str = "bookworm";

/// Packages that a root needs to boot, and that `minbase` of a release with systemd lacks. Releases
/// with another init are all out of use.
pub(super) const BOOT_PACKAGES: [&str; 4] = ["systemd-sysv", "udev", "kmod", "dbus"];

/// Releases that current mirrors do not have, or whose Python is too old for current Ansible.
const RELEASES_OUT_OF_USE: [&str; 31] = [
    "etch", "lenny", "squeeze", "wheezy", "jessie", "stretch", "buster", "hardy", "lucid",
    "maverick", "natty", "oneiric", "precise", "quantal", "raring", "saucy", "trusty", "utopic",
    "vivid", "wily", "yakkety", "zesty", "artful", "cosmic", "disco", "eoan", "groovy", "hirsute",
    "impish", "kinetic", "lunar",
];

/// Releases of Debian whose security archive is at `RELEASE/updates`.
const OLD_SECURITY_RELEASES: [&str; 4] = ["wheezy", "jessie", "stretch", "buster"];

/// Releases of Debian without a security archive.
const UNSTABLE_RELEASES: [&str; 3] = ["sid", "unstable", "experimental"];

/// Returns whether images of a release can no longer be built.
pub(super) fn is_out_of_use(release: &str) -> bool {
    RELEASES_OUT_OF_USE.contains(&release)
}

/// Returns the advice for a release that is out of use, with its archive and the variables with
/// versions of kernels.
pub(super) fn advice(release: &str, archive: Option<&DebianArchive>, kernels: &[String]) -> String {
    let is_ubuntu = matches!(archive, Some(DebianArchive::Mirror(url)) if url.contains("ubuntu"));
    let (instead, other) = match is_ubuntu {
        true => (
            "noble",
            format!(
                " For a release of Debian, such as {DEFAULT_RELEASE}, also delete `mirror` and \
                 `components`, and write Debian's archive where `variables` has Ubuntu's."
            ),
        ),
        false => (DEFAULT_RELEASE, String::new()),
    };
    let kernel = match kernels {
        [] => String::new(),
        names => format!(
            " Write the version of a kernel of that release to {}, and wherever else this file has \
             the old one.",
            names.join(", ")
        ),
    };
    format!(
        "{release} is end of life: current mirrors do not have it, or its Python is too old for \
         Ansible. Write a supported release, such as {instead}, for each {release} in this file, \
         and delete this comment.{kernel}{other}"
    )
}

/// Returns the lines with the archive of a release, its updates and its security updates.
pub(super) fn archive_lines(
    archive: &DebianArchive,
    release: &str,
    components: &[String],
) -> String {
    let url = match archive {
        DebianArchive::Server(host) => format!("http://{host}/debian"),
        DebianArchive::Mirror(url) => url.clone(),
    };
    let components = match components {
        [] => "main".to_owned(),
        components => components.join(" "),
    };
    let security = if url.contains("ubuntu") {
        format!("{url} {release}-security")
    } else {
        // Debian's own host and apt-cacher-ng have the security archive beside the other.
        let place = match url.strip_suffix("/debian") {
            Some(place) if place.ends_with("deb.debian.org") || place.ends_with(":3142") => place,
            _ => "http://security.debian.org",
        };
        let suite = match OLD_SECURITY_RELEASES.contains(&release) {
            true => format!("{release}/updates"),
            false => format!("{release}-security"),
        };
        format!("{place}/debian-security {suite}")
    };
    if UNSTABLE_RELEASES.contains(&release) {
        return format!("mirror: {}", plain_or_quoted(&url));
    }
    format!(
        "mirror:\n  - {}\n  - deb {url} {release}-updates {components}\n  - deb {security} \
         {components}\n",
        plain_or_quoted(&url)
    )
}
