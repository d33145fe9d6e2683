//! Reads an on-imagebuilder tree: variables for all images, config files, and their provisioners.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::group_variables::GroupVariables;
use super::left_out::{self, LeftOut};
use super::scripts::{PairInScript, pairs_in_scripts};
use super::settings::{Global, TreeVariables};
use super::wrappers::{ProvisionerPlay, WrapperRole, Wrappers};
use super::{Account, ImportError, Note, role_choice};
use crate::ansible::paths::normalized;
use crate::ansible::role::is_role;
use crate::ansible::used_roles::UsedRoles;
use crate::config::{YamlDocument, YamlNode, YamlValue};
use crate::folder::Folder;
use crate::variables::{DeclaredVariables, Variable, Variables};

/// The group of the host around builds.
const LOCAL_GROUP: &str = "build_local";

/// The directories beside the wrapper playbooks with files that roles copy.
const COMMON_FILES: [&str; 4] =
    ["common/files", "common/templates", "common/playbooks/files", "common/playbooks/templates"];

/// The beginning of an encrypted file.
pub(super) const VAULT_MARK: &str = "$ANSIBLE_VAULT";

/// An on-imagebuilder tree.
#[derive(Debug)]
pub(super) struct ImagebuilderTree {
    pub(super) folder: PathBuf,
    /// The variables that all images have with the same values.
    pub(super) globals: Vec<Global>,
    /// The variables of the host around builds, which determine settings.
    pub(super) of_local: Vec<Global>,
    /// The variables of all groups and hosts, without their precedence.
    pub(super) everything: Vec<Global>,
    /// The config files that have a provisioner, ordered by kind and name.
    pub(super) configs: Vec<Config>,
    /// The config files that are left out, each with the reason.
    pub(super) left_out: BTreeMap<PathBuf, LeftOut>,
    /// The directories of all roles, relative to the tree's directory.
    pub(super) roles: BTreeSet<PathBuf>,
    pub(super) wrappers: Wrappers,
}

/// A config file with its provisioner.
#[derive(Debug)]
pub(super) struct Config {
    /// The name of the image.
    pub(super) name: String,
    /// Path relative to the tree's directory.
    pub(super) file: PathBuf,
    pub(super) kind: ConfigKind,
    /// The directory of the provisioner, relative to the tree's.
    pub(super) provisioner: String,
    /// Where the provisioner is named.
    pub(super) named_by: NamedBy,
    /// The named role that another one replaces, if any.
    pub(super) replaced: Option<ReplacedRole>,
    /// The wrapper playbook that a script runs for it, if it exists.
    playbook: Option<PathBuf>,
    /// The variables of the host in which the wrapper playbook builds it.
    pub(super) of_host: Vec<Global>,
    pub(super) variables: Vec<(String, YamlNode)>,
    /// Why the file cannot be used as a `config_file`; `None` if it can.
    pub(super) refused: Option<String>,
}

/// A role that a config file names and that cannot use the file's variables.
#[derive(Debug)]
pub(super) struct ReplacedRole {
    /// Its directory, relative to the tree's.
    pub(super) named: String,
    /// Why another one is used instead.
    pub(super) why: String,
}

/// Where the provisioner of a config file is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NamedBy {
    /// In the key `provisioner` of the file.
    YamlKey,
    /// In a script that runs a wrapper playbook with both.
    Script(PairInScript),
    /// In a comment in the file, as in the files that come with on-imagebuilder.
    Comment,
}

/// The kind of an image, determined from the directory of its provisioner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ConfigKind {
    Base,
    Overlay,
    Initrd,
}

impl ConfigKind {
    /// Returns the group of hosts in which the wrapper playbooks of on-imagebuilder build images of
    /// this kind.
    pub(super) fn default_group(self) -> &'static str {
        match self {
            Self::Base => "basefs_build_chroot",
            Self::Overlay => "overlay_build_chroot",
            Self::Initrd => "initrd_build_env_chroot",
        }
    }

    /// Returns the kind of the images that a role is for, by the directories above it, or else by
    /// its name: the first versions of on-imagebuilder had all roles in one directory.
    pub(super) fn of_role(role: &str) -> Option<Self> {
        let role = Path::new(role);
        let of_folder = role.iter().find_map(|part| match part.to_str()? {
            "basefs" | "base" | "rootfs" => Some(Self::Base),
            "overlay" | "overlays" => Some(Self::Overlay),
            "initrd" | "initramfs" => Some(Self::Initrd),
            _ => None,
        });
        let name = role.file_name()?.to_str()?;
        let of_name = || match name.strip_prefix("provision_")? {
            name if name.ends_with("rootfs") || name.ends_with("basefs") => Some(Self::Base),
            name if name.ends_with("initrd") => Some(Self::Initrd),
            name if name.ends_with("overlay") => Some(Self::Overlay),
            _ => None,
        };
        of_folder.or_else(of_name)
    }
}

impl ImagebuilderTree {
    pub(super) fn read(folder: &Path, notes: &mut Vec<Note>) -> Result<Self, ImportError> {
        let nothing =
            |problem: &str| ImportError::Nothing { path: folder.into(), problem: problem.into() };
        for (name, what) in [("roles", "the roles"), ("vars", "the config files")] {
            if !folder.join(name).is_dir() {
                return Err(nothing(&format!("it lacks the directory {name}/ with {what}")));
            }
        }
        let groups = GroupVariables::read(folder, notes)?;
        let pairs = pairs_in_scripts(folder, notes)?;
        let mut tree = Self {
            folder: folder.to_owned(),
            globals: Vec::new(),
            of_local: Vec::new(),
            everything: groups.everything(),
            configs: Vec::new(),
            left_out: BTreeMap::new(),
            roles: roles_below(folder, Path::new("roles"))?,
            wrappers: Wrappers::read(folder, notes)?,
        };
        for file in files_below(folder, Path::new("vars"))? {
            if is_yaml(&file) {
                match config(folder, &file, &tree.everything, &pairs)? {
                    Ok(config) => tree.configs.push(config),
                    Err(reason) => drop(tree.left_out.insert(file, reason)),
                }
            }
        }
        tree.set_group_variables(&groups, notes);
        tree.set_globals(false);
        role_choice::choose_roles(&mut tree, notes)?;
        left_out::explain(&mut tree, notes)?;
        assign_names(&mut tree.configs);
        Ok(tree)
    }

    /// Gives each image the variables of the host in which its wrapper playbook builds it.
    fn set_group_variables(&mut self, groups: &GroupVariables, notes: &mut Vec<Note>) {
        let of_images = [ConfigKind::Base, ConfigKind::Overlay, ConfigKind::Initrd];
        let own = of_images.iter().map(|kind| kind.default_group());
        let own = own.chain(self.wrappers.plays.iter().map(|play| play.hosts.as_str()));
        let others: Vec<&str> = own.chain([LOCAL_GROUP]).collect();
        let mut used = BTreeSet::new();
        let mut of_configs = Vec::new();
        for config in &self.configs {
            let group = self.play_of(config).map_or(config.kind.default_group(), |p| &p.hosts);
            used.insert(group);
            of_configs.push(groups.of_host(group, &others));
        }
        let of_local = groups.of_host(LOCAL_GROUP, &others);
        groups.note_files(&used, notes);
        for (config, of_host) in self.configs.iter_mut().zip(of_configs) {
            config.of_host = of_host;
        }
        self.of_local = of_local;
    }

    /// Determines the variables that all images have with the same values. With `without_bases`,
    /// the bases are left out.
    pub(super) fn set_globals(&mut self, without_bases: bool) {
        let images = self.configs.iter();
        let images = images.filter(|c| !without_bases || c.kind != ConfigKind::Base);
        let images: Vec<&Config> = images.collect();
        let Some((first, rest)) = images.split_first() else { return };
        let in_all = |global: &&Global| rest.iter().all(|image| global.is_in(&image.of_host));
        self.globals = first.of_host.iter().filter(in_all).cloned().collect();
    }

    /// Returns the play of a wrapper playbook that builds an image.
    fn play_of(&self, config: &Config) -> Option<&ProvisionerPlay> {
        self.wrappers.plays.iter().find(|play| match config.playbook.as_deref() {
            Some(playbook) => play.playbook == playbook,
            None => play.is_default && play.kind == Some(config.kind),
        })
    }

    /// Returns the parameters that the wrapper playbook of an image passes to its role, and that
    /// playbook.
    pub(super) fn parameters_of(&self, config: &Config) -> (&[(String, YamlNode)], &Path) {
        match self.play_of(config) {
            Some(play) => (&play.parameters, &play.playbook),
            None => (&[], Path::new("")),
        }
    }

    /// Returns the variables of the host of an image that other images lack or have with other
    /// values, and that nothing in the image overrides.
    pub(super) fn group_variables_of<'a>(&self, config: &'a Config) -> Vec<&'a Global> {
        let parameters = self.parameters_of(config).0;
        let is_overridden = |global: &Global| {
            let own = config.variables.iter().chain(parameters);
            own.into_iter().any(|(name, _)| *name == global.name)
        };
        let of_host = config.of_host.iter();
        of_host.filter(|global| !global.is_in(&self.globals) && !is_overridden(global)).collect()
    }

    /// Returns the variables of an image in order of increasing precedence: those of its host, of
    /// its config file, and the parameters of its role.
    pub(super) fn variables_of(&self, config: &Config) -> Variables {
        let mut variables = Variables::default();
        let of_host = config.of_host.iter().map(|global| (&global.name, &global.value));
        let own = config.variables.iter().chain(self.parameters_of(config).0);
        for (name, value) in of_host.chain(own.map(|(name, value)| (name, value))) {
            variables.set(name, Variable::parse_yaml_1_1(value));
        }
        variables
    }

    /// Returns the variables that determine the settings of an image, or of all images. In Ansible
    /// those of the host around builds do.
    pub(super) fn settings_of(&self, config: Option<&Config>) -> TreeVariables {
        let of_images = config.map_or(&self.globals, |config| &config.of_host);
        let own = config.map_or(&[][..], |config| &config.variables);
        TreeVariables::new(of_images.iter().chain(&self.of_local), own)
    }

    /// Returns the directories of the roles that an image runs: its own, and those that a site
    /// added to the wrapper playbook of its kind, in order.
    pub(super) fn roles_of(&self, config: &Config) -> Vec<String> {
        let playbook = config.playbook.as_deref();
        let added = |before: bool| {
            let added = self.wrappers.added.iter();
            let added = added.filter(move |a| {
                let runs = match playbook {
                    Some(playbook) => a.playbook == playbook,
                    None => a.is_default,
                };
                runs && a.kind == config.kind && a.is_before == before
            });
            added.map(|added| added.role.clone())
        };
        added(true).chain([config.provisioner.clone()]).chain(added(false)).collect()
    }

    /// Returns what became of each config file and role. With `base`, the tree's bases are left
    /// out.
    pub(super) fn accounts(&self, base: Option<&str>) -> Result<Vec<Account>, ImportError> {
        let mut accounts = Vec::new();
        let mut used: BTreeMap<PathBuf, BTreeSet<String>> = BTreeMap::new();
        for config in &self.configs {
            let text = match base {
                Some(base) if config.kind == ConfigKind::Base => {
                    format!("left out: {base} is the base")
                }
                _ => match &config.replaced {
                    Some(replaced) => format!("image {}; {}", config.name, replaced.why),
                    None => format!("image {}", config.name),
                },
            };
            let is_used = base.is_none() || config.kind != ConfigKind::Base;
            for role in self.roles_of(config).into_iter().filter(|_| is_used) {
                let named = UsedRoles::find(&self.folder.join(&role))?;
                for named in named.roles {
                    let role = normalized(&Path::new(&role).join(&named.prefix));
                    used.entry(role).or_default().insert(config.name.clone());
                }
            }
            accounts.push(Account { path: config.file.clone(), text });
        }
        for (path, left_out) in &self.left_out {
            accounts.push(Account {
                path: path.clone(),
                text: format!("left out: {}", left_out.reason),
            });
        }
        for role in &self.roles {
            let text = match (used.get(role), self.wrappers.roles.get(role)) {
                (Some(images), _) => {
                    let images: Vec<&str> = images.iter().map(String::as_str).collect();
                    format!("runs in {}", images.join(", "))
                }
                (None, Some(WrapperRole { playbook, is_known: true })) => {
                    format!("left out: overcoat does this part of {}", playbook.display())
                }
                (None, Some(WrapperRole { playbook, is_known: false })) => {
                    format!("left out: {} runs it on the host, for no image", playbook.display())
                }
                (None, None) => {
                    let is_of_base = self.configs.iter().any(|c| Path::new(&c.provisioner) == role);
                    match base.filter(|_| is_of_base) {
                        Some(base) => format!("left out: {base} is the base"),
                        None => "not used: no config file names it".to_owned(),
                    }
                }
            };
            accounts.push(Account { path: role.clone(), text });
        }
        accounts.sort();
        Ok(accounts)
    }

    /// Returns the files of all roles that run in images or may be meant to: those of all images,
    /// and those that nothing names. Relative to the tree's directory.
    pub(super) fn files_of_roles(&self) -> Result<BTreeSet<PathBuf>, ImportError> {
        let mut found = self.files_of_images()?;
        for role in self.roles.iter().filter(|role| !self.wrappers.roles.contains_key(*role)) {
            found.extend(self.files_of(role)?);
        }
        Ok(found)
    }

    /// Returns the files of the roles of all images and of the roles that these name, relative to
    /// the tree's directory.
    pub(super) fn files_of_images(&self) -> Result<BTreeSet<PathBuf>, ImportError> {
        let mut found = BTreeSet::new();
        for role in self.configs.iter().flat_map(|config| self.roles_of(config)) {
            found.extend(self.files_of(Path::new(&role))?);
        }
        Ok(found)
    }

    /// Returns the files in `common/` that roles copy, relative to the tree's directory.
    pub(super) fn common_files(&self) -> Result<BTreeSet<PathBuf>, ImportError> {
        let mut found = BTreeSet::new();
        for inside in COMMON_FILES.map(Path::new) {
            if self.folder.join(inside).is_dir() {
                found.extend(files_below(&self.folder, inside)?);
            }
        }
        Ok(found)
    }

    /// Returns the files of a role and of the roles that it names, relative to the tree's
    /// directory.
    pub(super) fn files_of(&self, role: &Path) -> Result<BTreeSet<PathBuf>, ImportError> {
        let mut found = BTreeSet::new();
        let canonical = self.folder.canonicalize().unwrap_or_else(|_| self.folder.clone());
        for used in UsedRoles::find(&self.folder.join(role))?.roles {
            let inside = normalized(&role.join(&used.prefix));
            found.extend(files_below(&self.folder, &inside)?);
            let files = used.outside.iter().filter(|path| path.is_file());
            found.extend(files.filter_map(|file| Some(file.strip_prefix(&canonical).ok()?.into())));
        }
        Ok(found)
    }
}

/// Reads a config file. Returns the reason if it is left out.
fn config(
    folder: &Path,
    file: &Path,
    everything: &[Global],
    pairs: &BTreeMap<PathBuf, PairInScript>,
) -> Result<Result<Config, LeftOut>, ImportError> {
    let Ok(text) = String::from_utf8(bytes(folder, file)?) else {
        return Ok(Err(LeftOut::with_mistake("it is not UTF-8", "write it in UTF-8")));
    };
    if text.starts_with(VAULT_MARK) {
        let to_do = "decrypt it with `ansible-vault decrypt`";
        return Ok(Err(LeftOut::with_mistake("it is encrypted", to_do)));
    }
    let path = folder.join(file);
    let document = match YamlDocument::parse(&path, text.clone()) {
        Ok(document) => document,
        Err(error) => return Ok(Err(LeftOut::from_error(&error))),
    };
    let (key, rest) = document.root.without("provisioner");
    let has_merges = has_merge_key(&rest);
    // Ansible adds the entries of `<<` to a mapping.
    let of_ansible = YamlDocument::parse_ansible(&path, text.clone())?;
    let variables: Vec<(String, YamlNode)> =
        variables(&of_ansible.root.without("provisioner").1).collect();
    let of_key = key.as_ref().and_then(|node| node.text("a directory").ok()).and_then(|text| {
        let scope = TreeVariables::new(everything, &variables);
        scope.render(text).map(|text| (text, NamedBy::YamlKey))
    });
    let pair = pairs.get(file);
    let of_script = pair.map(|p| (p.provisioner.clone(), NamedBy::Script(p.clone())));
    let Some((provisioner, named_by)) = of_key.or(of_script).or_else(|| of_comment(&text)) else {
        let names = variables.into_iter().map(|(name, _)| name).collect();
        return Ok(Err(LeftOut::without_provisioner(names)));
    };
    let provisioner = provisioner.trim_end_matches('/').to_owned();
    if !Folder::from_host(folder.join(&provisioner)).is_provisioner() {
        let reason = format!("its provisioner {provisioner} has no tasks/main.yml");
        return Ok(Err(LeftOut::with_mistake(reason, "name the directory of a role")));
    }
    let Some(kind) = ConfigKind::of_role(&provisioner) else {
        let reason = format!(
            "the kind of {provisioner} is unknown: it is not below roles/basefs, roles/overlay or \
             roles/initrd"
        );
        return Ok(Err(LeftOut::with_mistake(reason, "move the role to one of these")));
    };
    let is_template = |text: &str| text.contains("{{");
    let refused = match DeclaredVariables::parse(Some(&rest)) {
        Err(mistake) => Some(mistake.problem.clone()),
        Ok(_) if has_merges => Some("it has a key `<<`".to_owned()),
        // A project does not render templates in the name of a provisioner.
        Ok(_)
            if named_by == NamedBy::YamlKey
                && key.as_ref().and_then(|k| k.text("").ok()).is_none_or(is_template) =>
        {
            Some("its `provisioner` is a template".to_owned())
        }
        Ok(_) => None,
    };
    Ok(Ok(Config {
        name: String::new(),
        file: file.to_owned(),
        kind,
        provisioner,
        named_by,
        replaced: None,
        playbook: pair
            .and_then(|pair| pair.playbook.clone())
            .filter(|playbook| folder.join(playbook).is_file()),
        of_host: Vec::new(),
        variables,
        refused,
    }))
}

/// Returns whether a mapping in a value has the key `<<`.
fn has_merge_key(node: &YamlNode) -> bool {
    match &node.value {
        YamlValue::Scalar { .. } => false,
        YamlValue::List(nodes) => nodes.iter().any(has_merge_key),
        YamlValue::Map(entries) => {
            entries.iter().any(|(key, node)| key.name == "<<" || has_merge_key(node))
        }
    }
}

/// Returns the provisioner named by a comment: `# provisioner: roles/overlay/x`.
fn of_comment(text: &str) -> Option<(String, NamedBy)> {
    text.lines().find_map(|line| {
        let comment = line.trim_start().strip_prefix('#')?.trim();
        let named = comment.strip_prefix("provisioner:")?.trim().trim_matches(['"', '\'']);
        named.starts_with("roles/").then(|| (named.to_owned(), NamedBy::Comment))
    })
}

/// Names the images after their config files, with the directory where names would be equal. All
/// names are unique.
fn assign_names(configs: &mut [Config]) {
    let plain = |text: &str| -> String {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._-+".contains(c);
        let text: String = text.chars().map(|c| if allowed(c) { c } else { '-' }).collect();
        text.trim_start_matches(['.', '-']).to_owned()
    };
    let stem = |file: &Path| plain(&file.file_stem().unwrap_or_default().to_string_lossy());
    let stems: Vec<String> = configs.iter().map(|config| stem(&config.file)).collect();
    for (config, own) in configs.iter_mut().zip(&stems) {
        let twice = stems.iter().filter(|other| *other == own).count() > 1;
        let long = config.file.with_extension("");
        let long = long.strip_prefix("vars").unwrap_or(&long).to_string_lossy().into_owned();
        config.name = if twice || own.is_empty() { plain(&long) } else { own.clone() };
        if config.name.is_empty() {
            config.name = "image".to_owned();
        }
    }
    // Names of different files may still be equal.
    let mut taken = BTreeSet::new();
    for config in &mut *configs {
        let first = config.name.clone();
        let mut number = 1;
        while !taken.insert(config.name.clone()) {
            number += 1;
            config.name = format!("{first}-{number}");
        }
    }
    configs.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
}

pub(super) fn variables(node: &YamlNode) -> impl Iterator<Item = (String, YamlNode)> {
    let entries = match &node.value {
        YamlValue::Map(entries) => entries.as_slice(),
        _ => &[],
    };
    entries.iter().map(|(key, node)| (key.name.clone(), node.clone()))
}

/// Reads the text of a file of the tree.
pub(super) fn text(folder: &Path, file: &Path) -> Result<String, ImportError> {
    Ok(String::from_utf8_lossy(&bytes(folder, file)?).into_owned())
}

/// Reads a file of the tree.
pub(super) fn bytes(folder: &Path, file: &Path) -> Result<Vec<u8>, ImportError> {
    let path = folder.join(file);
    fs::read(&path).map_err(|source| ImportError::Read { path, source })
}

/// Returns the directories of all roles below a directory of the tree, relative to the tree's
/// directory.
fn roles_below(folder: &Path, inside: &Path) -> Result<BTreeSet<PathBuf>, ImportError> {
    let mut found = BTreeSet::new();
    for path in list(&folder.join(inside))? {
        let inside = inside.join(path.file_name().unwrap_or_default());
        if is_role(&path) {
            found.insert(inside);
        } else if path.is_dir() && !path.is_symlink() {
            found.extend(roles_below(folder, &inside)?);
        }
    }
    Ok(found)
}

pub(super) fn is_yaml(file: &Path) -> bool {
    file.extension().is_some_and(|e| e == "yml" || e == "yaml")
}

/// Returns all files below a directory of the tree, ordered by name, relative to the tree's
/// directory.
pub(super) fn files_below(folder: &Path, inside: &Path) -> Result<Vec<PathBuf>, ImportError> {
    let mut found = Vec::new();
    for path in list(&folder.join(inside))? {
        let inside = inside.join(path.file_name().unwrap_or_default());
        // A link to a directory may be part of a cycle.
        if path.is_dir() && !path.is_symlink() {
            found.extend(files_below(folder, &inside)?);
        } else if path.is_file() {
            found.push(inside);
        }
    }
    Ok(found)
}

pub(super) fn list(folder: &Path) -> Result<Vec<PathBuf>, ImportError> {
    let error = |source| ImportError::Read { path: folder.to_owned(), source };
    let entries = fs::read_dir(folder).map_err(error)?;
    let mut paths = entries
        .map(|entry| entry.map(|entry| entry.path()).map_err(error))
        .collect::<Result<Vec<_>, _>>()?;
    paths.sort();
    Ok(paths)
}
