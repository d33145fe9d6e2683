//! The union of layers and one writable upper, with the operations that a kernel needs from a file
//! system.
//!
//! Invariants:
//! - An object keeps its [`Ino`] for life: across copy-up, rename and hard links. The number of an
//!   object of a layer is computed from its position there, so an untouched object costs no memory.
//! - Whiteouts are never visible and cannot be created.
//! - Each entry that a call returns counts as one reference to its inode, as FUSE counts lookups,
//!   until [`Tree::forget`]. A removed object exists until its last reference is gone.
//! - Lock order: the gate (shared for mutations, exclusive for [`Tree::freeze`]), the state, one
//!   inode's body. Locks of layers may be taken while holding any of these and take none of them.
//!   No file data is read or written under the state's lock, except to compute a delta.
//! - Reading does not change access times, as on a file system mounted `noatime`.

mod attributes;
mod content;
mod delta_walk;
mod dir;
mod inode;
mod invariants;
mod io;
mod lent;
mod listing;
mod namespace;
mod path;
mod rename;
mod revert;
mod scratch;
mod space;

use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use parking_lot::{Mutex, RwLock, RwLockWriteGuard};

pub use crate::ino::Ino;
pub use crate::resolve::Follow;
pub use attributes::{SetAttr, XattrFlags};
pub use io::TreeReadahead;
pub use listing::DirItem;
pub use namespace::MknodArgs;
pub use path::Resolved;
pub use rename::RenameMode;
pub use revert::Reverted;

use self::dir::{Dir, EntryTarget};
use self::inode::UpperInode;
use self::listing::Listings;
use self::space::Space;
use crate::attr::{Attr, FileType, Time};
use crate::error::{FsError, LayerError};
use crate::layer::Layer;
use crate::stack::{LowerDirs, LowerEntry, LowerInode, Stack};

/// An entry that was found or created. It holds one reference to its inode.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// The inode number.
    pub ino: Ino,
    /// The attributes.
    pub attr: Attr,
    /// Whether it is a lent file at the place of a file that the image lacks.
    pub is_stand_in: bool,
}

/// Options of a [`Tree`].
#[derive(Clone, Copy, Debug)]
pub struct TreeOptions {
    /// Maximum memory of the upper in bytes; `None` for a tree without an upper, which rejects
    /// every change.
    pub upper_limit: Option<u64>,
    /// Which extended attributes are shown.
    pub xattrs: XattrSupport,
}

/// Which extended attributes a tree shows: those that the output format can store, so that programs
/// do not rely on others.
///
/// Setting any other attribute succeeds, so that programs that require them do not fail. The tree
/// keeps it to [report](crate::delta::Delta::hidden) the loss. An ACL that is not shown can only
/// remove permissions from the mode: see [`Acl::plain_mode`].
///
/// [`Acl::plain_mode`]: crate::acl::Acl::plain_mode
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XattrSupport {
    /// None, as in cpio archives.
    None,
    /// All but ACLs and names with `=`, as in squashfs images that mksquashfs makes of tar
    /// archives.
    WithoutAcls,
    /// All, as in tar archives. [Access lists](crate::acl) and permission bits are kept consistent.
    All,
}

impl XattrSupport {
    /// Returns whether the attribute `name` is shown.
    pub fn has(self, name: &[u8]) -> bool {
        match self {
            XattrSupport::None => false,
            XattrSupport::WithoutAcls => !crate::acl::is_acl(name) && !name.contains(&b'='),
            XattrSupport::All => true,
        }
    }
}

/// Memory use and size limit of the upper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Maximum memory in bytes.
    pub limit: u64,
    /// Memory in use, in bytes.
    pub used: u64,
    /// Number of inodes in the upper.
    pub inodes: u64,
}

/// The mode of the root of a tree without layers.
const ROOT_MODE: u16 = 0o755;

/// A union file system. See the [module](self) for its invariants.
#[derive(Debug)]
pub struct Tree {
    stack: Stack,
    space: Space,
    options: TreeOptions,
    gate: RwLock<()>,
    state: Mutex<TreeState>,
}

/// The references to an inode that callers hold.
#[derive(Clone, Copy, Debug)]
struct Reference {
    count: u64,
    /// The directory of the latest lookup: the one to mark when the object changes.
    parent: Ino,
}

#[derive(Debug)]
struct TreeState {
    inodes: HashMap<Ino, Arc<UpperInode>>,
    dirs: HashMap<Ino, Dir>,
    refs: HashMap<Ino, Reference>,
    listings: Listings,
    next_ino: u64,
    /// Whether an inode with unknown parent changed; the delta walk must then visit every
    /// directory.
    dirty_parent_unknown: bool,
    /// Directories that exist only as parents of scratch entries.
    scratch_parents: HashSet<Ino>,
    /// Lent files that were not changed, and those that lost their names.
    loans: HashMap<Ino, lent::Loan>,
    /// Referenced numbers of files that a lent file took the place of, and the number of that file.
    former: HashMap<Ino, Ino>,
}

/// Guard of a frozen tree: changes block until it is dropped.
#[derive(Debug)]
pub struct Frozen<'a> {
    _gate: RwLockWriteGuard<'a, ()>,
}

impl Tree {
    /// Creates a tree of `layers`, lowest first.
    ///
    /// # Errors
    /// Fails if the root of a layer cannot be read, and with [`FsError::Invalid`] for more than
    /// [`MAX_LAYERS`](crate::stack::MAX_LAYERS) layers.
    pub fn new(layers: Vec<Arc<dyn Layer>>, options: TreeOptions) -> Result<Tree, FsError> {
        let mut stack = Stack::new(layers)?;
        if options.xattrs != XattrSupport::All {
            stack = stack.without_acls();
        }
        let sources = stack.root()?;
        let mut inodes = HashMap::new();
        let mut dirs = HashMap::new();
        if sources.is_empty() {
            let root = MknodArgs::directory(ROOT_MODE, 0, 0);
            let root = namespace::new_inode(&root, inode::XattrMap::new(), Time::from_secs(0));
            inodes.insert(Ino::ROOT, Arc::new(root));
        }
        dirs.insert(
            Ino::ROOT,
            Dir {
                parent: Ino::ROOT,
                name: Box::default(),
                sources,
                changes: dir::DirChanges::default(),
                dirty: false,
                children: 0,
                subdirs: None,
            },
        );
        Ok(Tree {
            space: Space::new(options.upper_limit.unwrap_or(0)),
            stack,
            options,
            gate: RwLock::new(()),
            state: Mutex::new(TreeState {
                inodes,
                dirs,
                refs: HashMap::new(),
                listings: Listings::default(),
                // 1 is the root; inode numbers of layers begin at 2^48.
                next_ino: 2,
                dirty_parent_unknown: false,
                scratch_parents: HashSet::new(),
                loans: HashMap::new(),
                former: HashMap::new(),
            }),
        })
    }

    /// Blocks all changes until the returned guard is dropped.
    pub fn freeze(&self) -> Frozen<'_> {
        Frozen { _gate: self.gate.write() }
    }

    /// Returns which extended attributes are shown.
    pub fn xattr_support(&self) -> XattrSupport {
        self.options.xattrs
    }

    /// Returns the layers, lowest first.
    pub fn layers(&self) -> &[Arc<dyn Layer>] {
        self.stack.layers()
    }

    /// Returns the memory use of the upper.
    pub fn usage(&self) -> Usage {
        Usage {
            limit: self.space.limit(),
            used: self.space.used(),
            inodes: self.state.lock().inodes.len() as u64,
        }
    }

    /// Fails if the tree has no upper.
    fn check_writable(&self) -> Result<(), FsError> {
        if self.options.upper_limit.is_some() { Ok(()) } else { Err(FsError::ReadOnly) }
    }

    /// Looks up `name` in the directory `parent` and adds a reference to the object.
    ///
    /// # Errors
    /// [`FsError::NotFound`] if there is no such name; see also [`FsError::NotADirectory`],
    /// [`FsError::Stale`] and [`FsError::Layer`].
    pub fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Entry, FsError> {
        let mut state = self.state.lock();
        let target = state.find(&self.stack, parent, name)?.ok_or(FsError::NotFound)?;
        state.entry(&self.stack, parent, target)
    }

    /// Returns the attributes of `ino`.
    ///
    /// # Errors
    /// [`FsError::Stale`] for an unknown number, or [`FsError::Layer`].
    pub fn attr(&self, ino: Ino) -> Result<Attr, FsError> {
        let mut state = self.state.lock();
        let ino = state.current(ino);
        state.attr(&self.stack, ino)
    }

    /// Returns the parent of the directory `dir`. The root is its own parent.
    ///
    /// # Errors
    /// [`FsError::NotADirectory`] for any other object, [`FsError::Stale`] for an unknown number.
    pub fn parent(&self, dir: Ino) -> Result<Ino, FsError> {
        Ok(self.state.lock().dir(&self.stack, dir)?.parent)
    }

    /// Drops `count` references to `ino`. An object without a name is deleted with its last
    /// reference.
    pub fn forget(&self, ino: Ino, count: u64) {
        self.state.lock().forget(&self.space, ino, count);
    }
}

impl TreeState {
    /// Returns the directory `ino`, which must have been looked up before.
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
            // The root's number does not encode an inode of a layer.
            None if self.dirs.contains_key(&ino) => Ok(FileType::Directory),
            None => Ok(stack.attr(lower_inode(stack, ino)?)?.kind),
        }
    }

    /// Looks up `name` in the lower directories of `dir`.
    fn find_lower(
        &self,
        stack: &Stack,
        dir: Ino,
        name: &[u8],
    ) -> Result<Option<LowerEntry>, FsError> {
        Ok(stack.lookup(&self.dir(stack, dir)?.sources, name)?)
    }

    /// Looks up `name` in `parent`. A directory that is found is cached.
    fn find(
        &mut self,
        stack: &Stack,
        parent: Ino,
        name: &[u8],
    ) -> Result<Option<EntryTarget>, FsError> {
        let dir = self.dir(stack, parent)?;
        namespace::check_name(name)?;
        if let Some(item) = dir.changes.get(name) {
            return Ok(item.slot.shown());
        }
        let Some(lower) = stack.lookup(&dir.sources, name)? else { return Ok(None) };
        let target = EntryTarget { ino: lower.ino(), kind: lower.kind() };
        if let LowerEntry::Directory(sources) = lower {
            self.cache_dir(stack, parent, name, target.ino, sources)?;
        }
        Ok(Some(target))
    }

    /// Adds a directory of the layers to `dirs`.
    fn cache_dir(
        &mut self,
        stack: &Stack,
        parent: Ino,
        name: &[u8],
        ino: Ino,
        sources: LowerDirs,
    ) -> Result<(), FsError> {
        if let Some(known) = self.dirs.get(&ino) {
            if known.parent == parent && *known.name == *name {
                return Ok(());
            }
            // Only a crafted image has a directory with two names, which may also form a loop.
            let layer = &stack.layers()[usize::from(sources[0].layer)];
            return Err(LayerError::corrupt(
                &layer.name().into(),
                format!("the directory {:?} has two paths", String::from_utf8_lossy(name)),
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
                changes: dir::DirChanges::default(),
                dirty: false,
                children: 0,
                subdirs: None,
            },
        );
        Ok(())
    }

    /// Returns `target`, which was found in `parent`, as an entry, and adds a reference.
    fn entry(&mut self, stack: &Stack, parent: Ino, target: EntryTarget) -> Result<Entry, FsError> {
        let attr = self.attr(stack, target.ino)?;
        self.retain(target.ino, parent);
        Ok(Entry { ino: target.ino, attr, is_stand_in: self.is_stand_in(target.ino) })
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

    /// Removes `ino` from memory if it has neither references nor changes to keep, then each parent
    /// that was cached only because of it.
    fn drop_if_unused(&mut self, space: &Space, ino: Ino) {
        let mut next = Some(ino);
        while let Some(ino) = next.take() {
            if self.refs.contains_key(&ino) || ino == Ino::ROOT || self.has_former(ino) {
                return;
            }
            if let Some(current) = self.former.remove(&ino) {
                next = Some(current);
            }
            let dead = self.inodes.get(&ino).is_some_and(|inode| inode.body.read().nlink == 0);
            if let Some(dir) = self.dirs.get(&ino) {
                if dir.children > 0 || !dead && (dir.dirty || !dir.changes.is_empty()) {
                    return;
                }
                let parent = dir.parent;
                // The changes of a removed directory may still hold whiteouts.
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
                self.scratch_parents.remove(&ino);
                self.loans.remove(&ino);
                inode.release(space);
            }
        }
    }

    /// Drops objects that were found for an operation but not kept by it.
    fn drop_unused(&mut self, tree: &Tree, found: impl IntoIterator<Item = EntryTarget>) {
        for target in found {
            self.drop_if_unused(&tree.space, target.ino);
        }
    }

    /// Returns the object `ino` as an inode of the upper, after a copy-up if necessary, and marks
    /// the directory where it was last found as dirty.
    fn upper_inode(&mut self, tree: &Tree, ino: Ino) -> Result<Arc<UpperInode>, FsError> {
        let inode = self.upper_inode_charged(tree, ino, false)?;
        self.mark_parent_dirty(ino, &inode);
        Ok(inode)
    }

    /// Like [`upper_inode`](Self::upper_inode), but ignores the size limit: for removals.
    fn upper_inode_unlimited(&mut self, tree: &Tree, ino: Ino) -> Result<Arc<UpperInode>, FsError> {
        self.upper_inode_charged(tree, ino, true)
    }

    fn upper_inode_charged(
        &mut self,
        tree: &Tree,
        ino: Ino,
        always: bool,
    ) -> Result<Arc<UpperInode>, FsError> {
        if let Some(inode) = self.inodes.get(&ino) {
            return Ok(inode.clone());
        }
        let source = match self.dirs.get(&ino) {
            // The root's number does not encode an inode of a layer.
            Some(dir) => *dir.sources.first().ok_or(FsError::Stale)?,
            None => lower_inode(&tree.stack, ino)?,
        };
        let inode = UpperInode::copy_up(&tree.stack, source)?;
        if inode.kind == FileType::Directory && !self.dirs.contains_key(&ino) {
            return Err(FsError::Stale);
        }
        let cost = inode.cost();
        if always {
            tree.space.charge_unlimited(cost);
        } else {
            tree.space.charge(cost)?;
        }
        let inode = Arc::new(inode);
        self.inodes.insert(ino, inode.clone());
        if inode.kind == FileType::Directory {
            self.mark_dirty(ino);
        }
        Ok(inode)
    }

    /// Marks the directory in which the delta walk will find the changed object `ino`.
    fn mark_parent_dirty(&mut self, ino: Ino, inode: &UpperInode) {
        if inode.kind == FileType::Directory || inode.origin.is_none() {
            return;
        }
        match self.refs.get(&ino).map(|reference| reference.parent) {
            Some(parent) if self.dirs.contains_key(&parent) => self.mark_dirty(parent),
            _ => self.dirty_parent_unknown = true,
        }
    }

    /// Marks `dir` and all its ancestors as containing a change.
    fn mark_dirty(&mut self, dir: Ino) {
        let mut at = dir;
        while let Some(d) = self.dirs.get_mut(&at) {
            // A scratch parent is in the delta only if it also contains something else. Its own
            // parent was not marked for it.
            if d.dirty && !self.scratch_parents.contains(&at) {
                break;
            }
            d.dirty = true;
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
            (None, None) => stack.attr(lower_inode(stack, ino)?)?,
        };
        if attr.kind == FileType::Directory {
            // One block, as on a disk file system. The sizes that layers store mean nothing in a
            // union.
            attr.size = 4096;
            attr.allocated = 0;
            // `nlink` of a directory in the upper only shows whether it was removed.
            let stored = if inode.is_none() { attr.nlink } else { 0 };
            if inode.is_none_or(|i| i.body.read().nlink > 0) {
                attr.nlink = 2 + self.subdirs(stack, ino, stored)?;
            }
        }
        Ok(attr)
    }

    /// Returns the number of visible subdirectories of `dir`. `stored` is the layer's link count.
    fn subdirs(&mut self, stack: &Stack, ino: Ino, stored: u32) -> Result<u32, FsError> {
        let dir = self.dir(stack, ino)?;
        if let Some(count) = dir.subdirs {
            return Ok(count);
        }
        let count = if dir.sources.len() == 1 && dir.changes.is_empty() && stored >= 2 {
            stored - 2
        } else {
            // If no layer has a subdirectory here, which is common for very large directories, the
            // listing is not needed.
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

    /// Invalidates the cached number of subdirectories of `dir`.
    fn invalidate_subdir_count(&mut self, dir: Ino) {
        if let Some(dir) = self.dirs.get_mut(&dir) {
            dir.subdirs = None;
        }
    }

    /// Adjusts the cached number of subdirectories, if there is one.
    fn add_subdirs(&mut self, dir: Ino, by: i32) {
        if let Some(count) = self.dirs.get_mut(&dir).and_then(|d| d.subdirs.as_mut()) {
            *count = count.saturating_add_signed(by);
        }
    }
}

/// Shrinks a table that is mostly empty, so that memory for a million objects is freed once they
/// are forgotten. The thresholds keep the amortised cost of a removal small.
fn shrink<V>(table: &mut HashMap<Ino, V>) {
    if table.capacity() > 1024 && table.len() < table.capacity() / 8 {
        table.shrink_to(table.len() * 2);
    }
}

/// Returns the object of a layer whose number in the tree is `ino`.
fn lower_inode(stack: &Stack, ino: Ino) -> Result<LowerInode, FsError> {
    LowerInode::from_ino(ino).filter(|source| stack.has(*source)).ok_or(FsError::Stale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_shrink_after_removals() {
        let options = TreeOptions { upper_limit: Some(u64::MAX), xattrs: XattrSupport::None };
        let tree = Tree::new(Vec::new(), options).unwrap();
        let name = |n: u32| n.to_string().into_bytes();
        let top = tree.mknod(Ino::ROOT, b"top", &MknodArgs::directory(0o755, 0, 0)).unwrap().ino;
        for n in 0..20_000 {
            let node =
                [MknodArgs::file(0o644, 0, 0), MknodArgs::directory(0o755, 0, 0)][n as usize % 2];
            tree.mknod(top, &name(n), &node).unwrap();
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
