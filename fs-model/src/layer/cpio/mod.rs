//! An overlay as a layer: newc cpio, plain or compressed
//! (`Documentation/driver-api/early-userspace/buffer-format.rst`).
//!
//! The image is what the kernel's initramfs unpacker takes: archives one after the other, plain,
//! gzip or zstd, with zeros between them, the later one winning. What they make together is
//! described in `build`. More lenient than the kernel is one thing alone: several gzip members
//! or zstd frames may make one archive.
//!
//! Invariants, beside those of every layer:
//! - The content of plain archives is read in place. What is compressed is decoded once, when the
//!   layer is opened; of it, only the files' content is kept, without stretches of zeros.
//! - The memory that the layer takes (content that was decoded, and the index) is within
//!   [`Limits`], and that is checked as it grows: an archive cannot take more by claiming or by
//!   compressing much.
//! - An archive without its trailer is truncated, whatever else it holds.
//! - `.wh.NAME` and character devices 0:0 are whiteouts, `.wh..wh..opq` makes a directory opaque;
//!   aufs's other `.wh..wh.` names are left out. An archive that is marked
//!   ([`WHITEOUTS_ARE_DEVICES`]) means files by such names.

mod build;
pub mod header;
mod source;

use std::ops::Range;
use std::sync::Arc;

use crate::attr::{Attr, FileType};
use crate::error::{LayerError, LayerErrorKind};
use crate::layer::{Layer, LayerDirEntry, LayerEntry, LayerIno, Xattr};

use build::{Builder, Data, Node, Payload, ROOT};
pub use header::WHITEOUTS_ARE_DEVICES;
use header::{Header, TARGET_LIMIT, TRAILER};
use source::{Body, Budget, PIECE, Source, SourceError, is_compressed};

/// The bytes of an archive; the caller maps the file.
pub type Image = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// What a layer may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of memory for the decoded content and the index.
    pub memory: u64,
}

impl Default for Limits {
    /// 4 GiB: more than any machine unpacks that runs from RAM, and less than it takes to bring a
    /// build machine down. A caller that knows the machine can do better.
    fn default() -> Self {
        Limits { memory: 4 << 30 }
    }
}

/// A cpio archive as a layer.
pub struct CpioLayer {
    name: Arc<str>,
    image: Image,
    nodes: Vec<Node>,
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
    /// When it is no cpio archive, or is damaged, or takes more than `limits`.
    pub fn open(
        name: impl Into<Arc<str>>,
        image: Image,
        limits: Limits,
    ) -> Result<Self, LayerError> {
        let name = name.into();
        let bytes = image.as_ref().as_ref();
        let mut reading =
            Reading { name: &name, budget: Budget::new(limits.memory), builder: Builder::new() };
        let mut rest = bytes;
        loop {
            let zeros = rest.iter().take_while(|&&byte| byte == 0).count();
            rest = &rest[zeros..];
            let at = bytes.len() - rest.len();
            if rest.is_empty() && at > zeros {
                break;
            }
            rest = if is_compressed(rest) {
                reading.archives(Source::compressed(rest), at)?
            } else if rest.starts_with(b"07070") && !rest.starts_with(b"070707") {
                reading.archives(Source::plain(bytes, at), at)?
            } else {
                return Err(reading.unknown(rest, at > zeros, at));
            };
        }
        let corrupt = |what| LayerError::corrupt(&name, what);
        let describes_root = reading.builder.describes_root();
        let nodes = reading.builder.finish().map_err(corrupt)?;
        Ok(CpioLayer { name, image, nodes, describes_root })
    }

    fn node(&self, ino: LayerIno) -> Result<&Node, LayerError> {
        usize::try_from(ino.0)
            .ok()
            .and_then(|index| self.nodes.get(index))
            .ok_or_else(|| self.not(ino, "an object"))
    }

    fn directory(&self, ino: LayerIno) -> Result<(&[LayerDirEntry], bool), LayerError> {
        match &self.node(ino)?.data {
            Data::Directory { entries, opaque } => Ok((entries, *opaque)),
            _ => Err(self.not(ino, "a directory")),
        }
    }

    fn file(&self, ino: LayerIno) -> Result<(u64, &Body), LayerError> {
        match &self.node(ino)?.data {
            Data::File { size, body } => Ok((u64::from(*size), body)),
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

    fn attr(&self, ino: LayerIno) -> Result<Attr, LayerError> {
        Ok(self.node(ino)?.attr())
    }

    fn lookup(&self, dir: LayerIno, name: &[u8]) -> Result<Option<LayerEntry>, LayerError> {
        let (entries, _) = self.directory(dir)?;
        let place = entries.binary_search_by(|entry| entry.name[..].cmp(name));
        Ok(place.ok().map(|place| entries[place].entry))
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
            Body::Image(start) => {
                let bytes = self.image.as_ref().as_ref();
                let start = start + offset as usize;
                let content = bytes.get(start..start + length);
                // A mapped file that was cut off since.
                let content = content.ok_or_else(|| truncated(&self.name, bytes.len() as u64))?;
                buf.copy_from_slice(content);
            }
            Body::Memory(pieces) => {
                let mut at = offset as usize;
                let mut rest = buf;
                while !rest.is_empty() {
                    let within = at % PIECE;
                    let step = rest.len().min(PIECE - within);
                    let (here, after) = rest.split_at_mut(step);
                    match &pieces[at / PIECE] {
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
        let Body::Memory(pieces) = body else { return Ok(Some(offset..size)) };
        let first = offset as usize / PIECE;
        let Some(data) = pieces[first..].iter().position(Option::is_some) else { return Ok(None) };
        let data = first + data;
        let end = pieces[data..].iter().position(Option::is_none).map(|length| data + length);
        let start = offset.max((data * PIECE) as u64);
        Ok(Some(start..end.map_or(size, |end| (end * PIECE) as u64)))
    }

    fn is_cached(&self, _ino: LayerIno, _offset: u64, _len: usize) -> bool {
        true
    }

    fn read_link(&self, ino: LayerIno) -> Result<Vec<u8>, LayerError> {
        match &self.node(ino)?.data {
            Data::Target(target) => Ok(target.to_vec()),
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
    LayerError::corrupt(name, format!("truncated: it ends at byte {at}, without its trailer"))
}

/// An image being read.
struct Reading<'n> {
    name: &'n Arc<str>,
    budget: Budget,
    builder: Builder,
}

impl Reading<'_> {
    /// Reads the archives of a source; gives what is left of the image.
    fn archives<'a>(&mut self, mut source: Source<'a>, at: usize) -> Result<&'a [u8], LayerError> {
        let failed = |reading: &Self, source: &Source<'_>, error| {
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
            // What follows a plain archive may be compressed: that is for the caller to see.
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

    /// Reads one entry; `false` when it was the trailer.
    fn entry(&mut self, source: &mut Source<'_>, first: bool) -> Result<bool, Fault> {
        let mut bytes = [0u8; header::LENGTH];
        source.read(&mut bytes)?;
        if first && !bytes.starts_with(b"07070") {
            return Err(Fault::NotCpio);
        }
        let header = Header::parse(&bytes)?;
        let mut name = vec![0; header.name_size as usize];
        source.read(&mut name)?;
        if name.pop() != Some(0) || name.contains(&0) {
            return Err("a name that does not end where its header says".to_string().into());
        }
        let of_this = |what: String| format!("{:?}: {what}", String::from_utf8_lossy(&name));
        if name == TRAILER {
            // The kernel knows the trailer by its name alone; so does this. Nothing of it needs to
            // follow: not even its padding.
            return Ok(false);
        }
        source.align()?;
        let kind = header.kind().map_err(of_this)?;
        // What an entry costs at most in the index: its node, its names and their tables.
        self.budget.take(384 + 2 * u64::from(header.name_size))?;
        let payload = self.payload(source, &header, kind).map_err(|fault| match fault {
            Fault::Wrong(what) => Fault::Wrong(of_this(what)),
            other => other,
        })?;
        source.align()?;
        self.builder.insert(&name, &header, kind, payload).map_err(of_this)?;
        Ok(true)
    }

    fn payload(
        &mut self,
        source: &mut Source<'_>,
        header: &Header,
        kind: FileType,
    ) -> Result<Payload, Fault> {
        match kind {
            FileType::Regular => {
                let checked = header.checksum.filter(|_| header.size > 0);
                let (body, sum) = source.body(header.size, checked.is_some(), &mut self.budget)?;
                match checked {
                    Some(stated) if stated != sum => {
                        Err("its checksum is wrong".to_string().into())
                    }
                    _ => Ok(Payload::File(body)),
                }
            }
            FileType::Symlink => {
                if header.size == 0 || header.size > TARGET_LIMIT {
                    return Err(format!("a link target of {} bytes", header.size).into());
                }
                let mut target = vec![0; header.size as usize];
                self.budget.take(header.size.into())?;
                source.read(&mut target)?;
                if target.contains(&0) {
                    return Err("a link target with NUL in it".to_string().into());
                }
                Ok(Payload::Target(target.into()))
            }
            _ => {
                source.skip(header.size.into())?;
                Ok(Payload::None)
            }
        }
    }

    fn failure(&self, fault: Fault, at: u64) -> LayerError {
        match fault {
            Fault::Wrong(what) => {
                LayerError::corrupt(self.name, format!("{what} (near byte {at} of the archive)"))
            }
            Fault::NotCpio => self.not_cpio(),
            Fault::Source(SourceError::End) => truncated(self.name, at),
            Fault::Source(SourceError::Damaged(error)) => {
                let what = if error.kind() == std::io::ErrorKind::UnexpectedEof {
                    format!(
                        "truncated: the compressed stream ends early, after {at} bytes were unpacked"
                    )
                } else {
                    format!("the compressed stream is damaged after byte {at}: {error}")
                };
                LayerError::corrupt(self.name, what)
            }
            Fault::Source(SourceError::TooMuch { limit }) => LayerError::unsupported(
                self.name,
                format!("unpacked it takes more than the {limit} bytes of memory it may have"),
            ),
        }
    }

    fn not_cpio(&self) -> LayerError {
        let kind = LayerErrorKind::NotThisFormat { expected: "a cpio archive" };
        LayerError { image: self.name.clone(), kind }
    }

    /// Says what the image is, when it is not read here.
    fn unknown(&self, bytes: &[u8], after_an_archive: bool, at: usize) -> LayerError {
        let known: [(&[u8], &str); 10] = [
            (b"070707", "the old portable cpio format (odc); newc is read"),
            (b"\xc7\x71", "the old binary cpio format; newc is read"),
            (b"\x71\xc7", "the old binary cpio format; newc is read"),
            (b"\xfd7zXZ", "xz compression; gzip and zstd are read"),
            (b"BZh", "bzip2 compression; gzip and zstd are read"),
            (b"\x02\x21\x4c\x18", "lz4 compression; gzip and zstd are read"),
            (b"\x04\x22\x4d\x18", "lz4 compression; gzip and zstd are read"),
            (b"\x89LZO", "lzo compression; gzip and zstd are read"),
            (b"\x5d\0\0", "lzma compression; gzip and zstd are read"),
            (b"\x1f\x9d", "LZW compression; gzip and zstd are read"),
        ];
        match known.iter().find(|(magic, _)| bytes.starts_with(magic)) {
            Some((_, what)) => LayerError::unsupported(self.name, *what),
            None if after_an_archive => LayerError::corrupt(
                self.name,
                format!("junk after the archive, from byte {at} of the file on"),
            ),
            None => self.not_cpio(),
        }
    }
}

/// Why an entry could not be read.
enum Fault {
    Wrong(String),
    NotCpio,
    Source(SourceError),
}

impl From<String> for Fault {
    fn from(what: String) -> Self {
        Fault::Wrong(what)
    }
}

impl From<SourceError> for Fault {
    fn from(error: SourceError) -> Self {
        Fault::Source(error)
    }
}

#[cfg(test)]
mod tests;
