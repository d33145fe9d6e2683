//! A root as the machine that provisioners act on: files are written to the tree, commands run in
//! the sandbox.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fs_model::tree::{Follow, SetAttr};
use fs_model::{FileType, Time};
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::pipe2;
use provisioners::machine::{
    Attributes, Command, Entry, Exit, Kind, Log, MachineError, Meta, Node, Stat,
};
use provisioners::{Machine, machine};

use crate::manifest::lower;
use crate::root::ServedRoot;
use crate::root::lend::SCRATCH_DIR;
use crate::root::mounted_tree::{
    self, CreateAs, MountedTree, MountedTreeError, MountedTreeErrorKind,
};
use crate::sandbox::{
    Child, CommandSpec, ExitStatus, Sandbox, SandboxError, Session, Signals, Stdio,
};

/// A root as a provisioner's machine.
#[derive(Debug)]
pub(crate) struct RootMachine<'a> {
    root: &'a ServedRoot,
    mounted_tree: &'a MountedTree,
    sandbox: &'a Sandbox,
    signals: &'a Signals,
    environment: Vec<(OsString, OsString)>,
    interrupted: Option<i32>,
}

impl<'a> RootMachine<'a> {
    /// Creates a machine whose commands get `environment`, and are abandoned when a signal asks
    /// this process to end.
    ///
    /// # Errors
    /// Fails if the sandbox of `root` has ended.
    pub(crate) fn new(
        root: &'a ServedRoot,
        signals: &'a Signals,
        environment: Vec<(OsString, OsString)>,
    ) -> Result<Self, SandboxError> {
        let (mounted_tree, sandbox) = (root.mounted_tree(), root.sandbox()?);
        Ok(RootMachine { root, mounted_tree, sandbox, signals, environment, interrupted: None })
    }

    /// Returns the signal that asked this process to end while a command ran.
    pub(crate) fn interrupted(&self) -> Option<i32> {
        self.interrupted
    }
}

fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

fn kind(kind: FileType) -> Kind {
    match kind {
        FileType::Directory => Kind::Directory,
        FileType::Regular => Kind::File,
        FileType::Symlink => Kind::Symlink,
        _ => Kind::Other,
    }
}

fn failed(action: &'static str) -> impl FnOnce(MountedTreeError) -> MachineError {
    move |error| {
        let path = PathBuf::from(OsString::from_vec(error.path));
        let source = match error.source {
            MountedTreeErrorKind::Content(source) => source,
            MountedTreeErrorKind::Tree(source) => io::Error::other(source),
        };
        MachineError::Path { action, path, source }
    }
}

fn spawn_failed(program: &OsStr, error: SandboxError) -> MachineError {
    MachineError::Run { program: program.to_owned(), source: io::Error::other(error) }
}

/// Returns an anonymous file with this content, positioned at its start.
fn memory_file(content: &[u8]) -> io::Result<OwnedFd> {
    let fd = nix::sys::memfd::memfd_create(c"stdin", nix::sys::memfd::MFdFlags::MFD_CLOEXEC)?;
    let mut file = File::from(fd);
    file.write_all(content)?;
    io::Seek::rewind(&mut file)?;
    Ok(file.into())
}

/// Copies a command's output to `log` until the command has ended, or until a signal asks this
/// process to end, which is returned. Processes that the command left running may still hold the
/// pipe; they are not waited for.
fn copy_output(
    mut output: File,
    child: &Child,
    signals: &Signals,
    log: &mut dyn Log,
) -> io::Result<Option<i32>> {
    let mut buffer = [0; 16 << 10];
    let mut closed = false;
    loop {
        let mut fds = [
            PollFd::new(child.as_fd(), PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(output.as_fd(), PollFlags::POLLIN),
        ];
        let watched = if closed { 2 } else { 3 };
        match poll(&mut fds[..watched], PollTimeout::NONE) {
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => continue,
            Err(e) => return Err(e.into()),
        }
        let ready = |fd: &PollFd<'_>| fd.any().unwrap_or(true);
        let (ended, signalled) = (ready(&fds[0]), ready(&fds[1]));
        let written = !closed && ready(&fds[2]);
        if signalled && let Some(signal) = signals.interruption() {
            return Ok(Some(signal as i32));
        }
        if written {
            // When the command has ended, the pipe contains all of its output: read it before
            // checking for the end again.
            match output.read(&mut buffer) {
                Ok(0) => closed = true,
                Ok(len) => log.output(&buffer[..len]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        } else if ended {
            return Ok(None);
        }
    }
}

impl Machine for RootMachine<'_> {
    fn run(&mut self, command: &Command, log: &mut dyn Log) -> Result<Exit, MachineError> {
        let program = command.argv.first().cloned().unwrap_or_default();
        let fail = |source| MachineError::Run { program: program.clone(), source };
        self.root.refresh_loans().map_err(|e| fail(io::Error::other(e)))?;
        let mut spec = CommandSpec::new(command.argv.iter().cloned());
        spec.env = self.environment.clone();
        for (name, value) in self.root.environment() {
            spec.env.retain(|(known, _)| known != name.as_str());
            spec.env.push((name.into(), value.into()));
        }
        // Programs outside use the host's paths and settings.
        let hosts = ["PATH", "HOME"].into_iter().filter(|_| command.outside);
        let hosts = hosts.filter_map(|name| Some((name.into(), std::env::var_os(name)?)));
        // The host's own zone must not get into the image.
        let zone = command.outside.then(|| ("TZ".into(), "UTC".into()));
        for (name, value) in hosts.chain(zone).chain(command.env.iter().cloned()) {
            spec.env.retain(|(n, _)| *n != name);
            spec.env.push((name, value));
        }
        spec.cwd = command.cwd.clone();
        spec.outside = command.outside;
        spec.session = Session::Own;
        spec.stdin = match command.stdin.as_slice() {
            [] => Stdio::Null,
            content => Stdio::Fd(memory_file(content).map_err(fail)?),
        };
        let (ours, theirs) = pipe2(OFlag::O_CLOEXEC).map_err(|e| fail(e.into()))?;
        spec.stdout = Stdio::Fd(theirs.try_clone().map_err(fail)?);
        spec.stderr = Stdio::Fd(theirs);
        let mut child = self.sandbox.spawn(&spec).map_err(|e| spawn_failed(&program, e))?;
        // The pipe ends when all writers have closed it, so close ours.
        drop(spec);
        if let Some(signal) =
            copy_output(File::from(ours), &child, self.signals, log).map_err(fail)?
        {
            self.interrupted = Some(signal);
            return Ok(Exit::Signal(signal));
        }
        match child.wait().map_err(|e| spawn_failed(&program, e))? {
            ExitStatus::Code(code) => Ok(Exit::Code(code)),
            ExitStatus::Signal(signal) => Ok(Exit::Signal(signal)),
        }
    }

    fn root_outside(&self) -> Option<PathBuf> {
        self.sandbox.root_outside().map(Path::to_owned)
    }

    fn scratch(
        &mut self,
        name: &Path,
        content: &mut dyn Read,
        mode: u32,
    ) -> Result<PathBuf, MachineError> {
        let path = Path::new(SCRATCH_DIR).join(name);
        let meta = mounted_tree::Meta { mode: (mode & 0o7777) as u16, uid: 0, gid: 0, mtime: None };
        self.mounted_tree
            .put_file(bytes(&path), content, &meta, CreateAs::ScratchEntry)
            .map_err(failed("write"))?;
        Ok(path)
    }

    fn stat(&self, path: &Path) -> Result<Option<Stat>, MachineError> {
        let found = self.mounted_tree.stat(bytes(path), Follow::No).map_err(failed("stat"))?;
        Ok(found.map(|(_, attr)| Stat {
            kind: kind(attr.kind),
            mode: attr.mode.into(),
            uid: attr.uid,
            gid: attr.gid,
            size: if attr.kind == FileType::Regular { attr.size } else { 0 },
            mtime: machine::Time { seconds: attr.mtime.secs, nanoseconds: attr.mtime.nanos },
        }))
    }

    fn read(&self, path: &Path) -> Result<Option<Vec<u8>>, MachineError> {
        self.mounted_tree.read(bytes(path)).map_err(failed("read"))
    }

    fn read_below(&self, path: &Path) -> Result<Option<Vec<u8>>, MachineError> {
        let layers = self.mounted_tree.tree().layers();
        let tree = lower::lower_tree(layers).map_err(|e| MachineError::Path {
            action: "read from the lower layers",
            path: path.to_owned(),
            source: io::Error::other(e),
        })?;
        MountedTree::new(Arc::new(tree))
            .read(bytes(path))
            .map_err(failed("read from the lower layers"))
    }

    fn list(&self, dir: &Path) -> Result<Vec<Entry>, MachineError> {
        let names = self.mounted_tree.list(bytes(dir)).map_err(failed("list"))?;
        let entry = |(name, k)| Entry { name: OsString::from_vec(name), kind: kind(k) };
        Ok(names.into_iter().map(entry).collect())
    }

    fn put(&mut self, path: &Path, node: Node<'_>, meta: &Meta) -> Result<(), MachineError> {
        let default_mode = if matches!(node, Node::Directory) { 0o755 } else { 0o644 };
        let to = mounted_tree::Meta {
            mode: (meta.mode.unwrap_or(default_mode) & 0o7777) as u16,
            uid: meta.uid,
            gid: meta.gid,
            mtime: meta.mtime.map(|t| Time { secs: t.seconds, nanos: t.nanoseconds }),
        };
        let path = bytes(path);
        let put = match node {
            Node::Directory => match self.mounted_tree.stat(path, Follow::Yes) {
                Ok(Some((_, attr))) if attr.kind == FileType::Directory => Ok(()),
                Ok(_) => self.mounted_tree.put_directory(path, &to, CreateAs::ImageEntry),
                Err(e) => Err(e),
            },
            Node::File(content) => {
                self.mounted_tree.put_file(path, content, &to, CreateAs::ImageEntry)
            }
            Node::Symlink(target) => {
                self.mounted_tree.put_symlink(path, bytes(target), &to, CreateAs::ImageEntry)
            }
        };
        put.map_err(failed("write"))
    }

    fn set_attributes(&mut self, path: &Path, to: &Attributes) -> Result<(), MachineError> {
        let link = self.stat(path)?.is_some_and(|s| s.kind == Kind::Symlink);
        let set = SetAttr {
            mode: to.mode.filter(|_| !link).map(|mode| (mode & 0o7777) as u16),
            uid: to.uid,
            gid: to.gid,
            ..SetAttr::default()
        };
        self.mounted_tree.set_attributes(bytes(path), &set).map_err(failed("change"))
    }

    fn remove(&mut self, path: &Path) -> Result<(), MachineError> {
        self.mounted_tree.remove(bytes(path)).map_err(failed("remove"))
    }

    fn revert(&mut self, path: &Path) -> Result<(), MachineError> {
        self.mounted_tree.revert(bytes(path)).map_err(failed("revert"))
    }
}
