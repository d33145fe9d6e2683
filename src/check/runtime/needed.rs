//! Lints of files that every system needs: whether they exist and are accessible.

use std::collections::BTreeSet;

use fs_model::tree::Follow;

use super::links::NEEDED;
use super::lints::{NEEDED_GONE, SHUT};
use crate::check::context::{CheckContext, OverlayEntry, Roots, resolve};
use crate::check::{Finding, Findings, PassError, Severity};
use crate::image::view::{LookError, StackView, ViewNode};

/// Default targets of systemd; one of them is enough.
const DEFAULT_TARGETS: [&[u8]; 3] = [
    b"etc/systemd/system/default.target",
    b"usr/lib/systemd/system/default.target",
    b"lib/systemd/system/default.target",
];
/// Directories that every user must be able to enter.
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
/// Files that every user must be able to read.
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

pub(super) fn needed(
    context: &CheckContext<'_>,
    findings: &mut Findings<'_>,
) -> Result<(), PassError> {
    removed(context, findings)?;
    without_init(context, findings)?;
    for entry in &context.difference()?.overlaid {
        let Some((severity, what)) = inaccessible(entry, context.roots()?.lower.is_some()) else {
            continue;
        };
        let ViewNode { path, attr, .. } = &entry.node;
        let before = entry.lower.as_ref().map(|node| node.attr.mode & 0o7777);
        let was = before.map(|mode| format!(", {mode:04o} in the base")).unwrap_or_default();
        let message = format!("{what}: mode {:04o}{was}", attr.mode & 0o7777);
        let finding = Finding::new(&SHUT, context.layer_name(&entry.node), Some(path), message);
        findings.push(finding.severity(severity));
    }
    Ok(())
}

/// Checks that a complete root has an init.
fn without_init(context: &CheckContext<'_>, findings: &mut Findings<'_>) -> Result<(), PassError> {
    let Roots { view, lower: None } = context.roots()? else { return Ok(()) };
    let is_root = resolve(view, b"bin/sh")?.is_some() || resolve(view, b"usr/bin/sh")?.is_some();
    if is_root && resolve(view, b"sbin/init")?.is_none() && find(view, b"sbin/init")?.is_none() {
        let message = "the root has no init, and no machine can boot it";
        let finding = Finding::new(&NEEDED_GONE, "", Some(b"sbin/init"), message);
        let finding = finding.attributed_to(context.checked_names());
        findings.push(finding.severity(Severity::Warning));
    }
    Ok(())
}

/// Finds needed files that an overlay removes.
fn removed(context: &CheckContext<'_>, findings: &mut Findings<'_>) -> Result<(), PassError> {
    let Roots { view, lower: Some(lower) } = context.roots()? else { return Ok(()) };
    let is_there = |path: &[u8]| -> Result<bool, PassError> {
        // `works/dangling-link` reports dangling links.
        Ok(find(view, path)?.is_some_and(|node| node.is_file() || node.is_link()))
    };
    let alternatives = NEEDED.iter().map(std::slice::from_ref).chain([&DEFAULT_TARGETS[..]]);
    let mut reported: BTreeSet<Vec<u8>> = BTreeSet::new();
    for paths in alternatives {
        let mut removed = None;
        let mut exists = false;
        for path in paths {
            exists |= is_there(path)?;
            // An empty file, such as a package database, counts as missing.
            let before = resolve(lower, path)?.filter(|node| node.is_file() && node.attr.size > 0);
            if let (Some(_), Some(node), None) = (before, find(lower, path)?, &removed) {
                let own = is_there(&node.path)?;
                let dir = path.rsplitn(2, |&byte| byte == b'/').nth(1).unwrap_or_default();
                // `fit/directory-over-link` reports a directory that replaces a link of the path.
                exists |= own && resolve(view, dir)?.is_some();
                removed = Some(if own { path.to_vec() } else { node.path });
            }
        }
        // Several of the paths may lead to one file.
        if let Some(path) = removed.filter(|path| !exists && !reported.contains(path)) {
            let layers = context.responsible_layers(std::slice::from_ref(&path))?;
            let message = "the overlay removes this file of the base";
            let finding = Finding::new(&NEEDED_GONE, "", Some(&path), message);
            findings.push(finding.attributed_to(layers));
            reported.insert(path);
        }
    }
    Ok(())
}

/// Returns the entry at a path without following a link.
fn find(view: &StackView, path: &[u8]) -> Result<Option<ViewNode>, PassError> {
    match view.find(path, Follow::No) {
        Err(LookError::Path { .. }) => Ok(None),
        found => Ok(found?),
    }
}

/// Returns the severity and the description of a lost permission for other users. Without a base to
/// compare with, only directories are checked.
fn inaccessible(
    OverlayEntry { node, lower }: &OverlayEntry,
    has_base: bool,
) -> Option<(Severity, &'static str)> {
    let path = &node.path[..];
    let lost = |right: u16| {
        let before = lower.as_ref().filter(|before| before.attr.kind == node.attr.kind);
        let had = before.is_some_and(|before| before.attr.mode & right != 0);
        node.attr.mode & right == 0 && (had || !has_base)
    };
    let (dir, name) = match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&b""[..], path),
    };
    if node.is_dir() {
        let needed = DIRS.contains(&path) || is_library_dir(path);
        return (needed && lost(0o001)).then_some((Severity::Error, "not every user can enter it"));
    }
    if !node.is_file() || !has_base {
        return None;
    }
    let library = is_library_dir(dir) && super::elf::is_library(name);
    if (library || FILES.contains(&path)) && lost(0o004) {
        return Some((Severity::Error, "not every user can read it"));
    }
    // A new group with execute permission, or a setuid or setgid bit in the base, shows that the
    // restriction is intended.
    let before = lower.as_ref()?;
    let for_group = node.attr.gid != before.attr.gid && node.attr.mode & 0o010 != 0;
    let for_few = for_group || before.attr.mode & 0o6000 != 0;
    if PROGRAMS.contains(&dir) && lost(0o001) && !for_few {
        let needed = NEEDED.contains(&path);
        let severity = if needed { Severity::Error } else { Severity::Warning };
        return Some((severity, "not every user can run it"));
    }
    None
}

/// Returns whether a directory is in the linker's default path: usr/lib/x86_64-linux-gnu.
fn is_library_dir(dir: &[u8]) -> bool {
    let own = dir.strip_prefix(b"usr/").unwrap_or(dir);
    match own.strip_prefix(b"lib/") {
        Some(name) => !name.contains(&b'/') && memchr::memmem::find(name, b"-linux-").is_some(),
        None => [&b"lib"[..], b"lib32", b"lib64", b"libx32"].contains(&own),
    }
}
