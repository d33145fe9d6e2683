//! Reads the files of a role in which tasks and variables are.

use std::fs;
use std::path::{Path, PathBuf};

use crate::ansible::used_roles::UsedRoles;
use crate::config::error::Mistake;
use crate::config::{ConfigError, YamlDocument, YamlValue};
use crate::folder::{Folder, FolderItemKind};

/// Maximum size of a file that is read, in bytes: hand-written files are smaller.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// The files of a role and of the roles that it names.
#[derive(Debug)]
pub(super) struct RoleFiles {
    pub(super) files: Vec<RoleFile>,
    /// The directories of the roles, the first role first, with their prefixes.
    pub(super) roles: Vec<(PathBuf, String)>,
    /// Whether other roles may run too, or the role has modules of its own, which may define
    /// variables.
    pub(super) is_incomplete: bool,
    /// Whether a file has the key `collections`, with which other roles may be named.
    pub(super) has_collections: bool,
}

/// A file of a role.
#[derive(Debug)]
pub(super) struct RoleFile {
    pub(super) path: PathBuf,
    /// The same without links and `..`.
    canonical: PathBuf,
    /// The directory of its role.
    pub(super) role: PathBuf,
    pub(super) text: String,
    pub(super) content: RoleFileContent,
}

/// The content of a file, by the directory of the role that it is in.
#[derive(Debug)]
pub(super) enum RoleFileContent {
    Tasks(YamlDocument),
    /// Variables of `defaults/main.yml`.
    Defaults(YamlDocument),
    /// Variables of `vars/main.yml`.
    Variables(YamlDocument),
    /// Variables that a task may include.
    OtherVariables(YamlDocument),
    /// Dependencies of `meta/`.
    Meta(YamlDocument),
    Template,
    /// A task file that Ansible cannot read, either.
    Mistake {
        line: usize,
        problem: String,
    },
}

/// Directories of a role that are read.
const PARTS: [&str; 6] = ["defaults", "vars", "meta", "tasks", "handlers", "templates"];

/// Start of files that are encrypted.
const VAULT: &str = "$ANSIBLE_VAULT";

impl RoleFiles {
    /// Reads the files of the role in `folder` and of the roles that it names. Ignores files that
    /// are not valid YAML or not text.
    pub(super) fn read(folder: &Path) -> Result<Self, ConfigError> {
        let used = UsedRoles::find(folder)?;
        let roles = used.roles.iter().map(|role| (role.folder.clone(), role.prefix.clone()));
        let mut found = Self {
            files: Vec::new(),
            roles: roles.collect(),
            is_incomplete: !used.is_complete,
            has_collections: false,
        };
        for role in &used.roles {
            let folder = Folder::from_host(&role.folder);
            let plugins = ["library", "action_plugins", "vars_plugins"];
            found.is_incomplete |= plugins.iter().any(|part| folder.is_dir(Path::new(part)));
            for part in PARTS.iter().filter(|part| folder.is_dir(Path::new(part))) {
                for item in folder.walk(Path::new(part))? {
                    if matches!(item.kind, FolderItemKind::File { .. } | FolderItemKind::Symlink(_))
                    {
                        found.add(&role.folder.join(&item.path), &role.folder, part);
                    }
                }
            }
            for path in role.outside.iter().filter(|path| path.is_file()) {
                found.add(path, &role.folder, "");
            }
        }
        Ok(found)
    }

    /// Returns whether a role of this name may exist although it is not in the roles path: in a
    /// collection, if the name has dots or a file has `collections`, or in the role `by`.
    pub(super) fn may_be_elsewhere(&self, by: &Path, name: &str) -> bool {
        let is_plain = name.chars().all(|c| c.is_alphanumeric() || "_-/".contains(c));
        let places = [by.join(name), by.join("roles").join(name)];
        !is_plain || self.has_collections || places.iter().any(|place| place.exists())
    }

    /// Returns the file at a path.
    pub(super) fn file(&self, path: &Path) -> Option<&RoleFile> {
        let path = fs::canonicalize(path).ok()?;
        self.files.iter().find(|file| file.canonical == path)
    }

    /// Returns a file of a part of a role, such as `tasks/main.yml`.
    pub(super) fn main(&self, role: &Path, part: &str, name: &str) -> Option<&RoleFile> {
        let names = [format!("{name}.yml"), format!("{name}.yaml"), name.to_owned()];
        names.iter().find_map(|name| self.file(&role.join(part).join(name)))
    }

    fn add(&mut self, path: &Path, role: &Path, part: &str) {
        if fs::metadata(path).is_ok_and(|meta| meta.is_dir()) {
            return;
        }
        let small = fs::metadata(path).is_ok_and(|m| m.is_file() && m.len() <= MAX_FILE_BYTES);
        let Some(text) = small.then(|| fs::read_to_string(path).ok()).flatten() else {
            self.is_incomplete |= !part.is_empty() && part != "templates";
            return;
        };
        self.has_collections |= part != "templates" && text.contains("collections");
        let mut mistake = None;
        let mut document = || match YamlDocument::parse_ansible(path, text.clone()) {
            Ok(document) => Some(document),
            Err(error) => {
                mistake = Some(error);
                None
            }
        };
        let is_yaml = path.extension().is_none_or(|e| e == "yml" || e == "yaml");
        let is_main = is_main(path, &role.join(part));
        let content = match part {
            "templates" => Some(RoleFileContent::Template),
            // A file of variables may also be JSON, or encrypted.
            _ if !is_yaml || text.starts_with(VAULT) => {
                self.is_incomplete |= !part.is_empty() && part != "meta";
                None
            }
            "defaults" if is_main => document().map(RoleFileContent::Defaults),
            "vars" if is_main => document().map(RoleFileContent::Variables),
            "defaults" | "vars" => document().map(RoleFileContent::OtherVariables),
            "meta" if is_main => document().map(RoleFileContent::Meta),
            "meta" => None,
            "tasks" | "handlers" => document().map(RoleFileContent::Tasks),
            // A file outside is included as tasks or as variables, or is a template.
            _ => document().map(|document| match document.root.value {
                YamlValue::Map(_) => RoleFileContent::OtherVariables(document),
                _ => RoleFileContent::Tasks(document),
            }),
        };
        self.is_incomplete |= mistake.is_some();
        let content = content.or_else(|| match (mistake, part) {
            (Some(ConfigError::Mistake(mistake)), "tasks") => python_mistake(&mistake),
            (None, "") => Some(RoleFileContent::Template),
            _ => None,
        });
        if let Some(content) = content {
            let canonical = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
            let (path, role) = (path.to_owned(), role.to_owned());
            self.files.push(RoleFile { path, canonical, role, text, content });
        }
    }
}

/// Returns whether Ansible reads a file of a part of a role by itself.
fn is_main(path: &Path, part: &Path) -> bool {
    let path = path.strip_prefix(part).unwrap_or(path);
    let first = path.iter().next().and_then(|name| name.to_str());
    first
        .is_some_and(|name| name == "main" || path.iter().count() == 1 && name.starts_with("main."))
}

/// Returns the mistake of a file if Python's parser, which differs in details, rejects it too.
fn python_mistake(mistake: &Mistake) -> Option<RoleFileContent> {
    let is_template = mistake.source_line.contains("{{");
    let problem = match mistake.problem.as_ref() {
        "a key must be a scalar" if is_template => {
            "a value that begins with `{{` needs quotes in YAML".to_owned()
        }
        problem if problem.contains("mapping values are not allowed") => {
            format!("invalid YAML: {problem}")
        }
        _ => return None,
    };
    Some(RoleFileContent::Mistake { line: mistake.line, problem })
}
