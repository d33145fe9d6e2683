//! `promote`: makes a file that `build -o` has written the artifact of its image.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args as ClapArgs;
use serde_json::json;

use super::rollback::result_text;
use super::status::result_json;
use crate::build::promote;
use crate::cli::ui::Ui;
use crate::cli::ui::error::CommandResult;
use crate::cli::ui::project_images::{ProjectOption, find_images};

#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// File that `overcoat build NAME -o FILE` has written
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Image of the project that the file has to be a result of (default: the one that it was
    /// built for)
    #[arg(value_name = "NAME")]
    name: Option<String>,

    #[command(flatten)]
    project: ProjectOption,

    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(ui: &Ui, args: &Args) -> CommandResult {
    let (project, _) = find_images(&[], args.project.file())?;
    let outcome = promote(&project, &args.file, args.name.as_deref())?;
    let name = &project.images()[outcome.index].name;
    let replaced = match &outcome.replaced {
        Some(replaced) => format!(" in place of {}", result_text(replaced)),
        None => String::new(),
    };
    ui.status(&format!(
        "{name}: {} is now {}{replaced}",
        outcome.artifact.display(),
        result_text(&outcome.promoted)
    ));
    if args.json {
        let value = json!({
            "schema": 1,
            "name": name,
            "promoted": result_json(&outcome.promoted),
            "replaced": outcome.replaced.as_ref().map(result_json),
        });
        ui.print(&value.to_string())?;
    }
    Ok(ExitCode::SUCCESS)
}
