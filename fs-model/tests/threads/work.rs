//! What each thread does, step by step.

use std::sync::atomic::Ordering;

use fs_model::tree::{Entry, NewNode, RenameMode, SetAttr, XattrFlags};
use fs_model::{FileType, FsError, Ino};

use crate::check;
use crate::world::{
    BLOCK, BLOCKS, DIR, FILE, FILES, LINKS, MADE, PLACES, RECORD, STAYING, World, generation, link,
    made, place, words,
};

/// One thread's work.
pub(crate) struct Worker<'a> {
    world: &'a World,
    thread: u64,
    random: u64,
    /// Counts what it writes: no two threads write the same number.
    written: u64,
}

impl<'a> Worker<'a> {
    pub(crate) fn new(world: &'a World, thread: u64, round: u64) -> Self {
        let random = (thread + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (round + 1) << 20;
        Worker { world, thread, random, written: (round * 64 + thread) << 40 }
    }

    /// A number below `below` (xorshift: the same in each run).
    fn pick(&mut self, below: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) as usize % below
    }

    fn next_generation(&mut self) -> u64 {
        self.written += 1;
        self.written
    }

    pub(crate) fn work(mut self, steps: u64) {
        for step in 0..steps {
            // Frozen trees are rare, and so is looking at everything.
            if step % 250 == self.thread * 30 {
                check::frozen(self.world);
            }
            match self.pick(16) {
                0 | 1 => self.write_block(),
                2 | 3 => self.read_block(),
                4 => self.append(),
                5 => self.read_log(),
                6..=8 => self.rename(),
                9 => self.make(),
                10 => self.remove(),
                11 => self.link(),
                12 => self.list(),
                13 => self.look(),
                14 => self.change_attributes(),
                _ => self.replace(),
            }
            self.world.step();
        }
    }

    fn write_block(&mut self) {
        let (file, block) = (self.pick(FILES), self.pick(BLOCKS));
        let (ino, offset) = (self.world.blocks[file], (block * BLOCK) as u64);
        if self.world.is_limited() {
            // What has no room may be written in part.
            let punched = self.world.tree.zero(ino, offset..offset + BLOCK as u64, false);
            self.world.may(punched, |_| false);
            return;
        }
        let generation = self.next_generation();
        let written = self.world.tree.write(ino, offset, &words(generation, BLOCK / 8)).unwrap();
        assert_eq!(written, BLOCK);
        let last = &self.world.written[file][block][self.thread as usize];
        last.store(generation, Ordering::Relaxed);
    }

    fn read_block(&mut self) {
        let (file, block) = (self.pick(FILES), self.pick(BLOCKS));
        let mut bytes = vec![0xee; BLOCK];
        let offset = (block * BLOCK) as u64;
        let len = self.world.tree.read(self.world.blocks[file], offset, &mut bytes).unwrap();
        if len > 0 {
            generation(&bytes[..len], "a block");
        }
    }

    fn append(&mut self) {
        let log = self.pick(FILES);
        let count = &self.world.appended[log][self.thread as usize];
        let record = record(self.thread, count.load(Ordering::Relaxed));
        let appended = self.world.tree.append(self.world.logs[log], &record);
        // Room for a part of a record is none: chunks grow by more than a record at a time.
        if let Some(appended) = self.world.may(appended, |_| false) {
            assert_eq!(appended, RECORD);
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn read_log(&mut self) {
        let log = self.world.logs[self.pick(FILES)];
        let size = self.world.tree.attr(log).unwrap().size;
        assert_eq!(size % RECORD as u64, 0, "a part of a record");
        let from = size.saturating_sub(64 * RECORD as u64);
        let mut bytes = vec![0xee; 128 * RECORD];
        let len = self.world.tree.read(log, from, &mut bytes).unwrap();
        assert!(len as u64 >= size - from && len.is_multiple_of(RECORD), "what was there is gone");
        for bytes in bytes[..len].as_chunks::<RECORD>().0 {
            parse(bytes);
        }
    }

    /// A directory in which objects are moved around: one of the two, or one that is moved itself.
    fn somewhere(&mut self) -> Ino {
        let world = self.world;
        match self.pick(4) {
            0 => world.token_dirs[self.pick(world.token_dirs.len())],
            _ => world.dirs[self.pick(world.dirs.len())],
        }
    }

    fn rename(&mut self) {
        let (from, to) = (self.somewhere(), self.somewhere());
        let (name, new_name) = (place(self.pick(PLACES)), place(self.pick(PLACES)));
        let mode = [RenameMode::NoReplace, RenameMode::Exchange][self.pick(2)];
        let renamed = self.world.tree.rename(from, &name, to, &new_name, mode);
        // There is nothing at the name, something in the way, or it would contain itself.
        self.world
            .may(renamed, |e| matches!(e, FsError::NotFound | FsError::Exists | FsError::Invalid));
    }

    fn make(&mut self) {
        let (dir, name) = (self.pick(2), made(self.pick(MADE)));
        let node = [FILE, DIR, NewNode::symlink(b"to", 1, 1)][self.pick(3)];
        let made = self.world.tree.make(self.world.dirs[dir], &name, &node);
        let Some(entry) = self.world.may(made, |e| matches!(e, FsError::Exists)) else { return };
        self.world.count(dir, &name, 1);
        match entry.attr.kind {
            // It may have been removed by now, but it is held.
            FileType::Directory => self.fill(&entry),
            FileType::Regular => {
                let written = self.world.tree.write(entry.ino, 0, &words(7, 8));
                self.world.may(written, |_| false);
            }
            _ => assert_eq!(self.world.tree.read_link(entry.ino).unwrap(), b"to"),
        }
        self.world.tree.forget(entry.ino, 1);
    }

    /// Something comes and goes in a directory that others may remove.
    fn fill(&mut self, dir: &Entry) {
        let made = self.world.tree.make(dir.ino, b"inside", &FILE);
        let Some(made) = self.world.may(made, |e| matches!(e, FsError::NotFound)) else { return };
        self.world.tree.unlink(dir.ino, b"inside").unwrap();
        assert_eq!(self.world.tree.attr(made.ino).unwrap().nlink, 0);
        self.world.tree.forget(made.ino, 1);
    }

    fn remove(&mut self) {
        let (dir, name) = (self.pick(2), made(self.pick(MADE)));
        let parent = self.world.dirs[dir];
        let removed = match self.pick(2) {
            0 => self.world.tree.unlink(parent, &name),
            _ => self.world.tree.rmdir(parent, &name),
        };
        // Removing is refused for all kinds of reasons, but never for want of room.
        match removed {
            Ok(()) => self.world.count(dir, &name, -1),
            Err(FsError::NotFound | FsError::IsADirectory | FsError::NotADirectory) => {}
            Err(FsError::NotEmpty) => {}
            Err(error) => panic!("{error}"),
        }
    }

    fn link(&mut self) {
        let (dir, name) = (self.pick(2), link(self.pick(LINKS)));
        let (tree, parent) = (&self.world.tree, self.world.dirs[dir]);
        if self.pick(2) == 0 {
            let ino = self.world.linked[self.pick(FILES)];
            let linked = tree.link(ino, parent, &name);
            if let Some(entry) = self.world.may(linked, |e| matches!(e, FsError::Exists)) {
                assert!(entry.ino == ino && entry.attr.nlink >= 2, "{entry:?}");
                self.world.count(dir, &name, 1);
                tree.forget(ino, 1);
            }
        } else {
            match tree.unlink(parent, &name) {
                Ok(()) => self.world.count(dir, &name, -1),
                Err(error) => assert!(matches!(error, FsError::NotFound), "{error}"),
            }
        }
    }

    /// What stays is in every listing once, whatever comes and goes around it.
    fn list(&mut self) {
        let (dir, step) = (self.world.dirs[self.pick(2)], 1 + self.pick(9));
        let plus = self.pick(2) == 0;
        let (mut offset, mut staying, mut held) = (0, 0, Vec::new());
        loop {
            let (from, mut taken) = (offset, 0);
            let mut take = |name: &[u8], next: u64| {
                if taken == step {
                    return false;
                }
                taken += 1;
                offset = next;
                staying += usize::from(name.starts_with(b"staying-"));
                true
            };
            let listed = if plus {
                self.world.tree.read_dir_plus(dir, from, |item, entry| {
                    let taken = take(item.name, item.next);
                    if taken && item.name != b"." && item.name != b".." {
                        held.push(entry.ino);
                    }
                    taken
                })
            } else {
                self.world.tree.read_dir(dir, from, |item| take(item.name, item.next))
            };
            listed.unwrap();
            if taken == 0 {
                break;
            }
        }
        held.iter().for_each(|ino| self.world.tree.forget(*ino, 1));
        assert_eq!(staying, STAYING, "names that nobody touched");
    }

    /// Looks things up and forgets them, so that what the layer has comes into memory and goes.
    fn look(&mut self) {
        let tree = &self.world.tree;
        if let Ok(far) = tree.lookup(Ino::ROOT, b"far") {
            let away = tree.lookup(far.ino, b"away").unwrap();
            tree.forget(far.ino, 1);
            let file = tree.lookup(away.ino, b"file").unwrap();
            tree.forget(away.ino, 1);
            let mut bytes = [0; 8];
            assert_eq!(tree.read(file.ino, 0, &mut bytes).unwrap(), 8);
            assert_eq!(&bytes, b"far away");
            tree.forget(file.ino, 1);
        }
        let (somewhere, name) = (self.somewhere(), place(self.pick(PLACES)));
        if let Ok(entry) = self.world.tree.lookup(somewhere, &name) {
            assert!(self.world.tokens.contains(&entry.ino), "{entry:?}");
            self.world.tree.forget(entry.ino, 1);
        }
    }

    /// Mode, owner and group, changed at once, are seen at once.
    fn change_attributes(&mut self) {
        let ino = self.world.changing[self.pick(FILES)];
        let tree = &self.world.tree;
        let value = self.pick(0o1000) as u16;
        if self.pick(2) == 0 {
            let owner = Some(u32::from(value));
            let set = SetAttr { mode: Some(value), uid: owner, gid: owner, ..SetAttr::default() };
            let set = tree.set_attr(ino, &set);
            self.world.may(set, |_| false);
        } else {
            let attr = tree.attr(ino).unwrap();
            // As it was in the beginning, 0600 of root, it may still be.
            if attr.mode != 0o600 && attr.mode != 0o644 {
                let mode = u32::from(attr.mode);
                assert_eq!((attr.uid, attr.gid), (mode, mode), "torn");
            }
        }
        let name = [b"user.a", b"user.b"][self.pick(2)];
        if self.pick(3) > 0 {
            let set = tree.set_xattr(ino, name, &words(value.into(), 4), XattrFlags::Any);
            self.world.may(set, |_| false);
        } else {
            match tree.remove_xattr(ino, name) {
                Ok(()) | Err(FsError::NoData) => {}
                Err(error) => panic!("{error}"),
            }
        }
        for (_, value) in tree.xattrs(ino).unwrap() {
            generation(&value, "an extended attribute");
        }
    }

    /// Replaces a file by a new one under the same name, at which there always is one.
    fn replace(&mut self) {
        let dir = self.pick(2);
        let (tree, parent) = (&self.world.tree, self.world.dirs[dir]);
        if self.pick(2) == 0 {
            let name = format!("new-{}", self.thread).into_bytes();
            let Some(new) = self.world.may(tree.make(parent, &name, &FILE), |_| false) else {
                return;
            };
            let content = words(self.next_generation(), 64);
            let to = self.world.dirs[self.pick(2)];
            let written = self.world.may(tree.write(new.ino, 0, &content), |_| false);
            let renamed = match written {
                Some(written) if written == content.len() => {
                    let renamed = tree.rename(parent, &name, to, b"current", RenameMode::Replace);
                    self.world.may(renamed, |_| false)
                }
                _ => None,
            };
            if renamed.is_none() {
                tree.unlink(parent, &name).unwrap();
            }
            tree.forget(new.ino, 1);
        } else {
            let current = tree.lookup(parent, b"current").expect("it is always there");
            // Replaced by now, perhaps, but held.
            let mut bytes = vec![0xee; 64 * 8];
            let len = tree.read(current.ino, 0, &mut bytes).unwrap();
            if len > 0 {
                generation(&bytes[..len], "a replaced file");
                assert_eq!(len, bytes.len());
            }
            tree.forget(current.ino, 1);
        }
    }
}

/// The record `number` of `thread`, with a check sum of a kind.
fn record(thread: u64, number: u64) -> [u8; RECORD] {
    let mut bytes = [0; RECORD];
    bytes[..8].copy_from_slice(&(thread << 48 | number).to_ne_bytes());
    bytes[8..].copy_from_slice(&(!(thread << 48 | number)).to_ne_bytes());
    bytes
}

/// Which thread's record this is, and which number.
#[track_caller]
pub(crate) fn parse(bytes: &[u8; RECORD]) -> (u64, u64) {
    let words = bytes.as_chunks::<8>().0;
    let (word, check) = (u64::from_ne_bytes(words[0]), u64::from_ne_bytes(words[1]));
    assert_eq!(word, !check, "a torn record");
    (word >> 48, word & ((1 << 48) - 1))
}
