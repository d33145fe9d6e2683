//! `init`: creates a project.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args as ClapArgs;
use provisioners::Project;
use provisioners::project::FILE_NAME;

use crate::cli::commands::schema;
use crate::cli::ui::Ui;
use crate::cli::ui::error::{CommandError, CommandResult};
use crate::seal::Output;
use crate::seal::output::commit;

#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// Directory of the project, which is created if necessary
    #[arg(value_name = "DIR", default_value = ".")]
    folder: PathBuf,
}

/// A file of a new project: path, content, and whether it is executable.
type ProjectFile = (&'static str, &'static str, bool);

/// The files in the order in which they appear. The project file is the last one, so that its
/// presence implies that of the others.
const FILES: [ProjectFile; 7] = [
    (".schema/overcoat.schema.json", schema::PROJECT, false),
    (".schema/provisioner.schema.json", schema::PROVISIONER, false),
    ("provisioners/site/files/etc/motd.j2", include_str!("init/site/files/etc/motd.j2"), false),
    (
        "provisioners/site/files/usr/local/bin/site-report",
        include_str!("init/site/files/usr/local/bin/site-report"),
        true,
    ),
    ("provisioners/site/scripts/10-site.sh", include_str!("init/site/scripts/10-site.sh"), true),
    ("provisioners/site/provisioner.yml", include_str!("init/site/provisioner.yml"), false),
    (FILE_NAME, include_str!("init/overcoat.yml"), false),
];

pub(crate) fn run(ui: &Ui, args: &Args) -> CommandResult {
    let files =
        FILES.map(|(path, content, executable)| (args.folder.join(path), content, executable));
    // If any file exists, write none, so that the directory never has a mixture of two projects.
    for (path, ..) in &files {
        if path.symlink_metadata().is_ok() {
            return Err(CommandError::user(format!(
                "{} already exists; no files were written",
                path.display()
            )));
        }
    }
    let mut outputs = Vec::new();
    for (path, content, _) in &files {
        let folder = path.parent().unwrap_or(&args.folder);
        fs::create_dir_all(folder).map_err(|e| io_error("create directory", folder, e))?;
        let mut output = Output::file(path)?;
        output.write_all(content.as_bytes()).map_err(|e| io_error("write", path, e))?;
        outputs.push(output);
    }
    commit(outputs)?;
    for (path, _, executable) in &files {
        if *executable {
            let permissions = fs::metadata(path).map(|meta| meta.permissions());
            let set = permissions.and_then(|mut permissions| {
                // Executable for everyone who can read it.
                let mode = permissions.mode();
                permissions.set_mode(mode | (mode & 0o444) >> 2);
                fs::set_permissions(path, permissions)
            });
            set.map_err(|e| io_error("set permissions of", path, e))?;
        }
    }
    let file = args.folder.join(FILE_NAME);
    let project = Project::load(&file)?;
    let names: Vec<&str> = project.images().iter().map(|image| image.name.as_str()).collect();
    ui.status(&format!(
        "{}: created a project with the images {}",
        file.display(),
        names.join(", ")
    ));
    Ok(ExitCode::SUCCESS)
}

fn io_error(action: &str, path: &Path, error: io::Error) -> CommandError {
    CommandError::system(format!("cannot {action} {}", path.display()), error)
}
