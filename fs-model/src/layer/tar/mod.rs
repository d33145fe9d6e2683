//! tar archives as layers, uncompressed or compressed with gzip, zstd or xz.
//!
//! The tree is the one that GNU tar extracts into an empty directory, run by root with all
//! attributes ([`crate::tar`]; `build` has the rules). overcoat and OCI image layers store
//! deletions as names, which are whiteouts here.
//!
//! Invariants in addition to those of every layer:
//! - The content of an uncompressed archive is read in place. A compressed archive is decoded once,
//!   when the layer is opened. Only the content of its files is kept in memory, without zeros.
//! - The layer's memory (decoded content and the index) is limited by [`Limits`]. This is checked
//!   as it grows, so stated sizes and compression ratios cannot exceed it. The number of decoded
//!   bytes is limited, too, because zeros need no memory.
//! - An archive ends with blocks of zeros. Without them it may be truncated, and is rejected.
//! - `.wh.NAME` and character devices 0:0 are whiteouts, and `.wh..wh..opq` makes a directory
//!   opaque; other `.wh..wh.` names of aufs are ignored.

mod build;

use std::io::{self, BufRead, BufReader, Read};
use std::ops::Range;
use std::sync::Arc;

use crate::acl::AccountIds;
use crate::attr::Attr;
use crate::error::{LayerError, LayerErrorKind};
use crate::layer::compressed::{self, is_compressed};
use crate::layer::memory::{MemoryBudget, OverBudget};
use crate::layer::{
    Layer, LayerDirEntry, LayerEntry, LayerIno, Limits, PIECE_SIZE, Xattr, overlayfs,
};
use crate::tar::{BLOCK_SIZE, End, Member, Reader, TarError, TarErrorKind, is_header};

use build::{ROOT, TarData, TarNode, TarTreeBuilder};

/// The bytes of an archive, for example a memory map of the file.
pub type TarImage = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// First bytes of an xz stream.
const XZ_MAGIC: &[u8] = b"\xfd7zXZ\0";
/// Maximum memory of the xz decoder in bytes. The highest preset needs 65 MiB.
const XZ_MEMORY_LIMIT: u64 = 128 << 20;
/// Size of the buffer of decoded bytes.
const BUFFER_SIZE: usize = 64 * 1024;
/// Maximum number of bytes that a compressed archive unpacks to. Bounds the time for a crafted
/// archive.
const MAX_DECODED_BYTES: u64 = 32 << 30;
/// Maximum size of a file in bytes, including holes: that of ext4.
const MAX_FILE_SIZE: u64 = 16 << 40;

/// A part of a file's content.
#[derive(Debug)]
struct Piece {
    /// Offset in the file.
    start: u64,
    bytes: PieceBytes,
}

#[derive(Debug)]
enum PieceBytes {
    /// A range of the image.
    Image(Range<u64>),
    /// Decoded bytes.
    Memory(Box<[u8]>),
}

impl Piece {
    fn len(&self) -> u64 {
        match &self.bytes {
            PieceBytes::Image(range) => range.end - range.start,
            PieceBytes::Memory(bytes) => bytes.len() as u64,
        }
    }

    fn end(&self) -> u64 {
        self.start + self.len()
    }
}

/// A decoder of a whole file: other data after the compressed stream is an error.
struct WholeFile<'a>(compressed::Decoder<'a>);

impl Read for WholeFile<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.0.read(buf)?;
        if read == 0 && !buf.is_empty() && self.0.rest().iter().any(|&byte| byte != 0) {
            return Err(io::Error::other("other data follows it"));
        }
        Ok(read)
    }
}

/// A stream that fails after a number of bytes.
struct Limited<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buf)?;
        let left = self.left.checked_sub(read as u64);
        self.left = left.ok_or_else(|| io::Error::other("it unpacks to more than 32 GiB"))?;
        Ok(read)
    }
}

/// A tar archive as a layer.
pub struct TarLayer {
    name: Arc<str>,
    image: TarImage,
    nodes: Vec<TarNode>,
    describes_root: bool,
    has_acls: bool,
}

impl std::fmt::Debug for TarLayer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TarLayer")
            .field("name", &self.name)
            .field("objects", &self.nodes.len())
            .finish_non_exhaustive()
    }
}

/// Returns whether the bytes of a file are a tar archive, uncompressed or compressed.
pub fn is_tar(bytes: &[u8]) -> bool {
    let Ok(Some(decoder)) = decoder(bytes) else { return is_header(bytes) };
    let mut block = Vec::new();
    // After an error the block is incomplete, and is no header.
    let _ = decoder.take(BLOCK_SIZE as u64).read_to_end(&mut block);
    is_header(&block)
}

/// Returns a decoder of a compressed archive; `None` if it is not compressed.
fn decoder<'a>(bytes: &'a [u8]) -> io::Result<Option<Box<dyn Read + 'a>>> {
    Ok(if is_compressed(bytes) {
        Some(Box::new(WholeFile(compressed::Decoder::new(bytes))))
    } else if bytes.starts_with(XZ_MAGIC) {
        let flags = liblzma::stream::CONCATENATED;
        let stream = liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY_LIMIT, flags)?;
        Some(Box::new(liblzma::bufread::XzDecoder::new_stream(bytes, stream)))
    } else {
        None
    })
}

impl TarLayer {
    /// Reads and indexes an archive without names of users or groups in ACLs.
    ///
    /// # Errors
    /// Fails if the image is not a tar archive, is damaged, or exceeds `limits`.
    pub fn open(
        name: impl Into<Arc<str>>,
        image: TarImage,
        limits: Limits,
    ) -> Result<Self, LayerError> {
        Self::open_with_accounts(name, image, limits, |_| Ok(AccountIds::default()))
    }

    /// Reads and indexes an archive. If its ACLs have names of users or groups, `accounts` returns
    /// their ids. It gets the layer without these ACLs, and must not keep it.
    ///
    /// # Errors
    /// As [`TarLayer::open`], and if a name has no id.
    pub fn open_with_accounts(
        name: impl Into<Arc<str>>,
        image: TarImage,
        limits: Limits,
        accounts: impl FnOnce(Arc<TarLayer>) -> Result<AccountIds, LayerError>,
    ) -> Result<Self, LayerError> {
        let name = name.into();
        let bytes = image.as_ref().as_ref();
        let mut reading = Reading {
            name: &name,
            budget: MemoryBudget::new(limits),
            builder: TarTreeBuilder::default(),
        };
        match decoder(bytes).map_err(|error| reading.damaged(&error))? {
            None => reading.members(Reader::buffered(bytes), Reading::locate)?,
            Some(decoder) => {
                let limited = Limited { inner: decoder, left: MAX_DECODED_BYTES };
                let stream = BufReader::with_capacity(BUFFER_SIZE, limited);
                reading.members(Reader::buffered(stream), Reading::decode)?;
            }
        }
        let mut builder = reading.builder;
        let (describes_root, has_acls) = (builder.describes_root(), builder.has_acls());
        let named_acls = builder.take_named_acls();
        let nodes = builder.finish().map_err(|what| LayerError::corrupt(&name, what))?;
        let layer = TarLayer { name, image, nodes, describes_root, has_acls };
        if named_acls.is_empty() {
            return Ok(layer);
        }
        let (name, shared) = (layer.name.clone(), Arc::new(layer));
        let ids = accounts(shared.clone())?;
        let layer = Arc::into_inner(shared);
        let mut layer = layer.ok_or_else(|| LayerError::unsupported(&name, "it is in use"))?;
        for (index, acls) in named_acls {
            layer.nodes[index].set_named_acls(&acls, &ids).map_err(|(path, offset, what)| {
                let path = crate::tar::prefix(Some(&path));
                LayerError::unsupported(&name, format!("{path}{what} (at byte {offset})"))
            })?;
        }
        Ok(layer)
    }

    fn node(&self, ino: LayerIno) -> Result<&TarNode, LayerError> {
        usize::try_from(ino.0)
            .ok()
            .and_then(|index| self.nodes.get(index))
            .ok_or_else(|| self.not(ino, "an object"))
    }

    fn directory(&self, ino: LayerIno) -> Result<(&[LayerDirEntry], bool), LayerError> {
        match &self.node(ino)?.data {
            TarData::Directory { entries, opaque } => Ok((entries, *opaque)),
            _ => Err(self.not(ino, "a directory")),
        }
    }

    fn file(&self, ino: LayerIno) -> Result<(u64, &[Piece]), LayerError> {
        match &self.node(ino)?.data {
            TarData::File { size, pieces } => Ok((*size, pieces)),
            _ => Err(self.not(ino, "a regular file")),
        }
    }

    fn not(&self, ino: LayerIno, what: &str) -> LayerError {
        LayerError::corrupt(&self.name, format!("object {} is not {what}", ino.0))
    }
}

impl Layer for TarLayer {
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
        let ids = self.nodes.iter().map(TarNode::attr).map(|attr| attr.uid.max(attr.gid));
        Ok(ids.max().unwrap_or(0))
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
        let (size, pieces) = self.file(ino)?;
        let length = size.saturating_sub(offset).min(buf.len() as u64);
        let (buf, end) = (&mut buf[..length as usize], offset + length);
        buf.fill(0);
        let first = pieces.partition_point(|piece| piece.end() <= offset);
        for piece in pieces[first..].iter().take_while(|piece| piece.start < end) {
            let from = piece.start.max(offset);
            let to = piece.end().min(end);
            let within = (from - piece.start) as usize..(to - piece.start) as usize;
            let content = match &piece.bytes {
                PieceBytes::Memory(bytes) => bytes.get(within),
                PieceBytes::Image(range) => {
                    let bytes = self.image.as_ref().as_ref();
                    bytes.get(range.start as usize..range.end as usize).and_then(|b| b.get(within))
                }
            };
            // The mapped file was truncated since.
            let content = content.ok_or_else(|| LayerError::corrupt(&self.name, "truncated"))?;
            buf[(from - offset) as usize..(to - offset) as usize].copy_from_slice(content);
        }
        Ok(length as usize)
    }

    fn next_data(&self, ino: LayerIno, offset: u64) -> Result<Option<Range<u64>>, LayerError> {
        let (size, pieces) = self.file(ino)?;
        if offset >= size {
            return Ok(None);
        }
        let first = pieces.partition_point(|piece| piece.end() <= offset);
        let Some(piece) = pieces.get(first) else { return Ok(None) };
        let mut data = piece.start.max(offset)..piece.end();
        for next in &pieces[first + 1..] {
            if next.start != data.end {
                break;
            }
            data.end = next.end();
        }
        Ok(Some(data))
    }

    fn is_cached(&self, _ino: LayerIno, _offset: u64, _len: usize) -> bool {
        true
    }

    fn read_link(&self, ino: LayerIno) -> Result<Vec<u8>, LayerError> {
        match &self.node(ino)?.data {
            TarData::Target(target) => Ok(target.to_vec()),
            _ => Err(self.not(ino, "a symbolic link")),
        }
    }

    fn may_have_acls(&self) -> bool {
        self.has_acls
    }

    fn xattrs(&self, ino: LayerIno) -> Result<Vec<Xattr>, LayerError> {
        Ok(self.node(ino)?.xattrs.clone())
    }

    fn is_opaque(&self, dir: LayerIno) -> Result<bool, LayerError> {
        Ok(self.directory(dir)?.1)
    }
}

/// State while reading an archive.
struct Reading<'n> {
    name: &'n Arc<str>,
    budget: MemoryBudget,
    builder: TarTreeBuilder,
}

impl Reading<'_> {
    /// Reads all members. `content` returns the content of a regular file.
    fn members<R: BufRead>(
        &mut self,
        mut reader: Reader<R>,
        content: impl Fn(&mut Self, &mut Reader<R>) -> Result<Vec<Piece>, LayerError>,
    ) -> Result<(), LayerError> {
        while let Some(member) = reader.next_member().map_err(|error| self.failure(error))? {
            let of_this = |error: TarErrorKind| TarError {
                member: Some(member.path.clone()),
                offset: member.offset,
                kind: error,
            };
            let member_size = build::memory_of(&member);
            self.budget.take(member_size).map_err(|error| self.over_budget(error))?;
            let unsupported = |(name, _): &&Xattr| overlayfs::is_unsupported(name);
            if let Some((name, _)) = member.xattrs.iter().find(unsupported) {
                let path = String::from_utf8_lossy(&member.path);
                return Err(overlayfs::unsupported(self.name, &path, name));
            }
            if member.size > MAX_FILE_SIZE {
                let what = "a file of more than 16 TiB, including holes";
                return Err(self.failure(of_this(TarErrorKind::Unsupported(what))));
            }
            let pieces = content(self, &mut reader)?;
            let added = self.builder.insert(&member, pieces, &mut self.budget);
            added.map_err(|error| match error {
                build::InsertError::OverBudget(error) => self.over_budget(error),
                build::InsertError::Invalid(what) => self.invalid(&member, &what),
            })?;
        }
        if reader.end() == Some(End::Unmarked) {
            let what = "truncated: it does not end with two blocks of zeros";
            return Err(LayerError::corrupt(self.name, what));
        }
        // A decoder verifies its checksum at the end.
        reader.drain().map_err(|error| self.failure(error))
    }

    /// Returns the location of a file's content in the image.
    fn locate(&mut self, reader: &mut Reader<&[u8]>) -> Result<Vec<Piece>, LayerError> {
        let mut pieces = Vec::new();
        while let Some((range, at)) = reader.skip_data().map_err(|error| self.failure(error))? {
            self.take(size_of::<Piece>() as u64)?;
            let bytes = PieceBytes::Image(at..at + (range.end - range.start));
            pieces.push(Piece { start: range.start, bytes });
        }
        Ok(pieces)
    }

    /// Decodes a file's content, without pieces of zeros.
    fn decode<R: BufRead>(&mut self, reader: &mut Reader<R>) -> Result<Vec<Piece>, LayerError> {
        let (mut pieces, mut buffer) = (Vec::new(), vec![0; BUFFER_SIZE]);
        let (mut start, mut bytes) = (0, Vec::new());
        loop {
            let read = reader.read_data(&mut buffer).map_err(|error| self.failure(error))?;
            let (offset, length) = read.unwrap_or((0, 0));
            let continues = offset == start + bytes.len() as u64
                && length > 0
                && bytes.len() + length <= PIECE_SIZE;
            if !continues {
                if bytes.iter().any(|&byte| byte != 0) {
                    self.take(size_of::<Piece>() as u64 + bytes.len() as u64)?;
                    let bytes = PieceBytes::Memory(Box::from(&bytes[..]));
                    pieces.push(Piece { start, bytes });
                }
                start = offset;
                bytes.clear();
            }
            if length == 0 {
                return Ok(pieces);
            }
            bytes.extend_from_slice(&buffer[..length]);
        }
    }

    fn take(&mut self, bytes: u64) -> Result<(), LayerError> {
        self.budget.take(bytes).map_err(|error| self.over_budget(error))
    }

    fn over_budget(&self, error: OverBudget) -> LayerError {
        LayerError::unsupported(self.name, error.to_string())
    }

    fn damaged(&self, error: &io::Error) -> LayerError {
        LayerError::corrupt(self.name, format!("the compressed stream is damaged: {error}"))
    }

    /// Returns the error for a member that cannot be created.
    fn invalid(&self, member: &Member, what: &str) -> LayerError {
        let path = crate::tar::prefix(Some(&member.path));
        let what = format!("{path}{what} (at byte {} of the archive)", member.offset);
        LayerError::corrupt(self.name, what)
    }

    fn failure(&self, error: TarError) -> LayerError {
        let TarError { member, offset, kind } = error;
        let path = crate::tar::prefix(member.as_deref());
        match kind {
            TarErrorKind::NotTar => {
                let kind = LayerErrorKind::NotThisFormat { expected: "a tar archive" };
                LayerError { image: self.name.clone(), kind }
            }
            TarErrorKind::Read(error) => self.damaged(&error),
            TarErrorKind::Unsupported(what) => {
                LayerError::unsupported(self.name, format!("{path}{what}"))
            }
            kind => {
                let reason = kind.to_string();
                let reason = reason.strip_prefix("damaged: ").unwrap_or(&reason);
                let what = format!("{path}{reason} (at byte {offset} of the archive)");
                LayerError::corrupt(self.name, what)
            }
        }
    }
}

#[cfg(test)]
mod tests;
