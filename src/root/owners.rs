//! Warnings about owners: those that a root showed as aliases, and those of copied host files.

use fs_model::delta::{Change, Delta, DeltaEntry, Object};

use crate::fuse::{CopiedFiles, ForeignOwners, OVERFLOW_ID};
use crate::sandbox::widening_command;
use crate::text::escape::escape;
use crate::text::list;

/// Returns a warning about copies of host files that belong to the user 65534, or to root and the
/// group 65534, in a build without root privileges. Host files are shown with this owner, so copies
/// that preserve the owner get it.
pub(super) fn copied_owner_warning(delta: &Delta, copies: &CopiedFiles) -> Option<String> {
    if rustix::process::geteuid().is_root() {
        return None;
    }
    let is_copy = |entry: &&DeltaEntry| {
        let object = entry.object.filter(|_| entry.change == Change::Added);
        object.is_some_and(|Object { ino, attr }| {
            (attr.uid == OVERFLOW_ID || attr.uid == 0 && attr.gid == OVERFLOW_ID)
                && copies.contains(ino, attr.mtime)
        })
    };
    let found = delta.entries.iter().filter(is_copy);
    let paths: Vec<String> = found.map(|entry| format!("/{}", escape(&entry.path))).collect();
    if paths.is_empty() {
        return None;
    }
    Some(format!(
        "{}: owned by 65534 (nobody): without root privileges, host files (--bind) have this owner \
         in the root, and so have copies that preserve the owner; if that is wrong, copy without \
         the owner (cp without -a) or set it",
        list::joined(paths.into_iter(), 1)
    ))
}

/// Returns warnings about owners that were shown in the root as aliases.
pub(crate) fn foreign_owner_warnings(owners: Option<ForeignOwners>) -> Vec<String> {
    let Some(owners) = owners else { return Vec::new() };
    let pair = |select: fn((u32, u32)) -> u32| match (owners.user, owners.group) {
        (Some(user), Some(group)) => format!("{}:{}", select(user), select(group)),
        (Some(user), None) => select(user).to_string(),
        (None, Some(group)) => format!(":{}", select(group)),
        (None, None) => String::new(),
    };
    let (actual, alias) = (pair(|(actual, _)| actual), pair(|(_, alias)| alias));
    let first = owners.path.as_deref();
    let first = first.map_or(String::new(), |path| format!(" (first at /{})", escape(path)));
    let max = owners.max;
    let widen = match widening_command(max, owners.highest) {
        Some(command) => format!(", or map them, as root: {command}"),
        None => String::new(),
    };
    let mut warnings = vec![format!(
        "owners such as {actual}{first} are above your range of subordinate ids, which ends at \
         {max}, so programs in the root saw aliases such as {alias}; the artifact has the actual \
         owners, but ids that programs wrote into files, such as tar archives, are the aliases; \
         to show them the actual owners, use --privilege none{widen}"
    )];
    if owners.overflowed {
        warnings.push(
            "there were more such owners than aliases: the rest were shown as 65534, and changing \
             an owner to 65534 failed with EOVERFLOW"
                .to_owned(),
        );
    }
    warnings
}
