//! The union file system of overcoat as a plain data structure.
//!
//! Read-only [layers](layer) and one writable upper are stacked into a [`Tree`];
//! what the tree has that its layers have not is its [`Delta`](delta::Delta). [`tar`] reads
//! archives that fill an upper. Nothing in here mounts, forks, starts a thread or uses `unsafe`: the
//! file system is tested without a kernel.
#![forbid(unsafe_code)]

pub mod acl;
pub mod attr;
pub mod delta;
pub mod error;
pub mod layer;
pub mod stack;
pub mod tar;
pub mod tree;

pub use attr::{Attr, Device, FileType, Time};
pub use error::{FsError, LayerError};
pub use stack::Stack;
pub use tree::{Ino, Tree};
