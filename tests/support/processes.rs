//! The descendants of a process, and whether they have ended.

use std::fs;
use std::time::{Duration, Instant};

/// Returns `pid` and all of its descendants.
pub fn family(pid: u32) -> Vec<u32> {
    let mut parents: Vec<(u32, u32)> = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // The parent is the second field after the name; the name ends at the last parenthesis.
        if let Ok(stat) = fs::read_to_string(entry.path().join("stat"))
            && let Some((_, rest)) = stat.rsplit_once(") ")
            && let Some(parent) = rest.split(' ').nth(1).and_then(|field| field.parse().ok())
        {
            parents.push((pid, parent));
        }
    }
    let mut family = vec![pid];
    let mut next = 0;
    while let Some(&parent) = family.get(next) {
        family.extend(parents.iter().filter(|(_, p)| *p == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    family
}

/// Returns the processes that still run, except zombies.
pub fn alive(pids: &[u32]) -> Vec<String> {
    let comm = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let state = stat.rsplit_once(") ")?.1.chars().next()?;
        (state != 'Z').then(|| format!("{pid} {}", stat.split(')').next().unwrap_or("")))
    };
    pids.iter().filter_map(comm).collect()
}

/// Checks that all processes of a sandbox have ended, and that its mounts are gone.
pub fn assert_nothing_is_left(family: &[u32]) {
    assert!(family.len() > 3, "the sandbox has run: {family:?}");
    eventually("all processes have ended", || alive(family).is_empty());
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains("fuse overcoat"), "{mounts}");
}

/// Waits until `condition` holds, at most ten seconds.
pub fn eventually(what: &str, condition: impl FnMut() -> bool) {
    within(Duration::from_secs(10), what, condition);
}

/// Waits until `condition` holds, at most `limit`.
pub fn within(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
