//! Compares the installed Debian packages of two roots, using their dpkg databases.

use std::cmp::Ordering;

use super::Diff;
use crate::image::view::packages::{DpkgDatabase, DpkgPackage};
use crate::image::view::{LookError, version};

/// How a package changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PackageChangeKind {
    /// It was not installed before.
    Installed,
    /// The new root has a later version.
    Upgraded,
    /// The new root has an earlier version.
    Downgraded,
    /// It was removed with its configuration files.
    Removed,
    /// It was removed, but its configuration files remain (dpkg's state `config-files`).
    ConfigFiles,
    /// Only configuration files remained, and they were removed.
    Purged,
    /// The same version has another status, such as `half-configured` or on hold.
    State,
}

impl PackageChangeKind {
    /// Returns its name.
    pub fn word(self) -> &'static str {
        match self {
            PackageChangeKind::Installed => "installed",
            PackageChangeKind::Upgraded => "upgraded",
            PackageChangeKind::Downgraded => "downgraded",
            PackageChangeKind::Removed => "removed",
            PackageChangeKind::ConfigFiles => "config-files",
            PackageChangeKind::Purged => "purged",
            PackageChangeKind::State => "state",
        }
    }
}

/// A package that differs between the roots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackageChange {
    /// The name, with the architecture if that is needed: the key in [`DpkgDatabase`].
    pub name: String,
    /// How the package changed.
    pub how: PackageChangeKind,
    /// The package in the old root.
    pub old: Option<DpkgPackage>,
    /// The package in the new root.
    pub new: Option<DpkgPackage>,
}

/// Returns the packages that differ, sorted by name.
pub(crate) fn compare(old: &DpkgDatabase, new: &DpkgDatabase) -> Vec<PackageChange> {
    let mut changes = Vec::new();
    let mut compare_one = |name: &str, old: Option<&DpkgPackage>, new: Option<&DpkgPackage>| {
        if let Some(how) = how(old, new) {
            let (old, new) = (old.cloned(), new.cloned());
            changes.push(PackageChange { name: name.to_owned(), how, old, new });
        }
    };
    for (name, package) in old.iter() {
        compare_one(name, Some(package), new.get(name));
    }
    for (name, package) in new.iter().filter(|(name, _)| old.get(name).is_none()) {
        compare_one(name, None, Some(package));
    }
    changes.sort_by(|a, b| a.name.cmp(&b.name));
    changes
}

fn how(old: Option<&DpkgPackage>, new: Option<&DpkgPackage>) -> Option<PackageChangeKind> {
    let installed = |package: Option<&DpkgPackage>| package.is_some_and(DpkgPackage::is_installed);
    let left = |package: Option<&DpkgPackage>| {
        package.is_some_and(|p| p.status.ends_with(" config-files"))
    };
    Some(match (old, new) {
        (Some(a), Some(b)) if a.status == b.status && a.version == b.version => return None,
        (Some(a), Some(b)) if installed(old) && installed(new) => {
            match version::compare(&a.version, &b.version) {
                Ordering::Less => PackageChangeKind::Upgraded,
                Ordering::Greater => PackageChangeKind::Downgraded,
                Ordering::Equal => PackageChangeKind::State,
            }
        }
        _ if installed(new) => PackageChangeKind::Installed,
        (_, Some(_)) if left(new) => PackageChangeKind::ConfigFiles,
        (Some(_), None) if left(old) => PackageChangeKind::Purged,
        (Some(_), None) => PackageChangeKind::Removed,
        _ => PackageChangeKind::State,
    })
}

impl Diff<'_> {
    /// Returns the Debian packages that differ between the two views. The databases are read only
    /// if they differ.
    ///
    /// # Errors
    /// Fails if a layer is damaged.
    pub fn packages(&self) -> Result<Vec<PackageChange>, LookError> {
        let status = b"var/lib/dpkg/status";
        let found = (self.old.find_following(status)?, self.new.find_following(status)?);
        if let (Some(old), Some(new)) = &found
            && self.same(old.found.source(), new.found.source())
        {
            return Ok(Vec::new());
        }
        Ok(compare(&DpkgDatabase::read(self.old)?, &DpkgDatabase::read(self.new)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn package_changes_are_classified() {
        let one = |name: &str, version: &str, status: &str| {
            format!("Package: {name}\nStatus: {status}\nArchitecture: all\nVersion: {version}\n\n")
        };
        let (ok, config) = ("install ok installed", "deinstall ok config-files");
        let old = [
            one("down", "1.10", ok),
            one("gone", "1", ok),
            one("half", "1", ok),
            one("kept", "1", ok),
            one("left", "1", ok),
            one("purged", "1", config),
            one("up", "1.9", ok),
        ];
        let new = [
            one("down", "1.9", ok),
            one("half", "1", "install ok half-configured"),
            one("kept", "1", ok),
            one("left", "1", config),
            one("new", "2", ok),
            one("up", "1.10", ok),
        ];
        let changes =
            compare(&DpkgDatabase::parse(&old.concat()), &DpkgDatabase::parse(&new.concat()));
        let actual: Vec<_> = changes.iter().map(|c| (c.name.as_str(), c.how.word())).collect();
        let expected = [
            ("down", "downgraded"),
            ("gone", "removed"),
            ("half", "state"),
            ("left", "config-files"),
            ("new", "installed"),
            ("purged", "purged"),
            ("up", "upgraded"),
        ];
        assert_eq!(actual, expected);
    }
}
