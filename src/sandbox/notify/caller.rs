//! Reads the state of a process that waits in a call: its memory, credentials and directories.
//!
//! Everything is read through `/proc/TID`. If the caller was killed and its id reused, it may be
//! another process's state, so before acting on it ask the kernel whether the call still waits
//! (`NOTIF_ID_VALID`).

use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use nix::errno::Errno;

use crate::sandbox::privilege::{Capabilities, IdMap};
use crate::sandbox::{mountinfo, sys};

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

/// The credentials that the kernel checks and applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KernelCredentials {
    /// The user id inside.
    pub(super) uid: u32,
    /// The group id inside.
    pub(super) gid: u32,
    pub(super) umask: u32,
    effective: u64,
}

impl KernelCredentials {
    pub(super) fn add(&mut self, capability: u32) {
        self.effective |= 1 << capability;
    }

    pub(super) fn has(&self, capability: u32) -> bool {
        Capabilities(self.effective).has(capability)
    }
}

/// The mount and inode of a descriptor, a root or a working directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Location {
    /// The id of the mount.
    pub(super) mount: u64,
    /// The inode number, if the file system is one of FUSE.
    pub(super) ino: u64,
}

impl Caller {
    fn path(self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.tid))
    }

    /// Returns the inode number of one of its namespaces.
    pub(super) fn namespace(self, kind: &str) -> io::Result<u64> {
        Ok(fs::metadata(self.path(&format!("ns/{kind}")))?.ino())
    }

    pub(super) fn credentials(self, uids: &IdMap, gids: &IdMap) -> io::Result<KernelCredentials> {
        let status = fs::read_to_string(self.path("status"))?;
        parse_credentials(&status, uids, gids)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/TID/status"))
    }

    /// Returns the process's mask of file modes.
    pub(super) fn umask(self) -> io::Result<u32> {
        let umask = self.status("Umask:")?;
        u32::from_str_radix(&umask, 8).map_err(|_| io::ErrorKind::InvalidData.into())
    }

    /// Returns whether executions cannot give it other credentials (`PR_SET_NO_NEW_PRIVS`).
    pub(super) fn has_no_new_privileges(self) -> io::Result<bool> {
        Ok(self.status("NoNewPrivs:")? == "1")
    }

    /// Returns its thread id in its own pid namespace.
    pub(super) fn id_inside(self) -> io::Result<Option<u32>> {
        Ok(self.status("NSpid:")?.split_whitespace().last().and_then(|id| id.parse().ok()))
    }

    fn status(self, field: &str) -> io::Result<String> {
        let status = fs::read_to_string(self.path("status"))?;
        let value = status.lines().find_map(|line| line.strip_prefix(field));
        Ok(value.ok_or(io::ErrorKind::InvalidData)?.trim().to_owned())
    }

    /// Returns the location of its `root`, its `cwd` or an open file (`fd/3`), if that is in a FUSE
    /// file system: `None` elsewhere.
    ///
    /// One call reads it, the same that reads it for NFS servers: the handle of a file of FUSE is
    /// its inode number (`fuse_encode_fh` in `fs/fuse/inode.c`). No request is sent.
    pub(super) fn place(self, name: &str) -> io::Result<Option<Location>> {
        let path = sys::c_string(self.path(name))?;
        let mut handle = FileHandle { bytes: 3 * 4, kind: 0, words: [0; 3] };
        let mut mount: libc::c_int = 0;
        // SAFETY: `path` is a C string; the kernel writes as many bytes to `handle` as its first
        // field says, and one number to `mount`.
        let result = unsafe {
            libc::syscall(
                libc::SYS_name_to_handle_at,
                libc::AT_FDCWD,
                path.as_ptr(),
                &raw mut handle,
                &raw mut mount,
                libc::AT_SYMLINK_FOLLOW,
            )
        };
        if result < 0 {
            let error = io::Error::last_os_error();
            return match error.raw_os_error() {
                // A file system without handles, or with larger ones.
                Some(libc::EOPNOTSUPP | libc::EOVERFLOW) => Ok(None),
                _ => Err(error),
            };
        }
        let [high, low, _] = handle.words;
        let is_fuse = handle.kind == FILEID_INO64_GEN && handle.bytes == 3 * 4;
        let ino = u64::from(high) << 32 | u64::from(low);
        Ok(is_fuse.then_some(Location { mount: mount as u64, ino }))
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

    /// Returns whether one of its descriptors is only a location (`O_PATH`).
    pub(super) fn is_path_only(self, fd: i32) -> Result<bool, Errno> {
        let info = fs::read_to_string(self.path(&format!("fdinfo/{fd}")));
        parse_path_only(&info.map_err(|_| Errno::EBADF)?).ok_or(Errno::EBADF)
    }

    pub(super) fn open_mountinfo(self) -> io::Result<fs::File> {
        fs::File::open(self.path("mountinfo"))
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

    /// Reads all of `into` from its memory.
    pub(super) fn read_exact(self, address: u64, into: &mut [u8]) -> Result<(), Errno> {
        match self.read_memory(address, into)? {
            read if read == into.len() => Ok(()),
            _ => Err(Errno::EFAULT),
        }
    }

    fn read_memory(self, address: u64, into: &mut [u8]) -> Result<usize, Errno> {
        let local = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
        self.transfer(libc::process_vm_readv, local, address)
    }

    /// Writes all of `bytes` to its memory.
    pub(super) fn write_memory(self, address: u64, bytes: &[u8]) -> Result<(), Errno> {
        let local =
            libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        match self.transfer(libc::process_vm_writev, local, address)? {
            written if written == bytes.len() => Ok(()),
            _ => Err(Errno::EFAULT),
        }
    }

    fn transfer(
        self,
        transfer: MemoryTransfer,
        local: libc::iovec,
        address: u64,
    ) -> Result<usize, Errno> {
        let remote = libc::iovec { iov_base: address as *mut libc::c_void, ..local };
        let tid = self.tid as libc::pid_t;
        // SAFETY: `local` describes a buffer of the caller, which is only read when memory of the
        // other process is written; only the kernel uses the remote address, and checks it.
        let moved = unsafe { transfer(tid, &raw const local, 1, &raw const remote, 1, 0) };
        usize::try_from(moved).map_err(|_| Errno::last())
    }
}

/// The type of `process_vm_readv` and `process_vm_writev`.
pub(super) type MemoryTransfer = unsafe extern "C" fn(
    libc::pid_t,
    *const libc::iovec,
    libc::c_ulong,
    *const libc::iovec,
    libc::c_ulong,
    libc::c_ulong,
) -> isize;

/// `struct file_handle` with room for a file of FUSE.
#[repr(C)]
struct FileHandle {
    bytes: u32,
    kind: i32,
    words: [u32; 3],
}

/// The kind of handles of FUSE (`include/linux/exportfs.h`).
const FILEID_INO64_GEN: i32 = 0x81;

fn parse_path_only(fdinfo: &str) -> Option<bool> {
    let flags = fdinfo.lines().find_map(|line| line.strip_prefix("flags:"))?;
    let flags = u64::from_str_radix(flags.trim(), 8).ok()?;
    Some(flags & libc::O_PATH as u64 != 0)
}

fn parse_credentials(status: &str, uids: &IdMap, gids: &IdMap) -> Option<KernelCredentials> {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    // Real, effective, saved and file system id, in the reader's namespace.
    let id = |name: &str, map: &IdMap| -> Option<u32> {
        let outside = field(name)?.split_ascii_whitespace().nth(3)?.parse().ok()?;
        Some(map.to_inside(outside).unwrap_or(OVERFLOW_ID))
    };
    Some(KernelCredentials {
        uid: id("Uid:", uids)?,
        gid: id("Gid:", gids)?,
        umask: u32::from_str_radix(field("Umask:")?, 8).ok()?,
        effective: u64::from_str_radix(field("CapEff:")?, 16).ok()?,
    })
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
    fn paths_are_converted_to_those_of_their_file_system() {
        let info = b"\
30 1 0:50 / / rw - fuse overcoat rw\n\
31 30 0:51 / /dev rw - tmpfs tmpfs rw\n\
32 31 0:52 / /dev/pts rw - devpts devpts rw\n\
33 30 8:1 /home /srv/with\\040space\\134 rw - ext4 /dev/sda1 rw\n\
34 30 0:50 /etc /mnt rw - fuse overcoat rw\n\
35 34 0:51 /hidden /mnt/x rw - tmpfs tmpfs rw\n\
36 35 0:51 /j/etc/init.d /mnt/x rw - tmpfs tmpfs rw\n";
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
    fn fdinfo_has_the_flags() {
        assert_eq!(parse_path_only("pos:\t0\nflags:\t012000000\nmnt_id:\t28\n"), Some(true));
        assert_eq!(parse_path_only("pos:\t0\nflags:\t0100000\n"), Some(false));
        assert_eq!(parse_path_only("pos:\t0\n"), None);
    }

    #[test]
    fn memory_of_this_process_is_read_and_written() {
        let me = Caller { tid: std::process::id() };
        let path = c"/a/path/of/this/test";
        assert_eq!(me.read_path(path.as_ptr() as u64).unwrap(), path.to_bytes());
        assert_eq!(me.read_path(8), Err(Errno::EFAULT));
        let long = vec![b'x'; 3 * PATH_MAX];
        assert_eq!(me.read_path(long.as_ptr() as u64), Err(Errno::ENAMETOOLONG));
        assert_eq!(me.is_path_only(99_999), Err(Errno::EBADF));
        let mut target = [0_u8; 3];
        me.write_memory(target.as_mut_ptr() as u64, &[1, 2, 3]).unwrap();
        assert_eq!(target, [1, 2, 3]);
        assert_eq!(me.write_memory(8, &[1]), Err(Errno::EFAULT));
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
