//! Relations between the entries of an archive: parents, names, hard links.
//!
//! Memory is bounded: after [`MAX_NAME_BYTES`] of names or [`MAX_FAULTS`] faults of a lint, the
//! rest of the archive is read but not recorded.

use std::collections::BTreeMap;
use std::collections::HashMap;

use fs_model::FileType;

use super::parse::{NewcEntry, PATH_MAX};
use super::*;
use crate::text::escape::escape;

/// Maximum memory for names, in bytes.
const MAX_NAME_BYTES: usize = 1 << 30;
/// Maximum faults of one lint that are recorded.
const MAX_FAULTS: usize = 10_000;

/// A problem of an archive.
#[derive(Debug)]
pub(super) struct ArchiveFault {
    pub(super) lint: &'static Lint,
    pub(super) severity: Severity,
    pub(super) path: Option<Vec<u8>>,
    pub(super) message: String,
}

/// The entries read so far, and their faults.
pub(super) struct EntryRelations {
    faults: BTreeMap<&'static str, Vec<ArchiveFault>>,
    names: HashMap<Box<[u8]>, SeenName>,
    links: HashMap<([u32; 2], u32, FileType), FirstLink>,
    /// Parent directories that had no entry when a child was read: the path of the first such
    /// child, and the number of such children.
    missing: BTreeMap<Box<[u8]>, (Vec<u8>, usize)>,
    /// Bytes of recorded names.
    name_bytes: usize,
    /// Number of archives that have ended.
    archive: usize,
    has_root: bool,
    /// Whether an entry of the current archive has been read.
    begun: bool,
    /// Whether the current archive is marked: its `.wh.` names are regular files.
    marked: bool,
    pub(super) last: Option<NewcEntry>,
}

struct SeenName {
    archive: usize,
    kind: FileType,
    mode: u32,
    owner: [u32; 2],
}

/// The first name of an inode that has several.
struct FirstLink {
    path: Vec<u8>,
    mode: u32,
    owner: [u32; 2],
    mtime: u32,
    /// Size and CRC-32 of the content, if it has any.
    content: Option<(u32, u32)>,
}

impl EntryRelations {
    pub(super) fn new() -> Self {
        EntryRelations {
            faults: BTreeMap::new(),
            names: HashMap::new(),
            links: HashMap::new(),
            missing: BTreeMap::new(),
            name_bytes: 0,
            archive: 0,
            has_root: false,
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
        let severity = lint.severity;
        let faults = self.faults.entry(lint.name).or_default();
        if faults.len() < MAX_FAULTS {
            let path = path.map(<[u8]>::to_vec);
            faults.push(ArchiveFault { lint, severity, path, message: message.into() });
        }
    }

    /// Ends an archive: inode numbers are per archive.
    pub(super) fn end_of_archive(&mut self) {
        self.links.clear();
        self.archive += 1;
        (self.begun, self.marked) = (false, false);
    }

    /// Returns the number of archives that have ended.
    pub(super) fn archives(&self) -> usize {
        self.archive
    }

    pub(super) fn entry(&mut self, entry: NewcEntry) {
        if !std::mem::replace(&mut self.begun, true) {
            self.marked = entry.header.marked && normalise(&entry.name).is_empty();
        }
        if let Some(path) = self.check_name(&entry) {
            self.check_links(&entry, &path);
        }
        self.last = Some(entry);
    }

    /// Checks the header and the name of an entry, and returns its path; `None` if an unpacker
    /// drops it or writes it outside the target directory.
    fn check_name(&mut self, entry: &NewcEntry) -> Option<Vec<u8>> {
        let path = normalise(&entry.name);
        let shown = &path[..];
        if entry.header.name_size as usize > PATH_MAX {
            let message = format!(
                "its name has {} bytes; the kernel drops entries with more than {PATH_MAX}",
                entry.header.name_size
            );
            self.fault(&DROPPED, Some(shown), message);
            return None;
        }
        if !entry.name_ends {
            self.fault(
                &DROPPED,
                Some(shown),
                "its name does not end with a NUL at the stated size",
            );
            return None;
        }
        let Some(kind) = entry.kind() else {
            self.fault(
                &DROPPED,
                Some(shown),
                format!("mode {:o} has an unknown file type", entry.header.mode),
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
            self.fault(&CHECKSUM, Some(shown), "the content does not match the header's checksum");
        }
        if entry.name.starts_with(b"/") {
            let message = format!("its name is {}", escape(&entry.name));
            self.fault(&ABSOLUTE_NAME, Some(shown), message);
        }
        if entry.name.split(|&byte| byte == b'/').any(|name| name == b"..") {
            let message = format!("its name is {}", escape(&entry.name));
            self.fault(&DOTDOT_NAME, Some(shown), message);
            return None;
        }
        if path.is_empty() {
            self.has_root = true;
            return Some(path);
        }
        self.check_parent(&path);
        self.record_name(entry, kind, &path);
        let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
        if !self.marked && name.starts_with(b".wh.") && kind == FileType::Regular {
            self.fault(&WHITEOUT_NAME, Some(&path), "a regular file with the name of a whiteout");
        }
        Some(path)
    }

    fn check_parent(&mut self, path: &[u8]) {
        let Some(slash) = path.iter().rposition(|&byte| byte == b'/') else { return };
        let parent = &path[..slash];
        match self.names.get(parent).map(|seen| seen.kind) {
            Some(FileType::Directory) => {}
            Some(FileType::Symlink) => {
                let message =
                    format!("its parent /{} is a symbolic link in the archive", escape(parent));
                self.fault(&THROUGH_LINK, Some(path), message);
            }
            Some(_) => {
                let message = format!("its parent /{} is not a directory", escape(parent));
                self.fault(&MISSING_PARENT, Some(path), message);
            }
            None if self.missing.contains_key(parent)
                || self.reserve(parent.len() + path.len()) =>
            {
                let first = self.missing.entry(parent.into()).or_insert_with(|| (path.to_vec(), 0));
                first.1 += 1;
            }
            None => {}
        }
    }

    fn record_name(&mut self, entry: &NewcEntry, kind: FileType, path: &[u8]) {
        let seen = SeenName {
            archive: self.archive,
            kind,
            mode: entry.header.mode,
            owner: [entry.header.uid, entry.header.gid],
        };
        let Some(before) = self.names.get_mut(path) else {
            if self.reserve(path.len()) {
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
                "the archive has several different entries for it",
            );
        }
    }

    /// Accounts for `bytes` more of names; returns false if the limit is exceeded.
    fn reserve(&mut self, bytes: usize) -> bool {
        // An entry of the tables takes about 128 bytes.
        self.name_bytes = self.name_bytes.saturating_add(bytes + 128);
        self.name_bytes < MAX_NAME_BYTES
    }

    fn check_links(&mut self, entry: &NewcEntry, path: &[u8]) {
        let Some(kind) = entry.kind() else { return };
        if entry.header.nlink < 2 || kind == FileType::Directory {
            return;
        }
        let content = (entry.header.size > 0).then_some((entry.header.size, entry.crc));
        let owner = [entry.header.uid, entry.header.gid];
        let Some(first) = self.links.get_mut(&(entry.header.dev, entry.header.ino, kind)) else {
            if self.reserve(path.len()) {
                let (mode, mtime) = (entry.header.mode, entry.header.mtime);
                let first = FirstLink { path: path.to_vec(), mode, owner, mtime, content };
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
                    "same inode number as {other}, but different {what}: inode {} of device {}:{}",
                    entry.header.ino, entry.header.dev[0], entry.header.dev[1]
                );
                self.fault(&SHARED_INODE, Some(path), message);
            }
            (FileType::Regular, None) => {}
            (_, None) => self.fault(&SPLIT_LINK, Some(path), format!("a hard link to {other}")),
        }
    }

    /// Returns the faults after the whole archive was read.
    pub(super) fn finish(mut self) -> Vec<ArchiveFault> {
        for (parent, (first, count)) in std::mem::take(&mut self.missing) {
            let more = count - 1;
            let here = escape(&parent).into_owned();
            match self.names.get(&parent) {
                Some(_) => {
                    let others = match more {
                        0 => String::new(),
                        _ => format!(", as do {more} more entries"),
                    };
                    let message = format!("it precedes its directory /{here}{others}");
                    self.fault(&ORDER, Some(&first), message);
                }
                None => {
                    let others = match more {
                        0 => String::new(),
                        _ => format!(", which has {more} more entries"),
                    };
                    let message = format!("no entry for its directory /{here}{others}");
                    self.fault(&MISSING_PARENT, Some(&first), message);
                }
            }
        }
        if !self.has_root && !self.names.is_empty() {
            self.fault(&NO_ROOT, None, "no entry `.`");
        }
        self.faults.into_values().flatten().collect()
    }
}

/// Normalises an entry name to a path from the root.
fn normalise(name: &[u8]) -> Vec<u8> {
    let names = name.split(|&byte| byte == b'/').filter(|name| !name.is_empty() && *name != b".");
    names.collect::<Vec<_>>().join(&b'/')
}
