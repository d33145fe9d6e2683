//! Listings of a directory in parts, while entries are created and removed.

use std::collections::BTreeSet;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, RawDir, SeekFrom};
use rustix::io::Errno;

use crate::support::listing::escape;

/// A listing in progress. By POSIX, a name that exists all the time is returned once, and no name
/// is returned twice unless it was removed in between.
pub(super) struct Reader {
    dir: OwnedFd,
    /// Returned names, the offsets after them, and whether each name has existed ever since.
    given: Vec<(Vec<u8>, u64, bool)>,
    /// Names that have existed since the listing began.
    always: BTreeSet<Vec<u8>>,
}

impl Reader {
    pub(super) fn new(dir: OwnedFd) -> Reader {
        let always = names(&dir);
        Reader { dir, given: Vec::new(), always }
    }

    /// Updates the existing names; must be called after each change.
    pub(super) fn notice(&mut self) {
        let now = names(&self.dir);
        self.always.retain(|name| now.contains(name));
        for (name, _, stayed) in &mut self.given {
            *stayed &= now.contains(name);
        }
    }

    /// Reads the entries that fit into `len` bytes, and rewinds at the end. Returns a description
    /// of a violation.
    pub(super) fn read(&mut self, len: usize) -> Result<Option<String>, Errno> {
        let mut buffer = vec![MaybeUninit::uninit(); len];
        let mut entries = RawDir::new(&self.dir, &mut buffer);
        let mut wrong = None;
        let mut any = false;
        while let Some(entry) = entries.next() {
            let entry = entry?;
            any = true;
            let name = entry.file_name().to_bytes().to_vec();
            if self.given.iter().any(|(given, _, stayed)| *stayed && *given == name) {
                wrong = Some(format!("{} is returned twice", escape(&name)));
            }
            self.given.push((name, entry.next_entry_cookie(), true));
            if entries.is_buffer_empty() {
                break;
            }
        }
        if !any {
            let missing = self.always.iter().find(|n| !self.given.iter().any(|(g, ..)| g == *n));
            wrong = wrong.or(missing.map(|name| format!("{} is not returned", escape(name))));
            rustix::fs::seek(&self.dir, SeekFrom::Start(0))?;
            self.given.clear();
            self.always = names(&self.dir);
        }
        Ok(wrong)
    }

    /// Seeks to the position after a returned entry, or to the beginning.
    pub(super) fn seek(&mut self, to: usize) -> Result<(), Errno> {
        let keep = to % (self.given.len() + 1);
        let place = if keep == 0 { 0 } else { self.given[keep - 1].1 };
        self.given.truncate(keep);
        rustix::fs::seek(&self.dir, SeekFrom::Start(place)).map(drop)
    }
}

/// Returns the current names; empty if the directory was removed.
fn names(dir: &OwnedFd) -> BTreeSet<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(again) = rustix::fs::openat(dir, ".", flags, Mode::empty()) else {
        return BTreeSet::new();
    };
    let Ok(entries) = rustix::fs::Dir::new(again) else { return BTreeSet::new() };
    entries.filter_map(|entry| Some(entry.ok()?.file_name().to_bytes().to_vec())).collect()
}
