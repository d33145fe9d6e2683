//! Header blocks: field offsets, numbers and the checksum.

use super::{BLOCK_SIZE, TarErrorKind};
use crate::attr::Time;

/// Magic of POSIX.1-1988 and pax headers.
const USTAR: &[u8] = b"ustar\0";
/// Magic and version of GNU headers, which are adjacent.
const GNU: &[u8] = b"ustar  \0";

/// A header block.
#[derive(Clone)]
pub(super) struct TarHeader([u8; BLOCK_SIZE]);

/// The kind of a block where a header is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BlockKind {
    Header,
    Zeros,
    Invalid,
}

/// Returns whether `block`, the start of a file, is a tar header with a valid checksum. The
/// checksum is the only way to identify v7 headers.
pub fn is_header(block: &[u8]) -> bool {
    block
        .first_chunk::<BLOCK_SIZE>()
        .is_some_and(|block| TarHeader(*block).block_kind() == BlockKind::Header)
}

impl TarHeader {
    pub(super) fn new(block: [u8; BLOCK_SIZE]) -> Self {
        TarHeader(block)
    }

    /// Compares the checksum field with the sum of the header's bytes, where the field itself
    /// counts as spaces. Some old writers summed signed bytes.
    pub(super) fn block_kind(&self) -> BlockKind {
        if self.0.iter().all(|&byte| byte == 0) {
            return BlockKind::Zeros;
        }
        let (mut unsigned, mut signed) = (0i128, 0i128);
        for (at, &byte) in self.0.iter().enumerate() {
            let byte = if (148..156).contains(&at) { b' ' } else { byte };
            unsigned += i128::from(byte);
            signed += i128::from(byte as i8);
        }
        let field = &self.0[148..156];
        // Only octal: no known writer uses base 256 here.
        let is_octal = field.iter().all(|b| matches!(b, b'0'..=b'7' | b' ' | 0 | b'\t'..=b'\r'));
        match number(field) {
            Some(sum) if is_octal && (sum == unsigned || sum == signed) => BlockKind::Header,
            _ => BlockKind::Invalid,
        }
    }

    pub(super) fn type_flag(&self) -> u8 {
        self.0[156]
    }

    /// Returns whether the header is neither POSIX nor GNU, so that it has no device numbers.
    pub(super) fn is_v7(&self) -> bool {
        !self.is_ustar() && !self.is_gnu()
    }

    pub(super) fn is_gnu(&self) -> bool {
        self.0[257..265] == *GNU
    }

    fn is_ustar(&self) -> bool {
        self.0[257..263] == *USTAR
    }

    /// Returns the name, including the prefix of ustar.
    pub(super) fn path(&self) -> Vec<u8> {
        let prefix = until_nul(&self.0[345..500]);
        let mut path = Vec::new();
        if self.is_ustar() && !prefix.is_empty() {
            path.extend_from_slice(prefix);
            path.push(b'/');
        }
        path.extend_from_slice(until_nul(&self.0[..100]));
        path
    }

    pub(super) fn link_name(&self) -> Vec<u8> {
        until_nul(&self.0[157..257]).to_vec()
    }

    pub(super) fn mode(&self) -> Result<u16, TarErrorKind> {
        number(&self.0[100..108])
            .map(|mode| (mode & 0o7777) as u16)
            .ok_or(TarErrorKind::Field("mode"))
    }

    pub(super) fn uid(&self) -> Result<u32, TarErrorKind> {
        self.within(108..116, "owner")
    }

    pub(super) fn gid(&self) -> Result<u32, TarErrorKind> {
        self.within(116..124, "group")
    }

    /// Returns the size of the following data in bytes: a file offset, so at most `i64::MAX`.
    pub(super) fn size(&self) -> Result<u64, TarErrorKind> {
        offset(&self.0[124..136]).ok_or(TarErrorKind::Field("size"))
    }

    pub(super) fn mtime(&self) -> Result<Time, TarErrorKind> {
        self.within(136..148, "time").map(Time::from_secs)
    }

    pub(super) fn major(&self) -> Result<u32, TarErrorKind> {
        self.within(329..337, "major device number")
    }

    pub(super) fn minor(&self) -> Result<u32, TarErrorKind> {
        self.within(337..345, "minor device number")
    }

    /// Returns the map entries of an old GNU sparse header, 24 bytes each.
    pub(super) fn sparse_entries(&self) -> &[u8] {
        &self.0[386..482]
    }

    /// Returns whether more map entries follow an old GNU sparse header.
    pub(super) fn sparse_continues(&self) -> bool {
        self.0[482] != 0
    }

    /// Returns the size including holes in an old GNU sparse header.
    pub(super) fn real_size(&self) -> Option<u64> {
        offset(&self.0[483..495])
    }

    fn within<T: TryFrom<i128>>(
        &self,
        field: std::ops::Range<usize>,
        name: &'static str,
    ) -> Result<T, TarErrorKind> {
        number(&self.0[field])
            .and_then(|number| T::try_from(number).ok())
            .ok_or(TarErrorKind::Field(name))
    }
}

/// Returns the bytes before the first NUL.
pub(super) fn until_nul(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|&byte| byte == 0);
    &field[..end.unwrap_or(field.len())]
}

/// Parses a file offset: at most `i64::MAX`.
pub(super) fn offset(field: &[u8]) -> Option<u64> {
    number(field).and_then(|number| i64::try_from(number).ok()).and_then(|n| u64::try_from(n).ok())
}

/// Parses a numeric field of up to 12 bytes: octal digits after blanks, ended by a NUL or a blank,
/// or base 256 in two's complement if the first byte is `0x80` or `0xff`. Only NULs mean 0. Returns
/// `None` where GNU tar reports an error.
fn number(field: &[u8]) -> Option<i128> {
    debug_assert!(field.len() <= 12);
    let is_blank = |byte: &u8| byte.is_ascii_whitespace() || *byte == 0x0b;
    // The terminator of the preceding field may have overflowed into this one.
    let field = field.strip_prefix(b"\0").unwrap_or(field);
    let start = field.iter().position(|byte| !is_blank(byte))?;
    let field = &field[start..];
    if let [first @ (0x80 | 0xff), rest @ ..] = field {
        let sign = if *first == 0xff { -1 } else { 0 };
        return Some(rest.iter().fold(sign, |value, &byte| value << 8 | i128::from(byte)));
    }
    let digits = field.iter().take_while(|byte| matches!(byte, b'0'..=b'7')).count();
    if field.get(digits).is_some_and(|byte| *byte != 0 && !is_blank(byte)) {
        return None;
    }
    Some(field[..digits].iter().fold(0, |value, &digit| value << 3 | i128::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_parsed_as_by_gnu_tar() {
        for (field, value) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"644     ", Some(0o644)),
            (b"    644\0", Some(0o644)),
            (b"00000644", Some(0o644)),
            (b"\x000644 \0\0", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"        ", None),
            (b"0000648\0", None),
            (b"rwxr-xr-", None),
            (b"\x80\0\0\0\0\0\x01\0", Some(256)),
            (b"\x80\0\0\0\xff\xff\xff\xff", Some(0xffff_ffff)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2)),
            (b"\x80\x7f\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", Some((1 << 87) - 1)),
            (b"\x81\0\0\0\0\0\0\0", None),
        ] {
            assert_eq!(number(field), value, "{field:?}");
        }
        assert_eq!(offset(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe"), None);
        assert_eq!(offset(b"\x80\0\0\0\x80\0\0\0\0\0\0\0"), None);
        assert_eq!(offset(b"\x80\0\0\0\x7f\0\0\0\0\0\0\0"), Some(0x7f << 56));
    }
}
