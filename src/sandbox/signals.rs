//! The daemon's signals as events, so that it can shut a sandbox down in order.
//!
//! Invariants:
//! - while a [`Signals`] exists, none of its signals interrupts or ends the daemon: they stay
//!   pending until they are read;
//! - threads inherit the signal mask: created before other threads start, it applies to all of
//!   them, and FUSE is served until the sandbox has ended;
//! - a signal that was ignored when the daemon started (`nohup`) stays ignored.

use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::command::{Child, ExitStatus};
use super::error::{During, SandboxError};
use super::sys;

/// The signals that ask the daemon to end.
const ENDING_SIGNALS: [Signal; 4] =
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];

/// The daemon's signals, blocked and readable until this is dropped.
#[derive(Debug)]
pub struct Signals {
    fd: SignalFd,
    before: SigSet,
}

/// Why waiting for a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The command has ended.
    Exited(ExitStatus),
    /// This signal asked the daemon to end. The command still runs.
    Interrupted(i32),
    /// The terminal was closed. The command got SIGHUP, and time to end.
    HungUp,
}

impl Ended {
    /// Returns the daemon's exit code: the command's, or 128 plus the signal's number.
    pub fn shell_code(self) -> i32 {
        match self {
            Ended::Exited(status) => status.shell_code(),
            Ended::Interrupted(signal) => 128 + signal,
            Ended::HungUp => 128 + libc::SIGHUP,
        }
    }
}

impl Signals {
    /// Blocks SIGINT, SIGTERM, SIGHUP, SIGQUIT and SIGWINCH. Call it before any thread is started.
    ///
    /// # Errors
    /// Fails if a system call fails.
    pub fn take() -> Result<Self, SandboxError> {
        Signals::take_set(&[&ENDING_SIGNALS[..], &[Signal::SIGWINCH]].concat())
    }

    /// Blocks these signals, except ignored ones that would end the daemon. Call it before any
    /// thread is started.
    ///
    /// # Errors
    /// Fails if a system call fails.
    pub fn take_set(signals: &[Signal]) -> Result<Self, SandboxError> {
        let doing = "taking the signals";
        let mut set = SigSet::empty();
        for &signal in signals {
            if !ENDING_SIGNALS.contains(&signal) || !sys::is_ignored(signal as i32) {
                set.add(signal);
            }
        }
        let mut before = SigSet::empty();
        pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&set), Some(&mut before)).during(doing)?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let fd = SignalFd::with_flags(&set, flags).during(doing)?;
        Ok(Signals { fd, before })
    }

    /// Returns the next pending signal.
    pub fn next(&self) -> Option<Signal> {
        let info = self.fd.read_signal().ok().flatten()?;
        Signal::try_from(info.ssi_signo as i32).ok()
    }

    /// Ends this, but leaves SIGHUP blocked: a closed terminal may cause several.
    pub fn release_except_hangup(mut self) {
        self.before.add(Signal::SIGHUP);
    }

    /// Returns the next pending signal that asks the daemon to end; drops other signals.
    pub fn interruption(&self) -> Option<Signal> {
        std::iter::from_fn(|| self.next()).find(|signal| ENDING_SIGNALS.contains(signal))
    }

    /// Waits until the command ends or the daemon is asked to end.
    ///
    /// # Errors
    /// Fails if the sandbox ended before the command.
    pub fn wait(&self, child: &mut Child) -> Result<Ended, SandboxError> {
        loop {
            let mut fds = [
                PollFd::new(child.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.fd.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error).during("waiting for a command"),
            }
            let busy = |index: usize| fds[index].any().unwrap_or(true);
            let (exited, signalled) = (busy(0), busy(1));
            if exited {
                return child.wait().map(Ended::Exited);
            }
            if signalled && let Some(signal) = self.interruption() {
                return Ok(Ended::Interrupted(signal as i32));
            }
        }
    }
}

impl AsFd for Signals {
    /// Readable when a signal is pending.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        let _ = self.before.thread_set_mask();
    }
}
