//! `umount`: unmounts a root and stops its server.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args as ClapArgs;

use crate::cli::ui::Ui;
use crate::cli::ui::error::CommandResult;
use crate::mount::control::{self, ControlRequest};
use crate::sandbox::unmount;

#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// Directory that a root is mounted on
    #[arg(value_name = "DIR")]
    dir: PathBuf,

    /// Unmount a root that is in use
    ///
    /// The root disappears at once; its server exits when no process uses the root any more.
    #[arg(short, long)]
    lazy: bool,
}

pub(crate) fn run(_: &Ui, args: &Args) -> CommandResult {
    // A server that has ended needs no connection and no wait.
    let server =
        control::find_mount(&args.dir).and_then(|mount| control::connect(mount.device)).ok();
    unmount(&args.dir, args.lazy)?;
    match server {
        // A process that waits for a running seal would keep the root in use. Errors are ignored:
        // the server may have exited already.
        Some(server) if args.lazy => drop(control::send(&server, &ControlRequest::GiveUp, None)),
        Some(server) => control::wait_for_exit(&server),
        None => {}
    }
    Ok(ExitCode::SUCCESS)
}
