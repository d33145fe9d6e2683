//! Paths as text. A path is a byte string; the text must represent it unambiguously.
//!
//! Here and in the manifest, bytes of the following are written `\xHH`, byte by byte (two
//! lower-case hexadecimal digits): invalid UTF-8, control characters, characters that change the
//! direction of text (U+202A to U+202E, U+2066 to U+2069: they make one name look like another),
//! and the backslash itself. Everything else is unchanged. So a backslash always begins an escape,
//! different paths have different texts, and [`unescape`] restores the bytes.

use std::borrow::Cow;
use std::fmt::Write;

/// Returns `path` as text.
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

/// Returns the path for which [`escape`] returns `text`; `None` if there is no such path.
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

/// Returns `text` as a word of a shell, in quotes if necessary.
pub fn shell_word(text: &str) -> Cow<'_, str> {
    let is_word = |c: char| c.is_alphanumeric() || "_-./:,+@%".contains(c);
    match !text.is_empty() && text.chars().all(is_word) {
        true => Cow::Borrowed(text),
        false => Cow::Owned(format!("'{}'", text.replace('\'', r"'\''"))),
    }
}

/// Escapes foreign text, such as a message that contains a name: characters that could control a
/// terminal, or make one name look like another, are written as [`escape`] writes them. Backslashes
/// are unchanged.
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

/// Whether a character is invisible or changes the layout of others (Unicode's default ignorable
/// and bidirectional format characters, and the line separators).
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
        // Writing to a string cannot fail.
        let _ = write!(text, "\\x{byte:02x}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaped_paths_are_distinct_and_reversible() {
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
        assert_eq!(unescape("\\x41"), None, "an unnecessary escape");
    }
}
