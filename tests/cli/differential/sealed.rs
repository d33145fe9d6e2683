//! Checks of the sealed artifact: with the layers it is the tree, and it has no other entries.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags, chmodat, chownat,
    lremovexattr, lsetxattr, makedev, mknodat, utimensat,
};

use super::scene::Scene;
use super::side::xattrs;
use crate::support::listing::{Listing, differences, list};
use crate::support::tools;

/// The format of the artifact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Cpio,
    Tar,
    Squashfs,
}

impl Format {
    pub(super) fn any() -> impl Strategy<Value = Format> {
        prop::sample::select(vec![Format::Cpio, Format::Cpio, Format::Tar, Format::Squashfs])
    }

    /// Returns whether the format stores extended attributes.
    pub(super) fn has_xattrs(self) -> bool {
        self != Format::Cpio
    }

    /// Returns whether the format stores sockets.
    pub(super) fn has_sockets(self) -> bool {
        self == Format::Cpio
    }

    fn name(self) -> &'static str {
        match self {
            Format::Cpio => "sealed.cpio",
            Format::Tar => "sealed.tar",
            Format::Squashfs => "sealed.squashfs",
        }
    }

    /// Unpacks an artifact into an empty folder, in the form of an overlayfs upper.
    fn unpack(self, archive: &Path, folder: &Path) {
        std::fs::create_dir(folder).unwrap();
        let bytes = std::fs::read(archive).unwrap();
        let archive = archive.display();
        match self {
            Format::Cpio => {
                tools::sh(folder, &format!("cpio --quiet -im <'{archive}'"));
                // GNU cpio does not set the times of links and existing directories.
                for (name, time) in times(&bytes).into_iter().rev() {
                    set_time(&folder.join(name), time, 0);
                }
            }
            Format::Tar => {
                let options = "--numeric-owner --xattrs --xattrs-include='*'";
                tools::sh(folder, &format!("tar {options} -xpf '{archive}'"));
                name_whiteouts(folder);
            }
            Format::Squashfs => {
                let script =
                    format!("unsquashfs -quiet -no-progress -f -d . '{archive}' >/dev/null");
                tools::sh(folder, &script);
            }
        }
    }
}

/// Returns the names in a cpio archive with their modification times.
fn times(archive: &[u8]) -> Vec<(PathBuf, i64)> {
    let number = |at: usize| -> usize {
        let digits = std::str::from_utf8(&archive[at..at + 8]).unwrap();
        usize::from_str_radix(digits, 16).unwrap()
    };
    let (mut at, mut times) = (0, Vec::new());
    loop {
        let (time, size, name_len) = (number(at + 46), number(at + 54), number(at + 94));
        let name = &archive[at + 110..at + 110 + name_len - 1];
        if name == b"TRAILER!!!" {
            return times;
        }
        times.push((OsStr::from_bytes(name).into(), time as i64));
        at = (at + 110 + name_len).next_multiple_of(4) + size.next_multiple_of(4);
    }
}

/// Replaces files `.wh.NAME` by whiteouts of overlayfs, and keeps the times of directories.
fn name_whiteouts(dir: &Path) {
    let meta = std::fs::symlink_metadata(dir).unwrap();
    for path in children(dir) {
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.symlink_metadata().unwrap().is_dir() {
            name_whiteouts(&path);
        } else if let Some(name) = name.strip_prefix(".wh.") {
            std::fs::remove_file(&path).unwrap();
            let path = path.with_file_name(name);
            mknodat(CWD, &path, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
        }
    }
    set_times(dir, &meta);
}

/// The observable state of a tree.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) listing: Listing,
    xattrs: BTreeMap<String, Vec<(String, Vec<u8>)>>,
}

impl Seen {
    pub(super) fn at(root: &Path) -> Seen {
        let listing = list(root);
        let of = |path: &String| (path.clone(), xattrs(&root.join(path)).unwrap());
        let xattrs = listing.keys().map(of).filter(|(_, xattrs)| !xattrs.is_empty()).collect();
        Seen { listing, xattrs }
    }

    /// Makes all times after `past` equal.
    pub(super) fn timeless(mut self, past: i64) -> Seen {
        for object in self.listing.values_mut().filter(|object| object.mtime > past) {
            object.mtime = i64::MAX;
        }
        self
    }

    /// Removes hard links that the format does not store: a cpio archive has those of regular
    /// files.
    fn in_archive(mut self, format: Format) -> Seen {
        if format == Format::Cpio {
            let others = self.listing.values_mut().filter(|object| object.kind != "file");
            others.for_each(|object| object.links = None);
        }
        self
    }

    fn has_linked_nodes(&self) -> bool {
        self.listing.values().any(|object| object.kind != "file" && object.links.is_some())
    }

    pub(super) fn same(&self, what: &str, found: &Seen) -> Result<(), TestCaseError> {
        let lines = differences(&self.listing, &found.listing);
        prop_assert!(lines.is_empty(), "{} differs\n{}", what, lines.join("\n"));
        prop_assert_eq!(&self.xattrs, &found.xattrs, "{}: attributes", what);
        Ok(())
    }
}

/// Seals the mount, whose tree is `seen`, unmounts it, and checks the artifact as described above.
pub(super) fn check(scene: &Scene, seen: Seen, format: Format) -> Result<(), TestCaseError> {
    let folder = scene.folder();
    let archive = folder.join(format.name());
    scene.seal(&archive);
    scene.unmount();
    let linked_nodes = seen.has_linked_nodes();
    let seen = seen.in_archive(format);

    // The unpacked artifact over the layers is the tree.
    let upper = folder.join("upper");
    format.unpack(&archive, &upper);
    let kernel = scene.overlayfs(Some(&upper));
    seen.same("the unpacked artifact", &Seen::at(kernel.root()).in_archive(format))?;
    drop(kernel);

    // The artifact as a layer gives the same tree, and a second seal has no changes.
    let layer = if format == Format::Tar { &upper } else { &archive };
    let ours = scene.mount(Some(layer));
    seen.same("the artifact as a layer", &Seen::at(&ours).in_archive(format))?;
    let again = folder.join("again.cpio");
    scene.seal(&again);
    let bytes = std::fs::read(&again).unwrap();
    // Only the root entry and the trailer; each name begins 110 bytes after the start of its
    // header.
    let names = [bytes.get(110..112), bytes.get(222..232)].map(Option::unwrap_or_default);
    let nothing: [&[u8]; 2] = [b".\0", b"TRAILER!!!"];
    prop_assert_eq!(names, nothing, "the second seal has entries without changes");
    scene.unmount();

    // The same changes to the layers are sealed to the same bytes.
    if format == Format::Cpio && linked_nodes {
        // The archive has separate nodes, some of which may equal those of the layers.
        return Ok(());
    }
    let ours = scene.mount(None);
    apply(&upper, &ours, &mut HashMap::new());
    let again = folder.join(format!("again.{}", format.name()));
    scene.seal(&again);
    scene.unmount();
    let same = std::fs::read(&archive).unwrap() == std::fs::read(&again).unwrap();
    prop_assert!(same, "the bytes differ after unpacking over the layers and sealing again");
    Ok(())
}

fn children(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    paths.sort();
    paths
}

/// Applies an upper directory to the directory `to`.
fn apply(upper: &Path, to: &Path, links: &mut HashMap<u64, PathBuf>) {
    let meta = std::fs::symlink_metadata(upper).unwrap();
    for path in children(upper) {
        let at = to.join(path.file_name().unwrap());
        let below = std::fs::symlink_metadata(&path).unwrap();
        let there = std::fs::symlink_metadata(&at).ok();
        let stays = below.is_dir() && there.as_ref().is_some_and(|there| there.is_dir());
        match there {
            Some(_) if stays => {}
            Some(there) if there.is_dir() => std::fs::remove_dir_all(&at).unwrap(),
            Some(_) => std::fs::remove_file(&at).unwrap(),
            None => {}
        }
        if below.file_type().is_char_device() && below.rdev() == 0 {
            continue;
        }
        if below.is_dir() {
            if !stays {
                std::fs::create_dir(&at).unwrap();
            }
            apply(&path, &at, links);
        } else if let Some(first) = links.get(&below.ino()) {
            std::fs::hard_link(first, &at).unwrap();
        } else {
            make(&path, &below, &at);
            copy_attributes(&path, &below, &at);
            links.insert(below.ino(), at);
        }
    }
    copy_attributes(upper, &meta, to);
}

fn make(from: &Path, meta: &std::fs::Metadata, to: &Path) {
    let kind = FileType::from_raw_mode(meta.mode());
    match kind {
        FileType::RegularFile => std::fs::write(to, std::fs::read(from).unwrap()).unwrap(),
        FileType::Symlink => symlink(std::fs::read_link(from).unwrap(), to).unwrap(),
        _ => {
            let device = makedev(rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
            mknodat(CWD, to, kind, Mode::from_raw_mode(0o600), device).unwrap();
        }
    }
}

/// Copies all attributes of `from` to `to`.
fn copy_attributes(from: &Path, meta: &std::fs::Metadata, to: &Path) {
    let (uid, gid) = (Uid::from_raw(meta.uid()), Gid::from_raw(meta.gid()));
    chownat(CWD, to, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).unwrap();
    if !meta.is_symlink() {
        chmodat(CWD, to, Mode::from_raw_mode(meta.mode() & 0o7777), AtFlags::empty()).unwrap();
    }
    for (name, _) in xattrs(to).unwrap() {
        lremovexattr(to, name.as_str()).unwrap();
    }
    for (name, value) in xattrs(from).unwrap() {
        // Attributes that overlayfs set while the folder was its upper.
        if !name.starts_with("trusted.overlay.") {
            lsetxattr(to, name.as_str(), &value, XattrFlags::empty()).unwrap();
        }
    }
    set_times(to, meta);
}

fn set_times(path: &Path, meta: &std::fs::Metadata) {
    set_time(path, meta.mtime(), meta.mtime_nsec());
}

fn set_time(path: &Path, tv_sec: i64, tv_nsec: i64) {
    let last_modification = Timespec { tv_sec, tv_nsec };
    let times = Timestamps { last_access: last_modification, last_modification };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}
