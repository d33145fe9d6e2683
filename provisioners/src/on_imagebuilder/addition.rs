//! Adds config files that came later to an existing project file, which may have been edited by
//! hand. The existing text is not changed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::project_writer::{NO_BASE, write};
use super::tree::ImagebuilderTree;
use super::{ImportError, Imported, Note};
use crate::ansible::paths::normalized;
use crate::config::{YamlDocument, YamlNode, YamlValue};

/// Returns the existing image that an import with `--base` wrote as the base of the overlays: a
/// path, in a project without an image of the kind `base`.
pub(super) fn base_of_project(project: &YamlNode, folder: &Path) -> Option<String> {
    let YamlValue::Map(images) = &project.get("images")?.value else { return None };
    let is_base =
        |image: &YamlNode| image.get("kind").is_some_and(|k| k.text("").ok() == Some("base"));
    if images.iter().any(|(_, image)| is_base(image)) {
        return None;
    }
    let bases = images.iter().filter_map(|(_, image)| image.get("base")?.text("a path").ok());
    let mut paths = bases.filter(|base| images.iter().all(|(key, _)| key.name != *base));
    // An import of a tree without a base writes a path that the user has to replace.
    let path = paths.find(|path| *path != NO_BASE || folder.join(path).exists())?;
    Some(path.to_owned())
}

/// Adds the images of all config files that the project file does not name. Returns the text and
/// the images. `text` is that of the file.
pub(super) fn add(
    tree: &mut ImagebuilderTree,
    document: &YamlDocument,
    text: &str,
    base: Option<&str>,
    notes: &mut Vec<Note>,
) -> Result<Imported, ImportError> {
    let file = document.path();
    let empty = Vec::new();
    let existing = match document.root.get("images").map(|images| &images.value) {
        Some(YamlValue::Map(entries)) => entries,
        _ => &empty,
    };
    let of_files: BTreeMap<PathBuf, &str> = existing
        .iter()
        .filter_map(|(key, node)| Some((config_file(tree, node)?, key.name.as_str())))
        .collect();
    // An image may have another name in the project.
    for config in &mut tree.configs {
        if let Some(name) = of_files.get(&config.file) {
            config.name = (*name).to_owned();
        }
    }
    let tree = &*tree;
    let has_release = document.root.get("release").is_some();
    let written = write(tree, base, has_release, &mut Vec::new());
    // The images of the project may have another indentation.
    let column = existing.first().map_or(INDENT + 1, |(key, _)| key.span.column);
    let margin = " ".repeat(column.saturating_sub(1 + INDENT));
    let mut lines = String::new();
    let mut images = Vec::new();
    let mut not_added = Vec::new();
    for image in &written.images {
        if of_files.contains_key(&image.file) {
            continue;
        }
        if let Some((_, node)) = existing.iter().find(|(key, _)| key.name == image.name) {
            if !is_image_of(tree, &image.file, node) {
                let text = format!(
                    "not added: the project has another image {}; rename that image or this file, \
                     then run `overcoat import --add` again",
                    image.name
                );
                notes.push(Note::of_file(&image.file, text));
                not_added.push(image.file.clone());
            }
            continue;
        }
        lines.push('\n');
        for line in image.text.lines() {
            if !line.is_empty() {
                lines.push_str(&margin);
            }
            lines.push_str(line);
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
        note_missing_variables(file, &document.root, &written.variables, notes);
    }
    let newline = if text.contains("\r\n") { "\r\n" } else { "\n" };
    let lines = lines.replace('\n', newline);
    let text = inserted(text, &document.root, &lines, newline);
    Ok(Imported { text, images, not_added, ..Imported::default() })
}

/// Returns whether an image of the project that does not name a config file, but has the name of
/// its image, is that image: it runs the same role. An import does not name every config file.
fn is_image_of(tree: &ImagebuilderTree, file: &Path, image: &YamlNode) -> bool {
    let config = tree.configs.iter().find(|config| config.file == file);
    let roles = image.get("provisioner").and_then(|roles| roles.list().ok()).unwrap_or_default();
    image.get("config_file").is_none()
        && roles.iter().filter_map(|role| role.text("a role").ok()).any(|role| {
            config
                .is_some_and(|config| normalized(Path::new(role)) == Path::new(&config.provisioner))
        })
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
fn note_missing_variables(
    file: &Path,
    project: &YamlNode,
    needed: &BTreeSet<String>,
    notes: &mut Vec<Note>,
) {
    let file = Path::new(file.file_name().unwrap_or_default());
    let variables = project.get("variables");
    for name in needed {
        if variables.is_none_or(|variables| variables.get(name).is_none()) {
            let text = format!("`variables` lacks `{name}`, which roles may use");
            notes.push(Note::of_file(file, text));
        }
    }
}

/// Inserts lines after the last image.
fn inserted(text: &str, project: &YamlNode, lines: &str, newline: &str) -> String {
    if lines.is_empty() {
        return text.to_owned();
    }
    let images = format!("images:{newline}{}", lines.trim_start_matches(['\r', '\n']));
    let entries: &[_] = match &project.value {
        YamlValue::Map(entries) => entries,
        _ => &[],
    };
    let Some(at) = entries.iter().position(|(key, _)| key.name == "images") else {
        let (text, end) = without_end_mark(text);
        return format!("{text}{newline}{images}{end}");
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
    let newline = if before.ends_with('\n') { "" } else { newline };
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
