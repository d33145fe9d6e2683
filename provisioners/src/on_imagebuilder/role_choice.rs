//! Compares the roles of config files with their variables.
//!
//! In on-imagebuilder a comment in the config file names the role, and nothing checks it. A role
//! whose variables the config file does not set cannot run.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::line_edit::line_of;
use super::obsolete::DefinedNames;
use super::tree::{self, Config, ConfigKind, ImagebuilderTree, NamedBy, ReplacedRole};
use super::{ImportError, Note, settings};
use crate::ansible::paths::normalized;
use crate::ansible::review::{RoleProblem, RoleProblemKind, RoleReview};

/// Replaces the role that a comment names if the config file lacks its variables, and has all of
/// another role of the same kind. If a key or a script names it, adds a note about the other role.
pub(super) fn choose_roles(
    tree: &mut ImagebuilderTree,
    notes: &mut Vec<Note>,
) -> Result<(), ImportError> {
    let names = DefinedNames::find(tree)?;
    for index in 0..tree.configs.len() {
        let config = &tree.configs[index];
        let named = RoleFit::new(tree, &names, Path::new(&config.provisioner), config)?;
        if named.lacking.is_empty() {
            continue;
        }
        let lacking = listed(&named.lacking);
        let problem = format!("{} uses {lacking}, which no file sets", config.provisioner);
        let text = match other_role(tree, &names, config, &named)? {
            Some(other) if config.named_by == NamedBy::Comment => {
                let why = format!(
                    "{problem}: {other} is used instead, because its variables are all set"
                );
                let config = &mut tree.configs[index];
                let named = std::mem::replace(&mut config.provisioner, other);
                config.replaced = Some(ReplacedRole { named, why });
                continue;
            }
            Some(other) => format!("{problem}; the variables of {other} are all set"),
            // The notes about the role name the variables.
            None => continue,
        };
        notes.push(Note::of_file(&tree.configs[index].file, text));
    }
    Ok(())
}

/// How a role fits the variables of a config file.
struct RoleFit {
    /// The variables that the role uses, and that are not defined.
    lacking: BTreeSet<String>,
    /// The number of variables of the config file that the role uses.
    used: usize,
}

impl RoleFit {
    fn new(
        tree: &ImagebuilderTree,
        names: &DefinedNames,
        role: &Path,
        config: &Config,
    ) -> Result<Self, ImportError> {
        let review = RoleReview::read(&tree.folder.join(role))?;
        let problems = review.problems(&tree.variables_of(config)).into_iter();
        let lacking = problems.filter(|problem| !is_item_of_loop(tree, problem, names));
        let lacking = lacking.filter_map(|problem| match problem.kind {
            RoleProblemKind::Undefined { name, .. } => Some(name),
            _ => None,
        });
        let used: BTreeSet<&str> = review.used_names().collect();
        let own = config.variables.iter().map(|(name, _)| name.as_str());
        let own = own.filter(|name| !settings::is_of_wrappers(name) && used.contains(name));
        Ok(Self { lacking: lacking.collect(), used: own.count() })
    }
}

/// Returns the one role of the kind of the config file that lacks nothing and uses the most of its
/// variables, more than the named one.
fn other_role(
    tree: &ImagebuilderTree,
    names: &DefinedNames,
    config: &Config,
    named: &RoleFit,
) -> Result<Option<String>, ImportError> {
    let mut best: Vec<String> = Vec::new();
    let mut most = named.used;
    for role in tree.roles.iter().filter(|role| !tree.wrappers.roles.contains_key(*role)) {
        let name = role.to_string_lossy().into_owned();
        if ConfigKind::of_role(&name) != Some(config.kind) || name == config.provisioner {
            continue;
        }
        let fit = RoleFit::new(tree, names, role, config)?;
        if !fit.lacking.is_empty() || fit.used < most {
            continue;
        }
        if fit.used > most {
            most = fit.used;
            best.clear();
        }
        if fit.used > named.used {
            best.push(name);
        }
    }
    Ok(match best.as_slice() {
        [one] => Some(one.clone()),
        _ => None,
    })
}

/// Adds a note for each file that a role of images needs and that does not exist, and for each
/// variable that is not defined.
pub(super) fn add_role_problems(
    tree: &ImagebuilderTree,
    notes: &mut Vec<Note>,
) -> Result<(), ImportError> {
    let names = DefinedNames::find(tree)?;
    let mut found: BTreeMap<RoleProblem, Vec<&str>> = BTreeMap::new();
    for config in &tree.configs {
        for role in tree.roles_of(config) {
            let review = RoleReview::read(&tree.folder.join(role))?;
            for mut problem in review.problems(&tree.variables_of(config)) {
                problem.file = in_tree(tree, &problem.file);
                if let RoleProblemKind::NoFile { path, .. } = &mut problem.kind {
                    *path = in_tree(tree, path);
                }
                let images = found.entry(problem).or_default();
                if !images.contains(&config.name.as_str()) {
                    images.push(&config.name);
                }
            }
        }
    }
    for (problem, images) in found {
        if is_item_of_loop(tree, &problem, &names) {
            continue;
        }
        let kind = problem.kind.to_string();
        let text = match images.as_slice() {
            [image] => format!("image {image}: {kind}"),
            images => {
                let kind = kind.replace("the variables of the image", "`variables` of the project");
                format!("images {}: {kind}", images.join(", "))
            }
        };
        notes.push(Note::at(&problem.file, problem.line, text));
    }
    Ok(())
}

/// Returns whether a name without braces in a loop, which nothing in the tree defines, is an item
/// and not a variable. There is another note about it.
fn is_item_of_loop(tree: &ImagebuilderTree, problem: &RoleProblem, names: &DefinedNames) -> bool {
    let RoleProblemKind::Undefined { name, value_of: None } = &problem.kind else { return false };
    let text = tree::text(&tree.folder, &in_tree(tree, &problem.file)).unwrap_or_default();
    let line = line_of(&text, problem.line).unwrap_or_default();
    !names.contains(name) && line.contains("with_") && !line.contains("{{")
}

/// Returns a path relative to the tree's directory, if it is in it.
fn in_tree(tree: &ImagebuilderTree, path: &Path) -> PathBuf {
    let canonical = tree.folder.canonicalize().unwrap_or_default();
    let absolute = std::path::absolute(&tree.folder).unwrap_or_default();
    let folders = [&tree.folder, &absolute, &canonical];
    let inside = folders.into_iter().find_map(|folder| path.strip_prefix(folder).ok());
    normalized(inside.unwrap_or(path))
}

/// Returns names in backquotes with commas: "`a`, `b`".
fn listed(names: &BTreeSet<String>) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}
