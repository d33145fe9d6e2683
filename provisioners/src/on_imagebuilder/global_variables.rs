//! Reads the variables for all images: those of the inventory and of `group_vars/`.

use std::path::Path;

use super::settings::Global;
use super::tree::{VAULT_MARK, files_below, is_yaml, text, variables};
use super::{ImportError, Note};
use crate::config::{YamlDocument, YamlNode, YamlValue};

/// Reads the variables for all images, in order of increasing precedence: the inventory, then
/// `group_vars/all`, then other files in `group_vars`.
pub(super) fn globals(folder: &Path, notes: &mut Vec<Note>) -> Result<Vec<Global>, ImportError> {
    let mut found: Vec<Global> = Vec::new();
    let mut add = |more: Vec<Global>| {
        for global in more {
            found.retain(|other| other.name != global.name);
            found.push(global);
        }
    };
    for name in ["hosts", "hosts.ini", "inventory", "inventory.ini"] {
        let file = Path::new(name);
        if folder.join(file).is_file() {
            add(inventory(folder, file)?);
        }
    }
    let mut files = if folder.join("group_vars").is_dir() {
        files_below(folder, Path::new("group_vars"))?
    } else {
        Vec::new()
    };
    let of_all = |file: &Path| {
        file.iter().nth(1).and_then(|n| Path::new(n).file_stem()?.to_str()) == Some("all")
    };
    files.sort_by_key(|file| !of_all(file));
    for file in files {
        let is_json = file.extension().is_some_and(|extension| extension == "json");
        let named = file.extension().is_none() || is_yaml(&file) || is_json;
        if named && let Some(document) = read(folder, &file, notes)? {
            let (encrypted, known): (Vec<_>, Vec<_>) =
                variables(&document.root).partition(|(_, value)| is_encrypted(value));
            notes.extend(encrypted.into_iter().map(|(name, value)| {
                let text = format!(
                    "left out: `{name}` is encrypted; write it to `variables` of the project, or \
                     read it in a role"
                );
                Note::at(&file, value.span.line, text)
            }));
            add(known
                .into_iter()
                .map(|(name, value)| Global { name, value, file: file.clone() })
                .collect());
        }
    }
    if folder.join("host_vars").is_dir() {
        for file in files_below(folder, Path::new("host_vars"))? {
            let text = "not converted: variables of a host; add those that roles use to `variables` \
                        of the project";
            notes.push(Note::of_file(&file, text));
        }
    }
    Ok(found)
}

/// Reads the variables of an inventory, which are in sections `[GROUP:vars]`, one per line.
fn inventory(folder: &Path, file: &Path) -> Result<Vec<Global>, ImportError> {
    let text = text(folder, file)?;
    let mut found = Vec::new();
    let mut inside = false;
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            inside = line.ends_with(":vars]");
        } else if inside
            && !line.starts_with(['#', ';'])
            && let Some((name, value)) = line.split_once('=')
        {
            let value = value.trim().trim_matches(['"', '\'']);
            let written = format!("value: {}\n", super::yaml_writer::quoted(value));
            let document = YamlDocument::parse(file, written)?;
            if let Some(value) = document.root.get("value") {
                let name = name.trim().to_owned();
                found.push(Global { name, value: value.clone(), file: file.to_owned() });
            }
        }
    }
    Ok(found)
}

/// Returns whether a value, or a part of it, is encrypted.
fn is_encrypted(node: &YamlNode) -> bool {
    match &node.value {
        YamlValue::Scalar { text, .. } => text.starts_with(VAULT_MARK),
        YamlValue::List(nodes) => nodes.iter().any(is_encrypted),
        YamlValue::Map(entries) => entries.iter().any(|(_, node)| is_encrypted(node)),
    }
}

/// Reads a file with variables for all images. Adds a note and returns `None` if it is encrypted or
/// not YAML.
fn read(
    folder: &Path,
    file: &Path,
    notes: &mut Vec<Note>,
) -> Result<Option<YamlDocument>, ImportError> {
    let text = text(folder, file)?;
    if text.starts_with(VAULT_MARK) {
        let text = "left out: it is encrypted; copy its variables to `variables` of the project, \
                    or read it in a role";
        notes.push(Note::of_file(file, text));
        return Ok(None);
    }
    match YamlDocument::parse_ansible(&folder.join(file), text) {
        Ok(document) => Ok(Some(document)),
        Err(error) => {
            notes.push(Note::from_error(file, "left out", &error));
            Ok(None)
        }
    }
}
