//! Answers calls that read attributes, or check the access to an object.

use nix::errno::Errno;

use super::calls::Call;
use super::credentials::{CredentialTable, Credentials};
use super::listener::{AnswerResult, CallAnswer, PassedCall, leave_to_kernel};
use super::paths::PathFinder;
use super::stat_buffer::{StatObject, stat_buffer, statx_buffer};

const STAT_FLAGS: i32 = libc::AT_SYMLINK_NOFOLLOW | libc::AT_NO_AUTOMOUNT | libc::AT_EMPTY_PATH;
/// The bit of the mask of `statx(2)` that is reserved.
const STATX_RESERVED: u32 = 0x8000_0000;
const ACCESS_FLAGS: i32 = libc::AT_EACCESS | libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH;

/// Answers a call of the `stat` family.
pub(super) fn answer_stat(
    passed: &PassedCall<'_>,
    finder: &PathFinder,
    table: &CredentialTable,
    call: Call,
) -> AnswerResult {
    let first = call.first_after_path();
    let (start, flags, address) = match call {
        Call::Stat { follow, .. } => {
            let flags = if follow { 0 } else { libc::AT_SYMLINK_NOFOLLOW };
            (libc::AT_FDCWD, flags, passed.pointer(first))
        }
        Call::Fstat(_) => (passed.argument(0) as i32, libc::AT_EMPTY_PATH, passed.pointer(1)),
        Call::Fstatat(_) => {
            let flags = passed.argument(first + 1) as i32;
            if flags & !STAT_FLAGS != 0 {
                return Ok(Errno::EINVAL.into());
            }
            (passed.argument(0) as i32, flags, passed.pointer(first))
        }
        Call::Statx => {
            let flags = passed.argument(first) as i32;
            let sync = flags & libc::AT_STATX_SYNC_TYPE;
            if passed.argument(first + 1) & STATX_RESERVED != 0
                || flags & !(STAT_FLAGS | libc::AT_STATX_SYNC_TYPE) != 0
                || sync == libc::AT_STATX_SYNC_TYPE
            {
                return Ok(Errno::EINVAL.into());
            }
            (passed.argument(0) as i32, flags, passed.pointer(first + 2))
        }
        _ => return Ok(CallAnswer::Continue),
    };
    let is_descriptor =
        matches!(call, Call::Fstat(_)) || passed.names_descriptor(first - 1, flags)?;
    let place = if is_descriptor {
        finder.descriptor(passed.caller, start)?
    } else {
        let searcher = searcher(passed, table)?;
        let path = passed.caller.read_path(passed.pointer(first - 1))?;
        let follow = flags & libc::AT_SYMLINK_NOFOLLOW == 0;
        finder.object(passed.caller, start, &path, follow, searcher.as_deref())?
    };
    let object = StatObject {
        device: finder.identity.device,
        place,
        attributes: finder.tree.attributes(place.ino)?,
        is_mount_root: call == Call::Statx && finder.is_mount_root(passed.caller, place)?,
    };
    let bytes = match call {
        Call::Statx => statx_buffer(&object),
        Call::Stat { layout, .. } | Call::Fstat(layout) | Call::Fstatat(layout) => {
            stat_buffer(layout, &object)?
        }
        _ => return Ok(CallAnswer::Continue),
    };
    passed.still_waits()?;
    passed.caller.write_memory(address, &bytes)?;
    Ok(CallAnswer::Return(Ok(0)))
}

/// Answers `access` and its relatives for a process that is not root.
pub(super) fn answer_access(
    passed: &PassedCall<'_>,
    finder: &PathFinder,
    table: &CredentialTable,
    call: Call,
) -> AnswerResult {
    let credentials = table.of(passed.caller.tid).map_err(leave_to_kernel)?;
    let first = call.first_after_path();
    let flags = if call == Call::Faccessat2 { passed.argument(first + 1) as i32 } else { 0 };
    let wanted = passed.argument(first);
    if *credentials == Credentials::root() || flags & !ACCESS_FLAGS != 0 || wanted & !7 != 0 {
        return Ok(CallAnswer::Continue);
    }
    let checked = match flags & libc::AT_EACCESS {
        0 => credentials.for_access(),
        _ => (*credentials).clone(),
    };
    let start = match first {
        1 => libc::AT_FDCWD,
        _ => passed.argument(0) as i32,
    };
    let ino = if passed.names_descriptor(first - 1, flags)? {
        finder.descriptor(passed.caller, start)?.ino
    } else {
        let path = passed.caller.read_path(passed.pointer(first - 1))?;
        let follow = flags & libc::AT_SYMLINK_NOFOLLOW == 0;
        finder.object(passed.caller, start, &path, follow, Some(&checked))?.ino
    };
    let attributes = finder.tree.attributes(ino)?;
    Ok(match checked.may_access(attributes.mode, (attributes.uid, attributes.gid), wanted) {
        true => CallAnswer::Return(Ok(0)),
        false => Errno::EACCES.into(),
    })
}

/// Returns the credentials that need the right to search directories; none for root.
fn searcher(
    passed: &PassedCall<'_>,
    table: &CredentialTable,
) -> Result<Option<std::sync::Arc<Credentials>>, CallAnswer> {
    if table.is_unused() {
        return Ok(None);
    }
    let credentials = table.of(passed.caller.tid).map_err(leave_to_kernel)?;
    Ok((*credentials != Credentials::root()).then_some(credentials))
}
