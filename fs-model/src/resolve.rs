//! Resolves paths in a tree of directories and symbolic links, as the kernel does
//! (path_resolution(7)).
//!
//! A [`PathTree`] has the files; the walk is here. It stays within the tree's root, follows at most
//! [`MAX_LINKS`] symbolic links, and requires a directory before each slash.

use crate::error::FsError;

/// Maximum number of symbolic links followed for one path (`MAXSYMLINKS` in the kernel).
pub const MAX_LINKS: u32 = 40;

/// Whether a symbolic link in the last component of a path is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follow {
    /// Follow the link.
    Yes,
    /// Return the link itself.
    No,
}

/// The type of a file, as far as a walk needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathNodeKind {
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// Anything else.
    Other,
}

/// A path that cannot be resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathError {
    /// A component before the last one, or the target of a link, does not exist.
    NotFound,
    /// A component that must be a directory is not.
    NotADirectory,
    /// Too many symbolic links.
    Loop,
}

impl From<PathError> for FsError {
    fn from(error: PathError) -> Self {
        match error {
            PathError::NotFound => FsError::NotFound,
            PathError::NotADirectory => FsError::NotADirectory,
            PathError::Loop => FsError::Loop,
        }
    }
}

/// A tree in which paths can be resolved.
pub trait PathTree {
    /// A file of the tree.
    type Node;
    /// The error of a walk.
    type Error;

    /// Returns the directory that absolute paths begin in.
    ///
    /// # Errors
    /// Fails if the directory cannot be read.
    fn root(&mut self) -> Result<Self::Node, Self::Error>;

    /// Returns the parent of a directory; the root is its own parent.
    ///
    /// # Errors
    /// Fails if the parent cannot be read, or the walk must end in it.
    fn parent(&mut self, dir: &Self::Node) -> Result<Self::Node, Self::Error>;

    /// Returns the entry `name` of a directory.
    ///
    /// # Errors
    /// Fails if the entry cannot be read, or the walk must end there.
    fn lookup(&mut self, dir: &Self::Node, name: &[u8]) -> Result<Option<Self::Node>, Self::Error>;

    /// Returns the type of a file.
    fn kind(&self, node: &Self::Node) -> PathNodeKind;

    /// Returns the target of a symbolic link.
    ///
    /// # Errors
    /// Fails if the link cannot be read.
    fn read_link(&mut self, link: &Self::Node) -> Result<Vec<u8>, Self::Error>;

    /// Returns the error for a path that cannot be resolved.
    fn error(&self, error: PathError) -> Self::Error;
}

/// The file that a path leads to.
#[derive(Clone, Debug)]
pub struct ResolvedPath<N> {
    /// The directory that contains the last name; `None` if the name is empty.
    pub parent: Option<N>,
    /// The last name; empty if the path ends at the start, at the root or in `..`.
    pub name: Vec<u8>,
    /// The file. `None` if the directory has no such name.
    pub node: Option<N>,
}

/// The last component of a path, and the directory that it is in.
#[derive(Clone, Debug)]
pub struct LastComponent<N> {
    /// The directory.
    pub dir: N,
    /// The component; it can be `.` or `..`.
    pub name: Vec<u8>,
    /// Whether slashes follow.
    pub slash: bool,
}

/// Resolves `path`, which begins at `start` unless it is absolute. The last component need not
/// exist. A trailing slash requires a directory.
///
/// # Errors
/// Returns a [`PathError`], or an error of the tree.
pub fn resolve<T: PathTree>(
    tree: &mut T,
    start: T::Node,
    path: &[u8],
    follow: Follow,
) -> Result<ResolvedPath<T::Node>, T::Error> {
    let mut walk = PathWalk::new(tree, start, path)?;
    while let Some(component) = walk.next_component() {
        let follow = follow == Follow::Yes || !component.last || component.slash;
        if !walk.enter(&component, follow)? {
            let PathWalk { current, .. } = walk;
            return Ok(ResolvedPath { parent: Some(current), name: component.name, node: None });
        }
    }
    let PathWalk { current, parent, name, .. } = walk;
    Ok(ResolvedPath { parent, name, node: Some(current) })
}

/// Resolves all components of `path` but the last, which is not looked up. Returns `None` if the
/// path has no component.
///
/// # Errors
/// See [`resolve`].
pub fn resolve_parent<T: PathTree>(
    tree: &mut T,
    start: T::Node,
    path: &[u8],
) -> Result<Option<LastComponent<T::Node>>, T::Error> {
    let mut walk = PathWalk::new(tree, start, path)?;
    while let Some(component) = walk.next_component() {
        if component.last {
            walk.require_directory()?;
            let Component { name, slash, .. } = component;
            return Ok(Some(LastComponent { dir: walk.current, name, slash }));
        }
        walk.enter(&component, true)?;
    }
    Ok(None)
}

struct PathWalk<'t, T: PathTree> {
    tree: &'t mut T,
    current: T::Node,
    /// The directory in which `current` was found by `name`.
    parent: Option<T::Node>,
    name: Vec<u8>,
    /// The components that follow begin at `at`.
    path: Vec<u8>,
    at: usize,
    links: u32,
}

struct Component {
    name: Vec<u8>,
    /// Only slashes follow.
    last: bool,
    /// This is the last component, and a slash follows.
    slash: bool,
}

impl<'t, T: PathTree> PathWalk<'t, T> {
    fn new(tree: &'t mut T, start: T::Node, path: &[u8]) -> Result<Self, T::Error> {
        let current = if path.first() == Some(&b'/') { tree.root()? } else { start };
        let (parent, name, path) = (None, Vec::new(), path.to_vec());
        Ok(PathWalk { tree, current, parent, name, path, at: 0, links: 0 })
    }

    fn next_component(&mut self) -> Option<Component> {
        let rest = &self.path[self.at..];
        let start = rest.iter().position(|&byte| byte != b'/')?;
        let length = rest[start..].iter().position(|&byte| byte == b'/');
        let end = length.map_or(rest.len(), |length| start + length);
        let last = rest[end..].iter().all(|&byte| byte == b'/');
        let slash = last && end < rest.len();
        let name = rest[start..end].to_vec();
        self.at += end;
        Some(Component { name, last, slash })
    }

    fn require_directory(&self) -> Result<(), T::Error> {
        match self.tree.kind(&self.current) {
            PathNodeKind::Directory => Ok(()),
            _ => Err(self.tree.error(PathError::NotADirectory)),
        }
    }

    /// Walks one component. Returns whether it exists; only the last one may be missing.
    fn enter(&mut self, component: &Component, follow: bool) -> Result<bool, T::Error> {
        self.require_directory()?;
        match component.name.as_slice() {
            b"." => return Ok(true),
            b".." => {
                let parent = self.tree.parent(&self.current)?;
                self.arrive(parent);
                return Ok(true);
            }
            _ => {}
        }
        let Some(found) = self.tree.lookup(&self.current, &component.name)? else {
            return match component.last {
                true => Ok(false),
                false => Err(self.tree.error(PathError::NotFound)),
            };
        };
        if follow && self.tree.kind(&found) == PathNodeKind::Symlink {
            self.follow(&found, component)?;
            return Ok(true);
        }
        self.parent = Some(std::mem::replace(&mut self.current, found));
        self.name.clone_from(&component.name);
        if component.slash {
            self.require_directory()?;
        }
        Ok(true)
    }

    /// Continues at a directory that was not reached by a name.
    fn arrive(&mut self, dir: T::Node) {
        self.current = dir;
        self.parent = None;
        self.name.clear();
    }

    /// Inserts the target of a link before the rest of the path.
    fn follow(&mut self, link: &T::Node, component: &Component) -> Result<(), T::Error> {
        self.links += 1;
        if self.links > MAX_LINKS {
            return Err(self.tree.error(PathError::Loop));
        }
        let mut path = self.tree.read_link(link)?;
        match path.first() {
            None => return Err(self.tree.error(PathError::NotFound)),
            Some(b'/') => {
                let root = self.tree.root()?;
                self.arrive(root);
            }
            Some(_) => {
                self.parent = None;
                self.name.clear();
            }
        }
        if component.slash || !component.last {
            path.push(b'/');
            path.extend_from_slice(&self.path[self.at..]);
        }
        (self.path, self.at) = (path, 0);
        Ok(())
    }
}
