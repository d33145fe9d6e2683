//! The phases of a boot, and the reason why it failed.
//!
//! Phases are derived from requests to the boot server, console output and the agent's reports. A
//! phase begins with its first sign and does not begin again.

use std::fmt;
use std::time::{Duration, Instant};

/// A phase of a boot, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// The firmware starts and configures the network.
    Firmware,
    /// iPXE fetches the script, the kernel and the initrd.
    Load,
    /// The kernel and the initrd start; the initrd configures the network.
    Kernel,
    /// The initrd fetches and unpacks the base and the overlays.
    Fetch,
    /// The machine's own system starts.
    System,
    /// The command runs.
    Command,
}

impl Phase {
    /// Returns its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Phase::Firmware => "firmware",
            Phase::Load => "load",
            Phase::Kernel => "kernel",
            Phase::Fetch => "fetch",
            Phase::System => "system",
            Phase::Command => "command",
        }
    }

    /// Returns a description of the work in this phase.
    pub(crate) fn describe(self) -> &'static str {
        match self {
            Phase::Firmware => "starting the firmware and iPXE",
            Phase::Load => "fetching the kernel and its initrd",
            Phase::Kernel => "starting the kernel and its initrd",
            Phase::Fetch => "fetching and unpacking the base and the overlays",
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

/// The progress of a boot.
#[derive(Debug)]
pub(crate) struct BootProgress {
    /// The start of each phase that has begun.
    begun: Vec<(Phase, Instant)>,
    /// The reason why the boot cannot continue.
    pub fault: Option<String>,
}

/// Console messages after which the machine cannot continue: the message, its meaning, and the
/// earliest phase in which it counts.
const FATAL_MESSAGES: [(&str, &str, Phase); 7] = [
    // A quiet kernel prints nothing before this, so no earlier phase has ended.
    (PANIC, "the kernel panicked", Phase::Firmware),
    ("You are in emergency mode", "systemd stopped in emergency mode", Phase::Kernel),
    ("You are in rescue mode", "systemd stopped in rescue mode", Phase::Kernel),
    ("Cannot open root device", "the kernel found no root", Phase::Kernel),
    ("No more network devices", "the firmware could not boot from the network", Phase::Firmware),
    ("No bootable device", "the firmware could not boot from the network", Phase::Firmware),
    ("Target filesystem doesn't have requested", "the root has no init", Phase::Kernel),
];
const PANIC: &str = "Kernel panic";

impl BootProgress {
    /// Creates the progress of a machine that was just started.
    pub(crate) fn new(now: Instant) -> Self {
        BootProgress { begun: vec![(Phase::Firmware, now)], fault: None }
    }

    /// Returns the current phase.
    pub(crate) fn phase(&self) -> Phase {
        self.begun.last().map_or(Phase::Firmware, |(phase, _)| *phase)
    }

    /// Records a sign of `phase`. Returns whether the phase is new.
    pub(crate) fn reach(&mut self, phase: Phase, now: Instant) -> bool {
        let new = phase > self.phase();
        if new {
            self.begun.push((phase, now));
        }
        new
    }

    /// Parses a console line. Returns whether it begins a phase.
    pub(crate) fn read(&mut self, line: &str, now: Instant) -> bool {
        if let Some(reason) = after(line, "overcoat: failed: ") {
            self.fault.get_or_insert_with(|| reason.to_owned());
            return false;
        }
        // Kernel messages can precede the sign on the line.
        let end = FATAL_MESSAGES
            .iter()
            .find(|(sign, _, from)| self.phase() >= *from && line.contains(sign));
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

    /// Returns the duration of each phase; the last one lasts until `now`.
    pub(crate) fn times(&self, now: Instant) -> Vec<(Phase, Duration)> {
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
    fn phases_begin_with_their_first_sign_only() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut progress = BootProgress::new(start);
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
    fn first_fault_is_reported() {
        let now = Instant::now();
        let mut progress = BootProgress::new(now);
        progress.read("Linux version 6.1", now);
        progress.read("overcoat: failed: fetch: http://x/base: 404", now);
        progress.read("[  9.1] Kernel panic - not syncing: Attempted to kill init!", now);
        assert_eq!(progress.fault.as_deref(), Some("fetch: http://x/base: 404"));
        let mut progress = BootProgress::new(now);
        progress.read("Linux version 6.1", now);
        progress.read("[  9.1] Kernel panic - not syncing: VFS", now);
        let fault = "the kernel panicked: [  9.1] Kernel panic - not syncing: VFS";
        assert_eq!(progress.fault.as_deref(), Some(fault));
        // With a quiet kernel.
        let mut progress = BootProgress::new(now);
        assert!(progress.read("[  9.1] Kernel panic - not syncing: VFS", now));
        assert_eq!(progress.fault.as_deref(), Some(fault));
        assert_eq!(progress.phase(), Phase::Kernel);
    }
}
