//! Lookup tables: user and group ids, fragments, and positions of extended attributes.
//!
//! Each table is an array of fixed-size entries in metadata blocks of 8 KiB. A list of the blocks'
//! 64-bit positions follows the table, uncompressed. So an entry is found with two reads, and
//! opening an image loads nothing.
//!
//! Invariant: an index that is not below the table's count is an error.

use std::sync::OnceLock;

use super::METADATA_SIZE;
use super::image::{u32_at, u64_at};
use super::metadata::{Metadata, MetadataPos};
use super::superblock::{SUPERBLOCK_SIZE, Superblock};
use crate::error::LayerError;

/// Position of a fragment block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fragment {
    pub(super) start: u64,
    /// Stored length, encoded as for data blocks.
    pub(super) word: u32,
}

/// Position and number of the attributes of an inode.
#[derive(Clone, Copy, Debug)]
pub(super) struct XattrPos {
    /// Block (relative to the xattr table) and offset, encoded like an inode reference.
    pub(super) reference: u64,
    pub(super) count: u32,
}

/// The lookup tables of an image.
pub(super) struct Tables {
    /// All user and group ids: at most 256 KiB, usually a few bytes. Needed for every `attr`.
    ids: OnceLock<Result<Box<[u32]>, LayerError>>,
}

impl Tables {
    pub(super) fn new() -> Self {
        Tables { ids: OnceLock::new() }
    }

    /// Returns the uid or gid with the number `index`.
    pub(super) fn id(
        &self,
        metadata: &Metadata,
        superblock: &Superblock,
        index: u16,
    ) -> Result<u32, LayerError> {
        let ids = self.ids(metadata, superblock)?;
        ids.get(usize::from(index)).copied().ok_or_else(|| {
            let message = format!("inode with id number {index} of {}", superblock.ids);
            metadata.image.corrupt(message)
        })
    }

    /// Returns all uids and gids.
    pub(super) fn ids(
        &self,
        metadata: &Metadata,
        superblock: &Superblock,
    ) -> Result<&[u32], LayerError> {
        let ids = self.ids.get_or_init(|| {
            // Filled block by block, so that memory is bounded by the image's real content.
            let mut ids = Vec::new();
            for index in 0..superblock.ids {
                let entry = entry::<4>(
                    metadata,
                    ("id table", superblock.id_table),
                    superblock.ids.into(),
                    index.into(),
                )?;
                ids.push(u32::from_le_bytes(entry));
            }
            Ok(ids.into())
        });
        ids.as_deref().map_err(LayerError::clone)
    }

    /// Returns the position of the fragment block `index`.
    pub(super) fn fragment(
        &self,
        metadata: &Metadata,
        superblock: &Superblock,
        index: u32,
    ) -> Result<Fragment, LayerError> {
        let raw = entry::<16>(
            metadata,
            ("fragment table", superblock.fragment_table),
            superblock.fragments,
            index,
        )?;
        Ok(Fragment { start: u64_at(&raw, 0), word: u32_at(&raw, 8) })
    }

    /// Returns the number of attribute sets.
    pub(super) fn xattrs(
        &self,
        metadata: &Metadata,
        superblock: &Superblock,
    ) -> Result<u32, LayerError> {
        let Some(header_at) = superblock.xattr_table else { return Ok(0) };
        let header = metadata.image.get(header_at, 16);
        let header =
            header.ok_or_else(|| metadata.image.corrupt("xattr table header beyond the image"))?;
        Ok(u32_at(header, 8))
    }

    /// Returns the position of the attribute set `index`, and the range of the xattr table.
    pub(super) fn xattr(
        &self,
        metadata: &Metadata,
        superblock: &Superblock,
        index: u32,
    ) -> Result<(XattrPos, std::ops::Range<u64>), LayerError> {
        let image = &metadata.image;
        let header_at = superblock.xattr_table.ok_or_else(|| {
            image.corrupt(format!("inode with xattr number {index}, but no xattr table"))
        })?;
        let header = image
            .get(header_at, 16)
            .ok_or_else(|| image.corrupt("xattr table header beyond the image"))?;
        let (start, count) = (u64_at(header, 0), u32_at(header, 8));
        if start < SUPERBLOCK_SIZE || start > header_at {
            return Err(image.corrupt(format!("xattr table header: a table at {start:#x}")));
        }
        // The list of positions follows the header, so the blocks end before the header.
        let raw = entry_at::<16>(
            metadata,
            "xattr id table",
            header_at.saturating_add(16),
            header_at,
            count,
            index,
        )?;
        let pos = XattrPos { reference: u64_at(&raw, 0), count: u32_at(&raw, 8) };
        Ok((pos, start..header_at))
    }
}

fn entry<const N: usize>(
    metadata: &Metadata,
    (what, start): (&'static str, u64),
    count: u32,
    index: u32,
) -> Result<[u8; N], LayerError> {
    entry_at(metadata, what, start, start, count, index)
}

/// Reads entry `index` of the `count` entries of a table whose list of block positions is at `list`
/// and whose blocks end before `end`.
fn entry_at<const N: usize>(
    metadata: &Metadata,
    what: &'static str,
    list: u64,
    end: u64,
    count: u32,
    index: u32,
) -> Result<[u8; N], LayerError> {
    let image = &metadata.image;
    if index >= count {
        return Err(image.corrupt(format!("{what}: entry {index} of {count}")));
    }
    let byte = u64::from(index) * N as u64;
    let block = byte / METADATA_SIZE as u64;
    let position = list
        .checked_add(block * 8)
        .and_then(|at| image.u64_at(at))
        .ok_or_else(|| image.corrupt(format!("{what}: its list of blocks is truncated")))?;
    let pos = MetadataPos { block: position, offset: (byte % METADATA_SIZE as u64) as usize };
    metadata.cursor(&(SUPERBLOCK_SIZE..end), what, pos).array()
}
