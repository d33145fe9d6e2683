//! The enabled lints and the suppressions.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use provisioners::{Pattern, nearest};

use super::{Finding, GROUPS, Lint, lints};

/// Error for a name that is neither a lint nor a group.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown lint `{name}`: {help}")]
pub struct UnknownLint {
    name: String,
    help: String,
}

/// A rule that suppresses known findings.
#[derive(Clone, Debug)]
pub struct Suppression {
    /// Name of a lint or a group.
    pub lint: String,
    /// Paths that the suppression applies to; `None` for all findings.
    pub path: Option<Pattern>,
    /// The user's reason.
    pub reason: String,
}

/// The enabled lints and the suppressions. By default all lints are enabled.
#[derive(Clone, Debug, Default)]
pub struct LintSelection {
    only: Vec<String>,
    skip: Vec<String>,
    suppressions: Vec<Suppression>,
}

/// Size limits of a checked stack, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OverlayBudget {
    /// Maximum size of an overlay's archive.
    pub size: Option<u64>,
    /// Maximum memory of the unpacked overlays.
    pub ram: Option<u64>,
    /// Memory of the smallest machine that boots the images.
    pub machine: Option<u64>,
}

impl LintSelection {
    /// Selects the lints in `only`, or all lints if it is empty, without those in `skip`. Each name
    /// is that of a lint or a group.
    ///
    /// # Errors
    /// Fails if a name is unknown.
    pub fn new(
        only: Vec<String>,
        skip: Vec<String>,
        suppressions: Vec<Suppression>,
    ) -> Result<LintSelection, UnknownLint> {
        let mut named = only
            .iter()
            .chain(&skip)
            .chain(suppressions.iter().map(|suppression| &suppression.lint));
        named.try_for_each(|name| check_name(name))?;
        Ok(LintSelection { only, skip, suppressions })
    }

    /// Returns whether a lint is enabled.
    pub fn wants(&self, lint: &Lint) -> bool {
        let named = |names: &[String]| names.iter().any(|name| is(name, lint));
        (self.only.is_empty() || named(&self.only)) && !named(&self.skip)
    }

    pub(super) fn suppressions(&self) -> &[Suppression] {
        &self.suppressions
    }

    /// Returns whether the suppression could have matched: some of its lints are enabled, and all
    /// of these ran.
    pub(super) fn could_match(&self, suppression: &Suppression, not_run: &[&str]) -> bool {
        let mut lints =
            lints().filter(|lint| is(&suppression.lint, lint) && self.wants(lint)).peekable();
        lints.peek().is_some() && lints.all(|lint| !not_run.contains(&lint.name))
    }

    /// Returns the first suppression that matches a finding, with its index.
    pub(super) fn suppression(&self, finding: &Finding) -> Option<(usize, &Suppression)> {
        let matches = |suppression: &&Suppression| {
            let here = match (&suppression.path, &finding.path) {
                (None, _) => true,
                (Some(pattern), Some(path)) => {
                    pattern.matches(Path::new(std::ffi::OsStr::from_bytes(path)))
                }
                (Some(_), None) => false,
            };
            here && is(&suppression.lint, finding.lint)
        };
        let index = self.suppressions.iter().position(|suppression| matches(&suppression))?;
        Some((index, &self.suppressions[index]))
    }
}

/// Returns whether `name` names the lint or its group.
fn is(name: &str, lint: &Lint) -> bool {
    name == lint.name || name == lint.group()
}

fn check_name(name: &str) -> Result<(), UnknownLint> {
    let names = || lints().map(|lint| lint.name).chain(GROUPS.iter().map(|(group, _)| *group));
    if names().any(|known| known == name) {
        return Ok(());
    }
    // The right lint with a missing or a wrong group.
    fn last(name: &str) -> &str {
        name.rsplit('/').next().unwrap_or_default()
    }
    let lint = |lint: &str| names().find(|known| last(known) == lint);
    // A prefix of a lint's name.
    let begins = |known: &&str| name.len() > 2 && last(known).starts_with(name);
    let near = names()
        .find(begins)
        .or_else(|| nearest(name, names()))
        .or_else(|| nearest(last(name), names().map(last)).and_then(lint));
    let help = match lint(last(name)).or(near) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "run `overcoat check --list` for a list".to_owned(),
    };
    Err(UnknownLint { name: name.to_owned(), help })
}
