//! Changes to a tree by path, made by the daemon while the kernel may have it mounted.
//!
//! Invariants:
//! - The kernel caches replies, so every change here invalidates its caches.
//! - Paths are resolved in the root: symbolic links are followed inside it and `..` stops at it.
//! - A parent that is a symbolic link to a directory stays one (`/lib` in a merged `/usr`).

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, OnceLock};

use fs_model::tree::{Entry, Follow, MknodArgs, SetAttr};
use fs_model::{Attr, FileType, FsError, Ino, Time, Tree};
use fuser::{INodeNo, Notifier};

/// Bytes copied into the tree at a time.
const COPY_BUFFER_BYTES: usize = 256 << 10;

/// A failed change, with its path.
#[derive(Debug, thiserror::Error)]
#[error("{}", String::from_utf8_lossy(.path))]
pub struct MountedTreeError {
    /// The path in the root.
    pub path: Vec<u8>,
    /// The reason.
    pub source: MountedTreeErrorKind,
}

/// The reason why a change failed.
#[derive(Debug, thiserror::Error)]
pub enum MountedTreeErrorKind {
    /// The tree rejected it.
    #[error(transparent)]
    Tree(#[from] FsError),
    /// The content to copy cannot be read.
    #[error("cannot read the content")]
    Content(#[from] std::io::Error),
}

/// A tree that the kernel may have mounted.
#[derive(Debug)]
pub struct MountedTree {
    tree: Arc<Tree>,
    notifier: OnceLock<Notifier>,
}

/// Attributes of a file that the daemon creates.
#[derive(Clone, Copy, Debug)]
pub struct Meta {
    /// Permission bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time; `None` for the current time.
    pub mtime: Option<Time>,
}

/// Whether an entry that the daemon creates belongs to the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CreateAs {
    /// It belongs to the image.
    ImageEntry,
    /// It is a scratch entry for the sandbox, and not in a delta.
    ScratchEntry,
}

impl MountedTree {
    /// Creates a tree that is not mounted.
    pub fn new(tree: Arc<Tree>) -> MountedTree {
        MountedTree { tree, notifier: OnceLock::new() }
    }

    /// Returns the tree.
    pub fn tree(&self) -> &Arc<Tree> {
        &self.tree
    }

    /// Sets the notifier that invalidates the kernel's caches, after the tree is mounted.
    pub fn set_notifier(&self, notifier: Notifier) {
        // A tree is mounted once; a second notifier would be for the same kernel.
        let _ = self.notifier.set(notifier);
    }

    /// Invalidates the kernel's dentry of `name` in `parent`, and the inode `parent`.
    pub fn forget_name(&self, parent: Ino, name: &[u8]) {
        let Some(notifier) = self.notifier.get() else { return };
        // Failures are harmless: the kernel had nothing cached.
        if let Err(error) = notifier.inval_entry(INodeNo(parent.0), OsStr::from_bytes(name)) {
            tracing::debug!(%error, "cannot invalidate a dentry");
        }
        self.forget_inode(parent);
    }

    /// Invalidates the kernel's attributes and content of `ino`.
    pub fn forget_inode(&self, ino: Ino) {
        let Some(notifier) = self.notifier.get() else { return };
        if let Err(error) = notifier.inval_inode(INodeNo(ino.0), 0, 0) {
            tracing::debug!(%error, "cannot invalidate an inode");
        }
    }

    /// Returns the inode and attributes at `path`.
    ///
    /// # Errors
    /// Fails if a layer cannot be read.
    pub fn stat(
        &self,
        path: &[u8],
        follow: Follow,
    ) -> Result<Option<(Ino, Attr)>, MountedTreeError> {
        let resolved = match self.tree.resolve(path, follow) {
            Ok(resolved) => resolved,
            Err(FsError::NotFound | FsError::NotADirectory) => return Ok(None),
            Err(e) => return Err(at(path)(e.into())),
        };
        Ok(resolved.object)
    }

    /// Reads the image's file at `path`, which a lent file may cover; `None` if it does not exist.
    ///
    /// # Errors
    /// Fails if a layer cannot be read.
    pub fn read(&self, path: &[u8]) -> Result<Option<Vec<u8>>, MountedTreeError> {
        let resolved = match self.tree.resolve(path, Follow::Yes) {
            Ok(resolved) => resolved,
            Err(FsError::NotFound | FsError::NotADirectory) => return Ok(None),
            Err(e) => return Err(at(path)(e.into())),
        };
        if resolved.name.is_empty() {
            return Ok(None);
        }
        let fail = |e: FsError| at(path)(e.into());
        let own = self.tree.lookup_own(resolved.parent, &resolved.name).map_err(fail)?;
        let Some(Entry { ino, attr, .. }) = own else { return Ok(None) };
        let content = self.read_file(ino, &attr);
        self.tree.forget(ino, 1);
        content.map_err(fail)
    }

    fn read_file(&self, ino: Ino, attr: &Attr) -> Result<Option<Vec<u8>>, FsError> {
        if attr.kind != FileType::Regular {
            return Ok(None);
        }
        let size = usize::try_from(attr.size).map_err(|_| FsError::FileTooLarge)?;
        let mut content = vec![0; size];
        let len = self.tree.read(ino, 0, &mut content)?;
        content.truncate(len);
        Ok(Some(content))
    }

    /// Returns the entries of the directory at `path`, sorted; none if it does not exist.
    ///
    /// # Errors
    /// Fails if a layer cannot be read.
    pub fn list(&self, path: &[u8]) -> Result<Vec<(Vec<u8>, FileType)>, MountedTreeError> {
        let resolved = match self.tree.resolve(path, Follow::Yes) {
            Ok(resolved) => resolved,
            Err(FsError::NotFound | FsError::NotADirectory) => return Ok(Vec::new()),
            Err(e) => return Err(at(path)(e.into())),
        };
        let Some((ino, Attr { kind: FileType::Directory, .. })) = resolved.object else {
            return Ok(Vec::new());
        };
        let mut names = Vec::new();
        self.tree
            .read_dir(ino, 0, |item| {
                if item.name != b"." && item.name != b".." {
                    names.push((item.name.to_vec(), item.kind));
                }
                true
            })
            .map_err(|e| at(path)(e.into()))?;
        names.sort_unstable();
        Ok(names)
    }

    /// Creates the directory `path` and its parents, with mode 0755 and owned by root. An existing
    /// directory, or link to one, is not changed. Parents of scratch entries become part of the
    /// image when an entry of the image is created in them.
    ///
    /// # Errors
    /// Fails if a component is not a directory, or the upper is full.
    pub fn make_directories(
        &self,
        path: &[u8],
        create_as: CreateAs,
    ) -> Result<(), MountedTreeError> {
        let mut partial = Vec::new();
        for name in path.split(|&b| b == b'/').filter(|n| !n.is_empty()) {
            partial.push(b'/');
            partial.extend_from_slice(name);
            let resolved =
                self.tree.resolve(&partial, Follow::Yes).map_err(|e| at(&partial)(e.into()))?;
            match resolved.object {
                Some((_, attr)) if attr.kind == FileType::Directory => {}
                Some(_) => return Err(at(&partial)(FsError::NotADirectory.into())),
                None => {
                    let node = MknodArgs::directory(0o755, 0, 0);
                    let (parent, name) = (resolved.parent, &resolved.name);
                    let made = match create_as {
                        CreateAs::ImageEntry => self.tree.mknod(parent, name, &node),
                        CreateAs::ScratchEntry => self.tree.add_scratch_parent(parent, name, &node),
                    };
                    let entry = made.map_err(|e| at(&partial)(e.into()))?;
                    self.tree.forget(entry.ino, 1);
                    self.forget_name(parent, name);
                }
            }
        }
        Ok(())
    }

    /// Makes an empty directory that is in no delta, nor anything below it. Its parents are made as
    /// [`CreateAs::ScratchEntry`].
    ///
    /// # Errors
    /// As [`MountedTree::make_directories`].
    pub fn make_scratch_directory(&self, path: &[u8]) -> Result<(), MountedTreeError> {
        let end = path.iter().rposition(|&byte| byte == b'/').unwrap_or_default();
        self.make_directories(&path[..end], CreateAs::ScratchEntry)?;
        let failed = |error: FsError| at(path)(error.into());
        let resolved = self.tree.resolve(path, Follow::No).map_err(failed)?;
        let node = MknodArgs::directory(0o755, 0, 0);
        let made = self.create(resolved.parent, &resolved.name, &node, CreateAs::ScratchEntry);
        made.map(drop).map_err(failed)
    }

    fn create(
        &self,
        parent: Ino,
        name: &[u8],
        node: &MknodArgs<'_>,
        create_as: CreateAs,
    ) -> Result<Ino, FsError> {
        let entry = match create_as {
            CreateAs::ImageEntry => self.tree.mknod(parent, name, node)?,
            CreateAs::ScratchEntry => self.tree.add_scratch(parent, name, node)?,
        };
        self.tree.forget(entry.ino, 1);
        self.forget_name(parent, name);
        Ok(entry.ino)
    }

    /// Creates the directory at `path`, or changes its attributes.
    ///
    /// # Errors
    /// Fails if the tree rejects the change.
    pub fn put_directory(
        &self,
        path: &[u8],
        meta: &Meta,
        create_as: CreateAs,
    ) -> Result<(), MountedTreeError> {
        self.make_directories(path, create_as)?;
        let resolved = self.tree.resolve(path, Follow::Yes).map_err(|e| at(path)(e.into()))?;
        let (ino, _) = resolved.existing().map_err(|e| at(path)(e.into()))?;
        self.set_meta(ino, meta).map_err(|e| at(path)(e.into()))
    }

    fn set_meta(&self, ino: Ino, meta: &Meta) -> Result<(), FsError> {
        let set = SetAttr {
            mode: Some(meta.mode),
            uid: Some(meta.uid),
            gid: Some(meta.gid),
            mtime: meta.mtime,
            ..SetAttr::default()
        };
        self.tree.set_attr(ino, &set)?;
        self.forget_inode(ino);
        Ok(())
    }

    /// Creates a file at `path`, with parents. Replaces an existing entry, unless it is a
    /// directory.
    ///
    /// # Errors
    /// Fails if the tree rejects the change, or `content` cannot be read.
    pub fn put_file(
        &self,
        path: &[u8],
        content: &mut dyn Read,
        meta: &Meta,
        create_as: CreateAs,
    ) -> Result<(), MountedTreeError> {
        let node = MknodArgs::file(meta.mode, meta.uid, meta.gid);
        let ino = self.put(path, &node, create_as)?;
        let mut buffer = vec![0; COPY_BUFFER_BYTES];
        let mut offset = 0;
        loop {
            let len = match content.read(&mut buffer) {
                Ok(0) => break,
                Ok(len) => len,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(at(path)(e.into())),
            };
            let mut rest = &buffer[..len];
            while !rest.is_empty() {
                let written = self.tree.write(ino, offset, rest).map_err(|e| at(path)(e.into()))?;
                rest = &rest[written..];
                offset += written as u64;
            }
        }
        self.set_meta(ino, meta).map_err(|e| at(path)(e.into()))
    }

    /// Creates a symbolic link at `path`. Replaces an existing entry, unless it is a directory.
    ///
    /// # Errors
    /// Fails if the tree rejects the change.
    pub fn put_symlink(
        &self,
        path: &[u8],
        target: &[u8],
        meta: &Meta,
        create_as: CreateAs,
    ) -> Result<(), MountedTreeError> {
        let ino = self.put(path, &MknodArgs::symlink(target, meta.uid, meta.gid), create_as)?;
        let meta = Meta { mode: 0o777, ..*meta };
        self.set_meta(ino, &meta).map_err(|e| at(path)(e.into()))
    }

    fn put(
        &self,
        path: &[u8],
        node: &MknodArgs<'_>,
        create_as: CreateAs,
    ) -> Result<Ino, MountedTreeError> {
        if let Some(slash) = path.iter().rposition(|&b| b == b'/') {
            self.make_directories(&path[..slash], create_as)?;
        }
        let fail = |e: FsError| at(path)(e.into());
        let resolved = self.tree.resolve(path, Follow::No).map_err(fail)?;
        match resolved.object {
            Some((_, attr)) if attr.kind == FileType::Directory => {
                return Err(fail(FsError::IsADirectory));
            }
            Some(_) if create_as == CreateAs::ImageEntry => {
                self.tree.unlink(resolved.parent, &resolved.name).map_err(fail)?;
            }
            _ => {}
        }
        self.create(resolved.parent, &resolved.name, node, create_as).map_err(fail)
    }

    /// Changes mode and owner of the entry at `path`. Symbolic links are not followed.
    ///
    /// # Errors
    /// Fails if the entry does not exist, or the tree rejects the change.
    pub fn set_attributes(&self, path: &[u8], set: &SetAttr) -> Result<(), MountedTreeError> {
        let fail = |e: FsError| at(path)(e.into());
        let resolved = self.tree.resolve(path, Follow::No).map_err(fail)?;
        let (ino, _) = resolved.existing().map_err(fail)?;
        self.tree.set_attr(ino, set).map_err(fail)?;
        self.forget_inode(ino);
        Ok(())
    }

    /// Reverts all changes at `path`: the layers' entry appears again, and an entry that they do
    /// not have is removed.
    ///
    /// # Errors
    /// Fails for the root directory, and when the tree rejects the change.
    pub fn revert(&self, path: &[u8]) -> Result<(), MountedTreeError> {
        let fail = |e: FsError| at(path)(e.into());
        let resolved = match self.tree.resolve(path, Follow::No) {
            Ok(resolved) => resolved,
            Err(FsError::NotFound | FsError::NotADirectory) => return Ok(()),
            Err(e) => return Err(fail(e)),
        };
        let (parent, name) = (resolved.parent, &resolved.name);
        if name.is_empty() {
            return Err(fail(FsError::Busy));
        }
        for reverted in self.tree.revert(parent, name).map_err(fail)? {
            self.forget_name(reverted.parent, &reverted.name);
            if let Some(ino) = reverted.ino {
                self.forget_inode(ino);
            }
        }
        Ok(())
    }

    /// Removes the entry at `path`, and everything below it. Does nothing if it does not exist.
    ///
    /// # Errors
    /// Fails for the root directory, and when the tree rejects the change.
    pub fn remove(&self, path: &[u8]) -> Result<(), MountedTreeError> {
        let fail = |e: FsError| at(path)(e.into());
        let resolved = match self.tree.resolve(path, Follow::No) {
            Ok(resolved) => resolved,
            Err(FsError::NotFound | FsError::NotADirectory) => return Ok(()),
            Err(e) => return Err(fail(e)),
        };
        let Some((ino, attr)) = resolved.object else { return Ok(()) };
        if resolved.name.is_empty() {
            return Err(fail(FsError::Busy));
        }
        self.remove_entry(resolved.parent, &resolved.name, ino, attr.kind).map_err(fail)
    }

    fn remove_entry(
        &self,
        parent: Ino,
        name: &[u8],
        ino: Ino,
        kind: FileType,
    ) -> Result<(), FsError> {
        if kind != FileType::Directory {
            self.tree.unlink(parent, name)?;
        } else {
            // Depth first, without recursion: the directories to visit, and then to remove.
            let mut stack = vec![(parent, name.to_vec(), ino, false)];
            while let Some((parent, name, dir, emptied)) = stack.pop() {
                if emptied {
                    self.tree.rmdir(parent, &name)?;
                    self.tree.forget(dir, 1);
                    self.forget_name(parent, &name);
                    continue;
                }
                // The lookup holds a reference to the directory while it is emptied.
                let dir = self.tree.lookup(parent, &name)?.ino;
                stack.push((parent, name, dir, true));
                let mut names = Vec::new();
                self.tree.read_dir(dir, 0, |item| {
                    if item.name != b"." && item.name != b".." {
                        names.push((item.name.to_vec(), item.ino, item.kind));
                    }
                    true
                })?;
                for (name, ino, kind) in names {
                    if kind == FileType::Directory {
                        stack.push((dir, name, ino, false));
                    } else {
                        self.tree.unlink(dir, &name)?;
                        self.forget_name(dir, &name);
                    }
                }
            }
        }
        self.forget_name(parent, name);
        Ok(())
    }
}

fn at(path: &[u8]) -> impl FnOnce(MountedTreeErrorKind) -> MountedTreeError + '_ {
    move |source| MountedTreeError { path: path.to_vec(), source }
}
