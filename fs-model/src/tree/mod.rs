//! The union of layers and one writable upper.

/// An inode number of a tree: an object's own for life, across copy-up, rename and hard links.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ino(pub u64);

/// The union.
#[derive(Debug)]
pub struct Tree {}
