//! A layer: a read-only source of inodes.
//!
//! Invariants every layer keeps:
//! - It never changes while it is open: the same question has the same answer.
//! - It is lazy: opening one costs about a millisecond, whatever its size (a compressed archive,
//!   which must be read once to be indexed, is the exception).
//! - A [`LayerIno`] names one object: all hard links of a file have the same one. It is below
//!   2^48. [`Layer::root`] is a directory.
//! - Names are bytes, never empty, `.`, `..`, nor with `/` or NUL in them, at most 255 bytes, and
//!   each stands once in its directory.
//! - Damage is an error that names the image: never a panic, a short read or an unbounded
//!   allocation.

use std::ops::Range;

use crate::attr::{Attr, FileType};
use crate::error::LayerError;

pub mod cpio;
pub mod directory;
mod overlayfs;
pub mod squashfs;

/// The number of an object within its layer: meaningful to that layer alone, below 2^48.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LayerIno(pub u64);

/// What a name of a layer's directory stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerEntry {
    /// An object.
    Object {
        /// Its number.
        ino: LayerIno,
        /// Its type, so that a listing needs no inodes.
        kind: FileType,
    },
    /// The name is hidden in all layers below (a character device 0:0, or a `.wh.` name).
    Whiteout,
}

/// A name and what it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerDirEntry {
    /// The name.
    pub name: Box<[u8]>,
    /// The object, or the whiteout.
    pub entry: LayerEntry,
}

/// An extended attribute's full name (`user.x`, `security.capability`) and value.
pub type Xattr = (Box<[u8]>, Box<[u8]>);

/// What will probably be read next: [`Layer::ahead`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ahead {
    /// These bytes of a file.
    File(LayerIno, Range<u64>),
    /// Something that several files share, by a number that the layer knows it by.
    Shared(u64),
}

/// A read-only source of inodes. See the [module](self) for what each keeps.
pub trait Layer: Send + Sync + std::fmt::Debug {
    /// The image, archive or directory, as the user named it.
    fn name(&self) -> &str;

    /// The root directory.
    fn root(&self) -> LayerIno;

    /// Whether the layer says what its root directory is like. One that does not (an archive
    /// without an entry for it) leaves the root of the layers below as it is.
    fn describes_root(&self) -> bool {
        true
    }

    /// Whether a directory has but one place, so that one which is met twice is damage. Folders of
    /// the host can be mounted twice.
    fn has_single_places(&self) -> bool {
        true
    }

    /// The attributes of an object. A directory's `nlink` is below 2 where the layer has not
    /// counted its subdirectories: then the tree does. Of anything else it is the number of names
    /// in this layer, also when other layers hide some of them.
    fn attr(&self, ino: LayerIno) -> Result<Attr, LayerError>;

    /// The entry `name` of the directory `dir`.
    fn lookup(&self, dir: LayerIno, name: &[u8]) -> Result<Option<LayerEntry>, LayerError>;

    /// All entries of the directory `dir`, sorted by name (bytewise, unsigned).
    fn read_dir(&self, dir: LayerIno) -> Result<Vec<LayerDirEntry>, LayerError>;

    /// Fills `buf` from `offset` on; what comes back is less than `buf.len()` only at the end of
    /// the file.
    fn read_at(&self, ino: LayerIno, offset: u64, buf: &mut [u8]) -> Result<usize, LayerError>;

    /// Where the next data at or after `offset` lies, as `start..end`; `None` when only a hole
    /// follows. A layer that knows no holes has data to the end.
    fn next_data(&self, ino: LayerIno, offset: u64) -> Result<Option<Range<u64>>, LayerError> {
        let size = self.attr(ino)?.size;
        Ok((offset < size).then_some(offset..size))
    }

    /// Whether `read_at` of this range would be answered without decoding anything: a hint, by
    /// which a caller chooses between answering at once and using another thread.
    fn is_cached(&self, _ino: LayerIno, _offset: u64, _len: usize) -> bool {
        false
    }

    /// What would be worth decoding before it is asked for, now that these bytes of this file are
    /// being read. To be asked at each read; costs next to nothing.
    fn ahead(&self, _ino: LayerIno, _offset: u64, _len: usize) -> Option<Ahead> {
        None
    }

    /// Decodes what [`Layer::ahead`] spoke of, into the layer's cache. For a thread that has
    /// nothing better to do. Damage is reported when it is read.
    fn decode_ahead(&self, _ahead: Ahead) {}

    /// The target of a symbolic link.
    fn read_link(&self, ino: LayerIno) -> Result<Vec<u8>, LayerError>;

    /// All extended attributes, sorted by name, overlayfs's own left out.
    fn xattrs(&self, ino: LayerIno) -> Result<Vec<Xattr>, LayerError>;

    /// Whether an object may have an [access list](crate::acl). A format that cannot hold any saves
    /// its callers from looking for one.
    fn may_have_acls(&self) -> bool {
        true
    }

    /// Whether the directory hides what the layers below have at its place.
    fn is_opaque(&self, _dir: LayerIno) -> Result<bool, LayerError> {
        Ok(false)
    }
}
