//! Random trees, archived by each program that writes tar.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use fs_model::acl::{self, AccountIds};
use rustix::fs::{
    AtFlags, CWD, FileType as HostType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags,
};

use crate::snapshot::{by_gnu_tar, by_overcoat, differences};
use crate::{Random, is_root, memory_dir, seeds};

/// How each program is run: in a directory that has the tree in `r`. `$A` is the archive.
const WRITERS: [(&str, &str); 27] = [
    ("v7", "tar -C r --format=v7 -cf $A ."),
    ("oldgnu", "tar -C r --format=oldgnu -cf $A ."),
    ("oldgnu-sparse", "tar -C r --format=oldgnu -Scf $A ."),
    ("gnu", "tar -C r --format=gnu -cf $A ."),
    ("gnu-sparse", "tar -C r --format=gnu -Scf $A ."),
    ("gnu-incremental", "tar -C r --format=gnu -g snar -V label -cf $A .; rm -f snar"),
    ("ustar", "tar -C r --format=ustar -cf $A ."),
    ("posix", "tar -C r --format=posix $X -cf $A ."),
    ("posix-0.0", "tar -C r --format=posix $X -S --sparse-version=0.0 -cf $A ."),
    ("posix-0.1", "tar -C r --format=posix $X -S --sparse-version=0.1 -cf $A ."),
    ("posix-1.0", "tar -C r --format=posix $X -S --sparse-version=1.0 -cf $A ."),
    ("posix-raw", "tar -C r --format=posix $X -S --hole-detection=raw -cf $A ."),
    ("posix-incremental", "tar -C r --format=posix $X -g snar -V label -cf $A .; rm -f snar"),
    ("posix-global", "tar -C r --format=posix $X --pax-option=comment=x,mtime=1.5 -cf $A ."),
    ("posix-sorted", "tar -C r --format=posix $X --sort=name -b 1 -cf $A ."),
    ("bsdtar-pax", "bsdtar -C r --format=pax --acls --xattrs -cf $A ."),
    ("bsdtar-pax-utf8", "LC_ALL=C.UTF-8 bsdtar -C r --format=pax --acls --xattrs -cf $A ."),
    ("bsdtar-restricted", "bsdtar -C r --format=paxr --acls --xattrs -cf $A ."),
    ("bsdtar-gnutar", "bsdtar -C r --format=gnutar -cf $A ."),
    ("bsdtar-ustar", "bsdtar -C r --format=ustar -cf $A ."),
    ("bsdtar-v7", "bsdtar -C r --format=v7 -cf $A ."),
    ("busybox", "busybox tar -C r -cf $A ."),
    ("cpio-ustar", "cd r && find . -print0 | cpio -0o -H ustar -F $A"),
    ("python-ustar", "python3 -c \"$P\" USTAR_FORMAT"),
    ("python-gnu", "python3 -c \"$P\" GNU_FORMAT"),
    ("python-pax", "python3 -c \"$P\" PAX_FORMAT"),
    (
        "dpkg-deb",
        // dpkg-deb refuses names with newlines.
        "N='\n'; mkdir d && cp -a r/. d && find d -depth -name \"*$N*\" -exec rm -rf {} + && \
         mkdir -p d/DEBIAN && chmod 00755 d d/DEBIAN && printf \
         'Package: x\\nVersion: 1\\nArchitecture: all\\nMaintainer: x <x@x>\\nDescription: x\\n' \
         >d/DEBIAN/control && dpkg-deb -b -Znone d d.deb && dpkg-deb --fsys-tarfile d.deb >$A; \
         rm -rf d d.deb",
    ),
];

/// Leaves out what a format cannot hold.
const PYTHON: &str = "
import os, sys, tarfile
tar = tarfile.open(os.environ['A'], 'w', format=getattr(tarfile, sys.argv[1]))
def add(path):
    try:
        tar.add(path, recursive=False)
    except (ValueError, OverflowError, UnicodeEncodeError):
        pass
os.chdir('r')
for folder, folders, files in os.walk('.'):
    add(folder)
    links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
    for name in sorted(files + links):
        add(os.path.join(folder, name))
tar.close()
";

#[test]
fn archives_of_all_writers_become_what_gnu_tar_makes_of_them() {
    if !is_root() {
        return;
    }
    let mut compared = 0;
    for seed in seeds(0..4) {
        let dir = memory_dir();
        random_tree(&dir.path().join("r"), seed);
        for (name, script) in WRITERS {
            let archive = dir.path().join("archive");
            // Formats without room for an object end with an error, and leave it out.
            let written = Command::new("sh")
                .args(["-c", script])
                .current_dir(&dir)
                .env("LC_ALL", "C")
                .env("A", &archive)
                .env("P", PYTHON)
                .env("X", "--acls --xattrs --xattrs-include=*")
                .output()
                .unwrap();
            let printed = String::from_utf8_lossy(&written.stderr);
            let bytes = fs::read(&archive).unwrap_or_else(|_| panic!("{name}: {printed}"));
            fs::remove_file(&archive).unwrap();
            fs::write(&archive, &bytes).unwrap();
            let out = dir.path().join("out");
            let expected = by_gnu_tar(&archive, &out);
            fs::remove_dir_all(&out).unwrap();
            let found = by_overcoat(&bytes);
            match (expected, found) {
                (Ok(expected), Ok((found, notes))) => {
                    let differences = differences(&expected, &found);
                    assert!(
                        differences.is_empty(),
                        "seed {seed}, {name}: {notes:?}\n{differences}{printed}"
                    );
                    compared += 1;
                }
                (Err(_), Err(_)) => {}
                (Ok(_), Err(error)) => panic!("seed {seed}, {name}: {error}"),
                (Err(error), Ok(_)) => panic!("seed {seed}, {name}: GNU tar says {error}"),
            }
            fs::remove_file(&archive).unwrap();
        }
    }
    println!("{compared} archives compared");
}

/// Makes a random tree on the host.
pub(crate) fn random_tree(root: &Path, seed: u64) {
    let (root, is_large) = (root.to_owned(), seed % 2 == 1);
    let random = &mut Random::new(seed);
    Maker { root, random, is_large, objects: Vec::new() }.tree();
}

struct Maker<'a> {
    root: PathBuf,
    random: &'a mut Random,
    /// Whether owners and times are beyond the octal fields of some formats.
    is_large: bool,
    /// All objects so far; true for directories.
    objects: Vec<(PathBuf, bool)>,
}

impl Maker<'_> {
    fn tree(&mut self) {
        fs::create_dir(&self.root).unwrap();
        self.objects.push((self.root.clone(), true));
        for _ in 0..25 + self.random.below(25) {
            self.object();
        }
        for (path, is_directory) in self.objects.clone() {
            self.attributes(&path, is_directory);
        }
        // Last, because making objects changes the times of directories.
        for (path, _) in self.objects.clone().into_iter().rev() {
            self.times(&path);
        }
    }

    fn object(&mut self) {
        let directories: Vec<_> = self.objects.iter().filter(|(_, is)| *is).collect();
        let parent = directories[self.random.below(directories.len() as u64) as usize].0.clone();
        let name = self.name();
        let path = parent.join(OsStr::from_bytes(&name));
        // The name exists, or the path is longer than one can ask for.
        if fs::symlink_metadata(&path).is_ok() || path.as_os_str().len() > 1500 {
            return;
        }
        let mut is_directory = false;
        match self.random.below(12) {
            0..3 => {
                fs::create_dir(&path).unwrap();
                is_directory = true;
            }
            3..6 => self.file(&path),
            6 => self.sparse_file(&path),
            7 => {
                let length = self.random.choose(&[1, 30, 99, 100, 101, 300, 1000]);
                let target = self.bytes(length);
                std::os::unix::fs::symlink(OsStr::from_bytes(&target), &path).unwrap();
            }
            8 => {
                let kind = [HostType::CharacterDevice, HostType::BlockDevice];
                let kind = self.random.choose(&kind);
                let major = self.random.choose(&[1, 8, 259, 4095]);
                let minor = self.random.choose(&[0, 5, 256, 0xf_ffff]);
                let device = rustix::fs::makedev(major, minor);
                rustix::fs::mknodat(CWD, &path, kind, Mode::empty(), device).unwrap();
            }
            9 => {
                let mode = Mode::empty();
                rustix::fs::mknodat(CWD, &path, HostType::Fifo, mode, 0).unwrap();
            }
            _ => {
                let others: Vec<_> = self.objects.iter().filter(|(_, is)| !is).collect();
                if others.is_empty() {
                    return;
                }
                let first = &others[self.random.below(others.len() as u64) as usize].0;
                rustix::fs::linkat(CWD, first, CWD, &path, AtFlags::empty()).unwrap();
            }
        }
        self.objects.push((path, is_directory));
    }

    fn name(&mut self) -> Vec<u8> {
        let length = self.random.choose(&[1, 3, 8, 8, 8, 60, 99, 100, 120, 255]);
        loop {
            let name = match self.random.below(4) {
                0 => self.bytes(length),
                _ => (0..length).map(|_| self.random.choose(b"abcdefgh-_.")).collect(),
            };
            if name != b"." && name != b".." {
                return name;
            }
        }
    }

    /// Bytes that may be in a name.
    fn bytes(&mut self, length: u64) -> Vec<u8> {
        let odd = self.random.choose(&[&b"\n"[..], b" ", b"\\", b"\xff\xfe", "\u{e9}".as_bytes()]);
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < length {
            match self.random.below(8) {
                0 => bytes.extend_from_slice(odd),
                1 => bytes.push(self.random.choose(b"\x01\t%=*?[\"'$-~")),
                _ => bytes.push(b'a' + self.random.below(26) as u8),
            }
        }
        bytes.truncate(length as usize);
        bytes
    }

    fn file(&mut self, path: &Path) {
        let length = self.random.choose(&[0, 1, 511, 512, 513, 5000, 70_000]);
        let content: Vec<u8> = (0..length).map(|_| self.random.next() as u8).collect();
        fs::write(path, content).unwrap();
    }

    /// Data and holes, whose borders are at pages or not.
    fn sparse_file(&mut self, path: &Path) {
        let file = fs::File::create(path).unwrap();
        let mut at = 0;
        // More pieces than a GNU header (4) and one block after it (21) hold.
        for _ in 0..self.random.choose(&[0, 1, 2, 5, 40]) {
            at += self.random.choose(&[4096, 8192, 70_000, 200_000]);
            let length = self.random.choose(&[1, 4096, 5000]);
            file.write_all_at(&vec![b'd'; length as usize], at).unwrap();
            at += length;
        }
        let hole = self.random.choose(&[0, 1, 4096, 1 << 20]);
        file.set_len(at + hole).unwrap();
    }

    fn attributes(&mut self, path: &Path, is_directory: bool) {
        let meta = fs::symlink_metadata(path).unwrap();
        // Octal fields end at the last one of the first ids. The root is in each archive.
        let ids = [0, 1, 33, 1000, 65534, 100_000, 2_097_151, 2_097_152, 4_000_000_000];
        let usual = if self.is_large && path != self.root { ids.len() } else { 7 };
        let (uid, gid) = (self.random.choose(&ids[..usual]), self.random.choose(&ids[..usual]));
        let (user, group) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        rustix::fs::chownat(CWD, path, user, group, AtFlags::SYMLINK_NOFOLLOW).unwrap();
        let is_link = meta.file_type().is_symlink();
        if !is_link {
            // GNU tar takes a directory of mode 0700 or less for one that needs no chmod(2), even
            // when it got setgid from its parent.
            let modes = [0o755, 0o2755, 0o1777, 0o750, 0o644, 0o4755, 0o6711, 0];
            let mode = self.random.choose(if is_directory { &modes[..4] } else { &modes });
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
        let set = |name: &str, value: &[u8]| {
            rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
        };
        if is_directory || meta.is_file() {
            if self.random.once_in(3) {
                set("user.note", b"two\nlines\0and a NUL");
            }
            if self.random.once_in(4) {
                set("user.a=b%20%", &[self.random.next() as u8; 3000]);
                set("user.empty", b"");
            }
            if self.random.once_in(3) {
                set("system.posix_acl_access", &list(self.random));
            }
            if is_directory && self.random.once_in(2) {
                set("system.posix_acl_default", &list(self.random));
            }
        }
        if meta.is_file() && meta.len() > 0 && self.random.once_in(3) {
            // cap_dac_override, cap_fowner: a value with a byte 0x0a.
            let capability = [1, 0, 0, 2, 0x0a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            set("security.capability", &capability);
        }
        if self.random.once_in(5) {
            set("trusted.note", b"x");
        }
    }

    fn times(&mut self, path: &Path) {
        let seconds = [0, 1, 1_700_000_000, -1, -1_000_000_000, 8_589_934_592, 99_999_999_999];
        let seconds = if self.is_large && path != self.root { &seconds[..] } else { &seconds[..3] };
        let nanoseconds = [0, 0, 500_000_000, 1, 999_999_999];
        let time = Timespec {
            tv_sec: self.random.choose(seconds),
            tv_nsec: self.random.choose(&nanoseconds),
        };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
        assert_eq!(fs::symlink_metadata(path).unwrap().mtime(), time.tv_sec);
    }
}

/// The value of an access list that names users with and without a name on Debian.
fn list(random: &mut Random) -> Vec<u8> {
    let text = random.choose(&[
        "user::rw-,user:12345:r--,group::r--,mask::r--,other::---",
        "user::rwx,user:1:rwx,user:4000000000:---,group::r-x,group:12345:rw-,mask::rwx,other::r--",
        "user::rw-,group::r--,group:8:rwx,mask::rw-,other::r--",
    ]);
    let parsed = acl::TextAcl::parse(text.as_bytes()).unwrap();
    parsed.resolve(&AccountIds::default(), |_| ()).unwrap().to_value()
}
