//! File content: lists of data blocks, fragments and holes.
//!
//! Follows `fs/squashfs/file.c`. The blocks of a file are contiguous in the image. A list in the
//! inode has their stored lengths as 32-bit words: 0 is a hole, bit 24 means "not compressed". The
//! end of a file may be in a fragment block that several files share.
//!
//! Invariants:
//! - Each block has exactly the length that results from the file's size. A short block is an
//!   error, never an end of file.
//! - A position in the image is a checked sum of lengths, and content is read only within the
//!   image.
//! - Finding a block does not iterate over the whole list: a [`FileLayout`] caches the position of
//!   every `stride`-th block, as far as needed so far.

use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;

use super::SquashfsLayer;
use super::cache::{DecodedBlock, ENTRY_COST, Weigh};
use super::inode::SquashfsBody;
use super::metadata::{Cursor, MetadataPos};
use crate::error::LayerError;
use crate::layer::{LayerIno, Readahead};

/// Flag in the word of a data block: not compressed.
const UNCOMPRESSED: u32 = 1 << 24;
/// Minimum number of blocks between two cached positions, and maximum number of cached positions of
/// a file: up to 64 GiB with 128 KiB blocks before the stride grows.
const MIN_STRIDE: u64 = 512;
const MAX_POINTS: u64 = 1024;

/// Identifies a decoded block. In a valid image the position is sufficient; in a damaged one, two
/// files may have different lengths for the same position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct BlockKey {
    start: u64,
    word: u32,
    /// Length of the content; 0 for a fragment block, whose length is not stored.
    len: u32,
}

/// Positions of a file's blocks in the image.
pub(super) struct FileLayout {
    size: u64,
    start: u64,
    blocks: u64,
    list: MetadataPos,
    /// The fragment block with the end of the file, and the offset in it.
    tail: Option<(BlockKey, u32)>,
    /// Index of that fragment block.
    fragment: Option<u32>,
    stride: u64,
    /// Positions of block `stride * i`: its word in the list, and its content in the image.
    points: Mutex<Vec<ListPoint>>,
}

#[derive(Clone, Copy, Debug)]
struct ListPoint {
    word: MetadataPos,
    start: u64,
}

impl Weigh for Arc<FileLayout> {
    fn weight(&self) -> usize {
        // All points are counted, although they are added one by one.
        size_of::<FileLayout>()
            + ENTRY_COST
            + (self.blocks / self.stride) as usize * size_of::<ListPoint>()
    }
}

/// A part of a file: a block, a hole of a block's size, or the tail.
enum FilePiece {
    Hole,
    Block(BlockKey),
    Tail(BlockKey, u32),
}

/// An iterator over the pieces of a file.
struct FilePieces<'a> {
    layer: &'a SquashfsLayer,
    layout: &'a FileLayout,
    cursor: Cursor<'a>,
    index: u64,
    start: u64,
}

impl FilePieces<'_> {
    fn word(&mut self) -> Result<u32, LayerError> {
        let word = self.cursor.u32()?;
        let stored = stored_len(word);
        if word >> 25 != 0 || stored > self.layer.superblock.block_size {
            return Err(self.layer.image().corrupt(format!("data block with length {word:#x}")));
        }
        self.index += 1;
        Ok(word)
    }

    fn skip(&mut self, count: u64) -> Result<(), LayerError> {
        for _ in 0..count {
            let word = self.word()?;
            self.start = self.start.saturating_add(stored_len(word).into());
        }
        Ok(())
    }

    /// Returns the next piece and its range in the file.
    fn next(&mut self) -> Result<Option<(FilePiece, Range<u64>)>, LayerError> {
        let block_size = u64::from(self.layer.superblock.block_size);
        // At most the bounded length of the list times the block size: cannot overflow.
        let from = self.index * block_size;
        if from >= self.layout.size {
            return Ok(None);
        }
        let to = self.layout.size.min(from.saturating_add(block_size));
        if self.index >= self.layout.blocks {
            self.index += 1;
            return Ok(self
                .layout
                .tail
                .map(|(key, offset)| (FilePiece::Tail(key, offset), from..to)));
        }
        let start = self.start;
        let word = self.word()?;
        self.start = start.saturating_add(stored_len(word).into());
        let piece = if word == 0 {
            FilePiece::Hole
        } else {
            FilePiece::Block(BlockKey { start, word, len: (to - from) as u32 })
        };
        Ok(Some((piece, from..to)))
    }
}

fn stored_len(word: u32) -> u32 {
    word & (UNCOMPRESSED - 1)
}

impl SquashfsLayer {
    /// Returns the layout of the file `ino`.
    fn layout(&self, ino: LayerIno) -> Result<Arc<FileLayout>, LayerError> {
        if let Some(layout) = self.layouts.lock().get(&ino) {
            return Ok(layout);
        }
        let SquashfsBody::File(file) = self.inode(ino)?.body else {
            return Err(self.bad_inode(ino, "not a regular file"));
        };
        let block_size = u64::from(self.superblock.block_size);
        let fragment = file.fragment.filter(|_| file.size % block_size != 0);
        let tail = match fragment {
            Some((index, offset)) => Some((self.fragment_key(index)?, offset)),
            None => None,
        };
        let layout = Arc::new(FileLayout {
            size: file.size,
            start: file.start,
            blocks: file.blocks,
            list: file.list,
            tail,
            fragment: fragment.map(|(index, _)| index),
            stride: MIN_STRIDE.max(file.blocks.div_ceil(MAX_POINTS)),
            points: Mutex::new(Vec::new()),
        });
        self.layouts.lock().insert(ino, layout.clone());
        Ok(layout)
    }

    fn fragment_key(&self, index: u32) -> Result<BlockKey, LayerError> {
        let fragment = self.tables.fragment(&self.metadata, &self.superblock, index)?;
        if stored_len(fragment.word) == 0
            || stored_len(fragment.word) > self.superblock.block_size
            || fragment.word >> 25 != 0
        {
            return Err(self.image().corrupt(format!(
                "fragment table: entry {index} with length {:#x}",
                fragment.word
            )));
        }
        Ok(BlockKey { start: fragment.start, word: fragment.word, len: 0 })
    }

    /// See [`Layer::readahead`](crate::layer::Layer::readahead).
    pub(super) fn next_readahead(
        &self,
        ino: LayerIno,
        offset: u64,
        len: usize,
    ) -> Option<Readahead> {
        let layout = self.layout(ino).ok()?;
        let end = layout.size.min(offset.saturating_add(len as u64));
        let read = offset.min(end)..end;
        let mut scan = self.scan.lock();
        let block_size = self.superblock.block_size.into();
        if let Some(range) = scan.step_file(ino, &read, layout.size, block_size) {
            return Some(Readahead::File(ino, range));
        }
        let next = scan.step_fragment(layout.fragment?)?;
        (next < self.superblock.fragments).then_some(Readahead::Shared(next.into()))
    }

    /// See [`Layer::prefetch`](crate::layer::Layer::prefetch).
    pub(super) fn prefetch_into_cache(&self, range: Readahead) -> Result<(), LayerError> {
        match range {
            Readahead::Shared(index) => match u32::try_from(index) {
                Ok(index) => self.decode_into_cache(self.fragment_key(index)?),
                Err(_) => Ok(()),
            },
            Readahead::File(ino, wanted) => {
                let layout = self.layout(ino)?;
                let mut pieces = self.pieces(&layout, wanted.start)?;
                while let Some((piece, range)) = pieces.next()?
                    && range.start < wanted.end
                {
                    match piece {
                        FilePiece::Hole => {}
                        FilePiece::Block(key) | FilePiece::Tail(key, _) => {
                            self.decode_into_cache(key)?
                        }
                    }
                }
                Ok(())
            }
        }
    }

    fn decode_into_cache(&self, key: BlockKey) -> Result<(), LayerError> {
        if key.word & UNCOMPRESSED != 0 {
            return Ok(());
        }
        match key.len {
            0 => self.fragment_block(key),
            _ => self.data_block(key),
        }
        .map(drop)
    }

    /// Returns an iterator over the pieces of a file that begins with the piece of byte `offset`.
    fn pieces<'a>(
        &'a self,
        layout: &'a FileLayout,
        offset: u64,
    ) -> Result<FilePieces<'a>, LayerError> {
        let wanted = (offset / u64::from(self.superblock.block_size)).min(layout.blocks);
        let stride_of_wanted = wanted / layout.stride;
        let (known, mut point) = {
            let points = layout.points.lock();
            let known = stride_of_wanted.min(points.len() as u64);
            let point = match known.checked_sub(1) {
                Some(last) => points[last as usize],
                None => ListPoint { word: layout.list, start: layout.start },
            };
            (known, point)
        };
        let at = |point: ListPoint, index| FilePieces {
            layer: self,
            layout,
            cursor: self.inode_table_cursor(point.word),
            index,
            start: point.start,
        };
        // Unknown points are searched without the lock, and added unless another thread was faster.
        let mut found = Vec::new();
        for stride in known..stride_of_wanted {
            let mut pieces = at(point, stride * layout.stride);
            pieces.skip(layout.stride)?;
            point = ListPoint { word: pieces.cursor.pos(), start: pieces.start };
            found.push(point);
        }
        if !found.is_empty() {
            let mut points = layout.points.lock();
            let already = (points.len() as u64).saturating_sub(known) as usize;
            points.extend(found.into_iter().skip(already));
        }
        let mut pieces = at(point, stride_of_wanted * layout.stride);
        pieces.skip(wanted - stride_of_wanted * layout.stride)?;
        Ok(pieces)
    }

    /// See [`Layer::read_at`](crate::layer::Layer::read_at).
    pub(super) fn read_file(
        &self,
        ino: LayerIno,
        offset: u64,
        buf: &mut [u8],
    ) -> Result<usize, LayerError> {
        let layout = self.layout(ino)?;
        if offset >= layout.size || buf.is_empty() {
            return Ok(0);
        }
        let len = usize::try_from(layout.size - offset).unwrap_or(usize::MAX).min(buf.len());
        let mut pieces = self.pieces(&layout, offset)?;
        let mut done = 0;
        while done < len {
            let Some((piece, range)) = pieces.next()? else {
                return Err(self.bad_inode(ino, "its blocks end before its size"));
            };
            let within = (offset + done as u64 - range.start) as usize;
            let n = ((range.end - range.start) as usize - within).min(len - done);
            let out = &mut buf[done..done + n];
            match piece {
                FilePiece::Hole => out.fill(0),
                FilePiece::Block(key) => self.read_block(key, within, out)?,
                FilePiece::Tail(key, at) => {
                    self.read_tail(key, (at as usize).saturating_add(within), out)?
                }
            }
            done += n;
        }
        Ok(len)
    }

    /// Reads a part of a data block, from `within`.
    fn read_block(&self, key: BlockKey, within: usize, out: &mut [u8]) -> Result<(), LayerError> {
        if key.word & UNCOMPRESSED != 0 {
            let stored = self.stored(key)?;
            if stored.len() != key.len as usize {
                return Err(self.bad_block(
                    key,
                    format!("{} uncompressed bytes instead of {}", stored.len(), key.len),
                ));
            }
            return self.copy_part(key, stored, within, out);
        }
        if out.len() == key.len as usize {
            // A whole block is decoded directly into `out` and not cached: the kernel caches what
            // it reads.
            return self.blocks.take_or_decode(
                key,
                out,
                |block, out| out.copy_from_slice(block),
                |out| self.decode_exactly(key, out),
                |decoded| Arc::new(decoded.to_vec()),
            );
        }
        self.copy_part(key, &self.data_block(key)?, within, out)
    }

    fn data_block(&self, key: BlockKey) -> Result<DecodedBlock, LayerError> {
        self.blocks.get_or_decode(key, || {
            let mut decoded = vec![0; key.len as usize];
            self.decode_exactly(key, &mut decoded)?;
            Ok(Arc::new(decoded))
        })
    }

    /// Reads a part of a fragment block, from `at`.
    fn read_tail(&self, key: BlockKey, at: usize, out: &mut [u8]) -> Result<(), LayerError> {
        if key.word & UNCOMPRESSED != 0 {
            return self.copy_part(key, self.stored(key)?, at, out);
        }
        let block = self.fragment_block(key)?;
        self.copy_part(key, &block, at, out)
    }

    fn fragment_block(&self, key: BlockKey) -> Result<DecodedBlock, LayerError> {
        self.blocks.get_or_decode(key, || {
            let mut decoded = vec![0; self.superblock.block_size as usize];
            let len = self.decode(key, &mut decoded)?;
            decoded.truncate(len);
            Ok(Arc::new(decoded))
        })
    }

    fn copy_part(
        &self,
        key: BlockKey,
        block: &[u8],
        at: usize,
        out: &mut [u8],
    ) -> Result<(), LayerError> {
        let part = at.checked_add(out.len()).and_then(|end| block.get(at..end));
        let part = part.ok_or_else(|| {
            self.bad_block(
                key,
                format!("{} bytes, but the end of a file extends beyond them", block.len()),
            )
        })?;
        out.copy_from_slice(part);
        Ok(())
    }

    /// Returns the stored bytes of a block.
    fn stored(&self, key: BlockKey) -> Result<&[u8], LayerError> {
        self.image()
            .get(key.start, stored_len(key.word).into())
            .ok_or_else(|| self.bad_block(key, "it extends beyond the image"))
    }

    fn decode(&self, key: BlockKey, out: &mut [u8]) -> Result<usize, LayerError> {
        let stored = self.stored(key)?;
        self.superblock
            .compressor
            .decode(stored, out)
            .map_err(|error| self.bad_block(key, error.to_string()))
    }

    fn decode_exactly(&self, key: BlockKey, out: &mut [u8]) -> Result<(), LayerError> {
        match self.decode(key, out)? {
            len if len == out.len() => Ok(()),
            len => Err(self.bad_block(key, format!("{len} bytes instead of {}", out.len()))),
        }
    }

    fn bad_block(&self, key: BlockKey, what: impl std::fmt::Display) -> LayerError {
        let kind = if key.len == 0 { "fragment" } else { "data" };
        self.image().corrupt(format!("{kind} block at {:#x}: {what}", key.start))
    }

    /// See [`Layer::next_data`](crate::layer::Layer::next_data).
    pub(super) fn find_data(
        &self,
        ino: LayerIno,
        offset: u64,
    ) -> Result<Option<Range<u64>>, LayerError> {
        let layout = self.layout(ino)?;
        if offset >= layout.size {
            return Ok(None);
        }
        let mut pieces = self.pieces(&layout, offset)?;
        let mut data: Option<Range<u64>> = None;
        while let Some((piece, range)) = pieces.next()? {
            match (&mut data, piece) {
                (Some(data), FilePiece::Hole) => return Ok(Some(data.clone())),
                (Some(data), _) => data.end = range.end,
                (None, FilePiece::Hole) => {}
                (None, _) => data = Some(range.start.max(offset)..range.end),
            }
        }
        Ok(data)
    }

    /// See [`Layer::is_cached`](crate::layer::Layer::is_cached). The iteration over the block list
    /// may decode a metadata block that is no longer cached, but no data.
    pub(super) fn has_decoded(&self, ino: LayerIno, offset: u64, len: usize) -> bool {
        let Ok(layout) = self.layout(ino) else { return false };
        let end = layout.size.min(offset.saturating_add(len as u64));
        if offset >= end {
            return true;
        }
        let Ok(mut pieces) = self.pieces(&layout, offset) else { return false };
        while let Ok(Some((piece, range))) = pieces.next() {
            let ready = match piece {
                FilePiece::Hole => true,
                FilePiece::Block(key) | FilePiece::Tail(key, _) => {
                    key.word & UNCOMPRESSED != 0 || self.blocks.contains(&key)
                }
            };
            if !ready {
                return false;
            }
            if range.end >= end {
                return true;
            }
        }
        false
    }
}
