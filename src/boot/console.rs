//! What a machine writes to its console, as lines that can be read.

use std::collections::VecDeque;

/// How many of the last lines are kept.
const KEPT: usize = 40;
/// A line longer than this is cut, in bytes.
const LONGEST: usize = 4096;

/// The console, as far as it has been read.
#[derive(Debug, Default)]
pub struct Console {
    line: Vec<u8>,
    lines: VecDeque<String>,
}

impl Console {
    /// Takes in what came, and gives each line that is complete to `read`.
    pub fn take(&mut self, bytes: &[u8], read: &mut dyn FnMut(&str)) {
        for &byte in bytes {
            match byte {
                b'\n' => self.complete(read),
                _ if self.line.len() < LONGEST => self.line.push(byte),
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
        if self.lines.len() == KEPT {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    /// The last lines, the one that is not complete included.
    pub fn last(&self) -> Vec<String> {
        let rest = plain(&self.line);
        self.lines.iter().cloned().chain((!rest.is_empty()).then_some(rest)).collect()
    }
}

/// The text of a line without what moves cursors and changes colours. Of what was written over with
/// a carriage return the last counts.
fn plain(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let mut plain = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\x1b' => match chars.next() {
                // A control sequence ends with a letter or another byte from `@` on.
                Some('[') => while chars.next().is_some_and(|c| !('@'..='~').contains(&c)) {},
                // One of an operating system ends with a bell or with `ESC \`.
                Some(']' | 'P' | '_' | '^') => {
                    while let Some(c) = chars.next() {
                        if c == '\x07' || c == '\x1b' && chars.next_if_eq(&'\\').is_some() {
                            break;
                        }
                    }
                }
                _ => {}
            },
            '\r' if chars.peek().is_some() => plain.clear(),
            '\t' => plain.push(' '),
            c if c.is_control() => {}
            c => plain.push(c),
        }
    }
    plain.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_what_a_person_reads_however_they_come() {
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
    fn a_console_that_never_ends_a_line_is_bounded() {
        let mut console = Console::default();
        console.take(&vec![b'x'; 10 * LONGEST], &mut |_| panic!("no line"));
        assert_eq!(console.last(), ["x".repeat(LONGEST)]);
        (0..1000).for_each(|_| console.take(b"\nx\n", &mut |_| {}));
        assert_eq!(console.last().len(), KEPT);
    }
}
