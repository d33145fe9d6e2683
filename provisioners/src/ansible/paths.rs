//! Finds the directories of roles that a role names.

use std::fs;
use std::path::{Component, Path, PathBuf};

use super::role::looks_like_role;
use crate::folder::unique_text;

/// Returns the directories in which roles named by the role in `folder` are searched: its parent,
/// and the parent of that, in which projects of on-imagebuilder name roles by kind and name
/// (`basefs/common`).
pub(crate) fn roles_path(folder: &Path) -> impl Iterator<Item = &Path> {
    let beside = folder.parent().unwrap_or(folder);
    [Some(beside), beside.parent()].into_iter().flatten()
}

/// A reference to another role in the files of a role.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum RoleName {
    Literal(String),
    /// A name that is only known at run time: it may be any role in the roles path.
    Any,
}

/// Returns the directories of the roles that `by` refers to as `name`, each with the prefix for the
/// input names of its files. Ansible searches its roles path, then the directory of the role
/// itself. A role in neither is installed on the host and not an input.
pub(crate) fn resolve(first: &Path, by: (&Path, &str), name: &RoleName) -> Vec<(PathBuf, String)> {
    let beside = by.1.trim_end_matches('/').rsplit_once('/').map_or("../", |(up, _)| up);
    let beside = (by.0.parent().unwrap_or(by.0), format!("{}/", beside.trim_end_matches('/')));
    let places = roles_path(first).zip(["../".to_owned(), "../../".to_owned()]);
    match name {
        RoleName::Literal(name) => places
            .chain([beside])
            .map(|(place, up)| (place.join(name), format!("{up}{name}/")))
            .find(|(folder, _)| folder.is_dir())
            .into_iter()
            .collect(),
        RoleName::Any => {
            let others = roles_path(first).nth(1).into_iter().flat_map(folders);
            let others = others.filter(|kind| Some(kind.as_path()) != first.parent());
            let above = others.flat_map(|kind| {
                let up = format!("../../{}/", file_name(&kind));
                folders(&kind).into_iter().map(move |role| (up.clone(), role))
            });
            roles_path(first)
                .take(1)
                .flat_map(folders)
                .map(|role| ("../".to_owned(), role))
                .chain(above)
                .filter(|(_, role)| looks_like_role(role))
                .map(|(up, role)| (role.clone(), format!("{up}{}/", file_name(&role))))
                .collect()
        }
    }
}

/// Returns the directories in a directory, ordered by name.
fn folders(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut folders: Vec<_> = entries.map(|e| e.path()).filter(|path| path.is_dir()).collect();
    folders.sort();
    folders
}

/// Returns the last component of a path as text that no other name has.
fn file_name(path: &Path) -> String {
    unique_text(Path::new(path.file_name().unwrap_or_default()))
}

/// Returns the path with `..` resolved, without following links.
pub(crate) fn normalized(path: &Path) -> PathBuf {
    let mut normalized = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir if normalized.file_name().is_some() => {
                normalized.pop();
            }
            other => normalized.push(other),
        }
    }
    normalized
}
