//! [`Machine`]: the interface through which provisioners change a root and run commands in it.
//!
//! Paths are absolute, inside the root, and bytes (a [`Path`] on Unix). Symbolic links are resolved
//! inside the root: an absolute target starts at the root, never at the host's `/`.
//!
//! - A symbolic link in the **last** component of a path is not followed by
//!   [`stat`](Machine::stat), [`put`](Machine::put), [`set_attributes`](Machine::set_attributes),
//!   [`remove`](Machine::remove) and [`revert`](Machine::revert). [`read`](Machine::read),
//!   [`read_below`](Machine::read_below) and [`list`](Machine::list) follow it.
//! - Symbolic links in **parent** components are followed, so a file for `/lib/udev` is created in
//!   `/usr/lib/udev` where `/lib` is a link to `usr/lib`.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A name in the directory of [`Machine::root_outside`] that does not exist. When a command outside
/// looks it up, the machine restores what it shows for the duration of a step, such as the host's
/// name servers, before it answers.
pub const CALLBACK_NAME: &str = ".overcoat-callback";

/// A root in which commands can run and whose files can be changed.
pub trait Machine {
    /// Runs a command inside the root and waits for it. Its standard output and standard error go
    /// to `log` as they arrive; its standard input is [`Command::stdin`].
    ///
    /// The machine sets `PATH`, `HOME`, `LC_ALL`, proxies and `SOURCE_DATE_EPOCH`. Variables of
    /// [`Command::env`] override these.
    ///
    /// # Errors
    ///
    /// Fails if the command cannot be started or waited for. A command that ran and failed is not
    /// an error but an [`Exit`].
    fn run(&mut self, command: &Command, log: &mut dyn Log) -> Result<Exit, MachineError>;

    /// Returns the path of the root for commands that run [outside](Command::outside); `None` if
    /// the machine cannot run commands outside.
    fn root_outside(&self) -> Option<PathBuf> {
        None
    }

    /// Writes a file that commands inside can read and execute, but that is not part of the image.
    /// Creates parent directories, replaces a file of the same name, and returns the path inside
    /// the root.
    ///
    /// # Errors
    ///
    /// Fails if `content` cannot be read or the file cannot be written.
    fn scratch(
        &mut self,
        name: &Path,
        content: &mut dyn Read,
        mode: u32,
    ) -> Result<PathBuf, MachineError>;

    /// Returns type and attributes of the object at `path`, or `None` if it does not exist.
    ///
    /// # Errors
    ///
    /// Fails if the root cannot be read.
    fn stat(&self, path: &Path) -> Result<Option<Stat>, MachineError>;

    /// Returns the content of the regular file at `path`, or `None` if it does not exist.
    ///
    /// # Errors
    ///
    /// Fails if the object is not a regular file or cannot be read.
    fn read(&self, path: &Path) -> Result<Option<Vec<u8>>, MachineError>;

    /// Returns the content that the file at `path` has in the lower layers, regardless of changes
    /// made since; `None` if they have no such file. The default implementation is for a machine
    /// without layers.
    ///
    /// # Errors
    ///
    /// Fails if the lower layers cannot be read.
    fn read_below(&self, path: &Path) -> Result<Option<Vec<u8>>, MachineError> {
        let _ = path;
        Ok(None)
    }

    /// Returns the entries of the directory at `dir`, in any order; empty if it does not exist.
    ///
    /// # Errors
    ///
    /// Fails if the directory cannot be read.
    fn list(&self, dir: &Path) -> Result<Vec<Entry>, MachineError>;

    /// Creates `path` and its missing parents (0755, owner 0:0). Replaces an existing object,
    /// symbolic links included, with two exceptions: putting a directory leaves an existing
    /// directory, or a link to one, unchanged (attributes included), and nothing else replaces a
    /// directory.
    ///
    /// # Errors
    ///
    /// Fails if the object cannot be created, or if anything but a directory is put where a
    /// directory exists.
    fn put(&mut self, path: &Path, node: Node<'_>, meta: &Meta) -> Result<(), MachineError>;

    /// Changes mode and owner of the object at `path`; a symbolic link keeps its mode.
    ///
    /// # Errors
    ///
    /// Fails if the object does not exist, or if its attributes cannot be changed.
    fn set_attributes(&mut self, path: &Path, to: &Attributes) -> Result<(), MachineError>;

    /// Removes the object at `path`, a directory with its content. Succeeds if it does not exist.
    ///
    /// # Errors
    ///
    /// Fails if the object cannot be removed.
    fn remove(&mut self, path: &Path) -> Result<(), MachineError>;

    /// Reverts `path` to its state in the lower layers: restores the object that they have there,
    /// and removes an object that they do not have. The default implementation, for a machine
    /// without layers, removes.
    ///
    /// # Errors
    ///
    /// Fails if the object cannot be restored or removed.
    fn revert(&mut self, path: &Path) -> Result<(), MachineError> {
        self.remove(path)
    }
}

/// Receives the output of commands.
pub trait Log {
    /// Receives the next bytes, not necessarily whole lines.
    fn output(&mut self, bytes: &[u8]);

    /// Called when a task of an Ansible role starts.
    fn task_started(&mut self, name: &str) {
        let _ = name;
    }

    /// Called when a task of an Ansible role has ended.
    fn task_ended(&mut self, name: &str, took: Duration) {
        let _ = (name, took);
    }
}

/// Discards the output.
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
    /// Variables that override those of the machine's environment.
    pub env: Vec<(OsString, OsString)>,
    /// The working directory, inside the root.
    pub cwd: PathBuf,
    /// Whether to run in the host's tree instead: with the host's programs and files, but with no
    /// more rights than commands inside have.
    pub outside: bool,
    /// The standard input.
    pub stdin: Vec<u8>,
}

impl Command {
    /// Creates a command without arguments that runs in `/`.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            argv: vec![program.as_ref().to_owned()],
            env: Vec::new(),
            cwd: PathBuf::from("/"),
            outside: false,
            stdin: Vec::new(),
        }
    }

    /// Creates a command that runs in the host's tree.
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
    /// The exit code.
    Code(i32),
    /// The number of the signal that killed it.
    Signal(i32),
}

impl Exit {
    /// Returns whether the exit code is 0.
    pub fn success(self) -> bool {
        self == Self::Code(0)
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(127) => f.write_str("exit code 127 (command not found)"),
            Self::Code(126) => f.write_str("exit code 126 (command cannot be executed)"),
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => match signal_name(*signal) {
                Some(name) => write!(f, "signal {signal} ({name})"),
                None => write!(f, "signal {signal}"),
            },
        }
    }
}

/// Returns the name of a signal whose number is the same on all architectures of Linux.
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

/// A new object for [`Machine::put`].
pub enum Node<'a> {
    /// A directory.
    Directory,
    /// A regular file with this content.
    File(&'a mut dyn Read),
    /// A symbolic link with this target, which is not changed.
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

/// The attributes of a new object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Meta {
    /// Permission, setuid, setgid and sticky bits. The default is 0755 for directories and 0644
    /// for files.
    pub mode: Option<u32>,
    /// User id of the owner.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Modification time. The default is the current time.
    pub mtime: Option<Time>,
}

/// A timestamp of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    /// Seconds since 1970-01-01T00:00:00Z, negative before.
    pub seconds: i64,
    /// Nanoseconds within the second, less than 1,000,000,000.
    pub nanoseconds: u32,
}

/// A change of attributes. `None` leaves an attribute unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attributes {
    /// Permission, setuid, setgid and sticky bits.
    pub mode: Option<u32>,
    /// User id of the owner.
    pub uid: Option<u32>,
    /// Group id.
    pub gid: Option<u32>,
}

/// An entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// Name within the directory.
    pub name: OsString,
    /// File type.
    pub kind: Kind,
}

/// Type and attributes of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// File type.
    pub kind: Kind,
    /// Permission, setuid, setgid and sticky bits.
    pub mode: u32,
    /// User id of the owner.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Size of a regular file, in bytes.
    pub size: u64,
    /// Modification time.
    pub mtime: Time,
}

/// The file types that provisioners distinguish.
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

/// An operation of a [`Machine`] failed.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// An operation on a path failed.
    #[error("cannot {action} {path}", path = path.display())]
    Path {
        /// The operation as a verb: `write`, `remove`.
        action: &'static str,
        /// The path inside the root.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A command could not be started or waited for.
    #[error("cannot run {program}", program = program.to_string_lossy())]
    Run {
        /// The program.
        program: OsString,
        /// The cause.
        source: io::Error,
    },
    /// Any other failure, such as a sandbox that has ended.
    #[error(transparent)]
    Other(Box<dyn std::error::Error + Send + Sync>),
}

impl MachineError {
    /// Creates the error of a failed operation on a path.
    pub fn path(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Path { action, path: path.to_owned(), source }
    }
}
