//! Taking changes back.
//!
//! Invariant: after a name was reverted, the delta says nothing of it, as if it had never been
//! touched, unless an object that it names was also changed through another name.

use super::dir::{Beneath, Slot, Target};
use super::inode::{Body, Inode};
use super::stack::Pristine;
use super::{Ino, State, Tree};
use crate::attr::{FileType, Time};
use crate::error::FsError;

impl Tree {
    /// Takes back what was done to `name` of `parent`: what the layers have there shows again, and
    /// what they do not have is gone. A directory of the layers is taken back with all that is in
    /// it. A scratch entry stays; what is beneath it is taken back.
    ///
    /// # Errors
    /// [`FsError::NotEmpty`] for a directory that the layers do not have (remove what is in it
    /// first); [`FsError::Busy`] when the directory that the layers have there lies elsewhere now.
    pub fn revert(&self, parent: Ino, name: &[u8]) -> Result<(), FsError> {
        let _gate = self.gate.read();
        self.check_writable()?;
        let mut state = self.state.lock();
        let mut pending = vec![(parent, Box::<[u8]>::from(name))];
        while let Some((dir, name)) = pending.pop() {
            let Some(below) = state.revert_name(self, dir, &name)? else { continue };
            let changes = &state.dir(&self.stack, below)?.changes;
            pending.extend(changes.iter().map(|i| (below, i.name.clone())));
            for listed in state.listing(&self.stack, below)?.iter() {
                let changed = state.inodes.contains_key(&listed.ino)
                    || state.dirs.get(&listed.ino).is_some_and(|d| d.touched);
                if changed {
                    pending.push((below, listed.name.clone()));
                }
            }
        }
        Ok(())
    }
}

impl State {
    /// Reverts one name; returns the directory of the layers that it names, whose own names are
    /// still to be reverted.
    fn revert_name(
        &mut self,
        tree: &Tree,
        parent: Ino,
        name: &[u8],
    ) -> Result<Option<Ino>, FsError> {
        let pristine = self.find_pristine(&tree.stack, parent, name)?;
        let slot = self.dir(&tree.stack, parent)?.changes.get(name).map(|i| i.slot.clone());
        // What is really at this name: a scratch entry only lies over it.
        let (here, scratch) = match &slot {
            Some(Slot::Present(target)) => (Some(*target), None),
            Some(Slot::Absent) => (None, None),
            Some(Slot::Scratch(s)) => match s.beneath {
                Beneath::Object(target) => (Some(target), Some(**s)),
                Beneath::Absent => (None, Some(**s)),
                Beneath::Layers => return Ok(None),
            },
            None => {
                let Some(pristine) = pristine else { return Ok(None) };
                return self.reset(tree, parent, name, pristine);
            }
        };
        if let Some(Target { ino, kind: FileType::Directory }) = here
            && !self.is_empty(&tree.stack, ino)?
        {
            return Err(FsError::NotEmpty);
        }
        if let Some(Pristine::Directory(sources)) = &pristine
            && let Some(dir) = self.dirs.get(&sources[0].to_ino())
            && (dir.parent != parent || *dir.name != *name)
        {
            return Err(FsError::Busy);
        }
        match scratch {
            Some(mut scratch) => {
                scratch.beneath = Beneath::Layers;
                self.put(tree, parent, name, Slot::Scratch(Box::new(scratch)))?;
            }
            None => self.unset(tree, parent, name)?,
        }
        if let Some(target) = here {
            self.drop_name(tree, target, Time::now())?;
        }
        let Some(pristine) = pristine else { return Ok(None) };
        if pristine.kind() == FileType::Directory {
            self.add_subdirs(parent, 1);
        }
        // Its name in the layers counts again.
        if let Some(inode) = self.inodes.get(&pristine.ino()) {
            let mut body = inode.body.write();
            body.nlink = match inode.kind {
                FileType::Directory => 2,
                _ => body.nlink.saturating_add(1),
            };
        }
        self.reset(tree, parent, name, pristine)
    }

    /// Makes an object of the layers what it was there; the number of its names stays.
    fn reset(
        &mut self,
        tree: &Tree,
        parent: Ino,
        name: &[u8],
        pristine: Pristine,
    ) -> Result<Option<Ino>, FsError> {
        let ino = pristine.ino();
        if let Some(inode) = self.inodes.get(&ino).cloned() {
            let source = match &pristine {
                Pristine::Object { source, .. } => *source,
                Pristine::Directory(sources) => sources[0],
            };
            let mut fresh: Body = Inode::copy_up(&tree.stack, source)?.body.into_inner();
            inode.release_data(&tree.space);
            tree.space.release(inode.cost());
            {
                let mut body = inode.body.write();
                fresh.nlink = body.nlink;
                *body = fresh;
            }
            tree.space.charge_always(inode.cost());
        }
        match pristine {
            Pristine::Directory(sources) => {
                self.know_dir(&tree.stack, parent, name, ino, sources)?;
                Ok(Some(ino))
            }
            Pristine::Object { .. } => Ok(None),
        }
    }
}
