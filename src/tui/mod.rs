//! The terminal screens of `inspect`.

mod app;
mod details;
pub(crate) mod draw;
pub(crate) mod gather;
pub(crate) mod screen;
#[cfg(test)]
mod tests;
mod tree;
mod wrap;
