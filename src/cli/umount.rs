//! `umount`: the end of a mount and of its server.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args as ClapArgs;

use super::{Outcome, control};
use crate::sandbox::unmount;

#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    /// A directory on which `overcoat mount` has mounted a root
    #[arg(value_name = "DIR")]
    dir: PathBuf,

    /// Also when it is in use: it disappears now, and ends with its last user
    #[arg(short, long)]
    lazy: bool,
}

pub(super) fn run(args: &Args) -> Outcome {
    // A mount whose server is gone does not answer, and has none to wait for.
    let server = std::fs::metadata(&args.dir)
        .and_then(|found| control::connect(found.dev()))
        .ok()
        .filter(|_| !args.lazy);
    unmount(&args.dir, args.lazy)?;
    if let Some(server) = server {
        control::wait_for_end(&server);
    }
    Ok(ExitCode::SUCCESS)
}
