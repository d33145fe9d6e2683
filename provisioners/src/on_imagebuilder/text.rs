//! The text of the project file.

use std::collections::BTreeSet;

use super::Note;
use super::emit::{entry, word};
use super::settings::{self, Archive, Scope, Settings};
use super::tree::{Config, Global, Kind, NamedBy, Tree};

/// The release of a base where nothing says one.
const RELEASE: &str = "bookworm";

/// Writes the project file; the names of its images.
pub(super) fn write(
    tree: &Tree,
    base: Option<&str>,
    notes: &mut Vec<Note>,
) -> (String, Vec<String>) {
    let mut images: Vec<&Config> = Vec::new();
    for config in &tree.configs {
        match base {
            Some(base) if config.kind == Kind::Base => {
                let text = format!("left out: {base} is the base");
                notes.push(Note { file: config.file.clone(), line: None, text });
            }
            _ => images.push(config),
        }
    }
    let mut writer = Writer {
        tree,
        base,
        bases: images.iter().copied().filter(|config| config.kind == Kind::Base).collect(),
        all: Settings::of(&Scope::new(&tree.globals, &[])),
        outputs: BTreeSet::new(),
        text: String::new(),
        notes,
    };
    writer.head();
    writer.settings();
    writer.variables(&images);
    writer.text.push_str("\nimages:\n");
    let initrds = images.iter().filter(|config| config.kind == Kind::Initrd).count();
    for (index, config) in images.iter().enumerate() {
        if index > 0 {
            writer.text.push('\n');
        }
        writer.image(config, initrds);
    }
    (writer.text, images.iter().map(|config| config.name.clone()).collect())
}

struct Writer<'a> {
    tree: &'a Tree,
    base: Option<&'a str>,
    bases: Vec<&'a Config>,
    all: Settings,
    /// The files that are written, so that no two images write one.
    outputs: BTreeSet<String>,
    text: String,
    notes: &'a mut Vec<Note>,
}

impl Writer<'_> {
    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    /// A key of an image, and why it is so.
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
            "The images of this tree, as `overcoat import` read roles/, vars/, group_vars/ and the \
             inventory. The roles and config files are used as they are. Look at each line that \
             says \"check\".",
        );
        self.line("#");
        self.line("#     overcoat build            what is out of date");
        self.line("#     overcoat build NAME…      some of it, and what that needs");
        self.line("");
    }

    /// Where a variable for all is from.
    fn origin(&self, name: &str) -> String {
        let global = self.tree.globals.iter().find(|global| global.name == name);
        let file = global.map(|global| global.file.display().to_string());
        format!("{name} of {}", file.unwrap_or_default())
    }

    /// What is overcoat's own.
    fn settings(&mut self) {
        let all = self.all.clone();
        let mut said: Vec<(String, String)> = Vec::new();
        match &all.release {
            Some(release) => said
                .push((format!("release: {}", word(release)), self.origin("debootstrap_release"))),
            None if !self.bases.is_empty() => said.push((
                format!("release: {RELEASE}"),
                "check: no debootstrap_release says it".to_owned(),
            )),
            None => {}
        }
        let from = ["debootstrap_apt_server", "apt_server"];
        let from = from.into_iter().find(|name| self.tree.globals.iter().any(|g| g.name == *name));
        if let Some(archive) = &all.archive {
            said.push((written(archive), self.origin(from.unwrap_or("apt_server"))));
        }
        if !all.components.is_empty() {
            said.push((
                format!("components: {}", flow(&all.components)),
                self.origin("debootstrap_components"),
            ));
        }
        if let Some(architecture) = &all.architecture {
            said.push((
                format!("architecture: {}", word(architecture)),
                self.origin("debootstrap_arch"),
            ));
        }
        let scope = Scope::new(&self.tree.globals, &[]);
        match scope.get("build_artifact_path") {
            Some(path) => {
                said.push((format!("output: {}", word(&path)), self.origin("build_artifact_path")));
            }
            None => said.push(("output: build".to_owned(), "the folder of the images".to_owned())),
        }
        for (line, from) in said {
            self.line(&format!("{line:<39} # {from}"));
        }
        if matches!(&all.archive, Some(Archive::Mirror(url)) if url.contains("ubuntu")) {
            self.comment(
                0,
                "Where the host is no Ubuntu: its keys, from the package ubuntu-keyring",
            );
            self.line("#keyring: /usr/share/keyrings/ubuntu-archive-keyring.gpg");
        }
        if self.tree.folder.join("common/tasks/clean_fs.yml").is_file() {
            self.line("");
            self.comment(
                0,
                "What common/tasks/clean_fs.yml took out, besides caches, lists and logs.",
            );
            self.line("cleanup: {docs: true, locales: true}");
        }
    }

    /// The variables for all that roles may want.
    fn variables(&mut self, images: &[&Config]) {
        let used = self.mentioned(images);
        let mut lines = String::new();
        let mut file = None;
        let mut left = Vec::new();
        for global in &self.tree.globals {
            let value = match fate(global, &used) {
                Fate::Kept => entry(&global.name, &global.value, 2),
                Fate::Root => format!("  {}: \"{{{{ build_root }}}}\"\n", global.name),
                Fate::Left => {
                    left.push(global.name.as_str());
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
            "Variables for all roles. `build_root` and `build_artifact_path` are set for each image \
             by overcoat.",
        );
        if !left.is_empty() {
            self.comment(
                0,
                &format!("Left out, since no role asks for them: {}.", left.join(", ")),
            );
        }
        if lines.is_empty() {
            self.line("variables: {}");
        } else {
            self.line("variables:");
            self.text.push_str(&lines);
        }
    }

    /// All that is written in the roles of these images and in their config files, and in what of
    /// the variables for all is kept by that.
    fn mentioned(&self, images: &[&Config]) -> String {
        let mut text = String::new();
        let roles = self.tree.role_files().unwrap_or_default();
        for file in roles.iter().chain(images.iter().map(|config| &config.file)) {
            text.push_str(&super::tree::text(&self.tree.folder, file).unwrap_or_default());
            text.push('\n');
        }
        // What is kept may name others, which are kept then.
        let mut kept = BTreeSet::new();
        loop {
            let more = self.tree.globals.iter().filter(|global| {
                !kept.contains(&global.name) && matches!(fate(global, &text), Fate::Kept)
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
        let scope = Scope::new(&self.tree.globals, &config.variables);
        match config.kind {
            Kind::Base => self.of_base(config, &scope),
            Kind::Overlay => {
                self.key("kind", "overlay");
                self.lies_on(config, &scope);
                self.provisioner(config, None);
                let name = scope.get("overlayfs_archive_name").map(|name| match name {
                    name if name.ends_with(".gz") => name,
                    name => format!("{name}.gz"),
                });
                self.output(config, name, "cpio.gz");
            }
            Kind::Initrd => self.of_initrd(config, &scope, initrds),
        }
    }

    fn of_base(&mut self, config: &Config, scope: &Scope<'_>) {
        self.key("kind", "base");
        let own = Settings::of(scope);
        if own.release != self.all.release
            && let Some(release) = &own.release
        {
            self.key("release", &word(release));
        }
        if own.archive != self.all.archive
            && let Some(archive) = &own.archive
        {
            self.line(&format!("    {}", written(archive)));
        }
        if own.architecture != self.all.architecture
            && let Some(architecture) = &own.architecture
        {
            self.key("architecture", &word(architecture));
        }
        match (own.variant, scope.raw("debootstrap_variant")) {
            (Some("important"), _) => {
                self.key("variant", "important  # what debootstrap installs without a variant");
            }
            (Some(variant), _) => self.key("variant", variant),
            (None, Some(other)) => {
                self.comment(4, &format!("Check: debootstrap_variant is {}", other.trim()));
                self.key("variant", "minbase");
            }
            (None, None) => self.key("variant", "minbase"),
        }
        self.comment(4, "Ansible needs a Python in the root that it works on.");
        self.key("packages", &flow(&own.packages));
        if scope.raw("basefs_exclude_packages").is_some() {
            self.comment(
                4,
                "Check: basefs_exclude_packages has no equal here. Should one of those packages \
                 come along, have the role take it away.",
            );
        }
        self.provisioner(config, None);
        self.output(config, scope.get("basefs_image_name"), "squashfs");
    }

    fn of_initrd(&mut self, config: &Config, scope: &Scope<'_>, initrds: usize) {
        self.key("kind", "initrd");
        self.comment(
            4,
            "The original makes a root for it. Here it is made in that of the base, which stays as \
             it is.",
        );
        self.lies_on(config, scope);
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
                "Check: after the role, library:initrd makes the initrd of each kernel that is in \
                 /boot. Its /etc/initramfs-tools/modules takes the place of the role's: name the \
                 modules in `variables`.",
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
        self.comment(
            4,
            "The files that are taken out of the root, so the role has to leave them there.",
        );
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

    /// What an image lies on.
    fn lies_on(&mut self, config: &Config, scope: &Scope<'_>) {
        if let Some(base) = self.base {
            self.key("base", &layer(base));
            return;
        }
        let same = |base: &&&Config| {
            let of_base = Scope::new(&self.tree.globals, &base.variables);
            ["basefs_image_name", "squashfs_image_path"]
                .iter()
                .all(|name| scope.raw(name) == of_base.raw(name))
        };
        let fitting: Vec<String> = self.bases.iter().filter(same).map(|b| b.name.clone()).collect();
        let names: Vec<String> = self.bases.iter().map(|base| base.name.clone()).collect();
        let base = match (names.as_slice(), fitting.as_slice()) {
            ([], _) => {
                let text = "nothing in the tree makes the base that it lies on: name it, or give \
                            --base to import";
                self.notes.push(Note {
                    file: config.file.clone(),
                    line: None,
                    text: text.to_owned(),
                });
                self.comment(4, "Check: nothing in the tree makes a base. Name the image.");
                self.key("base", "./base.squashfs");
                return;
            }
            ([one], _) => one.clone(),
            (_, [one]) => {
                self.comment(
                    4,
                    &format!("Check: basefs_image_name says so; there are {}.", names.join(", ")),
                );
                one.clone()
            }
            _ => {
                let text = format!("Check: nothing says on which of {} it lies.", names.join(", "));
                self.comment(4, &text);
                names[0].clone()
            }
        };
        self.key("base", &base);
    }

    /// The provisioner and the variables, by the config file where that can be named. With `more`,
    /// another provisioner after it, and a variable for that.
    fn provisioner(&mut self, config: &Config, more: Option<(&str, &str)>) {
        let file = config.file.display().to_string();
        let is_said = config.refused.is_none() && config.named_by == NamedBy::Key;
        let by_file = is_said || config.refused.is_none() && !config.variables.is_empty();
        if by_file {
            self.key("config_file", &word(&file));
        }
        match &config.named_by {
            NamedBy::Script(script) => {
                self.comment(4, &format!("As {} says.", script.display()));
            }
            NamedBy::Comment => self.comment(4, "Check: a comment in the config file says so."),
            NamedBy::Key => {}
        }
        match more {
            Some((other, _)) => {
                self.key("provisioner", &format!("[{}, {other}]", word(&config.provisioner)));
            }
            None if !is_said => self.key("provisioner", &word(&config.provisioner)),
            None => {}
        }
        let mut variables: Vec<String> =
            more.iter().map(|(_, variable)| format!("      {variable}\n")).collect();
        if let Some(problem) = &config.refused {
            if !config.variables.is_empty() {
                self.comment(
                    4,
                    &format!(
                        "The variables of {file}, which a project can't name as it is ({problem}). \
                         The file itself is not read any more."
                    ),
                );
            }
            for (name, value) in &config.variables {
                if is_name(name) && !matches!(name.as_str(), "build_root" | "build_artifact_path") {
                    variables.push(entry(name, value, 6));
                } else {
                    let line = Some(value.place.line);
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

    /// The file that is written, if it has a name other than the image's.
    fn output(&mut self, config: &Config, name: Option<String>, format: &str) {
        let own = format!("{}.{format}", config.name);
        let plain = |name: &String| {
            !name.contains('/') && !name.starts_with(['.', '-']) && !name.trim().is_empty()
        };
        match name.filter(plain).filter(|name| self.outputs.insert(name.clone())) {
            Some(name) if name == own => {}
            Some(name) => {
                self.key("output", &word(&name));
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

/// What becomes of a variable for all.
enum Fate {
    /// It is one of the project.
    Kept,
    /// It is another name of `build_root`.
    Root,
    /// It is no more.
    Left,
}

fn fate(global: &Global, used: &str) -> Fate {
    let name = global.name.as_str();
    // How Ansible reaches the root, overcoat says.
    let of_ansible = name.starts_with("ansible_") && name != "ansible_dependencies";
    if matches!(name, "build_root" | "build_artifact_path") || of_ansible || !is_name(name) {
        return Fate::Left;
    }
    if settings::is_build_root(name) {
        return if has_word(used, name) { Fate::Root } else { Fate::Left };
    }
    let special = settings::TAKEN.contains(&name) || settings::OF_WRAPPERS.contains(&name);
    if special && !has_word(used, name) { Fate::Left } else { Fate::Kept }
}

/// Whether a text has this word, and not only longer ones that have it in them.
fn has_word(text: &str, word: &str) -> bool {
    let part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.match_indices(word)
        .any(|(at, _)| !text[..at].ends_with(part) && !text[at + word.len()..].starts_with(part))
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn written(archive: &Archive) -> String {
    match archive {
        Archive::Server(host) => format!("apt_server: {}", word(host)),
        Archive::Mirror(url) => format!("mirror: {}", word(url)),
    }
}

fn flow(words: &[String]) -> String {
    format!("[{}]", words.iter().map(|w| word(w)).collect::<Vec<_>>().join(", "))
}

/// The path of a layer, so that it is none of an image's name.
fn layer(path: &str) -> String {
    if path.contains(['/', '.']) { word(path) } else { word(&format!("./{path}")) }
}

/// A path with a pattern in it; a star at the beginning of a word would be something else.
fn glob(path: &str) -> String {
    if path.contains('*') { path.to_owned() } else { word(path) }
}

/// Breaks a text into lines of at most `width` characters, where that is possible.
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
