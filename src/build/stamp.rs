//! Stamps of files, and reading files that may have been replaced by something else.
//!
//! Only regular files are opened: opening a FIFO waits for its other end, and devices have no end.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use crate::text::digest::{digest_reader, hex};

/// File metadata that identifies unchanged content without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileStamp {
    size: u64,
    inode: u64,
    seconds: i64,
    nanoseconds: i64,
    /// The time of the last change of content or metadata, which programs cannot set: seconds and
    /// nanoseconds. `None` in records of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    changed: Option<(i64, i64)>,
}

impl FileStamp {
    /// Returns the stamp of the regular file at `path`.
    ///
    /// # Errors
    /// Fails if the metadata of the file cannot be read, or it is not a regular file.
    pub fn read(path: &Path) -> io::Result<Self> {
        let meta = fs::metadata(path)?;
        match meta.is_file() {
            true => Ok(FileStamp::from(&meta)),
            false => Err(not_regular()),
        }
    }

    /// Returns the size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Returns the modification time, in seconds since 1970.
    pub fn seconds(&self) -> i64 {
        self.seconds
    }

    /// Returns the stamp without the time that also changes with the mode, the owner and the number
    /// of names: it identifies the content of a file that is open.
    pub(crate) fn without_change_time(self) -> Self {
        FileStamp { changed: None, ..self }
    }
}

impl From<&fs::Metadata> for FileStamp {
    fn from(meta: &fs::Metadata) -> Self {
        FileStamp {
            size: meta.len(),
            inode: meta.ino(),
            seconds: meta.mtime(),
            nanoseconds: meta.mtime_nsec(),
            changed: Some((meta.ctime(), meta.ctime_nsec())),
        }
    }
}

fn not_regular() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")
}

/// Opens the regular file or block device at `path`.
fn open(path: &Path) -> io::Result<File> {
    // Without O_NONBLOCK, a FIFO would be waited for.
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let is_readable = |meta: &fs::Metadata| meta.is_file() || meta.file_type().is_block_device();
    // A device is not opened, because that can have effects.
    if !is_readable(&fs::metadata(path)?) {
        return Err(not_regular());
    }
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    match is_readable(&file.metadata()?) {
        true => Ok(file),
        false => Err(not_regular()),
    }
}

/// Returns the SHA-256 of the regular file or block device at `path`.
///
/// # Errors
/// Fails if the file cannot be read.
pub(super) fn file_digest(path: &Path) -> io::Result<String> {
    Ok(hex(&digest_reader(open(path)?)?))
}

/// Returns the content of the regular file at `path`.
///
/// # Errors
/// Fails if the file cannot be read.
pub(super) fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    open(path)?.read_to_end(&mut content)?;
    Ok(content)
}
