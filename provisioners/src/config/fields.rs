//! Reads the known keys of a mapping and rejects all others.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use super::error::Mistake;
use super::yaml::{YamlKey, YamlNode, YamlValue};
use super::{join, nearest};

/// A mapping whose keys are being read. [`finish`](Fields::finish) rejects the keys that were not
/// read, so the code that reads the keys defines which are valid.
#[derive(Debug)]
pub(crate) struct Fields<'a> {
    node: &'a YamlNode,
    entries: &'a [(YamlKey, YamlNode)],
    asked: RefCell<Vec<&'static str>>,
}

impl<'a> Fields<'a> {
    /// Starts to read a mapping; `what` names it in messages: "a provisioner".
    pub(crate) fn new(node: &'a YamlNode, what: &str) -> Result<Self, Box<Mistake>> {
        let entries: &[(YamlKey, YamlNode)] = match &node.value {
            YamlValue::Map(entries) => entries,
            _ if node.is_null() => &[],
            _ => {
                let problem =
                    format!("expected {what} as `key: value` lines, found {}", node.kind_name());
                return Err(node.mistake(problem));
            }
        };
        Ok(Self { node, entries, asked: RefCell::default() })
    }

    /// Returns the value of a key, if it exists and is not null.
    pub(crate) fn get(&self, name: &'static str) -> Option<&'a YamlNode> {
        self.asked.borrow_mut().push(name);
        self.entries.iter().find(|(k, _)| k.name == name).map(|(_, n)| n).filter(|n| !n.is_null())
    }

    /// Returns the value of a required key. `help` is shown if the key is missing.
    pub(crate) fn require(
        &self,
        name: &'static str,
        help: &str,
    ) -> Result<&'a YamlNode, Box<Mistake>> {
        self.get(name).ok_or_else(|| {
            match self.entries.iter().find(|(k, _)| nearest(&k.name, [name]).is_some()) {
                Some((key, _)) if key.name != name => {
                    let help = format!("did you mean `{name}`?");
                    self.node.key_mistake(key, "unknown key", Some(help))
                }
                _ => self.node.mistake_with_help(format!("the key `{name}` is missing"), help),
            }
        })
    }

    /// Reads a truth value.
    pub(crate) fn bool(&self, name: &'static str) -> Result<Option<bool>, Box<Mistake>> {
        self.get(name).map(YamlNode::bool).transpose()
    }

    /// Reads text.
    pub(crate) fn text(&self, name: &'static str) -> Result<Option<String>, Box<Mistake>> {
        self.get(name).map(|n| n.text("text").map(str::to_owned)).transpose()
    }

    /// Reads a path relative to `folder`.
    pub(crate) fn path(
        &self,
        name: &'static str,
        folder: &Path,
    ) -> Result<Option<PathBuf>, Box<Mistake>> {
        self.get(name).map(|n| n.text("a path").map(|t| join(folder, t))).transpose()
    }

    /// Rejects keys that were not read.
    pub(crate) fn finish(self) -> Result<(), Box<Mistake>> {
        let mut asked = self.asked.into_inner();
        asked.sort_unstable();
        asked.dedup();
        match self.entries.iter().find(|(k, _)| !asked.contains(&k.name.as_str())) {
            None => Ok(()),
            Some((key, _)) => {
                let help = match nearest(&key.name, asked.iter().copied()) {
                    Some(name) => format!("did you mean `{name}`?"),
                    None => format!("valid keys are {}", asked.join(", ")),
                };
                Err(self.node.key_mistake(key, "unknown key", Some(help)))
            }
        }
    }
}
