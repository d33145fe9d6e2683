//! Progress bars on standard error, if that is a terminal.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

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

    pub(crate) fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

/// Time between two frames of a spinner.
const SPINNER_TICK: Duration = Duration::from_millis(100);

/// The spinners of images that are built at the same time, a line for each.
#[derive(Debug, Default)]
pub(crate) struct ImageProgress {
    lines: MultiProgress,
    images: BTreeMap<String, ProgressBar>,
}

impl ImageProgress {
    /// Shows that `image` is at `step`, on a terminal, with the time since the step began.
    pub(crate) fn set_step(&mut self, image: &str, step: &str) {
        if !can_show_bars() {
            return;
        }
        let lines = &self.lines;
        let bar = self.images.entry(image.to_owned()).or_insert_with(|| {
            let bar = lines.add(ProgressBar::new_spinner());
            if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix}: {msg} ({elapsed})")
            {
                bar.set_style(style);
            }
            bar.set_prefix(image.to_owned());
            bar.enable_steady_tick(SPINNER_TICK);
            bar
        });
        bar.reset_elapsed();
        bar.set_message(step.to_owned());
    }

    /// Removes the line of an image.
    pub(crate) fn remove(&mut self, image: &str) {
        if let Some(bar) = self.images.remove(image) {
            bar.finish_and_clear();
            self.lines.remove(&bar);
        }
    }

    /// Calls `print`, which prints lines above the spinners.
    pub(crate) fn suspend(&self, print: impl FnOnce()) {
        match self.images.is_empty() {
            true => print(),
            false => self.lines.suspend(print),
        }
    }
}

/// The spinner of an image's steps. It is hidden until [`StepProgress::begin`] is called.
#[derive(Debug, Default)]
pub(crate) struct StepProgress {
    bar: Option<ProgressBar>,
}

impl StepProgress {
    /// Shows the spinner, on a terminal.
    pub(crate) fn begin(&mut self) {
        self.bar = can_show_bars().then(|| {
            let bar = ProgressBar::new_spinner();
            bar.enable_steady_tick(SPINNER_TICK);
            bar
        });
    }

    pub(crate) fn set_title(&self, title: String) {
        if let Some(bar) = &self.bar {
            bar.set_message(title);
        }
    }

    /// Calls `print`, which prints a line above the spinner.
    pub(crate) fn suspend(&self, print: impl FnOnce()) {
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    pub(crate) fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}
