//! What can go wrong with a sandbox or a mount, each with what to do about it.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

use super::lack::Lack;
use super::wire::EXECUTING;

/// A sandbox, a mount or a command in one could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SandboxError {
    /// The machine lacks something.
    #[error(transparent)]
    Lack(#[from] Lack),
    /// Root, but without the capability to mount.
    #[error(
        "root, but without CAP_SYS_ADMIN: namespaces and mounts are not allowed here; \
         run as an ordinary user with subordinate ids, or start the container with \
         --cap-add SYS_ADMIN --device /dev/fuse"
    )]
    RootWithoutCapabilities,
    /// `newuidmap` or `newgidmap` refused.
    #[error("{program} refused to map the ids: {message}")]
    IdMap {
        /// The program that refused.
        program: &'static str,
        /// What it printed.
        message: String,
    },
    /// A step of the set-up failed.
    #[error("cannot set up the sandbox: {doing}: {source}{hint}")]
    Setup {
        /// What was being done.
        doing: String,
        /// Why it failed.
        source: io::Error,
        /// What to do about it, if that is known; begins with "; ".
        hint: String,
    },
    /// The processes of the sandbox are gone.
    #[error("the sandbox has ended unexpectedly ({0})")]
    Ended(String),
    /// A host path to be shown inside is not there.
    #[error("cannot show {} inside: {source}", path.display())]
    Bind {
        /// The path on the host.
        path: PathBuf,
        /// Why it cannot be shown.
        source: io::Error,
    },
    /// A command could not be started.
    #[error("cannot run {}: {doing}: {source}{hint}", program.to_string_lossy())]
    Command {
        /// The command's name.
        program: OsString,
        /// What was being done.
        doing: String,
        /// Why it failed.
        source: io::Error,
        /// What to do about it, if that is known; begins with "; ".
        hint: &'static str,
    },
    /// The user's request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// A mount in the host's own namespace failed.
    #[error("cannot mount on {}: {message}", dir.display())]
    Mount {
        /// The mount point.
        dir: PathBuf,
        /// Why, and what to do.
        message: String,
    },
    /// A mount could not be taken away.
    #[error("cannot unmount {}: {message}", dir.display())]
    Unmount {
        /// The mount point.
        dir: PathBuf,
        /// Why, and what to do.
        message: String,
    },
    /// Anything else that the operating system refused.
    #[error("{doing}: {source}")]
    System {
        /// What was being done.
        doing: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

impl SandboxError {
    /// The exit code that shells and `env` give for a command that cannot be executed: 127 when
    /// there is none, 126 when there is one. `None` for everything that is no fault of the command.
    pub fn shell_code(&self) -> Option<u8> {
        match self {
            SandboxError::Command { doing, source, .. } if doing == EXECUTING => {
                Some(if source.kind() == io::ErrorKind::NotFound { 127 } else { 126 })
            }
            _ => None,
        }
    }
}

/// Names what was being done when the operating system refused.
pub(super) trait During<T> {
    fn during(self, doing: &'static str) -> Result<T, SandboxError>;
}

impl<T, E: Into<io::Error>> During<T> for Result<T, E> {
    fn during(self, doing: &'static str) -> Result<T, SandboxError> {
        self.map_err(|source| SandboxError::System { doing, source: source.into() })
    }
}

/// A step that failed in a child, on its way to the daemon.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) doing: String,
    pub(super) errno: i32,
}

/// The result of a step in a child.
pub(super) type Step<T> = Result<T, Failure>;

/// Names the step that failed.
pub(super) trait Doing<T> {
    fn doing(self, what: &str) -> Step<T>;
}

impl<T, E: Into<io::Error>> Doing<T> for Result<T, E> {
    fn doing(self, what: &str) -> Step<T> {
        self.map_err(|error| Failure {
            doing: what.to_owned(),
            errno: error.into().raw_os_error().unwrap_or(libc::EINVAL),
        })
    }
}
