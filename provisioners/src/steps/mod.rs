//! The actions of steps, with one module for each kind.

pub(crate) mod accounts;
pub(crate) mod ansible;
mod ansible_tasks;
pub(crate) mod attributes;
pub(crate) mod availability;
pub(crate) mod files;
pub(crate) mod packages;
pub(crate) mod removal;
pub(crate) mod scripts;
pub(crate) mod services;

use std::path::{Path, PathBuf};

use crate::error::StepError;
use crate::machine::{Command, Log, Machine, MachineError};
use crate::options::Options;
use crate::variables::Variables;

/// The action of a step.
#[derive(Debug, Clone)]
pub(crate) enum Action {
    /// Install packages.
    Packages(packages::PackageList),
    /// Remove packages.
    Removal(removal::Removal),
    /// Create groups.
    Groups(accounts::Groups),
    /// Create users.
    Users(accounts::Users),
    /// Copy a tree of files.
    Files(files::FileTree),
    /// Set owners and modes.
    Attributes(attributes::AttributeRules),
    /// Run a script.
    Script(scripts::Script),
    /// Enable units of systemd.
    Services(services::Services),
    /// Run an Ansible role.
    Ansible(ansible::AnsibleRole),
}

/// The machine that a step runs on, and the state of the run.
pub(crate) struct StepContext<'a> {
    pub(crate) machine: &'a mut dyn Machine,
    pub(crate) variables: &'a Variables,
    pub(crate) options: &'a Options,
    pub(crate) log: &'a mut dyn Log,
    /// The state of apt's package lists in this run.
    pub(crate) apt: &'a mut packages::FetchedLists,
}

/// Returns the path of a program in the root, searched in the directories of root's `PATH`.
pub(crate) fn find_program(
    machine: &dyn Machine,
    name: &str,
) -> Result<Option<PathBuf>, MachineError> {
    for folder in ["/usr/sbin", "/usr/bin", "/sbin", "/bin"] {
        let path = Path::new(folder).join(name);
        if machine.stat(&path)?.is_some() {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// Returns the path outside for a path inside the root, with the root at `root`.
pub(crate) fn path_outside(root: &Path, inside: &Path) -> PathBuf {
    root.join(inside.strip_prefix("/").unwrap_or(inside))
}

impl StepContext<'_> {
    /// Returns the path of the root for commands outside.
    pub(crate) fn root_outside(&self) -> Result<PathBuf, StepError> {
        self.machine.root_outside().ok_or_else(|| {
            StepError::Impossible("commands cannot run outside of this root".to_owned())
        })
    }

    /// Runs a command and returns an error unless it succeeds. `name` names it in messages.
    pub(crate) fn command(&mut self, name: &str, command: &Command) -> Result<(), StepError> {
        let exit = self.machine.run(command, self.log)?;
        if exit.success() {
            Ok(())
        } else {
            Err(StepError::Command { command: name.to_owned(), exit })
        }
    }
}

impl Action {
    /// Returns the name of the step for messages.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Packages(packages) => packages.name(),
            Self::Removal(removal) => removal.name(),
            Self::Groups(groups) => groups.name(),
            Self::Users(users) => users.name(),
            Self::Files(files) => files.name(),
            Self::Attributes(_) => "attributes".to_owned(),
            Self::Script(script) => script.name(),
            Self::Services(_) => "services".to_owned(),
            Self::Ansible(role) => role.name(),
        }
    }

    /// Returns the highest user or group id that the step names; 0 if it names none.
    pub(crate) fn highest_id(&self) -> u32 {
        match self {
            Self::Groups(groups) => groups.highest_id(),
            Self::Users(users) => users.highest_id(),
            Self::Attributes(rules) => rules.highest_id(),
            _ => 0,
        }
    }

    /// Performs the checks that do not need a root.
    pub(crate) fn check(&self, variables: &Variables) -> Result<(), StepError> {
        match self {
            Self::Packages(packages) => packages.check(),
            Self::Files(files) => files.check(variables),
            Self::Script(script) => script.check(),
            Self::Ansible(role) => role.check(),
            Self::Removal(_)
            | Self::Groups(_)
            | Self::Users(_)
            | Self::Attributes(_)
            | Self::Services(_) => Ok(()),
        }
    }

    /// Returns whether there is nothing to do, such as for an empty list of packages.
    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Self::Packages(packages) => packages.is_empty(),
            Self::Removal(removal) => removal.is_empty(),
            Self::Groups(groups) => groups.is_empty(),
            Self::Users(users) => users.is_empty(),
            Self::Services(services) => services.is_empty(),
            Self::Attributes(attributes) => attributes.is_empty(),
            Self::Files(_) | Self::Script(_) | Self::Ansible(_) => false,
        }
    }

    /// Runs the action.
    pub(crate) fn run(&self, context: &mut StepContext<'_>) -> Result<(), StepError> {
        match self {
            Self::Packages(packages) => packages.run(context),
            Self::Removal(removal) => removal.run(context),
            Self::Groups(groups) => groups.run(context),
            Self::Users(users) => users.run(context),
            Self::Files(files) => files.run(context),
            Self::Attributes(attributes) => attributes.run(context),
            Self::Script(script) => script.run(context),
            Self::Services(services) => services.run(context),
            Self::Ansible(role) => role.run(context),
        }
    }
}
