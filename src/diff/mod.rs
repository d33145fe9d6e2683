//! What differs between two stacks of layers, without mounting either.
//!
//! Two [`View`]s are compared, the *old* one and the *new* one. An overlay against its base is the
//! case in which the old view is the lowest layers of the new one ([`View::lowest`]).
//!
//! Invariants:
//! - Changes come in tree order: names compared bytewise, a directory before what is in it, each
//!   path once. They come while the comparison goes on: memory is taken for the listings of the
//!   directories on the way, and for each hard link that changed, not for all changes.
//! - What both views have of the same layer is not read: where directories are merged from the same
//!   layers from some layer down, only the names that the layers above have are looked at. So an
//!   overlay against its base costs what the overlay costs.
//! - Contents are equal when they are the same object of the same layer, or have the same size and
//!   the same bytes. Nothing is said equal by its time or digest.
//! - It is names and objects of the merged roots that are compared, never layers: a whiteout of
//!   nothing is no change, and a copy of what is beneath it is none.
//! - A deleted directory is one change, which counts what was beneath it; each of those paths comes
//!   only with [`Options::within_deleted`]. What is in an added directory comes each by itself.
//!
//! ```no_run
//! # use overcoat::{diff::{Diff, Options}, look::{LookError, Walk}};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let images = ["base.squashfs".into(), "overlay.cpio.gz".into()];
//! let new = overcoat::look::View::open(&images)?;
//! let old = new.lowest(1)?;
//! Diff::new(&old, &new, Options::default()).changes(&mut |change| {
//!     println!("{:?} {}", change.kind, change.what);
//!     Ok::<_, LookError>(Walk::Into)
//! })?;
//! # Ok(())
//! # }
//! ```

mod change;
pub(crate) mod compare;
pub mod packages;
pub mod text;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fs_model::FileType;
use fs_model::layer::Layer;
use fs_model::layer::squashfs::CacheOptions;
use fs_model::stack::{LowerEntry, LowerInode};

pub use self::change::{Aspect, Aspects, Beneath, Change, Kind, Totals};
use provisioners::image::ImageLocation;

use crate::layers::OpenError;
use crate::look::{LookError, Node, View, Visited, Walk, components, join, sources};

/// What is compared, and how much of it is told.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Whether times of modification are compared, in whole seconds: archives have no parts of one.
    pub mtime: bool,
    /// Whether each path beneath a deleted directory comes as a change of its own, with
    /// [`Change::within_deleted`].
    pub within_deleted: bool,
    /// Only changes at these paths and below them; everywhere when there are none. No symbolic link
    /// is followed.
    pub paths: Vec<Vec<u8>>,
}

/// The comparison of two views. See the [module](self) for its invariants.
#[derive(Debug)]
pub struct Diff<'a> {
    old: &'a View,
    new: &'a View,
    options: Options,
    /// For each layer of the new view, which one of the old view it is.
    shared: Vec<Option<u16>>,
    /// Whether all layers of the old view are in the new one.
    grown: bool,
}

/// What the old and the new view have at a name.
type Both = (Option<LowerEntry>, Option<LowerEntry>);

/// A name that may have changed.
#[derive(Debug)]
struct Pair {
    path: Vec<u8>,
    old: Option<LowerEntry>,
    new: Option<LowerEntry>,
    /// The layer that deletes it, if one does.
    deleter: Option<u16>,
    within_deleted: bool,
}

/// Hard links that were met: of which object the other view has what at its first name.
#[derive(Debug, Default)]
struct Links {
    old: HashMap<LowerInode, Option<LowerInode>>,
    new: HashMap<LowerInode, (Option<LowerInode>, Vec<u8>)>,
}

impl<'a> Diff<'a> {
    /// Prepares to compare; nothing is read yet.
    pub fn new(old: &'a View, new: &'a View, options: Options) -> Diff<'a> {
        let address = |layer: &Arc<dyn Layer>| Arc::as_ptr(layer).cast::<()>();
        let of_old: Vec<_> = old.stack().layers().iter().map(address).collect();
        let find = |layer| of_old.iter().position(|old| *old == address(layer));
        let shared: Vec<_> =
            new.stack().layers().iter().map(|layer| find(layer).map(|at| at as u16)).collect();
        let known: BTreeSet<_> = shared.iter().flatten().collect();
        let grown = known.len() == of_old.len();
        Diff { old, new, options, shared, grown }
    }

    /// Shows `visit` each change. What it answers says whether to go on, and into a directory.
    ///
    /// # Errors
    /// What `visit` fails with, and damaged layers.
    pub fn changes<E: From<LookError>>(
        &self,
        visit: &mut dyn FnMut(&Change) -> Result<Walk, E>,
    ) -> Result<(), E> {
        let mut links = Links::default();
        let (mut visited_old, mut visited_new) = (Visited::default(), Visited::default());
        for start in self.starts()? {
            // Listings, so that no depth of the tree can be too much.
            let mut pending = vec![vec![start].into_iter()];
            while let Some(listing) = pending.last_mut() {
                let Some(pair) = listing.next() else {
                    pending.pop();
                    continue;
                };
                let (old, new) = self.nodes(&pair)?;
                let change = self.change(&pair, old.clone(), new.clone(), &mut links)?;
                let walk = change.as_ref().map_or(Ok(Walk::Into), &mut *visit)?;
                match walk {
                    Walk::Stop => return Ok(()),
                    Walk::Past => continue,
                    Walk::Into => {}
                }
                let is_dir = |node: &Option<Node>| node.as_ref().is_some_and(Node::is_dir);
                let gone = is_dir(&old) && !is_dir(&new);
                if is_dir(&new) || (gone && self.options.within_deleted) {
                    if let Some(old) = &old {
                        visited_old.enter(self.old, old)?;
                    }
                    if let Some(new) = &new {
                        visited_new.enter(self.new, new)?;
                    }
                    pending.push(self.inside(old.as_ref(), new.as_ref(), &pair)?.into_iter());
                }
            }
        }
        Ok(())
    }

    /// Where to begin: the root, or the paths that were asked for, without those in one another.
    fn starts(&self) -> Result<Vec<Pair>, LookError> {
        let (old, new) = (self.old.root()?, self.new.root()?);
        let root = || Pair {
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
        let mut starts: Vec<Pair> = Vec::new();
        let mut last: Option<Vec<Vec<u8>>> = None;
        for names in paths {
            if last.as_ref().is_some_and(|last| names.starts_with(last)) {
                continue;
            }
            let mut pair = root();
            for name in &names {
                pair = self.step(&pair, name)?;
            }
            starts.push(pair);
            last = Some(names);
        }
        Ok(starts)
    }

    /// The name `name` in the directories of `pair`.
    fn step(&self, pair: &Pair, name: &[u8]) -> Result<Pair, LookError> {
        let path = join(&pair.path, name);
        let find = |view: &View, found: &Option<LowerEntry>| match found {
            Some(LowerEntry::Directory(dir)) => look_up(view, dir, name, &path),
            _ => Ok(None),
        };
        let (old, new) = (find(self.old, &pair.old)?, find(self.new, &pair.new)?);
        let deleter = match (&old, &new, &pair.new) {
            (Some(_), None, Some(LowerEntry::Directory(dir))) => self.deleter(dir, name, &path)?,
            (Some(_), None, Some(LowerEntry::Object { source, .. })) => Some(source.layer),
            _ => pair.deleter,
        };
        Ok(Pair { path, old, new, deleter, within_deleted: false })
    }

    fn nodes(&self, pair: &Pair) -> Result<(Option<Node>, Option<Node>), LookError> {
        let node = |view: &View, found: &Option<LowerEntry>| -> Result<Option<Node>, LookError> {
            let Some(found) = found.clone() else { return Ok(None) };
            let path = pair.path.clone();
            match view.stack().attr(found.source()) {
                Ok(attr) => Ok(Some(Node { path, found, attr })),
                Err(error) => Err(LookError::Damaged { path: path.into(), error }),
            }
        };
        Ok((node(self.old, &pair.old)?, node(self.new, &pair.new)?))
    }

    /// What changed at one name, if anything did.
    fn change(
        &self,
        pair: &Pair,
        old: Option<Node>,
        new: Option<Node>,
        links: &mut Links,
    ) -> Result<Option<Change>, LookError> {
        let mut what = Aspects::default();
        let mut beneath = Beneath::default();
        let kind = match (&old, &new) {
            (None, None) => return Ok(None),
            (None, Some(_)) => Kind::Added,
            (Some(_), None) => Kind::Deleted,
            (Some(old), Some(new)) => {
                what = self.compare(old, new)?;
                Kind::Changed
            }
        };
        if let Some(old) = &old
            && old.is_dir()
            && !new.as_ref().is_some_and(Node::is_dir)
            && !pair.within_deleted
        {
            beneath = count(self.old, old)?;
        }
        let mut link = None;
        if let Some(new) = &new {
            link = links.meet(old.as_ref(), new, &mut what);
        }
        if kind == Kind::Changed && what.is_empty() {
            return Ok(None);
        }
        let layer = match &new {
            Some(new) => Some(new.layer()),
            None => pair.deleter.map(usize::from),
        };
        let within_deleted = pair.within_deleted;
        Ok(Some(Change { kind, what, old, new, layer, beneath, within_deleted, link }))
    }

    fn compare(&self, old: &Node, new: &Node) -> Result<Aspects, LookError> {
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

    /// Whether both are the same object of the same layer.
    fn same(&self, old: LowerInode, new: LowerInode) -> bool {
        old.ino == new.ino
            && self.shared.get(usize::from(new.layer)).copied().flatten() == Some(old.layer)
    }

    /// How many of the lowest directories that two are merged from are the same.
    fn common(&self, old: &[LowerInode], new: &[LowerInode]) -> usize {
        old.iter()
            .rev()
            .zip(new.iter().rev())
            .take_while(|(old, new)| self.same(**old, **new))
            .count()
    }

    /// Whether a directory of the layers that both have is hidden by another one in its place.
    fn is_replaced(&self, old: &Node, new: &Node) -> bool {
        self.grown && self.common(sources(old), sources(new)) == 0
    }

    /// The names within a directory that may have changed.
    fn inside(
        &self,
        old: Option<&Node>,
        new: Option<&Node>,
        pair: &Pair,
    ) -> Result<Vec<Pair>, LookError> {
        const NONE: &[LowerInode] = &[];
        let old_dir = old.map_or(NONE, |old| sources(old));
        let new_dir = new.map_or(NONE, |new| sources(new));
        let common = self.common(old_dir, new_dir);
        // Both are there and their own: a name that neither has above them is the same in both.
        let above = (&old_dir[..old_dir.len() - common], &new_dir[..new_dir.len() - common]);
        let mut names: BTreeMap<Box<[u8]>, Both> = BTreeMap::new();
        if common == 0 {
            for (name, found) in entries(self.old, old_dir, &pair.path)? {
                names.insert(name, (Some(found), None));
            }
            for (name, found) in entries(self.new, new_dir, &pair.path)? {
                names.entry(name).or_default().1 = Some(found);
            }
        } else {
            let mut told = BTreeSet::new();
            for (view, sources) in [(self.old, above.0), (self.new, above.1)] {
                for source in sources {
                    let layer = &view.stack().layers()[usize::from(source.layer)];
                    let listed = layer.read_dir(source.ino);
                    told.extend(listed.map_err(damaged(&pair.path))?.into_iter().map(|e| e.name));
                }
            }
            for name in told {
                let path = join(&pair.path, &name);
                let old = look_up(self.old, old_dir, &name, &path)?;
                let new = look_up(self.new, new_dir, &name, &path)?;
                names.insert(name, (old, new));
            }
        }
        let gone = new.is_none_or(|new| !new.is_dir());
        let mut pairs = Vec::new();
        for (name, (old, new)) in names {
            if self.is_same(old.as_ref(), new.as_ref()) {
                continue;
            }
            let path = join(&pair.path, &name);
            let deleter = match (&old, &new) {
                (Some(_), None) if !gone => self.deleter(new_dir, &name, &path)?,
                (Some(_), None) => pair.deleter.or(pair.new.as_ref().map(|new| new.source().layer)),
                _ => None,
            };
            pairs.push(Pair { path, old, new, deleter, within_deleted: gone });
        }
        Ok(pairs)
    }

    /// Whether nothing can have changed at and below a name.
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

    /// The layer of the new view that hides `name` in the directory merged from `dir`.
    fn deleter(
        &self,
        dir: &[LowerInode],
        name: &[u8],
        path: &[u8],
    ) -> Result<Option<u16>, LookError> {
        // Only where all layers are still there, a directory itself hides what was in it.
        let hider = self.new.hider(dir, name, path)?;
        Ok(hider.filter(|hider| hider.whiteout || self.grown).map(|hider| hider.layer))
    }
}

impl Links {
    /// Notes a name of a file with several, says whether its links changed, and which changed path
    /// is the first of the same file.
    fn meet(&mut self, old: Option<&Node>, new: &Node, what: &mut Aspects) -> Option<Vec<u8>> {
        let old = old.filter(|old| old.is_file());
        let several = |node: &Node| node.attr.nlink > 1;
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

/// Opens two stacks of images, the lowest first, each file once: what both have is not compared.
///
/// # Errors
/// An image that cannot be read, is none of the known formats, or is damaged.
pub fn open(old: &[PathBuf], new: &[PathBuf]) -> Result<(View, View), OpenError> {
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
                    let one =
                        crate::layers::open(std::slice::from_ref(path), CacheOptions::default())?;
                    let layer = one.layers[0].clone();
                    opened.insert(identity, layer.clone());
                    layer
                }
            };
            layers.push(layer);
        }
        View::new(layers)
    };
    Ok((view(old)?, view(new)?))
}

/// What is beneath a directory.
fn count(view: &View, dir: &Node) -> Result<Beneath, LookError> {
    let mut beneath = Beneath::default();
    view.walk::<LookError>(dir, &mut |node| {
        if node.path != dir.path {
            beneath.entries += 1;
            let bytes = if node.is_file() { node.attr.size } else { 0 };
            beneath.bytes = beneath.bytes.saturating_add(bytes);
        }
        Ok(Walk::Into)
    })?;
    Ok(beneath)
}

fn look_up(
    view: &View,
    dir: &[LowerInode],
    name: &[u8],
    path: &[u8],
) -> Result<Option<LowerEntry>, LookError> {
    view.stack().lookup(dir, name).map_err(damaged(path))
}

fn entries(
    view: &View,
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
