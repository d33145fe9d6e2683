//! The inputs of a provisioner: its files and their digests.
//!
//! - For a `provisioner.yml`: the files named by its steps. If a step names files by a template, or
//!   a script runs outside and may use any file beside it: the whole folder.
//! - For an Ansible role: its whole folder, the folders of roles that it names, recursively, and
//!   files that these use from [outside their folders](beyond).
//!
//! Input names are canonical, and non-empty folders are represented by their files, so adding a
//! step does not rename existing inputs.

mod beyond;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::config::{ConfigError, YamlDocument, YamlNode, YamlValue};
use crate::folder::{Digest, Folder, FolderItemKind, without_dots};
use crate::provisioner::{FILE_NAME, Provisioner};
use crate::steps::Action;
use crate::steps::ansible::roles_path;
use crate::steps::files::is_keep;

/// Digests by name of the file.
type FileDigests = BTreeMap<String, Digest>;

/// Returns all files that a provisioner uses, ordered by name.
pub(crate) fn files_used_by(
    provisioner: &Provisioner,
) -> Result<Vec<(String, Digest)>, ConfigError> {
    let folder = provisioner.folder();
    let mut found = FileDigests::new();
    if folder.is_file(Path::new(FILE_NAME)) {
        add_file(folder, Path::new(FILE_NAME), &mut found)?;
    }
    for step in provisioner.definitions() {
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
        Action::Ansible(role) => add_roles(role.folder(), found)?,
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

/// Adds all objects below `path` except `.git`, by `prefix` and their path relative to the folder.
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
            name += " (an empty folder)";
        }
        found.insert(name, folder.digest(&item.path, &item.kind)?);
    }
    Ok(())
}

/// Adds all objects in a folder, and the targets of its relative links, which may be files that
/// several provisioners share.
fn add_folder(folder: &Folder, prefix: &str, found: &mut FileDigests) -> Result<(), ConfigError> {
    let mut todo = vec![PathBuf::new()];
    let mut seen = BTreeSet::new();
    while let Some(path) = todo.pop() {
        // A link may lead to a folder above it.
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

/// Adds the files of a role and of the roles that it names. The input names of the latter begin
/// with `../`.
fn add_roles(first: &Path, found: &mut FileDigests) -> Result<(), ConfigError> {
    let mut todo = vec![(first.to_owned(), String::new())];
    let mut seen = BTreeSet::new();
    while let Some((role, prefix)) = todo.pop() {
        if !seen.insert(fs::canonicalize(&role).unwrap_or_else(|_| role.clone())) {
            continue;
        }
        add_folder(&Folder::host(&role), &prefix, found)?;
        let mut names = roles_named_by(&role)?;
        let from = fs::canonicalize(first).unwrap_or_else(|_| first.to_owned());
        for path in beyond::files_used_by(first, &role)? {
            let name = beyond::relative(&from, &path).to_string_lossy().into_owned();
            if path.is_dir() {
                add_folder(&Folder::host(&path), &format!("{name}/"), found)?;
                continue;
            }
            let (folder, file) = (Folder::host(path.parent().unwrap_or(&path)), file_name(&path));
            found.insert(name, folder.digest_file(Path::new(&file))?);
            if YAML_SUFFIXES.iter().any(|suffix| file.ends_with(suffix)) {
                roles_named_in(&folder, Path::new(&file), false, &mut names)?;
            }
        }
        for name in names {
            todo.extend(resolve(first, (&role, &prefix), &name));
        }
    }
    Ok(())
}

/// Suffixes of files with tasks.
const YAML_SUFFIXES: [&str; 2] = [".yml", ".yaml"];

/// A reference to another role in the files of a role.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum RoleName {
    Literal(String),
    /// A name that is only known at run time: it may be any role in the roles path.
    Any,
}

/// Returns the folders of the roles that `by` refers to as `name`, each with the prefix for the
/// input names of its files. Ansible searches its roles path, then the folder of the role itself.
/// A role in neither is installed on the host and not an input.
fn resolve(first: &Path, by: (&Path, &str), name: &RoleName) -> Vec<(PathBuf, String)> {
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

fn folders(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut folders: Vec<_> = entries.map(|e| e.path()).filter(|path| path.is_dir()).collect();
    folders.sort();
    folders
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn looks_like_role(folder: &Path) -> bool {
    ["tasks", "handlers", "defaults", "vars", "meta"].iter().any(|part| {
        ["main.yml", "main.yaml", "main"].iter().any(|main| folder.join(part).join(main).is_file())
    })
}

/// Returns the roles that a role names: the dependencies in `meta/`, and the roles that its tasks
/// and handlers include or import.
fn roles_named_by(role: &Path) -> Result<BTreeSet<RoleName>, ConfigError> {
    let mut found = BTreeSet::new();
    let folder = Folder::host(role);
    for item in folder.walk(Path::new(""))? {
        let part = item.path.components().next().map(|c| c.as_os_str().to_owned());
        let (Some(part), FolderItemKind::File { .. } | FolderItemKind::Symlink(_)) =
            (part, &item.kind)
        else {
            continue;
        };
        let meta = part == "meta";
        if !(meta || part == "tasks" || part == "handlers") || !folder.is_file(&item.path) {
            continue;
        }
        roles_named_in(&folder, &item.path, meta, &mut found)?;
    }
    Ok(found)
}

/// Adds the roles named in one file: by dependencies in a file of `meta/`, by tasks in any other.
fn roles_named_in(
    folder: &Folder,
    path: &Path,
    meta: bool,
    found: &mut BTreeSet<RoleName>,
) -> Result<(), ConfigError> {
    let bytes = folder.read(path)?.into_owned();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    match YamlDocument::from_bytes(&folder.display_path(path), bytes) {
        Ok(document) if meta => add_dependencies(&document.root, found),
        Ok(document) => {
            let mut count = 0;
            add_included(&document.root, found, &mut count);
            // Some are in a form that is not parsed here, such as `action: include_role name=x`.
            if count < count_includes(&text) {
                found.insert(RoleName::Any);
            }
        }
        // Ansible may be able to read the file, for example if it has YAML tags.
        Err(_) if meta && text.contains("dependencies") || count_includes(&text) > 0 => {
            found.insert(RoleName::Any);
        }
        Err(_) => {}
    }
    Ok(())
}

/// Modules that include or import a role.
const INCLUDE_MODULES: [&str; 2] = ["include_role", "import_role"];

/// Counts the names of modules that include or import a role, outside of comments.
fn count_includes(text: &str) -> usize {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    let count = |line: &str| -> usize {
        INCLUDE_MODULES.iter().map(|word| line.matches(word).count()).sum()
    };
    lines.map(count).sum()
}

fn add_dependencies(meta: &YamlNode, found: &mut BTreeSet<RoleName>) {
    let Some(YamlValue::List(nodes)) = meta.get("dependencies").map(|node| &node.value) else {
        return;
    };
    for node in nodes {
        let name = ["role", "name", "src"].iter().find_map(|key| node.get(key)).unwrap_or(node);
        found.insert(name_of(name));
    }
}

fn add_included(node: &YamlNode, found: &mut BTreeSet<RoleName>, count: &mut usize) {
    match &node.value {
        YamlValue::Scalar { .. } => {}
        YamlValue::List(nodes) => nodes.iter().for_each(|node| add_included(node, found, count)),
        YamlValue::Map(entries) => {
            for (key, value) in entries {
                // The name may be qualified: `ansible.builtin.include_role`.
                if key.name.rsplit('.').next().is_some_and(|word| INCLUDE_MODULES.contains(&word)) {
                    *count += 1;
                    found.insert(name_in_task(value));
                } else {
                    add_included(value, found, count);
                }
            }
        }
    }
}

/// Returns the role of an include: `{name: x}`, or `name=x tasks_from=y` in one line.
fn name_in_task(node: &YamlNode) -> RoleName {
    if let Some(name) = node.get("name") {
        return name_of(name);
    }
    let YamlValue::Scalar { text, .. } = &node.value else { return RoleName::Any };
    match text.split_whitespace().find_map(|word| word.strip_prefix("name=")) {
        Some(name) if !text.contains("{{") => {
            RoleName::Literal(name.trim_matches(['"', '\'']).to_owned())
        }
        _ => RoleName::Any,
    }
}

fn name_of(node: &YamlNode) -> RoleName {
    match &node.value {
        YamlValue::Scalar { text, .. } if !text.contains("{{") && !text.is_empty() => {
            RoleName::Literal(text.clone())
        }
        _ => RoleName::Any,
    }
}
