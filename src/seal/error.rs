//! What can go wrong while sealing.

use std::io;

use fs_model::FsError;
use fs_model::error::shorten;

use super::Format;

/// Why a delta could not be sealed. Paths are as [`super::path::escape`] writes them.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// A file of 4 GiB or more in a newc archive, whose size field has 32 bits. Found before
    /// anything is written.
    #[error(
        "/{path}: {size} bytes do not fit into a cpio archive, whose limit is 4 GiB less one byte \
         for each file; leave the file out, or write a tar (--format tar)"
    )]
    FileTooLarge {
        /// The file.
        path: String,
        /// Its size in bytes.
        size: u64,
    },
    /// A path that the kernel's unpacker would drop without a word. Found before anything is
    /// written.
    #[error(
        "/{}: the path has {length} bytes, and what unpacks an archive takes {limit} at most; give \
         a directory on the way a shorter name, move it up, or remove it",
        shorten(path)
    )]
    PathTooLong {
        /// The path.
        path: String,
        /// Its length in bytes.
        length: usize,
        /// The longest that is written.
        limit: usize,
    },
    /// A symbolic link whose target no Linux file system can hold, or is empty.
    #[error("/{path}: the link's target has {length} bytes, and 1 to {limit} can be written")]
    BadTarget {
        /// The link.
        path: String,
        /// Length of its target in bytes.
        length: u64,
        /// The longest that is written.
        limit: usize,
    },
    /// The delta breaks one of its own rules: a fault of this program.
    #[error("/{path}: the list of changes is not in order: {what}")]
    BadDelta {
        /// Where.
        path: String,
        /// What is wrong.
        what: &'static str,
    },
    /// The content of an object could not be read.
    #[error("/{path}: cannot be read")]
    Read {
        /// The object.
        path: String,
        /// Why.
        #[source]
        source: FsError,
    },
    /// A file ended before its size.
    #[error("/{path}: ends after {got} of {expected} bytes; the archive was given up")]
    Short {
        /// The file.
        path: String,
        /// Its size in bytes.
        expected: u64,
        /// How many came.
        got: u64,
    },
    /// A thread that read contents panicked.
    #[error("a thread that read the files' contents panicked")]
    ReaderPanicked,
    /// A level that the format has not.
    #[error("{format} has no compression level {level}; its levels are {range}")]
    Level {
        /// The format.
        format: Format,
        /// What was asked for.
        level: u32,
        /// What there is.
        range: &'static str,
    },
    /// The output could not be written.
    #[error("{to}: cannot be written")]
    Write {
        /// Where it goes.
        to: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The output would go to a terminal.
    #[error("an archive would be written to the terminal; redirect it, or name a file with -o")]
    Terminal,
    /// The output is something that cannot be replaced by a file.
    #[error("{path}: is a directory, not a file to write")]
    IsADirectory {
        /// The path as given.
        path: String,
    },
}
