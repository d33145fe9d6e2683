//! Text forms of paths, dates, sizes and digests.

pub mod digest;
pub mod escape;
pub mod size;
pub mod time;
