//! Errors of sealing.

use std::io;

use fs_model::FsError;
use fs_model::error::shorten;

use super::Format;

/// Advice for a path that is too long for archives.
pub(crate) const PATH_TOO_LONG_ADVICE: &str =
    "give a parent directory a shorter name, move the file up, or remove it";

/// An error while sealing a delta. Paths are [escaped](crate::text::escape::escape).
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// A file of 4 GiB or more in a newc archive, whose size field has 32 bits. Found before
    /// anything is written.
    #[error(
        "/{path}: {size} bytes do not fit into a cpio archive, which is limited to 4 GiB less one \
         byte per file; leave the file out, or write a tar (--format tar)"
    )]
    FileTooLarge {
        /// The file.
        path: String,
        /// Its size in bytes.
        size: u64,
    },
    /// A path that the kernel's unpacker would silently drop. Found before anything is written.
    #[error(
        "/{}: the path has {length} bytes, but archives can be unpacked only with paths of at most \
         {limit} bytes; {PATH_TOO_LONG_ADVICE}",
        shorten(path)
    )]
    PathTooLong {
        /// The path.
        path: String,
        /// Its length in bytes.
        length: usize,
        /// The maximum length.
        limit: usize,
    },
    /// A symbolic link whose target is empty, or too long for any Linux file system.
    #[error("/{path}: the link's target has {length} bytes, outside of 1 to {limit}")]
    BadTarget {
        /// The link.
        path: String,
        /// The length of its target in bytes.
        length: u64,
        /// The maximum length.
        limit: usize,
    },
    /// The delta violates its own invariants: a bug in this program.
    #[error("/{path}: invalid list of changes (a bug in overcoat): {what}")]
    BadDelta {
        /// The path.
        path: String,
        /// The violated invariant.
        what: &'static str,
    },
    /// The content of a file could not be read.
    #[error("cannot read /{path}")]
    Read {
        /// The file.
        path: String,
        /// The reason.
        #[source]
        source: FsError,
    },
    /// A file ended before its size.
    #[error("/{path}: ends after {got} of {expected} bytes; the archive was discarded")]
    Short {
        /// The file.
        path: String,
        /// Its size in bytes.
        expected: u64,
        /// The bytes read.
        got: u64,
    },
    /// mksquashfs reported success, but its image has other content than it was sent.
    #[error(
        "mksquashfs wrote a damaged image twice, first at /{path}; nothing was written; install \
         another version of squashfs-tools, or write a tar (--format tar)"
    )]
    Damaged {
        /// The first file that differs.
        path: String,
        /// Why it cannot be read; `None` if its content is wrong.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// A thread that reads file contents panicked.
    #[error("a thread that reads file contents panicked")]
    ReaderPanicked,
    /// A level that the format does not have.
    #[error("{format} has no compression level {level}; its levels are {range}")]
    Level {
        /// The format.
        format: Format,
        /// The requested level.
        level: u32,
        /// The valid levels.
        range: &'static str,
    },
    /// The output could not be written.
    #[error("cannot write {to}")]
    Write {
        /// The destination.
        to: String,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The output is a terminal.
    #[error("cannot write an archive to a terminal; redirect it, or name a file with -o")]
    Terminal,
    /// The output is a directory.
    #[error("cannot write {path}: it is a directory")]
    IsADirectory {
        /// The path as given.
        path: String,
    },
}
