//! The image file: what `overcoat build FILE` and `overcoat base` read.
//!
//! Paths in it are relative to the folder it is in. What a command line says wins over it.

use std::path::{Path, PathBuf};

use crate::cleanup;
use crate::config::error::Mistake;
use crate::config::{ConfigError, Document, Fields, Node, nearest};
use crate::provisioner::{FILE_NAME, Provisioner, is_provisioner};
use crate::run::{Plan, PlanError};
use crate::steps::packages::Packages;
use crate::variables::Declared;

/// An image file, read and checked.
#[derive(Debug, Clone)]
pub struct Image {
    /// The file it was read from.
    pub file: PathBuf,
    /// What is built, and from what.
    pub source: Source,
    /// The file to write, if the image file says so.
    pub output: Option<PathBuf>,
    /// Its format, if it isn't that of the output's suffix.
    pub format: Option<Format>,
    /// What the build can reach.
    pub network: Network,
    /// The most bytes that the changes may take in memory.
    pub upper_size: Option<u64>,
    /// The time, in seconds since 1970, that stands for that of the build. The environment's
    /// `SOURCE_DATE_EPOCH` wins.
    pub source_date_epoch: Option<i64>,
    /// Folders of provisioners, in the order in which they run.
    pub provisioners: Vec<PathBuf>,
    variables: Declared,
    cleanup: cleanup::Settings,
}

/// What an image is built from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// An overlay: the changes made to layers.
    Overlay {
        /// The base image.
        base: PathBuf,
        /// Overlays over it, the lowest first.
        overlays: Vec<PathBuf>,
    },
    /// A base: a new root file system.
    Base(Debootstrap),
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
    /// Packages besides those of the variant, installed while the root is made.
    pub packages: Vec<String>,
}

/// How an image is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A newc archive, not compressed.
    Cpio,
    /// A newc archive in one gzip member.
    CpioGz,
    /// A newc archive in one zstd frame.
    CpioZst,
    /// A tar archive.
    Tar,
    /// A squashfs image.
    Squashfs,
}

impl Format {
    /// All formats by their names in configuration files, which are the suffixes of files too.
    pub const NAMES: [(&'static str, Self); 5] = [
        ("cpio.gz", Self::CpioGz),
        ("cpio.zst", Self::CpioZst),
        ("cpio", Self::Cpio),
        ("tar", Self::Tar),
        ("squashfs", Self::Squashfs),
    ];

    /// The format that the name of a file says.
    pub fn of_path(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        Self::NAMES
            .iter()
            .find(|(suffix, _)| name.strip_suffix(suffix).is_some_and(|stem| stem.ends_with('.')))
            .map(|(_, format)| *format)
    }
}

/// What can be reached from inside while an image is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Network {
    /// What the host can reach.
    #[default]
    Host,
    /// Nothing.
    None,
}

impl Image {
    /// Reads an image file.
    ///
    /// # Errors
    /// When it can't be read or has a mistake. That the base exists is not checked: it may be
    /// built later.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let document = Document::read(file)?;
        Ok(Self::of(&document)?)
    }

    fn of(document: &Document) -> Result<Self, Box<Mistake>> {
        let folder = document.folder();
        let fields = Fields::of(&document.root, "an image")?;
        let base = match fields.get("kind") {
            None => false,
            Some(node) => word(node, &[("overlay", false), ("base", true)])?,
        };
        let source = if base {
            Source::Base(debootstrap(&fields, folder)?)
        } else {
            Source::Overlay {
                base: {
                    let help = "write `base: build/base.squashfs`, the image that is changed";
                    folder.join(fields.require("base", help)?.text("the path of an image")?)
                },
                overlays: paths(fields.get("overlays"), folder, "the path of an overlay")?,
            }
        };
        let output = fields.path("output", folder)?;
        let format = fields.get("format").map(|n| word(n, &Format::NAMES)).transpose()?;
        if let (Some(path), None) = (&output, format)
            && Format::of_path(path).is_none()
        {
            let node = fields.require("output", "")?;
            let suffixes: Vec<String> =
                Format::NAMES.iter().map(|(name, _)| format!(".{name}")).collect();
            return Err(node.wrong_with(
                "the suffix says no format",
                format!("use one of {}, or give a `format`", suffixes.join(", ")),
            ));
        }
        let network = [("host", Network::Host), ("none", Network::None)];
        let image = Self {
            file: document.path().to_owned(),
            source,
            output,
            format,
            network: fields
                .get("network")
                .map(|n| word(n, &network))
                .transpose()?
                .unwrap_or_default(),
            upper_size: fields.get("upper_size").map(size).transpose()?,
            source_date_epoch: fields.get("source_date_epoch").map(epoch).transpose()?,
            provisioners: provisioners(&fields, folder)?,
            variables: Declared::of(fields.get("variables"))?,
            cleanup: cleanup::Settings::of(fields.get("cleanup"))?,
        };
        fields.finish()?;
        Ok(image)
    }

    /// Reads the provisioners and makes the plan for this image.
    ///
    /// # Errors
    /// When a provisioner or a variable has a mistake, or a template can't be rendered.
    pub fn plan(&self) -> Result<Plan, PlanError> {
        let provisioners: Vec<Provisioner> =
            self.provisioners.iter().map(|p| Provisioner::load(p)).collect::<Result<_, _>>()?;
        Plan::with(&provisioners, &self.variables, &self.cleanup)
    }

    /// The clean-up settings, for a command line to change.
    pub fn cleanup_mut(&mut self) -> &mut cleanup::Settings {
        &mut self.cleanup
    }

    /// The format to write `output` in: the one that was asked for, or that of its suffix.
    pub fn format_for(&self, output: &Path) -> Option<Format> {
        self.format.or_else(|| Format::of_path(output))
    }
}

fn debootstrap(fields: &Fields<'_>, folder: &Path) -> Result<Debootstrap, Box<Mistake>> {
    let words = |name, what| match fields.get(name) {
        None => Ok(Vec::new()),
        Some(node) => node
            .list()?
            .iter()
            .map(|n| Ok(n.text(what)?.to_owned()))
            .collect::<Result<_, Box<Mistake>>>(),
    };
    let help = "write `release: bookworm`";
    Ok(Debootstrap {
        release: fields.require("release", help)?.text("the name of a release")?.to_owned(),
        mirrors: words("mirror", "a URL")?,
        variant: fields.text("variant")?.unwrap_or_else(|| "minbase".to_owned()),
        components: words("components", "a component such as main")?,
        architecture: fields.text("architecture")?,
        packages: match fields.get("packages") {
            Some(node) => Packages::of(node, folder)?.names(),
            None => Vec::new(),
        },
    })
}

fn provisioners(fields: &Fields<'_>, folder: &Path) -> Result<Vec<PathBuf>, Box<Mistake>> {
    let Some(node) = fields.get("provisioner") else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for node in node.list()? {
        let name = node.text("the path of a provisioner's folder")?;
        let path = folder.join(name);
        if !is_provisioner(&path) {
            let problem = if path.is_dir() {
                format!("the folder `{name}` has no {FILE_NAME}, nor the tasks of an Ansible role")
            } else {
                format!("there is no folder `{name}` in {}", folder.display())
            };
            return Err(node.wrong(problem));
        }
        found.push(path);
    }
    Ok(found)
}

fn paths(node: Option<&Node>, folder: &Path, what: &str) -> Result<Vec<PathBuf>, Box<Mistake>> {
    match node {
        None => Ok(Vec::new()),
        Some(node) => node.list()?.iter().map(|n| Ok(folder.join(n.text(what)?))).collect(),
    }
}

/// One of some words.
fn word<T: Copy>(node: &Node, words: &[(&'static str, T)]) -> Result<T, Box<Mistake>> {
    let names: Vec<&str> = words.iter().map(|(name, _)| *name).collect();
    let wanted = format!("one of {}", names.join(", "));
    let text = node.text(&wanted)?;
    match words.iter().find(|(name, _)| *name == text) {
        Some((_, value)) => Ok(*value),
        None => Err(match nearest(text, names) {
            Some(name) => {
                node.wrong_with(format!("expected {wanted}"), format!("did you mean `{name}`?"))
            }
            None => node.wrong(format!("expected {wanted}")),
        }),
    }
}

/// A number of bytes: `2G`, `512M`; the units are powers of 1024.
fn size(node: &Node) -> Result<u64, Box<Mistake>> {
    let text = node.text("a size such as 2G")?;
    parse_size(text)
        .ok_or_else(|| node.wrong_with(format!("`{text}` is no size"), "write `2G` or `512M`"))
}

/// A number of bytes with an optional unit of K, M, G or T, `iB` or `B` after it or not.
pub fn parse_size(text: &str) -> Option<u64> {
    let text = text.strip_suffix("iB").or_else(|| text.strip_suffix('B')).unwrap_or(text);
    let (digits, shift) = match text.chars().last()?.to_ascii_uppercase() {
        'K' => (&text[..text.len() - 1], 10),
        'M' => (&text[..text.len() - 1], 20),
        'G' => (&text[..text.len() - 1], 30),
        'T' => (&text[..text.len() - 1], 40),
        _ => (text, 0),
    };
    let number: u64 = digits.trim().parse().ok()?;
    number.checked_mul(1 << shift)
}

fn epoch(node: &Node) -> Result<i64, Box<Mistake>> {
    let text = node.text("seconds since 1970")?;
    text.parse().ok().filter(|seconds| *seconds >= 0).ok_or_else(|| {
        node.wrong_with(
            format!("`{text}` is no time"),
            "write seconds since 1970, as `date +%s` or `git log -1 --format=%ct` gives them",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_suffix_says_the_format() {
        let of = |name| Format::of_path(Path::new(name));
        assert_eq!(of("a/discovery.cpio.gz"), Some(Format::CpioGz));
        assert_eq!(of("discovery.cpio"), Some(Format::Cpio));
        assert_eq!(of("base.squashfs"), Some(Format::Squashfs));
        assert_eq!(of("discovery.gz"), None);
        assert_eq!(of("cpio"), None);
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(parse_size("2G"), Some(2 << 30));
        assert_eq!(parse_size("512MiB"), Some(512 << 20));
        assert_eq!(parse_size("10"), Some(10));
        assert_eq!(parse_size("99999999999T"), None);
        assert_eq!(parse_size("G"), None);
        assert_eq!(parse_size(""), None);
    }
}
