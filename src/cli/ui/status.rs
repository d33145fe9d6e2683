//! Status lines and warnings on standard error. Write errors are ignored.

use std::io::Write;

use tracing::level_filters::LevelFilter;

use super::Ui;
use crate::root::supervise::ReportFn;
use crate::seal::Warning;

impl Ui {
    /// Prints a status line.
    pub(crate) fn status(&self, text: &str) {
        let _ = match &self.child {
            Some(child) => writeln!(std::io::stderr(), "overcoat: {}: {text}", child.image),
            None => writeln!(std::io::stderr(), "overcoat: {text}"),
        };
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
        for warning in warnings.iter().take(MAX_SHOWN) {
            self.warning(&warning.brief());
        }
        if warnings.len() > MAX_SHOWN {
            let more = warnings.len() - MAX_SHOWN;
            self.status(&format!("…and {more} more warnings; -v shows all"));
        }
    }

    /// Returns a function that prints status lines.
    pub(crate) fn report_fn(&self) -> ReportFn {
        let ui = self.clone();
        ReportFn::new(move |line| ui.status(line))
    }
}
