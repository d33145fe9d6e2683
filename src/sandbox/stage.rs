//! The stage: the process between the daemon and pid 1.
//!
//! It makes the namespaces, mounts the root, waits until the daemon serves it, mounts the rest,
//! starts pid 1 in a new pid namespace and then waits for it. It is a forked copy of the daemon
//! that never executes another program. It stays outside the pid namespace, so that the process ids
//! in FUSE requests are the host's.
//!
//! Invariants:
//! - it never returns to the daemon's code and runs none of its destructors;
//! - it holds no descriptor of the daemon except its control socket, the list of loop devices, the
//!   standard streams, and the FUSE descriptor until that is sent: a copy here would keep the mount
//!   from ending;
//! - it dies with the daemon: by end-of-file on the control socket until the death signal is set,
//!   then by that signal. The kernel sends it when the *thread* that forked ends.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

use super::error::{Doing, StepFailure, StepResult};
use super::loop_devices::LoopFiles;
use super::mounts::HostTrees;
use super::plan::{Network, Plan};
use super::privilege::{self, CAP_NET_ADMIN, Privilege};
use super::sys::{self, Forked};
use super::{init, wire};

/// Directories to mount the root on; the first that exists is used. Only the sandbox's own mount
/// namespaces see that mount. Commands outside need the first ones least.
const ROOT_MOUNT_DIRS: [&str; 6] = ["/boot", "/media", "/mnt", "/srv", "/tmp", "/run"];

/// Runs the stage. `daemon` is the daemon's process id.
pub(super) fn run(plan: &Plan, control: &OwnedFd, loops: &LoopFiles, daemon: libc::pid_t) -> ! {
    let result = std::panic::catch_unwind(|| stage(plan, control, loops, daemon));
    let failure = match result {
        Ok(Ok(code)) => sys::exit_now(code),
        Ok(Err(failure)) => failure,
        Err(_) => StepFailure { doing: "panicking".to_owned(), errno: libc::EFAULT },
    };
    let _ = sys::send(control.as_fd(), &wire::failure_message(&failure), &[]);
    sys::exit_now(1)
}

fn stage(
    plan: &Plan,
    control: &OwnedFd,
    loops: &LoopFiles,
    daemon: libc::pid_t,
) -> StepResult<i32> {
    let control = control.as_fd();
    sys::close_all_but(&[control, loops.as_fd()]).doing("closing the daemon's files")?;
    sys::reset_signals(true);
    let _ = nix::sys::prctl::set_name(c"overcoat-stage");
    nix::sys::stat::umask(Mode::from_bits_truncate(0o022));

    enter_namespaces(plan, control)?;
    // Not earlier: changing ids clears the death signal.
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).doing("setting the death signal")?;
    if sys::parent_pid() != daemon {
        sys::exit_now(1);
    }
    nix::unistd::sethostname(&plan.hostname).doing("setting the host name")?;
    // The kernel's default, instead of the host's NIS domain.
    rustix::system::setdomainname(b"(none)")
        .map_err(io::Error::from)
        .doing("setting the domain name")?;
    if plan.network == Network::None {
        match sys::loopback_up() {
            // In a container; the daemon warns of it.
            Err(_) if !privilege::has_effective(CAP_NET_ADMIN) => {}
            result => result.doing("setting up the loopback interface")?,
        }
    }
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
        .doing("making the mounts private")?;
    let trees = HostTrees::clone_all(&plan.binds)?;

    let mount_dir = mount_root(plan, control)?;
    receive(control, wire::ENTER)?;
    std::env::set_current_dir(mount_dir).doing("entering the root")?;
    let root = File::open(".").doing("entering the root")?;
    trees.attach(root.as_fd(), plan)?;
    drop(root);

    unshare(CloneFlags::CLONE_NEWPID).doing("creating the pid namespace")?;
    // SAFETY: the child runs pid 1 and ends in `exit_now`; this process has one thread.
    match unsafe { sys::fork() }.doing("starting pid 1")? {
        Forked::Child => {
            sys::close_all_but(&[control]).doing("closing the stage's files")?;
            init::run(plan, control)
        }
        Forked::Parent(pid) => {
            // The sandbox ends with pid 1, which alone holds the control socket from now on.
            sys::close_all_but(&[loops.as_fd()]).doing("closing the control socket")?;
            close_standard_files();
            let status = sys::wait_for(pid).doing("waiting for pid 1")?;
            if !plan.privilege.has_user_namespace() {
                // A device that cannot be detached keeps the mount; no error changes that.
                let _ = loops.detach_all(Path::new(mount_dir));
            }
            Ok(i32::from(status != 0))
        }
    }
}

fn enter_namespaces(plan: &Plan, control: BorrowedFd<'_>) -> StepResult<()> {
    let mut flags = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS;
    if plan.network == Network::None {
        flags |= CloneFlags::CLONE_NEWNET;
    }
    match plan.privilege {
        Privilege::Root => unshare(flags).doing("creating the namespaces")?,
        Privilege::Subordinate { .. } => {
            unshare(flags | CloneFlags::CLONE_NEWUSER).doing("creating the user namespace")?;
            sys::send(control, &[wire::UNSHARED], &[]).doing("requesting the id maps")?;
            receive(control, wire::MAPPED)?;
        }
        Privilege::None => {
            let (uid, gid) = (Uid::effective(), Gid::effective());
            unshare(flags | CloneFlags::CLONE_NEWUSER).doing("creating the user namespace")?;
            // Supplementary groups stay: such a namespace does not allow setgroups(2).
            return privilege::map_single_id(uid, gid).doing("mapping the user and the group");
        }
    }
    become_root()
}

/// Becomes root of the namespaces, without supplementary groups.
pub(super) fn become_root() -> StepResult<()> {
    let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
    setgroups(&[]).doing("becoming root inside")?;
    setresgid(gid, gid, gid).doing("becoming root inside")?;
    setresuid(uid, uid, uid).doing("becoming root inside")
}

/// Mounts the root, sends its FUSE descriptor to the daemon and returns the mount point.
fn mount_root(plan: &Plan, control: BorrowedFd<'_>) -> StepResult<&'static str> {
    // The descriptor must be opened in the user namespace that mounts it.
    let fuse =
        File::options().read(true).write(true).open("/dev/fuse").doing("opening /dev/fuse")?;
    let options = format!(
        "fd={},rootmode=40755,user_id=0,group_id=0,allow_other,default_permissions",
        fuse.as_raw_fd()
    );
    let flags = if plan.read_only_root { MsFlags::MS_RDONLY } else { MsFlags::empty() };
    let mount_dir = ROOT_MOUNT_DIRS
        .into_iter()
        .find(|dir| std::fs::metadata(dir).is_ok_and(|found| found.is_dir()))
        .ok_or(io::Error::from_raw_os_error(libc::ENOENT))
        .doing("finding a directory to mount the root on")?;
    mount(Some("overcoat"), mount_dir, Some("fuse"), flags, Some(options.as_str()))
        .doing("mounting the root through FUSE")?;
    let message = [&[wire::MOUNTED], mount_dir.as_bytes()].concat();
    let namespace = File::open("/proc/thread-self/ns/mnt").doing("opening the mount namespace")?;
    sys::send(control, &message, &[fuse.as_fd(), namespace.as_fd()])
        .doing("sending the root's descriptors to the daemon")?;
    Ok(mount_dir)
}

/// Waits for a message that is only this tag. Exits if the daemon has ended.
fn receive(control: BorrowedFd<'_>, tag: u8) -> StepResult<()> {
    let message = sys::receive(control).doing("waiting for the daemon")?;
    match message.bytes.as_slice() {
        [] => sys::exit_now(1),
        [found] if *found == tag => Ok(()),
        _ => Err(StepFailure { doing: "waiting for the daemon".to_owned(), errno: libc::EPROTO }),
    }
}

/// Closes the daemon's terminal or pipes: only commands hold them.
fn close_standard_files() {
    if let Ok(null) = File::options().read(true).write(true).open("/dev/null") {
        for fd in 0..3 {
            let _ = sys::dup_to(null.as_fd(), fd);
        }
    }
}
