//! Progress on standard error: bars on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use provisioners::{Observer, StepInfo};

use super::say;
use crate::seal::Progress;

fn on_terminal() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Less content than this is sealed before anybody could read how far it is, in bytes.
const WORTH_A_BAR: u64 = 16 << 20;

/// How far sealing is.
#[derive(Debug, Default)]
pub(super) struct SealProgress {
    bar: Option<ProgressBar>,
}

impl SealProgress {
    pub(super) fn tell(&mut self, progress: Progress) {
        if self.bar.is_none() && progress.bytes_total >= WORTH_A_BAR && on_terminal() {
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

/// Tells of the steps of a provisioner, and keeps all they print.
pub(super) struct Steps {
    bar: Option<ProgressBar>,
    /// Whether their output is shown as it comes.
    verbose: bool,
    log: Vec<u8>,
}

impl Steps {
    pub(super) fn new(verbose: bool) -> Self {
        let bar = (on_terminal() && !verbose).then(|| {
            let bar = ProgressBar::new_spinner();
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        Steps { bar, verbose, log: Vec::new() }
    }

    fn tell(&self, step: &StepInfo, what: &str) -> String {
        let line = format!("[{}/{}] {step}: {what}", step.index + 1, step.total);
        match &self.bar {
            Some(bar) => bar.suspend(|| say(&line)),
            None => say(&line),
        }
        line
    }

    /// Everything that the steps printed.
    pub(super) fn log(&self) -> &[u8] {
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
        // The clean-up's steps take no time and are not worth a line each.
        if step.cleanup && took < Duration::from_millis(100) && !self.verbose {
            return;
        }
        self.tell(step, &format!("{:.1} s", took.as_secs_f64()));
    }

    fn skipped(&mut self, step: &StepInfo, why: &str) {
        let line = self.tell(step, &format!("skipped ({why})"));
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
