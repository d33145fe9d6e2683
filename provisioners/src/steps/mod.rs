//! What a provisioner does, one module a kind of step.

pub(crate) mod accounts;
pub(crate) mod ansible;
pub(crate) mod attributes;
pub(crate) mod files;
pub(crate) mod packages;
pub(crate) mod removal;
pub(crate) mod scripts;
pub(crate) mod services;

use std::io;
use std::path::{Path, PathBuf};

use crate::machine::{Command, Exit, Log, Machine, MachineError};
use crate::run::Options;
use crate::templates::TemplateError;
use crate::variables::Variables;

/// One thing to do to the root.
#[derive(Debug, Clone)]
pub(crate) enum Action {
    /// Install packages.
    Packages(packages::Packages),
    /// Remove packages.
    Removal(removal::Removal),
    /// Make groups.
    Groups(accounts::Groups),
    /// Make users.
    Users(accounts::Users),
    /// Copy a tree of files in.
    Files(files::Files),
    /// Set owners and modes.
    Attributes(attributes::Attributes),
    /// Run a script.
    Script(scripts::Script),
    /// Enable units of systemd.
    Services(services::Services),
    /// Run an Ansible role.
    Ansible(ansible::Role),
}

/// What a step acts on and with.
pub(crate) struct Context<'a> {
    pub(crate) machine: &'a mut dyn Machine,
    pub(crate) variables: &'a Variables,
    pub(crate) options: &'a Options,
    pub(crate) log: &'a mut dyn Log,
    /// What this run knows of apt's lists.
    pub(crate) apt: &'a mut packages::Lists,
}

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// A command ended with something other than success.
    #[error("{command}: {exit}")]
    Command {
        /// The command, for a reader: `apt-get install`, `the script`.
        command: String,
        /// How it ended.
        exit: Exit,
    },
    /// The root could not be read or changed.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// A template can't be rendered.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// A file of the provisioner can't be read.
    #[error("cannot read {path}", path = path.display())]
    Read {
        /// The file, on the host.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something about the provisioner's files or the root that makes the step impossible.
    #[error("{0}")]
    Impossible(String),
}

/// Where a program of the root is, which is looked for where root's `PATH` says.
pub(crate) fn program(machine: &dyn Machine, name: &str) -> Result<Option<PathBuf>, MachineError> {
    for folder in ["/usr/sbin", "/usr/bin", "/sbin", "/bin"] {
        let path = Path::new(folder).join(name);
        if machine.stat(&path)?.is_some() {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// What a path inside is outside, where the root is at `root`.
pub(crate) fn below(root: &Path, inside: &Path) -> PathBuf {
    root.join(inside.strip_prefix("/").unwrap_or(inside))
}

impl Context<'_> {
    /// Where commands outside find the root.
    pub(crate) fn root_outside(&self) -> Result<PathBuf, StepError> {
        self.machine.root_outside().ok_or_else(|| {
            StepError::Impossible("commands cannot be run outside of this root".to_owned())
        })
    }

    /// Runs a command and takes anything but success for an error. `name` is for the reader.
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
    /// What the step is called, unique enough within its provisioner.
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

    /// Finds what can be found wrong without a root.
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

    /// Whether there is nothing to do, as when there are no packages in a list.
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

    /// Does it.
    pub(crate) fn run(&self, context: &mut Context<'_>) -> Result<(), StepError> {
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
