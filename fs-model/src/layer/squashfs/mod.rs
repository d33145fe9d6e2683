//! A lazy squashfs reader.
//!
//! Reads squashfs 4.0 as the kernel does (`Documentation/filesystems/squashfs.rst`,
//! `fs/squashfs/`), from an image that the caller has mapped or holds in memory. Opening costs the
//! superblock and the root's inode; everything else is read when it is asked for, and kept in
//! caches that are bounded in bytes.
//!
//! Invariants:
//! - Every count, offset and size of the image is held against the image's length before anything
//!   is allocated or walked for it.
//! - Nothing in an image makes this code panic, loop, or answer with less than there should be:
//!   damage is a [`LayerError`] that names the image and the structure.
//! - A [`LayerIno`] is an inode reference, 48 bits. One that no directory gave out is answered by
//!   an error or by some object, without harm.
//! - A directory's entry states a type, and the inode states it again: in a sound image they are
//!   the same, in a damaged one `attr` is right.

use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;

use self::ahead::Scan;
use self::cache::{Block, BlockCache, ByteLru};
use self::data::{BlockKey, FileLayout};
use self::directory::DirectoryIndex;
use self::image::{Image, most_metadata};
use self::inode::Body;
use self::metadata::Metadata;
use self::tables::Tables;
use super::{Ahead, Layer, LayerDirEntry, LayerEntry, LayerIno, Xattr};
use crate::attr::{Attr, FileType};
use crate::error::LayerError;

mod ahead;
mod cache;
mod compression;
mod data;
mod directory;
mod image;
mod inode;
mod metadata;
mod superblock;
mod tables;
mod xattr;

pub use self::compression::Compressor;
pub use self::image::ImageBytes;
pub use self::superblock::Superblock;

/// The most bytes that a metadata block decodes to (`SQUASHFS_METADATA_SIZE`).
const METADATA_SIZE: usize = 8192;

/// How much memory a layer may keep for what it has decoded, in bytes. What is being decoded or
/// handed out comes on top.
#[derive(Clone, Copy, Debug)]
pub struct CacheOptions {
    /// Inodes, directories and tables. A Debian base has about 1 MB of them.
    pub metadata_bytes: usize,
    /// Blocks of file content, and fragment blocks.
    pub data_bytes: usize,
    /// Where the blocks of recently read files are; as much again for where the names of recently
    /// used directories are.
    pub layout_bytes: usize,
}

impl Default for CacheOptions {
    fn default() -> Self {
        CacheOptions { metadata_bytes: 16 << 20, data_bytes: 32 << 20, layout_bytes: 1 << 20 }
    }
}

/// What a layer's caches have done and hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Data and fragment blocks decoded since the layer was opened.
    pub data_decodes: u64,
    /// Metadata blocks decoded since the layer was opened.
    pub metadata_decodes: u64,
    /// Bytes of data in the cache.
    pub data_bytes: usize,
    /// Bytes of metadata in the cache.
    pub metadata_bytes: usize,
}

/// A squashfs image as a layer.
pub struct SquashfsLayer {
    superblock: Superblock,
    metadata: Metadata,
    tables: Tables,
    blocks: BlockCache<BlockKey, Block>,
    layouts: Mutex<ByteLru<LayerIno, Arc<FileLayout>>>,
    /// The indexes of recently used directories.
    indexes: Mutex<ByteLru<LayerIno, Arc<DirectoryIndex>>>,
    scan: Mutex<Scan>,
    /// What the directory table can hold at the most.
    most_directory_bytes: u64,
}

impl std::fmt::Debug for SquashfsLayer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SquashfsLayer")
            .field("name", self.image().name())
            .field("superblock", &self.superblock)
            .finish_non_exhaustive()
    }
}

impl SquashfsLayer {
    /// Opens the image that `bytes` holds and that errors call `name`.
    ///
    /// # Errors
    /// When `bytes` is not squashfs, is cut off, or uses a version or compressor that is not read.
    pub fn open(
        name: &str,
        bytes: Arc<ImageBytes>,
        options: CacheOptions,
    ) -> Result<Self, LayerError> {
        let mut image = Image::new(name, bytes);
        let superblock = Superblock::read(&mut image)?;
        let layer = SquashfsLayer {
            metadata: Metadata::new(image, superblock.compressor, options.metadata_bytes),
            tables: Tables::new(),
            blocks: BlockCache::new(options.data_bytes),
            layouts: Mutex::new(ByteLru::new(options.layout_bytes)),
            indexes: Mutex::new(ByteLru::new(options.layout_bytes)),
            scan: Mutex::new(Scan::default()),
            most_directory_bytes: most_metadata(&superblock.directory_table),
            superblock,
        };
        if layer.inode(layer.root())?.kind != FileType::Directory {
            return Err(layer.bad_inode(layer.root(), "the root is not a directory"));
        }
        Ok(layer)
    }

    /// What the image says about itself.
    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// What the caches have done and hold.
    pub fn cache_stats(&self) -> CacheStats {
        CacheStats {
            data_decodes: self.blocks.decodes(),
            metadata_decodes: self.metadata.decodes(),
            data_bytes: self.blocks.bytes(),
            metadata_bytes: self.metadata.cached_bytes(),
        }
    }

    fn image(&self) -> &Image {
        &self.metadata.image
    }
}

impl Layer for SquashfsLayer {
    fn name(&self) -> &str {
        self.image().name()
    }

    fn root(&self) -> LayerIno {
        LayerIno(self.superblock.root)
    }

    fn attr(&self, ino: LayerIno) -> Result<Attr, LayerError> {
        self.inode_attr(&self.inode(ino)?)
    }

    fn lookup(&self, dir: LayerIno, name: &[u8]) -> Result<Option<LayerEntry>, LayerError> {
        self.find_entry(dir, name)
    }

    fn read_dir(&self, dir: LayerIno) -> Result<Vec<LayerDirEntry>, LayerError> {
        self.list(dir)
    }

    fn read_at(&self, ino: LayerIno, offset: u64, buf: &mut [u8]) -> Result<usize, LayerError> {
        self.read_file(ino, offset, buf)
    }

    fn next_data(&self, ino: LayerIno, offset: u64) -> Result<Option<Range<u64>>, LayerError> {
        self.find_data(ino, offset)
    }

    fn is_cached(&self, ino: LayerIno, offset: u64, len: usize) -> bool {
        self.has_decoded(ino, offset, len)
    }

    fn ahead(&self, ino: LayerIno, offset: u64, len: usize) -> Option<Ahead> {
        self.next_wanted(ino, offset, len)
    }

    fn decode_ahead(&self, ahead: Ahead) {
        // Whoever reads it gets the error, if there is one.
        let _ = self.decode_wanted(ahead);
    }

    fn read_link(&self, ino: LayerIno) -> Result<Vec<u8>, LayerError> {
        self.symlink_target(ino)
    }

    fn may_have_acls(&self) -> bool {
        // The format has no number for the prefix `system.`.
        false
    }

    fn xattrs(&self, ino: LayerIno) -> Result<Vec<Xattr>, LayerError> {
        self.visible_xattrs(ino)
    }

    fn is_opaque(&self, dir: LayerIno) -> Result<bool, LayerError> {
        match self.inode(dir)? {
            inode if !matches!(inode.body, Body::Directory(_)) => Ok(false),
            inode if inode.xattr.is_none() => Ok(false),
            _ => self.has_opaque_mark(dir),
        }
    }
}
