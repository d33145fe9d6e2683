//! Writes tar: ustar headers (POSIX.1-1988) with the extensions that GNU tar, bsdtar and
//! mksquashfs all read.
//!
//! - A path or a link target over 100 bytes precedes its entry as a GNU long name (type `L` or
//!   `K`), as bytes: pax's `path` is UTF-8 by definition.
//! - A number too large for its octal field is written in base 256, as GNU tar does.
//! - Extended attributes are pax records `SCHILY.xattr.NAME` (POSIX.1-2001 extended headers),
//!   with `%25` and `%3D` for percent and equals signs in the name, as in GNU tar. ACLs are the
//!   text records `SCHILY.acl.access` and `SCHILY.acl.default`, as star, GNU tar and libarchive
//!   write them.
//! - The root is `./`; directories end in a slash; every name of a file but the first is a link
//!   entry. A whiteout is an empty file `.wh.NAME` (OCI image layer specification), or a
//!   character device 0:0 where the tar becomes an image for overlayfs ([`Whiteout`]).
//! - Times are whole seconds, clamped as in [`super::newc`]. tar does not support sockets: the
//!   caller leaves them out.
//! - Two blocks of zeros end it, and zeros pad it to a multiple of 10 KiB.

use std::borrow::Cow;
use std::io::{self, Write};

use fs_model::acl::{self, Acl};
use fs_model::attr::{Attr, Device, FileType};
use fs_model::layer::Xattr;

use super::newc::clamp;
use super::plan::ArchiveItem;

const BLOCK_BYTES: u64 = 512;
const RECORD_BYTES: u64 = 20 * BLOCK_BYTES;
const NAME_BYTES: usize = 100;

/// The representation of whiteouts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whiteout {
    /// An empty file `.wh.NAME`.
    Marker,
    /// A character device 0:0 with mode 0 at the path.
    Device,
}

/// A tar archive being written.
#[derive(Debug)]
pub(super) struct TarWriter<W: Write> {
    inner: W,
    written: u64,
    /// Bytes of the current file not yet written.
    open: u64,
    epoch: Option<u32>,
    whiteout: Whiteout,
}

struct TarHeader<'a> {
    name: &'a [u8],
    kind: u8,
    mode: u16,
    uid: u32,
    gid: u32,
    size: u64,
    mtime: u32,
    target: &'a [u8],
    rdev: Device,
}

impl<W: Write> TarWriter<W> {
    /// Clamps times to `epoch`.
    pub(super) fn new(inner: W, epoch: Option<u32>, whiteout: Whiteout) -> Self {
        TarWriter { inner, written: 0, open: 0, epoch, whiteout }
    }

    /// Writes an entry without its content. `target` is a symbolic link's; `first` is the path of
    /// the item with the content, if that is another one.
    pub(super) fn entry(
        &mut self,
        item: &ArchiveItem<'_>,
        target: &[u8],
        first: Option<&[u8]>,
        xattrs: &[Xattr],
    ) -> io::Result<()> {
        let Some(object) = item.object() else { return self.whiteout(item.path()) };
        let attr = &object.attr;
        let mut name = item.path().to_vec();
        match attr.kind {
            FileType::Directory if name.is_empty() => name.extend_from_slice(b"./"),
            FileType::Directory => name.push(b'/'),
            _ => {}
        }
        let (kind, target) = match (first, attr.kind) {
            (Some(first), _) => (b'1', first),
            (None, FileType::Regular) => (b'0', target),
            (None, FileType::Symlink) => (b'2', target),
            (None, FileType::CharDevice) => (b'3', target),
            (None, FileType::BlockDevice) => (b'4', target),
            (None, FileType::Directory) => (b'5', target),
            (None, FileType::Fifo) => (b'6', target),
            (None, FileType::Socket) => {
                return Err(io::Error::other("tar does not support sockets"));
            }
        };
        if first.is_none() && !xattrs.is_empty() {
            self.pax(xattrs)?;
        }
        let size = item.content();
        self.header(&TarHeader {
            name: &name,
            kind,
            size,
            target,
            rdev: if attr.kind.is_device() { attr.rdev } else { Device::default() },
            ..self.owned_by(attr)
        })?;
        self.open = size;
        Ok(())
    }

    /// Writes a part of the current entry's content.
    pub(super) fn data(&mut self, data: &[u8]) -> io::Result<()> {
        self.open = self.open.checked_sub(data.len() as u64).ok_or_else(|| {
            io::Error::other("a file's content is longer than the size in its header")
        })?;
        self.write(data)?;
        if self.open == 0 { self.pad(BLOCK_BYTES) } else { Ok(()) }
    }

    /// Writes the end of the archive and returns the writer.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.write(&[0; 2 * BLOCK_BYTES as usize])?;
        self.pad(RECORD_BYTES)?;
        Ok(self.inner)
    }

    fn owned_by(&self, attr: &Attr) -> TarHeader<'static> {
        TarHeader {
            mode: attr.mode,
            uid: attr.uid,
            gid: attr.gid,
            mtime: clamp(attr, self.epoch),
            ..TarHeader::EMPTY
        }
    }

    fn whiteout(&mut self, path: &[u8]) -> io::Result<()> {
        if self.whiteout == Whiteout::Device {
            return self.header(&TarHeader { name: path, kind: b'3', ..TarHeader::EMPTY });
        }
        let name_at = path.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
        let name = [&path[..name_at], b".wh.", &path[name_at..]].concat();
        self.header(&TarHeader { name: &name, kind: b'0', ..TarHeader::EMPTY })
    }

    fn pax(&mut self, xattrs: &[Xattr]) -> io::Result<()> {
        let mut records = Vec::new();
        for (name, value) in xattrs {
            // Readers expect ACLs as text, and skip them among the attributes.
            let list = match &name[..] {
                acl::ACCESS => Acl::parse(value).map(|list| (&b"SCHILY.acl.access"[..], list)),
                acl::DEFAULT => Acl::parse(value).map(|list| (&b"SCHILY.acl.default"[..], list)),
                _ => None,
            };
            match list {
                Some((key, list)) => pax_record(&mut records, key, list.to_text().as_bytes()),
                None => {
                    let key = [b"SCHILY.xattr.", &self.xattr_name(name)[..]].concat();
                    pax_record(&mut records, &key, value);
                }
            }
        }
        self.extra(b'x', b"PaxHeaders/attributes", &records)
    }

    /// Encodes an attribute's name for a pax key, which ends at an equals sign. mksquashfs does not
    /// decode names.
    fn xattr_name<'a>(&self, name: &'a [u8]) -> Cow<'a, [u8]> {
        let is_encoded = |byte: &u8| matches!(byte, b'%' | b'=');
        if self.whiteout == Whiteout::Device || !name.iter().any(is_encoded) {
            return name.into();
        }
        let mut encoded = Vec::with_capacity(name.len() + 2);
        for &byte in name {
            match byte {
                b'%' => encoded.extend_from_slice(b"%25"),
                b'=' => encoded.extend_from_slice(b"%3D"),
                byte => encoded.push(byte),
            }
        }
        encoded.into()
    }

    /// Writes the header, after the names that do not fit into it.
    fn header(&mut self, header: &TarHeader<'_>) -> io::Result<()> {
        if self.open != 0 {
            return Err(io::Error::other("a file's content is not complete"));
        }
        for (kind, name) in [(b'K', header.target), (b'L', header.name)] {
            if name.len() > NAME_BYTES {
                self.extra(kind, b"././@LongLink", &[name, b"\0"].concat())?;
            }
        }
        self.block(header)
    }

    /// Writes an entry that describes the next one.
    fn extra(&mut self, kind: u8, name: &[u8], data: &[u8]) -> io::Result<()> {
        let size = data.len() as u64;
        self.block(&TarHeader { name, kind, mode: 0o644, size, ..TarHeader::EMPTY })?;
        self.write(data)?;
        self.pad(BLOCK_BYTES)
    }

    fn block(&mut self, header: &TarHeader<'_>) -> io::Result<()> {
        let mut block = [0u8; BLOCK_BYTES as usize];
        put_name(&mut block[..100], header.name);
        put_number(&mut block[100..108], header.mode.into());
        put_number(&mut block[108..116], header.uid.into());
        put_number(&mut block[116..124], header.gid.into());
        put_number(&mut block[124..136], header.size);
        put_number(&mut block[136..148], header.mtime.into());
        block[156] = header.kind;
        put_name(&mut block[157..257], header.target);
        block[257..265].copy_from_slice(b"ustar\x0000");
        put_number(&mut block[329..337], header.rdev.major.into());
        put_number(&mut block[337..345], header.rdev.minor.into());
        block[148..156].fill(b' ');
        let sum: u64 = block.iter().map(|&byte| u64::from(byte)).sum();
        put_number(&mut block[148..155], sum);
        self.write(&block)
    }

    fn pad(&mut self, unit: u64) -> io::Result<()> {
        let padding = self.written.next_multiple_of(unit) - self.written;
        self.write(&[0; RECORD_BYTES as usize][..padding as usize])
    }

    fn write(&mut self, data: &[u8]) -> io::Result<()> {
        self.inner.write_all(data)?;
        self.written += data.len() as u64;
        Ok(())
    }
}

impl TarHeader<'static> {
    const EMPTY: Self = TarHeader {
        name: b"",
        kind: 0,
        mode: 0,
        uid: 0,
        gid: 0,
        size: 0,
        mtime: 0,
        target: b"",
        rdev: Device { major: 0, minor: 0 },
    };
}

/// Truncates a long name: a long name precedes the entry.
fn put_name(field: &mut [u8], name: &[u8]) {
    let length = name.len().min(field.len());
    field[..length].copy_from_slice(&name[..length]);
}

/// Writes octal digits and a NUL, or base 256 with the high bit of the first byte set.
fn put_number(field: &mut [u8], mut number: u64) {
    let digits = field.len() - 1;
    if number >> (3 * digits) == 0 {
        for digit in field[..digits].iter_mut().rev() {
            *digit = b'0' + (number & 7) as u8;
            number >>= 3;
        }
    } else {
        for byte in field.iter_mut().rev() {
            *byte = number as u8;
            number >>= 8;
        }
        field[0] = 0x80;
    }
}

/// Appends `LENGTH KEY=VALUE\n`, where the length includes its own digits.
fn pax_record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    records.extend_from_slice(length.to_string().as_bytes());
    records.push(b' ');
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pax_record_length_includes_its_own_digits() {
        for size in [0, 1, 80, 81, 82, 83, 84, 85, 970, 976, 978, 980, 99_000] {
            let mut records = Vec::new();
            pax_record(&mut records, b"SCHILY.x", &vec![b'v'; size]);
            let text = String::from_utf8(records).unwrap();
            let stated: usize = text.split(' ').next().unwrap().parse().unwrap();
            assert_eq!(stated, text.len());
        }
    }

    #[test]
    fn number_too_large_for_octal_is_written_in_base_256() {
        let mut field = [0; 8];
        put_number(&mut field, 0o7777777);
        assert_eq!(&field, b"7777777\0");
        put_number(&mut field, 0o10000000);
        assert_eq!(field, [0x80, 0, 0, 0, 0, 0x20, 0, 0]);
    }
}
