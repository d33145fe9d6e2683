//! Walks directories of a root and reverts their content.

use std::path::{Path, PathBuf};

use crate::machine::{Entry, Kind, Machine, MachineError};

/// Returns the entries of a directory, ordered by name; empty if it does not exist.
pub(super) fn entries(machine: &dyn Machine, dir: &Path) -> Result<Vec<Entry>, MachineError> {
    let mut entries = machine.list(dir)?;
    entries.sort();
    Ok(entries)
}

/// Reverts each of these paths.
pub(super) fn revert_all(machine: &mut dyn Machine, paths: &[&str]) -> Result<(), MachineError> {
    paths.iter().try_for_each(|path| machine.revert(Path::new(path)))
}

/// Reverts the entries of a directory, but not the directory.
pub(super) fn revert_content(machine: &mut dyn Machine, dir: &str) -> Result<(), MachineError> {
    revert_matching(machine, dir, |_| true)
}

/// Reverts the entries of a directory for which `wanted` returns true.
pub(super) fn revert_matching(
    machine: &mut dyn Machine,
    dir: &str,
    wanted: impl Fn(&Entry) -> bool,
) -> Result<(), MachineError> {
    let dir = Path::new(dir);
    for entry in entries(machine, dir)?.iter().filter(|entry| wanted(entry)) {
        machine.revert(&dir.join(&entry.name))?;
    }
    Ok(())
}

/// Reverts all objects below a directory that are not directories.
pub(super) fn revert_files(machine: &mut dyn Machine, dir: &str) -> Result<(), MachineError> {
    for (path, kind) in walk(machine, Path::new(dir), &|_| true)? {
        if kind != Kind::Directory {
            machine.revert(&path)?;
        }
    }
    Ok(())
}

/// Returns all objects below a directory, each directory after its content. Descends into the
/// directories for which `descend` returns true; does not follow symbolic links.
pub(super) fn walk(
    machine: &dyn Machine,
    dir: &Path,
    descend: &dyn Fn(&Path) -> bool,
) -> Result<Vec<(PathBuf, Kind)>, MachineError> {
    let mut found = Vec::new();
    for entry in entries(machine, dir)? {
        let path = dir.join(&entry.name);
        if entry.kind == Kind::Directory && descend(&path) {
            found.extend(walk(machine, &path, descend)?);
        }
        found.push((path, entry.kind));
    }
    Ok(found)
}
