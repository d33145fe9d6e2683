//! An in-memory layer with all features of a layer.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use fs_model::layer::{Layer, LayerDirEntry, LayerEntry, LayerIno, Xattr};
use fs_model::{Attr, FileType, LayerError, Time};

/// Granularity of holes.
const BLOCK: usize = 4096;

#[derive(Clone, Debug)]
pub(crate) enum Data {
    None,
    File { bytes: Arc<Vec<u8>>, sparse: bool },
    Target(Vec<u8>),
    Directory { entries: BTreeMap<Vec<u8>, LayerEntry>, opaque: bool },
}

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) attr: Attr,
    pub(crate) data: Data,
    pub(crate) xattrs: Vec<Xattr>,
}

/// An in-memory layer. Node 0 is the root.
#[derive(Clone, Debug)]
pub(crate) struct MemoryLayer {
    pub(crate) nodes: Vec<Node>,
    /// Whether directories have correct link counts.
    pub(crate) counts_subdirs: bool,
    /// Whether the root has attributes.
    pub(crate) describes_root: bool,
    /// Number of directory listings so far.
    pub(crate) listings: Arc<AtomicUsize>,
}

pub(crate) fn attr(kind: FileType, mode: u16) -> Attr {
    Attr::new(kind, mode, Time::from_secs(1_000))
}

impl Default for MemoryLayer {
    fn default() -> Self {
        let data = Data::Directory { entries: BTreeMap::new(), opaque: false };
        let root = Node { attr: attr(FileType::Directory, 0o755), data, xattrs: Vec::new() };
        MemoryLayer {
            nodes: vec![root],
            counts_subdirs: true,
            describes_root: true,
            listings: Arc::default(),
        }
    }
}

impl MemoryLayer {
    pub(crate) fn entries(&self, dir: usize) -> &BTreeMap<Vec<u8>, LayerEntry> {
        match &self.nodes[dir].data {
            Data::Directory { entries, .. } => entries,
            _ => panic!("not a directory"),
        }
    }

    pub(crate) fn set(&mut self, dir: usize, name: &[u8], entry: LayerEntry) {
        match &mut self.nodes[dir].data {
            Data::Directory { entries, .. } => entries.insert(name.to_vec(), entry),
            _ => panic!("not a directory"),
        };
    }

    /// Adds an object at `name` in `dir`, and returns its number.
    pub(crate) fn add(&mut self, dir: usize, name: &[u8], node: Node) -> usize {
        let (at, kind) = (self.nodes.len(), node.attr.kind);
        self.nodes.push(node);
        self.link(dir, name, at, kind);
        at
    }

    pub(crate) fn link(&mut self, dir: usize, name: &[u8], at: usize, kind: FileType) {
        self.nodes[at].attr.nlink += 1;
        self.set(dir, name, LayerEntry::Object { ino: LayerIno(at as u64 + 2), kind });
    }

    pub(crate) fn directory(&mut self, dir: usize, name: &str) -> usize {
        let data = Data::Directory { entries: BTreeMap::new(), opaque: false };
        let node = Node { attr: attr(FileType::Directory, 0o755), data, xattrs: Vec::new() };
        self.add(dir, name.as_bytes(), node)
    }

    pub(crate) fn file(&mut self, dir: usize, name: &str, bytes: &[u8]) -> usize {
        let data = Data::File { bytes: Arc::new(bytes.to_vec()), sparse: false };
        let node = Node { attr: attr(FileType::Regular, 0o644), data, xattrs: Vec::new() };
        self.add(dir, name.as_bytes(), node)
    }

    pub(crate) fn whiteout(&mut self, dir: usize, name: &str) {
        self.set(dir, name.as_bytes(), LayerEntry::Whiteout);
    }

    pub(crate) fn set_opaque(&mut self, dir: usize) {
        if let Data::Directory { opaque, .. } = &mut self.nodes[dir].data {
            *opaque = true;
        }
    }

    pub(crate) fn index(ino: LayerIno) -> usize {
        // Numbers begin at 2, so that none equals that of a tree's root.
        (ino.0 - 2) as usize
    }

    fn node(&self, ino: LayerIno) -> &Node {
        &self.nodes[Self::index(ino)]
    }

    fn bytes(&self, ino: LayerIno) -> Result<(&[u8], bool), LayerError> {
        match &self.node(ino).data {
            Data::File { bytes, sparse } => Ok((bytes, *sparse)),
            _ => Err(LayerError::corrupt(&"memory".into(), "not a file")),
        }
    }
}

impl Layer for MemoryLayer {
    fn name(&self) -> &str {
        "memory"
    }

    fn root(&self) -> LayerIno {
        LayerIno(2)
    }

    fn describes_root(&self) -> bool {
        self.describes_root
    }

    fn attr(&self, ino: LayerIno) -> Result<Attr, LayerError> {
        let node = self.node(ino);
        let mut attr = node.attr;
        match &node.data {
            Data::None => {}
            Data::File { bytes, .. } => attr.size = bytes.len() as u64,
            Data::Target(target) => attr.size = target.len() as u64,
            Data::Directory { entries, .. } => {
                let is_dir = |e: &&LayerEntry| {
                    matches!(e, LayerEntry::Object { kind: FileType::Directory, .. })
                };
                let subdirs = entries.values().filter(is_dir).count() as u32;
                attr.nlink = if self.counts_subdirs { 2 + subdirs } else { 1 };
                attr.size = 17;
            }
        }
        Ok(attr)
    }

    fn lookup(&self, dir: LayerIno, name: &[u8]) -> Result<Option<LayerEntry>, LayerError> {
        assert!(!matches!(name, b"" | b"." | b".."), "a layer is called with valid names only");
        Ok(self.entries(Self::index(dir)).get(name).copied())
    }

    fn read_dir(&self, dir: LayerIno) -> Result<Vec<LayerDirEntry>, LayerError> {
        self.listings.fetch_add(1, Ordering::Relaxed);
        let entries = self.entries(Self::index(dir)).iter();
        Ok(entries.map(|(n, e)| LayerDirEntry { name: n.as_slice().into(), entry: *e }).collect())
    }

    fn read_at(&self, ino: LayerIno, offset: u64, buf: &mut [u8]) -> Result<usize, LayerError> {
        let (bytes, _) = self.bytes(ino)?;
        let from = bytes.len().min(usize::try_from(offset).unwrap_or(usize::MAX));
        let len = buf.len().min(bytes.len() - from);
        buf[..len].copy_from_slice(&bytes[from..from + len]);
        Ok(len)
    }

    fn next_data(&self, ino: LayerIno, offset: u64) -> Result<Option<Range<u64>>, LayerError> {
        let (bytes, sparse) = self.bytes(ino)?;
        let at = offset as usize;
        if at >= bytes.len() {
            return Ok(None);
        }
        if !sparse {
            return Ok(Some(offset..bytes.len() as u64));
        }
        let is_hole = |block: usize| {
            let block = &bytes[block * BLOCK..bytes.len().min((block + 1) * BLOCK)];
            *block == [0; BLOCK][..block.len()]
        };
        let blocks = bytes.len().div_ceil(BLOCK);
        let Some(first) = (at / BLOCK..blocks).find(|&b| !is_hole(b)) else { return Ok(None) };
        let end = (first..blocks).find(|&b| is_hole(b)).unwrap_or(blocks);
        Ok(Some(at.max(first * BLOCK) as u64..bytes.len().min(end * BLOCK) as u64))
    }

    fn read_link(&self, ino: LayerIno) -> Result<Vec<u8>, LayerError> {
        match &self.node(ino).data {
            Data::Target(target) => Ok(target.clone()),
            _ => Err(LayerError::corrupt(&"memory".into(), "not a symbolic link")),
        }
    }

    fn xattrs(&self, ino: LayerIno) -> Result<Vec<Xattr>, LayerError> {
        Ok(self.node(ino).xattrs.clone())
    }

    fn is_opaque(&self, dir: LayerIno) -> Result<bool, LayerError> {
        Ok(matches!(self.node(dir).data, Data::Directory { opaque: true, .. }))
    }
}
