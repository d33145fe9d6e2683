//! Finds all roles and files that a role uses.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::external::files_used_by;
use super::paths::{RoleName, resolve};
use super::references::{roles_named_by, roles_named_in};
use crate::config::ConfigError;
use crate::folder::Folder;

/// The roles that run with a role.
#[derive(Debug)]
pub(crate) struct UsedRoles {
    /// The role itself, then the roles that it names, recursively.
    pub(crate) roles: Vec<UsedRole>,
    /// Whether `roles` are all roles that run. Otherwise a name is only known at run time, and
    /// `roles` has all roles that it may be, or a role is installed on the host.
    pub(crate) is_complete: bool,
}

/// A role that runs.
#[derive(Debug)]
pub(crate) struct UsedRole {
    pub(crate) folder: PathBuf,
    /// The path to it from the first role, as the prefix of input names. Empty for the first role.
    pub(crate) prefix: String,
    /// Canonical paths of files and directories that it uses from outside its directory.
    pub(crate) outside: BTreeSet<PathBuf>,
}

/// Suffixes of files with tasks.
const YAML_SUFFIXES: [&str; 2] = ["yml", "yaml"];

impl UsedRoles {
    /// Finds the roles that run with the role in `first`.
    ///
    /// # Errors
    ///
    /// Fails if a file of one of the roles cannot be read.
    pub(crate) fn find(first: &Path) -> Result<Self, ConfigError> {
        let mut found = Self { roles: Vec::new(), is_complete: true };
        let mut todo = vec![(first.to_owned(), String::new())];
        let mut seen = BTreeSet::new();
        while let Some((folder, prefix)) = todo.pop() {
            if !seen.insert(fs::canonicalize(&folder).unwrap_or_else(|_| folder.clone())) {
                continue;
            }
            let mut names = roles_named_by(&folder)?;
            let outside = files_used_by(first, &folder)?;
            for path in outside.iter().filter(|path| path.is_file()) {
                if path.extension().is_some_and(|e| YAML_SUFFIXES.iter().any(|yaml| e == *yaml)) {
                    let folder = Folder::from_host(path.parent().unwrap_or(path));
                    let file = Path::new(path.file_name().unwrap_or_default());
                    roles_named_in(&folder, file, false, &mut names)?;
                }
            }
            for name in names {
                let roles = resolve(first, (&folder, &prefix), &name);
                found.is_complete &= name != RoleName::Any && !roles.is_empty();
                todo.extend(roles);
            }
            found.roles.push(UsedRole { folder, prefix, outside });
        }
        Ok(found)
    }
}
