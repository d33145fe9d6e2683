//! `build` in a project: what is out of date, in processes of their own, several at a time.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use provisioners::Project;
use provisioners::image::{ImageLocation, Inputs, Layers};
use serde_json::{Value, json};

use super::build::Common;
use super::options::{self, manifest_path};
use super::{Failure, Outcome, print, say};
use crate::below::Since;
use crate::project::{Children, Event, Judged, LayerRecord, Reason, Record, Records, judge, older};
use crate::sandbox::Signals;

/// How a project is built.
#[derive(Debug, Args)]
pub(super) struct ProjectArgs {
    /// The project file; by default the overcoat.yml of this folder or of the nearest one above
    #[arg(short, long, value_name = "FILE")]
    pub(super) project: Option<PathBuf>,

    /// How many images of a project to build at a time; as many as there are processors by default
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    jobs: Option<u16>,

    /// Build the images even if they are up to date
    #[arg(long)]
    force: bool,

    /// Build anew what was made on layers that have changed since
    #[arg(long)]
    rebase: bool,

    /// Say all reasons for which an image is built
    #[arg(long)]
    explain: bool,

    /// Say what would be built, and build nothing
    #[arg(short = 'n', long)]
    dry_run: bool,

    /// Build this one image of the project, whatever else there is to do
    #[arg(long, hide = true, value_name = "NAME")]
    pub(super) only: Option<String>,
}

impl ProjectArgs {
    /// An option that was given and means nothing outside of a project.
    pub(super) fn given(&self) -> Option<&'static str> {
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

/// How many of a list are told.
const TOLD: usize = 8;

/// Finds the project, that of `file` if one is given, and the images of it that `what` names: nothing
/// when it names an image file.
pub(super) fn find(
    what: &[String],
    file: Option<&Path>,
) -> Result<Option<(Project, Vec<String>)>, Failure> {
    if let Some(file) = file {
        // A folder stands for the project in it.
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
            // From here, so that it reads as one would write it.
            let file =
                if folder == here { PathBuf::from(provisioners::project::FILE_NAME) } else { file };
            return Ok(Some((Project::load(&file)?, what.to_vec())));
        }
    }
    let name = provisioners::project::FILE_NAME;
    Err(Failure::message(match what.first() {
        Some(word) => format!(
            "there is no file {word}, and no {name} here or above that could have an image of that \
             name"
        ),
        None => format!(
            "there is no {name} here or above: name a project's folder or file, or begin a project \
             with `overcoat init`"
        ),
    }))
}

/// What is known of an image of the project in this run.
#[derive(Debug)]
enum State {
    Waiting,
    Running {
        inputs: Inputs,
        layers: Vec<LayerRecord>,
        reasons: Vec<Reason>,
    },
    /// It is as it should be.
    Current {
        older: Option<Older>,
    },
    /// It would be built.
    Due {
        reasons: Vec<Reason>,
    },
    Built {
        reasons: Vec<Reason>,
        took: Duration,
        reports: Vec<Value>,
    },
    Failed {
        reasons: Vec<Reason>,
        code: u8,
        error: String,
    },
    /// Something that it needs could not be built.
    Skipped {
        need: String,
    },
}

/// An image was made on layers that have changed since.
#[derive(Debug)]
struct Older {
    layers: Vec<String>,
    /// At which of its paths; unknown without a manifest.
    paths: Option<Vec<(String, Since)>>,
}

/// Builds the images of a project that have these names, or all of them, and what they need.
pub(super) fn build(
    project: &Project,
    names: &[String],
    args: &ProjectArgs,
    common: &Common,
) -> Outcome {
    common.check_for_project()?;
    let wanted: Vec<usize> = match names {
        [] => (0..project.images().len()).collect(),
        names => names
            .iter()
            .map(|name| project.find(name))
            .collect::<Result<_, _>>()
            .map_err(Failure::message)?,
    };
    // What a step needs and has not, a template that cannot be rendered: all of it is told before
    // anything is done.
    let order = project.with_needs(&wanted);
    for &index in &order {
        project.images()[index].image.plan()?;
    }
    let signals = Signals::take()?;
    // What they say themselves begins with their image; the rest is what their steps print.
    let listener = Arc::new(|_: usize, line: &str| eprintln_or_not(line));
    let mut run = Run {
        project,
        args,
        common,
        wanted,
        order,
        records: Records::open(&project.output, !args.dry_run)?,
        states: project.images().iter().map(|_| State::Waiting).collect(),
        children: Children::new(&signals, listener),
    };
    let began = Instant::now();
    run.go()?;
    run.tell(began.elapsed())
}

/// A line as it is; that standard error is gone is no reason to fail.
fn eprintln_or_not(line: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{line}");
}

struct Run<'a> {
    project: &'a Project,
    args: &'a ProjectArgs,
    common: &'a Common,
    wanted: Vec<usize>,
    /// What is to be looked at, each after what it needs.
    order: Vec<usize>,
    records: Records,
    states: Vec<State>,
    children: Children<'a>,
}

impl Run<'_> {
    fn go(&mut self) -> Result<(), Failure> {
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
                Event::Interrupted(signal) => return Err(Failure::Signal(signal)),
                Event::Ended { number, status, report, took } => {
                    let state = std::mem::replace(&mut self.states[number], State::Waiting);
                    let State::Running { inputs, layers, reasons } = state else { continue };
                    self.states[number] = if status.success() {
                        let reports = self.record(number, inputs, layers, &report)?;
                        State::Built { reasons, took, reports }
                    } else {
                        let code = status.code().and_then(|code| u8::try_from(code).ok());
                        let error = why(&report, status);
                        State::Failed { reasons, code: code.unwrap_or(2), error }
                    };
                    self.ended(number);
                }
            }
        }
    }

    /// Looks at each image whose needs are there, and starts to build those that are due.
    fn start(&mut self, jobs: usize) -> Result<(), Failure> {
        for index in self.order.clone() {
            if !matches!(self.states[index], State::Waiting) {
                continue;
            }
            let needs = &self.project.images()[index].needs;
            let failed = needs.iter().find(|need| {
                matches!(self.states[**need], State::Failed { .. } | State::Skipped { .. })
            });
            if let Some(&need) = failed {
                let need = self.project.images()[need].name.clone();
                self.states[index] = State::Skipped { need };
                continue;
            }
            let ready = |need: &usize| {
                matches!(
                    self.states[*need],
                    State::Current { .. } | State::Built { .. } | State::Due { .. }
                )
            };
            // After a failure what runs comes to its end, and nothing else is begun.
            let broken = self.states.iter().any(|state| matches!(state, State::Failed { .. }));
            if !needs.iter().all(ready) || broken || self.children.len() >= jobs {
                continue;
            }
            let (inputs, judged, layers) = match self.look(index) {
                Ok(looked) => looked,
                Err(Failure::Error(code, error)) => {
                    let name = &self.project.images()[index].name;
                    let error = super::describe(&*error);
                    say(&format!("{name}: error: {error}"));
                    self.states[index] = State::Failed { reasons: Vec::new(), code, error };
                    continue;
                }
                Err(failure) => return Err(failure),
            };
            if judged.reasons.is_empty() {
                self.current(index, judged);
            } else if self.args.dry_run {
                self.announce(index, &judged.reasons, "would be built");
                self.states[index] = State::Due { reasons: judged.reasons };
            } else {
                self.announce(index, &judged.reasons, "building");
                self.begin(index, inputs, layers, judged.reasons, jobs)?;
            }
        }
        Ok(())
    }

    /// What goes into an image, what comes of looking at it, and its layers if it is to be built.
    fn look(&mut self, index: usize) -> Result<(Inputs, Judged, Vec<LayerRecord>), Failure> {
        let inputs = self.inputs(index)?;
        let judged = self.judge(index, &inputs)?;
        // A layer that is not there is told before the build begins.
        let layers = match self.args.dry_run || judged.reasons.is_empty() {
            true => Vec::new(),
            false => self.records.layers(&self.layers(index))?,
        };
        Ok((inputs, judged, layers))
    }

    fn inputs(&self, index: usize) -> Result<Inputs, Failure> {
        let image = &self.project.images()[index].image;
        let mut inputs = image.inputs()?;
        if let Some(epoch) = options::source_date_epoch(image.source_date_epoch)? {
            inputs.insert("source_date_epoch".to_owned(), epoch.to_string());
        }
        let options = self.common.that_matter();
        if !options.is_empty() {
            inputs.insert("the command line".to_owned(), options);
        }
        Ok(inputs)
    }

    fn judge(&mut self, index: usize, inputs: &Inputs) -> Result<Judged, Failure> {
        let member = &self.project.images()[index];
        let mut layers = self.layers(index);
        let mut due = Vec::new();
        if self.args.dry_run {
            // What would be built is not there yet, or is not yet what it would be.
            for &need in &member.needs {
                if matches!(self.states[need], State::Due { .. }) {
                    due.extend(self.project.images()[need].files());
                }
            }
            if let Some(missing) =
                layers.iter().find(|l| !due.contains(l) && !ImageLocation::of(l).file.exists())
            {
                let missing = missing.display();
                return Err(Failure::message(format!("its layer {missing} is not there")));
            }
            due.retain(|file| layers.contains(file));
            if due.iter().any(|file| !file.exists()) {
                layers.clear();
            }
        }
        let mut judged = judge(&mut self.records, &member.name, inputs, &layers, self.args.rebase)?;
        if self.args.rebase && judged.reasons.is_empty() {
            let name = |file: &PathBuf| file.file_name().unwrap_or_default().display().to_string();
            judged.reasons.extend(due.iter().map(|file| Reason::Layer(name(file))));
        }
        if self.args.force && self.wanted.contains(&index) && judged.reasons.is_empty() {
            judged.reasons.push(Reason::Forced);
        }
        Ok(judged)
    }

    fn layers(&self, index: usize) -> Vec<PathBuf> {
        let source = &self.project.images()[index].image.source;
        source.layers().map(Layers::paths).unwrap_or_default()
    }

    fn current(&mut self, index: usize, judged: Judged) {
        let member = &self.project.images()[index];
        let name = &member.name;
        let mut told = None;
        if !judged.other_layers.is_empty() {
            let manifest = member.image.outputs.first().map(|(path, _)| manifest_path(path));
            let paths = manifest.and_then(|manifest| older(&manifest, &self.layers(index)));
            let layers = judged.other_layers;
            let made = format!("{name}: up to date, but made on another {}", layers.join(", "));
            say(&match &paths {
                None => made,
                Some(paths) if paths.is_empty() => {
                    format!("{made}; none of its paths has changed there")
                }
                Some(paths) => {
                    let each =
                        paths.iter().map(|(path, since)| format!("/{path} {}", since.word()));
                    format!("{made}; of its paths, have changed there: {}", some(each))
                }
            });
            told = Some(Older { layers, paths });
        } else if self.args.explain {
            say(&format!("{name}: up to date"));
        }
        self.states[index] = State::Current { older: told };
    }

    fn announce(&self, index: usize, reasons: &[Reason], what: &str) {
        let name = &self.project.images()[index].name;
        if self.args.explain {
            say(&format!("{name}: {what}, because"));
            reasons.iter().for_each(|reason| eprintln_or_not(&format!("  {reason}")));
            return;
        }
        let more = match reasons.len() - 1 {
            0 => String::new(),
            1 => ", and one more reason".to_owned(),
            more => format!(", and {more} more reasons"),
        };
        say(&format!("{name}: {what}: {}{more}", reasons[0]));
    }

    fn begin(
        &mut self,
        index: usize,
        inputs: Inputs,
        layers: Vec<LayerRecord>,
        reasons: Vec<Reason>,
        jobs: usize,
    ) -> Result<(), Failure> {
        let others = self
            .order
            .iter()
            .filter(|other| matches!(self.states[**other], State::Waiting | State::Running { .. }));
        let alone = jobs == 1 || others.count() == 1;
        let command = child(&self.project.images()[index].name);
        self.children.start(index, command, alone)?;
        self.states[index] = State::Running { inputs, layers, reasons };
        Ok(())
    }

    /// Records what was built, and gives the reports of what it made.
    fn record(
        &mut self,
        index: usize,
        inputs: Inputs,
        layers: Vec<LayerRecord>,
        report: &[u8],
    ) -> Result<Vec<Value>, Failure> {
        let name = &self.project.images()[index].name;
        let reports = serde_json::Deserializer::from_slice(report)
            .into_iter::<Value>()
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| Failure::message(format!("{name}: its report makes no sense: {e}")))?;
        let before = self.records.read(name).map(|record| record.outputs).unwrap_or_default();
        let mut made = Vec::new();
        for report in &reports {
            let text = |key: &str| report[key].as_str().unwrap_or_default().to_owned();
            let output = PathBuf::from(text("output"));
            let manifest = manifest_path(&output);
            made.push(self.records.made(&output, text("sha256"))?);
            if manifest.exists() && !self.common.seal.no_manifest {
                let digest = self.records.digest(&manifest)?;
                made.push(self.records.made(&manifest, digest)?);
            }
        }
        let stale = before.into_iter().map(|old| old.file);
        let stale = stale.filter(|file| made.iter().all(|new| new.file != *file));
        for file in stale.map(|file| self.project.output.join(file)).filter(|file| file.exists()) {
            say(&format!("{name}: {} is of an earlier build, and still there", file.display()));
        }
        self.records.write(name, &Record::new(inputs, layers, made))?;
        Ok(reports)
    }

    fn ended(&self, index: usize) {
        let name = &self.project.images()[index].name;
        match &self.states[index] {
            State::Built { took, reports, .. } => {
                for report in reports {
                    let _ = options::report(report, false);
                }
                say(&format!("{name}: built in {:.1} s", took.as_secs_f64()));
            }
            State::Failed { error, .. } if error.starts_with(ENDED) => {
                say(&format!("{name}: not built: {error}"));
            }
            State::Failed { .. } => say(&format!("{name}: not built")),
            _ => {}
        }
    }

    /// Tells what came of it.
    fn tell(self, took: Duration) -> Outcome {
        let states = || self.order.iter().map(|&index| (index, &self.states[index]));
        let count = |is: fn(&State) -> bool| states().filter(|(_, state)| is(state)).count();
        let built = count(|state| matches!(state, State::Built { .. }));
        let due = count(|state| matches!(state, State::Due { .. }));
        let current = count(|state| matches!(state, State::Current { .. }));
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
        say(&format!("{images}: {} ({:.1} s)", parts.join(", "), took.as_secs_f64()));
        for (index, state) in states() {
            let name = &self.project.images()[index].name;
            match state {
                State::Skipped { need } => say(&format!("{name}: not built, for it needs {need}")),
                State::Waiting => say(&format!("{name}: not begun")),
                _ => {}
            }
        }
        if self.common.seal.json {
            let images: Vec<Value> =
                states().map(|(index, state)| self.json(index, state)).collect();
            print(&json!({ "schema": 1, "images": images }).to_string())?;
        }
        let worst = states().filter_map(|(_, state)| match state {
            State::Failed { code, .. } => Some(*code),
            _ => None,
        });
        Ok(ExitCode::from(worst.max().unwrap_or(0)))
    }

    fn json(&self, index: usize, state: &State) -> Value {
        let member = &self.project.images()[index];
        let mut value = json!({ "name": member.name, "kind": member.kind() });
        let because =
            |reasons: &[Reason]| reasons.iter().map(ToString::to_string).collect::<Vec<_>>();
        match state {
            State::Current { older } => {
                value["state"] = "up to date".into();
                if let Some(Older { layers, paths }) = older {
                    value["other_layers"] = json!(layers);
                    if let Some(paths) = paths {
                        let each = |(path, since): &(String, Since)| json!({ "path": path, "since": since });
                        value["changed_below"] = paths.iter().map(each).collect();
                    }
                }
            }
            State::Due { reasons } => {
                value["state"] = "due".into();
                value["reasons"] = json!(because(reasons));
            }
            State::Built { reasons, took, reports } => {
                value["state"] = "built".into();
                value["reasons"] = json!(because(reasons));
                value["seconds"] = json!(took.as_secs_f64());
                value["outputs"] = json!(reports);
            }
            State::Failed { reasons, error, .. } => {
                value["state"] = "failed".into();
                value["reasons"] = json!(because(reasons));
                value["error"] = json!(error);
            }
            State::Skipped { need } => {
                value["state"] = "skipped".into();
                value["needs"] = json!(need);
            }
            State::Waiting | State::Running { .. } => value["state"] = "not begun".into(),
        }
        value
    }
}

/// How a process ended that could not say why itself.
const ENDED: &str = "its process was ended by";

/// Why an image was not built, as its process says.
fn why(report: &[u8], status: std::process::ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    if let Some(signal) = status.signal() {
        let memory = if signal == 9 { "; was there too little memory?" } else { "" };
        return format!("{ENDED} signal {signal}{memory}");
    }
    let said = serde_json::Deserializer::from_slice(report).into_iter::<Value>().flatten().last();
    said.and_then(|value| Some(value["error"].as_str()?.to_owned()))
        .unwrap_or_else(|| status.to_string())
}

/// The first of a list, and how many more there are.
fn some(each: impl ExactSizeIterator<Item = String>) -> String {
    let more = each.len().saturating_sub(TOLD);
    let mut text = each.take(TOLD).collect::<Vec<_>>().join(", ");
    if more > 0 {
        text.push_str(&format!(", and {more} more"));
    }
    text
}

/// This program again, for one image.
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
