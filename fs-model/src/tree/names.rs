//! Names made and removed: create, link, unlink, rmdir.

use std::sync::Arc;

use parking_lot::RwLock;

use super::content::Content;
use super::dir::{Beneath, Changes, Dir, Slot, Target};
use super::inode::{Body, Data, Inode};
use super::space::ENTRY_COST;
use super::stack::Sources;
use super::{Entry, Ino, NEW_INODE_COST, State, Tree};
use crate::attr::{Device, FileType, Time};
use crate::error::FsError;

/// The longest name of a directory entry, in bytes, as everywhere on Linux.
const NAME_MAX: usize = 255;
/// The longest symlink target, in bytes: `PATH_MAX` without its terminator.
const TARGET_MAX: usize = 4095;

/// What is to be made.
#[derive(Clone, Copy, Debug)]
pub struct NewNode<'a> {
    /// Its type.
    pub kind: FileType,
    /// Its permission bits, the umask already taken off.
    pub mode: u16,
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
        NewNode { kind, mode, uid, gid, rdev: Device { major: 0, minor: 0 }, target: b"" }
    }
}

impl<'a> NewNode<'a> {
    /// A symbolic link.
    pub const fn symlink(target: &'a [u8], uid: u32, gid: u32) -> Self {
        let rdev = Device { major: 0, minor: 0 };
        NewNode { kind: FileType::Symlink, mode: 0o777, uid, gid, rdev, target }
    }

    /// A device node.
    pub const fn device(kind: FileType, mode: u16, uid: u32, gid: u32, rdev: Device) -> Self {
        NewNode { kind, mode, uid, gid, rdev, target: b"" }
    }
}

/// Refuses what can never be a name that is looked for.
pub(super) fn check_lookup(name: &[u8]) -> Result<(), FsError> {
    if name.len() > NAME_MAX {
        return Err(FsError::NameTooLong);
    }
    Ok(())
}

/// Refuses what can never be a name that is made.
pub(super) fn check_name(name: &[u8]) -> Result<(), FsError> {
    check_lookup(name)?;
    if name.is_empty() || name == b"." || name == b".." || name.iter().any(|&b| b == b'/' || b == 0)
    {
        return Err(FsError::Invalid);
    }
    Ok(())
}

/// A new inode of the upper, with one name (a directory: two).
pub(super) fn new_inode(node: &NewNode<'_>, now: Time) -> Inode {
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
            ctime: now,
            data: match node.kind {
                FileType::Regular => Data::File(Content::default()),
                FileType::Symlink => Data::Target(node.target.into()),
                _ => Data::None,
            },
            xattrs: None,
        }),
    }
}

fn entry_cost(name: &[u8]) -> u64 {
    ENTRY_COST + name.len() as u64
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
        check_name(name)?;
        state.check_alive(self, parent)?;
        if state.find(&self.stack, parent, name)?.is_some() {
            return Err(FsError::Exists);
        }
        state.make(self, parent, name, node, |target, _| Slot::Present(target)).and_then(|entry| {
            state.changed_names(self, parent, Time::now())?;
            Ok(entry)
        })
    }

    /// Gives the object `ino` one more name.
    pub fn link(&self, ino: Ino, parent: Ino, name: &[u8]) -> Result<Entry, FsError> {
        let _gate = self.gate.read();
        self.check_writable()?;
        let mut state = self.state.lock();
        check_name(name)?;
        state.check_alive(self, parent)?;
        if state.find(&self.stack, parent, name)?.is_some() {
            return Err(FsError::Exists);
        }
        let inode = state.upper(self, ino)?;
        if inode.kind == FileType::Directory {
            return Err(FsError::NotPermitted);
        }
        let now = Time::now();
        {
            let mut body = inode.body.write();
            if body.nlink == 0 {
                return Err(FsError::NotFound);
            }
            body.nlink = body.nlink.checked_add(1).ok_or(FsError::TooManyLinks)?;
            body.ctime = now;
        }
        let target = Target { ino, kind: inode.kind };
        if let Err(e) = state.put(self, parent, name, Slot::Present(target)) {
            inode.body.write().nlink -= 1;
            return Err(e);
        }
        state.changed_names(self, parent, now)?;
        state.entry(&self.stack, parent, target)
    }

    /// Removes the name of anything but a directory.
    pub fn unlink(&self, parent: Ino, name: &[u8]) -> Result<(), FsError> {
        let _gate = self.gate.read();
        self.check_writable()?;
        let mut state = self.state.lock();
        let target = state.find(&self.stack, parent, name)?.ok_or(FsError::NotFound)?;
        if target.kind == FileType::Directory {
            return Err(FsError::IsADirectory);
        }
        let now = Time::now();
        state.remove(self, parent, name)?;
        state.drop_name(self, target, now)?;
        state.changed_names(self, parent, now)
    }

    /// Removes an empty directory.
    pub fn rmdir(&self, parent: Ino, name: &[u8]) -> Result<(), FsError> {
        let _gate = self.gate.read();
        self.check_writable()?;
        let mut state = self.state.lock();
        let target = state.find(&self.stack, parent, name)?.ok_or(FsError::NotFound)?;
        if target.kind != FileType::Directory {
            return Err(FsError::NotADirectory);
        }
        if !state.is_empty(&self.stack, target.ino)? {
            return Err(FsError::NotEmpty);
        }
        let now = Time::now();
        state.remove(self, parent, name)?;
        state.drop_name(self, target, now)?;
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

    /// Makes a new object and puts it at `name`, in the slot that `slot` makes of it and of what
    /// was there before.
    pub(super) fn make(
        &mut self,
        tree: &Tree,
        parent: Ino,
        name: &[u8],
        node: &NewNode<'_>,
        slot: impl FnOnce(Target, Option<&Slot>) -> Slot,
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
        let inode = new_inode(&node, Time::now());
        let cost = inode.cost().max(NEW_INODE_COST);
        tree.space.charge(cost)?;
        let ino = Ino(self.next);
        let target = Target { ino, kind: node.kind };
        let slot = slot(target, self.dir(&tree.stack, parent)?.changes.get(name).map(|i| &i.slot));
        if let Err(e) = self.put(tree, parent, name, slot) {
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
            self.add_subdirs(parent, 1);
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
        let known = self.dir(&tree.stack, dir)?.changes.get(name).map(|i| i.in_layers);
        let in_layers = match known {
            Some(in_layers) => in_layers,
            None => {
                tree.space.charge(entry_cost(name))?;
                match self.find_pristine(&tree.stack, dir, name) {
                    Ok(found) => found.is_some(),
                    Err(e) => {
                        tree.space.release(entry_cost(name));
                        return Err(e);
                    }
                }
            }
        };
        let changes = &mut self.dir_mut(&tree.stack, dir)?.changes;
        if !changes.has_room() {
            return Err(FsError::NoSpace { limit: tree.space.limit() });
        }
        changes.set(name, slot, in_layers);
        Ok(())
    }

    /// The object of the upper that a scratch entry at `name` lies over: whoever replaces or
    /// removes the scratch entry has done so to this object.
    pub(super) fn beneath(&self, dir: Ino, name: &[u8]) -> Option<Target> {
        match &self.dirs.get(&dir)?.changes.get(name)?.slot {
            Slot::Scratch(scratch) => match scratch.beneath {
                Beneath::Object(target) => Some(target),
                Beneath::Layers | Beneath::Absent => None,
            },
            Slot::Present(_) | Slot::Absent => None,
        }
    }

    /// Removes `name` from `dir`: the layers' own stays hidden, the upper's leaves no trace. What
    /// a scratch entry had beneath goes with it.
    pub(super) fn remove(&mut self, tree: &Tree, dir: Ino, name: &[u8]) -> Result<(), FsError> {
        let beneath = self.beneath(dir, name);
        let known = self.dir(&tree.stack, dir)?.changes.get(name);
        let in_layers = match known {
            Some(item) => item.in_layers,
            None => self.find_pristine(&tree.stack, dir, name)?.is_some(),
        };
        let was_known = known.is_some();
        let changes = &mut self.dir_mut(&tree.stack, dir)?.changes;
        if in_layers {
            if changes.set(name, Slot::Absent, true) {
                tree.space.charge_always(entry_cost(name));
            }
        } else if was_known {
            self.unset(tree, dir, name)?;
        }
        if let Some(target) = beneath {
            self.drop_name(tree, target, Time::now())?;
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
        if inode.kind == FileType::Directory
            && let Some(dir) = self.dirs.get(&target.ino)
        {
            let parent = dir.parent;
            self.add_subdirs(parent, -1);
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
        body.ctime = now;
        Ok(())
    }
}
