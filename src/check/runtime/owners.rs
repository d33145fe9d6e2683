//! Lint of files whose owner has no account in the merged root.

use std::collections::{BTreeMap, BTreeSet};

use super::lints::OWNER;
use crate::check::context::CheckContext;
use crate::check::{Findings, PassError};

pub(super) fn owners(
    context: &CheckContext<'_>,
    findings: &mut Findings<'_>,
) -> Result<(), PassError> {
    let accounts = context.accounts()?;
    // A root without accounts is not that of a machine: it is incomplete, or for a container.
    if accounts.users().is_empty() {
        return Ok(());
    }
    let id_set = |ids: &BTreeMap<String, u32>| ids.values().copied().collect::<BTreeSet<u32>>();
    let (users, groups) = (id_set(accounts.users()), id_set(accounts.groups()));
    // By layer and owner: the first path, and the number of paths.
    let mut unknown: BTreeMap<(&str, &str, u32), (&[u8], usize)> = BTreeMap::new();
    for entry in &context.difference()?.overlaid {
        let (node, attr) = (&entry.node, &entry.node.attr);
        let before = entry.lower.as_ref().map(|before| (before.attr.uid, before.attr.gid));
        if before == Some((attr.uid, attr.gid)) {
            continue;
        }
        let layer = context.layer_name(node);
        for (what, id, known) in [("user", attr.uid, &users), ("group", attr.gid, &groups)] {
            if id != 0 && !known.contains(&id) {
                unknown.entry((layer, what, id)).or_insert((&node.path, 0)).1 += 1;
            }
        }
    }
    for ((layer, what, id), (path, count)) in unknown {
        let more = match count - 1 {
            0 => String::new(),
            more => format!(", and {more} more paths"),
        };
        let message = format!("{what} id {id} has no account{more}");
        findings.add(&OWNER, layer, path, message);
    }
    Ok(())
}
