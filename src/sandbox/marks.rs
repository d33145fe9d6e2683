//! The marks by which software in the root recognises what kind of system it runs in.
//!
//! - A container: `/run/host/container-manager`, `/run/systemd/container` and `container=` in the
//!   environment of pid 1 (<https://systemd.io/CONTAINER_INTERFACE/>). `systemd-detect-virt`, and
//!   through it the hooks of kernels and boot loaders, leave the hardware alone then.
//! - A chroot: the root of pid 1 is another directory, an empty one. `systemctl` and Ansible change
//!   files and start nothing then, with any environment.
//! - A service manager that has the root's name: pid 1 is called `systemd` where the root boots by
//!   it, for Puppet and Ansible look at nothing else. Elsewhere it is `init`, and they go on looking.
//! - No running systemd: `/run/systemd/system` is missing.
//!
//! All of it is in the sandbox's own `/run` and `/proc`: none of it is a file of the root.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, fstat};
use rustix::fs::inotify;

use super::error::{Doing, Step};
use super::{mounts, sys};

/// The container manager, as `systemd-detect-virt` and others read it.
const MANAGER: &[u8] = b"overcoat\n";

/// The names of pid 1. Programs that find `init` look for the service manager elsewhere.
const UNKNOWN_MANAGER: &CStr = c"init";
const SYSTEMD: &CStr = c"systemd";

/// What pid 1 shows as its command line and as its environment.
const COMMAND_LINE: &[u8] = b"overcoat-init";
const ENVIRONMENT: &[u8] = b"container=overcoat";

const INIT: &CStr = c"sbin/init";
const SYSTEMD_PROGRAMS: [&CStr; 2] = [c"usr/lib/systemd/systemd", c"lib/systemd/systemd"];

/// Makes the files of a container in `run`, the sandbox's own `/run`.
pub(super) fn write_container_files(run: BorrowedFd<'_>) -> io::Result<()> {
    for (directory, name) in [(c"host", c"container-manager"), (c"systemd", c"container")] {
        mounts::make_directory(run, directory, 0o755)?;
        let directory = sys::open_in_root(run, directory)?;
        let file = mounts::make_file(directory.as_fd(), name)?;
        io::Write::write_all(&mut std::fs::File::from(file), MANAGER)?;
    }
    Ok(())
}

/// Makes an empty directory the root and the working directory of this process. It is mounted
/// nowhere.
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

/// Replaces the command line and the environment of the daemon in `/proc/PID/cmdline` and
/// `/proc/PID/environ` of this process. A text that does not fit is left out.
///
/// This process must not read its arguments or its environment afterwards.
pub(super) fn replace_command_line_and_environment() {
    let _ = sys::replace_arguments(COMMAND_LINE, ENVIRONMENT);
}

/// Closes the daemon's standard input, output and error output in this process: their names are in
/// `/proc/PID/fd`. Nothing is to be written there.
pub(super) fn detach_standard_streams() -> Step<()> {
    let null = File::options().read(true).write(true).open("/dev/null").doing("opening /dev/null")?;
    for target in 0..3 {
        sys::dup_to(null.as_fd(), target).doing("closing standard input and output")?;
    }
    Ok(())
}

/// The service manager that the root boots by, as pid 1's name shows it.
#[derive(Debug)]
pub(super) struct ServiceManager {
    root: OwnedFd,
    /// Readable when the root's `/sbin/init` may have changed.
    changes: Option<OwnedFd>,
}

impl ServiceManager {
    /// Takes the name for the current root directory, and watches `/sbin/init` of it.
    pub(super) fn watch() -> Step<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = nix::fcntl::open("/", flags, Mode::empty()).doing("opening the root")?;
        let manager = ServiceManager { root, changes: watch_init().ok() };
        manager.take_name();
        Ok(manager)
    }

    /// The root directory of commands.
    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// A descriptor that is readable when [`Self::take_name`] should be called.
    pub(super) fn changes(&self) -> Option<BorrowedFd<'_>> {
        self.changes.as_ref().map(AsFd::as_fd)
    }

    /// Gives this process the name of the service manager.
    pub(super) fn take_name(&self) {
        if let Some(changes) = &self.changes {
            let mut buffer = [0_u8; 4096];
            while rustix::io::read(changes, &mut buffer).is_ok_and(|length| length > 0) {}
        }
        let name = if self.is_systemd() { SYSTEMD } else { UNKNOWN_MANAGER };
        let _ = nix::sys::prctl::set_name(name);
    }

    /// Whether `/sbin/init` is systemd, or missing where there is a systemd.
    fn is_systemd(&self) -> bool {
        let identity = |path: &CStr| {
            let file = sys::open_in_root(self.root(), path).ok()?;
            let stat = fstat(file).ok()?;
            Some((stat.st_dev, stat.st_ino))
        };
        let init = identity(INIT);
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
