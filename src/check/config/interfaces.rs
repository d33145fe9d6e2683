//! Interfaces of ifupdown: interfaces(5).

use std::collections::BTreeSet;
use std::path::Path;

use provisioners::Pattern;

use super::files::{ConfigFile, files_in};
use super::inspector::{Inspector, shown};
use crate::check::context::{program, resolve};
use crate::check::faults::{Fault, SurveyFaults};
use crate::check::{Lint, PassError, Severity};
use crate::image::view::{StackView, ViewNode};

pub(super) static INTERFACES: Lint = Lint {
    name: "config/interfaces",
    severity: Severity::Error,
    summary: "a line of interfaces that ifup rejects or does not use",
    why: "ifup reads no interface at all if one line of its files is invalid: the machine has no \
          network. An interface without `auto` or `allow-hotplug` is not brought up at boot. \
          Names such as eth0 exist only with `net.ifnames=0` on the kernel command line; otherwise \
          they depend on the slot of the card, such as enp1s0.",
    fix: "correct the line; `ifquery --list -a` reports invalid lines",
};

/// Families with their methods (ifupdown 0.8).
const METHODS: [(&str, &[&str]); 6] = [
    (
        "inet",
        &["loopback", "static", "manual", "dhcp", "bootp", "tunnel", "ppp", "wvdial", "ipv4ll"],
    ),
    ("inet6", &["loopback", "static", "manual", "dhcp", "tunnel", "auto", "v4tunnel", "6to4"]),
    ("ipx", &["static", "dynamic"]),
    ("can", &["static"]),
    ("meta", &["none"]),
    ("link", &[]),
];
/// Maximum number of files that sourced files lead to.
const MAX_FILES: usize = 1000;
/// Maximum depth of sourced files.
const MAX_DEPTH: usize = 8;

/// An `iface` of a file.
struct Interface {
    name: String,
    line: usize,
    node: ViewNode,
}

/// The stanzas of all files.
#[derive(Default)]
struct Stanzas {
    interfaces: Vec<Interface>,
    /// Names and patterns that something brings up.
    started: BTreeSet<String>,
    /// Names whose options another interface inherits.
    inherited: BTreeSet<String>,
    has_mapping: bool,
    /// The number of read files, and of lines that source files.
    files: usize,
    sources: usize,
}

pub(super) fn survey(view: &StackView, faults: &mut SurveyFaults) -> Result<(), PassError> {
    // ifupdown2 and ifupdown-ng read another dialect.
    let is_other = program(view, b"ifreload")?.is_some() || program(view, b"ifctrstat")?.is_some();
    if program(view, b"ifup")?.is_none() || is_other {
        return Ok(());
    }
    let mut inspector = Inspector::new(view, faults);
    let mut stanzas = Stanzas::default();
    if let Some(file) = inspector.file("etc/network/interfaces")? {
        read(&mut inspector, &file, 0, &mut stanzas)?;
    }
    // A pattern (/eth*) or a mapping may name any interface.
    let is_pattern = |started: &String| started.contains(['*', '?', '[', '/', '=']);
    let has_patterns = stanzas.has_mapping || stanzas.started.iter().any(is_pattern);
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for Interface { name, line, node } in &stanzas.interfaces {
        if !seen.insert(name) || name == "lo" {
            continue;
        }
        let fault = |message: String| Fault::new(&INTERFACES, node, message).line(*line);
        if is_kernel_name(name) {
            let message = format!("the name {name} depends on the kernel command line");
            inspector.add(fault(message).severity(Severity::Note).fix(
                "set `net.ifnames=0` on the kernel command line, or use the predictable name",
            ));
        }
        let may_start = has_patterns || stanzas.started.contains(name);
        if !may_start && !stanzas.inherited.contains(name) {
            let message = format!("nothing brings {} up", shown(name));
            let fix = format!("add `auto {0}` or `allow-hotplug {0}`", shown(name));
            inspector.add(fault(message).severity(Severity::Warning).fix(fix));
        }
    }
    Ok(())
}

/// Returns whether the kernel gives this name to the first card that it finds.
fn is_kernel_name(name: &str) -> bool {
    ["eth", "wlan"].iter().any(|kind| {
        let number = name.strip_prefix(kind).unwrap_or_default();
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}

/// Reads a file and those that it sources.
fn read(
    inspector: &mut Inspector<'_>,
    file: &ConfigFile,
    depth: usize,
    stanzas: &mut Stanzas,
) -> Result<(), PassError> {
    stanzas.files += 1;
    let mut in_stanza = false;
    let mut sourced = Vec::new();
    for (line, text) in lines(file) {
        let mut words = text.split_ascii_whitespace();
        let Some(keyword) = words.next() else { continue };
        let rest: Vec<&str> = words.collect();
        let mut add = |message: String, severity| {
            let fault = Fault::new(&INTERFACES, &file.node, message).line(line);
            inspector.add(fault.severity(severity));
        };
        match keyword {
            "auto" => stanzas.started.extend(rest.iter().map(|name| (*name).to_owned())),
            _ if keyword.strip_prefix("allow-").is_some_and(|class| !class.is_empty()) => {
                stanzas.started.extend(rest.iter().map(|name| (*name).to_owned()));
            }
            "no-auto-down" | "no-scripts" | "rename" => {}
            "source" | "source-directory" | "source-dir" => {
                let is_dir = keyword != "source";
                sourced.extend(rest.iter().map(|path| (line, is_dir, (*path).to_owned())));
            }
            "mapping" => {
                (in_stanza, stanzas.has_mapping) = (true, true);
                continue;
            }
            "iface" => {
                in_stanza = true;
                let inherits = rest.iter().position(|word| *word == "inherits");
                let from = inherits.and_then(|at| rest.get(at + 1));
                stanzas.inherited.extend(from.map(|name| (*name).to_owned()));
                match invalid_interface(&rest, inherits.is_some()) {
                    Some(message) => add(message, Severity::Error),
                    None => stanzas.interfaces.push(Interface {
                        name: rest[0].to_owned(),
                        line,
                        node: file.node.clone(),
                    }),
                }
                continue;
            }
            _ if in_stanza => {
                if rest.is_empty() {
                    add(format!("the option {} has no value", shown(keyword)), Severity::Error);
                }
                continue;
            }
            _ => add(format!("unknown keyword {}", shown(keyword)), Severity::Error),
        }
        in_stanza = false;
    }
    for (line, is_dir, path) in sourced {
        stanzas.sources += 1;
        if stanzas.sources > MAX_FILES {
            break;
        }
        source(inspector, file, line, (is_dir, &path), depth, stanzas)?;
    }
    Ok(())
}

/// Describes an `iface` line that ifup rejects.
fn invalid_interface(words: &[&str], inherits: bool) -> Option<String> {
    let [name, family, rest @ ..] = words else {
        return Some(match words.first() {
            None => "iface has no name".to_owned(),
            Some(name) => format!("iface {} has no address family and no method", shown(name)),
        });
    };
    if *family == "inherits" {
        return None;
    }
    let Some((_, methods)) = METHODS.iter().find(|(known, _)| known == family) else {
        return Some(format!("unknown address family {}", shown(family)));
    };
    match rest.first() {
        None => Some(format!("iface {} has no method", shown(name))),
        Some(method) if methods.is_empty() || methods.contains(method) || inherits => None,
        Some(method) => Some(format!("unknown method {} of {family}", shown(method))),
    }
}

/// Reads the files of a `source` line. A pattern may match nothing.
fn source(
    inspector: &mut Inspector<'_>,
    file: &ConfigFile,
    line: usize,
    (is_dir, path): (bool, &str),
    depth: usize,
    stanzas: &mut Stanzas,
) -> Result<(), PassError> {
    let path = match path.starts_with('/') {
        true => path.to_owned(),
        false => format!("etc/network/{path}"),
    };
    let (dir, name) = match path.rsplit_once('/') {
        _ if is_dir => (path.as_str(), "*"),
        Some(parts) => parts,
        None => return Ok(()),
    };
    let is_pattern = |text: &str| text.contains(['*', '?', '[', '$', '~', '{']);
    if is_pattern(dir) {
        return Ok(());
    }
    let mut nodes = Vec::new();
    if !is_pattern(name) {
        match resolve(inspector.view, path.as_bytes())?.filter(ViewNode::is_file) {
            Some(node) => nodes.push(node),
            None => {
                let message = format!("the file {} does not exist", shown(&path));
                let fault = Fault::new(&INTERFACES, &file.node, message).line(line);
                let fault = fault.severity(Severity::Warning).cause(path.as_bytes());
                inspector.add(fault.fix("add the file, or remove the line"));
            }
        }
    } else if let Ok(pattern) = Pattern::parse(&format!("/{name}")) {
        let allowed =
            |c: u8| c.is_ascii_alphanumeric() || c == b'_' || c == b'-' || (!is_dir && c == b'.');
        for (name, node) in files_in(inspector.view, dir)? {
            if pattern.matches(Path::new(&format!("/{name}")))
                && !name.starts_with('.')
                && name.bytes().all(allowed)
            {
                nodes.push(node);
            }
        }
    }
    for node in nodes {
        if stanzas.files >= MAX_FILES || depth >= MAX_DEPTH {
            return Ok(());
        }
        let file = inspector.open(node)?;
        read(inspector, &file, depth + 1, stanzas)?;
    }
    Ok(())
}

/// Returns the lines that are neither empty nor comments; a backslash at the end continues a line.
fn lines(file: &ConfigFile) -> Vec<(usize, String)> {
    let lines = file.joined_lines().into_iter();
    lines.filter(|(_, line)| !line.trim_start().starts_with('#')).collect()
}
