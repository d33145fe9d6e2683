//! `umount`: the end of a mount and of its server.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args as ClapArgs;

use super::Outcome;
use super::control::{self, Request};
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
    let server = control::place(&args.dir).and_then(|place| control::connect(place.device)).ok();
    unmount(&args.dir, args.lazy)?;
    match server {
        // Its last user may be one who waits for a seal to end. (That it has gone meanwhile is
        // all the better.)
        Some(server) if args.lazy => drop(control::send(&server, &Request::GiveUp, None)),
        Some(server) => control::wait_for_end(&server),
        None => {}
    }
    Ok(ExitCode::SUCCESS)
}
