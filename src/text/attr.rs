//! Attributes of files as text.

use fs_model::{Attr, FileType};

use super::size::size_text;
use super::time;

/// Describes a file in a few words, such as `file, 286 bytes`.
pub(crate) fn brief(attr: &Attr) -> String {
    match attr.kind {
        FileType::Regular => format!("file, {}", size_text(attr.size)),
        FileType::CharDevice | FileType::BlockDevice => {
            format!("{} {}:{}", file_type_name(attr.kind), attr.rdev.major, attr.rdev.minor)
        }
        kind => file_type_name(kind).to_owned(),
    }
}

/// Returns the name of a file type.
pub(crate) fn file_type_name(kind: FileType) -> &'static str {
    match kind {
        FileType::Regular => "file",
        FileType::Directory => "directory",
        FileType::Symlink => "symbolic link",
        FileType::CharDevice => "character device",
        FileType::BlockDevice => "block device",
        FileType::Fifo => "fifo",
        FileType::Socket => "socket",
    }
}

/// Formats type and permissions as `ls -l` does: `drwxr-xr-x`.
pub(crate) fn mode_text(attr: &Attr) -> String {
    let kind = match attr.kind {
        FileType::Regular => '-',
        FileType::Directory => 'd',
        FileType::Symlink => 'l',
        FileType::CharDevice => 'c',
        FileType::BlockDevice => 'b',
        FileType::Fifo => 'p',
        FileType::Socket => 's',
    };
    let mut text = String::from(kind);
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = attr.mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (attr.mode & special != 0, bits & 1 != 0) {
            (false, true) => 'x',
            (false, false) => '-',
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
        });
    }
    text
}

/// Formats the modification time in UTC, to the minute.
pub(crate) fn time(attr: &Attr) -> String {
    time::minute(attr.mtime.secs, " ")
}
