//! Directories: listings in the directory table, with an index for lookups.
//!
//! Follows `fs/squashfs/dir.c` and `namei.c`. A listing is a sequence of runs: a header (number of
//! entries, and their common inode metadata block), followed by the entries. Entries are sorted by
//! name over the whole directory. An extended directory inode ends with an index: for every
//! metadata block of the listing, the first name of its first run. So a lookup reads one block of
//! the listing instead of all.
//!
//! An inode stores the size of its listing plus 3, for the kernel's `.` and `..`. Some writers
//! (tar2sqfs before 1.1.3, go-diskfs) omit these 3 bytes. The kernel checks the size only at the
//! start of a run, so it lists both kinds of images completely, and [`DirectoryWalk`] does the
//! same.
//!
//! Invariants:
//! - A run that begins within the stored size is read completely. A run has at most 256 entries, so
//!   a walk ends at most one run after the stored size.
//! - Every returned name is valid and unique. An unsorted directory, which no known writer
//!   produces, is listed correctly up to a limit.
//! - Whiteouts (character devices 0:0) are returned as [`LayerEntry::Whiteout`].

use std::sync::Arc;

use super::METADATA_SIZE;
use super::SquashfsLayer;
use super::cache::{ENTRY_COST, Weigh};
use super::image::{u16_at, u32_at};
use super::inode::{DirectoryBody, SquashfsBody};
use super::metadata::{Cursor, MetadataPos};
use crate::attr::{Device, FileType};
use crate::error::LayerError;
use crate::layer::{LayerDirEntry, LayerEntry, LayerIno};

/// Maximum number of entries in a run (`SQUASHFS_DIR_COUNT`).
const MAX_RUN_ENTRIES: u32 = 256;
/// Maximum number of entries in an unsorted directory. Sorted names cannot repeat, so memory is
/// bounded by the image's size; without order, this limit bounds it.
const MAX_UNSORTED_ENTRIES: usize = 1 << 16;

/// A stored entry. Its name is in the buffer of the walk.
struct RawEntry {
    ino: LayerIno,
    kind: u16,
    name_len: usize,
}

/// The decoded index of a directory, so that a lookup in a large directory does not read all of it:
/// for 500,000 names it has 1,300 entries.
#[derive(Default)]
pub(super) struct DirectoryIndex {
    /// The first names of all runs, concatenated.
    names: Vec<u8>,
    runs: Vec<EntryRun>,
}

/// A run with an entry in the index.
struct EntryRun {
    name_end: u32,
    name_len: u32,
    /// Its metadata block relative to the directory table, and the number of bytes of the listing
    /// before it.
    block: u32,
    before: u32,
}

impl DirectoryIndex {
    fn name(&self, run: &EntryRun) -> &[u8] {
        let end = run.name_end as usize;
        &self.names[end - run.name_len as usize..end]
    }
}

impl Weigh for Arc<DirectoryIndex> {
    fn weight(&self) -> usize {
        self.names.capacity() + self.runs.capacity() * size_of::<EntryRun>() + ENTRY_COST
    }
}

/// An iterator over a listing.
struct DirectoryWalk<'a> {
    layer: &'a SquashfsLayer,
    cursor: Cursor<'a>,
    directory: LayerIno,
    /// Bytes of the listing after the cursor, by the stored size; 0 in a run that extends beyond
    /// it.
    left: u64,
    /// Remaining entries of the run, and their common inode block.
    run: u32,
    inode_block: u32,
    name: [u8; 256],
}

impl DirectoryWalk<'_> {
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
            if count >= MAX_RUN_ENTRIES {
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

    /// Returns the object or whiteout of a stored entry.
    fn resolve(&self, entry: &RawEntry) -> Result<LayerEntry, LayerError> {
        let kind = match entry.kind {
            1 => FileType::Directory,
            2 => FileType::Regular,
            3 => FileType::Symlink,
            4 => FileType::BlockDevice,
            5 => {
                // Only the inode distinguishes a whiteout from a device.
                return match self.layer.inode(entry.ino)?.body {
                    SquashfsBody::Device(device) if device == Device::default() => {
                        Ok(LayerEntry::Whiteout)
                    }
                    SquashfsBody::Device(_) => {
                        Ok(LayerEntry::Object { ino: entry.ino, kind: FileType::CharDevice })
                    }
                    _ => Err(self.bad("a device entry for an inode of another type")),
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
            SquashfsBody::Directory(directory) => Ok(directory),
            _ => Err(self.bad_inode(ino, "not a directory")),
        }
    }

    /// Returns an iterator over the listing of `body` that begins at the metadata block `block`
    /// (relative to the directory table), after `skipped` bytes of the listing.
    fn walk(
        &self,
        directory: LayerIno,
        body: &DirectoryBody,
        block: u32,
        skipped: u32,
    ) -> Result<DirectoryWalk<'_>, LayerError> {
        let table = &self.superblock.directory_table;
        let offset = (u64::from(body.offset) + u64::from(skipped)) % METADATA_SIZE as u64;
        let pos = MetadataPos {
            block: table.start.saturating_add(block.into()),
            // The start of a listing may be anywhere in its block, but not beyond it.
            offset: if skipped == 0 { body.offset.into() } else { offset as usize },
        };
        Ok(DirectoryWalk {
            layer: self,
            cursor: self.metadata.cursor(table, "directory table", pos),
            directory,
            left: u64::from(body.listing - skipped.min(body.listing)),
            run: 0,
            inode_block: 0,
            name: [0; 256],
        })
    }

    /// Returns the index of a directory, from the cache if possible.
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
                return Err(self.bad_inode(ino, "a directory index out of bounds"));
            }
            let first = &mut first[..len as usize + 1];
            cursor.read(first)?;
            if index.runs.last().is_some_and(|last| *index.name(last) > *first) {
                // Ignore the rest of an unsorted index: lookups continue from the sorted part.
                break;
            }
            index.names.extend_from_slice(first);
            index.runs.push(EntryRun {
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

    /// Returns the position of the run that would contain `name`: a metadata block relative to the
    /// directory table, and the number of bytes of the listing before it.
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

    /// Looks up `name` in the directory `ino`.
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
            // Directories with an index are sorted. A short listing without an index is read to its
            // end, which also finds names in unsorted ones.
            if indexed && at > name {
                break;
            }
        }
        Ok(None)
    }

    /// Returns all entries of the directory `ino`, sorted.
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
            if !sorted && entries.len() >= MAX_UNSORTED_ENTRIES {
                return Err(walk.bad("too many unsorted names"));
            }
            entries.push(LayerDirEntry { name: name.into(), entry: walk.resolve(&raw)? });
        }
        if !sorted {
            entries.sort_by(|a, b| a.name.cmp(&b.name));
            if let Some(twice) = entries.windows(2).find(|pair| pair[0].name == pair[1].name) {
                let name = twice[0].name.escape_ascii();
                return Err(walk.bad(format!("duplicate name \"{name}\"")));
            }
        }
        Ok(entries)
    }
}
