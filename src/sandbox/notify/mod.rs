//! System calls that the kernel passes to the daemon, by seccomp user notification.
//!
//! At every privilege: `execve`, so that services do not start ([`services`], [`trace`]). In a user
//! namespace also the calls that fail there: making device nodes, and changing owners to ids beyond
//! the id map.
//!
//! [`filter`] selects the calls, [`listener`] answers them, [`caller`] reads the waiting process,
//! and [`resolve`] resolves its paths in the tree. A third privilege, without subordinate ids,
//! would add calls to the filter's table (the `set*id` and `stat` families) and their answers to
//! the listener.

mod caller;
mod filter;
mod listener;
mod resolve;
mod services;
mod trace;

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

pub use listener::Supervisor;
pub use resolve::{Supervised, SupervisedInode, SupervisedKind};

use super::error::{Doing, StepResult};
use super::privilege::Privilege;
use filter::MaxIds;

/// Installs the filter in this process and its descendants, and returns the listener.
///
/// Returns `None` as root inside another sandbox of overcoat: the kernel allows one listener for a
/// process and its ancestors, which is the outer sandbox's.
pub(super) fn install(privilege: &Privilege) -> StepResult<Option<OwnedFd>> {
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
    let killable = libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV; // since Linux 5.19
    let installed = set(listener | killable).or_else(|_| set(listener));
    match installed {
        Err(error)
            if error.raw_os_error() == Some(libc::EBUSY) && !privilege.has_user_namespace() =>
        {
            Ok(None)
        }
        installed => installed.map(Some).doing("installing the seccomp filter"),
    }
}
