//! Finds the packages that tasks install.

use std::collections::BTreeSet;

use minijinja::Value as Jinja;

use super::evaluator::{Evaluator, Outcome};
use super::flow::Step;
use super::role_files::{RoleFile, RoleFileContent, RoleFiles};
use super::variables::names_in;
use crate::ansible::tasks::Module;
use crate::config::{YamlNode, YamlValue};

/// Modules that install packages with apt.
const PACKAGE_MODULES: [&str; 2] = ["apt", "package"];

/// Their arguments with the names of packages.
const NAME_ARGUMENTS: [&str; 3] = ["name", "pkg", "package"];

/// States in which a task installs nothing.
const OTHER_STATES: [&str; 3] = ["absent", "removed", "build-dep"];

/// The packages that a role installs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RolePackages {
    pub(crate) known: Vec<RolePackage>,
    /// The files and lines of tasks that may install packages that are not known.
    pub(crate) unknown: Vec<String>,
}

/// A package that a role installs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RolePackage {
    /// Its name in apt's syntax, with a version if the task has one.
    pub(crate) name: String,
    /// The file and line in which its name or version is written, as far as that is known, or
    /// those of the task.
    pub(crate) place: String,
}

/// Returns the packages that tasks install.
pub(super) fn packages(
    steps: &[Step<'_>],
    files: &RoleFiles,
    evaluator: &Evaluator<'_>,
) -> RolePackages {
    let mut found = RolePackages::default();
    for step in steps {
        let module = &step.module;
        if !PACKAGE_MODULES.contains(&module.name)
            || !NAME_ARGUMENTS.iter().any(|name| module.names().any(|other| other == *name))
            || step.task.node.get("delegate_to").is_some()
            || step.task.node.get("local_action").is_some()
        {
            continue;
        }
        let text = |name| module.text(name).map(|text| evaluator.rendered(text, &step.scope));
        let state = text("state");
        let is_other = |state: &String| OTHER_STATES.contains(&state.as_str());
        if state.as_ref().is_some_and(|state| state.as_ref().is_some_and(is_other))
            || module.names().any(|name| name == "only_upgrade")
        {
            continue;
        }
        let names = names(module, step, evaluator);
        match names.filter(|_| step.is_certain && state != Some(None)) {
            Some(names) => found.known.extend(names.into_iter().map(|name| {
                let place = place(&name, step, files, evaluator);
                RolePackage { name, place }
            })),
            None => {
                let place = place_text(step.file, module.line_of(&NAME_ARGUMENTS));
                if !found.unknown.contains(&place) {
                    found.unknown.push(place);
                }
            }
        }
    }
    found
}

fn place_text(file: &RoleFile, line: usize) -> String {
    format!("{}:{line}", file.path.display())
}

/// Returns the place in which the version or the name of a package is written: in the task, in a
/// variable of the role that the task uses, or in one of the image.
fn place(name: &str, step: &Step<'_>, files: &RoleFiles, evaluator: &Evaluator<'_>) -> String {
    let of_task = place_text(step.file, step.module.line_of(&NAME_ARGUMENTS));
    let (bare, version) = name.split_once('=').unwrap_or((name, ""));
    for wanted in [version, name, bare].into_iter().filter(|wanted| !wanted.is_empty()) {
        let mut todo = vec![(step.file, step.task.node)];
        let mut seen = BTreeSet::new();
        while let Some((file, node)) = todo.pop() {
            let mut names = BTreeSet::new();
            if let Some(line) = find(node, wanted, &mut names) {
                return place_text(file, line);
            }
            for used in names.into_iter().filter(|name| seen.insert(name.clone())) {
                if let Some(value) = evaluator.given(&used) {
                    if value.to_string().contains(wanted) {
                        return format!("{of_task}, variable {used}");
                    }
                    continue;
                }
                for file in &files.files {
                    let (RoleFileContent::Defaults(document)
                    | RoleFileContent::Variables(document)) = &file.content
                    else {
                        continue;
                    };
                    todo.extend(document.root.get(&used).map(|node| (file, node)));
                }
            }
        }
    }
    of_task
}

/// Returns the line of the scalar with this text, and otherwise adds the names in templates.
fn find(node: &YamlNode, wanted: &str, names: &mut BTreeSet<String>) -> Option<usize> {
    match &node.value {
        YamlValue::Scalar { text, .. } => {
            let mut parts = text.split(|c: char| c.is_whitespace() || ",=".contains(c));
            if text == wanted || parts.any(|part| part == wanted) {
                return Some(node.span.line);
            }
            names.extend(names_in(text));
            None
        }
        YamlValue::List(nodes) => nodes.iter().find_map(|node| find(node, wanted, names)),
        YamlValue::Map(entries) => entries.iter().find_map(|(_, node)| find(node, wanted, names)),
    }
}

/// Returns the packages of a task, if all are known.
fn names(module: &Module<'_>, step: &Step<'_>, evaluator: &Evaluator<'_>) -> Option<Vec<String>> {
    let value = match NAME_ARGUMENTS.iter().find_map(|name| module.node(name)) {
        Some(node) => evaluator.node(node, &step.scope)?,
        None => {
            let text = NAME_ARGUMENTS.iter().find_map(|name| module.text(name))?;
            match evaluator.text(text, &step.scope) {
                Outcome::Value(value) => value,
                _ => return None,
            }
        }
    };
    let mut found = Vec::new();
    add_names(&value, &mut found);
    Some(found)
}

/// Adds the names in a text with commas, or in a list of these.
fn add_names(value: &Jinja, found: &mut Vec<String>) {
    if let Some(text) = value.as_str() {
        let names = text.split(',').map(str::trim).filter(|name| is_package(name));
        found.extend(names.map(str::to_owned));
    } else if let Ok(values) = value.try_iter() {
        values.for_each(|value| add_names(&value, found));
    }
}

/// Returns whether apt takes a text as the name of a package to install, which may be wrong, and
/// not as an option, a file or a removal.
fn is_package(name: &str) -> bool {
    let is_file = name.starts_with(['/', '.', '~']) || name.ends_with(".deb");
    !name.is_empty()
        && !is_file
        && !name.contains("://")
        && !name.starts_with('-')
        && !name.ends_with('-')
}
