//! Checks that opening any bytes as a cpio archive results in a layer or an error, and that all
//! methods of the layer work for all objects: names are sorted, valid and can be looked up, and
//! content has the size in the attributes. No panic, no hang, and no more memory than allowed.
#![no_main]

use std::sync::Arc;

use fs_model::FileType;
use fs_model::layer::cpio::{CpioLayer, Limits};
use fs_model::layer::{Layer, LayerDirEntry, LayerEntry};

libfuzzer_sys::fuzz_target!(|bytes: Vec<u8>| {
    let limits = Limits { memory: 16 << 20 };
    let Ok(layer) = CpioLayer::open("fuzz", Arc::new(bytes), limits) else { return };
    let mut ahead = vec![layer.root()];
    let mut buf = vec![0; 300_000];
    while let Some(dir) = ahead.pop() {
        let entries = layer.read_dir(dir).unwrap();
        assert!(entries.is_sorted_by(|a, b| a.name < b.name));
        layer.is_opaque(dir).unwrap();
        for LayerDirEntry { name, entry } in entries {
            assert!(!name.is_empty() && name.len() <= 255 && *name != *b"." && *name != *b"..");
            assert!(!name.contains(&b'/') && !name.contains(&0));
            assert_eq!(layer.lookup(dir, &name).unwrap(), Some(entry));
            let LayerEntry::Object { ino, kind } = entry else { continue };
            let attr = layer.attr(ino).unwrap();
            assert_eq!(attr.kind, kind);
            match kind {
                FileType::Directory => ahead.push(ino),
                FileType::Symlink => {
                    assert_eq!(layer.read_link(ino).unwrap().len() as u64, attr.size);
                }
                FileType::Regular => {
                    let length = layer.read_at(ino, 0, &mut buf).unwrap();
                    assert_eq!(length as u64, attr.size.min(buf.len() as u64));
                    let mut at = 0;
                    while let Some(data) = layer.next_data(ino, at).unwrap() {
                        assert!(at <= data.start && data.start < data.end);
                        assert!(data.end <= attr.size);
                        at = data.end;
                    }
                }
                _ => {}
            }
        }
    }
});
