//! `import`: converts an on-imagebuilder tree into a project.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args as ClapArgs;
use provisioners::on_imagebuilder;
use provisioners::project::FILE_NAME;

use crate::cli::ui::Ui;
use crate::cli::ui::error::{CommandError, CommandResult};
use crate::seal::Output;
use crate::seal::output::commit;

#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// Directory with roles/, vars/ and group_vars/
    #[arg(value_name = "DIR")]
    folder: PathBuf,

    /// Write the project file to this path; `-` is standard output (default: DIR/overcoat.yml)
    ///
    /// The file must be in DIR, because its paths are relative to it.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Use this existing base image for all overlays instead of the tree's bases
    ///
    /// The path is relative to DIR.
    #[arg(long, value_name = "PATH")]
    base: Option<String>,

    /// Overwrite an existing project file
    #[arg(long)]
    force: bool,
}

pub(crate) fn run(ui: &Ui, args: &Args) -> CommandResult {
    let file = args.output.clone().unwrap_or_else(|| args.folder.join(FILE_NAME));
    let to_stdout = file == Path::new("-");
    if !to_stdout {
        check(args, &file)?;
    }
    if let Some(base) = &args.base
        && !args.folder.join(base).exists()
    {
        let folder = args.folder.display();
        return Err(CommandError::user(format!(
            "{base} not found: the path of --base is relative to {folder}"
        )));
    }
    let imported = on_imagebuilder::import(&args.folder, args.base.as_deref())?;
    if to_stdout {
        ui.print(imported.text.trim_end())?;
    } else {
        let mut output = Output::file(&file)?;
        output.write_all(imported.text.as_bytes())?;
        commit(vec![output])?;
    }
    for note in &imported.notes {
        ui.warning(&format!("{note}"));
    }
    if !to_stdout {
        let images = imported.images.join(", ");
        ui.status(&format!("{}: {} images: {images}", file.display(), imported.images.len()));
    }
    Ok(ExitCode::SUCCESS)
}

/// Rejects a path outside of the tree, or of an existing file without `--force`.
fn check(args: &Args, file: &Path) -> Result<(), CommandError> {
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    let same = match (parent.canonicalize(), args.folder.canonicalize()) {
        (Ok(parent), Ok(folder)) => parent == folder,
        // A missing directory is reported later, by the code that reads or writes it.
        _ => true,
    };
    let shown = file.display();
    if !same {
        let folder = args.folder.display();
        return Err(CommandError::user(format!(
            "{shown} is not in {folder}, but paths in a project are relative to its file: write it \
             there, or to standard output with `-o -`"
        )));
    }
    if !args.force && file.symlink_metadata().is_ok() {
        return Err(CommandError::user(format!("{shown} already exists; --force overwrites it")));
    }
    Ok(())
}
