//! Attributes and extended attributes.

use super::content::MAX_SIZE;
use super::inode::{Data, XattrMap, xattr_cost};
use super::{Ino, Tree, pristine_source};
use crate::attr::{Attr, FileType, Time};
use crate::error::FsError;
use crate::layer::Xattr;

/// The longest value of an extended attribute, in bytes (`XATTR_SIZE_MAX`).
const XATTR_SIZE_MAX: usize = 65536;
/// Which extended attributes there are. The kernel checks names against what a file system knows,
/// but cannot know it of this one. `system.` is none of them: access lists that are kept but not
/// obeyed would promise what nobody keeps, and no output could carry them.
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
    /// Size of a regular file.
    pub size: Option<u64>,
    /// Time of access.
    pub atime: Option<Time>,
    /// Time of the last change of the content; a change of size sets it to now when it is absent.
    pub mtime: Option<Time>,
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
    /// Sets attributes, and returns them all. Attributes alone copy no data up.
    pub fn set_attr(&self, ino: Ino, set: &SetAttr) -> Result<Attr, FsError> {
        let _gate = self.gate.read();
        self.check_writable()?;
        let inode = {
            let mut state = self.state.lock();
            if let Some(size) = set.size {
                match state.kind(&self.stack, ino)? {
                    FileType::Regular if size > MAX_SIZE => return Err(FsError::FileTooLarge),
                    FileType::Regular => {}
                    FileType::Directory => return Err(FsError::IsADirectory),
                    _ => return Err(FsError::Invalid),
                }
            }
            state.upper(self, ino)?
        };
        {
            let now = Time::now();
            let mut body = inode.body.write();
            if let Some(size) = set.size
                && let Data::File(content) = &mut body.data
            {
                content.truncate(&self.space, size)?;
                body.mtime = now;
            }
            body.mode = set.mode.map_or(body.mode, |mode| mode & 0o7777);
            body.uid = set.uid.unwrap_or(body.uid);
            body.gid = set.gid.unwrap_or(body.gid);
            body.atime = set.atime.unwrap_or(body.atime);
            body.mtime = set.mtime.unwrap_or(body.mtime);
            body.ctime = now;
        }
        if inode.kind == FileType::Directory { self.attr(ino) } else { Ok(inode.attr()) }
    }

    /// All extended attributes of `ino`, sorted by name.
    ///
    /// # Errors
    /// [`FsError::NotSupported`] in a tree whose output cannot carry them.
    pub fn xattrs(&self, ino: Ino) -> Result<Vec<Xattr>, FsError> {
        if !self.options.xattrs {
            return Err(FsError::NotSupported);
        }
        self.stored_xattrs(ino)
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
        let all = self.xattrs(ino)?;
        all.into_iter().find(|(n, _)| **n == *name).map(|(_, v)| v).ok_or(FsError::NoData)
    }

    /// Sets an extended attribute.
    ///
    /// # Errors
    /// [`FsError::NotSupported`] for a name that is neither a user's nor `trusted` nor `security`, or
    /// is overlayfs's own, and in a tree whose output cannot carry any.
    pub fn set_xattr(
        &self,
        ino: Ino,
        name: &[u8],
        value: &[u8],
        flags: XattrFlags,
    ) -> Result<(), FsError> {
        let is_in = |namespaces: &[&[u8]]| namespaces.iter().any(|n| name.starts_with(n));
        if !is_in(&XATTR_NAMESPACES) || is_in(&XATTRS_OF_OVERLAYFS) {
            return Err(FsError::NotSupported);
        }
        if value.len() > XATTR_SIZE_MAX {
            return Err(FsError::Invalid);
        }
        self.change_xattrs(ino, |map| match (flags, map.contains_key(name)) {
            (XattrFlags::Create, true) => Err(FsError::Exists),
            (XattrFlags::Replace, false) => Err(FsError::NoData),
            _ => {
                map.insert(name.into(), value.into());
                Ok(())
            }
        })
    }

    /// Removes an extended attribute. Never needs room.
    pub fn remove_xattr(&self, ino: Ino, name: &[u8]) -> Result<(), FsError> {
        self.change_xattrs(ino, |map| map.remove(name).map(|_| ()).ok_or(FsError::NoData))
    }

    fn change_xattrs(
        &self,
        ino: Ino,
        change: impl FnOnce(&mut XattrMap) -> Result<(), FsError>,
    ) -> Result<(), FsError> {
        let _gate = self.gate.read();
        self.check_writable()?;
        if !self.options.xattrs {
            return Err(FsError::NotSupported);
        }
        let inode = {
            let mut state = self.state.lock();
            let inode = state.upper_always(self, ino)?;
            state.place(ino, &inode);
            inode
        };
        let mut body = inode.body.write();
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
        body.ctime = Time::now();
        Ok(())
    }
}
