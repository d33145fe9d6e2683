//! The command line: one module a subcommand. Data goes to standard output, everything else to
//! standard error.
//!
//! Exit codes: 0 fine; 1 what was asked about is not so, or the provisioner failed; 2 overcoat
//! itself could not do it. `run` and `shell` end with the code of their command (127 when there is
//! no such command, 126 when it cannot be executed), and a signal that ends overcoat is told as
//! shells do, 128 and its number; only `serve` ends with 0 when it is asked to end.

mod base;
mod boot;
mod build;
mod cat;
mod check;
mod completions;
mod control;
mod diff;
mod doctor;
mod du;
mod examples;
mod extract;
mod images;
mod import;
mod init;
mod inspect;
mod ls;
mod man;
mod mount;
mod mount_helper;
mod options;
mod out;
mod progress;
mod project;
mod run;
mod schema;
mod seal;
mod sealer;
mod serve;
mod shown;
mod stat;
mod tree;
mod umount;

use std::error::Error;
use std::fs::File;
use std::io::{IsTerminal, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::OnceLock;

use clap::{ArgAction, CommandFactory, FromArgMatches, Parser, Subcommand};
use tracing::level_filters::LevelFilter;

use crate::root::RootError;
use crate::sandbox::SandboxError;
use crate::seal::SealError;

#[derive(Debug, Parser)]
#[command(
    name = "overcoat",
    version,
    about = "Compose a read-only base and a writable upper as one root, provision it without \
             root rights, and seal what changed into a reproducible overlay",
    max_term_width = 100
)]
struct Cli {
    /// Say more of what happens (twice: everything)
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build what is out of date of a project, or the image that an image file describes
    Build(build::Args),
    /// Run a command in a root of base and overlays
    Run(run::RunArgs),
    /// Open a shell in a root of base and overlays
    Shell(run::ShellArgs),
    /// Mount base and overlays as one root
    Mount(mount::Args),
    /// Seal what changed in a mounted root
    Seal(seal::Args),
    /// Unmount a root, and end its server
    Umount(umount::Args),
    /// Build a Debian base image
    Base(base::Args),
    /// Show what is in base and overlays: on the terminal, or as a page for a browser
    Inspect(inspect::Args),
    /// Begin a project: a base, an overlay and an initrd, with comments
    Init(init::Args),
    /// Make a project of an on-imagebuilder tree
    Import(import::Args),
    /// Print the JSON schema of project files or of provisioners, for editors
    Schema(schema::Args),
    /// Judge overlays over a base: will they unpack, fit, work
    Check(check::Args),
    /// Boot artifacts in a machine, from the firmware on, and say whether it comes up
    Boot(boot::Args),
    /// Serve a project's artifacts over HTTP, to machines that boot
    Serve(serve::Args),
    /// List what is in images, without mounting them
    Ls(ls::Args),
    /// Show what is in images as a tree
    Tree(tree::Args),
    /// Write files of images to standard output
    Cat(cat::Args),
    /// Take files out of images, into a folder or an archive
    Extract(extract::Args),
    /// Tell all that is known of an object in images, layer by layer
    Stat(stat::Args),
    /// Sum up what takes how much in images, or how much RAM they need
    Du(du::Args),
    /// Tell what overlays change in their base, or in what two stacks differ
    Diff(diff::Args),
    /// Say what works on this machine, what does not, and what mends it
    Doctor(doctor::Args),
    /// Print a script that has a shell complete commands, images and paths in images
    Completions(completions::Args),
    /// Show a manual page, or write all of them
    Man(man::Args),
}

/// Why a subcommand ended without doing what it was asked.
#[derive(Debug)]
enum Failure {
    /// Something failed: the exit code, and what to say.
    Error(u8, Box<dyn Error>),
    /// A signal asked to end.
    Signal(i32),
    /// Who reads standard output has had enough.
    Enough,
}

impl Failure {
    /// A message without a typed error behind it.
    fn message(text: impl Into<String>) -> Self {
        Failure::Error(2, text.into().into())
    }
}

macro_rules! failure_from {
    ($($error:ty),* $(,)?) => {
        $(impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Failure::Error(2, Box::new(error))
            }
        })*
    };
}

failure_from!(
    RootError,
    SandboxError,
    SealError,
    crate::sandbox::MissingRequirement,
    fs_model::FsError,
    provisioners::ConfigError,
    provisioners::PlanError,
    provisioners::on_imagebuilder::ImportError,
    crate::import::RootImportError,
    crate::layers::OpenError,
    crate::look::LookError,
    crate::project::RecordError,
    crate::inspect::model::ModelError,
    crate::serve::CatalogueError,
    crate::boot::BootError,
    crate::check::CheckError,
    crate::check::UnknownLint,
    std::io::Error,
);

type Outcome = Result<ExitCode, Failure>;

/// The command line as it is parsed, helped with, completed and described in manual pages.
fn command() -> clap::Command {
    completions::attach(examples::attach(Cli::command()))
}

/// Runs the program with the process's own arguments.
pub fn main() -> ExitCode {
    completions::answer();
    crate::fuse::settle_allocator();
    let arguments: Vec<_> = std::env::args_os().collect();
    if mount_helper::is_called(&arguments) {
        start_tracing(0);
        return mount_helper::run(arguments.into_iter().skip(1));
    }
    let cli = match Cli::from_arg_matches(&command().get_matches_from(arguments)) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    start_tracing(cli.verbose);
    let outcome = match cli.command {
        Command::Build(args) => build::run(&args),
        Command::Run(args) => run::run(&args),
        Command::Shell(args) => run::shell(&args),
        Command::Mount(args) => mount::run(&args),
        Command::Seal(args) => seal::run(&args),
        Command::Umount(args) => umount::run(&args),
        Command::Base(args) => base::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Init(args) => init::run(&args),
        Command::Import(args) => import::run(&args),
        Command::Schema(args) => schema::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Boot(args) => boot::run(&args),
        Command::Serve(args) => serve::run(&args),
        Command::Ls(args) => ls::run(&args),
        Command::Tree(args) => tree::run(&args),
        Command::Cat(args) => cat::run(&args),
        Command::Extract(args) => extract::run(&args),
        Command::Stat(args) => stat::run(&args),
        Command::Du(args) => du::run(&args),
        Command::Diff(args) => diff::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Completions(args) => completions::run(&args),
        Command::Man(args) => man::run(&args),
    };
    match outcome {
        Ok(code) => code,
        Err(Failure::Enough) => ExitCode::SUCCESS,
        Err(Failure::Signal(signal)) => ExitCode::from(128 + (signal & 0x7f) as u8),
        Err(Failure::Error(code, error)) => {
            say(&format!("error: {}", describe(&*error)));
            ExitCode::from(code)
        }
    }
}

/// An error and what caused it, as one message.
fn describe(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let reason = error.to_string();
        // Some errors tell their cause themselves.
        if !text.contains(&reason) {
            text.push_str(": ");
            text.push_str(&reason);
        }
        cause = error.source();
    }
    text
}

/// The image that this process builds for another one, which stands in front of what it says.
static IMAGE: OnceLock<String> = OnceLock::new();

/// A line for the user. That standard error is gone is no reason to fail.
fn say(text: &str) {
    let _ = match IMAGE.get() {
        Some(image) => writeln!(std::io::stderr(), "overcoat: {image}: {text}"),
        None => writeln!(std::io::stderr(), "overcoat: {text}"),
    };
}

fn say_warnings(warnings: &[String]) {
    for warning in warnings {
        say(&format!("warning: {warning}"));
    }
}

/// Where data goes instead of standard output, in a process that builds an image for another one.
static REPORT: OnceLock<File> = OnceLock::new();

/// From now on this process builds `image` for the one that started it: standard output was a pipe to
/// that, and is where the user is now.
fn work_for_another(image: &str) -> Result<(), Failure> {
    let pipe = std::io::stdout().as_fd().try_clone_to_owned()?;
    rustix::stdio::dup2_stdout(std::io::stderr()).map_err(std::io::Error::from)?;
    // It is done once.
    let _ = REPORT.set(File::from(pipe));
    let _ = IMAGE.set(image.to_owned());
    Ok(())
}

/// Data for standard output; a reader that went away has had enough.
fn print(text: &str) -> Result<(), Failure> {
    let written = match REPORT.get() {
        Some(mut report) => writeln!(report, "{text}"),
        None => writeln!(std::io::stdout(), "{text}"),
    };
    match written {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}

fn start_tracing(verbose: u8) {
    let level = match verbose {
        0 => LevelFilter::WARN,
        1 => LevelFilter::INFO,
        2 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    let colour = std::io::stderr().is_terminal() && out::are_colours_wanted();
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_ansi(colour)
        .with_target(verbose > 1)
        .without_time()
        .init();
}
