//! A provisioner: a folder whose `provisioner.yml` says what to change in an image.

use std::path::Path;

use crate::cleanup;
use crate::config::error::Mistake;
use crate::config::{ConfigError, Document, Fields, Node, Value};
use crate::folder::{Digest, Folder};
use crate::inputs;
use crate::steps::Action;
use crate::steps::ansible::{self, Role};
use crate::steps::attributes::Attributes;
use crate::steps::files::Files;
use crate::steps::packages::Packages;
use crate::steps::scripts::{NO_FOLDER, Script};
use crate::variables::Variables;

/// The name of the file in a provisioner's folder.
pub const FILE_NAME: &str = "provisioner.yml";

/// A provisioner, read and checked, but not yet given the variables of an image.
#[derive(Debug, Clone)]
pub struct Provisioner {
    folder: Folder,
    name: String,
    description: Option<String>,
    variables: Variables,
    actions: Vec<Action>,
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
            actions: vec![Action::Ansible(Role::new(folder))],
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
            actions: actions(&document.root, &fields, folder)?,
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
        self.actions.iter().map(Action::name)
    }

    pub(crate) fn actions(&self) -> &[Action] {
        &self.actions
    }

    pub(crate) fn cleanup(&self) -> &cleanup::Settings {
        &self.cleanup
    }
}

/// The steps: those of `steps` in its order, or those of the keys at the top in the order packages,
/// files, attributes, scripts.
fn actions(root: &Node, fields: &Fields<'_>, folder: &Folder) -> Result<Vec<Action>, Box<Mistake>> {
    let mut actions = Vec::new();
    actions.extend(packages(fields, folder)?);
    actions.extend(files(fields, folder)?);
    actions.extend(attributes(fields)?);
    if let Some(node) = fields.get("scripts") {
        for node in node.list()? {
            actions.push(script(node, folder)?);
        }
    }
    let Some(steps) = fields.get("steps") else { return Ok(actions) };
    if !actions.is_empty() {
        return Err(root.wrong_with(
            "both `steps` and steps at the top",
            "move packages, files, attributes and scripts into `steps`, in the order you want",
        ));
    }
    let Value::List(nodes) = &steps.value else {
        let help = "write `- files: files` and so on, a line each";
        return Err(steps.wrong_with(format!("expected a list, found {}", steps.what()), help));
    };
    for node in nodes {
        let fields = Fields::of(node, "a step")?;
        let before = actions.len();
        actions.extend(packages(&fields, folder)?);
        actions.extend(files(&fields, folder)?);
        actions.extend(attributes(&fields)?);
        if let Some(node) = fields.get("script") {
            actions.push(script(node, folder)?);
        }
        fields.finish()?;
        if actions.len() != before + 1 {
            let help = "begin a line for each of packages, files, attributes and script with `- `";
            return Err(node.wrong_with("a step does one thing", help));
        }
    }
    Ok(actions)
}

fn packages(fields: &Fields<'_>, folder: &Folder) -> Result<Option<Action>, Box<Mistake>> {
    let recommends = fields.bool("recommends")?;
    let update = fields.bool("update")?;
    let Some(node) = fields.get("packages") else { return Ok(None) };
    let mut packages = Packages::of_provisioner(node, folder)?;
    packages.recommends = recommends.unwrap_or(false);
    packages.update = update;
    Ok((!packages.is_empty()).then_some(Action::Packages(packages)))
}

fn files(fields: &Fields<'_>, folder: &Folder) -> Result<Option<Action>, Box<Mistake>> {
    let Some(node) = fields.get("files") else { return Ok(None) };
    let name = node.text("the path of a folder")?;
    if !folder.is_dir(Path::new(name)) {
        return Err(node.wrong_with(
            format!("there is no folder `{name}` in {folder}"),
            "its content is what is copied to /",
        ));
    }
    Ok(Some(Action::Files(Files::new(folder, name))))
}

fn attributes(fields: &Fields<'_>) -> Result<Option<Action>, Box<Mistake>> {
    Ok(fields.get("attributes").map(Attributes::of).transpose()?.map(Action::Attributes))
}

/// A path, or `{path: PATH, outside: true}`.
fn script(node: &Node, folder: &Folder) -> Result<Action, Box<Mistake>> {
    let mut outside = false;
    let mut node = node;
    if let Value::Map(_) = node.value {
        let fields = Fields::of(node, "a script")?;
        outside = fields.bool("outside")?.unwrap_or(false);
        node = fields.require("path", "name its file: `path: scripts/10-pack.sh`")?;
        fields.finish()?;
    }
    let name = node.text("the path of a script")?;
    if !folder.is_file(Path::new(name)) {
        return Err(node.wrong(format!("there is no file `{name}` in {folder}")));
    }
    if outside && folder.on_host().is_none() {
        return Err(node.wrong(NO_FOLDER));
    }
    Ok(Action::Script(Script::new(folder, name, outside)))
}
