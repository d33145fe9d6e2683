//! What kernel overlayfs writes into its upper directories besides files: attributes that say where
//! an object's content or a directory's names really are.
//!
//! [Opaque directories](super::Layer::is_opaque) are read. The others are not followed here, so a
//! layer that has one is refused: without them a renamed directory would look empty, and a file
//! whose mode changed would read as zeros.

use std::sync::Arc;

use crate::error::LayerError;

/// Attributes, less the prefix, of which each says that an object is not what it looks like:
/// `redirect_dir=on`, `metacopy=on`, and whiteouts that are files (Linux 6.7).
const UNREAD: [&[u8]; 3] = [b"redirect", b"metacopy", b"whiteout"];
/// Where overlayfs keeps its attributes, for root and for users.
pub(super) const PREFIXES: [&[u8]; 2] = [b"trusted.overlay.", b"user.overlay."];

/// Whether an attribute is one of those that are not followed.
pub(super) fn is_unread(name: &[u8]) -> bool {
    PREFIXES.iter().any(|prefix| name.strip_prefix(*prefix).is_some_and(|n| UNREAD.contains(&n)))
}

/// The refusal of a layer in which the object at `path` has the attribute `name`.
pub(super) fn refusal(image: &Arc<str>, path: &str, name: &[u8]) -> LayerError {
    let name = name.escape_ascii();
    let what = format!(
        "/{path} has the attribute {name}, which is not followed: kernel overlayfs wrote it with \
         redirect_dir, metacopy or whiteouts as attributes; mount the layer over those below it \
         with overlayfs, and take a copy of what that shows"
    );
    LayerError::unsupported(image, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_attributes_that_change_what_an_object_is_are_refused() {
        for name in
            ["trusted.overlay.redirect", "user.overlay.metacopy", "trusted.overlay.whiteout"]
        {
            assert!(is_unread(name.as_bytes()), "{name}");
        }
        for name in [
            "trusted.overlay.opaque",
            "trusted.overlay.origin",
            "trusted.overlay.impure",
            "user.redirect",
            // As an overlayfs on an overlayfs stores another one's.
            "trusted.overlay.overlay.redirect",
            "security.capability",
        ] {
            assert!(!is_unread(name.as_bytes()), "{name}");
        }
    }
}
