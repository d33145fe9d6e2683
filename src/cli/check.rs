//! `check`: judging overlays over a base.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args as ClapArgs, ValueEnum};
use provisioners::Project;
use provisioners::image::Format;
use provisioners::image::ImageLocation;
use provisioners::project::Member;
use serde_json::json;
use tracing::level_filters::LevelFilter;

use super::options::size_text;
use super::out::{Colour, Out};
use super::{Failure, Outcome, images, print, project, say};
use crate::check::UnknownLint;
use crate::check::{Budget, Finding, GROUPS, Lint, Report, Request, Selection, Severity, Silence};
use crate::check::{check, lint, lints, sarif};
use crate::seal::path::plain;
use crate::serve::Catalogue;

/// How many findings of a lint are told.
const TOLD: usize = 10;
/// How many lints are named that could not look.
const NAMED: usize = 4;

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Exit code: 0 when nothing is wrong, 1 when an error was found (with --deny, a warning or a note), 2 when
it cannot be told. What is known and meant is silenced in the project file, by `check: skip:`, with a
reason; `check: budget:` sets limits.")]
pub(super) struct Args {
    /// What to judge: a base and the overlays over it, the lowest first; or images of the project by
    /// name, or all of them
    #[arg(value_name = "IMAGE|NAME")]
    what: Vec<String>,

    /// Say whether the overlays fit this base, each for itself: those that are named, or all of the
    /// project
    #[arg(long, value_name = "FILE")]
    base: Option<PathBuf>,

    #[command(flatten)]
    offset: images::BaseOffset,

    /// Judge what the base has itself, too
    #[arg(long, conflicts_with = "base")]
    whole: bool,

    /// Look only for this lint, or this group of them (several times: for each)
    #[arg(long, value_name = "LINT", value_delimiter = ',')]
    only: Vec<String>,

    /// Do not look for this lint, or this group of them
    #[arg(long, value_name = "LINT", value_delimiter = ',')]
    skip: Vec<String>,

    /// The kernel that boots with it, instead of the project's
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,

    /// What ends with exit code 1
    #[arg(long, value_name = "SEVERITY", value_enum, default_value = "error")]
    deny: Deny,

    /// Tell all findings, however many there are
    #[arg(long)]
    all: bool,

    /// The project file; by default the overcoat.yml of this folder or of the nearest one above
    #[arg(short, long, value_name = "FILE")]
    project: Option<PathBuf>,

    /// Print what was found as JSON
    #[arg(long, conflicts_with = "sarif")]
    json: bool,

    /// Print what was found as SARIF, for the code scanning of forges
    #[arg(long)]
    sarif: bool,

    /// List all lints
    #[arg(long, conflicts_with_all = ["what", "base", "whole"])]
    list: bool,

    /// Explain a lint: what it means on a machine, and how to mend it
    #[arg(long, value_name = "LINT", conflicts_with_all = ["what", "base", "whole", "list"])]
    explain: Option<String>,
}

impl Args {
    /// What is looked for. What is in an overlay whatever it lies over, is no answer to whether it
    /// fits.
    fn selection(&self, silences: Vec<Silence>) -> Result<Selection, UnknownLint> {
        let mut only = self.only.clone();
        if self.base.is_some() && only.is_empty() {
            only.extend(["archive", "fit", "works"].map(str::to_owned));
        }
        Selection::new(only, self.skip.clone(), silences)
    }
}

/// What is held against an image.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Deny {
    Error,
    Warning,
    Note,
}

impl Deny {
    fn least(self) -> Severity {
        match self {
            Deny::Error => Severity::Error,
            Deny::Warning => Severity::Warning,
            Deny::Note => Severity::Note,
        }
    }
}

pub(super) fn run(args: &Args) -> Outcome {
    if args.list {
        return list(args);
    }
    if let Some(name) = &args.explain {
        return explain(name);
    }
    let mut reports = Vec::new();
    for request in requests(args)? {
        reports.push(check(&request)?);
    }
    if args.sarif {
        print(&format!("{:#}", sarif::log(&reports)))?;
    } else if args.json {
        let count = |severity| reports.iter().map(|report| report.count(severity)).sum::<usize>();
        let value = json!({
            "schema": 1,
            "errors": count(Severity::Error),
            "warnings": count(Severity::Warning),
            "notes": count(Severity::Note),
            "checks": reports,
        });
        print(&value.to_string())?;
    } else {
        match tell_all(&reports, args) {
            // Who reads no further still wants to know how it ended.
            Ok(()) | Err(Failure::Enough) => {}
            Err(failure) => return Err(failure),
        }
    }
    let worst = reports.iter().flat_map(|report| &report.findings).map(|f| f.severity).max();
    Ok(ExitCode::from(u8::from(worst >= Some(args.deny.least()))))
}

fn list(args: &Args) -> Outcome {
    let selection = Selection::new(args.only.clone(), args.skip.clone(), Vec::new())?;
    let wanted: Vec<&Lint> = lints().filter(|lint| selection.wants(lint)).collect();
    if args.json {
        let each = wanted.iter().map(|lint| {
            json!({
                "name": lint.name,
                "severity": lint.severity,
                "summary": lint.summary,
                "why": lint.why,
                "mend": lint.mend,
            })
        });
        let value = json!({ "schema": 1, "lints": each.collect::<Vec<_>>() });
        print(&value.to_string())?;
        return Ok(ExitCode::SUCCESS);
    }
    for (group, what) in GROUPS {
        let of_group: Vec<_> = wanted.iter().filter(|lint| lint.group() == group).collect();
        if of_group.is_empty() {
            continue;
        }
        print(&format!("{group}: {what}"))?;
        for lint in of_group {
            print(&format!("  {:<26} {:<8} {}", lint.name, lint.severity.word(), lint.summary))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn explain(name: &str) -> Outcome {
    // It says what was meant, if there is no such lint.
    Selection::new(vec![name.to_owned()], Vec::new(), Vec::new())?;
    let Some(lint) = lint(name) else {
        return Err(Failure::message(format!("`{name}` is a group: name one of its lints")));
    };
    print(&format!(
        "{} ({}): {}\n\n{}\n\nTo mend it: {}.",
        lint.name,
        lint.severity.word(),
        lint.summary,
        lint.why,
        lint.mend
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// What is to be judged, each for itself.
fn requests(args: &Args) -> Result<Vec<Request>, Failure> {
    let is_image = |what: &String| {
        let path = Path::new(what);
        let project = path.join(provisioners::project::FILE_NAME).is_file();
        (what.contains('/') || ImageLocation::of(path).file.exists())
            && !project
            && !Project::is_one(path)
    };
    let paths = args.project.is_none() && args.what.first().is_some_and(is_image);
    let selection = args.selection(Vec::new())?;
    let request = Request { kernel: args.kernel.clone(), selection, ..Request::default() };
    if paths {
        let mut images: Vec<PathBuf> = args.what.iter().map(PathBuf::from).collect();
        if let Some(base) = &args.base {
            let mut base = [base.clone()];
            args.offset.apply(&mut base);
            let [base] = &base;
            return Ok(images
                .iter()
                .map(|overlay| over(base, overlay, &images, &request))
                .collect());
        }
        args.offset.apply(&mut images);
        let beneath = usize::from(!args.whole && images.len() > 1);
        let name = args.what.last().cloned().unwrap_or_default();
        return Ok(vec![Request { name, images, beneath, ..request }]);
    }
    args.offset.refuse("in a project")?;
    let Some((project, names)) = project::find(&args.what, args.project.as_deref())? else {
        return Err(Failure::message("name a base and overlays, or images of a project"));
    };
    let members: Vec<&Member> = match names.is_empty() {
        false => names
            .iter()
            .map(|name| project.find(name).map(|index| &project.images()[index]))
            .collect::<Result<_, _>>()
            .map_err(Failure::message)?,
        true => {
            let wanted = |member: &&Member| match args.base {
                Some(_) => member.kind() == "overlay",
                None => member.kind() != "initrd",
            };
            project.images().iter().filter(wanted).collect()
        }
    };
    let catalogue = Catalogue::of(&project, None, None).ok();
    let mut requests = Vec::new();
    for member in members {
        requests.push(of_project(args, member, catalogue.as_ref(), &request)?);
    }
    Ok(requests)
}

/// An overlay over another base; of the other overlays, those beneath it that it was made on.
fn over(base: &Path, overlay: &Path, all: &[PathBuf], request: &Request) -> Request {
    let mut images = vec![base.to_owned()];
    images.extend(crate::check::made_on(overlay).into_iter().filter_map(|name| {
        let named = |path: &&PathBuf| path.file_name() == Some(name.as_ref());
        all.iter().find(named).filter(|path| *path != overlay).cloned()
    }));
    let beneath = images.len();
    images.push(overlay.to_owned());
    let name = overlay.to_string_lossy().into_owned();
    Request { name, images, beneath, other_base: true, ..request.clone() }
}

fn of_project(
    args: &Args,
    member: &Member,
    catalogue: Option<&Catalogue>,
    request: &Request,
) -> Result<Request, Failure> {
    let name = &member.name;
    let output = member.image.outputs.iter().find(|(_, format)| *format != Format::Tar);
    let Some((output, _)) = output else {
        return Err(Failure::message(format!("{name}: it makes nothing that can be judged")));
    };
    if !output.exists() {
        return Err(Failure::message(format!("{name} is not built yet: `overcoat build {name}`")));
    }
    let source = &member.image.source;
    let mut images = source.layers().map(|layers| layers.paths()).unwrap_or_default();
    if let (Some(base), Some(lowest)) = (&args.base, images.first_mut()) {
        lowest.clone_from(base);
    }
    let beneath = if args.whole { 0 } else { images.len() };
    images.push(output.clone());
    let parts = catalogue.and_then(|catalogue| catalogue.parts(name).ok());
    let (kernel, initrd) = parts.map(|parts| (parts.kernel, parts.initrd)).unzip();
    let kernel = kernel.filter(|kernel| kernel.exists());
    // Once for all that boots with it.
    let initrd = initrd.filter(|initrd| member.kind() == "base" && initrd.exists());
    let check = &member.image.check;
    let silences = check.skip.iter().map(|skip| Silence {
        lint: skip.lint.clone(),
        path: skip.path.clone(),
        reason: skip.reason.clone(),
    });
    let selection = args.selection(silences.collect()).map_err(|error| {
        Failure::message(format!("{}: {name}: {error}", member.image.file.display()))
    })?;
    Ok(Request {
        name: name.clone(),
        images,
        beneath,
        other_base: args.base.is_some(),
        kernel: request.kernel.clone().or(kernel),
        initrd,
        budget: Budget { size: check.size, ram: check.ram },
        selection,
    })
}

fn tell_all(reports: &[Report], args: &Args) -> Result<(), Failure> {
    let mut out = Out::new();
    for report in reports {
        tell(&mut out, report, reports, args)?;
    }
    for report in reports.iter().filter(|_| args.base.is_some()) {
        let verdict = match report.count(Severity::Error) {
            0 => out.paint(Colour::Green, "fits"),
            _ => out.paint(Colour::Red, "does not fit"),
        };
        out.line(&format!("{}: {verdict}: {}", report.name, summary(report)))?;
    }
    out.finish()
}

/// Tells what was found, in one of the reports: findings are data, the rest is not.
fn tell(out: &mut Out, report: &Report, all: &[Report], args: &Args) -> Result<(), Failure> {
    let most = match args.all || LevelFilter::current() >= LevelFilter::INFO {
        true => usize::MAX,
        false => TOLD,
    };
    if all.len() > 1 && args.base.is_none() && !report.findings.is_empty() {
        out.line(&format!("{}:", report.name))?;
    }
    for (severity, lint, findings) in report.by_lint() {
        let word = out.paint(colour(severity), severity.word());
        out.line(&format!("{word}: {}: {}", lint.name, lint.summary))?;
        for finding in findings.iter().take(most) {
            out.line(&format!("  {}", line(finding)))?;
            if finding.fix != lint.mend {
                out.line(&format!("    mend: {}", finding.fix))?;
            }
        }
        if findings.len() > most {
            out.line(&format!("  …and {} more (--all shows them)", findings.len() - most))?;
        }
        out.line(&format!("  mend: {}", lint.mend))?;
    }
    out.flush()?;
    for hint in &report.hints {
        say(&format!("{}: {}", report.name, plain(hint)));
    }
    for not_run in &report.not_run {
        let lints = match not_run.lints.len() {
            0..=NAMED => not_run.lints.join(", "),
            count => format!("{count} lints (--json names them)"),
        };
        say(&format!("{}: could not look for {lints}: {}", report.name, not_run.reason));
    }
    // A silence of several images is in vain if it is for all of them.
    let is_used = |name: &str| {
        let mut silenced = all.iter().flat_map(|report| &report.silenced);
        silenced.any(|silenced| silenced.finding.lint.name == name)
    };
    for lint in report.idle_silences.iter().filter(|lint| !is_used(lint)) {
        let idle = all.iter().filter(|other| other.idle_silences.contains(lint));
        let names: Vec<&str> = idle.map(|other| other.name.as_str()).collect();
        // It is told once, of all of them.
        if names.first() == Some(&report.name.as_str()) {
            let names = names.join(", ");
            say(&format!("{names}: the project silences {lint}, which was not found"));
        }
    }
    if args.base.is_none() {
        say(&format!("{}: {}", report.name, summary(report)));
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
    let path = finding.shown_path().map(|path| format!(":{path}")).unwrap_or_default();
    let saves = match finding.saves {
        Some(bytes) => format!(" (saves {})", size_text(bytes)),
        None => String::new(),
    };
    format!("{layer}{path}: {}{saves}", finding.message)
}

fn summary(report: &Report) -> String {
    let mut parts = Vec::new();
    for severity in Severity::ALL {
        match report.count(severity) {
            0 => {}
            1 => parts.push(format!("1 {}", severity.word())),
            n => parts.push(format!("{n} {}s", severity.word())),
        }
    }
    if parts.is_empty() {
        parts.push("nothing found".to_owned());
    }
    if !report.silenced.is_empty() {
        parts.push(format!("{} silenced", report.silenced.len()));
    }
    parts.join(", ")
}

fn colour(severity: Severity) -> Colour {
    match severity {
        Severity::Error => Colour::Red,
        Severity::Warning => Colour::Yellow,
        Severity::Note => Colour::Cyan,
    }
}
