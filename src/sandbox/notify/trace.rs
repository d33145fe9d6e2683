//! Changes the effect of an `execve` that continues in the kernel.
//!
//! The supervisor cannot make the kernel execute another program, and failing the call would fail
//! the script that makes it. So the execution continues, and `ptrace(2)` stops the new program
//! before its first instruction. Then its first system call is replaced by `exit_group`, or one of
//! its arguments is overwritten in its new memory.
//!
//! Each call of [`follow_execution`] has its own thread, which is the tracer. So the status of
//! another process cannot be mistaken for the tracee's, and when the thread ends, on any path, the
//! kernel releases its tracees and reports a dead tracee to its parent.

use std::io;

use libc::pid_t;

use super::caller::MemoryTransfer;
use crate::sandbox::sys;

/// Bytes of a program's arguments that are searched. The kernel allows no more: three quarters of
/// the default stack limit of 8 MiB.
const MAX_ARGUMENT_BYTES: usize = 6 << 20;

const PTRACE_SYSCALL: libc::c_uint = 24;
const PTRACE_DETACH: libc::c_uint = 17;
const PTRACE_SEIZE: libc::c_uint = 0x4206;
const PTRACE_INTERRUPT: libc::c_uint = 0x4207;
const PTRACE_GETREGSET: libc::c_uint = 0x4204;
const PTRACE_SETREGSET: libc::c_uint = 0x4205;
const PTRACE_GET_SYSCALL_INFO: libc::c_uint = 0x420e;
const PTRACE_O_TRACESYSGOOD: usize = 1;
const PTRACE_O_TRACEEXEC: usize = 1 << 4;
const PTRACE_O_EXITKILL: usize = 1 << 20;
const PTRACE_EVENT_EXEC: i32 = 4;
const PTRACE_EVENT_STOP: i32 = 128;
const SYSCALL_STOP: i32 = libc::SIGTRAP | 0x80;
const SYSCALL_INFO_ENTRY: u8 = 1;
const NT_PRSTATUS: usize = 1;
#[cfg(target_arch = "aarch64")]
const NT_ARM_SYSTEM_CALL: usize = 0x404;

/// Whether this module supports the registers of this processor.
const SUPPORTED: bool = cfg!(any(target_arch = "x86_64", target_arch = "aarch64"));

/// A change to a new program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Intervention {
    /// It exits at once with this code.
    Exit(i32),
    /// Its arguments equal to `from` become `to`, which has the same length.
    Replace { from: &'static [u8], to: &'static [u8] },
}

/// The result of a followed execution.
#[derive(Debug)]
pub(super) enum TraceOutcome {
    /// The execution failed, or another process killed this one meanwhile.
    NotExecuted,
    /// The program was changed.
    Changed,
    /// The change failed with this error. The program ended before its first instruction had an
    /// effect: with exit code 1, or by SIGKILL.
    Ended(io::Error),
}

/// The function that a tracer calls for a new program, before its first instruction. If it fails,
/// the program exits at once with code 1.
type StartFn<'a> = &'a (dyn Fn(u32) -> io::Result<()> + Sync);

/// Continues the thread `tid`, which waits in an execution, by `proceed`, and changes the program
/// that it executes. An execution that fails in the kernel fails as usual.
///
/// # Errors
/// Fails if the thread cannot be traced; then `proceed` has not been called.
pub(super) fn follow_execution(
    tid: u32,
    intervention: Intervention,
    proceed: impl FnOnce() + Send,
) -> io::Result<TraceOutcome> {
    match intervention {
        Intervention::Exit(code) => run_tracer(tid, code, None, proceed),
        Intervention::Replace { from, to } => {
            let replace = |pid: u32| replace_argument(pid as pid_t, from, to);
            run_tracer(tid, 0, Some(&replace), proceed)
        }
    }
}

/// As [`follow_execution`], but calls `start` for the new program.
///
/// # Errors
/// Fails if the thread cannot be traced; then `proceed` has not been called.
pub(super) fn follow_to_start(
    tid: u32,
    start: StartFn<'_>,
    proceed: impl FnOnce() + Send,
) -> io::Result<TraceOutcome> {
    run_tracer(tid, 0, Some(start), proceed)
}

/// Traces an execution. Without `start` the program exits at once with `code`.
fn run_tracer(
    tid: u32,
    code: i32,
    start: Option<StartFn<'_>>,
    proceed: impl FnOnce() + Send,
) -> io::Result<TraceOutcome> {
    if !SUPPORTED {
        return Err(io::Error::from_raw_os_error(libc::ENOSYS));
    }
    std::thread::scope(|scope| {
        let tracer = std::thread::Builder::new().name("tracer".to_owned());
        let tracer = tracer.spawn_scoped(scope, move || trace(tid as pid_t, code, start, proceed));
        tracer?.join().unwrap_or(Ok(TraceOutcome::NotExecuted))
    })
}

/// Runs [`run_tracer`] in the tracer thread.
fn trace(
    tid: pid_t,
    code: i32,
    start: Option<StartFn<'_>>,
    proceed: impl FnOnce(),
) -> io::Result<TraceOutcome> {
    let options = PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEEXEC | PTRACE_O_EXITKILL;
    request(PTRACE_SEIZE, tid, 0, options)?;
    proceed();
    // A failed execution does not stop the thread; this request does. It fails when the thread has
    // ended, which the wait reports.
    let _ = request(PTRACE_INTERRUPT, tid, 0, 0);
    let mut executed = false;
    let mut failure = None;
    // A thread other than its process's first takes the process's id when it executes, so wait for
    // any tracee of this thread: there is only this one. An error means that it is no longer
    // traced.
    while let Ok((pid, status)) = wait() {
        if !libc::WIFSTOPPED(status) {
            // It died. The wait has passed its status on to its parent.
            return Ok(TraceOutcome::NotExecuted);
        }
        let (signal, event) = (libc::WSTOPSIG(status), status >> 16);
        let mut deliver = 0;
        let mut done = false;
        match event {
            PTRACE_EVENT_EXEC => {
                executed = true;
                if let Some(start) = start {
                    failure = start(pid as u32).err();
                    done = failure.is_none();
                }
            }
            PTRACE_EVENT_STOP => done = !executed,
            _ if signal == SYSCALL_STOP => {
                if executed && enters_call(pid) {
                    let code = if failure.is_some() { 1 } else { code };
                    match call_exit(pid, code) {
                        Ok(()) => {}
                        // Killed: the next wait reports it.
                        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => continue,
                        // The end of this thread kills the process (`PTRACE_O_EXITKILL`).
                        Err(error) => return Ok(TraceOutcome::Ended(error)),
                    }
                    done = true;
                }
            }
            _ => deliver = signal as usize,
        }
        let next = if done { PTRACE_DETACH } else { PTRACE_SYSCALL };
        // This fails when the process has been killed. It is then still traced, and the next wait
        // reports it; without that wait its parent would never see its end.
        if request(next, pid, 0, deliver).is_ok() && done {
            break;
        }
    }
    Ok(match failure {
        _ if !executed => TraceOutcome::NotExecuted,
        None => TraceOutcome::Changed,
        Some(error) => TraceOutcome::Ended(error),
    })
}

fn request(request: libc::c_uint, pid: pid_t, address: usize, data: usize) -> io::Result<usize> {
    // SAFETY: the requests used here take numbers, or the address and size of a live buffer that
    // the caller passes (`enters_call`, `registers`).
    let result = unsafe { libc::ptrace(request, pid, address, data) };
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Waits for the next status change of a tracee of this thread.
fn wait() -> io::Result<(pid_t, i32)> {
    loop {
        let mut status = 0;
        // SAFETY: waitpid writes one int, which `status` is.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL | libc::__WNOTHREAD) };
        if pid > 0 {
            return Ok((pid, status));
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EINTR) {
            return Err(error);
        }
    }
}

/// Overwrites the arguments of a new program that equal `from` with `to`.
fn replace_argument(pid: pid_t, from: &[u8], to: &[u8]) -> io::Result<()> {
    if from.len() != to.len() {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let (start, end) = sys::memory_of_arguments(pid)?;
    let mut arguments = vec![0; end.saturating_sub(start).min(MAX_ARGUMENT_BYTES)];
    transfer_memory(pid, start, &mut arguments, libc::process_vm_readv)?;
    let mut offset = 0;
    for argument in arguments.split(|&byte| byte == 0) {
        if argument == from {
            transfer_memory(pid, start + offset, &mut to.to_vec(), libc::process_vm_writev)?;
        }
        offset += argument.len() + 1;
    }
    Ok(())
}

/// Reads or writes all of `local` at `address` in the memory of a tracee.
///
/// `/proc/PID/mem` does not work here: its permission bits deny a daemon that is not root the
/// processes of other users, although it may trace them.
fn transfer_memory(
    pid: pid_t,
    address: usize,
    local: &mut [u8],
    transfer: MemoryTransfer,
) -> io::Result<()> {
    let length = local.len();
    let here = libc::iovec { iov_base: local.as_mut_ptr().cast(), iov_len: length };
    let there = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: length };
    // SAFETY: `here` describes exactly `local`; only the kernel uses the other address, in the
    // other process, and checks it.
    let moved = unsafe { transfer(pid, &raw const here, 1, &raw const there, 1, 0) };
    match usize::try_from(moved) {
        Ok(moved) if moved == length => Ok(()),
        Ok(_) => Err(io::Error::from_raw_os_error(libc::EFAULT)),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

/// Whether the process is stopped at the entry of a system call.
fn enters_call(pid: pid_t) -> bool {
    // struct ptrace_syscall_info; its first byte is the kind of stop.
    let mut info = [0_u8; 88];
    request(PTRACE_GET_SYSCALL_INFO, pid, info.len(), info.as_mut_ptr() as usize).is_ok()
        && info[0] == SYSCALL_INFO_ENTRY
}

/// A set of registers, and its length in bytes.
struct Registers {
    words: [u64; 64],
    bytes: usize,
}

impl Registers {
    fn transfer(&mut self, what: libc::c_uint, pid: pid_t, set: usize) -> io::Result<()> {
        let mut vector =
            libc::iovec { iov_base: self.words.as_mut_ptr().cast(), iov_len: self.bytes };
        request(what, pid, set, (&raw mut vector) as usize)?;
        self.bytes = vector.iov_len;
        Ok(())
    }

    fn read(pid: pid_t, set: usize) -> io::Result<Self> {
        let mut registers = Registers { words: [0; 64], bytes: 64 * 8 };
        registers.transfer(PTRACE_GETREGSET, pid, set)?;
        Ok(registers)
    }

    fn write(mut self, pid: pid_t, set: usize) -> io::Result<()> {
        self.transfer(PTRACE_SETREGSET, pid, set)
    }

    /// Sets a 32-bit register.
    #[cfg(target_arch = "x86_64")]
    fn set_half(&mut self, index: usize, value: u32) {
        let shift = 32 * (index % 2);
        let word = &mut self.words[index / 2];
        *word = *word & !(0xffff_ffff << shift) | u64::from(value) << shift;
    }
}

/// Replaces the system call that the process enters by `exit_group(code)`.
#[cfg(target_arch = "x86_64")]
fn call_exit(pid: pid_t, code: i32) -> io::Result<()> {
    // struct user_regs_struct of both kinds: the first argument, and the number of the call.
    const RDI: usize = 14;
    const ORIG_RAX: usize = 15;
    const EBX: usize = 0;
    const ORIG_EAX: usize = 11;
    const I386_REGISTERS: usize = 17;
    let mut registers = Registers::read(pid, NT_PRSTATUS)?;
    if registers.bytes == I386_REGISTERS * 4 {
        registers.set_half(EBX, code as u32);
        registers.set_half(ORIG_EAX, 252);
    } else {
        registers.words[RDI] = code as u64;
        registers.words[ORIG_RAX] = libc::SYS_exit_group as u64;
    }
    registers.write(pid, NT_PRSTATUS)
}

/// Replaces the system call that the process enters by `exit_group(code)`. Fails for 32-bit
/// programs.
#[cfg(target_arch = "aarch64")]
fn call_exit(pid: pid_t, code: i32) -> io::Result<()> {
    let mut registers = Registers::read(pid, NT_PRSTATUS)?;
    registers.words[0] = code as u64;
    registers.write(pid, NT_PRSTATUS)?;
    let mut call = Registers::read(pid, NT_ARM_SYSTEM_CALL)?;
    call.words[0] = libc::SYS_exit_group as u64;
    call.write(pid, NT_ARM_SYSTEM_CALL)
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn call_exit(_: pid_t, _: i32) -> io::Result<()> {
    Err(io::Error::from_raw_os_error(libc::ENOSYS))
}
