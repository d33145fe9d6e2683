//! Taking changes back.
//!
//! Invariants:
//! - After a name was reverted, the delta says nothing of it, as if it had never been touched,
//!   unless an object that it names was also changed through another name.
//! - Scratch entries stay; what is beneath them is taken back.
//! - What can be refused is refused before anything is changed.

use hashbrown::HashSet;

use super::dir::{Beneath, Slot, Target};
use super::inode::Inode;
use super::names::check_name;
use super::{Ino, State, Tree};
use crate::attr::{FileType, Time};
use crate::error::FsError;
use crate::stack::{Pristine, Source, Sources};

type Name = Box<[u8]>;

/// A name at which something was taken back: who keeps copies of what was there has to forget them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reverted {
    /// The directory.
    pub parent: Ino,
    /// The name in it.
    pub name: Box<[u8]>,
    /// What the layers have there, if they have anything: its attributes and its content are
    /// theirs again.
    pub ino: Option<Ino>,
}

impl Tree {
    /// Takes back what was done to `name` of `parent`: what the layers have there shows again, and
    /// what they do not have is gone, with all that is in it. A directory of the layers is taken
    /// back with all that is in it. A scratch entry stays; what is beneath it is taken back.
    ///
    /// Gives every name at which something may look different now; what was below a name that is
    /// gone is not among them.
    ///
    /// # Errors
    /// [`FsError::Busy`] when a directory that the layers have there, or below, lies elsewhere now,
    /// or when a scratch entry lies in something that would have to go.
    pub fn revert(&self, parent: Ino, name: &[u8]) -> Result<Vec<Reverted>, FsError> {
        let _gate = self.gate.read();
        self.check_writable()?;
        let mut state = self.state.lock();
        check_name(name)?;
        state.check_alive(self, parent)?;
        let mut taken_up = Vec::new();
        let done = state.revert(self, parent, name, &mut taken_up);
        for dir in taken_up.into_iter().rev() {
            state.drop_if_unused(&self.space, dir);
        }
        done
    }
}

/// What a name truly is, scratch entries aside, and what it was.
struct Found {
    pristine: Option<Pristine>,
    /// What is there now.
    truth: Option<Target>,
    slot: Option<Slot>,
}

impl Found {
    /// What is there, if that is not what the layers have there.
    fn stranger(&self) -> Option<Target> {
        self.truth.filter(|t| self.pristine.as_ref().is_none_or(|p| p.ino() != t.ino))
    }

    /// Whether the layers' own object is not at this name.
    fn lost(&self) -> bool {
        let pristine = self.pristine.as_ref().map(Pristine::ino);
        pristine.is_some() && pristine != self.truth.map(|t| t.ino)
    }
}

impl State {
    /// Reverts `name` of `parent`. Directories that had to be in memory for this are in `taken_up`.
    fn revert(
        &mut self,
        tree: &Tree,
        parent: Ino,
        name: &[u8],
        taken_up: &mut Vec<Ino>,
    ) -> Result<Vec<Reverted>, FsError> {
        let mut reverted = Vec::new();
        for (dir, name, target) in self.plan_revert(tree, parent, name, taken_up)? {
            reverted.push(Reverted { parent: dir, name: name.clone(), ino: None });
            self.remove_whole(tree, dir, name, target)?;
        }
        self.show_layers(tree, parent, name, taken_up, &mut reverted)?;
        Ok(reverted)
    }

    fn found(&self, tree: &Tree, dir: Ino, name: &[u8]) -> Result<Found, FsError> {
        let pristine = self.find_pristine(&tree.stack, dir, name)?;
        let slot = self.dir(&tree.stack, dir)?.changes.get(name).map(|i| i.slot.clone());
        let of_layers = || pristine.as_ref().map(|p| Target { ino: p.ino(), kind: p.kind() });
        let truth = match &slot {
            None => of_layers(),
            Some(Slot::Present(target)) => Some(*target),
            Some(Slot::Absent) => None,
            Some(Slot::Scratch(scratch)) => match scratch.beneath {
                Beneath::Layers => of_layers(),
                Beneath::Object(target) => Some(target),
                Beneath::Absent => None,
            },
        };
        Ok(Found { pristine, truth, slot })
    }

    /// The names of the layers' directory at `name` of `parent` at which something may have
    /// changed. The directory is in memory then, if there are any.
    fn changed_names_in(
        &mut self,
        tree: &Tree,
        parent: Ino,
        name: &[u8],
        sources: Sources,
        taken_up: &mut Vec<Ino>,
    ) -> Result<Vec<Name>, FsError> {
        let dir = sources[0].to_ino();
        if !self.dirs.contains_key(&dir) {
            if !self.unplaced {
                return Ok(Vec::new());
            }
            self.know_dir(&tree.stack, parent, name, dir, sources)?;
            taken_up.push(dir);
        }
        let listing = self.listing(&tree.stack, dir)?;
        let changes = &self.dir(&tree.stack, dir)?.changes;
        let mut names: Vec<Name> = changes.iter().map(|i| i.name.clone()).collect();
        let untold = listing.iter().filter(|l| {
            let may_have_changed = || {
                self.inodes.contains_key(&l.ino)
                    || self.dirs.get(&l.ino).is_some_and(|d| d.touched)
                    || self.unplaced && l.kind == FileType::Directory
            };
            changes.get(&l.name).is_none() && may_have_changed()
        });
        names.extend(untold.map(|l| l.name.clone()));
        Ok(names)
    }

    /// What has to go for `name` of `parent` to be as the layers have it. Refuses what cannot be.
    fn plan_revert(
        &mut self,
        tree: &Tree,
        parent: Ino,
        name: &[u8],
        taken_up: &mut Vec<Ino>,
    ) -> Result<Vec<(Ino, Name, Target)>, FsError> {
        let mut strangers = Vec::new();
        let mut returning: Vec<Sources> = Vec::new();
        let mut pending = vec![(parent, Name::from(name))];
        while let Some((dir, name)) = pending.pop() {
            let found = self.found(tree, dir, &name)?;
            if let Some(stranger) = found.stranger() {
                strangers.push((dir, name.clone(), stranger));
            }
            let lost = found.lost();
            match found.pristine {
                Some(Pristine::Directory(sources)) if lost => returning.push(sources),
                Some(Pristine::Directory(sources)) => {
                    let below = sources[0].to_ino();
                    let names = self.changed_names_in(tree, dir, &name, sources, taken_up)?;
                    pending.extend(names.into_iter().map(|name| (below, name)));
                }
                Some(Pristine::Object { .. }) | None => {}
            }
        }
        let leaving = self.directories_in(tree, &strangers)?;
        while let Some(sources) = returning.pop() {
            let ino = sources[0].to_ino();
            let dead = self.inodes.get(&ino).is_some_and(|i| i.body.read().nlink == 0);
            if self.dirs.contains_key(&ino) && !dead && !leaving.contains(&ino) {
                return Err(FsError::Busy);
            }
            for listed in tree.stack.list(&sources)? {
                if listed.kind == FileType::Directory
                    && let Some(Pristine::Directory(below)) =
                        tree.stack.lookup(&sources, &listed.name)?
                {
                    returning.push(below);
                }
            }
        }
        Ok(strangers)
    }

    /// The directories in memory that go when `strangers` go.
    fn directories_in(
        &mut self,
        tree: &Tree,
        strangers: &[(Ino, Name, Target)],
    ) -> Result<HashSet<Ino>, FsError> {
        let mut all = HashSet::new();
        let is_dir = |t: &Target| t.kind == FileType::Directory;
        let mut pending: Vec<Ino> =
            strangers.iter().map(|(_, _, t)| *t).filter(is_dir).map(|t| t.ino).collect();
        while let Some(dir) = pending.pop() {
            all.insert(dir);
            let listing = self.listing(&tree.stack, dir)?;
            let changes = &self.dir(&tree.stack, dir)?.changes;
            for item in changes.iter() {
                match &item.slot {
                    Slot::Scratch(_) => return Err(FsError::Busy),
                    Slot::Present(target) if is_dir(target) => pending.push(target.ino),
                    Slot::Present(_) | Slot::Absent => {}
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

    /// Removes what `name` of `dir` truly is, with all that is in it.
    fn remove_whole(
        &mut self,
        tree: &Tree,
        dir: Ino,
        name: Name,
        target: Target,
    ) -> Result<(), FsError> {
        let now = Time::now();
        let mut pending = vec![(dir, name, target, false)];
        while let Some((dir, name, target, emptied)) = pending.pop() {
            if target.kind == FileType::Directory && !emptied {
                pending.push((dir, name, target, true));
                let listing = self.listing(&tree.stack, target.ino)?;
                let changes = &self.dir(&tree.stack, target.ino)?.changes;
                let mut names: Vec<Name> = changes.iter().map(|i| i.name.clone()).collect();
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
                    scratch.beneath = Beneath::Absent;
                    self.put(tree, dir, &name, Slot::Scratch(scratch))?;
                }
                _ => self.lose_name(tree, dir, &name)?,
            }
            self.recount(dir);
            self.drop_name(tree, target, now)?;
        }
        Ok(())
    }

    /// Lets `name` of `parent`, at which there is nothing that the layers do not have there, be as
    /// the layers have it, with all that is below.
    fn show_layers(
        &mut self,
        tree: &Tree,
        parent: Ino,
        name: &[u8],
        taken_up: &mut Vec<Ino>,
        reverted: &mut Vec<Reverted>,
    ) -> Result<(), FsError> {
        // With each name, whether it lies in a directory that was removed and forgotten, so that
        // none of what the layers have in it had a name there.
        let mut pending = vec![(parent, Name::from(name), false)];
        while let Some((dir, name, forgotten)) = pending.pop() {
            let found = self.found(tree, dir, &name)?;
            let lost = found.lost() || forgotten && found.slot.is_none();
            match found.slot {
                Some(Slot::Scratch(mut scratch)) => {
                    scratch.beneath = Beneath::Layers;
                    self.put(tree, dir, &name, Slot::Scratch(scratch))?;
                }
                Some(_) => self.unset(tree, dir, &name)?,
                None => {}
            }
            self.recount(dir);
            let ino = found.pristine.as_ref().map(Pristine::ino);
            reverted.push(Reverted { parent: dir, name: name.clone(), ino });
            match found.pristine {
                None => {}
                Some(Pristine::Object { source, .. }) => {
                    if lost {
                        self.name_again(tree, source)?;
                    }
                    self.reset(tree, source.to_ino(), source)?;
                }
                Some(Pristine::Directory(sources)) => {
                    let (source, below) = (sources[0], sources[0].to_ino());
                    let names = if lost {
                        let was_known = self.dirs.contains_key(&below);
                        self.settle_again(tree, dir, &name, sources)?;
                        taken_up.push(below);
                        let listing = self.listing(&tree.stack, below)?;
                        let of_layers = listing.iter().map(|l| l.name.clone());
                        of_layers.map(|name| (below, name, !was_known)).collect::<Vec<_>>()
                    } else {
                        let names = self.changed_names_in(tree, dir, &name, sources, taken_up)?;
                        names.into_iter().map(|name| (below, name, false)).collect()
                    };
                    self.reset(tree, below, source)?;
                    pending.extend(names);
                }
            }
        }
        Ok(())
    }

    /// An object of the layers has a name again that it had lost.
    fn name_again(&mut self, tree: &Tree, source: Source) -> Result<(), FsError> {
        if let Some(inode) = self.inodes.get(&source.to_ino()) {
            let mut body = inode.body.write();
            body.nlink = body.nlink.saturating_add(1);
        } else if tree.stack.attr(source)?.nlink > 1 {
            // It had lost all of them.
            self.upper_always(tree, source.to_ino())?.body.write().nlink = 1;
        }
        Ok(())
    }

    /// A directory of the layers that was removed is at its place again.
    fn settle_again(
        &mut self,
        tree: &Tree,
        parent: Ino,
        name: &[u8],
        sources: Sources,
    ) -> Result<(), FsError> {
        let ino = sources[0].to_ino();
        let Some(dir) = self.dirs.get_mut(&ino) else {
            return self.know_dir(&tree.stack, parent, name, ino, sources);
        };
        // Somebody still holds it. It may have been moved before it was removed.
        let was_in = std::mem::replace(&mut dir.parent, parent);
        dir.name = name.into();
        dir.touched = false;
        if let Some(inode) = self.inodes.get(&ino) {
            inode.body.write().nlink = 2;
        }
        if let Some(dir) = self.dirs.get_mut(&parent) {
            dir.children += 1;
        }
        if let Some(dir) = self.dirs.get_mut(&was_in) {
            dir.children -= 1;
        }
        self.touch(ino);
        self.drop_if_unused(&tree.space, was_in);
        Ok(())
    }

    /// Makes an object of the layers what it was there; the number of its names stays.
    fn reset(&mut self, tree: &Tree, ino: Ino, source: Source) -> Result<(), FsError> {
        if let Some(inode) = self.inodes.get(&ino) {
            let mut fresh = Inode::copy_up(&tree.stack, source)?.body.into_inner();
            let mut body = inode.body.write();
            body.release(&tree.space);
            fresh.nlink = body.nlink;
            tree.space.charge_always(fresh.cost());
            *body = fresh;
        }
        Ok(())
    }
}
