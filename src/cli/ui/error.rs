//! Errors of subcommands, with the exit codes they lead to.

use std::error::Error;
use std::process::ExitCode;

use crate::build::BuildError;
use crate::root::RootError;
use crate::sandbox::SandboxError;
use crate::seal::SealError;

/// The reason why a subcommand ended early.
#[derive(Debug)]
pub(crate) enum CommandError {
    /// An error, with the exit code to use.
    Error(u8, Box<dyn Error>),
    /// A signal that requested termination.
    Signal(i32),
    /// The reader of standard output closed it, which counts as success.
    OutputClosed,
}

impl CommandError {
    /// Creates an error with exit code 2 from a message.
    pub(crate) fn message(text: impl Into<String>) -> Self {
        CommandError::Error(2, text.into().into())
    }
}

macro_rules! failure_from {
    ($($error:ty),* $(,)?) => {
        $(impl From<$error> for CommandError {
            fn from(error: $error) -> Self {
                CommandError::Error(2, Box::new(error))
            }
        })*
    };
}

failure_from!(
    RootError,
    SandboxError,
    SealError,
    crate::sandbox::MissingRequirement,
    fs_model::FsError,
    provisioners::ConfigError,
    provisioners::PlanError,
    provisioners::on_imagebuilder::ImportError,
    crate::root::import::RootImportError,
    crate::image::open::OpenError,
    crate::image::view::LookError,
    crate::build::RecordError,
    crate::report::model::ModelError,
    crate::serve::CatalogueError,
    crate::tui::screen::ScreenError,
    crate::vm::BootError,
    crate::check::CheckError,
    crate::check::UnknownLint,
    std::io::Error,
);

impl From<BuildError> for CommandError {
    fn from(error: BuildError) -> Self {
        match error {
            BuildError::Interrupted(signal) => CommandError::Signal(signal),
            error if error.is_step_failure() => CommandError::Error(1, Box::new(error)),
            error => CommandError::Error(2, Box::new(error)),
        }
    }
}

pub(crate) type CommandResult = Result<ExitCode, CommandError>;
