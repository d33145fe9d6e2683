//! The difference of a tree to its layers: in path order, minimal, and complete.
//!
//! Every viewer and every writer reads the same delta:
//! - Its entries are in tree order: names compared bytewise, a directory before what is in it,
//!   each path once. The root is the first entry (path empty) of a delta that is not empty.
//! - Every parent of an entry is an entry.
//! - What ended as it began is not in it, except as a parent or as a link of a changed object.
//!   (A file that has several names in the layers did not end as it began when an equal one is in
//!   its place: whether the other names are still the same file is not asked.)
//! - The time of a directory is a change where it was set explicitly, after the last change of the
//!   names in it, to another one than the layers have at its path. The time that a directory gets
//!   because names in it come and go is not: an entry that is there for another reason has it.
//! - All names of an object stand in it, or none.
//! - A name of the layers that is gone is [`Change::Deleted`]; nothing below it is listed. A
//!   directory of the layers that was replaced by another one has each of its own names deleted.
//! - Scratch entries are not in it.

use crate::acl::{self, Acl};
use crate::attr::Attr;
use crate::error::FsError;
use crate::layer::Xattr;
use crate::tree::Ino;

/// How an entry of a delta came to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Change {
    /// The layers have nothing at this path.
    Added,
    /// The layers have something else at this path.
    Modified,
    /// The layers have the same object: it is listed as the parent, or as another name, of one
    /// that changed.
    Unchanged,
    /// The layers have something at this path, the tree has not.
    Deleted,
}

/// One path of a delta.
#[derive(Clone, Debug)]
pub struct DeltaEntry {
    /// The path from the root, without a leading slash; empty for the root itself.
    pub path: Box<[u8]>,
    /// How it came to be there.
    pub change: Change,
    /// The object at this path; `None` when it is deleted.
    pub object: Option<Object>,
}

/// An object of a delta.
#[derive(Clone, Copy, Debug)]
pub struct Object {
    /// Its number in the tree; the same for all its names.
    pub ino: Ino,
    /// Its attributes. `nlink` of anything but a directory is the number of its names in the delta.
    pub attr: Attr,
}

/// Extended attributes that were set on an object which is not an entry of the delta.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HiddenXattrs {
    /// A path of the object.
    pub path: Box<[u8]>,
    /// The names of the attributes, sorted.
    pub names: Vec<Box<[u8]>>,
}

/// The difference of a tree to its layers. See the [module](self) for its invariants.
#[derive(Clone, Debug, Default)]
pub struct Delta {
    /// The entries, in tree order.
    pub entries: Vec<DeltaEntry>,
    /// Attributes that were set although the tree does not show them, on objects without another
    /// change. An archive of the delta does not hold them.
    pub hidden: Vec<HiddenXattrs>,
}

impl Delta {
    /// With the root, whose attributes are `root`, even where nothing changed: an archive that says
    /// nothing of the root is unpacked into one of the unpacker's making (a tmpfs's has mode 1777),
    /// which would then hide that of the layers.
    #[must_use]
    pub fn with_root(mut self, root: Attr) -> Delta {
        if self.entries.is_empty() {
            let object = Some(Object { ino: Ino::ROOT, attr: root });
            let path = Box::default();
            self.entries.push(DeltaEntry { path, change: Change::Unchanged, object });
        }
        self
    }
}

/// Where the content of a delta's objects is read from: the tree it was taken of.
pub trait Contents: Sync {
    /// Fills `buf` from `offset` on; less than `buf.len()` comes back only at the end of the file.
    fn read(&self, ino: Ino, offset: u64, buf: &mut [u8]) -> Result<usize, FsError>;
    /// Where the next data at or after `offset` lies; `None` when only a hole follows. The range
    /// may reach past the end of the file, and may hold zeros.
    fn next_data(&self, _ino: Ino, offset: u64) -> Result<Option<std::ops::Range<u64>>, FsError> {
        Ok(Some(offset..u64::MAX))
    }
    /// The target of a symbolic link.
    fn read_link(&self, ino: Ino) -> Result<Vec<u8>, FsError>;
    /// All extended attributes, sorted by name, also those that the tree does not show.
    fn xattrs(&self, ino: Ino) -> Result<Vec<Xattr>, FsError>;
    /// The access list, if there is one.
    fn access_list(&self, ino: Ino) -> Result<Option<Acl>, FsError> {
        let xattrs = self.xattrs(ino)?;
        let list = xattrs.iter().find(|(name, _)| **name == *acl::ACCESS);
        Ok(list.and_then(|(_, value)| Acl::parse(value)))
    }
}
