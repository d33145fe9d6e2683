//! SurveyFaults of a root, of which only those that the checked layers cause become findings.
//!
//! A survey looks for faults in one root, without knowing its layers. It runs on the merged root
//! and, if that has faults, on the lower layers: a fault that they have too existed before. This
//! finds both faults of an overlay's files and those of base files that an overlay breaks.

use std::collections::HashSet;

use super::context::CheckContext;
use super::{Finding, Findings, Lint, PassError, Severity};
use crate::image::view::{StackView, ViewNode};

/// A fault of a root.
pub(super) struct Fault {
    lint: &'static Lint,
    node: ViewNode,
    line: Option<usize>,
    message: String,
    severity: Severity,
    fix: Option<String>,
    /// Paths that are missing or wrong, if the file itself is not at fault.
    causes: Vec<Vec<u8>>,
    /// Whether it is a note in a file that is unchanged from its package.
    accepted_in_packages: bool,
}

impl Fault {
    pub(super) fn new(lint: &'static Lint, node: &ViewNode, message: impl Into<String>) -> Fault {
        Fault {
            lint,
            node: node.clone(),
            line: None,
            message: message.into(),
            severity: lint.severity,
            fix: None,
            causes: Vec::new(),
            accepted_in_packages: false,
        }
    }

    /// Makes the fault a note in a file that is unchanged from its package, if the overlay brings
    /// the file: the package's maintainers know about it.
    pub(super) fn accepted_in_packages(self) -> Fault {
        Fault { accepted_in_packages: true, ..self }
    }

    /// Sets the line of the file, counted from 1.
    pub(super) fn line(self, line: usize) -> Fault {
        Fault { line: Some(line), ..self }
    }

    pub(super) fn severity(self, severity: Severity) -> Fault {
        Fault { severity, ..self }
    }

    pub(super) fn fix(self, fix: impl Into<String>) -> Fault {
        Fault { fix: Some(fix.into()), ..self }
    }

    /// Adds a path that is missing or wrong.
    pub(super) fn cause(mut self, path: &[u8]) -> Fault {
        self.causes.push(path.strip_prefix(b"/").unwrap_or(path).to_vec());
        self
    }

    /// Returns the properties that identify the fault in another root. The line is not one of
    /// them, because it changes with the lines above.
    fn key(&self) -> (&'static str, Vec<u8>, String) {
        (self.lint.name, self.node.path.clone(), self.message.clone())
    }
}

/// The faults that a survey finds, within a limit: the content of an image is not trusted.
#[derive(Default)]
pub(super) struct SurveyFaults {
    found: Vec<Fault>,
    /// Whether more faults were found.
    is_truncated: bool,
}

/// Maximum number of faults that a survey reports.
const MAX_FAULTS: usize = 10_000;

impl SurveyFaults {
    pub(super) fn push(&mut self, fault: Fault) {
        match self.found.len() < MAX_FAULTS {
            true => self.found.push(fault),
            false => self.is_truncated = true,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.found.len()
    }

    fn of(view: &StackView, survey: Survey) -> Result<Vec<Fault>, PassError> {
        let mut faults = SurveyFaults::default();
        survey(view, &mut faults)?;
        match faults.is_truncated {
            false => Ok(faults.found),
            true => Err(PassError::CannotRun(format!(
                "the files of the root have more than {MAX_FAULTS} faults"
            ))),
        }
    }
}

/// A function that finds faults of a root.
pub(super) type Survey = fn(&StackView, &mut SurveyFaults) -> Result<(), PassError>;

/// Reports the faults of the merged root that the lower layers do not have.
pub(super) fn report(
    context: &CheckContext<'_>,
    findings: &mut Findings<'_>,
    survey: Survey,
) -> Result<(), PassError> {
    let roots = context.roots()?;
    let faults = SurveyFaults::of(&roots.view, survey)?;
    let known = match &roots.lower {
        Some(lower) if !faults.is_empty() => SurveyFaults::of(lower, survey)?,
        _ => Vec::new(),
    };
    let known: HashSet<_> = known.iter().map(Fault::key).collect();
    for fault in faults {
        if known.contains(&fault.key()) {
            continue;
        }
        let node = &fault.node;
        let is_own = node.layer() >= context.first_checked();
        let layers = match is_own {
            true => vec![context.layer_name(node).to_owned()],
            false => context.responsible_layers(&fault.causes)?,
        };
        let severity = match is_own && fault.accepted_in_packages {
            true if context.is_packaged(node)? => Severity::Note,
            _ => fault.severity,
        };
        let finding = Finding::new(fault.lint, "", Some(&node.path), fault.message)
            .severity(severity)
            .attributed_to(layers);
        let fix = fault.fix.unwrap_or_else(|| fault.lint.fix.to_owned());
        findings.push(Finding { line: fault.line, ..finding.fix(fix) });
    }
    Ok(())
}
