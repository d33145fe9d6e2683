//! The bytes of a response.
//!
//! Invariants:
//! - A file is read with `pread`, never through a mapping, which a file that is cut would turn into
//!   SIGBUS. What is in the page cache is read at once; what is not, on a thread that may wait.
//! - A response holds one piece of a file at a time, and no more than [`LARGE`] pieces are large:
//!   however many clients do not read, they take little memory.
//! - A file that is cut or changed in place while it is sent ends the response, and with it the
//!   connection, before its last byte: no client takes a mixture for the whole.
//! - However a response ends, it is written to the log once.

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
use super::artifact::Opened;

/// The bytes of a large piece, and those of one when all large ones are in use.
const PIECE: usize = 256 << 10;
const SMALL: usize = 16 << 10;

/// How many large pieces there may be at a time: 32 MiB.
const LARGE: usize = 128;

/// Large pieces that are free.
#[derive(Debug, Default)]
pub(super) struct Pool(Mutex<Pieces>);

#[derive(Debug, Default)]
struct Pieces {
    free: Vec<Box<[u8]>>,
    made: usize,
}

/// A piece of a file in memory.
#[derive(Debug)]
struct Piece {
    bytes: Box<[u8]>,
    filled: usize,
    /// Where it goes when it was sent, if it is a large one.
    pool: Option<Arc<Pool>>,
}

impl Pool {
    fn piece(self: &Arc<Self>, wanted: u64) -> Piece {
        let small = |most| vec![0; usize::try_from(wanted).unwrap_or(most).min(most)].into();
        if wanted <= SMALL as u64 {
            return Piece { bytes: small(SMALL), filled: 0, pool: None };
        }
        let mut pieces = self.0.lock();
        let free = pieces.free.pop();
        let bytes = free.or_else(|| {
            let may = pieces.made < LARGE;
            pieces.made += usize::from(may);
            may.then(|| vec![0; PIECE].into())
        });
        drop(pieces);
        match bytes {
            Some(bytes) => Piece { bytes, filled: 0, pool: Some(self.clone()) },
            None => Piece { bytes: small(SMALL), filled: 0, pool: None },
        }
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        if let Some(pool) = &self.pool {
            pool.0.lock().free.push(std::mem::take(&mut self.bytes));
        }
    }
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.filled]
    }
}

/// What a response has as its body.
#[derive(Debug)]
pub(super) struct Body {
    content: Content,
    /// How many bytes are still to come.
    left: u64,
    access: Option<Access>,
}

#[derive(Debug)]
enum Content {
    Text(Bytes),
    File(Sent),
}

#[derive(Debug)]
struct Sent {
    opened: Arc<Opened>,
    at: u64,
    pool: Arc<Pool>,
    reading: Option<JoinHandle<io::Result<Piece>>>,
}

impl Body {
    pub(super) fn empty() -> Self {
        Self::text(Bytes::new())
    }

    pub(super) fn text(text: impl Into<Bytes>) -> Self {
        let text = text.into();
        Body { left: text.len() as u64, content: Content::Text(text), access: None }
    }

    /// These bytes of a file.
    pub(super) fn file(opened: Arc<Opened>, range: Range<u64>, pool: &Arc<Pool>) -> Self {
        let content =
            Content::File(Sent { opened, at: range.start, pool: pool.clone(), reading: None });
        Body { content, left: range.end - range.start, access: None }
    }

    /// Has it logged, with this status, when it has ended.
    pub(super) fn log(&mut self, access: Option<Access>, status: StatusCode) {
        self.access = access.map(|mut access| {
            access.status = status;
            access.whole = self.left == 0;
            access
        });
    }
}

impl Sent {
    fn poll_piece(&mut self, context: &mut Context<'_>, left: u64) -> Poll<io::Result<Piece>> {
        let mut reading = match self.reading.take() {
            Some(reading) => reading,
            None => {
                let mut piece = self.pool.piece(left);
                let most = usize::try_from(left).unwrap_or(usize::MAX).min(piece.bytes.len());
                let mut slices = [IoSliceMut::new(&mut piece.bytes[..most])];
                match preadv2(&self.opened.file, &mut slices, self.at, ReadWriteFlags::NOWAIT) {
                    Ok(read) if read > 0 => {
                        piece.filled = read;
                        return Poll::Ready(Ok(piece));
                    }
                    // It would have to wait; or, on some file systems, it cannot say so.
                    Ok(_) | Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::INTR) => {}
                    Err(error) => return Poll::Ready(Err(error.into())),
                }
                let (opened, at) = (self.opened.clone(), self.at);
                tokio::task::spawn_blocking(move || {
                    piece.filled = read(&opened.file, &mut piece.bytes[..most], at)?;
                    Ok(piece)
                })
            }
        };
        match Pin::new(&mut reading).poll(context) {
            Poll::Ready(piece) => Poll::Ready(piece?),
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
            Ok(0) => return Err(io::Error::other("the file was cut while it was sent")),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

impl HttpBody for Body {
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
            Content::Text(text) => std::mem::take(text),
            Content::File(sent) => {
                let piece = match ready!(sent.poll_piece(context, this.left)) {
                    Ok(piece) => piece,
                    Err(error) => return Poll::Ready(Some(Err(error))),
                };
                sent.at += piece.filled as u64;
                if piece.filled as u64 == this.left && !sent.opened.is_unchanged() {
                    let error = io::Error::other("the file was changed while it was sent");
                    return Poll::Ready(Some(Err(error)));
                }
                Bytes::from_owner(piece)
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
