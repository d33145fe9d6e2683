//! Ordering cycles: systemd drops one of the units, or rejects all of them
//! (`src/core/transaction.c`).

use std::collections::{BTreeMap, BTreeSet};

use super::load::{Unit, Units};

/// Targets that are started at boot.
const BOOT_TARGETS: [&str; 5] =
    ["default.target", "graphical.target", "multi-user.target", "basic.target", "sysinit.target"];
/// Keys that start other units together with the unit.
const STARTING_KEYS: [&str; 5] = ["Wants", "Requires", "BindsTo", "Requisite", "Upholds"];
/// Maximum ordering relations that are examined; a desktop has some thousands.
const MAX_RELATIONS: usize = 1 << 18;

/// Returns the ordering cycles among the units that are started at boot, each beginning with the
/// unit whose name sorts first.
pub(super) fn cycles(units: &Units) -> Vec<Vec<&Unit>> {
    let all: Vec<&Unit> = units.iter().collect();
    let indices: BTreeMap<&str, usize> =
        all.iter().enumerate().map(|(at, unit)| (&*unit.name, at)).collect();
    let mut after = order(&all, &indices, &started_at_boot(units, &all, &indices));
    let mut cycles = Vec::new();
    loop {
        // Repeatedly remove units that are ordered after no other one: they are in no cycle.
        let mut before: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (&one, others) in &after {
            others.iter().for_each(|&other| before.entry(other).or_default().push(one));
        }
        let mut first: Vec<usize> =
            before.keys().copied().filter(|one| !after.contains_key(one)).collect();
        while let Some(unordered) = first.pop() {
            for one in before.remove(&unordered).unwrap_or_default() {
                if let Some(others) = after.get_mut(&one) {
                    others.remove(&unordered);
                    if others.is_empty() {
                        after.remove(&one);
                        first.push(one);
                    }
                }
            }
        }
        // Each remaining unit is ordered after another remaining one: following these relations
        // ends in a cycle.
        let Some(mut at) = after.keys().next().copied() else { return cycles };
        let mut chain = Vec::new();
        let mut seen = BTreeSet::new();
        while seen.insert(at) {
            chain.push(at);
            let Some(next) = after.get(&at).and_then(|others| others.first()) else { break };
            at = *next;
        }
        let begin = chain.iter().position(|one| *one == at).unwrap_or_default();
        let mut cycle = chain.split_off(begin);
        let least = cycle.iter().enumerate().min_by_key(|(_, one)| **one).map_or(0, |(at, _)| at);
        cycle.rotate_left(least);
        cycle.iter().for_each(|one| drop(after.remove(one)));
        cycles.push(cycle.into_iter().map(|one| all[one]).collect());
        if cycles.len() >= super::MAX_CYCLES {
            return cycles;
        }
    }
}

/// Returns the indices of the units that are started at boot.
fn started_at_boot(
    units: &Units,
    all: &[&Unit],
    indices: &BTreeMap<&str, usize>,
) -> BTreeSet<usize> {
    let mut links: BTreeMap<&[u8], Vec<&str>> = BTreeMap::new();
    for (link, name) in &units.wanted {
        let dir = link.path.rsplit(|&byte| byte == b'/').nth(1).unwrap_or_default();
        let unit = dir.strip_suffix(b".wants").or(dir.strip_suffix(b".requires"));
        links.entry(unit.unwrap_or_default()).or_default().push(name);
    }
    let mut started = BTreeSet::new();
    let mut pending: Vec<&str> = BOOT_TARGETS.to_vec();
    while let Some(name) = pending.pop() {
        let Some(&at) = indices.get(name) else { continue };
        if !started.insert(at) {
            continue;
        }
        pending.extend(links.get(name.as_bytes()).into_iter().flatten());
        for key in STARTING_KEYS {
            let values = all[at].values("Unit", key).into_iter();
            let names = values.flat_map(|(_, value)| value.split_whitespace());
            pending.extend(names.filter(|name| indices.contains_key(name)));
        }
    }
    started
}

/// Returns the started units that each started unit is ordered after; empty if there are more than
/// [`MAX_RELATIONS`].
fn order(
    all: &[&Unit],
    indices: &BTreeMap<&str, usize>,
    started: &BTreeSet<usize>,
) -> BTreeMap<usize, BTreeSet<usize>> {
    let mut after: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
    let mut count = 0;
    let mut add = |late: usize, early: usize| {
        if late != early && after.entry(late).or_default().insert(early) {
            count += 1;
        }
        count <= MAX_RELATIONS
    };
    let find = |name: &str| indices.get(name).copied().filter(|other| started.contains(other));
    for &one in started {
        let unit = all[one];
        let (implied_after, implied_before) = implied(unit);
        let values = |key| unit.values("Unit", key).into_iter().map(|(_, value)| value);
        let later = values("After").chain(implied_after).map(|value| (value, true));
        let earlier = values("Before").chain(implied_before).map(|value| (value, false));
        for (value, is_later) in later.chain(earlier) {
            for other in value.split_whitespace().filter_map(find) {
                let (late, early) = if is_later { (one, other) } else { (other, one) };
                if !add(late, early) {
                    return BTreeMap::new();
                }
            }
        }
        for other in triggered(unit).iter().filter_map(|name| find(name)) {
            if !add(other, one) {
                return BTreeMap::new();
            }
        }
    }
    after.retain(|_, others| !others.is_empty());
    after
}

/// Returns the units that systemd orders a unit after and before by default
/// (`DefaultDependencies=`).
fn implied(unit: &Unit) -> (Option<&'static str>, Option<&'static str>) {
    let is_off = unit
        .value("Unit", "DefaultDependencies")
        .is_some_and(|value| ["no", "false", "off", "0", "n", "f"].contains(&value));
    match unit.kind() {
        _ if is_off => (None, None),
        "service" => (Some("sysinit.target basic.target"), None),
        "socket" => (Some("sysinit.target"), Some("sockets.target")),
        "timer" => (Some("sysinit.target"), Some("timers.target")),
        "path" => (Some("sysinit.target"), Some("paths.target")),
        _ => (None, None),
    }
}

/// Returns the units that a socket, timer or path starts: it is ordered before them.
fn triggered(unit: &Unit) -> Vec<String> {
    let (section, key) = match unit.kind() {
        "socket" => ("Socket", "Service"),
        "timer" => ("Timer", "Unit"),
        "path" => ("Path", "Unit"),
        _ => return Vec::new(),
    };
    if let Some(named) = unit.value(section, key) {
        return vec![named.to_owned()];
    }
    let stem = unit.name.rsplit_once('.').map_or(&*unit.name, |(stem, _)| stem);
    match unit.is_true(section, "Accept") {
        true => Vec::new(),
        false => vec![format!("{stem}.service")],
    }
}
