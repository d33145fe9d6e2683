//! What the layers have beneath an overlay, and what a newer base has changed there.
//!
//! An overlay hides what its layers have at its paths. Its manifest keeps what that was, so that
//! later one can tell, without the old base, at which of these paths a newer base has something
//! else: an overlay is then laid over a change that it has not seen.
//!
//! Times of modification are not compared: a base that is made anew has new ones everywhere.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use fs_model::delta::{Change, Contents, Delta};
use fs_model::layer::Layer;
use fs_model::tree::{TreeOptions, XattrSupport};
use fs_model::{Attr, FileType, FsError, Ino, Tree};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::seal::manifest::{hex, type_name};
use crate::seal::path::{escape, unescape};

/// Bytes that are read at a time.
const BUFFER: usize = 256 << 10;

/// What is at a path of layers, in the words of the manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Below {
    /// Its type.
    #[serde(rename = "type")]
    pub kind: Cow<'static, str>,
    /// Four or more octal digits.
    pub mode: String,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Bytes of a file's content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// The SHA-256 of a file's content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// The target of a symbolic link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// The numbers of a device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<[u32; 2]>,
}

/// What the layers of a delta have at those of its paths where the delta says something else, by
/// path.
pub type Beneath = BTreeMap<Box<[u8]>, Below>;

/// The layers as a tree of their own, without an upper.
///
/// # Errors
/// A damaged layer.
pub fn tree_of(layers: &[Arc<dyn Layer>]) -> Result<Tree, FsError> {
    let options = TreeOptions { upper_limit: None, xattrs: XattrSupport::All };
    Tree::new(layers.to_vec(), options)
}

/// What is beneath `delta`.
///
/// # Errors
/// A damaged layer.
pub fn beneath(delta: &Delta, layers: &[Arc<dyn Layer>]) -> Result<Beneath, FsError> {
    let tree = tree_of(layers)?;
    let mut beneath = Beneath::new();
    for entry in &delta.entries {
        if matches!(entry.change, Change::Modified | Change::Deleted)
            && let Some(below) = at(&tree, &entry.path)?
        {
            beneath.insert(entry.path.clone(), below);
        }
    }
    Ok(beneath)
}

/// What is at `path`, if anything is. No symbolic link is followed.
fn at(tree: &Tree, path: &[u8]) -> Result<Option<Below>, FsError> {
    Ok(modes_at(tree, path)?.map(|(below, _)| below))
}

/// The object at `path`, and its mode in an archive without access lists.
fn modes_at(tree: &Tree, path: &[u8]) -> Result<Option<(Below, String)>, FsError> {
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

fn describe(tree: &Tree, ino: Ino, attr: &Attr) -> Result<Below, FsError> {
    let file = attr.kind == FileType::Regular;
    let target = match attr.kind {
        FileType::Symlink => Some(escape(&tree.read_link(ino)?).into_owned()),
        _ => None,
    };
    Ok(Below {
        kind: type_name(attr.kind).into(),
        mode: mode_text(attr.mode),
        uid: attr.uid,
        gid: attr.gid,
        size: file.then_some(attr.size),
        sha256: file.then(|| digest(tree, ino)).transpose()?,
        target,
        device: attr.kind.is_device().then_some([attr.rdev.major, attr.rdev.minor]),
    })
}

fn mode_text(mode: u16) -> String {
    format!("{mode:04o}")
}

fn digest(tree: &Tree, ino: Ino) -> Result<String, FsError> {
    let mut sha256 = Sha256::new();
    let mut buffer = vec![0; BUFFER];
    let mut offset = 0;
    loop {
        let read = tree.read(ino, offset, &mut buffer)?;
        if read == 0 {
            return Ok(hex(&sha256.finalize()));
        }
        sha256.update(&buffer[..read]);
        offset += read as u64;
    }
}

/// A manifest, as far as it is read here.
#[derive(Debug, Deserialize)]
struct Manifest {
    schema: u32,
    entries: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
struct Entry {
    path: String,
    change: String,
    below: Option<Below>,
    /// What it is itself. What stands with an unchanged entry is what is beneath it.
    #[serde(flatten)]
    own: Option<Below>,
}

/// How layers differ at a path from what an overlay was made on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Since {
    /// They have something there that they had not.
    Added,
    /// They have something else there.
    Changed,
    /// They no longer have anything there.
    Removed,
}

impl Since {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Since::Added => "added",
            Since::Changed => "changed",
            Since::Removed => "removed",
        }
    }
}

/// A manifest that cannot be used, or layers that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ChangedError {
    /// The manifest is none, or none that this program knows.
    #[error("{0}")]
    Manifest(String),
    /// The layers.
    #[error(transparent)]
    Layers(#[from] FsError),
}

/// What was beneath an overlay at its paths, [escaped](crate::seal::path), when it was made, as its
/// manifest says; nothing if it says nothing.
pub fn recorded(manifest: &[u8]) -> BTreeMap<String, Below> {
    let Ok(manifest) = serde_json::from_slice::<Manifest>(manifest) else { return BTreeMap::new() };
    let below = manifest.entries.into_iter().map(|entry| (entry.path, entry.below));
    below.filter_map(|(path, below)| Some((path, below?))).collect()
}

/// A path of an overlay at which its layers have something else than those that it was made on.
#[derive(Clone, Debug)]
pub struct Drift {
    /// The path, [escaped](crate::seal::path).
    pub path: String,
    /// What the overlay does there, in the manifest's words: `added`, `modified`, `unchanged` or
    /// `deleted`.
    pub change: String,
    /// What was there when it was made.
    pub before: Option<Below>,
    /// What is there now.
    pub now: Option<Below>,
    /// The overlay has just that itself: it hides nothing.
    pub same: bool,
}

impl Drift {
    /// How the layers differ.
    pub fn since(&self) -> Since {
        match (&self.before, &self.now) {
            (None, _) => Since::Added,
            (_, None) => Since::Removed,
            _ => Since::Changed,
        }
    }
}

/// The paths of an overlay at which `layers` have something else than those that it was made on,
/// as its manifest says, in the manifest's order.
///
/// # Errors
/// A manifest that makes no sense, damaged layers.
pub fn changed(manifest: &[u8], layers: &[Arc<dyn Layer>]) -> Result<Vec<Drift>, ChangedError> {
    let manifest: Manifest = serde_json::from_slice(manifest)
        .map_err(|e| ChangedError::Manifest(format!("it is no manifest: {e}")))?;
    if manifest.schema != crate::seal::manifest::SCHEMA {
        let what = format!("its schema {} is one that this program does not know", manifest.schema);
        return Err(ChangedError::Manifest(what));
    }
    let tree = tree_of(layers)?;
    let mut changed = Vec::new();
    for entry in manifest.entries {
        let path = unescape(&entry.path)
            .ok_or_else(|| ChangedError::Manifest(format!("{:?} is no path", entry.path)))?;
        let now = modes_at(&tree, &path)?;
        // A mode that was recorded of an archive without access lists is the plain one.
        let is_now = |before: &Option<Below>| match (before, &now) {
            (None, None) => true,
            (Some(before), Some((now, plain))) => {
                before == now || *before == Below { mode: plain.clone(), ..now.clone() }
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
