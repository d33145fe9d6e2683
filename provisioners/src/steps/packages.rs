//! The step that installs packages with apt, without prompts and with options that save time.
//!
//! The options do not change the resulting tree, except for caches that the clean-up removes.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};

use super::{StepContext, StepError};
use crate::config::error::Mistake;
use crate::config::{Fields, YamlNode, YamlValue};
use crate::evaluate::WHEN_KEY;
use crate::folder::Folder;
use crate::machine::{Command, Kind, Machine, MachineError};

/// The program of apt.
const APT_GET: &str = "/usr/bin/apt-get";

/// The problem of an image without apt.
const NO_APT: &str = "the image has no /usr/bin/apt-get, which installs and removes packages";

/// Options of every apt command.
const APT_OPTIONS: &[&str] = &[
    "-y",
    "-q",
    // Keep only one of the two binary caches, srcpkgcache: rebuilding pkgcache from it is faster
    // than writing and reading it. Update and install on Debian's lists take 2.7 s of CPU with
    // both caches, 2.1 s with srcpkgcache alone, and 2.5 s with neither.
    "-oDir::Cache::pkgcache=",
    // Descriptions of packages are a third of the lists and unused here.
    "-oAcquire::Languages=none",
    "-oAcquire::Retries=3",
    // Without this, an unreachable mirror only causes a warning, and apt uses the old lists.
    "-oAPT::Update::Error-Mode=any",
    // The user _apt can read neither scratch files nor bind-mounted directories.
    "-oAPT::Sandbox::User=root",
    "-oDPkg::Use-Pty=0",
    // Keep existing configuration files, of the base or the provisioner.
    "-oDpkg::Options::=--force-confdef",
    "-oDpkg::Options::=--force-confold",
    // The root is in memory, so syncing is useless.
    "-oDpkg::Options::=--force-unsafe-io",
];

/// The environment of apt and of maintainer scripts.
pub(crate) const APT_ENVIRONMENT: &[(&str, &str)] = &[
    ("DEBIAN_FRONTEND", "noninteractive"),
    ("DEBCONF_NONINTERACTIVE_SEEN", "true"),
    ("APT_LISTCHANGES_FRONTEND", "none"),
    ("NEEDRESTART_SUSPEND", "1"),
    ("UCF_FORCE_CONFFOLD", "1"),
    ("LC_ALL", "C.UTF-8"),
];

/// Suffix of a local package.
const DEB_SUFFIX: &str = ".deb";

/// The packages to install.
#[derive(Debug, Clone, Default)]
pub(crate) struct PackageList {
    wanted: Vec<RequestedPackage>,
    pub(crate) recommends: bool,
    pub(crate) update: Option<bool>,
}

#[derive(Debug, Clone)]
enum RequestedPackage {
    /// A package of the repositories in apt's syntax: the name, with version or release.
    Named(String),
    /// A file of the provisioner.
    Local(Folder, PathBuf),
}

/// The hash of the sources for which this run fetched package lists.
#[derive(Debug, Default)]
pub(crate) struct FetchedLists(Option<u64>);

impl PackageList {
    /// Reads the list of packages of a base, which mmdebstrap installs with the root.
    pub(crate) fn parse_for_base(node: &YamlNode, folder: &Path) -> Result<Self, Box<Mistake>> {
        if let Some(when) = node.list()?.iter().find_map(|node| node.get(WHEN_KEY)) {
            return Err(when.mistake("only packages of a provisioner can have conditions"));
        }
        let is_local = |node: &&YamlNode| match &node.value {
            YamlValue::Scalar { text, .. } => text.ends_with(DEB_SUFFIX),
            _ => false,
        };
        if let Some(node) = node.list()?.iter().find(is_local) {
            return Err(node.mistake_with_help(
                "only a provisioner can install a local package",
                "name it in the `packages` of a provisioner",
            ));
        }
        Self::parse(node, &Folder::from_host(folder))
    }

    /// Reads the list of packages of a provisioner.
    pub(crate) fn parse(node: &YamlNode, folder: &Folder) -> Result<Self, Box<Mistake>> {
        let wanted = node.list()?.iter().map(|n| package(n, folder)).collect::<Result<_, _>>()?;
        Ok(Self { wanted, ..Self::default() })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.wanted.is_empty() && self.update != Some(true)
    }

    pub(crate) fn name(&self) -> String {
        match self.wanted.len() {
            0 if !self.is_empty() => "package lists".to_owned(),
            n => format!("packages ({n})"),
        }
    }

    /// Returns the packages of the repositories, in apt's syntax.
    pub(crate) fn names(&self) -> Vec<String> {
        self.wanted
            .iter()
            .filter_map(|package| match package {
                RequestedPackage::Named(name) => Some(name.clone()),
                RequestedPackage::Local(..) => None,
            })
            .collect()
    }

    /// Returns the local packages, relative to the provisioner's directory.
    pub(crate) fn files(&self) -> impl Iterator<Item = &Path> {
        self.wanted.iter().filter_map(|package| match package {
            RequestedPackage::Named(_) => None,
            RequestedPackage::Local(_, path) => Some(path.as_path()),
        })
    }

    pub(crate) fn check(&self) -> Result<(), StepError> {
        for package in &self.wanted {
            if let RequestedPackage::Local(folder, path) = package {
                folder.open(path)?;
            }
        }
        Ok(())
    }

    pub(crate) fn run(&self, context: &mut StepContext<'_>) -> Result<(), StepError> {
        require_apt(context.machine)?;
        let mut install = apt("install");
        if !self.recommends {
            install = install.arg("--no-install-recommends");
        }
        for package in &self.wanted {
            install = match package {
                RequestedPackage::Named(name) => install.arg(name),
                RequestedPackage::Local(folder, path) => {
                    install.arg(copy_to_scratch(context.machine, folder, path)?)
                }
            };
        }
        let sources = sources(context.machine)?;
        if self.update.unwrap_or(context.apt.0 != Some(sources)) {
            context.command("apt-get update", &apt("update"))?;
            context.apt.0 = Some(sources);
        }
        if self.wanted.is_empty() {
            return Ok(());
        }
        context.command("apt-get install", &install)
    }
}

/// Fetches the package lists, at the first attempt only, unless this run has fetched them. Returns
/// the reason if they are not there.
pub(super) fn update_lists(
    machine: &mut dyn Machine,
    lists: &mut FetchedLists,
) -> Result<Result<(), String>, StepError> {
    if machine.stat(Path::new(APT_GET))?.is_none() {
        return Ok(Err(NO_APT.to_owned()));
    }
    let sources = sources(machine)?;
    if lists.0 != Some(sources) {
        let update = apt("update").args(["-oAcquire::Retries=0", "-oAcquire::http::Timeout=10"]);
        let mut output = Vec::new();
        let status = machine.run(&update, &mut output)?;
        if !status.success() {
            let error = first_error(&String::from_utf8_lossy(&output));
            return Ok(Err(error.unwrap_or_else(|| format!("apt-get update failed ({status})"))));
        }
        lists.0 = Some(sources);
    }
    Ok(Ok(()))
}

/// Returns the first error in the output of apt, or else the first warning.
pub(super) fn first_error(output: &str) -> Option<String> {
    let first = |label: &str| output.lines().find_map(|line| line.strip_prefix(label));
    first("E: ").or_else(|| first("W: ")).map(|line| line.trim().to_owned())
}

/// Checks that the image has apt.
pub(super) fn require_apt(machine: &dyn Machine) -> Result<(), StepError> {
    if machine.stat(Path::new(APT_GET))?.is_some() {
        return Ok(());
    }
    Err(StepError::Impossible(NO_APT.into()))
}

fn package(node: &YamlNode, folder: &Folder) -> Result<RequestedPackage, Box<Mistake>> {
    if let YamlValue::Map(_) = &node.value {
        let fields = Fields::new(node, "a package")?;
        let name = fields.require("name", "write `{name: ipmitool, version: \"1.8.19-4\"}`")?;
        let version = fields.get("version").map(|n| n.text("a version")).transpose()?;
        let release = fields.get("release").map(|n| n.text("a release")).transpose()?;
        fields.get(WHEN_KEY);
        fields.finish()?;
        let text = check_name(name, name.text("the name of a package")?)?;
        return match (version, release) {
            (Some(_), Some(_)) => {
                Err(node.mistake("a package can have a version or a release, not both"))
            }
            (Some(version), None) => Ok(RequestedPackage::Named(format!("{text}={version}"))),
            (None, Some(release)) => Ok(RequestedPackage::Named(format!("{text}/{release}"))),
            (None, None) => Ok(RequestedPackage::Named(text.to_owned())),
        };
    }
    let text = node.text("the name of a package")?;
    if text.ends_with(DEB_SUFFIX) {
        if !folder.is_file(Path::new(text)) {
            return Err(node.mistake(format!("there is no file `{text}` in {folder}")));
        }
        return Ok(RequestedPackage::Local(folder.clone(), text.into()));
    }
    Ok(RequestedPackage::Named(check_name(node, text)?.to_owned()))
}

/// Rejects names that apt would interpret as something else: an option, a pattern, or a removal
/// (`name-`).
pub(super) fn check_name<'a>(node: &YamlNode, text: &'a str) -> Result<&'a str, Box<Mistake>> {
    let name = text.split(['=', '/']).next().unwrap_or_default();
    let bare = name.split(':').next().unwrap_or_default();
    let valid = bare.len() > 1
        && bare.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        && bare.bytes().all(|b| {
            b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.')
        })
        && !bare.ends_with('-')
        && !text.contains(char::is_whitespace);
    if valid {
        return Ok(text);
    }
    let help = if text.contains(char::is_whitespace) {
        "write one package per line"
    } else {
        "a name has lower-case letters, digits, `+`, `-` and `.`; a local package ends in .deb"
    };
    Err(node.mistake_with_help(format!("invalid package name `{text}`"), help))
}

/// Returns an apt-get command with [`APT_OPTIONS`] and [`APT_ENVIRONMENT`].
pub(super) fn apt(action: &str) -> Command {
    let mut command = Command::new("apt-get").args(APT_OPTIONS).arg(action);
    for (name, value) in APT_ENVIRONMENT {
        command = command.env(name, value);
    }
    command
}

/// Copies a local package to a scratch file and returns its path inside the root.
fn copy_to_scratch(
    machine: &mut dyn Machine,
    folder: &Folder,
    path: &Path,
) -> Result<PathBuf, StepError> {
    let mut file = folder.open(path)?;
    let name = path.file_name().unwrap_or(path.as_os_str());
    Ok(machine.scratch(&Path::new("debs").join(name), &mut file, 0o644)?)
}

/// Returns a hash of apt's source lists.
fn sources(machine: &dyn Machine) -> Result<u64, MachineError> {
    let mut hasher = DefaultHasher::new();
    machine.read(Path::new("/etc/apt/sources.list"))?.hash(&mut hasher);
    let folder = Path::new("/etc/apt/sources.list.d");
    let mut entries = machine.list(folder)?;
    entries.sort();
    for entry in entries.iter().filter(|e| e.kind != Kind::Directory) {
        entry.name.hash(&mut hasher);
        machine.read(&folder.join(&entry.name))?.hash(&mut hasher);
    }
    Ok(hasher.finish())
}
