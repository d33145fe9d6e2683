//! How much memory the upper may take, and how much it takes.
//!
//! Invariant: what is charged is what the upper holds: capacities of chunks, names, and a fixed
//! price for each inode and directory entry. Deleting never needs room.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::FsError;

/// What an inode of the upper costs beside its data: the record, its place in the table, and the
/// allocator's share, in bytes.
pub(crate) const INODE_COST: u64 = 320;
/// What an entry of a changed directory costs beside its name, in bytes.
const ENTRY_COST: u64 = 72;

/// What a changed directory is charged with for an entry called `name`.
pub(crate) fn entry_cost(name: &[u8]) -> u64 {
    ENTRY_COST + name.len() as u64
}

/// The account of the upper's memory.
#[derive(Debug)]
pub(crate) struct Space {
    limit: u64,
    used: AtomicU64,
}

impl Space {
    pub(crate) fn new(limit: u64) -> Self {
        Space { limit, used: AtomicU64::new(0) }
    }

    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Takes `bytes`, or says that there is no room and takes nothing.
    pub(crate) fn charge(&self, bytes: u64) -> Result<(), FsError> {
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(bytes).filter(|&sum| sum <= self.limit)
            })
            .map(|_| ())
            .map_err(|_| FsError::NoSpace { limit: self.limit })
    }

    /// Takes `bytes` even beyond the limit: for what a deletion has to remember.
    pub(crate) fn charge_always(&self, bytes: u64) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn release(&self, bytes: u64) {
        let before = self.used.fetch_sub(bytes, Ordering::Relaxed);
        debug_assert!(before >= bytes, "released more than was charged");
    }
}
