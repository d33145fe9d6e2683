//! What a machine may lack, each with the command that mends it: for the errors of everything that
//! needs it, and for `doctor`.

use std::fmt;
use std::io;

/// Something that this machine lacks, and how root mends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lack {
    /// What is not as it should be.
    pub problem: String,
    /// The command that mends it, for root.
    pub remedy: String,
    /// What to do in a container, where that command is of no use.
    pub in_container: Option<&'static str>,
}

impl std::error::Error for Lack {}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; as root: `{}`", self.problem, self.remedy)?;
        match self.in_container {
            Some(options) => write!(f, " (in a container: start it with {options})"),
            None => Ok(()),
        }
    }
}

const WITH_FUSE: &str = "--device /dev/fuse";

impl Lack {
    fn new(problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Lack { problem: problem.into(), remedy: remedy.into(), in_container: None }
    }

    /// There is no `/dev/fuse`, or no module behind it.
    pub(super) fn fuse_device() -> Self {
        let lack = Lack::new("/dev/fuse is missing", "modprobe fuse");
        Lack { in_container: Some(WITH_FUSE), ..lack }
    }

    /// `/dev/fuse` is there, but not for this user.
    pub(super) fn fuse_access(error: &io::Error) -> Self {
        let problem = format!("cannot open /dev/fuse: {error}: it needs mode 0666");
        Lack { in_container: Some(WITH_FUSE), ..Lack::new(problem, "chmod 666 /dev/fuse") }
    }

    /// A setting keeps ordinary users from making user namespaces.
    pub(super) fn user_namespaces(setting: &str, remedy: impl Into<String>) -> Self {
        Lack::new(format!("unprivileged user namespaces are off ({setting})"), remedy)
    }

    /// AppArmor keeps them from being of use.
    pub(super) fn apparmor() -> Self {
        Lack::new(
            "AppArmor restricts unprivileged user namespaces here",
            "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        )
    }

    /// A program is not installed; `package` is the Debian package that has it.
    pub fn program(program: &str, package: &str) -> Self {
        Lack::new(format!("`{program}` is not installed"), format!("apt install {package}"))
    }

    /// The user has no subordinate ids in `file`; `first` is the first that nobody has.
    pub(super) fn subordinate_ids(user: &str, file: &str, first: u32) -> Self {
        let last = first.saturating_add(65535);
        let remedy =
            format!("usermod --add-subuids {first}-{last} --add-subgids {first}-{last} {user}");
        Lack::new(format!("no subordinate ids for user {user} in {file}"), remedy)
    }

    /// `program` cannot give a user namespace its ids: it is not what its package installed.
    pub(super) fn set_user_id(program: &str, problem: &str) -> Self {
        let remedy = "apt install --reinstall uidmap";
        Lack::new(format!("{program} cannot map ids: {problem}"), remedy)
    }
}
