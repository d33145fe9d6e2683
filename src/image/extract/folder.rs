//! Extracts parts of a view into a directory of the host.
//!
//! Invariants:
//! - Nothing is written outside of the directory, even if other users can write to it or beside it.
//!   Everything is created in a new private directory, the *stage*. It is accessed through its open
//!   descriptor, so renaming it has no effect, and no path in it leads through a link that we did
//!   not create ourselves. The results are then moved by renaming single names between open
//!   directories, without following links.
//! - Existing files are overwritten only with `force`. Conflicts and unwritable directories are
//!   detected before anything is moved.
//! - After an error or an interruption nothing is left. Only SIGKILL leaves the stage behind, a
//!   directory whose name begins with `.overcoat-extract.`.
//! - An existing directory keeps its owner and mode, and so do existing directories in it.
//! - Without root rights, owners, devices, some attributes and setuid and setgid bits are left out
//!   and counted.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use fs_model::FileType;
use fs_model::acl::{self, Acl};
use fs_model::stack::LowerInode;
use rustix::fs::{
    AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags, chmodat, chownat, linkat,
    lsetxattr, makedev, mkdirat, mknodat, openat, statat, symlinkat, utimensat,
};

use super::ExtractSelection;
use super::staging::{self, StagingDir};
use crate::image::view::{LookError, StackView, ViewNode, Visited};
use crate::text::escape::escape;

/// Maximum length of a path below the directory, in bytes. Together with the directory's own path
/// it must fit into `PATH_MAX`.
const PATH_LIMIT: usize = 3500;
/// Bytes written at a time.
const BUFFER_SIZE: usize = 256 << 10;

/// Extraction failed.
#[derive(Debug, thiserror::Error)]
pub enum ExtractError {
    /// The view cannot be read.
    #[error(transparent)]
    Look(#[from] LookError),
    /// The directory cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The path on the host.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// A file already exists.
    #[error(
        "{} already exists{}; nothing was written; --force overwrites files, never directories",
        path.display(),
        match more { 0 => String::new(), more => format!(", and {more} more that would be overwritten") }
    )]
    Exists {
        /// The first of them.
        path: PathBuf,
        /// The number of further files.
        more: usize,
    },
    /// A directory and a non-directory have the same path.
    #[error("{} already exists and cannot be overwritten: only one of the two is a directory", path.display())]
    InTheWay {
        /// The existing path.
        path: PathBuf,
    },
    /// Another file system is mounted in the directory.
    #[error(
        "{} is on another file system than its target directory; nothing was written; unmount it first",
        path.display()
    )]
    Mounted {
        /// The path on the host.
        path: PathBuf,
    },
    /// A path is too long for the host.
    #[error("/{}: the path is longer than {PATH_LIMIT} bytes", fs_model::error::shorten(&escape(path)))]
    TooLong {
        /// The path.
        path: Vec<u8>,
    },
    /// The caller stopped the extraction.
    #[error("stopped")]
    Stopped,
}

/// The numbers of extracted and omitted items.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extracted {
    /// Number of entries.
    pub entries: u64,
    /// Bytes of files.
    pub bytes: u64,
    /// Number of entries that belong to the user instead of their owner.
    pub owners: u64,
    /// Number of files whose setuid or setgid bit was left out.
    pub setuid: u64,
    /// Number of device nodes that were left out.
    pub devices: u64,
    /// Number of extended attributes that were left out.
    pub xattrs: u64,
}

/// Extracts the nodes in `selection` into the directory `target`, which is created if it does not
/// exist. `stop` is polled during the extraction.
///
/// # Errors
/// See [`ExtractError`]. The directory is then unchanged.
pub fn extract(
    view: &StackView,
    selection: &ExtractSelection,
    target: &Path,
    force: bool,
    stop: &dyn Fn() -> bool,
) -> Result<Extracted, ExtractError> {
    let exists = match std::fs::metadata(target) {
        Ok(metadata) if metadata.is_dir() => true,
        Ok(_) => return Err(ExtractError::InTheWay { path: target.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(source) => return Err(ExtractError::Write { path: target.to_owned(), source }),
    };
    // The stage must be on the file system of the target, because files are moved by renaming.
    let parent = match target.parent().filter(|_| !exists) {
        None if exists => target,
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let stage = StagingDir::new(parent)?;
    let mut extraction = Extraction {
        view,
        selection,
        dir: stage.dir(),
        target,
        root: rustix::process::geteuid().is_root(),
        stop,
        links: HashMap::new(),
        done: Extracted::default(),
        buffer: vec![0; BUFFER_SIZE],
    };
    extraction.create_all()?;
    if exists {
        let (done, root) = (extraction.done, extraction.root);
        staging::move_into(&stage, target, force, root)?;
        return Ok(done);
    }
    stage.rename_to(target, || {
        // Only now: the attributes of the root may let other users in.
        extraction.attributes(&view.root()?)?;
        Ok(extraction.done)
    })
}

struct Extraction<'a> {
    view: &'a StackView,
    selection: &'a ExtractSelection,
    /// The descriptor of the stage.
    dir: BorrowedFd<'a>,
    /// The final path, for messages.
    target: &'a Path,
    root: bool,
    stop: &'a dyn Fn() -> bool,
    /// The first path of each file with several hard links.
    links: HashMap<LowerInode, Vec<u8>>,
    done: Extracted,
    buffer: Vec<u8>,
}

impl Extraction<'_> {
    /// Creates everything except the attributes of the root.
    fn create_all(&mut self) -> Result<(), ExtractError> {
        let root = self.view.root()?;
        let mut visited = Visited::default();
        visited.enter(self.view, &root)?;
        let mut pending = vec![(self.children(&root)?.into_iter(), root)];
        while let Some((listing, dir)) = pending.last_mut() {
            let Some(node) = listing.next() else {
                // The attributes of a directory are set after its entries were created.
                let dir = dir.clone();
                pending.pop();
                if !dir.path.is_empty() {
                    self.attributes(&dir)?;
                }
                continue;
            };
            if (self.stop)() {
                return Err(ExtractError::Stopped);
            }
            if node.path.len() > PATH_LIMIT {
                return Err(ExtractError::TooLong { path: node.path });
            }
            self.done.entries += 1;
            if node.is_dir() {
                visited.enter(self.view, &node)?;
                mkdirat(self.dir, &node.path[..], Mode::RWXU).map_err(self.failed(&node))?;
                pending.push((self.children(&node)?.into_iter(), node));
            } else {
                self.object(&node)?;
            }
        }
        Ok(())
    }

    fn children(&self, dir: &ViewNode) -> Result<Vec<ViewNode>, LookError> {
        let mut children = self.view.children(dir)?;
        children.retain(|node| self.selection.contains(&node.path));
        Ok(children)
    }

    fn failed<E: Into<io::Error>>(&self, node: &ViewNode) -> impl Fn(E) -> ExtractError {
        let path = self.target.join(OsStr::from_bytes(&node.path));
        move |error| ExtractError::Write { path: path.clone(), source: error.into() }
    }

    fn object(&mut self, node: &ViewNode) -> Result<(), ExtractError> {
        let (dir, path) = (self.dir, &node.path[..]);
        let source = node.found.source();
        if node.attr.nlink > 1 {
            if let Some(first) = self.links.get(&source) {
                return linkat(dir, &first[..], dir, path, AtFlags::empty())
                    .map_err(self.failed(node));
            }
            self.links.insert(source, path.to_vec());
        }
        match node.attr.kind {
            FileType::Directory => return Ok(()),
            FileType::Regular => self.file(node)?,
            FileType::Symlink => {
                let target = self.view.link(node)?;
                symlinkat(&target[..], dir, path).map_err(self.failed(node))?;
            }
            kind => {
                if kind.is_device() && !self.root {
                    self.done.devices += 1;
                    self.done.entries -= 1;
                    self.links.remove(&source);
                    return Ok(());
                }
                let file_type = match kind {
                    FileType::CharDevice => rustix::fs::FileType::CharacterDevice,
                    FileType::BlockDevice => rustix::fs::FileType::BlockDevice,
                    FileType::Socket => rustix::fs::FileType::Socket,
                    _ => rustix::fs::FileType::Fifo,
                };
                let device = makedev(node.attr.rdev.major, node.attr.rdev.minor);
                mknodat(dir, path, file_type, Mode::RUSR | Mode::WUSR, device)
                    .map_err(self.failed(node))?;
            }
        }
        self.attributes(node)
    }

    /// Writes the data of a file; holes stay holes.
    fn file(&mut self, node: &ViewNode) -> Result<(), ExtractError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = openat(self.dir, &node.path[..], flags, Mode::RUSR | Mode::WUSR);
        let file = File::from(file.map_err(self.failed(node))?);
        file.set_len(node.attr.size).map_err(self.failed(node))?;
        let mut offset = 0;
        while let Some(data) = self.view.next_data(node, offset)? {
            offset = data.start;
            while offset < data.end {
                if (self.stop)() {
                    return Err(ExtractError::Stopped);
                }
                let most =
                    usize::try_from(data.end - offset).unwrap_or(BUFFER_SIZE).min(BUFFER_SIZE);
                let read = self.view.read_at(node, offset, &mut self.buffer[..most])?;
                if read == 0 {
                    break;
                }
                file.write_all_at(&self.buffer[..read], offset).map_err(self.failed(node))?;
                offset += read as u64;
            }
            if offset < data.end {
                break;
            }
        }
        self.done.bytes = self.done.bytes.saturating_add(node.attr.size);
        Ok(())
    }

    fn attributes(&mut self, node: &ViewNode) -> Result<(), ExtractError> {
        let dir = self.dir;
        let path = if node.path.is_empty() { &b"."[..] } else { &node.path };
        let attr = &node.attr;
        let xattrs = self.view.xattrs(node)?;
        let list = xattrs.iter().find(|(name, _)| **name == *acl::ACCESS);
        let list = list.and_then(|(_, value)| Acl::parse(value));
        // A file system without ACLs keeps this mode. Elsewhere, setting the list replaces the
        // group bits by its mask.
        let mut mode = list.map_or(attr.mode, |list| list.plain_mode(attr.mode));
        if self.root {
            let (uid, gid) = (Uid::from_raw(attr.uid), Gid::from_raw(attr.gid));
            chownat(dir, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(self.failed(node))?;
        } else {
            let ours = statat(dir, path, AtFlags::SYMLINK_NOFOLLOW).map_err(self.failed(node))?;
            self.done.owners += u64::from((ours.st_uid, ours.st_gid) != (attr.uid, attr.gid));
            if !node.is_dir() {
                self.done.setuid += u64::from(mode & 0o6000 != 0);
                mode &= 0o1777;
            }
        }
        if !node.is_link() {
            chmodat(dir, path, Mode::from_raw_mode(mode.into()), AtFlags::empty())
                .map_err(self.failed(node))?;
        }
        if !xattrs.is_empty() {
            // There is no lsetxattr relative to a directory.
            let mut whole = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
            whole.extend_from_slice(path);
            for (name, value) in xattrs {
                if lsetxattr(&whole[..], &name[..], &value, XattrFlags::empty()).is_err() {
                    self.done.xattrs += 1;
                }
            }
        }
        let time =
            |time: fs_model::Time| Timespec { tv_sec: time.secs, tv_nsec: time.nanos.into() };
        let times =
            Timestamps { last_access: time(attr.mtime), last_modification: time(attr.mtime) };
        utimensat(dir, path, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(self.failed(node))?;
        Ok(())
    }
}
