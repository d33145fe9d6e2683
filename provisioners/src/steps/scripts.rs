//! The script step: a file of the provisioner, run inside the root.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Context, StepError, packages};
use crate::machine::Command;

/// A script to run.
#[derive(Debug, Clone)]
pub(crate) struct Script {
    /// The file on the host.
    path: PathBuf,
    /// As the provisioner names it.
    name: String,
}

impl Script {
    pub(crate) fn new(folder: &Path, name: &str) -> Self {
        Self { path: folder.join(name), name: name.to_owned() }
    }

    pub(crate) fn name(&self) -> String {
        format!("script {}", self.name)
    }

    fn read(&self) -> Result<Vec<u8>, StepError> {
        fs::read(&self.path).map_err(|source| StepError::Read { path: self.path.clone(), source })
    }

    pub(crate) fn check(&self) -> Result<(), StepError> {
        self.read().map(drop)
    }

    /// Runs it by its `#!` line, or by `sh -e` when it has none, in `/`, with the variables in its
    /// environment. It stands in a scratch place while it runs and is never captured.
    pub(crate) fn run(&self, context: &mut Context<'_>) -> Result<(), StepError> {
        let text = self.read()?;
        let name = self.path.file_name().unwrap_or(self.path.as_os_str());
        let inside =
            context.machine.scratch(&Path::new("scripts").join(name), &mut &text[..], 0o755)?;
        let mut command = if text.starts_with(b"#!") {
            Command::new(inside)
        } else {
            Command::new("/bin/sh").arg("-e").arg(inside)
        };
        for (name, value) in packages::ENVIRONMENT {
            command = command.env(name, value);
        }
        for (name, value) in context.variables.environment() {
            command = command.env(name, value);
        }
        context.command("the script", &command)
    }
}
