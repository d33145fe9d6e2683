//! Renames, as `renameat2` has them.

use super::dir::{Slot, Target};
use super::names::check_name;
use super::{Ino, State, Tree};
use crate::attr::{FileType, Time};
use crate::error::FsError;

/// What a rename may do to its destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenameMode {
    /// Replace it.
    Replace,
    /// Fail if it exists (`RENAME_NOREPLACE`).
    NoReplace,
    /// Swap the two (`RENAME_EXCHANGE`).
    Exchange,
}

impl Tree {
    /// Renames `name` in `parent` to `new_name` in `new_parent`. Directories of the layers are
    /// moved like any other; nothing is copied.
    pub fn rename(
        &self,
        parent: Ino,
        name: &[u8],
        new_parent: Ino,
        new_name: &[u8],
        mode: RenameMode,
    ) -> Result<(), FsError> {
        let _gate = self.gate.read();
        self.check_writable()?;
        let mut state = self.state.lock();
        check_name(new_name)?;
        let source = state.find(&self.stack, parent, name)?.ok_or(FsError::NotFound)?;
        state.check_alive(self, new_parent)?;
        let target = state.find(&self.stack, new_parent, new_name)?;
        state.check_not_below(self, source, new_parent)?;
        match (mode, target) {
            (RenameMode::NoReplace, Some(_)) => return Err(FsError::Exists),
            (RenameMode::Exchange, None) => return Err(FsError::NotFound),
            (RenameMode::Exchange, Some(target)) => {
                state.check_not_below(self, target, parent)?;
                if target.ino == source.ino {
                    return Ok(());
                }
                return state.exchange(
                    self,
                    (parent, name, source),
                    (new_parent, new_name, target),
                );
            }
            (RenameMode::Replace, Some(target)) => {
                // Two names of one object: POSIX has it that nothing happens.
                if target.ino == source.ino {
                    return Ok(());
                }
                match (source.kind, target.kind) {
                    (FileType::Directory, FileType::Directory) => {
                        if !state.is_empty(&self.stack, target.ino)? {
                            return Err(FsError::NotEmpty);
                        }
                    }
                    (FileType::Directory, _) => return Err(FsError::NotADirectory),
                    (_, FileType::Directory) => return Err(FsError::IsADirectory),
                    _ => {}
                }
            }
            (_, None) => {}
        }

        let now = Time::now();
        // All that can be refused comes before anything is changed.
        let moved = state.upper(self, source.ino)?;
        let beneath = state.beneath(new_parent, new_name);
        state.put(self, new_parent, new_name, Slot::Present(source))?;
        state.remove(self, parent, name)?;
        for gone in target.into_iter().chain(beneath) {
            state.drop_name(self, gone, now)?;
        }
        state.moved(source, parent, new_parent, new_name);
        moved.body.write().ctime = now;
        state.changed_names(self, parent, now)?;
        state.changed_names(self, new_parent, now)
    }
}

impl State {
    /// A directory cannot be moved into itself.
    fn check_not_below(&self, tree: &Tree, moving: Target, into: Ino) -> Result<(), FsError> {
        if moving.kind != FileType::Directory {
            return Ok(());
        }
        let mut at = into;
        loop {
            if at == moving.ino {
                return Err(FsError::Invalid);
            }
            if at == Ino::ROOT {
                return Ok(());
            }
            at = self.dir(&tree.stack, at)?.parent;
        }
    }

    fn exchange(
        &mut self,
        tree: &Tree,
        (dir_a, name_a, a): (Ino, &[u8], Target),
        (dir_b, name_b, b): (Ino, &[u8], Target),
    ) -> Result<(), FsError> {
        let now = Time::now();
        let inodes = [self.upper(tree, a.ino)?, self.upper(tree, b.ino)?];
        let beneath = [self.beneath(dir_a, name_a), self.beneath(dir_b, name_b)];
        self.put(tree, dir_a, name_a, Slot::Present(b))?;
        if let Err(e) = self.put(tree, dir_b, name_b, Slot::Present(a)) {
            self.put(tree, dir_a, name_a, Slot::Present(a))?;
            return Err(e);
        }
        for gone in beneath.into_iter().flatten() {
            self.drop_name(tree, gone, now)?;
        }
        self.moved(a, dir_a, dir_b, name_b);
        self.moved(b, dir_b, dir_a, name_a);
        for inode in inodes {
            inode.body.write().ctime = now;
        }
        self.changed_names(tree, dir_a, now)?;
        self.changed_names(tree, dir_b, now)
    }

    /// Keeps the books of a directory that moved.
    fn moved(&mut self, what: Target, from: Ino, to: Ino, name: &[u8]) {
        if let Some(reference) = self.refs.get_mut(&what.ino) {
            reference.parent = to;
        }
        let Some(dir) = self.dirs.get_mut(&what.ino) else { return };
        dir.parent = to;
        dir.name = name.into();
        if from != to {
            if let Some(dir) = self.dirs.get_mut(&from) {
                dir.children -= 1;
            }
            if let Some(dir) = self.dirs.get_mut(&to) {
                dir.children += 1;
            }
            self.add_subdirs(from, -1);
            self.add_subdirs(to, 1);
        }
    }
}
