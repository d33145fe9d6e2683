//! Lints of symbolic links: those that overlays add, and those whose target an overlay removes.

use std::collections::BTreeMap;

use fs_model::tree::Follow;

use super::is_elsewhere;
use super::lints::{ALTERNATIVE, DANGLING_LINK, ESCAPING_LINK};
use super::units::is_dependency_link;
use crate::check::context::{CheckContext, MAX_LINKS, OverlayEntry, link_target_path, resolve};
use crate::check::{Finding, Findings, PassError, Severity};
use crate::image::view::{LookError, StackView, ViewNode, WalkControl};
use crate::text::escape::escape;

/// Directories whose contents exist only on a running machine.
const RUNTIME_DIRS: [&[u8]; 8] =
    [b"run", b"proc", b"sys", b"dev", b"tmp", b"var/run", b"var/lock", b"var/tmp"];
/// Directories that clean-up empties: dangling links into them are harmless.
const CLEANED_DIRS: [&[u8]; 4] =
    [b"usr/share/man", b"usr/share/doc", b"usr/share/info", b"usr/share/locale"];
/// Files that a machine cannot work without.
pub(super) const NEEDED: [&[u8]; 7] = [
    b"usr/sbin/init",
    b"sbin/init",
    b"usr/bin/sh",
    b"bin/sh",
    b"etc/passwd",
    b"etc/group",
    b"var/lib/dpkg/status",
];
/// The default target. systemd has another one in /usr/lib, but a dangling link hides it.
const DEFAULT_TARGET: &[u8] = b"etc/systemd/system/default.target";
const ALTERNATIVES: &[u8] = b"etc/alternatives/";

pub(super) fn links(
    context: &CheckContext<'_>,
    findings: &mut Findings<'_>,
) -> Result<(), PassError> {
    let roots = context.roots()?;
    let difference = context.difference()?;
    let mut found = DanglingLinks::new();
    for entry in &difference.overlaid {
        let node = &entry.node;
        if !node.is_link() {
            continue;
        }
        let target = roots.view.link(node)?;
        // The same link dangles in the lower layers.
        if let (Some(before), Some(lower)) = (&entry.lower, &roots.lower)
            && before.is_link()
            && lower.link(before)? == target
            && dangles(lower, before, &target)?
        {
            continue;
        }
        let layer = context.layer_name(node);
        if climbs(node, &target) {
            let message = format!("its target is {}", escape(&target));
            findings.add(&ESCAPING_LINK, layer, &node.path, message);
        }
        if dangles(&roots.view, node, &target)? {
            let next = next(&roots.view, node, &target)?;
            let finding = dangling(node, &target).attributed_to(vec![layer.to_owned()]);
            found.insert(node.path.clone(), (next, finding));
        }
    }
    broken_lower_links(context, &mut found)?;
    // Of a chain of dangling links only the last one is reported.
    let is_last = |path: &Vec<u8>| {
        let mut at = path;
        for _ in 0..MAX_LINKS {
            match found.get(at) {
                Some((Some(next), _)) if found.contains_key(next) => at = next,
                _ => return at == path,
            }
        }
        true
    };
    let last: Vec<bool> = found.keys().map(is_last).collect();
    let finding = |((_, finding), is_last): ((_, Finding), bool)| is_last.then_some(finding);
    found.into_values().zip(last).filter_map(finding).for_each(|finding| findings.push(finding));
    Ok(())
}

/// Dangling links by path, each with the path of its immediate target if that exists.
type DanglingLinks = BTreeMap<Vec<u8>, (Option<Vec<u8>>, Finding)>;

/// Finds links of the lower layers whose target an overlay removed.
fn broken_lower_links(
    context: &CheckContext<'_>,
    found: &mut DanglingLinks,
) -> Result<(), PassError> {
    let roots = context.roots()?;
    let difference = context.difference()?;
    // Without removed paths and changed links or directories no lower link can break.
    let Some(lower) = &roots.lower else { return Ok(()) };
    let redirects = difference.overlaid.iter().any(|OverlayEntry { node, lower }| {
        let differs = |before: &ViewNode| before.is_dir() != node.is_dir();
        lower.as_ref().is_some_and(|b| differs(b) || b.is_link() || node.is_link())
    });
    if difference.removed.is_empty() && !redirects {
        return Ok(());
    }
    roots.view.walk::<PassError>(&roots.view.root()?, &mut |node| {
        if node.is_link() && node.layer() < context.first_checked() {
            let target = roots.view.link(node)?;
            if dangles(&roots.view, node, &target)? && !dangles(lower, node, &target)? {
                let message = format!("the overlay removes its target {}", escape(&target));
                let responsible_layers =
                    context.responsible_layers(std::slice::from_ref(&node.path))?;
                let finding = Finding { message, ..dangling(node, &target) }
                    .attributed_to(responsible_layers);
                let next = next(&roots.view, node, &target)?;
                found.insert(node.path.clone(), (next, finding));
            }
        }
        Ok(WalkControl::Into)
    })?;
    Ok(())
}

fn dangling(node: &ViewNode, target: &[u8]) -> Finding {
    let of_alternative = node.path.starts_with(ALTERNATIVES)
        || link_target_path(&node.path, target).starts_with(ALTERNATIVES);
    let lint = if of_alternative { &ALTERNATIVE } else { &DANGLING_LINK };
    let message = format!("its target {} does not exist", escape(target));
    let finding = Finding::new(lint, "", Some(&node.path), message);
    // The machine does not boot without these.
    match NEEDED.contains(&node.path.as_slice()) || node.path == DEFAULT_TARGET {
        true => finding.severity(Severity::Error),
        false => finding,
    }
}

/// Returns the path of a link's immediate target, with resolved parent directories.
fn next(view: &StackView, node: &ViewNode, target: &[u8]) -> Result<Option<Vec<u8>>, LookError> {
    match view.find(&link_target_path(&node.path, target), Follow::No) {
        Ok(next) => Ok(next.map(|next| next.path)),
        Err(LookError::Path { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns whether a link has no target, neither in the image nor on a running machine, and the
/// target matters.
fn dangles(view: &StackView, node: &ViewNode, target: &[u8]) -> Result<bool, LookError> {
    // systemd uses only the name of a dependency link, not its target.
    if resolve(view, &node.path)?.is_some()
        || is_dependency_link(&node.path)
        || is_elsewhere(&node.path)
        || CLEANED_DIRS.iter().any(|dir| is_within(&node.path, dir))
        || is_kernel_headers_link(node)
    {
        return Ok(false);
    }
    // Targets such as `/dev/null`, also at the end of a chain of links.
    let mut at = link_target_path(&node.path, target);
    for _ in 0..MAX_LINKS {
        let manual = at.windows(8).any(|window| window == b"/man/man");
        if manual || RUNTIME_DIRS.iter().chain(&CLEANED_DIRS).any(|dir| is_within(&at, dir)) {
            return Ok(false);
        }
        match view.find(&at, Follow::No) {
            Ok(Some(next)) if next.is_link() => {
                let target = view.link(&next)?;
                at = link_target_path(&next.path, &target);
            }
            Ok(_) | Err(LookError::Path { .. }) => return Ok(true),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

fn is_within(path: &[u8], dir: &[u8]) -> bool {
    path.strip_prefix(dir).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

/// Returns whether a link is that of a kernel package to its headers, which are rarely installed.
fn is_kernel_headers_link(node: &ViewNode) -> bool {
    let in_modules = node.path.windows(12).any(|window| window == b"lib/modules/");
    in_modules && matches!(node.name(), b"build" | b"source")
}

/// Returns whether a relative target leads above the root.
fn climbs(node: &ViewNode, target: &[u8]) -> bool {
    if target.first() == Some(&b'/') {
        return false;
    }
    let mut depth = node.path.iter().filter(|&&byte| byte == b'/').count() as i64;
    for name in target.split(|&byte| byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => depth -= 1,
            _ => depth += 1,
        }
        if depth < 0 {
            return true;
        }
    }
    false
}
