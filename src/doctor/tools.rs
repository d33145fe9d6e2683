//! Programs that some commands run: for bases, for Ansible roles, for booting; and the way to
//! packages.

use std::io;
use std::process::{Child, Command, Stdio};

use super::{Finding, State};
use crate::boot::BootError;
use crate::boot::qemu::{self, Accelerator};
use crate::lend::Host;
use crate::sandbox::{MissingRequirement, find_program};
use crate::seal::squashfs;

const BASES: &str = "bases (build, base)";
const ROLES: &str = "build, for Ansible roles";
/// How roles are run in a root.
const CHROOT: &str = "community.general.chroot";

pub(super) fn findings(ansible: Ansible) -> Vec<Finding> {
    vec![mmdebstrap(), mksquashfs(), packages(), ansible.finding(), machine(), kvm()]
}

/// The first line that a program says of itself.
fn version(program: &str, option: &str) -> io::Result<String> {
    let output = Command::new(program).arg(option).stdin(Stdio::null()).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    match text.lines().next() {
        // Some end with 1 after it.
        Some(line) => Ok(line.trim().to_owned()),
        None => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(io::Error::other(said.lines().last().unwrap_or("it says nothing").to_owned()))
        }
    }
}

fn mmdebstrap() -> Finding {
    let name = "mmdebstrap";
    let without = "other root file systems can be taken in (from:)";
    if find_program(name).is_none() {
        let lack = MissingRequirement::program(name, name);
        return Finding::new(name, BASES, State::Lacks, String::new())
            .lacking(lack)
            .without(without);
    }
    match version(name, "--version") {
        Ok(says) => Finding::new(name, BASES, State::Works, says),
        Err(error) => Finding::new(name, BASES, State::Lacks, format!("it does not run: {error}"))
            .mended_by("apt install --reinstall mmdebstrap")
            .without(without),
    }
}

fn mksquashfs() -> Finding {
    let (name, purpose) = ("mksquashfs", "bases, and outputs that end in .squashfs");
    let lacks = |says| Finding::new(name, purpose, State::Lacks, says);
    if let Err(lack) = squashfs::available() {
        return lacks(String::new()).lacking(lack);
    }
    let version = version(name, "-version").unwrap_or_default();
    let version = version.split(" (").next().unwrap_or_default();
    match squashfs::write_empty_image() {
        Ok(()) => {
            let says = format!("{version}, and it wrote an image");
            Finding::new(name, purpose, State::Works, says)
        }
        Err(error) => lacks(format!("{version}: {error}"))
            .mended_by("apt install squashfs-tools")
            .advice("overcoat needs squashfs-tools 4.5 or newer, with zstd"),
    }
}

fn packages() -> Finding {
    let options = Host::current().apt_options();
    let proxies: Vec<_> = options.iter().filter(|option| option.contains("roxy")).collect();
    let says = match proxies.first() {
        Some(first) => format!("fetched with apt's settings of this host: {first}"),
        None => "fetched without a proxy: apt's settings here name none".to_owned(),
    };
    Finding::new("packages", "build, run, shell: apt inside", State::Works, says)
}

/// Ansible, being asked what it is, which takes a second.
#[derive(Debug)]
pub(super) struct Ansible(Option<(io::Result<Child>, io::Result<Child>)>);

impl Ansible {
    /// Starts to ask.
    pub(super) fn ask() -> Self {
        let start = |program: &str, arguments: &[&str]| {
            let mut command = Command::new(program);
            command.args(arguments).env("LC_ALL", "C.UTF-8").env("ANSIBLE_NOCOLOR", "1");
            // As in a build it has no home, and makes none either.
            command.env("ANSIBLE_HOME", "/dev/null/none");
            command.env("ANSIBLE_LOCAL_TEMP", std::env::temp_dir());
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()
        };
        Ansible(find_program("ansible-playbook").map(|_| {
            let playbook = start("ansible-playbook", &["--version"]);
            let chroot = ["-t", "connection", "--json", CHROOT];
            (playbook, start("ansible-doc", &chroot))
        }))
    }

    fn finding(self) -> Finding {
        let name = "ansible";
        let lacks = |says| Finding::new(name, ROLES, State::Lacks, says);
        let Some((playbook, chroot)) = self.0 else {
            return lacks(String::new())
                .lacking(MissingRequirement::program("ansible-playbook", name));
        };
        let says = |child: io::Result<Child>| {
            let output = child?.wait_with_output()?;
            let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            let complaint = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            match output.status.success() {
                true => Ok(text),
                false => Err(io::Error::other(complaint)),
            }
        };
        let version = match says(playbook) {
            Ok(text) => text.lines().next().unwrap_or_default().to_owned(),
            Err(error) => return lacks(format!("ansible-playbook does not run: {error}")),
        };
        match says(chroot) {
            Ok(text) if text.contains(CHROOT) => {
                Finding::new(name, ROLES, State::Works, format!("{version}, with {CHROOT}"))
            }
            // That it knows no such connection is a warning to it.
            _ => lacks(format!("{version}, without {CHROOT}")).mended_by(
                "ansible-galaxy collection install -p /usr/share/ansible/collections \
                 community.general",
            ),
        }
    }
}

fn machine() -> Finding {
    let name = "qemu";
    match qemu::try_out(Accelerator::Tcg) {
        Ok(()) => {
            let says = "a machine with a network card that boots was made".to_owned();
            Finding::new(name, "boot", State::Works, says)
        }
        Err(BootError::MissingRequirement(lack)) => {
            Finding::new(name, "boot", State::Lacks, String::new()).lacking(lack)
        }
        Err(error) => {
            let says = error.to_string();
            let finding = Finding::new(name, "boot", State::Lacks, says.clone());
            match says.contains(".rom") || says.contains("romfile") {
                true => finding.mended_by("apt install ipxe-qemu"),
                false => finding.mended_by("apt install --reinstall qemu-system-x86"),
            }
        }
    }
}

fn kvm() -> Finding {
    let name = "kvm";
    let without = "machines are emulated, some ten times as slow";
    let lacks = |says| Finding::new(name, "boot", State::Lacks, says).without(without);
    let device = std::path::Path::new("/dev/kvm");
    match std::fs::File::options().read(true).write(true).open(device) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let user = nix::unistd::User::from_uid(nix::unistd::getuid()).ok().flatten();
            let user = user.map_or_else(|| "YOU".to_owned(), |user| user.name);
            return lacks(format!("/dev/kvm: {error}"))
                .mended_by(format!("usermod --append --groups kvm {user}"))
                .advice("log in anew after it");
        }
        Err(error) => {
            return lacks(format!("/dev/kvm: {error}"))
                .mended_by("modprobe -a kvm_intel kvm_amd")
                .advice(
                    "switch virtualization on in the firmware, or in the host of this machine",
                );
        }
        Ok(_) => {}
    }
    match qemu::try_out(Accelerator::Kvm) {
        Ok(()) => {
            let says = "a machine was made; whether it runs, boot will see".to_owned();
            Finding::new(name, "boot", State::Works, says)
        }
        Err(BootError::MissingRequirement(_)) => {
            let says = "/dev/kvm opens; not tried without QEMU".to_owned();
            Finding::new(name, "boot", State::Untried, says)
        }
        Err(error) => lacks(error.to_string()),
    }
}

/// Bytes as a person reads them.
pub(super) fn size(bytes: u64) -> String {
    format!("{:.1} GB", bytes as f64 / 1e9)
}
