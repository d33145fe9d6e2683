//! Pid 1 of the sandbox: finishes the root, starts commands, reaps children.
//!
//! Invariants:
//! - it ends when the daemon closes the control socket or dies, and then the kernel ends every
//!   process of the pid namespace, whatever its session or parent;
//! - it ends only then: an error of one command is reported on that command's socket;
//! - it handles no signals (all are blocked; SIGCHLD is read from a descriptor) and forwards none;
//! - commands inherit nothing that is not in their [`SpawnSpec`]: no descriptor, no blocked or
//!   ignored signal.
//!
//! Its own root is an empty directory, so that programs conclude from `/proc/1/root` that they are
//! in a chroot ([`super::container_marks`]). Commands get the sandbox's root back before they are
//! executed.
//!
//! There are two mount namespaces. In the stage's, the root is mounted in the host's tree: commands
//! that run outside are moved there. Pid 1 and all other commands are in a copy of it that contains
//! only the root. The descriptor of the stage's namespace comes with the request for such a
//! command: the daemon holds it, no process inside does.
//!
//! Each command has its own socket, whose other end the daemon's `Child` holds: it carries signals
//! to the command and the exit status back. If the daemon drops its end, the command runs on,
//! unwatched.

use std::collections::HashMap;
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{Gid, Uid, chdir, setgroups, setresgid, setresuid, setsid};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::command::ResourceLimits;
use super::container_marks::{self, ServiceManager};
use super::error::{Doing, StepFailure, StepResult};
use super::plan::{Network, Plan};
use super::privilege::CAP_NET_ADMIN;
use super::sys::{self, Forked};
use super::wire::{self, SpawnSession, SpawnSpec};
use super::{SandboxIdentity, mounts, notify};

/// Capabilities that real root would have over the host: CAP_SYS_MODULE, CAP_SYS_BOOT,
/// CAP_SYS_TIME.
const HOST_CAPABILITIES: [u32; 3] = [16, 22, 25];

/// Runs pid 1.
pub(super) fn run(plan: &Plan, control: BorrowedFd<'_>) -> ! {
    let result = std::panic::catch_unwind(|| {
        become_init(plan, control).map(|manager| serve(control, &manager))
    });
    match result {
        Ok(Ok(())) => sys::exit_now(0),
        Ok(Err(failure)) => {
            let _ = sys::send(control, &wire::failure_message(&failure), &[]);
            sys::exit_now(1)
        }
        Err(_) => sys::exit_now(2),
    }
}

fn become_init(plan: &Plan, control: BorrowedFd<'_>) -> StepResult<ServiceManager> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).doing("setting the death signal")?;
    container_marks::replace_command_line_and_environment();
    container_marks::detach_standard_streams()?;
    let root = File::open(".").doing("entering the root")?;
    mounts::attach_proc(root.as_fd(), !plan.privilege.has_user_namespace())?;
    drop(root);
    let look = |path: &str| std::fs::metadata(path).doing("reading the sandbox's metadata");
    let outer_mount_namespace = look("/proc/thread-self/ns/mnt")?.ino();
    unshare(CloneFlags::CLONE_NEWNS).doing("creating the mount namespace")?;
    sys::pivot_to_current_directory().doing("changing the root")?;
    sys::detach_current_directory().doing("unmounting the host's root")?;
    chdir("/").doing("entering the root")?;
    if !plan.privilege.has_user_namespace() {
        // It changes network settings and reads the firewall: those of the host.
        let network = (plan.network == Network::Host).then_some(CAP_NET_ADMIN);
        for capability in HOST_CAPABILITIES.into_iter().chain(network) {
            sys::drop_from_bounding_set(capability).doing("dropping capabilities")?;
        }
    }
    let identity = SandboxIdentity {
        device: look("/")?.dev(),
        user_namespace: look("/proc/self/ns/user")?.ino(),
        mount_namespace: look("/proc/self/ns/mnt")?.ino(),
        outer_mount_namespace,
    };
    let mounts = File::open("/proc/self/mountinfo").doing("opening the list of mounts")?;
    let manager = ServiceManager::watch()?;
    container_marks::leave_root().doing("leaving the root")?;
    let listener = notify::install(&plan.privilege)?;
    let mut ready = vec![wire::READY];
    ready.extend_from_slice(&identity.encode());
    let fds: Vec<BorrowedFd<'_>> =
        std::iter::once(mounts.as_fd()).chain(listener.iter().map(AsFd::as_fd)).collect();
    sys::send(control, &ready, &fds).doing("reporting to the daemon")?;
    Ok(manager)
}

type Channels = HashMap<libc::pid_t, Channel>;

struct Channel {
    socket: OwnedFd,
    /// The command leads a process group: signals go to the whole group.
    group: bool,
}

/// Serves until the daemon closes the control socket.
fn serve(control: BorrowedFd<'_>, manager: &ServiceManager) {
    let mut children = SigSet::empty();
    children.add(Signal::SIGCHLD);
    let Ok(signals) =
        SignalFd::with_flags(&children, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
    else {
        return;
    };
    let mut channels = Channels::new();
    loop {
        let pids: Vec<libc::pid_t> = channels.keys().copied().collect();
        let mut fds = vec![
            PollFd::new(control, PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        ];
        let watched = manager.changes().map(|changes| PollFd::new(changes, PollFlags::POLLIN));
        let own = fds.len() + watched.iter().len();
        fds.extend(watched);
        fds.extend(
            channels.values().map(|channel| PollFd::new(channel.socket.as_fd(), PollFlags::POLLIN)),
        );
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(_) => return,
        }
        let busy: Vec<bool> =
            fds.iter().map(|fd| fd.revents().is_some_and(|events| !events.is_empty())).collect();
        drop(fds);
        for (pid, _) in pids.iter().zip(&busy[own..]).filter(|(_, busy)| **busy) {
            forward(&mut channels, *pid);
        }
        if busy[2..own].contains(&true) {
            manager.update_name();
        }
        if busy[1] {
            while let Ok(Some(_)) = signals.read_signal() {}
            reap(&mut channels);
        }
        if busy[0] && !serve_request(control, manager, &mut channels) {
            return;
        }
    }
}

fn reap(channels: &mut Channels) {
    while let Some((pid, status)) = sys::reap_any() {
        if let Some(channel) = channels.remove(&pid) {
            let mut message = vec![wire::EXITED];
            message.extend_from_slice(&status.to_ne_bytes());
            let _ = sys::send(channel.socket.as_fd(), &message, &[]);
        }
    }
}

/// Forwards a signal from a command's socket, or drops the socket when its other end is closed.
fn forward(channels: &mut Channels, pid: libc::pid_t) {
    let Some(channel) = channels.get(&pid) else { return };
    let message = sys::receive(channel.socket.as_fd());
    match message.as_ref().map(|message| message.bytes.as_slice()) {
        Ok([wire::SIGNAL, signal @ ..]) => {
            if let Some(signal) = wire::parse_i32(signal) {
                let target = if channel.group { -pid } else { pid };
                let _ = sys::kill(target, signal);
            }
        }
        Ok([]) | Err(_) => {
            channels.remove(&pid);
        }
        Ok(_) => {}
    }
}

/// Serves one request. Returns false when the daemon has closed the socket.
fn serve_request(
    control: BorrowedFd<'_>,
    manager: &ServiceManager,
    channels: &mut Channels,
) -> bool {
    let Ok(request) = sys::receive(control) else { return false };
    match request.bytes.as_slice() {
        [] => return false,
        [wire::SPAWN] => {
            let mut fds = request.fds;
            let outside = fds.drain(fds.len().min(6)..).next();
            if let Ok([spec, exec, channel, stdin, stdout, stderr]) = <[OwnedFd; 6]>::try_from(fds)
            {
                let stdio = [stdin, stdout, stderr];
                manager.update_name();
                match spawn(spec, &exec, &stdio, manager.root(), outside.as_ref()) {
                    Ok((pid, group)) => {
                        channels.insert(pid, Channel { socket: channel, group });
                    }
                    Err(failure) => {
                        let message = wire::failure_message(&failure);
                        let _ = sys::send(exec.as_fd(), &message, &[]);
                    }
                }
            }
        }
        [wire::SHOW] => {
            if let Some(file) = request.fds.into_iter().next() {
                show(file, manager.root());
            }
        }
        [wire::OPEN_PTY] => {
            if let [socket] = request.fds.as_slice() {
                let _ = match open_pty(manager.root()) {
                    Ok((master, slave)) => {
                        sys::send(socket.as_fd(), &[wire::PTY], &[master.as_fd(), slave.as_fd()])
                    }
                    Err(failure) => {
                        sys::send(socket.as_fd(), &wire::failure_message(&failure), &[])
                    }
                };
            }
        }
        _ => {}
    }
    true
}

/// Changes the host name and writes the files that the daemon sent. A file that cannot be written
/// is left out.
fn show(file: OwnedFd, root: BorrowedFd<'_>) {
    let mut bytes = Vec::new();
    if File::from(file).read_to_end(&mut bytes).is_err() {
        return;
    }
    let Ok(wire::Show { hostname, files }) = wire::decode(&bytes) else { return };
    let _ = nix::unistd::sethostname(hostname);
    // This process has another root.
    if nix::unistd::fchdir(root).is_err() {
        return;
    }
    for (path, content) in files {
        let path = Path::new(&path);
        let _ = replace_file(path.strip_prefix("/").unwrap_or(path), &content);
    }
    let _ = chdir("/");
}

/// Writes a file at `path`, which is relative, in one of the sandbox's own file systems. Replaces
/// an existing file or link.
fn replace_file(path: &Path, content: &[u8]) -> io::Result<()> {
    let invalid = || io::Error::from_raw_os_error(libc::EINVAL);
    let (parent, name) =
        (path.parent().ok_or_else(invalid)?, path.file_name().ok_or_else(invalid)?);
    std::fs::create_dir_all(parent)?;
    // A link on the way may lead back into the root, which only the daemon changes.
    let own = path.iter().next().map(Path::new).ok_or_else(invalid)?;
    if std::fs::metadata(parent)?.dev() != std::fs::metadata(own)?.dev() {
        return Err(io::Error::from_raw_os_error(libc::EXDEV));
    }
    let mut temporary = name.to_owned();
    temporary.push(".overcoat");
    let temporary = parent.join(temporary);
    std::fs::write(&temporary, content)?;
    std::fs::rename(&temporary, path)
}

fn open_pty(root: BorrowedFd<'_>) -> StepResult<(OwnedFd, OwnedFd)> {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let master = nix::fcntl::openat(root, "dev/ptmx", flags, nix::sys::stat::Mode::empty())
        .doing("opening /dev/ptmx")?;
    let slave = sys::open_terminal_peer(master.as_fd()).doing("opening the terminal")?;
    Ok((master, slave))
}

fn spawn(
    spec: OwnedFd,
    exec: &OwnedFd,
    stdio: &[OwnedFd; 3],
    root: BorrowedFd<'_>,
    outside: Option<&OwnedFd>,
) -> StepResult<(libc::pid_t, bool)> {
    let mut bytes = Vec::new();
    File::from(spec).read_to_end(&mut bytes).doing("reading the command")?;
    let spec: SpawnSpec = wire::decode(&bytes).doing("reading the command")?;
    // SAFETY: the child executes the command or ends in `exit_now`; pid 1 has one thread.
    match unsafe { sys::fork() }.doing("forking")? {
        Forked::Parent(pid) => Ok((pid, spec.session != SpawnSession::Inherited)),
        Forked::Child => {
            let failure =
                match std::panic::catch_unwind(|| become_command(&spec, stdio, root, outside)) {
                    Ok(failure) => failure,
                    Err(_) => StepFailure { doing: "panicking".to_owned(), errno: libc::EFAULT },
                };
            let _ = sys::send(exec.as_fd(), &wire::failure_message(&failure), &[]);
            sys::exit_now(127)
        }
    }
}

/// Turns this process into the command. Returns only on failure.
fn become_command(
    spec: &SpawnSpec,
    stdio: &[OwnedFd; 3],
    root: BorrowedFd<'_>,
    outside: Option<&OwnedFd>,
) -> StepFailure {
    match prepare_command(spec, stdio, root, outside) {
        Ok((argv, env)) => {
            let error = execute(&argv, &env);
            StepFailure {
                doing: wire::EXECUTING.to_owned(),
                errno: error.raw_os_error().unwrap_or(libc::EINVAL),
            }
        }
        Err(failure) => failure,
    }
}

fn prepare_command(
    spec: &SpawnSpec,
    stdio: &[OwnedFd; 3],
    root: BorrowedFd<'_>,
    outside: Option<&OwnedFd>,
) -> StepResult<(Vec<CString>, Vec<CString>)> {
    let strings = |texts: &[std::ffi::OsString]| -> StepResult<Vec<CString>> {
        texts
            .iter()
            .map(sys::c_string)
            .collect::<io::Result<_>>()
            .doing("reading the arguments and the environment")
    };
    let (argv, env) = (strings(&spec.argv)?, strings(&spec.env)?);
    if spec.session != SpawnSession::Inherited {
        setsid().doing("creating a session")?;
    }
    // Received descriptors are never 0, 1 or 2, which were always open.
    for (fd, target) in stdio.iter().zip(0..) {
        sys::dup_to(fd.as_fd(), target).doing("connecting standard input and output")?;
    }
    if spec.session == SpawnSession::Terminal {
        sys::take_terminal(io::stdin().as_fd()).doing("setting the controlling terminal")?;
    }
    match outside {
        // setns sets root and working directory to those of the namespace.
        Some(outside) => setns(outside, CloneFlags::CLONE_NEWNS)
            .doing("entering the mount namespace for commands outside")?,
        None => container_marks::enter(root).doing("entering the root")?,
    }
    let groups: Vec<Gid> = spec.groups.iter().copied().map(Gid::from_raw).collect();
    let (uid, gid) = (Uid::from_raw(spec.uid), Gid::from_raw(spec.gid));
    setgroups(&groups).doing("setting the groups")?;
    setresgid(gid, gid, gid).doing("setting the group")?;
    setresuid(uid, uid, uid).doing("setting the user")?;
    if let Some(limits) = &spec.limits {
        limit_resources(limits).doing("limiting its resources")?;
    }
    // As the command's user: the directory may be inaccessible to others.
    chdir(spec.cwd.as_os_str())
        .doing(&format!("changing to the directory {}", spec.cwd.to_string_lossy()))?;
    sys::reset_signals(false);
    Ok((argv, env))
}

fn limit_resources(limits: &ResourceLimits) -> io::Result<()> {
    let limits = [
        (Resource::Data, limits.memory),
        (Resource::Fsize, limits.file_size),
        (Resource::Nproc, limits.processes),
        (Resource::Core, 0),
    ];
    for (resource, most) in limits {
        // Not above the limits that this process has.
        let most = getrlimit(resource).maximum.map_or(most, |maximum| maximum.min(most));
        setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })?;
    }
    Ok(())
}

/// As `execvpe(3)`, with the command's own `PATH`.
fn execute(argv: &[CString], env: &[CString]) -> io::Error {
    let Some(program) = argv.first() else {
        return io::Error::from_raw_os_error(libc::EINVAL);
    };
    if program.as_bytes().contains(&b'/') {
        return execute_file(program, argv, env);
    }
    let path = env
        .iter()
        .find_map(|variable| variable.as_bytes().strip_prefix(b"PATH="))
        .unwrap_or(b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    let mut worst = io::Error::from_raw_os_error(libc::ENOENT);
    for dir in path.split(|&byte| byte == b':') {
        let dir = if dir.is_empty() { b".".as_slice() } else { dir };
        let Ok(file) = CString::new([dir, b"/", program.as_bytes()].concat()) else { continue };
        let error = execute_file(&file, argv, env);
        match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => {}
            Some(libc::EACCES) => worst = error,
            _ => return error,
        }
    }
    worst
}

/// Executes a file. A text file in a format unknown to the kernel is run as a shell script.
fn execute_file(file: &CString, argv: &[CString], env: &[CString]) -> io::Error {
    let error = sys::execve(file, argv, env);
    let is_script = || {
        let mut start = [0; 128];
        let path = std::ffi::OsStr::from_bytes(file.as_bytes());
        File::open(path)
            .and_then(|mut file| file.read(&mut start))
            .is_ok_and(|length| !start[..length].contains(&0))
    };
    if error.raw_os_error() != Some(libc::ENOEXEC) || !is_script() {
        return error;
    }
    let mut script = vec![c"sh".to_owned(), file.clone()];
    script.extend_from_slice(argv.get(1..).unwrap_or_default());
    sys::execve(c"/bin/sh", &script, env)
}
