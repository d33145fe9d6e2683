//! Paths as text. A path is bytes; text must show each one unambiguously.
//!
//! The rule, here and in the manifest: a byte that is not part of valid UTF-8, a control
//! character, a character that turns the direction of text (U+202A to U+202E, U+2066 to U+2069: it
//! makes one name look like another), and the backslash itself are written `\xHH`, byte by byte (two
//! lower-case hexadecimal digits). Whatever else is written is itself. So a backslash always begins an escape, different paths
//! have different texts, and [`unescape`] gives the bytes back.

use std::borrow::Cow;
use std::fmt::Write;

/// `path` as text.
pub fn escape(path: &[u8]) -> Cow<'_, str> {
    let plain = |text: &str| !text.chars().any(must_escape);
    if let Ok(text) = std::str::from_utf8(path)
        && plain(text)
    {
        return Cow::Borrowed(text);
    }
    let mut text = String::with_capacity(path.len() + 16);
    for part in path.utf8_chunks() {
        for c in part.valid().chars() {
            if must_escape(c) {
                escape_bytes(&mut text, c.encode_utf8(&mut [0; 4]).as_bytes());
            } else {
                text.push(c);
            }
        }
        escape_bytes(&mut text, part.invalid());
    }
    Cow::Owned(text)
}

/// The path that [`escape`] made `text` of; `None` if it made it of none.
pub fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut path = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'\\' {
            path.push(byte);
            continue;
        }
        let digits = rest.strip_prefix(b"x")?.get(..2)?;
        path.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        rest = &rest[3..];
    }
    (escape(&path) == text).then_some(path)
}

/// Text that has come from elsewhere, such as a message with a name in it, with what would do something to a
/// terminal, or make one name look like another, written as [`escape`] writes it; backslashes stay.
pub fn plain(text: &str) -> Cow<'_, str> {
    let escaped = |c: char| c.is_control() || misleads(c);
    if !text.contains(escaped) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if escaped(c) {
            escape_bytes(&mut safe, c.encode_utf8(&mut [0; 4]).as_bytes());
        } else {
            safe.push(c);
        }
    }
    Cow::Owned(safe)
}

/// Whether a character has no width, or changes how others are laid out (Unicode's default
/// ignorable and bidirectional format characters, and the separators of lines).
fn misleads(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e0fff}')
}

fn must_escape(c: char) -> bool {
    let turns = matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c == '\\' || c.is_control() || turns
}

fn escape_bytes(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // Writing to a string does not fail.
        let _ = write!(text, "\\x{byte:02x}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_has_its_own_text_and_comes_back() {
        let paths: [&[u8]; 9] = [
            "evil\u{202e}txt.exe".as_bytes(),
            b"",
            b"usr/bin",
            "sch\u{f6}n".as_bytes(),
            b"sch\xf6n",
            b"dev-disk-by\\x2duuid",
            b"new\nline\x7f",
            b"\xff\xfe\\",
            b"\\xff",
        ];
        let texts: std::collections::BTreeSet<_> =
            paths.iter().map(|path| escape(path).into_owned()).collect();
        assert_eq!(texts.len(), paths.len());
        for path in paths {
            assert_eq!(unescape(&escape(path)).as_deref(), Some(path));
        }
        assert_eq!(escape(b"sch\xf6n\\"), "sch\\xf6n\\x5c");
        assert_eq!(escape("a\u{2066}\u{5d0}".as_bytes()), "a\\xe2\\x81\\xa6\u{5d0}");
        assert_eq!(unescape("\\q"), None);
        assert_eq!(unescape("\\x4"), None);
        assert_eq!(unescape("\\x41"), None, "an escape that is not needed");
    }
}
