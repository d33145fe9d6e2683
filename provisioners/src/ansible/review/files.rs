//! Finds files that tasks need and that do not exist.

use std::path::{Path, PathBuf};

use super::evaluator::Evaluator;
use super::role_files::{RoleFile, RoleFileContent, RoleFiles};
use super::{RoleProblem, RoleProblemKind};
use crate::ansible::paths::normalized;
use crate::ansible::tasks::{Module, Task, tasks};

/// Modules with the path of a file, the arguments that may have it, and the directory of the role
/// in which Ansible searches it.
const FILE_MODULES: [(&str, &[&str], &str); 8] = [
    ("copy", &["src"], "files"),
    ("unarchive", &["src"], "files"),
    ("script", &["cmd"], "files"),
    ("template", &["src"], "templates"),
    ("include", &[], "tasks"),
    ("include_tasks", &["file"], "tasks"),
    ("import_tasks", &["file"], "tasks"),
    ("include_vars", &["file"], "vars"),
];

/// Returns the problems of tasks whose files do not exist.
pub(super) fn missing(files: &RoleFiles, evaluator: &Evaluator<'_>) -> Vec<RoleProblem> {
    let mut problems = Vec::new();
    // A task on the host may create the file.
    if files.files.iter().any(changes_host) {
        return problems;
    }
    for file in &files.files {
        let RoleFileContent::Tasks(document) = &file.content else { continue };
        for task in tasks(&document.root) {
            let Some(module) = task.module() else { continue };
            let Some((_, arguments, part)) =
                FILE_MODULES.iter().find(|(name, ..)| *name == module.name)
            else {
                continue;
            };
            let Some(text) = module.file(arguments) else { continue };
            if is_elsewhere(&module, &text) || evaluator.may_not_run(&task) {
                continue;
            }
            for path in paths(&task, &text, file, evaluator) {
                let places = searched(&path, part, file, files);
                if !places.iter().any(|path| path.exists()) {
                    problems.push(RoleProblem {
                        file: file.path.clone(),
                        line: module.line_of(arguments),
                        kind: RoleProblemKind::NoFile {
                            module: module.name.to_owned(),
                            path: normalized(&places[0]),
                        },
                    });
                }
            }
        }
    }
    problems
}

/// Returns whether a file has a task that runs on the host.
fn changes_host(file: &RoleFile) -> bool {
    let RoleFileContent::Tasks(document) = &file.content else { return false };
    let is_on_host = |task: &Task<'_>| {
        task.entries().iter().any(|(key, _)| key.name == "local_action")
            || task.scopes().any(|scope| scope.get("delegate_to").is_some())
    };
    tasks(&document.root).iter().any(is_on_host)
}

/// Returns whether a module takes the file from the root, from a URL or from the home directory.
fn is_elsewhere(module: &Module<'_>, text: &str) -> bool {
    let local = module.text("copy").is_some_and(|text| ["no", "false"].contains(&text));
    let here = ["no", "false", "n", "False"];
    let is_remote = module.text("remote_src").is_some_and(|text| !here.contains(&text));
    is_remote || local || text.contains("://") || text.starts_with('~')
}

/// Returns the paths of a task, one for each element of its loop, as far as they are known.
fn paths(task: &Task<'_>, text: &str, file: &RoleFile, evaluator: &Evaluator<'_>) -> Vec<PathBuf> {
    let elements = evaluator.elements(task).unwrap_or_default();
    let paths = elements.iter().map(|element| evaluator.render(text, &file.role, element.as_ref()));
    paths.flatten().filter(|path| !path.trim().is_empty()).map(PathBuf::from).collect()
}

/// Returns the places in which Ansible searches a file: in the part of the task's role, in the
/// directory of the task, and in the same places of the first role.
fn searched(path: &Path, part: &str, file: &RoleFile, files: &RoleFiles) -> Vec<PathBuf> {
    let beside = file.path.parent().unwrap_or(&file.role);
    let first = files.files.first().map(|file| file.role.as_path());
    let folders = [Some(file.role.as_path()), Some(beside), first];
    let folders = folders.into_iter().flatten();
    // `join` returns an absolute path unchanged.
    folders.flat_map(|folder| [folder.join(part).join(path), folder.join(path)]).collect()
}
