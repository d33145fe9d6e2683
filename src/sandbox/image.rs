//! Mapping images into memory. Here because only this module may use `unsafe`.

use std::fs::OpenOptions;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use memmap2::{Mmap, MmapOptions};

/// Maps the whole of the file or block device at `path`.
///
/// The image must not be truncated while it is mapped: reading past its new end would kill this
/// process (`SIGBUS`). Replacing the file by renaming another over it, as every tool that writes
/// images does, is safe.
///
/// # Errors
/// Fails if the file cannot be opened, or is neither a regular file nor a block device.
pub(crate) fn map_image(path: &Path) -> io::Result<Mmap> {
    // Opening a pipe would wait for a writer.
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let mut file = OpenOptions::new().read(true).custom_flags(nonblocking).open(path)?;
    let meta = file.metadata()?;
    let length = match meta.file_type() {
        kind if kind.is_file() => meta.len(),
        // The size of a block device is not in its attributes.
        kind if kind.is_block_device() => file.seek(SeekFrom::End(0))?,
        _ => {
            let what = "not a regular file or block device";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
    };
    let length = usize::try_from(length).map_err(io::Error::other)?;
    // SAFETY: the map is read-only and private. If another process writes to the file meanwhile,
    // the image readers see changed bytes and report damage: they do not rely on checks from an
    // earlier read of the map unless they copied the data.
    unsafe { MmapOptions::new().len(length).map(&file) }
}
