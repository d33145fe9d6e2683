//! Lints of ELF programs and libraries: whether their libraries exist, in the needed version and
//! for the right machine.
//!
//! All files of checked layers are checked in the merged root. Files of the lower layers are
//! checked if they need a library that a checked layer removed or replaced, and only new faults are
//! reported.

mod checker;
mod loader;
mod object;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::is_elsewhere;
use super::lints::{ELF_LIBRARY, LINKER_CACHE};
use crate::check::context::{CheckContext, Difference, read_text, resolve};
use crate::check::{Finding, Findings, PassError, Severity};
use crate::image::view::{LookError, StackView, ViewNode, WalkControl};

use checker::ElfChecker;
use loader::{Loader, Search};
use object::ElfObject;

pub(super) fn closure(
    context: &CheckContext<'_>,
    findings: &mut Findings<'_>,
) -> Result<(), PassError> {
    let roots = context.roots()?;
    let difference = context.difference()?;
    let loader = Loader::open(&roots.view)?;
    let machine = native_object(&loader)?;
    let candidates: Vec<&ViewNode> = difference
        .overlaid
        .iter()
        .map(|entry| &entry.node)
        .filter(|node| may_be_elf(node))
        .collect();
    let overlaid = parse(&loader, &candidates)?;
    let checker =
        ElfChecker::new(&loader, machine.as_deref(), &overlaid, Some(context.first_checked()));
    for (node, object) in &overlaid {
        for fault in checker.check_file(node, object)? {
            findings.push(
                finding(fault, node).attributed_to(vec![context.layer_name(node).to_owned()]),
            );
        }
    }
    preloaded(context, &loader, machine.as_deref(), findings)?;
    let Some(lower) = &roots.lower else { return Ok(()) };
    let before = Loader::open(lower)?;
    let affected = affected_libraries(&loader, &before, difference, machine.as_deref())?;
    if affected.is_empty() {
        return Ok(());
    }
    let files = needing(lower, &before, &affected)?;
    let checker_before = ElfChecker::new(&before, machine.as_deref(), &files, None);
    let checker_now = ElfChecker::new(&loader, machine.as_deref(), &files, None);
    for (node, object) in &files {
        // Replaced files were checked above.
        let Some(here) = resolve(&roots.view, &node.path)? else { continue };
        if here.layer() >= context.first_checked() {
            continue;
        }
        let old: BTreeSet<String> =
            checker_before.check_file(node, object)?.into_iter().map(|f| f.message).collect();
        for mut fault in checker_now.check_file(&here, object)? {
            if !old.contains(&fault.message) {
                let paths = before.possible_paths(&fault.about, node, object)?;
                let layers = match fault.lint.name == LINKER_CACHE.name {
                    true => context.responsible_layers(&[b"etc/ld.so.cache".to_vec()])?,
                    false => context.responsible_layers(&paths)?,
                };
                fault.message = format!("base file broken by the overlay: {}", fault.message);
                findings.push(finding(fault, node).attributed_to(layers));
            }
        }
    }
    Ok(())
}

/// Checks the libraries that ld.so loads into each program. It prints an error for each missing one
/// at every start.
fn preloaded(
    context: &CheckContext<'_>,
    loader: &Loader<'_>,
    machine: Option<&ElfObject>,
    findings: &mut Findings<'_>,
) -> Result<(), PassError> {
    const PATH: &str = "etc/ld.so.preload";
    let Some(file) = resolve(loader.view, PATH.as_bytes())?.filter(ViewNode::is_file) else {
        return Ok(());
    };
    let lower = context.roots()?.lower.as_ref();
    let before = lower.map(Loader::open).transpose()?;
    let has = |loader: &Loader<'_>, name: &str| -> Result<bool, LookError> {
        Ok(match machine {
            _ if name.contains('/') => resolve(loader.view, name.as_bytes())?.is_some(),
            Some(object) => {
                matches!(loader.search(name.as_bytes(), b"", object, &[])?, Search::Found(_))
            }
            None => true,
        })
    };
    for line in read_text(loader.view, PATH)?.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let names = line.split(|c: char| c.is_whitespace() || c == ':');
        for name in names.filter(|name| !name.is_empty() && !name.contains('$')) {
            if has(loader, name)? {
                continue;
            }
            let is_overlaid = file.layer() >= context.first_checked();
            let layers = match &before {
                _ if is_overlaid => vec![context.layer_name(&file).to_owned()],
                Some(before) if has(before, name)? => context.responsible_layers(&[name.into()])?,
                _ => continue,
            };
            let message =
                format!("the library {name}, which is loaded into each program, is missing");
            let finding = Finding::new(&ELF_LIBRARY, "", Some(PATH.as_bytes()), message);
            findings.push(finding.severity(Severity::Warning).attributed_to(layers));
        }
    }
    Ok(())
}

fn finding(fault: checker::ElfFault, node: &ViewNode) -> Finding {
    let finding = Finding::new(fault.lint, "", Some(&node.path), fault.message);
    finding.severity(fault.severity)
}

/// Returns whether a file may be a program or a library, by its name and mode.
fn may_be_elf(node: &ViewNode) -> bool {
    let named = node.attr.mode & 0o111 != 0 || is_library(node.name());
    node.is_file() && node.attr.size >= 52 && named && !is_elsewhere(&node.path)
}

/// ELF files, parsed.
type ElfFiles = Vec<(ViewNode, Arc<ElfObject>)>;

/// Parses files on one thread per processor, and returns those that are ELF files in their order.
fn parse(loader: &Loader<'_>, nodes: &[&ViewNode]) -> Result<ElfFiles, LookError> {
    // Hard links are parsed once.
    let mut seen = std::collections::HashSet::new();
    let nodes: Vec<&&ViewNode> = nodes.iter().filter(|n| seen.insert(n.found.source())).collect();
    let next = AtomicUsize::new(0);
    let parsed: Mutex<BTreeMap<usize, (ViewNode, Arc<ElfObject>)>> = Mutex::default();
    let failed: Mutex<Option<LookError>> = Mutex::default();
    let work = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(node) = nodes.get(index) else { return };
            match loader.object(node) {
                Ok(Some(object)) => {
                    let mut parsed = parsed.lock().unwrap_or_else(PoisonError::into_inner);
                    parsed.insert(index, ((**node).clone(), object));
                }
                Ok(None) => {}
                Err(error) => {
                    failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                    return;
                }
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 1..threads.min(nodes.len()) {
            scope.spawn(work);
        }
        work();
    });
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => {
            let parsed = parsed.into_inner().unwrap_or_else(PoisonError::into_inner);
            Ok(parsed.into_values().collect())
        }
    }
}

/// Returns a program that has the root's own architecture.
fn native_object(loader: &Loader<'_>) -> Result<Option<Arc<ElfObject>>, LookError> {
    for path in ["bin/sh", "sbin/init", "usr/bin/env", "bin/busybox", "usr/bin/dpkg"] {
        if let Some(node) = resolve(loader.view, path.as_bytes())?
            && let Some(object) = loader.object(&node)?
        {
            return Ok(Some(object));
        }
    }
    Ok(None)
}

/// Returns the names of libraries for which the merged root may find another file than the lower
/// layers, or none.
fn affected_libraries(
    now: &Loader<'_>,
    before: &Loader<'_>,
    difference: &Difference,
    machine: Option<&ElfObject>,
) -> Result<BTreeSet<Vec<u8>>, LookError> {
    let mut changed: Vec<ViewNode> = Vec::new();
    // A cache that hides another one may lack its libraries.
    let mut affected: BTreeSet<Vec<u8>> = now.not_cached(before).map(<[u8]>::to_vec).collect();
    for entry in difference.overlaid.iter().filter(|entry| !entry.node.is_dir()) {
        match &entry.lower {
            Some(hidden) => libraries(before.view, hidden, &mut changed)?,
            None => {
                let name = entry.node.name();
                let of_machine = || machine.map(|object| before.search(name, b"", object, &[]));
                if is_library(name) && matches!(of_machine().transpose()?, Some(Search::Found(_))) {
                    affected.insert(name.to_vec());
                }
            }
        }
    }
    for gone in &difference.removed {
        libraries(before.view, gone, &mut changed)?;
    }
    for dir in before.configured.iter().filter(|dir| !now.configured.contains(dir)) {
        if let Some(dir) = resolve(before.view, dir)? {
            libraries(before.view, &dir, &mut changed)?;
        }
    }
    let mut dirs = BTreeSet::new();
    for node in &changed {
        affected.insert(node.name().to_vec());
        dirs.insert(node.path[..node.path.len() - node.name().len()].to_vec());
    }
    // Links to these libraries: programs name the link.
    for dir in dirs {
        let Some(dir) = resolve(before.view, &dir)? else { continue };
        for link in before.view.children(&dir)?.iter().filter(|node| node.is_link()) {
            if is_library(link.name())
                && let Some(target) = resolve(before.view, &link.path)?
                && affected.contains(target.name())
            {
                affected.insert(link.name().to_vec());
            }
        }
    }
    Ok(affected)
}

pub(super) fn is_library(name: &[u8]) -> bool {
    name.windows(3).any(|window| window == b".so")
}

fn libraries(view: &StackView, node: &ViewNode, into: &mut Vec<ViewNode>) -> Result<(), LookError> {
    view.walk::<LookError>(node, &mut |node| {
        if !node.is_dir() && is_library(node.name()) {
            into.push(node.clone());
        }
        Ok(WalkControl::Into)
    })
}

/// Returns the files of a root that need one of these libraries.
fn needing(
    view: &StackView,
    loader: &Loader<'_>,
    names: &BTreeSet<Vec<u8>>,
) -> Result<ElfFiles, LookError> {
    let mut nodes = Vec::new();
    view.walk::<LookError>(&view.root()?, &mut |node| {
        if may_be_elf(node) {
            nodes.push(node.clone());
        }
        Ok(WalkControl::Into)
    })?;
    let nodes: Vec<&ViewNode> = nodes.iter().collect();
    let mut files = parse(loader, &nodes)?;
    files.retain(|(_, object)| {
        let loads = object.interpreter.iter().filter_map(|path| path.rsplit(|&b| b == b'/').next());
        let mut needs = object.needed.iter().map(Vec::as_slice).chain(loads);
        needs.any(|name| names.contains(name))
    });
    Ok(files)
}
