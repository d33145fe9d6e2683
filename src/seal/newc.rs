//! Writes newc cpio, the format of Linux's initramfs
//! (`Documentation/driver-api/early-userspace/buffer-format.rst`).
//!
//! Many programs unpack it, each with its own interpretation, so:
//! - The root is `.`; no name begins with a slash. A file `TRAILER!!!` in the root, which every
//!   reader would treat as the end, is written `./TRAILER!!!`.
//! - Inode numbers are the plan's, 1..n, on device 0:0. The names of a file share a number, and the
//!   first one has the data. All other files have one link, directories two.
//! - A whiteout is a character device 0:0 with mode 0 (as in overlayfs), owned by root, with
//!   time 0.
//! - The checksum field, which readers of this format ignore, is 0. The exception is the one of `.`
//!   if a name begins with `.wh.`: other programs' archives use such names for whiteouts, and the
//!   value marks them as ordinary names ([`WHITEOUTS_ARE_DEVICES`]).
//! - Times are whole seconds from 0 to 2^32-1, clamped.
//! - The trailer is always written, and zeros pad the archive to a multiple of 512 bytes.
//! - The size in a header is the size written, or sealing fails.

use std::io::{self, Write};

use fs_model::attr::{Attr, Device, FileType};
use fs_model::layer::cpio::WHITEOUTS_ARE_DEVICES;

use super::plan::ArchiveItem;

/// The size of the largest file that the format can hold.
pub(super) const FILE_SIZE_LIMIT: u64 = u32::MAX as u64;

const TRAILER: &[u8] = b"TRAILER!!!";
const BLOCK_BYTES: u64 = 512;

/// A newc archive being written.
#[derive(Debug)]
pub(super) struct NewcWriter<W: Write> {
    inner: W,
    written: u64,
    /// Bytes of the current file not yet written.
    open: u64,
    epoch: Option<u32>,
    marked: bool,
}

#[derive(Debug, Default)]
struct NewcHeader {
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

impl<W: Write> NewcWriter<W> {
    /// Clamps times to `epoch`. `marked`: whether the archive contains names that begin with
    /// `.wh.`.
    pub(super) fn new(inner: W, epoch: Option<u32>, marked: bool) -> Self {
        NewcWriter { inner, written: 0, open: 0, epoch, marked }
    }

    /// Writes an entry without its content. `target` is a symbolic link's.
    pub(super) fn entry(&mut self, item: &ArchiveItem<'_>, target: &[u8]) -> io::Result<()> {
        let path = item.path();
        let name: &[u8] = match path {
            b"" => b".",
            TRAILER => b"./TRAILER!!!",
            _ => path,
        };
        let Some(object) = item.object() else {
            let mode = FileType::CharDevice.mode_bits();
            let header = NewcHeader { ino: item.number, mode, nlink: 1, ..NewcHeader::default() };
            return self.header(&header, name);
        };
        let attr = &object.attr;
        let filesize = match attr.kind {
            FileType::Symlink => target.len() as u64,
            _ => item.content(),
        };
        let header = NewcHeader {
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

    /// Writes a part of the current entry's content.
    pub(super) fn data(&mut self, data: &[u8]) -> io::Result<()> {
        self.open = self.open.checked_sub(data.len() as u64).ok_or_else(too_large)?;
        self.write(data)?;
        if self.open == 0 { self.pad(4) } else { Ok(()) }
    }

    /// Writes the trailer and returns the writer.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.header(&NewcHeader { nlink: 1, ..NewcHeader::default() }, TRAILER)?;
        self.pad(BLOCK_BYTES)?;
        Ok(self.inner)
    }

    fn header(&mut self, header: &NewcHeader, name: &[u8]) -> io::Result<()> {
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
        self.write(&[0; BLOCK_BYTES as usize][..padding as usize])
    }

    fn write(&mut self, data: &[u8]) -> io::Result<()> {
        self.inner.write_all(data)?;
        self.written += data.len() as u64;
        Ok(())
    }
}

/// Returns the modification time as written in the archive.
pub(super) fn clamp(attr: &Attr, epoch: Option<u32>) -> u32 {
    let secs = attr.mtime.secs.clamp(0, i64::from(u32::MAX)) as u32;
    epoch.map_or(secs, |epoch| secs.min(epoch))
}

fn too_large() -> io::Error {
    io::Error::other("a file's content is longer than the size in its header")
}
