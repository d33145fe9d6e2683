//! Converts owners, times and types between the tree and one mount, in both directions.

use std::borrow::Cow;
use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fs_model::acl::{self, Acl};
use fs_model::{Attr, FileType, Ino, Time};
use fuser::{FileAttr, INodeNo, TimeOrNow};

use super::owners::OwnerAliases;

/// The way one mount shows a tree.
#[derive(Clone, Copy, Debug)]
pub struct View {
    /// The largest id that the mount's user namespace maps. Larger owners are shown as aliases; the
    /// tree keeps the real ones.
    pub max_id: u32,
    /// Shows everything as owned by this user and group, and records their files as root's: for a
    /// mount without an id map that belongs to one user.
    pub owner: Option<(u32, u32)>,
    /// Whether no user of the mount has privileges in the initial user namespace, not even root:
    /// the mount is for a user namespace, or for a single user.
    pub unprivileged: bool,
}

/// A view with the owners that it shows.
#[derive(Clone, Debug)]
pub(super) struct OwnedView {
    pub(super) view: View,
    pub(super) owners: Arc<OwnerAliases>,
}

impl OwnedView {
    pub(super) fn new(view: View) -> Self {
        OwnedView { view, owners: Arc::new(OwnerAliases::new(view.max_id)) }
    }

    /// Returns the attributes of `ino` for the kernel.
    pub(super) fn attr(&self, ino: Ino, attr: &Attr) -> FileAttr {
        let (uid, gid) = match self.view.owner {
            Some(owner) => owner,
            None => (self.owners.shown_user(attr.uid), self.owners.shown_group(attr.gid)),
        };
        FileAttr {
            ino: INodeNo(ino.0),
            size: attr.size,
            blocks: attr.allocated.div_ceil(512),
            atime: system_time(attr.atime),
            mtime: system_time(attr.mtime),
            ctime: system_time(attr.ctime),
            crtime: UNIX_EPOCH,
            kind: file_type(attr.kind),
            perm: attr.mode,
            nlink: attr.nlink,
            uid,
            gid,
            rdev: attr.rdev.to_u32(),
            blksize: 4096,
            flags: 0,
        }
    }

    /// Returns the real user for the id in a request; `None` when it is ambiguous.
    pub(super) fn real_user(&self, uid: u32) -> Option<u32> {
        match self.view.owner {
            Some((owner, _)) => Some(if uid == owner { 0 } else { uid }),
            None => self.owners.real_user(uid),
        }
    }

    /// Returns the real group for the id in a request; `None` when it is ambiguous.
    pub(super) fn real_group(&self, gid: u32) -> Option<u32> {
        match self.view.owner {
            Some((_, group)) => Some(if gid == group { 0 } else { gid }),
            None => self.owners.real_group(gid),
        }
    }

    /// Returns the real owner of a new file, from the ids of the process that creates it.
    pub(super) fn real_owner(&self, uid: u32, gid: u32) -> (u32, u32) {
        // A process can run as the overflow id itself.
        (self.real_user(uid).unwrap_or(uid), self.real_group(gid).unwrap_or(gid))
    }

    /// Returns the value of an extended attribute for the kernel: converts the ids in ACLs.
    pub(super) fn shown_value(&self, name: &[u8], value: Box<[u8]>) -> Box<[u8]> {
        let list = if acl::is_acl(name) { Acl::parse(&value) } else { None };
        let Some(list) = list else { return value };
        let (root, group) = self.view.owner.unwrap_or_default();
        let user = |id| if id == 0 { root } else { self.owners.shown_user(id) };
        let group = |id| if id == 0 { group } else { self.owners.shown_group(id) };
        list.with_ids(user, group).to_value().into()
    }

    /// Returns the real value of an extended attribute from the kernel. `None` for an ACL with an
    /// ambiguous id, or with the host's root in a mount whose owner represents root.
    pub(super) fn real_value<'a>(&self, name: &[u8], value: &'a [u8]) -> Option<Cow<'a, [u8]>> {
        let list = if acl::is_acl(name) { Acl::parse(value) } else { None };
        let Some(list) = list else { return Some(Cow::Borrowed(value)) };
        let own = self.view.owner.is_some_and(|(uid, gid)| uid != 0 && gid != 0);
        if own && list.ids().any(|id| id == 0) {
            return None;
        }
        let unknown = Cell::new(false);
        let known = |id: Option<u32>| {
            unknown.set(unknown.get() || id.is_none());
            id.unwrap_or_default()
        };
        let list = list.with_ids(|id| known(self.real_user(id)), |id| known(self.real_group(id)));
        (!unknown.get()).then(|| Cow::Owned(list.to_value()))
    }
}

fn system_time(time: Time) -> SystemTime {
    let since = if time.secs >= 0 {
        UNIX_EPOCH.checked_add(Duration::new(time.secs.unsigned_abs(), time.nanos))
    } else {
        UNIX_EPOCH
            .checked_sub(Duration::from_secs(time.secs.unsigned_abs()))
            .and_then(|t| t.checked_add(Duration::from_nanos(time.nanos.into())))
    };
    since.unwrap_or(UNIX_EPOCH)
}

/// Converts a time from the kernel. For a time before 1970, fuser 0.18 subtracts the nanoseconds
/// instead of adding them; this is the exact inverse, so the result is the kernel's value.
pub(super) fn time_from_kernel(time: TimeOrNow) -> Time {
    match time {
        TimeOrNow::Now => Time::now(),
        TimeOrNow::SpecificTime(time) => match time.duration_since(UNIX_EPOCH) {
            Ok(d) => Time { secs: d.as_secs() as i64, nanos: d.subsec_nanos() },
            Err(before) => {
                let d = before.duration();
                Time { secs: (d.as_secs() as i64).wrapping_neg(), nanos: d.subsec_nanos() }
            }
        },
    }
}

/// Converts a file type to FUSE's.
pub(super) fn file_type(kind: FileType) -> fuser::FileType {
    match kind {
        FileType::Regular => fuser::FileType::RegularFile,
        FileType::Directory => fuser::FileType::Directory,
        FileType::Symlink => fuser::FileType::Symlink,
        FileType::CharDevice => fuser::FileType::CharDevice,
        FileType::BlockDevice => fuser::FileType::BlockDevice,
        FileType::Fifo => fuser::FileType::NamedPipe,
        FileType::Socket => fuser::FileType::Socket,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `user::rw-,user:ID:r--,group::r--,mask::r--,other::---`
    fn naming(id: u32) -> Vec<u8> {
        let entries = [(1, 6, u32::MAX), (2, 4, id), (4, 4, u32::MAX), (16, 4, u32::MAX)];
        let entries = entries.into_iter().chain([(32, 0, u32::MAX)]);
        let entries = entries.flat_map(|(tag, may, id): (u8, u8, u32)| {
            [tag, 0, may, 0].into_iter().chain(id.to_le_bytes())
        });
        2u32.to_le_bytes().into_iter().chain(entries).collect()
    }

    #[test]
    fn acl_ids_are_converted() {
        let view = |max_id, owner| OwnedView::new(View { max_id, owner, unprivileged: true });
        let own = view(u32::MAX, Some((1002, 1002)));
        let kept = |view: &OwnedView, sent: u32| {
            view.real_value(acl::ACCESS, &naming(sent)).map(Cow::into_owned)
        };
        assert_eq!(kept(&own, 1002), Some(naming(0)), "the owner represents root");
        assert_eq!(kept(&own, 7), Some(naming(7)));
        assert_eq!(kept(&own, 0), None, "two ids would mean root");
        let shown =
            |view: &OwnedView, id| view.shown_value(acl::ACCESS, naming(id).into()).into_vec();
        assert_eq!(shown(&own, 0), naming(1002));

        let mapped = view(65535, None);
        assert_eq!(kept(&mapped, 0), Some(naming(0)));
        assert_eq!(shown(&mapped, 70_000), naming(60_888));
        assert_eq!(kept(&mapped, 60_888), Some(naming(70_000)));
        assert_eq!(&*mapped.shown_value(b"user.x", naming(70_000).into()), &naming(70_000)[..]);
    }
}
