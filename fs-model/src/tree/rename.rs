//! Renames, as `renameat2` has them.

use super::dir::{Beneath, Scratch, Slot, Target};
use super::lent::Keep;
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
    /// moved like any other; nothing is copied. A scratch file takes along what is beneath it, and
    /// stays one; a scratch directory, or one that is swapped, becomes an entry like any other. A lent
    /// file that covers a file of the image becomes that file, and is renamed as such.
    ///
    /// # Errors
    /// [`FsError::Busy`] for a scratch entry that lies over a directory with something in it.
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
        let from = Place { dir: parent, name, target: source };
        let done = state.rename(self, from, new_parent, new_name, mode);
        state.let_go(self, [source]);
        state.let_go_beneath(self, parent, name);
        state.let_go_beneath(self, new_parent, new_name);
        done
    }
}

/// A name of a directory and what it stands for.
#[derive(Clone, Copy)]
struct Place<'a> {
    dir: Ino,
    name: &'a [u8],
    target: Target,
}

impl State {
    fn rename(
        &mut self,
        tree: &Tree,
        from: Place<'_>,
        new_parent: Ino,
        new_name: &[u8],
        mode: RenameMode,
    ) -> Result<(), FsError> {
        self.check_alive(tree, new_parent)?;
        let target = self.find(&tree.stack, new_parent, new_name)?;
        let done = match (mode, target) {
            (RenameMode::NoReplace, Some(_)) => Err(FsError::Exists),
            (RenameMode::Exchange, None) => Err(FsError::NotFound),
            (RenameMode::Exchange, Some(target)) => self
                .take_over(tree, target.ino, Keep::Own)
                .and_then(|()| self.take_over(tree, from.target.ino, Keep::Own))
                .and_then(|()| {
                    self.exchange(tree, from, Place { dir: new_parent, name: new_name, target })
                }),
            (_, target) => self
                .take_over_covering(tree, from.target.ino)
                .and_then(|()| self.replace(tree, from, new_parent, new_name, target)),
        };
        self.let_go(tree, target);
        done
    }

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

    fn replace(
        &mut self,
        tree: &Tree,
        from: Place<'_>,
        new_parent: Ino,
        new_name: &[u8],
        target: Option<Target>,
    ) -> Result<(), FsError> {
        let source = from.target;
        self.check_not_below(tree, source, new_parent)?;
        if let Some(target) = target {
            // Two names of one object: POSIX has it that nothing happens.
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
        let beneath =
            [self.beneath(tree, from.dir, from.name)?, self.beneath(tree, new_parent, new_name)?];
        if beneath[0].is_some_and(|beneath| beneath.ino == new_parent) {
            // It would be removed and moved into at once.
            return Err(FsError::Busy);
        }
        let moves = self.scratch_at(tree, from, beneath[0])?;
        let beneath_source = beneath[0].filter(|_| moves.is_none());
        let gone = || target.into_iter().chain(beneath_source).chain(beneath[1]);

        // All that can be refused comes before anything is changed.
        let now = Time::now();
        let moved = self.upper(tree, source.ino)?;
        let along = match (moves, beneath[0]) {
            (Some(_), Some(target)) => Some(self.upper(tree, target.ino)?),
            _ => None,
        };
        let reserved = self.reserve(tree, new_parent, new_name)?;
        let others = [from.dir, new_parent].into_iter().chain(gone().map(|t| t.ino));
        if let Err(e) = self.copy_up_always(tree, others) {
            reserved.release(tree);
            return Err(e);
        }
        let slot = moves.map_or(Slot::Present(source), |scratch| Slot::Scratch(Box::new(scratch)));
        self.set(new_parent, new_name, slot, reserved);
        self.lose_name(tree, from.dir, from.name)?;
        self.keep_passage(source.ino);
        self.loan_moved(source.ino, (from.dir, from.name), (new_parent, new_name));
        if let Some(along) = along {
            along.body.write().ctime = now;
        }
        if let Some(target) = target {
            self.remove_name(new_parent, target.kind);
        }
        for gone in gone() {
            self.drop_name(tree, gone, now)?;
        }
        self.moved(source, from.dir, new_parent, new_name);
        moved.body.write().ctime = now;
        self.changed_names(tree, from.dir, now)?;
        self.changed_names(tree, new_parent, now)
    }

    /// What a scratch file becomes at its new name, if one is moved: what is `beneath` it, which is
    /// what a machine without it would have moved, goes along.
    fn scratch_at(
        &self,
        tree: &Tree,
        from: Place<'_>,
        beneath: Option<Target>,
    ) -> Result<Option<Scratch>, FsError> {
        let slot = self.dir(&tree.stack, from.dir)?.changes.get(from.name).map(|item| &item.slot);
        let is_file = |target: Target| target.kind != FileType::Directory;
        let moves = matches!(slot, Some(Slot::Scratch(_)))
            && is_file(from.target)
            && beneath.is_none_or(is_file);
        Ok(moves.then(|| Scratch {
            shown: from.target,
            beneath: beneath.map_or(Beneath::Absent, Beneath::Object),
        }))
    }

    fn exchange(&mut self, tree: &Tree, a: Place<'_>, b: Place<'_>) -> Result<(), FsError> {
        self.check_not_below(tree, a.target, b.dir)?;
        self.check_not_below(tree, b.target, a.dir)?;
        if a.target.ino == b.target.ino {
            return Ok(());
        }
        let beneath = [self.beneath(tree, a.dir, a.name)?, self.beneath(tree, b.dir, b.name)?];
        let now = Time::now();
        let moved = [self.upper(tree, a.target.ino)?, self.upper(tree, b.target.ino)?];
        let at_a = self.reserve(tree, a.dir, a.name)?;
        let others = [a.dir, b.dir].into_iter().chain(beneath.into_iter().flatten().map(|t| t.ino));
        let at_b = match self.reserve(tree, b.dir, b.name) {
            Ok(at_b) => match self.copy_up_always(tree, others) {
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
        self.set(a.dir, a.name, Slot::Present(b.target), at_a);
        self.set(b.dir, b.name, Slot::Present(a.target), at_b);
        for gone in beneath.into_iter().flatten() {
            self.drop_name(tree, gone, now)?;
        }
        self.moved(a.target, a.dir, b.dir, b.name);
        self.moved(b.target, b.dir, a.dir, a.name);
        for inode in moved {
            inode.body.write().ctime = now;
        }
        self.changed_names(tree, a.dir, now)?;
        self.changed_names(tree, b.dir, now)
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
