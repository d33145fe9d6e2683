//! Directory listings with the entries of each layer: which one is visible, and which are hidden.

use std::collections::BTreeMap;

use fs_model::FileType;
use fs_model::layer::{Layer, LayerEntry, LayerIno};
use fs_model::stack::LowerInode;

use super::{
    LayerNode, LookError, StackView, ViewNode, Visited, WalkControl, components, join, sources,
};

/// A name in a directory, and the entries of the layers for it.
#[derive(Clone, Debug)]
pub struct Layered {
    /// The name.
    pub name: Box<[u8]>,
    /// The visible node; `None` for a deleted name.
    pub node: Option<ViewNode>,
    /// The layers that have an entry for the name, the lowest first, with that entry.
    pub has: Vec<(usize, LayerNode)>,
    /// The layer that provides the visible node, or that hides the name.
    pub layer: Option<usize>,
}

impl Layered {
    /// Creates an item without the entries of the layers.
    pub fn from_node(node: ViewNode) -> Layered {
        let layer = Some(node.layer());
        Layered { name: node.name().into(), node: Some(node), has: Vec::new(), layer }
    }

    /// Iterates over the hidden entries, the highest layer first.
    pub fn hidden(&self) -> impl Iterator<Item = (usize, &LayerNode)> {
        let merged = self.node.as_ref().map_or(&[][..], sources);
        let top = self.layer.unwrap_or(0);
        let own = self.node.as_ref().map(ViewNode::layer);
        let seen = move |layer: usize| {
            own == Some(layer) || merged.iter().any(|s| usize::from(s.layer) == layer)
        };
        self.has
            .iter()
            .rev()
            .filter(move |(layer, place)| {
                *layer <= top && !seen(*layer) && matches!(place, LayerNode::Object(_))
            })
            .map(|(layer, place)| (*layer, place))
    }

    /// Iterates over the lower layers whose directories are merged into this one, the highest
    /// first.
    pub fn merged_layers(&self) -> impl Iterator<Item = usize> {
        let merged = self.node.as_ref().map_or(&[][..], sources);
        merged.iter().skip(1).map(|source| usize::from(source.layer))
    }
}

/// The reason why a name is not visible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hider {
    /// The layer.
    pub(crate) layer: u16,
    /// Whether it is a whiteout; otherwise an opaque directory hides the lower layers.
    pub(crate) whiteout: bool,
}

impl StackView {
    /// Returns the names in the directory `dir`, including deleted ones, sorted, with the entries
    /// of each layer. Returns nothing if `dir` is not a directory.
    ///
    /// # Errors
    /// Fails if a layer is damaged.
    pub fn layered(&self, dir: &ViewNode) -> Result<Vec<Layered>, LookError> {
        let damaged = |error| LookError::Damaged { path: dir.path.clone().into(), error };
        let mut names: BTreeMap<Box<[u8]>, Layered> = BTreeMap::new();
        let blank = |name| Layered { name, node: None, has: Vec::new(), layer: None };
        for node in self.children(dir)? {
            names.insert(node.name().into(), Layered::from_node(node));
        }
        if !dir.is_dir() {
            return Ok(Vec::new());
        }
        for (index, layer) in self.stack().layers().iter().enumerate() {
            let Some(ino) = own_directory(&**layer, &dir.path).map_err(damaged)? else { continue };
            for entry in layer.read_dir(ino).map_err(damaged)? {
                let path = join(&dir.path, &entry.name);
                let place = match entry.entry {
                    LayerEntry::Whiteout => LayerNode::Whiteout,
                    LayerEntry::Object { ino, .. } => LayerNode::Object(
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
        for one in names.values_mut().filter(|one| one.node.is_none()) {
            let path = join(&dir.path, &one.name);
            one.layer = self.hider(sources(dir), &one.name, &path)?.map(|hider| hider.layer.into());
        }
        Ok(names.into_values().collect())
    }

    /// Calls `visit` with the directory `top` and its names, then with each directory below it, in
    /// tree order.
    ///
    /// # Errors
    /// Fails if `visit` fails or a layer is damaged.
    pub fn walk_layered<E: From<LookError>>(
        &self,
        top: &ViewNode,
        mut visit: impl FnMut(&ViewNode, &[Layered]) -> Result<WalkControl, E>,
    ) -> Result<(), E> {
        let mut pending = vec![vec![top.clone()].into_iter()];
        let mut visited = Visited::default();
        while let Some(listing) = pending.last_mut() {
            let Some(dir) = listing.next() else {
                pending.pop();
                continue;
            };
            visited.enter(self, &dir)?;
            let inside = self.layered(&dir)?;
            match visit(&dir, &inside)? {
                WalkControl::Stop => return Ok(()),
                WalkControl::Past => continue,
                WalkControl::Into => {}
            }
            let below: Vec<ViewNode> =
                inside.into_iter().filter_map(|one| one.node.filter(ViewNode::is_dir)).collect();
            pending.push(below.into_iter());
        }
        Ok(())
    }

    /// Returns the reason why `name` is not visible in the directory merged from `dir`: the topmost
    /// whiteout, or else the lowest directory of the merge, which hides all lower ones.
    ///
    /// # Errors
    /// Fails if a layer is damaged.
    pub(crate) fn hider(
        &self,
        dir: &[LowerInode],
        name: &[u8],
        path: &[u8],
    ) -> Result<Option<Hider>, LookError> {
        for &LowerInode { layer, ino } in dir {
            let entry = self.stack().layers()[usize::from(layer)].lookup(ino, name);
            let entry = entry.map_err(|error| LookError::Damaged { path: path.into(), error })?;
            if entry == Some(LayerEntry::Whiteout) {
                return Ok(Some(Hider { layer, whiteout: true }));
            }
        }
        Ok(dir.last().map(|source| Hider { layer: source.layer, whiteout: false }))
    }

    /// Returns the entries of each layer for a single node, as in [`StackView::layered`].
    ///
    /// # Errors
    /// Fails if a layer is damaged.
    pub fn layers_at(&self, node: ViewNode) -> Result<Layered, LookError> {
        let places = self.places(&node.path)?.into_iter().enumerate();
        let has = places.filter_map(|(layer, place)| Some((layer, place?))).collect();
        Ok(Layered { has, ..Layered::from_node(node) })
    }
}

/// Returns the directory at a path in a single layer.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replacing_directory_hides_lower_entries() {
        let layer = |files: &[&str]| {
            let dir = tempfile::tempdir().unwrap();
            for file in files {
                let path = dir.path().join(file);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, "x").unwrap();
            }
            dir
        };
        // The file in the middle layer prevents the two directories from being merged.
        let layers = [layer(&["etc/a", "etc/b"]), layer(&["etc"]), layer(&["etc/b"])];
        let images: Vec<_> = layers.iter().map(|dir| dir.path().to_owned()).collect();
        let view = StackView::open(&images).unwrap();
        let etc = view.find_following(b"etc").unwrap().unwrap();
        let actual: Vec<_> = view
            .layered(&etc)
            .unwrap()
            .iter()
            .map(|one| {
                let hidden = one.hidden().map(|(layer, _)| layer).collect::<Vec<_>>();
                (one.node.is_some(), one.layer, hidden)
            })
            .collect();
        assert_eq!(actual, [(false, Some(2), vec![0]), (true, Some(2), vec![0])]);
    }
}
