//! The manifest of an artifact: its entries and the lower entries that they hide, as JSON.
//!
//! It depends only on the artifact and its sources: not on the time of the build, the host or the
//! user. Keys are in a fixed order, one entry per line, so that manifests can be compared line by
//! line. Paths and link targets are escaped as in [`crate::text::escape`], then as JSON requires.
//!
//! [`crate::seal`] writes manifests. [`SCHEMA`] is incremented when a reader of the old schema
//! could misread the new one; new keys alone do not increment it.

pub(crate) mod lower;

use std::collections::BTreeMap;

use fs_model::attr::FileType;
use fs_model::delta::Change;
use serde::Serialize;

pub use provisioners::image::Format;

use lower::{LowerRecord, LowerRecords};

/// The version of the manifest's schema.
pub const SCHEMA: u32 = 1;

/// A layer that the archive is made for.
#[derive(Clone, Debug, Serialize)]
pub struct BaseLayer {
    /// Its file name, without the path on this host.
    pub name: String,
    /// SHA-256 of the image in lower-case hexadecimal digits.
    pub sha256: String,
}

/// The part of the manifest that is not derived from the archive's entries.
#[derive(Clone, Debug, Default)]
pub struct ManifestInfo {
    /// The layers, the lowest first.
    pub layers: Vec<BaseLayer>,
    /// The entries of the layers at paths that the archive changes.
    pub lower: LowerRecords,
}

/// Entries by change and by type ("deleted" has the type "any").
pub(crate) type Counts = BTreeMap<&'static str, BTreeMap<&'static str, u64>>;

/// The archive as a file.
#[derive(Serialize)]
pub(crate) struct ManifestArchive {
    pub(crate) format: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) level: Option<u32>,
    pub(crate) size: u64,
    pub(crate) sha256: String,
}

/// The totals of all entries.
#[derive(Serialize)]
pub(crate) struct ManifestTotals {
    pub(crate) entries: usize,
    pub(crate) content: u64,
    pub(crate) counts: Counts,
}

/// One entry of the archive.
#[derive(Serialize)]
pub(crate) struct ManifestEntry<'a> {
    pub(crate) path: &'a str,
    pub(crate) change: &'static str,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub(crate) kind: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mode: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) gid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mtime: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sha256: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) target: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) device: Option<[u32; 2]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) links: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hardlink_to: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) below: Option<&'a LowerRecord>,
}

/// Returns the manifest's name of a change.
pub(crate) fn change_name(change: Change) -> &'static str {
    match change {
        Change::Added => "added",
        Change::Modified => "modified",
        Change::Unchanged => "unchanged",
        Change::Deleted => "deleted",
    }
}

/// Returns the manifest's name of a type.
pub(crate) fn type_name(kind: FileType) -> &'static str {
    match kind {
        FileType::Regular => "file",
        FileType::Directory => "directory",
        FileType::Symlink => "symlink",
        FileType::CharDevice => "char-device",
        FileType::BlockDevice => "block-device",
        FileType::Fifo => "fifo",
        FileType::Socket => "socket",
    }
}
