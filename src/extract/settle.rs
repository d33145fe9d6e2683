//! From the directory in which everything was made to its place.

use std::cell::Cell;
use std::collections::hash_map::RandomState;
use std::ffi::OsStr;
use std::hash::BuildHasher;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    Access, AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags, StatxFlags, accessat, chmod,
    chmodat, fchmod, fchown, fstat, mkdirat, openat, renameat, renameat_with, statat, statx,
    unlinkat,
};
use rustix::io::Errno;
use rustix::process::{getegid, geteuid};

use super::folder::ExtractError;

/// How an existing directory is opened whose names are changed: one that may not be listed can be.
const PLACE: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// How a directory of ours is opened.
const OURS: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// How many names are tried for a stage.
const TRIES: usize = 16;

/// A new directory that is its maker's alone; it is gone with this, unless it became something.
#[derive(Debug)]
pub(super) struct Stage {
    place: OwnedFd,
    name: String,
    dir: OwnedFd,
    became: Cell<bool>,
}

impl Stage {
    /// A new directory in `place`.
    pub(super) fn new(place: &Path) -> Result<Stage, ExtractError> {
        let fd = openat(CWD, place, PLACE, Mode::empty()).map_err(failed(place))?;
        let mut tries = 0;
        let name = loop {
            let name = format!(".overcoat-extract.{:016x}", RandomState::new().hash_one(tries));
            match mkdirat(&fd, &name, Mode::RWXU) {
                Ok(()) => break name,
                Err(Errno::EXIST) if tries < TRIES => tries += 1,
                Err(errno) => return Err(failed(&place.join(name))(errno)),
            }
        };
        let path = place.join(&name);
        let dir = openat(&fd, &name, OURS, Mode::empty()).map_err(failed(&path))?;
        let stat = fstat(&dir).map_err(failed(&path))?;
        if stat.st_uid != geteuid().as_raw() || stat.st_mode & 0o077 != 0 {
            // Somebody put another one there.
            return Err(failed(&path)(Errno::PERM));
        }
        Ok(Stage { place: fd, name, dir, became: Cell::new(false) })
    }

    /// The directory itself.
    pub(super) fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// Gets the name `target`, where nothing is, in the directory it was made in; then `finish` is
    /// done. If that fails, nothing is there again.
    pub(super) fn becomes<T>(
        &self,
        target: &Path,
        finish: impl FnOnce() -> Result<T, ExtractError>,
    ) -> Result<T, ExtractError> {
        let name = target.file_name().ok_or(Errno::NOENT).map_err(failed(target))?;
        rename_new(self.place.as_fd(), OsStr::new(&self.name), self.place.as_fd(), name)
            .map_err(failed(target))?;
        let done = finish();
        if done.is_ok() {
            self.became.set(true);
        } else {
            // Ours again, and nobody else's, before anything in it is removed.
            let _ = fchown(&self.dir, Some(geteuid()), Some(getegid()));
            let _ = fchmod(&self.dir, Mode::RWXU);
            let _ = renameat(&self.place, name, &self.place, &self.name);
        }
        done
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if !self.became.get() {
            clear(self.dir(), Path::new("."));
            let _ = unlinkat(&self.place, &self.name, AtFlags::REMOVEDIR);
        }
    }
}

/// Removes all that is in the directory `path` of the stage, whatever the modes in it. What fails is
/// left. No descriptor is kept, so that no depth is too much.
fn clear(stage: BorrowedFd<'_>, path: &Path) {
    let _ = chmodat(stage, path, Mode::RWXU, AtFlags::empty());
    let Ok(names) = openat(stage, path, OURS, Mode::empty()).and_then(|dir| names(dir.as_fd()))
    else {
        return;
    };
    for name in names {
        let path = path.join(name);
        let stat = statat(stage, &path, AtFlags::SYMLINK_NOFOLLOW);
        if stat.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_dir()) {
            clear(stage, &path);
            let _ = unlinkat(stage, &path, AtFlags::REMOVEDIR);
        } else {
            let _ = unlinkat(stage, &path, AtFlags::empty());
        }
    }
}

/// The names in a directory, sorted.
fn names(dir: BorrowedFd<'_>) -> Result<Vec<PathBuf>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(PathBuf::from(OsStr::from_bytes(name)));
        }
    }
    names.sort();
    Ok(names)
}

/// Renames to a name at which nothing is.
fn rename_new(
    from: BorrowedFd<'_>,
    old: &OsStr,
    to: BorrowedFd<'_>,
    new: &OsStr,
) -> Result<(), Errno> {
    match renameat_with(from, old, to, new, RenameFlags::NOREPLACE) {
        // NFS cannot.
        Err(Errno::INVAL | Errno::NOSYS) => match statat(to, new, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Err(Errno::EXIST),
            Err(Errno::NOENT) => renameat(from, old, to, new),
            Err(errno) => Err(errno),
        },
        result => result,
    }
}

/// Sets the mode of a directory that is open as a place.
fn set_mode(dir: BorrowedFd<'_>, mode: u32) -> Result<(), Errno> {
    // fchmod takes no such descriptor.
    chmod(format!("/proc/self/fd/{}", dir.as_raw_fd()), Mode::from_raw_mode(mode & 0o7777))
}

/// Whether names in a directory can be changed, or could be if its owner, who we are, let us.
fn is_writable(dir: BorrowedFd<'_>) -> Result<bool, Errno> {
    match accessat(dir, ".", Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS) {
        Ok(()) => Ok(true),
        Err(Errno::ACCESS) if fstat(dir)?.st_uid == geteuid().as_raw() => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Whether a name in a writable directory can be given to something else: in a sticky one, only
/// what is one's own.
fn is_replaceable(dir: BorrowedFd<'_>, name: &Path) -> Result<bool, Errno> {
    let (us, dir_stat) = (geteuid(), fstat(dir)?);
    let theirs = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let ours = [dir_stat.st_uid, theirs.st_uid].contains(&us.as_raw());
    Ok(us.is_root() || ours || dir_stat.st_mode & 0o1000 == 0)
}

/// A directory of ours that was not writable, and gets its mode back.
struct Unlocked<'a> {
    dir: BorrowedFd<'a>,
    mode: u32,
}

impl<'a> Unlocked<'a> {
    fn new(dir: BorrowedFd<'a>) -> Result<Option<Unlocked<'a>>, Errno> {
        if is_writable(dir)? {
            return Ok(None);
        }
        let mode = fstat(dir)?.st_mode;
        set_mode(dir, mode | 0o700)?;
        Ok(Some(Unlocked { dir, mode }))
    }
}

impl Drop for Unlocked<'_> {
    fn drop(&mut self) {
        let _ = set_mode(self.dir, self.mode);
    }
}

/// The file system of a name in a directory, or of the directory itself: nothing is renamed from one
/// to another one, nor between two places at which the same one is mounted.
fn device_and_mount(dir: BorrowedFd<'_>, name: &Path) -> Result<([u32; 2], u64), Errno> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
    // Kernels before 5.8 do not tell the mount.
    let stat = statx(dir, name, flags, StatxFlags::MNT_ID)?;
    Ok(([stat.stx_dev_major, stat.stx_dev_minor], stat.stx_mnt_id))
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
    // The stage was made in the target, whatever has its name by now.
    let pair = Pair { from: stage.dir(), to: stage.place.as_fd(), path: target };
    let mut found = Vec::new();
    pair.look(force, &mut found)?;
    if let Some(path) = found.first().cloned()
        && !force
    {
        return Err(ExtractError::Exists { path, more: found.len() - 1 });
    }
    pair.shift(force, root)
}

impl Pair<'_> {
    /// The names to be moved, with what is at each on both sides.
    fn names(&self) -> Result<Vec<(PathBuf, FileType, Option<FileType>)>, ExtractError> {
        let mut all = Vec::new();
        for name in names(self.from).map_err(failed(self.path))? {
            if let Some(ours) = self.kind(self.from, &name)? {
                let theirs = self.kind(self.to, &name)?;
                all.push((name, ours, theirs));
            }
        }
        Ok(all)
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
        let open = |dir: BorrowedFd<'_>, flags| {
            openat(dir, name, flags, Mode::empty()).map_err(failed(&self.path.join(name)))
        };
        Ok((open(self.from, OURS)?, open(self.to, PLACE | OFlags::NOFOLLOW)?))
    }

    /// Finds what is there and would be overwritten, and what cannot be written to.
    fn look(&self, force: bool, found: &mut Vec<PathBuf>) -> Result<(), ExtractError> {
        let here = device_and_mount(self.to, Path::new("")).map_err(failed(self.path))?;
        let mut moves = false;
        for (name, ours, theirs) in self.names()? {
            let path = self.path.join(&name);
            match theirs {
                None => moves = true,
                Some(theirs) if ours.is_dir() && theirs.is_dir() => {
                    // It stays here, and must let go of what is in it.
                    chmodat(self.from, &name, Mode::RWXU, AtFlags::empty())
                        .map_err(failed(&path))?;
                    let (from, to) = self.below(&name)?;
                    Pair { from: from.as_fd(), to: to.as_fd(), path: &path }.look(force, found)?;
                }
                Some(theirs) if ours.is_dir() || theirs.is_dir() => {
                    return Err(ExtractError::InTheWay { path });
                }
                Some(_) => {
                    moves = true;
                    if force && !is_replaceable(self.to, &name).map_err(failed(&path))? {
                        return Err(failed(&path)(Errno::PERM));
                    }
                    // Files of an overlayfs can have devices of their own.
                    if device_and_mount(self.to, &name).map_err(failed(&path))?.1 != here.1 {
                        return Err(ExtractError::Mounted { path });
                    }
                    found.push(path);
                }
            }
        }
        if moves {
            let ours = device_and_mount(self.from, Path::new("")).map_err(failed(self.path))?;
            if ours != here {
                return Err(ExtractError::Mounted { path: self.path.to_owned() });
            }
            is_writable(self.to).map_err(failed(self.path))?;
        }
        Ok(())
    }

    fn shift(&self, force: bool, root: bool) -> Result<(), ExtractError> {
        let mut unlocked = None;
        for (name, ours, theirs) in self.names()? {
            let path = self.path.join(&name);
            if ours.is_dir() && theirs.is_some_and(FileType::is_dir) {
                let (from, to) = self.below(&name)?;
                Pair { from: from.as_fd(), to: to.as_fd(), path: &path }.shift(force, root)?;
                continue;
            }
            if unlocked.is_none() {
                unlocked = Some(Unlocked::new(self.to).map_err(failed(self.path))?);
            }
            self.rename(name.as_os_str(), ours, force, root).map_err(failed(&path))?;
        }
        Ok(())
    }

    fn rename(&self, name: &OsStr, kind: FileType, force: bool, root: bool) -> Result<(), Errno> {
        let rename = || match force {
            true => renameat(self.from, name, self.to, name),
            false => rename_new(self.from, name, self.to, name),
        };
        if !kind.is_dir() || root {
            return rename();
        }
        // A directory gets another parent, for which it must be writable.
        let dir = openat(self.from, name, PLACE | OFlags::NOFOLLOW, Mode::empty())?;
        let mode = fstat(&dir)?.st_mode;
        set_mode(dir.as_fd(), mode | 0o700)?;
        rename()?;
        set_mode(dir.as_fd(), mode)
    }
}

fn failed(path: &Path) -> impl Fn(Errno) -> ExtractError {
    move |errno| ExtractError::Write { path: path.to_owned(), source: io::Error::from(errno) }
}
