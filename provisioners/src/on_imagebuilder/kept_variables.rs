//! Decides which variables of groups and hosts a project keeps.

use std::collections::BTreeSet;

use super::settings::{self, Global};
use super::tree::{self, Config, ImagebuilderTree};
use super::yaml_writer::{entry, has_word, is_name};

/// How a variable of groups and hosts is converted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Conversion {
    /// It becomes a variable of the project or of images.
    Keep,
    /// It becomes another name of `build_root`.
    BuildRoot,
    /// It is left out because overcoat sets it.
    SetByOvercoat,
    /// It is left out because no role uses it.
    Unused,
    /// It is left out because no variable can have its name.
    Invalid,
}

impl Conversion {
    /// Decides about a variable. `used` is the text that may use variables.
    pub(super) fn of(global: &Global, used: &str) -> Self {
        let name = global.name.as_str();
        // overcoat sets the variables of the connection to the root.
        let of_ansible = name.starts_with("ansible_") && name != "ansible_dependencies";
        if matches!(name, "build_root" | "build_artifact_path") || of_ansible {
            return Self::SetByOvercoat;
        }
        if !is_name(name) {
            return Self::Invalid;
        }
        let is_root = settings::is_build_root(name);
        match has_word(used, name) {
            true if is_root => Self::BuildRoot,
            false if settings::is_of_wrappers(name) => Self::Unused,
            _ => Self::Keep,
        }
    }

    /// Returns the lines of a variable that is kept.
    pub(super) fn lines(self, global: &Global, indent: usize) -> Option<String> {
        match self {
            Self::Keep => Some(entry(&global.name, &global.value, indent)),
            Self::BuildRoot => {
                let margin = " ".repeat(indent);
                Some(format!("{margin}{}: \"{{{{ build_root }}}}\"\n", global.name))
            }
            Self::SetByOvercoat | Self::Unused | Self::Invalid => None,
        }
    }
}

/// Returns all texts that may use a variable: the roles of these images, their config files, and
/// the variables of their hosts that are kept.
pub(super) fn texts_with_variables(tree: &ImagebuilderTree, images: &[&Config]) -> String {
    let mut text = String::new();
    let roles = tree.files_of_images().unwrap_or_default();
    for file in roles.iter().chain(images.iter().map(|config| &config.file)) {
        text.push_str(&tree::text(&tree.folder, file).unwrap_or_default());
        text.push('\n');
    }
    for (_, value) in images.iter().flat_map(|config| tree.parameters_of(config).0) {
        text.push_str(&entry("value", value, 0));
    }
    // A kept variable may use others, which must be kept too.
    let mut kept = BTreeSet::new();
    loop {
        let mut more = String::new();
        for (index, config) in images.iter().enumerate() {
            for global in &config.of_host {
                if Conversion::of(global, &text) == Conversion::Keep
                    && kept.insert((index, global.name.as_str()))
                    && !(index > 0 && global.is_in(&tree.globals))
                {
                    more.push_str(&entry("value", &global.value, 0));
                }
            }
        }
        if more.is_empty() {
            return text;
        }
        text.push_str(&more);
    }
}
