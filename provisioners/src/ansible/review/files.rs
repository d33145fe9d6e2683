//! Finds files that tasks need and that do not exist.

use std::path::{Path, PathBuf};

use super::evaluator::Evaluator;
use super::flow::Step;
use super::role_files::{RoleFile, RoleFiles};
use super::{RoleProblem, RoleProblemKind};
use crate::ansible::paths::normalized;
use crate::ansible::tasks::Module;

/// Modules with the path of a file, the arguments that may have it, and the directory of the role
/// in which Ansible searches it.
const FILE_MODULES: [(&str, &[&str], &str); 8] = [
    ("copy", &["src"], "files"),
    ("unarchive", &["src"], "files"),
    ("script", &["cmd"], "files"),
    ("template", &["src"], "templates"),
    ("include", &["file"], "tasks"),
    ("include_tasks", &["file"], "tasks"),
    ("import_tasks", &["file"], "tasks"),
    ("include_vars", &["file"], "vars"),
];

/// Arguments with which a module may not need its file.
const GUARDS: [&str; 2] = ["creates", "removes"];

/// Returns the problems of tasks that certainly run and whose files do not exist.
pub(super) fn missing(
    steps: &[Step<'_>],
    files: &RoleFiles,
    evaluator: &Evaluator<'_>,
) -> Vec<RoleProblem> {
    let mut problems = Vec::new();
    // A task on the host may create the file.
    for step in steps.iter().filter(|step| step.is_certain && !step.host_changed) {
        let module = &step.module;
        let Some((_, arguments, part)) =
            FILE_MODULES.iter().find(|(name, ..)| *name == module.name)
        else {
            continue;
        };
        let Some(text) = module.file(arguments) else { continue };
        if is_elsewhere(module, &text) || GUARDS.iter().any(|name| module.text(name).is_some()) {
            continue;
        }
        let Some(path) = evaluator.rendered(&text, &step.scope) else { continue };
        if path.trim().is_empty() || is_elsewhere(module, &path) {
            continue;
        }
        let places = searched(Path::new(&path), part, step.file, files);
        if !places.iter().any(|path| path.exists()) {
            problems.push(RoleProblem {
                file: step.file.path.clone(),
                line: module.line_of(arguments),
                kind: RoleProblemKind::NoFile {
                    module: module.name.to_owned(),
                    path: normalized(&places[0]),
                },
            });
        }
    }
    problems
}

/// Returns whether a module takes the file from the root, from a URL or from the home directory.
fn is_elsewhere(module: &Module<'_>, text: &str) -> bool {
    let local = module.text("copy").is_some_and(|text| ["no", "false"].contains(&text));
    let here = ["no", "false", "n", "False"];
    let is_remote = module.text("remote_src").is_some_and(|text| !here.contains(&text));
    is_remote || local || text.contains("://") || text.starts_with('~')
}

/// Returns the places in which Ansible searches a file: in the part of the task's role, in the
/// directory of the task, and in the same places of the roles that may have included it.
pub(super) fn searched(
    path: &Path,
    part: &str,
    file: &RoleFile,
    files: &RoleFiles,
) -> Vec<PathBuf> {
    let beside = file.path.parent().unwrap_or(&file.role);
    let roles = files.roles.iter().map(|(role, _)| role.as_path());
    let folders = [file.role.as_path(), beside].into_iter().chain(roles);
    // `join` returns an absolute path unchanged.
    folders.flat_map(|folder| [folder.join(part).join(path), folder.join(path)]).collect()
}
