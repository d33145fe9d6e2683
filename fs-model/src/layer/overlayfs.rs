//! Attributes of kernel overlayfs that change the meaning of an object.
//!
//! [Opaque directories](super::Layer::is_opaque) are supported. The other attributes refer to the
//! layers below: without following them a renamed directory looks empty, and a file whose mode
//! changed reads as zeros. A layer with one of them is refused.

use std::sync::Arc;

use crate::error::LayerError;

/// The attributes that are not followed, without their prefix. The mount options `redirect_dir` and
/// `metacopy` write the first two; Linux 6.7 and later write the third for whiteouts.
const UNREAD: [&[u8]; 3] = [b"redirect", b"metacopy", b"whiteout"];
/// The prefixes of all attributes of overlayfs.
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
            // The escaped attribute of a nested overlayfs.
            "trusted.overlay.overlay.redirect",
            "security.capability",
        ] {
            assert!(!is_unread(name.as_bytes()), "{name}");
        }
    }
}
