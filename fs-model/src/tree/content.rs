//! The content of a regular file of the upper: chunks over a base file.
//!
//! Invariants:
//! - A chunk that is present decides all of its [`CHUNK_SIZE`] bytes: bytes beyond its length are
//!   zero. An empty chunk is a hole that hides the base.
//! - An absent chunk has the bytes of the base up to `base_len`, and zeros beyond.
//! - No chunk begins at or beyond `size` or has bytes beyond `size`.
//! - Zeros written to a hole use no memory.
//! - The memory charged to [`Space`] is the sum of the capacities of the chunks.

use std::collections::BTreeMap;
use std::ops::Range;

use super::space::Space;
use crate::error::FsError;
use crate::stack::{LowerInode, Stack};

/// Size of a chunk in bytes: the least that a write into a file of a layer copies up.
pub(crate) const CHUNK_SIZE: usize = 64 << 10;
const CHUNK_SIZE_U64: u64 = CHUNK_SIZE as u64;
/// Granularity of holes in bytes, as in the kernel.
const PAGE_SIZE: usize = 4096;
/// Maximum file size: the range of a signed 64-bit offset.
pub(crate) const MAX_FILE_SIZE: u64 = i64::MAX as u64;
/// Bytes charged for each chunk but the first one, in addition to its content.
const CHUNK_COST: u64 = 48;

/// The content of a regular file.
#[derive(Clone, Debug, Default)]
pub(crate) struct FileContent {
    size: u64,
    base: Option<LowerInode>,
    base_len: u64,
    /// The first chunk. It is stored inline because most files have no other.
    head: Option<Vec<u8>>,
    rest: BTreeMap<u64, Vec<u8>>,
}

fn is_zero(bytes: &[u8]) -> bool {
    // Words of 16 bytes let the compiler vectorise the loop.
    let (words, tail) = bytes.as_chunks::<16>();
    words.iter().all(|w| u128::from_ne_bytes(*w) == 0) && tail.iter().all(|&b| b == 0)
}

/// Returns the next data of a chunk at or after `from`, in whole pages. A page of zeros counts as a
/// hole, whether it was punched or written.
fn data_within(chunk: &[u8], from: usize) -> Option<Range<usize>> {
    let has_data = |page: &usize| {
        let bytes = &chunk[page * PAGE_SIZE..];
        !is_zero(&bytes[..bytes.len().min(PAGE_SIZE)])
    };
    let pages = chunk.len().div_ceil(PAGE_SIZE);
    let first = (from / PAGE_SIZE..pages).find(has_data)?;
    let behind = (first + 1..pages).find(|page| !has_data(page)).unwrap_or(pages);
    Some(from.max(first * PAGE_SIZE)..behind * PAGE_SIZE)
}

impl FileContent {
    /// Creates the content of a file over `base`, whose size is `len`, with nothing copied up.
    pub(crate) fn over(base: LowerInode, len: u64) -> Self {
        FileContent { size: len, base: Some(base), base_len: len, ..FileContent::default() }
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Returns the base if the content is the base's, unchanged.
    pub(crate) fn unchanged_base(&self) -> Option<LowerInode> {
        (self.head.is_none() && self.rest.is_empty() && self.base_len == self.size)
            .then_some(self.base)
            .flatten()
    }

    /// Returns the bytes of memory and of the base that hold data. Parts of the base that chunks
    /// hide are not counted.
    pub(crate) fn allocated(&self) -> u64 {
        let head = self.head.as_ref().map(|_| 0);
        let below = self.base_len.div_ceil(CHUNK_SIZE_U64);
        let rest = self.rest.range(..below).map(|(&index, _)| index);
        let hidden = head.into_iter().chain(rest).map(|index| {
            // The last chunk over the base may extend beyond its end.
            self.base_len.saturating_sub(index * CHUNK_SIZE_U64).min(CHUNK_SIZE_U64)
        });
        self.charged() + self.base_len - hidden.sum::<u64>()
    }

    /// Memory charged for the chunks.
    pub(crate) fn charged(&self) -> u64 {
        self.head.iter().map(|c| c.capacity() as u64).sum::<u64>()
            + self.rest.values().map(|c| c.capacity() as u64 + CHUNK_COST).sum::<u64>()
    }

    fn chunk(&self, index: u64) -> Option<&Vec<u8>> {
        if index == 0 { self.head.as_ref() } else { self.rest.get(&index) }
    }

    fn insert(&mut self, index: u64, chunk: Vec<u8>, space: &Space) {
        let old = if index == 0 {
            self.head.replace(chunk)
        } else {
            space.charge_unlimited(CHUNK_COST);
            self.rest.insert(index, chunk)
        };
        debug_assert!(old.is_none());
    }

    fn remove(&mut self, index: u64, space: &Space) {
        if index == 0 {
            if let Some(old) = self.head.take() {
                space.release(old.capacity() as u64);
            }
        } else if let Some(old) = self.rest.remove(&index) {
            space.release(old.capacity() as u64 + CHUNK_COST);
        }
    }

    /// Returns whether the base is visible where chunk `index` is absent.
    fn has_base(&self, index: u64) -> bool {
        index * CHUNK_SIZE_U64 < self.base_len
    }

    /// Reads from `offset` into `buf`. Returns less than `buf.len()` only at the end of the file.
    pub(crate) fn read(
        &self,
        stack: &Stack,
        offset: u64,
        buf: &mut [u8],
    ) -> Result<usize, FsError> {
        let len = self.size.saturating_sub(offset).min(buf.len() as u64) as usize;
        let buf = &mut buf[..len];
        let mut done = 0;
        while done < len {
            let at = offset + done as u64;
            let index = at / CHUNK_SIZE_U64;
            if let Some(chunk) = self.chunk(index) {
                let within = (at % CHUNK_SIZE_U64) as usize;
                let part = (CHUNK_SIZE - within).min(len - done);
                let have = chunk.len().saturating_sub(within).min(part);
                let out = &mut buf[done..done + part];
                if have > 0 {
                    out[..have].copy_from_slice(&chunk[within..within + have]);
                }
                out[have..].fill(0);
                done += part;
            } else {
                // A single read of the base, up to the next chunk.
                let next = if index == 0 && self.rest.is_empty() {
                    None
                } else {
                    self.rest.range(index + 1..).next().map(|(&i, _)| i * CHUNK_SIZE_U64)
                };
                let end = next.map_or(len, |n| ((n - offset).min(len as u64)) as usize);
                self.read_base(stack, at, &mut buf[done..end])?;
                done = end;
            }
        }
        Ok(len)
    }

    fn read_base(&self, stack: &Stack, offset: u64, buf: &mut [u8]) -> Result<(), FsError> {
        let mut have = 0;
        if let Some(base) = self.base
            && offset < self.base_len
        {
            let part = (self.base_len - offset).min(buf.len() as u64) as usize;
            have = stack.read_at(base, offset, &mut buf[..part])?;
        }
        buf[have..].fill(0);
        Ok(())
    }

    /// Ensures that chunk `index` is present with a capacity of at least `len` bytes. The bytes of
    /// the base are copied if `keep` is set; otherwise the caller overwrites all of them.
    fn materialise(
        &mut self,
        stack: &Stack,
        space: &Space,
        index: u64,
        len: usize,
        keep: bool,
    ) -> Result<&mut Vec<u8>, FsError> {
        if self.chunk(index).is_none() {
            let start = index * CHUNK_SIZE_U64;
            let from_base = if keep && self.has_base(index) {
                (self.base_len - start).min(CHUNK_SIZE_U64) as usize
            } else {
                0
            };
            let capacity = len.max(from_base);
            space.charge(capacity as u64)?;
            let mut chunk = Vec::with_capacity(capacity);
            if from_base > 0 {
                chunk.resize(from_base, 0);
                if let Err(e) = self.read_base(stack, start, &mut chunk) {
                    space.release(capacity as u64);
                    return Err(e);
                }
            }
            // `with_capacity` may allocate more than requested: charge the actual capacity.
            space.charge_unlimited((chunk.capacity() - capacity) as u64);
            self.insert(index, chunk, space);
        }
        let chunk = if index == 0 { self.head.as_mut() } else { self.rest.get_mut(&index) };
        let Some(chunk) = chunk else { unreachable!("the chunk was just inserted") };
        if chunk.capacity() < len {
            // Double the capacity, so that a file that grows byte by byte is not copied each time,
            // up to the size of a chunk.
            let goal = len.max(chunk.capacity() * 2).min(CHUNK_SIZE);
            let more = (goal - chunk.capacity()) as u64;
            space.charge(more)?;
            let before = chunk.capacity() as u64;
            chunk.reserve_exact(goal - chunk.len());
            space.charge_unlimited(chunk.capacity() as u64 - before - more);
        }
        Ok(chunk)
    }

    /// Writes `data` at `offset`. Returns the number of bytes written, which is less than
    /// `data.len()` if memory runs out; fails if not even the first chunk fits.
    pub(crate) fn write(
        &mut self,
        stack: &Stack,
        space: &Space,
        offset: u64,
        data: &[u8],
    ) -> Result<usize, FsError> {
        let end = offset
            .checked_add(data.len() as u64)
            .filter(|&end| end <= MAX_FILE_SIZE)
            .ok_or(FsError::FileTooLarge)?;
        if data.is_empty() {
            return Ok(0);
        }
        let mut done = 0;
        while done < data.len() {
            let at = offset + done as u64;
            let index = at / CHUNK_SIZE_U64;
            let within = (at % CHUNK_SIZE_U64) as usize;
            let part = (CHUNK_SIZE - within).min(data.len() - done);
            let bytes = &data[done..done + part];
            if let Err(error) = self.write_chunk(stack, space, index, within, bytes) {
                if done == 0 {
                    return Err(error);
                }
                tracing::debug!(%error, "short write");
                self.size = self.size.max(at);
                return Ok(done);
            }
            done += part;
        }
        self.size = self.size.max(end);
        Ok(done)
    }

    fn write_chunk(
        &mut self,
        stack: &Stack,
        space: &Space,
        index: u64,
        within: usize,
        bytes: &[u8],
    ) -> Result<(), FsError> {
        let to = within + bytes.len();
        let over_base = self.has_base(index);
        if !over_base && self.chunk(index).is_none_or(|c| c.len() <= within) && is_zero(bytes) {
            return Ok(());
        }
        if within == 0 && bytes.len() == CHUNK_SIZE && is_zero(bytes) {
            self.punch_chunk(index, space);
            return Ok(());
        }
        // The base is read only if the write does not cover all of it.
        let covers = within == 0
            && (to == CHUNK_SIZE || index * CHUNK_SIZE_U64 + to as u64 >= self.base_len);
        let chunk = self.materialise(stack, space, index, to, !covers)?;
        if chunk.len() < within {
            chunk.resize(within, 0);
        }
        let overlap = chunk.len().min(to) - within;
        chunk[within..within + overlap].copy_from_slice(&bytes[..overlap]);
        chunk.extend_from_slice(&bytes[overlap..]);
        Ok(())
    }

    /// Zeroes a whole chunk.
    fn punch_chunk(&mut self, index: u64, space: &Space) {
        self.remove(index, space);
        if self.has_base(index) {
            self.insert(index, Vec::new(), space);
        }
    }

    /// Sets the size. Truncates the content, or extends it with zeros.
    pub(crate) fn truncate(&mut self, space: &Space, size: u64) -> Result<(), FsError> {
        if size > MAX_FILE_SIZE {
            return Err(FsError::FileTooLarge);
        }
        if size < self.size {
            let first_gone = size.div_ceil(CHUNK_SIZE_U64);
            if first_gone == 0 {
                self.remove(0, space);
            }
            let gone = self.rest.split_off(&first_gone.max(1));
            space.release(gone.values().map(|c| c.capacity() as u64 + CHUNK_COST).sum());
            let (index, within) = (size / CHUNK_SIZE_U64, (size % CHUNK_SIZE_U64) as usize);
            let last = if index == 0 { self.head.as_mut() } else { self.rest.get_mut(&index) };
            if let Some(chunk) = last
                && chunk.len() > within
            {
                let before = chunk.capacity();
                chunk.truncate(within);
                chunk.shrink_to_fit();
                space.release((before - chunk.capacity()) as u64);
            }
            self.base_len = self.base_len.min(size);
        }
        self.size = size;
        Ok(())
    }

    /// Zeroes the bytes of `range` and releases their memory. The size does not change. If memory
    /// runs out, nothing is changed: the steps that can fail come first.
    pub(crate) fn punch(
        &mut self,
        stack: &Stack,
        space: &Space,
        range: Range<u64>,
    ) -> Result<(), FsError> {
        let (start, end) = (range.start, range.end.min(self.size));
        if start >= end {
            return Ok(());
        }
        // Chunks at the edges keep some of their bytes; those between are removed.
        let (first, last) = (start / CHUNK_SIZE_U64, (end - 1) / CHUNK_SIZE_U64);
        let begins = start.is_multiple_of(CHUNK_SIZE_U64);
        let ends = end.is_multiple_of(CHUNK_SIZE_U64) || end == self.size;
        let edges = [(first, !begins || first == last && !ends), (last, !ends)];
        for (index, _) in edges.iter().filter(|(_, is_edge)| *is_edge) {
            if self.chunk(*index).is_some() || self.has_base(*index) {
                self.materialise(stack, space, *index, 0, true)?;
            }
        }
        for (index, _) in edges.iter().filter(|(_, is_edge)| *is_edge) {
            let chunk_start = index * CHUNK_SIZE_U64;
            let chunk = if *index == 0 { self.head.as_mut() } else { self.rest.get_mut(index) };
            if let Some(chunk) = chunk {
                let from = start.saturating_sub(chunk_start).min(chunk.len() as u64) as usize;
                let to = (end - chunk_start).min(chunk.len() as u64) as usize;
                chunk[from..to].fill(0);
            }
        }
        let mut index = if edges[0].1 { first + 1 } else { first };
        let behind = if edges[1].1 { last } else { last + 1 };
        if end >= self.base_len && index * CHUNK_SIZE_U64 < self.base_len && index < behind {
            // The range covers the rest of the base.
            self.base_len = index * CHUNK_SIZE_U64;
        }
        while index < behind {
            self.punch_chunk(index, space);
            // Skip to the next chunk where there is no base, for large sparse ranges.
            index = if self.has_base(index + 1) {
                index + 1
            } else {
                self.rest.range(index + 1..).next().map_or(behind, |(&next, _)| next)
            };
        }
        Ok(())
    }

    /// Returns the next data at or after `offset`; `None` if only a hole follows.
    pub(crate) fn next_data(
        &self,
        stack: &Stack,
        offset: u64,
    ) -> Result<Option<Range<u64>>, FsError> {
        let mut start = None;
        let mut at = offset;
        while at < self.size {
            let index = at / CHUNK_SIZE_U64;
            let chunk_start = index * CHUNK_SIZE_U64;
            // (data range within this step, start of the next step)
            let (data, next) = if let Some(chunk) = self.chunk(index) {
                let data = data_within(chunk, (at - chunk_start) as usize).map(|d| {
                    chunk_start + d.start as u64..(chunk_start + d.end as u64).min(self.size)
                });
                (data, chunk_start + CHUNK_SIZE_U64)
            } else {
                let next_chunk = self
                    .rest
                    .range(index + 1..)
                    .next()
                    .map_or(self.size, |(&i, _)| i * CHUNK_SIZE_U64);
                let end = next_chunk.min(self.base_len);
                match self.base {
                    Some(base) if at < end => match stack.next_data(base, at)? {
                        Some(d) if d.start < end => {
                            let d = d.start..d.end.min(end);
                            let next = d.end;
                            (Some(d), if next == end { next_chunk } else { next })
                        }
                        _ => (None, next_chunk),
                    },
                    _ => (None, next_chunk),
                }
            };
            match (data, &mut start) {
                (Some(d), None) => start = Some(d),
                (Some(d), Some(run)) if d.start == run.end => run.end = d.end,
                (_, Some(run)) => return Ok(Some(run.clone())),
                (None, None) => {}
            }
            if let Some(run) = &start
                && run.end < next.min(self.size)
            {
                return Ok(Some(run.clone()));
            }
            at = next;
        }
        Ok(start)
    }

    /// Returns whether reading this range needs no decoding.
    pub(crate) fn is_cached(&self, stack: &Stack, offset: u64, len: usize) -> bool {
        match self.base {
            Some(base) if offset < self.base_len => stack.is_cached(base, offset, len),
            _ => true,
        }
    }

    /// Releases all memory.
    pub(crate) fn release(&mut self, space: &Space) {
        space.release(self.charged());
        self.head = None;
        self.rest.clear();
        self.base = None;
        self.base_len = 0;
        self.size = 0;
    }
}
