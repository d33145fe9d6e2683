//! The steps that remove or purge packages.
//!
//! Removing a package that is not installed is an error, because it is usually a mistake.

use std::path::Path;

use super::packages::{apt, check_name, require_apt};
use super::{StepContext, StepError};
use crate::config::error::Mistake;
use crate::config::{Fields, YamlNode, YamlValue, nearest};
use crate::evaluate::WHEN_KEY;

/// dpkg's database of packages.
const DPKG_STATUS: &str = "/var/lib/dpkg/status";

/// Packages to remove.
#[derive(Debug, Clone)]
pub(crate) struct Removal {
    names: Vec<String>,
    purge: bool,
}

impl Removal {
    /// Reads a list of names.
    pub(crate) fn parse(node: &YamlNode, purge: bool) -> Result<Self, Box<Mistake>> {
        let name = |node: &YamlNode| {
            let mut node = node;
            if let YamlValue::Map(_) = node.value {
                let fields = Fields::new(node, "a package")?;
                fields.get(WHEN_KEY);
                node = fields.require("name", "write `{name: nano, when: small}`")?;
                fields.finish()?;
            }
            let text = check_name(node, node.text("the name of a package")?)?;
            if text.contains(['=', '/']) || text.ends_with(".deb") {
                return Err(node.mistake_with_help(
                    "expected a package name only",
                    "leave out version and suffix",
                ));
            }
            Ok(text.to_owned())
        };
        Ok(Self { names: node.list()?.iter().map(name).collect::<Result<_, _>>()?, purge })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    pub(crate) fn name(&self) -> String {
        format!("{} packages ({})", self.action(), self.names.len())
    }

    fn action(&self) -> &'static str {
        if self.purge { "purge" } else { "remove" }
    }

    pub(crate) fn run(&self, context: &mut StepContext<'_>) -> Result<(), StepError> {
        require_apt(context.machine)?;
        let status = context.machine.read(Path::new(DPKG_STATUS))?.unwrap_or_default();
        let there = removable(&String::from_utf8_lossy(&status), self.purge);
        for name in &self.names {
            let bare = name.split(':').next().unwrap_or_default();
            if !there.iter().any(|package| package == bare) {
                let near = nearest(bare, there.iter().map(String::as_str));
                let near = near.map(|n| format!("; did you mean `{n}`?")).unwrap_or_default();
                return Err(StepError::Impossible(format!(
                    "the package `{name}` is not installed{near}"
                )));
            }
        }
        context
            .command(&format!("apt-get {}", self.action()), &apt(self.action()).args(&self.names))
    }
}

/// Returns the packages that can be removed: those that are installed, and for a purge also those
/// of which only configuration files are left.
fn removable(status: &str, purge: bool) -> Vec<String> {
    let mut found = Vec::new();
    let mut name = "";
    for line in status.lines() {
        if let Some(value) = line.strip_prefix("Package: ") {
            name = value.trim();
        } else if let Some(value) = line.strip_prefix("Status: ") {
            let state = value.trim().rsplit(' ').next().unwrap_or_default();
            if state != "not-installed" && (purge || state != "config-files") {
                found.push(name.to_owned());
            }
        }
    }
    found
}
