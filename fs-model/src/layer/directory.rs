//! A directory of the host as a layer.
//!
//! Invariants in addition to those of every layer:
//! - Nothing outside the directory is accessed: every object is opened component by component from
//!   the directory's descriptor, without following symbolic links. So writers in the directory
//!   cannot redirect accesses elsewhere.
//! - An object is identified by device and inode number, so hard links are one object. It is opened
//!   by the name under which it was found first; if another object is there by then, that is an
//!   error.
//! - Attributes are those of the first access. A file that has become shorter since is an error;
//!   one that has become longer is read up to its first size. So concurrent changes cause errors,
//!   not inconsistent data.
//! - Character devices 0:0 are whiteouts, and `overlay.opaque` attributes make directories opaque,
//!   as in the upper directory of an overlayfs.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::attr::{Attr, Device, FileType, Time};
use crate::error::LayerError;
use crate::layer::overlayfs;
use crate::layer::{Layer, LayerDirEntry, LayerEntry, LayerIno, Xattr};

/// Maximum number of cached file descriptors.
const MAX_CACHED_FDS: usize = 32;

const OPAQUE: [&[u8]; 2] = [b"trusted.overlay.opaque", b"user.overlay.opaque"];

/// A directory of the host.
#[derive(Debug)]
pub struct DirectoryLayer {
    name: Arc<str>,
    root: OwnedFd,
    state: Mutex<DirectoryState>,
}

#[derive(Debug, Default)]
struct DirectoryState {
    nodes: Vec<DirectoryNode>,
    by_identity: HashMap<Identity, u64>,
    /// Objects without extended attributes.
    without_xattrs: HashSet<u64>,
    /// Cached descriptors, least recently used first.
    open: Vec<(u64, bool, Arc<OwnedFd>)>,
}

type Identity = (u64, u64);

#[derive(Clone, Debug)]
struct DirectoryNode {
    identity: Identity,
    attr: Attr,
    /// The directory in which it was found, and its name there; empty for the root.
    parent: u64,
    name: Box<[u8]>,
}

impl DirectoryLayer {
    /// Opens a directory.
    ///
    /// # Errors
    /// Fails if `path` cannot be opened or is not a directory.
    pub fn open(path: &Path) -> Result<Self, LayerError> {
        let name: Arc<str> = path.display().to_string().into();
        let failed = |errno: Errno| LayerError::io(&name, errno.into());
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(failed)?;
        let stat = rustix::fs::fstat(&root).map_err(failed)?;
        let mut state = DirectoryState::default();
        state.add(&stat, 0, b"").ok_or_else(|| failed(Errno::NOTDIR))?;
        Ok(DirectoryLayer { name, root, state: Mutex::new(state) })
    }

    fn node(&self, ino: LayerIno) -> Result<DirectoryNode, LayerError> {
        let state = self.state.lock();
        let node = usize::try_from(ino.0).ok().and_then(|index| state.nodes.get(index));
        node.cloned().ok_or_else(|| self.corrupt(format!("no object {}", ino.0)))
    }

    /// Returns the path of an object within the directory, for messages.
    fn path(&self, ino: LayerIno) -> String {
        let names = self.names(ino);
        let names: Vec<_> = names.iter().map(|name| String::from_utf8_lossy(name)).collect();
        names.join("/")
    }

    /// Returns the components of an object's path.
    fn names(&self, ino: LayerIno) -> Vec<Box<[u8]>> {
        let state = self.state.lock();
        let mut names = Vec::new();
        let mut at = ino.0;
        while let Some(node) = state.nodes.get(at as usize)
            && at != 0
        {
            names.push(node.name.clone());
            at = node.parent;
        }
        names.reverse();
        names
    }

    /// Returns a descriptor of an object: for reading, or with `O_PATH`.
    fn object(&self, ino: LayerIno, readable: bool) -> Result<Arc<OwnedFd>, LayerError> {
        if let Some(fd) = self.state.lock().cached_fd(ino.0, readable) {
            return Ok(fd);
        }
        let node = self.node(ino)?;
        let fd = self.reach(ino, readable).map_err(|errno| self.failed(ino, errno))?;
        let stat = rustix::fs::fstat(&fd).map_err(|errno| self.failed(ino, errno))?;
        if identity(&stat) != node.identity {
            let path = self.path(ino);
            return Err(self.corrupt(format!("{path} was replaced while in use")));
        }
        let fd = Arc::new(fd);
        self.state.lock().cache_fd(ino.0, readable, fd.clone());
        Ok(fd)
    }

    fn reach(&self, ino: LayerIno, readable: bool) -> Result<OwnedFd, Errno> {
        let flags = OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let last = if readable { flags | OFlags::RDONLY } else { flags | OFlags::PATH };
        let names = self.names(ino);
        let Some((name, parents)) = names.split_last() else {
            return rustix::fs::openat(&self.root, ".", last, Mode::empty());
        };
        let mut at: Option<OwnedFd> = None;
        for parent in parents {
            let from = at.as_ref().map_or(self.root.as_fd(), AsFd::as_fd);
            let flags = flags | OFlags::PATH | OFlags::DIRECTORY;
            at = Some(rustix::fs::openat(from, &parent[..], flags, Mode::empty())?);
        }
        let from = at.as_ref().map_or(self.root.as_fd(), AsFd::as_fd);
        rustix::fs::openat(from, &name[..], last, Mode::empty())
    }

    fn list(&self, dir: LayerIno, fd: BorrowedFd<'_>) -> Result<Vec<LayerDirEntry>, LayerError> {
        let failed = |errno| self.failed(dir, errno);
        let mut entries = Vec::new();
        for entry in Dir::read_from(fd).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            if let Some(found) = self.look(dir, fd, name)? {
                entries.push(LayerDirEntry { name: name.into(), entry: found });
            }
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn look(
        &self,
        dir: LayerIno,
        fd: BorrowedFd<'_>,
        name: &[u8],
    ) -> Result<Option<LayerEntry>, LayerError> {
        let stat = match rustix::fs::statat(fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT | Errno::NAMETOOLONG) => return Ok(None),
            Err(errno) => return Err(self.failed(dir, errno)),
        };
        let known = self.state.lock().add(&stat, dir.0, name);
        let (ino, attr) = known.ok_or_else(|| {
            self.corrupt(format!("{} has an unknown type", String::from_utf8_lossy(name)))
        })?;
        if attr.kind == FileType::CharDevice && attr.rdev == Device::default() {
            return Ok(Some(LayerEntry::Whiteout));
        }
        Ok(Some(LayerEntry::Object { ino: LayerIno(ino), kind: attr.kind }))
    }

    fn all_xattrs(&self, ino: LayerIno) -> Result<Vec<Xattr>, LayerError> {
        if self.state.lock().without_xattrs.contains(&ino.0) {
            return Ok(Vec::new());
        }
        // An `O_PATH` descriptor works for all types, but only through /proc.
        let fd = self.object(ino, false)?;
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let result =
            with_growing_buffer(|buf| rustix::fs::listxattr(&path, buf)).and_then(|names| {
                let names = names.split(|&byte| byte == 0).filter(|name| !name.is_empty());
                names
                    .map(|name| {
                        let value =
                            with_growing_buffer(|buf| rustix::fs::getxattr(&path, name, buf))?;
                        Ok((Box::from(name), value.into_boxed_slice()))
                    })
                    .collect::<Result<Vec<Xattr>, Errno>>()
            });
        let mut xattrs = match result {
            Ok(xattrs) => xattrs,
            Err(Errno::OPNOTSUPP) => Vec::new(),
            Err(errno) => return Err(self.failed(ino, errno)),
        };
        if xattrs.is_empty() {
            self.state.lock().without_xattrs.insert(ino.0);
        }
        xattrs.sort();
        Ok(xattrs)
    }

    fn failed(&self, ino: LayerIno, errno: Errno) -> LayerError {
        let error = io::Error::from(errno);
        let path = self.path(ino);
        if path.is_empty() {
            return LayerError::io(&self.name, error);
        }
        LayerError::io(&self.name, io::Error::new(error.kind(), format!("{path}: {error}")))
    }

    fn corrupt(&self, what: String) -> LayerError {
        LayerError::corrupt(&self.name, what)
    }
}

impl Layer for DirectoryLayer {
    fn name(&self) -> &str {
        &self.name
    }

    fn root(&self) -> LayerIno {
        LayerIno(0)
    }

    fn dirs_are_unique(&self) -> bool {
        false
    }

    fn attr(&self, ino: LayerIno) -> Result<Attr, LayerError> {
        Ok(self.node(ino)?.attr)
    }

    fn lookup(&self, dir: LayerIno, name: &[u8]) -> Result<Option<LayerEntry>, LayerError> {
        if matches!(name, b"" | b"." | b"..") || name.contains(&b'/') || name.contains(&0) {
            return Ok(None);
        }
        let fd = self.object(dir, false)?;
        self.look(dir, fd.as_fd(), name)
    }

    fn read_dir(&self, dir: LayerIno) -> Result<Vec<LayerDirEntry>, LayerError> {
        let fd = self.object(dir, true)?;
        self.list(dir, fd.as_fd())
    }

    fn read_at(&self, ino: LayerIno, offset: u64, buf: &mut [u8]) -> Result<usize, LayerError> {
        let node = self.node(ino)?;
        if node.attr.kind != FileType::Regular {
            return Err(self.corrupt(format!("{} is not a regular file", self.path(ino))));
        }
        let size = node.attr.size;
        let length = size.saturating_sub(offset).min(buf.len() as u64) as usize;
        if length == 0 {
            return Ok(0);
        }
        let fd = self.object(ino, true)?;
        let mut got = 0;
        while got < length {
            match rustix::io::pread(&*fd, &mut buf[got..length], offset + got as u64) {
                Ok(0) => {
                    let path = self.path(ino);
                    return Err(self.corrupt(format!("{path} became shorter while in use")));
                }
                Ok(more) => got += more,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(self.failed(ino, errno)),
            }
        }
        Ok(length)
    }

    fn next_data(
        &self,
        ino: LayerIno,
        offset: u64,
    ) -> Result<Option<std::ops::Range<u64>>, LayerError> {
        use rustix::fs::SeekFrom;
        let size = self.node(ino)?.attr.size;
        if offset >= size {
            return Ok(None);
        }
        let fd = self.object(ino, true)?;
        // This changes the shared file position, which pread does not use.
        let start = match rustix::fs::seek(&*fd, SeekFrom::Data(offset)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return Ok(None),
            Err(Errno::INVAL) => return Ok(Some(offset..size)),
            Err(errno) => return Err(self.failed(ino, errno)),
        };
        let end = rustix::fs::seek(&*fd, SeekFrom::Hole(start)).unwrap_or(size).min(size);
        Ok((start < end).then_some(start..end))
    }

    fn read_link(&self, ino: LayerIno) -> Result<Vec<u8>, LayerError> {
        let fd = self.object(ino, false)?;
        let target = rustix::fs::readlinkat(&*fd, "", Vec::new());
        Ok(target.map_err(|errno| self.failed(ino, errno))?.into_bytes())
    }

    fn xattrs(&self, ino: LayerIno) -> Result<Vec<Xattr>, LayerError> {
        let mut xattrs = self.all_xattrs(ino)?;
        xattrs.retain(|(name, _)| !overlayfs::PREFIXES.iter().any(|p| name.starts_with(p)));
        Ok(xattrs)
    }

    fn is_opaque(&self, dir: LayerIno) -> Result<bool, LayerError> {
        let xattrs = self.all_xattrs(dir)?;
        Ok(xattrs.iter().any(|(name, value)| OPAQUE.contains(&&name[..]) && **value == *b"y"))
    }
}

impl DirectoryState {
    /// Returns the number and the attributes of an object, after adding it if it is new; `None` if
    /// its type is unknown.
    fn add(&mut self, stat: &Stat, parent: u64, name: &[u8]) -> Option<(u64, Attr)> {
        let identity = identity(stat);
        if let Some(&ino) = self.by_identity.get(&identity) {
            return self.nodes.get(ino as usize).map(|node| (ino, node.attr));
        }
        let attr = attr(stat)?;
        let ino = self.nodes.len() as u64;
        self.nodes.push(DirectoryNode { identity, attr, parent, name: name.into() });
        self.by_identity.insert(identity, ino);
        Some((ino, attr))
    }

    fn cached_fd(&mut self, ino: u64, readable: bool) -> Option<Arc<OwnedFd>> {
        let place = self.open.iter().position(|(kept, r, _)| (*kept, *r) == (ino, readable))?;
        let kept = self.open.remove(place);
        let fd = kept.2.clone();
        self.open.push(kept);
        Some(fd)
    }

    fn cache_fd(&mut self, ino: u64, readable: bool, fd: Arc<OwnedFd>) {
        if self.open.len() >= MAX_CACHED_FDS {
            self.open.remove(0);
        }
        self.open.push((ino, readable, fd));
    }
}

fn identity(stat: &Stat) -> Identity {
    (stat.st_dev, stat.st_ino)
}

fn attr(stat: &Stat) -> Option<Attr> {
    let kind = FileType::from_mode(stat.st_mode)?;
    let rdev =
        Device { major: rustix::fs::major(stat.st_rdev), minor: rustix::fs::minor(stat.st_rdev) };
    let time = |secs: i64, nanos: u64| Time { secs, nanos: nanos as u32 };
    let has_size = matches!(kind, FileType::Regular | FileType::Symlink);
    Some(Attr {
        kind,
        mode: (stat.st_mode & 0o7777) as u16,
        uid: stat.st_uid,
        gid: stat.st_gid,
        size: if has_size { stat.st_size as u64 } else { 0 },
        allocated: stat.st_blocks as u64 * 512,
        rdev: if kind.is_device() { rdev } else { Device::default() },
        nlink: u32::try_from(stat.st_nlink).unwrap_or(u32::MAX),
        atime: time(stat.st_atime, stat.st_atime_nsec),
        mtime: time(stat.st_mtime, stat.st_mtime_nsec),
        ctime: time(stat.st_ctime, stat.st_ctime_nsec),
    })
}

/// Calls a function that fills a buffer, with a buffer that is large enough.
fn with_growing_buffer(call: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut buf = vec![0; 1024];
    loop {
        match call(&mut buf) {
            Ok(length) => {
                buf.truncate(length);
                return Ok(buf);
            }
            // Linux limits names and values to 64 KiB.
            Err(Errno::RANGE) if buf.len() < 1 << 17 => {
                let length = buf.len() * 4;
                buf.resize(length, 0);
            }
            Err(errno) => return Err(errno),
        }
    }
}

mod overlayfs_check;
#[cfg(test)]
mod tests;
