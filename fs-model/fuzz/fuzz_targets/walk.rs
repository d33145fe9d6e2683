//! Walks a layer and calls all of its methods for all of its objects.

use fs_model::FileType;
use fs_model::layer::{Layer, LayerDirEntry, LayerEntry};

/// Checks that names are sorted, valid and can be looked up, and that content has the size in the
/// attributes.
pub fn walk(layer: &dyn Layer) {
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
}
