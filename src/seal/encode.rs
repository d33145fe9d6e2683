//! The two stages between a delta's items and the output: the archive format and the compression.

use std::fs::File;
use std::io::{self, BufWriter, Write};

use fs_model::attr::Attr;
use fs_model::layer::Xattr;

use super::Format;
use super::gzip::Gzip;
use super::newc::NewcWriter;
use super::plan::ArchiveItem;
use super::squashfs::Mksquashfs;
use super::tar::{TarWriter, Whiteout};
use super::zstd::Zstd;

/// Bytes buffered before a call to zstd or a system call.
const BUFFER_BYTES: usize = 128 * 1024;

/// The compressor.
#[derive(Debug)]
pub(super) enum Encoder<W: Write> {
    Plain(BufWriter<W>),
    Gzip(Gzip<W>),
    Zstd(BufWriter<Zstd<W>>),
    Squashfs(BufWriter<Mksquashfs<W>>),
}

impl<W: Write> Encoder<W> {
    pub(super) fn new(
        inner: W,
        format: Format,
        level: u32,
        threads: usize,
        epoch: Option<u32>,
        root: Option<&Attr>,
    ) -> io::Result<Self> {
        Ok(match format {
            Format::Cpio | Format::Tar => {
                Encoder::Plain(BufWriter::with_capacity(BUFFER_BYTES, inner))
            }
            Format::CpioGz => Encoder::Gzip(Gzip::new(inner, level, threads)?),
            Format::CpioZst => Encoder::Zstd(BufWriter::with_capacity(
                BUFFER_BYTES,
                Zstd::new(inner, level, threads)?,
            )),
            Format::Squashfs => {
                let squashfs = Mksquashfs::new(inner, level, threads, epoch, root)?;
                Encoder::Squashfs(BufWriter::with_capacity(BUFFER_BYTES, squashfs))
            }
        })
    }

    /// Ends a squashfs image and returns it; `None` for other formats.
    ///
    /// # Errors
    /// Fails if mksquashfs failed.
    pub(super) fn complete_image(&mut self) -> io::Result<Option<&File>> {
        match self {
            Encoder::Squashfs(buffer) => {
                buffer.flush()?;
                buffer.get_mut().complete().map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Ends the stream and returns the writer.
    pub(super) fn finish(self) -> io::Result<W> {
        match self {
            Encoder::Plain(buffer) => Ok(buffer.into_inner()?),
            Encoder::Gzip(gzip) => gzip.finish(),
            Encoder::Zstd(buffer) => buffer.into_inner()?.finish(),
            Encoder::Squashfs(buffer) => {
                buffer.into_inner().map_err(io::IntoInnerError::into_error)?.finish()
            }
        }
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match self {
            Encoder::Plain(buffer) => buffer.write(data),
            Encoder::Gzip(gzip) => gzip.write(data),
            Encoder::Zstd(buffer) => buffer.write(data),
            Encoder::Squashfs(buffer) => buffer.write(data),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Encoder::Plain(buffer) => buffer.flush(),
            Encoder::Gzip(gzip) => gzip.flush(),
            Encoder::Zstd(buffer) => buffer.flush(),
            Encoder::Squashfs(buffer) => buffer.flush(),
        }
    }
}

/// The archive format.
#[derive(Debug)]
pub(super) enum ArchiveWriter<W: Write> {
    Newc(NewcWriter<W>),
    Tar(TarWriter<W>),
}

impl<W: Write> ArchiveWriter<W> {
    /// `markers`: whether the archive contains names that begin with `.wh.`.
    pub(super) fn new(inner: W, format: Format, epoch: Option<u32>, markers: bool) -> Self {
        match format {
            Format::Tar => ArchiveWriter::Tar(TarWriter::new(inner, epoch, Whiteout::Marker)),
            // overlayfs itself treats a device 0:0 in an image as a whiteout.
            Format::Squashfs => ArchiveWriter::Tar(TarWriter::new(inner, epoch, Whiteout::Device)),
            Format::Cpio | Format::CpioGz | Format::CpioZst => {
                ArchiveWriter::Newc(NewcWriter::new(inner, epoch, markers))
            }
        }
    }

    pub(super) fn entry(
        &mut self,
        item: &ArchiveItem<'_>,
        target: &[u8],
        first: Option<&[u8]>,
        xattrs: &[Xattr],
    ) -> io::Result<()> {
        match self {
            ArchiveWriter::Newc(newc) => newc.entry(item, target),
            ArchiveWriter::Tar(tar) => tar.entry(item, target, first, xattrs),
        }
    }

    pub(super) fn data(&mut self, data: &[u8]) -> io::Result<()> {
        match self {
            ArchiveWriter::Newc(newc) => newc.data(data),
            ArchiveWriter::Tar(tar) => tar.data(data),
        }
    }

    pub(super) fn finish(self) -> io::Result<W> {
        match self {
            ArchiveWriter::Newc(newc) => newc.finish(),
            ArchiveWriter::Tar(tar) => tar.finish(),
        }
    }
}
