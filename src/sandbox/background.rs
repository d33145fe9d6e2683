//! Going on in a process of its own, and the messages that other processes send to it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::sys;

/// Which of the two processes this is after [`split`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    /// The new one.
    New,
    /// The one that was there.
    Old,
}

/// Makes a copy of this process. Both go on from here with the same descriptors, files and memory,
/// each with its own.
///
/// # Errors
/// When this process has other threads, which the copy would not have, or the system refuses.
pub fn split() -> io::Result<Half> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("a process with threads cannot be split"));
    }
    // SAFETY: there is no other thread, so nothing is locked in the child and every owner of a
    // descriptor in it is the only one of the child's own descriptor: it may return.
    match unsafe { sys::fork() }? {
        sys::Forked::Child => Ok(Half::New),
        sys::Forked::Parent(_) => Ok(Half::Old),
    }
}

/// Sends `bytes` over a socket, with a descriptor beside them.
///
/// # Errors
/// Those of the system.
pub fn send_message(
    socket: &impl AsFd,
    bytes: &[u8],
    fd: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    sys::send(socket.as_fd(), bytes, fd.as_slice())
}

/// Receives up to 4 KiB over a socket, with the descriptors beside them; nothing when the peer has
/// closed.
///
/// # Errors
/// Those of the system.
pub fn receive_message(socket: &impl AsFd) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    sys::receive(socket.as_fd()).map(|received| (received.bytes, received.fds))
}

/// Makes `command` one that is asked to end (SIGTERM) when this thread does, and that hears the
/// signals that this thread has taken.
pub fn end_with_parent(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;
    let parent = std::process::id();
    let prepare = move || {
        nix::sys::signal::SigSet::empty().thread_set_mask()?;
        nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGTERM)?;
        // It may have ended before it was said what is to happen then.
        if nix::unistd::getppid().as_raw() as u32 != parent {
            return Err(io::Error::other("the parent has ended"));
        }
        Ok(())
    };
    // SAFETY: the closure makes system calls only, and allocates nothing unless it fails.
    unsafe { command.pre_exec(prepare) };
}
