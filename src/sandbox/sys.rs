//! System calls that `nix` does not wrap, and helpers for those that it does.
//!
//! Invariants:
//! - every function is a safe wrapper of one call, without policy or state;
//! - every file descriptor made here is close-on-exec and owned by an [`OwnedFd`];
//! - an interrupted call is repeated.
//!
//! The mount calls are the descriptor-based ones (Linux 5.2): mounts are named by descriptors,
//! never by a path that an image could redirect with a symbolic link.

use std::ffi::{CStr, CString, OsStr};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;

use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg,
    sendmsg, socketpair,
};
use rustix::ioctl::{Getter, NoArg, Opcode};

const OPEN_TREE_CLONE: libc::c_uint = 1;
const OPEN_TREE_CLOEXEC: libc::c_uint = libc::O_CLOEXEC as libc::c_uint;
const FSOPEN_CLOEXEC: libc::c_uint = 1;
const FSMOUNT_CLOEXEC: libc::c_uint = 1;
const FSCONFIG_SET_FLAG: libc::c_uint = 0;
const FSCONFIG_SET_STRING: libc::c_uint = 1;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 0x04;
const MOVE_MOUNT_T_EMPTY_PATH: libc::c_uint = 0x40;
/// `include/uapi/linux/loop.h`.
const LOOP_CLR_FD: Opcode = 0x4c01;
const LOOP_GET_STATUS64: Opcode = 0x4c05;
const MFD_NOEXEC_SEAL: libc::c_uint = 8;

/// Mount attributes of `fsmount(2)` and `mount_setattr(2)`.
pub(super) const MOUNT_ATTR_RDONLY: u64 = 0x1;
pub(super) const MOUNT_ATTR_NOSUID: u64 = 0x2;
pub(super) const MOUNT_ATTR_NODEV: u64 = 0x4;
pub(super) const MOUNT_ATTR_NOEXEC: u64 = 0x8;

/// Converts a path or a name for the kernel; fails for one with a NUL byte.
pub(super) fn c_string(text: impl AsRef<OsStr>) -> io::Result<CString> {
    CString::new(text.as_ref().as_bytes())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a NUL byte in a path or name"))
}

/// Returns the effective capabilities of this thread. Not from `/proc`, which may not be there.
pub(super) fn effective_capabilities() -> io::Result<u64> {
    // Version 3, and this thread.
    let header: [u32; 2] = [0x2008_0522, 0];
    // Effective, permitted and inheritable: the low words, then the high ones.
    let mut sets = [[0_u32; 3]; 2];
    // SAFETY: the kernel reads the header and writes both sets, as the version says.
    done(unsafe { libc::syscall(libc::SYS_capget, header.as_ptr(), sets.as_mut_ptr()) })?;
    Ok(u64::from(sets[0][0]) | u64::from(sets[1][0]) << 32)
}

/// The result of `fork(2)`.
pub(super) enum Forked {
    /// In the child.
    Child,
    /// In the parent: the child's process id.
    Parent(libc::pid_t),
}

/// Forks. The child has a copy of everything, descriptors included.
///
/// # Safety
/// The child must never return into its caller's frames (they own descriptors and refer to threads
/// that exist only in the parent): it ends in `execve` or [`exit_now`]. If the parent has other
/// threads, their locks stay locked in the child, except the allocator's, which glibc handles.
pub(super) unsafe fn fork() -> io::Result<Forked> {
    // SAFETY: fork has no memory preconditions; the caller keeps to the contract above.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Forked::Child),
        child => Ok(Forked::Parent(child)),
    }
}

/// Ends the process at once: no destructors, no exit handlers, nothing flushed.
pub(super) fn exit_now(code: i32) -> ! {
    // SAFETY: _exit takes a number and does not return.
    unsafe { libc::_exit(code) }
}

fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us; it has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(result as RawFd) })
}

fn done(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Returns a detached copy of the mounts at `path`, with everything mounted below.
pub(super) fn clone_tree(path: &CStr) -> io::Result<OwnedFd> {
    clone_tree_at(None, path)
}

/// As [`clone_tree`], with `path` relative to `dir`.
pub(super) fn clone_tree_at(dir: Option<BorrowedFd<'_>>, path: &CStr) -> io::Result<OwnedFd> {
    let flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | libc::AT_RECURSIVE as libc::c_uint;
    let dir = dir.map_or(libc::AT_FDCWD, |dir| dir.as_raw_fd());
    // SAFETY: `path` is a C string that outlives the call; the rest are numbers.
    owned(unsafe { libc::syscall(libc::SYS_open_tree, dir, path.as_ptr(), flags) })
}

/// Sets `attributes` on the mount `tree` and on all mounts below it.
pub(super) fn set_mount_attributes(tree: BorrowedFd<'_>, attributes: u64) -> io::Result<()> {
    let change =
        libc::mount_attr { attr_set: attributes, attr_clr: 0, propagation: 0, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | libc::AT_RECURSIVE;
    // SAFETY: the path is a static C string; `change` is a whole mount_attr, passed with its size.
    done(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const change,
            size_of::<libc::mount_attr>(),
        )
    })
}

/// Makes a file system of type `kind` that is not mounted yet. An option without a value is a flag.
pub(super) fn new_mount(
    kind: &CStr,
    options: &[(&CStr, Option<&CStr>)],
    attributes: u64,
) -> io::Result<OwnedFd> {
    // SAFETY: `kind` is a C string that outlives the call.
    let context = owned(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), FSOPEN_CLOEXEC) })?;
    let configure =
        |command: libc::c_uint, key: *const libc::c_char, value: *const libc::c_char| {
            // SAFETY: key and value are null or C strings that outlive the call.
            done(unsafe {
                libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), command, key, value, 0)
            })
        };
    let null = std::ptr::null::<libc::c_char>();
    for (key, value) in options {
        match value {
            Some(value) => configure(FSCONFIG_SET_STRING, key.as_ptr(), value.as_ptr())?,
            None => configure(FSCONFIG_SET_FLAG, key.as_ptr(), null)?,
        }
    }
    configure(FSCONFIG_CMD_CREATE, null, null)?;
    // SAFETY: numbers only; the descriptor is ours.
    owned(unsafe {
        libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), FSMOUNT_CLOEXEC, attributes)
    })
}

/// Attaches the detached mount `tree` at `target`, a descriptor of the mount point itself.
pub(super) fn attach(tree: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    let flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH;
    // SAFETY: both paths are static C strings.
    done(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            target.as_raw_fd(),
            c"".as_ptr(),
            flags,
        )
    })
}

/// Opens `path` as a location (`O_PATH`), with `root` as the root directory: `..` and symbolic
/// links of the image cannot leave it.
pub(super) fn open_in_root(root: BorrowedFd<'_>, path: &CStr) -> io::Result<OwnedFd> {
    use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    Ok(openat2(root, path, how)?)
}

/// Makes the current directory the root, with the old root mounted on top of it, where
/// [`detach_current_directory`] unmounts it (see pivot_root(2), "pivot_root(\".\", \".\")").
pub(super) fn pivot_to_current_directory() -> io::Result<()> {
    Ok(nix::unistd::pivot_root(c".", c".")?)
}

/// Unmounts lazily the mount at the current directory.
pub(super) fn detach_current_directory() -> io::Result<()> {
    Ok(nix::mount::umount2(c".", nix::mount::MntFlags::MNT_DETACH)?)
}

/// Closes every descriptor except standard input, output, error and those in `keep`.
pub(super) fn close_all_but(keep: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut kept: Vec<libc::c_uint> = keep.iter().map(|fd| fd.as_raw_fd() as _).collect();
    kept.sort_unstable();
    kept.push(libc::c_uint::MAX);
    let mut first: libc::c_uint = 3;
    for fd in kept {
        if fd > first {
            // SAFETY: the process owns the descriptors that it closes: it is a forked copy, whose
            // other owners of descriptors are never used or dropped (see `fork`).
            done(unsafe { libc::syscall(libc::SYS_close_range, first, fd - 1, 0) })?;
        }
        first = fd.saturating_add(1).max(first);
    }
    Ok(())
}

/// Resets every signal to its default action, and blocks all signals or none.
pub(super) fn reset_signals(block_all: bool) {
    // By the system call itself: glibc's wrapper rejects its own two signals (32 and 33), which the
    // parent may have ignored.
    let default = [0_u64; 8];
    let null = std::ptr::null::<u64>();
    for signal in 1..=64 {
        // SAFETY: all-zero memory, larger than the kernel's struct sigaction, is the default
        // action; for SIGKILL and SIGSTOP the call fails and changes nothing.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), null, 8_usize) };
    }
    let mask =
        if block_all { nix::sys::signal::SigSet::all() } else { nix::sys::signal::SigSet::empty() };
    let _ = mask.thread_set_mask();
}

/// Returns whether this process ignores `signal`.
pub(super) fn is_ignored(signal: i32) -> bool {
    // SAFETY: an all-zero sigaction is a valid value of this plain C struct.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: sigaction without a new action only fills `action`.
    unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut action) };
    action.sa_sigaction == libc::SIG_IGN
}

/// Removes a capability from the bounding set: no later `execve` can gain it.
pub(super) fn drop_from_bounding_set(capability: u32) -> io::Result<()> {
    // SAFETY: numbers only.
    done(
        unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(capability), 0, 0, 0) }
            .into(),
    )
}

/// Makes the terminal `fd` the controlling terminal of this process, which is a session leader.
pub(super) fn take_terminal(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: TIOCSCTTY takes a number.
    done(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCSCTTY, 0) }.into())
}

/// Unlocks the pseudo terminal of `master` and opens its slave.
pub(super) fn open_terminal_peer(master: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let unlocked: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads one int, which outlives the call.
    done(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlocked) }.into())?;
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: TIOCGPTPEER takes open flags and returns a new descriptor.
    owned(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) }.into())
}

/// Returns the size of the terminal `fd`.
pub(super) fn window_size(fd: BorrowedFd<'_>) -> io::Result<libc::winsize> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes one winsize, which `size` is.
    done(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) }.into())?;
    Ok(size)
}

/// Sets the size of the terminal `fd`.
pub(super) fn set_window_size(fd: BorrowedFd<'_>, size: &libc::winsize) -> io::Result<()> {
    // SAFETY: TIOCSWINSZ reads one winsize, which `size` points to.
    done(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCSWINSZ, &raw const *size) }.into())
}

/// The file that a loop device is on.
pub(super) struct LoopStatus {
    /// The device number of its file system, as `stat` reports it.
    pub(super) device: u64,
    /// Its inode number.
    pub(super) inode: u64,
}

/// Returns the status of a loop device; fails if it is on no file.
pub(super) fn loop_status(device: BorrowedFd<'_>) -> io::Result<LoopStatus> {
    /// The size of `struct loop_info64` in words. Device and inode number are the first two.
    const WORDS: usize = 29;
    // SAFETY: LOOP_GET_STATUS64 writes one loop_info64: plain numbers, which fit into the array.
    let info =
        unsafe { rustix::ioctl::ioctl(device, Getter::<LOOP_GET_STATUS64, [u64; WORDS]>::new())? };
    Ok(LoopStatus { device: info[0], inode: info[1] })
}

/// Detaches a loop device from its file: at once, or when its last user closes it.
pub(super) fn detach_loop_device(device: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: LOOP_CLR_FD has no argument.
    unsafe { rustix::ioctl::ioctl(device, NoArg::<LOOP_CLR_FD>::new())? };
    Ok(())
}

/// Sets the loopback interface of this network namespace up.
pub(super) fn loopback_up() -> io::Result<()> {
    use nix::sys::socket::socket;
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: an all-zero ifreq is a valid value of this plain C struct.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads one ifreq, which `request` is, its name NUL-terminated.
    done(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) }.into())
}

/// Executes `program`. Returns only on failure.
pub(super) fn execve(program: &CStr, argv: &[CString], env: &[CString]) -> io::Error {
    let array = |strings: &[CString]| {
        let mut array: Vec<*const libc::c_char> = strings.iter().map(|s| s.as_ptr()).collect();
        array.push(std::ptr::null());
        array
    };
    let (argv, env) = (array(argv), array(env));
    // SAFETY: both arrays end with a null pointer, and the strings they point to outlive the call.
    unsafe { libc::execve(program.as_ptr(), argv.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

/// Duplicates `fd` to `target` (usually 0, 1 or 2), without close-on-exec.
pub(super) fn dup_to(fd: BorrowedFd<'_>, target: RawFd) -> io::Result<()> {
    if fd.as_raw_fd() == target {
        // SAFETY: numbers only.
        return done(unsafe { libc::fcntl(target, libc::F_SETFD, 0) }.into());
    }
    // SAFETY: numbers only; nothing else in this forked copy owns `target`.
    done(unsafe { libc::dup2(fd.as_raw_fd(), target) }.into())
}

/// Makes an anonymous file that holds `bytes`.
pub(super) fn anonymous_file(name: &CStr, bytes: &[u8]) -> io::Result<OwnedFd> {
    use std::os::unix::fs::FileExt;
    // SAFETY: `name` is a C string that outlives the call.
    let create = |flags| unsafe { libc::memfd_create(name.as_ptr(), flags) };
    let mut fd = create(libc::MFD_CLOEXEC | MFD_NOEXEC_SEAL);
    if fd < 0 {
        fd = create(libc::MFD_CLOEXEC); // before Linux 6.3
    }
    let file = std::fs::File::from(owned(fd.into())?);
    file.write_all_at(bytes, 0)?;
    Ok(file.into())
}

/// Makes a connected pair of sockets that keep message boundaries.
pub(super) fn message_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let kind = SockType::SeqPacket;
    Ok(socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC)?)
}

/// Sends one message with descriptors. A closed peer is an error (EPIPE), not a signal.
pub(super) fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
    loop {
        let parts = [IoSlice::new(bytes)];
        match sendmsg::<()>(socket.as_raw_fd(), &parts, control, MsgFlags::MSG_NOSIGNAL, None) {
            Ok(_) => return Ok(()),
            Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// A received message; empty when the peer has closed its end.
pub(super) struct Received {
    pub(super) bytes: Vec<u8>,
    pub(super) fds: Vec<OwnedFd>,
}

/// Waits for one message of at most 4 KiB with at most 8 descriptors.
pub(super) fn receive(socket: BorrowedFd<'_>) -> io::Result<Received> {
    let mut bytes = vec![0; 4096];
    let mut control = nix::cmsg_space!([RawFd; 8]);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    loop {
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let (length, fds) =
            match recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags) {
                Ok(message) => {
                    let mut fds = Vec::new();
                    for part in message.cmsgs()? {
                        if let ControlMessageOwned::ScmRights(raw) = part {
                            // SAFETY: the kernel has just installed these descriptors for us.
                            fds.extend(raw.iter().map(|&fd| unsafe { OwnedFd::from_raw_fd(fd) }));
                        }
                    }
                    (message.bytes, fds)
                }
                Err(nix::errno::Errno::EINTR) => continue,
                // The peer died with unread messages: treat it as a peer that closed.
                Err(nix::errno::Errno::ECONNRESET) => (0, Vec::new()),
                Err(error) => return Err(error.into()),
            };
        bytes.truncate(length);
        return Ok(Received { bytes, fds });
    }
}

/// Waits for the process `pid` and returns its raw wait status.
pub(super) fn wait_for(pid: libc::pid_t) -> io::Result<i32> {
    loop {
        let mut status = 0;
        // SAFETY: waitpid writes one int, to `status`, which is an int.
        if unsafe { libc::waitpid(pid, &raw mut status, 0) } >= 0 {
            return Ok(status);
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EINTR) {
            return Err(error);
        }
    }
}

/// Reaps a child that has ended and returns its raw wait status; `None` if no child has ended.
pub(super) fn reap_any() -> Option<(libc::pid_t, i32)> {
    let mut status = 0;
    // SAFETY: waitpid writes one int, to `status`, which is an int.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
    (pid > 0).then_some((pid, status))
}

/// Returns the start and end of a process's arguments in its memory.
pub(super) fn memory_of_arguments(pid: libc::pid_t) -> io::Result<(usize, usize)> {
    let [start, end, ..] = argument_addresses(&pid.to_string())?;
    Ok((start, end))
}

/// Returns the start and end of a process's arguments and of its environment in its memory.
fn argument_addresses(process: &str) -> io::Result<[usize; 4]> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    // proc_pid_stat(5): the second field ends with the last parenthesis; arg_start is the 48th.
    let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
    let addresses = fields.split_ascii_whitespace().skip(45).take(4);
    let addresses: Vec<usize> = addresses.map_while(|field| field.parse().ok()).collect();
    addresses.try_into().map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

/// Overwrites the memory from which the kernel serves `/proc/PID/cmdline` and `/proc/PID/environ`
/// of this process. A text that does not fit is left out.
///
/// The process must have one thread, and must not use its arguments or environment afterwards.
pub(super) fn replace_arguments(command_line: &[u8], environment: &[u8]) -> io::Result<()> {
    let [arg_start, arg_end, env_start, env_end] = argument_addresses("self")?;
    for (start, end, text) in
        [(arg_start, arg_end, command_line), (env_start, env_end, environment)]
    {
        if start == 0 || end <= start {
            continue;
        }
        // SAFETY: the kernel put the strings between these addresses at the top of the writable
        // stack; this process has one thread, which has no reference into them.
        let memory = unsafe { std::slice::from_raw_parts_mut(start as *mut u8, end - start) };
        memory.fill(0);
        if text.len() < memory.len() {
            memory[..text.len()].copy_from_slice(text);
        }
    }
    Ok(())
}

/// Sends `signal` to a process, or to a process group when `pid` is negative.
pub(super) fn kill(pid: libc::pid_t, signal: i32) -> io::Result<()> {
    // SAFETY: numbers only.
    done(unsafe { libc::kill(pid, signal) }.into())
}

/// Returns the parent's process id; 0 when it is outside this process's pid namespace.
pub(super) fn parent_pid() -> libc::pid_t {
    // SAFETY: no arguments; cannot fail.
    unsafe { libc::getppid() }
}

/// Duplicates `fd` with close-on-exec.
pub(super) fn duplicate(fd: impl AsFd) -> io::Result<OwnedFd> {
    fd.as_fd().try_clone_to_owned()
}
