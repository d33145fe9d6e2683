//! The errors of steps.

use std::io;
use std::path::PathBuf;

use crate::machine::{Exit, MachineError};
use crate::templates::TemplateError;

/// A step failed.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// A command failed.
    #[error("{command}: {exit}")]
    Command {
        /// The command in messages: `apt-get install`, `the script`.
        command: String,
        /// Its exit status.
        exit: Exit,
    },
    /// The root could not be read or changed.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// A template cannot be rendered.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// A file of the provisioner cannot be read.
    #[error("cannot read {path}", path = path.display())]
    Read {
        /// The file on the host.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The provisioner's files or the root do not meet a requirement of the step.
    #[error("{0}")]
    Impossible(String),
}
