//! Units that are to be started one after the other, in a circle: systemd leaves one of them out, or
//! refuses them all (`src/core/transaction.c`).

use std::collections::{BTreeMap, BTreeSet};

use super::load::{Unit, Units};

/// What a machine starts at boot, with all that these start.
const TARGETS: [&str; 5] =
    ["default.target", "graphical.target", "multi-user.target", "basic.target", "sysinit.target"];
/// What starts other units with itself.
const STARTS: [&str; 5] = ["Wants", "Requires", "BindsTo", "Requisite", "Upholds"];
/// The most pairs of which one comes after the other: a desktop has some thousands.
const MOST: usize = 1 << 18;

/// The circles among the units that are started at boot, each from its first name on.
pub(super) fn circles(units: &Units) -> Vec<Vec<&Unit>> {
    let all: Vec<&Unit> = units.iter().collect();
    let places: BTreeMap<&str, usize> =
        all.iter().enumerate().map(|(at, unit)| (&*unit.name, at)).collect();
    let mut after = order(&all, &places, &at_boot(units, &all, &places));
    let mut circles = Vec::new();
    loop {
        // Whoever comes after nobody is in no circle, and so on.
        let mut before: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (&one, others) in &after {
            others.iter().for_each(|&other| before.entry(other).or_default().push(one));
        }
        let mut first: Vec<usize> =
            before.keys().copied().filter(|one| !after.contains_key(one)).collect();
        while let Some(gone) = first.pop() {
            for one in before.remove(&gone).unwrap_or_default() {
                if let Some(others) = after.get_mut(&one) {
                    others.remove(&gone);
                    if others.is_empty() {
                        after.remove(&one);
                        first.push(one);
                    }
                }
            }
        }
        // Each of those that are left comes after another one of them.
        let Some(mut at) = after.keys().next().copied() else { return circles };
        let mut way = Vec::new();
        let mut seen = BTreeSet::new();
        while seen.insert(at) {
            way.push(at);
            let Some(next) = after.get(&at).and_then(|others| others.first()) else { break };
            at = *next;
        }
        let begin = way.iter().position(|one| *one == at).unwrap_or_default();
        let mut circle = way.split_off(begin);
        let least = circle.iter().enumerate().min_by_key(|(_, one)| **one).map_or(0, |(at, _)| at);
        circle.rotate_left(least);
        circle.iter().for_each(|one| drop(after.remove(one)));
        circles.push(circle.into_iter().map(|one| all[one]).collect());
        if circles.len() >= super::CIRCLES {
            return circles;
        }
    }
}

/// The places of the units that are started at boot.
fn at_boot(units: &Units, all: &[&Unit], places: &BTreeMap<&str, usize>) -> BTreeSet<usize> {
    let mut links: BTreeMap<&[u8], Vec<&str>> = BTreeMap::new();
    for (link, name) in &units.wanted {
        let dir = link.path.rsplit(|&byte| byte == b'/').nth(1).unwrap_or_default();
        let of = dir.strip_suffix(b".wants").or(dir.strip_suffix(b".requires"));
        links.entry(of.unwrap_or_default()).or_default().push(name);
    }
    let mut started = BTreeSet::new();
    let mut pending: Vec<&str> = TARGETS.to_vec();
    while let Some(name) = pending.pop() {
        let Some(&at) = places.get(name) else { continue };
        if !started.insert(at) {
            continue;
        }
        pending.extend(links.get(name.as_bytes()).into_iter().flatten());
        for key in STARTS {
            let values = all[at].values("Unit", key).into_iter();
            let names = values.flat_map(|(_, value)| value.split_whitespace());
            pending.extend(names.filter(|name| places.contains_key(name)));
        }
    }
    started
}

/// Which of them come after which others; nothing where that is too much.
fn order(
    all: &[&Unit],
    places: &BTreeMap<&str, usize>,
    started: &BTreeSet<usize>,
) -> BTreeMap<usize, BTreeSet<usize>> {
    let mut after: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
    let mut count = 0;
    for &one in started {
        let unit = all[one];
        let implied = unit.kind() == "service"
            && !matches!(
                unit.value("Unit", "DefaultDependencies"),
                Some("no" | "false" | "off" | "0" | "n" | "f")
            );
        let implied = if implied { "sysinit.target basic.target" } else { "" };
        let of = |key| unit.values("Unit", key).into_iter().map(|(_, value)| value);
        let later = of("After").chain([implied]).map(|value| (value, true));
        for (value, is_later) in later.chain(of("Before").map(|value| (value, false))) {
            for name in value.split_whitespace() {
                let Some(other) = places.get(name).filter(|other| started.contains(other)) else {
                    continue;
                };
                let (late, early) = if is_later { (one, *other) } else { (*other, one) };
                if late != early && after.entry(late).or_default().insert(early) {
                    count += 1;
                }
                if count > MOST {
                    return BTreeMap::new();
                }
            }
        }
    }
    after.retain(|_, others| !others.is_empty());
    after
}
