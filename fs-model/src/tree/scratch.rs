//! Scratch entries: files that a sandbox needs in the root but that an overlay must not contain.
//!
//! Invariants:
//! - A scratch entry is visible in the tree, but neither it nor anything below it is in a delta.
//! - The object that was at its name is kept as *covered*, and is used for the delta.
//! - Removing or replacing a scratch entry from inside applies to the covered object too, and is in
//!   the delta. Writing into a scratch file changes only the scratch file. If the covered object is
//!   a directory with entries, the scratch entry cannot be removed: [`FsError::Busy`], as for a
//!   mount point.
//! - A scratch file that is moved stays a scratch entry and takes along the object that it covers,
//!   which would have been moved without it. A scratch directory becomes an ordinary entry at its
//!   new name.
//! - Adding one does not change the times of its directory.
//!
//! A *scratch parent* is a directory that was created to hold scratch entries. It is in a delta
//! only if it also contains something else, was renamed, or had its attributes set.

use super::dir::{Covered, EntryTarget, Scratch, Slot};
use super::namespace::{MknodArgs, check_name};
use super::{Entry, Ino, Tree, TreeState};
use crate::attr::{FileType, Time};
use crate::error::FsError;

impl Tree {
    /// Adds a scratch entry at `name`, over any present entry. Replaces another scratch entry.
    ///
    /// # Errors
    /// [`FsError::NotEmpty`] if it would replace a scratch directory with entries, and those of
    /// [`Tree::mknod`] except [`FsError::Exists`].
    pub fn add_scratch(
        &self,
        parent: Ino,
        name: &[u8],
        node: &MknodArgs<'_>,
    ) -> Result<Entry, FsError> {
        let _gate = self.gate.read();
        self.check_writable()?;
        self.state.lock().add_scratch(self, parent, name, node)
    }

    /// Creates the directory `name` to hold scratch entries.
    ///
    /// # Errors
    /// [`FsError::NotADirectory`] if `node` is not a directory, and those of [`Tree::mknod`].
    pub fn add_scratch_parent(
        &self,
        parent: Ino,
        name: &[u8],
        node: &MknodArgs<'_>,
    ) -> Result<Entry, FsError> {
        let _gate = self.gate.read();
        self.check_writable()?;
        if node.kind != FileType::Directory {
            return Err(FsError::NotADirectory);
        }
        let mut state = self.state.lock();
        state.check_free(self, parent, name)?;
        let entry = state.mknod(self, parent, name, node, Slot::Present)?;
        state.scratch_parents.insert(entry.ino);
        state.invalidate_subdir_count(parent);
        Ok(entry)
    }
}

impl TreeState {
    /// Makes the directory `ino` the image's own if it is a scratch parent.
    pub(super) fn keep_scratch_parent(&mut self, ino: Ino) {
        if self.scratch_parents.contains(&ino) {
            self.mark_dirty(ino);
            self.scratch_parents.remove(&ino);
        }
    }

    pub(super) fn add_scratch(
        &mut self,
        tree: &Tree,
        parent: Ino,
        name: &[u8],
        node: &MknodArgs<'_>,
    ) -> Result<Entry, FsError> {
        check_name(name)?;
        self.check_not_removed(tree, parent)?;
        let before = self.dir(&tree.stack, parent)?.changes.get(name).map(|i| &i.slot);
        let (covered, replaced) = match before {
            None => (Covered::Layers, None),
            Some(Slot::Present(target)) => (Covered::Object(*target), None),
            Some(Slot::Whiteout) => (Covered::Nothing, None),
            Some(Slot::Scratch(scratch)) => (scratch.covered, Some(scratch.shown)),
        };
        if let Some(EntryTarget { ino, kind: FileType::Directory }) = replaced
            && !self.is_empty(&tree.stack, ino)?
        {
            return Err(FsError::NotEmpty);
        }
        let entry = self.mknod(tree, parent, name, node, |shown| {
            Slot::Scratch(Box::new(Scratch { shown, covered }))
        })?;
        if let Some(replaced) = replaced {
            self.drop_link(tree, replaced, Time::now())?;
        }
        self.invalidate_subdir_count(parent);
        Ok(entry)
    }
}
