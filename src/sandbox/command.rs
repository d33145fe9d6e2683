//! Commands in a sandbox: specification, exit status and waiting.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::error::{During, SandboxError};
use super::sys;
use super::wire::{self, EXECUTING, SpawnSpec};

/// The source or destination of a command's standard stream.
#[derive(Debug, Default)]
pub enum Stdio {
    /// The daemon's own stream.
    #[default]
    Inherit,
    /// `/dev/null`.
    Null,
    /// This file, pipe, socket or terminal. It is duplicated and stays the caller's.
    Fd(OwnedFd),
}

/// The session and terminal of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Session {
    /// The daemon's session and process group: keys like Ctrl-C reach the command.
    Inherited,
    /// Its own session without a terminal: only the daemon's signals reach it, and
    /// [`Child::signal`] reaches its whole process group.
    #[default]
    Own,
    /// Its own session, with its standard input as the controlling terminal.
    Terminal,
}

/// A command to run in a sandbox.
#[derive(Debug)]
pub struct CommandSpec {
    /// The program and its arguments. A program without a slash is searched in the `PATH` of `env`.
    pub argv: Vec<OsString>,
    /// The complete environment.
    pub env: Vec<(OsString, OsString)>,
    /// Whether to run in the host's tree, as root of the sandbox's namespaces, instead of in the
    /// root. The root is then at [`Sandbox::root_outside`](super::Sandbox::root_outside).
    pub outside: bool,
    /// The working directory, inside (or outside, if the command runs there).
    pub cwd: PathBuf,
    /// The user id inside.
    pub uid: u32,
    /// The group id inside.
    pub gid: u32,
    /// The supplementary group ids inside.
    pub groups: Vec<u32>,
    /// Standard input.
    pub stdin: Stdio,
    /// Standard output.
    pub stdout: Stdio,
    /// Standard error.
    pub stderr: Stdio,
    /// Session and terminal.
    pub session: Session,
    /// Limits of its resources, which its children inherit.
    pub limits: Option<ResourceLimits>,
}

/// Limits of each process of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceLimits {
    /// Maximum bytes of private memory.
    pub memory: u64,
    /// Maximum bytes of a file that it writes.
    pub file_size: u64,
    /// Maximum number of processes of its user. The kernel does not apply it to real root.
    pub processes: u64,
}

impl CommandSpec {
    /// Creates a command that runs as root in `/`, with an empty environment, the daemon's standard
    /// streams and its own session.
    pub fn new<S: Into<OsString>>(argv: impl IntoIterator<Item = S>) -> Self {
        CommandSpec {
            argv: argv.into_iter().map(Into::into).collect(),
            env: Vec::new(),
            outside: false,
            cwd: "/".into(),
            uid: 0,
            gid: 0,
            groups: Vec::new(),
            stdin: Stdio::Inherit,
            stdout: Stdio::Inherit,
            stderr: Stdio::Inherit,
            session: Session::Own,
            limits: None,
        }
    }

    fn spawn_spec(&self) -> SpawnSpec {
        let variable = |(name, value): &(OsString, OsString)| {
            let mut variable = name.clone();
            variable.push("=");
            variable.push(value);
            variable
        };
        SpawnSpec {
            argv: self.argv.clone(),
            env: self.env.iter().map(variable).collect(),
            cwd: self.cwd.clone().into_os_string(),
            uid: self.uid,
            gid: self.gid,
            groups: self.groups.clone(),
            session: match self.session {
                Session::Inherited => wire::SpawnSession::Inherited,
                Session::Own => wire::SpawnSession::Own,
                Session::Terminal => wire::SpawnSession::Terminal,
            },
            limits: self.limits,
        }
    }
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// It exited with this code.
    Code(i32),
    /// It was killed by this signal.
    Signal(i32),
}

impl ExitStatus {
    fn from_raw(status: i32) -> Self {
        if libc::WIFSIGNALED(status) {
            ExitStatus::Signal(libc::WTERMSIG(status))
        } else {
            ExitStatus::Code(libc::WEXITSTATUS(status))
        }
    }

    /// Returns whether the exit code is 0.
    pub fn success(self) -> bool {
        self == ExitStatus::Code(0)
    }

    /// Returns the exit code as a shell reports it: 128 plus the number for a signal.
    pub fn shell_code(self) -> i32 {
        match self {
            ExitStatus::Code(code) => code,
            ExitStatus::Signal(signal) => 128 + signal,
        }
    }
}

impl std::fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ExitStatus::Code(code) => write!(f, "exit code {code}"),
            ExitStatus::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// A running command. If dropped, the command runs on, unwatched; it ends with the sandbox.
///
/// As a descriptor it becomes readable when the command or the sandbox has ended.
#[derive(Debug)]
pub struct Child {
    socket: OwnedFd,
    status: Option<ExitStatus>,
}

impl Child {
    /// Waits until the command has ended.
    ///
    /// # Errors
    /// Fails if the sandbox ended before the command.
    pub fn wait(&mut self) -> Result<ExitStatus, SandboxError> {
        if let Some(status) = self.status {
            return Ok(status);
        }
        let message = sys::receive(self.socket.as_fd()).during("waiting for a command")?;
        match message.bytes.as_slice() {
            [wire::EXITED, status @ ..] if status.len() == 4 => {
                let status = ExitStatus::from_raw(wire::parse_i32(status).unwrap_or(0));
                self.status = Some(status);
                Ok(status)
            }
            _ => Err(SandboxError::Ended("pid 1 is gone".to_owned())),
        }
    }

    /// Sends a signal to the command, or to its process group if it has its own session. Does
    /// nothing if the command has ended.
    ///
    /// # Errors
    /// Fails if the message cannot be sent.
    pub fn signal(&self, signal: i32) -> Result<(), SandboxError> {
        let mut message = vec![wire::SIGNAL];
        message.extend_from_slice(&signal.to_ne_bytes());
        match sys::send(self.socket.as_fd(), &message, &[]) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other.during("sending a signal to a command"),
        }
    }
}

impl AsFd for Child {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Asks pid 1 behind `control` to start a command. `outside` is the mount namespace of commands
/// that run outside.
pub(super) fn spawn(
    control: BorrowedFd<'_>,
    outside: BorrowedFd<'_>,
    spec: &CommandSpec,
) -> Result<Child, SandboxError> {
    let program = spec.argv.first().cloned().unwrap_or_default();
    if program.is_empty() {
        return Err(SandboxError::Invalid("no command was given".to_owned()));
    }
    let doing = "starting a command";
    let bytes = wire::encode(&spec.spawn_spec()).during(doing)?;
    let spec_file = sys::anonymous_file(c"overcoat-spec", &bytes).during(doing)?;
    // Pid 1 shares the file offset with us. It reads from the start, because we wrote by position.
    let (ours, theirs) = sys::message_pair().during(doing)?;
    let (exec_ours, exec_theirs) = sys::message_pair().during(doing)?;
    let null =
        File::options().read(true).write(true).open("/dev/null").during("opening /dev/null")?;
    let streams = [
        stream(&spec.stdin, io::stdin(), &null).during(doing)?,
        stream(&spec.stdout, io::stdout(), &null).during(doing)?,
        stream(&spec.stderr, io::stderr(), &null).during(doing)?,
    ];
    let mut fds = vec![
        spec_file.as_fd(),
        exec_theirs.as_fd(),
        theirs.as_fd(),
        streams[0].as_fd(),
        streams[1].as_fd(),
        streams[2].as_fd(),
    ];
    if spec.outside {
        fds.push(outside);
    }
    sys::send(control, &[wire::SPAWN], &fds)
        .map_err(|error| SandboxError::Ended(error.to_string()))?;
    drop((theirs, exec_theirs, streams));
    // The other end closes on exec, or reports why the command was not executed.
    let message = sys::receive(exec_ours.as_fd()).during(doing)?;
    match message.bytes.as_slice() {
        [wire::FAILED, rest @ ..] => {
            let failure = wire::parse_failure(rest);
            let hint = exec_hint(&failure.doing, failure.errno, &program);
            let source = io::Error::from_raw_os_error(failure.errno);
            Err(SandboxError::Command { program, doing: failure.doing, source, hint })
        }
        _ => Ok(Child { socket: ours, status: None }),
    }
}

fn stream(stdio: &Stdio, own: impl AsFd, null: &File) -> io::Result<OwnedFd> {
    match stdio {
        Stdio::Inherit => sys::duplicate(own).or_else(|_| sys::duplicate(null)),
        Stdio::Null => sys::duplicate(null),
        Stdio::Fd(fd) => sys::duplicate(fd),
    }
}

fn exec_hint(doing: &str, errno: i32, program: &OsStr) -> Option<&'static str> {
    if doing != EXECUTING {
        return None;
    }
    let is_path = program.as_encoded_bytes().contains(&b'/');
    match errno {
        libc::ENOENT if is_path => {
            Some("the file or the interpreter in its first line is missing in the image")
        }
        libc::ENOENT => Some("it is not in the PATH inside the image"),
        libc::EACCES => Some("it is not executable"),
        libc::ENOEXEC => Some("it is built for another architecture"),
        _ => None,
    }
}
