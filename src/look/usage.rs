//! What takes how much: bytes of files as they are in a root, each file once, and the memory that
//! a machine needs which boots layers as a base and overlays.

use std::collections::{BTreeMap, HashSet};

use fs_model::FileType;
use fs_model::layer::{LayerEntry, LayerIno};
use fs_model::stack::LowerInode;

use super::packages::Owners;
use super::{LookError, Node, View, Walk, join};

/// Bytes of a page, of x86-64 and of most arm64 machines.
pub const PAGE: u64 = 4096;
/// Bytes of memory that the kernel takes for an inode in a tmpfs and its first name, beside the pages
/// of the content. Measured with 200,000 empty files on Linux 6.18: 752 for the inode, 192 for the
/// dentry, and the rest for what slabs leave over and the directory's index.
pub const TMPFS_ENTRY: u64 = 1044;
/// The same for another name of a file that was counted.
pub const TMPFS_NAME: u64 = TMPFS_ENTRY - 752;
/// The longest target of a symbolic link that a tmpfs keeps without a page of its own
/// (`SHORT_SYMLINK_LEN` of `mm/shmem.c`, with its NUL).
const SHORT_LINK: u64 = 127;

/// How much something takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Names of all types.
    pub entries: u64,
    /// Bytes of files; one with several names counts at the first.
    pub bytes: u64,
}

impl Usage {
    fn add(&mut self, bytes: u64) {
        self.entries += 1;
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

/// Files that were counted already.
#[derive(Debug, Default)]
struct Counted(HashSet<LowerInode>);

impl Counted {
    /// The bytes that a node adds.
    fn bytes(&mut self, node: &Node) -> u64 {
        let again = node.attr.nlink > 1 && !self.0.insert(node.found.source());
        if node.is_file() && !again { node.attr.size } else { 0 }
    }
}

/// The directories at and below `top`, down to `depth` names below it, in tree order; each with all
/// that is in it and below, and itself. If `top` is no directory, that alone.
///
/// # Errors
/// A damaged layer.
pub fn by_directory(
    view: &View,
    top: &Node,
    depth: usize,
) -> Result<Vec<(Vec<u8>, Usage)>, LookError> {
    let mut sums: Vec<(Vec<u8>, Usage)> = Vec::new();
    let mut counted = Counted::default();
    // The directories on the way to the node, by their places in `sums`.
    let mut way: Vec<usize> = Vec::new();
    let names = super::components(&top.path).len();
    view.walk::<LookError>(top, &mut |node| {
        while way.last().is_some_and(|&last| !lies_in(&node.path, &sums[last].0)) {
            way.pop();
        }
        // All directories on the way are in it while it is not deeper than `depth`.
        let on_way = super::components(&node.path).len() == names + way.len();
        if way.is_empty() || (node.is_dir() && on_way && way.len() <= depth) {
            way.push(sums.len());
            sums.push((node.path.clone(), Usage::default()));
        }
        let bytes = counted.bytes(node);
        way.iter().for_each(|&at| sums[at].1.add(bytes));
        Ok(Walk::Into)
    })?;
    Ok(sums)
}

fn lies_in(path: &[u8], dir: &[u8]) -> bool {
    dir.is_empty() || path.strip_prefix(dir).is_some_and(|rest| matches!(rest, [] | [b'/', ..]))
}

/// What each package takes at and below `top`, by name; `None` is what no package has brought.
///
/// # Errors
/// A damaged layer.
pub fn by_package(
    view: &View,
    top: &Node,
    owners: &Owners,
) -> Result<BTreeMap<Option<String>, Usage>, LookError> {
    let mut sums: BTreeMap<Option<String>, Usage> = BTreeMap::new();
    let mut counted = Counted::default();
    view.walk::<LookError>(top, &mut |node| {
        let bytes = counted.bytes(node);
        // Directories belong to many.
        if !node.is_dir() {
            sums.entry(owners.of(&node.path).map(str::to_owned)).or_default().add(bytes);
        }
        Ok(Walk::Into)
    })?;
    Ok(sums)
}

/// What a layer takes in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Names, whiteouts too.
    pub entries: u64,
    /// Bytes of files, each file once.
    pub content: u64,
    /// The same in whole pages: what the page cache takes when all of it was read, and what a tmpfs
    /// takes for it.
    pub pages: u64,
    /// What a tmpfs takes for inodes and names.
    pub inodes: u64,
}

impl Memory {
    /// What a tmpfs takes in all.
    pub fn tmpfs(&self) -> u64 {
        self.pages.saturating_add(self.inodes)
    }
}

/// What a layer by itself takes when it is unpacked into a tmpfs, or when all of it was read.
///
/// # Errors
/// A damaged layer.
pub fn memory(view: &View, layer: usize) -> Result<Memory, LookError> {
    let layer = &**view.stack().layers().get(layer).ok_or_else(|| LookError::Path {
        path: Box::default(),
        reason: fs_model::FsError::NotFound,
    })?;
    let mut memory = Memory::default();
    let mut counted: HashSet<LayerIno> = HashSet::new();
    let mut pending = vec![(Vec::new(), layer.root())];
    while let Some((path, dir)) = pending.pop() {
        let damaged = |error| LookError::Damaged { path: path.clone().into(), error };
        // A directory that lies in itself ends here.
        if !counted.insert(dir) {
            continue;
        }
        for entry in layer.read_dir(dir).map_err(damaged)? {
            memory.entries += 1;
            let LayerEntry::Object { ino, kind } = entry.entry else {
                memory.inodes += TMPFS_ENTRY;
                continue;
            };
            if kind == FileType::Directory {
                memory.inodes += TMPFS_ENTRY;
                pending.push((join(&path, &entry.name), ino));
                continue;
            }
            let attr = layer.attr(ino).map_err(damaged)?;
            if attr.nlink > 1 && !counted.insert(ino) {
                memory.inodes += TMPFS_NAME;
                continue;
            }
            memory.inodes += TMPFS_ENTRY;
            let held = match kind {
                FileType::Regular => {
                    memory.content = memory.content.saturating_add(attr.size);
                    pages(attr.size)
                }
                FileType::Symlink if attr.size > SHORT_LINK => pages(attr.size),
                _ => 0,
            };
            memory.pages = memory.pages.saturating_add(held);
        }
    }
    Ok(memory)
}

fn pages(bytes: u64) -> u64 {
    bytes.div_ceil(PAGE).saturating_mul(PAGE)
}
