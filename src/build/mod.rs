//! Builds images: the steps of one image in a root, and the outdated images of a project, each in a
//! process of its own. Progress and warnings go to a [`Reporter`].
//!
//! Invariants:
//! - An image is up to date when its inputs are those of its last build
//!   ([`provisioners::image::Inputs`]) and its outputs are unchanged.
//! - Changed layers do not make it out of date: an overlay works on a newer base as well. The
//!   change is reported with the affected paths, and the image is rebuilt on the new layers on
//!   request.
//! - The [`Record`] of a build is written after all outputs are complete, so that an interrupted
//!   build is never taken for a finished one.
//! - Each image is built by its own process, which ends with this one.

mod children;
mod error;
mod input_texts;
mod job;
mod mmdebstrap;
mod options;
mod outputs;
mod record;
mod reporter;
mod scheduler;
mod staleness;

pub use children::{ChildEvent, ChildOutput, Children, Listener, STEP_KEY};
pub use error::BuildError;
pub use input_texts::InputTexts;
pub use job::build;
pub use options::{
    BuildOptions, RootSettings, SealSettings, is_same_file, reject_layers, source_date_epoch,
};
pub use outputs::Outputs;
pub use record::{FileStamp, LayerRecord, OutputRecord, Record, RecordError, Records};
pub(crate) use reporter::step_title;
pub use reporter::{ImageEvent, Reporter};
pub use scheduler::{ImageState, OutdatedLayers, ScheduleOptions, ScheduleOutcome, build_project};
pub use staleness::{BuildDecision, BuildReason, changed_lower_paths, decide};
