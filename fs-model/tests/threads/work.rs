//! The work of each thread.

use std::sync::atomic::Ordering;

use fs_model::tree::{Entry, MknodArgs, RenameMode, SetAttr, XattrFlags};
use fs_model::{FileType, FsError, Ino};

use crate::check;
use crate::world::{
    BLOCK, BLOCKS, DIR, FILE, FILES, LINKS, MOVE_NAMES, RECORD, STAYING, TEMPORARY_NAMES, World,
    generation, link, made, place, words,
};

/// The state of a thread.
pub(crate) struct Worker<'a> {
    world: &'a World,
    thread: u64,
    random: u64,
    /// Counter of its writes: no two threads write the same number.
    written: u64,
}

impl<'a> Worker<'a> {
    pub(crate) fn new(world: &'a World, thread: u64, round: u64) -> Self {
        let random = (thread + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (round + 1) << 20;
        Worker { world, thread, random, written: (round * 64 + thread) << 40 }
    }

    /// Returns a number below `below` (xorshift: the same in each run).
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
            // Freezing the tree and comparing everything are rare.
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
            // Without enough space, a part may be written.
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
        // A record is written completely or not at all, because chunks grow by more than a record.
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
        assert!(
            len as u64 >= size - from && len.is_multiple_of(RECORD),
            "appended records are missing"
        );
        for bytes in bytes[..len].as_chunks::<RECORD>().0 {
            parse(bytes);
        }
    }

    /// Returns a directory in which objects are moved: one of the two, or a moved one.
    fn somewhere(&mut self) -> Ino {
        let world = self.world;
        match self.pick(4) {
            0 => world.token_dirs[self.pick(world.token_dirs.len())],
            _ => world.dirs[self.pick(world.dirs.len())],
        }
    }

    fn rename(&mut self) {
        let (from, to) = (self.somewhere(), self.somewhere());
        let (name, new_name) = (place(self.pick(MOVE_NAMES)), place(self.pick(MOVE_NAMES)));
        let mode = [RenameMode::NoReplace, RenameMode::Exchange][self.pick(2)];
        let renamed = self.world.tree.rename(from, &name, to, &new_name, mode);
        // The name may not exist, the target may be in the way, or the directory would contain
        // itself.
        self.world
            .may(renamed, |e| matches!(e, FsError::NotFound | FsError::Exists | FsError::Invalid));
    }

    fn make(&mut self) {
        let (dir, name) = (self.pick(2), made(self.pick(TEMPORARY_NAMES)));
        let node = [FILE, DIR, MknodArgs::symlink(b"to", 1, 1)][self.pick(3)];
        let made = self.world.tree.mknod(self.world.dirs[dir], &name, &node);
        let Some(entry) = self.world.may(made, |e| matches!(e, FsError::Exists)) else { return };
        self.world.count(dir, &name, 1);
        match entry.attr.kind {
            // It may be removed by now, but is still referenced.
            FileType::Directory => self.fill(&entry),
            FileType::Regular => {
                let written = self.world.tree.write(entry.ino, 0, &words(7, 8));
                self.world.may(written, |_| false);
            }
            _ => assert_eq!(self.world.tree.read_link(entry.ino).unwrap(), b"to"),
        }
        self.world.tree.forget(entry.ino, 1);
    }

    /// Creates and removes entries in a directory that other threads may remove.
    fn fill(&mut self, dir: &Entry) {
        let made = self.world.tree.mknod(dir.ino, b"inside", &FILE);
        let Some(made) = self.world.may(made, |e| matches!(e, FsError::NotFound)) else { return };
        self.world.tree.unlink(dir.ino, b"inside").unwrap();
        assert_eq!(self.world.tree.attr(made.ino).unwrap().nlink, 0);
        self.world.tree.forget(made.ino, 1);
    }

    fn remove(&mut self) {
        let (dir, name) = (self.pick(2), made(self.pick(TEMPORARY_NAMES)));
        let parent = self.world.dirs[dir];
        let removed = match self.pick(2) {
            0 => self.world.tree.unlink(parent, &name),
            _ => self.world.tree.rmdir(parent, &name),
        };
        // Removals fail for several reasons, but never for lack of space.
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

    /// Checks that names that stay are listed exactly once while others come and go.
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
        assert_eq!(staying, STAYING, "names that no thread changes");
    }

    /// Looks up and forgets objects, so that directories of the layer are loaded and dropped.
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
        let (somewhere, name) = (self.somewhere(), place(self.pick(MOVE_NAMES)));
        if let Ok(entry) = self.world.tree.lookup(somewhere, &name) {
            assert!(self.world.tokens.contains(&entry.ino), "{entry:?}");
            self.world.tree.forget(entry.ino, 1);
        }
    }

    /// Checks that mode, owner and group, which are changed together, are seen together.
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
            // It may still have its initial attributes, 0600 of root.
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

    /// Replaces a file by a new one under the same name, which always exists.
    fn replace(&mut self) {
        let dir = self.pick(2);
        let (tree, parent) = (&self.world.tree, self.world.dirs[dir]);
        if self.pick(2) == 0 {
            let name = format!("new-{}", self.thread).into_bytes();
            let Some(new) = self.world.may(tree.mknod(parent, &name, &FILE), |_| false) else {
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
            let current = tree.lookup(parent, b"current").expect("the name always exists");
            // It may be replaced by now, but is still referenced.
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

/// Returns the record `number` of `thread`, with a checksum.
fn record(thread: u64, number: u64) -> [u8; RECORD] {
    let mut bytes = [0; RECORD];
    bytes[..8].copy_from_slice(&(thread << 48 | number).to_ne_bytes());
    bytes[8..].copy_from_slice(&(!(thread << 48 | number)).to_ne_bytes());
    bytes
}

/// Returns the thread and the number of a record.
#[track_caller]
pub(crate) fn parse(bytes: &[u8; RECORD]) -> (u64, u64) {
    let words = bytes.as_chunks::<8>().0;
    let (word, check) = (u64::from_ne_bytes(words[0]), u64::from_ne_bytes(words[1]));
    assert_eq!(word, !check, "a torn record");
    (word >> 48, word & ((1 << 48) - 1))
}
