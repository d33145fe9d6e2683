//! Parses the command line to complete, and quotes the completed words.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::sync::OnceLock;

/// Environment variable with the line up to the cursor, set by the bash script: the arguments that
/// bash passes are split at colons and equals signs.
pub(crate) const LINE: &str = "OVERCOAT_LINE";

/// The shell that requested completions.
static SHELL: OnceLock<OsString> = OnceLock::new();

/// Sets the shell that requested completions.
pub(crate) fn set_shell(shell: OsString) {
    // Called once, so the cell is empty.
    let _ = SHELL.set(shell);
}

/// The line to complete, up to the cursor.
#[derive(Debug)]
pub(crate) struct CompletionLine {
    /// Words after the subcommand, without the current one.
    words: Vec<OsString>,
    /// The word to complete, without quotes.
    pub(crate) current: Vec<u8>,
    /// Beginning of the current word in the line that the shell does not replace.
    kept: Vec<u8>,
    /// Whether the shell inserts candidates without quoting them.
    literal: bool,
}

impl CompletionLine {
    /// Creates the line from this process's arguments and environment; `current` is the word to
    /// complete, as split by the shell. Returns `None` if the line cannot be completed.
    pub(crate) fn from_process(current: &OsStr) -> Option<Self> {
        let current = current.as_bytes();
        if let Some(line) = std::env::var_os(LINE) {
            return CompletionLine::from_bash(line.as_bytes(), current);
        }
        // `PROGRAM -- overcoat SUBCOMMAND WORD…`. The variable has the index of the current word;
        // it is the last one if the variable is not set.
        let words = std::env::args_os().skip_while(|arg| arg != "--").skip(1);
        let mut words: Vec<OsString> = words.collect();
        let index = std::env::var("_CLAP_COMPLETE_INDEX").ok().and_then(|text| text.parse().ok());
        words.truncate(index.unwrap_or(words.len().saturating_sub(1)));
        // The zsh script excludes the leading colon from the replaced part (`compset -P :`).
        let colon = SHELL.get().is_some_and(|shell| shell == "zsh") && current.starts_with(b":");
        let kept = if colon { b":".to_vec() } else { Vec::new() };
        let words = after_subcommand(words);
        Some(CompletionLine { words, current: current.to_vec(), kept, literal: false })
    }

    fn from_bash(line: &[u8], replaced: &[u8]) -> Option<Self> {
        let (mut words, start) = words(line)?;
        let mut current = words.pop().unwrap_or_default();
        let raw = line.get(start..)?;
        let kept = raw.strip_suffix(replaced)?.to_vec();
        // The value of `--option=value`.
        if current.starts_with(b"--")
            && let Some(at) = current.iter().position(|&byte| byte == b'=')
        {
            current.drain(..=at);
            let name = kept.iter().position(|&byte| byte == b'=').map_or(0, |at| at + 1);
            let kept = kept.get(name..).unwrap_or_default().to_vec();
            let words = after_subcommand(words.into_iter().map(OsString::from_vec).collect());
            return Some(CompletionLine { words, current, kept, literal: true });
        }
        let words = after_subcommand(words.into_iter().map(OsString::from_vec).collect());
        Some(CompletionLine { words, current, kept, literal: true })
    }

    /// Returns the text for the shell to insert so that `word` replaces the current word; `None` if
    /// the shell cannot represent it.
    pub(crate) fn replacement(&self, word: &[u8]) -> Option<OsString> {
        // Candidates are separated by newlines, and some shells accept only valid text.
        if std::str::from_utf8(word).ok()?.contains(char::is_control) {
            return None;
        }
        let word = if self.literal { quote(word) } else { word.to_vec() };
        Some(OsString::from_vec(word.strip_prefix(&self.kept[..])?.to_vec()))
    }

    /// Returns the words that are neither options nor paths inside images, as host paths.
    pub(crate) fn paths(&self) -> impl Iterator<Item = PathBuf> {
        let words = self.words.iter().map(|word| word.as_bytes());
        words.filter(|word| !word.starts_with(b"-") && !word.starts_with(b":")).map(expand_tilde)
    }

    /// Returns the value of an option as a path, given as the next word or after `=`.
    pub(crate) fn value_of(&self, names: &[&str]) -> Option<PathBuf> {
        let value = |(at, word): (usize, &OsString)| {
            names.iter().find_map(|name| match word.as_bytes().strip_prefix(name.as_bytes())? {
                [] => self.words.get(at + 1).map(|word| expand_tilde(word.as_bytes())),
                [b'=', value @ ..] => Some(expand_tilde(value)),
                _ => None,
            })
        };
        self.words.iter().enumerate().filter_map(value).next_back()
    }
}

/// Returns the words after the subcommand, which may follow global options.
fn after_subcommand(words: Vec<OsString>) -> Vec<OsString> {
    let rest = words.into_iter().skip(1).skip_while(|word| word.as_bytes().starts_with(b"-"));
    rest.skip(1).collect()
}

/// Converts a word to a path. The shell has not expanded a leading `~/` yet.
pub(crate) fn expand_tilde(path: &[u8]) -> PathBuf {
    match (path.strip_prefix(b"~/"), std::env::var_os("HOME")) {
        (Some(rest), Some(home)) => PathBuf::from(home).join(OsStr::from_bytes(rest)),
        _ => PathBuf::from(OsStr::from_bytes(path)),
    }
}

/// Splits a line of bash into unquoted words, and returns them with the byte offset of the last
/// one, which is empty if the line ends in a blank. Returns `None` if a quote is unclosed.
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

/// Quotes a word for bash, which inserts candidates into the line unchanged.
fn quote(word: &[u8]) -> Vec<u8> {
    let plain =
        |byte: &u8| byte.is_ascii_alphanumeric() || *byte >= 0x80 || b"/.,:+-_=@%^~".contains(byte);
    let mut quoted = Vec::with_capacity(word.len());
    for (at, byte) in word.iter().enumerate() {
        // A leading `~/` was typed by the user and means the home directory.
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
    fn words_are_split_as_in_bash() {
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
        assert_eq!(split(""), Some((String::new(), 0)));
    }

    #[test]
    fn replacements_for_bash_are_quoted_as_one_word() {
        let text = |word: &str| String::from_utf8(quote(word.as_bytes())).unwrap();
        assert_eq!(text("/etc/a b;$(x)`y`&'\"!*"), r#"/etc/a\ b\;\$\(x\)\`y\`\&\'\"\!\*"#);
        assert_eq!(text("~/é"), "~/é");
        assert_eq!(text("~root"), "\\~root");
        let line = CompletionLine::from_bash(b"overcoat ls x.cpio :/a", b"/a").unwrap();
        assert_eq!(line.replacement(b":/a;b").unwrap(), "/a\\;b");
        assert_eq!(line.replacement(b":/a\nb"), None);
        assert_eq!(line.replacement(b":/a\xff"), None);
    }
}
