//! Mounts, processes and loop devices that commands left behind in a sandbox.
//!
//! All of them lose writes without an error: a write below a mount goes to another file system, a
//! process is killed with the sandbox, whatever it was about to write, and a loop device may be
//! detached before its users have written all data.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use super::{Sandbox, mountinfo};

/// The time in which a process that is about to end does so, such as the last one of a pipeline.
const GRACE: Duration = Duration::from_millis(200);

/// The mount points, processes and loop devices that commands left behind.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Leftovers {
    /// Absolute paths in the root at which a command mounted a file system, in order.
    pub mount_points: Vec<Vec<u8>>,
    /// The names of the programs that still run, in order.
    pub programs: Vec<String>,
    /// Absolute paths in the root of files that a loop device was on, in order.
    pub loop_files: Vec<Vec<u8>>,
}

impl Sandbox {
    /// Finds mounts that commands made over the root, and processes of commands that have ended.
    /// Waits up to 200 ms for processes that are about to end. Returns empty lists if `/proc`
    /// cannot be read. [`Sandbox::shutdown`] finds loop devices.
    pub fn leftovers(&self) -> Leftovers {
        let started = Instant::now();
        let programs = loop {
            let programs = programs_below(self.stage.pid);
            if programs.is_empty() || started.elapsed() >= GRACE {
                break programs;
            }
            std::thread::sleep(GRACE / 20);
        };
        let mount_points = self.left_mounts().unwrap_or_default();
        Leftovers { mount_points, programs, loop_files: Vec::new() }
    }

    fn left_mounts(&self) -> io::Result<Vec<Vec<u8>>> {
        let Some(mounts) = &self.mounts else { return Ok(Vec::new()) };
        let info = mountinfo::read(mounts)?;
        let own = self.plan.mounts();
        let is_own = |point: &[u8]| {
            let path = Path::new(std::str::from_utf8(point).unwrap_or_default());
            path.strip_prefix("/").is_ok_and(|path| own.iter().any(|own| path.starts_with(own)))
        };
        let lines: Vec<_> = mountinfo::lines(&info).collect();
        let root = lines.iter().find(|line| line.point == b"/").map(|line| line.device);
        // A bind mount of the root's own directories loses nothing.
        let left = lines.iter().filter(|line| Some(line.device) != root && !is_own(&line.point));
        let left: BTreeSet<Vec<u8>> = left.map(|line| line.point.clone()).collect();
        Ok(left.into_iter().collect())
    }
}

/// The programs of the processes below pid 1 of a sandbox, which is a child of `stage`.
fn programs_below(stage: libc::pid_t) -> Vec<String> {
    let mut children: BTreeMap<i32, Vec<(i32, String)>> = BTreeMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let stat = std::fs::read_to_string(entry.path().join("stat"));
        if let Some((pid, parent, name)) = stat.ok().as_deref().and_then(parse_stat) {
            children.entry(parent).or_default().push((pid, name.to_owned()));
        }
    }
    let mut programs = BTreeSet::new();
    let mut parents: Vec<i32> =
        children.remove(&stage).into_iter().flatten().map(|c| c.0).collect();
    while let Some(parent) = parents.pop() {
        for (pid, name) in children.remove(&parent).into_iter().flatten() {
            parents.push(pid);
            programs.insert(name);
        }
    }
    programs.into_iter().collect()
}

/// The process, its parent and the name of its program, from `/proc/PID/stat` (proc_pid_stat(5)).
/// `None` for a process that has ended.
fn parse_stat(stat: &str) -> Option<(i32, i32, &str)> {
    let (pid, rest) = stat.split_once(" (")?;
    // The name may contain parentheses.
    let (name, rest) = rest.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    (!matches!(state, "Z" | "X")).then_some((pid.parse().ok()?, parent, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_from_its_stat_line() {
        assert_eq!(parse_stat("12 (a) (b) S 7 12 12 0 -1"), Some((12, 7, "a) (b")));
        assert_eq!(parse_stat("12 (sh) Z 7 12 12 0 -1"), None);
        assert_eq!(parse_stat(""), None);
    }
}
