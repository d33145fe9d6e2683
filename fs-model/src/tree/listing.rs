//! Listing directories.
//!
//! A listing is `.`, `..`, the layers' names in sorted order, then the upper's own, the newest
//! first. The offset behind an entry names its place in that order, so it stays good whatever is
//! made or removed meanwhile, and needs no open handle. What is made while somebody lists the
//! upper's own stands behind the reader, who thus comes to an end.

use std::sync::Arc;

use lru::LruCache;

use super::dir::Target;
use super::{Entry, Ino, State, Tree};
use crate::attr::FileType;
use crate::error::FsError;
use crate::stack::{Listed, Stack};

/// How many bytes of the layers' listings are kept.
const LISTINGS_BYTES: usize = 8 << 20;
/// How many of the newest listings are kept whatever their size until they were read to their end:
/// as many as go on listing large directories at once, a page in turn, do not have them made anew
/// for each page.
const LISTINGS_IN_USE: usize = 8;
/// Offsets: 1 stands behind `.`, 2 behind `..`, and place `n` of the rest is `n + 3` behind it.
const FIRST_PLACE: u64 = 2;
/// The places of the upper's names, behind those of the layers, are counted down from here: more
/// names than that are never made.
const OWN_PLACES: u64 = 1 << 48;

/// Recently used listings of the layers' part of directories.
#[derive(Debug)]
pub(super) struct Listings {
    cache: LruCache<Ino, (Arc<[Listed]>, usize)>,
    bytes: usize,
}

impl Default for Listings {
    fn default() -> Self {
        Listings { cache: LruCache::unbounded(), bytes: 0 }
    }
}

impl Listings {
    fn get(&mut self, dir: Ino) -> Option<Arc<[Listed]>> {
        self.cache.get(&dir).map(|(listing, _)| listing.clone())
    }

    fn insert(&mut self, dir: Ino, listing: Arc<[Listed]>) {
        let size = listing.iter().map(|l| l.name.len() + size_of::<Listed>() + 16).sum::<usize>();
        self.bytes += size;
        if let Some((_, (_, old))) = self.cache.push(dir, (listing, size)) {
            self.bytes -= old;
        }
        while self.bytes > LISTINGS_BYTES && self.cache.len() > LISTINGS_IN_USE {
            if let Some((_, (_, old))) = self.cache.pop_lru() {
                self.bytes -= old;
            }
        }
    }

    /// The listing of `dir` was read to its end: it may go if there is too much.
    fn read_to_its_end(&mut self, dir: Ino) {
        if self.bytes > LISTINGS_BYTES {
            self.remove(dir);
        }
    }

    pub(super) fn remove(&mut self, dir: Ino) {
        if let Some((_, old)) = self.cache.pop(&dir) {
            self.bytes -= old;
        }
    }
}

/// An entry of a listing.
#[derive(Clone, Copy, Debug)]
pub struct DirItem<'a> {
    /// Its name.
    pub name: &'a [u8],
    /// The object's number.
    pub ino: Ino,
    /// The object's type.
    pub kind: FileType,
    /// Where the next read has to begin to go on behind this entry.
    pub next: u64,
}

impl Tree {
    /// Lists `dir` from `offset` on (0 is the beginning), until `take` returns `false`: it has no
    /// room for the entry that it was given.
    pub fn read_dir(
        &self,
        dir: Ino,
        offset: u64,
        mut take: impl FnMut(DirItem<'_>) -> bool,
    ) -> Result<(), FsError> {
        let mut state = self.state.lock();
        state.list(&self.stack, dir, offset, &mut |_, item| Ok(take(item)))
    }

    /// Like [`Tree::read_dir`], with each object's attributes. Every entry that is taken, `.` and
    /// `..` excepted, holds a reference.
    pub fn read_dir_plus(
        &self,
        dir: Ino,
        offset: u64,
        mut take: impl FnMut(DirItem<'_>, &Entry) -> bool,
    ) -> Result<(), FsError> {
        let mut state = self.state.lock();
        let stack = &self.stack;
        state.list(stack, dir, offset, &mut |state, item| {
            // A directory has to be in memory before anybody can ask for it.
            if item.next > FIRST_PLACE && item.kind == FileType::Directory {
                state.find(stack, dir, item.name)?;
            }
            let attr = state.attr(stack, item.ino)?;
            let taken = take(item, &Entry { ino: item.ino, attr });
            if taken && item.next > FIRST_PLACE {
                state.retain(item.ino, dir);
            } else if !taken && item.next > FIRST_PLACE {
                state.drop_if_unused(&self.space, item.ino);
            }
            Ok(taken)
        })
    }
}

type Take<'a> = dyn FnMut(&mut State, DirItem<'_>) -> Result<bool, FsError> + 'a;

impl State {
    /// The layers' names of `dir`.
    pub(super) fn listing(&mut self, stack: &Stack, dir: Ino) -> Result<Arc<[Listed]>, FsError> {
        let sources = &self.dir(stack, dir)?.sources;
        if sources.is_empty() {
            return Ok(Arc::default());
        }
        let sources = sources.clone();
        if let Some(listing) = self.listings.get(dir) {
            return Ok(listing);
        }
        let listing: Arc<[Listed]> = stack.list(&sources)?.into();
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
        let mut taken_any = offset < FIRST_PLACE;
        let mut place = offset.saturating_sub(FIRST_PLACE);
        while let Some(listed) = usize::try_from(place).ok().and_then(|at| listing.get(at)) {
            let target = match self.dir(stack, dir)?.changes.get(&listed.name) {
                Some(item) => item.slot.shown(),
                None => Some(Target { ino: listed.ino, kind: listed.kind }),
            };
            place += 1;
            let Some(target) = target else { continue };
            let next = FIRST_PLACE + place;
            let item = DirItem { name: &listed.name, ino: target.ino, kind: target.kind, next };
            if !take(self, item)? {
                return Ok(());
            }
            taken_any = true;
        }
        let below = listing.len() as u64;
        let mut before = OWN_PLACES - (place - below.min(place)).min(OWN_PLACES);
        // In batches, because `take` needs the state that the names lie in.
        loop {
            let batch: Vec<(u64, Box<[u8]>, Target)> = self
                .dir(stack, dir)?
                .changes
                .own_before(before)
                .filter_map(|(seq, i)| i.slot.shown().map(|target| (seq, i.name.clone(), target)))
                .take(64)
                .collect();
            let Some(last) = batch.last() else {
                // The page behind the last one is asked for too, and is empty.
                if !taken_any {
                    self.listings.read_to_its_end(dir);
                }
                return Ok(());
            };
            before = last.0;
            for (seq, name, target) in batch {
                let next = FIRST_PLACE + below + OWN_PLACES - seq;
                let item = DirItem { name: &name, ino: target.ino, kind: target.kind, next };
                if !take(self, item)? {
                    return Ok(());
                }
                taken_any = true;
            }
        }
    }
}
