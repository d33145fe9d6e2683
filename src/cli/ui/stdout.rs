//! Standard output: lines, bytes and JSON documents.

use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};

use anstream::stream::RawStream;
use anstream::{AutoStream, ColorChoice};
use anstyle::AnsiColor;
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

/// Returns whether colours are wanted on a stream: it is a terminal that supports them, unless
/// `NO_COLOR` or `CLICOLOR_FORCE` decides.
pub(crate) fn wants_colours(stream: &impl RawStream) -> bool {
    AutoStream::choice(stream) != ColorChoice::Never
}

impl StdoutWriter {
    pub(crate) fn new() -> StdoutWriter {
        let terminal = io::stdout().is_terminal();
        let colour = wants_colours(&io::stdout());
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

    /// Writes `value` as JSON.
    pub(crate) fn json(&mut self, value: &(impl Serialize + ?Sized)) -> Result<(), CommandError> {
        serde_json::to_writer(&mut self.to, value).map_err(|error| match error.is_io() {
            true => failed(error.into()),
            false => CommandError::new(ErrorKind::Internal, error),
        })
    }

    /// Returns `text` in a colour, if colours are wanted on standard output.
    pub(crate) fn paint(&self, colour: AnsiColor, text: &str) -> String {
        match self.colour {
            true => paint(colour, text),
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

/// Returns `text` in a colour.
pub(crate) fn paint(colour: AnsiColor, text: &str) -> String {
    let style = colour.on_default();
    format!("{style}{text}{style:#}")
}

fn failed(error: io::Error) -> CommandError {
    match error.kind() {
        io::ErrorKind::BrokenPipe => CommandError::output_closed(),
        _ => CommandError::system("cannot write to standard output", error),
    }
}

/// A JSON object with a list whose items are written one by one, each on a line.
#[derive(Debug)]
pub(crate) struct JsonDocument {
    /// Whether the object has no member yet.
    empty: bool,
    /// Whether the list has no item yet.
    empty_list: bool,
}

impl JsonDocument {
    /// Begins the document with the members of the object `head`, and a list called `name`.
    pub(crate) fn begin(
        out: &mut StdoutWriter,
        head: &Value,
        name: &str,
    ) -> Result<JsonDocument, CommandError> {
        let mut document = JsonDocument { empty: true, empty_list: true };
        document.members(out, head)?;
        document.key(out, name)?;
        out.bytes(b"[")?;
        Ok(document)
    }

    pub(crate) fn item(
        &mut self,
        out: &mut StdoutWriter,
        item: &impl Serialize,
    ) -> Result<(), CommandError> {
        out.bytes(if std::mem::take(&mut self.empty_list) { b"\n" } else { b",\n" })?;
        out.json(item)
    }

    /// Ends the list and, after the members of the object `rest`, the document.
    pub(crate) fn end(mut self, out: &mut StdoutWriter, rest: &Value) -> Result<(), CommandError> {
        out.bytes(if self.empty_list { b"]" } else { b"\n]" })?;
        self.members(out, rest)?;
        out.line("}")
    }

    fn members(&mut self, out: &mut StdoutWriter, object: &Value) -> Result<(), CommandError> {
        for (key, value) in object.as_object().into_iter().flatten() {
            self.key(out, key)?;
            out.json(value)?;
        }
        Ok(())
    }

    fn key(&mut self, out: &mut StdoutWriter, key: &str) -> Result<(), CommandError> {
        out.bytes(if std::mem::take(&mut self.empty) { b"{" } else { b"," })?;
        out.json(key)?;
        out.bytes(b":")
    }
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
