//! Finds problems of a role without running it: variables that are not defined, files, roles and
//! handlers that do not exist, and mistakes.
//!
//! Ansible reports these when it runs the task, which may be minutes after a build begins. Only
//! certain problems are reported: those of tasks that certainly run and fail the build if they
//! fail, as [`flow`] finds them, in expressions that are certainly evaluated.

mod evaluator;
mod files;
mod flow;
mod host_modules;
mod loaded;
mod packages;
mod role_files;
mod template_parts;
mod undefined;
mod variables;

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use self::evaluator::Evaluator;
use self::flow::Flow;
pub(crate) use self::packages::RolePackages;
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
    /// A role is used that does not exist.
    NoRole {
        /// Its name.
        name: String,
    },
    /// A task has a key that is neither a keyword nor a module of the host's Ansible.
    NoModule {
        /// The key.
        name: String,
    },
    /// A task notifies a handler that does not exist.
    NoHandler {
        /// Its name or topic.
        name: String,
    },
    /// A file or a template is wrong.
    Mistake {
        /// The problem.
        problem: String,
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
            Self::NoRole { name } => write!(f, "the role `{name}` does not exist"),
            Self::NoModule { name } => {
                write!(f, "`{name}` is neither a keyword of tasks nor a module of Ansible")
            }
            Self::NoHandler { name } => write!(
                f,
                "no handler has the name `{name}`: the task fails if it changes something"
            ),
            Self::Mistake { problem } => f.write_str(problem),
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
        self.problems_after(given, &mut false)
    }

    /// Returns the problems of the role if it runs after other steps. `host_changed` is whether
    /// these may have created files on the host, and becomes true if the role may.
    pub(crate) fn problems_after(
        &self,
        given: &Variables,
        host_changed: &mut bool,
    ) -> Vec<RoleProblem> {
        let evaluator = Evaluator::new(&self.files, &self.variables, given);
        let flow = Flow::find(&self.files, &evaluator, *host_changed);
        *host_changed |= flow.host_changed;
        let mut names = BTreeSet::new();
        let mut problems = flow.problems;
        // The first use of each variable.
        problems.retain(|problem| match &problem.kind {
            RoleProblemKind::Undefined { name, .. } => names.insert(name.clone()),
            _ => true,
        });
        problems.extend(files::missing(&flow.steps, &self.files, &evaluator));
        problems.extend(loaded::problems(&self.files));
        problems.sort();
        problems.dedup();
        problems
    }

    /// Returns the packages that the role installs with the variables of an image.
    pub(crate) fn packages(&self, given: &Variables) -> RolePackages {
        let evaluator = Evaluator::new(&self.files, &self.variables, given);
        packages::packages(
            &Flow::find(&self.files, &evaluator, false).steps,
            &self.files,
            &evaluator,
        )
    }

    /// Returns the names of the variables that the role may use.
    pub(crate) fn used_names(&self) -> impl Iterator<Item = &str> {
        self.variables.used_names()
    }
}
