//! Reads the tasks of a role: their modules, arguments, loops and conditions.
//!
//! Only the structure is read. Templates are not rendered, and modules are not known.

use std::borrow::Cow;

use crate::config::{YamlKey, YamlNode, YamlValue};

/// Keys of a task that are not modules: the playbook keywords of Ansible, current and removed.
const KEYWORDS: [&str; 55] = [
    "action",
    "always",
    "always_run",
    "any_errors_fatal",
    "args",
    "async",
    "become",
    "become_exe",
    "become_flags",
    "become_method",
    "become_user",
    "block",
    "changed_when",
    "check_mode",
    "collections",
    "connection",
    "debugger",
    "delay",
    "delegate_facts",
    "delegate_to",
    "diff",
    "environment",
    "failed_when",
    "first_available_file",
    "ignore_errors",
    "ignore_unreachable",
    "listen",
    "local_action",
    "loop",
    "loop_control",
    "module_defaults",
    "name",
    "no_log",
    "notify",
    "only_if",
    "poll",
    "port",
    "register",
    "remote_user",
    "rescue",
    "retries",
    "run_once",
    "static",
    "su",
    "su_pass",
    "su_user",
    "sudo",
    "sudo_pass",
    "sudo_user",
    "tags",
    "throttle",
    "timeout",
    "until",
    "vars",
    "when",
];

/// Keys of a play that are not keys of tasks: keywords of Ansible, current and removed.
const PLAY_KEYWORDS: [&str; 24] = [
    "accelerate",
    "accelerate_ipv6",
    "accelerate_port",
    "fact_path",
    "force_handlers",
    "gather_facts",
    "gather_subset",
    "gather_timeout",
    "handlers",
    "hosts",
    "import_playbook",
    "include",
    "max_fail_percentage",
    "order",
    "post_tasks",
    "pre_tasks",
    "roles",
    "serial",
    "strategy",
    "tasks",
    "user",
    "validate_argspec",
    "vars_files",
    "vars_prompt",
];

/// Keys of tasks that a play cannot have.
const TASK_ONLY_KEYWORDS: [&str; 10] = [
    "action",
    "always",
    "args",
    "block",
    "listen",
    "local_action",
    "loop",
    "notify",
    "register",
    "rescue",
];

/// Keys with lists of tasks.
const BLOCK_KEYS: [&str; 3] = ["block", "rescue", "always"];

/// Keys with a module as their value.
const ACTION_KEYS: [&str; 2] = ["action", "local_action"];

/// Modules whose argument in one line is a command, which may contain `key=value` pairs.
const COMMAND_MODULES: [&str; 4] = ["command", "shell", "raw", "script"];

/// The pairs in such a command that are options of the module.
const COMMAND_OPTIONS: [&str; 7] =
    ["chdir", "creates", "executable", "removes", "stdin", "stdin_add_newline", "warn"];

/// Modules whose argument in one line is a file, followed by `key=value` pairs.
const INCLUDE_MODULES: [&str; 4] = ["include", "include_tasks", "import_tasks", "include_vars"];

/// A task of a role, or a block, which has no module.
#[derive(Debug, Clone)]
pub(crate) struct Task<'a> {
    /// Its mapping.
    pub(crate) node: &'a YamlNode,
    /// The mappings of the blocks around it, the outermost first.
    blocks: Vec<&'a YamlNode>,
}

/// The module of a task.
#[derive(Debug, Clone)]
pub(crate) struct Module<'a> {
    /// Its name, without the collection.
    pub(crate) name: &'a str,
    /// Its value in the task.
    pub(crate) value: &'a YamlNode,
    /// The argument of a module like `command`, as text in one line.
    pub(crate) free_form: Option<&'a str>,
    arguments: Vec<(Cow<'a, str>, Argument<'a>)>,
}

/// The value of an argument.
#[derive(Debug, Clone)]
enum Argument<'a> {
    /// In `key=value` form.
    Text(Cow<'a, str>),
    Node(&'a YamlNode),
}

/// Returns whether a key of a task is not a module.
pub(crate) fn is_keyword(name: &str) -> bool {
    KEYWORDS.contains(&name) || name.starts_with("with_")
}

/// Returns whether a name is a key of a play.
pub(crate) fn is_play_keyword(name: &str) -> bool {
    let is_of_tasks = KEYWORDS.contains(&name) && !TASK_ONLY_KEYWORDS.contains(&name);
    PLAY_KEYWORDS.contains(&name) || is_of_tasks
}

/// Returns all tasks of a file, in order: each block before the tasks in it.
pub(crate) fn tasks(root: &YamlNode) -> Vec<Task<'_>> {
    let mut tasks = Vec::new();
    add_tasks(root, &[], &mut tasks);
    tasks
}

fn add_tasks<'a>(node: &'a YamlNode, blocks: &[&'a YamlNode], tasks: &mut Vec<Task<'a>>) {
    let YamlValue::List(nodes) = &node.value else { return };
    for node in nodes {
        let YamlValue::Map(entries) = &node.value else { continue };
        let inner = entries.iter().filter(|(key, _)| BLOCK_KEYS.contains(&key.name.as_str()));
        tasks.push(Task { node, blocks: blocks.to_vec() });
        let blocks: Vec<_> = blocks.iter().copied().chain([node]).collect();
        inner.for_each(|(_, inner)| add_tasks(inner, &blocks, tasks));
    }
}

impl<'a> Task<'a> {
    /// Returns the task of a mapping without the blocks around it.
    pub(crate) fn new(node: &'a YamlNode) -> Self {
        Self { node, blocks: Vec::new() }
    }

    /// Returns its keys and values.
    pub(crate) fn entries(&self) -> &'a [(YamlKey, YamlNode)] {
        match &self.node.value {
            YamlValue::Map(entries) => entries,
            _ => &[],
        }
    }

    /// Returns its mapping and those of the blocks around it.
    pub(crate) fn scopes(&self) -> impl Iterator<Item = &'a YamlNode> {
        self.blocks.clone().into_iter().chain([self.node])
    }

    /// Returns its module.
    pub(crate) fn module(&self) -> Option<Module<'a>> {
        let mut entries = self.entries().iter();
        let (full_name, value, is_action) = entries.find_map(|(key, value)| {
            let name = key.name.as_str();
            if ACTION_KEYS.contains(&name) {
                return action(value).map(|module| (module, value, true));
            }
            (!is_keyword(name)).then_some((name, value, false))
        })?;
        let name = full_name.rsplit('.').next().unwrap_or(full_name);
        let mut module = Module { name, value, free_form: None, arguments: Vec::new() };
        match &value.value {
            YamlValue::Scalar { text, .. } => {
                // The value of `action` begins with the module.
                let text = text.trim_start();
                let text = text.strip_prefix(full_name).filter(|_| is_action).unwrap_or(text);
                let text = text.trim_start();
                if COMMAND_MODULES.contains(&name) || INCLUDE_MODULES.contains(&name) {
                    module.free_form = Some(text);
                }
                let options = pairs(text).filter(|(key, _)| is_option(name, key));
                module.arguments = options
                    .map(|(key, value)| (key.into(), Argument::Text(value.into())))
                    .collect();
            }
            YamlValue::Map(entries) => module.add(entries),
            YamlValue::List(_) => {}
        }
        if let Some(YamlValue::Map(entries)) = self.node.get("args").map(|args| &args.value) {
            module.add(entries);
        }
        Some(module)
    }

    /// Returns the name of its module as it is written, and its line.
    pub(crate) fn module_name(&self) -> Option<(&'a str, usize)> {
        self.entries().iter().find_map(|(key, value)| {
            if ACTION_KEYS.contains(&key.name.as_str()) {
                return action(value).map(|name| (name, key.span.line));
            }
            (!is_keyword(&key.name)).then_some((key.name.as_str(), key.span.line))
        })
    }

    /// Returns the key and value of its loop: `loop`, `with_items` and other `with_*`.
    pub(crate) fn looped(&self) -> Option<(&'a str, &'a YamlNode)> {
        self.entries()
            .iter()
            .find(|(key, _)| key.name == "loop" || key.name.starts_with("with_"))
            .map(|(key, value)| (key.name.as_str(), value))
    }
}

impl<'a> Module<'a> {
    fn add(&mut self, entries: &'a [(YamlKey, YamlNode)]) {
        let entries = entries.iter().map(|(key, node)| (key.name.as_str(), node));
        self.arguments.extend(entries.map(|(key, node)| (key.into(), Argument::Node(node))));
    }

    fn argument(&self, name: &str) -> Option<&Argument<'a>> {
        self.arguments.iter().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    /// Returns the names of its arguments.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.arguments.iter().map(|(name, _)| &**name)
    }

    /// Returns the node of an argument that is not in `key=value` form.
    pub(crate) fn node(&self, name: &str) -> Option<&'a YamlNode> {
        match self.argument(name)? {
            Argument::Node(node) => Some(node),
            Argument::Text(_) => None,
        }
    }

    /// Returns the file that the module runs, includes or copies, if it is named in one line or by
    /// one of these arguments: without options such as `creates=/x`, and the first word of a
    /// command.
    pub(crate) fn file(&self, arguments: &[&str]) -> Option<String> {
        let argument = arguments.iter().find_map(|name| self.text(name)).map(str::to_owned);
        let text = argument.or_else(|| {
            let words = words(self.free_form?).into_iter();
            let is_pair = |word: &String| {
                word.split_once('=').is_some_and(|(key, _)| is_option(self.name, key))
            };
            Some(words.filter(|word| !is_pair(word)).collect::<Vec<_>>().join(" "))
        })?;
        let text = match COMMAND_MODULES.contains(&self.name) {
            true => words(&text).into_iter().next().unwrap_or_default(),
            false => text,
        };
        Some(unquoted(&text).to_owned())
    }

    /// Returns the line of the first of these arguments that it has, or else its own line.
    pub(crate) fn line_of(&self, names: &[&str]) -> usize {
        let node = names.iter().find_map(|name| self.node(name));
        node.unwrap_or(self.value).span.line
    }

    /// Returns the text of an argument that is a scalar.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        match self.argument(name)? {
            Argument::Text(text) => Some(text),
            Argument::Node(node) => match &node.value {
                YamlValue::Scalar { text, .. } => Some(text),
                _ => None,
            },
        }
    }
}

/// Returns the module of `action: copy src=x` or `action: {module: copy, src: x}`.
fn action(value: &YamlNode) -> Option<&str> {
    match &value.value {
        YamlValue::Scalar { text, .. } => text.split_whitespace().next(),
        YamlValue::Map(_) => value.get("module")?.text("a module").ok(),
        YamlValue::List(_) => None,
    }
}

/// Returns the `key=value` pairs of a text. Values may be quoted and may contain templates.
pub(super) fn pairs(text: &str) -> impl Iterator<Item = (String, String)> {
    words(text).into_iter().filter_map(|word| {
        let (key, value) = word.split_once('=')?;
        let value = unquoted(value).replace("\\\"", "\"").replace("\\'", "'");
        let is_name = key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        (is_name && !key.is_empty()).then(|| (key.to_owned(), value))
    })
}

/// Returns whether a `key=value` pair with this key is an argument of a module, and not a part of
/// its command.
fn is_option(module: &str, key: &str) -> bool {
    !COMMAND_MODULES.contains(&module) || COMMAND_OPTIONS.contains(&key)
}

/// Returns a text without the quotes around it.
fn unquoted(text: &str) -> &str {
    let quoted = |quote| text.strip_prefix(quote).and_then(|v: &str| v.strip_suffix(quote));
    quoted('"').or_else(|| quoted('\'')).unwrap_or(text)
}

/// Splits a text at whitespace that is neither in quotes nor in a template.
fn words(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quote = None;
    let mut depth = 0_usize;
    let mut previous = ' ';
    for c in text.chars() {
        let is_escaped = std::mem::replace(&mut previous, c) == '\\';
        match c {
            '"' | '\'' if is_escaped => {}
            '"' | '\'' if quote == Some(c) => quote = None,
            '"' | '\'' if quote.is_none() && depth == 0 => quote = Some(c),
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            c if c.is_whitespace() && quote.is_none() && depth == 0 => {
                words.push(String::new());
                continue;
            }
            _ => {}
        }
        if let Some(word) = words.last_mut() {
            word.push(c);
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::YamlDocument;

    #[test]
    fn tasks_of_all_forms_are_read() {
        let text = r#"
- name: pairs
  copy: src="{{ role_path }}/a b" dest=/opt/ mode='0644'
- ansible.builtin.template:
    src: x.j2
    dest: /etc/x
  loop: [a]
- block:
    - action: apt name={{ item }} state=present
      with_items: packages
  rescue:
    - local_action: {module: command, cmd: "true"}
- script: files/a.sh --option
  args: {creates: /x}
- import_tasks: more.yml
- script: scripts/run.sh
- script: script.sh
- script: {cmd: scripts/run.sh a b}
- script: creates=/x "run 2.sh" a=b
- action: ansible.builtin.script executable=/bin/sh removes=/y script/run3.sh
- include_vars: more vars.yml name=x
- meta
"#;
        let document = YamlDocument::parse(Path::new("x.yml"), text.to_owned()).unwrap();
        let mut found = Vec::new();
        for task in tasks(&document.root) {
            let Some(module) = task.module() else { continue };
            let arguments = ["src", "dest", "mode", "name", "state", "cmd", "creates"];
            let arguments: Vec<_> =
                arguments.iter().filter_map(|a| Some(format!("{a}={}", module.text(a)?))).collect();
            found.push(format!(
                "{} {:?} {} loop {:?} in {} blocks",
                module.name,
                module.file(&["cmd"]).filter(|_| module.name != "command").unwrap_or_default(),
                arguments.join(" "),
                task.looped().map(|(key, _)| key).unwrap_or_default(),
                task.scopes().count() - 1,
            ));
        }
        assert_eq!(
            found,
            [
                r#"copy "" src={{ role_path }}/a b dest=/opt/ mode=0644 loop "" in 0 blocks"#,
                r#"template "" src=x.j2 dest=/etc/x loop "loop" in 0 blocks"#,
                r#"apt "" name={{ item }} state=present loop "with_items" in 1 blocks"#,
                r#"command "" cmd=true loop "" in 1 blocks"#,
                r#"script "files/a.sh" creates=/x loop "" in 0 blocks"#,
                r#"import_tasks "more.yml"  loop "" in 0 blocks"#,
                r#"script "scripts/run.sh"  loop "" in 0 blocks"#,
                r#"script "script.sh"  loop "" in 0 blocks"#,
                r#"script "scripts/run.sh" cmd=scripts/run.sh a b loop "" in 0 blocks"#,
                r#"script "run 2.sh" creates=/x loop "" in 0 blocks"#,
                r#"script "script/run3.sh"  loop "" in 0 blocks"#,
                r#"include_vars "more vars.yml" name=x loop "" in 0 blocks"#,
            ]
        );
    }
}
