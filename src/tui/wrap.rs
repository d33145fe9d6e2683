//! Wraps text with a hanging indent.

use ratatui::style::Style;
use ratatui::text::{Line, Span};

/// Wraps `text` after `first` into lines of `width` columns. Lines after the first are indented by
/// `indent` columns.
pub(crate) fn wrap_hanging(
    first: Span<'static>,
    text: &str,
    style: Style,
    indent: usize,
    width: usize,
) -> Vec<Line<'static>> {
    // On very narrow terminals, use a few columns nevertheless.
    let width = width.max(indent + 8);
    let mut lines = Vec::new();
    let mut start = first;
    let mut left = width.saturating_sub(columns(&start.content)).max(1);
    let mut line = String::new();
    let mut used = 0;
    let mut next = |line: &mut String, used: &mut usize, left: &mut usize| {
        let text = Span::styled(std::mem::take(line), style);
        let start = std::mem::replace(&mut start, Span::raw(" ".repeat(indent)));
        lines.push(Line::from(vec![start, text]));
        (*used, *left) = (0, width - indent);
    };
    for word in text.split_inclusive(' ') {
        let shown = columns(word.trim_end());
        if used > 0 && used + shown > left {
            next(&mut line, &mut used, &mut left);
        }
        for letter in word.chars() {
            let wide = columns(letter.encode_utf8(&mut [0; 4]));
            if used + wide > left {
                if letter == ' ' {
                    continue;
                }
                next(&mut line, &mut used, &mut left);
            }
            line.push(letter);
            used += wide;
        }
    }
    next(&mut line, &mut used, &mut left);
    lines
}

fn columns(text: &str) -> usize {
    Span::raw(text).width()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str, width: usize) -> Vec<String> {
        let lines = wrap_hanging(Span::raw("key "), text, Style::new(), 4, width);
        lines.iter().map(|line| line.spans.iter().map(|span| &*span.content).collect()).collect()
    }

    #[test]
    fn long_text_is_wrapped_and_indented() {
        assert_eq!(lines("", 12), ["key "]);
        assert_eq!(lines("one two", 12), ["key one two"]);
        assert_eq!(lines("one two three", 12), ["key one two ", "    three"]);
        assert_eq!(lines("/a/very/long/path", 12), ["key /a/very/", "    long/pat", "    h"]);
        assert_eq!(lines("\u{6f22}\u{5b57}\u{6f22}\u{5b57}\u{6f22}", 12).len(), 2);
        assert_eq!(lines("one two", 0).len(), 1, "zero width");
    }
}
