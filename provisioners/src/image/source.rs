//! The source of an image: layers, a new Debian root, or an existing root file system.

use std::path::{Path, PathBuf};

use super::archive::{ArchiveSettings, release};
use super::location::ImageLocation;
use super::settings::ImageContext;
use super::values::keyword;
use crate::config::error::Mistake;
use crate::config::{Fields, YamlNode, YamlValue, join};
use crate::error::StepError;
use crate::glob::Pattern;
use crate::machine::{Kind as FileKind, Machine};
use crate::steps::packages::PackageList;

/// The kind of an image, and what it is built from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// An overlay: the changes made to layers.
    Overlay(Layers),
    /// A base: a root file system.
    Base(Root),
    /// Files that are created in a root of layers and copied out of it: a kernel and its initrd.
    Initrd {
        /// The layers.
        layers: Layers,
        /// The files, in the order of the image file.
        yields: Vec<Yield>,
    },
}

/// The kinds of images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ImageKind {
    Overlay,
    Base,
    Initrd,
}

impl ImageKind {
    pub(crate) const NAMES: [(&'static str, Self); 3] =
        [("overlay", Self::Overlay), ("base", Self::Base), ("initrd", Self::Initrd)];

    /// Reads the kind of an image. The default is an overlay.
    pub(crate) fn parse(fields: &Fields<'_>) -> Result<Self, Box<Mistake>> {
        fields.get("kind").map_or(Ok(Self::Overlay), |node| keyword(node, &Self::NAMES))
    }
}

/// A base and the overlays on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layers {
    /// The base image.
    pub base: PathBuf,
    /// The overlays, the lowest first.
    pub overlays: Vec<PathBuf>,
}

impl Layers {
    /// Returns the files of all layers, the lowest first.
    pub fn paths(&self) -> Vec<PathBuf> {
        std::iter::once(&self.base).chain(&self.overlays).cloned().collect()
    }

    fn parse(fields: &Fields<'_>, context: &ImageContext<'_>) -> Result<Self, Box<Mistake>> {
        let help = "write `base: build/base.squashfs`, the image to change";
        let base = (context.layer)(fields.require("base", help)?)?;
        let overlays = match fields.get("overlays") {
            None => Vec::new(),
            Some(node) => node
                .list()?
                .iter()
                .map(|node| (context.layer)(node))
                .collect::<Result<_, Box<Mistake>>>()?,
        };
        Ok(Self { base, overlays })
    }
}

/// The root file system of a base.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Root {
    /// A Debian, or a distribution based on it, that mmdebstrap installs.
    Debian(Debootstrap),
    /// An existing root file system: a tar archive (plain, gzip, xz or zstd), a directory, or an
    /// image in one of the formats of layers.
    From(PathBuf),
}

/// The options of mmdebstrap for a new Debian root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Debootstrap {
    /// The release: `bookworm`.
    pub release: String,
    /// Mirrors as URLs or whole `deb` lines. If empty, mmdebstrap uses its defaults.
    pub mirrors: Vec<String>,
    /// The variant, `minbase` by default.
    pub variant: String,
    /// Components of the archive: `main`, `contrib`. If empty, mmdebstrap uses its defaults.
    pub components: Vec<String>,
    /// The architecture; `None` for that of the host.
    pub architecture: Option<String>,
    /// The keyring that signs the release; `None` for the keys of the host.
    pub keyring: Option<PathBuf>,
    /// Packages to install in addition to those of the variant.
    pub packages: Vec<String>,
}

/// A file that an initrd image yields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Yield {
    /// The name of the artifact.
    pub name: String,
    /// The file to write.
    pub output: PathBuf,
    /// Its location in the root: a path, or a pattern that matches one file.
    pub pattern: String,
}

impl Yield {
    /// Reads its content from the root.
    ///
    /// # Errors
    ///
    /// Fails if the root has no matching file or several, or if the file cannot be read.
    pub fn read(&self, machine: &dyn Machine) -> Result<Vec<u8>, StepError> {
        let pattern = Pattern::parse(&self.pattern)
            .map_err(|problem| StepError::Impossible(format!("`{}`: {problem}", self.pattern)))?;
        let mut found = pattern.find(machine)?;
        found.retain(|(_, kind)| *kind != FileKind::Directory);
        let (name, pattern) = (&self.name, &self.pattern);
        match found.as_slice() {
            [(path, _)] => machine.read(path)?.ok_or_else(|| {
                StepError::Impossible(format!("{name}: {} is a dangling link", path.display()))
            }),
            [] => Err(StepError::Impossible(format!(
                "{name}: the root has no {pattern}: a provisioner must create it"
            ))),
            several => {
                let names: Vec<String> =
                    several.iter().map(|(path, _)| path.display().to_string()).collect();
                Err(StepError::Impossible(format!(
                    "{name}: {pattern} matches {}: write a pattern that matches one file",
                    names.join(" and ")
                )))
            }
        }
    }
}

impl Source {
    pub(super) fn parse(
        fields: &Fields<'_>,
        context: &ImageContext<'_>,
    ) -> Result<Self, Box<Mistake>> {
        Ok(match ImageKind::parse(fields)? {
            ImageKind::Overlay => Self::Overlay(Layers::parse(fields, context)?),
            ImageKind::Base => Self::Base(root(fields, context)?),
            ImageKind::Initrd => Self::Initrd {
                layers: Layers::parse(fields, context)?,
                yields: yields(fields, context)?,
            },
        })
    }

    /// Returns the layers; `None` for a base.
    pub fn layers(&self) -> Option<&Layers> {
        match self {
            Self::Overlay(layers) | Self::Initrd { layers, .. } => Some(layers),
            Self::Base(_) => None,
        }
    }
}

fn root(fields: &Fields<'_>, context: &ImageContext<'_>) -> Result<Root, Box<Mistake>> {
    if let Some(node) = fields.get("from") {
        for word in ["release", "mirror", "variant", "components", "architecture", "packages"] {
            if let Some(other) = fields.get(word) {
                let help = "install packages in an existing root with a provisioner";
                let problem = format!("`{word}` is for a new root and cannot be used with `from`");
                return Err(other.mistake_with_help(problem, help));
            }
        }
        return Ok(Root::From(join(context.folder, node.text("the path of a root file system")?)));
    }
    Ok(Root::Debian(debootstrap(fields, context)?))
}

/// Returns the mistake if the root file system of `from` does not exist.
pub(super) fn missing_from(image: &YamlNode, folder: &Path) -> Option<Box<Mistake>> {
    let node = image.get("from")?;
    let name = node.text("the path of a root file system").ok()?;
    let help = "write the path of a tar archive, directory or image, relative to this file";
    let mistake = || node.mistake_with_help(format!("`{name}` does not exist"), help);
    (!ImageLocation::of(&join(folder, name)).file.exists()).then(mistake)
}

fn debootstrap(
    fields: &Fields<'_>,
    context: &ImageContext<'_>,
) -> Result<Debootstrap, Box<Mistake>> {
    let own = ArchiveSettings::parse(fields, context.folder)?;
    let all = context.project.map(|p| p.globals.archive.clone()).unwrap_or_default();
    let or = |own: Vec<String>, all| if own.is_empty() { all } else { own };
    let release = match own.release.or(all.release) {
        Some(release) => release,
        None => release(fields.require("release", "write `release: bookworm`")?)?,
    };
    Ok(Debootstrap {
        release,
        mirrors: or(own.mirrors, all.mirrors),
        variant: fields.text("variant")?.unwrap_or_else(|| "minbase".to_owned()),
        components: or(own.components, all.components),
        architecture: own.architecture.or(all.architecture),
        keyring: own.keyring.or(all.keyring),
        packages: match fields.get("packages") {
            Some(node) => PackageList::parse_for_base(node, context.folder)?.names(),
            None => Vec::new(),
        },
    })
}

/// Files that an initrd image yields by default: kernel and initrd, in their locations on Debian.
const DEFAULT_YIELDS: [(&str, &str); 2] =
    [("vmlinuz", "/boot/vmlinuz-*"), ("initrd.img", "/boot/initrd.img-*")];

fn yields(fields: &Fields<'_>, context: &ImageContext<'_>) -> Result<Vec<Yield>, Box<Mistake>> {
    let folder = match (context.project, fields.get("output")) {
        (Some(project), Some(node)) => {
            project.globals.output.join(node.text("the path of a directory")?)
        }
        (Some(project), None) => project.globals.output.clone(),
        (None, Some(node)) => join(context.folder, node.text("the path of a directory")?),
        (None, None) => {
            let help = "an initrd image yields files: name the directory for them";
            join(context.folder, fields.require("output", help)?.text("the path of a directory")?)
        }
    };
    let file = |name: &str, pattern: &str| Yield {
        name: name.to_owned(),
        output: folder.join(name),
        pattern: pattern.to_owned(),
    };
    let Some(node) = fields.get("yields") else {
        return Ok(DEFAULT_YIELDS.iter().map(|(name, pattern)| file(name, pattern)).collect());
    };
    let help = "write `vmlinuz: /boot/vmlinuz-*`, one line for each file";
    let YamlValue::Map(entries) = &node.value else {
        return Err(
            node.mistake_with_help(format!("expected files, found {}", node.kind_name()), help)
        );
    };
    if entries.is_empty() {
        return Err(node.mistake_with_help("an initrd image must yield files", help));
    }
    let mut yields = Vec::new();
    for (key, value) in entries {
        if key.name.contains('/') || matches!(key.name.as_str(), "" | "." | "..") {
            let problem = "invalid file name";
            return Err(node.key_mistake(key, problem, Some(help.to_owned())));
        }
        let pattern = value.text("a path in the root")?;
        Pattern::parse(pattern).map_err(|problem| value.mistake(problem))?;
        yields.push(file(&key.name, pattern));
    }
    Ok(yields)
}
