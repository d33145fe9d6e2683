//! Reads file contents ahead of the writer, on its own threads.
//!
//! Data arrives in the order of the plan, whichever thread read it. Files are read in batches of
//! about [`BATCH_BYTES`] bytes: a large file in many, many small files in one.
//!
//! Invariants:
//! - The pieces of a file are in order, without gaps, and add up to its size: a file that ends
//!   early is an error at its position.
//! - At most [`MAX_BATCHES_PER_READER`] batches per reader are in memory at a time.
//! - A reader that panics is an error of [`Feed::next`]; dropping the [`Feed`] ends the readers.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use fs_model::delta::Contents;
use fs_model::tree::Ino;

use super::error::SealError;
use super::plan::ArchivePlan;
use crate::text::escape::escape;

/// Bytes per batch, and maximum size of a piece.
pub(super) const BATCH_BYTES: usize = 256 * 1024;

/// Maximum number of batches being read or waiting, per reader.
const MAX_BATCHES_PER_READER: usize = 6;

/// A part of a file.
#[derive(Clone, Copy, Debug)]
struct FilePiece {
    item: usize,
    ino: Ino,
    offset: u64,
    length: usize,
    /// Only zeros, which are not in the buffer.
    hole: bool,
}

#[derive(Debug, Default)]
struct Batch {
    pieces: Vec<FilePiece>,
    data: Vec<u8>,
}

/// The state shared by the readers and the consumer.
pub(super) struct ReadAhead<'p, C> {
    plan: &'p ArchivePlan<'p>,
    contents: &'p C,
    readers: usize,
    state: Mutex<ReadAheadState>,
    changed: Condvar,
}

#[derive(Default)]
struct ReadAheadState {
    /// The start of the next batch.
    item: usize,
    offset: u64,
    /// The end of the data around `offset`, when it was last queried.
    data_end: u64,
    /// Batches begun, and batches taken.
    begun: u64,
    taken: u64,
    ready: BTreeMap<u64, Result<Batch, SealError>>,
    spare: Vec<Batch>,
    all_begun: bool,
    stopped: bool,
    panicked: bool,
}

/// The consumer of the contents that are read ahead.
pub(super) struct Feed<'r, 'p, C: Contents> {
    shared: &'r ReadAhead<'p, C>,
    batch: Batch,
    next: usize,
    start: usize,
}

/// A part of a file's content, in order.
#[derive(Clone, Copy, Debug)]
pub(super) enum FileChunk<'a> {
    /// Bytes.
    Data(&'a [u8]),
    /// This many zeros, at most [`BATCH_BYTES`].
    Zeros(usize),
}

impl<'p, C: Contents> ReadAhead<'p, C> {
    pub(super) fn new(plan: &'p ArchivePlan<'p>, contents: &'p C, readers: usize) -> Self {
        let state = Mutex::new(ReadAheadState::default());
        ReadAhead { plan, contents, readers, state, changed: Condvar::new() }
    }

    pub(super) fn feed(&self) -> Feed<'_, 'p, C> {
        Feed { shared: self, batch: Batch::default(), next: 0, start: 0 }
    }

    /// Runs a reader thread.
    pub(super) fn read(&self) {
        let guard = PanicGuard { shared: self };
        loop {
            let mut state = self.lock();
            while !state.stopped
                && !state.all_begun
                && state.begun - state.taken >= (MAX_BATCHES_PER_READER * self.readers) as u64
            {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.stopped || state.all_begun {
                break;
            }
            let mut batch = state.spare.pop().unwrap_or_default();
            let cut = self.assign_pieces(&mut state, &mut batch);
            if cut.is_ok() && batch.pieces.is_empty() {
                state.all_begun = true;
                break;
            }
            let number = state.begun;
            state.begun += 1;
            state.all_begun |= cut.is_err();
            drop(state);
            let result = cut.and_then(|()| self.read_pieces(&mut batch)).map(|()| batch);
            self.lock().ready.insert(number, result);
            self.changed.notify_all();
        }
        self.changed.notify_all();
        guard.disarm();
    }

    /// Assigns the next pieces of the plan to `batch`.
    fn assign_pieces(
        &self,
        state: &mut ReadAheadState,
        batch: &mut Batch,
    ) -> Result<(), SealError> {
        batch.pieces.clear();
        let mut room = BATCH_BYTES;
        while room > 0 {
            let Some(item) = self.plan.items.get(state.item) else { break };
            let size = item.content();
            let (Some(object), true) = (item.object(), state.offset < size) else {
                state.item += 1;
                state.offset = 0;
                state.data_end = 0;
                continue;
            };
            let offset = state.offset;
            let mut hole_until = offset;
            if offset >= state.data_end {
                let next = self.contents.next_data(object.ino, offset).map_err(|source| {
                    SealError::Read { path: escape(item.path()).into_owned(), source }
                })?;
                let data = next.unwrap_or(size..size);
                hole_until = data.start.clamp(offset, size);
                state.data_end = data.end.max(hole_until + 1);
            }
            let hole = hole_until > offset;
            let end = if hole { hole_until } else { state.data_end.min(size) };
            let limit = if hole { BATCH_BYTES } else { room };
            let length = (end - offset).min(limit as u64) as usize;
            batch.pieces.push(FilePiece {
                item: state.item,
                ino: object.ino,
                offset,
                length,
                hole,
            });
            if hole {
                // Query again after it: a hole may be longer than a batch.
                state.data_end = 0;
                // A hole uses no buffer, but a batch of holes must have a limit.
                room -= room.min(BATCH_BYTES / 64);
            } else {
                room -= length;
            }
            state.offset += length as u64;
        }
        Ok(())
    }

    fn read_pieces(&self, batch: &mut Batch) -> Result<(), SealError> {
        let total: usize = batch.pieces.iter().filter(|p| !p.hole).map(|p| p.length).sum();
        batch.data.resize(total, 0);
        let mut rest = &mut batch.data[..];
        for piece in batch.pieces.iter().filter(|piece| !piece.hole) {
            let (buf, after) = rest.split_at_mut(piece.length);
            rest = after;
            let item = &self.plan.items[piece.item];
            let path = || escape(item.path()).into_owned();
            let mut got = 0;
            while got < buf.len() {
                let offset = piece.offset + got as u64;
                let more = self
                    .contents
                    .read(piece.ino, offset, &mut buf[got..])
                    .map_err(|source| SealError::Read { path: path(), source })?;
                if more == 0 {
                    return Err(SealError::Short {
                        path: path(),
                        expected: item.content(),
                        got: offset,
                    });
                }
                got += more;
            }
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, ReadAheadState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C: Contents> Feed<'_, '_, C> {
    /// Returns the next piece if it belongs to `item`; `None` when the item has no more.
    pub(super) fn next(&mut self, item: usize) -> Result<Option<FileChunk<'_>>, SealError> {
        while self.next == self.batch.pieces.len() {
            if !self.next_batch()? {
                return Ok(None);
            }
        }
        let piece = self.batch.pieces[self.next];
        if piece.item != item {
            return Ok(None);
        }
        self.next += 1;
        if piece.hole {
            return Ok(Some(FileChunk::Zeros(piece.length)));
        }
        let data = &self.batch.data[self.start..self.start + piece.length];
        self.start += piece.length;
        Ok(Some(FileChunk::Data(data)))
    }

    fn next_batch(&mut self) -> Result<bool, SealError> {
        let mut state = self.shared.lock();
        loop {
            let number = state.taken;
            if let Some(batch) = state.ready.remove(&number) {
                state.taken += 1;
                state.spare.push(std::mem::replace(&mut self.batch, batch?));
                self.next = 0;
                self.start = 0;
                drop(state);
                self.shared.changed.notify_all();
                return Ok(true);
            }
            if state.panicked {
                return Err(SealError::ReaderPanicked);
            }
            if state.all_begun && state.taken == state.begun {
                return Ok(false);
            }
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl<C: Contents> Drop for Feed<'_, '_, C> {
    fn drop(&mut self) {
        self.shared.lock().stopped = true;
        self.shared.changed.notify_all();
    }
}

/// Notifies the consumer when a reader panics.
struct PanicGuard<'r, 'p, C: Contents> {
    shared: &'r ReadAhead<'p, C>,
}

impl<C: Contents> PanicGuard<'_, '_, C> {
    fn disarm(self) {
        std::mem::forget(self);
    }
}

impl<C: Contents> Drop for PanicGuard<'_, '_, C> {
    fn drop(&mut self) {
        self.shared.lock().panicked = true;
        self.shared.changed.notify_all();
    }
}
