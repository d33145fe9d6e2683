//! A provisioner: a folder whose `provisioner.yml` says what to change in an image.

use std::path::Path;

use crate::cleanup;
use crate::config::error::Mistake;
use crate::config::{ConfigError, Document, Fields};
use crate::folder::{Digest, Folder};
use crate::inputs;
use crate::steps::Action;
use crate::steps::ansible::{self, Role};
use crate::variables::Variables;
use crate::written::{self, Written};

/// The name of the file in a provisioner's folder.
pub const FILE_NAME: &str = "provisioner.yml";

/// A provisioner, read and checked, but not yet given the variables of an image.
#[derive(Debug, Clone)]
pub struct Provisioner {
    folder: Folder,
    name: String,
    description: Option<String>,
    variables: Variables,
    steps: Vec<Written>,
    cleanup: cleanup::Settings,
}

impl Provisioner {
    /// Reads the provisioner in `folder`.
    ///
    /// # Errors
    /// When there is no `provisioner.yml`, when it has a mistake, or when it names a file that does
    /// not exist.
    pub fn load(folder: &Path) -> Result<Self, ConfigError> {
        Self::load_from(&Folder::host(folder))
    }

    /// Reads the provisioner in a folder of the host or the library.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_from(folder: &Folder) -> Result<Self, ConfigError> {
        let file = Path::new(FILE_NAME);
        if let Some(host) = folder.on_host()
            && ansible::is_role(host)
            && !host.join(file).exists()
        {
            return Ok(Self::of_role(host));
        }
        let document = Document::of(&folder.at(file), folder.read(file)?.into_owned())?;
        Ok(Self::of(&document, folder)?)
    }

    /// An Ansible role. It says nowhere which variables it has.
    fn of_role(folder: &Path) -> Self {
        Self {
            folder: Folder::host(folder),
            name: Folder::host(folder).name(),
            description: None,
            variables: Variables::any(),
            steps: vec![Written::new(Action::Ansible(Role::new(folder)))],
            cleanup: cleanup::Settings::default(),
        }
    }

    fn of(document: &Document, folder: &Folder) -> Result<Self, Box<Mistake>> {
        let fields = Fields::of(&document.root, "a provisioner")?;
        let provisioner = Self {
            folder: folder.clone(),
            name: folder.name(),
            description: fields.text("description")?,
            variables: Variables::of(fields.get("variables"))?,
            steps: written::all(&document.root, &fields, folder)?,
            cleanup: cleanup::Settings::of(fields.get("cleanup"))?,
        };
        fields.finish()?;
        Ok(provisioner)
    }

    /// The folder it was read from.
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// The name of its folder.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it does, in a sentence of its own.
    pub fn description(&self) -> Option<&str> {
        self.description.as_deref()
    }

    /// Its variables and their defaults.
    pub fn variables(&self) -> &Variables {
        &self.variables
    }

    /// Every file that goes into an image by it: its name from the folder, and the digest of its
    /// kind, its content or target, and whether it can be executed; by name. The files of an
    /// Ansible role are all in its folder and in those of the roles that it names.
    ///
    /// # Errors
    /// When one can't be read.
    pub fn inputs(&self) -> Result<Vec<(String, Digest)>, ConfigError> {
        inputs::of(self)
    }

    /// The names of its steps, in the order in which they run.
    pub fn steps(&self) -> impl Iterator<Item = String> {
        self.steps.iter().map(Written::name)
    }

    pub(crate) fn written(&self) -> &[Written] {
        &self.steps
    }

    pub(crate) fn cleanup(&self) -> &cleanup::Settings {
        &self.cleanup
    }
}
