//! Writes the [manifest](crate::manifest) of an archive.

use std::collections::BTreeMap;
use std::io::{self, Write};

use fs_model::attr::FileType;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::newc::clamp;
use super::plan::{ArchiveItem, ArchivePlan};
use crate::manifest::{
    Counts, Format, ManifestArchive, ManifestEntry, ManifestInfo, ManifestTotals, SCHEMA,
    change_name, type_name,
};
use crate::text::digest::hex;
use crate::text::escape::escape;

/// The data of a written archive.
#[derive(Debug)]
pub(super) struct WrittenArchive<'a> {
    pub(super) format: Format,
    pub(super) level: Option<u32>,
    pub(super) size: u64,
    pub(super) sha256: [u8; 32],
    pub(super) epoch: Option<u32>,
    pub(super) plan: &'a ArchivePlan<'a>,
    /// One per item, if it has content.
    pub(super) digests: &'a [Option<[u8; 32]>],
    /// One per item that is a symlink.
    pub(super) targets: &'a BTreeMap<usize, Vec<u8>>,
}

impl WrittenArchive<'_> {
    /// Writes the manifest.
    pub(super) fn write(&self, info: &ManifestInfo, mut out: impl Write) -> io::Result<()> {
        let archive = ManifestArchive {
            format: self.format.name(),
            level: self.level,
            size: self.size,
            sha256: hex(&self.sha256),
        };
        let totals = ManifestTotals {
            entries: self.plan.items.len(),
            content: self.plan.content,
            counts: counts(self.plan),
        };
        writeln!(out, "{{\n\"schema\": {SCHEMA},")?;
        write_line(&mut out, "overcoat", &env!("CARGO_PKG_VERSION"))?;
        write_line(&mut out, "archive", &archive)?;
        write_line(&mut out, "layers", &info.layers)?;
        write_line(&mut out, "source_date_epoch", &self.epoch)?;
        write_line(&mut out, "totals", &totals)?;
        write!(out, "\"entries\": [")?;
        for (index, item) in self.plan.items.iter().enumerate() {
            out.write_all(if index == 0 { b"\n" } else { b",\n" })?;
            self.entry(index, item, info, &mut out)?;
        }
        writeln!(out, "\n]\n}}")?;
        out.flush()
    }

    fn entry(
        &self,
        index: usize,
        item: &ArchiveItem<'_>,
        info: &ManifestInfo,
        out: &mut impl Write,
    ) -> io::Result<()> {
        let path = escape(item.path());
        let object = item.object();
        let attr = object.map(|object| &object.attr);
        let is = |kind| attr.is_some_and(|attr| attr.kind == kind);
        let content = item.first.unwrap_or(index);
        let device = attr.filter(|attr| attr.kind.is_device());
        let entry = ManifestEntry {
            path: &path,
            change: change_name(item.entry.change),
            kind: attr.map(|attr| type_name(attr.kind)),
            mode: attr.map(|attr| format!("{:04o}", attr.mode)),
            uid: attr.map(|attr| attr.uid),
            gid: attr.map(|attr| attr.gid),
            mtime: attr.map(|attr| clamp(attr, self.epoch)),
            size: attr.filter(|_| is(FileType::Regular)).map(|attr| attr.size),
            sha256: self.digests[content].as_ref().map(|digest| hex(digest)),
            target: self.targets.get(&content).map(|target| escape(target).into_owned()),
            device: device.map(|attr| [attr.rdev.major, attr.rdev.minor]),
            links: (item.links > 1).then_some(item.links),
            hardlink_to: item.first.map(|first| escape(self.plan.items[first].path()).into_owned()),
            below: info.lower.get(item.path()),
        };
        Ok(serde_json::to_writer(out, &entry)?)
    }
}

fn write_line(out: &mut impl Write, key: &str, value: &impl Serialize) -> io::Result<()> {
    writeln!(out, "\"{key}\": {},", serde_json::to_string(value)?)
}

/// Counts the entries of a plan.
pub(super) fn counts(plan: &ArchivePlan<'_>) -> Counts {
    let mut counts = Counts::new();
    for item in &plan.items {
        let kind = item.object().map_or("any", |object| type_name(object.attr.kind));
        *counts.entry(change_name(item.entry.change)).or_default().entry(kind).or_default() += 1;
    }
    counts
}

/// A writer that counts and digests the bytes written through it.
#[derive(Debug)]
pub(super) struct DigestingWriter<W> {
    inner: W,
    size: u64,
    sha256: Sha256,
}

impl<W: Write> DigestingWriter<W> {
    pub(super) fn new(inner: W) -> Self {
        DigestingWriter { inner, size: 0, sha256: Sha256::new() }
    }

    /// Returns the number of bytes and their SHA-256.
    pub(super) fn finish(self) -> (u64, [u8; 32]) {
        (self.size, self.sha256.finalize().into())
    }
}

impl<W: Write> Write for DigestingWriter<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(data)?;
        self.sha256.update(&data[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
