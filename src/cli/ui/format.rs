//! Attributes of files as JSON, in the same format for all commands.

use fs_model::{Attr, FileType};
use serde::Serialize;

use crate::image::view::{LookError, StackView, ViewNode};
use crate::manifest::type_name;
use crate::text::escape::escape;

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
