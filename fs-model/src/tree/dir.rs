//! Directories of the tree and their differences from the layers.
//!
//! Invariants:
//! - A directory is in memory from its first lookup until it is forgotten. One that is `dirty`,
//!   because it or something below it changed, is never forgotten; its ancestors are dirty too.
//! - [`DirChanges`] holds the names that the upper decides. A name that the layers lack is in it
//!   only while it exists. A name that the layers have stays in it after its removal, as
//!   [`Slot::Whiteout`].
//! - The position of a name in a listing is fixed while the name exists: names of the layers come
//!   first, in the order of the sorted listing, then the others, newest first. So an offset stays
//!   valid across changes, and a program that renames or recreates what it lists terminates,
//!   because new names never appear after its position.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

use super::Ino;
use super::space::entry_cost;
use crate::attr::FileType;
use crate::stack::LowerDirs;

/// An object and its type, as a directory entry refers to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EntryTarget {
    pub(crate) ino: Ino,
    pub(crate) kind: FileType,
}

/// The state of a name that the upper decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    Present(EntryTarget),
    /// The name exists in the layers and was removed.
    Whiteout,
    /// An entry of the sandbox. Boxed, because there are few of them.
    Scratch(Box<Scratch>),
}

impl Slot {
    /// Returns the object that the tree shows.
    pub(crate) fn shown(&self) -> Option<EntryTarget> {
        match self {
            Slot::Present(target) => Some(*target),
            Slot::Scratch(scratch) => Some(scratch.shown),
            Slot::Whiteout => None,
        }
    }
}

/// A scratch entry: the tree shows `shown`, the delta uses `covered`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scratch {
    pub(crate) shown: EntryTarget,
    pub(crate) covered: Covered,
}

/// The state of a name before a scratch entry covered it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Covered {
    /// As in the layers, where the name may exist or not.
    Layers,
    /// An object of the upper.
    Object(EntryTarget),
    /// The name was removed, or never existed.
    Nothing,
}

/// A name that the upper decides.
#[derive(Clone, Debug)]
pub(crate) struct NamedSlot {
    pub(crate) name: Box<[u8]>,
    /// Whether the layers have this name.
    pub(crate) in_layers: bool,
    pub(crate) slot: Slot,
}

/// A slot and its number in creation order; `slot` is `None` after removal.
#[derive(Clone, Debug)]
struct SequencedSlot {
    seq: u64,
    slot: Option<NamedSlot>,
}

/// The names of a directory that the upper decides.
#[derive(Clone, Debug, Default)]
pub(crate) struct DirChanges {
    /// Sorted by `seq`.
    slots: Vec<SequencedSlot>,
    /// Maps the hash of a name to its index in `slots`.
    index: HashTable<u32>,
    hasher: DefaultHashBuilder,
    next_seq: u64,
    removed: usize,
}

/// Maximum number of names in one directory's changes.
const MAX_NAMES: usize = u32::MAX as usize;

impl DirChanges {
    /// Memory charged for the names.
    pub(crate) fn cost(&self) -> u64 {
        self.iter().map(|i| entry_cost(&i.name)).sum()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Returns whether one more name fits.
    pub(crate) fn has_room(&self) -> bool {
        self.slots.len() < MAX_NAMES
    }

    #[cfg(test)]
    pub(crate) fn capacity(&self) -> usize {
        self.slots.capacity().max(self.index.capacity())
    }

    fn is_named(slots: &[SequencedSlot], at: u32, name: &[u8]) -> bool {
        slots[at as usize].slot.as_ref().is_some_and(|i| *i.name == *name)
    }

    fn position(&self, name: &[u8]) -> Option<usize> {
        let hash = self.hasher.hash_one(name);
        self.index.find(hash, |&at| Self::is_named(&self.slots, at, name)).map(|&at| at as usize)
    }

    pub(crate) fn get(&self, name: &[u8]) -> Option<&NamedSlot> {
        self.slots[self.position(name)?].slot.as_ref()
    }

    fn index_insert(&mut self, at: u32) {
        let (slots, hasher) = (&self.slots, &self.hasher);
        let hash_at =
            |at: u32| slots[at as usize].slot.as_ref().map_or(0, |i| hasher.hash_one(&*i.name));
        self.index.insert_unique(hash_at(at), at, |&at| hash_at(at));
    }

    /// Sets the state of `name`. Returns whether `name` is new here.
    pub(crate) fn set(&mut self, name: &[u8], slot: Slot, in_layers: bool) -> bool {
        if let Some(at) = self.position(name) {
            if let Some(item) = &mut self.slots[at].slot {
                item.slot = slot;
            }
            return false;
        }
        let at = self.slots.len() as u32;
        let item = NamedSlot { name: name.into(), in_layers, slot };
        self.slots.push(SequencedSlot { seq: self.next_seq, slot: Some(item) });
        self.next_seq += 1;
        self.index_insert(at);
        true
    }

    /// Removes `name`, so that the layers' state applies. Returns whether it was here.
    pub(crate) fn unset(&mut self, name: &[u8]) -> bool {
        let hash = self.hasher.hash_one(name);
        let slots = &self.slots;
        let found = self.index.find_entry(hash, |&at| Self::is_named(slots, at, name));
        let Ok(entry) = found else { return false };
        let (at, _) = entry.remove();
        self.slots[at as usize].slot = None;
        self.removed += 1;
        if self.removed > 32 && self.removed * 2 > self.slots.len() {
            self.compact();
        }
        true
    }

    fn compact(&mut self) {
        self.slots.retain(|p| p.slot.is_some());
        self.slots.shrink_to_fit();
        self.removed = 0;
        self.index = HashTable::with_capacity(self.slots.len());
        for at in 0..self.slots.len() as u32 {
            self.index_insert(at);
        }
    }

    /// Iterates over all names, in creation order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &NamedSlot> {
        self.slots.iter().filter_map(|p| p.slot.as_ref())
    }

    /// Iterates over the names that the layers lack and that were created before number `seq`,
    /// newest first, with their numbers.
    pub(crate) fn own_before(&self, seq: u64) -> impl Iterator<Item = (u64, &NamedSlot)> {
        let behind = self.slots.partition_point(|p| p.seq < seq);
        self.slots[..behind]
            .iter()
            .rev()
            .filter_map(|p| p.slot.as_ref().filter(|i| !i.in_layers).map(|i| (p.seq, i)))
    }
}

/// A directory in memory.
#[derive(Debug)]
pub(crate) struct Dir {
    /// The parent; for a removed directory, the last one. The root is its own parent.
    pub(crate) parent: Ino,
    pub(crate) name: Box<[u8]>,
    /// The directories of layers that are merged into this one; empty for a new directory.
    pub(crate) sources: LowerDirs,
    pub(crate) changes: DirChanges,
    /// This directory or something below it changed, so it must not be forgotten.
    pub(crate) dirty: bool,
    /// Number of directories in memory whose parent is this one.
    pub(crate) children: u32,
    /// Number of visible subdirectories, once counted.
    pub(crate) subdirs: Option<u32>,
}
