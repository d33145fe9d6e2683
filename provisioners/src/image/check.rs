//! Settings of `overcoat check` in image and project files: suppressions and budgets. The names of
//! lints are not checked here.

use std::path::{Path, PathBuf};

use super::values::size;
use crate::config::error::Mistake;
use crate::config::join;
use crate::config::{Fields, YamlNode};
use crate::glob::Pattern;

/// Settings of `overcoat check` for an image.
#[derive(Debug, Clone, Default)]
pub struct CheckSettings {
    /// Suppressed findings.
    pub skip: Vec<Skip>,
    /// Maximum size of the archive, in bytes.
    pub size: Option<u64>,
    /// Maximum memory of the unpacked archive, in bytes.
    pub ram: Option<u64>,
    /// Memory of the smallest machine that boots the image, in bytes.
    pub machine: Option<u64>,
    /// Files and directories of tests.
    pub tests: Vec<PathBuf>,
}

/// A suppression of findings.
#[derive(Debug, Clone)]
pub struct Skip {
    /// The lint or group of lints.
    pub lint: String,
    /// The paths that the suppression applies to; `None` for all.
    pub path: Option<Pattern>,
    /// The reason for the suppression.
    pub reason: String,
}

impl CheckSettings {
    pub(super) fn parse(node: Option<&YamlNode>, folder: &Path) -> Result<Self, Box<Mistake>> {
        let Some(node) = node else { return Ok(Self::default()) };
        let fields = Fields::new(node, "settings of checks")?;
        let skip = match fields.get("skip") {
            Some(node) => node.list()?.iter().map(Skip::parse).collect::<Result<_, _>>()?,
            None => Vec::new(),
        };
        let tests = fields.get("tests").map_or(Ok(&[][..]), YamlNode::list)?.iter();
        let tests = tests.map(|node| Ok(join(folder, node.text("the path of tests")?)));
        let tests = tests.collect::<Result<_, Box<Mistake>>>()?;
        let mut check = Self { skip, tests, ..Self::default() };
        if let Some(node) = fields.get("budget") {
            let budget = Fields::new(node, "a budget")?;
            check.size = budget.get("size").map(size).transpose()?;
            check.ram = budget.get("ram").map(size).transpose()?;
            check.machine = budget.get("machine").map(size).transpose()?;
            budget.finish()?;
        }
        fields.finish()?;
        Ok(check)
    }

    /// Adds the settings for all images. Budgets of the image take precedence.
    pub(super) fn merged_with(self, all: &CheckSettings) -> CheckSettings {
        let skip = self.skip.into_iter().chain(all.skip.iter().cloned()).collect();
        let tests = self.tests.into_iter().chain(all.tests.iter().cloned()).collect();
        CheckSettings {
            skip,
            tests,
            size: self.size.or(all.size),
            ram: self.ram.or(all.ram),
            machine: self.machine.or(all.machine),
        }
    }
}

impl Skip {
    fn parse(node: &YamlNode) -> Result<Self, Box<Mistake>> {
        const HELP: &str = "write `lint:`, and the reason for the suppression as `reason:`";
        let fields = Fields::new(node, "a lint and a reason")?;
        let lint = fields.require("lint", HELP)?.text("the name of a lint")?.to_owned();
        let reason = fields.require("reason", HELP)?;
        let text = reason.text("the reason for the suppression")?.trim().to_owned();
        if text.is_empty() {
            return Err(
                reason.mistake_with_help("the reason is empty", "write why it is suppressed")
            );
        }
        let path = fields.get("path").map(|node| {
            let path = node.text("a path or a pattern")?;
            Pattern::parse(path).map_err(|problem| node.mistake(problem))
        });
        let path = path.transpose()?;
        fields.finish()?;
        Ok(Self { lint, path, reason: text })
    }
}
