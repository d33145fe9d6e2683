//! The entries of an archive, determined, numbered and checked before anything is written.
//!
//! Invariants:
//! - Items are in the delta's order, one per entry.
//! - Archive inodes are numbered 1..n in order of their first appearance; each item has one.
//! - The names of one regular file share the number and have its link count. All other files have
//!   one link: cpio unpackers split hard-linked symlinks, and busybox splits hard-linked devices.

use std::collections::HashMap;

use fs_model::attr::FileType;
use fs_model::delta::{Delta, DeltaEntry, Object};
use fs_model::tree::Ino;

use super::error::SealError;
use crate::text::escape::escape;

/// Maximum length of a path and of a symlink target, in bytes: `PATH_MAX` without the final NUL.
/// The kernel's initramfs unpacker skips longer ones.
pub(super) const PATH_LIMIT: usize = 4095;

/// One entry of the archive.
#[derive(Debug)]
pub(super) struct ArchiveItem<'d> {
    pub(super) entry: &'d DeltaEntry,
    /// Its inode number in the archive.
    pub(super) number: u32,
    /// The number of names that the inode has in the archive.
    pub(super) links: u32,
    /// The item that has the content, if it is another one.
    pub(super) first: Option<usize>,
}

impl<'d> ArchiveItem<'d> {
    pub(super) fn path(&self) -> &'d [u8] {
        &self.entry.path
    }

    pub(super) fn object(&self) -> Option<&'d Object> {
        self.entry.object.as_ref()
    }

    /// Returns the size of the content that is written with this item, in bytes.
    pub(super) fn content(&self) -> u64 {
        match self.object() {
            Some(object) if object.attr.kind == FileType::Regular && self.first.is_none() => {
                object.attr.size
            }
            _ => 0,
        }
    }
}

/// The limits of a format.
#[derive(Clone, Copy, Debug)]
pub(super) struct FormatLimits {
    pub(super) file_size: u64,
    pub(super) path: usize,
    /// Whether the format supports hard links to devices, fifos, sockets and symlinks.
    pub(super) links_of_all: bool,
}

/// The whole archive.
#[derive(Debug)]
pub(super) struct ArchivePlan<'d> {
    pub(super) items: Vec<ArchiveItem<'d>>,
    /// Total bytes of file content.
    pub(super) content: u64,
    /// Items whose hard links the format cannot represent.
    pub(super) split_links: Vec<usize>,
    /// Whether any name, even a deleted one, looks like a whiteout ([`is_marker`]).
    pub(super) markers: bool,
}

impl<'d> ArchivePlan<'d> {
    pub(super) fn new(delta: &'d Delta, limits: FormatLimits) -> Result<Self, SealError> {
        let mut plan = ArchivePlan {
            items: Vec::with_capacity(delta.entries.len()),
            content: 0,
            split_links: Vec::new(),
            markers: false,
        };
        let mut groups: HashMap<Ino, Vec<usize>> = HashMap::new();
        let mut numbers = 0u32;
        for (index, entry) in delta.entries.iter().enumerate() {
            check(entry, index, limits)?;
            // The path's parent directories are entries too.
            plan.markers |= is_marker(&entry.path);
            let mut first = None;
            if let Some(object) = &entry.object
                && object.attr.nlink > 1
                && object.attr.kind != FileType::Directory
            {
                if limits.links_of_all || object.attr.kind == FileType::Regular {
                    let names = groups.entry(object.ino).or_default();
                    first = names.first().copied();
                    names.push(index);
                } else {
                    plan.split_links.push(index);
                }
            }
            let number = match first {
                Some(first) => plan.items[first].number,
                None => {
                    numbers = numbers.checked_add(1).ok_or(SealError::BadDelta {
                        path: escape(&entry.path).into_owned(),
                        what: "more than 2^32 inodes",
                    })?;
                    numbers
                }
            };
            plan.items.push(ArchiveItem { entry, number, links: 1, first });
            plan.content += plan.items[index].content();
        }
        for names in groups.values() {
            for &index in names {
                plan.items[index].links = names.len() as u32;
            }
        }
        Ok(plan)
    }
}

/// Whether the last component of a path means a deletion in some formats.
pub(super) fn is_marker(path: &[u8]) -> bool {
    path.rsplit(|&byte| byte == b'/').next().is_some_and(|name| name.starts_with(b".wh."))
}

fn check(entry: &DeltaEntry, index: usize, limits: FormatLimits) -> Result<(), SealError> {
    let path = || escape(&entry.path).into_owned();
    let bad = |what| Err(SealError::BadDelta { path: path(), what });
    if entry.path.is_empty() != (index == 0) {
        return bad("the root must be the first entry, exactly once");
    }
    if entry.path.is_empty()
        && entry.object.is_none_or(|root| root.attr.kind != FileType::Directory)
    {
        return bad("the root is not a directory");
    }
    if entry.path.len() > limits.path {
        return Err(SealError::PathTooLong {
            path: path(),
            length: entry.path.len(),
            limit: limits.path,
        });
    }
    let Some(object) = &entry.object else { return Ok(()) };
    let size = object.attr.size;
    match object.attr.kind {
        FileType::Regular if size > limits.file_size => {
            Err(SealError::FileTooLarge { path: path(), size })
        }
        FileType::Symlink if size == 0 || size > PATH_LIMIT as u64 => {
            Err(SealError::BadTarget { path: path(), length: size, limit: PATH_LIMIT })
        }
        _ => Ok(()),
    }
}
