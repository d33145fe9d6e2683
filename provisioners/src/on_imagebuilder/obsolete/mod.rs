//! Searches roles, the files that they copy and config files for text whose meaning has changed
//! since on-imagebuilder was written, or that differs with overcoat, with the edit that replaces it
//! where one is certain.

mod artifact_folder;
mod bare_variables;
mod boot_scripts;
mod defined_names;
mod filters;
mod kernel_parameters;
mod packages;
mod syntax;
mod ubuntu_packages;

use std::path::{Path, PathBuf};

pub(super) use self::defined_names::DefinedNames;
use super::archives;
use super::line_edit::{LineEdit, apply};
use super::releases::is_out_of_use;
use super::settings::{DebianArchive, ImportedSettings};
use super::tree::{self, ImagebuilderTree};
use super::yaml_writer::has_word;
use super::{FileChange, ImportError, Note};
use crate::config::{YamlDocument, YamlNode, YamlValue};

/// Maximum size of a script that is searched, in bytes: hand-written files are smaller.
const MAX_SCRIPT_BYTES: usize = 1 << 20;

/// The beginning of the note about a file that is not YAML.
pub(super) const NOT_SEARCHED: &str = "not searched for obsolete syntax";

/// A problem in a file.
#[derive(Debug)]
struct Obsolete {
    /// The line, from 1.
    line: usize,
    /// The problem, and what to write instead.
    text: String,
    /// The edits that make the change; empty if there is a choice.
    edits: Vec<LineEdit>,
}

impl Obsolete {
    /// Creates a problem that one edit solves, or none.
    fn new(line: usize, text: impl Into<String>, edit: Option<LineEdit>) -> Self {
        Self { line, text: text.into(), edits: edit.into_iter().collect() }
    }
}

/// Adds a note for each problem of the roles and config files of the tree.
pub(super) fn add_notes(tree: &ImagebuilderTree, notes: &mut Vec<Note>) -> Result<(), ImportError> {
    let names = DefinedNames::find(tree)?;
    for file in searched_files(tree)? {
        let (_, found) = search(tree, &names, &file, notes)?;
        notes.extend(found.into_iter().map(|found| Note {
            file: file.clone(),
            line: Some(found.line),
            text: found.text,
            has_fix: !found.edits.is_empty(),
        }));
    }
    note_old_release(tree, notes)?;
    archives::add_notes(tree, notes)?;
    syntax::note_overridden_variables(tree, notes)
}

/// Adds a note for each line that names the release of the tree if it is out of use: archives of
/// packages, and names of files.
fn note_old_release(tree: &ImagebuilderTree, notes: &mut Vec<Note>) -> Result<(), ImportError> {
    let release = tree.settings_of(None).get("debootstrap_release");
    let Some(release) = release.filter(|release| is_out_of_use(release)) else { return Ok(()) };
    for file in searched_files(tree)? {
        let is_template = file.iter().any(|part| part == "templates");
        if !is_template && !tree::is_yaml(&file) {
            continue;
        }
        for (index, line) in tree::text(&tree.folder, &file)?.lines().enumerate() {
            if has_word(line, &release) && !line.trim_start().starts_with('#') {
                let text = format!("`{release}` is end of life: write the release of the project");
                notes.push(Note::at(&file, index + 1, text));
            }
        }
    }
    Ok(())
}

/// Returns the changed files, if all edits are made.
pub(super) fn changes(tree: &ImagebuilderTree) -> Result<Vec<FileChange>, ImportError> {
    let mut changes = Vec::new();
    let names = DefinedNames::find(tree)?;
    for file in searched_files(tree)? {
        let (before, found) = search(tree, &names, &file, &mut Vec::new())?;
        let edits: Vec<LineEdit> = found.into_iter().flat_map(|found| found.edits).collect();
        let after = apply(&before, &edits);
        if after != before {
            changes.push(FileChange { file, before, after });
        }
    }
    Ok(changes)
}

fn searched_files(tree: &ImagebuilderTree) -> Result<Vec<PathBuf>, ImportError> {
    let mut files = tree.files_of_roles()?;
    files.extend(tree.common_files()?);
    let configs = tree.configs.iter().map(|config| config.file.clone());
    Ok(files.into_iter().chain(configs).collect())
}

/// Returns whether the images of a tree have a supported release of Ubuntu.
fn stays_on_ubuntu(tree: &ImagebuilderTree) -> bool {
    let settings = ImportedSettings::new(&tree.settings_of(None));
    settings.archive.as_ref().is_some_and(DebianArchive::is_ubuntu)
        && !settings.release.as_deref().is_some_and(is_out_of_use)
}

/// Returns the text of a file, and its problems. Adds a note if it is not searched.
fn search(
    tree: &ImagebuilderTree,
    names: &DefinedNames,
    file: &Path,
    notes: &mut Vec<Note>,
) -> Result<(String, Vec<Obsolete>), ImportError> {
    let bytes = tree::bytes(&tree.folder, file)?;
    let in_part = |part: &str| file.iter().any(|name| name == part);
    let mut found = Vec::new();
    // Other files are programs and archives, which are copied only.
    let Ok(text) = String::from_utf8(bytes) else { return Ok((String::new(), found)) };
    let is_ubuntu = stays_on_ubuntu(tree);
    let is_config = tree.configs.iter().any(|config| config.file == file);
    if is_config || tree::is_yaml(file) && (in_part("tasks") || in_part("handlers")) {
        match YamlDocument::parse_ansible(file, text.clone()) {
            Ok(document) if is_config => {
                packages::search_variables(&document, &text, is_ubuntu, &mut found);
            }
            Ok(document) => {
                syntax::search_tasks(&document, &text, &mut found);
                bare_variables::search_tasks(&document, &text, names, &mut found);
                filters::search_tasks(&document, &text, &mut found);
                packages::search_tasks(&document, &text, is_ubuntu, &mut found);
                boot_scripts::search_tasks(&document, &text, &mut found);
                artifact_folder::search_tasks(&document, &mut found);
            }
            Err(error) => {
                notes.push(Note::from_error(file, NOT_SEARCHED, &error));
            }
        }
        if !is_config {
            syntax::search_lines(file, &text, &mut found);
        }
        // YAML counts a lone carriage return as the end of a line.
        let has_other_lines = text.replace("\r\n", "\n").contains('\r');
        // An edit of one line may not suit YAML of an unusual form.
        let is_valid =
            |edits: &[LineEdit]| YamlDocument::parse_ansible(file, apply(&text, edits)).is_ok();
        for found in found.iter_mut().filter(|found| !is_valid(&found.edits)) {
            found.edits.clear();
        }
        let edits: Vec<LineEdit> = found.iter().flat_map(|found| found.edits.clone()).collect();
        if has_other_lines || !is_valid(&edits) {
            found.iter_mut().for_each(|found| found.edits.clear());
        }
    } else if (in_part("files") || in_part("templates")) && text.len() <= MAX_SCRIPT_BYTES {
        boot_scripts::search_script(&text, &mut found);
        kernel_parameters::search_script(file, &text, &mut found);
        if in_part("templates") {
            filters::search_template(&text, &mut found);
        }
    }
    Ok((text, found))
}

/// Returns all scalars of a value.
fn scalars(node: &YamlNode) -> Vec<&YamlNode> {
    match &node.value {
        YamlValue::Scalar { .. } => vec![node],
        YamlValue::List(nodes) => nodes.iter().flat_map(scalars).collect(),
        YamlValue::Map(entries) => entries.iter().flat_map(|(_, node)| scalars(node)).collect(),
    }
}
