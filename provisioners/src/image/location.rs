//! The location of an image: a file and an offset in it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::values::parse_size;

/// The location of an image: `FILE`, or `FILE@OFFSET` for an image inside a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageLocation {
    /// The file.
    pub file: PathBuf,
    /// The offset of the image in the file, in bytes.
    pub offset: u64,
}

impl ImageLocation {
    /// Returns the location for a path.
    ///
    /// An existing path is the whole file, even if it ends in `@` and digits. Otherwise the text
    /// after the last `@` is the offset if [`parse_offset`] accepts it and the path before it
    /// exists.
    pub fn of(path: &Path) -> ImageLocation {
        let whole = || ImageLocation { file: path.to_owned(), offset: 0 };
        if path.symlink_metadata().is_ok() {
            return whole();
        }
        let bytes = path.as_os_str().as_bytes();
        let Some(at) = bytes.iter().rposition(|&byte| byte == b'@') else { return whole() };
        let file = Path::new(OsStr::from_bytes(&bytes[..at]));
        let offset = std::str::from_utf8(&bytes[at + 1..]).ok().and_then(parse_offset);
        match offset.filter(|_| file.symlink_metadata().is_ok()) {
            Some(offset) => ImageLocation { file: file.to_owned(), offset },
            None => whole(),
        }
    }

    /// Returns the path for this location, the inverse of [`of`](Self::of).
    pub fn path(&self) -> PathBuf {
        if self.offset == 0 {
            return self.file.clone();
        }
        let mut digits = self.offset.to_string();
        loop {
            let mut path = self.file.clone().into_os_string();
            path.push("@");
            path.push(&digits);
            let path = PathBuf::from(path);
            // An existing file of this name would take precedence.
            if path.symlink_metadata().is_err() {
                return path;
            }
            digits.insert(0, '0');
        }
    }
}

/// Parses an offset in bytes: decimal, hexadecimal (`0x8000`) or with a unit (`32K`).
pub fn parse_offset(text: &str) -> Option<u64> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) if digits.starts_with(|c: char| c.is_ascii_hexdigit()) => {
            u64::from_str_radix(digits, 16).ok()
        }
        Some(_) => None,
        None if text.starts_with(|c: char| c.is_ascii_digit()) => parse_size(text),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn existing_file_takes_precedence_over_offset() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| {
            let ImageLocation { file, offset } = ImageLocation::of(&dir.path().join(name));
            (file.strip_prefix(dir.path()).unwrap().to_str().unwrap().to_owned(), offset)
        };
        for name in ["disk", "user@host", "disk@4096"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let location = |file: &str, offset| (file.to_owned(), offset);
        assert_eq!(at("disk"), location("disk", 0));
        assert_eq!(at("disk@4096"), location("disk@4096", 0));
        assert_eq!(at("disk@4096@512"), location("disk@4096", 512));
        assert_eq!(at("disk@32768"), location("disk", 32768));
        assert_eq!(at("disk@0x8000"), location("disk", 32768));
        assert_eq!(at("disk@32K"), location("disk", 32768));
        assert_eq!(at("disk@0"), location("disk", 0));
        assert_eq!(at("user@host"), location("user@host", 0));
        assert_eq!(at("user@host@512"), location("user@host", 512));
        let of = |offset| {
            let location = ImageLocation { file: dir.path().join("disk"), offset };
            assert_eq!(ImageLocation::of(&location.path()), location);
            location.path()
        };
        assert_eq!(of(0), dir.path().join("disk"));
        assert_eq!(of(512), dir.path().join("disk@512"));
        assert_eq!(of(4096), dir.path().join("disk@04096"));
        for none in ["none@512", "disk@", "disk@x", "disk@-1", "disk@+1", "disk@0x", "disk@0x+1"] {
            assert_eq!(at(none), location(none, 0));
        }
    }
}
