//! Deltas in memory, and helpers for sealing them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

pub(crate) use crate::tools::sh;
use fs_model::attr::{Attr, Device, FileType, Time};
use fs_model::delta::{Change, Contents, Delta, DeltaEntry, Object};
use fs_model::error::FsError;
use fs_model::layer::Xattr;
use fs_model::tree::Ino;
use overcoat::seal::{Format, ManifestInfo, Output, SealError, SealOptions, Summary, seal};

/// The content of a file in a sample.
#[derive(Clone, Debug)]
pub(crate) enum Data {
    Bytes(Vec<u8>),
    /// Zeros of this size with a few bytes at an offset.
    Sparse {
        size: u64,
        at: u64,
        bytes: Vec<u8>,
    },
    /// Ends before its size.
    Short(Vec<u8>),
    /// Panics.
    Panics,
}

/// A delta with its objects, by inode number.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sample {
    pub(crate) delta: Delta,
    pub(crate) data: BTreeMap<u64, Data>,
    pub(crate) targets: BTreeMap<u64, Vec<u8>>,
    pub(crate) xattrs: BTreeMap<u64, Vec<Xattr>>,
}

impl Contents for Sample {
    fn read(&self, ino: Ino, offset: u64, buf: &mut [u8]) -> Result<usize, FsError> {
        match self.data.get(&ino.0) {
            Some(Data::Bytes(bytes) | Data::Short(bytes)) => {
                let rest = &bytes[(offset as usize).min(bytes.len())..];
                // Short reads before the end are legal.
                let length = rest.len().min(buf.len()).min(100_000);
                buf[..length].copy_from_slice(&rest[..length]);
                Ok(length)
            }
            Some(Data::Sparse { at, bytes, .. }) => {
                for (place, byte) in (offset..).zip(buf.iter_mut()) {
                    let index = place.checked_sub(*at).map(|index| index as usize);
                    *byte = index.and_then(|index| bytes.get(index)).copied().unwrap_or(0);
                }
                Ok(buf.len())
            }
            Some(Data::Panics) => panic!("content that panics"),
            None => Err(FsError::Stale),
        }
    }

    fn next_data(&self, ino: Ino, offset: u64) -> Result<Option<Range<u64>>, FsError> {
        match self.data.get(&ino.0) {
            Some(Data::Sparse { at, bytes, .. }) => {
                let end = at + bytes.len() as u64;
                Ok((offset < end).then(|| offset.max(*at)..end))
            }
            _ => Ok(Some(offset..u64::MAX)),
        }
    }

    fn read_link(&self, ino: Ino) -> Result<Vec<u8>, FsError> {
        self.targets.get(&ino.0).cloned().ok_or(FsError::Stale)
    }

    fn xattrs(&self, ino: Ino) -> Result<Vec<Xattr>, FsError> {
        Ok(self.xattrs.get(&ino.0).cloned().unwrap_or_default())
    }
}

pub(crate) fn attr(kind: FileType, mode: u16) -> Attr {
    Attr { nlink: 1, ..Attr::new(kind, mode, Time::from_secs(1_700_000_000)) }
}

impl Sample {
    pub(crate) fn new() -> Self {
        let mut sample = Sample::default();
        sample.add("", 1, attr(FileType::Directory, 0o755));
        sample
    }

    pub(crate) fn add(&mut self, path: impl AsRef<[u8]>, ino: u64, attr: Attr) -> &mut Self {
        let object = Some(Object { ino: Ino(ino), attr });
        let path = path.as_ref().into();
        self.delta.entries.push(DeltaEntry { path, change: Change::Added, object });
        self
    }

    pub(crate) fn dir(&mut self, path: impl AsRef<[u8]>, ino: u64) -> &mut Self {
        self.add(path, ino, attr(FileType::Directory, 0o755))
    }

    pub(crate) fn file(&mut self, path: impl AsRef<[u8]>, ino: u64, data: &[u8]) -> &mut Self {
        self.data.insert(ino, Data::Bytes(data.to_vec()));
        self.add(path, ino, Attr { size: data.len() as u64, ..attr(FileType::Regular, 0o644) })
    }

    pub(crate) fn deleted(&mut self, path: impl AsRef<[u8]>) -> &mut Self {
        let path = path.as_ref().into();
        self.delta.entries.push(DeltaEntry { path, change: Change::Deleted, object: None });
        self
    }

    /// Sorts the entries in tree order, and sets link counts.
    pub(crate) fn in_order(mut self) -> Self {
        let key = |path: &[u8]| path.split(|&b| b == b'/').map(<[u8]>::to_vec).collect::<Vec<_>>();
        self.delta.entries.sort_by_key(|entry| (!entry.path.is_empty(), key(&entry.path)));
        let mut names = BTreeMap::<u64, u32>::new();
        for object in self.delta.entries.iter().filter_map(|entry| entry.object) {
            *names.entry(object.ino.0).or_default() += 1;
        }
        for object in self.delta.entries.iter_mut().filter_map(|entry| entry.object.as_mut()) {
            object.attr.nlink = names[&object.ino.0];
        }
        self
    }
}

/// Returns pseudo-random bytes, half of them compressible.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut bytes = Vec::with_capacity(length + 64);
    while bytes.len() < length {
        let word = next();
        if word & 1 == 0 {
            bytes.extend_from_slice(&word.to_le_bytes());
        } else {
            bytes.extend_from_slice(b"the same words again and again, ");
        }
    }
    bytes.truncate(length);
    bytes
}

/// Returns a sample with every type of object, unusual names, links and deletions.
pub(crate) fn everything() -> Sample {
    let mut s = Sample::new();
    s.dir("etc", 2).file("etc/hostname", 3, b"node\n").file("etc/empty", 4, b"");
    s.file("big", 5, &noise(5, 900_001));
    s.add("etc/private", 6, Attr { uid: 100_000, gid: 65534, ..attr(FileType::Directory, 0o2750) });
    s.data.insert(7, Data::Bytes(b"#!/bin/sh\n".to_vec()));
    s.add(
        "etc/su",
        7,
        Attr { size: 10, uid: 1, gid: 3_000_000, ..attr(FileType::Regular, 0o4755) },
    );
    s.file("etc/a-link", 8, b"three names").file("etc/b-link", 8, b"three names");
    s.file("z-link", 8, b"three names");
    s.file("etc/x-empty", 9, b"").file("etc/y-empty", 9, b"");
    s.targets.insert(10, b"/etc/hostname".to_vec());
    s.add("link", 10, Attr { size: 13, ..attr(FileType::Symlink, 0o777) });
    s.targets.insert(11, vec![b't'; 300]);
    s.add("long-link", 11, Attr { size: 300, ..attr(FileType::Symlink, 0o777) });
    s.dir("dev", 12);
    let device = |kind, major, minor| Attr { rdev: Device { major, minor }, ..attr(kind, 0o660) };
    s.add("dev/char", 13, device(FileType::CharDevice, 5, 1));
    s.add("dev/block", 14, device(FileType::BlockDevice, 259, 70_000));
    s.add("dev/fifo", 15, attr(FileType::Fifo, 0o600));
    s.deleted("etc/gone").deleted("lost").deleted("etc/.wh.lost");
    s.file("etc/.wh.odd", 91, b"a name").file(".wh..wh..opq", 92, b"").dir("etc/.wh.dir", 93);
    s.file("etc/.wh.dir/file", 94, b"in it");
    s.file([b"etc/".as_slice(), &[0xff; 255]].concat(), 17, b"bytes for a name");
    s.file("etc/sch\u{f6}n", 18, b"umlaut");
    s.file("etc/new\nline \\x41", 19, b"odd");
    s.file("-rf", 20, b"dash").file("TRAILER!!!", 21, b"not the end");
    let deep = (0..12).map(|_| "d".repeat(60)).collect::<Vec<_>>();
    for depth in 1..=deep.len() {
        s.dir(deep[..depth].join("/"), 30 + depth as u64);
    }
    s.file(deep.join("/") + "/file", 60, b"far down");
    s.file(deep.join("/") + "/link", 61, b"linked").file("zz-deep-link", 61, b"linked");
    let at = |secs| Attr { mtime: Time { secs, nanos: 5 }, ..attr(FileType::Directory, 0o755) };
    s.add("before-1970", 70, at(-1)).add("after-2038", 71, at(3_000_000_000));
    s.add("after-2106", 72, at(5_000_000_000));
    s.data.insert(80, Data::Sparse { size: 3_000_000, at: 2_000_003, bytes: b"island".to_vec() });
    s.add("sparse", 80, Attr { size: 3_000_000, ..attr(FileType::Regular, 0o600) });
    s.in_order()
}

/// Seals into a file.
pub(crate) fn seal_to(
    sample: &Sample,
    options: &SealOptions,
    path: &Path,
) -> Result<Summary, SealError> {
    seal(&sample.delta, sample, options, Output::file(path)?, None, &mut |_| ())
}

/// Seals and returns the bytes.
pub(crate) fn sealed(sample: &Sample, options: &SealOptions) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("archive");
    let manifest = Output::file(&dir.path().join("manifest")).unwrap();
    let archive = Output::file(&path).unwrap();
    let info = ManifestInfo::default();
    seal(&sample.delta, sample, options, archive, Some((manifest, info)), &mut |_| ()).unwrap();
    std::fs::read(path).unwrap()
}

pub(crate) fn options(format: Format) -> SealOptions {
    SealOptions { threads: 2, ..SealOptions::new(format) }
}

/// Returns whether device nodes and owners can be unpacked; prints a note if not.
pub(crate) fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    let root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    if !root {
        eprintln!("not root: owners and device nodes are not compared");
    }
    root
}
