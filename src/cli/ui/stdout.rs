//! Standard output: lines, bytes and JSON documents.

use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};

use serde::Serialize;
use serde_json::Value;

use super::Ui;
use super::error::{CommandError, ErrorKind};
use crate::text::size::size_text;

/// Buffered standard output. A closed pipe is reported as [`ErrorKind::OutputClosed`].
#[derive(Debug)]
pub(crate) struct StdoutWriter {
    to: BufWriter<StdoutLock<'static>>,
    terminal: bool,
    colour: bool,
}

/// Foreground colours of terminals, as SGR parameters (ECMA-48).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Colour {
    Red = 31,
    Green = 32,
    Yellow = 33,
    Blue = 34,
    Cyan = 36,
}

/// Returns whether colours are allowed: `NO_COLOR` is not set, or empty (no-color.org).
pub(crate) fn colours_allowed() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

impl StdoutWriter {
    pub(crate) fn new() -> StdoutWriter {
        let terminal = io::stdout().is_terminal();
        let colour = terminal && colours_allowed();
        StdoutWriter {
            to: BufWriter::with_capacity(64 << 10, io::stdout().lock()),
            terminal,
            colour,
        }
    }

    /// Returns whether standard output is a terminal.
    pub(crate) fn is_terminal(&self) -> bool {
        self.terminal
    }

    pub(crate) fn line(&mut self, text: &str) -> Result<(), CommandError> {
        self.bytes(text.as_bytes())?;
        self.bytes(b"\n")
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Result<(), CommandError> {
        self.to.write_all(bytes).map_err(failed)
    }

    /// Returns `text` in a colour, if standard output is a terminal and colours are allowed.
    pub(crate) fn paint(&self, colour: Colour, text: &str) -> String {
        match self.colour {
            true => format!("\x1b[{}m{text}\x1b[m", colour as u8),
            false => text.to_owned(),
        }
    }

    /// Flushes, so that the data precedes the next message on standard error.
    pub(crate) fn flush(&mut self) -> Result<(), CommandError> {
        self.to.flush().map_err(failed)
    }

    /// Flushes and reports write errors.
    pub(crate) fn finish(mut self) -> Result<(), CommandError> {
        self.flush()
    }
}

fn failed(error: io::Error) -> CommandError {
    match error.kind() {
        io::ErrorKind::BrokenPipe => CommandError::output_closed(),
        _ => CommandError::system("cannot write to standard output", error),
    }
}

/// A JSON document with a list whose items are written one by one, each on a line.
#[derive(Debug)]
pub(crate) struct JsonDocument {
    first: bool,
}

impl JsonDocument {
    /// Begins the document with the members of the object `head`, and a list called `name`.
    pub(crate) fn begin(
        out: &mut StdoutWriter,
        head: &serde_json::Value,
        name: &str,
    ) -> Result<JsonDocument, CommandError> {
        let head = head.to_string();
        out.line(&format!("{},\"{name}\":[", head.strip_suffix('}').unwrap_or(&head)))?;
        Ok(JsonDocument { first: true })
    }

    pub(crate) fn item(
        &mut self,
        out: &mut StdoutWriter,
        item: &impl Serialize,
    ) -> Result<(), CommandError> {
        if !std::mem::take(&mut self.first) {
            out.bytes(b",\n")?;
        }
        out.bytes(json(item)?.as_bytes())
    }

    /// Ends the list and the document. `rest` are further members, with values in JSON.
    pub(crate) fn end(
        self,
        out: &mut StdoutWriter,
        rest: &[(&str, String)],
    ) -> Result<(), CommandError> {
        let rest: String = rest.iter().map(|(key, json)| format!(",\n\"{key}\":{json}")).collect();
        let end = if self.first { "]" } else { "\n]" };
        out.line(&format!("{end}{rest}}}"))
    }
}

pub(crate) fn json(value: &impl Serialize) -> Result<String, CommandError> {
    serde_json::to_string(value).map_err(|error| CommandError::new(ErrorKind::Internal, error))
}

impl Ui {
    /// Prints a line of data to standard output, or to the parent process. A closed pipe is not an
    /// error.
    pub(crate) fn print(&self, text: &str) -> io::Result<()> {
        let written = match &self.child {
            Some(child) => writeln!(&child.parent, "{text}"),
            None => writeln!(io::stdout(), "{text}"),
        };
        match written {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            result => result,
        }
    }

    /// Prints the report about a written file, as JSON or as a status line.
    pub(crate) fn artifact(&self, report: &Value, json: bool) -> io::Result<()> {
        if json {
            return self.print(&report.to_string());
        }
        let text = |key: &str| report[key].as_str().unwrap_or_default();
        let number = |key: &str| report[key].as_u64().unwrap_or_default();
        let name = match text("output") {
            "-" => "standard output",
            name => name,
        };
        self.status(&format!(
            "{name}: {}{}, sha256 {}",
            size_text(number("size")),
            report["entries"].as_u64().map_or(String::new(), |n| format!(" in {n} entries")),
            text("sha256").get(..16).unwrap_or_default()
        ));
        Ok(())
    }
}
