//! What a user namespace cannot do and the daemon does instead, by seccomp user notification:
//! device nodes, and owners beyond the id map.
//!
//! [`filter`] says which calls the kernel asks about, [`listener`] answers them, [`caller`] learns
//! of the process that waits, and [`resolve`] finds what its path means in the tree. A third
//! privilege, without subordinate ids, adds calls to the filter's table (the `set*id` and `stat`
//! families) and their answers to the listener.

mod caller;
mod filter;
mod listener;
mod resolve;

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

pub use listener::Supervisor;
pub use resolve::{Found, FoundKind, Supervised};

use super::error::{Doing, Step};
use super::privilege::Privilege;

/// Installs the filter in this process, and so in all that it starts; the listener's descriptor.
/// Nothing at a privilege where the kernel does all itself.
pub(super) fn install(privilege: &Privilege) -> Step<Option<OwnedFd>> {
    if !privilege.has_user_namespace() {
        return Ok(None);
    }
    let program = filter::build(privilege.max_uid(), privilege.max_gid());
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
    set(listener | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV)
        .or_else(|_| set(listener)) // before Linux 5.19
        .map(Some)
        .doing("installing the seccomp filter")
}
