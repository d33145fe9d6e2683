//! `build` in a project: builds its outdated images.

use std::ffi::OsString;
use std::process::{Command, ExitCode};

use clap::Args;
use provisioners::Project;
use provisioners::project::Member;
use serde_json::{Value, json};

use super::build::CommonBuildArgs;
use crate::build::{
    BuildReason, DecisionOptions, ImageState, OutdatedLayers, ScheduleOptions, ScheduleOutcome,
    build_project,
};
use crate::cli::ui::Ui;
use crate::cli::ui::error::CommandResult;
use crate::cli::ui::project_images::{ProjectOption, indices};
use crate::cli::ui::reporter::project_reporter;
use crate::cli::ui::stdout::wants_colours;
use crate::manifest::lower::DriftKind;

/// Options of a project build.
#[derive(Debug, Args)]
pub(crate) struct ProjectArgs {
    #[command(flatten)]
    pub(crate) project: ProjectOption,

    /// Number of images to build in parallel (default: the number of processors)
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    jobs: Option<u16>,

    /// After a failure, also build the images that do not need the failed one
    #[arg(short, long)]
    keep_going: bool,

    /// Build the images even if they are up to date
    #[arg(long)]
    force: bool,

    /// Rebuild images whose layers have changed since they were built
    #[arg(long)]
    rebase: bool,

    /// Print all reasons for building an image
    #[arg(long)]
    explain: bool,

    /// List the images that are up to date and those to build, but do not build them
    #[arg(short = 'n', long)]
    dry_run: bool,

    /// With -n: also report packages that apt does not find, and the size of those to fetch
    ///
    /// Fetches the package lists of each image to be built, in a root that is discarded, if its
    /// layers exist.
    #[arg(long, requires = "dry_run")]
    packages: bool,

    /// Ask apt for the packages of the image, for the parent process
    #[arg(long, hide = true, requires = "only")]
    pub(crate) forecast: bool,

    /// Build this image in this process, for the parent process
    #[arg(long, hide = true, value_name = "NAME")]
    pub(crate) only: Option<String>,
}

impl ProjectArgs {
    /// Returns a given option that is only valid for projects, if any.
    pub(crate) fn project_only_option(&self) -> Option<&'static str> {
        let options = [
            (self.jobs.is_some(), "--jobs"),
            (self.keep_going, "--keep-going"),
            (self.force, "--force"),
            (self.rebase, "--rebase"),
            (self.explain, "--explain"),
            (self.dry_run, "--dry-run"),
        ];
        options.iter().find(|(given, _)| *given).map(|(_, option)| *option)
    }
}

/// Builds the images of a project with these names, or all of them, and the images they need.
pub(crate) fn build(
    ui: &Ui,
    project: &Project,
    names: &[String],
    args: &ProjectArgs,
    common: &CommonBuildArgs,
) -> CommandResult {
    let wanted = indices(project, names)?;
    common.check_for_project(project, names)?;
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let options = ScheduleOptions {
        jobs: match args.jobs {
            _ if common.shell_on_failure => 1,
            jobs => jobs.map_or(processors, usize::from),
        },
        decision: DecisionOptions {
            force: args.force,
            rebase: args.rebase,
            dry_run: args.dry_run,
            command_line: common.content_options(),
            elsewhere: common.output.is_some(),
        },
        keep_going: args.keep_going,
        manifest: !common.seal.no_manifest,
        packages: args.packages,
        child,
    };
    let reporter = project_reporter(ui, common.seal.json, args.explain, args.dry_run);
    let outcome = build_project(project, wanted, &options, &reporter)?;
    print_summary(ui, project, &outcome, args.dry_run);
    if common.seal.json {
        let images: Vec<Value> = outcome
            .images
            .iter()
            .map(|(index, state)| image_json(&project.images()[*index], state))
            .collect();
        ui.print(&json!({ "schema": 2, "images": images }).to_string())?;
    }
    let worst = outcome.images.iter().filter_map(|(_, state)| match state {
        ImageState::Failed { code, .. } => Some(*code),
        _ => None,
    });
    Ok(ExitCode::from(worst.max().unwrap_or(0)))
}

/// Prints how many images are in each state, and why images were not built.
fn print_summary(ui: &Ui, project: &Project, outcome: &ScheduleOutcome, dry_run: bool) {
    let images = &outcome.images;
    let count = |is: fn(&ImageState) -> bool| images.iter().filter(|(_, state)| is(state)).count();
    let built = count(|state| matches!(state, ImageState::Built { .. }));
    let due = count(|state| matches!(state, ImageState::Due { .. }));
    let current = count(|state| matches!(state, ImageState::Current { rolled_back: false, .. }));
    let rolled_back = count(|state| matches!(state, ImageState::Current { rolled_back: true, .. }));
    let mut parts = vec![format!("{current} up to date")];
    if rolled_back > 0 {
        parts.push(format!("{rolled_back} rolled back"));
    }
    match dry_run {
        true => parts.push(format!("{due} to be built")),
        false => parts.push(format!("{built} built")),
    }
    let left = images.len() - current - rolled_back - built - due;
    if left > 0 {
        parts.push(format!("{left} not built"));
    }
    let all = match images.len() {
        1 => "1 image".to_owned(),
        n => format!("{n} images"),
    };
    let seconds = outcome.took.as_secs_f64();
    ui.status(&format!("{all}: {} ({seconds:.1} s)", parts.join(", ")));
    for (index, state) in images {
        let name = &project.images()[*index].name;
        match state {
            ImageState::Skipped { need } => {
                ui.status(&format!("{name}: not built: it needs {need}"));
            }
            ImageState::Waiting => {
                ui.status(&format!("{name}: not started after the failure; --keep-going builds it"))
            }
            _ => {}
        }
    }
}

/// Returns the JSON report about an image.
fn image_json(member: &Member, state: &ImageState) -> Value {
    let mut value = json!({ "name": member.name, "kind": member.kind() });
    let texts =
        |reasons: &[BuildReason]| reasons.iter().map(ToString::to_string).collect::<Vec<_>>();
    match state {
        ImageState::Current { rolled_back, older } => {
            value["state"] = if *rolled_back { "rolled_back" } else { "up_to_date" }.into();
            if let Some(OutdatedLayers { layers, paths }) = older {
                value["other_layers"] = json!(layers);
                if let Some(paths) = paths {
                    let each = |(path, since): &(String, DriftKind)| json!({ "path": path, "since": since });
                    value["changed_below"] = paths.iter().map(each).collect();
                }
            }
        }
        ImageState::Due { reasons } => {
            value["state"] = "due".into();
            value["reasons"] = json!(texts(reasons));
        }
        ImageState::Built { reasons, took, reports } => {
            value["state"] = "built".into();
            value["reasons"] = json!(texts(reasons));
            value["seconds"] = json!(took.as_secs_f64());
            value["outputs"] = json!(reports);
        }
        ImageState::Failed { reasons, error, .. } => {
            value["state"] = "failed".into();
            value["reasons"] = json!(texts(reasons));
            value["error"] = json!(error);
        }
        ImageState::Skipped { need } => {
            value["state"] = "skipped".into();
            value["needs"] = json!(need);
        }
        ImageState::Waiting | ImageState::Running { .. } => value["state"] = "not_begun".into(),
    }
    value
}

/// Returns the command that builds one image in a child process: this program, with the same
/// arguments and `--only`.
fn child(name: &str) -> Command {
    let mut command = Command::new("/proc/self/exe");
    let mut arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let at = arguments.iter().position(|argument| argument == "build").map_or(0, |at| at + 1);
    let mut more: Vec<OsString> = vec!["--only".into(), name.into()];
    if !arguments.iter().any(|argument| argument == "--json") {
        more.push("--json".into());
    }
    arguments.splice(at..at, more);
    command.args(arguments);
    // The messages of several children pass through pipes.
    if wants_colours(&std::io::stderr()) {
        command.env("CLICOLOR_FORCE", "1");
    }
    command
}
