//! Builds the outdated images of a project in parallel, each in its own process.

use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::time::{Duration, Instant};

use provisioners::Project;
use provisioners::image::{ImageLocation, Inputs, Layers, manifest_path};
use serde_json::Value;

use super::children::{ChildEvent, ChildOutput, Children};
use super::error::BuildError;
use super::options::source_date_epoch;
use super::record::{COMMAND_LINE_KEY, LayerRecord, Record, Records};
use super::reporter::{ImageEvent, Reporter};
use super::staleness::{BuildDecision, BuildReason, changed_lower_paths, decide};
use crate::manifest::lower::DriftKind;
use crate::sandbox::Signals;
use crate::text::error::describe;

/// The settings of a project's build.
#[derive(Debug, Clone)]
pub struct ScheduleOptions {
    /// Number of images to build in parallel.
    pub jobs: usize,
    /// Whether to build the requested images even if they are up to date.
    pub force: bool,
    /// Whether to rebuild images whose layers have changed since they were built.
    pub rebase: bool,
    /// Whether to find the images to build, but not to build them.
    pub dry_run: bool,
    /// Options of the command line that affect the content of images; an input of each requested
    /// image. They do not apply to images that these need.
    pub command_line: String,
    /// Whether the requested image is built to a file that is not one of its artifacts. It is then
    /// always built, and its artifacts and its record are not changed.
    pub elsewhere: bool,
    /// Whether the builds of requested images write manifests.
    pub manifest: bool,
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
    },
    /// Up to date.
    Current {
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
    let mut run = ProjectBuild {
        project,
        options,
        reporter: &**reporter,
        wanted,
        order,
        records: Records::open(&project.output, !options.dry_run)?,
        states: project.images().iter().map(|_| ImageState::Waiting).collect(),
        children: Children::new(&signals, listener),
    };
    let start = Instant::now();
    run.run()?;
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
    /// Indices of the requested images.
    wanted: Vec<usize>,
    /// Indices of the requested images and of those they need, in dependency order.
    order: Vec<usize>,
    records: Records,
    states: Vec<ImageState>,
    children: Children<'a>,
}

impl ProjectBuild<'_> {
    /// Builds until no image is left, or one has failed.
    fn run(&mut self) -> Result<(), BuildError> {
        loop {
            self.start()?;
            if self.children.is_empty() {
                return Ok(());
            }
            match self.children.wait()? {
                ChildEvent::Interrupted(signal) => return Err(BuildError::Interrupted(signal)),
                ChildEvent::Ended { number, status, report, took } => {
                    let state = std::mem::replace(&mut self.states[number], ImageState::Waiting);
                    let ImageState::Running { inputs, layers, reasons } = state else { continue };
                    self.states[number] = if status.success() {
                        let reports = self.record(number, inputs, layers, &report)?;
                        self.report(number, ImageEvent::Built { reports: &reports, took });
                        ImageState::Built { reasons, took, reports }
                    } else {
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
            // After a failure, running builds continue, but no others are started.
            let broken = self.states.iter().any(|state| matches!(state, ImageState::Failed { .. }));
            if !needs.iter().all(ready) || broken || self.children.len() >= self.options.jobs {
                continue;
            }
            let (inputs, judged, layers) = match self.prepare(index) {
                Ok(prepared) => prepared,
                Err(error) => {
                    let error = describe(&error);
                    self.report(index, ImageEvent::Rejected(&error));
                    self.states[index] = ImageState::Failed { reasons: Vec::new(), code: 2, error };
                    continue;
                }
            };
            if judged.reasons.is_empty() {
                self.set_current(index, judged);
            } else if self.options.dry_run {
                self.report(index, ImageEvent::Due(&judged.reasons));
                self.states[index] = ImageState::Due { reasons: judged.reasons };
            } else {
                self.report(index, ImageEvent::Building(&judged.reasons));
                self.start_child(index, inputs, layers, judged.reasons)?;
            }
        }
        Ok(())
    }

    /// Returns an image's inputs, whether it is up to date, and its layers if it must be built.
    fn prepare(
        &mut self,
        index: usize,
    ) -> Result<(Inputs, BuildDecision, Vec<LayerRecord>), BuildError> {
        let inputs = self.inputs(index)?;
        let judged = self.judge(index, &inputs)?;
        // Fails for a missing layer before the build starts.
        let layers = match self.options.dry_run || judged.reasons.is_empty() {
            true => Vec::new(),
            false => self.records.layers(&self.layers(index))?,
        };
        Ok((inputs, judged, layers))
    }

    fn inputs(&self, index: usize) -> Result<Inputs, BuildError> {
        let image = &self.project.images()[index].image;
        let mut inputs = image.inputs()?;
        if let Some(epoch) = source_date_epoch(image.source_date_epoch)? {
            inputs.insert("source_date_epoch".to_owned(), epoch.to_string());
        }
        if self.wanted.contains(&index) && !self.options.command_line.is_empty() {
            inputs.insert(COMMAND_LINE_KEY.to_owned(), self.options.command_line.clone());
        }
        Ok(inputs)
    }

    fn judge(&mut self, index: usize, inputs: &Inputs) -> Result<BuildDecision, BuildError> {
        let member = &self.project.images()[index];
        let mut layers = self.layers(index);
        let mut due = Vec::new();
        if self.options.dry_run {
            // The files of images to be built are missing or outdated now.
            for &need in &member.needs {
                if matches!(self.states[need], ImageState::Due { .. }) {
                    due.extend(self.project.images()[need].files());
                }
            }
            if let Some(missing) =
                layers.iter().find(|l| !due.contains(l) && !ImageLocation::of(l).file.exists())
            {
                return Err(BuildError::LayerNotFound(missing.clone()));
            }
            due.retain(|file| layers.contains(file));
            if due.iter().any(|file| !file.exists()) {
                layers.clear();
            }
        }
        let mut compared = inputs.clone();
        if !self.wanted.contains(&index)
            && let Some(mut record) = self.records.read(&member.name)
            && let Some(options) = record.inputs.remove(COMMAND_LINE_KEY)
        {
            // Options that a needed image was built with are no reason to build it again.
            compared.insert(COMMAND_LINE_KEY.to_owned(), options);
        }
        let mut judged =
            decide(&mut self.records, &member.name, &compared, &layers, self.options.rebase)?;
        if self.options.rebase && judged.reasons.is_empty() {
            let name = |file: &PathBuf| file.file_name().unwrap_or_default().display().to_string();
            judged.reasons.extend(due.iter().map(|file| BuildReason::Layer(name(file))));
        }
        if self.is_elsewhere(index) {
            judged.reasons = vec![BuildReason::Elsewhere];
        } else if self.options.force && self.wanted.contains(&index) && judged.reasons.is_empty() {
            judged.reasons.push(BuildReason::Forced);
        }
        Ok(judged)
    }

    /// Returns whether the image is built to another file than its artifacts.
    fn is_elsewhere(&self, index: usize) -> bool {
        self.options.elsewhere && self.wanted.contains(&index)
    }

    fn layers(&self, index: usize) -> Vec<PathBuf> {
        let source = &self.project.images()[index].image.source;
        source.layers().map(Layers::paths).unwrap_or_default()
    }

    /// Marks an image as up to date, and reports layers that have changed since it was built.
    fn set_current(&mut self, index: usize, judged: BuildDecision) {
        let member = &self.project.images()[index];
        let mut older = None;
        if !judged.other_layers.is_empty() {
            let manifest = member.image.outputs.first().map(|(path, _)| manifest_path(path));
            let paths =
                manifest.and_then(|manifest| changed_lower_paths(&manifest, &self.layers(index)));
            older = Some(OutdatedLayers { layers: judged.other_layers, paths });
        }
        self.report(index, ImageEvent::Current(older.as_ref()));
        self.states[index] = ImageState::Current { older };
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
        self.children.start(index, command, alone)?;
        self.states[index] = ImageState::Running { inputs, layers, reasons };
        Ok(())
    }

    /// Writes the record of an image whose artifacts were built, and returns the reports about its
    /// artifacts.
    fn record(
        &mut self,
        index: usize,
        inputs: Inputs,
        layers: Vec<LayerRecord>,
        report: &[u8],
    ) -> Result<Vec<Value>, BuildError> {
        let name = &self.project.images()[index].name;
        let reports = serde_json::Deserializer::from_slice(report)
            .into_iter::<Value>()
            .collect::<Result<Vec<_>, _>>()
            .map_err(|source| BuildError::ChildReport { image: name.clone(), source })?;
        if self.is_elsewhere(index) {
            return Ok(reports);
        }
        let writes_manifest = self.options.manifest || !self.wanted.contains(&index);
        let before = self.records.read(name).map(|record| record.outputs).unwrap_or_default();
        let mut made = Vec::new();
        for report in &reports {
            let text = |key: &str| report[key].as_str().unwrap_or_default().to_owned();
            let output = PathBuf::from(text("output"));
            let manifest = manifest_path(&output);
            made.push(self.records.output(&output, text("sha256"))?);
            if manifest.exists() && writes_manifest {
                let digest = self.records.digest(&manifest)?;
                made.push(self.records.output(&manifest, digest)?);
            }
        }
        let stale = before.into_iter().map(|old| old.file);
        let stale = stale.filter(|file| made.iter().all(|new| new.file != *file));
        for file in stale.map(|file| self.project.output.join(file)).filter(|file| file.exists()) {
            self.report(index, ImageEvent::Leftover(&file));
        }
        self.records.write(name, &Record::new(inputs, layers, made))?;
        Ok(reports)
    }
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
