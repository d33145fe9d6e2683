//! The step that enables, disables and masks systemd units with the root's systemctl, which only
//! changes files where systemd does not run.

use std::collections::BTreeSet;
use std::path::Path;

use super::{StepContext, StepError, find_program};
use crate::config::error::Mistake;
use crate::config::{Fields, YamlNode, nearest};
use crate::machine::{Command, Machine, MachineError};

/// Directories of unit files.
const UNIT_DIRS: [&str; 4] = [
    "/etc/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

/// Directory of init scripts, which systemd treats as services.
const INIT_DIR: &str = "/etc/init.d";

/// Suffixes of unit names.
const UNIT_SUFFIXES: [&str; 11] = [
    ".service",
    ".socket",
    ".target",
    ".timer",
    ".path",
    ".mount",
    ".automount",
    ".swap",
    ".slice",
    ".scope",
    ".device",
];

/// Units by action.
#[derive(Debug, Clone)]
pub(crate) struct Services {
    enable: Vec<String>,
    disable: Vec<String>,
    mask: Vec<String>,
    default_target: Option<String>,
}

impl Services {
    /// Reads `enable`, `disable`, `mask` and `default_target`.
    pub(crate) fn parse(node: &YamlNode) -> Result<Self, Box<Mistake>> {
        let fields = Fields::new(node, "services")?;
        let units = |name| match fields.get(name) {
            Some(node) => node.list()?.iter().map(|n| unit(n, ".service")).collect(),
            None => Ok(Vec::new()),
        };
        let services = Self {
            enable: units("enable")?,
            disable: units("disable")?,
            mask: units("mask")?,
            default_target: fields
                .get("default_target")
                .map(|node| unit(node, ".target"))
                .transpose()?,
        };
        fields.finish()?;
        Ok(services)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.actions().all(|(_, units)| units.is_empty())
    }

    /// Returns the commands of systemctl with their units, in the order in which they run.
    fn actions(&self) -> impl Iterator<Item = (&'static str, &[String])> {
        [
            ("mask", self.mask.as_slice()),
            ("disable", self.disable.as_slice()),
            ("enable", self.enable.as_slice()),
            ("set-default", self.default_target.as_slice()),
        ]
        .into_iter()
    }

    pub(crate) fn run(&self, context: &mut StepContext<'_>) -> Result<(), StepError> {
        let Some(systemctl) = find_program(context.machine, "systemctl")? else {
            return Err(StepError::Impossible(
                "the image has no systemctl: install the package systemd first".to_owned(),
            ));
        };
        let there = units(context.machine)?;
        for (action, units) in self.actions().filter(|(_, units)| !units.is_empty()) {
            for unit in units {
                check(unit, &there)?;
            }
            let command = Command::new(&systemctl).arg(action).args(units);
            context.command(
                &format!("systemctl {action}"),
                &command.env("SYSTEMD_OFFLINE", "1").env("LC_ALL", "C.UTF-8"),
            )?;
        }
        Ok(())
    }
}

/// Reads the name of a unit, and appends `suffix` if it has none.
fn unit(node: &YamlNode, suffix: &str) -> Result<String, Box<Mistake>> {
    let text = node.text("the name of a unit such as ssh.service")?;
    let valid = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
    if !text.chars().all(valid) || text.starts_with('-') {
        return Err(node.mistake_with_help(
            format!("invalid unit name `{text}`"),
            "write one unit per line, without its directory: ssh.service",
        ));
    }
    let whole = UNIT_SUFFIXES.iter().any(|suffix| text.ends_with(suffix));
    Ok(if whole { text.to_owned() } else { format!("{text}{suffix}") })
}

/// Returns the names of all units in the root, including init scripts.
fn units(machine: &dyn Machine) -> Result<BTreeSet<String>, MachineError> {
    let mut found = BTreeSet::new();
    let name = |name: &std::ffi::OsStr| name.to_string_lossy().into_owned();
    for folder in UNIT_DIRS {
        for entry in machine.list(Path::new(folder))? {
            let name = name(&entry.name);
            if UNIT_SUFFIXES.iter().any(|suffix| name.ends_with(suffix)) {
                found.insert(name);
            }
        }
    }
    for entry in machine.list(Path::new(INIT_DIR))? {
        found.insert(name(&entry.name) + ".service");
    }
    Ok(found)
}

/// Checks that a unit exists, or the template of which it is an instance.
fn check(unit: &str, there: &BTreeSet<String>) -> Result<(), StepError> {
    let template = || {
        let (name, instance) = unit.split_once('@')?;
        Some(format!("{name}@{}", &instance[instance.rfind('.')?..]))
    };
    if there.contains(unit) || template().is_some_and(|template| there.contains(&template)) {
        return Ok(());
    }
    // Compare names without the suffix, which would make all services similar.
    let (stem, suffix) = unit.rsplit_once('.').unwrap_or((unit, ""));
    let others = there.iter().filter_map(|other| other.rsplit_once('.'));
    let alike = others.filter(|(_, end)| *end == suffix).map(|(other, _)| other);
    let help = match nearest(stem, alike) {
        Some(name) => format!("did you mean `{name}.{suffix}`?"),
        None => "a package or an earlier step must add it".to_owned(),
    };
    Err(StepError::Impossible(format!("the image has no unit `{unit}`; {help}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_exists_by_name_or_template() {
        let there = ["ssh.service", "dbus.service", "getty@.service", "multi-user.target"]
            .map(str::to_owned);
        let there = BTreeSet::from(there);
        let error = |unit: &str| check(unit, &there).err().map(|e| e.to_string());
        for unit in ["ssh.service", "getty@ttyS0.service", "getty@.service"] {
            assert_eq!(error(unit), None, "{unit}");
        }
        assert_eq!(
            error("sshd.service").unwrap(),
            "the image has no unit `sshd.service`; did you mean `ssh.service`?"
        );
        assert_eq!(
            error("nope.service").unwrap(),
            "the image has no unit `nope.service`; a package or an earlier step must add it"
        );
        assert_eq!(
            error("lldpd@x.socket").unwrap(),
            "the image has no unit `lldpd@x.socket`; a package or an earlier step must add it"
        );
    }
}
