//! Converts a tree of RackHD's on-imagebuilder, a directory of Ansible roles, config files and
//! wrapper playbooks, to a project file.
//!
//! Invariants:
//! - The tree is not changed: the result is the text of one file.
//! - The text is a valid project file: [`import`] parses it before it returns it.
//! - A [`Note`] reports everything that is left out, and everything that current versions of
//!   Ansible reject.
//!
//! `tree` reads the directory, `settings` converts variables to settings of a project,
//! `project_writer` writes the project file, and `obsolete_syntax` searches the roles for obsolete
//! syntax.

mod obsolete_syntax;
mod project_writer;
mod settings;
mod tree;
mod yaml_writer;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::config::ConfigError;
use crate::project::{FILE_NAME, Project};

/// The result of an import.
#[derive(Debug, Clone)]
pub struct Imported {
    /// The text of the project file, for the tree's directory.
    pub text: String,
    /// The names of its images.
    pub images: Vec<String>,
    /// Notes for the user, ordered by file and line.
    pub notes: Vec<Note>,
}

/// A note for the user about a file of the tree.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Note {
    /// The file, relative to the tree's directory.
    pub file: PathBuf,
    /// The line, from 1.
    pub line: Option<usize>,
    /// The problem, and what to write instead.
    pub text: String,
}

impl Note {
    /// Creates the note for a file that cannot be read. `what` is the consequence: "left out".
    fn from_error(file: &Path, what: &str, error: &ConfigError) -> Self {
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

/// A tree cannot be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// A directory or file cannot be read.
    #[error("cannot read {path}", path = path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file with variables for all images has a mistake.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The tree has nothing to import.
    #[error("{path} is not an on-imagebuilder tree: {problem}", path = path.display())]
    Nothing {
        /// The directory.
        path: PathBuf,
        /// The missing part.
        problem: String,
    },
    /// The generated project file has a mistake, usually because the tree has one.
    #[error("the generated project file has a mistake: {0}")]
    Unreadable(ConfigError),
}

/// Generates the project file for the on-imagebuilder tree in `folder`. With `base`, an existing
/// base image, the overlays are built on that image and the project builds no base.
///
/// # Errors
///
/// Fails if a file cannot be read, no config file names an existing provisioner, or the variables
/// for all images have a mistake.
pub fn import(folder: &Path, base: Option<&str>) -> Result<Imported, ImportError> {
    let mut notes = Vec::new();
    let tree = tree::ImagebuilderTree::read(folder, &mut notes)?;
    let (text, images) = project_writer::write(&tree, base, &mut notes);
    if images.is_empty() {
        let problem = match notes.first() {
            Some(note) => format!("no image can be imported; {note}"),
            None => "no file in vars/ names a provisioner".to_owned(),
        };
        return Err(ImportError::Nothing { path: folder.to_owned(), problem });
    }
    obsolete_syntax::find_obsolete_syntax(&tree, &mut notes)?;
    notes.sort();
    notes.dedup();
    Project::parse(&folder.join(FILE_NAME), text.clone()).map_err(ImportError::Unreadable)?;
    Ok(Imported { text, images, notes })
}
