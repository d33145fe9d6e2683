//! Usage: bytes of the files in a root, each file counted once, and the memory of a machine that
//! boots layers as a base and overlays.

use std::collections::{BTreeMap, HashSet};

use fs_model::FileType;
use fs_model::layer::{LayerEntry, LayerIno};
use fs_model::stack::LowerInode;

use super::packages::PackageOwners;
use super::{LookError, StackView, ViewNode, WalkControl, join};

/// Page size in bytes, on x86-64 and most arm64 machines.
pub(crate) const PAGE: u64 = 4096;
/// Bytes of memory that an inode in a tmpfs and its first name use, in addition to the pages of the
/// content. Measured with 200,000 empty files on Linux 6.18: 752 for the inode, 192 for the dentry,
/// and the rest for slab overhead and the directory index.
pub(crate) const TMPFS_ENTRY: u64 = 1044;
/// Bytes of memory for each further name of an inode.
pub(crate) const TMPFS_NAME: u64 = TMPFS_ENTRY - 752;
/// Maximum length of a symbolic link's target, with its NUL, that a tmpfs stores without a page
/// (`SHORT_SYMLINK_LEN` in `mm/shmem.c`).
const SHORT_LINK: u64 = 127;

/// The number and the size of files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct DiskUsage {
    /// Number of entries of all types.
    pub entries: u64,
    /// Bytes of files; a file with several names is counted at the first.
    pub bytes: u64,
}

impl DiskUsage {
    fn add(&mut self, bytes: u64) {
        self.entries += 1;
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

/// Files that have been counted.
#[derive(Debug, Default)]
struct Counted(HashSet<LowerInode>);

impl Counted {
    /// Returns the bytes that a node adds.
    fn bytes(&mut self, node: &ViewNode) -> u64 {
        let again = node.attr.nlink > 1 && !self.0.insert(node.found.source());
        if node.is_file() && !again { node.attr.size } else { 0 }
    }
}

/// Returns the usage of the directories at and below `top`, down to `depth` levels, in tree order.
/// Each includes itself and everything below. If `top` is not a directory, returns only its usage.
///
/// # Errors
/// Fails if a layer is damaged.
pub(crate) fn by_directory(
    view: &StackView,
    top: &ViewNode,
    depth: usize,
) -> Result<Vec<(Vec<u8>, DiskUsage)>, LookError> {
    let mut sums: Vec<(Vec<u8>, DiskUsage)> = Vec::new();
    let mut counted = Counted::default();
    // The parent directories of the node, as indices into `sums`.
    let mut way: Vec<usize> = Vec::new();
    let names = super::components(&top.path).len();
    view.walk::<LookError>(top, &mut |node| {
        while way.last().is_some_and(|&last| !is_within(&node.path, &sums[last].0)) {
            way.pop();
        }
        // All parents are in `way` unless the node is deeper than `depth`.
        let on_way = super::components(&node.path).len() == names + way.len();
        if way.is_empty() || (node.is_dir() && on_way && way.len() <= depth) {
            way.push(sums.len());
            sums.push((node.path.clone(), DiskUsage::default()));
        }
        let bytes = counted.bytes(node);
        way.iter().for_each(|&at| sums[at].1.add(bytes));
        Ok(WalkControl::Into)
    })?;
    Ok(sums)
}

fn is_within(path: &[u8], dir: &[u8]) -> bool {
    dir.is_empty() || path.strip_prefix(dir).is_some_and(|rest| matches!(rest, [] | [b'/', ..]))
}

/// Returns the usage of each package at and below `top`; `None` is for files of no package.
///
/// # Errors
/// Fails if a layer is damaged.
pub(crate) fn by_package(
    view: &StackView,
    top: &ViewNode,
    owners: &PackageOwners,
) -> Result<BTreeMap<Option<String>, DiskUsage>, LookError> {
    let mut sums: BTreeMap<Option<String>, DiskUsage> = BTreeMap::new();
    let mut counted = Counted::default();
    view.walk::<LookError>(top, &mut |node| {
        let bytes = counted.bytes(node);
        // Directories belong to several packages.
        if !node.is_dir() {
            sums.entry(owners.get(&node.path).map(str::to_owned)).or_default().add(bytes);
        }
        Ok(WalkControl::Into)
    })?;
    Ok(sums)
}

/// The memory that a layer uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    /// Number of entries, including whiteouts.
    pub entries: u64,
    /// Bytes of files, each file counted once.
    pub content: u64,
    /// The same in whole pages: the page cache after reading everything, or the content in a tmpfs.
    pub pages: u64,
    /// Bytes of inodes and names in a tmpfs.
    pub inodes: u64,
}

impl Memory {
    /// Returns the total bytes in a tmpfs.
    pub(crate) fn tmpfs(&self) -> u64 {
        self.pages.saturating_add(self.inodes)
    }
}

/// Returns the memory that a layer uses when it is unpacked into a tmpfs or read completely.
///
/// # Errors
/// Fails if a layer is damaged.
pub(crate) fn memory(view: &StackView, layer: usize) -> Result<Memory, LookError> {
    let layer = &**view.stack().layers().get(layer).ok_or_else(|| LookError::Path {
        path: Box::default(),
        reason: fs_model::FsError::NotFound,
    })?;
    let mut memory = Memory::default();
    let mut counted: HashSet<LayerIno> = HashSet::new();
    let mut pending = vec![(Vec::new(), layer.root())];
    while let Some((path, dir)) = pending.pop() {
        let damaged = |error| LookError::Damaged { path: path.clone().into(), error };
        // Each directory is visited once, so the walk ends even if one contains itself.
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
