//! Converts a tree of RackHD's on-imagebuilder, a directory of Ansible roles, config files and
//! wrapper playbooks, to a project file.
//!
//! Invariants:
//! - [`import`] does not change the tree: the result is the text of one file. [`fixes`] returns
//!   changed texts, for the caller to write.
//! - The text is a valid project file: [`import`] parses it before it returns it.
//! - Each role and each config file is in the result's [accounts](Account), and a [`Note`] reports
//!   everything that the user has to do.
//!
//! `tree` reads the directory, `inventory` and `group_variables` the variables of hosts and groups,
//! `python_literal` values of an inventory, `wrappers` the wrapper playbooks, `scripts` the scripts
//! that run them, `settings` converts variables to settings of a project, `releases` knows releases
//! of Debian and Ubuntu, `role_choice` finds the role of a config file, `left_out` explains config
//! files without an image, `project_writer` writes the project file with the variables that
//! `kept_variables` selects, `addition` adds images to an existing one, and `obsolete` searches the
//! roles for text whose meaning has changed.

mod addition;
mod archives;
mod group_variables;
mod initramfs_modules;
mod initrd_writer;
mod inventory;
mod kept_variables;
mod left_out;
mod line_edit;
mod obsolete;
mod project_writer;
mod python_literal;
mod releases;
mod role_choice;
mod scripts;
mod settings;
mod tree;
mod wrappers;
mod yaml_writer;

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::config::{ConfigError, YamlDocument};
use crate::project::{FILE_NAME, Project};

/// The result of an import.
#[derive(Debug, Clone, Default)]
pub struct Imported {
    /// The text of the project file, for the tree's directory.
    pub text: String,
    /// The names of its new images.
    pub images: Vec<String>,
    /// The config files that need an image and got none, because the project has another image of
    /// that name.
    pub not_added: Vec<PathBuf>,
    /// What became of each config file and role, ordered by path.
    pub accounts: Vec<Account>,
    /// Notes for the user, ordered by file and line.
    pub notes: Vec<Note>,
}

/// What became of a config file or role.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Account {
    /// The file or directory, relative to the tree's directory.
    pub path: PathBuf,
    /// Its use: `image discovery`, `left out: it names no provisioner`.
    pub text: String,
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
    /// Whether [`fixes`] solves it.
    pub has_fix: bool,
}

/// A file of the tree that [`fixes`] changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileChange {
    /// The file, relative to the tree's directory.
    pub file: PathBuf,
    /// Its text.
    pub before: String,
    /// The changed text.
    pub after: String,
}

impl Note {
    /// Creates the note for a line of a file.
    fn at(file: &Path, line: usize, text: impl Into<String>) -> Self {
        let (file, text) = (file.to_owned(), text.into());
        Self { file, line: Some(line), text, has_fix: false }
    }

    /// Creates the note for a file.
    fn of_file(file: &Path, text: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line: None, text: text.into(), has_fix: false }
    }

    /// Creates the note for a file that cannot be read. `what` is the consequence: "left out".
    fn from_error(file: &Path, what: &str, error: &ConfigError) -> Self {
        let (line, problem) = match error {
            ConfigError::Mistake(mistake) => (Some(mistake.line), mistake.problem.clone()),
            ConfigError::Read { source, .. } => (None, source.to_string()),
        };
        Self { line, ..Self::of_file(file, format!("{what}: {problem}")) }
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
    let mut tree = tree::ImagebuilderTree::read(folder, &mut notes)?;
    tree.set_globals(base.is_some());
    let written = project_writer::write(&tree, base, true, &mut notes);
    if written.images.is_empty() {
        let left_out = tree
            .left_out
            .first_key_value()
            .map(|(file, why)| (file.display(), &why.reason))
            .map(|(file, why)| format!("no image can be imported; {file}: {why}"));
        let problem = left_out.unwrap_or_else(|| "no file in vars/ names a provisioner".to_owned());
        return Err(ImportError::Nothing { path: folder.to_owned(), problem });
    }
    let text = written.text();
    Project::parse(&folder.join(FILE_NAME), text.clone()).map_err(ImportError::Unreadable)?;
    let images = written.images.iter().map(|image| image.name.clone()).collect();
    finish(&tree, Imported { text, images, ..Imported::default() }, base, notes)
}

/// Adds the config files that an existing project file does not name to it. `file` is
/// that file, which is in `folder`, and `text` its text.
///
/// # Errors
///
/// Fails as [`import`] does, and if the project file has a mistake.
pub fn add(
    folder: &Path,
    file: &Path,
    text: &str,
    base: Option<&str>,
) -> Result<Imported, ImportError> {
    let mut notes = Vec::new();
    let mut tree = tree::ImagebuilderTree::read(folder, &mut notes)?;
    let document = YamlDocument::parse(file, text.to_owned())?;
    let of_project = addition::base_of_project(&document.root, folder);
    let base = base.map(str::to_owned).or(of_project);
    let base = base.as_deref();
    tree.set_globals(base.is_some());
    let added = addition::add(&mut tree, &document, text, base, &mut notes)?;
    if let Err(error) = Project::parse(file, added.text.clone()) {
        // The mistake may be in the text of the user.
        return Err(match Project::parse(file, text.to_owned()) {
            Err(error) => ImportError::Config(error),
            Ok(_) => ImportError::Unreadable(error),
        });
    }
    finish(&tree, added, base, notes)
}

/// Returns the files of the tree that mechanical edits change, with the changed text: old syntax of
/// Ansible, packages with another name, mounts of `overlayfs` without a work directory.
///
/// # Errors
///
/// Fails as [`import`] does.
pub fn fixes(folder: &Path) -> Result<Vec<FileChange>, ImportError> {
    let tree = tree::ImagebuilderTree::read(folder, &mut Vec::new())?;
    obsolete::changes(&tree)
}

/// Completes the result of an import with the accounts and the notes about roles.
fn finish(
    tree: &tree::ImagebuilderTree,
    imported: Imported,
    base: Option<&str>,
    mut notes: Vec<Note>,
) -> Result<Imported, ImportError> {
    role_choice::add_role_problems(tree, &mut notes)?;
    obsolete::add_notes(tree, &mut notes)?;
    // The review of a role names a mistake in YAML, too.
    let is_not_searched = |note: &Note| note.text.starts_with(obsolete::NOT_SEARCHED);
    let others = notes.iter().filter(|note| !is_not_searched(note));
    let lines: BTreeSet<_> = others.map(|note| (note.file.clone(), note.line)).collect();
    notes.retain(|note| !is_not_searched(note) || !lines.contains(&(note.file.clone(), note.line)));
    notes.sort();
    notes.dedup();
    Ok(Imported { accounts: tree.accounts(base)?, notes, ..imported })
}
