//! Random members with few names: the same name twice, types that change, members below links.

use std::fs;

use crate::raw::{Archive, Header};
use crate::snapshot::{as_layer, assert_same_layer, by_gnu_tar, by_overcoat, differences};
use crate::{Random, is_root, memory_dir, seeds};

const NAMES: [&str; 8] = ["a", "b", "c", "a/a", "a/b", "b/a", "b/c", "a/b/c"];
const TARGETS: [&str; 8] = ["a", "b", "c", "a/b", "./b", "../b", "/a", "missing"];

fn archive(random: &mut Random) -> (Archive, String) {
    let mut archive = Archive::new();
    let mut text = String::new();
    for index in 0..1 + random.below(8) {
        let (name, target) = (random.choose(&NAMES), random.choose(&TARGETS));
        let mode = random.choose(&[0o755, 0o2755, 0o600, 0o4711]);
        let ids = random.choose(&[0, 1000]);
        let kind = random.choose(b"00015552226");
        let header =
            Header::link(kind, name, if matches!(kind, b'1' | b'2') { target } else { "" })
                .mode(if kind == b'5' { mode | 0o055 } else { mode })
                .ids(ids, ids);
        text += &format!("{} {name} {target} {mode:o} {ids}\n", kind as char);
        archive = match kind {
            b'0' => archive.member(header, index.to_string()),
            _ => archive.header(header),
        };
    }
    (archive, text)
}

#[test]
fn random_members_become_what_gnu_tar_makes_of_them() {
    if !is_root() {
        return;
    }
    let dir = memory_dir();
    let (mut same, mut refused) = (0, 0);
    for seed in seeds(0..300) {
        let (archive, text) = archive(&mut Random::new(seed));
        let bytes = archive.end();
        let (path, out) = (dir.path().join("archive"), dir.path().join("out"));
        fs::write(&path, &bytes).unwrap();
        let expected = by_gnu_tar(&path, &out);
        fs::remove_dir_all(&out).unwrap();
        match (expected, by_overcoat(&bytes)) {
            (Ok(expected), Ok((found, _))) => {
                let differences = differences(&expected, &found);
                assert!(differences.is_empty(), "seed {seed}: {text}{differences}");
                assert_same_layer(&format!("seed {seed}: {text}"), &bytes, &found);
                same += 1;
            }
            (Ok(_), Err(error)) => panic!("seed {seed}: {text}{error}"),
            // A directory that was made below a link, which another member replaced: GNU tar does
            // not find it again when it sets the attributes.
            (Err(printed), Ok(_)) if printed.contains("Cannot stat: No such file") => refused += 1,
            (Err(printed), Ok(_)) => panic!("seed {seed}: {text}{printed}"),
            (Err(_), Err(_)) => refused += 1,
        }
    }
    println!("{same} archives compared, {refused} refused by both");
}

/// Whatever is wrong with an archive, it ends as a whole tree or as an error.
#[test]
fn damaged_archives_get_an_answer() {
    let (mut taken, mut refused) = (0, 0);
    for seed in seeds(0..2000) {
        let mut random = Random::new(seed);
        let (mut archive, text) = archive(&mut random);
        let records: [(&str, &[u8]); 6] = [
            ("path", b"a/x"),
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.realsize", b"1000000"),
            ("SCHILY.xattr.user.a", b"1"),
            ("SCHILY.acl.access", b"u::rw,u:root:r,g::r,m::r,o::-"),
            ("GNU.sparse.map", b"0,1,512,1"),
        ];
        let from = random.below(6) as usize;
        archive = archive.pax(&records[from..]).file("b", "2\n0\n5\n999999\n1\n");
        let mut bytes = archive.end();
        for _ in 0..random.below(4) {
            let at = random.below(bytes.len() as u64) as usize;
            bytes[at] = random.choose(b"\0\x01\x7f\x80\xff0123456789xgLKSVD/.=");
        }
        if random.once_in(4) {
            bytes.truncate(random.below(bytes.len() as u64) as usize);
        }
        for block in bytes.chunks_exact_mut(512).filter(|block| block[257..262] == *b"ustar") {
            let header = Header::from_block(block.try_into().unwrap());
            block.copy_from_slice(&header.summed());
        }
        if let Err(error) = as_layer(&bytes) {
            assert!(error.starts_with("archive: "), "seed {seed}: {text}{error}");
        }
        match by_overcoat(&bytes) {
            Ok(_) => taken += 1,
            Err(error) => {
                assert!(!error.is_empty() && error.len() < 10_000, "seed {seed}: {text}{error}");
                refused += 1;
            }
        }
    }
    println!("{taken} damaged archives taken, {refused} refused");
}
