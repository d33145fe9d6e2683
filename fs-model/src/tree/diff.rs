//! Taking the [`Delta`] of a tree.
//!
//! The walk goes down from the root through the directories that are marked as touched, with what
//! the tree has at a path beside what the layers have there, and prunes where both are the same
//! directory and nothing in it was touched. Where a directory of the layers was moved, all of it
//! is new at its new path.
//!
//! An object with several names needs all of them in the delta or none. When the walk did not meet
//! all names of an object it lists, or not all objects that were copied up, it is repeated without
//! pruning: that costs a listing of every directory, and is needed for hard links only.

use std::cmp::Ordering;
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

use super::dir::{Beneath, Item, Slot, Target};
use super::inode::Data;
use super::{Ino, ROOT_MODE, State, Tree, XattrSupport, pristine_source};
use crate::attr::{Attr, FileType};
use crate::delta::{Change, Delta, DeltaEntry, HiddenXattrs, Object};
use crate::error::{FsError, LayerError};
use crate::layer::Xattr;
use crate::stack::{Listed, Pristine, Source, Sources};

/// The longest path of a delta, in bytes: no archive reader takes a longer one.
const PATH_MAX: usize = 4096;
/// Bytes that are compared at a time.
const COMPARE_BUFFER: usize = 128 << 10;

impl Tree {
    /// The difference of the tree to its layers. The tree does not change meanwhile, but it may
    /// change before what the delta names is read: [`Tree::freeze`] it first where that matters.
    ///
    /// # Errors
    /// A layer that cannot be read; [`FsError::PathTooLong`] for a path of 4096 bytes or more.
    pub fn delta(&self) -> Result<Delta, FsError> {
        let mut state = self.state.lock();
        let mut walk = Walk::new(self, &mut state, None);
        walk.run()?;
        let mut entries = std::mem::take(&mut walk.out);
        let mut names = std::mem::take(&mut walk.names);
        let mut hidden = std::mem::take(&mut walk.hidden);
        if walk.missed_names(&entries, &names) {
            let listed = entries.iter().filter_map(|e| e.object).map(|o| o.ino).collect();
            let mut walk = Walk::new(self, &mut state, Some(listed));
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

/// Reads the content of a file from an offset on.
type ReadAt<'a> = &'a mut dyn FnMut(u64, &mut [u8]) -> Result<usize, FsError>;

/// A directory of the tree: one in memory, or one that only the layers know.
#[derive(Clone)]
enum Now {
    Known(Ino),
    Pristine(Sources),
}

/// A name, with what the tree and what the layers have there.
struct Pair {
    name: Box<[u8]>,
    now: Option<Target>,
    was: Option<Target>,
}

struct Frame {
    pairs: std::vec::IntoIter<Pair>,
    now: Now,
    was: Option<Sources>,
    /// Where the directory's own entry stands.
    entry: usize,
    path_len: usize,
}

struct Walk<'a> {
    tree: &'a Tree,
    state: &'a mut State,
    /// Set in a walk without pruning: the objects of which all names are wanted.
    listed: Option<HashSet<Ino>>,
    out: Vec<DeltaEntry>,
    hidden: Vec<HiddenXattrs>,
    /// How many names each object other than a directory has in `out`.
    names: HashMap<Ino, u32>,
    /// Objects of the upper that the walk came by.
    met: HashSet<Ino>,
    path: Vec<u8>,
}

impl<'a> Walk<'a> {
    fn new(tree: &'a Tree, state: &'a mut State, listed: Option<HashSet<Ino>>) -> Self {
        Walk {
            tree,
            state,
            listed,
            out: Vec::new(),
            hidden: Vec::new(),
            names: HashMap::new(),
            met: HashSet::new(),
            path: Vec::new(),
        }
    }

    fn run(&mut self) -> Result<(), FsError> {
        let was = self.tree.stack.root()?;
        let was = (!was.is_empty()).then_some(was);
        let change = match &was {
            Some(sources) if !self.same_directory(Ino::ROOT, sources[0])? => Change::Modified,
            Some(_) => Change::Unchanged,
            // The root of a tree without layers begins with the attributes of a new one.
            None if self.is_fresh_root() => Change::Unchanged,
            None => Change::Modified,
        };
        let attr = self.state.attr(&self.tree.stack, Ino::ROOT)?;
        self.out.push(DeltaEntry {
            path: Box::default(),
            change,
            object: Some(Object { ino: Ino::ROOT, attr }),
        });
        let mut frames = vec![self.open(Now::Known(Ino::ROOT), was, 0)?];
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
                            return Err(self.looped());
                        }
                        frames.push(below);
                    }
                }
                None => {
                    let entry = frame.entry;
                    frames.pop();
                    if self.is_removed_passage(entry) {
                        self.out.truncate(entry + 1);
                    }
                    if self.out.len() == entry + 1 {
                        self.close_empty(entry)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether the entry is a directory that was made for the sake of scratch entries in the place of a
    /// removed one, and has nothing else in it. Its own deletion says all of that.
    fn is_removed_passage(&self, entry: usize) -> bool {
        let DeltaEntry { change, object, .. } = &self.out[entry];
        matches!(change, Change::Modified | Change::Unchanged)
            && object.as_ref().is_some_and(|o| self.state.passages.contains(&o.ino))
            && self.out[entry + 1..].iter().all(|below| below.change == Change::Deleted)
    }

    /// The last entry is a directory in which nothing is different: one that is unchanged itself
    /// goes again, and so does one that was made for the sake of scratch entries.
    fn close_empty(&mut self, entry: usize) -> Result<(), FsError> {
        let DeltaEntry { change, object, .. } = &mut self.out[entry];
        let passage = object.as_ref().is_some_and(|o| self.state.passages.contains(&o.ino));
        match change {
            Change::Modified | Change::Unchanged if passage => {
                (*change, *object) = (Change::Deleted, None);
            }
            Change::Unchanged => {
                if let Some(DeltaEntry { path, object: Some(object), .. }) = self.out.pop() {
                    self.note_hidden(&path, object.ino)?;
                }
            }
            Change::Added if passage => drop(self.out.pop()),
            _ => {}
        }
        Ok(())
    }

    /// Records the attributes that were set on an object without an entry, although the tree does
    /// not show them.
    fn note_hidden(&mut self, path: &[u8], ino: Ino) -> Result<(), FsError> {
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

    fn looped(&self) -> FsError {
        let image = self.tree.layers().first().map_or("", |l| l.name());
        let path = String::from_utf8_lossy(&self.path);
        LayerError::corrupt(&image.into(), format!("the directory {path} contains itself")).into()
    }

    /// Judges one name, and returns the frame to go on with when it is a directory to look into.
    fn visit(&mut self, frame: &Frame, pair: &Pair) -> Result<Option<Frame>, FsError> {
        let Some(now) = pair.now else {
            self.push(Change::Deleted, None);
            return Ok(None);
        };
        if now.kind == FileType::Directory {
            return self.visit_directory(frame, pair, now);
        }
        if self.state.inodes.contains_key(&now.ino) {
            self.met.insert(now.ino);
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
            self.note_hidden(&path, now.ino)?;
            self.path = path;
        }
        Ok(None)
    }

    fn visit_directory(
        &mut self,
        frame: &Frame,
        pair: &Pair,
        now: Target,
    ) -> Result<Option<Frame>, FsError> {
        let stack = &self.tree.stack;
        let was = match (pair.was, &frame.was) {
            (Some(was), Some(parent)) if was.kind == FileType::Directory => {
                match stack.lookup(parent, &pair.name)? {
                    Some(Pristine::Directory(sources)) => Some(sources),
                    _ => None,
                }
            }
            _ => None,
        };
        let known = self.state.dirs.get(&now.ino);
        let same_place = was.as_ref().is_some_and(|was| was[0].to_ino() == now.ino);
        if same_place && self.listed.is_none() && !known.is_some_and(|d| d.touched) {
            return Ok(None);
        }
        let here = match known {
            Some(_) => Now::Known(now.ino),
            None => {
                let parent = match &frame.now {
                    Now::Known(dir) => &self.state.dir(stack, *dir)?.sources,
                    Now::Pristine(sources) => sources,
                };
                match stack.lookup(parent, &pair.name)? {
                    Some(Pristine::Directory(sources)) => Now::Pristine(sources),
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

    fn attr(&mut self, dir: &Now, ino: Ino) -> Result<Attr, FsError> {
        match dir {
            Now::Known(_) => self.state.attr(&self.tree.stack, ino),
            Now::Pristine(sources) => {
                let attr = self.tree.stack.attr(sources[0])?;
                Ok(Attr { size: 4096, allocated: 0, ..attr })
            }
        }
    }

    fn push(&mut self, change: Change, object: Option<Object>) {
        self.out.push(DeltaEntry { path: self.path.as_slice().into(), change, object });
    }

    /// Pairs the names of a directory with what the layers have at its path.
    fn open(&mut self, now: Now, was: Option<Sources>, entry: usize) -> Result<Frame, FsError> {
        let stack = &self.tree.stack;
        let as_target = |l: &Listed| (l.name.clone(), Target { ino: l.ino, kind: l.kind });
        let mut here: Vec<(Box<[u8]>, Target)> = match &now {
            Now::Known(ino) => {
                let listing = self.state.listing(stack, *ino)?;
                let dir = self.state.dir(stack, *ino)?;
                let below = listing.iter().filter_map(|l| match dir.changes.get(&l.name) {
                    None => Some(as_target(l)),
                    Some(item) => truth(item, Some(l)).map(|t| (l.name.clone(), t)),
                });
                let own = dir.changes.iter().filter(|i| !i.in_layers);
                let own = own.filter_map(|i| truth(i, None).map(|t| (i.name.clone(), t)));
                below.chain(own).collect()
            }
            Now::Pristine(sources) => stack.list(sources)?.iter().map(as_target).collect(),
        };
        here.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let there: Arc<[Listed]> = match (&was, &now) {
            (None, _) => Arc::default(),
            (Some(was), Now::Known(ino)) if self.state.dir(stack, *ino)?.sources == *was => {
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
            let was_target = was.map(|l| Target { ino: l.ino, kind: l.kind });
            let (name, now) = match (now, was) {
                (Some((name, now)), _) => (name, Some(now)),
                (None, Some(was)) => (was.name.clone(), None),
                (None, None) => break,
            };
            if !self.is_settled(now, was_target) {
                pairs.push(Pair { name, now, was: was_target });
            }
        }
        Ok(Frame { pairs: pairs.into_iter(), now, was, entry, path_len: self.path.len() })
    }

    /// Whether a name needs no look at all: the same object of the layers on both sides, not copied
    /// up and, if a directory, not in memory.
    fn is_settled(&self, now: Option<Target>, was: Option<Target>) -> bool {
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

    /// Whether the directory `now` has the attributes of the layers' `was`, its time excepted where
    /// it is that of a change of the names in it.
    fn same_directory(&mut self, now: Ino, was: Source) -> Result<bool, FsError> {
        let stack = &self.tree.stack;
        let Some(inode) = self.state.inodes.get(&now).cloned() else {
            return match Source::from_ino(now) {
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

    /// Whether the object `now`, not a directory, is what the layers have as `was`.
    fn same_object(&mut self, now: Ino, was: Ino) -> Result<bool, FsError> {
        let stack = &self.tree.stack;
        let was_source = pristine_source(stack, was)?;
        let Some(inode) = self.state.inodes.get(&now).cloned() else {
            if now == was {
                return Ok(true);
            }
            // An object of the layers that was moved over another one.
            let source = pristine_source(stack, now)?;
            let (a, b) = (stack.attr(source)?, stack.attr(was_source)?);
            return Ok(same_attributes(&a, &b)
                && a.nlink == 1
                && b.nlink == 1
                && self.same_content(now, source, was_source, &b)?
                && self.same_xattrs(now, was_source)?);
        };
        let (a, b) = (inode.attr(stack)?, stack.attr(was_source)?);
        if !same_attributes(&a, &b) || now != was && (a.nlink != 1 || b.nlink != 1) {
            return Ok(false);
        }
        let body = inode.body.read();
        let same = match &body.data {
            Data::None => true,
            Data::Target(target) => **target == *stack.read_link(was_source)?,
            Data::File(content) => {
                content.untouched() == Some(was_source)
                    || self.same_bytes(b.size, was_source, &mut |offset, buf| {
                        content.read(stack, offset, buf)
                    })?
            }
        };
        drop(body);
        Ok(same && self.same_xattrs(now, was_source)?)
    }

    /// Whether two objects of the layers with the same attributes hold the same.
    fn same_content(&self, _now: Ino, a: Source, b: Source, attr: &Attr) -> Result<bool, FsError> {
        let stack = &self.tree.stack;
        match attr.kind {
            FileType::Regular => {
                self.same_bytes(attr.size, b, &mut |offset, buf| Ok(stack.read_at(a, offset, buf)?))
            }
            FileType::Symlink => Ok(stack.read_link(a)? == stack.read_link(b)?),
            _ => Ok(true),
        }
    }

    fn same_bytes(&self, size: u64, was: Source, read: ReadAt<'_>) -> Result<bool, FsError> {
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

    /// Whether the object `now` has the attributes of the layers' `was`, as far as they are shown.
    fn same_xattrs(&self, now: Ino, was: Source) -> Result<bool, FsError> {
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
            return Ok(match Source::from_ino(now) {
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

    /// Whether there are names that this pruned walk cannot have seen.
    fn missed_names(&self, entries: &[DeltaEntry], names: &HashMap<Ino, u32>) -> bool {
        let more_links = entries.iter().filter_map(|e| e.object).any(|o| {
            o.attr.kind != FileType::Directory
                && names.get(&o.ino).is_some_and(|&met| met < o.attr.nlink)
        });
        let unmet = self.state.inodes.iter().any(|(ino, inode)| {
            inode.origin.is_some()
                && inode.kind != FileType::Directory
                && !self.met.contains(ino)
                && inode.body.read().nlink > 0
        });
        more_links || unmet
    }
}

impl Frame {
    fn entry_ino(&self, out: &[DeltaEntry]) -> Option<Ino> {
        out.get(self.entry)?.object.map(|o| o.ino)
    }
}

/// What a name of the upper really is, scratch entries aside.
fn truth(item: &Item, pristine: Option<&Listed>) -> Option<Target> {
    match &item.slot {
        Slot::Present(target) => Some(*target),
        Slot::Absent => None,
        Slot::Scratch(scratch) => match scratch.beneath {
            Beneath::Layers => pristine.map(|l| Target { ino: l.ino, kind: l.kind }),
            Beneath::Object(target) => Some(target),
            Beneath::Absent => None,
        },
    }
}

fn same_owner(a: &Attr, b: &Attr) -> bool {
    (a.kind, a.mode, a.uid, a.gid) == (b.kind, b.mode, b.uid, b.gid)
}

fn same_attributes(a: &Attr, b: &Attr) -> bool {
    same_owner(a, b) && (a.size, a.rdev, a.mtime) == (b.size, b.rdev, b.mtime)
}
