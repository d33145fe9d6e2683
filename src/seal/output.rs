//! Where an archive goes: a file that appears whole or not at all, or standard output.
//!
//! A new file has no name until it is complete (`O_TMPFILE`): whatever ends the process, SIGKILL
//! included, nothing is left of it. Committing it is
//! 1. `fsync` of the file,
//! 2. `linkat` to its name, or, when something is there already, `linkat` to a temporary name
//!    `.NAME.XXXX.partial` beside it and `renameat` over it (only between these two calls could a
//!    kill leave the temporary name),
//! 3. `fsync` of the directory.
//!
//! A file system without `O_TMPFILE` gets the temporary name from the start; it is removed unless
//! the file is committed, but not after SIGKILL. A symbolic link is followed: the file that it
//! names is replaced. A device or a fifo (`/dev/null`) is written as it is.
//!
//! Several outputs of one job are committed together by [`commit`].

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
use super::patient::Patient;

/// Something to write to.
#[derive(Debug)]
pub struct Output {
    name: String,
    target: Target,
}

#[derive(Debug)]
enum Target {
    Stdout(io::Stdout),
    /// A device or a fifo.
    Special(File),
    /// A descriptor of somebody else's.
    Given(Patient),
    Pending(Pending),
}

/// A file that is not there yet.
#[derive(Debug)]
struct Pending {
    file: File,
    directory: OwnedFd,
    name: OsString,
    /// The name it has meanwhile, if it has one.
    temporary: Option<OsString>,
}

impl Output {
    /// A file. Its directory must exist and be writable: that is found now, not at the end.
    ///
    /// # Errors
    /// When the directory cannot be written, or the path is a directory.
    pub fn file(path: &Path) -> Result<Self, SealError> {
        let name = path.display().to_string();
        match Target::open(path) {
            Ok(target) => Ok(Output { name, target }),
            Err(error) if error.kind() == io::ErrorKind::IsADirectory => {
                Err(SealError::IsADirectory { path: name })
            }
            Err(source) => Err(SealError::Write { to: name, source }),
        }
    }

    /// Standard output.
    ///
    /// # Errors
    /// When it is a terminal.
    pub fn stdout() -> Result<Self, SealError> {
        let stdout = io::stdout();
        if stdout.is_terminal() {
            return Err(SealError::Terminal);
        }
        Ok(Output { name: "standard output".into(), target: Target::Stdout(stdout) })
    }

    /// A file that is open already, and never has to be waited for: what is written to it is there
    /// at once.
    pub fn opened(file: File, name: &str) -> Self {
        Output { name: name.to_owned(), target: Target::Special(file) }
    }

    /// A descriptor that somebody else gave: what is written to it is there at once.
    pub fn given(to: Patient, name: &str) -> Self {
        Output { name: name.to_owned(), target: Target::Given(to) }
    }

    /// Where it goes, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether a reader that goes away early is no error.
    pub(super) fn may_break(&self) -> bool {
        !matches!(self.target, Target::Pending(_))
    }

    /// An error of this output.
    pub(super) fn error(&self, source: io::Error) -> SealError {
        SealError::Write { to: self.name.clone(), source }
    }
}

/// Gives all outputs their names: first everything is brought to the disk, so that a full disk
/// stops all of them, then they are named in the order given (the archive, then its manifest,
/// which states the archive's digest, so that a pair that does not match can be told).
///
/// # Errors
/// The first that fails; those after it are not committed.
pub fn commit(outputs: Vec<Output>) -> Result<(), SealError> {
    let mut outputs = outputs;
    for output in &mut outputs {
        output.settle().map_err(|source| output.error(source))?;
    }
    for mut output in outputs {
        if let Target::Pending(pending) = &mut output.target
            && let Err(source) = pending.publish()
        {
            return Err(output.error(source));
        }
    }
    Ok(())
}

impl Output {
    fn settle(&mut self) -> io::Result<()> {
        match &mut self.target {
            Target::Stdout(stdout) => stdout.flush(),
            Target::Special(file) => file.flush(),
            Target::Given(given) => given.flush(),
            Target::Pending(pending) => pending.file.sync_all(),
        }
    }
}

impl Write for Output {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match &mut self.target {
            Target::Stdout(stdout) => stdout.write(data),
            Target::Special(file) => file.write(data),
            Target::Given(given) => given.write(data),
            Target::Pending(pending) => pending.file.write(data),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.target {
            Target::Stdout(stdout) => stdout.flush(),
            Target::Special(file) => file.flush(),
            Target::Given(given) => given.flush(),
            Target::Pending(pending) => pending.file.flush(),
        }
    }
}

impl Target {
    fn open(path: &Path) -> io::Result<Self> {
        match std::fs::metadata(path) {
            Ok(found) if found.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
            Ok(found)
                if found.file_type().is_char_device()
                    || found.file_type().is_block_device()
                    || found.file_type().is_fifo() =>
            {
                return Ok(Target::Special(File::options().write(true).open(path)?));
            }
            Ok(_) | Err(_) => {}
        }
        Pending::create(&follow(path)?).map(Target::Pending)
    }
}

/// The path that a symbolic link at `path` leads to, itself when there is none.
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

impl Pending {
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
        // Less the umask, as any file.
        let mode = Mode::from_raw_mode(0o666);
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        match rustix::fs::openat(&directory, ".", flags | OFlags::TMPFILE, mode) {
            Ok(file) if can_be_named(file.as_fd()) => {
                return Ok(Pending { file: file.into(), directory, name, temporary: None });
            }
            Ok(_) | Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
        let flags = flags | OFlags::CREATE | OFlags::EXCL;
        let (temporary, file) = with_temporary_name(&name, |temporary| {
            rustix::fs::openat(&directory, temporary, flags, mode)
        })?;
        Ok(Pending { file: file.into(), directory, name, temporary: Some(temporary) })
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

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // Nothing can be done about a failure here; the name says what the file is.
            let _ = rustix::fs::unlinkat(&self.directory, temporary, AtFlags::empty());
        }
    }
}

/// Whether an unnamed file can be given a name later: that takes /proc.
fn can_be_named(file: impl AsFd) -> bool {
    rustix::fs::statat(CWD, proc_path(file), AtFlags::empty()).is_ok()
}

fn link(file: impl AsFd, directory: &OwnedFd, name: &OsStr) -> rustix::io::Result<()> {
    rustix::fs::linkat(CWD, proc_path(file), directory, name, AtFlags::SYMLINK_FOLLOW)
}

fn proc_path(file: impl AsFd) -> String {
    format!("/proc/self/fd/{}", file.as_fd().as_raw_fd())
}

/// Calls `create` with names that nobody has, until it gets one.
fn with_temporary_name<T>(
    name: &OsStr,
    mut create: impl FnMut(&OsStr) -> rustix::io::Result<T>,
) -> io::Result<(OsString, T)> {
    // NAME_MAX less what is put around it.
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
