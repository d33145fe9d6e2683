//! Finds the variables that a role uses, and those that it defines.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use minijinja::Environment;

use super::evaluator::{Evaluator, MAX_EXPRESSION_BYTES};
use super::role_files::{RoleFile, RoleFileContent, RoleFiles};
use super::{RoleProblem, RoleProblemKind};
use crate::ansible::tasks::{Module, Task, tasks};
use crate::config::{YamlNode, YamlValue};
use crate::variables::{LOOP_VARIABLE, Variable, Variables};

/// Names that Ansible and overcoat define, other than those that begin with `ansible_`. Functions
/// of Jinja are among them.
const DEFINED_NAMES: [&str; 40] = [
    "build_artifact_path",
    "build_root",
    "caller",
    "cycler",
    "dict",
    "environment",
    "false",
    "False",
    "group_names",
    "groups",
    "hostvars",
    "inventory_dir",
    "inventory_file",
    "inventory_hostname",
    "inventory_hostname_short",
    "item",
    "joiner",
    "kwargs",
    "lipsum",
    "lookup",
    "loop",
    "namespace",
    "none",
    "None",
    "now",
    "omit",
    "play_hosts",
    "playbook_dir",
    "q",
    "query",
    "range",
    "role_name",
    "role_names",
    "role_path",
    "self",
    "true",
    "True",
    "undef",
    "varargs",
    "vars",
];

/// Texts after the name of a variable that need not be defined.
const GUARDS: [&str; 6] =
    ["is defined", "is not defined", "is undefined", "is not undefined", "|default", "|d("];

/// Keys of a task with conditions, which are expressions without braces.
const CONDITIONS: [&str; 4] = ["when", "changed_when", "failed_when", "until"];

/// The variables of a role.
#[derive(Debug, Default)]
pub(super) struct RoleVariables {
    /// Names that are used anywhere.
    used: BTreeSet<String>,
    /// Names that the role defines, in files of variables or in tasks.
    defined: BTreeSet<String>,
    /// Names that tasks define.
    set_by_tasks: BTreeSet<String>,
    /// Names that the role checks, or for which it has a default.
    optional: BTreeSet<String>,
    /// Whether the role may define other variables, too.
    may_define_any: bool,
}

/// A use of a variable.
struct Use {
    name: String,
    line: usize,
}

impl RoleVariables {
    /// Finds the variables of a role.
    pub(super) fn find(files: &RoleFiles) -> Self {
        let mut found = Self { may_define_any: files.is_incomplete, ..Self::default() };
        for file in &files.files {
            match &file.content {
                RoleFileContent::Template => {}
                RoleFileContent::Defaults(document) | RoleFileContent::Variables(document) => {
                    found.defined.extend(keys(&document.root));
                }
                RoleFileContent::Meta(document) => {
                    let dependencies = document.root.get("dependencies");
                    let dependencies = dependencies.and_then(|node| node.list().ok());
                    for dependency in dependencies.unwrap_or_default() {
                        found.defined.extend(keys(dependency));
                        found.defined.extend(dependency.get("vars").into_iter().flat_map(keys));
                    }
                }
                RoleFileContent::Tasks(document) => {
                    for task in tasks(&document.root) {
                        found.add_definitions(&task, file);
                    }
                }
            }
            // Variables are used by name in ways that are not searched.
            let words = ["lookup('vars'", "lookup(\"vars\"", "varnames", "in vars", "vars["];
            found.may_define_any |= words.iter().any(|word| file.text.contains(word));
            let uses = match &file.content {
                RoleFileContent::Tasks(document) => {
                    let mut uses = Vec::new();
                    for task in tasks(&document.root) {
                        add_uses_of_task(&task, &mut uses);
                    }
                    uses
                }
                _ => uses_in_template(&file.text),
            };
            for name in uses.into_iter().map(|used| used.name) {
                if is_guarded(&file.text, &name) {
                    found.optional.insert(name.clone());
                }
                found.used.insert(name);
            }
        }
        found
    }

    /// Returns the names that the role uses.
    pub(super) fn used_names(&self) -> impl Iterator<Item = &str> {
        self.used.iter().map(String::as_str)
    }

    /// Returns whether a task sets the variable.
    pub(super) fn is_set_by_task(&self, name: &str) -> bool {
        self.set_by_tasks.contains(name)
    }

    fn add_definitions(&mut self, task: &Task<'_>, file: &RoleFile) {
        let mut set = BTreeSet::new();
        for scope in task.scopes() {
            set.extend(scope.get("vars").into_iter().flat_map(keys));
            set.extend(scope.get("register").and_then(|node| node.text("").ok()).map(Into::into));
            let control = scope.get("loop_control");
            for key in ["loop_var", "index_var", "extended"] {
                let name = control.and_then(|control| control.get(key));
                set.extend(name.and_then(|node| node.text("").ok()).map(Into::into));
            }
        }
        if task.looped().is_some() {
            set.insert(LOOP_VARIABLE.to_owned());
        }
        if let Some(module) = task.module() {
            match module.name {
                "set_fact" => {
                    self.may_define_any |= module.names().any(|name| name.contains("{{"));
                    set.extend(module.names().map(Into::into));
                }
                "include_vars" => self.add_included(&module, file, &mut set),
                "package_facts" => set.extend(["packages".to_owned()]),
                "service_facts" => set.extend(["services".to_owned()]),
                // Modules that gather facts define variables with any names.
                name => self.may_define_any |= name.ends_with("_facts") || name == "getent",
            }
        }
        self.defined.extend(set.iter().cloned());
        self.set_by_tasks.extend(set);
    }

    /// Adds the names of `include_vars`. All files of `vars/` and files with `..` are read anyway,
    /// so only a name that the variables are stored in is new.
    fn add_included(&mut self, module: &Module<'_>, file: &RoleFile, set: &mut BTreeSet<String>) {
        if let Some(name) = module.text("name") {
            set.insert(name.to_owned());
            return;
        }
        let path = module.file(&["file"]);
        let exists = path.is_some_and(|path| file.role.join("vars").join(path).is_file());
        self.may_define_any |= !exists;
    }

    /// Returns the variables that tasks and templates use, and that nothing defines.
    pub(super) fn undefined(
        &self,
        files: &RoleFiles,
        given: &Variables,
        evaluator: &Evaluator<'_>,
    ) -> Vec<RoleProblem> {
        if self.may_define_any {
            return Vec::new();
        }
        // A template that is included has the variables of the one that includes it.
        let includes = ["include ", "import ", "extends "];
        let has_parts = files.files.iter().any(|file| {
            matches!(file.content, RoleFileContent::Template)
                && includes.iter().any(|word| file.text.contains(word))
        });
        let mut problems = BTreeMap::new();
        let mut report = |name: &str, value_of: Option<&str>, file: &PathBuf, line: usize| {
            let kind = RoleProblemKind::Undefined {
                name: name.to_owned(),
                value_of: value_of.map(Into::into),
            };
            let problem = RoleProblem { file: file.clone(), line, kind };
            problems.entry(name.to_owned()).or_insert(problem);
        };
        for file in &files.files {
            let mut uses = Vec::new();
            match &file.content {
                RoleFileContent::Tasks(document) => {
                    for task in tasks(&document.root) {
                        if !evaluator.never_runs(&task) {
                            add_uses_of_task(&task, &mut uses);
                        }
                    }
                }
                RoleFileContent::Template if has_parts => {}
                RoleFileContent::Template if is_rendered(file, files, evaluator) => {
                    uses = uses_in_template(&file.text);
                }
                // A default that is overridden is never evaluated.
                _ => {}
            }
            for Use { name, line } in uses {
                if self.is_defined(&name) {
                    continue;
                }
                match given.get(&name) {
                    None => report(&name, None, &file.path, line),
                    Some(value) => {
                        for inner in names_in_value(value) {
                            if !self.is_defined(&inner) && given.get(&inner).is_none() {
                                report(&inner, Some(&name), &file.path, line);
                            }
                        }
                    }
                }
            }
        }
        problems.into_values().collect()
    }

    fn is_defined(&self, name: &str) -> bool {
        name.starts_with("ansible_")
            || name.starts_with("template_")
            || DEFINED_NAMES.contains(&name)
            || self.defined.contains(name)
            || self.optional.contains(name)
    }
}

/// Returns whether a task that may run renders a template: names its file, or a file that is not
/// known.
fn is_rendered(template: &RoleFile, files: &RoleFiles, evaluator: &Evaluator<'_>) -> bool {
    let name = template.path.file_name().unwrap_or_default().to_string_lossy();
    files.files.iter().any(|file| {
        let RoleFileContent::Tasks(document) = &file.content else { return false };
        file.text.contains("lookup")
            || tasks(&document.root).iter().any(|task| {
                let module = task.module().filter(|module| module.name == "template");
                let source = module.as_ref().and_then(|module| module.text("src"));
                source.is_some_and(|src| src.contains("{{") || src.ends_with(&*name))
                    && !evaluator.never_runs(task)
            })
    })
}

/// Returns the keys of a mapping.
fn keys(node: &YamlNode) -> impl Iterator<Item = String> {
    let entries = match &node.value {
        YamlValue::Map(entries) => entries.as_slice(),
        _ => &[],
    };
    entries.iter().map(|(key, _)| key.name.clone())
}

/// Adds the variables that a task uses: in templates of all its values, and in the keys whose
/// values are expressions.
fn add_uses_of_task(task: &Task<'_>, uses: &mut Vec<Use>) {
    for scope in task.scopes() {
        let YamlValue::Map(entries) = &scope.value else { continue };
        for (key, value) in entries {
            let name = key.name.as_str();
            if CONDITIONS.contains(&name) {
                for condition in value.list().unwrap_or_default() {
                    add_expression(condition, uses);
                }
            }
            // Ansible shows a name that it cannot render unchanged. The tasks of a block are
            // tasks of their own.
            if !["name", "block", "rescue", "always"].contains(&name) {
                add_templates(value, uses);
            }
        }
    }
    if let Some((_, YamlNode { value: YamlValue::Scalar { text, .. }, span, .. })) = task.looped()
        && !text.contains("{{")
        && is_variable(text)
    {
        // Old versions of Ansible take the text as a variable.
        uses.push(Use { name: text.trim().to_owned(), line: span.line });
    }
    if let Some(module) = task.module() {
        let argument = match module.name {
            "debug" => "var",
            "assert" => "that",
            _ => return,
        };
        if let Some(node) = module.node(argument) {
            node.list().unwrap_or_default().iter().for_each(|node| add_expression(node, uses));
        }
    }
}

fn is_variable(text: &str) -> bool {
    let text = text.trim();
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn add_expression(node: &YamlNode, uses: &mut Vec<Use>) {
    let YamlValue::Scalar { text, .. } = &node.value else { return };
    let environment = Environment::new();
    if text.len() <= MAX_EXPRESSION_BYTES
        && let Ok(expression) = environment.compile_expression(text)
    {
        let names = expression.undeclared_variables(false).into_iter();
        uses.extend(names.map(|name| Use { name, line: node.span.line }));
    }
}

/// Adds the variables in the templates of a value.
fn add_templates(node: &YamlNode, uses: &mut Vec<Use>) {
    match &node.value {
        YamlValue::Scalar { text, .. } => {
            uses.extend(names_in(text).map(|name| Use { name, line: node.span.line }));
        }
        YamlValue::List(nodes) => nodes.iter().for_each(|node| add_templates(node, uses)),
        YamlValue::Map(entries) => entries.iter().for_each(|(_, node)| add_templates(node, uses)),
    }
}

/// Returns the variables in a text with templates. None if it is not a template for minijinja,
/// which lacks some of Python's syntax.
fn names_in(text: &str) -> impl Iterator<Item = String> {
    let environment = Environment::new();
    let mut expressions = text.split("{{").chain(text.split("{%"));
    let is_short = expressions.all(|part| {
        let end = part.find("}}").or(part.find("%}")).unwrap_or(0);
        end <= MAX_EXPRESSION_BYTES
    });
    let has_template = is_short && (text.contains("{{") || text.contains("{%"));
    let template = has_template.then(|| environment.template_from_str(text).ok()).flatten();
    let names = template.map(|template| template.undeclared_variables(false));
    names.unwrap_or_default().into_iter()
}

/// Returns the variables of a template file, each with the line that has its name first.
fn uses_in_template(text: &str) -> Vec<Use> {
    // Other delimiters are not known here.
    if text.starts_with("#jinja2:") {
        return Vec::new();
    }
    let line = |name: &str| text.lines().position(|line| line.contains(name)).unwrap_or(0) + 1;
    names_in(text).map(|name| Use { line: line(&name), name }).collect()
}

/// Returns the variables in the templates of a variable's value.
fn names_in_value(value: &Variable) -> Vec<String> {
    match value {
        Variable::Text(text) => names_in(text).collect(),
        Variable::List(values) => values.iter().flat_map(names_in_value).collect(),
        Variable::Map(values) => values.values().flat_map(names_in_value).collect(),
        _ => Vec::new(),
    }
}

/// Returns whether a text checks the variable, or has a default for it: `x is defined`,
/// `x.y | default(1)`.
fn is_guarded(text: &str, name: &str) -> bool {
    let part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.match_indices(name).any(|(at, _)| {
        let rest = &text[at + name.len()..];
        if text[..at].ends_with(part) || rest.starts_with(part) {
            return false;
        }
        let attribute = |c: char| part(c) || ".[]'\"".contains(c);
        let rest = rest.trim_start_matches(attribute).trim_start();
        let rest: String = match rest.strip_prefix('|') {
            Some(filter) => format!("|{}", filter.trim_start()),
            None => rest.split_whitespace().take(3).collect::<Vec<_>>().join(" "),
        };
        GUARDS.iter().any(|guard| rest.starts_with(guard))
    })
}
