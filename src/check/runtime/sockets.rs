//! Lint of sockets, which are useless without the program that created them.

use fs_model::attr::FileType;

use super::lints::SOCKET;
use crate::check::context::CheckContext;
use crate::check::{Findings, PassError};

pub(super) fn sockets(
    context: &CheckContext<'_>,
    findings: &mut Findings<'_>,
) -> Result<(), PassError> {
    for entry in &context.difference()?.overlaid {
        let node = &entry.node;
        if node.attr.kind == FileType::Socket && entry.lower.is_none() {
            findings.add(&SOCKET, context.layer_name(node), &node.path, "no program listens on it");
        }
    }
    Ok(())
}
