//! `base`: builds a base image.

use std::path::PathBuf;

use clap::Args as ClapArgs;
use provisioners::image::{Image, Source};

use super::build::{CommonBuildArgs, build_image};
use crate::cli::ui::Ui;
use crate::cli::ui::error::{CommandError, CommandResult};

#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// Image file with `kind: base`
    #[arg(value_name = "FILE")]
    file: PathBuf,

    #[command(flatten)]
    common: CommonBuildArgs,
}

pub(crate) fn run(ui: &Ui, args: &Args) -> CommandResult {
    let image = Image::load(&args.file)?;
    let Source::Base(_) = &image.source else {
        let file = image.file.display();
        return Err(CommandError::user(format!(
            "{file} is not of `kind: base`: build it with `overcoat build {file}`"
        )));
    };
    build_image(ui, &image, &args.common)
}
