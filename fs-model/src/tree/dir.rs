//! A directory of the tree, as far as it differs from what the layers have.
//!
//! Invariants:
//! - A directory is in memory from when it is first looked up until it is forgotten, unless it, or
//!   something below it, has changed: then it stays (`touched`, and so are all above it).
//! - [`Changes`] holds the names that the upper decides. A name that the layers do not have is in
//!   it only while it exists: made and removed again, it leaves no trace. A name that the layers
//!   have stays in it, as [`Slot::Absent`] once it is gone.
//! - The place of a name in a listing never changes while it exists: the layers' names stand where
//!   their sorted listing has them, the others behind them, the newest first. So an offset stays
//!   good whatever is made or removed between two reads, and who renames or makes anew what it
//!   finds comes to an end: nothing new is ever in front of it.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

use super::Ino;
use super::space::entry_cost;
use crate::attr::FileType;
use crate::stack::Sources;

/// An object and its type, as a directory entry names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) ino: Ino,
    pub(crate) kind: FileType,
}

/// What the upper says of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    Present(Target),
    /// The name exists in the layers and is gone here.
    Absent,
    /// What the sandbox put here for itself. Boxed, because there are few of them.
    Scratch(Box<Scratch>),
}

impl Slot {
    /// What the view shows.
    pub(crate) fn shown(&self) -> Option<Target> {
        match self {
            Slot::Present(target) => Some(*target),
            Slot::Scratch(scratch) => Some(scratch.shown),
            Slot::Absent => None,
        }
    }
}

/// A scratch entry: the view shows `shown`, the delta takes what is `beneath` for the truth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scratch {
    pub(crate) shown: Target,
    pub(crate) beneath: Beneath,
}

/// What a name was before a scratch entry was laid over it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beneath {
    /// As in the layers, be that something or nothing.
    Layers,
    /// An object that the upper had decided on.
    Object(Target),
    /// Removed.
    Absent,
}

/// A name that the upper decides.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) name: Box<[u8]>,
    /// Whether the layers have this name.
    pub(crate) in_layers: bool,
    pub(crate) slot: Slot,
}

/// Where an item lies: its number in the order in which names were made, and the item unless it
/// was removed.
#[derive(Clone, Debug)]
struct Place {
    seq: u64,
    item: Option<Item>,
}

/// The names of a directory that the upper decides.
#[derive(Clone, Debug, Default)]
pub(crate) struct Changes {
    /// Sorted by `seq`.
    places: Vec<Place>,
    /// From a name's hash to its place.
    index: HashTable<u32>,
    hasher: DefaultHashBuilder,
    next_seq: u64,
    removed: usize,
}

/// More names than this the upper of one directory does not take.
const MAX_NAMES: usize = u32::MAX as usize;

impl Changes {
    /// What its names are charged with.
    pub(crate) fn cost(&self) -> u64 {
        self.iter().map(|i| entry_cost(&i.name)).sum()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Whether there is room for one more name.
    pub(crate) fn has_room(&self) -> bool {
        self.places.len() < MAX_NAMES
    }

    #[cfg(test)]
    pub(crate) fn capacity(&self) -> usize {
        self.places.capacity().max(self.index.capacity())
    }

    fn is_named(places: &[Place], at: u32, name: &[u8]) -> bool {
        places[at as usize].item.as_ref().is_some_and(|i| *i.name == *name)
    }

    fn position(&self, name: &[u8]) -> Option<usize> {
        let hash = self.hasher.hash_one(name);
        self.index.find(hash, |&at| Self::is_named(&self.places, at, name)).map(|&at| at as usize)
    }

    pub(crate) fn get(&self, name: &[u8]) -> Option<&Item> {
        self.places[self.position(name)?].item.as_ref()
    }

    fn index_insert(&mut self, at: u32) {
        let (places, hasher) = (&self.places, &self.hasher);
        let hash_at =
            |at: u32| places[at as usize].item.as_ref().map_or(0, |i| hasher.hash_one(&*i.name));
        self.index.insert_unique(hash_at(at), at, |&at| hash_at(at));
    }

    /// Sets what `name` is. Returns whether the name is new here.
    pub(crate) fn set(&mut self, name: &[u8], slot: Slot, in_layers: bool) -> bool {
        if let Some(at) = self.position(name) {
            if let Some(item) = &mut self.places[at].item {
                item.slot = slot;
            }
            return false;
        }
        let at = self.places.len() as u32;
        let item = Item { name: name.into(), in_layers, slot };
        self.places.push(Place { seq: self.next_seq, item: Some(item) });
        self.next_seq += 1;
        self.index_insert(at);
        true
    }

    /// Forgets `name`: from now on it is as the layers have it. Returns whether it was here.
    pub(crate) fn unset(&mut self, name: &[u8]) -> bool {
        let hash = self.hasher.hash_one(name);
        let places = &self.places;
        let found = self.index.find_entry(hash, |&at| Self::is_named(places, at, name));
        let Ok(entry) = found else { return false };
        let (at, _) = entry.remove();
        self.places[at as usize].item = None;
        self.removed += 1;
        if self.removed > 32 && self.removed * 2 > self.places.len() {
            self.compact();
        }
        true
    }

    fn compact(&mut self) {
        self.places.retain(|p| p.item.is_some());
        self.places.shrink_to_fit();
        self.removed = 0;
        self.index = HashTable::with_capacity(self.places.len());
        for at in 0..self.places.len() as u32 {
            self.index_insert(at);
        }
    }

    /// All names, in the order in which they were made.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Item> {
        self.places.iter().filter_map(|p| p.item.as_ref())
    }

    /// The names that the layers do not have and that were made before number `seq`, with their
    /// numbers, the newest first.
    pub(crate) fn own_before(&self, seq: u64) -> impl Iterator<Item = (u64, &Item)> {
        let behind = self.places.partition_point(|p| p.seq < seq);
        self.places[..behind]
            .iter()
            .rev()
            .filter_map(|p| p.item.as_ref().filter(|i| !i.in_layers).map(|i| (p.seq, i)))
    }
}

/// A directory in memory.
#[derive(Debug)]
pub(crate) struct Dir {
    /// Where it lies; of a removed directory, where it lay. The root is its own parent.
    pub(crate) parent: Ino,
    pub(crate) name: Box<[u8]>,
    /// The layers' directories that show through; none for a directory made here.
    pub(crate) sources: Sources,
    pub(crate) changes: Changes,
    /// This or something below it changed: it is not forgotten.
    pub(crate) touched: bool,
    /// How many directories in memory have this one as their parent.
    pub(crate) children: u32,
    /// Subdirectories as the view has them, once counted.
    pub(crate) subdirs: Option<u32>,
}
