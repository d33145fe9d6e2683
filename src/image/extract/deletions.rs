//! Deletions that an extraction loses.
//!
//! A whiteout or an opaque directory refers to the layers below it. The merged root of a base and
//! its overlays has applied it. If the lowest layer is an overlay itself, the layers that it refers
//! to are missing, and the merged root cannot show it.

use fs_model::LayerError;
use fs_model::stack::LowerInode;

use super::ExtractSelection;
use crate::image::view::layered::Layered;
use crate::image::view::{LayerNode, LookError, StackView, ViewNode, WalkControl, join, sources};

/// What is known about the lowest layer of a stack, apart from its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LowestLayer {
    /// It was built on other layers.
    Overlay,
    /// It is an archive, which can be an overlay or a whole root.
    Archive,
    /// It is a squashfs image or a directory, which is usually a whole root.
    Root,
}

/// A deletion that an extraction loses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LostDeletion {
    /// The path of the whiteout or directory.
    pub(crate) path: Vec<u8>,
    /// Whether it is a directory that replaces the directory below it; otherwise a whiteout.
    pub(crate) is_directory: bool,
}

/// A whiteout or opaque directory of a layer.
struct Deletion {
    lost: LostDeletion,
    layer: usize,
    /// Whether a lower layer of the stack has the path.
    applies: bool,
}

/// Returns the deletions that an extraction of the selected nodes loses, in tree order of their
/// directories.
///
/// # Errors
/// Fails if a layer is damaged.
pub(crate) fn lost_deletions(
    view: &StackView,
    selection: &ExtractSelection,
    lowest: LowestLayer,
) -> Result<Vec<LostDeletion>, LookError> {
    let mut all = Vec::new();
    view.walk_layered::<LookError>(&view.root()?, |dir, inside| {
        if !selection.contains(&dir.path) {
            return Ok(WalkControl::Past);
        }
        if selection.covers(&dir.path) {
            all.extend(replacement(view, dir)?);
        }
        let deleted = inside.iter().filter_map(|one| whiteout(dir, one));
        all.extend(deleted.filter(|deletion| selection.covers(&deletion.lost.path)));
        Ok(WalkControl::Into)
    })?;
    // Only an overlay has deletions.
    let is_overlay = lowest == LowestLayer::Overlay || all.iter().any(|one| one.layer == 0);
    // An overlay on an archive that is a whole root usually deletes only paths of that root.
    let is_lost = |one: &Deletion| is_overlay || (lowest == LowestLayer::Archive && !one.applies);
    Ok(all.into_iter().filter(is_lost).map(|one| one.lost).collect())
}

/// Returns the deletion by a directory that hides the directory at its path in lower layers.
fn replacement(view: &StackView, dir: &ViewNode) -> Result<Option<Deletion>, LookError> {
    let Some(&LowerInode { layer, ino }) = sources(dir).last() else { return Ok(None) };
    let layer = usize::from(layer);
    let damaged = |error: LayerError| LookError::Damaged { path: dir.path.clone().into(), error };
    let is_opaque = view.stack().layers()[layer].is_opaque(ino).map_err(damaged)?;
    if layer == 0 && !is_opaque {
        return Ok(None);
    }
    let places = view.places(&dir.path)?;
    let below = &places[..layer];
    // A whiteout below a directory has the same effect as an opaque directory.
    let next = below.iter().flatten().next_back();
    if !is_opaque && next != Some(&LayerNode::Whiteout) {
        return Ok(None);
    }
    let applies = below.iter().flatten().any(|place| matches!(place, LayerNode::Object(_)));
    let layer = match is_opaque {
        true => layer,
        false => below.iter().rposition(Option::is_some).unwrap_or(layer),
    };
    let lost = LostDeletion { path: dir.path.clone(), is_directory: true };
    Ok(Some(Deletion { lost, layer, applies }))
}

/// Returns the deletion of a name by a whiteout in one of the layers that are merged into `dir`.
fn whiteout(dir: &ViewNode, one: &Layered) -> Option<Deletion> {
    if one.node.is_some() {
        return None;
    }
    let merged = |layer: usize| sources(dir).iter().any(|from| usize::from(from.layer) == layer);
    let mut has = one.has.iter().rev().skip_while(|(layer, _)| !merged(*layer));
    let (layer, LayerNode::Whiteout) = has.next()? else { return None };
    let applies = has.any(|(_, place)| matches!(place, LayerNode::Object(_)));
    let lost = LostDeletion { path: join(&dir.path, &one.name), is_directory: false };
    Some(Deletion { lost, layer: *layer, applies })
}
