//! A tree that is sealed as tar and imported is the same tree, and sealed again the same bytes.

use std::fs;

use fs_model::Tree;
use overcoat::seal::{Format, Output, SealOptions, seal};

use crate::raw::{Archive, Header};
use crate::snapshot::{Snapshot, assert_same_layer, by_gnu_tar, differences, imported, of_tree};
use crate::tools::sh;
use crate::writers::random_tree;
use crate::{is_root, memory_dir, seeds};

fn sealed(tree: &Tree) -> Vec<u8> {
    let dir = memory_dir();
    let path = dir.path().join("sealed.tar");
    let delta = tree.delta().unwrap();
    let options = SealOptions { threads: 2, ..SealOptions::new(Format::Tar) };
    seal(&delta, tree, &options, Output::file(&path).unwrap(), None, &mut |_| ()).unwrap();
    fs::read(&path).unwrap()
}

/// Times as archives of overcoat have them: whole seconds from 1970 to 2106.
fn with_sealed_times(mut snapshot: Snapshot) -> Snapshot {
    for object in snapshot.values_mut() {
        object.mtime = (object.mtime.0.clamp(0, i64::from(u32::MAX)), 0);
    }
    snapshot
}

/// Imports and seals `archive`, and imports the result; gives the sealed archive and its objects.
fn compare(name: &str, archive: &[u8]) -> (Vec<u8>, Snapshot) {
    let (first, _) = imported(archive).unwrap();
    let bytes = sealed(&first);
    let (second, notes) = imported(&bytes).unwrap();
    assert!(notes.is_empty(), "{name}: {notes:?}");
    assert_same_layer(name, &bytes, &of_tree(&second));
    let (first, second_snapshot) = (with_sealed_times(of_tree(&first)), of_tree(&second));
    let differences = differences(&first, &second_snapshot);
    assert!(differences.is_empty(), "{name}: {differences}");
    assert!(bytes == sealed(&second), "{name}: sealed again it is another archive");
    (bytes, second_snapshot)
}

#[test]
fn an_archive_of_overcoat_is_read_back() {
    let hole = "1\n5000000\n512\n".to_owned() + &"\0".repeat(498);
    let content = [hole.as_bytes(), &[b'd'; 512]].concat();
    let list = b"user::rw-,user:7:r--,group::r--,mask::r--,other::---";
    let archive = Archive::new()
        .header(Header::new(b'5', "./").mode(0o711).ids(1, 2))
        .dir("a")
        .header(Header::new(b'5', "a/b").mode(0o2750).ids(2_000_000, 1_000_000))
        .pax(&[
            ("SCHILY.xattr.user.a%3Db%253D", b"x"),
            ("SCHILY.xattr.user.b", b"1\n2\0"),
            ("uid", b"4000000000"),
        ])
        .file("a/b/file", "content")
        .hard_link("a/link", "a/b/file")
        .hard_link("z", "a/b/file")
        .pax(&[("SCHILY.acl.access", list), ("SCHILY.acl.default", list)])
        .dir("lists")
        .file("lists/file", "x")
        .symlink("s", "a/b")
        .hard_link("t", "s")
        .header(Header::new(b'3', "c").put(329, b"0000010\0").put(337, b"3777777\0"))
        .header(Header::new(b'6', "p").mode(0o600))
        .pax(&[("path", ("long\n\u{e9}/".repeat(60) + "x").as_bytes())])
        .file("cut off", "x")
        .pax(&[("linkpath", "t".repeat(300).as_bytes())])
        .symlink("l", "cut off")
        .file(".wh.name", "")
        .pax(&[("GNU.sparse.major", b"1"), ("GNU.sparse.realsize", b"9000000")])
        .member(Header::new(b'0', "hole"), content)
        .end();
    compare("by hand", &archive);
}

#[test]
fn random_trees_survive_sealing_and_importing() {
    if !is_root() {
        return;
    }
    for seed in seeds(1000..1004) {
        let dir = memory_dir();
        random_tree(&dir.path().join("r"), seed);
        sh(dir.path(), "tar -C r --format=posix --acls --xattrs --xattrs-include='*' -Scf a.tar .");
        let archive = fs::read(dir.path().join("a.tar")).unwrap();
        let (bytes, snapshot) = compare(&format!("seed {seed}"), &archive);
        let path = dir.path().join("sealed.tar");
        fs::write(&path, bytes).unwrap();
        let expected = by_gnu_tar(&path, &dir.path().join("out")).unwrap();
        let differences = differences(&expected, &snapshot);
        assert!(differences.is_empty(), "seed {seed}: {differences}");
    }
}
