//! newc cpio archives as layers, uncompressed or compressed
//! (`Documentation/driver-api/early-userspace/buffer-format.rst`).
//!
//! An image has the format of the kernel's initramfs unpacker: concatenated archives, uncompressed
//! or as gzip or zstd, with zeros between them; later entries replace earlier ones. `build`
//! describes the resulting tree. There is one extension to the kernel's format: several gzip
//! members or zstd frames may form one archive.
//!
//! Invariants in addition to those of every layer:
//! - The content of an uncompressed archive is read in place. A compressed archive is decoded once,
//!   when the layer is opened. Only the content of its files is kept in memory, without pieces of
//!   zeros.
//! - The layer's memory (decoded content and the index) is limited by [`Limits`]. This is checked
//!   as it grows, so stated sizes and compression ratios cannot exceed it.
//! - An archive without trailer is truncated, regardless of its contents.
//! - `.wh.NAME` and character devices 0:0 are whiteouts, and `.wh..wh..opq` makes a directory
//!   opaque; other `.wh..wh.` names of aufs are ignored. In an archive with the marker
//!   [`WHITEOUTS_ARE_DEVICES`], such names are ordinary files.

mod build;
pub mod header;
mod source;

use std::ops::Range;
use std::sync::Arc;

use crate::attr::{Attr, FileType};
use crate::error::{LayerError, LayerErrorKind};
use crate::layer::compressed::is_compressed;
use crate::layer::memory::{MemoryBudget, OverBudget};
use crate::layer::{Layer, LayerDirEntry, LayerEntry, LayerIno, Limits, PIECE_SIZE, Xattr};

use build::{CpioData, CpioNode, CpioTreeBuilder, Payload, ROOT};
pub use header::WHITEOUTS_ARE_DEVICES;
use header::{Header, MAX_TARGET_LEN, TRAILER};
use source::{ArchiveSource, ContentBytes, SourceError};

/// The bytes of an archive, for example a memory map of the file.
pub type CpioImage = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// A cpio archive as a layer.
pub struct CpioLayer {
    name: Arc<str>,
    image: CpioImage,
    nodes: Vec<CpioNode>,
    describes_root: bool,
}

impl std::fmt::Debug for CpioLayer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CpioLayer")
            .field("name", &self.name)
            .field("objects", &self.nodes.len())
            .finish_non_exhaustive()
    }
}

impl CpioLayer {
    /// Reads and indexes an archive.
    ///
    /// # Errors
    /// Fails if the image is not a cpio archive, is damaged, or exceeds `limits`.
    pub fn open(
        name: impl Into<Arc<str>>,
        image: CpioImage,
        limits: Limits,
    ) -> Result<Self, LayerError> {
        let name = name.into();
        let bytes = image.as_ref().as_ref();
        let mut reading = Reading {
            name: &name,
            budget: MemoryBudget::new(limits),
            builder: CpioTreeBuilder::new(),
        };
        let mut rest = bytes;
        loop {
            let zeros = rest.iter().take_while(|&&byte| byte == 0).count();
            rest = &rest[zeros..];
            let at = bytes.len() - rest.len();
            if rest.is_empty() && at > zeros {
                break;
            }
            rest = if is_compressed(rest) {
                reading.archives(ArchiveSource::compressed(rest), at)?
            } else if rest.starts_with(b"07070") && !rest.starts_with(b"070707") {
                reading.archives(ArchiveSource::plain(bytes, at), at)?
            } else {
                return Err(reading.unknown(rest, at > zeros, at));
            };
        }
        let corrupt = |what| LayerError::corrupt(&name, what);
        let describes_root = reading.builder.describes_root();
        let nodes = reading.builder.finish().map_err(corrupt)?;
        Ok(CpioLayer { name, image, nodes, describes_root })
    }

    fn node(&self, ino: LayerIno) -> Result<&CpioNode, LayerError> {
        usize::try_from(ino.0)
            .ok()
            .and_then(|index| self.nodes.get(index))
            .ok_or_else(|| self.not(ino, "an object"))
    }

    fn directory(&self, ino: LayerIno) -> Result<(&[LayerDirEntry], bool), LayerError> {
        match &self.node(ino)?.data {
            CpioData::Directory { entries, opaque } => Ok((entries, *opaque)),
            _ => Err(self.not(ino, "a directory")),
        }
    }

    fn file(&self, ino: LayerIno) -> Result<(u64, &ContentBytes), LayerError> {
        match &self.node(ino)?.data {
            CpioData::File { size, body } => Ok((u64::from(*size), body)),
            _ => Err(self.not(ino, "a regular file")),
        }
    }

    fn not(&self, ino: LayerIno, what: &str) -> LayerError {
        LayerError::corrupt(&self.name, format!("object {} is not {what}", ino.0))
    }
}

impl Layer for CpioLayer {
    fn name(&self) -> &str {
        &self.name
    }

    fn root(&self) -> LayerIno {
        LayerIno(ROOT as u64)
    }

    fn describes_root(&self) -> bool {
        self.describes_root
    }

    fn highest_owner(&self) -> Result<u32, LayerError> {
        Ok(self.nodes.iter().map(|node| node.uid.max(node.gid)).max().unwrap_or(0))
    }

    fn attr(&self, ino: LayerIno) -> Result<Attr, LayerError> {
        Ok(self.node(ino)?.attr())
    }

    fn lookup(&self, dir: LayerIno, name: &[u8]) -> Result<Option<LayerEntry>, LayerError> {
        let (entries, _) = self.directory(dir)?;
        let pos = entries.binary_search_by(|entry| entry.name[..].cmp(name));
        Ok(pos.ok().map(|pos| entries[pos].entry))
    }

    fn read_dir(&self, dir: LayerIno) -> Result<Vec<LayerDirEntry>, LayerError> {
        Ok(self.directory(dir)?.0.to_vec())
    }

    fn read_at(&self, ino: LayerIno, offset: u64, buf: &mut [u8]) -> Result<usize, LayerError> {
        let (size, body) = self.file(ino)?;
        let length = size.saturating_sub(offset).min(buf.len() as u64) as usize;
        let buf = &mut buf[..length];
        match body {
            _ if length == 0 => {}
            ContentBytes::Image(start) => {
                let bytes = self.image.as_ref().as_ref();
                let start = start + offset as usize;
                let content = bytes.get(start..start + length);
                // The mapped file was truncated since.
                let content = content.ok_or_else(|| truncated(&self.name, bytes.len() as u64))?;
                buf.copy_from_slice(content);
            }
            ContentBytes::Memory(pieces) => {
                let mut at = offset as usize;
                let mut rest = buf;
                while !rest.is_empty() {
                    let within = at % PIECE_SIZE;
                    let step = rest.len().min(PIECE_SIZE - within);
                    let (here, after) = rest.split_at_mut(step);
                    match &pieces[at / PIECE_SIZE] {
                        Some(piece) => here.copy_from_slice(&piece[within..within + step]),
                        None => here.fill(0),
                    }
                    rest = after;
                    at += step;
                }
            }
        }
        Ok(length)
    }

    fn next_data(&self, ino: LayerIno, offset: u64) -> Result<Option<Range<u64>>, LayerError> {
        let (size, body) = self.file(ino)?;
        if offset >= size {
            return Ok(None);
        }
        let ContentBytes::Memory(pieces) = body else { return Ok(Some(offset..size)) };
        let first = offset as usize / PIECE_SIZE;
        let Some(data) = pieces[first..].iter().position(Option::is_some) else { return Ok(None) };
        let data = first + data;
        let end = pieces[data..].iter().position(Option::is_none).map(|length| data + length);
        let start = offset.max((data * PIECE_SIZE) as u64);
        Ok(Some(start..end.map_or(size, |end| (end * PIECE_SIZE) as u64)))
    }

    fn is_cached(&self, _ino: LayerIno, _offset: u64, _len: usize) -> bool {
        true
    }

    fn read_link(&self, ino: LayerIno) -> Result<Vec<u8>, LayerError> {
        match &self.node(ino)?.data {
            CpioData::Target(target) => Ok(target.to_vec()),
            _ => Err(self.not(ino, "a symbolic link")),
        }
    }

    fn may_have_acls(&self) -> bool {
        false
    }

    fn xattrs(&self, ino: LayerIno) -> Result<Vec<Xattr>, LayerError> {
        self.node(ino).map(|_| Vec::new())
    }

    fn is_opaque(&self, dir: LayerIno) -> Result<bool, LayerError> {
        Ok(self.directory(dir)?.1)
    }
}

fn truncated(name: &Arc<str>, at: u64) -> LayerError {
    LayerError::corrupt(name, format!("truncated: ends at byte {at} without a trailer"))
}

/// State while reading an image.
struct Reading<'n> {
    name: &'n Arc<str>,
    budget: MemoryBudget,
    builder: CpioTreeBuilder,
}

impl Reading<'_> {
    /// Reads the archives of a source. Returns the rest of the image.
    fn archives<'a>(
        &mut self,
        mut source: ArchiveSource<'a>,
        at: usize,
    ) -> Result<&'a [u8], LayerError> {
        let failed = |reading: &Self, source: &ArchiveSource<'_>, error| {
            let base = if source.is_plain() { at as u64 } else { 0 };
            reading.failure(error, base + source.position())
        };
        let mut first = true;
        loop {
            while self.entry(&mut source, first).map_err(|e| failed(self, &source, e))? {
                first = false;
            }
            first = false;
            self.builder.end_of_archive();
            // A plain archive may be followed by a compressed one, which the caller handles.
            if source.is_plain() {
                break;
            }
            source.restart();
            if !source.skip_zeros().map_err(|e| failed(self, &source, e.into()))? {
                break;
            }
            source.restart();
        }
        Ok(source.rest())
    }

    /// Reads an entry. Returns `false` for the trailer.
    fn entry(&mut self, source: &mut ArchiveSource<'_>, first: bool) -> Result<bool, ArchiveFault> {
        let mut bytes = [0u8; header::HEADER_SIZE];
        source.read(&mut bytes)?;
        if first && !bytes.starts_with(b"07070") {
            return Err(ArchiveFault::NotCpio);
        }
        let header = Header::parse(&bytes)?;
        let mut name = vec![0; header.name_size as usize];
        source.read(&mut name)?;
        if name.pop() != Some(0) || name.contains(&0) {
            return Err("a name whose length differs from its header".to_string().into());
        }
        let of_this = |what: String| format!("{:?}: {what}", String::from_utf8_lossy(&name));
        if name == TRAILER {
            // Like the kernel, identify the trailer by its name alone. Its padding may be missing.
            return Ok(false);
        }
        source.align()?;
        let kind = header.kind().map_err(of_this)?;
        // Maximum memory of an entry in the index: node, names and table slots.
        self.budget.take(384 + 2 * u64::from(header.name_size))?;
        let payload = self.payload(source, &header, kind).map_err(|fault| match fault {
            ArchiveFault::Wrong(what) => ArchiveFault::Wrong(of_this(what)),
            other => other,
        })?;
        source.align()?;
        self.builder.insert(&name, &header, kind, payload).map_err(of_this)?;
        Ok(true)
    }

    fn payload(
        &mut self,
        source: &mut ArchiveSource<'_>,
        header: &Header,
        kind: FileType,
    ) -> Result<Payload, ArchiveFault> {
        match kind {
            FileType::Regular => {
                let checked = header.checksum.filter(|_| header.size > 0);
                let (body, sum) = source.body(header.size, checked.is_some(), &mut self.budget)?;
                match checked {
                    Some(stated) if stated != sum => Err("checksum mismatch".to_string().into()),
                    _ => Ok(Payload::File(body)),
                }
            }
            FileType::Symlink => {
                if header.size == 0 || header.size > MAX_TARGET_LEN {
                    return Err(format!("a link target of {} bytes", header.size).into());
                }
                let mut target = vec![0; header.size as usize];
                self.budget.take(header.size.into())?;
                source.read(&mut target)?;
                if target.contains(&0) {
                    return Err("a link target that contains a NUL".to_string().into());
                }
                Ok(Payload::Target(target.into()))
            }
            _ => {
                source.skip(header.size.into())?;
                Ok(Payload::None)
            }
        }
    }

    fn failure(&self, fault: ArchiveFault, at: u64) -> LayerError {
        match fault {
            ArchiveFault::Wrong(what) => {
                LayerError::corrupt(self.name, format!("{what} (near byte {at} of the archive)"))
            }
            ArchiveFault::NotCpio => self.not_cpio(),
            ArchiveFault::ReadFailed(SourceError::End) => truncated(self.name, at),
            ArchiveFault::ReadFailed(SourceError::Damaged(error)) => {
                let what = if error.kind() == std::io::ErrorKind::UnexpectedEof {
                    format!("truncated: the compressed stream ends after {at} decoded bytes")
                } else {
                    format!("the compressed stream is damaged after {at} decoded bytes: {error}")
                };
                LayerError::corrupt(self.name, what)
            }
            ArchiveFault::ReadFailed(SourceError::TooMuch { limit }) => {
                LayerError::unsupported(self.name, OverBudget { limit }.to_string())
            }
        }
    }

    fn not_cpio(&self) -> LayerError {
        let kind = LayerErrorKind::NotThisFormat { expected: "a cpio archive" };
        LayerError { image: self.name.clone(), kind }
    }

    /// Returns an error that describes an image in an unsupported format.
    fn unknown(&self, bytes: &[u8], after_an_archive: bool, at: usize) -> LayerError {
        let known: [(&[u8], &str); 10] = [
            (b"070707", "the old portable cpio format (odc); use newc"),
            (b"\xc7\x71", "the old binary cpio format; use newc"),
            (b"\x71\xc7", "the old binary cpio format; use newc"),
            (b"\xfd7zXZ", "xz compression; use gzip or zstd"),
            (b"BZh", "bzip2 compression; use gzip or zstd"),
            (b"\x02\x21\x4c\x18", "lz4 compression; use gzip or zstd"),
            (b"\x04\x22\x4d\x18", "lz4 compression; use gzip or zstd"),
            (b"\x89LZO", "lzo compression; use gzip or zstd"),
            (b"\x5d\0\0", "lzma compression; use gzip or zstd"),
            (b"\x1f\x9d", "LZW compression; use gzip or zstd"),
        ];
        match known.iter().find(|(magic, _)| bytes.starts_with(magic)) {
            Some((_, what)) => LayerError::unsupported(self.name, *what),
            None if after_an_archive => LayerError::corrupt(
                self.name,
                format!("trailing data after the archive, from byte {at} of the file"),
            ),
            None => self.not_cpio(),
        }
    }
}

/// The reason why an entry cannot be read.
enum ArchiveFault {
    Wrong(String),
    NotCpio,
    ReadFailed(SourceError),
}

impl From<String> for ArchiveFault {
    fn from(what: String) -> Self {
        ArchiveFault::Wrong(what)
    }
}

impl From<OverBudget> for ArchiveFault {
    fn from(error: OverBudget) -> Self {
        SourceError::from(error).into()
    }
}

impl From<SourceError> for ArchiveFault {
    fn from(error: SourceError) -> Self {
        ArchiveFault::ReadFailed(error)
    }
}

#[cfg(test)]
mod tests;
