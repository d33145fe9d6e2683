//! Finds files that a role uses from outside its directory, as in
//! `include_tasks: ../../common/tasks/x.yml` or `copy: {src: ../../shared/motd}`.
//!
//! Any path with `..` in a role's files counts, if it exists where Ansible might search for it: a
//! needless build is better than a missing one. Paths with variables other than `{{ role_path }}`
//! are not found.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};

use crate::config::ConfigError;
use crate::folder::Folder;

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
            for path in from.filter_map(|from| fs::canonicalize(from.join(&path)).ok()) {
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

/// Returns whether a path is a file, or a directory of the project that does not contain the role.
/// (A directory that contains it is not an input: `chdir: ../..`.)
fn may_be_used(path: &Path, first: &Path) -> bool {
    let project = first.ancestors().nth(3).unwrap_or(first);
    path.is_file() || path.is_dir() && path.starts_with(project) && !first.starts_with(path)
}

/// Returns all paths with `..` in a file.
fn paths_in(file: &Path, role: &Path) -> BTreeSet<PathBuf> {
    let text = fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.len() <= MAX_FILE_BYTES);
    let text = text.then(|| fs::read(file).ok()).flatten().unwrap_or_default();
    let role = role.to_string_lossy();
    let mut found = BTreeSet::new();
    for line in String::from_utf8_lossy(&text).lines() {
        let line = line.trim();
        if line.starts_with('#') || !line.contains("../") {
            continue;
        }
        let line = line.replace("{{ role_path }}", &role).replace("{{role_path}}", &role);
        // A path with spaces is found only if it is the whole value.
        let value = line.split_once(": ").map_or(&*line, |(_, value)| value);
        let words = line.split(|c: char| c.is_whitespace() || "\"'`,=[]{}()".contains(c));
        for word in words.chain([value.trim().trim_matches(['"', '\''])]) {
            let path = Path::new(word);
            if path.components().any(|part| part == Component::ParentDir) && !word.contains("{{") {
                found.insert(path.to_owned());
            }
        }
    }
    found
}

/// Returns the path of `to` relative to the directory `from`. Both must be canonical.
pub(crate) fn relative(from: &Path, to: &Path) -> PathBuf {
    let same = from.components().zip(to.components()).take_while(|(a, b)| a == b).count();
    let up = from.components().skip(same).map(|_| Component::ParentDir);
    up.chain(to.components().skip(same)).collect()
}
