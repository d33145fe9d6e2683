//! Marks of containers in a root that is to boot on a machine.

use super::lints::CONTAINER;
use crate::check::context::Context;
use crate::check::{Findings, Stopped};
use crate::import::marks::mark;

pub(super) fn marks(context: &Context<'_>, findings: &mut Findings<'_>) -> Result<(), Stopped> {
    for brought in &context.difference()?.brought {
        let node = &brought.node;
        if brought.before.is_none()
            && let Some(mark) = mark(&node.path)
        {
            findings.add(&CONTAINER, context.layer(node), &node.path, mark.meaning);
        }
    }
    Ok(())
}
