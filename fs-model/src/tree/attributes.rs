//! Attributes and extended attributes.

use super::content::MAX_FILE_SIZE;
use super::inode::{UpperBody, UpperData, UpperInode, XattrMap, xattr_cost};
use super::lent::ContentFrom;
use super::{Ino, Tree, TreeState, XattrSupport, lower_inode};
use crate::acl::{self, Acl};
use crate::attr::{Attr, FileType, Time};
use crate::error::FsError;
use crate::layer::Xattr;

/// Maximum size of an extended attribute's value in bytes (`XATTR_SIZE_MAX` in `<linux/limits.h>`).
const XATTR_SIZE_MAX: usize = 65536;
/// Namespaces that are accepted, in addition to ACLs. For FUSE, the kernel leaves this check to the
/// file system.
const XATTR_NAMESPACES: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];
/// Attributes that overlayfs interprets. They are rejected, because in an overlay they would take
/// effect: for example, make a directory hide the one below it.
const XATTRS_OF_OVERLAYFS: [&[u8]; 2] = [b"trusted.overlay.", b"user.overlay."];

/// Attributes to set; `None` keeps the present value.
#[derive(Clone, Copy, Debug, Default)]
pub struct SetAttr {
    /// Permission bits.
    pub mode: Option<u16>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Clear setuid, and setgid if the group may execute, as the kernel does when the owner changes
    /// or when an unprivileged process changes the content. Ignored for directories.
    pub drop_setid: bool,
    /// With [`SetAttr::drop_setid`], the group of the process that changes the content. If this is
    /// not the file's group, setgid is cleared even if the group may not execute.
    pub changed_by_group: Option<u32>,
    /// Size of a regular file.
    pub size: Option<u64>,
    /// Time of the last access.
    pub atime: Option<Time>,
    /// Time of the last change of the content. If absent, a change of the size sets it to now.
    pub mtime: Option<Time>,
    /// Whether `atime` and `mtime` are the current time (`UTIME_NOW`), as set by `touch` without a
    /// time.
    pub is_touch: bool,
}

impl SetAttr {
    /// Returns whether setting these attributes changes an object with the attributes `attr`.
    pub(super) fn changes(&self, attr: &Attr) -> bool {
        let differs = |set: Option<u32>, is: u32| set.is_some_and(|set| set != is);
        self.size.is_some()
            || self.mode.is_some_and(|mode| mode & 0o7777 != attr.mode)
            || differs(self.uid, attr.uid)
            || differs(self.gid, attr.gid)
            || self.mtime.is_some_and(|time| time != attr.mtime)
            || self.atime.is_some_and(|time| time != attr.atime)
    }
}

/// Condition on the old value when an extended attribute is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XattrFlags {
    /// No condition.
    Any,
    /// The attribute must not exist (`XATTR_CREATE`).
    Create,
    /// The attribute must exist (`XATTR_REPLACE`).
    Replace,
}

impl Tree {
    /// Sets attributes and returns all attributes of the object. Copies no file data. For a lent
    /// file, the file that it covers is changed too.
    ///
    /// # Errors
    /// [`FsError::FileTooLarge`], [`FsError::IsADirectory`] or [`FsError::Invalid`] for a size;
    /// [`FsError::NoSpace`], [`FsError::ReadOnly`], [`FsError::Stale`] or [`FsError::Layer`];
    /// [`FsError::Busy`] for a lent file that covers something other than a regular file.
    pub fn set_attr(&self, ino: Ino, set: &SetAttr) -> Result<Attr, FsError> {
        let _gate = self.gate.read();
        self.check_writable()?;
        let (inode, covered) = {
            let mut state = self.state.lock();
            let ino = state.current(ino);
            let covered = state.prepare_set_attr(self, ino, set)?;
            state.keep_scratch_parent(ino);
            if let Some(size) = set.size {
                match state.kind(&self.stack, ino)? {
                    FileType::Regular if size > MAX_FILE_SIZE => return Err(FsError::FileTooLarge),
                    FileType::Regular => {}
                    FileType::Directory => return Err(FsError::IsADirectory),
                    _ => return Err(FsError::Invalid),
                }
            }
            (state.upper_inode(self, ino)?, covered)
        };
        if let Some(covered) = covered {
            self.set_inode_attr(&covered, set)?;
        }
        self.set_inode_attr(&inode, set)?;
        match inode.kind {
            FileType::Directory => self.attr(ino),
            _ => Ok(inode.attr(&self.stack)?),
        }
    }

    fn set_inode_attr(&self, inode: &UpperInode, set: &SetAttr) -> Result<(), FsError> {
        let now = Time::now();
        let mut body = inode.body.write();
        if let Some(size) = set.size
            && let UpperData::File(content) = &mut body.data
        {
            content.truncate(&self.space, size)?;
            body.mtime = now;
        }
        if let Some(mode) = set.mode {
            self.update_acl_to_mode(inode, &mut body, mode)?;
            body.mode = mode & 0o7777;
        }
        if set.drop_setid && inode.kind != FileType::Directory {
            body.mode = without_setid(body.mode, set.changed_by_group, body.gid);
        }
        body.uid = set.uid.unwrap_or(body.uid);
        body.gid = set.gid.unwrap_or(body.gid);
        body.atime = set.atime.unwrap_or(body.atime);
        if let Some(mtime) = set.mtime {
            (body.mtime, body.mtime_counts) = (mtime, true);
        }
        body.ctime = now;
        Ok(())
    }

    /// Clears the bits of [`SetAttr::drop_setid`], if any are set, before a process of the group
    /// `group` changes the content.
    ///
    /// # Errors
    /// See [`Tree::set_attr`].
    pub fn drop_setid(&self, ino: Ino, group: u32) -> Result<(), FsError> {
        let attr = self.attr(ino)?;
        let changed_by_group = Some(group);
        let without = without_setid(attr.mode, changed_by_group, attr.gid);
        if attr.kind != FileType::Directory && without != attr.mode {
            let set = SetAttr { drop_setid: true, changed_by_group, ..SetAttr::default() };
            self.set_attr(ino, &set)?;
        }
        Ok(())
    }

    /// Returns the extended attributes of `ino` that the tree shows, sorted by name.
    ///
    /// # Errors
    /// [`FsError::NotSupported`] in a tree with [`XattrSupport::None`], [`FsError::Stale`] or
    /// [`FsError::Layer`].
    pub fn xattrs(&self, ino: Ino) -> Result<Vec<Xattr>, FsError> {
        if self.options.xattrs == XattrSupport::None {
            return Err(FsError::NotSupported);
        }
        let mut xattrs = self.stored_xattrs(ino)?;
        xattrs.retain(|(name, _)| self.options.xattrs.has(name));
        Ok(xattrs)
    }

    pub(super) fn stored_xattrs(&self, ino: Ino) -> Result<Vec<Xattr>, FsError> {
        let (inode, dir_source) = {
            let state = self.state.lock();
            let ino = state.current(ino);
            let source = state.dirs.get(&ino).and_then(|d| d.sources.first().copied());
            (state.inodes.get(&ino).cloned(), source)
        };
        let origin = match inode {
            Some(inode) => {
                if let Some(map) = &inode.body.read().xattrs {
                    return Ok(map.iter().map(|(n, v)| (n.clone(), v.clone())).collect());
                }
                inode.origin
            }
            None => Some(match dir_source {
                Some(source) => source,
                None => lower_inode(&self.stack, ino)?,
            }),
        };
        match origin {
            Some(source) => Ok(self.stack.xattrs(source)?),
            None => Ok(Vec::new()),
        }
    }

    /// Returns the value of an extended attribute.
    ///
    /// # Errors
    /// [`FsError::NoData`] if the attribute does not exist, and those of [`Tree::xattrs`].
    pub fn xattr(&self, ino: Ino, name: &[u8]) -> Result<Box<[u8]>, FsError> {
        value_of(self.xattrs(ino)?, name).ok_or(FsError::NoData)
    }

    /// Sets an extended attribute, even one that the tree does [not show](XattrSupport). An ACL
    /// also sets the mode, and is stored only if the mode cannot express it.
    ///
    /// # Errors
    /// [`FsError::NotSupported`] for a name outside of the namespaces `user`, `trusted` and
    /// `security` that is not an ACL, and for attributes of overlayfs; [`FsError::Invalid`]
    /// for a malformed ACL, a value of more than 64 KiB or a namespace without a name;
    /// [`FsError::Exists`] or [`FsError::NoData`] for `flags`; [`FsError::NoSpace`],
    /// [`FsError::ReadOnly`], [`FsError::Stale`] or [`FsError::Layer`].
    pub fn set_xattr(
        &self,
        ino: Ino,
        name: &[u8],
        value: &[u8],
        flags: XattrFlags,
    ) -> Result<(), FsError> {
        let is_acl = acl::is_acl(name);
        let is_in = |namespaces: &[&[u8]]| namespaces.iter().any(|n| name.starts_with(n));
        if !is_acl && !is_in(&XATTR_NAMESPACES) || is_in(&XATTRS_OF_OVERLAYFS) {
            return Err(FsError::NotSupported);
        }
        let is_bare = XATTR_NAMESPACES.contains(&name);
        if value.len() > XATTR_SIZE_MAX || is_bare {
            return Err(FsError::Invalid);
        }
        let acl = is_acl.then(|| Acl::parse(value).ok_or(FsError::Invalid)).transpose()?;
        self.change_xattrs(ino, |map, mode| {
            match (flags, map.contains_key(name)) {
                (XattrFlags::Create, true) => return Err(FsError::Exists),
                (XattrFlags::Replace, false) => return Err(FsError::NoData),
                _ => {}
            }
            if let Some(acl) = &acl
                && name == acl::ACCESS
            {
                *mode = acl.mode(*mode);
                if acl.is_plain() {
                    map.remove(name);
                    return Ok(());
                }
            }
            map.insert(name.into(), value.into());
            Ok(())
        })
    }

    /// Removes an extended attribute. Removing an ACL that does not exist succeeds. Never fails for
    /// lack of space.
    ///
    /// # Errors
    /// [`FsError::NoData`] if the attribute does not exist, [`FsError::ReadOnly`],
    /// [`FsError::Stale`] or [`FsError::Layer`].
    pub fn remove_xattr(&self, ino: Ino, name: &[u8]) -> Result<(), FsError> {
        self.change_xattrs(ino, |map, _| match map.remove(name) {
            None if !acl::is_acl(name) => Err(FsError::NoData),
            _ => Ok(()),
        })
    }

    fn change_xattrs(
        &self,
        ino: Ino,
        change: impl FnOnce(&mut XattrMap, &mut u16) -> Result<(), FsError>,
    ) -> Result<(), FsError> {
        let _gate = self.gate.read();
        self.check_writable()?;
        let inode = {
            let mut state = self.state.lock();
            let ino = state.current(ino);
            state.take_over(self, ino, ContentFrom::Covered)?;
            let inode = state.upper_inode_unlimited(self, ino)?;
            state.mark_parent_dirty(ino, &inode);
            inode
        };
        let mut body = inode.body.write();
        let mut mode = body.mode;
        self.change_map(&inode, &mut body, |map| change(map, &mut mode))?;
        body.mode = mode;
        body.ctime = Time::now();
        Ok(())
    }

    /// Changes the extended attributes of an inode of the upper and updates the memory charged.
    fn change_map(
        &self,
        inode: &UpperInode,
        body: &mut UpperBody,
        change: impl FnOnce(&mut XattrMap) -> Result<(), FsError>,
    ) -> Result<(), FsError> {
        let mut map = match (&body.xattrs, inode.origin) {
            (Some(map), _) => XattrMap::clone(map),
            (None, Some(source)) => self.stack.xattrs(source)?.into_iter().collect(),
            (None, None) => XattrMap::new(),
        };
        // The layer's attributes are charged only once they are copied up. A removal must not fail
        // because the remaining ones have to be copied.
        let (before, old) = (xattr_cost(&map), body.xattrs.as_deref().map_or(0, xattr_cost));
        change(&mut map)?;
        let new = xattr_cost(&map);
        if new > before {
            self.space.charge(new - old)?;
        } else {
            self.space.charge_unlimited(new);
            self.space.release(old);
        }
        body.xattrs = Some(Box::new(map));
        Ok(())
    }

    /// Updates the ACL of an object, if it has one, to a new mode.
    fn update_acl_to_mode(
        &self,
        inode: &UpperInode,
        body: &mut UpperBody,
        mode: u16,
    ) -> Result<(), FsError> {
        let list = body.acl(&self.stack, inode.origin, acl::ACCESS)?;
        let Some(mut list) = list else { return Ok(()) };
        list.set_mode(mode);
        self.change_map(inode, body, |map| {
            map.insert(acl::ACCESS.into(), list.to_value().into());
            Ok(())
        })
    }

    /// Returns the default ACL of the directory `parent`, which new entries inherit.
    pub(super) fn default_acl(
        &self,
        state: &TreeState,
        parent: Ino,
    ) -> Result<Option<Acl>, FsError> {
        match state.inodes.get(&parent) {
            Some(inode) => Ok(inode.acl(&self.stack, acl::DEFAULT)?),
            None => match state.dirs.get(&parent).and_then(|dir| dir.sources.first().copied()) {
                Some(source) => Ok(self.stack.acl(source, acl::DEFAULT)?),
                None => Ok(None),
            },
        }
    }

    /// Returns the ACL `name` of an object, even if the tree does not show it.
    pub(super) fn stored_acl(&self, ino: Ino, name: &[u8]) -> Result<Option<Acl>, FsError> {
        let (inode, source) = {
            let state = self.state.lock();
            let ino = state.current(ino);
            let source = state.dirs.get(&ino).and_then(|d| d.sources.first().copied());
            (state.inodes.get(&ino).cloned(), source)
        };
        match (inode, source) {
            (Some(inode), _) => Ok(inode.acl(&self.stack, name)?),
            (None, Some(source)) => Ok(self.stack.acl(source, name)?),
            (None, None) => Ok(self.stack.acl(lower_inode(&self.stack, ino)?, name)?),
        }
    }
}

/// Returns `mode` without setuid, and without setgid if it grants the group `gid` of the object.
/// Setgid without group execute grants nothing (it once enabled mandatory locking), but the kernel
/// clears it too when a process outside of the group changes the content.
fn without_setid(mode: u16, changed_by_group: Option<u32>, gid: u32) -> u16 {
    let lends_group = mode & 0o0010 != 0 || changed_by_group.is_some_and(|group| group != gid);
    mode & !0o4000 & !(if lends_group { 0o2000 } else { 0 })
}

fn value_of(xattrs: Vec<Xattr>, name: &[u8]) -> Option<Box<[u8]>> {
    xattrs.into_iter().find(|(n, _)| **n == *name).map(|(_, value)| value)
}
