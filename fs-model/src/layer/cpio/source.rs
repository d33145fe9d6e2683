//! The bytes of an archive, read from the image directly or from a compressed stream.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::GzDecoder;

/// Size of a piece of decoded content in bytes.
pub(super) const PIECE_SIZE: usize = 128 * 1024;

/// The content of a file.
#[derive(Clone, Debug)]
pub(super) enum ContentBytes {
    /// In the image, at this offset.
    Image(usize),
    /// In memory, in pieces of [`PIECE_SIZE`] bytes; `None` for a piece of zeros.
    Memory(Vec<Option<Box<[u8]>>>),
}

/// Accounting of a layer's memory.
#[derive(Debug)]
pub(super) struct MemoryBudget {
    limit: u64,
    used: u64,
}

/// The reason why bytes cannot be read.
#[derive(Debug)]
pub(super) enum SourceError {
    /// The archive ends here.
    End,
    /// The compressed stream is damaged.
    Damaged(io::Error),
    /// The layer would exceed its memory limit.
    TooMuch {
        /// The limit in bytes.
        limit: u64,
    },
}

impl MemoryBudget {
    pub(super) fn new(limit: u64) -> Self {
        MemoryBudget { limit, used: 0 }
    }

    pub(super) fn take(&mut self, bytes: u64) -> Result<(), SourceError> {
        self.used = self.used.saturating_add(bytes);
        if self.used > self.limit {
            Err(SourceError::TooMuch { limit: self.limit })
        } else {
            Ok(())
        }
    }
}

/// Reads an archive from its start.
pub(super) struct ArchiveSource<'a> {
    input: Input<'a>,
    position: u64,
}

enum Input<'a> {
    Plain { image: &'a [u8], at: usize },
    Compressed(Box<BufReader<Decoder<'a>>>),
}

impl<'a> ArchiveSource<'a> {
    /// Creates a source for an uncompressed archive at offset `at` of `image`.
    pub(super) fn plain(image: &'a [u8], at: usize) -> Self {
        ArchiveSource { input: Input::Plain { image, at }, position: 0 }
    }

    /// Creates a source for an archive in a compressed stream at the start of `rest`.
    pub(super) fn compressed(rest: &'a [u8]) -> Self {
        let decoder = Decoder { rest, member: None };
        let input = Input::Compressed(Box::new(BufReader::with_capacity(64 * 1024, decoder)));
        ArchiveSource { input, position: 0 }
    }

    pub(super) fn is_plain(&self) -> bool {
        matches!(self.input, Input::Plain { .. })
    }

    /// Returns the number of bytes read since the start of the archive.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Resets the position, at the start of another archive.
    pub(super) fn restart(&mut self) {
        self.position = 0;
    }

    /// Returns the rest of the image after the end of the source.
    pub(super) fn rest(self) -> &'a [u8] {
        match self.input {
            Input::Plain { image, at } => &image[at..],
            Input::Compressed(reader) => reader.into_inner().rest,
        }
    }

    /// Fills `buf`.
    pub(super) fn read(&mut self, mut buf: &mut [u8]) -> Result<(), SourceError> {
        while !buf.is_empty() {
            let available = self.available()?;
            if available.is_empty() {
                return Err(SourceError::End);
            }
            let length = available.len().min(buf.len());
            buf[..length].copy_from_slice(&available[..length]);
            buf = &mut buf[length..];
            self.consume(length);
        }
        Ok(())
    }

    /// Skips `length` bytes.
    pub(super) fn skip(&mut self, mut length: u64) -> Result<(), SourceError> {
        while length > 0 {
            let available = self.available()?.len();
            if available == 0 {
                return Err(SourceError::End);
            }
            let step = length.min(available as u64) as usize;
            self.consume(step);
            length -= step as u64;
        }
        Ok(())
    }

    /// Skips zeros. Returns whether other bytes follow.
    pub(super) fn skip_zeros(&mut self) -> Result<bool, SourceError> {
        loop {
            let available = self.available()?;
            if available.is_empty() {
                return Ok(false);
            }
            match available.iter().position(|&byte| byte != 0) {
                Some(zeros) => {
                    self.consume(zeros);
                    return Ok(true);
                }
                None => {
                    let zeros = available.len();
                    self.consume(zeros);
                }
            }
        }
    }

    /// Skips the padding after the current position.
    pub(super) fn align(&mut self) -> Result<(), SourceError> {
        self.skip(self.position.next_multiple_of(4) - self.position)
    }

    /// Returns the next `length` bytes as the content of a file, and their sum if requested.
    pub(super) fn body(
        &mut self,
        length: u32,
        sum: bool,
        budget: &mut MemoryBudget,
    ) -> Result<(ContentBytes, u32), SourceError> {
        if let Input::Plain { image, at } = self.input {
            let content = image[at..].get(..length as usize).ok_or(SourceError::End)?;
            self.consume(content.len());
            return Ok((ContentBytes::Image(at), if sum { byte_sum(content) } else { 0 }));
        }
        let mut pieces = Vec::new();
        let mut total = 0u32;
        let mut left = length as usize;
        let mut piece = Vec::new();
        while left > 0 {
            let size = left.min(PIECE_SIZE);
            budget.take(std::mem::size_of::<Option<Box<[u8]>>>() as u64)?;
            piece.resize(size, 0);
            self.read(&mut piece)?;
            if piece.iter().all(|&byte| byte == 0) {
                pieces.push(None);
            } else {
                budget.take(size as u64)?;
                if sum {
                    total = total.wrapping_add(byte_sum(&piece));
                }
                pieces.push(Some(Box::from(&piece[..])));
            }
            left -= size;
        }
        Ok((ContentBytes::Memory(pieces), total))
    }

    fn available(&mut self) -> Result<&[u8], SourceError> {
        match &mut self.input {
            Input::Plain { image, at } => Ok(&image[*at..]),
            Input::Compressed(reader) => reader.fill_buf().map_err(SourceError::Damaged),
        }
    }

    fn consume(&mut self, length: usize) {
        match &mut self.input {
            Input::Plain { at, .. } => *at += length,
            Input::Compressed(reader) => reader.consume(length),
        }
        self.position += length as u64;
    }
}

fn byte_sum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |sum: u32, &byte| sum.wrapping_add(byte.into()))
}

/// Returns whether `bytes` begins with a gzip member or a zstd frame.
pub(super) fn is_compressed(bytes: &[u8]) -> bool {
    is_gzip(bytes) || is_zstd(bytes)
}

fn is_gzip(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0x1f, 0x8b])
}

/// Returns whether `bytes` begins with a frame or a skippable frame (RFC 8878, 3.1).
fn is_zstd(bytes: &[u8]) -> bool {
    match bytes {
        [0x28, 0xb5, 0x2f, 0xfd, ..] => true,
        [first, 0x2a, 0x4d, 0x18, ..] => first >> 4 == 5,
        _ => false,
    }
}

/// Concatenates consecutive gzip members and zstd frames to one stream. Zeros between them are
/// skipped.
struct Decoder<'a> {
    rest: &'a [u8],
    member: Option<CompressedMember<'a>>,
}

enum CompressedMember<'a> {
    Gzip(Box<GzDecoder<&'a [u8]>>),
    Zstd(zstd::stream::read::Decoder<'static, &'a [u8]>),
}

impl Read for Decoder<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            let length = match &mut self.member {
                Some(CompressedMember::Gzip(gzip)) => gzip.read(buf)?,
                Some(CompressedMember::Zstd(zstd)) => zstd.read(buf)?,
                None => 0,
            };
            if length > 0 || buf.is_empty() {
                return Ok(length);
            }
            match self.member.take() {
                Some(CompressedMember::Gzip(gzip)) => self.rest = gzip.into_inner(),
                Some(CompressedMember::Zstd(zstd)) => self.rest = zstd.finish(),
                None => {}
            }
            let zeros = self.rest.iter().take_while(|&&byte| byte == 0).count();
            let rest = &self.rest[zeros..];
            self.member = if is_gzip(rest) {
                Some(CompressedMember::Gzip(Box::new(GzDecoder::new(rest))))
            } else if is_zstd(rest) {
                let zstd = zstd::stream::read::Decoder::with_buffer(rest)?;
                Some(CompressedMember::Zstd(zstd.single_frame()))
            } else {
                return Ok(0);
            };
        }
    }
}
