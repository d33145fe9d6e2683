//! What of overcoat works on this machine, and what mends the rest.
//!
//! Invariants:
//! - What can be tried is tried, as the commands do it; files are looked at only to explain a
//!   failure. Nothing that is tried is left behind.
//! - Every [`Finding`] is there once, whatever the machine: one that could not be made because of
//!   another one says so.
//! - Only what building without root needs (or with root, for root) can be a [`State::Fault`].

mod sandbox;
mod tools;

use serde::Serialize;

use crate::sandbox::{MissingRequirement, SandboxError};

/// How something stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It works.
    Works,
    /// It works, but there is something to know.
    Note,
    /// It does not, and it is for some commands only.
    Lacks,
    /// It does not, and nothing can be built or run without it.
    Fault,
    /// It was not tried.
    Untried,
}

/// What was found out about one ability of this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Its name.
    pub name: &'static str,
    /// How it stands.
    pub state: State,
    /// What was seen.
    pub says: String,
    /// What it is for.
    #[serde(rename = "for")]
    pub purpose: &'static str,
    /// What overcoat does without it.
    pub without: Option<&'static str>,
    /// The command that mends it, for root.
    pub command: Option<String>,
    /// What else may mend it.
    pub advice: Option<String>,
}

impl Finding {
    fn new(name: &'static str, purpose: &'static str, state: State, says: String) -> Self {
        Finding { name, state, says, purpose, without: None, command: None, advice: None }
    }

    /// What works is told with `says`; what does not is of this state.
    fn of(
        name: &'static str,
        purpose: &'static str,
        otherwise: State,
        tried: Result<String, SandboxError>,
    ) -> Self {
        match tried {
            Ok(says) => Finding::new(name, purpose, State::Works, says),
            Err(SandboxError::MissingRequirement(lack)) => {
                Finding::new(name, purpose, otherwise, String::new()).lacking(lack)
            }
            Err(error) => Finding::new(name, purpose, otherwise, error.to_string()),
        }
    }

    fn lacking(self, lack: MissingRequirement) -> Self {
        let advice = lack.in_container.map(|how| format!("in a container: start it with {how}"));
        Finding { says: lack.problem, command: Some(lack.remedy), advice, ..self }
    }

    fn mended_by(self, command: impl Into<String>) -> Self {
        Finding { command: Some(command.into()), ..self }
    }

    fn without(self, without: &'static str) -> Self {
        Finding { without: Some(without), ..self }
    }

    fn advice(self, advice: impl Into<String>) -> Self {
        Finding { advice: Some(advice.into()), ..self }
    }
}

/// Examines this machine, for the user who asks. Call it before starting threads.
pub fn examine() -> Vec<Finding> {
    let ansible = tools::Ansible::ask();
    let mut findings = sandbox::findings();
    findings.extend(tools::findings(ansible));
    findings
}

/// Whether images can be built and run, as far as nothing special is wanted.
pub fn is_ready(findings: &[Finding]) -> bool {
    findings.iter().all(|finding| finding.state != State::Fault)
}
