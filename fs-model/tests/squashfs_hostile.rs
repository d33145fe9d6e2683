//! Tests with damaged and crafted squashfs images: each can be read, or fails with an error that
//! names it, without panics, unbounded allocations or short reads.

#[path = "squashfs/support.rs"]
mod squashfs_support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};

use fs_model::FileType;
use fs_model::error::{LayerError, LayerErrorKind};
use fs_model::layer::{Layer, LayerEntry, LayerIno};
use squashfs_support::{
    NAME, Random, SMALL, change_directory_sizes, mksquashfs, open_bytes, small_images, walk,
};

/// An allocator that records current and peak memory use.
struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: forwards to the system allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(now, Ordering::Relaxed);
        // SAFETY: guaranteed by the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: guaranteed by the caller.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Maximum memory for reading an image of less than 1 MiB. Two tests, each with its fixtures, may
/// run concurrently.
const MEMORY_LIMIT: usize = 64 << 20;

fn assert_memory_stayed_bounded() {
    let peak = PEAK.load(Ordering::Relaxed);
    assert!(peak < MEMORY_LIMIT, "{peak} bytes at the peak");
}

/// Reads all of an image and checks the error, if any. Returns whether there was none.
fn is_readable(image: Vec<u8>) -> bool {
    match open_bytes(image).and_then(|layer| walk(&layer, &SMALL)) {
        Ok(_) => true,
        Err(error) => {
            assert_names_the_image(&error);
            false
        }
    }
}

fn assert_names_the_image(error: &LayerError) {
    assert_eq!(&*error.image, NAME);
    let message = error.to_string();
    assert!(message.starts_with(NAME) && message.len() > NAME.len() + 5, "{message}");
    assert!(!matches!(error.kind, LayerErrorKind::Io(_)), "{message}");
}

fn u64_in(image: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(image[at..at + 8].try_into().unwrap())
}

#[test]
fn valid_images_are_readable() {
    for (name, image) in small_images() {
        assert!(is_readable(image), "{name}");
    }
}

#[test]
fn truncated_images_are_rejected_on_open() {
    for (name, image) in small_images() {
        let used = u64_in(&image, 40) as usize;
        let step = (used / 97).max(1);
        for len in (0..used).step_by(step).chain([1, 4, 95, 96, 97, used - 1]) {
            let error = open_bytes(image[..len].to_vec()).unwrap_err();
            assert_names_the_image(&error);
            let message = error.to_string();
            assert!(
                len < 4 || message.contains("truncated"),
                "{name} truncated to {len}: {message}"
            );
        }
        assert!(is_readable(image[..used].to_vec()), "{name}: the padding may be missing");
    }
}

#[test]
fn truncated_image_with_a_matching_superblock_is_an_error() {
    for (name, image) in small_images() {
        let used = u64_in(&image, 40) as usize;
        for len in (96..used).step_by(211) {
            let mut cut = image[..len].to_vec();
            cut[40..48].copy_from_slice(&(len as u64).to_le_bytes());
            assert!(!is_readable(cut), "{name}, truncated to {len}");
        }
    }
    assert_memory_stayed_bounded();
}

#[test]
fn flipped_bits_cause_no_panic_or_unbounded_allocation() {
    let mut random = Random(2);
    for (_, image) in small_images() {
        let used = u64_in(&image, 40);
        for _ in 0..350 {
            let mut damaged = image.clone();
            for _ in 0..1 + random.below(3) {
                let at = random.below(used) as usize;
                damaged[at] ^= 1 << random.below(8);
            }
            is_readable(damaged);
        }
    }
    assert_memory_stayed_bounded();
}

#[test]
fn overwritten_tables_cause_no_panic_or_unbounded_allocation() {
    let mut random = Random(3);
    for (_, image) in small_images() {
        let (used, tables) = (u64_in(&image, 40), u64_in(&image, 64));
        for _ in 0..350 {
            let mut damaged = image.clone();
            // A third of the damage is in the superblock, because it is small but important.
            let at = match random.below(3) {
                0 => 4 + random.below(92),
                _ => tables + random.below(used - tables),
            } as usize;
            let len = (1 + random.below(8) as usize).min(damaged.len() - at);
            let new = if random.below(2) == 0 { vec![0xff; len] } else { random.bytes(len) };
            damaged[at..at + len].copy_from_slice(&new);
            is_readable(damaged);
        }
    }
    assert_memory_stayed_bounded();
}

#[test]
fn damaged_data_is_an_error_or_has_the_right_length() {
    let mut random = Random(4);
    let rounds = 150;
    for (name, image) in small_images() {
        let sound = walk(&open_bytes(image.clone()).unwrap(), &SMALL).unwrap();
        let files: Vec<_> = sound
            .into_iter()
            .filter(|seen| seen.attr.is_some_and(|attr| attr.kind == FileType::Regular))
            .filter(|seen| !seen.content.is_empty())
            // Incompressible blocks are stored as they are, without a checksum.
            .filter(|seen| !seen.path.ends_with(b"/random"))
            .collect();
        let tables = u64_in(&image, 64);
        let (mut refused, mut silent) = (0, 0);
        for _ in 0..rounds {
            let mut damaged = image.clone();
            let at = 96 + random.below(tables - 96) as usize;
            damaged[at] ^= 1 << random.below(8);
            let layer = open_bytes(damaged).unwrap();
            let (mut errors, mut differences) = (0, 0);
            for file in &files {
                match squashfs_support::read_all(&layer, file.ino.unwrap(), 4096) {
                    Ok(content) => {
                        assert_eq!(content.len(), file.content.len());
                        differences += usize::from(content != file.content);
                    }
                    Err(error) => {
                        assert_names_the_image(&error);
                        errors += 1;
                    }
                }
            }
            refused += usize::from(errors > 0);
            silent += usize::from(differences > 0);
        }
        // mksquashfs stores a CRC-32 with xz, which detects every single flipped bit. The Adler-32
        // of gzip is weaker: a match moved among digits may not change it. The other compressors
        // store no checksum.
        let allowed = match name.as_str() {
            "xz" => 0,
            "gzip" => rounds / 50,
            _ => rounds,
        };
        assert!(silent <= allowed, "{name}: {silent} undetected changes");
        assert!(refused > 0 || name == "plain", "{name}: no damage was detected");
    }
}

#[test]
fn invalid_superblocks_are_rejected() {
    let (_, image) = small_images().swap_remove(0);
    let with = |at: usize, bytes: &[u8]| {
        let mut image = image.clone();
        image[at..at + bytes.len()].copy_from_slice(bytes);
        let error = open_bytes(image).unwrap_err();
        assert_names_the_image(&error);
        error
    };
    assert!(matches!(with(0, b"ustr").kind, LayerErrorKind::NotThisFormat { .. }));
    assert!(matches!(with(0, b"sqsh").kind, LayerErrorKind::Unsupported(_)));
    assert!(matches!(with(28, &[3, 0]).kind, LayerErrorKind::Unsupported(_)));
    assert!(matches!(with(20, &[2, 0]).kind, LayerErrorKind::Unsupported(_)), "lzma");
    assert!(matches!(with(20, &[99, 0]).kind, LayerErrorKind::Unsupported(_)));
    let corrupt: [(usize, &[u8]); 9] = [
        (12, &[0, 0, 0, 0]),
        (12, &[0, 0, 0, 0x80]),
        (22, &[13, 0]),
        (26, &[0, 0]),
        (32, &[0xff; 8]),
        (40, &[95, 0, 0, 0, 0, 0, 0, 0]),
        (48, &[0xfe; 8]),
        (64, &[0xff; 8]),
        (72, &[0; 8]),
    ];
    for (at, bytes) in corrupt {
        let error = with(at, bytes);
        assert!(matches!(error.kind, LayerErrorKind::Corrupt(_)), "{at}: {error}");
    }
}

/// An uncompressed image, whose tables can be changed by search and replace.
fn plain_image() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir_all(tree.join("sub/inner")).unwrap();
    for name in ["sub/name-a", "sub/name-b", "sub/name-c"] {
        fs::write(tree.join(name), name).unwrap();
    }
    std::os::unix::fs::symlink("target/path", tree.join("link")).unwrap();
    xattr::set(tree.join("sub"), "user.first", b"1").unwrap();
    xattr::set(tree.join("sub"), "user.other", b"2").unwrap();
    let options = ["-noI", "-noD", "-noF", "-noX", "-noId", "-all-root"];
    fs::read(mksquashfs(&tree, dir.path().join("image"), &options)).unwrap()
}

fn replaced(image: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    // From the end: the directory table is after the content of files.
    let at = image.windows(from.len()).rposition(|window| window == from).unwrap();
    let mut image = image.to_vec();
    image[at..at + to.len()].copy_from_slice(to);
    image
}

#[test]
fn duplicate_names_are_an_error() {
    let image = replaced(&plain_image(), b"name-b", b"name-a");
    let layer = open_bytes(image).unwrap();
    let sub = squashfs_support::find(&layer, "sub");
    let message = layer.read_dir(sub).unwrap_err().to_string();
    assert!(message.contains("duplicate name \"name-a\""), "{message}");
}

#[test]
fn unsorted_directory_is_listed_sorted_and_searched_correctly() {
    let image = replaced(&plain_image(), b"name-a", b"name-x");
    let layer = open_bytes(image).unwrap();
    let sub = squashfs_support::find(&layer, "sub");
    let names: Vec<_> = layer.read_dir(sub).unwrap().into_iter().map(|e| e.name).collect();
    assert_eq!(names, [&b"inner"[..], b"name-b", b"name-c", b"name-x"].map(Box::from));
    for name in names {
        assert!(layer.lookup(sub, &name).unwrap().is_some(), "{}", name.escape_ascii());
    }
    assert_eq!(layer.lookup(sub, b"name-a").unwrap(), None);
}

#[test]
fn names_with_slashes_or_nul_are_errors() {
    for bad in [&b"../n-b"[..], b"/etc/p", b"a\0b\0c\0"] {
        let image = replaced(&plain_image(), b"name-b", bad);
        let layer = open_bytes(image).unwrap();
        let sub = squashfs_support::find(&layer, "sub");
        assert_names_the_image(&layer.read_dir(sub).unwrap_err());
        assert_names_the_image(&layer.lookup(sub, b"zzz").unwrap_err());
    }
}

#[test]
fn directory_that_contains_itself_is_readable() {
    let image = plain_image();
    let layer = open_bytes(image.clone()).unwrap();
    let sub = squashfs_support::find(&layer, "sub");
    let inner = squashfs_support::find(&layer, "sub/inner");
    assert_eq!(sub.0 >> 16, inner.0 >> 16, "both inodes in one block");
    // An entry: offset, number, type, length - 1, name.
    let mut entry = (inner.0 as u16).to_le_bytes().to_vec();
    let at = image.windows(9).rposition(|w| w == b"\x01\0\x04\0inner").unwrap() - 4;
    assert_eq!(image[at..at + 2], entry[..]);
    entry.copy_from_slice(&(sub.0 as u16).to_le_bytes());
    let mut looped = image;
    looped[at..at + 2].copy_from_slice(&entry);
    let layer = open_bytes(looped).unwrap();
    let mut at = sub;
    for _ in 0..1000 {
        match layer.lookup(at, b"inner").unwrap() {
            Some(LayerEntry::Object { ino, .. }) => at = ino,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(at, sub);
    walk(&layer, &SMALL).unwrap();
}

#[test]
fn any_directory_size_returns_whole_runs_or_an_error() {
    let (_, image) = small_images().pop().unwrap();
    let paths = |image: Vec<u8>| {
        walk(&open_bytes(image).unwrap(), &SMALL)
            .map(|seen| seen.into_iter().map(|seen| seen.path).collect::<Vec<_>>())
    };
    let all = paths(image.clone()).unwrap();
    for cut in 0..=20 {
        let mut exact = image.clone();
        change_directory_sizes(&mut exact, |size| size.saturating_sub(cut));
        assert_eq!(paths(exact).unwrap(), all, "sizes reduced by {cut}");
    }
    let mut random = Random(9);
    for _ in 0..300 {
        let mut any = image.clone();
        let bits = 2 + random.below(31);
        change_directory_sizes(&mut any, |size| match random.below(3) {
            0 => size,
            1 => size.saturating_add(random.below(1 << bits) as u32),
            _ => random.below(1 << bits) as u32,
        });
        is_readable(any);
    }
    assert_memory_stayed_bounded();
}

#[test]
fn duplicate_attributes_are_an_error() {
    let image = replaced(&plain_image(), b"other", b"first");
    let layer = open_bytes(image).unwrap();
    let sub = squashfs_support::find(&layer, "sub");
    let message = layer.xattrs(sub).unwrap_err().to_string();
    assert!(message.contains("user.first"), "{message}");
}

#[test]
fn invalid_symlink_targets_are_errors() {
    let layer = open_bytes(replaced(&plain_image(), b"target/path", b"target\0")).unwrap();
    let link = squashfs_support::find(&layer, "link");
    assert_names_the_image(&layer.read_link(link).unwrap_err());

    let mut endless = plain_image();
    let at = endless.windows(11).rposition(|w| w == b"target/path").unwrap() - 4;
    for len in [0u32, 65_535, 65_536, u32::MAX] {
        endless[at..at + 4].copy_from_slice(&len.to_le_bytes());
        let layer = open_bytes(endless.clone()).unwrap();
        assert_names_the_image(&layer.read_link(link).unwrap_err());
    }
    assert_memory_stayed_bounded();
}

#[test]
fn file_size_beyond_the_image_is_an_error_without_allocation() {
    let image = plain_image();
    let layer = open_bytes(image.clone()).unwrap();
    let file = squashfs_support::find(&layer, "sub/name-a");
    // A basic file inode: 16 bytes of common fields, then start, fragment, offset, size.
    let block = u64_in(&image, 64) as usize + 2 + (file.0 & 0xffff) as usize;
    let mut huge = image;
    assert_eq!(huge[block + 28..block + 32], 10u32.to_le_bytes());
    huge[block + 28..block + 32].copy_from_slice(&u32::MAX.to_le_bytes());
    let layer = open_bytes(huge).unwrap();
    assert_names_the_image(&layer.read_at(file, 1 << 31, &mut [0; 10]).unwrap_err());
    assert_memory_stayed_bounded();
}

#[test]
fn invalid_inode_numbers_cause_no_panic() {
    let mut random = Random(5);
    for (_, image) in small_images() {
        let layer = open_bytes(image).unwrap();
        let mut buf = [0; 4096];
        for _ in 0..500 {
            let shift = 16 + random.below(48);
            let ino = LayerIno(random.next() >> shift);
            for error in [
                layer.attr(ino).err(),
                layer.read_dir(ino).err(),
                layer.lookup(ino, b"x").err(),
                layer.read_at(ino, random.below(1 << 20), &mut buf).err(),
                layer.read_link(ino).err(),
                layer.xattrs(ino).err(),
                layer.next_data(ino, 5).err(),
            ] {
                error.iter().for_each(assert_names_the_image);
            }
        }
    }
    assert_memory_stayed_bounded();
}
