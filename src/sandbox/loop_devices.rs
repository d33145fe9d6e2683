//! Loop devices on files of the root, which commands left behind.
//!
//! A loop device keeps its file open in the kernel, even if no process has it. The mount of the
//! root would not end before the device is detached, and the daemon would serve it for ever. Only a
//! sandbox of root can make such devices: it runs without a user namespace.
//!
//! The stage detaches them when pid 1 has ended: no process can make another one then, and the
//! stage, unlike the daemon, may wait for the daemon's replies.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::sys::{self, LoopStatus};

/// The list of files that loop devices were on. The stage writes it and the daemon reads it.
#[derive(Debug)]
pub(super) struct LoopFiles(OwnedFd);

impl LoopFiles {
    pub(super) fn new() -> io::Result<Self> {
        sys::anonymous_file(c"overcoat-loops", b"").map(LoopFiles)
    }

    /// Detaches all loop devices on files of the root, which is the current directory and mounted
    /// on `mount_dir`, and on files of file systems on such devices. Adds the files of the root to
    /// the list.
    pub(super) fn detach_all(&self, mount_dir: &Path) -> io::Result<()> {
        let root = std::fs::metadata(".")?.dev();
        let mut list = File::from(self.0.try_clone()?);
        let entries = std::fs::read_dir("/sys/block")?.flatten();
        let mut devices: Vec<LoopDevice> =
            entries.filter_map(|entry| LoopDevice::open(entry.path())).collect();
        let mut file_systems = vec![root];
        while let Some(file_system) = file_systems.pop() {
            let is_on = |device: &mut LoopDevice| device.status.device == file_system;
            for device in devices.extract_if(.., is_on) {
                if file_system == root {
                    let path = path_in_root(&device.shown, mount_dir, device.status.inode);
                    list.write_all(&[path.as_os_str().as_bytes(), b"\0"].concat())?;
                }
                file_systems.extend(device.numbers());
                // The kernel may use it still, for a file system that ends with the sandbox.
                let _ = sys::detach_loop_device(device.file.as_fd());
            }
        }
        Ok(())
    }

    /// Returns the absolute paths of the files in the root, in order. Empty before the stage has
    /// ended.
    pub(super) fn read(&self) -> io::Result<Vec<Vec<u8>>> {
        let list = File::from(self.0.try_clone()?);
        let mut content = vec![0; list.metadata()?.len() as usize];
        list.read_exact_at(&mut content, 0)?;
        let paths = content.split(|byte| *byte == 0).filter(|path| !path.is_empty());
        let mut paths: Vec<Vec<u8>> = paths.map(<[u8]>::to_vec).collect();
        paths.sort();
        Ok(paths)
    }
}

impl AsFd for LoopFiles {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A loop device that is on a file.
struct LoopDevice {
    file: File,
    /// Its directory in `/sys/block`.
    sys_dir: PathBuf,
    status: LoopStatus,
    /// The path of its file, as the kernel shows it.
    shown: PathBuf,
}

impl LoopDevice {
    /// Opens the device with this directory in `/sys/block`, if it is a loop device on a file.
    fn open(sys_dir: PathBuf) -> Option<Self> {
        let shown = std::fs::read(sys_dir.join("loop/backing_file")).ok()?;
        let path = Path::new("/dev").join(sys_dir.file_name()?);
        let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path).ok()?;
        let metadata = file.metadata().ok()?;
        let is_device = metadata.file_type().is_block_device()
            && read_number(&sys_dir) == Some(metadata.rdev());
        let status = sys::loop_status(file.as_fd()).ok().filter(|_| is_device)?;
        let shown = PathBuf::from(OsStr::from_bytes(shown.trim_ascii_end()));
        Some(LoopDevice { file, sys_dir, status, shown })
    }

    /// Returns the device numbers of the device and its partitions.
    fn numbers(&self) -> Vec<u64> {
        let entries = std::fs::read_dir(&self.sys_dir).into_iter().flatten().flatten();
        let partitions = entries.filter_map(|entry| read_number(&entry.path()));
        read_number(&self.sys_dir).into_iter().chain(partitions).collect()
    }
}

/// Reads the device number in a directory below `/sys/block`.
fn read_number(sys_dir: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(sys_dir.join("dev")).ok()?;
    let (major, minor) = text.trim().split_once(':')?;
    Some(libc::makedev(major.parse().ok()?, minor.parse().ok()?))
}

/// Returns the path in the root of a file with the number `inode`. The kernel shows the path from
/// the root, or from the host's root for a command that ran outside.
fn path_in_root(shown: &Path, mount_dir: &Path, inode: u64) -> PathBuf {
    let inside = shown.strip_prefix("/").ok();
    let candidates = [inside, shown.strip_prefix(mount_dir).ok()];
    let is_file = |path: &&Path| std::fs::symlink_metadata(path).is_ok_and(|m| m.ino() == inode);
    let found = candidates.into_iter().flatten().find(is_file).or(inside);
    Path::new("/").join(found.unwrap_or(shown))
}
