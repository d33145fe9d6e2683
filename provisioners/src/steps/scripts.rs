//! The script step: a file of the provisioner, run inside the root, or outside with the root's path.

use std::borrow::Cow;
use std::path::Path;

use super::{Context, StepError, below, packages};
use crate::folder::Folder;
use crate::machine::Command;

/// A script to run.
#[derive(Debug, Clone)]
pub(crate) struct Script {
    /// The provisioner's folder.
    folder: Folder,
    /// Its file, as the provisioner names it.
    name: String,
    outside: bool,
}

/// Why a script of the library can't run outside.
pub(crate) const NO_FOLDER: &str =
    "a provisioner of the library has no folder on the host to run in";

/// Where a script that runs outside finds the root.
const ROOT: &str = "OVERCOAT_ROOT";

impl Script {
    pub(crate) fn new(folder: &Folder, name: &str, outside: bool) -> Self {
        Self { folder: folder.clone(), name: name.to_owned(), outside }
    }

    /// Its file, from the provisioner's folder.
    pub(crate) fn path(&self) -> &Path {
        Path::new(&self.name)
    }

    pub(crate) fn is_outside(&self) -> bool {
        self.outside
    }

    pub(crate) fn name(&self) -> String {
        format!("script {}{}", self.name, if self.outside { " (outside)" } else { "" })
    }

    fn read(&self) -> Result<Cow<'static, [u8]>, StepError> {
        Ok(self.folder.read(self.path())?)
    }

    pub(crate) fn check(&self) -> Result<(), StepError> {
        self.read().map(drop)
    }

    /// Runs it by its `#!` line, or by `sh -e` when it has none, with the variables in its
    /// environment: inside in `/`, outside in the provisioner's folder. It stands in a scratch place while it runs and is never captured.
    pub(crate) fn run(&self, context: &mut Context<'_>) -> Result<(), StepError> {
        let text = self.read()?;
        let name = self.path().file_name().unwrap_or(self.path().as_os_str());
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
            let Some(folder) = self.folder.on_host() else {
                return Err(StepError::Impossible(format!("{}: {NO_FOLDER}", self.folder)));
            };
            command.cwd = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
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
