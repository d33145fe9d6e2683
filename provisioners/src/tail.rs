//! The last lines of an output that may be long.

use std::collections::VecDeque;

/// How many lines are remembered.
const LINES: usize = 20;
/// How many bytes of a line are.
const WIDTH: usize = 400;

/// Remembers the last lines.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    lines: VecDeque<Vec<u8>>,
    current: Vec<u8>,
}

impl Tail {
    /// Takes the next bytes. A carriage return begins the line again, as on a terminal.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            match byte {
                b'\n' => {
                    if self.lines.len() == LINES {
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
                    if self.current.len() < WIDTH || byte == b'\r' {
                        self.current.push(byte);
                    }
                }
            }
        }
    }

    /// The lines, as text and without control characters; empty ones at the end are left out.
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
        lines.drain(..lines.len().saturating_sub(LINES));
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_lines_are_kept() {
        let mut tail = Tail::default();
        for i in 0..50 {
            tail.push(format!("line {i}\n").as_bytes());
        }
        tail.push(b"unfinished");
        let lines = tail.lines();
        assert_eq!(lines.len(), LINES);
        assert_eq!(lines.first().unwrap(), "line 31");
        assert_eq!(lines.last().unwrap(), "unfinished");
    }

    #[test]
    fn progress_lines_and_colours_do_not_pile_up() {
        let mut tail = Tail::default();
        tail.push(b"10%\r50%\r100%\r\n\x1b[1mdone\x1b[0m\n\n");
        assert_eq!(tail.lines(), ["100%", "[1mdone[0m"]);
    }

    #[test]
    fn a_line_without_end_takes_bounded_memory() {
        let mut tail = Tail::default();
        tail.push(&vec![b'x'; 1 << 20]);
        assert_eq!(tail.lines()[0].len(), WIDTH);
    }
}
