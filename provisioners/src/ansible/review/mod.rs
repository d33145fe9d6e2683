//! Finds problems of a role without running it: variables that are not defined, and files that do
//! not exist.
//!
//! Ansible reports these when it runs the task, which may be minutes after a build begins. A role
//! can define variables in ways that are only known at run time, and a task may never run, so the
//! problems are warnings. The search is cautious: it reports only problems of tasks whose
//! conditions are not known to be false, and does not report what it cannot evaluate.

mod evaluator;
mod files;
mod packages;
mod role_files;
mod variables;

use std::fmt;
use std::path::{Path, PathBuf};

use self::evaluator::Evaluator;
pub(crate) use self::packages::RolePackage;
use self::role_files::RoleFiles;
use self::variables::RoleVariables;
use crate::config::ConfigError;
use crate::variables::Variables;

/// A problem that a role will have when it runs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RoleProblem {
    /// The file of the role.
    pub file: PathBuf,
    /// The line, from 1.
    pub line: usize,
    /// The problem.
    pub kind: RoleProblemKind,
}

/// The kind of a [`RoleProblem`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum RoleProblemKind {
    /// A variable is used that nothing defines.
    Undefined {
        /// The name of the variable.
        name: String,
        /// The variable whose value uses it, if it is not the role itself.
        value_of: Option<String>,
    },
    /// A task needs a file of the role or of the host that does not exist.
    NoFile {
        /// The module of the task.
        module: String,
        /// The path, with its variables replaced, at the first place that Ansible searches.
        path: PathBuf,
    },
}

impl fmt::Display for RoleProblemKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Undefined { name, value_of: None } => {
                write!(f, "`{name}` is not defined: add it to the variables of the image")
            }
            Self::Undefined { name, value_of: Some(other) } => write!(
                f,
                "`{name}` is not defined, but the value of `{other}` uses it: add it to the \
                 variables of the image"
            ),
            Self::NoFile { module, path } => {
                write!(f, "the file of `{module}` does not exist: {}", path.display())
            }
        }
    }
}

impl fmt::Display for RoleProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file.display(), self.line, self.kind)
    }
}

/// A role that was read for a review.
#[derive(Debug)]
pub(crate) struct RoleReview {
    files: RoleFiles,
    variables: RoleVariables,
}

impl RoleReview {
    /// Reads the role in `folder` and the roles that it names.
    ///
    /// # Errors
    ///
    /// Fails if a file cannot be read. Files with mistakes are ignored; Ansible reports these.
    pub(crate) fn read(folder: &Path) -> Result<Self, ConfigError> {
        let files = RoleFiles::read(folder)?;
        let variables = RoleVariables::find(&files);
        Ok(Self { files, variables })
    }

    /// Returns the problems of the role with the variables of an image, ordered by file and line.
    pub(crate) fn problems(&self, given: &Variables) -> Vec<RoleProblem> {
        let evaluator = Evaluator::new(&self.files, &self.variables, given);
        let mut problems = self.variables.undefined(&self.files, given, &evaluator);
        problems.extend(files::missing(&self.files, &evaluator));
        problems.sort();
        problems.dedup();
        problems
    }

    /// Returns the packages that the role installs with the variables of an image, as far as they
    /// are known.
    pub(crate) fn packages(&self, given: &Variables) -> Vec<RolePackage> {
        packages::packages(&self.files, &Evaluator::new(&self.files, &self.variables, given))
    }

    /// Returns the names of the variables that the role may use.
    pub(crate) fn used_names(&self) -> impl Iterator<Item = &str> {
        self.variables.used_names()
    }
}
