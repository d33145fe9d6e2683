//! Finds the variables that a role can use.
//!
//! A variable counts as used if its name is a word in a file of the role, of a role that it names,
//! or of a file that these use from [outside](super::external), or in the value of a used variable.
//! A needless build is better than a missing one: a role that can use variables without their
//! names, or files that are not found here, uses all variables.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::tasks::{Task, tasks};
use super::used_roles::UsedRoles;
use crate::config::{ConfigError, YamlDocument};
use crate::variables::LOOP_VARIABLE;

/// Prefix of the variables that Ansible itself uses.
const ANSIBLE_PREFIX: &str = "ansible_";

/// Words that give access to variables by computed names, or to files outside of the role.
const ANY_WORDS: [&str; 8] = [
    "hostvars",
    "varnames",
    "task_vars",
    "playbook_dir",
    "inventory_dir",
    "fileglob",
    "filetree",
    "first_found",
];

/// Modules that read tasks, variables or a template from a file, and the arguments that name it.
const INCLUDE_MODULES: [(&str, &[&str]); 5] = [
    ("include", &["file", "_raw_params"]),
    ("include_tasks", &["file", "_raw_params"]),
    ("import_tasks", &["file", "_raw_params"]),
    ("include_vars", &["file", "dir", "_raw_params"]),
    ("template", &["src"]),
];

/// The directories of a role whose Python files receive no variables but their arguments.
const MODULE_FOLDERS: [&str; 2] = ["library", "module_utils"];

/// The directory of a role with files that are copied.
const COPIED_FOLDER: &str = "files";

/// The directory of a role with templates, whose names do not tell their syntax.
const TEMPLATES_FOLDER: &str = "templates";

/// Maximum size of a searched file in bytes. Larger files that are copied are not searched; another
/// larger file may use any variable.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// The names in the files of a role.
#[derive(Debug, Clone, Default)]
pub(crate) struct RoleNames {
    words: BTreeSet<String>,
    /// Whether the role can use a variable without its name.
    any: bool,
}

impl RoleNames {
    /// Collects the names in the files of roles.
    pub(crate) fn read(used: &UsedRoles) -> Result<Self, ConfigError> {
        let mut names = RoleNames { any: !used.is_complete, ..Self::default() };
        let mut seen = BTreeSet::new();
        for role in &used.roles {
            for path in [&role.folder].into_iter().chain(&role.outside) {
                names.add_path(path, path, &mut seen)?;
            }
        }
        Ok(names)
    }

    fn add_path(
        &mut self,
        root: &Path,
        path: &Path,
        seen: &mut BTreeSet<PathBuf>,
    ) -> Result<(), ConfigError> {
        let failed = |source| ConfigError::Read { path: path.to_owned(), source };
        // An absolute link is usually one of the image, and a dangling link has no content.
        let link = fs::read_link(path).ok();
        if link.is_some_and(|target| target.is_absolute()) && path != root {
            return Ok(());
        }
        let Ok(meta) = fs::metadata(path) else { return Ok(()) };
        if meta.is_dir() {
            if !seen.insert(fs::canonicalize(path).map_err(failed)?) {
                return Ok(());
            }
            for entry in fs::read_dir(path).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                if entry.file_name() != ".git" {
                    self.add_path(root, &entry.path(), seen)?;
                }
            }
        } else if meta.is_file() {
            let part = path.strip_prefix(root).ok().and_then(|path| path.iter().next());
            let part = part.unwrap_or_default();
            if meta.len() > MAX_FILE_BYTES {
                self.any |= part != COPIED_FOLDER;
                return Ok(());
            }
            let text = fs::read(path).map_err(failed)?;
            let text = String::from_utf8_lossy(&text);
            self.add_words(&text);
            if part == COPIED_FOLDER {
                return Ok(());
            }
            let suffix = path.extension().unwrap_or_default();
            let is_module = MODULE_FOLDERS.iter().any(|folder| part == *folder);
            self.any |= suffix == "py" && !is_module;
            if part != TEMPLATES_FOLDER && ["yml", "yaml", ""].iter().any(|yaml| suffix == *yaml) {
                self.any |= match YamlDocument::parse_ansible(path, text.clone().into_owned()) {
                    Ok(document) => tasks(&document.root).iter().any(leads_outside),
                    Err(_) => text.contains("include") || text.contains("import_"),
                };
            }
        }
        Ok(())
    }

    /// Adds the words of a text.
    fn add_words(&mut self, text: &str) {
        for (at, word) in words(text) {
            self.any |= ANY_WORDS.contains(&word.trim_start_matches("with_"))
                || word == "vars" && is_access(&text[at + word.len()..])
                || word == "template" && text[at + word.len()..].starts_with(['\'', '"', '\\']);
            if !self.words.contains(word) {
                self.words.insert(word.to_owned());
            }
        }
    }

    /// Returns the names of the used ones of these variables, which are names with values.
    pub(crate) fn used<'a>(mut self, variables: &[(&'a str, String)]) -> BTreeSet<&'a str> {
        let mut used = BTreeSet::new();
        loop {
            let before = used.len();
            for (name, value) in variables {
                let is_used =
                    self.any || name.starts_with(ANSIBLE_PREFIX) || self.words.contains(*name);
                if is_used && used.insert(*name) {
                    self.add_words(value);
                }
            }
            if used.len() == before {
                return used;
            }
        }
    }
}

/// Returns the words of a text with their positions: letters, digits and underscores.
fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let is_separator = |c: char| !c.is_ascii_alphanumeric() && c != '_';
    let mut position = 0;
    text.split_inclusive(is_separator).filter_map(move |part| {
        let start = position;
        position += part.len();
        let word = part.trim_end_matches(is_separator);
        (!word.is_empty()).then_some((start, word))
    })
}

/// Returns whether the text after the word `vars` makes it the mapping of all variables or the name
/// of the lookup, and not a key or a directory.
fn is_access(after: &str) -> bool {
    let after = after.trim_start_matches([' ', '\t']);
    let is_file = [".yml", ".yaml", ".json"].iter().any(|end| after.starts_with(end));
    // A quote in a text with quotes is escaped.
    after.starts_with(['[', '.', '|', '}', ')', ',', '\'', '"', '\\']) && !is_file
}

/// Returns whether a task names a file with tasks, variables or a template by an absolute path, or
/// by a variable that may contain one.
fn leads_outside(task: &Task<'_>) -> bool {
    let Some(module) = task.module() else { return false };
    let names = INCLUDE_MODULES.iter().find(|(name, _)| *name == module.name);
    let Some(value) = names.and_then(|(_, arguments)| module.file(arguments)) else {
        return false;
    };
    let variable = value.find("{{").map(|at| value[at + 2..].trim_start());
    let is_known = |variable: &str| {
        variable.starts_with(ANSIBLE_PREFIX)
            || variable.starts_with("role_path")
            || module.name == "template" && variable.starts_with(LOOP_VARIABLE)
    };
    value.starts_with('/') || variable.is_some_and(|variable| !is_known(variable))
}
