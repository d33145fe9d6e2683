//! Packages that have another name now, and tasks that remove packages that Ansible needs.

use super::Obsolete;
use super::syntax::task_lines;
use super::ubuntu_packages;
use crate::ansible::tasks::{Module, Task, tasks};
use crate::config::{YamlDocument, YamlNode, YamlValue};
use crate::on_imagebuilder::line_edit::LineEdit;

/// Modules that install and remove packages.
pub(super) const PACKAGE_MODULES: [&str; 4] = ["apt", "package", "yum", "dnf"];

/// Arguments of these modules with the names of packages.
const NAME_ARGUMENTS: [&str; 3] = ["name", "pkg", "package"];

/// Endings of packages that have kept their names, although they begin with `python-`.
const KEPT_ENDINGS: [&str; 9] = [
    "-common",
    "-data",
    "-dev",
    "-doc",
    "-examples",
    "-is-python3",
    "-landslide",
    "-localedata",
    "-tools",
];

/// Words in the names of variables with packages of other package managers.
const OTHER_PACKAGES: [&str; 5] = ["gem", "npm", "pip", "pypi", "snap"];

/// Returns the current name of a package of Python 2.
fn current_name(name: &str) -> Option<String> {
    match name {
        "python" | "python2" | "python2.7" => Some("python3".to_owned()),
        "python-dev" => Some("python3-dev".to_owned()),
        "python-minimal" | "python2.7-minimal" => Some("python3-minimal".to_owned()),
        _ if KEPT_ENDINGS.iter().any(|ending| name.ends_with(ending)) => None,
        _ => {
            let word = |c: char| c.is_ascii_alphanumeric() || "-.+".contains(c);
            let rest = name.strip_prefix("python-").filter(|rest| rest.chars().all(word))?;
            Some(format!("python3-{rest}"))
        }
    }
}

/// Returns the name that replaces a package, and the problem. A name with a version has no certain
/// replacement, nor has a package of Ubuntu.
fn replacement(written: &str, is_ubuntu: bool) -> Option<(Option<String>, String)> {
    let (name, version) = match written.split_once('=') {
        Some((name, version)) => (name, Some(version)),
        None => (written, None),
    };
    if let Some(problem) = ubuntu_packages::problem(name, is_ubuntu) {
        return Some((None, problem));
    }
    let new = current_name(name)?;
    let problem = format!("the package `{written}` is of Python 2: write `{new}`");
    Some(match version {
        None => (Some(new), problem),
        Some(_) => (None, format!("{problem}, without the version or with one of the release")),
    })
}

/// Returns whether a package is the Python 3 of the root, or one that Ansible's modules import.
fn is_needed_by_ansible(name: &str) -> bool {
    let name = name.strip_prefix("lib").unwrap_or(name);
    let Some(rest) = name.strip_prefix("python3") else { return false };
    let rest = rest.trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
    matches!(rest, "" | "-minimal" | "-stdlib" | "-apt")
}

/// The beginning of packages with additional drivers that only Ubuntu had.
const KERNEL_EXTRAS: &str = "linux-image-extra-";

/// Searches the tasks of a role.
///
/// `is_ubuntu` is whether the images have a supported release of Ubuntu, here and below.
pub(super) fn search_tasks(
    document: &YamlDocument,
    text: &str,
    is_ubuntu: bool,
    found: &mut Vec<Obsolete>,
) {
    for task in tasks(&document.root) {
        let Some(module) = task.module() else { continue };
        if !PACKAGE_MODULES.contains(&module.name) {
            search_command(&module, found);
            continue;
        }
        let names = package_nodes(&task, &module);
        let argument = NAME_ARGUMENTS.iter().find_map(|name| module.text(name));
        if argument.is_some_and(|name| name.starts_with(KERNEL_EXTRAS)) {
            let problem = "linux-image-extra-VERSION is a package of Ubuntu until 16.04: write \
                           linux-image-VERSION for Debian, or linux-modules-extra-VERSION";
            found.push(Obsolete::new(module.line_of(&NAME_ARGUMENTS), problem, None));
        }
        if matches!(module.text("state"), Some("absent" | "removed" | "uninstalled")) {
            search_removed(&module, &names, found);
        } else {
            names.iter().for_each(|node| search_name(node, text, is_ubuntu, found));
            search_pairs(&module, text, is_ubuntu, found);
        }
    }
}

/// Searches the names in `apt: name=python-apt,curl`.
fn search_pairs(module: &Module<'_>, text: &str, is_ubuntu: bool, found: &mut Vec<Obsolete>) {
    let argument = NAME_ARGUMENTS.iter().find(|name| module.text(name).is_some());
    let Some(argument) = argument.filter(|name| module.node(name).is_none()) else { return };
    let line = module.value.span.line;
    for name in module.text(argument).unwrap_or_default().split(',').map(str::trim) {
        let Some((new, problem)) = replacement(name, is_ubuntu) else { continue };
        let edit = new.and_then(|new| LineEdit::replace(text, task_lines(text, line), name, &new));
        found.push(Obsolete::new(line, problem, edit));
    }
}

/// Searches the variables of a config file: lists of packages, and mappings with a package.
pub(super) fn search_variables(
    document: &YamlDocument,
    text: &str,
    is_ubuntu: bool,
    found: &mut Vec<Obsolete>,
) {
    search_value(&document.root, false, text, is_ubuntu, found);
}

fn search_value(
    node: &YamlNode,
    is_package: bool,
    text: &str,
    is_ubuntu: bool,
    found: &mut Vec<Obsolete>,
) {
    match &node.value {
        YamlValue::Scalar { .. } if is_package => search_name(node, text, is_ubuntu, found),
        YamlValue::Scalar { .. } => {}
        YamlValue::List(nodes) => {
            nodes.iter().for_each(|node| search_value(node, is_package, text, is_ubuntu, found));
        }
        YamlValue::Map(entries) => {
            for (key, node) in entries {
                let is_list = matches!(node.value, YamlValue::List(_));
                let is_other = OTHER_PACKAGES.iter().any(|word| key.name.contains(word));
                let is_package =
                    !is_other && (key.name == "package" || is_list && key.name.contains("package"));
                search_value(node, is_package, text, is_ubuntu, found);
            }
        }
    }
}

/// Returns the nodes with the names of a task's packages: its argument, or the list of its loop.
fn package_nodes<'a>(task: &Task<'a>, module: &Module<'a>) -> Vec<&'a YamlNode> {
    let argument = NAME_ARGUMENTS.iter().find_map(|name| module.node(name));
    let looped = task.looped().map(|(_, list)| list);
    let lists = argument.into_iter().chain(looped);
    lists
        .flat_map(|node| match &node.value {
            YamlValue::List(nodes) => nodes.iter().collect(),
            _ => vec![node],
        })
        // The name in a loop is a template.
        .filter(
            |node| !matches!(&node.value, YamlValue::Scalar { text, .. } if text.contains("{{")),
        )
        .collect()
}

fn search_name(node: &YamlNode, text: &str, is_ubuntu: bool, found: &mut Vec<Obsolete>) {
    let YamlValue::Scalar { text: name, .. } = &node.value else { return };
    let Some((new, problem)) = replacement(name, is_ubuntu) else { return };
    let line = node.span.line;
    let at = (line, node.span.column);
    let edit = new.and_then(|new| LineEdit::replace_from(text, at, name, &new));
    found.push(Obsolete::new(line, problem, edit));
}

/// Searches a task that removes packages.
fn search_removed(module: &Module<'_>, names: &[&YamlNode], found: &mut Vec<Obsolete>) {
    let needed = |node: &&&YamlNode| matches!(&node.value, YamlValue::Scalar { text, .. } if is_needed_by_ansible(text));
    let removed: Vec<&&YamlNode> = names.iter().filter(needed).collect();
    // Only items of a list on lines of their own can be deleted, and not all of them.
    let lines = removed.iter().map(|node| node.span.line);
    let alone = |line: usize| names.iter().filter(|node| node.span.line == line).count() == 1;
    let can_delete = removed.len() < names.len() && lines.clone().all(alone);
    for node in &removed {
        let YamlValue::Scalar { text: name, .. } = &node.value else { continue };
        let line = node.span.line;
        let problem = format!("removes {name}, which Ansible needs: delete it from the list");
        found.push(Obsolete::new(line, problem, can_delete.then(|| LineEdit::delete(line))));
    }
    // `apt: name=python3 state=absent`
    let in_text = NAME_ARGUMENTS.iter().find_map(|name| module.text(name));
    let in_text = in_text.filter(|_| removed.is_empty());
    for name in in_text.into_iter().flat_map(|text| text.split(',')).map(str::trim) {
        if is_needed_by_ansible(name) {
            let problem = format!("removes {name}, which Ansible needs: delete the task");
            found.push(Obsolete::new(module.value.span.line, problem, None));
        }
    }
}

/// Searches commands such as `apt-get remove -y python3`.
fn search_command(module: &Module<'_>, found: &mut Vec<Obsolete>) {
    let command = module.free_form.or(module.text("cmd")).unwrap_or_default();
    if !command.contains("apt") && !command.contains("dpkg") {
        return;
    }
    let verbs = ["remove", "autoremove", "purge", "--purge", "-r", "-P"];
    let mut removed = command.split_whitespace().skip_while(|word| !verbs.contains(word));
    if let Some(name) = removed.find(|word| is_needed_by_ansible(word)) {
        let problem = format!("removes {name}, which Ansible needs: delete it from the command");
        found.push(Obsolete::new(module.value.span.line, problem, None));
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::on_imagebuilder::line_edit::apply;

    fn search(text: &str) -> (Vec<usize>, String) {
        let mut found = Vec::new();
        let document = YamlDocument::parse(Path::new("main.yml"), text.to_owned()).unwrap();
        match document.root.value {
            YamlValue::Map(_) => search_variables(&document, text, false, &mut found),
            _ => search_tasks(&document, text, false, &mut found),
        }
        let edits: Vec<_> = found.iter().flat_map(|found| found.edits.clone()).collect();
        (found.iter().map(|found| found.line).collect(), apply(text, &edits))
    }

    #[test]
    fn packages_of_python_2_are_replaced() {
        let (lines, fixed) = search(
            "- apt: {name: [python-yaml, python, python-apt-common, python3-apt, pythonic]}
- apt: pkg={{ item }} state=present
  with_items:
    - python-minimal
- command: python
",
        );
        assert_eq!(lines, [1, 1, 4]);
        assert_eq!(
            fixed,
            "- apt: {name: [python3-yaml, python3, python-apt-common, python3-apt, pythonic]}
- apt: pkg={{ item }} state=present
  with_items:
    - python3-minimal
- command: python
"
        );
        let (lines, fixed) = search(
            "x_packages: [python-six]\nmanifest:\n  - {package: python2.7, version: python-x}\n\
             tools: {python: {package: python}}\npip_packages: [python-ldap]\n\
             users: [{name: python}]\n",
        );
        assert_eq!(lines, [1, 3, 4]);
        assert_eq!(
            fixed,
            "x_packages: [python3-six]\nmanifest:\n  - {package: python3, version: python-x}\n\
             tools: {python: {package: python3}}\npip_packages: [python-ldap]\n\
             users: [{name: python}]\n"
        );
        let (_, fixed) = search("- apt: name=python-apt,curl state=present\n");
        assert_eq!(fixed, "- apt: name=python3-apt,curl state=present\n");
        // A version of the old package is no version of the new one.
        for text in ["- apt: pkg=python-pip=1.5.*\n", "- apt: {name: [python-pip=1.5.*]}\n"] {
            assert_eq!(search(text), (vec![1], text.to_owned()));
        }
    }

    #[test]
    fn packages_that_ansible_needs_are_not_removed() {
        let (lines, fixed) = search(
            "- apt: pkg={{ item }} state=absent
  with_items:
    - lsb-release
    - libpython3-stdlib
    - python3.11-minimal
    - python3-yaml
",
        );
        assert_eq!(lines, [4, 5]);
        let kept = "  with_items:\n    - lsb-release\n    - python3-yaml\n";
        assert!(fixed.ends_with(kept), "{fixed}");
        // A task that would remove nothing else is left to the user.
        for text in [
            "- apt: name=python3 state=absent\n",
            "- apt: {name: [python3], state: absent}\n",
            "- apt: {name: '{{ item }}', state: absent}\n  with_items: [python3]\n",
            "- shell: apt-get -y purge python3-minimal && true\n",
            "- command: dpkg -r python3\n",
        ] {
            let (lines, fixed) = search(text);
            assert_eq!((lines.len(), fixed.as_str()), (1, text));
        }
    }
}
