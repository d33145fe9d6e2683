//! A pseudo terminal inside, relayed to the daemon's terminal, for interactive commands.
//!
//! The pseudo terminal is in the sandbox's own devpts, so its name is valid inside. It controls the
//! command's session, so job control works. The daemon's terminal is raw meanwhile: keys like
//! Ctrl-C are sent as bytes to the terminal inside, which turns them into signals.
//!
//! Invariants:
//! - the daemon's terminal is restored when [`relay`] returns or unwinds; signals that would end
//!   the daemon are events here (see [`Signals`]);
//! - when the daemon's terminal is closed, the terminal inside is closed, too, and its session gets
//!   SIGHUP from the kernel;
//! - only `poll` blocks: input is read only when there is room for it, and output is written in
//!   chunks that a terminal accepts at once.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::{read, write};

use super::command::{Child, CommandSpec, ExitStatus, Session, Stdio};
use super::error::{During, SandboxError};
use super::signals::{Ended, Signals};
use super::{Sandbox, sys};

/// A pseudo terminal in a sandbox.
#[derive(Debug)]
pub(crate) struct Pty {
    /// The end that the terminal emulator uses.
    pub master: OwnedFd,
    /// The command's end: its standard input, output and error.
    pub slave: OwnedFd,
}

impl Pty {}

/// Runs a command on a terminal inside, relayed to the daemon's standard input and output, until
/// the command ends or the daemon is asked to end. The standard streams and the session in `spec`
/// are replaced.
///
/// # Errors
/// Fails if standard input is not a terminal, or the command cannot be started.
pub fn relay(
    sandbox: &Sandbox,
    mut spec: CommandSpec,
    signals: &Signals,
) -> Result<Ended, SandboxError> {
    let doing = "setting up the terminal";
    let (stdin, stdout) = (io::stdin(), io::stdout());
    let own = tcgetattr(&stdin).map_err(|_| {
        SandboxError::Invalid(
            "standard input is not a terminal: an interactive command requires one".to_owned(),
        )
    })?;
    let Pty { master, slave } = sandbox.open_pty()?;
    copy_size(stdin.as_fd(), master.as_fd());
    spec.session = Session::Terminal;
    spec.stdin = Stdio::Fd(slave.try_clone().during(doing)?);
    spec.stdout = Stdio::Fd(slave.try_clone().during(doing)?);
    spec.stderr = Stdio::Fd(slave);
    let mut child = sandbox.spawn(&spec)?;
    drop(spec);

    let raw = RawTerminal::new(stdin.as_fd(), own).during(doing)?;
    let flags = OFlag::from_bits_retain(fcntl(&master, FcntlArg::F_GETFL).during(doing)?);
    fcntl(&master, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).during(doing)?;
    let mut relay = Relay {
        master: master.as_fd(),
        input: Stream::new(stdin.as_fd()),
        output: Stream::new(stdout.as_fd()),
        signals,
    };
    let ended = relay.run(&mut child);
    drop(raw);
    drop(master);
    match ended? {
        Ended::HungUp => wait_after_hangup(&mut child, signals),
        ended => Ok(ended),
    }
}

/// Time for the command to end after its terminal was closed: an editor saves its buffers, and a
/// shell runs its trap.
const HANGUP_LIMIT: Duration = Duration::from_secs(5);

/// Waits for the end of a command whose terminal was closed.
fn wait_after_hangup(child: &mut Child, signals: &Signals) -> Result<Ended, SandboxError> {
    let until = Instant::now() + HANGUP_LIMIT;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let mut fds = [
            PollFd::new(child.as_fd(), PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO)) {
            Ok(0) => return Ok(Ended::HungUp),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).during("waiting for a command"),
        }
        let exited = fds[0].any().unwrap_or(true);
        while let Some(signal) = signals.next() {
            if !matches!(signal, Signal::SIGHUP | Signal::SIGWINCH) {
                return Ok(Ended::Interrupted(signal as i32));
            }
        }
        if exited {
            child.wait()?;
            return Ok(Ended::HungUp);
        }
    }
}

fn copy_size(from: BorrowedFd<'_>, to: BorrowedFd<'_>) {
    if let Ok(size) = sys::window_size(from) {
        let _ = sys::set_window_size(to, &size);
    }
}

/// The daemon's terminal in raw mode, restored on drop.
struct RawTerminal<'a> {
    terminal: BorrowedFd<'a>,
    before: Termios,
}

impl<'a> RawTerminal<'a> {
    fn new(terminal: BorrowedFd<'a>, before: Termios) -> nix::Result<Self> {
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        // Made first, so that a failed change is undone.
        let guard = RawTerminal { terminal, before };
        tcsetattr(terminal, SetArg::TCSADRAIN, &raw)?;
        Ok(guard)
    }
}

impl Drop for RawTerminal<'_> {
    fn drop(&mut self) {
        let _ = tcsetattr(self.terminal, SetArg::TCSADRAIN, &self.before);
    }
}

/// One direction of the relay: the descriptor outside, and the bytes not yet written.
struct Stream<'a> {
    outside: BorrowedFd<'a>,
    waiting: Vec<u8>,
    open: bool,
}

impl<'a> Stream<'a> {
    fn new(outside: BorrowedFd<'a>) -> Self {
        Stream { outside, waiting: Vec::new(), open: true }
    }

    /// Reads the available bytes; end of file closes the stream.
    fn fill(&mut self, from: BorrowedFd<'_>) {
        let mut buffer = [0; 8192];
        match read(from, &mut buffer) {
            Ok(0) => self.open = false,
            Ok(length) => self.waiting.extend_from_slice(&buffer[..length]),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(_) => self.open = false,
        }
    }

    /// Writes at most `limit` of the waiting bytes. A closed destination discards them all.
    fn drain(&mut self, to: BorrowedFd<'_>, limit: usize) {
        let length = self.waiting.len().min(limit);
        match write(to, &self.waiting[..length]) {
            Ok(written) => drop(self.waiting.drain(..written)),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(_) => self.waiting.clear(),
        }
    }
}

/// Bytes that a terminal reported as writable accepts without blocking.
const MAX_WRITE_BYTES: usize = 256;

struct Relay<'a> {
    master: BorrowedFd<'a>,
    input: Stream<'a>,
    output: Stream<'a>,
    signals: &'a Signals,
}

impl Relay<'_> {
    fn run(&mut self, child: &mut Child) -> Result<Ended, SandboxError> {
        let mut status: Option<ExitStatus> = None;
        loop {
            // The command's last output is still in the terminal when the command has ended.
            if let Some(status) = status
                && self.output.waiting.is_empty()
                && !self.more_output()
            {
                return Ok(Ended::Exited(status));
            }
            let ready = self.wait(child, status.is_none())?;
            if ready.signal {
                while let Some(signal) = self.signals.next() {
                    match signal {
                        Signal::SIGWINCH => copy_size(self.input.outside, self.master),
                        Signal::SIGHUP => return Ok(Ended::HungUp),
                        signal => return Ok(Ended::Interrupted(signal as i32)),
                    }
                }
            }
            if ready.input {
                self.input.fill(self.input.outside);
                // A raw terminal has no key for the end of its input.
                if !self.input.open {
                    return Ok(Ended::HungUp);
                }
            }
            if ready.master_writable && !self.input.waiting.is_empty() {
                self.input.drain(self.master, usize::MAX);
            }
            if ready.master_readable {
                self.output.fill(self.master);
            }
            if ready.output {
                self.output.drain(self.output.outside, MAX_WRITE_BYTES);
            }
            if ready.exited && status.is_none() {
                status = Some(child.wait()?);
            }
        }
    }

    /// Whether the terminal inside has unread output.
    fn more_output(&mut self) -> bool {
        if self.output.open {
            let mut fds = [PollFd::new(self.master, PollFlags::POLLIN)];
            let ready = poll(&mut fds, PollTimeout::ZERO).is_ok_and(|count| count > 0);
            if ready && fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLIN)) {
                self.output.fill(self.master);
            }
        }
        !self.output.waiting.is_empty()
    }

    fn wait(&self, child: &Child, running: bool) -> Result<Ready, SandboxError> {
        let none = PollFlags::empty();
        let when = |condition: bool, events: PollFlags| if condition { events } else { none };
        let read_input = running && self.input.open && self.input.waiting.is_empty();
        let write_output = !self.output.waiting.is_empty();
        let read_master = self.output.open && !write_output;
        let master = when(read_master, PollFlags::POLLIN)
            | when(!self.input.waiting.is_empty(), PollFlags::POLLOUT);
        // A descriptor polled without events would still report a hangup, again and again.
        let watched = [
            Some((self.signals.as_fd(), PollFlags::POLLIN)),
            running.then(|| (child.as_fd(), PollFlags::POLLIN)),
            read_input.then_some((self.input.outside, PollFlags::POLLIN)),
            write_output.then_some((self.output.outside, PollFlags::POLLOUT)),
            (!master.is_empty() && self.output.open).then_some((self.master, master)),
        ];
        let mut fds: Vec<PollFd<'_>> =
            watched.iter().flatten().map(|(fd, events)| PollFd::new(*fd, *events)).collect();
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).during("relaying the terminal"),
        }
        let mut results = fds.iter().map(|fd| fd.revents().unwrap_or(none));
        let mut events = watched.map(|watched| match watched {
            Some(_) => results.next().unwrap_or(none),
            None => none,
        });
        let ended = PollFlags::POLLHUP | PollFlags::POLLERR;
        if events[4].intersects(ended) {
            events[4] |= PollFlags::POLLIN;
        }
        Ok(Ready {
            signal: !events[0].is_empty(),
            exited: !events[1].is_empty(),
            input: !events[2].is_empty(),
            output: !events[3].is_empty(),
            master_readable: read_master && events[4].contains(PollFlags::POLLIN),
            master_writable: events[4].contains(PollFlags::POLLOUT),
        })
    }
}

#[derive(Debug, Clone, Copy)]
struct Ready {
    signal: bool,
    exited: bool,
    input: bool,
    output: bool,
    master_readable: bool,
    master_writable: bool,
}
