//! Files that a role uses from outside its folder: `include_tasks: ../../common/tasks/x.yml`,
//! `copy: {src: ../../shared/motd}`.
//!
//! Any path with `..` in it that is written in a role's files is taken for one, if there is
//! something where Ansible might look for it: rather a build too many than one too few. What is
//! only known when a task runs is not found; `{{ role_path }}` is known.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};

use crate::config::ConfigError;
use crate::folder::Folder;

/// The parts of a role in which paths are looked for, and from which they may start.
const PARTS: [&str; 7] = ["tasks", "handlers", "vars", "defaults", "meta", "templates", "files"];

/// Of those, the one whose files are only copied.
const DATA: &str = "files";

/// More than this no file is that somebody wrote.
const LONGEST: u64 = 1 << 20;

/// What is used from outside of `role`, and by what is used, as canonical paths.
pub(super) fn of(first: &Path, role: &Path) -> Result<BTreeSet<PathBuf>, ConfigError> {
    let canonical = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let (first, own) = (canonical(first), canonical(role));
    let folder = Folder::host(&own);
    let mut todo = Vec::new();
    for part in PARTS.into_iter().filter(|part| *part != DATA && folder.is_dir(Path::new(part))) {
        todo.extend(folder.walk(Path::new(part))?.into_iter().map(|item| own.join(item.path)));
    }
    let mut found = BTreeSet::new();
    while let Some(file) = todo.pop() {
        for path in written(&file, &own) {
            let beside = file.parent().unwrap_or(&own).to_owned();
            let from = PARTS.iter().map(|part| own.join(part)).chain([beside, own.clone()]);
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

/// A folder is one of the project's, and not one that the role is in: `chdir: ../..`.
fn may_be_used(path: &Path, first: &Path) -> bool {
    let project = first.ancestors().nth(3).unwrap_or(first);
    path.is_file() || path.is_dir() && path.starts_with(project) && !first.starts_with(path)
}

/// The paths with `..` in them that are written in a file, wherever they stand.
fn written(file: &Path, role: &Path) -> BTreeSet<PathBuf> {
    let text = fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.len() <= LONGEST);
    let text = text.then(|| fs::read(file).ok()).flatten().unwrap_or_default();
    let role = role.to_string_lossy();
    let mut found = BTreeSet::new();
    for line in String::from_utf8_lossy(&text).lines() {
        let line = line.trim();
        if line.starts_with('#') || !line.contains("../") {
            continue;
        }
        let line = line.replace("{{ role_path }}", &role).replace("{{role_path}}", &role);
        // A whole value may have spaces in it.
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

/// How `to` is called from the folder `from`; both canonical.
pub(super) fn relative(from: &Path, to: &Path) -> PathBuf {
    let same = from.components().zip(to.components()).take_while(|(a, b)| a == b).count();
    let up = from.components().skip(same).map(|_| Component::ParentDir);
    up.chain(to.components().skip(same)).collect()
}
