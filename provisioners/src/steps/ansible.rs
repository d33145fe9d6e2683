//! The step that runs an unmodified Ansible role with the host's `ansible-playbook`.
//!
//! `ansible-playbook` runs outside the root, in the sandbox's namespaces: with the programs of the
//! host, with the rights of commands inside, and with the root as a host of the connection
//! `community.general.chroot`. Tasks act on the root; `local_action` and `delegate_to: localhost`
//! act on the host's tree, where the root is at `build_root`.
//!
//! Commands in the root get the environment that scripts there have. Ansible itself and commands on
//! the host get the caller's `PATH` and `HOME`.
//!
//! The play, the inventory and the variables are scratch files of the root. Temporary files of
//! Ansible are in the sandbox's own `/tmp`. None of them are part of the image.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use super::ansible_tasks::TaskLog;
use super::{StepContext, StepError, packages, path_outside};
use crate::ansible::paths::roles_path;
use crate::machine::{CALLBACK_NAME, Command, Machine, MachineError};
use crate::variables::Variable;

/// Directory for temporary files of Ansible, inside the root, where `/tmp` is the sandbox's own.
const ANSIBLE_TEMP_DIR: &str = "/tmp/.ansible";

/// Message if the host has no Ansible.
const NO_ANSIBLE: &str = "ansible-playbook is not installed; as root: `apt install ansible`";

/// Python in the root.
const PYTHON: &str = "/usr/bin/python3";

/// Imports the standard modules that every module of Ansible needs. python3-minimal lacks some.
const PYTHON_IMPORTS: &str =
    "import base64, json, platform, runpy, shutil, subprocess, tempfile, zipfile";

/// Message if the root has no complete Python.
const NO_PYTHON: &str = "the root has no complete Python, which Ansible needs: add the package \
                         python3 to the base or to a provisioner before the role";

/// Ansible's variable that selects another Python.
const INTERPRETER_VARIABLE: &str = "ansible_python_interpreter";

/// Returns the program with which Ansible enters the root: chroot with the environment of commands
/// inside. Without it, Ansible passes on its own environment, which contains the caller's `PATH`
/// and `HOME` and the settings of Ansible.
fn chroot_script() -> String {
    format!(
        "#!/bin/sh
chroot=$(PATH=$PATH:/usr/sbin:/sbin; command -v chroot) || chroot=chroot
for name in $(env | sed -n 's/^\\(ANSIBLE_[A-Z_]*\\)=.*/\\1/p'); do unset \"$name\"; done
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
export PATH HOME
# Makes overcoat lend the host's files again, in case the previous task changed one.
[ -e \"$1/{CALLBACK_NAME}\" ]
exec \"$chroot\" \"$@\"
"
    )
}

/// An Ansible role to run.
#[derive(Debug, Clone)]
pub(crate) struct AnsibleRole {
    /// Its absolute path.
    folder: PathBuf,
    /// Its path in messages.
    named: PathBuf,
    name: String,
}

impl AnsibleRole {
    /// Creates the step for the role in `folder`.
    pub(crate) fn new(folder: &Path) -> Self {
        let named = folder.to_owned();
        let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
        let name = folder.file_name().unwrap_or(folder.as_os_str()).to_string_lossy().into_owned();
        Self { folder, named, name }
    }

    /// Returns the absolute path of its directory on the host.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the path of its directory as it was given.
    pub(crate) fn named_folder(&self) -> &Path {
        &self.named
    }

    pub(crate) fn name(&self) -> String {
        format!("ansible role {}", self.name)
    }

    /// Checks that `ansible-playbook` is installed.
    pub(crate) fn check(&self) -> Result<(), StepError> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        if std::env::split_paths(&path).any(|dir| dir.join("ansible-playbook").is_file()) {
            Ok(())
        } else {
            Err(StepError::Impossible(NO_ANSIBLE.to_owned()))
        }
    }

    pub(crate) fn run(&self, context: &mut StepContext<'_>) -> Result<(), StepError> {
        self.check_python(context)?;
        let root = context.root_outside()?;
        let temporary = path_outside(&root, Path::new(ANSIBLE_TEMP_DIR));
        let options = context.options;
        let chroot = context.machine.scratch(
            Path::new("ansible/chroot"),
            &mut chroot_script().as_bytes(),
            0o755,
        )?;
        let chroot = path_outside(&root, &chroot);
        let mut write = |name: &str, content: Variable| {
            write_scratch(context.machine, name, &content)
                .map(|inside| path_outside(&root, &inside))
        };
        let playbook = write("playbook.yml", self.play())?;
        let inventory = write("inventory.yml", inventory(&root, &chroot, &temporary))?;
        let given: Vec<_> = context.variables.iter().collect();
        let mut variables: Vec<_> =
            given.into_iter().map(|(name, value)| (name, value.clone())).collect();
        // These override variables of the image, since config files of on-imagebuilder set them to
        // its own paths.
        variables.extend([
            ("build_root", text(&root)),
            ("build_artifact_path", text(options.artifacts.as_deref().unwrap_or(Path::new(".")))),
        ]);
        let variables = write("variables.yml", map(variables))?;

        let mut command = Command::outside("ansible-playbook")
            .arg("--inventory")
            .arg(inventory)
            .arg("--extra-vars")
            .arg(format!("overcoat_variables={}", variables.display()))
            .args(&options.ansible)
            .arg(playbook);
        command.cwd = self.folder.clone();
        for (name, value) in packages::APT_ENVIRONMENT {
            command = command.env(name, value);
        }
        // Settings of the caller or the host would change the image.
        let settings = Path::new("ansible/ansible.cfg");
        let settings = context.machine.scratch(settings, &mut io::empty(), 0o644)?;
        command = command.env("ANSIBLE_CONFIG", path_outside(&root, &settings));
        for (name, value) in self.environment(&temporary) {
            command = command.env(name, value);
        }
        if !options.kernel_initrds {
            // The hook of initramfs-tools for kernel packages then makes no initrd. It takes a
            // minute, and no machine uses an initrd in an image. `update-initramfs` ignores it.
            command = command.env("INITRD", "No");
        }
        let mut tasks = TaskLog::new(context.log);
        let result = context.machine.run(&command, &mut tasks);
        tasks.finish(result.as_ref().is_ok_and(|exit| exit.success()));
        match result? {
            exit if exit.success() => Ok(()),
            exit => Err(StepError::Command { command: "ansible-playbook".to_owned(), exit }),
        }
    }

    /// Checks that the root has the Python modules that Ansible needs. Without this check Ansible
    /// fails later, with a message that does not name the cause.
    fn check_python(&self, context: &mut StepContext<'_>) -> Result<(), StepError> {
        if context.variables.iter().any(|(name, _)| name == INTERPRETER_VARIABLE) {
            return Ok(());
        }
        let command = Command::new(PYTHON).arg("-c").arg(PYTHON_IMPORTS);
        let whole = context.machine.stat(Path::new(PYTHON))?.is_some()
            && context.machine.run(&command, &mut ())?.success();
        if whole { Ok(()) } else { Err(StepError::Impossible(NO_PYTHON.to_owned())) }
    }

    /// Returns the play: loads the variables, then runs the role.
    fn play(&self) -> Variable {
        // Variables of include_vars override those of roles, and are overridden by set_fact.
        let variables = map([
            (
                "ansible.builtin.include_vars",
                map([("file", Variable::Text("{{ overcoat_variables }}".to_owned()))]),
            ),
            ("tags", Variable::List(vec![Variable::Text("always".to_owned())])),
            ("name", Variable::Text("the variables of the image".to_owned())),
        ]);
        Variable::List(vec![map([
            ("hosts", Variable::Text("root".to_owned())),
            ("name", Variable::Text(self.name.clone())),
            ("pre_tasks", Variable::List(vec![variables])),
            ("roles", Variable::List(vec![map([("role", text(&self.folder))])])),
        ])])
    }

    fn environment(&self, temporary: &Path) -> Vec<(&'static str, OsString)> {
        let mut roles = OsString::new();
        for (index, folder) in roles_path(&self.folder).enumerate() {
            roles.push(if index > 0 { ":" } else { "" });
            roles.push(folder);
        }
        vec![
            ("ANSIBLE_ROLES_PATH", roles),
            ("ANSIBLE_HOME", temporary.into()),
            ("ANSIBLE_LOCAL_TEMP", temporary.join("local").into()),
            ("ANSIBLE_REMOTE_TEMP", Path::new(ANSIBLE_TEMP_DIR).join("remote").into()),
            ("ANSIBLE_PYTHON_INTERPRETER", "auto_silent".into()),
            ("ANSIBLE_RETRY_FILES_ENABLED", "false".into()),
            ("ANSIBLE_NOCOLOR", "true".into()),
            ("ANSIBLE_NOCOWS", "true".into()),
            ("ANSIBLE_LOCALHOST_WARNING", "false".into()),
            // Without it, Python writes compiled files beside the modules of roles.
            ("PYTHONDONTWRITEBYTECODE", "1".into()),
        ]
    }
}

/// Returns the inventory: the root, and localhost for delegated tasks.
fn inventory(root: &Path, chroot: &Path, temporary: &Path) -> Variable {
    let word = |word: &str| Variable::Text(word.to_owned());
    let chroot = [
        ("ansible_connection", word("community.general.chroot")),
        ("ansible_chroot_exe", text(chroot)),
        ("ansible_host", text(root)),
    ];
    let local = [
        ("ansible_connection", word("local")),
        ("ansible_python_interpreter", word("{{ ansible_playbook_python }}")),
        ("ansible_remote_tmp", text(&temporary.join("delegated"))),
    ];
    let hosts = map([("root", map(chroot)), ("localhost", map(local))]);
    map([("all", map([("hosts", hosts)]))])
}

/// Writes a scratch file for Ansible, as JSON, which is also YAML. Returns its path inside the
/// root.
fn write_scratch(
    machine: &mut dyn Machine,
    name: &str,
    content: &Variable,
) -> Result<PathBuf, MachineError> {
    let content = content.to_string();
    machine.scratch(&Path::new("ansible").join(name), &mut content.as_bytes(), 0o644)
}

fn text(path: &Path) -> Variable {
    Variable::Text(path.to_string_lossy().into_owned())
}

fn map<'a>(entries: impl IntoIterator<Item = (&'a str, Variable)>) -> Variable {
    Variable::Map(entries.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}
