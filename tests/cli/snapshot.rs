//! Snapshots of outputs, in the folder `snapshots`.
//!
//! `INSTA_UPDATE=always cargo test -p overcoat --test cli NAME` writes those of the tests NAME.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use insta::Settings;
use insta::internals::SettingsBindDropGuard;

use crate::support::stage::{Finished, finish};

/// Selects the folder for the snapshots of this thread, until the result is dropped.
pub(crate) fn bind(folder: &str) -> SettingsBindDropGuard {
    let mut settings = Settings::clone_current();
    settings.set_snapshot_path(Path::new("snapshots").join(folder));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind_to_scope()
}

/// Returns a command that runs overcoat as this user, without environment variables that affect
/// its output.
pub(crate) fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_overcoat"));
    command.env("LC_ALL", "C").env("NO_COLOR", "1").env_remove("SOURCE_DATE_EPOCH");
    command
}

/// The command lines of a test with their outputs, as a terminal shows them.
pub(crate) struct Transcript {
    folder: PathBuf,
    text: String,
}

impl Transcript {
    /// Creates a transcript of commands that run in this folder.
    pub(crate) fn new(folder: impl Into<PathBuf>) -> Self {
        Transcript { folder: folder.into(), text: String::new() }
    }

    /// Runs `program` with the arguments in `line`, which are separated by spaces.
    pub(crate) fn run(&mut self, mut program: Command, line: &str) -> Finished {
        program.args(line.split(' ')).current_dir(&self.folder).stdin(Stdio::null());
        // The width of the help and of its messages.
        let finished = finish(program.env("COLUMNS", "100"));
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        self.text += &format!("$ overcoat {line}\n{}", finished.text());
        if !finished.stderr.is_empty() {
            self.text += &format!("--- standard error\n{}", finished.stderr);
        }
        if finished.code != 0 {
            self.text += &format!("--- exit code {}\n", finished.code);
        }
        finished
    }

    /// Returns the text, without the path of the folder and without durations.
    pub(crate) fn text(&self) -> String {
        plain(&self.text, &self.folder)
    }
}

/// Replaces what differs between machines: digests by a number for each digest, sizes and ages.
/// Columns are separated by two spaces, because their widths depend on these. Steps of the clean-up
/// are removed, because only slow ones are reported.
pub(crate) fn without_digests_sizes_and_ages(text: &str) -> String {
    let mut digests: Vec<String> = Vec::new();
    let lines = text.lines().filter(|line| !line.contains("] cleanup "));
    lines.map(|line| comparable_line(line, &mut digests) + "\n").collect()
}

fn comparable_line(line: &str, digests: &mut Vec<String>) -> String {
    const PUNCTUATION: [char; 6] = [',', ';', ':', '.', '(', ')'];
    let line = line.replace("just now", "0 min ago");
    let mut result = String::new();
    let mut words = line.split(' ').peekable();
    while let Some(word) = words.next() {
        let bare = word.trim_matches(PUNCTUATION);
        let next = words.peek().map(|next| next.trim_matches(PUNCTUATION)).unwrap_or_default();
        let is_hex = bare.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let mut word = word.to_owned();
        if [12, 16].contains(&bare.len()) && is_hex {
            let digest = &bare[..12];
            let known = digests.iter().position(|other| other == digest);
            let number = known.unwrap_or(digests.len());
            if known.is_none() {
                digests.push(digest.to_owned());
            }
            word = word.replace(bare, &format!("digest{}", number + 1));
        } else if bare.parse::<f64>().is_ok() && ["bytes", "kB", "MB"].contains(&next) {
            let unit = words.next().unwrap_or_default().replace(next, "SIZE");
            word = word.replace(bare, "") + &unit;
        } else if bare.parse::<u64>().is_ok() && next == "min" {
            word = word.replace(bare, "N");
        }
        result += &word;
        result.push(' ');
    }
    let mut result = result.trim_end().to_owned();
    while !result.starts_with(' ') && result.contains("   ") {
        result = result.replace("   ", "  ");
    }
    result
}

/// Removes the path of a folder from paths in a text, and replaces durations by `N`.
pub(crate) fn plain(text: &str, folder: &Path) -> String {
    let text = text.replace(&format!("{}/", folder.display()).replace("//", "/"), "");
    text.lines().map(|line| without_durations(line) + "\n").collect()
}

/// Replaces the number in durations such as `0.1 s` by `N`.
fn without_durations(line: &str) -> String {
    let words: Vec<&str> = line.split(' ').collect();
    let is_second = |word: &str| word.trim_end_matches([')', ',', ';', ':']) == "s";
    let plain = words.iter().enumerate().map(|(at, word)| {
        let number = word.trim_start_matches('(');
        let is_duration =
            number.parse::<f64>().is_ok() && words.get(at + 1).is_some_and(|next| is_second(next));
        if is_duration { word.replace(number, "N") } else { (*word).to_owned() }
    });
    plain.collect::<Vec<_>>().join(" ")
}
