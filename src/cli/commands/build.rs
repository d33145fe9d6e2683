//! `build`: builds the image of an image file, or a project's images.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args as ClapArgs;
use provisioners::Project;
use provisioners::image::{Image, manifest_path};
use serde_json::json;

use super::project::{self, ProjectArgs};
use crate::build::{BuildOptions, forecast, is_same_file};
use crate::cli::ui::Ui;
use crate::cli::ui::args::{RootArgs, SealArgs};
use crate::cli::ui::error::{CommandError, CommandResult, ErrorKind};
use crate::cli::ui::project_images;
use crate::cli::ui::reporter::build_reporter;

#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// Image file, or a project and names of its images
    ///
    /// A project is given by its file or directory; without one, the project of the current
    /// directory or the nearest parent is used. Without names, all images of the project are built.
    #[arg(value_name = "FILE|NAME")]
    what: Vec<String>,

    #[command(flatten)]
    project: ProjectArgs,

    #[command(flatten)]
    common: CommonBuildArgs,
}

/// Options that `build` and `base` share.
#[derive(Debug, ClapArgs)]
pub(crate) struct CommonBuildArgs {
    /// Write the image to this file; `-` is standard output (default: the file's `output`)
    #[arg(short, long, value_name = "OUT")]
    pub(crate) output: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) root: RootArgs,

    #[command(flatten)]
    pub(crate) seal: SealArgs,

    /// Write the output of all steps to this file (default: OUT.log, if the build fails)
    #[arg(long, value_name = "FILE")]
    pub(crate) log: Option<PathBuf>,

    /// Keep the output of all steps beside the image, as OUT.log, if the build succeeds, too
    #[arg(long)]
    pub(crate) keep_logs: bool,

    /// Open a shell in the root when a step fails
    #[arg(long)]
    pub(crate) shell_on_failure: bool,

    /// Pass an argument to ansible-playbook, for provisioners that are Ansible roles
    ///
    /// Can be repeated: --ansible=--tags=extra --ansible=--check
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub(crate) ansible: Vec<OsString>,
}

impl Args {
    /// Returns the image that this process builds for its parent process, if any.
    pub(crate) fn child_image(&self) -> Option<&str> {
        self.project.only.as_deref()
    }
}

pub(crate) fn run(ui: &Ui, args: &Args) -> CommandResult {
    if args.project.only.is_none()
        && let Some(option) = args.project.project_only_option()
        && let [file] = args.what.as_slice()
        && Path::new(file).is_file()
        && !Project::is_one(Path::new(file))
    {
        return Err(CommandError::user(format!(
            "{option} is for projects, but {file} is an image file, which is always built"
        )));
    }
    let Some((project, names)) = project_images::find(&args.what, args.project.project.file())?
    else {
        return match args.what.as_slice() {
            [file] => build_image(ui, &Image::load(Path::new(file))?, &args.common),
            files => Err(CommandError::user(format!(
                "cannot build {} image files at once: build one at a time, or name images of a \
                 project",
                files.len()
            ))),
        };
    };
    match &args.project.only {
        Some(name) => {
            let index = project.find(name).map_err(CommandError::user)?;
            let mut options = args.common.options(ui);
            if !names.is_empty() && !names.contains(name) {
                remove_options_of_named_images(&mut options);
            }
            let image = &project.images()[index].image;
            if args.project.forecast {
                forecast(image, &options, &build_reporter(ui, false))?;
                return Ok(ExitCode::SUCCESS);
            }
            let outcome = build_with(ui, image, &options);
            if let Err(error) = &outcome
                && (!error.is_silent() || error.kind == ErrorKind::Reported)
            {
                // The parent process puts the error into its own report.
                ui.print(&json!({ "error": error.to_string() }).to_string())?;
            }
            outcome
        }
        None => project::build(ui, &project, &names, &args.project, &args.common),
    }
}

/// Returns whether two paths name the same file, which need not exist.
fn is_same_path(one: &Path, other: &Path) -> bool {
    let place = |path: &Path| {
        let parent = path.parent().filter(|parent| *parent != Path::new(""));
        let parent = std::fs::canonicalize(parent.unwrap_or(Path::new("."))).ok()?;
        Some(parent.join(path.file_name()?))
    };
    is_same_file(one, other) || place(one).is_some_and(|one| Some(one) == place(other))
}

/// Rejects a file to write that an image of the project is built from.
pub(crate) fn reject_input(project: &Project, file: &Path) -> Result<(), CommandError> {
    match project.input_at(file)? {
        Some((image, input)) => Err(CommandError::user(format!(
            "{} would be {input}, which {} is built from: give another file",
            file.display(),
            image.name
        ))),
        None => Ok(()),
    }
}

/// Builds an image of any kind.
pub(crate) fn build_image(ui: &Ui, image: &Image, common: &CommonBuildArgs) -> CommandResult {
    build_with(ui, image, &common.options(ui))
}

fn build_with(ui: &Ui, image: &Image, options: &BuildOptions) -> CommandResult {
    let reporter = build_reporter(ui, options.seal.reports_on_stdout);
    crate::build::build(image, options, &reporter)?;
    Ok(ExitCode::SUCCESS)
}

/// Removes the options that do not apply to an image that is only needed by the named ones: its
/// outputs, and those in [`CommonBuildArgs::content_options`].
fn remove_options_of_named_images(options: &mut BuildOptions) {
    options.output = None;
    options.seal.format = None;
    options.log = None;
    options.root.network = None;
    options.root.binds.clear();
    options.seal.level = None;
    options.seal.manifest = true;
    options.ansible.clear();
}

impl CommonBuildArgs {
    /// Rejects options that do not apply to the images `names` of a project.
    pub(crate) fn check_for_project(
        &self,
        project: &Project,
        names: &[String],
    ) -> Result<(), CommandError> {
        let Some(output) = &self.output else {
            let given = [(self.seal.format.is_some(), "--format"), (self.log.is_some(), "--log")];
            return match given.iter().find(|(given, _)| *given) {
                Some((_, option)) => Err(CommandError::user(format!(
                    "{option} is for a single image: set it in the project file, or give --output \
                     too"
                ))),
                None => Ok(()),
            };
        };
        let [name] = names else {
            return Err(CommandError::user(
                "--output writes a single image: name one image of the project",
            ));
        };
        if output == Path::new("-") {
            return Err(CommandError::user(
                "--output: an image of a project cannot go to standard output: give a file",
            ));
        }
        let index = project.find(name).map_err(CommandError::user)?;
        if project.images()[index].kind() == "initrd" {
            return Err(CommandError::user(format!(
                "--output writes a single file, but {name} yields several: set their names in the \
                 project file"
            )));
        }
        let own = project.images().iter().find(|image| {
            let files = image.files();
            let manifests = files.iter().map(|file| manifest_path(file));
            files.iter().cloned().chain(manifests).any(|file| is_same_path(&file, output))
        });
        if let Some(image) = own {
            return Err(CommandError::user(format!(
                "{} is an artifact of {}: give another file, or build without --output",
                output.display(),
                image.name
            )));
        }
        let written = [output.clone(), manifest_path(output)];
        written.iter().chain(&self.log).try_for_each(|file| reject_input(project, file))
    }

    /// Returns the settings of a build.
    fn options(&self, ui: &Ui) -> BuildOptions {
        BuildOptions {
            output: self.output.clone(),
            root: self.root.settings(ui),
            seal: self.seal.settings(),
            log: self.log.clone(),
            keep_log: self.keep_logs,
            shell_on_failure: self.shell_on_failure,
            ansible: self.ansible.clone(),
        }
    }

    /// Returns the options that affect the content of an image, as command line text.
    pub(crate) fn content_options(&self) -> String {
        let mut options = Vec::new();
        if let Some(network) = self.root.network {
            options.push(format!("--network {network:?}").to_lowercase());
        }
        if let Some(level) = self.seal.level {
            options.push(format!("--level {level}"));
        }
        if self.seal.no_manifest {
            options.push("--no-manifest".to_owned());
        }
        options.extend(self.ansible.iter().map(|arg| format!("--ansible={}", arg.display())));
        options.extend(
            self.root
                .bind
                .iter()
                .map(|bind| format!("--bind {}:{}", bind.host.display(), bind.inside.display())),
        );
        options.join(" ")
    }
}
