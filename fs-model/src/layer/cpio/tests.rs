//! Tests with hand-made archives, valid and damaged.

use std::io::Write;

use super::*;
use crate::attr::Device;

const DIR: u32 = 0o040755;
const FILE: u32 = 0o100644;
const LINK: u32 = 0o120777;
const CHAR: u32 = 0o020600;

/// Builds an archive without checking anything.
#[derive(Default)]
struct ArchiveBuilder {
    bytes: Vec<u8>,
    start: usize,
    checksum: bool,
    /// The value of the checksum field in a 070701 archive.
    field: u32,
    ino: u32,
}

#[derive(Clone, Copy)]
struct Fields {
    ino: u32,
    nlink: u32,
    rdev: [u32; 2],
    uid: u32,
}

impl ArchiveBuilder {
    fn entry(&mut self, name: &str, mode: u32, data: &[u8]) -> &mut Self {
        self.ino += 1;
        self.full(name, mode, data, Fields { ino: self.ino, nlink: 1, rdev: [0, 0], uid: 0 })
    }

    fn linked(&mut self, name: &str, mode: u32, data: &[u8], ino: u32) -> &mut Self {
        self.full(name, mode, data, Fields { ino, nlink: 2, rdev: [0, 0], uid: 0 })
    }

    fn full(&mut self, name: &str, mode: u32, data: &[u8], fields: Fields) -> &mut Self {
        let sum = data.iter().map(|&byte| u32::from(byte)).sum();
        let (magic, sum) = if self.checksum { ("070702", sum) } else { ("070701", self.field) };
        let [major, minor] = fields.rdev;
        let (size, length) = (data.len() as u32, name.len() as u32 + 1);
        self.bytes.extend_from_slice(magic.as_bytes());
        for field in [
            fields.ino,
            mode,
            fields.uid,
            7,
            fields.nlink,
            1_000_000,
            size,
            0,
            0,
            major,
            minor,
            length,
            sum,
        ] {
            write!(self.bytes, "{field:08X}").unwrap();
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad(4);
        self.bytes.extend_from_slice(data);
        self.pad(4);
        self
    }

    fn pad(&mut self, unit: usize) {
        let length = (self.bytes.len() - self.start).next_multiple_of(unit);
        self.bytes.resize(self.start + length, 0);
    }

    fn end(&mut self) -> &mut Self {
        self.entry("TRAILER!!!", 0, b"");
        self.pad(512);
        self.start = self.bytes.len();
        self
    }
}

fn made(make: impl FnOnce(&mut ArchiveBuilder)) -> Vec<u8> {
    let mut archive = ArchiveBuilder::default();
    make(&mut archive);
    archive.end();
    archive.bytes
}

fn open(bytes: Vec<u8>) -> Result<CpioLayer, LayerError> {
    CpioLayer::open("test.cpio", Arc::new(bytes), Limits::default())
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn find(layer: &CpioLayer, path: &str) -> Option<LayerEntry> {
    let mut at = LayerEntry::Object { ino: layer.root(), kind: FileType::Directory };
    for name in path.split('/').filter(|name| !name.is_empty()) {
        let LayerEntry::Object { ino, .. } = at else { return None };
        at = layer.lookup(ino, name.as_bytes()).unwrap()?;
    }
    Some(at)
}

fn ino(layer: &CpioLayer, path: &str) -> LayerIno {
    match find(layer, path) {
        Some(LayerEntry::Object { ino, .. }) => ino,
        other => panic!("{path}: {other:?}"),
    }
}

fn content(layer: &CpioLayer, path: &str) -> Vec<u8> {
    let ino = ino(layer, path);
    let mut buf = vec![0; layer.attr(ino).unwrap().size as usize + 10];
    let length = layer.read_at(ino, 0, &mut buf).unwrap();
    buf.truncate(length);
    buf
}

/// Calls all methods of a layer for all objects. Returns the number of objects.
fn walk(layer: &dyn Layer) -> usize {
    let mut ahead = vec![layer.root()];
    let mut count = 0;
    while let Some(dir) = ahead.pop() {
        let entries = layer.read_dir(dir).unwrap();
        assert!(entries.is_sorted_by(|a, b| a.name < b.name));
        for LayerDirEntry { name, entry } in entries {
            assert!(!name.is_empty() && name.len() <= 255 && !name.contains(&b'/'));
            assert_eq!(layer.lookup(dir, &name).unwrap(), Some(entry));
            let LayerEntry::Object { ino, kind } = entry else { continue };
            count += 1;
            let attr = layer.attr(ino).unwrap();
            assert_eq!(attr.kind, kind);
            match kind {
                FileType::Directory => ahead.push(ino),
                FileType::Symlink => {
                    assert_eq!(layer.read_link(ino).unwrap().len() as u64, attr.size);
                }
                FileType::Regular => {
                    let mut buf = vec![1; attr.size.min(1 << 20) as usize + 1];
                    let length = layer.read_at(ino, 0, &mut buf).unwrap();
                    assert_eq!(length as u64, attr.size.min(buf.len() as u64));
                    layer.next_data(ino, attr.size / 2).unwrap();
                }
                _ => {}
            }
        }
    }
    count
}

fn sample(archive: &mut ArchiveBuilder) {
    archive.entry(".", 0o040700, b"").entry("a", DIR, b"").entry("a/file", FILE, b"content");
    archive.entry("a/link", LINK, b"file").linked("a/one", FILE, b"two names", 99);
    archive.linked("two", FILE, b"", 99).entry("a/gone", CHAR, b"").entry(".wh.lost", FILE, b"");
    let device = Fields { ino: 50, nlink: 1, rdev: [5, 1], uid: 3 };
    archive.full("console", CHAR, b"", device).entry("pipe", 0o010600, b"");
}

fn check_sample(layer: &CpioLayer) {
    assert_eq!(layer.attr(layer.root()).unwrap().mode, 0o700);
    assert_eq!(content(layer, "a/file"), b"content");
    assert_eq!(layer.read_link(ino(layer, "a/link")).unwrap(), b"file");
    assert_eq!(ino(layer, "a/one"), ino(layer, "two"));
    assert_eq!(layer.attr(ino(layer, "two")).unwrap().nlink, 2);
    assert_eq!(content(layer, "two"), b"two names");
    assert_eq!(find(layer, "a/gone"), Some(LayerEntry::Whiteout));
    assert_eq!(find(layer, "lost"), Some(LayerEntry::Whiteout));
    let console = layer.attr(ino(layer, "console")).unwrap();
    assert_eq!((console.rdev, console.uid), (Device { major: 5, minor: 1 }, 3));
    assert_eq!(console.mtime.secs, 1_000_000);
    assert_eq!(find(layer, "nothing"), None);
    assert_eq!(walk(layer), 7);
}

#[test]
fn plain_and_compressed_archives_are_equal() {
    let bytes = made(sample);
    check_sample(&open(gzip(&bytes)).unwrap());
    check_sample(&open(zstd::encode_all(&bytes[..], 3).unwrap()).unwrap());
    check_sample(&open(bytes).unwrap());
}

#[test]
fn compressed_members_form_one_archive() {
    let bytes = made(sample);
    let (one, two) = bytes.split_at(301);
    check_sample(&open([gzip(one), gzip(two)].concat()).unwrap());
    let frames = [one, two].map(|part| zstd::encode_all(part, 1).unwrap());
    check_sample(&open(frames.concat()).unwrap());
}

#[test]
fn concatenated_archives_are_merged_as_by_the_kernel() {
    let early = made(|archive| {
        archive.entry("kernel", DIR, b"").entry("a", FILE, b"a file at first");
        archive.linked("kernel/x", FILE, b"early", 99);
    });
    let main = made(sample);
    for image in [
        [&early[..], &[0; 1024], &main].concat(),
        [&early[..], &gzip(&main)].concat(),
        [gzip(&early), vec![0; 4], gzip(&main)].concat(),
        gzip(&[&early[..], &[0; 512], &main].concat()),
        [early.clone(), zstd::encode_all(&main[..], 3).unwrap(), vec![0; 3]].concat(),
    ] {
        let layer = open(image).unwrap();
        assert_eq!(content(&layer, "a/file"), b"content", "the later one wins");
        assert_eq!(content(&layer, "kernel/x"), b"early", "inode numbers are each archive's own");
        assert_eq!(content(&layer, "two"), b"two names");
    }
}

#[test]
fn content_may_be_with_any_name_of_a_hard_link() {
    for [one, two] in [["data", ""], ["", "data"], ["data", "data"], ["old!", "data"]] {
        let layer = open(made(|archive| {
            archive.linked("one", FILE, one.as_bytes(), 5).linked("two", FILE, two.as_bytes(), 5);
        }));
        let layer = layer.unwrap();
        assert_eq!(content(&layer, "one"), b"data");
        assert_eq!(ino(&layer, "one"), ino(&layer, "two"));
    }
}

#[test]
fn equal_inode_numbers_with_one_link_are_separate_files() {
    let fields = Fields { ino: 5, nlink: 1, rdev: [0, 0], uid: 0 };
    let layer = open(made(|archive| {
        archive.full("one", FILE, b"1", fields).full("two", FILE, b"2", fields);
    }));
    let layer = layer.unwrap();
    assert_ne!(ino(&layer, "one"), ino(&layer, "two"));
    assert_eq!([content(&layer, "one"), content(&layer, "two")], [b"1", b"2"]);
}

#[test]
fn later_entries_replace_earlier_ones() {
    let layer = open(made(|archive| {
        archive.entry("f", FILE, b"long content").entry("f", FILE, b"short");
        archive.entry("f2d", FILE, b"x").entry("f2d", DIR, b"").entry("f2d/in", FILE, b"in");
        archive.entry("d2f", DIR, b"").entry("d2f", FILE, b"a file");
        archive.entry("l2f", LINK, b"f").entry("l2f", FILE, b"not through the link");
        archive.linked("h1", FILE, b"both", 77).linked("h2", FILE, b"", 77);
        archive.entry("h1", FILE, b"both again");
    }));
    let layer = layer.unwrap();
    assert_eq!(content(&layer, "f"), b"short");
    assert_eq!(content(&layer, "f2d/in"), b"in");
    assert_eq!(content(&layer, "d2f"), b"a file");
    assert_eq!(content(&layer, "l2f"), b"not through the link");
    assert_eq!(content(&layer, "h2"), b"both again", "the kernel writes to the existing file");
}

#[test]
fn unnormalised_names_are_resolved() {
    let layer = open(made(|archive| {
        archive.entry("./a/", DIR, b"").entry("/a//b", FILE, b"1").entry("a/./c", FILE, b"2");
        archive.entry("s", LINK, b"/a/../a").entry("s/d", FILE, b"by a link");
        archive.entry("./TRAILER!!!", FILE, b"a file");
    }));
    let layer = layer.unwrap();
    assert_eq!(content(&layer, "a/b"), b"1");
    assert_eq!(content(&layer, "a/c"), b"2");
    assert_eq!(content(&layer, "a/d"), b"by a link");
    assert_eq!(content(&layer, "TRAILER!!!"), b"a file");
    assert_eq!(layer.attr(layer.root()).unwrap().mode, 0o755, "a root without an entry");
}

#[test]
fn whiteouts_by_name_hide_names_and_make_directories_opaque() {
    let layer = open(made(|archive| {
        archive.entry("d", DIR, b"").entry("d/.wh..wh..opq", FILE, b"").entry("d/f", FILE, b"");
        archive.entry("e", DIR, b"").entry(".wh.e", FILE, b"").entry("f", FILE, b"");
        archive.entry(".wh.f", FILE, b"").entry(".wh..wh.plnk", DIR, b"");
        archive.entry(".wh..wh.plnk/x", FILE, b"").entry(".wh..wh.aufs", FILE, b"");
        archive.entry("n", DIR, b"");
    }));
    let layer = layer.unwrap();
    assert_eq!(layer.is_opaque(ino(&layer, "d")).ok(), Some(true));
    assert_eq!(layer.is_opaque(ino(&layer, "e")).ok(), Some(true), "removed and recreated");
    assert_eq!(layer.is_opaque(ino(&layer, "n")).ok(), Some(false));
    assert_eq!(content(&layer, "f"), b"");
    let names: Vec<_> = layer.read_dir(layer.root()).unwrap().into_iter().map(|e| e.name).collect();
    assert_eq!(names, [b"d", b"e", b"f", b"n"].map(|name| Box::from(&name[..])));
}

/// Adds the file `name` after a root entry with the given checksum field.
fn odd_name(archive: &mut ArchiveBuilder, name: &str, content: &[u8], field: u32) {
    archive.field = field;
    archive.entry(".", DIR, b"");
    archive.field = 0;
    archive.entry(name, FILE, content);
}

#[test]
fn marked_archives_contain_files_with_names_of_whiteouts() {
    let names = |layer: &CpioLayer| -> Vec<String> {
        let entries = layer.read_dir(layer.root()).unwrap().into_iter();
        let shown = |e: LayerDirEntry| {
            let what = if e.entry == LayerEntry::Whiteout { "-" } else { "" };
            format!("{what}{}", String::from_utf8_lossy(&e.name))
        };
        entries.map(shown).collect()
    };
    let layer = open(made(|archive| {
        odd_name(archive, ".wh.x", b"content", WHITEOUTS_ARE_DEVICES);
        archive.entry(".wh..wh..opq", FILE, b"").entry(".wh.", FILE, b"");
        archive.entry(".wh.gone", CHAR, b"").entry("gone", CHAR, b"");
    }));
    let layer = layer.unwrap();
    assert_eq!(content(&layer, ".wh.x"), b"content");
    assert_eq!(names(&layer), [".wh.", ".wh..wh..opq", "-.wh.gone", ".wh.x", "-gone"]);
    assert_eq!(layer.is_opaque(layer.root()).ok(), Some(false));

    // The marker is valid only in the checksum field of the root, as the first entry of a 070701
    // archive.
    let shown = |make: &dyn Fn(&mut ArchiveBuilder)| names(&open(made(make)).unwrap());
    assert_eq!(shown(&|archive| odd_name(archive, ".wh.x", b"", 0)), ["-x"]);
    assert_eq!(
        shown(&|archive| odd_name(archive, ".wh.x", b"", WHITEOUTS_ARE_DEVICES + 1)),
        ["-x"]
    );
    let late = |archive: &mut ArchiveBuilder| {
        archive.entry("a", DIR, b"");
        odd_name(archive, ".wh.x", b"", WHITEOUTS_ARE_DEVICES);
    };
    assert_eq!(shown(&late), ["a", "-x"]);
    let elsewhere = |archive: &mut ArchiveBuilder| {
        archive.field = WHITEOUTS_ARE_DEVICES;
        archive.entry("a", DIR, b"").entry(".wh.x", FILE, b"");
    };
    assert_eq!(shown(&elsewhere), ["a", "-x"]);
}

#[test]
fn marker_applies_to_each_archive_separately() {
    let marked = WHITEOUTS_ARE_DEVICES;
    let both = |first: (&str, u32), second: (&str, u32)| {
        let layer = open(made(|archive| {
            odd_name(archive, first.0, b"1", first.1);
            odd_name(archive.end(), second.0, b"2", second.1);
        }));
        let layer = layer.unwrap();
        [".wh.x", "x", ".wh.y", "y"].map(|name| find(&layer, name).is_some())
    };
    assert_eq!(both((".wh.x", marked), (".wh.y", 0)), [true, false, false, true]);
    assert_eq!(both((".wh.x", 0), (".wh.y", marked)), [false, true, true, false]);
    // For a name in both archives, the later one decides.
    assert_eq!(both((".wh.x", marked), (".wh.x", 0)), [false, true, false, false]);
    assert_eq!(both((".wh.x", 0), (".wh.x", marked)), [true, false, false, false]);
}

#[test]
fn root_is_described_only_with_an_entry_for_it() {
    assert!(open(made(sample)).unwrap().describes_root());
    let none = made(|archive| {
        archive.entry("a", DIR, b"");
    });
    assert!(!open(none).unwrap().describes_root());
}

#[test]
fn zeros_in_a_compressed_archive_use_no_memory() {
    let mut data = vec![0; 40 << 20];
    data[20 << 20] = 1;
    let bytes = gzip(&made(|archive| {
        archive.entry("sparse", FILE, &data);
    }));
    let limits = Limits { memory: 1 << 20 };
    let layer = CpioLayer::open("sparse", Arc::new(bytes), limits).unwrap();
    let ino = ino(&layer, "sparse");
    let island = (20 << 20)..(20 << 20) + PIECE_SIZE as u64;
    assert_eq!(layer.next_data(ino, 0).unwrap(), Some(island.clone()));
    assert_eq!(layer.next_data(ino, island.end).unwrap(), None);
    assert_eq!(layer.attr(ino).unwrap().allocated, PIECE_SIZE as u64);
    assert!(content(&layer, "sparse") == data);
}

fn error(bytes: Vec<u8>) -> String {
    open(bytes).unwrap_err().to_string()
}

#[test]
fn invalid_archives_are_errors_that_name_the_image() {
    let one = |name: &str, mode, data: &[u8]| {
        error(made(|archive| {
            archive.entry(name, mode, data);
        }))
    };
    assert_eq!(error(vec![]), "test.cpio: not a cpio archive");
    assert_eq!(error(b"hsqs and more".to_vec()), "test.cpio: not a cpio archive");
    assert_eq!(error(gzip(&[b'x'; 1000])), "test.cpio: not a cpio archive");
    assert!(error(b"\xfd7zXZ\0".to_vec()).contains("not supported: xz"));
    assert!(one("../up", FILE, b"").contains(".."));
    assert!(one("a/b", FILE, b"").contains("its parent directory \"a\" is not in the archive"));
    assert!(one(".", FILE, b"").contains("the root is not a directory"));
    assert!(one("x", 0o170000, b"").contains("unknown type"));
    assert!(one("x", LINK, b"").contains("target of 0 bytes"));
    assert!(one("x", LINK, b"a\0b").contains("NUL"));
    assert!(one("x\0y", FILE, b"").contains("differs from its header"));
    assert!(one(&"n".repeat(256), FILE, b"").contains("256 bytes"));
    assert!(one(&"n/".repeat(2100), FILE, b"").contains("4201 bytes"));
    assert!(one(".wh.", FILE, b"").contains("without a name"));
    let full = error(made(|archive| {
        archive.entry("d", DIR, b"").entry("d/f", FILE, b"").entry("d", FILE, b"");
    }));
    assert!(full.contains("not empty"), "{full}");
    let circle = error(made(|archive| {
        archive.entry("a", LINK, b"b").entry("b", LINK, b"a").entry("a/x", FILE, b"");
    }));
    assert!(circle.contains("too many symbolic links"), "{circle}");
    let device = Fields { ino: 1, nlink: 1, rdev: [1 << 12, 0], uid: 0 };
    let device = error(made(|archive| {
        archive.full("x", CHAR, b"", device);
    }));
    assert!(device.contains("invalid device number 4096:0"), "{device}");
    let junk = error([made(sample), b"junk".to_vec()].concat());
    assert!(junk.contains("trailing data after the archive"), "{junk}");
}

#[test]
fn checksums_are_verified() {
    let mut archive = ArchiveBuilder { checksum: true, ..ArchiveBuilder::default() };
    sample(&mut archive);
    archive.end();
    let mut bytes = archive.bytes;
    check_sample(&open(bytes.clone()).unwrap());
    check_sample(&open(gzip(&bytes)).unwrap());
    let at = bytes.windows(7).position(|window| window == b"content").unwrap();
    bytes[at] ^= 1;
    assert!(error(gzip(&bytes)).contains("\"a/file\": checksum mismatch"));
    assert!(error(bytes).contains("checksum mismatch"));
}

#[test]
fn archives_truncated_anywhere_are_errors() {
    let mut bytes = made(sample);
    let trailer = bytes.windows(10).rposition(|window| window == TRAILER).unwrap();
    bytes.truncate(trailer + 11);
    for length in 0..bytes.len() {
        let message = error(bytes[..length].to_vec());
        assert!(message.contains("truncated") || length < 6, "{length}: {message}");
    }
    for compressed in [gzip(&bytes), zstd::encode_all(&bytes[..], 3).unwrap()] {
        for length in 0..compressed.len() {
            let message = error(compressed[..length].to_vec());
            assert!(message.contains("truncated") || length < 4, "{length}: {message}");
        }
        open(compressed).unwrap();
    }
}

#[test]
fn bit_flips_cause_errors_or_another_valid_archive() {
    let mut bytes = made(sample);
    bytes.truncate(bytes.windows(10).rposition(|window| window == TRAILER).unwrap() + 11);
    for image in [gzip(&bytes), zstd::encode_all(&bytes[..], 3).unwrap(), bytes] {
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        for _ in 0..6000 {
            let mut damaged = image.clone();
            for _ in 0..1 + state % 3 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                let bit = state as usize % (damaged.len() * 8);
                damaged[bit / 8] ^= 1 << (bit % 8);
            }
            let limits = Limits { memory: 1 << 20 };
            match CpioLayer::open("damaged", Arc::new(damaged), limits) {
                Ok(layer) => drop(walk(&layer)),
                Err(error) => assert!(error.to_string().starts_with("damaged: ")),
            }
        }
    }
}

#[test]
fn decompression_bombs_are_rejected() {
    // Zeros use no memory. Other bytes are counted.
    let content = gzip(&made(|archive| {
        archive.entry("bomb", FILE, &vec![b'x'; 4 << 20]);
    }));
    let entries = gzip(&made(|archive| {
        for _ in 0..5000 {
            archive.entry("same", DIR, b"");
        }
    }));
    for bytes in [content, entries] {
        assert!(bytes.len() < 64 << 10);
        let limits = Limits { memory: 1 << 20 };
        let error = CpioLayer::open("bomb", Arc::new(bytes), limits).unwrap_err().to_string();
        assert!(error.contains("more than 1048576 bytes"), "{error}");
    }
}
