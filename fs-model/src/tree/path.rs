//! Paths within the tree: symbolic links are followed inside it, and `..` stops at its root.

use super::{Ino, Tree};
use crate::attr::{Attr, FileType};
use crate::error::FsError;

/// How many symbolic links one path may follow, as in the kernel.
const MAX_LINKS: u32 = 40;

/// Whether a symbolic link at the end of a path is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follow {
    /// The link's target is meant.
    Yes,
    /// The link itself is meant.
    No,
}

/// Where a path leads. It holds references, so that the numbers in it stay good.
#[derive(Debug)]
pub struct Resolved<'a> {
    tree: &'a Tree,
    held: Vec<Ino>,
    /// The directory that holds the last name.
    pub parent: Ino,
    /// The last name; empty when the path leads to the root or ends in `..`.
    pub name: Vec<u8>,
    /// The object, if there is one.
    pub object: Option<(Ino, Attr)>,
}

impl Drop for Resolved<'_> {
    fn drop(&mut self) {
        for &ino in &self.held {
            self.tree.forget(ino, 1);
        }
    }
}

impl Resolved<'_> {
    fn arrive(&mut self, dir: Ino) -> Result<(), FsError> {
        self.parent = dir;
        self.name.clear();
        self.object = Some((dir, self.tree.attr(dir)?));
        Ok(())
    }

    /// The object, which must exist.
    pub fn existing(&self) -> Result<(Ino, Attr), FsError> {
        self.object.ok_or(FsError::NotFound)
    }
}

impl Tree {
    /// Resolves `path` from the root; its last name need not exist.
    ///
    /// # Errors
    /// [`FsError::NotFound`] or [`FsError::NotADirectory`] for what comes before the last name.
    pub fn resolve(&self, path: &[u8], follow: Follow) -> Result<Resolved<'_>, FsError> {
        let mut rest: Vec<Vec<u8>> = components(path);
        let mut links = 0;
        let mut dir = Ino::ROOT;
        let mut at = Resolved {
            tree: self,
            held: Vec::new(),
            parent: Ino::ROOT,
            name: Vec::new(),
            object: None,
        };
        at.arrive(Ino::ROOT)?;
        while let Some(name) = rest.pop() {
            if name == b".." {
                dir = self.parent(dir)?;
                at.arrive(dir)?;
                continue;
            }
            let last = rest.is_empty();
            let entry = match self.lookup(dir, &name) {
                Ok(entry) => entry,
                Err(FsError::NotFound) if last => {
                    (at.parent, at.name, at.object) = (dir, name, None);
                    return Ok(at);
                }
                Err(e) => return Err(e),
            };
            at.held.push(entry.ino);
            match entry.attr.kind {
                FileType::Symlink if !last || follow == Follow::Yes => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(FsError::Loop);
                    }
                    let target = self.read_link(entry.ino)?;
                    if target.first() == Some(&b'/') {
                        dir = Ino::ROOT;
                    }
                    at.arrive(dir)?;
                    rest.extend(components(&target));
                }
                kind => {
                    if kind != FileType::Directory && !last {
                        return Err(FsError::NotADirectory);
                    }
                    (at.parent, at.name) = (dir, name);
                    at.object = Some((entry.ino, entry.attr));
                    dir = entry.ino;
                }
            }
        }
        Ok(at)
    }
}

/// The names of a path, last first, without the empty ones and `.`.
fn components(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|&b| b == b'/')
        .rev()
        .filter(|c| !c.is_empty() && *c != b".")
        .map(<[u8]>::to_vec)
        .collect()
}
