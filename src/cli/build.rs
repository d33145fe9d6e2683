//! `build`: the image that an image file describes.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args as ClapArgs;
use provisioners::image::{self, Image, Source};
use provisioners::{Options, Plan, StepFailed};

use super::options::{self, Outputs, RootArgs, SealArgs};
use super::progress::Steps;
use super::{Failure, Outcome, say};
use crate::machine::RootMachine;
use crate::root::{Composed, Root};
use crate::sandbox::{CommandSpec, Network, Privilege, Signals, default_environment, relay};
use crate::seal::Format;

#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    /// The image file
    #[arg(value_name = "FILE")]
    file: PathBuf,

    #[command(flatten)]
    pub(super) common: Common,
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
    let image = Image::load(&args.file)?;
    build(&image, &args.common)
}

/// What is decided before anything is done.
pub(super) struct Job<'a> {
    pub(super) common: &'a Common,
    pub(super) plan: Plan,
    pub(super) output: PathBuf,
    pub(super) format: Format,
    pub(super) epoch: Option<u64>,
    pub(super) outputs: Outputs,
}

impl<'a> Job<'a> {
    pub(super) fn new(image: &Image, common: &'a Common) -> Result<Self, Failure> {
        let plan = image.plan()?;
        let output = common.output.clone().or_else(|| image.output.clone()).ok_or_else(|| {
            let file = image.file.display();
            Failure::message(format!("{file} names no output: give one with -o"))
        })?;
        let stated = image.format.map(|format| match format {
            image::Format::Cpio => Format::Cpio,
            image::Format::CpioGz => Format::CpioGz,
            image::Format::CpioZst => Format::CpioZst,
            image::Format::Tar => Format::Tar,
            image::Format::Squashfs => Format::Squashfs,
        });
        // The file's format is that of the file's output; another name speaks for itself.
        let stated = stated.filter(|_| common.output.is_none());
        let format = common.seal.format_for(&output, stated)?;
        if let Some(folder) = output.parent().filter(|p| !p.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).map_err(|e| {
                Failure::message(format!("cannot make the folder {}: {e}", folder.display()))
            })?;
        }
        let outputs = Outputs::open(&output, &common.seal)?;
        let epoch = options::source_date_epoch(image.source_date_epoch)?;
        Ok(Job { common, plan, output, format, epoch, outputs })
    }

    /// Where the log is kept if the build fails.
    fn log_file(&self) -> Option<PathBuf> {
        let beside = || {
            let mut name = self.output.clone().into_os_string();
            name.push(".log");
            (self.output != Path::new("-")).then(|| PathBuf::from(name))
        };
        self.common.log.clone().or_else(beside)
    }

    /// Runs the provisioners in `root`, and seals what they changed.
    pub(super) fn finish(self, root: Root, signals: Signals) -> Outcome {
        let log_file = self.log_file();
        let epoch = self.epoch.and_then(|epoch| i64::try_from(epoch).ok());
        let artifacts =
            self.output.parent().map(|dir| std::path::absolute(dir).unwrap_or(dir.into()));
        let run = Options {
            source_date_epoch: epoch,
            log_file: log_file.clone(),
            artifacts,
            ansible: self.common.ansible.clone(),
        };
        let mut steps = Steps::new(tracing::enabled!(tracing::Level::INFO));
        let mut environment = default_environment(std::env::vars_os());
        if let Some(epoch) = epoch {
            let name = "SOURCE_DATE_EPOCH";
            environment.retain(|(n, _)| n != name);
            environment.push((name.into(), epoch.to_string().into()));
        }
        let mut machine =
            RootMachine::new(root.live(), root.sandbox()?, &signals, environment.clone());
        let result = self.plan.run(&mut machine, &run, &mut steps);
        let interrupted = machine.interrupted();
        if let Some(file) =
            self.common.log.as_ref().or(log_file.as_ref().filter(|_| result.is_err()))
            && interrupted.is_none()
        {
            keep_log(file, steps.log())?;
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
        let finished = root.finish()?;
        if let Some(signal) = signals.interruption() {
            return Err(Failure::Signal(signal as i32));
        }
        // From here on a signal ends this process at once: there is nothing to put in order.
        drop(signals);
        let options = self.common.seal.options(self.format, self.epoch);
        options::seal_finished(finished, &self.output, self.outputs, &self.common.seal, &options)?;
        Ok(ExitCode::SUCCESS)
    }

    fn failed(
        &self,
        failed: Box<StepFailed>,
        root: Root,
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
            say("the upper layer was full: give it more with --upper-size");
        }
        match layer {
            // The step failed because of it.
            Some(layer) => Failure::Error(2, Box::new(layer)),
            None => Failure::Error(1, failed),
        }
    }
}

fn keep_log(file: &Path, log: &[u8]) -> Result<(), Failure> {
    let written = std::fs::File::create(file).and_then(|mut f| f.write_all(log));
    written.map_err(|e| Failure::message(format!("cannot write the log {}: {e}", file.display())))
}

fn build(image: &Image, common: &Common) -> Outcome {
    let Source::Overlay { base, overlays } = &image.source else {
        return super::base::build(image, common);
    };
    let job = Job::new(image, common)?;
    let signals = Signals::take()?;
    let layers = std::iter::once(base).chain(overlays).cloned().collect();
    let options = common.root.root(
        layers,
        job.format,
        network(image),
        image.upper_size,
        !common.seal.no_manifest,
    );
    let privilege = Privilege::detect()?;
    let root = Composed::new(options)?.start(privilege)?;
    job.finish(root, signals)
}

/// The network that the image file asks for.
pub(super) fn network(image: &Image) -> Network {
    match image.network {
        image::Network::Host => Network::Host,
        image::Network::None => Network::None,
    }
}
