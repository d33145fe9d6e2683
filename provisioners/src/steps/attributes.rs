//! The step that sets owners and modes by path or pattern.
//!
//! Rules are applied in the order of the file, so a later rule overrides an earlier one. A rule
//! that matches nothing is an error, because it is usually a mistake.

use std::path::Path;

use super::{StepContext, StepError};
use crate::config::error::Mistake;
use crate::config::{Fields, YamlNode, YamlValue};
use crate::glob::Pattern;
use crate::machine::{self, Kind, Machine};

/// Rules in the order of the file.
#[derive(Debug, Clone, Default)]
pub(crate) struct AttributeRules(Vec<AttributeRule>);

#[derive(Debug, Clone)]
struct AttributeRule {
    text: String,
    pattern: Pattern,
    owner: Option<String>,
    group: Option<String>,
    mode: Option<u32>,
    directory_mode: Option<u32>,
}

impl AttributeRules {
    /// Reads a mapping from patterns to `owner`, `group`, `mode` and `directory_mode`.
    pub(crate) fn parse(node: &YamlNode) -> Result<Self, Box<Mistake>> {
        let YamlValue::Map(entries) = &node.value else {
            let help = "write `/path: {owner: root, group: adm, mode: \"0640\"}`";
            return Err(
                node.mistake_with_help(format!("expected paths, found {}", node.kind_name()), help)
            );
        };
        let mut rules = Vec::new();
        for (key, value) in entries {
            let pattern = Pattern::parse(&key.name)
                .map_err(|problem| node.key_mistake(key, problem, None))?;
            let fields = Fields::new(value, "attributes")?;
            let rule = AttributeRule {
                text: key.name.clone(),
                pattern,
                owner: fields.text("owner")?,
                group: fields.text("group")?,
                mode: fields.get("mode").map(mode).transpose()?,
                directory_mode: fields.get("directory_mode").map(mode).transpose()?,
            };
            fields.finish()?;
            rules.push(rule);
        }
        Ok(Self(rules))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the highest id that the rules name; 0 if they name none.
    pub(crate) fn highest_id(&self) -> u32 {
        let names = self.0.iter().flat_map(|rule| [&rule.owner, &rule.group]).flatten();
        names.filter_map(|name| name.parse().ok()).max().unwrap_or(0)
    }

    pub(crate) fn run(&self, context: &mut StepContext<'_>) -> Result<(), StepError> {
        for rule in &self.0 {
            let uid = rule.owner.as_deref().map(|name| id(context.machine, name, &USERS));
            let gid = rule.group.as_deref().map(|name| id(context.machine, name, &GROUPS));
            let (uid, gid) = (uid.transpose()?, gid.transpose()?);
            let matches = rule.pattern.find(context.machine)?;
            if matches.is_empty() {
                return Err(StepError::Impossible(format!(
                    "nothing in the image matches `{}`",
                    rule.text
                )));
            }
            for (path, kind) in matches {
                let to = machine::Attributes { mode: rule.mode_for(kind), uid, gid };
                if to != machine::Attributes::default() {
                    context.machine.set_attributes(&path, &to)?;
                }
            }
        }
        Ok(())
    }
}

impl AttributeRule {
    /// Returns the mode for an object. `mode` is for files, and for a directory named by a literal
    /// path. Directories matched by a pattern get `directory_mode` if it is set, or `mode` with `x`
    /// for every `r`.
    fn mode_for(&self, kind: Kind) -> Option<u32> {
        match kind {
            Kind::Symlink => None,
            Kind::Directory if self.directory_mode.is_some() => self.directory_mode,
            Kind::Directory if !self.pattern.is_literal() => {
                self.mode.map(|mode| mode & 0o777 | (mode & 0o444) >> 2)
            }
            _ => self.mode,
        }
    }
}

/// Reads an octal mode, with or without quotes and leading zero.
fn mode(node: &YamlNode) -> Result<u32, Box<Mistake>> {
    let text = node.text("a mode such as \"0640\"")?;
    let digits = text.strip_prefix("0o").unwrap_or(text);
    match u32::from_str_radix(digits, 8) {
        Ok(mode) if mode <= 0o7777 && (3..=5).contains(&digits.len()) => Ok(mode),
        _ => Err(node.mistake_with_help(
            format!("invalid mode `{text}`"),
            "write it in octal: \"0644\", or \"4755\" with setuid",
        )),
    }
}

/// A database of users or groups.
struct AccountDatabase {
    file: &'static str,
    what: &'static str,
}

const USERS: AccountDatabase = AccountDatabase { file: "/etc/passwd", what: "user" };
const GROUPS: AccountDatabase = AccountDatabase { file: "/etc/group", what: "group" };

/// Returns the number of a user or group of the image, given by name or number.
fn id(machine: &dyn Machine, name: &str, database: &AccountDatabase) -> Result<u32, StepError> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    let content = machine.read(Path::new(database.file))?.unwrap_or_default();
    let content = String::from_utf8_lossy(&content);
    for line in content.lines() {
        let mut fields = line.split(':');
        if fields.next() == Some(name)
            && let Some(Ok(number)) = fields.nth(1).map(str::parse)
        {
            return Ok(number);
        }
    }
    Err(StepError::Impossible(format!(
        "the image has no {} `{name}` in {}; a package or an earlier step must create it",
        database.what, database.file
    )))
}
