//! Text forms of paths, dates, sizes and digests.

pub mod escape;
pub mod time;
