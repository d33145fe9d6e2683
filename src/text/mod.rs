//! Text forms of paths, attributes, dates, sizes, digests and errors.

pub(crate) mod attr;
pub mod digest;
pub mod error;
pub mod escape;
pub(crate) mod list;
pub(crate) mod size;
pub(crate) mod time;
