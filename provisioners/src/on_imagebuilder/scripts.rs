//! Reads the scripts and makefiles of a tree that run wrapper playbooks.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::tree::{is_yaml, list, text};
use super::{ImportError, Note};
use crate::ansible::paths::normalized;
use crate::config::{YamlDocument, YamlValue};

/// Maximum number of commands that a command in loops stands for.
const MAX_COMMANDS: usize = 1000;

const CONFIG_FILE: &str = "config_file";
const PROVISIONER: &str = "provisioner";

/// A line of a script that runs a wrapper playbook with a config file and a provisioner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PairInScript {
    /// The script.
    pub(super) script: PathBuf,
    pub(super) provisioner: String,
    /// The wrapper playbook, relative to the tree's directory.
    pub(super) playbook: Option<PathBuf>,
}

/// Returns the provisioners that scripts pass to the wrapper playbooks, by config file. Adds a note
/// about each other variable that they pass, and about each command that is not followed.
pub(super) fn pairs_in_scripts(
    folder: &Path,
    notes: &mut Vec<Note>,
) -> Result<BTreeMap<PathBuf, PairInScript>, ImportError> {
    let mut found = BTreeMap::new();
    for entry in list(folder)? {
        let Some(name) = entry.file_name().map(PathBuf::from) else { continue };
        let script = name.extension().is_some_and(|e| e == "sh") || name == Path::new("Makefile");
        if !script || !entry.is_file() {
            continue;
        }
        for (line, command) in commands(&text(folder, &name)?) {
            read_command(&name, line, &command, &mut found, notes);
        }
    }
    Ok(found)
}

/// Reads a command.
fn read_command(
    script: &Path,
    line: usize,
    command: &str,
    found: &mut BTreeMap<PathBuf, PairInScript>,
    notes: &mut Vec<Note>,
) {
    let words = || command.split(|c: char| c.is_whitespace() || "\"'".contains(c));
    let playbook = words().find(|word| is_yaml(Path::new(word)) && !word.contains(['=', ':', ',']));
    let passed = extra_variables(command);
    let value = |name: &str| passed.iter().find(|(n, _)| n == name).map(|(_, value)| value);
    let (Some(config), Some(provisioner)) = (value(CONFIG_FILE), value(PROVISIONER)) else {
        let runs_wrapper = playbook.is_some_and(|playbook| playbook.ends_with("_wrapper.yml"));
        if runs_wrapper && value(CONFIG_FILE).is_none() {
            let text = "not followed: the config file of this command is not in it; write \
                        `provisioner: roles/…` to each config file";
            notes.push(Note::at(script, line, text));
        }
        return;
    };
    if config.contains('$') || provisioner.contains('$') {
        let text = format!(
            "not followed: the config file {config} and the provisioner {provisioner} have \
             variables of the shell; write `provisioner: roles/…` to each config file"
        );
        notes.push(Note::at(script, line, text));
        return;
    }
    for (variable, value) in &passed {
        if ![CONFIG_FILE, PROVISIONER].contains(&variable.as_str()) {
            let text = format!(
                "not converted: the variable {variable}={value} for {config}; add it to the \
                 `variables` of the image"
            );
            notes.push(Note::of_file(script, text));
        }
    }
    let pair = PairInScript {
        script: script.to_owned(),
        provisioner: provisioner.clone(),
        playbook: playbook.map(|word| normalized(Path::new(word))),
    };
    found.entry(normalized(Path::new(config))).or_insert(pair);
}

/// Returns the variables that a command passes: `-e "a=1 b=2"` or `-e '{"a": 1}'`.
fn extra_variables(command: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut rest = command.to_owned();
    // A mapping in JSON or YAML has no blank or parenthesis of the shell before it.
    for quote in ['\'', '"'] {
        let open = format!("{quote}{{");
        while let Some(start) = rest.find(&open) {
            let Some(length) = rest[start + 2..].find(&format!("}}{quote}")) else { break };
            let end = start + 2 + length + 1;
            let mapping = rest[start + 1..end].replace("\\\"", "\"");
            rest.replace_range(start..=end, " ");
            let Ok(document) = YamlDocument::parse_ansible(Path::new(""), mapping) else {
                continue;
            };
            if let YamlValue::Map(entries) = &document.root.value {
                let entries = entries.iter();
                found.extend(entries.filter_map(|(key, value)| {
                    Some((key.name.clone(), value.text("").ok()?.to_owned()))
                }));
            }
        }
    }
    let words = rest.split(|c: char| c.is_whitespace() || "\"'".contains(c));
    let pairs = words.filter_map(|word| word.split_once('='));
    let pairs = pairs.filter(|(name, _)| !name.starts_with('-'));
    found.extend(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())));
    found
}

/// A variable of a script.
struct ShellVariable {
    name: String,
    /// Its values; `None` if they are not known.
    values: Option<Vec<String>>,
    /// Whether it is that of a loop that has not ended.
    is_loop: bool,
}

/// Returns the commands of a script with their lines, from 1. A command in a loop over words occurs
/// once for each of them.
fn commands(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut variables: Vec<ShellVariable> = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((index, line)) = lines.next() {
        let mut line = line.to_owned();
        while line.ends_with('\\') {
            line.pop();
            let Some((_, next)) = lines.next() else { break };
            line.push(' ');
            line.push_str(next.trim_start());
        }
        if line.trim_start().starts_with('#') {
            continue;
        }
        for command in split_commands(&line) {
            let command = command.trim().trim_start_matches(['@', '-']);
            let command = ["do ", "then ", "else ", "{ "]
                .iter()
                .fold(command, |command, word| command.strip_prefix(word).unwrap_or(command))
                .trim();
            let words: Vec<&str> = command.split_whitespace().collect();
            match words.as_slice() {
                ["for", name, "in", words @ ..] => {
                    let values = words.iter().map(|word| plain_word(word)).collect();
                    variables.push(ShellVariable { name: (*name).into(), values, is_loop: true });
                }
                ["for" | "while" | "until" | "select", rest @ ..] => {
                    let name = rest.first().copied().unwrap_or_default().to_owned();
                    variables.push(ShellVariable { name, values: None, is_loop: true });
                }
                ["done", ..] => {
                    if let Some(at) = variables.iter().rposition(|variable| variable.is_loop) {
                        variables.remove(at);
                    }
                }
                _ => {
                    let expanded = expand(command, &variables);
                    found.extend(expanded.into_iter().map(|command| (index + 1, command)));
                    if let Some((name, value)) = assignment(command) {
                        variables.retain(|variable| variable.is_loop || variable.name != name);
                        let values = plain_word(value).map(|value| vec![value]);
                        variables.push(ShellVariable { name: name.into(), values, is_loop: false });
                    }
                }
            }
        }
    }
    found
}

/// Splits a line at semicolons that are not in quotes.
fn split_commands(line: &str) -> Vec<String> {
    let mut commands = vec![String::new()];
    let mut quote = None;
    for c in line.chars() {
        match c {
            '"' | '\'' if quote == Some(c) => quote = None,
            '"' | '\'' if quote.is_none() => quote = Some(c),
            ';' if quote.is_none() => {
                commands.push(String::new());
                continue;
            }
            _ => {}
        }
        if let Some(command) = commands.last_mut() {
            command.push(c);
        }
    }
    commands
}

/// Returns a word without the quotes around it; `None` if the shell changes it.
fn plain_word(word: &str) -> Option<String> {
    let word = word.trim_matches(['"', '\'']);
    (!word.contains(['$', '`', '*', '?', '[', '{', '"', '\'', '\\', '~'])).then(|| word.to_owned())
}

/// Returns the name and the value of `NAME=WORD`, in a makefile also with `:=` or `?=`.
fn assignment(command: &str) -> Option<(&str, &str)> {
    let (name, value) = command.split_once('=')?;
    let (name, value) = (name.trim_end_matches([':', '?', ' ']), value.trim());
    let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    (is_name && !value.contains(char::is_whitespace)).then_some((name, value))
}

/// Returns a command with the values of the known variables, once for each of their values.
fn expand(command: &str, variables: &[ShellVariable]) -> Vec<String> {
    let mut commands = vec![command.to_owned()];
    for variable in variables.iter().rev() {
        let Some(values) = &variable.values else { continue };
        if !has_variable(&commands[0], &variable.name) {
            continue;
        }
        if commands.len() * values.len() > MAX_COMMANDS || values.is_empty() {
            return commands;
        }
        let all = commands.iter().flat_map(|command| {
            values.iter().map(|value| with_variable(command, &variable.name, value))
        });
        commands = all.collect();
    }
    commands
}

fn has_variable(command: &str, name: &str) -> bool {
    with_variable(command, name, "") != command
}

/// Replaces `$NAME`, `${NAME}` and `$(NAME)`, also with the two dollars of a makefile.
fn with_variable(command: &str, name: &str, value: &str) -> String {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut replaced = String::new();
    let mut rest = command;
    while let Some((before, after)) = rest.split_once('$') {
        replaced.push_str(before);
        let reference = after.strip_prefix('$').unwrap_or(after);
        let in_brackets = [('{', '}'), ('(', ')')].iter().find_map(|(open, close)| {
            reference.strip_prefix(*open)?.strip_prefix(name)?.strip_prefix(*close)
        });
        let bare = || reference.strip_prefix(name).filter(|rest| !rest.starts_with(is_part));
        match in_brackets.or_else(bare) {
            Some(after) => {
                replaced.push_str(value);
                rest = after;
            }
            None => {
                replaced.push('$');
                rest = after;
            }
        }
    }
    replaced.push_str(rest);
    replaced
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the pairs of a script, and its notes.
    fn read(script: &str) -> (Vec<String>, Vec<String>) {
        let (mut found, mut notes) = (BTreeMap::new(), Vec::new());
        for (line, command) in commands(script) {
            read_command(Path::new("x.sh"), line, &command, &mut found, &mut notes);
        }
        let pairs = found.iter();
        let pairs = pairs.map(|(file, pair)| format!("{} {}", file.display(), pair.provisioner));
        (pairs.collect(), notes.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn loops_variables_and_json_are_followed() {
        let ansible = "ansible-playbook -i hosts common/overlay_wrapper.yml -e";
        for script in [
            format!(
                "for o in a b; do\n  {ansible} \"config_file=vars/$o.yml provisioner=r/$o\"\ndone"
            ),
            format!(
                "for o in 'a' \\\n  b\ndo\n{ansible} config_file=vars/${{o}}.yml -e provisioner=r/$o\ndone"
            ),
            format!(
                "x:\n\t@for o in a b; do \\\n\t{ansible} \"config_file=vars/$$o.yml provisioner=r/$${{o}}\"; \\\n\tdone"
            ),
            format!(
                "V=vars\nR = r\nfor o in a b; do {ansible} \"config_file=$V/$o.yml provisioner=$(R)/$o\"; done"
            ),
            format!(
                "for d in r; do for o in a b; do {ansible} 'config_file=vars/$o.yml provisioner=$d/$o'; done; done"
            ),
            format!(
                "{ansible} '{{\"config_file\": \"vars/a.yml\", \"provisioner\": \"r/a\"}}'\n{ansible} \"{{\\\"config_file\\\": \\\"vars/b.yml\\\", \\\"provisioner\\\": \\\"r/b\\\"}}\""
            ),
            format!(
                "{ansible} '{{config_file: vars/a.yml, provisioner: r/a}}'\n{ansible} config_file=vars/b.yml -e provisioner=r/b"
            ),
        ] {
            let wanted = ["vars/a.yml r/a", "vars/b.yml r/b"].map(str::to_owned).to_vec();
            assert_eq!(read(&script), (wanted, Vec::new()), "{script}");
        }
    }

    #[test]
    fn commands_that_are_not_followed_are_named() {
        let ansible = "ansible-playbook common/overlay_wrapper.yml -e";
        let command = format!("{ansible} \"config_file=vars/$o.yml provisioner=roles/$o\"");
        for script in [
            format!("for o in $LIST; do\n{command}\ndone"),
            format!("for o in vars/*.yml; do\n{command}\ndone"),
            format!("while read o; do\n{command}\ndone"),
            format!("for o in a; do true; done\n{command}"),
            format!("build() {{\n{ansible} \"config_file=$1 provisioner=$2\"\n}}"),
            format!("set -e\n{ansible} @vars/a.yml"),
        ] {
            let (pairs, notes) = read(&script);
            assert!(pairs.is_empty(), "{pairs:?}");
            assert!(
                notes.len() == 1 && notes[0].starts_with("x.sh:2: not followed: "),
                "{notes:?}"
            );
        }
        // The config file itself names the provisioner.
        assert_eq!(read(&format!("{ansible} config_file=vars/$1")), (Vec::new(), Vec::new()));
        let json = format!(
            "{ansible} '{{\"config_file\": \"vars/a.yml\", \"provisioner\": \"r/a\", \"level\": 3}}'"
        );
        let note = "x.sh: not converted: the variable level=3 for vars/a.yml; add it to the \
                    `variables` of the image";
        assert_eq!(read(&json), (vec!["vars/a.yml r/a".to_owned()], vec![note.to_owned()]));
    }
}
