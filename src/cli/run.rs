//! `run` and `shell`: a command in a root, with what it changed sealed if that is asked for.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use fs_model::tree::XattrSupport;

use super::images::BaseOffset;
use super::options::{self, Outputs, RootArgs, SealArgs};
use super::{Failure, Outcome, say};
use crate::root::{RootOptions, ServedRoot, UnstartedRoot};
use crate::sandbox::{
    CommandSpec, Ended, Network, Privilege, SandboxError, Session, Signals, Stdio,
    default_environment, relay,
};
use crate::supervise::ReportFn;

#[derive(Debug, Args)]
struct Common {
    #[command(flatten)]
    offset: BaseOffset,

    #[command(flatten)]
    root: RootArgs,

    /// Set an environment variable inside
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<(OsString, OsString)>,

    /// Seal what was done into this archive (`-` is standard output, and what the command prints
    /// goes to standard error then)
    #[arg(long, value_name = "OUT")]
    save: Option<PathBuf>,

    #[command(flatten)]
    seal: SealArgs,
}

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// The base, and overlays over it: squashfs images, cpio archives or directories
    #[arg(required = true, value_name = "BASE [OVERLAY]")]
    layers: Vec<PathBuf>,

    #[command(flatten)]
    common: Common,

    /// The command
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(super) struct ShellArgs {
    /// The base, and overlays over it: squashfs images, cpio archives or directories
    #[arg(required = true, value_name = "BASE [OVERLAY]")]
    layers: Vec<PathBuf>,

    #[command(flatten)]
    common: Common,
}

pub(super) fn run(args: &RunArgs) -> Outcome {
    let attempt = Attempt::new(&args.layers, &args.common, say)?;
    let mut spec = CommandSpec::new(args.command.iter().cloned());
    spec.session = Session::Inherited;
    let archive = args.common.save.as_deref() == Some(Path::new("-"));
    if archive || (args.common.seal.json && args.common.save.is_some()) {
        // Standard output is the archive's, or the report's.
        spec.stdout = Stdio::Fd(std::io::stderr().as_fd().try_clone_to_owned()?);
    }
    // A failing command has made nothing that is worth keeping.
    attempt.go(spec, |root, spec, signals| {
        let mut child = root.sandbox()?.spawn(&spec).map_err(not_run)?;
        Ok((signals.wait(&mut child)?, false))
    })
}

pub(super) fn shell(args: &ShellArgs) -> Outcome {
    // The terminal may be in raw mode, in which a new line does not begin at the left.
    let report = |text: &str| say(&format!("{text}\r"));
    let attempt = Attempt::new(&args.layers, &args.common, report)?;
    // The last command of a shell says nothing of the work: it is kept whatever its code.
    attempt.go(CommandSpec::new(["/bin/sh"]), |root, mut spec, signals| {
        if root.live().stat(b"/bin/bash", fs_model::tree::Follow::Yes).is_ok_and(|s| s.is_some()) {
            spec.argv = vec!["/bin/bash".into(), "-l".into()];
        }
        // What was typed is no part of the image.
        spec.env.push(("HISTFILE".into(), "/dev/null".into()));
        Ok((relay(root.sandbox()?, spec, signals)?, true))
    })
}

/// A root for one command, and where its changes go.
struct Attempt<'a> {
    common: &'a Common,
    save: Option<(&'a Path, Outputs)>,
    signals: Signals,
    root: ServedRoot,
    epoch: Option<u64>,
}

impl<'a> Attempt<'a> {
    fn new(layers: &[PathBuf], common: &'a Common, report: ReportFn) -> Result<Self, Failure> {
        let epoch = options::source_date_epoch(None)?;
        let mut layers = layers.to_vec();
        common.offset.apply(&mut layers);
        let save = match &common.save {
            Some(path) => {
                let format = common.seal.format_for(path, None)?;
                options::refuse_layers(std::iter::once(path), &layers)?;
                Some((path.as_path(), Outputs::open([(path.clone(), format)], &common.seal)?))
            }
            None => None,
        };
        // As for a cpio archive, where nothing is saved.
        let xattrs = save.as_ref().map_or(XattrSupport::None, |(_, outputs)| outputs.xattrs());
        let signals = Signals::take()?;
        let digests = save.is_some() && !common.seal.no_manifest;
        let root = common.root.root(layers, xattrs, Network::Host, None, digests);
        let options = RootOptions { report, ..root };
        let privilege = Privilege::detect()?;
        let root = UnstartedRoot::new(options)?.start(privilege)?;
        Ok(Attempt { common, save, signals, root, epoch })
    }

    /// Runs the command by `run`, which also says whether a failing command's changes are kept.
    fn go(
        self,
        mut spec: CommandSpec,
        run: impl FnOnce(&ServedRoot, CommandSpec, &Signals) -> Result<(Ended, bool), Failure>,
    ) -> Outcome {
        let Attempt { common, save, signals, root, epoch } = self;
        spec.env = default_environment(std::env::vars_os());
        super::say_warnings(&root.warnings());
        options::add_environment(&mut spec.env, &root);
        for (name, value) in &common.env {
            spec.env.retain(|(n, _)| n != name);
            spec.env.push((name.clone(), value.clone()));
        }
        let (ended, keep) = match run(&root, spec, &signals) {
            Ok(ended) => ended,
            // A damaged layer is why, whatever the command could not do.
            Err(failure) => return Err(root.finish().err().map_or(failure, Failure::from)),
        };
        if root.faults().is_some_and(|faults| faults.full()) {
            say("warning: the upper layer was full: give it more with --upper-size");
        }
        options::warn_of_owners(root.foreign_owners());
        let finished = root.finish()?;
        if let Some(signal) = signals.interruption() {
            return Err(Failure::Signal(signal as i32));
        }
        // From here on a signal ends this process at once: there is nothing to put in order.
        drop(signals);
        let code = ended.shell_code();
        match (save, ended) {
            (Some((_, outputs)), Ended::Exited(status)) if status.success() || keep => {
                outputs.seal(finished, &common.seal, epoch)?;
            }
            (Some((path, ..)), Ended::Exited(status)) => {
                say(&format!("the command ended with {status}: {} is not written", path.display()));
            }
            (_, Ended::Interrupted(signal)) => return Err(Failure::Signal(signal)),
            (None, _) => {}
        }
        Ok(ExitCode::from(code as u8))
    }
}

/// A command that could not be executed.
fn not_run(error: SandboxError) -> Failure {
    match error.shell_code() {
        Some(code) => Failure::Error(code, Box::new(error)),
        None => error.into(),
    }
}

fn variable(text: &str) -> Result<(OsString, OsString), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.into(), value.into())),
        _ => Err("write NAME=VALUE".to_owned()),
    }
}
