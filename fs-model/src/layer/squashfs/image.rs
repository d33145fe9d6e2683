//! The bytes of an image, and the errors that name it.
//!
//! Invariant: nothing outside the image's own `bytes_used` is ever read, and every offset and
//! length is checked here, in 64 bits, before it becomes an index.

use std::ops::Range;
use std::sync::Arc;

use crate::error::LayerError;

/// What holds an image's bytes: a memory map, or a buffer in tests.
///
/// The bytes must not change while the layer is open.
pub type ImageBytes = dyn AsRef<[u8]> + Send + Sync;

/// An image by its name, and the part of it that the superblock claims.
pub(super) struct Image {
    name: Arc<str>,
    bytes: Arc<ImageBytes>,
    used: u64,
}

impl Image {
    /// The whole of `bytes`, until [`Image::limit`] says how much of it counts.
    pub(super) fn new(name: &str, bytes: Arc<ImageBytes>) -> Self {
        let used = (*bytes).as_ref().len() as u64;
        Image { name: name.into(), bytes, used }
    }

    /// Sets what lies after `used` out of reach. An image is usually padded to 4 KiB.
    pub(super) fn limit(&mut self, used: u64) {
        self.used = self.used.min(used);
    }

    pub(super) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// How many bytes count.
    pub(super) fn used(&self) -> u64 {
        self.used
    }

    /// The bytes of `start..start + len`, if the image has them all.
    pub(super) fn get(&self, start: u64, len: u64) -> Option<&[u8]> {
        let end = start.checked_add(len)?;
        if end > self.used {
            return None;
        }
        // Checked again by `get`: what the owner of the bytes hands out may have shrunk.
        (*self.bytes).as_ref().get(usize::try_from(start).ok()?..usize::try_from(end).ok()?)
    }

    /// A little-endian number of 64 bits, as the tables of table locations have them.
    pub(super) fn u64_at(&self, pos: u64) -> Option<u64> {
        Some(u64::from_le_bytes(self.get(pos, 8)?.try_into().ok()?))
    }

    /// The error for damage of this image.
    pub(super) fn corrupt(&self, what: impl Into<String>) -> LayerError {
        LayerError::corrupt(&self.name, what)
    }

    /// The error for what this image uses and this reader does not read.
    pub(super) fn unsupported(&self, what: impl Into<String>) -> LayerError {
        LayerError::unsupported(&self.name, what)
    }
}

/// The number in `bytes[at..]`; the callers' arrays have constant lengths that cover it.
pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

/// As [`u16_at`], 32 bits.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// As [`u16_at`], 64 bits.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// The most that a chain of metadata blocks stored in `range` can decode to: each takes its
/// header of two bytes and at least one more, and gives at most 8 KiB. Counts and sizes are held
/// against this before anything is walked or allocated for them.
pub(super) fn most_metadata(range: &Range<u64>) -> u64 {
    ((range.end.saturating_sub(range.start)) / 3 + 1).saturating_mul(super::METADATA_SIZE as u64)
}
