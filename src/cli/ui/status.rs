//! Status lines and warnings on standard error. Write errors are ignored.

use std::io::Write;

use anstyle::AnsiColor;
use tracing::level_filters::LevelFilter;

use super::Ui;
use super::stdout::{paint, wants_colours};
use crate::root::supervise::ReportFn;
use crate::seal::Warning;
use crate::text::list;

/// Labels at the start of messages, and their colours.
const LABELS: [(&str, AnsiColor); 2] =
    [("error:", AnsiColor::Red), ("warning:", AnsiColor::Yellow)];

impl Ui {
    /// Prints a status line. The label of an error or a warning has a colour.
    pub(crate) fn status(&self, text: &str) {
        let label = LABELS.iter().find(|(label, _)| text.starts_with(label));
        let text = match label {
            Some((label, colour)) => {
                format!("{}{}", self.paint(*colour, label), &text[label.len()..])
            }
            None => text.to_owned(),
        };
        let _ = match &self.child {
            Some(child) => writeln!(std::io::stderr(), "overcoat: {}: {text}", child.image),
            None => writeln!(std::io::stderr(), "overcoat: {text}"),
        };
    }

    /// Prints an error that does not end the program, or that is reported in another way too.
    pub(crate) fn error(&self, text: &str) {
        self.status(&format!("error: {text}"));
    }

    /// Returns `text` in a colour, if colours are wanted on standard error.
    pub(crate) fn paint(&self, colour: AnsiColor, text: &str) -> String {
        match wants_colours(&std::io::stderr()) {
            true => paint(colour, text),
            false => text.to_owned(),
        }
    }

    /// Prints a warning.
    pub(crate) fn warning(&self, text: &str) {
        self.status(&format!("warning: {text}"));
    }

    /// Prints warnings.
    pub(crate) fn warnings(&self, warnings: &[String]) {
        warnings.iter().for_each(|warning| self.warning(warning));
    }

    /// Prints a line without a prefix.
    pub(crate) fn line(&self, line: &str) {
        let _ = writeln!(std::io::stderr(), "{line}");
    }

    /// Prints the warnings about an archive: all of them with `-v`, else the first ones in short
    /// form.
    pub(crate) fn archive_warnings(&self, warnings: &[Warning]) {
        const MAX_SHOWN: usize = 10;
        if LevelFilter::current() >= LevelFilter::INFO {
            warnings.iter().for_each(|warning| self.warning(&warning.to_string()));
            return;
        }
        let shown = list::shown(warnings.len(), MAX_SHOWN);
        for warning in &warnings[..shown] {
            self.warning(&warning.brief());
        }
        if let more @ 1.. = warnings.len() - shown {
            self.status(&format!("…and {more} more warnings; -v shows all"));
        }
    }

    /// Returns a function that prints status lines.
    pub(crate) fn report_fn(&self) -> ReportFn {
        let ui = self.clone();
        ReportFn::new(move |line| ui.status(line))
    }
}
