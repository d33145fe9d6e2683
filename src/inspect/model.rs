//! What there is to see, as a table: every name of the merged root, and every name of the base that
//! is deleted in it.
//!
//! Invariants:
//! - The root comes first, a directory before what is in it, names in bytewise order.
//! - Bytes are counted once: of the names of one file, the first has its bytes.
//! - A deleted thing is where it was, with what the base had there; what was in a deleted directory
//!   is there too.

use std::cmp::Ordering;
use std::collections::HashMap;

use fs_model::stack::Source;
use fs_model::{Attr, FileType};

use crate::look::packages::Packages;
use crate::look::{LookError, Node, Place, View, sources};
use crate::seal::path::escape;

/// The most names that are taken in: well above any root, and below what memory holds. (A damaged
/// image can have a directory that is in itself.)
const MOST: usize = 8 << 20;

/// The stack cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A layer is damaged.
    #[error(transparent)]
    Look(#[from] LookError),
    /// There is no end of names.
    #[error("/{}: more than {MOST} names: the image is damaged, or too large to be shown", escape(path))]
    TooMany {
        /// Where the last of them was.
        path: Box<[u8]>,
    },
}

/// How a name differs from the base.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Change {
    /// Not at all.
    #[default]
    Same,
    /// The base has nothing there.
    Added,
    /// The base has something else there.
    Changed,
    /// The base has something there, the root has not.
    Deleted,
}

/// What differs in something that is changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Aspects {
    /// Its type.
    pub kind: bool,
    /// Its content, the target of a link, the numbers of a device.
    pub content: bool,
    /// Its permissions.
    pub mode: bool,
    /// Its owner or group.
    pub owner: bool,
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
    /// The layer that it comes from; of a deleted thing, the one that deletes it, as far as known.
    pub layer: u16,
    /// How it differs from the base.
    pub change: Change,
    /// In what.
    pub aspects: Aspects,
    /// What the base has there, where that is something else.
    pub before: Option<Attr>,
    /// Bytes of its content, if it is the first name of the file; what a deleted file had.
    pub bytes: u64,
    /// The package that brought it.
    pub package: Option<u32>,
    /// The target of a link, the base's if it is deleted.
    pub target: Option<Box<[u8]>>,
}

/// What there is to see of a stack. See the [module](self) for its invariants.
#[derive(Debug)]
pub struct Model {
    /// All names.
    pub items: Vec<Item>,
    /// The packages that [`Item::package`] counts in, with their versions.
    pub packages: Vec<(String, String)>,
}

/// A name that the base, the root, or both have.
struct Pair {
    base: Option<Node>,
    root: Option<Node>,
}

/// What is in one directory, and has not been taken in yet.
struct Listing {
    parent: u32,
    rest: std::vec::IntoIter<Pair>,
    /// Whether all of it is the base's.
    same: bool,
    /// The layer that deletes all of it.
    deleted_by: Option<u16>,
}

impl Model {
    /// All that there is to see in `view`.
    ///
    /// # Errors
    /// A damaged layer, and one without end.
    pub fn of(view: &View) -> Result<Model, ModelError> {
        let base = view.lowest(1).map_err(|_| ()).ok();
        let mut building = Building {
            view,
            base: base.as_ref().unwrap_or(view),
            items: Vec::new(),
            links: HashMap::new(),
        };
        building.walk()?;
        let mut model = Model { items: building.items, packages: Vec::new() };
        model.find_packages(view, building.base)?;
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
        let both = [(view, false), (base, true)];
        let deleted = |item: &Item| item.change == Change::Deleted;
        for (view, of_deleted) in both {
            if of_deleted && !self.items.iter().any(deleted) {
                break;
            }
            let packages = Packages::read(view)?;
            let owners = packages.owners(view)?;
            // The path of the directory that the walk is in, and where it ends at each level.
            let mut path: Vec<u8> = Vec::new();
            let mut ends: Vec<(u32, usize)> = vec![(0, 0)];
            for index in 1..self.items.len() {
                let item = &mut self.items[index];
                while ends.last().is_some_and(|&(dir, _)| dir != item.parent) && ends.len() > 1 {
                    ends.pop();
                }
                path.truncate(ends.last().map_or(0, |&(_, end)| end));
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(&item.name);
                if item.attr.kind == FileType::Directory {
                    ends.push((index as u32, path.len()));
                }
                if deleted(item) == of_deleted
                    && let Some(name) = owners.of(&path)
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

struct Building<'a> {
    view: &'a View,
    base: &'a View,
    items: Vec<Item>,
    /// The files of several names that have been met, and whether in the base alone.
    links: HashMap<(Source, bool), ()>,
}

impl Building<'_> {
    fn walk(&mut self) -> Result<(), ModelError> {
        let root = Pair { base: Some(self.base.root()?), root: Some(self.view.root()?) };
        let mut pending = vec![Listing {
            parent: 0,
            rest: vec![root].into_iter(),
            same: self.view.names().len() == 1,
            deleted_by: None,
        }];
        // A stack of listings, so that no depth of the tree can be too much.
        while let Some(listing) = pending.last_mut() {
            let Some(pair) = listing.rest.next() else {
                pending.pop();
                continue;
            };
            let (parent, same, deleted_by) = (listing.parent, listing.same, listing.deleted_by);
            if let Some(below) = self.take(parent, same, deleted_by, &pair)? {
                pending.push(below);
            }
        }
        Ok(())
    }

    /// Takes in one name; what is in it, if it is a directory.
    fn take(
        &mut self,
        parent: u32,
        same: bool,
        deleted_by: Option<u16>,
        pair: &Pair,
    ) -> Result<Option<Listing>, ModelError> {
        let (base, root) = (pair.base.as_ref(), pair.root.as_ref());
        let (node, of) = match (root, base) {
            (Some(node), _) => (node, self.view),
            (None, Some(node)) => (node, self.base),
            (None, None) => return Ok(None),
        };
        if self.items.len() >= MOST {
            return Err(ModelError::TooMany { path: node.path.clone().into() });
        }
        let mut aspects = Aspects::default();
        let change = match (base, root) {
            (_, None) => Change::Deleted,
            _ if same => Change::Same,
            (None, Some(_)) => Change::Added,
            (Some(base), Some(root)) => {
                aspects = self.compare(base, root)?;
                if aspects == Aspects::default() { Change::Same } else { Change::Changed }
            }
        };
        let deleted_by = match (change, deleted_by) {
            (Change::Deleted, None) => Some(self.who_deletes(&node.path)?),
            (_, by) => by,
        };
        let index = self.items.len() as u32;
        let bytes = self.bytes(node, root.is_none());
        self.items.push(Item {
            parent,
            name: node.name().into(),
            attr: node.attr,
            layer: deleted_by.unwrap_or(node.layer() as u16),
            change,
            aspects,
            before: base.filter(|_| change == Change::Changed).map(|base| base.attr),
            bytes,
            package: None,
            target: if node.is_link() { Some(of.link(node)?.into()) } else { None },
        });
        if !node.is_dir() && !base.is_some_and(Node::is_dir) {
            return Ok(None);
        }
        let same = same || root.zip(base).is_some_and(|(root, base)| sources(root) == sources(base));
        let rest = match same {
            true => alone(self.view, root)?.into_iter().map(|node| Pair { base: None, root: Some(node) }).collect(),
            false => both(alone(self.base, base)?, alone(self.view, root)?),
        };
        let rest = rest.into_iter();
        Ok(Some(Listing { parent: index, rest, same, deleted_by }))
    }

    fn bytes(&mut self, node: &Node, of_base: bool) -> u64 {
        let first = |links: &mut HashMap<_, _>| {
            links.insert((node.found.source(), of_base), ()).is_none()
        };
        match node.is_file() && (node.attr.nlink < 2 || first(&mut self.links)) {
            true => node.attr.size,
            false => 0,
        }
    }

    /// The layer whose whiteout it is.
    fn who_deletes(&self, path: &[u8]) -> Result<u16, LookError> {
        let places = self.view.places(path)?;
        let last = places.len().saturating_sub(1);
        let whiteout = |place: &Option<Place>| *place == Some(Place::Whiteout);
        Ok(places.iter().rposition(whiteout).unwrap_or(last) as u16)
    }

    fn compare(&self, base: &Node, root: &Node) -> Result<Aspects, LookError> {
        let (a, b) = (&base.attr, &root.attr);
        Ok(Aspects {
            kind: a.kind != b.kind,
            content: a.kind == b.kind && base.found != root.found && !self.is_content_same(base, root)?,
            mode: a.mode != b.mode && !root.is_link(),
            owner: (a.uid, a.gid) != (b.uid, b.gid),
        })
    }

    fn is_content_same(&self, base: &Node, root: &Node) -> Result<bool, LookError> {
        let (a, b) = (&base.attr, &root.attr);
        match a.kind {
            FileType::Symlink => Ok(self.base.link(base)? == self.view.link(root)?),
            FileType::Regular if a.size != b.size => Ok(false),
            FileType::Regular => Ok(self.base.digest(base)? == self.view.digest(root)?),
            _ => Ok(a.rdev == b.rdev),
        }
    }
}

fn alone(view: &View, dir: Option<&Node>) -> Result<Vec<Node>, LookError> {
    dir.map_or(Ok(Vec::new()), |dir| view.children(dir))
}

/// Two listings as one, by name.
fn both(base: Vec<Node>, root: Vec<Node>) -> Vec<Pair> {
    let (mut base, mut root) = (base.into_iter().peekable(), root.into_iter().peekable());
    let mut pairs = Vec::with_capacity(base.len().max(root.len()));
    loop {
        let order = match (base.peek(), root.peek()) {
            (None, None) => return pairs,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(a), Some(b)) => a.name().cmp(b.name()),
        };
        let (base, root) = match order {
            Ordering::Less => (base.next(), None),
            Ordering::Greater => (None, root.next()),
            Ordering::Equal => (base.next(), root.next()),
        };
        pairs.push(Pair { base, root });
    }
}
