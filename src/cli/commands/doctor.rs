//! `doctor`: checks the requirements on this machine and prints the commands that fix failures.

use std::fmt::Write;
use std::process::ExitCode;

use anstyle::AnsiColor;
use clap::Args as ClapArgs;
use serde_json::{Value, json};

use crate::cli::ui::Ui;
use crate::cli::ui::error::{CommandError, CommandResult};
use crate::cli::ui::stdout::{paint, wants_colours};
use crate::doctor::{DoctorFinding, DoctorState, examine, is_ready};

#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// Print the results as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(ui: &Ui, args: &Args) -> CommandResult {
    let findings = examine();
    let ready = is_ready(&findings);
    if args.json {
        let root = nix::unistd::geteuid().is_root();
        let findings =
            findings.iter().map(finding_json).collect::<Result<Vec<_>, serde_json::Error>>();
        let findings = findings.map_err(|error| CommandError::user(error.to_string()))?;
        let report = json!({ "schema": 2, "ready": ready, "root": root, "findings": findings });
        ui.print(&report.to_string())?;
    } else {
        let colour = wants_colours(&std::io::stdout());
        ui.print(&report_text(&findings, colour))?;
    }
    Ok(if ready { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// Returns the JSON form of a finding, with an identifier as its name, such as `user_namespaces`.
fn finding_json(finding: &DoctorFinding) -> Result<Value, serde_json::Error> {
    let mut value = serde_json::to_value(finding)?;
    value["name"] = finding.name.replace(' ', "_").into();
    Ok(value)
}

fn report_text(findings: &[DoctorFinding], colour: bool) -> String {
    let mut text = String::new();
    for finding in findings {
        let (word, state_colour) = match finding.state {
            DoctorState::Works => ("ok", Some(AnsiColor::Green)),
            DoctorState::Note => ("note", Some(AnsiColor::Yellow)),
            DoctorState::Lacks => ("lacks", Some(AnsiColor::Yellow)),
            DoctorState::Fault => ("FAULT", Some(AnsiColor::Red)),
            DoctorState::Untried => ("-", None),
        };
        let word = format!("{word:<5}");
        let word = match state_colour {
            Some(state) if colour => paint(state, &word),
            _ => word,
        };
        let _ = writeln!(text, "{word}  {:<15}  {}", finding.name, finding.message);
        if matches!(finding.state, DoctorState::Works | DoctorState::Untried) {
            continue;
        }
        let mut detail = |label: &str, value: &str| {
            let _ = writeln!(text, "         {label}: {value}");
        };
        detail("needed for", finding.purpose);
        if let Some(without) = finding.without {
            detail("without it", without);
        }
        if let Some(command) = &finding.command {
            detail("as root", command);
        }
        if let Some(advice) = &finding.advice {
            detail("hint", advice);
        }
    }
    let count = |state| findings.iter().filter(|finding| finding.state == state).count();
    let missing = match count(DoctorState::Lacks) {
        0 => "no optional requirement is missing".to_owned(),
        1 => "1 requirement of some commands is missing".to_owned(),
        n => format!("{n} requirements of some commands are missing"),
    };
    let user = match nix::unistd::geteuid().is_root() {
        true => "as root (other users: run `overcoat doctor` as that user)",
        false => "without root privileges",
    };
    let _ = match count(DoctorState::Fault) {
        0 => write!(text, "\nimages can be built here {user}; {missing}"),
        _ => write!(text, "\nfix the items marked FAULT before building images; {missing}"),
    };
    text
}
