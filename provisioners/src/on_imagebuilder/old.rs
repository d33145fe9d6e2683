//! What in roles is not what it was: Ansible's syntax of former days, which today's Ansible refuses
//! or takes for something else, and variables that were stronger than those of config files.

use std::path::Path;

use super::tree::{self, Tree};
use super::{ImportError, Note};
use crate::config::{Document, Node, Value};

/// Keys that are no longer known, and what stands for them.
const KEYS: [(&str, &str); 7] = [
    ("sudo", "is no keyword any more: write `become: true`"),
    ("sudo_user", "is no keyword any more: write `become_user`"),
    ("sudo_pass", "is no keyword any more: take it out"),
    ("su", "is no keyword any more: write `become: true` and `become_method: su`"),
    ("su_user", "is no keyword any more: write `become_user`"),
    ("always_run", "is no keyword any more: write `check_mode: false`"),
    ("include", "is not in Ansible from 2.16 on: write `include_tasks`, or `import_tasks`"),
];

/// Loops over the elements of one list or mapping.
const LOOPS: [&str; 6] = [
    "with_items",
    "with_dict",
    "with_list",
    "with_flattened",
    "with_indexed_items",
    "with_random_choice",
];

/// Tests that were filters.
const FILTERS: [(&str, &str); 5] = [
    ("success", "success"),
    ("succeeded", "success"),
    ("failed", "failed"),
    ("changed", "changed"),
    ("skipped", "skipped"),
];

/// Keys that hold tasks.
const BLOCKS: [&str; 3] = ["block", "rescue", "always"];

/// Looks through the roles of a tree's images, and those beside them that they may name.
pub(super) fn look(tree: &Tree, notes: &mut Vec<Note>) -> Result<(), ImportError> {
    for file in tree.role_files()? {
        let in_part = |part: &str| file.iter().any(|name| name == part);
        if file.ends_with("vars/main.yml") {
            weaker(tree, &file, notes)?;
        }
        if !tree::is_yaml(&file) || !(in_part("tasks") || in_part("handlers")) {
            continue;
        }
        let text = tree::text(&tree.folder, &file)?;
        match Document::parse(&file, text.clone()) {
            Ok(document) => tasks(&document.root, &file, notes),
            Err(error) => notes.push(Note::of_error(&file, "not looked at for old syntax", &error)),
        }
        lines(&text, &file, notes);
    }
    Ok(())
}

/// Tells of variables of a role that files with variables for images have too.
fn weaker(tree: &Tree, file: &Path, notes: &mut Vec<Note>) -> Result<(), ImportError> {
    let text = tree::text(&tree.folder, file)?;
    let Ok(document) = Document::parse(file, text) else { return Ok(()) };
    let Value::Map(entries) = &document.root.value else { return Ok(()) };
    for (key, _) in entries {
        let of_all = tree.globals.iter().find(|global| global.name == key.name);
        let of_all = of_all.map(|global| &global.file);
        let mut of_images = tree
            .configs
            .iter()
            .filter(|config| config.variables.iter().any(|(name, _)| *name == key.name));
        if let Some(other) = of_images.next().map(|config| &config.file).or(of_all) {
            let text = format!(
                "`{}` is in {} too, which is stronger here: take it out of one of them",
                key.name,
                other.display()
            );
            notes.push(Note { file: file.to_owned(), line: Some(key.place.line), text });
        }
    }
    Ok(())
}

fn tasks(node: &Node, file: &Path, notes: &mut Vec<Note>) {
    let Value::List(nodes) = &node.value else { return };
    nodes.iter().for_each(|node| task(node, file, notes));
}

fn task(node: &Node, file: &Path, notes: &mut Vec<Note>) {
    let Value::Map(entries) = &node.value else { return };
    for (key, value) in entries {
        let mut note = |line: usize, text: String| {
            notes.push(Note { file: file.to_owned(), line: Some(line), text });
        };
        let name = key.name.as_str();
        let line = key.place.line;
        let text = match &value.value {
            Value::Scalar { text, .. } => Some(text.as_str()),
            _ => None,
        };
        if BLOCKS.contains(&name) {
            tasks(value, file, notes);
        } else if let Some((_, instead)) = KEYS.iter().find(|(old, _)| *old == name) {
            note(line, format!("`{name}` {instead}"));
        } else if name == "action" {
            let module = text.and_then(|text| text.split_whitespace().next()).unwrap_or("MODULE");
            note(line, format!("`action: {module} …` is the old way: write `{module}: …`"));
        } else if LOOPS.contains(&name)
            && let Some(bare) = text.filter(|text| is_bare(text))
        {
            let instead = format!("{name}: \"{{{{ {bare} }}}}\"");
            note(line, format!("`{name}: {bare}` is that word and no variable: write `{instead}`"));
        } else if matches!(name, "when" | "changed_when" | "failed_when" | "until") {
            let conditions = value.list().unwrap_or_default();
            for condition in conditions {
                let Value::Scalar { text, .. } = &condition.value else { continue };
                if let Some((before, test)) = filter(text) {
                    let text = format!(
                        "`{before} | {test}` is no filter any more: write `{before} is {test}`"
                    );
                    note(condition.place.line, text);
                }
            }
        }
        // `apt: name=x state=installed`, and as a mapping.
        let state = value.at("state");
        let installed = state.and_then(|s| s.text("").ok()).is_some_and(|s| s == "installed")
            || text.is_some_and(|text| text.split_whitespace().any(|w| w == "state=installed"));
        if installed && matches!(name.rsplit('.').next(), Some("apt" | "package" | "yum" | "dnf")) {
            let line = state.map_or(value.place.line, |node| node.place.line);
            notes.push(Note {
                file: file.to_owned(),
                line: Some(line),
                text: "`state: installed` is no state any more: write `present`".to_owned(),
            });
        }
    }
}

/// What is to be found in any line of a file.
fn lines(text: &str, file: &Path, notes: &mut Vec<Note>) {
    // From the role to the folder of the tree.
    let role = file.iter().take_while(|part| *part != "tasks" && *part != "handlers");
    let up = "/..".repeat(role.count());
    for (index, line) in text.lines().enumerate() {
        if line.contains("playbook_dir") && !line.trim_start().starts_with('#') {
            let text = format!(
                "`playbook_dir` is not the wrapper playbooks' folder here: write \
                 `{{{{ role_path }}}}{up}/common`"
            );
            notes.push(Note { file: file.to_owned(), line: Some(index + 1), text });
        }
    }
}

/// Whether a word is the name of a variable, or an expression that begins with one, without braces.
fn is_bare(text: &str) -> bool {
    let name = |c: char| c.is_ascii_alphanumeric() || "_.[]'\"".contains(c);
    let first = text.split('|').next().unwrap_or_default().trim();
    first.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && first.chars().all(name)
}

/// A condition `x | failed`: what is before the filter, and the test.
fn filter(text: &str) -> Option<(&str, &'static str)> {
    let (before, after) = text.split_once('|')?;
    let word: String =
        after.trim_start().chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
    let before = before.trim().rsplit([' ', '(']).next().filter(|name| !name.is_empty())?;
    FILTERS.iter().find(|(old, _)| *old == word).map(|(_, test)| (before, *test))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notes(text: &str) -> Vec<String> {
        let mut notes = Vec::new();
        let file = Path::new("roles/overlay/x/tasks/main.yml");
        tasks(&Document::parse(file, text.to_owned()).unwrap().root, file, &mut notes);
        lines(text, file, &mut notes);
        let told = notes.iter().map(Note::to_string);
        told.map(|told| told.replace("roles/overlay/x/tasks/", "")).collect()
    }

    #[test]
    fn old_syntax_is_found_at_its_line_with_what_to_write() {
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
            "main.yml:1: `include` is not in Ansible from 2.16 on: write `include_tasks`, or `import_tasks`",
            "main.yml:2: `state: installed` is no state any more: write `present`",
            "main.yml:3: `sudo` is no keyword any more: write `become: true`",
            "main.yml:4: `with_items: packages` is that word and no variable: write `with_items: \"{{ packages }}\"`",
            "main.yml:6: `action: command …` is the old way: write `command: …`",
            "main.yml:7: `result | failed` is no filter any more: write `result is failed`",
            "main.yml:10: `state: installed` is no state any more: write `present`",
            "main.yml:11: `playbook_dir` is not the wrapper playbooks' folder here: write `{{ role_path }}/../../../common`",
        ];
        assert_eq!(found, wanted);
    }

    #[test]
    fn todays_syntax_is_no_matter() {
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
