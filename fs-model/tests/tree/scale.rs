//! What must not cost more and more.

use std::time::{Duration, Instant};

use fs_model::Ino;
use fs_model::tree::{NewNode, RenameMode};

use crate::compare::list;
use crate::harness::tree_of;
use crate::layer::MemoryLayer;

const DIR: NewNode<'static> = NewNode::directory(0o755, 0, 0);
const FILE: NewNode<'static> = NewNode::file(0o644, 0, 0);

fn name(n: usize) -> Vec<u8> {
    format!("name-{n}").into_bytes()
}

/// Makes, lists and removes `count` names, half of which a layer has.
fn fill_and_empty(count: usize) -> Duration {
    let mut layer = MemoryLayer::default();
    let dir = layer.directory(0, "dir");
    for n in 0..count / 2 {
        layer.file(dir, &format!("name-{n}"), b"");
    }
    let tree = tree_of(&[layer], u64::MAX, false);
    let dir = tree.lookup(Ino::ROOT, b"dir").unwrap().ino;
    let began = Instant::now();
    for n in count / 2..count {
        let entry = tree.make(dir, &name(n), &FILE).unwrap();
        tree.forget(entry.ino, 1);
    }
    assert_eq!(list(&tree, dir, 500).len(), count + 2);
    (0..count).for_each(|n| tree.unlink(dir, &name(n)).unwrap());
    tree.rmdir(Ino::ROOT, b"dir").unwrap();
    tree.forget(dir, 1);
    let took = began.elapsed();
    assert_eq!(tree.usage().inodes, 1);
    tree.audit().unwrap();
    took
}

#[test]
fn a_directory_of_50_000_names_costs_what_its_names_cost() {
    let small = fill_and_empty(5_000);
    let large = fill_and_empty(50_000);
    // Ten times the names; a quadratic cost would be a hundred times the time.
    assert!(large < small * 40 + Duration::from_millis(200), "{small:?}, then {large:?}");
}

#[test]
fn paths_may_be_1_500_directories_deep() {
    const DEPTH: usize = 1_500;
    let mut layer = MemoryLayer::default();
    let mut at = layer.directory(0, "base");
    for _ in 0..DEPTH {
        at = layer.directory(at, "d");
    }
    layer.file(at, "file", b"x");
    let tree = tree_of(&[layer], u64::MAX, false);
    let path = |top: &str, end: &str| [top, &"/d".repeat(DEPTH), end].concat().into_bytes();

    let new = tree.make(Ino::ROOT, b"new", &DIR).unwrap().ino;
    let mut held = vec![new];
    for _ in 0..DEPTH {
        held.push(tree.make(held[held.len() - 1], b"d", &DIR).unwrap().ino);
    }
    let resolve = |path: &[u8]| tree.resolve(path, fs_model::tree::Follow::No).unwrap();
    let file = resolve(&path("base", "/file"));
    tree.write(file.existing().unwrap().0, 0, b"new").unwrap();
    drop(file);
    assert_eq!(tree.delta().unwrap().entries.len(), 2 * DEPTH + 4);

    let last = held[held.len() - 1];
    tree.rename(Ino::ROOT, b"base", last, b"base", RenameMode::Replace).unwrap();
    tree.audit().unwrap();
    tree.rename(last, b"base", Ino::ROOT, b"moved", RenameMode::Replace).unwrap();
    assert_eq!(tree.delta().unwrap().entries.len(), 2 * DEPTH + 5);
    tree.rename(Ino::ROOT, b"moved", Ino::ROOT, b"base", RenameMode::Replace).unwrap();
    tree.revert(Ino::ROOT, b"base").unwrap();
    tree.revert(Ino::ROOT, b"new").unwrap();
    held.iter().for_each(|ino| tree.forget(*ino, 1));
    tree.audit().unwrap();
    assert!(tree.delta().unwrap().entries.is_empty());
}

#[test]
fn a_hole_of_100_gib_is_made_at_once() {
    let tree = tree_of(&[], 1 << 20, false);
    let file = tree.make(Ino::ROOT, b"sparse", &FILE).unwrap().ino;
    let size = 100 << 30;
    tree.write(file, 0, b"begin").unwrap();
    tree.write(file, size, b"end").unwrap();
    let began = Instant::now();
    assert_eq!(tree.next_data(file, 1 << 20).unwrap(), Some(size & !0xffff..size + 3));
    tree.zero(file, 1..size, false).unwrap();
    tree.extend(file, 2 * size).unwrap();
    assert!(began.elapsed() < Duration::from_millis(100));
    let mut bytes = [9; 5];
    tree.read(file, size - 1, &mut bytes).unwrap();
    assert_eq!(&bytes, b"\0end\0");
    tree.audit().unwrap();
}
