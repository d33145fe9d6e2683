//! Namespaces, mounts and the processes in them. Only this module and the FUSE adapter use
//! `unsafe`.
//!
//! # Processes
//!
//! ```text
//! daemon   serves the root through FUSE and answers the supervisor's questions
//!  └─ stage    its namespaces (user, mount, IPC, UTS, network), all mounts; waits
//!      └─ pid 1    of the pid namespace: starts commands, reaps
//!          └─ commands
//! ```
//!
//! The daemon never enters a namespace and never touches its own mount, so it cannot wait for
//! itself. Every process below it dies with it: the stage by its death signal, pid 1 by its own,
//! and the rest because the kernel ends a pid namespace with its pid 1. The mounts exist in the
//! stage's mount namespace only and end with its last process.
//!
//! # Order
//!
//! 1. [`Sandbox::fork`] forks the stage and returns when the root is mounted, but not yet served.
//! 2. The daemon serves [`Starting::fuse_fd`] in its own threads. The paths of
//!    [`Plan::mount_points`] must exist in the tree.
//! 3. [`Starting::enter`] mounts the rest and starts pid 1.
//! 4. [`Supervisor::start`] answers the calls that a user namespace cannot do itself, and every
//!    `execve`. Without it, such a call waits until the sandbox ends.
//! 5. [`Sandbox::spawn`], any number of times.
//! 6. [`Sandbox::shutdown`], while the tree is still served: a process inside may be waiting for
//!    it.

mod background;
mod command;
mod container_marks;
mod environment;
mod error;
mod host;
mod host_mount;
mod image;
mod init;
mod leftovers;
mod loop_devices;
mod mountinfo;
mod mounts;
mod notify;
mod plan;
mod privilege;
pub(crate) mod probe;
mod pty;
mod requirement;
mod signals;
mod stage;
mod sys;
mod wire;

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) use background::{
    ForkSide, end_with_parent, fork_process, receive_message, send_message,
};
pub use command::{Child, CommandSpec, ExitStatus, ResourceLimits, Session, Stdio};
pub use environment::default_environment;
pub use error::SandboxError;
pub(crate) use host::{find_program, group, user_name};
pub use host_mount::{HostMount, MountOptions, unmount};
pub(crate) use host_mount::{mounted_at, users_may_share};
pub(crate) use image::map_image;
pub use leftovers::Leftovers;
pub(crate) use mounts::LENT_DEVICES;
pub(crate) use notify::{CAP_SETFCAP, CAP_SYS_ADMIN, CredentialTable, EXECUTE, READ, WRITE};
pub use notify::{Supervised, SupervisedAttributes, SupervisedInode, SupervisedKind, Supervisor};
pub use plan::{Bind, MountPoint, MountPointKind, Network, Plan};
pub(crate) use privilege::widening_command;
pub use privilege::{IdMap, Privilege, PrivilegeChoice, SelectedPrivilege};
pub(crate) use pty::Pty;
pub use pty::relay;
pub use requirement::MissingRequirement;
pub use signals::{Ended, Signals};

use error::{During, StepFailure};
use loop_devices::LoopFiles;

/// The stage's process. Dropping it kills it and waits for it.
#[derive(Debug)]
struct StageProcess {
    pid: libc::pid_t,
    waited: bool,
}

impl StageProcess {
    fn wait(&mut self) {
        if !self.waited {
            self.waited = true;
            let _ = sys::wait_for(self.pid);
        }
    }
}

impl Drop for StageProcess {
    fn drop(&mut self) {
        if !self.waited {
            let _ = sys::kill(self.pid, libc::SIGKILL);
            self.wait();
        }
    }
}

/// A sandbox whose root is mounted and waits to be served.
#[derive(Debug)]
pub struct Starting {
    // The order matters: the socket closes first, then the stage is waited for.
    control: OwnedFd,
    stage: StageProcess,
    fuse: Option<OwnedFd>,
    outside: Option<Outside>,
    loops: LoopFiles,
    /// The credentials of processes, if the kernel does not know them.
    credentials: Option<Arc<CredentialTable>>,
    plan: Plan,
}

/// A sandbox that runs commands. Dropping it ends everything inside.
#[derive(Debug)]
pub struct Sandbox {
    control: Option<OwnedFd>,
    stage: StageProcess,
    listener: Option<OwnedFd>,
    /// The mountinfo of the commands' mount namespace.
    mounts: Option<File>,
    identity: SandboxIdentity,
    outside: Option<Outside>,
    loops: LoopFiles,
    /// The credentials of processes, if the kernel does not know them.
    credentials: Option<Arc<CredentialTable>>,
    plan: Plan,
}

/// The mount of the root in the host's tree. Keeps the mount namespace of this mount alive.
#[derive(Debug)]
struct Outside {
    mounts: OwnedFd,
    root: PathBuf,
}

/// Device and inode numbers that identify this sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct SandboxIdentity {
    /// The device number of the root's file system, as `stat` inside reports it.
    device: u64,
    /// The inode number of its user namespace.
    user_namespace: u64,
    /// The inode number of its mount namespace.
    mount_namespace: u64,
    /// The inode number of the mount namespace for commands outside the root.
    outer_mount_namespace: u64,
}

impl SandboxIdentity {
    fn encode(self) -> Vec<u8> {
        let SandboxIdentity { device, user_namespace, mount_namespace, .. } = self;
        [device, user_namespace, mount_namespace, self.outer_mount_namespace]
            .iter()
            .flat_map(|number| number.to_ne_bytes())
            .collect()
    }

    fn decode(bytes: &[u8]) -> Self {
        let mut numbers = bytes
            .chunks_exact(8)
            .map(|chunk| chunk.first_chunk().map_or(0, |number| u64::from_ne_bytes(*number)));
        let mut next = || numbers.next().unwrap_or(0);
        SandboxIdentity {
            device: next(),
            user_namespace: next(),
            mount_namespace: next(),
            outer_mount_namespace: next(),
        }
    }
}

impl Sandbox {
    /// Makes the namespaces and mounts the root.
    ///
    /// The calling thread must live as long as the sandbox: the kernel takes the end of that thread
    /// for the daemon's end and kills everything inside. Call this before starting other threads:
    /// their locks would stay locked in the stage.
    ///
    /// # Errors
    /// Returns the step that failed, with a hint if the cause is known.
    pub fn fork(plan: Plan) -> Result<Starting, SandboxError> {
        plan.mount_points()?;
        let (ours, theirs) = sys::message_pair().during("creating a socket")?;
        let loops = LoopFiles::new().during("creating a file")?;
        let daemon = std::process::id() as libc::pid_t;
        // SAFETY: the child goes to `stage::run`, which never returns.
        let pid = match unsafe { sys::fork() }.during("forking")? {
            sys::Forked::Child => stage::run(&plan, &theirs, &loops, daemon),
            sys::Forked::Parent(pid) => pid,
        };
        drop(theirs);
        let stage = StageProcess { pid, waited: false };
        let credentials = (plan.privilege == Privilege::None).then(Arc::default);
        let mut starting =
            Starting { control: ours, stage, fuse: None, outside: None, loops, credentials, plan };
        if let Privilege::Subordinate { uids, gids } = &starting.plan.privilege {
            starting.receive(wire::UNSHARED)?;
            privilege::write_id_maps(pid, uids, gids)?;
            starting.send_tag(wire::MAPPED)?;
        }
        let mounted = starting.receive(wire::MOUNTED)?;
        let mount_dir = mounted.bytes.get(1..).unwrap_or_default();
        let root = Path::new(OsStr::from_bytes(mount_dir)).to_owned();
        let mut fds = mounted.fds.into_iter();
        starting.fuse = fds.next();
        starting.outside = fds.next().map(|mounts| Outside { mounts, root });
        Ok(starting)
    }
}

impl Starting {
    /// The FUSE descriptor of the root, to be served with `fuser::Session::from_fd`.
    ///
    /// # Panics
    /// Panics when called a second time.
    pub fn fuse_fd(&mut self) -> OwnedFd {
        self.fuse.take().expect("the FUSE descriptor can be taken only once")
    }

    /// Returns the credentials of processes inside, if the kernel does not know them.
    pub(crate) fn credentials(&self) -> Option<Arc<CredentialTable>> {
        self.credentials.clone()
    }

    /// Mounts everything else and starts pid 1. The root must be served by now.
    ///
    /// # Errors
    /// Returns the step that failed. The error names a mount point that the tree lacks.
    pub fn enter(self) -> Result<Sandbox, SandboxError> {
        self.send_tag(wire::ENTER)?;
        let ready = self.receive(wire::READY)?;
        let mut fds = ready.fds.into_iter();
        let (mounts, listener) = (fds.next(), fds.next());
        Ok(Sandbox {
            control: Some(self.control),
            stage: self.stage,
            listener,
            mounts: mounts.map(File::from),
            identity: SandboxIdentity::decode(ready.bytes.get(1..).unwrap_or_default()),
            outside: self.outside,
            loops: self.loops,
            credentials: self.credentials,
            plan: self.plan,
        })
    }

    fn send_tag(&self, tag: u8) -> Result<(), SandboxError> {
        sys::send(self.control.as_fd(), &[tag], &[])
            .map_err(|error| SandboxError::Ended(error.to_string()))
    }

    fn receive(&self, tag: u8) -> Result<sys::Received, SandboxError> {
        receive(self.control.as_fd(), tag, self.plan.privilege.has_user_namespace())
    }
}

/// Waits for a message with this tag from a child that makes namespaces.
fn receive(
    control: BorrowedFd<'_>,
    tag: u8,
    user_namespace: bool,
) -> Result<sys::Received, SandboxError> {
    let message = sys::receive(control).during("waiting for the sandbox")?;
    match message.bytes.split_first() {
        Some((&found, _)) if found == tag => Ok(message),
        Some((&wire::FAILED, rest)) => {
            let StepFailure { doing, errno } = wire::parse_failure(rest);
            let hint = match user_namespace {
                true => privilege::user_namespace_hint(errno),
                false if errno == libc::ENOSYS => {
                    Some("overcoat needs Linux 5.12 or newer".to_owned())
                }
                false => None,
            };
            let source = io::Error::from_raw_os_error(errno);
            Err(SandboxError::Setup { doing, source, hint })
        }
        Some(_) => Err(SandboxError::Ended("an unexpected message".to_owned())),
        None => Err(SandboxError::Ended("a set-up process was killed".to_owned())),
    }
}

impl Sandbox {
    /// Starts a command. When this returns, the command has been executed.
    ///
    /// # Errors
    /// Fails if the command cannot be executed or the sandbox has ended.
    pub fn spawn(&self, spec: &CommandSpec) -> Result<Child, SandboxError> {
        match (&self.control, &self.outside) {
            (Some(control), Some(outside)) => {
                command::spawn(control.as_fd(), outside.mounts.as_fd(), spec)
            }
            _ => Err(SandboxError::Ended("it was shut down".to_owned())),
        }
    }

    /// Changes the host name of the sandbox and writes `files` (absolute paths below `/run` and
    /// `/tmp`, and their content) into the sandbox's own file systems. Existing files are replaced.
    /// Commands started afterwards see all of it.
    ///
    /// # Errors
    /// Fails if the sandbox has ended.
    pub fn show(&self, hostname: &str, files: &[(PathBuf, Vec<u8>)]) -> Result<(), SandboxError> {
        let control = self.control.as_ref();
        let control = control.ok_or_else(|| SandboxError::Ended("it was shut down".to_owned()))?;
        let files = files.iter().map(|(path, content)| (path.into(), content.clone())).collect();
        let show = wire::Show { hostname: hostname.into(), files };
        let message = wire::encode(&show).during("encoding the files to show")?;
        let message = sys::anonymous_file(c"overcoat-show", &message).during("creating a file")?;
        sys::send(control.as_fd(), &[wire::SHOW], &[message.as_fd()])
            .map_err(|error| SandboxError::Ended(error.to_string()))
    }

    /// Opens a pseudo terminal in the sandbox's `/dev/pts`.
    ///
    /// # Errors
    /// Fails if no terminal can be opened or the sandbox has ended.
    pub(crate) fn open_pty(&self) -> Result<Pty, SandboxError> {
        let control = self.control.as_ref();
        let control = control.ok_or_else(|| SandboxError::Ended("it was shut down".to_owned()))?;
        let (ours, theirs) = sys::message_pair().during("creating a socket")?;
        sys::send(control.as_fd(), &[wire::OPEN_PTY], &[theirs.as_fd()])
            .map_err(|error| SandboxError::Ended(error.to_string()))?;
        drop(theirs);
        let answer = sys::receive(ours.as_fd()).during("opening a terminal")?;
        match (answer.bytes.as_slice(), <[OwnedFd; 2]>::try_from(answer.fds)) {
            ([wire::PTY], Ok([master, slave])) => Ok(Pty { master, slave }),
            ([wire::FAILED, rest @ ..], _) => {
                let StepFailure { doing, errno } = wire::parse_failure(rest);
                let source = io::Error::from_raw_os_error(errno);
                Err(SandboxError::Setup { doing, source, hint: None })
            }
            _ => Err(SandboxError::Ended("pid 1 is gone".to_owned())),
        }
    }

    /// Returns the path of the root for commands that run outside; `None` when the sandbox has
    /// ended.
    pub fn root_outside(&self) -> Option<&Path> {
        self.outside.as_ref().map(|outside| outside.root.as_path())
    }

    /// Returns the plan that the sandbox was made from.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Ends every process inside and returns when the processes and the mounts are gone. The root
    /// must be served until then. Returns the paths in the root of files that a loop device was on.
    pub fn shutdown(mut self) -> Vec<Vec<u8>> {
        self.end();
        self.loops.read().unwrap_or_default()
    }

    fn end(&mut self) {
        drop(self.control.take());
        drop(self.outside.take());
        self.stage.wait();
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.end();
    }
}
