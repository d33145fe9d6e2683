//! Clean-up of files that a small image does not need.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::walk::{entries, revert_content, revert_files, revert_matching, walk};
use crate::machine::{Kind, Machine, MachineError};
use crate::options::Options;

/// Directories that are searched for modules of Python.
const PYTHON_DIRS: &[&str] = &["/usr/lib", "/usr/share", "/usr/local/lib", "/opt"];

pub(super) fn python_bytecode(machine: &mut dyn Machine, _: &Options) -> Result<(), MachineError> {
    for dir in PYTHON_DIRS {
        for (path, kind) in walk(machine, Path::new(dir), &|p| !p.ends_with("__pycache__"))? {
            if kind == Kind::Directory && path.ends_with("__pycache__") {
                machine.revert(&path)?;
            }
        }
    }
    Ok(())
}

pub(super) fn docs(machine: &mut dyn Machine, _: &Options) -> Result<(), MachineError> {
    for (path, kind) in walk(machine, Path::new("/usr/share/doc"), &|_| true)? {
        let keep = path.file_name().is_some_and(|name| name == "copyright");
        match kind {
            // The copyright file of some packages is in the directory of another, behind a link.
            Kind::Symlink if path.parent() == Some(Path::new("/usr/share/doc")) => {}
            Kind::Directory if !entries(machine, &path)?.is_empty() => {}
            _ if keep => {}
            _ => machine.revert(&path)?,
        }
    }
    // Scripts of some packages require the directories of manual sections.
    for (path, kind) in walk(machine, Path::new("/usr/share/man"), &|_| true)? {
        let section = path.parent() == Some(Path::new("/usr/share/man"))
            && path.file_name().is_some_and(|name| name.as_bytes().starts_with(b"man"));
        let in_use = kind == Kind::Directory && !entries(machine, &path)?.is_empty();
        if !section && !in_use {
            machine.revert(&path)?;
        }
    }
    for dir in ["/usr/share/info", "/usr/share/doc-base", "/usr/share/gtk-doc"] {
        revert_files(machine, dir)?;
    }
    for dir in ["/usr/share/lintian", "/usr/share/linda", "/usr/share/bug"] {
        revert_content(machine, dir)?;
    }
    Ok(())
}

pub(super) fn locales(machine: &mut dyn Machine, _: &Options) -> Result<(), MachineError> {
    revert_matching(machine, "/usr/share/locale", |entry| {
        let name = entry.name.as_bytes();
        let english = name == b"en" || name.starts_with(b"en_") || name.starts_with(b"en@");
        entry.kind == Kind::Directory && !english
    })
}
