//! A provisioner: a folder whose `provisioner.yml` says what to change in an image.

use std::path::{Path, PathBuf};

use crate::cleanup;
use crate::config::error::Mistake;
use crate::config::{ConfigError, Document, Fields, Node, Value};
use crate::steps::Action;
use crate::steps::ansible::{self, Role};
use crate::steps::attributes::Attributes;
use crate::steps::files::Files;
use crate::steps::packages::Packages;
use crate::steps::scripts::Script;
use crate::variables::Variables;

/// The name of the file in a provisioner's folder.
pub const FILE_NAME: &str = "provisioner.yml";

/// A provisioner, read and checked, but not yet given the variables of an image.
#[derive(Debug, Clone)]
pub struct Provisioner {
    folder: PathBuf,
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
        if ansible::is_role(folder) && !folder.join(FILE_NAME).exists() {
            return Ok(Self::of_role(folder));
        }
        let document = Document::read(&folder.join(FILE_NAME))?;
        Ok(Self::of(&document, folder, &name_of(folder))?)
    }

    /// An Ansible role. It says nowhere which variables it has.
    fn of_role(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            name: name_of(folder),
            description: None,
            variables: Variables::any(),
            actions: vec![Action::Ansible(Role::new(folder))],
            cleanup: cleanup::Settings::default(),
        }
    }

    fn of(document: &Document, folder: &Path, name: &str) -> Result<Self, Box<Mistake>> {
        let fields = Fields::of(&document.root, "a provisioner")?;
        let provisioner = Self {
            folder: folder.to_owned(),
            name: name.to_owned(),
            description: fields.text("description")?,
            variables: Variables::of(fields.get("variables"))?,
            actions: actions(&document.root, &fields, folder)?,
            cleanup: cleanup::Settings::of(fields.get("cleanup"))?,
        };
        fields.finish()?;
        Ok(provisioner)
    }

    /// The folder it was read from.
    pub fn folder(&self) -> &Path {
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
fn actions(root: &Node, fields: &Fields<'_>, folder: &Path) -> Result<Vec<Action>, Box<Mistake>> {
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

fn packages(fields: &Fields<'_>, folder: &Path) -> Result<Option<Action>, Box<Mistake>> {
    let recommends = fields.bool("recommends")?;
    let update = fields.bool("update")?;
    let Some(node) = fields.get("packages") else { return Ok(None) };
    let mut packages = Packages::of(node, folder)?;
    packages.recommends = recommends.unwrap_or(false);
    packages.update = update;
    Ok((!packages.is_empty()).then_some(Action::Packages(packages)))
}

fn files(fields: &Fields<'_>, folder: &Path) -> Result<Option<Action>, Box<Mistake>> {
    let Some(node) = fields.get("files") else { return Ok(None) };
    let name = node.text("the path of a folder")?;
    if !folder.join(name).is_dir() {
        return Err(node.wrong_with(
            format!("there is no folder `{name}` in {}", folder.display()),
            "its content is what is copied to /",
        ));
    }
    Ok(Some(Action::Files(Files::new(folder, name))))
}

fn attributes(fields: &Fields<'_>) -> Result<Option<Action>, Box<Mistake>> {
    Ok(fields.get("attributes").map(Attributes::of).transpose()?.map(Action::Attributes))
}

/// Whether `folder` is a provisioner: an own one or an Ansible role.
pub(crate) fn is_provisioner(folder: &Path) -> bool {
    folder.join(FILE_NAME).is_file() || ansible::is_role(folder)
}

fn name_of(folder: &Path) -> String {
    let absolute = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    absolute.file_name().unwrap_or(folder.as_os_str()).to_string_lossy().into_owned()
}

/// A path, or `{path: PATH, outside: true}`.
fn script(node: &Node, folder: &Path) -> Result<Action, Box<Mistake>> {
    let mut outside = false;
    let mut node = node;
    if let Value::Map(_) = node.value {
        let fields = Fields::of(node, "a script")?;
        outside = fields.bool("outside")?.unwrap_or(false);
        node = fields.require("path", "name its file: `path: scripts/10-pack.sh`")?;
        fields.finish()?;
    }
    let name = node.text("the path of a script")?;
    if !folder.join(name).is_file() {
        return Err(node.wrong(format!("there is no file `{name}` in {}", folder.display())));
    }
    Ok(Action::Script(Script::new(folder, name, outside)))
}
