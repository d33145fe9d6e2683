//! Judging overlays over a base: will they unpack, do they fit, will what is in them work, is
//! something in them that should not be, and what could be left out.
//!
//! A *lint* is a name (`works/elf-library`), a severity and what there is to say about it; a *pass*
//! looks for one or several of them in one go. What is *judged* are the topmost layers of a stack,
//! the overlays; what lies beneath is taken as it is.
//!
//! Invariants:
//! - A finding is about what the judged layers bring or break. What the layers beneath have always
//!   had is found only when they are judged themselves.
//! - Each finding has a lint, a path (or the whole layer), the layer, and how to mend it. Findings
//!   are in one order, whatever the number of threads.
//! - A lint that could not run is told, with the reason: its silence would mean nothing.
//! - What is wrong in an image that is judged is a finding, wherever it is met; what is wrong in one
//!   beneath it is an error.

mod archive;
mod context;
mod base;
mod bloat;
mod security;
pub mod sarif;
mod select;
mod runtime;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use crate::layers::OpenError;
use crate::look::LookError;
use crate::seal::path::{escape, plain};

use context::CheckContext;
pub use select::{Budget, Selection, Suppression, UnknownLint};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Good to know.
    Note,
    /// Probably not what was meant.
    Warning,
    /// A machine will lack or do something that it should not.
    Error,
}

impl Severity {
    /// All of them, the worst first.
    pub const ALL: [Severity; 3] = [Severity::Error, Severity::Warning, Severity::Note];

    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Severity::Note => "note",
            Severity::Warning => "warning",
            Severity::Error => "error",
        }
    }
}

/// Something that is looked for.
#[derive(Debug)]
pub struct Lint {
    /// `group/name`.
    pub name: &'static str,
    /// How bad it is, at the worst.
    pub severity: Severity,
    /// What is found, in a line.
    pub summary: &'static str,
    /// What it means on a machine that boots.
    pub why: &'static str,
    /// How to mend it.
    pub fix: &'static str,
}

impl Lint {
    /// The group that it belongs to: what stands before the slash.
    pub fn group(&self) -> &'static str {
        self.name.split('/').next().unwrap_or_default()
    }
}

/// Looks for one or several lints.
struct Pass {
    lints: &'static [&'static Lint],
    run: fn(&CheckContext<'_>, &mut Findings) -> Result<(), PassError>,
}

/// The groups, in the order in which they are told, and what each asks.
pub const GROUPS: [(&str, &str); 5] = [
    ("archive", "will the archive be unpacked as it was meant"),
    ("fit", "does it fit what it lies over"),
    ("works", "will what it brings work there"),
    ("safe", "is there something in it that should not be on every machine"),
    ("lean", "what could be left out"),
];

fn passes() -> impl Iterator<Item = &'static Pass> {
    [archive::PASSES, base::PASSES, runtime::PASSES, security::PASSES, bloat::PASSES].into_iter().flatten()
}

/// All lints, group by group.
pub fn lints() -> impl Iterator<Item = &'static Lint> {
    passes().flat_map(|pass| pass.lints).copied()
}

/// The lint of this name.
pub fn lint(name: &str) -> Option<&'static Lint> {
    lints().find(|lint| lint.name == name)
}

/// Something that was found.
#[derive(Clone, Debug)]
pub struct Finding {
    /// What it is.
    pub lint: &'static Lint,
    /// How bad it is here: the lint's own severity, or less.
    pub severity: Severity,
    /// The path from the root, without a leading slash; none where it is about the whole layer.
    pub path: Option<Vec<u8>>,
    /// The image, as the user named it.
    pub layer: String,
    /// Where it cannot be told which one did it: the others that may have.
    pub others: Vec<String>,
    /// What is the matter.
    pub message: String,
    /// How to mend it.
    pub fix: String,
    /// Bytes that mending it would save.
    pub saves: Option<u64>,
}

impl Serialize for Finding {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Shown<'a> {
            lint: &'a str,
            severity: Severity,
            #[serde(skip_serializing_if = "Option::is_none")]
            path: Option<String>,
            layer: &'a str,
            #[serde(skip_serializing_if = "<[String]>::is_empty")]
            others: &'a [String],
            message: &'a str,
            fix: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            saves: Option<u64>,
        }
        Shown {
            lint: self.lint.name,
            severity: self.severity,
            path: self.shown_path(),
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
    /// The path as people write it, `/etc/passwd`.
    pub fn shown_path(&self) -> Option<String> {
        self.path.as_ref().map(|path| format!("/{}", plain(&escape(path))))
    }
}

/// Where a pass puts what it finds.
struct Findings<'a> {
    found: Vec<Finding>,
    selection: &'a Selection,
}

impl Findings<'_> {
    /// Whether anybody wants to know of it: what takes long is not done for nobody.
    fn wants(&self, lint: &'static Lint) -> bool {
        self.selection.wants(lint)
    }

    fn push(&mut self, mut finding: Finding) {
        if self.wants(finding.lint) {
            // Names and lines of an image stand in it: they are not to reach a terminal as they are.
            for text in [&mut finding.message, &mut finding.fix] {
                *text = plain(text).into_owned();
            }
            self.found.push(finding);
        }
    }

    /// A finding at a path of a layer.
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

    /// A finding of the layers that did it, which are one at least.
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

/// Why a pass did not come to its end.
#[derive(Debug)]
enum PassError {
    /// It has not what it takes.
    CannotRun(String),
    /// A layer is damaged.
    Failed(LookError),
}

impl From<LookError> for PassError {
    fn from(error: LookError) -> Self {
        PassError::Layer(error)
    }
}

/// What is to be judged.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// What it is called.
    pub name: String,
    /// The images, the lowest first.
    pub images: Vec<PathBuf>,
    /// How many of them, from below, are taken as they are.
    pub beneath: usize,
    /// The lowest image is not the one that the overlays were made on, and that is known.
    pub other_base: bool,
    /// The kernel that boots with it.
    pub kernel: Option<PathBuf>,
    /// The initrd that boots with it, of a base of a project.
    pub initrd: Option<PathBuf>,
    /// Which lints are asked for, and what is not to be told.
    pub selection: Selection,
    /// What it may take.
    pub budget: Budget,
}

/// A finding that nobody wants to be told of.
#[derive(Clone, Debug, Serialize)]
pub struct Suppressed {
    /// What was found.
    #[serde(flatten)]
    pub finding: Finding,
    /// Why it is silenced.
    pub reason: String,
}

/// Lints that could not run.
#[derive(Clone, Debug, Serialize)]
pub struct NotRun {
    /// Their names.
    pub lints: Vec<&'static str>,
    /// Why.
    pub reason: String,
}

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What was judged.
    pub name: String,
    /// Its images, the lowest first.
    pub layers: Vec<String>,
    /// How many of them were judged, from above.
    pub judged: usize,
    /// The findings, the worst first.
    pub findings: Vec<Finding>,
    /// Those that are silenced.
    pub suppressed: Vec<Suppressed>,
    /// Lints that could not run.
    pub not_run: Vec<NotRun>,
    /// Silences that silenced nothing, by their lints.
    pub unused_suppressions: Vec<String>,
    /// What was asked for and is probably not what was meant.
    pub hints: Vec<String>,
}

impl Report {
    /// How many findings of a severity there are.
    pub fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }

    /// The findings by lint, the worst lints first.
    pub fn by_lint(&self) -> Vec<(Severity, &'static Lint, Vec<&Finding>)> {
        let mut by_lint: BTreeMap<_, Vec<&Finding>> = BTreeMap::new();
        for finding in &self.findings {
            let key = (std::cmp::Reverse(finding.severity), place(finding.lint));
            by_lint.entry(key).or_default().push(finding);
        }
        let told = by_lint.into_iter().filter_map(|((severity, _), findings)| {
            Some((severity.0, findings.first()?.lint, findings))
        });
        told.collect()
    }
}

/// A lint's place in the list of all.
fn place(lint: &Lint) -> usize {
    lints().position(|other| other.name == lint.name).unwrap_or(usize::MAX)
}

/// Nothing could be judged.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// A layer cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A layer is damaged.
    #[error(transparent)]
    Look(#[from] LookError),
    /// The kernel cannot be read.
    #[error("cannot read the kernel {}: {source}", path.display())]
    Kernel {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Judges.
///
/// # Errors
/// What is beneath cannot be read, or nothing can.
pub fn check(request: &Request) -> Result<Report, CheckError> {
    let context = CheckContext::open(request)?;
    let selection = &request.selection;
    let wanted: Vec<&Pass> =
        passes().filter(|pass| pass.lints.iter().any(|lint| selection.wants(lint))).collect();
    let mut report = Report {
        name: request.name.clone(),
        layers: context.names().to_vec(),
        judged: context.names().len() - context.first_checked(),
        findings: Vec::new(),
        suppressed: Vec::new(),
        not_run: Vec::new(),
        unused_suppressions: Vec::new(),
        hints: context.hints()?,
    };
    let mut found = Vec::new();
    for (pass, (of_pass, result)) in wanted.iter().zip(run(&wanted, &context, selection)) {
        found.extend(of_pass);
        match result {
            Ok(()) => {}
            Err(PassError::Layer(error)) => {
                let Some(damage) = context.damage(&error) else { return Err(error.into()) };
                // Passes meet the same damage at the paths that they look at first.
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
    report.take(found, selection);
    Ok(report)
}

impl Report {
    fn could_not_run(&mut self, pass: &Pass, selection: &Selection, reason: String) {
        let lints = pass.lints.iter().filter(|lint| selection.wants(lint)).map(|lint| lint.name);
        let reason = plain(&reason).into_owned();
        match self.not_run.iter_mut().find(|other| other.reason == reason) {
            Some(other) => other.lints.extend(lints),
            None => self.not_run.push(NotRun { lints: lints.collect(), reason }),
        }
    }

    /// Sorts what was found, and keeps apart what is silenced.
    fn take(&mut self, mut found: Vec<Finding>, selection: &Selection) {
        found.sort_by_cached_key(|finding| {
            let severity = std::cmp::Reverse(finding.severity);
            let place = place(finding.lint);
            let Finding { path, layer, message, .. } = finding.clone();
            (severity, place, path, layer, message)
        });
        found.dedup_by(|a, b| {
            place(a.lint) == place(b.lint)
                && (&a.path, &a.layer, &a.message) == (&b.path, &b.layer, &b.message)
        });
        let mut idle = vec![true; selection.suppressions().len()];
        for finding in found {
            match selection.suppression(&finding) {
                Some((index, suppression)) => {
                    idle[index] = false;
                    self.suppressed.push(Suppressed { finding, reason: suppression.reason.clone() });
                }
                None => self.findings.push(finding),
            }
        }
        let suppressions = selection.suppressions().iter().zip(idle);
        let not_run: Vec<&str> =
            self.not_run.iter().flat_map(|n| n.lints.iter().copied()).collect();
        let looks_for = |suppression| selection.looks_for(suppression, &not_run);
        let idle = suppressions.filter(|(suppression, idle)| *idle && looks_for(suppression));
        self.unused_suppressions = idle.map(|(suppression, _)| suppression.lint.clone()).collect();
    }
}

/// What a pass found, and whether it came to its end.
type Ran = (Vec<Finding>, Result<(), PassError>);

/// Runs passes on as many threads as there are processors; what each found, in their order.
fn run(passes: &[&Pass], context: &CheckContext<'_>, selection: &Selection) -> Vec<Ran> {
    let next = AtomicUsize::new(0);
    let ran: Mutex<BTreeMap<usize, Ran>> = Mutex::default();
    let work = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(pass) = passes.get(index) else { return };
            let mut findings = Findings { found: Vec::new(), selection };
            let result = (pass.run)(context, &mut findings);
            ran.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(index, (findings.found, result));
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(passes.len());
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(work);
        }
        work();
    });
    ran.into_inner().unwrap_or_else(PoisonError::into_inner).into_values().collect()
}

/// The file names of the images that an overlay was made on, as its manifest says; none without one.
pub fn made_on(overlay: &std::path::Path) -> Vec<String> {
    let manifest = std::fs::read(provisioners::image::manifest_path(overlay)).unwrap_or_default();
    let layers = base::layers(&manifest).unwrap_or_default();
    layers.into_iter().map(|(name, _)| name).collect()
}
