//! The layers read the objects that the writers of cpio and tar wrote.

use std::collections::BTreeMap;
use std::sync::Arc;

use fs_model::attr::{Attr, Device, FileType, Time};
use fs_model::layer::cpio::{CpioLayer, WHITEOUTS_ARE_DEVICES};
use fs_model::layer::tar::TarLayer;
use fs_model::layer::{Layer, LayerEntry, LayerIno, Limits};
use overcoat::seal::Format;
use proptest::prelude::*;

use crate::support::{Data, Sample, attr, everything, options, sealed};

fn compare(sample: &Sample, layer: &dyn Layer) {
    let mut seen = BTreeMap::<u64, LayerIno>::new();
    let mut count = 0;
    for entry in &sample.delta.entries {
        let text = String::from_utf8_lossy(&entry.path).into_owned();
        let mut at = LayerEntry::Object { ino: layer.root(), kind: FileType::Directory };
        for name in entry.path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
            let LayerEntry::Object { ino, .. } = at else { panic!("{text}") };
            at = layer.lookup(ino, name).unwrap().unwrap_or_else(|| panic!("{text}: missing"));
        }
        let Some(object) = &entry.object else {
            assert_eq!(at, LayerEntry::Whiteout, "{text}");
            continue;
        };
        let LayerEntry::Object { ino, kind } = at else { panic!("{text}: {at:?}") };
        let (asked, got) = (&object.attr, layer.attr(ino).unwrap());
        assert_eq!(kind, asked.kind, "{text}");
        // A tar layer has the mode that Linux gives to all symbolic links.
        if kind != FileType::Symlink || got.mode != 0o777 {
            assert_eq!(got.st_mode(), asked.st_mode(), "{text}");
        }
        assert_eq!((got.uid, got.gid, got.size), (asked.uid, asked.gid, asked.size), "{text}");
        assert_eq!(got.rdev, asked.rdev, "{text}");
        let clamped = asked.mtime.secs.clamp(0, u32::MAX.into());
        assert_eq!(got.mtime, Time::from_secs(clamped), "{text}");
        if kind == FileType::Symlink {
            assert_eq!(layer.read_link(ino).unwrap(), sample.targets[&object.ino.0]);
        }
        if kind == FileType::Regular {
            assert_eq!(*seen.entry(object.ino.0).or_insert(ino), ino, "{text}: link");
            assert_eq!(got.nlink, asked.nlink, "{text}");
            let mut content = vec![7; got.size as usize + 1];
            let length = layer.read_at(ino, 0, &mut content).unwrap();
            content.truncate(length);
            let mut expected = vec![0; got.size as usize];
            match &sample.data[&object.ino.0] {
                Data::Bytes(bytes) => expected.copy_from_slice(bytes),
                Data::Sparse { at, bytes, .. } => {
                    expected[*at as usize..][..bytes.len()].copy_from_slice(bytes);
                }
                Data::Short(_) | Data::Panics => unreachable!(),
            }
            assert!(content == expected, "{text}: content");
        }
        count += 1;
    }
    assert_eq!(objects(layer), count, "number of entries");
}

fn objects(layer: &dyn Layer) -> usize {
    let mut ahead = vec![layer.root()];
    let mut count = 1;
    while let Some(dir) = ahead.pop() {
        for entry in layer.read_dir(dir).unwrap() {
            let LayerEntry::Object { ino, kind } = entry.entry else { continue };
            count += 1;
            if kind == FileType::Directory {
                ahead.push(ino);
            }
        }
    }
    count
}

fn check(sample: &Sample) {
    for format in [Format::Cpio, Format::CpioGz, Format::CpioZst] {
        let bytes = sealed(sample, &options(format));
        let layer = CpioLayer::open("sealed", Arc::new(bytes), Limits::default()).unwrap();
        compare(sample, &layer);
    }
    // In a tar, a file with the name of a whiteout is one.
    let is_whiteout =
        |path: &[u8]| path.split(|&byte| byte == b'/').any(|name| name.starts_with(b".wh."));
    if sample.delta.entries.iter().all(|entry| !is_whiteout(&entry.path)) {
        let bytes = sealed(sample, &options(Format::Tar));
        let layer = TarLayer::open("sealed", Arc::new(bytes), Limits::default()).unwrap();
        compare(sample, &layer);
    }
}

#[test]
fn every_object_type_is_read_back() {
    check(&everything());
}

#[test]
fn only_archives_with_whiteout_names_are_marked() {
    let field = |sample: Sample| {
        let bytes = sealed(&sample.in_order(), &options(Format::Cpio));
        assert_eq!(&bytes[110..112], b".\0");
        u32::from_str_radix(std::str::from_utf8(&bytes[102..110]).unwrap(), 16).unwrap()
    };
    let mut plain = Sample::new();
    plain.dir("etc", 2).file("etc/a.wh.", 3, b"").deleted("etc/gone");
    assert_eq!(field(plain.clone()), 0);
    let mut file = plain.clone();
    file.file("etc/.wh.x", 4, b"");
    assert_eq!(field(file), WHITEOUTS_ARE_DEVICES);
    let mut deleted = plain;
    deleted.deleted(".wh.x");
    assert_eq!(field(deleted), WHITEOUTS_ARE_DEVICES);
}

#[derive(Clone, Debug)]
enum What {
    Deleted,
    Directory,
    File(Vec<u8>),
    Sparse(u32, Vec<u8>),
    LinkTo(prop::sample::Index),
    Symlink(Vec<u8>),
    Device(bool, u32, u32),
    Fifo,
}

fn what() -> impl Strategy<Value = What> {
    let bytes = |sizes| prop::collection::vec(any::<u8>(), sizes);
    prop_oneof![
        2 => Just(What::Deleted),
        4 => Just(What::Directory),
        4 => bytes(0..2000usize).prop_map(What::File),
        1 => bytes(250_000..600_000usize).prop_map(What::File),
        1 => (0..2_000_000u32, bytes(1..9)).prop_map(|(at, bytes)| What::Sparse(at, bytes)),
        3 => any::<prop::sample::Index>().prop_map(What::LinkTo),
        2 => prop::collection::vec(1..=255u8, 1..4000usize).prop_map(What::Symlink),
        2 => (any::<bool>(), 0..4096u32, 0..1048576u32)
            .prop_map(|(block, major, minor)| What::Device(block, major, minor.max(1))),
        1 => Just(What::Fifo),
    ]
}

/// The index of a directory, and a name in it.
type Place = (prop::sample::Index, Vec<u8>);

fn name() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        3 => prop::sample::select(vec![
            "a", "b", "TRAILER!!!", "a.b", "a-", " ", "-", "...", ".wh.a", ".wh..wh..opq", ".wh.",
        ])
            .prop_map(|name| name.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 1..=255usize),
    ]
    .prop_filter("a name", |name| {
        !name.contains(&0) && !name.contains(&b'/') && name != b"." && name != b".."
    })
}

type Meta = (u16, u32, u32, i64);

fn meta() -> impl Strategy<Value = Meta> {
    (0..0o10000u16, any::<u32>(), any::<u32>(), -5..6_000_000_000i64)
}

fn build(plan: Vec<(Place, What, Meta)>) -> Sample {
    let mut sample = Sample::new();
    let mut dirs = vec![Vec::new()];
    let mut files: Vec<(u64, Attr)> = Vec::new();
    let mut taken = std::collections::BTreeSet::new();
    for (number, ((dir, name), what, (mode, uid, gid, secs))) in plan.into_iter().enumerate() {
        let parent: &Vec<u8> = dir.get(&dirs);
        let mut path = parent.clone();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(&name);
        if path.len() > 4095 || !taken.insert(path.clone()) {
            continue;
        }
        let ino = number as u64 + 10;
        let base = |kind| Attr { uid, gid, mtime: Time::from_secs(secs), ..attr(kind, mode) };
        match what {
            What::Deleted => drop(sample.deleted(&path)),
            What::Directory => {
                sample.add(&path, ino, base(FileType::Directory));
                dirs.push(path);
            }
            What::LinkTo(which) if !files.is_empty() => {
                let (ino, attr) = *which.get(&files);
                sample.add(&path, ino, attr);
            }
            What::File(_) | What::Sparse(..) | What::LinkTo(_) => {
                let (data, size) = match what {
                    What::File(bytes) => {
                        let size = bytes.len() as u64;
                        (Data::Bytes(bytes), size)
                    }
                    What::Sparse(at, bytes) => {
                        let (at, size) = (at.into(), u64::from(at) + 3_000 + bytes.len() as u64);
                        (Data::Sparse { size, at, bytes }, size)
                    }
                    _ => (Data::Bytes(Vec::new()), 0),
                };
                sample.data.insert(ino, data);
                let attr = Attr { size, ..base(FileType::Regular) };
                files.push((ino, attr));
                sample.add(&path, ino, attr);
            }
            What::Symlink(target) => {
                let size = target.len() as u64;
                sample.targets.insert(ino, target);
                sample.add(&path, ino, Attr { size, ..base(FileType::Symlink) });
            }
            What::Device(block, major, minor) => {
                let kind = if block { FileType::BlockDevice } else { FileType::CharDevice };
                sample.add(&path, ino, Attr { rdev: Device { major, minor }, ..base(kind) });
            }
            What::Fifo => drop(sample.add(&path, ino, base(FileType::Fifo))),
        }
    }
    sample.in_order()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..Default::default() })]

    #[test]
    fn random_deltas_are_read_back(
        plan in prop::collection::vec(((any::<prop::sample::Index>(), name()), what(), meta()), 0..60)
    ) {
        check(&build(plan));
    }
}
