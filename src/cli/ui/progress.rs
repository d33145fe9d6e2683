//! Progress on standard error: progress bars on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use provisioners::{Observer, StepInfo};

use crate::cli::ui::status::eprint_status;
use crate::seal::Progress;

fn can_show_bars() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Minimum size in bytes of content for which a bar is shown. Less is sealed almost at once.
const MIN_BYTES_FOR_BAR: u64 = 16 << 20;

/// The progress bar of a seal.
#[derive(Debug, Default)]
pub(crate) struct SealProgress {
    bar: Option<ProgressBar>,
}

impl SealProgress {
    pub(crate) fn update(&mut self, progress: Progress) {
        if self.bar.is_none() && progress.bytes_total >= MIN_BYTES_FOR_BAR && can_show_bars() {
            let style = "sealing {bar:30} {bytes}/{total_bytes} {bytes_per_sec}";
            let bar = ProgressBar::new(progress.bytes_total);
            if let Ok(style) = ProgressStyle::with_template(style) {
                bar.set_style(style);
            }
            self.bar = Some(bar);
        }
        if let Some(bar) = &self.bar {
            bar.set_position(progress.bytes);
        }
    }
}

impl Drop for SealProgress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Reports the steps of a build and collects their output.
pub(crate) struct Steps {
    bar: Option<ProgressBar>,
    /// Whether the output is printed immediately.
    verbose: bool,
    log: Vec<u8>,
}

impl Steps {
    pub(crate) fn new(verbose: bool) -> Self {
        let bar = (can_show_bars() && !verbose).then(|| {
            let bar = ProgressBar::new_spinner();
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        Steps { bar, verbose, log: Vec::new() }
    }

    /// Prints a status line for a step, and returns it.
    fn print_status(&self, step: &StepInfo, status: &str) -> String {
        let line = format!("[{}/{}] {step}: {status}", step.index + 1, step.total);
        match &self.bar {
            Some(bar) => bar.suspend(|| eprint_status(&line)),
            None => eprint_status(&line),
        }
        line
    }

    /// Returns the output of all steps, each after a line with its title.
    pub(crate) fn log(&self) -> &[u8] {
        &self.log
    }
}

impl std::fmt::Debug for Steps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Steps").field("log", &self.log.len()).finish_non_exhaustive()
    }
}

impl Observer for Steps {
    fn started(&mut self, step: &StepInfo) {
        let title = format!("[{}/{}] {step}", step.index + 1, step.total);
        self.log.extend_from_slice(format!("=== {title}\n").as_bytes());
        if let Some(bar) = &self.bar {
            bar.set_message(title);
        }
    }

    fn finished(&mut self, step: &StepInfo, took: Duration) {
        // Fast steps of the clean-up are not reported.
        if step.cleanup && took < Duration::from_millis(100) && !self.verbose {
            return;
        }
        self.print_status(step, &format!("{:.1} s", took.as_secs_f64()));
    }

    fn skipped(&mut self, step: &StepInfo, why: &str) {
        let line = self.print_status(step, &format!("skipped ({why})"));
        self.log.extend_from_slice(format!("=== {line}\n").as_bytes());
    }

    fn output(&mut self, bytes: &[u8]) {
        self.log.extend_from_slice(bytes);
        if self.verbose {
            use std::io::Write;
            let _ = std::io::stderr().write_all(bytes);
        }
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
