//! Finds the variables that a role uses, and those that it defines.

use std::collections::BTreeSet;

use minijinja::Environment;

use super::evaluator::MAX_EXPRESSION_BYTES;
use super::role_files::{RoleFile, RoleFileContent, RoleFiles};
use crate::ansible::tasks::{Module, Task, tasks};
use crate::config::{YamlNode, YamlValue};
use crate::variables::LOOP_VARIABLE;

/// Names that Ansible and overcoat define, other than those that begin with `ansible_`. Functions
/// of Jinja are among them.
const DEFINED_NAMES: [&str; 43] = [
    "build_artifact_path",
    "build_root",
    "caller",
    "cycler",
    "dict",
    "discovered_interpreter_python",
    "environment",
    "false",
    "False",
    "gather_subset",
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
    "module_setup",
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
    /// Names that tasks set, or files that tasks may include.
    set_by_tasks: BTreeSet<String>,
    /// Names that the role checks, or for which it has a default.
    optional: BTreeSet<String>,
    /// Whether the role may define other variables, too.
    may_define_any: bool,
}

impl RoleVariables {
    /// Finds the variables of a role.
    pub(super) fn find(files: &RoleFiles) -> Self {
        let mut found = Self { may_define_any: files.is_incomplete, ..Self::default() };
        for file in &files.files {
            match &file.content {
                RoleFileContent::Template | RoleFileContent::Mistake { .. } => {}
                RoleFileContent::Defaults(document) | RoleFileContent::Variables(document) => {
                    found.defined.extend(keys(&document.root));
                }
                RoleFileContent::OtherVariables(document) => {
                    found.defined.extend(keys(&document.root));
                    found.set_by_tasks.extend(keys(&document.root));
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
            let uses = match &file.content {
                RoleFileContent::Tasks(document) => {
                    let mut uses = BTreeSet::new();
                    for task in tasks(&document.root) {
                        add_uses_of_task(&task, &mut uses);
                    }
                    uses
                }
                _ => names_in(&file.text).collect(),
            };
            for name in uses {
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

    /// Returns whether the variable may be defined, by the role or by Ansible.
    pub(super) fn is_defined(&self, name: &str) -> bool {
        self.may_define_any
            || name.starts_with("ansible_")
            || ["template_", "facter_", "ohai_"].iter().any(|prefix| name.starts_with(prefix))
            || DEFINED_NAMES.contains(&name)
            || self.defined.contains(name)
    }

    /// Returns whether the role checks the variable, or has a default for it.
    pub(super) fn is_optional(&self, name: &str) -> bool {
        self.optional.contains(name)
    }
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
fn add_uses_of_task(task: &Task<'_>, uses: &mut BTreeSet<String>) {
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

fn add_expression(node: &YamlNode, uses: &mut BTreeSet<String>) {
    let YamlValue::Scalar { text, .. } = &node.value else { return };
    let environment = Environment::new();
    if text.len() <= MAX_EXPRESSION_BYTES
        && let Ok(expression) = environment.compile_expression(text)
    {
        let names = expression.undeclared_variables(false).into_iter();
        uses.extend(names);
    }
}

/// Adds the variables in the templates of a value.
fn add_templates(node: &YamlNode, uses: &mut BTreeSet<String>) {
    match &node.value {
        YamlValue::Scalar { text, .. } => {
            uses.extend(names_in(text));
        }
        YamlValue::List(nodes) => nodes.iter().for_each(|node| add_templates(node, uses)),
        YamlValue::Map(entries) => entries.iter().for_each(|(_, node)| add_templates(node, uses)),
    }
}

/// Returns the variables in a text with templates. None if it is not a template for minijinja,
/// which lacks some of Python's syntax.
pub(super) fn names_in(text: &str) -> impl Iterator<Item = String> {
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
