//! Project files: the images of a project and their common settings.
//!
//! Invariants of a [`Project`]:
//! - The layers of an image are files: the artifact of another image where the file names one, a
//!   path otherwise.
//! - Images do not depend on each other in a cycle.
//! - No file is written by two images.
//! - Each variable for all images is declared by at least one provisioner of the project.

mod order;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::config::error::Mistake;
use crate::config::yaml::YamlKey;
use crate::config::{ConfigError, Fields, YamlDocument, YamlNode, YamlValue, join, nearest};
use crate::image::{
    self, ArchiveSettings, CommonSettings, Image, ImageContext, ImageKind, ImageLocation,
    ProjectContext, ProjectSettings, Source, real_path,
};
use crate::variables::{DeclaredVariables, Variables};

/// Name of the project file.
pub const FILE_NAME: &str = "overcoat.yml";

/// A project that was read and checked.
#[derive(Debug, Clone)]
pub struct Project {
    /// The file it was read from.
    pub file: PathBuf,
    /// The directory for artifacts.
    pub output: PathBuf,
    /// The images, in the order of the file.
    images: Vec<Member>,
}

/// An image of a project.
#[derive(Debug, Clone)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// The image.
    pub image: Image,
    /// The images that it is built on, as indices into [`Project::images`], the lowest layer first.
    pub needs: Vec<usize>,
}

impl Project {
    /// Reads a project file.
    ///
    /// # Errors
    ///
    /// Fails if the file or one of its provisioners cannot be read or has a mistake.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        Self::from_document(&YamlDocument::read(file)?)
    }

    /// Parses the text of a project file. Paths in it are relative to the directory of `file`,
    /// which need not exist.
    ///
    /// # Errors
    ///
    /// See [`load`](Self::load).
    pub fn parse(file: &Path, text: String) -> Result<Self, ConfigError> {
        Self::from_document(&YamlDocument::parse(file, text)?)
    }

    /// Returns whether the file describes a project rather than one image; `false` for a file that
    /// cannot be read.
    pub fn is_one(file: &Path) -> bool {
        YamlDocument::read(file).is_ok_and(|document| match &document.root.value {
            YamlValue::Map(entries) => entries.iter().any(|(key, _)| key.name == "images"),
            _ => false,
        })
    }

    fn from_document(document: &YamlDocument) -> Result<Self, ConfigError> {
        let fields = Fields::new(&document.root, "a project")?;
        let folder = document.folder();
        let globals = ProjectSettings {
            output: fields.path("output", folder)?.unwrap_or_else(|| join(folder, "build")),
            archive: ArchiveSettings::parse(&fields, folder)?,
            settings: CommonSettings::parse(&fields, folder)?,
        };
        let variables = DeclaredVariables::parse(fields.get("variables"))?;
        let help = "write `images:`, and below it the name and keys of each image";
        let images = fields.require("images", help)?;
        fields.finish()?;

        let project = Self {
            file: document.path().to_owned(),
            output: globals.output.clone(),
            images: members(document, images, &globals, &variables)?,
        };
        Ok(project)
    }

    /// Returns the images in the order of the file.
    pub fn images(&self) -> &[Member] {
        &self.images
    }

    /// Returns the index of the image of this name.
    ///
    /// # Errors
    ///
    /// Returns a message for the user if the project has no such image.
    pub fn find(&self, name: &str) -> Result<usize, String> {
        self.images.iter().position(|image| image.name == name).ok_or_else(|| {
            let names = || self.images.iter().map(|image| image.name.as_str());
            let longer = || names().find(|other| !name.is_empty() && other.starts_with(name));
            let help = match nearest(name, names()).or_else(longer) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("its images are {}", names().collect::<Vec<_>>().join(", ")),
            };
            format!("{} has no image `{name}`: {help}", self.file.display())
        })
    }

    /// Returns an image that is built from the file at `path`, or would be, and a description of
    /// that input.
    ///
    /// # Errors
    ///
    /// Fails if a provisioner cannot be read.
    pub fn input_at(&self, path: &Path) -> Result<Option<(&Member, String)>, ConfigError> {
        for member in &self.images {
            let mut inputs = member.image.input_paths()?.into_iter();
            if let Some(input) = inputs.find(|input| input.contains(path)) {
                return Ok(Some((member, input.description)));
            }
        }
        Ok(None)
    }

    /// Returns the number of results to keep of the image of this name; `None` if the project has
    /// no such image.
    pub fn keep(&self, name: &str) -> Option<u16> {
        self.images.iter().find(|image| image.name == name).map(|image| image.image.keep)
    }

    /// Returns the indices of these images and of all images that they need, in build order: each
    /// after the images that it needs.
    pub fn with_needs(&self, wanted: &[usize]) -> Vec<usize> {
        order::with_needs(&self.images, wanted)
    }
}

/// Returns key and definition of each image of the mapping `images`.
fn definitions(images: &YamlNode) -> Result<&[(YamlKey, YamlNode)], Box<Mistake>> {
    let help = "write `NAME:`, and below it the keys of the image";
    let entries = match &images.value {
        YamlValue::Map(entries) => entries,
        _ => {
            return Err(images.mistake_with_help(
                format!("expected images, found {}", images.kind_name()),
                help,
            ));
        }
    };
    if entries.is_empty() {
        return Err(images.mistake_with_help("the project has no images", help));
    }
    for (key, _) in entries {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '+');
        if !key.name.chars().all(plain) || key.name.starts_with(['.', '-']) || key.name.is_empty() {
            let help = "a name is also a file name: use letters, digits, `-`, `_`, `+` and `.`";
            let problem = "invalid image name";
            return Err(images.key_mistake(key, problem, Some(help.to_owned())));
        }
    }
    Ok(entries)
}

fn members(
    document: &YamlDocument,
    images: &YamlNode,
    globals: &ProjectSettings,
    variables: &DeclaredVariables,
) -> Result<Vec<Member>, ConfigError> {
    let entries = definitions(images)?;
    let folder = document.folder();
    // Index and layer of each image: the artifact that other images can be built on.
    let mut files: BTreeMap<&str, (usize, Option<PathBuf>)> = BTreeMap::new();
    // The indices of images by their artifacts, which may also be named by their paths.
    let mut makers: BTreeMap<PathBuf, usize> = BTreeMap::new();
    for (index, (key, node)) in entries.iter().enumerate() {
        let fields = Fields::new(node, "an image")?;
        let project = Some(ProjectContext { name: &key.name, globals });
        let context = ImageContext { folder, layer: &|_| Ok(PathBuf::new()), project };
        let outputs = image::outputs(&fields, &context)?;
        let layer = image::preferred_layer(&outputs).cloned();
        makers.extend(outputs.iter().map(|(path, _)| (real_path(path), index)));
        files.insert(&key.name, (index, layer.map(|(path, _)| path)));
    }
    let mut members = Vec::new();
    for (key, node) in entries {
        let needs = RefCell::new(Vec::new());
        let layer = |node: &YamlNode| {
            let named = node.text("the name or path of an image")?;
            match files.get(named) {
                Some((index, Some(path))) => {
                    needs.borrow_mut().push(*index);
                    Ok(path.clone())
                }
                Some((_, None)) => Err(node.mistake_with_help(
                    format!("`{named}` cannot be a layer: it has no artifact in a layer format"),
                    "layers are images of kind base or overlay",
                )),
                None if named.contains(['/', '.'])
                    || ImageLocation::of(&folder.join(named)).file.exists() =>
                {
                    let path = join(folder, named);
                    needs.borrow_mut().extend(makers.get(&real_path(&path)));
                    Ok(path)
                }
                None => Err(match nearest(named, files.keys().copied()) {
                    Some(near) => node.mistake_with_help(
                        format!("there is no image `{named}`"),
                        format!("did you mean `{near}`?"),
                    ),
                    None => node.mistake_with_help(
                        format!("there is no image `{named}`"),
                        "name an image of this project, or the path of one: `./base.squashfs`",
                    ),
                }),
            }
        };
        let project = Some(ProjectContext { name: &key.name, globals });
        let image = Image::parse(document, node, &ImageContext { folder, layer: &layer, project })?;
        let mut needs = needs.into_inner();
        if let Source::Base(image::Root::From(from)) = &image.source {
            needs.extend(makers.get(&real_path(&ImageLocation::of(from).file)));
        }
        members.push(Member { name: key.name.clone(), image, needs });
    }
    add_common_variables(&mut members, variables)?;
    check_outputs_are_unique(images, entries, &members)?;
    order::check(images, &members)?;
    for ((_, node), member) in entries.iter().zip(&members) {
        if let Some(layers) = member.image.source.layers()
            && let Some(maker) = makers.get(&real_path(&layers.base))
        {
            reject_overlay_as_base(node, &entries[*maker])?;
        }
    }
    check_inputs_stay(images, entries, &members)?;
    Ok(members)
}

/// Rejects the overlay `lower` as the base of the image `node`: it is no root.
fn reject_overlay_as_base(
    node: &YamlNode,
    (key, lower): &(YamlKey, YamlNode),
) -> Result<(), Box<Mistake>> {
    let Some(base) = node.get("base") else { return Ok(()) };
    if ImageKind::parse(&Fields::new(lower, "an image")?)? != ImageKind::Overlay {
        return Ok(());
    }
    let texts = |node: &YamlNode, key: &str| -> Result<Vec<String>, Box<Mistake>> {
        let nodes = node.get(key).map_or(Ok(Default::default()), YamlNode::list)?;
        nodes.iter().map(|node| Ok(node.text("the name or path of an image")?.to_owned())).collect()
    };
    let mut overlays = texts(lower, "overlays")?;
    overlays.push(key.name.clone());
    overlays.extend(texts(node, "overlays")?);
    let lowest = texts(lower, "base")?.pop().unwrap_or_default();
    Err(base.mistake_with_help(
        format!("`{}` is an overlay, and a base is a root", key.name),
        format!("write `base: {lowest}` and `overlays: [{}]`", overlays.join(", ")),
    ))
}

/// Rejects outputs that would overwrite what an image is built from, or become a part of it.
fn check_inputs_stay(
    images: &YamlNode,
    entries: &[(YamlKey, YamlNode)],
    members: &[Member],
) -> Result<(), ConfigError> {
    let mut inputs = Vec::new();
    for member in members {
        let paths = member.image.own_input_paths()?;
        inputs.extend(paths.into_iter().map(|input| (input, &member.name)));
    }
    for ((key, _), member) in entries.iter().zip(members) {
        for file in member.files_and_manifests() {
            let Some((input, of)) = inputs.iter().find(|(input, _)| input.contains(&file)) else {
                continue;
            };
            let of = if **of == member.name { "the image".to_owned() } else { format!("`{of}`") };
            let problem = format!(
                "`{}` would be {}, which {of} is built from",
                file.display(),
                input.description
            );
            let help = Some("give it another `output`".to_owned());
            return Err(images.key_mistake(key, problem, help).into());
        }
    }
    Ok(())
}

/// Adds to each image those of the project's variables that its provisioners declare.
fn add_common_variables(
    members: &mut [Member],
    variables: &DeclaredVariables,
) -> Result<(), ConfigError> {
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

fn check_outputs_are_unique(
    images: &YamlNode,
    entries: &[(YamlKey, YamlNode)],
    members: &[Member],
) -> Result<(), Box<Mistake>> {
    let mut writers: BTreeMap<PathBuf, &str> = BTreeMap::new();
    for ((key, _), member) in entries.iter().zip(members) {
        for file in member.files_and_manifests() {
            // A symbolic link is followed.
            if let Some(other) = writers.insert(real_path(&file), &member.name) {
                let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let problem = if other == member.name {
                    format!("`{name}` would be written twice")
                } else {
                    format!("`{other}` writes `{name}` too")
                };
                let help = match member.image.source {
                    Source::Initrd { .. } => "give the files in `yields` other names",
                    _ => "give it another `output`",
                };
                return Err(images.key_mistake(key, problem, Some(help.to_owned())));
            }
        }
    }
    Ok(())
}

impl Member {
    /// Returns the files that it writes.
    pub fn files(&self) -> Vec<PathBuf> {
        match &self.image.source {
            Source::Initrd { yields, .. } => yields.iter().map(|y| y.output.clone()).collect(),
            _ => self.image.outputs.iter().map(|(path, _)| path.clone()).collect(),
        }
    }

    /// Returns the files that it writes, with manifests.
    fn files_and_manifests(&self) -> Vec<PathBuf> {
        let manifests = self.image.outputs.iter().map(|(path, _)| image::manifest_path(path));
        self.files().into_iter().chain(manifests).collect()
    }

    /// Returns its kind: `overlay`, `base` or `initrd`.
    pub fn kind(&self) -> &'static str {
        let kind = match &self.image.source {
            Source::Overlay(_) => ImageKind::Overlay,
            Source::Base(_) => ImageKind::Base,
            Source::Initrd { .. } => ImageKind::Initrd,
        };
        ImageKind::NAMES.iter().find(|(_, k)| *k == kind).map_or("", |(name, _)| name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_images_are_answered_with_similar_or_longer_names() {
        let text = "images: {base: {from: .}, discovery_overlay: {base: base}}".to_owned();
        let text = text.replace("{from: .}", "{kind: base, from: .}");
        let project = Project::parse(Path::new("overcoat.yml"), text).unwrap();
        for (name, help) in [
            ("bsae", "did you mean `base`?"),
            ("discovery", "did you mean `discovery_overlay`?"),
            ("other", "its images are base, discovery_overlay"),
        ] {
            let error = project.find(name).unwrap_err();
            assert!(error.ends_with(help), "{error}");
        }
    }
}
