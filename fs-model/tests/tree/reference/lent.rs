//! Lent files in the model.

use super::*;

impl Model {
    /// Returns the position of an unchanged lent file, and the object that it covers.
    pub(super) fn loan(&self, id: Id) -> Option<(Id, Vec<u8>, Option<Id>)> {
        self.lent.get(&id)?.iter().find_map(|(dir, name)| {
            let there = self.objects[*dir].names.get(name).filter(|n| n.scratch == Some(id))?;
            Some((*dir, name.clone(), there.present))
        })
    }

    /// Returns the object that a reference to `id` refers to.
    pub(crate) fn current(&self, id: Id) -> Id {
        self.former.get(&id).copied().unwrap_or(id)
    }

    pub(crate) fn loans(&self) -> Vec<(Id, Id, Vec<u8>)> {
        let loan = |&id: &Id| self.loan(id).map(|(dir, name, _)| (id, dir, name));
        self.lent.keys().filter_map(loan).collect()
    }

    /// Fails if the covered file has other names or is a symbolic link.
    pub(super) fn check_take_over(&self, id: Id) -> Result<(), FsError> {
        let Some((_, _, Some(covered))) = self.loan(id) else { return Ok(()) };
        let covered = &self.objects[covered];
        if covered.nlink > 1 || covered.kind != FileType::Regular {
            return Err(FsError::Busy);
        }
        Ok(())
    }

    /// Turns a lent file into the image's own.
    pub(crate) fn take_over(&mut self, id: Id, keep_lent: bool) {
        let Some((dir, name, covered)) = self.loan(id) else { return };
        let positions = self.lent.remove(&id).unwrap_or_default();
        let before = self.objects[id].clone();
        self.objects[id] = match covered {
            Some(covered) => Object { parent: dir, ..self.objects[covered].clone() },
            None => {
                let node = MknodArgs::file(before.mode, before.uid, before.gid);
                new_object(&node, dir)
            }
        };
        self.objects[id].nlink = before.nlink;
        if keep_lent {
            self.objects[id].content = before.content;
        }
        self.objects[dir].names.insert(name, Name { present: Some(id), scratch: None });
        for (dir, name) in positions {
            let there = self.objects[dir].names.get_mut(&name).filter(|n| n.scratch == Some(id));
            if let Some(there) = there {
                *there = Name { present: Some(id), scratch: None };
                self.objects[dir].mtime = None;
            }
        }
        match covered {
            Some(covered) => {
                self.former.values_mut().filter(|id| **id == covered).for_each(|at| *at = id);
                self.former.insert(covered, id);
                self.drop_name(covered);
            }
            None => self.objects[dir].mtime = None,
        }
    }

    pub(crate) fn lend(
        &mut self,
        dir: Id,
        name: &[u8],
        mode: u16,
        content: &[u8],
    ) -> Result<Id, FsError> {
        Self::check_name(name)?;
        self.check_dir(dir)?;
        if self.objects[dir].names.get(name).is_some_and(|n| n.scratch.is_some()) {
            return Err(FsError::Busy);
        }
        if let Some(present) = self.present(dir, name)
            && !matches!(self.objects[present].kind, FileType::Regular | FileType::Symlink)
        {
            return Err(FsError::Busy);
        }
        let (node, mtime) = match self.present(dir, name).map(|present| &self.objects[present]) {
            Some(own) if own.kind == FileType::Regular => {
                (MknodArgs::file(own.mode | mode & 0o111, own.uid, own.gid), own.mtime)
            }
            _ => (MknodArgs::file(mode, 0, 0), Some(Time::default())),
        };
        let id = self.add_scratch(dir, name, &node)?;
        self.objects[id].content = content.to_vec();
        self.objects[id].mtime = mtime;
        self.lent.insert(id, vec![(dir, name.to_vec())]);
        Ok(id)
    }

    /// Ends a loan. Returns whether the lent file was still there.
    pub(crate) fn end_loan(&mut self, dir: Id, name: &[u8], id: Id) -> bool {
        if let Some(positions) = self.lent.get_mut(&id) {
            positions.retain(|position| *position != (dir, name.to_vec()));
        }
        let there = self.objects[dir].names.get_mut(name).filter(|n| n.scratch == Some(id));
        let Some(there) = there else { return false };
        there.scratch = None;
        if *there == Name::default() {
            self.objects[dir].names.remove(name);
        }
        self.drop_name(id);
        true
    }
}
