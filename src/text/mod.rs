//! Text forms of paths, dates, sizes and digests.

pub(crate) mod attr;
pub mod error;
pub mod escape;
pub(crate) mod size;
pub mod time;
