//! What will probably be read next, so that somebody idle can decode it meanwhile.
//!
//! Two orders can be told: a file read from its beginning on wants what follows in it; files read
//! one after the other, as a walk over a tree does, want the next fragment block. Only the latest
//! file and the latest fragment block are remembered: several readers at a time get less of it, and
//! nothing wrong.

use std::ops::Range;

use crate::layer::LayerIno;

/// Who takes less than this at a time, in bytes, looks around in a file rather than reading it.
const BULK: u64 = 64 << 10;

/// How the image is being read.
#[derive(Debug, Default)]
pub(super) struct Scan {
    file: Option<LayerIno>,
    /// Where the latest read of the file ended, and how far in it was spoken of.
    end: u64,
    file_ahead: u64,
    fragment: u32,
    /// The last fragment block that was spoken of.
    fragment_ahead: u32,
}

impl Scan {
    /// `read` bytes of a file of `size` bytes are read; the bytes of it to decode next, once.
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
        if len < BULK || !(goes_on || read.start == 0) {
            return None;
        }
        // Whole blocks, as many as were read now.
        let from = read.end.checked_next_multiple_of(block_size)?.max(self.file_ahead);
        let to = read.end.checked_add(len)?.checked_next_multiple_of(block_size)?.min(size);
        (from < to).then(|| {
            self.file_ahead = to;
            from..to
        })
    }

    /// A file with its tail in the fragment block `index` is read; the one to decode next, once.
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
    fn a_file_read_in_order_is_decoded_one_read_ahead() {
        let (ino, size) = (LayerIno(7), 1000 * KIB);
        let mut scan = Scan::default();
        let mut step = |from: u64, to: u64| {
            scan.step_file(ino, &(from * KIB..to * KIB), size, 128 * KIB)
                .map(|ahead| (ahead.start / KIB, ahead.end / KIB))
        };
        assert_eq!(step(0, 128), Some((128, 256)));
        assert_eq!(step(128, 256), Some((256, 384)));
        assert_eq!(step(256, 260), None, "a little at a time");
        assert_eq!(step(512, 640), None, "not where the last read ended");
        assert_eq!(step(640, 768), Some((768, 896)));
        assert_eq!(step(768, 896), Some((896, 1000)));
        assert_eq!(step(896, 1000), None, "that is all");
    }

    #[test]
    fn nothing_is_spoken_of_twice_when_blocks_are_larger_than_reads() {
        let (ino, size, block) = (LayerIno(7), 4096 * KIB, 1024 * KIB);
        let mut scan = Scan::default();
        let mut spoken = Vec::new();
        for n in 0..32 {
            let read = n * 128 * KIB..(n + 1) * 128 * KIB;
            spoken.extend(scan.step_file(ino, &read, size, block).map(|r| r.start / block));
        }
        assert_eq!(spoken, [1, 2, 3]);
    }

    #[test]
    fn fragment_blocks_in_order_are_spoken_of_once() {
        let mut scan = Scan::default();
        let spoken = [0, 0, 1, 1, 2, 9, 10, 3].map(|index| scan.step_fragment(index));
        assert_eq!(spoken, [Some(1), None, Some(2), None, Some(3), None, Some(11), None]);
    }
}
