//! The difference between a tree and its layers: in path order, minimal, and complete.
//!
//! Invariants, on which all readers of a delta rely:
//! - Entries are in tree order: names compared bytewise, a directory before its contents, each path
//!   once. A delta that is not empty begins with the root (empty path).
//! - Every parent of an entry is an entry.
//! - An unchanged object is not an entry, except as a parent or as another name of a changed
//!   object. (A file with several names in the layers counts as changed if a separate, equal file
//!   replaces it, even if the other names were replaced too.)
//! - The modification time of a directory is a change only if it was set explicitly, after the last
//!   change of the names in it, to another time than the layers have at its path. A time that
//!   results from a change of names is not a change by itself, but is in an entry that exists for
//!   another reason.
//! - All names of an object are entries, or none.
//! - A removed name of the layers is [`Change::Deleted`]; nothing below it is listed. If a
//!   directory of the layers was replaced by another one, each of its names is deleted.
//! - Scratch entries are not included.

use crate::acl::{self, Acl};
use crate::attr::Attr;
use crate::error::FsError;
use crate::ino::Ino;
use crate::layer::Xattr;

/// How a path changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Change {
    /// The layers have nothing at this path.
    Added,
    /// The layers have something else at this path.
    Modified,
    /// The layers have the same object: it is listed as the parent, or as another name, of a
    /// changed object.
    Unchanged,
    /// The layers have something at this path, and the tree does not.
    Deleted,
}

/// A path of a delta.
#[derive(Clone, Debug)]
pub struct DeltaEntry {
    /// The path from the root, without a leading slash; empty for the root itself.
    pub path: Box<[u8]>,
    /// How the path changed.
    pub change: Change,
    /// The object at this path; `None` if it was deleted.
    pub object: Option<Object>,
}

/// An object of a delta.
#[derive(Clone, Copy, Debug)]
pub struct Object {
    /// The number in the tree; the same for all names.
    pub ino: Ino,
    /// The attributes. `nlink` is the number of names in the delta, except for directories.
    pub attr: Attr,
}

/// Extended attributes that were set, but on an object that is not an entry of the delta.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HiddenXattrs {
    /// A path of the object.
    pub path: Box<[u8]>,
    /// The names of the attributes, sorted.
    pub names: Vec<Box<[u8]>>,
}

/// The difference between a tree and its layers. See the [module](self) for its invariants.
#[derive(Clone, Debug, Default)]
pub struct Delta {
    /// The entries, in tree order.
    pub entries: Vec<DeltaEntry>,
    /// Attributes that were set but that the tree does not show, on otherwise unchanged objects. An
    /// archive of the delta does not contain them.
    pub hidden: Vec<HiddenXattrs>,
}

impl Delta {
    /// Adds the root, with the attributes `root`, to an empty delta. Without it, an unpacker would
    /// create the root with its own attributes (a tmpfs root has mode 1777), which would then hide
    /// those of the layers.
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

/// Source of the content of a delta's objects: usually the tree itself.
pub trait Contents: Sync {
    /// Reads from `offset` into `buf`. Returns less than `buf.len()` only at the end of the file.
    ///
    /// # Errors
    /// Fails if the object is not a regular file, or a layer cannot be read.
    fn read(&self, ino: Ino, offset: u64, buf: &mut [u8]) -> Result<usize, FsError>;
    /// Returns the next data at or after `offset`; `None` if only a hole follows. The range may
    /// extend beyond the end of the file and may contain zeros.
    ///
    /// # Errors
    /// Fails if the object is not a regular file, or a layer cannot be read.
    fn next_data(&self, _ino: Ino, offset: u64) -> Result<Option<std::ops::Range<u64>>, FsError> {
        Ok(Some(offset..u64::MAX))
    }
    /// Returns the target of a symbolic link.
    ///
    /// # Errors
    /// Fails if the object is not a symbolic link, or a layer cannot be read.
    fn read_link(&self, ino: Ino) -> Result<Vec<u8>, FsError>;
    /// Returns all extended attributes, sorted by name, including those that the tree does not
    /// show.
    ///
    /// # Errors
    /// Fails if a layer cannot be read.
    fn xattrs(&self, ino: Ino) -> Result<Vec<Xattr>, FsError>;
    /// Returns the ACL, if there is one.
    ///
    /// # Errors
    /// Fails if a layer cannot be read.
    fn access_list(&self, ino: Ino) -> Result<Option<Acl>, FsError> {
        let xattrs = self.xattrs(ino)?;
        let list = xattrs.iter().find(|(name, _)| **name == *acl::ACCESS);
        Ok(list.and_then(|(_, value)| Acl::parse(value)))
    }
}
