//! systemd units: those that do not start as they were meant to.
//!
//! The rules are those of systemd itself (`systemd-analyze verify`, and what a start fails with), as
//! far as they can be known without running it. All units of the merged root are judged; those
//! faults are found that are not there beneath the overlays.

mod load;

use std::collections::BTreeSet;

use provisioners::nearest;

use super::lints::{UNIT_EXEC, UNIT_MISSING, UNIT_NEEDS, UNIT_REFUSED, UNIT_SYNTAX, UNIT_USER};
use crate::check::context::{Context, reach, text};
use crate::check::{Finding, Findings, Lint, Severity, Stopped};
use crate::look::accounts::Accounts;
use crate::look::{LookError, Node, View};

pub(super) use load::is_dependency;
use load::{File, Line, Unit, Units, from_root};

/// The keys of all sections, as `systemd --dump-configuration-items` has them.
const KEYS: &str = include_str!("keys.txt");
/// What is there only when the machine is up.
const LATER: [&str; 6] = ["/run/", "/tmp/", "/dev/", "/proc/", "/sys/", "/var/run/"];
/// Where a program without a path is looked for.
const PATH: [&str; 6] =
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// Something wrong with a unit.
struct Fault {
    lint: &'static Lint,
    node: Node,
    message: String,
    /// Whether anything starts the unit.
    started: bool,
}

pub(super) fn units(context: &Context<'_>, findings: &mut Findings<'_>) -> Result<(), Stopped> {
    let roots = context.roots()?;
    if reach(&roots.view, b"lib/systemd/systemd")?.is_none() {
        return Ok(());
    }
    let now = faults(&roots.view, context.accounts()?)?;
    let brought = |fault: &Fault| fault.node.layer() >= context.first();
    let mut old = BTreeSet::new();
    if let Some(below) = &roots.below
        && !now.is_empty()
    {
        let faults = faults(below, &Accounts::read(below)?)?.into_iter();
        old = faults.map(|f| (f.lint.name, f.node.path, f.message)).collect();
    }
    for fault in now {
        let layer = match brought(&fault) {
            true => context.layer(&fault.node).to_owned(),
            false => context.judged_names(),
        };
        let Fault { lint, node, message, started } = fault;
        let key = (lint.name, node.path, message);
        if !old.contains(&key) {
            let (_, path, message) = key;
            let finding = Finding::new(lint, &layer, Some(&path), message);
            findings.push(match started {
                true => finding,
                false => finding.severity(Severity::Warning),
            });
        }
    }
    Ok(())
}

/// What is wrong with the units of a root.
fn faults(view: &View, accounts: &Accounts) -> Result<Vec<Fault>, LookError> {
    let units = Units::of(view)?;
    let known = known(view, accounts)?;
    let mut judge = Judge { view, units: &units, known, faults: Vec::new() };
    for (link, name) in &units.wanted {
        if !units.has(name) {
            let message = format!("it enables {name}, which is not there");
            judge.add(&UNIT_MISSING, link, message);
        }
    }
    for unit in units.iter() {
        let before = judge.faults.len();
        unit.files.iter().for_each(|file| judge.syntax(unit, file));
        judge.refused(unit);
        judge.needs(unit);
        judge.programs(unit)?;
        judge.accounts(unit);
        if judge.faults.len() > before && !units.is_started(unit) {
            judge.faults[before..].iter_mut().for_each(|fault| fault.started = false);
        }
    }
    Ok(judge.faults)
}

/// The names of users and groups that there are, or will be.
fn known(view: &View, accounts: &Accounts) -> Result<BTreeSet<String>, LookError> {
    let mut known: BTreeSet<String> =
        accounts.users().keys().chain(accounts.groups().keys()).cloned().collect();
    // What systemd-sysusers makes at the start: sysusers.d(5).
    for dir in ["etc/sysusers.d", "usr/lib/sysusers.d", "usr/local/lib/sysusers.d"] {
        let Some(dir) = reach(view, dir.as_bytes())? else { continue };
        for node in view.children(&dir)? {
            let path = String::from_utf8_lossy(&node.path).into_owned();
            for line in text(view, &path)?.lines() {
                let mut words = line.split_whitespace();
                if matches!(words.next(), Some("u" | "u!" | "g")) {
                    known.extend(words.next().map(str::to_owned));
                }
            }
        }
    }
    Ok(known)
}

struct Judge<'a> {
    view: &'a View,
    units: &'a Units,
    known: BTreeSet<String>,
    faults: Vec<Fault>,
}

impl Judge<'_> {
    fn add(&mut self, lint: &'static Lint, node: &Node, message: impl Into<String>) {
        let (node, message, started) = (node.clone(), message.into(), true);
        self.faults.push(Fault { lint, node, message, started });
    }

    /// Lines that systemd passes over with a warning.
    fn syntax(&mut self, unit: &Unit, file: &File) {
        let section = section(unit.kind());
        for line in &file.lines {
            let message = match line {
                Line::Odd(number) => format!("line {number} has no `=`"),
                Line::Entry(None, key, _, number) => {
                    format!("line {number}: {key}= stands before any section")
                }
                Line::Section(name, number) => {
                    let known = ["Unit", "Install"].contains(&name.as_str())
                        || Some(name.as_str()) == section
                        || name.starts_with("X-");
                    if known {
                        continue;
                    }
                    format!("line {number}: a unit of this kind has no section [{name}]")
                }
                Line::Entry(Some(in_section), key, _, number) => {
                    if in_section.starts_with("X-") || key.starts_with("X-") || is_key(key) {
                        continue;
                    }
                    // Later versions of systemd have more keys: only slips are told.
                    let Some(near) = nearest(key, KEYS.lines()).filter(|near| is_slip(near, key))
                    else {
                        continue;
                    };
                    format!("line {number}: there is no {key}=; is {near}= meant?")
                }
            };
            self.add(&UNIT_SYNTAX, &file.node, message);
        }
    }

    /// Units that systemd refuses to load.
    fn refused(&mut self, unit: &Unit) {
        let Some(file) = unit.files.first() else { return };
        let node = file.node.clone();
        let has = |section: &str, key: &str| !unit.values(section, key).is_empty();
        let message = match unit.kind() {
            "service" => service(unit),
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
            self.add(&UNIT_REFUSED, &node, message);
        }
    }

    /// Other units, without which a unit does not start.
    fn needs(&mut self, unit: &Unit) {
        for key in ["Requires", "Requisite", "BindsTo"] {
            for (file, value) in unit.values("Unit", key) {
                for name in value.split_whitespace().filter(|name| !self.units.has(name)) {
                    let node = file.node.clone();
                    self.add(&UNIT_NEEDS, &node, format!("{key}={name}, which is not there"));
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
            self.add(&UNIT_NEEDS, &node, format!("it is to start {started}, which is not there"));
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
        for key in ["ExecStartPre", "ExecStart", "ExecStartPost"] {
            for (file, value) in unit.values(section, key) {
                let Some(program) = program(value) else { continue };
                if let Some(what) = self.program(&program)? {
                    let node = file.node.clone();
                    self.add(&UNIT_EXEC, &node, format!("{key}={program}, which {what}"));
                }
            }
        }
        for key in ["EnvironmentFile", "WorkingDirectory"] {
            for (file, value) in unit.values(section, key) {
                let value = value.trim_matches('"');
                let odd = value.contains(['%', '*', '?', '[']) || !value.starts_with('/');
                let made = LATER.iter().any(|dir| value.starts_with(dir));
                let state = key == "WorkingDirectory" && value.starts_with("/var/");
                if odd || made || state || reach(self.view, &from_root(value))?.is_some() {
                    continue;
                }
                let node = file.node.clone();
                self.add(&UNIT_EXEC, &node, format!("{key}={value}, which is not there"));
            }
        }
        Ok(())
    }

    /// Whether a condition keeps the unit from ever being started in this root.
    fn is_skipped(&self, unit: &Unit) -> Result<bool, LookError> {
        let keys = [
            "ConditionPathExists",
            "ConditionFileIsExecutable",
            "ConditionFileNotEmpty",
            "ConditionPathIsDirectory",
            "ConditionDirectoryNotEmpty",
        ];
        for key in keys {
            for (_, value) in unit.values("Unit", key) {
                if !value.starts_with('/') || value.contains('%') {
                    continue;
                }
                if reach(self.view, &from_root(value))?.is_none() {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// What is wrong with a program.
    fn program(&self, program: &str) -> Result<Option<&'static str>, LookError> {
        let paths: Vec<String> = match program.contains('/') {
            true if !program.starts_with('/') => return Ok(Some("is no absolute path")),
            true => vec![program.to_owned()],
            false => PATH.iter().map(|dir| format!("{dir}/{program}")).collect(),
        };
        if LATER.iter().any(|dir| program.starts_with(dir)) {
            return Ok(None);
        }
        for path in paths {
            if let Some(node) = reach(self.view, &from_root(&path))? {
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
        if self.known.is_empty() || unit.says_yes(section, "DynamicUser") {
            return;
        }
        for key in ["User", "Group", "SupplementaryGroups"] {
            let Some((file, value)) = unit.values(section, key).pop() else { continue };
            for name in value.split_whitespace() {
                let number = name.bytes().all(|byte| byte.is_ascii_digit());
                if !number && !name.contains('%') && !self.known.contains(name) {
                    let node = file.node.clone();
                    self.add(&UNIT_USER, &node, format!("{key}={name}, whom nobody knows"));
                }
            }
        }
    }
}

/// Why a service is refused (`service_verify` in `src/core/service.c`).
fn service(unit: &Unit) -> Option<&'static str> {
    let values = |key| unit.values("Service", key);
    let (start, stop) = (values("ExecStart"), values("ExecStop"));
    let ends = unit.value("Unit", "SuccessAction").is_some_and(|action| action != "none");
    let bus = unit.value("Service", "BusName").is_some();
    let kind = match unit.value("Service", "Type") {
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

fn is_key(key: &str) -> bool {
    KEYS.lines().any(|known| known == key)
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
    let program = match rest.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next()?,
        None => rest.split_whitespace().next()?,
    };
    let known = !program.is_empty() && !program.contains(['%', '$', '\\']);
    known.then(|| program.to_owned())
}
