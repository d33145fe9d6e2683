//! The step that runs a script of the provisioner, inside the root or outside.

use std::borrow::Cow;
use std::path::Path;

use super::{StepContext, StepError, packages, path_outside};
use crate::folder::Folder;
use crate::machine::Command;

/// A script to run.
#[derive(Debug, Clone)]
pub(crate) struct Script {
    /// The provisioner's directory.
    folder: Folder,
    /// Its path, relative to the provisioner's directory.
    name: String,
    outside: bool,
}

/// Message for a library script with `outside`.
pub(crate) const LIBRARY_SCRIPT_OUTSIDE: &str =
    "a library script cannot run outside, because it has no directory on the host";

/// Environment variable with the path of the root, for scripts that run outside.
const ROOT_VARIABLE: &str = "OVERCOAT_ROOT";

impl Script {
    pub(crate) fn new(folder: &Folder, name: &str, outside: bool) -> Self {
        Self { folder: folder.clone(), name: name.to_owned(), outside }
    }

    /// Returns its path, relative to the provisioner's directory.
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

    /// Runs the script by its `#!` line, or with `sh -e` if it has none, with the variables in its
    /// environment. Its working directory is `/` inside and the provisioner's directory outside.
    /// The script is a scratch file while it runs, and not part of the image.
    pub(crate) fn run(&self, context: &mut StepContext<'_>) -> Result<(), StepError> {
        let text = self.read()?;
        let name = self.path().file_name().unwrap_or(self.path().as_os_str());
        let path =
            context.machine.scratch(&Path::new("scripts").join(name), &mut &text[..], 0o755)?;
        let root = self.outside.then(|| context.root_outside()).transpose()?;
        let path = root.as_ref().map_or(path.clone(), |root| path_outside(root, &path));
        let mut command = if text.starts_with(b"#!") {
            Command::new(path)
        } else {
            Command::new("/bin/sh").arg("-e").arg(path)
        };
        if let Some(root) = root {
            command = command.env(ROOT_VARIABLE, root);
            command.outside = true;
            let Some(folder) = self.folder.host_path() else {
                let problem = format!("{}: {LIBRARY_SCRIPT_OUTSIDE}", self.folder);
                return Err(StepError::Impossible(problem));
            };
            command.cwd = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
        }
        for (name, value) in packages::APT_ENVIRONMENT {
            command = command.env(name, value);
        }
        for (name, value) in context.variables.environment() {
            command = command.env(name, value);
        }
        context.command("the script", &command)
    }
}
