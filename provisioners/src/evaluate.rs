//! Evaluates the conditions, loops and templates of `provisioner.yml`.
//!
//! All of them depend on variables only, not on the root, so they are evaluated before a build
//! starts. A string is a template if it contains `{{`, `{%` or `{#`. A string that is a single
//! `{{ expression }}` is replaced by the value of the expression, which may be a list, so that a
//! list of packages can be a variable. A key with an empty text or null is treated as missing.

use minijinja::{Environment, Value as Jinja};

use crate::config::error::Mistake;
use crate::config::{YamlNode, YamlValue, yaml::YamlKey, yaml_1_1::float_text};
use crate::templates::{environment, explain, undefined};
use crate::variables::{Variable, Variables};

/// The key of a condition.
pub(crate) const WHEN_KEY: &str = "when";

/// The variables and the template environment that expressions are evaluated with.
#[derive(Debug)]
pub(crate) struct Evaluator<'a> {
    variables: &'a Variables,
    environment: Environment<'static>,
    context: Jinja,
}

/// Checks the syntax of a condition or a list of conditions.
pub(crate) fn check_condition(node: &YamlNode) -> Result<(), Box<Mistake>> {
    for node in node.list()? {
        let text = condition(node)?;
        if let Err(error) = environment().compile_expression(text) {
            return Err(mistake_in(node, explain(text, &Variables::default(), &error)));
        }
    }
    Ok(())
}

/// Checks the syntax of the conditions in the entries of lists, at any depth.
pub(crate) fn check_conditions_within(node: &YamlNode) -> Result<(), Box<Mistake>> {
    match &node.value {
        YamlValue::Scalar { .. } => Ok(()),
        YamlValue::Map(entries) => entries.iter().try_for_each(|(_, n)| check_conditions_within(n)),
        YamlValue::List(nodes) => nodes.iter().try_for_each(|node| {
            node.get(WHEN_KEY).map_or(Ok(()), check_condition)?;
            check_conditions_within(node)
        }),
    }
}

/// Returns whether any string or key in `node` is a template.
pub(crate) fn has_templates(node: &YamlNode) -> bool {
    match &node.value {
        YamlValue::Scalar { text, .. } => is_template(text),
        YamlValue::List(nodes) => nodes.iter().any(has_templates),
        YamlValue::Map(entries) => {
            entries.iter().any(|(key, node)| is_template(&key.name) || has_templates(node))
        }
    }
}

fn is_template(text: &str) -> bool {
    ["{{", "{%", "{#"].iter().any(|mark| text.contains(mark))
}

/// Returns the expression if the text is `{{ expression }}` and nothing else.
fn single_expression(text: &str) -> Option<&str> {
    let inner = text.trim().strip_prefix("{{")?.strip_suffix("}}")?;
    let plain = !is_template(inner) && !inner.contains("}}") && !inner.contains("%}");
    (plain && !inner.starts_with('-') && !inner.ends_with('-')).then_some(inner.trim())
}

fn condition(node: &YamlNode) -> Result<&str, Box<Mistake>> {
    let text = node.text("a condition such as `serial_console`")?;
    match single_expression(text) {
        Some(inner) => Err(node.mistake_with_help(
            "a condition is an expression without braces",
            format!("write `when: {inner}`"),
        )),
        None => Ok(text),
    }
}

fn mistake_in(node: &YamlNode, (problem, help): (String, Option<String>)) -> Box<Mistake> {
    match help {
        Some(help) => node.mistake_with_help(problem, help),
        None => node.mistake(problem),
    }
}

impl<'a> Evaluator<'a> {
    pub(crate) fn new(variables: &'a Variables) -> Self {
        Self { variables, environment: environment(), context: variables.context() }
    }

    /// Returns the first condition of `node`, a condition or a list of them, that is false; `None`
    /// if all are true.
    pub(crate) fn unmet<'n>(&self, node: &'n YamlNode) -> Result<Option<&'n str>, Box<Mistake>> {
        for node in node.list()? {
            let text = condition(node)?;
            if !self.evaluate(node, text)?.is_true() {
                return Ok(Some(text));
            }
        }
        Ok(None)
    }

    /// Returns the values of a loop.
    pub(crate) fn values(&self, node: &YamlNode) -> Result<Vec<Variable>, Box<Mistake>> {
        let found = match self.value(node)? {
            Variable::List(values) => return Ok(values),
            other => other,
        };
        let help = match (&node.value, &found) {
            (_, Variable::Map(_)) => "`| items` turns a mapping into a list of pairs".to_owned(),
            (YamlValue::Scalar { text, .. }, _) if self.variables.get(text).is_some() => {
                format!("write `loop: \"{{{{ {text} }}}}\"`")
            }
            _ => "write a list, or `\"{{ name }}\"` with the name of a list variable".to_owned(),
        };
        let found = found.kind().unwrap_or("nothing");
        Err(node.mistake_with_help(format!("expected a list, found {found}"), help))
    }

    /// Renders the strings of a step and drops list entries whose conditions are false.
    pub(crate) fn render(&self, node: &YamlNode) -> Result<YamlNode, Box<Mistake>> {
        Ok(match &node.value {
            YamlValue::Scalar { text, .. } if is_template(text) => literal(node, self.value(node)?),
            YamlValue::Scalar { .. } => node.clone(),
            YamlValue::List(nodes) => {
                let mut rendered = Vec::new();
                for node in nodes {
                    let unmet = node.get(WHEN_KEY).map(|when| self.unmet(when)).transpose()?;
                    if unmet.flatten().is_none() {
                        rendered.push(self.render(node)?);
                    }
                }
                node.with_value(YamlValue::List(rendered))
            }
            YamlValue::Map(entries) => {
                let mut rendered = Vec::new();
                for (key, value) in entries.iter().filter(|(key, _)| key.name != WHEN_KEY) {
                    let name = if is_template(&key.name) {
                        self.text(value, &key.name)?
                    } else {
                        key.name.clone()
                    };
                    rendered.push((YamlKey { name, span: key.span }, self.render(value)?));
                }
                node.with_value(YamlValue::Map(rendered))
            }
        })
    }

    /// Returns the value of a node, with its templates rendered.
    fn value(&self, node: &YamlNode) -> Result<Variable, Box<Mistake>> {
        match &node.value {
            YamlValue::Scalar { text, .. } if is_template(text) => match single_expression(text) {
                Some(expression) => {
                    let value = self.evaluate(node, expression)?;
                    Variable::from_jinja(&value).ok_or_else(|| {
                        node.mistake(format!("`{expression}` is not a value but {}", value.kind()))
                    })
                }
                None => self.text(node, text).map(Variable::Text),
            },
            YamlValue::Scalar { .. } => Variable::parse(node),
            YamlValue::List(nodes) => {
                Ok(Variable::List(nodes.iter().map(|n| self.value(n)).collect::<Result<_, _>>()?))
            }
            YamlValue::Map(entries) => {
                let entry =
                    |(key, node): &(YamlKey, YamlNode)| Ok((key.name.clone(), self.value(node)?));
                Ok(Variable::Map(entries.iter().map(entry).collect::<Result<_, Box<Mistake>>>()?))
            }
        }
    }

    fn evaluate(&self, node: &YamlNode, expression: &str) -> Result<Jinja, Box<Mistake>> {
        let value = self
            .environment
            .compile_expression(expression)
            .and_then(|compiled| compiled.eval(&self.context))
            .map_err(|error| mistake_in(node, explain(expression, self.variables, &error)))?;
        if value.is_undefined() {
            return Err(mistake_in(node, undefined(expression, self.variables)));
        }
        Ok(value)
    }

    fn text(&self, node: &YamlNode, text: &str) -> Result<String, Box<Mistake>> {
        self.environment
            .render_str(text, &self.context)
            .map_err(|error| mistake_in(node, explain(text, self.variables, &error)))
    }
}

/// Returns a node for a value, at the position of the template that it comes from.
fn literal(node: &YamlNode, value: Variable) -> YamlNode {
    let scalar = |text: String, plain| YamlValue::Scalar { text, plain };
    node.with_value(match value {
        Variable::Null => scalar(String::new(), true),
        Variable::Text(text) if text.is_empty() => scalar(text, true),
        Variable::Text(text) => scalar(text, false),
        Variable::Bool(_) | Variable::Integer(_) => scalar(value.to_string(), true),
        Variable::Float(number) => scalar(float_text(number), true),
        Variable::List(items) => {
            YamlValue::List(items.into_iter().map(|item| literal(node, item)).collect())
        }
        Variable::Map(items) => YamlValue::Map(
            items
                .into_iter()
                .map(|(name, item)| (YamlKey { name, span: node.span }, literal(node, item)))
                .collect(),
        ),
    })
}
