//! An object of the upper: one that was made here, or one of a layer whose attributes or content
//! changed.
//!
//! Invariants:
//! - It has the number that it had as an object of a layer, so all its names in the layers' own
//!   directories mean it from then on.
//! - Attributes alone are copied up without any data; [`Content`] takes data chunk by chunk.
//! - Its body has its own lock, taken after the tree's and never two at a time, so that reading
//!   or writing a file holds up nobody but its other users.

use std::collections::BTreeMap;

use parking_lot::RwLock;

use super::content::Content;
use super::space::{INODE_COST, Space};
use crate::acl::{self, Acl};
use crate::attr::{Attr, Device, FileType, Time};
use crate::error::{FsError, LayerError};
use crate::stack::{Source, Stack};

/// Extended attributes by name.
pub(crate) type XattrMap = BTreeMap<Box<[u8]>, Box<[u8]>>;

#[derive(Debug)]
pub(crate) struct Inode {
    pub(crate) kind: FileType,
    pub(crate) rdev: Device,
    /// The object of a layer that this was; `None` for one made here.
    pub(crate) origin: Option<Source>,
    pub(crate) body: RwLock<Body>,
}

#[derive(Debug)]
pub(crate) struct Body {
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Of a directory: 0 once it is removed; otherwise not used, the tree counts.
    pub(crate) nlink: u32,
    pub(crate) atime: Time,
    pub(crate) mtime: Time,
    /// Whether the time of modification is the layer's or was set explicitly. That of a directory is
    /// otherwise the time at which a name in it changed, and no change by itself: see
    /// [`crate::delta`].
    pub(crate) mtime_counts: bool,
    pub(crate) ctime: Time,
    pub(crate) data: Data,
    /// `None` while they are the layer's.
    pub(crate) xattrs: Option<Box<XattrMap>>,
}

#[derive(Debug)]
pub(crate) enum Data {
    /// Directories, devices, pipes and sockets have none.
    None,
    File(Content),
    /// A symlink's target.
    Target(Box<[u8]>),
}

impl Inode {
    /// Copies up the attributes of `origin`.
    pub(crate) fn copy_up(stack: &Stack, origin: Source) -> Result<Inode, FsError> {
        let attr = stack.stored_attr(origin)?;
        let data = match attr.kind {
            FileType::Regular => Data::File(Content::over(origin, attr.size)),
            FileType::Symlink => Data::Target(stack.read_link(origin)?.into()),
            _ => Data::None,
        };
        Ok(Inode {
            kind: attr.kind,
            rdev: attr.rdev,
            origin: Some(origin),
            body: RwLock::new(Body {
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

    /// What the record itself is charged with, its data excepted.
    pub(crate) fn cost(&self) -> u64 {
        self.body.read().cost()
    }

    /// Gives all its memory back. Whoever still holds it finds no data in it.
    pub(crate) fn release(&self, space: &Space) {
        let mut body = self.body.write();
        body.release(space);
        body.data = Data::None;
        body.xattrs = None;
    }

    /// The access list `name`, if the object has one.
    pub(crate) fn acl(&self, stack: &Stack, name: &[u8]) -> Result<Option<Acl>, LayerError> {
        self.body.read().acl(stack, self.origin, name)
    }

    /// The attributes; a directory's `nlink` is the tree's to fill in. The mode is what `stack`
    /// makes of an object's mode and access list.
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

    fn stored_attr(&self, body: &Body) -> Attr {
        let (size, allocated) = match &body.data {
            Data::None => (0, 0),
            Data::File(content) => (content.size(), content.allocated()),
            Data::Target(target) => (target.len() as u64, 0),
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

impl Body {
    /// The access list `name` of an object that was `origin` in a layer.
    pub(crate) fn acl(
        &self,
        stack: &Stack,
        origin: Option<Source>,
        name: &[u8],
    ) -> Result<Option<Acl>, LayerError> {
        match (&self.xattrs, origin) {
            (Some(map), _) => Ok(map.get(name).and_then(|value| Acl::parse(value))),
            (None, Some(source)) => stack.acl(source, name),
            (None, None) => Ok(None),
        }
    }

    /// What the record itself is charged with, its data excepted.
    pub(crate) fn cost(&self) -> u64 {
        let target = match &self.data {
            Data::Target(t) => t.len() as u64,
            _ => 0,
        };
        let xattrs = self.xattrs.as_deref().map_or(0, xattr_cost);
        INODE_COST + target + xattrs
    }

    /// Takes all that this is charged with off the account.
    pub(crate) fn release(&mut self, space: &Space) {
        space.release(self.cost());
        if let Data::File(content) = &mut self.data {
            content.release(space);
        }
    }

    /// All that this is charged with.
    pub(crate) fn charged(&self) -> u64 {
        let data = match &self.data {
            Data::File(content) => content.charged(),
            _ => 0,
        };
        self.cost() + data
    }
}

/// What a map of extended attributes is charged with.
pub(crate) fn xattr_cost(map: &XattrMap) -> u64 {
    map.iter().map(|(name, value)| (name.len() + value.len()) as u64 + 64).sum()
}
