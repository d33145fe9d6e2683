//! `extract`: what is in images, into a folder or an archive.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args as ClapArgs;
use fs_model::tree::Follow;
use serde_json::json;

use super::images::Images;
use super::options::{refuse_layers, report, report_json, size_text, source_date_epoch, warn};
use super::{Failure, Outcome, print, say};
use crate::extract::Selection;
use crate::extract::archive::Taken;
use crate::extract::folder::{ExtractError, Extracted, extract};
use crate::look::Node;
use crate::sandbox::Signals;
use crate::seal::{Format, Output, SealOptions, seal};

#[derive(Debug, ClapArgs)]
#[command(group(clap::ArgGroup::new("where").required(true)))]
pub(super) struct Args {
    #[command(flatten)]
    images: Images,

    /// Into this folder, which is made if it is not there
    #[arg(short = 'C', long, value_name = "DIR", group = "where")]
    directory: Option<PathBuf>,

    /// Into this archive (.tar, .cpio.gz, .cpio.zst, .cpio or .squashfs); `-` is standard output, as tar. One
    /// of that name is replaced
    #[arg(short, long, value_name = "FILE", group = "where")]
    output: Option<PathBuf>,

    /// Overwrite files that are there; never directories
    #[arg(long, conflicts_with = "output")]
    force: bool,

    /// Print what was written as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Outcome {
    let opened = args.images.open()?;
    let mut nodes: Vec<Node> = Vec::new();
    let mut missing = false;
    // Who asked for what is not there gets none of the rest either.
    if !opened.paths.is_empty() {
        let code = opened.each(Follow::No, &mut |node| {
            nodes.push(node);
            Ok(())
        })?;
        missing = code != ExitCode::SUCCESS;
    }
    if missing {
        return Ok(ExitCode::from(1));
    }
    let selection = Selection::new(&nodes);
    if let Some(output) = &args.output {
        refuse_layers(std::iter::once(output), &opened.images)?;
        let format = format(args, output)?;
        let taken = Taken::new(&opened.view, &selection)?;
        return archive(args, output, format, &taken);
    }
    let Some(directory) = &args.directory else { return Err(Failure::message("extract where?")) };
    refuse_within(directory, &opened.images)?;
    let signals = Signals::take()?;
    let signal = Cell::new(None);
    let stop = || {
        if let Some(came) = signals.interruption() {
            signal.set(Some(came));
        }
        signal.get().is_some()
    };
    match extract(&opened.view, &selection, directory, args.force, &stop) {
        Ok(done) => told(args, directory, &done)?,
        Err(ExtractError::Stopped) => {
            return Err(Failure::Signal(signal.get().map_or(2, |signal| signal as i32)));
        }
        Err(error) => return Err(Failure::Error(2, Box::new(error))),
    }
    Ok(ExitCode::SUCCESS)
}

/// Refuses a folder within one that is taken out: it would be copied into itself.
fn refuse_within(directory: &Path, images: &[PathBuf]) -> Result<(), Failure> {
    // If it is not there, its parent is, or the extraction fails.
    let parent = directory.parent().filter(|parent| *parent != Path::new(""));
    let real = |path: &Path| std::fs::canonicalize(path).ok();
    let to = real(directory).or_else(|| real(parent.unwrap_or(Path::new("."))));
    let around = |image: &&PathBuf| {
        image.is_dir()
            && real(image).zip(to.as_ref()).is_some_and(|(image, to)| to.starts_with(image))
    };
    match images.iter().find(around) {
        Some(image) => Err(Failure::message(format!(
            "{}: lies in the layer {}, which would be copied into itself: name another folder",
            directory.display(),
            image.display()
        ))),
        None => Ok(()),
    }
}

/// What the archive is written as.
fn format(args: &Args, output: &Path) -> Result<Format, Failure> {
    use std::os::unix::ffi::OsStrExt;
    let stdout = output == Path::new("-");
    if stdout && args.json {
        return Err(Failure::message(
            "--json and the archive cannot both go to standard output: name a file",
        ));
    }
    let format = output.file_name().and_then(|name| Format::from_file_name(name.as_bytes()));
    match format {
        None if stdout => Ok(Format::Tar),
        None => Err(Failure::message(format!(
            "{}: the name does not say which format: let it end in .tar or .cpio.gz; for a \
             folder, write -C {0}",
            output.display()
        ))),
        Some(Format::Squashfs) => {
            crate::seal::squashfs::available()?;
            Ok(Format::Squashfs)
        }
        Some(format) => Ok(format),
    }
}

fn archive(args: &Args, output: &Path, format: Format, taken: &Taken<'_>) -> Outcome {
    let stdout = output == Path::new("-");
    let options =
        SealOptions { source_date_epoch: source_date_epoch(None)?, ..SealOptions::new(format) };
    let to = if stdout { Output::stdout()? } else { Output::file(output)? };
    let summary = seal(&taken.delta, taken, &options, to, None, &mut |_| {})?;
    warn(&summary.warnings);
    if !stdout {
        report(&report_json(output, &summary), args.json)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn told(args: &Args, directory: &Path, done: &Extracted) -> Result<(), Failure> {
    if args.json {
        return print(
            &json!({
                "schema": 1,
                "output": directory.to_string_lossy(),
                "entries": done.entries,
                "bytes": done.bytes,
                "left_out": {
                    "owners": done.owners,
                    "setuid": done.setuid,
                    "devices": done.devices,
                    "xattrs": done.xattrs,
                },
            })
            .to_string(),
        );
    }
    let size = size_text(done.bytes);
    say(&format!("{}: {} entries, {size}", directory.display(), done.entries));
    let lost = [
        (done.owners, "the owners of", "objects, which only root can set"),
        (done.setuid, "setuid or setgid of", "files, which are their owners'"),
        (done.devices, "device nodes:", "that only root can make"),
        (done.xattrs, "extended attributes:", "that this user or this file system cannot have"),
    ];
    for (count, what, why) in lost.into_iter().filter(|(count, ..)| *count > 0) {
        say(&format!("left out: {what} {count} {why}"));
    }
    Ok(())
}
