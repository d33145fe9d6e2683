//! `seal`: writes the changes of a mounted root to an archive.

use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args as ClapArgs;

use crate::build::source_date_epoch;
use crate::cli::ui::Ui;
use crate::cli::ui::args::SealArgs;
use crate::cli::ui::error::{CommandError, CommandResult};
use crate::mount::control::{self, ControlReply, ControlRequest, SealRequest};
use crate::sandbox::mounted_at;
use crate::seal::Output;

#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// Directory that a root is mounted on
    #[arg(value_name = "DIR")]
    dir: PathBuf,

    /// Write the archive to this file; `-` is standard output
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,

    #[command(flatten)]
    seal: SealArgs,
}

pub(crate) fn run(ui: &Ui, args: &Args) -> CommandResult {
    let dir = args.dir.display();
    let settings = args.seal.settings();
    let format = settings.format_for(&args.output, None)?;
    let mount =
        control::find_mount(&args.dir).map_err(|e| CommandError::system(dir.to_string(), e))?;
    let device = mount.device;
    let stream = control::connect(device).map_err(|e| {
        CommandError::system(format!("{dir}: cannot connect to the mount's server"), e)
            .with_hint("it must be mounted by this user with `overcoat mount`")
    })?;
    if !mount.is_mount_point {
        let root = mounted_at(device)?.map_or_else(
            || "give the directory that it is mounted on".to_owned(),
            |root| format!("give {}", root.display()),
        );
        return Err(CommandError::user(format!(
            "{dir}: is inside a mounted root, which can only be sealed as a whole: {root}"
        )));
    }
    let to_stdout = args.output == Path::new("-");
    if to_stdout {
        settings.check_stdout()?;
        // Fails if standard output is a terminal.
        Output::stdout()?;
    }
    let inside = if to_stdout {
        rustix::fs::fstat(std::io::stdout()).is_ok_and(|stat| stat.st_dev == device)
    } else {
        is_on_device(&args.output, device)
    };
    if inside {
        let output = if to_stdout { Path::new("standard output") } else { &args.output };
        return Err(CommandError::user(format!(
            "{} is inside the mount itself, which cannot be written to while it is sealed",
            output.display()
        )));
    }
    // Writes through memory maps must reach the tree first.
    let handle = std::fs::File::open(&args.dir)?;
    match nix::unistd::syncfs(&handle) {
        // The server knows the files that lack data now, and whether they still exist.
        Ok(()) | Err(nix::errno::Errno::ENOSPC) => {}
        Err(error) => return Err(std::io::Error::from(error).into()),
    }
    let request = ControlRequest::Seal(SealRequest {
        output: if to_stdout { None } else { Some(std::path::absolute(&args.output)?) },
        format: format.name().to_owned(),
        level: args.seal.level,
        threads: args.seal.threads,
        manifest: !args.seal.no_manifest,
        source_date_epoch: source_date_epoch(None)?,
    });
    let stdout = std::io::stdout();
    let pipe = match std::fs::metadata(&args.output) {
        // Opening a FIFO blocks until it has a reader. This process can be interrupted meanwhile,
        // the server cannot.
        Ok(found) if found.file_type().is_fifo() && !to_stdout => {
            let pipe = std::fs::File::options().write(true).open(&args.output);
            Some(pipe.map_err(|e| CommandError::system(args.output.display().to_string(), e))?)
        }
        _ => None,
    };
    let fd = pipe.as_ref().map(AsFd::as_fd).or(to_stdout.then(|| stdout.as_fd()));
    control::send(&stream, &request, fd)?;
    drop(pipe);
    let (answer, _) = control::receive::<ControlReply>(&stream).map_err(|e| {
        CommandError::system(format!("{dir}: lost the connection to the mount's server"), e)
    })?;
    match answer {
        ControlReply::Failed(error) => Err(CommandError::user(error)),
        ControlReply::Sealed(sealed) => {
            ui.archive_warnings(&sealed.warnings);
            ui.artifact(&sealed.report, args.seal.json)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Returns whether a file at `path` is, or would be created, on the device.
fn is_on_device(path: &Path, device: u64) -> bool {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    [path, parent].iter().any(|p| std::fs::metadata(p).is_ok_and(|m| m.dev() == device))
}
