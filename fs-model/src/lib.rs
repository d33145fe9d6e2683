//! A union file system as a plain data structure.
//!
//! Read-only [layers](layer) and one writable in-memory upper are merged into a [`Tree`] with the
//! semantics of a Linux file system: copy-on-write, hard links, renames, extended attributes and
//! ACLs. The difference between a tree and its layers is a [`Delta`](delta::Delta), from which an
//! overlay can be written.
//!
//! - [`layer`] has readers of squashfs images, cpio archives and host directories.
//! - [`stack`] merges layers without an upper, for tools that only read.
//! - [`tree`] has the union, with the operations that a FUSE server needs.
//! - [`delta`] describes the differences, in path order.
//! - [`tar`] reads archives, for example to fill an upper.
//!
//! Nothing in this crate mounts, forks, starts a thread or uses `unsafe`, so the file system can be
//! tested without a kernel. All types can be shared between threads.
//!
//! # Example
//!
//! A tree over a directory of the host, changed in memory:
//!
//! ```
//! use std::sync::Arc;
//!
//! use fs_model::delta::Change;
//! use fs_model::layer::directory::DirectoryLayer;
//! use fs_model::tree::{MknodArgs, TreeOptions, XattrSupport};
//! use fs_model::{Ino, Tree};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let base = tempfile::tempdir()?;
//! std::fs::write(base.path().join("motd"), "hello\n")?;
//!
//! let layer = Arc::new(DirectoryLayer::open(base.path())?);
//! let options = TreeOptions { upper_limit: Some(1 << 20), xattrs: XattrSupport::All };
//! let tree = Tree::new(vec![layer], options)?;
//!
//! let motd = tree.lookup(Ino::ROOT, b"motd")?;
//! tree.append(motd.ino, b"welcome\n")?;
//! tree.mknod(Ino::ROOT, b"srv", &MknodArgs::directory(0o755, 0, 0))?;
//!
//! let delta = tree.delta()?;
//! let changes: Vec<_> = delta.entries.iter().map(|e| (&*e.path, e.change)).collect();
//! assert_eq!(
//!     changes,
//!     [(&b""[..], Change::Unchanged), (b"motd", Change::Modified), (b"srv", Change::Added)]
//! );
//! // The layer is never changed.
//! assert_eq!(std::fs::read(base.path().join("motd"))?, b"hello\n");
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

pub mod acl;
pub mod attr;
pub mod delta;
pub mod error;
mod ino;
pub mod layer;
pub mod resolve;
pub mod stack;
pub mod tar;
pub mod tree;

pub use attr::{Attr, Device, FileType, Time};
pub use error::{FsError, LayerError};
pub use ino::Ino;
pub use stack::Stack;
pub use tree::Tree;

/// Compiles and runs the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExample;
