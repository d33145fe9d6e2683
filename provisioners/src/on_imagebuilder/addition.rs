//! Adds config files that came later to an existing project file, which may have been edited by
//! hand. The existing text is not changed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::project_writer::write;
use super::tree::{ConfigKind, ImagebuilderTree};
use super::{ImportError, Note};
use crate::ansible::paths::normalized;
use crate::config::{YamlDocument, YamlNode, YamlValue};
use crate::project::FILE_NAME;

/// A project file with added images.
pub(super) struct AddedImages {
    pub(super) text: String,
    /// The names of the new images.
    pub(super) images: Vec<String>,
}

/// Adds the images of all config files that the project file `text` does not name.
pub(super) fn add(
    tree: &ImagebuilderTree,
    file: &Path,
    text: &str,
    base: Option<&str>,
    notes: &mut Vec<Note>,
) -> Result<AddedImages, ImportError> {
    let document = YamlDocument::parse(file, text.to_owned())?;
    let empty = Vec::new();
    let existing = match document.root.get("images").map(|images| &images.value) {
        Some(YamlValue::Map(entries)) => entries,
        _ => &empty,
    };
    let names: BTreeSet<&str> = existing.iter().map(|(key, _)| key.name.as_str()).collect();
    let of_files: BTreeMap<PathBuf, &str> = existing
        .iter()
        .filter_map(|(key, node)| Some((config_file(tree, node)?, key.name.as_str())))
        .collect();
    // A base may have another name in the project.
    let bases: BTreeMap<&str, &str> = tree
        .configs
        .iter()
        .filter(|config| config.kind == ConfigKind::Base)
        .filter_map(|config| Some((config.name.as_str(), *of_files.get(&config.file)?)))
        .collect();
    let release = document.root.get("release").and_then(|node| node.text("").ok());
    let written = write(tree, base, release, &mut Vec::new());
    // The images of the project may have another indentation.
    let column = existing.first().map_or(INDENT + 1, |(key, _)| key.span.column);
    let margin = " ".repeat(column.saturating_sub(1 + INDENT));
    let mut lines = String::new();
    let mut images = Vec::new();
    for image in &written.images {
        if of_files.contains_key(&image.file) {
            continue;
        }
        if names.contains(image.name.as_str()) {
            let text = format!(
                "not added: the project has another image {}; give it this file as `config_file`, \
                 or rename it",
                image.name
            );
            notes.push(Note::of_file(&image.file, text));
            continue;
        }
        lines.push('\n');
        for line in image.text.lines() {
            let renamed = line.strip_prefix("    base: ").and_then(|name| bases.get(name));
            if !line.is_empty() {
                lines.push_str(&margin);
            }
            match renamed {
                Some(name) => lines.push_str(&format!("    base: {name}")),
                None => lines.push_str(line),
            }
            lines.push('\n');
        }
        images.push(image.name.clone());
    }
    if !images.is_empty() {
        if let Some(images) = images_in_braces(text, &document.root) {
            let mistake = images.mistake_with_help(
                "images cannot be added to a mapping in braces",
                "write each image on lines of its own",
            );
            return Err(ImportError::Config(mistake.into()));
        }
        note_missing_variables(&document.root, &written.variables, notes);
    }
    Ok(AddedImages { text: inserted(text, &document.root, &lines), images })
}

/// Indentation of the images that are written, in spaces.
const INDENT: usize = 2;

/// Returns the images of a project if they, or the whole project, are in braces.
fn images_in_braces<'a>(text: &str, project: &'a YamlNode) -> Option<&'a YamlNode> {
    let YamlValue::Map(entries) = &project.value else { return None };
    let (key, images) = entries.iter().find(|(key, _)| key.name == "images")?;
    let line = text.lines().nth(key.span.line - 1)?;
    let (_, after) = line.split_once("images")?;
    let value = after.trim_start_matches(['"', '\'']).trim_start().trim_start_matches(':');
    let value = value.trim_start();
    let in_braces = value.starts_with('{') && !value.starts_with("{}");
    (line.trim_start().starts_with('{') || in_braces).then_some(images)
}

/// Returns the config file of an image.
fn config_file(tree: &ImagebuilderTree, image: &YamlNode) -> Option<PathBuf> {
    let path = normalized(Path::new(image.get("config_file")?.text("a path").ok()?));
    let folder = std::path::absolute(&tree.folder).unwrap_or_default();
    Some(path.strip_prefix(folder).map(Path::to_owned).unwrap_or(path))
}

/// Adds a note for each variable for all images that roles use and the project lacks.
fn note_missing_variables(project: &YamlNode, needed: &BTreeSet<String>, notes: &mut Vec<Note>) {
    let variables = project.get("variables");
    for name in needed {
        if variables.is_none_or(|variables| variables.get(name).is_none()) {
            let text = format!("`variables` lacks `{name}`, which roles may use");
            notes.push(Note::of_file(Path::new(FILE_NAME), text));
        }
    }
}

/// Inserts lines after the last image.
fn inserted(text: &str, project: &YamlNode, lines: &str) -> String {
    if lines.is_empty() {
        return text.to_owned();
    }
    let images = format!("images:\n{}", lines.trim_start_matches('\n'));
    let entries: &[_] = match &project.value {
        YamlValue::Map(entries) => entries,
        _ => &[],
    };
    let Some(at) = entries.iter().position(|(key, _)| key.name == "images") else {
        let (text, end) = without_end_mark(text);
        return format!("{text}\n{images}{end}");
    };
    let empty = matches!(&entries[at].1.value, YamlValue::Map(images) if images.is_empty());
    if empty || entries[at].1.is_null() {
        let lines = text.split_inclusive('\n').enumerate();
        let line = entries[at].0.span.line;
        return lines.map(|(index, text)| if index + 1 == line { &images } else { text }).collect();
    }
    // The images end before the next key, without the comments and empty lines before that key.
    let (text, end_mark) = without_end_mark(text);
    let all: Vec<&str> = text.split_inclusive('\n').collect();
    let mut end = entries.get(at + 1).map_or(all.len(), |(key, _)| key.span.line - 1);
    while end > 0
        && all.get(end - 1).is_some_and(|line| line.trim().is_empty() || line.starts_with('#'))
    {
        end -= 1;
    }
    let (before, after) = all.split_at(end.min(all.len()));
    let before = before.concat();
    let newline = if before.ends_with('\n') { "" } else { "\n" };
    format!("{before}{newline}{lines}{}{end_mark}", after.concat())
}

/// Splits a file at the line `...` that ends its document; without one the second part is empty.
fn without_end_mark(text: &str) -> (&str, &str) {
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        if line.strip_prefix("...").is_some_and(|rest| rest.trim().is_empty()) {
            return text.split_at(at);
        }
        at += line.len();
    }
    (text, "")
}
