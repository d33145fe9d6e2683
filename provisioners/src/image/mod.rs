//! Image files, which `overcoat build FILE` and `overcoat base` read, and the images of a project.
//!
//! Paths in an image file are relative to its folder. Options of the command line take precedence
//! over its settings.

mod check;
mod inputs;
mod location;
mod source;

use std::path::{Path, PathBuf};

use crate::cleanup::CleanupSettings;
use crate::config::error::Mistake;
use crate::config::{ConfigError, Fields, YamlDocument, YamlNode, join, nearest};
use crate::folder::Folder;
use crate::project::ProjectSettings;
use crate::provisioner::{FILE_NAME, Provisioner};
use crate::run::{Plan, PlanError};
use crate::variables::{Declared, Variables};

pub use check::{CheckSettings, Skip};
pub use inputs::Inputs;
pub use location::{ImageLocation, parse_offset};
pub(crate) use source::{ArchiveSettings, ImageKind};
pub use source::{Debootstrap, Layers, Root, Source, Yield};

/// An image that was read and checked.
#[derive(Debug, Clone)]
pub struct Image {
    /// The file it was read from.
    pub file: PathBuf,
    /// A description for the user.
    pub description: Option<String>,
    /// The kind of image, and its layers or root file system.
    pub source: Source,
    /// The files to write with their formats. Empty if the image file names none, and for initrd
    /// images, which yield files instead.
    pub outputs: Vec<(PathBuf, Format)>,
    /// Network access of the build.
    pub network: Network,
    /// The proxy through which apt fetches packages, instead of the host's proxy.
    pub apt_proxy: Option<String>,
    /// Maximum memory for the upper layer, in bytes.
    pub upper_size: Option<u64>,
    /// The time to use as the time of the build, in seconds since 1970. `SOURCE_DATE_EPOCH` of the
    /// environment takes precedence.
    pub source_date_epoch: Option<i64>,
    /// Settings of `overcoat check`.
    pub check: CheckSettings,
    /// Folders of provisioners, in the order in which they run.
    pub provisioners: Vec<Folder>,
    variables: Declared,
    cleanup: CleanupSettings,
    /// The mistake if the root file system of `from` does not exist. In a project it is reported
    /// only when this image is built, so that other images can be built without the file.
    missing: Option<Box<Mistake>>,
}

/// The file that an image is read from: its own, or a project file.
pub(crate) struct ImageContext<'a> {
    /// The folder that paths are relative to.
    pub(crate) folder: &'a Path,
    /// Returns the file of the layer named by a node.
    pub(crate) layer: &'a dyn Fn(&YamlNode) -> Result<PathBuf, Box<Mistake>>,
    /// The project that the image is part of.
    pub(crate) project: Option<ProjectContext<'a>>,
}

/// The name of an image in a project, and the settings of the project.
#[derive(Clone, Copy)]
pub(crate) struct ProjectContext<'a> {
    pub(crate) name: &'a str,
    pub(crate) globals: &'a ProjectSettings,
}

/// The file format of an artifact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// An uncompressed newc archive.
    Cpio,
    /// A newc archive, compressed as a single gzip member.
    CpioGz,
    /// A newc archive, compressed as a single zstd frame.
    CpioZst,
    /// A tar archive.
    Tar,
    /// A squashfs image.
    Squashfs,
}

impl Format {
    /// All formats with their names in configuration files. The names are also file suffixes.
    pub const NAMES: [(&'static str, Self); 5] = [
        ("cpio.gz", Self::CpioGz),
        ("cpio.zst", Self::CpioZst),
        ("cpio", Self::Cpio),
        ("tar", Self::Tar),
        ("squashfs", Self::Squashfs),
    ];

    /// Returns its name in configuration files.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, format)| *format == self).map_or("", |(name, _)| name)
    }

    /// Returns the format for the suffix of a file name.
    pub fn of_path(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        Self::NAMES
            .iter()
            .find(|(suffix, _)| name.strip_suffix(suffix).is_some_and(|stem| stem.ends_with('.')))
            .map(|(_, format)| *format)
    }
}

/// Network access of commands during a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Network {
    /// The host's network.
    #[default]
    Host,
    /// No network.
    None,
}

impl Image {
    /// Reads an image file. Does not check that the base exists, since it may be built later.
    ///
    /// # Errors
    ///
    /// Fails if the file cannot be read, has a mistake, or names a `from` that does not exist.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let document = YamlDocument::read(file)?;
        let folder = document.folder();
        let layer = |node: &YamlNode| Ok(join(folder, node.text("the path of an image")?));
        let context = ImageContext { folder, layer: &layer, project: None };
        let image = Self::parse(&document, &document.root, &context)?;
        image.missing.clone().map_or(Ok(image), |mistake| Err(mistake.into()))
    }

    /// Reads the image at `node` of a file.
    pub(crate) fn parse(
        document: &YamlDocument,
        node: &YamlNode,
        context: &ImageContext<'_>,
    ) -> Result<Self, Box<Mistake>> {
        let folder = context.folder;
        let fields = Fields::new(node, "an image")?;
        let defaults = CommonSettings::default();
        let all = context.project.map_or(&defaults, |project| &project.globals.settings);
        let own = CommonSettings::parse(&fields)?;
        let mut named = provisioners(fields.get("provisioner"), folder)?;
        let mut variables = Declared::parse(fields.get("variables"))?;
        if let Some(node) = fields.get("config_file") {
            let (given, provisioner) = config_file(node, folder)?;
            variables = given.overridden_by(variables);
            if named.is_empty() {
                named = provisioner;
            }
        }
        let image = Self {
            file: document.path().to_owned(),
            description: fields.text("description")?,
            source: Source::parse(&fields, context)?,
            missing: source::missing_from(node, folder),
            outputs: outputs(&fields, context)?,
            network: own.network.or(all.network).unwrap_or_default(),
            apt_proxy: own.apt_proxy.or(all.apt_proxy.clone()),
            upper_size: own.upper_size.or(all.upper_size),
            source_date_epoch: own.source_date_epoch.or(all.source_date_epoch),
            check: own.check.merged_with(&all.check),
            provisioners: named,
            variables,
            cleanup: all.cleanup.clone().overridden_by(&own.cleanup),
        };
        fields.finish()?;
        Ok(image)
    }

    /// Reads the provisioners.
    ///
    /// # Errors
    ///
    /// Fails if one cannot be read or has a mistake.
    pub fn load_provisioners(&self) -> Result<Vec<Provisioner>, ConfigError> {
        self.provisioners.iter().map(Provisioner::load_from).collect()
    }

    /// Reads the provisioners and makes the plan for this image.
    ///
    /// # Errors
    ///
    /// Fails if a provisioner or a variable has a mistake, or a template cannot be rendered.
    pub fn plan(&self) -> Result<Plan, PlanError> {
        Plan::for_image(&self.load_provisioners()?, &self.variables, &self.cleanup)
    }

    /// Rejects variables of the image that none of its provisioners declares.
    pub(crate) fn check_variables(&self, provisioners: &[&Variables]) -> Result<(), Box<Mistake>> {
        self.variables.check_against(provisioners)
    }

    /// Adds variables. The image's own take precedence.
    pub(crate) fn add_variables(&mut self, below: Declared) {
        self.variables = below.overridden_by(std::mem::take(&mut self.variables));
    }

    /// Returns the clean-up settings.
    pub fn cleanup(&self) -> &CleanupSettings {
        &self.cleanup
    }
}

/// Returns the path of an archive's manifest: `NAME.cpio.gz.manifest.json` for `NAME.cpio.gz`.
pub fn manifest_path(archive: &Path) -> PathBuf {
    let mut name = archive.as_os_str().to_owned();
    name.push(".manifest.json");
    name.into()
}

/// The settings that an image and a project have in common.
#[derive(Debug, Clone, Default)]
pub(crate) struct CommonSettings {
    network: Option<Network>,
    apt_proxy: Option<String>,
    upper_size: Option<u64>,
    source_date_epoch: Option<i64>,
    cleanup: CleanupSettings,
    check: CheckSettings,
}

impl CommonSettings {
    pub(crate) fn parse(fields: &Fields<'_>) -> Result<Self, Box<Mistake>> {
        let network = [("host", Network::Host), ("none", Network::None)];
        Ok(Self {
            network: fields.get("network").map(|n| keyword(n, &network)).transpose()?,
            apt_proxy: fields.get("apt_proxy").map(proxy).transpose()?,
            upper_size: fields.get("upper_size").map(size).transpose()?,
            source_date_epoch: fields.get("source_date_epoch").map(epoch).transpose()?,
            cleanup: CleanupSettings::parse(fields.get("cleanup"))?,
            check: CheckSettings::parse(fields.get("check"))?,
        })
    }
}

/// Reads the output files of an image, with their formats.
pub(crate) fn outputs(
    fields: &Fields<'_>,
    context: &ImageContext<'_>,
) -> Result<Vec<(PathBuf, Format)>, Box<Mistake>> {
    let kind = ImageKind::parse(fields)?;
    let format_node = fields.get("format");
    if kind == ImageKind::Initrd {
        return match format_node {
            None => Ok(Vec::new()),
            Some(node) => Err(node.mistake_with_help(
                "an initrd image has no format: it yields files",
                "list the files in `yields`",
            )),
        };
    }
    let mut formats = Vec::new();
    if let Some(node) = format_node {
        for node in node.list()? {
            let format = keyword(node, &Format::NAMES)?;
            if formats.contains(&format) {
                return Err(node.mistake("duplicate format"));
            }
            formats.push(format);
        }
    }
    let folder = context.project.map_or(context.folder, |project| &project.globals.output);
    let suffixed = |stem: &Path, format: Format| {
        let mut path = stem.as_os_str().to_owned();
        path.push(".");
        path.push(format.name());
        (PathBuf::from(path), format)
    };
    let Some(node) = fields.get("output") else {
        let Some(project) = context.project else { return Ok(Vec::new()) };
        if formats.is_empty() {
            formats.push(if kind == ImageKind::Base { Format::Squashfs } else { Format::CpioGz });
        }
        let stem = folder.join(project.name);
        return Ok(formats.into_iter().map(|format| suffixed(&stem, format)).collect());
    };
    let path = join(folder, node.text("the path of a file")?);
    match (formats.as_slice(), Format::of_path(&path)) {
        (&[format], _) => Ok(vec![(path, format)]),
        ([], Some(format)) => Ok(vec![(path, format)]),
        ([], None) => {
            let suffixes: Vec<String> =
                Format::NAMES.iter().map(|(name, _)| format!(".{name}")).collect();
            Err(node.mistake_with_help(
                "the suffix is not that of a format",
                format!("use one of {}, or give a `format`", suffixes.join(", ")),
            ))
        }
        (several, None) => Ok(several.iter().map(|format| suffixed(&path, *format)).collect()),
        (_, Some(format)) => Err(node.mistake_with_help(
            "several formats need a path without suffix",
            format!("leave out `.{}`: each file gets the suffix of its format", format.name()),
        )),
    }
}

/// Reads a config file in the form of on-imagebuilder: variables, and the provisioner for them.
fn config_file(node: &YamlNode, folder: &Path) -> Result<(Declared, Vec<Folder>), Box<Mistake>> {
    let name = node.text("the path of a file")?;
    let document = YamlDocument::read(&folder.join(name)).map_err(|error| match error {
        ConfigError::Mistake(mistake) => mistake,
        ConfigError::Read { path, source } => {
            node.mistake(format!("cannot read {}: {source}", path.display()))
        }
    })?;
    let (provisioner, variables) = document.root.without("provisioner");
    Ok((Declared::parse(Some(&variables))?, provisioners(provisioner.as_ref(), folder)?))
}

fn provisioners(node: Option<&YamlNode>, folder: &Path) -> Result<Vec<Folder>, Box<Mistake>> {
    let Some(node) = node else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for node in node.list()? {
        let name = node.text("the path of a provisioner's folder")?;
        let named = Folder::named(name, folder)
            .map_err(|error| node.mistake_with_help(error.problem, error.help))?;
        if !named.is_provisioner() {
            let problem = if folder.join(name).is_dir() {
                format!("the folder `{name}` has neither {FILE_NAME} nor tasks of an Ansible role")
            } else {
                format!("there is no folder `{name}` in {}", folder.display())
            };
            return Err(match nearest_provisioner(folder, name) {
                Some(near) => node.mistake_with_help(problem, format!("did you mean `{near}`?")),
                None => node.mistake(problem),
            });
        }
        found.push(named);
    }
    Ok(found)
}

/// Returns the provisioner with the most similar name in the folder of a missing one.
fn nearest_provisioner(folder: &Path, name: &str) -> Option<String> {
    let (above, last) = name.rsplit_once('/').map_or(("", name), |(above, last)| (above, last));
    let names: Vec<String> = std::fs::read_dir(folder.join(above))
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| Folder::host(folder.join(above).join(name)).is_provisioner())
        .collect();
    let near = nearest(last, names.iter().map(String::as_str))?;
    Some(if above.is_empty() { near.to_owned() } else { format!("{above}/{near}") })
}

pub(crate) fn paths(
    node: Option<&YamlNode>,
    folder: &Path,
    what: &str,
) -> Result<Vec<PathBuf>, Box<Mistake>> {
    match node {
        None => Ok(Vec::new()),
        Some(node) => node.list()?.iter().map(|n| Ok(join(folder, n.text(what)?))).collect(),
    }
}

/// Reads one of several keywords and returns its value.
pub(crate) fn keyword<T: Copy>(
    node: &YamlNode,
    words: &[(&'static str, T)],
) -> Result<T, Box<Mistake>> {
    let names: Vec<&str> = words.iter().map(|(name, _)| *name).collect();
    let wanted = format!("one of {}", names.join(", "));
    let text = node.text(&wanted)?;
    match words.iter().find(|(name, _)| *name == text) {
        Some((_, value)) => Ok(*value),
        None => Err(match nearest(text, names) {
            Some(name) => node
                .mistake_with_help(format!("expected {wanted}"), format!("did you mean `{name}`?")),
            None => node.mistake(format!("expected {wanted}")),
        }),
    }
}

/// Reads a size in bytes, such as `2G`.
fn size(node: &YamlNode) -> Result<u64, Box<Mistake>> {
    let text = node.text("a size such as 2G")?;
    parse_size(text).ok_or_else(|| {
        node.mistake_with_help(format!("invalid size `{text}`"), "write `2G` or `512M`")
    })
}

/// Parses a size in bytes: a number with an optional unit K, M, G or T, which may be followed by
/// `iB` or `B`. Units are powers of 1024.
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

/// Reads the URL of a proxy that apt accepts.
fn proxy(node: &YamlNode) -> Result<String, Box<Mistake>> {
    let text = node.text("the URL of a proxy")?;
    let known = ["http://", "https://", "socks5h://"].iter().any(|scheme| text.starts_with(scheme));
    if known && !text.contains(|c: char| c == '"' || c.is_whitespace() || c.is_control()) {
        return Ok(text.to_owned());
    }
    Err(node.mistake_with_help("invalid proxy URL", "write `http://cache.example.org:3142`"))
}

fn epoch(node: &YamlNode) -> Result<i64, Box<Mistake>> {
    let text = node.text("seconds since 1970")?;
    text.parse().ok().filter(|seconds| *seconds >= 0).ok_or_else(|| {
        node.mistake_with_help(
            format!("invalid time `{text}`"),
            "write seconds since 1970, as printed by `date +%s` or `git log -1 --format=%ct`",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffix_determines_format() {
        let of = |name| Format::of_path(Path::new(name));
        assert_eq!(of("a/discovery.cpio.gz"), Some(Format::CpioGz));
        assert_eq!(of("discovery.cpio"), Some(Format::Cpio));
        assert_eq!(of("base.squashfs"), Some(Format::Squashfs));
        assert_eq!(of("discovery.gz"), None);
        assert_eq!(of("cpio"), None);
    }

    #[test]
    fn parses_sizes_with_units() {
        assert_eq!(parse_size("2G"), Some(2 << 30));
        assert_eq!(parse_size("512MiB"), Some(512 << 20));
        assert_eq!(parse_size("10"), Some(10));
        assert_eq!(parse_size("99999999999T"), None);
        assert_eq!(parse_size("G"), None);
        assert_eq!(parse_size(""), None);
    }
}
