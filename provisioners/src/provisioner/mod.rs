//! A provisioner: a directory whose `provisioner.yml` describes changes to an image.

mod inputs;
mod step_definition;

use std::path::Path;

use self::inputs::InputFiles;
use self::step_definition::{StepDefinition, parse_steps};
use crate::ansible::role::is_role;
use crate::ansible::variable_names::RoleNames;
use crate::cleanup::CleanupSettings;
use crate::config::error::Mistake;
use crate::config::{ConfigError, Fields, YamlDocument};
use crate::folder::{Digest, FILE_NAME, Folder};
use crate::image::InputPath;
use crate::steps::Action;
use crate::steps::ansible::AnsibleRole;
use crate::variables::Variables;

/// A provisioner that was read and checked, with the defaults of its variables.
#[derive(Debug, Clone)]
pub struct Provisioner {
    folder: Folder,
    name: String,
    description: Option<String>,
    variables: Variables,
    steps: Vec<StepDefinition>,
    cleanup: CleanupSettings,
}

impl Provisioner {
    /// Reads the provisioner in `folder`.
    ///
    /// # Errors
    ///
    /// Fails if `provisioner.yml` is missing, has a mistake, or names a file that does not exist.
    pub fn load(folder: &Path) -> Result<Self, ConfigError> {
        Self::load_from(&Folder::from_host(folder))
    }

    /// Reads the provisioner in a directory of the host or the library.
    ///
    /// # Errors
    ///
    /// See [`load`](Self::load).
    pub fn load_from(folder: &Folder) -> Result<Self, ConfigError> {
        let file = Path::new(FILE_NAME);
        if let Some(host) = folder.host_path()
            && is_role(host)
            && !host.join(file).exists()
        {
            return Ok(Self::from_role(host));
        }
        let bytes = folder.read(file)?.into_owned();
        let document = YamlDocument::from_bytes(&folder.display_path(file), bytes)?;
        Ok(Self::parse(&document, folder)?)
    }

    /// Creates the provisioner for an Ansible role, which accepts any variables because a role
    /// does not declare its own.
    fn from_role(folder: &Path) -> Self {
        Self {
            folder: Folder::from_host(folder),
            name: Folder::from_host(folder).name(),
            description: None,
            variables: Variables::accepting_any(),
            steps: vec![StepDefinition::new(Action::Ansible(AnsibleRole::new(folder)))],
            cleanup: CleanupSettings::default(),
        }
    }

    fn parse(document: &YamlDocument, folder: &Folder) -> Result<Self, Box<Mistake>> {
        let fields = Fields::new(&document.root, "a provisioner")?;
        let provisioner = Self {
            folder: folder.clone(),
            name: folder.name(),
            description: fields.text("description")?,
            variables: Variables::parse(fields.get("variables"))?,
            steps: parse_steps(&document.root, &fields, folder)?,
            cleanup: CleanupSettings::parse(fields.get("cleanup"))?,
        };
        fields.finish()?;
        Ok(provisioner)
    }

    /// Returns the directory it was read from.
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// Returns the name of its directory.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns its one-sentence description.
    pub fn description(&self) -> Option<&str> {
        self.description.as_deref()
    }

    /// Returns its variables with their defaults.
    pub fn variables(&self) -> &Variables {
        &self.variables
    }

    /// Returns all files that the provisioner uses, ordered by name: the path relative to the
    /// directory, and the digest of type, content or target, and execute bit. For an Ansible role
    /// these are all files in its directory and in the directories of roles that it names.
    ///
    /// # Errors
    ///
    /// Fails if one of the files cannot be read.
    pub fn inputs(&self) -> Result<Vec<(String, Digest)>, ConfigError> {
        inputs::files_used_by(&self.folder, &self.steps)
    }

    /// Returns the files and directories that its steps use, for messages.
    pub(crate) fn input_paths(&self) -> Vec<InputPath> {
        inputs::paths_used_by(&self.folder, &self.steps)
    }

    /// Returns its [`inputs`](Self::inputs), and for an Ansible role the names in its files.
    pub(crate) fn inputs_and_names(&self) -> Result<(InputFiles, Option<RoleNames>), ConfigError> {
        match self.steps.iter().map(StepDefinition::action).next() {
            Some(Some(Action::Ansible(role))) => {
                let (files, names) = inputs::files_and_names_of_role(role)?;
                Ok((files, Some(names)))
            }
            _ => Ok((self.inputs()?, None)),
        }
    }

    /// Returns the files outside of an Ansible role that these values of variables may name, as
    /// [`inputs`](Self::inputs).
    pub(crate) fn inputs_of_values(&self, values: &[String]) -> Result<InputFiles, ConfigError> {
        match self.steps.iter().map(StepDefinition::action).next() {
            Some(Some(Action::Ansible(role))) => inputs::files_named_by_values(role, values),
            _ => Ok(InputFiles::new()),
        }
    }

    /// Returns the names of its steps, in the order in which they run.
    pub fn steps(&self) -> impl Iterator<Item = String> {
        self.steps.iter().map(StepDefinition::name)
    }

    pub(crate) fn definitions(&self) -> &[StepDefinition] {
        &self.steps
    }

    pub(crate) fn cleanup(&self) -> &CleanupSettings {
        &self.cleanup
    }
}
