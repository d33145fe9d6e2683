//! A lazy squashfs reader.
//!
//! Reads squashfs 4.0 like the kernel (`Documentation/filesystems/squashfs.rst`, `fs/squashfs/`),
//! from an image that the caller has mapped or holds in memory. Opening reads the superblock and
//! the root's inode. Everything else is read on demand and kept in caches with limits in bytes.
//!
//! Invariants:
//! - Every count, offset and size in the image is checked against the image's length before
//!   anything is allocated or iterated because of it.
//! - No image makes this code panic, loop or return incomplete data: damage is a [`LayerError`]
//!   that names the image and the structure.
//! - A [`LayerIno`] is an inode reference of 48 bits. For a number that no directory contains, the
//!   result is an error or some object, without harm.
//! - A directory entry and the inode both store the type. They are equal in a valid image; in a
//!   damaged one, `attr` returns the inode's type.

use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;

use self::cache::{BlockCache, ByteLru, DecodedBlock};
use self::data::{BlockKey, FileLayout};
use self::directory::DirectoryIndex;
use self::image::{SquashfsImage, max_metadata};
use self::inode::SquashfsBody;
use self::metadata::Metadata;
use self::readahead::ReadScan;
use self::tables::Tables;
use super::{Layer, LayerDirEntry, LayerEntry, LayerIno, Readahead, Xattr};
use crate::attr::{Attr, FileType};
use crate::error::LayerError;

mod cache;
mod compression;
mod data;
mod directory;
mod image;
mod inode;
mod metadata;
mod readahead;
mod superblock;
mod tables;
mod xattr;

pub use self::compression::Compressor;
pub use self::image::ImageBytes;
pub use self::superblock::Superblock;

/// Maximum size of a decoded metadata block in bytes (`SQUASHFS_METADATA_SIZE`).
const METADATA_SIZE: usize = 8192;

/// Limits on the memory of a layer's caches, in bytes. Memory for data that is being decoded or is
/// in use by a caller is not included.
#[derive(Clone, Copy, Debug)]
pub struct CacheOptions {
    /// Inodes, directories and tables. They take about 1 MB in a Debian base.
    pub metadata_bytes: usize,
    /// Blocks of file content, and fragment blocks.
    pub data_bytes: usize,
    /// Block positions of recently read files. The same limit applies separately to the indexes of
    /// recently used directories.
    pub layout_bytes: usize,
}

impl Default for CacheOptions {
    fn default() -> Self {
        CacheOptions { metadata_bytes: 16 << 20, data_bytes: 32 << 20, layout_bytes: 1 << 20 }
    }
}

/// Statistics of a layer's caches.
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
    blocks: BlockCache<BlockKey, DecodedBlock>,
    layouts: Mutex<ByteLru<LayerIno, Arc<FileLayout>>>,
    /// Indexes of recently used directories.
    indexes: Mutex<ByteLru<LayerIno, Arc<DirectoryIndex>>>,
    scan: Mutex<ReadScan>,
    /// Maximum size that the directory table can decode to.
    max_directory_bytes: u64,
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
    /// Opens the image in `bytes`. Errors refer to it as `name`.
    ///
    /// # Errors
    /// Fails if `bytes` is not a squashfs image, is truncated, or has an unsupported version or
    /// compressor.
    pub fn open(
        name: &str,
        bytes: Arc<ImageBytes>,
        options: CacheOptions,
    ) -> Result<Self, LayerError> {
        let mut image = SquashfsImage::new(name, bytes);
        let superblock = Superblock::read(&mut image)?;
        let layer = SquashfsLayer {
            metadata: Metadata::new(image, superblock.compressor, options.metadata_bytes),
            tables: Tables::new(),
            blocks: BlockCache::new(options.data_bytes),
            layouts: Mutex::new(ByteLru::new(options.layout_bytes)),
            indexes: Mutex::new(ByteLru::new(options.layout_bytes)),
            scan: Mutex::new(ReadScan::default()),
            max_directory_bytes: max_metadata(&superblock.directory_table),
            superblock,
        };
        if layer.inode(layer.root())?.kind != FileType::Directory {
            return Err(layer.bad_inode(layer.root(), "the root is not a directory"));
        }
        Ok(layer)
    }

    /// Returns the superblock.
    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// Returns statistics of the caches.
    pub fn cache_stats(&self) -> CacheStats {
        CacheStats {
            data_decodes: self.blocks.decodes(),
            metadata_decodes: self.metadata.decodes(),
            data_bytes: self.blocks.bytes(),
            metadata_bytes: self.metadata.cached_bytes(),
        }
    }

    fn image(&self) -> &SquashfsImage {
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

    fn highest_owner(&self) -> Result<u32, LayerError> {
        let ids = self.tables.ids(&self.metadata, &self.superblock)?;
        Ok(ids.iter().copied().max().unwrap_or(0))
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

    fn readahead(&self, ino: LayerIno, offset: u64, len: usize) -> Option<Readahead> {
        self.next_readahead(ino, offset, len)
    }

    fn prefetch(&self, range: Readahead) {
        // The error, if any, is returned when the data is read.
        let _ = self.prefetch_into_cache(range);
    }

    fn read_link(&self, ino: LayerIno) -> Result<Vec<u8>, LayerError> {
        self.symlink_target(ino)
    }

    fn may_have_acls(&self) -> bool {
        // The format has no prefix for `system.`.
        false
    }

    fn xattrs(&self, ino: LayerIno) -> Result<Vec<Xattr>, LayerError> {
        self.visible_xattrs(ino)
    }

    fn is_opaque(&self, dir: LayerIno) -> Result<bool, LayerError> {
        match self.inode(dir)? {
            inode if !matches!(inode.body, SquashfsBody::Directory(_)) => Ok(false),
            inode if inode.xattr.is_none() => Ok(false),
            _ => self.has_opaque_attribute(dir),
        }
    }
}
