//! The bytes of an image, and errors that name it.
//!
//! Invariant: nothing beyond the image's `bytes_used` is ever read, and every offset and length is
//! checked here, with 64 bits, before it is used as an index.

use std::ops::Range;
use std::sync::Arc;

use crate::error::LayerError;

/// Owner of an image's bytes: a memory map, or a buffer in tests.
///
/// The bytes must not change while the layer is open.
pub type ImageBytes = dyn AsRef<[u8]> + Send + Sync;

/// An image: its name, its bytes, and how many of them the superblock covers.
pub(super) struct SquashfsImage {
    name: Arc<str>,
    bytes: Arc<ImageBytes>,
    used: u64,
}

impl SquashfsImage {
    /// Creates an image of all of `bytes`, until [`SquashfsImage::limit`] is called.
    pub(super) fn new(name: &str, bytes: Arc<ImageBytes>) -> Self {
        let used = (*bytes).as_ref().len() as u64;
        SquashfsImage { name: name.into(), bytes, used }
    }

    /// Makes bytes after `used` inaccessible. An image is usually padded to 4 KiB.
    pub(super) fn limit(&mut self, used: u64) {
        self.used = self.used.min(used);
    }

    pub(super) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Returns the number of accessible bytes.
    pub(super) fn used(&self) -> u64 {
        self.used
    }

    /// Returns the bytes of `start..start + len`, if all of them are accessible.
    pub(super) fn get(&self, start: u64, len: u64) -> Option<&[u8]> {
        let end = start.checked_add(len)?;
        if end > self.used {
            return None;
        }
        // `get` checks again, in case the owner now returns fewer bytes.
        (*self.bytes).as_ref().get(usize::try_from(start).ok()?..usize::try_from(end).ok()?)
    }

    /// Reads a little-endian 64-bit number, as in lists of block positions.
    pub(super) fn u64_at(&self, pos: u64) -> Option<u64> {
        Some(u64::from_le_bytes(self.get(pos, 8)?.try_into().ok()?))
    }

    /// Returns an error for a damaged image.
    pub(super) fn corrupt(&self, what: impl Into<String>) -> LayerError {
        LayerError::corrupt(&self.name, what)
    }

    /// Returns an error for an unsupported feature.
    pub(super) fn unsupported(&self, what: impl Into<String>) -> LayerError {
        LayerError::unsupported(&self.name, what)
    }
}

/// Reads the 16-bit number at `bytes[at..]`. Callers pass arrays whose constant length covers it.
pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

/// Like [`u16_at`], with 32 bits.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Like [`u16_at`], with 64 bits.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// Returns the maximum size that a chain of metadata blocks stored in `range` can decode to: each
/// block has a header of two bytes and at least one more byte, and decodes to at most 8 KiB. Counts
/// and sizes are checked against this before anything is iterated or allocated.
pub(super) fn max_metadata(range: &Range<u64>) -> u64 {
    ((range.end.saturating_sub(range.start)) / 3 + 1).saturating_mul(super::METADATA_SIZE as u64)
}
