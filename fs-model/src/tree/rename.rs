//! Renames, with the semantics of `renameat2`.

use super::dir::{Covered, EntryTarget, Scratch, Slot};
use super::lent::ContentFrom;
use super::namespace::check_name;
use super::{Ino, Tree, TreeState};
use crate::attr::{FileType, Time};
use crate::error::FsError;

/// How a rename treats its destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenameMode {
    /// Replace the destination.
    Replace,
    /// Fail if the destination exists (`RENAME_NOREPLACE`).
    NoReplace,
    /// Swap source and destination (`RENAME_EXCHANGE`).
    Exchange,
}

impl Tree {
    /// Renames `name` in `parent` to `new_name` in `new_parent`.
    ///
    /// Directories of the layers are moved without copying anything. A scratch file that covers an
    /// object stays a scratch entry and takes the object along. Other scratch files, scratch
    /// directories, and any scratch entry in an exchange become ordinary entries. A lent file that
    /// covers a file of the image becomes that file and is then renamed.
    ///
    /// # Errors
    /// [`FsError::NotFound`], [`FsError::Exists`] for [`RenameMode::NoReplace`],
    /// [`FsError::NotEmpty`], [`FsError::IsADirectory`] or [`FsError::NotADirectory`] where the
    /// types differ, [`FsError::Invalid`] for a directory moved below itself, or [`FsError::Busy`]
    /// for a scratch entry that covers a directory with entries. Also those of [`Tree::mknod`] for
    /// the new name.
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
        let from = RenamedEntry { dir: parent, name, target: source };
        let done = state.rename(self, from, new_parent, new_name, mode);
        state.drop_unused(self, [source]);
        state.drop_unused_covered(self, parent, name);
        state.drop_unused_covered(self, new_parent, new_name);
        done
    }
}

/// A directory entry that takes part in a rename.
#[derive(Clone, Copy)]
struct RenamedEntry<'a> {
    dir: Ino,
    name: &'a [u8],
    target: EntryTarget,
}

impl TreeState {
    fn rename(
        &mut self,
        tree: &Tree,
        from: RenamedEntry<'_>,
        new_parent: Ino,
        new_name: &[u8],
        mode: RenameMode,
    ) -> Result<(), FsError> {
        self.check_not_removed(tree, new_parent)?;
        let target = self.find(&tree.stack, new_parent, new_name)?;
        let done = match (mode, target) {
            (RenameMode::NoReplace, Some(_)) => Err(FsError::Exists),
            (RenameMode::Exchange, None) => Err(FsError::NotFound),
            (RenameMode::Exchange, Some(target)) => self
                .take_over(tree, target.ino, ContentFrom::Covered)
                .and_then(|()| self.take_over(tree, from.target.ino, ContentFrom::Covered))
                .and_then(|()| {
                    self.exchange(
                        tree,
                        from,
                        RenamedEntry { dir: new_parent, name: new_name, target },
                    )
                }),
            (_, target) => self
                .take_over_covering(tree, from.target.ino)
                .and_then(|()| self.replace(tree, from, new_parent, new_name, target)),
        };
        self.drop_unused(tree, target);
        done
    }

    /// Fails if `moving` is a directory that contains `into`.
    fn check_not_below(&self, tree: &Tree, moving: EntryTarget, into: Ino) -> Result<(), FsError> {
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

    fn replace(
        &mut self,
        tree: &Tree,
        from: RenamedEntry<'_>,
        new_parent: Ino,
        new_name: &[u8],
        target: Option<EntryTarget>,
    ) -> Result<(), FsError> {
        let source = from.target;
        self.check_not_below(tree, source, new_parent)?;
        if let Some(target) = target {
            // Two names of the same object: POSIX requires that nothing happens.
            if target.ino == source.ino {
                return Ok(());
            }
            match (source.kind, target.kind) {
                (FileType::Directory, FileType::Directory)
                    if !self.is_empty(&tree.stack, target.ino)? =>
                {
                    return Err(FsError::NotEmpty);
                }
                (FileType::Directory, FileType::Directory) => {}
                (FileType::Directory, _) => return Err(FsError::NotADirectory),
                (_, FileType::Directory) => return Err(FsError::IsADirectory),
                _ => {}
            }
        }
        let covered = [
            self.covered_by_scratch(tree, from.dir, from.name)?,
            self.covered_by_scratch(tree, new_parent, new_name)?,
        ];
        if covered[0].is_some_and(|covered| covered.ino == new_parent) {
            // The covered directory would be removed although the entry moves into it.
            return Err(FsError::Busy);
        }
        let moves = self.scratch_at(tree, from, covered[0])?;
        let covered_source = covered[0].filter(|_| moves.is_none());
        let gone = || target.into_iter().chain(covered_source).chain(covered[1]);

        // Everything that can fail is done before anything changes.
        let now = Time::now();
        let moved = self.upper_inode(tree, source.ino)?;
        let along = match (moves, covered[0]) {
            (Some(_), Some(target)) => Some(self.upper_inode(tree, target.ino)?),
            _ => None,
        };
        let reserved = self.reserve(tree, new_parent, new_name)?;
        let others = [from.dir, new_parent].into_iter().chain(gone().map(|t| t.ino));
        if let Err(e) = self.copy_up_unlimited(tree, others) {
            reserved.release(tree);
            return Err(e);
        }
        let slot = moves.map_or(Slot::Present(source), |scratch| Slot::Scratch(Box::new(scratch)));
        self.set_reserved(new_parent, new_name, slot, reserved);
        self.remove_slot(tree, from.dir, from.name)?;
        self.keep_scratch_parent(source.ino);
        self.update_loan_after_rename(source.ino, (from.dir, from.name), (new_parent, new_name));
        if let Some(along) = along {
            along.body.write().ctime = now;
        }
        if let Some(target) = target {
            self.count_removed_name(new_parent, target.kind);
        }
        for gone in gone() {
            self.drop_link(tree, gone, now)?;
        }
        self.update_after_move(source, from.dir, new_parent, new_name);
        moved.body.write().ctime = now;
        self.update_after_name_change(tree, from.dir, now)?;
        self.update_after_name_change(tree, new_parent, now)
    }

    /// Returns the scratch slot for the new name, if a scratch file is moved that is lent or covers
    /// an object. The covered object is moved with it, because it would have been moved if there
    /// were no scratch file.
    fn scratch_at(
        &mut self,
        tree: &Tree,
        from: RenamedEntry<'_>,
        covered: Option<EntryTarget>,
    ) -> Result<Option<Scratch>, FsError> {
        let is_shown = covered.is_some() || self.loan(from.target.ino).is_some();
        let slot = self.dir(&tree.stack, from.dir)?.changes.get(from.name).map(|item| &item.slot);
        let is_file = |target: EntryTarget| target.kind != FileType::Directory;
        let moves = is_shown
            && matches!(slot, Some(Slot::Scratch(_)))
            && is_file(from.target)
            && covered.is_none_or(is_file);
        Ok(moves.then(|| Scratch {
            shown: from.target,
            covered: covered.map_or(Covered::Nothing, Covered::Object),
        }))
    }

    fn exchange(
        &mut self,
        tree: &Tree,
        a: RenamedEntry<'_>,
        b: RenamedEntry<'_>,
    ) -> Result<(), FsError> {
        self.check_not_below(tree, a.target, b.dir)?;
        self.check_not_below(tree, b.target, a.dir)?;
        if a.target.ino == b.target.ino {
            return Ok(());
        }
        let covered = [
            self.covered_by_scratch(tree, a.dir, a.name)?,
            self.covered_by_scratch(tree, b.dir, b.name)?,
        ];
        let now = Time::now();
        let moved = [self.upper_inode(tree, a.target.ino)?, self.upper_inode(tree, b.target.ino)?];
        let at_a = self.reserve(tree, a.dir, a.name)?;
        let others = [a.dir, b.dir].into_iter().chain(covered.into_iter().flatten().map(|t| t.ino));
        let at_b = match self.reserve(tree, b.dir, b.name) {
            Ok(at_b) => match self.copy_up_unlimited(tree, others) {
                Ok(()) => Ok(at_b),
                Err(e) => {
                    at_b.release(tree);
                    Err(e)
                }
            },
            Err(e) => Err(e),
        };
        let at_b = match at_b {
            Ok(at_b) => at_b,
            Err(e) => {
                at_a.release(tree);
                return Err(e);
            }
        };
        self.set_reserved(a.dir, a.name, Slot::Present(b.target), at_a);
        self.set_reserved(b.dir, b.name, Slot::Present(a.target), at_b);
        for gone in covered.into_iter().flatten() {
            self.drop_link(tree, gone, now)?;
        }
        self.update_after_move(a.target, a.dir, b.dir, b.name);
        self.update_after_move(b.target, b.dir, a.dir, a.name);
        for inode in moved {
            inode.body.write().ctime = now;
        }
        self.update_after_name_change(tree, a.dir, now)?;
        self.update_after_name_change(tree, b.dir, now)
    }

    /// Updates references and counters after an object moved.
    fn update_after_move(&mut self, target: EntryTarget, from: Ino, to: Ino, name: &[u8]) {
        if let Some(reference) = self.refs.get_mut(&target.ino) {
            reference.parent = to;
        }
        let Some(dir) = self.dirs.get_mut(&target.ino) else { return };
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
