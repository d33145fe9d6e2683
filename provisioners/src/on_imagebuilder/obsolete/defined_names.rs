//! The names of the variables that a tree defines.
//!
//! Current Ansible reads `with_items: lshw` as one item. Whether a name was meant as a variable is
//! only known if something defines it.

use std::collections::BTreeSet;
use std::path::Path;

use crate::ansible::tasks::{is_keyword, tasks};
use crate::config::{YamlDocument, YamlNode, YamlValue};
use crate::on_imagebuilder::ImportError;
use crate::on_imagebuilder::tree::{self, ImagebuilderTree, is_yaml};

/// Directories of a tree that are searched.
const FOLDERS: [&str; 5] = ["common", "group_vars", "host_vars", "roles", "vars"];

/// Directories, of the tree or of a role, with files of variables.
const VARIABLE_FOLDERS: [&str; 4] = ["defaults", "group_vars", "host_vars", "vars"];

/// Names that Ansible defines, other than those that begin with `ansible_`.
const NAMES_OF_ANSIBLE: [&str; 5] = ["group_names", "groups", "hostvars", "item", "play_hosts"];

/// The names of the variables that a tree defines.
#[derive(Debug, Default)]
pub(in crate::on_imagebuilder) struct DefinedNames(BTreeSet<String>);

impl DefinedNames {
    /// Reads all files with variables, tasks or plays.
    pub(in crate::on_imagebuilder) fn find(tree: &ImagebuilderTree) -> Result<Self, ImportError> {
        let mut found = Self::default();
        found.0.extend(tree.everything.iter().map(|global| global.name.clone()));
        // Files in other directories have variables if a task or play reads them.
        let mut others = Vec::new();
        for folder in FOLDERS.map(Path::new) {
            if !tree.folder.join(folder).is_dir() {
                continue;
            }
            for file in tree::files_below(&tree.folder, folder)? {
                let in_variables =
                    file.iter().any(|part| VARIABLE_FOLDERS.iter().any(|name| part == *name));
                let is_read = is_yaml(&file) || in_variables && file.extension().is_none();
                if !is_read {
                    continue;
                }
                let text = tree::text(&tree.folder, &file)?;
                let Ok(document) = YamlDocument::parse_ansible(&file, text) else { continue };
                match &document.root.value {
                    YamlValue::Map(_) if in_variables => found.add_keys(&document.root),
                    YamlValue::Map(_) => others.push((file, document)),
                    _ => found.add_definitions(&document.root),
                }
            }
        }
        for (file, document) in others {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            if found.0.contains(&included(&name)) {
                found.add_keys(&document.root);
            } else {
                found.add_definitions(&document.root);
            }
        }
        Ok(found)
    }

    /// Returns whether a name is that of a variable.
    pub(in crate::on_imagebuilder) fn contains(&self, name: &str) -> bool {
        name.starts_with("ansible_") || NAMES_OF_ANSIBLE.contains(&name) || self.0.contains(name)
    }

    fn add_keys(&mut self, node: &YamlNode) {
        if let YamlValue::Map(entries) = &node.value {
            self.0.extend(entries.iter().map(|(key, _)| key.name.clone()));
        }
    }

    /// Adds the names that plays, tasks and roles with parameters define, at any depth.
    fn add_definitions(&mut self, node: &YamlNode) {
        match &node.value {
            YamlValue::Scalar { .. } => {}
            YamlValue::List(nodes) => {
                for task in tasks(node).iter().filter_map(|task| task.module()) {
                    match task.name {
                        "set_fact" => self.0.extend(task.names().map(str::to_owned)),
                        "include_vars" => {
                            self.0.extend(task.text("name").map(str::to_owned));
                            let file = task.text("file").or(task.free_form).unwrap_or_default();
                            self.0.insert(included(file));
                        }
                        _ => {}
                    }
                }
                nodes.iter().for_each(|node| self.add_definitions(node));
            }
            YamlValue::Map(entries) => {
                let has_parameters =
                    entries.iter().any(|(key, _)| ["role", "include"].contains(&&*key.name));
                for (key, value) in entries {
                    match key.name.as_str() {
                        "vars" => self.add_keys(value),
                        "vars_files" => {
                            for file in value.list().unwrap_or_default() {
                                self.0.insert(included(file.text("").unwrap_or_default()));
                            }
                        }
                        "register" | "loop_var" | "index_var" => {
                            self.0.extend(value.text("").ok().map(str::to_owned));
                        }
                        name if has_parameters && !is_keyword(name) => {
                            self.0.insert(name.to_owned());
                        }
                        _ => {}
                    }
                    self.add_definitions(value);
                }
            }
        }
    }
}

/// Returns a mark for the name of a file that is read for its variables. No variable has a slash.
fn included(file: &str) -> String {
    let name = file.split_whitespace().next().unwrap_or_default();
    format!("/{}", name.rsplit('/').next().unwrap_or_default())
}

#[cfg(test)]
impl FromIterator<String> for DefinedNames {
    fn from_iter<T: IntoIterator<Item = String>>(names: T) -> Self {
        Self(names.into_iter().collect())
    }
}
