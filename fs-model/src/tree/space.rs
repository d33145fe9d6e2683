//! Accounting of the upper's memory.
//!
//! Invariant: the charge equals what the upper holds: capacities of chunks, names, and a fixed
//! amount for each inode and directory entry. Deleting never fails for lack of space.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::FsError;

/// Charge for an inode without its data, in bytes: the inode, its slot in the table, and the
/// allocator's overhead.
pub(crate) const INODE_COST: u64 = 320;
/// Charge for an entry of a changed directory without its name, in bytes.
const ENTRY_COST: u64 = 72;

/// Returns the charge for the entry `name` of a changed directory.
pub(crate) fn entry_cost(name: &[u8]) -> u64 {
    ENTRY_COST + name.len() as u64
}

/// The memory charged to the upper, and its limit.
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

    /// Charges `bytes`, or fails without charging anything.
    pub(crate) fn charge(&self, bytes: u64) -> Result<(), FsError> {
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(bytes).filter(|&sum| sum <= self.limit)
            })
            .map(|_| ())
            .map_err(|_| FsError::NoSpace { limit: self.limit })
    }

    /// Charges `bytes` even beyond the limit: for removals, which have to store whiteouts.
    pub(crate) fn charge_unlimited(&self, bytes: u64) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn release(&self, bytes: u64) {
        let before = self.used.fetch_sub(bytes, Ordering::Relaxed);
        debug_assert!(before >= bytes, "released more than was charged");
    }
}
