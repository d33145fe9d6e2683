//! Writing to a pipe or a socket whose reader is another program and may stop reading.
//!
//! Invariants:
//! - Every wait can be ended: `poll` waits until data can be written, and for the events that end
//!   the wait.
//! - A reader that reads a byte within each [`PollLimits::bound`] is waited for. When it reads
//!   nothing for that time, writing fails, at the latest after twice that time.
//! - The given descriptor is not made non-blocking: other processes share its open file
//!   description.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, send};
use nix::sys::stat::Mode;

/// Bytes that a writable pipe accepts without blocking: its smallest unit.
const PIPE_UNIT: usize = 4096;

/// Limits for waiting for a reader.
#[derive(Debug)]
pub struct PollLimits {
    /// The time after which a reader that reads nothing is given up.
    pub bound: Duration,
    /// Descriptors that end the waiting by becoming readable, or by a hangup.
    pub ends: Vec<OwnedFd>,
}

/// How to write to a descriptor without blocking.
#[derive(Debug)]
enum WriteMethod {
    /// The descriptor is non-blocking; for a pipe it is opened again for that.
    NonBlocking,
    /// The descriptor is blocking, but accepts small writes when it is ready.
    Pieces,
    /// With `send`.
    Socket,
    /// A file or a device, which has no reader to wait for.
    Plain,
}

/// A writer that does not wait forever.
#[derive(Debug)]
pub struct PollWriter {
    file: File,
    method: WriteMethod,
    limits: PollLimits,
}

impl PollWriter {
    /// Creates a writer to `file`.
    ///
    /// # Errors
    /// Fails if the file's type cannot be determined.
    pub fn new(file: File, limits: PollLimits) -> io::Result<Self> {
        let kind = file.metadata()?.file_type();
        let (file, method) = if kind.is_fifo() {
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            let flags = OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
            match open(path.as_str(), flags, Mode::empty()) {
                Ok(again) => (again.into(), WriteMethod::NonBlocking),
                // Another user's pipe, no /proc, or no reader, which writing will report.
                Err(_) => (file, WriteMethod::Pieces),
            }
        } else if kind.is_socket() {
            (file, WriteMethod::Socket)
        } else {
            (file, WriteMethod::Plain)
        };
        Ok(PollWriter { file, method, limits })
    }

    /// Writes as much as possible without blocking; `WouldBlock` if nothing can be written.
    fn try_write(&mut self, data: &[u8]) -> io::Result<usize> {
        match self.method {
            WriteMethod::NonBlocking | WriteMethod::Plain => self.file.write(data),
            WriteMethod::Socket => {
                let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
                Ok(send(self.file.as_raw_fd(), data, flags)?)
            }
            WriteMethod::Pieces => {
                let mut fds = [PollFd::new(self.file.as_fd(), PollFlags::POLLOUT)];
                match poll(&mut fds, PollTimeout::ZERO)? {
                    0 => Err(io::ErrorKind::WouldBlock.into()),
                    _ => self.file.write(&data[..data.len().min(PIPE_UNIT)]),
                }
            }
        }
    }

    /// Waits until data can be written.
    fn wait(&self) -> io::Result<()> {
        let bound = self.limits.bound;
        let timeout = PollTimeout::try_from(bound).unwrap_or(PollTimeout::MAX);
        let mut before = self.unread();
        loop {
            let mut fds = vec![PollFd::new(self.file.as_fd(), PollFlags::POLLOUT)];
            let ends = self.limits.ends.iter();
            fds.extend(ends.map(|end| PollFd::new(end.as_fd(), PollFlags::POLLIN)));
            match poll(&mut fds, timeout) {
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
                Ok(0) => {
                    // A slow reader of a pipe does not make room with every read.
                    let now = self.unread();
                    if now.is_none() || now == before {
                        return Err(io::Error::new(
                            io::ErrorKind::TimedOut,
                            timeout_message(bound),
                        ));
                    }
                    before = now;
                }
                Ok(_) if fds[1..].iter().any(|fd| fd.any().unwrap_or(true)) => {
                    let why = "cancelled while waiting for the reader";
                    return Err(io::Error::new(io::ErrorKind::ConnectionAborted, why));
                }
                Ok(_) => return Ok(()),
            }
        }
    }

    /// Returns the number of unread bytes in a pipe.
    fn unread(&self) -> Option<u64> {
        match self.method {
            WriteMethod::NonBlocking | WriteMethod::Pieces => {
                rustix::io::ioctl_fionread(&self.file).ok()
            }
            WriteMethod::Socket | WriteMethod::Plain => None,
        }
    }
}

fn timeout_message(bound: Duration) -> String {
    format!(
        "its reader read nothing for {} seconds, and the root cannot change during the wait; write \
         to a file instead, or to a reader that keeps up",
        bound.as_secs()
    )
}

impl Write for PollWriter {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        loop {
            match self.try_write(data) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.wait()?,
                result => return result,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::*;

    const SHORT: Duration = Duration::from_millis(20);

    /// A pair of descriptors: closing the second ends a wait on the first.
    fn cancel_pair() -> (OwnedFd, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (ours.into(), theirs)
    }

    fn poll_writer(file: impl Into<OwnedFd>, bound: Duration) -> (PollWriter, UnixStream) {
        let (end, other) = cancel_pair();
        let file = File::from(file.into());
        (PollWriter::new(file, PollLimits { bound, ends: vec![end] }).unwrap(), other)
    }

    /// Returns a writer for each method that can block, with its reader.
    fn writers(bound: Duration) -> Vec<(PollWriter, UnixStream, Box<dyn Read + Send>)> {
        let (reader, writer) = io::pipe().unwrap();
        let (plain, plain_end) = poll_writer(writer, bound);
        assert!(matches!(plain.method, WriteMethod::NonBlocking));
        let (small_reader, writer) = io::pipe().unwrap();
        let (mut small, small_end) = poll_writer(writer.try_clone().unwrap(), bound);
        (small.file, small.method) = (File::from(OwnedFd::from(writer)), WriteMethod::Pieces);
        let (socket_reader, writer) = UnixStream::pair().unwrap();
        let (socket, socket_end) = poll_writer(writer, bound);
        assert!(matches!(socket.method, WriteMethod::Socket));
        vec![
            (plain, plain_end, Box::new(reader)),
            (small, small_end, Box::new(small_reader)),
            (socket, socket_end, Box::new(socket_reader)),
        ]
    }

    #[test]
    fn stalled_reader_times_out() {
        for (mut poll_writer, _end, _reader) in writers(SHORT) {
            let error = poll_writer.write_all(&vec![1; 4 << 20]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{:?}", poll_writer.method);
            assert!(error.to_string().contains("read nothing for 0 seconds"), "{error}");
        }
    }

    #[test]
    fn slow_reader_is_waited_for() {
        let (mut reader, writer) = io::pipe().unwrap();
        // Longer than single-byte reads take on any machine.
        let (mut poll_writer, _end) = poll_writer(writer, Duration::from_secs(600));
        while let Ok(written) = poll_writer.try_write(&[1; 1 << 16]) {
            assert!(written > 0);
        }
        // Reading a byte makes no room in a pipe, but changes its count of unread bytes.
        let full = poll_writer.unread();
        reader.read_exact(&mut [0]).unwrap();
        assert_ne!(poll_writer.unread(), full);
        assert!(poll_writer.try_write(&[1]).is_err());
        std::thread::scope(|scope| {
            // Single bytes, until there is room.
            scope.spawn(|| {
                for _ in 0..PIPE_UNIT {
                    reader.read_exact(&mut [0]).unwrap();
                }
            });
            poll_writer.write_all(&[1]).unwrap();
        });
    }

    #[test]
    fn hangup_of_an_end_ends_the_wait() {
        // Longer than any test runs.
        for (mut poll_writer, end, _reader) in writers(Duration::from_secs(3600)) {
            let error = std::thread::scope(|scope| {
                let writing = scope.spawn(|| poll_writer.write_all(&vec![1; 4 << 20]).unwrap_err());
                drop(end);
                writing.join().unwrap()
            });
            assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
        }
    }

    #[test]
    fn all_data_is_written_and_the_descriptor_stays_blocking() {
        for (mut poll_writer, _end, mut reader) in writers(Duration::from_secs(3600)) {
            let data: Vec<u8> = (0..1_000_003u32).map(|n| (n / 7) as u8).collect();
            let expected = data.clone();
            let reading = std::thread::spawn(move || {
                let mut all = Vec::new();
                reader.read_to_end(&mut all).unwrap();
                all
            });
            poll_writer.write_all(&data).unwrap();
            drop(poll_writer);
            assert!(reading.join().unwrap() == expected);
        }
        let (_reader, writer) = io::pipe().unwrap();
        let ours = writer.try_clone().unwrap();
        let _writer = poll_writer(writer, SHORT);
        let flags = rustix::fs::fcntl_getfl(&ours).unwrap();
        assert!(!flags.contains(rustix::fs::OFlags::NONBLOCK));
    }

    #[test]
    fn closed_reader_is_a_broken_pipe() {
        for (mut poll_writer, _end, reader) in writers(SHORT) {
            drop(reader);
            let error = poll_writer.write_all(&vec![1; 4 << 20]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::BrokenPipe, "{:?}", poll_writer.method);
        }
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let (mut poll_writer, _end) = poll_writer(writer, SHORT);
        assert_eq!(poll_writer.write(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
