//! Taking objects out of a view: into a folder ([`folder`]), or into an archive ([`archive`]).
//!
//! What is taken keeps its path from the root; the directories on the way come with it.

pub mod archive;
pub mod folder;
mod settle;

use crate::look::{Node, components};

/// What of a view is taken: everything, or what is at some paths and below them.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    paths: Vec<Vec<Vec<u8>>>,
}

impl Selection {
    /// What is at `nodes` and below them; everything when there are none.
    pub fn new<'a>(nodes: impl IntoIterator<Item = &'a Node>) -> Selection {
        Selection { paths: nodes.into_iter().map(|node| names(&node.path)).collect() }
    }

    /// Whether the object at `path` is taken, or on the way to one that is.
    fn has(&self, path: &[u8]) -> bool {
        let path = names(path);
        self.paths.is_empty()
            || self.paths.iter().any(|taken| taken.starts_with(&path) || path.starts_with(taken))
    }
}

fn names(path: &[u8]) -> Vec<Vec<u8>> {
    components(path).into_iter().rev().collect()
}
