//! Tasks that use the directory for artifacts, which is on the host, in the root of an image.

use super::{Obsolete, scalars};
use crate::ansible::tasks::{Task, tasks};
use crate::config::{YamlDocument, YamlNode};
use crate::on_imagebuilder::yaml_writer::has_word;

/// The variable with the directory.
const VARIABLE: &str = "build_artifact_path";

/// Modules that change nothing, or that run on the host.
const OTHER_MODULES: [&str; 12] = [
    "add_host",
    "assert",
    "debug",
    "fail",
    "fetch",
    "group_by",
    "import_role",
    "import_tasks",
    "include",
    "include_role",
    "include_tasks",
    "set_fact",
];

/// Modules whose source is on the host.
const COPYING_MODULES: [&str; 4] = ["copy", "script", "template", "unarchive"];

/// Searches the tasks of a role.
pub(super) fn search_tasks(document: &YamlDocument, found: &mut Vec<Obsolete>) {
    for task in tasks(&document.root) {
        let Some(module) = task.module() else { continue };
        if OTHER_MODULES.contains(&module.name) || runs_on_host(&task) {
            continue;
        }
        let uses = |text: &str| has_word(text, VARIABLE);
        let is_used = match COPYING_MODULES.contains(&module.name) {
            true => module.text("dest").is_some_and(uses),
            false => {
                let looped = task.looped().map(|(_, list)| list);
                let nodes = [module.value].into_iter().chain(looped).flat_map(scalars);
                nodes.filter_map(|node: &YamlNode| node.text("").ok()).any(uses)
            }
        };
        if !is_used {
            continue;
        }
        let makes_it =
            module.name == "file" && matches!(module.text("state"), Some("directory" | "absent"));
        let instead = match makes_it && task.looped().is_none() {
            true => "delete this task, because overcoat creates the directory on the host",
            false => "write another path, or `delegate_to: localhost` for a task on the host",
        };
        let text = format!(
            "`{VARIABLE}` is a directory of the host, and this task runs in the root, so the path \
             becomes a part of the image: {instead}"
        );
        found.push(Obsolete::new(module.value.span.line, text, None));
    }
}

/// Returns whether a task runs on the host.
fn runs_on_host(task: &Task<'_>) -> bool {
    let is = |scope: &YamlNode, key: &str, values: &[&str]| {
        let value = scope.get(key).and_then(|node| node.text("").ok());
        value.is_some_and(|value| values.contains(&value))
    };
    task.node.get("local_action").is_some()
        || task.scopes().any(|scope| {
            is(scope, "delegate_to", &["localhost", "127.0.0.1"])
                || is(scope, "connection", &["local"])
        })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn tasks_that_use_the_directory_in_the_root_are_found() {
        let delete = Some("delete this task");
        let other = Some("write another path");
        for (task, wanted) in [
            ("file: path=PATH state=directory", delete),
            ("file: {path: 'PATH', state: directory}", delete),
            ("file: path={{ item }} state=directory\n  with_items: ['PATH', /x]", other),
            ("shell: cp /boot/vmlinuz PATH/vmlinuz", other),
            ("copy: src=x dest=PATH/x", other),
            ("copy: src=PATH/x dest=/x", None),
            ("fetch: src=/x dest=PATH/", None),
            ("local_action: file path=PATH state=directory", None),
            ("file: path=PATH state=directory\n  delegate_to: localhost", None),
            ("block: [{command: 'ls PATH'}]\n  delegate_to: 127.0.0.1", None),
            ("block: [{command: 'ls PATH'}]\n  connection: local", None),
            ("block: [{command: 'ls PATH'}]", other),
            ("debug: msg=PATH", None),
            ("command: ls /my_build_artifact_path", None),
        ] {
            let text = format!("- {}\n", task.replace("PATH", "{{ build_artifact_path }}"));
            let document = YamlDocument::parse(Path::new("main.yml"), text.clone()).unwrap();
            let mut found = Vec::new();
            search_tasks(&document, &mut found);
            assert_eq!(found.len(), usize::from(wanted.is_some()), "{text}{found:?}");
            for found in found {
                assert!(found.text.contains(wanted.unwrap_or_default()), "{text}{}", found.text);
            }
        }
    }
}
