//! Errors in configuration files, with their positions.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// A configuration file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file, or one it names, cannot be read.
    #[error("cannot read {path}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file has a mistake.
    #[error(transparent)]
    Mistake(Box<Mistake>),
}

impl ConfigError {
    pub(crate) fn read(path: &Path, source: io::Error) -> Self {
        Self::Read { path: path.to_owned(), source }
    }
}

impl From<Box<Mistake>> for ConfigError {
    fn from(mistake: Box<Mistake>) -> Self {
        Self::Mistake(mistake)
    }
}

/// A mistake in a configuration file. `Display` writes position and problem, then the line of the
/// file with a mark below it, then the help.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// The path of keys to the value: `packages[2].version`. Empty at the top level.
    pub key: String,
    /// The problem.
    pub problem: String,
    /// How to fix it.
    pub help: Option<String>,
    /// The text of the line.
    pub source_line: String,
    /// Length of the mark in characters.
    pub width: usize,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: ", self.file.display(), self.line, self.column)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.problem)?;
        if !self.source_line.trim().is_empty() {
            let margin = self.line.to_string().len().max(4);
            let before: String = self
                .source_line
                .chars()
                .take(self.column.saturating_sub(1))
                .map(|c| if c == '\t' { '\t' } else { ' ' })
                .collect();
            let left =
                self.source_line.chars().count().saturating_sub(self.column.saturating_sub(1));
            let mark = "^".repeat(self.width.min(left).max(1));
            write!(f, "\n{:>margin$} | {}", self.line, self.source_line.trim_end())?;
            write!(f, "\n{:>margin$} | {before}{mark}", "")?;
        }
        if let Some(help) = &self.help {
            write!(f, "\nhelp: {help}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistake {}
