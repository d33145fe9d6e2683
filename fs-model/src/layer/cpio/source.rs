//! The bytes of an archive, read from the image directly or from a compressed stream.

use std::io::{self, BufRead, BufReader};

use crate::layer::PIECE_SIZE;
use crate::layer::compressed::Decoder;
use crate::layer::memory::{MemoryBudget, OverBudget};

/// The content of a file.
#[derive(Clone, Debug)]
pub(super) enum ContentBytes {
    /// In the image, at this offset.
    Image(usize),
    /// In memory, in pieces of [`PIECE_SIZE`] bytes; `None` for a piece of zeros.
    Memory(Vec<Option<Box<[u8]>>>),
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

impl From<OverBudget> for SourceError {
    fn from(OverBudget { limit }: OverBudget) -> Self {
        SourceError::TooMuch { limit }
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
        let decoder = BufReader::with_capacity(64 * 1024, Decoder::new(rest));
        let input = Input::Compressed(Box::new(decoder));
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
            Input::Compressed(reader) => reader.into_inner().rest(),
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
