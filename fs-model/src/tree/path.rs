//! Paths within the tree: symbolic links are resolved inside the tree, and `..` stops at its root.

use super::{Ino, Tree};
use crate::attr::{Attr, FileType};
use crate::error::FsError;
use crate::resolve::{self, Follow, PathError, PathNodeKind, PathTree};

/// Maximum length of a path returned by [`Tree::path_of`], in bytes.
const PATH_MAX: usize = 4096;

/// A resolved path. It holds references, so that its inode numbers stay valid.
#[derive(Debug)]
pub struct Resolved<'a> {
    _held: HoldingWalk<'a>,
    /// The directory that contains the last name.
    pub parent: Ino,
    /// The last name; empty if the path is the root or ends in `..`.
    pub name: Vec<u8>,
    /// The object, if it exists.
    pub object: Option<(Ino, Attr)>,
}

impl Resolved<'_> {
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
        // A trailing slash or dot does not require a directory: the caller may want to make it.
        let names = path.split(|&byte| byte == b'/').filter(|n| !n.is_empty() && *n != b".");
        let path = names.collect::<Vec<_>>().join(&b'/');
        let mut walk = HoldingWalk { tree: self, held: Vec::new() };
        let start = walk.root()?;
        let found = resolve::resolve(&mut walk, start, &path, follow)?;
        let (parent, name, object) = (found.parent, found.name, found.node);
        let parent = parent.or(object).map_or(Ino::ROOT, |(dir, _)| dir);
        Ok(Resolved { _held: walk, parent, name, object })
    }
}

/// A walk that keeps a reference to each inode that it has found, until it is dropped.
#[derive(Debug)]
struct HoldingWalk<'a> {
    tree: &'a Tree,
    held: Vec<Ino>,
}

impl Drop for HoldingWalk<'_> {
    fn drop(&mut self) {
        for &ino in &self.held {
            self.tree.forget(ino, 1);
        }
    }
}

impl PathTree for HoldingWalk<'_> {
    type Node = (Ino, Attr);
    type Error = FsError;

    fn root(&mut self) -> Result<(Ino, Attr), FsError> {
        Ok((Ino::ROOT, self.tree.attr(Ino::ROOT)?))
    }

    fn parent(&mut self, (dir, _): &(Ino, Attr)) -> Result<(Ino, Attr), FsError> {
        let parent = self.tree.parent(*dir)?;
        Ok((parent, self.tree.attr(parent)?))
    }

    fn lookup(
        &mut self,
        (dir, _): &(Ino, Attr),
        name: &[u8],
    ) -> Result<Option<(Ino, Attr)>, FsError> {
        match self.tree.lookup(*dir, name) {
            Ok(entry) => {
                self.held.push(entry.ino);
                Ok(Some((entry.ino, entry.attr)))
            }
            Err(FsError::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn kind(&self, (_, attr): &(Ino, Attr)) -> PathNodeKind {
        match attr.kind {
            FileType::Directory => PathNodeKind::Directory,
            FileType::Symlink => PathNodeKind::Symlink,
            _ => PathNodeKind::Other,
        }
    }

    fn read_link(&mut self, (link, _): &(Ino, Attr)) -> Result<Vec<u8>, FsError> {
        self.tree.read_link(*link)
    }

    fn error(&self, error: PathError) -> FsError {
        error.into()
    }
}
