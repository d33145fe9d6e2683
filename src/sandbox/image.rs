//! Mapping images into memory. It lies here because this is the place for `unsafe`.

use std::fs::OpenOptions;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use memmap2::{Mmap, MmapOptions};

/// Maps the whole of the file or block device at `path`.
///
/// The image must not be cut short by somebody else while it is mapped: reading behind its new end
/// would end this process (`SIGBUS`), as it does any program that maps files. Replacing the file
/// by renaming another one over it, as every tool that writes images does, is fine.
///
/// # Errors
/// When it cannot be opened, or is neither a regular file nor a block device.
pub fn map_image(path: &Path) -> io::Result<Mmap> {
    // Opening a pipe would wait for who writes to it.
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
    // SAFETY: the map is private to reading and is given out as bytes that may be read and nothing
    // else. Should somebody write to the file meanwhile, the readers of images see changed bytes,
    // which they take for damage: they hold nothing for true that they checked in an earlier read
    // of the map without having copied it.
    unsafe { MmapOptions::new().len(length).map(&file) }
}
