//! Computing the [`Delta`] of a tree.
//!
//! The walk starts at the root and compares each directory with the layers' directory at the same
//! path. It prunes where both are the same directory and it is not dirty. If a directory of the
//! layers was moved, everything in it is new at its new path.
//!
//! The delta has all names of an object or none. If the walk missed names of an object in the
//! delta, or objects that were copied up, it is repeated without pruning. This lists every
//! directory, and happens only with hard links.

use std::cmp::Ordering;
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

use super::dir::{Covered, EntryTarget, NamedSlot, Slot};
use super::inode::UpperData;
use super::{Ino, ROOT_MODE, Tree, TreeState, XattrSupport, lower_inode};
use crate::attr::{Attr, FileType};
use crate::delta::{Change, Delta, DeltaEntry, HiddenXattrs, Object};
use crate::error::{FsError, LayerError};
use crate::layer::Xattr;
use crate::stack::{LowerDirEntry, LowerDirs, LowerEntry, LowerInode};

/// Maximum length of a path in bytes, including the terminating zero: the limit of archive readers.
const PATH_MAX: usize = 4096;
/// Buffer size for comparing contents, in bytes.
const COMPARE_BUFFER: usize = 128 << 10;

impl Tree {
    /// Returns the difference between the tree and its layers. The tree can change before the
    /// objects in the delta are read; [`Tree::freeze`] it to prevent this.
    ///
    /// # Errors
    /// [`FsError::Layer`], or [`FsError::PathTooLong`] for a path of 4096 bytes or more.
    pub fn delta(&self) -> Result<Delta, FsError> {
        let mut state = self.state.lock();
        let mut walk = DeltaWalk::new(self, &mut state, None);
        walk.run()?;
        let mut entries = std::mem::take(&mut walk.out);
        let mut names = std::mem::take(&mut walk.names);
        let mut hidden = std::mem::take(&mut walk.hidden);
        if walk.missed_names(&entries, &names) {
            let listed = entries.iter().filter_map(|e| e.object).map(|o| o.ino).collect();
            let mut walk = DeltaWalk::new(self, &mut state, Some(listed));
            walk.run()?;
            (entries, names, hidden) = (walk.out, walk.names, walk.hidden);
        }
        for object in entries.iter_mut().filter_map(|e| e.object.as_mut()) {
            if object.attr.kind != FileType::Directory {
                object.attr.nlink = names.get(&object.ino).copied().unwrap_or(1);
            }
        }
        Ok(Delta { entries, hidden })
    }
}

/// Reads the content of a file from an offset.
type ReadAt<'a> = &'a mut dyn FnMut(u64, &mut [u8]) -> Result<usize, FsError>;

/// A directory of the tree: in memory, or untouched and only in the layers.
#[derive(Clone)]
enum CurrentDir {
    Cached(Ino),
    Lower(LowerDirs),
}

/// A name with its object in the tree and in the layers.
struct NamePair {
    name: Box<[u8]>,
    now: Option<EntryTarget>,
    was: Option<EntryTarget>,
}

struct Frame {
    pairs: std::vec::IntoIter<NamePair>,
    now: CurrentDir,
    was: Option<LowerDirs>,
    /// Index of the directory's own entry.
    entry: usize,
    path_len: usize,
}

struct DeltaWalk<'a> {
    tree: &'a Tree,
    state: &'a mut TreeState,
    /// Set in a walk without pruning: the objects whose names are all needed.
    listed: Option<HashSet<Ino>>,
    out: Vec<DeltaEntry>,
    hidden: Vec<HiddenXattrs>,
    /// Number of names in `out` of each object other than a directory.
    names: HashMap<Ino, u32>,
    /// Objects of the upper that the walk visited.
    visited: HashSet<Ino>,
    path: Vec<u8>,
}

impl<'a> DeltaWalk<'a> {
    fn new(tree: &'a Tree, state: &'a mut TreeState, listed: Option<HashSet<Ino>>) -> Self {
        DeltaWalk {
            tree,
            state,
            listed,
            out: Vec::new(),
            hidden: Vec::new(),
            names: HashMap::new(),
            visited: HashSet::new(),
            path: Vec::new(),
        }
    }

    fn run(&mut self) -> Result<(), FsError> {
        let was = self.tree.stack.root()?;
        let was = (!was.is_empty()).then_some(was);
        let change = match &was {
            Some(sources) if !self.same_directory(Ino::ROOT, sources[0])? => Change::Modified,
            Some(_) => Change::Unchanged,
            // A tree without layers starts with a default root.
            None if self.is_fresh_root() => Change::Unchanged,
            None => Change::Modified,
        };
        let attr = self.state.attr(&self.tree.stack, Ino::ROOT)?;
        self.out.push(DeltaEntry {
            path: Box::default(),
            change,
            object: Some(Object { ino: Ino::ROOT, attr }),
        });
        let mut frames = vec![self.open(CurrentDir::Cached(Ino::ROOT), was, 0)?];
        while let Some(frame) = frames.last_mut() {
            match frame.pairs.next() {
                Some(pair) => {
                    self.path.truncate(frame.path_len);
                    if !self.path.is_empty() {
                        self.path.push(b'/');
                    }
                    self.path.extend_from_slice(&pair.name);
                    if self.path.len() >= PATH_MAX {
                        return Err(FsError::PathTooLong { path: self.path.as_slice().into() });
                    }
                    if let Some(below) = self.visit(frame, &pair)? {
                        if frames
                            .iter()
                            .any(|f| f.entry_ino(&self.out) == below.entry_ino(&self.out))
                        {
                            return Err(self.loop_error());
                        }
                        frames.push(below);
                    }
                }
                None => {
                    let entry = frame.entry;
                    frames.pop();
                    if self.is_removed_scratch_parent(entry) {
                        self.out.truncate(entry + 1);
                    }
                    if self.out.len() == entry + 1 {
                        self.remove_if_unchanged(entry)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Returns whether the entry is a directory that replaced a removed one to hold scratch
    /// entries, and contains nothing else. Then its own deletion covers everything.
    fn is_removed_scratch_parent(&self, entry: usize) -> bool {
        let DeltaEntry { change, object, .. } = &self.out[entry];
        matches!(change, Change::Modified | Change::Unchanged)
            && object.as_ref().is_some_and(|o| self.state.scratch_parents.contains(&o.ino))
            && self.out[entry + 1..].iter().all(|below| below.change == Change::Deleted)
    }

    /// Removes the last entry, a directory without differences below it, if it is itself unchanged
    /// or exists only for scratch entries.
    fn remove_if_unchanged(&mut self, entry: usize) -> Result<(), FsError> {
        let DeltaEntry { change, object, .. } = &mut self.out[entry];
        let for_scratch =
            object.as_ref().is_some_and(|o| self.state.scratch_parents.contains(&o.ino));
        match change {
            Change::Modified | Change::Unchanged if for_scratch => {
                (*change, *object) = (Change::Deleted, None);
            }
            Change::Unchanged => {
                if let Some(DeltaEntry { path, object: Some(object), .. }) = self.out.pop() {
                    self.record_hidden(&path, object.ino)?;
                }
            }
            Change::Added if for_scratch => drop(self.out.pop()),
            _ => {}
        }
        Ok(())
    }

    /// Records attributes of an object without an entry that were set but are not shown.
    fn record_hidden(&mut self, path: &[u8], ino: Ino) -> Result<(), FsError> {
        let shown = self.tree.options.xattrs;
        let Some(inode) = self.state.inodes.get(&ino) else { return Ok(()) };
        let body = inode.body.read();
        let Some(map) = &body.xattrs else { return Ok(()) };
        let before = match inode.origin {
            Some(origin) => self.tree.stack.xattrs(origin)?,
            None => Vec::new(),
        };
        let is_new =
            |name: &[u8], value: &[u8]| !before.iter().any(|(n, v)| **n == *name && **v == *value);
        let set = map.iter().filter(|(name, value)| !shown.has(name) && is_new(name, value));
        let names: Vec<_> = set.map(|(name, _)| name.clone()).collect();
        if !names.is_empty() {
            self.hidden.push(HiddenXattrs { path: path.into(), names });
        }
        Ok(())
    }

    fn is_fresh_root(&self) -> bool {
        self.state.inodes.get(&Ino::ROOT).is_none_or(|root| {
            let body = root.body.read();
            (body.mode, body.uid, body.gid) == (ROOT_MODE, 0, 0)
                && !body.mtime_counts
                && body.xattrs.as_ref().is_none_or(|map| map.is_empty())
        })
    }

    fn loop_error(&self) -> FsError {
        let image = self.tree.layers().first().map_or("", |l| l.name());
        let path = String::from_utf8_lossy(&self.path);
        LayerError::corrupt(&image.into(), format!("the directory {path} contains itself")).into()
    }

    /// Compares one name. Returns a frame if it is a directory to descend into.
    fn visit(&mut self, frame: &Frame, pair: &NamePair) -> Result<Option<Frame>, FsError> {
        let Some(now) = pair.now else {
            self.push(Change::Deleted, None);
            return Ok(None);
        };
        if now.kind == FileType::Directory {
            return self.visit_directory(frame, pair, now);
        }
        if self.state.inodes.contains_key(&now.ino) {
            self.visited.insert(now.ino);
        }
        let change = match pair.was {
            None => Change::Added,
            Some(was) if was.kind != now.kind => Change::Modified,
            Some(was) if self.same_object(now.ino, was.ino)? => Change::Unchanged,
            Some(_) => Change::Modified,
        };
        let wanted = self.listed.as_ref().is_some_and(|listed| listed.contains(&now.ino));
        if change != Change::Unchanged || wanted {
            let attr = self.state.attr(&self.tree.stack, now.ino)?;
            *self.names.entry(now.ino).or_insert(0) += 1;
            self.push(change, Some(Object { ino: now.ino, attr }));
        } else {
            let path = std::mem::take(&mut self.path);
            self.record_hidden(&path, now.ino)?;
            self.path = path;
        }
        Ok(None)
    }

    fn visit_directory(
        &mut self,
        frame: &Frame,
        pair: &NamePair,
        now: EntryTarget,
    ) -> Result<Option<Frame>, FsError> {
        let stack = &self.tree.stack;
        let was = match (pair.was, &frame.was) {
            (Some(was), Some(parent)) if was.kind == FileType::Directory => {
                match stack.lookup(parent, &pair.name)? {
                    Some(LowerEntry::Directory(sources)) => Some(sources),
                    _ => None,
                }
            }
            _ => None,
        };
        let known = self.state.dirs.get(&now.ino);
        let same_place = was.as_ref().is_some_and(|was| was[0].to_ino() == now.ino);
        if same_place && self.listed.is_none() && !known.is_some_and(|d| d.dirty) {
            return Ok(None);
        }
        let here = match known {
            Some(_) => CurrentDir::Cached(now.ino),
            None => {
                let parent = match &frame.now {
                    CurrentDir::Cached(dir) => &self.state.dir(stack, *dir)?.sources,
                    CurrentDir::Lower(sources) => sources,
                };
                match stack.lookup(parent, &pair.name)? {
                    Some(LowerEntry::Directory(sources)) => CurrentDir::Lower(sources),
                    _ => return Err(FsError::Stale),
                }
            }
        };
        let change = match (&was, pair.was) {
            (Some(was), _) if self.same_directory(now.ino, was[0])? => Change::Unchanged,
            (_, Some(_)) => Change::Modified,
            (_, None) => Change::Added,
        };
        let attr = self.attr(&here, now.ino)?;
        let entry = self.out.len();
        self.push(change, Some(Object { ino: now.ino, attr }));
        self.open(here, was, entry).map(Some)
    }

    fn attr(&mut self, dir: &CurrentDir, ino: Ino) -> Result<Attr, FsError> {
        match dir {
            CurrentDir::Cached(_) => self.state.attr(&self.tree.stack, ino),
            CurrentDir::Lower(sources) => {
                let attr = self.tree.stack.attr(sources[0])?;
                Ok(Attr { size: 4096, allocated: 0, ..attr })
            }
        }
    }

    fn push(&mut self, change: Change, object: Option<Object>) {
        self.out.push(DeltaEntry { path: self.path.as_slice().into(), change, object });
    }

    /// Pairs the names of a directory with those of the layers' directory at its path.
    fn open(
        &mut self,
        now: CurrentDir,
        was: Option<LowerDirs>,
        entry: usize,
    ) -> Result<Frame, FsError> {
        let stack = &self.tree.stack;
        let as_target =
            |l: &LowerDirEntry| (l.name.clone(), EntryTarget { ino: l.ino, kind: l.kind });
        let mut here: Vec<(Box<[u8]>, EntryTarget)> = match &now {
            CurrentDir::Cached(ino) => {
                let listing = self.state.listing(stack, *ino)?;
                let dir = self.state.dir(stack, *ino)?;
                let below = listing.iter().filter_map(|l| match dir.changes.get(&l.name) {
                    None => Some(as_target(l)),
                    Some(item) => delta_target(item, Some(l)).map(|t| (l.name.clone(), t)),
                });
                let own = dir.changes.iter().filter(|i| !i.in_layers);
                let own = own.filter_map(|i| delta_target(i, None).map(|t| (i.name.clone(), t)));
                below.chain(own).collect()
            }
            CurrentDir::Lower(sources) => stack.list(sources)?.iter().map(as_target).collect(),
        };
        here.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let there: Arc<[LowerDirEntry]> = match (&was, &now) {
            (None, _) => Arc::default(),
            (Some(was), CurrentDir::Cached(ino))
                if self.state.dir(stack, *ino)?.sources == *was =>
            {
                self.state.listing(stack, *ino)?
            }
            (Some(was), _) => stack.list(was)?.into(),
        };
        let mut pairs = Vec::with_capacity(here.len().max(there.len()));
        let mut here = here.into_iter().peekable();
        let mut there = there.iter().peekable();
        loop {
            let order = match (here.peek(), there.peek()) {
                (None, None) => break,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(h), Some(t)) => h.0.cmp(&t.name),
            };
            let now = if order.is_le() { here.next() } else { None };
            let was = if order.is_ge() { there.next() } else { None };
            let was_target = was.map(|l| EntryTarget { ino: l.ino, kind: l.kind });
            let (name, now) = match (now, was) {
                (Some((name, now)), _) => (name, Some(now)),
                (None, Some(was)) => (was.name.clone(), None),
                (None, None) => break,
            };
            if !self.is_certainly_unchanged(now, was_target) {
                pairs.push(NamePair { name, now, was: was_target });
            }
        }
        Ok(Frame { pairs: pairs.into_iter(), now, was, entry, path_len: self.path.len() })
    }

    /// Returns whether a name can be skipped without a comparison: it refers to the same object of
    /// the layers, which was neither copied up nor, if a directory, loaded into memory.
    fn is_certainly_unchanged(&self, now: Option<EntryTarget>, was: Option<EntryTarget>) -> bool {
        match (now, was) {
            (Some(now), Some(was)) => {
                self.listed.is_none()
                    && now == was
                    && !self.state.inodes.contains_key(&now.ino)
                    && !self.state.dirs.contains_key(&now.ino)
            }
            _ => false,
        }
    }

    /// Returns whether the directory `now` has the attributes of the layers' `was`. The
    /// modification time is compared only if it counts as a change.
    fn same_directory(&mut self, now: Ino, was: LowerInode) -> Result<bool, FsError> {
        let stack = &self.tree.stack;
        let Some(inode) = self.state.inodes.get(&now).cloned() else {
            return match LowerInode::from_ino(now) {
                Some(source) if source != was => {
                    let (a, b) = (stack.attr(source)?, stack.attr(was)?);
                    let same = same_owner(&a, &b) && a.mtime == b.mtime;
                    Ok(same && self.same_xattrs(now, was)?)
                }
                _ => Ok(true),
            };
        };
        let (attr, before) = (inode.attr(stack)?, stack.attr(was)?);
        let same_time = attr.mtime == before.mtime || !inode.body.read().mtime_counts;
        Ok(same_owner(&attr, &before) && same_time && self.same_xattrs(now, was)?)
    }

    /// Returns whether `now`, which is not a directory, equals the layers' `was`.
    fn same_object(&mut self, now: Ino, was: Ino) -> Result<bool, FsError> {
        let stack = &self.tree.stack;
        let was_source = lower_inode(stack, was)?;
        let Some(inode) = self.state.inodes.get(&now).cloned() else {
            if now == was {
                return Ok(true);
            }
            // An object of the layers that was moved over another one.
            let source = lower_inode(stack, now)?;
            let (a, b) = (stack.attr(source)?, stack.attr(was_source)?);
            return Ok(same_attributes(&a, &b)
                && a.nlink == 1
                && b.nlink == 1
                && self.same_content(source, was_source, &b)?
                && self.same_xattrs(now, was_source)?);
        };
        let (a, b) = (inode.attr(stack)?, stack.attr(was_source)?);
        if !same_attributes(&a, &b) || now != was && (a.nlink != 1 || b.nlink != 1) {
            return Ok(false);
        }
        let body = inode.body.read();
        let same = match &body.data {
            UpperData::None => true,
            UpperData::Symlink(target) => **target == *stack.read_link(was_source)?,
            UpperData::File(content) => {
                content.unchanged_base() == Some(was_source)
                    || self.same_bytes(b.size, was_source, &mut |offset, buf| {
                        content.read(stack, offset, buf)
                    })?
            }
        };
        drop(body);
        Ok(same && self.same_xattrs(now, was_source)?)
    }

    /// Returns whether two objects of the layers with equal attributes have equal content.
    fn same_content(&self, a: LowerInode, b: LowerInode, attr: &Attr) -> Result<bool, FsError> {
        let stack = &self.tree.stack;
        match attr.kind {
            FileType::Regular => {
                self.same_bytes(attr.size, b, &mut |offset, buf| Ok(stack.read_at(a, offset, buf)?))
            }
            FileType::Symlink => Ok(stack.read_link(a)? == stack.read_link(b)?),
            _ => Ok(true),
        }
    }

    fn same_bytes(&self, size: u64, was: LowerInode, read: ReadAt<'_>) -> Result<bool, FsError> {
        let len = COMPARE_BUFFER.min(usize::try_from(size).unwrap_or(COMPARE_BUFFER));
        let (mut a, mut b) = (vec![0; len], vec![0; len]);
        let mut offset = 0;
        while offset < size {
            let n = read(offset, &mut a)?;
            let m = self.tree.stack.read_at(was, offset, &mut b)?;
            if n == 0 || n != m || a[..n] != b[..n] {
                return Ok(false);
            }
            offset += n as u64;
        }
        Ok(true)
    }

    /// Returns whether the shown extended attributes of `now` equal those of the layers' `was`.
    fn same_xattrs(&self, now: Ino, was: LowerInode) -> Result<bool, FsError> {
        let shown = self.tree.options.xattrs;
        if shown == XattrSupport::None {
            return Ok(true);
        }
        let of_layers = |source| -> Result<Vec<Xattr>, FsError> {
            let mut xattrs = self.tree.stack.xattrs(source)?;
            xattrs.retain(|(name, _)| shown.has(name));
            Ok(xattrs)
        };
        let Some(inode) = self.state.inodes.get(&now) else {
            return Ok(match LowerInode::from_ino(now) {
                Some(source) if source != was => of_layers(source)? == of_layers(was)?,
                _ => true,
            });
        };
        let body = inode.body.read();
        match (&body.xattrs, inode.origin) {
            (Some(map), _) => {
                let here = map.iter().filter(|(name, _)| shown.has(name));
                let there = of_layers(was)?;
                Ok(here.eq(there.iter().map(|(name, value)| (name, value))))
            }
            (None, Some(origin)) => Ok(origin == was || of_layers(origin)? == of_layers(was)?),
            (None, None) => Ok(of_layers(was)?.is_empty()),
        }
    }

    /// Returns whether there are names that a walk with pruning cannot have visited.
    fn missed_names(&self, entries: &[DeltaEntry], names: &HashMap<Ino, u32>) -> bool {
        let more_links = entries.iter().filter_map(|e| e.object).any(|o| {
            o.attr.kind != FileType::Directory
                && names.get(&o.ino).is_some_and(|&found| found < o.attr.nlink)
        });
        let unvisited = self.state.inodes.iter().any(|(ino, inode)| {
            inode.origin.is_some()
                && inode.kind != FileType::Directory
                && !self.visited.contains(ino)
                && inode.body.read().nlink > 0
        });
        more_links || unvisited
    }
}

impl Frame {
    fn entry_ino(&self, out: &[DeltaEntry]) -> Option<Ino> {
        out.get(self.entry)?.object.map(|o| o.ino)
    }
}

/// Returns the object at a name for the delta: scratch entries are replaced by what they cover.
fn delta_target(item: &NamedSlot, lower: Option<&LowerDirEntry>) -> Option<EntryTarget> {
    match &item.slot {
        Slot::Present(target) => Some(*target),
        Slot::Whiteout => None,
        Slot::Scratch(scratch) => match scratch.covered {
            Covered::Layers => lower.map(|l| EntryTarget { ino: l.ino, kind: l.kind }),
            Covered::Object(target) => Some(target),
            Covered::Nothing => None,
        },
    }
}

fn same_owner(a: &Attr, b: &Attr) -> bool {
    (a.kind, a.mode, a.uid, a.gid) == (b.kind, b.mode, b.uid, b.gid)
}

fn same_attributes(a: &Attr, b: &Attr) -> bool {
    same_owner(a, b) && (a.size, a.rdev, a.mtime) == (b.size, b.rdev, b.mtime)
}
