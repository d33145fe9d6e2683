//! `run` and `shell`: run a command in a root, and seal its changes if requested.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use fs_model::tree::XattrSupport;
use nix::sys::signal::Signal;
use provisioners::image::manifest_path;

use super::build::reject_input;
use crate::build::{InputTexts, Outputs, reject_layers, source_date_epoch};
use crate::cli::ui::Ui;
use crate::cli::ui::args::{RootArgs, SealArgs};
use crate::cli::ui::error::{CommandError, CommandResult};
use crate::cli::ui::image_args::StackOptions;
use crate::cli::ui::reporter::build_reporter;
use crate::root::owners::foreign_owner_warnings;
use crate::root::supervise::ReportFn;
use crate::root::{RootOptions, ServedRoot, UnstartedRoot};
use crate::sandbox::{
    CommandSpec, Ended, Network, SandboxError, Session, Signals, Stdio, default_environment, relay,
};

/// Options that `run` and `shell` share.
#[derive(Debug, Args)]
struct CommonRunArgs {
    #[command(flatten)]
    stack: StackOptions,

    #[command(flatten)]
    root: RootArgs,

    /// Set an environment variable in the root
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<(OsString, OsString)>,

    /// Seal the changes into this archive; `-` is standard output
    ///
    /// With `-`, the command's standard output goes to standard error.
    #[arg(long, value_name = "OUT")]
    save: Option<PathBuf>,

    #[command(flatten)]
    seal: SealArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The base and its overlays: squashfs images, cpio archives or directories
    ///
    /// The name of a project's image selects its base, its lower overlays and the image.
    #[arg(required = true, value_name = "BASE [OVERLAY]")]
    layers: Vec<PathBuf>,

    #[command(flatten)]
    common: CommonRunArgs,

    /// Run the command in the host's tree, with the path of the root in `OVERCOAT_ROOT`
    #[arg(long, hide = true)]
    outside: bool,

    /// Command to run, with its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct ShellArgs {
    /// The base and its overlays: squashfs images, cpio archives or directories
    ///
    /// The name of a project's image selects its base, its lower overlays and the image.
    #[arg(required = true, value_name = "BASE [OVERLAY]")]
    layers: Vec<PathBuf>,

    #[command(flatten)]
    common: CommonRunArgs,
}

pub(crate) fn run(ui: &Ui, args: &RunArgs) -> CommandResult {
    let root = CommandRoot::new(ui, &args.layers, &args.common, ui.report_fn())?;
    let mut spec = CommandSpec::new(args.command.iter().cloned());
    spec.session = Session::Inherited;
    spec.outside = args.outside;
    let archive = args.common.save.as_deref() == Some(Path::new("-"));
    if archive || (args.common.seal.json && args.common.save.is_some()) {
        // Standard output is reserved for the archive or the report.
        spec.stdout = Stdio::Fd(std::io::stderr().as_fd().try_clone_to_owned()?);
    }
    // The changes of a failed command are not saved.
    root.run(spec, |root, spec, signals| {
        let mut child = root.sandbox()?.spawn(&spec).map_err(spawn_error)?;
        Ok((signals.wait(&mut child)?, false))
    })
}

pub(crate) fn shell(ui: &Ui, args: &ShellArgs) -> CommandResult {
    // The terminal may be in raw mode, in which a newline does not return the cursor.
    let report = {
        let ui = ui.clone();
        ReportFn::new(move |text| ui.status(&format!("{text}\r")))
    };
    let root = CommandRoot::new(ui, &args.layers, &args.common, report)?;
    // A shell's exit code is that of its last command, so the changes are saved regardless of it.
    // They are also saved when the terminal is closed, but not when a signal asks to end.
    root.run(CommandSpec::new(["/bin/sh"]), |root, mut spec, signals| {
        if root
            .mounted_tree()
            .stat(b"/bin/bash", fs_model::tree::Follow::Yes)
            .is_ok_and(|s| s.is_some())
        {
            spec.argv = vec!["/bin/bash".into(), "-l".into()];
        }
        // Keep the shell's history out of the image.
        spec.env.push(("HISTFILE".into(), "/dev/null".into()));
        Ok((relay(root.sandbox()?, spec, signals)?, true))
    })
}

/// A root for one command, and the archive for its changes.
struct CommandRoot<'a> {
    ui: &'a Ui,
    common: &'a CommonRunArgs,
    save: Option<(&'a Path, Outputs)>,
    signals: Signals,
    root: ServedRoot,
    epoch: Option<u64>,
}

impl<'a> CommandRoot<'a> {
    fn new(
        ui: &'a Ui,
        images: &[PathBuf],
        common: &'a CommonRunArgs,
        report: ReportFn,
    ) -> Result<Self, CommandError> {
        let epoch = source_date_epoch(None)?;
        let seal = common.seal.settings();
        let layers = common.stack.layers(images)?;
        let save = match &common.save {
            Some(path) => {
                let format = seal.format_for(path, None)?;
                reject_layers(std::iter::once(path), &layers)?;
                if let Some(project) = common.stack.project(images)? {
                    reject_input(&project, path)?;
                    reject_input(&project, &manifest_path(path))?;
                }
                Some((path.as_path(), Outputs::open([(path.clone(), format)], &seal)?))
            }
            None => None,
        };
        // Without an archive, the same as for cpio.
        let xattrs = save.as_ref().map_or(XattrSupport::None, |(_, outputs)| outputs.xattrs());
        let signals = Signals::take()?;
        let digests = save.is_some() && seal.manifest;
        let root = common.root.settings(ui).root(layers, xattrs, Network::Host, None, digests);
        let options = RootOptions { report, ..root };
        let root = UnstartedRoot::new(options)?;
        let privilege = common.root.settings(ui).select_privilege_for(root.highest_owner()?)?;
        let root = root.start(privilege)?;
        Ok(CommandRoot { ui, common, save, signals, root, epoch })
    }

    /// Runs the command by calling `run`, which also returns whether to save the changes of a
    /// failed command.
    fn run(
        self,
        mut spec: CommandSpec,
        run: impl FnOnce(&ServedRoot, CommandSpec, &Signals) -> Result<(Ended, bool), CommandError>,
    ) -> CommandResult {
        let CommandRoot { ui, common, save, signals, root, epoch } = self;
        let words = spec.argv.iter().map(|word| word.as_encoded_bytes().to_vec());
        let inputs = InputTexts::new(Vec::new(), words.collect());
        spec.env = default_environment(std::env::vars_os());
        ui.warnings(&root.warnings());
        root.add_environment(&mut spec.env);
        if let Some(path) = root.sandbox()?.root_outside().filter(|_| spec.outside) {
            spec.env.push(("OVERCOAT_ROOT".into(), path.into()));
        }
        for (name, value) in &common.env {
            spec.env.retain(|(n, _)| n != name);
            spec.env.push((name.clone(), value.clone()));
        }
        let (ended, keep) = match run(&root, spec, &signals) {
            Ok(ended) => ended,
            // If a layer is damaged, that is the cause of the failure.
            Err(failure) => return Err(root.finish().err().map_or(failure, CommandError::from)),
        };
        ui.warnings(&foreign_owner_warnings(root.foreign_owners()));
        let finished = root.finish()?;
        let mut pending = std::iter::from_fn(|| signals.interruption());
        if let Some(signal) = pending.find(|signal| !keep || *signal != Signal::SIGHUP) {
            return Err(CommandError::signal(signal as i32));
        }
        // From here on a signal terminates this process at once: nothing needs to be cleaned up.
        match keep {
            // The terminal may be closed at any time.
            true => signals.release_except_hangup(),
            false => drop(signals),
        }
        let lost = finished.lost_data()?;
        if let (Some(lost), Some((path, _)), Ended::Exited(status)) = (&lost, &save, &ended)
            && status.success()
            && !keep
        {
            return Err(CommandError::user(format!(
                "{} is not written: {lost}: raise its limit with --upper-size",
                path.display()
            )));
        }
        match lost {
            Some(lost) => ui.warning(&format!("{lost}: raise its limit with --upper-size")),
            None if finished.was_full() => {
                ui.warning("the upper layer was full: raise its limit with --upper-size");
            }
            None => {}
        }
        let code = ended.shell_code();
        match (save, ended) {
            (Some((_, outputs)), Ended::Exited(_) | Ended::HungUp)
                if keep || ended.shell_code() == 0 =>
            {
                let reporter = build_reporter(ui, common.seal.json);
                outputs.seal(finished, &common.seal.settings(), epoch, &inputs, &*reporter)?;
            }
            (Some((path, ..)), Ended::Exited(status)) => {
                ui.status(&format!(
                    "the command failed ({status}): {} is not written",
                    path.display()
                ));
            }
            (_, Ended::Interrupted(signal)) => return Err(CommandError::signal(signal)),
            (_, Ended::HungUp) | (None, _) => {}
        }
        Ok(ExitCode::from(code as u8))
    }
}

/// Converts the error of a command that could not be executed.
fn spawn_error(error: SandboxError) -> CommandError {
    match error.shell_code() {
        Some(code) => CommandError::from(error).with_exit_code(code),
        None => error.into(),
    }
}

fn variable(text: &str) -> Result<(OsString, OsString), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.into(), value.into())),
        _ => Err("use NAME=VALUE".to_owned()),
    }
}
