//! The destination of an archive: a file that appears whole or not at all, or standard output.
//!
//! A new file has no name until it is complete (`O_TMPFILE`): nothing of it is left when the
//! process ends before that, even by SIGKILL. Committing it is
//! 1. `fsync` of the file,
//! 2. `linkat` to its name, or, if the name exists, `linkat` to a temporary name
//!    `.NAME.XXXX.partial` beside it and `renameat` over it (a kill leaves the temporary name only
//!    between these two calls),
//! 3. `fsync` of the directory.
//!
//! On a file system without `O_TMPFILE` the file has the temporary name from the start. It is
//! removed unless the file is committed, except after SIGKILL. A symbolic link is followed: the
//! file that it names is replaced. A device or a fifo (`/dev/null`) is written directly.
//!
//! The outputs of one job are committed together by [`commit`].

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use super::error::SealError;
use super::poll_writer::PollWriter;

/// A destination to write to.
#[derive(Debug)]
pub struct Output {
    name: String,
    target: OutputTarget,
}

#[derive(Debug)]
enum OutputTarget {
    Stdout(io::Stdout),
    /// A device or a fifo.
    Special(File),
    /// A descriptor of a client.
    Given(PollWriter),
    Pending(PendingFile),
}

/// A file without its final name.
#[derive(Debug)]
struct PendingFile {
    file: File,
    directory: OwnedFd,
    name: OsString,
    /// The temporary name, if it has one.
    temporary: Option<OsString>,
}

impl Output {
    /// Creates a file. Its directory must exist and be writable, which is checked now.
    ///
    /// # Errors
    /// Fails if the directory cannot be written, or the path is a directory.
    pub fn file(path: &Path) -> Result<Self, SealError> {
        let name = path.display().to_string();
        match OutputTarget::open(path) {
            Ok(target) => Ok(Output { name, target }),
            Err(error) if error.kind() == io::ErrorKind::IsADirectory => {
                Err(SealError::IsADirectory { path: name })
            }
            Err(source) => Err(SealError::Write { to: name, source }),
        }
    }

    /// Writes to standard output.
    ///
    /// # Errors
    /// Fails if standard output is a terminal.
    pub fn stdout() -> Result<Self, SealError> {
        let stdout = io::stdout();
        if stdout.is_terminal() {
            return Err(SealError::Terminal);
        }
        Ok(Output { name: "standard output".into(), target: OutputTarget::Stdout(stdout) })
    }

    /// Writes directly to an open file, whose writes do not block on a reader.
    pub fn opened(file: File, name: &str) -> Self {
        Output { name: name.to_owned(), target: OutputTarget::Special(file) }
    }

    /// Writes directly to a descriptor that a client passed.
    pub fn given(to: PollWriter, name: &str) -> Self {
        Output { name: name.to_owned(), target: OutputTarget::Given(to) }
    }

    /// Returns the destination's name, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether a reader may close this output early without an error.
    pub(super) fn may_close_early(&self) -> bool {
        !matches!(self.target, OutputTarget::Pending(_))
    }

    /// Returns an error of this output.
    pub(super) fn error(&self, source: io::Error) -> SealError {
        SealError::Write { to: self.name.clone(), source }
    }
}

/// Gives all outputs their names. First all data is synced to disk, so that a full disk fails all
/// of them. Then they are named in the given order: the archive, then its manifest, which has the
/// archive's digest, so that a pair that does not match can be detected.
///
/// # Errors
/// Returns the first failure; later outputs are not committed.
pub fn commit(outputs: Vec<Output>) -> Result<(), SealError> {
    let mut outputs = outputs;
    for output in &mut outputs {
        output.sync().map_err(|source| output.error(source))?;
    }
    for mut output in outputs {
        if let OutputTarget::Pending(pending) = &mut output.target
            && let Err(source) = pending.publish()
        {
            return Err(output.error(source));
        }
    }
    Ok(())
}

impl Output {
    fn sync(&mut self) -> io::Result<()> {
        match &mut self.target {
            OutputTarget::Stdout(stdout) => stdout.flush(),
            OutputTarget::Special(file) => file.flush(),
            OutputTarget::Given(given) => given.flush(),
            OutputTarget::Pending(pending) => pending.file.sync_all(),
        }
    }
}

impl Write for Output {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match &mut self.target {
            OutputTarget::Stdout(stdout) => stdout.write(data),
            OutputTarget::Special(file) => file.write(data),
            OutputTarget::Given(given) => given.write(data),
            OutputTarget::Pending(pending) => pending.file.write(data),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.target {
            OutputTarget::Stdout(stdout) => stdout.flush(),
            OutputTarget::Special(file) => file.flush(),
            OutputTarget::Given(given) => given.flush(),
            OutputTarget::Pending(pending) => pending.file.flush(),
        }
    }
}

impl OutputTarget {
    fn open(path: &Path) -> io::Result<Self> {
        match std::fs::metadata(path) {
            Ok(found) if found.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
            Ok(found)
                if found.file_type().is_char_device()
                    || found.file_type().is_block_device()
                    || found.file_type().is_fifo() =>
            {
                return Ok(OutputTarget::Special(File::options().write(true).open(path)?));
            }
            Ok(_) | Err(_) => {}
        }
        PendingFile::create(&follow(path)?).map(OutputTarget::Pending)
    }
}

/// Resolves a symbolic link at `path`; returns `path` if it is not one.
fn follow(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..40 {
        match std::fs::read_link(&path) {
            Ok(target) => path = path.parent().unwrap_or(Path::new("")).join(target),
            Err(_) => return Ok(path),
        }
    }
    Err(io::Error::from_raw_os_error(Errno::LOOP.raw_os_error()))
}

impl PendingFile {
    fn create(path: &Path) -> io::Result<Self> {
        let name = match path.file_name() {
            Some(name) if !path.as_os_str().as_bytes().ends_with(b"/") => name.to_owned(),
            _ => return Err(io::ErrorKind::IsADirectory.into()),
        };
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(CWD, parent, flags, Mode::empty())?;
        // The umask applies, as for any file.
        let mode = Mode::from_raw_mode(0o666);
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        match rustix::fs::openat(&directory, ".", flags | OFlags::TMPFILE, mode) {
            Ok(file) if can_be_named(file.as_fd()) => {
                give_to_owner(&file, &directory);
                return Ok(PendingFile { file: file.into(), directory, name, temporary: None });
            }
            Ok(_) | Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
        let flags = flags | OFlags::CREATE | OFlags::EXCL;
        let (temporary, file) = with_temporary_name(&name, |temporary| {
            rustix::fs::openat(&directory, temporary, flags, mode)
        })?;
        give_to_owner(&file, &directory);
        Ok(PendingFile { file: file.into(), directory, name, temporary: Some(temporary) })
    }

    /// Gives the file its name.
    fn publish(&mut self) -> io::Result<()> {
        if self.temporary.is_none() {
            match link(self.file.as_fd(), &self.directory, &self.name) {
                Ok(()) => return Ok(rustix::fs::fsync(&self.directory)?),
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno.into()),
            }
            let (temporary, ()) = with_temporary_name(&self.name, |temporary| {
                link(self.file.as_fd(), &self.directory, temporary)
            })?;
            self.temporary = Some(temporary);
        }
        if let Some(temporary) = &self.temporary {
            rustix::fs::renameat(&self.directory, temporary, &self.directory, &self.name)?;
            self.temporary = None;
        }
        Ok(rustix::fs::fsync(&self.directory)?)
    }
}

impl Drop for PendingFile {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // A failure here cannot be handled; the name marks the file as partial.
            let _ = rustix::fs::unlinkat(&self.directory, temporary, AtFlags::empty());
        }
    }
}

/// Gives a new file that root has created in a directory of another user to that user, who could
/// not replace or remove it otherwise.
pub(crate) fn give_to_owner(made: impl AsFd, directory: impl AsFd) {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    if let Ok(owner) = rustix::fs::fstat(directory).map(|stat| (stat.st_uid, stat.st_gid))
        && owner.0 != 0
    {
        // Without the capability, or on a file system of another host, it stays root's.
        let _ = std::os::unix::fs::fchown(made, Some(owner.0), Some(owner.1));
    }
}

/// Creates a directory and the missing ones above it, which belong to the owner of the directory
/// that each is in, if root creates them.
pub(crate) fn create_folders(path: &Path) -> io::Result<()> {
    if path.as_os_str().is_empty() || path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    create_folders(parent)?;
    match std::fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {
            return Ok(());
        }
        created => created?,
    }
    let open = |path: &Path, flags| {
        let flags = flags | OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat(CWD, path, flags, Mode::empty())
    };
    if let (Ok(made), Ok(parent)) = (open(path, OFlags::NOFOLLOW), open(parent, OFlags::empty())) {
        give_to_owner(made, parent);
    }
    Ok(())
}

/// Whether an unnamed file can be linked later, which requires /proc.
fn can_be_named(file: impl AsFd) -> bool {
    rustix::fs::statat(CWD, proc_path(file), AtFlags::empty()).is_ok()
}

fn link(file: impl AsFd, directory: &OwnedFd, name: &OsStr) -> rustix::io::Result<()> {
    rustix::fs::linkat(CWD, proc_path(file), directory, name, AtFlags::SYMLINK_FOLLOW)
}

fn proc_path(file: impl AsFd) -> String {
    format!("/proc/self/fd/{}", file.as_fd().as_raw_fd())
}

/// Returns the number of the process that wrote the file `other` to give it the name `name` when it
/// is complete; `None` if it is another file.
pub(crate) fn partial_file_process(other: &str, name: &str) -> Option<u32> {
    let ending = other.strip_prefix('.')?.strip_suffix(".partial")?;
    let number = ending.strip_prefix(name)?.strip_prefix('.')?;
    u32::from_str_radix(number.split_once('-').map_or(number, |(pid, _)| pid), 16).ok()
}

/// Calls `create` with temporary names until one is free.
fn with_temporary_name<T>(
    name: &OsStr,
    mut create: impl FnMut(&OsStr) -> rustix::io::Result<T>,
) -> io::Result<(OsString, T)> {
    // NAME_MAX without the prefix and the suffix.
    let stem = &name.as_bytes()[..name.len().min(200)];
    for attempt in 0..1000u32 {
        let ending = format!(".{:x}-{attempt:x}.partial", std::process::id());
        let temporary = OsString::from_vec([b".", stem, ending.as_bytes()].concat());
        match create(&temporary) {
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
            Ok(made) => return Ok((temporary, made)),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}
