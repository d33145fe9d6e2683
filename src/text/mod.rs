//! Text forms of paths, dates, sizes and digests.

pub(crate) mod error;
pub mod escape;
pub mod time;
