//! Programs and libraries: whether what they need is there, in the version that they need, and for
//! their machine.
//!
//! All that the overlays bring is judged in the merged root. Of what is beneath, those files are
//! judged that need a library which the overlays took away or replaced, and only what is worse than
//! before is found.

mod loader;
mod object;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::lints::{ELF_INTERPRETER, ELF_LIBRARY, ELF_MACHINE, ELF_VERSION, LINKER_CACHE};
use crate::check::context::{Context, Difference, reach};
use crate::check::{Finding, Findings, Severity, Stopped};
use crate::look::{LookError, Node, View, Walk};
use crate::seal::path::escape;

use loader::{Loader, Search, own_dirs};
use object::Object;

pub(super) fn closure(context: &Context<'_>, findings: &mut Findings<'_>) -> Result<(), Stopped> {
    let roots = context.roots()?;
    let difference = context.difference()?;
    let loader = Loader::of(&roots.view)?;
    let machine = machine(&loader)?;
    let brought: Vec<&Node> = difference
        .brought
        .iter()
        .map(|brought| &brought.node)
        .filter(|node| may_be(node))
        .collect();
    let judged = parse(&loader, &brought)?;
    let judge = Judge::new(&loader, machine.as_deref(), &judged);
    for (node, object) in &judged {
        for finding in judge.file(node, object, context.layer(node))? {
            findings.push(finding);
        }
    }
    let Some(below) = &roots.below else { return Ok(()) };
    let before = Loader::of(below)?;
    let affected = affected(&loader, &before, difference, machine.as_deref())?;
    if affected.is_empty() {
        return Ok(());
    }
    let files = needing(below, &before, &affected)?;
    let was = Judge::new(&before, machine.as_deref(), &files);
    let now = Judge::new(&loader, machine.as_deref(), &files);
    let layer = context.judged_names();
    for (node, object) in &files {
        // What the overlays replaced was judged above.
        let Some(here) = reach(&roots.view, &node.path)? else { continue };
        if here.layer() >= context.first() {
            continue;
        }
        let old: BTreeSet<String> =
            was.file(node, object, &layer)?.into_iter().map(|finding| finding.message).collect();
        for finding in now.file(&here, object, &layer)? {
            if !old.contains(&finding.message) {
                let message = format!("of the base, {}; the overlay changed that", finding.message);
                findings.push(Finding { message, ..finding });
            }
        }
    }
    Ok(())
}

/// Whether a file may be a program or a library, by its name and mode.
fn may_be(node: &Node) -> bool {
    let named = node.attr.mode & 0o111 != 0 || is_library(node.name());
    node.is_file() && node.attr.size >= 52 && named
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

/// The directories that files add to those of what they load (`DT_RPATH`, where there is no
/// `DT_RUNPATH`).
fn rpaths(files: &Files) -> Vec<Vec<u8>> {
    let mut dirs = Vec::new();
    for (node, object) in files {
        if object.runpath.is_empty() && !object.rpath.is_empty() {
            for dir in own_dirs(&object.rpath, &node.path, object) {
                if !dirs.contains(&dir) {
                    dirs.push(dir);
                }
            }
        }
    }
    dirs
}

/// A program that is of the root's own machine.
fn machine(loader: &Loader<'_>) -> Result<Option<Arc<Object>>, LookError> {
    for path in ["bin/sh", "sbin/init", "usr/bin/env", "bin/busybox", "usr/bin/dpkg"] {
        if let Some(node) = reach(loader.view, path.as_bytes())?
            && let Some(object) = loader.object(&node)?
        {
            return Ok(Some(object));
        }
    }
    Ok(None)
}

/// Judges files in a root.
struct Judge<'a> {
    loader: &'a Loader<'a>,
    machine: Option<&'a Object>,
    /// What is added to the directories of libraries by who loads them.
    more: Vec<Vec<u8>>,
    /// Who loads a library, by its name.
    users: BTreeMap<&'a [u8], Vec<&'a (Node, Arc<Object>)>>,
}

impl<'a> Judge<'a> {
    fn new(loader: &'a Loader<'a>, machine: Option<&'a Object>, files: &'a Files) -> Self {
        let mut users: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for file in files {
            for name in &file.1.needed {
                users.entry(&name[..]).or_default().push(file);
            }
        }
        Judge { loader, machine, more: rpaths(files), users }
    }

    /// Whether everything that loads the library at `path` has loaded `name` itself.
    fn is_loaded(&self, path: &[u8], name: &[u8]) -> Result<bool, LookError> {
        let own = path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
        let Some(users) = self.users.get(own) else { return Ok(false) };
        for (node, user) in users {
            let needs = user.needed.iter().any(|needed| needed == name);
            let found = |search| matches!(search, Search::Found(_));
            if !needs || !found(self.loader.search(name, &node.path, user, &self.more)?) {
                return Ok(false);
            }
        }
        Ok(true)
    }
    fn file(&self, node: &Node, object: &Object, layer: &str) -> Result<Vec<Finding>, LookError> {
        let mut found = Vec::new();
        let path = &node.path[..];
        let mut add = |lint, message: String| {
            let finding = Finding::new(lint, layer, Some(path), message);
            // What has no interpreter and is nowhere where it is looked for is loaded by programs
            // that may have what it needs already.
            let plugin = object.interpreter.is_none() && node.attr.mode & 0o111 == 0;
            found.push(match plugin {
                true if lint.name != ELF_MACHINE.name => finding.severity(Severity::Warning),
                _ => finding,
            });
        };
        if let Some(machine) = self.machine
            && !runs_on(object, machine)
        {
            let message = format!(
                "it is for {}, and this root is of {}",
                object.machine_name(),
                machine.machine_name()
            );
            add(&ELF_MACHINE, message);
            return Ok(found);
        }
        if let Some(interpreter) = &object.interpreter {
            let at = reach(self.loader.view, interpreter)?;
            let loader = at.as_ref().map(|node| self.loader.object(node)).transpose()?.flatten();
            let shown = escape(interpreter);
            match loader {
                Some(loader) if loader.is_like(object) => {}
                Some(_) => {
                    add(&ELF_INTERPRETER, format!("its loader {shown} is for another machine"))
                }
                None => {
                    // Nothing that it needs can be loaded: that says it all.
                    add(&ELF_INTERPRETER, format!("its loader {shown} is not there"));
                    return Ok(found);
                }
            }
        }
        for name in &object.needed {
            let shown = escape(name);
            let library = match self.loader.search(name, path, object, &self.more)? {
                Search::Found(library) => library,
                Search::OtherMachine(other, of) => {
                    let (at, machine) = (escape(&other.path), of.machine_name());
                    add(&ELF_LIBRARY, format!("it needs {shown}, and /{at} is for {machine}"));
                    continue;
                }
                Search::Nowhere if self.is_loaded(path, name)? => continue,
                Search::Nowhere => {
                    add(
                        &ELF_LIBRARY,
                        format!("it needs {shown}, which is nowhere where it is looked for"),
                    );
                    continue;
                }
            };
            let at = format!("/{}", escape(&library.node.path));
            if library.uncached {
                let message =
                    format!("it needs {shown}, which is {at}, but not in /etc/ld.so.cache");
                add(&LINKER_CACHE, message);
            }
            // Without any version of its own it is taken as it is.
            if library.object.defines.is_empty() {
                continue;
            }
            let missing: Vec<String> = object
                .versions
                .iter()
                .filter(|version| version.of == *name && !version.weak)
                .filter(|version| !library.object.defines.contains(&version.name))
                .map(|version| escape(&version.name).into_owned())
                .collect();
            if !missing.is_empty() {
                let names = self.loader.view.names();
                let from = &names[library.node.layer()];
                let message = format!(
                    "it needs {} of {shown}, which {at} of {from} has not",
                    missing.join(", ")
                );
                add(&ELF_VERSION, message);
            }
        }
        Ok(found)
    }
}

/// Whether a machine runs what is for another one.
fn runs_on(object: &Object, machine: &Object) -> bool {
    use ::object::elf::{EM_386, EM_AARCH64, EM_ARM, EM_X86_64, Machine};
    let same = object.machine == machine.machine && object.little == machine.little;
    same || matches!(
        (Machine(machine.machine), Machine(object.machine)),
        (EM_X86_64, EM_386) | (EM_AARCH64, EM_ARM)
    )
}

/// The names of libraries of which another file may be found than before, or none.
fn affected(
    now: &Loader<'_>,
    before: &Loader<'_>,
    difference: &Difference,
    machine: Option<&Object>,
) -> Result<BTreeSet<Vec<u8>>, LookError> {
    let mut changed: Vec<Node> = Vec::new();
    let mut affected = BTreeSet::new();
    for brought in difference.brought.iter().filter(|brought| !brought.node.is_dir()) {
        match &brought.before {
            Some(hidden) => libraries(before.view, hidden, &mut changed)?,
            None => {
                let name = brought.node.name();
                let of_machine = || machine.map(|object| before.search(name, b"", object, &[]));
                if is_library(name) && matches!(of_machine().transpose()?, Some(Search::Found(_))) {
                    affected.insert(name.to_vec());
                }
            }
        }
    }
    for gone in &difference.gone {
        libraries(before.view, gone, &mut changed)?;
    }
    for dir in before.configured.iter().filter(|dir| !now.configured.contains(dir)) {
        if let Some(dir) = reach(before.view, dir)? {
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
        let Some(dir) = reach(before.view, &dir)? else { continue };
        for link in before.view.children(&dir)?.iter().filter(|node| node.is_link()) {
            if is_library(link.name())
                && let Some(target) = reach(before.view, &link.path)?
                && affected.contains(target.name())
            {
                affected.insert(link.name().to_vec());
            }
        }
    }
    Ok(affected)
}

fn is_library(name: &[u8]) -> bool {
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
