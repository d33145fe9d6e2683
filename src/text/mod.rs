//! Text forms of paths, dates, sizes and digests.

pub mod digest;
pub mod escape;
pub(crate) mod size;
pub(crate) mod time;
