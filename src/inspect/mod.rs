//! A picture of a stack of layers: what is in the merged root, where it comes from, what the
//! overlays change in the base, and how many bytes it is.
//!
//! [`model`] is what there is to see, [`page`] shows it in a browser.
//!
//! Invariants:
//! - Names are data. Whatever bytes they are, they reach neither a terminal nor a browser as anything
//!   but text: [`shown`] is the only way from a path to a picture.
//! - The base is the lowest layer. What is said to be added, changed or deleted is so against it.
//! - The same images give the same picture.

pub mod model;
pub mod page;

use std::borrow::Cow;
use std::path::PathBuf;

use crate::check::{self, CheckError, CheckReport, CheckRequest};
use crate::seal::path::escape;
pub use crate::seal::path::plain;

/// A path as text that a terminal and a browser show as it is. Beside what [`escape`] escapes, that
/// are the characters that have no width or turn the direction of what follows: with them, one name
/// could look like another.
pub fn shown(path: &[u8]) -> Cow<'_, str> {
    match escape(path) {
        Cow::Borrowed(text) => plain(text),
        Cow::Owned(text) => Cow::Owned(plain(&text).into_owned()),
    }
}

/// Has the overlays judged over their base, or a base alone by itself.
///
/// # Errors
/// What is beneath cannot be read.
pub fn judge(images: &[PathBuf]) -> Result<CheckReport, CheckError> {
    let name = images.last().map(|path| path.to_string_lossy().into_owned()).unwrap_or_default();
    let lower_layers = usize::from(images.len() > 1);
    check::check(&CheckRequest {
        name,
        images: images.to_vec(),
        lower_layers,
        ..CheckRequest::default()
    })
}

#[cfg(test)]
mod tests {
    use super::shown;

    #[test]
    fn names_look_like_what_they_are() {
        assert_eq!(shown(b"etc/motd"), "etc/motd");
        assert_eq!(shown("sch\u{f6}n/\u{8a9e}".as_bytes()), "sch\u{f6}n/\u{8a9e}");
        assert_eq!(shown(b"a\x1b[31m\xff"), "a\\x1b[31m\\xff");
        assert_eq!(shown("fdp\u{202e}exe".as_bytes()), "fdp\\xe2\\x80\\xaeexe");
    }
}
