//! The union of layers and one writable upper, as a file system: what a kernel would ask of it.
//!
//! Invariants:
//! - An object keeps its [`Ino`] for life: across copy-up, rename and hard links. The number of an
//!   object of a layer is made from its place there, so an untouched object costs no memory.
//! - Whiteouts are never visible, and cannot be made.
//! - Each entry that a call returns counts as one reference of its inode, as FUSE counts lookups,
//!   until [`Tree::forget`]. A removed object lives as long as it has one.
//! - Locks are taken in this order: the gate (mutations shared, [`Tree::freeze`] alone), the state,
//!   one inode's body. Layers' own locks are taken under any of them and take none of these. No
//!   file data is read or written under the state's lock, except to take a delta.
//! - Reading does not change access times, as on a file system mounted `noatime`.

mod attributes;
mod audit;
mod content;
mod diff;
mod dir;
mod inode;
mod io;
mod lent;
mod listing;
mod names;
mod path;
mod rename;
mod revert;
mod scratch;
mod space;

use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use parking_lot::{Mutex, RwLock, RwLockWriteGuard};

pub use attributes::{SetAttr, XattrFlags};
pub use io::NextRead;
pub use listing::DirItem;
pub use names::NewNode;
pub use path::{Follow, Resolved};
pub use rename::RenameMode;
pub use revert::Reverted;

use self::dir::{Dir, Target};
use self::inode::Inode;
use self::listing::Listings;
use self::space::Space;
use crate::attr::{Attr, FileType, Time};
use crate::error::{FsError, LayerError};
use crate::layer::Layer;
use crate::stack::{Pristine, Source, Sources, Stack};

/// An inode number of a tree: an object's own for life, across copy-up, rename and hard links.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ino(pub u64);

impl Ino {
    /// The root directory.
    pub const ROOT: Ino = Ino(1);
}

/// An entry that was found or made. It holds one reference of its inode.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// The object's number.
    pub ino: Ino,
    /// Its attributes.
    pub attr: Attr,
}

/// How a tree behaves.
#[derive(Clone, Copy, Debug)]
pub struct TreeOptions {
    /// How many bytes of memory the upper may take; `None` for a tree without an upper, in which
    /// every change is refused.
    pub upper_limit: Option<u64>,
    /// Which extended attributes exist.
    pub xattrs: XattrSupport,
}

/// Which extended attributes a tree shows: those that the output can hold, so that programs do not
/// rely on others.
///
/// Setting another one succeeds, so that programs which insist on it do not fail. The tree keeps it
/// to [report](crate::delta::Delta::hidden) the loss. An access list that is not shown makes a mode
/// narrower, never wider: see [`Acl::plain_mode`].
///
/// [`Acl::plain_mode`]: crate::acl::Acl::plain_mode
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XattrSupport {
    /// None, as in cpio archives.
    None,
    /// All but access lists, as in squashfs images.
    WithoutAcls,
    /// All, as in tar archives. [Access lists](crate::acl) and permission bits follow each other.
    All,
}

impl XattrSupport {
    /// Whether an attribute of this name is shown.
    pub fn has(self, name: &[u8]) -> bool {
        match self {
            XattrSupport::None => false,
            XattrSupport::WithoutAcls => !crate::acl::is_acl(name),
            XattrSupport::All => true,
        }
    }
}

/// What a tree holds and may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Bytes that the upper may take.
    pub limit: u64,
    /// Bytes that it takes.
    pub used: u64,
    /// Inodes of the upper.
    pub inodes: u64,
}

/// The mode of the root of a tree without layers.
const ROOT_MODE: u16 = 0o755;

/// The union. See the [module](self) for its invariants.
#[derive(Debug)]
pub struct Tree {
    stack: Stack,
    space: Space,
    options: TreeOptions,
    gate: RwLock<()>,
    state: Mutex<State>,
}

/// What is known of an inode that somebody holds.
#[derive(Clone, Copy, Debug)]
struct Reference {
    count: u64,
    /// The directory in which it was last found: where to look for a file's name when the file
    /// changes.
    parent: Ino,
}

#[derive(Debug)]
struct State {
    inodes: HashMap<Ino, Arc<Inode>>,
    dirs: HashMap<Ino, Dir>,
    refs: HashMap<Ino, Reference>,
    listings: Listings,
    next: u64,
    /// Something changed of which nobody could say in which directory it lies: who looks for
    /// changes has to look everywhere.
    unplaced: bool,
    /// Directories that are in a delta only for the sake of what is in them.
    passages: HashSet<Ino>,
    /// Lent files that have not been changed, and those that lost their names.
    loans: HashMap<Ino, lent::Loan>,
}

/// A frozen tree: no change is made until this is dropped; those who try wait.
#[derive(Debug)]
pub struct Frozen<'a> {
    _gate: RwLockWriteGuard<'a, ()>,
}

impl Tree {
    /// A tree of `layers`, lowest first.
    ///
    /// # Errors
    /// A layer whose root cannot be read; [`FsError::Invalid`] for more than 500 layers.
    pub fn new(layers: Vec<Arc<dyn Layer>>, options: TreeOptions) -> Result<Tree, FsError> {
        let mut stack = Stack::new(layers)?;
        if options.xattrs != XattrSupport::All {
            stack = stack.without_acls();
        }
        let sources = stack.root()?;
        let mut inodes = HashMap::new();
        let mut dirs = HashMap::new();
        if sources.is_empty() {
            let root = NewNode::directory(ROOT_MODE, 0, 0);
            let root = names::new_inode(&root, inode::XattrMap::new(), Time::from_secs(0));
            inodes.insert(Ino::ROOT, Arc::new(root));
        }
        dirs.insert(
            Ino::ROOT,
            Dir {
                parent: Ino::ROOT,
                name: Box::default(),
                sources,
                changes: dir::Changes::default(),
                touched: false,
                children: 0,
                subdirs: None,
            },
        );
        Ok(Tree {
            space: Space::new(options.upper_limit.unwrap_or(0)),
            stack,
            options,
            gate: RwLock::new(()),
            state: Mutex::new(State {
                inodes,
                dirs,
                refs: HashMap::new(),
                listings: Listings::default(),
                // 1 is the root; the numbers of the layers begin at 2^48.
                next: 2,
                unplaced: false,
                passages: HashSet::new(),
                loans: HashMap::new(),
            }),
        })
    }

    /// Stops all changes until the returned guard is dropped.
    pub fn freeze(&self) -> Frozen<'_> {
        Frozen { _gate: self.gate.write() }
    }

    /// Which extended attributes there are.
    pub fn xattr_support(&self) -> XattrSupport {
        self.options.xattrs
    }

    /// The layers, lowest first.
    pub fn layers(&self) -> &[Arc<dyn Layer>] {
        self.stack.layers()
    }

    /// What the upper takes.
    pub fn usage(&self) -> Usage {
        Usage {
            limit: self.space.limit(),
            used: self.space.used(),
            inodes: self.state.lock().inodes.len() as u64,
        }
    }

    /// Whether changes are possible at all.
    fn check_writable(&self) -> Result<(), FsError> {
        if self.options.upper_limit.is_some() { Ok(()) } else { Err(FsError::ReadOnly) }
    }

    /// The entry `name` of the directory `parent`, with a reference.
    pub fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Entry, FsError> {
        let mut state = self.state.lock();
        let target = state.find(&self.stack, parent, name)?.ok_or(FsError::NotFound)?;
        state.entry(&self.stack, parent, target)
    }

    /// The attributes of `ino`.
    pub fn attr(&self, ino: Ino) -> Result<Attr, FsError> {
        self.state.lock().attr(&self.stack, ino)
    }

    /// The directory in which the directory `dir` lies; the root's is the root.
    pub fn parent(&self, dir: Ino) -> Result<Ino, FsError> {
        Ok(self.state.lock().dir(&self.stack, dir)?.parent)
    }

    /// Gives back `count` references of `ino`. An object without a name and without references
    /// ceases to be.
    pub fn forget(&self, ino: Ino, count: u64) {
        self.state.lock().forget(&self.space, ino, count);
    }
}

impl State {
    /// The directory `ino`, which somebody must have looked up before.
    fn dir(&self, stack: &Stack, ino: Ino) -> Result<&Dir, FsError> {
        match self.dirs.get(&ino) {
            Some(dir) => Ok(dir),
            None => Err(self.not_a_dir(stack, ino)),
        }
    }

    fn dir_mut(&mut self, stack: &Stack, ino: Ino) -> Result<&mut Dir, FsError> {
        if !self.dirs.contains_key(&ino) {
            return Err(self.not_a_dir(stack, ino));
        }
        self.dirs.get_mut(&ino).ok_or(FsError::Stale)
    }

    fn not_a_dir(&self, stack: &Stack, ino: Ino) -> FsError {
        match self.kind(stack, ino) {
            Ok(FileType::Directory) => FsError::Stale,
            Ok(_) => FsError::NotADirectory,
            Err(e) => e,
        }
    }

    fn kind(&self, stack: &Stack, ino: Ino) -> Result<FileType, FsError> {
        match self.inodes.get(&ino) {
            Some(inode) => Ok(inode.kind),
            // The root's number is its own.
            None if self.dirs.contains_key(&ino) => Ok(FileType::Directory),
            None => Ok(stack.attr(pristine_source(stack, ino)?)?.kind),
        }
    }

    /// What `name` is in the layers' part of `dir`.
    fn find_pristine(
        &self,
        stack: &Stack,
        dir: Ino,
        name: &[u8],
    ) -> Result<Option<Pristine>, FsError> {
        Ok(stack.lookup(&self.dir(stack, dir)?.sources, name)?)
    }

    /// What `name` is in `parent`. A directory that is found is in memory afterwards.
    fn find(&mut self, stack: &Stack, parent: Ino, name: &[u8]) -> Result<Option<Target>, FsError> {
        let dir = self.dir(stack, parent)?;
        names::check_name(name)?;
        if let Some(item) = dir.changes.get(name) {
            return Ok(item.slot.shown());
        }
        let Some(pristine) = stack.lookup(&dir.sources, name)? else { return Ok(None) };
        let target = Target { ino: pristine.ino(), kind: pristine.kind() };
        if let Pristine::Directory(sources) = pristine {
            self.know_dir(stack, parent, name, target.ino, sources)?;
        }
        Ok(Some(target))
    }

    /// Takes a directory of the layers into memory.
    fn know_dir(
        &mut self,
        stack: &Stack,
        parent: Ino,
        name: &[u8],
        ino: Ino,
        sources: Sources,
    ) -> Result<(), FsError> {
        if let Some(known) = self.dirs.get(&ino) {
            if known.parent == parent && *known.name == *name {
                return Ok(());
            }
            // Only a made-up image has a directory with two names, which could also be a loop.
            let layer = &stack.layers()[usize::from(sources[0].layer)];
            return Err(LayerError::corrupt(
                &layer.name().into(),
                format!("the directory {:?} stands in two places", String::from_utf8_lossy(name)),
            )
            .into());
        }
        if let Some(dir) = self.dirs.get_mut(&parent) {
            dir.children += 1;
        }
        self.dirs.insert(
            ino,
            Dir {
                parent,
                name: name.into(),
                sources,
                changes: dir::Changes::default(),
                touched: false,
                children: 0,
                subdirs: None,
            },
        );
        Ok(())
    }

    /// Makes an entry of what was found in `parent`, and counts the reference.
    fn entry(&mut self, stack: &Stack, parent: Ino, target: Target) -> Result<Entry, FsError> {
        let attr = self.attr(stack, target.ino)?;
        self.retain(target.ino, parent);
        Ok(Entry { ino: target.ino, attr })
    }

    fn retain(&mut self, ino: Ino, parent: Ino) {
        let reference = self.refs.entry(ino).or_insert(Reference { count: 0, parent });
        reference.count += 1;
        reference.parent = parent;
    }

    fn forget(&mut self, space: &Space, ino: Ino, count: u64) {
        let Some(reference) = self.refs.get_mut(&ino) else { return };
        reference.count = reference.count.saturating_sub(count);
        if reference.count > 0 {
            return;
        }
        self.refs.remove(&ino);
        shrink(&mut self.refs);
        self.drop_if_unused(space, ino);
    }

    /// Lets go of what nobody holds and nothing names, and of the directories above it that were
    /// in memory for its sake alone.
    fn drop_if_unused(&mut self, space: &Space, ino: Ino) {
        let mut next = Some(ino);
        while let Some(ino) = next.take() {
            if self.refs.contains_key(&ino) || ino == Ino::ROOT {
                return;
            }
            let dead = self.inodes.get(&ino).is_some_and(|inode| inode.body.read().nlink == 0);
            if let Some(dir) = self.dirs.get(&ino) {
                if dir.children > 0 || !dead && (dir.touched || !dir.changes.is_empty()) {
                    return;
                }
                let parent = dir.parent;
                // A removed directory may still say which names of the layers are gone.
                space.release(dir.changes.cost());
                self.dirs.remove(&ino);
                shrink(&mut self.dirs);
                self.listings.remove(ino);
                if let Some(parent_dir) = self.dirs.get_mut(&parent) {
                    parent_dir.children -= 1;
                    next = (parent_dir.children == 0).then_some(parent);
                }
            }
            if dead && let Some(inode) = self.inodes.remove(&ino) {
                shrink(&mut self.inodes);
                self.passages.remove(&ino);
                self.loans.remove(&ino);
                inode.release(space);
            }
        }
    }

    /// Lets go of what was found for an operation, if that did not come to hold it.
    fn let_go(&mut self, tree: &Tree, found: impl IntoIterator<Item = Target>) {
        for target in found {
            self.drop_if_unused(&tree.space, target.ino);
        }
    }

    /// The object `ino` as one of the upper, copied up if need be. What changes stays findable: the
    /// directory it was found in counts as touched.
    fn upper(&mut self, tree: &Tree, ino: Ino) -> Result<Arc<Inode>, FsError> {
        let inode = self.upper_charged(tree, ino, false)?;
        self.place(ino, &inode);
        Ok(inode)
    }

    /// Like [`upper`](Self::upper), but never refused for want of room: for what removes.
    fn upper_always(&mut self, tree: &Tree, ino: Ino) -> Result<Arc<Inode>, FsError> {
        self.upper_charged(tree, ino, true)
    }

    fn upper_charged(
        &mut self,
        tree: &Tree,
        ino: Ino,
        always: bool,
    ) -> Result<Arc<Inode>, FsError> {
        if let Some(inode) = self.inodes.get(&ino) {
            return Ok(inode.clone());
        }
        let source = match self.dirs.get(&ino) {
            // The root's number is its own.
            Some(dir) => *dir.sources.first().ok_or(FsError::Stale)?,
            None => pristine_source(&tree.stack, ino)?,
        };
        let inode = Inode::copy_up(&tree.stack, source)?;
        if inode.kind == FileType::Directory && !self.dirs.contains_key(&ino) {
            return Err(FsError::Stale);
        }
        let cost = inode.cost();
        if always {
            tree.space.charge_always(cost);
        } else {
            tree.space.charge(cost)?;
        }
        let inode = Arc::new(inode);
        self.inodes.insert(ino, inode.clone());
        if inode.kind == FileType::Directory {
            self.touch(ino);
        }
        Ok(inode)
    }

    /// Notes where a change of the object `ino` is to be looked for.
    fn place(&mut self, ino: Ino, inode: &Inode) {
        if inode.kind == FileType::Directory || inode.origin.is_none() {
            return;
        }
        match self.refs.get(&ino).map(|reference| reference.parent) {
            Some(parent) if self.dirs.contains_key(&parent) => self.touch(parent),
            _ => self.unplaced = true,
        }
    }

    /// Marks `dir` and all above it as holding a change.
    fn touch(&mut self, dir: Ino) {
        let mut at = dir;
        while let Some(d) = self.dirs.get_mut(&at) {
            // A passage is in the delta only when something else is in it, and its parent directory
            // was not marked for it.
            if d.touched && !self.passages.contains(&at) {
                break;
            }
            d.touched = true;
            if at == Ino::ROOT {
                break;
            }
            at = d.parent;
        }
    }

    fn attr(&mut self, stack: &Stack, ino: Ino) -> Result<Attr, FsError> {
        let inode = self.inodes.get(&ino).cloned();
        let mut attr = match (&inode, self.dirs.get(&ino)) {
            (Some(inode), _) => inode.attr(stack)?,
            (None, Some(dir)) => stack.attr(*dir.sources.first().ok_or(FsError::Stale)?)?,
            (None, None) => stack.attr(pristine_source(stack, ino)?)?,
        };
        if attr.kind == FileType::Directory {
            // Block-sized like any disk file system's: the number says nothing in a union.
            attr.size = 4096;
            attr.allocated = 0;
            // What an inode of the upper has is no count, only whether it was removed.
            let stored = if inode.is_none() { attr.nlink } else { 0 };
            if inode.is_none_or(|i| i.body.read().nlink > 0) {
                attr.nlink = 2 + self.subdirs(stack, ino, stored)?;
            }
        }
        Ok(attr)
    }

    /// How many subdirectories the view shows in `dir`. `stored` is what its layer says of it.
    fn subdirs(&mut self, stack: &Stack, ino: Ino, stored: u32) -> Result<u32, FsError> {
        let dir = self.dir(stack, ino)?;
        if let Some(count) = dir.subdirs {
            return Ok(count);
        }
        let count = if dir.sources.len() == 1 && dir.changes.is_empty() && stored >= 2 {
            stored - 2
        } else {
            // Where no layer has any, which is the rule for the largest directories, none of them
            // need be listed.
            let mut none_below = true;
            for source in &dir.sources {
                none_below = none_below && stack.attr(*source)?.nlink == 2;
            }
            let listing = if none_below { Arc::default() } else { self.listing(stack, ino)? };
            let dir = self.dir(stack, ino)?;
            let below = listing
                .iter()
                .filter(|l| dir.changes.get(&l.name).is_none() && l.kind == FileType::Directory);
            let own = dir.changes.iter().filter(|i| {
                i.slot.shown().is_some_and(|target| target.kind == FileType::Directory)
            });
            (below.count() + own.count()) as u32
        };
        self.dir_mut(stack, ino)?.subdirs = Some(count);
        Ok(count)
    }

    /// The subdirectories of `dir` are counted anew when they are asked for.
    fn recount(&mut self, dir: Ino) {
        if let Some(dir) = self.dirs.get_mut(&dir) {
            dir.subdirs = None;
        }
    }

    /// Counts a subdirectory more or less, where they have been counted.
    fn add_subdirs(&mut self, dir: Ino, by: i32) {
        if let Some(count) = self.dirs.get_mut(&dir).and_then(|d| d.subdirs.as_mut()) {
            *count = count.saturating_add_signed(by);
        }
    }
}

/// Gives back the room of a table that has become much too large, so that what a million objects
/// took is free again once they are forgotten. Seldom enough that each removal pays a little of it.
fn shrink<V>(table: &mut HashMap<Ino, V>) {
    if table.capacity() > 1024 && table.len() < table.capacity() / 8 {
        table.shrink_to(table.len() * 2);
    }
}

/// The object of a layer that `ino` stands for.
fn pristine_source(stack: &Stack, ino: Ino) -> Result<Source, FsError> {
    Source::from_ino(ino).filter(|source| stack.has(*source)).ok_or(FsError::Stale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_as_large_as_what_is_in_them() {
        let options = TreeOptions { upper_limit: Some(u64::MAX), xattrs: XattrSupport::None };
        let tree = Tree::new(Vec::new(), options).unwrap();
        let name = |n: u32| n.to_string().into_bytes();
        let top = tree.make(Ino::ROOT, b"top", &NewNode::directory(0o755, 0, 0)).unwrap().ino;
        for n in 0..20_000 {
            let node =
                [NewNode::file(0o644, 0, 0), NewNode::directory(0o755, 0, 0)][n as usize % 2];
            tree.make(top, &name(n), &node).unwrap();
        }
        let capacities = || {
            let state = tree.state.lock();
            let names = state.dirs[&top].changes.capacity();
            [state.inodes.capacity(), state.dirs.capacity(), state.refs.capacity(), names]
        };
        assert!(capacities().iter().all(|c| *c >= 10_000), "{:?}", capacities());
        for n in 0..20_000 {
            let ino = tree.lookup(top, &name(n)).unwrap().ino;
            if n % 2 == 0 {
                tree.unlink(top, &name(n)).unwrap();
            } else {
                tree.rmdir(top, &name(n)).unwrap();
            }
            tree.forget(ino, 2);
        }
        assert!(capacities().iter().all(|c| *c <= 2_000), "{:?}", capacities());
    }
}
