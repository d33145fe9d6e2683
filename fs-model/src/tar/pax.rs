//! Pax headers: records `LENGTH KEY=VALUE\n`. They are split by length, because values may contain
//! any bytes.

use super::TarErrorKind;
use super::header::until_nul;
use super::sparse::{Extent, PaxSparse, push_extent};
use crate::attr::Time;
use crate::layer::Xattr;

/// The pax records that describe a member.
#[derive(Clone, Debug, Default)]
pub(super) struct Extended {
    path: Option<Vec<u8>>,
    sparse_path: Option<Vec<u8>>,
    pub(super) link_name: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) mtime: Option<Time>,
    pub(super) sparse: PaxSparse,
    pub(super) access_list: Option<Vec<u8>>,
    pub(super) default_list: Option<Vec<u8>>,
    xattrs: Vec<XattrRecord>,
    /// Whether the next member is the start of a later volume of a multi-volume archive.
    pub(super) continues_volume: bool,
}

#[derive(Clone, Debug)]
struct XattrRecord {
    /// The name as encoded in the key.
    key: Vec<u8>,
    value: Vec<u8>,
    writer: XattrWriter,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum XattrWriter {
    /// `SCHILY.xattr.`: the format of star, with the raw value.
    Schily,
    /// `LIBARCHIVE.xattr.`: the format of bsdtar, with the value in Base64.
    Libarchive,
}

impl Extended {
    /// Adds the records of a header. A later record replaces an earlier one with the same key, and
    /// an empty value removes it.
    pub(super) fn read(&mut self, header: &[u8]) -> Result<(), TarErrorKind> {
        let mut rest = header;
        while let Some((key, value)) = next_record(&mut rest)? {
            self.record(key, value)?;
        }
        Ok(())
    }

    /// Returns the name of the member. That of a sparse file takes precedence: `path` is then a
    /// name for readers without support for sparse files.
    pub(super) fn take_path(&mut self) -> Option<Vec<u8>> {
        self.sparse_path.take().or_else(|| self.path.take())
    }

    fn record(&mut self, key: &[u8], value: &[u8]) -> Result<(), TarErrorKind> {
        let invalid = || {
            let key = key[..key.len().min(40)].escape_ascii();
            let value = value[..value.len().min(40)].escape_ascii();
            TarErrorKind::Pax(format!("has an invalid {key}: {value}"))
        };
        let name = || (!value.is_empty()).then(|| until_nul(value).to_vec());
        let number = || decimal(value).ok_or_else(invalid);
        let offset = || number().and_then(|n| i64::try_from(n).map(|_| n).map_err(|_| invalid()));
        match key {
            b"path" => self.path = name(),
            b"GNU.sparse.name" => self.sparse_path = name(),
            b"linkpath" => self.link_name = name(),
            b"size" if value.is_empty() => self.size = None,
            b"size" => self.size = Some(offset()?),
            b"uid" if value.is_empty() => self.uid = None,
            b"uid" => self.uid = Some(u32::try_from(number()?).map_err(|_| invalid())?),
            b"gid" if value.is_empty() => self.gid = None,
            b"gid" => self.gid = Some(u32::try_from(number()?).map_err(|_| invalid())?),
            b"mtime" if value.is_empty() => self.mtime = None,
            b"mtime" => self.mtime = Some(time(value).ok_or_else(invalid)?),
            b"GNU.sparse.major" => self.sparse.major = number()?,
            b"GNU.sparse.realsize" | b"GNU.sparse.size" => {
                self.sparse.real_size = Some(offset()?);
            }
            b"GNU.sparse.offset" => self.sparse.offset = Some(offset()?),
            b"GNU.sparse.numbytes" => {
                let start = self.sparse.offset.take().ok_or_else(invalid)?;
                push_extent(&mut self.sparse.map, Extent { start, len: offset()? })?;
            }
            b"GNU.sparse.map" => self.sparse.map = sparse_map(value)?,
            b"GNU.volume.filename" => self.continues_volume = true,
            b"SCHILY.acl.access" => self.access_list = list(value),
            b"SCHILY.acl.default" => self.default_list = list(value),
            _ => self.xattr(key, value)?,
        }
        Ok(())
    }

    fn xattr(&mut self, key: &[u8], value: &[u8]) -> Result<(), TarErrorKind> {
        let (key, value, writer) = if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            (name, value.to_vec(), XattrWriter::Schily)
        } else if let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
            let value = base64(value).ok_or_else(|| {
                let name = name[..name.len().min(40)].escape_ascii();
                TarErrorKind::Pax(format!("has an attribute {name} that is not valid Base64"))
            })?;
            (name, value, XattrWriter::Libarchive)
        } else {
            return Ok(());
        };
        self.xattrs.push(XattrRecord { key: key.to_vec(), value, writer });
        Ok(())
    }

    /// Returns the extended attributes. bsdtar writes each of them in both formats, with the same
    /// encoding of the name; GNU tar encodes names differently.
    pub(super) fn take_xattrs(&mut self) -> Vec<Xattr> {
        let records = std::mem::take(&mut self.xattrs);
        let keys = |writer| {
            let of = records.iter().filter(move |record| record.writer == writer);
            of.map(|record| record.key.as_slice()).collect::<std::collections::HashSet<_>>()
        };
        let (schily, libarchive) = (keys(XattrWriter::Schily), keys(XattrWriter::Libarchive));
        let mut xattrs = Vec::new();
        for XattrRecord { key, value, writer } in &records {
            let name = match writer {
                XattrWriter::Libarchive if schily.contains(key.as_slice()) => continue,
                XattrWriter::Schily if !libarchive.contains(key.as_slice()) => {
                    percent_decoded(key, |byte| matches!(byte, b'=' | b'%'))
                }
                _ => percent_decoded(key, |_| true),
            };
            // A NUL ends the name, as for setxattr(2).
            xattrs.push((until_nul(&name).into(), value.as_slice().into()));
        }
        xattrs
    }
}

/// Removes the next record from a header; `None` at the end or at padding.
#[expect(clippy::type_complexity, reason = "key and value")]
fn next_record<'a>(rest: &mut &'a [u8]) -> Result<Option<(&'a [u8], &'a [u8])>, TarErrorKind> {
    let malformed = |what: &str| TarErrorKind::Pax(what.to_owned());
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let record = *rest;
    let blanks = record.iter().take_while(|byte| is_blank(byte)).count();
    match record.get(blanks) {
        None | Some(0) => return Ok(None),
        Some(b'0'..=b'9') => {}
        Some(_) => return Err(malformed("has a record without a length")),
    }
    let digits = record[blanks..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let length = decimal(&record[blanks..blanks + digits])
        .and_then(|length| usize::try_from(length).ok())
        .filter(|&length| length <= record.len())
        .ok_or_else(|| malformed("has a record that is longer than the header"))?;
    let (record, after) = record.split_at(length);
    let fields = record.get(blanks + digits..).unwrap_or_default();
    let separator = fields.iter().take_while(|byte| is_blank(byte)).count();
    if separator == 0 {
        return Err(malformed("has a record without a blank after its length"));
    }
    let fields = fields[separator..]
        .strip_suffix(b"\n")
        .ok_or_else(|| malformed("has a record that does not end in a newline"))?;
    let equals = fields
        .iter()
        .position(|&byte| byte == b'=' || byte == 0)
        .filter(|&at| fields[at] == b'=')
        .ok_or_else(|| malformed("has a record without an equals sign"))?;
    *rest = after;
    Ok(Some((&fields[..equals], &fields[equals + 1..])))
}

/// Parses decimal digits, without a sign or blanks.
pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |number, &byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

/// Parses seconds since 1970 with an optional sign and fraction. Digits after the ninth are rounded
/// down.
fn time(value: &[u8]) -> Option<Time> {
    let (negative, value) = match value.strip_prefix(b"-") {
        Some(value) => (true, value),
        None => (false, value),
    };
    let digits = value.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let whole = i128::from(decimal(&value[..digits])?);
    let fraction = match value.get(digits) {
        Some(b'.') => &value[digits + 1..],
        _ => b"",
    };
    let digits = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let fraction = &fraction[..digits];
    let nanos = (0..9).fold(0, |nanos, at| {
        nanos * 10 + fraction.get(at).map_or(0, |digit| i128::from(digit - b'0'))
    });
    let mut total = whole * 1_000_000_000 + nanos;
    if negative {
        let is_inexact = fraction.iter().skip(9).any(|&digit| digit != b'0');
        total = -total - i128::from(is_inexact);
    }
    let secs = i64::try_from(total.div_euclid(1_000_000_000)).ok()?;
    Some(Time { secs, nanos: total.rem_euclid(1_000_000_000) as u32 })
}

/// Parses the map of version 0.1: repeated `OFFSET,SIZE`, separated by commas.
fn sparse_map(value: &[u8]) -> Result<Vec<Extent>, TarErrorKind> {
    let malformed = TarErrorKind::Sparse("is malformed");
    let mut map = Vec::new();
    let mut numbers = value.split(|&byte| byte == b',');
    while let Some(start) = numbers.next() {
        let (Some(start), Some(len)) = (decimal(start), numbers.next().and_then(decimal)) else {
            return Err(malformed);
        };
        push_extent(&mut map, Extent { start, len })?;
    }
    Ok(map)
}

/// Returns an ACL; `None` for an empty value.
fn list(value: &[u8]) -> Option<Vec<u8>> {
    (!value.is_empty()).then(|| value.to_vec())
}

/// Decodes `%XX` where `is_encoded` returns `true` for the byte. Other bytes are kept.
fn percent_decoded(name: &[u8], is_encoded: impl Fn(u8) -> bool) -> Vec<u8> {
    let digit = |byte: Option<&u8>| (*byte? as char).to_digit(16).map(|digit| digit as u8);
    let mut decoded = Vec::with_capacity(name.len());
    let mut at = 0;
    while let Some(&byte) = name.get(at) {
        match (byte, digit(name.get(at + 1)), digit(name.get(at + 2))) {
            (b'%', Some(high), Some(low)) if is_encoded(high << 4 | low) => {
                decoded.push(high << 4 | low);
                at += 3;
            }
            _ => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    decoded
}

/// Decodes Base64 with or without padding; `None` if it is malformed.
fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let end = text.iter().rposition(|&byte| byte != b'=').map_or(0, |last| last + 1);
    let mut bytes = Vec::with_capacity(end / 4 * 3 + 2);
    let (mut bits, mut count) = (0u32, 0);
    for &byte in &text[..end] {
        let digit = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(digit);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Records = Vec<(Vec<u8>, Vec<u8>)>;

    fn records(header: &[u8]) -> Result<Records, String> {
        let mut rest = header;
        let mut records = Vec::new();
        while let Some((key, value)) = next_record(&mut rest).map_err(|e| e.to_string())? {
            records.push((key.to_vec(), value.to_vec()));
        }
        Ok(records)
    }

    #[test]
    fn records_are_split_by_length() {
        let of = |pairs: &[(&[u8], &[u8])]| {
            Ok(pairs.iter().map(|(k, v)| (k.to_vec(), v.to_vec())).collect::<Vec<_>>())
        };
        assert_eq!(records(b"9 a=1\n\0=\n6 b==\n"), of(&[(b"a", b"1\n\0="), (b"b", b"=")]));
        assert_eq!(records(b"5 a=\n\0\0\0"), of(&[(b"a", b"")]));
        assert_eq!(records(b" 6 a=\n"), of(&[(b"a", b"")]));
        assert_eq!(records(b""), of(&[]));
        for bad in [
            &b"x=1\n"[..],
            b"99 a=1\n",
            b"99999999999999999999999 a=1\n",
            b"0 a=1\n",
            b"1 a=1\n",
            b"3 a=1\n",
            b"6a=1\n\n",
            b"6 a=12\n",
            b"6 a-12\n",
            b"7 a\0=1\n",
        ] {
            assert!(records(bad).is_err(), "{:?}", records(bad));
        }
    }

    #[test]
    fn times_are_rounded_down() {
        for (text, secs, nanos) in [
            ("0", 0, 0),
            ("1700000000.5", 1_700_000_000, 500_000_000),
            ("1.0000000019", 1, 1),
            ("-1", -1, 0),
            ("-1.1", -2, 900_000_000),
            ("-1.10000000000001", -2, 899_999_999),
            ("-0.5", -1, 500_000_000),
            ("9223372036854775807.999999999", i64::MAX, 999_999_999),
            ("-9223372036854775808", i64::MIN, 0),
            ("5.", 5, 0),
        ] {
            assert_eq!(time(text.as_bytes()), Some(Time { secs, nanos }), "{text}");
        }
        for bad in ["", "-", "x", ".5", "9223372036854775808", "-9223372036854775808.1"] {
            assert_eq!(time(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn attribute_names_are_decoded_depending_on_the_writer() {
        let xattrs = |records: &[(&str, &[u8])]| {
            let mut extended = Extended::default();
            for (key, value) in records {
                extended.record(key.as_bytes(), value).unwrap();
            }
            let name =
                |(name, value): Xattr| (String::from_utf8(name.into()).unwrap(), value.into_vec());
            extended.take_xattrs().into_iter().map(name).collect::<Vec<_>>()
        };
        let one = |name: &str, value: &[u8]| vec![(name.to_owned(), value.to_vec())];
        assert_eq!(
            xattrs(&[("SCHILY.xattr.user.a%3D%25%20", b"\0\n")]),
            one("user.a=%%20", b"\0\n")
        );
        let both =
            [("LIBARCHIVE.xattr.user.a%20b", &b"AAo"[..]), ("SCHILY.xattr.user.a%20b", b"\0\n")];
        assert_eq!(xattrs(&both), one("user.a b", b"\0\n"));
        assert_eq!(xattrs(&both[..1]), one("user.a b", b"\0\n"));
        assert_eq!(xattrs(&[("LIBARCHIVE.xattr.user.a", b"AAo=")]), one("user.a", b"\0\n"));
        assert_eq!(xattrs(&[("LIBARCHIVE.xattr.user.a", b"")]), one("user.a", b""));
        assert!(Extended::default().record(b"LIBARCHIVE.xattr.user.a", b"?").is_err());
    }
}
