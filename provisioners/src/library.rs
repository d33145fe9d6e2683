//! The ready-made provisioners, which are part of the program: a copy of it on another machine has
//! them too, and none of their files is ever laid on disk.
//!
//! `build.rs` makes the table from `library/`.

use crate::folder::Folder;
use crate::provisioner::Provisioner;

/// What the name of a provisioner of the library begins with.
pub(crate) const PREFIX: &str = "library:";

/// A provisioner of the library.
#[derive(Debug)]
pub(crate) struct Book {
    /// The name of its folder.
    pub(crate) name: &'static str,
    /// All that is in the folder: a directory before what is in it, by name.
    pub(crate) entries: &'static [Entry],
}

/// A file, directory or link of one.
#[derive(Debug)]
pub(crate) struct Entry {
    /// From its folder.
    pub(crate) path: &'static str,
    pub(crate) content: Content,
}

#[derive(Debug)]
#[allow(dead_code, reason = "a library need not have all of them")]
pub(crate) enum Content {
    Directory,
    File { bytes: &'static [u8], executable: bool },
    Symlink(&'static str),
}

static BOOKS: &[Book] = include!(concat!(env!("OUT_DIR"), "/library.rs"));

/// The ready-made provisioners by name, each with what it does in a sentence.
pub fn library() -> impl Iterator<Item = (&'static str, Option<String>)> {
    BOOKS.iter().map(|book| {
        let loaded = Provisioner::load_from(&Folder::of_library(book)).ok();
        (book.name, loaded.and_then(|p| p.description().map(str::to_owned)))
    })
}

pub(crate) fn books() -> &'static [Book] {
    BOOKS
}
