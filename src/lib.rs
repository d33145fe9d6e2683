//! overcoat: composes a root from layers, provisions it without root privileges and seals the
//! changes.
#![deny(unsafe_op_in_unsafe_fn)]

pub mod build;
pub mod check;
pub mod cli;
mod doctor;
pub mod fuse;
pub mod image;
pub mod manifest;
mod mount;
mod report;
pub mod root;
pub mod sandbox;
pub mod seal;
mod serve;
pub mod text;
mod tui;
mod validate;
mod vm;
