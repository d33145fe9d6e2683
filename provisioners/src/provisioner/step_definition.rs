//! Parses the steps of a provisioner, and expands them with the variables of an image.
//!
//! A step without templates is parsed with its provisioner, so its mistakes are found then. A step
//! with templates is parsed for each iteration with its strings rendered, when the plan is made,
//! which is also before any step runs.

use std::path::Path;
use std::sync::Arc;

use crate::config::error::Mistake;
use crate::config::{Fields, YamlNode, YamlValue, yaml::YamlKey};
use crate::evaluate::{
    Evaluator, WHEN_KEY, check_condition, check_conditions_within, has_templates,
};
use crate::folder::Folder;
use crate::steps::Action;
use crate::steps::accounts::{Groups, Users};
use crate::steps::attributes::AttributeRules;
use crate::steps::files::FileTree;
use crate::steps::packages::PackageList;
use crate::steps::removal::Removal;
use crate::steps::scripts::{LIBRARY_SCRIPT_OUTSIDE, Script};
use crate::steps::services::Services;
use crate::variables::{LOOP_VARIABLE, Variable, Variables};

/// The key of a loop.
const LOOP_KEY: &str = "loop";

/// The key for a script that runs with the host's programs.
const OUTSIDE_KEY: &str = "outside";

/// The keys of steps, in the order in which steps at the top level run, each with the keys that may
/// be beside it.
const STEP_KEYS: [(&str, &[&str]); 9] = [
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

/// Maximum characters of a loop item in the name of a step.
const MAX_ITEM_CHARS: usize = 40;

/// A step as defined in a provisioner, before variables are applied.
#[derive(Debug, Clone)]
pub(crate) struct StepDefinition {
    /// `None` for an Ansible role, which is not defined in a `provisioner.yml`.
    source: Option<StepSource>,
    /// The action, if it does not depend on variables.
    action: Option<Action>,
}

#[derive(Debug, Clone)]
struct StepSource {
    folder: Folder,
    /// The mapping of the step, without condition and loop.
    node: YamlNode,
    when: Option<YamlNode>,
    over: Option<YamlNode>,
}

/// A step with the variables of an image, or one iteration of its loop.
#[derive(Debug)]
pub(crate) struct ExpandedStep {
    pub(crate) name: String,
    /// The action, or the reason why the step is skipped.
    pub(crate) action: Result<Action, String>,
    pub(crate) variables: Arc<Variables>,
}

/// Parses the steps of a provisioner: those of `steps`, or those of the keys at the top level in
/// the order of [`STEP_KEYS`].
pub(crate) fn parse_steps(
    root: &YamlNode,
    fields: &Fields<'_>,
    folder: &Folder,
) -> Result<Vec<StepDefinition>, Box<Mistake>> {
    let mut found = Vec::new();
    for (step_key, beside) in STEP_KEYS {
        if step_key == "script" {
            for node in fields.get("scripts").map_or(Ok(&[][..]), YamlNode::list)? {
                let key = YamlKey { name: step_key.to_owned(), span: node.span };
                let node = root.with_value(YamlValue::Map(vec![(key, node.clone())]));
                found.push(StepDefinition::parse(&node, folder)?);
            }
            continue;
        }
        let mut present = fields.get(step_key).is_some();
        for key in beside {
            // `update` is also a step without `packages`.
            present |= fields.get(key).is_some() && *key == "update";
        }
        let (true, YamlValue::Map(entries)) = (present, &root.value) else { continue };
        let belongs = |key: &YamlKey| key.name == step_key || beside.contains(&key.name.as_str());
        let entries = entries.iter().filter(|(key, _)| belongs(key)).cloned().collect();
        found.extend(StepDefinition::parse_top_level(root, entries, folder)?);
    }
    let Some(steps) = fields.get("steps") else { return Ok(found) };
    if !found.is_empty() {
        return Err(root.mistake_with_help(
            "`steps` cannot be used together with steps at the top level",
            "move packages, files, scripts and so on into `steps`, in the order you want",
        ));
    }
    let YamlValue::List(nodes) = &steps.value else {
        let help = "write `- files: files` and so on, one line for each step";
        return Err(
            steps.mistake_with_help(format!("expected a list, found {}", steps.kind_name()), help)
        );
    };
    nodes.iter().map(|node| StepDefinition::parse(node, folder)).collect()
}

impl StepDefinition {
    /// Creates a step with an action that does not depend on variables.
    pub(crate) fn new(action: Action) -> Self {
        Self { source: None, action: Some(action) }
    }

    /// Parses a step of keys at the top level; `None` if it has nothing to do.
    fn parse_top_level(
        root: &YamlNode,
        entries: Vec<(YamlKey, YamlNode)>,
        folder: &Folder,
    ) -> Result<Option<Self>, Box<Mistake>> {
        let step = Self::parse(&root.with_value(YamlValue::Map(entries)), folder)?;
        Ok(step.action.as_ref().is_none_or(|action| !action.is_empty()).then_some(step))
    }

    fn parse(node: &YamlNode, folder: &Folder) -> Result<Self, Box<Mistake>> {
        let fields = Fields::new(node, "a step")?;
        let mut when: Option<YamlNode> = fields.get(WHEN_KEY).cloned();
        let over = fields.get(LOOP_KEY).cloned();
        let YamlValue::Map(entries) = &node.value else {
            return Err(
                node.mistake_with_help("the step is empty", "write `- files: files` and so on")
            );
        };
        let mut entries = entries.clone();
        entries.retain(|(key, _)| key.name != WHEN_KEY && key.name != LOOP_KEY);
        // The condition of a script may be beside its path.
        if let Some((_, script)) = entries.iter_mut().find(|(key, _)| key.name == "script")
            && let Some(condition) = script.get(WHEN_KEY).cloned()
            && let YamlValue::Map(keys) = &mut script.value
        {
            if when.is_some() {
                return Err(condition.mistake("the step already has a `when`"));
            }
            keys.retain(|(key, _)| key.name != WHEN_KEY);
            when = Some(condition);
        }
        let node = node.with_value(YamlValue::Map(entries));
        when.as_ref().map_or(Ok(()), check_condition)?;
        check_conditions_within(&node)?;
        let action = if has_templates(&node) { None } else { Some(parse_action(&node, folder)?) };
        let source = StepSource { folder: folder.clone(), node, when, over };
        Ok(Self { source: Some(source), action })
    }

    /// Returns the action, if it does not depend on variables.
    pub(crate) fn action(&self) -> Option<&Action> {
        self.action.as_ref()
    }

    /// Returns whether steps of this kind use files of the provisioner.
    pub(crate) fn may_name_files(&self) -> bool {
        let source = self.source.as_ref();
        source.is_some_and(|s| {
            ["files", "script", "packages"].iter().any(|k| s.node.get(k).is_some())
        })
    }

    /// Returns its name, without variables applied.
    pub(crate) fn name(&self) -> String {
        if let Some(action) = &self.action {
            return action.name();
        }
        let node = self.source.as_ref().map(|source| &source.node);
        let found = STEP_KEYS.iter().find_map(|(key, _)| Some((key, node?.get(key)?)));
        match found {
            Some((key, YamlNode { value: YamlValue::Scalar { text, .. }, .. })) => {
                format!("{key} {text}")
            }
            Some((key, _)) => (*key).to_owned(),
            None => "step".to_owned(),
        }
    }

    /// Applies variables: returns the step once, or once for each value of its loop.
    pub(crate) fn expand(
        &self,
        variables: &Arc<Variables>,
    ) -> Result<Vec<ExpandedStep>, Box<Mistake>> {
        let Some(over) = self.source.as_ref().and_then(|source| source.over.as_ref()) else {
            return Ok(vec![self.expand_once(variables, "")?]);
        };
        let values = Evaluator::new(variables).values(over)?;
        if values.is_empty() {
            let action = Err("the loop is empty".to_owned());
            let variables = Arc::clone(variables);
            return Ok(vec![ExpandedStep { name: self.name(), action, variables }]);
        }
        let iteration = |value: Variable| {
            let suffix = format!(" (item={})", summary(&value));
            let mut variables = Variables::clone(variables);
            variables.set(LOOP_VARIABLE, value);
            self.expand_once(&Arc::new(variables), &suffix).map_err(|mut mistake| {
                mistake.problem += &suffix;
                mistake
            })
        };
        values.into_iter().map(iteration).collect()
    }

    fn expand_once(
        &self,
        variables: &Arc<Variables>,
        suffix: &str,
    ) -> Result<ExpandedStep, Box<Mistake>> {
        let (name, action) = self.name_and_action(variables)?;
        Ok(ExpandedStep { name: name + suffix, action, variables: Arc::clone(variables) })
    }

    fn name_and_action(
        &self,
        variables: &Variables,
    ) -> Result<(String, Result<Action, String>), Box<Mistake>> {
        let found = match (&self.source, &self.action) {
            (None, Some(action)) => action.clone(),
            (None, None) => return Ok((self.name(), Err("the step is empty".to_owned()))),
            (Some(source), _) => {
                let scope = Evaluator::new(variables);
                let unmet = source.when.as_ref().map(|when| scope.unmet(when)).transpose()?;
                if let Some(unmet) = unmet.flatten() {
                    return Ok((self.name(), Err(format!("{WHEN_KEY}: {unmet}"))));
                }
                parse_action(&scope.render(&source.node)?, &source.folder)?
            }
        };
        let name = found.name();
        let empty = found.is_empty();
        Ok((name, if empty { Err("the step is empty".to_owned()) } else { Ok(found) }))
    }
}

/// Returns a short form of a value for messages: of a mapping with a `name`, the name.
fn summary(value: &Variable) -> String {
    let text = match value {
        Variable::Text(text) => text.clone(),
        Variable::Map(items) => match items.get("name") {
            Some(Variable::Text(name)) => name.clone(),
            _ => value.to_string(),
        },
        _ => value.to_string(),
    };
    let mut line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if line.chars().count() > MAX_ITEM_CHARS {
        line = line.chars().take(MAX_ITEM_CHARS).chain(['…']).collect();
    }
    line
}

/// Parses the action of a step.
fn parse_action(node: &YamlNode, folder: &Folder) -> Result<Action, Box<Mistake>> {
    let fields = Fields::new(node, "a step")?;
    let mut actions = Vec::new();
    actions.extend(packages(&fields, folder)?);
    for (key, purge) in [("remove", false), ("purge", true)] {
        if let Some(node) = fields.get(key) {
            actions.push(Action::Removal(Removal::parse(node, purge)?));
        }
    }
    actions.extend(fields.get("groups").map(Groups::parse).transpose()?.map(Action::Groups));
    actions.extend(fields.get("users").map(Users::parse).transpose()?.map(Action::Users));
    actions.extend(fields.get("files").map(|node| files(node, folder)).transpose()?);
    let attributes = fields.get("attributes").map(AttributeRules::parse).transpose()?;
    actions.extend(attributes.map(Action::Attributes));
    actions.extend(fields.get("script").map(|node| script(node, folder)).transpose()?);
    actions.extend(fields.get("services").map(Services::parse).transpose()?.map(Action::Services));
    if let YamlValue::Map(entries) = &node.value
        && let Some((key, _)) = entries.iter().find(|(key, _)| key.name == OUTSIDE_KEY)
        && let Some(path) = script_path(node)
    {
        let help = format!("write `script: {{path: {path}, {OUTSIDE_KEY}: true}}`");
        return Err(node.key_mistake(key, "a key of the script, not of the step", Some(help)));
    }
    // These were removed from the node before, but are valid keys in messages.
    fields.get(WHEN_KEY);
    fields.get(LOOP_KEY);
    fields.finish()?;
    let only = actions.pop();
    match only {
        Some(action) if actions.is_empty() => Ok(action),
        _ => {
            let names: Vec<&str> = STEP_KEYS.iter().map(|(key, _)| *key).collect();
            let help = format!("begin a line for each of {} with `- `", names.join(", "));
            Err(node.mistake_with_help("a step must have exactly one action", help))
        }
    }
}

fn packages(fields: &Fields<'_>, folder: &Folder) -> Result<Option<Action>, Box<Mistake>> {
    let recommends = fields.bool("recommends")?;
    let update = fields.bool("update")?;
    let mut packages = match fields.get("packages") {
        Some(node) => PackageList::parse(node, folder)?,
        None if update.is_some() => PackageList::default(),
        None => return Ok(None),
    };
    packages.recommends = recommends.unwrap_or(false);
    packages.update = update;
    Ok(Some(Action::Packages(packages)))
}

fn files(node: &YamlNode, folder: &Folder) -> Result<Action, Box<Mistake>> {
    let name = node.text("the path of a directory")?;
    if !folder.is_dir(Path::new(name)) {
        return Err(node.mistake_with_help(
            format!("there is no directory `{name}` in {folder}"),
            "`files` names a directory whose content is copied to /",
        ));
    }
    Ok(Action::Files(FileTree::new(folder, name)))
}

/// Returns the path of the script of a step.
fn script_path(node: &YamlNode) -> Option<&str> {
    let script = node.get("script")?;
    match &script.get("path").unwrap_or(script).value {
        YamlValue::Scalar { text, .. } => Some(text),
        _ => None,
    }
}

/// Reads a script: a path, or `{path: PATH, outside: true}`.
fn script(node: &YamlNode, folder: &Folder) -> Result<Action, Box<Mistake>> {
    let mut outside = false;
    let mut node = node;
    if let YamlValue::Map(_) = node.value {
        let fields = Fields::new(node, "a script")?;
        outside = fields.bool(OUTSIDE_KEY)?.unwrap_or(false);
        fields.get(WHEN_KEY);
        node = fields.require("path", "write `path: scripts/10-pack.sh`")?;
        fields.finish()?;
    }
    let name = node.text("the path of a script")?;
    if !folder.is_file(Path::new(name)) {
        return Err(node.mistake(format!("there is no file `{name}` in {folder}")));
    }
    if outside && folder.host_path().is_none() {
        return Err(node.mistake(LIBRARY_SCRIPT_OUTSIDE));
    }
    Ok(Action::Script(Script::new(folder, name, outside)))
}
