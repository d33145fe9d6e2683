//! Writing to whoever reads the other end of a pipe or a socket, which is somebody else's program:
//! it may stop reading.
//!
//! Invariants:
//! - No call waits in the kernel where nothing could end it: what cannot be written at once is
//!   waited for by `poll`, together with what is to end the waiting.
//! - A reader that takes a byte within each [`Patience::bound`] is waited for, one that takes
//!   nothing for so long is not: the writing then fails, at the latest after twice that time.
//! - The descriptor that was given is not made non-blocking: others have it too, and share that.

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

/// What a pipe takes without waiting when it takes anything: its smallest unit.
const PIPE_UNIT: usize = 4096;

/// How long a reader is waited for.
#[derive(Debug)]
pub struct Patience {
    /// How long it may take nothing.
    pub bound: Duration,
    /// What ends the waiting by becoming readable, or by being closed at its other end.
    pub ends: Vec<OwnedFd>,
}

/// How a descriptor is written to without waiting.
#[derive(Debug)]
enum Way {
    /// It is, or its file is opened once more so that it is, non-blocking.
    NonBlocking,
    /// It is not, but takes small pieces at once when it is ready.
    Pieces,
    /// By `send`.
    Socket,
    /// A file or a device, which has no reader to wait for.
    Plain,
}

/// A writer that does not wait for ever.
#[derive(Debug)]
pub struct Patient {
    file: File,
    way: Way,
    patience: Patience,
}

impl Patient {
    /// Writes to `file`.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub fn new(file: File, patience: Patience) -> io::Result<Self> {
        let kind = file.metadata()?.file_type();
        let (file, way) = if kind.is_fifo() {
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            let flags = OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
            match open(path.as_str(), flags, Mode::empty()) {
                Ok(again) => (again.into(), Way::NonBlocking),
                // Another user's pipe, or no /proc, or no reader, which writing will tell.
                Err(_) => (file, Way::Pieces),
            }
        } else if kind.is_socket() {
            (file, Way::Socket)
        } else {
            (file, Way::Plain)
        };
        Ok(Patient { file, way, patience })
    }

    /// Writes what can be written at once; `WouldBlock` when that is nothing.
    fn try_write(&mut self, data: &[u8]) -> io::Result<usize> {
        match self.way {
            Way::NonBlocking | Way::Plain => self.file.write(data),
            Way::Socket => {
                let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
                Ok(send(self.file.as_raw_fd(), data, flags)?)
            }
            Way::Pieces => {
                let mut fds = [PollFd::new(self.file.as_fd(), PollFlags::POLLOUT)];
                match poll(&mut fds, PollTimeout::ZERO)? {
                    0 => Err(io::ErrorKind::WouldBlock.into()),
                    _ => self.file.write(&data[..data.len().min(PIPE_UNIT)]),
                }
            }
        }
    }

    /// Waits until something can be written.
    fn wait(&self) -> io::Result<()> {
        let bound = self.patience.bound;
        let timeout = PollTimeout::try_from(bound).unwrap_or(PollTimeout::MAX);
        let mut before = self.unread();
        loop {
            let mut fds = vec![PollFd::new(self.file.as_fd(), PollFlags::POLLOUT)];
            let ends = self.patience.ends.iter();
            fds.extend(ends.map(|end| PollFd::new(end.as_fd(), PollFlags::POLLIN)));
            match poll(&mut fds, timeout) {
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
                Ok(0) => {
                    // Of a pipe, what a slow reader took does not make room at once.
                    let now = self.unread();
                    if now.is_none() || now == before {
                        return Err(io::Error::new(io::ErrorKind::TimedOut, stuck(bound)));
                    }
                    before = now;
                }
                Ok(_) if fds[1..].iter().any(|fd| fd.any().unwrap_or(true)) => {
                    let why = "it was given up while its reader was waited for";
                    return Err(io::Error::new(io::ErrorKind::ConnectionAborted, why));
                }
                Ok(_) => return Ok(()),
            }
        }
    }

    /// How many bytes lie in a pipe.
    fn unread(&self) -> Option<u64> {
        match self.way {
            Way::NonBlocking | Way::Pieces => rustix::io::ioctl_fionread(&self.file).ok(),
            Way::Socket | Way::Plain => None,
        }
    }
}

fn stuck(bound: Duration) -> String {
    format!(
        "its reader took nothing for {} seconds, and nothing can change while it is waited for; \
         write to a file instead, or to a reader that keeps up",
        bound.as_secs()
    )
}

impl Write for Patient {
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

    /// Two ends, the first of which ends a waiting when the second goes.
    fn an_end() -> (OwnedFd, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (ours.into(), theirs)
    }

    fn patient(file: impl Into<OwnedFd>, bound: Duration) -> (Patient, UnixStream) {
        let (end, other) = an_end();
        let file = File::from(file.into());
        (Patient::new(file, Patience { bound, ends: vec![end] }).unwrap(), other)
    }

    /// One of each kind that may have a reader who stops, with that reader.
    fn kinds(bound: Duration) -> Vec<(Patient, UnixStream, Box<dyn Read + Send>)> {
        let (reader, writer) = io::pipe().unwrap();
        let (plain, plain_end) = patient(writer, bound);
        assert!(matches!(plain.way, Way::NonBlocking));
        let (small_reader, writer) = io::pipe().unwrap();
        let (mut small, small_end) = patient(writer.try_clone().unwrap(), bound);
        (small.file, small.way) = (File::from(OwnedFd::from(writer)), Way::Pieces);
        let (socket_reader, writer) = UnixStream::pair().unwrap();
        let (socket, socket_end) = patient(writer, bound);
        assert!(matches!(socket.way, Way::Socket));
        vec![
            (plain, plain_end, Box::new(reader)),
            (small, small_end, Box::new(small_reader)),
            (socket, socket_end, Box::new(socket_reader)),
        ]
    }

    #[test]
    fn a_reader_that_takes_nothing_is_not_waited_for_for_ever() {
        for (mut patient, _end, _reader) in kinds(SHORT) {
            let error = patient.write_all(&vec![1; 4 << 20]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{:?}", patient.way);
            assert!(error.to_string().contains("took nothing for 0 seconds"), "{error}");
        }
    }

    #[test]
    fn a_reader_that_takes_little_is_waited_for() {
        let (mut reader, writer) = io::pipe().unwrap();
        // Longer than bytes one by one take on any machine.
        let (mut patient, _end) = patient(writer, Duration::from_secs(600));
        while let Ok(written) = patient.try_write(&[1; 1 << 16]) {
            assert!(written > 0);
        }
        // A byte makes no room in a pipe, but that it was taken would be seen in the end.
        let full = patient.unread();
        reader.read_exact(&mut [0]).unwrap();
        assert_ne!(patient.unread(), full);
        assert!(patient.try_write(&[1]).is_err());
        std::thread::scope(|scope| {
            // Bytes one by one, until there is room.
            scope.spawn(|| {
                for _ in 0..PIPE_UNIT {
                    reader.read_exact(&mut [0]).unwrap();
                }
            });
            patient.write_all(&[1]).unwrap();
        });
    }

    #[test]
    fn waiting_ends_when_it_is_ended() {
        // Longer than any test runs.
        for (mut patient, end, _reader) in kinds(Duration::from_secs(3600)) {
            let error = std::thread::scope(|scope| {
                let writing = scope.spawn(|| patient.write_all(&vec![1; 4 << 20]).unwrap_err());
                drop(end);
                writing.join().unwrap()
            });
            assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
        }
    }

    #[test]
    fn all_of_it_comes_through_and_the_given_descriptor_stays_as_it_was() {
        for (mut patient, _end, mut reader) in kinds(Duration::from_secs(3600)) {
            let data: Vec<u8> = (0..1_000_003u32).map(|n| (n / 7) as u8).collect();
            let expected = data.clone();
            let reading = std::thread::spawn(move || {
                let mut all = Vec::new();
                reader.read_to_end(&mut all).unwrap();
                all
            });
            patient.write_all(&data).unwrap();
            drop(patient);
            assert!(reading.join().unwrap() == expected);
        }
        let (_reader, writer) = io::pipe().unwrap();
        let ours = writer.try_clone().unwrap();
        let _patient = patient(writer, SHORT);
        let flags = rustix::fs::fcntl_getfl(&ours).unwrap();
        assert!(!flags.contains(rustix::fs::OFlags::NONBLOCK));
    }

    #[test]
    fn a_reader_that_is_gone_breaks_the_pipe() {
        for (mut patient, _end, reader) in kinds(SHORT) {
            drop(reader);
            let error = patient.write_all(&vec![1; 4 << 20]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::BrokenPipe, "{:?}", patient.way);
        }
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let (mut patient, _end) = patient(writer, SHORT);
        assert_eq!(patient.write(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
