//! Maps of sparse files: the pieces of a file that are in the archive.
//!
//! All versions list the pieces of data in order, with their offsets in the file: the old GNU
//! format in the header and additional blocks, pax 0.0 and 0.1 in records, and pax 1.0 in decimal
//! lines at the start of the data.

use super::header::{TarHeader, offset};
use super::{BLOCK_SIZE, MAX_EXTENTS, TarErrorKind};

/// A piece of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    /// Offset in the file.
    pub(super) start: u64,
    /// Length in bytes.
    pub(super) len: u64,
}

/// The pax records of a member that describe its holes.
#[derive(Clone, Debug, Default)]
pub(super) struct PaxSparse {
    /// The version; 0 for versions 0.0 and 0.1, in which the record may be missing.
    pub(super) major: u64,
    /// The size including holes.
    pub(super) real_size: Option<u64>,
    /// An offset of version 0.0 whose length is in the next record.
    pub(super) offset: Option<u64>,
    /// The map of versions 0.0 and 0.1.
    pub(super) map: Vec<Extent>,
}

impl PaxSparse {
    /// Returns whether the member is sparse.
    pub(super) fn is_sparse(&self) -> bool {
        self.major > 0 || self.real_size.is_some() || !self.map.is_empty()
    }
}

/// Adds an extent to a map, up to [`MAX_EXTENTS`].
pub(super) fn push_extent(map: &mut Vec<Extent>, extent: Extent) -> Result<(), TarErrorKind> {
    if map.len() >= MAX_EXTENTS {
        return Err(TarErrorKind::Sparse("has more than 4,194,304 pieces"));
    }
    map.push(extent);
    Ok(())
}

/// Whether an old GNU map is complete after a header or block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OldMap {
    /// It is complete.
    Ends,
    /// It continues in the next block, if there is one.
    MayContinue,
}

/// Adds the entries of an old GNU header or of an additional block to `map`: offset and length of
/// 12 bytes each. An entry without a length ends the map.
pub(super) fn old_entries(entries: &[u8], map: &mut Vec<Extent>) -> Result<OldMap, TarErrorKind> {
    for entry in entries.chunks_exact(24) {
        let (start, len) = entry.split_at(12);
        if len[0] == 0 {
            return Ok(OldMap::Ends);
        }
        let (Some(start), Some(len)) = (offset(start), offset(len)) else {
            return Err(TarErrorKind::Sparse("is malformed"));
        };
        push_extent(map, Extent { start, len })?;
    }
    Ok(OldMap::MayContinue)
}

/// Returns the entries of an additional block of an old GNU map, and whether another block follows.
pub(super) fn old_block(block: &[u8; BLOCK_SIZE]) -> (&[u8], bool) {
    (&block[..504], block[504] != 0)
}

/// Returns the first part of an old GNU map, and whether an additional block follows.
pub(super) fn old_header(header: &TarHeader) -> Result<(Vec<Extent>, bool), TarErrorKind> {
    let mut map = Vec::new();
    let ends = old_entries(header.sparse_entries(), &mut map)?;
    Ok((map, ends == OldMap::MayContinue && header.sparse_continues()))
}

/// Parser of the map of version 1.0, fed byte by byte.
#[derive(Debug, Default)]
pub(super) struct MapLines {
    /// Remaining numbers; `None` before the first one, which is the count of pairs.
    left: Option<u64>,
    digits: Vec<u8>,
    start: Option<u64>,
    map: Vec<Extent>,
}

impl MapLines {
    /// Consumes a byte. Returns the map after its last byte.
    pub(super) fn byte(&mut self, byte: u8) -> Result<Option<Vec<Extent>>, TarErrorKind> {
        /// Number of digits of the largest number.
        const MAX_DIGITS: usize = 20;
        const MALFORMED: TarErrorKind = TarErrorKind::Sparse("is malformed");
        if byte != b'\n' {
            if self.digits.len() >= MAX_DIGITS {
                return Err(MALFORMED);
            }
            self.digits.push(byte);
            return Ok(None);
        }
        let number = super::pax::decimal(&self.digits).ok_or(MALFORMED)?;
        self.digits.clear();
        let left = match (self.left, self.start.take()) {
            (None, _) => number.checked_mul(2).ok_or(MALFORMED)?,
            (Some(left), None) => {
                self.start = Some(number);
                left - 1
            }
            (Some(left), Some(start)) => {
                push_extent(&mut self.map, Extent { start, len: number })?;
                left - 1
            }
        };
        self.left = Some(left);
        Ok((left == 0).then(|| std::mem::take(&mut self.map)))
    }
}

/// How the pieces of a file are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    /// Each begins with a block, as by GNU tar.
    Blocks,
    /// Each begins where the previous one ends, as by libarchive. The difference exists only after
    /// a piece that does not end at a block boundary.
    Bytes,
}

/// Checks that the pieces of a map are in order, do not overlap, are within the file and fit into
/// `stored` bytes. Returns the size of the file and the packing.
pub(super) fn check(
    map: &[Extent],
    real_size: Option<u64>,
    stored: u64,
) -> Result<(u64, Packing), TarErrorKind> {
    let mut end = 0;
    let (mut bytes, mut blocks) = (0u64, 0u64);
    for extent in map {
        if extent.start < end {
            return Err(TarErrorKind::Sparse("has pieces that overlap or are out of order"));
        }
        end = extent
            .start
            .checked_add(extent.len)
            .filter(|&end| i64::try_from(end).is_ok())
            .ok_or(TarErrorKind::Sparse("has a piece beyond the largest file"))?;
        // The sum is at most the end of the last piece, so it cannot overflow.
        bytes += extent.len;
        blocks += extent.len.div_ceil(BLOCK_SIZE as u64);
    }
    let size = real_size.unwrap_or(end);
    if end > size {
        return Err(TarErrorKind::Sparse("has a piece beyond the end of the file"));
    }
    if blocks <= stored.div_ceil(BLOCK_SIZE as u64) {
        // The data would be lost.
        return if map.is_empty() && stored > 0 {
            Err(TarErrorKind::Sparse("is missing"))
        } else {
            Ok((size, Packing::Blocks))
        };
    }
    if bytes <= stored {
        return Ok((size, Packing::Bytes));
    }
    Err(TarErrorKind::Sparse("has more data than the archive holds for the file"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pieces: &[(u64, u64)]) -> Vec<Extent> {
        pieces.iter().map(|&(start, len)| Extent { start, len }).collect()
    }

    #[test]
    fn maps_must_fit_the_file_and_the_archive() {
        let of = |pieces, real_size, stored| check(&map(pieces), real_size, stored).ok();
        assert_eq!(of(&[(512, 512), (4096, 0)], Some(4096), 512), Some((4096, Packing::Blocks)));
        assert_eq!(of(&[(512, 512), (4096, 0)], None, 512), Some((4096, Packing::Blocks)));
        assert_eq!(of(&[(0, 3), (512, 3)], Some(515), 6), Some((515, Packing::Bytes)));
        assert_eq!(of(&[(0, 3), (512, 3)], Some(515), 515), Some((515, Packing::Blocks)));
        assert_eq!(of(&[], Some(1 << 40), 0), Some((1 << 40, Packing::Blocks)));
        for (pieces, real_size, stored) in [
            (&[(0, 512)][..], Some(100), 512),
            (&[(0, 513)], Some(513), 512),
            (&[(0, 512), (511, 512)], Some(4096), 1024),
            (&[(512, 512), (0, 512)], Some(4096), 1024),
            (&[(u64::MAX, 2)], None, 512),
            (&[(i64::MAX as u64, 1)], None, 512),
            (&[], Some(0), 1),
        ] {
            assert_eq!(of(pieces, real_size, stored), None, "{pieces:?}");
        }
    }

    #[test]
    fn version_1_0_maps_are_a_count_and_decimal_pairs() {
        let read = |text: &[u8]| {
            let mut lines = MapLines::default();
            for (at, &byte) in text.iter().enumerate() {
                if let Some(map) = lines.byte(byte).map_err(|e| e.to_string())? {
                    return Ok((map, at + 1));
                }
            }
            Err("truncated".to_owned())
        };
        assert_eq!(read(b"2\n0\n512\n4096\n0\n\0\0"), Ok((map(&[(0, 512), (4096, 0)]), 15)));
        assert_eq!(read(b"0\n\0"), Ok((map(&[]), 2)));
        for bad in [&b"\n"[..], b"x\n", b"-1\n", b"1\n0\n\n", b"18446744073709551615\n", b"1"] {
            assert!(read(bad).is_err());
        }
        assert!(read(&[b'1'; 100]).is_err());
    }
}
