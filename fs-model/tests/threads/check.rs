//! Checks of a frozen tree, and of the tree after all threads have ended.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use fs_model::delta::{Delta, DeltaEntry};
use fs_model::layer::Layer;
use fs_model::tree::{Tree, TreeOptions, XattrSupport};
use fs_model::{Attr, FileType, FsError, Ino};

use crate::THREADS;
use crate::work::parse;
use crate::world::{BLOCK, BLOCKS, RECORD, STAYING, World, generation};

type View = BTreeMap<Vec<u8>, (Ino, Attr)>;

/// Returns all objects below the root by path.
fn view(tree: &Tree) -> View {
    let mut view = View::new();
    let mut pending = vec![(Vec::new(), Ino::ROOT)];
    while let Some((path, dir)) = pending.pop() {
        let mut found = Vec::new();
        tree.read_dir_plus(dir, 0, |item, entry| {
            if item.name != b"." && item.name != b".." {
                found.push((item.name.to_vec(), *entry));
            }
            true
        })
        .unwrap();
        for (name, entry) in found {
            let mut path = path.clone();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(&name);
            if entry.attr.kind == FileType::Directory {
                pending.push((path.clone(), entry.ino));
            }
            assert!(view.insert(path, (entry.ino, entry.attr)).is_none(), "a duplicate name");
        }
    }
    view
}

/// Drops the references that [`view`] added.
fn forget(tree: &Tree, view: &View) {
    view.values().for_each(|(ino, _)| tree.forget(*ino, 1));
}

/// Checks a frozen tree while other threads wait to change it.
pub(crate) fn frozen(world: &World) {
    let guard = world.tree.freeze();
    let seen = view(&world.tree);
    let (delta, again) = (world.tree.delta().unwrap(), world.tree.delta().unwrap());
    assert_eq!(listed(&delta), listed(&again), "the delta of a frozen tree does not change");
    is_delta(world, &delta, &seen);
    nothing_is_lost(world, &seen);
    drop(guard);
    forget(&world.tree, &seen);
    // Freezes the tree again.
    world.tree.check_invariants().unwrap();
}

fn listed(delta: &Delta) -> Vec<String> {
    delta.entries.iter().map(|entry| format!("{entry:?}")).collect()
}

fn nothing_is_lost(world: &World, seen: &View) {
    let mut names: HashMap<Ino, u32> = HashMap::new();
    seen.values().for_each(|(ino, _)| *names.entry(*ino).or_default() += 1);
    for token in &world.tokens {
        assert_eq!(names.get(token), Some(&1), "{token:?} has one name");
    }
    for ino in &world.linked {
        assert_eq!(world.tree.attr(*ino).unwrap().nlink, names[ino], "names of {ino:?}");
    }
    let staying = seen.keys().filter(|path| path[1..].starts_with(b"/staying-")).count();
    assert_eq!(staying, STAYING * world.dirs.len());
    // Link counts of directories include their subdirectories.
    let mut subdirs: HashMap<&[u8], u32> = HashMap::new();
    for (path, _) in seen.iter().filter(|(_, (_, attr))| attr.kind == FileType::Directory) {
        let slash = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        *subdirs.entry(&path[..slash]).or_default() += 1;
    }
    for (path, (_, attr)) in seen.iter().filter(|(_, (_, a))| a.kind == FileType::Directory) {
        let count = subdirs.get(&**path).copied().unwrap_or(0);
        assert_eq!(attr.nlink, 2 + count, "{}", String::from_utf8_lossy(path));
    }
    for ino in &world.blocks {
        let mut bytes = vec![0xee; BLOCK * BLOCKS];
        let len = world.tree.read(*ino, 0, &mut bytes).unwrap();
        for block in bytes[..len].chunks(BLOCK) {
            generation(block, "a block of a frozen tree");
        }
    }
}

/// Checks that the delta over the layers results in the visible tree.
fn is_delta(world: &World, delta: &Delta, seen: &View) {
    let mut laid = View::new();
    if let Some(layer) = &world.layer {
        let layers = vec![Arc::new(layer.clone()) as Arc<dyn Layer>];
        let options = TreeOptions { upper_limit: None, xattrs: XattrSupport::All };
        laid = view(&Tree::new(layers, options).unwrap());
    }
    for DeltaEntry { path, object, .. } in delta.entries.iter().filter(|e| !e.path.is_empty()) {
        let below = [path, &b"/"[..]].concat();
        match object {
            Some(object) => {
                if object.attr.kind != FileType::Directory {
                    laid.retain(|path, _| !path.starts_with(&below));
                }
                laid.insert(path.to_vec(), (object.ino, object.attr));
            }
            None => laid.retain(|at, _| **at != **path && !at.starts_with(&below)),
        }
    }
    let essence = |view: &View| -> Vec<String> {
        view.iter()
            .map(|(path, (ino, a))| {
                let size = if a.kind == FileType::Directory { 0 } else { a.size };
                let path = String::from_utf8_lossy(path);
                let what = (a.kind, a.mode, a.uid, a.gid, size);
                // In a directory of a layer, names may have been added and removed without a trace.
                let mtime = (a.kind != FileType::Directory).then_some(a.mtime);
                format!("{path} {ino:?} {what:?} {mtime:?}")
            })
            .collect()
    };
    let (laid, seen) = (essence(&laid), essence(seen));
    for (laid, seen) in laid.iter().zip(&seen) {
        assert_eq!(laid, seen, "the delta differs from the tree");
    }
    assert_eq!(laid.len(), seen.len());
}

/// Checks the final tree against the records of the threads.
pub(crate) fn at_rest(world: &World) {
    frozen(world);
    for (dir, ino) in world.dirs.iter().enumerate() {
        for ((_, name), balance) in world.balance.iter().filter(|((at, _), _)| *at == dir) {
            let there = match world.tree.lookup(*ino, name) {
                Ok(entry) => {
                    world.tree.forget(entry.ino, 1);
                    1
                }
                Err(FsError::NotFound) => 0,
                Err(error) => panic!("{error}"),
            };
            assert_eq!(there, balance.load(Ordering::Relaxed), "{}", String::from_utf8_lossy(name));
        }
    }
    for (ino, appended) in world.logs.iter().zip(&world.appended) {
        let size = world.tree.attr(*ino).unwrap().size as usize;
        let mut bytes = vec![0; size];
        assert_eq!(world.tree.read(*ino, 0, &mut bytes).unwrap(), size);
        let mut next = [0; THREADS as usize];
        for record in bytes.as_chunks::<RECORD>().0 {
            let (thread, number) = parse(record);
            assert_eq!(number, next[thread as usize], "a record of thread {thread}");
            next[thread as usize] += 1;
        }
        let appended: Vec<_> = appended.iter().map(|n| n.load(Ordering::Relaxed)).collect();
        assert_eq!(next[..], appended, "appended records");
    }
    if world.is_limited() {
        return;
    }
    for (ino, written) in world.blocks.iter().zip(&world.written) {
        for (block, written) in written.iter().enumerate() {
            let mut bytes = vec![0; BLOCK];
            let len = world.tree.read(*ino, (block * BLOCK) as u64, &mut bytes).unwrap();
            let last = generation(&bytes[..len.max(8)], "a block");
            let one_of = written.iter().any(|w| w.load(Ordering::Relaxed) == last);
            assert!(one_of, "a block has an older generation than its writer recorded");
        }
    }
}

/// Removes and forgets everything, and checks that the upper is empty.
pub(crate) fn nothing_is_left(world: World) {
    let tree = &world.tree;
    let seen = view(tree);
    // Contents of a directory are after the directory.
    for (path, (_, attr)) in seen.iter().rev() {
        let (parent, name) = match path.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (seen[&path[..slash]].0, &path[slash + 1..]),
            None => (Ino::ROOT, &path[..]),
        };
        match attr.kind {
            FileType::Directory => tree.rmdir(parent, name).unwrap(),
            _ => tree.unlink(parent, name).unwrap(),
        }
    }
    let held = world.dirs.iter().chain(&world.tokens).chain(&world.blocks).chain(&world.logs);
    held.chain(&world.linked).chain(&world.changing).for_each(|ino| tree.forget(*ino, 1));
    forget(tree, &seen);
    tree.check_invariants().unwrap();
    assert!(view(tree).is_empty());
    if world.layer.is_some() {
        for name in [&b"a"[..], b"far"] {
            tree.revert(Ino::ROOT, name).unwrap();
        }
        assert!(tree.delta().unwrap().entries.is_empty());
    }
    tree.check_invariants().unwrap();
    // The root of a tree without layers is not charged; that of a layer was changed.
    let usage = tree.usage();
    assert_eq!(usage.inodes, 1, "{usage:?}");
    assert!(usage.used < if world.layer.is_some() { 400 } else { 1 }, "{usage:?}");
}
