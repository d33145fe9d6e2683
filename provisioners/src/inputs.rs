//! What goes into an image by a provisioner: its files and their digests.
//!
//! Of an own provisioner these are the files that its steps name. A script that runs outside may
//! use whatever is beside it, so with one all of the folder counts, and so it does with a name of
//! files in which there are variables. Of an Ansible role it is all of its folder, and of those of
//! the roles that it names, and that these name, with what they use from [beyond] them.
//!
//! A file has the same name however it is found, and a folder that holds something counts by that:
//! what goes in is named alike before and after a step is added.

mod beyond;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::config::{ConfigError, Document, Node, Value};
use crate::folder::{Digest, Folder, ItemKind, plain};
use crate::provisioner::{FILE_NAME, Provisioner};
use crate::steps::Action;
use crate::steps::ansible::roles_path;
use crate::steps::files::is_keep;

type Found = BTreeMap<String, Digest>;

pub(crate) fn of(provisioner: &Provisioner) -> Result<Vec<(String, Digest)>, ConfigError> {
    let folder = provisioner.folder();
    let mut found = Found::new();
    if folder.is_file(Path::new(FILE_NAME)) {
        file(folder, Path::new(FILE_NAME), &mut found)?;
    }
    for step in provisioner.written() {
        match step.action() {
            None if step.may_name_files() => whole(folder, "", &mut found)?,
            None => {}
            Some(action) => of_action(action, folder, &mut found)?,
        }
    }
    Ok(found.into_iter().collect())
}

fn of_action(action: &Action, folder: &Folder, found: &mut Found) -> Result<(), ConfigError> {
    match action {
        Action::Files(files) => tree(folder, files.path(), "", found)?,
        Action::Script(script) if script.is_outside() => {
            whole(folder, "", found)?;
            file(folder, script.path(), found)?;
        }
        Action::Script(script) => file(folder, script.path(), found)?,
        Action::Packages(packages) => {
            packages.files().try_for_each(|path| file(folder, path, found))?;
        }
        Action::Ansible(role) => roles(role.folder(), found)?,
        Action::Removal(_)
        | Action::Groups(_)
        | Action::Users(_)
        | Action::Attributes(_)
        | Action::Services(_) => {}
    }
    Ok(())
}

fn file(folder: &Folder, path: &Path, found: &mut Found) -> Result<(), ConfigError> {
    let path = plain(path);
    let digest = folder.digest_file(&path)?;
    found.insert(path.to_string_lossy().into_owned(), digest);
    Ok(())
}

/// Everything below `path`, named from the folder and with `prefix` before it. The database of Git
/// is none of it.
fn tree(folder: &Folder, path: &Path, prefix: &str, found: &mut Found) -> Result<(), ConfigError> {
    let mut items = folder.walk(&plain(path))?;
    items.retain(|item| {
        let in_git = item.path.components().any(|c| c.as_os_str() == ".git");
        // Sockets and the like are nothing that could be copied or read.
        !in_git && !is_keep(&item.path) && item.kind != ItemKind::Other
    });
    let full: BTreeSet<_> =
        items.iter().filter_map(|item| item.path.parent().map(Path::to_owned)).collect();
    for item in items.iter().filter(|item| !full.contains(&item.path)) {
        let mut name = format!("{prefix}{}", item.path.to_string_lossy());
        if item.kind == ItemKind::Directory {
            name += " (an empty folder)";
        }
        found.insert(name, folder.digest(&item.path, &item.kind)?);
    }
    Ok(())
}

/// All of a folder for somebody who opens its files: with what its links lead to, which may be
/// files that several provisioners share.
fn whole(folder: &Folder, prefix: &str, found: &mut Found) -> Result<(), ConfigError> {
    let mut todo = vec![PathBuf::new()];
    let mut seen = BTreeSet::new();
    while let Some(path) = todo.pop() {
        // A link to a folder above it leads nowhere new.
        let real = folder.on_host().map(|host| fs::canonicalize(host.join(&path)));
        if let Some(Ok(real)) = real
            && !seen.insert(real)
        {
            continue;
        }
        tree(folder, &path, prefix, found)?;
        for item in folder.walk(&path)? {
            // An absolute one means a place in the image more often than one on the host.
            if !matches!(item.kind, ItemKind::Symlink(target) if target.is_relative()) {
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

/// The files of a role, and of those that it names; the names of theirs begin with `../`.
fn roles(first: &Path, found: &mut Found) -> Result<(), ConfigError> {
    let mut todo = vec![(first.to_owned(), String::new())];
    let mut seen = BTreeSet::new();
    while let Some((role, prefix)) = todo.pop() {
        if !seen.insert(fs::canonicalize(&role).unwrap_or_else(|_| role.clone())) {
            continue;
        }
        whole(&Folder::host(&role), &prefix, found)?;
        let mut names = names(&role)?;
        let from = fs::canonicalize(first).unwrap_or_else(|_| first.to_owned());
        for path in beyond::of(first, &role)? {
            let name = beyond::relative(&from, &path).to_string_lossy().into_owned();
            if path.is_dir() {
                whole(&Folder::host(&path), &format!("{name}/"), found)?;
                continue;
            }
            let (folder, file) = (Folder::host(path.parent().unwrap_or(&path)), file_name(&path));
            found.insert(name, folder.digest_file(Path::new(&file))?);
            if YAML.iter().any(|suffix| file.ends_with(suffix)) {
                names_in(&folder, Path::new(&file), false, &mut names)?;
            }
        }
        for name in names {
            todo.extend(resolve(first, (&role, &prefix), &name));
        }
    }
    Ok(())
}

/// What the name of a file with tasks ends with.
const YAML: [&str; 2] = [".yml", ".yaml"];

/// The name of a role in another's files.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Name {
    Literal(String),
    /// One that is not known before it runs: any of the roles there.
    Any,
}

/// The folders of the roles that `by` calls `name`, each with what the names of its files begin
/// with. Ansible looks in its path, then beside the role itself; a role that is nowhere there is
/// one that is installed on the host.
fn resolve(first: &Path, by: (&Path, &str), name: &Name) -> Vec<(PathBuf, String)> {
    let beside = by.1.trim_end_matches('/').rsplit_once('/').map_or("../", |(up, _)| up);
    let beside = (by.0.parent().unwrap_or(by.0), format!("{}/", beside.trim_end_matches('/')));
    let places = roles_path(first).zip(["../".to_owned(), "../../".to_owned()]);
    match name {
        Name::Literal(name) => places
            .chain([beside])
            .map(|(place, up)| (place.join(name), format!("{up}{name}/")))
            .find(|(folder, _)| folder.is_dir())
            .into_iter()
            .collect(),
        Name::Any => {
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

/// The roles that a role names: the dependencies in `meta/`, and those that its tasks and handlers
/// include or import.
fn names(role: &Path) -> Result<BTreeSet<Name>, ConfigError> {
    let mut found = BTreeSet::new();
    let folder = Folder::host(role);
    for item in folder.walk(Path::new(""))? {
        let part = item.path.components().next().map(|c| c.as_os_str().to_owned());
        let (Some(part), ItemKind::File { .. } | ItemKind::Symlink(_)) = (part, &item.kind) else {
            continue;
        };
        let meta = part == "meta";
        if !(meta || part == "tasks" || part == "handlers") || !folder.is_file(&item.path) {
            continue;
        }
        names_in(&folder, &item.path, meta, &mut found)?;
    }
    Ok(found)
}

/// The roles that are named in one file: dependencies in one of `meta/`, tasks in any other.
fn names_in(
    folder: &Folder,
    path: &Path,
    meta: bool,
    found: &mut BTreeSet<Name>,
) -> Result<(), ConfigError> {
    let bytes = folder.read(path)?.into_owned();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    match Document::of(&folder.at(path), bytes) {
        Ok(document) if meta => dependencies(&document.root, found),
        Ok(document) => {
            let mut count = 0;
            included(&document.root, found, &mut count);
            // Written in a way that is not understood, as `action: include_role name=x`.
            if count < mentions(&text) {
                found.insert(Name::Any);
            }
        }
        // What Ansible may read and this crate does not, as tags of YAML.
        Err(_) if meta && text.contains("dependencies") || mentions(&text) > 0 => {
            found.insert(Name::Any);
        }
        Err(_) => {}
    }
    Ok(())
}

/// The words that a task includes or imports a role by.
const KEYWORDS: [&str; 2] = ["include_role", "import_role"];

/// How often a role is included or imported in lines that are no comments.
fn mentions(text: &str) -> usize {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    lines.map(|line| KEYWORDS.iter().map(|word| line.matches(word).count()).sum::<usize>()).sum()
}

fn dependencies(meta: &Node, found: &mut BTreeSet<Name>) {
    let Some(Value::List(nodes)) = meta.at("dependencies").map(|node| &node.value) else { return };
    for node in nodes {
        let name = ["role", "name", "src"].iter().find_map(|key| node.at(key)).unwrap_or(node);
        found.insert(name_of(name));
    }
}

fn included(node: &Node, found: &mut BTreeSet<Name>, count: &mut usize) {
    match &node.value {
        Value::Scalar { .. } => {}
        Value::List(nodes) => nodes.iter().for_each(|node| included(node, found, count)),
        Value::Map(entries) => {
            for (key, value) in entries {
                // `ansible.builtin.include_role` too.
                if key.name.rsplit('.').next().is_some_and(|word| KEYWORDS.contains(&word)) {
                    *count += 1;
                    found.insert(name_in_task(value));
                } else {
                    included(value, found, count);
                }
            }
        }
    }
}

/// `{name: x}`, or `name=x tasks_from=y` in one line.
fn name_in_task(node: &Node) -> Name {
    if let Some(name) = node.at("name") {
        return name_of(name);
    }
    let Value::Scalar { text, .. } = &node.value else { return Name::Any };
    match text.split_whitespace().find_map(|word| word.strip_prefix("name=")) {
        Some(name) if !text.contains("{{") => {
            Name::Literal(name.trim_matches(['"', '\'']).to_owned())
        }
        _ => Name::Any,
    }
}

fn name_of(node: &Node) -> Name {
    match &node.value {
        Value::Scalar { text, .. } if !text.contains("{{") && !text.is_empty() => {
            Name::Literal(text.clone())
        }
        _ => Name::Any,
    }
}
