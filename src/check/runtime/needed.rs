//! What every system needs: whether it is still there, and open to those who need it.

use std::collections::BTreeSet;

use fs_model::tree::Follow;

use super::links::NEEDED;
use super::lints::{NEEDED_GONE, SHUT};
use crate::check::context::{OverlayEntry, CheckContext, Roots, resolve};
use crate::check::{Finding, Findings, Severity, PassError};
use crate::look::{LookError, Node, View};

/// Of these, one is enough.
const TARGETS: [&[u8]; 3] = [
    b"etc/systemd/system/default.target",
    b"usr/lib/systemd/system/default.target",
    b"lib/systemd/system/default.target",
];
/// Directories on the way to what everybody runs and reads.
const DIRS: [&[u8]; 18] = [
    b"",
    b"bin",
    b"etc",
    b"lib",
    b"lib32",
    b"lib64",
    b"libx32",
    b"sbin",
    b"usr",
    b"usr/bin",
    b"usr/lib",
    b"usr/lib32",
    b"usr/lib64",
    b"usr/local",
    b"usr/local/bin",
    b"usr/sbin",
    b"usr/share",
    b"var",
];
/// Files that whoever runs a program reads.
const FILES: [&[u8]; 6] = [
    b"etc/group",
    b"etc/hosts",
    b"etc/ld.so.cache",
    b"etc/nsswitch.conf",
    b"etc/passwd",
    b"etc/ssl/certs/ca-certificates.crt",
];
/// Directories of programs.
const PROGRAMS: [&[u8]; 5] = [b"bin", b"sbin", b"usr/bin", b"usr/sbin", b"usr/local/bin"];

pub(super) fn needed(context: &CheckContext<'_>, findings: &mut Findings<'_>) -> Result<(), PassError> {
    gone(context, findings)?;
    without_init(context, findings)?;
    for entry in &context.difference()?.overlaid {
        let Some((severity, what)) = shut(brought, context.roots()?.below.is_some()) else {
            continue;
        };
        let Node { path, attr, .. } = &entry.node;
        let before = entry.lower.as_ref().map(|node| node.attr.mode & 0o7777);
        let was = before.map(|mode| format!(", {mode:04o} in the base")).unwrap_or_default();
        let message = format!("{what}: its mode is {:04o}{was}", attr.mode & 0o7777);
        let finding = Finding::new(&SHUT, context.layer_name(&entry.node), Some(path), message);
        findings.push(finding.severity(severity));
    }
    Ok(())
}

/// A whole root without an init.
fn without_init(context: &CheckContext<'_>, findings: &mut Findings<'_>) -> Result<(), PassError> {
    let Roots { view, below: None } = context.roots()? else { return Ok(()) };
    let is_root = resolve(view, b"bin/sh")?.is_some() || resolve(view, b"usr/bin/sh")?.is_some();
    if is_root && resolve(view, b"sbin/init")?.is_none() && way(view, b"sbin/init")?.is_none() {
        let message = "the root has none, so that no machine boots it";
        let finding = Finding::new(&NEEDED_GONE, "", Some(b"sbin/init"), message);
        let finding = finding.attributed_to(context.checked_names());
        findings.push(finding.severity(Severity::Warning));
    }
    Ok(())
}

/// What was there before, and is not now.
fn gone(context: &CheckContext<'_>, findings: &mut Findings<'_>) -> Result<(), PassError> {
    let Roots { view, below: Some(below) } = context.roots()? else { return Ok(()) };
    let is_there = |path: &[u8]| -> Result<bool, PassError> {
        // Of links that lead to nothing it is told that they do.
        Ok(way(view, path)?.is_some_and(|node| node.is_file() || node.is_link()))
    };
    let one = NEEDED.iter().map(std::slice::from_ref).chain([&TARGETS[..]]);
    let mut told: BTreeSet<Vec<u8>> = BTreeSet::new();
    for paths in one {
        let mut was = None;
        let mut is = false;
        for path in paths {
            is |= is_there(path)?;
            // An empty file, of packages say, is as good as none.
            let before = resolve(below, path)?.filter(|node| node.is_file() && node.attr.size > 0);
            if let (Some(_), Some(node), None) = (before, way(below, path)?, &was) {
                let own = is_there(&node.path)?;
                let dir = path.rsplitn(2, |&byte| byte == b'/').nth(1).unwrap_or_default();
                // Of a directory in the place of a link on the way, that is told.
                is |= own && resolve(view, dir)?.is_some();
                was = Some(if own { path.to_vec() } else { node.path });
            }
        }
        // One file by several names is one.
        if let Some(path) = was.filter(|path| !is && !told.contains(path)) {
            let responsible_layers = context.responsible_layers(std::slice::from_ref(&path))?;
            let message = "the base has it, and the overlay takes it away";
            let finding = Finding::new(&NEEDED_GONE, "", Some(&path), message);
            findings.push(finding.attributed_to(responsible_layers));
            told.insert(path);
        }
    }
    Ok(())
}

/// What is at a path, be it a link.
fn way(view: &View, path: &[u8]) -> Result<Option<Node>, PassError> {
    match view.find(path, Follow::No) {
        Err(LookError::Path { .. }) => Ok(None),
        found => Ok(found?),
    }
}

/// What nobody but its owner can do with something any more. Without a base to compare it with, only
/// directories are told.
fn shut(OverlayEntry { node, before }: &OverlayEntry, has_base: bool) -> Option<(Severity, &'static str)> {
    let path = &node.path[..];
    let lost = |right: u16| {
        let before = before.as_ref().filter(|before| before.attr.kind == node.attr.kind);
        let had = before.is_some_and(|before| before.attr.mode & right != 0);
        node.attr.mode & right == 0 && (had || !has_base)
    };
    let (dir, name) = match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&b""[..], path),
    };
    if node.is_dir() {
        let needed = DIRS.contains(&path) || is_of_libraries(path);
        return (needed && lost(0o001)).then_some((Severity::Error, "only some can enter it"));
    }
    if !node.is_file() || !has_base {
        return None;
    }
    let library = is_of_libraries(dir) && super::elf::is_library(name);
    if (library || FILES.contains(&path)) && lost(0o004) {
        return Some((Severity::Error, "only some can read it"));
    }
    // A program may be kept from most on purpose, and for a group it is so for certain.
    let before = before.as_ref()?;
    let for_group = node.attr.gid != before.attr.gid && node.attr.mode & 0o010 != 0;
    let for_few = for_group || before.attr.mode & 0o6000 != 0;
    if PROGRAMS.contains(&dir) && lost(0o001) && !for_few {
        let needed = NEEDED.contains(&path);
        let severity = if needed { Severity::Error } else { Severity::Warning };
        return Some((severity, "only some can run it"));
    }
    None
}

/// Whether it is a directory that the linker looks into on any machine: usr/lib/x86_64-linux-gnu.
fn is_of_libraries(dir: &[u8]) -> bool {
    let own = dir.strip_prefix(b"usr/").unwrap_or(dir);
    match own.strip_prefix(b"lib/") {
        Some(name) => !name.contains(&b'/') && memchr::memmem::find(name, b"-linux-").is_some(),
        None => [&b"lib"[..], b"lib32", b"lib64", b"libx32"].contains(&own),
    }
}
