//! Requirements that a machine may not meet, each with the command that fixes it. Used in the
//! errors of everything that needs them, and by `doctor`.

use std::fmt;
use std::io;
use std::path::Path;

use crate::text::escape::shell_word;

/// A requirement that this machine does not meet, and how root fixes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingRequirement {
    /// The problem.
    pub problem: String,
    /// The command that fixes it, for root.
    pub remedy: String,
    /// The options to start a container with, where that command does not help.
    pub in_container: Option<&'static str>,
}

impl std::error::Error for MissingRequirement {}

impl fmt::Display for MissingRequirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problem)
    }
}

/// The AppArmor profile of the Debian package, and the program that it is for.
const APPARMOR_PROFILE: &str = "/etc/apparmor.d/overcoat";
const PACKAGED_PROGRAM: &str = "/usr/bin/overcoat";

const WITH_FUSE: &str = "--device /dev/fuse";

impl MissingRequirement {
    /// Returns the command that fixes it, for a message.
    pub fn hint(&self) -> String {
        let in_container =
            self.in_container.map(|how| format!(" (in a container: start it with {how})"));
        format!("as root: `{}`{}", self.remedy, in_container.unwrap_or_default())
    }

    fn new(problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        MissingRequirement { problem: problem.into(), remedy: remedy.into(), in_container: None }
    }

    /// `/dev/fuse` or its kernel module is missing.
    pub(super) fn fuse_device() -> Self {
        let missing = MissingRequirement::new("/dev/fuse is missing", "modprobe fuse");
        MissingRequirement { in_container: Some(WITH_FUSE), ..missing }
    }

    /// This user cannot open `/dev/fuse`.
    pub(super) fn fuse_access(error: &io::Error) -> Self {
        let problem = format!("cannot open /dev/fuse: {error}: it must have mode 0666");
        MissingRequirement {
            in_container: Some(WITH_FUSE),
            ..MissingRequirement::new(problem, "chmod 666 /dev/fuse")
        }
    }

    /// A setting forbids user namespaces for ordinary users.
    pub(super) fn user_namespaces(setting: &str, remedy: impl Into<String>) -> Self {
        MissingRequirement::new(format!("unprivileged user namespaces are off ({setting})"), remedy)
    }

    /// AppArmor restricts what ordinary users can do in their user namespaces. A profile allows
    /// them to this program alone.
    pub(super) fn apparmor() -> Self {
        let program = std::env::current_exe().unwrap_or_else(|_| PACKAGED_PROGRAM.into());
        MissingRequirement::new(
            "AppArmor restricts unprivileged user namespaces",
            apparmor_remedy(&program, Path::new(APPARMOR_PROFILE).exists()),
        )
    }

    /// A program is not installed; `package` is its Debian package.
    pub fn program(program: &str, package: &str) -> Self {
        MissingRequirement::new(
            format!("`{program}` is not installed"),
            format!("apt install {package}"),
        )
    }

    /// The user has no subordinate ids in `file`; `first` is the first free id.
    pub(super) fn subordinate_ids(user: &str, file: &str, first: u32) -> Self {
        let last = first.saturating_add(65535);
        let remedy =
            format!("usermod --add-subuids {first}-{last} --add-subgids {first}-{last} {user}");
        MissingRequirement::new(format!("no subordinate ids for user {user} in {file}"), remedy)
    }

    /// `program` cannot write id maps: it lacks the rights that its package installs it with.
    pub(super) fn set_user_id(program: &str, problem: &str) -> Self {
        let remedy = "apt install --reinstall uidmap";
        MissingRequirement::new(format!("{program} cannot map ids: {problem}"), remedy)
    }
}

/// Returns the command that loads a profile for `program`, and writes it first unless the Debian
/// package has installed it.
fn apparmor_remedy(program: &Path, packaged: bool) -> String {
    if packaged && program == Path::new(PACKAGED_PROGRAM) {
        return format!("apparmor_parser --replace {APPARMOR_PROFILE}");
    }
    // The usual name of a profile is the path with dots.
    let path = program.to_string_lossy();
    let name = path.trim_start_matches('/').replace('/', ".");
    let file = format!("/etc/apparmor.d/{name}");
    let file = shell_word(&file);
    let profile = format!("abi <abi/4.0>, profile \"{path}\" flags=(unconfined) {{ userns, }}");
    let profile = shell_word(&profile);
    format!("echo {profile} >{file} && apparmor_parser --replace {file}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_remedy_for_apparmor_is_a_profile_of_this_program() {
        let remedy = |path: &str, packaged| apparmor_remedy(Path::new(path), packaged);
        let load = "apparmor_parser --replace /etc/apparmor.d/overcoat";
        assert_eq!(remedy("/usr/bin/overcoat", true), load);
        for (path, packaged) in [("/usr/bin/overcoat", false), ("/usr/local/bin/overcoat", true)] {
            let name = path[1..].replace('/', ".");
            assert_eq!(
                remedy(path, packaged),
                format!(
                    "echo 'abi <abi/4.0>, profile \"{path}\" flags=(unconfined) {{ userns, }}' \
                     >/etc/apparmor.d/{name} && apparmor_parser --replace /etc/apparmor.d/{name}"
                )
            );
        }
    }
}
