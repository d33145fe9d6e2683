//! A base with every kind of entry, and every kind of change to it.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, PermissionsExt, lchown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, RenameFlags, Timespec, Timestamps, makedev, mknodat,
    renameat_with, utimensat,
};

/// Operations on paths below a folder.
struct Below<'a>(&'a Path);

impl Below<'_> {
    fn path(&self, path: impl AsRef<[u8]>) -> PathBuf {
        self.0.join(std::ffi::OsStr::from_bytes(path.as_ref()))
    }

    fn dir(&self, path: impl AsRef<[u8]>) {
        fs::create_dir(self.path(path)).unwrap();
    }

    fn file(&self, path: impl AsRef<[u8]>, content: impl AsRef<[u8]>) {
        fs::write(self.path(path), content).unwrap();
    }

    fn append(&self, path: &str, content: &[u8]) {
        let mut file = OpenOptions::new().append(true).open(self.path(path)).unwrap();
        file.write_all(content).unwrap();
    }

    fn write_at(&self, path: &str, offset: u64, content: &[u8]) {
        let file = OpenOptions::new().write(true).open(self.path(path)).unwrap();
        file.write_all_at(content, offset).unwrap();
    }

    fn truncate(&self, path: &str, size: u64) {
        OpenOptions::new().write(true).open(self.path(path)).unwrap().set_len(size).unwrap();
    }

    fn link(&self, from: &str, to: &str) {
        fs::hard_link(self.path(from), self.path(to)).unwrap();
    }

    fn symlink(&self, target: &str, path: &str) {
        symlink(target, self.path(path)).unwrap();
    }

    fn node(&self, path: &str, kind: FileType, mode: u32, major: u32, minor: u32) {
        let mode = Mode::from_raw_mode(mode);
        mknodat(CWD, self.path(path), kind, mode, makedev(major, minor))
            .unwrap_or_else(|e| panic!("mknod {path}: {e}"));
    }

    fn mode(&self, path: impl AsRef<[u8]>, mode: u32) {
        fs::set_permissions(self.path(path), PermissionsExt::from_mode(mode)).unwrap();
    }

    fn owner(&self, path: &str, uid: u32, gid: u32) {
        lchown(self.path(path), Some(uid), Some(gid))
            .unwrap_or_else(|e| panic!("chown {path}: {e}"));
    }

    fn time(&self, path: &str, seconds: i64) {
        let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
        let times = Timestamps { last_access: time, last_modification: time };
        utimensat(CWD, self.path(path), &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }

    fn rename(&self, from: &str, to: &str) {
        fs::rename(self.path(from), self.path(to))
            .unwrap_or_else(|e| panic!("rename {from} {to}: {e}"));
    }

    fn rename_with(&self, from: &str, to: &str, flags: RenameFlags) {
        renameat_with(CWD, self.path(from), CWD, self.path(to), flags)
            .unwrap_or_else(|e| panic!("renameat2 {from} {to}: {e}"));
    }

    fn unlink(&self, path: &str) {
        fs::remove_file(self.path(path)).unwrap();
    }

    fn remove(&self, path: &str) {
        fs::remove_dir_all(self.path(path)).unwrap();
    }

    /// Replaces a file by renaming a new one over it, as `sed -i` and `dpkg` do.
    fn replace(&self, path: &str, content: &[u8]) {
        let temporary = format!("{path}.new");
        self.file(&temporary, content);
        let mode = fs::metadata(self.path(path)).unwrap().permissions();
        fs::set_permissions(self.path(&temporary), mode).unwrap();
        self.rename(&temporary, path);
    }
}

/// Returns pseudo-random bytes, half of them compressible, for a seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 32);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        match state & 1 {
            0 => bytes.extend_from_slice(&state.to_le_bytes()),
            _ => bytes.extend_from_slice(b"the same words again and again, "),
        }
    }
    bytes.truncate(length);
    bytes
}

/// Fills the folder `root` as a base; requires root, because of devices and owners.
pub(crate) fn base(root: &Path) {
    let b = Below(root);
    for dir in ["dev", "proc", "sys", "run", "tmp", "etc", "usr", "usr/bin", "var"] {
        b.dir(dir);
    }
    b.mode("tmp", 0o1777);
    b.file("etc/hostname", "base\n");
    b.file("etc/hosts", "127.0.0.1 localhost\n");
    b.file("etc/resolv.conf", "# the base's own\n");
    for (name, size) in [
        ("empty", 0),
        ("one", 1),
        ("page", 4096),
        ("block", 131_072),
        ("over", 131_073),
        ("blocks", 1_000_003),
    ] {
        b.file(format!("usr/{name}"), noise(size as u64, size));
    }
    b.dir("links");
    for group in ["kept", "written", "removed", "added", "chmod", "replaced"] {
        b.file(format!("links/{group}-1"), format!("{group}, of three names\n"));
        b.link(&format!("links/{group}-1"), &format!("links/{group}-2"));
        b.link(&format!("links/{group}-1"), &format!("usr/{group}-3"));
    }
    for dir in [
        "under",
        "over",
        "gone",
        "swap-a",
        "swap-b",
        "there-and-back",
        "to-file",
        "to-link",
        "opaque",
        "nested",
        "chmod",
        "times",
        "emptied",
    ] {
        b.dir(dir);
        b.file(format!("{dir}/file"), format!("in {dir}\n"));
        b.dir(format!("{dir}/sub"));
        b.file(format!("{dir}/sub/deep"), format!("deep in {dir}\n"));
        b.dir(format!("{dir}/sub/more"));
        b.file(format!("{dir}/sub/more/deeper"), format!("deeper in {dir}\n"));
        b.symlink("deep", &format!("{dir}/sub/link"));
    }
    b.dir("empty-dir");
    b.file("from-file", "a file at first\n");
    b.symlink("etc/hostname", "from-link");
    b.symlink("nowhere", "dangling");
    for name in ["chmod", "chown", "mtime", "sed", "touched-back", "grown", "cut", "middle"] {
        b.file(format!("etc/{name}"), noise(7, 300_000));
    }
    b.mode("usr/bin", 0o755);
    b.file("usr/bin/su", "#!/bin/sh\n");
    b.mode("usr/bin/su", 0o4755);
    b.dir("nodes");
    b.node("nodes/char", FileType::CharacterDevice, 0o600, 1, 3);
    b.node("nodes/block", FileType::BlockDevice, 0o660, 8, 70_000);
    b.node("nodes/fifo", FileType::Fifo, 0o622, 0, 0);
    b.node("nodes/socket", FileType::Socket, 0o666, 0, 0);
    b.node("nodes/removed", FileType::CharacterDevice, 0o600, 1, 5);
    b.dir("owned");
    b.file("owned/nobody", "nobody's\n");
    b.owner("owned/nobody", 65534, 65534);
    b.file("owned/high", "of 100000\n");
    b.owner("owned/high", 100_000, 100_001);
    b.dir("sparse");
    b.file("sparse/base", "");
    b.truncate("sparse/base", 5_000_000);
    b.write_at("sparse/base", 3_000_000, b"island");
    b.link("sparse/base", "sparse/base-2");
    b.file([b"odd-".as_slice(), &[0xfe; 200]].concat(), "not UTF-8\n");
    for path in ["usr/one", "usr/page", "etc/chmod", "links/kept-1", "nodes/char", "owned/high"] {
        b.time(path, 1_500_000_000);
    }
    b.mode("", 0o755);
}

/// Makes all kinds of changes to the tree at `root`, which is a [`base`].
pub(crate) fn torture(root: &Path) {
    let t = Below(root);
    new_objects(&t);
    links(&t);
    directories(&t);
    contents(&t);
    names(&t);
    attributes(&t);
    traceless(&t);
    times(&t);
}

fn new_objects(t: &Below<'_>) {
    t.dir("new");
    t.file("new/file", noise(1, 200_000));
    t.file("new/empty", "");
    t.symlink("file", "new/link");
    t.symlink(&"t".repeat(300), "new/long-link");
    t.node("new/fifo", FileType::Fifo, 0o640, 0, 0);
    t.node("new/char", FileType::CharacterDevice, 0o620, 5, 1);
    t.node("new/block", FileType::BlockDevice, 0o660, 259, 70_000);
    t.mode("new/block", 0o606);
    t.owner("new/block", 3, 6);
    t.node("new/socket", FileType::Socket, 0o600, 0, 0);
    drop(UnixListener::bind(t.path("new/bound-socket")).unwrap());
    t.unlink("nodes/removed");
    t.mode("nodes/char", 0o666);
    t.unlink("nodes/fifo");
    t.node("nodes/fifo", FileType::CharacterDevice, 0o600, 10, 229);
}

fn links(t: &Below<'_>) {
    t.append("links/written-2", b"and one more line\n");
    t.unlink("links/removed-1");
    t.link("usr/added-3", "new/added-4");
    t.mode("links/chmod-2", 0o600);
    t.replace("links/replaced-2", b"a file of its own\n");
    t.file("new/three-a", noise(3, 70_000));
    t.link("new/three-a", "new/three-b");
    t.link("new/three-b", "etc/three-c");
    t.link("new/char", "new/char-2");
    t.link("new/link", "new/link-2");
    t.link("new/fifo", "new/fifo-2");
    t.link("nodes/block", "nodes/block-2");
    // Linked and unlinked again.
    t.link("new/empty", "new/parted");
    t.unlink("new/parted");
}

fn directories(t: &Below<'_>) {
    // A directory of the base is moved into another one, which is moved too.
    t.rename("under", "over/under");
    t.unlink("over/under/sub/deep");
    t.file("over/under/sub/deep-new", "after the move\n");
    t.rename("over", "nested/over");
    t.remove("nested/over/under/sub/more");
    t.dir("nested/over/under/sub/more");
    t.file("nested/over/under/sub/more/other", "a new directory of an old name\n");
    t.remove("gone");
    t.rename_with("swap-a", "swap-b", RenameFlags::EXCHANGE);
    t.append("swap-a/file", b"was in b\n");
    t.rename("there-and-back", "elsewhere");
    t.rename("elsewhere", "there-and-back");
    t.remove("to-file");
    t.file("to-file", "was a directory\n");
    t.remove("to-link");
    t.symlink("nested/over", "to-link");
    t.unlink("from-file");
    t.dir("from-file");
    t.file("from-file/inside", "was a file\n");
    t.unlink("from-link");
    t.dir("from-link");
    t.file("from-link/inside", "was a link\n");
    // To a file and back to a directory: entries of the first directory must stay hidden.
    t.remove("opaque");
    t.file("opaque", "for a moment\n");
    t.unlink("opaque");
    t.dir("opaque");
    t.file("opaque/file", "not the base's\n");
    t.dir("opaque/sub");
    t.remove("emptied");
    t.dir("emptied");
    t.rename("empty-dir", "new/empty-dir");
    // Renamed over an empty directory.
    t.dir("new/target");
    t.rename("nested/sub", "new/target");
    t.rename_with("etc/hostname", "etc/name", RenameFlags::NOREPLACE);
}

fn contents(t: &Below<'_>) {
    t.append("etc/grown", &noise(8, 100_000));
    t.truncate("etc/cut", 150_001);
    t.write_at("etc/middle", 140_000, b"in the middle");
    t.write_at("usr/blocks", 999_999, b"over the end of it");
    t.truncate("usr/over", 0);
    t.truncate("usr/page", 10_000);
    t.replace("etc/sed", b"changed by a new file\n");
    t.file("sparse/new", "");
    t.truncate("sparse/new", 20_000_000);
    t.write_at("sparse/new", 9_999_999, b"island");
    t.write_at("sparse/base", 4_000_000, b"second island");
    let file = OpenOptions::new().write(true).open(t.path("usr/block")).unwrap();
    let flags = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
    match rustix::fs::fallocate(&file, flags, 10_000, 50_000) {
        Ok(()) => {}
        Err(_) => file.write_all_at(&[0; 50_000], 10_000).unwrap(),
    }
}

fn names(t: &Below<'_>) {
    t.dir("names");
    t.file([b"names/".as_slice(), &[0xff; 255]].concat(), "255 bytes, none of them UTF-8\n");
    let long = "n".repeat(255);
    t.dir(format!("names/{long}"));
    t.file(format!("names/{long}/{long}"), "255 bytes twice\n");
    for name in [
        "new\nline",
        "-rf",
        "TRAILER!!!",
        " ",
        "tab\t",
        "back\\slash",
        "*",
        "~",
        "...",
        "sch\u{f6}n",
    ] {
        t.file(format!("names/{name}"), name);
    }
    t.file("names/latin-\u{1}".as_bytes(), "control");
    t.file(b"names/latin-\xe9", "latin 1");
    let mut deep = "names/deep".to_owned();
    t.dir(&deep);
    for depth in 0..40 {
        deep = format!("{deep}/directory-{depth:040}");
        t.dir(&deep);
    }
    t.file(format!("{deep}/file"), "far down\n");
}

fn attributes(t: &Below<'_>) {
    t.mode("etc/chmod", 0o640);
    t.owner("etc/chown", 33, 44);
    t.mode("chmod", 0o2750);
    t.file("new/setuid", "#!/bin/sh\n");
    t.owner("new/setuid", 1, 2);
    t.mode("new/setuid", 0o6755);
    let mut builder = fs::DirBuilder::new();
    builder.mode(0o700).create(t.path("new/sticky")).unwrap();
    t.mode("new/sticky", 0o1777);
    t.file("new/none", "nobody may\n");
    t.mode("new/none", 0);
    t.dir("new/group");
    t.owner("new/group", 0, 50);
    t.mode("new/group", 0o2775);
    t.file("new/group/inherits", "the group of its directory\n");
    t.dir("new/group/inherits-too");
    for (id, name) in [(65534, "nobody"), (100_000, "high"), (65_535, "last")] {
        t.file(format!("new/{name}"), name);
        t.owner(&format!("new/{name}"), id, id);
        t.dir(format!("new/{name}.d"));
        t.owner(&format!("new/{name}.d"), id, id);
        t.symlink(name, &format!("new/{name}.l"));
        t.owner(&format!("new/{name}.l"), id, id);
    }
    t.owner("owned/nobody", 0, 0);
    t.mode("owned/high", 0o604);
    t.mode("usr/bin/su", 0o755);
}

/// Makes changes and reverts them.
fn traceless(t: &Below<'_>) {
    t.file("new/passing", "not for long\n");
    t.unlink("new/passing");
    t.dir("passing");
    t.file("passing/file", "");
    t.remove("passing");
    t.rename("links/kept-1", "links/kept-x");
    t.rename("links/kept-x", "links/kept-1");
    t.mode("usr/one", 0o600);
    t.mode("usr/one", 0o644);
    let before = fs::metadata(t.path("etc/touched-back")).unwrap();
    let content = fs::read(t.path("etc/touched-back")).unwrap();
    File::create(t.path("etc/touched-back")).unwrap().write_all(&content).unwrap();
    t.time("etc/touched-back", std::os::unix::fs::MetadataExt::mtime(&before));
}

fn times(t: &Below<'_>) {
    t.time("etc/mtime", 1_234_567_890);
    t.time("times", 1_234_567_890);
    for (name, time) in [
        ("before-1970", -1),
        ("long-before-1970", -2_000_000_000),
        ("begin", 0),
        ("after-2038", 3_000_000_000),
        ("after-2106", 5_000_000_000),
    ] {
        let path = format!("new/{name}");
        t.file(&path, name);
        t.time(&path, time);
    }
    t.time("new/link", 1_111_111_111);
    t.time("new/char", 1_111_111_111);
}

/// Creates a sparse file of three gibibytes with a few data bytes.
pub(crate) fn three_gibibytes(root: &Path) {
    let t = Below(root);
    t.file("large", "at the beginning");
    t.truncate("large", 3 << 30);
    t.write_at("large", (2 << 30) + 12_345, b"beyond two gibibytes");
    t.write_at("large", (3 << 30) - 7, b"the end");
}
