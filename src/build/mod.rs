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
//! - A result that a build replaces is kept, and can be put back by [`rollback()`].
//! - Each image is built by its own process, which ends with this one.

mod children;
mod clean;
mod decision;
mod error;
mod input_texts;
mod job;
mod kept;
mod leftovers;
mod mmdebstrap;
mod options;
mod outputs;
mod owner;
mod promote;
mod record;
mod replace;
mod reporter;
mod rollback;
mod scheduler;
mod staleness;
mod stamp;
mod status;

pub use children::{ChildEvent, ChildOutput, Children, Listener, STEP_KEY};
pub use clean::{CleanOutcome, Removal, RemovalReason, clean};
pub use decision::DecisionOptions;
pub use error::BuildError;
pub use input_texts::InputTexts;
pub use job::{build, forecast};
pub use kept::{KeptResult, PreparedResult};
pub use options::{
    BuildOptions, RootSettings, SealSettings, is_same_file, reject_layers, source_date_epoch,
};
pub use outputs::Outputs;
pub use promote::{PromoteError, Promotion, promote};
pub use record::{LayerRecord, OutputRecord, Record, RecordError, Records, RolledBack};
pub(crate) use reporter::step_title;
pub use reporter::{ImageEvent, Reporter};
pub use rollback::{Rollback, RollbackError, project_results, rollback};
pub use scheduler::{ImageState, OutdatedLayers, ScheduleOptions, ScheduleOutcome, build_project};
pub use staleness::{BuildDecision, BuildReason, changed_lower_paths, decide};
pub use stamp::FileStamp;
pub use status::{
    BaseStatus, ImageStatus, KeptStatus, LeftoverStatus, ProjectStatus, ResultState, project_status,
};
