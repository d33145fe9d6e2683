//! Answers calls that make device nodes or change owners.

use std::sync::Arc;

use nix::errno::Errno;

use super::caller::KernelCredentials;
use super::calls::Call;
use super::credentials::{CAP_CHOWN, CAP_MKNOD, Credentials};
use super::executions::{absolute, from_root};
use super::listener::{AnswerResult, CallAnswer, PassedCall, leave_to_kernel};
use super::paths::PathFinder;
use super::resolve::{NameInDir, Walked};

/// The rights of a process that makes such a call.
pub(super) enum OwnerRights {
    /// Those that the kernel knows; ids in the call are ids inside.
    Kernel(KernelCredentials),
    /// Those that the daemon knows.
    Daemon(Arc<Credentials>),
}

impl OwnerRights {
    fn has(&self, capability: u32) -> bool {
        match self {
            OwnerRights::Kernel(credentials) => credentials.has(capability),
            OwnerRights::Daemon(credentials) => credentials.has(capability),
        }
    }

    fn searcher(&self) -> Option<&Credentials> {
        match self {
            OwnerRights::Kernel(_) => None,
            OwnerRights::Daemon(credentials) => Some(credentials),
        }
    }
}

/// Answers `mknod` of a device. The mode and the device are the arguments from `first`.
pub(super) fn answer_mknod(
    passed: &PassedCall<'_>,
    finder: &PathFinder,
    rights: &OwnerRights,
    call: Call,
) -> AnswerResult {
    if !rights.has(CAP_MKNOD) {
        return Ok(match rights {
            OwnerRights::Kernel(_) => CallAnswer::Continue,
            OwnerRights::Daemon(_) => Errno::EPERM.into(),
        });
    }
    let caller = passed.caller;
    let Call::Mknod(from) = call else { return Ok(CallAnswer::Continue) };
    let (start, first) = (passed.start(from), call.first_after_path());
    let path = caller.read_path(passed.data.args[first - 1])?;
    let Walked::Found(place) =
        finder.walk(caller, start, &path, rights.searcher(), |view, from, path| {
            view.place(from, path)
        })?
    else {
        return Ok(CallAnswer::Continue);
    };
    let (mode, device) = (passed.argument(first), passed.argument(first + 1));
    let mode = mode & (libc::S_IFMT | 0o7777);
    let NameInDir { dir, name } = place;
    let (umask, owner) = match rights {
        OwnerRights::Kernel(credentials) => (credentials.umask, (credentials.uid, credentials.gid)),
        OwnerRights::Daemon(credentials) => {
            let umask = caller.umask().map_err(leave_to_kernel)?;
            (umask, (credentials.user.fs, credentials.group.fs))
        }
    };
    passed.still_waits()?;
    let device = split_device_number(device);
    finder.tree.mknod(dir.ino, &name, mode, umask, device, owner)?;
    if let Ok(path) = absolute(caller, start, &path) {
        let root = caller.link("root").unwrap_or_default();
        let path = from_root(&root, &path);
        finder.tree.device_recorded(finder.path_in_sandbox(caller, &path), mode, device);
    }
    Ok(CallAnswer::Return(Ok(0)))
}

/// Answers a call that changes an owner.
pub(super) fn answer_chown(
    passed: &PassedCall<'_>,
    finder: &PathFinder,
    rights: &OwnerRights,
    call: Call,
) -> AnswerResult {
    if matches!(rights, OwnerRights::Kernel(_)) && !rights.has(CAP_CHOWN) {
        return Ok(CallAnswer::Continue);
    }
    let caller = passed.caller;
    let first = call.first_after_path();
    let id = |index| {
        let (id, none) = match call.narrow() {
            true => (passed.argument(index) & 0xffff, 0xffff),
            false => (passed.argument(index), u32::MAX),
        };
        (id != none).then_some(id)
    };
    let (uid, gid) = (id(first), id(first + 1));
    let object = |start, follow| {
        let path = caller.read_path(passed.data.args[first - 1])?;
        let found = finder.object(caller, start, &path, follow, rights.searcher())?;
        Ok(found.ino)
    };
    let ino = match call {
        Call::Chown { follow, .. } => object(libc::AT_FDCWD, follow),
        Call::Fchownat => {
            let flags = passed.argument(4) as i32;
            if flags & !(libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH) != 0 {
                return Ok(Errno::EINVAL.into());
            }
            let dir = passed.argument(0) as i32;
            match passed.names_descriptor(first - 1, flags)? {
                true => finder.descriptor(caller, dir).map(|place| place.ino),
                false => object(dir, flags & libc::AT_SYMLINK_NOFOLLOW == 0),
            }
        }
        Call::Fchown { .. } => {
            let fd = passed.argument(0) as i32;
            let place = finder.descriptor(caller, fd)?;
            if caller.is_path_only(fd)? {
                return Ok(Errno::EBADF.into());
            }
            Ok(place.ino)
        }
        _ => Err(CallAnswer::Continue),
    }?;
    if let OwnerRights::Daemon(credentials) = rights
        && !credentials.has(CAP_CHOWN)
    {
        let attributes = finder.tree.attributes(ino)?;
        let is_owner = credentials.user.fs == attributes.uid;
        let same_user = uid.is_none_or(|uid| uid == attributes.uid);
        let own_group = gid.is_none_or(|gid| gid == attributes.gid || credentials.is_in_group(gid));
        if !(is_owner && same_user && own_group) {
            return Ok(Errno::EPERM.into());
        }
    }
    passed.still_waits()?;
    finder.tree.chown(caller.tid, ino, uid, gid)?;
    Ok(CallAnswer::Return(Ok(0)))
}

/// Splits the kernel's 32-bit `dev_t` into major and minor number.
fn split_device_number(device: u32) -> (u32, u32) {
    (device >> 8 & 0xfff, device & 0xff | device >> 12 & 0xf_ff00)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_are_split_as_in_the_kernel() {
        for (major, minor) in [(1, 3), (8, 17), (259, 300), (0xfff, 0xf_ffff)] {
            let device = libc::makedev(major, minor) as u32;
            assert_eq!(split_device_number(device), (major, minor));
        }
    }
}
