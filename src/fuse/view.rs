//! How attributes look through one mount: owners, times and types, in both directions.

use std::borrow::Cow;
use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fs_model::acl::{self, Acl};
use fs_model::{Attr, FileType, Ino, Time};
use fuser::{FileAttr, INodeNo, TimeOrNow};

use super::owners::Owners;

/// How a tree is shown through one mount.
#[derive(Clone, Copy, Debug)]
pub struct View {
    /// The largest id that the mount's namespace maps. Owners above it are shown as
    /// aliases; the tree keeps the true ones.
    pub max_id: u32,
    /// Show everything as owned by this user and group, and record what they own as root's: for a
    /// mount that has no id mapping and is theirs alone.
    pub owner: Option<(u32, u32)>,
    /// Nobody who uses the mount has privileges in the system's own user namespace, root included:
    /// it is served for a user namespace, or for a user alone.
    pub unprivileged: bool,
}

/// A view with the owners that it shows.
#[derive(Clone, Debug)]
pub(super) struct OwnedView {
    pub(super) view: View,
    pub(super) owners: Arc<Owners>,
}

impl OwnedView {
    pub(super) fn new(view: View) -> Self {
        OwnedView { view, owners: Arc::new(Owners::new(view.max_id)) }
    }

    /// The attributes of `ino`, as the kernel is told them.
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

    /// The true user for the id in a request; `None` when it is ambiguous.
    pub(super) fn true_user(&self, uid: u32) -> Option<u32> {
        match self.view.owner {
            Some((owner, _)) => Some(if uid == owner { 0 } else { uid }),
            None => self.owners.true_user(uid),
        }
    }

    /// As [`OwnedView::true_user`], for a group.
    pub(super) fn true_group(&self, gid: u32) -> Option<u32> {
        match self.view.owner {
            Some((_, group)) => Some(if gid == group { 0 } else { gid }),
            None => self.owners.true_group(gid),
        }
    }

    /// The true owner of a new object, from the ids of the process that creates it.
    pub(super) fn true_owner(&self, uid: u32, gid: u32) -> (u32, u32) {
        // A process can run as the overflow id itself.
        (self.true_user(uid).unwrap_or(uid), self.true_group(gid).unwrap_or(gid))
    }

    /// The value of an extended attribute, as the kernel is told it: access lists name users.
    pub(super) fn shown_value(&self, name: &[u8], value: Box<[u8]>) -> Box<[u8]> {
        let list = if acl::is_acl(name) { Acl::parse(&value) } else { None };
        let Some(list) = list else { return value };
        let (root, group) = self.view.owner.unwrap_or_default();
        let user = |id| if id == 0 { root } else { self.owners.shown_user(id) };
        let group = |id| if id == 0 { group } else { self.owners.shown_group(id) };
        list.with_ids(user, group).to_value().into()
    }

    /// The true value of an extended attribute that the kernel sent. `None` for an access list with
    /// an ambiguous id, or with the host's root in a mount whose owner represents root.
    pub(super) fn true_value<'a>(&self, name: &[u8], value: &'a [u8]) -> Option<Cow<'a, [u8]>> {
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
        let list = list.with_ids(|id| known(self.true_user(id)), |id| known(self.true_group(id)));
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

/// What the kernel sent as a time. fuser 0.18 takes the nanoseconds of a time before 1970 off
/// instead of adding them; this is its exact inverse, so the kernel's own values come out.
pub(super) fn sent_time(time: TimeOrNow) -> Time {
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

/// The type of an object, in FUSE's terms.
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
    fn access_lists_name_whom_the_mount_shows() {
        let view = |max_id, owner| OwnedView::new(View { max_id, owner, unprivileged: true });
        let own = view(u32::MAX, Some((1002, 1002)));
        let kept = |view: &OwnedView, sent: u32| {
            view.true_value(acl::ACCESS, &naming(sent)).map(Cow::into_owned)
        };
        assert_eq!(kept(&own, 1002), Some(naming(0)), "the owner stands for root");
        assert_eq!(kept(&own, 7), Some(naming(7)));
        assert_eq!(kept(&own, 0), None, "two would be root");
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
