//! The supervisor: a thread that answers the calls selected by the filter.
//!
//! Invariants:
//! - every received call is answered, even if answering fails: the process waits in the kernel
//!   until then;
//! - before the tree is changed, the kernel has confirmed that the call still waits, after
//!   everything was read from the process;
//! - a call that does not concern the sandbox's root, or that the process has no right to make,
//!   continues in the kernel, which returns its own error;
//! - an execution that would start a service never runs a program: if its exit cannot be arranged
//!   ([`super::trace`]), it fails;
//! - the thread ends when all filtered processes have ended (`POLLHUP`). It is not a FUSE thread,
//!   so it may wait for those.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::caller::Caller;
use super::calls::{Call, PathStart};
use super::credentials::{CAP_MKNOD, CredentialTable, Credentials};
use super::owners::OwnerRights;
use super::paths::PathFinder;
use super::resolve::Supervised;
use super::trace::{self, Intervention, TraceOutcome};
use super::{attributes, executions, identity, owners, services};
use crate::sandbox::Sandbox;
use crate::sandbox::error::{During, SandboxError};
use crate::sandbox::privilege::IdMap;

const SYNC_WAKE_UP: u64 = 1;

/// The thread that answers for a sandbox; none if the filter is not installed.
#[derive(Debug)]
pub struct Supervisor {
    thread: Option<JoinHandle<()>>,
}

impl Supervisor {
    /// Starts answering calls of `sandbox`, with changes to `tree`.
    ///
    /// # Errors
    /// Fails if the thread cannot be started.
    pub fn start(sandbox: &mut Sandbox, tree: Arc<dyn Supervised>) -> Result<Self, SandboxError> {
        let (Some(listener), Some(mounts)) = (sandbox.listener.take(), &sandbox.mounts) else {
            return Ok(Supervisor { thread: None });
        };
        let mounts = mounts.try_clone().during("starting the supervisor")?;
        // Reduces variance, but is optional: kernels before 6.6 lack it.
        // SAFETY: SET_FLAGS takes the flags themselves as its argument.
        unsafe {
            libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS, SYNC_WAKE_UP);
        }
        let stage = Caller { tid: sandbox.stage.pid as u32 };
        let outside_root = sandbox.root_outside().map(|root| root.as_os_str().as_bytes().to_vec());
        let outside_root = outside_root.unwrap_or_default();
        let finder = PathFinder::new(tree, sandbox.identity, mounts, stage, outside_root)
            .during("starting the supervisor")?;
        let answering = SupervisorThread {
            listener,
            uids: sandbox.plan.privilege.uids(),
            gids: sandbox.plan.privilege.gids(),
            finder,
            credentials: sandbox.credentials.clone(),
            root_may_make_devices: sandbox.plan.privilege.is_root_without_devices(),
        };
        let thread = std::thread::Builder::new()
            .name("supervisor".to_owned())
            .spawn(move || answering.run())
            .during("starting the supervisor")?;
        Ok(Supervisor { thread: Some(thread) })
    }

    /// Waits until the thread ends, which it does when the sandbox has ended.
    pub fn join(mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct SupervisorThread {
    listener: OwnedFd,
    uids: IdMap,
    gids: IdMap,
    finder: PathFinder,
    /// The credentials of processes, if the kernel does not know them.
    credentials: Option<Arc<CredentialTable>>,
    /// Whether root inside has the right to make devices without the kernel's capability.
    root_may_make_devices: bool,
}

/// The intervention that makes the image's own policy forbid an action.
const FORBID: Intervention = Intervention::Exit(services::FORBIDDEN);

/// The answer to a call.
pub(super) enum CallAnswer {
    /// The kernel executes the call.
    Continue,
    /// The call returned a value or failed.
    Return(Result<i64, Errno>),
    /// The execution with this description continues, and its program is changed.
    Intervene(Intervention, String),
    /// The execution continues, and its program gets these credentials.
    Adopt(Credentials),
}

impl From<Errno> for CallAnswer {
    fn from(error: Errno) -> Self {
        CallAnswer::Return(Err(error))
    }
}

/// Allows `?` in answers: an unknown state leaves the call to the kernel.
pub(super) type AnswerResult = Result<CallAnswer, CallAnswer>;

pub(super) fn leave_to_kernel<E>(_: E) -> CallAnswer {
    CallAnswer::Continue
}

/// A call that waits for its answer.
pub(super) struct PassedCall<'a> {
    listener: BorrowedFd<'a>,
    id: u64,
    pub(super) caller: Caller,
    pub(super) data: &'a libc::seccomp_data,
}

impl PassedCall<'_> {
    /// Returns the low 32 bits of an argument.
    pub(super) fn argument(&self, index: usize) -> u32 {
        self.data.args[index] as u32
    }

    /// Returns an argument that is an address or a number of the processor's size.
    pub(super) fn pointer(&self, index: usize) -> u64 {
        self.data.args[index]
    }

    /// Returns the start of a relative path: a descriptor, or `AT_FDCWD`.
    pub(super) fn start(&self, from: PathStart) -> i32 {
        match from {
            PathStart::WorkingDirectory => libc::AT_FDCWD,
            PathStart::Descriptor => self.argument(0) as i32,
        }
    }

    /// Whether the call names the descriptor itself: by `AT_EMPTY_PATH` and an empty path in the
    /// argument `path`.
    pub(super) fn names_descriptor(&self, path: usize, flags: i32) -> Result<bool, CallAnswer> {
        if flags & libc::AT_EMPTY_PATH == 0 {
            return Ok(false);
        }
        // Linux 6.11 and newer accept a null pointer.
        Ok(self.pointer(path) == 0 || self.caller.read_path(self.pointer(path))?.is_empty())
    }

    /// Checks that the call still waits, so that everything read was the caller's.
    pub(super) fn still_waits(&self) -> Result<(), CallAnswer> {
        // SAFETY: ID_VALID reads one u64, which `id` is.
        let valid = unsafe {
            libc::ioctl(
                self.listener.as_raw_fd(),
                libc::SECCOMP_IOCTL_NOTIF_ID_VALID,
                &raw const self.id,
            )
        };
        if valid == 0 { Ok(()) } else { Err(CallAnswer::Continue) }
    }
}

impl SupervisorThread {
    fn run(&self) {
        loop {
            let mut fds = [PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => return,
            }
            let events = fds[0].revents().unwrap_or(PollFlags::empty());
            if events.contains(PollFlags::POLLIN) {
                self.serve_one();
            } else if events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR) {
                return;
            }
        }
    }

    fn serve_one(&self) {
        // SAFETY: all-zero is a valid value of this plain C struct, and required by the kernel.
        let mut call: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        // SAFETY: RECV fills one seccomp_notif, which `call` is.
        let received = unsafe {
            libc::ioctl(self.listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut call)
        };
        if received < 0 {
            return; // killed or interrupted meanwhile: poll reports what is left
        }
        let passed = PassedCall {
            listener: self.listener.as_fd(),
            id: call.id,
            caller: Caller { tid: call.pid },
            data: &call.data,
        };
        let answer = catch_unwind(AssertUnwindSafe(|| self.answer(&passed)));
        let (Ok(answer) | Err(answer)) = answer.unwrap_or(Err(Errno::EIO.into()));
        match answer {
            CallAnswer::Continue => self.proceed(call.id),
            CallAnswer::Return(Ok(value)) => self.respond(call.id, value, 0, 0),
            CallAnswer::Return(Err(error)) => self.respond(call.id, 0, -(error as i32), 0),
            CallAnswer::Adopt(credentials) => self.adopt(&passed, &credentials),
            CallAnswer::Intervene(intervention, execution) => {
                let proceed = || self.proceed(call.id);
                match trace::follow_execution(call.pid, intervention, proceed) {
                    Ok(TraceOutcome::NotExecuted) => {}
                    // Programs ask the policy before each action, which is not an event.
                    Ok(TraceOutcome::Changed) if intervention == FORBID => {}
                    Ok(TraceOutcome::Changed) => self.finder.tree.service_skipped(&execution),
                    Ok(TraceOutcome::Ended(error)) => {
                        self.finder.tree.service_failed(&execution, &error)
                    }
                    // The image's own policy decides, and the actions themselves are skipped.
                    Err(_) if intervention == FORBID => self.proceed(call.id),
                    Err(error) => {
                        // A killed process cannot be traced either.
                        if passed.still_waits().is_ok() {
                            self.finder.tree.service_failed(&execution, &error);
                        }
                        self.respond(call.id, 0, -libc::EPERM, 0);
                    }
                }
            }
        }
    }

    /// Lets the kernel execute the call.
    fn proceed(&self, id: u64) {
        self.respond(id, 0, 0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32);
    }

    /// Continues an execution. If it succeeds, the program starts with these credentials.
    fn adopt(&self, passed: &PassedCall<'_>, credentials: &Credentials) {
        let Some(table) = &self.credentials else { return self.proceed(passed.id) };
        let adopt = |tid| Ok(table.assign(tid, credentials.clone())?);
        let proceed = || self.proceed(passed.id);
        if trace::follow_to_start(passed.caller.tid, &adopt, proceed).is_err() {
            self.respond(passed.id, 0, -libc::EPERM, 0);
        }
    }

    fn respond(&self, id: u64, val: i64, error: i32, flags: u32) {
        let response = libc::seccomp_notif_resp { id, val, error, flags };
        // SAFETY: SEND reads one seccomp_notif_resp, which `response` is. It fails when the process
        // has ended; then the answer is not needed.
        unsafe {
            libc::ioctl(
                self.listener.as_raw_fd(),
                libc::SECCOMP_IOCTL_NOTIF_SEND,
                &raw const response,
            );
        }
    }

    fn answer(&self, passed: &PassedCall<'_>) -> AnswerResult {
        let call = Call::find(passed.data.arch, passed.data.nr).ok_or(CallAnswer::Continue)?;
        let caller = passed.caller;
        let table = self.credentials.as_deref();
        if let Call::Execute(from) = call {
            let first = call.first_after_path();
            return executions::answer(passed, &self.finder, table, from, first);
        }
        // A user namespace made inside does not change the owners.
        if let Some(table) = table.filter(|_| call.reads_attributes()) {
            return attributes::answer_stat(passed, &self.finder, table, call);
        }
        // The kernel gives root's ids to a process with those, in any user namespace.
        if let (Call::Identity { call, .. }, Some(table)) = (call, table)
            && call.reads_ids()
            && table.is_root(caller.tid)
        {
            return Ok(CallAnswer::Continue);
        }
        // Ids and capabilities in it are the kernel's.
        let namespace = caller.namespace("user").map_err(leave_to_kernel)?;
        if namespace != self.finder.identity.user_namespace {
            return Ok(CallAnswer::Continue);
        }
        match (call, table) {
            (Call::Mknod(_), _) => {
                owners::answer_mknod(passed, &self.finder, &self.rights(caller)?, call)
            }
            (Call::Chown { .. } | Call::Fchown { .. } | Call::Fchownat, _) => {
                owners::answer_chown(passed, &self.finder, &self.rights(caller)?, call)
            }
            (Call::Identity { call, narrow }, Some(table)) => {
                identity::answer(passed, table, call, narrow)
            }
            (Call::Privileged(call), Some(table)) => {
                identity::answer_privileged(passed, table, call)
            }
            (Call::Prctl, Some(table)) => identity::answer_prctl(passed, table),
            (Call::Setrlimit | Call::Prlimit, Some(_)) => {
                identity::answer_locks_limit(passed, call)
            }
            (Call::Access(_) | Call::Faccessat2, Some(table)) => {
                attributes::answer_access(passed, &self.finder, table, call)
            }
            _ => Ok(CallAnswer::Continue),
        }
    }

    /// Returns the rights of a caller.
    fn rights(&self, caller: Caller) -> Result<OwnerRights, CallAnswer> {
        match &self.credentials {
            Some(table) => table.of(caller.tid).map(OwnerRights::Daemon),
            None => caller.credentials(&self.uids, &self.gids).map(|mut found| {
                if self.root_may_make_devices && found.uid == 0 {
                    found.add(CAP_MKNOD);
                }
                OwnerRights::Kernel(found)
            }),
        }
        .map_err(leave_to_kernel)
    }
}
