//! Which lints are asked for, and which findings are silenced.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use provisioners::{Pattern, nearest};

use super::{Finding, GROUPS, Lint, lints};

/// A name that is neither a lint's nor a group's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no lint `{name}`: {help}")]
pub struct UnknownLint {
    name: String,
    help: String,
}

/// A finding that is known, and is to be told no more.
#[derive(Clone, Debug)]
pub struct Suppression {
    /// The lint, or a group of them.
    pub lint: String,
    /// Where; everywhere without it.
    pub path: Option<Pattern>,
    /// Why.
    pub reason: String,
}

/// Which lints are asked for, and what is not to be told. By default all are.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    only: Vec<String>,
    skip: Vec<String>,
    suppressions: Vec<Suppression>,
}

/// What a judged overlay may take, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    /// Of the archive.
    pub size: Option<u64>,
    /// Of memory, once it is unpacked.
    pub ram: Option<u64>,
}

impl Selection {
    /// Those of `only`, or all if it is empty, without those of `skip`; each is the name of a lint
    /// or of a group.
    ///
    /// # Errors
    /// A name that there is not.
    pub fn new(
        only: Vec<String>,
        skip: Vec<String>,
        suppressions: Vec<Suppression>,
    ) -> Result<Selection, UnknownLint> {
        let mut named =
            only.iter().chain(&skip).chain(suppressions.iter().map(|suppression| &suppression.lint));
        named.try_for_each(|name| known(name))?;
        Ok(Selection { only, skip, suppressions })
    }

    /// Whether a lint is asked for.
    pub fn wants(&self, lint: &Lint) -> bool {
        let named = |names: &[String]| names.iter().any(|name| is(name, lint));
        (self.only.is_empty() || named(&self.only)) && !named(&self.skip)
    }

    pub(super) fn suppressions(&self) -> &[Suppression] {
        &self.suppressions
    }

    /// Whether there could have been something to silence: not where a lint of it could not run.
    pub(super) fn looks_for(&self, suppression: &Suppression, not_run: &[&str]) -> bool {
        let mut suppressed =
            lints().filter(|lint| is(&suppression.lint, lint) && self.wants(lint)).peekable();
        suppressed.peek().is_some() && suppressed.all(|lint| !not_run.contains(&lint.name))
    }

    /// What silences a finding, and its place.
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

/// Whether `name` is that of the lint or of its group.
fn is(name: &str, lint: &Lint) -> bool {
    name == lint.name || name == lint.group()
}

fn known(name: &str) -> Result<(), UnknownLint> {
    let names = || lints().map(|lint| lint.name).chain(GROUPS.iter().map(|(group, _)| *group));
    if names().any(|known| known == name) {
        return Ok(());
    }
    // Who leaves out the group, or takes it for another, means that lint.
    fn last(name: &str) -> &str {
        name.rsplit('/').next().unwrap_or_default()
    }
    let lint = |lint: &str| names().find(|known| last(known) == lint);
    // Or writes no more of it than the beginning.
    let begins = |known: &&str| name.len() > 2 && last(known).starts_with(name);
    let near = names()
        .find(begins)
        .or_else(|| nearest(name, names()))
        .or_else(|| nearest(last(name), names().map(last)).and_then(lint));
    let help = match lint(last(name)).or(near) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "`overcoat check --list` shows all".to_owned(),
    };
    Err(UnknownLint { name: name.to_owned(), help })
}
