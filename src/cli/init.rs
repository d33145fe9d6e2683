//! `init`: the beginning of a project.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args as ClapArgs;
use provisioners::Project;
use provisioners::project::FILE_NAME;

use super::{Failure, Outcome, say, schema};
use crate::seal::Output;
use crate::seal::output::commit;

#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    /// The folder of the project, made if it is not there; this one by default
    #[arg(value_name = "DIR", default_value = ".")]
    folder: PathBuf,
}

/// A file of a new project: its path and content, and whether it can be executed.
type File = (&'static str, &'static str, bool);

/// The files, the project file last: where that is, the others are.
const FILES: [File; 7] = [
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

pub(super) fn run(args: &Args) -> Outcome {
    let files =
        FILES.map(|(path, content, executable)| (args.folder.join(path), content, executable));
    // All or nothing: a half of somebody's project and a half of this one would help nobody.
    for (path, ..) in &files {
        if path.symlink_metadata().is_ok() {
            return Err(Failure::message(format!(
                "{} is there already; nothing is written",
                path.display()
            )));
        }
    }
    let mut outputs = Vec::new();
    for (path, content, _) in &files {
        let folder = path.parent().unwrap_or(&args.folder);
        fs::create_dir_all(folder).map_err(|e| cannot("make the folder", folder, &e))?;
        let mut output = Output::file(path)?;
        output.write_all(content.as_bytes()).map_err(|e| cannot("write", path, &e))?;
        outputs.push(output);
    }
    commit(outputs)?;
    for (path, _, executable) in &files {
        if *executable {
            let permissions = fs::metadata(path).map(|meta| meta.permissions());
            let set = permissions.and_then(|mut permissions| {
                // For whoever may read it.
                let mode = permissions.mode();
                permissions.set_mode(mode | (mode & 0o444) >> 2);
                fs::set_permissions(path, permissions)
            });
            set.map_err(|e| cannot("make executable", path, &e))?;
        }
    }
    let file = args.folder.join(FILE_NAME);
    let project = Project::load(&file)?;
    let names: Vec<&str> = project.images().iter().map(|image| image.name.as_str()).collect();
    say(&format!("{}: a project with the images {}", file.display(), names.join(", ")));
    Ok(ExitCode::SUCCESS)
}

fn cannot(what: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::message(format!("cannot {what} {}: {error}", path.display()))
}
