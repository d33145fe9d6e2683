//! How far a machine has come, and what stopped it.
//!
//! It is told what the boot server was asked for, what stands on the console, and what the agent
//! says; each phase begins with the first sign of it, and none twice.

use std::fmt;
use std::time::{Duration, Instant};

/// A phase of a boot, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// The firmware starts, and sets up its network.
    Firmware,
    /// It fetches script, kernel and initrd.
    Load,
    /// The kernel starts, then the initrd, which sets up the network.
    Kernel,
    /// The initrd fetches base and overlays, and unpacks them.
    Fetch,
    /// The machine's own system starts.
    System,
    /// A command runs.
    Command,
}

impl Phase {
    /// All of them.
    pub const ALL: [Phase; 6] =
        [Phase::Firmware, Phase::Load, Phase::Kernel, Phase::Fetch, Phase::System, Phase::Command];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Firmware => "firmware",
            Phase::Load => "load",
            Phase::Kernel => "kernel",
            Phase::Fetch => "fetch",
            Phase::System => "system",
            Phase::Command => "command",
        }
    }

    /// What happens in it.
    pub fn describe(self) -> &'static str {
        match self {
            Phase::Firmware => "starting the firmware and iPXE",
            Phase::Load => "fetching the kernel and its initrd",
            Phase::Kernel => "starting the kernel and its initrd",
            Phase::Fetch => "fetching and unpacking base and overlays",
            Phase::System => "starting the system",
            Phase::Command => "running the command",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How far it has come.
#[derive(Debug)]
pub struct Progress {
    /// When each phase that has begun did.
    begun: Vec<(Phase, Instant)>,
    /// Why it will come no farther.
    pub fault: Option<String>,
}

/// Signs on the console of a machine that has come to its end, what they mean, and in which phases at
/// the earliest.
const ENDS: [(&str, &str, Phase); 7] = [
    // A quiet kernel says nothing before.
    (PANIC, "the kernel gave up", Phase::Firmware),
    ("You are in emergency mode", "systemd stopped in emergency mode", Phase::Kernel),
    ("You are in rescue mode", "systemd stopped in rescue mode", Phase::Kernel),
    ("Cannot open root device", "the kernel found no root", Phase::Kernel),
    ("No more network devices", "the firmware could not boot from the network", Phase::Firmware),
    ("No bootable device", "the firmware could not boot from the network", Phase::Firmware),
    ("Target filesystem doesn't have requested", "the root has no init", Phase::Kernel),
];
const PANIC: &str = "Kernel panic";

impl Progress {
    /// It was just switched on.
    pub fn new(now: Instant) -> Self {
        Progress { begun: vec![(Phase::Firmware, now)], fault: None }
    }

    /// The phase it is in.
    pub fn phase(&self) -> Phase {
        self.begun.last().map_or(Phase::Firmware, |(phase, _)| *phase)
    }

    /// A sign of `phase` was seen. Whether it is new.
    pub fn reach(&mut self, phase: Phase, now: Instant) -> bool {
        let new = phase > self.phase();
        if new {
            self.begun.push((phase, now));
        }
        new
    }

    /// Reads a line of the console. Whether a phase begins with it.
    pub fn read(&mut self, line: &str, now: Instant) -> bool {
        if let Some(said) = after(line, "overcoat: failed: ") {
            self.fault.get_or_insert_with(|| said.to_owned());
            return false;
        }
        // What a kernel says may stand before it on the line.
        let end = ENDS.iter().find(|(sign, _, from)| self.phase() >= *from && line.contains(sign));
        if let Some((sign, meaning, _)) = end {
            self.fault.get_or_insert_with(|| match line.trim() {
                line if line == *sign => (*meaning).to_owned(),
                line => format!("{meaning}: {line}"),
            });
            return *sign == PANIC && self.reach(Phase::Kernel, now);
        }
        let phase = if after(line, "overcoat: fetching ").is_some() {
            Phase::Fetch
        } else if after(line, "overcoat: root mounted").is_some() || line.contains("Welcome to ") {
            Phase::System
        } else if line.contains("Linux version ")
            || line.contains("Probing EDD")
            || line.trim_start().starts_with("[    0.")
        {
            Phase::Kernel
        } else {
            return false;
        };
        self.reach(phase, now)
    }

    /// How long each phase took; the last one until `now`.
    pub fn times(&self, now: Instant) -> Vec<(Phase, Duration)> {
        let ends = self.begun.iter().skip(1).map(|(_, begin)| *begin).chain([now]);
        let each = self.begun.iter().zip(ends);
        each.map(|((phase, begin), end)| (*phase, end.duration_since(*begin))).collect()
    }
}

fn after<'a>(line: &'a str, sign: &str) -> Option<&'a str> {
    line.find(sign).map(|at| &line[at + sign.len()..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_begin_with_their_first_sign_and_never_again() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut progress = Progress::new(start);
        assert!(progress.reach(Phase::Load, at(2)));
        assert!(progress.read("[    0.000000] Linux version 6.1.0", at(3)));
        assert!(!progress.read("[    0.100000] Linux version again", at(4)));
        assert!(!progress.read("overcoat: network: eth0 10.0.2.15", at(5)));
        assert!(progress.read("[    4.2] overcoat: fetching http://10.0.2.2/base.squashfs", at(6)));
        assert!(progress.read("overcoat: root mounted", at(8)));
        assert!(!progress.read("Welcome to Debian", at(9)));
        assert!(!progress.reach(Phase::Load, at(10)));
        let times: Vec<_> =
            progress.times(at(20)).iter().map(|(p, t)| (p.name(), t.as_secs())).collect();
        let wanted = [("firmware", 2), ("load", 1), ("kernel", 3), ("fetch", 2), ("system", 12)];
        assert_eq!(times, wanted);
    }

    #[test]
    fn what_stops_a_machine_is_told_as_it_was_first_said() {
        let now = Instant::now();
        let mut progress = Progress::new(now);
        progress.read("Linux version 6.1", now);
        progress.read("overcoat: failed: fetch: http://x/base: 404", now);
        progress.read("[  9.1] Kernel panic - not syncing: Attempted to kill init!", now);
        assert_eq!(progress.fault.as_deref(), Some("fetch: http://x/base: 404"));
        let mut progress = Progress::new(now);
        progress.read("Linux version 6.1", now);
        progress.read("[  9.1] Kernel panic - not syncing: VFS", now);
        let fault = "the kernel gave up: [  9.1] Kernel panic - not syncing: VFS";
        assert_eq!(progress.fault.as_deref(), Some(fault));
        // A quiet one.
        let mut progress = Progress::new(now);
        assert!(progress.read("[  9.1] Kernel panic - not syncing: VFS", now));
        assert_eq!(progress.fault.as_deref(), Some(fault));
        assert_eq!(progress.phase(), Phase::Kernel);
    }
}
