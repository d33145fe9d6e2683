//! Variables of provisioners.
//!
//! A provisioner declares its variables with defaults, and an image overrides some. Templates use
//! them by name, scripts as `OVERCOAT_VAR_name` in their environment.

use std::collections::BTreeMap;
use std::fmt;

use minijinja::value::ValueKind;
use serde::Serialize;

use crate::config::error::Mistake;
use crate::config::yaml_1_1::{self, Scalar11, float_text};
use crate::config::{YamlNode, YamlValue, nearest, yaml};

/// Prefix of the variables' names in the environment of scripts.
pub const ENVIRONMENT_PREFIX: &str = "OVERCOAT_VAR_";

/// Name of the variable with the current value of a `loop`.
pub(crate) const LOOP_VARIABLE: &str = "item";

/// The value of a variable.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Variable {
    /// A variable without a default.
    Null,
    /// True or false.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// Another number.
    Float(f64),
    /// Text.
    Text(String),
    /// A list.
    List(Vec<Variable>),
    /// A mapping.
    Map(BTreeMap<String, Variable>),
}

impl Variable {
    /// Returns the kind of this value for messages; `None` for null, which is compatible with any
    /// kind.
    pub(crate) fn kind(&self) -> Option<&'static str> {
        Some(match self {
            Self::Null => return None,
            Self::Bool(_) => "true or false",
            Self::Integer(_) | Self::Float(_) => "a number",
            Self::Text(_) => "text",
            Self::List(_) => "a list",
            Self::Map(_) => "a mapping",
        })
    }

    /// Reads a value of a configuration file.
    pub(crate) fn parse(node: &YamlNode) -> Result<Self, Box<Mistake>> {
        Ok(match &node.value {
            _ if node.is_null() => Self::Null,
            YamlValue::Scalar { text, plain: true } => parse_plain(node, text)?,
            YamlValue::Scalar { text, .. } => Self::Text(text.clone()),
            YamlValue::List(nodes) => {
                Self::List(nodes.iter().map(Self::parse).collect::<Result<_, _>>()?)
            }
            YamlValue::Map(entries) => Self::Map(
                entries
                    .iter()
                    .map(|(key, node)| Ok((key.name.clone(), Self::parse(node)?)))
                    .collect::<Result<_, Box<Mistake>>>()?,
            ),
        })
    }

    /// Reads a value by the rules of YAML 1.1, which Ansible uses: `yes` is true, `0644` is an
    /// octal number, and `1:30` is 90.
    pub(crate) fn parse_yaml_1_1(node: &YamlNode) -> Self {
        match &node.value {
            YamlValue::Scalar { text, plain: true } => Self::of_scalar_1_1(text),
            YamlValue::Scalar { text, .. } => Self::Text(text.clone()),
            YamlValue::List(nodes) => Self::List(nodes.iter().map(Self::parse_yaml_1_1).collect()),
            YamlValue::Map(entries) => {
                let entries = entries.iter();
                Self::Map(entries.map(|(k, n)| (k.name.clone(), Self::parse_yaml_1_1(n))).collect())
            }
        }
    }

    /// Returns the value of an unquoted scalar by the rules of YAML 1.1. A number beyond 64 bits is
    /// text, and so is a time, in the form in which Ansible's templates write it.
    pub(crate) fn of_scalar_1_1(text: &str) -> Self {
        match yaml_1_1::resolve(text) {
            Scalar11::Null => Self::Null,
            Scalar11::Bool(value) => Self::Bool(value),
            Scalar11::Integer(value) => Self::Integer(value),
            Scalar11::Float(value) => Self::Float(value),
            Scalar11::LongInteger(text) | Scalar11::Time(text) => Self::Text(text),
            Scalar11::Text => Self::Text(text.to_owned()),
        }
    }

    /// Converts the value of an expression; `None` if a variable cannot have a value of its type.
    pub(crate) fn from_jinja(value: &minijinja::Value) -> Option<Self> {
        Some(match value.kind() {
            ValueKind::None => Self::Null,
            ValueKind::Bool => Self::Bool(value.is_true()),
            ValueKind::Number => match i64::try_from(value.clone()) {
                Ok(number) if value.is_integer() => Self::Integer(number),
                _ => Self::Float(f64::try_from(value.clone()).ok()?),
            },
            ValueKind::String => Self::Text(value.as_str()?.to_owned()),
            ValueKind::Seq | ValueKind::Iterable => Self::List(
                value.try_iter().ok()?.map(|v| Self::from_jinja(&v)).collect::<Option<_>>()?,
            ),
            ValueKind::Map => Self::Map(
                value
                    .try_iter()
                    .ok()?
                    .map(|key| {
                        let item = value.get_item(&key).ok()?;
                        Some((key.to_string(), Self::from_jinja(&item)?))
                    })
                    .collect::<Option<_>>()?,
            ),
            _ => return None,
        })
    }

    /// Returns the value for the environment: text unchanged, lists and mappings as JSON.
    fn environment(&self) -> String {
        match self {
            Self::Null => String::new(),
            Self::Text(text) => text.clone(),
            other => other.to_string(),
        }
    }
}

/// Parses an unquoted scalar by the rules of YAML 1.2. Rejects scalars with another value in YAML
/// 1.1, such as `yes`, `0644` and `1:30`, because the author may mean either.
fn parse_plain(node: &YamlNode, text: &str) -> Result<Variable, Box<Mistake>> {
    if let Some(value) = yaml::parse_bool(text) {
        return Ok(Variable::Bool(value));
    }
    if matches!(text.to_lowercase().as_str(), "yes" | "no" | "on" | "off") {
        let help = format!("write `true` or `false`, or \"{text}\" for text");
        return Err(node.mistake_with_help("ambiguous: a truth value or text", help));
    }
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.len() > 1 && digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit()) {
        let help = format!("write \"{text}\" for text, or the number without its leading zero");
        return Err(node.mistake_with_help("ambiguous: an octal number or text", help));
    }
    let value = plain_1_2(text);
    let other = Variable::of_scalar_1_1(text);
    if value == other {
        return Ok(value);
    }
    let of_1_1 = yaml_1_1::resolve(text);
    let number = [&value, &other].into_iter().find_map(|value| match value {
        _ if matches!(of_1_1, Scalar11::LongInteger(_)) => None,
        Variable::Integer(number) => Some(number.to_string()),
        Variable::Float(number) if number.is_finite() => Some(float_text(*number)),
        _ => None,
    });
    let problem = match of_1_1 {
        Scalar11::LongInteger(_) => "the number has more than 64 bits",
        Scalar11::Time(_) => "ambiguous: a time or text",
        _ => "ambiguous: a number or text",
    };
    let or_number = number.map(|number| format!(", or {number} for the number"));
    let help = format!("write \"{text}\" for text{}", or_number.unwrap_or_default());
    Err(node.mistake_with_help(problem, help))
}

/// Returns the value of an unquoted scalar by the rules of YAML 1.2, except for truth values.
fn plain_1_2(text: &str) -> Variable {
    if let Ok(value) = text.parse() {
        return Variable::Integer(value);
    }
    let radix = |prefix, radix| {
        text.strip_prefix(prefix).and_then(|digits| i64::from_str_radix(digits, radix).ok())
    };
    if let Some(value) = radix("0x", 16).or_else(|| radix("0o", 8)) {
        return Variable::Integer(value);
    }
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    match text.parse::<f64>() {
        Ok(value)
            if digits.starts_with(|c: char| c.is_ascii_digit() || c == '.')
                && value.is_finite() =>
        {
            Variable::Float(value)
        }
        _ => Variable::Text(text.to_owned()),
    }
}

/// Writes the value as JSON, the form in which scripts receive lists and mappings.
impl fmt::Display for Variable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).map_err(|_| fmt::Error)?)
    }
}

impl From<Variable> for minijinja::Value {
    fn from(variable: Variable) -> Self {
        match variable {
            Variable::Null => Self::from(()),
            Variable::Bool(value) => Self::from(value),
            Variable::Integer(value) => Self::from(value),
            Variable::Float(value) => Self::from(value),
            Variable::Text(text) => Self::from(text),
            Variable::List(items) => items.into_iter().map(Self::from).collect(),
            Variable::Map(items) => {
                let map: BTreeMap<_, _> =
                    items.into_iter().map(|(key, item)| (key, Self::from(item))).collect();
                Self::from(map)
            }
        }
    }
}

/// Variables by name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Variables {
    values: BTreeMap<String, Variable>,
    /// Whether undeclared variables are accepted, as for an Ansible role.
    any: bool,
}

impl Variables {
    /// Reads a mapping. Rejects names that are invalid in templates or in the environment.
    pub(crate) fn parse(node: Option<&YamlNode>) -> Result<Self, Box<Mistake>> {
        let declared = DeclaredVariables::parse(node)?.0;
        let values = declared.into_iter().map(|(name, d)| (name, d.value)).collect();
        Ok(Self { values, any: false })
    }

    /// Creates variables without defaults that accept any variable of an image.
    pub(crate) fn accepting_any() -> Self {
        Self { values: BTreeMap::new(), any: true }
    }

    /// Sets a variable.
    pub fn set(&mut self, name: impl Into<String>, value: Variable) {
        self.values.insert(name.into(), value);
    }

    /// Returns the value of a variable.
    pub fn get(&self, name: &str) -> Option<&Variable> {
        self.values.get(name)
    }

    /// Returns all names and values, ordered by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Variable)> {
        self.values.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// Returns the variables for the environment of a script.
    pub fn environment(&self) -> impl Iterator<Item = (String, String)> {
        self.iter().map(|(name, v)| (format!("{ENVIRONMENT_PREFIX}{name}"), v.environment()))
    }

    /// Returns the variables as the context of a template.
    pub(crate) fn context(&self) -> minijinja::Value {
        Variable::Map(self.values.clone()).into()
    }
}

/// Variables with the position of each in its file, for error messages.
#[derive(Debug, Clone, Default)]
pub(crate) struct DeclaredVariables(BTreeMap<String, Declaration>);

#[derive(Debug, Clone)]
struct Declaration {
    value: Variable,
    node: YamlNode,
}

impl DeclaredVariables {
    /// Reads a mapping. Rejects names that are invalid in templates or in the environment.
    pub(crate) fn parse(node: Option<&YamlNode>) -> Result<Self, Box<Mistake>> {
        let Some(node) = node else { return Ok(Self::default()) };
        let YamlValue::Map(entries) = &node.value else {
            let problem =
                format!("expected variables as `name: value` lines, found {}", node.kind_name());
            return Err(node.mistake(problem));
        };
        let mut variables = BTreeMap::new();
        for (key, node_of) in entries {
            let name = &key.name;
            if name.starts_with(|c: char| c.is_ascii_digit())
                || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
            {
                let help = "a name has letters, digits and underscores, and no digit at the start";
                let problem = "invalid variable name";
                return Err(node.key_mistake(key, problem, Some(help.to_owned())));
            }
            let value = Variable::parse(node_of)?;
            variables.insert(name.clone(), Declaration { value, node: node_of.clone() });
        }
        Ok(Self(variables))
    }

    /// Adds `other`, whose values take precedence.
    pub(crate) fn overridden_by(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    /// Returns the variables that at least one of the provisioners declares or accepts.
    pub(crate) fn known_to(&self, provisioners: &[&Variables]) -> Self {
        let known = |name: &str| provisioners.iter().any(|v| v.any || v.get(name).is_some());
        Self(
            self.0
                .iter()
                .filter(|(name, _)| known(name))
                .map(|(n, d)| (n.clone(), d.clone()))
                .collect(),
        )
    }

    /// Returns all names and values, ordered by name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Variable)> {
        self.0.iter().map(|(name, given)| (name.as_str(), &given.value))
    }

    /// Checks that each variable is declared by one of the provisioners and has the same kind as
    /// its default.
    pub(crate) fn check_against(&self, defaults: &[&Variables]) -> Result<(), Box<Mistake>> {
        for (name, given) in &self.0 {
            let known: Vec<&Variable> = defaults.iter().filter_map(|d| d.get(name)).collect();
            if known.is_empty() && !defaults.iter().any(|defaults| defaults.any) {
                let names = || defaults.iter().flat_map(|d| d.iter().map(|(name, _)| name));
                let help = match nearest(name, names()) {
                    Some(name) => format!("did you mean `{name}`?"),
                    None if names().next().is_none() => "the provisioner has no variables".into(),
                    None => format!(
                        "its variables are {}",
                        names()
                            .collect::<std::collections::BTreeSet<_>>()
                            .into_iter()
                            .collect::<Vec<_>>()
                            .join(", ")
                    ),
                };
                return Err(given
                    .node
                    .mistake_with_help("the provisioner has no such variable", help));
            }
            for default in known {
                if let (Some(wanted), Some(found)) = (default.kind(), given.value.kind())
                    && wanted != found
                {
                    let help = format!("its default is {default}");
                    let problem = format!("expected {wanted}, found {found}");
                    return Err(given.node.mistake_with_help(problem, help));
                }
            }
        }
        Ok(())
    }

    /// Returns the variables of one provisioner: its defaults, overridden by these values.
    pub(crate) fn over(&self, defaults: &Variables) -> Variables {
        let value = |name: &str, default: &Variable| match self.0.get(name) {
            Some(given) => given.value.clone(),
            None => default.clone(),
        };
        let mut values: BTreeMap<_, _> =
            defaults.values.iter().map(|(n, d)| (n.clone(), value(n, d))).collect();
        if defaults.any {
            values.extend(self.0.iter().map(|(name, given)| (name.clone(), given.value.clone())));
        }
        Variables { values, any: defaults.any }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::YamlDocument;

    /// Returns the value that a project has for a scalar.
    fn of_project(text: &str) -> Result<Variable, String> {
        let document = YamlDocument::parse(Path::new("x.yml"), format!("x: {text}\n")).unwrap();
        Variable::parse(document.root.get("x").unwrap()).map_err(|mistake| mistake.problem.clone())
    }

    #[test]
    fn value_is_that_of_yaml_1_1_or_an_error() {
        let same = "5 -5 +5 0 0x1f 1.5 .5 1. 1.0e+16 null ~ true FALSE y 1.2.3 6.1.0-28 a:b \
                    2020-01-01 10:00:5e:00:53:01";
        for text in same.split(' ').chain(["2020-01-01 10:20:30"]) {
            assert_eq!(of_project(text), Ok(Variable::of_scalar_1_1(text)), "{text}");
        }
        let others = "yes Off 0644 08 1:30 1:30.5 7e4 1.5e3 0o22 0b11 1_000 0x_1f -0x1f -.5 .inf \
                      .nan 52:54:00:12:34:56 12345678901234567890 2020-01-01T10:20:30";
        for text in others.split(' ') {
            let error = of_project(text).expect_err(text);
            assert!(error.contains("ambiguous") || error.contains("64 bits"), "{text}: {error}");
        }
    }
}
