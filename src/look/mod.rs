//! Looking into a stack of layers without mounting it: what everything that shows or judges images
//! is built upon.
//!
//! Invariants:
//! - Nothing is written, mounted or unpacked, and nothing is read that was not asked for: opening a
//!   [`View`] costs what opening its layers does.
//! - A [`Node`] is one name of the merged root. Its path is from the root, without a leading slash,
//!   bytewise; the root's is empty. Nodes hold no references: they are good as long as the view.
//! - Walks are in tree order: names compared bytewise, a directory before what is in it. They go into
//!   each directory once: one that an image has in several places is damage.
//! - Damage is an error that names the image, and the path at which it was met.

pub mod accounts;
pub mod layered;
pub mod packages;
pub mod usage;
pub mod version;

use std::collections::HashSet;
use std::ops::Range;
use std::path::PathBuf;

use fs_model::layer::squashfs::CacheOptions;
use fs_model::layer::{LayerEntry, Xattr};
use fs_model::stack::{LowerDirs, LowerEntry, LowerInode};
use fs_model::tree::Follow;
use fs_model::{Attr, FileType, FsError, LayerError, Stack};
use sha2::{Digest, Sha256};

use crate::layers::OpenError;
use crate::seal::path::escape;

/// Bytes that are read at a time.
const BUFFER: usize = 256 << 10;
/// The longest path that a root can have: the kernel takes none longer (`PATH_MAX`).
pub(crate) const MAX_PATH: usize = 4096;
/// How many symbolic links one path may follow, as in the kernel.
const MAX_LINKS: u32 = 40;

/// A path that cannot be looked at.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LookError {
    /// There is nothing, or something on the way is no directory, or links lead in a circle.
    #[error("/{}: {reason}", escape(path))]
    Path {
        /// The path.
        path: Box<[u8]>,
        /// Why.
        reason: FsError,
    },
    /// A layer is damaged.
    #[error("/{}: {error}", escape(path))]
    Damaged {
        /// The path at which it was met.
        path: Box<[u8]>,
        /// The image, and what is wrong with it.
        error: LayerError,
    },
}

impl LookError {
    /// Whether there simply is nothing at the path.
    pub fn is_absence(&self) -> bool {
        matches!(self, LookError::Path { reason: FsError::NotFound | FsError::NotADirectory, .. })
    }
}

/// A name of the merged root, and what it stands for.
#[derive(Clone, Debug)]
pub struct Node {
    /// The path from the root.
    pub path: Vec<u8>,
    /// The object, and where it comes from.
    pub found: LowerEntry,
    /// Its attributes. A directory's `nlink` may be below 2: then nobody has counted.
    pub attr: Attr,
}

impl Node {
    /// The last name of the path; empty for the root.
    pub fn name(&self) -> &[u8] {
        self.path.rsplit(|&byte| byte == b'/').next().unwrap_or_default()
    }

    /// The index of the layer that it comes from; a directory that several layers have comes from
    /// the topmost of them.
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

/// What one layer has at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// An object.
    Object(Attr),
    /// A whiteout.
    Whiteout,
}

/// What a walk does after a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Walk {
    /// Goes on; into it, if it is a directory.
    Into,
    /// Goes on, but not into this directory.
    Past,
    /// Ends.
    Stop,
}

/// A stack of layers, to be looked at. See the [module](self) for its invariants.
#[derive(Debug)]
pub struct View {
    stack: Stack,
    names: Vec<String>,
}

impl View {
    /// Opens images, the lowest first.
    ///
    /// # Errors
    /// One that cannot be read, is none of the known formats, or is damaged.
    pub fn open(images: &[PathBuf]) -> Result<View, OpenError> {
        let layers = crate::layers::open(images, CacheOptions::default())?.layers;
        View::new(layers)
    }

    /// A view of layers that are open, the lowest first.
    ///
    /// # Errors
    /// More layers than a stack takes.
    pub fn new(layers: Vec<std::sync::Arc<dyn fs_model::layer::Layer>>) -> Result<View, OpenError> {
        let names = layers.iter().map(|layer| layer.name().to_owned()).collect();
        let count = layers.len();
        let stack = Stack::new(layers).map_err(|_| OpenError::TooMany { count })?;
        Ok(View { stack, names })
    }

    /// The view of the lowest `count` layers alone.
    ///
    /// # Errors
    /// None that [`View::new`] of all of them did not have.
    pub fn lowest(&self, count: usize) -> Result<View, OpenError> {
        View::new(self.stack.layers()[..count].to_vec())
    }

    /// The layers.
    pub fn stack(&self) -> &Stack {
        &self.stack
    }

    /// The images as the user named them, the lowest first.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The root directory.
    ///
    /// # Errors
    /// A damaged layer.
    pub fn root(&self) -> Result<Node, LookError> {
        let damaged = |error| LookError::Damaged { path: Box::default(), error };
        let found = LowerEntry::Directory(self.stack.root().map_err(damaged)?);
        let attr = self.stack.attr(found.source()).map_err(damaged)?;
        Ok(Node { path: Vec::new(), found, attr })
    }

    /// What `path` leads to, through the symbolic links of the root, `..` staying inside; its own
    /// path is the one without links. A leading slash means nothing; one at the end means what a
    /// link leads to, and a directory.
    ///
    /// # Errors
    /// [`LookError::Path`] where there is nothing.
    pub fn resolve(&self, path: &[u8], follow: Follow) -> Result<Node, LookError> {
        let no = |reason| LookError::Path { path: trim(path).into(), reason };
        let follow = if path.ends_with(b"/") { Follow::Yes } else { follow };
        let mut way = vec![self.root()?];
        let mut rest = components(path);
        let mut links = 0;
        while let Some(name) = rest.pop() {
            let last = rest.is_empty();
            let Some(dir) = way.last().filter(|node| node.is_dir()) else {
                return Err(no(FsError::NotADirectory));
            };
            if name == b".." {
                if way.len() > 1 {
                    way.pop();
                }
                continue;
            }
            let node = self.child(dir, &name)?.ok_or_else(|| no(FsError::NotFound))?;
            if node.is_link() && !(last && follow == Follow::No) {
                links += 1;
                if links > MAX_LINKS {
                    return Err(no(FsError::Loop));
                }
                let target = self.link(&node)?;
                if target.first() == Some(&b'/') {
                    way.truncate(1);
                }
                rest.extend(components(&target));
            } else {
                way.push(node);
            }
        }
        let node = way.pop().ok_or_else(|| no(FsError::NotFound))?;
        // "file/" means a directory.
        if path.ends_with(b"/") && !node.is_dir() {
            return Err(no(FsError::NotADirectory));
        }
        Ok(node)
    }

    /// As [`View::resolve`], with nothing for what is not there.
    ///
    /// # Errors
    /// A damaged layer, or links in a circle.
    pub fn find(&self, path: &[u8], follow: Follow) -> Result<Option<Node>, LookError> {
        match self.resolve(path, follow) {
            Ok(node) => Ok(Some(node)),
            Err(error) if error.is_absence() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// As [`View::find`] through links, where the root's own mistakes are none of ours: nothing also
    /// for links in a circle.
    ///
    /// # Errors
    /// A damaged layer.
    pub fn sought(&self, path: &[u8]) -> Result<Option<Node>, LookError> {
        match self.resolve(path, Follow::Yes) {
            Ok(node) => Ok(Some(node)),
            Err(LookError::Path { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The entry `name` of the directory `dir`.
    ///
    /// # Errors
    /// A damaged layer.
    pub fn child(&self, dir: &Node, name: &[u8]) -> Result<Option<Node>, LookError> {
        let LowerEntry::Directory(sources) = &dir.found else { return Ok(None) };
        let path = join(&dir.path, name);
        let damaged = |error| LookError::Damaged { path: path.clone().into(), error };
        let Some(found) = self.stack.lookup(sources, name).map_err(damaged)? else {
            return Ok(None);
        };
        let attr = self.stack.attr(found.source()).map_err(damaged)?;
        Ok(Some(Node { path, found, attr }))
    }

    /// What is in the directory `dir`, sorted by name; nothing is in anything else.
    ///
    /// # Errors
    /// A damaged layer.
    pub fn children(&self, dir: &Node) -> Result<Vec<Node>, LookError> {
        let LowerEntry::Directory(sources) = &dir.found else { return Ok(Vec::new()) };
        let entries = self.stack.entries(sources).map_err(|error| self.at(dir, error))?;
        let mut children = Vec::with_capacity(entries.len());
        for (name, found) in entries {
            let path = join(&dir.path, &name);
            match self.stack.attr(found.source()) {
                Ok(attr) => children.push(Node { path, found, attr }),
                Err(error) => return Err(LookError::Damaged { path: path.into(), error }),
            }
        }
        Ok(children)
    }

    /// Shows `visit` the node, and all that is below it.
    ///
    /// # Errors
    /// What `visit` fails with, and damaged layers.
    pub fn walk<E: From<LookError>>(
        &self,
        node: &Node,
        visit: &mut dyn FnMut(&Node) -> Result<Walk, E>,
    ) -> Result<(), E> {
        // A stack of listings, so that no depth of the tree can be too much.
        let mut pending = vec![vec![node.clone()].into_iter()];
        let mut visited = Visited::default();
        while let Some(listing) = pending.last_mut() {
            let Some(node) = listing.next() else {
                pending.pop();
                continue;
            };
            match visit(&node)? {
                Walk::Stop => return Ok(()),
                Walk::Into if node.is_dir() => {
                    visited.enter(self, &node)?;
                    pending.push(self.children(&node)?.into_iter());
                }
                Walk::Into | Walk::Past => {}
            }
        }
        Ok(())
    }

    /// The error for a directory that was met in itself or in two places, which only damaged images
    /// have: a walk into it would not end, or not in any time.
    pub(crate) fn within_itself(&self, dir: &Node) -> LookError {
        let name: std::sync::Arc<str> = self.names[dir.layer()].as_str().into();
        self.at(dir, LayerError::corrupt(&name, "this directory lies in itself, or in two places"))
    }

    /// Refuses a directory so deep that nothing can be reached in it: only damaged images have one,
    /// and the paths of all that is below would take memory without bound.
    pub(crate) fn refuse_too_deep(&self, dir: &Node) -> Result<(), LookError> {
        if dir.path.len() < MAX_PATH {
            return Ok(());
        }
        let name: std::sync::Arc<str> = self.names[dir.layer()].as_str().into();
        let cut = Node { path: dir.path[..64].to_vec(), ..dir.clone() };
        let what = "directories below this one are nested deeper than a path can be long";
        Err(self.at(&cut, LayerError::corrupt(&name, what)))
    }

    /// Where the next data of a file at or after `offset` lies; `None` when only a hole follows.
    ///
    /// # Errors
    /// A damaged layer.
    pub fn next_data(&self, file: &Node, offset: u64) -> Result<Option<Range<u64>>, LookError> {
        let data = self.stack.next_data(file.found.source(), offset);
        data.map_err(|error| self.at(file, error))
    }

    /// Hands the content of a file to `take`, piece by piece.
    ///
    /// # Errors
    /// What `take` fails with, and a damaged layer.
    pub fn read<E: From<LookError>>(
        &self,
        file: &Node,
        take: &mut dyn FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut buffer = vec![0; BUFFER.min(file.attr.size as usize + 1)];
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

    /// Fills `buf` from `offset` on; less comes back only at the end of the file.
    ///
    /// # Errors
    /// A damaged layer.
    pub fn read_at(&self, file: &Node, offset: u64, buf: &mut [u8]) -> Result<usize, LookError> {
        let read = self.stack.read_at(file.found.source(), offset, buf);
        read.map_err(|error| self.at(file, error))
    }

    /// The first bytes of a file, `most` of them, or all if it has less.
    ///
    /// # Errors
    /// A damaged layer.
    pub fn head(&self, file: &Node, most: usize) -> Result<Vec<u8>, LookError> {
        let mut buffer = vec![0; most.min(usize::try_from(file.attr.size).unwrap_or(most))];
        let read = self.read_at(file, 0, &mut buffer)?;
        buffer.truncate(read);
        Ok(buffer)
    }

    /// The SHA-256 of a file's content.
    ///
    /// # Errors
    /// A damaged layer.
    pub fn digest(&self, file: &Node) -> Result<[u8; 32], LookError> {
        let mut sha256 = Sha256::new();
        self.read::<LookError>(file, &mut |piece| {
            sha256.update(piece);
            Ok(())
        })?;
        Ok(sha256.finalize().into())
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// A damaged layer.
    pub fn link(&self, link: &Node) -> Result<Vec<u8>, LookError> {
        self.stack.read_link(link.found.source()).map_err(|error| self.at(link, error))
    }

    /// All extended attributes, sorted by name.
    ///
    /// # Errors
    /// A damaged layer.
    pub fn xattrs(&self, node: &Node) -> Result<Vec<Xattr>, LookError> {
        self.stack.xattrs(node.found.source()).map_err(|error| self.at(node, error))
    }

    /// What each layer, the lowest first, has itself at a path: `None` where it says nothing of it.
    /// Links on the way are not followed: a layer has what it has at its own names.
    ///
    /// # Errors
    /// A damaged layer.
    pub fn places(&self, path: &[u8]) -> Result<Vec<Option<Place>>, LookError> {
        let damaged = |error| LookError::Damaged { path: trim(path).into(), error };
        let names = components(path);
        let place = |layer: usize| -> Result<Option<Place>, LayerError> {
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
                LayerEntry::Object { ino, .. } => Place::Object(layer.attr(ino)?),
                LayerEntry::Whiteout => Place::Whiteout,
            }))
        };
        (0..self.names.len()).map(|layer| place(layer).map_err(damaged)).collect()
    }

    fn at(&self, node: &Node, error: LayerError) -> LookError {
        LookError::Damaged { path: node.path.clone().into(), error }
    }
}

/// The directories that a walk has gone into. An image of a few kilobytes can have directories in
/// themselves, and others twice in one another to any power of two; each has one parent, so none is
/// gone into again.
#[derive(Debug, Default)]
pub(crate) struct Visited(HashSet<LowerInode>);

impl Visited {
    /// Notes that the walk goes into `dir`.
    ///
    /// # Errors
    /// It has been there, or the directory is too deep.
    pub(crate) fn enter(&mut self, view: &View, dir: &Node) -> Result<(), LookError> {
        view.refuse_too_deep(dir)?;
        for &source in sources(dir) {
            let layer = &view.stack.layers()[usize::from(source.layer)];
            if layer.dirs_are_unique() && !self.0.insert(source) {
                return Err(view.within_itself(dir));
            }
        }
        Ok(())
    }
}

/// Whether two nodes of the same view are the same object: links of one file, say.
pub fn is_same(a: &Node, b: &Node) -> bool {
    a.found.source() == b.found.source()
}

/// The directories that a directory node is merged from; nothing for anything else.
pub fn sources(node: &Node) -> &[LowerInode] {
    const NONE: &[LowerInode] = &[];
    match &node.found {
        LowerEntry::Directory(sources) => {
            let sources: &LowerDirs = sources;
            sources
        }
        LowerEntry::Object { .. } => NONE,
    }
}

/// `name` in the directory at `dir`.
pub fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(dir.len() + 1 + name.len());
    path.extend_from_slice(dir);
    if !dir.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

/// A path without slashes around it.
fn trim(path: &[u8]) -> &[u8] {
    let start = path.iter().position(|&byte| byte != b'/').unwrap_or(path.len());
    let end = path.iter().rposition(|&byte| byte != b'/').map_or(start, |last| last + 1);
    &path[start..end]
}

/// The names of a path, last first, without the empty ones and `.`.
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

    fn view(folders: &[&std::path::Path]) -> View {
        View::open(&folders.iter().map(|folder| folder.to_path_buf()).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn paths_lead_through_links_and_never_out() {
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
        assert!(view.sought(b"round").unwrap().is_none());
        assert!(path("bin/none").unwrap_err().is_absence());
        assert!(path("bin/tool/").unwrap_err().is_absence());
        assert!(path("bin/tool/..").unwrap_err().is_absence());
        assert!(!path("round").unwrap_err().is_absence());
        assert_eq!(view.resolve(b"round", Follow::No).unwrap().path, b"round");
    }

    #[test]
    fn each_layer_tells_what_it_has() {
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
            let size = |place: &Option<Place>| match place {
                Some(Place::Object(attr)) => Some(attr.size),
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
