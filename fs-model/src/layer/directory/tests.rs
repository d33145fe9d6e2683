//! Tests that compare a directory layer with the directory.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};

use super::*;

fn setup() -> (tempfile::TempDir, DirectoryLayer) {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir(at("sub")).unwrap();
    fs::write(at("sub/file"), b"content").unwrap();
    fs::set_permissions(at("sub/file"), fs::Permissions::from_mode(0o4711)).unwrap();
    fs::hard_link(at("sub/file"), at("other")).unwrap();
    symlink("/etc", at("out")).unwrap();
    let sparse = fs::File::create(at("sparse")).unwrap();
    sparse.write_all_at(b"island", 1 << 20).unwrap();
    sparse.set_len(3 << 20).unwrap();
    let name = std::ffi::OsStr::from_bytes(b"bytes \xff");
    fs::write(dir.path().join(name), b"").unwrap();
    rustix::fs::mknodat(CWD, at("fifo"), rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
    // Unprivileged users can create whiteouts.
    let whiteout = rustix::fs::FileType::CharacterDevice;
    rustix::fs::mknodat(CWD, at("gone"), whiteout, Mode::empty(), 0).unwrap();
    let layer = DirectoryLayer::open(dir.path()).unwrap();
    (dir, layer)
}

fn find(layer: &DirectoryLayer, path: &str) -> Option<LayerEntry> {
    let mut at = LayerEntry::Object { ino: layer.root(), kind: FileType::Directory };
    for name in path.split('/') {
        let LayerEntry::Object { ino, .. } = at else { return None };
        at = layer.lookup(ino, name.as_bytes()).unwrap()?;
    }
    Some(at)
}

fn ino(layer: &DirectoryLayer, path: &str) -> LayerIno {
    match find(layer, path) {
        Some(LayerEntry::Object { ino, .. }) => ino,
        other => panic!("{path}: {other:?}"),
    }
}

#[test]
fn layer_equals_the_directory() {
    let (dir, layer) = setup();
    let file = ino(&layer, "sub/file");
    assert_eq!(file, ino(&layer, "other"), "hard links are one object");
    let attr = layer.attr(file).unwrap();
    let meta = fs::metadata(dir.path().join("other")).unwrap();
    assert_eq!((attr.st_mode(), attr.size, attr.nlink), (meta.mode(), 7, 2));
    assert_eq!((attr.mtime.secs, attr.uid), (meta.mtime(), meta.uid()));
    let mut buf = [0; 20];
    assert_eq!(layer.read_at(file, 3, &mut buf).unwrap(), 4);
    assert_eq!(&buf[..4], b"tent");
    assert_eq!(layer.read_at(file, 9, &mut buf).unwrap(), 0);
    assert_eq!(layer.read_link(ino(&layer, "out")).unwrap(), b"/etc");
    assert_eq!(layer.attr(ino(&layer, "fifo")).unwrap().kind, FileType::Fifo);
    assert_eq!(find(&layer, "gone"), Some(LayerEntry::Whiteout));
    assert_eq!(find(&layer, "missing"), None);
    let names: Vec<_> = layer.read_dir(layer.root()).unwrap().into_iter().map(|e| e.name).collect();
    let expected: [&[u8]; 7] =
        [b"bytes \xff", b"fifo", b"gone", b"other", b"out", b"sparse", b"sub"];
    assert_eq!(names, expected.map(Box::from));
    let sparse = ino(&layer, "sparse");
    let data = layer.next_data(sparse, 0).unwrap().unwrap();
    assert!(data.start <= 1 << 20 && data.end >= (1 << 20) + 6);
    assert_eq!(layer.next_data(sparse, 2 << 20).unwrap(), None);
}

#[test]
fn attributes_are_returned_without_those_of_overlayfs() {
    let (dir, layer) = setup();
    let at = dir.path().join("sub");
    let none = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(&at, "user.overlay.opaque", b"y", none).unwrap();
    rustix::fs::setxattr(&at, "user.b", b"2", none).unwrap();
    rustix::fs::setxattr(&at, "user.a", &[7; 3000], none).unwrap();
    let sub = ino(&layer, "sub");
    let expected: Vec<Xattr> =
        vec![(b"user.a"[..].into(), [7; 3000][..].into()), (b"user.b"[..].into(), b"2"[..].into())];
    assert_eq!(layer.xattrs(sub).unwrap(), expected);
    assert!(layer.is_opaque(sub).unwrap());
    assert!(!layer.is_opaque(layer.root()).unwrap());
    assert_eq!(layer.xattrs(ino(&layer, "out")).unwrap(), []);
}

#[test]
fn symbolic_links_are_never_followed() {
    let (dir, layer) = setup();
    assert!(layer.lookup(ino(&layer, "out"), b"hostname").is_err());
    assert_eq!(layer.lookup(layer.root(), b"..").unwrap(), None);
    assert_eq!(layer.lookup(layer.root(), b"sub/file").unwrap(), None);
    // A directory that becomes a link after it was found.
    let sub = ino(&layer, "sub");
    let file = ino(&layer, "sub/file");
    fs::rename(dir.path().join("sub"), dir.path().join("moved")).unwrap();
    symlink("moved", dir.path().join("sub")).unwrap();
    layer.state.lock().open.clear();
    assert!(layer.read_dir(sub).is_err());
    assert!(layer.read_at(file, 0, &mut [0; 4]).is_err());
}

#[test]
fn concurrent_changes_cause_errors_that_name_the_file() {
    let (dir, layer) = setup();
    let file = ino(&layer, "sub/file");
    let other = dir.path().join("other");
    fs::File::options().write(true).open(&other).unwrap().set_len(3).unwrap();
    let error = layer.read_at(file, 0, &mut [0; 10]).unwrap_err().to_string();
    assert!(error.contains("became shorter"), "{error}");
    assert!(error.contains(&*dir.path().to_string_lossy()), "{error}");
    layer.state.lock().open.clear();
    fs::remove_file(dir.path().join("sub/file")).unwrap();
    fs::write(dir.path().join("sub/file"), b"another").unwrap();
    let error = layer.read_at(file, 0, &mut [0; 10]).unwrap_err().to_string();
    assert!(error.contains("was replaced") && error.contains("sub/file"), "{error}");
    let missing = DirectoryLayer::open(&dir.path().join("missing")).unwrap_err().to_string();
    assert!(missing.contains("cannot be read"), "{missing}");
}

#[test]
fn unsupported_attributes_of_overlayfs_are_rejected() {
    for name in ["user.overlay.redirect", "user.overlay.metacopy", "user.overlay.whiteout"] {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("some/dir");
        std::fs::create_dir_all(&inner).unwrap();
        std::fs::write(inner.join("file"), "x").unwrap();
        let marked = if name.ends_with("redirect") { inner.clone() } else { inner.join("file") };
        rustix::fs::setxattr(&marked, name, b"/x", rustix::fs::XattrFlags::empty()).unwrap();
        let layer = DirectoryLayer::open(dir.path()).unwrap();
        let refused = layer.check_overlayfs_attributes().unwrap_err().to_string();
        let path = if name.ends_with("redirect") { "/some/dir " } else { "/some/dir/file " };
        assert!(refused.contains(path) && refused.contains(name), "{refused}");
    }
    let dir = tempfile::tempdir().unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(dir.path(), "user.overlay.opaque", b"y", flags).unwrap();
    rustix::fs::setxattr(dir.path(), "user.overlay.origin", b"x", flags).unwrap();
    std::os::unix::fs::symlink("/", dir.path().join("out")).unwrap();
    assert_eq!(
        DirectoryLayer::open(dir.path()).unwrap().check_overlayfs_attributes().unwrap(),
        None
    );
}
