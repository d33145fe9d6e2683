//! The tree on the screen: directories that are listed when they are opened, and the rows that can
//! be seen of them.
//!
//! Invariants:
//! - A directory is listed once, when it is opened for the first time: the whole root is never.
//! - Rows are the entries whose directories are all open, in order. There is at least the root's.

use std::collections::{HashMap, HashSet};

use crate::look::{LookError, Node};

use super::gather::{Changes, Subject, names, way};

/// A name in the tree.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) node: Node,
    /// The base has it, the root has not.
    pub(super) gone: bool,
    pub(super) depth: usize,
    pub(super) open: bool,
    parent: usize,
    /// None: not listed yet.
    children: Option<Vec<usize>>,
}

/// In which order a directory's entries are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Sort {
    #[default]
    Name,
    Size,
}

/// The tree.
#[derive(Debug)]
pub(super) struct Tree {
    entries: Vec<Entry>,
    rows: Vec<usize>,
    cursor: usize,
    /// Only some paths, all listed from the beginning.
    fixed: bool,
}

impl Tree {
    /// All of the root, with only the first level open.
    pub(super) fn new(subject: &Subject, changes: Option<&Changes>) -> Result<Tree, LookError> {
        let mut tree = Tree { entries: Vec::new(), rows: Vec::new(), cursor: 0, fixed: false };
        tree.entries.push(Entry::new(subject.view.root()?, false, 0, 0));
        tree.list(0, subject, changes)?;
        tree.entries[0].open = true;
        tree.show();
        Ok(tree)
    }

    /// Only these paths, which are in the order of a walk, and what they are in; all open.
    pub(super) fn only<'a>(
        subject: &Subject,
        changes: Option<&Changes>,
        paths: impl Iterator<Item = &'a Vec<u8>>,
    ) -> Result<Tree, LookError> {
        let mut tree = Tree { entries: Vec::new(), rows: Vec::new(), cursor: 0, fixed: true };
        tree.entries.push(Entry::new(subject.view.root()?, false, 0, 0));
        let mut known: HashMap<Vec<u8>, usize> = HashMap::from([(Vec::new(), 0)]);
        for path in paths {
            let mut above = 0;
            for part in way(path).into_iter().chain([path.clone()]) {
                if let Some(&entry) = known.get(&part) {
                    above = entry;
                    continue;
                }
                let change = changes.and_then(|changes| changes.by_path.get(&part));
                let gone = change.is_some_and(|change| change.new.is_none());
                let node = match change.and_then(|change| change.node()) {
                    Some(node) => Some(node.clone()),
                    None => subject.find(&part, false),
                };
                let Some(node) = node else { break };
                let depth = tree.entries[above].depth + 1;
                let index = tree.entries.len();
                tree.entries.push(Entry::new(node, gone, depth, above));
                tree.entries[above].children.get_or_insert_default().push(index);
                tree.entries[above].open = true;
                known.insert(part, index);
                above = index;
            }
        }
        for entry in &mut tree.entries {
            entry.children.get_or_insert_default();
        }
        tree.show();
        Ok(tree)
    }

    /// How many rows there are.
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// The entry in a row.
    pub(super) fn row(&self, row: usize) -> Option<&Entry> {
        self.rows.get(row).map(|&entry| &self.entries[entry])
    }

    /// The row of the cursor.
    pub(super) fn cursor(&self) -> usize {
        self.cursor
    }

    /// The entry under the cursor.
    pub(super) fn current(&self) -> &Entry {
        &self.entries[self.rows.get(self.cursor).copied().unwrap_or(0)]
    }

    /// Moves the cursor to a row, or as near as there is one.
    pub(super) fn go(&mut self, row: usize) {
        self.cursor = row.min(self.rows.len().saturating_sub(1));
    }

    /// Whether something can be in an entry.
    pub(super) fn is_branch(&self, entry: &Entry, changes: Option<&Changes>) -> bool {
        match self.fixed {
            true => entry.children.as_ref().is_some_and(|children| !children.is_empty()),
            false => entry.node.is_dir() || has_gone(changes, &entry.node.path),
        }
    }

    /// Opens the directory under the cursor; `false` if it is none, or open.
    pub(super) fn open(
        &mut self,
        subject: &Subject,
        changes: Option<&Changes>,
    ) -> Result<bool, LookError> {
        let Some(&index) = self.rows.get(self.cursor) else { return Ok(false) };
        if self.entries[index].open || !self.is_branch(&self.entries[index], changes) {
            return Ok(false);
        }
        self.list(index, subject, changes)?;
        self.entries[index].open = true;
        self.show();
        Ok(true)
    }

    /// Closes the directory under the cursor, or else goes to the one that it is in.
    pub(super) fn close(&mut self) {
        let Some(&index) = self.rows.get(self.cursor) else { return };
        if self.entries[index].open {
            self.entries[index].open = false;
            self.show();
            return;
        }
        let parent = self.entries[index].parent;
        if let Some(row) = self.rows.iter().position(|&row| row == parent) {
            self.cursor = row;
        }
    }

    /// Opens all that a path is in, and goes there; `false` if it is not in the tree.
    pub(super) fn reveal(
        &mut self,
        path: &[u8],
        subject: &Subject,
        changes: Option<&Changes>,
    ) -> Result<bool, LookError> {
        let mut at = 0;
        for name in names(path).filter(|name| !name.is_empty()) {
            self.list(at, subject, changes)?;
            let children = self.entries[at].children.as_deref().unwrap_or_default();
            let found = children.iter().find(|&&child| self.entries[child].node.name() == name);
            let Some(&found) = found else {
                self.show();
                return Ok(false);
            };
            self.entries[at].open = true;
            at = found;
        }
        self.show();
        self.cursor = self.rows.iter().position(|&row| row == at).unwrap_or(0);
        Ok(true)
    }

    /// Puts each directory's entries in order.
    pub(super) fn sort(&mut self, sort: Sort, size: &dyn Fn(&Entry) -> u64) {
        let current = self.rows.get(self.cursor).copied();
        for index in 0..self.entries.len() {
            let Some(mut children) = self.entries[index].children.take() else { continue };
            self.order(&mut children, sort, size);
            self.entries[index].children = Some(children);
        }
        self.show();
        self.cursor = self.rows.iter().position(|&row| Some(row) == current).unwrap_or(0);
    }

    fn order(&self, children: &mut [usize], sort: Sort, size: &dyn Fn(&Entry) -> u64) {
        children.sort_by(|&a, &b| self.entries[a].node.name().cmp(self.entries[b].node.name()));
        if sort == Sort::Size {
            children.sort_by_key(|&child| std::cmp::Reverse(size(&self.entries[child])));
        }
    }

    /// The open directories and the cursor's path, to make the same of another tree.
    pub(super) fn place(&self) -> (HashSet<Vec<u8>>, Vec<u8>) {
        let open = self.entries.iter().filter(|entry| entry.open);
        (open.map(|entry| entry.node.path.clone()).collect(), self.current().node.path.clone())
    }

    /// Opens directories again, and goes where the cursor was.
    pub(super) fn restore(
        &mut self,
        (open, cursor): &(HashSet<Vec<u8>>, Vec<u8>),
        subject: &Subject,
        changes: Option<&Changes>,
    ) -> Result<(), LookError> {
        // Entries come after what they are in, so that this meets all that it lists.
        let mut index = 0;
        while index < self.entries.len() {
            if open.contains(&self.entries[index].node.path) {
                self.list(index, subject, changes)?;
                self.entries[index].open = true;
            }
            index += 1;
        }
        self.show();
        let at = |&row: &usize| self.entries[row].node.path == *cursor;
        self.cursor = self.rows.iter().position(at).unwrap_or(0);
        Ok(())
    }

    /// Lists a directory, with what is deleted there, if that was not done yet.
    fn list(
        &mut self,
        index: usize,
        subject: &Subject,
        changes: Option<&Changes>,
    ) -> Result<(), LookError> {
        let entry = &self.entries[index];
        if entry.children.is_some() {
            return Ok(());
        }
        let (depth, gone) = (entry.depth + 1, entry.gone);
        let mut nodes: Vec<(Node, bool)> = match gone {
            true => Vec::new(),
            false => {
                subject.view.children(&entry.node)?.into_iter().map(|node| (node, false)).collect()
            }
        };
        if let Some(gone) = changes.and_then(|changes| changes.gone.get(&entry.node.path)) {
            nodes.extend(gone.iter().map(|node| (node.clone(), true)));
            nodes.sort_by(|(a, _), (b, _)| a.name().cmp(b.name()));
        }
        let first = self.entries.len();
        self.entries
            .extend(nodes.into_iter().map(|(node, gone)| Entry::new(node, gone, depth, index)));
        self.entries[index].children = Some((first..self.entries.len()).collect());
        Ok(())
    }

    fn show(&mut self) {
        let mut rows = Vec::new();
        let mut pending = vec![0];
        while let Some(index) = pending.pop() {
            rows.push(index);
            let entry = &self.entries[index];
            if entry.open
                && let Some(children) = &entry.children
            {
                pending.extend(children.iter().rev());
            }
        }
        self.rows = rows;
        self.cursor = self.cursor.min(self.rows.len() - 1);
    }
}

impl Entry {
    fn new(node: Node, gone: bool, depth: usize, parent: usize) -> Entry {
        Entry { node, gone, depth, open: false, parent, children: None }
    }
}

fn has_gone(changes: Option<&Changes>, path: &[u8]) -> bool {
    changes.is_some_and(|changes| changes.gone.contains_key(path))
}
