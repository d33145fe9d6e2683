//! Config files that no image is made of, and what the user has to do about them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::tree::ImagebuilderTree;
use super::wrappers::WrapperRole;
use super::{ImportError, Note};
use crate::ansible::review::RoleReview;
use crate::config::ConfigError;

/// A config file that no image is made of.
#[derive(Debug)]
pub(super) struct LeftOut {
    pub(super) reason: String,
    /// The line with the reason, from 1.
    line: Option<usize>,
    /// What to do about it; `None` if it may be left out.
    to_do: Option<String>,
    /// The names of its variables, if it names no provisioner.
    variables: Vec<String>,
}

impl LeftOut {
    /// Creates the reason for a file that the user has to change.
    pub(super) fn with_mistake(reason: impl Into<String>, to_do: &str) -> Self {
        Self { reason: reason.into(), line: None, to_do: Some(to_do.into()), variables: Vec::new() }
    }

    /// Creates the reason for a file that cannot be parsed.
    pub(super) fn from_error(error: &ConfigError) -> Self {
        let to_do = "correct it";
        match error {
            ConfigError::Mistake(mistake) => {
                let reason = format!("line {}: {}", mistake.line, mistake.problem);
                Self { line: Some(mistake.line), ..Self::with_mistake(reason, to_do) }
            }
            error => Self::with_mistake(error.to_string(), to_do),
        }
    }

    /// Creates the reason for a file without a provisioner.
    pub(super) fn without_provisioner(variables: Vec<String>) -> Self {
        let reason = "it names no provisioner; to make an image of it, write `provisioner: \
                      roles/overlay/NAME` in it";
        Self { reason: reason.to_owned(), line: None, to_do: None, variables }
    }
}

/// Adds a note about each file that the user has to change, and explains why the others are left
/// out.
pub(super) fn explain(
    tree: &mut ImagebuilderTree,
    notes: &mut Vec<Note>,
) -> Result<(), ImportError> {
    for (file, left_out) in &tree.left_out {
        if let Some(to_do) = &left_out.to_do {
            let problem = match left_out.line {
                Some(_) => left_out.reason.split_once(": ").map_or("", |(_, problem)| problem),
                None => &left_out.reason,
            };
            let text =
                format!("left out: {problem}; {to_do}, then add it with `overcoat import --add`");
            notes.push(Note { line: left_out.line, ..Note::of_file(file, text) });
        }
    }
    let mut reasons = Vec::new();
    for (file, left_out) in &tree.left_out {
        reasons.extend(reason_by_roles(tree, &left_out.variables)?.map(|r| (file.clone(), r)));
    }
    for (file, reason) in reasons {
        if let Some(left_out) = tree.left_out.get_mut(&file) {
            left_out.reason = reason;
        }
    }
    Ok(())
}

/// Returns the reason to leave out variables if only roles use them that playbooks run on the host.
fn reason_by_roles(
    tree: &ImagebuilderTree,
    variables: &[String],
) -> Result<Option<String>, ImportError> {
    if variables.is_empty() {
        return Ok(None);
    }
    let mut roles: Vec<(&Path, &WrapperRole)> = Vec::new();
    for role in &tree.roles {
        let review = RoleReview::read(&tree.folder.join(role))?;
        let used: BTreeSet<&str> = review.used_names().collect();
        if variables.iter().any(|name| used.contains(name.as_str())) {
            match tree.wrappers.roles.get(role) {
                Some(wrapper) => roles.push((role, wrapper)),
                None => return Ok(None),
            }
        }
    }
    let [(role, wrapper)] = roles.as_slice() else { return Ok(None) };
    let playbook: &PathBuf = &wrapper.playbook;
    Ok(Some(format!(
        "it sets variables that only {} uses, which {} runs on the host",
        role.display(),
        playbook.display()
    )))
}
