//! The inputs of a provisioner: its files and their digests.
//!
//! - For a `provisioner.yml`: the files named by its steps. If a step names files by a template, or
//!   a script runs outside and may use any file beside it: the whole directory.
//! - For an Ansible role: its whole directory, the directories of roles that it names, recursively,
//!   and files that these use from [outside their directories](crate::ansible::external). A README,
//!   `tests/`, `molecule/` and `.git*` that the role does not name, files of editors and empty
//!   directories outside of `files/` are not inputs.
//!
//! Input names are canonical, and non-empty directories are represented by their files, so adding a
//! step does not rename existing inputs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::step_definition::StepDefinition;
use crate::ansible::external::{files_named_by, relative};
use crate::ansible::used_roles::UsedRoles;
use crate::ansible::variable_names::RoleNames;
use crate::config::ConfigError;
use crate::folder::{Digest, FILE_NAME, Folder, FolderItemKind, unique_text, without_dots};
use crate::image::InputPath;
use crate::steps::Action;
use crate::steps::ansible::AnsibleRole;
use crate::steps::files::is_keep;

/// The names of files with their digests, in order.
pub(super) type InputFiles = Vec<(String, Digest)>;

/// Start of the names of files that describe, test or version a role. They are inputs if it names
/// them.
const UNUSED: [&str; 4] = ["README", "tests/", "molecule/", ".git"];

/// End of the names of empty directories.
const EMPTY_DIRECTORY: &str = " (an empty directory)";

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

/// Returns the files and directories of the host that the steps of a provisioner use, as
/// [`files_used_by`], but without those of roles that a role names.
pub(super) fn paths_used_by(folder: &Folder, steps: &[StepDefinition]) -> Vec<InputPath> {
    let Some(host) = folder.host_path() else { return Vec::new() };
    let description = format!("a file of the provisioner {}", host.display());
    let file = |path: &Path| InputPath::file(&host.join(path), description.clone());
    let tree = |path: &Path| InputPath::tree(path, format!("below {}", path.display()));
    let mut found = Vec::new();
    if folder.is_file(Path::new(FILE_NAME)) {
        found.push(file(Path::new(FILE_NAME)));
    }
    for step in steps {
        match step.action() {
            None if step.may_name_files() => found.push(tree(host)),
            Some(Action::Files(files)) => found.push(tree(&host.join(files.path()))),
            Some(Action::Script(script)) if script.is_outside() => found.push(tree(host)),
            Some(Action::Script(script)) => found.push(file(script.path())),
            Some(Action::Packages(packages)) => found.extend(packages.files().map(file)),
            Some(Action::Ansible(role)) => found.push(tree(role.folder())),
            _ => {}
        }
    }
    found
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
    found.insert(unique_text(&path), digest);
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
        let mut name = format!("{prefix}{}", unique_text(&item.path));
        if item.kind == FolderItemKind::Directory {
            name += EMPTY_DIRECTORY;
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
                let name = format!("{prefix}{} (its content)", unique_text(&item.path));
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

/// Directories of a role whose files a task may copy without naming each.
const COPIED: [&str; 2] = ["files/", "templates/"];

/// Returns whether an editor has written the file: a backup, or the state of an open file.
fn is_backup(name: &str) -> bool {
    let name = name.rsplit('/').next().unwrap_or(name);
    let is_swap =
        name.starts_with('.') && [".swp", ".swo", ".swx"].iter().any(|e| name.ends_with(e));
    let is_auto_save = name.starts_with('#') && name.ends_with('#');
    name.ends_with('~') || name.starts_with(".#") || is_swap || is_auto_save
}

/// Returns the texts of the files in which a role names its other files.
fn texts_of_role(folder: &Folder) -> Result<Vec<String>, ConfigError> {
    let mut texts = Vec::new();
    for part in ["tasks", "handlers", "vars", "defaults", "templates"].map(Path::new) {
        let items = if folder.is_dir(part) { folder.walk(part)? } else { Vec::new() };
        for item in items.iter().filter(|item| folder.is_file(&item.path)) {
            texts.push(String::from_utf8_lossy(&folder.read(&item.path)?).into_owned());
        }
    }
    Ok(texts)
}

/// Returns the ones of these words that a role contains.
fn names_in<'w>(folder: &Folder, words: &[&'w str]) -> Result<Vec<&'w str>, ConfigError> {
    let texts = texts_of_role(folder)?;
    let is_named = |word: &&&str| texts.iter().any(|text| text.contains(**word));
    Ok(words.iter().filter(is_named).copied().collect())
}

/// Returns whether a role may use any file in its directory, because it names files there that are
/// only known when it runs.
fn uses_own_folder(folder: &Folder) -> Result<bool, ConfigError> {
    Ok(texts_of_role(folder)?.iter().any(|text| {
        text.match_indices("role_path").any(|(at, word)| {
            let rest = text[at + word.len()..].trim_start().trim_start_matches(['}', ' ']);
            let first = rest.strip_prefix('/').and_then(|rest| rest.chars().next());
            !first.is_some_and(|c| c.is_alphanumeric() || c == '.')
        })
    }))
}

/// Adds the files of a role and of the roles that it names, and returns these roles. The input
/// names of the latter begin with `../`.
fn add_roles(first: &Path, found: &mut FileDigests) -> Result<UsedRoles, ConfigError> {
    let from = fs::canonicalize(first).unwrap_or_else(|_| first.to_owned());
    let used = UsedRoles::find(first)?;
    for role in &used.roles {
        let folder = Folder::from_host(&role.folder);
        let mut files = FileDigests::new();
        add_folder(&folder, "", &mut files)?;
        let unused: Vec<&str> = if uses_own_folder(&folder)? {
            Vec::new()
        } else {
            let mut unused = UNUSED.to_vec();
            let names = names_in(&folder, &unused)?;
            unused.retain(|start| !names.contains(start));
            unused
        };
        files.retain(|name, _| match name.strip_suffix(EMPTY_DIRECTORY) {
            // Git keeps no empty directories, but a task may copy one in `files/`.
            Some(name) => name.starts_with("files/"),
            None => {
                let is_copied = COPIED.iter().any(|part| name.starts_with(part));
                let is_unused = unused.iter().any(|start| name.starts_with(start));
                !is_unused && (is_copied || !is_backup(name))
            }
        });
        let files = files.into_iter();
        found.extend(files.map(|(name, digest)| (format!("{}{name}", role.prefix), digest)));
        role.outside.iter().try_for_each(|path| add_outside(&from, path, found))?;
    }
    Ok(used)
}

/// Adds a file or a directory outside of the role in `from`.
fn add_outside(from: &Path, path: &Path, found: &mut FileDigests) -> Result<(), ConfigError> {
    let name = unique_text(&relative(from, path));
    if path.is_dir() {
        return add_folder(&Folder::from_host(path), &format!("{name}/"), found);
    }
    let folder = Folder::from_host(path.parent().unwrap_or(path));
    found.insert(name, folder.digest_file(Path::new(path.file_name().unwrap_or_default()))?);
    Ok(())
}

/// Returns the files that the values of variables may name, from a role and the roles that it
/// names.
pub(super) fn files_named_by_values(
    role: &AnsibleRole,
    values: &[String],
) -> Result<InputFiles, ConfigError> {
    let mut found = FileDigests::new();
    if values.iter().any(|value| value.contains("..")) {
        let first = role.folder();
        let from = fs::canonicalize(first).unwrap_or_else(|_| first.to_owned());
        for used in UsedRoles::find(first)?.roles {
            for path in files_named_by(first, &used.folder, values) {
                add_outside(&from, &path, &mut found)?;
            }
        }
    }
    Ok(found.into_iter().collect())
}
