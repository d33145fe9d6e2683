//! What a project says of how its images are judged (`overcoat check`): what is not to be told, and
//! what they may take. The names of lints are not known here.

use super::{Fields, Mistake, Node, size};
use crate::glob::Pattern;

/// How an image is judged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Check {
    /// What is known, and not to be told.
    pub skip: Vec<Skip>,
    /// The most bytes that the archive may have.
    pub size: Option<u64>,
    /// The most bytes of memory that it may take, unpacked.
    pub ram: Option<u64>,
}

/// A finding that is known, and why it is not to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skip {
    /// The lint, or a group of them.
    pub lint: String,
    /// Where; everywhere without it.
    pub path: Option<Pattern>,
    /// Why.
    pub reason: String,
}

impl Check {
    pub(super) fn of(node: Option<&Node>) -> Result<Self, Box<Mistake>> {
        let Some(node) = node else { return Ok(Self::default()) };
        let fields = Fields::of(node, "how images are judged")?;
        let skip = match fields.get("skip") {
            Some(node) => node.list()?.iter().map(Skip::of).collect::<Result<_, _>>()?,
            None => Vec::new(),
        };
        let mut check = Self { skip, size: None, ram: None };
        if let Some(node) = fields.get("budget") {
            let budget = Fields::of(node, "a budget")?;
            check.size = budget.get("size").map(size).transpose()?;
            check.ram = budget.get("ram").map(size).transpose()?;
            budget.finish()?;
        }
        fields.finish()?;
        Ok(check)
    }

    /// What is said of one image, beside what is said of all.
    pub(super) fn beside(self, all: &Check) -> Check {
        let skip = self.skip.into_iter().chain(all.skip.iter().cloned()).collect();
        Check { skip, size: self.size.or(all.size), ram: self.ram.or(all.ram) }
    }
}

impl Skip {
    fn of(node: &Node) -> Result<Self, Box<Mistake>> {
        const HELP: &str = "write `lint:`, and why it is not to be told as `reason:`";
        let fields = Fields::of(node, "a lint and a reason")?;
        let lint = fields.require("lint", HELP)?.text("the name of a lint")?.to_owned();
        let reason = fields.require("reason", HELP)?;
        let text = reason.text("why it is not to be told")?.trim().to_owned();
        if text.is_empty() {
            return Err(reason.wrong_with("there is no reason", "write why it is not to be told"));
        }
        let path = fields.get("path").map(|node| {
            let path = node.text("a path or a pattern")?;
            Pattern::parse(path).map_err(|problem| node.wrong(problem))
        });
        let path = path.transpose()?;
        fields.finish()?;
        Ok(Self { lint, path, reason: text })
    }
}
