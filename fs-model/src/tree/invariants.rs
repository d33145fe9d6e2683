//! Consistency checks of a tree, for tests and fuzzing.

use hashbrown::HashMap;

use super::dir::{Covered, Dir, Slot};
use super::space::INODE_COST;
use super::{Ino, Tree, TreeState};
use crate::attr::FileType;
use crate::error::FsError;

impl Tree {
    /// Recomputes what the tree counts incrementally (memory charged, references between
    /// directories, subdirectories, link counts) and compares the results. For tests: it visits
    /// everything in memory.
    ///
    /// # Errors
    /// Returns a description of the first difference.
    pub fn check_invariants(&self) -> Result<(), String> {
        let _frozen = self.freeze();
        let mut state = self.state.lock();
        let layers = |e: FsError| format!("a layer cannot be read: {e}");
        state.check_memory(self)?;
        state.check_names()?;
        let counted: Vec<(Ino, u32)> =
            state.dirs.iter().filter_map(|(ino, dir)| Some((*ino, dir.subdirs?))).collect();
        for (ino, count) in counted {
            let listing = state.listing(&self.stack, ino).map_err(layers)?;
            let changes = &state.dir(&self.stack, ino).map_err(layers)?.changes;
            let below = listing.iter().filter(|l| changes.get(&l.name).is_none());
            let shown = changes.iter().filter_map(|i| i.slot.shown()).map(|t| t.kind);
            let kinds = below.map(|l| l.kind).chain(shown);
            let real = kinds.filter(|&kind| kind == FileType::Directory).count();
            if real != count as usize {
                return Err(format!("{ino:?} has {real} subdirectories, not {count}"));
            }
        }
        Ok(())
    }
}

impl TreeState {
    fn is_dead(&self, ino: Ino) -> bool {
        self.inodes.get(&ino).is_some_and(|inode| inode.body.read().nlink == 0)
    }

    fn check_memory(&self, tree: &Tree) -> Result<(), String> {
        let inodes: u64 = self.inodes.values().map(|inode| inode.body.read().charged()).sum();
        // The initial root of a tree without layers is not charged.
        let given = if tree.stack.layers().is_empty() { INODE_COST } else { 0 };
        let inodes = inodes - given;
        let names: u64 = self.dirs.values().map(|dir| dir.changes.cost()).sum();
        let used = tree.space.used();
        if inodes + names != used {
            return Err(format!(
                "{used} bytes are charged for {inodes} of inodes, {names} of names"
            ));
        }
        for &ino in self.inodes.keys() {
            let held = self.refs.contains_key(&ino)
                || self.has_former(ino)
                || self.dirs.get(&ino).is_some_and(|dir| dir.children > 0);
            if self.is_dead(ino) && !held {
                return Err(format!("{ino:?} was removed and has no references, but is in memory"));
            }
        }
        let mut children: HashMap<Ino, u32> = HashMap::new();
        for (ino, dir) in self.dirs.iter().filter(|(ino, _)| **ino != Ino::ROOT) {
            *children.entry(dir.parent).or_default() += 1;
            let parent = self.dirs.get(&dir.parent);
            let Some(parent) = parent else {
                return Err(format!("the parent of directory {ino:?} is not in memory"));
            };
            let idle = dir.children == 0 && !dir.dirty && dir.changes.is_empty();
            if idle && !self.refs.contains_key(ino) {
                return Err(format!("the unused directory {ino:?} is in memory"));
            }
            if self.is_dead(*ino) {
                continue;
            }
            if dir.dirty && !parent.dirty && !parent.is_made_for_scratch(dir, *ino) {
                return Err(format!("{ino:?} is dirty but its parent is not"));
            }
        }
        for (ino, dir) in &self.dirs {
            let real = children.get(ino).copied().unwrap_or(0);
            if real != dir.children {
                return Err(format!("{ino:?} has {real} children in memory, not {}", dir.children));
            }
        }
        Ok(())
    }

    fn check_names(&self) -> Result<(), String> {
        let mut names: HashMap<Ino, u32> = HashMap::new();
        for dir in self.dirs.values() {
            for item in dir.changes.iter() {
                match &item.slot {
                    Slot::Present(target) => *names.entry(target.ino).or_default() += 1,
                    Slot::Whiteout if !item.in_layers => {
                        return Err(format!(
                            "the removed name {:?} is kept, although no layer has it",
                            item.name
                        ));
                    }
                    Slot::Whiteout => {}
                    Slot::Scratch(scratch) => {
                        *names.entry(scratch.shown.ino).or_default() += 1;
                        if let Covered::Object(target) = scratch.covered {
                            *names.entry(target.ino).or_default() += 1;
                        }
                    }
                }
            }
        }
        for (ino, inode) in &self.inodes {
            let nlink = match (inode.body.read().nlink, inode.kind) {
                (2, FileType::Directory) => 1,
                (nlink, _) => nlink,
            };
            let real = names.get(ino).copied().unwrap_or(0);
            let made_here = inode.origin.is_none() && *ino != Ino::ROOT;
            if made_here && real != nlink {
                return Err(format!("{ino:?} has {real} names, not {nlink}"));
            }
            if inode.kind == FileType::Directory && !self.dirs.contains_key(ino) {
                return Err(format!("the directory {ino:?} is not in memory"));
            }
        }
        for (ino, dir) in self.dirs.iter().filter(|(ino, _)| **ino != Ino::ROOT) {
            let Some(parent) = self.dirs.get(&dir.parent) else { continue };
            if self.is_dead(*ino) {
                // Another object may have its name now.
                continue;
            }
            let there = match parent.changes.get(&dir.name).map(|i| &i.slot) {
                None => true,
                Some(Slot::Whiteout) => false,
                Some(Slot::Present(target)) => target.ino == *ino,
                Some(Slot::Scratch(scratch)) => {
                    scratch.shown.ino == *ino
                        || scratch.covered == Covered::Layers
                        || matches!(scratch.covered, Covered::Object(t) if t.ino == *ino)
                }
            };
            if !there {
                return Err(format!("{ino:?} is not in its parent {:?}", dir.parent));
            }
        }
        Ok(())
    }
}

impl Dir {
    /// Returns whether `child` is a scratch entry here, which is not a change.
    fn is_made_for_scratch(&self, child: &Dir, ino: Ino) -> bool {
        let slot = self.changes.get(&child.name).map(|i| &i.slot);
        matches!(slot, Some(Slot::Scratch(scratch)) if scratch.shown.ino == ino)
    }
}
