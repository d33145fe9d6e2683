//! The program as its users run it: as root and without rights, on real images, to the end.
//!
//! `tests/set-up.sh` prepares what these tests need.

mod discovery;
mod fidelity;
mod inside;
mod listing;
#[path = "../support/mod.rs"]
mod support;
mod torture;
