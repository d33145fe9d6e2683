//! Finds the faults that prevent one ELF file from being loaded in a root.

use std::collections::{BTreeMap, HashMap};
use std::iter::successors;
use std::sync::Arc;

use super::loader::{Library, Loader, Search, own_dirs};
use super::object::ElfObject;
use super::{ElfFiles, is_library};
use crate::check::context::resolve;
use crate::check::runtime::lints::{
    ELF_DAMAGED, ELF_INTERPRETER, ELF_LIBRARY, ELF_MACHINE, ELF_VERSION, LINKER_CACHE,
};
use crate::check::{Lint, Severity};
use crate::image::view::{LookError, ViewNode};
use crate::text::escape::escape;

/// Maximum directories that are added to a file's own. Each of them is searched for each library.
const MAX_ADDED_DIRS: usize = 256;

/// Checks ELF files in a root.
pub(super) struct ElfChecker<'a> {
    loader: &'a Loader<'a>,
    machine: Option<&'a ElfObject>,
    /// Directories that the files add for the libraries that they load (`DT_RPATH`).
    rpaths: Vec<Vec<u8>>,
    /// The files that need a library, by its name.
    users: BTreeMap<&'a [u8], Vec<&'a (ViewNode, Arc<ElfObject>)>>,
    /// With a layer: for programs, the needs of libraries below this layer are checked too, since
    /// those libraries are not checked themselves.
    first_checked: Option<usize>,
}

/// A fault of an ELF file.
pub(super) struct ElfFault {
    pub(super) lint: &'static Lint,
    pub(super) severity: Severity,
    pub(super) message: String,
    /// The name of the library, or the path of the loader, that is missing or wrong.
    pub(super) about: Vec<u8>,
}

impl ElfFault {
    fn new(lint: &'static Lint, about: &[u8], message: String) -> Self {
        ElfFault { lint, severity: lint.severity, message, about: about.to_vec() }
    }
}

impl<'a> ElfChecker<'a> {
    pub(super) fn new(
        loader: &'a Loader<'a>,
        machine: Option<&'a ElfObject>,
        files: &'a ElfFiles,
        first_checked: Option<usize>,
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
        ElfChecker { loader, machine, rpaths, users, first_checked }
    }

    /// Returns the faults of a file.
    pub(super) fn check_file(
        &self,
        node: &ViewNode,
        object: &Arc<ElfObject>,
    ) -> Result<Vec<ElfFault>, LookError> {
        // Separate debug files keep the headers of their program without its contents.
        let (end, size) = (object.end, node.attr.size);
        if end > size && !node.name().ends_with(b".debug") {
            let message = format!("it is truncated: {size} of {end} bytes");
            return Ok(vec![ElfFault::new(&ELF_DAMAGED, b"", message)]);
        }
        let mut faults = match self.check_start(object)? {
            Some(fault) => vec![fault],
            None => self.check_libraries(node, object)?,
        };
        // A plug-in is loaded at run time by programs that may have loaded its libraries already.
        let needed = self.users.contains_key(node.name());
        let plugin = object.interpreter.is_none() && node.attr.mode & 0o111 == 0 && !needed;
        for fault in &mut faults {
            // A file for another machine that is never loaded may be firmware.
            let is_searched = || match self.machine {
                Some(machine) => self.loader.searches_dir_of(&node.path, machine),
                None => false,
            };
            if fault.lint.name != ELF_MACHINE.name {
                fault.severity = if plugin { Severity::Warning } else { fault.severity };
            } else if node.attr.mode & 0o111 == 0 && !is_searched() {
                fault.severity = Severity::Note;
            }
        }
        Ok(faults)
    }

    /// Returns the fault that prevents the kernel from running the file.
    fn check_start(&self, object: &ElfObject) -> Result<Option<ElfFault>, LookError> {
        if let Some(machine) = self.machine
            && !runs_on(object, machine)
        {
            let (own, root) = (object.machine_name(), machine.machine_name());
            let message = format!("it is for {own}, but the root is for {root}");
            return Ok(Some(ElfFault::new(&ELF_MACHINE, b"", message)));
        }
        let Some(interpreter) = &object.interpreter else { return Ok(None) };
        let at = resolve(self.loader.view, interpreter)?;
        let loader = at.as_ref().map(|node| self.loader.object(node)).transpose()?.flatten();
        let shown = escape(interpreter);
        let message = match loader {
            Some(loader) if loader.is_compatible(object) => return Ok(None),
            Some(_) => format!("its loader {shown} is for another machine"),
            None => format!("its loader {shown} does not exist"),
        };
        Ok(Some(ElfFault::new(&ELF_INTERPRETER, interpreter, message)))
    }

    /// Loads the libraries of a file as ld.so does, breadth first and each once, and returns
    /// faults.
    fn check_libraries(
        &self,
        node: &ViewNode,
        object: &Arc<ElfObject>,
    ) -> Result<Vec<ElfFault>, LookError> {
        let mut faults = Vec::new();
        let mut loaded: HashMap<Vec<u8>, Option<Library>> = HashMap::new();
        let recursive = self.first_checked.is_some() && object.interpreter.is_some();
        // Each with the index of the object that loaded it.
        let mut order = vec![(node.clone(), object.clone(), None)];
        for at in 0.. {
            let Some((by, needing, loader)) = order.get(at).cloned() else { break };
            let mut more = self.added_dirs(node, object).to_vec();
            let loaders = successors(loader, |&at: &usize| order[at].2);
            for (by, loading, _) in loaders.take(MAX_ADDED_DIRS).map(|at| &order[at]) {
                add_rpath(&mut more, by, loading);
            }
            let own = by.path == node.path;
            // Libraries of checked layers are checked themselves.
            let report = own || self.first_checked.is_some_and(|first| by.layer() < first);
            let subject = match own {
                true => "it".to_owned(),
                false => format!("it loads /{}, which", escape(&by.path)),
            };
            for name in &needing.needed {
                if let Some(library) = loaded.get(name) {
                    if report && let Some(library) = library {
                        faults.extend(self.check_version(&subject, name, &needing, library));
                    }
                    continue;
                }
                let (library, fault) = self.find_library(&subject, name, &by, &needing, &more)?;
                // The check of that library also searches the directories of other programs, and
                // may have no fault.
                let elsewhere = || self.find_library(&subject, name, &by, &needing, &self.rpaths);
                if fault.is_some() && (report || recursive && elsewhere()?.1.is_none()) {
                    faults.extend(fault);
                }
                if let Some(library) = &library {
                    if report {
                        faults.extend(self.check_version(&subject, name, &needing, library));
                    }
                    if recursive {
                        order.push((library.node.clone(), library.object.clone(), Some(at)));
                    }
                }
                loaded.insert(name.clone(), library);
            }
        }
        Ok(faults)
    }

    /// Returns the library that an object needs, and its fault.
    fn find_library(
        &self,
        subject: &str,
        name: &[u8],
        by: &ViewNode,
        needing: &ElfObject,
        more: &[Vec<u8>],
    ) -> Result<(Option<Library>, Option<ElfFault>), LookError> {
        let shown = escape(name);
        let (lint, message) = match self.loader.search(name, &by.path, needing, more)? {
            Search::Found(library) if library.uncached => {
                let at = escape(&library.node.path);
                let message =
                    format!("{subject} needs {shown}, but /{at} is not in /etc/ld.so.cache");
                return Ok((Some(library), Some(ElfFault::new(&LINKER_CACHE, name, message))));
            }
            Search::Found(library) => return Ok((Some(library), None)),
            Search::OtherMachine(other, of) => {
                let (at, machine) = (escape(&other.path), of.machine_name());
                (&ELF_LIBRARY, format!("{subject} needs {shown}, but /{at} is for {machine}"))
            }
            Search::Nowhere if self.is_loaded(&by.path, name)? => return Ok((None, None)),
            Search::Nowhere => (
                &ELF_LIBRARY,
                format!("{subject} needs {shown}, which is not in any searched directory"),
            ),
        };
        Ok((None, Some(ElfFault::new(lint, name, message))))
    }

    /// Returns the fault of versions that the library lacks. A library without any versions is
    /// accepted.
    fn check_version(
        &self,
        subject: &str,
        name: &[u8],
        needing: &ElfObject,
        library: &Library,
    ) -> Option<ElfFault> {
        let has = &library.object.defines;
        let missing: Vec<String> = needing
            .versions
            .iter()
            .filter(|version| *version.library == *name && !version.weak)
            .filter(|version| !has.contains(&version.name))
            .map(|version| escape(&version.name).into_owned())
            .collect();
        if has.is_empty() || missing.is_empty() {
            return None;
        }
        let (shown, at) = (escape(name), escape(&library.node.path));
        let from = &self.loader.view.names()[library.node.layer()];
        let missing = missing.join(", ");
        let message = format!("{subject} needs {missing} of {shown}, but /{at} of {from} lacks it");
        Some(ElfFault::new(&ELF_VERSION, name, message))
    }

    /// Returns whether everything that loads the library at `path` also loads `name` itself.
    fn is_loaded(&self, path: &[u8], name: &[u8]) -> Result<bool, LookError> {
        let own = path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
        let Some(users) = self.users.get(own) else { return Ok(false) };
        for (node, user) in users {
            let needs = user.needed.iter().any(|needed| needed == name);
            let found = |search| matches!(search, Search::Found(_));
            let more = self.added_dirs(node, user);
            if !needs || !found(self.loader.search(name, &node.path, user, more)?) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Returns the search directories that other files add to a file's own. The programs that load
    /// a library are unknown, so a library gets the directories of all files. A program gets none,
    /// unless it is a library that can be run, for example to print its version.
    fn added_dirs(&self, node: &ViewNode, object: &ElfObject) -> &[Vec<u8>] {
        match object.interpreter.is_some() && !is_library(node.name()) {
            true => &[],
            false => &self.rpaths,
        }
    }
}

/// Adds the directories of a file that ld.so also searches for the libraries it loads: `DT_RPATH`
/// without `DT_RUNPATH`.
fn add_rpath(dirs: &mut Vec<Vec<u8>>, node: &ViewNode, object: &ElfObject) {
    if object.runpath.is_empty() && !object.rpath.is_empty() {
        for dir in own_dirs(&object.rpath, &node.path, object) {
            if dirs.len() < MAX_ADDED_DIRS && !dirs.contains(&dir) {
                dirs.push(dir);
            }
        }
    }
}

/// Returns whether a machine can run the object.
fn runs_on(object: &ElfObject, machine: &ElfObject) -> bool {
    use ::object::elf::{EM_386, EM_AARCH64, EM_ARM, EM_X86_64, Machine};
    let same = object.machine == machine.machine && object.little == machine.little;
    same || matches!(
        (Machine(machine.machine), Machine(object.machine)),
        (EM_X86_64, EM_386) | (EM_AARCH64, EM_ARM)
    )
}
