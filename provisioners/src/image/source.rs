//! What an image is built from: layers, a new Debian root, or somebody else's root file system.

use std::path::{Path, PathBuf};

use super::{ImageLocation, Surroundings, paths, word};
use crate::config::error::Mistake;
use crate::config::{Fields, Node, Value, join};
use crate::glob::Pattern;
use crate::machine::{Kind as FileKind, Machine};
use crate::steps::StepError;
use crate::steps::packages::Packages;

/// What an image is built from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// An overlay: the changes made to layers.
    Overlay(Layers),
    /// A base: a new root file system.
    Base(Root),
    /// Files that are made in a root of layers and taken out of it: a kernel and its initrd.
    Initrd {
        /// The layers.
        layers: Layers,
        /// The files, in the order of the file.
        yields: Vec<Yield>,
    },
}

/// The kinds of image, by the words for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Overlay,
    Base,
    Initrd,
}

impl Kind {
    pub(crate) const NAMES: [(&'static str, Self); 3] =
        [("overlay", Self::Overlay), ("base", Self::Base), ("initrd", Self::Initrd)];

    /// The kind that the fields of an image say; an overlay if they say none.
    pub(crate) fn of(fields: &Fields<'_>) -> Result<Self, Box<Mistake>> {
        fields.get("kind").map_or(Ok(Self::Overlay), |node| word(node, &Self::NAMES))
    }
}

/// A base and what lies over it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layers {
    /// The base image.
    pub base: PathBuf,
    /// Overlays over it, the lowest first.
    pub overlays: Vec<PathBuf>,
}

impl Layers {
    /// All of them, the lowest first.
    pub fn paths(&self) -> Vec<PathBuf> {
        std::iter::once(&self.base).chain(&self.overlays).cloned().collect()
    }

    fn of(fields: &Fields<'_>, around: &Surroundings<'_>) -> Result<Self, Box<Mistake>> {
        let help = "write `base: build/base.squashfs`, the image that is changed";
        let base = (around.layer)(fields.require("base", help)?)?;
        let overlays = match fields.get("overlays") {
            None => Vec::new(),
            Some(node) => node
                .list()?
                .iter()
                .map(|node| (around.layer)(node))
                .collect::<Result<_, Box<Mistake>>>()?,
        };
        Ok(Self { base, overlays })
    }
}

/// A new root file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Root {
    /// Debian, or what is made like it, installed by mmdebstrap.
    Debian(Debootstrap),
    /// One that is there: a tar archive (plain, or compressed by gzip, xz or zstd), a directory, or
    /// an image in one of the formats of layers.
    From(PathBuf),
}

/// What a new Debian root is made of; the words are mmdebstrap's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Debootstrap {
    /// The release: `bookworm`.
    pub release: String,
    /// Mirrors as URLs or whole `deb` lines; those of mmdebstrap if none.
    pub mirrors: Vec<String>,
    /// `minbase` unless said otherwise.
    pub variant: String,
    /// Parts of the archive: `main`, `contrib`; mmdebstrap's own if none.
    pub components: Vec<String>,
    /// The architecture, if it isn't that of the host.
    pub architecture: Option<String>,
    /// The keys that sign the release, if they aren't the host's own.
    pub keyring: Option<PathBuf>,
    /// Packages besides those of the variant, installed while the root is made.
    pub packages: Vec<String>,
}

/// A file that an image yields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Yield {
    /// The name of the artifact.
    pub name: String,
    /// The file to write.
    pub output: PathBuf,
    /// Where it is in the root: a path or a pattern that one file matches.
    pub pattern: String,
}

impl Yield {
    /// Its content.
    ///
    /// # Errors
    /// When no file of the root matches, or several do.
    pub fn read(&self, machine: &dyn Machine) -> Result<Vec<u8>, StepError> {
        let pattern = Pattern::parse(&self.pattern)
            .map_err(|problem| StepError::Impossible(format!("`{}`: {problem}", self.pattern)))?;
        let mut found = pattern.find(machine)?;
        found.retain(|(_, kind)| *kind != FileKind::Directory);
        let (name, pattern) = (&self.name, &self.pattern);
        match found.as_slice() {
            [(path, _)] => machine.read(path)?.ok_or_else(|| {
                StepError::Impossible(format!("{name}: {} leads nowhere", path.display()))
            }),
            [] => Err(StepError::Impossible(format!(
                "{name}: nothing in the root is at {pattern}: a provisioner has to make it"
            ))),
            several => {
                let names: Vec<String> =
                    several.iter().map(|(path, _)| path.display().to_string()).collect();
                Err(StepError::Impossible(format!(
                    "{name}: {pattern} stands for {}: say which one is meant",
                    names.join(" and ")
                )))
            }
        }
    }
}

impl Source {
    pub(super) fn of(fields: &Fields<'_>, around: &Surroundings<'_>) -> Result<Self, Box<Mistake>> {
        Ok(match Kind::of(fields)? {
            Kind::Overlay => Self::Overlay(Layers::of(fields, around)?),
            Kind::Base => Self::Base(root(fields, around)?),
            Kind::Initrd => Self::Initrd {
                layers: Layers::of(fields, around)?,
                yields: yields(fields, around)?,
            },
        })
    }

    /// The layers, where it has some.
    pub fn layers(&self) -> Option<&Layers> {
        match self {
            Self::Overlay(layers) | Self::Initrd { layers, .. } => Some(layers),
            Self::Base(_) => None,
        }
    }
}

fn root(fields: &Fields<'_>, around: &Surroundings<'_>) -> Result<Root, Box<Mistake>> {
    if let Some(node) = fields.get("from") {
        for word in ["release", "mirror", "variant", "components", "architecture", "packages"] {
            if let Some(other) = fields.get(word) {
                let help = "a provisioner can install packages into what is there";
                let problem = format!("`{word}` is for a new root, and `from` names one");
                return Err(other.wrong_with(problem, help));
            }
        }
        return Ok(Root::From(join(around.folder, node.text("the path of a root file system")?)));
    }
    Ok(Root::Debian(debootstrap(fields, around)?))
}

/// That the root file system of `from` is not there, said at its place.
pub(super) fn missing(image: &Node, folder: &Path) -> Option<Box<Mistake>> {
    let node = image.at("from")?;
    let name = node.text("the path of a root file system").ok()?;
    let help = "it is a tar archive, a folder or an image, by its path from this file";
    let mistake = || node.wrong_with(format!("there is no `{name}`"), help);
    (!ImageLocation::of(&join(folder, name)).file.exists()).then(mistake)
}

/// The keys of a [`Debootstrap`] that a whole project may have too.
#[derive(Debug, Clone, Default)]
pub(crate) struct Archive {
    pub(crate) release: Option<String>,
    mirrors: Vec<String>,
    components: Vec<String>,
    architecture: Option<String>,
    keyring: Option<PathBuf>,
}

impl Archive {
    pub(crate) fn of(fields: &Fields<'_>, folder: &Path) -> Result<Self, Box<Mistake>> {
        let mut mirrors = words(fields, "mirror", "a URL")?;
        if let Some(node) = fields.get("apt_server") {
            if !mirrors.is_empty() {
                return Err(node.wrong_with(
                    "both `mirror` and `apt_server`",
                    "`apt_server: HOST` stands for `mirror: http://HOST/debian`",
                ));
            }
            let host = node.text("the name of a host")?;
            if host.contains('/') {
                return Err(node.wrong_with(
                    "expected the name of a host",
                    "write `apt_server: cache.example.org:3142`, or a URL as `mirror`",
                ));
            }
            mirrors = vec![format!("http://{host}/debian")];
        }
        Ok(Self {
            release: fields.get("release").map(release).transpose()?,
            mirrors,
            components: words(fields, "components", "a component such as main")?,
            architecture: fields.text("architecture")?,
            keyring: fields.path("keyring", folder)?,
        })
    }
}

fn release(node: &Node) -> Result<String, Box<Mistake>> {
    let text = node.text("the name of a release")?;
    // It becomes an argument of mmdebstrap.
    if text.starts_with('-') || text.contains(char::is_whitespace) {
        return Err(node.wrong_with("this is no name of a release", "write `release: bookworm`"));
    }
    Ok(text.to_owned())
}

fn debootstrap(
    fields: &Fields<'_>,
    around: &Surroundings<'_>,
) -> Result<Debootstrap, Box<Mistake>> {
    let own = Archive::of(fields, around.folder)?;
    let all = around.project.map(|p| p.globals.archive.clone()).unwrap_or_default();
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
            Some(node) => Packages::of(node, around.folder)?.names(),
            None => Vec::new(),
        },
    })
}

fn words(fields: &Fields<'_>, name: &'static str, what: &str) -> Result<Vec<String>, Box<Mistake>> {
    let found = paths(fields.get(name), Path::new(""), what)?;
    Ok(found.into_iter().map(|word| word.to_string_lossy().into_owned()).collect())
}

/// What an initrd image yields when it does not say: a kernel and its initrd, where Debian has them.
const KERNEL: [(&str, &str); 2] =
    [("vmlinuz", "/boot/vmlinuz-*"), ("initrd.img", "/boot/initrd.img-*")];

fn yields(fields: &Fields<'_>, around: &Surroundings<'_>) -> Result<Vec<Yield>, Box<Mistake>> {
    let folder = match (around.project, fields.get("output")) {
        (Some(project), Some(node)) => {
            project.globals.output.join(node.text("the path of a folder")?)
        }
        (Some(project), None) => project.globals.output.clone(),
        (None, Some(node)) => join(around.folder, node.text("the path of a folder")?),
        (None, None) => {
            let help = "an initrd image yields files: name the folder they go to";
            join(around.folder, fields.require("output", help)?.text("the path of a folder")?)
        }
    };
    let file = |name: &str, pattern: &str| Yield {
        name: name.to_owned(),
        output: folder.join(name),
        pattern: pattern.to_owned(),
    };
    let Some(node) = fields.get("yields") else {
        return Ok(KERNEL.iter().map(|(name, pattern)| file(name, pattern)).collect());
    };
    let help = "write `vmlinuz: /boot/vmlinuz-*`, a line for each file";
    let Value::Map(entries) = &node.value else {
        return Err(node.wrong_with(format!("expected files, found {}", node.what()), help));
    };
    if entries.is_empty() {
        return Err(node.wrong_with("an initrd image yields files", help));
    }
    let mut yields = Vec::new();
    for (key, value) in entries {
        if key.name.contains('/') || matches!(key.name.as_str(), "" | "." | "..") {
            let problem = "this is no name for a file";
            return Err(node.wrong_key(key, problem, Some(help.to_owned())));
        }
        let pattern = value.text("a path in the root")?;
        Pattern::parse(pattern).map_err(|problem| value.wrong(problem))?;
        yields.push(file(&key.name, pattern));
    }
    Ok(yields)
}
