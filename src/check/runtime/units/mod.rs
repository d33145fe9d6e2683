//! systemd units: those that do not start as they were meant to.
//!
//! The rules are those of systemd itself (`systemd-analyze verify`, and what a start fails with), as
//! far as they can be known without running it. All units of the merged root are judged; those
//! faults are found that are not there beneath the overlays, or do no harm there because nothing
//! starts the unit.

mod accounts;
mod allowance;
mod load;
mod order;
mod presets;
mod started;
mod values;

use std::collections::{HashMap, HashSet};

use provisioners::nearest;

use super::lints::{
    UNIT_CYCLE, UNIT_EXEC, UNIT_MISSING, UNIT_NEEDS, UNIT_REFUSED, UNIT_SYNTAX, UNIT_USER,
};
use crate::check::context::{CheckContext, resolve};
use crate::check::{Finding, Findings, Lint, Severity, PassError};
use crate::look::accounts::Accounts;
use crate::look::{LookError, Node, View, join};

use accounts::Known;
use allowance::Allowance;
pub(super) use load::is_dependency;
use load::{DIRS, File, Line, Unit, Units, from_root, template};
pub(super) use presets::first_boot;
pub(super) use started::started_units;

/// The keys of all sections, as `systemd --dump-configuration-items` has them.
const KEYS: &str = include_str!("keys.txt");
/// What is there only when the machine is up.
const LATER: [&str; 6] = ["/run/", "/tmp/", "/dev/", "/proc/", "/sys/", "/var/run/"];
/// How many faults of one unit are told: who has not understood by then, will not.
const FAULTS: usize = 200;
/// How many there may be of all units.
const ALL_FAULTS: usize = 20_000;
/// How many circles of units are told.
const CIRCLES: usize = 100;
/// How many keys that there are not are looked into, and how long they may be.
const UNKNOWN: usize = 1000;
const LONGEST: usize = 64;
/// Where a program without a path is looked for.
const PATH: [&str; 6] =
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// Something wrong with a unit.
struct Fault {
    lint: &'static Lint,
    node: Node,
    message: String,
    /// The topmost layer in which something starts the unit, where this keeps it from running.
    started: Option<usize>,
    /// Where something is missing or not as it should be.
    about: Vec<Vec<u8>>,
}

pub(super) fn units(context: &CheckContext<'_>, findings: &mut Findings<'_>) -> Result<(), PassError> {
    let roots = context.roots()?;
    if resolve(&roots.view, b"lib/systemd/systemd")?.is_none() {
        return Ok(());
    }
    let now = faults(&roots.view, context.accounts()?)?;
    // What was wrong already, and whether anything started it.
    let mut old: HashMap<_, bool> = HashMap::new();
    if let Some(below) = &roots.below
        && !now.is_empty()
    {
        for Fault { lint, node, message, started, .. } in faults(below, &Accounts::read(below)?)? {
            *old.entry((lint.name, node.path, message)).or_default() |= started.is_some();
        }
    }
    for Fault { lint, node, message, started, about } in now {
        let key = (lint.name, node.path.clone(), message);
        let before = old.get(&key);
        let by_overlay = started.filter(|layer| *layer >= context.first_checked());
        let (message, layers) = match (before, by_overlay) {
            (Some(false), Some(layer)) => {
                let message = format!("{}; the overlay starts it", key.2);
                (message, vec![context.names()[layer].clone()])
            }
            (Some(_), _) => continue,
            (None, _) if node.layer() >= context.first_checked() => {
                (key.2, vec![context.layer_name(&node).to_owned()])
            }
            (None, _) => (key.2, context.responsible_layers(&about)?),
        };
        let finding = Finding::new(lint, "", Some(&node.path), message).attributed_to(layers);
        findings.push(match started {
            Some(_) => finding,
            None => finding.severity(Severity::Warning),
        });
    }
    Ok(())
}

/// What is wrong with the units of a root.
fn faults(view: &View, accounts: &Accounts) -> Result<Vec<Fault>, PassError> {
    let mut allowed = Allowance::new();
    let units = Units::of(view, &mut allowed)?;
    let mut judge = Judge {
        view,
        units: &units,
        known: Known::of(view, accounts, &mut allowed)?,
        keys: Keys::default(),
        faults: Vec::new(),
        started: None,
        empty: HashMap::new(),
        most: usize::MAX,
    };
    for (link, name) in &units.wanted {
        if !units.has(name) {
            judge.started = Some(link.layer());
            let message = format!("it enables {name}, which is not there");
            judge.add(&UNIT_MISSING, link, message, places_of(name));
        }
    }
    for circle in order::circles(&units) {
        judge.circle(&circle);
    }
    for unit in units.iter() {
        if judge.faults.len() > ALL_FAULTS {
            let message = format!("the units of the root have more than {ALL_FAULTS} faults");
            return Err(PassError::CannotRun(message));
        }
        judge.most = judge.faults.len() + FAULTS;
        judge.started = units.started(unit);
        judge.refused(unit);
        judge.mount(unit);
        judge.needs(unit);
        judge.programs(unit)?;
        judge.accounts(unit);
        unit.files.iter().for_each(|file| judge.syntax(unit, file));
    }
    Ok(judge.faults)
}

struct Judge<'a> {
    view: &'a View,
    units: &'a Units,
    known: Known,
    keys: Keys,
    faults: Vec<Fault>,
    /// The layer in which this unit is started, if it is.
    started: Option<usize>,
    /// Whether directories that conditions name are empty.
    empty: HashMap<Vec<u8>, bool>,
    /// How many there may be at this unit's end.
    most: usize,
}

/// The paths at which a unit may be.
fn places_of(name: &str) -> Vec<Vec<u8>> {
    let names = [Some(name.to_owned()), template(name)];
    let at = |name: String| DIRS.map(|dir| join(dir, name.as_bytes()));
    names.into_iter().flatten().flat_map(at).collect()
}

fn paths_of(unit: &Unit) -> Vec<Vec<u8>> {
    unit.files.iter().rev().map(|file| file.node.path.clone()).collect()
}

impl Judge<'_> {
    fn add(
        &mut self,
        lint: &'static Lint,
        node: &Node,
        message: impl Into<String>,
        about: Vec<Vec<u8>>,
    ) -> Option<&mut Fault> {
        if self.faults.len() >= self.most {
            return None;
        }
        let (node, message, started) = (node.clone(), message.into(), self.started);
        self.faults.push(Fault { lint, node, message, started, about });
        self.faults.last_mut()
    }

    /// Units that wait for each other.
    fn circle(&mut self, circle: &[&Unit]) {
        let about = circle.iter().flat_map(|unit| paths_of(unit)).collect();
        let files = circle.iter().flat_map(|unit| &unit.files);
        let Some(file) = files.max_by_key(|file| file.node.layer()) else { return };
        // Some of them say enough.
        let names: Vec<&str> = circle.iter().chain(circle.first()).map(|u| &*u.name).collect();
        let more = if names.len() > 10 { " after … and so on" } else { "" };
        let names = names[..names.len().min(10)].join(" after ");
        self.started = circle.iter().filter_map(|unit| self.units.started(unit)).max();
        let message = format!("units are to be started in a circle: {names}{more}");
        self.add(&UNIT_CYCLE, &file.node.clone(), message, about);
    }

    /// Lines that systemd passes over with a warning.
    fn syntax(&mut self, unit: &Unit, file: &File) {
        let section = section(unit.kind());
        for line in &file.lines {
            if self.faults.len() >= self.most {
                return;
            }
            let message = match line {
                Line::Odd(number) => format!("line {number} has no `=`"),
                Line::Entry(None, key, _, number) => {
                    format!("line {number}: {key}= stands before any section")
                }
                Line::Section(name, number) => {
                    let known = ["Unit", "Install"].contains(&&**name)
                        || Some(&**name) == section
                        || name.starts_with("X-");
                    if known {
                        continue;
                    }
                    format!("line {number}: a unit of this kind has no section [{name}]")
                }
                Line::Entry(Some(in_section), key, value, number) => {
                    if in_section.starts_with("X-") || key.starts_with("X-") {
                        continue;
                    }
                    if !values::is_possible(in_section, key, value) {
                        format!("line {number}: {key}={value} is no value of it")
                    } else if let Some(near) = self.keys.meant(key) {
                        format!("line {number}: there is no {key}=; is {near}= meant?")
                    } else {
                        continue;
                    }
                }
            };
            if let Some(fault) = self.add(&UNIT_SYNTAX, &file.node, message, Vec::new()) {
                // It runs, without that line.
                fault.started = None;
            }
        }
    }

    /// Units that systemd refuses to load.
    fn refused(&mut self, unit: &Unit) {
        let Some(file) = unit.files.first() else { return };
        let mut node = file.node.clone();
        let has = |section: &str, key: &str| {
            unit.values(section, key)
                .iter()
                .any(|(_, value)| values::is_possible(section, key, value))
        };
        let message = match unit.kind() {
            "service" => {
                // A drop-in that adds one to those that there are.
                let starts = unit.values("Service", "ExecStart");
                if let Some((last, _)) = starts.get(1..).and_then(<[_]>::last) {
                    node = last.node.clone();
                }
                service(unit)
            }
            "socket" => {
                let keys = [
                    "ListenStream",
                    "ListenDatagram",
                    "ListenSequentialPacket",
                    "ListenFIFO",
                    "ListenSpecial",
                    "ListenNetlink",
                    "ListenMessageQueue",
                    "ListenUSBFunction",
                ];
                let listens = keys.iter().any(|key| has("Socket", key));
                (!listens).then_some("it listens to nothing: there is no Listen…=")
            }
            "timer" => {
                let keys = [
                    "OnActiveSec",
                    "OnBootSec",
                    "OnStartupSec",
                    "OnUnitActiveSec",
                    "OnUnitInactiveSec",
                    "OnCalendar",
                    "OnClockChange",
                    "OnTimezoneChange",
                ];
                let goes_off = keys.iter().any(|key| has("Timer", key));
                (!goes_off).then_some("it never goes off: there is no On…=")
            }
            "path" => {
                let keys = [
                    "PathExists",
                    "PathExistsGlob",
                    "PathChanged",
                    "PathModified",
                    "DirectoryNotEmpty",
                ];
                let watches = keys.iter().any(|key| has("Path", key));
                (!watches).then_some("it watches nothing: there is no Path…=")
            }
            "mount" => (!has("Mount", "What")).then_some("it says no What= to mount"),
            _ => None,
        };
        if let Some(message) = message {
            self.add(&UNIT_REFUSED, &node, message, paths_of(unit));
        }
    }

    /// A mount has the name of the place that it mounts.
    fn mount(&mut self, unit: &Unit) {
        let section = match unit.kind() {
            "mount" => "Mount",
            "automount" => "Automount",
            _ => return,
        };
        let Some((file, place)) = unit.values(section, "Where").pop() else { return };
        if place.starts_with('/') && !place.contains('%') {
            let name = format!("{}.{}", values::path_as_name(place), unit.kind());
            if name != unit.name {
                let node = file.node.clone();
                let message = format!("Where={place}, whose unit is to be called {name}");
                self.add(&UNIT_REFUSED, &node, message, paths_of(unit));
            }
        }
    }

    /// Other units, without which a unit does not start.
    fn needs(&mut self, unit: &Unit) {
        for key in ["Requires", "Requisite", "BindsTo"] {
            for (file, value) in unit.values("Unit", key) {
                for name in value.split_whitespace() {
                    if self.faults.len() >= self.most {
                        return;
                    }
                    let what = match self.units.has(name) {
                        false => "not there",
                        true if self.units.is_masked(name) => "masked",
                        true => continue,
                    };
                    let message = format!("{key}={name}, which is {what}");
                    self.add(&UNIT_NEEDS, &file.node.clone(), message, places_of(name));
                }
            }
        }
        let stem = unit.name.rsplit_once('.').map_or("", |(stem, _)| stem);
        let (section, key) = match unit.kind() {
            "socket" => ("Socket", "Service"),
            "timer" => ("Timer", "Unit"),
            "path" => ("Path", "Unit"),
            _ => return,
        };
        let started = match unit.value(section, key) {
            Some(name) => name.to_owned(),
            None if unit.says_yes("Socket", "Accept") => format!("{stem}@.service"),
            None => format!("{stem}.service"),
        };
        if !self.units.has(&started)
            && let Some(file) = unit.files.first()
        {
            let node = file.node.clone();
            let message = format!("it is to start {started}, which is not there");
            self.add(&UNIT_NEEDS, &node, message, places_of(&started));
        }
    }

    /// Programs and files that are not there.
    fn programs(&mut self, unit: &Unit) -> Result<(), LookError> {
        let Some(section) = section(unit.kind()) else { return Ok(()) };
        // Another root than this one.
        let elsewhere =
            ["RootDirectory", "RootImage", "ExecSearchPath", "BindPaths", "ExtensionImages"];
        if elsewhere.iter().any(|key| unit.value(section, key).is_some())
            || self.is_skipped(unit)?
        {
            return Ok(());
        }
        let starts = ["ExecCondition", "ExecStartPre", "ExecStart", "ExecStartPost"];
        // It runs without them, until it is to end.
        let later = ["ExecReload", "ExecStop", "ExecStopPost"];
        for key in starts.iter().chain(&later) {
            for (file, value) in unit.values(section, key) {
                let Some(program) = program(value) else { continue };
                if let Some(what) = self.program(&program)? {
                    let paths = match program.starts_with('/') {
                        true => vec![from_root(&program)],
                        false => PATH.map(|dir| from_root(&format!("{dir}/{program}"))).to_vec(),
                    };
                    let message = format!("{key}={program}, which {what}");
                    if let Some(fault) = self.add(&UNIT_EXEC, &file.node, message, paths)
                        && later.contains(key)
                    {
                        fault.started = None;
                    }
                }
            }
        }
        for key in ["EnvironmentFile", "WorkingDirectory"] {
            for (file, value) in unit.values(section, key) {
                let value = value.trim_matches('"');
                let odd = value.contains(['%', '*', '?', '[']) || !value.starts_with('/');
                let made = is_made_later(value);
                let state = key == "WorkingDirectory" && value.starts_with("/var/");
                if odd || made || state || resolve(self.view, &from_root(value))?.is_some() {
                    continue;
                }
                let message = format!("{key}={value}, which is not there");
                self.add(&UNIT_EXEC, &file.node.clone(), message, vec![from_root(value)]);
            }
        }
        Ok(())
    }

    /// Whether a condition keeps the unit from ever being started in this root.
    fn is_skipped(&mut self, unit: &Unit) -> Result<bool, LookError> {
        let keys = [
            "ConditionPathExists",
            "ConditionFileIsExecutable",
            "ConditionFileNotEmpty",
            "ConditionPathIsDirectory",
            "ConditionDirectoryNotEmpty",
        ];
        for key in keys {
            for (_, value) in unit.values("Unit", key) {
                if !value.starts_with('/') || is_made_later(value) {
                    continue;
                }
                // What stands for a specifier is not known; in an empty directory, nothing does.
                let dir = value.split_once('%').and_then(|(known, _)| known.rsplit_once('/'));
                let there = resolve(self.view, &from_root(dir.map_or(value, |(dir, _)| dir)))?;
                let met = match (dir, there) {
                    (Some(_), Some(dir)) => !self.is_empty(&dir)?,
                    (_, there) => there.is_some(),
                };
                if !met {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Whether nothing is in a directory; each is listed once, however many conditions name it.
    fn is_empty(&mut self, dir: &Node) -> Result<bool, LookError> {
        if let Some(empty) = self.empty.get(&dir.path) {
            return Ok(*empty);
        }
        let empty = self.view.children(dir)?.is_empty();
        self.empty.insert(dir.path.clone(), empty);
        Ok(empty)
    }

    /// What is wrong with a program.
    fn program(&self, program: &str) -> Result<Option<&'static str>, LookError> {
        let paths: Vec<String> = match program.contains('/') {
            true if !program.starts_with('/') => return Ok(Some("is no absolute path")),
            true => vec![program.to_owned()],
            false => PATH.iter().map(|dir| format!("{dir}/{program}")).collect(),
        };
        if is_made_later(program) {
            return Ok(None);
        }
        for path in paths {
            if let Some(node) = resolve(self.view, &from_root(&path))? {
                return Ok(match node.is_file() && node.attr.mode & 0o111 != 0 {
                    true => None,
                    false => Some("is not executable"),
                });
            }
        }
        Ok(Some("is not there"))
    }

    /// Users and groups that nobody knows.
    fn accounts(&mut self, unit: &Unit) {
        let Some(section) = section(unit.kind()) else { return };
        if unit.says_yes(section, "DynamicUser") {
            return;
        }
        for key in ["User", "Group", "SupplementaryGroups"] {
            let Some((file, value)) = unit.values(section, key).pop() else { continue };
            for name in value.split_whitespace() {
                let number = name.bytes().all(|byte| byte.is_ascii_digit());
                if !number && !name.contains('%') && self.known.lacks(key, name) {
                    let (message, file_of) = match key {
                        "User" => (format!("{key}={name}, whom nobody knows"), &b"etc/passwd"[..]),
                        _ => (format!("{key}={name}, which nobody knows"), &b"etc/group"[..]),
                    };
                    self.add(&UNIT_USER, &file.node.clone(), message, vec![file_of.to_vec()]);
                }
            }
        }
    }
}

/// Whether a path leads to what is there only when the machine is up.
fn is_made_later(path: &str) -> bool {
    LATER.iter().any(|dir| path.starts_with(dir) || Some(path) == dir.strip_suffix('/'))
}

/// Why a service is refused (`service_verify` in `src/core/service.c`).
fn service(unit: &Unit) -> Option<&'static str> {
    // A line of which a quote is not closed is passed over.
    let values = |key| {
        let mut lines = unit.values("Service", key);
        lines.retain(|(_, value)| values::is_possible("Service", key, value));
        lines
    };
    let (start, stop) = (values("ExecStart"), values("ExecStop"));
    let ends = unit.value("Unit", "SuccessAction").is_some_and(|action| action != "none");
    let bus = unit.value("Service", "BusName").is_some();
    let said = unit.value("Service", "Type");
    let kind = match said.filter(|kind| values::is_possible("Service", "Type", kind)) {
        Some(kind) => kind,
        None if bus => "dbus",
        None if start.is_empty() => "oneshot",
        None => "simple",
    };
    let once = kind == "oneshot";
    if start.is_empty() && stop.is_empty() && !ends {
        Some("it has nothing to run: there is no ExecStart=")
    } else if start.is_empty() && !ends && !once {
        Some("it has no ExecStart=, and is not of Type=oneshot")
    } else if start.is_empty() && !ends && !unit.says_yes("Service", "RemainAfterExit") {
        Some("it has no ExecStart=, and no RemainAfterExit=yes")
    } else if start.len() > 1 && !once {
        Some("it has more than one ExecStart=, and is not of Type=oneshot")
    } else if once && matches!(unit.value("Service", "Restart"), Some("always" | "on-success")) {
        Some("it is of Type=oneshot, and to be started again when it has succeeded")
    } else if kind == "dbus" && !bus {
        Some("it is of Type=dbus, and has no BusName=")
    } else {
        None
    }
}

/// The section that a kind of units has for itself.
fn section(kind: &str) -> Option<&'static str> {
    Some(match kind {
        "service" => "Service",
        "socket" => "Socket",
        "timer" => "Timer",
        "path" => "Path",
        "mount" => "Mount",
        "automount" => "Automount",
        "swap" => "Swap",
        "slice" => "Slice",
        "scope" => "Scope",
        _ => return None,
    })
}

/// What is known of keys.
struct Keys {
    all: HashSet<&'static str>,
    /// Those that there are not, and which ones are meant: to find that out takes its time.
    unknown: HashMap<String, Option<&'static str>>,
}

impl Default for Keys {
    fn default() -> Self {
        Keys { all: KEYS.lines().collect(), unknown: HashMap::new() }
    }
}

impl Keys {
    /// Which key is meant by one that there is not. Later versions of systemd have more: only slips
    /// are told.
    fn meant(&mut self, key: &str) -> Option<&'static str> {
        if self.all.contains(key) || key.len() > LONGEST {
            return None;
        }
        if let Some(meant) = self.unknown.get(key) {
            return *meant;
        }
        if self.unknown.len() >= UNKNOWN {
            return None;
        }
        let meant = nearest(key, self.all.iter().copied()).filter(|near| is_slip(near, key));
        self.unknown.insert(key.to_owned(), meant);
        meant
    }
}

/// Whether one is the other with a slip of the fingers: two letters at the most.
fn is_slip(near: &str, key: &str) -> bool {
    near.len().abs_diff(key.len()) <= 1
}

/// The program of a command line; nothing where it is not known before it is run, or where its
/// failure does not matter.
fn program(command: &str) -> Option<String> {
    let rest = command.trim_start_matches(['@', ':', '+', '!', '|']);
    if rest.starts_with('-')
        || command.contains("-/") && command.starts_with(['@', ':', '+', '!', '-'])
    {
        return None;
    }
    let program = match rest.chars().next()? {
        quote @ ('"' | '\'') => rest[1..].split(quote).next()?,
        _ => rest.split_whitespace().next()?,
    };
    let known = !program.is_empty() && !program.contains(['%', '$', '\\']);
    known.then(|| program.to_owned())
}
