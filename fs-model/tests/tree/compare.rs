//! Compares everything that a tree shows with the model.

use std::collections::{BTreeMap, HashMap};

use fs_model::tree::Tree;
use fs_model::{FileType, FsError, Ino};

use crate::reference::{Id, Model, ROOT};

/// Maps objects of the model to inode numbers of the tree.
#[derive(Debug, Default)]
pub(crate) struct Numbers {
    by_id: HashMap<Id, Ino>,
    by_ino: HashMap<Ino, Id>,
}

impl Numbers {
    /// Checks that an object keeps its number and shares it with no other object.
    pub(crate) fn see(&mut self, id: Id, ino: Ino) {
        assert_eq!(*self.by_id.entry(id).or_insert(ino), ino, "object {id} has another number");
        assert_eq!(*self.by_ino.entry(ino).or_insert(id), id, "{ino:?} has two objects");
    }

    pub(crate) fn ino_of(&self, id: Id) -> Option<Ino> {
        self.by_id.get(&id).copied()
    }
}

/// All times in layers, and all that operations set, are before this one.
const LONG_AGO: i64 = 1_000_000;

pub(crate) fn same_variant(a: &FsError, b: &FsError) -> bool {
    std::mem::discriminant(a) == std::mem::discriminant(b)
}

pub(crate) fn read_all(tree: &Tree, ino: Ino, size: usize) -> Vec<u8> {
    let mut bytes = vec![0xee; size + 10];
    let len = tree.read(ino, 0, &mut bytes).unwrap();
    bytes.truncate(len);
    bytes
}

/// Returns all names of a directory, listed in pages of `step`.
pub(crate) fn list(tree: &Tree, dir: Ino, step: usize) -> Vec<(Vec<u8>, Ino, FileType)> {
    let (mut names, mut offset) = (Vec::new(), 0);
    loop {
        let before = names.len();
        tree.read_dir(dir, offset, |item| {
            if names.len() == before + step {
                return false;
            }
            offset = item.next;
            names.push((item.name.to_vec(), item.ino, item.kind));
            true
        })
        .unwrap();
        if names.len() == before {
            return names;
        }
    }
}

/// Compares one object.
pub(crate) fn object(tree: &Tree, model: &Model, id: Id, ino: Ino, path: &str) {
    let object = &model.objects[id];
    let attr = tree.attr(ino).unwrap();
    let what = (object.kind, object.mode, object.uid, object.gid, object.rdev);
    assert_eq!((attr.kind, attr.mode, attr.uid, attr.gid, attr.rdev), what, "{path}");
    assert_eq!(attr.size, model.size(id), "{path}: size");
    assert_eq!(attr.nlink, model.nlink(id), "{path}: links");
    for (what, is, should) in
        [("mtime", attr.mtime, object.mtime), ("atime", attr.atime, object.atime)]
    {
        match should {
            Some(time) => assert_eq!(is, time, "{path}: {what}"),
            None => assert!(is.secs > LONG_AGO, "{path}: {what} is {is:?} instead of now"),
        }
    }
    if object.kind == FileType::Regular {
        assert!(read_all(tree, ino, object.content.len()) == object.content, "{path}: content");
    }
    match tree.read_link(ino) {
        Ok(target) => assert_eq!(target, object.target, "{path}"),
        Err(e) => {
            assert!(object.kind != FileType::Symlink, "{path}: {e}");
            assert!(same_variant(&e, &FsError::Invalid), "{path}: {e}");
        }
    }
    match tree.xattrs(ino) {
        Ok(xattrs) => {
            assert!(model.xattrs);
            let there: BTreeMap<Vec<u8>, Vec<u8>> =
                xattrs.into_iter().map(|(n, v)| (n.into(), v.into())).collect();
            assert_eq!(there, object.xattrs, "{path}: xattrs");
        }
        Err(e) => assert!(!model.xattrs && same_variant(&e, &FsError::NotSupported)),
    }
}

/// Compares everything below the root.
pub(crate) fn everything(tree: &Tree, model: &Model, numbers: &mut Numbers, step: usize) {
    directory(tree, model, numbers, step, (ROOT, Ino::ROOT), Ino::ROOT, "");
}

fn directory(
    tree: &Tree,
    model: &Model,
    numbers: &mut Numbers,
    step: usize,
    (id, ino): (Id, Ino),
    above: Ino,
    path: &str,
) {
    object(tree, model, id, ino, path);
    assert_eq!(tree.parent(ino).unwrap(), above, "{path}: parent");
    let listed = list(tree, ino, step);
    assert_eq!(listed[0], (b".".to_vec(), ino, FileType::Directory));
    assert_eq!(listed[1], (b"..".to_vec(), above, FileType::Directory));
    let mut sorted = listed[2..].to_vec();
    sorted.sort();
    let names: Vec<&Vec<u8>> = sorted.iter().map(|(name, ..)| name).collect();
    let there: Vec<&Vec<u8>> = model.objects[id].shown().map(|(name, _)| name).collect();
    assert_eq!(names, there, "{path}: names");
    for ((name, child), (_, listed, kind)) in model.objects[id].shown().zip(&sorted) {
        let path = format!("{path}/{}", String::from_utf8_lossy(name));
        let entry = tree.lookup(ino, name).unwrap();
        numbers.see(child, entry.ino);
        assert_eq!((*listed, *kind), (entry.ino, entry.attr.kind), "{path}: listing");
        if entry.attr.kind == FileType::Directory {
            directory(tree, model, numbers, step, (child, entry.ino), ino, &path);
        } else {
            object(tree, model, child, entry.ino, &path);
        }
        tree.forget(entry.ino, 1);
    }
}
