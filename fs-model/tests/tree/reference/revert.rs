//! Reverting paths in the model.

use super::*;

impl Model {
    fn lower_present(&self, dir: Id, name: &[u8]) -> Option<Id> {
        self.lower.get(dir)?.names.get(name)?.present
    }

    pub(super) fn present(&self, dir: Id, name: &[u8]) -> Option<Id> {
        self.objects[dir].names.get(name)?.present
    }

    fn was_dir(&self, id: Option<Id>) -> Option<Id> {
        id.filter(|&id| self.lower[id].is_dir())
    }

    /// Returns all present and former names of a directory.
    fn all_names(&self, dir: Id) -> BTreeSet<Vec<u8>> {
        let lower = self.lower.get(dir).into_iter().flat_map(|d| d.names.keys());
        self.objects[dir].names.keys().chain(lower).cloned().collect()
    }

    /// Reverts a name. Returns the objects with several names that the revert may have changed:
    /// whether they are reverted depends on the order of the changes.
    pub(crate) fn revert(&mut self, dir: Id, name: &[u8]) -> Result<BTreeSet<Id>, FsError> {
        Self::check_name(name)?;
        self.check_alive(dir)?;
        let mut strangers = Vec::new();
        let mut returning = Vec::new();
        let mut pending = vec![(dir, name.to_vec())];
        while let Some((dir, name)) = pending.pop() {
            let (is, was) = (self.present(dir, &name), self.lower_present(dir, &name));
            match (is, self.was_dir(was)) {
                (_, Some(below)) if is == was => {
                    pending.extend(self.all_names(below).into_iter().map(|n| (below, n)));
                }
                (_, Some(below)) => returning.push(below),
                _ => {}
            }
            if let Some(is) = is.filter(|_| is != was) {
                strangers.push((dir, name, is));
            }
        }
        let mut leaving = BTreeSet::new();
        let mut pending: Vec<Id> = strangers.iter().map(|(_, _, id)| *id).collect();
        while let Some(id) = pending.pop() {
            leaving.insert(id);
            for name in self.objects[id].names.values() {
                if name.scratch.is_some() {
                    return Err(FsError::Busy);
                }
                pending.extend(name.present);
            }
        }
        while let Some(id) = returning.pop() {
            if self.objects[id].alive && !leaving.contains(&id) {
                return Err(FsError::Busy);
            }
            let below = self.lower[id].names.values();
            returning.extend(below.filter_map(|n| self.was_dir(n.present)));
        }
        for (dir, name, id) in strangers {
            self.remove_whole(id);
            if let Some(name) = self.objects[dir].names.get_mut(&name) {
                name.present = None;
            }
        }
        let mut several = BTreeSet::new();
        self.show_layers(dir, name, &mut several);
        Ok(several)
    }

    fn remove_whole(&mut self, id: Id) {
        let below: Vec<Id> = self.objects[id].names.values().filter_map(|n| n.present).collect();
        below.into_iter().for_each(|id| self.remove_whole(id));
        self.drop_name(id);
    }

    fn show_layers(&mut self, dir: Id, name: &[u8], several: &mut BTreeSet<Id>) {
        let (is, was) = (self.present(dir, name), self.lower_present(dir, name));
        assert!(is.is_none() || is == was, "foreign objects were removed");
        let there = self.objects[dir].names.entry(name.to_vec()).or_default();
        there.present = was;
        if *there == Name::default() {
            self.objects[dir].names.remove(name);
        }
        let Some(was) = was else { return };
        self.former.remove(&was);
        let lower = self.lower[was].clone();
        let object = &mut self.objects[was];
        if lower.is_dir() {
            let names = std::mem::take(&mut object.names);
            *object = Object { names, parent: dir, alive: true, ..lower };
            for name in self.all_names(was) {
                self.show_layers(was, &name, several);
            }
        } else {
            let nlink = object.nlink + u32::from(is.is_none());
            if lower.nlink > 1 {
                several.insert(was);
            }
            *object = Object { nlink, ..lower };
        }
    }
}
