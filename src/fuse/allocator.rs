//! The C library's allocator, told to hold on to no more than is needed.
//!
//! The upper lives in memory, so what is deleted in it should be the system's again. glibc keeps
//! freed memory for the next one who asks, unless it lies at the end of a heap.

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};

/// How much less the upper must hold than it did before it is worth looking through the heaps, in
/// bytes: an eighth of what it held, but within these bounds.
const WORTH: RangeInclusive<u64> = 8 << 20..=32 << 20;

/// Has large buffers come from the kernel as zero pages and go back to it, whatever was freed
/// before. glibc would raise its threshold once a large one is freed, and then take the next from
/// its heap: fuser's buffers of 16 MiB would be zeroed by hand and stay resident.
pub fn settle_allocator() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt changes a number in the allocator, under its own lock.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 20);
    }
}

/// Gives the free pages of all heaps back to the system. Who allocates meanwhile may wait for it.
pub(super) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim touches free memory only, under the allocator's own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Tells when giving back is worth it.
#[derive(Debug, Default)]
pub(super) struct HighWater(AtomicU64);

impl HighWater {
    /// The upper holds `used` bytes now. Whether that is so much less than it was that the
    /// difference should be given back; said once for each difference.
    pub(super) fn has_fallen(&self, used: u64) -> bool {
        let most = self.0.fetch_max(used, Ordering::Relaxed);
        let worth = (most / 8).clamp(*WORTH.start(), *WORTH.end());
        used.saturating_add(worth) <= most
            && self.0.compare_exchange(most, used, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_given_back_when_much_was_freed_and_once() {
        const LEAST: u64 = *WORTH.start();
        const MOST: u64 = *WORTH.end();
        let water = HighWater::default();
        assert!(!water.has_fallen(10 * MOST));
        assert!(!water.has_fallen(9 * MOST + 1));
        assert!(water.has_fallen(9 * MOST));
        assert!(!water.has_fallen(9 * MOST));
        assert!(!water.has_fallen(20 * MOST));
        assert!(water.has_fallen(2 * LEAST));
        assert!(!water.has_fallen(LEAST + 1));
        assert!(water.has_fallen(LEAST));
        assert!(!water.has_fallen(1), "too little to look for");
        assert!(water.has_fallen(0));
        assert!(!water.has_fallen(0));
    }
}
