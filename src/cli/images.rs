//! Images and paths inside them, on one command line.
//!
//! The rule of all commands that look into images: an argument that begins with a colon is a path
//! inside (`:/etc/passwd`; the slash may be left out), everything else is an image, the lowest
//! first. Where both could be meant, nothing is guessed.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use clap::Args;
use fs_model::tree::Follow;

use super::Failure;
use crate::layers::OpenError;
use crate::look::{LookError, Node, View};

/// How the rule is told in `--help`.
pub(super) const RULE: &str = "A path inside begins with a colon, such as :/etc/passwd; everything \
                               else is an image: a base, and overlays over it.";

/// Images, and paths inside what they make.
#[derive(Debug, Args)]
pub(super) struct Images {
    /// The base, overlays over it, and paths inside, which begin with a colon
    #[arg(required = true, value_name = "BASE [OVERLAY…] [:PATH…]")]
    arguments: Vec<OsString>,
}

/// Images that were opened.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) view: View,
    /// What the colons stood before.
    pub(super) paths: Vec<Vec<u8>>,
}

impl Images {
    pub(super) fn open(&self) -> Result<Opened, Failure> {
        let (images, paths) = split(&self.arguments);
        if images.is_empty() {
            return Err(no_image(&paths));
        }
        let view = View::open(&images).map_err(|error| hint(error, &images))?;
        refuse_paths(&view, &images)?;
        Ok(Opened { view, paths })
    }
}

impl Opened {
    /// The nodes at the paths; the root if there is none.
    pub(super) fn nodes(&self, follow: Follow) -> Result<Vec<Node>, LookError> {
        if self.paths.is_empty() {
            return Ok(vec![self.view.root()?]);
        }
        self.paths.iter().map(|path| self.view.resolve(path, follow)).collect()
    }

    /// What a layer is called where several are told apart: the name of its file, or all of the path
    /// where two have the same.
    pub(super) fn labels(&self) -> Vec<String> {
        labels(&self.view)
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
    for image in images.iter().skip(1).filter(|image| image.is_absolute() && image.is_dir()) {
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
