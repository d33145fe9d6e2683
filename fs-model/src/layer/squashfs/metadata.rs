//! Metadata: chains of blocks of at most 8 KiB, decoded on demand.
//!
//! A metadata block is a 16-bit header (stored length; the top bit means "not compressed") followed
//! by its content. The inode and directory tables are chains of such blocks, read through a
//! [`Cursor`] like the kernel's `squashfs_read_metadata`.
//!
//! Invariants:
//! - A cursor stays within its table and only moves forward, because each block ends after its
//!   start. So no chain loops.
//! - A read returns all requested bytes or fails.

use std::ops::Range;

use super::METADATA_SIZE;
use super::cache::{BlockCache, ENTRY_COST, Weigh};
use super::compression::Compressor;
use super::image::{SquashfsImage, u16_at};
use crate::error::LayerError;
use std::sync::Arc;

/// Header bit of a block that is not compressed.
const UNCOMPRESSED: u16 = 0x8000;

/// A decoded metadata block, and the position of the next one.
#[derive(Clone)]
pub(super) struct MetadataBlock {
    data: Arc<[u8]>,
    next: u64,
}

impl Weigh for MetadataBlock {
    fn weight(&self) -> usize {
        self.data.len() + ENTRY_COST
    }
}

/// A position in a table: that of a metadata block in the image, and an offset in its decoded
/// content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MetadataPos {
    pub(super) block: u64,
    pub(super) offset: usize,
}

/// The metadata blocks of an image.
pub(super) struct Metadata {
    pub(super) image: SquashfsImage,
    compressor: Compressor,
    cache: BlockCache<u64, MetadataBlock>,
}

impl Metadata {
    pub(super) fn new(image: SquashfsImage, compressor: Compressor, cache_bytes: usize) -> Self {
        Metadata { image, compressor, cache: BlockCache::new(cache_bytes) }
    }

    /// Returns the number of metadata blocks decoded so far.
    pub(super) fn decodes(&self) -> u64 {
        self.cache.decodes()
    }

    /// Returns the memory used by cached blocks, in bytes.
    pub(super) fn cached_bytes(&self) -> usize {
        self.cache.bytes()
    }

    /// Returns a cursor at `pos` of `table`. Errors refer to the table as `what`.
    pub(super) fn cursor(
        &self,
        table: &Range<u64>,
        what: &'static str,
        pos: MetadataPos,
    ) -> Cursor<'_> {
        Cursor { metadata: self, table: table.clone(), what, pos, block: None }
    }

    /// Returns the block at `pos`, which must be entirely within `table`.
    fn block(
        &self,
        table: &Range<u64>,
        what: &'static str,
        pos: u64,
    ) -> Result<MetadataBlock, LayerError> {
        if !table.contains(&pos) {
            return Err(self.image.corrupt(format!("{what}: no block at {pos:#x}")));
        }
        let block = self.cache.get_or_decode(pos, || self.decode(what, pos))?;
        if block.next > table.end {
            return Err(self.damaged(what, pos, "it extends beyond the table"));
        }
        Ok(block)
    }

    fn decode(&self, what: &'static str, pos: u64) -> Result<MetadataBlock, LayerError> {
        let header = self.image.get(pos, 2).map(|bytes| u16_at(bytes, 0));
        let header = header.ok_or_else(|| self.damaged(what, pos, "beyond the image"))?;
        // A length of 0 means 32 KiB, which is invalid for metadata.
        let len = usize::from(header & !UNCOMPRESSED);
        if len == 0 || len > METADATA_SIZE {
            return Err(self.damaged(what, pos, format!("invalid length {len}")));
        }
        let stored = self
            .image
            .get(pos + 2, len as u64)
            .ok_or_else(|| self.damaged(what, pos, "it extends beyond the image"))?;
        let next = pos + 2 + len as u64;
        let data: Arc<[u8]> = if header & UNCOMPRESSED != 0 {
            stored.into()
        } else {
            let mut decoded = [0; METADATA_SIZE];
            match self.compressor.decode(stored, &mut decoded) {
                Ok(len) if len > 0 => decoded[..len].into(),
                Ok(_) => return Err(self.damaged(what, pos, "it is empty")),
                Err(error) => return Err(self.damaged(what, pos, error)),
            }
        };
        Ok(MetadataBlock { data, next })
    }

    fn damaged(&self, what: &str, pos: u64, why: impl std::fmt::Display) -> LayerError {
        self.image.corrupt(format!("{what} block at {pos:#x}: {why}"))
    }
}

/// A reading position in a chain of metadata blocks.
pub(super) struct Cursor<'a> {
    metadata: &'a Metadata,
    table: Range<u64>,
    what: &'static str,
    pos: MetadataPos,
    /// The block at `pos`, once it has been needed.
    block: Option<MetadataBlock>,
}

impl Cursor<'_> {
    /// Returns the position of the next byte.
    pub(super) fn pos(&self) -> MetadataPos {
        self.pos
    }

    /// Fills `out`.
    pub(super) fn read(&mut self, mut out: &mut [u8]) -> Result<(), LayerError> {
        while !out.is_empty() {
            let available = self.available()?;
            let n = available.len().min(out.len());
            let (now, later) = out.split_at_mut(n);
            now.copy_from_slice(&available[..n]);
            self.advance(n);
            out = later;
        }
        Ok(())
    }

    /// Reads `N` bytes.
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], LayerError> {
        let mut bytes = [0; N];
        self.read(&mut bytes)?;
        Ok(bytes)
    }

    /// Reads a 16-bit number.
    pub(super) fn u16(&mut self) -> Result<u16, LayerError> {
        self.array().map(u16::from_le_bytes)
    }

    /// Reads a 32-bit number.
    pub(super) fn u32(&mut self) -> Result<u32, LayerError> {
        self.array().map(u32::from_le_bytes)
    }

    /// Skips `len` bytes, which must exist.
    pub(super) fn skip(&mut self, mut len: u64) -> Result<(), LayerError> {
        while len > 0 {
            let n = usize::try_from(len).unwrap_or(usize::MAX).min(self.available()?.len());
            self.advance(n);
            len -= n as u64;
        }
        Ok(())
    }

    /// Returns the rest of the current block, which is not empty.
    fn available(&mut self) -> Result<&[u8], LayerError> {
        let block = match &mut self.block {
            Some(block) => block,
            slot => slot.insert(self.metadata.block(&self.table, self.what, self.pos.block)?),
        };
        match block.data.get(self.pos.offset..) {
            Some(bytes) if !bytes.is_empty() => Ok(bytes),
            _ => Err(self.metadata.damaged(
                self.what,
                self.pos.block,
                format!(
                    "it has {} bytes, but a reference to offset {}",
                    block.data.len(),
                    self.pos.offset
                ),
            )),
        }
    }

    fn advance(&mut self, n: usize) {
        self.pos.offset += n;
        if let Some(block) = &self.block
            && self.pos.offset >= block.data.len()
        {
            // The next block is loaded on demand: there may be none.
            self.pos = MetadataPos { block: block.next, offset: 0 };
            self.block = None;
        }
    }
}
