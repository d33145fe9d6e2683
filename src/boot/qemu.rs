//! A machine of QEMU's that boots from the network.
//!
//! Its only network is QEMU's own, in which the host's loopback is 10.0.2.2. Nobody reaches it there,
//! but it reaches what the host reaches, as this process. The first serial port is the console, the
//! second one the agent's. It ends with this process, whatever ends that.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use rustix::io::FdFlags;
use rustix::process::{PidfdFlags, Signal};

use super::BootError;
use crate::sandbox::{MissingRequirement, end_with_parent, find_program};

/// How the host's loopback is called inside.
pub const HOST: &str = "10.0.2.2";

const PROGRAM: &str = "qemu-system-x86_64";

/// The network card that machines have.
const CARD: &str = "virtio-net-pci";

fn missing() -> MissingRequirement {
    MissingRequirement::program(PROGRAM, "--no-install-recommends qemu-system-x86 ipxe-qemu")
}

/// Makes a machine on `accelerator`, with a network card that can boot, and never starts it.
///
/// # Errors
/// That QEMU is not there, or what it says.
pub fn try_out(accelerator: Accelerator) -> Result<(), BootError> {
    let program = find_program(PROGRAM).ok_or_else(missing)?;
    let mut command = Command::new(program);
    command
        .args(["-accel", accelerator.name(), "-cpu", "max", "-nodefaults"])
        .args(["-machine", "pc,graphics=off", "-display", "none", "-vga", "none", "-m", "64M"])
        .args(["-netdev", "user,id=net", "-device", &format!("{CARD},netdev=net,bootindex=1")])
        .args(["-S", "-monitor", "stdio"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    end_with_parent(&mut command);
    let mut child = command.spawn()?;
    if let Some(mut monitor) = child.stdin.take() {
        // It may have ended already, and says why.
        let _ = monitor.write_all(b"quit\n");
    }
    let output = child.wait_with_output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(io::Error::other(last_line(&output.stderr)).into()),
    }
}

fn last_line(said: &[u8]) -> String {
    String::from_utf8_lossy(said).lines().last().unwrap_or("QEMU says nothing").to_owned()
}

/// What a machine runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// The processor itself.
    Kvm,
    /// A program in its place, some ten times as slow.
    Tcg,
}

impl Accelerator {
    /// The best one that this user may use. Whether KVM works is seen when it is used: where this
    /// host is a virtual machine itself, it may not.
    pub fn best() -> Self {
        match File::options().read(true).write(true).open("/dev/kvm") {
            Ok(_) => Accelerator::Kvm,
            Err(_) => Accelerator::Tcg,
        }
    }

    /// Whether this user only lacks the right to use KVM.
    pub fn is_denied() -> bool {
        let opened = File::options().read(true).write(true).open("/dev/kvm");
        opened.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
    }

    /// Parameters of the kernel's that a machine on it needs.
    ///
    /// QEMU keeps what it has translated by virtual address. Where every process has its code at
    /// another one, it translates all of it anew for each, and a page that once was the shell of the
    /// initrd has so many translations that clearing it takes a second. Clocks are emulated in step,
    /// but not fast enough for the kernel's test of that. And now and then a processor stands still for
    /// ever in the kernel's tests of its ciphers, when another one patches the code that it runs.
    pub(super) fn parameters(self) -> &'static str {
        match self {
            Accelerator::Kvm => "",
            Accelerator::Tcg => "norandmaps tsc=reliable cryptomgr.notests=1",
        }
    }

    /// QEMU's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Accelerator::Kvm => "kvm",
            Accelerator::Tcg => "tcg",
        }
    }
}

/// The machine to make.
#[derive(Debug, Clone)]
pub struct Options {
    /// What it runs on.
    pub accelerator: Accelerator,
    /// Its memory in bytes.
    pub memory: u64,
    /// Its processors.
    pub processors: u32,
    /// What its firmware loads first, by HTTP.
    pub script: String,
    /// Whether it has this process's standard input as its keyboard.
    pub keyboard: bool,
}

/// A running machine.
#[derive(Debug)]
pub struct Machine {
    child: Child,
    pidfd: OwnedFd,
    /// What it writes to its console.
    pub console: File,
    /// The other end of the agent's port.
    pub agent: UnixStream,
    /// What QEMU itself has to say.
    pub complaints: File,
}

impl Machine {
    /// Switches it on.
    ///
    /// # Errors
    /// When QEMU is not there.
    pub fn start(options: &Options) -> Result<Self, BootError> {
        let program = find_program(PROGRAM).ok_or_else(missing)?;
        let (agent, port) = UnixStream::pair()?;
        let mib = options.memory >> 20;
        let mut command = Command::new(program);
        command
            .args(["-accel", options.accelerator.name(), "-cpu", "max"])
            .args(["-no-reboot", "-nodefaults"])
            .args([
                "-machine",
                "pc,graphics=off,memory-backend=ram",
                "-display",
                "none",
                "-vga",
                "none",
            ])
            .args(["-m", &format!("{mib}M")])
            // Of its own, so that it can be told how much of it was touched.
            .args(["-object", &format!("memory-backend-memfd,id=ram,size={mib}M")])
            .args(["-smp", &options.processors.to_string()])
            .arg("-chardev")
            .arg(if options.keyboard {
                "stdio,id=console,mux=on,signal=off"
            } else {
                "stdio,id=console,signal=off"
            })
            .args(["-device", "isa-serial,chardev=console"])
            .arg("-chardev")
            .arg(format!("socket,id=agent,fd={}", port.as_raw_fd()))
            .args(["-device", "isa-serial,chardev=agent"])
            .arg("-netdev")
            .arg(format!("user,id=net,bootfile={}", options.script))
            .args(["-device", &format!("{CARD},netdev=net,bootindex=1")])
            .args(["-device", "virtio-rng-pci"]);
        if options.keyboard {
            command.args(["-mon", "chardev=console,mode=readline"]);
        }
        end_with_parent(&mut command);
        command.stdin(if options.keyboard { Stdio::inherit() } else { Stdio::null() });
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        // QEMU finds it by its number; no other thread starts programs.
        rustix::io::fcntl_setfd(&port, FdFlags::empty()).map_err(io::Error::from)?;
        let child = command.spawn();
        drop(port);
        let mut child = child?;
        let streams = child.stdout.take().zip(child.stderr.take());
        let pid = rustix::process::Pid::from_child(&child);
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty());
        let (Some((console, complaints)), Ok(pidfd)) = (streams, pidfd) else {
            let _ = child.kill();
            let _ = child.wait();
            return Err(io::Error::other("QEMU cannot be watched").into());
        };
        let console = File::from(OwnedFd::from(console));
        let complaints = File::from(OwnedFd::from(complaints));
        Ok(Machine { child, pidfd, console, agent, complaints })
    }

    /// Readable once it is off.
    pub fn off(&self) -> impl AsFd + '_ {
        &self.pidfd
    }

    /// How much of its memory the machine has touched so far, in bytes; nothing once it is off.
    pub fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        status
            .unwrap_or_default()
            .lines()
            .find_map(|line| line.strip_prefix("RssShmem:"))
            .and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok())
            .map_or(0, |kib| kib << 10)
    }

    /// Switches it off.
    pub fn end(&mut self) {
        // It fails when it is off already.
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::TERM);
        let _ = self.child.wait();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.end();
    }
}
