//! Tests of single behaviours: regressions, and cases that random operations are unlikely to reach.

use fs_model::delta::Change;
use fs_model::tree::{Entry, MknodArgs, RenameMode, SetAttr, Tree, XattrFlags};
use fs_model::{Device, FileType, FsError, Ino, Time};

use crate::compare::{list, read_all};
use crate::harness::tree_of;
use crate::layer::MemoryLayer;

pub(crate) const DIR: MknodArgs<'static> = MknodArgs::directory(0o755, 0, 0);
pub(crate) const FILE: MknodArgs<'static> = MknodArgs::file(0o644, 0, 0);

/// A layer with `dir/sub/deep`, `dir/file` of 100,000 bytes, and the hard links `one` and `two`.
pub(crate) fn base() -> MemoryLayer {
    let mut layer = MemoryLayer::default();
    let dir = layer.directory(0, "dir");
    let sub = layer.directory(dir, "sub");
    layer.file(sub, "deep", b"deep");
    layer.file(dir, "file", &[7; 100_000]);
    let one = layer.file(0, "one", b"linked");
    layer.link(0, b"two", one, FileType::Regular);
    layer.directory(0, "empty");
    layer
}

pub(crate) fn tree() -> Tree {
    tree_of(&[base()], u64::MAX, true)
}

fn at(tree: &Tree, path: &str) -> Ino {
    tree.resolve(path.as_bytes(), fs_model::tree::Follow::No).unwrap().existing().unwrap().0
}

/// Looks `path` up and keeps the reference.
pub(crate) fn hold(tree: &Tree, path: &str) -> Ino {
    path.split('/').fold(Ino::ROOT, |dir, name| tree.lookup(dir, name.as_bytes()).unwrap().ino)
}

pub(crate) fn changes(tree: &Tree) -> Vec<String> {
    tree.check_invariants().unwrap();
    let entries = tree.delta().unwrap().entries;
    let entries = entries.iter().filter(|e| e.change != Change::Unchanged);
    entries.map(|e| format!("{:?} {}", e.change, String::from_utf8_lossy(&e.path))).collect()
}

pub(crate) fn drop_entry(tree: &Tree, entry: Entry) -> Ino {
    tree.forget(entry.ino, 1);
    entry.ino
}

fn mv(tree: &Tree, from: &str, to: &str) {
    let split = |path: &str| -> (Ino, Vec<u8>) {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        let dir = if dir.is_empty() { Ino::ROOT } else { hold(tree, dir) };
        (dir, name.as_bytes().to_vec())
    };
    let ((dir, name), (to_dir, to_name)) = (split(from), split(to));
    tree.rename(dir, &name, to_dir, &to_name, RenameMode::Replace).unwrap();
}

#[track_caller]
pub(crate) fn assert_error<T: std::fmt::Debug>(result: Result<T, FsError>, with: &FsError) {
    let error = result.unwrap_err();
    assert!(crate::compare::same_variant(&error, with), "{error:?} instead of {with:?}");
}

#[test]
fn root_attributes_come_from_the_next_layer_that_has_them() {
    let mut lower = base();
    let root = &mut lower.nodes[0];
    (root.attr.mode, root.attr.uid) = (0o711, 3);
    root.xattrs = vec![(b"user.x"[..].into(), b"1"[..].into())];
    let silent = |name: &str| {
        let mut layer = MemoryLayer { describes_root: false, ..MemoryLayer::default() };
        layer.nodes[0].attr.mtime = Time::from_secs(0);
        layer.directory(0, name);
        layer
    };
    let tree = tree_of(&[lower, silent("one more"), silent("and another")], u64::MAX, true);
    let attr = tree.attr(Ino::ROOT).unwrap();
    assert_eq!((attr.mode, attr.uid, attr.mtime), (0o711, 3, Time::from_secs(1_000)));
    assert_eq!(attr.nlink, 2 + 4, "dir, empty and the two");
    assert_eq!(tree.xattrs(Ino::ROOT).unwrap().len(), 1);
    // Changed and changed back: no difference is left.
    let mode = |mode| {
        let set = SetAttr { mode: Some(mode), ..SetAttr::default() };
        tree.set_attr(Ino::ROOT, &set).unwrap();
        changes(&tree)
    };
    assert_eq!(mode(0o700), ["Modified "]);
    assert!(mode(0o711).is_empty());

    // No layer describes its root: the defaults of the lowest layer apply.
    let tree = tree_of(&[silent("one"), silent("two")], u64::MAX, true);
    let attr = tree.attr(Ino::ROOT).unwrap();
    assert_eq!((attr.mode, attr.uid, attr.mtime), (0o755, 0, Time::from_secs(0)));
}

#[test]
fn memory_of_a_removed_directory_is_released() {
    let tree = tree();
    let (dir, sub) = (hold(&tree, "dir"), hold(&tree, "dir/sub"));
    tree.unlink(sub, b"deep").unwrap();
    tree.rmdir(dir, b"sub").unwrap();
    tree.unlink(dir, b"file").unwrap();
    tree.rmdir(Ino::ROOT, b"dir").unwrap();
    let before = tree.usage();
    tree.forget(sub, 1);
    tree.forget(dir, 2);
    assert!(tree.usage().used < before.used && tree.usage().inodes == before.inodes - 2);
    assert_eq!(changes(&tree), ["Deleted dir"]);
}

#[test]
fn undone_changes_use_no_memory() {
    let tree = tree_of(&[], u64::MAX, true);
    let dir = drop_entry(&tree, tree.mknod(Ino::ROOT, b"dir", &DIR).unwrap());
    let file = tree.mknod(dir, b"file", &FILE).unwrap().ino;
    tree.write(file, 0, &[1; 300_000]).unwrap();
    tree.write(file, 1 << 30, &[1; 10]).unwrap();
    tree.set_xattr(file, b"user.x", b"value", XattrFlags::Any).unwrap();
    drop_entry(&tree, tree.link(file, Ino::ROOT, b"link").unwrap());
    drop_entry(&tree, tree.add_scratch(dir, b"file", &FILE).unwrap());
    tree.unlink(dir, b"file").unwrap();
    tree.unlink(Ino::ROOT, b"link").unwrap();
    assert_eq!(read_all(&tree, file, 5).len(), 15, "open files stay readable");
    tree.rmdir(Ino::ROOT, b"dir").unwrap();
    tree.forget(file, 1);
    assert_eq!(tree.usage().used, 0);
    assert_eq!(tree.usage().inodes, 1);
    assert!(changes(&tree).is_empty());
}

#[test]
fn invalid_names_never_reach_a_layer() {
    let tree = tree();
    for name in [&b""[..], b".", b"..", b"a/b", b"a\0"] {
        assert_error(tree.lookup(Ino::ROOT, name), &FsError::Invalid);
        assert_error(tree.mknod(Ino::ROOT, name, &FILE), &FsError::Invalid);
        assert_error(tree.unlink(Ino::ROOT, name), &FsError::Invalid);
        assert_error(tree.rmdir(Ino::ROOT, name), &FsError::Invalid);
        assert_error(tree.revert(Ino::ROOT, name), &FsError::Invalid);
        let renamed = tree.rename(Ino::ROOT, name, Ino::ROOT, b"x", RenameMode::Replace);
        assert_error(renamed, &FsError::Invalid);
    }
    assert_error(tree.lookup(Ino::ROOT, &[b'n'; 256]), &FsError::NameTooLong);
}

#[test]
fn unchanged_root_has_attributes() {
    let tree = tree();
    assert_error(tree.read_link(Ino::ROOT), &FsError::Invalid);
    assert_error(tree.read(Ino::ROOT, 0, &mut [0; 4]), &FsError::IsADirectory);
    assert_error(tree.write(Ino::ROOT, 0, b"x"), &FsError::IsADirectory);
}

#[test]
fn empty_write_does_not_change_the_size() {
    let tree = tree();
    let file = hold(&tree, "one");
    assert_eq!(tree.write(file, 1_000, b"").unwrap(), 0);
    assert_eq!(tree.attr(file).unwrap().size, 6);
}

#[test]
fn punching_a_hole_is_atomic() {
    // The limit allows one chunk, but the edges of the hole need two.
    let mut layer = MemoryLayer::default();
    layer.file(0, "file", &[7; 300_000]);
    let tree = tree_of(&[layer], 80_000, false);
    let file = hold(&tree, "file");
    assert_error(tree.zero(file, 10..299_000, false), &FsError::NoSpace { limit: 0 });
    assert!(read_all(&tree, file, 300_000) == [7; 300_000]);
    tree.check_invariants().unwrap();
    // A hole up to the end of the file has only one edge.
    tree.zero(file, 10..300_000, false).unwrap();
    let mut should = vec![7; 10];
    should.resize(300_000, 0);
    assert!(read_all(&tree, file, 300_000) == should);
    assert_eq!(tree.next_data(file, 70_000).unwrap(), None);
}

#[test]
fn holes_have_page_granularity() {
    // Found by xfstests' generic/436 and generic/490, which seek near holes within a chunk.
    const PAGE: u64 = 4096;
    let tree = tree_of(&[], 1 << 20, false);
    let file = tree.mknod(Ino::ROOT, b"file", &FILE).unwrap().ino;
    let next = |offset| tree.next_data(file, offset).unwrap();
    tree.write(file, 5 * PAGE + 10, &[7; 30_000]).unwrap();
    assert_eq!(next(0), Some(5 * PAGE..20_490 + 30_000));
    // The end of data is rounded up, except at the end of the file.
    tree.extend(file, 1 << 20).unwrap();
    assert_eq!(next(0), Some(5 * PAGE..13 * PAGE));
    tree.zero(file, 7 * PAGE..9 * PAGE, false).unwrap();
    assert_eq!(next(PAGE), Some(5 * PAGE..7 * PAGE));
    assert_eq!(next(6 * PAGE + 1), Some(6 * PAGE + 1..7 * PAGE));
    assert_eq!(next(8 * PAGE - 1), Some(9 * PAGE..13 * PAGE));
    assert_eq!(next(13 * PAGE), None);
    // Across the boundary of a chunk.
    tree.write(file, 15 * PAGE + 1, &[7; 4096]).unwrap();
    assert_eq!(next(13 * PAGE), Some(15 * PAGE..17 * PAGE));
}

#[test]
fn overlapping_ranges_of_one_file_are_not_copied() {
    let tree = tree();
    let file = hold(&tree, "dir/file");
    assert_error(tree.copy_range(file, 0, file, 10, 11), &FsError::Invalid);
    assert_eq!(tree.copy_range(file, 0, file, 100_000, 100_000).unwrap(), 100_000);
    assert!(read_all(&tree, file, 200_000) == [7; 200_000]);
    // The copy does not read its own output.
    let one = hold(&tree, "one");
    assert_eq!(tree.copy_range(one, 0, one, 10, 10).unwrap(), 6);
    assert_eq!(read_all(&tree, one, 16), b"linked\0\0\0\0linked");
}

#[test]
fn directory_moved_away_and_back_can_be_reverted() {
    let tree = tree();
    mv(&tree, "dir", "elsewhere");
    assert_error(tree.revert(Ino::ROOT, b"dir"), &FsError::Busy);
    mv(&tree, "elsewhere", "dir");
    let file = hold(&tree, "dir/file");
    tree.write(file, 0, b"new").unwrap();
    tree.revert(Ino::ROOT, b"dir").unwrap();
    assert!(changes(&tree).is_empty());
}

#[test]
fn removed_directory_cannot_be_reverted_while_a_part_of_it_is_elsewhere() {
    let tree = tree();
    mv(&tree, "dir/sub", "sub");
    let dir = at(&tree, "dir");
    tree.unlink(dir, b"file").unwrap();
    tree.rmdir(Ino::ROOT, b"dir").unwrap();
    assert_error(tree.revert(Ino::ROOT, b"dir"), &FsError::Busy);
    assert_eq!(changes(&tree), ["Deleted dir", "Added sub", "Added sub/deep"]);
    tree.revert(Ino::ROOT, b"sub").unwrap();
    tree.revert(Ino::ROOT, b"dir").unwrap();
    assert!(changes(&tree).is_empty());
    assert_eq!(read_all(&tree, at(&tree, "dir/sub/deep"), 4), b"deep");
}

#[test]
fn reverting_a_directory_adds_a_name_to_files_moved_out_of_it() {
    let tree = tree();
    mv(&tree, "dir/file", "file");
    let dir = at(&tree, "dir");
    let sub = at(&tree, "dir/sub");
    tree.unlink(tree.lookup(dir, b"sub").unwrap().ino, b"deep").unwrap();
    tree.rmdir(dir, b"sub").unwrap();
    tree.rmdir(Ino::ROOT, b"dir").unwrap();
    tree.forget(sub, 1);
    tree.forget(dir, 1);
    tree.revert(Ino::ROOT, b"dir").unwrap();
    let file = hold(&tree, "file");
    assert_eq!(hold(&tree, "dir/file"), file);
    assert_eq!(tree.attr(file).unwrap().nlink, 2);
    assert_eq!(changes(&tree), ["Added file"]);
}

#[test]
fn link_count_is_restored_when_links_are_reverted() {
    let tree = tree();
    tree.unlink(Ino::ROOT, b"one").unwrap();
    tree.unlink(Ino::ROOT, b"two").unwrap();
    tree.revert(Ino::ROOT, b"two").unwrap();
    let file = hold(&tree, "two");
    assert_eq!(tree.attr(file).unwrap().nlink, 1);
    tree.revert(Ino::ROOT, b"one").unwrap();
    assert_eq!(tree.attr(file).unwrap().nlink, 2);
    assert!(changes(&tree).is_empty());
}

#[test]
fn link_count_of_a_reverted_directory_is_correct() {
    let tree = tree();
    let dir = hold(&tree, "dir");
    mv(&tree, "dir", "empty");
    tree.revert(Ino::ROOT, b"empty").unwrap();
    tree.revert(Ino::ROOT, b"dir").unwrap();
    assert_eq!(hold(&tree, "dir"), dir);
    assert_eq!(tree.attr(dir).unwrap().nlink, 3);
    assert!(changes(&tree).is_empty());
}

#[test]
fn reverting_removes_new_directories_recursively() {
    let tree = tree();
    let dir = hold(&tree, "dir");
    let new = drop_entry(&tree, tree.mknod(dir, b"new", &DIR).unwrap());
    drop_entry(&tree, tree.mknod(new, b"file", &FILE).unwrap());
    mv(&tree, "dir/sub", "dir/new/sub");
    tree.revert(Ino::ROOT, b"dir").unwrap();
    assert!(changes(&tree).is_empty());
    assert_eq!(read_all(&tree, at(&tree, "dir/sub/deep"), 4), b"deep");
    // Scratch entries are not removed by a revert.
    let new = drop_entry(&tree, tree.mknod(dir, b"new", &DIR).unwrap());
    drop_entry(&tree, tree.add_scratch(new, b"mine", &FILE).unwrap());
    assert_error(tree.revert(Ino::ROOT, b"dir"), &FsError::Busy);
    assert_eq!(changes(&tree), ["Added dir/new"]);
}

#[test]
fn removals_succeed_in_a_full_upper() {
    let mut layer = base();
    layer.nodes[1].xattrs =
        vec![(b"user.a"[..].into(), vec![1; 500].into()), (b"user.b"[..].into(), b"2"[..].into())];
    let tree = tree_of(&[layer], 100, true);
    let dir = hold(&tree, "dir");
    assert_error(tree.mknod(dir, b"x", &FILE), &FsError::NoSpace { limit: 0 });
    tree.remove_xattr(dir, b"user.b").unwrap();
    assert_eq!(tree.xattrs(dir).unwrap().len(), 1);
    tree.unlink(dir, b"file").unwrap();
    assert_eq!(changes(&tree), ["Modified dir", "Deleted dir/file"]);
}

#[test]
fn delta_omits_changes_that_were_undone() {
    let tree = tree();
    let dir = hold(&tree, "dir");
    drop_entry(&tree, tree.mknod(dir, b"file.new", &FILE).unwrap());
    tree.unlink(dir, b"file.new").unwrap();
    let file = hold(&tree, "dir/file");
    let before = tree.attr(file).unwrap();
    tree.write(file, 70_000, b"changed").unwrap();
    tree.set_attr(file, &SetAttr { mode: Some(0), uid: Some(5), ..SetAttr::default() }).unwrap();
    assert_eq!(changes(&tree), ["Modified dir/file"]);
    tree.write(file, 70_000, &[7; 7]).unwrap();
    let back = SetAttr {
        mode: Some(before.mode),
        uid: Some(before.uid),
        mtime: Some(before.mtime),
        ..SetAttr::default()
    };
    tree.set_attr(file, &back).unwrap();
    assert!(changes(&tree).is_empty());
    // An equal copy that replaces the original is not a change.
    let copy = tree.mknod(dir, b"copy", &FILE).unwrap().ino;
    tree.copy_range(file, 0, copy, 0, 100_000).unwrap();
    tree.set_attr(copy, &SetAttr { mtime: Some(before.mtime), ..SetAttr::default() }).unwrap();
    mv(&tree, "dir/copy", "dir/file");
    assert!(changes(&tree).is_empty());
}

#[test]
fn root_of_a_tree_without_layers_can_be_in_the_delta() {
    let tree = tree_of(&[], u64::MAX, false);
    assert!(tree.delta().unwrap().entries.is_empty());
    tree.set_attr(Ino::ROOT, &SetAttr { mode: Some(0o700), ..SetAttr::default() }).unwrap();
    assert_eq!(changes(&tree), ["Modified "]);
}

#[test]
fn change_in_a_forgotten_directory_is_in_the_delta() {
    let tree = tree();
    let dir = hold(&tree, "dir");
    let file = tree.lookup(dir, b"file").unwrap().ino;
    tree.forget(dir, 1);
    tree.set_attr(file, &SetAttr { mtime: Some(Time::from_secs(5)), ..SetAttr::default() })
        .unwrap();
    tree.forget(file, 1);
    assert_eq!(changes(&tree), ["Modified dir/file"]);
    tree.revert(Ino::ROOT, b"dir").unwrap();
    assert!(changes(&tree).is_empty());
    let sub = hold(&tree, "dir/sub");
    let deep = tree.lookup(sub, b"deep").unwrap().ino;
    tree.forget(sub, 1);
    tree.write(deep, 0, b"D").unwrap();
    tree.revert(Ino::ROOT, b"dir").unwrap();
    assert!(changes(&tree).is_empty());
    // A directory without references cannot be changed by its number.
    let sub = hold(&tree, "dir/sub");
    tree.forget(sub, 1);
    assert_error(
        tree.set_attr(sub, &SetAttr { mode: Some(0), ..SetAttr::default() }),
        &FsError::Stale,
    );
}

#[test]
fn directories_merge_down_to_a_whiteout_an_opaque_directory_or_a_file() {
    let names = |layers: &[MemoryLayer], path: &str| -> String {
        let tree = tree_of(layers, u64::MAX, false);
        let listed = list(&tree, hold(&tree, path), 2);
        let names: Vec<_> = listed[2..].iter().map(|(n, ..)| String::from_utf8_lossy(n)).collect();
        names.join(" ")
    };
    let layer = |file: &str| {
        let mut layer = MemoryLayer::default();
        let dir = layer.directory(0, "dir");
        layer.file(dir, file, b"");
        layer
    };
    let (mut hides, mut opaque, mut file) = <(MemoryLayer, MemoryLayer, MemoryLayer)>::default();
    hides.whiteout(0, "dir");
    let dir = opaque.directory(0, "dir");
    opaque.set_opaque(dir);
    file.file(0, "dir", b"");
    let (a, b, c) = (layer("a"), layer("b"), layer("c"));
    assert_eq!(names(&[a.clone(), b.clone(), c.clone()], "dir"), "a b c");
    for between in [hides, opaque, file] {
        assert_eq!(names(&[a.clone(), between, b.clone(), c.clone()], "dir"), "b c");
    }
    let mut less = layer("d");
    less.whiteout(1, "a");
    assert_eq!(names(&[a, b, less, c], "dir"), "b c d");
}

#[test]
fn replaced_directory_has_each_name_deleted() {
    let tree = tree();
    for name in ["dir/sub/deep", "dir/sub", "dir/file", "dir"] {
        mv(&tree, name, "gone");
        tree.revert(Ino::ROOT, b"gone").unwrap();
    }
    let new = drop_entry(&tree, tree.mknod(Ino::ROOT, b"dir", &DIR).unwrap());
    drop_entry(&tree, tree.mknod(new, b"other", &FILE).unwrap());
    assert_eq!(changes(&tree), ["Deleted dir/file", "Added dir/other", "Deleted dir/sub"]);
}

#[test]
fn delta_contains_all_hard_links_of_an_object_or_none() {
    let tree = tree();
    mv(&tree, "one", "dir/one");
    let paths = || -> Vec<_> {
        let entries = tree.delta().unwrap().entries;
        let files = entries.iter().filter(|e| e.object.is_none_or(|o| o.attr.nlink == 2));
        let shown = |e: &fs_model::delta::DeltaEntry| {
            format!("{:?} {}", e.change, String::from_utf8_lossy(&e.path))
        };
        files.map(shown).collect()
    };
    assert_eq!(paths(), ["Added dir/one", "Deleted one", "Unchanged two"]);
}

#[test]
fn whiteouts_cannot_be_created() {
    let tree = tree();
    let node = MknodArgs::device(FileType::CharDevice, 0, 0, 0, Device::default());
    assert_error(tree.mknod(Ino::ROOT, b"w", &node), &FsError::NotPermitted);
}

#[test]
fn listing_offsets_stay_valid_across_changes() {
    let tree = tree();
    let make = |name: String| {
        drop_entry(&tree, tree.mknod(Ino::ROOT, name.as_bytes(), &FILE).unwrap());
    };
    (0..300).for_each(|n| make(format!("old{n}")));
    for stop in [0, 1, 2, 3, 5, 8, 40, 290] {
        let (mut seen, mut offset) = (Vec::new(), 0);
        let mut read = |count: usize, offset: &mut u64| {
            let before = seen.len();
            tree.read_dir(Ino::ROOT, *offset, |item| {
                if seen.len() - before == count {
                    return false;
                }
                *offset = item.next;
                seen.push(item.name.to_vec());
                true
            })
            .unwrap();
            seen.clone()
        };
        read(stop, &mut offset);
        // Create and remove other names, enough to compact the slots.
        (0..200).for_each(|n| make(format!("new{stop}.{n}")));
        (0..200).for_each(|n| tree.unlink(Ino::ROOT, format!("new{stop}.{n}").as_bytes()).unwrap());
        tree.unlink(Ino::ROOT, b"two").unwrap();
        (0..250).for_each(|n| drop(tree.unlink(Ino::ROOT, format!("gone{n}").as_bytes())));
        let all = read(usize::MAX, &mut offset);
        for name in list(&tree, Ino::ROOT, 1_000).into_iter().map(|(name, ..)| name) {
            let count = all.iter().filter(|n| **n == name).count();
            assert_eq!(count, 1, "{}", String::from_utf8_lossy(&name));
        }
        tree.revert(Ino::ROOT, b"two").unwrap();
    }
}

#[test]
fn listing_terminates_while_the_reader_renames_entries() {
    // Found by xfstests' generic/736.
    let renamed = |tree: &Tree, name: &[u8]| {
        let new = [name, b"x"].concat();
        tree.rename(Ino::ROOT, name, Ino::ROOT, &new, RenameMode::Replace).unwrap();
    };
    let made_anew = |tree: &Tree, name: &[u8]| {
        if name.starts_with(b"own") {
            tree.unlink(Ino::ROOT, name).unwrap();
            drop_entry(tree, tree.mknod(Ino::ROOT, name, &FILE).unwrap());
        }
    };
    let tree = tree();
    for n in 0..200 {
        drop_entry(&tree, tree.mknod(Ino::ROOT, format!("own{n}").as_bytes(), &FILE).unwrap());
    }
    let names = list(&tree, Ino::ROOT, 1_000).len();
    for change in [&renamed as &dyn Fn(&Tree, &[u8]), &made_anew] {
        let (mut offset, mut seen) = (0, 0);
        loop {
            let mut found = None;
            tree.read_dir(Ino::ROOT, offset, |item| {
                let first = found.is_none();
                found.get_or_insert_with(|| (item.name.to_vec(), item.next));
                first
            })
            .unwrap();
            let Some((name, next)) = found else { break };
            offset = next;
            seen += 1;
            assert!(seen <= 2 * names, "the listing does not terminate");
            if !matches!(&*name, b"." | b"..") {
                change(&tree, &name);
            }
        }
        assert!(seen >= names, "{seen} of {names}");
    }
}

#[test]
fn unsupported_extended_attributes_are_rejected() {
    let tree = tree();
    let file = hold(&tree, "dir/file");
    let set = |name: &str| tree.set_xattr(file, name.as_bytes(), b"value", XattrFlags::Any);
    for name in ["system.posix_acl", "system.other", "unknown.name", "user", ""] {
        assert!(matches!(set(name), Err(FsError::NotSupported)), "{name:?}");
    }
    // These would take effect where the overlay is unpacked: an opaque directory hides another one.
    for name in ["trusted.overlay.opaque", "user.overlay.redirect"] {
        assert!(matches!(set(name), Err(FsError::NotSupported)), "{name:?}");
    }
    assert!(changes(&tree).is_empty());
    for name in ["user.a", "trusted.overlay", "security.a"] {
        set(name).unwrap();
    }
    assert_eq!(tree.xattrs(file).unwrap().len(), 3);
}

#[test]
fn allocated_size_counts_overwritten_parts_once() {
    let tree = tree();
    let file = hold(&tree, "dir/file");
    let blocks = || tree.attr(file).unwrap().allocated;
    let small = SetAttr { mode: Some(0o600), ..SetAttr::default() };
    tree.set_attr(file, &small).unwrap();
    assert_eq!(blocks(), 100_000, "nothing is copied up");
    // Copy up the first chunk, then the rest.
    tree.write(file, 0, &[1; 10]).unwrap();
    assert!((100_000..110_000).contains(&blocks()), "{}", blocks());
    tree.write(file, 0, &[1; 100_000]).unwrap();
    assert!((100_000..150_000).contains(&blocks()), "{}", blocks());
    tree.zero(file, 0..65536, false).unwrap();
    assert!(blocks() < 70_000, "{}", blocks());
}
