//! Scratch entries.

use fs_model::delta::Change;
use fs_model::tree::{MknodArgs, RenameMode, SetAttr};
use fs_model::{FsError, Ino, Tree};

use crate::behaviour::{DIR, FILE, assert_error, base, changes, drop_entry, hold, tree};
use crate::compare::read_all;
use crate::harness::tree_of;
use crate::layer::MemoryLayer;

#[test]
fn link_count_of_a_directory_includes_scratch_directories() {
    let tree = tree();
    let links = || tree.attr(Ino::ROOT).unwrap().nlink;
    assert_eq!(links(), 4);
    drop_entry(&tree, tree.add_scratch(Ino::ROOT, b"dir", &DIR).unwrap());
    assert_eq!(links(), 4);
    drop_entry(&tree, tree.add_scratch(Ino::ROOT, b"empty", &FILE).unwrap());
    assert_eq!(links(), 3);
    tree.unlink(Ino::ROOT, b"empty").unwrap();
    assert_eq!(links(), 3);
    assert_eq!(changes(&tree), ["Deleted empty"]);
    tree.revert(Ino::ROOT, b"empty").unwrap();
    assert_eq!(links(), 4);
    assert!(changes(&tree).is_empty());
}

#[test]
fn scratch_entry_over_a_directory_with_entries_is_busy() {
    let tree = tree();
    drop_entry(&tree, tree.add_scratch(Ino::ROOT, b"dir", &DIR).unwrap());
    assert_error(tree.rmdir(Ino::ROOT, b"dir"), &FsError::Busy);
    let moved = tree.rename(Ino::ROOT, b"dir", Ino::ROOT, b"away", RenameMode::Replace);
    assert_error(moved, &FsError::Busy);
    let moved = tree.rename(Ino::ROOT, b"empty", Ino::ROOT, b"dir", RenameMode::Replace);
    assert_error(moved, &FsError::Busy);
    // A rejected operation leaves nothing in memory.
    drop_entry(&tree, tree.add_scratch(Ino::ROOT, b"empty", &DIR).unwrap());
    let moved = tree.rename(Ino::ROOT, b"empty", Ino::ROOT, b"dir", RenameMode::Exchange);
    assert_error(moved, &FsError::Busy);
    assert!(changes(&tree).is_empty());
}

#[test]
fn moved_scratch_file_becomes_an_ordinary_one_unless_it_is_lent_or_covers_a_file() {
    let tree = tree();
    drop_entry(&tree, tree.add_scratch(Ino::ROOT, b"script", &FILE).unwrap());
    tree.rename(Ino::ROOT, b"script", Ino::ROOT, b"installed", RenameMode::Replace).unwrap();
    assert_eq!(changes(&tree), ["Added installed"]);
    tree.unlink(Ino::ROOT, b"installed").unwrap();
    tree.lend(Ino::ROOT, b"host", 0o644, b"lent", 4).unwrap();
    tree.rename(Ino::ROOT, b"host", Ino::ROOT, b"host.bak", RenameMode::Replace).unwrap();
    assert!(changes(&tree).is_empty(), "{:?}", changes(&tree));
    // If it covers a file of the layers, the delta contains the move of that file.
    let one = read_all(&tree, hold(&tree, "one"), 6);
    drop_entry(&tree, tree.add_scratch(Ino::ROOT, b"one", &FILE).unwrap());
    tree.rename(Ino::ROOT, b"one", Ino::ROOT, b"moved", RenameMode::Replace).unwrap();
    assert_eq!(changes(&tree), ["Added moved", "Deleted one"]);
    let delta = tree.delta().unwrap();
    let moved = delta.entries.iter().find(|entry| *entry.path == *b"moved").unwrap();
    assert_eq!(read_all(&tree, moved.object.unwrap().ino, 6), one);
    // It can be moved back.
    tree.rename(Ino::ROOT, b"moved", Ino::ROOT, b"one", RenameMode::Replace).unwrap();
    assert!(changes(&tree).is_empty(), "{:?}", changes(&tree));
    tree.check_invariants().unwrap();
}

#[test]
fn scratch_entry_cannot_be_moved_into_the_directory_it_covers() {
    let tree = tree();
    let empty = hold(&tree, "empty");
    drop_entry(&tree, tree.add_scratch(Ino::ROOT, b"empty", &DIR).unwrap());
    let moved = tree.rename(Ino::ROOT, b"empty", empty, b"in", RenameMode::Replace);
    assert_error(moved, &FsError::Busy);
    assert!(changes(&tree).is_empty());
}

#[test]
fn replaced_scratch_entry_leaves_no_trace() {
    let tree = tree_of(&[], u64::MAX, false);
    drop_entry(&tree, tree.add_scratch(Ino::ROOT, b"s", &FILE).unwrap());
    let used = tree.usage();
    drop_entry(&tree, tree.add_scratch(Ino::ROOT, b"s", &FILE).unwrap());
    assert_eq!(tree.usage(), used);
    let dir = drop_entry(&tree, tree.add_scratch(Ino::ROOT, b"d", &DIR).unwrap());
    drop_entry(&tree, tree.mknod(dir, b"in it", &FILE).unwrap());
    assert_error(tree.add_scratch(Ino::ROOT, b"d", &FILE), &FsError::NotEmpty);
    assert!(changes(&tree).is_empty());
}

#[test]
fn covered_link_is_removed_with_its_scratch_entry() {
    let tree = tree();
    drop_entry(&tree, tree.add_scratch(Ino::ROOT, b"one", &FILE).unwrap());
    tree.unlink(Ino::ROOT, b"one").unwrap();
    let two = hold(&tree, "two");
    assert_eq!(tree.attr(two).unwrap().nlink, 1);
    assert_eq!(changes(&tree), ["Deleted one"]);
    tree.unlink(Ino::ROOT, b"two").unwrap();
    tree.forget(two, 1);
    assert_eq!(tree.usage().inodes, 1, "only the root is in the upper");
}

#[test]
fn failed_exchange_does_not_change_scratch_entries() {
    let tree = tree_of(&[base()], 3_000, false);
    drop_entry(&tree, tree.add_scratch(Ino::ROOT, b"one", &FILE).unwrap());
    let mut fill = 0;
    while tree.mknod(Ino::ROOT, format!("{fill}").as_bytes(), &FILE).is_ok() {
        fill += 1;
    }
    let done = tree.rename(Ino::ROOT, b"one", Ino::ROOT, b"two", RenameMode::Exchange);
    assert_error(done, &FsError::NoSpace { limit: 0 });
    tree.check_invariants().unwrap();
    assert!(!changes(&tree).iter().any(|c| c.ends_with("one") || c.ends_with("two")));
}

#[test]
fn scratch_parent_is_in_the_delta_only_with_another_entry_or_change() {
    let mut layer = MemoryLayer::default();
    layer.file(0, "file", b"x");
    layer.directory(0, "etc");
    let tree = tree_of(&[layer], u64::MAX, false);
    let directory = MknodArgs::directory(0o755, 0, 0);
    let scratch_parent = tree.add_scratch_parent(Ino::ROOT, b"new", &directory).unwrap().ino;
    tree.add_scratch(scratch_parent, b"mount", &directory).unwrap();
    assert_error(tree.add_scratch_parent(Ino::ROOT, b"new", &directory), &FsError::Exists);
    let paths = || -> Vec<String> {
        let entries = tree.delta().unwrap().entries;
        entries.iter().map(|e| String::from_utf8_lossy(&e.path).into_owned()).collect()
    };
    assert!(paths().is_empty());
    tree.mknod(scratch_parent, b"mine", &MknodArgs::file(0o644, 0, 0)).unwrap();
    assert_eq!(paths(), ["", "new", "new/mine"]);
    tree.unlink(scratch_parent, b"mine").unwrap();
    assert!(paths().is_empty());

    // Also in a directory of the layers without another change, and at any depth.
    let etc = tree.lookup(Ino::ROOT, b"etc").unwrap().ino;
    let outer = tree.add_scratch_parent(etc, b"ssl", &directory).unwrap().ino;
    let inner = tree.add_scratch_parent(outer, b"certs", &directory).unwrap().ino;
    tree.add_scratch(inner, b"bundle", &MknodArgs::file(0o644, 0, 0)).unwrap();
    assert!(paths().is_empty());
    let mine = tree.mknod(inner, b"mine", &MknodArgs::file(0o644, 0, 0)).unwrap().ino;
    assert_eq!(paths(), ["", "etc", "etc/ssl", "etc/ssl/certs", "etc/ssl/certs/mine"]);
    tree.unlink(inner, b"mine").unwrap();
    assert!(paths().is_empty());
    tree.set_attr(inner, &SetAttr { mode: Some(0o700), ..SetAttr::default() }).unwrap();
    assert_eq!(paths(), ["", "etc", "etc/ssl", "etc/ssl/certs"]);
    for ino in [mine, inner, outer, etc] {
        tree.forget(ino, 1);
    }

    // A name of the layers that was removed stays removed.
    tree.unlink(Ino::ROOT, b"file").unwrap();
    let over = tree.add_scratch_parent(Ino::ROOT, b"file", &directory).unwrap().ino;
    let entries = tree.delta().unwrap().entries;
    let removed: Vec<_> = entries.iter().filter(|e| e.path.starts_with(b"file")).collect();
    assert_eq!((removed.len(), removed[0].change), (1, Change::Deleted));
    tree.forget(scratch_parent, 1);
    tree.forget(over, 1);
    tree.check_invariants().unwrap();
}

fn text(tree: &Tree, ino: Ino) -> String {
    let mut buffer = [0; 64];
    let len = tree.read(ino, 0, &mut buffer).unwrap();
    String::from_utf8_lossy(&buffer[..len]).into_owned()
}

#[test]
fn reference_to_a_covered_file_is_one_to_the_file_that_takes_its_place() {
    let tree = tree_of(&[], 1 << 20, true);
    let first = tree.mknod(Ino::ROOT, b"hosts", &MknodArgs::file(0o644, 0, 0)).unwrap().ino;
    let mut former = vec![first];
    for line in ["a", "b", "c"] {
        tree.lend(Ino::ROOT, b"hosts", 0o644, b"lent", 4).unwrap();
        let lent = tree.lookup(Ino::ROOT, b"hosts").unwrap().ino;
        tree.append(lent, line.as_bytes()).unwrap();
        former.push(lent);
        let others = tree.other_numbers(lent);
        assert_eq!(others.len(), former.len() - 1, "{others:?}");
        for ino in &former {
            tree.append(*ino, b".").unwrap();
        }
        tree.check_invariants().unwrap();
    }
    for ino in &former {
        assert_eq!(text(&tree, *ino), "a..b...c....");
        tree.set_attr(*ino, &SetAttr { mode: Some(0o600), ..SetAttr::default() }).unwrap();
    }
    let link = tree.link(first, Ino::ROOT, b"link").unwrap();
    assert_eq!((link.ino, link.attr.mode, link.attr.nlink), (former[3], 0o600, 2));
    // The file exists as long as any number of it is referenced.
    tree.unlink(Ino::ROOT, b"hosts").unwrap();
    tree.unlink(Ino::ROOT, b"link").unwrap();
    tree.forget(former[3], 2);
    assert_eq!(text(&tree, first), "a..b...c....");
    for ino in &former[..3] {
        tree.check_invariants().unwrap();
        tree.forget(*ino, 1);
    }
    tree.check_invariants().unwrap();
    assert_eq!(tree.usage().inodes, 1);
}

#[test]
fn file_that_is_lent_again_keeps_its_number() {
    let tree = tree_of(&[], 1 << 20, true);
    let own = tree.mknod(Ino::ROOT, b"hosts", &MknodArgs::file(0o644, 0, 0)).unwrap().ino;
    let lent = tree.lend(Ino::ROOT, b"hosts", 0o644, b"lent", 4).unwrap();
    tree.set_attr(own, &SetAttr { mode: Some(0o640), ..SetAttr::default() }).unwrap();
    assert!(tree.lend_again(lent, 0o644, b"others", 6).unwrap());
    assert_eq!((text(&tree, lent), tree.attr(lent).unwrap().mode), ("others".to_owned(), 0o640));
    tree.append(lent, b"a").unwrap();
    assert_eq!(text(&tree, own), "a");
    assert!(!tree.lend_again(lent, 0o644, b"more", 4).unwrap());
    tree.check_invariants().unwrap();
}

#[test]
fn file_created_in_place_of_a_lent_one_has_its_own_attributes() {
    let tree = tree_of(&[], 1 << 20, true);
    let node = MknodArgs { umask: 0o027, ..MknodArgs::file(0o666, 3, 4) };
    let create = || tree.create_at_stand_in(Ino::ROOT, b"hosts", &node);
    assert!(matches!(create(), Err(FsError::Exists)));
    let lent = tree.lend(Ino::ROOT, b"hosts", 0o755, b"lent", 4).unwrap();
    assert!(tree.lookup(Ino::ROOT, b"hosts").unwrap().is_stand_in);
    assert!(matches!(tree.mknod(Ino::ROOT, b"hosts", &node), Err(FsError::Exists)));
    // Programs set the mode of all files that they find.
    tree.set_attr(lent, &SetAttr { mode: Some(0o700), ..SetAttr::default() }).unwrap();
    assert!(tree.is_lent(lent) && tree.delta().unwrap().entries.is_empty());
    let made = create().unwrap();
    let attr = made.attr;
    assert_eq!((made.ino, attr.mode, attr.uid, attr.gid, attr.size), (lent, 0o640, 3, 4, 0));
    assert!(!made.is_stand_in && matches!(create(), Err(FsError::Exists)));
    // The directory and the file.
    assert_eq!(tree.delta().unwrap().entries.len(), 2);
    tree.lend(Ino::ROOT, b"hosts", 0o755, b"lent", 4).unwrap();
    assert!(matches!(create(), Err(FsError::Exists)));
}

#[test]
fn size_far_beyond_a_lent_file_is_one_of_the_own_file() {
    let tree = tree_of(&[], 1 << 20, true);
    let own = tree.mknod(Ino::ROOT, b"hosts", &MknodArgs::file(0o644, 0, 0)).unwrap().ino;
    tree.write(own, 0, b"own").unwrap();
    let lent = tree.lend(Ino::ROOT, b"hosts", 0o644, b"own lent", 8).unwrap();
    tree.set_attr(lent, &SetAttr { size: Some(40_000), ..SetAttr::default() }).unwrap();
    assert_eq!(tree.attr(lent).unwrap().size, 40_000);
    assert!(text(&tree, lent).starts_with("own\0\0"));
}
