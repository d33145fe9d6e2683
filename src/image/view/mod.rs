//! Views: merged stacks of layers that are read without mounting them. All commands that show or
//! check images use them.
//!
//! Invariants:
//! - Nothing is written, mounted or unpacked, and data is read only on demand: opening a
//!   [`StackView`] costs no more than opening its layers.
//! - A [`ViewNode`] is one path of the merged root. Its path is a byte string relative to the root,
//!   without a leading slash; the root's path is empty. Nodes do not borrow from the view.
//! - Walks are in tree order: names are compared bytewise, and a directory precedes its entries. A
//!   walk enters each directory once; a directory with several parents is reported as damage.
//! - Damage is reported with the image and the path.

pub(crate) mod accounts;
pub(crate) mod layered;
pub(crate) mod packages;
pub(crate) mod usage;
pub(crate) mod version;

use std::collections::HashSet;
use std::ops::Range;
use std::path::PathBuf;
use std::rc::Rc;

use fs_model::layer::squashfs::CacheOptions;
use fs_model::layer::{LayerEntry, Xattr};
use fs_model::resolve::{self, Follow, PathError, PathNodeKind, PathTree};
use fs_model::stack::{LowerDirs, LowerEntry, LowerInode};
use fs_model::{Attr, FileType, FsError, LayerError, Stack};

use crate::image::open::OpenError;
use crate::text::digest::digest_read_at;
use crate::text::escape::escape;

/// Bytes read at a time.
const BUFFER_SIZE: usize = 256 << 10;
/// Maximum length of a path in a root: the kernel's `PATH_MAX`.
pub(crate) const MAX_PATH: usize = 4096;

/// A path cannot be read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LookError {
    /// The path does not exist, a parent is not a directory, or there are too many links.
    #[error("/{}: {reason}", escape(path))]
    Path {
        /// The path.
        path: Box<[u8]>,
        /// The reason.
        reason: FsError,
    },
    /// A layer is damaged.
    #[error("/{}: {error}", escape(path))]
    Damaged {
        /// The path at which damage was found.
        path: Box<[u8]>,
        /// The image and the damage.
        error: LayerError,
    },
}

impl LookError {
    /// Whether the path does not exist.
    pub fn is_absence(&self) -> bool {
        matches!(self, LookError::Path { reason: FsError::NotFound | FsError::NotADirectory, .. })
    }
}

/// A path of the merged root and its inode.
#[derive(Clone, Debug)]
pub struct ViewNode {
    /// The path from the root.
    pub path: Vec<u8>,
    /// The inode and the layer that it comes from.
    pub found: LowerEntry,
    /// Its attributes. A directory's `nlink` can be below 2 if subdirectories were not counted.
    pub attr: Attr,
}

impl ViewNode {
    /// Returns the last component of the path; empty for the root.
    pub fn name(&self) -> &[u8] {
        self.path.rsplit(|&byte| byte == b'/').next().unwrap_or_default()
    }

    /// Returns the index of the layer that it comes from: for a merged directory, the topmost one.
    pub fn layer(&self) -> usize {
        usize::from(self.found.source().layer)
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.attr.kind == FileType::Directory
    }

    /// Whether it is a regular file.
    pub fn is_file(&self) -> bool {
        self.attr.kind == FileType::Regular
    }

    /// Whether it is a symbolic link.
    pub fn is_link(&self) -> bool {
        self.attr.kind == FileType::Symlink
    }
}

/// The entry of a single layer at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LayerNode {
    /// An inode with these attributes.
    Object(Attr),
    /// A whiteout.
    Whiteout,
}

/// How a walk continues after a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalkControl {
    /// Continue, and enter the node if it is a directory.
    Into,
    /// Continue without entering the directory.
    Past,
    /// End the walk.
    Stop,
}

/// A read-only view of a stack of layers. See the [module](self) for its invariants.
#[derive(Debug)]
pub struct StackView {
    stack: Stack,
    names: Vec<String>,
}

impl StackView {
    /// Opens images, the lowest first.
    ///
    /// # Errors
    /// Fails if an image cannot be read, has an unknown format, or is damaged.
    pub fn open(images: &[PathBuf]) -> Result<StackView, OpenError> {
        let layers = crate::image::open::open(images, CacheOptions::default())?.layers;
        StackView::new(layers)
    }

    /// Creates a view of open layers, the lowest first.
    ///
    /// # Errors
    /// Fails if there are more layers than a stack supports.
    pub fn new(
        layers: Vec<std::sync::Arc<dyn fs_model::layer::Layer>>,
    ) -> Result<StackView, OpenError> {
        let names = layers.iter().map(|layer| layer.name().to_owned()).collect();
        let count = layers.len();
        let stack = Stack::new(layers).map_err(|_| OpenError::TooMany { count })?;
        Ok(StackView { stack, names })
    }

    /// Returns a view of the lowest `count` layers.
    ///
    /// # Errors
    /// See [`StackView::new`].
    pub fn lowest(&self, count: usize) -> Result<StackView, OpenError> {
        StackView::new(self.stack.layers()[..count].to_vec())
    }

    /// Returns the layers.
    pub fn stack(&self) -> &Stack {
        &self.stack
    }

    /// Returns the images' names as the user gave them, the lowest first.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Returns the root directory.
    ///
    /// # Errors
    /// Fails if a layer is damaged.
    pub fn root(&self) -> Result<ViewNode, LookError> {
        let damaged = |error| LookError::Damaged { path: Box::default(), error };
        let found = LowerEntry::Directory(self.stack.root().map_err(damaged)?);
        let attr = self.stack.attr(found.source()).map_err(damaged)?;
        Ok(ViewNode { path: Vec::new(), found, attr })
    }

    /// Resolves `path` within the root: symbolic links are followed, and `..` does not leave the
    /// root. The node's path contains no links. A leading slash has no meaning; with a trailing
    /// slash, a final link is followed and the result must be a directory.
    ///
    /// # Errors
    /// [`LookError::Path`] when the path does not exist.
    pub fn resolve(&self, path: &[u8], follow: Follow) -> Result<ViewNode, LookError> {
        let follow = if path.ends_with(b"/") { Follow::Yes } else { follow };
        // A dot at the end does not require a directory.
        let names = path.split(|&byte| byte == b'/').filter(|n| !n.is_empty() && *n != b".");
        let names = names.collect::<Vec<_>>().join(&b'/');
        let root = Rc::new(WalkNode { node: self.root()?, parent: None });
        let mut walk = ViewWalk { view: self, path, root: root.clone() };
        let found = resolve::resolve(&mut walk, root, &names, follow)?.node;
        let node = found.ok_or_else(|| walk.error(PathError::NotFound))?.node.clone();
        // A trailing slash requires a directory.
        if path.ends_with(b"/") && !node.is_dir() {
            return Err(walk.error(PathError::NotADirectory));
        }
        Ok(node)
    }

    /// Like [`StackView::resolve`], but returns `None` if the path does not exist.
    ///
    /// # Errors
    /// Fails if a layer is damaged or there are too many links.
    pub fn find(&self, path: &[u8], follow: Follow) -> Result<Option<ViewNode>, LookError> {
        match self.resolve(path, follow) {
            Ok(node) => Ok(Some(node)),
            Err(error) if error.is_absence() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Like [`StackView::find`] following links, but also returns `None` for a path with too many
    /// links.
    ///
    /// # Errors
    /// Fails if a layer is damaged.
    pub fn find_following(&self, path: &[u8]) -> Result<Option<ViewNode>, LookError> {
        match self.resolve(path, Follow::Yes) {
            Ok(node) => Ok(Some(node)),
            Err(LookError::Path { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns the entry `name` of the directory `dir`.
    ///
    /// # Errors
    /// Fails if a layer is damaged.
    pub fn child(&self, dir: &ViewNode, name: &[u8]) -> Result<Option<ViewNode>, LookError> {
        let LowerEntry::Directory(sources) = &dir.found else { return Ok(None) };
        let path = join(&dir.path, name);
        let damaged = |error| LookError::Damaged { path: path.clone().into(), error };
        let Some(found) = self.stack.lookup(sources, name).map_err(damaged)? else {
            return Ok(None);
        };
        let attr = self.stack.attr(found.source()).map_err(damaged)?;
        Ok(Some(ViewNode { path, found, attr }))
    }

    /// Returns the entries of `dir`, sorted by name; none if it is not a directory.
    ///
    /// # Errors
    /// Fails if a layer is damaged.
    pub fn children(&self, dir: &ViewNode) -> Result<Vec<ViewNode>, LookError> {
        let LowerEntry::Directory(sources) = &dir.found else { return Ok(Vec::new()) };
        let entries = self.stack.entries(sources).map_err(|error| self.at(dir, error))?;
        let mut children = Vec::with_capacity(entries.len());
        for (name, found) in entries {
            let path = join(&dir.path, &name);
            match self.stack.attr(found.source()) {
                Ok(attr) => children.push(ViewNode { path, found, attr }),
                Err(error) => return Err(LookError::Damaged { path: path.into(), error }),
            }
        }
        Ok(children)
    }

    /// Calls `visit` with the node and everything below it.
    ///
    /// # Errors
    /// Fails if `visit` fails or a layer is damaged.
    pub fn walk<E: From<LookError>>(
        &self,
        node: &ViewNode,
        visit: &mut dyn FnMut(&ViewNode) -> Result<WalkControl, E>,
    ) -> Result<(), E> {
        // A stack of listings instead of recursion, so that the depth is not limited.
        let mut pending = vec![vec![node.clone()].into_iter()];
        let mut visited = Visited::default();
        while let Some(listing) = pending.last_mut() {
            let Some(node) = listing.next() else {
                pending.pop();
                continue;
            };
            match visit(&node)? {
                WalkControl::Stop => return Ok(()),
                WalkControl::Into if node.is_dir() => {
                    visited.enter(self, &node)?;
                    pending.push(self.children(&node)?.into_iter());
                }
                WalkControl::Into | WalkControl::Past => {}
            }
        }
        Ok(())
    }

    /// Returns the error for a directory that contains itself or has several parents. Only damaged
    /// images have one, and walking it could be endless or take exponential time.
    pub(crate) fn repeated_directory(&self, dir: &ViewNode) -> LookError {
        let name: std::sync::Arc<str> = self.names[dir.layer()].as_str().into();
        self.at(
            dir,
            LayerError::corrupt(&name, "directory is its own ancestor, or has two parents"),
        )
    }

    /// Rejects a directory whose path is too long to be used. Only damaged images have one, and the
    /// paths of its descendants would use unbounded memory.
    pub(crate) fn reject_too_deep(&self, dir: &ViewNode) -> Result<(), LookError> {
        if dir.path.len() < MAX_PATH {
            return Ok(());
        }
        let name: std::sync::Arc<str> = self.names[dir.layer()].as_str().into();
        let cut = ViewNode { path: dir.path[..64].to_vec(), ..dir.clone() };
        let what = "directories are nested deeper than the maximum path length";
        Err(self.at(&cut, LayerError::corrupt(&name, what)))
    }

    /// Returns the next range of data in a file at or after `offset`; `None` if only a hole
    /// follows.
    ///
    /// # Errors
    /// Fails if a layer is damaged.
    pub fn next_data(&self, file: &ViewNode, offset: u64) -> Result<Option<Range<u64>>, LookError> {
        let data = self.stack.next_data(file.found.source(), offset);
        data.map_err(|error| self.at(file, error))
    }

    /// Passes the content of a file to `take` in chunks.
    ///
    /// # Errors
    /// Fails if `take` fails or a layer is damaged.
    pub fn read<E: From<LookError>>(
        &self,
        file: &ViewNode,
        take: &mut dyn FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut buffer = vec![0; BUFFER_SIZE.min(file.attr.size as usize + 1)];
        let mut offset = 0;
        loop {
            let read = self.read_at(file, offset, &mut buffer)?;
            if read == 0 {
                return Ok(());
            }
            take(&buffer[..read])?;
            offset += read as u64;
        }
    }

    /// Fills `buf` from `offset`; returns fewer bytes only at the end of the file.
    ///
    /// # Errors
    /// Fails if a layer is damaged.
    pub fn read_at(
        &self,
        file: &ViewNode,
        offset: u64,
        buf: &mut [u8],
    ) -> Result<usize, LookError> {
        let read = self.stack.read_at(file.found.source(), offset, buf);
        read.map_err(|error| self.at(file, error))
    }

    /// Returns the first `most` bytes of a file, or all if it is shorter.
    ///
    /// # Errors
    /// Fails if a layer is damaged.
    pub fn head(&self, file: &ViewNode, most: usize) -> Result<Vec<u8>, LookError> {
        let mut buffer = vec![0; most.min(usize::try_from(file.attr.size).unwrap_or(most))];
        let read = self.read_at(file, 0, &mut buffer)?;
        buffer.truncate(read);
        Ok(buffer)
    }

    /// Returns the SHA-256 of a file's content.
    ///
    /// # Errors
    /// Fails if a layer is damaged.
    pub fn digest(&self, file: &ViewNode) -> Result<[u8; 32], LookError> {
        let read_at = |offset, buffer: &mut [u8]| self.read_at(file, offset, buffer);
        digest_read_at(file.attr.size, read_at)
    }

    /// Returns the target of a symbolic link.
    ///
    /// # Errors
    /// Fails if a layer is damaged.
    pub fn link(&self, link: &ViewNode) -> Result<Vec<u8>, LookError> {
        self.stack.read_link(link.found.source()).map_err(|error| self.at(link, error))
    }

    /// Returns all extended attributes, sorted by name.
    ///
    /// # Errors
    /// Fails if a layer is damaged.
    pub fn xattrs(&self, node: &ViewNode) -> Result<Vec<Xattr>, LookError> {
        self.stack.xattrs(node.found.source()).map_err(|error| self.at(node, error))
    }

    /// Returns the entry of each layer at a path, the lowest first; `None` where a layer has none.
    /// Links are not followed, because each layer is read on its own.
    ///
    /// # Errors
    /// Fails if a layer is damaged.
    pub fn places(&self, path: &[u8]) -> Result<Vec<Option<LayerNode>>, LookError> {
        let damaged = |error| LookError::Damaged { path: trim(path).into(), error };
        let names = components(path);
        let place = |layer: usize| -> Result<Option<LayerNode>, LayerError> {
            let layer = &self.stack.layers()[layer];
            let mut at = LayerEntry::Object { ino: layer.root(), kind: FileType::Directory };
            for name in names.iter().rev() {
                let LayerEntry::Object { ino, kind: FileType::Directory } = at else {
                    return Ok(None);
                };
                match layer.lookup(ino, name)? {
                    Some(entry) => at = entry,
                    None => return Ok(None),
                }
            }
            Ok(Some(match at {
                LayerEntry::Object { ino, .. } => LayerNode::Object(layer.attr(ino)?),
                LayerEntry::Whiteout => LayerNode::Whiteout,
            }))
        };
        (0..self.names.len()).map(|layer| place(layer).map_err(damaged)).collect()
    }

    fn at(&self, node: &ViewNode, error: LayerError) -> LookError {
        LookError::Damaged { path: node.path.clone().into(), error }
    }
}

/// A walk along a path.
struct ViewWalk<'a> {
    view: &'a StackView,
    /// The path, for errors.
    path: &'a [u8],
    root: Rc<WalkNode>,
}

/// A node with its ancestors, so that `..` does not have to look them up.
struct WalkNode {
    node: ViewNode,
    parent: Option<Rc<WalkNode>>,
}

impl PathTree for ViewWalk<'_> {
    type Node = Rc<WalkNode>;
    type Error = LookError;

    fn root(&mut self) -> Result<Rc<WalkNode>, LookError> {
        Ok(self.root.clone())
    }

    fn parent(&mut self, dir: &Rc<WalkNode>) -> Result<Rc<WalkNode>, LookError> {
        Ok(dir.parent.as_ref().unwrap_or(dir).clone())
    }

    fn lookup(
        &mut self,
        dir: &Rc<WalkNode>,
        name: &[u8],
    ) -> Result<Option<Rc<WalkNode>>, LookError> {
        let node = self.view.child(&dir.node, name)?;
        Ok(node.map(|node| Rc::new(WalkNode { node, parent: Some(dir.clone()) })))
    }

    fn kind(&self, node: &Rc<WalkNode>) -> PathNodeKind {
        match node.node.attr.kind {
            FileType::Directory => PathNodeKind::Directory,
            FileType::Symlink => PathNodeKind::Symlink,
            _ => PathNodeKind::Other,
        }
    }

    fn read_link(&mut self, link: &Rc<WalkNode>) -> Result<Vec<u8>, LookError> {
        self.view.link(&link.node)
    }

    fn error(&self, error: PathError) -> LookError {
        LookError::Path { path: trim(self.path).into(), reason: error.into() }
    }
}

/// The directories that a walk has entered. In a damaged image of a few kilobytes, directories can
/// contain themselves, or form a graph with exponentially many paths. In a valid image each
/// directory has one parent, and is therefore entered only once.
#[derive(Debug, Default)]
pub(crate) struct Visited(HashSet<LowerInode>);

impl Visited {
    /// Records that the walk enters `dir`.
    ///
    /// # Errors
    /// Fails if the walk has entered it before, or its path is too long.
    pub(crate) fn enter(&mut self, view: &StackView, dir: &ViewNode) -> Result<(), LookError> {
        view.reject_too_deep(dir)?;
        for &source in sources(dir) {
            let layer = &view.stack.layers()[usize::from(source.layer)];
            if layer.dirs_are_unique() && !self.0.insert(source) {
                return Err(view.repeated_directory(dir));
            }
        }
        Ok(())
    }
}

/// Returns the directories that a directory node is merged from; none for other nodes.
pub fn sources(node: &ViewNode) -> &[LowerInode] {
    const NONE: &[LowerInode] = &[];
    match &node.found {
        LowerEntry::Directory(sources) => {
            let sources: &LowerDirs = sources;
            sources
        }
        LowerEntry::Object { .. } => NONE,
    }
}

/// Returns the path of `name` in the directory `dir`.
pub fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(dir.len() + 1 + name.len());
    path.extend_from_slice(dir);
    if !dir.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

/// Removes leading and trailing slashes.
fn trim(path: &[u8]) -> &[u8] {
    let start = path.iter().position(|&byte| byte != b'/').unwrap_or(path.len());
    let end = path.iter().rposition(|&byte| byte != b'/').map_or(start, |last| last + 1);
    &path[start..end]
}

/// Returns the components of a path, last first, without empty ones and `.`.
pub(crate) fn components(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|&byte| byte == b'/')
        .rev()
        .filter(|name| !name.is_empty() && *name != b".")
        .map(<[u8]>::to_vec)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(folders: &[&std::path::Path]) -> StackView {
        StackView::open(&folders.iter().map(|folder| folder.to_path_buf()).collect::<Vec<_>>())
            .unwrap()
    }

    #[test]
    fn paths_follow_links_within_the_root() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("usr/bin")).unwrap();
        std::fs::write(dir.path().join("usr/bin/tool"), "x").unwrap();
        std::os::unix::fs::symlink("usr/bin", dir.path().join("bin")).unwrap();
        std::os::unix::fs::symlink("/bin/../../../bin/tool", dir.path().join("short")).unwrap();
        std::os::unix::fs::symlink("round", dir.path().join("round")).unwrap();
        let view = view(&[dir.path()]);
        let path = |path: &str| view.resolve(path.as_bytes(), Follow::Yes).map(|n| n.path);
        assert_eq!(path("/bin/tool").unwrap(), b"usr/bin/tool");
        assert_eq!(path("short").unwrap(), b"usr/bin/tool");
        assert_eq!(path("../../bin/").unwrap(), b"usr/bin");
        assert_eq!(path("/").unwrap(), b"");
        assert_eq!(view.resolve(b"bin/", Follow::No).unwrap().path, b"usr/bin");
        assert!(view.find_following(b"round").unwrap().is_none());
        assert!(path("bin/none").unwrap_err().is_absence());
        assert!(path("bin/tool/").unwrap_err().is_absence());
        assert!(path("bin/tool/..").unwrap_err().is_absence());
        assert!(!path("round").unwrap_err().is_absence());
        assert_eq!(view.resolve(b"round", Follow::No).unwrap().path, b"round");
    }

    #[test]
    fn entries_of_each_layer_are_returned() {
        let low = tempfile::tempdir().unwrap();
        let high = tempfile::tempdir().unwrap();
        std::fs::create_dir(low.path().join("etc")).unwrap();
        std::fs::create_dir(high.path().join("etc")).unwrap();
        std::fs::write(low.path().join("etc/a"), "low").unwrap();
        std::fs::write(low.path().join("etc/b"), "low").unwrap();
        std::fs::write(high.path().join("etc/a"), "higher").unwrap();
        let view = view(&[low.path(), high.path()]);
        let a = view.resolve(b"etc/a", Follow::No).unwrap();
        assert_eq!((a.layer(), a.attr.size), (1, 6));
        let sizes = |path: &[u8]| -> Vec<Option<u64>> {
            let size = |place: &Option<LayerNode>| match place {
                Some(LayerNode::Object(attr)) => Some(attr.size),
                _ => None,
            };
            view.places(path).unwrap().iter().map(size).collect()
        };
        assert_eq!(sizes(b"etc/a"), [Some(3), Some(6)]);
        assert_eq!(sizes(b"/etc/b"), [Some(3), None]);
        let etc = view.resolve(b"etc", Follow::No).unwrap();
        assert_eq!(sources(&etc).len(), 2);
        let names: Vec<_> = view.children(&etc).unwrap().iter().map(|n| n.path.clone()).collect();
        assert_eq!(names, [b"etc/a", b"etc/b"]);
    }
}
