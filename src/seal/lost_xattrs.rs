//! Extended attributes that a format cannot hold.
//!
//! Invariants:
//! - A mode is never wider than the file's ACL: when the ACL is lost, the group bits are the rights
//!   of the owning group.
//! - Each lost attribute is in a warning.

use std::borrow::Cow;

use fs_model::delta::{Contents, Delta, DeltaEntry, Object};
use fs_model::tree::XattrSupport;
use fs_model::{FileType, acl};

use super::error::SealError;
use super::{ArchiveFormat, Format, Warning};
use crate::text::escape::escape;

/// Returns `delta` with the modes that its files have in an archive of this format.
///
/// # Errors
/// Fails if a file's ACL cannot be read.
pub(super) fn with_modes<'d, C: Contents>(
    delta: &'d Delta,
    contents: &C,
    format: Format,
) -> Result<Cow<'d, Delta>, SealError> {
    let mut delta = Cow::Borrowed(delta);
    for index in 0..delta.entries.len() {
        let DeltaEntry { path, object: Some(object), .. } = &delta.entries[index] else {
            continue;
        };
        let Object { ino, attr } = object;
        if attr.kind == FileType::Symlink {
            continue;
        }
        let list = contents
            .access_list(*ino)
            .map_err(|source| SealError::Read { path: escape(path).into_owned(), source })?;
        let Some(list) = list else { continue };
        let mode = match format.xattrs().has(acl::ACCESS) {
            true => list.mode(attr.mode),
            false => list.plain_mode(attr.mode),
        };
        if mode != attr.mode
            && let Some(object) = &mut delta.to_mut().entries[index].object
        {
            object.attr.mode = mode;
        }
    }
    Ok(delta)
}

/// Returns a warning for each file with attributes that is not in the archive.
pub(super) fn hidden_warnings(delta: &Delta) -> impl Iterator<Item = Warning> {
    // Every archive has an entry for the root, which gets its own warning.
    let hidden = delta.hidden.iter().filter(|hidden| !hidden.path.is_empty());
    hidden.map(|hidden| Warning::XattrsLost {
        path: escape(&hidden.path).into_owned(),
        names: hidden.names.iter().map(|name| escape(name).into_owned()).collect(),
    })
}

/// Returns the formats that hold all of these attributes, with a verb.
pub(super) fn formats_for(names: &[String]) -> &'static str {
    match names.iter().any(|name| !XattrSupport::WithoutAcls.has(name.as_bytes())) {
        true => ".tar keeps",
        false => ".tar and .squashfs keep",
    }
}
