//! A directory that is listed in parts while names come and go in it.

use std::collections::BTreeSet;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, RawDir, SeekFrom};
use rustix::io::Errno;

use crate::support::listing::escape;

/// What POSIX says of it: a name that is there all the time is given once, and no name is given
/// twice unless it was gone in between.
pub(super) struct Reader {
    dir: OwnedFd,
    /// What was given, where that was, and whether the name has been there ever since.
    given: Vec<(Vec<u8>, u64, bool)>,
    /// The names that were there all the time.
    always: BTreeSet<Vec<u8>>,
}

impl Reader {
    pub(super) fn new(dir: OwnedFd) -> Reader {
        let always = names(&dir);
        Reader { dir, given: Vec::new(), always }
    }

    /// To be called after anything was done.
    pub(super) fn notice(&mut self) {
        let now = names(&self.dir);
        self.always.retain(|name| now.contains(name));
        for (name, _, stayed) in &mut self.given {
            *stayed &= now.contains(name);
        }
    }

    /// Takes as many entries as fit into `len` bytes. What was wrong with them, if anything; at
    /// the end it starts anew.
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
                wrong = Some(format!("{} is given twice", escape(&name)));
            }
            self.given.push((name, entry.next_entry_cookie(), true));
            if entries.is_buffer_empty() {
                break;
            }
        }
        if !any {
            let missing = self.always.iter().find(|n| !self.given.iter().any(|(g, ..)| g == *n));
            wrong = wrong.or(missing.map(|name| format!("{} is not given", escape(name))));
            rustix::fs::seek(&self.dir, SeekFrom::Start(0))?;
            self.given.clear();
            self.always = names(&self.dir);
        }
        Ok(wrong)
    }

    /// Goes back to behind one of the entries that were given, or to the beginning.
    pub(super) fn seek(&mut self, to: usize) -> Result<(), Errno> {
        let keep = to % (self.given.len() + 1);
        let place = if keep == 0 { 0 } else { self.given[keep - 1].1 };
        self.given.truncate(keep);
        rustix::fs::seek(&self.dir, SeekFrom::Start(place)).map(drop)
    }
}

/// What is in it now; nothing, when it was removed.
fn names(dir: &OwnedFd) -> BTreeSet<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(again) = rustix::fs::openat(dir, ".", flags, Mode::empty()) else {
        return BTreeSet::new();
    };
    let Ok(entries) = rustix::fs::Dir::new(again) else { return BTreeSet::new() };
    entries.filter_map(|entry| Some(entry.ok()?.file_name().to_bytes().to_vec())).collect()
}
