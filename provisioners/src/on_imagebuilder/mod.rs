//! Makes a project of an on-imagebuilder tree: the folder of Ansible roles, config files and wrapper
//! playbooks that RackHD's on-imagebuilder is.
//!
//! Invariants:
//! - Nothing of the tree is changed; what is made is the text of one file beside it.
//! - What is made can be read: [`import`] reads it itself before it gives it away.
//! - What is left out, and what Ansible will not take any more, is told in a [`Note`].
//!
//! `tree` finds what is there, `settings` what the variables say to overcoat itself, `text`
//! writes the project file, `old` looks for Ansible's syntax of former days.

mod emit;
mod old;
mod settings;
mod text;
mod tree;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::config::ConfigError;
use crate::project::{FILE_NAME, Project};

/// A project made of an on-imagebuilder tree.
#[derive(Debug, Clone)]
pub struct Imported {
    /// The project file, to be written in the tree's folder.
    pub text: String,
    /// The names of its images.
    pub images: Vec<String>,
    /// What there is to say of it, by file and line.
    pub notes: Vec<Note>,
}

/// Something that a reader has to know of a file of the tree.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Note {
    /// The file, from the tree's folder.
    pub file: PathBuf,
    /// The line, from 1, if it is about one.
    pub line: Option<usize>,
    /// What is the matter, and what to write instead.
    pub text: String,
}

impl Note {
    /// What is not done with a file, since it can't be read.
    fn of_error(file: &Path, what: &str, error: &ConfigError) -> Self {
        let (line, problem) = match error {
            ConfigError::Mistake(mistake) => (Some(mistake.line), mistake.problem.clone()),
            ConfigError::Read { source, .. } => (None, source.to_string()),
        };
        Self { file: file.to_owned(), line, text: format!("{what}: {problem}") }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        write!(f, ": {}", self.text)
    }
}

/// Why no project could be made.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// A folder can't be listed, or a file in it can't be read.
    #[error("cannot read {path}", path = path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file with variables for all images has a mistake.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// There is nothing to import.
    #[error("{path} is no on-imagebuilder tree: {problem}", path = path.display())]
    Nothing {
        /// The folder.
        path: PathBuf,
        /// What is not there.
        problem: String,
    },
    /// The project that was made has a mistake: of the tree, as a rule.
    #[error("what would be written cannot be read: {0}")]
    Unreadable(ConfigError),
}

/// Makes the project file of the on-imagebuilder tree in `folder`. With `base`, a base image that is
/// there, its overlays lie on that, and it builds none.
///
/// # Errors
/// When files can't be read, no config file names a provisioner that is there, or the variables
/// for all have a mistake.
pub fn import(folder: &Path, base: Option<&str>) -> Result<Imported, ImportError> {
    let mut notes = Vec::new();
    let tree = tree::Tree::read(folder, &mut notes)?;
    let (text, images) = text::write(&tree, base, &mut notes);
    if images.is_empty() {
        let problem = match notes.first() {
            Some(note) => format!("nothing is left of it; {note}"),
            None => "no file in vars/ names a provisioner".to_owned(),
        };
        return Err(ImportError::Nothing { path: folder.to_owned(), problem });
    }
    old::look(&tree, &mut notes)?;
    notes.sort();
    notes.dedup();
    Project::parse(&folder.join(FILE_NAME), text.clone()).map_err(ImportError::Unreadable)?;
    Ok(Imported { text, images, notes })
}
