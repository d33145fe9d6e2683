//! Changes that the daemon itself makes to a tree, by path, while the kernel may have it mounted.
//!
//! Invariants:
//! - The kernel keeps what it was told, so whatever is changed here is taken back from it.
//! - Paths are the root's own: symbolic links are followed inside it and `..` stops at its root.
//! - A parent that is a symbolic link to a directory stays one (`/lib` of a merged `/usr`).

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, OnceLock};

use fs_model::tree::{Entry, Follow, MknodArgs, SetAttr};
use fs_model::{Attr, FileType, FsError, Ino, Time, Tree};
use fuser::{INodeNo, Notifier};

/// Bytes that are moved into the tree at a time.
const COPY_BUFFER: usize = 256 << 10;

/// A change that was refused, with the path that it was about.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", String::from_utf8_lossy(.path))]
pub struct LiveError {
    /// The path inside the root.
    pub path: Vec<u8>,
    /// Why.
    pub source: LiveErrorKind,
}

/// Why a change was refused.
#[derive(Debug, thiserror::Error)]
pub enum LiveErrorKind {
    /// By the tree.
    #[error(transparent)]
    Tree(#[from] FsError),
    /// What was to be copied in could not be read.
    #[error("the content cannot be read: {0}")]
    Content(#[from] std::io::Error),
}

/// A tree, and the kernel that may have it mounted.
#[derive(Debug)]
pub struct Live {
    tree: Arc<Tree>,
    notifier: OnceLock<Notifier>,
}

/// What is to be laid into a tree.
#[derive(Clone, Copy, Debug)]
pub struct Meta {
    /// Permission bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of the last change; now when absent.
    pub mtime: Option<Time>,
}

/// Whether what is laid into a tree belongs to the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lay {
    /// It does.
    Captured,
    /// It is for the sandbox alone, and stays out of every delta.
    Scratch,
}

impl Live {
    /// A tree that no kernel has mounted yet.
    pub fn new(tree: Arc<Tree>) -> Live {
        Live { tree, notifier: OnceLock::new() }
    }

    /// The tree.
    pub fn tree(&self) -> &Arc<Tree> {
        &self.tree
    }

    /// From now on the kernel is told of changes through `notifier`.
    pub fn mounted(&self, notifier: Notifier) {
        // A tree is mounted once; a second notifier would be for the same kernel.
        let _ = self.notifier.set(notifier);
    }

    /// The kernel forgets what it knows of `name` in `parent`, and of `parent` itself.
    pub fn forget_name(&self, parent: Ino, name: &[u8]) {
        let Some(notifier) = self.notifier.get() else { return };
        // Neither failing is a fault: what the kernel does not know it need not forget.
        if let Err(error) = notifier.inval_entry(INodeNo(parent.0), OsStr::from_bytes(name)) {
            tracing::debug!(%error, "the kernel did not forget a name");
        }
        self.forget_inode(parent);
    }

    /// The kernel forgets the attributes and the content of `ino`.
    pub fn forget_inode(&self, ino: Ino) {
        let Some(notifier) = self.notifier.get() else { return };
        if let Err(error) = notifier.inval_inode(INodeNo(ino.0), 0, 0) {
            tracing::debug!(%error, "the kernel did not forget an inode");
        }
    }

    /// The attributes at `path`, symbolic links followed or not.
    pub fn stat(&self, path: &[u8], follow: Follow) -> Result<Option<(Ino, Attr)>, LiveError> {
        let resolved = match self.tree.resolve(path, follow) {
            Ok(resolved) => resolved,
            Err(FsError::NotFound | FsError::NotADirectory) => return Ok(None),
            Err(e) => return Err(at(path)(e.into())),
        };
        Ok(resolved.object)
    }

    /// The content of the image's file at `path`, which a lent file may cover; `None` when there is
    /// no such file.
    pub fn read(&self, path: &[u8]) -> Result<Option<Vec<u8>>, LiveError> {
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
        let Some(Entry { ino, attr }) = own else { return Ok(None) };
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

    /// The names in the directory at `path`; none when there is no such directory.
    pub fn list(&self, path: &[u8]) -> Result<Vec<(Vec<u8>, FileType)>, LiveError> {
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

    /// Makes sure that `path` is a directory, and its parents too, which are made with mode 0755
    /// and owned by root. An existing directory, or link to one, is left as it is. Those that are
    /// made on the way to something scratch belong to the image once something of it is in them.
    pub fn make_directories(&self, path: &[u8], lay: Lay) -> Result<(), LiveError> {
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
                    let made = match lay {
                        Lay::Captured => self.tree.mknod(parent, name, &node),
                        Lay::Scratch => self.tree.add_scratch_parent(parent, name, &node),
                    };
                    let entry = made.map_err(|e| at(&partial)(e.into()))?;
                    self.tree.forget(entry.ino, 1);
                    self.forget_name(parent, name);
                }
            }
        }
        Ok(())
    }

    fn lay(
        &self,
        parent: Ino,
        name: &[u8],
        node: &MknodArgs<'_>,
        lay: Lay,
    ) -> Result<Ino, FsError> {
        let entry = match lay {
            Lay::Captured => self.tree.mknod(parent, name, node)?,
            Lay::Scratch => self.tree.add_scratch(parent, name, node)?,
        };
        self.tree.forget(entry.ino, 1);
        self.forget_name(parent, name);
        Ok(entry.ino)
    }

    /// Makes or changes the directory at `path`.
    pub fn put_directory(&self, path: &[u8], meta: &Meta, lay: Lay) -> Result<(), LiveError> {
        self.make_directories(path, lay)?;
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

    /// Puts a file at `path`, in place of whatever is there but a directory; parents are made.
    pub fn put_file(
        &self,
        path: &[u8],
        content: &mut dyn Read,
        meta: &Meta,
        lay: Lay,
    ) -> Result<(), LiveError> {
        let node = MknodArgs::file(meta.mode, meta.uid, meta.gid);
        let ino = self.put(path, &node, lay)?;
        let mut buffer = vec![0; COPY_BUFFER];
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

    /// Puts a symbolic link at `path`, in place of whatever is there but a directory.
    pub fn put_symlink(
        &self,
        path: &[u8],
        target: &[u8],
        meta: &Meta,
        lay: Lay,
    ) -> Result<(), LiveError> {
        let ino = self.put(path, &MknodArgs::symlink(target, meta.uid, meta.gid), lay)?;
        let meta = Meta { mode: 0o777, ..*meta };
        self.set_meta(ino, &meta).map_err(|e| at(path)(e.into()))
    }

    fn put(&self, path: &[u8], node: &MknodArgs<'_>, lay: Lay) -> Result<Ino, LiveError> {
        if let Some(slash) = path.iter().rposition(|&b| b == b'/') {
            self.make_directories(&path[..slash], lay)?;
        }
        let fail = |e: FsError| at(path)(e.into());
        let resolved = self.tree.resolve(path, Follow::No).map_err(fail)?;
        match resolved.object {
            Some((_, attr)) if attr.kind == FileType::Directory => {
                return Err(fail(FsError::IsADirectory));
            }
            Some(_) if lay == Lay::Captured => {
                self.tree.unlink(resolved.parent, &resolved.name).map_err(fail)?;
            }
            _ => {}
        }
        self.lay(resolved.parent, &resolved.name, node, lay).map_err(fail)
    }

    /// Changes mode and owner of what is at `path`; a symbolic link is not followed.
    pub fn set_attributes(&self, path: &[u8], set: &SetAttr) -> Result<(), LiveError> {
        let fail = |e: FsError| at(path)(e.into());
        let resolved = self.tree.resolve(path, Follow::No).map_err(fail)?;
        let (ino, _) = resolved.existing().map_err(fail)?;
        self.tree.set_attr(ino, set).map_err(fail)?;
        self.forget_inode(ino);
        Ok(())
    }

    /// Takes back what was done to `path`: what the layers have there shows again, and what they
    /// do not have is gone.
    pub fn revert(&self, path: &[u8]) -> Result<(), LiveError> {
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

    /// Removes what is at `path`, with all that is below it. Nothing there is fine too.
    pub fn remove(&self, path: &[u8]) -> Result<(), LiveError> {
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
            // Depth first, without recursion: what is left to look into, and what to remove then.
            let mut stack = vec![(parent, name.to_vec(), ino, false)];
            while let Some((parent, name, dir, emptied)) = stack.pop() {
                if emptied {
                    self.tree.rmdir(parent, &name)?;
                    self.tree.forget(dir, 1);
                    self.forget_name(parent, &name);
                    continue;
                }
                // Held while it is emptied.
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

fn at(path: &[u8]) -> impl FnOnce(LiveErrorKind) -> LiveError + '_ {
    move |source| LiveError { path: path.to_vec(), source }
}
