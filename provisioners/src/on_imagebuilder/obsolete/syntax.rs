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
use crate::variables::Variable;

/// Removed keys: the key, the key that replaces it, and text about the removal.
const REMOVED_KEYS: [(&str, Option<&str>, &str); 8] = [
    (
        "first_available_file",
        None,
        "was removed from Ansible: write `with_first_found`, and `{{ item }}` as the file",
    ),
    ("sudo", Some("become"), "was removed from Ansible: write `become: true`"),
    ("sudo_user", Some("become_user"), "was removed from Ansible: write `become_user`"),
    ("sudo_pass", None, "was removed from Ansible: delete it"),
    ("su", None, "was removed from Ansible: write `become: true` and `become_method: su`"),
    ("su_user", Some("become_user"), "was removed from Ansible: write `become_user`"),
    ("always_run", None, "was removed from Ansible: write `check_mode: false`"),
    ("only_if", None, "was removed from Ansible: write the condition to `when`"),
];

/// Removed states of services, and those that replace them.
const REMOVED_SERVICE_STATES: [(&str, &str); 1] = [("running", "started")];

/// Removed states of packages, and those that replace them.
const REMOVED_STATES: [(&str, &str); 3] =
    [("installed", "present"), ("removed", "absent"), ("uninstalled", "absent")];

/// Modules that current Ansible or current releases lack, and what replaces them.
const REMOVED_MODULES: [(&str, &str); 5] = [
    ("accelerate", "was removed from Ansible: delete the task"),
    ("fireball", "was removed from Ansible: delete the task"),
    ("docker", "was removed from Ansible: write `community.docker.docker_container`"),
    ("ec2_facts", "was removed from Ansible: write `amazon.aws.ec2_metadata_facts`"),
    ("easy_install", "runs a program that current releases lack: write `pip`"),
];

/// Searches the tasks of a role.
pub(super) fn search_tasks(document: &YamlDocument, text: &str, found: &mut Vec<Obsolete>) {
    for task in tasks(&document.root) {
        for (key, value) in task.entries() {
            search_key(&task, key, value, text, found);
        }
        search_state(&task, text, found);
        search_module(&task, text, found);
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
            // Only a key on a line of its own can be deleted.
            ("always_run", Some("no" | "false" | "False")) => {
                let alone = line_of(text, line).is_some_and(|l| l.trim_start().starts_with(name));
                alone.then(|| LineEdit::delete(line))
            }
            _ => new
                .filter(|new| task.entries().iter().all(|(key, _)| key.name != *new))
                .and_then(rename),
        };
        let problem = match (name, scalar) {
            ("always_run", Some("no" | "false" | "False")) => {
                "was removed from Ansible: delete it, because `no` was the default"
            }
            ("always_run", Some(value)) if value.contains("{{") => {
                "was removed from Ansible: write `check_mode` with the opposite condition"
            }
            _ => problem,
        };
        found.push(Obsolete::new(line, format!("`{name}` {problem}"), edit));
    } else if name.rsplit('.').next() == Some("include") {
        // Without a loop, a template or `static: no`, the old module included the tasks before the
        // run.
        let is_dynamic = task.looped().is_some() || scalar.is_some_and(|text| text.contains("{{"));
        let is_dynamic = task.node.get("static").map_or(is_dynamic, |node| !is_true(node));
        let new = if is_dynamic { "include_tasks" } else { "import_tasks" };
        let new = format!("{}{new}", name.strip_suffix("include").unwrap_or_default());
        // Variables for the included tasks were keys of the task, or followed the name.
        let is_plain = scalar.is_some_and(|text| !text.contains('='))
            && task.entries().iter().all(|(key, _)| is_keyword(&key.name) || key.name == name);
        let more = if is_plain { "" } else { ", with its variables in `vars`" };
        let problem = format!("`{name}` was removed in Ansible 2.16: write `{new}`{more}");
        found.push(Obsolete::new(line, problem, is_plain.then(|| rename(&new)).flatten()));
    } else if name == "static" {
        // A role was imported if it was static.
        let is_role = task.module().is_some_and(|module| module.name == "include_role");
        let (problem, edit) = match is_role && is_true(value) {
            true => ("write `import_role`, and delete `static`", None),
            false => {
                let alone = line_of(text, line).is_some_and(|l| l.trim_start().starts_with(name));
                ("delete it", alone.then(|| LineEdit::delete(line)))
            }
        };
        let problem = format!("`static` was removed from Ansible: {problem}");
        found.push(Obsolete::new(line, problem, edit));
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
    }
}

/// Searches for a removed state of packages or services: `apt: name=x state=installed`, the form of
/// a mapping, and a default in a template.
fn search_state(task: &Task<'_>, text: &str, found: &mut Vec<Obsolete>) {
    let Some(module) = task.module() else { return };
    let (of, states): (_, &[(&str, &str)]) = match module.name {
        "service" => ("services", &REMOVED_SERVICE_STATES),
        name if PACKAGE_MODULES.contains(&name) => ("packages", &REMOVED_STATES),
        _ => return,
    };
    let Some(state) = module.text("state") else { return };
    let line = module.line_of(&["state"]);
    let node = module.node("state");
    let replace = |old: &str, new: &str| match node {
        Some(node) => LineEdit::replace_from(text, (line, node.span.column), old, new),
        None => LineEdit::replace(text, task_lines(text, line), old, new),
    };
    for &(old, new) in states {
        if state == old {
            let edit = match node {
                Some(_) => replace(old, new),
                None => replace(&format!("state={old}"), &format!("state={new}")),
            };
            let problem = format!("`state: {old}` was removed: write `state: {new}`");
            found.push(Obsolete::new(line, problem, edit));
        }
        for quote in ["'", "\""].into_iter().filter(|_| state.contains("{{")) {
            let (old, new) = (format!("{quote}{old}{quote}"), format!("{quote}{new}{quote}"));
            if state.contains(&old) {
                let problem = format!("the state {old} of {of} was removed: write {new}");
                found.push(Obsolete::new(line, problem, replace(&old, &new)));
            }
        }
    }
}

/// Searches for removed modules and arguments.
fn search_module(task: &Task<'_>, text: &str, found: &mut Vec<Obsolete>) {
    let Some(module) = task.module() else { return };
    let line = module.value.span.line;
    if let Some((name, problem)) = REMOVED_MODULES.iter().find(|(name, _)| *name == module.name) {
        found.push(Obsolete::new(line, format!("the module `{name}` {problem}"), None));
    }
    if ["get_url", "copy"].contains(&module.name) && module.text("thirsty").is_some() {
        let line = module.line_of(&["thirsty"]);
        let (old, new) = match module.node("thirsty") {
            Some(_) => ("thirsty:", "force:"),
            None => ("thirsty=", "force="),
        };
        let has_other = module.names().any(|name| name == "force");
        let edit = LineEdit::replace(text, task_lines(text, line), old, new);
        let problem = "`thirsty` was removed: write `force`";
        found.push(Obsolete::new(line, problem, edit.filter(|_| !has_other)));
    }
    let includes = ["include_role", "import_role", "include_tasks", "import_tasks"];
    if includes.contains(&module.name) && module.text("static").is_some() {
        let new = module.name.replace("include", "import");
        let problem = format!(
            "`static` was removed from Ansible: delete it, and write `{new}` if it was `yes`"
        );
        found.push(Obsolete::new(module.line_of(&["static"]), problem, None));
    }
    if module.name == "get_url"
        && let Some(sum) = module.text("sha256sum")
    {
        let line = module.line_of(&["sha256sum"]);
        let lines = task_lines(text, line);
        let edit = match module.node("sha256sum") {
            Some(_) => {
                LineEdit::replace(text, lines, "sha256sum: ", "checksum: sha256:").filter(|_| {
                    sum.chars().all(|c| c.is_ascii_hexdigit()) && module.text("checksum").is_none()
                })
            }
            None => LineEdit::replace(text, lines, "sha256sum=", "checksum=sha256:"),
        };
        let problem = "`sha256sum` was removed from `get_url`: write `checksum: sha256:…`";
        found.push(Obsolete::new(line, problem, edit));
    }
}

fn is_true(node: &YamlNode) -> bool {
    Variable::parse_yaml_1_1(node) == Variable::Bool(true)
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
    let tree = "/..".repeat(role.count());
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with('#') {
            continue;
        }
        let number = index + 1;
        for at in positions(line, "playbook_dir") {
            let new = format!("role_path }}}}{tree}/common");
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
        for _ in positions(line, "inventory_dir") {
            let problem = format!(
                "`inventory_dir` is not the directory of the tree's inventory here: write \
                 `{{{{ role_path }}}}{tree}` if the inventory is in the tree's directory"
            );
            found.push(Obsolete::new(number, problem, None));
        }
    }
}

/// Returns the positions of a word in a line, where it is not a part of a longer word.
fn positions<'a>(line: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    line.match_indices(word).map(|(at, _)| at).filter(move |at| {
        !line[..*at].ends_with(is_part) && !line[at + word.len()..].starts_with(is_part)
    })
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
        let of_all = tree.everything.iter().find(|global| global.name == key.name);
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
- block:
    - action: command true
      always_run: yes
    - command: x
      always_run: no
  sudo: true
- apt:
    name: x
    state: removed
- include: '{{ item }}.yml'
  with_items: [a]
- copy: src={{ playbook_dir }}/files/x dest={{ playbook_dir }}/{{ my_playbook_dir }}
- {name: is it installed, apt: {name: x, state: installed}, sudo: yes}
- apt: name=x state='installed'
- npm: name=y state=installed
- command: true
  only_if: $x
- apt: name=x state=uninstalled
- apt: {name: '{{ item.name }}', state: '{{ item.state|default(\"installed\") }}'}
- get_url: url=x dest=/y sha256sum=12ab
- get_url:
    url: x
    sha256sum: 12ab
- docker: image=x
- ec2_facts:
- easy_install: name=x
- command: cat {{ inventory_dir }}/x
- service: name=ssh state=running
- ansible.builtin.service: {name: ssh, state: '{{ s|default(\"running\") }}'}
- get_url: url=x dest=/y thirsty=yes
- copy:
    src: x
    thirsty: no
- import_tasks: x.yml
  static: no
- ansible.builtin.include: y.yml
- include: z.yml
  static: no
- include: z.yml
  static: yes
- accelerate: port=1
- copy: src={{ item }}
  first_available_file: [a, b]
- include_role: {name: x, static: yes}
- include_role: name=x
  static: yes
",
        );
        let removed = "was removed from Ansible";
        let wanted = [
            "1: `include` was removed in Ansible 2.16: write `import_tasks`",
            "2: `state: installed` was removed: write `state: present`",
            &format!("4: `sudo` {removed}: write `become: true`"),
            "6: `action: command …` is obsolete: write `command: …`",
            &format!("7: `always_run` {removed}: write `check_mode: false`"),
            &format!("9: `always_run` {removed}: delete it, because `no` was the default"),
            &format!("10: `sudo` {removed}: write `become: true`"),
            "13: `state: removed` was removed: write `state: absent`",
            "14: `include` was removed in Ansible 2.16: write `include_tasks`",
            "16: `playbook_dir` is not the directory of the wrapper playbooks here: write `{{ role_path }}/../../../common`",
            "16: `playbook_dir` is not the directory of the wrapper playbooks here: write `{{ role_path }}/../../../common`",
            &format!("17: `sudo` {removed}: write `become: true`"),
            "17: `state: installed` was removed: write `state: present`",
            "18: `state: installed` was removed: write `state: present`",
            &format!("21: `only_if` {removed}: write the condition to `when`"),
            "22: `state: uninstalled` was removed: write `state: absent`",
            "23: the state \"installed\" of packages was removed: write \"present\"",
            "24: `sha256sum` was removed from `get_url`: write `checksum: sha256:…`",
            "27: `sha256sum` was removed from `get_url`: write `checksum: sha256:…`",
            &format!(
                "28: the module `docker` {removed}: write `community.docker.docker_container`"
            ),
            &format!("29: the module `ec2_facts` {removed}: write `amazon.aws.ec2_metadata_facts`"),
            "30: the module `easy_install` runs a program that current releases lack: write `pip`",
            "31: `inventory_dir` is not the directory of the tree's inventory here: write `{{ role_path }}/../../..` if the inventory is in the tree's directory",
            "32: `state: running` was removed: write `state: started`",
            "33: the state \"running\" of services was removed: write \"started\"",
            "34: `thirsty` was removed: write `force`",
            "37: `thirsty` was removed: write `force`",
            &format!("39: `static` {removed}: delete it"),
            "40: `ansible.builtin.include` was removed in Ansible 2.16: write `ansible.builtin.import_tasks`",
            "41: `include` was removed in Ansible 2.16: write `include_tasks`",
            &format!("42: `static` {removed}: delete it"),
            "43: `include` was removed in Ansible 2.16: write `import_tasks`",
            &format!("44: `static` {removed}: delete it"),
            &format!("45: the module `accelerate` {removed}: delete the task"),
            &format!(
                "47: `first_available_file` {removed}: write `with_first_found`, and `{{{{ item }}}}` as the file"
            ),
            &format!("48: `static` {removed}: delete it, and write `import_role` if it was `yes`"),
            &format!("50: `static` {removed}: write `import_role`, and delete `static`"),
        ];
        assert_eq!(found, wanted);
        assert_eq!(
            fixed,
            "- import_tasks: setup.yml # first
- apt: name={{ item }}
       state=present
  become: yes
- block:
    - command: true
      check_mode: false
    - command: x
  become: true
- apt:
    name: x
    state: absent
- include_tasks: '{{ item }}.yml'
  with_items: [a]
- copy: src={{ role_path }}/../../../common/files/x dest={{ role_path }}/../../../common/{{ my_playbook_dir }}
- {name: is it installed, apt: {name: x, state: present}, become: yes}
- apt: name=x state='installed'
- npm: name=y state=installed
- command: true
  only_if: $x
- apt: name=x state=absent
- apt: {name: '{{ item.name }}', state: '{{ item.state|default(\"present\") }}'}
- get_url: url=x dest=/y checksum=sha256:12ab
- get_url:
    url: x
    checksum: sha256:12ab
- docker: image=x
- ec2_facts:
- easy_install: name=x
- command: cat {{ inventory_dir }}/x
- service: name=ssh state=started
- ansible.builtin.service: {name: ssh, state: '{{ s|default(\"started\") }}'}
- get_url: url=x dest=/y force=yes
- copy:
    src: x
    force: no
- import_tasks: x.yml
- ansible.builtin.import_tasks: y.yml
- include_tasks: z.yml
- import_tasks: z.yml
- accelerate: port=1
- copy: src={{ item }}
  first_available_file: [a, b]
- include_role: {name: x, static: yes}
- include_role: name=x
  static: yes
"
        );
        let lines = search(&fixed).0;
        let lines = lines.iter().filter_map(|note| note.split_once(':')).map(|(line, _)| line);
        let kept = ["17", "20", "27", "28", "29", "30", "41", "43", "44", "46"];
        assert_eq!(lines.collect::<Vec<_>>(), kept);
    }

    #[test]
    fn text_that_needs_a_choice_is_noted_and_kept() {
        let text = "- include: setup.yml what=x
- {include: setup.yml, what: x}
- include: setup.yml
  static: no
  what: x
- command: \"true\"
  su: true
- {shell: echo, sudo_pass: x}
- {command: x, always_run: '{{ x }}'}
- {always_run: no, command: x}
";
        let (found, fixed) = search(text);
        let text = text.replace("  static: no\n", "");
        assert_eq!(found.len(), 8, "{found:?}");
        assert!(found[6].contains("write `check_mode` with the opposite condition"), "{found:?}");
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
