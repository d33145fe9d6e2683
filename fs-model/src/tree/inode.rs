//! Objects of the upper: newly created ones, and objects of layers whose attributes or content
//! changed.
//!
//! Invariants:
//! - A copied-up object keeps the inode number that it has as an object of a layer, so that all its
//!   names in the layers' directories refer to the copy.
//! - Copying up attributes copies no data; [`FileContent`] copies data chunk by chunk.
//! - The body has its own lock, taken after the tree's and never two at a time, so that reading or
//!   writing a file blocks only other users of the same file.

use std::collections::BTreeMap;

use parking_lot::RwLock;

use super::content::FileContent;
use super::space::{INODE_COST, Space};
use crate::acl::{self, Acl};
use crate::attr::{Attr, Device, FileType, Time};
use crate::error::{FsError, LayerError};
use crate::stack::{LowerInode, Stack};

/// Extended attributes by name.
pub(crate) type XattrMap = BTreeMap<Box<[u8]>, Box<[u8]>>;

#[derive(Debug)]
pub(crate) struct UpperInode {
    pub(crate) kind: FileType,
    pub(crate) rdev: Device,
    /// The object of a layer that was copied up; `None` for a new object.
    pub(crate) origin: Option<LowerInode>,
    pub(crate) body: RwLock<UpperBody>,
}

#[derive(Debug)]
pub(crate) struct UpperBody {
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// For a directory: 0 once it is removed; otherwise unused, as the tree counts subdirectories.
    pub(crate) nlink: u32,
    pub(crate) atime: Time,
    pub(crate) mtime: Time,
    /// Whether the modification time comes from the layer or was set explicitly. Otherwise, the
    /// time of a directory is that of the last change of a name in it, which is not a change by
    /// itself: see [`crate::delta`].
    pub(crate) mtime_counts: bool,
    pub(crate) ctime: Time,
    pub(crate) data: UpperData,
    /// `None` while the layer's attributes apply.
    pub(crate) xattrs: Option<Box<XattrMap>>,
}

#[derive(Debug)]
pub(crate) enum UpperData {
    /// Directories, devices, pipes and sockets.
    None,
    File(FileContent),
    /// The target of a symbolic link.
    Symlink(Box<[u8]>),
}

impl UpperInode {
    /// Copies up the attributes of `origin`.
    pub(crate) fn copy_up(stack: &Stack, origin: LowerInode) -> Result<UpperInode, FsError> {
        let attr = stack.stored_attr(origin)?;
        let data = match attr.kind {
            FileType::Regular => UpperData::File(FileContent::over(origin, attr.size)),
            FileType::Symlink => UpperData::Symlink(stack.read_link(origin)?.into()),
            _ => UpperData::None,
        };
        Ok(UpperInode {
            kind: attr.kind,
            rdev: attr.rdev,
            origin: Some(origin),
            body: RwLock::new(UpperBody {
                mode: attr.mode,
                uid: attr.uid,
                gid: attr.gid,
                nlink: attr.nlink,
                atime: attr.atime,
                mtime: attr.mtime,
                mtime_counts: true,
                ctime: attr.ctime,
                data,
                xattrs: None,
            }),
        })
    }

    /// Memory charged for the inode, without its data.
    pub(crate) fn cost(&self) -> u64 {
        self.body.read().cost()
    }

    /// Releases all its memory. Callers that still hold it find no data.
    pub(crate) fn release(&self, space: &Space) {
        let mut body = self.body.write();
        body.release(space);
        body.data = UpperData::None;
        body.xattrs = None;
    }

    /// Returns the ACL `name`, if there is one.
    pub(crate) fn acl(&self, stack: &Stack, name: &[u8]) -> Result<Option<Acl>, LayerError> {
        self.body.read().acl(stack, self.origin, name)
    }

    /// Returns the attributes, without a directory's `nlink`, which the tree fills in. Where
    /// `stack` hides ACLs, the mode is [`Acl::plain_mode`].
    pub(crate) fn attr(&self, stack: &Stack) -> Result<Attr, LayerError> {
        let body = self.body.read();
        let mut attr = self.stored_attr(&body);
        if !stack.shows_acls()
            && let Some(list) = body.acl(stack, self.origin, acl::ACCESS)?
        {
            attr.mode = list.plain_mode(attr.mode);
        }
        Ok(attr)
    }

    fn stored_attr(&self, body: &UpperBody) -> Attr {
        let (size, allocated) = match &body.data {
            UpperData::None => (0, 0),
            UpperData::File(content) => (content.size(), content.allocated()),
            UpperData::Symlink(target) => (target.len() as u64, 0),
        };
        Attr {
            kind: self.kind,
            mode: body.mode,
            uid: body.uid,
            gid: body.gid,
            size,
            allocated,
            rdev: self.rdev,
            nlink: body.nlink,
            atime: body.atime,
            mtime: body.mtime,
            ctime: body.ctime,
        }
    }
}

impl UpperBody {
    /// Returns the ACL `name`. `origin` is the copied-up object.
    pub(crate) fn acl(
        &self,
        stack: &Stack,
        origin: Option<LowerInode>,
        name: &[u8],
    ) -> Result<Option<Acl>, LayerError> {
        match (&self.xattrs, origin) {
            (Some(map), _) => Ok(map.get(name).and_then(|value| Acl::parse(value))),
            (None, Some(source)) => stack.acl(source, name),
            (None, None) => Ok(None),
        }
    }

    /// Memory charged for the inode, without its data.
    pub(crate) fn cost(&self) -> u64 {
        let target = match &self.data {
            UpperData::Symlink(t) => t.len() as u64,
            _ => 0,
        };
        let xattrs = self.xattrs.as_deref().map_or(0, xattr_cost);
        INODE_COST + target + xattrs
    }

    /// Releases all memory that is charged for this inode.
    pub(crate) fn release(&mut self, space: &Space) {
        space.release(self.cost());
        if let UpperData::File(content) = &mut self.data {
            content.release(space);
        }
    }

    /// All memory that is charged for this inode.
    pub(crate) fn charged(&self) -> u64 {
        let data = match &self.data {
            UpperData::File(content) => content.charged(),
            _ => 0,
        };
        self.cost() + data
    }
}

/// Memory charged for a map of extended attributes.
pub(crate) fn xattr_cost(map: &XattrMap) -> u64 {
    map.iter().map(|(name, value)| (name.len() + value.len()) as u64 + 64).sum()
}
