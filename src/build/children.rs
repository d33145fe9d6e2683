//! The processes that build images, one per image.
//!
//! Invariants:
//! - No child outlives this process: each ends in an orderly way when its parent exits.
//! - Messages of the children are passed on line by line, their reports as a whole.

use std::io::{self, BufRead, BufReader};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::process::{PidfdFlags, Signal};
use serde_json::Value;

use crate::sandbox::{Signals, end_with_parent};

/// A callback for a child that runs beside others: its number, and what it printed.
pub type Listener = Arc<dyn Fn(usize, ChildOutput<'_>) + Send + Sync>;

/// The output of a child that runs beside others.
#[derive(Debug, Clone, Copy)]
pub enum ChildOutput<'a> {
    /// A message: a line of standard error without the line feed.
    Message(&'a str),
    /// The title of the step that it runs now.
    Step(&'a str),
}

/// Key of the lines on standard output with which a child reports its current step. They are not
/// part of its report.
pub const STEP_KEY: &str = "step";

/// The running children.
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
    messages: Option<JoinHandle<()>>,
    began: Instant,
}

/// An event in [`Children::wait`].
#[derive(Debug)]
pub enum ChildEvent {
    /// A child exited.
    Ended {
        /// The number of the child.
        number: usize,
        /// Its exit status.
        status: ExitStatus,
        /// Its standard output.
        report: Vec<u8>,
        /// Its run time.
        took: Duration,
    },
    /// This process received the signal. All children were terminated and have exited.
    Interrupted(i32),
}

impl<'a> Children<'a> {
    /// Creates an empty set. `listener` receives the messages of the children.
    pub fn new(signals: &'a Signals, listener: Listener) -> Self {
        Children { running: Vec::new(), signals, listener }
    }

    /// Returns the number of running children.
    pub fn len(&self) -> usize {
        self.running.len()
    }

    /// Whether no child is running.
    pub fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// Starts a child. If it is `alone`, it uses the terminal; otherwise its messages are passed to
    /// the listener.
    ///
    /// # Errors
    /// Fails if the process cannot be started.
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
        let listener = self.listener.clone();
        let report = child.stdout.take().map(|stdout| {
            std::thread::spawn(move || {
                let (mut lines, mut report) = (BufReader::new(stdout), Vec::new());
                loop {
                    let start = report.len();
                    if lines.read_until(b'\n', &mut report)? == 0 {
                        return Ok(report);
                    }
                    if let Some(step) = step_of(&report[start..]) {
                        report.truncate(start);
                        if !alone {
                            listener(number, ChildOutput::Step(&step));
                        }
                    }
                }
            })
        });
        let listener = self.listener.clone();
        let messages = child.stderr.take().map(|stderr| {
            std::thread::spawn(move || {
                let mut lines = BufReader::new(stderr);
                let mut line = Vec::new();
                while lines.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                    let text = String::from_utf8_lossy(&line);
                    listener(number, ChildOutput::Message(text.trim_end_matches('\n')));
                    line.clear();
                }
            })
        });
        let began = Instant::now();
        self.running.push(Running { number, child, pidfd, report, messages, began });
        Ok(())
    }

    /// Waits until a child exits or this process is signalled. At least one child must be running.
    ///
    /// # Errors
    /// Fails if a system call fails.
    pub fn wait(&mut self) -> io::Result<ChildEvent> {
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
                return Ok(ChildEvent::Interrupted(signal as i32));
            }
            if let Some(at) = ended {
                let Running { number, child, report, messages, began, .. } =
                    self.running.remove(at);
                return reap(number, child, report, messages, began);
            }
        }
    }

    /// Terminates all children and waits until they have exited. If this process is signalled again
    /// meanwhile, the children are killed and not waited for: a child in an uninterruptible system
    /// call exits when that returns.
    pub fn end(&mut self) {
        // This fails for children that have exited already.
        let send = |running: &Running, signal| {
            let _ = rustix::process::pidfd_send_signal(&running.pidfd, signal);
        };
        self.running.iter().for_each(|running| send(running, Signal::TERM));
        while let Some(first) = self.running.first() {
            let mut fds = [
                PollFd::new(first.pidfd.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            ];
            let waited = poll(&mut fds, PollTimeout::NONE);
            let [ended, signalled] = fds.each_ref().map(|fd| fd.any().unwrap_or(true));
            if waited.is_ok() && signalled && self.signals.interruption().is_some() {
                self.running.drain(..).for_each(|running| send(&running, Signal::KILL));
            } else if waited != Err(Errno::EINTR) && ended {
                let Running { number, child, report, messages, began, .. } = self.running.remove(0);
                let _ = reap(number, child, report, messages, began);
            }
        }
    }
}

impl Drop for Children<'_> {
    fn drop(&mut self) {
        self.end();
    }
}

/// Returns the step that a line of a child's standard output reports, if it does.
fn step_of(line: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(line).ok()?;
    Some(value.as_object().filter(|object| object.len() == 1)?.get(STEP_KEY)?.as_str()?.to_owned())
}

fn reap(
    number: usize,
    mut child: Child,
    report: Option<JoinHandle<io::Result<Vec<u8>>>>,
    messages: Option<JoinHandle<()>>,
    began: Instant,
) -> io::Result<ChildEvent> {
    let status = child.wait()?;
    if let Some(messages) = messages {
        let _ = messages.join();
    }
    let report = match report.map(JoinHandle::join) {
        Some(Ok(report)) => report?,
        _ => Vec::new(),
    };
    Ok(ChildEvent::Ended { number, status, report, took: began.elapsed() })
}
