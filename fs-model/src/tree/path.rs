//! Paths within the tree: symbolic links are resolved inside the tree, and `..` stops at its root.

use super::{Ino, Tree};
use crate::attr::{Attr, FileType};
use crate::error::FsError;

/// Maximum number of symbolic links followed for one path (`MAXSYMLINKS` in the kernel).
const MAX_LINKS: u32 = 40;
/// Maximum length of a path returned by [`Tree::path_of`], in bytes.
const PATH_MAX: usize = 4096;

/// Whether a symbolic link in the last component of a path is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follow {
    /// Follow the link.
    Yes,
    /// Return the link itself.
    No,
}

/// A resolved path. It holds references, so that its inode numbers stay valid.
#[derive(Debug)]
pub struct Resolved<'a> {
    tree: &'a Tree,
    held: Vec<Ino>,
    /// The directory that contains the last name.
    pub parent: Ino,
    /// The last name; empty if the path is the root or ends in `..`.
    pub name: Vec<u8>,
    /// The object, if it exists.
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

    /// Returns the object.
    ///
    /// # Errors
    /// [`FsError::NotFound`] if it does not exist.
    pub fn existing(&self) -> Result<(Ino, Attr), FsError> {
        self.object.ok_or(FsError::NotFound)
    }
}

impl Tree {
    /// Returns a path of a referenced object for messages, without a leading slash: the one in the
    /// directory where the object was last found. `None` if it has no name there any more.
    pub fn path_of(&self, ino: Ino) -> Option<Vec<u8>> {
        let mut state = self.state.lock();
        let mut names: Vec<Box<[u8]>> = Vec::new();
        let mut dir = ino;
        if !state.dirs.contains_key(&ino) {
            dir = state.refs.get(&ino)?.parent;
            let listing = state.listing(&self.stack, dir).ok()?;
            let changes = &state.dirs.get(&dir)?.changes;
            let own = changes.iter().find(|i| i.slot.shown().is_some_and(|t| t.ino == ino));
            let of_layers = || listing.iter().find(|l| l.ino == ino);
            names.push(match own {
                Some(item) => item.name.clone(),
                None => of_layers().filter(|l| changes.get(&l.name).is_none())?.name.clone(),
            });
        }
        let mut length = 0;
        while dir != Ino::ROOT {
            let known = state.dirs.get(&dir)?;
            length += known.name.len() + 1;
            if length > PATH_MAX {
                return None;
            }
            names.push(known.name.clone());
            dir = known.parent;
        }
        names.reverse();
        Some(names.join(&b'/'))
    }

    /// Resolves `path` from the root. The last component need not exist.
    ///
    /// # Errors
    /// [`FsError::NotFound`] or [`FsError::NotADirectory`] for components before the last one,
    /// [`FsError::Loop`] for too many symbolic links, or [`FsError::Layer`].
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

/// Returns the components of a path, last first, without empty ones and `.`.
fn components(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|&b| b == b'/')
        .rev()
        .filter(|c| !c.is_empty() && *c != b".")
        .map(<[u8]>::to_vec)
        .collect()
}
