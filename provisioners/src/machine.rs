//! The root that a provisioner acts on, as a provisioner sees it.
//!
//! Paths are absolute, inside the root, and bytes (a [`Path`] on Unix). Symbolic links are those of
//! the root: an absolute target starts at the root again, never at the host's `/`.
//!
//! - The **last** component of a path is never followed by [`stat`](Machine::stat),
//!   [`put`](Machine::put), [`set_attributes`](Machine::set_attributes), [`remove`](Machine::remove)
//!   and [`revert`](Machine::revert); [`read`](Machine::read), [`read_below`](Machine::read_below) and [`list`](Machine::list) follow
//!   it.
//! - **Parent** components are followed, so a file for `/lib/udev` lands in `/usr/lib/udev` where
//!   `/lib` is a link to `usr/lib`.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// A root in which commands can be run and whose files can be changed.
pub trait Machine {
    /// Runs a command inside the root and waits for it. Its standard output and standard error go
    /// to `log` as they come, byte by byte; its standard input is [`Command::stdin`].
    ///
    /// The machine gives the command a sensible environment (`PATH`, `HOME`, `LC_ALL`, proxies,
    /// `SOURCE_DATE_EPOCH`); [`Command::env`] is laid over it.
    ///
    /// # Errors
    /// When the command can't be started. A command that ran and failed is an [`Exit`].
    fn run(&mut self, command: &Command, log: &mut dyn Log) -> Result<Exit, MachineError>;

    /// Where commands that run [outside](Command::outside) find the root; `None` when none can.
    fn root_outside(&self) -> Option<PathBuf> {
        None
    }

    /// Puts a file where commands inside can read and execute it, but which is no part of the
    /// root and never captured. Returns its path inside. Parents are created; a file of the same
    /// name is replaced.
    fn scratch(
        &mut self,
        name: &Path,
        content: &mut dyn Read,
        mode: u32,
    ) -> Result<PathBuf, MachineError>;

    /// What is at `path`, or `None` when nothing is.
    fn stat(&self, path: &Path) -> Result<Option<Stat>, MachineError>;

    /// The content of the regular file at `path`, or `None` when nothing is there.
    fn read(&self, path: &Path) -> Result<Option<Vec<u8>>, MachineError>;

    /// What the layers that the root was composed of have in the file at `path`, whatever was done
    /// to it since; `None` when they have none. A machine without layers has nothing beneath.
    fn read_below(&self, path: &Path) -> Result<Option<Vec<u8>>, MachineError> {
        let _ = path;
        Ok(None)
    }

    /// The entries of the directory at `dir`, in any order; none when there is no such directory.
    fn list(&self, dir: &Path) -> Result<Vec<Entry>, MachineError>;

    /// Creates `path`. Parents that do not exist are created (0755, owner 0:0). What is there is
    /// replaced, a symbolic link included, with two exceptions: an existing directory, or a link
    /// to one, stays as it is when a directory is put (its attributes too), and a directory is
    /// never replaced by anything else.
    fn put(&mut self, path: &Path, node: Node<'_>, meta: &Meta) -> Result<(), MachineError>;

    /// Changes mode and owner of what is at `path`; a symbolic link keeps its mode.
    fn set_attributes(&mut self, path: &Path, to: &Attributes) -> Result<(), MachineError>;

    /// Removes what is at `path`, a directory with all it holds. Nothing there is no error.
    fn remove(&mut self, path: &Path) -> Result<(), MachineError>;

    /// Takes back what was done to `path` since the root was composed: what the layers below had
    /// there shows again, and what they did not have is gone. A machine without layers removes.
    fn revert(&mut self, path: &Path) -> Result<(), MachineError> {
        self.remove(path)
    }
}

/// Where the output of a command goes.
pub trait Log {
    /// The next bytes; not necessarily whole lines.
    fn output(&mut self, bytes: &[u8]);
}

/// Drops the output.
impl Log for () {
    fn output(&mut self, _: &[u8]) {}
}

/// Collects the output.
impl Log for Vec<u8> {
    fn output(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// A command to run inside a root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// The program, looked up in the root's `PATH`, and its arguments.
    pub argv: Vec<OsString>,
    /// Variables laid over the machine's own environment.
    pub env: Vec<(OsString, OsString)>,
    /// The working directory inside the root.
    pub cwd: PathBuf,
    /// Runs in the host's tree instead: with the host's programs and files, but with no rights that
    /// commands inside do not have.
    pub outside: bool,
    /// What the command reads on its standard input; nothing at all when empty.
    pub stdin: Vec<u8>,
}

impl Command {
    /// A command without arguments, in `/`.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            argv: vec![program.as_ref().to_owned()],
            env: Vec::new(),
            cwd: PathBuf::from("/"),
            outside: false,
            stdin: Vec::new(),
        }
    }

    /// A command that runs in the host's tree.
    pub fn outside(program: impl AsRef<OsStr>) -> Self {
        Self { outside: true, ..Self::new(program) }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.argv.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(mut self, args: I) -> Self {
        self.argv.extend(args.into_iter().map(|a| a.as_ref().to_owned()));
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It exited with this code.
    Code(i32),
    /// It was ended by this signal.
    Signal(i32),
}

impl Exit {
    /// Whether the code is 0.
    pub fn success(self) -> bool {
        self == Self::Code(0)
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(127) => f.write_str("exit code 127 (a command was not found)"),
            Self::Code(126) => f.write_str("exit code 126 (a command could not be executed)"),
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => match signal_name(*signal) {
                Some(name) => write!(f, "signal {signal} ({name})"),
                None => write!(f, "signal {signal}"),
            },
        }
    }
}

/// The name of a signal whose number is the same on all of Linux's architectures.
fn signal_name(signal: i32) -> Option<&'static str> {
    Some(match signal {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        6 => "SIGABRT",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        14 => "SIGALRM",
        15 => "SIGTERM",
        _ => return None,
    })
}

/// What to put at a path.
pub enum Node<'a> {
    /// A directory.
    Directory,
    /// A regular file with this content.
    File(&'a mut dyn Read),
    /// A symbolic link to this target, kept as it is written.
    Symlink(&'a Path),
}

impl fmt::Debug for Node<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory => f.write_str("Directory"),
            Self::File(_) => f.write_str("File(…)"),
            Self::Symlink(target) => f.debug_tuple("Symlink").field(target).finish(),
        }
    }
}

/// The attributes of what is put.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Meta {
    /// Permission bits, setuid, setgid and sticky; by default 0755 for directories, 0644 for files.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of the last modification; by default now.
    pub mtime: Option<Time>,
}

/// A point in time as file systems keep it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    /// Seconds since 1970, negative before.
    pub seconds: i64,
    /// Nanoseconds after that, below a billion.
    pub nanoseconds: u32,
}

/// A change of attributes; `None` leaves one as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attributes {
    /// Permission bits, setuid, setgid and sticky.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
}

/// An entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// Its name.
    pub name: OsString,
    /// What it is.
    pub kind: Kind,
}

/// What is at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// What it is.
    pub kind: Kind,
    /// Permission bits, setuid, setgid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes of content, of a regular file.
    pub size: u64,
    /// Time of the last modification.
    pub mtime: Time,
}

/// The types of file that a provisioner tells apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A symbolic link.
    Symlink,
    /// A device, a fifo or a socket.
    Other,
}

/// A machine could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// An operation on a path failed.
    #[error("cannot {action} {path}", path = path.display())]
    Path {
        /// What was tried, as a verb: `write`, `remove`.
        action: &'static str,
        /// The path inside the root.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A command could not be started, or waited for.
    #[error("cannot run {program}", program = program.to_string_lossy())]
    Run {
        /// The program.
        program: OsString,
        /// Why.
        source: io::Error,
    },
    /// Anything else, such as a sandbox that is gone.
    #[error(transparent)]
    Other(Box<dyn std::error::Error + Send + Sync>),
}

impl MachineError {
    /// An operation on a path failed.
    pub fn path(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Path { action, path: path.to_owned(), source }
    }
}
