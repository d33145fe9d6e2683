//! `cat`: prints files from images, byte for byte.

use std::process::ExitCode;

use clap::Args as ClapArgs;
use fs_model::tree::Follow;

use crate::cli::ui::Ui;
use crate::cli::ui::error::{CommandError, CommandResult};
use crate::cli::ui::format::display_path;
use crate::cli::ui::image_args::ImageArgs;
use crate::cli::ui::stdout::StdoutWriter;
use crate::text::attr::file_type_name;
use crate::text::escape::escape;

#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    #[command(flatten)]
    images: ImageArgs,
}

pub(crate) fn run(ui: &Ui, args: &Args) -> CommandResult {
    let opened = args.images.open(ui)?;
    if opened.paths.is_empty() {
        return Err(CommandError::user(
            "no file given: write its path after the images, with a colon before it, such as \
             :/etc/passwd",
        ));
    }
    let mut out = StdoutWriter::new();
    let mut missing = false;
    let code = opened.each(Follow::Yes, &mut |node| {
        if node.is_link() {
            let (path, target) = (display_path(&node.path), opened.view.link(&node)?);
            ui.error(&format!("{path}: broken symbolic link to {}", escape(&target)));
            missing = true;
            return Ok(());
        }
        if !node.is_file() {
            let what = file_type_name(node.attr.kind);
            return Err(CommandError::user(format!(
                "{}: cannot print a {what}",
                display_path(&node.path)
            )));
        }
        opened.view.read::<CommandError>(&node, &mut |piece| out.bytes(piece))
    });
    // Print the files before the failed one too.
    out.finish()?;
    if missing { Ok(ExitCode::from(1)) } else { code }
}
