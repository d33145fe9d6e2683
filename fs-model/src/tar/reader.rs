//! Reads the members of an archive from a stream.

use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::mem;
use std::ops::Range;

use super::header::{BlockKind, TarHeader, until_nul};
use super::pax::Extended;
use super::sparse::{self, Extent, MapLines, OldMap, Packing};
use super::{
    BLOCK_SIZE, MAX_GLOBAL_HEADER, MAX_LONG_NAME, MAX_PAX_HEADER, Member, MemberKind, TarError,
    TarErrorKind,
};
use crate::attr::{Device, FileType};

const BLOCK: u64 = BLOCK_SIZE as u64;
/// Size of the read buffer in bytes.
const BUFFER_SIZE: usize = 256 << 10;

/// How the end of an archive is marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By two blocks of zeros.
    Marked,
    /// By one block of zeros, at this offset. The rest is not read.
    LoneZeroBlock(u64),
    /// By the end of the stream only, which may be truncated between two members.
    Unmarked,
}

/// A reader of an archive.
#[derive(Debug)]
pub struct Reader<R> {
    inner: R,
    /// Number of bytes consumed from `inner`.
    offset: u64,
    /// The offset of the current header.
    header_offset: u64,
    /// The name of the current member, for errors.
    member: Option<Vec<u8>>,
    /// The records of the latest global pax header.
    global: Extended,
    data: MemberData,
    is_first: bool,
    end: Option<End>,
}

/// The remaining data of the current member.
#[derive(Debug, Default)]
struct MemberData {
    /// Bytes up to the next header, including padding.
    stored: u64,
    /// Pieces in reverse order.
    pieces: Vec<Extent>,
    /// How the pieces are packed.
    packing: Option<Packing>,
}

impl<R: Read> Reader<BufReader<R>> {
    /// Creates a reader for the archive at the start of `inner`.
    pub fn new(inner: R) -> Self {
        Reader::buffered(BufReader::with_capacity(BUFFER_SIZE, inner))
    }
}

impl<R: BufRead> Reader<R> {
    /// Creates a reader for the archive at the start of a buffered stream, or of bytes in memory.
    pub fn buffered(inner: R) -> Self {
        Reader {
            inner,
            offset: 0,
            header_offset: 0,
            member: None,
            global: Extended::default(),
            data: MemberData::default(),
            is_first: true,
            end: None,
        }
    }

    /// Returns how the end is marked, after [`Reader::next_member`] has returned `None`.
    pub fn end(&self) -> Option<End> {
        self.end
    }

    /// Returns the next member, or `None` at the end of the archive. Skips unread data of the
    /// current member.
    ///
    /// # Errors
    /// Fails if the archive is damaged, is truncated or exceeds a limit. No more members can be
    /// read then.
    pub fn next_member(&mut self) -> Result<Option<Member>, TarError> {
        self.with_context(Self::member)
    }

    /// Reads some of the current member's data into `buffer`. Returns the offset in the file and
    /// the length, or `None` at the end of the data.
    ///
    /// # Errors
    /// See [`Reader::next_member`].
    pub fn read_data(&mut self, buffer: &mut [u8]) -> Result<Option<(u64, usize)>, TarError> {
        self.with_context(|reader| reader.piece(buffer))
    }

    /// Skips a piece of the current member's data, up to its end or a hole. Returns its range in
    /// the file and its offset in the archive, or `None` at the end of the data.
    ///
    /// # Errors
    /// See [`Reader::next_member`].
    pub fn skip_data(&mut self) -> Result<Option<(Range<u64>, u64)>, TarError> {
        self.with_context(|reader| {
            let Some(Extent { start, len }) = reader.next_extent()? else { return Ok(None) };
            let at = reader.offset;
            reader.skip(len)?;
            reader.data_consumed(len);
            Ok(Some((start..start + len, at)))
        })
    }

    /// Reads the rest of the stream after the archive, so that its writer does not receive an error
    /// and a decompressor verifies its checksum.
    ///
    /// # Errors
    /// Fails if the stream cannot be read.
    pub fn drain(&mut self) -> Result<(), TarError> {
        self.member = None;
        self.with_context(|reader| {
            loop {
                match reader.fill()?.len() {
                    0 => return Ok(()),
                    length => reader.consume(length),
                }
            }
        })
    }

    /// Adds the current member and offset to an error.
    fn with_context<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, TarErrorKind>,
    ) -> Result<T, TarError> {
        read(self).map_err(|kind| TarError {
            member: self.member.take(),
            offset: self.header_offset,
            kind,
        })
    }

    fn member(&mut self) -> Result<Option<Member>, TarErrorKind> {
        self.skip(self.data.stored)?;
        self.data = MemberData::default();
        self.member = None;
        if self.end.is_some() {
            return Ok(None);
        }
        let (mut long_name, mut long_link, mut records) = (None, None, None);
        let header = loop {
            self.header_offset = self.offset;
            let Some(header) = self.header()? else {
                // bsdtar writes only the extra header of a member that the format cannot represent.
                let has_extra = long_name.is_some() || long_link.is_some() || records.is_some();
                return match self.end {
                    Some(End::Unmarked) if has_extra => Err(TarErrorKind::Truncated),
                    _ => Ok(None),
                };
            };
            self.member = Some(header.path());
            match header.type_flag() {
                b'L' => long_name = Some(self.long_name(&header)?),
                b'K' => long_link = Some(self.long_name(&header)?),
                // `X` was used by Solaris before the type was standardised.
                b'x' | b'X' => records = Some(self.extra(&header, "pax header", MAX_PAX_HEADER)?),
                b'g' => {
                    let records = self.extra(&header, "global pax header", MAX_GLOBAL_HEADER)?;
                    self.global = Extended::default();
                    self.global.read(&records)?;
                }
                // The label of a volume.
                b'V' => {
                    self.skip(padded(header.size()?)?)?;
                    (long_name, long_link, records) = (None, None, None);
                }
                _ => break header,
            }
        };
        let mut extended = self.global.clone();
        extended.read(&records.unwrap_or_default())?;
        let path = extended.take_path().or(long_name).unwrap_or_else(|| header.path());
        let target = extended.link_name.take().or(long_link).unwrap_or_else(|| header.link_name());
        self.member = Some(path.clone());
        self.decode(&header, extended, path, target).map(Some)
    }

    /// Reads the next header; `None` at the end of the archive.
    fn header(&mut self) -> Result<Option<TarHeader>, TarErrorKind> {
        let Some(block) = self.block()? else {
            self.end = Some(End::Unmarked);
            return Ok(None);
        };
        let header = TarHeader::new(block);
        match header.block_kind() {
            BlockKind::Header => {
                self.is_first = false;
                Ok(Some(header))
            }
            BlockKind::Zeros => {
                let at = self.header_offset;
                let second = self.block()?.map(|block| TarHeader::new(block).block_kind());
                let is_marked = second == Some(BlockKind::Zeros);
                self.end = Some(if is_marked { End::Marked } else { End::LoneZeroBlock(at) });
                Ok(None)
            }
            BlockKind::Invalid if self.is_first => Err(TarErrorKind::NotTar),
            BlockKind::Invalid => Err(TarErrorKind::Checksum),
        }
    }

    fn decode(
        &mut self,
        header: &TarHeader,
        mut extended: Extended,
        mut path: Vec<u8>,
        target: Vec<u8>,
    ) -> Result<Member, TarErrorKind> {
        if extended.continues_volume || header.type_flag() == b'M' {
            return Err(TarErrorKind::Unsupported(
                "it continues from another volume; join the volumes with `tar -xM` and pack the \
                 files again",
            ));
        }
        let has_slash = path.ends_with(b"/");
        path.truncate(path.iter().rposition(|&byte| byte != b'/').map_or(0, |last| last + 1));
        // A name of slashes only is the root.
        if path.is_empty() && has_slash {
            path.push(b'/');
        }
        let mut unknown_type = None;
        let kind = match header.type_flag() {
            // v7 marks directories only by the slash.
            0 | b'0' | b'7' if has_slash => MemberKind::Object(FileType::Directory),
            0 | b'0' | b'7' | b'S' => MemberKind::Object(FileType::Regular),
            b'1' => MemberKind::HardLink,
            b'2' => MemberKind::Object(FileType::Symlink),
            b'3' => MemberKind::Object(FileType::CharDevice),
            b'4' => MemberKind::Object(FileType::BlockDevice),
            b'5' | b'D' => MemberKind::Object(FileType::Directory),
            b'6' => MemberKind::Object(FileType::Fifo),
            flag => {
                unknown_type = Some(flag);
                MemberKind::Object(FileType::Regular)
            }
        };
        let rdev = match kind {
            MemberKind::Object(kind) if kind.is_device() && !header.is_v7() => device(header)?,
            _ => Device::default(),
        };
        let size = match kind {
            MemberKind::Object(FileType::Regular) => self.plan_data(header, &mut extended)?,
            // A list of the directory's names, for incremental backups.
            _ if header.type_flag() == b'D' => {
                self.data.stored = padded(header.size()?)?;
                0
            }
            // Other types have no data, even if their size is not 0.
            _ => 0,
        };
        Ok(Member {
            path,
            kind,
            target,
            mode: header.mode()?,
            uid: extended.uid.map_or_else(|| header.uid(), Ok)?,
            gid: extended.gid.map_or_else(|| header.gid(), Ok)?,
            mtime: extended.mtime.map_or_else(|| header.mtime(), Ok)?,
            rdev,
            size,
            xattrs: extended.take_xattrs(),
            access_list: extended.access_list.take(),
            default_list: extended.default_list.take(),
            unknown_type,
            offset: self.header_offset,
        })
    }

    /// Prepares reading the data of a regular file. Returns the file's size.
    fn plan_data(
        &mut self,
        header: &TarHeader,
        extended: &mut Extended,
    ) -> Result<u64, TarErrorKind> {
        let stored = extended.size.map_or_else(|| header.size(), Ok)?;
        self.data.stored = padded(stored)?;
        let sparse = mem::take(&mut extended.sparse);
        let (mut map, real_size, stored) = match header.type_flag() {
            b'S' if header.is_gnu() => {
                let real_size = header.real_size().ok_or(TarErrorKind::Field("size with holes"))?;
                (self.old_map(header)?, Some(real_size), stored)
            }
            b'S' => return Err(TarErrorKind::Unsupported("a sparse file in star's form")),
            _ if sparse.major > 1 => {
                return Err(TarErrorKind::Unsupported("a newer version of sparse files"));
            }
            _ if sparse.major == 1 => {
                let map = self.map_lines()?;
                let lines = padded(stored)? - self.data.stored;
                (map, sparse.real_size, stored.saturating_sub(lines))
            }
            _ if sparse.is_sparse() => (sparse.map, sparse.real_size, stored),
            _ => (vec![Extent { start: 0, len: stored }], Some(stored), stored),
        };
        let (size, packing) = sparse::check(&map, real_size, stored)?;
        map.reverse();
        self.data.pieces = map;
        self.data.packing = Some(packing);
        Ok(size)
    }

    /// Reads the map of an old GNU sparse file. Its additional blocks precede the data.
    fn old_map(&mut self, header: &TarHeader) -> Result<Vec<Extent>, TarErrorKind> {
        let (mut map, mut continues) = sparse::old_header(header)?;
        while continues {
            let block = self.block()?.ok_or(TarErrorKind::Truncated)?;
            let (entries, is_followed) = sparse::old_block(&block);
            let ends = sparse::old_entries(entries, &mut map)?;
            continues = ends == OldMap::MayContinue && is_followed;
        }
        Ok(map)
    }

    /// Reads the map of a sparse file of version 1.0, which precedes the data.
    fn map_lines(&mut self) -> Result<Vec<Extent>, TarErrorKind> {
        let mut lines = MapLines::default();
        while self.data.stored > 0 {
            let block = self.block()?.ok_or(TarErrorKind::Truncated)?;
            self.data.stored -= BLOCK;
            for byte in block {
                if let Some(map) = lines.byte(byte)? {
                    return Ok(map);
                }
            }
        }
        Err(TarErrorKind::Sparse("is longer than the data of the file"))
    }

    fn piece(&mut self, buffer: &mut [u8]) -> Result<Option<(u64, usize)>, TarErrorKind> {
        let Some(Extent { start, len }) = self.next_extent()? else { return Ok(None) };
        if buffer.is_empty() {
            return Ok(None);
        }
        let most = usize::try_from(len).unwrap_or(usize::MAX).min(buffer.len());
        let found = self.fill()?;
        if found.is_empty() {
            return Err(TarErrorKind::Truncated);
        }
        let length = most.min(found.len());
        buffer[..length].copy_from_slice(&found[..length]);
        self.consume(length);
        self.data_consumed(length as u64);
        Ok(Some((start, length)))
    }

    /// Returns the rest of the current piece of data, or else the next piece; `None` at the end.
    fn next_extent(&mut self) -> Result<Option<Extent>, TarErrorKind> {
        loop {
            let Some(piece) = self.data.pieces.last() else { return Ok(None) };
            if piece.len > 0 {
                return Ok(Some(Extent { start: piece.start, len: piece.len }));
            }
            self.data.pieces.pop();
            if self.data.packing == Some(Packing::Blocks) {
                let padding = self.data.stored % BLOCK;
                self.skip(padding)?;
                self.data.stored -= padding;
            }
        }
    }

    /// Advances in the current piece of data.
    fn data_consumed(&mut self, length: u64) {
        self.data.stored -= length;
        if let Some(piece) = self.data.pieces.last_mut() {
            piece.start += length;
            piece.len -= length;
        }
    }

    /// Reads the name in a header of GNU tar that applies to the next member.
    fn long_name(&mut self, header: &TarHeader) -> Result<Vec<u8>, TarErrorKind> {
        let name = self.extra(header, "name", MAX_LONG_NAME)?;
        Ok(until_nul(&name).to_vec())
    }

    /// Reads the data of a header that describes the next member.
    fn extra(
        &mut self,
        header: &TarHeader,
        what: &'static str,
        limit: u64,
    ) -> Result<Vec<u8>, TarErrorKind> {
        let size = header.size()?;
        if size > limit {
            return Err(TarErrorKind::TooLong { what, limit });
        }
        // Grows with the available data, because the stored size may be wrong.
        let mut data = Vec::new();
        while (data.len() as u64) < size {
            let found = self.fill()?;
            if found.is_empty() {
                return Err(TarErrorKind::Truncated);
            }
            let length = found.len().min(size as usize - data.len());
            data.extend_from_slice(&found[..length]);
            self.consume(length);
        }
        self.skip(padded(size)? - size)?;
        Ok(data)
    }

    /// Reads a block; `None` at the end of the stream.
    fn block(&mut self) -> Result<Option<[u8; BLOCK_SIZE]>, TarErrorKind> {
        let mut block = [0; BLOCK_SIZE];
        let mut have = 0;
        while have < BLOCK_SIZE {
            let found = self.fill()?;
            match found.len().min(BLOCK_SIZE - have) {
                0 if have == 0 => return Ok(None),
                0 => return Err(TarErrorKind::Truncated),
                length => {
                    block[have..have + length].copy_from_slice(&found[..length]);
                    have += length;
                    self.consume(length);
                }
            }
        }
        Ok(Some(block))
    }

    fn skip(&mut self, mut bytes: u64) -> Result<(), TarErrorKind> {
        while bytes > 0 {
            let length = (self.fill()?.len() as u64).min(bytes);
            if length == 0 {
                return Err(TarErrorKind::Truncated);
            }
            self.consume(length as usize);
            bytes -= length;
        }
        Ok(())
    }

    /// Returns the buffered data, which is empty only at the end of the stream.
    fn fill(&mut self) -> Result<&[u8], TarErrorKind> {
        loop {
            match self.inner.fill_buf() {
                Ok(_) => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(TarErrorKind::Read(error)),
            }
        }
        // Returns the buffered data again: the borrow checker rejects returning it above.
        self.inner.fill_buf().map_err(TarErrorKind::Read)
    }

    fn consume(&mut self, length: usize) {
        self.inner.consume(length);
        self.offset = self.offset.saturating_add(length as u64);
    }
}

/// Returns a size of data including the padding to a whole block.
fn padded(size: u64) -> Result<u64, TarErrorKind> {
    size.checked_next_multiple_of(BLOCK).ok_or(TarErrorKind::Field("size"))
}

/// Returns the device number of a device node, which must fit into that of Linux.
fn device(header: &TarHeader) -> Result<Device, TarErrorKind> {
    let device = Device { major: header.major()?, minor: header.minor()? };
    if Device::from_u32(device.to_u32()) != device {
        return Err(TarErrorKind::Field("device number"));
    }
    Ok(device)
}
