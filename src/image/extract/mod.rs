//! Extracts parts of a view, into a directory (`folder`) or an archive (`archive`).
//!
//! Extracted nodes keep their path from the root, and their parent directories are included.
//! Whiteouts and opaque directories are applied, not extracted (`deletions`).

pub(crate) mod archive;
pub(crate) mod deletions;
pub mod folder;
mod staging;

use crate::image::view::{ViewNode, components};

/// The part of a view to extract: everything, or some paths with everything below them.
#[derive(Clone, Debug, Default)]
pub struct ExtractSelection {
    paths: Vec<Vec<Vec<u8>>>,
}

impl ExtractSelection {
    /// Selects `nodes` and everything below them, or the whole view if there are none.
    pub fn new<'a>(nodes: impl IntoIterator<Item = &'a ViewNode>) -> ExtractSelection {
        ExtractSelection { paths: nodes.into_iter().map(|node| names(&node.path)).collect() }
    }

    /// Whether the node at `path` is selected, or is a parent of a selected one.
    fn contains(&self, path: &[u8]) -> bool {
        let path = names(path);
        self.paths.is_empty()
            || self.paths.iter().any(|taken| taken.starts_with(&path) || path.starts_with(taken))
    }

    /// Whether the node at `path` is selected.
    fn covers(&self, path: &[u8]) -> bool {
        let path = names(path);
        self.paths.is_empty() || self.paths.iter().any(|taken| path.starts_with(taken))
    }
}

fn names(path: &[u8]) -> Vec<Vec<u8>> {
    components(path).into_iter().rev().collect()
}
