//! Applies the changes that the sandbox's supervisor makes for a process inside to the tree.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use fs_model::tree::{MknodArgs, SetAttr};
use fs_model::{Device, FileType, FsError, Ino};
use nix::errno::Errno;
use parking_lot::Mutex;

use provisioners::machine::CALLBACK_NAME;

use crate::fuse::{CAPABILITY, CopiedFiles, OwnerAliases, errno_of, owner_of_copied_device};
use crate::root::mounted_tree::MountedTree;
use crate::sandbox::{
    LENT_DEVICES, Supervised, SupervisedAttributes, SupervisedInode, SupervisedKind,
};

/// Number of recently found inodes that are kept alive, so that a walk can continue from each of
/// them: more than a path can have components and links.
const MAX_HELD_INODES: usize = 16 << 10;

/// Maximum number of suppressed executions that are reported.
const MAX_REPORTED_EXECUTIONS: usize = 64;

/// Prints a line for the user.
#[derive(Clone)]
pub struct ReportFn(Arc<dyn Fn(&str) + Send + Sync>);

impl ReportFn {
    /// Returns a function that calls `report`.
    pub fn new(report: impl Fn(&str) + Send + Sync + 'static) -> Self {
        ReportFn(Arc::new(report))
    }

    pub(crate) fn call(&self, line: &str) {
        (self.0)(line);
    }
}

/// Ignores all lines.
impl Default for ReportFn {
    fn default() -> Self {
        ReportFn::new(|_| {})
    }
}

impl std::fmt::Debug for ReportFn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ReportFn")
    }
}

/// A tree as the supervisor uses it.
#[derive(Debug)]
pub struct SupervisedTree {
    mounted_tree: Arc<MountedTree>,
    owners: Option<Arc<OwnerAliases>>,
    copies: Option<Arc<CopiedFiles>>,
    held: Mutex<VecDeque<Ino>>,
    report: ReportFn,
    reported: Mutex<Reported>,
}

/// The reports made so far, to avoid duplicates.
#[derive(Debug, Default)]
struct Reported {
    device: bool,
    executions: HashSet<String>,
}

impl SupervisedTree {
    /// Creates one for the tree of `mounted_tree`, without reports.
    pub fn new(mounted_tree: Arc<MountedTree>) -> Self {
        SupervisedTree {
            mounted_tree,
            owners: None,
            copies: None,
            held: Mutex::new(VecDeque::new()),
            report: ReportFn::default(),
            reported: Mutex::default(),
        }
    }

    /// Reports devices that cannot be opened and services that do not start.
    #[must_use]
    pub fn with_report(self, report: ReportFn) -> Self {
        SupervisedTree { report, ..self }
    }

    /// Interprets ids in calls as the mount shows them.
    #[must_use]
    pub fn with_owners(self, owners: Arc<OwnerAliases>) -> Self {
        SupervisedTree { owners: Some(owners), ..self }
    }

    /// Records the owners of copies of files of the host.
    #[must_use]
    pub(crate) fn with_copies(self, copies: Arc<CopiedFiles>) -> Self {
        SupervisedTree { copies: Some(copies), ..self }
    }

    fn real_user(&self, id: u32) -> Result<u32, Errno> {
        let Some(owners) = &self.owners else { return Ok(id) };
        owners.real_user(id).ok_or(Errno::EOVERFLOW)
    }

    fn real_group(&self, id: u32) -> Result<u32, Errno> {
        let Some(owners) = &self.owners else { return Ok(id) };
        owners.real_group(id).ok_or(Errno::EOVERFLOW)
    }

    fn hold(&self, ino: Ino) {
        let mut held = self.held.lock();
        held.push_back(ino);
        if held.len() > MAX_HELD_INODES
            && let Some(oldest) = held.pop_front()
        {
            self.mounted_tree.tree().forget(oldest, 1);
        }
    }
}

fn errno(error: FsError) -> Errno {
    Errno::from_raw(errno_of(&error).code())
}

impl Supervised for SupervisedTree {
    fn lookup(&self, dir: u64, name: &[u8]) -> Result<SupervisedInode, Errno> {
        let entry = self.mounted_tree.tree().lookup(Ino(dir), name).map_err(errno)?;
        self.hold(entry.ino);
        let kind = match entry.attr.kind {
            FileType::Directory => SupervisedKind::Directory,
            FileType::Symlink => SupervisedKind::Symlink(
                self.mounted_tree.tree().read_link(entry.ino).map_err(errno)?,
            ),
            _ => SupervisedKind::Other,
        };
        Ok(SupervisedInode { ino: entry.ino.0, kind })
    }

    fn has_effect(&self, dir: u64, name: &[u8]) -> bool {
        dir == Ino::ROOT.0 && name == CALLBACK_NAME.as_bytes()
    }

    fn parent(&self, dir: u64) -> Result<u64, Errno> {
        self.mounted_tree.tree().parent(Ino(dir)).map(|ino| ino.0).map_err(errno)
    }

    fn attributes(&self, ino: u64) -> Result<SupervisedAttributes, Errno> {
        let attr = self.mounted_tree.tree().attr(Ino(ino)).map_err(errno)?;
        let time = |time: fs_model::Time| (time.secs, time.nanos);
        Ok(SupervisedAttributes {
            mode: attr.st_mode(),
            nlink: attr.nlink,
            uid: attr.uid,
            gid: attr.gid,
            rdev: (attr.rdev.major, attr.rdev.minor),
            size: attr.size,
            blocks: attr.allocated.div_ceil(512),
            atime: time(attr.atime),
            mtime: time(attr.mtime),
            ctime: time(attr.ctime),
        })
    }

    fn is_script(&self, ino: u64) -> bool {
        let mut start = [0; 2];
        let read = self.mounted_tree.tree().read(Ino(ino), 0, &mut start);
        read.is_ok() && start == *b"#!"
    }

    fn has_entry(&self, dir: u64, ino: u64) -> bool {
        let mut found = false;
        let listed = self.mounted_tree.tree().read_dir(Ino(dir), 0, |item| {
            found = item.ino == Ino(ino) && item.name != b"." && item.name != b"..";
            !found
        });
        listed.is_ok() && found
    }

    fn mknod(
        &self,
        dir: u64,
        name: &[u8],
        mode: u32,
        umask: u32,
        (major, minor): (u32, u32),
        (uid, gid): (u32, u32),
    ) -> Result<(), Errno> {
        let kind = FileType::from_mode(mode).filter(|k| k.is_device()).ok_or(Errno::EINVAL)?;
        let rdev = Device { major, minor };
        let umask = (umask & 0o777) as u16;
        let (uid, gid) = (self.real_user(uid).unwrap_or(uid), self.real_group(gid).unwrap_or(gid));
        let node =
            MknodArgs { umask, ..MknodArgs::device(kind, (mode & 0o7777) as u16, uid, gid, rdev) };
        let entry = self.mounted_tree.tree().mknod(Ino(dir), name, &node).map_err(errno)?;
        self.mounted_tree.tree().forget(entry.ino, 1);
        self.mounted_tree.forget_name(Ino(dir), name);
        Ok(())
    }

    fn chown(&self, tid: u32, ino: u64, uid: Option<u32>, gid: Option<u32>) -> Result<(), Errno> {
        let ino = Ino(ino);
        if let Some(copies) = &self.copies {
            copies.note_owner(tid, ino, uid, gid);
        }
        let uid = uid.map(|uid| self.real_user(uid)).transpose()?;
        let gid = gid.map(|gid| self.real_group(gid)).transpose()?;
        let (uid, gid) = owner_of_copied_device(self.mounted_tree.tree(), ino, uid, gid);
        let set = SetAttr { drop_setid: true, uid, gid, ..SetAttr::default() };
        let tree = self.mounted_tree.tree();
        let attr = tree.set_attr(ino, &set).map_err(errno)?;
        // As the kernel does (capabilities(7)).
        if attr.kind != FileType::Directory && tree.xattr(ino, CAPABILITY).is_ok() {
            tree.remove_xattr(ino, CAPABILITY).map_err(errno)?;
        }
        self.mounted_tree.forget_inode(ino);
        Ok(())
    }

    fn device_recorded(&self, path: &[u8], mode: u32, rdev: (u32, u32)) {
        let usual = LENT_DEVICES.iter().find(|(_, numbers)| *numbers == rdev);
        let Some((name, _)) = usual.filter(|_| mode & libc::S_IFMT == libc::S_IFCHR) else {
            return;
        };
        if std::mem::replace(&mut self.reported.lock().device, true) {
            return;
        }
        let path = String::from_utf8_lossy(path).escape_default().to_string();
        self.report.call(&format!(
            "warning: the device {path} is recorded for the image, but cannot be opened during a \
             build without root; if a program must open it, run `mount --bind /dev/{name} {path}` \
             before and `umount {path}` after; a program that makes and opens it itself \
             (debootstrap) requires a build as root, mmdebstrap does not"
        ));
    }

    fn service_skipped(&self, execution: &str) {
        let mut reported = self.reported.lock();
        if reported.executions.len() < MAX_REPORTED_EXECUTIONS
            && reported.executions.insert(execution.to_owned())
        {
            self.report
                .call(&format!("`{execution}`: services do not start or stop during a build"));
        }
    }

    fn service_failed(&self, execution: &str, error: &std::io::Error) {
        self.report.call(&format!(
            "warning: `{execution}` failed: services do not start or stop during a build, and its \
             process cannot be traced to skip it ({error}); allow ptrace \
             (kernel.yama.ptrace_scope below 3), or remove the command"
        ));
    }
}

#[cfg(test)]
mod tests {
    use fs_model::Tree;
    use fs_model::acl;
    use fs_model::tree::{TreeOptions, XattrFlags, XattrSupport};

    use super::*;

    #[test]
    fn device_node_inherits_the_default_acl() {
        let options = TreeOptions { upper_limit: Some(1 << 20), xattrs: XattrSupport::All };
        let tree = Arc::new(Tree::new(Vec::new(), options).unwrap());
        let made = |name: &[u8]| {
            let supervised = SupervisedTree::new(Arc::new(MountedTree::new(tree.clone())));
            supervised.mknod(1, name, libc::S_IFCHR | 0o666, 0o077, (1, 3), (0, 0)).unwrap();
            tree.lookup(Ino::ROOT, name).unwrap().attr.mode
        };
        assert_eq!(made(b"masked"), 0o600);
        // user::rw-,group::r--,other::r--
        let list = [(1, 6), (4, 4), (0x20, 4)]
            .map(|(tag, may)| [&[tag, 0, may, 0][..], &u32::MAX.to_le_bytes()].concat());
        let list = [&2u32.to_le_bytes()[..], &list.concat()].concat();
        tree.set_xattr(Ino::ROOT, acl::DEFAULT, &list, XattrFlags::Any).unwrap();
        assert_eq!(made(b"listed"), 0o644);
    }
}
