//! Symbolic links: those that are brought, and those that the overlay cut off.

use std::collections::BTreeMap;

use fs_model::tree::Follow;

use super::is_elsewhere;
use super::lints::{ALTERNATIVE, DANGLING_LINK, ESCAPING_LINK};
use super::units::is_dependency;
use crate::check::context::{OverlayEntry, CheckContext, link_target_path, resolve};
use crate::check::{Finding, Findings, Severity, PassError};
use crate::look::{LookError, Node, View, Walk};
use crate::seal::path::escape;

/// What is there only when the machine is up.
const LATER: [&[u8]; 8] =
    [b"run", b"proc", b"sys", b"dev", b"tmp", b"var/run", b"var/lock", b"var/tmp"];
/// What is left out on purpose: that something leads there does no harm.
const LEFT_OUT: [&[u8]; 4] =
    [b"usr/share/man", b"usr/share/doc", b"usr/share/info", b"usr/share/locale"];
/// What a machine cannot be without.
pub(super) const NEEDED: [&[u8]; 7] = [
    b"usr/sbin/init",
    b"sbin/init",
    b"usr/bin/sh",
    b"bin/sh",
    b"etc/passwd",
    b"etc/group",
    b"var/lib/dpkg/status",
];
/// What it boots into: of that there is another one, but not where this one leads to nothing.
const TARGET: &[u8] = b"etc/systemd/system/default.target";
/// How many links are followed, as by the kernel.
const LINKS: u32 = 40;
const ALTERNATIVES: &[u8] = b"etc/alternatives/";

pub(super) fn links(context: &CheckContext<'_>, findings: &mut Findings<'_>) -> Result<(), PassError> {
    let roots = context.roots()?;
    let difference = context.difference()?;
    let mut found = Found::new();
    for entry in &difference.overlaid {
        let node = &entry.node;
        if !node.is_link() {
            continue;
        }
        let target = roots.view.link(node)?;
        // What has always been so in the base is none of the overlay's doing.
        if let (Some(before), Some(below)) = (&entry.lower, &roots.below)
            && before.is_link()
            && below.link(before)? == target
            && dangles(below, before, &target)?
        {
            continue;
        }
        let layer = context.layer_name(node);
        if climbs(node, &target) {
            let message = format!("it leads to {}", escape(&target));
            findings.add(&ESCAPING_LINK, layer, &node.path, message);
        }
        if dangles(&roots.view, node, &target)? {
            let next = next(&roots.view, node, &target)?;
            let finding = dangling(node, &target).attributed_to(vec![layer.to_owned()]);
            found.insert(node.path.clone(), (next, finding));
        }
    }
    cut_off(context, &mut found)?;
    // Of links that lead to each other, and the last one to nothing, that one is told.
    let last = |path: &Vec<u8>| {
        let mut at = path;
        for _ in 0..LINKS {
            match found.get(at) {
                Some((Some(next), _)) if found.contains_key(next) => at = next,
                _ => return at == path,
            }
        }
        true
    };
    let told: Vec<bool> = found.keys().map(last).collect();
    let finding = |((_, finding), told): ((_, Finding), bool)| told.then_some(finding);
    found.into_values().zip(told).filter_map(finding).for_each(|finding| findings.push(finding));
    Ok(())
}

/// Links that lead to nothing, by their paths, with the path that each leads to.
type Found = BTreeMap<Vec<u8>, (Option<Vec<u8>>, Finding)>;

/// Links of what is beneath that led to something before.
fn cut_off(context: &CheckContext<'_>, found: &mut Found) -> Result<(), PassError> {
    let roots = context.roots()?;
    let difference = context.difference()?;
    // Only where something is gone or a way leads elsewhere can a link of the base be cut off.
    let Some(below) = &roots.below else { return Ok(()) };
    let hides = difference.overlaid.iter().any(|OverlayEntry { node, before }| {
        let differs = |before: &Node| before.is_dir() != node.is_dir();
        before.as_ref().is_some_and(|b| differs(b) || b.is_link() || node.is_link())
    });
    if difference.removed.is_empty() && !hides {
        return Ok(());
    }
    roots.view.walk::<PassError>(&roots.view.root()?, &mut |node| {
        if node.is_link() && node.layer() < context.first_checked() {
            let target = roots.view.link(node)?;
            if dangles(&roots.view, node, &target)? && !dangles(below, node, &target)? {
                let message =
                    format!("it leads to {}, which the overlay took away", escape(&target));
                let responsible_layers = context.responsible_layers(std::slice::from_ref(&node.path))?;
                let finding = Finding { message, ..dangling(node, &target) }.attributed_to(responsible_layers);
                let next = next(&roots.view, node, &target)?;
                found.insert(node.path.clone(), (next, finding));
            }
        }
        Ok(Walk::Into)
    })?;
    Ok(())
}

fn dangling(node: &Node, target: &[u8]) -> Finding {
    let of_alternative = node.path.starts_with(ALTERNATIVES)
        || link_target_path(&node.path, target).starts_with(ALTERNATIVES);
    let lint = if of_alternative { &ALTERNATIVE } else { &DANGLING_LINK };
    let message = format!("it leads to {}, which is not there", escape(target));
    let finding = Finding::new(lint, "", Some(&node.path), message);
    // Without these nothing starts.
    match NEEDED.contains(&node.path.as_slice()) || node.path == TARGET {
        true => finding.severity(Severity::Error),
        false => finding,
    }
}

/// The path of what a link leads to at first, without links on the way.
fn next(view: &View, node: &Node, target: &[u8]) -> Result<Option<Vec<u8>>, LookError> {
    match view.find(&link_target_path(&node.path, target), Follow::No) {
        Ok(next) => Ok(next.map(|next| next.path)),
        Err(LookError::Path { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether a link leads to nothing, and will not lead to anything once the machine is up, and
/// somebody may miss that.
fn dangles(view: &View, node: &Node, target: &[u8]) -> Result<bool, LookError> {
    // What enables a unit does so by its name: where it leads to does not matter.
    let of_unit = || is_dependency(&node.path);
    if resolve(view, &node.path)?.is_some()
        || of_unit()
        || is_elsewhere(&node.path)
        || LEFT_OUT.iter().any(|dir| is_within(&node.path, dir))
        || is_of_headers(node)
    {
        return Ok(false);
    }
    // `/dev/null` and the like, and what another such link leads to.
    let mut at = link_target_path(&node.path, target);
    for _ in 0..LINKS {
        let manual = at.windows(8).any(|window| window == b"/man/man");
        if manual || LATER.iter().chain(&LEFT_OUT).any(|dir| is_within(&at, dir)) {
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

/// The links of kernel packages to the headers that modules are built with, which hardly any machine
/// has.
fn is_of_headers(node: &Node) -> bool {
    let in_modules = node.path.windows(12).any(|window| window == b"lib/modules/");
    in_modules && matches!(node.name(), b"build" | b"source")
}

/// Whether a relative target has more `..` than directories above it.
fn climbs(node: &Node, target: &[u8]) -> bool {
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
