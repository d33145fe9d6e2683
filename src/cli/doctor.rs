//! `doctor`: what works on this machine, what does not, and the commands that mend it.

use std::fmt::Write;
use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Args as ClapArgs;
use serde_json::json;

use super::{Outcome, print};
use crate::doctor::{Finding, State, examine, is_ready};

#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    /// Print what was found as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Outcome {
    let findings = examine();
    let ready = is_ready(&findings);
    if args.json {
        let root = nix::unistd::geteuid().is_root();
        let report = json!({ "schema": 1, "ready": ready, "root": root, "findings": findings });
        print(&report.to_string())?;
    } else {
        let colour = std::io::stdout().is_terminal() && super::out::are_colours_wanted();
        print(&tell(&findings, colour))?;
    }
    Ok(if ready { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn tell(findings: &[Finding], colour: bool) -> String {
    let mut text = String::new();
    for finding in findings {
        let (word, code) = match finding.state {
            State::Works => ("ok", 32),
            State::Note => ("note", 33),
            State::Lacks => ("lacks", 33),
            State::Fault => ("FAULT", 31),
            State::Untried => ("-", 0),
        };
        let word = match colour {
            true => format!("\x1b[{code}m{word:<5}\x1b[0m"),
            false => format!("{word:<5}"),
        };
        let _ = writeln!(text, "{word}  {:<15}  {}", finding.name, finding.says);
        if matches!(finding.state, State::Works | State::Untried) {
            continue;
        }
        let mut more = |word: &str, what: &str| {
            let _ = writeln!(text, "         {word}: {what}");
        };
        more("for", finding.purpose);
        if let Some(without) = finding.without {
            more("without it", without);
        }
        if let Some(command) = &finding.command {
            more("as root", command);
        }
        if let Some(advice) = &finding.advice {
            more("hint", advice);
        }
    }
    let count = |state| findings.iter().filter(|finding| finding.state == state).count();
    let rest = match count(State::Lacks) {
        0 => "nothing is lacking".to_owned(),
        1 => "one thing is lacking that only some commands need".to_owned(),
        n => format!("{n} things are lacking that only some commands need"),
    };
    let who = match nix::unistd::geteuid().is_root() {
        true => "by root: others see by `overcoat doctor` of their own whether they can",
        false => "without root rights",
    };
    let _ = match count(State::Fault) {
        0 => write!(text, "\nimages can be built here {who}; {rest}"),
        _ => write!(text, "\nimages cannot be built here until what says FAULT is mended; {rest}"),
    };
    text
}
