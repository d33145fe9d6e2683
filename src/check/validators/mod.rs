//! Lints (`run/…`) of the image's own programs: whether they accept its configuration.
//!
//! This module decides which programs are asked ([`ValidatorPlan`]) and reads their answers. It
//! runs nothing: `crate::validate` does, in a sandbox.

mod lints;
mod output;
mod servers;
mod table;
mod targets;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::time::Duration;

use provisioners::ImageTest;

use super::context::{CheckContext, PROGRAM_DIRS, resolve};
use super::{Finding, Findings, Lint, LintSelection, Pass, PassError, Severity};
use crate::image::view::{LookError, StackView, ViewNode, join};
use crate::text::escape::plain;

use table::{Arguments, Reading, validators};
use targets::Targets;

/// The group of the lints.
pub(crate) const GROUP: &str = "run";

pub(super) static PASSES: &[Pass] = &[Pass { lints: lints::ALL, run: findings }];

/// A program of an image that checks configuration.
#[derive(Debug)]
struct Validator {
    /// Its name in reports: the command in short.
    name: &'static str,
    lint: &'static Lint,
    /// The program that must exist.
    program: &'static str,
    /// Files or directories of which one must exist, if any are named. The first that exists is
    /// the path of problems without one.
    files: &'static [&'static str],
    arguments: Arguments,
    /// A shell script.
    command: &'static str,
    reading: Reading,
    /// Severities of lines, by a part of the line. The first match applies.
    severities: &'static [(&'static str, Severity)],
    /// Messages of versions that do not support the command.
    unsupported: &'static [&'static str],
    /// Maximum seconds that it may run.
    limit: u16,
}

/// A problem that a validator reports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Problem {
    /// The path that it names.
    path: Option<String>,
    line: Option<usize>,
    message: String,
    /// `None` for the severity of the lint.
    severity: Option<Severity>,
}

impl Problem {
    fn new(message: impl Into<String>) -> Problem {
        Problem { message: message.into(), ..Problem::default() }
    }

    /// Returns the properties that identify the problem in another root: numbers, such as those of
    /// lines, differ.
    fn key(&self) -> (Option<&str>, String) {
        let message = self.message.chars().filter(|c| !c.is_ascii_digit());
        (self.path.as_deref(), message.collect())
    }
}

/// The function of a command.
#[derive(Clone, Copy, Debug)]
enum Job {
    /// Asks this validator.
    Validator(&'static Validator),
    /// The test with this index in the request.
    Test(usize),
}

/// Runs a test: its shell, then its script.
const RUN_TEST: &str = "exec \"$1\" -c \"$2\"";

/// A command to run in a root.
#[derive(Clone, Debug)]
pub(crate) struct ValidatorCommand {
    job: Job,
    /// A script for `/bin/sh`.
    pub(crate) script: &'static str,
    /// The parameters of the script.
    pub(crate) arguments: Vec<Vec<u8>>,
    /// Maximum time that it may run.
    pub(crate) limit: Duration,
}

impl ValidatorCommand {
    /// Returns the validator's name for display.
    pub(crate) fn name(&self) -> &'static str {
        match self.job {
            Job::Validator(validator) => validator.name,
            Job::Test(_) => "a test",
        }
    }
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ValidatorEnd {
    /// With this exit code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// It was killed after its time limit.
    TimeLimit,
    /// It could not be started.
    NotStarted,
}

/// The result of a command.
#[derive(Clone, Debug)]
pub(crate) struct ValidatorOutput {
    pub(crate) end: ValidatorEnd,
    /// What it printed, up to a limit.
    pub(crate) text: Vec<u8>,
}

/// The commands for a root, and the validators that cannot run.
#[derive(Clone, Debug, Default)]
pub(crate) struct ValidatorPlan {
    /// The commands, in the order of the table.
    pub(crate) commands: Vec<ValidatorCommand>,
    /// Maximum time of each command, instead of the validator's own.
    limit: Option<Duration>,
    not_run: Vec<(&'static str, String)>,
}

/// The reports of an image's validators.
#[derive(Clone, Debug)]
pub(crate) enum Validation {
    /// They could not run, for this reason.
    Unavailable(String),
    /// They ran.
    Ran {
        /// The plan for all layers, with an output for each command.
        merged: (ValidatorPlan, Vec<ValidatorOutput>),
        /// The plan for the lower layers, with an output for each command.
        lower: (ValidatorPlan, Vec<ValidatorOutput>),
    },
}

/// The reading of a command's output.
enum Answer {
    Problems(Vec<Problem>),
    DoesNotApply,
    /// There is no result, for this reason.
    NoResult(String),
}

impl ValidatorCommand {
    /// Reads the problems of a validator from its output.
    fn read(&self, validator: &Validator, output: &ValidatorOutput) -> Answer {
        let name = validator.name;
        let code = match output.end {
            ValidatorEnd::Code(code) => code,
            ValidatorEnd::Signal(signal) => {
                return Answer::NoResult(format!("{name} was ended by signal {signal}"));
            }
            ValidatorEnd::TimeLimit => {
                let limit = self.limit.as_secs();
                return Answer::NoResult(format!("{name} did not end within {limit} s"));
            }
            ValidatorEnd::NotStarted => {
                return Answer::NoResult(format!("{name} could not be started"));
            }
        };
        let text = String::from_utf8_lossy(&output.text).replace('\r', "\n").replace('\t', " ");
        // Control characters must not reach a terminal.
        let text: String = text.lines().map(plain).flat_map(|line| [line, "\n".into()]).collect();
        if code != 0 && validator.unsupported.iter().any(|sign| text.contains(sign)) {
            return Answer::DoesNotApply;
        }
        // As a shell reports signals, and programs that it cannot execute.
        match code {
            126 | 127 => {
                let last = text.lines().last().unwrap_or_default();
                return Answer::NoResult(format!("{name} could not be executed: {last}"));
            }
            129.. if code < 128 + 65 => {
                return Answer::NoResult(format!("{name} was ended by signal {}", code - 128));
            }
            _ => {}
        }
        match output::problems(&validator.reading, validator.severities, code == 0, &text) {
            Ok(problems) => Answer::Problems(problems),
            Err(reason) => Answer::NoResult(format!("{name}: {reason}")),
        }
    }
}

/// Returns the absolute path of a program in a root.
fn program(view: &StackView, name: &str) -> Result<Option<Vec<u8>>, LookError> {
    if name.contains('/') {
        return Ok(Some(name.as_bytes().to_vec()));
    }
    // The path is not resolved: a program such as busybox acts by its name.
    for dir in PROGRAM_DIRS {
        let path = format!("{dir}/{name}");
        let found = resolve(view, path.as_bytes())?;
        if found.is_some_and(|node| node.is_file() && node.attr.mode & 0o111 != 0) {
            return Ok(Some(format!("/{path}").into_bytes()));
        }
    }
    Ok(None)
}

/// Returns the first of the validator's files that exists.
fn default_file(validator: &Validator, view: &StackView) -> Result<Option<ViewNode>, LookError> {
    for path in validator.files {
        if let Some(node) = resolve(view, path.as_bytes())? {
            return Ok(Some(node));
        }
    }
    Ok(None)
}

fn applies(validator: &Validator, view: &StackView) -> Result<bool, LookError> {
    let has_file = validator.files.is_empty() || default_file(validator, view)?.is_some();
    Ok(has_file && program(view, validator.program)?.is_some())
}

/// Returns the commands for all layers, with `limit` as their time limit, if it is set.
pub(super) fn plan(
    context: &CheckContext<'_>,
    selection: &LintSelection,
    limit: Option<Duration>,
) -> Result<ValidatorPlan, PassError> {
    let view = &context.roots()?.view;
    let mut plan = ValidatorPlan { limit, ..ValidatorPlan::default() };
    if program(view, "sh")?.is_none() {
        return Ok(plan);
    }
    let mut targets = None;
    for validator in validators() {
        if !selection.wants(validator.lint) || !applies(validator, view)? {
            continue;
        }
        let arguments = match (validator.arguments, &mut targets) {
            (Arguments::None, _) => Ok(Some(Vec::new())),
            (kind, Some(targets)) => Targets::arguments(targets, kind),
            (kind, none) => none.insert(Targets::new(context)?).arguments(kind),
        };
        match arguments {
            Ok(Some(arguments)) => plan.push(validator, arguments),
            Ok(None) => {}
            Err(PassError::CannotRun(reason)) => {
                plan.not_run.push((validator.lint.name, format!("{}: {reason}", validator.name)));
            }
            Err(error) => return Err(error),
        }
    }
    if selection.wants(&lints::TEST) {
        for (index, test) in context.request.tests.iter().enumerate() {
            plan.commands.push(ValidatorCommand {
                job: Job::Test(index),
                script: RUN_TEST,
                arguments: vec![test.shell.clone().into(), test.with_exports().into()],
                limit: limit.unwrap_or(Duration::from_secs(test.time_out)),
            });
        }
    }
    Ok(plan)
}

/// Returns the finding for a test that did not pass.
fn failed_test(
    context: &CheckContext<'_>,
    test: &ImageTest,
    output: &ValidatorOutput,
) -> Option<Finding> {
    /// Maximum lines of the output in a finding.
    const MAX_LINES: usize = 5;
    let reason = match output.end {
        ValidatorEnd::Code(0) => return None,
        ValidatorEnd::Code(code) => format!("exit code {code}"),
        ValidatorEnd::Signal(signal) => format!("ended by signal {signal}"),
        ValidatorEnd::TimeLimit => "it did not end in time".to_owned(),
        ValidatorEnd::NotStarted => "it could not be started".to_owned(),
    };
    let text = String::from_utf8_lossy(&output.text);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let shown = lines[lines.len().saturating_sub(MAX_LINES)..].join("; ");
    let line = test.line.map(|line| format!(":{line}")).unwrap_or_default();
    let (name, file) = (&test.name, test.file.display());
    let colon = if shown.is_empty() { "" } else { ": " };
    let message = format!("{name} ({file}{line}): {reason}{colon}{shown}");
    let layers = context.checked_names();
    Some(Finding::new(&lints::TEST, "", None, plain(&message)).attributed_to(layers))
}

/// Returns the commands for the lower layers: those that found problems in all layers.
pub(super) fn lower_plan(
    context: &CheckContext<'_>,
    merged: &ValidatorPlan,
    outputs: &[ValidatorOutput],
) -> Result<ValidatorPlan, PassError> {
    let mut plan = ValidatorPlan { limit: merged.limit, ..ValidatorPlan::default() };
    let Some(lower) = &context.roots()?.lower else { return Ok(plan) };
    for (command, output) in merged.commands.iter().zip(outputs) {
        let Job::Validator(validator) = command.job else { continue };
        let answer = command.read(validator, output);
        let is_doubtful = matches!(answer, Answer::Problems(problems) if !problems.is_empty());
        if !is_doubtful || !applies(validator, lower)? {
            continue;
        }
        let mut arguments = Vec::new();
        let width = if validator.arguments == Arguments::ShellFiles { 2 } else { 1 };
        for group in command.arguments.chunks(width) {
            let exists = match group.last() {
                Some(path) if path.starts_with(b"/") => resolve(lower, path)?.is_some(),
                _ => true,
            };
            if exists {
                arguments.extend_from_slice(group);
            }
        }
        if !arguments.is_empty() || command.arguments.is_empty() {
            plan.push(validator, arguments);
        }
    }
    Ok(plan)
}

impl ValidatorPlan {
    fn push(&mut self, validator: &'static Validator, arguments: Vec<Vec<u8>>) {
        let limit = self.limit.unwrap_or(Duration::from_secs(validator.limit.into()));
        let (job, script) = (Job::Validator(validator), validator.command);
        self.commands.push(ValidatorCommand { job, script, arguments, limit });
    }
}

/// The pass: turns the outputs into findings.
fn findings(context: &CheckContext<'_>, findings: &mut Findings<'_>) -> Result<(), PassError> {
    let (merged, outputs, lower, lower_outputs) = match &context.validation {
        None => return Ok(()),
        Some(Validation::Unavailable(reason)) => {
            return Err(PassError::CannotRun(reason.clone()));
        }
        Some(Validation::Ran { merged, lower }) => (&merged.0, &merged.1, &lower.0, &lower.1),
    };
    let is_started = |output: &ValidatorOutput| output.end != ValidatorEnd::NotStarted;
    if !outputs.is_empty() && !outputs.iter().any(is_started) {
        let reason = "the image's /bin/sh cannot be executed: is it built for this machine?";
        return Err(PassError::CannotRun(reason.to_owned()));
    }
    for (lint, reason) in &merged.not_run {
        findings.could_not_run(lint, reason.clone());
    }
    for (command, output) in merged.commands.iter().zip(outputs) {
        let validator = match command.job {
            Job::Validator(validator) => validator,
            Job::Test(index) => {
                findings.found.extend(failed_test(context, &context.request.tests[index], output));
                continue;
            }
        };
        let problems = match command.read(validator, output) {
            Answer::Problems(problems) => problems,
            Answer::DoesNotApply => continue,
            Answer::NoResult(reason) => {
                findings.could_not_run(validator.lint.name, reason);
                continue;
            }
        };
        let mut lower = lower.commands.iter().zip(lower_outputs);
        let before = match lower.find(|(other, _)| other.name() == validator.name) {
            None => Vec::new(),
            Some((command, output)) => match command.read(validator, output) {
                Answer::Problems(problems) => problems,
                Answer::DoesNotApply => Vec::new(),
                Answer::NoResult(reason) => {
                    let reason = format!("in the lower layers, {reason}");
                    findings.could_not_run(validator.lint.name, reason);
                    continue;
                }
            },
        };
        let before: HashSet<_> = before.iter().map(Problem::key).collect();
        for problem in problems.iter().filter(|problem| !before.contains(&problem.key())) {
            findings.push(finding(context, command, validator, &problems, problem)?);
        }
    }
    Ok(())
}

/// Returns the file that a problem names.
fn named_file(
    view: &StackView,
    command: &ValidatorCommand,
    validator: &Validator,
    problem: &Problem,
) -> Result<Option<ViewNode>, LookError> {
    let Some(path) = problem.path.as_ref().map(String::as_bytes) else { return Ok(None) };
    if path.starts_with(b"/") {
        return resolve(view, path);
    }
    // A name without its directory: of an argument, or of a file that is included.
    let end = [b"/", path].concat();
    let argument = command.arguments.iter().find(|argument| argument.ends_with(&end));
    let included = validator.files.iter().map(|dir| join(dir.as_bytes(), path));
    for path in argument.cloned().into_iter().chain(included) {
        if let Some(node) = resolve(view, &path)? {
            return Ok(Some(node));
        }
    }
    Ok(None)
}

fn finding(
    context: &CheckContext<'_>,
    command: &ValidatorCommand,
    validator: &Validator,
    problems: &[Problem],
    problem: &Problem,
) -> Result<Finding, PassError> {
    let view = &context.roots()?.view;
    let mut node = named_file(view, command, validator, problem)?;
    let mut line = problem.line;
    // A message without a place may be about another file of the same program.
    let is_absolute = problem.path.as_ref().is_some_and(|path| path.starts_with('/'));
    let mut is_certain = node.is_some() && (is_absolute || line.is_some());
    if node.is_none() {
        // A file that another message names, or else the main file. Its lines are other ones.
        let is_exact = matches!(validator.reading, Reading::With(_));
        for other in problems.iter().filter(|_| !is_exact) {
            node = node.or(named_file(view, command, validator, other)?);
        }
        if node.is_some() || problem.path.is_some() {
            line = None;
        }
        if node.is_none() {
            node = default_file(validator, view)?;
            is_certain = is_exact;
        }
    }
    let missing = problem.path.as_ref().filter(|_| problem.severity == Some(Severity::Note));
    let path = match (&node, missing) {
        (_, Some(path)) => Some(path.trim_start_matches('/').as_bytes().to_vec()),
        (Some(node), None) => Some(node.path.clone()),
        (None, None) => None,
    };
    let layers = match &node {
        Some(node) if is_certain && node.layer() >= context.first_checked() => {
            vec![context.layer_name(node).to_owned()]
        }
        _ if is_certain || missing.is_some() => context.responsible_layers(path.as_slice())?,
        _ => context.checked_names(),
    };
    let severity = problem.severity.unwrap_or(validator.lint.severity);
    let finding = Finding::new(validator.lint, "", path.as_deref(), problem.message.clone())
        .severity(severity)
        .attributed_to(layers);
    // The line of a directory has no meaning.
    let line = line.filter(|_| node.is_some_and(|node| node.is_file()));
    Ok(Finding { line, ..finding })
}
