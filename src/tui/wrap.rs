//! Wraps text with a hanging indent.

use ratatui::style::Style;
use ratatui::text::{Line, Span};
use textwrap::{Options, WordSeparator, WordSplitter, WrapAlgorithm};

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
    let (begin, hang) = (" ".repeat(first.width()), " ".repeat(indent));
    let options = Options::new(width)
        .initial_indent(&begin)
        .subsequent_indent(&hang)
        .word_separator(WordSeparator::AsciiSpace)
        .word_splitter(WordSplitter::NoHyphenation)
        .wrap_algorithm(WrapAlgorithm::FirstFit);
    let mut start = Some(first);
    let lines = textwrap::wrap(text, options).into_iter().map(|line| match start.take() {
        Some(first) => {
            let text = line.get(begin.len()..).unwrap_or_default().to_owned();
            Line::from(vec![first, Span::styled(text, style)])
        }
        None => Line::from(Span::styled(line.into_owned(), style)),
    });
    lines.collect()
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
        assert_eq!(lines("one two three", 12), ["key one two", "    three"]);
        assert_eq!(lines("/a/very/long/path", 12), ["key /a/very/", "    long/pat", "    h"]);
        assert_eq!(lines("\u{6f22}\u{5b57}\u{6f22}\u{5b57}\u{6f22}", 12).len(), 2);
        assert_eq!(lines("one two", 0).len(), 1, "zero width");
    }
}
