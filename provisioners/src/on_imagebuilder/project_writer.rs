//! Writes the text of the project file.

use std::collections::BTreeSet;

use super::Note;
use super::settings::{self, DebianArchive, Global, ImportedSettings, TreeVariables};
use super::tree::{Config, ConfigKind, ImagebuilderTree, NamedBy};
use super::yaml_writer::{entry, plain_or_quoted};

/// Release of a base if no variable names one.
const DEFAULT_RELEASE: &str = "bookworm";

/// Returns the text of the project file, and the names of its images.
pub(super) fn write(
    tree: &ImagebuilderTree,
    base: Option<&str>,
    notes: &mut Vec<Note>,
) -> (String, Vec<String>) {
    let mut images: Vec<&Config> = Vec::new();
    for config in &tree.configs {
        match base {
            Some(base) if config.kind == ConfigKind::Base => {
                let text = format!("left out: {base} is the base");
                notes.push(Note { file: config.file.clone(), line: None, text });
            }
            _ => images.push(config),
        }
    }
    let mut writer = Writer {
        tree,
        base,
        bases: images.iter().copied().filter(|config| config.kind == ConfigKind::Base).collect(),
        all: ImportedSettings::new(&TreeVariables::new(&tree.globals, &[])),
        outputs: BTreeSet::new(),
        text: String::new(),
        notes,
    };
    writer.head();
    writer.settings();
    writer.variables(&images);
    writer.text.push_str("\nimages:\n");
    let initrds = images.iter().filter(|config| config.kind == ConfigKind::Initrd).count();
    for (index, config) in images.iter().enumerate() {
        if index > 0 {
            writer.text.push('\n');
        }
        writer.image(config, initrds);
    }
    (writer.text, images.iter().map(|config| config.name.clone()).collect())
}

struct Writer<'a> {
    tree: &'a ImagebuilderTree,
    base: Option<&'a str>,
    bases: Vec<&'a Config>,
    all: ImportedSettings,
    /// The output files of all images so far, to give each image a unique one.
    outputs: BTreeSet<String>,
    text: String,
    notes: &'a mut Vec<Note>,
}

impl Writer<'_> {
    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    /// Writes a key of an image.
    fn key(&mut self, key: &str, value: &str) {
        self.line(&format!("    {key}: {value}"));
    }

    fn comment(&mut self, indent: usize, text: &str) {
        for line in wrapped(text, 96 - indent) {
            self.line(&format!("{}# {line}", " ".repeat(indent)));
        }
    }

    fn head(&mut self) {
        self.comment(
            0,
            "Written by `overcoat import` from roles/, vars/, group_vars/ and the inventory. Roles \
             and config files are used unchanged. Review each line with \"check\".",
        );
        self.line("#");
        self.line("#     overcoat build            builds all images that are out of date");
        self.line("#     overcoat build NAME…      builds some images, and the images they need");
        self.line("");
    }

    /// Returns a comment that names the file of a variable for all images.
    fn origin(&self, name: &str) -> String {
        let global = self.tree.globals.iter().find(|global| global.name == name);
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
        let from = from.into_iter().find(|name| self.tree.globals.iter().any(|g| g.name == *name));
        if let Some(archive) = &all.archive {
            settings.push((archive_key(archive), self.origin(from.unwrap_or("apt_server"))));
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
        let scope = TreeVariables::new(&self.tree.globals, &[]);
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
        for (line, from) in settings {
            self.line(&format!("{line:<39} # {from}"));
        }
        if matches!(&all.archive, Some(DebianArchive::Mirror(url)) if url.contains("ubuntu")) {
            self.comment(
                0,
                "Needed if the host is not Ubuntu: the keys of the package ubuntu-keyring",
            );
            self.line("#keyring: /usr/share/keyrings/ubuntu-archive-keyring.gpg");
        }
        if self.tree.folder.join("common/tasks/clean_fs.yml").is_file() {
            self.line("");
            self.comment(
                0,
                "common/tasks/clean_fs.yml removed these in addition to caches, lists and logs.",
            );
            self.line("cleanup: {docs: true, locales: true}");
        }
    }

    /// Writes the variables for all images that roles may use.
    fn variables(&mut self, images: &[&Config]) {
        let used = self.texts_with_variables(images);
        let mut lines = String::new();
        let mut file = None;
        let mut omitted = Vec::new();
        for global in &self.tree.globals {
            let value = match conversion(global, &used) {
                Conversion::Keep => entry(&global.name, &global.value, 2),
                Conversion::BuildRoot => {
                    format!("  {}: \"{{{{ build_root }}}}\"\n", global.name)
                }
                Conversion::Omit => {
                    omitted.push(global.name.as_str());
                    continue;
                }
            };
            if file != Some(&global.file) {
                file = Some(&global.file);
                lines.push_str(&format!("  # {}\n", global.file.display()));
            }
            lines.push_str(&value);
        }
        self.line("");
        self.comment(
            0,
            "Variables for all roles. overcoat sets `build_root` and `build_artifact_path` for each \
             image.",
        );
        if !omitted.is_empty() {
            self.comment(
                0,
                &format!("Left out because no role uses them: {}.", omitted.join(", ")),
            );
        }
        if lines.is_empty() {
            self.line("variables: {}");
        } else {
            self.line("variables:");
            self.text.push_str(&lines);
        }
    }

    /// Returns all texts that may use a variable: the roles of these images, their config files,
    /// and the variables for all images that are kept.
    fn texts_with_variables(&self, images: &[&Config]) -> String {
        let mut text = String::new();
        let roles = self.tree.role_files().unwrap_or_default();
        for file in roles.iter().chain(images.iter().map(|config| &config.file)) {
            text.push_str(&super::tree::text(&self.tree.folder, file).unwrap_or_default());
            text.push('\n');
        }
        // A kept variable may use others, which must be kept too.
        let mut kept = BTreeSet::new();
        loop {
            let more = self.tree.globals.iter().filter(|global| {
                !kept.contains(&global.name)
                    && matches!(conversion(global, &text), Conversion::Keep)
            });
            let more: Vec<&Global> = more.collect();
            if more.is_empty() {
                return text;
            }
            for global in more {
                kept.insert(global.name.clone());
                text.push_str(&entry("value", &global.value, 0));
            }
        }
    }

    fn image(&mut self, config: &Config, initrds: usize) {
        self.line(&format!("  {}:", config.name));
        let scope = TreeVariables::new(&self.tree.globals, &config.variables);
        match config.kind {
            ConfigKind::Base => self.base(config, &scope),
            ConfigKind::Overlay => {
                self.key("kind", "overlay");
                self.layers(config, &scope);
                self.provisioner(config, None);
                let name = scope.get("overlayfs_archive_name").map(|name| match name {
                    name if name.ends_with(".gz") => name,
                    name => format!("{name}.gz"),
                });
                self.output(config, name, "cpio.gz");
            }
            ConfigKind::Initrd => self.initrd(config, &scope, initrds),
        }
    }

    fn base(&mut self, config: &Config, scope: &TreeVariables<'_>) {
        self.key("kind", "base");
        let own = ImportedSettings::new(scope);
        if own.release != self.all.release
            && let Some(release) = &own.release
        {
            self.key("release", &plain_or_quoted(release));
        }
        if own.archive != self.all.archive
            && let Some(archive) = &own.archive
        {
            self.line(&format!("    {}", archive_key(archive)));
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
        self.comment(4, "Ansible needs Python in the root.");
        self.key("packages", &flow(&own.packages));
        if scope.raw("basefs_exclude_packages").is_some() {
            self.comment(
                4,
                "Check: basefs_exclude_packages is not supported. If one of these packages gets \
                 installed, remove it in the role.",
            );
        }
        self.provisioner(config, None);
        self.output(config, scope.get("basefs_image_name"), "squashfs");
    }

    fn initrd(&mut self, config: &Config, scope: &TreeVariables<'_>, initrds: usize) {
        self.key("kind", "initrd");
        self.comment(
            4,
            "on-imagebuilder creates the initrd in a root of its own. Here it is created in the \
             root of the base, whose image is not changed.",
        );
        self.layers(config, scope);
        let files = self.tree.files_of(config).unwrap_or_default();
        let makes = ["mkinitramfs", "update-initramfs", "dracut"];
        let made = files.iter().any(|file| {
            let text = super::tree::text(&self.tree.folder, file).unwrap_or_default();
            makes.iter().any(|program| text.contains(program))
        });
        if made {
            self.provisioner(config, None);
        } else {
            self.comment(
                4,
                "Check: after the role, library:initrd creates the initrd of each kernel in /boot. \
                 Its /etc/initramfs-tools/modules replaces the role's: list the modules in \
                 `variables`.",
            );
            self.provisioner(config, Some(("library:initrd", "kernel: \"\"")));
        }
        let version = scope.get("initrd_kernel_version").filter(|version| {
            version.chars().all(|c| c.is_ascii_alphanumeric() || ".+~-_".contains(c))
        });
        let (name, at) = match (&version, initrds) {
            (Some(version), _) => (format!("-{version}"), version.as_str()),
            (None, 1) => (String::new(), "*"),
            (None, _) => (format!("-{}", config.name), "*"),
        };
        self.comment(4, "The files that are copied out of the root. The role must create them.");
        self.line("    yields:");
        for file in ["vmlinuz", "initrd.img"] {
            let mut name = format!("{file}{name}");
            if !self.outputs.insert(name.clone()) {
                name = format!("{file}-{}", config.name);
                self.outputs.insert(name.clone());
            }
            self.line(&format!("      {name}: {}", glob(&format!("/boot/{file}-{at}"))));
        }
    }

    /// Writes the base of an image.
    fn layers(&mut self, config: &Config, scope: &TreeVariables<'_>) {
        if let Some(base) = self.base {
            self.key("base", &layer(base));
            return;
        }
        let same = |base: &&&Config| {
            let of_base = TreeVariables::new(&self.tree.globals, &base.variables);
            ["basefs_image_name", "squashfs_image_path"]
                .iter()
                .all(|name| scope.raw(name) == of_base.raw(name))
        };
        let fitting: Vec<String> = self.bases.iter().filter(same).map(|b| b.name.clone()).collect();
        let names: Vec<String> = self.bases.iter().map(|base| base.name.clone()).collect();
        let base = match (names.as_slice(), fitting.as_slice()) {
            ([], _) => {
                let text = "the tree has no base for it: write its path as `base`, or use the \
                            option --base of import";
                self.notes.push(Note {
                    file: config.file.clone(),
                    line: None,
                    text: text.to_owned(),
                });
                self.comment(4, "Check: the tree has no base. Write the path of an image.");
                self.key("base", "./base.squashfs");
                return;
            }
            ([one], _) => one.clone(),
            (_, [one]) => {
                self.comment(
                    4,
                    &format!("Check: selected by basefs_image_name from {}.", names.join(", ")),
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

    /// Writes provisioner and variables, by naming the config file where possible. `more` is a
    /// second provisioner and a variable for it.
    fn provisioner(&mut self, config: &Config, more: Option<(&str, &str)>) {
        let file = config.file.display().to_string();
        let in_file = config.refused.is_none() && config.named_by == NamedBy::YamlKey;
        let use_file = in_file || config.refused.is_none() && !config.variables.is_empty();
        if use_file {
            self.key("config_file", &plain_or_quoted(&file));
        }
        match &config.named_by {
            NamedBy::Script(script) => {
                self.comment(4, &format!("From {}.", script.display()));
            }
            NamedBy::Comment => self.comment(4, "Check: from a comment in the config file."),
            NamedBy::YamlKey => {}
        }
        match more {
            Some((other, _)) => {
                let role = plain_or_quoted(&config.provisioner);
                self.key("provisioner", &format!("[{role}, {other}]"));
            }
            None if !in_file => self.key("provisioner", &plain_or_quoted(&config.provisioner)),
            None => {}
        }
        let mut variables: Vec<String> =
            more.iter().map(|(_, variable)| format!("      {variable}\n")).collect();
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
            for (name, value) in &config.variables {
                if is_name(name) && !matches!(name.as_str(), "build_root" | "build_artifact_path") {
                    variables.push(entry(name, value, 6));
                } else {
                    let line = Some(value.span.line);
                    let text = format!("left out: the variable {name}");
                    self.notes.push(Note { file: config.file.clone(), line, text });
                }
            }
        }
        if !variables.is_empty() {
            self.line("    variables:");
            self.text.push_str(&variables.concat());
        }
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

/// How a variable for all images is converted.
enum Conversion {
    /// It becomes a variable of the project.
    Keep,
    /// It becomes another name of `build_root`.
    BuildRoot,
    /// It is left out.
    Omit,
}

fn conversion(global: &Global, used: &str) -> Conversion {
    let name = global.name.as_str();
    // overcoat sets the variables of the connection to the root.
    let of_ansible = name.starts_with("ansible_") && name != "ansible_dependencies";
    if matches!(name, "build_root" | "build_artifact_path") || of_ansible || !is_name(name) {
        return Conversion::Omit;
    }
    if settings::is_build_root(name) {
        return if has_word(used, name) { Conversion::BuildRoot } else { Conversion::Omit };
    }
    let special = settings::CONVERTED_VARIABLES.contains(&name)
        || settings::WRAPPER_VARIABLES.contains(&name);
    if special && !has_word(used, name) { Conversion::Omit } else { Conversion::Keep }
}

/// Returns whether a text contains a word, not only as part of longer words.
fn has_word(text: &str, word: &str) -> bool {
    let part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.match_indices(word)
        .any(|(at, _)| !text[..at].ends_with(part) && !text[at + word.len()..].starts_with(part))
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn archive_key(archive: &DebianArchive) -> String {
    match archive {
        DebianArchive::Server(host) => format!("apt_server: {}", plain_or_quoted(host)),
        DebianArchive::Mirror(url) => format!("mirror: {}", plain_or_quoted(url)),
    }
}

/// Returns a list in flow style.
fn flow(words: &[String]) -> String {
    format!("[{}]", words.iter().map(|w| plain_or_quoted(w)).collect::<Vec<_>>().join(", "))
}

/// Returns the path of a layer, with `./` where it could be the name of an image.
fn layer(path: &str) -> String {
    if path.contains(['/', '.']) {
        plain_or_quoted(path)
    } else {
        plain_or_quoted(&format!("./{path}"))
    }
}

/// Returns a path or pattern as a value. A pattern needs no quotes unless it begins with `*`, and
/// these begin with `/`.
fn glob(path: &str) -> String {
    if path.contains('*') { path.to_owned() } else { plain_or_quoted(path) }
}

/// Wraps a text into lines of at most `width` characters, except for longer words.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.len() - 1;
        let line = &mut lines[line];
        if line.is_empty() {
            line.push_str(word);
        } else if line.chars().count() + 1 + word.chars().count() <= width {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}
