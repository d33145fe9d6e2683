//! `build` in a project: builds the outdated images in parallel, each in its own process.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use provisioners::Project;
use provisioners::image::{ImageLocation, Inputs, Layers};
use serde_json::{Value, json};

use super::build::CommonBuildArgs;
use crate::build::{
    BuildDecision, BuildReason, ChildEvent, Children, LayerRecord, Record, Records,
    changed_lower_paths, decide,
};
use crate::cli::ui::args::{self, manifest_path};
use crate::cli::ui::error::{CommandError, CommandResult};
use crate::cli::ui::status::eprint_status;
use crate::cli::ui::stdout::print;
use crate::manifest::lower::DriftKind;
use crate::sandbox::Signals;

/// Options of a project build.
#[derive(Debug, Args)]
pub(crate) struct ProjectArgs {
    /// Project file (default: overcoat.yml in this directory or the nearest parent)
    #[arg(short, long, value_name = "FILE")]
    pub(crate) project: Option<PathBuf>,

    /// Number of images to build in parallel (default: the number of processors)
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    jobs: Option<u16>,

    /// Build the images even if they are up to date
    #[arg(long)]
    force: bool,

    /// Rebuild images whose layers have changed since they were built
    #[arg(long)]
    rebase: bool,

    /// Print all reasons for building an image
    #[arg(long)]
    explain: bool,

    /// List the images to build, but do not build them
    #[arg(short = 'n', long)]
    dry_run: bool,

    /// Build this image in this process, for the parent process
    #[arg(long, hide = true, value_name = "NAME")]
    pub(crate) only: Option<String>,
}

impl ProjectArgs {
    /// Returns a given option that is only valid for projects, if any.
    pub(crate) fn project_only_option(&self) -> Option<&'static str> {
        let options = [
            (self.jobs.is_some(), "--jobs"),
            (self.force, "--force"),
            (self.rebase, "--rebase"),
            (self.explain, "--explain"),
            (self.dry_run, "--dry-run"),
        ];
        options.iter().find(|(given, _)| *given).map(|(_, option)| *option)
    }
}

/// Maximum number of changed paths listed for an image.
const MAX_LISTED_PATHS: usize = 8;

/// Finds the project and the names of its images that the arguments `what` select.
///
/// The project is that of `file`, or of the first argument, or of the current directory or the
/// nearest parent. Returns `None` if the first argument is an image file.
pub(crate) fn find(
    what: &[String],
    file: Option<&Path>,
) -> Result<Option<(Project, Vec<String>)>, CommandError> {
    if let Some(file) = file {
        // A directory selects the project in it.
        let within = file.join(provisioners::project::FILE_NAME);
        let file = if file.is_dir() { &within } else { file };
        return Ok(Some((Project::load(file)?, what.to_vec())));
    }
    if let Some((first, names)) = what.split_first() {
        let path = Path::new(first);
        if path.is_dir() && path.join(provisioners::project::FILE_NAME).is_file() {
            let file = path.join(provisioners::project::FILE_NAME);
            return Ok(Some((Project::load(&file)?, names.to_vec())));
        }
        if path.is_file() || first.contains('/') || first.ends_with(".yml") {
            if !Project::is_one(path) {
                return Ok(None);
            }
            return Ok(Some((Project::load(path)?, names.to_vec())));
        }
    }
    let here = std::env::current_dir()?;
    for folder in here.ancestors() {
        let file = folder.join(provisioners::project::FILE_NAME);
        if file.is_file() {
            // Relative, for shorter messages.
            let file =
                if folder == here { PathBuf::from(provisioners::project::FILE_NAME) } else { file };
            return Ok(Some((Project::load(&file)?, what.to_vec())));
        }
    }
    let name = provisioners::project::FILE_NAME;
    Err(CommandError::message(match what.first() {
        Some(word) => format!(
            "no file {word}, and no {name} in this directory or its parents that could have an \
             image of that name"
        ),
        None => format!(
            "no {name} in this directory or its parents: give a project's directory or file, or \
             create a project with `overcoat init`"
        ),
    }))
}

/// The state of an image during a project build.
#[derive(Debug)]
enum ImageState {
    /// Not looked at yet.
    Waiting,
    /// Its child process is running.
    Running {
        inputs: Inputs,
        layers: Vec<LayerRecord>,
        reasons: Vec<BuildReason>,
    },
    /// Up to date.
    Current {
        older: Option<OutdatedLayers>,
    },
    /// Out of date, in a dry run.
    Due {
        reasons: Vec<BuildReason>,
    },
    Built {
        reasons: Vec<BuildReason>,
        took: Duration,
        reports: Vec<Value>,
    },
    Failed {
        reasons: Vec<BuildReason>,
        code: u8,
        error: String,
    },
    /// Not built, because building the image `need` failed.
    Skipped {
        need: String,
    },
}

/// Layers of an image that have changed since the image was built.
#[derive(Debug)]
struct OutdatedLayers {
    layers: Vec<String>,
    /// Paths of the image that changed in the layers; `None` without a manifest.
    paths: Option<Vec<(String, DriftKind)>>,
}

/// Builds the images of a project with these names, or all of them, and the images they need.
pub(crate) fn build(
    project: &Project,
    names: &[String],
    args: &ProjectArgs,
    common: &CommonBuildArgs,
) -> CommandResult {
    common.check_for_project()?;
    let wanted: Vec<usize> = match names {
        [] => (0..project.images().len()).collect(),
        names => names
            .iter()
            .map(|name| project.find(name))
            .collect::<Result<_, _>>()
            .map_err(CommandError::message)?,
    };
    // Plan all images first, so that errors such as missing files and invalid templates are
    // reported before any work.
    let order = project.with_needs(&wanted);
    for &index in &order {
        project.images()[index].image.plan()?;
    }
    let signals = Signals::take()?;
    // Children prefix their own messages with the image's name; other lines are output of steps.
    let listener = Arc::new(|_: usize, line: &str| eprintln_ignoring_errors(line));
    let mut run = ProjectBuild {
        project,
        args,
        common,
        wanted,
        order,
        records: Records::open(&project.output, !args.dry_run)?,
        states: project.images().iter().map(|_| ImageState::Waiting).collect(),
        children: Children::new(&signals, listener),
    };
    let start = Instant::now();
    run.run()?;
    run.finish(start.elapsed())
}

/// Prints a line to standard error without a prefix. Write errors are ignored.
fn eprintln_ignoring_errors(line: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// A running build of a project.
struct ProjectBuild<'a> {
    project: &'a Project,
    args: &'a ProjectArgs,
    common: &'a CommonBuildArgs,
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
    fn run(&mut self) -> Result<(), CommandError> {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let jobs = match self.args.jobs {
            _ if self.common.shell_on_failure => 1,
            jobs => jobs.map_or(processors, usize::from),
        };
        loop {
            self.start(jobs)?;
            if self.children.is_empty() {
                return Ok(());
            }
            match self.children.wait()? {
                ChildEvent::Interrupted(signal) => return Err(CommandError::Signal(signal)),
                ChildEvent::Ended { number, status, report, took } => {
                    let state = std::mem::replace(&mut self.states[number], ImageState::Waiting);
                    let ImageState::Running { inputs, layers, reasons } = state else { continue };
                    self.states[number] = if status.success() {
                        let reports = self.record(number, inputs, layers, &report)?;
                        ImageState::Built { reasons, took, reports }
                    } else {
                        let code = status.code().and_then(|code| u8::try_from(code).ok());
                        let error = child_error(&report, status);
                        ImageState::Failed { reasons, code: code.unwrap_or(2), error }
                    };
                    self.print_result(number);
                }
            }
        }
    }

    /// Starts the builds of outdated images whose needs are met, up to `jobs` at a time.
    fn start(&mut self, jobs: usize) -> Result<(), CommandError> {
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
            if !needs.iter().all(ready) || broken || self.children.len() >= jobs {
                continue;
            }
            let (inputs, judged, layers) = match self.prepare(index) {
                Ok(prepared) => prepared,
                Err(CommandError::Error(code, error)) => {
                    let name = &self.project.images()[index].name;
                    let error = crate::text::error::describe(&*error);
                    eprint_status(&format!("{name}: error: {error}"));
                    self.states[index] = ImageState::Failed { reasons: Vec::new(), code, error };
                    continue;
                }
                Err(failure) => return Err(failure),
            };
            if judged.reasons.is_empty() {
                self.set_current(index, judged);
            } else if self.args.dry_run {
                self.announce(index, &judged.reasons, "would be built");
                self.states[index] = ImageState::Due { reasons: judged.reasons };
            } else {
                self.announce(index, &judged.reasons, "building");
                self.start_child(index, inputs, layers, judged.reasons, jobs)?;
            }
        }
        Ok(())
    }

    /// Returns an image's inputs, whether it is up to date, and its layers if it must be built.
    fn prepare(
        &mut self,
        index: usize,
    ) -> Result<(Inputs, BuildDecision, Vec<LayerRecord>), CommandError> {
        let inputs = self.inputs(index)?;
        let judged = self.judge(index, &inputs)?;
        // Fails for a missing layer before the build starts.
        let layers = match self.args.dry_run || judged.reasons.is_empty() {
            true => Vec::new(),
            false => self.records.layers(&self.layers(index))?,
        };
        Ok((inputs, judged, layers))
    }

    fn inputs(&self, index: usize) -> Result<Inputs, CommandError> {
        let image = &self.project.images()[index].image;
        let mut inputs = image.inputs()?;
        if let Some(epoch) = args::source_date_epoch(image.source_date_epoch)? {
            inputs.insert("source_date_epoch".to_owned(), epoch.to_string());
        }
        let options = self.common.content_options();
        if !options.is_empty() {
            inputs.insert("command_line".to_owned(), options);
        }
        Ok(inputs)
    }

    fn judge(&mut self, index: usize, inputs: &Inputs) -> Result<BuildDecision, CommandError> {
        let member = &self.project.images()[index];
        let mut layers = self.layers(index);
        let mut due = Vec::new();
        if self.args.dry_run {
            // The files of images to be built are missing or outdated now.
            for &need in &member.needs {
                if matches!(self.states[need], ImageState::Due { .. }) {
                    due.extend(self.project.images()[need].files());
                }
            }
            if let Some(missing) =
                layers.iter().find(|l| !due.contains(l) && !ImageLocation::of(l).file.exists())
            {
                let missing = missing.display();
                return Err(CommandError::message(format!("layer {missing} not found")));
            }
            due.retain(|file| layers.contains(file));
            if due.iter().any(|file| !file.exists()) {
                layers.clear();
            }
        }
        let mut judged =
            decide(&mut self.records, &member.name, inputs, &layers, self.args.rebase)?;
        if self.args.rebase && judged.reasons.is_empty() {
            let name = |file: &PathBuf| file.file_name().unwrap_or_default().display().to_string();
            judged.reasons.extend(due.iter().map(|file| BuildReason::Layer(name(file))));
        }
        if self.args.force && self.wanted.contains(&index) && judged.reasons.is_empty() {
            judged.reasons.push(BuildReason::Forced);
        }
        Ok(judged)
    }

    fn layers(&self, index: usize) -> Vec<PathBuf> {
        let source = &self.project.images()[index].image.source;
        source.layers().map(Layers::paths).unwrap_or_default()
    }

    /// Marks an image as up to date, and reports layers that have changed since it was built.
    fn set_current(&mut self, index: usize, judged: BuildDecision) {
        let member = &self.project.images()[index];
        let name = &member.name;
        let mut outdated = None;
        if !judged.other_layers.is_empty() {
            let manifest = member.image.outputs.first().map(|(path, _)| manifest_path(path));
            let paths =
                manifest.and_then(|manifest| changed_lower_paths(&manifest, &self.layers(index)));
            let layers = judged.other_layers;
            let built = format!("{name}: up to date, but built on another {}", layers.join(", "));
            eprint_status(&match &paths {
                None => built,
                Some(paths) if paths.is_empty() => {
                    format!("{built}; none of its paths changed there")
                }
                Some(paths) => {
                    let each =
                        paths.iter().map(|(path, since)| format!("/{path} {}", since.word()));
                    format!("{built}; these of its paths changed there: {}", list_start(each))
                }
            });
            outdated = Some(OutdatedLayers { layers, paths });
        } else if self.args.explain {
            eprint_status(&format!("{name}: up to date"));
        }
        self.states[index] = ImageState::Current { older: outdated };
    }

    /// Prints that an image is or would be built, and why.
    fn announce(&self, index: usize, reasons: &[BuildReason], action: &str) {
        let name = &self.project.images()[index].name;
        if self.args.explain {
            eprint_status(&format!("{name}: {action}, because"));
            reasons.iter().for_each(|reason| eprintln_ignoring_errors(&format!("  {reason}")));
            return;
        }
        let more = match reasons.len() - 1 {
            0 => String::new(),
            1 => ", and one more reason".to_owned(),
            more => format!(", and {more} more reasons"),
        };
        eprint_status(&format!("{name}: {action}: {}{more}", reasons[0]));
    }

    fn start_child(
        &mut self,
        index: usize,
        inputs: Inputs,
        layers: Vec<LayerRecord>,
        reasons: Vec<BuildReason>,
        jobs: usize,
    ) -> Result<(), CommandError> {
        let others = self.order.iter().filter(|other| {
            matches!(self.states[**other], ImageState::Waiting | ImageState::Running { .. })
        });
        let alone = jobs == 1 || others.count() == 1;
        let command = child(&self.project.images()[index].name);
        self.children.start(index, command, alone)?;
        self.states[index] = ImageState::Running { inputs, layers, reasons };
        Ok(())
    }

    /// Writes the record of a built image, and returns the reports about its artifacts.
    fn record(
        &mut self,
        index: usize,
        inputs: Inputs,
        layers: Vec<LayerRecord>,
        report: &[u8],
    ) -> Result<Vec<Value>, CommandError> {
        let name = &self.project.images()[index].name;
        let reports = serde_json::Deserializer::from_slice(report)
            .into_iter::<Value>()
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| {
                CommandError::message(format!("{name}: invalid report of its process: {e}"))
            })?;
        let before = self.records.read(name).map(|record| record.outputs).unwrap_or_default();
        let mut made = Vec::new();
        for report in &reports {
            let text = |key: &str| report[key].as_str().unwrap_or_default().to_owned();
            let output = PathBuf::from(text("output"));
            let manifest = manifest_path(&output);
            made.push(self.records.output(&output, text("sha256"))?);
            if manifest.exists() && !self.common.seal.no_manifest {
                let digest = self.records.digest(&manifest)?;
                made.push(self.records.output(&manifest, digest)?);
            }
        }
        let stale = before.into_iter().map(|old| old.file);
        let stale = stale.filter(|file| made.iter().all(|new| new.file != *file));
        for file in stale.map(|file| self.project.output.join(file)).filter(|file| file.exists()) {
            eprint_status(&format!("{name}: {} is a leftover of an earlier build", file.display()));
        }
        self.records.write(name, &Record::new(inputs, layers, made))?;
        Ok(reports)
    }

    /// Prints the result of an image's build.
    fn print_result(&self, index: usize) {
        let name = &self.project.images()[index].name;
        match &self.states[index] {
            ImageState::Built { took, reports, .. } => {
                for report in reports {
                    let _ = args::report(report, false);
                }
                eprint_status(&format!("{name}: built in {:.1} s", took.as_secs_f64()));
            }
            ImageState::Failed { error, .. } if error.starts_with(KILLED) => {
                eprint_status(&format!("{name}: not built: {error}"));
            }
            ImageState::Failed { .. } => eprint_status(&format!("{name}: not built")),
            _ => {}
        }
    }

    /// Prints the summary and the JSON report.
    fn finish(self, took: Duration) -> CommandResult {
        let states = || self.order.iter().map(|&index| (index, &self.states[index]));
        let count = |is: fn(&ImageState) -> bool| states().filter(|(_, state)| is(state)).count();
        let built = count(|state| matches!(state, ImageState::Built { .. }));
        let due = count(|state| matches!(state, ImageState::Due { .. }));
        let current = count(|state| matches!(state, ImageState::Current { .. }));
        let mut parts = vec![format!("{current} up to date")];
        match self.args.dry_run {
            true => parts.push(format!("{due} to be built")),
            false => parts.push(format!("{built} built")),
        }
        let left = self.order.len() - current - built - due;
        if left > 0 {
            parts.push(format!("{left} not built"));
        }
        let images = match self.order.len() {
            1 => "1 image".to_owned(),
            n => format!("{n} images"),
        };
        eprint_status(&format!("{images}: {} ({:.1} s)", parts.join(", "), took.as_secs_f64()));
        for (index, state) in states() {
            let name = &self.project.images()[index].name;
            match state {
                ImageState::Skipped { need } => {
                    eprint_status(&format!("{name}: not built: it needs {need}"))
                }
                ImageState::Waiting => eprint_status(&format!("{name}: not started")),
                _ => {}
            }
        }
        if self.common.seal.json {
            let images: Vec<Value> =
                states().map(|(index, state)| self.json(index, state)).collect();
            print(&json!({ "schema": 2, "images": images }).to_string())?;
        }
        let worst = states().filter_map(|(_, state)| match state {
            ImageState::Failed { code, .. } => Some(*code),
            _ => None,
        });
        Ok(ExitCode::from(worst.max().unwrap_or(0)))
    }

    fn json(&self, index: usize, state: &ImageState) -> Value {
        let member = &self.project.images()[index];
        let mut value = json!({ "name": member.name, "kind": member.kind() });
        let texts =
            |reasons: &[BuildReason]| reasons.iter().map(ToString::to_string).collect::<Vec<_>>();
        match state {
            ImageState::Current { older } => {
                value["state"] = "up_to_date".into();
                if let Some(OutdatedLayers { layers, paths }) = older {
                    value["other_layers"] = json!(layers);
                    if let Some(paths) = paths {
                        let each = |(path, since): &(String, DriftKind)| json!({ "path": path, "since": since });
                        value["changed_below"] = paths.iter().map(each).collect();
                    }
                }
            }
            ImageState::Due { reasons } => {
                value["state"] = "due".into();
                value["reasons"] = json!(texts(reasons));
            }
            ImageState::Built { reasons, took, reports } => {
                value["state"] = "built".into();
                value["reasons"] = json!(texts(reasons));
                value["seconds"] = json!(took.as_secs_f64());
                value["outputs"] = json!(reports);
            }
            ImageState::Failed { reasons, error, .. } => {
                value["state"] = "failed".into();
                value["reasons"] = json!(texts(reasons));
                value["error"] = json!(error);
            }
            ImageState::Skipped { need } => {
                value["state"] = "skipped".into();
                value["needs"] = json!(need);
            }
            ImageState::Waiting | ImageState::Running { .. } => value["state"] = "not_begun".into(),
        }
        value
    }
}

/// Beginning of the error for a child that was killed, and therefore printed no error itself.
const KILLED: &str = "its process was killed by";

/// Returns the error of a child process, from its report or its exit status.
fn child_error(report: &[u8], status: std::process::ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    if let Some(signal) = status.signal() {
        let memory = if signal == 9 { ", possibly out of memory" } else { "" };
        return format!("{KILLED} signal {signal}{memory}");
    }
    let last = serde_json::Deserializer::from_slice(report).into_iter::<Value>().flatten().last();
    last.and_then(|value| Some(value["error"].as_str()?.to_owned()))
        .unwrap_or_else(|| status.to_string())
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

/// Returns the command that builds one image in a child process: this program, with the same
/// arguments and `--only`.
fn child(name: &str) -> Command {
    let mut command = Command::new("/proc/self/exe");
    let mut arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let at = arguments.iter().position(|argument| argument == "build").map_or(0, |at| at + 1);
    let mut more: Vec<OsString> = vec!["--only".into(), name.into()];
    if !arguments.iter().any(|argument| argument == "--json") {
        more.push("--json".into());
    }
    arguments.splice(at..at, more);
    command.args(arguments);
    command
}
