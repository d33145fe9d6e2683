//! Attributes and extended attributes.

use super::content::MAX_SIZE;
use super::inode::{Body, Data, Inode, XattrMap, xattr_cost};
use super::lent::Keep;
use super::{Ino, State, Tree, XattrSupport, pristine_source};
use crate::acl::{self, Acl};
use crate::attr::{Attr, FileType, Time};
use crate::error::FsError;
use crate::layer::Xattr;

/// The longest value of an extended attribute, in bytes (`XATTR_SIZE_MAX`).
const XATTR_SIZE_MAX: usize = 65536;
/// Which extended attributes there are beside access lists. The kernel checks names against what a
/// file system knows, but cannot know it of this one.
const XATTR_NAMESPACES: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];
/// What overlayfs keeps for itself. In an overlay it would not be an attribute but have an effect:
/// that a directory hides what is below it, for one.
const XATTRS_OF_OVERLAYFS: [&[u8]; 2] = [b"trusted.overlay.", b"user.overlay."];

/// Which attributes to set, and to what.
#[derive(Clone, Copy, Debug, Default)]
pub struct SetAttr {
    /// Permission bits.
    pub mode: Option<u16>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Take off setuid, and setgid where the group may execute: as a new owner does, or content
    /// that changes by somebody without privileges. Directories keep them.
    pub drop_setid: bool,
    /// Beside [`SetAttr::drop_setid`], setgid also where the group may not execute, unless this is the
    /// file's group: that of who changes the content.
    pub changed_by_group: Option<u32>,
    /// Size of a regular file.
    pub size: Option<u64>,
    /// Time of access.
    pub atime: Option<Time>,
    /// Time of the last change of the content; a change of size sets it to now when it is absent.
    pub mtime: Option<Time>,
    /// Whether the times are the time of the call, as `touch` without a time sets them.
    pub is_touch: bool,
}

impl SetAttr {
    /// Whether setting this changes an object with the attributes `attr`.
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

/// What setting an extended attribute requires of the old one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XattrFlags {
    /// Nothing.
    Any,
    /// It must not exist (`XATTR_CREATE`).
    Create,
    /// It must exist (`XATTR_REPLACE`).
    Replace,
}

impl Tree {
    /// Sets attributes, and returns them all. Attributes alone copy no data up. Those of a lent file
    /// are also set for the file that it covers.
    pub fn set_attr(&self, ino: Ino, set: &SetAttr) -> Result<Attr, FsError> {
        let _gate = self.gate.read();
        self.check_writable()?;
        let set = &mut set.clone();
        let (inode, covered) = {
            let mut state = self.state.lock();
            let covered = state.pass_attributes(self, ino, set)?;
            state.keep_passage(ino);
            if let Some(size) = set.size {
                match state.kind(&self.stack, ino)? {
                    FileType::Regular if size > MAX_SIZE => return Err(FsError::FileTooLarge),
                    FileType::Regular => {}
                    FileType::Directory => return Err(FsError::IsADirectory),
                    _ => return Err(FsError::Invalid),
                }
            }
            (state.upper(self, ino)?, covered)
        };
        if let Some(covered) = covered {
            self.set_attr_of(&covered, set)?;
        }
        self.set_attr_of(&inode, set)?;
        match inode.kind {
            FileType::Directory => self.attr(ino),
            _ => Ok(inode.attr(&self.stack)?),
        }
    }

    fn set_attr_of(&self, inode: &Inode, set: &SetAttr) -> Result<(), FsError> {
        let now = Time::now();
        let mut body = inode.body.write();
        if let Some(size) = set.size
            && let Data::File(content) = &mut body.data
        {
            content.truncate(&self.space, size)?;
            body.mtime = now;
        }
        if let Some(mode) = set.mode {
            self.follow_mode(inode, &mut body, mode)?;
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

    /// Takes off what [`SetAttr::drop_setid`] does when somebody of the group `group` changes the
    /// content, where there is any of it.
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

    /// All extended attributes of `ino`, sorted by name.
    ///
    /// # Errors
    /// [`FsError::NotSupported`] in a tree whose output cannot carry them.
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
                None => pristine_source(&self.stack, ino)?,
            }),
        };
        match origin {
            Some(source) => Ok(self.stack.xattrs(source)?),
            None => Ok(Vec::new()),
        }
    }

    /// The value of one extended attribute.
    ///
    /// # Errors
    /// [`FsError::NoData`] when there is none of this name.
    pub fn xattr(&self, ino: Ino, name: &[u8]) -> Result<Box<[u8]>, FsError> {
        value_of(self.xattrs(ino)?, name).ok_or(FsError::NoData)
    }

    /// Sets an extended attribute, also one that the tree does [not show](XattrSupport). An access
    /// list sets the mode too, and is only kept if it says more than that.
    ///
    /// # Errors
    /// [`FsError::NotSupported`] for a name that is neither a user's nor `trusted` nor `security`
    /// nor an access list's, or is overlayfs's own.
    /// [`FsError::Invalid`] for what is no access list, and for `user.` and the like alone.
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

    /// Removes an extended attribute, or an access list if there is one. Never needs room.
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
            state.take_over(self, ino, Keep::Own)?;
            let inode = state.upper_always(self, ino)?;
            state.place(ino, &inode);
            inode
        };
        let mut body = inode.body.write();
        let mut mode = body.mode;
        self.change_map(&inode, &mut body, |map| change(map, &mut mode))?;
        body.mode = mode;
        body.ctime = Time::now();
        Ok(())
    }

    /// Changes the extended attributes of an object of the upper, and keeps the books.
    fn change_map(
        &self,
        inode: &Inode,
        body: &mut Body,
        change: impl FnOnce(&mut XattrMap) -> Result<(), FsError>,
    ) -> Result<(), FsError> {
        let mut map = match (&body.xattrs, inode.origin) {
            (Some(map), _) => XattrMap::clone(map),
            (None, Some(source)) => self.stack.xattrs(source)?.into_iter().collect(),
            (None, None) => XattrMap::new(),
        };
        // What the layer has takes no room until it is copied up: removing must not be refused
        // because the rest has to be.
        let (before, old) = (xattr_cost(&map), body.xattrs.as_deref().map_or(0, xattr_cost));
        change(&mut map)?;
        let new = xattr_cost(&map);
        if new > before {
            self.space.charge(new - old)?;
        } else {
            self.space.charge_always(new);
            self.space.release(old);
        }
        body.xattrs = Some(Box::new(map));
        Ok(())
    }

    /// Makes the access list of an object, if it has one, say what its new mode says.
    fn follow_mode(&self, inode: &Inode, body: &mut Body, mode: u16) -> Result<(), FsError> {
        let list = body.acl(&self.stack, inode.origin, acl::ACCESS)?;
        let Some(mut list) = list else { return Ok(()) };
        list.set_mode(mode);
        self.change_map(inode, body, |map| {
            map.insert(acl::ACCESS.into(), list.to_value().into());
            Ok(())
        })
    }

    /// What objects made in the directory `parent` begin with, if it says so.
    pub(super) fn default_acl(&self, state: &State, parent: Ino) -> Result<Option<Acl>, FsError> {
        match state.inodes.get(&parent) {
            Some(inode) => Ok(inode.acl(&self.stack, acl::DEFAULT)?),
            None => match state.dirs.get(&parent).and_then(|dir| dir.sources.first().copied()) {
                Some(source) => Ok(self.stack.acl(source, acl::DEFAULT)?),
                None => Ok(None),
            },
        }
    }

    /// The access list `name` of an object, whether the tree shows it or not.
    pub(super) fn stored_acl(&self, ino: Ino, name: &[u8]) -> Result<Option<Acl>, FsError> {
        let (inode, source) = {
            let state = self.state.lock();
            let source = state.dirs.get(&ino).and_then(|d| d.sources.first().copied());
            (state.inodes.get(&ino).cloned(), source)
        };
        match (inode, source) {
            (Some(inode), _) => Ok(inode.acl(&self.stack, name)?),
            (None, Some(source)) => Ok(self.stack.acl(source, name)?),
            (None, None) => Ok(self.stack.acl(pristine_source(&self.stack, ino)?, name)?),
        }
    }
}

/// What a mode becomes when its object, of the group `gid`, must not lend its owner's rights any
/// more. Setgid without execution by the group is no such right (once it marked files for mandatory
/// locking), but the kernel takes it off too where content is changed by who is not in the group.
fn without_setid(mode: u16, changed_by_group: Option<u32>, gid: u32) -> u16 {
    let lends_group = mode & 0o0010 != 0 || changed_by_group.is_some_and(|group| group != gid);
    mode & !0o4000 & !(if lends_group { 0o2000 } else { 0 })
}

fn value_of(xattrs: Vec<Xattr>, name: &[u8]) -> Option<Box<[u8]>> {
    xattrs.into_iter().find(|(n, _)| **n == *name).map(|(_, value)| value)
}
