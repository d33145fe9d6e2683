//! What passes look at: the stack, what lies beneath the judged layers, and how the two differ.
//!
//! All of it is made when it is first asked for, and once.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use fs_model::LayerError;
use fs_model::attr::{Attr, FileType};
use fs_model::error::LayerErrorKind;
use fs_model::layer::squashfs::CacheOptions;
use fs_model::layer::{Layer, LayerEntry, LayerIno};
use fs_model::tree::Follow;
use provisioners::image::manifest_path;

use super::archive::UNREADABLE;
use super::works::kernel_version;
use super::{CheckError, Finding, Request, Stopped};
use crate::diff::compare::contents;
use crate::layers::{ImageFile, OpenError};
use crate::look::accounts::Accounts;
use crate::look::packages::{Owners, Package, Packages};
use crate::look::{LookError, MAX_PATH, Node, Place, View, Visited, join};
use crate::sandbox::map_image;
use crate::seal::path::{escape, plain};

/// One image of the stack.
pub(super) struct Image {
    pub(super) path: PathBuf,
    /// As the user named it.
    pub(super) name: String,
    /// The whole of it, unless it is a directory.
    pub(super) bytes: Option<Bytes>,
    /// Why it is no layer.
    pub(super) refused: Option<LayerError>,
    /// What stands in the manifest beside it.
    pub(super) manifest: Option<Vec<u8>>,
    digest: OnceLock<String>,
}

impl Image {
    /// The SHA-256 of the whole of it; empty for a directory.
    pub(super) fn digest(&self) -> &str {
        use sha2::Digest;
        let digest =
            |bytes: &Bytes| crate::seal::manifest::hex(&sha2::Sha256::digest((**bytes).as_ref()));
        self.digest.get_or_init(|| self.bytes.as_ref().map(digest).unwrap_or_default())
    }
}

pub(super) type Bytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// The stack, and what is beneath the judged layers.
pub(super) struct Roots {
    /// All layers.
    pub(super) view: View,
    /// Those beneath; none when all are judged.
    pub(super) below: Option<View>,
}

/// A name that the judged layers bring, also to a place where there was something before.
pub(super) struct Brought {
    pub(super) node: Node,
    /// What was there, in the layers beneath.
    pub(super) before: Option<Node>,
}

impl Brought {
    /// Whether it is there already, with the same type, mode and owner.
    pub(super) fn same_attributes(&self) -> bool {
        let of = |attr: &Attr| (attr.kind, attr.mode, attr.uid, attr.gid);
        self.before.as_ref().is_some_and(|before| of(&before.attr) == of(&self.node.attr))
    }

    /// Whether it is a file as before, with the same content.
    pub(super) fn same_content(&self, Roots { view, below }: &Roots) -> Result<bool, LookError> {
        match (&self.before, below) {
            (Some(before), Some(below)) => same_content(below, before, view, &self.node),
            _ => Ok(false),
        }
    }
}

/// How the whole stack differs from what is beneath the judged layers.
#[derive(Default)]
pub(super) struct Difference {
    /// In tree order; also the directories on the way, which stand in overlays as they were.
    pub(super) brought: Vec<Brought>,
    /// What is beneath and no longer there: of a directory, it alone.
    pub(super) gone: Vec<Node>,
}

/// What one layer has itself at a path.
pub(super) struct Own {
    pub(super) path: Vec<u8>,
    /// Nothing for a whiteout.
    pub(super) attr: Option<Attr>,
    /// What the layers beneath it have there.
    pub(super) under: Option<Node>,
}

pub(super) struct Context<'a> {
    pub(super) request: &'a Request,
    pub(super) images: Vec<Image>,
    names: Vec<String>,
    roots: Result<Roots, String>,
    difference: OnceLock<Result<Difference, LookError>>,
    accounts: OnceLock<Result<Accounts, LookError>>,
    packages: OnceLock<Result<(Packages, Owners), LookError>>,
    packages_below: OnceLock<Result<Packages, LookError>>,
    /// The kernel that boots, if one was named: its version, if it says one.
    pub(super) kernel: Option<Option<String>>,
}

impl<'a> Context<'a> {
    pub(super) fn open(request: &'a Request) -> Result<Self, CheckError> {
        let mut images = Vec::new();
        let mut layers = Vec::new();
        for (index, path) in request.images.iter().enumerate() {
            let judged = index >= request.beneath;
            let (image, layer) = open(path)?;
            match (&image.refused, layer) {
                (Some(error), _) if !judged || !request.selection.wants(&UNREADABLE) => {
                    return Err(OpenError::Layer(error.clone()).into());
                }
                (_, layer) => layers.extend(layer),
            }
            images.push(image);
        }
        let refused = images.iter().find_map(|image| image.refused.as_ref());
        let roots = match refused {
            Some(error) => Err(error.to_string()),
            None => {
                let view = View::new(layers)?;
                let below = match request.beneath {
                    0 => None,
                    count => Some(view.lowest(count)?),
                };
                Ok(Roots { view, below })
            }
        };
        let names = images.iter().map(|image| image.name.clone()).collect();
        let kernel = request.kernel.as_ref().map(|path| {
            let fail = |source| CheckError::Kernel { path: path.clone(), source };
            map_image(path).map_err(fail).map(|image| kernel_version(&image))
        });
        Ok(Context {
            request,
            images,
            names,
            roots,
            difference: OnceLock::new(),
            accounts: OnceLock::new(),
            packages: OnceLock::new(),
            packages_below: OnceLock::new(),
            kernel: kernel.transpose()?,
        })
    }

    /// What was asked for and is probably not what was meant.
    pub(super) fn hints(&self) -> Result<Vec<String>, LookError> {
        let mut hints = Vec::new();
        if let (Some(None), Some(path)) = (&self.kernel, &self.request.kernel) {
            let path = path.display();
            hints.push(format!("{path} does not say the version of a kernel: is it one?"));
        }
        if let (Ok(Roots { view, .. }), [image]) = (&self.roots, &self.images[..]) {
            let name = &image.name;
            let shell = reach(view, b"bin/sh").and_then(|shell| match shell {
                None => reach(view, b"usr/bin/sh"),
                there => Ok(there),
            });
            match shell {
                Ok(Some(_)) => {}
                Ok(None) => hints
                    .push(format!("{name} is judged as a root by itself: name its base before it")),
                // It is found.
                Err(error) if self.damage(&error).is_some() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(hints)
    }

    /// What a layer that turns out to be damaged is: a finding if it is judged, and nothing where that
    /// is not looked for, or where it is no fault of the layer's.
    pub(super) fn damage(&self, error: &LookError) -> Option<Finding> {
        let LookError::Damaged { path, error: LayerError { image, kind } } = error else {
            return None;
        };
        let layer = self.names.iter().position(|name| **name == **image)?;
        let of_layer = layer >= self.first() && !matches!(kind, LayerErrorKind::Io(_));
        // Names of the image may stand in it.
        let message = plain(&kind.to_string()).into_owned();
        (of_layer && self.request.selection.wants(&UNREADABLE))
            .then(|| Finding::new(&UNREADABLE, image, Some(path), message))
    }

    /// The images, as the user named them, the lowest first.
    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    /// The lowest layer that is judged.
    pub(super) fn first(&self) -> usize {
        self.request.beneath
    }

    /// The judged images, each with its place in the stack.
    pub(super) fn judged(&self) -> impl Iterator<Item = (usize, &Image)> {
        self.images.iter().enumerate().skip(self.first())
    }

    /// The image that a node comes from.
    pub(super) fn layer(&self, node: &Node) -> &str {
        &self.names[node.layer()]
    }

    /// The judged images, the topmost first, for what is of all of them.
    pub(super) fn judged_names(&self) -> Vec<String> {
        self.names[self.first()..].iter().rev().cloned().collect()
    }

    /// The judged image that took away or replaced one of these paths; all of them where none did.
    pub(super) fn culprits(&self, paths: &[Vec<u8>]) -> Result<Vec<String>, Stopped> {
        let Roots { view, below } = self.roots()?;
        if self.judged().count() > 1 {
            for path in paths {
                let mut real = Vec::new();
                if let Some(below) = below {
                    real.extend(way(below, path)?);
                }
                for path in real.iter().chain([path]) {
                    if let Some(layer) = touched(view, path, self.first())? {
                        return Ok(vec![self.names[layer].clone()]);
                    }
                }
            }
        }
        Ok(self.judged_names())
    }

    pub(super) fn roots(&self) -> Result<&Roots, Stopped> {
        let refused =
            |reason: &String| Stopped::CannotRun(format!("a layer cannot be read: {reason}"));
        self.roots.as_ref().map_err(refused)
    }

    pub(super) fn difference(&self) -> Result<&Difference, Stopped> {
        let roots = self.roots()?;
        let difference = self.difference.get_or_init(|| difference(roots, self.first()));
        difference.as_ref().map_err(|error| Stopped::Failed(error.clone()))
    }

    /// The users and groups of the merged root.
    pub(super) fn accounts(&self) -> Result<&Accounts, Stopped> {
        let view = &self.roots()?.view;
        let accounts = self.accounts.get_or_init(|| Accounts::read(view));
        accounts.as_ref().map_err(|error| Stopped::Failed(error.clone()))
    }

    /// The package that brought a path, as the merged root's database has it.
    pub(super) fn package(&self, path: &[u8]) -> Result<Option<&Package>, Stopped> {
        let view = &self.roots()?.view;
        let read = || {
            let packages = Packages::read(view)?;
            let owners = packages.owners(view)?;
            Ok((packages, owners))
        };
        match self.packages.get_or_init(read) {
            Ok((packages, owners)) => Ok(owners.of(path).and_then(|name| packages.get(name))),
            Err(error) => Err(Stopped::Failed(error.clone())),
        }
    }

    /// Whether the layers beneath have a package in the very same version.
    pub(super) fn has_below(&self, package: &Package) -> Result<bool, Stopped> {
        let Some(below) = &self.roots()?.below else { return Ok(false) };
        match self.packages_below.get_or_init(|| Packages::read(below)) {
            Ok(packages) => Ok(packages.iter().any(|(_, other)| {
                let of = |package: &Package| {
                    let Package { name, architecture, version, .. } = package;
                    (name.clone(), architecture.clone(), version.clone())
                };
                other.is_installed() && of(other) == of(package)
            })),
            Err(error) => Err(Stopped::Failed(error.clone())),
        }
    }

    /// Whether the overlay that a file comes from was made with the very same one beneath it as
    /// there is now, as its manifest says: then what it did to it, it did on purpose.
    pub(super) fn saw(&self, file: &Node, below: &View) -> Result<bool, Stopped> {
        let Some(manifest) = &self.images[file.layer()].manifest else { return Ok(false) };
        let then = crate::below::recorded(manifest).remove(&*escape(&file.path));
        let Some(then) = then.and_then(|then| then.sha256) else { return Ok(false) };
        match reach(below, &file.path)?.filter(Node::is_file) {
            Some(now) => Ok(crate::seal::manifest::hex(&below.digest(&now)?) == then),
            None => Ok(false),
        }
    }

    /// What the layer at this place has itself, beside what is beneath it, in tree order.
    pub(super) fn own(&self, layer: usize) -> Result<Vec<Own>, Stopped> {
        let view = &self.roots()?.view;
        let below = match layer {
            0 => None,
            count => {
                Some(view.lowest(count).map_err(|error| Stopped::CannotRun(error.to_string()))?)
            }
        };
        Ok(own(&view.stack().layers()[layer], below.as_ref())?)
    }
}

fn open(path: &std::path::Path) -> Result<(Image, Option<Arc<dyn Layer>>), OpenError> {
    let (layer, refused) = match crate::layers::open(&[path.to_owned()], CacheOptions::default()) {
        Ok(layers) => (layers.layers.into_iter().next(), None),
        Err(OpenError::Layer(error)) => (None, Some(error)),
        // It may still be an archive, of another kind than those that are read.
        Err(OpenError::Unknown { .. }) => {
            let image = Arc::from(path.to_string_lossy());
            (None, Some(LayerError::unsupported(&image, "it is of none of the formats of layers")))
        }
        Err(error) => return Err(error),
    };
    let bytes: Option<Bytes> = match path.is_dir() {
        true => None,
        false => Some(Arc::new(ImageFile::open(path)?)),
    };
    let manifest = match std::fs::read(manifest_path(path)) {
        Ok(manifest) => Some(manifest),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(OpenError::Io { path: manifest_path(path), source: error }),
    };
    let name = path.to_string_lossy().into_owned();
    let digest = OnceLock::new();
    Ok((Image { path: path.to_owned(), name, bytes, refused, manifest, digest }, layer))
}

fn difference(roots: &Roots, first: usize) -> Result<Difference, LookError> {
    let mut difference = Difference::default();
    let root = roots.view.root()?;
    let below = roots.below.as_ref();
    let before = below.map(View::root).transpose()?;
    if root.layer() < first {
        return Ok(difference);
    }
    // A stack of listings, so that no depth of the tree can be too much.
    let mut pending = vec![vec![Brought { node: root, before }].into_iter()];
    let mut visited = Visited::default();
    while let Some(listing) = pending.last_mut() {
        let Some(brought) = listing.next() else {
            pending.pop();
            continue;
        };
        if brought.node.is_dir() {
            visited.enter(&roots.view, &brought.node)?;
            let mut under = match (&brought.before, below) {
                (Some(before), Some(below)) => below.children(before)?,
                _ => Vec::new(),
            }
            .into_iter()
            .peekable();
            let mut children = Vec::new();
            for node in roots.view.children(&brought.node)? {
                while let Some(gone) = under.next_if(|other| other.name() < node.name()) {
                    difference.gone.push(gone);
                }
                let before = under.next_if(|other| other.name() == node.name());
                if node.layer() >= first {
                    children.push(Brought { node, before });
                }
            }
            difference.gone.extend(under);
            pending.push(children.into_iter());
        }
        difference.brought.push(brought);
    }
    Ok(difference)
}

fn own(layer: &Arc<dyn Layer>, below: Option<&View>) -> Result<Vec<Own>, LookError> {
    let mut all = Vec::new();
    let root = Own { path: Vec::new(), attr: None, under: below.map(View::root).transpose()? };
    let mut pending = vec![vec![(root, Some(layer.root()))].into_iter()];
    let mut seen = HashSet::new();
    while let Some(listing) = pending.last_mut() {
        let Some((mut own, ino)) = listing.next() else {
            pending.pop();
            continue;
        };
        let damaged = |error| LookError::Damaged { path: own.path.clone().into(), error };
        let attr = ino.map(|ino| layer.attr(ino)).transpose().map_err(damaged)?;
        if let (Some(ino), Some(FileType::Directory)) = (ino, attr.map(|attr| attr.kind)) {
            // Each directory has one place; see `Visited`.
            if layer.has_single_places() && !seen.insert(ino) {
                let image = Arc::from(layer.name());
                let what = "this directory lies in itself, or in two places";
                return Err(damaged(LayerError::corrupt(&image, what)));
            }
            if own.path.len() >= MAX_PATH {
                let image = Arc::from(layer.name());
                let what = "directories are nested deeper than a path can be long";
                let path = own.path[..64].into();
                return Err(LookError::Damaged { path, error: LayerError::corrupt(&image, what) });
            }
            let mut children: Vec<(Own, Option<LayerIno>)> = Vec::new();
            for entry in layer.read_dir(ino).map_err(damaged)? {
                let under = match (&own.under, below) {
                    (Some(under), Some(below)) => below.child(under, &entry.name)?,
                    _ => None,
                };
                let ino = match entry.entry {
                    LayerEntry::Object { ino, .. } => Some(ino),
                    LayerEntry::Whiteout => None,
                };
                children.push((Own { path: join(&own.path, &entry.name), attr: None, under }, ino));
            }
            pending.push(children.into_iter());
        }
        own.attr = attr;
        all.push(own);
    }
    Ok(all)
}

/// The most of a file of lines that is read.
const MOST: usize = 16 << 20;

/// A file of lines; empty where there is none.
pub(super) fn text(view: &View, path: &str) -> Result<String, LookError> {
    let file = reach(view, path.as_bytes())?.filter(Node::is_file);
    let bytes = file.map(|file| view.head(&file, MOST)).transpose()?.unwrap_or_default();
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Whether two nodes are files with the same content. Holes of terabytes take no time.
pub(super) fn same_content(
    old_view: &View,
    old: &Node,
    new_view: &View,
    new: &Node,
) -> Result<bool, LookError> {
    Ok(old.is_file()
        && new.is_file()
        && old.attr.size == new.attr.size
        && contents(old_view, old, new_view, new)?)
}

/// What a path leads to in a root, if it leads anywhere: links in a circle lead nowhere.
pub(super) fn reach(view: &View, path: &[u8]) -> Result<Option<Node>, LookError> {
    match view.find(path, Follow::Yes) {
        Err(LookError::Path { .. }) => Ok(None),
        found => found,
    }
}

/// What is at a path and what it leads to, link by link, each by its path without links before it and
/// by the one that leads through them.
fn way(view: &View, path: &[u8]) -> Result<Vec<Vec<u8>>, LookError> {
    let mut at = path.to_vec();
    let mut way = Vec::new();
    for _ in 0..40 {
        let node = match view.find(&at, Follow::No) {
            Err(LookError::Path { .. }) | Ok(None) => break,
            Ok(Some(node)) => node,
            Err(error) => return Err(error),
        };
        way.push(node.path.clone());
        way.push(at);
        if !node.is_link() {
            break;
        }
        at = absolute(&node.path, &view.link(&node)?);
    }
    Ok(way)
}

/// The topmost layer from `first` on that has something at a path, or that hides what is there.
pub(super) fn touched(view: &View, path: &[u8], first: usize) -> Result<Option<usize>, LookError> {
    let mut at = path;
    loop {
        let places = view.places(at)?;
        let here = |place: &Option<Place>| match place {
            Some(Place::Object(attr)) => at == path || attr.kind != FileType::Directory,
            Some(Place::Whiteout) => true,
            None => false,
        };
        let found = places.iter().skip(first).rposition(here);
        if found.is_some() {
            return Ok(found.map(|layer| layer + first));
        }
        match at.iter().rposition(|&byte| byte == b'/') {
            Some(slash) => at = &at[..slash],
            None => return Ok(None),
        }
    }
}

/// Where a link at `path` leads to, from the root, by its text alone.
pub(super) fn absolute(path: &[u8], target: &[u8]) -> Vec<u8> {
    let mut names: Vec<&[u8]> = Vec::new();
    if target.first() != Some(&b'/') {
        names.extend(path.split(|&byte| byte == b'/'));
        names.pop();
    }
    for name in target.split(|&byte| byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => drop(names.pop()),
            name => names.push(name),
        }
    }
    names.join(&b'/')
}
