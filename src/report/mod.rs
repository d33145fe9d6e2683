//! The data and the HTML page of `inspect`: the content of a merged root, the layer that each entry
//! comes from, the changes by the overlays, and sizes.
//!
//! [`model`] is the data, [`page`] the page.
//!
//! Invariants:
//! - Names are data. Whatever bytes they contain, terminals and browsers receive them as plain
//!   text: every path is converted by [`shown`].
//! - The base is the lowest layer. Additions, changes and deletions are relative to it.
//! - The same images produce the same output.

pub(crate) mod model;
pub(crate) mod page;

use std::borrow::Cow;
use std::path::PathBuf;

use crate::check::{self, CheckError, CheckReport, CheckRequest, LintSelection};
use crate::text::escape::escape;
pub(crate) use crate::text::escape::plain;

/// Returns a path as text that is safe and unambiguous in a terminal and a browser. In addition to
/// [`escape`], characters without a width and characters that change the writing direction are
/// escaped, because they could make one name look like another.
pub(crate) fn shown(path: &[u8]) -> Cow<'_, str> {
    match escape(path) {
        Cow::Borrowed(text) => plain(text),
        Cow::Owned(text) => Cow::Owned(plain(&text).into_owned()),
    }
}

/// Checks the overlays on their base, or a base alone.
///
/// # Errors
/// Fails if an image cannot be read.
pub(crate) fn check_images(
    images: &[PathBuf],
    selection: &LintSelection,
) -> Result<CheckReport, CheckError> {
    let name = images.last().map(|path| path.to_string_lossy().into_owned()).unwrap_or_default();
    let lower_layers = usize::from(images.len() > 1);
    check::check(&CheckRequest {
        name,
        images: images.to_vec(),
        lower_layers,
        selection: selection.clone(),
        ..CheckRequest::default()
    })
}

#[cfg(test)]
mod tests {
    use super::shown;

    #[test]
    fn ambiguous_characters_are_escaped() {
        assert_eq!(shown(b"etc/motd"), "etc/motd");
        assert_eq!(shown("sch\u{f6}n/\u{8a9e}".as_bytes()), "sch\u{f6}n/\u{8a9e}");
        assert_eq!(shown(b"a\x1b[31m\xff"), "a\\x1b[31m\\xff");
        assert_eq!(shown("fdp\u{202e}exe".as_bytes()), "fdp\\xe2\\x80\\xaeexe");
    }
}
