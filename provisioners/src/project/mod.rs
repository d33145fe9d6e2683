//! The project file: all images of a project, and what they have in common.
//!
//! Invariants of a project that was read:
//! - An image's layers are files: that of another image of the project where one is named, what is
//!   at the path otherwise.
//! - No image needs itself, by whatever way.
//! - No two images write one file.
//! - Every variable given to all images is one that some provisioner of the project has.

mod order;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::config::error::Mistake;
use crate::config::yaml::Key;
use crate::config::{ConfigError, Document, Fields, Node, Value, join, nearest};
use crate::image::{
    self, Archive, Image, ImageLocation, InProject, Kind, Settings, Source, Surroundings,
};
use crate::variables::{Declared, Variables};

/// The name that a project file has.
pub const FILE_NAME: &str = "overcoat.yml";

/// A project, read and checked.
#[derive(Debug, Clone)]
pub struct Project {
    /// The file it was read from.
    pub file: PathBuf,
    /// The folder of the artifacts.
    pub output: PathBuf,
    /// The images, in the order of the file.
    images: Vec<Member>,
}

/// An image of a project.
#[derive(Debug, Clone)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// What it is.
    pub image: Image,
    /// The images that are its layers, as places in [`Project::images`], the lowest first.
    pub needs: Vec<usize>,
}

/// What is said once for all images.
#[derive(Debug, Clone, Default)]
pub(crate) struct Globals {
    /// The folder of the artifacts.
    pub(crate) output: PathBuf,
    pub(crate) archive: Archive,
    pub(crate) settings: Settings,
}

impl Project {
    /// Reads a project file.
    ///
    /// # Errors
    /// When it can't be read or has a mistake, or a provisioner it names has.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        Self::of(&Document::read(file)?)
    }

    /// Reads the text of a project file, which stands or is to stand at `file`.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn parse(file: &Path, text: String) -> Result<Self, ConfigError> {
        Self::of(&Document::parse(file, text)?)
    }

    /// Whether the file describes a project rather than one image. A file that can't be read
    /// does not.
    pub fn is_one(file: &Path) -> bool {
        Document::read(file).is_ok_and(|document| match &document.root.value {
            Value::Map(entries) => entries.iter().any(|(key, _)| key.name == "images"),
            _ => false,
        })
    }

    fn of(document: &Document) -> Result<Self, ConfigError> {
        let fields = Fields::of(&document.root, "a project")?;
        let folder = document.folder();
        let globals = Globals {
            output: fields.path("output", folder)?.unwrap_or_else(|| join(folder, "build")),
            archive: Archive::of(&fields, folder)?,
            settings: Settings::of(&fields)?,
        };
        let variables = Declared::of(fields.get("variables"))?;
        let help = "write `images:`, and below it a name and what it is for each image";
        let images = fields.require("images", help)?;
        fields.finish()?;

        let project = Self {
            file: document.path().to_owned(),
            output: globals.output.clone(),
            images: members(document, images, &globals, &variables)?,
        };
        order::check(images, &project.images)?;
        Ok(project)
    }

    /// The images, in the order of the file.
    pub fn images(&self) -> &[Member] {
        &self.images
    }

    /// The place of the image of this name.
    ///
    /// # Errors
    /// What to say when there is none.
    pub fn find(&self, name: &str) -> Result<usize, String> {
        self.images.iter().position(|image| image.name == name).ok_or_else(|| {
            let names = || self.images.iter().map(|image| image.name.as_str());
            let help = match nearest(name, names()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("its images are {}", names().collect::<Vec<_>>().join(", ")),
            };
            format!("{} has no image `{name}`: {help}", self.file.display())
        })
    }

    /// The images at these places and all that they need, each after what it needs.
    pub fn with_needs(&self, wanted: &[usize]) -> Vec<usize> {
        order::with_needs(&self.images, wanted)
    }
}

/// The key and the definition of each image of the mapping `images`.
fn definitions(images: &Node) -> Result<&[(Key, Node)], Box<Mistake>> {
    let help = "write `NAME:`, and below it what the image is";
    let entries = match &images.value {
        Value::Map(entries) => entries,
        _ => {
            return Err(
                images.wrong_with(format!("expected images, found {}", images.what()), help)
            );
        }
    };
    if entries.is_empty() {
        return Err(images.wrong_with("there is no image", help));
    }
    for (key, _) in entries {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '+');
        if !key.name.chars().all(plain) || key.name.starts_with(['.', '-']) || key.name.is_empty() {
            let help = "a name has letters, digits, `-`, `_`, `+` and `.`: its files are named so";
            let problem = "this is no name for an image";
            return Err(images.wrong_key(key, problem, Some(help.to_owned())));
        }
    }
    Ok(entries)
}

fn members(
    document: &Document,
    images: &Node,
    globals: &Globals,
    variables: &Declared,
) -> Result<Vec<Member>, ConfigError> {
    let entries = definitions(images)?;
    let folder = document.folder();
    // Where each image's file for others to lie upon is.
    let mut files: BTreeMap<&str, (usize, Option<PathBuf>)> = BTreeMap::new();
    for (index, (key, node)) in entries.iter().enumerate() {
        let fields = Fields::of(node, "an image")?;
        let project = Some(InProject { name: &key.name, globals });
        let around = Surroundings { folder, layer: &|_| Ok(PathBuf::new()), project };
        let outputs = image::outputs(&fields, &around)?;
        // tar is the one format that is no layer.
        let layer = outputs.into_iter().find(|(_, format)| *format != image::Format::Tar);
        files.insert(&key.name, (index, layer.map(|(path, _)| path)));
    }
    let mut members = Vec::new();
    for (key, node) in entries {
        let needs = RefCell::new(Vec::new());
        let layer = |node: &Node| {
            let named = node.text("the name or path of an image")?;
            match files.get(named) {
                Some((index, Some(path))) => {
                    needs.borrow_mut().push(*index);
                    Ok(path.clone())
                }
                Some((_, None)) => Err(node.wrong_with(
                    format!("`{named}` is no layer: it makes nothing that can be one"),
                    "layers are images in the formats squashfs, cpio.gz, cpio.zst or cpio",
                )),
                None if named.contains(['/', '.'])
                    || ImageLocation::of(&folder.join(named)).file.exists() =>
                {
                    Ok(join(folder, named))
                }
                None => Err(match nearest(named, files.keys().copied()) {
                    Some(near) => node.wrong_with(
                        format!("there is no image `{named}`"),
                        format!("did you mean `{near}`?"),
                    ),
                    None => node.wrong_with(
                        format!("there is no image `{named}`"),
                        "name an image of this project, or the path of one: `./base.squashfs`",
                    ),
                }),
            }
        };
        let project = Some(InProject { name: &key.name, globals });
        let image = Image::of(document, node, &Surroundings { folder, layer: &layer, project })?;
        let mut needs = needs.into_inner();
        if let Source::Base(image::Root::From(from)) = &image.source {
            let made = files.values().find(|(_, made)| made.as_ref() == Some(from));
            needs.extend(made.map(|(index, _)| *index));
        }
        members.push(Member { name: key.name.clone(), image, needs });
    }
    give(&mut members, variables)?;
    no_file_twice(images, entries, &members)?;
    Ok(members)
}

/// Gives every image those variables of all that its provisioners have.
fn give(members: &mut [Member], variables: &Declared) -> Result<(), ConfigError> {
    let mut known: Vec<Variables> = Vec::new();
    for member in &mut *members {
        let provisioners = member.image.load_provisioners()?;
        let of_image: Vec<&Variables> = provisioners.iter().map(|p| p.variables()).collect();
        member.image.check_variables(&of_image)?;
        member.image.add_variables(variables.known_to(&of_image));
        known.extend(of_image.into_iter().cloned());
    }
    let known: Vec<&Variables> = known.iter().collect();
    Ok(variables.check_against(&known)?)
}

fn no_file_twice(
    images: &Node,
    entries: &[(Key, Node)],
    members: &[Member],
) -> Result<(), Box<Mistake>> {
    let mut writers: BTreeMap<PathBuf, &str> = BTreeMap::new();
    for ((key, _), member) in entries.iter().zip(members) {
        let outputs = &member.image.outputs;
        let manifests = outputs.iter().map(|(path, _)| image::manifest_path(path));
        for file in member.files().into_iter().chain(manifests) {
            let file = std::path::absolute(&file).unwrap_or(file);
            if let Some(other) = writers.insert(file.clone(), &member.name) {
                let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let problem = if other == member.name {
                    format!("`{name}` would be written twice")
                } else {
                    format!("`{name}` is written by `{other}` too")
                };
                let help = match member.image.source {
                    Source::Initrd { .. } => "give what it `yields` names of their own",
                    _ => "give it an `output` of its own",
                };
                return Err(images.wrong_key(key, problem, Some(help.to_owned())));
            }
        }
    }
    Ok(())
}

impl Member {
    /// The files that it makes.
    pub fn files(&self) -> Vec<PathBuf> {
        match &self.image.source {
            Source::Initrd { yields, .. } => yields.iter().map(|y| y.output.clone()).collect(),
            _ => self.image.outputs.iter().map(|(path, _)| path.clone()).collect(),
        }
    }

    /// The word for what it is.
    pub fn kind(&self) -> &'static str {
        let kind = match &self.image.source {
            Source::Overlay(_) => Kind::Overlay,
            Source::Base(_) => Kind::Base,
            Source::Initrd { .. } => Kind::Initrd,
        };
        Kind::NAMES.iter().find(|(_, k)| *k == kind).map_or("", |(name, _)| name)
    }
}
