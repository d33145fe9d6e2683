//! The supervisor: a thread that answers the calls that the filter asks about.
//!
//! Invariants:
//! - every call that is received is answered, whatever happens while the answer is made: the
//!   process waits in the kernel until then;
//! - before the tree is changed, the kernel has confirmed that the call still waits, after all
//!   that was read of the process was read;
//! - a call that is not about the sandbox's root, or that the process has no right to, goes on in
//!   the kernel, which refuses it in its own words;
//! - an execution that would start a service never runs a program: where its end cannot be arranged
//!   ([`super::trace`]), it is refused;
//! - the thread ends when all filtered processes have (`POLLHUP`), and it is not one of the FUSE
//!   threads: it may wait for them.

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
use super::resolve::{FoundKind, Place, Supervised, View, Walked};
use super::services::{self, Change};
use super::trace::{self, Intervention, Outcome};
use crate::sandbox::error::{During, SandboxError};
use crate::sandbox::privilege::IdMap;
use crate::sandbox::{Sandbox, SandboxIdentity, mountinfo};

const CAP_CHOWN: u32 = 0;
const CAP_MKNOD: u32 = 27;
const SYNC_WAKE_UP: u64 = 1;

/// The thread that answers for a sandbox. Where the kernel needs no help there is none.
#[derive(Debug)]
pub struct Supervisor {
    thread: Option<JoinHandle<()>>,
}

impl Supervisor {
    /// Starts answering for `sandbox` from `tree`.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(sandbox: &mut Sandbox, tree: Arc<dyn Supervised>) -> Result<Self, SandboxError> {
        let (Some(listener), Some(mounts)) = (sandbox.listener.take(), &sandbox.mounts) else {
            return Ok(Supervisor { thread: None });
        };
        let mounts = mounts.try_clone().during("starting the supervisor")?;
        // Steadier, not needed: older kernels (before 6.6) do without.
        // SAFETY: SET_FLAGS takes the flags themselves as its argument.
        unsafe {
            libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS, SYNC_WAKE_UP);
        }
        let answering = Answering {
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

    /// Waits until the thread has ended: it does when the sandbox has.
    pub fn join(mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Answering {
    listener: OwnedFd,
    tree: Arc<dyn Supervised>,
    uids: IdMap,
    gids: IdMap,
    /// In the mount namespace of commands outside.
    stage: Caller,
    /// The mountinfo of the mount namespace of all others, from its root.
    mounts: File,
    identity: SandboxIdentity,
}

/// What becomes of a call.
enum Answer {
    /// The kernel does it.
    Continue,
    /// It was done, or failed.
    Return(Result<(), Errno>),
    /// The execution, described like this, goes on and comes to something else.
    Intervene(Intervention, String),
}

impl From<Errno> for Answer {
    fn from(error: Errno) -> Self {
        Answer::Return(Err(error))
    }
}

/// The question mark operator for answers: what cannot be found out is the kernel's.
type Answered = Result<Answer, Answer>;

fn unknown<E>(_: E) -> Answer {
    Answer::Continue
}

impl Answering {
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
        // SAFETY: all-zero is a valid value of this plain C struct, and what the kernel asks for.
        let mut call: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        // SAFETY: RECV fills one seccomp_notif, which `call` is.
        let received = unsafe {
            libc::ioctl(self.listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut call)
        };
        if received < 0 {
            return; // killed or interrupted meanwhile: poll tells what is left
        }
        let answer =
            catch_unwind(AssertUnwindSafe(|| self.answer(&call))).unwrap_or(Err(Errno::EIO.into()));
        let (Ok(answer) | Err(answer)) = answer;
        match answer {
            Answer::Continue => self.proceed(call.id),
            Answer::Return(Ok(())) => self.respond(call.id, 0, 0),
            Answer::Return(Err(error)) => self.respond(call.id, -(error as i32), 0),
            Answer::Intervene(intervention, execution) => {
                let proceed = || self.proceed(call.id);
                match trace::follow_execution(call.pid, intervention, proceed) {
                    Ok(Outcome::NotExecuted) => {}
                    Ok(Outcome::Changed) => self.tree.service_left_alone(&execution),
                    Ok(Outcome::Ended(error)) => self.tree.service_refused(&execution, &error),
                    Err(error) => {
                        // A process that has been killed cannot be traced either.
                        if self.still_waits(call.id).is_ok() {
                            self.tree.service_refused(&execution, &error);
                        }
                        self.respond(call.id, -libc::EPERM, 0);
                    }
                }
            }
        }
    }

    /// Has the kernel do the call.
    fn proceed(&self, id: u64) {
        self.respond(id, 0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32);
    }

    fn respond(&self, id: u64, error: i32, flags: u32) {
        let response = libc::seccomp_notif_resp { id, val: 0, error, flags };
        // SAFETY: SEND reads one seccomp_notif_resp, which `response` is. It fails when the
        // process is gone: then nobody waits for the answer.
        unsafe {
            libc::ioctl(
                self.listener.as_raw_fd(),
                libc::SECCOMP_IOCTL_NOTIF_SEND,
                &raw const response,
            );
        }
    }

    /// Whether the call still waits, and so all that was read was read of the caller.
    fn still_waits(&self, id: u64) -> Result<(), Answer> {
        // SAFETY: ID_VALID reads one u64, which `id` is.
        let valid = unsafe {
            libc::ioctl(
                self.listener.as_raw_fd(),
                libc::SECCOMP_IOCTL_NOTIF_ID_VALID,
                &raw const id,
            )
        };
        if valid == 0 { Ok(()) } else { Err(Answer::Continue) }
    }

    fn answer(&self, notification: &libc::seccomp_notif) -> Answered {
        let data = &notification.data;
        let caller = Caller { tid: notification.pid };
        let call = Call::find(data.arch, data.nr).ok_or(Answer::Continue)?;
        let argument = |index: usize| data.args[index] as u32;
        let first = call.first_after_path();
        let pointer = data.args[first - 1];

        if let Call::Execute(from) = call {
            return self.execution(notification, caller, from, first);
        }
        // A right in a user namespace made inside is no right here.
        if caller.namespace("user").map_err(unknown)? != self.identity.user_namespace {
            return Ok(Answer::Continue);
        }
        let credentials = caller.credentials(&self.uids, &self.gids).map_err(unknown)?;
        let needed = if matches!(call, Call::Mknod(_)) { CAP_MKNOD } else { CAP_CHOWN };
        if !credentials.has(needed) {
            return Ok(Answer::Continue);
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
            Call::Execute(_) => Ok(Answer::Continue),
            Call::Mknod(from) => {
                let start = start_of(from, data);
                let path = caller.read_path(pointer)?;
                let Walked::Found(place) =
                    self.walk(caller, start, &path, |view, from| view.place(from, &path))?
                else {
                    return Ok(Answer::Continue);
                };
                let (mode, device) = (argument(first), argument(first + 1));
                let mode = mode & (libc::S_IFMT | 0o7777);
                let Place { dir, name } = place;
                self.still_waits(notification.id)?;
                let (umask, owner) = (credentials.umask, (credentials.uid, credentials.gid));
                let device = numbers(device);
                self.tree.mknod(dir, &name, mode, umask, device, owner)?;
                if let Ok(path) = absolute(caller, start, &path) {
                    let root = caller.link("root").unwrap_or_default();
                    self.tree.device_recorded(&from_root(&root, &path), mode, device);
                }
                Ok(Answer::Return(Ok(())))
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

    /// An execution: whether it would start a service.
    fn execution(
        &self,
        notification: &libc::seccomp_notif,
        caller: Caller,
        from: filter::From,
        first: usize,
    ) -> Answered {
        let data = &notification.data;
        let start = start_of(from, data);
        let mut path = caller.read_path(data.args[first - 1]).map_err(unknown)?;
        if path.is_empty() {
            // execveat(2) with AT_EMPTY_PATH: the descriptor is the program.
            path = caller.link(&format!("fd/{start}")).map_err(unknown)?;
        }
        let arguments = |limit| {
            let wide = filter::has_wide_pointers(data.arch, data.nr);
            caller.read_arguments(data.args[first], wide, limit).unwrap_or_default()
        };
        let change = services::change(&path, arguments);
        let intervention = match change {
            Some(Change::Now) => {
                Intervention::Replace { from: services::NOW, to: services::NOT_NOW }
            }
            _ => Intervention::Exit,
        };
        let intervenes = match change {
            None => false,
            Some(Change::Starter | Change::Now) => self.is_inside(caller),
            Some(Change::Script(script)) => {
                // A shell looks for its script from the working directory.
                let start = if script == path { start } else { libc::AT_FDCWD };
                self.is_init_script(caller, start, &script)?
            }
        };
        if !intervenes {
            return Ok(Answer::Continue);
        }
        self.still_waits(notification.id)?;
        let execution = services::description(&path, &arguments(services::SHELL_ARGUMENTS));
        Ok(Answer::Intervene(intervention, execution))
    }

    /// Whether the path of a program or script leads to an init script.
    fn is_init_script(&self, caller: Caller, start: i32, path: &[u8]) -> Result<bool, Answer> {
        // From the root: a relative path may begin in another file system.
        let target = absolute(caller, start, path).map_err(unknown)?;
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
            // The kernel refuses what cannot be resolved.
            Err(Answer::Return(_)) => false,
            _ => self.is_inside(caller) && self.is_named_as_init_script(caller, &target)?,
        })
    }

    /// Whether a path from the caller's root, in a file system that is not the tree, has the name
    /// of an init script there or in the directory that is mounted.
    fn is_named_as_init_script(&self, caller: Caller, path: &[u8]) -> Result<bool, Answer> {
        let path = without_dots(path);
        if services::names_init_script(&path) {
            return Ok(true);
        }
        let namespace = caller.namespace("mnt").map_err(unknown)?;
        let path = match namespace == self.identity.mount_namespace {
            true => from_root(&caller.link("root").map_err(unknown)?, &path),
            // The caller's own mountinfo begins at its root.
            false => path,
        };
        let path = path_in_file_system(&self.mountinfo(caller)?, &path);
        Ok(path.is_some_and(|path| services::names_init_script(&path)))
    }

    /// Whether the caller works on the image: its root is in the sandbox's root, or is something
    /// that a process inside has mounted. The root of a command outside is the host's.
    fn is_inside(&self, caller: Caller) -> bool {
        let Ok(namespace) = caller.namespace("mnt") else { return false };
        if namespace == self.identity.mount_namespace {
            return true;
        }
        let in_tree = caller.place("root").is_ok_and(|root| {
            let info = self.mountinfo(caller);
            info.is_ok_and(|info| self.root_mount(&info, root.mount).is_ok())
        });
        // The namespace of a command that has unshared it: inside or outside.
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
    ) -> Answered {
        let found = self.walk(caller, start, path, |view, from| view.object(from, path, follow))?;
        let Walked::Found(ino) = found else { return Ok(Answer::Continue) };
        self.still_waits(id)?;
        Ok(Answer::Return(self.tree.chown(ino, uid, gid)))
    }

    fn chown_object(
        &self,
        id: u64,
        caller: Caller,
        object: Location,
        (uid, gid): (Option<u32>, Option<u32>),
    ) -> Answered {
        let mount = self.root_mount(&self.mountinfo(caller)?, object.mount)?;
        if mount.directory != b"/" {
            return Err(Answer::Continue);
        }
        self.still_waits(id)?;
        Ok(Answer::Return(self.tree.chown(object.ino, uid, gid)))
    }

    /// Where a path that is not absolute begins.
    fn start(&self, caller: Caller, fd: i32) -> Result<Location, Answer> {
        match fd {
            libc::AT_FDCWD => caller.place("cwd").map_err(unknown),
            fd => Ok(caller.descriptor(fd)?),
        }
    }

    /// Resolves a path as the caller sees it, if its root is in a mount of the whole tree.
    fn walk<T>(
        &self,
        caller: Caller,
        start: i32,
        path: &[u8],
        resolve: impl FnOnce(&View<'_>, u64) -> Result<Walked<T>, Errno>,
    ) -> Result<Walked<T>, Answer> {
        self.walk_in(Part::Whole, caller, start, path, resolve)
    }

    /// Resolves a path as the caller sees it, if its root is in such a mount of the tree.
    fn walk_in<T>(
        &self,
        part: Part,
        caller: Caller,
        start: i32,
        path: &[u8],
        resolve: impl FnOnce(&View<'_>, u64) -> Result<Walked<T>, Errno>,
    ) -> Result<Walked<T>, Answer> {
        let root = caller.place("root").map_err(unknown)?;
        let from = if path.first() == Some(&b'/') { root } else { self.start(caller, start)? };
        // From another mount than its root's: a copy of a part of the tree, or none of it at all.
        if from.mount != root.mount {
            return Err(Answer::Continue);
        }
        let mount = self.root_mount(&self.mountinfo(caller)?, root.mount)?;
        if part == Part::Whole && mount.directory != b"/" {
            return Err(Answer::Continue);
        }
        let mounted = self.mounted_inodes(&mount);
        let view = View { tree: &*self.tree, root: root.ino, mounted: &mounted };
        Ok(resolve(&view, from.ino)?)
    }

    /// All that is mounted in the caller's mount namespace, as far as that is known.
    fn mountinfo(&self, caller: Caller) -> Result<Vec<u8>, Answer> {
        let namespace = caller.namespace("mnt").map_err(unknown)?;
        if namespace == self.identity.mount_namespace {
            return mountinfo::read(&self.mounts).map_err(unknown);
        }
        let outside = namespace == self.identity.outer_mount_namespace;
        if outside { self.stage } else { caller }.mountinfo().map_err(unknown)
    }

    /// The mount with this number according to `info`, if it is of the sandbox's root.
    fn root_mount(&self, info: &[u8], mount: u64) -> Result<RootMount, Answer> {
        root_mount(info, mount, self.identity.device).ok_or(Answer::Continue)
    }

    /// The inodes on which something is mounted.
    fn mounted_inodes(&self, mount: &RootMount) -> HashSet<u64> {
        let find = |path: &Vec<u8>| {
            let names = path.split(|&byte| byte == b'/').filter(|name| !name.is_empty());
            names.into_iter().try_fold(1, |dir, name| {
                let found = self.tree.lookup(dir, name).ok()?;
                (!matches!(found.kind, FoundKind::Symlink(_))).then_some(found.ino)
            })
        };
        mount.points.iter().filter_map(find).collect()
    }
}

/// Which mounts of the tree a caller's root may be in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// Mounts of the whole tree.
    Whole,
    /// Mounts of one of its directories as well: bind mounts.
    Any,
}

/// Where a path that is not absolute begins: a descriptor, or `AT_FDCWD`.
fn start_of(from: filter::From, data: &libc::seccomp_data) -> i32 {
    match from {
        filter::From::WorkingDirectory => libc::AT_FDCWD,
        filter::From::Descriptor => data.args[0] as i32,
    }
}

/// The name of a descriptor, or of the working directory, in `/proc/TID`.
fn link_of(start: i32) -> String {
    match start {
        libc::AT_FDCWD => "cwd".to_owned(),
        fd => format!("fd/{fd}"),
    }
}

/// `path` from the caller's root.
fn absolute(caller: Caller, start: i32, path: &[u8]) -> std::io::Result<Vec<u8>> {
    if path.first() == Some(&b'/') {
        return Ok(path.to_vec());
    }
    let (root, directory) = (caller.link("root")?, caller.link(&link_of(start))?);
    let root = root.strip_suffix(b"/").unwrap_or(&root);
    Ok(below(directory.strip_prefix(root).unwrap_or(&directory), path))
}

/// `path` below `directory`, which has no symbolic links: leading `..` are taken off it.
fn below(directory: &[u8], path: &[u8]) -> Vec<u8> {
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

/// An absolute path without its components `.` and `..`, and with single slashes.
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

/// A path in a `chroot` as one from the sandbox's root.
fn from_root(root: &[u8], path: &[u8]) -> Vec<u8> {
    [root.strip_suffix(b"/").unwrap_or(root), path].concat()
}

/// Major and minor number in the kernel's 32-bit `dev_t`.
fn numbers(device: u32) -> (u32, u32) {
    (device >> 8 & 0xfff, device & 0xff | device >> 12 & 0xf_ff00)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_paths_are_joined_with_their_directory() {
        for (directory, path, expected) in [
            ("/etc/init.d", "ssh", "/etc/init.d/ssh"),
            ("/etc/init.d", "./ssh", "/etc/init.d/ssh"),
            ("/", "etc/init.d/ssh", "/etc/init.d/ssh"),
            ("/tmp/x", "../.././../etc/init.d/ssh", "/etc/init.d/ssh"),
            ("/etc", "init.d/../init.d/ssh", "/etc/init.d/../init.d/ssh"),
            ("/tmp", "..", "/"),
        ] {
            let joined = below(directory.as_bytes(), path.as_bytes());
            assert_eq!(String::from_utf8(joined).unwrap(), expected);
        }
        assert_eq!(without_dots(b"/a/.//b/../../../etc/init.d/ssh"), b"/etc/init.d/ssh");
        assert_eq!(without_dots(b"/.."), b"/");
        assert_eq!(from_root(b"/srv/jail", b"/dev/null"), b"/srv/jail/dev/null");
        assert_eq!(from_root(b"/", b"/dev/null"), b"/dev/null");
    }

    #[test]
    fn device_numbers_are_split_as_the_kernel_does() {
        for (major, minor) in [(1, 3), (8, 17), (259, 300), (0xfff, 0xf_ffff)] {
            let device = libc::makedev(major, minor) as u32;
            assert_eq!(numbers(device), (major, minor));
        }
    }
}
