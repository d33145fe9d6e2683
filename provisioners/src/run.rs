//! Running provisioners: a plan of steps, run one after the other on a machine.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cleanup::{self, Cleanup};
use crate::config::ConfigError;
use crate::machine::{Log, Machine};
use crate::provisioner::Provisioner;
use crate::steps::packages::Lists;
use crate::steps::{Action, Context, StepError};
use crate::tail::Tail;
use crate::variables::{Declared, Variables};

/// What a run is told from outside.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// `SOURCE_DATE_EPOCH`: the time, in seconds since 1970, that stands for that of the build.
    pub source_date_epoch: Option<i64>,
    /// Where the caller keeps the whole log, for the message of a failing step.
    pub log_file: Option<PathBuf>,
    /// The folder in which artifacts are put, for Ansible roles that put some there themselves.
    pub artifacts: Option<PathBuf>,
    /// What `ansible-playbook` is told besides: tags, `--check`.
    pub ansible: Vec<OsString>,
}

/// Who is told what a run does.
pub trait Observer {
    /// A step begins.
    fn started(&mut self, step: &StepInfo) {
        let _ = step;
    }

    /// A step ended well.
    fn finished(&mut self, step: &StepInfo, took: Duration) {
        let _ = (step, took);
    }

    /// A step is not run; `why` is for a reader: `when: serial_console`.
    fn skipped(&mut self, step: &StepInfo, why: &str) {
        let _ = (step, why);
    }

    /// A step ended badly; the error follows from [`Plan::run`].
    fn failed(&mut self, step: &StepInfo, took: Duration) {
        let _ = (step, took);
    }

    /// Output of a step, every byte of it.
    fn output(&mut self, bytes: &[u8]) {
        let _ = bytes;
    }
}

/// Observes nothing.
impl Observer for () {}

/// A step of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepInfo {
    /// The provisioner it belongs to, where there are several; the clean-up belongs to none.
    pub provisioner: Option<String>,
    /// What it is called: `packages (9)`, `script scripts/10-configure.sh`, `cleanup logs`.
    pub name: String,
    /// Its place in the plan, from 0.
    pub index: usize,
    /// How many steps the plan has.
    pub total: usize,
    /// Whether it is a step of the clean-up.
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
    /// Why.
    #[source]
    pub error: StepError,
    /// The last lines of its output.
    pub last_lines: Vec<String>,
    /// Where the whole output is.
    pub log_file: Option<PathBuf>,
}

fn describe(
    step: &StepInfo,
    error: &StepError,
    last_lines: &[String],
    log_file: Option<&PathBuf>,
) -> String {
    let mut text = format!("the step \"{step}\" failed: {error}");
    for line in last_lines {
        text.push_str("\n  | ");
        text.push_str(line);
    }
    if let Some(path) = log_file {
        text.push_str(&format!("\nthe whole log is in {}", path.display()));
    }
    text
}

/// A plan can't be made or run.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// A configuration file has a mistake.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Something a step needs is wrong, found before anything was run.
    #[error("the step \"{step}\" can't work")]
    Check {
        /// The step.
        step: String,
        /// Why.
        source: StepError,
    },
}

/// Provisioners with the variables of an image, and the clean-up after them.
#[derive(Debug)]
pub struct Plan {
    steps: Vec<(StepInfo, Step)>,
}

#[derive(Debug)]
enum Step {
    Action { action: Action, variables: Arc<Variables> },
    Skipped { why: String },
    Cleanup(&'static Cleanup),
}

impl Plan {
    /// The plan for provisioners as they are, with the defaults of their variables.
    ///
    /// # Errors
    /// When a template can't be rendered or a file can't be read.
    pub fn new(provisioners: &[Provisioner]) -> Result<Self, PlanError> {
        Self::with(provisioners, &Declared::default(), &cleanup::Settings::default())
    }

    /// The plan for an image: its variables have to be those of a provisioner, and its clean-up
    /// settings win over theirs.
    pub(crate) fn with(
        provisioners: &[Provisioner],
        variables: &Declared,
        cleanup: &cleanup::Settings,
    ) -> Result<Self, PlanError> {
        let defaults: Vec<&Variables> = provisioners.iter().map(Provisioner::variables).collect();
        variables.check_against(&defaults).map_err(ConfigError::from)?;
        let mut steps = Vec::new();
        let mut settings = cleanup::Settings::default();
        let several = provisioners.len() > 1;
        for provisioner in provisioners {
            let variables = Arc::new(variables.over(provisioner.variables()));
            let written = provisioner.written().iter();
            let rounds = written.map(|step| step.rounds(&variables)).collect::<Result<Vec<_>, _>>();
            for round in rounds.map_err(ConfigError::from)?.into_iter().flatten() {
                let info = StepInfo {
                    provisioner: several.then(|| provisioner.name().to_owned()),
                    name: round.name,
                    index: steps.len(),
                    total: 0,
                    cleanup: false,
                };
                let step = match round.action {
                    Ok(action) => {
                        action.check(&round.variables).map_err(|source| PlanError::Check {
                            step: info.to_string(),
                            source,
                        })?;
                        Step::Action { action, variables: round.variables }
                    }
                    Err(why) => Step::Skipped { why },
                };
                steps.push((info, step));
            }
            settings = settings.overridden_by(provisioner.cleanup());
        }
        for cleanup in settings.overridden_by(cleanup).enabled() {
            let name = format!("cleanup {}", cleanup.name);
            let index = steps.len();
            let info = StepInfo { provisioner: None, name, index, total: 0, cleanup: true };
            steps.push((info, Step::Cleanup(cleanup)));
        }
        let total = steps.len();
        steps.iter_mut().for_each(|(info, _)| info.total = total);
        Ok(Self { steps })
    }

    /// The steps in the order in which they run.
    pub fn steps(&self) -> impl ExactSizeIterator<Item = &StepInfo> {
        self.steps.iter().map(|(info, _)| info)
    }

    /// Runs the steps.
    ///
    /// # Errors
    /// At the first step that fails; the root is left as it is then.
    pub fn run(
        &self,
        machine: &mut dyn Machine,
        options: &Options,
        observer: &mut dyn Observer,
    ) -> Result<(), Box<StepFailed>> {
        let mut apt = Lists::default();
        for (info, step) in &self.steps {
            if let Step::Skipped { why } = step {
                observer.skipped(info, why);
                continue;
            }
            observer.started(info);
            let start = Instant::now();
            let mut log = Recorder { observer, tail: Tail::default() };
            let result = match step {
                Step::Action { action, variables } => action.run(&mut Context {
                    machine,
                    variables,
                    options,
                    log: &mut log,
                    apt: &mut apt,
                }),
                Step::Skipped { .. } => Ok(()),
                Step::Cleanup(cleanup) => cleanup.run(machine, options).map_err(StepError::from),
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

/// Passes output on and remembers its end.
struct Recorder<'a> {
    observer: &'a mut dyn Observer,
    tail: Tail,
}

impl Log for Recorder<'_> {
    fn output(&mut self, bytes: &[u8]) {
        self.tail.push(bytes);
        self.observer.output(bytes);
    }
}
