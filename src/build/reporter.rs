//! The events of builds, for a user interface.

use std::io;
use std::path::Path;
use std::time::Duration;

use provisioners::StepInfo;
use serde_json::Value;

use super::scheduler::OutdatedLayers;
use super::staleness::BuildReason;
use crate::seal::{Progress, Warning};

/// Receives the events of builds and prints them. Threads call it concurrently.
pub trait Reporter: Send + Sync {
    /// Reports what a build does now, or what it found.
    fn status(&self, text: &str);

    /// Reports a problem that does not end the build.
    fn warning(&self, text: &str);

    /// Reports the error that ends the build before it returns.
    fn error(&self, text: &str);

    /// Passes on a line of a child process, without the line feed.
    fn child_line(&self, line: &str);

    /// A child process, which builds `image` beside others, is at this step.
    fn child_step(&self, image: &str, step: &str);

    /// Reports the state of an image of a project.
    fn image(&self, name: &str, event: ImageEvent<'_>);

    /// The steps of an image begin.
    fn steps_began(&self);

    /// A step begins.
    fn step_began(&self, step: &StepInfo);

    /// A step succeeded.
    fn step_ended(&self, step: &StepInfo, took: Duration);

    /// A step is skipped, for a reason such as `when: serial_console`.
    fn step_skipped(&self, step: &StepInfo, reason: &str);

    /// A task of the Ansible role `step` begins.
    fn task_began(&self, step: &StepInfo, task: &str);

    /// A task of the Ansible role `step` has ended.
    fn task_ended(&self, step: &StepInfo, task: &str, took: Duration);

    /// A step, or mmdebstrap, wrote output.
    fn step_output(&self, bytes: &[u8]);

    /// The last step has ended.
    fn steps_ended(&self);

    /// An archive was written so far.
    fn seal_progress(&self, progress: Progress);

    /// An archive is complete, or failed.
    fn seal_ended(&self);

    /// Reports what an archive lacks.
    fn archive_warnings(&self, warnings: &[Warning]);

    /// Reports a written file, by the JSON of the seal report.
    ///
    /// # Errors
    /// Fails if the report cannot be written.
    fn artifact(&self, report: &Value) -> io::Result<()>;
}

/// A change in the state of an image of a project.
#[derive(Debug, Clone, Copy)]
pub enum ImageEvent<'a> {
    /// It is up to date, or not built because it was rolled back.
    Current {
        /// Whether it stays as it is because it was rolled back.
        rolled_back: bool,
        /// Layers that have changed since it was built.
        older: Option<&'a OutdatedLayers>,
    },
    /// It is out of date, in a dry run.
    Due(&'a [BuildReason]),
    /// Its build starts.
    Building(&'a [BuildReason]),
    /// A file of an earlier build is not an output any more.
    Leftover(&'a Path),
    /// It is built.
    Built {
        /// The reports about its artifacts.
        reports: &'a [Value],
        /// The duration.
        took: Duration,
    },
    /// It cannot be built, for this reason.
    Rejected(&'a str),
    /// Its process failed.
    Failed {
        /// The error of a process that was killed. Other processes print their errors.
        killed: Option<&'a str>,
    },
}

/// Returns the title of a step, with its number: `[2/7] packages (9)`.
pub(crate) fn step_title(step: &StepInfo) -> String {
    format!("[{}/{}] {step}", step.index + 1, step.total)
}
