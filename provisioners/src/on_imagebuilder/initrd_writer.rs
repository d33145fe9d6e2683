//! Writes the images of the kind `initrd`.

use std::path::Path;

use super::initramfs_modules::{RoleModules, modules_of_role};
use super::project_writer::Writer;
use super::settings::TreeVariables;
use super::tree::{self, Config};
use super::yaml_writer::{flow, glob};

/// The default of the variable `modules` of library:initrd.
pub(super) const DEFAULT_MODULES: [&str; 6] =
    ["squashfs", "overlay", "loop", "virtio_net", "virtio_pci", "virtio_blk"];

/// Programs that create an initrd.
const INITRD_PROGRAMS: [&str; 3] = ["mkinitramfs", "update-initramfs", "dracut"];

impl Writer<'_> {
    /// Writes an initrd. `initrds` is the number of initrds of the tree.
    pub(super) fn initrd(&mut self, config: &Config, scope: &TreeVariables, initrds: usize) {
        self.key("kind", "initrd");
        self.comment(
            4,
            "on-imagebuilder creates the initrd in a root of its own. Here it is created in the \
             root of the base, whose image is not changed.",
        );
        self.layers(scope);
        let files = self.tree.files_of(Path::new(&config.provisioner)).unwrap_or_default();
        let made = files.iter().any(|file| {
            let text = tree::text(&self.tree.folder, file).unwrap_or_default();
            INITRD_PROGRAMS.iter().any(|program| text.contains(program))
        });
        if made {
            self.comment(
                4,
                "The role creates the initrd. With `boot_script: local`, `overcoat boot` and \
                 `overcoat serve` do not send `boot=overcoat`, a script that it does not have.",
            );
            self.provisioner(config, None, &["boot_script: local".to_owned()]);
        } else {
            self.comment(
                4,
                "Machines boot by overcoat's script, also if the server does not send \
                 `boot=overcoat`. To boot by the role's own script, write `boot_script: local`, and \
                 use `overcoat boot` with `--until` if that script accepts one overlay only.",
            );
            let mut variables = vec!["kernel: \"\"".to_owned(), "boot_script: overcoat".to_owned()];
            variables.extend(self.modules(config));
            self.provisioner(config, Some("library:initrd"), &variables);
        }
        self.yields(config, scope, initrds);
    }

    /// Writes a comment about the modules of the role, which library:initrd replaces. Returns the
    /// line with the variable, unless its default has all of them.
    fn modules(&mut self, config: &Config) -> Option<String> {
        let made = "After the role, library:initrd creates the initrd of each kernel in /boot.";
        let replaces = "Its /etc/initramfs-tools/modules replaces the role's";
        match modules_of_role(self.tree, Path::new(&config.provisioner)) {
            RoleModules::Unknown => {
                self.comment(
                    4,
                    &format!(
                        "Check: after the role, library:initrd creates the initrd of each kernel in \
                         /boot. {replaces}: write the modules of the role to `variables` as \
                         `modules: [squashfs, overlay, loop, MODULE…]`."
                    ),
                );
                None
            }
            RoleModules::Known(modules) if modules.is_empty() => {
                self.comment(4, made);
                None
            }
            RoleModules::Known(modules) => {
                let mut all: Vec<String> = DEFAULT_MODULES.map(str::to_owned).to_vec();
                all.extend(modules.into_iter().filter(|m| !DEFAULT_MODULES.contains(&m.as_str())));
                let has_more = all.len() > DEFAULT_MODULES.len();
                let place = match has_more {
                    true => "whose modules are in `modules`",
                    false => "whose modules are in the default of `modules`",
                };
                self.comment(4, &format!("{made} {replaces}, {place}."));
                has_more.then(|| format!("modules: {}", flow(&all)))
            }
        }
    }

    /// Writes the files that are copied out of the root.
    fn yields(&mut self, config: &Config, scope: &TreeVariables, initrds: usize) {
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
}
