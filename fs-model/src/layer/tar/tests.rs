//! Tests with hand-made archives, valid and damaged. `tests/tar` of the program compares archives
//! of many writers with GNU tar.

use std::collections::BTreeMap;
use std::io::Write;

use super::*;
use crate::acl::Acl;
use crate::attr::FileType;

/// Builds an archive of ustar headers without checking anything.
#[derive(Default)]
struct ArchiveBuilder(Vec<u8>);

impl ArchiveBuilder {
    fn member(mut self, kind: u8, name: &str, target: &str, data: &[u8]) -> Self {
        let mut block = [0; BLOCK_SIZE];
        block[..name.len()].copy_from_slice(name.as_bytes());
        block[100..108].copy_from_slice(b"0000644\0");
        block[108..116].copy_from_slice(b"0000001\0");
        block[116..124].copy_from_slice(b"0000002\0");
        block[124..136].copy_from_slice(format!("{:011o}\0", data.len()).as_bytes());
        block[136..148].copy_from_slice(b"00000000012\0");
        block[156] = kind;
        block[157..157 + target.len()].copy_from_slice(target.as_bytes());
        block[257..265].copy_from_slice(b"ustar\x0000");
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend_from_slice(&block);
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(BLOCK_SIZE), 0);
        self
    }

    fn dir(self, name: &str) -> Self {
        self.member(b'5', name, "", b"")
    }

    fn file(self, name: &str, data: &[u8]) -> Self {
        self.member(b'0', name, "", data)
    }

    /// Adds pax records for the next member.
    fn pax(self, key: &str, value: &str) -> Self {
        let rest = format!(" {key}={value}\n");
        let length = (1..).find(|length: &usize| length.to_string().len() + rest.len() == *length);
        self.member(b'x', "pax", "", format!("{}{rest}", length.unwrap()).as_bytes())
    }

    fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 2 * BLOCK_SIZE]);
        self.0
    }
}

fn new() -> ArchiveBuilder {
    ArchiveBuilder::default()
}

fn open(bytes: Vec<u8>) -> Result<TarLayer, LayerError> {
    TarLayer::open("test.tar", Arc::new(bytes), Limits::default())
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 0);
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn find(layer: &TarLayer, path: &str) -> Option<LayerIno> {
    let mut at = layer.root();
    for name in path.split('/') {
        match layer.lookup(at, name.as_bytes()).unwrap() {
            Some(LayerEntry::Object { ino, .. }) => at = ino,
            _ => return None,
        }
    }
    Some(at)
}

fn content(layer: &TarLayer, path: &str) -> Vec<u8> {
    let ino = find(layer, path).unwrap_or_else(|| panic!("{path}"));
    let mut content = vec![7; layer.attr(ino).unwrap().size as usize + 1];
    let length = layer.read_at(ino, 0, &mut content).unwrap();
    content.truncate(length);
    content
}

fn names(layer: &TarLayer, path: &str) -> Vec<String> {
    let dir = if path.is_empty() { layer.root() } else { find(layer, path).unwrap() };
    let shown = |entry: LayerDirEntry| {
        let what = if entry.entry == LayerEntry::Whiteout { "-" } else { "" };
        format!("{what}{}", String::from_utf8_lossy(&entry.name))
    };
    layer.read_dir(dir).unwrap().into_iter().map(shown).collect()
}

/// An archive with objects, links and holes.
fn sample() -> Vec<u8> {
    let map = b"1\n200000\n4\n";
    let hole = [&map[..], &[0; BLOCK_SIZE - 11], b"data"].concat();
    new()
        .dir("./")
        .dir("./a")
        .file("./a/file", &[b'x'; 20_000])
        .member(b'1', "./a/link", "./a/file", b"")
        .member(b'2', "./s", "a", b"")
        .file("./s/below", b"by a link")
        .member(b'x', "pax", "", b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n")
        .file("./hole", &hole)
        .end()
}

#[test]
fn compressed_archives_have_the_same_tree() {
    let plain = new()
        .dir("./")
        .file("./a/file", &[b'x'; 200_000])
        .member(b'1', "./a/link", "./a/file", b"")
        .member(b'2', "./s", "a", b"")
        .file("./s/below", b"by a link")
        .end();
    let compressed = [gzip(&plain), zstd::encode_all(&plain[..], 3).unwrap(), xz(&plain)];
    for bytes in [plain].into_iter().chain(compressed) {
        assert!(is_tar(&bytes));
        let layer = open(bytes).unwrap();
        assert!(layer.describes_root());
        assert_eq!(names(&layer, ""), ["a", "s"]);
        assert_eq!(names(&layer, "a"), ["below", "file", "link"]);
        assert_eq!(find(&layer, "a/file"), find(&layer, "a/link"));
        assert_eq!(content(&layer, "a/link"), [b'x'; 200_000]);
        assert_eq!(content(&layer, "a/below"), b"by a link");
        let attr = layer.attr(find(&layer, "a/file").unwrap()).unwrap();
        assert_eq!((attr.nlink, attr.mode, attr.uid, attr.gid), (2, 0o644, 1, 2));
        // A directory without a member.
        let attr = layer.attr(find(&layer, "a").unwrap()).unwrap();
        assert_eq!((attr.mode, attr.uid, attr.mtime.secs), (0o755, 0, 10));
        assert_eq!(layer.attr(find(&layer, "s").unwrap()).unwrap().mode, 0o777);
    }
    assert!(!open(new().dir("a").end()).unwrap().describes_root());
    assert!(!is_tar(&gzip(b"070701")) && !is_tar(b"") && !is_tar(&[0; 1024]));
}

#[test]
fn whiteouts_by_name_hide_names_and_make_directories_opaque() {
    let long = "n".repeat(96);
    let archive = new()
        .dir("d")
        .file("d/.wh..wh..opq", b"")
        .file("d/f", b"")
        .file(".wh.gone", b"")
        .file(&format!(".wh.{long}"), b"")
        .dir("e")
        .file(".wh.e", b"")
        .file(".wh..wh.plnk", b"")
        .member(b'3', "device", "", b"")
        .pax("SCHILY.xattr.trusted.overlay.opaque", "y")
        .dir("o");
    let layer = open(archive.end()).unwrap();
    let hidden = format!("-{long}");
    assert_eq!(names(&layer, ""), ["d", "-device", "e", "-gone", &hidden, "o"]);
    assert_eq!(names(&layer, "d"), ["f"]);
    for (dir, is_opaque) in [("d", true), ("e", true), ("o", true)] {
        assert_eq!(layer.is_opaque(find(&layer, dir).unwrap()).ok(), Some(is_opaque), "{dir}");
    }
    assert!(layer.xattrs(find(&layer, "o").unwrap()).unwrap().is_empty());
}

#[test]
fn attributes_and_lists_are_kept() {
    let list = "user::rwx,user:7:r--,group::r--,mask::r--,other::---";
    let records = [
        ("SCHILY.xattr.user.b", "2"),
        ("SCHILY.xattr.user.a", "1"),
        ("SCHILY.xattr.system.other", "no namespace"),
        ("SCHILY.acl.access", list),
    ];
    let text: String = records
        .iter()
        .map(|(key, value)| {
            let rest = format!(" {key}={value}\n");
            let fits = |length: &usize| length.to_string().len() + rest.len() == *length;
            format!("{}{rest}", (1..).find(fits).unwrap())
        })
        .collect();
    let archive = new().member(b'x', "pax", "", text.as_bytes()).file("f", b"");
    let layer = open(archive.end()).unwrap();
    let ino = find(&layer, "f").unwrap();
    let found = layer.xattrs(ino).unwrap();
    let names: Vec<&[u8]> = found.iter().map(|(name, _)| &**name).collect();
    assert_eq!(names, [b"system.posix_acl_access" as &[u8], b"user.a", b"user.b"]);
    assert_eq!(layer.attr(ino).unwrap().mode, 0o740);
    assert!(layer.may_have_acls());
}

#[test]
fn holes_use_no_memory() {
    let mut data = vec![0; 40 << 20];
    data[20 << 20] = 1;
    let bytes = gzip(&new().file("sparse", &data).end());
    let layer = TarLayer::open("x", Arc::new(bytes), Limits { memory: 1 << 20 }).unwrap();
    let ino = find(&layer, "sparse").unwrap();
    let island = layer.next_data(ino, 0).unwrap().unwrap();
    assert!(island.contains(&(20 << 20)) && island.end - island.start <= PIECE_SIZE as u64);
    assert_eq!(layer.next_data(ino, island.end).unwrap(), None);
    assert_eq!(layer.attr(ino).unwrap().allocated, island.end - island.start);
    assert!(content(&layer, "sparse") == data);
    // A hole of the archive.
    let map = b"1\n1000000\n4\n";
    let data = [&map[..], &[0; BLOCK_SIZE - 12], b"data"].concat();
    let records = b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n";
    let archive = new().member(b'x', "pax", "", records).file("hole", &data).end();
    for bytes in [archive.clone(), gzip(&archive)] {
        let layer = open(bytes).unwrap();
        let ino = find(&layer, "hole").unwrap();
        assert_eq!(layer.next_data(ino, 0).unwrap(), Some(1_000_000..1_000_004));
        let mut buffer = [7; 8];
        assert_eq!(layer.read_at(ino, 999_998, &mut buffer).unwrap(), 6);
        assert_eq!(&buffer, b"\0\0data\x07\x07");
    }
}

fn error(bytes: Vec<u8>) -> String {
    open(bytes).unwrap_err().to_string()
}

#[test]
fn invalid_archives_are_errors_that_name_the_image_and_the_member() {
    let refused = |archive: ArchiveBuilder, part: &str| {
        let error = error(archive.end());
        assert!(error.starts_with("test.tar: ") && error.contains(part), "{error}");
    };
    assert_eq!(error(b"junk".repeat(200)), "test.tar: not a tar archive");
    refused(new().file("../up", b""), "../up: its name contains `..` (at byte 0 of the archive)");
    refused(new().file(".", b""), "root directory");
    refused(new().file("a", b"").file("a/b", b""), "a is not a directory");
    refused(new().file("a/b", b"").file("a", b""), "not empty");
    refused(new().member(b'1', "l", "none", b""), "a hard link to none, which is not in");
    refused(new().dir("d").member(b'1', "l", "d", b""), "a hard link to d, a directory");
    refused(new().member(b'2', "s", "/etc", b"").file("s/x", b""), "a symbolic link to /etc");
    refused(new().member(b'2', "s", "s", b"").file("s/x", b""), "more than 40 symbolic links");
    refused(new().member(b'2', "s", "", b""), "an invalid target");
    refused(new().file(".wh.", b""), ".wh. without a name");
    refused(new().pax("path", &"n".repeat(256)).file("x", b""), "256 bytes");
    refused(new().pax("path", &"n/".repeat(2100)).file("x", b""), "longer than 4,095 bytes");
    let names = "user::rw-,user:eve:r--,group::r--,mask::r--,other::---";
    refused(new().pax("SCHILY.acl.access", names).file("x", b""), "x: its ACL names eve");
    refused(new().pax("SCHILY.acl.access", "x").file("x", b""), "its ACL is not valid");
    refused(
        new().pax("SCHILY.xattr.trusted.overlay.redirect", "/x").dir("d"),
        "trusted.overlay.redirect",
    );
    for compressed in [gzip(&sample()), zstd::encode_all(&sample()[..], 3).unwrap()] {
        open([&compressed[..], &[0; 9]].concat()).unwrap();
        assert!(error([&compressed[..], b"x"].concat()).contains("other data follows it"));
    }
    let unmarked = new().file("x", b"").0;
    assert!(error(unmarked).contains("two blocks of zeros"));
}

#[test]
fn archives_truncated_anywhere_are_errors() {
    let bytes = sample();
    let end = bytes.len() - BLOCK_SIZE;
    for length in (0..end).step_by(97) {
        assert!(open(bytes[..length].to_vec()).is_err(), "{length}");
    }
    for compressed in [gzip(&bytes), zstd::encode_all(&bytes[..], 3).unwrap(), xz(&bytes)] {
        for length in 0..compressed.len() {
            assert!(open(compressed[..length].to_vec()).is_err(), "{length}");
        }
        open(compressed).unwrap();
    }
}

#[test]
fn bit_flips_cause_errors_or_another_valid_archive() {
    let bytes = sample();
    for image in [gzip(&bytes), zstd::encode_all(&bytes[..], 3).unwrap(), xz(&bytes), bytes] {
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        for _ in 0..2000 {
            let mut damaged = image.clone();
            for _ in 0..1 + state % 3 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                let bit = state as usize % (damaged.len() * 8);
                damaged[bit / 8] ^= 1 << (bit % 8);
            }
            match TarLayer::open("damaged", Arc::new(damaged), Limits { memory: 1 << 20 }) {
                Ok(layer) => drop(layer.read_dir(layer.root()).unwrap()),
                Err(error) => assert!(error.to_string().starts_with("damaged: ")),
            }
        }
    }
}

#[test]
fn decompression_bombs_are_rejected() {
    let content = gzip(&new().file("bomb", &vec![b'x'; 4 << 20]).end());
    let mut members = new();
    for _ in 0..5000 {
        members = members.dir("same");
    }
    for bytes in [content, gzip(&members.end())] {
        assert!(bytes.len() < 64 << 10);
        let error = TarLayer::open("bomb", Arc::new(bytes), Limits { memory: 1 << 20 });
        let error = error.unwrap_err().to_string();
        assert!(error.contains("more than 1048576 bytes"), "{error}");
    }
    let mut endless = Limited { inner: io::repeat(0), left: 1000 };
    let error = endless.read_to_end(&mut Vec::new()).unwrap_err().to_string();
    assert!(error.contains("more than 32 GiB"), "{error}");
}

#[test]
fn last_of_several_members_with_a_name_counts() {
    let layer = open(
        new()
            .file("x", b"first")
            .member(b'1', "kept", "x", b"")
            .file("x", b"second")
            .dir("d")
            .member(b'2', "d", "x", b"")
            .end(),
    );
    let layer = layer.unwrap();
    assert_eq!(
        (content(&layer, "x"), content(&layer, "kept")),
        (b"second".into(), b"first".into())
    );
    assert_eq!(layer.attr(find(&layer, "d").unwrap()).unwrap().kind, FileType::Symlink);
}

#[test]
fn names_in_access_lists_have_the_ids_of_the_accounts() {
    let list = "user::rw-,user:eve:rw-,group::r--,mask::rw-,other::---";
    let archive = new()
        .pax("SCHILY.acl.access", list)
        .file("x", b"")
        .pax("SCHILY.acl.access", list)
        .file("replaced", b"")
        .file("replaced", b"")
        .end();
    let users = BTreeMap::from([("eve".to_owned(), 7)]);
    let accounts = |layer: Arc<TarLayer>| {
        assert!(find(&layer, "x").is_some());
        Ok(AccountIds { users, ..AccountIds::default() })
    };
    let limits = Limits::default();
    let layer =
        TarLayer::open_with_accounts("test.tar", Arc::new(archive), limits, accounts).unwrap();
    let found = |name: &str| {
        let ino = find(&layer, name).unwrap();
        let xattrs = layer.xattrs(ino).unwrap();
        let list = xattrs.first().map(|(_, value)| Acl::parse(value).unwrap().to_text());
        (layer.attr(ino).unwrap().mode, list)
    };
    assert_eq!(found("x"), (0o660, Some(list.replace("eve", "7"))));
    assert_eq!(found("replaced").1, None);
}
