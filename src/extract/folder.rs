//! Taking objects out of a view into a folder of the host.
//!
//! Invariants:
//! - Nothing is written outside of the folder: all is made in a new directory of ours, in which no
//!   name stands twice and no link is gone through, and goes to its place from there. In a folder
//!   that is there, no link is followed either.
//! - Nothing that is there is overwritten unless that is asked for, and whether something is, is
//!   found before anything gets to its place.
//! - What fails or is stopped leaves nothing. (Who kills the process leaves the directory, which is
//!   called `.overcoat-extract.PID`.)
//! - Who is not root cannot make other owners, devices, some attributes, and should not make
//!   programs that run with their own rights for everybody: that is left out, and counted.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use fs_model::FileType;
use fs_model::stack::Source;
use rustix::fs::{
    AtFlags, CWD, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags, chownat, lsetxattr, makedev,
    mkdirat, mknodat, symlinkat, utimensat,
};

use super::{Selection, settle};
use crate::look::{LookError, Node, View};
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
    let mut stage = settle::Stage::new(place)?;
    let root = rustix::process::geteuid().is_root();
    let mut extraction = Extraction {
        view,
        selection,
        stage: stage.path().to_owned(),
        root,
        stop,
        links: HashMap::new(),
        done: Extracted::default(),
        buffer: vec![0; BUFFER],
    };
    extraction.everything()?;
    let done = extraction.done;
    if there {
        settle::into(&stage, target, force, root)?;
    } else {
        stage.becomes(target)?;
    }
    Ok(done)
}

struct Extraction<'a> {
    view: &'a View,
    selection: &'a Selection,
    stage: PathBuf,
    root: bool,
    stop: &'a dyn Fn() -> bool,
    /// Where the first name of a file with several is.
    links: HashMap<Source, PathBuf>,
    done: Extracted,
    buffer: Vec<u8>,
}

impl Extraction<'_> {
    fn everything(&mut self) -> Result<(), ExtractError> {
        let root = self.view.root()?;
        let mut pending = vec![(self.children(&root)?.into_iter(), root)];
        while let Some((listing, dir)) = pending.last_mut() {
            let Some(node) = listing.next() else {
                // A directory gets what it is like when all is in it.
                let dir = dir.clone();
                pending.pop();
                self.attributes(&dir)?;
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
                let path = self.path(&node);
                mkdirat(CWD, &path, Mode::from_raw_mode(0o700)).map_err(failed(&path))?;
                // No path is so long that a directory in itself would not be found here.
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

    fn path(&self, node: &Node) -> PathBuf {
        match node.path.is_empty() {
            true => self.stage.clone(),
            false => self.stage.join(OsStr::from_bytes(&node.path)),
        }
    }

    fn object(&mut self, node: &Node) -> Result<(), ExtractError> {
        let path = self.path(node);
        let source = node.found.source();
        if node.attr.nlink > 1 {
            if let Some(first) = self.links.get(&source) {
                return std::fs::hard_link(first, &path)
                    .map_err(|source| ExtractError::Write { path, source });
            }
            self.links.insert(source, path.clone());
        }
        match node.attr.kind {
            FileType::Directory => return Ok(()),
            FileType::Regular => self.file(node, &path)?,
            FileType::Symlink => {
                let target = self.view.link(node)?;
                symlinkat(&target[..], CWD, &path).map_err(failed(&path))?;
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
                mknodat(CWD, &path, file_type, Mode::from_raw_mode(0o600), device)
                    .map_err(failed(&path))?;
            }
        }
        self.attributes(node)
    }

    /// Writes a file's data, and no holes.
    fn file(&mut self, node: &Node, path: &Path) -> Result<(), ExtractError> {
        let wrong = |source| ExtractError::Write { path: path.to_owned(), source };
        let open = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let file: File = open.map_err(wrong)?;
        file.set_len(node.attr.size).map_err(wrong)?;
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
                file.write_all_at(&self.buffer[..read], offset).map_err(wrong)?;
                offset += read as u64;
            }
            if offset < data.end {
                break;
            }
        }
        self.done.bytes += node.attr.size;
        Ok(())
    }

    fn attributes(&mut self, node: &Node) -> Result<(), ExtractError> {
        let path = self.path(node);
        let attr = &node.attr;
        let mut mode = attr.mode;
        if self.root {
            let (uid, gid) = (Uid::from_raw(attr.uid), Gid::from_raw(attr.gid));
            chownat(CWD, &path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(failed(&path))?;
        } else {
            let ours = std::fs::symlink_metadata(&path);
            let ours = ours.map_err(|source| ExtractError::Write { path: path.clone(), source })?;
            self.done.owners += u64::from((ours.uid(), ours.gid()) != (attr.uid, attr.gid));
            self.done.setuid += u64::from(!node.is_dir() && mode & 0o6000 != 0);
            mode &= 0o1777;
        }
        if !node.is_link() {
            rustix::fs::chmod(&path, Mode::from_raw_mode(mode.into())).map_err(failed(&path))?;
        }
        for (name, value) in self.view.xattrs(node)? {
            if lsetxattr(&path, &name[..], &value, XattrFlags::empty()).is_err() {
                self.done.xattrs += 1;
            }
        }
        let time =
            |time: fs_model::Time| Timespec { tv_sec: time.secs, tv_nsec: time.nanos.into() };
        let times =
            Timestamps { last_access: time(attr.mtime), last_modification: time(attr.mtime) };
        utimensat(CWD, &path, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(failed(&path))?;
        Ok(())
    }
}

fn failed(path: &Path) -> impl Fn(rustix::io::Errno) -> ExtractError {
    move |errno| ExtractError::Write { path: path.to_owned(), source: errno.into() }
}
