//! The superblock: the first 96 bytes of an image, with the positions of all tables.
//!
//! Follows the kernel's `fs/squashfs/squashfs_fs.h` (`struct squashfs_super_block`) and the
//! checks of `fs/squashfs/super.c`.
//!
//! Invariants of an accepted [`Superblock`]: version 4.0; the block size is a power of two from 4
//! KiB to 1 MiB; `bytes_used` is within the file; every table begins within `bytes_used`, and the
//! lists of block positions are entirely within it.

use std::ops::Range;

use super::METADATA_SIZE;
use super::compression::Compressor;
use super::image::{SquashfsImage, u16_at, u32_at, u64_at};
use crate::error::{LayerError, LayerErrorKind};

/// Size of a superblock in bytes.
pub(super) const SUPERBLOCK_SIZE: u64 = 96;

/// The position stored for a table that does not exist.
const NO_TABLE: u64 = u64::MAX;

/// The superblock of an image.
#[derive(Clone, Debug)]
pub struct Superblock {
    /// Number of inodes, as stored.
    pub inodes: u32,
    /// Creation time of the image in seconds since 1970.
    pub mkfs_time: u32,
    /// Size of a data block in bytes: a power of two from 4 KiB to 1 MiB.
    pub block_size: u32,
    /// The compressor of all blocks.
    pub compressor: Compressor,
    /// Number of fragment blocks.
    pub fragments: u32,
    /// Number of distinct user and group ids.
    pub ids: u16,
    /// Flags as stored (`SQUASHFS_NOI` and others).
    pub flags: u16,
    /// Size of the image in bytes without padding.
    pub bytes_used: u64,
    pub(super) root: u64,
    pub(super) id_table: u64,
    pub(super) xattr_table: Option<u64>,
    pub(super) inode_table: Range<u64>,
    pub(super) directory_table: Range<u64>,
    pub(super) fragment_table: u64,
}

impl Superblock {
    /// Reads and checks the superblock, and limits `image` to `bytes_used`.
    pub(super) fn read(image: &mut SquashfsImage) -> Result<Self, LayerError> {
        let not_squashfs = |image: &SquashfsImage| LayerError {
            image: image.name().clone(),
            kind: LayerErrorKind::NotThisFormat { expected: "a squashfs image" },
        };
        let magic = image.get(0, 4).ok_or_else(|| not_squashfs(image))?;
        if magic == b"sqsh" {
            return Err(image.unsupported("a big-endian squashfs (older than 4.0)"));
        }
        if magic != b"hsqs" {
            return Err(not_squashfs(image));
        }
        let raw: [u8; SUPERBLOCK_SIZE as usize] = image
            .get(0, SUPERBLOCK_SIZE)
            .and_then(|b| b.try_into().ok())
            .ok_or_else(|| image.corrupt("truncated within the superblock"))?;

        let (major, minor) = (u16_at(&raw, 28), u16_at(&raw, 30));
        if (major, minor) != (4, 0) {
            return Err(image.unsupported(format!("squashfs version {major}.{minor}")));
        }
        let block_size = u32_at(&raw, 12);
        let block_log = u16_at(&raw, 22);
        if !block_size.is_power_of_two()
            || !(12..=20).contains(&block_log)
            || block_size != 1 << block_log
        {
            return Err(image.corrupt(format!(
                "superblock: block size {block_size} with logarithm {block_log}"
            )));
        }
        let bytes_used = u64_at(&raw, 40);
        if bytes_used > image.used() {
            return Err(image.corrupt(format!("truncated: {} bytes of {bytes_used}", image.used())));
        }
        if bytes_used < SUPERBLOCK_SIZE {
            return Err(image.corrupt(format!("superblock: {bytes_used} bytes used")));
        }
        image.limit(bytes_used);

        let compressor = match Compressor::from_id(u16_at(&raw, 20)) {
            Ok(compressor) => compressor,
            Err(what) => return Err(image.unsupported(what)),
        };
        let (inode_start, directory_start) = (u64_at(&raw, 64), u64_at(&raw, 72));
        let id_table = u64_at(&raw, 48);
        let xattr_table = Some(u64_at(&raw, 56)).filter(|&table| table != NO_TABLE);
        let fragments = u32_at(&raw, 16);
        let fragment_table = u64_at(&raw, 80);
        let ids = u16_at(&raw, 26);

        if inode_start < SUPERBLOCK_SIZE
            || inode_start >= directory_start
            || directory_start > bytes_used
        {
            return Err(image.corrupt(format!(
                "superblock: inode table at {inode_start:#x}, directory table at \
                 {directory_start:#x}, {bytes_used} bytes used"
            )));
        }
        if ids == 0 {
            return Err(image.corrupt("superblock: no user and group ids"));
        }
        let locations = |entries: u64, entry_size: u64| {
            entries.saturating_mul(entry_size).div_ceil(METADATA_SIZE as u64).saturating_mul(8)
        };
        let check = |what: &str, start: u64, len: u64| {
            if start < SUPERBLOCK_SIZE || image.get(start, len).is_none() {
                return Err(image.corrupt(format!(
                    "superblock: the {what} table at {start:#x} is not within the image"
                )));
            }
            Ok(())
        };
        check("id", id_table, locations(ids.into(), 4))?;
        if fragments > 0 {
            check("fragment", fragment_table, locations(fragments.into(), 16))?;
        }
        if let Some(start) = xattr_table {
            check("xattr", start, 16)?;
        }
        // The directory table ends at the next table. The end of its last block is not stored.
        let directory_end = [Some(id_table), Some(fragment_table), xattr_table]
            .into_iter()
            .flatten()
            .filter(|&start| start >= directory_start)
            .fold(bytes_used, u64::min);

        Ok(Superblock {
            inodes: u32_at(&raw, 4),
            mkfs_time: u32_at(&raw, 8),
            block_size,
            compressor,
            fragments,
            ids,
            flags: u16_at(&raw, 24),
            bytes_used,
            root: u64_at(&raw, 32),
            id_table,
            xattr_table,
            inode_table: inode_start..directory_start,
            directory_table: directory_start..directory_end,
            fragment_table,
        })
    }
}
