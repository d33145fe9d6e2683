//! Attributes of the kernel's overlayfs that change the meaning of an object.
//!
//! [Opaque directories](super::Layer::is_opaque) are supported. The other attributes refer to lower
//! layers: ignoring them would show a renamed directory as empty and a file with a changed mode as
//! zeros. A layer with such an attribute is rejected.

use std::sync::Arc;

use crate::error::LayerError;

/// Unsupported attributes, without their prefix. The mount options `redirect_dir` and `metacopy`
/// write the first two; Linux 6.7 and later write the third for whiteouts.
const UNSUPPORTED: [&[u8]; 3] = [b"redirect", b"metacopy", b"whiteout"];
/// Prefixes of all attributes of overlayfs.
pub(super) const PREFIXES: [&[u8]; 2] = [b"trusted.overlay.", b"user.overlay."];

/// Returns whether the attribute `name` is unsupported.
pub(super) fn is_unsupported(name: &[u8]) -> bool {
    PREFIXES
        .iter()
        .any(|prefix| name.strip_prefix(*prefix).is_some_and(|n| UNSUPPORTED.contains(&n)))
}

/// Returns the error for a layer in which the object at `path` has the unsupported attribute
/// `name`.
pub(super) fn unsupported(image: &Arc<str>, path: &str, name: &[u8]) -> LayerError {
    let name = name.escape_ascii();
    let what = format!(
        "/{path} has the attribute {name}, which the kernel's overlayfs writes with redirect_dir, \
         metacopy or whiteouts as attributes; mount the layer with overlayfs over the layers below \
         it, and use a copy of the merged tree"
    );
    LayerError::unsupported(image, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_attributes_that_refer_to_lower_layers_are_unsupported() {
        for name in
            ["trusted.overlay.redirect", "user.overlay.metacopy", "trusted.overlay.whiteout"]
        {
            assert!(is_unsupported(name.as_bytes()), "{name}");
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
            assert!(!is_unsupported(name.as_bytes()), "{name}");
        }
    }
}
