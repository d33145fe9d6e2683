//! The script step: a file of the provisioner, run inside the root, or outside with the root's path.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Context, StepError, below, packages};
use crate::machine::Command;

/// A script to run.
#[derive(Debug, Clone)]
pub(crate) struct Script {
    /// The provisioner's folder.
    folder: PathBuf,
    /// The file on the host.
    path: PathBuf,
    /// As the provisioner names it.
    name: String,
    outside: bool,
}

/// Where a script that runs outside finds the root.
const ROOT: &str = "OVERCOAT_ROOT";

impl Script {
    pub(crate) fn new(folder: &Path, name: &str, outside: bool) -> Self {
        Self { folder: folder.to_owned(), path: folder.join(name), name: name.to_owned(), outside }
    }

    pub(crate) fn name(&self) -> String {
        format!("script {}{}", self.name, if self.outside { " (outside)" } else { "" })
    }

    fn read(&self) -> Result<Vec<u8>, StepError> {
        fs::read(&self.path).map_err(|source| StepError::Read { path: self.path.clone(), source })
    }

    pub(crate) fn check(&self) -> Result<(), StepError> {
        self.read().map(drop)
    }

    /// Runs it by its `#!` line, or by `sh -e` when it has none, with the variables in its
    /// environment: inside in `/`, outside in the provisioner's folder. It stands in a scratch place while it runs and is never captured.
    pub(crate) fn run(&self, context: &mut Context<'_>) -> Result<(), StepError> {
        let text = self.read()?;
        let name = self.path.file_name().unwrap_or(self.path.as_os_str());
        let path =
            context.machine.scratch(&Path::new("scripts").join(name), &mut &text[..], 0o755)?;
        let root = self.outside.then(|| context.root_outside()).transpose()?;
        let path = root.as_ref().map_or(path.clone(), |root| below(root, &path));
        let mut command = if text.starts_with(b"#!") {
            Command::new(path)
        } else {
            Command::new("/bin/sh").arg("-e").arg(path)
        };
        if let Some(root) = root {
            command = command.env(ROOT, root);
            command.outside = true;
            // Files of the provisioner are beside it.
            command.cwd = std::path::absolute(&self.folder).unwrap_or(self.folder.clone());
        }
        for (name, value) in packages::ENVIRONMENT {
            command = command.env(name, value);
        }
        for (name, value) in context.variables.environment() {
            command = command.env(name, value);
        }
        context.command("the script", &command)
    }
}
