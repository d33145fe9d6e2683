//! `status`: shows the state of a project's images, their kept results, and leftovers.

use std::process::ExitCode;

use anstyle::AnsiColor;
use clap::Args as ClapArgs;
use provisioners::Project;
use serde_json::{Value, json};

use crate::build::{
    BaseStatus, ImageStatus, KeptResult, ProjectStatus, Record, ResultState, project_status,
};
use crate::cli::ui::Ui;
use crate::cli::ui::error::{CommandError, CommandResult, ErrorKind};
use crate::cli::ui::project_images::{ProjectOption, find_images};
use crate::cli::ui::stdout::StdoutWriter;
use crate::text::digest::short;
use crate::text::size::size_text;
use crate::text::time::ago;

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Exit code: 0, also if images are out of date; with --exit-code 1 if a build would build one of them
or fail. 2 if the state cannot be found.")]
pub(crate) struct Args {
    /// Images of the project (default: all)
    #[arg(value_name = "NAME")]
    names: Vec<String>,

    #[command(flatten)]
    project: ProjectOption,

    /// Exit with 1 if an image is out of date
    #[arg(long)]
    exit_code: bool,

    /// Print the state as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(ui: &Ui, args: &Args) -> CommandResult {
    let (project, wanted) = find_images(&args.names, args.project.file())?;
    let status = project_status(&project, &wanted)?;
    let printed = match args.json {
        true => ui.print(&status_json(&project, &status).to_string()).map_err(CommandError::from),
        false => print(&project, &status, args.names.is_empty()),
    };
    match printed {
        // The exit code still reports the state if the reader closed the pipe.
        Err(error) if error.kind != ErrorKind::OutputClosed => return Err(error),
        _ => {}
    }
    let is_due = |image: &ImageStatus| {
        !matches!(image.state, ResultState::UpToDate | ResultState::RolledBack)
    };
    Ok(ExitCode::from(u8::from(args.exit_code && status.images.iter().any(is_due))))
}

/// Returns the word for a state, for people and as an identifier, and its colour.
fn state_word(state: ResultState) -> (&'static str, &'static str, AnsiColor) {
    match state {
        ResultState::UpToDate => ("up to date", "up_to_date", AnsiColor::Green),
        ResultState::RolledBack => ("rolled back", "rolled_back", AnsiColor::Cyan),
        ResultState::Due => ("due", "due", AnsiColor::Yellow),
        ResultState::Missing => ("missing", "missing", AnsiColor::Yellow),
        ResultState::Failed => ("error", "failed", AnsiColor::Red),
    }
}

fn print(project: &Project, status: &ProjectStatus, all: bool) -> Result<(), CommandError> {
    let mut out = StdoutWriter::new();
    let head = ["image", "kind", "state", "base", "size", "digest", "built", "why"];
    let mut rows = vec![head.map(str::to_owned)];
    rows.extend(status.images.iter().map(|image| row(project, image)));
    let widths: Vec<usize> = (0..head.len())
        .map(|at| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0))
        .collect();
    for (at, row) in rows.iter().enumerate() {
        let mut line = String::new();
        for (column, (text, width)) in row.iter().zip(&widths).enumerate() {
            let padded = match head[column] {
                "size" => format!("{text:>width$}"),
                "why" => text.clone(),
                _ => format!("{text:<width$}"),
            };
            let image = at.checked_sub(1).and_then(|at| status.images.get(at));
            line += &match image.filter(|_| head[column] == "state") {
                Some(image) => out.paint(state_word(image.state).2, &padded),
                None => padded,
            };
            line += "  ";
        }
        out.line(line.trim_end())?;
    }
    for image in &status.images {
        let name = &project.images()[image.index].name;
        for kept in &image.kept {
            let needed = match kept.needed_by.as_slice() {
                [] => String::new(),
                names => format!(", needed by {}", names.join(", ")),
            };
            out.line(&format!("kept: {name}: {}{needed}", kept_text(&kept.result)))?;
        }
    }
    if all {
        for (name, kept) in &status.former {
            out.line(&format!(
                "kept: {name}, which the project does not have any more: {}",
                kept_text(kept)
            ))?;
        }
        for leftover in &status.leftovers {
            let touched = if leftover.is_touched { ", changed after the build" } else { "" };
            out.line(&format!(
                "leftover: {}: {}, of {}{touched}",
                leftover.path.display(),
                size_text(leftover.size),
                leftover.image
            ))?;
        }
    }
    out.finish()
}

/// Returns the columns of an image.
fn row(project: &Project, image: &ImageStatus) -> [String; 8] {
    let member = &project.images()[image.index];
    let none = || "-".to_owned();
    let record = image.record.as_ref();
    let why = match image.reasons.as_slice() {
        [] => other_layers_text(image),
        // An error may have several lines.
        [reason] => reason.lines().next().unwrap_or_default().to_owned(),
        [reason, more @ ..] => format!("{reason}, and {} more", more.len()),
    };
    [
        member.name.clone(),
        member.kind().to_owned(),
        state_word(image.state).0.to_owned(),
        image.base.as_ref().map_or_else(none, |base| match base.is_current {
            true => base.name.clone(),
            false => format!("{} {}", base.name, short(&base.layer.sha256)),
        }),
        record.map_or_else(none, |record| size_text(record.artifact_size())),
        record.map_or_else(none, |record| short(record.digest()).to_owned()),
        record.and_then(Record::built).map_or_else(none, ago),
        why,
    ]
}

fn other_layers_text(image: &ImageStatus) -> String {
    match image.other_layers.as_slice() {
        [] => String::new(),
        layers => format!("built on another {}", layers.join(", ")),
    }
}

fn kept_text(kept: &KeptResult) -> String {
    let record = &kept.record;
    let built = record.built().map(|time| format!(", built {}", ago(time))).unwrap_or_default();
    format!("{} {}{built}", short(record.digest()), size_text(record.size()))
}

fn status_json(project: &Project, status: &ProjectStatus) -> Value {
    let images = status.images.iter().map(|image| image_json(project, image));
    let leftovers = status.leftovers.iter().map(|leftover| {
        json!({
            "path": leftover.path.to_string_lossy(),
            "image": leftover.image,
            "size": leftover.size,
            "changed": leftover.is_touched,
        })
    });
    let former = status.former.iter().map(|(name, kept)| {
        let mut value = result_json(&kept.record);
        value["image"] = json!(name);
        value
    });
    json!({
        "schema": 1,
        "images": images.collect::<Vec<_>>(),
        "leftovers": leftovers.collect::<Vec<_>>(),
        "former_results": former.collect::<Vec<_>>(),
    })
}

fn image_json(project: &Project, image: &ImageStatus) -> Value {
    let member = &project.images()[image.index];
    let mut value = image.record.as_ref().map_or_else(|| json!({}), result_json);
    value["name"] = json!(member.name);
    value["kind"] = json!(member.kind());
    value["state"] = json!(state_word(image.state).1);
    match image.state {
        ResultState::Failed => value["error"] = json!(image.reasons.join("\n")),
        _ => value["reasons"] = json!(image.reasons),
    }
    if let Some(BaseStatus { name, layer, is_current }) = &image.base {
        value["base"] = json!({ "name": name, "sha256": layer.sha256, "current": is_current });
    }
    value["other_layers"] = json!(image.other_layers);
    let kept = image.kept.iter().map(|kept| {
        let mut value = result_json(&kept.result.record);
        value["needed_by"] = json!(kept.needed_by);
        value
    });
    value["kept"] = kept.collect();
    value
}

/// Returns the JSON report about a result.
pub(crate) fn result_json(record: &Record) -> Value {
    let outputs = record.outputs.iter().map(|output| {
        json!({
            "file": output.file.to_string_lossy(),
            "sha256": output.sha256,
            "size": output.stamp.size(),
        })
    });
    json!({
        "sha256": record.digest(),
        "built": record.built(),
        "size": record.artifact_size(),
        "outputs": outputs.collect::<Vec<_>>(),
    })
}
