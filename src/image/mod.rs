//! Reads images without a mount: opens them, views a stack as one tree, compares and extracts.

pub mod diff;
pub(crate) mod drivers;
pub mod extract;
pub mod open;
pub mod view;
