//! The inputs of a provisioner: its files and their digests.
//!
//! - For a `provisioner.yml`: the files named by its steps. If a step names files by a template, or
//!   a script runs outside and may use any file beside it: the whole directory.
//! - For an Ansible role: its whole directory, the directories of roles that it names, recursively,
//!   and files that these use from [outside their directories](crate::ansible::external).
//!
//! Input names are canonical, and non-empty directories are represented by their files, so adding a
//! step does not rename existing inputs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::step_definition::StepDefinition;
use crate::ansible::external::relative;
use crate::ansible::paths::file_name;
use crate::ansible::used_roles::UsedRoles;
use crate::ansible::variable_names::RoleNames;
use crate::config::ConfigError;
use crate::folder::{Digest, FILE_NAME, Folder, FolderItemKind, without_dots};
use crate::steps::Action;
use crate::steps::ansible::AnsibleRole;
use crate::steps::files::is_keep;

/// The names of files with their digests, in order.
pub(super) type InputFiles = Vec<(String, Digest)>;

/// Digests by file name.
type FileDigests = BTreeMap<String, Digest>;

/// Returns all files that the steps of a provisioner use, ordered by name.
pub(super) fn files_used_by(
    folder: &Folder,
    steps: &[StepDefinition],
) -> Result<InputFiles, ConfigError> {
    let mut found = FileDigests::new();
    if folder.is_file(Path::new(FILE_NAME)) {
        add_file(folder, Path::new(FILE_NAME), &mut found)?;
    }
    for step in steps {
        match step.action() {
            None if step.may_name_files() => add_folder(folder, "", &mut found)?,
            None => {}
            Some(action) => add_action(action, folder, &mut found)?,
        }
    }
    Ok(found.into_iter().collect())
}

fn add_action(
    action: &Action,
    folder: &Folder,
    found: &mut FileDigests,
) -> Result<(), ConfigError> {
    match action {
        Action::Files(files) => add_tree(folder, files.path(), "", found)?,
        Action::Script(script) if script.is_outside() => {
            add_folder(folder, "", found)?;
            add_file(folder, script.path(), found)?;
        }
        Action::Script(script) => add_file(folder, script.path(), found)?,
        Action::Packages(packages) => {
            packages.files().try_for_each(|path| add_file(folder, path, found))?;
        }
        Action::Ansible(role) => {
            add_roles(role.folder(), found)?;
        }
        Action::Removal(_)
        | Action::Groups(_)
        | Action::Users(_)
        | Action::Attributes(_)
        | Action::Services(_) => {}
    }
    Ok(())
}

fn add_file(folder: &Folder, path: &Path, found: &mut FileDigests) -> Result<(), ConfigError> {
    let path = without_dots(path);
    let digest = folder.digest_file(&path)?;
    found.insert(path.to_string_lossy().into_owned(), digest);
    Ok(())
}

/// Adds all objects below `path` except `.git`, by `prefix` and their path relative to the
/// directory.
fn add_tree(
    folder: &Folder,
    path: &Path,
    prefix: &str,
    found: &mut FileDigests,
) -> Result<(), ConfigError> {
    let mut items = folder.walk(&without_dots(path))?;
    items.retain(|item| {
        let in_git = item.path.components().any(|c| c.as_os_str() == ".git");
        // Devices, fifos and sockets cannot be copied.
        !in_git && !is_keep(&item.path) && item.kind != FolderItemKind::Other
    });
    let full: BTreeSet<_> =
        items.iter().filter_map(|item| item.path.parent().map(Path::to_owned)).collect();
    for item in items.iter().filter(|item| !full.contains(&item.path)) {
        let mut name = format!("{prefix}{}", item.path.to_string_lossy());
        if item.kind == FolderItemKind::Directory {
            name += " (an empty directory)";
        }
        found.insert(name, folder.digest(&item.path, &item.kind)?);
    }
    Ok(())
}

/// Adds all objects in a directory, and the targets of its relative links, which may be files that
/// several provisioners share.
fn add_folder(folder: &Folder, prefix: &str, found: &mut FileDigests) -> Result<(), ConfigError> {
    let mut todo = vec![PathBuf::new()];
    let mut seen = BTreeSet::new();
    while let Some(path) = todo.pop() {
        // A link may lead to a directory above it.
        let real = folder.host_path().map(|host| fs::canonicalize(host.join(&path)));
        if let Some(Ok(real)) = real
            && !seen.insert(real)
        {
            continue;
        }
        add_tree(folder, &path, prefix, found)?;
        for item in folder.walk(&path)? {
            // An absolute target is usually a path in the image, not on the host.
            if !matches!(item.kind, FolderItemKind::Symlink(target) if target.is_relative()) {
                continue;
            }
            if folder.is_file(&item.path) {
                let name = format!("{prefix}{} (its content)", item.path.to_string_lossy());
                found.insert(name, folder.digest_file(&item.path)?);
            } else if folder.is_dir(&item.path) {
                todo.push(item.path);
            }
        }
    }
    Ok(())
}

/// Returns all files of a role as [`files_used_by`], and the names in them.
pub(super) fn files_and_names_of_role(
    role: &AnsibleRole,
) -> Result<(InputFiles, RoleNames), ConfigError> {
    let mut found = FileDigests::new();
    let used = add_roles(role.folder(), &mut found)?;
    Ok((found.into_iter().collect(), RoleNames::read(&used)?))
}

/// Adds the files of a role and of the roles that it names, and returns these roles. The input
/// names of the latter begin with `../`.
fn add_roles(first: &Path, found: &mut FileDigests) -> Result<UsedRoles, ConfigError> {
    let from = fs::canonicalize(first).unwrap_or_else(|_| first.to_owned());
    let used = UsedRoles::find(first)?;
    for role in &used.roles {
        add_folder(&Folder::from_host(&role.folder), &role.prefix, found)?;
        for path in &role.outside {
            let name = relative(&from, path).to_string_lossy().into_owned();
            if path.is_dir() {
                add_folder(&Folder::from_host(path), &format!("{name}/"), found)?;
                continue;
            }
            let folder = Folder::from_host(path.parent().unwrap_or(path));
            found.insert(name, folder.digest_file(Path::new(&file_name(path)))?);
        }
    }
    Ok(used)
}
