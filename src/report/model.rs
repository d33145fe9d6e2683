//! The data of `inspect`, as a table of all paths in the merged root, and all paths of the base
//! that are deleted in it.
//!
//! Invariants:
//! - The root comes first, a directory precedes its entries, and names are in bytewise order.
//! - Bytes are counted once: of several hard links, the first has the bytes of the file.
//! - A deleted entry has its place and attributes in the base. Entries of a deleted directory are
//!   included.
//! - Changes are those of [`crate::image::diff`].

use std::collections::{HashMap, HashSet};

use fs_model::stack::LowerInode;
use fs_model::{Attr, FileType};

use crate::image::diff::text::{TextComparison, unified};
use crate::image::diff::{Aspect, Aspects, ChangeKind, Diff, DiffOptions, PathChange};
use crate::image::open::OpenError;
use crate::image::view::packages::DpkgDatabase;
use crate::image::view::{LookError, StackView, ViewNode, WalkControl};
use crate::text::escape::escape;

/// Maximum number of items: above any real root, and within memory. (A damaged image can contain a
/// directory at many paths.)
const MAX_ITEMS: usize = 8 << 20;

/// Maximum size, in bytes, of a file whose text difference is included. Comparing such files never
/// reaches the time limit, so the result does not depend on the machine.
const MAX_TEXT_SIZE: u64 = 16 << 10;
/// Maximum bytes of text differences in total.
const MAX_TEXTS_SIZE: usize = 1 << 20;

/// The stack cannot be inspected.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ModelError {
    /// The layers cannot be stacked.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A layer is damaged.
    #[error(transparent)]
    Look(#[from] LookError),
    /// There are too many paths.
    #[error(
        "/{}: there are more than {MAX_ITEMS} paths: the image is damaged or too large",
        escape(path)
    )]
    TooMany {
        /// The path at which the limit was reached.
        path: Box<[u8]>,
    },
}

/// A path.
#[derive(Clone, Debug)]
pub(crate) struct InspectItem {
    /// The index of the parent directory; the root's is 0.
    pub parent: u32,
    /// The name; empty for the root.
    pub name: Box<[u8]>,
    /// Its attributes, or those in the base if it is deleted.
    pub attr: Attr,
    /// The layer that provides or deletes it.
    pub layer: u16,
    /// How it differs from the base, if it does.
    pub change: Option<ChangeKind>,
    /// The aspects that changed.
    pub what: Aspects,
    /// The attributes in the base, if it changed.
    pub before: Option<Attr>,
    /// Bytes of its content, if it is the first hard link of the file; if deleted, those in the
    /// base.
    pub bytes: u64,
    /// The package that owns it: an index into [`Model::packages`].
    pub package: Option<u32>,
    /// The target of an added, changed or deleted symbolic link.
    pub target: Option<Box<[u8]>>,
    /// The unified diff of a changed text file, if the file is small and readable by all users.
    pub text: Option<Box<str>>,
}

/// The data of a stack. See the [module](self) for its invariants.
#[derive(Debug)]
pub(crate) struct Model {
    /// All paths.
    pub items: Vec<InspectItem>,
    /// The packages with their versions.
    pub packages: Vec<(String, String)>,
}

impl Model {
    /// Builds the data of `view`.
    ///
    /// # Errors
    /// Fails if a layer is damaged, or there are too many paths.
    pub(crate) fn new(view: &StackView) -> Result<Model, ModelError> {
        let base = view.lowest(1)?;
        let mut builder = ModelBuilder::new(view, &base);
        let options = DiffOptions { within_deleted: true, ..DiffOptions::default() };
        let mut changes = Vec::new();
        let mut texts = 0;
        Diff::new(&base, view, options).changes(&mut |change| {
            if changes.len() >= MAX_ITEMS {
                return Err(ModelError::TooMany { path: change.path().into() });
            }
            let (path, mut pending) = builder.item(change)?;
            if texts < MAX_TEXTS_SIZE {
                pending.item.text = builder.text(change)?;
                texts += pending.item.text.as_ref().map_or(0, |text| text.len());
            }
            changes.push((path, pending));
            Ok(WalkControl::Into)
        })?;
        let mut changes = changes.into_iter().peekable();
        view.walk(&view.root()?, &mut |node| {
            while let Some((_, item)) =
                changes.next_if(|(path, _)| components(path).lt(components(&node.path)))
            {
                builder.push(item)?;
            }
            let item = match changes.next_if(|(path, _)| *path == node.path) {
                Some((_, item)) => item,
                None => PendingItem::unchanged(node),
            };
            builder.push(item)?;
            Ok::<_, ModelError>(WalkControl::Into)
        })?;
        for (_, item) in changes {
            builder.push(item)?;
        }
        let mut model = Model { items: builder.items, packages: Vec::new() };
        model.find_packages(view, &base)?;
        Ok(model)
    }

    /// Returns the path of an item from the root, without a leading slash.
    #[cfg(test)]
    fn path(&self, mut index: u32) -> Vec<u8> {
        let mut names = Vec::new();
        while index != 0 {
            let item = &self.items[index as usize];
            names.push(&*item.name);
            index = item.parent;
        }
        names.reverse();
        names.join(&b'/')
    }

    /// Determines the package of each item. Deleted items belong to packages of the base.
    fn find_packages(&mut self, view: &StackView, base: &StackView) -> Result<(), LookError> {
        let mut numbers: HashMap<String, u32> = HashMap::new();
        let is_deleted = |item: &InspectItem| item.change == Some(ChangeKind::Deleted);
        for (view, of_deleted) in [(view, false), (base, true)] {
            if of_deleted && !self.items.iter().any(is_deleted) {
                break;
            }
            let packages = DpkgDatabase::read(view)?;
            let owners = packages.owners(view)?;
            let mut ancestors = PathTracker::default();
            for (index, item) in self.items.iter_mut().enumerate().skip(1) {
                let path = ancestors.advance(index as u32, item.parent, &item.name);
                if is_deleted(item) == of_deleted
                    && let Some(name) = owners.get(path)
                {
                    let next = numbers.len() as u32;
                    item.package = Some(*numbers.entry(name.to_owned()).or_insert_with(|| {
                        let version = packages.get(name).map_or("", |package| &package.version);
                        self.packages.push((name.to_owned(), version.to_owned()));
                        next
                    }));
                }
            }
        }
        Ok(())
    }
}

/// The path of the current item in a walk over all items.
#[derive(Default)]
struct PathTracker {
    path: Vec<u8>,
    /// The path's items, each with the length of its own path.
    ends: Vec<(u32, usize)>,
}

impl PathTracker {
    /// Returns the path of the next item.
    fn advance(&mut self, index: u32, parent: u32, name: &[u8]) -> &[u8] {
        while self.ends.last().is_some_and(|&(item, _)| item != parent) {
            self.ends.pop();
        }
        self.path.truncate(self.ends.last().map_or(0, |&(_, end)| end));
        if !self.path.is_empty() {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(name);
        self.ends.push((index, self.path.len()));
        &self.path
    }
}

/// An item that has not been added to the table.
struct PendingItem {
    depth: usize,
    /// The inode, and whether it exists only in the base.
    source: (LowerInode, bool),
    item: InspectItem,
}

impl PendingItem {
    fn unchanged(node: &ViewNode) -> PendingItem {
        let item = InspectItem {
            parent: 0,
            name: node.name().into(),
            attr: node.attr,
            layer: node.layer() as u16,
            change: None,
            what: Aspects::default(),
            before: None,
            bytes: 0,
            package: None,
            target: None,
            text: None,
        };
        PendingItem {
            depth: components(&node.path).count(),
            source: (node.found.source(), false),
            item,
        }
    }
}

struct ModelBuilder<'a> {
    view: &'a StackView,
    base: &'a StackView,
    items: Vec<InspectItem>,
    /// The items from the root to the last one.
    ancestors: Vec<u32>,
    /// Files with several hard links that have been added.
    links: HashSet<(LowerInode, bool)>,
}

impl<'a> ModelBuilder<'a> {
    fn new(view: &'a StackView, base: &'a StackView) -> ModelBuilder<'a> {
        ModelBuilder { view, base, items: Vec::new(), ancestors: Vec::new(), links: HashSet::new() }
    }

    fn item(&self, change: &PathChange) -> Result<(Vec<u8>, PendingItem), LookError> {
        let is_deleted = change.new.is_none();
        let (Some(node), view) = (change.node(), if is_deleted { self.base } else { self.view })
        else {
            // Unreachable: a change has at least one node.
            return Ok((Vec::new(), PendingItem::unchanged(&self.view.root()?)));
        };
        let mut pending = PendingItem::unchanged(node);
        pending.source.1 = is_deleted;
        let item = &mut pending.item;
        item.change = Some(change.kind);
        item.what = change.what;
        item.layer = change.layer.unwrap_or_default() as u16;
        if change.kind == ChangeKind::Changed {
            item.before = change.old.as_ref().map(|old| old.attr);
        }
        if node.is_link() {
            item.target = Some(view.link(node)?.into());
        }
        Ok((node.path.clone(), pending))
    }

    /// Returns the difference in the text of a changed file.
    fn text(&self, change: &PathChange) -> Result<Option<Box<str>>, LookError> {
        let (Some(old), Some(new)) = (&change.old, &change.new) else { return Ok(None) };
        let is_small = |node: &ViewNode| node.is_file() && node.attr.size <= MAX_TEXT_SIZE;
        if !change.what.contains(Aspect::Content) || !is_small(old) || !is_small(new) {
            return Ok(None);
        }
        // Pages are shared: content that not all users may read, such as /etc/shadow, is left out.
        if !is_legible(self.base, &old.path)? || !is_legible(self.view, &new.path)? {
            return Ok(None);
        }
        match unified(Some((self.base, old)), Some((self.view, new)))? {
            TextComparison::Unified(text) => Ok(Some(String::from_utf8_lossy(&text).into())),
            TextComparison::Binary | TextComparison::Large => Ok(None),
        }
    }

    /// Adds the next item to the table.
    fn push(&mut self, pending: PendingItem) -> Result<(), ModelError> {
        let PendingItem { depth, source, mut item } = pending;
        let index = self.items.len();
        if index >= MAX_ITEMS {
            return Err(ModelError::TooMany { path: item.name });
        }
        self.ancestors.truncate(depth);
        item.parent = self.ancestors.last().copied().unwrap_or(0);
        self.ancestors.push(index as u32);
        if item.attr.kind == FileType::Regular && (item.attr.nlink < 2 || self.links.insert(source))
        {
            item.bytes = item.attr.size;
        }
        self.items.push(item);
        Ok(())
    }
}

/// Whether all users may read a file and enter its parent directories.
fn is_legible(view: &StackView, path: &[u8]) -> Result<bool, LookError> {
    let mut at = view.root()?;
    for name in components(path) {
        match view.child(&at, name)? {
            Some(node) if at.attr.mode & 0o001 != 0 => at = node,
            _ => return Ok(false),
        }
    }
    Ok(at.attr.mode & 0o004 != 0)
}

/// Iterates over the components of a path, so that paths compare in the order of a walk.
fn components(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|&byte| byte == b'/').filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, create_dir_all, set_permissions, write};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn differences_of_files_that_not_all_users_may_read_are_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let images = ["base", "over"].map(|name| folder.path().join(name));
        for (image, text) in images.iter().zip(["old\n", "token\n"]) {
            for dir in ["open", "closed", "closed/open", "was-closed"] {
                create_dir_all(image.join(dir)).unwrap();
                write(image.join(dir).join("file"), text).unwrap();
                set_permissions(image.join(dir).join("file"), Permissions::from_mode(0o644))
                    .unwrap();
                set_permissions(image.join(dir), Permissions::from_mode(0o755)).unwrap();
            }
            set_permissions(image, Permissions::from_mode(0o755)).unwrap();
            set_permissions(image.join("closed"), Permissions::from_mode(0o700)).unwrap();
        }
        set_permissions(images[0].join("was-closed"), Permissions::from_mode(0o750)).unwrap();
        let model = Model::new(&StackView::open(&images).unwrap()).unwrap();
        let texts = (0..model.items.len() as u32)
            .filter(|&index| model.items[index as usize].text.is_some())
            .map(|index| model.path(index));
        assert_eq!(texts.collect::<Vec<_>>(), [b"open/file"]);
    }
}
