//! Resolves paths of a process inside in the tree, instead of through a mount.
//!
//! The daemon must not access its own mount, so it walks the tree as the kernel would
//! (see [`fs_model::resolve`]). It accesses the tree only through [`Supervised`].
//!
//! Invariants:
//! - a walk ends at a mount point of another file system as [`Walked::Leaves`]: the files mounted
//!   there are not in the tree, and the kernel handles the call itself;
//! - a walk passes mount points of directories of the tree (bind mounts) in both directions;
//! - a walk does not leave the process's root;
//! - a walk ends: it follows at most [`MAX_LINKS`] symbolic links.

use std::cell::LazyCell;

use fs_model::resolve::{self, Follow, MAX_LINKS, PathError, PathNodeKind, PathTree};
use nix::errno::Errno;

use super::caller::Location;
use super::credentials::{Credentials, EXECUTE};
use super::tree_mounts::{Above, TreeMounts};

/// The tree of the sandbox's root, by the inode numbers that the FUSE mount shows (the same in
/// `stat` and in FUSE requests; the root is 1).
///
/// Methods are called from another thread, while FUSE requests are being answered.
pub trait Supervised: Send + Sync {
    /// Looks up `name` in `dir`.
    ///
    /// # Errors
    /// `ENOENT` if `dir` has no such entry, `ENOTDIR` if `dir` is not a directory.
    fn lookup(&self, dir: u64, name: &[u8]) -> Result<SupervisedInode, Errno>;

    /// Whether a lookup of `name` in `dir` must reach the mount, because it has an effect there.
    fn has_effect(&self, dir: u64, name: &[u8]) -> bool;

    /// Returns the parent of the directory `dir`; the root is its own parent.
    ///
    /// # Errors
    /// `ENOENT` if `dir` has been deleted.
    fn parent(&self, dir: u64) -> Result<u64, Errno>;

    /// Returns the attributes of an inode, with its true owner.
    ///
    /// # Errors
    /// `ENOENT` if it has been deleted and is no longer in use.
    fn attributes(&self, ino: u64) -> Result<SupervisedAttributes, Errno>;

    /// Returns whether a file begins with `#!`.
    fn is_script(&self, ino: u64) -> bool;

    /// Returns whether an entry of the directory `dir` is this inode.
    fn has_entry(&self, dir: u64, ino: u64) -> bool;

    /// Makes a device node and drops the kernel's negative dentry. `mode` has type and permissions;
    /// `umask` is applied unless the directory has a default ACL; `rdev` is (major, minor). This
    /// method handles set-group-id directories and read-only or full trees. It does not check the
    /// caller's right to make devices.
    ///
    /// # Errors
    /// As `mknod(2)`: `EEXIST`, `ENOENT`, `ENOTDIR`, `EROFS`, `ENOSPC`…
    fn mknod(
        &self,
        dir: u64,
        name: &[u8],
        mode: u32,
        umask: u32,
        rdev: (u32, u32),
        owner: (u32, u32),
    ) -> Result<(), Errno>;

    /// Changes owner and group of an inode for the process `tid`, and invalidates the kernel's
    /// cached attributes. This method clears the set-id bits. It does not check the caller's right
    /// to change owners.
    ///
    /// # Errors
    /// As `chown(2)`: `ENOENT`, `EROFS`…
    fn chown(&self, tid: u32, ino: u64, uid: Option<u32>, gid: Option<u32>) -> Result<(), Errno>;

    /// Records that a device was made at `path`; `mode` and `rdev` are those of `mknod`.
    fn device_recorded(&self, path: &[u8], mode: u32, rdev: (u32, u32));

    /// Records that the command line `execution` was made to do nothing, because it would have
    /// changed a service.
    fn service_skipped(&self, execution: &str);

    /// Records that it was made to fail instead, because its process cannot be traced.
    fn service_failed(&self, execution: &str, error: &std::io::Error);
}

/// The inode that a name in a directory refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SupervisedInode {
    /// Its inode number.
    pub ino: u64,
    /// Its type.
    pub kind: SupervisedKind,
}

/// The attributes of an inode, as in `stat(2)`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are those of stat(2)")]
pub struct SupervisedAttributes {
    pub mode: u32,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    /// Major and minor number.
    pub rdev: (u32, u32),
    pub size: u64,
    /// In units of 512 bytes.
    pub blocks: u64,
    /// Seconds and nanoseconds.
    pub atime: (i64, u32),
    pub mtime: (i64, u32),
    pub ctime: (i64, u32),
}

/// The type of an inode, as far as a walk needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SupervisedKind {
    /// A directory.
    Directory,
    /// A symbolic link with its target.
    Symlink(Vec<u8>),
    /// Anything else.
    Other,
}

const NAME_MAX: usize = 255;

/// Where a walk ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Walked<T> {
    /// In the tree.
    Found(T),
    /// On a mount point: the kernel resolves the rest.
    Leaves,
}

/// A directory and the name of an entry in it, which may not exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NameInDir {
    pub(super) dir: Location,
    pub(super) name: Vec<u8>,
}

/// An object of the tree, and the mount that it is seen in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TreePlace {
    /// The id of the mount.
    pub(super) mount: u64,
    pub(super) inode: SupervisedInode,
}

/// The tree as one process sees it.
pub(super) struct ProcessView<'a> {
    pub(super) tree: &'a dyn Supervised,
    pub(super) mounts: &'a TreeMounts,
    /// The process's root directory, if it is in the tree.
    pub(super) root: LazyCell<Option<Location>, Box<dyn FnOnce() -> Option<Location> + 'a>>,
    /// The credentials that need the right to search directories, if they are checked.
    pub(super) searcher: Option<&'a Credentials>,
}

impl ProcessView<'_> {
    /// Resolves the parent directory of `path`. The last component is not followed.
    pub(super) fn place(&self, start: Location, path: &[u8]) -> Result<Walked<NameInDir>, Errno> {
        let place = |walk: &mut SupervisedWalk<'_, '_>| {
            let last = resolve::resolve_parent(walk, directory(start), path)?;
            let Some(last) = last.filter(|last| !matches!(&last.name[..], b"." | b"..")) else {
                return Err(Errno::EEXIST.into());
            };
            if last.name.len() > NAME_MAX {
                return Err(Errno::ENAMETOOLONG.into());
            }
            if last.slash {
                // Only a directory can be made by a path that ends with a slash.
                self.tree.lookup(last.dir.inode.ino, &last.name)?;
                return Err(Errno::EEXIST.into());
            }
            let dir = Location { mount: last.dir.mount, ino: last.dir.inode.ino };
            Ok(NameInDir { dir, name: last.name })
        };
        self.walk(path, place)
    }

    /// Resolves `path` to an inode; follows a symbolic link at its end if `follow`.
    pub(super) fn object(
        &self,
        start: Location,
        path: &[u8],
        follow: bool,
    ) -> Result<Walked<TreePlace>, Errno> {
        let follow = if follow { Follow::Yes } else { Follow::No };
        self.walk(path, |walk| {
            let found = resolve::resolve(walk, directory(start), path, follow)?;
            Ok(found.node.ok_or(Errno::ENOENT)?)
        })
    }

    /// Returns whether `path`, or a symbolic link at its end, names an entry of one of `dirs`.
    pub(super) fn leads_into(
        &self,
        start: Location,
        path: &[u8],
        dirs: &[u64],
    ) -> Result<Walked<bool>, Errno> {
        let (mut start, mut path) = (start, path.to_vec());
        for _ in 0..=MAX_LINKS {
            let Walked::Found(NameInDir { dir, name }) = self.place(start, &path)? else {
                return Ok(Walked::Leaves);
            };
            let found = self.tree.lookup(dir.ino, &name)?;
            if dirs.contains(&dir.ino) {
                return Ok(Walked::Found(true));
            }
            match found.kind {
                SupervisedKind::Symlink(target) => (start, path) = (dir, target),
                _ => return Ok(Walked::Found(false)),
            }
        }
        Err(Errno::ELOOP)
    }

    fn walk<R>(
        &self,
        path: &[u8],
        resolve: impl FnOnce(&mut SupervisedWalk<'_, '_>) -> Result<R, WalkEnd>,
    ) -> Result<Walked<R>, Errno> {
        if path.is_empty() {
            return Err(Errno::ENOENT);
        }
        match resolve(&mut SupervisedWalk(self)) {
            Ok(found) => Ok(Walked::Found(found)),
            Err(WalkEnd::Leaves) => Ok(Walked::Leaves),
            Err(WalkEnd::Error(errno)) => Err(errno),
        }
    }
}

/// Why a walk ended before the end of its path.
enum WalkEnd {
    /// At a mount point.
    Leaves,
    Error(Errno),
}

impl From<Errno> for WalkEnd {
    fn from(errno: Errno) -> Self {
        WalkEnd::Error(errno)
    }
}

fn directory(location: Location) -> TreePlace {
    let inode = SupervisedInode { ino: location.ino, kind: SupervisedKind::Directory };
    TreePlace { mount: location.mount, inode }
}

struct SupervisedWalk<'a, 'b>(&'a ProcessView<'b>);

impl PathTree for SupervisedWalk<'_, '_> {
    type Node = TreePlace;
    type Error = WalkEnd;

    fn root(&mut self) -> Result<TreePlace, WalkEnd> {
        (*self.0.root).map(directory).ok_or(WalkEnd::Leaves)
    }

    fn parent(&mut self, dir: &TreePlace) -> Result<TreePlace, WalkEnd> {
        let mut at = Location { mount: dir.mount, ino: dir.inode.ino };
        loop {
            if Some(at) == *self.0.root {
                return Ok(directory(at));
            }
            match self.0.mounts.above(at) {
                Above::Inside => break,
                Above::MountPoint(point) => at = point,
                // Above the mount, from a working directory outside the process's root.
                Above::OtherFileSystem => return Err(WalkEnd::Leaves),
            }
        }
        Ok(directory(Location { ino: self.0.tree.parent(at.ino)?, ..at }))
    }

    fn lookup(&mut self, dir: &TreePlace, name: &[u8]) -> Result<Option<TreePlace>, WalkEnd> {
        if name.len() > NAME_MAX {
            return Err(Errno::ENAMETOOLONG.into());
        }
        if let Some(searcher) = self.0.searcher {
            let attributes = self.0.tree.attributes(dir.inode.ino)?;
            let owner = (attributes.uid, attributes.gid);
            if !searcher.may_access(attributes.mode, owner, EXECUTE) {
                return Err(Errno::EACCES.into());
            }
        }
        if self.0.tree.has_effect(dir.inode.ino, name) {
            return Err(WalkEnd::Leaves);
        }
        let inode = match self.0.tree.lookup(dir.inode.ino, name) {
            Ok(found) => found,
            Err(Errno::ENOENT) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        let mut found = TreePlace { mount: dir.mount, inode };
        // Mounts can be stacked.
        while let Some(over) =
            self.0.mounts.over(Location { mount: found.mount, ino: found.inode.ino })
        {
            found = directory(over.ok_or(WalkEnd::Leaves)?);
        }
        Ok(Some(found))
    }

    fn kind(&self, node: &TreePlace) -> PathNodeKind {
        match node.inode.kind {
            SupervisedKind::Directory => PathNodeKind::Directory,
            SupervisedKind::Symlink(_) => PathNodeKind::Symlink,
            SupervisedKind::Other => PathNodeKind::Other,
        }
    }

    fn read_link(&mut self, link: &TreePlace) -> Result<Vec<u8>, WalkEnd> {
        match &link.inode.kind {
            SupervisedKind::Symlink(target) => Ok(target.clone()),
            _ => Err(Errno::EINVAL.into()),
        }
    }

    fn error(&self, error: PathError) -> WalkEnd {
        WalkEnd::Error(match error {
            PathError::NotFound => Errno::ENOENT,
            PathError::NotADirectory => Errno::ENOTDIR,
            PathError::Loop => Errno::ELOOP,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::tree_mounts::ROOT;
    use super::*;

    /// A tree of paths; inode numbers are positions in the list of paths, from 2.
    struct Paths(BTreeMap<&'static str, (u64, SupervisedKind)>);

    fn tree(entries: &[(&'static str, &str)]) -> Paths {
        let mut map = BTreeMap::from([("", (ROOT, SupervisedKind::Directory))]);
        for (index, (path, what)) in entries.iter().enumerate() {
            let kind = match *what {
                "dir" => SupervisedKind::Directory,
                "file" => SupervisedKind::Other,
                target => SupervisedKind::Symlink(target.strip_prefix("->").unwrap().into()),
            };
            map.insert(path, (index as u64 + 2, kind));
        }
        Paths(map)
    }

    impl Paths {
        fn path(&self, ino: u64) -> &'static str {
            self.0.iter().find(|(_, (number, _))| *number == ino).unwrap().0
        }

        fn ino(&self, path: &str) -> u64 {
            self.0[path].0
        }
    }

    impl Supervised for Paths {
        fn lookup(&self, dir: u64, name: &[u8]) -> Result<SupervisedInode, Errno> {
            let dir = self.path(dir);
            if self.0[dir].1 != SupervisedKind::Directory {
                return Err(Errno::ENOTDIR);
            }
            let path = format!("{dir}/{}", str::from_utf8(name).unwrap());
            let (ino, kind) = self.0.get(path.as_str()).ok_or(Errno::ENOENT)?.clone();
            Ok(SupervisedInode { ino, kind })
        }

        fn parent(&self, dir: u64) -> Result<u64, Errno> {
            Ok(self.path(dir).rsplit_once('/').map_or(ROOT, |(parent, _)| self.ino(parent)))
        }

        fn has_effect(&self, _: u64, _: &[u8]) -> bool {
            false
        }

        /// Directories called `private` belong to user 5, who alone may search them.
        fn attributes(&self, ino: u64) -> Result<SupervisedAttributes, Errno> {
            let path = self.path(ino);
            let (mode, uid) = if path.ends_with("/private") { (0o700, 5) } else { (0o755, 0) };
            let kind = match self.0[path].1 {
                SupervisedKind::Directory => libc::S_IFDIR,
                _ => libc::S_IFREG,
            };
            Ok(SupervisedAttributes { mode: kind | mode, uid, ..SupervisedAttributes::default() })
        }

        fn is_script(&self, _: u64) -> bool {
            false
        }

        fn has_entry(&self, _: u64, _: u64) -> bool {
            false
        }

        fn mknod(
            &self,
            _: u64,
            _: &[u8],
            _: u32,
            _: u32,
            _: (u32, u32),
            _: (u32, u32),
        ) -> Result<(), Errno> {
            Err(Errno::EPERM)
        }

        fn chown(&self, _: u32, _: u64, _: Option<u32>, _: Option<u32>) -> Result<(), Errno> {
            Err(Errno::EPERM)
        }

        fn device_recorded(&self, _: &[u8], _: u32, _: (u32, u32)) {}

        fn service_skipped(&self, _: &str) {}

        fn service_failed(&self, _: &str, _: &std::io::Error) {}
    }

    fn example() -> Paths {
        tree(&[
            ("/a", "dir"),
            ("/a/b", "dir"),
            ("/a/b/file", "file"),
            ("/a/up", "->.."),
            ("/a/abs", "->/a/b"),
            ("/a/rel", "->b"),
            ("/a/slashed", "->b/"),
            ("/a/dangling", "->nowhere"),
            ("/a/tofile", "->b/file"),
            ("/loop", "->loop"),
            ("/dev", "dir"),
            ("/todev", "->/dev"),
            ("/jail", "dir"),
            ("/jail/a", "dir"),
            ("/jail/abs", "->/a"),
            ("/hidden", "dir"),
            ("/hidden/tmp", "dir"),
            ("/hidden/tmp/x", "file"),
            ("/tmp", "dir"),
            ("/a/private", "dir"),
            ("/a/private/file", "file"),
        ])
    }

    /// The tree is mounted at /boot in the outer namespace; in the inner one at the root, with a
    /// directory of it over /tmp and another file system over /dev.
    const MOUNTS: &[u8] = b"\
30 1 0:50 / / rw - fuse overcoat rw\n\
31 30 0:51 / /dev rw - tmpfs tmpfs rw\n\
32 30 0:50 /hidden/tmp /tmp rw - fuse overcoat rw\n\
33 32 0:50 /a/b /tmp/x rw - fuse overcoat rw\n\
90 1 8:1 / /old rw - ext4 /dev/sda1 rw\n";

    fn view<'a>(
        tree: &'a Paths,
        mounts: &'a TreeMounts,
        root: Option<Location>,
    ) -> ProcessView<'a> {
        let root = LazyCell::new(Box::new(move || root) as Box<dyn FnOnce() -> Option<Location>>);
        ProcessView { tree, mounts, root, searcher: None }
    }

    fn place_in(root: &str, start: &str, path: &str) -> Result<Option<String>, Errno> {
        let tree = example();
        let mounts = TreeMounts::new(MOUNTS, libc::makedev(0, 50), &tree);
        let place = |path| Location { mount: 30, ino: tree.ino(path) };
        let view = view(&tree, &mounts, Some(place(root)));
        Ok(match view.place(place(start), path.as_bytes())? {
            Walked::Leaves => None,
            Walked::Found(NameInDir { dir, name }) => {
                Some(format!("{}/{}", tree.path(dir.ino), str::from_utf8(&name).unwrap()))
            }
        })
    }

    fn object(start: &str, path: &str, follow: bool) -> Result<Option<String>, Errno> {
        let tree = example();
        let mounts = TreeMounts::new(MOUNTS, libc::makedev(0, 50), &tree);
        let place = |path| Location { mount: 30, ino: tree.ino(path) };
        let view = view(&tree, &mounts, Some(place("")));
        Ok(match view.object(place(start), path.as_bytes(), follow)? {
            Walked::Leaves => None,
            Walked::Found(found) => {
                let path = tree.path(found.inode.ino).to_owned();
                Some(if found.mount == 30 { path } else { format!("{}:{path}", found.mount) })
            }
        })
    }

    #[test]
    fn parent_directories_are_resolved() {
        for (start, path, expected) in [
            ("", "/a/new", "/a/new"),
            ("/a", "new", "/a/new"),
            ("/a", "./b/..//new", "/a/new"),
            ("/a/b", "../../../../new", "/new"),
            ("/a", "abs/new", "/a/b/new"),
            ("/a", "rel/new", "/a/b/new"),
            ("/a", "slashed//new", "/a/b/new"),
            ("/a", "up/new", "/new"),
            ("", "/a/rel/../abs/../up/a/new", "/a/new"),
            ("", "/a/b/file", "/a/b/file"),
            ("", "/a/dangling", "/a/dangling"),
        ] {
            assert_eq!(place_in("", start, path), Ok(Some(expected.to_owned())), "{path}");
        }
    }

    #[test]
    fn walks_do_not_leave_a_chroot() {
        for (path, expected) in
            [("/new", "/jail/new"), ("../../new", "/jail/new"), ("abs/new", "/jail/a/new")]
        {
            assert_eq!(place_in("/jail", "/jail", path), Ok(Some(expected.to_owned())), "{path}");
        }
        // A working directory outside the root reaches the mount's root and leaves it.
        assert_eq!(place_in("/jail", "/a", "../new"), Ok(Some("/new".to_owned())));
        assert_eq!(place_in("/jail", "/a", "../../new"), Ok(None));
    }

    #[test]
    fn walks_end_at_mount_points() {
        assert_eq!(place_in("", "", "/dev/new"), Ok(None));
        assert_eq!(place_in("", "", "todev/shm/new"), Ok(None));
        assert_eq!(object("", "/dev", true), Ok(None));
        assert_eq!(object("", "/todev", false), Ok(Some("/todev".to_owned())));
    }

    #[test]
    fn walks_pass_bind_mounts_in_both_directions() {
        assert_eq!(object("", "/tmp", true), Ok(Some("32:/hidden/tmp".to_owned())));
        assert_eq!(object("", "/tmp/../a", true), Ok(Some("/a".to_owned())));
        assert_eq!(object("", "/hidden/tmp/../../tmp/..", true), Ok(Some(String::new())));
        assert_eq!(
            object("", "/tmp/x", true),
            Ok(Some("33:/a/b".to_owned())),
            "a mount on a mount"
        );
        assert_eq!(object("", "/tmp/x/../..", true), Ok(Some(String::new())));
        assert_eq!(place_in("", "", "/tmp/x/new"), Ok(Some("/a/b/new".to_owned())));
    }

    #[test]
    fn walks_of_a_process_outside_leave_the_tree_at_absolute_links() {
        let tree = example();
        let mounts = TreeMounts::new(MOUNTS, libc::makedev(0, 50), &tree);
        let view = view(&tree, &mounts, None);
        let from = mounts.whole_tree().ok().unwrap();
        assert_eq!(from, Location { mount: 30, ino: ROOT });
        let found = |path: &[u8]| match view.object(from, path, true).unwrap() {
            Walked::Found(place) => Some(tree.path(place.inode.ino)),
            Walked::Leaves => None,
        };
        assert_eq!(found(b"a/rel/file"), Some("/a/b/file"));
        assert_eq!(found(b"a/abs"), None);
        assert_eq!(found(b".."), None);
    }

    #[test]
    fn directories_that_a_user_may_not_search_are_closed() {
        let tree = example();
        let mounts = TreeMounts::default();
        let root = Location { mount: 30, ino: ROOT };
        let walk = |user: u32| {
            let user = Credentials::root().set_uid(user).unwrap();
            let view = ProcessView { searcher: Some(&user), ..view(&tree, &mounts, Some(root)) };
            view.object(root, b"/a/private/file", true).map(|found| found != Walked::Leaves)
        };
        assert_eq!(walk(0), Ok(true));
        assert_eq!(walk(5), Ok(true));
        assert_eq!(walk(6), Err(Errno::EACCES));
    }

    #[test]
    fn unresolvable_parents_have_the_kernels_errno() {
        let long = "x".repeat(256);
        for (path, errno) in [
            ("", Errno::ENOENT),
            ("/", Errno::EEXIST),
            ("///", Errno::EEXIST),
            ("/a/.", Errno::EEXIST),
            ("/a/..", Errno::EEXIST),
            ("/a/new/", Errno::ENOENT),
            ("/a/b/", Errno::EEXIST),
            ("/none/new", Errno::ENOENT),
            ("/a/b/file/new", Errno::ENOTDIR),
            ("/a/b/file/../new", Errno::ENOTDIR),
            ("/a/b/file/./new", Errno::ENOTDIR),
            ("/a/tofile/new", Errno::ENOTDIR),
            ("/a/dangling/new", Errno::ENOENT),
            ("/loop/new", Errno::ELOOP),
            (&long, Errno::ENAMETOOLONG),
            (&format!("{long}/new"), Errno::ENAMETOOLONG),
        ] {
            let tree = example();
            let mounts = TreeMounts::default();
            let root = Location { mount: 30, ino: ROOT };
            match view(&tree, &mounts, Some(root)).place(root, path.as_bytes()) {
                Err(found) => assert_eq!(found, errno, "{path}"),
                // The caller checks the directory of the last component.
                Ok(Walked::Found(place)) => {
                    assert_eq!(tree.lookup(place.dir.ino, b"x"), Err(errno), "{path}");
                }
                Ok(Walked::Leaves) => panic!("{path}"),
            }
        }
    }

    #[test]
    fn path_or_its_links_lead_into_a_directory() {
        let tree = tree(&[
            ("/init.d", "dir"),
            ("/init.d/ssh", "file"),
            ("/init.d/vendor", "->/opt/vendor"),
            ("/rc2.d", "dir"),
            ("/rc2.d/S01ssh", "->../init.d/ssh"),
            ("/rc2.d/S02ssh", "->S01ssh"),
            ("/opt", "dir"),
            ("/opt/vendor", "file"),
            ("/loop", "->loop"),
            ("/dir", "->init.d"),
            ("/dev", "dir"),
        ]);
        let mounts = TreeMounts::new(MOUNTS, libc::makedev(0, 50), &tree);
        let place = |path: &str| Location { mount: 30, ino: tree.0[path].0 };
        let view = view(&tree, &mounts, Some(place("")));
        let dirs = [tree.ino("/init.d")];
        let leads = |start: &str, path: &str| view.leads_into(place(start), path.as_bytes(), &dirs);
        for (start, path) in [
            ("", "/init.d/ssh"),
            ("/init.d", "ssh"),
            ("/init.d", "./ssh"),
            ("/init.d", "vendor"),
            ("/rc2.d", "S01ssh"),
            ("", "/rc2.d/S02ssh"),
            ("", "/dir/ssh"),
        ] {
            assert_eq!(leads(start, path), Ok(Walked::Found(true)), "{path}");
        }
        assert_eq!(leads("", "/opt/vendor"), Ok(Walked::Found(false)));
        assert_eq!(leads("", "/dev/ssh"), Ok(Walked::Leaves));
        assert_eq!(leads("", "/init.d/none"), Err(Errno::ENOENT));
        assert_eq!(leads("", "/loop"), Err(Errno::ELOOP));
    }

    #[test]
    fn final_links_are_followed_on_request() {
        for (path, follow, expected) in [
            ("/", true, ""),
            ("/a/rel", true, "/a/b"),
            ("/a/rel", false, "/a/rel"),
            ("/a/rel/", false, "/a/b"),
            ("/a/slashed", true, "/a/b"),
            ("/a/tofile", true, "/a/b/file"),
            ("/a/b/.", false, "/a/b"),
            ("/a/b/..", false, "/a"),
        ] {
            assert_eq!(object("", path, follow), Ok(Some(expected.to_owned())), "{path}");
        }
        assert_eq!(object("", "/a/b/file/", true), Err(Errno::ENOTDIR));
        assert_eq!(object("", "/a/tofile/", false), Err(Errno::ENOTDIR));
        assert_eq!(object("", "/a/dangling", true), Err(Errno::ENOENT));
        assert_eq!(object("", "/loop", true), Err(Errno::ELOOP));
    }
}
