//! Writes newc cpio, the format of Linux's initramfs
//! (`Documentation/driver-api/early-userspace/buffer-format.rst`).
//!
//! What unpacks it is somebody else's code, with its own ideas, so:
//! - The root is `.`; no name begins with a slash. A file called `TRAILER!!!` in the root, which
//!   every reader would take for the end, is written `./TRAILER!!!`.
//! - Inode numbers are the plan's, 1..n; the device that they are on is 0:0. The names of a file
//!   share the number, and the first one has the data. Everything else has one link, directories
//!   two.
//! - What is deleted is a character device 0:0 of mode 0 (overlayfs's whiteout), of root, of 1970.
//! - The checksum field, which nobody reads in this format, is 0, but for that of `.` where a name
//!   begins with `.wh.`: such a name stands for a whiteout in archives of others, and this says
//!   that it is none ([`WHITEOUTS_ARE_DEVICES`]).
//! - Times are whole seconds from 0 to 2^32-1, clamped.
//! - The trailer always stands, and zeros fill the archive to a multiple of 512 bytes.
//! - The size that a header states is the size that is written, or the archive fails.

use std::io::{self, Write};

use fs_model::attr::{Attr, Device, FileType};
use fs_model::layer::cpio::WHITEOUTS_ARE_DEVICES;

use super::plan::Item;

/// The largest file that fits.
pub(super) const FILE_SIZE_LIMIT: u64 = u32::MAX as u64;

const TRAILER: &[u8] = b"TRAILER!!!";
const BLOCK: u64 = 512;

/// A newc archive being written.
#[derive(Debug)]
pub(super) struct Newc<W: Write> {
    inner: W,
    written: u64,
    /// Bytes of the current file that are still to come.
    open: u64,
    epoch: Option<u32>,
    marked: bool,
}

#[derive(Debug, Default)]
struct Header {
    ino: u32,
    mode: u32,
    uid: u32,
    gid: u32,
    nlink: u32,
    mtime: u32,
    filesize: u32,
    rdev: Device,
    check: u32,
}

impl<W: Write> Newc<W> {
    /// Times after `epoch` are brought down to it. `marked` is an archive that holds names which
    /// begin with `.wh.`.
    pub(super) fn new(inner: W, epoch: Option<u32>, marked: bool) -> Self {
        Newc { inner, written: 0, open: 0, epoch, marked }
    }

    /// Writes an entry, up to its content. `target` is that of a symlink.
    pub(super) fn entry(&mut self, item: &Item<'_>, target: &[u8]) -> io::Result<()> {
        let path = item.path();
        let name: &[u8] = match path {
            b"" => b".",
            TRAILER => b"./TRAILER!!!",
            _ => path,
        };
        let Some(object) = item.object() else {
            let mode = FileType::CharDevice.mode_bits();
            let header = Header { ino: item.number, mode, nlink: 1, ..Header::default() };
            return self.header(&header, name);
        };
        let attr = &object.attr;
        let filesize = match attr.kind {
            FileType::Symlink => target.len() as u64,
            _ => item.content(),
        };
        let header = Header {
            ino: item.number,
            mode: attr.st_mode(),
            uid: attr.uid,
            gid: attr.gid,
            nlink: if attr.kind == FileType::Directory { 2 } else { item.links },
            mtime: clamp(attr, self.epoch),
            filesize: u32::try_from(filesize).map_err(|_| too_large())?,
            rdev: if attr.kind.is_device() { attr.rdev } else { Device::default() },
            check: if self.marked && path.is_empty() { WHITEOUTS_ARE_DEVICES } else { 0 },
        };
        self.header(&header, name)?;
        self.open = filesize;
        if attr.kind == FileType::Symlink { self.data(target) } else { Ok(()) }
    }

    /// Writes some of the current entry's content.
    pub(super) fn data(&mut self, data: &[u8]) -> io::Result<()> {
        self.open = self.open.checked_sub(data.len() as u64).ok_or_else(too_large)?;
        self.write(data)?;
        if self.open == 0 { self.pad(4) } else { Ok(()) }
    }

    /// Writes the trailer and gives the writer back.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.header(&Header { nlink: 1, ..Header::default() }, TRAILER)?;
        self.pad(BLOCK)?;
        Ok(self.inner)
    }

    fn header(&mut self, header: &Header, name: &[u8]) -> io::Result<()> {
        if self.open != 0 {
            return Err(io::Error::other("a file's content is not complete"));
        }
        let mut text = [0u8; 110];
        let fields = [
            header.ino,
            header.mode,
            header.uid,
            header.gid,
            header.nlink,
            header.mtime,
            header.filesize,
            0,
            0,
            header.rdev.major,
            header.rdev.minor,
            name.len() as u32 + 1,
            header.check,
        ];
        text[..6].copy_from_slice(b"070701");
        for (slot, field) in text[6..].chunks_exact_mut(8).zip(fields) {
            for (place, digit) in slot.iter_mut().enumerate() {
                *digit = b"0123456789abcdef"[(field >> (28 - 4 * place) & 15) as usize];
            }
        }
        self.write(&text)?;
        self.write(name)?;
        self.write(&[0])?;
        self.pad(4)
    }

    fn pad(&mut self, unit: u64) -> io::Result<()> {
        let padding = self.written.next_multiple_of(unit) - self.written;
        self.write(&[0; BLOCK as usize][..padding as usize])
    }

    fn write(&mut self, data: &[u8]) -> io::Result<()> {
        self.inner.write_all(data)?;
        self.written += data.len() as u64;
        Ok(())
    }
}

/// The modification time as the archive states it.
pub(super) fn clamp(attr: &Attr, epoch: Option<u32>) -> u32 {
    let secs = attr.mtime.secs.clamp(0, i64::from(u32::MAX)) as u32;
    epoch.map_or(secs, |epoch| secs.min(epoch))
}

fn too_large() -> io::Error {
    io::Error::other("a file's content is longer than its header says")
}
