//! Settings of the C library's allocator that keep memory usage low.
//!
//! The upper is in memory, so memory of deleted files should return to the system. glibc keeps
//! freed memory for later allocations, unless it is at the end of a heap.

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};

/// Limits, in bytes, of the decrease in the upper's size that makes trimming the heaps worthwhile:
/// an eighth of its former size, within these limits.
const MIN_DECREASE: RangeInclusive<u64> = 8 << 20..=32 << 20;

/// Makes glibc map large buffers as zero pages of the kernel, and unmap them when they are freed.
/// By default glibc raises its threshold when a large buffer is freed, and takes the next one from
/// its heap: fuser's buffers of 16 MiB would be zeroed explicitly and stay resident.
pub fn settle_allocator() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt changes a number in the allocator, under its own lock.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 20);
    }
}

/// Returns the free pages of all heaps to the system. Concurrent allocations may wait for it.
pub(super) fn trim_heaps() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim accesses only free memory, under the allocator's own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Detects when trimming is worthwhile.
#[derive(Debug, Default)]
pub(super) struct HighWater(AtomicU64);

impl HighWater {
    /// Returns whether the upper's current size of `used` bytes is so much below its maximum that
    /// the difference should be returned. Returns true once for each such decrease.
    pub(super) fn has_fallen(&self, used: u64) -> bool {
        let most = self.0.fetch_max(used, Ordering::Relaxed);
        let worth = (most / 8).clamp(*MIN_DECREASE.start(), *MIN_DECREASE.end());
        used.saturating_add(worth) <= most
            && self.0.compare_exchange(most, used, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_decrease_is_reported_once() {
        const MIN: u64 = *MIN_DECREASE.start();
        const MAX: u64 = *MIN_DECREASE.end();
        let water = HighWater::default();
        assert!(!water.has_fallen(10 * MAX));
        assert!(!water.has_fallen(9 * MAX + 1));
        assert!(water.has_fallen(9 * MAX));
        assert!(!water.has_fallen(9 * MAX));
        assert!(!water.has_fallen(20 * MAX));
        assert!(water.has_fallen(2 * MIN));
        assert!(!water.has_fallen(MIN + 1));
        assert!(water.has_fallen(MIN));
        assert!(!water.has_fallen(1), "too small a decrease");
        assert!(water.has_fallen(0));
        assert!(!water.has_fallen(0));
    }
}
