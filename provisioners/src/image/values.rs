//! Values of keys in image files: keywords, paths, sizes, URLs of proxies and times.

use std::path::{Path, PathBuf};

use crate::config::error::Mistake;
use crate::config::{YamlNode, join, nearest};

/// Maximum of the key `keep`.
const MAX_KEEP: u16 = 1000;

/// Reads a list of paths relative to `folder`. `what` describes one in messages.
pub(super) fn paths(
    node: Option<&YamlNode>,
    folder: &Path,
    what: &str,
) -> Result<Vec<PathBuf>, Box<Mistake>> {
    match node {
        None => Ok(Vec::new()),
        Some(node) => node.list()?.iter().map(|n| Ok(join(folder, n.text(what)?))).collect(),
    }
}

/// Reads one of several keywords and returns its value.
pub(super) fn keyword<T: Copy>(
    node: &YamlNode,
    words: &[(&'static str, T)],
) -> Result<T, Box<Mistake>> {
    let names: Vec<&str> = words.iter().map(|(name, _)| *name).collect();
    let wanted = format!("one of {}", names.join(", "));
    let text = node.text(&wanted)?;
    match words.iter().find(|(name, _)| *name == text) {
        Some((_, value)) => Ok(*value),
        None => Err(match nearest(text, names) {
            Some(name) => node
                .mistake_with_help(format!("expected {wanted}"), format!("did you mean `{name}`?")),
            None => node.mistake(format!("expected {wanted}")),
        }),
    }
}

/// Reads a size in bytes, such as `2G`.
pub(super) fn size(node: &YamlNode) -> Result<u64, Box<Mistake>> {
    let text = node.text("a size such as 2G")?;
    parse_size(text).ok_or_else(|| {
        node.mistake_with_help(format!("invalid size `{text}`"), "write `2G` or `512M`")
    })
}

/// Parses a size in bytes: a number with an optional unit K, M, G or T, which may be followed by
/// `iB` or `B`. Units are powers of 1024.
pub fn parse_size(text: &str) -> Option<u64> {
    let text = text.strip_suffix("iB").or_else(|| text.strip_suffix('B')).unwrap_or(text);
    let (digits, shift) = match text.chars().last()?.to_ascii_uppercase() {
        'K' => (&text[..text.len() - 1], 10),
        'M' => (&text[..text.len() - 1], 20),
        'G' => (&text[..text.len() - 1], 30),
        'T' => (&text[..text.len() - 1], 40),
        _ => (text, 0),
    };
    let number: u64 = digits.trim().parse().ok()?;
    number.checked_mul(1 << shift)
}

/// Reads the URL of a proxy that apt accepts.
pub(super) fn proxy(node: &YamlNode) -> Result<String, Box<Mistake>> {
    let text = node.text("the URL of a proxy")?;
    let known = ["http://", "https://", "socks5h://"].iter().any(|scheme| text.starts_with(scheme));
    if known && !text.contains(|c: char| c == '"' || c.is_whitespace() || c.is_control()) {
        return Ok(text.to_owned());
    }
    Err(node.mistake_with_help("invalid proxy URL", "write `http://cache.example.org:3142`"))
}

/// Reads a time in seconds since 1970.
pub(super) fn epoch(node: &YamlNode) -> Result<i64, Box<Mistake>> {
    let text = node.text("seconds since 1970")?;
    text.parse().ok().filter(|seconds| *seconds >= 0).ok_or_else(|| {
        node.mistake_with_help(
            format!("invalid time `{text}`"),
            "write seconds since 1970, as printed by `date +%s` or `git log -1 --format=%ct`",
        )
    })
}

/// Reads the number of results to keep.
pub(super) fn keep(node: &YamlNode) -> Result<u16, Box<Mistake>> {
    let text = node.text("a number of results")?;
    text.parse().ok().filter(|number| (1..=MAX_KEEP).contains(number)).ok_or_else(|| {
        node.mistake_with_help(
            format!("invalid number of results `{text}`"),
            format!("write a number from 1, which keeps only the current result, to {MAX_KEEP}"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_sizes_with_units() {
        assert_eq!(parse_size("2G"), Some(2 << 30));
        assert_eq!(parse_size("512MiB"), Some(512 << 20));
        assert_eq!(parse_size("10"), Some(10));
        assert_eq!(parse_size("99999999999T"), None);
        assert_eq!(parse_size("G"), None);
        assert_eq!(parse_size(""), None);
    }
}
