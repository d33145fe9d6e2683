//! The tree on the screen. Directories are listed when they are opened.
//!
//! Invariants:
//! - A directory is listed once, when it is first opened, so the whole root is never read at once.
//! - The rows are the entries whose parent directories are all open, in order. The root always has
//!   a row.

use std::collections::{HashMap, HashSet};

use crate::image::view::{LookError, ViewNode};

use super::gather::{InspectedStack, StackChanges, ancestors, names};

/// An entry of the tree.
#[derive(Debug)]
pub(crate) struct TreeEntry {
    pub(crate) node: ViewNode,
    /// Whether the entry is deleted: in the base, but not in the merged root.
    pub(crate) gone: bool,
    pub(crate) depth: usize,
    pub(crate) open: bool,
    parent: usize,
    /// `None` until the directory is listed.
    children: Option<Vec<usize>>,
}

/// Order of the entries of a directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Sort {
    #[default]
    Name,
    Size,
}

/// The tree.
#[derive(Debug)]
pub(crate) struct TreeView {
    entries: Vec<TreeEntry>,
    rows: Vec<usize>,
    cursor: usize,
    /// Whether the tree has only selected paths, all of which are listed already.
    fixed: bool,
}

impl TreeView {
    /// Creates a tree of the whole root, with only the root directory open.
    pub(crate) fn new(
        subject: &InspectedStack,
        changes: Option<&StackChanges>,
    ) -> Result<TreeView, LookError> {
        let mut tree = TreeView { entries: Vec::new(), rows: Vec::new(), cursor: 0, fixed: false };
        tree.entries.push(TreeEntry::new(subject.view.root()?, false, 0, 0));
        tree.list(0, subject, changes)?;
        tree.entries[0].open = true;
        tree.update_rows();
        Ok(tree)
    }

    /// Creates a tree of `paths`, given in tree order, and their parent directories, all open.
    pub(crate) fn from_paths<'a>(
        subject: &InspectedStack,
        changes: Option<&StackChanges>,
        paths: impl Iterator<Item = &'a Vec<u8>>,
    ) -> Result<TreeView, LookError> {
        let mut tree = TreeView { entries: Vec::new(), rows: Vec::new(), cursor: 0, fixed: true };
        tree.entries.push(TreeEntry::new(subject.view.root()?, false, 0, 0));
        let mut known: HashMap<Vec<u8>, usize> = HashMap::from([(Vec::new(), 0)]);
        for path in paths {
            let mut above = 0;
            for part in ancestors(path).into_iter().chain([path.clone()]) {
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
                tree.entries.push(TreeEntry::new(node, gone, depth, above));
                tree.entries[above].children.get_or_insert_default().push(index);
                tree.entries[above].open = true;
                known.insert(part, index);
                above = index;
            }
        }
        for entry in &mut tree.entries {
            entry.children.get_or_insert_default();
        }
        tree.update_rows();
        Ok(tree)
    }

    /// Returns the number of rows.
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Returns the entry in a row.
    pub(crate) fn row(&self, row: usize) -> Option<&TreeEntry> {
        self.rows.get(row).map(|&entry| &self.entries[entry])
    }

    /// Returns the row of the cursor.
    pub(crate) fn cursor(&self) -> usize {
        self.cursor
    }

    /// Returns the entry under the cursor.
    pub(crate) fn current(&self) -> &TreeEntry {
        &self.entries[self.rows.get(self.cursor).copied().unwrap_or(0)]
    }

    /// Moves the cursor to a row, or to the last one.
    pub(crate) fn go(&mut self, row: usize) {
        self.cursor = row.min(self.rows.len().saturating_sub(1));
    }

    /// Returns whether an entry can be opened.
    pub(crate) fn is_branch(&self, entry: &TreeEntry, changes: Option<&StackChanges>) -> bool {
        match self.fixed {
            true => entry.children.as_ref().is_some_and(|children| !children.is_empty()),
            false => entry.node.is_dir() || has_gone(changes, &entry.node.path),
        }
    }

    /// Opens the directory under the cursor. Returns `false` if it cannot be opened or is open.
    pub(crate) fn open(
        &mut self,
        subject: &InspectedStack,
        changes: Option<&StackChanges>,
    ) -> Result<bool, LookError> {
        let Some(&index) = self.rows.get(self.cursor) else { return Ok(false) };
        if self.entries[index].open || !self.is_branch(&self.entries[index], changes) {
            return Ok(false);
        }
        self.list(index, subject, changes)?;
        self.entries[index].open = true;
        self.update_rows();
        Ok(true)
    }

    /// Closes the directory under the cursor, or moves the cursor to the parent.
    pub(crate) fn close(&mut self) {
        let Some(&index) = self.rows.get(self.cursor) else { return };
        if self.entries[index].open {
            self.entries[index].open = false;
            self.update_rows();
            return;
        }
        let parent = self.entries[index].parent;
        if let Some(row) = self.rows.iter().position(|&row| row == parent) {
            self.cursor = row;
        }
    }

    /// Opens all parents of a path and moves the cursor to it. Returns `false` if it is not in the
    /// tree.
    pub(crate) fn reveal(
        &mut self,
        path: &[u8],
        subject: &InspectedStack,
        changes: Option<&StackChanges>,
    ) -> Result<bool, LookError> {
        let mut at = 0;
        for name in names(path).filter(|name| !name.is_empty()) {
            self.list(at, subject, changes)?;
            let children = self.entries[at].children.as_deref().unwrap_or_default();
            let found = children.iter().find(|&&child| self.entries[child].node.name() == name);
            let Some(&found) = found else {
                self.update_rows();
                return Ok(false);
            };
            self.entries[at].open = true;
            at = found;
        }
        self.update_rows();
        self.cursor = self.rows.iter().position(|&row| row == at).unwrap_or(0);
        Ok(true)
    }

    /// Sorts the entries of all directories.
    pub(crate) fn sort(&mut self, sort: Sort, size: &dyn Fn(&TreeEntry) -> u64) {
        let current = self.rows.get(self.cursor).copied();
        for index in 0..self.entries.len() {
            let Some(mut children) = self.entries[index].children.take() else { continue };
            self.order(&mut children, sort, size);
            self.entries[index].children = Some(children);
        }
        self.update_rows();
        self.cursor = self.rows.iter().position(|&row| Some(row) == current).unwrap_or(0);
    }

    fn order(&self, children: &mut [usize], sort: Sort, size: &dyn Fn(&TreeEntry) -> u64) {
        children.sort_by(|&a, &b| self.entries[a].node.name().cmp(self.entries[b].node.name()));
        if sort == Sort::Size {
            children.sort_by_key(|&child| std::cmp::Reverse(size(&self.entries[child])));
        }
    }

    /// Returns the open directories and the path of the cursor, for [`Self::restore`].
    pub(crate) fn save(&self) -> (HashSet<Vec<u8>>, Vec<u8>) {
        let open = self.entries.iter().filter(|entry| entry.open);
        (open.map(|entry| entry.node.path.clone()).collect(), self.current().node.path.clone())
    }

    /// Opens the saved directories and restores the cursor.
    pub(crate) fn restore(
        &mut self,
        (open, cursor): &(HashSet<Vec<u8>>, Vec<u8>),
        subject: &InspectedStack,
        changes: Option<&StackChanges>,
    ) -> Result<(), LookError> {
        // Children have higher indices than their parents, so this also visits the entries that it
        // lists.
        let mut index = 0;
        while index < self.entries.len() {
            if open.contains(&self.entries[index].node.path) {
                self.list(index, subject, changes)?;
                self.entries[index].open = true;
            }
            index += 1;
        }
        self.update_rows();
        let at = |&row: &usize| self.entries[row].node.path == *cursor;
        self.cursor = self.rows.iter().position(at).unwrap_or(0);
        Ok(())
    }

    /// Lists a directory including its deleted entries, unless it is listed already.
    fn list(
        &mut self,
        index: usize,
        subject: &InspectedStack,
        changes: Option<&StackChanges>,
    ) -> Result<(), LookError> {
        let entry = &self.entries[index];
        if entry.children.is_some() {
            return Ok(());
        }
        let (depth, gone) = (entry.depth + 1, entry.gone);
        let mut nodes: Vec<(ViewNode, bool)> = match gone {
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
            .extend(nodes.into_iter().map(|(node, gone)| TreeEntry::new(node, gone, depth, index)));
        self.entries[index].children = Some((first..self.entries.len()).collect());
        Ok(())
    }

    /// Updates the rows after directories were opened, closed or sorted.
    fn update_rows(&mut self) {
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

impl TreeEntry {
    fn new(node: ViewNode, gone: bool, depth: usize, parent: usize) -> TreeEntry {
        TreeEntry { node, gone, depth, open: false, parent, children: None }
    }
}

fn has_gone(changes: Option<&StackChanges>, path: &[u8]) -> bool {
    changes.is_some_and(|changes| changes.gone.contains_key(path))
}
