//! Decides which images of a project are out of date, and runs the processes that build them.
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
mod judge;
mod record;

pub use children::{ChildEvent, Children, Listener};
pub use judge::{BuildDecision, BuildReason, changed_lower_paths, decide};
pub use record::{LayerRecord, OutputRecord, Record, RecordError, Records, Stamp};
