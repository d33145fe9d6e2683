//! Readahead: predicts the next read, so that an idle thread can decode in advance.
//!
//! Two patterns are recognised: a file that is read sequentially from its start, where the
//! following blocks are predicted; and files that are read one after the other, as by a walk over a
//! tree, where the next fragment block is predicted. Only the latest file and fragment block are
//! remembered, so several concurrent readers get fewer predictions.

use std::ops::Range;

use crate::layer::LayerIno;

/// Reads of fewer bytes than this are not treated as sequential.
const MIN_SEQUENTIAL_READ: u64 = 64 << 10;

/// The recent reads of an image.
#[derive(Debug, Default)]
pub(super) struct ReadScan {
    file: Option<LayerIno>,
    /// The end of the latest read of the file, and the end of its latest prediction.
    end: u64,
    file_ahead: u64,
    fragment: u32,
    /// The latest fragment block that was predicted.
    fragment_ahead: u32,
}

impl ReadScan {
    /// Records a read of the range `read` of a file of `size` bytes. Returns the range to decode
    /// next, if it was not returned before.
    pub(super) fn step_file(
        &mut self,
        ino: LayerIno,
        read: &Range<u64>,
        size: u64,
        block_size: u64,
    ) -> Option<Range<u64>> {
        let goes_on = self.file == Some(ino) && self.end == read.start;
        if !goes_on {
            self.file_ahead = 0;
        }
        (self.file, self.end) = (Some(ino), read.end);
        let len = read.end - read.start;
        if len < MIN_SEQUENTIAL_READ || !(goes_on || read.start == 0) {
            return None;
        }
        // Whole blocks, as many as were read just now.
        let from = read.end.checked_next_multiple_of(block_size)?.max(self.file_ahead);
        let to = read.end.checked_add(len)?.checked_next_multiple_of(block_size)?.min(size);
        (from < to).then(|| {
            self.file_ahead = to;
            from..to
        })
    }

    /// Records a read of a file whose tail is in the fragment block `index`. Returns the fragment
    /// block to decode next, if it was not returned before.
    pub(super) fn step_fragment(&mut self, index: u32) -> Option<u32> {
        let in_order = index == self.fragment || index == self.fragment.saturating_add(1);
        self.fragment = index;
        if !in_order {
            self.fragment_ahead = index;
            return None;
        }
        let next = index.saturating_add(1);
        (self.fragment_ahead < next).then(|| {
            self.fragment_ahead = next;
            next
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1 << 10;

    #[test]
    fn sequential_reads_prefetch_one_read_ahead() {
        let (ino, size) = (LayerIno(7), 1000 * KIB);
        let mut scan = ReadScan::default();
        let mut step = |from: u64, to: u64| {
            scan.step_file(ino, &(from * KIB..to * KIB), size, 128 * KIB)
                .map(|ahead| (ahead.start / KIB, ahead.end / KIB))
        };
        assert_eq!(step(0, 128), Some((128, 256)));
        assert_eq!(step(128, 256), Some((256, 384)));
        assert_eq!(step(256, 260), None, "a small read");
        assert_eq!(step(512, 640), None, "not sequential");
        assert_eq!(step(640, 768), Some((768, 896)));
        assert_eq!(step(768, 896), Some((896, 1000)));
        assert_eq!(step(896, 1000), None, "end of file");
    }

    #[test]
    fn no_range_is_predicted_twice_when_blocks_are_larger_than_reads() {
        let (ino, size, block) = (LayerIno(7), 4096 * KIB, 1024 * KIB);
        let mut scan = ReadScan::default();
        let mut spoken = Vec::new();
        for n in 0..32 {
            let read = n * 128 * KIB..(n + 1) * 128 * KIB;
            spoken.extend(scan.step_file(ino, &read, size, block).map(|r| r.start / block));
        }
        assert_eq!(spoken, [1, 2, 3]);
    }

    #[test]
    fn sequential_fragment_blocks_are_predicted_once() {
        let mut scan = ReadScan::default();
        let spoken = [0, 0, 1, 1, 2, 9, 10, 3].map(|index| scan.step_fragment(index));
        assert_eq!(spoken, [Some(1), None, Some(2), None, Some(3), None, Some(11), None]);
    }
}
