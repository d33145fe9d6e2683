//! Inode numbers of a tree.

/// An inode number of a tree.
///
/// An object keeps its number for life: across copy-up, rename and hard links.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ino(pub u64);

impl Ino {
    /// The root directory.
    pub const ROOT: Ino = Ino(1);
}
