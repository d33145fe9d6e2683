//! Which Debian packages differ between two roots, as their dpkg databases have them.

use std::cmp::Ordering;

use super::Diff;
use crate::look::packages::{Package, Packages};
use crate::look::{LookError, version};

/// How a package changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum How {
    /// It is there now.
    Installed,
    /// A later version is there now.
    Upgraded,
    /// An earlier version is there now.
    Downgraded,
    /// It is there no longer, and nothing is left of it.
    Removed,
    /// It is there no longer, but its configuration files are (dpkg's state `config-files`).
    ConfigFiles,
    /// Nothing was left of it but configuration files, and they are gone too.
    Purged,
    /// The same version is in another state, such as `half-configured`, or held.
    State,
}

impl How {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            How::Installed => "installed",
            How::Upgraded => "upgraded",
            How::Downgraded => "downgraded",
            How::Removed => "removed",
            How::ConfigFiles => "config-files",
            How::Purged => "purged",
            How::State => "state",
        }
    }
}

/// A package that is not the same in both roots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackageChange {
    /// Its name, with its architecture where it needs one: the key of [`Packages`].
    pub name: String,
    /// How it changed.
    pub how: How,
    /// What the old root has.
    pub old: Option<Package>,
    /// What the new root has.
    pub new: Option<Package>,
}

/// The packages that differ, by name.
pub fn compare(old: &Packages, new: &Packages) -> Vec<PackageChange> {
    let mut changes = Vec::new();
    let mut tell = |name: &str, old: Option<&Package>, new: Option<&Package>| {
        if let Some(how) = how(old, new) {
            let (old, new) = (old.cloned(), new.cloned());
            changes.push(PackageChange { name: name.to_owned(), how, old, new });
        }
    };
    for (name, package) in old.iter() {
        tell(name, Some(package), new.get(name));
    }
    for (name, package) in new.iter().filter(|(name, _)| old.get(name).is_none()) {
        tell(name, None, Some(package));
    }
    changes.sort_by(|a, b| a.name.cmp(&b.name));
    changes
}

fn how(old: Option<&Package>, new: Option<&Package>) -> Option<How> {
    let installed = |package: Option<&Package>| package.is_some_and(Package::is_installed);
    let left =
        |package: Option<&Package>| package.is_some_and(|p| p.status.ends_with(" config-files"));
    Some(match (old, new) {
        (Some(a), Some(b)) if a.status == b.status && a.version == b.version => return None,
        (Some(a), Some(b)) if installed(old) && installed(new) => {
            match version::compare(&a.version, &b.version) {
                Ordering::Less => How::Upgraded,
                Ordering::Greater => How::Downgraded,
                Ordering::Equal => How::State,
            }
        }
        _ if installed(new) => How::Installed,
        (_, Some(_)) if left(new) => How::ConfigFiles,
        (Some(_), None) if left(old) => How::Purged,
        (Some(_), None) => How::Removed,
        _ => How::State,
    })
}

impl Diff<'_> {
    /// The Debian packages that differ between the two views; read only where the database itself
    /// is not the same.
    ///
    /// # Errors
    /// A damaged layer.
    pub fn packages(&self) -> Result<Vec<PackageChange>, LookError> {
        let status = b"var/lib/dpkg/status";
        let found = (self.old.sought(status)?, self.new.sought(status)?);
        if let (Some(old), Some(new)) = &found
            && self.same(old.found.source(), new.found.source())
        {
            return Ok(Vec::new());
        }
        Ok(compare(&Packages::read(self.old)?, &Packages::read(self.new)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_named_by_how_they_changed() {
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
        let changes = compare(&Packages::parse(&old.concat()), &Packages::parse(&new.concat()));
        let told: Vec<_> = changes.iter().map(|c| (c.name.as_str(), c.how.word())).collect();
        let expected = [
            ("down", "downgraded"),
            ("gone", "removed"),
            ("half", "state"),
            ("left", "config-files"),
            ("new", "installed"),
            ("purged", "purged"),
            ("up", "upgraded"),
        ];
        assert_eq!(told, expected);
    }
}
