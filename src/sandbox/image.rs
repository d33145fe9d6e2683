//! Mapping images into memory. It lies here because this is the place for `unsafe`.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use memmap2::Mmap;

/// Maps the whole of the file at `path`.
///
/// The image must not be cut short by somebody else while it is mapped: reading behind its new end
/// would end this process (`SIGBUS`), as it does any program that maps files. Replacing the file
/// by renaming another one over it, as every tool that writes images does, is fine.
///
/// # Errors
/// When it cannot be opened, or is no regular file.
pub fn map_image(path: &Path) -> io::Result<Mmap> {
    // Opening a pipe would wait for who writes to it.
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(nonblocking).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    // SAFETY: the map is private to reading and is given out as bytes that may be read and nothing
    // else. Should somebody write to the file meanwhile, the readers of images see changed bytes,
    // which they take for damage: they hold nothing for true that they checked in an earlier read
    // of the map without having copied it.
    unsafe { Mmap::map(&file) }
}
