//! Archives unpacked by common tools, compared object by object.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use fs_model::attr::{Device, FileType};
use overcoat::seal::Format;

use crate::support::{Data, Sample, everything, is_root, options, sealed, sh};

/// Differences between tools.
#[derive(Clone, Copy, Default)]
struct Tool {
    /// GNU cpio and busybox keep the attributes of an existing directory `.`.
    keeps_root: bool,
    keeps_file_times: bool,
    /// Deletions are `.wh.` names.
    tar: bool,
}

struct Found {
    mode: u32,
    uid: u32,
    gid: u32,
    rdev: u64,
    mtime: i64,
    ino: u64,
    nlink: u64,
    content: Vec<u8>,
}

fn walk(root: &Path, path: &Path, found: &mut BTreeMap<Vec<u8>, Found>) {
    let full = root.join(path);
    let meta = fs::symlink_metadata(&full).unwrap();
    let content = if meta.is_file() {
        fs::read(&full).unwrap()
    } else if meta.is_symlink() {
        fs::read_link(&full).unwrap().into_os_string().into_vec()
    } else {
        Vec::new()
    };
    let object = Found {
        mode: meta.mode(),
        uid: meta.uid(),
        gid: meta.gid(),
        rdev: meta.rdev(),
        mtime: meta.mtime(),
        ino: meta.ino(),
        nlink: meta.nlink(),
        content,
    };
    let is_dir = meta.is_dir();
    found.insert(path.as_os_str().as_bytes().to_vec(), object);
    if is_dir {
        for entry in fs::read_dir(&full).unwrap() {
            walk(root, &path.join(entry.unwrap().file_name()), found);
        }
    }
}

fn compare(sample: &Sample, root: &Path, tool: Tool) {
    let as_root = is_root();
    let mut found = BTreeMap::new();
    walk(root, Path::new(""), &mut found);
    let mut links = BTreeMap::<u64, u64>::new();
    for entry in &sample.delta.entries {
        let mut path = entry.path.to_vec();
        let name = path.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
        let text = String::from_utf8_lossy(&entry.path).into_owned();
        let Some(object) = &entry.object else {
            if tool.tar {
                path.splice(name..name, *b".wh.");
            }
            let gone = found.remove(&path).unwrap_or_else(|| panic!("{text}: no whiteout"));
            if !tool.tar {
                assert_eq!((gone.mode, gone.rdev), (0o020000, 0), "{text}");
            }
            continue;
        };
        let attr = &object.attr;
        let got = found.remove(&path).unwrap_or_else(|| panic!("{text}: not unpacked"));
        assert_eq!(got.mode & 0o170000, attr.kind.mode_bits(), "{text}: type");
        if attr.kind != FileType::Symlink && !(tool.keeps_root && path.is_empty()) {
            assert_eq!(got.mode, attr.st_mode(), "{text}: mode");
        }
        if as_root {
            assert_eq!((got.uid, got.gid), (attr.uid, attr.gid), "{text}: owner");
        }
        if attr.kind.is_device() {
            let (major, minor) = (rustix::fs::major(got.rdev), rustix::fs::minor(got.rdev));
            assert_eq!(Device { major, minor }, attr.rdev, "{text}: device");
        }
        match attr.kind {
            FileType::Symlink => {
                assert!(got.content == sample.targets[&object.ino.0], "{text}: target");
            }
            FileType::Regular => {
                let expected = match &sample.data[&object.ino.0] {
                    Data::Bytes(bytes) => bytes.clone(),
                    Data::Sparse { size, at, bytes } => {
                        let mut all = vec![0; *size as usize];
                        all[*at as usize..][..bytes.len()].copy_from_slice(bytes);
                        all
                    }
                    Data::Short(_) | Data::Panics => unreachable!(),
                };
                assert!(got.content == expected, "{text}: content");
                let shared = *links.entry(object.ino.0).or_insert(got.ino);
                assert_eq!(got.ino, shared, "{text}: link");
                assert_eq!(got.nlink, u64::from(attr.nlink), "{text}: number of links");
            }
            _ => {}
        }
        if tool.keeps_file_times && attr.kind == FileType::Regular {
            assert_eq!(got.mtime, attr.mtime.secs.clamp(0, u32::MAX.into()), "{text}: time");
        }
    }
    let left: Vec<_> = found.keys().map(|path| String::from_utf8_lossy(path)).collect();
    assert!(left.is_empty(), "unexpected entries: {left:?}");
}

/// Returns the sample without entries that only root can unpack.
fn sample() -> Sample {
    let mut sample = everything();
    if !is_root() {
        sample.delta.entries.retain(|entry| match &entry.object {
            Some(object) => !object.attr.kind.is_device(),
            None => false,
        });
    }
    sample
}

fn unpack(format: Format, command: &str, tool: Tool) {
    let sample = sample();
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("archive"), sealed(&sample, &options(format))).unwrap();
    sh(dir.path(), &format!("umask 0; mkdir root; cd root; {command}"));
    compare(&sample, &dir.path().join("root"), tool);
}

const CPIO: Tool = Tool { keeps_file_times: true, tar: false, keeps_root: true };
const BSDTAR: Tool = Tool { keeps_root: false, ..CPIO };
const TAR: Tool = Tool { tar: true, ..BSDTAR };

#[test]
fn gnu_cpio_unpacks_sealed_archives() {
    unpack(
        Format::CpioGz,
        "gzip -d <../archive | cpio -i",
        Tool { keeps_file_times: false, ..CPIO },
    );
    unpack(Format::CpioGz, "gzip -d <../archive | cpio -im", CPIO);
    unpack(Format::Cpio, "cpio -im <../archive", CPIO);
    unpack(Format::CpioZst, "zstd -d <../archive | cpio -im", CPIO);
}

#[test]
fn busybox_unpacks_sealed_archives() {
    unpack(Format::CpioGz, "busybox zcat <../archive | busybox cpio -im", CPIO);
}

#[test]
fn bsdtar_unpacks_sealed_archives() {
    unpack(Format::CpioGz, "bsdtar -xpf ../archive", BSDTAR);
    unpack(Format::CpioZst, "bsdtar -xpf ../archive", BSDTAR);
}

#[test]
fn gnu_tar_unpacks_a_tar() {
    unpack(Format::Tar, "tar -xpf ../archive", TAR);
}

#[test]
fn bsdtar_unpacks_a_tar() {
    unpack(Format::Tar, "bsdtar -xpf ../archive", TAR);
}
