//! Which image comes before which.

use super::Member;
use crate::config::error::Mistake;
use crate::config::{Node, Value};

/// Refuses images that need themselves.
pub(super) fn check(images: &Node, members: &[Member]) -> Result<(), Box<Mistake>> {
    for start in 0..members.len() {
        let Some(way) = cycle(members, start) else { continue };
        let Value::Map(entries) = &images.value else { continue };
        let needs: Vec<String> =
            way.iter().map(|index| format!("`{}`", members[*index].name)).collect();
        let problem = format!("{} needs itself: {}", needs[0], needs.join(" needs "));
        let help = "one of them has to be made on something else".to_owned();
        return Err(images.wrong_key(&entries[start].0, problem, Some(help)));
    }
    Ok(())
}

/// A way from `start` to itself, both ends included.
fn cycle(members: &[Member], start: usize) -> Option<Vec<usize>> {
    let mut ways = vec![vec![start]];
    let mut seen = vec![false; members.len()];
    while let Some(way) = ways.pop() {
        for &next in &members[way[way.len() - 1]].needs {
            let longer = [way.as_slice(), &[next]].concat();
            if next == start {
                return Some(longer);
            }
            if !std::mem::replace(&mut seen[next], true) {
                ways.push(longer);
            }
        }
    }
    None
}

/// `wanted` and all that they need, each after what it needs; where nothing else says so, in the
/// order given. There are no cycles.
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
