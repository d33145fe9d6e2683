//! Paths of a process inside, resolved in the tree instead of in a mount.
//!
//! The daemon cannot look into its own mount, so it walks the tree as the kernel would
//! (path_resolution(7)). Pure: it knows the tree through [`Supervised`] and nothing else.
//!
//! Invariants:
//! - a walk that steps on a mount point ends there as [`Walked::Leaves`]: what lies behind is not
//!   in the tree, and the kernel answers the call itself;
//! - no walk gets above the process's root;
//! - a walk ends: at most [`MAX_LINKS`] symbolic links are followed.

use std::collections::HashSet;

use nix::errno::Errno;

/// The tree of the sandbox's root, by the inode numbers that the FUSE mount shows (they must be
/// the same in `stat` and on the wire; the root is 1).
///
/// Every method may be called while FUSE requests are being answered, from another thread.
pub trait Supervised: Send + Sync {
    /// The object `name` in `dir`.
    ///
    /// # Errors
    /// `ENOENT` when there is none, `ENOTDIR` when `dir` is not a directory.
    fn lookup(&self, dir: u64, name: &[u8]) -> Result<Found, Errno>;

    /// The directory that `dir` is in; the root is in itself.
    ///
    /// # Errors
    /// `ENOENT` when `dir` has been deleted.
    fn parent(&self, dir: u64) -> Result<u64, Errno>;

    /// Makes a device node, and has the kernel forget that there was none. `mode` has type and
    /// permission; the `umask` is taken off unless the directory says otherwise; `rdev` is (major, minor). A set-group-id directory, a
    /// read-only or full tree are this method's business; the caller's right to make devices is
    /// not.
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

    /// Changes owner and group of an object, and has the kernel forget the old ones. Taking the
    /// set-id bits off is this method's business; the caller's right to change owners is not.
    ///
    /// # Errors
    /// As `chown(2)`: `ENOENT`, `EROFS`…
    fn chown(&self, ino: u64, uid: Option<u32>, gid: Option<u32>) -> Result<(), Errno>;

    /// Takes note that a device was made at `path`; `mode` and `rdev` are those of `mknod`.
    fn device_recorded(&self, path: &[u8], mode: u32, rdev: (u32, u32));

    /// Takes note that the command line `execution` did nothing, because it would have changed a
    /// service.
    fn service_left_alone(&self, execution: &str);

    /// Takes note that it failed instead, because its process cannot be traced.
    fn service_refused(&self, execution: &str, error: &std::io::Error);
}

/// What a name in a directory stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its inode number.
    pub ino: u64,
    /// What it is.
    pub kind: FoundKind,
}

/// What kind of object was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FoundKind {
    /// A directory.
    Directory,
    /// A symbolic link, and its target.
    Symlink(Vec<u8>),
    /// Anything else.
    Other,
}

/// As `MAXSYMLINKS` of the kernel.
const MAX_LINKS: usize = 40;
const NAME_MAX: usize = 255;
const ROOT: u64 = 1;

/// Where a walk ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Walked<T> {
    /// In the tree.
    Found(T),
    /// On a mount point: the rest is the kernel's.
    Leaves,
}

/// A directory and the name of something in it, there or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) dir: u64,
    pub(super) name: Vec<u8>,
}

/// How one process sees the tree.
pub(super) struct View<'a> {
    pub(super) tree: &'a dyn Supervised,
    /// Its root directory.
    pub(super) root: u64,
    /// The inodes on which something is mounted.
    pub(super) mounted: &'a HashSet<u64>,
}

impl View<'_> {
    /// The place that `path` names for something new. The last component is not followed.
    pub(super) fn place(&self, start: u64, path: &[u8]) -> Result<Walked<Place>, Errno> {
        let mut walk = self.begin(start, path)?;
        loop {
            let Some(step) = walk.next() else { return Err(Errno::EEXIST) }; // only slashes
            if step.last {
                if matches!(step.name.as_slice(), b"." | b"..") {
                    return Err(Errno::EEXIST);
                }
                if step.name.len() > NAME_MAX {
                    return Err(Errno::ENAMETOOLONG);
                }
                if step.slash {
                    // Only a directory could be made with a slash at its end.
                    self.tree.lookup(walk.current, &step.name)?;
                    return Err(Errno::EEXIST);
                }
                return Ok(Walked::Found(Place { dir: walk.current, name: step.name }));
            }
            if self.enter(&mut walk, &step, true)? == Walked::Leaves {
                return Ok(Walked::Leaves);
            }
        }
    }

    /// The object that `path` names; a symbolic link at its end is followed if `follow`.
    pub(super) fn object(
        &self,
        start: u64,
        path: &[u8],
        follow: bool,
    ) -> Result<Walked<u64>, Errno> {
        let mut walk = self.begin(start, path)?;
        while let Some(step) = walk.next() {
            if self.enter(&mut walk, &step, follow || !step.last || step.slash)? == Walked::Leaves {
                return Ok(Walked::Leaves);
            }
        }
        Ok(Walked::Found(walk.current))
    }

    /// Whether `path`, or a symbolic link at its end, names something in one of `dirs`.
    pub(super) fn leads_into(
        &self,
        start: u64,
        path: &[u8],
        dirs: &[u64],
    ) -> Result<Walked<bool>, Errno> {
        let (mut start, mut path) = (start, path.to_vec());
        for _ in 0..=MAX_LINKS {
            let Walked::Found(Place { dir, name }) = self.place(start, &path)? else {
                return Ok(Walked::Leaves);
            };
            let found = self.tree.lookup(dir, &name)?;
            if dirs.contains(&dir) {
                return Ok(Walked::Found(true));
            }
            match found.kind {
                FoundKind::Symlink(target) => (start, path) = (dir, target),
                _ => return Ok(Walked::Found(false)),
            }
        }
        Err(Errno::ELOOP)
    }

    fn begin(&self, start: u64, path: &[u8]) -> Result<Walk, Errno> {
        match path.first() {
            None => Err(Errno::ENOENT),
            Some(b'/') => Ok(Walk::new(self.root, path)),
            Some(_) => Ok(Walk::new(start, path)),
        }
    }

    /// Takes one step.
    fn enter(&self, walk: &mut Walk, step: &Step, follow: bool) -> Result<Walked<()>, Errno> {
        if !walk.directory {
            return Err(Errno::ENOTDIR);
        }
        match step.name.as_slice() {
            b"." => return Ok(Walked::Found(())),
            b".." => {
                if walk.current == self.root {
                    return Ok(Walked::Found(()));
                }
                if walk.current == ROOT {
                    // Above the mount, by a working directory outside of the process's root.
                    return Ok(Walked::Leaves);
                }
                walk.current = self.tree.parent(walk.current)?;
                return Ok(Walked::Found(()));
            }
            _ => {}
        }
        if step.name.len() > NAME_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        let found = self.tree.lookup(walk.current, &step.name)?;
        if self.mounted.contains(&found.ino) {
            return Ok(Walked::Leaves);
        }
        match found.kind {
            FoundKind::Symlink(target) if follow => {
                walk.follow(&target, step.slash || !step.last)?;
                if target.first() == Some(&b'/') {
                    walk.current = self.root;
                }
            }
            kind => {
                walk.directory = kind == FoundKind::Directory;
                if step.slash && !walk.directory {
                    return Err(Errno::ENOTDIR);
                }
                walk.current = found.ino;
            }
        }
        Ok(Walked::Found(()))
    }
}

struct Walk {
    current: u64,
    directory: bool,
    rest: Vec<u8>,
    links: usize,
}

struct Step {
    name: Vec<u8>,
    /// Nothing but slashes follows.
    last: bool,
    /// A slash follows the last one.
    slash: bool,
}

impl Walk {
    fn new(current: u64, path: &[u8]) -> Self {
        Walk { current, directory: true, rest: path.to_vec(), links: 0 }
    }

    fn next(&mut self) -> Option<Step> {
        let start = self.rest.iter().position(|&byte| byte != b'/')?;
        let length = self.rest[start..].iter().position(|&byte| byte == b'/');
        let end = length.map_or(self.rest.len(), |length| start + length);
        let name = self.rest[start..end].to_vec();
        self.rest.drain(..end);
        let last = self.rest.iter().all(|&byte| byte == b'/');
        Some(Step { name, last, slash: last && !self.rest.is_empty() })
    }

    /// Puts a link's target before what is left of the path.
    fn follow(&mut self, target: &[u8], more: bool) -> Result<(), Errno> {
        self.links += 1;
        if self.links > MAX_LINKS {
            return Err(Errno::ELOOP);
        }
        if target.is_empty() {
            return Err(Errno::ENOENT);
        }
        let mut rest = target.to_vec();
        if more {
            rest.push(b'/');
            rest.append(&mut self.rest);
        }
        self.rest = rest;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// A tree of paths; inode numbers are positions in the list of paths, from 2.
    struct Paths(BTreeMap<&'static str, (u64, FoundKind)>);

    fn tree(entries: &[(&'static str, &str)]) -> Paths {
        let mut map = BTreeMap::from([("", (ROOT, FoundKind::Directory))]);
        for (index, (path, what)) in entries.iter().enumerate() {
            let kind = match *what {
                "dir" => FoundKind::Directory,
                "file" => FoundKind::Other,
                target => FoundKind::Symlink(target.strip_prefix("->").unwrap().into()),
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
        fn lookup(&self, dir: u64, name: &[u8]) -> Result<Found, Errno> {
            let dir = self.path(dir);
            if self.0[dir].1 != FoundKind::Directory {
                return Err(Errno::ENOTDIR);
            }
            let path = format!("{dir}/{}", str::from_utf8(name).unwrap());
            let (ino, kind) = self.0.get(path.as_str()).ok_or(Errno::ENOENT)?.clone();
            Ok(Found { ino, kind })
        }

        fn parent(&self, dir: u64) -> Result<u64, Errno> {
            Ok(self.path(dir).rsplit_once('/').map_or(ROOT, |(parent, _)| self.ino(parent)))
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

        fn chown(&self, _: u64, _: Option<u32>, _: Option<u32>) -> Result<(), Errno> {
            Err(Errno::EPERM)
        }

        fn device_recorded(&self, _: &[u8], _: u32, _: (u32, u32)) {}

        fn service_left_alone(&self, _: &str) {}

        fn service_refused(&self, _: &str, _: &std::io::Error) {}
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
        ])
    }

    fn place_in(root: &str, start: &str, path: &str) -> Result<Option<String>, Errno> {
        let tree = example();
        let mounted = HashSet::from([tree.ino("/dev")]);
        let view = View { tree: &tree, root: tree.ino(root), mounted: &mounted };
        Ok(match view.place(tree.ino(start), path.as_bytes())? {
            Walked::Leaves => None,
            Walked::Found(place) => {
                Some(format!("{}/{}", tree.path(place.dir), str::from_utf8(&place.name).unwrap()))
            }
        })
    }

    fn object(start: &str, path: &str, follow: bool) -> Result<Option<String>, Errno> {
        let tree = example();
        let mounted = HashSet::from([tree.ino("/dev")]);
        let view = View { tree: &tree, root: ROOT, mounted: &mounted };
        Ok(match view.object(tree.ino(start), path.as_bytes(), follow)? {
            Walked::Leaves => None,
            Walked::Found(ino) => Some(tree.path(ino).to_owned()),
        })
    }

    #[test]
    fn a_new_name_is_found_by_every_way() {
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
    fn a_chroot_is_the_top() {
        for (path, expected) in
            [("/new", "/jail/new"), ("../../new", "/jail/new"), ("abs/new", "/jail/a/new")]
        {
            assert_eq!(place_in("/jail", "/jail", path), Ok(Some(expected.to_owned())), "{path}");
        }
        // A working directory outside of the root climbs to the mount's own top and beyond.
        assert_eq!(place_in("/jail", "/a", "../new"), Ok(Some("/new".to_owned())));
        assert_eq!(place_in("/jail", "/a", "../../new"), Ok(None));
    }

    #[test]
    fn mount_points_are_left_to_the_kernel() {
        assert_eq!(place_in("", "", "/dev/new"), Ok(None));
        assert_eq!(place_in("", "", "todev/shm/new"), Ok(None));
        assert_eq!(object("", "/dev", true), Ok(None));
        assert_eq!(object("", "/todev", false), Ok(Some("/todev".to_owned())));
    }

    #[test]
    fn what_cannot_be_made_has_the_kernels_errno() {
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
            let mounted = HashSet::new();
            let view = View { tree: &tree, root: ROOT, mounted: &mounted };
            match view.place(ROOT, path.as_bytes()) {
                Err(found) => assert_eq!(found, errno, "{path}"),
                // The last component's own directory is checked by whoever makes the node.
                Ok(Walked::Found(place)) => {
                    assert_eq!(tree.lookup(place.dir, b"x"), Err(errno), "{path}");
                }
                Ok(Walked::Leaves) => panic!("{path}"),
            }
        }
    }

    #[test]
    fn a_path_leads_into_a_directory_by_itself_or_by_its_links() {
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
        let mounted = HashSet::from([tree.ino("/dev")]);
        let view = View { tree: &tree, root: ROOT, mounted: &mounted };
        let dirs = [tree.ino("/init.d")];
        let leads =
            |start: &str, path: &str| view.leads_into(tree.ino(start), path.as_bytes(), &dirs);
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
    fn objects_are_found_with_and_without_following() {
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
