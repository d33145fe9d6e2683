//! Prints the events of builds on standard error, with progress bars on a terminal, and reports
//! about artifacts.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use provisioners::StepInfo;
use serde_json::Value;
use tracing::level_filters::LevelFilter;

use super::Ui;
use super::progress::{SealProgress, StepProgress};
use crate::build::{BuildReason, ImageEvent, OutdatedLayers, Reporter, step_title};
use crate::seal::{Progress, Warning};

/// Maximum number of changed paths listed for an image.
const MAX_LISTED_PATHS: usize = 8;

/// Steps of the clean-up that are faster than this are not reported.
const FAST_CLEANUP: Duration = Duration::from_millis(100);

/// Prints the events of builds.
#[derive(Debug, Default)]
struct BuildReporter {
    ui: Ui,
    /// Whether reports about artifacts are printed as JSON.
    json: bool,
    /// Whether all reasons for building an image are printed.
    explain: bool,
    /// Whether images that are up to date are listed.
    lists_current: bool,
    /// Whether the output of steps is printed immediately.
    verbose: bool,
    steps: Mutex<StepProgress>,
    seal: Mutex<SealProgress>,
}

/// Returns a reporter. With `json`, reports about artifacts are printed as JSON.
pub(crate) fn build_reporter(ui: &Ui, json: bool) -> Arc<dyn Reporter> {
    Arc::new(BuildReporter::new(ui, json))
}

/// Returns a reporter for the images of a project. With `explain`, all reasons for building an
/// image are printed; with `explain` or `dry_run`, also the images that are up to date.
pub(crate) fn project_reporter(
    ui: &Ui,
    json: bool,
    explain: bool,
    dry_run: bool,
) -> Arc<dyn Reporter> {
    let lists_current = explain || dry_run;
    Arc::new(BuildReporter { explain, lists_current, ..BuildReporter::new(ui, json) })
}

impl BuildReporter {
    fn new(ui: &Ui, json: bool) -> Self {
        let verbose = LevelFilter::current() >= LevelFilter::INFO;
        BuildReporter { ui: ui.clone(), json, verbose, ..BuildReporter::default() }
    }

    /// Prints that an image is or would be built, and why.
    fn announce(&self, name: &str, reasons: &[BuildReason], action: &str) {
        if self.explain {
            self.ui.status(&format!("{name}: {action}, because"));
            reasons.iter().for_each(|reason| self.ui.line(&format!("  {reason}")));
            return;
        }
        let more = match reasons.len() - 1 {
            0 => String::new(),
            1 => ", and one more reason".to_owned(),
            more => format!(", and {more} more reasons"),
        };
        self.ui.status(&format!("{name}: {action}: {}{more}", reasons[0]));
    }
}

impl Reporter for BuildReporter {
    fn status(&self, text: &str) {
        self.ui.status(text);
    }

    fn warning(&self, text: &str) {
        self.ui.warning(text);
    }

    fn child_line(&self, line: &str) {
        self.ui.line(line);
    }

    fn image(&self, name: &str, event: ImageEvent<'_>) {
        match event {
            ImageEvent::Current { rolled_back: false, older: None } if !self.lists_current => {}
            ImageEvent::Current { rolled_back, older } => {
                let state = if rolled_back { "rolled back" } else { "up to date" };
                let older = older.map(outdated_text).unwrap_or_default();
                let help = match rolled_back {
                    true => format!("; `overcoat build --force {name}` builds it again"),
                    false => String::new(),
                };
                self.ui.status(&format!("{name}: {state}{older}{help}"));
            }
            ImageEvent::Due(reasons) => self.announce(name, reasons, "would be built"),
            ImageEvent::Building(reasons) => self.announce(name, reasons, "building"),
            ImageEvent::Leftover(file) => {
                let file = file.display();
                self.ui.status(&format!(
                    "{name}: {file} is a leftover of an earlier build; `overcoat clean` removes it"
                ));
            }
            ImageEvent::Built { reports, took } => {
                for report in reports {
                    // Fails only for JSON.
                    let _ = self.ui.artifact(report, false);
                }
                self.ui.status(&format!("{name}: built in {:.1} s", took.as_secs_f64()));
            }
            ImageEvent::Rejected(error) => self.ui.status(&format!("{name}: error: {error}")),
            ImageEvent::Failed { killed: Some(error) } => {
                self.ui.status(&format!("{name}: not built: {error}"));
            }
            ImageEvent::Failed { killed: None } => self.ui.status(&format!("{name}: not built")),
        }
    }

    fn steps_began(&self) {
        if !self.verbose {
            self.steps.lock().begin();
        }
    }

    fn step_began(&self, step: &StepInfo) {
        self.steps.lock().set_title(step_title(step));
    }

    fn step_ended(&self, step: &StepInfo, took: Duration) {
        if step.cleanup && took < FAST_CLEANUP && !self.verbose {
            return;
        }
        let line = format!("{}: {:.1} s", step_title(step), took.as_secs_f64());
        self.steps.lock().suspend(|| self.ui.status(&line));
    }

    fn step_skipped(&self, step: &StepInfo, reason: &str) {
        let line = format!("{}: skipped ({reason})", step_title(step));
        self.steps.lock().suspend(|| self.ui.status(&line));
    }

    fn step_output(&self, bytes: &[u8]) {
        if self.verbose {
            let _ = io::stderr().write_all(bytes);
        }
    }

    fn steps_ended(&self) {
        self.steps.lock().clear();
    }

    fn seal_progress(&self, progress: Progress) {
        self.seal.lock().update(progress);
    }

    fn seal_ended(&self) {
        self.seal.lock().clear();
    }

    fn archive_warnings(&self, warnings: &[Warning]) {
        self.ui.archive_warnings(warnings);
    }

    fn artifact(&self, report: &Value) -> io::Result<()> {
        self.ui.artifact(report, self.json)
    }
}

/// Describes the layers of an image that have changed since it was built.
fn outdated_text(outdated: &OutdatedLayers) -> String {
    let OutdatedLayers { layers, paths } = outdated;
    let built = format!(", but built on another {}", layers.join(", "));
    match paths {
        None => built,
        Some(paths) if paths.is_empty() => format!("{built}; none of its paths changed there"),
        Some(paths) => {
            let each = paths.iter().map(|(path, since)| format!("/{path} {}", since.word()));
            format!("{built}; its paths that changed there: {}", list_start(each))
        }
    }
}

/// Joins the first items of a list, followed by the number of the others.
fn list_start(each: impl ExactSizeIterator<Item = String>) -> String {
    let more = each.len().saturating_sub(MAX_LISTED_PATHS);
    let mut text = each.take(MAX_LISTED_PATHS).collect::<Vec<_>>().join(", ");
    if more > 0 {
        text.push_str(&format!(", and {more} more"));
    }
    text
}
