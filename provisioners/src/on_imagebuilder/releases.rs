//! Releases of Debian and Ubuntu: their archives, and what their smallest roots lack.

use super::settings::DebianArchive;
use super::yaml_writer::plain_or_quoted;

/// Release of a base if no variable names one.
pub(super) const DEFAULT_RELEASE: &str = "bookworm";

/// Packages that a root needs to boot, and that `minbase` of a release with systemd lacks.
pub(super) const BOOT_PACKAGES: [&str; 4] = ["systemd-sysv", "udev", "kmod", "dbus"];

/// Releases whose `minbase` has an init other than systemd.
const RELEASES_WITHOUT_SYSTEMD: [&str; 9] =
    ["wheezy", "squeeze", "lucid", "precise", "quantal", "raring", "saucy", "trusty", "utopic"];

/// Releases of Debian whose security archive is at `RELEASE/updates`.
const OLD_SECURITY_RELEASES: [&str; 4] = ["wheezy", "jessie", "stretch", "buster"];

/// Releases of Debian without a security archive.
const UNSTABLE_RELEASES: [&str; 3] = ["sid", "unstable", "experimental"];

/// Returns whether systemd is the init of a release.
pub(super) fn has_systemd(release: &str) -> bool {
    !RELEASES_WITHOUT_SYSTEMD.contains(&release)
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
