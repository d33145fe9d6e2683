//! Finds files that a role uses from outside its directory, as in
//! `include_tasks: ../../common/tasks/x.yml` or `copy: {src: ../../shared/motd}`.
//!
//! Any path with `..` in a role's files counts, if it exists where Ansible might search for it, and
//! so do the files that match a pattern with `..`: a needless build is better than a missing one.
//! Paths with variables other than `{{ role_path }}` are not found, but paths with `..` in the
//! values of the image's variables are.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};

use globset::Glob;

use super::tasks::pairs;
use crate::config::{ConfigError, YamlDocument, YamlNode, YamlValue};
use crate::folder::Folder;

/// The variable with the directory of the role, as it is usually written.
const ROLE_PATHS: [&str; 2] = ["{{ role_path }}", "{{role_path}}"];

/// Directories of a role whose files are searched for paths, and to which paths may be relative.
const ROLE_FOLDERS: [&str; 7] =
    ["tasks", "handlers", "vars", "defaults", "meta", "templates", "files"];

/// The directory whose files are only copied, and not searched.
const COPIED_FOLDER: &str = "files";

/// Maximum size of a searched file, in bytes: hand-written files are smaller.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Returns the files that `role` uses from outside its directory, and those that these use in turn,
/// as canonical paths.
pub(crate) fn files_used_by(first: &Path, role: &Path) -> Result<BTreeSet<PathBuf>, ConfigError> {
    let canonical = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let (first, own) = (canonical(first), canonical(role));
    let folder = Folder::from_host(&own);
    let mut todo = Vec::new();
    for part in ROLE_FOLDERS
        .into_iter()
        .filter(|part| *part != COPIED_FOLDER && folder.is_dir(Path::new(part)))
    {
        todo.extend(folder.walk(Path::new(part))?.into_iter().map(|item| own.join(item.path)));
    }
    let mut found = BTreeSet::new();
    while let Some(file) = todo.pop() {
        for path in paths_in(&file, &own) {
            let beside = file.parent().unwrap_or(&own).to_owned();
            let from = ROLE_FOLDERS.iter().map(|part| own.join(part)).chain([beside, own.clone()]);
            for path in from.flat_map(|from| existing(&from, &path)) {
                if !path.starts_with(&own)
                    && may_be_used(&path, &first)
                    && found.insert(path.clone())
                {
                    todo.push(path);
                }
            }
        }
    }
    Ok(found)
}

/// Returns the files and directories outside of `role` that the texts `values` may name, the values
/// of variables that the role uses.
pub(crate) fn files_named_by(first: &Path, role: &Path, values: &[String]) -> BTreeSet<PathBuf> {
    let canonical = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let (first, own) = (canonical(first), canonical(role));
    let mut found = BTreeSet::new();
    for path in paths_in_texts(values, &own) {
        let from = ROLE_FOLDERS.iter().map(|part| own.join(part)).chain([own.clone()]);
        let paths = from.flat_map(|from| existing(&from, &path));
        found.extend(paths.filter(|path| !path.starts_with(&own) && may_be_used(path, &first)));
    }
    found
}

/// Returns whether a path is a file, or a directory of the project that does not contain the role.
/// (A directory that contains it is not an input: `chdir: ../..`.)
fn may_be_used(path: &Path, first: &Path) -> bool {
    let project = first.ancestors().nth(3).unwrap_or(first);
    path.is_file() || path.is_dir() && path.starts_with(project) && !first.starts_with(path)
}

/// Returns all texts in a file that may be paths with `..`.
fn paths_in(file: &Path, role: &Path) -> BTreeSet<String> {
    let text = fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.len() <= MAX_FILE_BYTES);
    let text = text.then(|| fs::read(file).ok()).flatten().unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    if !text.contains("..") {
        return BTreeSet::new();
    }
    let is_yaml = file.extension().is_none_or(|e| e == "yml" || e == "yaml");
    let document = is_yaml.then(|| YamlDocument::parse_ansible(file, text.clone().into_owned()));
    let mut values = Vec::new();
    match document {
        Some(Ok(document)) => add_scalars(&document.root, &mut values),
        _ => {
            let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
            values.extend(lines.map(str::to_owned));
        }
    }
    paths_in_texts(&values, role)
}

/// Returns all parts of texts that may be paths with `..`.
fn paths_in_texts(values: &[String], role: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for value in values.iter().filter(|value| value.contains("..")) {
        let value = value.replace("\\\"", "\"").replace("\\'", "'");
        let value = ROLE_PATHS
            .iter()
            .fold(value, |value, variable| value.replace(variable, &role.to_string_lossy()));
        // The whole value, the values of `src=x`, texts in quotes, and words.
        let words = value.split(|c: char| c.is_whitespace() || "\"'`,=[]{}()".contains(c));
        let quoted = ['"', '\''].into_iter().flat_map(|quote| value.split(quote));
        let texts = [value.trim()].into_iter().chain(words).chain(quoted).map(str::to_owned);
        for text in texts.chain(pairs(&value).map(|(_, value)| value)) {
            let has_parent = Path::new(&text).components().any(|c| c == Component::ParentDir);
            if has_parent && !text.contains("{{") {
                // `role_path + '/../x'`
                found.extend(text.strip_prefix("/..").map(|rest| format!("..{rest}")));
                found.insert(text);
            }
        }
    }
    found
}

/// Adds all scalars and keys in a value.
fn add_scalars(node: &YamlNode, found: &mut Vec<String>) {
    match &node.value {
        YamlValue::Scalar { text, .. } => {
            found.push(text.clone());
            if text.contains('\n') {
                found.extend(text.lines().map(str::to_owned));
            }
        }
        YamlValue::List(nodes) => nodes.iter().for_each(|node| add_scalars(node, found)),
        YamlValue::Map(entries) => entries.iter().for_each(|(key, node)| {
            found.push(key.name.clone());
            add_scalars(node, found);
        }),
    }
}

/// Returns the canonical path of a path, or those of the files that match a pattern.
fn existing(from: &Path, path: &str) -> Vec<PathBuf> {
    if let Ok(path) = fs::canonicalize(from.join(path)) {
        return vec![path];
    }
    let mut found = vec![from.to_owned()];
    if !path.contains(['*', '?', '[']) {
        return Vec::new();
    }
    for part in Path::new(path).components() {
        let part = part.as_os_str();
        let glob = part.to_str().filter(|part| part.contains(['*', '?', '[']));
        let Some(glob) = glob.and_then(|glob| Glob::new(glob).ok()) else {
            found.iter_mut().for_each(|path| path.push(part));
            continue;
        };
        let matcher = glob.compile_matcher();
        let entries = found.iter().flat_map(|path| fs::read_dir(path).into_iter().flatten());
        let entries = entries.flatten().filter(|entry| matcher.is_match(entry.file_name()));
        found = entries.map(|entry| entry.path()).collect();
    }
    found.retain(|path| path.is_file());
    found.iter().filter_map(|path| fs::canonicalize(path).ok()).collect()
}

/// Returns the path of `to` relative to the directory `from`. Both must be canonical.
pub(crate) fn relative(from: &Path, to: &Path) -> PathBuf {
    let same = from.components().zip(to.components()).take_while(|(a, b)| a == b).count();
    let up = from.components().skip(same).map(|_| Component::ParentDir);
    up.chain(to.components().skip(same)).collect()
}
