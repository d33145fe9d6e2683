//! Images and paths inside them as command line arguments.
//!
//! All commands that read images follow one rule: an argument that begins with a colon is a path
//! inside (`:/etc/passwd` or `:etc/passwd`), everything else is an image, the lowest first, by path
//! or by the name of a project's image ([`project_images`]). Ambiguous arguments are rejected.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;

use clap::Args;
use fs_model::tree::Follow;
use provisioners::Project;
use provisioners::image::{ImageLocation, parse_offset};

use crate::cli::ui::Ui;
use crate::cli::ui::error::CommandError;
use crate::cli::ui::project_images::{self, ProjectOption};
use crate::image::open::OpenError;
use crate::image::view::{LayerNode, StackView, ViewNode};

/// The option `--offset`: where the base begins in its file.
#[derive(Debug, Default, Args)]
pub(crate) struct BaseOffset {
    /// Byte offset of the base in its file (for any image: FILE@BYTES)
    #[arg(long, value_name = "BYTES", value_parser = offset)]
    offset: Option<u64>,
}

impl BaseOffset {
    /// Applies the offset to the first image.
    pub(crate) fn apply(&self, images: &mut [PathBuf]) {
        if let (Some(offset), Some(base)) = (self.offset, images.first_mut()) {
            *base = ImageLocation { file: base.clone(), offset }.path();
        }
    }

    /// Returns an error if an offset was given for a command line without a base.
    pub(crate) fn reject(&self, place: &str) -> Result<(), CommandError> {
        match self.offset {
            None => Ok(()),
            Some(offset) => Err(CommandError::user(format!(
                "--offset applies to a base on the command line: {place}, write FILE@{offset}"
            ))),
        }
    }
}

/// Options that apply to the images on the command line.
#[derive(Debug, Default, Args)]
pub(crate) struct StackOptions {
    #[command(flatten)]
    offset: BaseOffset,

    #[command(flatten)]
    project: ProjectOption,
}

impl StackOptions {
    /// Returns the project file that was given.
    pub(crate) fn project_file(&self) -> Option<&Path> {
        self.project.file()
    }

    /// Returns the project that has the images `words`, if one of them may be a name.
    pub(crate) fn project(&self, words: &[PathBuf]) -> Result<Option<Project>, CommandError> {
        self.project.for_images(words)
    }

    /// Returns the layers of the images `words`, paths or names of a project's images.
    pub(crate) fn layers(&self, words: &[PathBuf]) -> Result<Vec<PathBuf>, CommandError> {
        let project = self.project.for_images(words)?;
        let is_name = |word: &PathBuf| {
            project.as_ref().is_some_and(|p| project_images::named_image(p, word).is_some())
        };
        if words.first().is_some_and(is_name) {
            self.offset.reject("in the project file")?;
        }
        let mut layers = project_images::stack(words, project.as_ref())?;
        self.offset.apply(&mut layers);
        Ok(layers)
    }

    /// Returns an error if an offset was given for a command line without a base.
    pub(crate) fn reject_offset(&self, place: &str) -> Result<(), CommandError> {
        self.offset.reject(place)
    }
}

impl FromStr for BaseOffset {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(BaseOffset { offset: Some(offset(text)?) })
    }
}

/// Parses a byte offset.
fn offset(text: &str) -> Result<u64, String> {
    parse_offset(text)
        .ok_or_else(|| "use a number of bytes, such as 32768, 0x8000 or 32K".to_owned())
}

/// Arguments that are images or paths inside them.
#[derive(Debug, Args)]
pub(crate) struct ImageArgs {
    /// The base, its overlays, and paths in the images, which begin with a colon
    ///
    /// The name of a project's image selects its base, its lower overlays and the image.
    #[arg(required = true, value_name = "BASE [OVERLAY…] [:PATH…]")]
    arguments: Vec<OsString>,

    #[command(flatten)]
    stack: StackOptions,
}

/// Opened images, and paths inside them.
#[derive(Debug)]
pub(crate) struct OpenedImages {
    ui: Ui,
    pub(crate) view: StackView,
    /// Paths of the layers. The view's names are text and may differ from a path that is not UTF-8.
    pub(crate) images: Vec<PathBuf>,
    /// Paths inside the images, without the colon.
    pub(crate) paths: Vec<Vec<u8>>,
    /// Whether the name of an image selected layers below it, too.
    pub(crate) has_lower_layers: bool,
}

impl ImageArgs {
    pub(crate) fn open(&self, ui: &Ui) -> Result<OpenedImages, CommandError> {
        let (words, paths) = split(&self.arguments);
        if words.is_empty() {
            return Err(no_image_error(&paths));
        }
        let images = self.stack.layers(&words)?;
        let view = StackView::open(&images).map_err(|error| add_hint(error, &images))?;
        reject_host_paths(&view, &images)?;
        let has_lower_layers = images.len() > words.len();
        Ok(OpenedImages { ui: ui.clone(), view, images, paths, has_lower_layers })
    }
}

impl OpenedImages {
    /// Calls `each` with the node at each path, or with the root if there are no paths. For a
    /// broken symbolic link, the node is the link.
    ///
    /// Prints an error for a path that does not exist, continues, and returns exit code 1.
    pub(crate) fn each(
        &self,
        follow: Follow,
        each: &mut dyn FnMut(ViewNode) -> Result<(), CommandError>,
    ) -> Result<ExitCode, CommandError> {
        if self.paths.is_empty() {
            each(self.view.root()?)?;
        }
        let mut code = ExitCode::SUCCESS;
        for path in &self.paths {
            match self.view.resolve(path, follow) {
                Ok(node) => each(node)?,
                Err(error) if error.is_absence() => {
                    if let Some(link) = self.view.find(path, Follow::No)? {
                        each(link)?;
                        continue;
                    }
                    self.ui.error(&format!("{error}{}", self.absence_reason(path)?));
                    code = ExitCode::from(1);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(code)
    }

    /// Explains why a path does not exist in the merged root, if a layer has it: which layer, and
    /// which one deletes or hides it. Begins with a colon unless empty.
    fn absence_reason(&self, path: &[u8]) -> Result<String, CommandError> {
        let end = path.iter().rposition(|&byte| byte != b'/').map_or(0, |at| at + 1);
        if self.view.find(&path[..end], Follow::No)?.is_some() {
            // A broken link, given with a trailing slash.
            return Ok(String::new());
        }
        let places = self.view.places(path)?;
        let labels = labels(&self.view);
        let last =
            |is: fn(&LayerNode) -> bool| places.iter().rposition(|at| at.as_ref().is_some_and(is));
        let Some(has) = last(|place| matches!(place, LayerNode::Object(_))) else {
            return Ok(String::new());
        };
        Ok(match last(|place| *place == LayerNode::Whiteout) {
            Some(by) if by > has => format!(": in {}, but deleted by {}", labels[has], labels[by]),
            _ => format!(": in {}, but hidden by a higher layer", labels[has]),
        })
    }
}

/// Returns the names of a view's layers for display: file names where they are unique, else paths.
pub(crate) fn labels(view: &StackView) -> Vec<String> {
    let short = |name: &String| {
        Path::new(name).file_name().map_or(name.clone(), |n| n.to_string_lossy().into_owned())
    };
    let all: Vec<String> = view.names().iter().map(short).collect();
    let is_unique = |name: &String| all.iter().filter(|other| *other == name).count() == 1;
    all.iter()
        .zip(view.names())
        .map(|(short, long)| if is_unique(short) { short } else { long })
        .map(|name| crate::text::escape::escape(name.as_bytes()).into_owned())
        .collect()
}

/// Splits arguments into images and paths inside.
pub(crate) fn split(arguments: &[OsString]) -> (Vec<PathBuf>, Vec<Vec<u8>>) {
    let mut images = Vec::new();
    let mut paths = Vec::new();
    for argument in arguments {
        match argument.as_bytes().strip_prefix(b":") {
            Some(path) => paths.push(path.to_vec()),
            None => images.push(PathBuf::from(argument)),
        }
    }
    (images, paths)
}

/// Returns the error for a command line without an image.
pub(crate) fn no_image_error(paths: &[Vec<u8>]) -> CommandError {
    if paths.is_empty() {
        return CommandError::user("no image given: write the base first, then overlays");
    }
    let path = paths.first().map_or_else(Vec::new, |path| [b":", &path[..]].concat());
    CommandError::user(format!(
        "no image given: {} begins with a colon, so it is a path in the images; for an image of that \
         name write ./{}",
        OsString::from_vec(path.clone()).display(),
        OsString::from_vec(path).display()
    ))
}

/// Adds a hint to the error for a missing image, which may have been meant as a path inside.
pub(crate) fn add_hint(error: OpenError, images: &[PathBuf]) -> CommandError {
    match &error {
        OpenError::Io { path, .. } | OpenError::Unknown { path }
            if images.first() != Some(path) =>
        {
            let hint = format!("for a path in the images, write :{}", path.display());
            CommandError::from(error).with_hint(hint)
        }
        _ => CommandError::from(error),
    }
}

/// Rejects an absolute path of a host directory that also exists in the base: with `ls BASE /etc`,
/// the user probably means `:/etc`.
pub(crate) fn reject_host_paths(view: &StackView, images: &[PathBuf]) -> Result<(), CommandError> {
    // `/./etc` is the form that the error message suggests for the host's directory.
    let confirmed = |image: &Path| image.as_os_str().as_bytes().starts_with(b"/./");
    let is_ambiguous =
        |image: &&PathBuf| image.is_absolute() && image.is_dir() && !confirmed(image);
    for image in images.iter().skip(1).filter(is_ambiguous) {
        let base = view.lowest(1)?;
        let path = image.as_os_str().as_bytes();
        if matches!(base.find(path, Follow::Yes), Ok(Some(_))) {
            return Err(CommandError::user(format!(
                "{path}: is a directory of both this machine and {base}: write :{path} for the \
                 path in the image, or /.{path} to use this machine's directory as a layer",
                path = image.display(),
                base = images[0].display()
            )));
        }
    }
    Ok(())
}
