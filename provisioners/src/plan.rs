//! Runs provisioners: makes a plan of steps, and runs them one after the other on a machine.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::ansible::review::{RoleProblem, RoleReview};
use crate::cleanup::{Cleanup, CleanupSettings};
use crate::config::ConfigError;
use crate::error::StepError;
use crate::machine::{Log, Machine};
use crate::options::Options;
use crate::provisioner::Provisioner;
use crate::steps::availability::{ForecastAnswer, PackageForecast, WantedPackage, forecast};
use crate::steps::packages::FetchedLists;
use crate::steps::{Action, StepContext};
use crate::tail::Tail;
use crate::variables::{DeclaredVariables, Variables};

/// Receives the events of a run.
pub trait Observer {
    /// Called before the first of several steps that install packages.
    fn forecast(&mut self, packages: &PackageForecast) {
        let _ = packages;
    }

    /// Called when a step starts.
    fn started(&mut self, step: &StepInfo) {
        let _ = step;
    }

    /// Called when a step has succeeded.
    fn finished(&mut self, step: &StepInfo, took: Duration) {
        let _ = (step, took);
    }

    /// Called when a step is skipped. `reason` is text for the user: `when: serial_console`.
    fn skipped(&mut self, step: &StepInfo, reason: &str) {
        let _ = (step, reason);
    }

    /// Called when a step has failed. [`Plan::run`] returns the error.
    fn failed(&mut self, step: &StepInfo, took: Duration) {
        let _ = (step, took);
    }

    /// Called with all bytes that a step writes.
    fn output(&mut self, bytes: &[u8]) {
        let _ = bytes;
    }

    /// Called when a task of the Ansible role `step` starts.
    fn task_started(&mut self, step: &StepInfo, task: &str) {
        let _ = (step, task);
    }

    /// Called when a task of the Ansible role `step` has ended.
    fn task_ended(&mut self, step: &StepInfo, task: &str, took: Duration) {
        let _ = (step, task, took);
    }
}

/// Ignores all events.
impl Observer for () {}

/// A step of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepInfo {
    /// Name of its provisioner, if the plan has several; `None` for clean-up.
    pub provisioner: Option<String>,
    /// Name: `packages (9)`, `script scripts/10-configure.sh`, `cleanup logs`.
    pub name: String,
    /// Position in the plan, from 0.
    pub index: usize,
    /// Number of steps in the plan.
    pub total: usize,
    /// Whether this is a clean-up step.
    pub cleanup: bool,
}

impl fmt::Display for StepInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.provisioner {
            Some(provisioner) => write!(f, "{provisioner}: {}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// A step failed.
#[derive(Debug, thiserror::Error)]
#[error("{}", describe(step, error, last_lines, log_file.as_ref()))]
pub struct StepFailed {
    /// The step.
    pub step: StepInfo,
    /// The cause, whose causes are in the message too.
    pub error: StepError,
    /// The last lines of its output.
    pub last_lines: Vec<String>,
    /// The file with the complete output.
    pub log_file: Option<PathBuf>,
}

fn describe(
    step: &StepInfo,
    error: &StepError,
    last_lines: &[String],
    log_file: Option<&PathBuf>,
) -> String {
    let mut text = format!("the step \"{step}\" failed: {error}");
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    for line in last_lines {
        text.push_str("\n  | ");
        text.push_str(line);
    }
    if let Some(path) = log_file {
        text.push_str(&format!("\nthe whole log is in {}", path.display()));
    }
    text
}

/// A plan cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// A configuration file has a mistake.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A step cannot succeed. This is found before any step runs.
    #[error("the step \"{step}\" cannot run")]
    Check {
        /// The step.
        step: String,
        /// The cause.
        source: StepError,
    },
}

/// The steps of provisioners with the variables of an image, followed by the clean-up steps.
#[derive(Debug)]
pub struct Plan {
    steps: Vec<(StepInfo, PlannedStep)>,
}

#[derive(Debug)]
enum PlannedStep {
    Action { action: Action, variables: Arc<Variables> },
    Skipped { reason: String },
    Cleanup(&'static Cleanup),
}

impl Plan {
    /// Makes the plan for provisioners with the defaults of their variables.
    ///
    /// # Errors
    ///
    /// Fails if a template cannot be rendered or a file cannot be read.
    pub fn new(provisioners: &[Provisioner]) -> Result<Self, PlanError> {
        Self::for_image(provisioners, &DeclaredVariables::default(), &CleanupSettings::default())
    }

    /// Makes the plan for an image. Each of its variables must be one of a provisioner. Its
    /// clean-up settings take precedence over those of the provisioners.
    pub(crate) fn for_image(
        provisioners: &[Provisioner],
        variables: &DeclaredVariables,
        cleanup: &CleanupSettings,
    ) -> Result<Self, PlanError> {
        let defaults: Vec<&Variables> = provisioners.iter().map(Provisioner::variables).collect();
        variables.check_against(&defaults).map_err(ConfigError::from)?;
        let mut steps = Vec::new();
        let mut settings = CleanupSettings::default();
        let several = provisioners.len() > 1;
        for provisioner in provisioners {
            let variables = Arc::new(variables.over(provisioner.variables()));
            let definitions = provisioner.definitions().iter();
            let steps_of_each = definitions.map(|step| step.expand(&variables));
            let expanded =
                steps_of_each.collect::<Result<Vec<_>, _>>().map_err(ConfigError::from)?;
            for expanded in expanded.into_iter().flatten() {
                let info = StepInfo {
                    provisioner: several.then(|| provisioner.name().to_owned()),
                    name: expanded.name,
                    index: steps.len(),
                    total: 0,
                    cleanup: false,
                };
                let step = match expanded.action {
                    Ok(action) => {
                        action.check(&expanded.variables).map_err(|source| PlanError::Check {
                            step: info.to_string(),
                            source,
                        })?;
                        PlannedStep::Action { action, variables: expanded.variables }
                    }
                    Err(reason) => PlannedStep::Skipped { reason },
                };
                steps.push((info, step));
            }
            settings = settings.overridden_by(provisioner.cleanup());
        }
        for cleanup in settings.overridden_by(cleanup).enabled() {
            let name = format!("cleanup {}", cleanup.name);
            let index = steps.len();
            let info = StepInfo { provisioner: None, name, index, total: 0, cleanup: true };
            steps.push((info, PlannedStep::Cleanup(cleanup)));
        }
        let total = steps.len();
        steps.iter_mut().for_each(|(info, _)| info.total = total);
        Ok(Self { steps })
    }

    /// Returns the steps in the order in which they run.
    pub fn steps(&self) -> impl ExactSizeIterator<Item = &StepInfo> {
        self.steps.iter().map(|(info, _)| info)
    }

    /// Returns the packages that the steps install, as far as they are known before the steps run.
    ///
    /// # Errors
    ///
    /// Fails if a file of a role cannot be read.
    pub fn packages(&self) -> Result<Vec<WantedPackage>, ConfigError> {
        let mut found = Vec::new();
        for (info, step) in &self.steps {
            match step {
                PlannedStep::Action { action: Action::Packages(packages), .. } => {
                    let names = packages.names().into_iter();
                    found.extend(names.map(|name| WantedPackage { name, place: info.to_string() }));
                }
                PlannedStep::Action { action: Action::Ansible(role), variables } => {
                    let review = RoleReview::read(role.named_folder())?;
                    found.extend(
                        review.packages(variables).known.into_iter().map(|package| WantedPackage {
                            name: package.name,
                            place: package.place,
                        }),
                    );
                }
                _ => {}
            }
        }
        Ok(found)
    }

    /// Returns the highest user or group id that a step names; 0 if none does. Scripts and roles
    /// are not examined.
    pub fn highest_id(&self) -> u32 {
        let id = |step: &PlannedStep| match step {
            PlannedStep::Action { action, .. } => action.highest_id(),
            _ => 0,
        };
        self.steps.iter().map(|(_, step)| id(step)).max().unwrap_or(0)
    }

    /// Returns the files and lines of the roles' tasks that may install packages that are not known
    /// before they run.
    ///
    /// # Errors
    ///
    /// Fails if a file of a role cannot be read.
    pub fn tasks_with_unknown_packages(&self) -> Result<Vec<String>, ConfigError> {
        let mut found = Vec::new();
        for (_, step) in &self.steps {
            if let PlannedStep::Action { action: Action::Ansible(role), variables } = step {
                let review = RoleReview::read(role.named_folder())?;
                found.extend(review.packages(variables).unknown);
            }
        }
        Ok(found)
    }

    /// Asks apt for all packages of the steps at once.
    ///
    /// # Errors
    ///
    /// Fails if the root cannot be read, or a command cannot be started.
    pub fn forecast_packages(
        &self,
        machine: &mut dyn Machine,
    ) -> Result<ForecastAnswer, StepError> {
        self.forecast(machine, &mut FetchedLists::default())
    }

    fn forecast(
        &self,
        machine: &mut dyn Machine,
        lists: &mut FetchedLists,
    ) -> Result<ForecastAnswer, StepError> {
        // A file of a role that cannot be read fails its step.
        let wanted = self.packages().unwrap_or_default();
        if wanted.is_empty() {
            return Ok(ForecastAnswer::NoPackages);
        }
        forecast(machine, &wanted, lists)
    }

    /// Returns the index of the first step that installs packages, if later steps install more.
    /// Otherwise apt itself names all packages that it does not find, in that step. Returns `None`
    /// if the package lists would stay in the image, which might not have them otherwise.
    fn forecast_before(&self) -> Option<usize> {
        let removes = |name: &str| {
            let mut steps = self.steps.iter();
            steps.any(|(_, step)| matches!(step, PlannedStep::Cleanup(c) if c.name == name))
        };
        if !removes("apt-lists") || !removes("apt-cache") {
            return None;
        }
        let installs = |(_, step): &&(StepInfo, PlannedStep)| {
            matches!(
                step,
                PlannedStep::Action { action: Action::Packages(_) | Action::Ansible(_), .. }
            )
        };
        let mut steps = self.steps.iter().filter(installs);
        let (first, step) = steps.next()?;
        let is_role = matches!(step, PlannedStep::Action { action: Action::Ansible(_), .. });
        (is_role || steps.next().is_some()).then_some(first.index)
    }

    /// Returns the certain problems of Ansible roles that are known before they run: variables that
    /// are not defined, files, roles and handlers that do not exist, and mistakes.
    ///
    /// # Errors
    ///
    /// Fails if a file of a role cannot be read.
    pub fn role_problems(&self) -> Result<Vec<RoleProblem>, ConfigError> {
        let mut problems = Vec::new();
        let mut host_changed = false;
        for (_, step) in &self.steps {
            match step {
                PlannedStep::Action { action: Action::Ansible(role), variables } => {
                    let review = RoleReview::read(role.named_folder())?;
                    problems.extend(review.problems_after(variables, &mut host_changed));
                }
                PlannedStep::Action { action: Action::Script(script), .. } => {
                    host_changed |= script.is_outside();
                }
                _ => {}
            }
        }
        Ok(problems)
    }

    /// Runs the steps.
    ///
    /// # Errors
    ///
    /// Returns the error of the first step that fails. Changes made up to then stay in the root.
    pub fn run(
        &self,
        machine: &mut dyn Machine,
        options: &Options,
        observer: &mut dyn Observer,
    ) -> Result<(), Box<StepFailed>> {
        let mut apt = FetchedLists::default();
        // Arguments such as `--tags` select tasks of roles.
        let forecast_before = self.forecast_before().filter(|_| options.ansible.is_empty());
        for (info, step) in &self.steps {
            if forecast_before == Some(info.index)
                && let Ok(ForecastAnswer::Known(forecast)) = self.forecast(machine, &mut apt)
            {
                observer.forecast(&forecast);
            }
            if let PlannedStep::Skipped { reason } = step {
                observer.skipped(info, reason);
                continue;
            }
            observer.started(info);
            let start = Instant::now();
            let mut log = Recorder { observer, step: info, tail: Tail::default() };
            let result = match step {
                PlannedStep::Action { action, variables } => action.run(&mut StepContext {
                    machine,
                    variables,
                    options,
                    log: &mut log,
                    apt: &mut apt,
                }),
                PlannedStep::Skipped { .. } => Ok(()),
                PlannedStep::Cleanup(cleanup) => {
                    cleanup.run(machine, options).map_err(StepError::from)
                }
            };
            let last_lines = log.tail.lines();
            match result {
                Ok(()) => observer.finished(info, start.elapsed()),
                Err(error) => {
                    observer.failed(info, start.elapsed());
                    return Err(Box::new(StepFailed {
                        step: info.clone(),
                        error,
                        last_lines,
                        log_file: options.log_file.clone(),
                    }));
                }
            }
        }
        Ok(())
    }
}

/// Forwards output to the observer and keeps its last lines.
struct Recorder<'a> {
    observer: &'a mut dyn Observer,
    step: &'a StepInfo,
    tail: Tail,
}

impl Log for Recorder<'_> {
    fn output(&mut self, bytes: &[u8]) {
        self.tail.push(bytes);
        self.observer.output(bytes);
    }

    fn task_started(&mut self, name: &str) {
        self.observer.task_started(self.step, name);
    }

    fn task_ended(&mut self, name: &str, took: Duration) {
        self.observer.task_ended(self.step, name, took);
    }
}
