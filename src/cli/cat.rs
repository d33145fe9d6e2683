//! `cat`: prints files from images, byte for byte.

use std::process::ExitCode;

use clap::Args as ClapArgs;
use fs_model::tree::Follow;

use super::images::Images;
use super::out::Out;
use super::shown::{inside, words};
use super::{Failure, Outcome, say};
use crate::seal::path::escape;

#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    #[command(flatten)]
    images: Images,
}

pub(super) fn run(args: &Args) -> Outcome {
    let opened = args.images.open()?;
    if opened.paths.is_empty() {
        return Err(Failure::message(
            "no file given: write its path after the images, with a colon before it, such as \
             :/etc/passwd",
        ));
    }
    let mut out = Out::new();
    let mut missing = false;
    let code = opened.each(Follow::Yes, &mut |node| {
        if node.is_link() {
            let (path, target) = (inside(&node.path), opened.view.link(&node)?);
            say(&format!("error: {path}: broken symbolic link to {}", escape(&target)));
            missing = true;
            return Ok(());
        }
        if !node.is_file() {
            let what = words(node.attr.kind);
            return Err(Failure::message(format!("{}: cannot print a {what}", inside(&node.path))));
        }
        opened.view.read::<Failure>(&node, &mut |piece| out.bytes(piece))
    });
    // Print the files before the failed one too.
    out.finish()?;
    if missing { Ok(ExitCode::from(1)) } else { code }
}
