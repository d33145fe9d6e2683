//! A mount that is visible on the host: `overcoat mount`, without a sandbox.
//!
//! Root mounts by itself and shows the tree to all users with its real owners. Other users mount
//! through `fusermount3`; only that user can access the tree then, unless `/etc/fuse.conf` has
//! `user_allow_other`.
//!
//! Nothing here looks inside the mount point, so a mount whose daemon has ended can be found and
//! unmounted.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{Uid, getgid, getuid};

use super::error::{During, SandboxError};
use super::host::find_program;
use super::privilege::open_fuse_device;
use super::requirement::MissingRequirement;
use super::{mountinfo, sys};

/// The file system's type and source, as `findmnt` shows them.
const TYPE: &str = "fuse.overcoat";
const SOURCE: &str = "overcoat";
const HELPER: &str = "fusermount3";

/// Mount options.
#[derive(Clone, Debug, Default)]
pub struct MountOptions {
    /// The mount is read-only (`ro`).
    pub read_only: bool,
    /// Set-user-id and set-group-id bits have no effect (`nosuid`).
    pub no_setuid: bool,
    /// Device nodes cannot be opened (`nodev`).
    pub no_devices: bool,
    /// Programs cannot be executed (`noexec`).
    pub no_programs: bool,
    /// Reading does not change access times (`noatime`).
    pub no_access_times: bool,
    /// The source that `findmnt` shows; `None` for `overcoat`.
    pub source: Option<OsString>,
}

impl MountOptions {
    /// Returns the flags that are set, with their names.
    fn flags(&self) -> impl Iterator<Item = (MsFlags, &'static str)> {
        [
            (self.read_only, MsFlags::MS_RDONLY, "ro"),
            (self.no_setuid, MsFlags::MS_NOSUID, "nosuid"),
            (self.no_devices, MsFlags::MS_NODEV, "nodev"),
            (self.no_programs, MsFlags::MS_NOEXEC, "noexec"),
            (self.no_access_times, MsFlags::MS_NOATIME, "noatime"),
        ]
        .into_iter()
        .filter_map(|(set, flag, name)| set.then_some((flag, name)))
    }
}

const UMOUNT_HINT: &str = "`overcoat umount` removes it";

/// A mount in the host's mount namespace. If dropped, it stays mounted until [`unmount`].
#[derive(Debug)]
pub struct HostMount {
    fuse: OwnedFd,
}

impl HostMount {
    /// Mounts on the directory `dir`.
    ///
    /// # Errors
    /// Returns the reason, with a hint where the cause is known.
    pub fn new(dir: &Path, options: &MountOptions) -> Result<Self, SandboxError> {
        match fs::metadata(dir) {
            Ok(found) if found.is_dir() => {}
            Ok(_) => return Err(mount_error(dir, "it is not a directory".to_owned())),
            Err(error) if error.raw_os_error() == Some(libc::ENOTCONN) => {
                let message = "a mount whose process has ended is there".to_owned();
                let hint = Some(UMOUNT_HINT);
                return Err(SandboxError::Mount { dir: dir.to_owned(), message, hint });
            }
            Err(error) => return Err(mount_error(dir, error.to_string())),
        }
        let path = absolute(dir).map_err(|error| mount_error(dir, error.to_string()))?;
        if is_mounted(&path).during("reading /proc/self/mountinfo")? {
            let message = "overcoat has something mounted there already".to_owned();
            let hint = Some(UMOUNT_HINT);
            return Err(SandboxError::Mount { dir: dir.to_owned(), message, hint });
        }
        if Uid::effective().is_root() {
            Self::as_root(dir, options)
        } else {
            Self::through_helper(dir, options)
        }
    }

    fn as_root(dir: &Path, how: &MountOptions) -> Result<Self, SandboxError> {
        let fuse = open_fuse_device()?;
        let options = format!(
            "fd={},rootmode=40755,user_id={},group_id={},allow_other,default_permissions",
            fuse.as_raw_fd(),
            getuid(),
            getgid()
        );
        let flags = how.flags().fold(MsFlags::empty(), |flags, (flag, _)| flags | flag);
        let source = how.source.as_deref().unwrap_or(OsStr::new(SOURCE));
        mount(Some(source), dir, Some(TYPE), flags, Some(options.as_str())).map_err(|error| {
            let hint = match error {
                Errno::EPERM => Some("mounting requires CAP_SYS_ADMIN, which this root lacks"),
                _ => None,
            };
            SandboxError::Mount { dir: dir.to_owned(), message: error.desc().to_owned(), hint }
        })?;
        Ok(HostMount { fuse: fuse.into() })
    }

    /// Changes the options of the mount on `dir`, as `mount -i -o remount` does.
    ///
    /// # Errors
    /// Fails if overcoat has nothing mounted there, or the caller is not root.
    pub fn remount(dir: &Path, options: &MountOptions) -> Result<(), SandboxError> {
        let path = absolute(dir).map_err(|error| mount_error(dir, error.to_string()))?;
        if !is_mounted(&path).during("reading /proc/self/mountinfo")? {
            return Err(mount_error(dir, "overcoat has nothing mounted there".to_owned()));
        }
        let flags = options.flags().fold(MsFlags::MS_REMOUNT, |flags, (flag, _)| flags | flag);
        mount(None::<&str>, &path, None::<&str>, flags, None::<&str>)
            .map_err(|error| mount_error(dir, error.desc().to_owned()))
    }

    fn through_helper(dir: &Path, how: &MountOptions) -> Result<Self, SandboxError> {
        let program = helper()?;
        let shared = users_may_share();
        let source = how.source.as_deref().unwrap_or(OsStr::new(SOURCE));
        // A comma would end the name, so it is escaped.
        let mut options = OsString::from("default_permissions,fsname=");
        for &byte in source.as_bytes() {
            if matches!(byte, b',' | b'\\') {
                options.push("\\");
            }
            options.push(OsStr::from_bytes(&[byte]));
        }
        options.push(format!(",subtype={SOURCE}"));
        if !how.read_only {
            options.push(",rw");
        }
        for (_, name) in how.flags() {
            options.push(format!(",{name}"));
        }
        if shared {
            options.push(",allow_other");
        }
        let doing = "starting fusermount3";
        let (ours, theirs) = UnixStream::pair().during(doing)?;
        // The helper sends the descriptor over the socket whose number is in `_FUSE_COMMFD`: its
        // standard input, which it does not use otherwise.
        let child = Command::new(program)
            .arg("-o")
            .arg(&options)
            .arg("--")
            .arg(dir)
            .env("_FUSE_COMMFD", "0")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .during(doing)?;
        let answer = sys::receive(ours.as_fd()).during(doing)?;
        let output = child.wait_with_output().during(doing)?;
        match answer.fds.into_iter().next() {
            Some(fuse) if output.status.success() => Ok(HostMount { fuse }),
            _ => Err(mount_error(dir, helper_message(&output.stderr))),
        }
    }

    /// Returns the FUSE descriptor, to be served with `fuser::Session::from_fd`.
    pub fn into_fuse_fd(self) -> OwnedFd {
        self.fuse
    }
}

/// Unmounts `dir`. With `lazily`, also when it is in use: it disappears at once and ends with its
/// last user.
///
/// # Errors
/// Fails if overcoat has nothing mounted there, or when the mount is in use.
pub fn unmount(dir: &Path, lazily: bool) -> Result<(), SandboxError> {
    let error = |message: &str| SandboxError::Unmount {
        dir: dir.to_owned(),
        message: message.to_owned(),
        hint: None,
    };
    let busy = |path: &Path| SandboxError::Unmount {
        dir: dir.to_owned(),
        message: "it is in use".to_owned(),
        hint: Some(format!("`fuser -vm {}` lists the processes", path.display())),
    };
    let path = absolute(dir).map_err(|source| error(&source.to_string()))?;
    if !is_mounted(&path).during("reading /proc/self/mountinfo")? {
        return Err(error("overcoat has nothing mounted there"));
    }
    if Uid::effective().is_root() {
        let lazy = if lazily { MntFlags::MNT_DETACH } else { MntFlags::empty() };
        return umount2(&path, lazy | MntFlags::UMOUNT_NOFOLLOW).map_err(|errno| match errno {
            Errno::EBUSY => busy(&path),
            errno => error(errno.desc()),
        });
    }
    let output = Command::new(helper()?)
        .args(if lazily { ["-u", "-z"].as_slice() } else { &["-u"] })
        .arg("--")
        .arg(&path)
        .stdin(Stdio::null())
        .output()
        .during("starting fusermount3")?;
    if output.status.success() {
        return Ok(());
    }
    let message = helper_message(&output.stderr);
    if message.contains("busy") { Err(busy(&path)) } else { Err(error(&message)) }
}

/// Returns where the root with this device number is mounted.
///
/// # Errors
/// Fails if `/proc` cannot be read.
pub(crate) fn mounted_at(device: u64) -> io::Result<Option<PathBuf>> {
    Ok(mount_point_of_device(&fs::read("/proc/self/mountinfo")?, device))
}

fn mount_point_of_device(info: &[u8], device: u64) -> Option<PathBuf> {
    let device = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    let line = mountinfo::lines(info).find(|l| l.device == device.as_bytes() && l.root == b"/")?;
    Some(OsString::from_vec(line.point).into())
}

fn mount_error(dir: &Path, message: String) -> SandboxError {
    SandboxError::Mount { dir: dir.to_owned(), message, hint: None }
}

fn helper() -> Result<PathBuf, SandboxError> {
    find_program(HELPER).ok_or_else(|| MissingRequirement::program(HELPER, "fuse3").into())
}

/// Returns the helper's error output without the program name.
fn helper_message(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let text = text.trim();
    let plain = text.strip_prefix("fusermount3: ").unwrap_or(text);
    match plain {
        "" => "fusermount3 failed without a message".to_owned(),
        plain => plain.to_owned(),
    }
}

/// Returns whether `/etc/fuse.conf` allows users to share their mounts with others.
pub(crate) fn users_may_share() -> bool {
    fs::read_to_string("/etc/fuse.conf")
        .is_ok_and(|conf| conf.lines().any(|line| line.trim() == "user_allow_other"))
}

/// Returns the absolute path of `dir`, with links in its parents resolved, without looking inside.
fn absolute(dir: &Path) -> io::Result<PathBuf> {
    match (dir.parent(), dir.file_name()) {
        (Some(parent), Some(name)) => {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            Ok(fs::canonicalize(parent)?.join(name))
        }
        _ => fs::canonicalize(dir), // ends in `..` or is the root
    }
}

/// Returns whether the topmost mount at `path` is overcoat's.
fn is_mounted(path: &Path) -> io::Result<bool> {
    let info = fs::read("/proc/self/mountinfo")?;
    Ok(topmost_type(&info, path.as_os_str().as_bytes()).as_deref() == Some(TYPE.as_bytes()))
}

/// Returns the type of the topmost mount at `path`.
fn topmost_type(info: &[u8], path: &[u8]) -> Option<Vec<u8>> {
    mountinfo::lines(info).filter(|line| line.point == path).map(|line| line.kind.to_vec()).last()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topmost_mount_is_found() {
        let info = b"\
30 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
31 30 0:50 / /mnt/a\\040b rw shared:2 master:3 - fuse.overcoat overcoat rw\n\
32 31 0:51 / /mnt/a\\040b rw - tmpfs tmpfs rw\n\
33 30 0:52 / /mnt/c rw - fuse.overcoat overcoat rw\n";
        assert_eq!(topmost_type(info, b"/mnt/a b").unwrap(), b"tmpfs");
        assert_eq!(topmost_type(info, b"/mnt/c").unwrap(), TYPE.as_bytes());
        assert_eq!(topmost_type(info, b"/mnt"), None);
        assert_eq!(
            mount_point_of_device(info, rustix::fs::makedev(0, 50)).unwrap(),
            Path::new("/mnt/a b")
        );
        assert_eq!(mount_point_of_device(info, rustix::fs::makedev(0, 54)), None);
    }

    #[test]
    fn absolute_path_does_not_require_the_directory() {
        assert_eq!(absolute(Path::new("/tmp/../tmp/none")).unwrap(), Path::new("/tmp/none"));
        let here = std::env::current_dir().unwrap();
        assert_eq!(absolute(Path::new("none")).unwrap(), here.join("none"));
    }
}
