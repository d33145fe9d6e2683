//! The names in the directories of an archive: objects, and whiteouts by name.
//!
//! A file `.wh.NAME` hides `NAME` in the layers below, as in aufs and in OCI image layers, and
//! `.wh..wh..opq` makes its directory opaque. Other `.wh..wh.` names belong to aufs and are
//! ignored. A character device 0:0 is a whiteout, as in overlayfs.

use std::collections::BTreeMap;

use super::{LayerDirEntry, LayerEntry, LayerIno};
use crate::attr::{Device, FileType};

/// Maximum length of a name in bytes.
pub(super) const NAME_MAX: usize = 255;
/// Prefix of whiteouts in archives that store them as files.
pub(super) const MARKER: &[u8] = b".wh.";

/// Collects the names of the directories of an archive.
#[derive(Debug)]
pub(super) struct ArchiveNames {
    /// By object: whether it is an opaque directory.
    opaque: Vec<bool>,
    /// By object: the number of its names.
    links: Vec<u32>,
}

impl ArchiveNames {
    /// Creates the collector for an archive with this number of objects.
    pub(super) fn new(objects: usize) -> Self {
        ArchiveNames { opaque: vec![false; objects], links: vec![0; objects] }
    }

    /// Returns whether a name in the archive made this directory opaque.
    pub(super) fn is_opaque(&self, object: usize) -> bool {
        self.opaque[object]
    }

    /// Returns the number of names of an object, at least 1.
    pub(super) fn links(&self, object: usize) -> u32 {
        self.links[object].max(1)
    }

    /// Returns the sorted entries of a directory with these names in the archive. `object` returns
    /// the type and the device number of an object. A name for which `is_literal` returns true is
    /// not a whiteout.
    pub(super) fn entries(
        &mut self,
        directory: usize,
        children: BTreeMap<Box<[u8]>, usize>,
        object: impl Fn(usize) -> (FileType, Device),
        is_literal: impl Fn(&[u8]) -> bool,
    ) -> Result<Vec<LayerDirEntry>, String> {
        let mut entries = Vec::with_capacity(children.len());
        let mut hidden = Vec::new();
        for (name, index) in children {
            let (kind, rdev) = object(index);
            match name.strip_prefix(MARKER).filter(|_| !is_literal(&name)) {
                Some(b".wh..opq") => {
                    self.opaque[directory] = true;
                    continue;
                }
                // Names of aufs itself: .wh..wh.aufs, .wh..wh.plnk, .wh..wh.orph.
                Some(own) if own.starts_with(MARKER) => continue,
                Some(b"" | b"." | b"..") => return Err(".wh. without a name".into()),
                Some(hides) if kind != FileType::Directory => {
                    hidden.push(Box::<[u8]>::from(hides));
                    continue;
                }
                _ => {}
            }
            let entry = if kind == FileType::CharDevice && rdev == Device::default() {
                LayerEntry::Whiteout
            } else {
                self.links[index] += 1;
                LayerEntry::Object { ino: LayerIno(index as u64), kind }
            };
            entries.push(LayerDirEntry { name, entry });
        }
        let own = entries.len();
        for name in hidden {
            match entries[..own].binary_search_by(|entry| entry.name.cmp(&name)) {
                // A whiteout applies to lower layers, not to this one: a directory here is opaque.
                Ok(pos) => {
                    if let LayerEntry::Object { ino, kind: FileType::Directory } =
                        entries[pos].entry
                    {
                        self.opaque[ino.0 as usize] = true;
                    }
                }
                Err(_) => entries.push(LayerDirEntry { name, entry: LayerEntry::Whiteout }),
            }
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        entries.shrink_to_fit();
        Ok(entries)
    }
}

/// Returns the number of links of a directory with these entries.
pub(super) fn directory_links(entries: &[LayerDirEntry]) -> u32 {
    let is_dir = |entry: &&LayerDirEntry| {
        matches!(entry.entry, LayerEntry::Object { kind: FileType::Directory, .. })
    };
    2 + entries.iter().filter(is_dir).count() as u32
}
