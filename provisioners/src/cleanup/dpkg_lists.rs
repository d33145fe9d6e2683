//! Clean-up of the lists of files that dpkg keeps of each package.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::walk::entries;
use crate::machine::{Kind, Machine, MachineError};
use crate::options::Options;

/// dpkg's directory of files about packages.
const INFO: &str = "/var/lib/dpkg/info";

/// dpkg's database of packages, which changes with every installation.
const STATUS: &str = "/var/lib/dpkg/status";

/// Reverts the lists of packages of the lower layers from which dpkg removed only directories.
///
/// If a new package creates a directory that other packages list but that does not exist, dpkg
/// removes it from their lists. Directories are missing in a base whose clean-up removed
/// translations or manuals, so installing a package there rewrites the lists of many others. A
/// directory may belong to several packages, so the lists of the lower layers remain correct.
pub(super) fn dpkg_lists(machine: &mut dyn Machine, _: &Options) -> Result<(), MachineError> {
    let status = Path::new(STATUS);
    if machine.read(status)? == machine.read_below(status)? {
        return Ok(());
    }
    for entry in entries(machine, Path::new(INFO))? {
        let path = Path::new(INFO).join(&entry.name);
        if entry.kind != Kind::File || path.extension() != Some(OsStr::new("list")) {
            continue;
        }
        let (Some(now), Some(before)) = (machine.read(&path)?, machine.read_below(&path)?) else {
            continue;
        };
        if now != before
            && is_same_version(machine, &path)?
            && lacks_only_directories(machine, &before, &now)?
        {
            machine.revert(&path)?;
        }
    }
    Ok(())
}

/// Returns whether the package with this list is the one of the lower layers: its files have the
/// same digests.
fn is_same_version(machine: &dyn Machine, list: &Path) -> Result<bool, MachineError> {
    let digests = list.with_extension("md5sums");
    Ok(machine.read(&digests)? == machine.read_below(&digests)?)
}

/// Returns whether `now` has the lines of `before`, in any order, except some directories.
fn lacks_only_directories(
    machine: &dyn Machine,
    before: &[u8],
    now: &[u8],
) -> Result<bool, MachineError> {
    let (before, now) = (lines(before), lines(now));
    if !now.is_subset(&before) {
        return Ok(false);
    }
    let parents: HashSet<&Path> = before.iter().filter_map(|path| path.parent()).collect();
    for path in before.difference(&now) {
        let is_directory = parents.contains(path)
            || machine.stat(path)?.is_some_and(|stat| stat.kind == Kind::Directory);
        if !is_directory {
            return Ok(false);
        }
    }
    Ok(true)
}

fn lines(list: &[u8]) -> HashSet<&Path> {
    list.split(|&byte| byte == b'\n').map(|line| Path::new(OsStr::from_bytes(line))).collect()
}
