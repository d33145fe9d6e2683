//! Edits of single lines of a file, which leave all other text as it is.

use std::ops::RangeInclusive;

/// An edit of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LineEdit {
    /// The line, from 1.
    line: usize,
    /// The first column in which the text to replace may begin, from 1, in characters.
    column: usize,
    /// The text in the line to replace.
    old: String,
    /// The new text, which may have several lines; `None` deletes the line.
    new: Option<String>,
}

impl LineEdit {
    /// Returns the edit that replaces `old` in the first of the `lines` that has it. Lines are
    /// numbered from 1.
    pub(super) fn replace(
        text: &str,
        mut lines: RangeInclusive<usize>,
        old: &str,
        new: &str,
    ) -> Option<Self> {
        let line =
            lines.find(|line| line_of(text, *line).is_some_and(|t| find(t, old, 1).is_some()));
        Some(Self { line: line?, column: 1, old: old.to_owned(), new: Some(new.to_owned()) })
    }

    /// Returns the edit that replaces `old` at or after a position.
    pub(super) fn replace_from(
        text: &str,
        (line, column): (usize, usize),
        old: &str,
        new: &str,
    ) -> Option<Self> {
        find(line_of(text, line)?, old, column)?;
        Some(Self { line, column, old: old.to_owned(), new: Some(new.to_owned()) })
    }

    /// Returns its line, from 1.
    pub(super) fn line(&self) -> usize {
        self.line
    }

    /// Returns the edit that deletes a line.
    pub(super) fn delete(line: usize) -> Self {
        Self { line, column: 1, old: String::new(), new: None }
    }
}

/// Returns a line of a text.
pub(super) fn line_of(text: &str, line: usize) -> Option<&str> {
    text.lines().nth(line.checked_sub(1)?)
}

/// Returns the position of a text in a line, at or after a column, where it is not a part of a
/// longer word.
fn find(line: &str, text: &str, column: usize) -> Option<usize> {
    let from = line.char_indices().nth(column.checked_sub(1)?).map_or(line.len(), |(at, _)| at);
    let part = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    let mut positions = line.match_indices(text).map(|(at, _)| at);
    positions.find(|at| {
        let (before, after) = (&line[..*at], &line[at + text.len()..]);
        let is_part = text.starts_with(part) && before.ends_with(part)
            || text.ends_with(part) && after.starts_with(part);
        *at >= from && !is_part
    })
}

/// Applies edits to a text. Each replaces the first occurrence of its text in the line, at or after
/// its column.
pub(super) fn apply(text: &str, edits: &[LineEdit]) -> String {
    let mut edited = String::with_capacity(text.len());
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let mut of_line: Vec<&LineEdit> = edits.iter().filter(|e| e.line == index + 1).collect();
        // An edit moves the text after it.
        of_line.sort_by_key(|edit| std::cmp::Reverse(edit.column));
        let mut line = Some(line.to_owned());
        for edit in of_line {
            line = match (&edit.new, line) {
                (Some(new), Some(mut line)) => {
                    if let Some(at) = find(&line, &edit.old, edit.column) {
                        line.replace_range(at..at + edit.old.len(), new);
                    }
                    Some(line)
                }
                _ => None,
            };
        }
        edited.push_str(line.as_deref().unwrap_or_default());
    }
    edited
}
