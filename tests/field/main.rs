//! Builds with many packages of a distribution, which behave as no test of our own would think of.
//!
//! `tests/field/set-up.sh` prepares what these tests need. They take many minutes: `make field`.

mod builders;
#[path = "../support/mod.rs"]
mod support;
