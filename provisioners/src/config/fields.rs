//! Takes the known keys out of a mapping; what is left is a mistake.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use super::error::Mistake;
use super::yaml::{Key, Node, Value};
use super::{join, nearest};

/// A mapping whose keys are being read. [`finish`](Fields::finish) refuses those nobody asked for,
/// so the list of valid keys is the code that reads them.
#[derive(Debug)]
pub(crate) struct Fields<'a> {
    node: &'a Node,
    entries: &'a [(Key, Node)],
    asked: RefCell<Vec<&'static str>>,
}

impl<'a> Fields<'a> {
    /// The fields of a mapping; `what` names it in a message: "a provisioner".
    pub(crate) fn of(node: &'a Node, what: &str) -> Result<Self, Box<Mistake>> {
        let entries: &[(Key, Node)] = match &node.value {
            Value::Map(entries) => entries,
            _ if node.is_null() => &[],
            _ => {
                let problem =
                    format!("expected {what} as `key: value` lines, found {}", node.what());
                return Err(node.wrong(problem));
            }
        };
        Ok(Self { node, entries, asked: RefCell::default() })
    }

    /// The value of a key, if it is there and not null.
    pub(crate) fn get(&self, name: &'static str) -> Option<&'a Node> {
        self.asked.borrow_mut().push(name);
        self.entries.iter().find(|(k, _)| k.name == name).map(|(_, n)| n).filter(|n| !n.is_null())
    }

    /// Like [`get`](Self::get), for a key that has to be there.
    pub(crate) fn require(&self, name: &'static str, help: &str) -> Result<&'a Node, Box<Mistake>> {
        self.get(name).ok_or_else(|| {
            match self.entries.iter().find(|(k, _)| nearest(&k.name, [name]).is_some()) {
                Some((key, _)) if key.name != name => {
                    let help = format!("did you mean `{name}`?");
                    self.node.wrong_key(key, "unknown key", Some(help))
                }
                _ => self.node.wrong_with(format!("the key `{name}` is missing"), help),
            }
        })
    }

    /// A truth value.
    pub(crate) fn bool(&self, name: &'static str) -> Result<Option<bool>, Box<Mistake>> {
        self.get(name).map(Node::bool).transpose()
    }

    /// Text.
    pub(crate) fn text(&self, name: &'static str) -> Result<Option<String>, Box<Mistake>> {
        self.get(name).map(|n| n.text("text").map(str::to_owned)).transpose()
    }

    /// A path, relative to `folder`.
    pub(crate) fn path(
        &self,
        name: &'static str,
        folder: &Path,
    ) -> Result<Option<PathBuf>, Box<Mistake>> {
        self.get(name).map(|n| n.text("a path").map(|t| join(folder, t))).transpose()
    }

    /// Refuses the keys that nobody asked for.
    pub(crate) fn finish(self) -> Result<(), Box<Mistake>> {
        let mut asked = self.asked.into_inner();
        asked.sort_unstable();
        asked.dedup();
        match self.entries.iter().find(|(k, _)| !asked.contains(&k.name.as_str())) {
            None => Ok(()),
            Some((key, _)) => {
                let help = match nearest(&key.name, asked.iter().copied()) {
                    Some(name) => format!("did you mean `{name}`?"),
                    None => format!("the keys here are {}", asked.join(", ")),
                };
                Err(self.node.wrong_key(key, "unknown key", Some(help)))
            }
        }
    }
}
