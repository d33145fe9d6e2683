//! Reads the files of a role in which tasks and variables are.

use std::fs;
use std::path::{Path, PathBuf};

use crate::ansible::used_roles::UsedRoles;
use crate::config::{ConfigError, YamlDocument, YamlValue};
use crate::folder::{Folder, FolderItemKind};

/// Maximum size of a file that is read, in bytes: hand-written files are smaller.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// The files of a role and of the roles that it names.
#[derive(Debug)]
pub(super) struct RoleFiles {
    pub(super) files: Vec<RoleFile>,
    /// Whether other roles may run too, or the role has modules of its own, which may define
    /// variables.
    pub(super) is_incomplete: bool,
}

/// A file of a role.
#[derive(Debug)]
pub(super) struct RoleFile {
    pub(super) path: PathBuf,
    /// The directory of its role.
    pub(super) role: PathBuf,
    pub(super) text: String,
    pub(super) content: RoleFileContent,
}

/// The content of a file, by the directory of the role that it is in.
#[derive(Debug)]
pub(super) enum RoleFileContent {
    Tasks(YamlDocument),
    /// Variables of `defaults/`.
    Defaults(YamlDocument),
    /// Variables of `vars/`.
    Variables(YamlDocument),
    /// Dependencies of `meta/`.
    Meta(YamlDocument),
    Template,
}

/// Directories of a role that are read.
const PARTS: [&str; 6] = ["defaults", "vars", "meta", "tasks", "handlers", "templates"];

impl RoleFiles {
    /// Reads the files of the role in `folder` and of the roles that it names. Ignores files that
    /// are not valid YAML or not text.
    pub(super) fn read(folder: &Path) -> Result<Self, ConfigError> {
        let used = UsedRoles::find(folder)?;
        let mut found = Self { files: Vec::new(), is_incomplete: !used.is_complete };
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

    fn add(&mut self, path: &Path, role: &Path, part: &str) {
        let small = fs::metadata(path).is_ok_and(|m| m.is_file() && m.len() <= MAX_FILE_BYTES);
        let Some(text) = small.then(|| fs::read_to_string(path).ok()).flatten() else { return };
        let mut is_read = true;
        let mut document = || {
            let document = YamlDocument::parse(path, text.clone()).ok();
            is_read &= document.is_some();
            document
        };
        let is_yaml = path.extension().is_none_or(|e| e == "yml" || e == "yaml");
        let content = match part {
            "templates" => Some(RoleFileContent::Template),
            // A file of variables may also be JSON.
            _ if !is_yaml => {
                self.is_incomplete |= part == "vars" || part == "defaults";
                None
            }
            "defaults" => document().map(RoleFileContent::Defaults),
            "vars" => document().map(RoleFileContent::Variables),
            "meta" => document().map(RoleFileContent::Meta),
            "tasks" | "handlers" => document().map(RoleFileContent::Tasks),
            // A file outside is included as tasks or as variables.
            _ => document().map(|document| match document.root.value {
                YamlValue::Map(_) => RoleFileContent::Variables(document),
                _ => RoleFileContent::Tasks(document),
            }),
        };
        // Ansible reads tags such as `!vault`, encrypted files and duplicate keys.
        self.is_incomplete |= !is_read;
        if let Some(content) = content {
            let (path, role) = (path.to_owned(), role.to_owned());
            self.files.push(RoleFile { path, role, text, content });
        }
    }
}
