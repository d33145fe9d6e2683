//! The marks by which software in the root recognises what kind of system it runs in.
//!
//! - A container: `/run/host/container-manager`, `/run/systemd/container` and `container=` in the
//!   environment of pid 1 (<https://systemd.io/CONTAINER_INTERFACE/>). `systemd-detect-virt`, and
//!   so the hooks of kernels and boot loaders, leave the hardware alone then.
//! - A chroot: the root of pid 1 is another, empty directory. `systemctl` and Ansible then change
//!   files and start nothing, with any environment.
//! - A service manager: pid 1 is called `systemd` where the root boots with systemd, because Puppet
//!   and Ansible check only that name. Elsewhere it is `init`, and they check further.
//! - No running systemd: `/run/systemd/system` is missing.
//!
//! All of it is in the sandbox's own `/run` and `/proc`, not in the root.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, fstat};
use rustix::fs::inotify;

use super::error::{Doing, StepResult};
use super::{mounts, sys};

/// The container manager, for `systemd-detect-virt` and others.
const CONTAINER_MANAGER: &[u8] = b"overcoat\n";

/// The names of pid 1. Programs that read `init` look for the service manager elsewhere.
const UNKNOWN_MANAGER: &CStr = c"init";
const SYSTEMD: &CStr = c"systemd";

/// The command line and environment that pid 1 shows.
const COMMAND_LINE: &[u8] = b"overcoat-init";
const ENVIRONMENT: &[u8] = b"container=overcoat";

const INIT_PROGRAM: &CStr = c"sbin/init";
const SYSTEMD_PROGRAMS: [&CStr; 2] = [c"usr/lib/systemd/systemd", c"lib/systemd/systemd"];

/// Writes the files of a container to `run`, the sandbox's own `/run`.
pub(super) fn write_container_files(run: BorrowedFd<'_>) -> io::Result<()> {
    for (directory, name) in [(c"host", c"container-manager"), (c"systemd", c"container")] {
        mounts::make_directory(run, directory, 0o755)?;
        let directory = sys::open_in_root(run, directory)?;
        let file = mounts::make_file(directory.as_fd(), name)?;
        io::Write::write_all(&mut std::fs::File::from(file), CONTAINER_MANAGER)?;
    }
    Ok(())
}

/// Makes an empty, unmounted directory the root and the working directory of this process.
pub(super) fn leave_root() -> io::Result<()> {
    let attributes = sys::MOUNT_ATTR_RDONLY
        | sys::MOUNT_ATTR_NOSUID
        | sys::MOUNT_ATTR_NODEV
        | sys::MOUNT_ATTR_NOEXEC;
    let empty = sys::new_mount(c"tmpfs", &[(c"mode", Some(c"0555"))], attributes)?;
    enter(empty.as_fd())
}

/// Makes `root` the root and the working directory of this process.
pub(super) fn enter(root: BorrowedFd<'_>) -> io::Result<()> {
    nix::unistd::fchdir(root)?;
    Ok(nix::unistd::chroot(".")?)
}

/// Replaces the daemon's command line and environment in `/proc/PID/cmdline` and
/// `/proc/PID/environ` of this process. A text that does not fit is left out.
///
/// This process must not read its arguments or its environment afterwards.
pub(super) fn replace_command_line_and_environment() {
    let _ = sys::replace_arguments(COMMAND_LINE, ENVIRONMENT);
}

/// Closes the daemon's standard input, output and error output in this process: their names are in
/// `/proc/PID/fd`.
pub(super) fn detach_standard_streams() -> StepResult<()> {
    let null =
        File::options().read(true).write(true).open("/dev/null").doing("opening /dev/null")?;
    for target in 0..3 {
        sys::dup_to(null.as_fd(), target).doing("closing standard input and output")?;
    }
    Ok(())
}

/// The service manager that the root boots with, shown as the name of pid 1.
#[derive(Debug)]
pub(super) struct ServiceManager {
    root: OwnedFd,
    /// Readable when the root's `/sbin/init` may have changed.
    changes: Option<OwnedFd>,
}

impl ServiceManager {
    /// Sets the name of pid 1 for the current root directory, and watches its `/sbin/init`.
    pub(super) fn watch() -> StepResult<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = nix::fcntl::open("/", flags, Mode::empty()).doing("opening the root")?;
        let manager = ServiceManager { root, changes: watch_init().ok() };
        manager.update_name();
        Ok(manager)
    }

    /// Returns the root directory of commands.
    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Returns a descriptor that is readable when [`Self::update_name`] should be called.
    pub(super) fn changes(&self) -> Option<BorrowedFd<'_>> {
        self.changes.as_ref().map(AsFd::as_fd)
    }

    /// Names this process after the service manager.
    pub(super) fn update_name(&self) {
        if let Some(changes) = &self.changes {
            let mut buffer = [0_u8; 4096];
            while rustix::io::read(changes, &mut buffer).is_ok_and(|length| length > 0) {}
        }
        let name = if self.is_systemd() { SYSTEMD } else { UNKNOWN_MANAGER };
        let _ = nix::sys::prctl::set_name(name);
    }

    /// Whether `/sbin/init` is systemd, or missing in a root with systemd.
    fn is_systemd(&self) -> bool {
        let identity = |path: &CStr| {
            let file = sys::open_in_root(self.root(), path).ok()?;
            let stat = fstat(file).ok()?;
            Some((stat.st_dev, stat.st_ino))
        };
        let init = identity(INIT_PROGRAM);
        SYSTEMD_PROGRAMS
            .into_iter()
            .filter_map(identity)
            .any(|systemd| init.is_none_or(|init| init == systemd))
    }
}

/// Watches the directory of `/sbin/init`.
fn watch_init() -> io::Result<OwnedFd> {
    let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
    let changes = inotify::init(flags)?;
    let events = inotify::WatchFlags::CREATE
        | inotify::WatchFlags::MOVED_TO
        | inotify::WatchFlags::MOVED_FROM
        | inotify::WatchFlags::DELETE
        | inotify::WatchFlags::ONLYDIR;
    inotify::add_watch(&changes, "/sbin", events)?;
    Ok(changes)
}
