//! A directory listing in parts while names come and go: a name that exists throughout is returned
//! once, and no name is returned twice unless it was removed in between.

use std::collections::BTreeSet;

use fs_model::Ino;
use fs_model::tree::Tree;

use crate::reference::{Id, Model};

/// A returned entry: the name, the offset after it, and whether the name has existed since.
type Given = (Vec<u8>, u64, bool);

pub(crate) struct Listing {
    id: Id,
    ino: Ino,
    given: Vec<Given>,
    /// The names that existed throughout.
    always: BTreeSet<Vec<u8>>,
}

fn names(model: &Model, id: Id) -> BTreeSet<Vec<u8>> {
    let dir = &model.objects[id];
    let dots = [b".".to_vec(), b"..".to_vec()].into_iter();
    dots.chain(dir.shown().map(|(name, _)| name.clone())).collect()
}

impl Listing {
    pub(crate) fn new(id: Id, ino: Ino, model: &Model) -> Listing {
        Listing { id, ino, given: Vec::new(), always: names(model, id) }
    }

    pub(crate) fn is_of(&self, id: Id) -> bool {
        self.id == id
    }

    /// Updates the names that existed throughout. Called after each operation.
    pub(crate) fn notice(&mut self, model: &Model) {
        let now = names(model, self.id);
        self.always.retain(|name| now.contains(name));
        for (name, _, stayed) in &mut self.given {
            *stayed &= now.contains(name);
        }
    }

    /// Reads `count` more names. Starts again after the end.
    pub(crate) fn read(&mut self, tree: &Tree, model: &Model, count: usize) {
        let from = self.given.last().map_or(0, |(_, behind, _)| *behind);
        let mut more: Vec<Given> = Vec::new();
        tree.read_dir(self.ino, from, |item| {
            let room = more.len() < count;
            if room {
                more.push((item.name.to_vec(), item.next, true));
            }
            room
        })
        .unwrap();
        if more.is_empty() {
            for name in &self.always {
                let name_of = |(given, ..): &Given| given == name;
                assert!(self.given.iter().any(name_of), "{name:?} was not listed");
            }
            *self = Listing::new(self.id, self.ino, model);
            return;
        }
        for (name, behind, _) in more {
            let twice = self.given.iter().any(|(given, _, stayed)| *stayed && *given == name);
            assert!(!twice, "{name:?} was listed twice");
            self.given.push((name, behind, true));
        }
    }

    pub(crate) fn seek(&mut self, to: usize) {
        let keep = to % (self.given.len() + 1);
        self.given.truncate(keep);
    }
}
