//! Converts variables of an on-imagebuilder tree to settings of a project.

use std::collections::BTreeMap;
use std::path::PathBuf;

use minijinja::{Environment, UndefinedBehavior, Value as Jinja};

use crate::config::YamlNode;
use crate::config::yaml_1_1::float_text;
use crate::variables::Variable;

/// A variable of a group or host.
#[derive(Debug, Clone)]
pub(super) struct Global {
    pub(super) name: String,
    pub(super) value: YamlNode,
    /// The file that sets it, relative to the tree's directory.
    pub(super) file: PathBuf,
}

impl Global {
    /// Returns whether this variable is one of others, with the same value.
    pub(super) fn is_in(&self, others: &[Self]) -> bool {
        let value = Variable::parse_yaml_1_1(&self.value);
        others.iter().any(|other| {
            other.name == self.name
                && other.value.tag == self.value.tag
                && Variable::parse_yaml_1_1(&other.value) == value
        })
    }
}

/// The values of variables by name, which may be templates. Variables of an image override those
/// for all images.
#[derive(Debug)]
pub(super) struct TreeVariables {
    values: BTreeMap<String, String>,
}

/// Maximum number of times that the result of a template is rendered again.
const MAX_RENDERS: usize = 10;
/// Maximum length of a text to render, in bytes. A variable that names itself twice doubles in size
/// with each rendering.
const MAX_TEMPLATE_BYTES: usize = 4096;

impl TreeVariables {
    /// Reads variables in order of increasing precedence, then those of an image.
    pub(super) fn new<'a>(
        globals: impl IntoIterator<Item = &'a Global>,
        own: &[(String, YamlNode)],
    ) -> Self {
        let all = globals.into_iter().map(|global| (&global.name, &global.value));
        let own = own.iter().map(|(name, value)| (name, value));
        let mut values = BTreeMap::new();
        for (name, node) in all.chain(own) {
            if let Some(text) = text_of(node) {
                values.insert(name.clone(), text);
            }
        }
        Self { values }
    }

    /// Returns the text of a variable, without rendering it.
    pub(super) fn raw(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// Returns the rendered value of a variable; `None` if it is empty or uses unknown variables.
    pub(super) fn get(&self, name: &str) -> Option<String> {
        self.render(self.raw(name)?).filter(|value| !value.trim().is_empty())
    }

    /// Renders the templates in a text; returns `None` if they use unknown variables.
    pub(super) fn render(&self, text: &str) -> Option<String> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        let context = Jinja::from(self.values.clone());
        let mut text = text.to_owned();
        for _ in 0..MAX_RENDERS {
            if !text.contains("{{") && !text.contains("{%") {
                return Some(text);
            }
            if text.len() > MAX_TEMPLATE_BYTES {
                return None;
            }
            text = environment.render_str(&text, &context).ok()?;
        }
        None
    }
}

/// Returns a scalar as a template of Ansible writes it.
fn text_of(node: &YamlNode) -> Option<String> {
    match Variable::parse_yaml_1_1(node) {
        Variable::Text(text) => Some(text),
        Variable::Integer(number) => Some(number.to_string()),
        Variable::Float(number) => Some(float_text(number)),
        Variable::Bool(true) => Some("True".to_owned()),
        Variable::Bool(false) => Some("False".to_owned()),
        Variable::Null | Variable::List(_) | Variable::Map(_) => None,
    }
}

/// Settings of a project, or of one of its images, as far as the variables set them.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct ImportedSettings {
    pub(super) release: Option<String>,
    pub(super) archive: Option<DebianArchive>,
    pub(super) components: Vec<String>,
    pub(super) architecture: Option<String>,
    pub(super) variant: Option<&'static str>,
    /// Packages to install with the root.
    pub(super) packages: Vec<String>,
}

/// The archive that packages come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum DebianArchive {
    /// The name of a host with Debian at `/debian`.
    Server(String),
    /// A URL.
    Mirror(String),
}

/// Variables that are converted to settings and names of files.
pub(super) const CONVERTED_VARIABLES: [&str; 11] = [
    "apt_server",
    "debootstrap_apt_server",
    "debootstrap_release",
    "debootstrap_arch",
    "debootstrap_variant",
    "debootstrap_components",
    "ansible_dependencies",
    "build_root",
    "build_artifact_path",
    "basefs_image_name",
    "overlayfs_archive_name",
];

/// Variables that only the wrapper playbooks used.
pub(super) const WRAPPER_VARIABLES: [&str; 10] = [
    "build_root_size",
    "build_root_build_size",
    "overlayfs_lower_dir",
    "overlayfs_upper_dir",
    "overlayfs_work_dir",
    "squashfs_image_path",
    "kernel_major",
    "kernel_minor",
    "basefs_exclude_packages",
    "initrd_build_env_exclude_packages",
];

/// Returns whether a variable is the path of the root of one kind of image, which is `build_root`
/// here.
pub(super) fn is_build_root(name: &str) -> bool {
    matches!(
        name,
        "basefs_build_root"
            | "overlayfs_build_root"
            | "initrd_build_root"
            | "initrd_build_env_root"
    )
}

/// Returns whether a variable is one of on-imagebuilder itself, and not of roles.
pub(super) fn is_of_wrappers(name: &str) -> bool {
    is_build_root(name) || CONVERTED_VARIABLES.contains(&name) || WRAPPER_VARIABLES.contains(&name)
}

impl DebianArchive {
    /// Returns whether it is one of Ubuntu.
    pub(super) fn is_ubuntu(&self) -> bool {
        matches!(self, Self::Mirror(url) if url.contains("ubuntu"))
    }
}

impl ImportedSettings {
    pub(super) fn new(scope: &TreeVariables) -> Self {
        let word = |name: &str| scope.get(name).filter(|word| !word.contains(char::is_whitespace));
        Self {
            release: word("debootstrap_release").filter(|word| !word.starts_with('-')),
            archive: archive(scope),
            components: list(scope.get("debootstrap_components")),
            architecture: word("debootstrap_arch"),
            variant: scope.raw("debootstrap_variant").and_then(variant),
            packages: packages(list(scope.get("ansible_dependencies"))),
        }
    }
}

fn archive(scope: &TreeVariables) -> Option<DebianArchive> {
    let clean = |text: &String| !text.contains(char::is_whitespace);
    if let Some(url) = scope.get("debootstrap_apt_server").filter(clean) {
        let url = url.trim_end_matches('/');
        let host = url.strip_prefix("http://").and_then(|rest| rest.strip_suffix("/debian"));
        return Some(match host.filter(|host| !host.contains('/')) {
            Some(host) => DebianArchive::Server(host.to_owned()),
            None => DebianArchive::Mirror(url.to_owned()),
        });
    }
    let server = scope.get("apt_server").filter(clean)?;
    Some(match server.split_once("://") {
        Some(_) => DebianArchive::Mirror(server),
        None if server.contains('/') => DebianArchive::Mirror(format!("http://{server}")),
        None => DebianArchive::Server(server),
    })
}

/// Converts a variant of debootstrap to one of mmdebstrap. The default variant of debootstrap is
/// mmdebstrap's `important`.
fn variant(written: &str) -> Option<&'static str> {
    match written.trim().trim_start_matches("--variant=") {
        "" => Some("important"),
        "minbase" => Some("minbase"),
        "buildd" => Some("buildd"),
        _ => None,
    }
}

/// Returns the packages under their current names, and the packages that Ansible needs in a root.
fn packages(named: Vec<String>) -> Vec<String> {
    let mut found = Vec::new();
    for name in named.iter().map(String::as_str).chain(["python3", "python3-apt"]) {
        let name = match name {
            "python" | "python-minimal" | "python2.7" => "python3",
            "python-apt" => "python3-apt",
            other => other,
        };
        if !found.iter().any(|other| other == name) {
            found.push(name.to_owned());
        }
    }
    found
}

fn list(text: Option<String>) -> Vec<String> {
    let text = text.unwrap_or_default();
    let words = text.split([',', ' ']).map(str::trim).filter(|word| !word.is_empty());
    words.map(str::to_owned).collect()
}
