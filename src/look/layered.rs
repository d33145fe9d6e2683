//! What each layer has itself of the names in a directory: which one is seen, and what it hides.

use std::collections::BTreeMap;

use fs_model::FileType;
use fs_model::layer::{Layer, LayerEntry, LayerIno};

use super::{LookError, Node, Place, View, components, join, sources};

/// A name, and what the layers have of it.
#[derive(Clone, Debug)]
pub struct Layered {
    /// The name.
    pub name: Box<[u8]>,
    /// What is seen; `None` for a name that is deleted.
    pub node: Option<Node>,
    /// What each layer has itself, the lowest first, of those that have something.
    pub has: Vec<(usize, Place)>,
}

impl Layered {
    /// The layer that decides: it has what is seen, or deletes it.
    pub fn layer(&self) -> Option<usize> {
        match &self.node {
            Some(node) => Some(node.layer()),
            None => self.has.last().map(|(layer, _)| *layer),
        }
    }

    /// What is hidden, the highest layer first.
    pub fn hidden(&self) -> impl Iterator<Item = (usize, &Place)> {
        let merged = self.node.as_ref().map_or(&[][..], sources);
        let top = self.layer().unwrap_or(0);
        let seen = move |layer: usize| merged.iter().any(|s| usize::from(s.layer) == layer);
        self.has
            .iter()
            .rev()
            .filter(move |(layer, place)| {
                *layer < top && !seen(*layer) && matches!(place, Place::Object(_))
            })
            .map(|(layer, place)| (*layer, place))
    }

    /// The lower layers whose directories this directory adds to, the highest first.
    pub fn adds_to(&self) -> impl Iterator<Item = usize> {
        let merged = self.node.as_ref().map_or(&[][..], sources);
        merged.iter().skip(1).map(|source| usize::from(source.layer))
    }
}

impl View {
    /// The names in the directory `dir`, also those that a layer deletes, sorted; with what each
    /// layer has of them. Nothing is in anything but a directory.
    ///
    /// # Errors
    /// A damaged layer.
    pub fn layered(&self, dir: &Node) -> Result<Vec<Layered>, LookError> {
        let damaged = |error| LookError::Damaged { path: dir.path.clone().into(), error };
        let mut names: BTreeMap<Box<[u8]>, Layered> = BTreeMap::new();
        let blank = |name: Box<[u8]>| Layered { name, node: None, has: Vec::new() };
        for node in self.children(dir)? {
            let name: Box<[u8]> = node.name().into();
            names.insert(name.clone(), Layered { node: Some(node), ..blank(name) });
        }
        if !dir.is_dir() {
            return Ok(Vec::new());
        }
        for (index, layer) in self.stack().layers().iter().enumerate() {
            let Some(ino) = own_directory(&**layer, &dir.path).map_err(damaged)? else { continue };
            for entry in layer.read_dir(ino).map_err(damaged)? {
                let path = join(&dir.path, &entry.name);
                let place = match entry.entry {
                    LayerEntry::Whiteout => Place::Whiteout,
                    LayerEntry::Object { ino, .. } => Place::Object(
                        layer
                            .attr(ino)
                            .map_err(|error| LookError::Damaged { path: path.into(), error })?,
                    ),
                };
                let name = entry.name;
                let known = names.entry(name.clone()).or_insert_with(|| blank(name));
                known.has.push((index, place));
            }
        }
        Ok(names.into_values().collect())
    }

    /// As [`View::layered`], of one path: what is seen there, if anything, and what the layers have.
    ///
    /// # Errors
    /// A damaged layer.
    pub fn layers_at(&self, path: &[u8], node: Option<Node>) -> Result<Layered, LookError> {
        let places = self.places(path)?.into_iter().enumerate();
        let has = places.filter_map(|(layer, place)| Some((layer, place?))).collect();
        let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
        Ok(Layered { name: name.into(), node, has })
    }
}

/// The directory that a layer has itself at a path.
fn own_directory(layer: &dyn Layer, path: &[u8]) -> Result<Option<LayerIno>, fs_model::LayerError> {
    let mut at = layer.root();
    for name in components(path).iter().rev() {
        match layer.lookup(at, name)? {
            Some(LayerEntry::Object { ino, kind: FileType::Directory }) => at = ino,
            _ => return Ok(None),
        }
    }
    Ok(Some(at))
}
