//! The line that is completed, as the shell has it, and words as it takes them.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::sync::OnceLock;

/// The line up to the cursor, from bash: its words are not those of the line, it cuts them at colons
/// and equals signs.
pub(super) const LINE: &str = "OVERCOAT_LINE";

/// The shell that asks.
static ASKING: OnceLock<OsString> = OnceLock::new();

/// Notes which shell asks.
pub(super) fn asked_by(shell: OsString) {
    // It is asked once.
    let _ = ASKING.set(shell);
}

/// The line that is completed, up to the cursor.
#[derive(Debug)]
pub(super) struct Line {
    /// The words after the subcommand, without the one that is written.
    words: Vec<OsString>,
    /// The word that is written.
    pub(super) current: Vec<u8>,
    /// What the shell keeps of that, as it stands in the line; only the rest is replaced.
    kept: Vec<u8>,
    /// Whether the shell takes what it is given as it is.
    literal: bool,
}

impl Line {
    /// From this process's arguments and environment; `current` is the word that is written, as the
    /// shell has it. Nothing for a line that cannot be completed.
    pub(super) fn of_process(current: &OsStr) -> Option<Self> {
        let current = current.as_bytes();
        if let Some(line) = std::env::var_os(LINE) {
            return Line::of_bash(line.as_bytes(), current);
        }
        // `PROGRAM -- overcoat SUBCOMMAND WORD…`; which one is written is said, or the last is.
        let words = std::env::args_os().skip_while(|arg| arg != "--").skip(1);
        let mut words: Vec<OsString> = words.collect();
        let index = std::env::var("_CLAP_COMPLETE_INDEX").ok().and_then(|text| text.parse().ok());
        words.truncate(index.unwrap_or(words.len().saturating_sub(1)));
        // The script has set it aside.
        let colon = ASKING.get().is_some_and(|shell| shell == "zsh") && current.starts_with(b":");
        let kept = if colon { b":".to_vec() } else { Vec::new() };
        let words = after_subcommand(words);
        Some(Line { words, current: current.to_vec(), kept, literal: false })
    }

    fn of_bash(line: &[u8], replaced: &[u8]) -> Option<Self> {
        let (mut words, start) = words(line)?;
        let mut current = words.pop().unwrap_or_default();
        let raw = line.get(start..)?;
        let kept = raw.strip_suffix(replaced)?.to_vec();
        // The value of an option that is written behind it.
        if current.starts_with(b"--")
            && let Some(at) = current.iter().position(|&byte| byte == b'=')
        {
            current.drain(..=at);
            let name = kept.iter().position(|&byte| byte == b'=').map_or(0, |at| at + 1);
            let kept = kept.get(name..).unwrap_or_default().to_vec();
            let words = after_subcommand(words.into_iter().map(OsString::from_vec).collect());
            return Some(Line { words, current, kept, literal: true });
        }
        let words = after_subcommand(words.into_iter().map(OsString::from_vec).collect());
        Some(Line { words, current, kept, literal: true })
    }

    /// What to give to the shell so that `word` stands in the place of the current one; nothing for
    /// a word that it could not have.
    pub(super) fn written(&self, word: &[u8]) -> Option<OsString> {
        // Lines tell candidates apart, and some shells take text for no more than it is.
        if std::str::from_utf8(word).ok()?.contains(char::is_control) {
            return None;
        }
        let word = if self.literal { quoted(word) } else { word.to_vec() };
        Some(OsString::from_vec(word.strip_prefix(&self.kept[..])?.to_vec()))
    }

    /// The words that are no options, nor paths inside images, as paths.
    pub(super) fn paths(&self) -> impl Iterator<Item = PathBuf> {
        let words = self.words.iter().map(|word| word.as_bytes());
        words.filter(|word| !word.starts_with(b"-") && !word.starts_with(b":")).map(at_home)
    }

    /// The value of an option as a path, written behind it or after `=`.
    pub(super) fn value_of(&self, names: &[&str]) -> Option<PathBuf> {
        let value = |(at, word): (usize, &OsString)| {
            names.iter().find_map(|name| match word.as_bytes().strip_prefix(name.as_bytes())? {
                [] => self.words.get(at + 1).map(|word| at_home(word.as_bytes())),
                [b'=', value @ ..] => Some(at_home(value)),
                _ => None,
            })
        };
        self.words.iter().enumerate().filter_map(value).next_back()
    }
}

/// The words behind the subcommand; options may stand before that.
fn after_subcommand(words: Vec<OsString>) -> Vec<OsString> {
    let behind = words.into_iter().skip(1).skip_while(|word| word.as_bytes().starts_with(b"-"));
    behind.skip(1).collect()
}

/// A path as a word of the line has it: no shell has replaced a tilde yet.
pub(super) fn at_home(path: &[u8]) -> PathBuf {
    match (path.strip_prefix(b"~/"), std::env::var_os("HOME")) {
        (Some(rest), Some(home)) => PathBuf::from(home).join(OsStr::from_bytes(rest)),
        _ => PathBuf::from(OsStr::from_bytes(path)),
    }
}

/// The words of a line of bash, without their quotes, and where the last one begins; the last one is
/// empty when a blank stands before the end. Nothing while a quote is open.
fn words(line: &[u8]) -> Option<(Vec<Vec<u8>>, usize)> {
    let mut words = Vec::new();
    let mut word = Vec::new();
    let mut start = 0;
    let mut quote = None;
    let mut bytes = line.iter().copied().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match (byte, quote) {
            (b'\'', Some(b'\'')) | (b'"', Some(b'"')) => quote = None,
            (b'\'' | b'"', None) => quote = Some(byte),
            (b'\\', None | Some(b'"')) => word.extend(bytes.next().map(|(_, byte)| byte)),
            (b' ' | b'\t', None) => {
                if at > start {
                    words.push(std::mem::take(&mut word));
                }
                start = at + 1;
            }
            _ => word.push(byte),
        }
    }
    words.push(word);
    quote.is_none().then_some((words, start))
}

/// A word as bash has to be given it: it takes what it is given for a part of the line.
fn quoted(word: &[u8]) -> Vec<u8> {
    let plain =
        |byte: &u8| byte.is_ascii_alphanumeric() || *byte >= 0x80 || b"/.,:+-_=@%^~".contains(byte);
    let mut quoted = Vec::with_capacity(word.len());
    for (at, byte) in word.iter().enumerate() {
        // In front a tilde would be the home; whoever has written it means that.
        let tilde = *byte == b'~' && (at > 0 || word.get(1) != Some(&b'/'));
        if !plain(byte) || tilde {
            quoted.push(b'\\');
        }
        quoted.push(*byte);
    }
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_bash() {
        let split = |line: &str| {
            let (words, start) = words(line.as_bytes())?;
            let words: Vec<_> = words.into_iter().map(|w| String::from_utf8(w).unwrap()).collect();
            Some((words.join("|"), start))
        };
        assert_eq!(split("overcoat ls a  b"), Some(("overcoat|ls|a|b".into(), 15)));
        assert_eq!(split("ls a\\ b 'c d' \"e\" "), Some(("ls|a b|c d|e|".into(), 18)));
        assert_eq!(split("ls :/a=b"), Some(("ls|:/a=b".into(), 3)));
        assert_eq!(split("ls 'open"), None);
        assert_eq!(split("ls end\\"), Some(("ls|end".into(), 3)));
        assert_eq!(split(""), Some(("".into(), 0)));
    }

    #[test]
    fn what_bash_is_given_is_one_word_that_does_nothing() {
        let text = |word: &str| String::from_utf8(quoted(word.as_bytes())).unwrap();
        assert_eq!(text("/etc/a b;$(x)`y`&'\"!*"), r#"/etc/a\ b\;\$\(x\)\`y\`\&\'\"\!\*"#);
        assert_eq!(text("~/é"), "~/é");
        assert_eq!(text("~root"), "\\~root");
        let line = Line::of_bash(b"overcoat ls x.cpio :/a", b"/a").unwrap();
        assert_eq!(line.written(b":/a;b").unwrap(), "/a\\;b");
        assert_eq!(line.written(b":/a\nb"), None);
        assert_eq!(line.written(b":/a\xff"), None);
    }
}
