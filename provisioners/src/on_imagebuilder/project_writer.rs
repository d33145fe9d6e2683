//! Writes the text of the project file.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::Note;
use super::archives::{archive_advice, archive_lines};
use super::kept_variables::{Conversion, texts_with_variables};
use super::releases::{BOOT_PACKAGES, DEFAULT_RELEASE, advice, is_out_of_use};
use super::settings::{DebianArchive, Global, ImportedSettings, TreeVariables};
use super::tree::{Config, ConfigKind, ImagebuilderTree, NamedBy};
use super::wrappers::WrapperCleanup;
use super::yaml_writer::{entry, flow, is_name, plain_or_quoted, wrapped};
use crate::config::YamlNode;

/// The parts of a project file.
#[derive(Debug)]
pub(super) struct WrittenProject {
    /// The settings and variables for all images.
    head: String,
    pub(super) images: Vec<WrittenImage>,
    /// The names of the variables for all images.
    pub(super) variables: BTreeSet<String>,
}

/// An image of a project file.
#[derive(Debug)]
pub(super) struct WrittenImage {
    pub(super) name: String,
    /// Its config file, relative to the tree's directory.
    pub(super) file: PathBuf,
    /// Its lines.
    pub(super) text: String,
}

impl WrittenProject {
    /// Returns the text of the file.
    pub(super) fn text(&self) -> String {
        let images: Vec<&str> = self.images.iter().map(|image| image.text.as_str()).collect();
        format!("{}\nimages:\n{}", self.head, images.join("\n"))
    }
}

/// The base of images in a tree without bases, which the user has to replace.
pub(super) const NO_BASE: &str = "./base.squashfs";

/// Writes the project file. With `base`, the tree's bases are left out. Without `has_release`, the
/// images have the release instead of the head.
pub(super) fn write(
    tree: &ImagebuilderTree,
    base: Option<&str>,
    has_release: bool,
    notes: &mut Vec<Note>,
) -> WrittenProject {
    let images = tree.configs.iter().filter(|c| base.is_none() || c.kind != ConfigKind::Base);
    let images: Vec<&Config> = images.collect();
    let mut writer = Writer {
        tree,
        base,
        bases: images.iter().copied().filter(|config| config.kind == ConfigKind::Base).collect(),
        all: ImportedSettings::new(&tree.settings_of(None)),
        has_release,
        used: texts_with_variables(tree, &images),
        outputs: BTreeSet::new(),
        text: String::new(),
        notes,
    };
    writer.head();
    writer.settings();
    let variables = writer.variables();
    let head = std::mem::take(&mut writer.text);
    let initrds = images.iter().filter(|config| config.kind == ConfigKind::Initrd).count();
    let mut written = Vec::new();
    for config in images {
        writer.image(config, initrds);
        let (name, file) = (config.name.clone(), config.file.clone());
        written.push(WrittenImage { name, file, text: std::mem::take(&mut writer.text) });
    }
    WrittenProject { head, images: written, variables }
}

/// Writes the parts of the file.
pub(super) struct Writer<'a> {
    pub(super) tree: &'a ImagebuilderTree,
    base: Option<&'a str>,
    bases: Vec<&'a Config>,
    all: ImportedSettings,
    /// Whether bases have the release for all images.
    has_release: bool,
    /// The text that may use variables.
    used: String,
    /// The output files of all images so far, to give each image a unique one.
    pub(super) outputs: BTreeSet<String>,
    text: String,
    notes: &'a mut Vec<Note>,
}

impl Writer<'_> {
    /// Writes a line.
    pub(super) fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    /// Writes a key of an image.
    pub(super) fn key(&mut self, key: &str, value: &str) {
        self.line(&format!("    {key}: {value}"));
    }

    /// Writes a comment, on several lines if it is long.
    pub(super) fn comment(&mut self, indent: usize, text: &str) {
        for line in wrapped(text, 96 - indent) {
            self.line(&format!("{}# {line}", " ".repeat(indent)));
        }
    }

    fn head(&mut self) {
        self.comment(
            0,
            "Written by `overcoat import` from roles/, vars/, group_vars/, the inventory and the \
             wrapper playbooks. Review each line with \"check\".",
        );
        self.line("#");
        self.line("#     overcoat build            builds all images that are out of date");
        self.line("#     overcoat build NAME…      builds some images, and the images they need");
        self.line("");
    }

    /// Writes a comment about a release that is out of use.
    fn advice(&mut self, indent: usize, release: &str, archive: Option<&DebianArchive>) {
        if is_out_of_use(release) {
            let kernels = kernel_versions(self.tree);
            self.comment(indent, &format!("Check: {}", advice(release, archive, &kernels)));
        }
    }

    /// Returns the variable that determines a setting for all images.
    fn setting(&self, name: &str) -> Option<&Global> {
        let mut all = self.tree.of_local.iter().chain(&self.tree.globals);
        all.find(|global| global.name == name)
    }

    /// Returns a comment that names the file of a variable for all images.
    fn origin(&self, name: &str) -> String {
        let global = self.setting(name);
        let file = global.map(|global| global.file.display().to_string());
        format!("{name} in {}", file.unwrap_or_default())
    }

    /// Writes the settings for all images.
    fn settings(&mut self) {
        let all = self.all.clone();
        let mut settings: Vec<(String, String)> = Vec::new();
        match &all.release {
            Some(release) => settings.push((
                format!("release: {}", plain_or_quoted(release)),
                self.origin("debootstrap_release"),
            )),
            None if !self.bases.is_empty() => settings.push((
                format!("release: {DEFAULT_RELEASE}"),
                "check: there is no debootstrap_release".to_owned(),
            )),
            None => {}
        }
        let from = ["debootstrap_apt_server", "apt_server"];
        let from = from.into_iter().find(|name| self.setting(name).is_some());
        if let Some(archive) = &all.archive {
            let release = all.release.as_deref().unwrap_or(DEFAULT_RELEASE);
            let lines = archive_lines(archive, release, &all.components);
            settings.push((lines, self.origin(from.unwrap_or("apt_server"))));
        }
        if !all.components.is_empty() {
            settings.push((
                format!("components: {}", flow(&all.components)),
                self.origin("debootstrap_components"),
            ));
        }
        if let Some(architecture) = &all.architecture {
            settings.push((
                format!("architecture: {}", plain_or_quoted(architecture)),
                self.origin("debootstrap_arch"),
            ));
        }
        let scope = self.tree.settings_of(None);
        match scope.get("build_artifact_path") {
            Some(path) => {
                settings.push((
                    format!("output: {}", plain_or_quoted(&path)),
                    self.origin("build_artifact_path"),
                ));
            }
            None => {
                settings
                    .push(("output: build".to_owned(), "the directory for artifacts".to_owned()));
            }
        }
        if let Some(release) = all.release.as_deref().filter(|_| !self.bases.is_empty()) {
            self.advice(0, release, all.archive.as_ref());
        }
        for (line, from) in settings {
            let (first, rest) = line.split_once('\n').unwrap_or((&line, ""));
            self.line(&format!("{first:<39} # {from}"));
            self.text.push_str(rest);
        }
        if all.archive.as_ref().is_some_and(DebianArchive::is_ubuntu) {
            self.comment(
                0,
                "Needed if the host is not Ubuntu: the keys of the package ubuntu-keyring",
            );
            self.line("#keyring: /usr/share/keyrings/ubuntu-archive-keyring.gpg");
        }
        self.cleanup();
    }

    /// Writes the clean-up steps that replace `clean_fs.yml`.
    fn cleanup(&mut self) {
        let WrapperCleanup { exists, is_broken, docs, locales, initramfs } =
            self.tree.wrappers.cleanup;
        let removed = [("docs", docs), ("locales", locales)];
        let steps: Vec<String> = removed
            .iter()
            .filter(|(_, removed)| *removed)
            .map(|(step, _)| format!("{step}: true"))
            .collect();
        if !exists || steps.is_empty() {
            return;
        }
        self.line("");
        let kept = match initramfs {
            true => " It also removed initramfs-tools, which is kept.",
            false => "",
        };
        let text = match is_broken {
            true => {
                "The clean_fs.yml of on-imagebuilder removed these in addition to caches, lists \
                     and logs. That of this tree has a mistake and was not read."
                    .to_owned()
            }
            false => format!(
                "common/tasks/clean_fs.yml removed these in addition to caches, lists and logs.\
                 {kept}"
            ),
        };
        self.comment(0, &text);
        self.line(&format!("cleanup: {{{}}}", steps.join(", ")));
    }

    /// Writes the variables for all images that roles may use.
    /// Returns their names.
    fn variables(&mut self) -> BTreeSet<String> {
        let mut lines = String::new();
        let mut file = None;
        let (mut set_here, mut unused, mut invalid) = (Vec::new(), Vec::new(), Vec::new());
        let mut names = BTreeSet::new();
        for global in &self.tree.globals {
            let conversion = Conversion::of(global, &self.used);
            let Some(value) = conversion.lines(global, 2) else {
                let left_out = match conversion {
                    Conversion::SetByOvercoat => &mut set_here,
                    Conversion::Invalid => &mut invalid,
                    _ => &mut unused,
                };
                left_out.push(global.name.as_str());
                continue;
            };
            if file != Some(&global.file) {
                file = Some(&global.file);
                lines.push_str(&format!("  # {}\n", global.file.display()));
            }
            lines.push_str(&archive_comment(self.tree, global, 2));
            lines.push_str(&value);
            names.insert(global.name.clone());
        }
        // Roles of images do not have the variables of the host around builds.
        let of_local = self.tree.of_local.iter().filter(|global| {
            let is_named = |config: &Config| config.of_host.iter().any(|g| g.name == global.name);
            !self.tree.configs.iter().any(is_named)
                && Conversion::of(global, &self.used) == Conversion::Keep
        });
        let of_local: Vec<&str> = of_local.map(|global| global.name.as_str()).collect();
        self.line("");
        self.comment(
            0,
            "Variables for all roles. overcoat sets `build_root` and `build_artifact_path` for each \
             image.",
        );
        for (why, names) in [
            ("overcoat sets them", set_here),
            ("no role uses them", unused),
            ("their names are invalid, also in Ansible", invalid),
            ("only the host around builds has them, and no image", of_local),
        ] {
            if !names.is_empty() {
                self.comment(0, &format!("Left out because {why}: {}.", names.join(", ")));
            }
        }
        if lines.is_empty() {
            self.line("variables: {}");
        } else {
            self.line("variables:");
            self.text.push_str(&lines);
        }
        names
    }

    fn image(&mut self, config: &Config, initrds: usize) {
        self.line(&format!("  {}:", config.name));
        let scope = self.tree.settings_of(Some(config));
        match config.kind {
            ConfigKind::Base => self.base(config, &scope),
            ConfigKind::Overlay => {
                self.key("kind", "overlay");
                self.layers(&scope);
                self.provisioner(config, None, &[]);
                let name = scope.get("overlayfs_archive_name").map(|name| match name {
                    name if name.ends_with(".gz") => name,
                    name => format!("{name}.gz"),
                });
                self.output(config, name, "cpio.gz");
            }
            ConfigKind::Initrd => self.initrd(config, &scope, initrds),
        }
    }

    fn base(&mut self, config: &Config, scope: &TreeVariables) {
        self.key("kind", "base");
        let own = ImportedSettings::new(scope);
        match &own.release {
            Some(release) if own.release != self.all.release || !self.has_release => {
                self.advice(4, release, own.archive.as_ref());
                self.key("release", &plain_or_quoted(release));
            }
            None if !self.has_release => {
                self.comment(4, "Check: there is no debootstrap_release.");
                self.key("release", DEFAULT_RELEASE);
            }
            _ => {}
        }
        if own.archive != self.all.archive
            && let Some(archive) = &own.archive
        {
            let release = own.release.as_deref().unwrap_or(DEFAULT_RELEASE);
            for line in archive_lines(archive, release, &own.components).lines() {
                self.line(&format!("    {line}"));
            }
        }
        if own.architecture != self.all.architecture
            && let Some(architecture) = &own.architecture
        {
            self.key("architecture", &plain_or_quoted(architecture));
        }
        match (own.variant, scope.raw("debootstrap_variant")) {
            (Some("important"), _) => {
                self.key("variant", "important  # the default variant of debootstrap");
            }
            (Some(variant), _) => self.key("variant", variant),
            (None, Some(other)) => {
                self.comment(4, &format!("Check: debootstrap_variant is {}", other.trim()));
                self.key("variant", "minbase");
            }
            (None, None) => self.key("variant", "minbase"),
        }
        let mut packages = own.packages.clone();
        packages.extend(BOOT_PACKAGES.map(str::to_owned));
        self.comment(
            4,
            "Ansible needs Python in the root. The others boot the machine: minbase has no init.",
        );
        self.key("packages", &flow(&packages));
        if scope.raw("basefs_exclude_packages").is_some() {
            self.comment(
                4,
                "Check: basefs_exclude_packages is not supported. If the role installs one of these \
                 packages (`overcoat run NAME -- dpkg -l` lists all), remove it at the end of the \
                 role.",
            );
        }
        self.provisioner(config, None, &[]);
        self.output(config, scope.get("basefs_image_name"), "squashfs");
    }

    /// Writes the base of an image.
    pub(super) fn layers(&mut self, scope: &TreeVariables) {
        if let Some(base) = self.base {
            self.key("base", &layer(base));
            return;
        }
        let same = |base: &&&Config| {
            let of_base = self.tree.settings_of(Some(base));
            ["basefs_image_name", "squashfs_image_path"]
                .iter()
                .all(|name| scope.raw(name) == of_base.raw(name))
        };
        let fitting: Vec<String> = self.bases.iter().filter(same).map(|b| b.name.clone()).collect();
        let names: Vec<String> = self.bases.iter().map(|base| base.name.clone()).collect();
        let base = match (names.as_slice(), fitting.as_slice()) {
            ([], _) => {
                let text = "Check: the tree has no base. Write the path of an image, or import with \
                            the option --base.";
                self.comment(4, text);
                self.key("base", NO_BASE);
                return;
            }
            ([one], _) => one.clone(),
            (_, [one]) => {
                self.comment(
                    4,
                    &format!("Selected by basefs_image_name from {}.", names.join(", ")),
                );
                one.clone()
            }
            _ => {
                let text = format!("Check: the base may be any of {}.", names.join(", "));
                self.comment(4, &text);
                names[0].clone()
            }
        };
        self.key("base", &base);
    }

    /// Writes provisioner and variables, by naming the config file where possible. `more` is
    /// another provisioner, and `own` lines of variables that the config file does not have.
    pub(super) fn provisioner(&mut self, config: &Config, more: Option<&str>, own: &[String]) {
        let file = config.file.display().to_string();
        let in_file = config.refused.is_none() && config.named_by == NamedBy::YamlKey;
        let use_file = in_file || config.refused.is_none() && !config.variables.is_empty();
        if use_file {
            self.key("config_file", &plain_or_quoted(&file));
        }
        match &config.named_by {
            NamedBy::Script(pair) => {
                self.comment(4, &format!("From {}.", pair.script.display()));
            }
            NamedBy::Comment => match &config.replaced {
                None => self.comment(4, "From a comment in the config file."),
                Some(replaced) => {
                    let named = &replaced.named;
                    let text = format!("Chosen by its variables. The config file names {named}.");
                    self.comment(4, &text);
                }
            },
            NamedBy::YamlKey => {}
        }
        let mut roles = self.tree.roles_of(config);
        let installs_sshd =
            config.kind != ConfigKind::Initrd && self.installs(config, "openssh-server");
        if roles.len() > 1 {
            self.comment(4, "Roles that the wrapper playbook runs for all images are among these.");
        }
        if installs_sshd {
            self.comment(4, "The clean-up removes SSH host keys: each machine generates its own.");
            roles.push("library:ssh-host-keys".to_owned());
        }
        roles.extend(more.map(str::to_owned));
        match roles.as_slice() {
            [_] if in_file => {}
            [one] => self.key("provisioner", &plain_or_quoted(one)),
            several => self.key("provisioner", &flow(several)),
        }
        let mut variables: Vec<String> =
            own.iter().map(|variable| format!("      {variable}\n")).collect();
        variables.extend(self.group_variables(config));
        if let Some(problem) = &config.refused {
            if !config.variables.is_empty() {
                self.comment(
                    4,
                    &format!(
                        "A copy of the variables in {file}, which cannot be used as a config_file \
                         ({problem}). The file itself is not read."
                    ),
                );
            }
            let parameters = self.tree.parameters_of(config).0;
            for (name, value) in &config.variables {
                if parameters.iter().any(|(parameter, _)| parameter == name) {
                    continue;
                }
                if is_name(name) && !matches!(name.as_str(), "build_root" | "build_artifact_path") {
                    variables.push(entry(name, value, 6));
                } else {
                    let text = format!("left out: the variable {name}");
                    self.notes.push(Note::at(&config.file, value.span.line, text));
                }
            }
        }
        variables.extend(self.parameters(config));
        if !variables.is_empty() {
            self.line("    variables:");
            self.text.push_str(&variables.concat());
        }
    }

    /// Returns the lines of the variables that the host of an image has, and not all images.
    fn group_variables(&self, config: &Config) -> Vec<String> {
        let mut lines = Vec::new();
        let mut file = None;
        for global in self.tree.group_variables_of(config) {
            let Some(line) = Conversion::of(global, &self.used).lines(global, 6) else { continue };
            if file != Some(&global.file) {
                file = Some(&global.file);
                lines.push(format!("      # {}\n", global.file.display()));
            }
            lines.push(archive_comment(self.tree, global, 6));
            lines.push(line);
        }
        lines
    }

    /// Returns the lines of the parameters that the wrapper playbook passes to the role.
    fn parameters(&self, config: &Config) -> Vec<String> {
        let (parameters, playbook) = self.tree.parameters_of(config);
        if parameters.is_empty() {
            return Vec::new();
        }
        let comment = format!("      # Parameters of the role in {}\n", playbook.display());
        let lines = parameters.iter().map(|(name, value)| entry(name, value, 6));
        [comment].into_iter().chain(lines).collect()
    }

    /// Returns whether the roles or the variables of an image name a package.
    fn installs(&self, config: &Config, package: &str) -> bool {
        let roles = self.tree.roles_of(config);
        let files = roles.iter().filter_map(|role| self.tree.files_of(Path::new(role)).ok());
        let files = files.flatten().chain([config.file.clone()]);
        let texts = files.filter_map(|file| super::tree::text(&self.tree.folder, &file).ok());
        texts.into_iter().any(|text| text.contains(package))
    }

    /// Writes the name of the output file, if it differs from that of the image.
    fn output(&mut self, config: &Config, name: Option<String>, format: &str) {
        let own = format!("{}.{format}", config.name);
        let plain = |name: &String| {
            !name.contains('/') && !name.starts_with(['.', '-']) && !name.trim().is_empty()
        };
        match name.filter(plain).filter(|name| self.outputs.insert(name.clone())) {
            Some(name) if name == own => {}
            Some(name) => {
                self.key("output", &plain_or_quoted(&name));
                if !name.ends_with(&format!(".{format}")) {
                    self.key("format", format);
                }
            }
            None => {
                self.outputs.insert(own);
            }
        }
    }
}

/// Returns the lines of a comment about the archives in a variable; empty if they have no problem.
fn archive_comment(tree: &ImagebuilderTree, global: &Global, indent: usize) -> String {
    let Some(advice) = archive_advice(tree, &global.value) else { return String::new() };
    let lines = wrapped(&format!("Check: {advice}"), 96 - indent).into_iter();
    lines.map(|line| format!("{}# {line}\n", " ".repeat(indent))).collect()
}

/// Returns the variables with the version of a kernel, each with its file if that is read: config
/// files are, and the project has a copy of other variables.
fn kernel_versions(tree: &ImagebuilderTree) -> Vec<String> {
    let is_version = |name: &str, value: &YamlNode| {
        let text = value.text("a version").unwrap_or_default();
        name.contains("kernel_version") && !text.contains("{{")
    };
    let everything = tree.everything.iter().filter(|g| is_version(&g.name, &g.value));
    let mut found: BTreeSet<String> = everything.map(|global| global.name.clone()).collect();
    for config in &tree.configs {
        for (name, _) in config.variables.iter().filter(|(name, value)| is_version(name, value)) {
            found.insert(match config.refused {
                None => format!("{name} in {}", config.file.display()),
                Some(_) => name.clone(),
            });
        }
    }
    found.into_iter().collect()
}

/// Returns the path of a layer, with `./` where it could be the name of an image.
fn layer(path: &str) -> String {
    if path.contains(['/', '.']) {
        plain_or_quoted(path)
    } else {
        plain_or_quoted(&format!("./{path}"))
    }
}
