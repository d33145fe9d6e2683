//! Directories: listings in the directory table, found and shortened by an index.
//!
//! Follows `fs/squashfs/dir.c` and `namei.c`. A listing is a sequence of runs: a header (how many
//! entries, and the inode metadata block that they have in common), then its entries, sorted by
//! name over the whole directory. An extended directory inode ends in an index: for every
//! metadata block of the listing the name that its first run begins with, so that a lookup reads
//! one block of the listing and not all of it.
//!
//! An inode states the size of its listing plus 3, for the kernel's `.` and `..`; some writers
//! (tar2sqfs before 1.1.3, go-diskfs) leave out these 3 bytes. The kernel compares the size only at
//! the head of a run, so that it lists both kinds of image whole, and so does [`Walk`].
//!
//! Invariants:
//! - A walk reads a run when the run begins within the size that the inode states, and then reads
//!   all of it. Each run is at most 256 entries, so a walk ends at most one run after that size.
//! - Every name that comes out is legal, and stands once. An image with an unsorted directory
//!   (no writer makes them) is still listed right, if it is of moderate size.
//! - Entries that hide (character devices 0:0) come out as [`LayerEntry::Whiteout`].

use std::sync::Arc;

use super::METADATA_SIZE;
use super::SquashfsLayer;
use super::cache::{ENTRY_COST, Weigh};
use super::image::{u16_at, u32_at};
use super::inode::{Body, DirectoryBody};
use super::metadata::{Cursor, Place};
use crate::attr::{Device, FileType};
use crate::error::LayerError;
use crate::layer::{LayerDirEntry, LayerEntry, LayerIno};

/// The most entries of one run (`SQUASHFS_DIR_COUNT`).
const RUN_LIMIT: u32 = 256;
/// The most entries of an unsorted directory. Names in order cannot repeat, so that what a
/// damaged image makes us hold is in proportion to it; without order this bounds it.
const UNSORTED_LIMIT: usize = 1 << 16;

/// One entry as it is stored; its name is in the walk's buffer.
struct RawEntry {
    ino: LayerIno,
    kind: u16,
    name_len: usize,
}

/// The index of a directory, decoded, so that a lookup in a large directory need not go through all
/// of it: at 500,000 names it has 1,300 entries.
#[derive(Default)]
pub(super) struct DirectoryIndex {
    /// The first names of all runs in it, one behind the other.
    names: Vec<u8>,
    runs: Vec<Run>,
}

/// A run that the index knows.
struct Run {
    name_end: u32,
    name_len: u32,
    /// Its metadata block relative to the directory table, and the bytes of the listing before it.
    block: u32,
    before: u32,
}

impl DirectoryIndex {
    fn name(&self, run: &Run) -> &[u8] {
        let end = run.name_end as usize;
        &self.names[end - run.name_len as usize..end]
    }
}

impl Weigh for Arc<DirectoryIndex> {
    fn weight(&self) -> usize {
        self.names.capacity() + self.runs.capacity() * size_of::<Run>() + ENTRY_COST
    }
}

/// A walk over a listing.
struct Walk<'a> {
    layer: &'a SquashfsLayer,
    cursor: Cursor<'a>,
    directory: LayerIno,
    /// Bytes of the listing after the cursor, by the size that the inode states; 0 in the rest of a
    /// run that goes beyond it.
    left: u64,
    /// Entries of the run that are still to come, and the inode block they share.
    run: u32,
    inode_block: u32,
    name: [u8; 256],
}

impl Walk<'_> {
    fn bad(&self, what: impl std::fmt::Display) -> LayerError {
        self.layer.image().corrupt(format!("directory {:#x}: {what}", self.directory.0))
    }

    fn next(&mut self) -> Result<Option<RawEntry>, LayerError> {
        if self.run == 0 {
            if self.left == 0 {
                return Ok(None);
            }
            let header: [u8; 12] = self.cursor.array()?;
            self.left = self.left.saturating_sub(12);
            let count = u32_at(&header, 0);
            if count >= RUN_LIMIT {
                return Err(self.bad(format!("a run of {count} entries")));
            }
            self.run = count + 1;
            self.inode_block = u32_at(&header, 4);
        }
        self.run -= 1;
        let raw: [u8; 8] = self.cursor.array()?;
        let name_len = usize::from(u16_at(&raw, 6)) + 1;
        if name_len > 255 {
            return Err(self.bad(format!("a name of {name_len} bytes")));
        }
        self.cursor.read(&mut self.name[..name_len])?;
        self.left = self.left.saturating_sub(8 + name_len as u64);
        let name = &self.name[..name_len];
        if name == b"." || name == b".." || name.iter().any(|&b| b == b'/' || b == 0) {
            return Err(self.bad(format!("the name \"{}\"", name.escape_ascii())));
        }
        Ok(Some(RawEntry {
            ino: LayerIno(u64::from(self.inode_block) << 16 | u64::from(u16_at(&raw, 0))),
            kind: u16_at(&raw, 4),
            name_len,
        }))
    }

    /// What a stored entry stands for.
    fn resolve(&self, entry: &RawEntry) -> Result<LayerEntry, LayerError> {
        let kind = match entry.kind {
            1 => FileType::Directory,
            2 => FileType::Regular,
            3 => FileType::Symlink,
            4 => FileType::BlockDevice,
            5 => {
                // Only the inode tells a whiteout from a device.
                return match self.layer.inode(entry.ino)?.body {
                    Body::Device(device) if device == Device::default() => Ok(LayerEntry::Whiteout),
                    Body::Device(_) => {
                        Ok(LayerEntry::Object { ino: entry.ino, kind: FileType::CharDevice })
                    }
                    _ => Err(self.bad("a device's entry, and an inode of another type")),
                };
            }
            6 => FileType::Fifo,
            7 => FileType::Socket,
            kind => return Err(self.bad(format!("an entry of type {kind}"))),
        };
        Ok(LayerEntry::Object { ino: entry.ino, kind })
    }
}

impl SquashfsLayer {
    fn directory(&self, ino: LayerIno) -> Result<DirectoryBody, LayerError> {
        match self.inode(ino)?.body {
            Body::Directory(directory) => Ok(directory),
            _ => Err(self.bad_inode(ino, "not a directory")),
        }
    }

    /// A walk over the listing of `body`, from the metadata block at `block` (relative to the
    /// directory table) on, where `skipped` bytes of it have gone by.
    fn walk(
        &self,
        directory: LayerIno,
        body: &DirectoryBody,
        block: u32,
        skipped: u32,
    ) -> Result<Walk<'_>, LayerError> {
        let table = &self.superblock.directory_table;
        let offset = (u64::from(body.offset) + u64::from(skipped)) % METADATA_SIZE as u64;
        let place = Place {
            block: table.start.saturating_add(block.into()),
            // The start of a listing may be anywhere in its block, never beyond it.
            offset: if skipped == 0 { body.offset.into() } else { offset as usize },
        };
        Ok(Walk {
            layer: self,
            cursor: self.metadata.cursor(table, "directory table", place),
            directory,
            left: u64::from(body.listing - skipped.min(body.listing)),
            run: 0,
            inode_block: 0,
            name: [0; 256],
        })
    }

    /// The index of a directory, as it was read once.
    fn index(
        &self,
        ino: LayerIno,
        body: &DirectoryBody,
    ) -> Result<Arc<DirectoryIndex>, LayerError> {
        if let Some(index) = self.indexes.lock().get(&ino) {
            return Ok(index);
        }
        let mut index = DirectoryIndex::default();
        let mut cursor = self.inode_table_cursor(body.index);
        let mut first = [0; 256];
        for _ in 0..body.indexes {
            let raw: [u8; 12] = cursor.array()?;
            let (before, block) = (u32_at(&raw, 0), u32_at(&raw, 4));
            let len = u32_at(&raw, 8);
            if len >= 255 || before > body.listing {
                return Err(self.bad_inode(ino, "a directory index beyond its bounds"));
            }
            let first = &mut first[..len as usize + 1];
            cursor.read(first)?;
            if index.runs.last().is_some_and(|last| *index.name(last) > *first) {
                // What is out of order is of no use: lookups go on from what is in order.
                break;
            }
            index.names.extend_from_slice(first);
            index.runs.push(Run {
                name_end: index.names.len() as u32,
                name_len: len + 1,
                block,
                before,
            });
        }
        let index = Arc::new(index);
        self.indexes.lock().insert(ino, index.clone());
        Ok(index)
    }

    /// Where in the listing the run begins that would hold `name`: a metadata block relative to
    /// the directory table, and the bytes of the listing before it.
    fn find_run(
        &self,
        ino: LayerIno,
        body: &DirectoryBody,
        name: &[u8],
    ) -> Result<(u32, u32), LayerError> {
        let index = self.index(ino, body)?;
        let behind = index.runs.partition_point(|run| index.name(run) <= name);
        Ok(match behind.checked_sub(1) {
            Some(at) => (index.runs[at].block, index.runs[at].before),
            None => (body.start_block, 0),
        })
    }

    /// The entry `name` of the directory `ino`.
    pub(super) fn find_entry(
        &self,
        ino: LayerIno,
        name: &[u8],
    ) -> Result<Option<LayerEntry>, LayerError> {
        let body = self.directory(ino)?;
        if body.listing == 0 || name.is_empty() || name.len() > 255 {
            return Ok(None);
        }
        let indexed = body.indexes > 0;
        let (block, skipped) =
            if indexed { self.find_run(ino, &body, name)? } else { (body.start_block, 0) };
        let mut walk = self.walk(ino, &body, block, skipped)?;
        while let Some(entry) = walk.next()? {
            let at = &walk.name[..entry.name_len];
            if at == name {
                return walk.resolve(&entry).map(Some);
            }
            // An index is only of use where names are in order, so it vouches for the order. A
            // short listing is read to its end, and found right even if unsorted.
            if indexed && at > name {
                break;
            }
        }
        Ok(None)
    }

    /// All entries of the directory `ino`, in order.
    pub(super) fn list(&self, ino: LayerIno) -> Result<Vec<LayerDirEntry>, LayerError> {
        let body = self.directory(ino)?;
        let mut entries: Vec<LayerDirEntry> = Vec::new();
        if body.listing == 0 {
            return Ok(entries);
        }
        let mut sorted = true;
        let mut walk = self.walk(ino, &body, body.start_block, 0)?;
        while let Some(raw) = walk.next()? {
            let name = &walk.name[..raw.name_len];
            sorted = sorted && entries.last().is_none_or(|last| *last.name < *name);
            if !sorted && entries.len() >= UNSORTED_LIMIT {
                return Err(walk.bad("its names are not in order"));
            }
            entries.push(LayerDirEntry { name: name.into(), entry: walk.resolve(&raw)? });
        }
        if !sorted {
            entries.sort_by(|a, b| a.name.cmp(&b.name));
            if let Some(twice) = entries.windows(2).find(|pair| pair[0].name == pair[1].name) {
                let name = twice[0].name.escape_ascii();
                return Err(walk.bad(format!("the name \"{name}\" stands twice")));
            }
        }
        Ok(entries)
    }
}
