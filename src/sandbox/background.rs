//! Forking a single-threaded process, and messages between processes.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::sys;

/// The side of a fork that [`fork_process`] returns on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ForkSide {
    /// The child.
    Child,
    /// The parent.
    Parent,
}

/// Forks this process. Both processes continue from here, each with its own copy of the descriptors
/// and the memory.
///
/// # Errors
/// Fails if this process has other threads, which the copy would lack, or when the fork fails.
pub(crate) fn fork_process() -> io::Result<ForkSide> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("cannot fork a process that has threads"));
    }
    // SAFETY: there is no other thread, so no lock is held in the child, and every owner of a
    // descriptor in it owns the child's copy of that descriptor: it may return.
    match unsafe { sys::fork() }? {
        sys::Forked::Child => Ok(ForkSide::Child),
        sys::Forked::Parent(_) => Ok(ForkSide::Parent),
    }
}

/// Sends `bytes` over a socket, with an optional descriptor.
///
/// # Errors
/// Returns the error of `sendmsg(2)`.
pub(crate) fn send_message(
    socket: &impl AsFd,
    bytes: &[u8],
    fd: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    sys::send(socket.as_fd(), bytes, fd.as_slice())
}

/// Receives up to 4 KiB and descriptors over a socket; empty when the peer has closed.
///
/// # Errors
/// Returns the error of `recvmsg(2)`.
pub(crate) fn receive_message(socket: &impl AsFd) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    sys::receive(socket.as_fd()).map(|received| (received.bytes, received.fds))
}

/// Makes `command` get SIGTERM when this thread ends, and unblocks the signals that this thread
/// blocks.
pub(crate) fn end_with_parent(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;
    let parent = std::process::id();
    let prepare = move || {
        nix::sys::signal::SigSet::empty().thread_set_mask()?;
        nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGTERM)?;
        // The parent may have ended before the death signal was set.
        if nix::unistd::getppid().as_raw() as u32 != parent {
            return Err(io::Error::other("the parent has ended"));
        }
        Ok(())
    };
    // SAFETY: the closure makes system calls only, and allocates nothing unless it fails.
    unsafe { command.pre_exec(prepare) };
}
