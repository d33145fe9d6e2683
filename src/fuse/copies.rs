//! Copies of the host's files, by the calls that make them.
//!
//! In a user namespace files of the host that its ids do not cover are shown as owned by 65534
//! (nobody). A program that copies a file with its attributes sets owner and times. A program or
//! package script that gives a file to nobody sets the owner alone, and times of a package's file
//! are set by another process than the one that changes its owner.

use std::collections::{HashMap, HashSet, VecDeque};

use fs_model::{Ino, Time};
use parking_lot::Mutex;

use super::owners::OVERFLOW_ID;

/// The number of objects whose times were set last that are remembered. A program sets the owner of
/// an object directly before or after its times, but several programs may do so at the same time.
const MAX_TIMED: usize = 64;

/// The objects that may be copies of files of the host.
#[derive(Debug)]
pub(crate) struct CopiedFiles {
    /// Files made later are not files of the host.
    since: Time,
    calls: Mutex<Calls>,
}

#[derive(Debug, Default)]
struct Calls {
    /// The last objects whose times a process set.
    timed: VecDeque<(u32, Ino)>,
    /// The objects that a process gave to the overflow id.
    owned: HashMap<Ino, u32>,
    copies: HashSet<Ino>,
}

impl CopiedFiles {
    pub(super) fn new() -> Self {
        CopiedFiles { since: Time::now(), calls: Mutex::default() }
    }

    /// Records that a process set the times of an object.
    pub(super) fn note_times(&self, pid: u32, object: Ino) {
        let mut calls = self.calls.lock();
        if calls.owned.get(&object) == Some(&pid) {
            calls.copies.insert(object);
        }
        calls.timed.push_back((pid, object));
        if calls.timed.len() > MAX_TIMED {
            calls.timed.pop_front();
        }
    }

    /// Records that a process changed the owner of an object.
    pub(crate) fn note_owner(&self, pid: u32, object: Ino, uid: Option<u32>, gid: Option<u32>) {
        let mut calls = self.calls.lock();
        if ![uid, gid].contains(&Some(OVERFLOW_ID)) {
            if uid.is_some() && calls.owned.remove(&object).is_some() {
                calls.copies.remove(&object);
            }
            return;
        }
        calls.owned.insert(object, pid);
        match calls.timed.contains(&(pid, object)) {
            true => calls.copies.insert(object),
            false => calls.copies.remove(&object),
        };
    }

    /// Returns whether an object with this modification time is a copy.
    pub(crate) fn contains(&self, object: Ino, mtime: Time) -> bool {
        mtime < self.since && self.calls.lock().copies.contains(&object)
    }
}
