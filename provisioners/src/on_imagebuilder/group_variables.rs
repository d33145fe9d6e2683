//! The variables of the hosts in which the wrapper playbooks build images: those of the inventory,
//! of `group_vars/` and of `host_vars/`, with Ansible's precedence.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::inventory::{ALL, Inventory};
use super::settings::Global;
use super::tree::{VAULT_MARK, files_below, is_yaml, text, variables};
use super::{ImportError, Note};
use crate::config::{YamlDocument, YamlNode, YamlValue};

/// Variables by the name of their group or host.
type VariablesByName = BTreeMap<String, Vec<Global>>;

/// The groups and hosts of a tree with their variables.
#[derive(Debug)]
pub(super) struct GroupVariables {
    inventory: Inventory,
    /// The variables of files in `group_vars/`, by group.
    of_groups: VariablesByName,
    /// The variables of files in `host_vars/`, by host.
    of_hosts: VariablesByName,
    /// The files in `group_vars/`, each with its group.
    group_files: Vec<(String, PathBuf)>,
    /// The files in `host_vars/`, each with its host.
    host_files: Vec<(String, PathBuf)>,
}

impl GroupVariables {
    /// Reads the files of a tree. Adds a note about each one that is not read.
    pub(super) fn read(folder: &Path, notes: &mut Vec<Note>) -> Result<Self, ImportError> {
        let inventory = Inventory::read(folder, notes)?;
        let (of_groups, group_files) = read_files(folder, Path::new("group_vars"), notes)?;
        let (of_hosts, host_files) = read_files(folder, Path::new("host_vars"), notes)?;
        Ok(Self { inventory, of_groups, of_hosts, group_files, host_files })
    }

    /// Returns the variables of the first host of a group. `others` are the groups of the other
    /// kinds of images and of the host around builds.
    ///
    /// A tree may lack its inventory, or have several. If no host is known, the groups without
    /// hosts are those of all images, except for `others`; otherwise only those without a section.
    pub(super) fn of_host(&self, group: &str, others: &[&str]) -> Vec<Global> {
        let host = self.inventory.hosts_of(group).first().copied();
        let mut groups: Vec<&str> = match host {
            Some(_) => self.inventory.undeclared_groups().collect(),
            None => {
                let unknown = self.of_groups.keys().map(String::as_str);
                let unknown = unknown.filter(|name| !self.inventory.has_group(name));
                unknown.chain(self.inventory.empty_groups()).collect()
            }
        };
        groups.retain(|name| !others.contains(name));
        groups.sort_unstable();
        match host {
            Some(host) => groups.extend(self.inventory.groups_of(host)),
            None => groups.push(group),
        }
        groups.insert(0, ALL);
        let mut found: Vec<Global> = Vec::new();
        let mut add = |more: &[Global]| {
            for global in more {
                found.retain(|other| other.name != global.name);
                found.push(global.clone());
            }
        };
        for name in &groups {
            add(self.inventory.variables_of(name));
        }
        for name in &groups {
            add(self.of_groups.get(*name).map_or(&[], Vec::as_slice));
        }
        if let Some(host) = host {
            add(self.inventory.hosts.get(host).map_or(&[], Vec::as_slice));
            // Ansible reads no file for a host whose name is a path.
            add(self.of_hosts.get(host).map_or(&[], Vec::as_slice));
        }
        found
    }

    /// Returns the variables of all groups and hosts, without their precedence.
    pub(super) fn everything(&self) -> Vec<Global> {
        let mut found = Vec::new();
        for name in self.inventory.groups() {
            found.extend_from_slice(self.inventory.variables_of(name));
        }
        let more = self.of_groups.values().chain(self.inventory.hosts.values());
        more.chain(self.of_hosts.values()).for_each(|more| found.extend_from_slice(more));
        found
    }

    /// Adds a note about each file of a host in which no image is built, and of a group that the
    /// inventory lacks. `groups` are those of the images.
    pub(super) fn note_files(&self, groups: &BTreeSet<&str>, notes: &mut Vec<Note>) {
        let hosts = groups.iter().map(|group| self.inventory.hosts_of(group).first().copied());
        let used: BTreeSet<Option<&str>> = hosts.collect();
        for (group, file) in &self.group_files {
            if !used.contains(&None) && !self.inventory.has_group(group) {
                let text = format!(
                    "not converted: the inventory has no group {group}, so Ansible does not read \
                     this file; add the variables that roles use to `variables` of the project"
                );
                notes.push(Note::of_file(file, text));
            }
        }
        for (host, file) in &self.host_files {
            if !used.contains(&Some(host.as_str())) {
                let text = "not converted: variables of a host in which no image is built; add \
                            those that roles use to `variables` of the project";
                notes.push(Note::of_file(file, text));
            }
        }
    }
}

/// Reads the files with variables in a directory, by the name of the group or host. Returns them,
/// and the files that could be read.
fn read_files(
    folder: &Path,
    inside: &Path,
    notes: &mut Vec<Note>,
) -> Result<(VariablesByName, Vec<(String, PathBuf)>), ImportError> {
    let mut found = VariablesByName::new();
    let mut read_files = Vec::new();
    if !folder.join(inside).is_dir() {
        return Ok((found, read_files));
    }
    for file in files_below(folder, inside)? {
        let is_json = file.extension().is_some_and(|extension| extension == "json");
        let named = file.extension().is_none() || is_yaml(&file) || is_json;
        // The file is NAME, NAME.yml, or any file in the directory NAME.
        let name = file.strip_prefix(inside).ok().and_then(|path| path.iter().next());
        let name = name.map_or(Path::new(""), Path::new);
        let name = if is_yaml(name) || name.extension().is_some_and(|e| e == "json") {
            name.with_extension("")
        } else {
            name.to_owned()
        };
        let name = name.to_string_lossy().into_owned();
        let Some(document) = named.then(|| read(folder, &file, notes)).transpose()?.flatten()
        else {
            continue;
        };
        let (encrypted, known): (Vec<_>, Vec<_>) =
            variables(&document.root).partition(|(_, value)| is_encrypted(value));
        notes.extend(encrypted.into_iter().map(|(name, value)| {
            let text = format!(
                "left out: `{name}` is encrypted; write it to `variables` of the project, or read \
                 it in a role"
            );
            Note::at(&file, value.span.line, text)
        }));
        let known = known.into_iter();
        found.entry(name.clone()).or_default().extend(known.map(|(name, value)| Global {
            name,
            value,
            file: file.clone(),
        }));
        read_files.push((name, file));
    }
    Ok((found, read_files))
}

/// Returns whether a value, or a part of it, is encrypted.
fn is_encrypted(node: &YamlNode) -> bool {
    match &node.value {
        YamlValue::Scalar { text, .. } => text.starts_with(VAULT_MARK),
        YamlValue::List(nodes) => nodes.iter().any(is_encrypted),
        YamlValue::Map(entries) => entries.iter().any(|(_, node)| is_encrypted(node)),
    }
}

/// Reads a file with variables. Adds a note and returns `None` if it is encrypted or
/// not YAML.
fn read(
    folder: &Path,
    file: &Path,
    notes: &mut Vec<Note>,
) -> Result<Option<YamlDocument>, ImportError> {
    let text = text(folder, file)?;
    if text.starts_with(VAULT_MARK) {
        let text = "left out: it is encrypted; copy its variables to `variables` of the project, \
                    or read it in a role";
        notes.push(Note::of_file(file, text));
        return Ok(None);
    }
    match YamlDocument::parse_ansible(&folder.join(file), text) {
        Ok(document) => Ok(Some(document)),
        Err(error) => {
            notes.push(Note::from_error(file, "left out", &error));
            Ok(None)
        }
    }
}
