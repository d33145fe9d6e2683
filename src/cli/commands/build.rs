//! `build`: builds the image of an image file, or a project's images.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args as ClapArgs;
use provisioners::image::{self, Image, Source, Yield};
use provisioners::{Options, Plan, StepFailed};
use serde_json::json;

use super::project::{self, ProjectArgs};
use crate::cli::ui::args::{self, Outputs, RootArgs, SealArgs};
use crate::cli::ui::progress::Steps;
use crate::cli::{CommandError, CommandResult, eprint_status};
use crate::image::drivers;
use crate::root::target::RootMachine;
use crate::root::{RootOptions, ServedRoot, UnstartedRoot};
use crate::sandbox::{CommandSpec, Network, Privilege, Signals, default_environment, relay};
use crate::seal::{Format, Output};

#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// Image file, or a project and names of its images
    ///
    /// A project is given by its file or directory; without one, the project of the current
    /// directory or the nearest parent is used. Without names, all images of the project are built.
    #[arg(value_name = "FILE|NAME")]
    what: Vec<String>,

    #[command(flatten)]
    project: ProjectArgs,

    #[command(flatten)]
    common: CommonBuildArgs,
}

/// Options that `build` and `base` share.
#[derive(Debug, ClapArgs)]
pub(crate) struct CommonBuildArgs {
    /// Write the image to this file; `-` is standard output (default: the file's `output`)
    #[arg(short, long, value_name = "OUT")]
    pub(crate) output: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) root: RootArgs,

    #[command(flatten)]
    pub(crate) seal: SealArgs,

    /// Write the output of all steps to this file (default: OUT.log, if the build fails)
    #[arg(long, value_name = "FILE")]
    pub(crate) log: Option<PathBuf>,

    /// Open a shell in the root when a step fails
    #[arg(long)]
    pub(crate) shell_on_failure: bool,

    /// Pass an argument to ansible-playbook, for provisioners that are Ansible roles
    ///
    /// Can be repeated: --ansible=--tags=extra --ansible=--check
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub(crate) ansible: Vec<OsString>,
}

pub(crate) fn run(args: &Args) -> CommandResult {
    if args.project.only.is_none()
        && let Some(option) = args.project.project_only_option()
        && let [file] = args.what.as_slice()
        && Path::new(file).is_file()
        && !provisioners::Project::is_one(Path::new(file))
    {
        return Err(CommandError::message(format!(
            "{option} is for projects, but {file} is an image file, which is always built"
        )));
    }
    let Some((project, names)) = project::find(&args.what, args.project.project.as_deref())? else {
        return match args.what.as_slice() {
            [file] => build(&Image::load(Path::new(file))?, &args.common),
            files => Err(CommandError::message(format!(
                "cannot build {} image files at once: build one at a time, or name images of a \
                 project",
                files.len()
            ))),
        };
    };
    match &args.project.only {
        Some(name) => {
            let index = project.find(name).map_err(CommandError::message)?;
            crate::cli::run_as_child(name)?;
            let outcome = build(&project.images()[index].image, &args.common);
            if let Err(CommandError::Error(_, error)) = &outcome {
                // The parent process puts the error into its own report.
                crate::cli::print(&json!({ "error": crate::cli::describe(&**error) }).to_string())?;
            }
            outcome
        }
        None => project::build(&project, &names, &args.project, &args.common),
    }
}

impl CommonBuildArgs {
    /// Rejects options that are only valid for a single image file.
    pub(crate) fn check_for_project(&self) -> Result<(), CommandError> {
        let given = [
            (self.output.is_some(), "--output"),
            (self.seal.format.is_some(), "--format"),
            (self.log.is_some(), "--log"),
        ];
        match given.iter().find(|(given, _)| *given) {
            Some((_, option)) => Err(CommandError::message(format!(
                "{option} is for a single image file: in a project, set it in the project file"
            ))),
            None => Ok(()),
        }
    }

    /// Returns the options that affect the content of an image, as command line text.
    pub(crate) fn content_options(&self) -> String {
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

/// A prepared build: plan, options and opened outputs, so that mistakes are reported before any
/// work.
pub(crate) struct BuildJob<'a> {
    pub(crate) common: &'a CommonBuildArgs,
    plan: Plan,
    /// Directory of the artifacts; `None` when the artifact goes to standard output.
    folder: Option<PathBuf>,
    /// File that the log is written to if the build fails.
    pub(crate) log: Option<PathBuf>,
    pub(crate) epoch: Option<u64>,
    outputs: Outputs,
    /// Files to copy out of the root, with their outputs.
    yields: Vec<(Yield, Output)>,
    options: RootOptions,
    /// Whether this is an initrd image, which may yield kernels of its layers.
    is_initrd: bool,
}

impl<'a> BuildJob<'a> {
    pub(crate) fn new(image: &Image, common: &'a CommonBuildArgs) -> Result<Self, CommandError> {
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
                CommandError::message(format!("cannot create directory {}: {e}", folder.display()))
            })?;
        }
        let default_log = || {
            let mut name = first?.clone().into_os_string();
            name.push(".log");
            Some(PathBuf::from(name))
        };
        let log = common.log.clone().or_else(default_log);
        let layers = image.source.layers().map(image::Layers::paths).unwrap_or_default();
        let written = files.iter().map(|(path, _)| path).chain(yields.iter().map(|y| &y.output));
        args::reject_layers(written, &layers)?;
        let outputs = Outputs::open(files, &common.seal)?;
        let yields = yields.iter().map(|y| Ok((y.clone(), Output::file(&y.output)?)));
        let yields = yields.collect::<Result<_, CommandError>>()?;
        let epoch = args::source_date_epoch(image.source_date_epoch)?;
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
        Ok(BuildJob { common, plan, folder, log, epoch, outputs, yields, options, is_initrd })
    }

    /// Opens the layers and composes the root.
    pub(crate) fn compose(&self) -> Result<UnstartedRoot, CommandError> {
        Ok(UnstartedRoot::new(self.options.clone())?)
    }

    /// Runs the provisioners in `root` and seals the changes.
    pub(crate) fn finish(self, root: ServedRoot, signals: Signals) -> CommandResult {
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
        crate::cli::eprint_warnings(&root.warnings());
        args::add_environment(&mut environment, &root);
        let mut machine = RootMachine::new(&root, &signals, environment.clone())?;
        let result = self.plan.run(&mut machine, &run, &mut steps);
        let interrupted = machine.interrupted();
        let mut yielded = Vec::new();
        if result.is_ok() {
            for (wanted, _) in &self.yields {
                yielded
                    .push(wanted.read(&machine).map_err(|e| CommandError::Error(1, Box::new(e)))?);
            }
        }
        if let Some(file) =
            self.common.log.as_ref().or(log_file.as_ref().filter(|_| result.is_err()))
            && interrupted.is_none()
        {
            write_log(file, steps.log())?;
        }
        if result.is_ok() && interrupted.is_none() {
            self.warn_about_drivers(&machine)?;
        }
        drop(steps);
        if let Some(signal) = interrupted {
            return Err(CommandError::Signal(signal));
        }
        if let Err(failed) = result {
            return Err(self.failed(failed, root, &signals, environment));
        }
        if root.faults().is_some_and(|faults| faults.full()) {
            eprint_status(
                "warning: the upper layer was full at some point; --upper-size raises its limit",
            );
        }
        args::warn_about_owners(root.foreign_owners());
        let finished = root.finish()?;
        if let Some(signal) = signals.interruption() {
            return Err(CommandError::Signal(signal as i32));
        }
        // From here on a signal terminates this process at once: nothing needs to be cleaned up.
        drop(signals);
        self.outputs.seal(finished, &self.common.seal, self.epoch)?;
        write_yields(self.yields, &yielded, self.common.seal.json)?;
        if let (Some(log), None) = (&self.log, &self.common.log) {
            // Remove the log of an earlier, failed build.
            let _ = std::fs::remove_file(log);
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Warns about kernels that only support virtual machines, if they are new in the root or are
    /// used by an initrd image.
    fn warn_about_drivers(&self, machine: &RootMachine<'_>) -> Result<(), CommandError> {
        let kernels = drivers::virtual_only(machine, !self.is_initrd)
            .map_err(|e| CommandError::Error(1, Box::new(e)))?;
        if !kernels.is_empty() {
            eprint_status(&format!(
                "warning: the kernel {} {}; linux-image-amd64 supports both",
                kernels.join(", "),
                drivers::VIRTUAL_ONLY
            ));
        }
        Ok(())
    }

    /// Reports a failed step, opens a shell if requested, and returns the error.
    fn failed(
        &self,
        failed: Box<StepFailed>,
        root: ServedRoot,
        signals: &Signals,
        environment: Vec<(std::ffi::OsString, std::ffi::OsString)>,
    ) -> CommandError {
        let full = root.faults().is_some_and(|faults| faults.full());
        let layer = root.faults().and_then(|faults| faults.layer());
        if self.common.shell_on_failure {
            eprint_status(&crate::cli::describe(&*failed));
            eprint_status(
                "opening a shell in the root as the failed step left it; exit it to end the build",
            );
            let mut spec = CommandSpec::new(["/bin/sh"]);
            spec.env = environment;
            if let Err(error) = root.sandbox().and_then(|s| relay(s, spec, signals)) {
                eprint_status(&format!("cannot open a shell: {error}"));
            }
        }
        if full {
            eprint_status(
                "the upper layer was full: raise its limit with --upper-size, or `upper_size` in \
                 the image file",
            );
        }
        match layer {
            // The step failed because a layer could not be read.
            Some(layer) => CommandError::Error(2, Box::new(layer)),
            None => CommandError::Error(1, failed),
        }
    }
}

pub(crate) fn write_log(file: &Path, log: &[u8]) -> Result<(), CommandError> {
    let written = std::fs::File::create(file).and_then(|mut f| f.write_all(log));
    written.map_err(|e| CommandError::message(format!("cannot write log {}: {e}", file.display())))
}

/// Builds an image of any kind.
pub(crate) fn build(image: &Image, common: &CommonBuildArgs) -> CommandResult {
    if let Source::Base(root) = &image.source {
        return super::base::build(image, root, common);
    }
    let job = BuildJob::new(image, common)?;
    let signals = Signals::take()?;
    let privilege = Privilege::detect()?;
    let root = job.compose()?.start(privilege)?;
    job.finish(root, signals)
}

/// Returns the files to write and their formats: from the command line, or else from the image
/// file.
fn files(image: &Image, common: &CommonBuildArgs) -> Result<Vec<(PathBuf, Format)>, CommandError> {
    let Some(output) = &common.output else {
        if image.outputs.is_empty() {
            let file = image.file.display();
            return Err(CommandError::message(format!("{file} has no `output`: give one with -o")));
        }
        let format = |(path, format): &(PathBuf, Format)| {
            Ok((path.clone(), common.seal.format_for(path, Some(*format))?))
        };
        return image.outputs.iter().map(format).collect();
    };
    // The `format` of the image file belongs to its own output; here the file name decides.
    Ok(vec![(output.clone(), common.seal.format_for(output, None)?)])
}

/// Writes the files copied out of the root, all or none of them.
fn write_yields(
    yields: Vec<(Yield, Output)>,
    contents: &[Vec<u8>],
    json: bool,
) -> Result<(), CommandError> {
    let mut outputs = Vec::new();
    let mut reports = Vec::new();
    for ((wanted, mut output), content) in yields.into_iter().zip(contents) {
        output.write_all(content).map_err(|e| {
            CommandError::message(format!("cannot write {}: {e}", wanted.output.display()))
        })?;
        outputs.push(output);
        reports.push(args::report_file(&wanted.output, content));
    }
    crate::seal::output::commit(outputs)?;
    reports.iter().try_for_each(|report| args::report(report, json))
}

/// Returns the network that the image file requests.
fn network(image: &Image) -> Network {
    match image.network {
        image::Network::Host => Network::Host,
        image::Network::None => Network::None,
    }
}
