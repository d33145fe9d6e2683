//! `clean`: removes leftovers and kept results.

use std::path::Path;
use std::process::ExitCode;

use clap::Args as ClapArgs;
use serde_json::{Value, json};

use crate::build::{Removal, RemovalReason, clean};
use crate::cli::ui::Ui;
use crate::cli::ui::error::{CommandError, CommandResult};
use crate::cli::ui::project_images::{ProjectOption, find_images, is_project};
use crate::text::size::size_text;

#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// Directory or file of the project (default: that of `--project`)
    #[arg(value_name = "PROJECT", conflicts_with = "project")]
    what: Option<String>,

    #[command(flatten)]
    project: ProjectOption,

    /// Also remove the kept results of all images, except those that a current image was built on
    #[arg(long)]
    kept: bool,

    /// List what would be removed, but remove nothing
    #[arg(short = 'n', long)]
    dry_run: bool,

    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(ui: &Ui, args: &Args) -> CommandResult {
    if let Some(word) = args.what.as_ref().filter(|word| !is_project(Path::new(word))) {
        return Err(CommandError::user(format!(
            "{word} is not a project: `clean` is for all images of a project: give its directory \
             or file"
        )));
    }
    let words: Vec<String> = args.what.iter().cloned().collect();
    let (project, _) = find_images(&words, args.project.file())?;
    let outcome = clean(&project, args.kept, args.dry_run)?;
    if args.json {
        let list = |removals: &[Removal]| removals.iter().map(removal_json).collect::<Vec<_>>();
        let value = json!({
            "schema": 1,
            "dry_run": args.dry_run,
            "removed": list(&outcome.removed),
            "changed": list(&outcome.changed),
            "outside": list(&outcome.outside),
        });
        ui.print(&value.to_string())?;
    } else {
        let action = if args.dry_run { "would remove" } else { "removed" };
        for removal in &outcome.removed {
            ui.print(&format!("{action} {}", removal_text(removal)))?;
        }
    }
    for removal in &outcome.changed {
        ui.status(&format!(
            "{} stays: it was changed after the build; remove it by hand if nothing needs it",
            removal.path.display()
        ));
    }
    for removal in &outcome.outside {
        ui.status(&format!(
            "{} stays: it is not in the output directory {}; remove it by hand if nothing needs it",
            removal.path.display(),
            project.output.display()
        ));
    }
    let sum = outcome.removed.iter().map(|removal| removal.size).sum();
    let action = if args.dry_run { "to remove" } else { "removed" };
    ui.status(&match outcome.removed.len() {
        0 => "nothing to remove".to_owned(),
        1 => format!("{action}: {}", size_text(sum)),
        count => format!("{action}: {count} items, {}", size_text(sum)),
    });
    Ok(ExitCode::SUCCESS)
}

fn removal_text(removal: &Removal) -> String {
    let Removal { path, size, image, reason } = removal;
    let reason = match reason {
        RemovalReason::Leftover => format!("leftover of {image}"),
        RemovalReason::FormerImage => {
            format!("result of {image}, which the project does not have any more")
        }
        RemovalReason::Excess | RemovalReason::Kept => format!("kept result of {image}"),
        RemovalReason::Interrupted => {
            format!("files of {image} that an interrupted command has left")
        }
    };
    format!("{} ({}, {reason})", path.display(), size_text(*size))
}

fn removal_json(removal: &Removal) -> Value {
    let reason = match removal.reason {
        RemovalReason::Leftover => "leftover",
        RemovalReason::FormerImage => "former_image",
        RemovalReason::Excess => "excess",
        RemovalReason::Interrupted => "interrupted",
        RemovalReason::Kept => "kept",
    };
    json!({
        "path": removal.path.to_string_lossy(),
        "image": removal.image,
        "size": removal.size,
        "reason": reason,
    })
}
