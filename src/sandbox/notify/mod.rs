//! Calls that the kernel asks the daemon about, by seccomp user notification.
//!
//! At every privilege: `execve`, so that services do not start ([`services`], [`trace`]). In a user
//! namespace also what that cannot do itself: device nodes, and owners beyond the id map.
//!
//! [`filter`] has the calls, [`listener`] answers them, [`caller`] reads the waiting process, and
//! [`resolve`] finds in the tree what its path names. A third privilege, without subordinate ids,
//! adds calls to the filter's table (the `set*id` and `stat` families) and their answers to the
//! listener.

mod caller;
mod filter;
mod listener;
mod resolve;
mod services;
mod trace;

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

pub use listener::Supervisor;
pub use resolve::{Found, FoundKind, Supervised};

use super::error::{Doing, Step};
use super::privilege::Privilege;
use filter::MaxIds;

/// Installs the filter in this process and in all that it starts; returns the listener.
///
/// Returns `None` as root inside another sandbox of overcoat: the kernel allows one listener for a
/// process and its ancestors, and the outer sandbox has it.
pub(super) fn install(privilege: &Privilege) -> Step<Option<OwnedFd>> {
    let max = MaxIds { uid: privilege.max_uid(), gid: privilege.max_gid() };
    let program = filter::build(privilege.has_user_namespace().then_some(max));
    let program =
        libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
    let set = |flags: libc::c_ulong| {
        // SAFETY: `program` describes a filter that outlives the call; the kernel copies it.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                flags,
                &raw const program,
            )
        };
        if fd < 0 {
            return Err(std::io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor, close-on-exec, for us.
        Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
    };
    let listener = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    let installed =
        set(listener | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV).or_else(|_| set(listener)); // before Linux 5.19
    match installed {
        Err(error)
            if error.raw_os_error() == Some(libc::EBUSY) && !privilege.has_user_namespace() =>
        {
            Ok(None)
        }
        installed => installed.map(Some).doing("installing the seccomp filter"),
    }
}
