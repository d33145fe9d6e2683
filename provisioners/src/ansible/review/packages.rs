//! Finds the packages that tasks install.

use std::path::PathBuf;

use super::evaluator::Evaluator;
use super::role_files::{RoleFileContent, RoleFiles};
use crate::ansible::tasks::{Module, tasks};
use crate::config::YamlValue;

/// Modules that install packages with apt.
const PACKAGE_MODULES: [&str; 2] = ["apt", "package"];

/// Their arguments with the names of packages.
const NAME_ARGUMENTS: [&str; 3] = ["name", "pkg", "package"];

/// States in which a task installs nothing.
const OTHER_STATES: [&str; 3] = ["absent", "removed", "build-dep"];

/// A package that a role installs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RolePackage {
    /// Its name in apt's syntax, with a version if the task has one.
    pub(crate) name: String,
    /// The file of the task.
    pub(crate) file: PathBuf,
    /// The line of the task.
    pub(crate) line: usize,
}

/// Returns the packages that the tasks of a role install, as far as the names are known.
pub(super) fn packages(files: &RoleFiles, evaluator: &Evaluator<'_>) -> Vec<RolePackage> {
    let mut found = Vec::new();
    for file in &files.files {
        let RoleFileContent::Tasks(document) = &file.content else { continue };
        for task in tasks(&document.root) {
            let Some(module) = task.module() else { continue };
            let installs = PACKAGE_MODULES.contains(&module.name)
                && !module.text("state").is_some_and(|state| OTHER_STATES.contains(&state))
                && task.node.get("delegate_to").is_none();
            if !installs || evaluator.never_runs(&task) {
                continue;
            }
            for element in evaluator.elements(&task).unwrap_or_default() {
                for text in names(&module) {
                    let text = evaluator.render(&text, &file.role, element.as_ref());
                    let text = text.unwrap_or_default();
                    let names = text.split(',').map(str::trim).filter(|name| is_package(name));
                    found.extend(names.map(|name| RolePackage {
                        name: name.to_owned(),
                        file: file.path.clone(),
                        line: module.line_of(&NAME_ARGUMENTS),
                    }));
                }
            }
        }
    }
    found
}

/// Returns the texts with names of a task.
fn names(module: &Module<'_>) -> Vec<String> {
    let list = NAME_ARGUMENTS.iter().find_map(|name| module.node(name));
    if let Some(YamlValue::List(nodes)) = list.map(|node| &node.value) {
        return nodes.iter().filter_map(|n| n.text("").ok().map(str::to_owned)).collect();
    }
    let text = NAME_ARGUMENTS.iter().find_map(|name| module.text(name));
    text.map(str::to_owned).into_iter().collect()
}

/// Returns whether a text is a package, and neither an option nor a file for apt.
fn is_package(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "+-.:=~*_".contains(c))
        && !name.ends_with('-')
}
