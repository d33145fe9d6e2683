//! The files and directories that an image is built from, which no output may overwrite.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Image, ImageLocation, Root, Source, manifest_path};
use crate::ansible::paths::normalized;
use crate::config::ConfigError;
use crate::provisioner::Provisioner;

/// A file or a directory that an image is built from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputPath {
    /// The path, without symbolic links.
    path: PathBuf,
    /// Whether all files below the path are inputs.
    is_tree: bool,
    /// Directories below the path that are left out.
    except: Vec<PathBuf>,
    /// A description for messages: `the project file`.
    pub description: String,
}

impl InputPath {
    pub(crate) fn file(path: &Path, description: impl Into<String>) -> Self {
        let (path, description) = (real_path(path), description.into());
        Self { path, is_tree: false, except: Vec::new(), description }
    }

    pub(crate) fn tree(path: &Path, description: impl Into<String>) -> Self {
        Self { is_tree: true, ..Self::file(path, description) }
    }

    /// Returns whether a file at `path`, which need not exist, would be or replace an input.
    pub fn contains(&self, path: &Path) -> bool {
        let path = real_path(path);
        match self.is_tree {
            true => {
                path.starts_with(&self.path) && !self.except.iter().any(|one| path.starts_with(one))
            }
            false => path == self.path,
        }
    }
}

impl Image {
    /// Returns the files and directories that the image is built from.
    ///
    /// # Errors
    ///
    /// Fails if a provisioner cannot be read or has a mistake.
    pub fn input_paths(&self) -> Result<Vec<InputPath>, ConfigError> {
        let mut found = self.own_input_paths()?;
        let layers = self.source.layers().map(super::Layers::paths).unwrap_or_default();
        let layer = |path: PathBuf| InputPath::file(&ImageLocation::of(&path).file, "a layer");
        found.extend(layers.into_iter().map(layer));
        if let Source::Base(Root::From(path)) = &self.source {
            found.push(self.imported_root(path));
        }
        Ok(found)
    }

    /// Returns the files and directories that the image is built from, except for layers and a
    /// root file system that is a file: these may be the artifacts of other images.
    pub(crate) fn own_input_paths(&self) -> Result<Vec<InputPath>, ConfigError> {
        let file = if self.output_folder.is_some() { "the project file" } else { "the image file" };
        let mut found = vec![InputPath::file(&self.file, file)];
        found.extend(self.config_file.iter().map(|path| InputPath::file(path, "the config file")));
        match &self.source {
            Source::Base(Root::From(path)) if path.is_dir() => found.push(self.imported_root(path)),
            Source::Base(Root::Debian(debian)) => {
                found
                    .extend(debian.keyring.iter().map(|path| InputPath::file(path, "the keyring")));
            }
            _ => {}
        }
        for provisioner in self.load_provisioners()? {
            found.extend(Provisioner::input_paths(&provisioner));
        }
        Ok(found)
    }

    fn imported_root(&self, path: &Path) -> InputPath {
        let file = ImageLocation::of(path).file;
        match file.is_dir() {
            false => InputPath::file(&file, "the root file system of `from`"),
            true => {
                let except = self.output_places_below(&file);
                let except = except.into_iter().map(|below| real_path(&file).join(below));
                let tree = InputPath::tree(&file, "part of the root file system of `from`");
                InputPath { except: except.collect(), ..tree }
            }
        }
    }

    /// Returns the paths below a directory at which results of the image are: the output directory
    /// of its project, or its own artifacts. They are not part of a root file system.
    pub fn output_places_below(&self, folder: &Path) -> Vec<PathBuf> {
        let places = match &self.output_folder {
            Some(folder) => vec![folder.clone()],
            None => {
                let files = self.outputs.iter().map(|(path, _)| path.clone());
                files.flat_map(|path| [manifest_path(&path), path]).collect()
            }
        };
        let folder = real_path(folder);
        let below = |place: PathBuf| Some(real_path(&place).strip_prefix(&folder).ok()?.to_owned());
        places.into_iter().filter_map(below).filter(|path| !path.as_os_str().is_empty()).collect()
    }
}

/// Returns the absolute path without symbolic links and `..`. Parts at its end need not exist.
pub fn real_path(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut missing = Vec::new();
    let mut existing = absolute.as_path();
    loop {
        if let Ok(real) = fs::canonicalize(existing) {
            let joined = missing.into_iter().rev().fold(real, |path, part| path.join(part));
            let normalized = normalized(&joined);
            // What `..` leads to may be a symbolic link.
            return if normalized == joined { normalized } else { real_path(&normalized) };
        }
        let (Some(parent), Some(part)) = (existing.parent(), existing.components().next_back())
        else {
            return normalized(&absolute);
        };
        missing.push(part.as_os_str().to_owned());
        existing = parent;
    }
}
