//! The entries of the lower layers at an overlay's paths, and their changes in a newer base.
//!
//! An overlay hides the entries of its layers at its paths. Its manifest records them, so that a
//! later check can find, without the old base, the paths where a newer base differs: there the
//! overlay hides a change that it was not built on.
//!
//! Modification times are not compared: in a rebuilt base they are all new.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use fs_model::delta::{Change, Contents, Delta};
use fs_model::layer::Layer;
use fs_model::tree::{TreeOptions, XattrSupport};
use fs_model::{Attr, FileType, FsError, Ino, Tree};
use serde::{Deserialize, Serialize};

use super::{SCHEMA, type_name};
use crate::text::digest::{digest_read_at, hex};
use crate::text::escape::{escape, unescape};

/// The entry that the layers have at a path, as a manifest describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LowerRecord {
    /// Its type.
    #[serde(rename = "type")]
    pub kind: Cow<'static, str>,
    /// The mode, in four or more octal digits.
    pub mode: String,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// A file's size in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// The SHA-256 of a file's content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// The target of a symbolic link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// A device's major and minor number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<[u32; 2]>,
}

/// The entries of a delta's layers at paths that the delta modifies or deletes, by path.
pub(crate) type LowerRecords = BTreeMap<Box<[u8]>, LowerRecord>;

/// Returns a tree of the layers alone.
///
/// # Errors
/// Fails for a damaged layer.
pub(crate) fn lower_tree(layers: &[Arc<dyn Layer>]) -> Result<Tree, FsError> {
    let options = TreeOptions { upper_limit: None, xattrs: XattrSupport::All };
    Tree::new(layers.to_vec(), options)
}

/// Returns the entries of the layers that `delta` modifies or deletes.
///
/// # Errors
/// Fails for a damaged layer.
pub(crate) fn lower_records(
    delta: &Delta,
    layers: &[Arc<dyn Layer>],
) -> Result<LowerRecords, FsError> {
    let tree = lower_tree(layers)?;
    let mut records = LowerRecords::new();
    for entry in &delta.entries {
        if matches!(entry.change, Change::Modified | Change::Deleted)
            && let Some(below) = record_at(&tree, &entry.path)?
        {
            records.insert(entry.path.clone(), below);
        }
    }
    Ok(records)
}

/// Returns the entry at `path`. Symbolic links are not followed.
fn record_at(tree: &Tree, path: &[u8]) -> Result<Option<LowerRecord>, FsError> {
    Ok(record_and_plain_mode_at(tree, path)?.map(|(below, _)| below))
}

/// Returns the entry at `path`, and its mode in an archive without ACLs.
fn record_and_plain_mode_at(
    tree: &Tree,
    path: &[u8],
) -> Result<Option<(LowerRecord, String)>, FsError> {
    let mut held = vec![];
    let found = walk(tree, path, &mut held).and_then(|found| {
        let Some((ino, attr)) = found else { return Ok(None) };
        let list = Contents::access_list(tree, ino)?;
        let plain = list.map_or(attr.mode, |list| list.plain_mode(attr.mode));
        Ok(Some((describe(tree, ino, &attr)?, mode_text(plain))))
    });
    for ino in held {
        tree.forget(ino, 1);
    }
    found
}

/// Looks up the path name by name, without [`fs_model::resolve`]: an overlay's paths contain no
/// links, so that a link in the layers on the way hides the rest of the path.
fn walk(tree: &Tree, path: &[u8], held: &mut Vec<Ino>) -> Result<Option<(Ino, Attr)>, FsError> {
    let mut found = (Ino::ROOT, tree.attr(Ino::ROOT)?);
    for name in path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
        if found.1.kind != FileType::Directory {
            return Ok(None);
        }
        match tree.lookup(found.0, name) {
            Ok(entry) => {
                held.push(entry.ino);
                found = (entry.ino, entry.attr);
            }
            Err(FsError::NotFound) => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    Ok(Some(found))
}

fn describe(tree: &Tree, ino: Ino, attr: &Attr) -> Result<LowerRecord, FsError> {
    let file = attr.kind == FileType::Regular;
    let target = match attr.kind {
        FileType::Symlink => Some(escape(&tree.read_link(ino)?).into_owned()),
        _ => None,
    };
    let digest = || {
        let read_at = |offset, buffer: &mut [u8]| tree.read(ino, offset, buffer);
        digest_read_at(attr.size, read_at).map(|digest| hex(&digest))
    };
    Ok(LowerRecord {
        kind: type_name(attr.kind).into(),
        mode: mode_text(attr.mode),
        uid: attr.uid,
        gid: attr.gid,
        size: file.then_some(attr.size),
        sha256: file.then(digest).transpose()?,
        target,
        device: attr.kind.is_device().then_some([attr.rdev.major, attr.rdev.minor]),
    })
}

fn mode_text(mode: u16) -> String {
    format!("{mode:04o}")
}

/// The part of a manifest that is read here.
#[derive(Debug, Deserialize)]
struct Manifest {
    schema: u32,
    entries: Vec<RecordedEntry>,
}

#[derive(Debug, Deserialize)]
struct RecordedEntry {
    path: String,
    change: String,
    below: Option<LowerRecord>,
    /// The overlay's own entry. For an unchanged one it is also the layers' entry.
    #[serde(flatten)]
    own: Option<LowerRecord>,
}

/// The change of a path in the layers since an overlay was built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DriftKind {
    /// The path is new.
    Added,
    /// The entry differs.
    Changed,
    /// The path is gone.
    Removed,
}

impl DriftKind {
    /// Returns the change as a word.
    pub fn word(self) -> &'static str {
        match self {
            DriftKind::Added => "added",
            DriftKind::Changed => "changed",
            DriftKind::Removed => "removed",
        }
    }
}

/// A manifest that cannot be used, or layers that cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DriftError {
    /// The manifest is invalid or has an unknown schema.
    #[error("{0}")]
    Manifest(String),
    /// The layers cannot be read.
    #[error(transparent)]
    Layers(#[from] FsError),
}

/// Returns the entries of the layers, by [escaped](crate::text::escape) path, that a manifest
/// recorded when the overlay was built; empty for an invalid manifest.
pub(crate) fn recorded_lower(manifest: &[u8]) -> BTreeMap<String, LowerRecord> {
    let Ok(manifest) = serde_json::from_slice::<Manifest>(manifest) else { return BTreeMap::new() };
    let below = manifest.entries.into_iter().map(|entry| (entry.path, entry.below));
    below.filter_map(|(path, below)| Some((path, below?))).collect()
}

/// A path of an overlay where the layers differ from those that the overlay was built on.
#[derive(Clone, Debug)]
pub(crate) struct Drift {
    /// The path, [escaped](crate::text::escape).
    pub path: String,
    /// The overlay's change of the path, as in the manifest: `added`, `modified`, `unchanged` or
    /// `deleted`.
    pub change: String,
    /// The entry in the layers when the overlay was built.
    pub before: Option<LowerRecord>,
    /// The entry in the layers now.
    pub now: Option<LowerRecord>,
    /// Whether the overlay has the same entry, and so hides nothing.
    pub same: bool,
}

impl Drift {
    /// Returns the change.
    pub(crate) fn kind(&self) -> DriftKind {
        match (&self.before, &self.now) {
            (None, _) => DriftKind::Added,
            (_, None) => DriftKind::Removed,
            _ => DriftKind::Changed,
        }
    }
}

/// Returns the paths of an overlay where `layers` differ from those that it was built on, according
/// to its manifest, in the manifest's order.
///
/// # Errors
/// Fails for an invalid manifest and for damaged layers.
pub(crate) fn find_drift(
    manifest: &[u8],
    layers: &[Arc<dyn Layer>],
) -> Result<Vec<Drift>, DriftError> {
    let manifest: Manifest = serde_json::from_slice(manifest)
        .map_err(|e| DriftError::Manifest(format!("not a valid manifest: {e}")))?;
    if manifest.schema != SCHEMA {
        let what = format!("unknown manifest schema {}", manifest.schema);
        return Err(DriftError::Manifest(what));
    }
    let tree = lower_tree(layers)?;
    let mut changed = Vec::new();
    for entry in manifest.entries {
        let path = unescape(&entry.path)
            .ok_or_else(|| DriftError::Manifest(format!("{:?} is not a valid path", entry.path)))?;
        let now = record_and_plain_mode_at(&tree, &path)?;
        // In an archive without ACLs the recorded mode is the plain one.
        let is_now = |before: &Option<LowerRecord>| match (before, &now) {
            (None, None) => true,
            (Some(before), Some((now, plain))) => {
                before == now || *before == LowerRecord { mode: plain.clone(), ..now.clone() }
            }
            _ => false,
        };
        let same = now.is_some() && is_now(&entry.own);
        let before = match entry.change.as_str() {
            "unchanged" => entry.own,
            _ => entry.below,
        };
        if !is_now(&before) {
            let now = now.map(|(now, _)| now);
            changed.push(Drift { path: entry.path, change: entry.change, before, now, same });
        }
    }
    Ok(changed)
}
