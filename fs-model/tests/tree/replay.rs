//! A delta is sufficient to recreate the tree, and the recreated tree has the same delta.

use std::collections::HashMap;

use fs_model::delta::{Change, Contents, Delta, DeltaEntry};
use fs_model::tree::{Follow, MknodArgs, SetAttr, Tree, XattrFlags};
use fs_model::{FileType, Ino};

use crate::compare::{list, read_all};

/// Applies `delta`, that of the tree `from`, to `to`, a tree of the same layers.
fn replay(from: &Tree, delta: &Delta, to: &Tree) {
    let mut dirs: HashMap<&[u8], Ino> = HashMap::new();
    let mut made: HashMap<Ino, Ino> = HashMap::new();
    for entry in &delta.entries {
        let path = &*entry.path;
        if path.is_empty() {
            dirs.insert(path, Ino::ROOT);
            continue;
        }
        let (above, name) = match path.iter().rposition(|&b| b == b'/') {
            Some(at) => (&path[..at], &path[at + 1..]),
            None => (&b""[..], path),
        };
        let dir = dirs[above];
        let there = to.lookup(dir, name).ok().map(|there| (there.ino, there.attr.kind));
        let Some(object) = entry.object else {
            remove(to, dir, name, there.unwrap());
            continue;
        };
        let kind = object.attr.kind;
        if let Some((ino, FileType::Directory)) = there
            && kind == FileType::Directory
        {
            dirs.insert(path, ino);
            continue;
        }
        if let Some(there) = there {
            remove(to, dir, name, there);
        }
        if let Some(&ino) = made.get(&object.ino) {
            to.link(ino, dir, name).unwrap();
            continue;
        }
        let target = from.read_link(object.ino).unwrap_or_default();
        let node = match kind {
            FileType::Symlink => MknodArgs::symlink(&target, 0, 0),
            kind => MknodArgs { rdev: object.attr.rdev, ..MknodArgs::plain(kind, 0, 0, 0) },
        };
        let ino = to.mknod(dir, name, &node).unwrap().ino;
        if kind == FileType::Directory {
            dirs.insert(path, ino);
        } else {
            made.insert(object.ino, ino);
        }
        if kind == FileType::Regular {
            let bytes = read_all(from, object.ino, object.attr.size as usize);
            to.write(ino, 0, &bytes).unwrap();
        }
    }
    for entry in &delta.entries {
        set_attributes(from, entry, to);
    }
}

/// Removes a name recursively.
fn remove(tree: &Tree, dir: Ino, name: &[u8], (ino, kind): (Ino, FileType)) {
    if kind != FileType::Directory {
        return tree.unlink(dir, name).unwrap();
    }
    for (below, _, kind) in list(tree, ino, 100).into_iter().skip(2) {
        let found = tree.lookup(ino, &below).unwrap().ino;
        remove(tree, ino, &below, (found, kind));
    }
    tree.rmdir(dir, name).unwrap();
}

/// Sets the attributes of the entry on an object of `to`.
fn set_attributes(from: &Tree, entry: &DeltaEntry, to: &Tree) {
    let Some(object) = entry.object else { return };
    let found = to.resolve(&entry.path, Follow::No).unwrap();
    let (ino, _) = found.existing().unwrap();
    let attr = object.attr;
    // A directory time that was set explicitly is a change; one that results from a change of names
    // is not.
    let timeless = attr.kind == FileType::Directory && entry.change == Change::Unchanged;
    let set = SetAttr {
        mode: Some(attr.mode),
        uid: Some(attr.uid),
        gid: Some(attr.gid),
        mtime: (!timeless).then_some(attr.mtime),
        ..SetAttr::default()
    };
    to.set_attr(ino, &set).unwrap();
    let Ok(old) = to.xattrs(ino) else { return };
    for (name, _) in old {
        to.remove_xattr(ino, &name).unwrap();
    }
    for (name, value) in Contents::xattrs(from, object.ino).unwrap() {
        to.set_xattr(ino, &name, &value, XattrFlags::Any).unwrap();
    }
}

/// Describes everything that an archive of the delta would contain.
fn described(tree: &Tree, delta: &Delta) -> Vec<String> {
    let mut firsts: HashMap<Ino, &[u8]> = HashMap::new();
    let mut lines = Vec::new();
    for entry in &delta.entries {
        let path = String::from_utf8_lossy(&entry.path);
        let Some(object) = entry.object else {
            lines.push(format!("{path} deleted"));
            continue;
        };
        let (ino, attr) = (object.ino, object.attr);
        // A copy of an object with several names never counts as that object.
        let is_linked = attr.nlink > 1 && attr.kind != FileType::Directory;
        let change = match entry.change {
            Change::Unchanged | Change::Modified if is_linked => "there before".to_owned(),
            change => format!("{change:?}"),
        };
        let is_timeless = attr.kind == FileType::Directory && entry.change == Change::Unchanged;
        let mtime = (!is_timeless).then_some(attr.mtime);
        let what = (attr.kind, attr.mode, attr.uid, attr.gid, attr.rdev, mtime);
        let content = match attr.kind {
            FileType::Regular => read_all(tree, ino, attr.size as usize),
            FileType::Symlink => tree.read_link(ino).unwrap(),
            _ => Vec::new(),
        };
        let xattrs = tree.xattrs(ino).unwrap_or_default();
        let first = String::from_utf8_lossy(firsts.entry(ino).or_insert(&entry.path));
        let content = content.iter().fold(content.len() as u64, |sum, &byte| {
            sum.wrapping_mul(0x0100_0000_01b3) ^ u64::from(byte)
        });
        lines.push(format!("{path} {change} {what:?} {content:x} {xattrs:?} as {first}"));
    }
    lines
}

/// Checks that `to`, after the delta of `from` is applied, has the same delta.
pub(crate) fn check(from: &Tree, to: &Tree) {
    let delta = from.delta().unwrap();
    replay(from, &delta, to);
    let again = to.delta().unwrap();
    assert_eq!(described(to, &again), described(from, &delta));
}
