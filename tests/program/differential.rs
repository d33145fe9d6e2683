//! The same calls on a root of ours and on the kernel's own file systems: overlayfs over the same
//! layers, which is a union, and tmpfs with the same content, which is what a union should not be
//! told from. Every answer is the same, and so is what is there in the end; and what is sealed from
//! ours, unpacked over the layers, is that again.
//!
//! Each run tries new sequences, and first those that failed once (`differential.seeds`).

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use proptest::prelude::*;
use proptest::test_runner::{FileFailurePersistence, TestCaseError, TestRunner};
use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, Mode, OFlags, RenameFlags, SeekFrom, XattrFlags,
};
use rustix::io::Errno;

use crate::listing::{Listing, differences, list};
use crate::support::processes::eventually;
use crate::support::stage::{Finished, Stage, Who, finish};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
/// What overlayfs needs to be told to do as well as it can.
const OVERLAYFS: &str = "redirect_dir=on,index=on,xino=on,metacopy=on";

type Name = PathBuf;

#[derive(Clone, Debug)]
enum Call {
    Mkdir(Name, u32),
    Rmdir(Name),
    Unlink(Name),
    /// Opens for writing: flags beside, mode.
    Open(Name, OFlags, u32),
    Write(Name, u64, usize, u8),
    Append(Name, usize),
    Truncate(Name, u64),
    Punch(Name, u64, u64),
    Rename(Name, Name, RenameFlags),
    Link(Name, Name),
    Symlink(Name, Name),
    Node(Name, FileType, u32),
    Chmod(Name, u32),
    Chown(Name, u32, u32),
    Stat(Name),
    Read(Name),
    ReadLink(Name),
    Data(Name, u64),
    List(Name),
    Xattr(Name),
}

fn name() -> impl Strategy<Value = Name> {
    prop::collection::vec(prop::sample::select(&NAMES[..]), 1..4)
        .prop_map(|names| names.into_iter().collect())
}

fn call() -> impl Strategy<Value = Call> {
    let mode = || prop::sample::select(vec![0o755u32, 0o644, 0o4755, 0o2775, 0o1777, 0o000]);
    let at = || prop_oneof![0u64..100, Just(65_536u64), Just(300_000u64), 0u64..400_000];
    let open = prop::sample::select(vec![
        OFlags::CREATE,
        OFlags::CREATE | OFlags::EXCL,
        OFlags::CREATE | OFlags::TRUNC,
        OFlags::TRUNC,
        OFlags::NOFOLLOW,
        OFlags::DIRECTORY,
    ]);
    let flags = prop::sample::select(vec![
        RenameFlags::empty(),
        RenameFlags::empty(),
        RenameFlags::NOREPLACE,
        RenameFlags::EXCHANGE,
    ]);
    let special = prop::sample::select(vec![
        FileType::Fifo,
        FileType::Socket,
        FileType::CharacterDevice,
        FileType::BlockDevice,
    ]);
    prop_oneof![
        4 => (name(), mode()).prop_map(|(p, m)| Call::Mkdir(p, m)),
        2 => name().prop_map(Call::Rmdir),
        3 => name().prop_map(Call::Unlink),
        4 => (name(), open, mode()).prop_map(|(p, f, m)| Call::Open(p, f, m)),
        4 => (name(), at(), 1usize..5000, any::<u8>()).prop_map(|(p, o, l, b)| Call::Write(p, o, l, b)),
        1 => (name(), 1usize..5000).prop_map(|(p, l)| Call::Append(p, l)),
        2 => (name(), at()).prop_map(|(p, l)| Call::Truncate(p, l)),
        1 => (name(), at(), 1u64..200_000).prop_map(|(p, o, l)| Call::Punch(p, o, l)),
        8 => (name(), name(), flags).prop_map(|(a, b, f)| Call::Rename(a, b, f)),
        3 => (name(), name()).prop_map(|(a, b)| Call::Link(a, b)),
        1 => (name(), name()).prop_map(|(a, b)| Call::Symlink(a, b)),
        1 => (name(), special, 1u32..9).prop_map(|(p, t, d)| Call::Node(p, t, d)),
        2 => (name(), mode()).prop_map(|(p, m)| Call::Chmod(p, m)),
        2 => (name(), 0u32..4, 0u32..4).prop_map(|(p, u, g)| Call::Chown(p, u, g)),
        3 => name().prop_map(Call::Stat),
        2 => name().prop_map(Call::Read),
        1 => name().prop_map(Call::ReadLink),
        1 => (name(), at()).prop_map(|(p, o)| Call::Data(p, o)),
        2 => name().prop_map(Call::List),
        1 => name().prop_map(Call::Xattr),
    ]
}

fn open(root: &Path, name: &Name, flags: OFlags, mode: u32) -> Result<OwnedFd, Errno> {
    // Nobody writes to the other end of a fifo.
    let flags = flags | OFlags::CLOEXEC | OFlags::NONBLOCK;
    rustix::fs::openat(CWD, root.join(name), flags, Mode::from_raw_mode(mode))
}

/// Makes the call below `root`; what came of it, as text. Links of directories count only where
/// both sides count them.
fn outcome(root: &Path, call: &Call, counted: bool) -> String {
    match attempt(root, call, counted) {
        Ok(text) => text,
        Err(errno) => format!("{errno:?}"),
    }
}

fn attempt(root: &Path, call: &Call, counted: bool) -> Result<String, Errno> {
    use rustix::fs;
    let at = |name: &Name| root.join(name);
    let mode = |mode: u32| Mode::from_raw_mode(mode);
    match call {
        Call::Mkdir(p, m) => fs::mkdirat(CWD, at(p), mode(*m))?,
        Call::Rmdir(p) => fs::unlinkat(CWD, at(p), AtFlags::REMOVEDIR)?,
        Call::Unlink(p) => fs::unlinkat(CWD, at(p), AtFlags::empty())?,
        Call::Open(p, flags, m) => {
            open(root, p, *flags | OFlags::WRONLY, *m)?;
        }
        Call::Write(p, offset, len, byte) => {
            let file = open(root, p, OFlags::RDWR, 0)?;
            let written = rustix::io::pwrite(&file, &vec![*byte; *len], *offset)?;
            return Ok(written.to_string());
        }
        Call::Append(p, len) => {
            let file = open(root, p, OFlags::WRONLY | OFlags::APPEND, 0)?;
            return Ok(rustix::io::write(&file, &vec![b'+'; *len])?.to_string());
        }
        Call::Truncate(p, len) => fs::ftruncate(open(root, p, OFlags::WRONLY, 0)?, *len)?,
        Call::Punch(p, offset, len) => {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            fs::fallocate(open(root, p, OFlags::WRONLY, 0)?, flags, *offset, *len)?;
        }
        Call::Rename(a, b, flags) => fs::renameat_with(CWD, at(a), CWD, at(b), *flags)?,
        Call::Link(a, b) => fs::linkat(CWD, at(a), CWD, at(b), AtFlags::empty())?,
        Call::Symlink(target, p) => fs::symlinkat(target, CWD, at(p))?,
        Call::Node(p, kind, number) => {
            let device = if matches!(kind, FileType::CharacterDevice | FileType::BlockDevice) {
                fs::makedev(*number, 7)
            } else {
                0
            };
            fs::mknodat(CWD, at(p), *kind, mode(0o640), device)?;
        }
        Call::Chmod(p, m) => fs::chmodat(CWD, at(p), mode(*m), AtFlags::empty())?,
        Call::Chown(p, uid, gid) => {
            let (uid, gid) = (rustix::fs::Uid::from_raw(*uid), rustix::fs::Gid::from_raw(*gid));
            fs::chownat(CWD, at(p), Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        Call::Stat(p) => {
            let stat = fs::statat(CWD, at(p), AtFlags::SYMLINK_NOFOLLOW)?;
            let kind = FileType::from_raw_mode(stat.st_mode);
            let what =
                format!("{:o} {}:{} {:x}", stat.st_mode, stat.st_uid, stat.st_gid, stat.st_rdev);
            return Ok(match kind {
                FileType::Directory if counted => format!("{what}, {} links", stat.st_nlink),
                FileType::Directory => what,
                _ => format!("{what} {} bytes, {} links", stat.st_size, stat.st_nlink),
            });
        }
        Call::Read(p) => {
            let file = open(root, p, OFlags::RDONLY, 0)?;
            let mut bytes = vec![0; 500_000];
            let mut len = 0;
            while let n @ 1.. = rustix::io::pread(&file, &mut bytes[len..], len as u64)? {
                len += n;
            }
            return Ok(format!("{len} bytes, {:08x}", crc32fast::hash(&bytes[..len])));
        }
        Call::ReadLink(p) => return Ok(format!("{:?}", fs::readlinkat(CWD, at(p), Vec::new())?)),
        Call::Data(p, offset) => {
            let file = open(root, p, OFlags::RDONLY, 0)?;
            if FileType::from_raw_mode(fs::fstat(&file)?.st_mode) != FileType::RegularFile {
                return Ok("no file".to_owned());
            }
            // Where holes begin is the file system's business; that there is an end is not.
            fs::seek(&file, SeekFrom::Hole(*offset))?;
        }
        Call::List(p) => {
            let dir = fs::Dir::new(open(root, p, OFlags::RDONLY | OFlags::DIRECTORY, 0)?)?;
            let mut names = dir
                .map(|entry| entry.map(|e| format!("{:?} {:?}", e.file_name(), e.file_type())))
                .collect::<Result<Vec<_>, _>>()?;
            names.sort();
            return Ok(names.join(", "));
        }
        Call::Xattr(p) => {
            let name = "security.capability";
            return fs::lsetxattr(at(p), name, b"no capability", XattrFlags::empty())
                .map(|()| String::new());
        }
    }
    Ok("done".to_owned())
}

/// What ours is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Other {
    /// overlayfs over a base and an overlay with deletions.
    Overlayfs,
    /// tmpfs with what the base has.
    Tmpfs,
}

/// Layers, and a place to mount them.
struct Layers {
    stage: Stage,
    other: Other,
}

impl Layers {
    fn new(other: Other) -> Layers {
        let stage = Stage::new();
        stage.sh("mkdir -p base/a/b/c base/b base/c/d over/a over/c ours merged memory
             head -c 200000 /dev/urandom >base/a/a; echo small >base/a/d; ln base/a/d base/b/d
             ln -s ../a/d base/b/c; echo over >base/d; chmod 4755 base/d; echo deep >base/a/b/c/d
             mkfifo base/c/a; echo hidden >base/c/b
             mknod over/c/b c 0 0; echo new >over/a/c; mknod over/b c 0 0; ln over/a/c over/a/d
             find base over -exec touch -hd @1600000000 '{}' +
             mksquashfs base base.squashfs -quiet -no-progress
             (cd over && find . | LC_ALL=C sort | cpio --quiet -H newc -o) >over.cpio");
        Layers { stage, other }
    }

    /// An overlayfs over the layers; `archive` lies unpacked in its upper.
    fn overlayfs(&self, archive: Option<&Path>) -> Kernel {
        let path = |name: &str| self.stage.path(name);
        let kernel = Kernel { mounts: vec![path("merged"), path("memory")] };
        mount(Some("upper"), &path("memory"), Some("tmpfs"), MsFlags::empty(), None::<&str>)
            .unwrap();
        self.stage.sh("mkdir memory/upper memory/work");
        if let Some(archive) = archive {
            let script = format!("cpio --quiet -im <'{}'", archive.display());
            crate::support::tools::sh(&path("memory/upper"), &script);
        }
        let lower = match self.other {
            Other::Overlayfs => format!("{}:{}", path("over").display(), path("base").display()),
            Other::Tmpfs => path("base").display().to_string(),
        };
        let (upper, work) = (path("memory/upper"), path("memory/work"));
        let (upper, work) = (upper.display(), work.display());
        let options = format!("lowerdir={lower},upperdir={upper},workdir={work},{OVERLAYFS}");
        let merged = path("merged");
        mount(Some("o"), &merged, Some("overlay"), MsFlags::empty(), Some(&*options)).unwrap();
        kernel
    }

    /// What ours is compared with, new.
    fn other(&self) -> Kernel {
        match self.other {
            Other::Overlayfs => self.overlayfs(None),
            Other::Tmpfs => {
                let merged = self.stage.path("merged");
                mount(Some("t"), &merged, Some("tmpfs"), MsFlags::empty(), Some("mode=755"))
                    .unwrap();
                self.stage.sh("cp -a base/. merged");
                Kernel { mounts: vec![merged] }
            }
        }
    }

    fn overcoat(&self, words: &[&str]) {
        self.attempt(words).ok();
    }

    fn attempt(&self, words: &[&str]) -> Finished {
        finish(self.stage.overcoat(Who::Root).current_dir(self.stage.path("")).args(words))
    }
}

/// Mounts of the kernel's, the first of which is to be looked at.
struct Kernel {
    mounts: Vec<PathBuf>,
}

impl Kernel {
    fn root(&self) -> &Path {
        &self.mounts[0]
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        for path in &self.mounts {
            let _ = umount2(path, MntFlags::MNT_DETACH);
        }
    }
}

/// Without the times, which are of now, and differ.
fn timeless(mut listing: Listing) -> Listing {
    listing.values_mut().for_each(|object| object.mtime = 0);
    listing
}

/// Hard links are those of regular files alone.
fn in_an_archive(mut listing: Listing) -> Listing {
    let others = listing.values_mut().filter(|object| object.kind != "file");
    others.for_each(|object| object.links = None);
    listing
}

fn check(layers: &Layers, calls: &[Call]) -> Result<(), TestCaseError> {
    match layers.other {
        Other::Overlayfs => {
            layers.overcoat(&["mount", "--rw", "base.squashfs", "over.cpio", "ours"]);
        }
        Other::Tmpfs => layers.overcoat(&["mount", "--rw", "base.squashfs", "ours"]),
    }
    let result = compare(layers, &layers.stage.path("ours"), calls);
    // Another test may be between fork and exec, with a file of ours still open.
    eventually("it is in use no more", || layers.attempt(&["umount", "ours"]).code == 0);
    result
}

fn compare(layers: &Layers, ours: &Path, calls: &[Call]) -> Result<(), TestCaseError> {
    let other = layers.other();
    // overlayfs does not count the subdirectories of merged directories.
    let counted = layers.other == Other::Tmpfs;
    for (n, call) in calls.iter().enumerate() {
        let expected = outcome(other.root(), call, counted);
        prop_assert_eq!(outcome(ours, call, counted), expected, "call {}: {:?}", n, call);
    }
    let seen = timeless(list(ours));
    let lines = differences(&timeless(list(other.root())), &seen);
    prop_assert!(lines.is_empty(), "what is there differs\n{}", lines.join("\n"));
    drop(other);

    let archive = layers.stage.path("sealed.cpio");
    layers.overcoat(&["seal", "ours", "-o", "sealed.cpio", "--no-manifest"]);
    let unpacked = layers.overlayfs(Some(&archive));
    let lines = differences(&in_an_archive(seen), &timeless(list(unpacked.root())));
    prop_assert!(lines.is_empty(), "what was sealed differs\n{}", lines.join("\n"));
    Ok(())
}

/// `DIFFERENTIAL_CASES` says how many sequences are tried.
fn run(other: Other) {
    let layers = Layers::new(other);
    let cases = std::env::var("DIFFERENTIAL_CASES").ok().and_then(|n| n.parse().ok());
    let seeds = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/program/differential.seeds");
    let config = ProptestConfig {
        cases: cases.unwrap_or(100),
        max_shrink_iters: 2000,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(seeds))),
        ..ProptestConfig::default()
    };
    let calls = prop::collection::vec(call(), 1..60);
    TestRunner::new(config)
        .run(&calls, |calls| check(&layers, &calls))
        .unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn overlayfs_over_the_same_layers_answers_the_same() {
    run(Other::Overlayfs);
}

#[test]
fn tmpfs_with_the_same_content_answers_the_same() {
    run(Other::Tmpfs);
}
