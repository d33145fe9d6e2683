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

use std::collections::HashSet;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::caller::{Caller, Location, RootMount, path_in_file_system, root_mount};
use super::filter::{self, Call};
use super::resolve::{NameInDir, ProcessView, Supervised, SupervisedKind, Walked};
use super::services::{self, ServiceChange};
use super::trace::{self, Intervention, TraceOutcome};
use crate::sandbox::error::{During, SandboxError};
use crate::sandbox::privilege::IdMap;
use crate::sandbox::{Sandbox, SandboxIdentity, mountinfo};

const CAP_CHOWN: u32 = 0;
const CAP_MKNOD: u32 = 27;
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
        let answering = SupervisorThread {
            listener,
            tree,
            uids: sandbox.plan.privilege.uids(),
            gids: sandbox.plan.privilege.gids(),
            stage: Caller { tid: sandbox.stage.pid as u32 },
            mounts,
            identity: sandbox.identity,
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
    tree: Arc<dyn Supervised>,
    uids: IdMap,
    gids: IdMap,
    /// The process in the mount namespace of commands outside.
    stage: Caller,
    /// The mountinfo of the mount namespace of all other processes, from its root.
    mounts: File,
    identity: SandboxIdentity,
}

/// The answer to a call.
enum CallAnswer {
    /// The kernel executes the call.
    Continue,
    /// The call succeeded or failed.
    Return(Result<(), Errno>),
    /// The execution with this description continues, and its program is changed.
    Intervene(Intervention, String),
}

impl From<Errno> for CallAnswer {
    fn from(error: Errno) -> Self {
        CallAnswer::Return(Err(error))
    }
}

/// Allows `?` in answers: an unknown state leaves the call to the kernel.
type AnswerResult = Result<CallAnswer, CallAnswer>;

fn leave_to_kernel<E>(_: E) -> CallAnswer {
    CallAnswer::Continue
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
        let answer =
            catch_unwind(AssertUnwindSafe(|| self.answer(&call))).unwrap_or(Err(Errno::EIO.into()));
        let (Ok(answer) | Err(answer)) = answer;
        match answer {
            CallAnswer::Continue => self.proceed(call.id),
            CallAnswer::Return(Ok(())) => self.respond(call.id, 0, 0),
            CallAnswer::Return(Err(error)) => self.respond(call.id, -(error as i32), 0),
            CallAnswer::Intervene(intervention, execution) => {
                let proceed = || self.proceed(call.id);
                match trace::follow_execution(call.pid, intervention, proceed) {
                    Ok(TraceOutcome::NotExecuted) => {}
                    Ok(TraceOutcome::Changed) => self.tree.service_skipped(&execution),
                    Ok(TraceOutcome::Ended(error)) => self.tree.service_failed(&execution, &error),
                    Err(error) => {
                        // A killed process cannot be traced either.
                        if self.still_waits(call.id).is_ok() {
                            self.tree.service_failed(&execution, &error);
                        }
                        self.respond(call.id, -libc::EPERM, 0);
                    }
                }
            }
        }
    }

    /// Lets the kernel execute the call.
    fn proceed(&self, id: u64) {
        self.respond(id, 0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32);
    }

    fn respond(&self, id: u64, error: i32, flags: u32) {
        let response = libc::seccomp_notif_resp { id, val: 0, error, flags };
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

    /// Checks that the call still waits, so that everything read was the caller's.
    fn still_waits(&self, id: u64) -> Result<(), CallAnswer> {
        // SAFETY: ID_VALID reads one u64, which `id` is.
        let valid = unsafe {
            libc::ioctl(
                self.listener.as_raw_fd(),
                libc::SECCOMP_IOCTL_NOTIF_ID_VALID,
                &raw const id,
            )
        };
        if valid == 0 { Ok(()) } else { Err(CallAnswer::Continue) }
    }

    fn answer(&self, notification: &libc::seccomp_notif) -> AnswerResult {
        let data = &notification.data;
        let caller = Caller { tid: notification.pid };
        let call = Call::find(data.arch, data.nr).ok_or(CallAnswer::Continue)?;
        let argument = |index: usize| data.args[index] as u32;
        let first = call.first_after_path();
        let pointer = data.args[first - 1];

        if let Call::Execute(from) = call {
            return self.execution(notification, caller, from, first);
        }
        // Capabilities in a user namespace made inside do not count here.
        if caller.namespace("user").map_err(leave_to_kernel)? != self.identity.user_namespace {
            return Ok(CallAnswer::Continue);
        }
        let credentials = caller.credentials(&self.uids, &self.gids).map_err(leave_to_kernel)?;
        let needed = if matches!(call, Call::Mknod(_)) { CAP_MKNOD } else { CAP_CHOWN };
        if !credentials.has(needed) {
            return Ok(CallAnswer::Continue);
        }
        let ids = |narrow: bool| {
            let id = |index| {
                let (id, none) = match narrow {
                    true => (argument(index) & 0xffff, 0xffff),
                    false => (argument(index), u32::MAX),
                };
                (id != none).then_some(id)
            };
            (id(first), id(first + 1))
        };
        match call {
            Call::Execute(_) => Ok(CallAnswer::Continue),
            Call::Mknod(from) => {
                let start = path_start(from, data);
                let path = caller.read_path(pointer)?;
                let Walked::Found(place) =
                    self.walk(caller, start, &path, |view, from| view.place(from, &path))?
                else {
                    return Ok(CallAnswer::Continue);
                };
                let (mode, device) = (argument(first), argument(first + 1));
                let mode = mode & (libc::S_IFMT | 0o7777);
                let NameInDir { dir, name } = place;
                self.still_waits(notification.id)?;
                let (umask, owner) = (credentials.umask, (credentials.uid, credentials.gid));
                let device = split_device_number(device);
                self.tree.mknod(dir, &name, mode, umask, device, owner)?;
                if let Ok(path) = absolute(caller, start, &path) {
                    let root = caller.link("root").unwrap_or_default();
                    self.tree.device_recorded(&from_root(&root, &path), mode, device);
                }
                Ok(CallAnswer::Return(Ok(())))
            }
            Call::Chown { follow, narrow } => {
                let path = caller.read_path(pointer)?;
                self.chown_path(notification.id, caller, libc::AT_FDCWD, &path, follow, ids(narrow))
            }
            Call::Fchownat => {
                let flags = argument(4) as i32;
                if flags & !(libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH) != 0 {
                    return Ok(Errno::EINVAL.into());
                }
                let dir = argument(0) as i32;
                let path = caller.read_path(pointer)?;
                if path.is_empty() && flags & libc::AT_EMPTY_PATH != 0 {
                    let object = self.start(caller, dir)?;
                    return self.chown_object(notification.id, caller, object, ids(false));
                }
                let follow = flags & libc::AT_SYMLINK_NOFOLLOW == 0;
                self.chown_path(notification.id, caller, dir, &path, follow, ids(false))
            }
            Call::Fchown { narrow } => {
                let object = caller.descriptor(argument(0) as i32)?;
                if object.path_only {
                    return Ok(Errno::EBADF.into());
                }
                self.chown_object(notification.id, caller, object, ids(narrow))
            }
        }
    }

    /// Answers an execution: continues it, or changes it if it would start a service.
    fn execution(
        &self,
        notification: &libc::seccomp_notif,
        caller: Caller,
        from: filter::PathStart,
        first: usize,
    ) -> AnswerResult {
        let data = &notification.data;
        let start = path_start(from, data);
        let mut path = caller.read_path(data.args[first - 1]).map_err(leave_to_kernel)?;
        if path.is_empty() {
            // execveat(2) with AT_EMPTY_PATH: the descriptor is the program.
            path = caller.link(&format!("fd/{start}")).map_err(leave_to_kernel)?;
        }
        let arguments = |limit| {
            let wide = filter::has_wide_pointers(data.arch, data.nr);
            caller.read_arguments(data.args[first], wide, limit).unwrap_or_default()
        };
        let change = services::find_change(&path, &arguments);
        let intervention = match change {
            Some(ServiceChange::Now) => {
                Intervention::Replace { from: services::NOW, to: services::NOT_NOW }
            }
            _ => Intervention::Exit,
        };
        let intervenes = match change {
            None => false,
            Some(ServiceChange::Starter | ServiceChange::Now) => self.is_inside(caller),
            Some(ServiceChange::Script(script)) => {
                // A shell opens its script relative to the working directory.
                let start = if script == path { start } else { libc::AT_FDCWD };
                self.is_init_script(caller, start, &script)?
            }
        };
        if !intervenes {
            return Ok(CallAnswer::Continue);
        }
        self.still_waits(notification.id)?;
        let execution = services::description(&path, &arguments(services::SHELL_ARGUMENTS));
        Ok(CallAnswer::Intervene(intervention, execution))
    }

    /// Whether the path of a program or script leads to an init script.
    fn is_init_script(&self, caller: Caller, start: i32, path: &[u8]) -> Result<bool, CallAnswer> {
        // From the root: a relative path may begin in another file system.
        let target = absolute(caller, start, path).map_err(leave_to_kernel)?;
        let found = self.walk_in(Part::Any, caller, start, &target, |view, root| {
            let dirs = services::INIT_SCRIPTS.iter().filter_map(|dir| {
                match view.object(root, dir, true) {
                    Ok(Walked::Found(ino)) => Some(ino),
                    _ => None,
                }
            });
            let dirs: Vec<u64> = dirs.collect();
            view.leads_into(root, &target, &dirs)
        });
        Ok(match found {
            Ok(Walked::Found(found)) => found,
            // The kernel fails calls whose path cannot be resolved.
            Err(CallAnswer::Return(_)) => false,
            _ => self.is_inside(caller) && self.is_named_as_init_script(caller, &target)?,
        })
    }

    /// Whether a path from the caller's root, in a file system other than the tree, has the name of
    /// an init script, there or in the mounted directory.
    fn is_named_as_init_script(&self, caller: Caller, path: &[u8]) -> Result<bool, CallAnswer> {
        let path = without_dots(path);
        if services::names_init_script(&path) {
            return Ok(true);
        }
        let namespace = caller.namespace("mnt").map_err(leave_to_kernel)?;
        let path = match namespace == self.identity.mount_namespace {
            true => from_root(&caller.link("root").map_err(leave_to_kernel)?, &path),
            // The caller's own mountinfo begins at its root.
            false => path,
        };
        let path = path_in_file_system(&self.mountinfo(caller)?, &path);
        Ok(path.is_some_and(|path| services::names_init_script(&path)))
    }

    /// Whether the caller works on the image: its root is in the sandbox's root, or is mounted by a
    /// process inside. The root of a command outside is the host's.
    fn is_inside(&self, caller: Caller) -> bool {
        let Ok(namespace) = caller.namespace("mnt") else { return false };
        if namespace == self.identity.mount_namespace {
            return true;
        }
        let in_tree = caller.place("root").is_ok_and(|root| {
            let info = self.mountinfo(caller);
            info.is_ok_and(|info| self.root_mount(&info, root.mount).is_ok())
        });
        // The namespace of a command that has unshared it, inside or outside.
        in_tree
            || namespace != self.identity.outer_mount_namespace
                && !caller.has_root_of_this_process()
    }

    fn chown_path(
        &self,
        id: u64,
        caller: Caller,
        start: i32,
        path: &[u8],
        follow: bool,
        (uid, gid): (Option<u32>, Option<u32>),
    ) -> AnswerResult {
        let found = self.walk(caller, start, path, |view, from| view.object(from, path, follow))?;
        let Walked::Found(ino) = found else { return Ok(CallAnswer::Continue) };
        self.still_waits(id)?;
        Ok(CallAnswer::Return(self.tree.chown(ino, uid, gid)))
    }

    fn chown_object(
        &self,
        id: u64,
        caller: Caller,
        object: Location,
        (uid, gid): (Option<u32>, Option<u32>),
    ) -> AnswerResult {
        let mount = self.root_mount(&self.mountinfo(caller)?, object.mount)?;
        if mount.directory != b"/" {
            return Err(CallAnswer::Continue);
        }
        self.still_waits(id)?;
        Ok(CallAnswer::Return(self.tree.chown(object.ino, uid, gid)))
    }

    /// Returns the start of a relative path.
    fn start(&self, caller: Caller, fd: i32) -> Result<Location, CallAnswer> {
        match fd {
            libc::AT_FDCWD => caller.place("cwd").map_err(leave_to_kernel),
            fd => Ok(caller.descriptor(fd)?),
        }
    }

    /// Resolves a path for the caller, if its root is in a mount of the whole tree.
    fn walk<T>(
        &self,
        caller: Caller,
        start: i32,
        path: &[u8],
        resolve: impl FnOnce(&ProcessView<'_>, u64) -> Result<Walked<T>, Errno>,
    ) -> Result<Walked<T>, CallAnswer> {
        self.walk_in(Part::Whole, caller, start, path, resolve)
    }

    /// Resolves a path for the caller, if its root is in a mount of this part of the tree.
    fn walk_in<T>(
        &self,
        part: Part,
        caller: Caller,
        start: i32,
        path: &[u8],
        resolve: impl FnOnce(&ProcessView<'_>, u64) -> Result<Walked<T>, Errno>,
    ) -> Result<Walked<T>, CallAnswer> {
        let root = caller.place("root").map_err(leave_to_kernel)?;
        let from = if path.first() == Some(&b'/') { root } else { self.start(caller, start)? };
        // Another mount than its root's is of a part of the tree, or not of the tree.
        if from.mount != root.mount {
            return Err(CallAnswer::Continue);
        }
        let mount = self.root_mount(&self.mountinfo(caller)?, root.mount)?;
        if part == Part::Whole && mount.directory != b"/" {
            return Err(CallAnswer::Continue);
        }
        let mounted = self.mounted_inodes(&mount);
        let view = ProcessView { tree: &*self.tree, root: root.ino, mounted: &mounted };
        Ok(resolve(&view, from.ino)?)
    }

    /// Returns the mountinfo of the caller's mount namespace.
    fn mountinfo(&self, caller: Caller) -> Result<Vec<u8>, CallAnswer> {
        let namespace = caller.namespace("mnt").map_err(leave_to_kernel)?;
        if namespace == self.identity.mount_namespace {
            return mountinfo::read(&self.mounts).map_err(leave_to_kernel);
        }
        let outside = namespace == self.identity.outer_mount_namespace;
        if outside { self.stage } else { caller }.mountinfo().map_err(leave_to_kernel)
    }

    /// Finds a mount in `info` by its id, if it is a mount of the sandbox's root.
    fn root_mount(&self, info: &[u8], mount: u64) -> Result<RootMount, CallAnswer> {
        root_mount(info, mount, self.identity.device).ok_or(CallAnswer::Continue)
    }

    /// Returns the inodes that are mount points.
    fn mounted_inodes(&self, mount: &RootMount) -> HashSet<u64> {
        let find = |path: &Vec<u8>| {
            let names = path.split(|&byte| byte == b'/').filter(|name| !name.is_empty());
            names.into_iter().try_fold(1, |dir, name| {
                let found = self.tree.lookup(dir, name).ok()?;
                (!matches!(found.kind, SupervisedKind::Symlink(_))).then_some(found.ino)
            })
        };
        mount.points.iter().filter_map(find).collect()
    }
}

/// The part of the tree that the mount of a caller's root must cover.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// The whole tree.
    Whole,
    /// The whole tree or one of its directories (a bind mount).
    Any,
}

/// Returns the start of a relative path: a descriptor, or `AT_FDCWD`.
fn path_start(from: filter::PathStart, data: &libc::seccomp_data) -> i32 {
    match from {
        filter::PathStart::WorkingDirectory => libc::AT_FDCWD,
        filter::PathStart::Descriptor => data.args[0] as i32,
    }
}

/// Returns the name in `/proc/TID` of a descriptor or of the working directory.
fn proc_link_name(start: i32) -> String {
    match start {
        libc::AT_FDCWD => "cwd".to_owned(),
        fd => format!("fd/{fd}"),
    }
}

/// Makes `path` absolute, from the caller's root.
fn absolute(caller: Caller, start: i32, path: &[u8]) -> std::io::Result<Vec<u8>> {
    if path.first() == Some(&b'/') {
        return Ok(path.to_vec());
    }
    let (root, directory) = (caller.link("root")?, caller.link(&proc_link_name(start))?);
    let root = root.strip_suffix(b"/").unwrap_or(&root);
    Ok(join_path(directory.strip_prefix(root).unwrap_or(&directory), path))
}

/// Joins `path` to `directory`, which has no symbolic links; leading `..` remove its components.
fn join_path(directory: &[u8], path: &[u8]) -> Vec<u8> {
    let mut directory = directory.strip_suffix(b"/").unwrap_or(directory);
    let mut path = path;
    loop {
        let (first, rest) = match path.iter().position(|&byte| byte == b'/') {
            Some(end) => (&path[..end], &path[end + 1..]),
            None => (path, &b""[..]),
        };
        match first {
            b"" | b"." if !path.is_empty() => {}
            b".." => {
                let end = directory.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
                directory = &directory[..end];
            }
            _ => return [directory, b"/", path].concat(),
        }
        path = rest;
    }
}

/// Removes the components `.` and `..` and repeated slashes from an absolute path.
fn without_dots(path: &[u8]) -> Vec<u8> {
    let mut names: Vec<&[u8]> = Vec::new();
    for name in path.split(|&byte| byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => drop(names.pop()),
            name => names.push(name),
        }
    }
    [b"/", names.join(&b'/').as_slice()].concat()
}

/// Converts a path in a `chroot` to one from the sandbox's root.
fn from_root(root: &[u8], path: &[u8]) -> Vec<u8> {
    [root.strip_suffix(b"/").unwrap_or(root), path].concat()
}

/// Splits the kernel's 32-bit `dev_t` into major and minor number.
fn split_device_number(device: u32) -> (u32, u32) {
    (device >> 8 & 0xfff, device & 0xff | device >> 12 & 0xf_ff00)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_paths_are_joined_to_their_directory() {
        for (directory, path, expected) in [
            ("/etc/init.d", "ssh", "/etc/init.d/ssh"),
            ("/etc/init.d", "./ssh", "/etc/init.d/ssh"),
            ("/", "etc/init.d/ssh", "/etc/init.d/ssh"),
            ("/tmp/x", "../.././../etc/init.d/ssh", "/etc/init.d/ssh"),
            ("/etc", "init.d/../init.d/ssh", "/etc/init.d/../init.d/ssh"),
            ("/tmp", "..", "/"),
        ] {
            let joined = join_path(directory.as_bytes(), path.as_bytes());
            assert_eq!(String::from_utf8(joined).unwrap(), expected);
        }
        assert_eq!(without_dots(b"/a/.//b/../../../etc/init.d/ssh"), b"/etc/init.d/ssh");
        assert_eq!(without_dots(b"/.."), b"/");
        assert_eq!(from_root(b"/srv/jail", b"/dev/null"), b"/srv/jail/dev/null");
        assert_eq!(from_root(b"/", b"/dev/null"), b"/dev/null");
    }

    #[test]
    fn device_numbers_are_split_as_in_the_kernel() {
        for (major, minor) in [(1, 3), (8, 17), (259, 300), (0xfff, 0xf_ffff)] {
            let device = libc::makedev(major, minor) as u32;
            assert_eq!(split_device_number(device), (major, minor));
        }
    }
}
