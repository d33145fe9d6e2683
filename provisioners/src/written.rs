//! The steps of a provisioner as they are written, and what they are with the variables of an
//! image.
//!
//! A step without templates is read, and its mistakes are found, with the provisioner. One with
//! templates is read again for each round with its strings rendered, when the plan is made: before
//! anything runs as well.

use std::path::Path;
use std::sync::Arc;

use crate::config::error::Mistake;
use crate::config::{Fields, Node, Value, yaml::Key};
use crate::folder::Folder;
use crate::scope::{Scope, WHEN, check_condition, check_conditions_within, has_templates};
use crate::steps::Action;
use crate::steps::accounts::{Groups, Users};
use crate::steps::attributes::Attributes;
use crate::steps::files::Files;
use crate::steps::packages::Packages;
use crate::steps::removal::Removal;
use crate::steps::scripts::{NO_FOLDER, Script};
use crate::steps::services::Services;
use crate::variables::{ITEM, Variable, Variables};

/// The key of a loop.
const LOOP: &str = "loop";

/// The key by which a script runs with the host's programs.
const OUTSIDE: &str = "outside";

/// What a step may be, by its key, in the order in which steps at the top run; the keys beside it
/// stand in a step of its own too.
const FORMS: [(&str, &[&str]); 9] = [
    ("packages", &["recommends", "update"]),
    ("remove", &[]),
    ("purge", &[]),
    ("groups", &[]),
    ("users", &[]),
    ("files", &[]),
    ("attributes", &[]),
    ("script", &[]),
    ("services", &[]),
];

/// How much of a round's item is told, in characters.
const ITEM_WIDTH: usize = 40;

/// A step of a provisioner.
#[derive(Debug, Clone)]
pub(crate) struct Written {
    /// Nothing for an Ansible role, which is no step in a file.
    source: Option<Source>,
    /// What it does, where that needs no variables.
    action: Option<Action>,
}

#[derive(Debug, Clone)]
struct Source {
    folder: Folder,
    /// A mapping of the keys that make the step, without its condition and loop.
    node: Node,
    when: Option<Node>,
    over: Option<Node>,
}

/// A step with the variables of an image, or one round of its loop.
#[derive(Debug)]
pub(crate) struct Round {
    pub(crate) name: String,
    /// What it does, or why it does nothing.
    pub(crate) action: Result<Action, String>,
    pub(crate) variables: Arc<Variables>,
}

/// The steps: those of `steps` in its order, or those of the keys at the top in the order of
/// [`FORMS`].
pub(crate) fn all(
    root: &Node,
    fields: &Fields<'_>,
    folder: &Folder,
) -> Result<Vec<Written>, Box<Mistake>> {
    let mut written = Vec::new();
    for (form, beside) in FORMS {
        if form == "script" {
            for node in fields.get("scripts").map_or(Ok(&[][..]), Node::list)? {
                let key = Key { name: form.to_owned(), place: node.place };
                let node = root.with(Value::Map(vec![(key, node.clone())]));
                written.push(Written::of(&node, folder)?);
            }
            continue;
        }
        let mut present = fields.get(form).is_some();
        for key in beside {
            // An update is a step without packages too.
            present |= fields.get(key).is_some() && *key == "update";
        }
        let (true, Value::Map(entries)) = (present, &root.value) else { continue };
        let ours = |key: &Key| key.name == form || beside.contains(&key.name.as_str());
        let entries = entries.iter().filter(|(key, _)| ours(key)).cloned().collect();
        written.extend(Written::at_top(root, entries, folder)?);
    }
    let Some(steps) = fields.get("steps") else { return Ok(written) };
    if !written.is_empty() {
        return Err(root.wrong_with(
            "both `steps` and steps at the top",
            "move packages, files, scripts and so on into `steps`, in the order you want",
        ));
    }
    let Value::List(nodes) = &steps.value else {
        let help = "write `- files: files` and so on, a line each";
        return Err(steps.wrong_with(format!("expected a list, found {}", steps.what()), help));
    };
    nodes.iter().map(|node| Written::of(node, folder)).collect()
}

impl Written {
    /// A step that is what it is, whatever the variables are.
    pub(crate) fn new(action: Action) -> Self {
        Self { source: None, action: Some(action) }
    }

    /// A step of keys at the top; none if there is nothing to do.
    fn at_top(
        root: &Node,
        entries: Vec<(Key, Node)>,
        folder: &Folder,
    ) -> Result<Option<Self>, Box<Mistake>> {
        let step = Self::of(&root.with(Value::Map(entries)), folder)?;
        Ok(step.action.as_ref().is_none_or(|action| !action.is_empty()).then_some(step))
    }

    fn of(node: &Node, folder: &Folder) -> Result<Self, Box<Mistake>> {
        let fields = Fields::of(node, "a step")?;
        let mut when: Option<Node> = fields.get(WHEN).cloned();
        let over = fields.get(LOOP).cloned();
        let Value::Map(entries) = &node.value else {
            return Err(node.wrong_with("this step is empty", "write `- files: files` and so on"));
        };
        let mut entries = entries.clone();
        entries.retain(|(key, _)| key.name != WHEN && key.name != LOOP);
        // A script may have its condition beside its path.
        if let Some((_, script)) = entries.iter_mut().find(|(key, _)| key.name == "script")
            && let Some(condition) = script.at(WHEN).cloned()
            && let Value::Map(keys) = &mut script.value
        {
            if when.is_some() {
                return Err(condition.wrong("the step has a `when` already"));
            }
            keys.retain(|(key, _)| key.name != WHEN);
            when = Some(condition);
        }
        let node = node.with(Value::Map(entries));
        when.as_ref().map_or(Ok(()), check_condition)?;
        check_conditions_within(&node)?;
        let action = if has_templates(&node) { None } else { Some(action(&node, folder)?) };
        let source = Source { folder: folder.clone(), node, when, over };
        Ok(Self { source: Some(source), action })
    }

    /// What it does, where that needs no variables.
    pub(crate) fn action(&self) -> Option<&Action> {
        self.action.as_ref()
    }

    /// Whether it is a kind of step that uses files of the provisioner.
    pub(crate) fn may_name_files(&self) -> bool {
        let source = self.source.as_ref();
        source
            .is_some_and(|s| ["files", "script", "packages"].iter().any(|k| s.node.at(k).is_some()))
    }

    /// What it is called before its variables are known.
    pub(crate) fn name(&self) -> String {
        if let Some(action) = &self.action {
            return action.name();
        }
        let node = self.source.as_ref().map(|source| &source.node);
        let found = FORMS.iter().find_map(|(form, _)| Some((form, node?.at(form)?)));
        match found {
            Some((form, Node { value: Value::Scalar { text, .. }, .. })) => {
                format!("{form} {text}")
            }
            Some((form, _)) => (*form).to_owned(),
            None => "step".to_owned(),
        }
    }

    /// The step with its variables: once, or once for each value of its loop.
    pub(crate) fn rounds(&self, variables: &Arc<Variables>) -> Result<Vec<Round>, Box<Mistake>> {
        let Some(over) = self.source.as_ref().and_then(|source| source.over.as_ref()) else {
            return Ok(vec![self.round(variables, "")?]);
        };
        let values = Scope::new(variables).values(over)?;
        if values.is_empty() {
            let action = Err("nothing to loop over".to_owned());
            return Ok(vec![Round { name: self.name(), action, variables: Arc::clone(variables) }]);
        }
        let round = |value: Variable| {
            let suffix = format!(" (item={})", short(&value));
            let mut variables = Variables::clone(variables);
            variables.set(ITEM, value);
            self.round(&Arc::new(variables), &suffix).map_err(|mut mistake| {
                mistake.problem += &suffix;
                mistake
            })
        };
        values.into_iter().map(round).collect()
    }

    fn round(&self, variables: &Arc<Variables>, suffix: &str) -> Result<Round, Box<Mistake>> {
        let (name, action) = self.act(variables)?;
        Ok(Round { name: name + suffix, action, variables: Arc::clone(variables) })
    }

    fn act(&self, variables: &Variables) -> Result<(String, Result<Action, String>), Box<Mistake>> {
        let found = match (&self.source, &self.action) {
            (None, Some(action)) => action.clone(),
            (None, None) => return Ok((self.name(), Err("nothing in it".to_owned()))),
            (Some(source), _) => {
                let scope = Scope::new(variables);
                let unmet = source.when.as_ref().map(|when| scope.unmet(when)).transpose()?;
                if let Some(unmet) = unmet.flatten() {
                    return Ok((self.name(), Err(format!("{WHEN}: {unmet}"))));
                }
                action(&scope.render(&source.node)?, &source.folder)?
            }
        };
        let name = found.name();
        let empty = found.is_empty();
        Ok((name, if empty { Err("nothing in it".to_owned()) } else { Ok(found) }))
    }
}

/// A value for a reader: text as it is, a mapping by its name if it has one.
fn short(value: &Variable) -> String {
    let text = match value {
        Variable::Text(text) => text.clone(),
        Variable::Map(items) => match items.get("name") {
            Some(Variable::Text(name)) => name.clone(),
            _ => value.to_string(),
        },
        _ => value.to_string(),
    };
    let mut line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if line.chars().count() > ITEM_WIDTH {
        line = line.chars().take(ITEM_WIDTH).chain(['…']).collect();
    }
    line
}

/// What a step of these keys does.
fn action(node: &Node, folder: &Folder) -> Result<Action, Box<Mistake>> {
    let fields = Fields::of(node, "a step")?;
    let mut actions = Vec::new();
    actions.extend(packages(&fields, folder)?);
    for (form, purge) in [("remove", false), ("purge", true)] {
        if let Some(node) = fields.get(form) {
            actions.push(Action::Removal(Removal::of(node, purge)?));
        }
    }
    actions.extend(fields.get("groups").map(Groups::of).transpose()?.map(Action::Groups));
    actions.extend(fields.get("users").map(Users::of).transpose()?.map(Action::Users));
    actions.extend(fields.get("files").map(|node| files(node, folder)).transpose()?);
    actions
        .extend(fields.get("attributes").map(Attributes::of).transpose()?.map(Action::Attributes));
    actions.extend(fields.get("script").map(|node| script(node, folder)).transpose()?);
    actions.extend(fields.get("services").map(Services::of).transpose()?.map(Action::Services));
    if let Value::Map(entries) = &node.value
        && let Some((key, _)) = entries.iter().find(|(key, _)| key.name == OUTSIDE)
        && let Some(path) = script_path(node)
    {
        let help = format!("write `script: {{path: {path}, {OUTSIDE}: true}}`");
        return Err(node.wrong_key(key, "belongs to the script, not to the step", Some(help)));
    }
    // They are taken out before, and belong to the keys that a message names.
    fields.get(WHEN);
    fields.get(LOOP);
    fields.finish()?;
    let only = actions.pop();
    match only {
        Some(action) if actions.is_empty() => Ok(action),
        _ => {
            let names: Vec<&str> = FORMS.iter().map(|(form, _)| *form).collect();
            let help = format!("begin a line for each of {} with `- `", names.join(", "));
            Err(node.wrong_with("a step does one thing", help))
        }
    }
}

fn packages(fields: &Fields<'_>, folder: &Folder) -> Result<Option<Action>, Box<Mistake>> {
    let recommends = fields.bool("recommends")?;
    let update = fields.bool("update")?;
    let mut packages = match fields.get("packages") {
        Some(node) => Packages::of_provisioner(node, folder)?,
        None if update.is_some() => Packages::default(),
        None => return Ok(None),
    };
    packages.recommends = recommends.unwrap_or(false);
    packages.update = update;
    Ok(Some(Action::Packages(packages)))
}

fn files(node: &Node, folder: &Folder) -> Result<Action, Box<Mistake>> {
    let name = node.text("the path of a folder")?;
    if !folder.is_dir(Path::new(name)) {
        return Err(node.wrong_with(
            format!("there is no folder `{name}` in {folder}"),
            "its content is what is copied to /",
        ));
    }
    Ok(Action::Files(Files::new(folder, name)))
}

/// The path of a step's script.
fn script_path(node: &Node) -> Option<&str> {
    let script = node.at("script")?;
    match &script.at("path").unwrap_or(script).value {
        Value::Scalar { text, .. } => Some(text),
        _ => None,
    }
}

/// A path, or `{path: PATH, outside: true}`.
fn script(node: &Node, folder: &Folder) -> Result<Action, Box<Mistake>> {
    let mut outside = false;
    let mut node = node;
    if let Value::Map(_) = node.value {
        let fields = Fields::of(node, "a script")?;
        outside = fields.bool(OUTSIDE)?.unwrap_or(false);
        fields.get(WHEN);
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
