//! Images and paths inside them, on one command line.
//!
//! The rule of all commands that look into images: an argument that begins with a colon is a path
//! inside (`:/etc/passwd`; the slash may be left out), everything else is an image, the lowest
//! first. Where both could be meant, nothing is guessed.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;

use clap::Args;
use fs_model::tree::Follow;
use provisioners::image::{ImageLocation, parse_offset};

use super::{Failure, say};
use crate::layers::OpenError;
use crate::look::{Node, Place, View};

/// Where the base begins in its file.
#[derive(Debug, Default, Args)]
pub(super) struct BaseOffset {
    /// Byte offset of the base in its file; FILE@BYTES gives the offset of any image
    #[arg(long, value_name = "BYTES", value_parser = offset)]
    offset: Option<u64>,
}

impl BaseOffset {
    /// Gives the first of the images this offset.
    pub(super) fn apply(&self, images: &mut [PathBuf]) {
        if let (Some(offset), Some(base)) = (self.offset, images.first_mut()) {
            *base = ImageLocation { file: base.clone(), offset }.path();
        }
    }

    /// Refuses an offset where the command line has no base that it could be of.
    pub(super) fn refuse(&self, place: &str) -> Result<(), Failure> {
        match self.offset {
            None => Ok(()),
            Some(offset) => Err(Failure::message(format!(
                "--offset is of the base of a command line: {place}, write FILE@{offset}"
            ))),
        }
    }
}

impl FromStr for BaseOffset {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(BaseOffset { offset: Some(offset(text)?) })
    }
}

/// A byte of a file, on the command line.
fn offset(text: &str) -> Result<u64, String> {
    parse_offset(text)
        .ok_or_else(|| "write a number of bytes, such as 32768, 0x8000 or 32K".to_owned())
}

/// Images, and paths inside what they make.
#[derive(Debug, Args)]
pub(super) struct Images {
    /// The base, overlays over it, and paths inside, which begin with a colon
    #[arg(required = true, value_name = "BASE [OVERLAY…] [:PATH…]")]
    arguments: Vec<OsString>,

    #[command(flatten)]
    offset: BaseOffset,
}

/// Images that were opened.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) view: View,
    /// The images themselves: names are text, and paths may not be.
    pub(super) images: Vec<PathBuf>,
    /// What the colons stood before.
    pub(super) paths: Vec<Vec<u8>>,
}

impl Images {
    pub(super) fn open(&self) -> Result<Opened, Failure> {
        let (mut images, paths) = split(&self.arguments);
        if images.is_empty() {
            return Err(no_image(&paths));
        }
        self.offset.apply(&mut images);
        let view = View::open(&images).map_err(|error| hint(error, &images))?;
        refuse_paths(&view, &images)?;
        Ok(Opened { view, images, paths })
    }
}

impl Opened {
    /// Shows `each` what is at the paths, or the root if there is none; of a link that leads to
    /// nothing, the link. A path at which there is nothing is told, and makes the exit code 1; the others are shown all the same.
    pub(super) fn each(
        &self,
        follow: Follow,
        each: &mut dyn FnMut(Node) -> Result<(), Failure>,
    ) -> Result<ExitCode, Failure> {
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
                    say(&format!("error: {error}{}", self.fate(path)?));
                    code = ExitCode::from(1);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(code)
    }

    /// Which layer has something at a path where nothing is seen, and which one deletes it.
    fn fate(&self, path: &[u8]) -> Result<String, Failure> {
        let end = path.iter().rposition(|&byte| byte != b'/').map_or(0, |at| at + 1);
        if self.view.find(&path[..end], Follow::No)?.is_some() {
            // A link that was to lead to a directory.
            return Ok(String::new());
        }
        let places = self.view.places(path)?;
        let labels = labels(&self.view);
        let last =
            |is: fn(&Place) -> bool| places.iter().rposition(|at| at.as_ref().is_some_and(is));
        let Some(has) = last(|place| matches!(place, Place::Object(_))) else {
            return Ok(String::new());
        };
        Ok(match last(|place| *place == Place::Whiteout) {
            Some(by) if by > has => format!(": {} deletes that of {}", labels[by], labels[has]),
            _ => format!(": that of {} is hidden by a layer above", labels[has]),
        })
    }
}

/// What the layers of a view are called.
pub(super) fn labels(view: &View) -> Vec<String> {
    let short = |name: &String| {
        Path::new(name).file_name().map_or(name.clone(), |n| n.to_string_lossy().into_owned())
    };
    let all: Vec<String> = view.names().iter().map(short).collect();
    let alone = |name: &String| all.iter().filter(|other| *other == name).count() == 1;
    all.iter()
        .zip(view.names())
        .map(|(short, long)| if alone(short) { short } else { long })
        .map(|name| crate::seal::path::escape(name.as_bytes()).into_owned())
        .collect()
}

/// Images, and paths inside.
pub(super) fn split(arguments: &[OsString]) -> (Vec<PathBuf>, Vec<Vec<u8>>) {
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

pub(super) fn no_image(paths: &[Vec<u8>]) -> Failure {
    if paths.is_empty() {
        return Failure::message("no image is named: write the base first, then overlays");
    }
    let path = paths.first().map_or_else(Vec::new, |path| [b":", &path[..]].concat());
    Failure::message(format!(
        "no image is named: {} is a path inside, because it begins with a colon; an image of that \
         name is written ./{}",
        OsString::from_vec(path.clone()).display(),
        OsString::from_vec(path).display()
    ))
}

/// An image that is not there may have been meant as a path inside.
pub(super) fn hint(error: OpenError, images: &[PathBuf]) -> Failure {
    match &error {
        OpenError::Io { path, .. } | OpenError::Unknown { path }
            if images.first() != Some(path) =>
        {
            Failure::message(format!(
                "{error}; if a path inside is meant, it begins with a colon: :{}",
                path.display()
            ))
        }
        _ => Failure::Error(2, Box::new(error)),
    }
}

/// Refuses a folder of the host, named from its root, where the base has the same: `ls BASE /etc`
/// would show the host's.
pub(super) fn refuse_paths(view: &View, images: &[PathBuf]) -> Result<(), Failure> {
    // Who writes `/./etc` has been told.
    let meant = |image: &Path| image.as_os_str().as_bytes().starts_with(b"/./");
    let folder = |image: &&PathBuf| image.is_absolute() && image.is_dir() && !meant(image);
    for image in images.iter().skip(1).filter(folder) {
        let base = view.lowest(1).map_err(|error| Failure::Error(2, Box::new(error)))?;
        let path = image.as_os_str().as_bytes();
        if matches!(base.find(path, Follow::Yes), Ok(Some(_))) {
            return Err(Failure::message(format!(
                "{path}: is a folder of this machine, and {base} has one of that name too: write \
                 :{path} for the path inside, or /.{path} for the folder of this machine as a layer",
                path = image.display(),
                base = images[0].display()
            )));
        }
    }
    Ok(())
}
