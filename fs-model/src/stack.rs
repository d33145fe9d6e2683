//! The layers merged into one read-only tree: the state of the union before any change.
//!
//! Invariants:
//! - Layers never change, so results never change either.
//! - The inode number of an object of a layer is `(layer + 1) << 48 | number in the layer`. No
//!   table is needed to convert between them, so looking at objects uses no memory.
//! - A directory is merged from the directories at its path in the layers, from the topmost one
//!   down to the first that is opaque or is above a whiteout or another object. Its number is that
//!   of the topmost one. [`LowerDirs`] is this list.
//! - If a layer does not describe its root, the root has the attributes of the next lower layer
//!   that does.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::acl::{self, Acl};
use crate::attr::{Attr, FileType};
use crate::error::{FsError, LayerError};
use crate::ino::Ino;
use crate::layer::{Layer, LayerEntry, LayerIno, Readahead, Xattr};

/// Number of bits of an inode number that hold the number in the layer.
const LAYER_INO_BITS: u32 = 48;
/// Maximum number of layers. More than overlayfs accepts in one page of mount options.
pub const MAX_LAYERS: usize = 500;

/// An object of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LowerInode {
    /// Index of the layer; 0 is the lowest.
    pub layer: u16,
    /// The object in the layer.
    pub ino: LayerIno,
}

impl LowerInode {
    pub(crate) fn to_ino(self) -> Ino {
        Ino(((u64::from(self.layer) + 1) << LAYER_INO_BITS) | self.ino.0)
    }

    /// Returns the object of a layer that has the number `ino`; `None` for numbers of the upper.
    pub(crate) fn from_ino(ino: Ino) -> Option<LowerInode> {
        let layer = (ino.0 >> LAYER_INO_BITS).checked_sub(1)?;
        Some(LowerInode {
            layer: u16::try_from(layer).ok()?,
            ino: LayerIno(ino.0 & ((1 << LAYER_INO_BITS) - 1)),
        })
    }
}

/// The directories of layers that are merged into one, topmost first.
pub type LowerDirs = SmallVec<[LowerInode; 1]>;

/// An entry of the merged tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LowerEntry {
    /// Anything but a directory.
    Object {
        /// The object.
        source: LowerInode,
        /// Its type.
        kind: FileType,
    },
    /// A directory, as a non-empty list of the directories merged into it.
    Directory(LowerDirs),
}

impl LowerEntry {
    pub(crate) fn ino(&self) -> Ino {
        self.source().to_ino()
    }

    /// Returns the topmost object, which determines the attributes.
    pub fn source(&self) -> LowerInode {
        match self {
            LowerEntry::Object { source, .. } => *source,
            LowerEntry::Directory(sources) => sources[0],
        }
    }

    /// Returns the type of the object.
    pub fn kind(&self) -> FileType {
        match self {
            LowerEntry::Object { kind, .. } => *kind,
            LowerEntry::Directory(_) => FileType::Directory,
        }
    }
}

/// The entries of a directory, sorted by name.
pub type LowerEntries = Vec<(Box<[u8]>, LowerEntry)>;

/// An entry of a directory listing.
#[derive(Clone, Debug)]
pub(crate) struct LowerDirEntry {
    pub(crate) name: Box<[u8]>,
    pub(crate) ino: Ino,
    pub(crate) kind: FileType,
}

/// The layers of a tree, lowest first.
#[derive(Debug)]
pub struct Stack {
    layers: Vec<Arc<dyn Layer>>,
    /// Layer roots without a description, each with the root whose attributes are used instead.
    stand_ins: Vec<(LowerInode, LowerInode)>,
    /// Whether ACLs are shown beside the mode; see [`Stack::without_acls`].
    acls: bool,
}

impl Stack {
    /// Creates a stack of `layers`, lowest first.
    ///
    /// # Errors
    /// [`FsError::Invalid`] for more than [`MAX_LAYERS`] layers.
    pub fn new(layers: Vec<Arc<dyn Layer>>) -> Result<Self, FsError> {
        if layers.len() > MAX_LAYERS {
            return Err(FsError::Invalid);
        }
        let mut stand_ins = Vec::new();
        let mut described = None;
        for (index, layer) in layers.iter().enumerate() {
            let root = LowerInode { layer: index as u16, ino: layer.root() };
            match described {
                Some(below) if !layer.describes_root() => stand_ins.push((root, below)),
                // The lowest layer has no other to fall back on, and keeps its defaults.
                _ => described = Some(root),
            }
        }
        Ok(Stack { layers, stand_ins, acls: true })
    }

    /// Returns the same stack with ACLs hidden: modes are those of objects that have lost their
    /// lists ([`Acl::plain_mode`]).
    #[must_use]
    pub(crate) fn without_acls(self) -> Self {
        Stack { acls: false, ..self }
    }

    /// Returns whether ACLs are shown beside the mode.
    pub(crate) fn shows_acls(&self) -> bool {
        self.acls
    }

    /// Returns the layers, lowest first.
    pub fn layers(&self) -> &[Arc<dyn Layer>] {
        &self.layers
    }

    fn layer(&self, source: LowerInode) -> &dyn Layer {
        // The index comes from this stack or from an inode number that the tree has checked.
        &*self.layers[usize::from(source.layer)]
    }

    /// Returns whether `source` refers to a layer of this stack.
    pub(crate) fn has(&self, source: LowerInode) -> bool {
        usize::from(source.layer) < self.layers.len()
    }

    /// Returns the directories that are merged into the root; none if there are no layers.
    ///
    /// # Errors
    /// Fails if a layer cannot be read.
    pub fn root(&self) -> Result<LowerDirs, LayerError> {
        let mut sources = LowerDirs::new();
        for (index, layer) in self.layers.iter().enumerate().rev() {
            let root = layer.root();
            sources.push(LowerInode { layer: index as u16, ino: root });
            if layer.is_opaque(root)? {
                break;
            }
        }
        Ok(sources)
    }

    /// Looks up `name` in the directory merged from `dir`.
    ///
    /// # Errors
    /// Fails if a layer cannot be read.
    pub fn lookup(
        &self,
        dir: &[LowerInode],
        name: &[u8],
    ) -> Result<Option<LowerEntry>, LayerError> {
        let mut merged = LowerDirs::new();
        for &source in dir {
            let layer = self.layer(source);
            match layer.lookup(source.ino, name)? {
                None => {}
                Some(LayerEntry::Whiteout) => break,
                Some(LayerEntry::Object { ino, kind: FileType::Directory }) => {
                    merged.push(LowerInode { layer: source.layer, ino });
                    if layer.is_opaque(ino)? {
                        break;
                    }
                }
                Some(LayerEntry::Object { ino, kind }) => {
                    if merged.is_empty() {
                        let source = LowerInode { layer: source.layer, ino };
                        return Ok(Some(LowerEntry::Object { source, kind }));
                    }
                    break;
                }
            }
        }
        Ok((!merged.is_empty()).then_some(LowerEntry::Directory(merged)))
    }

    /// Returns the entries of the directory merged from `dir`, sorted by name.
    ///
    /// # Errors
    /// Fails if a layer cannot be read.
    pub fn entries(&self, dir: &[LowerInode]) -> Result<LowerEntries, LayerError> {
        let of = |source: LowerInode, ino, kind| {
            let source = LowerInode { layer: source.layer, ino };
            match kind {
                FileType::Directory => LowerEntry::Directory(LowerDirs::from_elem(source, 1)),
                kind => LowerEntry::Object { source, kind },
            }
        };
        if let [only] = dir {
            let entries = self.layer(*only).read_dir(only.ino)?;
            return Ok(entries
                .into_iter()
                .filter_map(|e| match e.entry {
                    LayerEntry::Object { ino, kind } => Some((e.name, of(*only, ino, kind))),
                    LayerEntry::Whiteout => None,
                })
                .collect());
        }
        // The topmost layer that has a name decides. A directory is merged with those below until a
        // layer ends the merge.
        struct Merged {
            found: Option<LowerEntry>,
            ended: bool,
        }
        let mut names: BTreeMap<Box<[u8]>, Merged> = BTreeMap::new();
        for (index, &source) in dir.iter().enumerate() {
            let last = index + 1 == dir.len();
            for e in self.layer(source).read_dir(source.ino)? {
                let merged = names.entry(e.name).or_insert(Merged { found: None, ended: false });
                if merged.ended {
                    continue;
                }
                let object = match e.entry {
                    LayerEntry::Object { ino, kind } => Some((ino, kind)),
                    LayerEntry::Whiteout => None,
                };
                // With nothing below, it does not matter whether it is opaque.
                merged.ended = match object {
                    Some((ino, FileType::Directory)) if !last => {
                        self.layer(source).is_opaque(ino)?
                    }
                    _ => true,
                };
                match (&mut merged.found, object) {
                    (Some(LowerEntry::Directory(sources)), Some((ino, FileType::Directory))) => {
                        sources.push(LowerInode { layer: source.layer, ino });
                    }
                    (None, Some((ino, kind))) => merged.found = Some(of(source, ino, kind)),
                    _ => {}
                }
            }
        }
        Ok(names.into_iter().filter_map(|(name, merged)| Some((name, merged.found?))).collect())
    }

    /// Returns the listing of the directory merged from `dir`, sorted by name.
    pub(crate) fn list(&self, dir: &[LowerInode]) -> Result<Vec<LowerDirEntry>, LayerError> {
        let listed = |(name, found): (_, LowerEntry)| LowerDirEntry {
            name,
            ino: found.ino(),
            kind: found.kind(),
        };
        Ok(self.entries(dir)?.into_iter().map(listed).collect())
    }

    /// Returns the object whose attributes `source` has.
    fn described(&self, source: LowerInode) -> LowerInode {
        let stand_in = self.stand_ins.iter().find(|(root, _)| *root == source);
        stand_in.map_or(source, |(_, below)| *below)
    }

    /// Returns the attributes of an object.
    ///
    /// # Errors
    /// Fails if a layer cannot be read.
    pub fn attr(&self, source: LowerInode) -> Result<Attr, LayerError> {
        let mut attr = self.stored_attr(source)?;
        if !self.acls
            && let Some(list) = self.acl(source, acl::ACCESS)?
        {
            attr.mode = list.plain_mode(attr.mode);
        }
        Ok(attr)
    }

    /// Returns the ACL of an object.
    ///
    /// # Errors
    /// Fails if a layer cannot be read.
    pub fn access_list(&self, source: LowerInode) -> Result<Option<Acl>, LayerError> {
        self.acl(source, acl::ACCESS)
    }

    /// Returns the ACL `name` of an object. A list that the kernel would reject is ignored.
    pub(crate) fn acl(&self, source: LowerInode, name: &[u8]) -> Result<Option<Acl>, LayerError> {
        if !self.layer(self.described(source)).may_have_acls() {
            return Ok(None);
        }
        let xattrs = self.xattrs(source)?;
        let value = xattrs.iter().find(|(n, _)| **n == *name);
        Ok(value.and_then(|(_, value)| Acl::parse(value)))
    }

    /// Returns the attributes as the layer stores them: the group bits of the mode are the mask of
    /// an ACL.
    pub(crate) fn stored_attr(&self, source: LowerInode) -> Result<Attr, LayerError> {
        let described = self.described(source);
        let mut attr = self.layer(described).attr(described.ino)?;
        if described != source {
            // The link count is the layer's own.
            attr.nlink = self.layer(source).attr(source.ino)?.nlink;
        }
        Ok(attr)
    }

    /// Returns the target of a symbolic link.
    ///
    /// # Errors
    /// Fails if a layer cannot be read.
    pub fn read_link(&self, source: LowerInode) -> Result<Vec<u8>, LayerError> {
        self.layer(source).read_link(source.ino)
    }

    /// Returns all extended attributes, sorted by name.
    ///
    /// # Errors
    /// Fails if a layer cannot be read.
    pub fn xattrs(&self, source: LowerInode) -> Result<Vec<Xattr>, LayerError> {
        let source = self.described(source);
        self.layer(source).xattrs(source.ino)
    }

    /// Reads from `offset` into `buf`. Returns less than `buf.len()` only at the end of the file.
    ///
    /// # Errors
    /// Fails if a layer cannot be read.
    pub fn read_at(
        &self,
        source: LowerInode,
        offset: u64,
        buf: &mut [u8],
    ) -> Result<usize, LayerError> {
        self.layer(source).read_at(source.ino, offset, buf)
    }

    /// Returns the next data at or after `offset`; `None` if only a hole follows.
    ///
    /// # Errors
    /// Fails if a layer cannot be read.
    pub fn next_data(
        &self,
        source: LowerInode,
        offset: u64,
    ) -> Result<Option<Range<u64>>, LayerError> {
        self.layer(source).next_data(source.ino, offset)
    }

    pub(crate) fn readahead(
        &self,
        source: LowerInode,
        offset: u64,
        len: usize,
    ) -> Option<Readahead> {
        self.layer(source).readahead(source.ino, offset, len)
    }

    pub(crate) fn prefetch(&self, source: LowerInode, ahead: Readahead) {
        self.layer(source).prefetch(ahead);
    }

    pub(crate) fn is_cached(&self, source: LowerInode, offset: u64, len: usize) -> bool {
        self.layer(source).is_cached(source.ino, offset, len)
    }
}
