//! What an on-imagebuilder tree's variables say that overcoat has words of its own for.

use std::collections::BTreeMap;

use minijinja::{Environment, UndefinedBehavior, Value as Jinja};

use super::tree::Global;
use crate::config::{Node, Value};

/// Variables by name, those of one image over those for all, as text that may have templates in it.
#[derive(Debug)]
pub(super) struct Scope<'a> {
    values: BTreeMap<&'a str, &'a str>,
}

/// How often templates are looked for in what templates gave.
const MAX_ROUNDS: usize = 10;

impl<'a> Scope<'a> {
    pub(super) fn new(globals: &'a [Global], own: &'a [(String, Node)]) -> Self {
        let all = globals.iter().map(|global| (&global.name, &global.value));
        let own = own.iter().map(|(name, value)| (name, value));
        let scalar = |(name, node): (&'a String, &'a Node)| match &node.value {
            Value::Scalar { text, .. } if !node.is_null() => Some((name.as_str(), text.as_str())),
            _ => None,
        };
        Self { values: all.chain(own).filter_map(scalar).collect() }
    }

    /// A variable as it is written.
    pub(super) fn raw(&self, name: &str) -> Option<&str> {
        self.values.get(name).copied()
    }

    /// A variable's value, if all that it names is known here.
    pub(super) fn get(&self, name: &str) -> Option<String> {
        self.resolve(self.raw(name)?).filter(|value| !value.trim().is_empty())
    }

    /// A text with its templates rendered, if all that they name is known here.
    pub(super) fn resolve(&self, text: &str) -> Option<String> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        let values =
            self.values.iter().map(|(name, value)| ((*name).to_owned(), Jinja::from(*value)));
        let context = Jinja::from(values.collect::<BTreeMap<String, Jinja>>());
        let mut text = text.to_owned();
        for _ in 0..MAX_ROUNDS {
            if !text.contains("{{") && !text.contains("{%") {
                return Some(text);
            }
            // A variable that names itself doubles with each round.
            if text.len() > 4096 {
                return None;
            }
            text = environment.render_str(&text, &context).ok()?;
        }
        None
    }
}

/// What goes into the keys of a project, or of one of its images. Nothing where nothing is said.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) release: Option<String>,
    pub(super) archive: Option<Archive>,
    pub(super) components: Vec<String>,
    pub(super) architecture: Option<String>,
    pub(super) variant: Option<&'static str>,
    /// Packages that the root is made with.
    pub(super) packages: Vec<String>,
}

/// Where packages come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Archive {
    /// The name of a host that has Debian at `/debian`.
    Server(String),
    /// A URL.
    Mirror(String),
}

/// The variables that [`Settings`] and the names of files are taken from.
pub(super) const TAKEN: [&str; 11] = [
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

/// Variables that the wrapper playbooks alone needed.
pub(super) const OF_WRAPPERS: [&str; 10] = [
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

/// Where the original has the root of one kind of image: what `build_root` is here.
pub(super) fn is_build_root(name: &str) -> bool {
    matches!(
        name,
        "basefs_build_root"
            | "overlayfs_build_root"
            | "initrd_build_root"
            | "initrd_build_env_root"
    )
}

impl Settings {
    pub(super) fn of(scope: &Scope<'_>) -> Self {
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

fn archive(scope: &Scope<'_>) -> Option<Archive> {
    let clean = |text: &String| !text.contains(char::is_whitespace);
    if let Some(url) = scope.get("debootstrap_apt_server").filter(clean) {
        let url = url.trim_end_matches('/');
        let host = url.strip_prefix("http://").and_then(|rest| rest.strip_suffix("/debian"));
        return Some(match host.filter(|host| !host.contains('/')) {
            Some(host) => Archive::Server(host.to_owned()),
            None => Archive::Mirror(url.to_owned()),
        });
    }
    let server = scope.get("apt_server").filter(clean)?;
    Some(match server.split_once("://") {
        Some(_) => Archive::Mirror(server),
        None if server.contains('/') => Archive::Mirror(format!("http://{server}")),
        None => Archive::Server(server),
    })
}

/// debootstrap's variant in mmdebstrap's words. Without one, debootstrap installs what mmdebstrap
/// calls `important`.
fn variant(written: &str) -> Option<&'static str> {
    match written.trim().trim_start_matches("--variant=") {
        "" => Some("important"),
        "minbase" => Some("minbase"),
        "buildd" => Some("buildd"),
        _ => None,
    }
}

/// What Ansible needs in a root, by today's names.
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
