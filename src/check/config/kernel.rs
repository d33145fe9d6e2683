//! Settings of the kernel: modprobe.d(5), modules-load.d(5), sysctl.d(5), binfmt.d(5).

use std::collections::BTreeSet;

use super::files::{ConfigFile, drop_in_nodes, files_in};
use super::inspector::{Inspector, KnownNames, lines_with_cr, shown};
use crate::check::context::resolve;
use crate::check::faults::{Fault, SurveyFaults};
use crate::check::{Lint, PassError, Severity};
use crate::image::view::{StackView, ViewNode, join};

pub(super) static MODPROBE: Lint = Lint {
    name: "config/modprobe",
    severity: Severity::Error,
    summary: "a line of modprobe.d that modprobe ignores",
    why: "modprobe prints \"ignoring bad line\" and continues: the module gets no options, or is \
          not blacklisted. It reads only files whose names end in .conf. A module whose `install` \
          command is missing cannot be loaded.",
    fix: "correct the line; `modprobe --showconfig` prints invalid lines",
};

pub(super) static MODULES_LOAD: Lint = Lint {
    name: "config/modules-load",
    severity: Severity::Warning,
    summary: "a module to load at boot that no kernel has",
    why: "systemd-modules-load does not find the module, and its service fails at each boot. What \
          needs the module does not work.",
    fix: "correct the name, install the module, or remove the line",
};

pub(super) static SYSCTL: Lint = Lint {
    name: "config/sysctl",
    severity: Severity::Error,
    summary: "a kernel parameter that is not set",
    why: "systemd-sysctl ignores lines that are no assignment, and files whose names do not end in \
          .conf. It reads /etc/sysctl.conf only through a link in /etc/sysctl.d, which Debian has \
          until version 12. The parameter keeps the value of the kernel.",
    fix: "write `NAME = VALUE` to a file /etc/sysctl.d/NAME.conf",
};

pub(super) static BINFMT: Lint = Lint {
    name: "config/binfmt",
    severity: Severity::Error,
    summary: "a binary format that is not registered or has no interpreter",
    why: "The kernel rejects a line with missing fields, and cannot run programs of a format whose \
          interpreter is missing.",
    fix: "correct the line (`:NAME:TYPE:OFFSET:MAGIC:MASK:INTERPRETER:FLAGS`), or install the \
          interpreter",
};

/// Suffixes of files that are not meant to be read.
const OTHER_SUFFIXES: [&str; 9] =
    ["~", ".bak", ".disabled", ".example", ".md", ".off", ".orig", ".sample", ".txt"];
/// Maximum bytes of a kernel's index of modules.
const MAX_INDEX: usize = 8 << 20;
/// Maximum length of the part of an alias before its wildcard.
const MAX_ALIAS: usize = 64;

/// Reports files of a directory of /etc that are not read because of their suffix.
fn check_names(
    inspector: &mut Inspector<'_>,
    lint: &'static Lint,
    dir: &str,
) -> Result<(), PassError> {
    for (name, node) in files_in(inspector.view, dir)? {
        let is_other = OTHER_SUFFIXES.iter().any(|end| name.ends_with(end))
            || name.contains(".dpkg-")
            || name.starts_with('.')
            || name.starts_with("README");
        if !name.ends_with(".conf") && !is_other {
            let fault = Fault::new(lint, &node, "its name does not end in .conf");
            inspector.add(fault.severity(Severity::Warning).fix("rename the file"));
        }
    }
    Ok(())
}

/// Finds faults of modprobe.d.
pub(super) fn modprobe(view: &StackView, faults: &mut SurveyFaults) -> Result<(), PassError> {
    const DIRS: [&str; 3] = ["etc/modprobe.d", "usr/local/lib/modprobe.d", "usr/lib/modprobe.d"];
    let mut inspector = Inspector::new(view, faults);
    let mut commands = KnownNames::new([
        "alias",
        "blacklist",
        "install",
        "options",
        "remove",
        "softdep",
        "weakdep",
    ]);
    for node in drop_in_nodes(view, &DIRS, ".conf")? {
        let file = inspector.open(node)?;
        if let Some(line) = lines_with_cr(&file).first() {
            let message = "the lines end with CR, which is part of their last word";
            inspector.add(Fault::new(&MODPROBE, &file.node, message).line(*line));
            continue;
        }
        for (line, text) in file.joined_lines() {
            let text = text.trim();
            let mut words = text.split_ascii_whitespace();
            let Some(command) = words.next().filter(|word| !word.starts_with('#')) else {
                continue;
            };
            let arguments: Vec<&str> = words.collect();
            let fault = |message: String| Fault::new(&MODPROBE, &file.node, message).line(line);
            let needed = match command {
                "alias" | "options" | "install" | "remove" | "softdep" | "weakdep" => 2,
                "blacklist" => 1,
                _ => 0,
            };
            if !commands.has(command) {
                let near = commands.similar(command);
                let hint = near.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
                inspector.add(fault(format!("unknown command {}{hint}", shown(command))));
            } else if arguments.len() < needed {
                let message = format!("{command} has {} arguments, not {needed}", arguments.len());
                inspector.add(fault(message));
            } else if let ("install" | "remove", [module, program, ..]) = (command, &arguments[..])
                && program.starts_with('/')
                && resolve(view, program.as_bytes())?.is_none()
            {
                let message =
                    format!("the program {} of {} does not exist", shown(program), shown(module));
                inspector.add(fault(message).cause(program.as_bytes()));
            }
        }
    }
    check_names(&mut inspector, &MODPROBE, DIRS[0])
}

/// Finds modules in modules-load.d that no kernel of the root has.
pub(super) fn modules_load(view: &StackView, faults: &mut SurveyFaults) -> Result<(), PassError> {
    const DIRS: [&str; 3] =
        ["etc/modules-load.d", "usr/local/lib/modules-load.d", "usr/lib/modules-load.d"];
    let mut inspector = Inspector::new(view, faults);
    let mut wanted = Vec::new();
    for node in drop_in_nodes(view, &DIRS, ".conf")? {
        let file = inspector.open(node)?;
        for (line, text) in file.entries(&['#', ';']) {
            // A line has one name; older files have options after it.
            let name = text.split_ascii_whitespace().next().unwrap_or_default();
            wanted.push((file.node.clone(), line, name.to_owned()));
        }
    }
    check_names(&mut inspector, &MODULES_LOAD, DIRS[0])?;
    if wanted.is_empty() {
        return Ok(());
    }
    let Some(modules) = Modules::read(view)? else { return Ok(()) };
    for (node, line, name) in wanted {
        if !modules.has(&name) {
            let message = format!("no kernel has the module {}", shown(&name));
            let fault = Fault::new(&MODULES_LOAD, &node, message).line(line);
            inspector.add(fault.cause(b"usr/lib/modules"));
        }
    }
    Ok(())
}

/// Names of the modules of all kernels, and their aliases.
struct Modules {
    names: BTreeSet<String>,
    /// Aliases with wildcards, up to the first one.
    prefixes: BTreeSet<String>,
}

impl Modules {
    /// Reads the indices of the root; `None` without a kernel, which may come from another image.
    fn read(view: &StackView) -> Result<Option<Modules>, PassError> {
        let dir = resolve(view, b"lib/modules")?.filter(ViewNode::is_dir);
        let Some(dir) = dir else { return Ok(None) };
        let mut modules = Modules { names: BTreeSet::new(), prefixes: BTreeSet::new() };
        for kernel in view.children(&dir)? {
            for index in ["modules.dep", "modules.builtin", "modules.alias"] {
                let file = resolve(view, &join(&kernel.path, index.as_bytes()))?;
                let Some(file) = file.filter(ViewNode::is_file) else { continue };
                let bytes = view.head(&file, MAX_INDEX)?;
                for line in String::from_utf8_lossy(&bytes).lines() {
                    modules.add(index, line);
                }
            }
        }
        Ok(Some(modules).filter(|modules| !modules.names.is_empty()))
    }

    fn add(&mut self, index: &str, line: &str) {
        if index == "modules.alias" {
            let alias = line.strip_prefix("alias ").and_then(|rest| rest.split(' ').next());
            match alias.map(|alias| alias.split_once(['*', '?', '[']).ok_or(alias)) {
                Some(Err(alias)) => drop(self.names.insert(alias.replace('-', "_"))),
                Some(Ok((prefix, _))) => drop(self.prefixes.insert(prefix.replace('-', "_"))),
                None => {}
            }
            return;
        }
        let path = line.split(':').next().unwrap_or_default();
        let file = path.rsplit('/').next().unwrap_or_default();
        if let Some((name, _)) = file.split_once(".ko") {
            self.names.insert(name.replace('-', "_"));
        }
    }

    fn has(&self, name: &str) -> bool {
        let name = name.replace('-', "_");
        // Aliases of devices, such as pci:v000…*, have a colon.
        let is_alias = || {
            let ends = name.char_indices().map(|(end, _)| end).take(MAX_ALIAS);
            ends.map(|end| &name[..end]).any(|prefix| self.prefixes.contains(prefix))
        };
        self.names.contains(&name) || name.contains(':') && is_alias()
    }
}

/// Finds faults of sysctl.d.
pub(super) fn sysctl(view: &StackView, faults: &mut SurveyFaults) -> Result<(), PassError> {
    const DIRS: [&str; 3] = ["etc/sysctl.d", "usr/local/lib/sysctl.d", "usr/lib/sysctl.d"];
    let mut inspector = Inspector::new(view, faults);
    let nodes = drop_in_nodes(view, &DIRS, ".conf")?;
    let old = resolve(view, b"etc/sysctl.conf")?.filter(ViewNode::is_file);
    let reads_old = nodes.iter().any(|node| node.path == b"etc/sysctl.conf");
    for node in nodes {
        let file = inspector.open(node)?;
        for (line, text) in file.entries(&['#', ';']) {
            let message = match text.split_once('=') {
                None if text.starts_with('-') => continue,
                None => format!("it is not NAME = VALUE: {}", shown(text)),
                Some((name, _)) if name.trim().contains(char::is_whitespace) => {
                    format!("the name {} has a blank", shown(name.trim()))
                }
                Some(_) => continue,
            };
            inspector.add(Fault::new(&SYSCTL, &file.node, message).line(line));
        }
    }
    if let Some(node) = old
        && !reads_old
        && resolve(view, b"lib/systemd/systemd-sysctl")?.is_some()
    {
        let file = inspector.open(node)?;
        let first = file.entries(&['#', ';']).next().map(|(line, _)| line);
        if let Some(line) = first {
            let message = "systemd does not read this file: /etc/sysctl.d has no link to it";
            let fault = Fault::new(&SYSCTL, &file.node, message).line(line);
            let fault = fault.severity(Severity::Warning).cause(b"etc/sysctl.d/99-sysctl.conf");
            inspector.add(fault.fix("move the lines to a file /etc/sysctl.d/NAME.conf"));
        }
    }
    check_names(&mut inspector, &SYSCTL, DIRS[0])
}

/// Finds faults of binfmt.d.
pub(super) fn binfmt(view: &StackView, faults: &mut SurveyFaults) -> Result<(), PassError> {
    const DIRS: [&str; 3] = ["etc/binfmt.d", "usr/local/lib/binfmt.d", "usr/lib/binfmt.d"];
    let mut inspector = Inspector::new(view, faults);
    for node in drop_in_nodes(view, &DIRS, ".conf")? {
        let file = inspector.open(node)?;
        check_formats(&mut inspector, &file)?;
    }
    check_names(&mut inspector, &BINFMT, DIRS[0])
}

fn check_formats(inspector: &mut Inspector<'_>, file: &ConfigFile) -> Result<(), PassError> {
    for (line, text) in file.entries(&['#', ';']) {
        let fault = |message: String| Fault::new(&BINFMT, &file.node, message).line(line);
        let Some(delimiter) = text.chars().next() else { continue };
        let fields: Vec<&str> = text.split(delimiter).skip(1).collect();
        let [name, kind, _, _, _, interpreter, _flags] = &fields[..] else {
            inspector.add(fault(format!("it has {} fields, not 7", fields.len())));
            continue;
        };
        if name.is_empty() || name.contains('/') || ["register", "status"].contains(name) {
            inspector.add(fault(format!("invalid name {}", shown(name))));
        } else if !["E", "M"].contains(kind) {
            inspector.add(fault(format!("the type {} is neither E nor M", shown(kind))));
        } else if resolve(inspector.view, interpreter.as_bytes())?.is_none() {
            let message = format!("the interpreter {} does not exist", shown(interpreter));
            inspector.add(fault(message).cause(interpreter.as_bytes()));
        }
    }
    Ok(())
}
