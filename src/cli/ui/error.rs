//! Errors of subcommands: their kinds, hints and exit codes.

use std::error::Error;
use std::fmt;
use std::io;
use std::process::ExitCode;

use super::Ui;
use super::hints::hints_of;
use crate::build::{BuildError, PromoteError, RecordError, RollbackError};
use crate::check::{CheckError, UnknownLint};
use crate::image::extract::folder::ExtractError;
use crate::image::open::OpenError;
use crate::image::view::LookError;
use crate::mount::host::MountServerError;
use crate::report::model::ModelError;
use crate::root::RootError;
use crate::root::import::RootImportError;
use crate::sandbox::{MissingRequirement, SandboxError};
use crate::seal::SealError;
use crate::serve::CatalogueError;
use crate::text::error::describe;
use crate::tui::screen::ScreenError;
use crate::vm::BootError;

pub(crate) type CommandResult = Result<ExitCode, CommandError>;

/// The kind of an error, which determines the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ErrorKind {
    /// The command line is wrong, or a file that it names.
    User,
    /// A project, image or provisioner file has a mistake.
    Config,
    /// A provisioner failed, or a machine did not come up.
    Failed,
    /// A provisioner failed, and the error was printed already.
    Reported,
    /// This machine lacks something that overcoat requires.
    Requirement,
    /// The operating system reported an error.
    System,
    /// A bug in overcoat.
    Internal,
    /// A signal requested termination.
    Signal(i32),
    /// The reader of standard output closed it, which counts as success.
    OutputClosed,
}

/// The reason why a subcommand ended early.
#[derive(Debug)]
pub(crate) struct CommandError {
    /// The kind of the error.
    pub(crate) kind: ErrorKind,
    /// The error.
    pub(crate) source: Box<dyn Error>,
    /// Ways to fix it, or further explanations.
    pub(crate) hints: Vec<String>,
    /// The exit code of the program.
    pub(crate) exit_code: u8,
}

impl CommandError {
    /// Creates an error with the exit code of its kind and the hints for its cause.
    pub(crate) fn new(kind: ErrorKind, source: impl Into<Box<dyn Error>>) -> Self {
        let source = source.into();
        let exit_code = match kind {
            ErrorKind::OutputClosed => 0,
            ErrorKind::Failed | ErrorKind::Reported => 1,
            ErrorKind::Signal(signal) => 128 + (signal & 0x7f) as u8,
            _ => 2,
        };
        CommandError { kind, hints: hints_of(&*source), source, exit_code }
    }

    /// Creates an error of the user from a message.
    pub(crate) fn user(text: impl Into<String>) -> Self {
        CommandError::new(ErrorKind::User, text.into())
    }

    /// Creates an error of the operating system from a message and its cause.
    pub(crate) fn system(text: impl Into<String>, source: io::Error) -> Self {
        CommandError::new(ErrorKind::System, FailedAction { text: text.into(), source })
    }

    /// Creates the error for a signal that requested termination.
    pub(crate) fn signal(signal: i32) -> Self {
        CommandError::new(ErrorKind::Signal(signal), format!("signal {signal}"))
    }

    /// Creates the error for a closed standard output.
    pub(crate) fn output_closed() -> Self {
        CommandError::new(ErrorKind::OutputClosed, "standard output was closed")
    }

    /// Adds a hint.
    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Replaces the exit code.
    pub(crate) fn with_exit_code(self, exit_code: u8) -> Self {
        CommandError { exit_code, ..self }
    }

    /// Returns whether the user needs no message.
    pub(crate) fn is_silent(&self) -> bool {
        let silent = [ErrorKind::Reported, ErrorKind::OutputClosed];
        matches!(self.kind, ErrorKind::Signal(_)) || silent.contains(&self.kind)
    }

    /// Prints the error, unless it is silent, and returns the exit code.
    pub(crate) fn report(&self, ui: &Ui) -> ExitCode {
        if !self.is_silent() {
            ui.error(&self.to_string());
        }
        ExitCode::from(self.exit_code)
    }
}

/// Writes the error, its causes and the hints.
impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = describe(&*self.source);
        // Output of a command may follow the message.
        let separator = if text.contains('\n') { "\nhint: " } else { "; " };
        f.write_str(&text)?;
        self.hints.iter().try_for_each(|hint| write!(f, "{separator}{hint}"))
    }
}

/// An action that failed because of an error of the operating system.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
struct FailedAction {
    text: String,
    source: io::Error,
}

macro_rules! command_error_from {
    ($($error:ty: $kind:expr),* $(,)?) => {
        $(impl From<$error> for CommandError {
            fn from(error: $error) -> Self {
                let kind: fn(&$error) -> ErrorKind = $kind;
                CommandError::new(kind(&error), error)
            }
        })*
    };
}

command_error_from!(
    io::Error: |_| ErrorKind::System,
    fs_model::FsError: |_| ErrorKind::System,
    fs_model::LayerError: |_| ErrorKind::System,
    provisioners::ConfigError: |_| ErrorKind::Config,
    provisioners::PlanError: |_| ErrorKind::Config,
    provisioners::on_imagebuilder::ImportError: |_| ErrorKind::Config,
    MissingRequirement: |_| ErrorKind::Requirement,
    SandboxError: sandbox_kind,
    RootError: root_kind,
    SealError: seal_kind,
    ExtractError: |error| match error {
        ExtractError::Write { .. } => ErrorKind::System,
        _ => ErrorKind::User,
    },
    OpenError: |_| ErrorKind::User,
    LookError: |_| ErrorKind::User,
    RootImportError: |_| ErrorKind::User,
    RecordError: |_| ErrorKind::System,
    MountServerError: |_| ErrorKind::System,
    ModelError: |_| ErrorKind::User,
    CatalogueError: |_| ErrorKind::Config,
    BootError: |_| ErrorKind::System,
    CheckError: |_| ErrorKind::User,
    UnknownLint: |_| ErrorKind::User,
    ScreenError: |error| match error {
        ScreenError::Panic => ErrorKind::Internal,
        _ => ErrorKind::System,
    },
    BuildError: build_kind,
    RollbackError: |error| match error {
        RollbackError::Build(error) => build_kind(error),
        RollbackError::Record(_) => ErrorKind::System,
        _ => ErrorKind::User,
    },
    PromoteError: |error| match error {
        PromoteError::Record(_) => ErrorKind::System,
        _ => ErrorKind::User,
    },
);

fn sandbox_kind(error: &SandboxError) -> ErrorKind {
    match error {
        SandboxError::MissingRequirement(_)
        | SandboxError::NoNewPrivileges
        | SandboxError::RootWithoutCapabilities => ErrorKind::Requirement,
        SandboxError::Invalid(_) | SandboxError::Command { .. } | SandboxError::Bind { .. } => {
            ErrorKind::User
        }
        _ => ErrorKind::System,
    }
}

fn root_kind(error: &RootError) -> ErrorKind {
    match error {
        RootError::Open(_) => ErrorKind::User,
        RootError::Sandbox(error) => sandbox_kind(error),
        _ => ErrorKind::System,
    }
}

fn seal_kind(error: &SealError) -> ErrorKind {
    match error {
        SealError::BadDelta { .. } | SealError::ReaderPanicked => ErrorKind::Internal,
        SealError::Read { .. } | SealError::Write { .. } => ErrorKind::System,
        _ => ErrorKind::User,
    }
}

fn build_kind(error: &BuildError) -> ErrorKind {
    match error {
        BuildError::Interrupted(signal) => ErrorKind::Signal(*signal),
        BuildError::Reported(_) => ErrorKind::Reported,
        error if error.is_step_failure() => ErrorKind::Failed,
        BuildError::Config(_) | BuildError::Plan(_) | BuildError::NoOutput(_) => ErrorKind::Config,
        BuildError::MissingRequirement(_) => ErrorKind::Requirement,
        BuildError::Sandbox(error) => sandbox_kind(error),
        BuildError::Root(error) => root_kind(error),
        BuildError::Seal(error) => seal_kind(error),
        BuildError::Tree(_)
        | BuildError::Layer(_)
        | BuildError::Record(_)
        | BuildError::Io(_)
        | BuildError::File { .. }
        | BuildError::MmdebstrapStart(_)
        | BuildError::Mmdebstrap(_) => ErrorKind::System,
        BuildError::ChildReport { .. } => ErrorKind::Internal,
        _ => ErrorKind::User,
    }
}

#[cfg(test)]
mod tests {
    use fs_model::FsError;

    use super::*;

    #[test]
    fn full_upper_gets_its_hint_from_below_any_error() {
        let full = || FsError::NoSpace { limit: 1 };
        let errors = [
            CommandError::from(full()),
            CommandError::from(RootError::Tree(full())),
            CommandError::from(BuildError::Root(RootError::Tree(full()))),
            CommandError::from(io::Error::other(full())),
            CommandError::from(RootImportError::Entry { path: "etc".into(), source: full() }),
        ];
        for error in errors {
            let text = error.to_string();
            let hint = "; raise the limit with --upper-size";
            assert!(text.contains("the upper layer is full") && text.contains(hint), "{text}");
            assert_eq!(text.matches("the upper layer is full").count(), 1, "{text}");
        }
    }

    #[test]
    fn exit_codes_follow_from_the_kind() {
        assert_eq!(CommandError::user("x").exit_code, 2);
        assert_eq!(CommandError::signal(15).exit_code, 143);
        assert_eq!(CommandError::output_closed().exit_code, 0);
        assert_eq!(CommandError::from(BuildError::Interrupted(2)).exit_code, 130);
    }
}
