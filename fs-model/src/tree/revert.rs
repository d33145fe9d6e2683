//! Reverting changes.
//!
//! Invariants:
//! - After a revert, the delta does not contain the name, as if it had never changed, unless its
//!   object was also changed through another name.
//! - Scratch entries stay; the objects that they cover are reverted.
//! - All errors are detected before anything changes.

use hashbrown::HashSet;

use super::dir::{Covered, EntryTarget, Slot};
use super::inode::UpperInode;
use super::namespace::check_name;
use super::{Ino, Tree, TreeState};
use crate::attr::{FileType, Time};
use crate::error::FsError;
use crate::stack::{LowerDirs, LowerEntry, LowerInode};

type EntryName = Box<[u8]>;

/// A name that was reverted. Copies of the entry, such as those in the kernel's caches, must be
/// invalidated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reverted {
    /// The directory.
    pub parent: Ino,
    /// The name in it.
    pub name: Box<[u8]>,
    /// The object of the layers, if there is one. It has its original attributes and content again.
    pub ino: Option<Ino>,
}

impl Tree {
    /// Reverts `name` in `parent` to the layers' state. An object that the layers lack is removed,
    /// and a directory is reverted or removed with everything in it. A scratch entry stays; the
    /// object that it covers is reverted.
    ///
    /// Returns every name that may have changed, except those below a removed name.
    ///
    /// # Errors
    /// [`FsError::Busy`] if a directory of the layers that would return was moved elsewhere, or if
    /// something that would be removed contains a scratch entry; [`FsError::NotFound`] if `parent`
    /// was removed. Also those of [`Tree::lookup`], and [`FsError::ReadOnly`].
    pub fn revert(&self, parent: Ino, name: &[u8]) -> Result<Vec<Reverted>, FsError> {
        let _gate = self.gate.read();
        self.check_writable()?;
        let mut state = self.state.lock();
        check_name(name)?;
        state.check_not_removed(self, parent)?;
        let mut loaded = Vec::new();
        let done = state.revert(self, parent, name, &mut loaded);
        for dir in loaded.into_iter().rev() {
            state.drop_if_unused(&self.space, dir);
        }
        done
    }
}

/// The state of a name, now and in the layers, ignoring scratch entries.
struct NameState {
    lower: Option<LowerEntry>,
    /// The present object.
    present: Option<EntryTarget>,
    slot: Option<Slot>,
}

impl NameState {
    /// Returns the present object, if it is not the layers' object.
    fn foreign_target(&self) -> Option<EntryTarget> {
        self.present.filter(|t| self.lower.as_ref().is_none_or(|p| p.ino() != t.ino))
    }

    /// Returns whether the layers' object is missing at this name.
    fn lost(&self) -> bool {
        let lower = self.lower.as_ref().map(LowerEntry::ino);
        lower.is_some() && lower != self.present.map(|t| t.ino)
    }
}

impl TreeState {
    /// Reverts `name` in `parent`. Adds directories that had to be loaded into memory to
    /// `loaded`.
    fn revert(
        &mut self,
        tree: &Tree,
        parent: Ino,
        name: &[u8],
        loaded: &mut Vec<Ino>,
    ) -> Result<Vec<Reverted>, FsError> {
        let mut reverted = Vec::new();
        for (dir, name, target) in self.plan_revert(tree, parent, name, loaded)? {
            reverted.push(Reverted { parent: dir, name: name.clone(), ino: None });
            self.remove_recursively(tree, dir, name, target)?;
        }
        self.restore_layers(tree, parent, name, loaded, &mut reverted)?;
        Ok(reverted)
    }

    fn found(&self, tree: &Tree, dir: Ino, name: &[u8]) -> Result<NameState, FsError> {
        let lower = self.find_lower(&tree.stack, dir, name)?;
        let slot = self.dir(&tree.stack, dir)?.changes.get(name).map(|i| i.slot.clone());
        let of_layers = || lower.as_ref().map(|p| EntryTarget { ino: p.ino(), kind: p.kind() });
        let present = match &slot {
            None => of_layers(),
            Some(Slot::Present(target)) => Some(*target),
            Some(Slot::Whiteout) => None,
            Some(Slot::Scratch(scratch)) => match scratch.covered {
                Covered::Layers => of_layers(),
                Covered::Object(target) => Some(target),
                Covered::Nothing => None,
            },
        };
        Ok(NameState { lower, present, slot })
    }

    /// Returns the names in the layers' directory at `name` in `parent` that may have changed. If
    /// there are any, the directory is in memory afterwards.
    fn changed_names_in(
        &mut self,
        tree: &Tree,
        parent: Ino,
        name: &[u8],
        sources: LowerDirs,
        loaded: &mut Vec<Ino>,
    ) -> Result<Vec<EntryName>, FsError> {
        let dir = sources[0].to_ino();
        if !self.dirs.contains_key(&dir) {
            if !self.dirty_parent_unknown {
                return Ok(Vec::new());
            }
            self.cache_dir(&tree.stack, parent, name, dir, sources)?;
            loaded.push(dir);
        }
        let listing = self.listing(&tree.stack, dir)?;
        let changes = &self.dir(&tree.stack, dir)?.changes;
        let mut names: Vec<EntryName> = changes.iter().map(|i| i.name.clone()).collect();
        let changed_in_place = listing.iter().filter(|l| {
            let may_have_changed = || {
                self.inodes.contains_key(&l.ino)
                    || self.dirs.get(&l.ino).is_some_and(|d| d.dirty)
                    || self.dirty_parent_unknown && l.kind == FileType::Directory
            };
            changes.get(&l.name).is_none() && may_have_changed()
        });
        names.extend(changed_in_place.map(|l| l.name.clone()));
        Ok(names)
    }

    /// Returns the objects to remove before `name` in `parent` can be reverted, or fails if that is
    /// impossible.
    fn plan_revert(
        &mut self,
        tree: &Tree,
        parent: Ino,
        name: &[u8],
        loaded: &mut Vec<Ino>,
    ) -> Result<Vec<(Ino, EntryName, EntryTarget)>, FsError> {
        let mut foreign = Vec::new();
        let mut returning: Vec<LowerDirs> = Vec::new();
        let mut pending = vec![(parent, EntryName::from(name))];
        while let Some((dir, name)) = pending.pop() {
            let found = self.found(tree, dir, &name)?;
            if let Some(foreign_target) = found.foreign_target() {
                foreign.push((dir, name.clone(), foreign_target));
            }
            let lost = found.lost();
            match found.lower {
                Some(LowerEntry::Directory(sources)) if lost => returning.push(sources),
                Some(LowerEntry::Directory(sources)) => {
                    let below = sources[0].to_ino();
                    let names = self.changed_names_in(tree, dir, &name, sources, loaded)?;
                    pending.extend(names.into_iter().map(|name| (below, name)));
                }
                Some(LowerEntry::Object { .. }) | None => {}
            }
        }
        let leaving = self.directories_in(tree, &foreign)?;
        while let Some(sources) = returning.pop() {
            let ino = sources[0].to_ino();
            let dead = self.inodes.get(&ino).is_some_and(|i| i.body.read().nlink == 0);
            if self.dirs.contains_key(&ino) && !dead && !leaving.contains(&ino) {
                return Err(FsError::Busy);
            }
            for listed in tree.stack.list(&sources)? {
                if listed.kind == FileType::Directory
                    && let Some(LowerEntry::Directory(below)) =
                        tree.stack.lookup(&sources, &listed.name)?
                {
                    returning.push(below);
                }
            }
        }
        Ok(foreign)
    }

    /// Returns the directories in memory that are removed together with `foreign`.
    fn directories_in(
        &mut self,
        tree: &Tree,
        foreign: &[(Ino, EntryName, EntryTarget)],
    ) -> Result<HashSet<Ino>, FsError> {
        let mut all = HashSet::new();
        let is_dir = |t: &EntryTarget| t.kind == FileType::Directory;
        let mut pending: Vec<Ino> =
            foreign.iter().map(|(_, _, t)| *t).filter(is_dir).map(|t| t.ino).collect();
        while let Some(dir) = pending.pop() {
            all.insert(dir);
            let listing = self.listing(&tree.stack, dir)?;
            let changes = &self.dir(&tree.stack, dir)?.changes;
            for item in changes.iter() {
                match &item.slot {
                    Slot::Scratch(_) => return Err(FsError::Busy),
                    Slot::Present(target) if is_dir(target) => pending.push(target.ino),
                    Slot::Present(_) | Slot::Whiteout => {}
                }
            }
            let known = listing
                .iter()
                .filter(|l| l.kind == FileType::Directory)
                .filter(|l| changes.get(&l.name).is_none() && self.dirs.contains_key(&l.ino));
            pending.extend(known.map(|l| l.ino));
        }
        Ok(all)
    }

    /// Removes the object at `name` in `dir`, ignoring scratch entries, with everything in it.
    fn remove_recursively(
        &mut self,
        tree: &Tree,
        dir: Ino,
        name: EntryName,
        target: EntryTarget,
    ) -> Result<(), FsError> {
        let now = Time::now();
        let mut pending = vec![(dir, name, target, false)];
        while let Some((dir, name, target, emptied)) = pending.pop() {
            if target.kind == FileType::Directory && !emptied {
                pending.push((dir, name, target, true));
                let listing = self.listing(&tree.stack, target.ino)?;
                let changes = &self.dir(&tree.stack, target.ino)?.changes;
                let mut names: Vec<EntryName> = changes.iter().map(|i| i.name.clone()).collect();
                let of_layers = listing.iter().filter(|l| changes.get(&l.name).is_none());
                names.extend(of_layers.map(|l| l.name.clone()));
                for name in names {
                    if let Some(child) = self.find(&tree.stack, target.ino, &name)? {
                        pending.push((target.ino, name, child, false));
                    }
                }
                continue;
            }
            match self.found(tree, dir, &name)?.slot {
                Some(Slot::Scratch(mut scratch)) => {
                    scratch.covered = Covered::Nothing;
                    self.set_slot(tree, dir, &name, Slot::Scratch(scratch))?;
                }
                _ => self.remove_slot(tree, dir, &name)?,
            }
            self.invalidate_subdir_count(dir);
            self.drop_link(tree, target, now)?;
        }
        Ok(())
    }

    /// Restores the layers' state at `name` in `parent` and below. No other object may be there.
    fn restore_layers(
        &mut self,
        tree: &Tree,
        parent: Ino,
        name: &[u8],
        loaded: &mut Vec<Ino>,
        reverted: &mut Vec<Reverted>,
    ) -> Result<(), FsError> {
        // The flag is set for names in a directory that was removed and forgotten: none of its
        // entries had a name then.
        let mut pending = vec![(parent, EntryName::from(name), false)];
        while let Some((dir, name, forgotten)) = pending.pop() {
            let found = self.found(tree, dir, &name)?;
            let lost = found.lost() || forgotten && found.slot.is_none();
            match found.slot {
                Some(Slot::Scratch(mut scratch)) => {
                    scratch.covered = Covered::Layers;
                    self.set_slot(tree, dir, &name, Slot::Scratch(scratch))?;
                }
                Some(_) => self.unset(tree, dir, &name)?,
                None => {}
            }
            self.invalidate_subdir_count(dir);
            let ino = found.lower.as_ref().map(LowerEntry::ino);
            reverted.push(Reverted { parent: dir, name: name.clone(), ino });
            match found.lower {
                None => {}
                Some(LowerEntry::Object { source, .. }) => {
                    // Its number no longer stands for the file that took its place.
                    if let Some(current) = self.former.remove(&source.to_ino()) {
                        self.drop_if_unused(&tree.space, current);
                    }
                    if lost {
                        self.regain_name(tree, source)?;
                    }
                    self.reset(tree, source.to_ino(), source)?;
                }
                Some(LowerEntry::Directory(sources)) => {
                    let (source, below) = (sources[0], sources[0].to_ino());
                    let names = if lost {
                        let was_known = self.dirs.contains_key(&below);
                        self.restore_dir(tree, dir, &name, sources)?;
                        loaded.push(below);
                        let listing = self.listing(&tree.stack, below)?;
                        let of_layers = listing.iter().map(|l| l.name.clone());
                        of_layers.map(|name| (below, name, !was_known)).collect::<Vec<_>>()
                    } else {
                        let names = self.changed_names_in(tree, dir, &name, sources, loaded)?;
                        names.into_iter().map(|name| (below, name, false)).collect()
                    };
                    self.reset(tree, below, source)?;
                    pending.extend(names);
                }
            }
        }
        Ok(())
    }

    /// Accounts for an object of the layers that has regained a name.
    fn regain_name(&mut self, tree: &Tree, source: LowerInode) -> Result<(), FsError> {
        if let Some(inode) = self.inodes.get(&source.to_ino()) {
            let mut body = inode.body.write();
            body.nlink = body.nlink.saturating_add(1);
        } else if tree.stack.attr(source)?.nlink > 1 {
            // It had lost all of its names.
            self.upper_inode_unlimited(tree, source.to_ino())?.body.write().nlink = 1;
        }
        Ok(())
    }

    /// Restores a removed directory of the layers to its original position.
    fn restore_dir(
        &mut self,
        tree: &Tree,
        parent: Ino,
        name: &[u8],
        sources: LowerDirs,
    ) -> Result<(), FsError> {
        let ino = sources[0].to_ino();
        let Some(dir) = self.dirs.get_mut(&ino) else {
            return self.cache_dir(&tree.stack, parent, name, ino, sources);
        };
        // It is still referenced, and may have been moved before its removal.
        let was_in = std::mem::replace(&mut dir.parent, parent);
        dir.name = name.into();
        dir.dirty = false;
        if let Some(inode) = self.inodes.get(&ino) {
            inode.body.write().nlink = 2;
        }
        if let Some(dir) = self.dirs.get_mut(&parent) {
            dir.children += 1;
        }
        if let Some(dir) = self.dirs.get_mut(&was_in) {
            dir.children -= 1;
        }
        self.mark_dirty(ino);
        self.drop_if_unused(&tree.space, was_in);
        Ok(())
    }

    /// Restores the attributes and content of an object of the layers. The link count does not
    /// change.
    fn reset(&mut self, tree: &Tree, ino: Ino, source: LowerInode) -> Result<(), FsError> {
        if let Some(inode) = self.inodes.get(&ino) {
            let mut fresh = UpperInode::copy_up(&tree.stack, source)?.body.into_inner();
            let mut body = inode.body.write();
            body.release(&tree.space);
            fresh.nlink = body.nlink;
            tree.space.charge_unlimited(fresh.cost());
            *body = fresh;
        }
        Ok(())
    }
}
