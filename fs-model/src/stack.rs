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

use crate::acl::{self, Acl};
use crate::attr::{Attr, FileType};
use crate::error::{FsError, LayerError};
use crate::layer::{Ahead, Layer, LayerEntry, LayerIno, Xattr};
use crate::tree::Ino;

/// Bits of an inode number that hold the layer's own number.
const LAYER_INO_BITS: u32 = 48;
/// How many layers a tree takes. Well above what a boot stacks, and what overlayfs takes in one
/// page of mount options.
pub const MAX_LAYERS: usize = 500;

/// An object of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Source {
    /// Index of the layer; 0 is the lowest.
    pub layer: u16,
    /// The object in it.
    pub ino: LayerIno,
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
pub type Sources = SmallVec<[Source; 1]>;

/// What a name of the pristine tree stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pristine {
    /// Anything but a directory.
    Object {
        /// The object.
        source: Source,
        /// Its type.
        kind: FileType,
    },
    /// A directory, by what it is merged from: at least one source.
    Directory(Sources),
}

impl Pristine {
    pub(crate) fn ino(&self) -> Ino {
        self.source().to_ino()
    }

    /// The topmost object: it has the attributes.
    pub fn source(&self) -> Source {
        match self {
            Pristine::Object { source, .. } => *source,
            Pristine::Directory(sources) => sources[0],
        }
    }

    /// Its type.
    pub fn kind(&self) -> FileType {
        match self {
            Pristine::Object { kind, .. } => *kind,
            Pristine::Directory(_) => FileType::Directory,
        }
    }
}

/// What stands in a directory, by name, sorted.
pub type Entries = Vec<(Box<[u8]>, Pristine)>;

/// A name of the pristine listing of a directory.
#[derive(Clone, Debug)]
pub(crate) struct Listed {
    pub(crate) name: Box<[u8]>,
    pub(crate) ino: Ino,
    pub(crate) kind: FileType,
}

/// The layers of a tree, lowest first.
#[derive(Debug)]
pub struct Stack {
    layers: Vec<Arc<dyn Layer>>,
    /// For each layer that says nothing of its root: that root, and the one that stands in for it.
    stand_ins: Vec<(Source, Source)>,
    /// Whether attributes are those beside an access list; see [`Stack::without_acls`].
    acls: bool,
}

impl Stack {
    /// A stack of `layers`, given lowest first.
    ///
    /// # Errors
    /// [`FsError::Invalid`] for more than [`MAX_LAYERS`].
    pub fn new(layers: Vec<Arc<dyn Layer>>) -> Result<Self, FsError> {
        if layers.len() > MAX_LAYERS {
            return Err(FsError::Invalid);
        }
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
        Ok(Stack { layers, stand_ins, acls: true })
    }

    /// The same layers for a reader that shows no access lists: the modes are those that objects
    /// have when they lose their lists ([`Acl::plain_mode`]).
    #[must_use]
    pub(crate) fn without_acls(self) -> Self {
        Stack { acls: false, ..self }
    }

    /// Whether access lists are shown beside the modes.
    pub(crate) fn shows_acls(&self) -> bool {
        self.acls
    }

    /// The layers, lowest first.
    pub fn layers(&self) -> &[Arc<dyn Layer>] {
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

    /// The merged root of all layers, of which there is at least one.
    ///
    /// # Errors
    /// A damaged layer.
    pub fn root(&self) -> Result<Sources, LayerError> {
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
    ///
    /// # Errors
    /// A damaged layer.
    pub fn lookup(&self, dir: &[Source], name: &[u8]) -> Result<Option<Pristine>, LayerError> {
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

    /// What stands in the directory merged from `dir`, sorted by name.
    ///
    /// # Errors
    /// A damaged layer.
    pub fn entries(&self, dir: &[Source]) -> Result<Entries, LayerError> {
        let of = |source: Source, ino, kind| {
            let source = Source { layer: source.layer, ino };
            match kind {
                FileType::Directory => Pristine::Directory(Sources::from_elem(source, 1)),
                kind => Pristine::Object { source, kind },
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
        // The topmost layer that says something of a name decides, unless it is a directory, which
        // those below add to until one of them ends it.
        struct Merged {
            found: Option<Pristine>,
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
                // With nothing below, nobody asks whether it is opaque.
                merged.ended = match object {
                    Some((ino, FileType::Directory)) if !last => {
                        self.layer(source).is_opaque(ino)?
                    }
                    _ => true,
                };
                match (&mut merged.found, object) {
                    (Some(Pristine::Directory(sources)), Some((ino, FileType::Directory))) => {
                        sources.push(Source { layer: source.layer, ino });
                    }
                    (None, Some((ino, kind))) => merged.found = Some(of(source, ino, kind)),
                    _ => {}
                }
            }
        }
        Ok(names.into_iter().filter_map(|(name, merged)| Some((name, merged.found?))).collect())
    }

    /// The names of the directory merged from `dir`, sorted.
    pub(crate) fn list(&self, dir: &[Source]) -> Result<Vec<Listed>, LayerError> {
        let listed =
            |(name, found): (_, Pristine)| Listed { name, ino: found.ino(), kind: found.kind() };
        Ok(self.entries(dir)?.into_iter().map(listed).collect())
    }

    /// The object that has the attributes of `source`.
    fn described(&self, source: Source) -> Source {
        let stand_in = self.stand_ins.iter().find(|(root, _)| *root == source);
        stand_in.map_or(source, |(_, below)| *below)
    }

    /// The attributes of an object.
    ///
    /// # Errors
    /// A damaged layer.
    pub fn attr(&self, source: Source) -> Result<Attr, LayerError> {
        let mut attr = self.stored_attr(source)?;
        if !self.acls
            && let Some(list) = self.acl(source, acl::ACCESS)?
        {
            attr.mode = list.plain_mode(attr.mode);
        }
        Ok(attr)
    }

    /// The access list of an object.
    ///
    /// # Errors
    /// A damaged layer.
    pub fn access_list(&self, source: Source) -> Result<Option<Acl>, LayerError> {
        self.acl(source, acl::ACCESS)
    }

    /// The access list `name` of an object. One that no kernel would accept counts as none.
    pub(crate) fn acl(&self, source: Source, name: &[u8]) -> Result<Option<Acl>, LayerError> {
        if !self.layer(self.described(source)).may_have_acls() {
            return Ok(None);
        }
        let xattrs = self.xattrs(source)?;
        let value = xattrs.iter().find(|(n, _)| **n == *name);
        Ok(value.and_then(|(_, value)| Acl::parse(value)))
    }

    /// The attributes of an object as its layer stores them: the group's bits of a mode are the
    /// mask of an access list.
    pub(crate) fn stored_attr(&self, source: Source) -> Result<Attr, LayerError> {
        let described = self.described(source);
        let mut attr = self.layer(described).attr(described.ino)?;
        if described != source {
            // Those are counted in its own place.
            attr.nlink = self.layer(source).attr(source.ino)?.nlink;
        }
        Ok(attr)
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// A damaged layer.
    pub fn read_link(&self, source: Source) -> Result<Vec<u8>, LayerError> {
        self.layer(source).read_link(source.ino)
    }

    /// All extended attributes, sorted by name.
    ///
    /// # Errors
    /// A damaged layer.
    pub fn xattrs(&self, source: Source) -> Result<Vec<Xattr>, LayerError> {
        let source = self.described(source);
        self.layer(source).xattrs(source.ino)
    }

    /// Fills `buf` from `offset` on; less than `buf.len()` comes back only at the end of the file.
    ///
    /// # Errors
    /// A damaged layer.
    pub fn read_at(
        &self,
        source: Source,
        offset: u64,
        buf: &mut [u8],
    ) -> Result<usize, LayerError> {
        self.layer(source).read_at(source.ino, offset, buf)
    }

    /// Where the next data at or after `offset` lies; `None` when only a hole follows.
    ///
    /// # Errors
    /// A damaged layer.
    pub fn next_data(&self, source: Source, offset: u64) -> Result<Option<Range<u64>>, LayerError> {
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
