//! Searches roles for constructs whose meaning has changed: obsolete syntax, which current versions
//! of Ansible reject or interpret differently, and variables of roles that no longer override those
//! of config files.

use std::path::Path;

use super::tree::{self, ImagebuilderTree};
use super::{ImportError, Note};
use crate::config::{YamlDocument, YamlNode, YamlValue};

/// Removed keys, and what replaces them.
const REMOVED_KEYS: [(&str, &str); 7] = [
    ("sudo", "was removed from Ansible: write `become: true`"),
    ("sudo_user", "was removed from Ansible: write `become_user`"),
    ("sudo_pass", "was removed from Ansible: delete it"),
    ("su", "was removed from Ansible: write `become: true` and `become_method: su`"),
    ("su_user", "was removed from Ansible: write `become_user`"),
    ("always_run", "was removed from Ansible: write `check_mode: false`"),
    ("include", "was removed in Ansible 2.16: write `include_tasks` or `import_tasks`"),
];

/// Keys that loop over a single list or mapping.
const LOOP_KEYS: [&str; 6] = [
    "with_items",
    "with_dict",
    "with_list",
    "with_flattened",
    "with_indexed_items",
    "with_random_choice",
];

/// Obsolete filters, and the tests that replace them.
const REMOVED_FILTERS: [(&str, &str); 5] = [
    ("success", "success"),
    ("succeeded", "success"),
    ("failed", "failed"),
    ("changed", "changed"),
    ("skipped", "skipped"),
];

/// Keys with lists of tasks.
const BLOCK_KEYS: [&str; 3] = ["block", "rescue", "always"];

/// Searches the roles of the images, and the roles that they may name.
pub(super) fn find_obsolete_syntax(
    tree: &ImagebuilderTree,
    notes: &mut Vec<Note>,
) -> Result<(), ImportError> {
    for file in tree.role_files()? {
        let in_part = |part: &str| file.iter().any(|name| name == part);
        if file.ends_with("vars/main.yml") {
            note_overridden_variables(tree, &file, notes)?;
        }
        if !tree::is_yaml(&file) || !(in_part("tasks") || in_part("handlers")) {
            continue;
        }
        let text = tree::text(&tree.folder, &file)?;
        match YamlDocument::parse(&file, text.clone()) {
            Ok(document) => check_tasks(&document.root, &file, notes),
            Err(error) => {
                notes.push(Note::from_error(&file, "not searched for obsolete syntax", &error));
            }
        }
        check_lines(&text, &file, notes);
    }
    Ok(())
}

/// Notes variables of a role that are also set for images, and so no longer take precedence.
fn note_overridden_variables(
    tree: &ImagebuilderTree,
    file: &Path,
    notes: &mut Vec<Note>,
) -> Result<(), ImportError> {
    let text = tree::text(&tree.folder, file)?;
    let Ok(document) = YamlDocument::parse(file, text) else { return Ok(()) };
    let YamlValue::Map(entries) = &document.root.value else { return Ok(()) };
    for (key, _) in entries {
        let of_all = tree.globals.iter().find(|global| global.name == key.name);
        let of_all = of_all.map(|global| &global.file);
        let mut of_images = tree
            .configs
            .iter()
            .filter(|config| config.variables.iter().any(|(name, _)| *name == key.name));
        if let Some(other) = of_images.next().map(|config| &config.file).or(of_all) {
            let text = format!(
                "`{}` is also in {}, which takes precedence here: remove it from one of them",
                key.name,
                other.display()
            );
            notes.push(Note { file: file.to_owned(), line: Some(key.span.line), text });
        }
    }
    Ok(())
}

fn check_tasks(node: &YamlNode, file: &Path, notes: &mut Vec<Note>) {
    let YamlValue::List(nodes) = &node.value else { return };
    nodes.iter().for_each(|node| check_task(node, file, notes));
}

fn check_task(node: &YamlNode, file: &Path, notes: &mut Vec<Note>) {
    let YamlValue::Map(entries) = &node.value else { return };
    for (key, value) in entries {
        let mut note = |line: usize, text: String| {
            notes.push(Note { file: file.to_owned(), line: Some(line), text });
        };
        let name = key.name.as_str();
        let line = key.span.line;
        let text = match &value.value {
            YamlValue::Scalar { text, .. } => Some(text.as_str()),
            _ => None,
        };
        if BLOCK_KEYS.contains(&name) {
            check_tasks(value, file, notes);
        } else if let Some((_, instead)) = REMOVED_KEYS.iter().find(|(old, _)| *old == name) {
            note(line, format!("`{name}` {instead}"));
        } else if name == "action" {
            let module = text.and_then(|text| text.split_whitespace().next()).unwrap_or("MODULE");
            note(line, format!("`action: {module} …` is obsolete: write `{module}: …`"));
        } else if LOOP_KEYS.contains(&name)
            && let Some(bare) = text.filter(|text| is_bare(text))
        {
            let instead = format!("{name}: \"{{{{ {bare} }}}}\"");
            note(line, format!("`{name}: {bare}` is text and not a variable: write `{instead}`"));
        } else if matches!(name, "when" | "changed_when" | "failed_when" | "until") {
            let conditions = value.list().unwrap_or_default();
            for condition in conditions {
                let YamlValue::Scalar { text, .. } = &condition.value else { continue };
                if let Some((before, test)) = filter(text) {
                    let text = format!(
                        "the filter `{before} | {test}` was removed: write `{before} is {test}`"
                    );
                    note(condition.span.line, text);
                }
            }
        }
        // Both `apt: name=x state=installed` and the form of a mapping.
        let state = value.get("state");
        let installed = state.and_then(|s| s.text("").ok()).is_some_and(|s| s == "installed")
            || text.is_some_and(|text| text.split_whitespace().any(|w| w == "state=installed"));
        if installed && matches!(name.rsplit('.').next(), Some("apt" | "package" | "yum" | "dnf")) {
            let line = state.map_or(value.span.line, |node| node.span.line);
            notes.push(Note {
                file: file.to_owned(),
                line: Some(line),
                text: "`state: installed` was removed: write `state: present`".to_owned(),
            });
        }
    }
}

/// Checks each line of a file, regardless of its structure.
fn check_lines(text: &str, file: &Path, notes: &mut Vec<Note>) {
    // The path from the role to the directory of the tree.
    let role = file.iter().take_while(|part| *part != "tasks" && *part != "handlers");
    let up = "/..".repeat(role.count());
    for (index, line) in text.lines().enumerate() {
        if line.contains("playbook_dir") && !line.trim_start().starts_with('#') {
            let text = format!(
                "`playbook_dir` is not the directory of the wrapper playbooks here: write \
                 `{{{{ role_path }}}}{up}/common`"
            );
            notes.push(Note { file: file.to_owned(), line: Some(index + 1), text });
        }
    }
}

/// Returns whether a text is the name of a variable, or an expression that begins with one, without
/// braces.
fn is_bare(text: &str) -> bool {
    let name = |c: char| c.is_ascii_alphanumeric() || "_.[]'\"".contains(c);
    let first = text.split('|').next().unwrap_or_default().trim();
    first.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && first.chars().all(name)
}

/// Parses a condition such as `x | failed`: returns the expression before the filter, and the test
/// that replaces it.
fn filter(text: &str) -> Option<(&str, &'static str)> {
    let (before, after) = text.split_once('|')?;
    let word: String =
        after.trim_start().chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
    let before = before.trim().rsplit([' ', '(']).next().filter(|name| !name.is_empty())?;
    REMOVED_FILTERS.iter().find(|(old, _)| *old == word).map(|(_, test)| (before, *test))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notes(text: &str) -> Vec<String> {
        let mut notes = Vec::new();
        let file = Path::new("roles/overlay/x/tasks/main.yml");
        check_tasks(&YamlDocument::parse(file, text.to_owned()).unwrap().root, file, &mut notes);
        check_lines(text, file, &mut notes);
        let texts = notes.iter().map(Note::to_string);
        texts.map(|text| text.replace("roles/overlay/x/tasks/", "")).collect()
    }

    #[test]
    fn obsolete_syntax_is_noted_with_line_and_replacement() {
        let found = notes(
            "- include: setup.yml
- apt: name={{ item }} state=installed
  sudo: yes
  with_items: packages
- block:
    - action: command true
      when: [result|failed]
- apt:
    name: x
    state: installed
- copy: src={{ playbook_dir }}/files/x dest=/x
",
        );
        let wanted = [
            "main.yml:1: `include` was removed in Ansible 2.16: write `include_tasks` or `import_tasks`",
            "main.yml:2: `state: installed` was removed: write `state: present`",
            "main.yml:3: `sudo` was removed from Ansible: write `become: true`",
            "main.yml:4: `with_items: packages` is text and not a variable: write `with_items: \"{{ packages }}\"`",
            "main.yml:6: `action: command …` is obsolete: write `command: …`",
            "main.yml:7: the filter `result | failed` was removed: write `result is failed`",
            "main.yml:10: `state: installed` was removed: write `state: present`",
            "main.yml:11: `playbook_dir` is not the directory of the wrapper playbooks here: write `{{ role_path }}/../../../common`",
        ];
        assert_eq!(found, wanted);
    }

    #[test]
    fn current_syntax_is_not_noted() {
        let found = notes(
            "- include_tasks: setup.yml
- apt: {name: '{{ item }}', state: present}
  become: true
  with_items: '{{ packages }}'
- command: echo {{ item }}
  with_items: [a, b]
  when: result is failed and names | length > 1
- local_action: command true
# - include: x
",
        );
        assert_eq!(found, [] as [&str; 0]);
    }
}
