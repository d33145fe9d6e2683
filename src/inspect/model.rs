//! What there is to see, as a table: every name of the merged root, and every name of the base that
//! is deleted in it.
//!
//! Invariants:
//! - The root comes first, a directory before what is in it, names in bytewise order.
//! - Bytes are counted once: of the names of one file, the first has its bytes.
//! - A deleted thing is where it was, with what the base had there; what was in a deleted directory
//!   is there too.
//! - What is a change, and of what, says [`crate::diff`].

use std::collections::{HashMap, HashSet};

use fs_model::stack::Source;
use fs_model::{Attr, FileType};

use crate::diff::text::{Text, unified};
use crate::diff::{Aspect, Aspects, Change, Diff, Kind, Options};
use crate::layers::OpenError;
use crate::look::packages::Packages;
use crate::look::{LookError, Node, View, Walk};
use crate::seal::path::escape;

/// The most names that are taken in: well above any root, and below what memory holds. (A damaged
/// image can have a directory in many places.)
const MOST: usize = 8 << 20;

/// The largest file of which it is told how its text differs, in bytes. No difference of two such
/// files takes so long that it is cut short, which would depend on the machine.
const MOST_TEXT: u64 = 16 << 10;
/// The most bytes of such texts.
const MOST_TEXTS: usize = 1 << 20;

/// The stack cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The layers cannot be stacked.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A layer is damaged.
    #[error(transparent)]
    Look(#[from] LookError),
    /// There is no end of names.
    #[error(
        "/{}: there are more than {MOST} names: the image is damaged, or too large to be shown",
        escape(path)
    )]
    TooMany {
        /// Where the last of them was.
        path: Box<[u8]>,
    },
}

/// One name.
#[derive(Clone, Debug)]
pub struct Item {
    /// The index of the directory that it is in; the root's is its own.
    pub parent: u32,
    /// The name; the root has none.
    pub name: Box<[u8]>,
    /// What it is, or what the base had, if it is deleted.
    pub attr: Attr,
    /// The layer that it comes from, or that deletes it.
    pub layer: u16,
    /// How it differs from the base, if it does.
    pub change: Option<Kind>,
    /// In what.
    pub what: Aspects,
    /// What the base has there, where that is something else.
    pub before: Option<Attr>,
    /// Bytes of its content, if it is the first name of the file; what a deleted file had.
    pub bytes: u64,
    /// The package that brought it.
    pub package: Option<u32>,
    /// Where a link that was added, changed or deleted points to.
    pub target: Option<Box<[u8]>>,
    /// How the text of a changed file differs, in the unified format, if it is a small one that
    /// everybody may read.
    pub text: Option<Box<str>>,
}

/// What there is to see of a stack. See the [module](self) for its invariants.
#[derive(Debug)]
pub struct Model {
    /// All names.
    pub items: Vec<Item>,
    /// The packages that [`Item::package`] counts in, with their versions.
    pub packages: Vec<(String, String)>,
}

impl Model {
    /// All that there is to see in `view`.
    ///
    /// # Errors
    /// A damaged layer, and one without end.
    pub fn of(view: &View) -> Result<Model, ModelError> {
        let base = view.lowest(1)?;
        let mut building = Building::new(view, &base);
        let options = Options { within_deleted: true, ..Options::default() };
        let mut changes = Vec::new();
        let mut texts = 0;
        Diff::new(&base, view, options).changes(&mut |change| {
            if changes.len() >= MOST {
                return Err(ModelError::TooMany { path: change.path().into() });
            }
            let (path, mut pending) = building.item(change)?;
            if texts < MOST_TEXTS {
                pending.item.text = building.text(change)?;
                texts += pending.item.text.as_ref().map_or(0, |text| text.len());
            }
            changes.push((path, pending));
            Ok(Walk::Into)
        })?;
        let mut changes = changes.into_iter().peekable();
        view.walk(&view.root()?, &mut |node| {
            while let Some((_, item)) =
                changes.next_if(|(path, _)| components(path).lt(components(&node.path)))
            {
                building.push(item)?;
            }
            let item = match changes.next_if(|(path, _)| *path == node.path) {
                Some((_, item)) => item,
                None => Pending::same(node),
            };
            building.push(item)?;
            Ok::<_, ModelError>(Walk::Into)
        })?;
        for (_, item) in changes {
            building.push(item)?;
        }
        let mut model = Model { items: building.items, packages: Vec::new() };
        model.find_packages(view, &base)?;
        Ok(model)
    }

    /// The path of an item, from the root, without a leading slash.
    pub fn path(&self, mut index: u32) -> Vec<u8> {
        let mut names = Vec::new();
        while index != 0 {
            let item = &self.items[index as usize];
            names.push(&*item.name);
            index = item.parent;
        }
        names.reverse();
        names.join(&b'/')
    }

    /// Whose file each item is: what is deleted belongs to a package of the base.
    fn find_packages(&mut self, view: &View, base: &View) -> Result<(), LookError> {
        let mut numbers: HashMap<String, u32> = HashMap::new();
        let is_deleted = |item: &Item| item.change == Some(Kind::Deleted);
        for (view, of_deleted) in [(view, false), (base, true)] {
            if of_deleted && !self.items.iter().any(is_deleted) {
                break;
            }
            let packages = Packages::read(view)?;
            let owners = packages.owners(view)?;
            let mut way = Way::default();
            for (index, item) in self.items.iter_mut().enumerate().skip(1) {
                let path = way.to(index as u32, item.parent, &item.name);
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

/// The path of the item that a walk over all items is at.
#[derive(Default)]
struct Way {
    path: Vec<u8>,
    /// The items on it, and where each one's own path ends.
    ends: Vec<(u32, usize)>,
}

impl Way {
    /// The path of the next item.
    fn to(&mut self, index: u32, parent: u32, name: &[u8]) -> &[u8] {
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

/// An item that has no place yet.
struct Pending {
    depth: usize,
    /// Which object it is, and whether the base alone has it.
    source: (Source, bool),
    item: Item,
}

impl Pending {
    fn same(node: &Node) -> Pending {
        let item = Item {
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
        Pending {
            depth: components(&node.path).count(),
            source: (node.found.source(), false),
            item,
        }
    }
}

struct Building<'a> {
    view: &'a View,
    base: &'a View,
    items: Vec<Item>,
    /// The items on the way from the root to the last one.
    way: Vec<u32>,
    /// The files of several names that have been met.
    links: HashSet<(Source, bool)>,
}

impl<'a> Building<'a> {
    fn new(view: &'a View, base: &'a View) -> Building<'a> {
        Building { view, base, items: Vec::new(), way: Vec::new(), links: HashSet::new() }
    }

    fn item(&self, change: &Change) -> Result<(Vec<u8>, Pending), LookError> {
        let is_deleted = change.new.is_none();
        let (Some(node), view) = (change.node(), if is_deleted { self.base } else { self.view })
        else {
            // A change of nothing, which there is not.
            return Ok((Vec::new(), Pending::same(&self.view.root()?)));
        };
        let mut pending = Pending::same(node);
        pending.source.1 = is_deleted;
        let item = &mut pending.item;
        item.change = Some(change.kind);
        item.what = change.what;
        item.layer = change.layer.unwrap_or_default() as u16;
        if change.kind == Kind::Changed {
            item.before = change.old.as_ref().map(|old| old.attr);
        }
        if node.is_link() {
            item.target = Some(view.link(node)?.into());
        }
        Ok((node.path.clone(), pending))
    }

    /// How the text of a changed file differs.
    fn text(&self, change: &Change) -> Result<Option<Box<str>>, LookError> {
        let (Some(old), Some(new)) = (&change.old, &change.new) else { return Ok(None) };
        let takes = |node: &Node| node.is_file() && node.attr.size <= MOST_TEXT;
        if !change.what.contains(Aspect::Content) || !takes(old) || !takes(new) {
            return Ok(None);
        }
        // A picture is passed on: what not everybody may read, such as /etc/shadow, is not in it.
        if !is_legible(self.base, &old.path)? || !is_legible(self.view, &new.path)? {
            return Ok(None);
        }
        match unified(Some((self.base, old)), Some((self.view, new)))? {
            Text::Unified(text) => Ok(Some(String::from_utf8_lossy(&text).into())),
            Text::Binary | Text::Large => Ok(None),
        }
    }

    /// Puts the next item in its place.
    fn push(&mut self, pending: Pending) -> Result<(), ModelError> {
        let Pending { depth, source, mut item } = pending;
        let index = self.items.len();
        if index >= MOST {
            return Err(ModelError::TooMany { path: item.name });
        }
        self.way.truncate(depth);
        item.parent = self.way.last().copied().unwrap_or(0);
        self.way.push(index as u32);
        if item.attr.kind == FileType::Regular && (item.attr.nlink < 2 || self.links.insert(source))
        {
            item.bytes = item.attr.size;
        }
        self.items.push(item);
        Ok(())
    }
}

/// Whether everybody may read a file, and go where it is.
fn is_legible(view: &View, path: &[u8]) -> Result<bool, LookError> {
    let mut at = view.root()?;
    for name in components(path) {
        match view.child(&at, name)? {
            Some(node) if at.attr.mode & 0o001 != 0 => at = node,
            _ => return Ok(false),
        }
    }
    Ok(at.attr.mode & 0o004 != 0)
}

/// The names of a path, so that paths compare as a walk meets them.
fn components(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|&byte| byte == b'/').filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, create_dir_all, set_permissions, write};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn texts_in_directories_that_not_everybody_may_enter_are_left_out() {
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
        let model = Model::of(&View::open(&images).unwrap()).unwrap();
        let texts = (0..model.items.len() as u32)
            .filter(|&index| model.items[index as usize].text.is_some())
            .map(|index| model.path(index));
        assert_eq!(texts.collect::<Vec<_>>(), [b"open/file"]);
    }
}
