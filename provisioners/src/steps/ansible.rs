//! The step that runs an Ansible role, as it is, by the real `ansible-playbook`.
//!
//! It runs outside, in the sandbox's namespaces: with the host's Ansible, with the rights that
//! commands inside have, and with the root as a host of the connection `community.general.chroot`.
//! So tasks act on the root, and `local_action` and `delegate_to: localhost` on the host's tree,
//! where the root is at `build_root`.
//!
//! What runs in the root gets the environment that scripts there have; Ansible itself, and with it
//! what runs on the host, has the caller's `PATH` and `HOME`.
//!
//! The play, the inventory and the variables stand in a scratch place of the root; what Ansible
//! keeps for itself while it runs lies in the sandbox's own `/tmp`. Nothing of it is captured.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::{Context, StepError, below, packages};
use crate::machine::{Command, Machine, MachineError};
use crate::variables::Variable;

/// The file that makes a folder an Ansible role.
const TASKS: [&str; 3] = ["tasks/main.yml", "tasks/main.yaml", "tasks/main"];

/// Where Ansible keeps what it needs while it runs, inside: the sandbox's own `/tmp`.
const TEMPORARY: &str = "/tmp/.ansible";

/// What to say when it is not there.
const MISSING: &str = "ansible-playbook is not installed; as root: `apt install ansible`";

/// Where the root's Python is.
const PYTHON: &str = "/usr/bin/python3";

/// What every module of Ansible's takes of Python's own; python3-minimal has a part of it.
const IMPORTS: &str = "import base64, json, platform, runpy, shutil, subprocess, tempfile, zipfile";

/// What to say when that is not there.
const NO_PYTHON: &str = "the root has no whole Python, which Ansible needs: add the package python3 \
                         to the base or to a provisioner before the role";

/// The variable of Ansible's by which a project says where another Python is.
const INTERPRETER: &str = "ansible_python_interpreter";

/// The program that Ansible is told to enter the root by: chroot, with the environment of commands
/// inside. Ansible passes its own on, with the caller's `PATH` and `HOME` and all that is said to
/// Ansible in it.
const CHROOT: &str = "#!/bin/sh
chroot=$(PATH=$PATH:/usr/sbin:/sbin; command -v chroot) || chroot=chroot
for name in $(env | sed -n 's/^\\(ANSIBLE_[A-Z_]*\\)=.*/\\1/p'); do unset \"$name\"; done
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
export PATH HOME
# Each task finds the files that are lent to the root, whatever an earlier one did to them.
[ -e \"$1/.overcoat-bell\" ]
exec \"$chroot\" \"$@\"
";

/// A role to run.
#[derive(Debug, Clone)]
pub(crate) struct Role {
    folder: PathBuf,
    name: String,
}

/// Whether `folder` is an Ansible role.
pub(crate) fn is_role(folder: &Path) -> bool {
    TASKS.iter().any(|tasks| folder.join(tasks).is_file())
}

impl Role {
    /// The role in `folder`.
    pub(crate) fn new(folder: &Path) -> Self {
        let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
        let name = folder.file_name().unwrap_or(folder.as_os_str()).to_string_lossy().into_owned();
        Self { folder, name }
    }

    /// Its folder on the host.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn name(&self) -> String {
        format!("ansible role {}", self.name)
    }

    /// Finds out whether there is an Ansible to run it.
    pub(crate) fn check(&self) -> Result<(), StepError> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        if std::env::split_paths(&path).any(|dir| dir.join("ansible-playbook").is_file()) {
            Ok(())
        } else {
            Err(StepError::Impossible(MISSING.to_owned()))
        }
    }

    pub(crate) fn run(&self, context: &mut Context<'_>) -> Result<(), StepError> {
        self.check_python(context)?;
        let root = context.root_outside()?;
        let temporary = below(&root, Path::new(TEMPORARY));
        let options = context.options;
        let chroot =
            context.machine.scratch(Path::new("ansible/chroot"), &mut CHROOT.as_bytes(), 0o755)?;
        let chroot = below(&root, &chroot);
        let mut lay = |name: &str, content: Variable| {
            lay(context.machine, name, &content).map(|inside| below(&root, &inside))
        };
        let playbook = lay("playbook.yml", self.play())?;
        let inventory = lay("inventory.yml", inventory(&root, &chroot, &temporary))?;
        let given: Vec<_> = context.variables.iter().collect();
        let mut variables: Vec<_> =
            given.into_iter().map(|(name, value)| (name, value.clone())).collect();
        // These win: nobody but overcoat knows them, and on-imagebuilder's config files say where
        // they were there.
        variables.extend([
            ("build_root", text(&root)),
            ("build_artifact_path", text(options.artifacts.as_deref().unwrap_or(Path::new(".")))),
        ]);
        let variables = lay("variables.yml", map(variables))?;

        let mut command = Command::outside("ansible-playbook")
            .arg("--inventory")
            .arg(inventory)
            .arg("--extra-vars")
            .arg(format!("overcoat_variables={}", variables.display()))
            .args(&options.ansible)
            .arg(playbook);
        command.cwd = self.folder.clone();
        for (name, value) in packages::ENVIRONMENT {
            command = command.env(name, value);
        }
        for (name, value) in self.environment(&temporary) {
            command = command.env(name, value);
        }
        context.command("ansible-playbook", &command)
    }

    /// That the root has what Ansible's modules run by: without, it fails late, in words that do not
    /// say why.
    fn check_python(&self, context: &mut Context<'_>) -> Result<(), StepError> {
        if context.variables.iter().any(|(name, _)| name == INTERPRETER) {
            return Ok(());
        }
        let command = Command::new(PYTHON).arg("-c").arg(IMPORTS);
        let whole = context.machine.stat(Path::new(PYTHON))?.is_some()
            && context.machine.run(&command, &mut ())?.success();
        if whole { Ok(()) } else { Err(StepError::Impossible(NO_PYTHON.to_owned())) }
    }

    /// One play: the variables, then the role.
    fn play(&self) -> Variable {
        // As the files that Ansible itself reads variables from, these come before those of roles
        // and after what tasks set.
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
            ("ANSIBLE_REMOTE_TEMP", Path::new(TEMPORARY).join("remote").into()),
            ("ANSIBLE_PYTHON_INTERPRETER", "auto_silent".into()),
            ("ANSIBLE_RETRY_FILES_ENABLED", "false".into()),
            ("ANSIBLE_NOCOLOR", "true".into()),
            ("ANSIBLE_NOCOWS", "true".into()),
            ("ANSIBLE_LOCALHOST_WARNING", "false".into()),
            // Python would leave compiled files beside the modules of roles.
            ("PYTHONDONTWRITEBYTECODE", "1".into()),
        ]
    }
}

/// Where the roles are that the role in `folder` names: by their names beside it, or as
/// on-imagebuilder's projects do, by their kind and name (`basefs/common`) in the folder above.
pub(crate) fn roles_path(folder: &Path) -> impl Iterator<Item = &Path> {
    let beside = folder.parent().unwrap_or(folder);
    [Some(beside), beside.parent()].into_iter().flatten()
}

/// The root as the host of the play, and this one for what is delegated to it.
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

/// Lays a file of Ansible's into the scratch place; gives its path inside. JSON is YAML.
fn lay(machine: &mut dyn Machine, name: &str, content: &Variable) -> Result<PathBuf, MachineError> {
    let content = content.to_string();
    machine.scratch(&Path::new("ansible").join(name), &mut content.as_bytes(), 0o644)
}

fn text(path: &Path) -> Variable {
    Variable::Text(path.to_string_lossy().into_owned())
}

fn map<'a>(entries: impl IntoIterator<Item = (&'a str, Variable)>) -> Variable {
    Variable::Map(entries.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}
