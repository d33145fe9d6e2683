//! Much data on standard output: lines, one JSON document, bytes.

use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};

use serde::Serialize;

use super::Failure;

/// Standard output, in large pieces. A reader that went away is [`Failure::Enough`].
#[derive(Debug)]
pub(super) struct Out {
    to: BufWriter<StdoutLock<'static>>,
    terminal: bool,
    colour: bool,
}

/// Colours of terminals: the parameter of SGR (ECMA-48).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Colour {
    Red = 31,
    Green = 32,
    Yellow = 33,
    Blue = 34,
    Cyan = 36,
}

/// Whether the user has not forbidden colours: by `NO_COLOR`, which says nothing when it is empty
/// (no-color.org).
pub(super) fn are_colours_wanted() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

impl Out {
    pub(super) fn new() -> Out {
        let terminal = io::stdout().is_terminal();
        let colour = terminal && are_colours_wanted();
        Out { to: BufWriter::with_capacity(64 << 10, io::stdout().lock()), terminal, colour }
    }

    /// Whether a person reads it.
    pub(super) fn is_terminal(&self) -> bool {
        self.terminal
    }

    pub(super) fn line(&mut self, text: &str) -> Result<(), Failure> {
        self.bytes(text.as_bytes())?;
        self.bytes(b"\n")
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.to.write_all(bytes).map_err(failed)
    }

    /// `text` in a colour, where there are any.
    pub(super) fn paint(&self, colour: Colour, text: &str) -> String {
        match self.colour {
            true => format!("\x1b[{}m{text}\x1b[m", colour as u8),
            false => text.to_owned(),
        }
    }

    /// Has what was written come before what is said next on standard error.
    pub(super) fn flush(&mut self) -> Result<(), Failure> {
        self.to.flush().map_err(failed)
    }

    /// What was written is really written.
    pub(super) fn finish(mut self) -> Result<(), Failure> {
        self.flush()
    }
}

fn failed(error: io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::Enough,
        _ => Failure::message(format!("cannot write to standard output: {error}")),
    }
}

/// One JSON document, with a list that is written as it comes, an item a line.
#[derive(Debug)]
pub(super) struct Document {
    first: bool,
}

impl Document {
    /// Begins the document with `head`, an object, and the list `name` after it.
    pub(super) fn begin(
        out: &mut Out,
        head: &serde_json::Value,
        name: &str,
    ) -> Result<Document, Failure> {
        let head = head.to_string();
        out.line(&format!("{},\"{name}\":[", head.strip_suffix('}').unwrap_or(&head)))?;
        Ok(Document { first: true })
    }

    pub(super) fn item(&mut self, out: &mut Out, item: &impl Serialize) -> Result<(), Failure> {
        if !std::mem::take(&mut self.first) {
            out.bytes(b",\n")?;
        }
        out.bytes(json(item)?.as_bytes())
    }

    /// Ends the list and the document, with what is known only now.
    pub(super) fn end(self, out: &mut Out, rest: &[(&str, String)]) -> Result<(), Failure> {
        let rest: String = rest.iter().map(|(key, json)| format!(",\n\"{key}\":{json}")).collect();
        let end = if self.first { "]" } else { "\n]" };
        out.line(&format!("{end}{rest}}}"))
    }
}

pub(super) fn json(value: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string(value).map_err(|error| Failure::message(error.to_string()))
}
