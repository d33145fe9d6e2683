//! Attributes of files as text and as JSON, in the same format for all commands.

use fs_model::{Attr, FileType};
use serde::Serialize;

use crate::image::view::accounts::Accounts;
use crate::image::view::{LookError, StackView, ViewNode};
use crate::manifest::type_name;
use crate::text::escape::escape;
use crate::text::size::size_text;
use crate::text::time;

/// JSON form of a file's attributes.
#[derive(Debug, Serialize)]
pub(crate) struct AttrJson {
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
    pub(crate) mode: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) size: Option<u64>,
    pub(crate) mtime: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) target: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) device: Option<[u32; 2]>,
}

impl AttrJson {
    pub(crate) fn new(view: &StackView, node: &ViewNode) -> Result<AttrJson, LookError> {
        let target = match node.is_link() {
            true => Some(escape(&view.link(node)?).into_owned()),
            false => None,
        };
        Ok(AttrJson { target, ..AttrJson::from_attr(&node.attr) })
    }

    /// Creates the form without the target of a symbolic link.
    pub(crate) fn from_attr(attr: &Attr) -> AttrJson {
        AttrJson {
            kind: type_name(attr.kind),
            mode: format!("{:04o}", attr.mode),
            uid: attr.uid,
            gid: attr.gid,
            size: (attr.kind == FileType::Regular).then_some(attr.size),
            mtime: attr.mtime.secs,
            target: None,
            device: attr.kind.is_device().then_some([attr.rdev.major, attr.rdev.minor]),
        }
    }
}

/// Formats a path inside images, with a leading slash.
pub(crate) fn display_path(path: &[u8]) -> String {
    format!("/{}", escape(path))
}

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

/// Returns the user's name, or the id if it has none.
pub(crate) fn user(accounts: &Accounts, uid: u32) -> String {
    accounts.user(uid).map_or_else(|| uid.to_string(), |name| escape(name.as_bytes()).into_owned())
}

/// Returns the group's name, or the id if it has none.
pub(crate) fn group(accounts: &Accounts, gid: u32) -> String {
    accounts.group(gid).map_or_else(|| gid.to_string(), |name| escape(name.as_bytes()).into_owned())
}

/// Formats the modification time in UTC, to the minute.
pub(crate) fn time(attr: &Attr) -> String {
    time::minute(attr.mtime.secs, " ")
}
