//! The files of the library, compiled into the program.
//!
//! `build.rs` generates the table from `library/`.

/// Prefix of the name of a library provisioner.
pub(crate) const LIBRARY_PREFIX: &str = "library:";

/// A provisioner of the library.
#[derive(Debug)]
pub(crate) struct LibraryFolder {
    /// Name of the directory.
    pub(crate) name: &'static str,
    /// All objects in the directory, ordered by name, each directory before its content.
    pub(crate) entries: &'static [LibraryEntry],
}

/// A file, directory or link of a library provisioner.
#[derive(Debug)]
pub(crate) struct LibraryEntry {
    /// Path relative to the provisioner's directory.
    pub(crate) path: &'static str,
    pub(crate) content: LibraryContent,
}

#[derive(Debug)]
#[allow(dead_code, reason = "the library may lack some of the types")]
pub(crate) enum LibraryContent {
    Directory,
    File { bytes: &'static [u8], executable: bool },
    Symlink(&'static str),
}

static FOLDERS: &[LibraryFolder] = include!(concat!(env!("OUT_DIR"), "/library.rs"));

/// Returns the directories of the library, ordered by name.
pub(crate) fn folders() -> &'static [LibraryFolder] {
    FOLDERS
}
