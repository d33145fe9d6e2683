//! Finds the objects that the arguments of a call name, as the calling process sees them.

use std::cell::LazyCell;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use parking_lot::Mutex;

use super::caller::{Caller, Location};
use super::credentials::Credentials;
use super::listener::{CallAnswer, leave_to_kernel};
use super::resolve::{ProcessView, Supervised, Walked};
use super::tree_mounts::TreeMounts;
use crate::sandbox::{SandboxIdentity, mountinfo};

/// Finds objects in the tree.
pub(super) struct PathFinder {
    pub(super) tree: Arc<dyn Supervised>,
    pub(super) identity: SandboxIdentity,
    /// The mounts of commands inside.
    inner: NamespaceMounts,
    /// The mounts of commands outside.
    outer: NamespaceMounts,
    /// The path of the root for commands outside.
    outside_root: Vec<u8>,
}

/// The mounts of a mount namespace.
struct NamespaceMounts {
    /// Its mountinfo file.
    info: File,
    /// The mounts as last read, until they change.
    known: Mutex<Option<Arc<TreeMounts>>>,
}

impl NamespaceMounts {
    fn new(info: File) -> Self {
        NamespaceMounts { info, known: Mutex::new(None) }
    }

    fn get(&self, device: u64, tree: &dyn Supervised) -> io::Result<Arc<TreeMounts>> {
        let mut known = self.known.lock();
        // The kernel reports changes since the last poll (proc_pid_mounts(5)).
        let mut fds = [PollFd::new(self.info.as_fd(), PollFlags::POLLPRI)];
        let is_changed = poll(&mut fds, PollTimeout::ZERO) != Ok(0);
        if let Some(mounts) = known.as_ref().filter(|_| !is_changed) {
            return Ok(mounts.clone());
        }
        let mounts = TreeMounts::new(&mountinfo::read(&self.info)?, device, tree);
        Ok(known.insert(Arc::new(mounts)).clone())
    }
}

impl PathFinder {
    /// Creates one. `inner` is the mountinfo file of commands inside; `stage` is the process in the
    /// mount namespace of commands outside, for which the root is at `outside_root`.
    pub(super) fn new(
        tree: Arc<dyn Supervised>,
        identity: SandboxIdentity,
        inner: File,
        stage: Caller,
        outside_root: Vec<u8>,
    ) -> io::Result<Self> {
        let outer = NamespaceMounts::new(stage.open_mountinfo()?);
        Ok(PathFinder { tree, identity, inner: NamespaceMounts::new(inner), outer, outside_root })
    }

    /// Resolves a path for the caller: `resolve` gets the place and the path to begin with.
    pub(super) fn walk<T>(
        &self,
        caller: Caller,
        start: i32,
        path: &[u8],
        searcher: Option<&Credentials>,
        resolve: impl FnOnce(&ProcessView<'_>, Location, &[u8]) -> Result<Walked<T>, Errno>,
    ) -> Result<Walked<T>, CallAnswer> {
        let is_absolute = path.first() == Some(&b'/');
        let name = if is_absolute { "root".to_owned() } else { proc_link_name(start) };
        let (from, path, mounts) = match self.place(caller, &name) {
            Ok((place, mounts)) => (place, path, mounts),
            // The root of a command outside is not in the tree.
            Err(_) if is_absolute => {
                let mounts = self.tree_mounts(caller)?;
                (mounts.whole_tree()?, self.below_outside_root(path)?, mounts)
            }
            Err(answer) => return Err(answer),
        };
        let root = || {
            let root = caller.place("root").ok().flatten();
            root.filter(|root| mounts.contains(root.mount))
        };
        let root = LazyCell::new(Box::new(root) as Box<dyn FnOnce() -> Option<Location>>);
        let view = ProcessView { tree: &*self.tree, mounts: &mounts, root, searcher };
        Ok(resolve(&view, from, path)?)
    }

    /// Returns the path from the root for a path of a command outside.
    fn below_outside_root<'a>(&self, path: &'a [u8]) -> Result<&'a [u8], CallAnswer> {
        match path.strip_prefix(self.outside_root.as_slice()) {
            Some([]) => Ok(b"."),
            Some([b'/', rest @ ..]) => {
                let start = rest.iter().position(|&byte| byte != b'/');
                Ok(start.map_or(b".", |start| &rest[start..]))
            }
            _ => Err(CallAnswer::Continue),
        }
    }

    /// Returns the path from the sandbox's root for a path from the root of the caller, which may
    /// be that of commands outside.
    pub(super) fn path_in_sandbox<'a>(&self, caller: Caller, path: &'a [u8]) -> &'a [u8] {
        match path.strip_prefix(self.outside_root.as_slice()) {
            Some(rest @ [b'/', ..]) if self.place(caller, "root").is_err() => rest,
            _ => path,
        }
    }

    /// Resolves a path to an object; see [`PathFinder::walk`].
    pub(super) fn object(
        &self,
        caller: Caller,
        start: i32,
        path: &[u8],
        follow: bool,
        searcher: Option<&Credentials>,
    ) -> Result<Location, CallAnswer> {
        let found = self.walk(caller, start, path, searcher, |view, from, path| {
            view.object(from, path, follow)
        });
        match found? {
            Walked::Found(place) => Ok(Location { mount: place.mount, ino: place.inode.ino }),
            Walked::Leaves => {
                // Without `follow` the object may be the link itself.
                let own = || caller.id_inside().ok().flatten();
                match process_link(path, own).filter(|(_, rest)| follow || !rest.is_empty()) {
                    Some((start, b"")) => self.descriptor(caller, start),
                    Some((start, rest)) => self.object(caller, start, rest, follow, searcher),
                    None => Err(CallAnswer::Continue),
                }
            }
        }
    }

    /// Returns the place of a descriptor in the tree, or of the working directory.
    pub(super) fn descriptor(&self, caller: Caller, fd: i32) -> Result<Location, CallAnswer> {
        Ok(self.place(caller, &proc_link_name(fd))?.0)
    }

    /// Returns a place of the tree, and the mounts of the namespace that its mount is in.
    fn place(&self, caller: Caller, name: &str) -> Result<(Location, Arc<TreeMounts>), CallAnswer> {
        let place = caller.place(name).map_err(leave_to_kernel)?.ok_or(CallAnswer::Continue)?;
        Ok((place, self.mounts_with(caller, place.mount)?))
    }

    /// Returns the mounts of the namespace that a mount of the tree is in. Two mounts never have
    /// the same id, so the namespace of the caller is read only if the mount is in neither of the
    /// sandbox's namespaces.
    fn mounts_with(&self, caller: Caller, mount: u64) -> Result<Arc<TreeMounts>, CallAnswer> {
        for known in [&self.inner, &self.outer] {
            let mounts = known.get(self.identity.device, &*self.tree).map_err(leave_to_kernel)?;
            if mounts.contains(mount) {
                return Ok(mounts);
            }
        }
        let mounts = self.tree_mounts(caller)?;
        if mounts.contains(mount) { Ok(mounts) } else { Err(CallAnswer::Continue) }
    }

    /// Returns whether a place of the tree is the root of its mount.
    pub(super) fn is_mount_root(
        &self,
        caller: Caller,
        place: Location,
    ) -> Result<bool, CallAnswer> {
        Ok(self.mounts_with(caller, place.mount)?.is_mount_root(place))
    }

    /// Returns the mounts of the caller's mount namespace.
    fn tree_mounts(&self, caller: Caller) -> Result<Arc<TreeMounts>, CallAnswer> {
        let namespace = caller.namespace("mnt").map_err(leave_to_kernel)?;
        let (device, tree) = (self.identity.device, &*self.tree);
        let mounts = match self.known_mounts(namespace) {
            Some(mounts) => mounts.get(device, tree).map_err(leave_to_kernel)?,
            None => Arc::new(TreeMounts::new(&self.mountinfo(caller)?, device, tree)),
        };
        Ok(mounts)
    }

    /// Returns the mountinfo of the caller's mount namespace.
    pub(super) fn mountinfo(&self, caller: Caller) -> Result<Vec<u8>, CallAnswer> {
        let namespace = caller.namespace("mnt").map_err(leave_to_kernel)?;
        match self.known_mounts(namespace) {
            Some(mounts) => mountinfo::read(&mounts.info),
            None => caller.open_mountinfo().and_then(|info| mountinfo::read(&info)),
        }
        .map_err(leave_to_kernel)
    }

    fn known_mounts(&self, namespace: u64) -> Option<&NamespaceMounts> {
        match namespace {
            _ if namespace == self.identity.mount_namespace => Some(&self.inner),
            _ if namespace == self.identity.outer_mount_namespace => Some(&self.outer),
            _ => None,
        }
    }

    /// Whether the caller works on the image: its root is in the sandbox's root, or is mounted by a
    /// process inside. The root of a command outside is the host's.
    pub(super) fn is_inside(&self, caller: Caller) -> bool {
        let Ok(namespace) = caller.namespace("mnt") else { return false };
        if namespace == self.identity.mount_namespace {
            return true;
        }
        let in_tree = self.place(caller, "root").is_ok();
        // The namespace of a command that has unshared it, inside or outside.
        in_tree
            || namespace != self.identity.outer_mount_namespace
                && !caller.has_root_of_this_process()
    }
}

/// Returns the name in `/proc/TID` of a descriptor or of the working directory.
pub(super) fn proc_link_name(start: i32) -> String {
    match start {
        libc::AT_FDCWD => "cwd".to_owned(),
        fd => format!("fd/{fd}"),
    }
}

/// Splits a path that leads through a link of the own process in `/proc`: to a descriptor, to the
/// working directory or to the root. Returns the start and the path from there. `own` is the id of
/// the process.
///
/// The kernel resolves these links; the walk ends at the mount point of `/proc` or `/dev` before
/// them.
fn process_link(path: &[u8], own: impl FnOnce() -> Option<u32>) -> Option<(i32, &[u8])> {
    for (name, fd) in [(&b"/dev/stdin"[..], 0), (b"/dev/stdout", 1), (b"/dev/stderr", 2)] {
        if path == name {
            return Some((fd, b""));
        }
    }
    let link = match path.strip_prefix(b"/dev/fd/") {
        Some(descriptor) => return descriptor_link(descriptor),
        None => path.strip_prefix(b"/proc/")?,
    };
    let (process, link) = split_first(link);
    let is_own = match process {
        b"self" | b"thread-self" => true,
        number => {
            let number = str::from_utf8(number).ok()?.parse::<u32>().ok()?;
            own() == Some(number)
        }
    };
    match split_first(link) {
        _ if !is_own => None,
        (b"fd", descriptor) => descriptor_link(descriptor),
        (b"cwd", rest) => Some((libc::AT_FDCWD, rest)),
        // An absolute path from the root.
        (b"root", _) => link
            .strip_prefix(b"root")
            .filter(|path| !path.is_empty())
            .map(|path| (libc::AT_FDCWD, path)),
        _ => None,
    }
}

/// Splits a path that begins with a number of a descriptor.
fn descriptor_link(path: &[u8]) -> Option<(i32, &[u8])> {
    let (fd, rest) = split_first(path);
    let fd = str::from_utf8(fd).ok()?.parse::<u16>().ok()?;
    Some((fd.into(), rest))
}

/// Splits off the first component of a relative path.
fn split_first(path: &[u8]) -> (&[u8], &[u8]) {
    let end = path.iter().position(|&byte| byte == b'/').unwrap_or(path.len());
    let (first, rest) = path.split_at(end);
    let start = rest.iter().position(|&byte| byte != b'/').unwrap_or(rest.len());
    (first, &rest[start..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_of_the_own_process_are_recognised() {
        let link = |path| process_link(path, || Some(12));
        assert_eq!(link(b"/proc/self/fd/7"), Some((7, &b""[..])));
        assert_eq!(link(b"/proc/thread-self/fd/7/a"), Some((7, &b"a"[..])));
        assert_eq!(link(b"/dev/fd/7//a/b"), Some((7, &b"a/b"[..])));
        assert_eq!(link(b"/dev/stdin"), Some((0, &b""[..])));
        assert_eq!(link(b"/proc/self/cwd/a/b"), Some((libc::AT_FDCWD, &b"a/b"[..])));
        assert_eq!(link(b"/proc/12/cwd"), Some((libc::AT_FDCWD, &b""[..])));
        assert_eq!(link(b"/proc//self/root/a"), None, "the kernel resolves it");
        assert_eq!(link(b"/proc/self/root/a"), Some((libc::AT_FDCWD, &b"/a"[..])));
        for other in [
            &b"/proc/self/fd"[..],
            b"/proc/self/fd/x",
            b"/proc/self/fd/-1",
            b"/dev/fdx/1",
            b"/proc/13/cwd/a",
            b"/proc/self/rootx/a",
            b"/proc/self/exe",
        ] {
            assert_eq!(link(other), None, "{}", other.escape_ascii());
        }
    }
}
