//! The modules of the host's Ansible.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Modules that are a part of the program.
const INTERNAL: [&str; 2] = ["include", "meta"];

/// Prefixes of the modules that names without a collection refer to.
const BUILTIN: [&str; 2] = ["ansible.builtin.", "ansible.legacy."];

/// The directory of modules of the host, beside those of Ansible itself.
const SHARED: &str = "/usr/share/ansible/plugins/modules";

/// The modules of the host's Ansible.
#[derive(Debug)]
pub(super) struct HostModules {
    /// The directory of the Python package.
    package: PathBuf,
    /// The names of modules and actions in it.
    names: BTreeSet<String>,
}

impl HostModules {
    /// Finds the Python package that belongs to the first `ansible-playbook` in `PATH`.
    pub(super) fn find() -> Option<Self> {
        let path = std::env::var_os("PATH")?;
        let programs = std::env::split_paths(&path).map(|folder| folder.join("ansible-playbook"));
        let program = fs::canonicalize(programs.into_iter().find(|path| path.is_file())?).ok()?;
        let lib = program.parent()?.parent()?.join("lib");
        let pythons = fs::read_dir(lib).ok()?.flatten().map(|entry| entry.path());
        let pythons = pythons.filter(|path| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("python3"))
        });
        let packages = pythons.flat_map(|python| {
            ["dist-packages", "site-packages"].map(|part| python.join(part).join("ansible"))
        });
        let mut found: Vec<_> =
            packages.filter(|package| package.join("modules/command.py").is_file()).collect();
        // Of several, it is not known which one runs.
        let package = found.pop().filter(|_| found.is_empty())?;
        let mut names = BTreeSet::new();
        for folder in [package.join("modules"), package.join("plugins/action"), SHARED.into()] {
            add_names(&folder, &mut names);
        }
        Some(Self { package, names })
    }

    /// Returns whether Ansible certainly has no module or action of this name. A name with a
    /// collection may be one of a collection that is installed anywhere.
    pub(super) fn lack(&self, name: &str) -> bool {
        let name = BUILTIN.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name);
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.is_empty() || !name.chars().all(is_plain) || INTERNAL.contains(&name) {
            return false;
        }
        !self.names.contains(name.trim_start_matches('_')) && !self.is_redirected(name)
    }

    /// Returns whether the name is one of a module that has moved to a collection.
    fn is_redirected(&self, name: &str) -> bool {
        let routing = self.package.join("config/ansible_builtin_runtime.yml");
        // Without the list, any name may be in it.
        fs::read_to_string(routing).map_or(true, |text| {
            text.lines().any(|line| line.trim().strip_suffix(':') == Some(name))
        })
    }
}

/// Adds the names of the plugins in a directory and below, in any language. Those that are
/// deprecated begin with an underscore.
fn add_names(folder: &Path, names: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            add_names(&path, names);
        } else if let Some(stem) = path.file_stem() {
            names.insert(stem.to_string_lossy().trim_start_matches('_').to_owned());
        }
    }
}
