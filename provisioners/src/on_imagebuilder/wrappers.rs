//! Reads the wrapper playbooks in `common/`, which prepare a root, run the role of an image and
//! pack the result. overcoat does all of this; a site's own additions are found here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::tree::{self, ConfigKind, is_yaml};
use super::yaml_writer::is_name;
use super::{ImportError, Note};
use crate::ansible::paths::normalized;
use crate::ansible::tasks::{Module, Task, is_keyword, is_play_keyword, tasks};
use crate::config::{YamlDocument, YamlNode, YamlValue};

/// What the wrapper playbooks do in addition to the roles of images.
#[derive(Debug, Default)]
pub(super) struct Wrappers {
    /// The roles that playbooks name literally, by directory.
    pub(super) roles: BTreeMap<PathBuf, WrapperRole>,
    /// The plays that run the role of an image.
    pub(super) plays: Vec<ProvisionerPlay>,
    /// The roles that a site added, in the order in which they run.
    pub(super) added: Vec<AddedRole>,
    /// What `clean_fs.yml` removes.
    pub(super) cleanup: WrapperCleanup,
}

/// A role that a playbook names literally.
#[derive(Debug)]
pub(super) struct WrapperRole {
    /// The playbook, relative to the tree's directory.
    pub(super) playbook: PathBuf,
    /// Whether it is a part of on-imagebuilder that overcoat replaces.
    pub(super) is_known: bool,
}

/// A play of a wrapper playbook that runs the role of an image.
#[derive(Debug)]
pub(super) struct ProvisionerPlay {
    /// The playbook, relative to the tree's directory.
    pub(super) playbook: PathBuf,
    /// Whether it is the wrapper of on-imagebuilder for the kind.
    pub(super) is_default: bool,
    /// The kind of the images; `None` if neither the hosts nor the name of the playbook says it.
    pub(super) kind: Option<ConfigKind>,
    /// The group, or the host, in which it runs.
    pub(super) hosts: String,
    /// The parameters of the role.
    pub(super) parameters: Vec<(String, YamlNode)>,
}

/// A role that a site added to a wrapper playbook, and that runs in the root of each image.
#[derive(Debug)]
pub(super) struct AddedRole {
    /// The kind of the images.
    pub(super) kind: ConfigKind,
    /// The playbook, relative to the tree's directory.
    pub(super) playbook: PathBuf,
    /// Whether it is the wrapper of on-imagebuilder for the kind.
    pub(super) is_default: bool,
    /// Whether it runs before the role of the image.
    pub(super) is_before: bool,
    /// Its directory, relative to the tree's.
    pub(super) role: String,
}

/// What `common/tasks/clean_fs.yml` removes.
#[derive(Debug, Default)]
pub(super) struct WrapperCleanup {
    /// Whether it exists.
    pub(super) exists: bool,
    /// Whether it is not valid YAML, so that the clean-up is that of on-imagebuilder.
    pub(super) is_broken: bool,
    /// Whether it removes documentation.
    pub(super) docs: bool,
    /// Whether it removes translations.
    pub(super) locales: bool,
    /// Whether it removes initramfs-tools.
    pub(super) initramfs: bool,
}

/// The role that a wrapper playbook runs for an image.
const PROVISIONER: &str = "provisioner";

/// Roles of on-imagebuilder that prepare a root or pack the result.
const KNOWN_ROLES: [&str; 5] = [
    "build_rootfs",
    "build_squashfs",
    "make_initrd_build_env",
    "build_initrd",
    "build_overlay_archive",
];

/// Files with tasks of on-imagebuilder that do the same.
const KNOWN_TASK_FILES: [&str; 5] = [
    "clean_fs.yml",
    "mount_overlay.yml",
    "mount_rootfs.yml",
    "unmount_overlay.yml",
    "unmount_rootfs.yml",
];

/// Keys of plays that are read here, or that do not affect an image.
const KNOWN_PLAY_KEYS: [&str; 12] = [
    "become",
    "connection",
    "gather_facts",
    "hosts",
    "name",
    "post_tasks",
    "pre_tasks",
    "remote_user",
    "roles",
    "sudo",
    "tags",
    "tasks",
];

/// Text in commands of on-imagebuilder that prepare a root or pack the result.
const KNOWN_COMMANDS: [&str; 9] = [
    "apt-get clean",
    "cpio",
    "debootstrap",
    "gzip",
    "initrd.img-",
    "mkinitramfs",
    "mksquashfs",
    "mount",
    "vmlinuz-",
];

/// Programs that compare or cut the name of a kernel.
const KERNEL_FILTERS: [&str; 6] = ["awk", "cut", "egrep", "grep", "sed", "tr"];

/// Text in other tasks of on-imagebuilder.
const KNOWN_TEXTS: [&str; 5] =
    ["01_nodoc", "apt.conf", "debootstrap", "repository_lists", "config_file"];

/// Paths that a clean-up of overcoat removes in any case.
const CLEANED_PATHS: [&str; 6] =
    ["/var/log/apt", "/var/lib/apt/lists", "/var/cache/apt", "/var/cache/man", "/var/log", "/tmp"];

const DOC_PATHS: [&str; 7] = [
    "/usr/share/doc",
    "/usr/share/doc-base",
    "/usr/share/man",
    "/usr/share/groff",
    "/usr/share/info",
    "/usr/share/lintian",
    "/usr/share/linda",
];

const LOCALE_PATHS: [&str; 2] = ["/usr/share/locale", "/usr/share/i18n"];

impl Wrappers {
    /// Reads the playbooks of a tree. Adds a note about each task that is not converted.
    pub(super) fn read(folder: &Path, notes: &mut Vec<Note>) -> Result<Self, ImportError> {
        let mut found = Self::default();
        for inside in ["common", "common/playbooks"].map(Path::new) {
            if !folder.join(inside).is_dir() {
                continue;
            }
            for path in tree::list(&folder.join(inside))? {
                let file = inside.join(path.file_name().unwrap_or_default());
                if path.is_file() && is_yaml(&file) {
                    found.read_playbook(folder, &file, notes)?;
                }
            }
        }
        for inside in ["common/tasks", "common/playbooks/tasks"].map(Path::new) {
            for name in KNOWN_TASK_FILES {
                let file = inside.join(name);
                if folder.join(&file).is_file() {
                    found.read_tasks(folder, &file, notes)?;
                }
            }
        }
        let roles: Vec<PathBuf> = found.roles.keys().cloned().collect();
        for role in roles.iter().filter(|role| found.roles[*role].is_known) {
            let tasks = role.join("tasks");
            if folder.join(&tasks).is_dir() {
                for file in tree::files_below(folder, &tasks)? {
                    note_unknown_tasks(folder, &file, notes)?;
                }
            }
        }
        Ok(found)
    }

    fn read_playbook(
        &mut self,
        folder: &Path,
        file: &Path,
        notes: &mut Vec<Note>,
    ) -> Result<(), ImportError> {
        let text = tree::text(folder, file)?;
        let document = match YamlDocument::parse_ansible(file, text) {
            Ok(document) => document,
            Err(error) => {
                notes.push(Note::from_error(file, "the playbook is not converted", &error));
                return Ok(());
            }
        };
        let YamlValue::List(plays) = &document.root.value else { return Ok(()) };
        let beside = file.parent().unwrap_or(Path::new(""));
        let runs_provisioner =
            |play: &YamlNode| roles_of(play).any(|(role, _)| role.contains(PROVISIONER));
        let is_wrapper = plays.iter().any(runs_provisioner);
        for play in plays {
            let in_root = runs_provisioner(play);
            let kind = kind_of_hosts(play).or_else(|| kind_of(file));
            let mut is_before = true;
            for (role, node) in roles_of(play) {
                if role.contains(PROVISIONER) {
                    is_before = false;
                    self.plays.push(ProvisionerPlay {
                        playbook: file.to_owned(),
                        is_default: kind.is_some() && kind_of(file) == kind,
                        kind,
                        hosts: hosts_of(play, kind, file, notes),
                        parameters: parameters(node, file, notes),
                    });
                    continue;
                }
                let role = normalized(&beside.join(role));
                let name = role.file_name().unwrap_or_default().to_string_lossy();
                let is_known = KNOWN_ROLES.contains(&&*name);
                match kind.filter(|_| in_root && !is_known) {
                    Some(kind) => {
                        note_parameters(node, file, notes);
                        self.added.push(AddedRole {
                            kind,
                            playbook: file.to_owned(),
                            is_default: kind_of(file) == Some(kind),
                            is_before,
                            role: role.to_string_lossy().into_owned(),
                        });
                    }
                    None => {
                        let playbook = file.to_owned();
                        self.roles.insert(role, WrapperRole { playbook, is_known });
                    }
                }
            }
            if is_wrapper {
                note_unknown_keys(play, file, notes);
            }
            if is_wrapper {
                for key in ["pre_tasks", "tasks", "post_tasks"] {
                    for task in play.get(key).map(tasks).unwrap_or_default() {
                        note_unless_known(&task, in_root, file, notes);
                    }
                }
            }
        }
        Ok(())
    }

    fn read_tasks(
        &mut self,
        folder: &Path,
        file: &Path,
        notes: &mut Vec<Note>,
    ) -> Result<(), ImportError> {
        if !file.ends_with("clean_fs.yml") {
            return note_unknown_tasks(folder, file, notes);
        }
        self.cleanup.exists = true;
        let text = tree::text(folder, file)?;
        let document = match YamlDocument::parse_ansible(file, text) {
            Ok(document) => document,
            Err(error) => {
                let what = "not converted: `cleanup` is that of on-imagebuilder; correct the file \
                            and import the tree again with --force";
                notes.push(Note::from_error(file, what, &error));
                self.cleanup.is_broken = true;
                self.cleanup.docs = true;
                self.cleanup.locales = true;
                return Ok(());
            }
        };
        for task in tasks(&document.root) {
            let removed = removed_paths(&task);
            if removed.is_empty() {
                note_unless_known(&task, true, file, notes);
            }
            for (path, line) in removed {
                if !self.cleanup.add(&path) {
                    let text = format!(
                        "not converted: removes {path}; write a script that removes it in a role"
                    );
                    notes.push(Note::at(file, line, text));
                }
            }
        }
        Ok(())
    }
}

impl WrapperCleanup {
    /// Notes the removal of a path; returns whether a clean-up removes it.
    fn add(&mut self, path: &str) -> bool {
        let path = Path::new(path.trim());
        let is_below = |paths: &[&str]| paths.iter().any(|other| path.starts_with(other));
        let is_initramfs = path.iter().any(|part| part == "initramfs-tools");
        self.docs |= is_below(&DOC_PATHS);
        self.locales |= is_below(&LOCALE_PATHS);
        self.initramfs |= is_initramfs;
        is_below(&DOC_PATHS) || is_below(&LOCALE_PATHS) || is_below(&CLEANED_PATHS) || is_initramfs
    }
}

/// Returns the group or host of a play. Adds a note if it is a pattern.
fn hosts_of(
    play: &YamlNode,
    kind: Option<ConfigKind>,
    file: &Path,
    notes: &mut Vec<Note>,
) -> String {
    let default = kind.map_or("", ConfigKind::default_group).to_owned();
    let Some(node) = play.get("hosts") else { return default };
    match node.text("a group") {
        Ok(hosts) if !hosts.contains(['{', ':', ',', '*', '&', '!', '[']) => hosts.to_owned(),
        _ => {
            let text = "not converted: the pattern of `hosts`; if the variables of its hosts differ \
                        from those of the other groups, write them to `variables` of the images";
            notes.push(Note::at(file, node.span.line, text));
            default
        }
    }
}

/// Returns the parameters of the role of images: keys that are no keywords, and `vars`. Adds a note
/// about its other keys.
fn parameters(role: &YamlNode, file: &Path, notes: &mut Vec<Note>) -> Vec<(String, YamlNode)> {
    let YamlValue::Map(entries) = &role.value else { return Vec::new() };
    let mut found: Vec<(String, YamlNode)> = Vec::new();
    let mut others = Vec::new();
    for (key, value) in entries {
        match key.name.as_str() {
            "role" | "name" | "tags" => {}
            "vars" => found.extend(tree::variables(value)),
            name if is_keyword(name) || !is_name(name) => others.push(format!("`{name}`")),
            name => found.push((name.to_owned(), value.clone())),
        }
    }
    if !others.is_empty() {
        let text = format!(
            "not converted: {} of the role of the images; write it in the roles",
            others.join(", ")
        );
        notes.push(Note::at(file, role.span.line, text));
    }
    found
}

/// Adds a note about parameters and conditions of a role in a playbook.
fn note_parameters(role: &YamlNode, file: &Path, notes: &mut Vec<Note>) {
    let YamlValue::Map(entries) = &role.value else { return };
    // Tags select tasks only on the command line.
    let ignored = ["role", "name", "tags"];
    let more = entries.iter().filter(|(key, _)| !ignored.contains(&key.name.as_str()));
    let more: Vec<String> = more.map(|(key, _)| format!("`{}`", key.name)).collect();
    if !more.is_empty() {
        let text = format!(
            "not converted: {} of this role; set variables in `variables` of the images, and \
             conditions in the role",
            more.join(", ")
        );
        notes.push(Note::at(file, role.span.line, text));
    }
}

/// Adds a note about each key of a play that on-imagebuilder does not have.
fn note_unknown_keys(play: &YamlNode, file: &Path, notes: &mut Vec<Note>) {
    let YamlValue::Map(entries) = &play.value else { return };
    for (key, value) in entries {
        let line = key.span.line;
        match key.name.as_str() {
            "vars_files" => {
                for node in value.list().unwrap_or_default() {
                    let named = node.text("a file").unwrap_or_default();
                    if !named.contains("config_file") {
                        let beside = file.parent().unwrap_or(Path::new(""));
                        let named = normalized(&beside.join(named));
                        let named = named.display();
                        let text = format!(
                            "not converted: the variables of {named}; add them to the `variables` \
                             of the project"
                        );
                        notes.push(Note::at(file, node.span.line, text));
                    }
                }
            }
            name if KNOWN_PLAY_KEYS.contains(&name) => {}
            name => {
                let instead = match name {
                    "vars" => "add the variables to `variables` of the project",
                    "environment" => {
                        "write it as `environment` of the tasks, or of a block around them, in the \
                         roles that need it"
                    }
                    "handlers" => "write them to handlers/main.yml of the roles that notify them",
                    "accelerate" | "accelerate_port" | "accelerate_ipv6" => {
                        "delete it, because it was removed from Ansible"
                    }
                    name if is_play_keyword(name) => {
                        "if a role needs it, write the same in its tasks"
                    }
                    name => {
                        let text = format!("`{name}` is not a key of a play: correct or delete it");
                        notes.push(Note::at(file, line, text));
                        continue;
                    }
                };
                let text = format!("not converted: `{name}` of this play; {instead}");
                notes.push(Note::at(file, line, text));
            }
        }
    }
}

/// Returns the kind of image whose root a play changes, by the group of its hosts.
fn kind_of_hosts(play: &YamlNode) -> Option<ConfigKind> {
    match play.get("hosts")?.text("a group").ok()? {
        "basefs_build_chroot" => Some(ConfigKind::Base),
        "overlay_build_chroot" => Some(ConfigKind::Overlay),
        "initrd_build_env_chroot" => Some(ConfigKind::Initrd),
        _ => None,
    }
}

/// Returns the kind of image that a wrapper playbook builds, by its name.
fn kind_of(playbook: &Path) -> Option<ConfigKind> {
    let name = playbook.file_name()?.to_str()?;
    [("basefs", ConfigKind::Base), ("overlay", ConfigKind::Overlay), ("initrd", ConfigKind::Initrd)]
        .into_iter()
        .find(|(prefix, _)| name.starts_with(prefix))
        .map(|(_, kind)| kind)
}

/// Returns the names of the roles of a play.
fn roles_of(play: &YamlNode) -> impl Iterator<Item = (&str, &YamlNode)> {
    let roles = play.get("roles").and_then(|roles| roles.list().ok()).unwrap_or_default();
    roles.iter().filter_map(|role| {
        let name = role.get("role").or_else(|| role.get("name")).unwrap_or(role);
        Some((name.text("").ok()?, role))
    })
}

/// Returns the paths that a task removes: `file: path=… state=absent`, also in a loop.
fn removed_paths(task: &Task<'_>) -> Vec<(String, usize)> {
    let Some(module) = task.module().filter(|module| module.name == "file") else {
        return Vec::new();
    };
    let path = ["path", "dest", "name"].iter().find_map(|name| module.text(name));
    let Some(path) = path.filter(|_| module.text("state") == Some("absent")) else {
        return Vec::new();
    };
    match task.looped().map(|(_, list)| &list.value) {
        Some(YamlValue::List(nodes)) => nodes
            .iter()
            .filter_map(|node| Some((node.text("").ok()?.to_owned(), node.span.line)))
            .collect(),
        _ => vec![(path.to_owned(), module.line_of(&["path", "dest", "name"]))],
    }
}

/// Adds notes about the tasks of a file that on-imagebuilder does not have.
fn note_unknown_tasks(
    folder: &Path,
    file: &Path,
    notes: &mut Vec<Note>,
) -> Result<(), ImportError> {
    let text = tree::text(folder, file)?;
    match YamlDocument::parse_ansible(file, text) {
        Ok(document) => {
            for task in tasks(&document.root) {
                note_unless_known(&task, false, file, notes);
            }
        }
        // The roles of on-imagebuilder have files that are not tasks.
        Err(_) if !is_yaml(file) => {}
        Err(error) => {
            notes.push(Note::from_error(file, "the tasks are not converted", &error));
        }
    }
    Ok(())
}

/// Adds a note about a task unless it prepares a root or packs the result.
fn note_unless_known(task: &Task<'_>, in_root: bool, file: &Path, notes: &mut Vec<Note>) {
    if is_known(task) {
        return;
    }
    let place = match in_root {
        true => "in the root of each image: write it in a role",
        false => "on the host around each build: write it in a script with `outside: true`",
    };
    let text = format!("not converted: this task runs {place}");
    notes.push(Note::at(file, task.node.span.line, text));
}

/// Returns whether a task is one of on-imagebuilder: it prepares a root or packs the result.
fn is_known(task: &Task<'_>) -> bool {
    let Some(module) = task.module() else { return true };
    let texts: BTreeSet<String> = all_text(task.node);
    let has = |known: &[&str]| texts.iter().any(|text| known.iter().any(|k| text.contains(k)));
    match module.name {
        "include" | "include_tasks" | "import_tasks" => {
            let file = module.free_form.or(module.text("file")).unwrap_or_default();
            let name = file.rsplit('/').next().unwrap_or_default();
            KNOWN_TASK_FILES.contains(&name) || ["setup.yml", "build.yml"].contains(&name)
        }
        "command" | "shell" | "raw" => has(&KNOWN_COMMANDS) || asks_for_kernel(&module),
        "mount" => true,
        // The root, directories for mounts and artifacts, and old artifacts.
        "file" => {
            let path = ["path", "dest", "name"].iter().find_map(|name| module.text(name));
            path.is_some_and(is_only_variables)
        }
        _ => has(&KNOWN_TEXTS),
    }
}

/// Returns whether a command only asks for the kernel of the host: `uname -r | grep 3.16`.
fn asks_for_kernel(module: &Module<'_>) -> bool {
    let command = module.free_form.or_else(|| module.text("cmd")).unwrap_or_default();
    let mut programs = command.split('|').map(|part| part.split_whitespace().next());
    programs.next() == Some(Some("uname"))
        && programs.all(|name| name.is_some_and(|name| KERNEL_FILTERS.contains(&name)))
        && !command.contains(['>', ';', '&', '`', '$'])
}

/// Returns whether a path has no part of its own besides templates.
fn is_only_variables(path: &str) -> bool {
    let mut rest = path;
    while let Some((before, after)) = rest.split_once("{{") {
        if before.chars().any(|c| c != '/') {
            return false;
        }
        rest = after.split_once("}}").map_or("", |(_, rest)| rest);
    }
    rest.is_empty()
}

/// Returns all scalars of a value.
fn all_text(node: &YamlNode) -> BTreeSet<String> {
    match &node.value {
        YamlValue::Scalar { text, .. } => BTreeSet::from([text.clone()]),
        YamlValue::List(nodes) => nodes.iter().flat_map(all_text).collect(),
        YamlValue::Map(entries) => entries.iter().flat_map(|(_, node)| all_text(node)).collect(),
    }
}
