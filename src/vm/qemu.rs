//! A QEMU machine that boots from the network.
//!
//! Its only network is QEMU's user network, in which the host's loopback interface is 10.0.2.2. It
//! accepts no connections from outside, but reaches whatever this process can reach. The first
//! serial port is the console, the second one the agent's. QEMU ends with this process.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use rustix::io::FdFlags;
use rustix::process::{PidfdFlags, Signal};
use serde_json::Value;

use super::{BootError, kvm};
use crate::sandbox::{MissingRequirement, end_with_parent, find_program};

/// The address of the host's loopback interface inside the machine.
pub(crate) const HOST: &str = "10.0.2.2";

const PROGRAM: &str = "qemu-system-x86_64";

/// Maximum length of a line of QEMU's monitor, in bytes.
const MAX_EVENT_LENGTH: usize = 64 << 10;

/// The network card of the machines.
const CARD: &str = "virtio-net-pci";

fn missing() -> MissingRequirement {
    MissingRequirement::program(PROGRAM, "--no-install-recommends qemu-system-x86 ipxe-qemu")
}

/// Creates a machine with a bootable network card on `accelerator`, without starting it.
///
/// # Errors
/// Fails if QEMU is not installed or reports an error.
pub(crate) fn try_accelerator(accelerator: Accelerator) -> Result<(), BootError> {
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
        // QEMU may have exited already; its error message follows.
        let _ = monitor.write_all(b"quit\n");
    }
    let output = child.wait_with_output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(io::Error::other(last_line(&output.stderr)).into()),
    }
}

fn last_line(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    text.lines().last().unwrap_or("QEMU failed without a message").to_owned()
}

/// How the machine's processors are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Accelerator {
    /// By the host's processor, with hardware virtualization.
    Kvm,
    /// By emulation, about ten times as slow.
    Tcg,
}

impl Accelerator {
    /// Returns the best accelerator that this user can open. KVM can still fail when it is used,
    /// for example when this host is a virtual machine itself.
    pub(crate) fn best() -> Self {
        match kvm::open() {
            Ok(_) => Accelerator::Kvm,
            Err(_) => Accelerator::Tcg,
        }
    }

    /// Returns kernel parameters that a machine on this accelerator needs.
    ///
    /// QEMU caches translated code by virtual address. With address space randomization it
    /// translates code again for each process, and clearing the many translations of a page that
    /// once held the initrd's shell takes a second. Emulated clocks are synchronous, but too slow
    /// for the kernel's test of that. And a processor occasionally hangs in the kernel's cipher
    /// self-tests when another one patches the code that it runs.
    pub(super) fn parameters(self) -> &'static str {
        match self {
            Accelerator::Kvm => "",
            Accelerator::Tcg => "norandmaps tsc=reliable cryptomgr.notests=1",
        }
    }

    /// Returns QEMU's name for it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Accelerator::Kvm => "kvm",
            Accelerator::Tcg => "tcg",
        }
    }
}

/// Options of a machine.
#[derive(Debug, Clone)]
pub(crate) struct QemuOptions {
    /// The accelerator.
    pub accelerator: Accelerator,
    /// Its memory in bytes.
    pub memory: u64,
    /// The number of processors.
    pub processors: u32,
    /// URL of the script that its firmware loads.
    pub script: String,
    /// Whether this process's standard input is the machine's keyboard.
    pub keyboard: bool,
}

/// A running machine.
#[derive(Debug)]
pub(crate) struct VirtualMachine {
    child: Child,
    pidfd: OwnedFd,
    /// The output of its console.
    pub console: File,
    /// The other end of the agent's serial port.
    pub agent: UnixStream,
    /// QEMU's own messages (its standard error).
    pub qemu_messages: File,
    /// The other end of QEMU's monitor, which sends events as JSON (QMP).
    pub monitor: UnixStream,
}

/// Parses the events of QEMU's monitor.
#[derive(Debug, Default)]
pub(crate) struct MonitorEvents {
    /// Received bytes of an incomplete line.
    rest: Vec<u8>,
    /// Whether the machine ended because it reset itself: `-no-reboot` turns a reset into the end.
    pub reset: bool,
}

impl MonitorEvents {
    /// Parses received bytes.
    pub(crate) fn take(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
        while let Some(end) = self.rest.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            let event: Value = serde_json::from_slice(&line).unwrap_or_default();
            self.reset |= event["event"] == "SHUTDOWN" && event["data"]["reason"] == "guest-reset";
        }
        if self.rest.len() > MAX_EVENT_LENGTH {
            self.rest.clear();
        }
    }
}

impl VirtualMachine {
    /// Starts a machine.
    ///
    /// # Errors
    /// Fails if QEMU is not installed or cannot be started.
    pub(crate) fn start(options: &QemuOptions) -> Result<Self, BootError> {
        let program = find_program(PROGRAM).ok_or_else(missing)?;
        let (agent, port) = UnixStream::pair()?;
        let (mut monitor, monitor_port) = UnixStream::pair()?;
        // QEMU sends events only after this command, which waits in the socket.
        monitor.write_all(b"{\"execute\": \"qmp_capabilities\"}\n")?;
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
            // A memory backend of its own, so that touched memory shows up as RssShmem.
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
            .arg("-chardev")
            .arg(format!("socket,id=monitor,fd={}", monitor_port.as_raw_fd()))
            .args(["-mon", "chardev=monitor,mode=control"])
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
        // QEMU inherits the descriptors by their numbers; no other thread starts programs.
        for port in [&port, &monitor_port] {
            rustix::io::fcntl_setfd(port, FdFlags::empty()).map_err(io::Error::from)?;
        }
        let child = command.spawn();
        drop((port, monitor_port));
        let mut child = child?;
        let streams = child.stdout.take().zip(child.stderr.take());
        let pid = rustix::process::Pid::from_child(&child);
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty());
        let (Some((console, qemu_messages)), Ok(pidfd)) = (streams, pidfd) else {
            let _ = child.kill();
            let _ = child.wait();
            return Err(io::Error::other("cannot watch QEMU").into());
        };
        let console = File::from(OwnedFd::from(console));
        let qemu_messages = File::from(OwnedFd::from(qemu_messages));
        Ok(VirtualMachine { child, pidfd, console, agent, qemu_messages, monitor })
    }

    /// Returns a descriptor that is readable once QEMU has exited.
    pub(crate) fn exited(&self) -> impl AsFd + '_ {
        &self.pidfd
    }

    /// Returns the memory that the machine has touched so far, in bytes; 0 once QEMU has exited.
    pub(crate) fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        status
            .unwrap_or_default()
            .lines()
            .find_map(|line| line.strip_prefix("RssShmem:"))
            .and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok())
            .map_or(0, |kib| kib << 10)
    }

    /// Ends QEMU and waits for it.
    pub(crate) fn end(&mut self) {
        // This fails when QEMU has exited already.
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::TERM);
        let _ = self.child.wait();
    }
}

impl Drop for VirtualMachine {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_reset_of_the_machine_is_a_reset() {
        let shutdown = |reason: &str| {
            format!("{{\"event\": \"SHUTDOWN\", \"data\": {{\"reason\": \"{reason}\"}}}}\r\n")
        };
        let is_reset = |text: String| {
            let mut events = MonitorEvents::default();
            text.as_bytes().chunks(7).for_each(|part| events.take(part));
            events.reset
        };
        let greeting = "{\"QMP\": {}}\r\nno JSON\r\n{\"event\": \"RESET\"}\r\n";
        assert!(is_reset(format!("{greeting}{}", shutdown("guest-reset"))));
        assert!(!is_reset(format!("{greeting}{}", shutdown("guest-shutdown"))));
        assert!(!is_reset(greeting.to_owned()));
        let mut events = MonitorEvents::default();
        (0..100).for_each(|_| events.take(&[b'x'; 1000]));
        assert!(events.rest.len() <= MAX_EVENT_LENGTH);
    }
}
