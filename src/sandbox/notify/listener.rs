//! The supervisor: a thread that answers the calls that the filter asks about.
//!
//! Invariants:
//! - every call that is received is answered, whatever happens while the answer is made: the
//!   process waits in the kernel until then;
//! - before the tree is changed, the kernel has confirmed that the call still waits, after all
//!   that was read of the process was read;
//! - a call that is not about the sandbox's root, or that the process has no right to, goes on in
//!   the kernel, which refuses it in its own words;
//! - the thread ends when all filtered processes have (`POLLHUP`), and it is not one of the FUSE
//!   threads: it may wait for them.

use std::collections::HashSet;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::caller::{Caller, Location, mounted_on};
use super::filter::{self, Call};
use super::resolve::{FoundKind, Place, Supervised, View, Walked};
use crate::sandbox::error::{During, SandboxError};
use crate::sandbox::privilege::IdMap;
use crate::sandbox::{Sandbox, SandboxIdentity};

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
        let Some(listener) = sandbox.listener.take() else {
            return Ok(Supervisor { thread: None });
        };
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
            init: Caller { tid: sandbox.identity.init as u32 },
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
    /// In that of all others.
    init: Caller,
    identity: SandboxIdentity,
}

/// What becomes of a call.
enum Answer {
    /// The kernel does it.
    Continue,
    /// It was done, or failed.
    Return(Result<(), Errno>),
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
        let (error, flags) = match answer {
            Answer::Continue => (0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32),
            Answer::Return(Ok(())) => (0, 0),
            Answer::Return(Err(error)) => (-(error as i32), 0),
        };
        let response = libc::seccomp_notif_resp { id: call.id, val: 0, error, flags };
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
            Call::Mknod(from) => {
                let start = match from {
                    filter::From::WorkingDirectory => libc::AT_FDCWD,
                    filter::From::Descriptor => argument(0) as i32,
                };
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
                Ok(Answer::Return(self.tree.mknod(dir, &name, mode, umask, device, owner)))
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
        self.mounted_on(self.witness(caller)?, object.mount)?;
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

    /// Resolves a path as the caller sees it.
    fn walk<T>(
        &self,
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
        let mounted = self.mounted_on(self.witness(caller)?, root.mount)?;
        let view = View { tree: &*self.tree, root: root.ino, mounted: &mounted };
        Ok(resolve(&view, from.ino)?)
    }

    /// Who sees all that is mounted in the caller's mount namespace, as far as we know one.
    fn witness(&self, caller: Caller) -> Result<Caller, Answer> {
        let namespace = caller.namespace("mnt").map_err(unknown)?;
        Ok(if namespace == self.identity.mount_namespace {
            self.init
        } else if namespace == self.identity.outer_mount_namespace {
            self.stage
        } else {
            caller
        })
    }

    /// The inodes on which something is mounted, if `mount` is the sandbox's root in the mount
    /// namespace of `witness` at all.
    fn mounted_on(&self, witness: Caller, mount: u64) -> Result<HashSet<u64>, Answer> {
        let info = witness.mountinfo().map_err(unknown)?;
        let points = mounted_on(&info, mount, self.identity.device).ok_or(Answer::Continue)?;
        let find = |path: &Vec<u8>| {
            let names = path.split(|&byte| byte == b'/').filter(|name| !name.is_empty());
            names.into_iter().try_fold(1, |dir, name| {
                let found = self.tree.lookup(dir, name).ok()?;
                (!matches!(found.kind, FoundKind::Symlink(_))).then_some(found.ino)
            })
        };
        Ok(points.iter().filter_map(find).collect())
    }
}

/// Major and minor number in the kernel's 32-bit `dev_t`.
fn numbers(device: u32) -> (u32, u32) {
    (device >> 8 & 0xfff, device & 0xff | device >> 12 & 0xf_ff00)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_are_split_as_the_kernel_does() {
        for (major, minor) in [(1, 3), (8, 17), (259, 300), (0xfff, 0xf_ffff)] {
            let device = libc::makedev(major, minor) as u32;
            assert_eq!(numbers(device), (major, minor));
        }
    }
}
