//! Creating and removing names: mknod, link, unlink, rmdir.

use std::sync::Arc;

use parking_lot::RwLock;

use super::content::FileContent;
use super::dir::{Covered, Dir, DirChanges, EntryTarget, Slot};
use super::inode::{UpperBody, UpperData, UpperInode, XattrMap};
use super::space::entry_cost;
use super::{Entry, Ino, Tree, TreeState};
use crate::acl::{self, Acl};
use crate::attr::{Device, FileType, Time};
use crate::error::FsError;
use crate::stack::{LowerDirs, LowerEntry};

/// Maximum length of a name in bytes (`NAME_MAX` in `<linux/limits.h>`).
const NAME_MAX: usize = 255;
/// Maximum length of a symlink target in bytes: `PATH_MAX` without the terminating zero.
const TARGET_MAX: usize = 4095;

/// Arguments of [`Tree::mknod`].
#[derive(Clone, Copy, Debug)]
pub struct MknodArgs<'a> {
    /// The type of the object.
    pub kind: FileType,
    /// Permission bits.
    pub mode: u16,
    /// Bits to clear in `mode`. Ignored where the parent directory has a default ACL.
    pub umask: u16,
    /// The owner.
    pub uid: u32,
    /// The group; in a setgid directory, the directory's group is used instead.
    pub gid: u32,
    /// The device number of a device node.
    pub rdev: Device,
    /// The target of a symbolic link.
    pub target: &'a [u8],
}

impl MknodArgs<'static> {
    /// Arguments for a directory.
    pub const fn directory(mode: u16, uid: u32, gid: u32) -> Self {
        Self::plain(FileType::Directory, mode, uid, gid)
    }

    /// Arguments for an empty regular file.
    pub const fn file(mode: u16, uid: u32, gid: u32) -> Self {
        Self::plain(FileType::Regular, mode, uid, gid)
    }

    /// Arguments for an object without device number and target.
    pub const fn plain(kind: FileType, mode: u16, uid: u32, gid: u32) -> Self {
        MknodArgs {
            kind,
            mode,
            umask: 0,
            uid,
            gid,
            rdev: Device { major: 0, minor: 0 },
            target: b"",
        }
    }
}

impl<'a> MknodArgs<'a> {
    /// Arguments for a symbolic link.
    pub const fn symlink(target: &'a [u8], uid: u32, gid: u32) -> Self {
        let rdev = Device { major: 0, minor: 0 };
        MknodArgs { kind: FileType::Symlink, mode: 0o777, umask: 0, uid, gid, rdev, target }
    }

    /// Arguments for a device node.
    pub const fn device(kind: FileType, mode: u16, uid: u32, gid: u32, rdev: Device) -> Self {
        MknodArgs { kind, mode, umask: 0, uid, gid, rdev, target: b"" }
    }
}

/// Rejects names that a directory entry cannot have. `.` and `..` are left to path resolution and
/// never reach a layer.
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

/// Memory reserved for a name in a directory's changes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reserved {
    in_layers: bool,
    charged: u64,
}

impl Reserved {
    /// Returns the memory, if the name is not set after all.
    pub(super) fn release(self, tree: &Tree) {
        tree.space.release(self.charged);
    }
}

/// Creates an inode of the upper with one name (a directory: two links).
pub(super) fn new_inode(node: &MknodArgs<'_>, xattrs: XattrMap, now: Time) -> UpperInode {
    UpperInode {
        kind: node.kind,
        rdev: if node.kind.is_device() { node.rdev } else { Device::default() },
        origin: None,
        body: RwLock::new(UpperBody {
            mode: node.mode & 0o7777,
            uid: node.uid,
            gid: node.gid,
            nlink: if node.kind == FileType::Directory { 2 } else { 1 },
            atime: now,
            mtime: now,
            mtime_counts: false,
            ctime: now,
            data: match node.kind {
                FileType::Regular => UpperData::File(FileContent::default()),
                FileType::Symlink => UpperData::Symlink(node.target.into()),
                _ => UpperData::None,
            },
            xattrs: (!xattrs.is_empty()).then(|| Box::new(xattrs)),
        }),
    }
}

/// Applies the default ACL of the parent directory to a new object: adds the object's own lists to
/// `xattrs` and returns its mode.
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
    /// Creates an object of any type at `name` in `parent`.
    ///
    /// # Errors
    /// [`FsError::Exists`] if the name exists; [`FsError::NotPermitted`] for a character device
    /// 0:0, which means a whiteout in every layer and which the kernel's overlayfs rejects too;
    /// [`FsError::NoSpace`] if the upper is full. Also [`FsError::Invalid`] and
    /// [`FsError::NameTooLong`] for names and targets, [`FsError::NotADirectory`],
    /// [`FsError::NotFound`] for a removed directory or an empty target, [`FsError::ReadOnly`],
    /// [`FsError::Stale`] and [`FsError::Layer`].
    pub fn mknod(&self, parent: Ino, name: &[u8], node: &MknodArgs<'_>) -> Result<Entry, FsError> {
        let _gate = self.gate.read();
        self.check_writable()?;
        let mut state = self.state.lock();
        state.check_free(self, parent, name)?;
        let entry = state.mknod(self, parent, name, node, Slot::Present)?;
        state.count_added_name(parent, entry.attr.kind);
        state.update_after_name_change(self, parent, Time::now())?;
        Ok(entry)
    }

    /// Adds a name to the object `ino`.
    ///
    /// # Errors
    /// [`FsError::NotPermitted`] for a directory, [`FsError::NotFound`] for a removed object,
    /// [`FsError::TooManyLinks`], and those of [`Tree::mknod`] for the name.
    pub fn link(&self, ino: Ino, parent: Ino, name: &[u8]) -> Result<Entry, FsError> {
        let _gate = self.gate.read();
        self.check_writable()?;
        let mut state = self.state.lock();
        let ino = state.current(ino);
        state.check_free(self, parent, name)?;
        if let Some(entry) = state.link_lent(self, ino, parent, name)? {
            return Ok(entry);
        }
        let inode = state.upper_inode(self, ino)?;
        if inode.kind == FileType::Directory {
            return Err(FsError::NotPermitted);
        }
        let nlink = match inode.body.read().nlink {
            0 => return Err(FsError::NotFound),
            nlink => nlink.checked_add(1).ok_or(FsError::TooManyLinks)?,
        };
        let now = Time::now();
        let target = EntryTarget { ino, kind: inode.kind };
        state.set_slot(self, parent, name, Slot::Present(target))?;
        {
            let mut body = inode.body.write();
            body.nlink = nlink;
            body.ctime = now;
        }
        state.update_after_name_change(self, parent, now)?;
        state.entry(&self.stack, parent, target)
    }

    /// Removes the name of anything but a directory. The object is deleted with its last name and
    /// reference.
    ///
    /// # Errors
    /// [`FsError::NotFound`], [`FsError::IsADirectory`], or [`FsError::Busy`] for a scratch entry
    /// that covers a directory with entries. Also [`FsError::ReadOnly`], [`FsError::Stale`] and
    /// [`FsError::Layer`].
    pub fn unlink(&self, parent: Ino, name: &[u8]) -> Result<(), FsError> {
        self.remove(parent, name, |state, target| {
            if target.kind == FileType::Directory {
                state.drop_unused(self, [target]);
                return Err(FsError::IsADirectory);
            }
            Ok(())
        })
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// [`FsError::NotADirectory`], [`FsError::NotEmpty`], and those of [`Tree::unlink`].
    pub fn rmdir(&self, parent: Ino, name: &[u8]) -> Result<(), FsError> {
        self.remove(parent, name, |state, target| {
            if target.kind != FileType::Directory {
                return Err(FsError::NotADirectory);
            }
            if !state.is_empty(&self.stack, target.ino)? {
                state.drop_unused(self, [target]);
                return Err(FsError::NotEmpty);
            }
            Ok(())
        })
    }

    fn remove(
        &self,
        parent: Ino,
        name: &[u8],
        check: impl FnOnce(&mut TreeState, EntryTarget) -> Result<(), FsError>,
    ) -> Result<(), FsError> {
        let _gate = self.gate.read();
        self.check_writable()?;
        let mut state = self.state.lock();
        let target = state.find(&self.stack, parent, name)?.ok_or(FsError::NotFound)?;
        check(&mut state, target)?;
        let covered = state.covered_by_scratch(self, parent, name)?;
        let now = Time::now();
        let gone = [Some(target), covered].into_iter().flatten();
        state.copy_up_unlimited(self, [parent].into_iter().chain(gone.clone().map(|t| t.ino)))?;
        state.remove_slot(self, parent, name)?;
        state.count_removed_name(parent, target.kind);
        for target in gone {
            state.drop_link(self, target, now)?;
        }
        state.update_after_name_change(self, parent, now)
    }
}

impl TreeState {
    /// Fails if the directory `dir` was removed.
    pub(super) fn check_not_removed(&self, tree: &Tree, dir: Ino) -> Result<(), FsError> {
        self.dir(&tree.stack, dir)?;
        match self.inodes.get(&dir) {
            Some(inode) if inode.body.read().nlink == 0 => Err(FsError::NotFound),
            _ => Ok(()),
        }
    }

    /// Fails unless a new `name` can be added to `parent`.
    pub(super) fn check_free(
        &mut self,
        tree: &Tree,
        parent: Ino,
        name: &[u8],
    ) -> Result<(), FsError> {
        check_name(name)?;
        self.check_not_removed(tree, parent)?;
        if let Some(found) = self.find(&tree.stack, parent, name)? {
            self.drop_unused(tree, [found]);
            return Err(FsError::Exists);
        }
        Ok(())
    }

    /// Returns `node` and its extended attributes as the directory `parent` and the mask of the
    /// process determine them.
    pub(super) fn inherited<'a>(
        &mut self,
        tree: &Tree,
        parent: Ino,
        node: &MknodArgs<'a>,
    ) -> Result<(MknodArgs<'a>, XattrMap), FsError> {
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
        Ok((node, xattrs))
    }

    /// Creates an object and sets `name` to the slot that `slot` returns for it. The caller updates
    /// the number of subdirectories of `parent`.
    pub(super) fn mknod(
        &mut self,
        tree: &Tree,
        parent: Ino,
        name: &[u8],
        node: &MknodArgs<'_>,
        slot: impl FnOnce(EntryTarget) -> Slot,
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
        let (node, xattrs) = self.inherited(tree, parent, node)?;
        let inode = new_inode(&node, xattrs, Time::now());
        let cost = inode.cost();
        tree.space.charge(cost)?;
        let ino = Ino(self.next_ino);
        let target = EntryTarget { ino, kind: node.kind };
        if let Err(e) = self.set_slot(tree, parent, name, slot(target)) {
            tree.space.release(cost);
            return Err(e);
        }
        self.next_ino += 1;
        self.inodes.insert(ino, Arc::new(inode));
        if node.kind == FileType::Directory {
            let dir = Dir {
                parent,
                name: name.into(),
                sources: LowerDirs::new(),
                changes: DirChanges::default(),
                dirty: true,
                children: 0,
                subdirs: Some(0),
            };
            self.dirs.insert(ino, dir);
            self.dir_mut(&tree.stack, parent)?.children += 1;
        }
        self.entry(&tree.stack, parent, target)
    }

    /// Sets the slot of `name` in `dir`. The caller accounts for the previous object.
    pub(super) fn set_slot(
        &mut self,
        tree: &Tree,
        dir: Ino,
        name: &[u8],
        slot: Slot,
    ) -> Result<(), FsError> {
        let reserved = self.reserve(tree, dir, name)?;
        self.set_reserved(dir, name, slot, reserved);
        Ok(())
    }

    /// Reserves memory for `name` in the changes of `dir`.
    pub(super) fn reserve(&self, tree: &Tree, dir: Ino, name: &[u8]) -> Result<Reserved, FsError> {
        let changes = &self.dir(&tree.stack, dir)?.changes;
        if let Some(item) = changes.get(name) {
            return Ok(Reserved { in_layers: item.in_layers, charged: 0 });
        }
        if !changes.has_room() {
            return Err(FsError::NoSpace { limit: tree.space.limit() });
        }
        let in_layers = self.find_lower(&tree.stack, dir, name)?.is_some();
        tree.space.charge(entry_cost(name))?;
        Ok(Reserved { in_layers, charged: entry_cost(name) })
    }

    /// Sets the slot of `name` in `dir`, for which memory was [reserved](Self::reserve).
    pub(super) fn set_reserved(&mut self, dir: Ino, name: &[u8], slot: Slot, reserved: Reserved) {
        if let Some(dir) = self.dirs.get_mut(&dir) {
            dir.changes.set(name, slot, reserved.in_layers);
        }
    }

    /// Returns the object covered by a scratch entry at `name`. Replacing or removing the scratch
    /// entry applies to this object too.
    ///
    /// # Errors
    /// [`FsError::Busy`] for a directory with entries: the caller does not see it, and so cannot
    /// intend to remove it.
    pub(super) fn covered_by_scratch(
        &mut self,
        tree: &Tree,
        dir: Ino,
        name: &[u8],
    ) -> Result<Option<EntryTarget>, FsError> {
        let covered = match self.dir(&tree.stack, dir)?.changes.get(name).map(|i| &i.slot) {
            Some(Slot::Scratch(scratch)) => scratch.covered,
            Some(Slot::Present(_) | Slot::Whiteout) | None => return Ok(None),
        };
        let target = match covered {
            Covered::Nothing => return Ok(None),
            Covered::Object(target) => target,
            Covered::Layers => match self.find_lower(&tree.stack, dir, name)? {
                None => return Ok(None),
                Some(lower) => {
                    let target = EntryTarget { ino: lower.ino(), kind: lower.kind() };
                    if let LowerEntry::Directory(sources) = lower {
                        self.cache_dir(&tree.stack, dir, name, target.ino, sources)?;
                    }
                    target
                }
            },
        };
        if target.kind == FileType::Directory && !self.is_empty(&tree.stack, target.ino)? {
            self.drop_unused(tree, [target]);
            return Err(FsError::Busy);
        }
        Ok(Some(target))
    }

    /// Drops the object that a lookup found under a scratch entry which still exists.
    pub(super) fn drop_unused_covered(&mut self, tree: &Tree, dir: Ino, name: &[u8]) {
        let item = self.dirs.get(&dir).and_then(|d| d.changes.get(name));
        let Some(Slot::Scratch(scratch)) = item.map(|i| &i.slot) else { return };
        if scratch.covered == Covered::Layers
            && let Ok(Some(lower)) = self.find_lower(&tree.stack, dir, name)
        {
            self.drop_if_unused(&tree.space, lower.ino());
        }
    }

    /// Copies up the objects `inos` before anything changes, so that a damaged layer cannot
    /// interrupt the change halfway. Ignores the size limit.
    pub(super) fn copy_up_unlimited(
        &mut self,
        tree: &Tree,
        inos: impl IntoIterator<Item = Ino>,
    ) -> Result<(), FsError> {
        inos.into_iter().try_for_each(|ino| self.upper_inode_unlimited(tree, ino).map(drop))
    }

    /// Removes `name` from `dir`: a name of the layers becomes a whiteout, any other leaves no
    /// trace. The caller accounts for the object.
    pub(super) fn remove_slot(
        &mut self,
        tree: &Tree,
        dir: Ino,
        name: &[u8],
    ) -> Result<(), FsError> {
        let in_layers = match self.dir(&tree.stack, dir)?.changes.get(name) {
            Some(item) => item.in_layers,
            None => self.find_lower(&tree.stack, dir, name)?.is_some(),
        };
        if !in_layers {
            return self.unset(tree, dir, name);
        }
        if self.dir_mut(&tree.stack, dir)?.changes.set(name, Slot::Whiteout, true) {
            tree.space.charge_unlimited(entry_cost(name));
        }
        Ok(())
    }

    /// Removes `name` from the changes of `dir`, so that the layers' state applies.
    pub(super) fn unset(&mut self, tree: &Tree, dir: Ino, name: &[u8]) -> Result<(), FsError> {
        if self.dir_mut(&tree.stack, dir)?.changes.unset(name) {
            tree.space.release(entry_cost(name));
        }
        Ok(())
    }

    /// Counts a new visible name in `dir`, of an object of type `kind`.
    pub(super) fn count_added_name(&mut self, dir: Ino, kind: FileType) {
        if kind == FileType::Directory {
            self.add_subdirs(dir, 1);
        }
    }

    /// Counts the removal of a visible name from `dir`, of an object of type `kind`.
    pub(super) fn count_removed_name(&mut self, dir: Ino, kind: FileType) {
        if kind == FileType::Directory {
            self.add_subdirs(dir, -1);
        }
    }

    /// Decrements the link count of `target`, whose directory entry is already removed.
    pub(super) fn drop_link(
        &mut self,
        tree: &Tree,
        target: EntryTarget,
        now: Time,
    ) -> Result<(), FsError> {
        let inode = self.upper_inode_unlimited(tree, target.ino)?;
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

    /// Updates the times of `dir` after a change of its names and marks it as dirty.
    pub(super) fn update_after_name_change(
        &mut self,
        tree: &Tree,
        dir: Ino,
        now: Time,
    ) -> Result<(), FsError> {
        self.mark_dirty(dir);
        let inode = self.upper_inode_unlimited(tree, dir)?;
        let mut body = inode.body.write();
        body.mtime = now;
        body.mtime_counts = false;
        body.ctime = now;
        Ok(())
    }
}
