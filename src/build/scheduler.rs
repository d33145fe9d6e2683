//! Builds the outdated images of a project in parallel, each in its own process.

use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::time::{Duration, Instant};

use provisioners::Project;
use provisioners::image::{ImageLocation, Inputs, Layers, manifest_path};
use serde_json::Value;

use super::children::{ChildEvent, ChildOutput, Children};
use super::decision::{DecisionContext, DecisionOptions};
use super::error::BuildError;
use super::kept::{self, PreparedResult};
use super::leftovers;
use super::promote::record_elsewhere;
use super::record::{LayerRecord, OutputRecord, RecordError, Records, StoredRecord};
use super::reporter::{ImageEvent, Reporter};
use super::staleness::{BuildDecision, BuildReason, changed_lower_paths};
use crate::manifest::lower::DriftKind;
use crate::sandbox::Signals;
use crate::text::error::describe;

/// The settings of a project's build.
#[derive(Debug, Clone)]
pub struct ScheduleOptions {
    /// Number of images to build in parallel.
    pub jobs: usize,
    /// What affects the decision which images are built.
    pub decision: DecisionOptions,
    /// Whether builds of images that do not need a failed one are started after its failure.
    pub keep_going: bool,
    /// Whether the builds of requested images write manifests.
    pub manifest: bool,
    /// Whether a dry run reports the packages of the images to be built.
    pub packages: bool,
    /// Returns the command that builds the image of this name in a child process. The child writes
    /// the reports about its artifacts, or its error, to standard output.
    pub child: fn(&str) -> Command,
}

/// The outcome of a project's build.
#[derive(Debug)]
pub struct ScheduleOutcome {
    /// Indices of the requested images and of those they need, with their states, in dependency
    /// order.
    pub images: Vec<(usize, ImageState)>,
    /// The duration.
    pub took: Duration,
}

/// The state of an image during a project build.
#[derive(Debug)]
pub enum ImageState {
    /// Not looked at yet.
    Waiting,
    /// Its child process is running.
    Running {
        /// Its inputs.
        inputs: Inputs,
        /// Its layers.
        layers: Vec<LayerRecord>,
        /// Why it is built.
        reasons: Vec<BuildReason>,
        /// Its previous result.
        previous: Option<PreparedResult>,
    },
    /// Up to date, or not built because it was rolled back.
    Current {
        /// Whether it stays as it is because it was rolled back.
        rolled_back: bool,
        /// Layers that have changed since it was built.
        older: Option<OutdatedLayers>,
    },
    /// Out of date, in a dry run.
    Due {
        /// Why it must be built.
        reasons: Vec<BuildReason>,
    },
    /// Built.
    Built {
        /// Why it was built.
        reasons: Vec<BuildReason>,
        /// The duration.
        took: Duration,
        /// The reports about its artifacts.
        reports: Vec<Value>,
    },
    /// Its build failed.
    Failed {
        /// Why it was built.
        reasons: Vec<BuildReason>,
        /// The exit code of its process.
        code: u8,
        /// The error.
        error: String,
    },
    /// Not built, because building the image `need` failed.
    Skipped {
        /// The name of that image.
        need: String,
    },
}

/// Layers of an image that have changed since the image was built.
#[derive(Debug)]
pub struct OutdatedLayers {
    /// The names of the layers.
    pub layers: Vec<String>,
    /// Paths of the image that changed in the layers; `None` without a manifest.
    pub paths: Option<Vec<(String, DriftKind)>>,
}

/// Builds the images of `project` with the indices `wanted`, and the images they need.
///
/// # Errors
/// Fails if the build was interrupted, or an image has a mistake. A failed build of an image is
/// part of the outcome.
pub fn build_project(
    project: &Project,
    wanted: Vec<usize>,
    options: &ScheduleOptions,
    reporter: &Arc<dyn Reporter>,
) -> Result<ScheduleOutcome, BuildError> {
    // Plan all images first, so that errors such as missing files and invalid templates are
    // reported before any work.
    let order = project.with_needs(&wanted);
    for &index in &order {
        project.images()[index].image.plan()?;
    }
    let signals = Signals::take()?;
    // Children prefix their own messages with the image's name; other lines are output of steps.
    let listener = {
        let reporter = reporter.clone();
        let names: Vec<String> = project.images().iter().map(|i| i.name.clone()).collect();
        Arc::new(move |number: usize, output: ChildOutput<'_>| match output {
            ChildOutput::Message(line) => reporter.child_line(line),
            ChildOutput::Step(step) => reporter.child_step(&names[number], step),
        })
    };
    let records = Records::of_project(project, !options.decision.dry_run)?;
    let mut run = ProjectBuild {
        project,
        options,
        reporter: &**reporter,
        context: DecisionContext { project, options: &options.decision, wanted, records },
        order,
        states: project.images().iter().map(|_| ImageState::Waiting).collect(),
        children: Children::new(&signals, listener),
    };
    let start = Instant::now();
    run.run()?;
    run.prune();
    let mut images = Vec::new();
    for index in run.order {
        images.push((index, std::mem::replace(&mut run.states[index], ImageState::Waiting)));
    }
    Ok(ScheduleOutcome { images, took: start.elapsed() })
}

/// A running build of a project.
struct ProjectBuild<'a> {
    project: &'a Project,
    options: &'a ScheduleOptions,
    reporter: &'a dyn Reporter,
    context: DecisionContext<'a>,
    /// Indices of the requested images and of those they need, in dependency order.
    order: Vec<usize>,
    states: Vec<ImageState>,
    children: Children<'a>,
}

impl ProjectBuild<'_> {
    /// Builds until no image is left, or one has failed and the others are not to be built.
    fn run(&mut self) -> Result<(), BuildError> {
        loop {
            self.start()?;
            if self.children.is_empty() {
                return Ok(());
            }
            match self.children.wait()? {
                ChildEvent::Interrupted(signal) => {
                    for index in self.order.clone() {
                        if let ImageState::Running { previous: Some(_), .. } = self.states[index] {
                            self.release(index);
                        }
                    }
                    return Err(BuildError::Interrupted(signal));
                }
                ChildEvent::Ended { number, status, report, took } => {
                    let state = std::mem::replace(&mut self.states[number], ImageState::Waiting);
                    let ImageState::Running { inputs, layers, reasons, previous } = state else {
                        continue;
                    };
                    self.states[number] = if status.success() {
                        let reports = self.record(number, inputs, layers, previous, &report)?;
                        self.report(number, ImageEvent::Built { reports: &reports, took });
                        ImageState::Built { reasons, took, reports }
                    } else {
                        if previous.is_some() {
                            self.release(number);
                        }
                        let code = status.code().and_then(|code| u8::try_from(code).ok());
                        let (error, killed) = child_error(&report, status);
                        self.report(
                            number,
                            ImageEvent::Failed { killed: killed.then_some(&*error) },
                        );
                        ImageState::Failed { reasons, code: code.unwrap_or(2), error }
                    };
                }
            }
        }
    }

    /// Starts the builds of outdated images whose needs are met.
    fn start(&mut self) -> Result<(), BuildError> {
        for index in self.order.clone() {
            if !matches!(self.states[index], ImageState::Waiting) {
                continue;
            }
            let needs = &self.project.images()[index].needs;
            let failed = needs.iter().find(|need| {
                matches!(
                    self.states[**need],
                    ImageState::Failed { .. } | ImageState::Skipped { .. }
                )
            });
            if let Some(&need) = failed {
                let need = self.project.images()[need].name.clone();
                self.states[index] = ImageState::Skipped { need };
                continue;
            }
            let ready = |need: &usize| {
                matches!(
                    self.states[*need],
                    ImageState::Current { .. } | ImageState::Built { .. } | ImageState::Due { .. }
                )
            };
            // After a failure, running builds continue, but no others are started by default.
            let continues = self.options.decision.dry_run || self.options.keep_going;
            let broken = !continues
                && self.states.iter().any(|state| matches!(state, ImageState::Failed { .. }));
            if !needs.iter().all(ready) || broken || self.children.len() >= self.options.jobs {
                continue;
            }
            let (inputs, decision, layers) = match self.prepare(index) {
                Ok(prepared) => prepared,
                Err(error) => {
                    let error = describe(&error);
                    self.report(index, ImageEvent::Rejected(&error));
                    self.states[index] = ImageState::Failed { reasons: Vec::new(), code: 2, error };
                    continue;
                }
            };
            if decision.reasons.is_empty() {
                self.set_current(index, decision);
            } else if self.options.decision.dry_run {
                self.report(index, ImageEvent::Due(&decision.reasons));
                self.warn_about_roles(index)?;
                if self.options.packages {
                    self.forecast_packages(index)?;
                }
                self.states[index] = ImageState::Due { reasons: decision.reasons };
            } else {
                self.report(index, ImageEvent::Building(&decision.reasons));
                self.start_child(index, inputs, layers, decision.reasons)?;
            }
        }
        Ok(())
    }

    /// Reports the problems of an image's roles, in a dry run. A build reports them itself.
    fn warn_about_roles(&self, index: usize) -> Result<(), BuildError> {
        let image = &self.project.images()[index];
        for problem in image.image.plan()?.role_problems()? {
            self.reporter.warning(&format!("{}: {problem}", image.name));
        }
        Ok(())
    }

    /// Reports the packages of an image, in a process of its own, if its layers exist.
    fn forecast_packages(&mut self, index: usize) -> Result<(), BuildError> {
        let member = &self.project.images()[index];
        let layers = member.image.source.layers().map(Layers::paths).unwrap_or_default();
        if layers.iter().any(|layer| !ImageLocation::of(layer).file.exists()) {
            let name = &member.name;
            self.reporter
                .status(&format!("{name}: its packages are unknown until its layers exist"));
            return Ok(());
        }
        let mut command = (self.options.child)(&member.name);
        command.arg("--forecast");
        self.children.start(index, command, true)?;
        match self.children.wait()? {
            ChildEvent::Interrupted(signal) => Err(BuildError::Interrupted(signal)),
            // Its messages name the image. A failure is one of them, and no reason to stop.
            ChildEvent::Ended { .. } => Ok(()),
        }
    }

    /// Returns an image's inputs, whether it is up to date, and its layers if it must be built.
    fn prepare(
        &mut self,
        index: usize,
    ) -> Result<(Inputs, BuildDecision, Vec<LayerRecord>), BuildError> {
        let inputs = self.context.inputs(index)?;
        let states = &self.states;
        let is_due = |need: usize| matches!(states[need], ImageState::Due { .. });
        let decision = self.context.decide(index, &inputs, is_due)?;
        // Fails for a missing layer before the build starts.
        let layers = match self.options.decision.dry_run || decision.reasons.is_empty() {
            true => Vec::new(),
            false => {
                let layers = self.context.layers(index);
                self.context.records.layers(&layers)?
            }
        };
        Ok((inputs, decision, layers))
    }

    /// Marks an image as up to date, and reports layers that have changed since it was built.
    fn set_current(&mut self, index: usize, decision: BuildDecision) {
        let member = &self.project.images()[index];
        let mut older = None;
        if !decision.other_layers.is_empty() {
            let manifest = member.image.outputs.first().map(|(path, _)| manifest_path(path));
            let paths = manifest
                .and_then(|manifest| changed_lower_paths(&manifest, &self.context.layers(index)));
            older = Some(OutdatedLayers { layers: decision.other_layers, paths });
        }
        if !self.options.decision.dry_run {
            // Without it, the next command reads artifacts whose times have changed again.
            let _ = self.context.records.refresh(&member.name);
        }
        let rolled_back = decision.rolled_back;
        self.report(index, ImageEvent::Current { rolled_back, older: older.as_ref() });
        self.states[index] = ImageState::Current { rolled_back, older };
    }

    fn report(&self, index: usize, event: ImageEvent<'_>) {
        self.reporter.image(&self.project.images()[index].name, event);
    }

    fn start_child(
        &mut self,
        index: usize,
        inputs: Inputs,
        layers: Vec<LayerRecord>,
        reasons: Vec<BuildReason>,
    ) -> Result<(), BuildError> {
        let others = self.order.iter().filter(|other| {
            matches!(self.states[**other], ImageState::Waiting | ImageState::Running { .. })
        });
        let alone = self.options.jobs == 1 || others.count() == 1;
        let command = (self.options.child)(&self.project.images()[index].name);
        let previous = self.previous(index);
        self.children.start(index, command, alone)?;
        self.states[index] = ImageState::Running { inputs, layers, reasons, previous };
        Ok(())
    }

    /// Links the result that the build of an image replaces, if it is to be kept.
    fn previous(&mut self, index: usize) -> Option<PreparedResult> {
        let member = &self.project.images()[index];
        if member.image.keep <= 1 || self.context.is_elsewhere(index) {
            return None;
        }
        let records = &mut self.context.records;
        if matches!(records.stored(&member.name), StoredRecord::Damaged)
            && member.files().iter().any(|file| file.exists())
        {
            let name = &member.name;
            self.reporter.warning(&format!(
                "{name}: the previous result is not kept, because its record is damaged"
            ));
        }
        let adopted = leftovers::adopt(records, self.project, index);
        if let Ok(Some(former)) = &adopted {
            self.reporter.status(&format!(
                "{name}: its earlier results are those of {former}, which made {file} before",
                name = member.name,
                file = member.files()[0].display()
            ));
        }
        match adopted.and_then(|_| kept::prepare(records, &member.name)) {
            Ok(previous) => previous,
            Err(error) => {
                warn_not_kept(self.reporter, &member.name, &error);
                None
            }
        }
    }

    /// Removes the links of the result of an image whose build did not succeed.
    fn release(&mut self, index: usize) {
        let name = &self.project.images()[index].name;
        if let Err(error) = kept::release(&mut self.context.records, name) {
            self.reporter.warning(&format!("{name}: {}", describe(&error)));
        }
    }

    /// Removes the kept results that are too many, after a build. The build has succeeded without
    /// that.
    fn prune(&mut self) {
        if self.states.iter().any(|state| matches!(state, ImageState::Built { .. }))
            && let Err(error) =
                kept::prune(&mut self.context.records, |name| self.project.keep(name))
        {
            self.reporter
                .warning(&format!("earlier results that are too many stay: {}", describe(&error)));
        }
    }

    /// Writes the record of an image that was built, keeps its previous result, and returns the
    /// reports about its artifacts.
    fn record(
        &mut self,
        index: usize,
        inputs: Inputs,
        layers: Vec<LayerRecord>,
        previous: Option<PreparedResult>,
        report: &[u8],
    ) -> Result<Vec<Value>, BuildError> {
        let name = &self.project.images()[index].name;
        let reports = serde_json::Deserializer::from_slice(report)
            .into_iter::<Value>()
            .collect::<Result<Vec<_>, _>>()
            .map_err(|source| BuildError::ChildReport { image: name.clone(), source })?;
        let outputs = self.outputs(index, &reports)?;
        let is_elsewhere = self.context.is_elsewhere(index);
        let records = &mut self.context.records;
        if is_elsewhere {
            let record = records.create(0, inputs, layers, outputs);
            record_elsewhere(records, name, record)?;
            return Ok(reports);
        }
        if let Some(previous) = previous
            && let Err(error) = kept::keep(records, name, previous)
        {
            warn_not_kept(self.reporter, name, &error);
        }
        let before = records.read(name).filter(|record| records.is_own(record));
        let number = kept::next_number(records, name, before.as_ref().map(|record| record.number));
        let record = records.create(number, inputs, layers, outputs);
        let before = before.map(|record| record.outputs).unwrap_or_default();
        let leftovers = leftovers::note(records, self.project, name, before, &record)?;
        records.write(name, &record)?;
        if let Err(error) = kept::remove_copies(records, name, &record) {
            self.reporter.warning(&format!("{name}: {}", describe(&error)));
        }
        for file in leftovers {
            self.report(index, ImageEvent::Leftover(&self.context.records.artifact(&file)));
        }
        Ok(reports)
    }

    /// Returns the records of the files that a build has written.
    fn outputs(
        &mut self,
        index: usize,
        reports: &[Value],
    ) -> Result<Vec<OutputRecord>, BuildError> {
        let writes_manifest = self.options.manifest || !self.context.wanted.contains(&index);
        let records = &mut self.context.records;
        let files = self.project.images()[index].files();
        let mut outputs = Vec::new();
        for report in reports {
            let text = |key: &str| report[key].as_str().unwrap_or_default().to_owned();
            let output = text("output");
            // JSON has no paths that are not UTF-8.
            let own = files.iter().find(|file| file.to_string_lossy() == output);
            let output = own.cloned().unwrap_or_else(|| output.into());
            let manifest = manifest_path(&output);
            outputs.push(records.output(&output, text("sha256"))?);
            if manifest.exists() && writes_manifest {
                let digest = records.digest(&manifest)?;
                outputs.push(records.output(&manifest, digest)?);
            }
        }
        Ok(outputs)
    }
}

fn warn_not_kept(reporter: &dyn Reporter, name: &str, error: &RecordError) {
    let error = describe(error);
    reporter.warning(&format!("{name}: the previous result is not kept: {error}"));
}

/// Returns the error of a child process, from its report or its exit status, and whether a signal
/// killed it, so that it printed no error itself.
fn child_error(report: &[u8], status: ExitStatus) -> (String, bool) {
    use std::os::unix::process::ExitStatusExt;
    if let Some(signal) = status.signal() {
        let memory = if signal == 9 { ", possibly out of memory" } else { "" };
        return (format!("its process was killed by signal {signal}{memory}"), true);
    }
    let last = serde_json::Deserializer::from_slice(report).into_iter::<Value>().flatten().last();
    let error = last.and_then(|value| Some(value["error"].as_str()?.to_owned()));
    (error.unwrap_or_else(|| status.to_string()), false)
}
