//! Programs and libraries: whether what they need is there, in the version that they need, and for
//! their machine.
//!
//! All that the overlays bring is judged in the merged root. Of what is beneath, those files are
//! judged that need a library which the overlays took away or replaced, and only what is worse than
//! before is found.

mod judge;
mod loader;
mod object;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::is_elsewhere;
use super::lints::{ELF_LIBRARY, LINKER_CACHE};
use crate::check::context::{CheckContext, Difference, resolve, text};
use crate::check::{Finding, Findings, Severity, PassError};
use crate::look::{LookError, Node, View, Walk};

use judge::Judge;
use loader::{Loader, Search};
use object::Object;

pub(super) fn closure(context: &CheckContext<'_>, findings: &mut Findings<'_>) -> Result<(), PassError> {
    let roots = context.roots()?;
    let difference = context.difference()?;
    let loader = Loader::of(&roots.view)?;
    let machine = machine(&loader)?;
    let brought: Vec<&Node> = difference
        .brought
        .iter()
        .map(|brought| &entry.node)
        .filter(|node| may_be(node))
        .collect();
    let judged = parse(&loader, &brought)?;
    let judge = Judge::new(&loader, machine.as_deref(), &judged, Some(context.first_checked()));
    for (node, object) in &judged {
        for fault in judge.file(node, object)? {
            findings.push(finding(fault, node).attributed_to(vec![context.layer_name(node).to_owned()]));
        }
    }
    preloaded(context, &loader, machine.as_deref(), findings)?;
    let Some(below) = &roots.below else { return Ok(()) };
    let before = Loader::of(below)?;
    let affected = affected(&loader, &before, difference, machine.as_deref())?;
    if affected.is_empty() {
        return Ok(());
    }
    let files = needing(below, &before, &affected)?;
    let was = Judge::new(&before, machine.as_deref(), &files, None);
    let now = Judge::new(&loader, machine.as_deref(), &files, None);
    for (node, object) in &files {
        // What the overlays replaced was judged above.
        let Some(here) = resolve(&roots.view, &node.path)? else { continue };
        if here.layer() >= context.first_checked() {
            continue;
        }
        let old: BTreeSet<String> =
            was.file(node, object)?.into_iter().map(|fault| fault.message).collect();
        for mut fault in now.file(&here, object)? {
            if !old.contains(&fault.message) {
                let paths = before.places(&fault.about, node, object)?;
                let responsible_layers = match fault.lint.name == LINKER_CACHE.name {
                    true => context.responsible_layers(&[b"etc/ld.so.cache".to_vec()])?,
                    false => context.responsible_layers(&paths)?,
                };
                fault.message = format!("of the base, {}; the overlay changed that", fault.message);
                findings.push(finding(fault, node).attributed_to(responsible_layers));
            }
        }
    }
    Ok(())
}

/// What ld.so is to load before all libraries of any program: it complains of each that is missing
/// whenever a program is started.
fn preloaded(
    context: &CheckContext<'_>,
    loader: &Loader<'_>,
    machine: Option<&Object>,
    findings: &mut Findings<'_>,
) -> Result<(), PassError> {
    const PATH: &str = "etc/ld.so.preload";
    let Some(file) = resolve(loader.view, PATH.as_bytes())?.filter(Node::is_file) else {
        return Ok(());
    };
    let below = context.roots()?.below.as_ref();
    let before = below.map(Loader::of).transpose()?;
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
            let brought = file.layer() >= context.first_checked();
            let layers = match &before {
                _ if brought => vec![context.layer_name(&file).to_owned()],
                Some(before) if has(before, name)? => context.responsible_layers(&[name.into()])?,
                _ => continue,
            };
            let message = format!("it is to load {name} into each program, which is not there");
            let finding = Finding::new(&ELF_LIBRARY, "", Some(PATH.as_bytes()), message);
            findings.push(finding.severity(Severity::Warning).attributed_to(layers));
        }
    }
    Ok(())
}

fn finding(fault: judge::Fault, node: &Node) -> Finding {
    let finding = Finding::new(fault.lint, "", Some(&node.path), fault.message);
    finding.severity(fault.severity)
}

/// Whether a file may be a program or a library, by its name and mode.
fn may_be(node: &Node) -> bool {
    let named = node.attr.mode & 0o111 != 0 || is_library(node.name());
    node.is_file() && node.attr.size >= 52 && named && !is_elsewhere(&node.path)
}

type Files = Vec<(Node, Arc<Object>)>;

/// Reads files, on as many threads as there are processors; in their order.
fn parse(loader: &Loader<'_>, nodes: &[&Node]) -> Result<Files, LookError> {
    // Names of one file are one file.
    let mut seen = std::collections::HashSet::new();
    let nodes: Vec<&&Node> = nodes.iter().filter(|n| seen.insert(n.found.source())).collect();
    let next = AtomicUsize::new(0);
    let parsed: Mutex<BTreeMap<usize, (Node, Arc<Object>)>> = Mutex::default();
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

/// A program that is of the root's own machine.
fn machine(loader: &Loader<'_>) -> Result<Option<Arc<Object>>, LookError> {
    for path in ["bin/sh", "sbin/init", "usr/bin/env", "bin/busybox", "usr/bin/dpkg"] {
        if let Some(node) = resolve(loader.view, path.as_bytes())?
            && let Some(object) = loader.object(&node)?
        {
            return Ok(Some(object));
        }
    }
    Ok(None)
}

/// The names of libraries of which another file may be found than before, or none.
fn affected(
    now: &Loader<'_>,
    before: &Loader<'_>,
    difference: &Difference,
    machine: Option<&Object>,
) -> Result<BTreeSet<Vec<u8>>, LookError> {
    let mut changed: Vec<Node> = Vec::new();
    // A cache that hides another one may not name what that does.
    let mut affected: BTreeSet<Vec<u8>> = now.not_cached(before).map(<[u8]>::to_vec).collect();
    for entry in difference.overlaid.iter().filter(|brought| !entry.node.is_dir()) {
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
    // Links that lead to one of them: what needs a library names the link.
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

fn libraries(view: &View, node: &Node, into: &mut Vec<Node>) -> Result<(), LookError> {
    view.walk::<LookError>(node, &mut |node| {
        if !node.is_dir() && is_library(node.name()) {
            into.push(node.clone());
        }
        Ok(Walk::Into)
    })
}

/// The files of a root that need one of these libraries.
fn needing(
    view: &View,
    loader: &Loader<'_>,
    names: &BTreeSet<Vec<u8>>,
) -> Result<Files, LookError> {
    let mut nodes = Vec::new();
    view.walk::<LookError>(&view.root()?, &mut |node| {
        if may_be(node) {
            nodes.push(node.clone());
        }
        Ok(Walk::Into)
    })?;
    let nodes: Vec<&Node> = nodes.iter().collect();
    let mut files = parse(loader, &nodes)?;
    files.retain(|(_, object)| {
        let loads = object.interpreter.iter().filter_map(|path| path.rsplit(|&b| b == b'/').next());
        let mut needs = object.needed.iter().map(Vec::as_slice).chain(loads);
        needs.any(|name| names.contains(name))
    });
    Ok(files)
}
