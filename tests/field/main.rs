//! Builds with many packages of a distribution.
//!
//! `tests/field/set-up.sh` prepares what these tests need. They take many minutes: `make field`.

mod builders;
#[path = "../support/mod.rs"]
mod support;
