//! Finds the names of other roles in the files of a role.

use std::collections::BTreeSet;
use std::path::Path;

use super::paths::RoleName;
use crate::config::{ConfigError, YamlDocument, YamlNode, YamlValue};
use crate::folder::{Folder, FolderItemKind};

/// Returns the roles that a role names: the dependencies in `meta/`, and the roles that its tasks
/// and handlers include or import.
pub(crate) fn roles_named_by(role: &Path) -> Result<BTreeSet<RoleName>, ConfigError> {
    let mut found = BTreeSet::new();
    let folder = Folder::from_host(role);
    for item in folder.walk(Path::new(""))? {
        let part = item.path.components().next().map(|c| c.as_os_str().to_owned());
        let (Some(part), FolderItemKind::File { .. } | FolderItemKind::Symlink(_)) =
            (part, &item.kind)
        else {
            continue;
        };
        let meta = part == "meta";
        if !(meta || part == "tasks" || part == "handlers") || !folder.is_file(&item.path) {
            continue;
        }
        roles_named_in(&folder, &item.path, meta, &mut found)?;
    }
    Ok(found)
}

/// Adds the roles that one file names: in its dependencies if it is in `meta/`, otherwise in tasks.
pub(crate) fn roles_named_in(
    folder: &Folder,
    path: &Path,
    meta: bool,
    found: &mut BTreeSet<RoleName>,
) -> Result<(), ConfigError> {
    let bytes = folder.read(path)?.into_owned();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    match YamlDocument::parse_ansible(&folder.display_path(path), text.clone()) {
        Ok(document) if meta => add_dependencies(&document.root, found),
        Ok(document) => {
            let mut count = 0;
            add_included(&document.root, found, &mut count);
            // Some are in a form that is not parsed here, such as `action: include_role name=x`.
            if count < count_includes(&text) {
                found.insert(RoleName::Any);
            }
        }
        // Ansible may be able to read the file.
        Err(_) if meta && text.contains("dependencies") || count_includes(&text) > 0 => {
            found.insert(RoleName::Any);
        }
        Err(_) => {}
    }
    Ok(())
}

/// Modules that include or import a role.
const INCLUDE_MODULES: [&str; 2] = ["include_role", "import_role"];

/// Counts the names of modules that include or import a role, outside of comments.
fn count_includes(text: &str) -> usize {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    let count = |line: &str| -> usize {
        INCLUDE_MODULES.iter().map(|word| line.matches(word).count()).sum()
    };
    lines.map(count).sum()
}

fn add_dependencies(meta: &YamlNode, found: &mut BTreeSet<RoleName>) {
    let Some(YamlValue::List(nodes)) = meta.get("dependencies").map(|node| &node.value) else {
        return;
    };
    for node in nodes {
        let name = ["role", "name", "src"].iter().find_map(|key| node.get(key)).unwrap_or(node);
        found.insert(name_of(name));
    }
}

fn add_included(node: &YamlNode, found: &mut BTreeSet<RoleName>, count: &mut usize) {
    match &node.value {
        YamlValue::Scalar { .. } => {}
        YamlValue::List(nodes) => nodes.iter().for_each(|node| add_included(node, found, count)),
        YamlValue::Map(entries) => {
            for (key, value) in entries {
                // The name may be qualified: `ansible.builtin.include_role`.
                if key.name.rsplit('.').next().is_some_and(|word| INCLUDE_MODULES.contains(&word)) {
                    *count += 1;
                    found.insert(name_in_task(value));
                } else {
                    add_included(value, found, count);
                }
            }
        }
    }
}

/// Returns the role of an include: `{name: x}`, or `name=x tasks_from=y` in one line.
fn name_in_task(node: &YamlNode) -> RoleName {
    if let Some(name) = node.get("name") {
        return name_of(name);
    }
    let YamlValue::Scalar { text, .. } = &node.value else { return RoleName::Any };
    match text.split_whitespace().find_map(|word| word.strip_prefix("name=")) {
        Some(name) if !text.contains("{{") => {
            RoleName::Literal(name.trim_matches(['"', '\'']).to_owned())
        }
        _ => RoleName::Any,
    }
}

fn name_of(node: &YamlNode) -> RoleName {
    match &node.value {
        YamlValue::Scalar { text, .. } if !text.contains("{{") && !text.is_empty() => {
            RoleName::Literal(text.clone())
        }
        _ => RoleName::Any,
    }
}
