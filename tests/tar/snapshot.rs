//! The objects of a directory or a tree, for comparison.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::{fmt, fs};

use fs_model::layer::Limits;
use fs_model::layer::tar::TarLayer;
use fs_model::tree::{TreeOptions, XattrSupport};
use fs_model::{Attr, FileType, Ino, Tree};
use sha2::{Digest, Sha256};

/// Objects by path from the root, which is the empty path.
pub(crate) type Snapshot = BTreeMap<Vec<u8>, Object>;

#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Object {
    pub(crate) kind: FileType,
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: (i64, u32),
    pub(crate) device: (u32, u32),
    pub(crate) size: u64,
    /// SHA-256 of a file's content, or the target of a symbolic link.
    pub(crate) content: Vec<u8>,
    /// The first path of the object.
    pub(crate) first: Vec<u8>,
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Object { kind, mode, uid, gid, mtime, device, size, .. } = self;
        write!(f, "{kind:?} {mode:o} {uid}:{gid} {mtime:?} {device:?} {size} bytes")?;
        write!(f, " {} first {}", self.content.escape_ascii(), self.first.escape_ascii())?;
        self.xattrs
            .iter()
            .try_for_each(|(k, v)| write!(f, " {}={}", k.escape_ascii(), v.escape_ascii()))
    }
}

/// Files of more bytes than this are compared by size alone, because they are holes.
const MAX_DIGESTED: u64 = 64 << 20;

/// The objects of a host directory.
pub(crate) fn of_directory(root: &Path) -> Snapshot {
    let mut snapshot = Snapshot::new();
    let mut firsts = BTreeMap::new();
    let mut ahead = vec![Vec::new()];
    let mut paths = Vec::new();
    while let Some(path) = ahead.pop() {
        let host = root.join(OsStr::from_bytes(&path));
        if fs::symlink_metadata(&host).unwrap().is_dir() {
            for entry in fs::read_dir(&host).unwrap() {
                ahead.push(join(&path, entry.unwrap().file_name().as_bytes()));
            }
        }
        paths.push(path);
    }
    paths.sort();
    for path in paths {
        let host = root.join(OsStr::from_bytes(&path));
        let meta = fs::symlink_metadata(&host).unwrap();
        let kind = FileType::from_mode(meta.mode()).unwrap();
        let content = match kind {
            FileType::Symlink => fs::read_link(&host).unwrap().as_os_str().as_bytes().to_vec(),
            FileType::Regular if meta.size() <= MAX_DIGESTED => {
                let mut content = Vec::new();
                fs::File::open(&host).unwrap().read_to_end(&mut content).unwrap();
                Sha256::digest(&content).to_vec()
            }
            _ => Vec::new(),
        };
        let rdev = meta.rdev();
        let object = Object {
            kind,
            mode: (meta.mode() & 0o7777) as u16,
            uid: meta.uid(),
            gid: meta.gid(),
            mtime: (meta.mtime(), meta.mtime_nsec() as u32),
            device: match kind.is_device() {
                true => (rustix::fs::major(rdev), rustix::fs::minor(rdev)),
                false => (0, 0),
            },
            size: if kind == FileType::Directory { 0 } else { meta.size() },
            content,
            first: firsts.entry(meta.ino()).or_insert_with(|| path.clone()).clone(),
            xattrs: host_xattrs(&host),
        };
        snapshot.insert(path, object);
    }
    snapshot
}

fn host_xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 65536];
    let length = rustix::fs::llistxattr(path, &mut names).unwrap();
    let names = names[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let mut value = vec![0; 65536];
            let key = OsStr::from_bytes(name);
            let length = rustix::fs::lgetxattr(path, key, &mut value).unwrap();
            value.truncate(length);
            (name.to_vec(), value)
        })
        .collect()
}

/// The objects of a tree.
pub(crate) fn of_tree(tree: &Tree) -> Snapshot {
    let mut snapshot = Snapshot::new();
    let mut found = vec![(Vec::new(), Ino::ROOT)];
    let mut at = 0;
    while let Some((path, dir)) = found.get(at).cloned() {
        at += 1;
        if tree.attr(dir).unwrap().kind != FileType::Directory {
            continue;
        }
        let mut names = Vec::new();
        tree.read_dir(dir, 0, |item| {
            names.push(item.name.to_vec());
            true
        })
        .unwrap();
        for name in names.iter().filter(|name| *name != b"." && *name != b"..") {
            found.push((join(&path, name), tree.lookup(dir, name).unwrap().ino));
        }
    }
    found.sort();
    let mut firsts = BTreeMap::new();
    for (path, ino) in found {
        let attr = tree.attr(ino).unwrap();
        let first = firsts.entry(ino).or_insert_with(|| path.clone()).clone();
        snapshot.insert(path, object(tree, ino, &attr, first));
    }
    snapshot
}

fn object(tree: &Tree, ino: Ino, attr: &Attr, first: Vec<u8>) -> Object {
    let content = match attr.kind {
        FileType::Symlink => tree.read_link(ino).unwrap(),
        FileType::Regular if attr.size <= MAX_DIGESTED => {
            let mut content = vec![0; attr.size as usize];
            assert_eq!(tree.read(ino, 0, &mut content).unwrap() as u64, attr.size);
            Sha256::digest(&content).to_vec()
        }
        _ => Vec::new(),
    };
    let xattrs = tree.xattrs(ino).unwrap();
    Object {
        kind: attr.kind,
        mode: attr.mode,
        uid: attr.uid,
        gid: attr.gid,
        mtime: (attr.mtime.secs, attr.mtime.nanos),
        device: match attr.kind.is_device() {
            true => (attr.rdev.major, attr.rdev.minor),
            false => (0, 0),
        },
        size: if attr.kind == FileType::Directory { 0 } else { attr.size },
        content,
        first,
        xattrs: xattrs.into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
    }
}

fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    if path.is_empty() { name.to_vec() } else { [path, b"/", name].concat() }
}

/// The first differences of two snapshots, in words; empty when they are the same. The times of
/// directories that GNU tar set to now do not count, and neither do owner, mode and attributes of
/// those that the archive does not describe: GNU tar has them inherit from their parents, unless
/// these get their own attributes later.
pub(crate) fn differences(expected: &Snapshot, found: &Snapshot) -> String {
    let (mut expected, mut found) = (expected.clone(), found.clone());
    for path in new_directories(&expected) {
        let Some(other) = found.get_mut(&path) else { continue };
        let Some(object) = expected.get_mut(&path) else { continue };
        if object.kind == other.kind {
            other.mtime = object.mtime;
            if (other.mode, other.uid, other.gid) == (0o755, 0, 0) && other.xattrs.is_empty() {
                *other = object.clone();
            }
        }
    }
    let mut text = String::new();
    let mut paths: Vec<_> = expected.keys().chain(found.keys()).collect();
    paths.sort();
    paths.dedup();
    for path in paths {
        let (expected, found) = (expected.get(path), found.get(path));
        if expected != found && text.len() < 4000 {
            text += &format!(
                "{}\n  expected {expected:?}\n  found    {found:?}\n",
                path.escape_ascii()
            );
        }
    }
    text
}

/// Directories that were made or changed just now: those that the archive does not describe, and
/// those into which GNU tar put something after it had set their times.
fn new_directories(snapshot: &Snapshot) -> Vec<Vec<u8>> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let is_new = |object: &Object| {
        object.kind == FileType::Directory && (object.mtime.0 - now.as_secs() as i64).abs() < 3600
    };
    snapshot.iter().filter(|(_, object)| is_new(object)).map(|(path, _)| path.clone()).collect()
}

/// The files that GNU tar extracts from an archive, or its error messages.
pub(crate) fn by_gnu_tar(archive: &Path, out: &Path) -> Result<Snapshot, String> {
    fs::create_dir(out).unwrap();
    let tar = Command::new("sh")
        .args([
            "-c",
            "umask 022; exec tar -xp --numeric-owner --acls --xattrs \
                --xattrs-include='*' -f \"$0\" -C \"$1\"",
        ])
        .args([archive, out])
        .env("LC_ALL", "C")
        .output()
        .unwrap();
    let found = tar.status.success().then(|| of_directory(out));
    found.ok_or_else(|| String::from_utf8_lossy(&tar.stderr).into_owned())
}

/// The objects that overcoat imports from an archive, with the notes that it reports.
pub(crate) fn by_overcoat(archive: &[u8]) -> Result<(Snapshot, Vec<String>), String> {
    imported(archive).map(|(tree, notes)| (of_tree(&tree), notes))
}

/// The objects of an archive that is a layer.
pub(crate) fn as_layer(archive: &[u8]) -> Result<Snapshot, String> {
    let image = std::sync::Arc::new(archive.to_vec());
    let layer = TarLayer::open("archive", image, Limits::default()).map_err(|e| e.to_string())?;
    let options = TreeOptions { upper_limit: None, xattrs: XattrSupport::All };
    Ok(of_tree(&Tree::new(vec![std::sync::Arc::new(layer)], options).unwrap()))
}

/// Checks that an archive has the same objects as a layer and as an imported root. In a layer,
/// names of whiteouts are no files, ACLs have no names, and an archive without a member for the
/// root has none.
pub(crate) fn assert_same_layer(name: &str, archive: &[u8], imported: &Snapshot) {
    let mut imported = imported.clone();
    let is_whiteout =
        |path: &Vec<u8>| path.split(|&byte| byte == b'/').any(|name| name.starts_with(b".wh."));
    imported.retain(|path, _| !is_whiteout(path));
    match as_layer(archive) {
        Ok(mut layer) => {
            let root = layer.get_mut(&b""[..]).unwrap();
            root.mtime = imported[&b""[..]].mtime;
            let differences = differences(&imported, &layer);
            assert!(differences.is_empty(), "{name}, as a layer: {differences}");
        }
        Err(error) => assert!(error.contains("its ACL names"), "{name}, as a layer: {error}"),
    }
}

/// The tree that an archive becomes, with the notes that are reported.
pub(crate) fn imported(archive: &[u8]) -> Result<(Tree, Vec<String>), String> {
    let tree = empty_tree();
    let mut notes = Vec::new();
    let mut report = |note| notes.push(note);
    let imported = overcoat::root::import::tar(&tree, archive, |_| false, &mut report);
    tree.check_invariants().unwrap();
    imported.map_err(|error| overcoat::text::error::describe(&error))?;
    Ok((tree, notes))
}

/// A tree without layers, with room for 256 MiB.
fn empty_tree() -> Tree {
    let options = TreeOptions { upper_limit: Some(256 << 20), xattrs: XattrSupport::All };
    Tree::new(Vec::new(), options).unwrap()
}
