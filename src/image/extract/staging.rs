//! The staging directory, and moving its content to the target.

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

/// Flags to open an existing directory in which names are changed; it need not be readable.
const PARENT_FLAGS: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// Flags to open a directory in the stage.
const STAGE_FLAGS: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// Maximum number of names to try for a staging directory.
const MAX_NAME_ATTEMPTS: usize = 16;

/// A new private directory. It is removed when dropped, unless it was renamed to the target.
#[derive(Debug)]
pub(super) struct StagingDir {
    parent: OwnedFd,
    name: String,
    dir: OwnedFd,
    renamed: Cell<bool>,
}

impl StagingDir {
    /// Creates a staging directory in `parent`.
    pub(super) fn new(parent: &Path) -> Result<StagingDir, ExtractError> {
        let fd = openat(CWD, parent, PARENT_FLAGS, Mode::empty()).map_err(failed(parent))?;
        let mut tries = 0;
        let name = loop {
            let name = format!(".overcoat-extract.{:016x}", RandomState::new().hash_one(tries));
            match mkdirat(&fd, &name, Mode::RWXU) {
                Ok(()) => break name,
                Err(Errno::EXIST) if tries < MAX_NAME_ATTEMPTS => tries += 1,
                Err(errno) => return Err(failed(&parent.join(name))(errno)),
            }
        };
        let path = parent.join(&name);
        let dir = openat(&fd, &name, STAGE_FLAGS, Mode::empty()).map_err(failed(&path))?;
        let stat = fstat(&dir).map_err(failed(&path))?;
        if stat.st_uid != geteuid().as_raw() || stat.st_mode & 0o077 != 0 {
            // Another user has replaced the directory.
            return Err(failed(&path)(Errno::PERM));
        }
        Ok(StagingDir { parent: fd, name, dir, renamed: Cell::new(false) })
    }

    /// Returns the descriptor of the directory.
    pub(super) fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// Renames the directory to the free name `target` in the same parent, then calls `finish`. If
    /// that fails, the directory is renamed back.
    pub(super) fn rename_to<T>(
        &self,
        target: &Path,
        finish: impl FnOnce() -> Result<T, ExtractError>,
    ) -> Result<T, ExtractError> {
        let name = target.file_name().ok_or(Errno::NOENT).map_err(failed(target))?;
        rename_new(self.parent.as_fd(), OsStr::new(&self.name), self.parent.as_fd(), name)
            .map_err(failed(target))?;
        let done = finish();
        if done.is_ok() {
            self.renamed.set(true);
        } else {
            // Make the directory private again before its content is removed.
            let _ = fchown(&self.dir, Some(geteuid()), Some(getegid()));
            let _ = fchmod(&self.dir, Mode::RWXU);
            let _ = renameat(&self.parent, name, &self.parent, &self.name);
        }
        done
    }
}

impl Drop for StagingDir {
    fn drop(&mut self) {
        if !self.renamed.get() {
            remove_contents(self.dir(), Path::new("."));
            let _ = unlinkat(&self.parent, &self.name, AtFlags::REMOVEDIR);
        }
    }
}

/// Removes everything in the directory `path` of the stage, regardless of modes, and ignores
/// errors. No descriptor is kept open, so that the depth is not limited.
fn remove_contents(stage: BorrowedFd<'_>, path: &Path) {
    let _ = chmodat(stage, path, Mode::RWXU, AtFlags::empty());
    let Ok(names) =
        openat(stage, path, STAGE_FLAGS, Mode::empty()).and_then(|dir| names(dir.as_fd()))
    else {
        return;
    };
    for name in names {
        let path = path.join(name);
        let stat = statat(stage, &path, AtFlags::SYMLINK_NOFOLLOW);
        if stat.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_dir()) {
            remove_contents(stage, &path);
            let _ = unlinkat(stage, &path, AtFlags::REMOVEDIR);
        } else {
            let _ = unlinkat(stage, &path, AtFlags::empty());
        }
    }
}

/// Returns the sorted names in a directory.
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

/// Renames to a name that must not exist.
fn rename_new(
    from: BorrowedFd<'_>,
    old: &OsStr,
    to: BorrowedFd<'_>,
    new: &OsStr,
) -> Result<(), Errno> {
    match renameat_with(from, old, to, new, RenameFlags::NOREPLACE) {
        // NFS does not support RENAME_NOREPLACE.
        Err(Errno::INVAL | Errno::NOSYS) => match statat(to, new, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Err(Errno::EXIST),
            Err(Errno::NOENT) => renameat(from, old, to, new),
            Err(errno) => Err(errno),
        },
        result => result,
    }
}

/// Sets the mode of a directory that was opened with `O_PATH`.
fn set_mode(dir: BorrowedFd<'_>, mode: u32) -> Result<(), Errno> {
    // fchmod(2) does not accept O_PATH descriptors.
    chmod(format!("/proc/self/fd/{}", dir.as_raw_fd()), Mode::from_raw_mode(mode & 0o7777))
}

/// Whether names in a directory can be changed. `false` if we own it and can make it writable.
fn is_writable(dir: BorrowedFd<'_>) -> Result<bool, Errno> {
    match accessat(dir, ".", Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS) {
        Ok(()) => Ok(true),
        Err(Errno::ACCESS) if fstat(dir)?.st_uid == geteuid().as_raw() => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Whether a name in a writable directory can be replaced: in a sticky directory, only by the owner
/// of the file or of the directory.
fn is_replaceable(dir: BorrowedFd<'_>, name: &Path) -> Result<bool, Errno> {
    let (us, dir_stat) = (geteuid(), fstat(dir)?);
    let theirs = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let ours = [dir_stat.st_uid, theirs.st_uid].contains(&us.as_raw());
    Ok(us.is_root() || ours || dir_stat.st_mode & 0o1000 == 0)
}

/// A directory that was made writable; dropping it restores its mode.
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

/// Returns the device and the mount of a name in a directory, or of the directory itself for an
/// empty name. Renaming works neither between devices nor between mounts.
fn device_and_mount(dir: BorrowedFd<'_>, name: &Path) -> Result<([u32; 2], u64), Errno> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
    // Kernels before 5.8 do not return the mount ID.
    let stat = statx(dir, name, flags, StatxFlags::MNT_ID)?;
    Ok(([stat.stx_dev_major, stat.stx_dev_minor], stat.stx_mnt_id))
}

/// A staged directory and the existing directory that it is merged into, with the latter's path.
struct MergedDirs<'a> {
    from: BorrowedFd<'a>,
    to: BorrowedFd<'a>,
    path: &'a Path,
}

/// Moves the content of the stage into the existing directory `target`.
pub(super) fn move_into(
    stage: &StagingDir,
    target: &Path,
    force: bool,
    root: bool,
) -> Result<(), ExtractError> {
    // The stage was created in the target; its open parent descriptor is the target itself.
    let merged = MergedDirs { from: stage.dir(), to: stage.parent.as_fd(), path: target };
    let mut found = Vec::new();
    merged.check(force, &mut found)?;
    if let Some(path) = found.first().cloned()
        && !force
    {
        return Err(ExtractError::Exists { path, more: found.len() - 1 });
    }
    merged.move_all(force, root)
}

impl MergedDirs<'_> {
    /// Returns the names to move, with the file types on both sides.
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

    /// Opens the directories with this name on both sides.
    fn below(&self, name: &Path) -> Result<(OwnedFd, OwnedFd), ExtractError> {
        let open = |dir: BorrowedFd<'_>, flags| {
            openat(dir, name, flags, Mode::empty()).map_err(failed(&self.path.join(name)))
        };
        Ok((open(self.from, STAGE_FLAGS)?, open(self.to, PARENT_FLAGS | OFlags::NOFOLLOW)?))
    }

    /// Collects the files that would be overwritten, and fails if something cannot be moved.
    fn check(&self, force: bool, found: &mut Vec<PathBuf>) -> Result<(), ExtractError> {
        let here = device_and_mount(self.to, Path::new("")).map_err(failed(self.path))?;
        let mut moves = false;
        for (name, ours, theirs) in self.names()? {
            let path = self.path.join(&name);
            match theirs {
                None => moves = true,
                Some(theirs) if ours.is_dir() && theirs.is_dir() => {
                    // Its entries are moved out of it, so it must be writable.
                    chmodat(self.from, &name, Mode::RWXU, AtFlags::empty())
                        .map_err(failed(&path))?;
                    let (from, to) = self.below(&name)?;
                    MergedDirs { from: from.as_fd(), to: to.as_fd(), path: &path }
                        .check(force, found)?;
                }
                Some(theirs) if ours.is_dir() || theirs.is_dir() => {
                    return Err(ExtractError::InTheWay { path });
                }
                Some(_) => {
                    moves = true;
                    if force && !is_replaceable(self.to, &name).map_err(failed(&path))? {
                        return Err(failed(&path)(Errno::PERM));
                    }
                    // On overlayfs, a file can have another device number than its directory.
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

    fn move_all(&self, force: bool, root: bool) -> Result<(), ExtractError> {
        let mut unlocked = None;
        for (name, ours, theirs) in self.names()? {
            let path = self.path.join(&name);
            if ours.is_dir() && theirs.is_some_and(FileType::is_dir) {
                let (from, to) = self.below(&name)?;
                MergedDirs { from: from.as_fd(), to: to.as_fd(), path: &path }
                    .move_all(force, root)?;
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
        // Renaming a directory to another parent changes its `..`, for which it must be writable.
        let dir = openat(self.from, name, PARENT_FLAGS | OFlags::NOFOLLOW, Mode::empty())?;
        let mode = fstat(&dir)?.st_mode;
        set_mode(dir.as_fd(), mode | 0o700)?;
        rename()?;
        set_mode(dir.as_fd(), mode)
    }
}

fn failed(path: &Path) -> impl Fn(Errno) -> ExtractError {
    move |errno| ExtractError::Write { path: path.to_owned(), source: io::Error::from(errno) }
}
