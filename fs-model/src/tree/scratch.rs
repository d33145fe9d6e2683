//! Scratch entries: what a sandbox needs in the root but an overlay must not contain.
//!
//! Invariants:
//! - A scratch entry is in the view and out of every delta, with all that is below it.
//! - What was at its name stays beneath it, and is what the delta compares.
//! - Who removes or replaces a scratch entry from inside has done so to what is beneath it: the
//!   delta then has that change. Writing into one changes nothing but the view. A directory with
//!   something in it is not removed that way: [`FsError::Busy`], as a mount point answers.
//! - A scratch file that is moved stays one, and takes along what is beneath it: that is what would
//!   have been moved without it. A directory becomes an entry like any other at its new name.
//! - Laying one leaves no trace in its directory's times.
//!
//! A *passage* is a directory that had to be made so that scratch entries can lie in it. It is in
//! a delta when something else lies in it too, or when it was renamed or its attributes were set, and
//! not otherwise.

use super::dir::{Beneath, Scratch, Slot, Target};
use super::names::{NewNode, check_name};
use super::{Entry, Ino, State, Tree};
use crate::attr::{FileType, Time};
use crate::error::FsError;

impl Tree {
    /// Lays a scratch entry at `name`, over whatever is there. Another scratch entry is replaced.
    ///
    /// # Errors
    /// [`FsError::NotEmpty`] for a scratch directory with something in it.
    pub fn lay_scratch(
        &self,
        parent: Ino,
        name: &[u8],
        node: &NewNode<'_>,
    ) -> Result<Entry, FsError> {
        let _gate = self.gate.read();
        self.check_writable()?;
        self.state.lock().lay_scratch(self, parent, name, node)
    }

    /// Makes the directory `name`, on the way to scratch entries.
    ///
    /// # Errors
    /// [`FsError::Exists`] when there is something.
    pub fn make_passage(
        &self,
        parent: Ino,
        name: &[u8],
        node: &NewNode<'_>,
    ) -> Result<Entry, FsError> {
        let _gate = self.gate.read();
        self.check_writable()?;
        if node.kind != FileType::Directory {
            return Err(FsError::NotADirectory);
        }
        let mut state = self.state.lock();
        state.check_free(self, parent, name)?;
        let entry = state.make(self, parent, name, node, Slot::Present)?;
        state.passages.insert(entry.ino);
        state.recount(parent);
        Ok(entry)
    }
}

impl State {
    /// Makes the directory `ino` one of the image's own, if it is a passage.
    pub(super) fn keep_passage(&mut self, ino: Ino) {
        if self.passages.contains(&ino) {
            self.touch(ino);
            self.passages.remove(&ino);
        }
    }

    pub(super) fn lay_scratch(
        &mut self,
        tree: &Tree,
        parent: Ino,
        name: &[u8],
        node: &NewNode<'_>,
    ) -> Result<Entry, FsError> {
        check_name(name)?;
        self.check_alive(tree, parent)?;
        let before = self.dir(&tree.stack, parent)?.changes.get(name).map(|i| &i.slot);
        let (beneath, replaced) = match before {
            None => (Beneath::Layers, None),
            Some(Slot::Present(target)) => (Beneath::Object(*target), None),
            Some(Slot::Absent) => (Beneath::Absent, None),
            Some(Slot::Scratch(scratch)) => (scratch.beneath, Some(scratch.shown)),
        };
        if let Some(Target { ino, kind: FileType::Directory }) = replaced
            && !self.is_empty(&tree.stack, ino)?
        {
            return Err(FsError::NotEmpty);
        }
        let entry = self.make(tree, parent, name, node, |shown| {
            Slot::Scratch(Box::new(Scratch { shown, beneath }))
        })?;
        if let Some(replaced) = replaced {
            self.drop_name(tree, replaced, Time::now())?;
        }
        self.recount(parent);
        Ok(entry)
    }
}
