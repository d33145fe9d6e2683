//! What the entries of an archive are to each other: parents, names, links.
//!
//! Memory is bounded: an archive with more than [`MOST_NAMES`] bytes of names, or an endless number
//! of faults, is read on, but no more is kept of it.

use std::collections::BTreeMap;
use std::collections::HashMap;

use fs_model::FileType;

use super::parse::{Entry, PATH_MAX};
use super::*;
use crate::seal::path::escape;

/// The most that is kept of names, in bytes.
const MOST_NAMES: usize = 1 << 30;
/// The most faults of one lint that are kept.
const MOST_FAULTS: usize = 10_000;

/// Something wrong.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) lint: &'static Lint,
    pub(super) severity: Severity,
    pub(super) path: Option<Vec<u8>>,
    pub(super) message: String,
}

/// What is known of the entries so far.
pub(super) struct Ledger {
    faults: BTreeMap<&'static str, Vec<Fault>>,
    names: HashMap<Box<[u8]>, Seen>,
    links: HashMap<([u32; 2], u32, FileType), First>,
    /// Directories that were not there when something in them came: the first such thing, and how
    /// many there are.
    missing: BTreeMap<Box<[u8]>, (Vec<u8>, usize)>,
    kept: usize,
    archive: usize,
    root: bool,
    /// Whether an entry of this archive has been met.
    begun: bool,
    /// Whether this archive says that names of whiteouts are those of files.
    marked: bool,
    pub(super) last: Option<Entry>,
}

struct Seen {
    archive: usize,
    kind: FileType,
    mode: u32,
    owner: [u32; 2],
}

/// The first name of an inode that has several.
struct First {
    path: Vec<u8>,
    mode: u32,
    owner: [u32; 2],
    mtime: u32,
    /// Size and CRC of the content, where there was any.
    content: Option<(u32, u32)>,
}

impl Ledger {
    pub(super) fn new() -> Self {
        Ledger {
            faults: BTreeMap::new(),
            names: HashMap::new(),
            links: HashMap::new(),
            missing: BTreeMap::new(),
            kept: 0,
            archive: 0,
            root: false,
            begun: false,
            marked: false,
            last: None,
        }
    }

    pub(super) fn fault(
        &mut self,
        lint: &'static Lint,
        path: Option<&[u8]>,
        message: impl Into<String>,
    ) {
        self.lesser(lint, lint.severity, path, message);
    }

    fn lesser(
        &mut self,
        lint: &'static Lint,
        severity: Severity,
        path: Option<&[u8]>,
        message: impl Into<String>,
    ) {
        let faults = self.faults.entry(lint.name).or_default();
        if faults.len() < MOST_FAULTS {
            let path = path.map(<[u8]>::to_vec);
            faults.push(Fault { lint, severity, path, message: message.into() });
        }
    }

    /// The archive is at its end: inode numbers mean other objects from now on.
    pub(super) fn end_of_archive(&mut self) {
        self.links.clear();
        self.archive += 1;
        (self.begun, self.marked) = (false, false);
    }

    /// How many archives have ended.
    pub(super) fn archives(&self) -> usize {
        self.archive
    }

    pub(super) fn entry(&mut self, entry: Entry) {
        if !std::mem::replace(&mut self.begun, true) {
            self.marked = entry.header.marked && normal(&entry.name).is_empty();
        }
        let path = self.place(&entry);
        if let Some(path) = path {
            self.links(&entry, &path);
        }
        self.last = Some(entry);
    }

    /// Where an entry is put, if anywhere; and what is wrong with its name.
    fn place(&mut self, entry: &Entry) -> Option<Vec<u8>> {
        let path = normal(&entry.name);
        let shown = &path[..];
        if entry.header.name_size as usize > PATH_MAX {
            let message = format!(
                "its name takes {} bytes; the kernel drops what has more than {PATH_MAX}",
                entry.header.name_size
            );
            self.fault(&DROPPED, Some(shown), message);
            return None;
        }
        if !entry.name_ends {
            self.fault(&DROPPED, Some(shown), "its name does not end where its header says");
            return None;
        }
        let Some(kind) = entry.kind() else {
            self.fault(
                &DROPPED,
                Some(shown),
                format!("mode {:o} is of no type that there is", entry.header.mode),
            );
            return None;
        };
        if kind == FileType::Symlink && entry.header.size == 0 {
            self.fault(&DROPPED, Some(shown), "a symbolic link without a target");
            return None;
        }
        if kind == FileType::Symlink && entry.header.size as usize > PATH_MAX - 1 {
            self.fault(
                &DROPPED,
                Some(shown),
                format!("a symbolic link with a target of {} bytes", entry.header.size),
            );
            return None;
        }
        if !entry.sum {
            self.fault(&CHECKSUM, Some(shown), "the sum of its bytes is not what its header says");
        }
        if entry.name.starts_with(b"/") {
            let message = format!("it is called {}, from the root on", escape(&entry.name));
            self.fault(&ABSOLUTE_NAME, Some(shown), message);
        }
        if entry.name.split(|&byte| byte == b'/').any(|name| name == b"..") {
            let message = format!("it is called {}", escape(&entry.name));
            self.fault(&DOTDOT_NAME, Some(shown), message);
            return None;
        }
        if path.is_empty() {
            self.root = true;
            return Some(path);
        }
        self.parent(&path);
        self.name(entry, kind, &path);
        let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
        if !self.marked && name.starts_with(b".wh.") && kind == FileType::Regular {
            self.fault(&WHITEOUT_NAME, Some(&path), "a file whose name makes it a deletion");
        }
        Some(path)
    }

    fn parent(&mut self, path: &[u8]) {
        let Some(slash) = path.iter().rposition(|&byte| byte == b'/') else { return };
        let parent = &path[..slash];
        match self.names.get(parent).map(|seen| seen.kind) {
            Some(FileType::Directory) => {}
            Some(FileType::Symlink) => {
                let message = format!("/{} is a symbolic link of the same archive", escape(parent));
                self.fault(&THROUGH_LINK, Some(path), message);
            }
            Some(_) => {
                let message = format!("/{}, which it is in, is no directory", escape(parent));
                self.fault(&MISSING_PARENT, Some(path), message);
            }
            None if self.missing.contains_key(parent) || self.room(parent.len() + path.len()) => {
                let first = self.missing.entry(parent.into()).or_insert_with(|| (path.to_vec(), 0));
                first.1 += 1;
            }
            None => {}
        }
    }

    fn name(&mut self, entry: &Entry, kind: FileType, path: &[u8]) {
        let seen = Seen {
            archive: self.archive,
            kind,
            mode: entry.header.mode,
            owner: [entry.header.uid, entry.header.gid],
        };
        let Some(before) = self.names.get_mut(path) else {
            if self.room(path.len()) {
                self.names.insert(path.into(), seen);
            }
            return;
        };
        let again = before.archive == seen.archive;
        let same = kind == FileType::Directory
            && before.kind == kind
            && (before.mode, before.owner) == (seen.mode, seen.owner);
        *before = seen;
        if again && !same {
            self.fault(
                &DUPLICATE_NAME,
                Some(path),
                "it is in the archive more than once, and not the same",
            );
        }
    }

    /// Whether there is room for so many more bytes of names.
    fn room(&mut self, bytes: usize) -> bool {
        // And what the tables take for each.
        self.kept = self.kept.saturating_add(bytes + 128);
        self.kept < MOST_NAMES
    }

    fn links(&mut self, entry: &Entry, path: &[u8]) {
        let Some(kind) = entry.kind() else { return };
        if entry.header.nlink < 2 || kind == FileType::Directory {
            return;
        }
        let content = (entry.header.size > 0).then_some((entry.header.size, entry.crc));
        let owner = [entry.header.uid, entry.header.gid];
        let Some(first) = self.links.get_mut(&(entry.header.dev, entry.header.ino, kind)) else {
            if self.room(path.len()) {
                let (mode, mtime) = (entry.header.mode, entry.header.mtime);
                let first = First { path: path.to_vec(), mode, owner, mtime, content };
                self.links.insert((entry.header.dev, entry.header.ino, kind), first);
            }
            return;
        };
        if first.path == path {
            return;
        }
        let other = format!("/{}", escape(&first.path));
        let differ = match (first.content, content) {
            (Some(a), Some(b)) if a != b => Some("contents"),
            _ if first.mode != entry.header.mode => Some("modes"),
            _ if first.owner != owner => Some("owners"),
            _ if first.mtime != entry.header.mtime => Some("times"),
            _ => None,
        };
        first.content = first.content.or(content);
        match (kind, differ) {
            (_, Some(what)) => {
                let message = format!(
                    "it has the inode number of {other} and another of its {what}: {} of device {}:{}",
                    entry.header.ino, entry.header.dev[0], entry.header.dev[1]
                );
                self.fault(&SHARED_INODE, Some(path), message);
            }
            (FileType::Regular, None) => {}
            (_, None) => {
                self.fault(&SPLIT_LINK, Some(path), format!("it is a hard link of {other}"))
            }
        }
    }

    /// What was wrong, once all of it was read.
    pub(super) fn finish(mut self) -> Vec<Fault> {
        for (parent, (first, count)) in std::mem::take(&mut self.missing) {
            let others = match count - 1 {
                0 => String::new(),
                more => format!(" and {more} more entries in it"),
            };
            let here = escape(&parent).into_owned();
            match self.names.get(&parent) {
                Some(_) => {
                    let message = format!(
                        "it comes before its directory /{here}{}",
                        if count > 1 {
                            format!(", as do {} more", count - 1)
                        } else {
                            String::new()
                        }
                    );
                    self.fault(&ORDER, Some(&first), message);
                }
                None => {
                    let message = format!("there is no entry for its directory /{here}{others}");
                    self.fault(&MISSING_PARENT, Some(&first), message);
                }
            }
        }
        if !self.root && !self.names.is_empty() {
            self.fault(&NO_ROOT, None, "there is no entry `.`");
        }
        self.faults.into_values().flatten().collect()
    }
}

/// A name as a path from the root.
fn normal(name: &[u8]) -> Vec<u8> {
    let names = name.split(|&byte| byte == b'/').filter(|name| !name.is_empty() && *name != b".");
    names.collect::<Vec<_>>().join(&b'/')
}
