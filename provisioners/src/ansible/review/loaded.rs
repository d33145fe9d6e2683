//! Finds problems of what Ansible reads before the first task runs: the dependencies, tasks and
//! handlers of the role, and the roles and task files that these import by name. Conditions, tags
//! and ignored errors have no effect on them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::evaluator::is_template;
use super::files::searched;
use super::host_modules::HostModules;
use super::role_files::{RoleFile, RoleFileContent, RoleFiles};
use super::{RoleProblem, RoleProblemKind};
use crate::ansible::paths::{RoleName, normalized, resolve};
use crate::ansible::tasks::{Task, tasks};

/// Returns the problems of all files that Ansible reads first.
pub(super) fn problems(files: &RoleFiles) -> Vec<RoleProblem> {
    // A role or a collection may bring modules of its own.
    let are_known = !files.is_incomplete && !files.has_collections;
    let mut loader = Loader {
        files,
        modules: are_known.then(HostModules::find).flatten(),
        problems: Vec::new(),
        seen: BTreeSet::new(),
    };
    if let Some((role, _)) = files.roles.first() {
        loader.role(role, "main");
    }
    loader.problems
}

struct Loader<'a> {
    files: &'a RoleFiles,
    modules: Option<HostModules>,
    problems: Vec<RoleProblem>,
    seen: BTreeSet<PathBuf>,
}

impl<'a> Loader<'a> {
    fn role(&mut self, role: &Path, from: &str) {
        let files = self.files;
        if let Some(file) = files.main(role, "meta", "main")
            && let RoleFileContent::Meta(document) = &file.content
            && self.seen.insert(file.path.clone())
        {
            let dependencies = document.root.get("dependencies").and_then(|node| node.list().ok());
            for dependency in dependencies.unwrap_or_default() {
                let keys = ["role", "name", "src"];
                let name = keys.iter().find_map(|key| dependency.get(key)).unwrap_or(dependency);
                if let Ok(name) = name.text("") {
                    self.named_role(role, name, "main", (file, dependency.span.line));
                }
            }
        }
        for (part, name) in [("tasks", from), ("handlers", "main")] {
            if let Some(file) = files.main(role, part, name) {
                self.tasks(file);
            }
        }
    }

    fn named_role(&mut self, by: &Path, name: &str, from: &str, (file, line): (&RoleFile, usize)) {
        if is_template(name) || is_template(from) {
            return;
        }
        let files = self.files;
        let Some((first, _)) = files.roles.first() else { return };
        let prefix = files.roles.iter().find(|(role, _)| role == by);
        let prefix = prefix.map_or("", |(_, prefix)| prefix);
        let found = resolve(first, (by, prefix), &RoleName::Literal(name.to_owned()));
        match found.first() {
            Some((role, _)) => self.role(role, from),
            None if !files.may_be_elsewhere(by, name) => {
                self.report(file, line, RoleProblemKind::NoRole { name: name.to_owned() });
            }
            None => {}
        }
    }

    fn tasks(&mut self, file: &'a RoleFile) {
        let RoleFileContent::Tasks(document) = &file.content else { return };
        if !self.seen.insert(file.path.clone()) {
            return;
        }
        for task in tasks(&document.root) {
            self.task(&task, file);
        }
    }

    fn task(&mut self, task: &Task<'a>, file: &'a RoleFile) {
        let Some(module) = task.module() else { return };
        if let (Some(modules), Some((name, line))) = (&self.modules, task.module_name())
            && task.node.get("block").is_none()
            && modules.lack(name)
        {
            let kind = RoleProblemKind::NoModule { name: name.to_owned() };
            self.report(file, line, kind);
        }
        match module.name {
            "import_role" => {
                let (name, from) = (module.text("name"), module.text("tasks_from"));
                if let Some(name) = name {
                    let line = module.line_of(&["name"]);
                    self.named_role(&file.role, name, from.unwrap_or("main"), (file, line));
                }
            }
            "import_tasks" => {
                let Some(path) = module.file(&["file", "_raw_params"]) else { return };
                if path.trim().is_empty() || is_template(&path) {
                    return;
                }
                let places = searched(Path::new(&path), "tasks", file, self.files);
                match places.iter().find(|path| path.is_file()) {
                    Some(path) => {
                        if let Some(file) = self.files.file(path) {
                            self.tasks(file);
                        }
                    }
                    None if !places.iter().any(|path| path.exists()) => {
                        let (module_name, path) = (module.name.to_owned(), normalized(&places[0]));
                        let kind = RoleProblemKind::NoFile { module: module_name, path };
                        self.report(file, module.line_of(&["file"]), kind);
                    }
                    None => {}
                }
            }
            _ => {}
        }
    }

    fn report(&mut self, file: &RoleFile, line: usize, kind: RoleProblemKind) {
        self.problems.push(RoleProblem { file: file.path.clone(), line, kind });
    }
}
