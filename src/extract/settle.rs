//! From the directory in which everything was made to its place.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags, openat, renameat_with, statat,
};
use rustix::io::Errno;

use super::folder::ExtractError;

/// A new directory; it is gone with this, unless it became something.
#[derive(Debug)]
pub(super) struct Stage {
    path: PathBuf,
    there: bool,
}

impl Stage {
    /// A new directory in `place`, in which nobody else can make anything.
    pub(super) fn new(place: &Path) -> Result<Stage, ExtractError> {
        let mut builder = std::fs::DirBuilder::new();
        builder.mode(0o700);
        let path = place.join(format!(".overcoat-extract.{}", std::process::id()));
        match builder.create(&path) {
            Ok(()) => Ok(Stage { path, there: true }),
            Err(source) => Err(ExtractError::Write { path, source }),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Gets the name `target`, where nothing is.
    pub(super) fn becomes(&mut self, target: &Path) -> Result<(), ExtractError> {
        renameat_with(CWD, &self.path, CWD, target, RenameFlags::NOREPLACE).map_err(|errno| {
            ExtractError::Write { path: target.to_owned(), source: errno.into() }
        })?;
        self.there = false;
        Ok(())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if self.there {
            clear(&self.path);
        }
    }
}

/// Removes a directory of ours, whatever the modes in it. What fails is left.
fn clear(dir: &Path) {
    let _ = std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700));
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            clear(&entry.path());
        } else {
            let _ = std::fs::remove_file(entry.path());
        }
    }
    let _ = std::fs::remove_dir(dir);
}

/// Two directories, and where the second one is.
struct Pair<'a> {
    from: BorrowedFd<'a>,
    to: BorrowedFd<'a>,
    path: &'a Path,
}

/// Moves all that is in the stage into the folder `target`.
pub(super) fn into(
    stage: &Stage,
    target: &Path,
    force: bool,
    root: bool,
) -> Result<(), ExtractError> {
    rustix::fs::chmod(&stage.path, Mode::RWXU).map_err(failed(&stage.path))?;
    let open = |path: &Path| {
        openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(failed(path))
    };
    let (from, to) = (open(&stage.path)?, open(target)?);
    let pair = Pair { from: from.as_fd(), to: to.as_fd(), path: target };
    let mut found = Vec::new();
    pair.look(&mut found)?;
    if let Some(path) = found.first().cloned()
        && !force
    {
        return Err(ExtractError::Exists { path, more: found.len() - 1 });
    }
    pair.shift(force, root)
}

impl Pair<'_> {
    fn names(&self) -> Result<Vec<(PathBuf, FileType)>, ExtractError> {
        let mut names = Vec::new();
        for entry in Dir::read_from(self.from).map_err(failed(self.path))? {
            let entry = entry.map_err(failed(self.path))?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                let name = Path::new(std::ffi::OsStr::from_bytes(name));
                names.push((
                    name.to_owned(),
                    self.kind(self.from, name)?.unwrap_or(entry.file_type()),
                ));
            }
        }
        names.sort_by(|a, b| a.0.as_os_str().cmp(b.0.as_os_str()));
        Ok(names)
    }

    fn kind(&self, dir: BorrowedFd<'_>, name: &Path) -> Result<Option<FileType>, ExtractError> {
        match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(failed(&self.path.join(name))(errno)),
        }
    }

    /// The directories of this name on both sides.
    fn below(&self, name: &Path) -> Result<(OwnedFd, OwnedFd), ExtractError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = |dir: BorrowedFd<'_>| {
            openat(dir, name, flags, Mode::empty()).map_err(failed(&self.path.join(name)))
        };
        Ok((open(self.from)?, open(self.to)?))
    }

    /// Finds what is there and would be overwritten.
    fn look(&self, found: &mut Vec<PathBuf>) -> Result<(), ExtractError> {
        for (name, ours) in self.names()? {
            let path = self.path.join(&name);
            match self.kind(self.to, &name)? {
                None => {}
                Some(theirs) if ours.is_dir() && theirs.is_dir() => {
                    // It stays here, and must let go of what is in it.
                    rustix::fs::chmodat(self.from, &name, Mode::RWXU, AtFlags::empty())
                        .map_err(failed(&path))?;
                    let (from, to) = self.below(&name)?;
                    let pair = Pair { from: from.as_fd(), to: to.as_fd(), path: &path };
                    pair.look(found)?;
                }
                Some(theirs) if ours.is_dir() || theirs.is_dir() => {
                    return Err(ExtractError::InTheWay { path });
                }
                Some(_) => found.push(path),
            }
        }
        Ok(())
    }

    fn shift(&self, force: bool, root: bool) -> Result<(), ExtractError> {
        for (name, ours) in self.names()? {
            let path = self.path.join(&name);
            match self.kind(self.to, &name)? {
                Some(theirs) if ours.is_dir() && theirs.is_dir() => {
                    let (from, to) = self.below(&name)?;
                    Pair { from: from.as_fd(), to: to.as_fd(), path: &path }.shift(force, root)?;
                }
                _ => self.rename(&name, ours, force, root).map_err(failed(&path))?,
            }
        }
        Ok(())
    }

    fn rename(&self, name: &Path, kind: FileType, force: bool, root: bool) -> Result<(), Errno> {
        let flags = if force { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
        let rename = || renameat_with(self.from, name, self.to, name, flags);
        if !kind.is_dir() || root {
            return rename();
        }
        // A directory gets another parent, for which it must be writable.
        let mode = Mode::from_raw_mode(
            statat(self.from, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode & 0o7777,
        );
        rustix::fs::chmodat(self.from, name, mode | Mode::RWXU, AtFlags::empty())?;
        rename()?;
        rustix::fs::chmodat(self.to, name, mode, AtFlags::empty())
    }
}

fn failed(path: &Path) -> impl Fn(Errno) -> ExtractError {
    move |errno| ExtractError::Write { path: path.to_owned(), source: errno.into() }
}
