//! `rollback`: puts an earlier result of an image back.

use std::process::ExitCode;

use clap::Args as ClapArgs;
use serde_json::{Value, json};

use super::status::result_json;
use crate::build::{Record, project_results, rollback};
use crate::cli::ui::Ui;
use crate::cli::ui::error::{CommandError, CommandResult};
use crate::cli::ui::project_images::{ProjectOption, find_images};
use crate::text::digest::short;
use crate::text::size::size_text;
use crate::text::time::ago;

#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// Image of the project
    #[arg(value_name = "NAME", required_unless_present = "list")]
    name: Option<String>,

    #[command(flatten)]
    project: ProjectOption,

    /// Put back the result whose digest begins with DIGEST, also a newer one
    #[arg(long, value_name = "DIGEST", conflicts_with = "list")]
    to: Option<String>,

    /// List the results that are kept, the newest first, and change nothing
    #[arg(long)]
    list: bool,

    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(ui: &Ui, args: &Args) -> CommandResult {
    let names: Vec<String> = args.name.iter().cloned().collect();
    let (project, images) = find_images(&names, args.project.file())?;
    if args.list {
        let results = images.into_iter().map(|index| {
            Ok((project.images()[index].name.clone(), project_results(&project, index)?))
        });
        return list(ui, args, &results.collect::<Result<Vec<_>, CommandError>>()?);
    }
    let [index] = images.as_slice() else {
        return Err(CommandError::user("name one image of the project"));
    };
    let name = &project.images()[*index].name;
    let outcome = rollback(&project, *index, args.to.as_deref())?;
    let replaced = match &outcome.replaced {
        Some(replaced) => format!(" in place of {}", result_text(replaced)),
        None => String::new(),
    };
    ui.status(&format!("{name}: put back {}{replaced}", result_text(&outcome.put_back)));
    if outcome.replaced.is_some() && !outcome.is_kept {
        ui.warning(&format!(
            "{name}: the replaced result is not kept: its files were changed after the build"
        ));
    }
    if outcome.stays {
        ui.status(&format!(
            "{name}: stays as it is until its inputs change; `overcoat build --force {name}` \
             builds it again"
        ));
    }
    if !outcome.other_layers.is_empty() {
        ui.status(&format!("{name}: built on another {}", outcome.other_layers.join(", ")));
    }
    if args.json {
        let value = json!({
            "schema": 1,
            "name": name,
            "put_back": result_json(&outcome.put_back),
            "replaced": outcome.replaced.as_ref().map(result_json),
            "replaced_is_kept": outcome.is_kept,
            "other_layers": outcome.other_layers,
        });
        ui.print(&value.to_string())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Describes a result by its digest and its age.
pub(crate) fn result_text(record: &Record) -> String {
    let digest = short(record.digest());
    match record.built() {
        Some(time) => format!("{digest} (built {})", ago(time)),
        None => digest.to_owned(),
    }
}

fn list(ui: &Ui, args: &Args, images: &[(String, ImageResults)]) -> CommandResult {
    let each = |results: &ImageResults| -> Vec<Value> {
        let each = results.iter().map(|(record, is_current)| {
            let mut value = result_json(record);
            value["current"] = json!(is_current);
            value
        });
        each.collect()
    };
    if args.json {
        let images =
            images.iter().map(|(name, results)| json!({ "name": name, "results": each(results) }));
        let value = json!({ "schema": 1, "images": images.collect::<Vec<_>>() });
        ui.print(&value.to_string())?;
        return Ok(ExitCode::SUCCESS);
    }
    for (name, results) in images {
        ui.print(&format!("{name}:"))?;
        if results.is_empty() {
            ui.print("  no results")?;
        }
        for (record, is_current) in results {
            let mark = if *is_current { ", current" } else { "" };
            ui.print(&format!(
                "  {}, {}{mark}",
                result_text(record),
                size_text(record.artifact_size())
            ))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The results of an image, each with whether it is the current one.
type ImageResults = Vec<(Record, bool)>;
