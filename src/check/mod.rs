//! Checks overlays with lints: whether they unpack, fit their base and work on it, what is a
//! security risk, and what could be left out.
//!
//! A *lint* has a name (`works/elf-library`), a severity and texts; a *pass* evaluates one or more
//! lints. The topmost layers of a stack, the overlays, are *checked*; the layers below them are
//! taken as they are.
//!
//! Modules by lint group: `archive`, `base` (`fit/…`), `runtime` (`works/…`), `config`, `security`
//! (`safe/…`), `bloat` (`lean/…`), `validators` (`run/…`).
//!
//! Invariants:
//! - A finding is about something that a checked layer adds or breaks. Existing problems of the
//!   lower layers are reported only when those layers are checked themselves.
//! - Each finding has a lint, a path (or the whole layer), a layer and a fix. Their order does not
//!   depend on the number of threads.
//! - A lint that could not run is reported with the reason, so that it does not pass for one that
//!   found nothing.
//! - Damage in a checked image is a finding, whichever pass detects it; damage in a lower image is
//!   an error.

mod archive;
mod base;
mod bloat;
mod config;
mod context;
mod faults;
mod kernel;
mod known_accounts;
mod runtime;
pub(crate) mod sarif;
mod security;
mod select;
pub(crate) mod validators;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use provisioners::ImageTest;
use serde::Serialize;

use crate::image::open::OpenError;
use crate::image::view::LookError;
use crate::text::escape::{escape, plain};

use context::CheckContext;
pub use select::{LintSelection, OverlayBudget, Suppression, UnknownLint};
use validators::{Validation, ValidatorOutput, ValidatorPlan};

/// Severity of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// For information.
    Note,
    /// Probably unintended.
    Warning,
    /// Something will be missing or wrong on a machine that boots the image.
    Error,
}

impl Severity {
    /// All severities, the worst first.
    pub const ALL: [Severity; 3] = [Severity::Error, Severity::Warning, Severity::Note];

    /// The severity as a lowercase word.
    pub fn word(self) -> &'static str {
        match self {
            Severity::Note => "note",
            Severity::Warning => "warning",
            Severity::Error => "error",
        }
    }
}

/// A kind of problem that is checked for.
#[derive(Debug)]
pub struct Lint {
    /// `group/name`.
    pub name: &'static str,
    /// Maximum severity of its findings.
    pub severity: Severity,
    /// One-line description of the problem.
    pub summary: &'static str,
    /// Consequences on a machine that boots the image.
    pub why: &'static str,
    /// How to fix it.
    pub fix: &'static str,
}

impl Lint {
    /// Returns its group: the part of the name before the slash.
    pub fn group(&self) -> &'static str {
        self.name.split('/').next().unwrap_or_default()
    }
}

/// A function that evaluates one or more lints.
struct Pass {
    lints: &'static [&'static Lint],
    run: fn(&CheckContext<'_>, &mut Findings) -> Result<(), PassError>,
}

/// The groups in output order, each with the question that it answers.
pub(crate) const GROUPS: [(&str, &str); 7] = [
    ("archive", "does every unpacker read the archive as intended"),
    ("fit", "does the overlay fit the layers below it"),
    ("works", "do its programs, units, links and kernels work"),
    ("config", "do programs accept its configuration"),
    ("safe", "does it contain secrets or risky permissions"),
    ("lean", "what could be left out"),
    (validators::GROUP, "do its own programs accept its configuration (with --run)"),
];

fn passes() -> impl Iterator<Item = &'static Pass> {
    let groups = [
        archive::PASSES,
        base::PASSES,
        runtime::PASSES,
        config::PASSES,
        security::PASSES,
        bloat::PASSES,
        validators::PASSES,
    ];
    groups.into_iter().flatten()
}

/// Returns all lints, group by group.
pub fn lints() -> impl Iterator<Item = &'static Lint> {
    passes().flat_map(|pass| pass.lints).copied()
}

/// Returns the lint with this name.
pub fn lint(name: &str) -> Option<&'static Lint> {
    lints().find(|lint| lint.name == name)
}

/// A problem that was found.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The lint that found the problem.
    pub lint: &'static Lint,
    /// The severity: that of the lint, or a lower one.
    pub severity: Severity,
    /// Path from the root, without a leading slash; `None` for the whole layer.
    pub path: Option<Vec<u8>>,
    /// The line of the file at `path`, counted from 1; `None` for the whole file.
    pub line: Option<usize>,
    /// The image that causes the problem, as the user named it.
    pub layer: String,
    /// Further images that may have caused the problem, if the cause is ambiguous.
    pub others: Vec<String>,
    /// Description of the problem.
    pub message: String,
    /// How to fix the problem.
    pub fix: String,
    /// Bytes that the fix would save.
    pub saves: Option<u64>,
}

impl Serialize for Finding {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct FindingJson<'a> {
            lint: &'a str,
            severity: Severity,
            #[serde(skip_serializing_if = "Option::is_none")]
            path: Option<String>,
            #[serde(skip_serializing_if = "Option::is_none")]
            line: Option<usize>,
            layer: &'a str,
            #[serde(skip_serializing_if = "<[String]>::is_empty")]
            others: &'a [String],
            message: &'a str,
            fix: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            saves: Option<u64>,
        }
        FindingJson {
            lint: self.lint.name,
            severity: self.severity,
            path: self.shown_path(),
            line: self.line,
            layer: &self.layer,
            others: &self.others,
            message: &self.message,
            fix: &self.fix,
            saves: self.saves,
        }
        .serialize(serializer)
    }
}

impl Finding {
    /// Returns the path for display, such as `/etc/passwd`.
    pub fn shown_path(&self) -> Option<String> {
        self.path.as_ref().map(|path| format!("/{}", plain(&escape(path))))
    }

    /// Returns the path and the line for display, such as `/etc/fstab:3`.
    pub(crate) fn shown_place(&self) -> Option<String> {
        let path = self.shown_path()?;
        Some(self.line.map_or(path.clone(), |line| format!("{path}:{line}")))
    }
}

/// The findings of a pass.
struct Findings<'a> {
    found: Vec<Finding>,
    /// Lints of the pass that could not run, with the reasons.
    not_run: Vec<(&'static str, String)>,
    selection: &'a LintSelection,
}

impl Findings<'_> {
    /// Returns whether the lint is enabled; passes use it to skip expensive work.
    fn wants(&self, lint: &'static Lint) -> bool {
        self.selection.wants(lint)
    }

    fn push(&mut self, mut finding: Finding) {
        if self.wants(finding.lint) {
            // The texts contain names and lines of an image: control characters must not reach
            // a terminal.
            for text in [&mut finding.message, &mut finding.fix] {
                *text = plain(text).into_owned();
            }
            self.found.push(finding);
        }
    }

    /// Reports one of the pass's lints as not run.
    fn could_not_run(&mut self, lint: &'static str, reason: String) {
        self.not_run.push((lint, reason));
    }

    /// Adds a finding at a path of a layer.
    fn add(&mut self, lint: &'static Lint, layer: &str, path: &[u8], message: impl Into<String>) {
        self.push(Finding::new(lint, layer, Some(path), message));
    }
}

impl Finding {
    fn new(
        lint: &'static Lint,
        layer: &str,
        path: Option<&[u8]>,
        message: impl Into<String>,
    ) -> Finding {
        Finding {
            lint,
            severity: lint.severity,
            path: path.map(<[u8]>::to_vec),
            line: None,
            layer: layer.to_owned(),
            others: Vec::new(),
            message: message.into(),
            fix: lint.fix.to_owned(),
            saves: None,
        }
    }

    fn severity(self, severity: Severity) -> Finding {
        Finding { severity, ..self }
    }

    fn fix(self, fix: impl Into<String>) -> Finding {
        Finding { fix: fix.into(), ..self }
    }

    /// Sets the layers that cause it; no change if `layers` is empty.
    fn attributed_to(self, layers: Vec<String>) -> Finding {
        let mut layers = layers.into_iter();
        match layers.next() {
            Some(layer) => Finding { layer, others: layers.collect(), ..self },
            None => self,
        }
    }

    fn saves(self, bytes: u64) -> Finding {
        Finding { saves: Some(bytes), ..self }
    }
}

/// Reason why a pass did not complete.
#[derive(Debug)]
enum PassError {
    /// Required information is missing.
    CannotRun(String),
    /// A layer cannot be read.
    Layer(LookError),
}

impl From<LookError> for PassError {
    fn from(error: LookError) -> Self {
        PassError::Layer(error)
    }
}

/// A stack of images to check.
#[derive(Clone, Debug, Default)]
pub struct CheckRequest {
    /// Name in reports.
    pub name: String,
    /// The images, the lowest first.
    pub images: Vec<PathBuf>,
    /// Number of images at the bottom that are not checked.
    pub lower_layers: usize,
    /// The user requested a base other than the one that the overlays were built on.
    pub other_base: bool,
    /// The kernel that boots with the images.
    pub kernel: Option<PathBuf>,
    /// The initrd that boots with the images; set for a base of a project.
    pub initrd: Option<PathBuf>,
    /// The enabled lints and the suppressions.
    pub selection: LintSelection,
    /// Size limits of the overlays.
    pub budget: OverlayBudget,
    /// Tests of the provisioners and the project that run in the merged root.
    pub tests: Vec<ImageTest>,
}

/// A finding that matches a suppression.
#[derive(Clone, Debug, Serialize)]
pub struct Suppressed {
    /// The finding.
    #[serde(flatten)]
    pub finding: Finding,
    /// The reason that the suppression states.
    pub reason: String,
}

/// Lints that could not run, with a common reason.
#[derive(Clone, Debug, Serialize)]
pub struct NotRun {
    /// Names of the lints.
    pub lints: Vec<&'static str>,
    /// Reason for display.
    pub reason: String,
}

/// Result of checking one stack of images.
#[derive(Clone, Debug, Serialize)]
pub struct CheckReport {
    /// Name from the request.
    pub name: String,
    /// The images, the lowest first.
    pub layers: Vec<String>,
    /// Number of images at the top that were checked.
    pub checked: usize,
    /// The findings, the worst first.
    pub findings: Vec<Finding>,
    /// The suppressed findings.
    pub suppressed: Vec<Suppressed>,
    /// Lints that could not run.
    pub not_run: Vec<NotRun>,
    /// Lint or group names of the suppressions that matched nothing.
    pub unused_suppressions: Vec<String>,
    /// Hints that the request is probably a mistake.
    pub hints: Vec<String>,
}

impl CheckReport {
    /// Returns the number of findings with this severity.
    pub fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }

    /// Returns the findings grouped by severity and lint, the worst first.
    pub fn by_lint(&self) -> Vec<(Severity, &'static Lint, Vec<&Finding>)> {
        let mut by_lint: BTreeMap<_, Vec<&Finding>> = BTreeMap::new();
        for finding in &self.findings {
            let key = (std::cmp::Reverse(finding.severity), lint_index(finding.lint));
            by_lint.entry(key).or_default().push(finding);
        }
        let groups = by_lint.into_iter().filter_map(|((severity, _), findings)| {
            Some((severity.0, findings.first()?.lint, findings))
        });
        groups.collect()
    }
}

/// Returns the index of a lint in [`lints`].
fn lint_index(lint: &Lint) -> usize {
    lints().position(|other| other.name == lint.name).unwrap_or(usize::MAX)
}

/// Error that prevents any check.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// A layer cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A layer cannot be read.
    #[error(transparent)]
    Look(#[from] LookError),
    /// The kernel cannot be read.
    #[error("cannot read the kernel {}", path.display())]
    Kernel {
        /// Path of the kernel image.
        path: PathBuf,
        /// Cause of the failure.
        source: std::io::Error,
    },
}

/// Runs the enabled lints on a stack of images.
///
/// # Errors
/// Fails if an image cannot be opened, a lower image is damaged, or the kernel cannot be read.
/// Damage in a checked image is a finding, unless `archive/unreadable` is disabled.
pub fn check(request: &CheckRequest) -> Result<CheckReport, CheckError> {
    Check::open(request)?.report()
}

/// A stack of images that is being checked.
pub(crate) struct Check<'a> {
    context: CheckContext<'a>,
}

impl<'a> Check<'a> {
    /// Opens the images.
    ///
    /// # Errors
    /// Fails if an image or the kernel cannot be opened.
    pub(crate) fn open(request: &'a CheckRequest) -> Result<Self, CheckError> {
        Ok(Check { context: CheckContext::open(request)? })
    }

    /// Returns the commands with which the image's own programs check it, or the reason why there
    /// are none. `limit` replaces their time limits.
    pub(crate) fn validators(&self, limit: Option<Duration>) -> Result<ValidatorPlan, String> {
        validators::plan(&self.context, &self.context.request.selection, limit).map_err(reason_of)
    }

    /// Returns the commands for the lower layers, according to the outputs of `plan`.
    pub(crate) fn lower_validators(
        &self,
        plan: &ValidatorPlan,
        outputs: &[ValidatorOutput],
    ) -> Result<ValidatorPlan, String> {
        validators::lower_plan(&self.context, plan, outputs).map_err(reason_of)
    }

    /// Sets the results of the image's own programs.
    pub(crate) fn set_validation(&mut self, validation: Validation) {
        self.context.validation = Some(validation);
    }

    /// Runs the enabled lints. Lints of the group `run` need results of the image's own programs.
    ///
    /// # Errors
    /// Fails if a lower image is damaged.
    pub(crate) fn report(self) -> Result<CheckReport, CheckError> {
        report(self.context)
    }
}

fn reason_of(error: PassError) -> String {
    match error {
        PassError::CannotRun(reason) => reason,
        PassError::Layer(error) => format!("a layer cannot be read: {error}"),
    }
}

fn report(context: CheckContext<'_>) -> Result<CheckReport, CheckError> {
    let request = context.request;
    let selection = &request.selection;
    let is_enabled = |pass: &&Pass| {
        let is_enabled = |lint: &&Lint| {
            selection.wants(lint)
                && (lint.group() != validators::GROUP || context.validation.is_some())
        };
        pass.lints.iter().copied().any(|lint| is_enabled(&lint))
    };
    let enabled: Vec<&Pass> = passes().filter(is_enabled).collect();
    let mut report = CheckReport {
        name: request.name.clone(),
        layers: context.names().to_vec(),
        checked: context.names().len() - context.first_checked(),
        findings: Vec::new(),
        suppressed: Vec::new(),
        not_run: Vec::new(),
        unused_suppressions: Vec::new(),
        hints: context.hints()?,
    };
    let mut found = Vec::new();
    for (pass, outcome) in enabled.iter().zip(run(&enabled, &context, selection)) {
        let PassOutcome { findings, not_run, result } = outcome;
        found.extend(findings);
        for (lint, reason) in not_run {
            report.add_not_run(&[lint], &reason);
        }
        match result {
            Ok(()) => {}
            Err(PassError::Layer(error)) => {
                let Some(damage) = context.damage(&error) else { return Err(error.into()) };
                // Several passes may detect the same damage, at different paths.
                let is_same = |other: &Finding| {
                    other.lint.name == damage.lint.name
                        && (&other.layer, &other.message) == (&damage.layer, &damage.message)
                };
                if !found.iter().any(is_same) {
                    found.push(damage);
                }
                let reason = format!("a layer cannot be read: {error}");
                report.could_not_run(pass, selection, reason);
            }
            Err(PassError::CannotRun(reason)) => report.could_not_run(pass, selection, reason),
        }
    }
    report.add_findings(found, selection);
    Ok(report)
}

impl CheckReport {
    fn could_not_run(&mut self, pass: &Pass, selection: &LintSelection, reason: String) {
        let lints = pass.lints.iter().filter(|lint| selection.wants(lint)).map(|lint| lint.name);
        self.add_not_run(&lints.collect::<Vec<_>>(), &reason);
    }

    fn add_not_run(&mut self, lints: &[&'static str], reason: &str) {
        let reason = plain(reason).into_owned();
        match self.not_run.iter_mut().find(|other| other.reason == reason) {
            Some(other) => other.lints.extend(lints),
            None => self.not_run.push(NotRun { lints: lints.to_vec(), reason }),
        }
    }

    /// Sorts and deduplicates the findings, and separates the suppressed ones.
    fn add_findings(&mut self, mut found: Vec<Finding>, selection: &LintSelection) {
        found.sort_by_cached_key(|finding| {
            let severity = std::cmp::Reverse(finding.severity);
            let index = lint_index(finding.lint);
            let Finding { path, line, layer, message, .. } = finding.clone();
            (severity, index, path, line, layer, message)
        });
        found.dedup_by(|a, b| {
            lint_index(a.lint) == lint_index(b.lint)
                && (&a.path, a.line, &a.layer, &a.message)
                    == (&b.path, b.line, &b.layer, &b.message)
        });
        let mut unused = vec![true; selection.suppressions().len()];
        for finding in found {
            match selection.suppression(&finding) {
                Some((index, suppression)) => {
                    unused[index] = false;
                    self.suppressed
                        .push(Suppressed { finding, reason: suppression.reason.clone() });
                }
                None => self.findings.push(finding),
            }
        }
        let suppressions = selection.suppressions().iter().zip(unused);
        let not_run: Vec<&str> =
            self.not_run.iter().flat_map(|n| n.lints.iter().copied()).collect();
        let could_match = |suppression| selection.could_match(suppression, &not_run);
        let unused =
            suppressions.filter(|(suppression, unused)| *unused && could_match(suppression));
        self.unused_suppressions =
            unused.map(|(suppression, _)| suppression.lint.clone()).collect();
    }
}

/// The findings of a pass, its lints that could not run, and whether it completed.
struct PassOutcome {
    findings: Vec<Finding>,
    not_run: Vec<(&'static str, String)>,
    result: Result<(), PassError>,
}

/// Runs the passes on one thread per processor, and returns their outcomes in the order of
/// `passes`.
fn run(
    passes: &[&Pass],
    context: &CheckContext<'_>,
    selection: &LintSelection,
) -> Vec<PassOutcome> {
    let next = AtomicUsize::new(0);
    let outcomes: Mutex<BTreeMap<usize, PassOutcome>> = Mutex::default();
    let work = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(pass) = passes.get(index) else { return };
            let mut findings = Findings { found: Vec::new(), not_run: Vec::new(), selection };
            let result = (pass.run)(context, &mut findings);
            let Findings { found: findings, not_run, .. } = findings;
            let outcome = PassOutcome { findings, not_run, result };
            outcomes.lock().unwrap_or_else(PoisonError::into_inner).insert(index, outcome);
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(passes.len());
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(work);
        }
        work();
    });
    outcomes.into_inner().unwrap_or_else(PoisonError::into_inner).into_values().collect()
}

/// Returns the file names of the images that an overlay was built on, according to its manifest;
/// empty without a manifest.
pub(crate) fn recorded_layers(overlay: &std::path::Path) -> Vec<String> {
    let manifest = std::fs::read(provisioners::image::manifest_path(overlay)).unwrap_or_default();
    let layers = base::manifest_layers(&manifest).unwrap_or_default();
    layers.into_iter().map(|(name, _)| name).collect()
}
