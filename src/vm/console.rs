//! Console output of a machine as plain lines.

use std::collections::VecDeque;

use anstream::adapter::strip_str;

/// Number of recent lines kept.
const MAX_LINES: usize = 40;
/// Maximum length of a line, in bytes; the rest is discarded.
const MAX_LINE_LENGTH: usize = 4096;

/// The recent output of a console.
#[derive(Debug, Default)]
pub(crate) struct Console {
    line: Vec<u8>,
    lines: VecDeque<String>,
}

impl Console {
    /// Adds output, and passes each complete line to `read`.
    pub(crate) fn take(&mut self, bytes: &[u8], read: &mut dyn FnMut(&str)) {
        for &byte in bytes {
            match byte {
                b'\n' => self.complete(read),
                _ if self.line.len() < MAX_LINE_LENGTH => self.line.push(byte),
                _ => {}
            }
        }
    }

    fn complete(&mut self, read: &mut dyn FnMut(&str)) {
        let line = plain(&self.line);
        self.line.clear();
        if line.is_empty() {
            return;
        }
        read(&line);
        if self.lines.len() == MAX_LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    /// Returns the recent lines, including an incomplete one.
    pub(crate) fn last(&self) -> Vec<String> {
        let rest = plain(&self.line);
        self.lines.iter().cloned().chain((!rest.is_empty()).then_some(rest)).collect()
    }
}

/// Returns the text of a line without escape sequences and control characters. A carriage return
/// discards the text before it, because the terminal would overwrite that.
fn plain(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let text = strip_str(&text).to_string();
    let text = text.strip_suffix('\r').unwrap_or(&text);
    let text = text.rsplit('\r').next().unwrap_or_default().replace('\t', " ");
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_are_removed_for_any_chunk_size() {
        let talk = b"\x1b[0;32m  OK  \x1b[0m] Reached \x1b[1mtarget\x1b[m\r\nover\rwritten\r\n\n\
                     \x1b]3008;start=1\x1b\\title\nend";
        for cut in 1..talk.len() {
            let mut console = Console::default();
            let mut lines = Vec::new();
            talk.chunks(cut).for_each(|part| console.take(part, &mut |l| lines.push(l.to_owned())));
            assert_eq!(lines, ["  OK  ] Reached target", "written", "title"]);
            assert_eq!(console.last().last().unwrap(), "end");
        }
    }

    #[test]
    fn lines_and_their_number_are_bounded() {
        let mut console = Console::default();
        console.take(&vec![b'x'; 10 * MAX_LINE_LENGTH], &mut |_| panic!("no line"));
        assert_eq!(console.last(), ["x".repeat(MAX_LINE_LENGTH)]);
        (0..1000).for_each(|_| console.take(b"\nx\n", &mut |_| {}));
        assert_eq!(console.last().len(), MAX_LINES);
    }
}
