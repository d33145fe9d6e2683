//! `build`: the image that an image file describes.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args as ClapArgs;
use provisioners::image::{self, Image, Source, Yield};
use provisioners::{Options, Plan, StepFailed};
use serde_json::json;

use super::options::{self, Outputs, RootArgs, SealArgs};
use super::progress::Steps;
use super::project::{self, ProjectArgs};
use super::{Failure, Outcome, say};
use crate::drivers;
use crate::machine::RootMachine;
use crate::root::{RootOptions, ServedRoot, UnstartedRoot};
use crate::sandbox::{CommandSpec, Network, Privilege, Signals, default_environment, relay};
use crate::seal::{Format, Output};

#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    /// An image file; or a project's file or folder, and names of its images; names alone are
    /// those of the project here; all images by default
    #[arg(value_name = "FILE|NAME")]
    what: Vec<String>,

    #[command(flatten)]
    project: ProjectArgs,

    #[command(flatten)]
    common: Common,
}

/// What `build` and `base` have in common.
#[derive(Debug, ClapArgs)]
pub(super) struct Common {
    /// Where to write the image (`-` is standard output); by default where the image file says
    #[arg(short, long, value_name = "OUT")]
    pub(super) output: Option<PathBuf>,

    #[command(flatten)]
    pub(super) root: RootArgs,

    #[command(flatten)]
    pub(super) seal: SealArgs,

    /// Keep the whole output of the steps in this file; a failed build keeps it in OUT.log anyway
    #[arg(long, value_name = "FILE")]
    pub(super) log: Option<PathBuf>,

    /// Open a shell in the root when a step fails
    #[arg(long)]
    pub(super) shell_on_failure: bool,

    /// Pass an argument to ansible-playbook, for provisioners that are Ansible roles; may be given
    /// several times: --ansible=--tags=extra --ansible=--check
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub(super) ansible: Vec<OsString>,
}

pub(super) fn run(args: &Args) -> Outcome {
    if args.project.only.is_none()
        && let Some(option) = args.project.given()
        && let [file] = args.what.as_slice()
        && Path::new(file).is_file()
        && !provisioners::Project::is_one(Path::new(file))
    {
        return Err(Failure::message(format!(
            "{option} is for projects, and {file} is an image file: it is always built"
        )));
    }
    let Some((project, names)) = project::find(&args.what, args.project.project.as_deref())? else {
        return match args.what.as_slice() {
            [file] => build(&Image::load(Path::new(file))?, &args.common),
            files => Err(Failure::message(format!(
                "{} image files: they are built one at a time, or as images of a project",
                files.len()
            ))),
        };
    };
    match &args.project.only {
        Some(name) => {
            let index = project.find(name).map_err(Failure::message)?;
            super::work_for_another(name)?;
            let outcome = build(&project.images()[index].image, &args.common);
            if let Err(Failure::Error(_, error)) = &outcome {
                // For the process that wants it built.
                super::print(&json!({ "error": super::describe(&**error) }).to_string())?;
            }
            outcome
        }
        None => project::build(&project, &names, &args.project, &args.common),
    }
}

impl Common {
    /// Refuses what is for one image.
    pub(super) fn check_for_project(&self) -> Result<(), Failure> {
        let given = [
            (self.output.is_some(), "--output"),
            (self.seal.format.is_some(), "--format"),
            (self.log.is_some(), "--log"),
        ];
        match given.iter().find(|(given, _)| *given) {
            Some((_, option)) => Err(Failure::message(format!(
                "{option} is for one image file; a project says itself what is written where"
            ))),
            None => Ok(()),
        }
    }

    /// The options by which an image would come out otherwise, as text.
    pub(super) fn that_matter(&self) -> String {
        let mut options = Vec::new();
        if let Some(network) = self.root.network {
            options.push(format!("--network {network:?}").to_lowercase());
        }
        if let Some(level) = self.seal.level {
            options.push(format!("--level {level}"));
        }
        if self.seal.no_manifest {
            options.push("--no-manifest".to_owned());
        }
        options.extend(self.ansible.iter().map(|arg| format!("--ansible={}", arg.display())));
        options.extend(
            self.root
                .bind
                .iter()
                .map(|bind| format!("--bind {}:{}", bind.host.display(), bind.inside.display())),
        );
        options.join(" ")
    }
}

/// What is decided before anything is done.
pub(super) struct Job<'a> {
    pub(super) common: &'a Common,
    plan: Plan,
    /// The folder of what is made; none when that goes to standard output.
    folder: Option<PathBuf>,
    /// Where the log is kept if the build fails.
    pub(super) log: Option<PathBuf>,
    pub(super) epoch: Option<u64>,
    outputs: Outputs,
    /// What is taken out of the root, and where it goes.
    yields: Vec<(Yield, Output)>,
    options: RootOptions,
    /// Whether kernels of the layers count too: those that an initrd image yields.
    is_initrd: bool,
}

impl<'a> Job<'a> {
    pub(super) fn new(image: &Image, common: &'a Common) -> Result<Self, Failure> {
        let plan = image.plan()?;
        let yields = match &image.source {
            Source::Initrd { yields, .. } => yields.as_slice(),
            _ => &[],
        };
        let files = if yields.is_empty() { files(image, common)? } else { Vec::new() };
        let first = files.first().map(|(path, _)| path).or(yields.first().map(|y| &y.output));
        let first = first.filter(|path| *path != Path::new("-"));
        let folder = first.map(|path| std::path::absolute(path).unwrap_or(path.clone()));
        let folder = folder.and_then(|path| path.parent().map(Path::to_owned));
        if let Some(folder) = &folder {
            std::fs::create_dir_all(folder).map_err(|e| {
                Failure::message(format!("cannot make the folder {}: {e}", folder.display()))
            })?;
        }
        let beside = || {
            let mut name = first?.clone().into_os_string();
            name.push(".log");
            Some(PathBuf::from(name))
        };
        let log = common.log.clone().or_else(beside);
        let layers = image.source.layers().map(image::Layers::paths).unwrap_or_default();
        let written = files.iter().map(|(path, _)| path).chain(yields.iter().map(|y| &y.output));
        options::refuse_layers(written, &layers)?;
        let outputs = Outputs::open(files, &common.seal)?;
        let yields = yields.iter().map(|y| Ok((y.clone(), Output::file(&y.output)?)));
        let yields = yields.collect::<Result<_, Failure>>()?;
        let epoch = options::source_date_epoch(image.source_date_epoch)?;
        let options = RootOptions {
            apt_proxy: image.apt_proxy.clone(),
            ..common.root.root(
                layers,
                outputs.xattrs(),
                network(image),
                image.upper_size,
                !common.seal.no_manifest,
            )
        };
        let is_initrd = matches!(image.source, Source::Initrd { .. });
        Ok(Job { common, plan, folder, log, epoch, outputs, yields, options, is_initrd })
    }

    /// Opens the layers.
    pub(super) fn compose(&self) -> Result<UnstartedRoot, Failure> {
        Ok(UnstartedRoot::new(self.options.clone())?)
    }

    /// Runs the provisioners in `root`, and seals what they changed.
    pub(super) fn finish(self, root: ServedRoot, signals: Signals) -> Outcome {
        let log_file = self.log.clone();
        let epoch = self.epoch.and_then(|epoch| i64::try_from(epoch).ok());
        let run = Options {
            source_date_epoch: epoch,
            log_file: log_file.clone(),
            artifacts: self.folder.clone(),
            ansible: self.common.ansible.clone(),
        };
        let mut steps = Steps::new(tracing::enabled!(tracing::Level::INFO));
        let mut environment = default_environment(std::env::vars_os());
        if let Some(epoch) = epoch {
            let name = "SOURCE_DATE_EPOCH";
            environment.retain(|(n, _)| n != name);
            environment.push((name.into(), epoch.to_string().into()));
        }
        super::say_warnings(&root.warnings());
        options::add_environment(&mut environment, &root);
        let mut machine = RootMachine::new(&root, &signals, environment.clone())?;
        let result = self.plan.run(&mut machine, &run, &mut steps);
        let interrupted = machine.interrupted();
        let mut taken = Vec::new();
        if result.is_ok() {
            for (wanted, _) in &self.yields {
                taken.push(wanted.read(&machine).map_err(|e| Failure::Error(1, Box::new(e)))?);
            }
        }
        if let Some(file) =
            self.common.log.as_ref().or(log_file.as_ref().filter(|_| result.is_err()))
            && interrupted.is_none()
        {
            keep_log(file, steps.log())?;
        }
        if result.is_ok() && interrupted.is_none() {
            self.warn_of_drivers(&machine)?;
        }
        drop(steps);
        if let Some(signal) = interrupted {
            return Err(Failure::Signal(signal));
        }
        if let Err(failed) = result {
            return Err(self.failed(failed, root, &signals, environment));
        }
        if root.faults().is_some_and(|faults| faults.full()) {
            say("warning: the upper layer was full at some point: see --upper-size");
        }
        options::warn_of_owners(root.foreign_owners());
        let finished = root.finish()?;
        if let Some(signal) = signals.interruption() {
            return Err(Failure::Signal(signal as i32));
        }
        // From here on a signal ends this process at once: there is nothing to put in order.
        drop(signals);
        self.outputs.seal(finished, &self.common.seal, self.epoch)?;
        write_yields(self.yields, &taken, self.common.seal.json)?;
        if let (Some(log), None) = (&self.log, &self.common.log) {
            // Of an earlier build that failed, if it is there.
            let _ = std::fs::remove_file(log);
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Warns of kernels that are new in the root, or go into an initrd, and that drive virtual
    /// machines only.
    fn warn_of_drivers(&self, machine: &RootMachine<'_>) -> Result<(), Failure> {
        let kernels = drivers::virtual_only(machine, !self.is_initrd)
            .map_err(|e| Failure::Error(1, Box::new(e)))?;
        if !kernels.is_empty() {
            say(&format!(
                "warning: the kernel {} {}; linux-image-amd64 drives both",
                kernels.join(", "),
                drivers::VIRTUAL_ONLY
            ));
        }
        Ok(())
    }

    fn failed(
        &self,
        failed: Box<StepFailed>,
        root: ServedRoot,
        signals: &Signals,
        environment: Vec<(std::ffi::OsString, std::ffi::OsString)>,
    ) -> Failure {
        let full = root.faults().is_some_and(|faults| faults.full());
        let layer = root.faults().and_then(|faults| faults.layer());
        if self.common.shell_on_failure {
            say(&super::describe(&*failed));
            say("this is a shell in the root as the step left it; the build ends when it does");
            let mut spec = CommandSpec::new(["/bin/sh"]);
            spec.env = environment;
            if let Err(error) = root.sandbox().and_then(|s| relay(s, spec, signals)) {
                say(&format!("no shell: {error}"));
            }
        }
        if full {
            say(
                "the upper layer was full: give it more with --upper-size, or `upper_size` in the file",
            );
        }
        match layer {
            // The step failed because of it.
            Some(layer) => Failure::Error(2, Box::new(layer)),
            None => Failure::Error(1, failed),
        }
    }
}

pub(super) fn keep_log(file: &Path, log: &[u8]) -> Result<(), Failure> {
    let written = std::fs::File::create(file).and_then(|mut f| f.write_all(log));
    written.map_err(|e| Failure::message(format!("cannot write the log {}: {e}", file.display())))
}

/// Builds the image, whatever it is.
pub(super) fn build(image: &Image, common: &Common) -> Outcome {
    if let Source::Base(root) = &image.source {
        return super::base::build(image, root, common);
    }
    let job = Job::new(image, common)?;
    let signals = Signals::take()?;
    let privilege = Privilege::detect()?;
    let root = job.compose()?.start(privilege)?;
    job.finish(root, signals)
}

/// The files to write, with their formats: those of the command line, or else of the image.
fn files(image: &Image, common: &Common) -> Result<Vec<(PathBuf, Format)>, Failure> {
    let Some(output) = &common.output else {
        if image.outputs.is_empty() {
            let file = image.file.display();
            return Err(Failure::message(format!("{file} names no output: give one with -o")));
        }
        let format = |(path, format): &(PathBuf, image::Format)| {
            let stated = Some(match format {
                image::Format::Cpio => Format::Cpio,
                image::Format::CpioGz => Format::CpioGz,
                image::Format::CpioZst => Format::CpioZst,
                image::Format::Tar => Format::Tar,
                image::Format::Squashfs => Format::Squashfs,
            });
            Ok((path.clone(), common.seal.format_for(path, stated)?))
        };
        return image.outputs.iter().map(format).collect();
    };
    // The file's format is that of the file's output; another name speaks for itself.
    Ok(vec![(output.clone(), common.seal.format_for(output, None)?)])
}

/// Writes what was taken out of the root. All of it appears, or nothing.
fn write_yields(
    yields: Vec<(Yield, Output)>,
    contents: &[Vec<u8>],
    json: bool,
) -> Result<(), Failure> {
    let mut outputs = Vec::new();
    let mut reports = Vec::new();
    for ((wanted, mut output), content) in yields.into_iter().zip(contents) {
        output.write_all(content).map_err(|e| {
            Failure::message(format!("cannot write {}: {e}", wanted.output.display()))
        })?;
        outputs.push(output);
        reports.push(options::report_file(&wanted.output, content));
    }
    crate::seal::output::commit(outputs)?;
    reports.iter().try_for_each(|report| options::report(report, json))
}

/// The network that the image file asks for.
fn network(image: &Image) -> Network {
    match image.network {
        image::Network::Host => Network::Host,
        image::Network::None => Network::None,
    }
}
