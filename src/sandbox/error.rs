//! Errors of sandboxes and mounts, with hints where the cause is known.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

use super::requirement::MissingRequirement;
use super::wire::EXECUTING;
use crate::text::error::describe;

/// An error of a sandbox, a mount or a command in one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SandboxError {
    /// The machine lacks something.
    #[error(transparent)]
    MissingRequirement(#[from] MissingRequirement),
    /// This process is root, but lacks the capability to mount.
    #[error("running as root, but without CAP_SYS_ADMIN: namespaces and mounts are not permitted")]
    RootWithoutCapabilities,
    /// Programs that this process executes cannot gain privileges.
    #[error("`newuidmap` cannot gain privileges from this process (no_new_privs)")]
    NoNewPrivileges,
    /// `newuidmap` or `newgidmap` failed.
    #[error("{program} cannot map the ids: {message}")]
    IdMap {
        /// The program that failed.
        program: &'static str,
        /// The program's error output.
        message: String,
    },
    /// A step of the set-up failed.
    #[error("cannot set up the sandbox: {doing}")]
    Setup {
        /// The step that failed.
        doing: String,
        /// Why it failed.
        source: io::Error,
        /// A hint, if the cause is known.
        hint: Option<String>,
    },
    /// The processes of the sandbox are gone.
    #[error("the sandbox ended unexpectedly ({0})")]
    Ended(String),
    /// A host path to show inside cannot be opened.
    #[error("cannot show {} inside", path.display())]
    Bind {
        /// The path on the host.
        path: PathBuf,
        /// Why it cannot be opened.
        source: io::Error,
    },
    /// A command could not be started.
    #[error("cannot run {}: {doing}", program.to_string_lossy())]
    Command {
        /// The command's name.
        program: OsString,
        /// The step that failed.
        doing: String,
        /// Why it failed.
        source: io::Error,
        /// A hint, if the cause is known.
        hint: Option<&'static str>,
    },
    /// An invalid request of the user.
    #[error("{0}")]
    Invalid(String),
    /// A mount in the host's namespace failed.
    #[error("cannot mount on {}: {message}", dir.display())]
    Mount {
        /// The mount point.
        dir: PathBuf,
        /// The reason.
        message: String,
        /// A hint, if the cause is known.
        hint: Option<&'static str>,
    },
    /// A mount could not be unmounted.
    #[error("cannot unmount {}: {message}", dir.display())]
    Unmount {
        /// The mount point.
        dir: PathBuf,
        /// The reason.
        message: String,
        /// A hint, if the cause is known.
        hint: Option<String>,
    },
    /// Any other failed system call.
    #[error("{doing}")]
    System {
        /// The step that failed.
        doing: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

impl SandboxError {
    /// Returns a way to fix the error, if the cause is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            SandboxError::MissingRequirement(missing) => Some(missing.hint()),
            SandboxError::RootWithoutCapabilities => Some(
                "start the container with --cap-add SYS_ADMIN --device /dev/fuse, or allow user \
                 namespaces in it: --security-opt seccomp=unconfined --device /dev/fuse"
                    .to_owned(),
            ),
            SandboxError::NoNewPrivileges => Some(
                "start it without NoNewPrivileges= or --security-opt no-new-privileges".to_owned(),
            ),
            SandboxError::Setup { hint, .. } | SandboxError::Unmount { hint, .. } => hint.clone(),
            SandboxError::Command { hint, .. } | SandboxError::Mount { hint, .. } => {
                hint.map(str::to_owned)
            }
            _ => None,
        }
    }

    /// Formats the error with its causes and its hint.
    pub fn full_text(&self) -> String {
        let text = describe(self);
        match self.hint() {
            Some(hint) => format!("{text}; {hint}"),
            None => text,
        }
    }

    /// Returns the exit code that shells and `env` use for a command that cannot be executed: 127
    /// when it is missing, 126 otherwise. Returns `None` for all other errors.
    pub fn shell_code(&self) -> Option<u8> {
        match self {
            SandboxError::Command { doing, source, .. } if doing == EXECUTING => {
                Some(if source.kind() == io::ErrorKind::NotFound { 127 } else { 126 })
            }
            _ => None,
        }
    }
}

/// Adds the failed step to an error of the operating system.
pub(super) trait During<T> {
    fn during(self, doing: &'static str) -> Result<T, SandboxError>;
}

impl<T, E: Into<io::Error>> During<T> for Result<T, E> {
    fn during(self, doing: &'static str) -> Result<T, SandboxError> {
        self.map_err(|source| SandboxError::System { doing, source: source.into() })
    }
}

/// A step that failed in a child process, as reported to the daemon.
#[derive(Debug)]
pub(super) struct StepFailure {
    pub(super) doing: String,
    pub(super) errno: i32,
}

/// The result of a step in a child.
pub(super) type StepResult<T> = Result<T, StepFailure>;

/// Adds the failed step to an error in a child process.
pub(super) trait Doing<T> {
    fn doing(self, what: &str) -> StepResult<T>;
}

impl<T, E: Into<io::Error>> Doing<T> for Result<T, E> {
    fn doing(self, what: &str) -> StepResult<T> {
        self.map_err(|error| StepFailure {
            doing: what.to_owned(),
            errno: error.into().raw_os_error().unwrap_or(libc::EINVAL),
        })
    }
}
