//! Response bodies.
//!
//! Invariants:
//! - Files are read with `pread`, never mapped: truncating a mapped file would raise SIGBUS. Cached
//!   pages are read at once; uncached ones are read on a blocking thread.
//! - A response holds one chunk of a file at a time, and at most [`MAX_LARGE_CHUNKS`] chunks are
//!   large, so clients that do not read use little memory.
//! - A file that is truncated or changed in place while it is sent aborts the response and its
//!   connection before the last byte: no client takes mixed content for a complete file.
//! - Each response is logged once, however it ends.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use hyper::StatusCode;
use hyper::body::{Body as HttpBody, Bytes, Frame, SizeHint};
use parking_lot::Mutex;
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use tokio::task::JoinHandle;

use super::access::Access;
use super::artifact::OpenArtifact;

/// Bytes in a large chunk.
const LARGE_CHUNK_SIZE: usize = 256 << 10;
/// Bytes in a chunk when all large ones are in use.
const SMALL_CHUNK_SIZE: usize = 16 << 10;

/// Maximum number of large chunks: 32 MiB in total.
const MAX_LARGE_CHUNKS: usize = 128;

/// Free large chunks.
#[derive(Debug, Default)]
pub(super) struct ChunkPool(Mutex<FreeChunks>);

#[derive(Debug, Default)]
struct FreeChunks {
    free: Vec<Box<[u8]>>,
    made: usize,
}

/// A chunk of a file in memory.
#[derive(Debug)]
struct Chunk {
    bytes: Box<[u8]>,
    filled: usize,
    /// The pool that a large chunk returns to when it is dropped.
    pool: Option<Arc<ChunkPool>>,
}

impl ChunkPool {
    fn take(self: &Arc<Self>, wanted: u64) -> Chunk {
        let small = |most| vec![0; usize::try_from(wanted).unwrap_or(most).min(most)].into();
        if wanted <= SMALL_CHUNK_SIZE as u64 {
            return Chunk { bytes: small(SMALL_CHUNK_SIZE), filled: 0, pool: None };
        }
        let mut chunks = self.0.lock();
        let free = chunks.free.pop();
        let bytes = free.or_else(|| {
            let may = chunks.made < MAX_LARGE_CHUNKS;
            chunks.made += usize::from(may);
            may.then(|| vec![0; LARGE_CHUNK_SIZE].into())
        });
        drop(chunks);
        match bytes {
            Some(bytes) => Chunk { bytes, filled: 0, pool: Some(self.clone()) },
            None => Chunk { bytes: small(SMALL_CHUNK_SIZE), filled: 0, pool: None },
        }
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        if let Some(pool) = &self.pool {
            pool.0.lock().free.push(std::mem::take(&mut self.bytes));
        }
    }
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.filled]
    }
}

/// The body of a response.
#[derive(Debug)]
pub(super) struct ResponseBody {
    content: BodySource,
    /// Bytes still to send.
    left: u64,
    access: Option<Access>,
}

#[derive(Debug)]
enum BodySource {
    Text(Bytes),
    File(FileSource),
}

#[derive(Debug)]
struct FileSource {
    opened: Arc<OpenArtifact>,
    at: u64,
    pool: Arc<ChunkPool>,
    reading: Option<JoinHandle<io::Result<Chunk>>>,
}

impl ResponseBody {
    pub(super) fn empty() -> Self {
        Self::text(Bytes::new())
    }

    pub(super) fn text(text: impl Into<Bytes>) -> Self {
        let text = text.into();
        ResponseBody { left: text.len() as u64, content: BodySource::Text(text), access: None }
    }

    /// Creates the body from a byte range of a file.
    pub(super) fn file(
        opened: Arc<OpenArtifact>,
        range: Range<u64>,
        pool: &Arc<ChunkPool>,
    ) -> Self {
        let content = BodySource::File(FileSource {
            opened,
            at: range.start,
            pool: pool.clone(),
            reading: None,
        });
        ResponseBody { content, left: range.end - range.start, access: None }
    }

    /// Logs the response with this status when it ends.
    pub(super) fn log(&mut self, access: Option<Access>, status: StatusCode) {
        self.access = access.map(|mut access| {
            access.status = status;
            access.whole = self.left == 0;
            access
        });
    }
}

impl FileSource {
    fn poll_chunk(&mut self, context: &mut Context<'_>, left: u64) -> Poll<io::Result<Chunk>> {
        let mut reading = match self.reading.take() {
            Some(reading) => reading,
            None => {
                let mut chunk = self.pool.take(left);
                let most = usize::try_from(left).unwrap_or(usize::MAX).min(chunk.bytes.len());
                let mut slices = [IoSliceMut::new(&mut chunk.bytes[..most])];
                match preadv2(&self.opened.file, &mut slices, self.at, ReadWriteFlags::NOWAIT) {
                    Ok(read) if read > 0 => {
                        chunk.filled = read;
                        return Poll::Ready(Ok(chunk));
                    }
                    // Not cached; or the file system does not support RWF_NOWAIT.
                    Ok(_) | Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::INTR) => {}
                    Err(error) => return Poll::Ready(Err(error.into())),
                }
                let (opened, at) = (self.opened.clone(), self.at);
                tokio::task::spawn_blocking(move || {
                    chunk.filled = read(&opened.file, &mut chunk.bytes[..most], at)?;
                    Ok(chunk)
                })
            }
        };
        match Pin::new(&mut reading).poll(context) {
            Poll::Ready(chunk) => Poll::Ready(chunk?),
            Poll::Pending => {
                self.reading = Some(reading);
                Poll::Pending
            }
        }
    }
}

fn read(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    loop {
        match file.read_at(buffer, at) {
            Ok(0) => return Err(io::Error::other("the file was truncated while it was sent")),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

impl HttpBody for ResponseBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        if this.left == 0 {
            return Poll::Ready(None);
        }
        let bytes = match &mut this.content {
            BodySource::Text(text) => std::mem::take(text),
            BodySource::File(sent) => {
                let chunk = match ready!(sent.poll_chunk(context, this.left)) {
                    Ok(chunk) => chunk,
                    Err(error) => return Poll::Ready(Some(Err(error))),
                };
                sent.at += chunk.filled as u64;
                if chunk.filled as u64 == this.left && !sent.opened.is_unchanged() {
                    let error = io::Error::other("the file was changed while it was sent");
                    return Poll::Ready(Some(Err(error)));
                }
                Bytes::from_owner(chunk)
            }
        };
        this.left -= bytes.len() as u64;
        if let Some(access) = &mut this.access {
            access.bytes += bytes.len() as u64;
            access.whole = this.left == 0;
        }
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
