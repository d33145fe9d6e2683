//! Releases of Debian and Ubuntu: which are in use, and what their smallest roots lack.

use super::settings::DebianArchive;

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

/// Returns whether images of a release can no longer be built.
pub(super) fn is_out_of_use(release: &str) -> bool {
    RELEASES_OUT_OF_USE.contains(&release)
}

/// Returns the advice for a release that is out of use, with its archive and the variables with
/// versions of kernels, each with its file if that is to be changed.
pub(super) fn advice(release: &str, archive: Option<&DebianArchive>, kernels: &[String]) -> String {
    let (instead, other) = match archive.is_some_and(DebianArchive::is_ubuntu) {
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
