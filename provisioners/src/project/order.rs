//! Dependencies between images: build order and cycles.

use super::Member;
use crate::config::error::Mistake;
use crate::config::{YamlNode, YamlValue};

/// Rejects images that depend on themselves.
pub(super) fn check(images: &YamlNode, members: &[Member]) -> Result<(), Box<Mistake>> {
    for start in 0..members.len() {
        let Some(path) = cycle(members, start) else { continue };
        let YamlValue::Map(entries) = &images.value else { continue };
        if let [start, _] = path[..] {
            let problem = format!("`{}` is built from its own artifact", members[start].name);
            let help = "build it from another image, or give it another `output`".to_owned();
            return Err(images.key_mistake(&entries[start].0, problem, Some(help)));
        }
        let needs: Vec<String> =
            path.iter().map(|index| format!("`{}`", members[*index].name)).collect();
        let problem = format!("circular dependency: {}", needs.join(" needs "));
        let help = "build one of them on another image".to_owned();
        return Err(images.key_mistake(&entries[start].0, problem, Some(help)));
    }
    Ok(())
}

/// Returns a path in the dependency graph from `start` to itself, both ends included.
fn cycle(members: &[Member], start: usize) -> Option<Vec<usize>> {
    let mut paths = vec![vec![start]];
    let mut seen = vec![false; members.len()];
    while let Some(path) = paths.pop() {
        for &next in &members[path[path.len() - 1]].needs {
            let longer = [path.as_slice(), &[next]].concat();
            if next == start {
                return Some(longer);
            }
            if !std::mem::replace(&mut seen[next], true) {
                paths.push(longer);
            }
        }
    }
    None
}

/// Returns `wanted` and all images that these need, in an order in which each image follows those
/// that it needs, and that otherwise keeps the order of `wanted`. There must be no cycles.
pub(super) fn with_needs(members: &[Member], wanted: &[usize]) -> Vec<usize> {
    fn visit(members: &[Member], index: usize, order: &mut Vec<usize>) {
        if order.contains(&index) {
            return;
        }
        for &need in &members[index].needs {
            visit(members, need, order);
        }
        order.push(index);
    }
    let mut order = Vec::new();
    for &index in wanted {
        visit(members, index, &mut order);
    }
    order
}
