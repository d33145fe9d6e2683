//! `check`: lints overlays over their base.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anstyle::AnsiColor;
use clap::{Args as ClapArgs, ValueEnum};
use provisioners::ImageTest;
use provisioners::project::Member;
use serde_json::json;
use tracing::level_filters::LevelFilter;

use crate::build::RootSettings;
use crate::check::validators::GROUP as RUN_GROUP;
use crate::check::{
    Check, CheckReport, CheckRequest, Finding, GROUPS, Lint, LintSelection, OverlayBudget,
    Severity, Suppression, UnknownLint, lint, lints, sarif,
};
use crate::cli::ui::Ui;
use crate::cli::ui::args::PrivilegeOption;
use crate::cli::ui::error::{CommandError, CommandResult, ErrorKind};
use crate::cli::ui::image_args;
use crate::cli::ui::project_images::{self, ProjectOption};
use crate::cli::ui::stdout::StdoutWriter;
use crate::serve::Catalogue;
use crate::text::escape::plain;
use crate::text::list;
use crate::text::size::size_text;
use crate::validate::{ValidateError, ValidateOptions, validate};

/// Maximum number of findings printed per lint without `--all`.
const MAX_FINDINGS_PER_LINT: usize = 10;
/// Maximum number of lints listed by name that could not run.
const MAX_LISTED_LINTS: usize = 4;

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Exit code: 0 if no errors were found, 1 if there were errors (with --deny, also warnings or notes),
2 if the check itself failed. In the project file, `check: skip:` suppresses findings, with a
reason, and `check: budget:` sets size limits.")]
pub(crate) struct Args {
    /// A base and its overlays, the lowest first, or names of images of the project
    ///
    /// Without arguments, all images of the project that are built are checked.
    #[arg(value_name = "IMAGE|NAME")]
    what: Vec<String>,

    /// Check whether each overlay fits this base instead of its own
    ///
    /// Checks the given overlays, or all overlays of the project that are built.
    #[arg(long, value_name = "FILE")]
    base: Option<PathBuf>,

    #[command(flatten)]
    offset: image_args::BaseOffset,

    /// Check the files of the base too
    #[arg(long, conflicts_with = "base")]
    whole: bool,

    /// Run only this lint or group of lints; can be repeated
    #[arg(long, value_name = "LINT", value_delimiter = ',')]
    only: Vec<String>,

    /// Do not run this lint or group of lints; can be repeated
    #[arg(long, value_name = "LINT", value_delimiter = ',')]
    skip: Vec<String>,

    /// Kernel that the images boot with, instead of the project's
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,

    /// Lowest severity that results in exit code 1
    #[arg(long, value_name = "SEVERITY", value_enum, default_value = "error")]
    deny: Deny,

    /// Print all findings of each lint
    #[arg(long)]
    all: bool,

    /// Also run the image's own validators, such as `sshd -t`, in a sandbox without a network
    ///
    /// This executes programs of the images. What they change is thrown away.
    #[arg(long, conflicts_with_all = ["list", "explain"])]
    run: bool,

    /// Maximum time of each validator (default: 20 to 60 seconds)
    #[arg(long, value_name = "SECONDS", requires = "run",
        value_parser = clap::value_parser!(u16).range(1..))]
    run_limit: Option<u16>,

    #[command(flatten)]
    privilege: PrivilegeOption,

    #[command(flatten)]
    project: ProjectOption,

    /// Print the findings as JSON
    #[arg(long, conflicts_with = "sarif")]
    json: bool,

    /// Print the findings as SARIF, for code scanning services
    #[arg(long)]
    sarif: bool,

    /// List all lints
    #[arg(long, conflicts_with_all = ["what", "base", "whole"])]
    list: bool,

    /// Explain a lint: its effect on a machine, and how to fix it
    #[arg(long, value_name = "LINT", conflicts_with_all = ["what", "base", "whole", "list"])]
    explain: Option<String>,
}

impl Args {
    /// Returns the selected lints. With `--base`, the default is the groups whose result depends on
    /// the base. Validators are lints only with `--run`.
    fn selection(&self, suppressions: Vec<Suppression>) -> Result<LintSelection, UnknownLint> {
        let (mut only, mut skip) = (self.only.clone(), self.skip.clone());
        if self.base.is_some() && only.is_empty() {
            only.extend(["archive", "fit", "works", RUN_GROUP].map(str::to_owned));
        }
        if !self.run {
            skip.push(RUN_GROUP.to_owned());
        }
        LintSelection::new(only, skip, suppressions)
    }

    /// Rejects `--only` with a lint that needs `--run`.
    fn reject_only_without_run(&self) -> Result<(), CommandError> {
        let of_group = |name: &String| name.split('/').next() == Some(RUN_GROUP);
        match self.only.iter().find(|name| !self.run && of_group(name)) {
            Some(name) => Err(CommandError::user(format!(
                "--only {name} executes programs of the image: add --run"
            ))),
            None => Ok(()),
        }
    }

    /// Checks a stack of images.
    fn check(&self, ui: &Ui, request: &CheckRequest) -> Result<CheckReport, CommandError> {
        let mut check = Check::open(request)?;
        if self.run {
            let settings = RootSettings {
                network: None,
                upper_size: None,
                binds: Vec::new(),
                privilege: self.privilege.choice(),
                report: ui.report_fn(),
            };
            let options = ValidateOptions {
                select: &|highest| settings.select_privilege_for(highest),
                limit: self.run_limit.map(|seconds| Duration::from_secs(seconds.into())),
            };
            match validate(&mut check, &request.images, request.lower_layers, &options) {
                Ok(()) => {}
                Err(ValidateError::Interrupted(signal)) => {
                    return Err(CommandError::signal(signal));
                }
                Err(error) => return Err(CommandError::new(ErrorKind::System, error)),
            }
        }
        Ok(check.report()?)
    }
}

/// Values of `--deny`.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Deny {
    /// Errors
    Error,
    /// Errors and warnings
    Warning,
    /// All findings
    Note,
}

impl Deny {
    fn min_severity(self) -> Severity {
        match self {
            Deny::Error => Severity::Error,
            Deny::Warning => Severity::Warning,
            Deny::Note => Severity::Note,
        }
    }
}

pub(crate) fn run(ui: &Ui, args: &Args) -> CommandResult {
    if args.list {
        return list(ui, args);
    }
    if let Some(name) = &args.explain {
        return explain(ui, name, args.json);
    }
    args.reject_only_without_run()?;
    let Requests { requests, not_checked } = requests(args)?;
    for (_, reason) in &not_checked {
        ui.status(&format!("not checked: {reason}"));
    }
    let mut reports = Vec::new();
    for request in requests {
        reports.push(args.check(ui, &request)?);
    }
    if args.sarif {
        ui.print(&format!("{:#}", sarif::log(&reports)))?;
    } else if args.json {
        let count = |severity| reports.iter().map(|report| report.count(severity)).sum::<usize>();
        let value = json!({
            "schema": 2,
            "errors": count(Severity::Error),
            "warnings": count(Severity::Warning),
            "notes": count(Severity::Note),
            "checks": reports,
            "not_checked": not_checked
                .iter()
                .map(|(name, reason)| json!({ "name": name, "reason": reason.to_string() }))
                .collect::<Vec<_>>(),
        });
        ui.print(&value.to_string())?;
    } else {
        match print_reports(ui, &reports, args) {
            // The exit code still reports the result if the reader closed the pipe.
            Err(error) if error.kind != ErrorKind::OutputClosed => return Err(error),
            _ => {}
        }
    }
    let worst = reports.iter().flat_map(|report| &report.findings).map(|f| f.severity).max();
    Ok(ExitCode::from(u8::from(worst >= Some(args.deny.min_severity()))))
}

fn list(ui: &Ui, args: &Args) -> CommandResult {
    let selection = LintSelection::new(args.only.clone(), args.skip.clone(), Vec::new())?;
    let wanted: Vec<&Lint> = lints().filter(|lint| selection.wants(lint)).collect();
    if args.json {
        let each: Vec<_> = wanted.iter().map(|lint| lint_json(lint)).collect();
        let value = json!({ "schema": 2, "lints": each });
        ui.print(&value.to_string())?;
        return Ok(ExitCode::SUCCESS);
    }
    for (group, what) in GROUPS {
        let of_group: Vec<_> = wanted.iter().filter(|lint| lint.group() == group).collect();
        if of_group.is_empty() {
            continue;
        }
        ui.print(&format!("{group}: {what}"))?;
        for lint in of_group {
            ui.print(&format!("  {:<26} {:<8} {}", lint.name, lint.severity.word(), lint.summary))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn lint_json(lint: &Lint) -> serde_json::Value {
    json!({
        "name": lint.name,
        "severity": lint.severity,
        "summary": lint.summary,
        "why": lint.why,
        "fix": lint.fix,
    })
}

fn explain(ui: &Ui, name: &str, as_json: bool) -> CommandResult {
    // Fails with a suggestion if there is no such lint.
    LintSelection::new(vec![name.to_owned()], Vec::new(), Vec::new())?;
    let Some(lint) = lint(name) else {
        return Err(CommandError::user(format!("`{name}` is a group: give one of its lints")));
    };
    if as_json {
        let mut value = lint_json(lint);
        value["schema"] = 2.into();
        ui.print(&value.to_string())?;
        return Ok(ExitCode::SUCCESS);
    }
    ui.print(&format!(
        "{} ({}): {}\n\n{}\n\nTo fix it: {}.",
        lint.name,
        lint.severity.word(),
        lint.summary,
        lint.why,
        lint.fix
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// The checks to run.
#[derive(Default)]
struct Requests {
    /// One for each report.
    requests: Vec<CheckRequest>,
    /// The images that were not named and cannot be checked, with the reasons.
    not_checked: Vec<(String, CommandError)>,
}

impl From<Vec<CheckRequest>> for Requests {
    fn from(requests: Vec<CheckRequest>) -> Self {
        Requests { requests, not_checked: Vec::new() }
    }
}

/// Returns the checks to run.
fn requests(args: &Args) -> Result<Requests, CommandError> {
    let is_image = |word: &String| {
        let word = Path::new(word);
        args.project.is_path(word) && !project_images::is_project(word)
    };
    let paths = args.what.first().is_some_and(is_image);
    let selection = args.selection(Vec::new())?;
    let request =
        CheckRequest { kernel: args.kernel.clone(), selection, ..CheckRequest::default() };
    let is_of_project =
        args.what.first().is_some_and(|first| project_images::is_project(Path::new(first)));
    let count = args.what.iter().filter(|word| is_image(word)).count();
    if !is_of_project && count > 0 && count < args.what.len() {
        return mixed_request(args, &request);
    }
    if paths {
        let mut images: Vec<PathBuf> = args.what.iter().map(PathBuf::from).collect();
        if let Some(base) = &args.base {
            let mut base = [base.clone()];
            args.offset.apply(&mut base);
            let [base] = &base;
            return Ok(images
                .iter()
                .map(|overlay| on_other_base(base, overlay, &images, &request))
                .collect::<Vec<_>>()
                .into());
        }
        args.offset.apply(&mut images);
        let lower_layers = usize::from(!args.whole && images.len() > 1);
        let name = args.what.last().cloned().unwrap_or_default();
        let suppressions = project_images::suppressions_of(&images, args.project.file())?;
        let request = CheckRequest { selection: args.selection(suppressions)?, ..request };
        return Ok(vec![CheckRequest { name, images, lower_layers, ..request }].into());
    }
    args.offset.reject("in a project")?;
    let Some((project, names)) = project_images::find(&args.what, args.project.file())? else {
        return Err(CommandError::user("give a base and overlays, or images of a project"));
    };
    let members: Vec<&Member> = match names.is_empty() {
        false => names
            .iter()
            .map(|name| project.find(name).map(|index| &project.images()[index]))
            .collect::<Result<_, _>>()
            .map_err(CommandError::user)?,
        true => {
            let wanted = |member: &&Member| match args.base {
                Some(_) => member.kind() == "overlay",
                None => member.kind() != "initrd",
            };
            project.images().iter().filter(wanted).collect()
        }
    };
    let catalogue = Catalogue::new(&project, None, None).ok();
    let mut found = Requests::default();
    for member in members {
        match project_images::built_layers(&project, member, args.base.as_deref()) {
            Ok(images) => {
                let request = project_request(args, member, images, catalogue.as_ref(), &request)?;
                found.requests.push(request);
            }
            Err(reason) if names.is_empty() => {
                found.not_checked.push((member.name.clone(), reason));
            }
            Err(error) => return Err(error),
        }
    }
    if found.requests.is_empty() && !found.not_checked.is_empty() {
        return Err(CommandError::user(format!(
            "{}: no image is built in a format that can be checked: run `overcoat build`",
            project.file.display()
        )));
    }
    Ok(found)
}

/// Returns the check of names of images and paths together: the stack that other commands read.
fn mixed_request(args: &Args, request: &CheckRequest) -> Result<Requests, CommandError> {
    if args.base.is_some() {
        return Err(CommandError::user("--base: give either names of images or paths of overlays"));
    }
    args.offset.reject("in a project")?;
    let words: Vec<PathBuf> = args.what.iter().map(PathBuf::from).collect();
    let project = args.project.for_images(&words)?;
    let images = project_images::stack(&words, project.as_ref())?;
    let lower_layers = usize::from(!args.whole && images.len() > 1);
    let name = args.what.last().cloned().unwrap_or_default();
    let suppressions = project_images::suppressions_of(&images, args.project.file())?;
    let selection = args.selection(suppressions)?;
    Ok(vec![CheckRequest { name, images, lower_layers, selection, ..request.clone() }].into())
}

/// Returns the check of an overlay over another base. From `all`, it includes the lower overlays
/// that `overlay` was built on.
fn on_other_base(
    base: &Path,
    overlay: &Path,
    all: &[PathBuf],
    request: &CheckRequest,
) -> CheckRequest {
    let mut images = vec![base.to_owned()];
    images.extend(crate::check::recorded_layers(overlay).into_iter().filter_map(|name| {
        let named = |path: &&PathBuf| path.file_name() == Some(name.as_ref());
        all.iter().find(named).filter(|path| *path != overlay).cloned()
    }));
    let lower_layers = images.len();
    images.push(overlay.to_owned());
    let name = overlay.to_string_lossy().into_owned();
    CheckRequest { name, images, lower_layers, other_base: true, ..request.clone() }
}

/// Returns the check of an image of a project with the layers `images`.
fn project_request(
    args: &Args,
    member: &Member,
    images: Vec<PathBuf>,
    catalogue: Option<&Catalogue>,
    request: &CheckRequest,
) -> Result<CheckRequest, CommandError> {
    let name = &member.name;
    let lower_layers = if args.whole { 0 } else { images.len() - 1 };
    let parts = catalogue.and_then(|catalogue| catalogue.machine_files(name).ok());
    let (kernel, initrd) = parts.map(|parts| (parts.kernel, parts.initrd)).unzip();
    let kernel = kernel.filter(|kernel| kernel.exists());
    // The initrd is checked once, with the base, for all images that boot with it.
    let initrd = initrd.filter(|initrd| member.kind() == "base" && initrd.exists());
    let check = &member.image.check;
    let selection = args.selection(project_images::suppressions(member)).map_err(|error| {
        CommandError::user(format!("{}: {name}: {error}", member.image.file.display()))
    })?;
    Ok(CheckRequest {
        name: name.clone(),
        images,
        lower_layers,
        other_base: args.base.is_some(),
        kernel: request.kernel.clone().or(kernel),
        initrd,
        budget: OverlayBudget { size: check.size, ram: check.ram, machine: check.machine },
        tests: if args.run { tests(member)? } else { Vec::new() },
        selection,
    })
}

/// Returns the tests of an image that need no booted machine.
fn tests(member: &Member) -> Result<Vec<ImageTest>, CommandError> {
    let mut tests = member.image.tests()?;
    tests.retain(|test| !test.booted);
    Ok(tests)
}

fn print_reports(ui: &Ui, reports: &[CheckReport], args: &Args) -> Result<(), CommandError> {
    let mut out = StdoutWriter::new();
    for report in reports {
        print_report(ui, &mut out, report, reports, args)?;
    }
    for report in reports.iter().filter(|_| args.base.is_some()) {
        let verdict = match report.count(Severity::Error) {
            0 => out.paint(AnsiColor::Green, "fits"),
            _ => out.paint(AnsiColor::Red, "does not fit"),
        };
        out.line(&format!("{}: {verdict}: {}", report.name, summary(report)))?;
    }
    out.finish()
}

/// Prints one of the reports: findings to standard output, the rest to standard error.
fn print_report(
    ui: &Ui,
    out: &mut StdoutWriter,
    report: &CheckReport,
    all: &[CheckReport],
    args: &Args,
) -> Result<(), CommandError> {
    let most = match args.all || LevelFilter::current() >= LevelFilter::INFO {
        true => usize::MAX,
        false => MAX_FINDINGS_PER_LINT,
    };
    if all.len() > 1 && args.base.is_none() && !report.findings.is_empty() {
        out.line(&format!("{}:", report.name))?;
    }
    for (severity, lint, findings) in report.by_lint() {
        let word = out.paint(colour(severity), severity.word());
        out.line(&format!("{word}: {}: {}", lint.name, lint.summary))?;
        let shown = list::shown(findings.len(), most);
        // Findings can have a fix of their own; the lint's is then of no use.
        let common_fix = match findings.iter().any(|finding| finding.fix == lint.fix) {
            true => lint.fix,
            false => findings.first().map_or(lint.fix, |finding| &finding.fix),
        };
        for finding in &findings[..shown] {
            out.line(&format!("  {}", line(finding)))?;
            if finding.fix != common_fix {
                out.line(&format!("    fix: {}", finding.fix))?;
            }
        }
        if let more @ 1.. = findings.len() - shown {
            out.line(&format!("  …and {more} more (--all shows them)"))?;
        }
        out.line(&format!("  fix: {common_fix}"))?;
    }
    out.flush()?;
    for hint in &report.hints {
        ui.status(&format!("{}: {}", report.name, plain(hint)));
    }
    for not_run in &report.not_run {
        let lints = match not_run.lints.len() {
            0..=MAX_LISTED_LINTS => not_run.lints.join(", "),
            count => format!("{count} lints (listed by --json)"),
        };
        ui.status(&format!("{}: could not run {lints}: {}", report.name, not_run.reason));
    }
    // A suppression that several images share is unused only if no image uses it.
    let is_used = |name: &str| {
        let mut silenced = all.iter().flat_map(|report| &report.suppressed);
        silenced.any(|silenced| silenced.finding.lint.name == name)
    };
    for lint in report.unused_suppressions.iter().filter(|lint| !is_used(lint)) {
        let idle = all.iter().filter(|other| other.unused_suppressions.contains(lint));
        let names: Vec<&str> = idle.map(|other| other.name.as_str()).collect();
        // Print it once, with the names of all images.
        if names.first() == Some(&report.name.as_str()) {
            let names = names.join(", ");
            ui.status(&format!("{names}: unused suppression of {lint} in the project"));
        }
    }
    if args.base.is_none() {
        ui.status(&format!("{}: {}", report.name, summary(report)));
    }
    Ok(())
}

fn line(finding: &Finding) -> String {
    let name = |layer: &String| {
        let name = Path::new(layer).file_name().map(|name| name.to_string_lossy());
        plain(&name.unwrap_or(layer.as_str().into())).into_owned()
    };
    let layers: Vec<String> =
        [&finding.layer].into_iter().chain(&finding.others).map(name).collect();
    let layer = layers.join(", ");
    let path = finding.shown_place().map(|path| format!(":{path}")).unwrap_or_default();
    let saves = match finding.saves {
        Some(bytes) => format!(" (saves {})", size_text(bytes)),
        None => String::new(),
    };
    format!("{layer}{path}: {}{saves}", finding.message)
}

fn summary(report: &CheckReport) -> String {
    let mut parts = Vec::new();
    for severity in Severity::ALL {
        match report.count(severity) {
            0 => {}
            1 => parts.push(format!("1 {}", severity.word())),
            n => parts.push(format!("{n} {}s", severity.word())),
        }
    }
    if parts.is_empty() {
        parts.push("no findings".to_owned());
    }
    if !report.suppressed.is_empty() {
        parts.push(format!("{} suppressed", report.suppressed.len()));
    }
    parts.join(", ")
}

fn colour(severity: Severity) -> AnsiColor {
    match severity {
        Severity::Error => AnsiColor::Red,
        Severity::Warning => AnsiColor::Yellow,
        Severity::Note => AnsiColor::Cyan,
    }
}
