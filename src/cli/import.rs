//! `import`: an on-imagebuilder tree as a project.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args as ClapArgs;
use provisioners::on_imagebuilder;
use provisioners::project::FILE_NAME;

use super::{Failure, Outcome, print, say};
use crate::seal::Output;
use crate::seal::output::commit;

#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    /// The folder that has roles/, vars/ and group_vars/
    #[arg(value_name = "DIR")]
    folder: PathBuf,

    /// Where to write the project file: in DIR, since what it names is relative to it (`-` is
    /// standard output); DIR/overcoat.yml by default
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// A base image that is there, for all overlays; the tree's own bases are left out then. Its
    /// path is from DIR
    #[arg(long, value_name = "PATH")]
    base: Option<String>,

    /// Write the file anew if it is there
    #[arg(long)]
    force: bool,
}

pub(super) fn run(args: &Args) -> Outcome {
    let file = args.output.clone().unwrap_or_else(|| args.folder.join(FILE_NAME));
    let to_stdout = file == Path::new("-");
    if !to_stdout {
        check(args, &file)?;
    }
    if let Some(base) = &args.base
        && !args.folder.join(base).exists()
    {
        let folder = args.folder.display();
        let problem = format!("there is no {base}: what --base names is relative to {folder}");
        return Err(Failure::message(problem));
    }
    let imported = on_imagebuilder::import(&args.folder, args.base.as_deref())?;
    if to_stdout {
        print(imported.text.trim_end())?;
    } else {
        let mut output = Output::file(&file)?;
        output.write_all(imported.text.as_bytes())?;
        commit(vec![output])?;
    }
    for note in &imported.notes {
        say(&format!("warning: {note}"));
    }
    if !to_stdout {
        let images = imported.images.join(", ");
        say(&format!("{}: {} images: {images}", file.display(), imported.images.len()));
    }
    Ok(ExitCode::SUCCESS)
}

/// Refuses a place where the file would be in the way, or would mean something else.
fn check(args: &Args, file: &Path) -> Result<(), Failure> {
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    let same = match (parent.canonicalize(), args.folder.canonicalize()) {
        (Ok(parent), Ok(folder)) => parent == folder,
        // What is not there is told by whoever reads it.
        _ => true,
    };
    let named = file.display();
    if !same {
        let folder = args.folder.display();
        return Err(Failure::message(format!(
            "{named} is not in {folder}: what a project names is relative to its file; write it \
             there, or to standard output with `-o -`"
        )));
    }
    if !args.force && file.symlink_metadata().is_ok() {
        return Err(Failure::message(format!("{named} is there already; --force writes it anew")));
    }
    Ok(())
}
