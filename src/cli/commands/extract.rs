//! `extract`: extracts files from images into a directory or an archive.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args as ClapArgs;
use fs_model::tree::Follow;
use serde_json::json;

use crate::build::{reject_layers, source_date_epoch};
use crate::check::recorded_layers;
use crate::cli::ui::Ui;
use crate::cli::ui::error::{CommandError, CommandResult};
use crate::cli::ui::format::display_path;
use crate::cli::ui::image_args::{ImageArgs, OpenedImages, labels};
use crate::image::extract::ExtractSelection;
use crate::image::extract::archive::ArchiveSource;
use crate::image::extract::deletions::{LostDeletion, LowestLayer, lost_deletions};
use crate::image::extract::folder::{ExtractError, Extracted, extract};
use crate::image::open::is_squashfs;
use crate::image::view::ViewNode;
use crate::sandbox::Signals;
use crate::seal::report::archive_report;
use crate::seal::{Format, Output, SealOptions, seal};
use crate::text::list;
use crate::text::size::size_text;

#[derive(Debug, ClapArgs)]
#[command(group(clap::ArgGroup::new("where").required(true)))]
pub(crate) struct Args {
    #[command(flatten)]
    images: ImageArgs,

    /// Extract into this directory, which is created if necessary
    #[arg(short = 'C', long, value_name = "DIR", group = "where")]
    directory: Option<PathBuf>,

    /// Extract into this archive; `-` is standard output, as tar
    ///
    /// The format follows from the name: .tar, .cpio.gz, .cpio.zst, .cpio or .squashfs. An existing
    /// file is replaced. An archive holds no deletions, so an overlay is rejected without its base
    /// if it deletes anything.
    #[arg(short, long, value_name = "FILE", group = "where")]
    output: Option<PathBuf>,

    /// Overwrite existing files, but never directories
    #[arg(long, conflicts_with = "output")]
    force: bool,

    /// Print a report as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(ui: &Ui, args: &Args) -> CommandResult {
    let opened = args.images.open(ui)?;
    let mut nodes: Vec<ViewNode> = Vec::new();
    let mut missing = false;
    // If a path is missing, nothing is extracted.
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
    let selection = ExtractSelection::new(&nodes);
    if opened.has_lower_layers {
        ui.status(&format!("extracting the root of {}", labels(&opened.view).join(" + ")));
    }
    if let Some(output) = &args.output {
        reject_layers(std::iter::once(output), &opened.images)?;
        let format = format(args, output)?;
        let lost = lost_deletions(&opened.view, &selection, lowest_layer(&opened.images))?;
        if !lost.is_empty() {
            let to = match output == Path::new("-") {
                true => "standard output".into(),
                false => output.to_string_lossy(),
            };
            return Err(CommandError::user(format!(
                "{} is an overlay, and {to} would lose {}: give the base before it, or \
                 build the overlay in a format that keeps deletions, with `format: [cpio.gz, tar]` \
                 in the project or `build --format tar`",
                lowest_label(&opened),
                deletions_text(&lost)
            )));
        }
        let taken = ArchiveSource::new(&opened.view, &selection)?;
        return archive(ui, args, output, format, &taken);
    }
    let Some(directory) = &args.directory else {
        return Err(CommandError::user("give a directory with -C, or an archive with -o"));
    };
    reject_inside_layer(directory, &opened.images)?;
    let lost = lost_deletions(&opened.view, &selection, lowest_layer(&opened.images))?;
    let signals = Signals::take()?;
    let signal = Cell::new(None);
    let stop = || {
        if let Some(received) = signals.interruption() {
            signal.set(Some(received));
        }
        signal.get().is_some()
    };
    match extract(&opened.view, &selection, directory, args.force, &stop) {
        Ok(done) => {
            print_result(ui, args, directory, &done, lost.len())?;
            if !lost.is_empty() {
                ui.warning(&format!(
                    "{} is an overlay, and {} lacks {}: give the base before it",
                    lowest_label(&opened),
                    directory.display(),
                    deletions_text(&lost)
                ));
            }
        }
        Err(ExtractError::Stopped) => {
            return Err(CommandError::signal(signal.get().map_or(2, |signal| signal as i32)));
        }
        Err(error) => return Err(CommandError::from(error)),
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns what is known about the lowest of the images.
fn lowest_layer(images: &[PathBuf]) -> LowestLayer {
    match images.first() {
        Some(image) if !recorded_layers(image).is_empty() => LowestLayer::Overlay,
        Some(image) if !image.is_dir() && !is_squashfs(image) => LowestLayer::Archive,
        _ => LowestLayer::Root,
    }
}

/// Returns the name of the lowest image.
fn lowest_label(opened: &OpenedImages) -> String {
    labels(&opened.view).swap_remove(0)
}

/// Describes lost deletions: their number and the first paths.
fn deletions_text(lost: &[LostDeletion]) -> String {
    const MAX_PATHS: usize = 3;
    let directories = lost.iter().filter(|one| one.is_directory).count();
    let whiteouts = lost.len() - directories;
    let counts = [
        (whiteouts, "deletion", "deletions"),
        (directories, "opaque directory", "opaque directories"),
    ];
    let counts = counts.iter().filter(|(count, ..)| *count > 0);
    let counts: Vec<String> = counts
        .map(|(count, one, more)| format!("{count} {}", if *count == 1 { one } else { more }))
        .collect();
    let paths = list::joined(lost.iter().map(|one| display_path(&one.path)), MAX_PATHS);
    format!("{} ({paths})", counts.join(" and "))
}

/// Rejects a target directory inside a layer, which would be copied into itself.
fn reject_inside_layer(directory: &Path, images: &[PathBuf]) -> Result<(), CommandError> {
    // If the directory does not exist, its parent must, or the extraction fails.
    let parent = directory.parent().filter(|parent| *parent != Path::new(""));
    let real = |path: &Path| std::fs::canonicalize(path).ok();
    let to = real(directory).or_else(|| real(parent.unwrap_or(Path::new("."))));
    let contains_target = |image: &&PathBuf| {
        image.is_dir()
            && real(image).zip(to.as_ref()).is_some_and(|(image, to)| to.starts_with(image))
    };
    match images.iter().find(contains_target) {
        Some(image) => Err(CommandError::user(format!(
            "{} is inside the layer {}, which cannot be extracted into itself: give another \
             directory",
            directory.display(),
            image.display()
        ))),
        None => Ok(()),
    }
}

/// Determines the archive's format from its name.
fn format(args: &Args, output: &Path) -> Result<Format, CommandError> {
    let stdout = output == Path::new("-");
    if stdout && args.json {
        return Err(CommandError::user(
            "--json and the archive cannot both go to standard output: give a file",
        ));
    }
    let format = Format::from_path(output);
    match format {
        None if stdout => Ok(Format::Tar),
        None => Err(CommandError::user(format!(
            "{}: unknown format: use a name that ends in .tar or .cpio.gz, or write -C {0} for a \
             directory",
            output.display()
        ))),
        Some(Format::Squashfs) => {
            crate::seal::squashfs::available()?;
            Ok(Format::Squashfs)
        }
        Some(format) => Ok(format),
    }
}

fn archive(
    ui: &Ui,
    args: &Args,
    output: &Path,
    format: Format,
    taken: &ArchiveSource<'_>,
) -> CommandResult {
    let stdout = output == Path::new("-");
    let options =
        SealOptions { source_date_epoch: source_date_epoch(None)?, ..SealOptions::new(format) };
    let to = if stdout { Output::stdout()? } else { Output::file(output)? };
    let summary = seal(&taken.delta, taken, &options, to, None, &mut |_| {})?;
    ui.archive_warnings(&summary.warnings);
    if !stdout {
        ui.artifact(&archive_report(output, &summary, &[]), args.json)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn print_result(
    ui: &Ui,
    args: &Args,
    directory: &Path,
    done: &Extracted,
    deletions: usize,
) -> Result<(), CommandError> {
    if args.json {
        return Ok(ui.print(
            &json!({
                "schema": 1,
                "output": directory.to_string_lossy(),
                "entries": done.entries,
                "bytes": done.bytes,
                "left_out": {
                    "deletions": deletions,
                    "owners": done.owners,
                    "setuid": done.setuid,
                    "devices": done.devices,
                    "xattrs": done.xattrs,
                },
            })
            .to_string(),
        )?);
    }
    let size = size_text(done.bytes);
    ui.status(&format!("{}: {} entries, {size}", directory.display(), done.entries));
    let lost = [
        (done.owners, "owners", "only root can set them"),
        (done.setuid, "setuid or setgid bits", "the files belong to this user instead"),
        (done.devices, "device nodes", "only root can create them"),
        (done.xattrs, "extended attributes", "this user or file system does not support them"),
    ];
    for (count, what, why) in lost.into_iter().filter(|(count, ..)| *count > 0) {
        ui.status(&format!("skipped {count} {what}: {why}"));
    }
    Ok(())
}
