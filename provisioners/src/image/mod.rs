//! Image files, which `overcoat build FILE` and `overcoat base` read, and the images of a project.
//!
//! Paths in an image file are relative to its directory. Options of the command line take
//! precedence over its settings.

mod archive;
mod check;
mod format;
mod input_paths;
mod inputs;
mod location;
mod settings;
mod source;
mod values;

use std::path::{Path, PathBuf};

use crate::cleanup::CleanupSettings;
use crate::config::error::Mistake;
use crate::config::{ConfigError, Fields, YamlDocument, YamlNode, join, nearest};
use crate::folder::FILE_NAME;
use crate::folder::Folder;
use crate::plan::{Plan, PlanError};
use crate::provisioner::Provisioner;
use crate::variables::{DeclaredVariables, Variable, Variables};

pub(crate) use archive::ArchiveSettings;
pub use check::{CheckSettings, Skip};
pub(crate) use format::outputs;
pub use format::{Format, manifest_path, preferred_layer};
pub use input_paths::{InputPath, real_path};
pub use inputs::Inputs;
pub use location::{ImageLocation, parse_offset};
pub use settings::Network;
pub(crate) use settings::{CommonSettings, ImageContext, ProjectContext, ProjectSettings};
pub(crate) use source::ImageKind;
pub use source::{Debootstrap, Layers, Root, Source, Yield};
pub use values::parse_size;

/// The default of the key `keep`: the current result and the one before it.
const DEFAULT_KEEP: u16 = 2;

/// An image that was read and checked.
#[derive(Debug, Clone)]
pub struct Image {
    /// The file it was read from.
    pub file: PathBuf,
    /// A description for the user.
    pub description: Option<String>,
    /// The kind of image, and its layers or root file system.
    pub source: Source,
    /// The config file.
    config_file: Option<PathBuf>,
    /// The output directory of its project; `None` for an image file.
    output_folder: Option<PathBuf>,
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
    /// Number of results that a project keeps of this image, with the current one.
    pub keep: u16,
    /// Settings of `overcoat check`.
    pub check: CheckSettings,
    /// Directories of provisioners, in the order in which they run.
    pub provisioners: Vec<Folder>,
    variables: DeclaredVariables,
    cleanup: CleanupSettings,
    /// The mistake if the root file system of `from` does not exist. In a project it is reported
    /// only when this image is built, so that other images can be built without the file.
    missing: Option<Box<Mistake>>,
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
        let own = CommonSettings::parse(&fields, folder)?;
        let mut named = provisioners(fields.get("provisioner"), folder)?;
        let mut variables = DeclaredVariables::parse(fields.get("variables"))?;
        let config_node = fields.get("config_file");
        if let Some(node) = config_node {
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
            config_file: config_node
                .map(|node| node.text("a path").map(|name| join(folder, name)))
                .transpose()?,
            output_folder: context.project.map(|project| project.globals.output.clone()),
            missing: source::missing_from(node, folder),
            outputs: outputs(&fields, context)?,
            network: own.network.or(all.network).unwrap_or_default(),
            apt_proxy: own.apt_proxy.or(all.apt_proxy.clone()),
            upper_size: own.upper_size.or(all.upper_size),
            source_date_epoch: own.source_date_epoch.or(all.source_date_epoch),
            keep: own.keep.or(all.keep).unwrap_or(DEFAULT_KEEP),
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

    /// Returns the variables of a provisioner with the values of the image.
    pub(crate) fn variables_over(&self, defaults: &Variables) -> Variables {
        self.variables.over(defaults)
    }

    /// Adds variables. The image's own take precedence.
    pub(crate) fn add_variables(&mut self, below: DeclaredVariables) {
        self.variables = below.overridden_by(std::mem::take(&mut self.variables));
    }

    /// Returns the clean-up settings.
    pub fn cleanup(&self) -> &CleanupSettings {
        &self.cleanup
    }

    /// Returns the variables that the image sets, with their values, ordered by name.
    pub fn variables(&self) -> impl Iterator<Item = (&str, &Variable)> {
        self.variables.iter()
    }
}

/// Reads a config file in the form of on-imagebuilder: variables, and the provisioner for them.
fn config_file(
    node: &YamlNode,
    folder: &Path,
) -> Result<(DeclaredVariables, Vec<Folder>), Box<Mistake>> {
    let name = node.text("the path of a file")?;
    let document = YamlDocument::read(&folder.join(name)).map_err(|error| match error {
        ConfigError::Mistake(mistake) => mistake,
        ConfigError::Read { path, source } => {
            node.mistake(format!("cannot read {}: {source}", path.display()))
        }
    })?;
    let (provisioner, variables) = document.root.without("provisioner");
    Ok((DeclaredVariables::parse(Some(&variables))?, provisioners(provisioner.as_ref(), folder)?))
}

fn provisioners(node: Option<&YamlNode>, folder: &Path) -> Result<Vec<Folder>, Box<Mistake>> {
    let Some(node) = node else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for node in node.list()? {
        let name = node.text("the path of a provisioner's directory")?;
        let named = Folder::named(name, folder)
            .map_err(|error| node.mistake_with_help(error.problem, error.help))?;
        if !named.is_provisioner() {
            let problem = if folder.join(name).is_dir() {
                format!(
                    "the directory `{name}` has neither {FILE_NAME} nor tasks of an Ansible role"
                )
            } else {
                format!("there is no directory `{name}` in {}", folder.display())
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

/// Returns the provisioner with the most similar name in the directory of a missing one.
fn nearest_provisioner(folder: &Path, name: &str) -> Option<String> {
    let (above, last) = name.rsplit_once('/').map_or(("", name), |(above, last)| (above, last));
    let names: Vec<String> = std::fs::read_dir(folder.join(above))
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| Folder::from_host(folder.join(above).join(name)).is_provisioner())
        .collect();
    let near = nearest(last, names.iter().map(String::as_str))?;
    Some(if above.is_empty() { near.to_owned() } else { format!("{above}/{near}") })
}
