//! Checks what overcoat needs on this machine, and suggests fixes.
//!
//! Invariants:
//! - Abilities are tested the way the commands use them. Files are read only to explain a failure.
//!   Tests leave nothing behind.
//! - Each [`DoctorFinding`] is present on every machine. A test that depends on a failed one is
//!   reported as untried.
//! - Only requirements of building as a user (or as root, if root runs it) can be a
//!   [`DoctorState::Fault`].

mod sandbox;
mod tools;

use serde::Serialize;

use crate::sandbox::{MissingRequirement, SandboxError};

/// The state of a requirement of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum DoctorState {
    /// It works.
    Works,
    /// It works, with a limitation.
    Note,
    /// It does not work; only some commands need it.
    Lacks,
    /// It does not work; building and running need it.
    Fault,
    /// It was not tested.
    Untried,
}

/// The result of testing one requirement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct DoctorFinding {
    /// The requirement's name.
    pub name: &'static str,
    /// The requirement's state.
    pub state: DoctorState,
    /// The observation.
    #[serde(rename = "says")]
    pub message: String,
    /// The commands that need the requirement.
    #[serde(rename = "for")]
    pub purpose: &'static str,
    /// The consequence if the requirement is missing.
    pub without: Option<&'static str>,
    /// A command that fixes the problem, to be run as root.
    pub command: Option<String>,
    /// Other advice.
    pub advice: Option<String>,
}

impl DoctorFinding {
    fn new(name: &'static str, purpose: &'static str, state: DoctorState, message: String) -> Self {
        DoctorFinding { name, state, message, purpose, without: None, command: None, advice: None }
    }

    /// Creates a finding: `Works` with the message of `tried`, or `otherwise` with its error.
    fn from_result(
        name: &'static str,
        purpose: &'static str,
        otherwise: DoctorState,
        tried: Result<String, SandboxError>,
    ) -> Self {
        match tried {
            Ok(message) => DoctorFinding::new(name, purpose, DoctorState::Works, message),
            Err(SandboxError::MissingRequirement(lack)) => {
                DoctorFinding::new(name, purpose, otherwise, String::new()).missing(lack)
            }
            Err(error) => DoctorFinding::new(name, purpose, otherwise, error.full_text()),
        }
    }

    fn missing(self, lack: MissingRequirement) -> Self {
        let advice = lack.in_container.map(|how| format!("in a container: start it with {how}"));
        DoctorFinding { message: lack.problem, command: Some(lack.remedy), advice, ..self }
    }

    fn fixed_by(self, command: impl Into<String>) -> Self {
        DoctorFinding { command: Some(command.into()), ..self }
    }

    fn without(self, without: &'static str) -> Self {
        DoctorFinding { without: Some(without), ..self }
    }

    fn advice(self, advice: impl Into<String>) -> Self {
        DoctorFinding { advice: Some(advice.into()), ..self }
    }
}

/// Tests this machine for the current user. Must be called before threads are started.
pub(crate) fn examine() -> Vec<DoctorFinding> {
    let ansible = tools::Ansible::start();
    let mut findings = sandbox::findings();
    findings.extend(tools::findings(ansible));
    findings
}

/// Whether images can be built and run, apart from optional features.
pub(crate) fn is_ready(findings: &[DoctorFinding]) -> bool {
    findings.iter().all(|finding| finding.state != DoctorState::Fault)
}
