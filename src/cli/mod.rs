//! The command line, with one module for each subcommand. Data goes to standard output, everything
//! else to standard error.
//!
//! Exit codes: 0 on success; 1 when the answer is no (`diff` found differences, `check` found
//! errors) or a provisioner failed; 2 when overcoat itself failed. `run` and `shell` exit with the
//! code of their command (127 if it is not found, 126 if it cannot be executed). After a signal the
//! code is 128 plus the signal number, as in shells; only `serve` exits with 0, because a signal is
//! the normal way to stop it.

mod commands;
pub(crate) mod ui;

use std::process::ExitCode;

use clap::{ArgAction, CommandFactory, FromArgMatches, Parser, Subcommand};
use tracing::level_filters::LevelFilter;

use self::commands::{
    base, boot, build, cat, check, clean, completions, diff, doctor, du, extract, import, init,
    inspect, ls, man, mount, mount_helper, promote, rollback, run, schema, seal, serve, stat,
    status, tree, umount,
};
use self::ui::error::CommandError;
use self::ui::stdout::wants_colours;
use self::ui::{Ui, examples};

#[derive(Debug, Parser)]
#[command(
    name = "overcoat",
    version,
    about = "Build reproducible overlays for read-only base images, without root privileges",
    long_about = "Build reproducible overlays for read-only base images, without root privileges.\
                  \n\n\
                  overcoat shows a base and a writable upper layer in memory as one root, runs \
                  provisioners or commands in it, and seals the changes into an archive.",
    max_term_width = 100
)]
pub(crate) struct Cli {
    /// Print more messages; repeat for debug messages
    ///
    /// The first -v also prints the output of build steps and complete lists of warnings and
    /// findings.
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,

    #[command(subcommand)]
    command: CliCommand,
}

#[derive(Debug, Subcommand)]
enum CliCommand {
    /// Build the outdated images of a project, or a single image file
    ///
    /// An image is outdated when its inputs differ from those of its last build, or when a file
    /// that it produced is missing or changed. `--explain` prints the reasons. With --output, one
    /// named image is built to another file, and its artifacts stay as they are.
    Build(build::Args),
    /// Show which images of a project are out of date, and why
    ///
    /// Lists each image with its base, size, digest and age, the earlier results that are kept, and
    /// leftovers: files that no image makes any more.
    Status(status::Args),
    /// Put the previous result of an image back
    ///
    /// A build keeps the result that it replaces. The image then stays as it is until its inputs
    /// change; `overcoat build --force NAME` builds it again. A second rollback goes further back.
    Rollback(rollback::Args),
    /// Replace an artifact by a file that `build -o` has written
    ///
    /// The file is moved, with its manifest. The replaced result is kept, and the next build does
    /// not build the image again if its inputs have not changed since the file was built.
    Promote(promote::Args),
    /// Remove files that no image makes any more
    ///
    /// Removes files that earlier builds have recorded as their own, and kept results that are too
    /// many or of images that the project does not have any more. Files that were changed after the
    /// build stay.
    Clean(clean::Args),
    /// Run a command in a root made of a base and overlays
    ///
    /// Changes are kept in memory and discarded when the command ends, unless --save writes them
    /// to an archive. overcoat exits with the command's exit code.
    Run(run::RunArgs),
    /// Open a shell in a root made of a base and overlays
    ///
    /// Changes are kept in memory and discarded when the shell ends, unless --save writes them to
    /// an archive.
    Shell(run::ShellArgs),
    /// Mount a base and overlays as one root
    ///
    /// The mount is served by a background process until `overcoat umount`.
    Mount(mount::Args),
    /// Write the changes of a mounted root to an archive
    ///
    /// The mount stays in use. Programs that change it wait until the archive is written.
    Seal(seal::Args),
    /// Unmount a root and stop its server
    ///
    /// Changes that were not sealed are discarded.
    Umount(umount::Args),
    /// Build a Debian base image
    Base(base::Args),
    /// Browse a base and overlays in the terminal, or write an HTML page
    Inspect(inspect::Args),
    /// Create a project with a base, an overlay and an initrd
    Init(init::Args),
    /// Convert an on-imagebuilder tree into a project
    Import(import::Args),
    /// Print the JSON schema of project files or provisioners
    ///
    /// Editors use the schemas to complete and check these files.
    Schema(schema::Args),
    /// Check whether overlays unpack, fit their base and work on it
    Check(check::Args),
    /// Boot artifacts in QEMU and report whether the system comes up
    ///
    /// The machine boots from its firmware through iPXE and HTTP, as a physical machine does.
    Boot(boot::Args),
    /// Serve a project's artifacts over HTTP to booting machines
    Serve(serve::Args),
    /// List files in images, without mounting them
    Ls(ls::Args),
    /// Show the files in images as a tree
    Tree(tree::Args),
    /// Print files from images
    Cat(cat::Args),
    /// Extract files from images into a directory or an archive
    Extract(extract::Args),
    /// Show a file's details in each layer
    Stat(stat::Args),
    /// Show disk usage, or the RAM needed
    Du(du::Args),
    /// Compare an overlay with its base, or two image stacks
    Diff(diff::Args),
    /// Check whether this machine can run overcoat
    ///
    /// Prints the commands that fix each problem found.
    Doctor(doctor::Args),
    /// Print a shell completion script
    ///
    /// The script completes commands, options, image names and paths inside images.
    Completions(completions::Args),
    /// Show a manual page, or write all of them to a directory
    Man(man::Args),
}

impl CliCommand {
    /// Returns the image that this process builds for its parent process, if any.
    fn child_image(&self) -> Option<&str> {
        match self {
            CliCommand::Build(args) => args.child_image(),
            _ => None,
        }
    }
}

/// Returns the command line definition, with examples in the help and completers attached.
pub(crate) fn command() -> clap::Command {
    completions::attach(examples::attach(Cli::command()))
}

/// Runs the program with the process's own arguments.
pub fn main() -> ExitCode {
    completions::answer();
    crate::fuse::settle_allocator();
    let arguments: Vec<_> = std::env::args_os().collect();
    if mount_helper::is_called(&arguments) {
        start_tracing(0);
        return mount_helper::run(&Ui::default(), arguments.into_iter().skip(1));
    }
    let cli = match Cli::from_arg_matches(&command().get_matches_from(arguments)) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    start_tracing(cli.verbose);
    let ui = match cli.command.child_image().map(Ui::for_child).transpose() {
        Ok(ui) => ui.unwrap_or_default(),
        Err(error) => return CommandError::from(error).report(&Ui::default()),
    };
    let outcome = match cli.command {
        CliCommand::Build(args) => build::run(&ui, &args),
        CliCommand::Status(args) => status::run(&ui, &args),
        CliCommand::Rollback(args) => rollback::run(&ui, &args),
        CliCommand::Promote(args) => promote::run(&ui, &args),
        CliCommand::Clean(args) => clean::run(&ui, &args),
        CliCommand::Run(args) => run::run(&ui, &args),
        CliCommand::Shell(args) => run::shell(&ui, &args),
        CliCommand::Mount(args) => mount::run(&ui, &args),
        CliCommand::Seal(args) => seal::run(&ui, &args),
        CliCommand::Umount(args) => umount::run(&ui, &args),
        CliCommand::Base(args) => base::run(&ui, &args),
        CliCommand::Inspect(args) => inspect::run(&ui, &args),
        CliCommand::Init(args) => init::run(&ui, &args),
        CliCommand::Import(args) => import::run(&ui, &args),
        CliCommand::Schema(args) => schema::run(&ui, &args),
        CliCommand::Check(args) => check::run(&ui, &args),
        CliCommand::Boot(args) => boot::run(&ui, &args),
        CliCommand::Serve(args) => serve::run(&ui, &args),
        CliCommand::Ls(args) => ls::run(&ui, &args),
        CliCommand::Tree(args) => tree::run(&ui, &args),
        CliCommand::Cat(args) => cat::run(&ui, &args),
        CliCommand::Extract(args) => extract::run(&ui, &args),
        CliCommand::Stat(args) => stat::run(&ui, &args),
        CliCommand::Du(args) => du::run(&ui, &args),
        CliCommand::Diff(args) => diff::run(&ui, &args),
        CliCommand::Doctor(args) => doctor::run(&ui, &args),
        CliCommand::Completions(args) => completions::run(&ui, &args),
        CliCommand::Man(args) => man::run(&ui, &args),
    };
    outcome.unwrap_or_else(|error| error.report(&ui))
}

fn start_tracing(verbose: u8) {
    let level = match verbose {
        0 => LevelFilter::WARN,
        1 => LevelFilter::INFO,
        2 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    let colour = wants_colours(&std::io::stderr());
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_ansi(colour)
        .with_target(verbose > 1)
        .without_time()
        .init();
}
