//! Names made and removed: create, link, unlink, rmdir.

use std::sync::Arc;

use parking_lot::RwLock;

use super::content::Content;
use super::dir::{Beneath, Changes, Dir, Slot, Target};
use super::inode::{Body, Data, Inode, XattrMap};
use super::space::entry_cost;
use super::{Entry, Ino, State, Tree};
use crate::acl::{self, Acl};
use crate::attr::{Device, FileType, Time};
use crate::error::FsError;
use crate::stack::{Pristine, Sources};

/// The longest name of a directory entry, in bytes, as everywhere on Linux.
const NAME_MAX: usize = 255;
/// The longest symlink target, in bytes: `PATH_MAX` without its terminator.
const TARGET_MAX: usize = 4095;

/// What is to be made.
#[derive(Clone, Copy, Debug)]
pub struct NewNode<'a> {
    /// Its type.
    pub kind: FileType,
    /// The permission bits it is asked to have.
    pub mode: u16,
    /// Bits that it does not get, unless the directory it is made in has a default access list,
    /// which is obeyed instead.
    pub umask: u16,
    /// Its owner.
    pub uid: u32,
    /// Its group, unless the directory it is made in has setgid and hands down its own.
    pub gid: u32,
    /// The device of a device node.
    pub rdev: Device,
    /// The target of a symlink.
    pub target: &'a [u8],
}

impl NewNode<'static> {
    /// A directory.
    pub const fn directory(mode: u16, uid: u32, gid: u32) -> Self {
        Self::plain(FileType::Directory, mode, uid, gid)
    }

    /// An empty regular file.
    pub const fn file(mode: u16, uid: u32, gid: u32) -> Self {
        Self::plain(FileType::Regular, mode, uid, gid)
    }

    /// Something without device number or target.
    pub const fn plain(kind: FileType, mode: u16, uid: u32, gid: u32) -> Self {
        NewNode { kind, mode, umask: 0, uid, gid, rdev: Device { major: 0, minor: 0 }, target: b"" }
    }
}

impl<'a> NewNode<'a> {
    /// A symbolic link.
    pub const fn symlink(target: &'a [u8], uid: u32, gid: u32) -> Self {
        let rdev = Device { major: 0, minor: 0 };
        NewNode { kind: FileType::Symlink, mode: 0o777, umask: 0, uid, gid, rdev, target }
    }

    /// A device node.
    pub const fn device(kind: FileType, mode: u16, uid: u32, gid: u32, rdev: Device) -> Self {
        NewNode { kind, mode, umask: 0, uid, gid, rdev, target: b"" }
    }
}

/// Refuses what can never be a name of a directory entry. `.` and `..` are for whoever resolves
/// paths: a layer must not be asked for them.
pub(super) fn check_name(name: &[u8]) -> Result<(), FsError> {
    if name.len() > NAME_MAX {
        return Err(FsError::NameTooLong);
    }
    if name.is_empty() || name == b"." || name == b".." || name.iter().any(|&b| b == b'/' || b == 0)
    {
        return Err(FsError::Invalid);
    }
    Ok(())
}

/// Room for a name in what the upper knows of a directory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reserved {
    in_layers: bool,
    charged: u64,
}

impl Reserved {
    /// Gives the room back, the name not having been set.
    pub(super) fn release(self, tree: &Tree) {
        tree.space.release(self.charged);
    }
}

/// A new inode of the upper, with one name (a directory: two).
pub(super) fn new_inode(node: &NewNode<'_>, xattrs: XattrMap, now: Time) -> Inode {
    Inode {
        kind: node.kind,
        rdev: if node.kind.is_device() { node.rdev } else { Device::default() },
        origin: None,
        body: RwLock::new(Body {
            mode: node.mode & 0o7777,
            uid: node.uid,
            gid: node.gid,
            nlink: if node.kind == FileType::Directory { 2 } else { 1 },
            atime: now,
            mtime: now,
            mtime_counts: false,
            ctime: now,
            data: match node.kind {
                FileType::Regular => Data::File(Content::default()),
                FileType::Symlink => Data::Target(node.target.into()),
                _ => Data::None,
            },
            xattrs: (!xattrs.is_empty()).then(|| Box::new(xattrs)),
        }),
    }
}

/// Puts what a new object gets from the default access list of its directory into `xattrs`, and
/// gives the mode it gets.
fn inherit(list: Acl, kind: FileType, mode: u16, xattrs: &mut XattrMap) -> u16 {
    if kind == FileType::Directory {
        xattrs.insert(acl::DEFAULT.into(), list.to_value().into());
    }
    let mut list = list;
    let mode = list.inherit(mode);
    if !list.is_plain() {
        xattrs.insert(acl::ACCESS.into(), list.to_value().into());
    }
    mode
}

impl Tree {
    /// Makes `name` in `parent`.
    ///
    /// # Errors
    /// [`FsError::NotPermitted`] for a character device 0:0, which means a whiteout in every layer,
    /// as kernel overlayfs refuses it.
    pub fn make(&self, parent: Ino, name: &[u8], node: &NewNode<'_>) -> Result<Entry, FsError> {
        let _gate = self.gate.read();
        self.check_writable()?;
        let mut state = self.state.lock();
        state.check_free(self, parent, name)?;
        let entry = state.make(self, parent, name, node, Slot::Present)?;
        state.add_name(parent, entry.attr.kind);
        state.changed_names(self, parent, Time::now())?;
        Ok(entry)
    }

    /// Gives the object `ino` one more name.
    ///
    /// # Errors
    /// [`FsError::NotPermitted`] for a directory.
    pub fn link(&self, ino: Ino, parent: Ino, name: &[u8]) -> Result<Entry, FsError> {
        let _gate = self.gate.read();
        self.check_writable()?;
        let mut state = self.state.lock();
        state.check_free(self, parent, name)?;
        if let Some(entry) = state.link_lent(self, ino, parent, name)? {
            return Ok(entry);
        }
        let inode = state.upper(self, ino)?;
        if inode.kind == FileType::Directory {
            return Err(FsError::NotPermitted);
        }
        let nlink = match inode.body.read().nlink {
            0 => return Err(FsError::NotFound),
            nlink => nlink.checked_add(1).ok_or(FsError::TooManyLinks)?,
        };
        let now = Time::now();
        let target = Target { ino, kind: inode.kind };
        state.put(self, parent, name, Slot::Present(target))?;
        {
            let mut body = inode.body.write();
            body.nlink = nlink;
            body.ctime = now;
        }
        state.changed_names(self, parent, now)?;
        state.entry(&self.stack, parent, target)
    }

    /// Removes the name of anything but a directory.
    ///
    /// # Errors
    /// [`FsError::Busy`] for a scratch entry that lies over a directory with something in it.
    pub fn unlink(&self, parent: Ino, name: &[u8]) -> Result<(), FsError> {
        self.remove(parent, name, |state, target| {
            if target.kind == FileType::Directory {
                state.let_go(self, [target]);
                return Err(FsError::IsADirectory);
            }
            Ok(())
        })
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// As [`Tree::unlink`].
    pub fn rmdir(&self, parent: Ino, name: &[u8]) -> Result<(), FsError> {
        self.remove(parent, name, |state, target| {
            if target.kind != FileType::Directory {
                return Err(FsError::NotADirectory);
            }
            if !state.is_empty(&self.stack, target.ino)? {
                state.let_go(self, [target]);
                return Err(FsError::NotEmpty);
            }
            Ok(())
        })
    }

    fn remove(
        &self,
        parent: Ino,
        name: &[u8],
        check: impl FnOnce(&mut State, Target) -> Result<(), FsError>,
    ) -> Result<(), FsError> {
        let _gate = self.gate.read();
        self.check_writable()?;
        let mut state = self.state.lock();
        let target = state.find(&self.stack, parent, name)?.ok_or(FsError::NotFound)?;
        check(&mut state, target)?;
        let beneath = state.beneath(self, parent, name)?;
        let now = Time::now();
        let gone = [Some(target), beneath].into_iter().flatten();
        state.copy_up_always(self, [parent].into_iter().chain(gone.clone().map(|t| t.ino)))?;
        state.lose_name(self, parent, name)?;
        state.remove_name(parent, target.kind);
        for target in gone {
            state.drop_name(self, target, now)?;
        }
        state.changed_names(self, parent, now)
    }
}

impl State {
    /// Refuses to put anything into a directory that was removed.
    pub(super) fn check_alive(&self, tree: &Tree, dir: Ino) -> Result<(), FsError> {
        self.dir(&tree.stack, dir)?;
        match self.inodes.get(&dir) {
            Some(inode) if inode.body.read().nlink == 0 => Err(FsError::NotFound),
            _ => Ok(()),
        }
    }

    /// Refuses a name at which nothing can be made.
    pub(super) fn check_free(
        &mut self,
        tree: &Tree,
        parent: Ino,
        name: &[u8],
    ) -> Result<(), FsError> {
        check_name(name)?;
        self.check_alive(tree, parent)?;
        if let Some(found) = self.find(&tree.stack, parent, name)? {
            self.let_go(tree, [found]);
            return Err(FsError::Exists);
        }
        Ok(())
    }

    /// Makes a new object and puts it at `name`, in the slot that `slot` makes of it. The caller
    /// counts the name.
    pub(super) fn make(
        &mut self,
        tree: &Tree,
        parent: Ino,
        name: &[u8],
        node: &NewNode<'_>,
        slot: impl FnOnce(Target) -> Slot,
    ) -> Result<Entry, FsError> {
        if node.kind == FileType::CharDevice && node.rdev == Device::default() {
            return Err(FsError::NotPermitted);
        }
        if node.kind == FileType::Symlink {
            match node.target.len() {
                0 => return Err(FsError::NotFound),
                1..=TARGET_MAX => {}
                _ => return Err(FsError::NameTooLong),
            }
        }
        let mut node = *node;
        let above = self.attr(&tree.stack, parent)?;
        if above.mode & 0o2000 != 0 {
            node.gid = above.gid;
            if node.kind == FileType::Directory {
                node.mode |= 0o2000;
            }
        }
        let mut xattrs = XattrMap::new();
        if node.kind != FileType::Symlink {
            match tree.default_acl(self, parent)? {
                Some(list) => node.mode = inherit(list, node.kind, node.mode, &mut xattrs),
                None => node.mode &= !node.umask,
            }
        }
        let inode = new_inode(&node, xattrs, Time::now());
        let cost = inode.cost();
        tree.space.charge(cost)?;
        let ino = Ino(self.next);
        let target = Target { ino, kind: node.kind };
        if let Err(e) = self.put(tree, parent, name, slot(target)) {
            tree.space.release(cost);
            return Err(e);
        }
        self.next += 1;
        self.inodes.insert(ino, Arc::new(inode));
        if node.kind == FileType::Directory {
            let dir = Dir {
                parent,
                name: name.into(),
                sources: Sources::new(),
                changes: Changes::default(),
                touched: true,
                children: 0,
                subdirs: Some(0),
            };
            self.dirs.insert(ino, dir);
            self.dir_mut(&tree.stack, parent)?.children += 1;
        }
        self.entry(&tree.stack, parent, target)
    }

    /// Sets what `name` of `dir` is. The caller keeps the books of what it was.
    pub(super) fn put(
        &mut self,
        tree: &Tree,
        dir: Ino,
        name: &[u8],
        slot: Slot,
    ) -> Result<(), FsError> {
        let reserved = self.reserve(tree, dir, name)?;
        self.set(dir, name, slot, reserved);
        Ok(())
    }

    /// Makes sure that there is room for `name` in what the upper knows of `dir`.
    pub(super) fn reserve(&self, tree: &Tree, dir: Ino, name: &[u8]) -> Result<Reserved, FsError> {
        let changes = &self.dir(&tree.stack, dir)?.changes;
        if let Some(item) = changes.get(name) {
            return Ok(Reserved { in_layers: item.in_layers, charged: 0 });
        }
        if !changes.has_room() {
            return Err(FsError::NoSpace { limit: tree.space.limit() });
        }
        let in_layers = self.find_pristine(&tree.stack, dir, name)?.is_some();
        tree.space.charge(entry_cost(name))?;
        Ok(Reserved { in_layers, charged: entry_cost(name) })
    }

    /// Sets what `name` of `dir` is, for which room was [reserved](Self::reserve).
    pub(super) fn set(&mut self, dir: Ino, name: &[u8], slot: Slot, reserved: Reserved) {
        if let Some(dir) = self.dirs.get_mut(&dir) {
            dir.changes.set(name, slot, reserved.in_layers);
        }
    }

    /// What a scratch entry at `name` lies over: whoever replaces or removes the scratch entry has
    /// done so to this object.
    ///
    /// # Errors
    /// [`FsError::Busy`] for a directory with something in it, which nobody can mean to remove who
    /// does not even see it.
    pub(super) fn beneath(
        &mut self,
        tree: &Tree,
        dir: Ino,
        name: &[u8],
    ) -> Result<Option<Target>, FsError> {
        let beneath = match self.dir(&tree.stack, dir)?.changes.get(name).map(|i| &i.slot) {
            Some(Slot::Scratch(scratch)) => scratch.beneath,
            Some(Slot::Present(_) | Slot::Absent) | None => return Ok(None),
        };
        let target = match beneath {
            Beneath::Absent => return Ok(None),
            Beneath::Object(target) => target,
            Beneath::Layers => match self.find_pristine(&tree.stack, dir, name)? {
                None => return Ok(None),
                Some(pristine) => {
                    let target = Target { ino: pristine.ino(), kind: pristine.kind() };
                    if let Pristine::Directory(sources) = pristine {
                        self.know_dir(&tree.stack, dir, name, target.ino, sources)?;
                    }
                    target
                }
            },
        };
        if target.kind == FileType::Directory && !self.is_empty(&tree.stack, target.ino)? {
            self.let_go(tree, [target]);
            return Err(FsError::Busy);
        }
        Ok(Some(target))
    }

    /// Lets go of what was found beneath a scratch entry that is still there.
    pub(super) fn let_go_beneath(&mut self, tree: &Tree, dir: Ino, name: &[u8]) {
        let item = self.dirs.get(&dir).and_then(|d| d.changes.get(name));
        let Some(Slot::Scratch(scratch)) = item.map(|i| &i.slot) else { return };
        if scratch.beneath == Beneath::Layers
            && let Ok(Some(pristine)) = self.find_pristine(&tree.stack, dir, name)
        {
            self.drop_if_unused(&tree.space, pristine.ino());
        }
    }

    /// Takes the objects `inos` into the upper before anything is changed, so that a damaged layer
    /// cannot stop the change halfway.
    pub(super) fn copy_up_always(
        &mut self,
        tree: &Tree,
        inos: impl IntoIterator<Item = Ino>,
    ) -> Result<(), FsError> {
        inos.into_iter().try_for_each(|ino| self.upper_always(tree, ino).map(drop))
    }

    /// Takes `name` out of `dir`: the layers' own stays hidden, the upper's leaves no trace. The
    /// caller keeps the books of what it was.
    pub(super) fn lose_name(&mut self, tree: &Tree, dir: Ino, name: &[u8]) -> Result<(), FsError> {
        let in_layers = match self.dir(&tree.stack, dir)?.changes.get(name) {
            Some(item) => item.in_layers,
            None => self.find_pristine(&tree.stack, dir, name)?.is_some(),
        };
        if !in_layers {
            return self.unset(tree, dir, name);
        }
        if self.dir_mut(&tree.stack, dir)?.changes.set(name, Slot::Absent, true) {
            tree.space.charge_always(entry_cost(name));
        }
        Ok(())
    }

    /// Lets `name` of `dir` be as the layers have it.
    pub(super) fn unset(&mut self, tree: &Tree, dir: Ino, name: &[u8]) -> Result<(), FsError> {
        if self.dir_mut(&tree.stack, dir)?.changes.unset(name) {
            tree.space.release(entry_cost(name));
        }
        Ok(())
    }

    /// The view of `dir` has one name more, of something of this kind.
    pub(super) fn add_name(&mut self, dir: Ino, kind: FileType) {
        if kind == FileType::Directory {
            self.add_subdirs(dir, 1);
        }
    }

    /// The view of `dir` has one name less, of something of this kind.
    pub(super) fn remove_name(&mut self, dir: Ino, kind: FileType) {
        if kind == FileType::Directory {
            self.add_subdirs(dir, -1);
        }
    }

    /// Takes one name off the object `target`, whose directory entry is gone already.
    pub(super) fn drop_name(
        &mut self,
        tree: &Tree,
        target: Target,
        now: Time,
    ) -> Result<(), FsError> {
        let inode = self.upper_always(tree, target.ino)?;
        {
            let mut body = inode.body.write();
            body.ctime = now;
            body.nlink = match inode.kind {
                FileType::Directory => 0,
                _ => body.nlink.saturating_sub(1),
            };
        }
        self.drop_if_unused(&tree.space, target.ino);
        Ok(())
    }

    /// The names in `dir` changed: its times say so, and the delta will look at it.
    pub(super) fn changed_names(
        &mut self,
        tree: &Tree,
        dir: Ino,
        now: Time,
    ) -> Result<(), FsError> {
        self.touch(dir);
        let inode = self.upper_always(tree, dir)?;
        let mut body = inode.body.write();
        body.mtime = now;
        body.mtime_counts = false;
        body.ctime = now;
        Ok(())
    }
}
