//! Checks of the features that a sandbox requires, one at a time, to report which one fails.
//!
//! Invariants: nothing is left behind; everything is made in a child process that ends before the
//! function returns. Call these before starting threads, like [`super::Sandbox::fork`].

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;

use super::error::{Doing, SandboxError, StepFailure, StepResult};
use super::privilege::{self, ID_MAP_PROGRAMS, IdMap};
use super::requirement::MissingRequirement;
use super::sys::{self, Forked};
use super::{During, StageProcess, receive, wire};

/// Opens `/dev/fuse`.
///
/// # Errors
/// Returns why it cannot be opened.
pub(crate) fn fuse_device() -> Result<(), SandboxError> {
    privilege::open_fuse_device().map(drop)
}

/// Checks that this root has the capability that a sandbox requires.
///
/// # Errors
/// Returns [`SandboxError::RootWithoutCapabilities`].
pub(crate) fn root() -> Result<(), SandboxError> {
    privilege::check_root()
}

/// Makes a user namespace, and mounts in it.
///
/// # Errors
/// Returns the setting that forbids it, or the system call that failed.
pub(crate) fn user_namespace() -> Result<(), SandboxError> {
    privilege::user_namespaces_are_on()?;
    try_namespace(None).map_err(|error| match error {
        // AppArmor allows making a user namespace, but restricts what can be done in it.
        SandboxError::Setup { source, .. }
            if privilege::apparmor_restricts()
                && matches!(source.raw_os_error(), Some(libc::EPERM | libc::EACCES)) =>
        {
            MissingRequirement::apparmor().into()
        }
        error => error,
    })
}

/// Returns the user and group id maps of a user namespace of the calling user: 0, and the user's
/// subordinate ids.
///
/// # Errors
/// Fails if the user has no subordinate ids.
pub(crate) fn subordinate_ids() -> Result<(IdMap, IdMap), SandboxError> {
    Ok(privilege::subordinate_id_maps()?)
}

/// Checks that the programs that write id maps are installed.
///
/// # Errors
/// Returns the first missing program.
pub(crate) fn mappers() -> Result<(), SandboxError> {
    ID_MAP_PROGRAMS
        .into_iter()
        .try_for_each(|program| privilege::id_map_program(program).map(drop))?;
    Ok(())
}

/// Makes a user namespace with these ids, and becomes root in it.
///
/// # Errors
/// Returns the step that failed, or the missing requirement.
pub(crate) fn map_ids(uids: &IdMap, gids: &IdMap) -> Result<(), SandboxError> {
    mappers()?;
    try_namespace(Some((uids, gids))).map_err(|error| match error {
        SandboxError::IdMap { program, message } => privilege::missing_rights(program)
            .map_or(SandboxError::IdMap { program, message }, Into::into),
        error => error,
    })
}

/// Whether executing a program can gain privileges, which `newuidmap` and `fusermount3` require.
pub(crate) fn may_gain_privileges() -> bool {
    privilege::may_gain_privileges()
}

/// Whether the kernel supports seccomp user notification.
pub(crate) fn seccomp_notification() -> bool {
    let action = libc::SECCOMP_RET_USER_NOTIF;
    // SAFETY: the kernel reads the action, which outlives the call.
    let available = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action)
    };
    available == 0
}

/// Whether the kernel has the newest system call that a sandbox requires (`mount_setattr`, Linux
/// 5.12).
pub(crate) fn is_new_enough() -> bool {
    let Ok(root) = fs::File::open("/") else { return false };
    // This changes nothing. Only a kernel without the call returns ENOSYS.
    sys::set_mount_attributes(root.as_fd(), 0)
        .err()
        .is_none_or(|error| error.raw_os_error() != Some(libc::ENOSYS))
}

/// Whether something is mounted below `/proc`, as in containers, which mask parts of it. The kernel
/// then refuses new mounts of `/proc`.
pub(crate) fn proc_is_masked() -> bool {
    let info = fs::read("/proc/self/mountinfo").unwrap_or_default();
    // systemd's automount there masks nothing.
    let harmless = |point: &[u8]| point == b"/proc/sys/fs/binfmt_misc";
    super::mountinfo::lines(&info)
        .any(|line| line.point.starts_with(b"/proc/") && !harmless(&line.point))
}

/// Whether this process runs in a container, by the known marks.
pub(crate) fn is_container() -> bool {
    ["/.dockerenv", "/run/.containerenv"].iter().any(|file| Path::new(file).exists())
        || std::env::var_os("container").is_some()
}

fn try_namespace(ids: Option<(&IdMap, &IdMap)>) -> Result<(), SandboxError> {
    let (ours, theirs) = sys::message_pair().during("creating a socket")?;
    let daemon = std::process::id() as libc::pid_t;
    // SAFETY: the child ends in `exit_now`.
    let pid = match unsafe { sys::fork() }.during("forking")? {
        Forked::Child => {
            if let Err(failure) = run_child(&theirs, ids.is_some(), daemon) {
                let _ = sys::send(theirs.as_fd(), &wire::failure_message(&failure), &[]);
            }
            sys::exit_now(0)
        }
        Forked::Parent(pid) => pid,
    };
    drop(theirs);
    let _child = StageProcess { pid, waited: false };
    receive(ours.as_fd(), wire::UNSHARED, true)?;
    if let Some((uids, gids)) = ids {
        privilege::write_id_maps(pid, uids, gids)?;
        sys::send(ours.as_fd(), &[wire::MAPPED], &[]).during("sending the id maps")?;
    }
    receive(ours.as_fd(), wire::READY, true).map(drop)
}

/// Runs the child: the same steps as the stage.
fn run_child(control: &OwnedFd, mapped: bool, daemon: libc::pid_t) -> StepResult<()> {
    let control = control.as_fd();
    sys::close_all_but(&[control]).doing("closing files")?;
    let flags = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS;
    unshare(flags | CloneFlags::CLONE_NEWUSER).doing("creating the user namespace")?;
    sys::send(control, &[wire::UNSHARED], &[]).doing("requesting the id maps")?;
    if mapped {
        let message = sys::receive(control).doing("waiting for the id maps")?;
        if message.bytes != [wire::MAPPED] {
            let doing = "waiting for the id maps".to_owned();
            return Err(StepFailure { doing, errno: libc::EPROTO });
        }
        super::stage::become_root()?;
    }
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).doing("setting the death signal")?;
    if sys::parent_pid() != daemon {
        sys::exit_now(1);
    }
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
        .doing("making the mounts private")?;
    sys::send(control, &[wire::READY], &[]).doing("reporting success")
}

/// Mounts as `overcoat mount` does, on a new temporary directory, and unmounts.
///
/// # Errors
/// Returns the step that failed.
pub(crate) fn host_mount() -> Result<(), SandboxError> {
    // A mount left by an interruption would stay.
    let _signals = super::Signals::take()?;
    let place = std::env::temp_dir();
    let dir = place.join(format!("overcoat-doctor.{}", std::process::id()));
    fs::create_dir(&dir).map_err(|error| SandboxError::Mount {
        message: format!("cannot make a directory there ({error})"),
        dir: place,
        hint: Some("set TMPDIR to another one"),
    })?;
    let options = super::MountOptions { read_only: true, ..super::MountOptions::default() };
    let mounted = super::HostMount::new(&dir, &options).and_then(|mount| {
        // Nothing serves the mount. Closing the descriptor ends it, so no process waits for it.
        drop(mount);
        super::unmount(&dir, true)
    });
    let removed = fs::remove_dir(&dir);
    mounted?;
    removed.during("removing the directory that was mounted on")
}
