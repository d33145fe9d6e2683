//! The mounts over the root: `/dev`, `/proc`, `/sys`, `/run`, `/tmp` and the binds.
//!
//! Runs in the sandbox's own mount namespace, where every mount is private: the host sees none of
//! them, and they end with the last process. Every path is resolved with `RESOLVE_IN_ROOT`, so a
//! symbolic link in the image cannot lead to a directory of the host, and files are created only in
//! file systems that were mounted here.
//!
//! Order: the host's trees are cloned first ([`HostTrees::clone_all`]), because the root is mounted
//! over one of the host's directories; then everything is attached ([`HostTrees::attach`]); `/proc`
//! comes last and from the new pid namespace ([`attach_proc`]).

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat, mkdirat};
use nix::unistd::{fchdir, symlinkat};

use super::container_marks;
use super::error::{Doing, StepResult};
use super::plan::{Bind, Plan, TREE_RUN, TREE_TMP, inside_path};
use super::privilege::Privilege;
use super::sys;

/// The device nodes in `/dev`, and their numbers. They are the host's, because a user namespace
/// cannot make any.
pub(crate) const LENT_DEVICES: [(&str, (u32, u32)); 6] = [
    ("null", (1, 3)),
    ("zero", (1, 5)),
    ("full", (1, 7)),
    ("random", (1, 8)),
    ("urandom", (1, 9)),
    ("tty", (5, 0)),
];

const DEV_LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// The sandbox's own file systems. They are empty, and the sandbox makes directories in them.
const OWN_FILE_SYSTEMS: [&str; 3] = ["dev", "run", "tmp"];

/// Detached copies of the host's mounts that are shown inside.
pub(super) struct HostTrees {
    devices: Vec<(&'static str, OwnedFd)>,
    binds: Vec<(Bind, OwnedFd)>,
}

impl HostTrees {
    /// Clones the device nodes and the binds.
    pub(super) fn clone_all(binds: &[Bind]) -> StepResult<Self> {
        let mut devices = Vec::with_capacity(LENT_DEVICES.len());
        for (name, _) in LENT_DEVICES {
            let path = format!("/dev/{name}");
            devices.push((name, clone_host_tree(Path::new(&path))?));
        }
        let mut trees = Vec::with_capacity(binds.len());
        for bind in binds {
            let what = || format!("showing {} inside", bind.host.display());
            let tree = clone_host_tree(&bind.host)?;
            if bind.read_only {
                sys::set_mount_attributes(tree.as_fd(), sys::MOUNT_ATTR_RDONLY)
                    .doing(&format!("{} read-only", what()))?;
            }
            trees.push((bind.clone(), tree));
        }
        Ok(HostTrees { devices, binds: trees })
    }

    /// Mounts everything but `/proc` in `root`.
    pub(super) fn attach(self, root: BorrowedFd<'_>, plan: &Plan) -> StepResult<()> {
        let own = OwnDirectories::clone_all(root, plan)?;
        attach_dev(root, &self.devices, plan)?;
        attach_sys(root)?;
        let run = own.attach(root, c"run", c"0755")?;
        make_directory(run.as_fd(), c"lock", 0o1777).doing("creating /run/lock")?;
        container_marks::write_container_files(run.as_fd())
            .doing("creating the container marks in /run")?;
        own.attach(root, c"tmp", c"1777")?;
        for (bind, tree) in &self.binds {
            attach_bind(root, bind, tree.as_fd())?;
        }
        Ok(())
    }
}

/// The content of `/run` and `/tmp`: file systems in memory. With a single id these would not hold
/// other owners, so there it is directories of the tree that are in no delta.
enum OwnDirectories {
    InMemory { most: Option<u64> },
    InTree { run: OwnedFd, tmp: OwnedFd },
}

impl OwnDirectories {
    /// Clones the directories of the tree, before `/dev` is mounted over them.
    fn clone_all(root: BorrowedFd<'_>, plan: &Plan) -> StepResult<Self> {
        if plan.privilege != Privilege::None {
            return Ok(OwnDirectories::InMemory { most: plan.memory_files });
        }
        let clone = |path: &str| {
            sys::c_string(path)
                .and_then(|path| sys::clone_tree_at(Some(root), &path))
                .doing("cloning a directory of the root")
        };
        Ok(OwnDirectories::InTree { run: clone(TREE_RUN)?, tmp: clone(TREE_TMP)? })
    }

    /// Mounts one of them, with this octal mode.
    fn attach(&self, root: BorrowedFd<'_>, path: &CStr, mode: &CStr) -> StepResult<OwnedFd> {
        let attributes = sys::MOUNT_ATTR_NOSUID | sys::MOUNT_ATTR_NODEV;
        let tree = match self {
            OwnDirectories::InMemory { most } => {
                return tmpfs(root, path, mode, attributes, *most);
            }
            OwnDirectories::InTree { run, .. } if path == c"run" => run,
            OwnDirectories::InTree { tmp, .. } => tmp,
        };
        let what = format!("mounting /{}", path.to_string_lossy());
        let mode = mode.to_str().ok().and_then(|mode| u32::from_str_radix(mode, 8).ok());
        let mode = Mode::from_bits_truncate(mode.unwrap_or(0o755));
        sys::set_mount_attributes(tree.as_fd(), attributes).doing(&what)?;
        fchmodat(tree, c".", mode, FchmodatFlags::FollowSymlink)
            .map_err(io::Error::from)
            .doing(&what)?;
        sys::attach(tree.as_fd(), find_mount_point(root, path)?.as_fd()).doing(&what)?;
        tree.try_clone().doing(&what)
    }
}

fn clone_host_tree(path: &Path) -> StepResult<OwnedFd> {
    sys::c_string(path)
        .and_then(|path| sys::clone_tree(&path))
        .doing(&format!("showing {} inside", path.display()))
}

fn find_mount_point(root: BorrowedFd<'_>, path: &CStr) -> StepResult<OwnedFd> {
    sys::open_in_root(root, path)
        .doing(&format!("finding the mount point /{}", path.to_string_lossy()))
}

/// Mounts a file system in memory that holds at most `most` bytes.
fn tmpfs(
    root: BorrowedFd<'_>,
    path: &CStr,
    mode: &CStr,
    attributes: u64,
    most: Option<u64>,
) -> StepResult<OwnedFd> {
    let most = most.map(|most| sys::c_string(most.to_string())).transpose();
    let most = most.doing("limiting a file system in memory")?;
    let mut options = vec![(c"mode", Some(mode)), (c"source", Some(c"tmpfs"))];
    options.extend(most.as_deref().map(|most| (c"size", Some(most))));
    mount(root, path, c"tmpfs", &options, attributes)
}

fn mount(
    root: BorrowedFd<'_>,
    path: &CStr,
    kind: &CStr,
    options: &[(&CStr, Option<&CStr>)],
    attributes: u64,
) -> StepResult<OwnedFd> {
    let target = find_mount_point(root, path)?;
    let what = format!("mounting {} on /{}", kind.to_string_lossy(), path.to_string_lossy());
    let tree = sys::new_mount(kind, options, attributes).doing(&what)?;
    sys::attach(tree.as_fd(), target.as_fd()).doing(&what)?;
    Ok(tree)
}

pub(super) fn make_directory(dir: BorrowedFd<'_>, name: &CStr, mode: u32) -> io::Result<()> {
    mkdirat(dir, name, Mode::from_bits_truncate(mode))?;
    // mkdir applies the umask.
    fchmodat(dir, name, Mode::from_bits_truncate(mode), FchmodatFlags::FollowSymlink)?;
    Ok(())
}

pub(super) fn make_file(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd> {
    let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
    Ok(openat(dir, name, flags, Mode::from_bits_truncate(0o644))?)
}

fn attach_dev(
    root: BorrowedFd<'_>,
    devices: &[(&'static str, OwnedFd)],
    plan: &Plan,
) -> StepResult<()> {
    let most = plan.memory_files;
    let dev = tmpfs(root, c"dev", c"0755", sys::MOUNT_ATTR_NOSUID, most)?;
    let dev = dev.as_fd();
    for (name, tree) in devices {
        let what = format!("creating /dev/{name}");
        let name = sys::c_string(name).doing(&what)?;
        let file = make_file(dev, &name).doing(&what)?;
        sys::attach(tree.as_fd(), file.as_fd()).doing(&what)?;
    }
    for (name, target) in DEV_LINKS {
        symlinkat(target, dev, name).doing(&format!("creating /dev/{name}"))?;
    }
    for name in [c"pts", c"shm"] {
        make_directory(dev, name, 0o755).doing("creating directories in /dev")?;
    }
    let mut options = vec![
        (c"newinstance", None),
        (c"ptmxmode", Some(c"0666")),
        (c"mode", Some(c"0620")),
        (c"source", Some(c"devpts")),
    ];
    if plan.privilege.max_gid() >= 5 {
        options.push((c"gid", Some(c"5"))); // tty, in Debian's fixed numbering
    }
    let unsafe_to_run = sys::MOUNT_ATTR_NOSUID | sys::MOUNT_ATTR_NOEXEC;
    mount(root, c"dev/pts", c"devpts", &options, unsafe_to_run)?;
    let data = sys::MOUNT_ATTR_NOSUID | sys::MOUNT_ATTR_NODEV;
    tmpfs(root, c"dev/shm", c"1777", data, most)?;
    Ok(())
}

const KERNEL_FILES: u64 = sys::MOUNT_ATTR_NOSUID | sys::MOUNT_ATTR_NODEV | sys::MOUNT_ATTR_NOEXEC;

/// Mounts `/sys` read-only: a new one if the sandbox owns the network namespace, else the host's.
fn attach_sys(root: BorrowedFd<'_>) -> StepResult<()> {
    let options = [(c"source", Some(c"sysfs"))];
    let tree = match sys::new_mount(c"sysfs", &options, KERNEL_FILES | sys::MOUNT_ATTR_RDONLY) {
        Ok(tree) => tree,
        Err(_) => {
            let tree = clone_host_tree(Path::new("/sys"))?;
            sys::set_mount_attributes(tree.as_fd(), sys::MOUNT_ATTR_RDONLY)
                .doing("making /sys read-only")?;
            tree
        }
    };
    sys::attach(tree.as_fd(), find_mount_point(root, c"sys")?.as_fd()).doing("mounting /sys")
}

/// Files with the kernel's command line, which is the builder's: programs copy it into the settings
/// of boot loaders. Not all kernels have the second one.
const COMMAND_LINES: [&CStr; 2] = [c"proc/cmdline", c"proc/bootconfig"];

/// Mounts `/proc` of the calling process's pid namespace, without the command line of the
/// kernel. The kernel refuses a new one where parts of the host's are masked (in a container); then
/// the host's is shown. `root` must be the current directory.
pub(super) fn attach_proc(root: BorrowedFd<'_>, protect_host: bool) -> StepResult<()> {
    let masks = COMMAND_LINES.iter().map(|path| Ok((*path, empty_file(root)?)));
    let masks = masks.collect::<StepResult<Vec<_>>>()?;
    let options = [(c"source", Some(c"proc"))];
    let new = sys::new_mount(c"proc", &options, KERNEL_FILES);
    let is_new = new.is_ok();
    let tree = match new {
        Ok(tree) => tree,
        Err(_) => clone_host_tree(Path::new("/proc"))?,
    };
    sys::attach(tree.as_fd(), find_mount_point(root, c"proc")?.as_fd()).doing("mounting /proc")?;
    for (path, mask) in masks {
        match sys::open_in_root(root, path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            target => target
                .and_then(|target| sys::attach(mask.as_fd(), target.as_fd()))
                .doing(&format!("hiding /{}", path.to_string_lossy()))?,
        }
    }
    if is_new && !protect_host {
        // Without it, such programs have to do without a /proc of their own.
        let _ = attach_whole_proc(root);
    }
    if protect_host {
        // Changes by real root would affect the host.
        for path in [c"proc/sys", c"proc/sysrq-trigger"] {
            let target = match sys::open_in_root(root, path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                target => target.doing("finding the paths to protect in /proc")?,
            };
            sys::clone_tree_at(Some(root), path)
                .and_then(|tree| {
                    sys::set_mount_attributes(tree.as_fd(), sys::MOUNT_ATTR_RDONLY)?;
                    sys::attach(tree.as_fd(), target.as_fd())
                })
                .doing(&format!("making /{} read-only", path.to_string_lossy()))?;
        }
    }
    Ok(())
}

/// Returns a mount of a file with an empty line. `root` must be the current directory.
fn empty_file(root: BorrowedFd<'_>) -> StepResult<OwnedFd> {
    let what = "creating an empty /proc/cmdline";
    // The kernel only clones mounted files. /proc is not mounted yet.
    let own = tmpfs(root, c"proc", c"0555", KERNEL_FILES, None)?;
    let file = make_file(own.as_fd(), c"cmdline").doing(what)?;
    io::Write::write_all(&mut std::fs::File::from(file), b"\n").doing(what)?;
    let tree = sys::clone_tree_at(Some(own.as_fd()), c"cmdline").doing(what)?;
    sys::set_mount_attributes(tree.as_fd(), KERNEL_FILES | sys::MOUNT_ATTR_RDONLY).doing(what)?;
    fchdir(own).map_err(io::Error::from).doing(what)?;
    sys::detach_current_directory().doing(what)?;
    fchdir(root).map_err(io::Error::from).doing(what)?;
    Ok(tree)
}

/// Mounts a `/proc` without masked files at `/run/host/proc`, as systemd-nspawn does: the kernel
/// lets a nested user namespace mount a `/proc` only where such a mount is visible. It shows
/// processes only, so it has no command line of the kernel.
fn attach_whole_proc(root: BorrowedFd<'_>) -> io::Result<()> {
    let options = [(c"source", Some(c"proc")), (c"subset", Some(c"pid"))];
    let tree = sys::new_mount(c"proc", &options, KERNEL_FILES)?;
    let host = sys::open_in_root(root, c"run/host")?;
    make_directory(host.as_fd(), c"proc", 0o555)?;
    sys::attach(tree.as_fd(), sys::open_in_root(host.as_fd(), c"proc")?.as_fd())
}

fn attach_bind(root: BorrowedFd<'_>, bind: &Bind, tree: BorrowedFd<'_>) -> StepResult<()> {
    let what = format!("showing {} at {}", bind.host.display(), bind.inside.display());
    let path =
        inside_path(&bind.inside).map_err(|_| io::Error::from(Errno::EINVAL)).doing(&what)?;
    let name = sys::c_string(&path).doing(&what)?;
    let target = match sys::open_in_root(root, &name) {
        Err(error)
            if error.kind() == io::ErrorKind::NotFound
                && OWN_FILE_SYSTEMS.iter().any(|own| path.starts_with(own)) =>
        {
            make_mount_point(root, &path, bind.host.is_dir()).doing(&what)?
        }
        other => other.doing(&what)?,
    };
    sys::attach(tree, target.as_fd()).doing(&what)
}

/// Makes a mount point and its parent directories in one of the sandbox's own file systems.
fn make_mount_point(root: BorrowedFd<'_>, path: &Path, directory: bool) -> io::Result<OwnedFd> {
    let mut dir = root.try_clone_to_owned()?;
    let names: Vec<CString> = path.iter().map(sys::c_string).collect::<io::Result<_>>()?;
    for (index, name) in names.iter().enumerate() {
        let last = index + 1 == names.len();
        dir = match sys::open_in_root(dir.as_fd(), name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if last && !directory {
                    make_file(dir.as_fd(), name)?;
                } else {
                    make_directory(dir.as_fd(), name, 0o755)?;
                }
                sys::open_in_root(dir.as_fd(), name)?
            }
            other => other?,
        };
    }
    Ok(dir)
}
