//! Builds the image of an image file: runs its provisioners in a root and seals the changes.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fs_model::tree::XattrSupport;
use provisioners::image::{self, Image, Root, Source, Yield, manifest_path};
use provisioners::{
    ForecastAnswer, MissingPackage, Observer, Options, PackageForecast, Plan, StepFailed, StepInfo,
};

use super::error::BuildError;
use super::input_texts::InputTexts;
use super::options::{BuildOptions, reject_layers, source_date_epoch};
use super::outputs::Outputs;
use super::reporter::{Reporter, step_title};
use crate::image::drivers;
use crate::root::machine::RootMachine;
use crate::root::owners::foreign_owner_warnings;
use crate::root::{RootOptions, ServedRoot, UnstartedRoot};
use crate::sandbox::{CommandSpec, Network, Privilege, Signals, default_environment, relay};
use crate::seal::output::create_folders;
use crate::seal::report::file_report;
use crate::seal::{Format, Output};
use crate::text::error::describe;
use crate::text::size::size_text;

/// Builds an image of any kind.
///
/// # Errors
/// Fails if a step fails, or the image cannot be built. No partial artifact is left.
pub fn build(
    image: &Image,
    options: &BuildOptions,
    reporter: &Arc<dyn Reporter>,
) -> Result<(), BuildError> {
    if let Source::Base(root) = &image.source {
        return super::mmdebstrap::build(image, root, options, reporter);
    }
    let job = BuildJob::new(image, options, reporter)?;
    let signals = Signals::take()?;
    let root = job.compose()?;
    let privilege = job.select_privilege(&root)?;
    job.finish(root.start(privilege)?, signals)
}

/// Reports the packages of an image that apt does not find, and the size of those to fetch, or why
/// they are unknown, and builds nothing.
///
/// # Errors
/// Fails if the root of the image cannot be started, or this process is interrupted.
pub fn forecast(
    image: &Image,
    options: &BuildOptions,
    reporter: &Arc<dyn Reporter>,
) -> Result<(), BuildError> {
    let plan = image.plan()?;
    let has_packages = !plan.packages()?.is_empty();
    let unknown = plan.tasks_with_unknown_packages()?;
    if !unknown.is_empty() {
        reporter.status(&format!(
            "packages of these tasks are known only when they run: {}",
            unknown.join(", ")
        ));
    }
    let Some(layers) = image.source.layers() else {
        if has_packages || matches!(image.source, Source::Base(Root::Debian(_))) {
            reporter
                .status("packages were not checked: those of a base are unknown before a build");
        }
        return Ok(());
    };
    if !has_packages {
        return Ok(());
    }
    reporter.status("asking the mirrors for the packages");
    let signals = Signals::take()?;
    let root = root_options(image, options, layers.paths(), XattrSupport::None);
    let root = UnstartedRoot::new(root)?;
    let privilege = options.root.select_privilege_for(root.highest_owner()?)?;
    let root = root.start(privilege)?;
    let mut environment = default_environment(std::env::vars_os());
    root.add_environment(&mut environment);
    let mut machine = RootMachine::new(&root, &signals, environment)?;
    let answer = plan.forecast_packages(&mut machine);
    if let Some(signal) = machine.interrupted() {
        return Err(BuildError::Interrupted(signal));
    }
    match answer.map_err(BuildError::Forecast)? {
        ForecastAnswer::NoPackages => {}
        ForecastAnswer::Known(packages) => report_forecast(&packages, &**reporter),
        ForecastAnswer::Unknown(reason) => {
            reporter.warning(&format!("packages were not checked, because apt fails: {reason}"));
        }
    }
    Ok(())
}

/// Returns the options of the root in which an image is built.
fn root_options(
    image: &Image,
    settings: &BuildOptions,
    layers: Vec<PathBuf>,
    xattrs: XattrSupport,
) -> RootOptions {
    let (network, manifest) = (network(image), settings.seal.manifest);
    RootOptions {
        apt_proxy: image.apt_proxy.clone(),
        ..settings.root.root(layers, xattrs, network, image.upper_size, manifest)
    }
}

/// A prepared build: plan, options and opened outputs, so that mistakes are reported before any
/// work.
pub(super) struct BuildJob<'a> {
    settings: &'a BuildOptions,
    reporter: &'a Arc<dyn Reporter>,
    plan: Plan,
    /// Directory of the artifacts; `None` when the artifact goes to standard output.
    folder: Option<PathBuf>,
    /// File that the log is written to if the build fails.
    pub(super) log: Option<PathBuf>,
    pub(super) epoch: Option<u64>,
    outputs: Outputs,
    /// Files to copy out of the root, with their outputs.
    yields: Vec<(Yield, Output)>,
    options: RootOptions,
    /// Whether this is an initrd image, which may yield kernels of its layers.
    is_initrd: bool,
    inputs: InputTexts,
    /// The start of the log: the output of mmdebstrap.
    pub(super) first_log: Vec<u8>,
}

impl<'a> BuildJob<'a> {
    pub(super) fn new(
        image: &Image,
        settings: &'a BuildOptions,
        reporter: &'a Arc<dyn Reporter>,
    ) -> Result<Self, BuildError> {
        let plan = image.plan()?;
        // Arguments such as `--tags` or `-e` change which tasks run, and their variables.
        if settings.ansible.is_empty() {
            for problem in plan.role_problems()? {
                reporter.warning(&problem.to_string());
            }
        }
        let yields = match &image.source {
            Source::Initrd { yields, .. } => yields.as_slice(),
            _ => &[],
        };
        let files = if yields.is_empty() { files(image, settings)? } else { Vec::new() };
        let first = files.first().map(|(path, _)| path).or(yields.first().map(|y| &y.output));
        let first = first.filter(|path| *path != Path::new("-"));
        let folder = first.map(|path| std::path::absolute(path).unwrap_or(path.clone()));
        let folder = folder.and_then(|path| path.parent().map(Path::to_owned));
        if let Some(folder) = &folder {
            create_folders(folder).map_err(BuildError::file("create directory", folder))?;
        }
        let default_log = || {
            let mut name = first?.clone().into_os_string();
            name.push(".log");
            Some(PathBuf::from(name))
        };
        let log = settings.log.clone().or_else(default_log);
        let layers = image.source.layers().map(image::Layers::paths).unwrap_or_default();
        let written = files.iter().map(|(path, _)| path).chain(yields.iter().map(|y| &y.output));
        reject_layers(written.clone(), &layers)?;
        let inputs = image.input_paths()?;
        let manifests: Vec<_> = files.iter().map(|(path, _)| manifest_path(path)).collect();
        for file in written.chain(&manifests).chain(&settings.log) {
            if let Some(input) = inputs.iter().find(|input| input.contains(file)) {
                let (file, input) = (file.clone(), input.description.clone());
                return Err(BuildError::OverwritesInput { file, input });
            }
        }
        let outputs = Outputs::open(files, &settings.seal)?;
        let yields = yields.iter().map(|y| Ok((y.clone(), Output::file(&y.output)?)));
        let yields = yields.collect::<Result<_, BuildError>>()?;
        let epoch = source_date_epoch(image.source_date_epoch)?;
        let options = root_options(image, settings, layers, outputs.xattrs());
        let folders = image.provisioners.iter().filter_map(|folder| folder.host_path());
        let paths = folders.chain([image.file.as_path()]).map(Path::to_owned);
        let values = image.variables().map(|(_, value)| value.to_string().into_bytes());
        let inputs = InputTexts::new(paths.collect(), values.collect());
        let is_initrd = matches!(image.source, Source::Initrd { .. });
        Ok(BuildJob {
            settings,
            reporter,
            plan,
            folder,
            log,
            epoch,
            outputs,
            yields,
            options,
            is_initrd,
            inputs,
            first_log: Vec::new(),
        })
    }

    /// Opens the layers and composes the root.
    pub(super) fn compose(&self) -> Result<UnstartedRoot, BuildError> {
        Ok(UnstartedRoot::new(self.options.clone())?)
    }

    /// Returns the privilege for `root` and the plan.
    pub(super) fn select_privilege(&self, root: &UnstartedRoot) -> Result<Privilege, BuildError> {
        let highest = root.highest_owner()?.max(self.plan.highest_id());
        Ok(self.settings.root.select_privilege_for(highest)?)
    }

    /// Runs the provisioners in `root` and seals the changes.
    pub(super) fn finish(mut self, root: ServedRoot, signals: Signals) -> Result<(), BuildError> {
        let reporter = &**self.reporter;
        let log_file = self.log.clone();
        let epoch = self.epoch.and_then(|epoch| i64::try_from(epoch).ok());
        let run = Options {
            source_date_epoch: epoch,
            log_file: log_file.clone(),
            artifacts: self.folder.clone(),
            // The initrd may be one of the files that the image yields.
            kernel_initrds: self.is_initrd,
            ansible: self.settings.ansible.clone(),
        };
        let mut steps = StepLog::new(reporter, std::mem::take(&mut self.first_log));
        let mut environment = default_environment(std::env::vars_os());
        if let Some(epoch) = epoch {
            let name = "SOURCE_DATE_EPOCH";
            environment.retain(|(n, _)| n != name);
            environment.push((name.into(), epoch.to_string().into()));
        }
        root.warnings().iter().for_each(|warning| reporter.warning(warning));
        root.add_environment(&mut environment);
        let mut machine = RootMachine::new(&root, &signals, environment.clone())?;
        let result = self.plan.run(&mut machine, &run, &mut steps);
        let interrupted = machine.interrupted();
        let mut yielded = Vec::new();
        let mut yield_warnings = Vec::new();
        if result.is_ok() {
            for (wanted, _) in &self.yields {
                let content = wanted.read(&machine).map_err(BuildError::Yield)?;
                yielded.push((wanted.pattern.clone().into_bytes(), content));
            }
            let is_input = |value: &str| self.inputs.contains(value);
            for file in &mut yielded {
                let warnings = root.clean_contents(&is_input, std::slice::from_mut(file));
                warnings.iter().for_each(|warning| reporter.warning(warning));
                yield_warnings.push(warnings);
            }
        }
        let keep = result.is_err() || self.settings.keep_log;
        if let Some(file) = self.settings.log.as_ref().or(log_file.as_ref().filter(|_| keep))
            && interrupted.is_none()
        {
            write_log(file, &steps.log)?;
        }
        if result.is_ok() && interrupted.is_none() {
            self.warn_about_drivers(&machine)?;
        }
        drop(steps);
        if let Some(signal) = interrupted {
            return Err(BuildError::Interrupted(signal));
        }
        if let Err(failed) = result {
            return Err(self.failed(failed, root, &signals, environment));
        }
        for warning in foreign_owner_warnings(root.foreign_owners()) {
            reporter.warning(&warning);
        }
        let finished = root.finish()?;
        if let Some(signal) = signals.interruption() {
            return Err(BuildError::Interrupted(signal as i32));
        }
        if let Some(lost) = finished.lost_data()? {
            return Err(BuildError::LostData(lost));
        }
        if finished.was_full() {
            reporter
                .warning("the upper layer was full at some point; --upper-size raises its limit");
        }
        // From here on a signal terminates this process at once: nothing needs to be cleaned up.
        drop(signals);
        let privilege = finished.privilege;
        self.outputs.seal(finished, &self.settings.seal, self.epoch, &self.inputs, reporter)?;
        write_yields(self.yields, &yielded, &yield_warnings, privilege, reporter)?;
        if let (Some(log), None, false) = (&self.log, &self.settings.log, keep) {
            // Remove the log of an earlier, failed build.
            let _ = std::fs::remove_file(log);
        }
        Ok(())
    }

    /// Warns about kernels that only support virtual machines, if they are new in the root or are
    /// used by an initrd image.
    fn warn_about_drivers(&self, machine: &RootMachine<'_>) -> Result<(), BuildError> {
        let kernels =
            drivers::virtual_only(machine, !self.is_initrd).map_err(BuildError::Kernels)?;
        if !kernels.is_empty() {
            self.reporter.warning(&format!(
                "the kernel {} {}; linux-image-amd64 supports both",
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
        environment: Vec<(OsString, OsString)>,
    ) -> BuildError {
        let full = root.faults().is_some_and(|faults| faults.full());
        let layer = root.faults().and_then(|faults| faults.layer());
        if self.settings.shell_on_failure {
            self.reporter.error(&describe(&*failed));
            self.reporter.status(
                "opening a shell in the root as the failed step left it; exit it to end the build",
            );
            let mut spec = CommandSpec::new(["/bin/sh"]);
            spec.env = environment;
            if let Err(error) = root.sandbox().and_then(|s| relay(s, spec, signals)) {
                self.reporter.status(&format!("cannot open a shell: {}", error.full_text()));
            }
        }
        if full {
            self.reporter.status(
                "the upper layer was full: raise its limit with --upper-size, or `upper_size` in \
                 the image file",
            );
        }
        match layer {
            Some(layer) => BuildError::Layer(layer),
            None if self.settings.shell_on_failure => BuildError::Reported(failed),
            None => BuildError::Step(failed),
        }
    }
}

/// Collects the output of the steps, and reports them.
struct StepLog<'a> {
    reporter: &'a dyn Reporter,
    /// The output of all steps, each after a line with its title.
    log: Vec<u8>,
}

impl<'a> StepLog<'a> {
    fn new(reporter: &'a dyn Reporter, log: Vec<u8>) -> Self {
        reporter.steps_began();
        StepLog { reporter, log }
    }
}

impl Observer for StepLog<'_> {
    fn forecast(&mut self, packages: &PackageForecast) {
        report_forecast(packages, self.reporter);
    }

    fn started(&mut self, step: &StepInfo) {
        self.log.extend_from_slice(format!("=== {}\n", step_title(step)).as_bytes());
        self.reporter.step_began(step);
    }

    fn finished(&mut self, step: &StepInfo, took: Duration) {
        self.reporter.step_ended(step, took);
    }

    fn skipped(&mut self, step: &StepInfo, reason: &str) {
        self.reporter.step_skipped(step, reason);
        let line = format!("=== {}: skipped ({reason})\n", step_title(step));
        self.log.extend_from_slice(line.as_bytes());
    }

    fn task_started(&mut self, step: &StepInfo, task: &str) {
        self.reporter.task_began(step, task);
    }

    fn task_ended(&mut self, step: &StepInfo, task: &str, took: Duration) {
        self.reporter.task_ended(step, task, took);
    }

    fn output(&mut self, bytes: &[u8]) {
        self.log.extend_from_slice(bytes);
        self.reporter.step_output(bytes);
    }
}

/// Reports the packages that apt does not find, and how much is to be fetched.
pub(super) fn report_forecast(packages: &PackageForecast, reporter: &dyn Reporter) {
    for MissingPackage { wanted, candidate } in &packages.missing {
        let candidate = candidate.as_ref().map(|version| format!(" (the archives have {version})"));
        reporter.warning(&format!(
            "{}: apt does not find {}{}, which fails the build unless a step adds an archive that \
             has it",
            wanted.place,
            wanted.name,
            candidate.unwrap_or_default()
        ));
    }
    if let Some(problem) = &packages.problem {
        reporter.warning(&format!("apt cannot install the packages together: {problem}"));
    }
    if packages.fetched > 0 {
        let (count, size) = (packages.fetched, size_text(packages.bytes));
        reporter.status(&format!("packages to fetch: {count}, {size}"));
    }
}

impl Drop for StepLog<'_> {
    fn drop(&mut self) {
        self.reporter.steps_ended();
    }
}

pub(super) fn write_log(file: &Path, log: &[u8]) -> Result<(), BuildError> {
    let create = || std::fs::File::create(file);
    let created = create().or_else(|error| match error.kind() {
        // Another user has created it, such as root.
        std::io::ErrorKind::PermissionDenied => {
            std::fs::remove_file(file).map_err(|_| error).and_then(|()| create())
        }
        _ => Err(error),
    });
    let written = created.and_then(|mut f| f.write_all(log));
    written.map_err(BuildError::file("write log", file))
}

/// Returns the files to write and their formats: from the settings, or else from the image file.
fn files(image: &Image, settings: &BuildOptions) -> Result<Vec<(PathBuf, Format)>, BuildError> {
    let Some(output) = &settings.output else {
        if image.outputs.is_empty() {
            return Err(BuildError::NoOutput(image.file.clone()));
        }
        let format = |(path, format): &(PathBuf, image::Format)| {
            let stated = Some(match format {
                image::Format::Cpio => Format::Cpio,
                image::Format::CpioGz => Format::CpioGz,
                image::Format::CpioZst => Format::CpioZst,
                image::Format::Tar => Format::Tar,
                image::Format::Squashfs => Format::Squashfs,
            });
            Ok((path.clone(), settings.seal.format_for(path, stated)?))
        };
        return image.outputs.iter().map(format).collect();
    };
    // The `format` of the image file belongs to its own output; here the file name decides.
    Ok(vec![(output.clone(), settings.seal.format_for(output, None)?)])
}

/// Writes the files copied out of the root, all or none of them.
fn write_yields(
    yields: Vec<(Yield, Output)>,
    contents: &[(Vec<u8>, Vec<u8>)],
    warnings: &[Vec<String>],
    privilege: &str,
    reporter: &dyn Reporter,
) -> Result<(), BuildError> {
    let mut outputs = Vec::new();
    let mut reports = Vec::new();
    let files = contents.iter().zip(warnings);
    for ((wanted, mut output), ((_, content), warnings)) in yields.into_iter().zip(files) {
        output.write_all(content).map_err(BuildError::file("write", &wanted.output))?;
        outputs.push(output);
        let mut report = file_report(&wanted.output, content, warnings);
        report["privilege"] = privilege.into();
        reports.push(report);
    }
    crate::seal::output::commit(outputs)?;
    Ok(reports.iter().try_for_each(|report| reporter.artifact(report))?)
}

/// Returns the network that the image file requests.
fn network(image: &Image) -> Network {
    match image.network {
        image::Network::Host => Network::Host,
        image::Network::None => Network::None,
    }
}
