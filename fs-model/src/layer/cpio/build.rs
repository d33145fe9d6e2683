//! Builds the tree that the entries of an archive create when the kernel's initramfs unpacker
//! (`init/initramfs.c`) unpacks them into an empty directory.
//!
//! - An entry at an existing path replaces the object there. The attributes of a directory, and the
//!   content and attributes of a regular file, are replaced in place, so that other names of the
//!   file refer to the new content too.
//! - Names of the same inode (same device, number and type, more than one link) become one object,
//!   except for symlinks. Content of a later name replaces earlier content. Inode numbers are valid
//!   until the trailer of the archive.
//! - A symlink in the path of an entry is followed within the archive.
//! - For each name `.wh.NAME`, the last archive that contains it determines whether it is a
//!   whiteout or a file.
//!
//! Where the kernel silently drops an entry, this is an error, because the file would be missing on
//! a machine: if a parent is not in the archive, or if a directory with entries would be replaced
//! by another type.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::attr::{Attr, Device, FileType, Time};
use crate::layer::LayerDirEntry;
use crate::layer::archive_names::{ArchiveNames, MARKER, NAME_MAX, directory_links};

use super::header::Header;
use super::source::ContentBytes;

/// Maximum number of symlinks followed for one entry, as in Linux.
const MAX_LINKS: u32 = 40;

/// Maximum number of path components resolved after symlinks in all. Bounds the time for a crafted
/// archive.
const MAX_STEPS_BEHIND_LINKS: u32 = 2_000_000;

/// Index of the root in the list of nodes.
pub(super) const ROOT: usize = 0;

/// An object.
#[derive(Debug)]
pub(super) struct CpioNode {
    pub(super) kind: FileType,
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: u32,
    pub(super) rdev: Device,
    pub(super) nlink: u32,
    pub(super) data: CpioData,
}

/// The part of a node that depends on its type.
#[derive(Debug)]
pub(super) enum CpioData {
    None,
    File {
        size: u32,
        body: ContentBytes,
    },
    Target(Box<[u8]>),
    /// A directory during construction.
    Growing {
        parent: usize,
        children: BTreeMap<Box<[u8]>, usize>,
    },
    /// A directory of the finished tree.
    Directory {
        opaque: bool,
        entries: Vec<LayerDirEntry>,
    },
}

/// The content of an entry.
#[derive(Debug)]
pub(super) enum Payload {
    None,
    File(ContentBytes),
    Target(Box<[u8]>),
}

/// A tree under construction.
#[derive(Debug)]
pub(super) struct CpioTreeBuilder {
    nodes: Vec<CpioNode>,
    /// Inodes with several names, by device, number and type.
    links: HashMap<([u32; 2], u32, FileType), usize>,
    /// The parent of the previous entry and its path, because most consecutive entries have the
    /// same parent.
    recent: Option<(Box<[u8]>, usize)>,
    detours: u32,
    pos: ArchivePos,
    /// Names with the prefix of whiteouts that are files, with their directories.
    literal: HashSet<(usize, Box<[u8]>)>,
    describes_root: bool,
}

/// The state of the current archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ArchivePos {
    /// Before the first entry.
    Start,
    /// In an archive in which `.wh.` names are whiteouts.
    Within,
    /// In an archive in which `.wh.` names are files.
    WithinMarked,
}

impl CpioTreeBuilder {
    pub(super) fn new() -> Self {
        let root = CpioNode {
            kind: FileType::Directory,
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: 0,
            rdev: Device::default(),
            nlink: 1,
            data: CpioData::Growing { parent: ROOT, children: BTreeMap::new() },
        };
        CpioTreeBuilder {
            nodes: vec![root],
            links: HashMap::new(),
            recent: None,
            detours: 0,
            pos: ArchivePos::Start,
            literal: HashSet::new(),
            describes_root: false,
        }
    }

    /// Ends an archive: inode numbers refer to other objects from now on.
    pub(super) fn end_of_archive(&mut self) {
        self.links.clear();
        self.pos = ArchivePos::Start;
    }

    /// Returns whether an archive contains an entry for the root.
    pub(super) fn describes_root(&self) -> bool {
        self.describes_root
    }

    /// Adds an entry to the tree.
    pub(super) fn insert(
        &mut self,
        path: &[u8],
        header: &Header,
        kind: FileType,
        payload: Payload,
    ) -> Result<(), String> {
        let components = components(path)?;
        let first = self.pos == ArchivePos::Start;
        if first {
            self.pos = ArchivePos::Within;
        }
        let Some((name, parents)) = components.split_last() else {
            if kind != FileType::Directory {
                return Err("the root is not a directory".into());
            }
            if first && header.marked {
                self.pos = ArchivePos::WithinMarked;
            }
            self.describes_root = true;
            self.nodes[ROOT].describe(header);
            return Ok(());
        };
        let parent = self.parent(path, name, parents)?;
        if name.starts_with(MARKER) {
            let named = (parent, Box::from(*name));
            match self.pos {
                ArchivePos::WithinMarked => self.literal.insert(named),
                _ => self.literal.remove(&named),
            };
        }
        let existing = self.child(parent, name)?;
        let several = header.nlink > 1 && !matches!(kind, FileType::Directory | FileType::Symlink);
        let key = (header.dev, header.ino, kind);
        if several && let Some(&node) = self.links.get(&key) {
            if existing != Some(node) {
                self.remove(parent, name, existing)?;
                self.add(parent, name, node)?;
            }
            self.nodes[node].describe(header);
            if header.size > 0 {
                self.nodes[node].fill(header, payload);
            }
            return Ok(());
        }
        let rdev = header.device(kind)?;
        let in_place = matches!(kind, FileType::Directory | FileType::Regular);
        let node = match existing {
            Some(node) if in_place && self.nodes[node].kind == kind => {
                self.nodes[node].describe(header);
                self.nodes[node].fill(header, payload);
                node
            }
            _ => {
                self.remove(parent, name, existing)?;
                let data = if kind == FileType::Directory {
                    CpioData::Growing { parent, children: BTreeMap::new() }
                } else {
                    CpioData::None
                };
                let (mode, uid, gid, mtime) = (0, 0, 0, 0);
                let mut node = CpioNode { kind, mode, uid, gid, mtime, rdev, nlink: 1, data };
                node.describe(header);
                node.fill(header, payload);
                self.nodes.push(node);
                self.add(parent, name, self.nodes.len() - 1)?;
                self.nodes.len() - 1
            }
        };
        if several {
            self.links.insert(key, node);
        }
        Ok(())
    }

    /// Returns the finished tree: resolves whiteouts by name, counts links, and sorts entries.
    pub(super) fn finish(mut self) -> Result<Vec<CpioNode>, String> {
        let mut names = ArchiveNames::new(self.nodes.len());
        for index in 0..self.nodes.len() {
            let CpioData::Growing { children, .. } = &mut self.nodes[index].data else { continue };
            let children = std::mem::take(children);
            let is_literal = |name: &[u8]| {
                !self.literal.is_empty() && self.literal.contains(&(index, Box::from(name)))
            };
            let object = |node: usize| (self.nodes[node].kind, self.nodes[node].rdev);
            let entries = names.entries(index, children, object, is_literal)?;
            self.nodes[index].data = CpioData::Directory { opaque: false, entries };
        }
        for (index, node) in self.nodes.iter_mut().enumerate() {
            node.nlink = names.links(index);
            if let CpioData::Directory { opaque, entries } = &mut node.data {
                *opaque = names.is_opaque(index);
                node.nlink = directory_links(entries);
            }
        }
        Ok(self.nodes)
    }

    fn parent(&mut self, path: &[u8], name: &[u8], parents: &[&[u8]]) -> Result<usize, String> {
        // Equal bytes before the last component mean the same directory.
        let literal = path.strip_suffix(name);
        if let (Some(literal), Some((recent, parent))) = (literal, &self.recent)
            && literal == &recent[..]
        {
            return Ok(*parent);
        }
        let parent = self.walk(parents)?;
        self.recent = literal.map(|literal| (literal.into(), parent));
        Ok(parent)
    }

    /// Resolves the path of a directory.
    fn walk(&mut self, names: &[&[u8]]) -> Result<usize, String> {
        let mut ahead: Vec<Box<[u8]>> = names.iter().rev().map(|&name| name.into()).collect();
        let mut at = ROOT;
        let mut followed = 0;
        while let Some(name) = ahead.pop() {
            if followed > 0 {
                self.detours += 1;
                if self.detours > MAX_STEPS_BEHIND_LINKS {
                    return Err("too many entries behind symbolic links".into());
                }
            }
            let CpioData::Growing { parent, children } = &self.nodes[at].data else {
                return Err("its parent is not a directory".into());
            };
            match &name[..] {
                b"" | b"." => continue,
                b".." => {
                    at = *parent;
                    continue;
                }
                _ => {}
            }
            let Some(&next) = children.get(&name) else {
                return Err(format!(
                    "its parent directory {:?} is not in the archive before it; the kernel would \
                     drop the entry",
                    String::from_utf8_lossy(&name)
                ));
            };
            if let CpioData::Target(target) = &self.nodes[next].data {
                followed += 1;
                if followed > MAX_LINKS {
                    return Err("too many symbolic links in its path".into());
                }
                if target.starts_with(b"/") {
                    at = ROOT;
                }
                ahead.extend(target.split(|&byte| byte == b'/').rev().map(Box::from));
            } else {
                at = next;
            }
        }
        match self.nodes[at].data {
            CpioData::Growing { .. } => Ok(at),
            _ => Err("its parent is not a directory".into()),
        }
    }

    fn child(&self, directory: usize, name: &[u8]) -> Result<Option<usize>, String> {
        match &self.nodes[directory].data {
            CpioData::Growing { children, .. } => Ok(children.get(name).copied()),
            _ => Err("its parent is not a directory".into()),
        }
    }

    fn add(&mut self, directory: usize, name: &[u8], node: usize) -> Result<(), String> {
        match &mut self.nodes[directory].data {
            CpioData::Growing { children, .. } => {
                children.insert(name.into(), node);
                Ok(())
            }
            _ => Err("its parent is not a directory".into()),
        }
    }

    /// Removes the object at `name` before it is replaced.
    fn remove(
        &mut self,
        directory: usize,
        name: &[u8],
        existing: Option<usize>,
    ) -> Result<(), String> {
        let Some(existing) = existing else { return Ok(()) };
        if let CpioData::Growing { children, .. } = &self.nodes[existing].data {
            if !children.is_empty() {
                return Err(
                    "it would replace a directory that is not empty; the kernel would drop \
                            the entry"
                        .into(),
                );
            }
            self.recent = None;
        }
        if let CpioData::Growing { children, .. } = &mut self.nodes[directory].data {
            children.remove(name);
        }
        // The symlink may be in the path of the recent parent.
        if self.nodes[existing].kind == FileType::Symlink {
            self.recent = None;
        }
        Ok(())
    }
}

impl CpioNode {
    fn describe(&mut self, header: &Header) {
        self.mode = (header.mode & 0o7777) as u16;
        self.uid = header.uid;
        self.gid = header.gid;
        self.mtime = header.mtime;
    }

    fn fill(&mut self, header: &Header, payload: Payload) {
        match payload {
            Payload::None => {}
            Payload::File(body) => self.data = CpioData::File { size: header.size, body },
            Payload::Target(target) => self.data = CpioData::Target(target),
        }
    }

    pub(super) fn attr(&self) -> Attr {
        let time = Time::from_secs(self.mtime.into());
        let (size, allocated) = match &self.data {
            CpioData::File { size, body: ContentBytes::Image(_) } => {
                (u64::from(*size), u64::from(*size))
            }
            CpioData::File { size, body: ContentBytes::Memory(pieces) } => {
                let kept = pieces.iter().flatten().map(|piece| piece.len() as u64).sum();
                (u64::from(*size), kept)
            }
            CpioData::Target(target) => (target.len() as u64, 0),
            _ => (0, 0),
        };
        Attr {
            kind: self.kind,
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            size,
            allocated,
            rdev: self.rdev,
            nlink: self.nlink,
            atime: time,
            mtime: time,
            ctime: time,
        }
    }
}

/// Splits a path into its components. A leading slash, `.` and repeated slashes are ignored.
fn components(path: &[u8]) -> Result<Vec<&[u8]>, String> {
    let mut names = Vec::new();
    for name in path.split(|&byte| byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => return Err("a name with the component ..".into()),
            _ if name.len() > NAME_MAX => {
                return Err(format!("a name of {} bytes (maximum: {NAME_MAX})", name.len()));
            }
            _ => names.push(name),
        }
    }
    Ok(names)
}
