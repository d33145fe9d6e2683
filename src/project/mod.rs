//! Building a project: what is out of date, and nothing else.
//!
//! Invariants:
//! - An image is up to date when everything that goes into it is what it was when it was built
//!   ([`provisioners::image::Inputs`]), and what it made is still there as it was made.
//! - Its layers do not make it out of date: an overlay goes on working on a newer base. That they
//!   changed is told, and at which of its paths, and it is built anew on them when that is asked
//!   for.
//! - What is known of an image that was built stands in a [`record`](Record), written when all of
//!   it is there, so that whatever ends a build, nothing passes for built that is not.
//! - Each image is built by a process of its own, which ends with this one.

mod children;
mod judge;
mod record;

pub use children::{Children, Event, Listener};
pub use judge::{Judged, Reason, judge, older};
pub use record::{LayerRecord, Made, Record, RecordError, Records, Stamp};
