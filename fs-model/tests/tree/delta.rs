//! Checks of a delta: it is exactly the difference between a tree and its layers.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use fs_model::delta::{Change, Contents, Delta, DeltaEntry};
use fs_model::layer::LayerEntry;
use fs_model::tree::Tree;
use fs_model::{Device, FileType, Ino, Time};

use crate::compare::{self, Numbers, read_all};
use crate::harness::tree_of;
use crate::layer::{Data, MemoryLayer, Node};
use crate::reference::{Id, Model, ROOT};

/// Unpacks a delta like an archive.
pub(crate) fn unpack(tree: &Tree, entries: &[&DeltaEntry]) -> MemoryLayer {
    let mut layer = MemoryLayer::default();
    let mut dirs: HashMap<&[u8], usize> = HashMap::new();
    let mut links: HashMap<Ino, usize> = HashMap::new();
    for entry in entries {
        let path = &*entry.path;
        let (above, name) = match path.iter().rposition(|&b| b == b'/') {
            Some(at) => (&path[..at], &path[at + 1..]),
            None => (&b""[..], path),
        };
        let node = entry.object.map(|object| Node {
            attr: fs_model::Attr { nlink: 0, ..object.attr },
            data: match object.attr.kind {
                FileType::Regular => {
                    let bytes = read_all(tree, object.ino, object.attr.size as usize);
                    Data::File { bytes: bytes.into(), sparse: true }
                }
                FileType::Symlink => Data::Target(tree.read_link(object.ino).unwrap()),
                FileType::Directory => Data::Directory { entries: BTreeMap::new(), opaque: false },
                _ => Data::None,
            },
            xattrs: Contents::xattrs(tree, object.ino).unwrap(),
        });
        if path.is_empty() {
            layer.nodes[0] = node.unwrap();
            dirs.insert(path, 0);
            continue;
        }
        let Some(&dir) = dirs.get(above) else { continue };
        match (node, entry.object) {
            (Some(node), Some(object)) => match links.get(&object.ino) {
                Some(&at) => layer.link(dir, name, at, object.attr.kind),
                None => {
                    let at = layer.add(dir, name, node);
                    links.insert(object.ino, at);
                    if object.attr.kind == FileType::Directory {
                        dirs.insert(path, at);
                    }
                }
            },
            _ => layer.set(dir, name, LayerEntry::Whiteout),
        }
    }
    layer
}

/// The object at a path, without scratch entries.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    what: (FileType, u16, u32, u32, Device),
    mtime: Option<Time>,
    content: Vec<u8>,
    target: Vec<u8>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The first path of the same object.
    first: Vec<u8>,
}

impl Seen {
    /// Returns whether both are equal, except for links.
    fn is_alike(&self, other: &Seen) -> bool {
        (self.what, self.mtime, &self.target, &self.xattrs)
            == (other.what, other.mtime, &other.target, &other.xattrs)
            && self.content == other.content
    }
}

type Snapshot = BTreeMap<Vec<u8>, Seen>;

fn snapshot(model: &Model) -> Snapshot {
    let mut all = Snapshot::new();
    let mut first = HashMap::new();
    see(model, ROOT, Vec::new(), &mut all, &mut first);
    all
}

/// Removes the times of directories that are unknown in `truth`, because they result from changes
/// of names.
fn with_known_times(mut snapshot: Snapshot, truth: &Snapshot) -> Snapshot {
    for (path, seen) in &mut snapshot {
        if truth.get(path).is_some_and(|truth| truth.mtime.is_none())
            && seen.what.0 == FileType::Directory
        {
            seen.mtime = None;
        }
    }
    snapshot
}

fn see(model: &Model, id: Id, path: Vec<u8>, all: &mut Snapshot, first: &mut HashMap<Id, Vec<u8>>) {
    let object = &model.objects[id];
    let seen = Seen {
        what: (object.kind, object.mode, object.uid, object.gid, object.rdev),
        mtime: object.mtime,
        content: object.content.clone(),
        target: object.target.clone(),
        xattrs: if model.xattrs { object.xattrs.clone() } else { BTreeMap::new() },
        first: first.entry(id).or_insert_with(|| path.clone()).clone(),
    };
    for (name, below) in object.names.iter().filter_map(|(n, name)| Some((n, name.present?))) {
        let mut path = path.clone();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        see(model, below, path, all, first);
    }
    all.insert(path, seen);
}

fn assert_same(is: &Snapshot, should: &Snapshot) {
    let paths = |s: &Snapshot| s.keys().map(|p| show(p)).collect::<Vec<_>>();
    assert_eq!(paths(is), paths(should), "the paths of the delta over the layers");
    for ((path, a), (_, b)) in is.iter().zip(should) {
        let path = show(path);
        assert_eq!((a.what, &a.target, &a.xattrs), (b.what, &b.target, &b.xattrs), "{path}");
        assert!(a.content == b.content, "{path}: content");
        assert_eq!(show(&a.first), show(&b.first), "{path}: links");
        if b.mtime.is_some() {
            assert_eq!(a.mtime, b.mtime, "{path}: mtime");
        }
    }
}

fn show(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

/// Returns the number of names of the object at a path, including those hidden by other layers.
fn links_at(model: &Model, path: &[u8]) -> u32 {
    let names = path.split(|&b| b == b'/').filter(|name| !name.is_empty());
    let id = names.fold(ROOT, |dir, name| model.objects[dir].names[name].present.unwrap());
    if model.objects[id].is_dir() { 1 } else { model.nlink(id) }
}

/// Checks the invariants of [`fs_model::delta`].
pub(crate) fn check_form(delta: &Delta) {
    let names = |path: &[u8]| -> Vec<Vec<u8>> {
        path.split(|&b| b == b'/').filter(|n| !n.is_empty()).map(<[u8]>::to_vec).collect()
    };
    let mut dirs = BTreeSet::new();
    let mut links: HashMap<Ino, (u32, u32)> = HashMap::new();
    for (at, entry) in delta.entries.iter().enumerate() {
        let path = names(&entry.path);
        match at {
            0 => assert!(entry.path.is_empty(), "the root is the first entry"),
            _ => {
                assert!(
                    names(&delta.entries[at - 1].path) < path,
                    "{} in order",
                    show(&entry.path)
                );
                assert!(dirs.contains(&path[..path.len() - 1]), "{}: parent", show(&entry.path));
            }
        }
        assert_eq!(entry.object.is_none(), entry.change == Change::Deleted);
        let Some(object) = entry.object else { continue };
        if object.attr.kind == FileType::Directory {
            assert!(dirs.insert(path));
        } else {
            let counted = links.entry(object.ino).or_insert((0, object.attr.nlink));
            counted.0 += 1;
            assert_eq!(counted.1, object.attr.nlink);
        }
    }
    assert!(links.values().all(|(names, nlink)| names == nlink), "link counts are correct");
}

/// Checks the delta of `tree`, whose model is `model`.
pub(crate) fn check(tree: &Tree, model: &Model, layers: &[MemoryLayer], minimal: bool) {
    let delta = tree.delta().unwrap();
    check_form(&delta);
    let all: Vec<&DeltaEntry> = delta.entries.iter().collect();
    let with = |entries: &[&DeltaEntry]| {
        let mut layers = layers.to_vec();
        if !entries.is_empty() {
            layers.push(unpack(tree, entries));
        }
        layers
    };
    let stacked = with(&all);
    let again = Model::of_layers(&stacked, model.xattrs);
    let truth = snapshot(model);
    let whole = snapshot(&again);
    assert_same(&whole, &truth);
    let whole = with_known_times(whole, &truth);
    if !model.xattrs {
        check_hidden(&delta, model);
    }

    let other = tree_of(&stacked, u64::MAX, model.xattrs);
    compare::everything(&other, &again, &mut Numbers::default(), 3);
    assert!(
        other.delta().unwrap().entries.is_empty(),
        "the tree of the unpacked delta has no changes"
    );

    let lower = Model::of_layers(layers, model.xattrs);
    let before = with_known_times(snapshot(&lower), &truth);
    for entry in &all {
        let path = show(&entry.path);
        match (entry.change, before.get(&*entry.path), whole.get(&*entry.path)) {
            (Change::Added, None, Some(_)) | (Change::Deleted, Some(_), None) => {}
            (Change::Unchanged, Some(was), Some(is)) => assert!(was.is_alike(is), "{path} changed"),
            (Change::Modified, Some(was), Some(is)) => {
                // A copy of an object with several names is not that object.
                let is_linked = entry.object.is_some_and(|o| o.attr.nlink > 1)
                    || links_at(&lower, &entry.path) > 1
                    || links_at(model, &entry.path) > 1;
                assert!(!was.is_alike(is) || is_linked, "{path} did not change");
            }
            (change, was, is) => panic!("{path} is {change:?}: {was:?} became {is:?}"),
        }
    }

    if !minimal {
        return;
    }
    for (at, entry) in all.iter().enumerate() {
        let is_parent = all.get(at + 1).is_some_and(|next| {
            entry.path.is_empty()
                || next.path.starts_with(&entry.path)
                    && next.path.get(entry.path.len()) == Some(&b'/')
        });
        if is_parent {
            continue;
        }
        if entry.change == Change::Unchanged {
            let ino = entry.object.unwrap().ino;
            let changed = |e: &&&DeltaEntry| {
                e.change != Change::Unchanged && e.object.is_some_and(|o| o.ino == ino)
            };
            assert!(all.iter().any(|e| changed(&e)), "{} is a needed link", show(&entry.path));
            continue;
        }
        // An equal copy that replaces an object with several names in the layers is a change, even
        // if all other names are gone.
        if let (Some(was), Some(is)) = (before.get(&*entry.path), whole.get(&*entry.path))
            && was.is_alike(is)
        {
            continue;
        }
        let mut rest = all.clone();
        rest.remove(at);
        let without = snapshot(&Model::of_layers(&with(&rest), model.xattrs));
        assert!(with_known_times(without, &truth) != whole, "{} is not needed", show(&entry.path));
    }
}

/// Checks that each object with hidden attributes is an entry of the delta or is reported
/// separately with all of them.
fn check_hidden(delta: &Delta, model: &Model) {
    let mut paths: BTreeMap<Id, Vec<Vec<u8>>> = BTreeMap::new();
    let mut pending = vec![(ROOT, Vec::new())];
    while let Some((id, path)) = pending.pop() {
        for (name, below) in &model.objects[id].names {
            let Some(below) = below.present else { continue };
            let separator: &[u8] = if path.is_empty() { b"" } else { b"/" };
            pending.push((below, [&path[..], separator, name].concat()));
        }
        paths.entry(id).or_default().push(path);
    }
    let hidden: BTreeMap<&[u8], Vec<&[u8]>> = delta
        .hidden
        .iter()
        .map(|h| (&*h.path, h.names.iter().map(|name| &**name).collect()))
        .collect();
    for (id, paths) in paths {
        let before = model.lower.get(id).map(|object| &object.xattrs);
        let set = model.objects[id].xattrs.iter();
        let set: Vec<&[u8]> = set
            .filter(|(name, value)| before.and_then(|b| b.get(*name)) != Some(value))
            .map(|(name, _)| &name[..])
            .collect();
        let listed = |path: &Vec<u8>| delta.entries.iter().any(|e| *e.path == **path);
        // The walk does not visit all names of an object.
        let named: Vec<_> = paths.iter().filter_map(|path| hidden.get(&path[..])).collect();
        match set.is_empty() || paths.iter().any(listed) {
            true => assert!(named.is_empty(), "{}", show(&paths[0])),
            false => {
                assert!(!named.is_empty(), "{}", show(&paths[0]));
                assert!(named.iter().all(|named| **named == set), "{}", show(&paths[0]));
            }
        }
    }
}

/// Path, change, and the object's number, type, mode, size and link count.
type Timeless = (String, Change, Option<(Ino, FileType, u16, u64, u32)>);

/// Returns a delta without times, which differ between runs.
pub(crate) fn timeless(delta: &Delta) -> Vec<Timeless> {
    let entries = delta.entries.iter();
    entries
        .map(|e| {
            let object =
                e.object.map(|o| (o.ino, o.attr.kind, o.attr.mode, o.attr.size, o.attr.nlink));
            (show(&e.path), e.change, object)
        })
        .collect()
}
