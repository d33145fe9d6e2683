//! The library of ready-made provisioners. They are compiled into the program, so a copy of it on
//! another machine has them too, and their files are never written to disk.
//!
//! `build.rs` generates the table from `library/`.

use crate::folder::Folder;
use crate::provisioner::Provisioner;

/// Prefix of the name of a library provisioner.
pub(crate) const PREFIX: &str = "library:";

/// A provisioner of the library.
#[derive(Debug)]
pub(crate) struct LibraryFolder {
    /// Name of the folder.
    pub(crate) name: &'static str,
    /// All objects in the folder, ordered by name, each directory before its content.
    pub(crate) entries: &'static [LibraryEntry],
}

/// A file, directory or link of a library provisioner.
#[derive(Debug)]
pub(crate) struct LibraryEntry {
    /// Path relative to the provisioner's folder.
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

/// Returns name and description of the ready-made provisioners, ordered by name.
pub fn library() -> impl Iterator<Item = (&'static str, Option<String>)> {
    FOLDERS.iter().map(|folder| {
        let loaded = Provisioner::load_from(&Folder::from_library(folder)).ok();
        (folder.name, loaded.and_then(|p| p.description().map(str::to_owned)))
    })
}

pub(crate) fn folders() -> &'static [LibraryFolder] {
    FOLDERS
}
