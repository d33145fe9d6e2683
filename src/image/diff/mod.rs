//! Compares two stacks of layers without mounting them.
//!
//! Two [`StackView`]s are compared, the *old* one and the *new* one. To compare an overlay with its
//! base, the old view consists of the lowest layers of the new one ([`StackView::lowest`]).
//!
//! Invariants:
//! - Changes are visited in tree order: names are compared bytewise, a directory precedes its
//!   entries, and each path occurs once. They are visited during the comparison: memory is used for
//!   the listings of the directories on the path and for each changed hard link, not for all
//!   changes.
//! - Parts that both views have from the same layers are not read: where two directories are merged
//!   from the same layers below some layer, only the names in the layers above are compared. So the
//!   cost of comparing an overlay with its base depends on the overlay.
//! - Contents are equal if they are the same inode of the same layer, or have the same size and the
//!   same bytes. Times and digests are not used.
//! - The merged roots are compared, not the layers: a whiteout of a missing name is not a change,
//!   and neither is an unmodified copy of a lower file.
//! - A deleted directory is one change, which counts its former entries; these are visited only
//!   with [`DiffOptions::within_deleted`]. Each entry of an added directory is visited.
//!
//! ```no_run
//! # use overcoat::image::{diff::{Diff, DiffOptions}, view::{LookError, WalkControl}};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let images = ["base.squashfs".into(), "overlay.cpio.gz".into()];
//! let new = overcoat::image::view::StackView::open(&images)?;
//! let old = new.lowest(1)?;
//! Diff::new(&old, &new, DiffOptions::default()).changes(&mut |change| {
//!     println!("{:?} {}", change.kind, change.what);
//!     Ok::<_, LookError>(WalkControl::Into)
//! })?;
//! # Ok(())
//! # }
//! ```

mod change;
pub(crate) mod compare;
pub(crate) mod packages;
pub(crate) mod text;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fs_model::FileType;
use fs_model::layer::Layer;
use fs_model::layer::squashfs::CacheOptions;
use fs_model::stack::{LowerEntry, LowerInode};

pub use self::change::{Aspect, Aspects, ChangeKind, DiffTotals, PathChange, RemovedEntries};
use provisioners::image::ImageLocation;

use crate::image::open::OpenError;
use crate::image::view::{
    LookError, StackView, ViewNode, Visited, WalkControl, components, join, sources,
};

/// Options of a comparison.
#[derive(Clone, Debug, Default)]
pub struct DiffOptions {
    /// Whether to compare modification times, in whole seconds: archives store no fractions.
    pub mtime: bool,
    /// Whether to visit each path in a deleted directory, with [`PathChange::within_deleted`].
    pub within_deleted: bool,
    /// Visits only changes at and below these paths; an empty list means everywhere. Symbolic links
    /// are not followed.
    pub paths: Vec<Vec<u8>>,
}

/// The comparison of two views. See the [module](self) for its invariants.
#[derive(Debug)]
pub struct Diff<'a> {
    old: &'a StackView,
    new: &'a StackView,
    options: DiffOptions,
    /// For each layer of the new view, its index in the old view.
    shared: Vec<Option<u16>>,
    /// Whether the new view contains all layers of the old one.
    contains_old: bool,
}

/// The lower entries of the old and the new view for a name.
type EntryPair = (Option<LowerEntry>, Option<LowerEntry>);

/// A path that may have changed.
#[derive(Debug)]
struct ComparedPath {
    path: Vec<u8>,
    old: Option<LowerEntry>,
    new: Option<LowerEntry>,
    /// The layer that deletes it, if any.
    deleter: Option<u16>,
    within_deleted: bool,
}

/// Hard links seen so far: for each inode, the inode of the other view at its first path.
#[derive(Debug, Default)]
struct SeenLinks {
    old: HashMap<LowerInode, Option<LowerInode>>,
    new: HashMap<LowerInode, (Option<LowerInode>, Vec<u8>)>,
}

impl<'a> Diff<'a> {
    /// Creates a comparison. Nothing is read yet.
    pub fn new(old: &'a StackView, new: &'a StackView, options: DiffOptions) -> Diff<'a> {
        let address = |layer: &Arc<dyn Layer>| Arc::as_ptr(layer).cast::<()>();
        let of_old: Vec<_> = old.stack().layers().iter().map(address).collect();
        let find = |layer| of_old.iter().position(|old| *old == address(layer));
        let shared: Vec<_> =
            new.stack().layers().iter().map(|layer| find(layer).map(|at| at as u16)).collect();
        let known: BTreeSet<_> = shared.iter().flatten().collect();
        let contains_old = known.len() == of_old.len();
        Diff { old, new, options, shared, contains_old }
    }

    /// Calls `visit` with each change; its result controls whether and where the walk continues.
    ///
    /// # Errors
    /// Fails if `visit` fails or a layer is damaged.
    pub fn changes<E: From<LookError>>(
        &self,
        visit: &mut dyn FnMut(&PathChange) -> Result<WalkControl, E>,
    ) -> Result<(), E> {
        let mut links = SeenLinks::default();
        let (mut visited_old, mut visited_new) = (Visited::default(), Visited::default());
        for start in self.starts()? {
            // A stack of listings instead of recursion, so that the depth is not limited.
            let mut pending = vec![vec![start].into_iter()];
            while let Some(listing) = pending.last_mut() {
                let Some(compared) = listing.next() else {
                    pending.pop();
                    continue;
                };
                let (old, new) = self.nodes(&compared)?;
                let change = self.change(&compared, old.clone(), new.clone(), &mut links)?;
                let walk = change.as_ref().map_or(Ok(WalkControl::Into), &mut *visit)?;
                match walk {
                    WalkControl::Stop => return Ok(()),
                    WalkControl::Past => continue,
                    WalkControl::Into => {}
                }
                let is_dir = |node: &Option<ViewNode>| node.as_ref().is_some_and(ViewNode::is_dir);
                let gone = is_dir(&old) && !is_dir(&new);
                if is_dir(&new) || (gone && self.options.within_deleted) {
                    if let Some(old) = &old {
                        visited_old.enter(self.old, old)?;
                    }
                    if let Some(new) = &new {
                        visited_new.enter(self.new, new)?;
                    }
                    pending.push(self.inside(old.as_ref(), new.as_ref(), &compared)?.into_iter());
                }
            }
        }
        Ok(())
    }

    /// Returns the starting points: the root, or the selected paths without nested ones.
    fn starts(&self) -> Result<Vec<ComparedPath>, LookError> {
        let (old, new) = (self.old.root()?, self.new.root()?);
        let root = || ComparedPath {
            path: Vec::new(),
            old: Some(old.found.clone()),
            new: Some(new.found.clone()),
            deleter: None,
            within_deleted: false,
        };
        if self.options.paths.is_empty() {
            return Ok(vec![root()]);
        }
        let names = |path: &Vec<u8>| components(path).into_iter().rev().collect::<Vec<_>>();
        let paths: BTreeSet<Vec<Vec<u8>>> = self.options.paths.iter().map(names).collect();
        let mut starts: Vec<ComparedPath> = Vec::new();
        let mut last: Option<Vec<Vec<u8>>> = None;
        for names in paths {
            if last.as_ref().is_some_and(|last| names.starts_with(last)) {
                continue;
            }
            let mut compared = root();
            for name in &names {
                compared = self.step(&compared, name)?;
            }
            starts.push(compared);
            last = Some(names);
        }
        Ok(starts)
    }

    /// Returns the compared path for `name` in the directories of `compared`.
    fn step(&self, compared: &ComparedPath, name: &[u8]) -> Result<ComparedPath, LookError> {
        let path = join(&compared.path, name);
        let find = |view: &StackView, found: &Option<LowerEntry>| match found {
            Some(LowerEntry::Directory(dir)) => look_up(view, dir, name, &path),
            _ => Ok(None),
        };
        let (old, new) = (find(self.old, &compared.old)?, find(self.new, &compared.new)?);
        let deleter = match (&old, &new, &compared.new) {
            (Some(_), None, Some(LowerEntry::Directory(dir))) => self.deleter(dir, name, &path)?,
            (Some(_), None, Some(LowerEntry::Object { source, .. })) => Some(source.layer),
            _ => compared.deleter,
        };
        Ok(ComparedPath { path, old, new, deleter, within_deleted: false })
    }

    fn nodes(
        &self,
        compared: &ComparedPath,
    ) -> Result<(Option<ViewNode>, Option<ViewNode>), LookError> {
        let node =
            |view: &StackView, found: &Option<LowerEntry>| -> Result<Option<ViewNode>, LookError> {
                let Some(found) = found.clone() else { return Ok(None) };
                let path = compared.path.clone();
                match view.stack().attr(found.source()) {
                    Ok(attr) => Ok(Some(ViewNode { path, found, attr })),
                    Err(error) => Err(LookError::Damaged { path: path.into(), error }),
                }
            };
        Ok((node(self.old, &compared.old)?, node(self.new, &compared.new)?))
    }

    /// Returns the change at one path, if there is any.
    fn change(
        &self,
        compared: &ComparedPath,
        old: Option<ViewNode>,
        new: Option<ViewNode>,
        links: &mut SeenLinks,
    ) -> Result<Option<PathChange>, LookError> {
        let mut what = Aspects::default();
        let mut removed = RemovedEntries::default();
        let kind = match (&old, &new) {
            (None, None) => return Ok(None),
            (None, Some(_)) => ChangeKind::Added,
            (Some(_), None) => ChangeKind::Deleted,
            (Some(old), Some(new)) => {
                what = self.compare(old, new)?;
                ChangeKind::Changed
            }
        };
        if let Some(old) = &old
            && old.is_dir()
            && !new.as_ref().is_some_and(ViewNode::is_dir)
            && !compared.within_deleted
        {
            removed = count(self.old, old)?;
        }
        let mut link = None;
        if let Some(new) = &new {
            link = links.record(old.as_ref(), new, &mut what);
        }
        if kind == ChangeKind::Changed && what.is_empty() {
            return Ok(None);
        }
        let layer = match &new {
            Some(new) => Some(new.layer()),
            None => compared.deleter.map(usize::from),
        };
        let within_deleted = compared.within_deleted;
        Ok(Some(PathChange { kind, what, old, new, layer, removed, within_deleted, link }))
    }

    fn compare(&self, old: &ViewNode, new: &ViewNode) -> Result<Aspects, LookError> {
        let mut what = compare::attributes(&old.attr, &new.attr, self.options.mtime);
        let same = self.same(old.found.source(), new.found.source());
        if same && (!old.is_dir() || !old.path.is_empty()) {
            return Ok(what);
        }
        if self.old.xattrs(old)? != self.new.xattrs(new)? {
            what.insert(Aspect::Xattrs);
        }
        if old.attr.kind != new.attr.kind {
            return Ok(what);
        }
        let (aspect, differs) = match old.attr.kind {
            FileType::Regular => {
                let sizes = old.attr.size == new.attr.size;
                let same = sizes && compare::contents(self.old, old, self.new, new)?;
                (Aspect::Content, !same)
            }
            FileType::Symlink => (Aspect::Target, self.old.link(old)? != self.new.link(new)?),
            FileType::Directory => (Aspect::Replaced, self.is_replaced(old, new)),
            _ => return Ok(what),
        };
        if differs {
            what.insert(aspect);
        }
        Ok(what)
    }

    /// Whether both are the same inode of the same layer.
    fn same(&self, old: LowerInode, new: LowerInode) -> bool {
        old.ino == new.ino
            && self.shared.get(usize::from(new.layer)).copied().flatten() == Some(old.layer)
    }

    /// Returns how many of the lowest directories in two merges are the same.
    fn common(&self, old: &[LowerInode], new: &[LowerInode]) -> usize {
        old.iter()
            .rev()
            .zip(new.iter().rev())
            .take_while(|(old, new)| self.same(**old, **new))
            .count()
    }

    /// Whether the new directory hides the old one instead of merging with it.
    fn is_replaced(&self, old: &ViewNode, new: &ViewNode) -> bool {
        self.contains_old && self.common(sources(old), sources(new)) == 0
    }

    /// Returns the entries of a directory that may have changed.
    fn inside(
        &self,
        old: Option<&ViewNode>,
        new: Option<&ViewNode>,
        compared: &ComparedPath,
    ) -> Result<Vec<ComparedPath>, LookError> {
        const NONE: &[LowerInode] = &[];
        let old_dir = old.map_or(NONE, |old| sources(old));
        let new_dir = new.map_or(NONE, |new| sources(new));
        let common = self.common(old_dir, new_dir);
        // Below these directories both merges are the same, so other names cannot differ.
        let above = (&old_dir[..old_dir.len() - common], &new_dir[..new_dir.len() - common]);
        let mut names: BTreeMap<Box<[u8]>, EntryPair> = BTreeMap::new();
        if common == 0 {
            for (name, found) in entries(self.old, old_dir, &compared.path)? {
                names.insert(name, (Some(found), None));
            }
            for (name, found) in entries(self.new, new_dir, &compared.path)? {
                names.entry(name).or_default().1 = Some(found);
            }
        } else {
            let mut listed_names = BTreeSet::new();
            for (view, sources) in [(self.old, above.0), (self.new, above.1)] {
                for source in sources {
                    let layer = &view.stack().layers()[usize::from(source.layer)];
                    let listed = layer.read_dir(source.ino);
                    listed_names.extend(
                        listed.map_err(damaged(&compared.path))?.into_iter().map(|e| e.name),
                    );
                }
            }
            for name in listed_names {
                let path = join(&compared.path, &name);
                let old = look_up(self.old, old_dir, &name, &path)?;
                let new = look_up(self.new, new_dir, &name, &path)?;
                names.insert(name, (old, new));
            }
        }
        let gone = new.is_none_or(|new| !new.is_dir());
        let mut found = Vec::new();
        for (name, (old, new)) in names {
            if self.is_same(old.as_ref(), new.as_ref()) {
                continue;
            }
            let path = join(&compared.path, &name);
            let deleter = match (&old, &new) {
                (Some(_), None) if !gone => self.deleter(new_dir, &name, &path)?,
                (Some(_), None) => {
                    compared.deleter.or(compared.new.as_ref().map(|new| new.source().layer))
                }
                _ => None,
            };
            found.push(ComparedPath { path, old, new, deleter, within_deleted: gone });
        }
        Ok(found)
    }

    /// Whether nothing at or below a name can have changed.
    fn is_same(&self, old: Option<&LowerEntry>, new: Option<&LowerEntry>) -> bool {
        match (old, new) {
            (None, None) => true,
            (Some(LowerEntry::Directory(old)), Some(LowerEntry::Directory(new))) => {
                old.len() == new.len() && self.common(old, new) == old.len()
            }
            (
                Some(LowerEntry::Object { source: old, .. }),
                Some(LowerEntry::Object { source: new, .. }),
            ) => self.same(*old, *new),
            _ => false,
        }
    }

    /// Returns the layer of the new view that hides `name` in the directory merged from `dir`.
    fn deleter(
        &self,
        dir: &[LowerInode],
        name: &[u8],
        path: &[u8],
    ) -> Result<Option<u16>, LookError> {
        // An opaque directory counts only if the new view still has all layers of the old one.
        let hider = self.new.hider(dir, name, path)?;
        Ok(hider.filter(|hider| hider.whiteout || self.contains_old).map(|hider| hider.layer))
    }
}

impl SeenLinks {
    /// Records a path of a file with several hard links. Adds [`Aspect::Links`] if the links
    /// changed, and returns the first changed path of the same file, unless this is it.
    fn record(
        &mut self,
        old: Option<&ViewNode>,
        new: &ViewNode,
        what: &mut Aspects,
    ) -> Option<Vec<u8>> {
        let old = old.filter(|old| old.is_file());
        let several = |node: &ViewNode| node.attr.nlink > 1;
        if !new.is_file() || !(several(new) || old.is_some_and(several)) {
            return None;
        }
        let was = old.map(|old| old.found.source());
        let is = new.found.source();
        let mut changed = old.is_some_and(|old| old.attr.nlink != new.attr.nlink);
        if let Some(was) = was {
            changed |= *self.old.entry(was).or_insert(Some(is)) != Some(is);
        }
        let link = match self.new.get(&is) {
            Some((first, path)) => {
                changed |= *first != was;
                Some(path.clone())
            }
            None => {
                self.new.insert(is, (was, new.path.clone()));
                None
            }
        };
        if changed && was.is_some() {
            what.insert(Aspect::Links);
        }
        link
    }
}

/// Opens two stacks of images, each lowest first. A file in both is opened once, so that its layer
/// is known to be the same.
///
/// # Errors
/// Fails if an image cannot be read, has an unknown format, or is damaged.
pub fn open(old: &[PathBuf], new: &[PathBuf]) -> Result<(StackView, StackView), OpenError> {
    let identity = |path: &Path| {
        let ImageLocation { file, offset } = ImageLocation::of(path);
        let metadata = std::fs::metadata(file);
        metadata
            .map(|metadata| (metadata.dev(), metadata.ino(), offset))
            .map_err(|source| OpenError::Io { path: path.to_owned(), source })
    };
    let mut opened: HashMap<(u64, u64, u64), Arc<dyn Layer>> = HashMap::new();
    let mut view = |paths: &[PathBuf]| {
        let mut layers = Vec::with_capacity(paths.len());
        for path in paths {
            let identity = identity(path)?;
            let layer = match opened.get(&identity) {
                Some(layer) => layer.clone(),
                None => {
                    let caches = CacheOptions::default();
                    let layer = crate::image::open::open_on(&layers, path, caches)?;
                    opened.insert(identity, layer.clone());
                    layer
                }
            };
            layers.push(layer);
        }
        StackView::new(layers)
    };
    Ok((view(old)?, view(new)?))
}

/// Counts the entries of a directory.
fn count(view: &StackView, dir: &ViewNode) -> Result<RemovedEntries, LookError> {
    let mut removed = RemovedEntries::default();
    view.walk::<LookError>(dir, &mut |node| {
        if node.path != dir.path {
            removed.entries += 1;
            let bytes = if node.is_file() { node.attr.size } else { 0 };
            removed.bytes = removed.bytes.saturating_add(bytes);
        }
        Ok(WalkControl::Into)
    })?;
    Ok(removed)
}

fn look_up(
    view: &StackView,
    dir: &[LowerInode],
    name: &[u8],
    path: &[u8],
) -> Result<Option<LowerEntry>, LookError> {
    view.stack().lookup(dir, name).map_err(damaged(path))
}

fn entries(
    view: &StackView,
    dir: &[LowerInode],
    path: &[u8],
) -> Result<fs_model::stack::LowerEntries, LookError> {
    match dir {
        [] => Ok(Vec::new()),
        dir => view.stack().entries(dir).map_err(damaged(path)),
    }
}

fn damaged(path: &[u8]) -> impl Fn(fs_model::LayerError) -> LookError {
    move |error| LookError::Damaged { path: path.into(), error }
}

#[cfg(test)]
mod tests;
