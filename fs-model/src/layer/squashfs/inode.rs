//! Inodes: the inode table's records of objects.
//!
//! Follows `fs/squashfs/squashfs_fs.h` (the `squashfs_*_inode` structures) and `inode.c`. An inode
//! is identified by its *reference*: the position of its metadata block relative to the inode
//! table, shifted by 16, plus its offset in the block. All hard links of an object have the same
//! reference, so it serves as the [`LayerIno`].
//!
//! Invariants of an accepted [`SquashfsInode`]: its kind is one of seven; a symlink's length is 1
//! to 65,535; the inode table can hold a block list for a file's size; the directory table can hold
//! a directory's size. Nothing is allocated in proportion to these values.

use super::SquashfsLayer;
use super::image::{max_metadata, u16_at, u32_at, u64_at};
use super::metadata::{Cursor, MetadataPos};
use crate::attr::{Attr, Device, FileType, Time};
use crate::error::LayerError;
use crate::layer::LayerIno;

/// The length from which a symlink's target is rejected: all systems limit it to a page or less.
const SYMLINK_LEN_LIMIT: u32 = 65536;
/// In the inode of a file: no fragment.
const NO_FRAGMENT: u32 = u32::MAX;
/// In an extended inode: no attributes.
const NO_XATTR: u32 = u32::MAX;
/// Bytes of a directory's stored size that are not part of its listing, for `.` and `..`.
const DIRECTORY_EXTRA: u32 = 3;

/// An inode.
#[derive(Clone, Debug)]
pub(super) struct SquashfsInode {
    pub(super) kind: FileType,
    pub(super) mode: u16,
    pub(super) uid_index: u16,
    pub(super) gid_index: u16,
    pub(super) mtime: u32,
    pub(super) nlink: u32,
    /// The index of its attributes in the xattr table.
    pub(super) xattr: Option<u32>,
    pub(super) body: SquashfsBody,
}

/// The part of an inode that depends on its type.
#[derive(Clone, Debug)]
pub(super) enum SquashfsBody {
    Directory(DirectoryBody),
    File(FileBody),
    Symlink {
        len: u32,
        target: MetadataPos,
    },
    Device(Device),
    /// A fifo or a socket.
    Nothing,
}

/// The position of a directory's entries.
#[derive(Clone, Copy, Debug)]
pub(super) struct DirectoryBody {
    /// The size as stored.
    pub(super) size: u32,
    /// Size of the listing: runs begin within this many bytes.
    pub(super) listing: u32,
    /// The metadata block of the listing, relative to the directory table, and the offset in it.
    pub(super) start_block: u32,
    pub(super) offset: u16,
    /// Number of entries of its index, and their position in the inode table.
    pub(super) indexes: u16,
    pub(super) index: MetadataPos,
}

/// The position of a file's content.
#[derive(Clone, Copy, Debug)]
pub(super) struct FileBody {
    pub(super) size: u64,
    /// Number of bytes in holes, as stored.
    pub(super) sparse: u64,
    /// The position of the first block in the image.
    pub(super) start: u64,
    /// Number of entries of the block list.
    pub(super) blocks: u64,
    /// The index of the fragment block with the end of the file, and the offset in it.
    pub(super) fragment: Option<(u32, u32)>,
    /// The position of the block list in the inode table.
    pub(super) list: MetadataPos,
}

impl SquashfsLayer {
    /// Returns a cursor at an inode.
    fn inode_cursor(&self, ino: LayerIno) -> Result<Cursor<'_>, LayerError> {
        let table = &self.superblock.inode_table;
        let block = (ino.0 >> 16).checked_add(table.start).filter(|_| ino.0 >> 48 == 0);
        let block = block.ok_or_else(|| {
            self.image().corrupt(format!("inode reference {:#x} beyond 48 bits", ino.0))
        })?;
        Ok(self.inode_table_cursor(MetadataPos { block, offset: (ino.0 & 0xffff) as usize }))
    }

    /// Returns a cursor in the inode table.
    pub(super) fn inode_table_cursor(&self, pos: MetadataPos) -> Cursor<'_> {
        self.metadata.cursor(&self.superblock.inode_table, "inode table", pos)
    }

    /// Reads and checks an inode.
    pub(super) fn inode(&self, ino: LayerIno) -> Result<SquashfsInode, LayerError> {
        let mut cursor = self.inode_cursor(ino)?;
        let head: [u8; 16] = cursor.array()?;
        let kind = u16_at(&head, 0);
        let mut inode = SquashfsInode {
            kind: FileType::Regular,
            mode: u16_at(&head, 2) & 0o7777,
            uid_index: u16_at(&head, 4),
            gid_index: u16_at(&head, 6),
            mtime: u32_at(&head, 8),
            nlink: 1,
            xattr: None,
            body: SquashfsBody::Nothing,
        };
        let extended = kind > 7;
        // Extended types are the basic ones plus 7.
        match if extended { kind - 7 } else { kind } {
            1 => {
                inode.kind = FileType::Directory;
                inode.body = SquashfsBody::Directory(if extended {
                    let raw: [u8; 24] = cursor.array()?;
                    inode.nlink = u32_at(&raw, 0);
                    inode.xattr = xattr_index(u32_at(&raw, 20));
                    self.directory_body(
                        ino,
                        u32_at(&raw, 4),
                        (u32_at(&raw, 8), u16_at(&raw, 18)),
                        (u16_at(&raw, 16), cursor.pos()),
                    )?
                } else {
                    let raw: [u8; 16] = cursor.array()?;
                    inode.nlink = u32_at(&raw, 4);
                    self.directory_body(
                        ino,
                        u16_at(&raw, 8).into(),
                        (u32_at(&raw, 0), u16_at(&raw, 10)),
                        (0, cursor.pos()),
                    )?
                });
            }
            2 => {
                let (start, size, sparse, fragment, offset);
                if extended {
                    let raw: [u8; 40] = cursor.array()?;
                    (start, size, sparse) = (u64_at(&raw, 0), u64_at(&raw, 8), u64_at(&raw, 16));
                    inode.nlink = u32_at(&raw, 24);
                    (fragment, offset) = (u32_at(&raw, 28), u32_at(&raw, 32));
                    inode.xattr = xattr_index(u32_at(&raw, 36));
                } else {
                    let raw: [u8; 16] = cursor.array()?;
                    (start, size, sparse) = (u32_at(&raw, 0).into(), u32_at(&raw, 12).into(), 0);
                    (fragment, offset) = (u32_at(&raw, 4), u32_at(&raw, 8));
                }
                let fragment = (fragment != NO_FRAGMENT).then_some((fragment, offset));
                inode.body = SquashfsBody::File(self.file_body(
                    ino,
                    FileBody { size, sparse, start, blocks: 0, fragment, list: cursor.pos() },
                )?);
            }
            3 => {
                inode.kind = FileType::Symlink;
                let raw: [u8; 8] = cursor.array()?;
                inode.nlink = u32_at(&raw, 0);
                let len = u32_at(&raw, 4);
                if len == 0 || len >= SYMLINK_LEN_LIMIT {
                    return Err(self.bad_inode(ino, format!("a symlink target of {len} bytes")));
                }
                inode.body = SquashfsBody::Symlink { len, target: cursor.pos() };
                if extended {
                    cursor.skip(len.into())?;
                    inode.xattr = xattr_index(cursor.u32()?);
                }
            }
            basic @ (4 | 5) => {
                inode.kind = if basic == 4 { FileType::BlockDevice } else { FileType::CharDevice };
                let raw: [u8; 8] = cursor.array()?;
                inode.nlink = u32_at(&raw, 0);
                inode.body = SquashfsBody::Device(Device::from_u32(u32_at(&raw, 4)));
                if extended {
                    inode.xattr = xattr_index(cursor.u32()?);
                }
            }
            basic @ (6 | 7) => {
                inode.kind = if basic == 6 { FileType::Fifo } else { FileType::Socket };
                inode.nlink = cursor.u32()?;
                if extended {
                    inode.xattr = xattr_index(cursor.u32()?);
                }
            }
            _ => return Err(self.bad_inode(ino, format!("type {kind}"))),
        }
        Ok(inode)
    }

    fn directory_body(
        &self,
        ino: LayerIno,
        size: u32,
        (start_block, offset): (u32, u16),
        (indexes, index): (u16, MetadataPos),
    ) -> Result<DirectoryBody, LayerError> {
        let listing = size.saturating_sub(DIRECTORY_EXTRA);
        if u64::from(listing) > self.max_directory_bytes {
            return Err(self.bad_inode(ino, format!("a directory of {size} bytes")));
        }
        Ok(DirectoryBody { size, listing, start_block, offset, indexes, index })
    }

    fn file_body(&self, ino: LayerIno, mut body: FileBody) -> Result<FileBody, LayerError> {
        let block_size = u64::from(self.superblock.block_size);
        body.blocks = if body.fragment.is_some() {
            body.size / block_size
        } else {
            body.size.div_ceil(block_size)
        };
        let list = body.blocks.saturating_mul(4);
        if list > max_metadata(&self.superblock.inode_table) || body.size > i64::MAX as u64 {
            return Err(self.bad_inode(ino, format!("a file of {} bytes", body.size)));
        }
        Ok(body)
    }

    /// Returns an error for an inode.
    pub(super) fn bad_inode(&self, ino: LayerIno, what: impl std::fmt::Display) -> LayerError {
        self.image().corrupt(format!("inode {:#x}: {what}", ino.0))
    }

    /// Returns the attributes of an inode.
    pub(super) fn inode_attr(&self, inode: &SquashfsInode) -> Result<Attr, LayerError> {
        let (size, allocated, rdev) = match &inode.body {
            // The stored size of the blocks would require an iteration over their list.
            SquashfsBody::File(file) => {
                (file.size, file.size.saturating_sub(file.sparse), Device::default())
            }
            SquashfsBody::Directory(directory) => (directory.size.into(), 0, Device::default()),
            SquashfsBody::Symlink { len, .. } => ((*len).into(), 0, Device::default()),
            SquashfsBody::Device(device) => (0, 0, *device),
            SquashfsBody::Nothing => (0, 0, Device::default()),
        };
        let time = Time::from_secs(inode.mtime.into());
        Ok(Attr {
            kind: inode.kind,
            mode: inode.mode,
            uid: self.tables.id(&self.metadata, &self.superblock, inode.uid_index)?,
            gid: self.tables.id(&self.metadata, &self.superblock, inode.gid_index)?,
            size,
            allocated,
            rdev,
            nlink: inode.nlink,
            atime: time,
            mtime: time,
            ctime: time,
        })
    }

    /// Returns the target of the symlink `ino`.
    pub(super) fn symlink_target(&self, ino: LayerIno) -> Result<Vec<u8>, LayerError> {
        let SquashfsBody::Symlink { len, target } = self.inode(ino)?.body else {
            return Err(self.bad_inode(ino, "not a symbolic link"));
        };
        let mut bytes = vec![0; len as usize];
        self.inode_table_cursor(target).read(&mut bytes)?;
        if bytes.contains(&0) {
            return Err(self.bad_inode(ino, "a symlink target that contains a NUL"));
        }
        Ok(bytes)
    }
}

fn xattr_index(index: u32) -> Option<u32> {
    (index != NO_XATTR).then_some(index)
}
