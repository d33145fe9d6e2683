//! Finds the modules that a role adds to those of initramfs-tools.

use std::path::Path;

use super::tree::{self, ImagebuilderTree, is_yaml};
use crate::ansible::tasks::{Module, Task, tasks};
use crate::config::{YamlDocument, YamlNode, YamlValue};

/// The list of modules of initramfs-tools, as roles name it.
pub(super) const MODULES_FILE: &str = "initramfs-tools/modules";

/// The modules that a role adds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum RoleModules {
    /// Their current names.
    Known(Vec<String>),
    /// A task writes the list in a way that is not followed.
    Unknown,
}

/// Returns the modules that the tasks of a role add to the list.
pub(super) fn modules_of_role(tree: &ImagebuilderTree, role: &Path) -> RoleModules {
    let mut found = Vec::new();
    for file in tree.files_of(role).unwrap_or_default() {
        let in_tasks = file.iter().any(|part| part == "tasks" || part == "handlers");
        let text = tree::text(&tree.folder, &file).unwrap_or_default();
        if !text.contains(MODULES_FILE) || !is_yaml(&file) || !in_tasks {
            // A script or a template may write it, too.
            if text.contains(MODULES_FILE) {
                return RoleModules::Unknown;
            }
            continue;
        }
        let Ok(document) = YamlDocument::parse_ansible(&file, text) else {
            return RoleModules::Unknown;
        };
        for task in tasks(&document.root) {
            match modules_of_task(&task) {
                Some(RoleModules::Known(modules)) => found.extend(modules),
                Some(RoleModules::Unknown) => return RoleModules::Unknown,
                None => {}
            }
        }
    }
    found.dedup();
    RoleModules::Known(found)
}

/// Returns the modules that a task adds; `None` if it does not write the list.
fn modules_of_task(task: &Task<'_>) -> Option<RoleModules> {
    let module = task.module()?;
    if !texts(task.node).iter().any(|text| text.contains(MODULES_FILE)) {
        return None;
    }
    let is_conditional = task.scopes().any(|scope| scope.get("when").is_some());
    let known = added_text(&module)
        .filter(|_| !is_conditional)
        .and_then(|text| expanded(&text, task))
        .map(RoleModules::Known);
    Some(known.unwrap_or(RoleModules::Unknown))
}

/// Returns the text that a task adds to the list, which may have a template.
fn added_text(module: &Module<'_>) -> Option<String> {
    match module.name {
        "command" | "shell" => {
            let command = module.free_form.or_else(|| module.text("cmd"))?;
            let (text, file) = command.trim().strip_prefix("echo ")?.split_once('>')?;
            let is_file = file.trim_start_matches('>').trim().trim_matches(['"', '\'']);
            let is_text = !text.contains([';', '&', '|', '$', '`']) && !text.starts_with('-');
            (is_text && is_file.ends_with(MODULES_FILE)).then(|| text.replace(['"', '\''], ""))
        }
        "lineinfile" if module.text("state").is_none_or(|state| state == "present") => {
            module.text("regexp").is_none().then(|| module.text("line"))?.map(str::to_owned)
        }
        "copy" => module.text("content").map(str::to_owned),
        _ => None,
    }
}

/// Returns the modules of a text, one in each line; in a loop, those of its items.
fn expanded(text: &str, task: &Task<'_>) -> Option<Vec<String>> {
    let lines: Vec<String> = match task.looped() {
        None => text.lines().map(|line| line.trim().to_owned()).collect(),
        Some((_, list)) if text.trim().replace(' ', "") == "{{item}}" => list
            .list()
            .ok()?
            .iter()
            .map(|n| Some(n.text("").ok()?.to_owned()))
            .collect::<Option<_>>()?,
        Some(_) => return None,
    };
    let lines = lines.into_iter().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let is_module =
        |line: &String| line.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    let renamed = |line: String| if line == "overlayfs" { "overlay".to_owned() } else { line };
    lines.map(|line| is_module(&line).then(|| renamed(line))).collect()
}

/// Returns all scalars of a value.
fn texts(node: &YamlNode) -> Vec<&str> {
    match &node.value {
        YamlValue::Scalar { text, .. } => vec![text],
        YamlValue::List(nodes) => nodes.iter().flat_map(texts).collect(),
        YamlValue::Map(entries) => entries.iter().flat_map(|(_, node)| texts(node)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_of_tasks_are_known_if_they_are_literal() {
        let known = |names: &[&str]| {
            Some(RoleModules::Known(names.iter().map(|name| (*name).to_owned()).collect()))
        };
        let unknown = || Some(RoleModules::Unknown);
        let file = "/etc/initramfs-tools/modules";
        for (task, wanted) in [
            (
                "{shell: 'echo {{ item }} >> FILE', with_items: [squashfs, overlayfs, e1000e]}",
                known(&["squashfs", "overlay", "e1000e"]),
            ),
            ("{shell: 'echo \"{{item}}\" >>FILE', loop: [nvme]}", known(&["nvme"])),
            ("{shell: echo ahci >> FILE}", known(&["ahci"])),
            ("{lineinfile: {dest: FILE, line: ahci, state: present}}", known(&["ahci"])),
            ("{lineinfile: dest=FILE line=ahci}", known(&["ahci"])),
            (
                "{copy: {dest: FILE, content: \"# x\\nahci\\n\\nnvme\\n\"}}",
                known(&["ahci", "nvme"]),
            ),
            ("{shell: 'echo {{ item }} >> FILE', with_items: '{{ modules }}'}", unknown()),
            ("{shell: 'echo {{ module }} >> FILE'}", unknown()),
            ("{shell: echo ahci >> FILE, when: x}", unknown()),
            ("{shell: echo ahci port=1 >> FILE}", unknown()),
            ("{shell: echo ahci | tee FILE}", unknown()),
            ("{copy: src=modules dest=FILE}", unknown()),
            ("{lineinfile: {dest: FILE, line: ahci, state: absent}}", unknown()),
            ("{shell: echo ahci >> /etc/modules}", None),
        ] {
            let text = format!("- {}\n", task.replace("FILE", file));
            let document = YamlDocument::parse(Path::new("main.yml"), text.clone()).unwrap();
            let found = tasks(&document.root).first().and_then(modules_of_task);
            assert_eq!(found, wanted, "{text}");
        }
    }
}
