//! Lints of systemd units that do not start as intended.
//!
//! The rules are those of systemd itself (`systemd-analyze verify`, and the errors at start), as
//! far as they apply without running it. All units of the merged root are checked. A fault is
//! reported if the lower layers lack it, or if an overlay starts a unit that nothing starts there.

mod accounts;
mod load;
mod memory_budget;
mod order;
mod presets;
mod started;
mod values;

use std::collections::{HashMap, HashSet};

use provisioners::nearest;

use super::lints::{
    UNIT_CYCLE, UNIT_EXEC, UNIT_MISSING, UNIT_NEEDS, UNIT_REFUSED, UNIT_SYNTAX, UNIT_USER,
};
use crate::check::context::{CheckContext, PROGRAM_DIRS, resolve};
use crate::check::known_accounts::KnownAccounts;
use crate::check::{Finding, Findings, Lint, PassError, Severity};
use crate::image::view::accounts::Accounts;
use crate::image::view::{LookError, StackView, ViewNode, join};

use accounts::known_accounts;
pub(super) use load::is_dependency_link;
use load::{DIRS, Unit, UnitFile, UnitLine, Units, from_root, template};
use memory_budget::UnitMemoryBudget;
pub(super) use presets::first_boot;
pub(super) use started::started_units;

/// Keys of all sections, as printed by `systemd --dump-configuration-items`.
const KEYS: &str = include_str!("keys.txt");
/// Directories whose contents exist only on a running machine.
const RUNTIME_DIRS: [&str; 6] = ["/run/", "/tmp/", "/dev/", "/proc/", "/sys/", "/var/run/"];
/// Maximum findings reported per unit.
const MAX_UNIT_FAULTS: usize = 200;
/// Maximum findings of all units together; more are an error.
const MAX_ALL_FAULTS: usize = 20_000;
/// Maximum ordering cycles reported.
const MAX_CYCLES: usize = 100;
/// Maximum number of unknown keys for which a similar key is searched.
const MAX_UNKNOWN_KEYS: usize = 1000;
/// Maximum length of such a key.
const MAX_KEY_LEN: usize = 64;

/// A problem of a unit.
struct UnitFault {
    lint: &'static Lint,
    node: ViewNode,
    message: String,
    /// The line of the file, counted from 1.
    line: Option<usize>,
    /// The topmost layer that starts the unit; `None` if nothing does or if the unit runs
    /// nevertheless.
    started: Option<usize>,
    /// Paths that are missing or wrong.
    paths: Vec<Vec<u8>>,
}

pub(super) fn units(
    context: &CheckContext<'_>,
    findings: &mut Findings<'_>,
) -> Result<(), PassError> {
    let roots = context.roots()?;
    if resolve(&roots.view, b"lib/systemd/systemd")?.is_none() {
        return Ok(());
    }
    let now = faults(&roots.view, context.accounts()?)?;
    // SurveyFaults of the lower layers, and whether anything starts the unit there.
    let mut old: HashMap<_, bool> = HashMap::new();
    if let Some(lower) = &roots.lower
        && !now.is_empty()
    {
        for UnitFault { lint, node, message, started, .. } in
            faults(lower, &Accounts::read(lower)?)?
        {
            *old.entry((lint.name, node.path, message)).or_default() |= started.is_some();
        }
    }
    for UnitFault { lint, node, message, line, started, paths } in now {
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
            (None, _) => (key.2, context.responsible_layers(&paths)?),
        };
        let finding = Finding::new(lint, "", Some(&node.path), message).attributed_to(layers);
        let finding = Finding { line, ..finding };
        findings.push(match started {
            Some(_) => finding,
            None => finding.severity(Severity::Warning),
        });
    }
    Ok(())
}

/// Returns the faults of the units of a root.
fn faults(view: &StackView, accounts: &Accounts) -> Result<Vec<UnitFault>, PassError> {
    let mut budget = UnitMemoryBudget::new();
    let units = Units::read(view, &mut budget)?;
    let mut checker = UnitChecker {
        view,
        units: &units,
        known: known_accounts(view, accounts, &mut budget)?,
        keys: Keys::default(),
        faults: Vec::new(),
        started: None,
        empty: HashMap::new(),
        max_faults: usize::MAX,
    };
    for (link, name) in &units.wanted {
        if !units.has(name) {
            checker.started = Some(link.layer());
            let message = format!("it enables {name}, which does not exist");
            checker.add(&UNIT_MISSING, link, message, unit_paths(name));
        }
    }
    for cycle in order::cycles(&units) {
        checker.cycle(&cycle);
    }
    for unit in units.iter() {
        if checker.faults.len() > MAX_ALL_FAULTS {
            let message = format!("the units of the root have more than {MAX_ALL_FAULTS} faults");
            return Err(PassError::CannotRun(message));
        }
        checker.max_faults = checker.faults.len() + MAX_UNIT_FAULTS;
        checker.started = units.started(unit);
        checker.check_rejected(unit);
        checker.check_mount_name(unit);
        checker.check_required_units(unit);
        checker.check_programs(unit)?;
        checker.check_accounts(unit);
        unit.files.iter().for_each(|file| checker.check_syntax(unit, file));
    }
    Ok(checker.faults)
}

struct UnitChecker<'a> {
    view: &'a StackView,
    units: &'a Units,
    known: KnownAccounts,
    keys: Keys,
    faults: Vec<UnitFault>,
    /// The topmost layer that starts the current unit, if any does.
    started: Option<usize>,
    /// Whether directories that conditions name are empty, by path.
    empty: HashMap<Vec<u8>, bool>,
    /// Maximum length of `faults` at the end of the current unit.
    max_faults: usize,
}

/// Returns the possible paths of a unit.
fn unit_paths(name: &str) -> Vec<Vec<u8>> {
    let names = [Some(name.to_owned()), template(name)];
    let at = |name: String| DIRS.map(|dir| join(dir, name.as_bytes()));
    names.into_iter().flatten().flat_map(at).collect()
}

/// Returns the paths of a unit's files, the last drop-in first.
fn file_paths(unit: &Unit) -> Vec<Vec<u8>> {
    unit.files.iter().rev().map(|file| file.node.path.clone()).collect()
}

impl UnitChecker<'_> {
    fn add(
        &mut self,
        lint: &'static Lint,
        node: &ViewNode,
        message: impl Into<String>,
        paths: Vec<Vec<u8>>,
    ) -> Option<&mut UnitFault> {
        if self.faults.len() >= self.max_faults {
            return None;
        }
        let (node, message, started) = (node.clone(), message.into(), self.started);
        self.faults.push(UnitFault { lint, node, message, line: None, started, paths });
        self.faults.last_mut()
    }

    /// Reports an ordering cycle.
    fn cycle(&mut self, cycle: &[&Unit]) {
        let paths = cycle.iter().flat_map(|unit| file_paths(unit)).collect();
        let files = cycle.iter().flat_map(|unit| &unit.files);
        let Some(file) = files.max_by_key(|file| file.node.layer()) else { return };
        let names: Vec<&str> = cycle.iter().chain(cycle.first()).map(|u| &*u.name).collect();
        let more = if names.len() > 10 { " after … and so on" } else { "" };
        let names = names[..names.len().min(10)].join(" after ");
        self.started = cycle.iter().filter_map(|unit| self.units.started(unit)).max();
        let message = format!("ordering cycle: {names}{more}");
        self.add(&UNIT_CYCLE, &file.node.clone(), message, paths);
    }

    /// Reports lines that systemd ignores with a warning.
    fn check_syntax(&mut self, unit: &Unit, file: &UnitFile) {
        let section = section(unit.kind());
        for line in &file.lines {
            if self.faults.len() >= self.max_faults {
                return;
            }
            let (number, message) = match line {
                UnitLine::Odd(number) => (number, "the line has no `=`".to_owned()),
                UnitLine::Entry(None, key, _, number) => {
                    (number, format!("{key}= is outside of any section"))
                }
                UnitLine::Section(name, number) => {
                    let known = ["Unit", "Install"].contains(&&**name)
                        || Some(&**name) == section
                        || name.starts_with("X-");
                    if known {
                        continue;
                    }
                    (number, format!("section [{name}] is not valid in this kind of unit"))
                }
                UnitLine::Entry(Some(in_section), key, value, number) => {
                    if in_section.starts_with("X-") || key.starts_with("X-") {
                        continue;
                    }
                    if !values::is_possible(in_section, key, value) {
                        (number, format!("invalid value {key}={value}"))
                    } else if let Some(near) = self.keys.similar(key) {
                        (number, format!("unknown key {key}=; did you mean {near}=?"))
                    } else {
                        continue;
                    }
                }
            };
            if let Some(fault) = self.add(&UNIT_SYNTAX, &file.node, message, Vec::new()) {
                fault.line = Some(*number);
                // The unit runs without the line.
                fault.started = None;
            }
        }
    }

    /// Reports units that systemd rejects.
    fn check_rejected(&mut self, unit: &Unit) {
        let Some(file) = unit.files.first() else { return };
        let mut node = file.node.clone();
        let has = |section: &str, key: &str| {
            unit.values(section, key)
                .iter()
                .any(|(_, value)| values::is_possible(section, key, value))
        };
        let message = match unit.kind() {
            "service" => {
                // The drop-in with the last of several commands is the cause.
                let starts = unit.values("Service", "ExecStart");
                if let Some((last, _)) = starts.get(1..).and_then(<[_]>::last) {
                    node = last.node.clone();
                }
                service_error(unit)
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
                (!listens).then_some("it has no Listen…=")
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
                let triggers = keys.iter().any(|key| has("Timer", key));
                (!triggers).then_some("it has no On…=")
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
                (!watches).then_some("it has no Path…= or DirectoryNotEmpty=")
            }
            "mount" => (!has("Mount", "What")).then_some("it has no What="),
            _ => None,
        };
        if let Some(message) = message {
            self.add(&UNIT_REFUSED, &node, message, file_paths(unit));
        }
    }

    /// Checks that a mount unit is named after its mount point.
    fn check_mount_name(&mut self, unit: &Unit) {
        let section = match unit.kind() {
            "mount" => "Mount",
            "automount" => "Automount",
            _ => return,
        };
        let Some((file, path)) = unit.values(section, "Where").pop() else { return };
        if path.starts_with('/') && !path.contains('%') {
            let name = format!("{}.{}", values::path_as_name(path), unit.kind());
            if name != unit.name {
                let node = file.node.clone();
                let message = format!("the unit for Where={path} must be named {name}");
                self.add(&UNIT_REFUSED, &node, message, file_paths(unit));
            }
        }
    }

    /// Reports missing units without which a unit does not start.
    fn check_required_units(&mut self, unit: &Unit) {
        for key in ["Requires", "Requisite", "BindsTo"] {
            for (file, value) in unit.values("Unit", key) {
                for name in value.split_whitespace() {
                    if self.faults.len() >= self.max_faults {
                        return;
                    }
                    let what = match self.units.has(name) {
                        false => "missing",
                        true if self.units.is_masked(name) => "masked",
                        true => continue,
                    };
                    let message = format!("the unit in {key}={name} is {what}");
                    self.add(&UNIT_NEEDS, &file.node.clone(), message, unit_paths(name));
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
            None if unit.is_true("Socket", "Accept") => format!("{stem}@.service"),
            None => format!("{stem}.service"),
        };
        if !self.units.has(&started)
            && let Some(file) = unit.files.first()
        {
            let node = file.node.clone();
            let message = format!("it starts {started}, which does not exist");
            self.add(&UNIT_NEEDS, &node, message, unit_paths(&started));
        }
    }

    /// Reports missing programs, files and directories.
    fn check_programs(&mut self, unit: &Unit) -> Result<(), LookError> {
        let Some(section) = section(unit.kind()) else { return Ok(()) };
        // Keys with which the paths are in another root.
        let elsewhere =
            ["RootDirectory", "RootImage", "ExecSearchPath", "BindPaths", "ExtensionImages"];
        if elsewhere.iter().any(|key| unit.value(section, key).is_some())
            || self.is_skipped(unit)?
        {
            return Ok(());
        }
        let starts = ["ExecCondition", "ExecStartPre", "ExecStart", "ExecStartPost"];
        // The unit starts without these.
        let later = ["ExecReload", "ExecStop", "ExecStopPost"];
        for key in starts.iter().chain(&later) {
            for (file, value) in unit.values(section, key) {
                let Some(program) = program(value) else { continue };
                if let Some(what) = self.program_error(&program)? {
                    let paths = match program.starts_with('/') {
                        true => vec![from_root(&program)],
                        false => PROGRAM_DIRS
                            .map(|dir| join(dir.as_bytes(), program.as_bytes()))
                            .to_vec(),
                    };
                    let message = format!("the program in {key}={program} {what}");
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
                let made = is_runtime_path(value);
                let state = key == "WorkingDirectory" && value.starts_with("/var/");
                if odd || made || state || resolve(self.view, &from_root(value))?.is_some() {
                    continue;
                }
                let message = format!("the path in {key}={value} does not exist");
                self.add(&UNIT_EXEC, &file.node.clone(), message, vec![from_root(value)]);
            }
        }
        Ok(())
    }

    /// Returns whether a condition prevents every start of the unit in this root.
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
                if !value.starts_with('/') || is_runtime_path(value) {
                    continue;
                }
                // The value of a specifier is unknown, but in an empty directory no value matches.
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

    /// Returns whether a directory is empty. Results are cached, since many conditions may name
    /// one.
    fn is_empty(&mut self, dir: &ViewNode) -> Result<bool, LookError> {
        if let Some(empty) = self.empty.get(&dir.path) {
            return Ok(*empty);
        }
        let empty = self.view.children(dir)?.is_empty();
        self.empty.insert(dir.path.clone(), empty);
        Ok(empty)
    }

    /// Describes the problem with a program, if any.
    fn program_error(&self, program: &str) -> Result<Option<&'static str>, LookError> {
        let paths: Vec<String> = match program.contains('/') {
            true if !program.starts_with('/') => return Ok(Some("is not an absolute path")),
            true => vec![program.to_owned()],
            false => PROGRAM_DIRS.iter().map(|dir| format!("/{dir}/{program}")).collect(),
        };
        if is_runtime_path(program) {
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
        Ok(Some("does not exist"))
    }

    /// Reports unknown users and groups.
    fn check_accounts(&mut self, unit: &Unit) {
        let Some(section) = section(unit.kind()) else { return };
        if unit.is_true(section, "DynamicUser") {
            return;
        }
        for key in ["User", "Group", "SupplementaryGroups"] {
            let Some((file, value)) = unit.values(section, key).pop() else { continue };
            for name in value.split_whitespace() {
                let is_unknown = match key {
                    "User" => self.known.lacks_user(name),
                    _ => self.known.lacks_group(name),
                };
                if is_unknown && !name.contains('%') {
                    let (what, database) = match key {
                        "User" => ("user", &b"etc/passwd"[..]),
                        _ => ("group", &b"etc/group"[..]),
                    };
                    let message = format!("unknown {what} in {key}={name}");
                    self.add(&UNIT_USER, &file.node.clone(), message, vec![database.to_vec()]);
                }
            }
        }
    }
}

/// Returns whether a path exists only on a running machine.
fn is_runtime_path(path: &str) -> bool {
    RUNTIME_DIRS.iter().any(|dir| path.starts_with(dir) || Some(path) == dir.strip_suffix('/'))
}

/// Returns the reason why systemd rejects a service (`service_verify` in `src/core/service.c`).
fn service_error(unit: &Unit) -> Option<&'static str> {
    // systemd ignores a line with an unclosed quote.
    let values = |key| {
        let mut lines = unit.values("Service", key);
        lines.retain(|(_, value)| values::is_possible("Service", key, value));
        lines
    };
    let (start, stop) = (values("ExecStart"), values("ExecStop"));
    let ends = unit.value("Unit", "SuccessAction").is_some_and(|action| action != "none");
    let bus = unit.value("Service", "BusName").is_some();
    let stated = unit.value("Service", "Type");
    let kind = match stated.filter(|kind| values::is_possible("Service", "Type", kind)) {
        Some(kind) => kind,
        None if bus => "dbus",
        None if start.is_empty() => "oneshot",
        None => "simple",
    };
    let once = kind == "oneshot";
    if start.is_empty() && stop.is_empty() && !ends {
        Some("it has neither ExecStart= nor ExecStop=")
    } else if start.is_empty() && !ends && !once {
        Some("it has no ExecStart= and is not Type=oneshot")
    } else if start.is_empty() && !ends && !unit.is_true("Service", "RemainAfterExit") {
        Some("it has neither ExecStart= nor RemainAfterExit=yes")
    } else if start.len() > 1 && !once {
        Some("it has several ExecStart= but is not Type=oneshot")
    } else if once && matches!(unit.value("Service", "Restart"), Some("always" | "on-success")) {
        Some("it has Type=oneshot, which excludes Restart=always and Restart=on-success")
    } else if kind == "dbus" && !bus {
        Some("it has Type=dbus but no BusName=")
    } else {
        None
    }
}

/// Returns the name of the section that is specific to a kind of unit.
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

/// The known keys, and a cache of similar ones.
struct Keys {
    all: HashSet<&'static str>,
    /// Unknown keys with a similar known key; the search is expensive.
    unknown: HashMap<String, Option<&'static str>>,
}

impl Default for Keys {
    fn default() -> Self {
        Keys { all: KEYS.lines().collect(), unknown: HashMap::new() }
    }
}

impl Keys {
    /// Returns the known key that an unknown key is probably a misspelling of. Other unknown keys
    /// are not reported: newer versions of systemd have more keys.
    fn similar(&mut self, key: &str) -> Option<&'static str> {
        if self.all.contains(key) || key.len() > MAX_KEY_LEN {
            return None;
        }
        if let Some(similar) = self.unknown.get(key) {
            return *similar;
        }
        if self.unknown.len() >= MAX_UNKNOWN_KEYS {
            return None;
        }
        let similar = nearest(key, self.all.iter().copied()).filter(|near| is_typo(near, key));
        self.unknown.insert(key.to_owned(), similar);
        similar
    }
}

/// Returns whether the lengths of two similar keys differ by at most one, as after a typing error.
fn is_typo(near: &str, key: &str) -> bool {
    near.len().abs_diff(key.len()) <= 1
}

/// Returns the program of a command line; `None` if it depends on a specifier or variable, or if
/// its failure is ignored.
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
