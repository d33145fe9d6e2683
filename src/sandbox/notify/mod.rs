//! System calls that the kernel passes to the daemon, by seccomp user notification.
//!
//! At every privilege: `execve`, so that services do not start ([`services`], [`trace`]). In a user
//! namespace also the calls that fail there: making device nodes, and changing owners to ids beyond
//! the id map. With a single id all calls that read or change owners ([`owners`], [`attributes`])
//! and credentials, or that need a capability ([`identity`]).
//!
//! [`calls`] lists the calls, [`filter`] selects them, [`listener`] passes them to the module that
//! answers, [`caller`] reads the waiting process, and [`paths`] and [`resolve`] find the objects
//! that it names in the tree.

mod attributes;
mod caller;
mod calls;
mod credentials;
mod executions;
mod filter;
mod identity;
mod listener;
mod owners;
mod paths;
mod resolve;
mod services;
mod stat_buffer;
mod trace;
mod tree_mounts;

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

pub(crate) use credentials::{CAP_SETFCAP, CAP_SYS_ADMIN, CredentialTable, EXECUTE, READ, WRITE};
pub use listener::Supervisor;
pub use resolve::{Supervised, SupervisedAttributes, SupervisedInode, SupervisedKind};

use super::error::{Doing, StepResult};
use super::privilege::Privilege;
use filter::PassedCalls;

/// Installs the filter in this process and its descendants, and returns the listener.
///
/// Returns `None` as root inside another sandbox of overcoat: the kernel allows one listener for a
/// process and its ancestors, which is the outer sandbox's.
pub(super) fn install(privilege: &Privilege) -> StepResult<Option<OwnedFd>> {
    if *privilege == Privilege::None {
        credentials::carry_root().doing("setting the limit of locks")?;
    }
    let program = filter::build(match privilege {
        Privilege::Root if privilege.is_root_without_devices() => {
            PassedCalls::BeyondMap { uid: privilege.max_uid(), gid: privilege.max_gid() }
        }
        Privilege::Root => PassedCalls::Executions,
        Privilege::Subordinate { .. } => {
            PassedCalls::BeyondMap { uid: privilege.max_uid(), gid: privilege.max_gid() }
        }
        Privilege::None => PassedCalls::All,
    });
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
