//! Syntax that current versions of Ansible reject or interpret differently, and variables of roles
//! that no longer override those of config files.

use std::path::Path;

use super::Obsolete;
use super::packages::PACKAGE_MODULES;
use crate::ansible::tasks::{Task, is_keyword, tasks};
use crate::config::{YamlDocument, YamlKey, YamlNode, YamlValue};
use crate::on_imagebuilder::line_edit::{LineEdit, line_of};
use crate::on_imagebuilder::tree::{self, ImagebuilderTree};
use crate::on_imagebuilder::{ImportError, Note};

/// Removed keys: the key, the key that replaces it, and text about the removal.
const REMOVED_KEYS: [(&str, Option<&str>, &str); 7] = [
    ("sudo", Some("become"), "was removed from Ansible: write `become: true`"),
    ("sudo_user", Some("become_user"), "was removed from Ansible: write `become_user`"),
    ("sudo_pass", None, "was removed from Ansible: delete it"),
    ("su", None, "was removed from Ansible: write `become: true` and `become_method: su`"),
    ("su_user", Some("become_user"), "was removed from Ansible: write `become_user`"),
    ("always_run", None, "was removed from Ansible: write `check_mode: false`"),
    ("only_if", None, "was removed from Ansible: write the condition to `when`"),
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

/// Keys that loop over several lists, and how many of the first ones may be variables.
const LOOP_KEYS_OF_LISTS: [(&str, usize); 4] = [
    ("with_nested", usize::MAX),
    ("with_cartesian", usize::MAX),
    ("with_together", usize::MAX),
    // The second element is the name of a key.
    ("with_subelements", 1),
];

/// Obsolete filters, and the tests that replace them.
const REMOVED_FILTERS: [(&str, &str); 8] = [
    ("match", "match"),
    ("search", "search"),
    ("success", "success"),
    ("succeeded", "success"),
    ("failed", "failed"),
    ("changed", "changed"),
    ("skipped", "skipped"),
    ("version_compare", "version"),
];

/// Removed states of packages, and those that replace them.
const REMOVED_STATES: [(&str, &str); 2] = [("installed", "present"), ("removed", "absent")];

/// Searches the tasks of a role.
pub(super) fn search_tasks(document: &YamlDocument, text: &str, found: &mut Vec<Obsolete>) {
    for task in tasks(&document.root) {
        for (key, value) in task.entries() {
            search_key(&task, key, value, text, found);
        }
        search_state(&task, text, found);
    }
}

fn search_key(
    task: &Task<'_>,
    key: &YamlKey,
    value: &YamlNode,
    text: &str,
    found: &mut Vec<Obsolete>,
) {
    let name = key.name.as_str();
    let line = key.span.line;
    let scalar = match &value.value {
        YamlValue::Scalar { text, .. } => Some(text.as_str()),
        _ => None,
    };
    let at = (line, key.span.column);
    let rename =
        |new: &str| LineEdit::replace_from(text, at, &format!("{name}:"), &format!("{new}:"));
    if let Some((_, new, problem)) = REMOVED_KEYS.iter().find(|(old, ..)| *old == name) {
        let edit = match (name, scalar) {
            // Its value may have several lines, or it may be in the line of the task.
            ("sudo_pass", _) => None,
            ("always_run", Some("yes" | "true" | "True")) => {
                let old = format!("always_run: {}", scalar.unwrap_or_default());
                LineEdit::replace_from(text, at, &old, "check_mode: false")
            }
            _ => new
                .filter(|new| task.entries().iter().all(|(key, _)| key.name != *new))
                .and_then(rename),
        };
        found.push(Obsolete::new(line, format!("`{name}` {problem}"), edit));
    } else if name == "include" {
        // Without a loop or a template, the old module included the tasks before the run.
        let is_dynamic = task.looped().is_some() || scalar.is_some_and(|text| text.contains("{{"));
        let new = if is_dynamic { "include_tasks" } else { "import_tasks" };
        // Variables for the included tasks were keys of the task, or followed the name.
        let is_plain = scalar.is_some_and(|text| !text.contains('='))
            && task.entries().iter().all(|(key, _)| is_keyword(&key.name) || key.name == "include");
        let more =
            if is_plain { "" } else { ", with its variables in `vars` and without `static`" };
        let problem = format!("`include` was removed in Ansible 2.16: write `{new}`{more}");
        found.push(Obsolete::new(line, problem, is_plain.then(|| rename(new)).flatten()));
    } else if name == "action" {
        let module = scalar.and_then(|text| text.split_whitespace().next());
        let module = module.filter(|module| !module.contains("{{"));
        let edit = module.and_then(|module| {
            let new =
                |old: String| LineEdit::replace(text, line..=line, &old, &format!("{module}:"));
            new(format!("action: {module}"))
        });
        let module = module.unwrap_or("MODULE");
        let problem = format!("`action: {module} …` is obsolete: write `{module}: …`");
        found.push(Obsolete::new(line, problem, edit));
    } else if LOOP_KEYS.contains(&name)
        && let Some(bare) = scalar.filter(|text| is_bare(text) && !is_file_name(text))
    {
        // Double quotes in the expression would end those around it.
        let quote = if bare.contains('"') { '\'' } else { '"' };
        let instead = format!("{name}: {quote}{{{{ {bare} }}}}{quote}");
        // A backslash has another meaning in double quotes.
        let old = key_and_value(text, key, value).filter(|_| !bare.contains('\\'));
        let edit = old.and_then(|old| LineEdit::replace_from(text, at, &old, &instead));
        let problem = format!("`{name}: {bare}` is text and not a variable: write `{instead}`");
        found.push(Obsolete::new(line, problem, edit));
    } else if let Some((_, count)) = LOOP_KEYS_OF_LISTS.iter().find(|(key, _)| *key == name)
        && let YamlValue::List(lists) = &value.value
    {
        for list in lists.iter().take(*count) {
            let YamlValue::Scalar { text: bare, plain: true } = &list.value else { continue };
            if !is_bare(bare) || is_file_name(bare) || bare.contains(['\\', '"']) {
                continue;
            }
            let line = list.span.line;
            let instead = format!("\"{{{{ {bare} }}}}\"");
            let edit = LineEdit::replace_from(text, (line, list.span.column), bare, &instead);
            let problem =
                format!("`{bare}` in `{name}` is text and not a variable: write `{instead}`");
            found.push(Obsolete::new(line, problem, edit));
        }
    } else if matches!(name, "when" | "changed_when" | "failed_when" | "until") {
        for condition in value.list().unwrap_or_default() {
            let YamlValue::Scalar { text: condition_text, .. } = &condition.value else { continue };
            let line = condition.span.line;
            for Filter { old, before, test } in filters(condition_text) {
                let new = format!("{before} is {test}");
                let at = (line, condition.span.column);
                let edit = LineEdit::replace_from(text, at, old, &new);
                let problem = format!("the filter `{old}` was removed: write `{new}`");
                found.push(Obsolete::new(line, problem, edit));
            }
        }
    }
}

/// Returns the text from a key to the end of its value, if both are on one line and the value has
/// no quotes.
fn key_and_value(text: &str, key: &YamlKey, value: &YamlNode) -> Option<String> {
    let is_plain = matches!(value.value, YamlValue::Scalar { plain: true, .. });
    let one_line = value.span.line == key.span.line && value.span.width < usize::MAX;
    let line = line_of(text, key.span.line).filter(|_| is_plain && one_line)?;
    let end = value.span.column - 1 + value.span.width;
    let from = line.chars().take(end).skip(key.span.column - 1).collect::<String>();
    Some(from.trim_end().to_owned())
}

/// Searches for a removed state of packages: both `apt: name=x state=installed` and the form of a
/// mapping.
fn search_state(task: &Task<'_>, text: &str, found: &mut Vec<Obsolete>) {
    let Some(module) = task.module() else { return };
    let Some(state) = module.text("state") else { return };
    let Some((old, new)) = REMOVED_STATES.iter().find(|(old, _)| *old == state) else { return };
    if !PACKAGE_MODULES.contains(&module.name) {
        return;
    }
    let line = module.line_of(&["state"]);
    let edit = if let Some(node) = module.node("state") {
        LineEdit::replace_from(text, (line, node.span.column), old, new)
    } else {
        let lines = task_lines(text, line);
        LineEdit::replace(text, lines, &format!("state={old}"), &format!("state={new}"))
    };
    let problem = format!("`state: {old}` was removed: write `state: {new}`");
    found.push(Obsolete::new(line, problem, edit));
}

/// Returns the lines from one in a task to the end of the task: the next line is empty or begins
/// with a dash.
pub(super) fn task_lines(text: &str, line: usize) -> std::ops::RangeInclusive<usize> {
    let rest = text
        .lines()
        .skip(line)
        .take_while(|line| !line.trim().is_empty() && !line.trim_start().starts_with("- "));
    line..=line + rest.count()
}

/// Searches each line of a file with tasks, regardless of its structure.
pub(super) fn search_lines(file: &Path, text: &str, found: &mut Vec<Obsolete>) {
    // The path from the role to the directory of the tree.
    let role = file.iter().take_while(|part| *part != "tasks" && *part != "handlers");
    let new = format!("role_path }}}}{}/common", "/..".repeat(role.count()));
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with('#') {
            continue;
        }
        let number = index + 1;
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
        for (at, _) in line.match_indices("playbook_dir") {
            if line[..at].ends_with(is_part)
                || line[at + "playbook_dir".len()..].starts_with(is_part)
            {
                continue;
            }
            let column = line[..at].chars().count() + 1;
            let old = ["playbook_dir }}", "playbook_dir}}"];
            let old = old.into_iter().find(|old| line[at..].starts_with(old));
            let edit =
                old.and_then(|old| LineEdit::replace_from(text, (number, column), old, &new));
            let problem = format!(
                "`playbook_dir` is not the directory of the wrapper playbooks here: write \
                 `{{{{ {new}`"
            );
            found.push(Obsolete::new(number, problem, edit));
        }
    }
}

/// Notes variables of roles that are also set for images, and so no longer take precedence.
pub(super) fn note_overridden_variables(
    tree: &ImagebuilderTree,
    notes: &mut Vec<Note>,
) -> Result<(), ImportError> {
    for file in tree.files_of_roles()?.iter().filter(|file| file.ends_with("vars/main.yml")) {
        note_overridden_in(tree, file, notes)?;
    }
    Ok(())
}

fn note_overridden_in(
    tree: &ImagebuilderTree,
    file: &Path,
    notes: &mut Vec<Note>,
) -> Result<(), ImportError> {
    let text = tree::text(&tree.folder, file)?;
    let Ok(document) = YamlDocument::parse_ansible(file, text) else { return Ok(()) };
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
            notes.push(Note::at(file, key.span.line, text));
        }
    }
    Ok(())
}

/// Returns whether a text is the name of a variable, or an expression that begins with one, without
/// braces.
fn is_bare(text: &str) -> bool {
    let name = |c: char| c.is_ascii_alphanumeric() || "_.[]'\"".contains(c);
    let first = text.split('|').next().unwrap_or_default().trim();
    first.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && first.chars().all(name)
}

/// Returns whether a text with a dot is the name of a file, and not an attribute of a variable.
fn is_file_name(text: &str) -> bool {
    let endings =
        ["conf", "cfg", "deb", "ini", "j2", "list", "rules", "service", "sh", "txt", "yml"];
    text.rsplit_once('.').is_some_and(|(_, ending)| endings.contains(&ending))
}

/// A removed filter in a condition: `x | failed`.
struct Filter<'a> {
    /// The expression and its filter.
    old: &'a str,
    /// The expression before the filter.
    before: &'a str,
    /// The test that replaces the filter.
    test: &'static str,
}

/// Finds the removed filters in a condition.
fn filters(text: &str) -> Vec<Filter<'_>> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices('|') {
        let (before, name) = (&text[..at], text[at + 1..].trim_start());
        // A bar in quotes is text.
        let is_quoted = ['"', '\''].iter().any(|quote| before.matches(*quote).count() % 2 == 1);
        let part = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let length = name.find(|c| !part(c)).unwrap_or(name.len());
        let removed = REMOVED_FILTERS.iter().find(|(old, _)| *old == &name[..length]);
        let Some((_, test)) = removed.filter(|_| !is_quoted) else { continue };
        let end = text.len() - name.len() + length;
        let trimmed = before.trim_end();
        let expression = trimmed.rsplit([' ', '(']).next().filter(|name| !name.is_empty());
        let Some(expression) = expression else { continue };
        let start = trimmed.len() - expression.len();
        found.push(Filter { old: &text[start..end], before: expression, test });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::on_imagebuilder::line_edit::apply;

    /// Returns the problems of a file of tasks, and the text with all edits.
    fn search(text: &str) -> (Vec<String>, String) {
        let mut found = Vec::new();
        let file = Path::new("roles/overlay/x/tasks/main.yml");
        let document = YamlDocument::parse(file, text.to_owned()).unwrap();
        search_tasks(&document, text, &mut found);
        search_lines(file, text, &mut found);
        found.sort_by_key(|found| found.line);
        let edits: Vec<_> = found.iter().flat_map(|found| found.edits.clone()).collect();
        let notes = found.iter().map(|found| format!("{}: {}", found.line, found.text));
        (notes.collect(), apply(text, &edits))
    }

    #[test]
    fn obsolete_syntax_is_noted_and_replaced() {
        let (found, fixed) = search(
            "- include: setup.yml # first
- apt: name={{ item }}
       state=installed
  sudo: yes
  with_items: packages # all
- block:
    - action: command true
      when: [result|failed and other|changed or x|search('y')]
      always_run: yes
  sudo: true
- apt:
    name: x
    state: removed
- include: '{{ item }}.yml'
  with_items: [a]
- copy: src={{ playbook_dir }}/files/x dest={{ playbook_dir }}/{{ my_playbook_dir }}
- {name: is it installed, apt: {name: x, state: installed}, when: r|failed, sudo: yes}
- apt: name=x state='installed'
- npm: name=y state=installed
- user: name={{ item[0] }} groups={{ item[1] }}
  with_nested: [users, [a, b]]
- user: name={{ item.0.name }} comment={{ item.1 }}
  with_subelements:
    - users
    - keys
- command: true
  only_if: $x
",
        );
        let wanted = [
            "1: `include` was removed in Ansible 2.16: write `import_tasks`",
            "2: `state: installed` was removed: write `state: present`",
            "4: `sudo` was removed from Ansible: write `become: true`",
            "5: `with_items: packages` is text and not a variable: write `with_items: \"{{ packages }}\"`",
            "7: `action: command …` is obsolete: write `command: …`",
            "8: the filter `result|failed` was removed: write `result is failed`",
            "8: the filter `other|changed` was removed: write `other is changed`",
            "8: the filter `x|search` was removed: write `x is search`",
            "9: `always_run` was removed from Ansible: write `check_mode: false`",
            "10: `sudo` was removed from Ansible: write `become: true`",
            "13: `state: removed` was removed: write `state: absent`",
            "14: `include` was removed in Ansible 2.16: write `include_tasks`",
            "16: `playbook_dir` is not the directory of the wrapper playbooks here: write `{{ role_path }}/../../../common`",
            "16: `playbook_dir` is not the directory of the wrapper playbooks here: write `{{ role_path }}/../../../common`",
            "17: the filter `r|failed` was removed: write `r is failed`",
            "17: `sudo` was removed from Ansible: write `become: true`",
            "17: `state: installed` was removed: write `state: present`",
            "18: `state: installed` was removed: write `state: present`",
            "21: `users` in `with_nested` is text and not a variable: write `\"{{ users }}\"`",
            "24: `users` in `with_subelements` is text and not a variable: write `\"{{ users }}\"`",
            "27: `only_if` was removed from Ansible: write the condition to `when`",
        ];
        assert_eq!(found, wanted);
        assert_eq!(
            fixed,
            "- import_tasks: setup.yml # first
- apt: name={{ item }}
       state=present
  become: yes
  with_items: \"{{ packages }}\" # all
- block:
    - command: true
      when: [result is failed and other is changed or x is search('y')]
      check_mode: false
  become: true
- apt:
    name: x
    state: absent
- include_tasks: '{{ item }}.yml'
  with_items: [a]
- copy: src={{ role_path }}/../../../common/files/x dest={{ role_path }}/../../../common/{{ my_playbook_dir }}
- {name: is it installed, apt: {name: x, state: present}, when: r is failed, become: yes}
- apt: name=x state='installed'
- npm: name=y state=installed
- user: name={{ item[0] }} groups={{ item[1] }}
  with_nested: [\"{{ users }}\", [a, b]]
- user: name={{ item.0.name }} comment={{ item.1 }}
  with_subelements:
    - \"{{ users }}\"
    - keys
- command: true
  only_if: $x
"
        );
        assert_eq!(
            search(&fixed).0,
            [
                "18: `state: installed` was removed: write `state: present`",
                "27: `only_if` was removed from Ansible: write the condition to `when`",
            ]
        );
    }

    #[test]
    fn text_that_needs_a_choice_is_noted_and_kept() {
        let text = "- include: setup.yml what=x
- {include: setup.yml, what: x}
- include: setup.yml
  static: no
- command: \"true\"
  su: true
- with_items: >-
    packages
  command: echo {{ item }}
- {shell: echo, sudo_pass: x}
- with_items: nginx.conf
  command: echo {{ item }}
- with_items: names | map('x', '\\1')
  command: echo {{ item }}
";
        let (found, fixed) = search(text);
        assert_eq!(found.len(), 7, "{found:?}");
        assert_eq!(fixed, text);
    }

    #[test]
    fn current_syntax_is_not_noted() {
        let (found, _) = search(
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
