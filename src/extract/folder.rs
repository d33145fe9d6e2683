//! Taking objects out of a view into a folder of the host.
//!
//! Invariants:
//! - Nothing is written outside of the folder, whoever else may write to it or beside it. All is made
//!   in a new directory of ours, the *stage*, which nobody else can get into as long as it is one:
//!   what is done in there is named from its open descriptor, so that renaming it leads nowhere else,
//!   and no name on the way is a link, for we made them. From there it goes to its place by renaming
//!   single names between open directories, without following a link.
//! - Nothing that is there is overwritten unless that is asked for. Whether something is, and whether
//!   the directories can be written to, is found before anything gets to its place.
//! - What fails or is stopped leaves nothing. (Who kills the process leaves the directory, which is
//!   called `.overcoat-extract.` and something.)
//! - A folder that is there keeps its own owner and mode, as the directories in it do.
//! - Who is not root cannot make other owners, devices, some attributes, and should not make
//!   programs that run with their own rights for everybody: that is left out, and counted.

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

use super::Selection;
use super::settle::{self, Stage};
use crate::look::{LookError, Node, View, Visited};
use crate::seal::path::escape;

/// The longest path below the folder, in bytes: with what comes before it, it has to fit into the
/// kernel's `PATH_MAX`.
const PATH_LIMIT: usize = 3500;
/// Bytes that are written at a time.
const BUFFER: usize = 256 << 10;

/// It cannot be taken out.
#[derive(Debug, thiserror::Error)]
pub enum ExtractError {
    /// Looking at it.
    #[error(transparent)]
    Look(#[from] LookError),
    /// The host.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something is there already.
    #[error(
        "{} is there already{}; nothing was written; --force overwrites files, never directories",
        path.display(),
        match more { 0 => String::new(), more => format!(", and {more} more that would be overwritten") }
    )]
    Exists {
        /// The first.
        path: PathBuf,
        /// How many more.
        more: usize,
    },
    /// A directory is in the way of something else, or the other way round.
    #[error("{} is in the way: one of the two is a directory, so it is not overwritten", path.display())]
    InTheWay {
        /// What is there.
        path: PathBuf,
    },
    /// Another file system is mounted in the folder.
    #[error(
        "{} is on another file system than the folder: nothing can be moved there at once; nothing \
         was written; unmount it first",
        path.display()
    )]
    Mounted {
        /// Where.
        path: PathBuf,
    },
    /// A path that the host cannot have.
    #[error("/{}: the path is longer than {PATH_LIMIT} bytes", fs_model::error::shorten(&escape(path)))]
    TooLong {
        /// The path.
        path: Vec<u8>,
    },
    /// It was asked to stop.
    #[error("stopped")]
    Stopped,
}

/// What was taken out, and what could not be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extracted {
    /// Names.
    pub entries: u64,
    /// Bytes of files.
    pub bytes: u64,
    /// Objects whose owner is now who extracted.
    pub owners: u64,
    /// Files whose setuid or setgid bit was left out.
    pub setuid: u64,
    /// Device nodes that were left out.
    pub devices: u64,
    /// Extended attributes that were left out.
    pub xattrs: u64,
}

/// Takes what `selection` has into the folder at `target`, which is made if it is not there.
/// `stop` is asked again and again.
///
/// # Errors
/// See [`ExtractError`]; the folder is then as it was.
pub fn extract(
    view: &View,
    selection: &Selection,
    target: &Path,
    force: bool,
    stop: &dyn Fn() -> bool,
) -> Result<Extracted, ExtractError> {
    let there = match std::fs::metadata(target) {
        Ok(metadata) if metadata.is_dir() => true,
        Ok(_) => return Err(ExtractError::InTheWay { path: target.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(source) => return Err(ExtractError::Write { path: target.to_owned(), source }),
    };
    // On the same file system, so that it gets to its place by renaming.
    let place = match target.parent().filter(|_| !there) {
        None if there => target,
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let stage = Stage::new(place)?;
    let mut extraction = Extraction {
        view,
        selection,
        dir: stage.dir(),
        target,
        root: rustix::process::geteuid().is_root(),
        stop,
        links: HashMap::new(),
        done: Extracted::default(),
        buffer: vec![0; BUFFER],
    };
    extraction.everything()?;
    if there {
        let (done, root) = (extraction.done, extraction.root);
        settle::into(&stage, target, force, root)?;
        return Ok(done);
    }
    stage.becomes(target, || {
        // Not before: with them, others could get in.
        extraction.attributes(&view.root()?)?;
        Ok(extraction.done)
    })
}

struct Extraction<'a> {
    view: &'a View,
    selection: &'a Selection,
    /// The stage.
    dir: BorrowedFd<'a>,
    /// Where it will be, for messages.
    target: &'a Path,
    root: bool,
    stop: &'a dyn Fn() -> bool,
    /// Where the first name of a file with several is.
    links: HashMap<LowerInode, Vec<u8>>,
    done: Extracted,
    buffer: Vec<u8>,
}

impl Extraction<'_> {
    /// Makes everything, but for what the root itself is like.
    fn everything(&mut self) -> Result<(), ExtractError> {
        let root = self.view.root()?;
        let mut visited = Visited::default();
        visited.enter(self.view, &root)?;
        let mut pending = vec![(self.children(&root)?.into_iter(), root)];
        while let Some((listing, dir)) = pending.last_mut() {
            let Some(node) = listing.next() else {
                // A directory gets what it is like when all is in it.
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

    fn children(&self, dir: &Node) -> Result<Vec<Node>, LookError> {
        let mut children = self.view.children(dir)?;
        children.retain(|node| self.selection.has(&node.path));
        Ok(children)
    }

    fn failed<E: Into<io::Error>>(&self, node: &Node) -> impl Fn(E) -> ExtractError {
        let path = self.target.join(OsStr::from_bytes(&node.path));
        move |error| ExtractError::Write { path: path.clone(), source: error.into() }
    }

    fn object(&mut self, node: &Node) -> Result<(), ExtractError> {
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

    /// Writes a file's data, and no holes.
    fn file(&mut self, node: &Node) -> Result<(), ExtractError> {
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
                let most = usize::try_from(data.end - offset).unwrap_or(BUFFER).min(BUFFER);
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

    fn attributes(&mut self, node: &Node) -> Result<(), ExtractError> {
        let dir = self.dir;
        let path = if node.path.is_empty() { &b"."[..] } else { &node.path };
        let attr = &node.attr;
        let xattrs = self.view.xattrs(node)?;
        let list = xattrs.iter().find(|(name, _)| **name == *acl::ACCESS);
        let list = list.and_then(|(_, value)| Acl::parse(value));
        // A folder whose file system has no access lists keeps this mode; elsewhere the list sets
        // the group's bits to its mask.
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
            // There is no call that takes a directory and a name.
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
