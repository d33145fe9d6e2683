//! Metadata: chains of blocks of 8 KiB at most, decoded on demand.
//!
//! A metadata block is a 16-bit header (length in the image; the top bit means "not compressed")
//! and its content. The inode and directory tables are chains of such blocks, read here through a
//! [`Cursor`] as the kernel's `squashfs_read_metadata` does.
//!
//! Invariants:
//! - A cursor stays within the bytes of its table, and only moves forward: each block ends after
//!   it begins, so no chain loops.
//! - A cursor reads all that it was asked for, or fails.

use std::ops::Range;

use super::METADATA_SIZE;
use super::cache::{BlockCache, ENTRY_COST, Weigh};
use super::compression::Compressor;
use super::image::{Image, u16_at};
use crate::error::LayerError;
use std::sync::Arc;

/// The header's bit for a block that is stored as it is.
const UNCOMPRESSED: u16 = 0x8000;

/// A decoded metadata block, and where the next one begins.
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

/// A place in a table: the position of a metadata block in the image, and an offset in its
/// decoded content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) block: u64,
    pub(super) offset: usize,
}

/// The metadata blocks of an image.
pub(super) struct Metadata {
    pub(super) image: Image,
    compressor: Compressor,
    cache: BlockCache<u64, MetadataBlock>,
}

impl Metadata {
    pub(super) fn new(image: Image, compressor: Compressor, cache_bytes: usize) -> Self {
        Metadata { image, compressor, cache: BlockCache::new(cache_bytes) }
    }

    /// How many metadata blocks were decoded.
    pub(super) fn decodes(&self) -> u64 {
        self.cache.decodes()
    }

    /// What the cached blocks weigh.
    pub(super) fn cached_bytes(&self) -> usize {
        self.cache.bytes()
    }

    /// A cursor at `place` of `table`, which errors call `what`.
    pub(super) fn cursor(
        &self,
        table: &Range<u64>,
        what: &'static str,
        place: Place,
    ) -> Cursor<'_> {
        Cursor { metadata: self, table: table.clone(), what, place, block: None }
    }

    /// The block at `pos`, which must lie within `table` as a whole.
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
            return Err(self.damaged(what, pos, "it goes beyond the table"));
        }
        Ok(block)
    }

    fn decode(&self, what: &'static str, pos: u64) -> Result<MetadataBlock, LayerError> {
        let header = self.image.get(pos, 2).map(|bytes| u16_at(bytes, 0));
        let header = header.ok_or_else(|| self.damaged(what, pos, "beyond the image"))?;
        // A length of 0 stands for 32 KiB, which no metadata block has: refused with the rest.
        let len = usize::from(header & !UNCOMPRESSED);
        if len == 0 || len > METADATA_SIZE {
            return Err(self.damaged(what, pos, format!("a length of {len}")));
        }
        let stored = self
            .image
            .get(pos + 2, len as u64)
            .ok_or_else(|| self.damaged(what, pos, "it goes beyond the image"))?;
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
    place: Place,
    /// The block at `place`, once it was needed.
    block: Option<MetadataBlock>,
}

impl Cursor<'_> {
    /// Where the next byte is read from.
    pub(super) fn place(&self) -> Place {
        self.place
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

    /// The next `N` bytes.
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], LayerError> {
        let mut bytes = [0; N];
        self.read(&mut bytes)?;
        Ok(bytes)
    }

    /// The next number of 16 bits.
    pub(super) fn u16(&mut self) -> Result<u16, LayerError> {
        self.array().map(u16::from_le_bytes)
    }

    /// The next number of 32 bits.
    pub(super) fn u32(&mut self) -> Result<u32, LayerError> {
        self.array().map(u32::from_le_bytes)
    }

    /// Goes on by `len` bytes, which must be there.
    pub(super) fn skip(&mut self, mut len: u64) -> Result<(), LayerError> {
        while len > 0 {
            let n = usize::try_from(len).unwrap_or(usize::MAX).min(self.available()?.len());
            self.advance(n);
            len -= n as u64;
        }
        Ok(())
    }

    /// What is left of the block at hand; never empty.
    fn available(&mut self) -> Result<&[u8], LayerError> {
        let block = match &mut self.block {
            Some(block) => block,
            slot => slot.insert(self.metadata.block(&self.table, self.what, self.place.block)?),
        };
        match block.data.get(self.place.offset..) {
            Some(bytes) if !bytes.is_empty() => Ok(bytes),
            _ => Err(self.metadata.damaged(
                self.what,
                self.place.block,
                format!("{} bytes, where {} is needed", block.data.len(), self.place.offset),
            )),
        }
    }

    fn advance(&mut self, n: usize) {
        self.place.offset += n;
        if let Some(block) = &self.block
            && self.place.offset >= block.data.len()
        {
            // The next one is loaded when it is needed: there may be none.
            self.place = Place { block: block.next, offset: 0 };
            self.block = None;
        }
    }
}
