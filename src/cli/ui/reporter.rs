//! Prints the events of builds on standard error, with progress bars on a terminal, and reports
//! about artifacts.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use anstyle::AnsiColor;
use parking_lot::Mutex;
use provisioners::StepInfo;
use serde_json::{Value, json};
use tracing::level_filters::LevelFilter;

use super::Ui;
use super::progress::{ImageProgress, SealProgress, StepProgress};
use crate::build::{BuildReason, ImageEvent, OutdatedLayers, Reporter, STEP_KEY, step_title};
use crate::seal::{Progress, Warning};
use crate::text::list;

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
    images: Mutex<ImageProgress>,
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

    /// Calls `print`, which prints lines above the spinners.
    fn print(&self, print: impl FnOnce(&Ui)) {
        self.images.lock().suspend(|| print(&self.ui));
    }

    /// Prints the state of an image of a project.
    fn image_event(&self, name: &str, event: ImageEvent<'_>) {
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
                let state = self.ui.paint(AnsiColor::Green, "built");
                self.ui.status(&format!("{name}: {state} in {:.1} s", took.as_secs_f64()));
            }
            ImageEvent::Rejected(error) => {
                let label = self.ui.paint(AnsiColor::Red, "error:");
                self.ui.status(&format!("{name}: {label} {error}"));
            }
            ImageEvent::Failed { killed } => {
                let state = self.ui.paint(AnsiColor::Red, "not built");
                let error = killed.map_or(String::new(), |error| format!(": {error}"));
                self.ui.status(&format!("{name}: {state}{error}"));
            }
        }
    }

    /// Shows the current step of this process: on its own spinner, or that of the parent process.
    fn show_step(&self, title: String) {
        if self.ui.is_child() {
            // The parent cannot show the step if this fails.
            let _ = self.ui.print(&json!({ STEP_KEY: title }).to_string());
        }
        self.steps.lock().set_title(title);
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
        self.print(|ui| ui.status(text));
    }

    fn warning(&self, text: &str) {
        self.print(|ui| ui.warning(text));
    }

    fn error(&self, text: &str) {
        self.print(|ui| ui.error(text));
    }

    fn child_line(&self, line: &str) {
        self.print(|ui| ui.line(line));
    }

    fn child_step(&self, image: &str, step: &str) {
        if !self.verbose {
            self.images.lock().set_step(image, step);
        }
    }

    fn image(&self, name: &str, event: ImageEvent<'_>) {
        if matches!(event, ImageEvent::Built { .. } | ImageEvent::Failed { .. }) {
            self.images.lock().remove(name);
        }
        self.print(|_| self.image_event(name, event));
    }

    fn steps_began(&self) {
        if !self.verbose {
            self.steps.lock().begin();
        }
    }

    fn step_began(&self, step: &StepInfo) {
        self.show_step(step_title(step));
    }

    fn task_began(&self, step: &StepInfo, task: &str) {
        self.show_step(format!("{}: {task}", step_title(step)));
    }

    fn task_ended(&self, step: &StepInfo, task: &str, took: Duration) {
        if self.verbose {
            let took = took.as_secs_f64();
            self.ui.status(&format!("{}: {task}: {took:.1} s", step_title(step)));
        }
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
        self.show_step("sealing".to_owned());
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
            let each = list::joined(each, MAX_LISTED_PATHS);
            format!("{built}; its paths that changed there: {each}")
        }
    }
}
