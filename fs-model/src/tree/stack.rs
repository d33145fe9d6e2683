//! The layers as one pristine tree: what the union shows before anything was changed in it.
//!
//! Invariants:
//! - The layers never change, so neither does anything answered here.
//! - An object of a layer has the inode number `(layer + 1) << 48 | layer's own number`: no table
//!   is needed to come from one to the other, and what is only looked at costs no memory.
//! - A directory of the union is merged from the directories at its path in the layers, from the
//!   topmost down to the first that is opaque or stands on a whiteout or on something else. It
//!   has the number of the topmost. [`Sources`] is that list.
//! - The root of a layer that says nothing of it has the attributes of the next one below that
//!   does.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use smallvec::SmallVec;

use super::Ino;
use crate::attr::{Attr, FileType};
use crate::error::LayerError;
use crate::layer::{Ahead, Layer, LayerEntry, LayerIno, Xattr};

/// Bits of an inode number that hold the layer's own number.
const LAYER_INO_BITS: u32 = 48;
/// How many layers a tree takes. Well above what a boot stacks, and what overlayfs takes in one
/// page of mount options.
pub(crate) const MAX_LAYERS: usize = 500;

/// An object of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Source {
    /// Index of the layer; 0 is the lowest.
    pub(crate) layer: u16,
    /// The object in it.
    pub(crate) ino: LayerIno,
}

impl Source {
    pub(crate) fn to_ino(self) -> Ino {
        Ino(((u64::from(self.layer) + 1) << LAYER_INO_BITS) | self.ino.0)
    }

    /// The object that a number stands for; `None` for numbers of the upper.
    pub(crate) fn from_ino(ino: Ino) -> Option<Source> {
        let layer = (ino.0 >> LAYER_INO_BITS).checked_sub(1)?;
        Some(Source {
            layer: u16::try_from(layer).ok()?,
            ino: LayerIno(ino.0 & ((1 << LAYER_INO_BITS) - 1)),
        })
    }
}

/// The directories that one directory of the union is merged from, topmost first.
pub(crate) type Sources = SmallVec<[Source; 1]>;

/// What a name of the pristine tree stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Pristine {
    Object { source: Source, kind: FileType },
    Directory(Sources),
}

impl Pristine {
    pub(crate) fn ino(&self) -> Ino {
        match self {
            Pristine::Object { source, .. } => source.to_ino(),
            Pristine::Directory(sources) => sources[0].to_ino(),
        }
    }

    pub(crate) fn kind(&self) -> FileType {
        match self {
            Pristine::Object { kind, .. } => *kind,
            Pristine::Directory(_) => FileType::Directory,
        }
    }
}

/// A name of the pristine listing of a directory.
#[derive(Clone, Debug)]
pub(crate) struct Listed {
    pub(crate) name: Box<[u8]>,
    pub(crate) ino: Ino,
    pub(crate) kind: FileType,
}

/// The layers of a tree, lowest first.
#[derive(Debug)]
pub(crate) struct Stack {
    layers: Vec<Arc<dyn Layer>>,
    /// For each layer that says nothing of its root: that root, and the one that stands in for it.
    stand_ins: Vec<(Source, Source)>,
}

impl Stack {
    /// `layers` are given lowest first; more than [`MAX_LAYERS`] are refused by the caller.
    pub(crate) fn new(layers: Vec<Arc<dyn Layer>>) -> Self {
        debug_assert!(layers.len() <= MAX_LAYERS);
        let mut stand_ins = Vec::new();
        let mut described = None;
        for (index, layer) in layers.iter().enumerate() {
            let root = Source { layer: index as u16, ino: layer.root() };
            match described {
                Some(below) if !layer.describes_root() => stand_ins.push((root, below)),
                // The lowest layer has its own word for it, if it is but a default.
                _ => described = Some(root),
            }
        }
        Stack { layers, stand_ins }
    }

    pub(crate) fn layers(&self) -> &[Arc<dyn Layer>] {
        &self.layers
    }

    fn layer(&self, source: Source) -> &dyn Layer {
        // A source's index comes from this stack or from an inode number that the tree checked.
        &*self.layers[usize::from(source.layer)]
    }

    /// Whether `source` names a layer of this stack.
    pub(crate) fn has(&self, source: Source) -> bool {
        usize::from(source.layer) < self.layers.len()
    }

    /// The merged root of all layers.
    pub(crate) fn root(&self) -> Result<Sources, LayerError> {
        let mut sources = Sources::new();
        for (index, layer) in self.layers.iter().enumerate().rev() {
            let root = layer.root();
            sources.push(Source { layer: index as u16, ino: root });
            if layer.is_opaque(root)? {
                break;
            }
        }
        Ok(sources)
    }

    /// What `name` stands for in the directory merged from `dir`.
    pub(crate) fn lookup(
        &self,
        dir: &[Source],
        name: &[u8],
    ) -> Result<Option<Pristine>, LayerError> {
        let mut merged = Sources::new();
        for &source in dir {
            let layer = self.layer(source);
            match layer.lookup(source.ino, name)? {
                None => {}
                Some(LayerEntry::Whiteout) => break,
                Some(LayerEntry::Object { ino, kind: FileType::Directory }) => {
                    merged.push(Source { layer: source.layer, ino });
                    if layer.is_opaque(ino)? {
                        break;
                    }
                }
                Some(LayerEntry::Object { ino, kind }) => {
                    if merged.is_empty() {
                        let source = Source { layer: source.layer, ino };
                        return Ok(Some(Pristine::Object { source, kind }));
                    }
                    break;
                }
            }
        }
        Ok((!merged.is_empty()).then_some(Pristine::Directory(merged)))
    }

    /// The names of the directory merged from `dir`, sorted.
    pub(crate) fn list(&self, dir: &[Source]) -> Result<Vec<Listed>, LayerError> {
        let listed = |source: Source, name, ino, kind| Listed {
            name,
            ino: Source { layer: source.layer, ino }.to_ino(),
            kind,
        };
        if let [only] = dir {
            let entries = self.layer(*only).read_dir(only.ino)?;
            return Ok(entries
                .into_iter()
                .filter_map(|e| match e.entry {
                    LayerEntry::Object { ino, kind } => Some(listed(*only, e.name, ino, kind)),
                    LayerEntry::Whiteout => None,
                })
                .collect());
        }
        // The topmost layer that says something of a name decides.
        type Decided = Option<(Source, LayerIno, FileType)>;
        let mut names: BTreeMap<Box<[u8]>, Decided> = BTreeMap::new();
        for &source in dir {
            for e in self.layer(source).read_dir(source.ino)? {
                names.entry(e.name).or_insert(match e.entry {
                    LayerEntry::Object { ino, kind } => Some((source, ino, kind)),
                    LayerEntry::Whiteout => None,
                });
            }
        }
        Ok(names
            .into_iter()
            .filter_map(|(name, e)| e.map(|(source, ino, kind)| listed(source, name, ino, kind)))
            .collect())
    }

    /// The object that has the attributes of `source`.
    fn described(&self, source: Source) -> Source {
        let stand_in = self.stand_ins.iter().find(|(root, _)| *root == source);
        stand_in.map_or(source, |(_, below)| *below)
    }

    pub(crate) fn attr(&self, source: Source) -> Result<Attr, LayerError> {
        let described = self.described(source);
        let mut attr = self.layer(described).attr(described.ino)?;
        if described != source {
            // Those are counted in its own place.
            attr.nlink = self.layer(source).attr(source.ino)?.nlink;
        }
        Ok(attr)
    }

    pub(crate) fn read_link(&self, source: Source) -> Result<Vec<u8>, LayerError> {
        self.layer(source).read_link(source.ino)
    }

    pub(crate) fn xattrs(&self, source: Source) -> Result<Vec<Xattr>, LayerError> {
        let source = self.described(source);
        self.layer(source).xattrs(source.ino)
    }

    pub(crate) fn read_at(
        &self,
        source: Source,
        offset: u64,
        buf: &mut [u8],
    ) -> Result<usize, LayerError> {
        self.layer(source).read_at(source.ino, offset, buf)
    }

    pub(crate) fn next_data(
        &self,
        source: Source,
        offset: u64,
    ) -> Result<Option<Range<u64>>, LayerError> {
        self.layer(source).next_data(source.ino, offset)
    }

    pub(crate) fn ahead(&self, source: Source, offset: u64, len: usize) -> Option<Ahead> {
        self.layer(source).ahead(source.ino, offset, len)
    }

    pub(crate) fn decode_ahead(&self, source: Source, ahead: Ahead) {
        self.layer(source).decode_ahead(ahead);
    }

    pub(crate) fn is_cached(&self, source: Source, offset: u64, len: usize) -> bool {
        self.layer(source).is_cached(source.ino, offset, len)
    }
}
