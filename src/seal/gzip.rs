//! gzip on several threads, as one member (RFC 1952) that every reader understands.
//!
//! Linux's initramfs unpacker takes one member with plain header flags and nothing after it, so
//! the parallelism lies inside the deflate stream (RFC 1951), as in pigz: the input is cut into
//! chunks of [`CHUNK`] bytes, each is compressed alone with the 32 KiB before it as preset
//! dictionary, and a sync flush (an empty stored block) ends each on a byte boundary, so that the
//! pieces can be joined.
//!
//! Invariants:
//! - The bytes depend on the input and the level alone: neither on the number of threads, nor on
//!   how the input was cut into `write` calls, nor on the processor (zlib-rs chooses among
//!   instruction sets by what is there, and finds the same matches with each).
//! - Header: flags 0, modification time 0, operating system 255 (unknown). Of the extra flags only
//!   the two that RFC 1952 derives from the level are used.
//! - At most `in_flight` chunks are held at a time.
//! - A worker that fails ends as an error of the next `write` or of [`Gzip::finish`]; nothing
//!   waits for it for ever. Dropping a [`Gzip`] ends its workers.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;

use flate2::{Compress, Compression, FlushCompress, Status};

/// Bytes of input to a chunk. Part of the format of what is written: another value gives other
/// bytes. Measured on a Debian base: 128 KiB to 1 MiB differ by 0.1 % in size and not in speed.
pub const CHUNK: usize = 256 * 1024;

/// The reach of deflate, and so the size of the dictionary.
const WINDOW: usize = 32 * 1024;

/// The level when none is asked for.
pub const DEFAULT_LEVEL: u32 = 6;

/// How many chunks are held at a time by `threads` workers.
const fn in_flight(threads: usize) -> usize {
    threads * 4 + 2
}

/// A gzip compressor in front of a writer.
pub struct Gzip<W: Write> {
    inner: W,
    /// The dictionary of the chunk being filled, then the chunk.
    chunk: Vec<u8>,
    /// How much of `chunk` is dictionary.
    dictionary: usize,
    /// Results in the order of the input.
    pending: VecDeque<Receiver<io::Result<Done>>>,
    spare: Vec<Vec<u8>>,
    crc: crc32fast::Hasher,
    length: u64,
    workers: Workers,
}

struct Job {
    /// The dictionary, then the input.
    buffer: Vec<u8>,
    dictionary: usize,
    last: bool,
    answer: SyncSender<io::Result<Done>>,
}

struct Done {
    deflated: Arc<[u8]>,
    crc: crc32fast::Hasher,
    buffer: Vec<u8>,
}

struct Workers {
    threads: Vec<JoinHandle<()>>,
    /// `None` once there is nothing more to do.
    jobs: Option<Sender<Job>>,
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
    /// `level` is 1 to 9; anything else is brought to the nearest of these.
    ///
    /// # Errors
    /// When the header cannot be written or a thread cannot be started.
    pub fn new(mut inner: W, level: u32, threads: usize) -> io::Result<Self> {
        let level = level.clamp(1, 9);
        let workers = Workers::start(level, threads.max(1))?;
        let extra_flags = match level {
            9 => 2,
            1 => 4,
            _ => 0,
        };
        inner.write_all(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, extra_flags, 255])?;
        Ok(Gzip {
            inner,
            chunk: Vec::with_capacity(WINDOW + CHUNK),
            dictionary: 0,
            pending: VecDeque::new(),
            spare: Vec::new(),
            crc: crc32fast::Hasher::new(),
            length: 0,
            workers,
        })
    }

    /// Compresses what is left, writes the trailer and gives the writer back, unflushed.
    ///
    /// # Errors
    /// Those of the writer, and those of a worker.
    pub fn finish(mut self) -> io::Result<W> {
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

    /// Hands the chunk to the workers, and starts the next one with its dictionary.
    fn submit(&mut self, last: bool) -> io::Result<()> {
        while self.pending.len() >= self.workers.limit {
            self.drain_one()?;
        }
        let mut next = self.spare.pop().unwrap_or_else(|| Vec::with_capacity(WINDOW + CHUNK));
        next.clear();
        next.extend_from_slice(&self.chunk[self.chunk.len().saturating_sub(WINDOW)..]);
        let dictionary = std::mem::replace(&mut self.dictionary, next.len());
        let buffer = std::mem::replace(&mut self.chunk, next);
        self.length += (buffer.len() - dictionary) as u64;
        let (answer, result) = sync_channel(1);
        self.workers.submit(Job { buffer, dictionary, last, answer })?;
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
        let room = self.dictionary + CHUNK - self.chunk.len();
        let taken = room.min(data.len());
        self.chunk.extend_from_slice(&data[..taken]);
        if taken == room {
            self.submit(false)?;
        }
        Ok(taken)
    }

    /// Does not end a chunk: where the chunks lie must depend on the input alone.
    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl Workers {
    fn start(level: u32, count: usize) -> io::Result<Self> {
        let (jobs, queue) = channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        let zeros = Arc::new(OnceLock::new());
        let mut workers =
            Workers { threads: Vec::new(), jobs: Some(jobs), limit: in_flight(count) };
        for _ in 0..count {
            let queue = queue.clone();
            let zeros = zeros.clone();
            let worker = std::thread::Builder::new().name("gzip".into()).spawn(move || {
                let mut deflater = Deflater::new(level, zeros);
                loop {
                    // The lock is held while waiting, which keeps the others waiting for it
                    // instead of for the queue: the same thing.
                    let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(Job { buffer, dictionary, last, answer }) = job else { return };
                    let done = deflater.deflate(buffer, dictionary, last);
                    // Nobody listens when the compressor was dropped.
                    let _ = answer.send(done);
                }
            })?;
            workers.threads.push(worker);
        }
        Ok(workers)
    }

    fn submit(&self, job: Job) -> io::Result<()> {
        self.jobs
            .as_ref()
            .and_then(|jobs| jobs.send(job).ok())
            .ok_or_else(|| io::Error::other("the compression threads are gone"))
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            // A panic was reported where its answer was missing.
            let _ = thread.join();
        }
    }
}

/// What a full chunk of zeros after zeros becomes. Sparse files have thousands of them.
type ZeroChunk = Arc<OnceLock<(Arc<[u8]>, crc32fast::Hasher)>>;

struct Deflater {
    level: u32,
    output: Vec<u8>,
    zeros: ZeroChunk,
}

impl Deflater {
    fn new(level: u32, zeros: ZeroChunk) -> Self {
        Deflater { level, output: Vec::with_capacity(CHUNK + CHUNK / 8), zeros }
    }

    /// Compresses one chunk. The same input gives the same output, whatever came before.
    fn deflate(&mut self, buffer: Vec<u8>, dictionary: usize, last: bool) -> io::Result<Done> {
        let all_zeros = !last && buffer.len() == WINDOW + CHUNK && is_zero(&buffer);
        if all_zeros && let Some((deflated, crc)) = self.zeros.get() {
            return Ok(Done { deflated: deflated.clone(), crc: crc.clone(), buffer });
        }
        let (dictionary, input) = buffer.split_at(dictionary);
        // Never `reset()`: zlib-rs 0.6.8 leaves the window and the hash chains of the chunk
        // before in place, and finds matches by them (valid ones, but others than a fresh state
        // finds), so that the bytes would depend on which worker got which chunk. A new state
        // costs a zeroed allocation of 300 KiB.
        let mut compress = Compress::new(Compression::new(self.level), false);
        if !dictionary.is_empty() {
            compress.set_dictionary(dictionary).map_err(io::Error::other)?;
        }
        self.output.clear();
        let flush = if last { FlushCompress::Finish } else { FlushCompress::Sync };
        loop {
            let rest = &input[compress.total_in() as usize..];
            // Room for the worst case, so that one round does it; a flush is complete only when
            // it left room in the output.
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
            // Another thread may have been first; its result is the same.
            let _ = self.zeros.set((deflated.clone(), crc.clone()));
        }
        Ok(Done { deflated, crc, buffer })
    }
}

/// Whether there are only zeros: at the speed of memory.
fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(4096).all(|block| block.iter().fold(0, |all, byte| all | byte) == 0)
}

#[cfg(test)]
mod tests;
