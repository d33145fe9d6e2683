//! Lint of container marker files.

use super::lints::CONTAINER;
use crate::check::context::CheckContext;
use crate::check::{Findings, PassError};
use crate::root::import::container_files::mark;

pub(super) fn marks(
    context: &CheckContext<'_>,
    findings: &mut Findings<'_>,
) -> Result<(), PassError> {
    for entry in &context.difference()?.overlaid {
        let node = &entry.node;
        if entry.lower.is_none()
            && let Some(mark) = mark(&node.path)
        {
            findings.add(&CONTAINER, context.layer_name(node), &node.path, mark.meaning);
        }
    }
    Ok(())
}
