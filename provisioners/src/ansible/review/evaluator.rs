//! Evaluates expressions and templates of tasks as far as the variables are known.
//!
//! A value is one of three things: known, undefined, or unknown, because a task sets it or it
//! depends on the machine. An expression has a known value if its evaluation uses no unknown
//! variable, so `true or x` does not depend on `x`.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use minijinja::value::{Object, ValueKind};
use minijinja::{Environment, ErrorKind, Output, State, UndefinedBehavior, Value as Jinja};

use super::role_files::{RoleFileContent, RoleFiles};
use super::variables::RoleVariables;
use crate::config::{YamlNode, YamlTag, YamlValue};
use crate::variables::{Variable, Variables};

/// Facts that are the same for each root that overcoat builds.
const FACTS: [(&str, &str); 4] = [
    ("ansible_os_family", "Debian"),
    ("ansible_pkg_mgr", "apt"),
    ("ansible_service_mgr", "systemd"),
    ("ansible_system", "Linux"),
];

/// Variables that overcoat sets itself when the role runs.
const OWN_VARIABLES: [&str; 2] = ["build_root", "build_artifact_path"];

/// Maximum depth of variables whose values use other variables.
const MAX_DEPTH: usize = 10;
/// Maximum number of evaluations: those of a large role are fewer.
const MAX_EVALUATIONS: usize = 20_000;
/// Maximum length of a rendered text, in bytes: longer than any path.
const MAX_TEXT_BYTES: usize = 4096;
/// Maximum length of an expression, in bytes. The parser needs stack for each operator.
pub(super) const MAX_EXPRESSION_BYTES: usize = 2048;

/// The value of a variable before its templates are rendered.
#[derive(Debug, Clone)]
pub(super) enum Binding {
    /// A value with templates in it.
    Raw(Variable),
    /// A value without templates.
    Value(Jinja),
    Unknown,
}

/// The variables of a task that the whole role does not have.
#[derive(Debug, Clone)]
pub(super) struct Scope {
    role: PathBuf,
    locals: BTreeMap<String, Binding>,
}

/// The result of an evaluation.
#[derive(Debug, Clone)]
pub(super) enum Outcome {
    Value(Jinja),
    Unknown,
    /// The evaluation fails because this variable is not defined.
    Undefined(String),
}

/// Evaluates expressions with the known variables.
#[derive(Debug)]
pub(super) struct Evaluator<'a> {
    environment: Environment<'static>,
    known: BTreeMap<String, Binding>,
    given: &'a Variables,
    variables: &'a RoleVariables,
    evaluations: Cell<usize>,
}

impl Binding {
    pub(super) fn of_node(node: &YamlNode) -> Self {
        let (mut has_unsafe, mut has_templates) = (false, false);
        if !add_tags(node, &mut has_unsafe, &mut has_templates) || has_unsafe && has_templates {
            return Self::Unknown;
        }
        let variable = Variable::parse_yaml_1_1(node);
        if has_unsafe { Self::Value(variable.into()) } else { Self::Raw(variable) }
    }
}

/// Finds out whether a value has texts that are not templates, and others that are. Returns false
/// if it has an encrypted text.
fn add_tags(node: &YamlNode, has_unsafe: &mut bool, has_templates: &mut bool) -> bool {
    *has_unsafe |= node.tag == YamlTag::Unsafe;
    match &node.value {
        YamlValue::Scalar { text, .. } => {
            *has_templates |= node.tag == YamlTag::Other && is_template(text);
            node.tag != YamlTag::Vault
        }
        YamlValue::List(nodes) => {
            nodes.iter().all(|node| add_tags(node, has_unsafe, has_templates))
        }
        YamlValue::Map(entries) => {
            entries.iter().all(|(_, node)| add_tags(node, has_unsafe, has_templates))
        }
    }
}

impl Scope {
    /// Returns the scope of a role.
    pub(super) fn new(role: &Path) -> Self {
        Self { role: role.to_owned(), locals: BTreeMap::new() }
    }

    /// Returns this scope for another role.
    pub(super) fn in_role(&self, role: &Path) -> Self {
        Self { role: role.to_owned(), locals: self.locals.clone() }
    }

    /// Returns the directory of the role.
    pub(super) fn role(&self) -> &Path {
        &self.role
    }

    /// Sets a variable.
    pub(super) fn set(&mut self, name: &str, value: Binding) {
        self.locals.insert(name.to_owned(), value);
    }

    /// Adds the variables of a mapping such as `vars:`. A variable of the image may override them.
    pub(super) fn add(&mut self, node: &YamlNode, evaluator: &Evaluator<'_>) {
        let YamlValue::Map(entries) = &node.value else { return };
        for (key, node) in entries {
            let is_given = evaluator.given.get(&key.name).is_some();
            self.set(&key.name, if is_given { Binding::Unknown } else { Binding::of_node(node) });
        }
    }
}

impl<'a> Evaluator<'a> {
    /// Creates the evaluator for a role with the variables of an image, which override those of
    /// the role.
    pub(super) fn new(
        files: &RoleFiles,
        variables: &'a RoleVariables,
        given: &'a Variables,
    ) -> Self {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.add_filter("bool", is_true);
        environment.set_formatter(format_as_python);
        let facts = FACTS.map(|(name, value)| (name.to_owned(), Binding::Value(value.into())));
        let mut known = BTreeMap::from(facts);
        // The role of each variable. Another role may set it to another value.
        let mut owners: BTreeMap<&str, &Path> = BTreeMap::new();
        let is_default =
            |content: &RoleFileContent| matches!(content, RoleFileContent::Defaults(_));
        let defaults = files.files.iter().filter(|file| is_default(&file.content));
        let others = files.files.iter().filter(|file| !is_default(&file.content));
        for file in defaults.chain(others) {
            let (RoleFileContent::Defaults(document) | RoleFileContent::Variables(document)) =
                &file.content
            else {
                continue;
            };
            let YamlValue::Map(entries) = &document.root.value else { continue };
            for (key, node) in entries {
                let owner = *owners.entry(&key.name).or_insert(&file.role);
                let value = if owner == file.role && !variables.is_set_by_task(&key.name) {
                    Binding::of_node(node)
                } else {
                    Binding::Unknown
                };
                known.insert(key.name.clone(), value);
            }
        }
        for (name, value) in given.iter() {
            known.insert(name.to_owned(), Binding::Raw(value.clone()));
        }
        for name in OWN_VARIABLES {
            known.insert(name.to_owned(), Binding::Unknown);
        }
        Self { environment, known, given, variables, evaluations: Cell::new(0) }
    }

    /// Returns the value of a variable before its templates are rendered; `None` if it is not
    /// defined.
    pub(super) fn binding<'s>(&'s self, name: &str, scope: &'s Scope) -> Option<&'s Binding> {
        if let Some(local) = scope.locals.get(name) {
            return Some(local);
        }
        if self.variables.is_set_by_task(name) {
            return Some(&Binding::Unknown);
        }
        let known = self.known.get(name);
        known.or_else(|| self.variables.is_defined(name).then_some(&Binding::Unknown))
    }

    /// Returns whether the role checks a variable, or has a default for it.
    pub(super) fn is_optional(&self, name: &str) -> bool {
        self.variables.is_optional(name)
    }

    /// Returns a variable of the image.
    pub(super) fn given(&self, name: &str) -> Option<&Variable> {
        self.given.get(name)
    }

    /// Evaluates an expression.
    pub(super) fn evaluate(&self, expression: &str, scope: &Scope) -> Outcome {
        self.evaluate_within(expression, scope, 0)
    }

    fn evaluate_within(&self, expression: &str, scope: &Scope, depth: usize) -> Outcome {
        if !self.may_evaluate(expression) {
            return Outcome::Unknown;
        }
        let Ok(compiled) = self.environment.compile_expression(expression) else {
            return Outcome::Unknown;
        };
        let context = self.context(compiled.undeclared_variables(false), scope, depth);
        let value = compiled.eval(Jinja::from_dyn_object(Arc::clone(&context)));
        context.outcome(value)
    }

    /// Returns a text with its templates rendered: the value of the expression if the text is one
    /// `{{ expression }}`.
    pub(super) fn text(&self, text: &str, scope: &Scope) -> Outcome {
        self.text_within(text, scope, 0)
    }

    fn text_within(&self, text: &str, scope: &Scope, depth: usize) -> Outcome {
        if !is_template(text) {
            return Outcome::Value(text.into());
        }
        if let Some(expression) = single_expression(text) {
            return self.evaluate_within(expression, scope, depth);
        }
        if !self.may_evaluate(text) {
            return Outcome::Unknown;
        }
        let Ok(template) = self.environment.template_from_str(text) else {
            return Outcome::Unknown;
        };
        let context = self.context(template.undeclared_variables(false), scope, depth);
        let text = template.render(Jinja::from_dyn_object(Arc::clone(&context)));
        match text {
            Ok(text) if text.len() > MAX_TEXT_BYTES => Outcome::Unknown,
            text => context.outcome(text.map(Jinja::from)),
        }
    }

    /// Returns a text with its templates rendered, if the result is known and a text or a number.
    pub(super) fn rendered(&self, text: &str, scope: &Scope) -> Option<String> {
        match self.text(text, scope) {
            Outcome::Value(value) => {
                let is_text = matches!(value.kind(), ValueKind::String | ValueKind::Number);
                is_text.then(|| value.to_string())
            }
            _ => None,
        }
    }

    /// Returns the value of a node with its templates rendered.
    pub(super) fn node(&self, node: &YamlNode, scope: &Scope) -> Option<Jinja> {
        self.value(&Binding::of_node(node), scope, 0)
    }

    fn value(&self, binding: &Binding, scope: &Scope, depth: usize) -> Option<Jinja> {
        match binding {
            Binding::Raw(variable) => self.variable(variable, scope, depth),
            Binding::Value(value) => Some(value.clone()),
            Binding::Unknown => None,
        }
    }

    fn variable(&self, variable: &Variable, scope: &Scope, depth: usize) -> Option<Jinja> {
        match variable {
            Variable::Text(text) => match self.text_within(text, scope, depth) {
                Outcome::Value(value) => Some(value),
                _ => None,
            },
            Variable::List(values) => {
                let values = values.iter().map(|value| self.variable(value, scope, depth));
                values.collect::<Option<Vec<_>>>().map(Jinja::from)
            }
            Variable::Map(entries) => {
                let entries = entries
                    .iter()
                    .map(|(name, value)| Some((name.clone(), self.variable(value, scope, depth)?)));
                entries.collect::<Option<BTreeMap<_, _>>>().map(Jinja::from)
            }
            other => Some(other.clone().into()),
        }
    }

    /// Returns the values of these variables.
    fn context(
        &self,
        names: impl IntoIterator<Item = String>,
        scope: &Scope,
        depth: usize,
    ) -> Arc<Context> {
        let mut context = Context::default();
        for name in names {
            if name == "role_path" {
                let role = std::path::absolute(&scope.role).unwrap_or_else(|_| scope.role.clone());
                context.values.insert(name, role.to_string_lossy().into_owned().into());
                continue;
            }
            let Some(binding) = self.binding(&name, scope) else { continue };
            let value = (depth < MAX_DEPTH).then(|| self.value(binding, scope, depth + 1));
            match value.flatten() {
                Some(value) => drop(context.values.insert(name, value)),
                None => drop(context.unknown.insert(name)),
            }
        }
        Arc::new(context)
    }

    fn may_evaluate(&self, text: &str) -> bool {
        self.count_evaluation() && is_simple(text)
    }

    /// Counts an evaluation. Returns false if there were too many.
    pub(super) fn count_evaluation(&self) -> bool {
        self.evaluations.set(self.evaluations.get() + 1);
        self.evaluations.get() <= MAX_EVALUATIONS
    }
}

/// The variables that an evaluation can use, and the use of those without a known value.
#[derive(Debug, Default)]
struct Context {
    values: BTreeMap<String, Jinja>,
    unknown: BTreeSet<String>,
    uses_unknown: AtomicBool,
    /// The undefined variable that was used last.
    undefined: Mutex<Option<String>>,
}

impl Object for Context {
    fn get_value(self: &Arc<Self>, key: &Jinja) -> Option<Jinja> {
        let name = key.as_str()?;
        if let Some(value) = self.values.get(name) {
            return Some(value.clone());
        }
        if self.unknown.contains(name) {
            self.uses_unknown.store(true, Ordering::Relaxed);
        } else if let Ok(mut undefined) = self.undefined.lock() {
            *undefined = Some(name.to_owned());
        }
        None
    }
}

impl Context {
    fn outcome(&self, value: Result<Jinja, minijinja::Error>) -> Outcome {
        if self.uses_unknown.load(Ordering::Relaxed) {
            return Outcome::Unknown;
        }
        let is_undefined = match value {
            Ok(value) if !value.is_undefined() => return Outcome::Value(value),
            Ok(_) => true,
            Err(error) => error.kind() == ErrorKind::UndefinedError,
        };
        let name = self.undefined.lock().ok().and_then(|name| name.clone());
        name.filter(|_| is_undefined).map_or(Outcome::Unknown, Outcome::Undefined)
    }
}

pub(super) fn is_template(text: &str) -> bool {
    ["{{", "{%", "{#"].iter().any(|mark| text.contains(mark))
}

/// Returns the expression if the text is `{{ expression }}` and nothing else.
pub(super) fn single_expression(text: &str) -> Option<&str> {
    let inner = text.trim().strip_prefix("{{")?.strip_suffix("}}")?;
    let inner = inner.strip_prefix('-').unwrap_or(inner);
    let inner = inner.strip_suffix('-').unwrap_or(inner);
    (!is_template(inner) && !inner.contains("}}")).then_some(inner.trim())
}

/// Returns whether a text is short, and cannot loop or multiply: evaluating it takes no time and
/// little stack.
pub(super) fn is_simple(text: &str) -> bool {
    let loops = ["{%", "*", "range", "lipsum"];
    text.len() <= MAX_EXPRESSION_BYTES && !loops.iter().any(|word| text.contains(word))
}

/// Writes a value as Python does. Fails for lists and mappings, which minijinja writes differently.
fn format_as_python(
    out: &mut Output<'_>,
    state: &mut State<'_, '_>,
    value: &Jinja,
) -> Result<(), minijinja::Error> {
    match value.kind() {
        ValueKind::Bool => Ok(out.write_str(if value.is_true() { "True" } else { "False" })?),
        ValueKind::None => Ok(out.write_str("None")?),
        ValueKind::String | ValueKind::Number | ValueKind::Undefined => {
            minijinja::escape_formatter(out, state, value)
        }
        _ => Err(minijinja::Error::new(ErrorKind::InvalidOperation, "not a text")),
    }
}

/// The filter `bool` of Ansible, for which the text `no` is false.
fn is_true(value: &Jinja) -> bool {
    match value.as_str() {
        Some(text) => ["true", "yes", "on", "1"].contains(&text.to_lowercase().as_str()),
        None => value.is_true(),
    }
}
