//! Reads the inventory of a tree, in INI format or YAML: groups, hosts, and their variables.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::python_literal::{shell_words, value};
use super::settings::Global;
use super::tree::{self, text};
use super::yaml_writer::flow_value;
use super::{ImportError, Note};
use crate::config::{YamlDocument, YamlNode, YamlValue};
use crate::variables::Variable;

/// The files that are read, in order of increasing precedence.
const FILES: [&str; 8] = [
    "hosts",
    "hosts.ini",
    "hosts.yml",
    "hosts.yaml",
    "inventory",
    "inventory.ini",
    "inventory.yml",
    "inventory.yaml",
];

/// The group of all hosts.
pub(super) const ALL: &str = "all";

/// The groups and hosts of a tree.
#[derive(Debug, Default)]
pub(super) struct Inventory {
    groups: BTreeMap<String, HostGroup>,
    /// The variables of hosts.
    pub(super) hosts: BTreeMap<String, Vec<Global>>,
}

/// A group of hosts.
#[derive(Debug, Default)]
struct HostGroup {
    /// Whether it has a section of hosts or children, or is in another group. Ansible rejects an
    /// inventory with a group that has only variables.
    is_declared: bool,
    hosts: BTreeSet<String>,
    children: BTreeSet<String>,
    variables: Vec<Global>,
}

impl Inventory {
    /// Reads the files of a tree. Adds a note about each one that is not read.
    pub(super) fn read(folder: &Path, notes: &mut Vec<Note>) -> Result<Self, ImportError> {
        let mut inventory = Self::default();
        for file in FILES.map(Path::new) {
            let path = folder.join(file);
            if path.is_file() {
                inventory.read_file(folder, file, notes)?;
            } else if path.is_dir() {
                for path in tree::list(&path)?.iter().filter(|path| path.is_file()) {
                    let file = file.join(path.file_name().unwrap_or_default());
                    inventory.read_file(folder, &file, notes)?;
                }
            }
        }
        Ok(inventory)
    }

    fn read_file(
        &mut self,
        folder: &Path,
        file: &Path,
        notes: &mut Vec<Note>,
    ) -> Result<(), ImportError> {
        let text = text(folder, file)?;
        if text.starts_with("#!") {
            let text = "not read: it is a program; write the variables that it prints to \
                        `variables` of the project";
            notes.push(Note::of_file(file, text));
            return Ok(());
        }
        let must_be_yaml = tree::is_yaml(file);
        let can_be_yaml = must_be_yaml || file.extension().is_none();
        // Ansible also tries YAML first.
        match YamlDocument::parse_ansible(&folder.join(file), text.clone()) {
            Ok(document) if can_be_yaml && is_yaml_inventory(&document.root) => {
                self.read_yaml(file, &document.root);
            }
            Err(error) if must_be_yaml || can_be_yaml && looks_like_yaml(&text) => {
                notes.push(Note::from_error(file, "the inventory is not read", &error));
            }
            Ok(_) if must_be_yaml => {
                let text = "not read: an inventory in YAML is a mapping of groups";
                notes.push(Note::of_file(file, text));
            }
            _ => self.read_ini(file, &text, notes)?,
        }
        Ok(())
    }

    fn group(&mut self, name: &str) -> &mut HostGroup {
        self.groups.entry(name.to_owned()).or_default()
    }

    fn read_yaml(&mut self, file: &Path, root: &YamlNode) {
        for (name, node) in entries(root) {
            self.read_yaml_group(file, name, node, 0);
        }
    }

    fn read_yaml_group(&mut self, file: &Path, name: &str, node: &YamlNode, depth: usize) {
        self.group(name).is_declared = true;
        if depth > self.groups.len() {
            return;
        }
        let global = |(name, value): (&str, &YamlNode)| Global {
            name: name.to_owned(),
            value: value.clone(),
            file: file.to_owned(),
        };
        for (key, value) in entries(node) {
            match key {
                "vars" => {
                    let variables = entries(value).map(global);
                    self.group(name).variables.extend(variables);
                }
                "children" => {
                    for (child, node) in entries(value) {
                        self.group(name).children.insert(child.to_owned());
                        self.read_yaml_group(file, child, node, depth + 1);
                    }
                }
                "hosts" => {
                    let one = value.text("a host").ok();
                    let hosts = entries(value).map(|(host, node)| (host, Some(node)));
                    for (host, node) in hosts.chain(one.map(|host| (host, None))) {
                        let variables = node.into_iter().flat_map(entries);
                        let variables: Vec<Global> =
                            variables.filter(|(name, _)| is_own(name)).map(global).collect();
                        self.add_host(name, host, variables);
                    }
                }
                _ => {}
            }
        }
    }

    fn add_host(&mut self, group: &str, host: &str, variables: Vec<Global>) {
        self.group(group).hosts.insert(host.to_owned());
        self.hosts.entry(host.to_owned()).or_default().extend(variables);
    }

    fn read_ini(
        &mut self,
        file: &Path,
        text: &str,
        notes: &mut Vec<Note>,
    ) -> Result<(), ImportError> {
        let (mut group, mut section) = ("ungrouped".to_owned(), "hosts".to_owned());
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            if let Some((name, of)) = header(line) {
                (group, section) = (name.to_owned(), of.to_owned());
                self.group(&group).is_declared |= section != "vars";
                continue;
            }
            match section.as_str() {
                "vars" => {
                    if let Some((name, value)) = line.split_once('=') {
                        let variable = ini_variable(file, name.trim(), value.trim())?;
                        self.group(&group).variables.push(variable);
                    }
                }
                "children" => {
                    let child = line.split(['#', ' ', '\t']).next().unwrap_or_default();
                    self.group(&group).children.insert(child.to_owned());
                    self.group(child).is_declared = true;
                }
                _ => {
                    let Some(words) = shell_words(line) else {
                        let text = "not read: a quote is not closed";
                        notes.push(Note::at(file, index + 1, text));
                        continue;
                    };
                    let mut words = words.iter();
                    let Some(host) = words.next() else { continue };
                    let pairs = words.filter_map(|word| word.split_once('='));
                    let variables = pairs
                        .filter(|(name, _)| is_own(name))
                        .map(|(name, value)| ini_variable(file, name, value))
                        .collect::<Result<_, _>>()?;
                    self.add_host(&group, without_port(host), variables);
                }
            }
        }
        Ok(())
    }

    /// Returns whether there is a group of this name.
    pub(super) fn has_group(&self, name: &str) -> bool {
        name == ALL || self.groups.contains_key(name)
    }

    /// Returns the names of all groups.
    pub(super) fn groups(&self) -> impl Iterator<Item = &str> {
        self.groups.keys().map(String::as_str)
    }

    /// Returns the variables of a group.
    pub(super) fn variables_of(&self, group: &str) -> &[Global] {
        self.groups.get(group).map_or(&[], |group| &group.variables)
    }

    /// Returns the hosts of a group and of the groups in it; for the name of a host, that host.
    pub(super) fn hosts_of(&self, name: &str) -> BTreeSet<&str> {
        if let Some((host, _)) = self.hosts.get_key_value(name)
            && !self.groups.contains_key(name)
        {
            return BTreeSet::from([host.as_str()]);
        }
        if name == ALL {
            return self.hosts.keys().map(String::as_str).collect();
        }
        let groups = self.with_children(name);
        let hosts = groups.iter().filter_map(|name| self.groups.get(*name));
        hosts.flat_map(|group| group.hosts.iter().map(String::as_str)).collect()
    }

    /// Returns a group and all groups in it.
    fn with_children<'a>(&'a self, name: &'a str) -> BTreeSet<&'a str> {
        let mut found = BTreeSet::new();
        let mut todo = vec![name];
        while let Some(name) = todo.pop() {
            if found.insert(name)
                && let Some(group) = self.groups.get(name)
            {
                todo.extend(group.children.iter().map(String::as_str));
            }
        }
        found
    }

    /// Returns the groups of a host other than `all`, in order of increasing precedence of their
    /// variables: a group before the groups in it.
    pub(super) fn groups_of(&self, host: &str) -> Vec<&str> {
        let names = self.groups.keys().map(String::as_str).filter(|name| *name != ALL);
        let mut groups: Vec<&str> =
            names.filter(|name| self.hosts_of(name).contains(host)).collect();
        self.sort(&mut groups);
        groups
    }

    /// Returns the groups without hosts, also in the groups in them.
    pub(super) fn empty_groups(&self) -> impl Iterator<Item = &str> {
        self.groups().filter(|name| *name != ALL && self.hosts_of(name).is_empty())
    }

    /// Returns the groups that have only variables.
    pub(super) fn undeclared_groups(&self) -> impl Iterator<Item = &str> {
        self.groups().filter(|name| *name != ALL && !self.groups[*name].is_declared)
    }

    /// Sorts groups by depth, priority and name, as Ansible does.
    fn sort(&self, groups: &mut [&str]) {
        let priority = |name: &str| {
            let variables = self.variables_of(name).iter().rev();
            let mut set = variables.filter(|global| global.name == "ansible_group_priority");
            match set.next().map(|global| Variable::parse_yaml_1_1(&global.value)) {
                Some(Variable::Integer(priority)) => priority,
                _ => 1,
            }
        };
        // The groups around a group are those that have it among the groups in them.
        let depth = |name: &str| {
            let names = self.groups.keys();
            names.filter(|other| *other != ALL && self.with_children(other).contains(name)).count()
        };
        groups.sort_by_key(|name| (depth(name), priority(name), (*name).to_owned()));
    }
}

/// Returns the group and the kind of a section: `[NAME]`, `[NAME:vars]` or `[NAME:children]`.
fn header(line: &str) -> Option<(&str, &str)> {
    let (name, rest) = line.strip_prefix('[')?.split_once(']')?;
    let rest = rest.trim_start();
    if !rest.is_empty() && !rest.starts_with('#') {
        return None;
    }
    Some(name.split_once(':').unwrap_or((name, "hosts")))
}

/// Returns whether a variable of a host is one of the tree, and not one of the connection.
fn is_own(name: &str) -> bool {
    !name.starts_with("ansible_")
}

/// Returns a host without the number of its port.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port))
            if !name.contains([':', '[']) && port.bytes().all(|b| b.is_ascii_digit()) =>
        {
            name
        }
        _ => host,
    }
}

/// Returns a variable of an inventory in INI format.
fn ini_variable(file: &Path, name: &str, text: &str) -> Result<Global, ImportError> {
    let written = format!("value: {}\n", flow_value(&value(text)));
    let document = YamlDocument::parse(file, written)?;
    let value = document.root.get("value").unwrap_or(&document.root).clone();
    Ok(Global { name: name.to_owned(), value, file: file.to_owned() })
}

/// Returns whether a file that is not valid YAML was meant as YAML: it begins with a key, and not
/// with a section or a host.
fn looks_like_yaml(text: &str) -> bool {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.find(|line| !line.starts_with(['#', ';']));
    first.is_some_and(|line| line == "---" || line.ends_with(':'))
}

/// Returns whether a file is an inventory in YAML: a mapping of groups, which are mappings.
fn is_yaml_inventory(root: &YamlNode) -> bool {
    let YamlValue::Map(groups) = &root.value else { return false };
    let is_group = |node: &YamlNode| node.is_null() || matches!(node.value, YamlValue::Map(_));
    !groups.is_empty() && groups.iter().all(|(_, node)| is_group(node))
}

fn entries(node: &YamlNode) -> impl Iterator<Item = (&str, &YamlNode)> {
    let entries = match &node.value {
        YamlValue::Map(entries) => entries.as_slice(),
        _ => &[],
    };
    entries.iter().map(|(key, node)| (key.name.as_str(), node))
}
