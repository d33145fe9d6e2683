//! The tree that the entries of an archive make, one after the other, as the kernel's initramfs
//! unpacker (`init/initramfs.c`) would make it in an empty directory.
//!
//! - An entry on a path that is taken replaces what is there; a directory's attributes, and a
//!   regular file's content and attributes, are replaced in place, so that other names of that
//!   file have them too.
//! - Names of one inode (same device, number and type, more than one link) become one object,
//!   except for symlinks; content that comes with a later name replaces the earlier one. The
//!   trailer ends an archive's numbers.
//! - A symlink on the way to an entry is followed, within the archive.
//! - Whether a name `.wh.NAME` is a whiteout or a file is said by the archive that brought it last.
//!
//! Where the kernel drops an entry without a word, this is an error instead, because a machine
//! would lack that file: a parent that is not in the archive, and a directory with something in it
//! that would be replaced by something else.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::attr::{Attr, Device, FileType, Time};
use crate::layer::{LayerDirEntry, LayerEntry, LayerIno};

use super::header::Header;
use super::source::Body;

const NAME_MAX: usize = 255;

/// What the names of whiteouts begin with, in archives that have them as files.
const MARKER: &[u8] = b".wh.";

/// How many symlinks are followed for one entry, as in Linux.
const LINKS_TO_FOLLOW: u32 = 40;

/// How many steps are made by way of symlinks in all: an archive that is made to cost time.
const DETOUR_LIMIT: u32 = 2_000_000;

/// The root's place in the list of nodes.
pub(super) const ROOT: usize = 0;

/// An object.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) kind: FileType,
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: u32,
    pub(super) rdev: Device,
    pub(super) nlink: u32,
    pub(super) data: Data,
}

/// What an object holds.
#[derive(Debug)]
pub(super) enum Data {
    None,
    File {
        size: u32,
        body: Body,
    },
    Target(Box<[u8]>),
    /// A directory while the tree is being built.
    Growing {
        parent: usize,
        children: BTreeMap<Box<[u8]>, usize>,
    },
    /// A directory of a finished tree.
    Directory {
        opaque: bool,
        entries: Vec<LayerDirEntry>,
    },
}

/// What came with an entry.
#[derive(Debug)]
pub(super) enum Payload {
    None,
    File(Body),
    Target(Box<[u8]>),
}

/// A tree being built.
#[derive(Debug)]
pub(super) struct Builder {
    nodes: Vec<Node>,
    /// Inodes with several names, by device, number and type.
    links: HashMap<([u32; 2], u32, FileType), usize>,
    /// The parent of the entry before, and its path: mostly that of the next one too.
    recent: Option<(Box<[u8]>, usize)>,
    detours: u32,
    place: Place,
    /// Names that look like whiteouts and are files, with the directories that they are in.
    literal: HashSet<(usize, Box<[u8]>)>,
    describes_root: bool,
}

/// How far the archive is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Before its first entry.
    Beginning,
    /// In an archive whose whiteouts may be `.wh.` names.
    Within,
    /// In one in which they are files.
    WithinMarked,
}

impl Builder {
    pub(super) fn new() -> Self {
        let root = Node {
            kind: FileType::Directory,
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: 0,
            rdev: Device::default(),
            nlink: 1,
            data: Data::Growing { parent: ROOT, children: BTreeMap::new() },
        };
        Builder {
            nodes: vec![root],
            links: HashMap::new(),
            recent: None,
            detours: 0,
            place: Place::Beginning,
            literal: HashSet::new(),
            describes_root: false,
        }
    }

    /// The archive is at its end: inode numbers mean other objects from now on.
    pub(super) fn end_of_archive(&mut self) {
        self.links.clear();
        self.place = Place::Beginning;
    }

    /// Whether any archive had an entry for the root.
    pub(super) fn describes_root(&self) -> bool {
        self.describes_root
    }

    /// Puts an entry into the tree.
    pub(super) fn insert(
        &mut self,
        path: &[u8],
        header: &Header,
        kind: FileType,
        payload: Payload,
    ) -> Result<(), String> {
        let components = components(path)?;
        let first = self.place == Place::Beginning;
        if first {
            self.place = Place::Within;
        }
        let Some((name, parents)) = components.split_last() else {
            if kind != FileType::Directory {
                return Err("the root is no directory".into());
            }
            if first && header.marked {
                self.place = Place::WithinMarked;
            }
            self.describes_root = true;
            self.nodes[ROOT].describe(header);
            return Ok(());
        };
        let parent = self.parent(path, name, parents)?;
        if name.starts_with(MARKER) {
            let named = (parent, Box::from(*name));
            match self.place {
                Place::WithinMarked => self.literal.insert(named),
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
                    Data::Growing { parent, children: BTreeMap::new() }
                } else {
                    Data::None
                };
                let (mode, uid, gid, mtime) = (0, 0, 0, 0);
                let mut node = Node { kind, mode, uid, gid, mtime, rdev, nlink: 1, data };
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

    /// The finished tree: whiteouts by name are resolved, links counted, entries sorted.
    pub(super) fn finish(mut self) -> Result<Vec<Node>, String> {
        let mut opaque = vec![false; self.nodes.len()];
        let mut links = vec![0u32; self.nodes.len()];
        for index in 0..self.nodes.len() {
            let Data::Growing { children, .. } = &mut self.nodes[index].data else { continue };
            let children = std::mem::take(children);
            let entries = self.entries(index, children, &mut opaque, &mut links)?;
            self.nodes[index].data = Data::Directory { opaque: false, entries };
        }
        for (node, (is_opaque, count)) in self.nodes.iter_mut().zip(opaque.iter().zip(links)) {
            node.nlink = count.max(1);
            if let Data::Directory { opaque, entries } = &mut node.data {
                *opaque = *is_opaque;
                let is_dir = |e: &&LayerDirEntry| {
                    matches!(e.entry, LayerEntry::Object { kind: FileType::Directory, .. })
                };
                node.nlink = 2 + entries.iter().filter(is_dir).count() as u32;
            }
        }
        Ok(self.nodes)
    }

    fn entries(
        &self,
        directory: usize,
        children: BTreeMap<Box<[u8]>, usize>,
        opaque: &mut [bool],
        links: &mut [u32],
    ) -> Result<Vec<LayerDirEntry>, String> {
        let mut entries = Vec::with_capacity(children.len());
        let mut hidden = Vec::new();
        for (name, index) in children {
            let node = &self.nodes[index];
            let marker = name.strip_prefix(MARKER).filter(|_| {
                self.literal.is_empty() || !self.literal.contains(&(directory, name.clone()))
            });
            match marker {
                Some(b".wh..opq") => {
                    opaque[directory] = true;
                    continue;
                }
                // aufs's own: .wh..wh.aufs, .wh..wh.plnk, .wh..wh.orph.
                Some(own) if own.starts_with(b".wh.") => continue,
                Some(b"" | b"." | b"..") => return Err(".wh. without a name".into()),
                Some(hides) if node.kind != FileType::Directory => {
                    hidden.push(Box::<[u8]>::from(hides));
                    continue;
                }
                _ => {}
            }
            let is_whiteout = node.kind == FileType::CharDevice && node.rdev == Device::default();
            let entry = if is_whiteout {
                LayerEntry::Whiteout
            } else {
                links[index] += 1;
                LayerEntry::Object { ino: LayerIno(index as u64), kind: node.kind }
            };
            entries.push(LayerDirEntry { name, entry });
        }
        let own = entries.len();
        for name in hidden {
            match entries[..own].binary_search_by(|entry| entry.name.cmp(&name)) {
                // It hides what is below, not what this layer has: a directory here starts empty.
                Ok(place) => {
                    if let LayerEntry::Object { ino, kind: FileType::Directory } =
                        entries[place].entry
                    {
                        opaque[ino.0 as usize] = true;
                    }
                }
                Err(_) => entries.push(LayerDirEntry { name, entry: LayerEntry::Whiteout }),
            }
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        entries.shrink_to_fit();
        Ok(entries)
    }

    fn parent(&mut self, path: &[u8], name: &[u8], parents: &[&[u8]]) -> Result<usize, String> {
        // The same bytes before the last name lead to the same directory.
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

    /// The directory that the names lead to.
    fn walk(&mut self, names: &[&[u8]]) -> Result<usize, String> {
        let mut ahead: Vec<Box<[u8]>> = names.iter().rev().map(|&name| name.into()).collect();
        let mut at = ROOT;
        let mut followed = 0;
        while let Some(name) = ahead.pop() {
            if followed > 0 {
                self.detours += 1;
                if self.detours > DETOUR_LIMIT {
                    return Err("too many entries lie behind symbolic links".into());
                }
            }
            let Data::Growing { parent, children } = &self.nodes[at].data else {
                return Err("its parent is no directory".into());
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
                    "its parent directory {:?} is not in the archive before it, and the kernel \
                     would drop it",
                    String::from_utf8_lossy(&name)
                ));
            };
            if let Data::Target(target) = &self.nodes[next].data {
                followed += 1;
                if followed > LINKS_TO_FOLLOW {
                    return Err("too many symbolic links on the way to it".into());
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
            Data::Growing { .. } => Ok(at),
            _ => Err("its parent is no directory".into()),
        }
    }

    fn child(&self, directory: usize, name: &[u8]) -> Result<Option<usize>, String> {
        match &self.nodes[directory].data {
            Data::Growing { children, .. } => Ok(children.get(name).copied()),
            _ => Err("its parent is no directory".into()),
        }
    }

    fn add(&mut self, directory: usize, name: &[u8], node: usize) -> Result<(), String> {
        match &mut self.nodes[directory].data {
            Data::Growing { children, .. } => {
                children.insert(name.into(), node);
                Ok(())
            }
            _ => Err("its parent is no directory".into()),
        }
    }

    /// Removes what is at `name`, to make room for something else.
    fn remove(
        &mut self,
        directory: usize,
        name: &[u8],
        existing: Option<usize>,
    ) -> Result<(), String> {
        let Some(existing) = existing else { return Ok(()) };
        if let Data::Growing { children, .. } = &self.nodes[existing].data {
            if !children.is_empty() {
                return Err(
                    "it would replace a directory that is not empty, and the kernel would \
                            drop it"
                        .into(),
                );
            }
            self.recent = None;
        }
        if let Data::Growing { children, .. } = &mut self.nodes[directory].data {
            children.remove(name);
        }
        // A symlink may have been on the way to the recent parent.
        if self.nodes[existing].kind == FileType::Symlink {
            self.recent = None;
        }
        Ok(())
    }
}

impl Node {
    fn describe(&mut self, header: &Header) {
        self.mode = (header.mode & 0o7777) as u16;
        self.uid = header.uid;
        self.gid = header.gid;
        self.mtime = header.mtime;
    }

    fn fill(&mut self, header: &Header, payload: Payload) {
        match payload {
            Payload::None => {}
            Payload::File(body) => self.data = Data::File { size: header.size, body },
            Payload::Target(target) => self.data = Data::Target(target),
        }
    }

    pub(super) fn attr(&self) -> Attr {
        let time = Time::from_secs(self.mtime.into());
        let (size, allocated) = match &self.data {
            Data::File { size, body: Body::Image(_) } => (u64::from(*size), u64::from(*size)),
            Data::File { size, body: Body::Memory(pieces) } => {
                let kept = pieces.iter().flatten().map(|piece| piece.len() as u64).sum();
                (u64::from(*size), kept)
            }
            Data::Target(target) => (target.len() as u64, 0),
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

/// The names of a path. A leading slash, `.` and doubled slashes mean nothing.
fn components(path: &[u8]) -> Result<Vec<&[u8]>, String> {
    let mut names = Vec::new();
    for name in path.split(|&byte| byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => return Err("a name with .. in it".into()),
            _ if name.len() > NAME_MAX => {
                return Err(format!("a name of {} bytes ({NAME_MAX} are possible)", name.len()));
            }
            _ => names.push(name),
        }
    }
    Ok(names)
}
