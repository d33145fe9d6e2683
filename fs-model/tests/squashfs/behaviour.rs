//! Tests of the squashfs layer's behaviour beyond correct content: laziness, one decode per block,
//! bounded caches, holes.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Arc, Barrier};

use crate::support::{self, COMPRESSORS, Random, find, mksquashfs, open};
use fs_model::layer::squashfs::{CacheOptions, Compressor, SquashfsLayer};
use fs_model::layer::{Layer, LayerEntry};

/// Creates an image of one file, `file`.
fn image_of(content: &[u8], options: &[&str]) -> SquashfsLayer {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("file"), content).unwrap();
    open(&mksquashfs(&tree, dir.path().join("image"), options))
}

#[test]
fn concurrent_readers_of_a_block_share_one_decode() {
    let content = Random(1).text(20 * 131_072 + 999);
    for compressor in COMPRESSORS {
        let layer = image_of(&content, &["-comp", compressor]);
        let ino = find(&layer, "file");
        let threads = 16;
        let barrier = Barrier::new(threads);
        std::thread::scope(|scope| {
            for thread in 0..threads {
                let (layer, barrier, content) = (&layer, &barrier, &content);
                scope.spawn(move || {
                    let mut buf = [0; 5000];
                    for block in 0..21 {
                        barrier.wait();
                        // Never a whole block, which would not be cached.
                        let at = block * 131_072 + 1 + thread % 7 * 100;
                        let n = layer.read_at(ino, at as u64, &mut buf).unwrap();
                        assert!(buf[..n] == content[at..(at + 5000).min(content.len())]);
                    }
                });
            }
        });
        assert_eq!(layer.cache_stats().data_decodes, 21, "{compressor}");
    }
}

#[test]
fn index_of_a_large_directory_is_read_once() {
    // With long names, the index has several blocks.
    let name = |n: usize| format!("{n:0200}");
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    (0..6_000).for_each(|n| fs::write(tree.join(name(n)), "").unwrap());
    let image = fs::read(mksquashfs(&tree, dir.path().join("image"), &[])).unwrap();
    // A cache of one block, so that everything read again is decoded again.
    let options = CacheOptions { metadata_bytes: 9_000, ..CacheOptions::default() };
    let layer = SquashfsLayer::open("image", Arc::new(image), options).unwrap();
    let decodes = || layer.cache_stats().metadata_decodes;
    assert!(layer.lookup(layer.root(), name(0).as_bytes()).unwrap().is_some());
    for n in (0..6_000).step_by(97) {
        let before = decodes();
        assert!(layer.lookup(layer.root(), name(n).as_bytes()).unwrap().is_some());
        assert_eq!(layer.lookup(layer.root(), format!("{}x", name(n)).as_bytes()).unwrap(), None);
        // The inode of the directory, the block of the listing, and the next one at its end.
        assert!(decodes() - before <= 2 * 4, "{n}: {}", decodes() - before);
    }
}

#[test]
fn concurrent_reads_of_whole_blocks_are_correct() {
    let content = Random(2).text(8 * 131_072);
    let layer = image_of(&content, &[]);
    let ino = find(&layer, "file");
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (layer, content) = (&layer, &content);
            scope.spawn(move || {
                let mut random = Random(thread);
                let mut buf = vec![0; 300_000];
                for _ in 0..60 {
                    let at = random.below(8) as usize * 131_072;
                    let len = if random.below(3) == 0 { 4096 } else { 300_000 };
                    let n = layer.read_at(ino, at as u64, &mut buf[..len]).unwrap();
                    assert_eq!(n, len.min(content.len() - at));
                    assert!(buf[..n] == content[at..at + n]);
                }
            });
        }
    });
}

#[test]
fn decode_error_is_returned_to_all_waiters() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("file"), Random(3).text(131_072)).unwrap();
    let mut image = fs::read(mksquashfs(&tree, dir.path().join("image"), &[])).unwrap();
    image[5000] ^= 0x10;
    let layer = support::open_bytes(image).unwrap();
    let ino = find(&layer, "file");
    let barrier = Barrier::new(8);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (layer, barrier) = (&layer, &barrier);
            scope.spawn(move || {
                barrier.wait();
                let len = if thread % 2 == 0 { 100 } else { 131_072 };
                let error = layer.read_at(ino, 0, &mut vec![0; len]).unwrap_err();
                assert!(error.to_string().contains("data block at 0x60"), "{error}");
            });
        }
    });
}

/// Creates a sparse file of about `size` bytes at `at`, and returns its content.
fn sparse_file(random: &mut Random, at: &Path, size: usize) -> Vec<u8> {
    let file = fs::File::create(at).unwrap();
    file.set_len(size as u64).unwrap();
    let mut content = vec![0; size];
    for _ in 0..6 {
        let start = random.below(size as u64) as usize;
        let len = (random.below(60_000) as usize).min(size - start);
        let data = if random.below(2) == 0 { random.text(len) } else { random.bytes(len) };
        file.write_all_at(&data, start as u64).unwrap();
        content[start..start + len].copy_from_slice(&data);
    }
    content
}

#[test]
fn reads_at_random_offsets_and_lengths_are_correct() {
    let mut random = Random(4);
    let dir = tempfile::tempdir().unwrap();
    for (round, compressor) in COMPRESSORS.iter().cycle().take(10).enumerate() {
        let tree = dir.path().join(format!("tree-{round}"));
        fs::create_dir(&tree).unwrap();
        let mut files = Vec::new();
        for i in 0..6 {
            let size = random.below(700_000) as usize;
            files.push(sparse_file(&mut random, &tree.join(format!("f{i}")), size));
        }
        let block_size = ["4096", "16384", "131072"][round % 3];
        let mut options = vec!["-comp", compressor, "-b", block_size];
        if round % 2 == 1 {
            options.push("-always-use-fragments");
        }
        let image = mksquashfs(&tree, dir.path().join("image"), &options);
        // Caches of a few blocks, so that blocks are evicted often.
        let options =
            CacheOptions { metadata_bytes: 20_000, data_bytes: 300_000, layout_bytes: 1000 };
        let bytes = Arc::new(fs::read(image).unwrap());
        let layer = SquashfsLayer::open("small caches", bytes, options).unwrap();
        for _ in 0..600 {
            let i = random.below(files.len() as u64) as usize;
            let content = &files[i];
            let ino = find(&layer, &format!("f{i}"));
            let offset = random.below(content.len() as u64 + 100);
            let len = match random.below(4) {
                0 => random.below(50),
                1 => 4096,
                2 => 131_072,
                _ => random.below(800_000),
            } as usize;
            let mut buf = vec![0xee; len];
            let n = layer.read_at(ino, offset, &mut buf).unwrap();
            let start = content.len().min(offset as usize);
            let end = content.len().min(start + len);
            assert!(buf[..n] == content[start..end], "f{i} at {offset}, {len} bytes");
            assert!(buf[n..].iter().all(|&b| b == 0xee), "bytes beyond the end were written");
        }
        let stats = layer.cache_stats();
        assert!(stats.data_bytes <= 300_000 && stats.metadata_bytes <= 20_000, "{stats:?}");
    }
}

#[test]
fn next_data_skips_only_zeros() {
    let mut random = Random(5);
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    let files: Vec<_> = (0..10)
        .map(|i| {
            let size = 500_000 + random.below(500_000) as usize;
            sparse_file(&mut random, &tree.join(format!("f{i}")), size)
        })
        .collect();
    let layer = open(&mksquashfs(&tree, dir.path().join("image"), &["-b", "4096"]));
    for (i, content) in files.iter().enumerate() {
        let ino = find(&layer, &format!("f{i}"));
        let size = content.len() as u64;
        let mut holes = 0;
        let mut at = 0;
        while at < size {
            let data = layer.next_data(ino, at).unwrap().unwrap_or(size..size);
            assert!(data.start >= at && data.end <= size);
            let hole = &content[at as usize..data.start as usize];
            assert!(hole.iter().all(|&b| b == 0), "f{i}: data in a hole from {at}");
            holes += hole.len();
            if !data.is_empty() {
                // From within the data, the end is the same.
                let middle = data.start.midpoint(data.end);
                assert_eq!(layer.next_data(ino, middle).unwrap(), Some(middle..data.end));
            }
            at = data.end.max(at + 1);
        }
        assert!(holes > 100_000, "f{i}: only {holes} bytes of holes found");
        assert_eq!(layer.next_data(ino, size).unwrap(), None);
        assert_eq!(layer.next_data(ino, u64::MAX).unwrap(), None);
    }
}

#[test]
fn partly_read_block_is_cached() {
    let content = Random(6).text(3 * 131_072 + 10);
    let layer = image_of(&content, &[]);
    let ino = find(&layer, "file");
    assert!(!layer.is_cached(ino, 0, 4096));
    layer.read_at(ino, 131_072, &mut [0; 100]).unwrap();
    assert!(layer.is_cached(ino, 131_072, 131_072));
    assert!(!layer.is_cached(ino, 0, 131_073));
    assert!(!layer.is_cached(ino, 2 * 131_072 - 1, 2));
    assert!(layer.is_cached(ino, content.len() as u64, 10), "nothing to decode beyond the end");
    // Uncompressed blocks need no decoding.
    let plain = image_of(&content, &["-noD", "-noF"]);
    let ino = find(&plain, "file");
    plain.read_at(ino, 0, &mut [0; 1]).unwrap();
    assert!(plain.is_cached(ino, 0, content.len()));
    assert_eq!(plain.cache_stats().data_decodes, 0);
}

#[test]
fn lookup_in_a_large_directory_reads_a_small_part_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir_all(tree.join("large")).unwrap();
    let target = tree.join("target");
    fs::write(&target, b"").unwrap();
    // Hard links: a large directory with few inodes.
    for i in 0..50_000 {
        fs::hard_link(&target, tree.join(format!("large/{i:06}-entry-of-a-large-directory")))
            .unwrap();
    }
    let image = mksquashfs(&tree, dir.path().join("image"), &[]);
    let layer = open(&image);
    let large = find(&layer, "large");
    let before = layer.cache_stats().metadata_decodes;
    for name in ["025000-entry-of-a-large-directory", "049999-entry-of-a-large-directory"] {
        let entry = layer.lookup(large, name.as_bytes()).unwrap();
        assert!(matches!(entry, Some(LayerEntry::Object { .. })), "{name}");
    }
    for name in ["0", "025000", "025000-entry-of-a-large-directory-", "zzz"] {
        assert_eq!(layer.lookup(large, name.as_bytes()).unwrap(), None, "{name}");
    }
    let decodes = layer.cache_stats().metadata_decodes - before;
    assert!(decodes <= 14, "{decodes} metadata blocks decoded");
    assert_eq!(layer.read_dir(large).unwrap().len(), 50_000);
    assert!(layer.cache_stats().metadata_decodes > 200, "the directory is large");
    for i in (0..50_000).step_by(611).chain([0, 49_999]) {
        let name = format!("{i:06}-entry-of-a-large-directory");
        assert!(layer.lookup(large, name.as_bytes()).unwrap().is_some(), "{name}");
    }
}

#[test]
fn lookup_in_a_directory_with_exact_size_finds_the_last_name() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    for (folder, names) in [("one", 1), ("several-runs", 600), ("with-an-index", 3000)] {
        fs::create_dir_all(tree.join(folder)).unwrap();
        (0..names).for_each(|n| fs::write(tree.join(format!("{folder}/{n:06}")), "").unwrap());
    }
    fs::create_dir(tree.join("empty")).unwrap();
    let image = fs::read(mksquashfs(&tree, dir.path().join("image"), &["-noI"])).unwrap();
    for cut in 0..=3 {
        let mut image = image.clone();
        support::change_directory_sizes(&mut image, |size| size - cut);
        let layer = support::open_bytes(image).unwrap();
        for (folder, names) in [("one", 1), ("several-runs", 600), ("with-an-index", 3000)] {
            let folder = find(&layer, folder);
            let found = |name: &str| layer.lookup(folder, name.as_bytes()).unwrap().is_some();
            assert_eq!(layer.read_dir(folder).unwrap().len(), names, "size reduced by {cut}");
            assert!(
                found("000000") && found(&format!("{:06}", names - 1)),
                "size reduced by {cut}"
            );
            // After the last name begins the listing of another directory.
            assert!(!found("empty") && !found("zzz") && !found("0"), "size reduced by {cut}");
        }
        let empty = find(&layer, "empty");
        assert_eq!(layer.read_dir(empty).unwrap(), []);
        assert_eq!(layer.lookup(empty, b"zzz").unwrap(), None);
    }
}

#[test]
fn opening_decodes_one_metadata_block() {
    let (_, image) = support::small_images().swap_remove(2);
    let layer = support::open_bytes(image).unwrap();
    let stats = layer.cache_stats();
    assert_eq!((stats.metadata_decodes, stats.data_decodes), (1, 0));
    let superblock = layer.superblock();
    assert_eq!(superblock.compressor, Compressor::Zstd);
    assert_eq!(superblock.block_size, 4096);
    assert!(superblock.inodes > 400 && superblock.mkfs_time > 1_700_000_000);
}

#[test]
fn whiteouts_and_opaque_directories_are_recognised() {
    let (_, image) = support::small_images().swap_remove(0);
    let layer = support::open_bytes(image).unwrap();
    let root = layer.root();
    assert_eq!(layer.lookup(root, b"whiteout").unwrap(), Some(LayerEntry::Whiteout));
    let listed = layer.read_dir(root).unwrap();
    let whiteouts: Vec<_> = listed.iter().filter(|e| e.entry == LayerEntry::Whiteout).collect();
    assert_eq!(whiteouts.len(), 1);
    assert_eq!(*whiteouts[0].name, *b"whiteout");

    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir_all(tree.join("opaque")).unwrap();
    xattr::set(tree.join("opaque"), "user.overlay.opaque", b"y").unwrap();
    xattr::set(tree.join("opaque"), "user.kept", b"1").unwrap();
    let layer = open(&mksquashfs(&tree, dir.path().join("image"), &[]));
    let opaque = find(&layer, "opaque");
    assert!(layer.is_opaque(opaque).unwrap());
    assert!(!layer.is_opaque(layer.root()).unwrap());
    let xattrs = layer.xattrs(opaque).unwrap();
    assert_eq!(xattrs, [(Box::from(*b"user.kept"), Box::from(*b"1"))]);
    layer.check_overlayfs_attributes().unwrap();

    fs::create_dir_all(tree.join("opaque/below")).unwrap();
    xattr::set(tree.join("opaque/below"), "user.overlay.redirect", b"/x").unwrap();
    fs::remove_file(dir.path().join("image")).unwrap();
    let layer = open(&mksquashfs(&tree, dir.path().join("image"), &[]));
    let refused = layer.check_overlayfs_attributes().unwrap_err().to_string();
    assert!(refused.contains("/opaque/below has the attribute user.overlay.redirect"), "{refused}");
}

#[test]
fn out_of_line_values_are_read() {
    for (name, image) in support::small_images() {
        let layer = support::open_bytes(image).unwrap();
        for (file, own) in [("a", b"1"), ("b", b"2"), ("c", b"3")] {
            let xattrs = layer.xattrs(find(&layer, file)).unwrap();
            let expected: [(&[u8], &[u8]); 2] =
                [(b"user.own", own), (b"user.shared", &[b'v'; 300])];
            assert_eq!(
                xattrs,
                expected.map(|(name, value)| (Box::from(name), Box::from(value))),
                "{name}: {file}"
            );
        }
    }
}
