//! Compares the squashfs layer with other readers: the kernel's (each object, compressor and block
//! size; needs root to mount), and backhand.
//!
//! `OVERCOAT_BASE=IMAGE` also compares a real base image.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io::Read as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use crate::support::{self, COMPRESSORS, Random, change_directory_sizes, mksquashfs, open};
use fs_model::layer::squashfs::SquashfsLayer;
use fs_model::layer::{Layer, LayerEntry, LayerIno};
use fs_model::{Device, FileType};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};

/// Returns whether mounting is possible. Tests in CI run as root.
fn may_mount() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("skipped: needs root (mounts squashfs images with the kernel)");
    }
    root
}

/// A kernel mount of an image, unmounted on drop.
///
/// Each image must be a separate file: a loop device may outlive its mount for a moment, and the
/// next mount of the same file would reuse it with its cached pages.
struct KernelMount(PathBuf);

impl KernelMount {
    fn new(image: &Path, at: PathBuf) -> Self {
        fs::create_dir_all(&at).unwrap();
        let output = Command::new("mount")
            .args(["-t", "squashfs", "-o", "loop,ro"])
            .args([image, &at])
            .output()
            .unwrap();
        let why = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "mount {}: {why}", image.display());
        let mount = KernelMount(at);
        let above = mount.0.parent().unwrap().metadata().unwrap().dev();
        assert_ne!(mount.0.metadata().unwrap().dev(), above, "the mount is gone at once");
        mount
    }
}

impl Drop for KernelMount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// Creates a tree with every kind of object that squashfs supports.
fn full_tree(root: &Path) {
    let mut random = Random(1);
    fs::create_dir_all(root.join("dir/nested/deeper")).unwrap();
    fs::create_dir(root.join("dir/empty")).unwrap();
    fs::write(root.join("empty"), b"").unwrap();
    fs::write(root.join("small"), b"a fragment").unwrap();
    fs::write(root.join("block-4k"), random.text(4096)).unwrap();
    fs::write(root.join("block-128k"), random.text(128 << 10)).unwrap();
    fs::write(root.join("tail"), random.text((128 << 10) + 777)).unwrap();
    let mut big = random.text(1_500_000);
    big.extend(random.bytes(1_200_000));
    big.extend(random.text(1_300_001));
    fs::write(root.join("dir/big"), &big).unwrap();
    fs::write(root.join("dir/big-copy"), &big).unwrap();
    for i in 0..40 {
        let len = random.below(9_000) as usize;
        fs::write(root.join(format!("dir/nested/tail-{i}")), random.text(len)).unwrap();
    }

    for (name, hole_at, size) in
        [("sparse", 3_000_000, 6_000_000), ("sparse-tail", 10, 2_000_123), ("all-hole", 0, 999_999)]
    {
        let file = fs::File::create(root.join(name)).unwrap();
        if hole_at > 0 {
            file.write_all_at(b"begin", 0).unwrap();
            file.write_all_at(&random.text(70_000), hole_at).unwrap();
        }
        file.set_len(size).unwrap();
    }

    fs::hard_link(root.join("dir/big"), root.join("big-link")).unwrap();
    fs::hard_link(root.join("small"), root.join("dir/nested/small-link")).unwrap();
    symlink("dir/big", root.join("symlink")).unwrap();
    symlink("t/".repeat(2000), root.join("symlink-of-4000")).unwrap();
    symlink("ü\u{1f9e5}", root.join("symlink-utf8")).unwrap();
    fs::hard_link(root.join("symlink"), root.join("symlink-link")).unwrap();

    fs::write(root.join("n".repeat(255)), b"longest name").unwrap();
    fs::write(root.join(OsStr::from_bytes(b"not\xff\xfeutf8\n\\")), b"bytes").unwrap();
    fs::create_dir(root.join("many")).unwrap();
    for i in 0..5_000 {
        fs::write(root.join(format!("many/entry-{i:05}-{}", random.below(10))), b"").unwrap();
    }
    fs::hard_link(root.join("dir/big"), root.join("many/zz")).unwrap();

    for (name, kind, mode, device) in [
        ("null", SFlag::S_IFCHR, 0o666, makedev(1, 3)),
        ("high-minor", SFlag::S_IFCHR, 0o600, makedev(240, 0x12345)),
        ("sda", SFlag::S_IFBLK, 0o660, makedev(8, 0)),
        ("whiteout", SFlag::S_IFCHR, 0o000, makedev(0, 0)),
        ("block-zero", SFlag::S_IFBLK, 0o600, makedev(0, 0)),
        ("fifo", SFlag::S_IFIFO, 0o622, 0),
        ("socket", SFlag::S_IFSOCK, 0o755, 0),
    ] {
        mknod(&root.join(name), kind, Mode::from_bits_truncate(mode), device).unwrap();
    }
    fs::hard_link(root.join("null"), root.join("null-link")).unwrap();

    for (name, value) in [("user.plain", &b"value"[..]), ("trusted.t", b"\0\xff"), ("user.e", b"")]
    {
        xattr::set(root.join("small"), name, value).unwrap();
        xattr::set(root.join("dir"), name, value).unwrap();
    }
    for (name, own) in [("fifo", "1"), ("null", "2"), ("symlink", "3"), ("socket", "4")] {
        // The kernel supports user attributes only on files and directories.
        xattr::set(root.join(name), "trusted.own", own.as_bytes()).unwrap();
        xattr::set(root.join(name), "trusted.shared-and-long", &[b'v'; 3000]).unwrap();
    }
    xattr::set(root.join("dir/nested"), "trusted.overlay.opaque", b"y").unwrap();
    xattr::set(root.join("dir/nested"), "user.kept", b"1").unwrap();
    xattr::set(root.join("dir/empty"), "trusted.overlay.opaque", b"x").unwrap();
    fs::write(root.join("ping"), b"#!").unwrap();
    let setcap = Command::new("setcap").arg("cap_net_raw+ep").arg(root.join("ping")).status();
    assert!(setcap.unwrap().success());

    let own = |name: &str, uid, gid| std::os::unix::fs::lchown(root.join(name), uid, gid).unwrap();
    own("small", Some(65534), Some(100_000));
    own("symlink-utf8", Some(1000), Some(4_000_000_000));
    own("dir/nested", Some(33), Some(33));
    let mode = |name: &str, mode| {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(root.join(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    mode("small", 0o4755);
    mode("dir/empty", 0o1777);
    mode("dir/nested/deeper", 0o2750);
    mode("empty", 0);
    for (name, secs) in [("empty", 0), ("small", 0xffff_ffff), ("dir/big", 0x8000_0000)] {
        let file = fs::File::open(root.join(name)).unwrap();
        file.set_modified(UNIX_EPOCH + Duration::from_secs(secs)).unwrap();
    }
}

/// The attributes of an object that are compared. The type is encoded as in `st_mode`.
#[derive(Debug, PartialEq, Eq)]
struct Object {
    mode: u32,
    owner: (u32, u32),
    device: Device,
    mtime: i64,
    nlink: Option<u32>,
    size: u64,
    target: Option<Vec<u8>>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    opaque: bool,
}

/// All objects by path, and the sets of paths that share an inode.
struct Side {
    objects: BTreeMap<Vec<u8>, Object>,
    links: BTreeSet<Vec<Vec<u8>>>,
}

fn links_of(by_ino: BTreeMap<u64, Vec<Vec<u8>>>) -> BTreeSet<Vec<Vec<u8>>> {
    by_ino
        .into_values()
        .filter(|paths| paths.len() > 1)
        .map(|mut paths| {
            paths.sort();
            paths
        })
        .collect()
}

fn kernel_side(mount: &Path) -> Side {
    let (mut objects, mut by_ino) = (BTreeMap::new(), BTreeMap::<u64, Vec<_>>::new());
    let mut left = vec![mount.to_owned()];
    while let Some(path) = left.pop() {
        let meta = path.symlink_metadata().unwrap();
        let name = path.strip_prefix(mount).unwrap().as_os_str().as_bytes().to_vec();
        if meta.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        by_ino.entry(meta.ino()).or_default().push(name.clone());
        let names = match xattr::list(&path) {
            Ok(names) => Some(names),
            // An image without attributes has no table for them.
            Err(error) if error.raw_os_error() == Some(nix::libc::EOPNOTSUPP) => None,
            Err(error) => panic!("{}: {error}", path.display()),
        };
        let mut xattrs: BTreeMap<Vec<u8>, Vec<u8>> = names
            .into_iter()
            .flatten()
            .map(|name| {
                let value = xattr::get(&path, &name).unwrap().unwrap();
                (name.into_vec(), value)
            })
            .collect();
        let opaque = xattrs.get(&b"trusted.overlay.opaque"[..]).is_some_and(|v| v == b"y");
        xattrs.retain(|name, _| !name.starts_with(b"trusted.overlay."));
        let kind = meta.file_type();
        let is_device = kind.is_char_device() || kind.is_block_device();
        let object = Object {
            mode: meta.mode(),
            owner: (meta.uid(), meta.gid()),
            device: if is_device {
                Device::from_u32(meta.rdev() as u32)
            } else {
                Device::default()
            },
            mtime: meta.mtime(),
            nlink: (!meta.is_dir()).then_some(meta.nlink() as u32),
            size: meta.size(),
            target: meta
                .is_symlink()
                .then(|| fs::read_link(&path).unwrap().into_os_string().into_vec()),
            xattrs,
            opaque,
        };
        objects.insert(name, object);
    }
    Side { objects, links: links_of(by_ino) }
}

/// Returns the layer's objects. The attributes of whiteouts, which a layer does not have, are
/// copied from `kernel`, after checking that they are devices 0:0 there.
fn layer_side(layer: &SquashfsLayer, kernel: &mut Side) -> Side {
    let (mut objects, mut by_ino) = (BTreeMap::new(), BTreeMap::<u64, Vec<_>>::new());
    let mut left = vec![(Vec::new(), layer.root(), FileType::Directory)];
    while let Some((path, ino, kind)) = left.pop() {
        let attr = layer.attr(ino).unwrap();
        assert_eq!(attr.kind, kind, "{}", path.escape_ascii());
        if kind == FileType::Directory {
            for entry in layer.read_dir(ino).unwrap() {
                let found = layer.lookup(ino, &entry.name).unwrap();
                assert_eq!(found, Some(entry.entry), "{}", entry.name.escape_ascii());
                let mut path = path.clone();
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend(&entry.name);
                match entry.entry {
                    LayerEntry::Object { ino, kind } => left.push((path, ino, kind)),
                    LayerEntry::Whiteout => {
                        let object = kernel.objects.remove(&path).unwrap_or_else(|| {
                            let (path, known) = (path.escape_ascii(), kernel.objects.len());
                            panic!("{layer:?}: {path} is not one of the kernel's {known} objects")
                        });
                        assert_eq!(object.mode & 0o170000, 0o020000);
                        assert_eq!(object.device, Device::default());
                    }
                }
            }
        }
        by_ino.entry(ino.0).or_default().push(path.clone());
        let object = Object {
            mode: attr.st_mode(),
            owner: (attr.uid, attr.gid),
            device: attr.rdev,
            mtime: attr.mtime.secs,
            nlink: (kind != FileType::Directory).then_some(attr.nlink),
            size: attr.size,
            target: (kind == FileType::Symlink).then(|| layer.read_link(ino).unwrap()),
            xattrs: layer
                .xattrs(ino)
                .unwrap()
                .into_iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
            opaque: layer.is_opaque(ino).unwrap(),
        };
        objects.insert(path, object);
    }
    Side { objects, links: links_of(by_ino) }
}

fn lookup_path(layer: &SquashfsLayer, path: &[u8]) -> LayerIno {
    path.split(|&b| b == b'/').fold(layer.root(), |at, name| {
        match layer.lookup(at, name).unwrap() {
            Some(LayerEntry::Object { ino, .. }) => ino,
            other => panic!("{}: {other:?}", path.escape_ascii()),
        }
    })
}

/// Compares an image as read by the layer and by the kernel.
fn assert_agrees_with_the_kernel(image: &Path, mount_at: PathBuf) {
    let layer = open(image);
    let mount = KernelMount::new(image, mount_at);
    let mut kernel = kernel_side(&mount.0);
    let ours = layer_side(&layer, &mut kernel);
    for (path, object) in &kernel.objects {
        let what = path.escape_ascii();
        assert_eq!(ours.objects.get(path), Some(object), "{}: {what}", image.display());
    }
    assert_eq!(ours.objects.len(), kernel.objects.len(), "objects that the kernel does not see");
    assert_eq!(ours.links, kernel.links);

    let mut buf = vec![0; 1 << 20];
    let mut expected = vec![0; 1 << 20];
    for (path, object) in &kernel.objects {
        if object.mode & 0o170000 != 0o100000 {
            continue;
        }
        let ino = lookup_path(&layer, path);
        let mut file = fs::File::open(mount.0.join(OsStr::from_bytes(path))).unwrap();
        let mut offset = 0;
        loop {
            let n = layer.read_at(ino, offset, &mut buf).unwrap();
            file.by_ref().take(n as u64).read_exact(&mut expected[..n]).unwrap();
            assert!(buf[..n] == expected[..n], "{} differs from {offset} on", path.escape_ascii());
            offset += n as u64;
            if n < buf.len() {
                break;
            }
        }
        assert_eq!(offset, object.size, "{}", path.escape_ascii());
    }
}

#[test]
fn all_compressors_and_block_sizes_agree_with_the_kernel() {
    if !may_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    full_tree(&tree);
    for compressor in COMPRESSORS {
        for block_size in ["4096", "131072", "1048576"] {
            let options = ["-comp", compressor, "-b", block_size];
            let name = format!("{compressor}-{block_size}");
            let image = mksquashfs(&tree, dir.path().join(&name), &options);
            assert_agrees_with_the_kernel(&image, dir.path().join(name + "-mount"));
            fs::remove_file(image).unwrap();
        }
    }
}

#[test]
fn fragment_and_table_options_agree_with_the_kernel() {
    if !may_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    full_tree(&tree);
    let variants = [
        &["-always-use-fragments"][..],
        &["-no-fragments"],
        &["-noI", "-noX"],
        &["-noD", "-noF"],
        &["-noI", "-noD", "-noF", "-noX", "-noId", "-b", "4096"],
        &["-no-exports", "-no-xattrs", "-no-sparse", "-no-duplicates"],
        &["-comp", "gzip", "-Xcompression-level", "1", "-Xwindow-size", "9"],
        &["-comp", "xz", "-Xbcj", "x86,arm"],
        &["-comp", "lz4", "-Xhc"],
    ];
    for (i, options) in variants.iter().enumerate() {
        let image = mksquashfs(&tree, dir.path().join(format!("image-{i}")), options);
        assert_agrees_with_the_kernel(&image, dir.path().join(format!("mount-{i}")));
        fs::remove_file(image).unwrap();
    }
}

/// tar2sqfs before 1.1.3 and go-diskfs store the exact size of a listing; mksquashfs adds 3 bytes.
/// The kernel checks the size only at the start of a run, and the shortest run has 21 bytes.
#[test]
fn smaller_directory_sizes_agree_with_the_kernel() {
    if !may_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    full_tree(&tree);
    // A single entry with a name of one byte: the shortest possible listing.
    fs::create_dir_all(tree.join("s/s/s")).unwrap();
    let image = mksquashfs(&tree, dir.path().join("image"), &["-noI"]);
    let original = fs::read(&image).unwrap();
    let mut random = Random(8);
    let mut mixed = move |size: u32| size.saturating_sub(random.below(21) as u32);
    let changes: [(&str, &mut dyn FnMut(u32) -> u32); 5] = [
        ("exact", &mut |size| size - 3),
        ("exact-plus-1", &mut |size| size - 2),
        ("exact-plus-2", &mut |size| size - 1),
        ("within-the-last-run", &mut |size| size.saturating_sub(20)),
        ("mixed", &mut mixed),
    ];
    for (name, change) in changes {
        let mut changed = original.clone();
        change_directory_sizes(&mut changed, change);
        assert_ne!(changed, original);
        let image = dir.path().join(name);
        fs::write(&image, changed).unwrap();
        assert_agrees_with_the_kernel(&image, dir.path().join(format!("{name}-mount")));
        fs::remove_file(image).unwrap();
    }
}

#[test]
fn file_beyond_4_gib_agrees_with_the_kernel() {
    if !may_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    let size = (4 << 30) + 300_001;
    let file = fs::File::create(tree.join("huge")).unwrap();
    let mut random = Random(3);
    let marks = [0, 1 << 30, (4u64 << 30) - 5, size - 200_000];
    for at in marks {
        file.write_all_at(&random.text(200_000), at).unwrap();
    }
    assert_eq!(file.metadata().unwrap().len(), size);
    let image = mksquashfs(&tree, dir.path().join("image"), &["-b", "131072"]);
    let layer = open(&image);
    let mount = KernelMount::new(&image, dir.path().join("mount"));
    let kernel = fs::File::open(mount.0.join("huge")).unwrap();
    let ino = support::find(&layer, "huge");
    assert_eq!(layer.attr(ino).unwrap().size, size);
    let (mut ours, mut theirs) = (vec![0; 300_000], vec![0; 300_000]);
    // Backwards, so that the first read needs all previous positions.
    for at in marks.into_iter().rev().chain([size - 1, size]) {
        let at = at.saturating_sub(50_000);
        let n = layer.read_at(ino, at, &mut ours).unwrap();
        assert_eq!(n as u64, (size - at).min(300_000));
        kernel.read_exact_at(&mut theirs[..n], at).unwrap();
        assert!(ours[..n] == theirs[..n], "at {at}");
    }
    // Data is at the written positions, rounded to blocks, and nowhere else.
    let mut at = 0;
    let mut data = 0;
    while let Some(range) = layer.next_data(ino, at).unwrap() {
        data += range.end - range.start;
        at = range.end;
    }
    assert!((800_000 - 5..3 << 20).contains(&data), "{data}");
}

#[test]
fn real_base_agrees_with_the_kernel() {
    let Some(image) = std::env::var_os("OVERCOAT_BASE") else {
        eprintln!("skipped: OVERCOAT_BASE is not set");
        return;
    };
    if may_mount() {
        let dir = tempfile::tempdir().unwrap();
        assert_agrees_with_the_kernel(Path::new(&image), dir.path().join("mount"));
    }
}

#[test]
fn backhand_agrees() {
    use backhand::{FilesystemReader, InnerNode};
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    // Without features that backhand does not support: long targets, hard links, attributes.
    support::small_tree(&tree);
    fs::remove_file(tree.join("long-link")).unwrap();
    fs::remove_file(tree.join("etc/passwd-")).unwrap();
    for compressor in ["gzip", "xz", "zstd"] {
        let mut options = vec!["-comp", compressor, "-b", "8192", "-no-xattrs"];
        options.extend(support::SPECIAL_FILES);
        let image = mksquashfs(&tree, dir.path().join("image"), &options);
        let layer = open(&image);
        let reader = std::io::BufReader::new(fs::File::open(&image).unwrap());
        let theirs = FilesystemReader::from_reader(reader).unwrap();
        let mut count = 0;
        for node in theirs.files().filter(|node| node.fullpath != Path::new("/")) {
            count += 1;
            let path = node.fullpath.as_os_str().as_bytes().strip_prefix(b"/").unwrap();
            if path == b"whiteout" {
                let entry = layer.lookup(layer.root(), path).unwrap();
                assert_eq!(entry, Some(LayerEntry::Whiteout));
                continue;
            }
            let ino = lookup_path(&layer, path);
            let attr = layer.attr(ino).unwrap();
            let header = node.header;
            assert_eq!(attr.mode, header.permissions & 0o7777);
            assert_eq!((attr.uid, attr.gid), (header.uid, header.gid));
            assert_eq!(attr.mtime.secs, i64::from(header.mtime));
            let kind = match &node.inner {
                InnerNode::File(file) => {
                    let mut content = Vec::new();
                    theirs.file(file).reader().read_to_end(&mut content).unwrap();
                    let ours = support::read_all(&layer, ino, 10_000).unwrap();
                    assert!(ours == content, "{}", path.escape_ascii());
                    FileType::Regular
                }
                InnerNode::Symlink(symlink) => {
                    assert_eq!(layer.read_link(ino).unwrap(), symlink.link.as_os_str().as_bytes());
                    FileType::Symlink
                }
                InnerNode::Dir(_) => FileType::Directory,
                InnerNode::CharacterDevice(_) => FileType::CharDevice,
                InnerNode::BlockDevice(_) => FileType::BlockDevice,
                InnerNode::NamedPipe => FileType::Fifo,
                InnerNode::Socket => FileType::Socket,
            };
            assert_eq!(attr.kind, kind);
        }
        let ours = support::walk(&layer, &support::SMALL).unwrap();
        assert_eq!(ours.len(), count);
    }
}
