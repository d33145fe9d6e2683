//! Evaluates conditions, loops and paths of tasks as far as the variables are known.

use std::collections::BTreeMap;
use std::path::Path;

use minijinja::{Environment, UndefinedBehavior, Value as Jinja};

use super::role_files::{RoleFileContent, RoleFiles};
use super::variables::RoleVariables;
use crate::ansible::tasks::Task;
use crate::config::{YamlNode, YamlValue};
use crate::variables::{LOOP_VARIABLE, Variable, Variables};

/// Facts that are the same for each root that overcoat builds.
const FACTS: [(&str, &str); 4] = [
    ("ansible_os_family", "Debian"),
    ("ansible_pkg_mgr", "apt"),
    ("ansible_service_mgr", "systemd"),
    ("ansible_system", "Linux"),
];

/// Maximum number of times that the result of a template is rendered again.
const MAX_RENDERS: usize = 10;
/// Maximum length of a rendered text, in bytes: longer than any path.
const MAX_TEXT_BYTES: usize = 4096;
/// Maximum length of an expression, in bytes. The parser needs stack for each operator.
pub(super) const MAX_EXPRESSION_BYTES: usize = 2048;
/// Maximum number of elements of a loop.
const MAX_ELEMENTS: usize = 1000;

/// Loops whose elements are those of one list.
const LIST_LOOPS: [&str; 3] = ["loop", "with_items", "with_list"];

/// Evaluates expressions with the known variables.
#[derive(Debug)]
pub(super) struct Evaluator<'a> {
    environment: Environment<'static>,
    known: BTreeMap<String, Jinja>,
    variables: &'a RoleVariables,
}

impl<'a> Evaluator<'a> {
    /// Creates the evaluator for a role with the variables of an image, which override those of
    /// the role.
    pub(super) fn new(files: &RoleFiles, variables: &'a RoleVariables, given: &Variables) -> Self {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.add_filter("bool", is_true);
        let facts = FACTS.iter().map(|(name, value)| ((*name).to_owned(), Jinja::from(*value)));
        let mut known: BTreeMap<String, Jinja> = facts.collect();
        // The first role is first, and its variables override those of the roles that it names.
        let contents = || files.files.iter().rev().map(|file| &file.content);
        let defaults = contents().filter_map(|content| match content {
            RoleFileContent::Defaults(document) => Some(&document.root),
            _ => None,
        });
        let of_roles = contents().filter_map(|content| match content {
            RoleFileContent::Variables(document) => Some(&document.root),
            _ => None,
        });
        for root in defaults.chain(of_roles) {
            let YamlValue::Map(entries) = &root.value else { continue };
            known.extend(entries.iter().map(|(key, node)| (key.name.clone(), value(node))));
        }
        known.extend(given.iter().map(|(name, value)| (name.to_owned(), value.clone().into())));
        Self { environment, known, variables }
    }

    /// Returns whether a task never runs, because one of its conditions is false.
    pub(super) fn never_runs(&self, task: &Task<'_>) -> bool {
        self.conditions(task).any(|condition| condition == Some(false))
    }

    /// Returns whether a task may not run, because one of its conditions is false or not known.
    pub(super) fn may_not_run(&self, task: &Task<'_>) -> bool {
        self.conditions(task).any(|condition| condition != Some(true))
    }

    /// Returns the values of the conditions of a task and of the blocks around it. Those that
    /// depend on the run are `None`.
    fn conditions(&self, task: &Task<'_>) -> impl Iterator<Item = Option<bool>> {
        let conditions = task.scopes().filter_map(|scope| scope.get("when"));
        let conditions = conditions.flat_map(|when| when.list().unwrap_or_default());
        conditions.map(|condition| match &condition.value {
            YamlValue::Scalar { text, .. } => self.condition(text),
            _ => None,
        })
    }

    fn condition(&self, text: &str) -> Option<bool> {
        if !is_simple(text) {
            return None;
        }
        let expression = self.environment.compile_expression(text).ok()?;
        // A variable of a task may have another value when the condition is evaluated.
        let mut names = expression.undeclared_variables(false).into_iter();
        if names.any(|name| self.variables.is_set_by_task(&name)) {
            return None;
        }
        let value = expression.eval(&self.known).ok()?;
        (!value.is_undefined()).then(|| value.is_true())
    }

    /// Returns the elements of the task's loop, each with the name of the loop variable; a task
    /// without a loop has one element without a name. Returns `None` if they are not known.
    pub(super) fn elements(&self, task: &Task<'_>) -> Option<Vec<Option<(String, Jinja)>>> {
        let Some((key, looped)) = task.looped() else { return Some(vec![None]) };
        if !LIST_LOOPS.contains(&key) {
            return None;
        }
        let name = task.node.get("loop_control").and_then(|control| control.get("loop_var"));
        let name = name.and_then(|node| node.text("a name").ok()).unwrap_or(LOOP_VARIABLE);
        let elements: Vec<Jinja> = match &looped.value {
            YamlValue::List(nodes) => nodes.iter().map(value).collect(),
            YamlValue::Scalar { text, .. } => {
                let text = text.trim();
                let inner = text.strip_prefix("{{").and_then(|text| text.strip_suffix("}}"));
                let expression = Some(inner.unwrap_or(text)).filter(|text| is_simple(text))?;
                let list = self.environment.compile_expression(expression).ok()?;
                let list = list.eval(&self.known).ok()?;
                list.as_str().is_none().then_some(())?;
                list.try_iter().ok()?.take(MAX_ELEMENTS).collect()
            }
            YamlValue::Map(_) => return None,
        };
        Some(elements.into_iter().map(|element| Some((name.to_owned(), element))).collect())
    }

    /// Returns a text with its variables replaced; `None` if one is not known.
    pub(super) fn render(
        &self,
        text: &str,
        role: &Path,
        element: Option<&(String, Jinja)>,
    ) -> Option<String> {
        let role_path = std::path::absolute(role).unwrap_or_else(|_| role.to_owned());
        let mut known = self.known.clone();
        known.insert("role_path".to_owned(), role_path.to_string_lossy().into_owned().into());
        if let Some((name, value)) = element {
            known.insert(name.clone(), value.clone());
        }
        let mut text = text.to_owned();
        for _ in 0..MAX_RENDERS {
            if !text.contains("{{") && !text.contains("{%") {
                return Some(text);
            }
            if !is_simple(&text) {
                return None;
            }
            let template = self.environment.template_from_str(&text).ok()?;
            let is_element = |name: &String| element.is_some_and(|(element, _)| element == name);
            let mut names = template.undeclared_variables(false).into_iter();
            if names.any(|name| self.variables.is_set_by_task(&name) && !is_element(&name)) {
                return None;
            }
            let rendered = template.render(&known).ok()?;
            if rendered.len() > MAX_TEXT_BYTES {
                return None;
            }
            text = rendered;
        }
        None
    }
}

fn value(node: &YamlNode) -> Jinja {
    Variable::parse_yaml_1_1(node).into()
}

/// Returns whether a text is short, and cannot loop or multiply: evaluating it takes no time and
/// little stack.
pub(super) fn is_simple(text: &str) -> bool {
    let loops = ["{%", "*", "range", "lipsum"];
    text.len() <= MAX_EXPRESSION_BYTES && !loops.iter().any(|word| text.contains(word))
}

/// The filter `bool` of Ansible, for which the text `no` is false.
fn is_true(value: &Jinja) -> bool {
    match value.as_str() {
        Some(text) => ["true", "yes", "on", "1"].contains(&text.to_lowercase().as_str()),
        None => value.is_true(),
    }
}
