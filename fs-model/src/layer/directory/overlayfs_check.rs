//! Search for unsupported attributes of the kernel's overlayfs in a directory.

use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::{DirectoryLayer, with_growing_buffer};
use crate::error::LayerError;
use crate::layer::overlayfs;

/// Maximum length of a path that is searched, in bytes.
const PATH_MAX: usize = 4096;
/// Size below which a file system may store a file without data blocks, in bytes.
const MIN_WITHOUT_DATA: i64 = 4096;

impl DirectoryLayer {
    /// Rejects a directory with unsupported attributes of overlayfs.
    ///
    /// If the caller cannot read the attributes of root, returns the path of a whiteout or of a
    /// large file without data that another user created: this indicates that overlayfs wrote the
    /// directory and that directories may be marked opaque.
    ///
    /// Skips files that cannot be read. The error is reported when they are read later.
    ///
    /// # Errors
    /// [`LayerErrorKind::Unsupported`](crate::error::LayerErrorKind::Unsupported).
    pub fn check_overlayfs_attributes(&self) -> Result<Option<String>, LayerError> {
        let us = rustix::process::geteuid();
        let mut hint = None;
        let mut pending: Vec<Vec<u8>> = vec![Vec::new()];
        while let Some(dir) = pending.pop() {
            let Ok(fd) = self.open_inside(&dir) else { continue };
            self.check_attributes(&fd, b".", &dir)?;
            let Ok(entries) = Dir::read_from(&fd) else { continue };
            for entry in entries {
                let Ok(entry) = entry else { break };
                let name = entry.file_name().to_bytes();
                if name == b"." || name == b".." {
                    continue;
                }
                let separator: &[u8] = if dir.is_empty() { b"" } else { b"/" };
                let path = [&dir[..], separator, name].concat();
                let mut kind = entry.file_type();
                let unread = !us.is_root() && hint.is_none();
                if matches!(kind, FileType::Unknown | FileType::CharacterDevice)
                    || kind == FileType::RegularFile && unread
                {
                    let Ok(stat) = rustix::fs::statat(&fd, name, AtFlags::SYMLINK_NOFOLLOW) else {
                        continue;
                    };
                    kind = FileType::from_raw_mode(stat.st_mode);
                    let is_whiteout = kind == FileType::CharacterDevice && stat.st_rdev == 0;
                    // A file of which only the attributes were copied up (metacopy).
                    let is_empty = kind == FileType::RegularFile
                        && stat.st_size >= MIN_WITHOUT_DATA
                        && stat.st_blocks == 0;
                    if (is_whiteout || is_empty) && unread && stat.st_uid != us.as_raw() {
                        hint = Some(String::from_utf8_lossy(&path).into_owned());
                    }
                }
                match kind {
                    FileType::RegularFile => self.check_attributes(&fd, name, &path)?,
                    FileType::Directory if path.len() < PATH_MAX => pending.push(path),
                    _ => {}
                }
            }
        }
        Ok(hint)
    }

    /// Opens a directory below this one without following symbolic links.
    fn open_inside(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let path = if path.is_empty() { &b"."[..] } else { path };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        rustix::fs::openat2(&self.root, path, flags, Mode::empty(), resolve)
    }

    /// Rejects the object `name` of the directory `fd` if it has an unsupported attribute.
    fn check_attributes(&self, fd: &OwnedFd, name: &[u8], path: &[u8]) -> Result<(), LayerError> {
        let mut path_in_proc = format!("/proc/self/fd/{}/", fd.as_raw_fd()).into_bytes();
        path_in_proc.extend_from_slice(name);
        let Ok(names) = with_growing_buffer(|buf| rustix::fs::llistxattr(&path_in_proc[..], buf))
        else {
            return Ok(());
        };
        match names.split(|&byte| byte == 0).find(|name| overlayfs::is_unsupported(name)) {
            Some(name) => {
                Err(overlayfs::unsupported(&self.name, &String::from_utf8_lossy(path), name))
            }
            None => Ok(()),
        }
    }
}
