//! Listing directories.
//!
//! A listing contains `.`, `..`, the layers' names in sorted order, then the names that only the
//! upper has, newest first. The offset after an entry is a position in that order. So it stays
//! valid across changes and needs no open handle, and a reader terminates while others add names,
//! because new names are positioned before it.

use std::sync::Arc;

use lru::LruCache;

use super::dir::EntryTarget;
use super::{Entry, Ino, Tree, TreeState};
use crate::attr::FileType;
use crate::error::FsError;
use crate::stack::{LowerDirEntry, Stack};

/// Maximum size of the cached listings of layers, in bytes.
const MAX_CACHED_LISTING_BYTES: usize = 8 << 20;
/// Number of listings that are cached regardless of size until they were read to the end, so that
/// several readers that alternate between large directories do not list them again for each page.
const MIN_CACHED_LISTINGS: usize = 8;
/// Offsets: 1 is after `.`, 2 after `..`, and `n + 3` after entry `n` of the rest.
const FIRST_POSITION: u64 = 2;
/// Positions of the upper's names, after those of the layers, are counted down from here. There are
/// never more names than this.
const UPPER_POSITIONS: u64 = 1 << 48;

/// Cache of the layers' listings of directories.
#[derive(Debug)]
pub(super) struct Listings {
    cache: LruCache<Ino, (Arc<[LowerDirEntry]>, usize)>,
    bytes: usize,
}

impl Default for Listings {
    fn default() -> Self {
        Listings { cache: LruCache::unbounded(), bytes: 0 }
    }
}

impl Listings {
    fn get(&mut self, dir: Ino) -> Option<Arc<[LowerDirEntry]>> {
        self.cache.get(&dir).map(|(listing, _)| listing.clone())
    }

    fn insert(&mut self, dir: Ino, listing: Arc<[LowerDirEntry]>) {
        let size =
            listing.iter().map(|l| l.name.len() + size_of::<LowerDirEntry>() + 16).sum::<usize>();
        self.bytes += size;
        if let Some((_, (_, old))) = self.cache.push(dir, (listing, size)) {
            self.bytes -= old;
        }
        while self.bytes > MAX_CACHED_LISTING_BYTES && self.cache.len() > MIN_CACHED_LISTINGS {
            if let Some((_, (_, old))) = self.cache.pop_lru() {
                self.bytes -= old;
            }
        }
    }

    /// Removes the listing of `dir`, which was read to its end, if the cache is too large.
    fn remove_after_last_page(&mut self, dir: Ino) {
        if self.bytes > MAX_CACHED_LISTING_BYTES {
            self.remove(dir);
        }
    }

    pub(super) fn remove(&mut self, dir: Ino) {
        if let Some((_, old)) = self.cache.pop(&dir) {
            self.bytes -= old;
        }
    }
}

/// An entry of a directory listing.
#[derive(Clone, Copy, Debug)]
pub struct DirItem<'a> {
    /// The name.
    pub name: &'a [u8],
    /// The inode number of the object.
    pub ino: Ino,
    /// The type of the object.
    pub kind: FileType,
    /// The offset at which to continue after this entry.
    pub next: u64,
}

impl Tree {
    /// Lists `dir` from `offset` (0 for the start) until `take` returns `false` because it has no
    /// room for the entry.
    ///
    /// # Errors
    /// [`FsError::NotADirectory`], [`FsError::Stale`] or [`FsError::Layer`].
    pub fn read_dir(
        &self,
        dir: Ino,
        offset: u64,
        mut take: impl FnMut(DirItem<'_>) -> bool,
    ) -> Result<(), FsError> {
        let mut state = self.state.lock();
        state.list(&self.stack, dir, offset, &mut |_, item| Ok(take(item)))
    }

    /// Like [`Tree::read_dir`], with the attributes of each object. Adds a reference for every
    /// entry that is taken, except `.` and `..`.
    ///
    /// # Errors
    /// See [`Tree::read_dir`].
    pub fn read_dir_plus(
        &self,
        dir: Ino,
        offset: u64,
        mut take: impl FnMut(DirItem<'_>, &Entry) -> bool,
    ) -> Result<(), FsError> {
        let mut state = self.state.lock();
        let stack = &self.stack;
        state.list(stack, dir, offset, &mut |state, item| {
            // A directory must be in memory before it is used.
            if item.next > FIRST_POSITION && item.kind == FileType::Directory {
                state.find(stack, dir, item.name)?;
            }
            let attr = state.attr(stack, item.ino)?;
            let is_stand_in = state.is_stand_in(item.ino);
            let taken = take(item, &Entry { ino: item.ino, attr, is_stand_in });
            if taken && item.next > FIRST_POSITION {
                state.retain(item.ino, dir);
            } else if !taken && item.next > FIRST_POSITION {
                state.drop_if_unused(&self.space, item.ino);
            }
            Ok(taken)
        })
    }
}

type Take<'a> = dyn FnMut(&mut TreeState, DirItem<'_>) -> Result<bool, FsError> + 'a;

impl TreeState {
    /// Returns the layers' part of the listing of `dir`.
    pub(super) fn listing(
        &mut self,
        stack: &Stack,
        dir: Ino,
    ) -> Result<Arc<[LowerDirEntry]>, FsError> {
        let sources = &self.dir(stack, dir)?.sources;
        if sources.is_empty() {
            return Ok(Arc::default());
        }
        let sources = sources.clone();
        if let Some(listing) = self.listings.get(dir) {
            return Ok(listing);
        }
        let listing: Arc<[LowerDirEntry]> = stack.list(&sources)?.into();
        self.listings.insert(dir, listing.clone());
        Ok(listing)
    }

    pub(super) fn is_empty(&mut self, stack: &Stack, dir: Ino) -> Result<bool, FsError> {
        let changes = &self.dir(stack, dir)?.changes;
        if changes.iter().any(|i| i.slot.shown().is_some()) {
            return Ok(false);
        }
        let listing = self.listing(stack, dir)?;
        let changes = &self.dir(stack, dir)?.changes;
        Ok(listing.iter().all(|l| changes.get(&l.name).is_some()))
    }

    fn list(
        &mut self,
        stack: &Stack,
        dir: Ino,
        offset: u64,
        take: &mut Take<'_>,
    ) -> Result<(), FsError> {
        let parent = self.dir(stack, dir)?.parent;
        for (place, name, ino) in [(0, &b"."[..], dir), (1, b"..", parent)] {
            let item = DirItem { name, ino, kind: FileType::Directory, next: place + 1 };
            if offset <= place && !take(self, item)? {
                return Ok(());
            }
        }
        let listing = self.listing(stack, dir)?;
        let mut taken_any = offset < FIRST_POSITION;
        let mut place = offset.saturating_sub(FIRST_POSITION);
        while let Some(listed) = usize::try_from(place).ok().and_then(|at| listing.get(at)) {
            let target = match self.dir(stack, dir)?.changes.get(&listed.name) {
                Some(item) => item.slot.shown(),
                None => Some(EntryTarget { ino: listed.ino, kind: listed.kind }),
            };
            place += 1;
            let Some(target) = target else { continue };
            let next = FIRST_POSITION + place;
            let item = DirItem { name: &listed.name, ino: target.ino, kind: target.kind, next };
            if !take(self, item)? {
                return Ok(());
            }
            taken_any = true;
        }
        let below = listing.len() as u64;
        let mut before = UPPER_POSITIONS - (place - below.min(place)).min(UPPER_POSITIONS);
        // In batches, because `take` needs the state that owns the names.
        loop {
            let batch: Vec<(u64, Box<[u8]>, EntryTarget)> = self
                .dir(stack, dir)?
                .changes
                .own_before(before)
                .filter_map(|(seq, i)| i.slot.shown().map(|target| (seq, i.name.clone(), target)))
                .take(64)
                .collect();
            let Some(last) = batch.last() else {
                // An empty page at the end: the reader is done.
                if !taken_any {
                    self.listings.remove_after_last_page(dir);
                }
                return Ok(());
            };
            before = last.0;
            for (seq, name, target) in batch {
                let next = FIRST_POSITION + below + UPPER_POSITIONS - seq;
                let item = DirItem { name: &name, ino: target.ino, kind: target.kind, next };
                if !take(self, item)? {
                    return Ok(());
                }
                taken_any = true;
            }
        }
    }
}
