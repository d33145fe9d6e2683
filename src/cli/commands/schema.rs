//! `schema`: prints the JSON schemas of project, image and provisioner files.

use std::process::ExitCode;

use clap::{Args as ClapArgs, ValueEnum};

use crate::cli::ui::Ui;
use crate::cli::ui::error::CommandResult;

/// The schema of project and image files.
pub(crate) const PROJECT: &str = include_str!("../../../docs/overcoat.schema.json");
/// The schema of a provisioner.yml.
pub(crate) const PROVISIONER: &str = include_str!("../../../docs/provisioner.schema.json");

#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// Kind of files that the schema describes
    #[arg(value_name = "WHICH", value_enum)]
    which: Which,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Which {
    /// Project files (overcoat.yml) and image files
    Project,
    /// Provisioners (provisioner.yml)
    Provisioner,
}

pub(crate) fn run(ui: &Ui, args: &Args) -> CommandResult {
    let schema = match args.which {
        Which::Project => PROJECT,
        Which::Provisioner => PROVISIONER,
    };
    ui.print(schema.trim_end())?;
    Ok(ExitCode::SUCCESS)
}
