//! `build`: builds the image of an image file, or a project's images.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args as ClapArgs;
use provisioners::image::Image;
use serde_json::json;

use super::project::{self, ProjectArgs};
use crate::build::BuildOptions;
use crate::cli::ui::Ui;
use crate::cli::ui::args::{RootArgs, SealArgs};
use crate::cli::ui::error::{CommandError, CommandResult};
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
        && !provisioners::Project::is_one(Path::new(file))
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
                remove_content_options(&mut options);
            }
            let image = &project.images()[index].image;
            let outcome = build_with(ui, image, &options);
            if let Err(error) = &outcome
                && !error.is_silent()
            {
                // The parent process puts the error into its own report.
                ui.print(&json!({ "error": error.to_string() }).to_string())?;
            }
            outcome
        }
        None => project::build(ui, &project, &names, &args.project, &args.common),
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

/// Removes the options in [`CommonBuildArgs::content_options`], which do not apply to an image that
/// is only needed by the named ones.
fn remove_content_options(options: &mut BuildOptions) {
    options.root.network = None;
    options.root.binds.clear();
    options.seal.level = None;
    options.seal.manifest = true;
    options.ansible.clear();
}

impl CommonBuildArgs {
    /// Rejects options that are only valid for a single image file.
    pub(crate) fn check_for_project(&self) -> Result<(), CommandError> {
        let given = [
            (self.output.is_some(), "--output"),
            (self.seal.format.is_some(), "--format"),
            (self.log.is_some(), "--log"),
        ];
        match given.iter().find(|(given, _)| *given) {
            Some((_, option)) => Err(CommandError::user(format!(
                "{option} is for a single image file: in a project, set it in the project file"
            ))),
            None => Ok(()),
        }
    }

    /// Returns the settings of a build.
    fn options(&self, ui: &Ui) -> BuildOptions {
        BuildOptions {
            output: self.output.clone(),
            root: self.root.settings(ui),
            seal: self.seal.settings(),
            log: self.log.clone(),
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
