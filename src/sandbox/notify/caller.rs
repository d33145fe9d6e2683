//! Reads the state of a process that waits in a call: its memory, credentials and directories.
//!
//! Everything is read through `/proc/TID`. If the caller was killed and its id reused, it may be
//! another process's state, so before acting on it ask the kernel whether the call still waits
//! (`NOTIF_ID_VALID`).

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;

use nix::errno::Errno;

use crate::sandbox::mountinfo;
use crate::sandbox::privilege::{Capabilities, IdMap};

const PATH_MAX: usize = 4096;
/// The kernel executes nothing with more bytes of arguments.
const MAX_ARGUMENT_BYTES: usize = 6 << 20;
/// The owner shown for ids that are not mapped.
const OVERFLOW_ID: u32 = 65534;

/// A thread that waits in a call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Caller {
    pub(super) tid: u32,
}

/// The credentials that the kernel would check and apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Credentials {
    /// The user id inside.
    pub(super) uid: u32,
    /// The group id inside.
    pub(super) gid: u32,
    pub(super) umask: u32,
    effective: u64,
}

impl Credentials {
    pub(super) fn has(&self, capability: u32) -> bool {
        Capabilities(self.effective).has(capability)
    }
}

/// The mount and inode of a descriptor, a root or a working directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Location {
    pub(super) mount: u64,
    pub(super) ino: u64,
    /// The descriptor is only a location (`O_PATH`).
    pub(super) path_only: bool,
}

impl Caller {
    fn path(self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.tid))
    }

    /// Returns the inode number of one of its namespaces.
    pub(super) fn namespace(self, kind: &str) -> io::Result<u64> {
        Ok(fs::metadata(self.path(&format!("ns/{kind}")))?.ino())
    }

    pub(super) fn credentials(self, uids: &IdMap, gids: &IdMap) -> io::Result<Credentials> {
        let status = fs::read_to_string(self.path("status"))?;
        parse_credentials(&status, uids, gids)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/TID/status"))
    }

    /// Returns its root or working directory: `root` or `cwd`.
    pub(super) fn place(self, name: &str) -> io::Result<Location> {
        let place = File::options()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_CLOEXEC)
            .open(self.path(name))?;
        location(PathBuf::from(format!("/proc/self/fdinfo/{}", place.as_raw_fd())))
    }

    /// Returns the path of its `root`, its `cwd` or an open file (`fd/3`), from the root of its
    /// mount namespace.
    pub(super) fn link(self, name: &str) -> io::Result<Vec<u8>> {
        Ok(fs::read_link(self.path(name))?.into_os_string().into_vec())
    }

    /// Returns whether its root directory is also this process's.
    pub(super) fn has_root_of_this_process(self) -> bool {
        let roots = (fs::metadata(self.path("root")), fs::metadata("/"));
        matches!(roots, (Ok(its), Ok(own)) if (its.dev(), its.ino()) == (own.dev(), own.ino()))
    }

    /// Returns the location of one of its descriptors.
    pub(super) fn descriptor(self, fd: i32) -> Result<Location, Errno> {
        location(self.path(&format!("fdinfo/{fd}"))).map_err(|_| Errno::EBADF)
    }

    pub(super) fn mountinfo(self) -> io::Result<Vec<u8>> {
        fs::read(self.path("mountinfo"))
    }

    /// Reads the NUL-terminated path at `address` in its memory.
    pub(super) fn read_path(self, address: u64) -> Result<Vec<u8>, Errno> {
        let mut path = Vec::new();
        while path.len() < PATH_MAX {
            // Only to the end of the page: the next page may not exist.
            let from = address.wrapping_add(path.len() as u64);
            let length = (4096 - from as usize % 4096).min(PATH_MAX - path.len());
            let mut part = [0_u8; 4096];
            let read = self.read_memory(from, &mut part[..length])?;
            match part[..read].iter().position(|&byte| byte == 0) {
                Some(end) => {
                    path.extend_from_slice(&part[..end]);
                    return Ok(path);
                }
                None if read == length => path.extend_from_slice(&part[..read]),
                None => return Err(Errno::EFAULT),
            }
        }
        Err(Errno::ENAMETOOLONG)
    }

    /// Reads the first `limit` arguments of an execution from the array of pointers at `address`;
    /// `wide` pointers have 64 bits. An argument that is too long for a path is left empty. Reading
    /// stops at the kernel's limit in bytes.
    pub(super) fn read_arguments(
        self,
        address: u64,
        wide: bool,
        limit: usize,
    ) -> Result<Vec<Vec<u8>>, Errno> {
        let size = if wide { 8 } else { 4 };
        let (mut arguments, mut pointers) = (Vec::new(), Vec::new());
        let mut bytes = 0;
        while arguments.len() < limit && bytes < MAX_ARGUMENT_BYTES {
            if pointers.is_empty() {
                // Only to the end of the page: the next page may not exist.
                let from = address.wrapping_add((arguments.len() * size) as u64);
                let length = (4096 - from as usize % 4096).min((limit - arguments.len()) * size);
                let mut part = [0_u8; 4096];
                let read = self.read_memory(from, &mut part[..length.max(size)])?;
                pointers = part[..read].chunks_exact(size).rev().map(<[u8]>::to_vec).collect();
            }
            let pointer = match pointers.pop().as_deref() {
                Some(&[a, b, c, d, e, f, g, h]) => u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
                Some(&[a, b, c, d]) => u32::from_ne_bytes([a, b, c, d]).into(),
                _ => return Err(Errno::EFAULT),
            };
            if pointer == 0 {
                break;
            }
            match self.read_path(pointer) {
                Ok(argument) => {
                    bytes += argument.len() + 1;
                    arguments.push(argument);
                }
                Err(Errno::ENAMETOOLONG) => arguments.push(Vec::new()),
                Err(error) => return Err(error),
            }
        }
        Ok(arguments)
    }

    fn read_memory(self, address: u64, into: &mut [u8]) -> Result<usize, Errno> {
        let local = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
        let remote = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: into.len() };
        // SAFETY: `local` describes exactly `into`; only the kernel uses the remote address, in the
        // other process, and checks it.
        let read = unsafe {
            libc::process_vm_readv(
                self.tid as libc::pid_t,
                &raw const local,
                1,
                &raw const remote,
                1,
                0,
            )
        };
        usize::try_from(read).map_err(|_| Errno::last())
    }
}

fn location(fdinfo: PathBuf) -> io::Result<Location> {
    parse_location(&fs::read_to_string(fdinfo)?)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/PID/fdinfo"))
}

fn parse_location(fdinfo: &str) -> Option<Location> {
    let field = |name: &str| fdinfo.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let flags = u64::from_str_radix(field("flags:")?, 8).ok()?;
    Some(Location {
        mount: field("mnt_id:")?.parse().ok()?,
        ino: field("ino:")?.parse().ok()?,
        path_only: flags & libc::O_PATH as u64 != 0,
    })
}

fn parse_credentials(status: &str, uids: &IdMap, gids: &IdMap) -> Option<Credentials> {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    // Real, effective, saved and file system id, in the reader's namespace.
    let id = |name: &str, map: &IdMap| -> Option<u32> {
        let outside = field(name)?.split_ascii_whitespace().nth(3)?.parse().ok()?;
        Some(map.to_inside(outside).unwrap_or(OVERFLOW_ID))
    };
    Some(Credentials {
        uid: id("Uid:", uids)?,
        gid: id("Gid:", gids)?,
        umask: u32::from_str_radix(field("Umask:")?, 8).ok()?,
        effective: u64::from_str_radix(field("CapEff:")?, 16).ok()?,
    })
}

/// A mount of the sandbox's root file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RootMount {
    /// The directory of the file system that is mounted: `/` for the whole file system.
    pub(super) directory: Vec<u8>,
    /// The mount points on it, as paths in the file system.
    pub(super) points: Vec<Vec<u8>>,
}

/// Finds the mount `id`; `None` when it is missing in `info` or is not a mount of `device`.
pub(super) fn root_mount(info: &[u8], id: u64, device: u64) -> Option<RootMount> {
    let (major, minor) = (libc::major(device), libc::minor(device));
    let own = mountinfo::lines(info).find(|line| line.id == id)?;
    if own.device != format!("{major}:{minor}").as_bytes() {
        return None;
    }
    let base = own.point.strip_suffix(b"/").unwrap_or(&own.point);
    let directory = own.root.strip_suffix(b"/").unwrap_or(&own.root);
    let points = mountinfo::lines(info)
        .filter(|line| line.parent == id)
        .filter_map(|line| Some([directory, line.point.strip_prefix(base)?].concat()))
        .collect();
    Some(RootMount { directory: own.root, points })
}

/// Converts `path` to a path in the file system that it leads to. `path` has no symbolic links and
/// is from the same root as the mount points in `info`.
pub(super) fn path_in_file_system(info: &[u8], path: &[u8]) -> Option<Vec<u8>> {
    let rest_below = |point: &[u8]| {
        let rest = path.strip_prefix(point.strip_suffix(b"/").unwrap_or(point))?;
        matches!(rest, [] | [b'/', ..]).then(|| rest.to_vec())
    };
    // Of two mounts at one mount point the later one is visible.
    let (line, rest) = mountinfo::lines(info)
        .filter_map(|line| rest_below(&line.point).map(|rest| (line, rest)))
        .reduce(|best, next| if next.1.len() <= best.1.len() { next } else { best })?;
    Some([line.root.strip_suffix(b"/").unwrap_or(&line.root), &rest].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_paths_in_the_file_system() {
        let info = b"\
30 1 0:50 / / rw - fuse overcoat rw\n\
31 30 0:51 / /dev rw - tmpfs tmpfs rw\n\
32 31 0:52 / /dev/pts rw - devpts devpts rw\n\
33 30 8:1 /home /srv/with\\040space\\134 rw - ext4 /dev/sda1 rw\n\
34 30 0:50 /etc /mnt rw - fuse overcoat rw\n\
35 34 0:51 /hidden /mnt/x rw - tmpfs tmpfs rw\n\
36 35 0:51 /j/etc/init.d /mnt/x rw - tmpfs tmpfs rw\n";
        let device = libc::makedev(0, 50);
        let whole = root_mount(info, 30, device).unwrap();
        assert_eq!(whole.directory, b"/");
        assert_eq!(whole.points, [&b"/dev"[..], b"/srv/with space\\", b"/mnt"]);
        assert_eq!(root_mount(info, 31, device), None, "another file system");
        let part = root_mount(info, 34, device).unwrap();
        assert_eq!(part.directory, b"/etc");
        assert_eq!(part.points, [&b"/etc/x"[..]]);
        assert_eq!(root_mount(info, 99, device), None);
        for (path, expected) in [
            ("/srv/a", "/srv/a"),
            ("/mnt/init.d/ssh", "/etc/init.d/ssh"),
            ("/mntx", "/mntx"),
            ("/mnt/x/ssh", "/j/etc/init.d/ssh"),
            ("/dev/pts/0", "/0"),
        ] {
            let found = path_in_file_system(info, path.as_bytes()).unwrap();
            assert_eq!(String::from_utf8(found).unwrap(), expected);
        }
    }

    #[test]
    fn fdinfo_has_mount_and_inode() {
        let text = "pos:\t0\nflags:\t012000000\nmnt_id:\t28\nino:\t4711\n";
        let found = parse_location(text).unwrap();
        assert_eq!(found, Location { mount: 28, ino: 4711, path_only: true });
        assert_eq!(parse_location("pos:\t0\n"), None);
    }

    #[test]
    fn memory_and_directories_of_this_process_are_read() {
        let me = Caller { tid: std::process::id() };
        let path = c"/a/path/of/this/test";
        assert_eq!(me.read_path(path.as_ptr() as u64).unwrap(), path.to_bytes());
        assert_eq!(me.read_path(8), Err(Errno::EFAULT));
        let long = vec![b'x'; 3 * PATH_MAX];
        assert_eq!(me.read_path(long.as_ptr() as u64), Err(Errno::ENAMETOOLONG));
        let cwd = std::env::current_dir().unwrap();
        assert_eq!(me.place("cwd").unwrap().ino, fs::metadata(cwd).unwrap().ino());
        assert_eq!(me.descriptor(99_999), Err(Errno::EBADF));
    }

    #[test]
    fn arguments_end_with_a_null_pointer() {
        let me = Caller { tid: std::process::id() };
        let long = std::ffi::CString::new(vec![b'x'; 2 * PATH_MAX]).unwrap();
        let pointers = [c"sh".as_ptr(), long.as_ptr(), c"start".as_ptr(), std::ptr::null()];
        let found = me.read_arguments(pointers.as_ptr() as u64, true, 64).unwrap();
        assert_eq!(found, [b"sh".to_vec(), Vec::new(), b"start".to_vec()]);
        let first = me.read_arguments(pointers.as_ptr() as u64, true, 1).unwrap();
        assert_eq!(first, [b"sh".to_vec()]);
        let narrow = [0_u32];
        assert_eq!(me.read_arguments(narrow.as_ptr() as u64, false, 64), Ok(Vec::new()));
        assert_eq!(me.read_arguments(8, true, 64), Err(Errno::EFAULT));
    }

    #[test]
    fn file_system_ids_are_mapped() {
        let status =
            "Umask:\t0027\nUid:\t0\t0\t0\t5\nGid:\t0\t0\t0\t7\nCapEff:\t0000000008000000\n";
        let identity = crate::sandbox::Privilege::Root.uids();
        let found = parse_credentials(status, &identity, &identity).unwrap();
        assert_eq!((found.uid, found.gid, found.umask), (5, 7, 0o27));
        assert!(found.has(27) && !found.has(0));
    }
}
