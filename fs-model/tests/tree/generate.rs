//! Random layers with few names, so that layers overlap.

use std::sync::Arc;

use fs_model::layer::LayerEntry;
use fs_model::{Device, FileType, Time};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::layer::{Data, MemoryLayer, Node, attr};

/// The names in use.
pub(crate) const NAMES: [&[u8]; 5] = [b"a", b"b", b"c", b"\xff\xfe", b"dd"];

#[derive(Clone, Debug)]
enum NodeKind {
    File { size: usize, fill: u8, sparse: bool },
    Directory { opaque: bool },
    Symlink(u8),
    Special(FileType),
    Link(usize),
    Whiteout,
}

#[derive(Clone, Debug)]
pub(crate) struct PlannedEntry {
    dir: usize,
    name: usize,
    what: NodeKind,
    mode: u16,
    owner: u32,
    mtime: i64,
    xattr: Option<u8>,
}

/// A description of a layer to build.
#[derive(Clone, Debug)]
pub(crate) struct LayerPlan {
    items: Vec<PlannedEntry>,
    counts_subdirs: bool,
    /// Mode, owner, time and an attribute of the root, if the layer describes it.
    root: Option<(u16, u32, i64, Option<u8>)>,
}

/// Sizes and offsets near chunk boundaries.
pub(crate) fn offset() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => 0u64..20,
        2 => Just(4096u64),
        3 => 65_530u64..65_542,
        2 => 131_070u64..131_076,
        1 => 0u64..200_000,
        1 => 196_600u64..196_612,
    ]
}

fn node_kind() -> impl Strategy<Value = NodeKind> {
    prop_oneof![
        4 => (offset(), any::<u8>(), any::<bool>())
            .prop_map(|(size, fill, sparse)| NodeKind::File { size: size as usize, fill, sparse }),
        5 => prop::bool::weighted(0.15).prop_map(|opaque| NodeKind::Directory { opaque }),
        1 => any::<u8>().prop_map(NodeKind::Symlink),
        1 => prop_oneof![
            Just(FileType::CharDevice),
            Just(FileType::BlockDevice),
            Just(FileType::Fifo),
            Just(FileType::Socket)
        ]
        .prop_map(NodeKind::Special),
        2 => any::<usize>().prop_map(NodeKind::Link),
        2 => Just(NodeKind::Whiteout),
    ]
}

fn item() -> impl Strategy<Value = PlannedEntry> {
    (
        any::<usize>(),
        any::<usize>(),
        node_kind(),
        prop_oneof![Just(0o755u16), Just(0o644), Just(0o2775), Just(0o4711)],
        0u32..3,
        0i64..3,
        prop::option::weighted(0.2, 0u8..3),
    )
        .prop_map(|(dir, name, what, mode, owner, mtime, xattr)| PlannedEntry {
            dir,
            name,
            what,
            mode,
            owner,
            mtime,
            xattr,
        })
}

pub(crate) fn layers() -> impl Strategy<Value = Vec<LayerPlan>> {
    let mode = prop_oneof![Just(0o755u16), Just(0o700)];
    let root = (mode, 0u32..3, 0i64..3, prop::option::weighted(0.2, 0u8..3));
    let plan = (vec(item(), 0..20), any::<bool>(), prop::option::weighted(0.7, root))
        .prop_map(|(items, counts_subdirs, root)| LayerPlan { items, counts_subdirs, root });
    vec(plan, 0..=4)
}

/// Content in which adjacent blocks differ and some are zero.
pub(crate) fn content(size: usize, fill: u8) -> Vec<u8> {
    let mut bytes = vec![0; size];
    for (index, block) in bytes.chunks_mut(4096).enumerate() {
        block.fill(fill.wrapping_add(index as u8) % 4);
    }
    bytes
}

impl LayerPlan {
    pub(crate) fn build(&self) -> MemoryLayer {
        let mut layer = MemoryLayer { counts_subdirs: self.counts_subdirs, ..Default::default() };
        layer.describes_root = self.root.is_some();
        if let Some((mode, owner, mtime, xattr)) = self.root {
            let node = &mut layer.nodes[0];
            node.attr.mode = mode;
            (node.attr.uid, node.attr.gid) = (owner, owner);
            node.attr.mtime = Time::from_secs(mtime);
            let xattr = xattr.map(|n| (b"user.x"[..].into(), [n][..].into()));
            node.xattrs = xattr.into_iter().collect();
        }
        let mut dirs = vec![0];
        let mut linkable = Vec::new();
        for item in &self.items {
            let dir = dirs[item.dir % dirs.len()];
            let name = NAMES[item.name % NAMES.len()];
            if layer.entries(dir).contains_key(name) {
                continue;
            }
            let (kind, mut data) = match &item.what {
                NodeKind::File { size, fill, sparse } => {
                    let bytes = Arc::new(content(*size, *fill));
                    (FileType::Regular, Data::File { bytes, sparse: *sparse })
                }
                NodeKind::Directory { opaque } => {
                    let entries = Default::default();
                    (FileType::Directory, Data::Directory { entries, opaque: *opaque })
                }
                NodeKind::Symlink(n) => {
                    (FileType::Symlink, Data::Target(vec![b'x'; 1 + *n as usize]))
                }
                NodeKind::Special(kind) => (*kind, Data::None),
                NodeKind::Link(_) if linkable.is_empty() => continue,
                NodeKind::Link(to) => {
                    let (at, kind) = linkable[to % linkable.len()];
                    layer.link(dir, name, at, kind);
                    continue;
                }
                NodeKind::Whiteout => {
                    layer.set(dir, name, LayerEntry::Whiteout);
                    continue;
                }
            };
            let mut attr = attr(kind, item.mode);
            (attr.uid, attr.gid) = (item.owner, item.owner);
            attr.mtime = Time::from_secs(item.mtime);
            if kind.is_device() {
                attr.rdev = Device { major: 1, minor: 1 + item.owner };
            }
            if let Data::Target(target) = &mut data {
                target.truncate(9);
            }
            let xattrs = item.xattr.map(|n| (b"user.x"[..].into(), [n][..].into()));
            let node = Node { attr, data, xattrs: xattrs.into_iter().collect() };
            let at = layer.add(dir, name, node);
            match kind {
                FileType::Directory => dirs.push(at),
                _ => linkable.push((at, kind)),
            }
        }
        layer
    }
}
