//! Checks that for any bytes, all methods of a `SquashfsLayer` return what the trait `Layer`
//! guarantees, or an error that names the image. No panic, no loop, no short read, and no
//! allocation beyond `-rss_limit_mb=256`.
//!
//! ```text
//! ./seeds.sh
//! ASAN_OPTIONS=quarantine_size_mb=8 \
//!     cargo fuzz run squashfs -- -rss_limit_mb=256 -malloc_limit_mb=64 -max_len=65536 -timeout=10
//! ```
//! (The address sanitizer's quarantine of freed memory has 256 MB by default, which would exceed
//! the limit.)

#![no_main]

use std::collections::HashSet;
use std::sync::Arc;

use fs_model::FileType;
use fs_model::error::LayerError;
use fs_model::layer::squashfs::{CacheOptions, SquashfsLayer};
use fs_model::layer::{Layer, LayerEntry};
use libfuzzer_sys::fuzz_target;

/// Limits of the work for one input. A small image may legally contain terabytes of holes.
const MAX_OBJECTS: usize = 2_000;
const MAX_BYTES_PER_FILE: u64 = 256 << 10;
const MAX_BYTES: u64 = 4 << 20;

const NAME: &str = "fuzzed image";

/// Calls all methods for all objects and ignores errors, so that damage in one place does not hide
/// that in others.
fn explore(layer: &SquashfsLayer) {
    let check = |error: LayerError| assert_eq!(&*error.image, NAME);
    let mut known = HashSet::new();
    let mut objects = 0;
    let mut bytes_left = MAX_BYTES;
    let mut buf = vec![0; 16 << 10];
    let mut directories = vec![layer.root()];
    while let Some(directory) = directories.pop() {
        layer.is_opaque(directory).map_err(check).ok();
        let Ok(entries) = layer.read_dir(directory).map_err(check) else { continue };
        assert!(entries.is_sorted_by(|a, b| a.name < b.name));
        for entry in entries {
            objects += 1;
            if objects > MAX_OBJECTS {
                return;
            }
            let name = &*entry.name;
            assert!((1..=255).contains(&name.len()) && name != b"." && name != b"..");
            assert!(!name.contains(&b'/') && !name.contains(&0));
            if objects % 16 == 0 {
                layer.lookup(directory, name).map_err(check).ok();
            }
            let LayerEntry::Object { ino, kind } = entry.entry else { continue };
            if !known.insert(ino) {
                continue;
            }
            layer.xattrs(ino).map_err(check).ok();
            let Ok(attr) = layer.attr(ino).map_err(check) else { continue };
            match kind {
                FileType::Directory => directories.push(ino),
                FileType::Symlink => {
                    if let Ok(target) = layer.read_link(ino).map_err(check) {
                        assert_eq!(target.len() as u64, attr.size);
                    }
                }
                FileType::Regular => {
                    if let Ok(Some(data)) = layer.next_data(ino, attr.size / 3).map_err(check) {
                        assert!(attr.size / 3 <= data.start && data.end <= attr.size);
                        assert!(data.start < data.end);
                    }
                    layer.read_at(ino, attr.size.saturating_sub(5), &mut buf).map_err(check).ok();
                    let end = attr.size.min(MAX_BYTES_PER_FILE).min(bytes_left);
                    let mut at = 0;
                    while at < end {
                        let want = buf.len().min((end - at) as usize);
                        match layer.read_at(ino, at, &mut buf[..want]).map_err(check) {
                            Ok(n) if attr.kind == FileType::Regular => assert_eq!(n, want),
                            _ => break,
                        }
                        layer.is_cached(ino, at, want);
                        at += want as u64;
                    }
                    bytes_left -= end;
                }
                _ => {}
            }
        }
    }
}

fuzz_target!(|image: &[u8]| {
    let options =
        CacheOptions { metadata_bytes: 1 << 20, data_bytes: 1 << 20, layout_bytes: 64 << 10 };
    match SquashfsLayer::open(NAME, Arc::new(image.to_vec()), options) {
        Ok(layer) => explore(&layer),
        Err(error) => assert_eq!(&*error.image, NAME),
    }
});
