//! Lint of files without SELinux labels (selinux(8)).

use super::lints::SELINUX;
use crate::check::context::{CheckContext, read_text};
use crate::check::{Finding, Findings, PassError};

const LABEL: &[u8] = b"security.selinux";

pub(super) fn labels(
    context: &CheckContext<'_>,
    findings: &mut Findings<'_>,
) -> Result<(), PassError> {
    let view = &context.roots()?.view;
    let config = read_text(view, "etc/selinux/config")?;
    let mode = config.lines().filter_map(|line| line.trim().strip_prefix("SELINUX=")).next_back();
    if mode.is_none_or(|mode| mode.trim() != "enforcing") {
        return Ok(());
    }
    let mut seen = Vec::new();
    for entry in &context.difference()?.overlaid {
        let layer = entry.node.layer();
        if !entry.node.is_file() || seen.contains(&layer) {
            continue;
        }
        if view.xattrs(&entry.node)?.iter().all(|(name, _)| **name != *LABEL) {
            seen.push(layer);
            let name = context.layer_name(&entry.node);
            let message = "this file, and probably others, has no label";
            findings.push(Finding::new(&SELINUX, name, Some(&entry.node.path), message));
        }
    }
    Ok(())
}
