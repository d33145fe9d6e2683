//! Aliases: ids of a mount's user namespace for owners that the namespace does not map.
//!
//! The kernel shows such an owner as 65534, and a program that copies the owner (`cp -a`, `sed -i`,
//! `tar -xp`, dpkg with a configuration file) changes it to 65534. So each of these owners gets an
//! id that the namespace maps and that the image does not use. The tree and the archives keep the
//! real owner.
//!
//! Invariants:
//! - At any time real ids and shown ids correspond one to one, so an alias in a request always
//!   means the owner that it was assigned to.
//! - An id keeps its meaning: an id that was shown for its real owner never becomes an alias.
//! - When there are no more aliases, further owners are shown as 65534, and requests with 65534
//!   fail.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use fs_model::{Attr, FileType, Ino, Tree};
use parking_lot::Mutex;

use crate::sandbox::LENT_DEVICES;

/// The kernel's overflow id, which it shows for owners that a namespace does not map.
pub(crate) const OVERFLOW_ID: u32 = 65534;
/// A range that systemd leaves unassigned, between the users of containers and the dynamic users
/// (<https://systemd.io/UIDS-GIDS>).
const UNASSIGNED: Range<u32> = 60_578..61_184;

/// The aliases of one mount.
#[derive(Debug)]
pub struct OwnerAliases {
    max: u32,
    /// The ids that can become aliases.
    reserve: Range<u32>,
    users: Mutex<AliasTable>,
    groups: Mutex<AliasTable>,
    /// The first alias was assigned, and the path is not recorded yet.
    is_new: AtomicBool,
    path: Mutex<Option<Vec<u8>>>,
}

#[derive(Debug, Default)]
struct AliasTable {
    shown: HashMap<u32, u32>,
    real: HashMap<u32, u32>,
    /// Ids of the reserve that are real owners.
    used: HashSet<u32>,
    /// An owner was shown as [`OVERFLOW_ID`].
    overflowed: bool,
    first: Option<(u32, u32)>,
    highest: u32,
}

/// A summary of the owners that a mount showed as aliases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignOwners {
    /// The first file with such an owner, from the root without a leading slash.
    pub path: Option<Vec<u8>>,
    /// The first such user, and its alias.
    pub user: Option<(u32, u32)>,
    /// The first such group, and its alias.
    pub group: Option<(u32, u32)>,
    /// The largest id that the namespace maps.
    pub max: u32,
    /// The largest such user and group.
    pub highest: (u32, u32),
    /// Whether there were more owners than aliases.
    pub overflowed: bool,
}

impl OwnerAliases {
    /// Creates the aliases of a mount whose namespace maps the ids from 0 to `max`.
    pub(super) fn new(max: u32) -> Self {
        let reserve = match max {
            _ if max >= UNASSIGNED.end => UNASSIGNED,
            // `useradd` assigns ids from 1000 upwards, and system users are below.
            2000.. => max - max / 8..max,
            _ => max / 2..max / 2 + max / 8,
        };
        OwnerAliases {
            max,
            reserve,
            users: Mutex::default(),
            groups: Mutex::default(),
            is_new: AtomicBool::new(false),
            path: Mutex::new(None),
        }
    }

    /// Returns the id that the mount shows for the real user `id`.
    pub(super) fn shown_user(&self, id: u32) -> u32 {
        self.shown(&self.users, id)
    }

    /// Returns the id that the mount shows for the real group `id`.
    pub(super) fn shown_group(&self, id: u32) -> u32 {
        self.shown(&self.groups, id)
    }

    /// Returns the real user that `id` means inside; `None` when it is ambiguous.
    pub fn real_user(&self, id: u32) -> Option<u32> {
        self.real(&self.users, id)
    }

    /// Returns the real group that `id` means inside; `None` when it is ambiguous.
    pub fn real_group(&self, id: u32) -> Option<u32> {
        self.real(&self.groups, id)
    }

    fn shown(&self, table: &Mutex<AliasTable>, id: u32) -> u32 {
        if id <= self.max && !self.reserve.contains(&id) {
            return id;
        }
        let mut table = table.lock();
        if let Some(&shown) = table.shown.get(&id) {
            return shown;
        }
        if id <= self.max && !table.real.contains_key(&id) {
            table.used.insert(id);
            return id;
        }
        let free = |id: &u32| !table.real.contains_key(id) && !table.used.contains(id);
        // Programs may write an alias into files, so an owner gets the same one in each run, unless
        // it is in use.
        let first = self.reserve.start + id % self.reserve.len().max(1) as u32;
        let alias = (first..self.reserve.end).chain(self.reserve.start..first).find(free);
        let shown = alias.unwrap_or(OVERFLOW_ID.min(self.max));
        match alias {
            Some(alias) => {
                table.real.insert(alias, id);
                table.shown.insert(id, alias);
            }
            None => table.overflowed = true,
        }
        if table.first.is_none() {
            table.first = Some((id, shown));
            self.is_new.store(true, Ordering::Relaxed);
        }
        table.highest = table.highest.max(id);
        shown
    }

    fn real(&self, table: &Mutex<AliasTable>, id: u32) -> Option<u32> {
        let overflow = id == OVERFLOW_ID.min(self.max);
        if !overflow && !self.reserve.contains(&id) {
            return Some(id);
        }
        let mut table = table.lock();
        if let Some(&real) = table.real.get(&id) {
            return Some(real);
        }
        if self.reserve.contains(&id) {
            table.used.insert(id);
        }
        (!overflow || !table.overflowed).then_some(id)
    }

    /// Records the path of `ino` if the first alias was just shown for it or for one of its
    /// entries. Must not be called while the tree is locked.
    pub(super) fn note_path(&self, tree: &Tree, ino: Ino) {
        if self.is_new.load(Ordering::Relaxed) && self.is_new.swap(false, Ordering::Relaxed) {
            let path = tree.path_of(ino);
            let mut noted = self.path.lock();
            if noted.is_none() {
                *noted = path;
            }
        }
    }

    /// Returns the summary; `None` when no owner was shown as an alias.
    pub fn foreign(&self) -> Option<ForeignOwners> {
        let (users, groups) = (self.users.lock(), self.groups.lock());
        if users.first.is_none() && groups.first.is_none() {
            return None;
        }
        Some(ForeignOwners {
            path: self.path.lock().clone(),
            user: users.first,
            group: groups.first,
            max: self.max,
            highest: (users.highest, groups.highest),
            overflowed: users.overflowed || groups.overflowed,
        })
    }
}

/// Returns the owner to set on an object. The devices in the sandbox's `/dev` are the host's, and
/// without root their owner and group are shown as the overflow id: a copy gets root as owner, as
/// with root.
pub(crate) fn owner_of_copied_device(
    tree: &Tree,
    ino: Ino,
    uid: Option<u32>,
    gid: Option<u32>,
) -> (Option<u32>, Option<u32>) {
    let is_overflow = |id: Option<u32>| id == Some(OVERFLOW_ID);
    let is_lent = |attr: &Attr| {
        let number = (attr.rdev.major, attr.rdev.minor);
        attr.kind == FileType::CharDevice && LENT_DEVICES.iter().any(|(_, lent)| *lent == number)
    };
    let is_copy =
        is_overflow(uid) && is_overflow(gid) && tree.attr(ino).is_ok_and(|attr| is_lent(&attr));
    if is_copy { (Some(0), Some(0)) } else { (uid, gid) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alias_in_a_request_means_its_owner() {
        for max in [u32::MAX, 200_000, 65_536, 5_000, 1_000, 100] {
            let owners = OwnerAliases::new(max);
            // Owners that are mapped, some of them in the reserve, mixed with some that are not.
            let ids = [0, 7, 999, 60_578, 200_001, 60_579, 300_000, 4_000_000_000, 1_000, 65_534];
            for id in ids.into_iter().chain(owners.reserve.clone().step_by(3)) {
                let shown = owners.shown_user(id);
                assert!(shown <= max, "{id} of {max} is shown as {shown}");
                assert_eq!(owners.real_user(shown), Some(id), "{id} of {max}, shown as {shown}");
                assert_eq!(owners.shown_user(id), shown);
            }
            let all: HashSet<u32> = ids.map(|id| owners.shown_user(id)).into();
            assert_eq!(all.len(), ids.len(), "ids are distinct");
        }
    }

    #[test]
    fn owner_in_the_reserve_keeps_its_id_unless_it_is_an_alias() {
        let owners = OwnerAliases::new(65_536);
        assert_eq!(owners.shown_user(60_578), 60_578);
        assert_eq!(owners.shown_user(99_990), 60_579, "the first alias is in use");
        assert_eq!(owners.shown_user(60_579), 61_163, "this id is an alias");
        assert_eq!(owners.real_user(60_579), Some(99_990));
        assert_eq!(owners.shown_group(99_990), 60_578, "groups are separate from users");
        // A program that sets an id of the reserve as owner means that id.
        assert_eq!(owners.real_user(60_581), Some(60_581));
        assert_eq!(owners.shown_user(99_990 + 3), 60_582);
    }

    #[test]
    fn requests_that_name_65534_fail_when_aliases_run_out() {
        let owners = OwnerAliases::new(65_536);
        let count = UNASSIGNED.len() as u32;
        for id in 100_000..100_000 + count {
            assert_ne!(owners.shown_user(id), OVERFLOW_ID);
        }
        assert_eq!(owners.real_user(OVERFLOW_ID), Some(OVERFLOW_ID));
        assert_eq!(owners.shown_user(300_000), OVERFLOW_ID);
        assert_eq!(owners.real_user(OVERFLOW_ID), None, "ambiguous");
        assert_eq!(owners.real_group(OVERFLOW_ID), Some(OVERFLOW_ID));
        let foreign = owners.foreign().unwrap();
        assert!(foreign.overflowed);
        assert_eq!((foreign.user, foreign.group), (Some((100_000, 60_588)), None));
        assert_eq!(foreign.highest, (300_000, 0));
    }

    #[test]
    fn no_summary_when_all_owners_are_mapped() {
        let owners = OwnerAliases::new(65_536);
        owners.shown_user(60_600);
        owners.shown_group(65_536);
        assert_eq!(owners.foreign(), None);
    }
}
