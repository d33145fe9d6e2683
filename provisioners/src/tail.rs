//! Keeps the last lines of a long output.

use std::collections::VecDeque;

/// Maximum lines kept.
const MAX_LINES: usize = 20;
/// Maximum bytes kept of each line.
const MAX_LINE_BYTES: usize = 400;

/// Collects output and keeps its last lines.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    lines: VecDeque<Vec<u8>>,
    current: Vec<u8>,
}

impl Tail {
    /// Appends bytes. A carriage return clears the current line, as on a terminal.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            match byte {
                b'\n' => {
                    if self.lines.len() == MAX_LINES {
                        self.lines.pop_front();
                    }
                    let mut line = std::mem::take(&mut self.current);
                    if line.last() == Some(&b'\r') {
                        line.pop();
                    }
                    self.lines.push_back(line);
                }
                _ => {
                    if self.current.last() == Some(&b'\r') {
                        self.current.clear();
                    }
                    if self.current.len() < MAX_LINE_BYTES || byte == b'\r' {
                        self.current.push(byte);
                    }
                }
            }
        }
    }

    /// Returns the lines as text, without control characters and without empty lines at the end.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> = self
            .lines
            .iter()
            .chain(Some(&self.current))
            .map(|line| {
                let text = String::from_utf8_lossy(line);
                text.chars().filter(|c| !c.is_control() || *c == '\t').collect()
            })
            .collect();
        while lines.last().is_some_and(|line| line.trim().is_empty()) {
            lines.pop();
        }
        lines.drain(..lines.len().saturating_sub(MAX_LINES));
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_only_the_last_lines() {
        let mut tail = Tail::default();
        for i in 0..50 {
            tail.push(format!("line {i}\n").as_bytes());
        }
        tail.push(b"unfinished");
        let lines = tail.lines();
        assert_eq!(lines.len(), MAX_LINES);
        assert_eq!(lines.first().unwrap(), "line 31");
        assert_eq!(lines.last().unwrap(), "unfinished");
    }

    #[test]
    fn progress_lines_are_overwritten_and_colours_removed() {
        let mut tail = Tail::default();
        tail.push(b"10%\r50%\r100%\r\n\x1b[1mdone\x1b[0m\n\n");
        assert_eq!(tail.lines(), ["100%", "[1mdone[0m"]);
    }

    #[test]
    fn long_line_uses_bounded_memory() {
        let mut tail = Tail::default();
        tail.push(&vec![b'x'; 1 << 20]);
        assert_eq!(tail.lines()[0].len(), MAX_LINE_BYTES);
    }
}
