//! gzip on several threads, as one member (RFC 1952) that every reader accepts.
//!
//! Linux's initramfs unpacker accepts one member with plain header flags and nothing after it, so
//! the parallelism is inside the deflate stream (RFC 1951), as in pigz: the input is split into
//! chunks of [`CHUNK_BYTES`] bytes, each is compressed separately with the 32 KiB before it as
//! preset dictionary, and a sync flush (an empty stored block) ends each on a byte boundary, so
//! that the results can be concatenated.
//!
//! Invariants:
//! - The bytes depend only on the input and the level: not on the number of threads, not on the
//!   sizes of the `write` calls, and not on the processor (zlib-rs chooses an instruction set at
//!   run time, and finds the same matches with each).
//! - Header: flags 0, modification time 0, operating system 255 (unknown). The only extra flags are
//!   the two that RFC 1952 derives from the level.
//! - At most `max_chunks` chunks are in memory at a time.
//! - A failed worker is reported by the next `write` or by [`Gzip::finish`]; nothing waits for it
//!   forever. Dropping a [`Gzip`] ends its workers.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;

use flate2::{Compress, Compression, FlushCompress, Status};

/// Bytes of input per chunk. It determines the output bytes. Measured on a Debian base, 128 KiB to
/// 1 MiB differ by 0.1 % in size and not in speed.
pub(crate) const CHUNK_BYTES: usize = 256 * 1024;

/// The window of deflate, and so the size of the dictionary.
const WINDOW_BYTES: usize = 32 * 1024;

/// The default level, which the help of `--level` and the documentation also state.
pub(crate) const DEFAULT_LEVEL: u32 = 6;

/// Returns the maximum number of chunks in memory for `threads` workers.
const fn max_chunks(threads: usize) -> usize {
    threads * 4 + 2
}

/// A gzip compressor that writes to another writer.
pub(crate) struct Gzip<W: Write> {
    inner: W,
    /// The dictionary of the chunk being filled, then the chunk.
    chunk: Vec<u8>,
    /// The length of the dictionary in `chunk`.
    dictionary: usize,
    /// Results in input order.
    pending: VecDeque<Receiver<io::Result<DeflatedChunk>>>,
    spare: Vec<Vec<u8>>,
    crc: crc32fast::Hasher,
    length: u64,
    workers: GzipWorkers,
}

struct GzipJob {
    /// The dictionary, then the input.
    buffer: Vec<u8>,
    dictionary: usize,
    last: bool,
    answer: SyncSender<io::Result<DeflatedChunk>>,
}

struct DeflatedChunk {
    deflated: Arc<[u8]>,
    crc: crc32fast::Hasher,
    buffer: Vec<u8>,
}

struct GzipWorkers {
    threads: Vec<JoinHandle<()>>,
    /// `None` when all jobs are submitted.
    jobs: Option<Sender<GzipJob>>,
    limit: usize,
}

impl<W: Write> std::fmt::Debug for Gzip<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gzip")
            .field("threads", &self.workers.threads.len())
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}

impl<W: Write> Gzip<W> {
    /// Starts a member on `inner` with `threads` workers (at least one).
    ///
    /// `level` is clamped to 1 to 9.
    ///
    /// # Errors
    /// Fails if the header cannot be written or a thread cannot be started.
    pub(crate) fn new(mut inner: W, level: u32, threads: usize) -> io::Result<Self> {
        let level = level.clamp(1, 9);
        let workers = GzipWorkers::start(level, threads.max(1))?;
        let extra_flags = match level {
            9 => 2,
            1 => 4,
            _ => 0,
        };
        inner.write_all(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, extra_flags, 255])?;
        Ok(Gzip {
            inner,
            chunk: Vec::with_capacity(WINDOW_BYTES + CHUNK_BYTES),
            dictionary: 0,
            pending: VecDeque::new(),
            spare: Vec::new(),
            crc: crc32fast::Hasher::new(),
            length: 0,
            workers,
        })
    }

    /// Compresses the rest, writes the trailer and returns the writer, unflushed.
    ///
    /// # Errors
    /// Returns errors of the writer and of the workers.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.submit(true)?;
        while !self.pending.is_empty() {
            self.drain_one()?;
        }
        let crc = self.crc.clone().finalize();
        self.inner.write_all(&crc.to_le_bytes())?;
        // RFC 1952: ISIZE is the length modulo 2^32.
        self.inner.write_all(&(self.length as u32).to_le_bytes())?;
        let Gzip { inner, workers, .. } = self;
        drop(workers);
        Ok(inner)
    }

    /// Submits the chunk to the workers, and starts the next one with its dictionary.
    fn submit(&mut self, last: bool) -> io::Result<()> {
        while self.pending.len() >= self.workers.limit {
            self.drain_one()?;
        }
        let mut next =
            self.spare.pop().unwrap_or_else(|| Vec::with_capacity(WINDOW_BYTES + CHUNK_BYTES));
        next.clear();
        next.extend_from_slice(&self.chunk[self.chunk.len().saturating_sub(WINDOW_BYTES)..]);
        let dictionary = std::mem::replace(&mut self.dictionary, next.len());
        let buffer = std::mem::replace(&mut self.chunk, next);
        self.length += (buffer.len() - dictionary) as u64;
        let (answer, result) = sync_channel(1);
        self.workers.submit(GzipJob { buffer, dictionary, last, answer })?;
        self.pending.push_back(result);
        Ok(())
    }

    /// Waits for the oldest chunk and writes it.
    fn drain_one(&mut self) -> io::Result<()> {
        let Some(result) = self.pending.pop_front() else { return Ok(()) };
        let done =
            result.recv().map_err(|_| io::Error::other("a compression thread panicked"))??;
        self.inner.write_all(&done.deflated)?;
        self.crc.combine(&done.crc);
        self.spare.push(done.buffer);
        Ok(())
    }
}

impl<W: Write> Write for Gzip<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let room = self.dictionary + CHUNK_BYTES - self.chunk.len();
        let taken = room.min(data.len());
        self.chunk.extend_from_slice(&data[..taken]);
        if taken == room {
            self.submit(false)?;
        }
        Ok(taken)
    }

    /// Does not end a chunk: the chunk boundaries must depend only on the input.
    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl GzipWorkers {
    fn start(level: u32, count: usize) -> io::Result<Self> {
        let (jobs, queue) = channel::<GzipJob>();
        let queue = Arc::new(Mutex::new(queue));
        let zeros = Arc::new(OnceLock::new());
        let mut workers =
            GzipWorkers { threads: Vec::new(), jobs: Some(jobs), limit: max_chunks(count) };
        for _ in 0..count {
            let queue = queue.clone();
            let zeros = zeros.clone();
            let worker = std::thread::Builder::new().name("gzip".into()).spawn(move || {
                let mut deflater = Deflater::new(level, zeros);
                loop {
                    // The lock is held while waiting for a job. The others wait for the lock
                    // instead of the queue, with the same effect.
                    let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(GzipJob { buffer, dictionary, last, answer }) = job else { return };
                    let done = deflater.deflate(buffer, dictionary, last);
                    // Fails if the compressor was dropped.
                    let _ = answer.send(done);
                }
            })?;
            workers.threads.push(worker);
        }
        Ok(workers)
    }

    fn submit(&self, job: GzipJob) -> io::Result<()> {
        self.jobs
            .as_ref()
            .and_then(|jobs| jobs.send(job).ok())
            .ok_or_else(|| io::Error::other("the compression threads have ended"))
    }
}

impl Drop for GzipWorkers {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            // The missing result has already reported a panic.
            let _ = thread.join();
        }
    }
}

/// The result for a full chunk of zeros after zeros, which sparse files have thousands of.
type ZeroChunk = Arc<OnceLock<(Arc<[u8]>, crc32fast::Hasher)>>;

struct Deflater {
    level: u32,
    output: Vec<u8>,
    zeros: ZeroChunk,
}

impl Deflater {
    fn new(level: u32, zeros: ZeroChunk) -> Self {
        Deflater { level, output: Vec::with_capacity(CHUNK_BYTES + CHUNK_BYTES / 8), zeros }
    }

    /// Compresses one chunk. The same input gives the same output, regardless of earlier chunks.
    fn deflate(
        &mut self,
        buffer: Vec<u8>,
        dictionary: usize,
        last: bool,
    ) -> io::Result<DeflatedChunk> {
        let all_zeros = !last && buffer.len() == WINDOW_BYTES + CHUNK_BYTES && is_zero(&buffer);
        if all_zeros && let Some((deflated, crc)) = self.zeros.get() {
            return Ok(DeflatedChunk { deflated: deflated.clone(), crc: crc.clone(), buffer });
        }
        let (dictionary, input) = buffer.split_at(dictionary);
        // Never `reset()`: zlib-rs 0.6.8 keeps the window and the hash chains of the previous chunk
        // and finds other (valid) matches with them than a new state does, so that the bytes would
        // depend on which worker got which chunk. A new state costs a zeroed allocation of 300 KiB.
        let mut compress = Compress::new(Compression::new(self.level), false);
        if !dictionary.is_empty() {
            compress.set_dictionary(dictionary).map_err(io::Error::other)?;
        }
        self.output.clear();
        let flush = if last { FlushCompress::Finish } else { FlushCompress::Sync };
        loop {
            let rest = &input[compress.total_in() as usize..];
            // Room for the worst case, so that one round suffices. A flush is complete only if it
            // left room in the output.
            self.output.reserve(rest.len() + rest.len() / 8 + 64);
            let status =
                compress.compress_vec(rest, &mut self.output, flush).map_err(io::Error::other)?;
            let consumed = compress.total_in() as usize == input.len();
            let complete = if last {
                status == Status::StreamEnd
            } else {
                consumed && self.output.len() < self.output.capacity()
            };
            if complete {
                break;
            }
        }
        let deflated: Arc<[u8]> = Arc::from(&self.output[..]);
        let mut crc = crc32fast::Hasher::new();
        crc.update(input);
        if all_zeros {
            // Another thread may have set it; its result is the same.
            let _ = self.zeros.set((deflated.clone(), crc.clone()));
        }
        Ok(DeflatedChunk { deflated, crc, buffer })
    }
}

/// Whether all bytes are zero. The loop is vectorised.
fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(4096).all(|block| block.iter().fold(0, |all, byte| all | byte) == 0)
}

#[cfg(test)]
mod tests;
