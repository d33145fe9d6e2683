//! Random layers, written for overlayfs and for overcoat.

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags, chmodat, chownat,
    lsetxattr, makedev, mknodat, utimensat,
};

use super::calls::{Name, mode, name, size};
use super::sealed::Format;
use crate::support::tools;

/// Modification time of all entries in layers.
pub(super) const TIME: i64 = 1_600_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Directory,
    Squashfs,
    /// Compressed; whiteouts are `.wh.` names or devices.
    Cpio {
        names: bool,
    },
    /// Whiteouts are `.wh.` names, or devices in a compressed archive.
    Tar {
        names: bool,
    },
}

#[derive(Clone, Debug)]
enum What {
    File { size: u64, fill: u8 },
    Directory { opaque: bool },
    Symlink(Name),
    Special(FileType),
    Link(Name),
    Whiteout,
}

#[derive(Clone, Debug)]
struct Item {
    name: Name,
    what: What,
    mode: u32,
    owner: u32,
    xattr: Option<u8>,
}

/// The description of a layer.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    kind: Kind,
    items: Vec<Item>,
}

fn item() -> impl Strategy<Value = Item> {
    let special = prop::sample::select(vec![
        FileType::Fifo,
        FileType::Socket,
        FileType::CharacterDevice,
        FileType::BlockDevice,
    ]);
    let what = prop_oneof![
        5 => (size(), any::<u8>()).prop_map(|(size, fill)| What::File { size, fill }),
        4 => prop::bool::weighted(0.3).prop_map(|opaque| What::Directory { opaque }),
        1 => name().prop_map(What::Symlink),
        1 => special.prop_map(What::Special),
        2 => name().prop_map(What::Link),
        3 => Just(What::Whiteout),
    ];
    (name(), what, mode(), 0u32..3, prop::option::weighted(0.2, 0u8..3))
        .prop_map(|(name, what, mode, owner, xattr)| Item { name, what, mode, owner, xattr })
}

/// Up to four layers, lowest first.
pub(super) fn stack() -> impl Strategy<Value = Vec<Plan>> {
    let kind = prop::sample::select(vec![
        Kind::Directory,
        Kind::Squashfs,
        Kind::Cpio { names: true },
        Kind::Cpio { names: false },
        Kind::Tar { names: true },
        Kind::Tar { names: false },
    ]);
    let plan = (kind, prop::collection::vec(item(), 0..16));
    prop::collection::vec(plan.prop_map(|(kind, items)| Plan { kind, items }), 0..=4)
}

/// The written layers.
#[derive(Debug)]
pub(super) struct Stack {
    /// Layers for overlayfs, lowest first.
    pub(super) kernel: Vec<PathBuf>,
    /// Layers for overcoat, lowest first.
    pub(super) ours: Vec<PathBuf>,
}

/// The kind of a name, as far as the next layers depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Here {
    Directory { merged: bool },
    File,
    Other,
    Whiteout,
}

/// The names of a layer, or of the union of the layers so far.
type Names = BTreeMap<PathBuf, Here>;

impl Stack {
    /// Writes the layers into the new folder `place`.
    pub(super) fn write(place: &Path, plans: &[Plan], format: Format) -> Stack {
        std::fs::create_dir(place).unwrap();
        let mut stack = Stack { kernel: Vec::new(), ours: Vec::new() };
        let mut below = Names::new();
        for (index, plan) in plans.iter().enumerate() {
            let folder = place.join(format!("{index}"));
            std::fs::create_dir(&folder).unwrap();
            let names = plan.write(&folder, &below, index > 0, format);
            stack.ours.push(plan.pack(&folder, &names));
            stack.kernel.push(folder);
            lay(&mut below, names);
        }
        if plans.is_empty() {
            // A mount needs at least one layer.
            let folder = place.join("nothing");
            std::fs::create_dir(&folder).unwrap();
            date(&folder);
            stack.ours.push(folder.clone());
            stack.kernel.push(folder);
        }
        stack
    }
}

/// Merges the names of a layer over those of the lower layers.
fn lay(below: &mut Names, names: Names) {
    for (path, here) in names {
        if here != (Here::Directory { merged: true }) {
            below.retain(|other, _| !other.starts_with(&path));
        }
        if here != Here::Whiteout {
            below.insert(path, here);
        }
    }
}

impl Plan {
    /// Writes the layer as a directory for overlayfs, without items that do not fit.
    fn write(&self, folder: &Path, below: &Names, over: bool, format: Format) -> Names {
        let mut names = Names::new();
        names.insert(PathBuf::new(), Here::Directory { merged: over });
        for item in &self.items {
            if !names.contains_key(&item.name) && self.parents(folder, item, below, &mut names) {
                self.make(folder, item, below, &mut names, format);
            }
        }
        for path in names.iter().rev().filter(|(_, here)| **here != Here::Whiteout) {
            date(&folder.join(path.0));
        }
        names
    }

    /// Creates the parents of an item; returns whether it can be created in them.
    fn parents(&self, folder: &Path, item: &Item, below: &Names, names: &mut Names) -> bool {
        let mut merged = matches!(names[Path::new("")], Here::Directory { merged: true });
        let mut parents: Vec<_> = item.name.ancestors().skip(1).collect();
        parents.pop();
        for path in parents.into_iter().rev() {
            merged = match names.get(path) {
                Some(Here::Directory { merged }) => *merged,
                Some(_) => return false,
                None => {
                    let merged = merged && is_directory(below, path);
                    std::fs::create_dir(folder.join(path)).unwrap();
                    names.insert(path.to_owned(), Here::Directory { merged });
                    merged
                }
            };
        }
        true
    }

    fn make(&self, folder: &Path, item: &Item, below: &Names, names: &mut Names, format: Format) {
        let path = folder.join(&item.name);
        let above = names[item.name.parent().unwrap()];
        let merged = above == Here::Directory { merged: true };
        let here = match &item.what {
            What::File { size, fill } => {
                std::fs::write(&path, content(*size, *fill)).unwrap();
                Here::File
            }
            What::Directory { opaque } => {
                std::fs::create_dir(&path).unwrap();
                if *opaque {
                    let flags = XattrFlags::empty();
                    lsetxattr(&path, "trusted.overlay.opaque", b"y", flags).unwrap();
                }
                Here::Directory { merged: merged && !opaque && is_directory(below, &item.name) }
            }
            What::Symlink(target) => {
                symlink(target, &path).unwrap();
                Here::Other
            }
            What::Special(FileType::Socket)
                if !format.has_sockets() || matches!(self.kind, Kind::Tar { .. }) =>
            {
                return;
            }
            What::Special(kind) => {
                let is_device = matches!(kind, FileType::CharacterDevice | FileType::BlockDevice);
                let device = if is_device { makedev(60, 8 + item.owner) } else { 0 };
                mknodat(CWD, &path, *kind, Mode::from_raw_mode(0o600), device).unwrap();
                Here::Other
            }
            // In cpio archives only files have several links, GNU tar splits those of other nodes
            // but symbolic links, and mksquashfs those of a symbolic link when its access time has
            // changed.
            What::Link(to) => match names.get(to) {
                Some(Here::File) => return link(folder, to, &path, names, &item.name, Here::File),
                Some(Here::Other) if self.kind == Kind::Directory => {
                    return link(folder, to, &path, names, &item.name, Here::Other);
                }
                _ => return,
            },
            // overlayfs shows whiteouts in directories that are not merged.
            What::Whiteout if !merged || !below.contains_key(&item.name) => return,
            What::Whiteout => {
                mknodat(CWD, &path, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
                names.insert(item.name.clone(), Here::Whiteout);
                return;
            }
        };
        names.insert(item.name.clone(), here);
        let (uid, gid) = (Uid::from_raw(item.owner), Gid::from_raw(item.owner));
        chownat(CWD, &path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).unwrap();
        if !matches!(item.what, What::Symlink(_)) {
            chmodat(CWD, &path, Mode::from_raw_mode(item.mode), AtFlags::empty()).unwrap();
        }
        let carried = format.has_xattrs() && !matches!(self.kind, Kind::Cpio { .. });
        if let Some(value) = item.xattr.filter(|_| carried) {
            let user = matches!(here, Here::File | Here::Directory { .. });
            let name = if user { "user.a" } else { "trusted.a" };
            lsetxattr(&path, name, &[value], XattrFlags::empty()).unwrap();
        }
    }

    /// Packs the directory into the format for overcoat.
    fn pack(&self, folder: &Path, names: &Names) -> PathBuf {
        let at = |extension: &str| folder.with_extension(extension);
        match self.kind {
            Kind::Directory => folder.to_owned(),
            Kind::Squashfs => {
                let image = at("squashfs");
                let script =
                    format!("mksquashfs . '{}' -quiet -no-progress >/dev/null", image.display());
                tools::sh(folder, &script);
                image
            }
            Kind::Cpio { names: as_names } => {
                let (copy, archive) = (at("copy"), at("cpio.gz"));
                tools::sh(folder, &format!("cp -a . '{}'", copy.display()));
                mark(&copy, names, as_names);
                let script = format!(
                    "find . | LC_ALL=C sort | cpio --quiet -H newc -o | gzip -1 >'{}'",
                    archive.display()
                );
                tools::sh(&copy, &script);
                archive
            }
            Kind::Tar { names: as_names } => {
                let (copy, archive) = (at("copy"), at(if as_names { "tar" } else { "tar.zst" }));
                tools::sh(folder, &format!("cp -a . '{}'", copy.display()));
                if as_names {
                    mark(&copy, names, true);
                }
                let options = "--format=posix --numeric-owner --xattrs --xattrs-include='*' -a";
                tools::sh(&copy, &format!("tar {options} -cf '{}' .", archive.display()));
                archive
            }
        }
    }
}

fn link(folder: &Path, to: &Name, path: &Path, names: &mut Names, name: &Name, here: Here) {
    std::fs::hard_link(folder.join(to), path).unwrap();
    names.insert(name.clone(), here);
}

fn is_directory(names: &Names, path: &Path) -> bool {
    matches!(names.get(path), Some(Here::Directory { .. }))
}

/// Marks opaque directories by files, and whiteouts too if `as_names`.
fn mark(folder: &Path, names: &Names, as_names: bool) {
    for (path, here) in names.iter().rev() {
        let full = folder.join(path);
        let mut opaque = [0];
        match here {
            Here::Directory { .. } => {
                let attribute = rustix::fs::lgetxattr(&full, "trusted.overlay.opaque", &mut opaque);
                if attribute.is_ok() {
                    std::fs::write(full.join(".wh..wh..opq"), "").unwrap();
                }
                date(&full);
            }
            Here::Whiteout if as_names => {
                let name = format!(".wh.{}", path.file_name().unwrap().display());
                std::fs::remove_file(&full).unwrap();
                std::fs::write(full.with_file_name(name), "").unwrap();
            }
            _ => {}
        }
    }
}

/// Returns content whose adjacent blocks differ, and some blocks of which are zero.
fn content(size: u64, fill: u8) -> Vec<u8> {
    let mut bytes = vec![0; size as usize];
    for (index, block) in bytes.chunks_mut(4096).enumerate() {
        block.fill(fill.wrapping_add(index as u8) % 4);
    }
    bytes
}

/// Sets the modification time of layers.
pub(super) fn date(path: &Path) {
    let time = Timespec { tv_sec: TIME, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}
