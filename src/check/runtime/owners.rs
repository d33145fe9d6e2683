//! Lint of files whose owner has no account in the merged root.

use std::collections::{BTreeMap, BTreeSet};

use super::lints::OWNER;
use crate::check::context::CheckContext;
use crate::check::{Findings, PassError};
use crate::text::escape::escape;
use crate::text::list;

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
    // By layer and owner.
    let mut unknown: BTreeMap<(&str, &str, u32), Vec<&[u8]>> = BTreeMap::new();
    for entry in &context.difference()?.overlaid {
        let (node, attr) = (&entry.node, &entry.node.attr);
        let before = entry.lower.as_ref().map(|before| (before.attr.uid, before.attr.gid));
        if before == Some((attr.uid, attr.gid)) {
            continue;
        }
        let layer = context.layer_name(node);
        for (what, id, known) in [("user", attr.uid, &users), ("group", attr.gid, &groups)] {
            if id != 0 && !known.contains(&id) {
                unknown.entry((layer, what, id)).or_default().push(&node.path);
            }
        }
    }
    for ((layer, what, id), paths) in unknown {
        let mut message = format!("{what} id {id} has no account");
        if paths.len() > 1 {
            let others = paths[1..].iter().map(|path| format!("/{}", escape(path)));
            message.push_str(&format!(", also of {}", list::joined(others, 1)));
        }
        findings.add(&OWNER, layer, paths[0], message);
    }
    Ok(())
}
