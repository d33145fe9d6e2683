//! What keeps one file from being loaded in a root.

use std::collections::{BTreeMap, HashMap};
use std::iter::successors;
use std::sync::Arc;

use super::loader::{Library, Loader, Search, own_dirs};
use super::object::Object;
use super::{Files, is_library};
use crate::check::context::resolve;
use crate::check::runtime::lints::{
    ELF_DAMAGED, ELF_INTERPRETER, ELF_LIBRARY, ELF_MACHINE, ELF_VERSION, LINKER_CACHE,
};
use crate::check::{Lint, Severity};
use crate::look::{LookError, Node};
use crate::seal::path::escape;

/// The most directories that are added to a file's own, which is more than a root has: each of them
/// is looked into for each library.
const MOST_DIRS: usize = 256;

/// Judges files in a root.
pub(super) struct Judge<'a> {
    loader: &'a Loader<'a>,
    machine: Option<&'a Object>,
    /// What somebody adds to the directories of the libraries that he loads (`DT_RPATH`).
    rpaths: Vec<Vec<u8>>,
    /// Who loads a library, by its name.
    users: BTreeMap<&'a [u8], Vec<&'a (Node, Arc<Object>)>>,
    /// Of programs, what libraries below this layer need is judged too, for nobody else does.
    deep: Option<usize>,
}

/// What is wrong.
pub(super) struct Fault {
    pub(super) lint: &'static Lint,
    pub(super) severity: Severity,
    pub(super) message: String,
    /// What is missing or not as it should be: the name of a library, or the path of a loader.
    pub(super) about: Vec<u8>,
}

impl Fault {
    fn new(lint: &'static Lint, about: &[u8], message: String) -> Self {
        Fault { lint, severity: lint.severity, message, about: about.to_vec() }
    }
}

impl<'a> Judge<'a> {
    pub(super) fn new(
        loader: &'a Loader<'a>,
        machine: Option<&'a Object>,
        files: &'a Files,
        deep: Option<usize>,
    ) -> Self {
        let mut users: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for file in files {
            for name in &file.1.needed {
                users.entry(&name[..]).or_default().push(file);
            }
        }
        let mut rpaths = Vec::new();
        for (node, object) in files {
            add_rpath(&mut rpaths, node, object);
        }
        Judge { loader, machine, rpaths, users, deep }
    }

    /// What is wrong with a file.
    pub(super) fn file(&self, node: &Node, object: &Arc<Object>) -> Result<Vec<Fault>, LookError> {
        // What is there of it is not worth a look. Symbols apart from their program keep its headers.
        let (end, size) = (object.end, node.attr.size);
        if end > size && !node.name().ends_with(b".debug") {
            let message = format!("it is cut off: {end} bytes of it are loaded, and it has {size}");
            return Ok(vec![Fault::new(&ELF_DAMAGED, b"", message)]);
        }
        let mut faults = match self.start(object)? {
            Some(fault) => vec![fault],
            None => self.load(node, object)?,
        };
        // What is neither started nor needed by anything is loaded by programs at will, which may have
        // what it needs already.
        let needed = self.users.contains_key(node.name());
        let plugin = object.interpreter.is_none() && node.attr.mode & 0o111 == 0 && !needed;
        for fault in &mut faults {
            // What is for another machine and never loaded here may be firmware, or for that machine.
            let looked_for = || match self.machine {
                Some(machine) => self.loader.looks_into(&node.path, machine),
                None => false,
            };
            if fault.lint.name != ELF_MACHINE.name {
                fault.severity = if plugin { Severity::Warning } else { fault.severity };
            } else if node.attr.mode & 0o111 == 0 && !looked_for() {
                fault.severity = Severity::Note;
            }
        }
        Ok(faults)
    }

    /// What keeps the kernel from running it.
    fn start(&self, object: &Object) -> Result<Option<Fault>, LookError> {
        if let Some(machine) = self.machine
            && !runs_on(object, machine)
        {
            let (of, root) = (object.machine_name(), machine.machine_name());
            let message = format!("it is for {of}, and this root is of {root}");
            return Ok(Some(Fault::new(&ELF_MACHINE, b"", message)));
        }
        let Some(interpreter) = &object.interpreter else { return Ok(None) };
        let at = resolve(self.loader.view, interpreter)?;
        let loader = at.as_ref().map(|node| self.loader.object(node)).transpose()?.flatten();
        let shown = escape(interpreter);
        let message = match loader {
            Some(loader) if loader.is_like(object) => return Ok(None),
            Some(_) => format!("its loader {shown} is for another machine"),
            None => format!("its loader {shown} is not there"),
        };
        Ok(Some(Fault::new(&ELF_INTERPRETER, interpreter, message)))
    }

    /// Loads it as ld.so does, breadth first, each library once.
    fn load(&self, node: &Node, object: &Arc<Object>) -> Result<Vec<Fault>, LookError> {
        let mut faults = Vec::new();
        let mut loaded: HashMap<Vec<u8>, Option<Library>> = HashMap::new();
        let deep = self.deep.is_some() && object.interpreter.is_some();
        // Each with the place of the one that it was loaded by.
        let mut order = vec![(node.clone(), object.clone(), None)];
        for at in 0.. {
            let Some((by, needing, loader)) = order.get(at).cloned() else { break };
            let mut more = self.more(node, object).to_vec();
            let loaders = successors(loader, |&at: &usize| order[at].2);
            for (by, loading, _) in loaders.take(MOST_DIRS).map(|at| &order[at]) {
                add_rpath(&mut more, by, loading);
            }
            let own = by.path == node.path;
            // What the overlays bring is judged where it is.
            let told = own || self.deep.is_some_and(|first| by.layer() < first);
            let who = match own {
                true => "it".to_owned(),
                false => format!("it loads /{}, which", escape(&by.path)),
            };
            for name in &needing.needed {
                if let Some(library) = loaded.get(name) {
                    if told && let Some(library) = library {
                        faults.extend(self.version(&who, name, &needing, library));
                    }
                    continue;
                }
                let (library, fault) = self.need(&who, name, &by, &needing, &more)?;
                // Where it is judged, it may have been found by the way of somebody else.
                let elsewhere = || self.need(&who, name, &by, &needing, &self.rpaths);
                if fault.is_some() && (told || deep && elsewhere()?.1.is_none()) {
                    faults.extend(fault);
                }
                if let Some(library) = &library {
                    if told {
                        faults.extend(self.version(&who, name, &needing, library));
                    }
                    if deep {
                        order.push((library.node.clone(), library.object.clone(), Some(at)));
                    }
                }
                loaded.insert(name.clone(), library);
            }
        }
        Ok(faults)
    }

    /// The library that an object needs, and what is wrong with that.
    fn need(
        &self,
        who: &str,
        name: &[u8],
        by: &Node,
        needing: &Object,
        more: &[Vec<u8>],
    ) -> Result<(Option<Library>, Option<Fault>), LookError> {
        let shown = escape(name);
        let (lint, message) = match self.loader.search(name, &by.path, needing, more)? {
            Search::Found(library) if library.uncached => {
                let at = escape(&library.node.path);
                let message =
                    format!("{who} needs {shown}, which is /{at}, but not in /etc/ld.so.cache");
                return Ok((Some(library), Some(Fault::new(&LINKER_CACHE, name, message))));
            }
            Search::Found(library) => return Ok((Some(library), None)),
            Search::OtherMachine(other, of) => {
                let (at, machine) = (escape(&other.path), of.machine_name());
                (&ELF_LIBRARY, format!("{who} needs {shown}, and /{at} is for {machine}"))
            }
            Search::Nowhere if self.is_loaded(&by.path, name)? => return Ok((None, None)),
            Search::Nowhere => (
                &ELF_LIBRARY,
                format!("{who} needs {shown}, which is nowhere where it is looked for"),
            ),
        };
        Ok((None, Some(Fault::new(lint, name, message))))
    }

    /// Versions that the library has not. One without any is taken as it is.
    fn version(
        &self,
        who: &str,
        name: &[u8],
        needing: &Object,
        library: &Library,
    ) -> Option<Fault> {
        let has = &library.object.defines;
        let missing: Vec<String> = needing
            .versions
            .iter()
            .filter(|version| *version.of == *name && !version.weak && !has.contains(&version.name))
            .map(|version| escape(&version.name).into_owned())
            .collect();
        if has.is_empty() || missing.is_empty() {
            return None;
        }
        let (shown, at) = (escape(name), escape(&library.node.path));
        let from = &self.loader.view.names()[library.node.layer()];
        let missing = missing.join(", ");
        let message = format!("{who} needs {missing} of {shown}, which /{at} of {from} has not");
        Some(Fault::new(&ELF_VERSION, name, message))
    }

    /// Whether everything that loads the library at `path` has loaded `name` itself.
    fn is_loaded(&self, path: &[u8], name: &[u8]) -> Result<bool, LookError> {
        let own = path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
        let Some(users) = self.users.get(own) else { return Ok(false) };
        for (node, user) in users {
            let needs = user.needed.iter().any(|needed| needed == name);
            let found = |search| matches!(search, Search::Found(_));
            let more = self.more(node, user);
            if !needs || !found(self.loader.search(name, &node.path, user, more)?) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The directories that those who load a file add to its own. Who loads a library, and what was
    /// loaded before it, is not known here: it may be anybody. A program is loaded by nobody; but
    /// some libraries can be run too, and tell their version then.
    fn more(&self, node: &Node, object: &Object) -> &[Vec<u8>] {
        match object.interpreter.is_some() && !is_library(node.name()) {
            true => &[],
            false => &self.rpaths,
        }
    }
}

/// Adds the directories that a file adds to those of what it loads (`DT_RPATH`, where there is no
/// `DT_RUNPATH`).
fn add_rpath(dirs: &mut Vec<Vec<u8>>, node: &Node, object: &Object) {
    if object.runpath.is_empty() && !object.rpath.is_empty() {
        for dir in own_dirs(&object.rpath, &node.path, object) {
            if dirs.len() < MOST_DIRS && !dirs.contains(&dir) {
                dirs.push(dir);
            }
        }
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
