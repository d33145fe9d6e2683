//! Images of a project on the command line.
//!
//! Commands that read images accept paths of images and names of a project's images. One rule tells
//! them apart: a word with a slash and the name of a file are paths; any other word is the name of
//! an image if the project has it. A directory is a path only if no image has its name, because
//! directories of provisioners often have the names of the images that they provision.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::Args;
use provisioners::image::{ImageLocation, preferred_layer};
use provisioners::project::{FILE_NAME, Member};
use provisioners::{ImageTest, Project};

use crate::build::is_same_file;
use crate::check::Suppression;
use crate::cli::ui::error::CommandError;

/// The option `--project`.
#[derive(Debug, Default, Args)]
pub(crate) struct ProjectOption {
    /// Project file (default: overcoat.yml in this directory or the nearest parent)
    #[arg(short, long, value_name = "FILE")]
    project: Option<PathBuf>,
}

impl ProjectOption {
    /// Returns the given file.
    pub(crate) fn file(&self) -> Option<&Path> {
        self.project.as_deref()
    }

    /// Reads the project that can have images of the names `words`; `None` if all are paths or
    /// there is no project.
    pub(crate) fn for_images(&self, words: &[PathBuf]) -> Result<Option<Project>, CommandError> {
        if let Some(file) = &self.project {
            return load(file).map(Some);
        }
        match words {
            words if words.iter().all(|word| is_certain_path(word)) => Ok(None),
            // A mistake in the project is no reason to reject the path of a directory.
            words if words.iter().all(|word| is_path_form(word)) => Ok(nearest().ok().flatten()),
            _ => nearest(),
        }
    }

    /// Returns whether `word` is a path rather than the name of an image.
    pub(crate) fn is_path(&self, word: &Path) -> bool {
        let project = || self.for_images(&[word.to_owned()]).ok().flatten();
        is_path_form(word)
            && (is_certain_path(word)
                || project().is_none_or(|project| named_image(&project, word).is_none()))
    }
}

/// Returns whether `word` is a path, whatever the names of images are.
fn is_certain_path(word: &Path) -> bool {
    let file = ImageLocation::of(word).file;
    has_slash(word) || (file.exists() && !file.is_dir())
}

/// Returns whether `word` is a path unless an image has the name.
pub(crate) fn is_path_form(word: &Path) -> bool {
    has_slash(word) || ImageLocation::of(word).file.exists()
}

fn has_slash(word: &Path) -> bool {
    word.as_os_str().as_bytes().contains(&b'/')
}

/// Returns whether `word` is a project's file or directory.
pub(crate) fn is_project(word: &Path) -> bool {
    Project::is_one(word) || word.join(FILE_NAME).is_file()
}

/// Reads the project in `file`, or in this directory.
fn load(file: &Path) -> Result<Project, CommandError> {
    let within = file.join(FILE_NAME);
    Ok(Project::load(if file.is_dir() { &within } else { file })?)
}

/// Returns the project file of the current directory or the nearest parent.
fn nearest_file() -> Result<Option<PathBuf>, CommandError> {
    let here = std::env::current_dir()?;
    let files = here.ancestors().map(|folder| folder.join(FILE_NAME));
    let found = files.into_iter().find(|file| file.is_file());
    // Relative, for shorter messages.
    Ok(found.map(|file| if file.parent() == Some(&*here) { FILE_NAME.into() } else { file }))
}

/// Reads the project of the current directory or the nearest parent, if there is one.
pub(crate) fn nearest() -> Result<Option<Project>, CommandError> {
    nearest_file()?.map(|file| load(&file)).transpose()
}

/// Finds the project and the names of its images that the arguments `what` select.
///
/// The project is that of `file`, or of the first argument, or of the current directory or the
/// nearest parent. Returns `None` if the first argument is an image file.
pub(crate) fn find(
    what: &[String],
    file: Option<&Path>,
) -> Result<Option<(Project, Vec<String>)>, CommandError> {
    if let Some(file) = file {
        return Ok(Some((load(file)?, what.to_vec())));
    }
    if let Some((first, names)) = what.split_first() {
        let path = Path::new(first);
        if path.is_dir() && path.join(FILE_NAME).is_file() {
            return Ok(Some((load(path)?, names.to_vec())));
        }
        if path.is_file() || first.contains('/') || first.ends_with(".yml") {
            if !Project::is_one(path) {
                return Ok(None);
            }
            return Ok(Some((load(path)?, names.to_vec())));
        }
    }
    if let Some(project) = nearest()? {
        return Ok(Some((project, what.to_vec())));
    }
    Err(CommandError::user(match what.first() {
        Some(word) => format!(
            "no file {word}, and no {FILE_NAME} in this directory or its parents that could have \
             an image of that name"
        ),
        None => format!(
            "no {FILE_NAME} in this directory or its parents: give a project's directory or file, \
             or create a project with `overcoat init`"
        ),
    }))
}

/// Finds the project of `words` and `file` as [`find`] does, and the indices of the images that
/// `words` name; all without a name.
pub(crate) fn find_images(
    words: &[String],
    file: Option<&Path>,
) -> Result<(Project, Vec<usize>), CommandError> {
    let Some((project, names)) = find(words, file)? else {
        return Err(CommandError::user(format!(
            "{} is not a project: give names of its images, and the project file with --project",
            words.first().map_or("", String::as_str)
        )));
    };
    let images = indices(&project, &names)?;
    Ok((project, images))
}

/// Returns the indices of the images of these names; all without a name.
pub(crate) fn indices(project: &Project, names: &[String]) -> Result<Vec<usize>, CommandError> {
    match names {
        [] => Ok((0..project.images().len()).collect()),
        names => names
            .iter()
            .map(|name| project.find(name))
            .collect::<Result<_, _>>()
            .map_err(CommandError::user),
    }
}

/// Returns the image that `word` names; `None` if it is a path or there is no such image.
pub(crate) fn named_image<'a>(project: &'a Project, word: &Path) -> Option<&'a Member> {
    if is_certain_path(word) {
        return None;
    }
    let index = project.find(word.to_str()?).ok()?;
    Some(&project.images()[index])
}

/// Returns the error for a word that is neither a path nor the name of an image.
pub(crate) fn unknown_image_error(project: &Project, word: &Path) -> CommandError {
    let word = word.to_string_lossy();
    let reason = project.find(&word).err().unwrap_or_default();
    CommandError::user(format!("no file {word}, and {reason}"))
}

/// Returns the layers of an image, the lowest first: its base, its lower overlays and itself. The
/// files need not exist.
fn layers_of(member: &Member) -> Result<Vec<PathBuf>, CommandError> {
    let name = &member.name;
    if member.kind() == "initrd" {
        return Err(CommandError::user(format!(
            "{name} is of kind initrd, which is no layer: name a base or an overlay"
        )));
    }
    let (own, _) = preferred_layer(&member.image.outputs)
        .ok_or_else(|| CommandError::user(format!("{name} has no artifact")))?;
    let lower = member.image.source.layers().map(|layers| layers.paths()).unwrap_or_default();
    Ok(lower.into_iter().chain([own.clone()]).collect())
}

/// Returns the tests of the project's images that make these files, in the order of the files.
pub(crate) fn tests_of(
    project: &Project,
    files: &[PathBuf],
) -> Result<Vec<ImageTest>, CommandError> {
    let mut tests = Vec::new();
    for file in files {
        let makes = |member: &&Member| {
            member.image.outputs.iter().any(|(output, _)| is_same_image(output, file))
        };
        if let Some(member) = project.images().iter().find(makes) {
            tests.extend(member.image.tests()?);
        }
    }
    Ok(tests)
}

/// Returns the suppressions of the image that makes the topmost of these files, of the project
/// `file` or the nearest one; none if no image makes it.
pub(crate) fn suppressions_of(
    images: &[PathBuf],
    file: Option<&Path>,
) -> Result<Vec<Suppression>, CommandError> {
    let Some(top) = images.last() else { return Ok(Vec::new()) };
    // Images by path need no project, so mistakes in the nearest one are not theirs.
    let project = match file {
        Some(file) => Some(load(file)?),
        None => nearest().ok().flatten(),
    };
    let Some(project) = project else { return Ok(Vec::new()) };
    let makes =
        |member: &&Member| member.image.outputs.iter().any(|(file, _)| is_same_image(file, top));
    Ok(project.images().iter().find(makes).map(suppressions).unwrap_or_default())
}

/// Returns the suppressions in the settings of an image.
pub(crate) fn suppressions(member: &Member) -> Vec<Suppression> {
    let skips = member.image.check.skip.iter();
    skips
        .map(|skip| Suppression {
            lint: skip.lint.clone(),
            path: skip.path.clone(),
            reason: skip.reason.clone(),
        })
        .collect()
}

/// Returns the image that makes the first of the files that does not exist, if there is one.
pub(crate) fn unbuilt<'a>(project: &'a Project, files: &[PathBuf]) -> Option<&'a Member> {
    let missing = files.iter().filter(|file| !ImageLocation::of(file).file.exists());
    missing
        .into_iter()
        .find_map(|file| project.images().iter().find(|image| image.files().contains(file)))
}

/// Returns the error for an image that is needed for `wanted`, or is the same, and is not built.
pub(crate) fn not_built_error(project: &Project, unbuilt: &str, wanted: &str) -> CommandError {
    let option = match nearest_file() {
        Ok(Some(file)) if file == project.file => String::new(),
        _ => format!("-p {} ", project.file.display()),
    };
    let subject = match unbuilt == wanted {
        true => format!("{unbuilt} is"),
        false => format!("{wanted} needs {unbuilt}, which is"),
    };
    CommandError::user(format!("{subject} not built yet: run `overcoat build {option}{wanted}`"))
}

/// Returns the layers of an image. If `other_base` is given, it replaces the base of an overlay.
///
/// # Errors
/// Fails if a layer is not built.
pub(crate) fn built_layers(
    project: &Project,
    member: &Member,
    other_base: Option<&Path>,
) -> Result<Vec<PathBuf>, CommandError> {
    let mut layers = layers_of(member)?;
    if let (Some(base), [lowest, _, ..]) = (other_base, &mut layers[..]) {
        *lowest = base.to_owned();
    }
    match unbuilt(project, &layers) {
        Some(unbuilt) => Err(not_built_error(project, &unbuilt.name, &member.name)),
        None => Ok(layers),
    }
}

/// Returns the layers of the images `words`, the lowest first. The name of an image refers to
/// its layers; layers that several names have in common are not repeated.
pub(crate) fn stack(
    words: &[PathBuf],
    project: Option<&Project>,
) -> Result<Vec<PathBuf>, CommandError> {
    let mut stack: Vec<PathBuf> = Vec::new();
    for word in words {
        let named = project.and_then(|project| Some((project, named_image(project, word)?)));
        let Some((project, member)) = named else {
            if let Some(project) = project.filter(|_| !is_path_form(word)) {
                return Err(unknown_image_error(project, word));
            }
            stack.push(word.clone());
            continue;
        };
        let layers = built_layers(project, member, None)?;
        if let (Some(lowest), Some(base), Some(own)) =
            (stack.first(), layers.first(), layers.last())
            && !is_same_image(lowest, base)
        {
            let reason = match base == own {
                true => "is a base".to_owned(),
                false => format!("is built on {}", base.display()),
            };
            return Err(CommandError::user(format!(
                "{name} {reason} and not on {lowest}: write {own} to place it there",
                name = member.name,
                lowest = lowest.display(),
                own = own.display()
            )));
        }
        for layer in layers {
            if !stack.iter().any(|other| is_same_image(other, &layer)) {
                stack.push(layer);
            }
        }
    }
    Ok(stack)
}

/// Returns whether two paths refer to the same image.
pub(crate) fn is_same_image(one: &Path, other: &Path) -> bool {
    let (one, other) = (ImageLocation::of(one), ImageLocation::of(other));
    one.offset == other.offset && (one.file == other.file || is_same_file(&one.file, &other.file))
}
