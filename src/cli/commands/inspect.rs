//! `inspect`: browses a stack of images in the terminal, or writes an HTML page about it.

use std::io::{BufWriter, IsTerminal, Write};
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args as ClapArgs;
use fs_model::layer::squashfs::CacheOptions;

use crate::build::reject_layers;
use crate::check::LintSelection;
use crate::cli::ui::Ui;
use crate::cli::ui::error::{CommandError, CommandResult};
use crate::cli::ui::image_args::StackOptions;
use crate::cli::ui::project_images;
use crate::cli::ui::stdout::wants_colours;
use crate::image::open::{ImageFile, OpenedLayers};
use crate::image::view::StackView;
use crate::image::view::accounts::Accounts;
use crate::report::page::{self, PageImage};
use crate::report::{self, model::Model};
use crate::seal::{Output, output};
use crate::tui::draw::TerminalStyle;
use crate::tui::gather::InspectedStack;

#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// Base: a squashfs image, a cpio archive or a directory
    ///
    /// The name of a project's image selects its base, its lower overlays and the image.
    #[arg(value_name = "BASE")]
    base: PathBuf,

    /// Overlays, the lowest first
    #[arg(value_name = "OVERLAY")]
    overlays: Vec<PathBuf>,

    #[command(flatten)]
    stack: StackOptions,

    /// Write an HTML page to this file instead; `-` is standard output
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,

    /// Do not run the lints of `overcoat check`
    #[arg(long)]
    no_check: bool,
}

pub(crate) fn run(ui: &Ui, args: &Args) -> CommandResult {
    let words: Vec<PathBuf> = [&args.base].into_iter().chain(&args.overlays).cloned().collect();
    let images = args.stack.layers(&words)?;
    let Some(file) = &args.html else { return show(args, images) };
    reject_layers([file].into_iter(), &images)?;
    // Open the output first, so that errors are reported before any work.
    let output = match file.as_os_str() == "-" {
        true => Output::stdout()?,
        false => Output::file(file)?,
    };
    let layers = crate::image::open::open(&images, CacheOptions::default())?;
    write_page(ui, args, &layers, &images, output)
}

fn write_page(
    ui: &Ui,
    args: &Args,
    layers: &OpenedLayers,
    images: &[PathBuf],
    output: Output,
) -> CommandResult {
    let selection = selection(args, images)?;
    let digests = layers.digest()?;
    let view = StackView::new(layers.layers.clone())?;
    let (model, report) = std::thread::scope(|scope| {
        let check =
            (!args.no_check).then(|| scope.spawn(|| report::check_images(images, &selection)));
        let model = Model::new(&view);
        (model, check.map(|check| check.join().unwrap_or_else(|panic| resume_unwind(panic))))
    });
    let (model, report) = (model?, report.transpose()?);
    let heads: Vec<PageImage> = digests
        .finish()
        .into_iter()
        .zip(images)
        .map(|(base, path)| PageImage {
            name: base.name,
            size: ImageFile::open(path).ok().map(|file| file.size()),
            sha256: Some(base.sha256).filter(|sha256| !sha256.is_empty()),
        })
        .collect();
    let name = output.name().to_owned();
    let mut out = BufWriter::with_capacity(1 << 20, output);
    match page::write(&mut out, &model, &heads, report.as_ref()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            return Ok(ExitCode::SUCCESS);
        }
        result => result?,
    }
    output::commit(vec![out.into_inner().map_err(std::io::IntoInnerError::into_error)?])?;
    ui.status(&format!("{name}: open it in a browser"));
    Ok(ExitCode::SUCCESS)
}

/// Returns the lints of the check, with the suppressions of the project that makes the images.
fn selection(args: &Args, images: &[PathBuf]) -> Result<LintSelection, CommandError> {
    let suppressions = project_images::suppressions_of(images, args.stack.project_file())?;
    Ok(LintSelection::new(Vec::new(), Vec::new(), suppressions)?)
}

/// Shows the stack in the terminal.
fn show(args: &Args, images: Vec<PathBuf>) -> CommandResult {
    if !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal() {
        return Err(CommandError::user(
            "not a terminal: write an HTML page with --html FILE, or list the changes with \
             `overcoat diff`",
        ));
    }
    let view = StackView::open(&images)?;
    let base = view.lowest(1)?;
    let accounts = Accounts::read(&view)?;
    let name = |path: &PathBuf| {
        let name = path.file_name().unwrap_or(path.as_os_str());
        report::plain(&name.to_string_lossy()).into_owned()
    };
    let names = images.iter().map(name).collect();
    let look =
        TerminalStyle { colour: wants_colours(&std::io::stdout()), unicode: is_utf8_locale() };
    let selection = selection(args, &images)?;
    let subject = InspectedStack { view, base, images, names, accounts, selection };
    match crate::tui::screen::run(subject, !args.no_check, look)? {
        Some(signal) => Err(CommandError::signal(signal as i32)),
        None => Ok(ExitCode::SUCCESS),
    }
}

/// Returns whether the locale is UTF-8. Of the variables, the first one that is set counts (POSIX).
fn is_utf8_locale() -> bool {
    let set = |name: &&str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let name = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find(set);
    let value = name.and_then(std::env::var_os).unwrap_or_default();
    let value = value.to_string_lossy().to_lowercase();
    value.ends_with("utf-8") || value.ends_with("utf8")
}
