//! A streaming reader of tar archives. It returns members with their attributes, and their data as
//! pieces with an offset.
//!
//! It supports the archives of GNU tar, bsdtar, busybox, Python's `tarfile` and dpkg-deb, with the
//! semantics of an extraction by GNU tar:
//!
//! - v7, ustar (POSIX.1-1988), pax (POSIX.1-2001) and GNU headers; numbers in octal and in base
//!   256; checksums over unsigned or signed bytes.
//! - Long names and link targets of GNU tar (types `L` and `K`), and pax records, including global
//!   ones and values with arbitrary bytes.
//! - Sparse files of GNU tar (type `S`) and the pax versions 0.0, 0.1 and 1.0.
//! - Extended attributes (`SCHILY.xattr.*`, `LIBARCHIVE.xattr.*`) and ACLs (`SCHILY.acl.*`).
//! - Volume labels and the directory lists of incremental archives are skipped. Later volumes of a
//!   multi-volume archive are rejected.
//! - The end of an archive is marked by two blocks of zeros. A single one or the end of the stream
//!   is accepted too: [`Reader::end`] distinguishes them.
//!
//! An archive that GNU tar extracts with exit code 0 is read with the same result. One for which it
//! reports an error is rejected with a [`TarError`]. Memory is bounded by the `MAX_` constants,
//! regardless of sizes in the archive.
//!
//! Follows POSIX.1-2017 `pax`, and GNU tar's `tar.h`, `list.c`, `xheader.c` and `sparse.c`.

mod header;
pub mod names;
mod pax;
mod reader;
mod sparse;

use std::io;

use crate::attr::{Device, FileType, Time};
use crate::error::shorten;
use crate::layer::Xattr;

pub use header::is_header;
pub use reader::{End, Reader};

/// Size of a block in bytes. A header is a block, and data is padded to a multiple of it.
pub const BLOCK_SIZE: usize = 512;
/// Maximum length of a name or link target in a header of type `L` or `K`, in bytes. Linux limits
/// paths to 4,095 bytes, but in an archive they may contain redundant slashes.
const MAX_LONG_NAME: u64 = 64 << 10;
/// Maximum size of a member's pax header in bytes: it contains extended attributes and the sparse
/// map.
const MAX_PAX_HEADER: u64 = 16 << 20;
/// Maximum size of a global pax header in bytes.
const MAX_GLOBAL_HEADER: u64 = 1 << 20;
/// Maximum number of pieces of data in a sparse file.
const MAX_EXTENTS: usize = 1 << 22;

/// A member of an archive.
#[derive(Clone, Debug)]
pub struct Member {
    /// The name as stored, without trailing slashes.
    pub path: Vec<u8>,
    /// The type.
    pub kind: MemberKind,
    /// The target of a symbolic link; for a hard link, the name of the member that it refers to.
    pub target: Vec<u8>,
    /// Permission bits with setuid, setgid and sticky: at most `0o7777`.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of the last change.
    pub mtime: Time,
    /// Device number of a device node.
    pub rdev: Device,
    /// Size of a regular file in bytes, including holes.
    pub size: u64,
    /// Extended attributes, in the archive's order.
    pub xattrs: Vec<Xattr>,
    /// The ACL, as [text](crate::acl::TextAcl).
    pub access_list: Option<Vec<u8>>,
    /// The default ACL of a directory, as [text](crate::acl::TextAcl).
    pub default_list: Option<Vec<u8>>,
    /// The type flag of a member of unknown type, which counts as a regular file.
    pub unknown_type: Option<u8>,
    /// Offset of the header in the archive, in bytes.
    pub offset: u64,
}

/// The type of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberKind {
    /// A new object.
    Object(FileType),
    /// Another name of an earlier member.
    HardLink,
}

/// An error while reading an archive.
#[derive(Debug, thiserror::Error)]
#[error("{}{kind} (at byte {offset} of the archive)", prefix(member.as_deref()))]
pub struct TarError {
    /// The name of the member, if known.
    pub member: Option<Vec<u8>>,
    /// Offset of the member's header in the archive, in bytes.
    pub offset: u64,
    /// The kind of the error.
    pub kind: TarErrorKind,
}

/// Returns a name for use in a message, followed by a colon. Control characters and bytes that are
/// not UTF-8 are escaped as `\xHH`.
pub(crate) fn prefix(member: Option<&[u8]>) -> String {
    let Some(path) = member else { return String::new() };
    let mut text = String::with_capacity(path.len());
    for part in path.utf8_chunks() {
        for c in part.valid().chars() {
            if c.is_control() {
                text.extend(c.encode_utf8(&mut [0; 4]).bytes().map(|b| format!("\\x{b:02x}")));
            } else {
                text.push(c);
            }
        }
        text.extend(part.invalid().iter().map(|b| format!("\\x{b:02x}")));
    }
    format!("{}: ", shorten(&text))
}

/// The kind of a [`TarError`].
#[derive(Debug, thiserror::Error)]
pub enum TarErrorKind {
    /// An I/O error.
    #[error("{0}")]
    Read(io::Error),
    /// The stream ends within a member.
    #[error("the archive ends early: it is truncated, or continues on another volume")]
    Truncated,
    /// The first block is not a tar header.
    #[error("not a tar archive")]
    NotTar,
    /// The bytes of a header do not match its checksum.
    #[error("damaged: the checksum of a header is wrong")]
    Checksum,
    /// A field of a header is not a number in the field's range.
    #[error("damaged: the {0} in its header is not valid")]
    Field(&'static str),
    /// A pax header is malformed.
    #[error("damaged: its pax header {0}")]
    Pax(String),
    /// A size exceeds a limit of this reader.
    #[error("its {what} has more than {limit} bytes")]
    TooLong {
        /// The header that is too large.
        what: &'static str,
        /// The limit, in bytes.
        limit: u64,
    },
    /// The map of a sparse file is invalid.
    #[error("damaged: the map of its holes {0}")]
    Sparse(&'static str),
    /// The archive uses an unsupported feature.
    #[error("not supported: {0}")]
    Unsupported(&'static str),
}
