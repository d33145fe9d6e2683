//! Programs that only some commands need: for bases, Ansible roles and booting. Also apt's
//! settings.

use std::io;
use std::process::{Child, Command, Stdio};

use super::{DoctorFinding, DoctorState};
use crate::root::lend::Host;
use crate::sandbox::{MissingRequirement, find_program};
use crate::seal::squashfs;
use crate::text::error::describe;
use crate::vm::BootError;
use crate::vm::kvm::{self, KvmRemedy};
use crate::vm::qemu::{self, Accelerator};

const BASE_COMMANDS: &str = "bases (build, base)";
const ROLE_COMMANDS: &str = "build, for Ansible roles";
/// The Ansible connection plugin that runs roles in a root.
const CHROOT_PLUGIN: &str = "community.general.chroot";

pub(super) fn findings(ansible: Ansible) -> Vec<DoctorFinding> {
    vec![mmdebstrap(), mksquashfs(), packages(), ansible.finding(), machine(), kvm_finding()]
}

/// Returns the first line of a program's version message.
fn version(program: &str, option: &str) -> io::Result<String> {
    let output = Command::new(program).arg(option).stdin(Stdio::null()).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    match text.lines().next() {
        // Some programs exit with 1 after printing it.
        Some(line) => Ok(line.trim().to_owned()),
        None => {
            let stderr = String::from_utf8_lossy(&output.stderr);
            let reason = stderr.lines().last().unwrap_or("no output");
            Err(io::Error::other(reason.to_owned()))
        }
    }
}

fn mmdebstrap() -> DoctorFinding {
    let name = "mmdebstrap";
    let without = "bases can be made from existing root file systems (from:)";
    if find_program(name).is_none() {
        let lack = MissingRequirement::program(name, name);
        return DoctorFinding::new(name, BASE_COMMANDS, DoctorState::Lacks, String::new())
            .missing(lack)
            .without(without);
    }
    match version(name, "--version") {
        Ok(message) => DoctorFinding::new(name, BASE_COMMANDS, DoctorState::Works, message),
        Err(error) => DoctorFinding::new(
            name,
            BASE_COMMANDS,
            DoctorState::Lacks,
            format!("it does not run: {error}"),
        )
        .fixed_by("apt install --reinstall mmdebstrap")
        .without(without),
    }
}

fn mksquashfs() -> DoctorFinding {
    let (name, purpose) = ("mksquashfs", "bases, and outputs that end in .squashfs");
    let lacks = |message| DoctorFinding::new(name, purpose, DoctorState::Lacks, message);
    if let Err(lack) = squashfs::available() {
        return lacks(String::new()).missing(lack);
    }
    let version = version(name, "-version").unwrap_or_default();
    let version = version.split(" (").next().unwrap_or_default();
    match squashfs::write_empty_image() {
        Ok(()) => {
            let message = format!("{version}; it wrote an image");
            DoctorFinding::new(name, purpose, DoctorState::Works, message)
        }
        Err(error) => lacks(format!("{version}: {error}"))
            .fixed_by("apt install squashfs-tools")
            .advice("overcoat needs squashfs-tools 4.5 or newer, with zstd"),
    }
}

fn packages() -> DoctorFinding {
    let options = Host::current().apt_options();
    let proxies: Vec<_> = options.iter().filter(|option| option.contains("roxy")).collect();
    let message = match proxies.first() {
        Some(first) => format!("fetched with this host's apt settings: {first}"),
        None => "fetched without a proxy: this host's apt settings have none".to_owned(),
    };
    DoctorFinding::new("packages", "build, run, shell: apt inside", DoctorState::Works, message)
}

/// The version queries of Ansible, which take a second and run in the background.
#[derive(Debug)]
pub(super) struct Ansible(Option<(io::Result<Child>, io::Result<Child>)>);

impl Ansible {
    /// Starts the queries.
    pub(super) fn start() -> Self {
        let spawn = |program: &str, arguments: &[&str]| {
            let mut command = Command::new(program);
            command.args(arguments).env("LC_ALL", "C.UTF-8").env("ANSIBLE_NOCOLOR", "1");
            // As in a build, Ansible has no home directory and must not create one.
            command.env("ANSIBLE_HOME", "/dev/null/none");
            command.env("ANSIBLE_LOCAL_TEMP", std::env::temp_dir());
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()
        };
        Ansible(find_program("ansible-playbook").map(|_| {
            let playbook = spawn("ansible-playbook", &["--version"]);
            let chroot = ["-t", "connection", "--json", CHROOT_PLUGIN];
            (playbook, spawn("ansible-doc", &chroot))
        }))
    }

    fn finding(self) -> DoctorFinding {
        let name = "ansible";
        let lacks = |message| DoctorFinding::new(name, ROLE_COMMANDS, DoctorState::Lacks, message);
        let Some((playbook, chroot)) = self.0 else {
            return lacks(String::new())
                .missing(MissingRequirement::program("ansible-playbook", name));
        };
        let output = |child: io::Result<Child>| {
            let output = child?.wait_with_output()?;
            let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            match output.status.success() {
                true => Ok(text),
                false => Err(io::Error::other(stderr)),
            }
        };
        let version = match output(playbook) {
            Ok(text) => text.lines().next().unwrap_or_default().to_owned(),
            Err(error) => return lacks(format!("ansible-playbook does not run: {error}")),
        };
        match output(chroot) {
            Ok(text) if text.contains(CHROOT_PLUGIN) => DoctorFinding::new(
                name,
                ROLE_COMMANDS,
                DoctorState::Works,
                format!("{version}, with {CHROOT_PLUGIN}"),
            ),
            // An unknown plugin is only a warning.
            _ => lacks(format!("{version}, without {CHROOT_PLUGIN}")).fixed_by(
                "ansible-galaxy collection install -p /usr/share/ansible/collections \
                 community.general",
            ),
        }
    }
}

fn machine() -> DoctorFinding {
    let name = "qemu";
    match qemu::try_accelerator(Accelerator::Tcg) {
        Ok(()) => {
            let message = "a machine with a bootable network card was created".to_owned();
            DoctorFinding::new(name, "boot", DoctorState::Works, message)
        }
        Err(BootError::MissingRequirement(lack)) => {
            DoctorFinding::new(name, "boot", DoctorState::Lacks, String::new()).missing(lack)
        }
        Err(error) => {
            let message = describe(&error);
            let finding = DoctorFinding::new(name, "boot", DoctorState::Lacks, message.clone());
            match message.contains(".rom") || message.contains("romfile") {
                true => finding.fixed_by("apt install ipxe-qemu"),
                false => finding.fixed_by("apt install --reinstall qemu-system-x86"),
            }
        }
    }
}

fn kvm_finding() -> DoctorFinding {
    let name = "kvm";
    let without = "machines are emulated, which is about ten times slower";
    let lacks =
        |message| DoctorFinding::new(name, "boot", DoctorState::Lacks, message).without(without);
    if let Err(error) = kvm::open() {
        let finding = lacks(format!("{}: {error}", kvm::DEVICE));
        if let Some(KvmRemedy { command, advice }) = kvm::remedy(&error) {
            return DoctorFinding { command, advice: advice.map(str::to_owned), ..finding };
        }
        return finding.fixed_by("modprobe -a kvm_intel kvm_amd").advice(
            "enable virtualization in the firmware, or on the host of this virtual machine",
        );
    }
    match qemu::try_accelerator(Accelerator::Kvm) {
        Ok(()) => {
            let message = "a machine was created, but not run".to_owned();
            DoctorFinding::new(name, "boot", DoctorState::Works, message)
        }
        Err(BootError::MissingRequirement(_)) => {
            let message = "/dev/kvm can be opened; not tested further without QEMU".to_owned();
            DoctorFinding::new(name, "boot", DoctorState::Untried, message)
        }
        Err(error) => lacks(describe(&error)),
    }
}

/// Formats a size in GB.
pub(super) fn size(bytes: u64) -> String {
    format!("{:.1} GB", bytes as f64 / 1e9)
}
