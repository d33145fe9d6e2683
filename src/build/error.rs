//! Errors of builds.

use std::io;
use std::path::PathBuf;

use fs_model::{FsError, LayerError};
use provisioners::machine::MachineError;
use provisioners::{ConfigError, PlanError, StepError, StepFailed};

use super::record::RecordError;
use crate::fuse::LostData;
use crate::root::RootError;
use crate::root::import::RootImportError;
use crate::sandbox::{MissingRequirement, SandboxError};
use crate::seal::{Format, SealError};

/// An error of a build.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The root of an image cannot be asked for its packages.
    #[error("cannot ask apt for the packages")]
    Forecast(#[source] StepError),
    /// This process received a signal that requests termination.
    #[error("interrupted by signal {0}")]
    Interrupted(i32),
    /// A step failed.
    #[error(transparent)]
    Step(Box<StepFailed>),
    /// A step failed, and the reporter received the error before a shell was opened.
    #[error(transparent)]
    Reported(Box<StepFailed>),
    /// A file cannot be copied out of the root.
    #[error(transparent)]
    Yield(StepError),
    /// The kernels in the root cannot be examined.
    #[error(transparent)]
    Kernels(MachineError),
    /// A project, image or provisioner file has a mistake.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The steps cannot be planned.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The root cannot be composed or served.
    #[error(transparent)]
    Root(#[from] RootError),
    /// The sandbox reports an error.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The machine lacks something.
    #[error(transparent)]
    MissingRequirement(#[from] MissingRequirement),
    /// An archive cannot be written.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The tree reports an error.
    #[error(transparent)]
    Tree(#[from] FsError),
    /// Files lack data, because the upper was full.
    #[error("{0}: raise its limit with --upper-size, or `upper_size` in the image file")]
    LostData(LostData),
    /// A step failed because a layer cannot be read.
    #[error(transparent)]
    Layer(LayerError),
    /// A root cannot be imported.
    #[error(transparent)]
    Import(#[from] RootImportError),
    /// A build record cannot be read or written.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A system call failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A file cannot be created or written.
    #[error("cannot {action} {}", path.display())]
    File {
        /// The operation.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The image file names no output.
    #[error("{} has no `output`: give one with -o", .0.display())]
    NoOutput(PathBuf),
    /// The format cannot be determined.
    #[error(
        "{}: unknown format: use a name that ends in one of {}, or give --format",
        .0.display(),
        Format::ALL.map(|format| format!(".{format}")).join(", ")
    )]
    UnknownFormat(PathBuf),
    /// An archive and reports would both be written to standard output.
    #[error("--json and the archive cannot both go to standard output: give a file")]
    StdoutInUse,
    /// An output is a layer of the image.
    #[error("{}: cannot overwrite a layer of the image itself: give another file", .0.display())]
    OverwritesLayer(PathBuf),
    /// An output is something that the image is built from.
    #[error("{} would be {input}, which the image is built from: give another file", file.display())]
    OverwritesInput {
        /// The file.
        file: PathBuf,
        /// A description of the input.
        input: String,
    },
    /// `SOURCE_DATE_EPOCH` is not a number.
    #[error(
        "invalid SOURCE_DATE_EPOCH `{0}`: it must be seconds since 1970, as printed by \
         `git log -1 --format=%ct`"
    )]
    SourceDateEpoch(String),
    /// `SOURCE_DATE_EPOCH` is not UTF-8.
    #[error("invalid SOURCE_DATE_EPOCH: it must be seconds since 1970")]
    SourceDateEpochNotUnicode,
    /// A layer is missing.
    #[error("layer {} not found", .0.display())]
    LayerNotFound(PathBuf),
    /// A child process wrote an invalid report.
    #[error("{image}: invalid report of its process")]
    ChildReport {
        /// The image that it built.
        image: String,
        /// The reason.
        source: serde_json::Error,
    },
    /// mmdebstrap cannot be run.
    #[error("cannot run mmdebstrap")]
    MmdebstrapStart(#[source] io::Error),
    /// mmdebstrap failed; this is its status and its last messages.
    #[error("{0}")]
    Mmdebstrap(String),
}

impl BuildError {
    pub(super) fn file(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| BuildError::File { action, path, source }
    }

    /// Returns whether a provisioner failed, as opposed to overcoat.
    pub fn is_step_failure(&self) -> bool {
        matches!(
            self,
            BuildError::Step(_)
                | BuildError::Reported(_)
                | BuildError::Yield(_)
                | BuildError::Kernels(_)
        )
    }
}
