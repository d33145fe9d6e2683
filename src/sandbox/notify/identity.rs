//! Answers calls that read or change credentials, or that need a capability.

use std::io;

use nix::errno::Errno;

use super::calls::{Call, IdentityCall, PrivilegedCall};
use super::credentials::{CAP_SYS_ADMIN, CAP_SYS_CHROOT, CredentialTable, Credentials, MAX_GROUPS};
use super::listener::{AnswerResult, CallAnswer, PassedCall, leave_to_kernel};

/// The id that 16 bits stand for if the true one needs more.
const OVERFLOW_ID: u16 = 65534;
/// The versions of the header of `capget(2)` and `capset(2)`, and the number of 32-bit words in
/// each set.
const CAPABILITY_VERSIONS: [(u32, usize); 3] =
    [(0x1998_0330, 1), (0x2007_1026, 2), (0x2008_0522, 2)];
const CURRENT_CAPABILITY_VERSION: u32 = 0x2008_0522;
/// The namespaces that need a capability (`unshare(2)`).
const PRIVILEGED_NAMESPACES: i32 = libc::CLONE_NEWNS
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWCGROUP
    | CLONE_NEWTIME;
const CLONE_NEWTIME: i32 = 0x80;

/// Answers a call that reads or changes credentials.
pub(super) fn answer(
    passed: &PassedCall<'_>,
    table: &CredentialTable,
    call: IdentityCall,
    narrow: bool,
) -> AnswerResult {
    use IdentityCall::{
        Capget, Capset, Getegid, Geteuid, Getgid, Getgroups, Getresgid, Getresuid, Getuid,
        Setfsgid, Setfsuid, Setgid, Setgroups, Setregid, Setresgid, Setresuid, Setreuid, Setuid,
    };
    let old = table.of(passed.caller.tid).map_err(leave_to_kernel)?;
    let shown = |id: u32| match narrow {
        true => u16::try_from(id).unwrap_or(OVERFLOW_ID).into(),
        false => id,
    };
    let value = |id: u32| Ok(CallAnswer::Return(Ok(shown(id).into())));
    let id = |index: usize| match narrow {
        true => Some(passed.argument(index) & 0xffff).filter(|id| *id != 0xffff),
        false => Some(passed.argument(index)).filter(|id| *id != u32::MAX),
    };
    let one = |index| id(index).ok_or(Errno::EINVAL);
    let new = match call {
        Getuid => return value(old.user.real),
        Geteuid => return value(old.user.effective),
        Getgid => return value(old.group.real),
        Getegid => return value(old.group.effective),
        Getresuid | Getresgid => {
            let ids = if call == Getresuid { old.user } else { old.group };
            passed.still_waits()?;
            for (index, id) in [ids.real, ids.effective, ids.saved].into_iter().enumerate() {
                let address = passed.pointer(index);
                passed.caller.write_memory(address, &id_bytes(shown(id), narrow))?;
            }
            return Ok(CallAnswer::Return(Ok(0)));
        }
        Getgroups => return answer_getgroups(passed, &old, narrow),
        Capget => return answer_capget(passed, &old),
        Setuid => old.set_uid(one(0)?),
        Setgid => old.set_gid(one(0)?),
        Setreuid => old.set_reuid(id(0), id(1)),
        Setregid => old.set_regid(id(0), id(1)),
        Setresuid => old.set_resuid([id(0), id(1), id(2)]),
        Setresgid => old.set_resgid([id(0), id(1), id(2)]),
        // These return the previous id, and report no error.
        Setfsuid => Ok(id(0).map_or_else(|| (*old).clone(), |id| old.set_fsuid(id))),
        Setfsgid => Ok(id(0).map_or_else(|| (*old).clone(), |id| old.set_fsgid(id))),
        Setgroups => old.set_groups(read_groups(passed, narrow)?),
        Capset => capset(passed, &old)?,
    }?;
    if new != *old {
        passed.still_waits()?;
        table.assign(passed.caller.tid, new)?;
    }
    match call {
        Setfsuid => value(old.user.fs),
        Setfsgid => value(old.group.fs),
        _ => Ok(CallAnswer::Return(Ok(0))),
    }
}

/// Answers a call that needs a capability: the kernel executes it if the process has this.
pub(super) fn answer_privileged(
    passed: &PassedCall<'_>,
    table: &CredentialTable,
    call: PrivilegedCall,
) -> AnswerResult {
    let credentials = table.of(passed.caller.tid).map_err(leave_to_kernel)?;
    let is_allowed = match call {
        PrivilegedCall::Chroot => credentials.has(CAP_SYS_CHROOT),
        PrivilegedCall::Unshare => {
            let namespaces = passed.argument(0) as i32;
            // In the new user namespace the process has all capabilities.
            let needs_none =
                namespaces & libc::CLONE_NEWUSER != 0 || namespaces & PRIVILEGED_NAMESPACES == 0;
            needs_none || credentials.has(CAP_SYS_ADMIN)
        }
        _ => credentials.has(CAP_SYS_ADMIN),
    };
    Ok(if is_allowed { CallAnswer::Continue } else { Errno::EPERM.into() })
}

/// Answers `prctl` with `PR_SET_KEEPCAPS` or `PR_GET_KEEPCAPS`.
pub(super) fn answer_prctl(passed: &PassedCall<'_>, table: &CredentialTable) -> AnswerResult {
    let old = table.of(passed.caller.tid).map_err(leave_to_kernel)?;
    if passed.argument(0) == libc::PR_GET_KEEPCAPS as u32 {
        return Ok(CallAnswer::Return(Ok(old.keeps_capabilities.into())));
    }
    let keeps_capabilities = match passed.pointer(1) {
        0 => false,
        1 => true,
        _ => return Ok(Errno::EINVAL.into()),
    };
    passed.still_waits()?;
    table.assign(passed.caller.tid, Credentials { keeps_capabilities, ..(*old).clone() })?;
    Ok(CallAnswer::Return(Ok(0)))
}

/// Answers `setrlimit` and `prlimit` of the limit that carries the number of the credentials: it is
/// not changed.
pub(super) fn answer_locks_limit(passed: &PassedCall<'_>, call: Call) -> AnswerResult {
    if call == Call::Prlimit && passed.pointer(3) != 0 {
        passed.still_waits()?;
        passed.caller.write_memory(passed.pointer(3), &[0xff; 16])?;
    }
    Ok(CallAnswer::Return(Ok(0)))
}

fn id_bytes(id: u32, narrow: bool) -> Vec<u8> {
    match narrow {
        true => (id as u16).to_ne_bytes().to_vec(),
        false => id.to_ne_bytes().to_vec(),
    }
}

fn answer_getgroups(passed: &PassedCall<'_>, old: &Credentials, narrow: bool) -> AnswerResult {
    let room = passed.argument(0) as i32;
    let groups = &old.groups;
    if room < 0 || room != 0 && groups.len() > room as usize {
        return Ok(Errno::EINVAL.into());
    }
    if room != 0 {
        let shown = |id: &u32| match narrow {
            true => u16::try_from(*id).unwrap_or(OVERFLOW_ID).into(),
            false => *id,
        };
        let bytes: Vec<u8> = groups.iter().flat_map(|id| id_bytes(shown(id), narrow)).collect();
        passed.still_waits()?;
        passed.caller.write_memory(passed.pointer(1), &bytes)?;
    }
    Ok(CallAnswer::Return(Ok(groups.len() as i64)))
}

fn read_groups(passed: &PassedCall<'_>, narrow: bool) -> Result<Vec<u32>, Errno> {
    let count = passed.argument(0) as usize;
    if count > MAX_GROUPS {
        return Err(Errno::EINVAL);
    }
    let size = if narrow { 2 } else { 4 };
    let mut bytes = vec![0; count * size];
    passed.caller.read_exact(passed.pointer(1), &mut bytes)?;
    let id = |bytes: &[u8]| match *bytes {
        [a, b] => u16::from_ne_bytes([a, b]).into(),
        [a, b, c, d] => u32::from_ne_bytes([a, b, c, d]),
        _ => u32::MAX,
    };
    let groups: Vec<u32> = bytes.chunks_exact(size).map(id).collect();
    if groups.contains(&u32::MAX) { Err(Errno::EINVAL) } else { Ok(groups) }
}

/// The header of `capget(2)` and `capset(2)`.
struct CapabilityHeader {
    /// The number of 32-bit words in each set.
    words: usize,
    pid: u32,
}

fn read_header(passed: &PassedCall<'_>) -> Result<CapabilityHeader, Errno> {
    let mut bytes = [0; 8];
    passed.caller.read_exact(passed.pointer(0), &mut bytes)?;
    let [a, b, c, d, e, f, g, h] = bytes;
    let version = u32::from_ne_bytes([a, b, c, d]);
    match CAPABILITY_VERSIONS.iter().find(|(known, _)| *known == version) {
        Some((_, words)) => {
            Ok(CapabilityHeader { words: *words, pid: u32::from_ne_bytes([e, f, g, h]) })
        }
        None => {
            let current = CURRENT_CAPABILITY_VERSION.to_ne_bytes();
            passed.caller.write_memory(passed.pointer(0), &current)?;
            Err(Errno::EINVAL)
        }
    }
}

fn answer_capget(passed: &PassedCall<'_>, old: &Credentials) -> AnswerResult {
    let has_buffer = passed.pointer(1) != 0;
    let header = match read_header(passed) {
        // This asks for the current version.
        Err(Errno::EINVAL) if !has_buffer => return Ok(CallAnswer::Return(Ok(0))),
        header => header?,
    };
    if !is_self(passed, header.pid)? {
        return Ok(CallAnswer::Continue);
    }
    if has_buffer {
        let sets = [old.effective, old.permitted, old.inheritable];
        let words = (0..header.words).flat_map(|word| sets.map(|set| (set >> (32 * word)) as u32));
        let bytes: Vec<u8> = words.flat_map(u32::to_ne_bytes).collect();
        passed.still_waits()?;
        passed.caller.write_memory(passed.pointer(1), &bytes)?;
    }
    Ok(CallAnswer::Return(Ok(0)))
}

fn capset(
    passed: &PassedCall<'_>,
    old: &Credentials,
) -> Result<Result<Credentials, Errno>, CallAnswer> {
    let header = read_header(passed)?;
    if !is_self(passed, header.pid)? {
        return Ok(Err(Errno::EPERM));
    }
    let mut bytes = vec![0; header.words * 12];
    passed.caller.read_exact(passed.pointer(1), &mut bytes)?;
    let mut sets = [0_u64; 3];
    for (index, word) in bytes.chunks_exact(4).enumerate() {
        let word = word.first_chunk().map_or(0, |word| u32::from_ne_bytes(*word));
        sets[index % 3] |= u64::from(word) << (32 * (index / 3));
    }
    let [effective, permitted, inheritable] = sets;
    Ok(old.set_capabilities(effective, permitted, inheritable))
}

/// Whether a process id in a call means the caller.
fn is_self(passed: &PassedCall<'_>, pid: u32) -> Result<bool, CallAnswer> {
    let own = || -> io::Result<bool> { Ok(passed.caller.id_inside()? == Some(pid)) };
    Ok(pid == 0 || own().map_err(leave_to_kernel)?)
}
