//! What the daemon learns of a process that waits in a call: its memory, rights and places.
//!
//! Everything is read through `/proc/TID` and may be of another process by the time it is read, if
//! the caller was killed and its number given away: whoever uses it asks the kernel afterwards
//! whether the call still waits (`NOTIF_ID_VALID`), and only then acts.

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
/// Who owns what no id of the namespace owns.
const OVERFLOW_ID: u32 = 65534;

/// A thread that waits in a call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Caller {
    pub(super) tid: u32,
}

/// What the kernel would check and apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Credentials {
    /// As inside.
    pub(super) uid: u32,
    /// As inside.
    pub(super) gid: u32,
    pub(super) umask: u32,
    effective: u64,
}

impl Credentials {
    pub(super) fn has(&self, capability: u32) -> bool {
        Capabilities(self.effective).has(capability)
    }
}

/// Where a descriptor, a root or a working directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Location {
    pub(super) mount: u64,
    pub(super) ino: u64,
    /// The descriptor names a place only (`O_PATH`).
    pub(super) path_only: bool,
}

impl Caller {
    fn path(self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.tid))
    }

    /// The inode number of one of its namespaces.
    pub(super) fn namespace(self, kind: &str) -> io::Result<u64> {
        Ok(fs::metadata(self.path(&format!("ns/{kind}")))?.ino())
    }

    pub(super) fn credentials(self, uids: &IdMap, gids: &IdMap) -> io::Result<Credentials> {
        let status = fs::read_to_string(self.path("status"))?;
        parse_credentials(&status, uids, gids)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/TID/status"))
    }

    /// Its root directory or working directory: `root` or `cwd`.
    pub(super) fn place(self, name: &str) -> io::Result<Location> {
        let place = File::options()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_CLOEXEC)
            .open(self.path(name))?;
        location(PathBuf::from(format!("/proc/self/fdinfo/{}", place.as_raw_fd())))
    }

    /// The path of its `root`, its `cwd` or an open file (`fd/3`), from the root of its mount
    /// namespace.
    pub(super) fn link(self, name: &str) -> io::Result<Vec<u8>> {
        Ok(fs::read_link(self.path(name))?.into_os_string().into_vec())
    }

    /// Where one of its descriptors is.
    pub(super) fn descriptor(self, fd: i32) -> Result<Location, Errno> {
        location(self.path(&format!("fdinfo/{fd}"))).map_err(|_| Errno::EBADF)
    }

    pub(super) fn mountinfo(self) -> io::Result<Vec<u8>> {
        fs::read(self.path("mountinfo"))
    }

    /// The NUL-terminated path at `address` in its memory.
    pub(super) fn read_path(self, address: u64) -> Result<Vec<u8>, Errno> {
        let mut path = Vec::new();
        while path.len() < PATH_MAX {
            // To the end of the page: the next one need not exist.
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

    /// The first `limit` arguments of an execution, from the array of pointers at `address`; pointers
    /// have 64 bits if they are `wide`. An argument as long as a path or longer is left empty.
    pub(super) fn read_arguments(
        self,
        address: u64,
        wide: bool,
        limit: usize,
    ) -> Result<Vec<Vec<u8>>, Errno> {
        let size = if wide { 8 } else { 4 };
        let (mut arguments, mut pointers) = (Vec::new(), Vec::new());
        while arguments.len() < limit {
            if pointers.is_empty() {
                // To the end of the page: the next one need not exist.
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
                Ok(argument) => arguments.push(argument),
                Err(Errno::ENAMETOOLONG) => arguments.push(Vec::new()),
                Err(error) => return Err(error),
            }
        }
        Ok(arguments)
    }

    fn read_memory(self, address: u64, into: &mut [u8]) -> Result<usize, Errno> {
        let local = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
        let remote = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: into.len() };
        // SAFETY: `local` describes exactly `into`; the remote address is only ever used in the
        // other process, by the kernel, which checks it.
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

/// What is mounted on the mount `id`, as paths from its root; `None` when `info` does not
/// have it as a whole file system of the device `device`.
pub(super) fn mounted_on(info: &[u8], id: u64, device: u64) -> Option<Vec<Vec<u8>>> {
    let (major, minor) = (libc::major(device), libc::minor(device));
    let own = mountinfo::lines(info).find(|line| line.id == id)?;
    if own.device != format!("{major}:{minor}").as_bytes() || own.root != b"/" {
        return None;
    }
    let base = own.point.strip_suffix(b"/").unwrap_or(&own.point);
    let below = mountinfo::lines(info)
        .filter(|line| line.parent == id)
        .filter_map(|line| line.point.strip_prefix(base).map(<[u8]>::to_vec));
    Some(below.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_below_are_paths_from_the_root() {
        let info = b"\
30 1 0:50 / / rw - fuse overcoat rw\n\
31 30 0:51 / /dev rw - tmpfs tmpfs rw\n\
32 31 0:52 / /dev/pts rw - devpts devpts rw\n\
33 30 8:1 /home /srv/with\\040space\\134 rw - ext4 /dev/sda1 rw\n\
34 30 0:50 /etc /mnt rw - fuse overcoat rw\n";
        let device = libc::makedev(0, 50);
        let below = mounted_on(info, 30, device).unwrap();
        assert_eq!(below, [b"/dev".to_vec(), b"/srv/with space\\".to_vec(), b"/mnt".to_vec()]);
        assert_eq!(mounted_on(info, 31, device), None, "another file system");
        assert_eq!(mounted_on(info, 34, device), None, "a part of it only");
        assert_eq!(mounted_on(info, 99, device), None);
    }

    #[test]
    fn fdinfo_tells_mount_and_inode() {
        let text = "pos:\t0\nflags:\t012000000\nmnt_id:\t28\nino:\t4711\n";
        let found = parse_location(text).unwrap();
        assert_eq!(found, Location { mount: 28, ino: 4711, path_only: true });
        assert_eq!(parse_location("pos:\t0\n"), None);
    }

    #[test]
    fn this_process_is_read_as_it_is() {
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
    fn ids_are_told_as_inside() {
        let status =
            "Umask:\t0027\nUid:\t0\t0\t0\t5\nGid:\t0\t0\t0\t7\nCapEff:\t0000000008000000\n";
        let identity = crate::sandbox::Privilege::Root.uids();
        let found = parse_credentials(status, &identity, &identity).unwrap();
        assert_eq!((found.uid, found.gid, found.umask), (5, 7, 0o27));
        assert!(found.has(27) && !found.has(0));
    }
}
