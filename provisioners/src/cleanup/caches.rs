//! Clean-up of caches that programs can rebuild.

use std::os::unix::ffi::OsStrExt;

use super::walk::{revert_all, revert_content, revert_files, revert_matching};
use crate::machine::{Kind, Machine, MachineError};
use crate::options::Options;

pub(super) fn apt_cache(machine: &mut dyn Machine, _: &Options) -> Result<(), MachineError> {
    // apt requires its directories and locks. A process that was killed leaves caches with a random
    // suffix.
    revert_matching(machine, "/var/cache/apt", |e| {
        let is_cache =
            |name: &&str| e.name.as_bytes().strip_prefix(name.as_bytes()).is_some_and(is_suffix);
        e.kind == Kind::File && ["pkgcache.bin", "srcpkgcache.bin"].iter().any(is_cache)
    })?;
    revert_matching(machine, "/var/cache/apt/archives", |e| {
        e.kind == Kind::File && e.name.as_bytes().ends_with(b".deb")
    })?;
    revert_content(machine, "/var/cache/apt/archives/partial")
}

fn is_suffix(rest: &[u8]) -> bool {
    rest.is_empty() || rest.starts_with(b".")
}

pub(super) fn apt_lists(machine: &mut dyn Machine, _: &Options) -> Result<(), MachineError> {
    revert_matching(machine, "/var/lib/apt/lists", |e| e.name != "lock" && e.name != "partial")?;
    revert_content(machine, "/var/lib/apt/lists/partial")?;
    revert_content(machine, "/var/lib/apt/periodic")
}

pub(super) fn caches(machine: &mut dyn Machine, _: &Options) -> Result<(), MachineError> {
    // ldconfig's aux-cache contains inode numbers and times, man-db's index the times of its files.
    revert_all(
        machine,
        &[
            "/var/cache/ldconfig/aux-cache",
            "/var/lib/plocate/plocate.db",
            "/var/lib/mlocate/mlocate.db",
        ],
    )?;
    for dir in [
        "/var/cache/man",
        "/var/cache/fontconfig",
        "/var/cache/swcatalog",
        "/var/cache/app-info",
        "/var/cache/debtags",
        "/var/lib/command-not-found",
    ] {
        revert_files(machine, dir)?;
    }
    Ok(())
}
