//! Tests of costs that must not grow faster than the amount of work.

use std::sync::atomic::Ordering;
use std::time::Duration;

use fs_model::Ino;
use fs_model::tree::{MknodArgs, RenameMode};

use crate::compare::list;
use crate::harness::tree_of;
use crate::layer::MemoryLayer;

const DIR: MknodArgs<'static> = MknodArgs::directory(0o755, 0, 0);
const FILE: MknodArgs<'static> = MknodArgs::file(0o644, 0, 0);

fn name(n: usize) -> Vec<u8> {
    format!("name-{n}").into_bytes()
}

/// Processor time of this thread, so that other load on the machine does not matter.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Creates, lists and removes `count` names; half of them exist in a layer.
fn fill_and_empty(count: usize) -> Duration {
    let mut layer = MemoryLayer::default();
    let dir = layer.directory(0, "dir");
    for n in 0..count / 2 {
        layer.file(dir, &format!("name-{n}"), b"");
    }
    let tree = tree_of(&[layer], u64::MAX, false);
    let dir = tree.lookup(Ino::ROOT, b"dir").unwrap().ino;
    let began = processor_time();
    for n in count / 2..count {
        let entry = tree.mknod(dir, &name(n), &FILE).unwrap();
        tree.forget(entry.ino, 1);
    }
    assert_eq!(list(&tree, dir, 500).len(), count + 2);
    (0..count).for_each(|n| tree.unlink(dir, &name(n)).unwrap());
    tree.rmdir(Ino::ROOT, b"dir").unwrap();
    tree.forget(dir, 1);
    let took = processor_time() - began;
    assert_eq!(tree.usage().inodes, 1);
    tree.check_invariants().unwrap();
    took
}

#[test]
fn cost_of_a_directory_is_linear_in_its_names() {
    let small = fill_and_empty(5_000);
    let large = fill_and_empty(50_000);
    // Ten times the names: with quadratic cost, this would take a hundred times as long.
    assert!(large < small * 40 + Duration::from_millis(200), "{small:?}, then {large:?}");
}

/// Layers with one large directory each, and another one that is in all layers.
fn large_layers(layers: usize, names: usize) -> Vec<MemoryLayer> {
    let one = |at: usize| {
        let mut layer = MemoryLayer::default();
        let own = layer.directory(0, &format!("own-{at}"));
        for n in 0..names {
            layer.file(own, &format!("name-{n}"), b"");
        }
        let all = layer.directory(0, "all");
        for n in 0..names {
            layer.file(all, &format!("{at}-{n}"), b"");
        }
        layer
    };
    (0..layers).map(one).collect()
}

fn listings(layers: &[MemoryLayer]) -> usize {
    layers.iter().map(|layer| layer.listings.load(Ordering::Relaxed)).sum()
}

#[test]
fn alternating_listings_of_large_directories_read_each_layer_once() {
    const NAMES: usize = 60_000;
    let layers = large_layers(4, NAMES);
    let tree = tree_of(&layers, u64::MAX, false);
    let dirs: Vec<Ino> = (0..layers.len())
        .map(|n| tree.lookup(Ino::ROOT, format!("own-{n}").as_bytes()).unwrap().ino)
        .collect();
    let before = listings(&layers);
    let (mut offsets, mut found) = (vec![0; dirs.len()], 0);
    loop {
        let found_before = found;
        for (dir, offset) in dirs.iter().zip(&mut offsets) {
            let mut room = 1000;
            tree.read_dir(*dir, *offset, |item| {
                if room > 0 {
                    (room, found, *offset) = (room - 1, found + 1, item.next);
                }
                room > 0
            })
            .unwrap();
        }
        if found == found_before {
            break;
        }
    }
    assert_eq!(found, dirs.len() * (NAMES + 2));
    assert_eq!(listings(&layers) - before, dirs.len());
}

#[test]
fn operations_in_a_large_merged_directory_do_not_list_it() {
    let layers = large_layers(4, 100);
    let tree = tree_of(&layers, u64::MAX, false);
    let all = tree.lookup(Ino::ROOT, b"all").unwrap();
    assert_eq!(all.attr.nlink, 2);
    tree.mknod(all.ino, b"new", &FILE).unwrap();
    tree.mknod(all.ino, b"directory", &DIR).unwrap();
    tree.unlink(all.ino, b"0-1").unwrap();
    tree.rename(all.ino, b"1-1", Ino::ROOT, b"moved", RenameMode::Replace).unwrap();
    tree.rename(all.ino, b"2-1", all.ino, b"1-1", RenameMode::NoReplace).unwrap();
    assert_eq!(tree.attr(all.ino).unwrap().nlink, 3);
    // The root was listed, because it contains directories.
    assert!(listings(&layers) <= layers.len());
    tree.check_invariants().unwrap();
}

#[test]
fn paths_of_1_500_directories_are_supported() {
    const DEPTH: usize = 1_500;
    let mut layer = MemoryLayer::default();
    let mut at = layer.directory(0, "base");
    for _ in 0..DEPTH {
        at = layer.directory(at, "d");
    }
    layer.file(at, "file", b"x");
    let tree = tree_of(&[layer], u64::MAX, false);
    let path = |top: &str, end: &str| [top, &"/d".repeat(DEPTH), end].concat().into_bytes();

    let new = tree.mknod(Ino::ROOT, b"new", &DIR).unwrap().ino;
    let mut held = vec![new];
    for _ in 0..DEPTH {
        held.push(tree.mknod(held[held.len() - 1], b"d", &DIR).unwrap().ino);
    }
    let resolve = |path: &[u8]| tree.resolve(path, fs_model::tree::Follow::No).unwrap();
    let file = resolve(&path("base", "/file"));
    tree.write(file.existing().unwrap().0, 0, b"new").unwrap();
    drop(file);
    assert_eq!(tree.delta().unwrap().entries.len(), 2 * DEPTH + 4);

    let last = held[held.len() - 1];
    tree.rename(Ino::ROOT, b"base", last, b"base", RenameMode::Replace).unwrap();
    tree.check_invariants().unwrap();
    tree.rename(last, b"base", Ino::ROOT, b"moved", RenameMode::Replace).unwrap();
    assert_eq!(tree.delta().unwrap().entries.len(), 2 * DEPTH + 5);
    tree.rename(Ino::ROOT, b"moved", Ino::ROOT, b"base", RenameMode::Replace).unwrap();
    tree.revert(Ino::ROOT, b"base").unwrap();
    tree.revert(Ino::ROOT, b"new").unwrap();
    held.iter().for_each(|ino| tree.forget(*ino, 1));
    tree.check_invariants().unwrap();
    assert!(tree.delta().unwrap().entries.is_empty());
}

#[test]
fn hole_of_100_gib_takes_no_time() {
    let tree = tree_of(&[], 1 << 20, false);
    let file = tree.mknod(Ino::ROOT, b"sparse", &FILE).unwrap().ino;
    let size = 100 << 30;
    tree.write(file, 0, b"begin").unwrap();
    tree.write(file, size, b"end").unwrap();
    let began = processor_time();
    assert_eq!(tree.next_data(file, 1 << 20).unwrap(), Some(size & !0xffff..size + 3));
    tree.zero(file, 1..size, false).unwrap();
    tree.extend(file, 2 * size).unwrap();
    assert!(processor_time() - began < Duration::from_millis(100));
    let mut bytes = [9; 5];
    tree.read(file, size - 1, &mut bytes).unwrap();
    assert_eq!(&bytes, b"\0end\0");
    tree.check_invariants().unwrap();
}
