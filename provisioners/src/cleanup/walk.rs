//! Going over folders of a root.

use std::path::{Path, PathBuf};

use crate::machine::{Entry, Kind, Machine, MachineError};

/// The entries of a folder by name; none when there is no such folder.
pub(super) fn entries(machine: &dyn Machine, dir: &Path) -> Result<Vec<Entry>, MachineError> {
    let mut entries = machine.list(dir)?;
    entries.sort();
    Ok(entries)
}

/// Takes back what the build did to each of these paths.
pub(super) fn revert_all(machine: &mut dyn Machine, paths: &[&str]) -> Result<(), MachineError> {
    paths.iter().try_for_each(|path| machine.revert(Path::new(path)))
}

/// Takes back what the build put into a folder, but not the folder.
pub(super) fn revert_content(machine: &mut dyn Machine, dir: &str) -> Result<(), MachineError> {
    revert_matching(machine, dir, |_| true)
}

/// Takes back the entries of a folder that `wanted` picks by name and kind.
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

/// Takes back what is not a directory in a folder and below.
pub(super) fn revert_files(machine: &mut dyn Machine, dir: &str) -> Result<(), MachineError> {
    for (path, kind) in below(machine, Path::new(dir), &|_| true)? {
        if kind != Kind::Directory {
            machine.revert(&path)?;
        }
    }
    Ok(())
}

/// Everything below a folder, a directory after what is in it. `descend` says into which
/// directories to go; symbolic links are not followed.
pub(super) fn below(
    machine: &dyn Machine,
    dir: &Path,
    descend: &dyn Fn(&Path) -> bool,
) -> Result<Vec<(PathBuf, Kind)>, MachineError> {
    let mut found = Vec::new();
    for entry in entries(machine, dir)? {
        let path = dir.join(&entry.name);
        if entry.kind == Kind::Directory && descend(&path) {
            found.extend(below(machine, &path, descend)?);
        }
        found.push((path, entry.kind));
    }
    Ok(found)
}
