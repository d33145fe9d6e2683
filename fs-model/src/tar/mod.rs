//! A streaming reader of tar archives: members with their attributes, and their data as pieces with
//! an offset.
//!
//! It reads what GNU tar, bsdtar, busybox, Python's `tarfile` and dpkg-deb write, and takes it as
//! GNU tar does on extraction:
//!
//! - v7, ustar (POSIX.1-1988), pax (POSIX.1-2001) and GNU headers; numbers in octal and in base
//!   256; checksums over unsigned or signed bytes.
//! - Long names and link targets of GNU tar (types `L` and `K`), pax records by their length, with
//!   any bytes in them, global ones too.
//! - Sparse files of GNU tar (type `S`) and the pax versions 0.0, 0.1 and 1.0.
//! - Extended attributes (`SCHILY.xattr.*`, `LIBARCHIVE.xattr.*`) and access lists
//!   (`SCHILY.acl.*`).
//! - Volume labels and the directory lists of incremental archives are passed over. The later
//!   volumes of a multi-volume archive are refused.
//! - Two blocks of zeros end the archive, and so do a lone one and the end of the stream:
//!   [`Reader::end`] tells them apart.
//!
//! An archive that GNU tar extracts with exit code 0 is read to the same effect. One at which it
//! reports an error is refused with a [`TarError`]. Memory is bounded by the `MAX_` constants,
//! whatever an archive claims.
//!
//! Follows POSIX.1-2017 `pax`, and GNU tar's `tar.h`, `list.c`, `xheader.c` and `sparse.c`.

mod header;
mod pax;
mod reader;
mod sparse;

use std::io;

use crate::attr::{Device, FileType, Time};
use crate::error::shorten;
use crate::layer::Xattr;

pub use header::is_header;
pub use reader::{End, Reader};

/// Bytes of a block: headers are one, and data is padded to whole ones.
pub const BLOCK_SIZE: usize = 512;
/// The longest name or link target in a header of type `L` or `K`, in bytes. Paths are limited to
/// 4,095 bytes on Linux; an archive's spelling of one may have more slashes.
const MAX_LONG_NAME: u64 = 64 << 10;
/// The longest pax header of a member, in bytes: its extended attributes and its sparse map.
const MAX_PAX_HEADER: u64 = 16 << 20;
/// The longest global pax header, in bytes.
const MAX_GLOBAL_HEADER: u64 = 1 << 20;
/// The most pieces of data in a sparse file.
const MAX_EXTENTS: usize = 1 << 22;

/// One member of an archive.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its name as the archive spells it, without slashes at its end.
    pub path: Vec<u8>,
    /// Its type.
    pub kind: MemberKind,
    /// The target of a symbolic link; of a hard link, the name of the member that it links to.
    pub target: Vec<u8>,
    /// Permission bits with setuid, setgid and sticky: `0o7777` at the most.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of the last change.
    pub mtime: Time,
    /// Device number of a device.
    pub rdev: Device,
    /// Size of a regular file as extracted, with its holes.
    pub size: u64,
    /// Extended attributes, in the archive's order.
    pub xattrs: Vec<Xattr>,
    /// The access list, as [text](crate::acl::TextAcl).
    pub access_list: Option<Vec<u8>>,
    /// The default access list of a directory, as [text](crate::acl::TextAcl).
    pub default_list: Option<Vec<u8>>,
    /// The type flag of a member of unknown type, which counts as a regular file.
    pub unknown_type: Option<u8>,
    /// Where its header begins, in bytes from the archive's beginning.
    pub offset: u64,
}

/// The type of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberKind {
    /// An object of its own.
    Object(FileType),
    /// One more name of an earlier member.
    HardLink,
}

/// An archive that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{}{kind} (at byte {offset} of the archive)", prefix(member.as_deref()))]
pub struct TarError {
    /// The name of the member at fault, where it is known.
    pub member: Option<Vec<u8>>,
    /// Where its header begins, in bytes from the archive's beginning.
    pub offset: u64,
    /// The fault.
    pub kind: TarErrorKind,
}

/// A name as a message can show it, with a colon: control characters and bytes that are not UTF-8
/// as `\xHH`.
fn prefix(member: Option<&[u8]>) -> String {
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

/// A fault of an archive.
#[derive(Debug, thiserror::Error)]
pub enum TarErrorKind {
    /// The stream could not be read.
    #[error("{0}")]
    Read(#[source] io::Error),
    /// The stream ends within a member.
    #[error("the archive ends early: it is cut off, or continues on another volume")]
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
    /// Something is larger than this reader accepts.
    #[error("its {what} has more than {limit} bytes")]
    TooLong {
        /// The header.
        what: &'static str,
        /// The limit, in bytes.
        limit: u64,
    },
    /// The map of a sparse file is malformed.
    #[error("damaged: the map of its holes {0}")]
    Sparse(&'static str),
    /// The archive uses something that this reader does not know.
    #[error("not supported: {0}")]
    Unsupported(&'static str),
}
