//! Extended attributes.
//!
//! Follows `fs/squashfs/xattr.c`. The attributes of an inode are a sequence of entries in the
//! xattr table: type and name, then the value; values that several inodes share are stored once,
//! and the others have an 8-byte reference to them ("out of line").
//!
//! Invariants: names and values are within the kernel's own limits (255 bytes and 64 KiB), and an
//! object's attributes together within [`TOTAL_LIMIT`]; a name stands once; an out-of-line value
//! is one step away, never a chain.

use std::ops::Range;

use super::SquashfsLayer;
use super::metadata::{Cursor, Place};
use crate::attr::FileType;
use crate::error::LayerError;
use crate::layer::{Layer, LayerEntry, LayerIno, Xattr, overlayfs};

/// In an entry's type: the value is a reference.
const OUT_OF_LINE: u16 = 0x100;
/// The most bytes of a value (`XATTR_SIZE_MAX`).
const VALUE_LIMIT: u32 = 65536;
/// The most bytes of names and values that are searched for attributes of overlayfs.
const MAX_SEARCHED_BYTES: usize = 64 << 20;
/// The most objects that are examined to find the path of one with an attribute.
const MAX_OBJECTS: u64 = 1 << 22;
/// The longest path that is named, in bytes.
const PATH_MAX: usize = 4096;
/// The most bytes of all names and values of an object. The kernel lists at most 64 KiB of names.
const TOTAL_LIMIT: usize = 4 << 20;

const OPAQUE: [&[u8]; 2] = [b"trusted.overlay.opaque", b"user.overlay.opaque"];

impl SquashfsLayer {
    fn xattr_cursor(&self, table: &Range<u64>, reference: u64) -> Result<Cursor<'_>, LayerError> {
        let block = table.start.checked_add(reference >> 16).ok_or_else(|| {
            self.image().corrupt(format!("xattr table: reference {reference:#x}"))
        })?;
        let place = Place { block, offset: (reference & 0xffff) as usize };
        Ok(self.metadata.cursor(table, "xattr table", place))
    }

    /// All attributes, overlayfs's own included, sorted by name.
    fn all_xattrs(&self, ino: LayerIno) -> Result<Vec<Xattr>, LayerError> {
        let Some(index) = self.inode(ino)?.xattr else { return Ok(Vec::new()) };
        // As the kernel: without the table nothing has attributes, whatever the inodes say.
        if self.superblock.xattr_table.is_none() {
            return Ok(Vec::new());
        }
        let (place, table) = self.tables.xattr(&self.metadata, &self.superblock, index)?;
        let mut cursor = self.xattr_cursor(&table, place.reference)?;
        let mut xattrs: Vec<Xattr> = Vec::new();
        let mut total = 0;
        for _ in 0..place.count {
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
                return Err(self.bad_inode(ino, format!("an attribute's name of {len} bytes")));
            }
            cursor.read(&mut name[prefix.len()..])?;
            if name.contains(&0) {
                return Err(self.bad_inode(ino, "an attribute's name with a NUL in it"));
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
                return Err(self.bad_inode(ino, "an attribute's reference is not 8 bytes long"));
            };
            total += name.len() + value.len() + size_of::<Xattr>();
            if total > TOTAL_LIMIT {
                let what = format!("more than {TOTAL_LIMIT} bytes of attributes");
                return Err(self.bad_inode(ino, what));
            }
            xattrs.push((name.into(), value));
        }
        xattrs.sort();
        if let Some(twice) = xattrs.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            let name = twice[0].0.escape_ascii();
            return Err(self.bad_inode(ino, format!("the attribute \"{name}\" stands twice")));
        }
        Ok(xattrs)
    }

    fn value_len(&self, ino: LayerIno, cursor: &mut Cursor<'_>) -> Result<u32, LayerError> {
        match cursor.u32()? {
            len if len <= VALUE_LIMIT => Ok(len),
            len => Err(self.bad_inode(ino, format!("an attribute's value of {len} bytes"))),
        }
    }

    /// See [`Layer::xattrs`].
    pub(super) fn visible_xattrs(&self, ino: LayerIno) -> Result<Vec<Xattr>, LayerError> {
        let mut xattrs = self.all_xattrs(ino)?;
        xattrs.retain(|(name, _)| !overlayfs::PREFIXES.iter().any(|p| name.starts_with(p)));
        Ok(xattrs)
    }

    /// See [`Layer::is_opaque`].
    pub(super) fn has_opaque_mark(&self, ino: LayerIno) -> Result<bool, LayerError> {
        let xattrs = self.all_xattrs(ino)?;
        Ok(xattrs.iter().any(|(name, value)| OPAQUE.contains(&&**name) && **value == *b"y"))
    }
}

impl SquashfsLayer {
    /// Refuses an image with attributes of overlayfs that are not followed. Costs the reading of the
    /// xattr table, where there is one. Damage is reported when it is read, not here.
    ///
    /// # Errors
    /// [`LayerErrorKind::Unsupported`](crate::error::LayerErrorKind::Unsupported).
    pub fn check_marks(&self) -> Result<(), LayerError> {
        match self.unread_mark() {
            Ok(Some(name)) => {
                let path = self.marked_path(&name).ok().flatten();
                let path = path.unwrap_or_else(|| b"(an object)".to_vec());
                Err(overlayfs::refusal(self.image().name(), &String::from_utf8_lossy(&path), &name))
            }
            Ok(None) | Err(_) => Ok(()),
        }
    }

    /// The first attribute in the table that is not followed.
    fn unread_mark(&self) -> Result<Option<Vec<u8>>, LayerError> {
        if self.superblock.xattr_table.is_none() {
            return Ok(None);
        }
        // The sets of a damaged image may overlap.
        let mut left = MAX_SEARCHED_BYTES;
        for index in 0..self.tables.xattrs(&self.metadata, &self.superblock)? {
            let (place, table) = self.tables.xattr(&self.metadata, &self.superblock, index)?;
            let mut cursor = self.xattr_cursor(&table, place.reference)?;
            for _ in 0..place.count {
                let (kind, len) = (cursor.u16()?, cursor.u16()?);
                let prefix: &[u8] = if kind & 0xff == 0 { b"user." } else { b"trusted." };
                let mut name = prefix.to_vec();
                name.resize(prefix.len() + usize::from(len), 0);
                cursor.read(&mut name[prefix.len()..])?;
                if kind & 0xff < 2 && overlayfs::is_unread(&name) {
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

    /// The path of an object with the attribute `name`.
    fn marked_path(&self, name: &[u8]) -> Result<Option<Vec<u8>>, LayerError> {
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
