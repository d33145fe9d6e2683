//! Common parts of the squashfs tests: seeded random numbers, fixture trees, images made from them
//! by `mksquashfs`, and a walk that calls all methods of a layer.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test binary uses its part")]

use std::collections::HashSet;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use fs_model::error::LayerError;
use fs_model::layer::squashfs::{CacheOptions, SquashfsLayer};
use fs_model::layer::{Layer, LayerEntry, LayerIno};
use fs_model::{Attr, FileType};

pub const COMPRESSORS: [&str; 5] = ["gzip", "xz", "zstd", "lz4", "lzo"];

/// A small random number generator (splitmix64), so that a seed always has the same results.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).take(len).collect()
    }

    /// Returns compressible text without repetitions.
    pub fn text(&mut self, len: usize) -> Vec<u8> {
        let mut text = Vec::with_capacity(len + 32);
        while text.len() < len {
            let _ = writeln!(text, "line {} of a log: {}", text.len(), self.below(1000));
        }
        text.truncate(len);
        text
    }
}

/// Runs `mksquashfs`, and returns the path of the image.
pub fn mksquashfs(tree: &Path, image: PathBuf, options: &[&str]) -> PathBuf {
    let output = Command::new("mksquashfs")
        .args([tree, &image])
        .args(["-noappend", "-no-progress", "-processors", "2"])
        .args(options)
        .output()
        .expect("mksquashfs (package squashfs-tools) must be installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    image
}

pub fn open(image: &Path) -> SquashfsLayer {
    open_bytes(fs::read(image).unwrap()).unwrap()
}

pub const NAME: &str = "fixture.squashfs";

pub fn open_bytes(image: Vec<u8>) -> Result<SquashfsLayer, LayerError> {
    SquashfsLayer::open(NAME, Arc::new(image), CacheOptions::default())
}

pub fn find(layer: &SquashfsLayer, path: &str) -> LayerIno {
    let mut at = layer.root();
    for name in path.split('/') {
        match layer.lookup(at, name.as_bytes()).unwrap() {
            Some(LayerEntry::Object { ino, .. }) => at = ino,
            other => panic!("{path}: {name} is {other:?}"),
        }
    }
    at
}

pub fn read_all(layer: &SquashfsLayer, ino: LayerIno, step: usize) -> Result<Vec<u8>, LayerError> {
    let size = layer.attr(ino)?.size;
    let mut content = vec![0xa5; size as usize];
    let mut done = 0;
    while done < content.len() {
        let end = content.len().min(done + step);
        let n = layer.read_at(ino, done as u64, &mut content[done..end])?;
        assert_eq!(n, end - done, "a short read before the end of the file");
        done += n;
    }
    let mut beyond = [1; 16];
    assert_eq!(layer.read_at(ino, size, &mut beyond)?, 0, "read beyond the end of the file");
    Ok(content)
}

/// Creates a tree that needs no privilege, and is small enough for thousands of damaged copies.
pub fn small_tree(root: &Path) {
    let mut random = Random(7);
    fs::create_dir_all(root.join("etc/deep/deeper")).unwrap();
    fs::create_dir(root.join("empty")).unwrap();
    fs::write(root.join("etc/empty-file"), b"").unwrap();
    fs::write(root.join("etc/passwd"), b"root:x:0:0:root:/root:/bin/sh\n").unwrap();
    fs::write(root.join("etc/deep/text"), random.text(30_000)).unwrap();
    fs::write(root.join("etc/deep/deeper/random"), random.bytes(9_000)).unwrap();
    fs::hard_link(root.join("etc/passwd"), root.join("etc/passwd-")).unwrap();
    symlink("etc/passwd", root.join("link")).unwrap();
    symlink("x".repeat(600), root.join("long-link")).unwrap();
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    sparse.write_all_at(b"begin", 0).unwrap();
    sparse.write_all_at(&random.text(3_000), 20_000).unwrap();
    sparse.set_len(50_001).unwrap();
    fs::create_dir(root.join("many")).unwrap();
    for i in 0..400 {
        fs::write(root.join(format!("many/a-rather-long-name-{i:04}")), format!("{i}")).unwrap();
    }
    // Long values that are shared by files with different sets are stored out of line.
    for (name, extra) in [("a", "1"), ("b", "2"), ("c", "3")] {
        let path = root.join(name);
        fs::write(&path, name).unwrap();
        xattr::set(&path, "user.shared", &[b'v'; 300]).unwrap();
        xattr::set(&path, "user.own", extra.as_bytes()).unwrap();
    }
}

/// Pseudo files of `mksquashfs`: devices, a fifo and a socket without root privileges.
pub const SPECIAL_FILES: [&str; 8] = [
    "-p",
    "null c 666 0 0 1 3",
    "-p",
    "whiteout c 600 0 0 0 0",
    "-p",
    "fifo i 644 1 2 f",
    "-p",
    "socket i 644 3 4 s",
];

/// Returns small images for each compressor, and an uncompressed one.
pub fn small_images() -> Vec<(String, Vec<u8>)> {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    small_tree(&tree);
    let plain = ["-noI", "-noD", "-noF", "-noX", "-noId"];
    let mut images = Vec::new();
    for (name, compressor, more) in COMPRESSORS
        .iter()
        .map(|&name| (name.to_owned(), name, &[][..]))
        .chain([("plain".to_owned(), "gzip", &plain[..])])
    {
        let mut options = vec!["-comp", compressor, "-b", "4096", "-all-root"];
        options.extend(SPECIAL_FILES);
        options.extend(more);
        let image = mksquashfs(&tree, dir.path().join(&name), &options);
        images.push((name, fs::read(image).unwrap()));
    }
    images
}

/// Changes the stored size of each directory: `new` maps the stored size to another one.
///
/// The inode table must not be compressed (`-noI`): then all of its metadata blocks except the last
/// have 8 KiB after a header of 2 bytes.
pub fn change_directory_sizes(image: &mut [u8], mut new: impl FnMut(u32) -> u32) {
    let layer = open_bytes(image.to_vec()).unwrap();
    let mut directories = vec![layer.root()];
    let mut at = 0;
    while let Some(&directory) = directories.get(at) {
        at += 1;
        directories.extend(layer.read_dir(directory).unwrap().iter().filter_map(|entry| {
            match entry.entry {
                LayerEntry::Object { ino, kind: FileType::Directory } => Some(ino),
                _ => None,
            }
        }));
    }
    let table = u64::from_le_bytes(image[64..72].try_into().unwrap());
    for LayerIno(reference) in directories {
        let byte = |at: u64| {
            let offset = (reference & 0xffff) + at;
            (table + (reference >> 16) + offset / 8192 * 8194 + 2 + offset % 8192) as usize
        };
        // The size has 16 bits in the basic type, and 32 bits in the extended one.
        let (field, len) = match image[byte(0)] {
            1 => (24, 2),
            8 => (20, 4),
            kind => panic!("unexpected type {kind}"),
        };
        let mut size = [0; 4];
        (0..len).for_each(|i| size[i] = image[byte(field + i as u64)]);
        let size = new(u32::from_le_bytes(size)).to_le_bytes();
        (0..len).for_each(|i| image[byte(field + i as u64)] = size[i]);
    }
}

/// An object of a layer, as visited by [`walk`].
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    pub path: Vec<u8>,
    pub ino: Option<LayerIno>,
    pub attr: Option<Attr>,
    pub content: Vec<u8>,
}

/// Limits of a [`walk`], because sizes in a damaged image may be arbitrary.
pub struct Bounds {
    pub objects: usize,
    pub bytes_per_file: u64,
    pub bytes: u64,
}

pub const SMALL: Bounds = Bounds { objects: 5_000, bytes_per_file: 1 << 20, bytes: 8 << 20 };

/// Calls all methods of a layer, for each object once. Returns the first error.
pub fn walk(layer: &SquashfsLayer, bounds: &Bounds) -> Result<Vec<Seen>, LayerError> {
    let mut seen = Vec::new();
    let mut known = HashSet::new();
    let mut left = bounds.bytes;
    let mut buf = vec![0; 64 << 10];
    let mut directories = vec![(layer.root(), Vec::new())];
    layer.attr(layer.root())?;
    while let Some((directory, path)) = directories.pop() {
        if !known.insert(directory) {
            continue;
        }
        layer.is_opaque(directory)?;
        layer.xattrs(directory)?;
        layer.lookup(directory, b"no such name")?;
        let entries = layer.read_dir(directory)?;
        assert!(entries.is_sorted_by(|a, b| a.name < b.name), "unsorted or duplicate names");
        for entry in entries {
            if seen.len() >= bounds.objects {
                return Ok(seen);
            }
            let mut path = path.clone();
            path.push(b'/');
            path.extend(&entry.name);
            let LayerEntry::Object { ino, kind } = entry.entry else {
                seen.push(Seen { path, ino: None, attr: None, content: Vec::new() });
                continue;
            };
            if seen.len() < 50 {
                layer.lookup(directory, &entry.name)?;
            }
            let attr = layer.attr(ino)?;
            layer.xattrs(ino)?;
            let mut content = Vec::new();
            match kind {
                FileType::Directory => directories.push((ino, path.clone())),
                FileType::Symlink => content = layer.read_link(ino)?,
                FileType::Regular if known.insert(ino) => {
                    layer.next_data(ino, 0)?;
                    layer.next_data(ino, attr.size / 2)?;
                    let end = attr.size.min(bounds.bytes_per_file).min(left);
                    left -= end;
                    while (content.len() as u64) < end {
                        let at = content.len() as u64;
                        let want = buf.len().min((end - at) as usize);
                        let n = layer.read_at(ino, at, &mut buf[..want])?;
                        assert_eq!(n, want, "a short read before the end of the file");
                        content.extend(&buf[..n]);
                        layer.is_cached(ino, at, n);
                    }
                    layer.read_at(ino, attr.size.saturating_sub(3), &mut buf[..8])?;
                }
                _ => {}
            }
            seen.push(Seen { path, ino: Some(ino), attr: Some(attr), content });
        }
    }
    Ok(seen)
}
