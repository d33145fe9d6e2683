//! The mounts of a mount namespace, as far as they concern the tree: which mounts show a part of
//! it, and what is mounted on its directories.

use std::collections::HashMap;

use super::caller::Location;
use super::listener::CallAnswer;
use super::resolve::{Supervised, SupervisedKind};
use crate::sandbox::mountinfo;

/// The inode number of the tree's root.
pub(super) const ROOT: u64 = 1;

/// The mounts that show a directory of the tree, and the mount points in it.
#[derive(Debug, Default)]
pub(super) struct TreeMounts {
    /// The mounts that show a directory of the tree, by id.
    mounts: HashMap<u64, TreeMount>,
    /// The mounts on objects of the tree, by the place of the mount point.
    over: HashMap<Location, Option<Location>>,
}

#[derive(Debug)]
struct TreeMount {
    /// The directory that is shown.
    root: u64,
    /// The mount point, if it is in the tree.
    point: Option<Location>,
}

/// What is above a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Above {
    /// Its parent in the tree.
    Inside,
    /// It is the root of a mount: the parent of this mount point.
    MountPoint(Location),
    /// It is the root of a mount in another file system.
    OtherFileSystem,
}

impl TreeMounts {
    /// Finds the mounts of the file system `device` in the text of a mountinfo file.
    pub(super) fn new(info: &[u8], device: u64, tree: &dyn Supervised) -> Self {
        let device = format!("{}:{}", libc::major(device), libc::minor(device));
        let is_tree = |line: &mountinfo::MountLine<'_>| line.device == device.as_bytes();
        let mut found = TreeMounts::default();
        // The directory that each of them shows, and its mount point.
        let mut directories = HashMap::new();
        for line in mountinfo::lines(info).filter(is_tree) {
            if let Some(root) = find(tree, ROOT, &line.root) {
                found.mounts.insert(line.id, TreeMount { root, point: None });
                directories.insert(line.id, (root, line.point));
            }
        }
        for line in mountinfo::lines(info) {
            let Some((root, above)) = directories.get(&line.parent) else { continue };
            let above = above.strip_suffix(b"/").unwrap_or(above);
            let below = line.point.strip_prefix(above);
            let Some(ino) = below.and_then(|path| find(tree, *root, path)) else { continue };
            let point = Location { mount: line.parent, ino };
            let shown = found.mounts.get_mut(&line.id).map(|mount| {
                mount.point = Some(point);
                Location { mount: line.id, ino: mount.root }
            });
            found.over.insert(point, shown);
        }
        found
    }

    /// Returns the root of the mount that shows the whole tree in another file system.
    pub(super) fn whole_tree(&self) -> Result<Location, CallAnswer> {
        let is_whole = |mount: &TreeMount| mount.root == ROOT && mount.point.is_none();
        let found = self.mounts.iter().find(|(_, mount)| is_whole(mount));
        found.map(|(id, _)| Location { mount: *id, ino: ROOT }).ok_or(CallAnswer::Continue)
    }

    /// Whether a mount shows a directory of the tree.
    pub(super) fn contains(&self, mount: u64) -> bool {
        self.mounts.contains_key(&mount)
    }

    /// Whether a place is the root of its mount.
    pub(super) fn is_mount_root(&self, place: Location) -> bool {
        self.above(place) != Above::Inside
    }

    /// Returns the root of the mount on a place, if something is mounted there: `Some(None)` if
    /// that is another file system.
    pub(super) fn over(&self, place: Location) -> Option<Option<Location>> {
        self.over.get(&place).copied()
    }

    /// Returns what is above a directory.
    pub(super) fn above(&self, place: Location) -> Above {
        match self.mounts.get(&place.mount) {
            Some(mount) if mount.root == place.ino => {
                mount.point.map_or(Above::OtherFileSystem, Above::MountPoint)
            }
            _ => Above::Inside,
        }
    }
}

/// Finds the inode at a path without symbolic links.
fn find(tree: &dyn Supervised, from: u64, path: &[u8]) -> Option<u64> {
    let mut names = path.split(|&byte| byte == b'/').filter(|name| !name.is_empty());
    names.try_fold(from, |dir, name| {
        let found = tree.lookup(dir, name).ok()?;
        (!matches!(found.kind, SupervisedKind::Symlink(_))).then_some(found.ino)
    })
}
