//! A terminal inside, relayed to the daemon's own: what an interactive command needs.
//!
//! The command gets a pseudo terminal of the sandbox's own devpts, so its name is right inside,
//! and a session that it controls, so job control works. The daemon's terminal is raw meanwhile:
//! keys like Ctrl-C are bytes for the terminal inside, which makes signals of them there.
//!
//! Invariants:
//! - the daemon's terminal is as it was when [`relay`] returns or unwinds, whatever ended it; the
//!   signals that would end the daemon are events here (see [`Signals`]);
//! - nothing blocks but `poll`: input is only read when there is room for it, and output is
//!   written in pieces that a terminal takes at once.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

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

/// A pseudo terminal of a sandbox.
#[derive(Debug)]
pub struct Pty {
    /// The end of whoever plays the terminal.
    pub master: OwnedFd,
    /// The end of the command: its standard input, output and error.
    pub slave: OwnedFd,
}

impl Pty {
    /// Sets its size, in characters.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_size(&self, rows: u16, columns: u16) -> io::Result<()> {
        let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        sys::set_window_size(self.master.as_fd(), &size)
    }
}

/// Runs a command on a terminal inside, relayed to the daemon's standard input and output, until
/// it ends or the daemon is asked to end. The standard streams and the session of `spec` are
/// replaced.
///
/// # Errors
/// When standard input is no terminal, or the command cannot be started.
pub fn relay(
    sandbox: &Sandbox,
    mut spec: CommandSpec,
    signals: &Signals,
) -> Result<Ended, SandboxError> {
    let doing = "setting up the terminal";
    let (stdin, stdout) = (io::stdin(), io::stdout());
    let own = tcgetattr(&stdin).map_err(|_| {
        SandboxError::Invalid(
            "standard input is not a terminal: an interactive command needs one".to_owned(),
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
    ended
}

fn copy_size(from: BorrowedFd<'_>, to: BorrowedFd<'_>) {
    if let Ok(size) = sys::window_size(from) {
        let _ = sys::set_window_size(to, &size);
    }
}

/// The daemon's terminal in raw mode, until this is dropped.
struct RawTerminal<'a> {
    terminal: BorrowedFd<'a>,
    before: Termios,
}

impl<'a> RawTerminal<'a> {
    fn new(terminal: BorrowedFd<'a>, before: Termios) -> nix::Result<Self> {
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        // Made first: what is half done is undone.
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

/// One direction: where it comes from or goes to outside, and what is on its way.
struct Stream<'a> {
    outside: BorrowedFd<'a>,
    waiting: Vec<u8>,
    open: bool,
}

impl<'a> Stream<'a> {
    fn new(outside: BorrowedFd<'a>) -> Self {
        Stream { outside, waiting: Vec::new(), open: true }
    }

    /// Reads what there is; the end of it closes the stream.
    fn fill(&mut self, from: BorrowedFd<'_>) {
        let mut buffer = [0; 8192];
        match read(from, &mut buffer) {
            Ok(0) => self.open = false,
            Ok(length) => self.waiting.extend_from_slice(&buffer[..length]),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(_) => self.open = false,
        }
    }

    /// Writes at most `limit` bytes of what waits; a destination that is gone takes all.
    fn drain(&mut self, to: BorrowedFd<'_>, limit: usize) {
        let length = self.waiting.len().min(limit);
        match write(to, &self.waiting[..length]) {
            Ok(written) => drop(self.waiting.drain(..written)),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(_) => self.waiting.clear(),
        }
    }
}

/// What a terminal that reports room surely takes without blocking.
const PIECE: usize = 256;

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
            // What the command wrote last is still in the terminal when it has ended.
            if let Some(status) = status
                && self.output.waiting.is_empty()
                && !self.more_output()
            {
                return Ok(Ended::Exited(status));
            }
            let ready = self.wait(child, status.is_none())?;
            if ready.signal {
                while let Some(signal) = self.signals.next() {
                    if signal == Signal::SIGWINCH {
                        copy_size(self.input.outside, self.master);
                    } else {
                        return Ok(Ended::Interrupted(signal as i32));
                    }
                }
            }
            if ready.input {
                self.input.fill(self.input.outside);
            }
            if ready.master_takes && !self.input.waiting.is_empty() {
                self.input.drain(self.master, usize::MAX);
            }
            if ready.master_has {
                self.output.fill(self.master);
            }
            if ready.output {
                self.output.drain(self.output.outside, PIECE);
            }
            if ready.exited && status.is_none() {
                status = Some(child.wait()?);
            }
        }
    }

    /// Whether the terminal inside has output that was not read yet.
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
        // A descriptor that nothing is asked of would still report its end, again and again.
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
            master_has: read_master && events[4].contains(PollFlags::POLLIN),
            master_takes: events[4].contains(PollFlags::POLLOUT),
        })
    }
}

#[derive(Debug, Clone, Copy)]
struct Ready {
    signal: bool,
    exited: bool,
    input: bool,
    output: bool,
    master_has: bool,
    master_takes: bool,
}
