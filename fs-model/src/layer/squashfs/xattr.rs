//! Extended attributes.
//!
//! Follows `fs/squashfs/xattr.c`. The attributes of an inode are a sequence of entries in the xattr
//! table: type, name and value. A value that several inodes share may be stored once; the other
//! entries have an 8-byte reference to it ("out of line").
//!
//! Invariants: names and values are within the kernel's limits (255 bytes and 64 KiB), and all
//! attributes of an object within [`MAX_XATTR_BYTES`]; names are unique; an out-of-line value is
//! found with one step, never a chain.

use std::ops::Range;

use super::SquashfsLayer;
use super::metadata::{Cursor, MetadataPos};
use crate::attr::FileType;
use crate::error::LayerError;
use crate::layer::{Layer, LayerEntry, LayerIno, Xattr, overlayfs};

/// Flag in an entry's type: the value is a reference.
const OUT_OF_LINE: u16 = 0x100;
/// Maximum size of a value in bytes (`XATTR_SIZE_MAX`).
const MAX_VALUE_LEN: u32 = 65536;
/// Maximum number of bytes searched for attributes of overlayfs.
const MAX_SEARCHED_BYTES: usize = 64 << 20;
/// Maximum number of objects visited to find the path of an object with an attribute.
const MAX_OBJECTS: u64 = 1 << 22;
/// Maximum length of a reported path in bytes.
const PATH_MAX: usize = 4096;
/// Maximum size of all names and values of an object in bytes. The kernel lists at most 64 KiB of
/// names.
const MAX_XATTR_BYTES: usize = 4 << 20;

const OPAQUE: [&[u8]; 2] = [b"trusted.overlay.opaque", b"user.overlay.opaque"];

impl SquashfsLayer {
    fn xattr_cursor(&self, table: &Range<u64>, reference: u64) -> Result<Cursor<'_>, LayerError> {
        let block = table.start.checked_add(reference >> 16).ok_or_else(|| {
            self.image().corrupt(format!("xattr table: reference {reference:#x}"))
        })?;
        let pos = MetadataPos { block, offset: (reference & 0xffff) as usize };
        Ok(self.metadata.cursor(table, "xattr table", pos))
    }

    /// Returns all attributes, including those of overlayfs, sorted by name.
    fn all_xattrs(&self, ino: LayerIno) -> Result<Vec<Xattr>, LayerError> {
        let Some(index) = self.inode(ino)?.xattr else { return Ok(Vec::new()) };
        // As in the kernel, the indexes in inodes are ignored without the table.
        if self.superblock.xattr_table.is_none() {
            return Ok(Vec::new());
        }
        let (pos, table) = self.tables.xattr(&self.metadata, &self.superblock, index)?;
        let mut cursor = self.xattr_cursor(&table, pos.reference)?;
        let mut xattrs: Vec<Xattr> = Vec::new();
        let mut total = 0;
        for _ in 0..pos.count {
            let (kind, len) = (cursor.u16()?, cursor.u16()?);
            let prefix: &[u8] = match kind & 0xff {
                0 => b"user.",
                1 => b"trusted.",
                2 => b"security.",
                _ => {
                    let what = format!("an attribute of type {kind:#x}");
                    return Err(self.bad_inode(ino, what));
                }
            };
            let mut name = prefix.to_vec();
            name.resize(prefix.len() + usize::from(len), 0);
            if len == 0 || name.len() > 255 {
                return Err(self.bad_inode(ino, format!("an attribute name of {len} bytes")));
            }
            cursor.read(&mut name[prefix.len()..])?;
            if name.contains(&0) {
                return Err(self.bad_inode(ino, "an attribute name that contains a NUL"));
            }
            let inline = self.value_len(ino, &mut cursor)?;
            let value = if kind & OUT_OF_LINE == 0 {
                read_value(&mut cursor, inline)?
            } else if inline == 8 {
                let reference = u64::from_le_bytes(cursor.array()?);
                let mut elsewhere = self.xattr_cursor(&table, reference)?;
                let len = self.value_len(ino, &mut elsewhere)?;
                read_value(&mut elsewhere, len)?
            } else {
                return Err(
                    self.bad_inode(ino, format!("an attribute with a reference of {inline} bytes"))
                );
            };
            total += name.len() + value.len() + size_of::<Xattr>();
            if total > MAX_XATTR_BYTES {
                let what = format!("more than {MAX_XATTR_BYTES} bytes of attributes");
                return Err(self.bad_inode(ino, what));
            }
            xattrs.push((name.into(), value));
        }
        xattrs.sort();
        if let Some(twice) = xattrs.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            let name = twice[0].0.escape_ascii();
            return Err(self.bad_inode(ino, format!("duplicate attribute \"{name}\"")));
        }
        Ok(xattrs)
    }

    fn value_len(&self, ino: LayerIno, cursor: &mut Cursor<'_>) -> Result<u32, LayerError> {
        match cursor.u32()? {
            len if len <= MAX_VALUE_LEN => Ok(len),
            len => Err(self.bad_inode(ino, format!("an attribute value of {len} bytes"))),
        }
    }

    /// See [`Layer::xattrs`].
    pub(super) fn visible_xattrs(&self, ino: LayerIno) -> Result<Vec<Xattr>, LayerError> {
        let mut xattrs = self.all_xattrs(ino)?;
        xattrs.retain(|(name, _)| !overlayfs::PREFIXES.iter().any(|p| name.starts_with(p)));
        Ok(xattrs)
    }

    /// See [`Layer::is_opaque`].
    pub(super) fn has_opaque_attribute(&self, ino: LayerIno) -> Result<bool, LayerError> {
        let xattrs = self.all_xattrs(ino)?;
        Ok(xattrs.iter().any(|(name, value)| OPAQUE.contains(&&**name) && **value == *b"y"))
    }
}

impl SquashfsLayer {
    /// Rejects an image with attributes of overlayfs that this crate does not support. Reads the
    /// xattr table, if there is one. Ignores damage, which is reported when the data is read.
    ///
    /// # Errors
    /// [`LayerErrorKind::Unsupported`](crate::error::LayerErrorKind::Unsupported).
    pub fn check_overlayfs_attributes(&self) -> Result<(), LayerError> {
        match self.find_unsupported_attribute() {
            Ok(Some(name)) => {
                let path = self.find_path_with_attribute(&name).ok().flatten();
                let path = path.unwrap_or_else(|| b"(an object)".to_vec());
                Err(overlayfs::unsupported(
                    self.image().name(),
                    &String::from_utf8_lossy(&path),
                    &name,
                ))
            }
            Ok(None) | Err(_) => Ok(()),
        }
    }

    /// Returns the first unsupported attribute in the table.
    fn find_unsupported_attribute(&self) -> Result<Option<Vec<u8>>, LayerError> {
        if self.superblock.xattr_table.is_none() {
            return Ok(None);
        }
        // Attribute sets of a damaged image may overlap.
        let mut left = MAX_SEARCHED_BYTES;
        for index in 0..self.tables.xattrs(&self.metadata, &self.superblock)? {
            let (pos, table) = self.tables.xattr(&self.metadata, &self.superblock, index)?;
            let mut cursor = self.xattr_cursor(&table, pos.reference)?;
            for _ in 0..pos.count {
                let (kind, len) = (cursor.u16()?, cursor.u16()?);
                let prefix: &[u8] = if kind & 0xff == 0 { b"user." } else { b"trusted." };
                let mut name = prefix.to_vec();
                name.resize(prefix.len() + usize::from(len), 0);
                cursor.read(&mut name[prefix.len()..])?;
                if kind & 0xff < 2 && overlayfs::is_unsupported(&name) {
                    return Ok(Some(name));
                }
                let len = self.value_len(self.root(), &mut cursor)?;
                cursor.read(&mut vec![0; len as usize])?;
                left = match left.checked_sub(name.len() + len as usize) {
                    Some(left) => left,
                    None => return Ok(None),
                };
            }
        }
        Ok(None)
    }

    /// Returns the path of an object with the attribute `name`.
    fn find_path_with_attribute(&self, name: &[u8]) -> Result<Option<Vec<u8>>, LayerError> {
        // Directories of a damaged image may contain each other.
        let mut left = u64::from(self.superblock.inodes).min(MAX_OBJECTS) + 1;
        let mut pending = vec![(self.root(), Vec::new())];
        while let Some((ino, path)) = pending.pop() {
            if self.all_xattrs(ino)?.iter().any(|(n, _)| **n == *name) {
                return Ok(Some(path));
            }
            if self.attr(ino)?.kind != FileType::Directory {
                continue;
            }
            for entry in self.read_dir(ino)? {
                left = match left.checked_sub(1) {
                    Some(left) => left,
                    None => return Ok(None),
                };
                if let LayerEntry::Object { ino, .. } = entry.entry
                    && path.len() < PATH_MAX
                {
                    let separator: &[u8] = if path.is_empty() { b"" } else { b"/" };
                    pending.push((ino, [&path[..], separator, &entry.name].concat()));
                }
            }
        }
        Ok(None)
    }
}

fn read_value(cursor: &mut Cursor<'_>, len: u32) -> Result<Box<[u8]>, LayerError> {
    let mut value = vec![0; len as usize];
    cursor.read(&mut value)?;
    Ok(value.into())
}
