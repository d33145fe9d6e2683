//! Follows the tasks of a role in the order in which they run.
//!
//! Each task is found once for each element of its loop, with the variables that it has, and with
//! whether it certainly runs and fails the build if it fails. A task does not certainly run if a
//! condition of it, of a block or of an include around it is not known to be true. Nor does it fail
//! the build if its errors are ignored or rescued. Handlers and task files that are not certainly
//! included never run certainly.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use minijinja::Value as Jinja;
use minijinja::value::ValueKind;

use super::evaluator::{Binding, Evaluator, Outcome, Scope, is_template};
use super::files::searched;
use super::role_files::{RoleFile, RoleFileContent, RoleFiles};
use super::undefined::{TemplateProblemKind, problems_of_node, problems_of_text, undefined_in};
use super::{RoleProblem, RoleProblemKind};
use crate::ansible::paths::{RoleName, normalized, resolve};
use crate::ansible::tasks::{Module, Task, is_keyword, tasks};
use crate::config::{YamlNode, YamlTag, YamlValue};
use crate::variables::{LOOP_VARIABLE, Variable};

/// Maximum number of tasks and blocks, with those of loops.
const MAX_VISITS: usize = 10_000;
/// Maximum depth of blocks and includes.
const MAX_DEPTH: usize = 30;
/// Maximum number of elements of a loop.
const MAX_ELEMENTS: usize = 1000;

/// Keys of a task whose templates are rendered before it runs.
const RENDERED_KEYS: [&str; 6] =
    ["action", "args", "become_user", "delegate_to", "environment", "local_action"];

/// Keys of a task that may run it on the host.
const HOST_KEYS: [&str; 3] = ["connection", "delegate_to", "local_action"];

/// Modules that change no files where they run.
const READING_MODULES: [&str; 14] = [
    "assert",
    "debug",
    "fail",
    "find",
    "meta",
    "pause",
    "ping",
    "set_fact",
    "set_stats",
    "setup",
    "slurp",
    "stat",
    "wait_for",
    "wait_for_connection",
];

/// A task that runs or may run, for one element of its loop.
#[derive(Debug)]
pub(super) struct Step<'a> {
    pub(super) file: &'a RoleFile,
    pub(super) task: Task<'a>,
    pub(super) module: Module<'a>,
    pub(super) scope: Scope,
    /// Whether it certainly runs, and fails the build if it fails.
    pub(super) is_certain: bool,
    /// Whether a task before it may have created files on the host.
    pub(super) host_changed: bool,
}

/// The tasks of a role, and the problems of their variables.
#[derive(Debug)]
pub(super) struct Flow<'a> {
    pub(super) steps: Vec<Step<'a>>,
    pub(super) problems: Vec<RoleProblem>,
    files: &'a RoleFiles,
    evaluator: &'a Evaluator<'a>,
    handlers: Option<Vec<&'a str>>,
    handlers_of: BTreeSet<PathBuf>,
    depth: usize,
    visits: usize,
    /// Whether the play may have ended.
    may_have_ended: bool,
    /// Whether a task may have created files on the host.
    pub(super) host_changed: bool,
}

/// The tasks around a task.
#[derive(Debug, Clone)]
struct Place<'a> {
    file: &'a RoleFile,
    scope: Scope,
    is_certain: bool,
    is_on_host: bool,
}

impl<'a> Flow<'a> {
    /// Follows the tasks of the first role. `host_changed` is whether files on the host may have
    /// been created before.
    pub(super) fn find(
        files: &'a RoleFiles,
        evaluator: &'a Evaluator<'a>,
        host_changed: bool,
    ) -> Self {
        let mut flow = Self {
            steps: Vec::new(),
            problems: Vec::new(),
            files,
            evaluator,
            handlers: handler_names(files),
            handlers_of: BTreeSet::new(),
            depth: 0,
            visits: 0,
            may_have_ended: false,
            host_changed,
        };
        if let Some((role, _)) = files.roles.first() {
            flow.role(role, "main", &Scope::new(role), true);
        }
        for role in flow.handlers_of.clone() {
            if let Some(file) = files.main(&role, "handlers", "main") {
                let scope = Scope::new(&role);
                flow.file(&Place { file, scope, is_certain: false, is_on_host: false });
            }
        }
        flow
    }

    /// Follows the dependencies of a role, then one of its task files.
    fn role(&mut self, role: &Path, from: &str, scope: &Scope, is_certain: bool) {
        self.handlers_of.insert(role.to_owned());
        let scope = scope.in_role(role);
        let meta = self.files.main(role, "meta", "main");
        if let Some(RoleFileContent::Meta(document)) = meta.map(|file| &file.content) {
            let dependencies = document.root.get("dependencies").and_then(|node| node.list().ok());
            for dependency in dependencies.unwrap_or_default() {
                let keys = ["role", "name", "src"];
                let name = keys.iter().find_map(|key| dependency.get(key)).unwrap_or(dependency);
                let Ok(name) = name.text("") else { continue };
                let mut scope = scope.clone();
                scope.add(dependency, self.evaluator);
                if let Some(vars) = dependency.get("vars") {
                    scope.add(vars, self.evaluator);
                }
                let runs =
                    is_certain && dependency.get("when").is_none() && !may_be_ignored(dependency);
                if !self.named_role(role, name, "main", &scope, runs)
                    && runs
                    && let Some(file) = meta
                {
                    let kind = RoleProblemKind::NoRole { name: name.to_owned() };
                    self.report(file, dependency.span.line, kind);
                }
            }
        }
        if let Some(file) = self.files.main(role, "tasks", from) {
            self.file(&Place { file, scope, is_certain, is_on_host: false });
        }
    }

    /// Follows a role that another one names. Returns whether it may exist.
    fn named_role(
        &mut self,
        by: &Path,
        name: &str,
        from: &str,
        scope: &Scope,
        is_certain: bool,
    ) -> bool {
        let Some((first, _)) = self.files.roles.first() else { return true };
        let prefix = self.files.roles.iter().find(|(role, _)| role == by);
        let prefix = prefix.map_or("", |(_, prefix)| prefix);
        let found = resolve(first, (by, prefix), &RoleName::Literal(name.to_owned()));
        if let Some((role, _)) = found.first()
            && self.depth < MAX_DEPTH
            && self.visits < MAX_VISITS
        {
            self.visits += 1;
            self.depth += 1;
            self.role(role, from, scope, is_certain);
            self.depth -= 1;
        }
        !found.is_empty() || is_template(name) || self.files.may_be_elsewhere(by, name)
    }

    /// Follows the tasks of a file.
    fn file(&mut self, place: &Place<'a>) {
        match &place.file.content {
            RoleFileContent::Tasks(document) => self.list(&document.root, place),
            RoleFileContent::Mistake { line, problem } if place.is_certain => {
                let kind = RoleProblemKind::Mistake { problem: problem.clone() };
                self.report(place.file, *line, kind);
            }
            _ => {}
        }
    }

    fn list(&mut self, list: &'a YamlNode, place: &Place<'a>) {
        let YamlValue::List(nodes) = &list.value else { return };
        if self.depth >= MAX_DEPTH {
            return;
        }
        self.depth += 1;
        for node in nodes {
            if matches!(node.value, YamlValue::Map(_)) && self.visits < MAX_VISITS {
                self.task(Task::new(node), place);
            }
        }
        self.depth -= 1;
    }

    fn task(&mut self, task: Task<'a>, place: &Place<'a>) {
        self.visits += 1;
        let mut place = place.clone();
        let node = task.node;
        place.is_certain &= !self.may_have_ended && !may_be_ignored(node);
        place.is_on_host |= HOST_KEYS.iter().any(|key| node.get(key).is_some());
        if let Some(vars) = node.get("vars") {
            place.scope.add(vars, self.evaluator);
        }
        if let Some(block) = node.get("block") {
            let Some(is_certain) = self.runs(node, &place) else { return };
            place.is_certain = is_certain;
            let rescue = node.get("rescue");
            let inner = Place { is_certain: is_certain && rescue.is_none(), ..place.clone() };
            self.list(block, &inner);
            if let Some(rescue) = rescue {
                self.list(rescue, &Place { is_certain: false, ..place.clone() });
            }
            if let Some(always) = node.get("always") {
                self.list(always, &place);
            }
            return;
        }
        let Some(module) = task.module() else { return };
        // Ansible accepts undefined variables in its conditions.
        place.is_certain &= module.name != "meta";
        let elements = match task.looped() {
            None => vec![None],
            Some((key, list)) => {
                let elements = self.elements(key, list, &place.scope);
                // Ansible ignores errors of the loop if a condition is false.
                if key != "with_first_found" && self.runs(node, &place) == Some(true) {
                    self.check_node(list, &place);
                }
                place.is_certain &= elements.is_some();
                let unknown = || vec![Binding::Unknown];
                elements.unwrap_or_else(unknown).into_iter().map(Some).collect()
            }
        };
        let control = |key| node.get("loop_control").and_then(|control| control.get(key));
        let name = |key| control(key).and_then(|node| node.text("").ok());
        for element in elements.into_iter().take(MAX_ELEMENTS) {
            self.visits += 1;
            let mut place = place.clone();
            if let Some(element) = element {
                place.scope.set(name("loop_var").unwrap_or(LOOP_VARIABLE), element);
                if let Some(index) = name("index_var") {
                    place.scope.set(index, Binding::Unknown);
                }
            }
            let Some(is_certain) = self.runs(node, &place) else { continue };
            place.is_certain = is_certain;
            if is_certain {
                self.check_arguments(&task, &module, &place);
            }
            self.steps.push(Step {
                file: place.file,
                task: task.clone(),
                module: module.clone(),
                scope: place.scope.clone(),
                is_certain,
                host_changed: self.host_changed,
            });
            self.follow(&module, &place);
            self.host_changed |= changes_host(&module, place.is_on_host);
        }
    }

    /// Returns whether a task certainly runs; `None` if it never runs.
    fn runs(&mut self, node: &YamlNode, place: &Place<'a>) -> Option<bool> {
        let mut is_certain = place.is_certain;
        let conditions = node.get("when").and_then(|when| when.list().ok()).unwrap_or_default();
        for condition in conditions {
            let value = match Binding::of_node(condition) {
                Binding::Raw(Variable::Bool(value)) => Some(value),
                Binding::Raw(Variable::Text(text)) if !is_template(&text) => {
                    if is_certain {
                        for (name, value_of) in undefined_in(&text, &place.scope, self.evaluator, 0)
                        {
                            let kind = RoleProblemKind::Undefined { name, value_of };
                            self.report(place.file, condition.span.line, kind);
                        }
                    }
                    match self.evaluator.evaluate(&text, &place.scope) {
                        Outcome::Value(value) => Some(value.is_true()),
                        _ => None,
                    }
                }
                _ => None,
            };
            match value {
                Some(true) => {}
                Some(false) => return None,
                None => is_certain = false,
            }
        }
        Some(is_certain)
    }

    /// Returns the elements of a loop, if all are known or their number is.
    fn elements(&self, key: &str, list: &YamlNode, scope: &Scope) -> Option<Vec<Binding>> {
        let binding =
            |node| self.evaluator.node(node, scope).map_or(Binding::Unknown, Binding::Value);
        if let ("loop" | "with_list", YamlValue::List(nodes)) = (key, &list.value) {
            return Some(nodes.iter().map(binding).collect());
        }
        let Binding::Value(value) = binding(list) else { return None };
        if key == "with_dict" {
            let keys = value.as_object()?.try_iter()?;
            let pair = |key: Jinja| {
                let value = value.get_item(&key).ok()?;
                let entries = [("key".to_owned(), key), ("value".to_owned(), value)];
                Some(Binding::Value(entries.into_iter().collect()))
            };
            return keys.map(pair).collect();
        }
        let depth = match key {
            "loop" | "with_list" => 0,
            "with_items" => 1,
            "with_flattened" => MAX_DEPTH,
            _ => return None,
        };
        let mut found = Vec::new();
        if value.kind() == ValueKind::Seq {
            for element in value.try_iter().ok()?.take(MAX_ELEMENTS) {
                flatten(element, depth, &mut found);
            }
        } else if depth == 0 {
            return None;
        } else {
            found.push(Binding::Value(value));
        }
        Some(found)
    }

    /// Follows the include of a task.
    fn follow(&mut self, module: &Module<'a>, place: &Place<'a>) {
        let mut place = place.clone();
        place.is_certain &= module.text("apply").is_none() && module.node("apply").is_none();
        match module.name {
            "include" | "include_tasks" | "import_tasks" => {
                for name in module.names().filter(|name| !["file", "apply"].contains(name)) {
                    place.scope.set(name, Binding::Unknown);
                }
                let path = module.file(&["file", "_raw_params"]).unwrap_or_default();
                let Some(path) = self.evaluator.rendered(&path, &place.scope) else {
                    return self.follow_unknown();
                };
                let places = searched(Path::new(&path), "tasks", place.file, self.files);
                let path = places.into_iter().find(|path| path.is_file());
                if let Some(file) = path.and_then(|path| self.files.file(&path)) {
                    self.file(&Place { file, ..place });
                }
            }
            "include_role" | "import_role" => {
                let text = |name, default: &str| {
                    let text = module.text(name).unwrap_or(default);
                    self.evaluator.rendered(text, &place.scope)
                };
                let (Some(name), Some(from)) = (text("name", ""), text("tasks_from", "main"))
                else {
                    return self.follow_unknown();
                };
                let by = place.scope.role().to_owned();
                if !self.named_role(&by, &name, &from, &place.scope, place.is_certain)
                    && place.is_certain
                {
                    let kind = RoleProblemKind::NoRole { name };
                    self.report(place.file, module.line_of(&["name"]), kind);
                }
            }
            "meta" => {
                let text = match &module.value.value {
                    YamlValue::Scalar { text, .. } => text,
                    _ => return,
                };
                self.may_have_ended |= text.contains("end_");
            }
            _ => {}
        }
    }

    /// Any task file of the roles may run here.
    fn follow_unknown(&mut self) {
        self.host_changed |= self.files.files.iter().any(|file| {
            let RoleFileContent::Tasks(document) = &file.content else { return false };
            tasks(&document.root).iter().any(|task| {
                let is_on_host =
                    task.scopes().any(|scope| HOST_KEYS.iter().any(|key| scope.get(key).is_some()));
                task.module().is_some_and(|module| changes_host(&module, is_on_host))
            })
        });
    }

    /// Reports the undefined variables of a task that certainly runs.
    fn check_arguments(&mut self, task: &Task<'a>, module: &Module<'a>, place: &Place<'a>) {
        for (key, value) in task.entries() {
            let is_rendered = RENDERED_KEYS.contains(&key.name.as_str()) || !is_keyword(&key.name);
            // Variables in `apply` are only rendered if a task uses them.
            if is_rendered && module.node("apply").is_none() {
                self.check_node(value, place);
            }
        }
        if let (Some(handlers), Some(notify)) = (&self.handlers, task.node.get("notify")) {
            let names = notify.list().unwrap_or_default().iter();
            let unknown: Vec<_> = names
                .filter_map(|node| Some((node, node.text("").ok()?)))
                .filter(|(_, name)| !is_template(name))
                .filter(|(_, name)| {
                    let name = name.rsplit_once(" : ").map_or(*name, |(_, name)| name);
                    !handlers.contains(&name)
                })
                .map(|(node, name)| (node.span.line, name.to_owned()))
                .collect();
            for (line, name) in unknown {
                self.report(place.file, line, RoleProblemKind::NoHandler { name });
            }
        }
        if let Some(that) = module.node("that").filter(|_| module.name == "assert") {
            for node in that.list().unwrap_or_default() {
                let Ok(text) = node.text("") else { continue };
                if is_template(text) || node.tag != YamlTag::Other {
                    continue;
                }
                for (name, value_of) in undefined_in(text, &place.scope, self.evaluator, 0) {
                    let kind = RoleProblemKind::Undefined { name, value_of };
                    self.report(place.file, node.span.line, kind);
                }
            }
        }
        if let Some(file) = self.template(module, place) {
            for problem in problems_of_text(&file.text, &place.scope, self.evaluator) {
                self.report_template(place, file, problem.line + 1, problem.kind);
            }
        }
    }

    /// Returns the template that a task renders.
    fn template(&self, module: &Module<'_>, place: &Place<'_>) -> Option<&'a RoleFile> {
        let source = module.text("src").filter(|_| module.name == "template")?;
        // Other delimiters are not known here.
        if module.names().any(|name| name.ends_with("_string")) {
            return None;
        }
        let path = self.evaluator.rendered(source, &place.scope)?;
        let places = searched(Path::new(&path), "templates", place.file, self.files);
        let file = self.files.file(&places.into_iter().find(|path| path.is_file())?)?;
        (!file.text.starts_with("#jinja2:")).then_some(file)
    }

    fn check_node(&mut self, value: &YamlNode, place: &Place<'a>) {
        for (line, kind) in problems_of_node(value, &place.scope, self.evaluator) {
            self.report_template(place, place.file, line, kind);
        }
    }

    fn report_template(
        &mut self,
        place: &Place<'a>,
        file: &RoleFile,
        line: usize,
        kind: TemplateProblemKind,
    ) {
        let kind = match kind {
            TemplateProblemKind::Undefined { name, value_of } => {
                RoleProblemKind::Undefined { name, value_of }
            }
            TemplateProblemKind::NoEnd => RoleProblemKind::Mistake {
                problem: "an expression or a statement of the template has no end".to_owned(),
            },
            TemplateProblemKind::Lookup(name) => {
                let places = searched(Path::new(&name), "files", place.file, self.files);
                // A task on the host may have created the file.
                if self.host_changed || places.iter().any(|path| path.exists()) {
                    return;
                }
                let module = "lookup".to_owned();
                RoleProblemKind::NoFile { module, path: normalized(&places[0]) }
            }
        };
        self.report(file, line, kind);
    }

    fn report(&mut self, file: &RoleFile, line: usize, kind: RoleProblemKind) {
        self.problems.push(RoleProblem { file: file.path.clone(), line, kind });
    }
}

/// Adds the elements of a list, and those of lists in it.
fn flatten(value: Jinja, depth: usize, found: &mut Vec<Binding>) {
    if depth > 0
        && value.kind() == ValueKind::Seq
        && let Ok(values) = value.try_iter()
    {
        values.for_each(|value| flatten(value, depth - 1, found));
    } else if found.len() < MAX_ELEMENTS {
        found.push(Binding::Value(value));
    }
}

/// Returns whether a task may not run for another reason than a condition, or may fail without
/// failing the build.
fn may_be_ignored(node: &YamlNode) -> bool {
    let is_false =
        |node: &YamlNode| matches!(Variable::parse_yaml_1_1(node), Variable::Bool(false));
    let is_never = |tags: &YamlNode| {
        let tags = tags.list().unwrap_or_default();
        tags.iter()
            .any(|tag| tag.text("").is_ok_and(|tag| tag.contains("never") || is_template(tag)))
    };
    node.get("ignore_errors").is_some_and(|node| !is_false(node))
        || node.get("failed_when").is_some()
        || node.get("async").is_some()
        || node.get("tags").is_some_and(is_never)
}

/// Returns the names and topics of all handlers; `None` if one is not known.
fn handler_names(files: &RoleFiles) -> Option<Vec<&str>> {
    let mut names = Vec::new();
    for file in &files.files {
        let RoleFileContent::Tasks(document) = &file.content else { continue };
        for task in tasks(&document.root) {
            let listen = task.node.get("listen").and_then(|node| node.list().ok());
            let nodes = task.node.get("name").into_iter().chain(listen.unwrap_or_default());
            names.extend(nodes.filter_map(|node| node.text("").ok()));
        }
    }
    let is_known = !files.is_incomplete && !names.iter().any(|name| is_template(name));
    is_known.then_some(names)
}

/// Returns whether a task may create files on the host.
fn changes_host(module: &Module<'_>, is_on_host: bool) -> bool {
    module.name == "fetch" || is_on_host && !READING_MODULES.contains(&module.name)
}
