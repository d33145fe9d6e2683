//! The lookup tables: owners, fragments, and the places of extended attributes.
//!
//! Each is an array of entries of one size in metadata blocks of 8 KiB; where these blocks begin
//! says a list of 64-bit positions, which stands right after them, uncompressed. So an entry is
//! found by two reads, and nothing is loaded at open.
//!
//! Invariant: an index is below the table's count, or an error.

use std::sync::OnceLock;

use super::METADATA_SIZE;
use super::image::{u32_at, u64_at};
use super::metadata::{Metadata, Place};
use super::superblock::{SUPERBLOCK_SIZE, Superblock};
use crate::error::LayerError;

/// Where a fragment block lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fragment {
    pub(super) start: u64,
    /// Its length in the image, in the encoding of data blocks.
    pub(super) word: u32,
}

/// Where the attributes of an inode lie, and how many there are.
#[derive(Clone, Copy, Debug)]
pub(super) struct XattrPlace {
    /// Block (relative to the xattr table) and offset, as an inode reference has them.
    pub(super) reference: u64,
    pub(super) count: u32,
}

/// The lookup tables of an image.
pub(super) struct Tables {
    /// All owners: at most 256 KiB, and in practice a few bytes, asked for with each attribute.
    ids: OnceLock<Result<Box<[u32]>, LayerError>>,
}

impl Tables {
    pub(super) fn new() -> Self {
        Tables { ids: OnceLock::new() }
    }

    /// The uid or gid of an index.
    pub(super) fn id(
        &self,
        metadata: &Metadata,
        superblock: &Superblock,
        index: u16,
    ) -> Result<u32, LayerError> {
        let ids = self.ids.get_or_init(|| {
            // Filled block by block, so that memory follows what the image really holds.
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
        match ids {
            Ok(ids) => ids.get(usize::from(index)).copied().ok_or_else(|| {
                metadata
                    .image
                    .corrupt(format!("inode with owner number {index} of {}", superblock.ids))
            }),
            Err(error) => Err(error.clone()),
        }
    }

    /// The fragment block of an index.
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

    /// How many sets of attributes there are.
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

    /// Where the attributes of an xattr index lie, and the position of the xattr table.
    pub(super) fn xattr(
        &self,
        metadata: &Metadata,
        superblock: &Superblock,
        index: u32,
    ) -> Result<(XattrPlace, std::ops::Range<u64>), LayerError> {
        let image = &metadata.image;
        let header_at = superblock.xattr_table.ok_or_else(|| {
            image.corrupt(format!("inode with xattr number {index}, and no xattr table"))
        })?;
        let header = image
            .get(header_at, 16)
            .ok_or_else(|| image.corrupt("xattr table header beyond the image"))?;
        let (start, count) = (u64_at(header, 0), u32_at(header, 8));
        if start < SUPERBLOCK_SIZE || start > header_at {
            return Err(image.corrupt(format!("xattr table header: a table at {start:#x}")));
        }
        // The positions follow the header, so the blocks end before the header.
        let raw = entry_at::<16>(
            metadata,
            "xattr id table",
            header_at.saturating_add(16),
            header_at,
            count,
            index,
        )?;
        let place = XattrPlace { reference: u64_at(&raw, 0), count: u32_at(&raw, 8) };
        Ok((place, start..header_at))
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

/// The entry `index` of `count` of the table whose list of positions is at `list`, and whose
/// blocks end before `end`.
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
        .ok_or_else(|| image.corrupt(format!("{what}: its list of blocks is cut off")))?;
    let place = Place { block: position, offset: (byte % METADATA_SIZE as u64) as usize };
    metadata.cursor(&(SUPERBLOCK_SIZE..end), what, place).array()
}
