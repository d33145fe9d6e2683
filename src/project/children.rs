//! The processes that build images, one each.
//!
//! Invariants:
//! - None outlives this process: each is told to end when its parent does, and ends in order what
//!   it has begun.
//! - What they say comes line by line, and their reports whole.

use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::process::{PidfdFlags, Signal};

use crate::sandbox::{Signals, end_with_parent};

/// Who is told what a child says: its number, and a line without its end.
pub type Listener = Arc<dyn Fn(usize, &str) + Send + Sync>;

/// The running ones.
pub struct Children<'a> {
    running: Vec<Running>,
    signals: &'a Signals,
    listener: Listener,
}

impl std::fmt::Debug for Children<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Children").field("running", &self.running.len()).finish_non_exhaustive()
    }
}

struct Running {
    number: usize,
    child: Child,
    pidfd: OwnedFd,
    report: Option<JoinHandle<io::Result<Vec<u8>>>>,
    words: Option<JoinHandle<()>>,
    began: Instant,
}

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// A child ended.
    Ended {
        /// Its number.
        number: usize,
        /// How.
        status: ExitStatus,
        /// What it wrote to standard output.
        report: Vec<u8>,
        /// How long it took.
        took: Duration,
    },
    /// This process was asked to end, by this signal. The children have been asked too, and have
    /// ended.
    Interrupted(i32),
}

impl<'a> Children<'a> {
    /// None yet. `listener` is told what they say.
    pub fn new(signals: &'a Signals, listener: Listener) -> Self {
        Children { running: Vec::new(), signals, listener }
    }

    /// How many are running.
    pub fn len(&self) -> usize {
        self.running.len()
    }

    /// Whether none is running.
    pub fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// Starts one. It has the terminal for itself if it is to be `alone`; otherwise what it says
    /// comes to the listener.
    ///
    /// # Errors
    /// Those of the system.
    pub fn start(&mut self, number: usize, mut command: Command, alone: bool) -> io::Result<()> {
        end_with_parent(&mut command);
        command.stdin(if alone { Stdio::inherit() } else { Stdio::null() }).stdout(Stdio::piped());
        command.stderr(if alone { Stdio::inherit() } else { Stdio::piped() });
        let mut child = command.spawn()?;
        let pid = rustix::process::Pid::from_child(&child);
        let pidfd = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(error.into());
            }
        };
        let report = child.stdout.take().map(|mut stdout| {
            std::thread::spawn(move || {
                let mut report = Vec::new();
                stdout.read_to_end(&mut report).map(|_| report)
            })
        });
        let listener = self.listener.clone();
        let words = child.stderr.take().map(|stderr| {
            std::thread::spawn(move || {
                let mut lines = BufReader::new(stderr);
                let mut line = Vec::new();
                while lines.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                    listener(number, String::from_utf8_lossy(&line).trim_end_matches('\n'));
                    line.clear();
                }
            })
        });
        let began = Instant::now();
        self.running.push(Running { number, child, pidfd, report, words, began });
        Ok(())
    }

    /// Waits until one ends, or this process is asked to. There must be one.
    ///
    /// # Errors
    /// Those of the system.
    pub fn wait(&mut self) -> io::Result<Event> {
        loop {
            let mut fds = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
            let ends = self.running.iter().map(|r| PollFd::new(r.pidfd.as_fd(), PollFlags::POLLIN));
            fds.extend(ends);
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
            let ended = fds[1..].iter().position(|fd| fd.any().unwrap_or(true));
            if let Some(signal) = self.signals.interruption() {
                self.end();
                return Ok(Event::Interrupted(signal as i32));
            }
            if let Some(at) = ended {
                let Running { number, child, report, words, began, .. } = self.running.remove(at);
                return reap(number, child, report, words, began);
            }
        }
    }

    /// Asks all of them to end, and waits until they have. Whoever is asked to end once more
    /// meanwhile waits no longer: they are killed, and one that the kernel does not let go yet is
    /// left to end when it does.
    pub fn end(&mut self) {
        // It fails for those that have ended already.
        let ask = |running: &Running, signal| {
            let _ = rustix::process::pidfd_send_signal(&running.pidfd, signal);
        };
        self.running.iter().for_each(|running| ask(running, Signal::TERM));
        while let Some(first) = self.running.first() {
            let mut fds = [
                PollFd::new(first.pidfd.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            ];
            let waited = poll(&mut fds, PollTimeout::NONE);
            let [ended, signalled] = fds.each_ref().map(|fd| fd.any().unwrap_or(true));
            if waited.is_ok() && signalled && self.signals.interruption().is_some() {
                self.running.drain(..).for_each(|running| ask(&running, Signal::KILL));
            } else if waited != Err(Errno::EINTR) && ended {
                let Running { number, child, report, words, began, .. } = self.running.remove(0);
                let _ = reap(number, child, report, words, began);
            }
        }
    }
}

impl Drop for Children<'_> {
    fn drop(&mut self) {
        self.end();
    }
}

fn reap(
    number: usize,
    mut child: Child,
    report: Option<JoinHandle<io::Result<Vec<u8>>>>,
    words: Option<JoinHandle<()>>,
    began: Instant,
) -> io::Result<Event> {
    let status = child.wait()?;
    if let Some(words) = words {
        let _ = words.join();
    }
    let report = match report.map(JoinHandle::join) {
        Some(Ok(report)) => report?,
        _ => Vec::new(),
    };
    Ok(Event::Ended { number, status, report, took: began.elapsed() })
}
