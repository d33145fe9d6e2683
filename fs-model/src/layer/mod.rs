//! Layers: read-only sources of inodes.
//!
//! Invariants of every layer:
//! - It never changes while it is open: repeated calls return the same result.
//! - It is lazy: opening one takes about a millisecond regardless of its size. The exception is a
//!   compressed archive, which is read completely to index it.
//! - A [`LayerIno`] identifies one object: all hard links of a file have the same number. It is
//!   below 2^48. [`Layer::root`] is a directory.
//! - Names are bytes: at most 255, not empty, not `.` or `..`, without `/` and NUL, and unique in
//!   their directory.
//! - Damage causes an error that names the image: never a panic, a short read or an unbounded
//!   allocation.

use std::ops::Range;

use crate::attr::{Attr, FileType};
use crate::error::LayerError;

mod archive_names;
mod compressed;
pub mod cpio;
pub mod directory;
mod memory;
mod overlayfs;
pub mod squashfs;
pub mod tar;

pub use memory::Limits;

/// Size of a piece of decoded content in bytes.
const PIECE_SIZE: usize = 128 * 1024;

/// The number of an object within its layer, below 2^48.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LayerIno(pub u64);

/// The object or whiteout at a name in a layer's directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerEntry {
    /// An object.
    Object {
        /// The object's number in the layer.
        ino: LayerIno,
        /// The object's type, so that a listing needs no inodes.
        kind: FileType,
    },
    /// The name is hidden in all layers below (a character device 0:0, or a `.wh.` name).
    Whiteout,
}

/// A directory entry of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerDirEntry {
    /// The name.
    pub name: Box<[u8]>,
    /// The object, or the whiteout.
    pub entry: LayerEntry,
}

/// Full name (`user.x`, `security.capability`) and value of an extended attribute.
pub type Xattr = (Box<[u8]>, Box<[u8]>);

/// Data that will probably be read next, from [`Layer::readahead`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readahead {
    /// A range of bytes of a file.
    File(LayerIno, Range<u64>),
    /// Data that several files share, identified by a number with a meaning to the layer only.
    Shared(u64),
}

/// A read-only source of inodes. See the [module](self) for the invariants.
pub trait Layer: Send + Sync + std::fmt::Debug {
    /// Returns the image, archive or directory, as named by the caller.
    fn name(&self) -> &str;

    /// Returns the number of the root directory.
    fn root(&self) -> LayerIno;

    /// Returns whether the layer has attributes for its root directory. Otherwise (an archive
    /// without an entry for it), the root of the layers below is used.
    fn describes_root(&self) -> bool {
        true
    }

    /// Returns whether each directory has exactly one path; if so, reaching it twice means that the
    /// image is corrupt. Directories of the host can be mounted twice.
    fn dirs_are_unique(&self) -> bool {
        true
    }

    /// Returns the highest id of an owner in the layer, or a higher one; 0 if that is unknown
    /// before the whole layer is read.
    ///
    /// # Errors
    /// Fails if the image cannot be read.
    fn highest_owner(&self) -> Result<u32, LayerError> {
        Ok(0)
    }

    /// Returns the attributes of an object.
    ///
    /// A directory's `nlink` is below 2 if the layer does not count subdirectories, and the tree
    /// counts them. For other objects, `nlink` is the number of names in this layer, including
    /// those hidden by other layers.
    ///
    /// # Errors
    /// Fails if the image cannot be read.
    fn attr(&self, ino: LayerIno) -> Result<Attr, LayerError>;

    /// Looks up `name` in the directory `dir`.
    ///
    /// # Errors
    /// Fails if the image cannot be read, or the object is not a directory.
    fn lookup(&self, dir: LayerIno, name: &[u8]) -> Result<Option<LayerEntry>, LayerError>;

    /// Returns all entries of the directory `dir`, sorted by name (bytewise, unsigned).
    ///
    /// # Errors
    /// Fails if the image cannot be read, or the object is not a directory.
    fn read_dir(&self, dir: LayerIno) -> Result<Vec<LayerDirEntry>, LayerError>;

    /// Reads from `offset` into `buf`. Returns less than `buf.len()` only at the end of the file.
    ///
    /// # Errors
    /// Fails if the image cannot be read.
    fn read_at(&self, ino: LayerIno, offset: u64, buf: &mut [u8]) -> Result<usize, LayerError>;

    /// Returns the next data at or after `offset`, as `start..end`; `None` if only a hole follows.
    /// The default implementation reports no holes.
    ///
    /// # Errors
    /// Fails if the image cannot be read.
    fn next_data(&self, ino: LayerIno, offset: u64) -> Result<Option<Range<u64>>, LayerError> {
        let size = self.attr(ino)?.size;
        Ok((offset < size).then_some(offset..size))
    }

    /// Returns whether `read_at` would read this range without decoding. A hint, used to choose
    /// between an immediate answer and another thread.
    fn is_cached(&self, _ino: LayerIno, _offset: u64, _len: usize) -> bool {
        false
    }

    /// Returns the data to decode in advance, if any, when this range of a file is read. Called for
    /// each read, so it must be cheap.
    fn readahead(&self, _ino: LayerIno, _offset: u64, _len: usize) -> Option<Readahead> {
        None
    }

    /// Decodes the result of [`Layer::readahead`] into the layer's cache. Meant for an idle thread.
    /// Damage is reported when the data is read.
    fn prefetch(&self, _range: Readahead) {}

    /// Returns the target of a symbolic link.
    ///
    /// # Errors
    /// Fails if the image cannot be read.
    fn read_link(&self, ino: LayerIno) -> Result<Vec<u8>, LayerError>;

    /// Returns all extended attributes except those of overlayfs, sorted by name.
    ///
    /// # Errors
    /// Fails if the image cannot be read.
    fn xattrs(&self, ino: LayerIno) -> Result<Vec<Xattr>, LayerError>;

    /// Returns whether objects may have an [ACL](crate::acl). `false` for formats without ACLs
    /// saves the search for one.
    fn may_have_acls(&self) -> bool {
        true
    }

    /// Returns whether the directory hides the directories of lower layers at its path.
    ///
    /// # Errors
    /// Fails if the image cannot be read.
    fn is_opaque(&self, _dir: LayerIno) -> Result<bool, LayerError> {
        Ok(false)
    }
}
