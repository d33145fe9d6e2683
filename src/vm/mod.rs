//! Boots artifacts in a virtual machine as on real hardware: firmware, boot server, kernel, initrd,
//! the base and the overlays over HTTP, and the system in them.
//!
//! Invariants:
//! - The machine and its server end with this process. Nothing is written to disk.
//! - A failed boot is reported with its phase and, if known, its reason.
//! - The overlay that reports from inside is separate from the artifacts, and only in memory.

pub(crate) mod agent;
pub(crate) mod console;
pub(crate) mod image_tests;
pub(crate) mod kvm;
pub(crate) mod phase;
pub(crate) mod qemu;
mod server;

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::root::RootError;
use crate::root::mounted_tree::MountedTreeError;
use crate::sandbox::{MissingRequirement, Signals};
use crate::seal::SealError;
use crate::serve::{AccessRecord, CatalogueError};
use agent::{AgentReport, Purpose};
use console::Console;
use phase::{BootProgress, Phase};
use qemu::{Accelerator, MonitorEvents, VirtualMachine};
use server::ArtifactServer;

pub(crate) use crate::serve::MachineFiles;

/// Options of a boot.
#[derive(Debug, Clone)]
pub(crate) struct BootOptions {
    /// The accelerator; `None` for the best one that works.
    pub accelerator: Option<Accelerator>,
    /// The machine's memory in bytes.
    pub memory: u64,
    /// The number of processors.
    pub processors: u32,
    /// Maximum time until the machine is up.
    pub time_out: Duration,
    /// Maximum run time of the command; `None` for no limit.
    pub command_time_out: Option<Duration>,
    /// Console text that means that the machine is up; `None` to wait for the agent's report.
    pub until: Option<String>,
    /// The command to run with `sh` once the machine is up.
    pub command: Option<String>,
    /// Whether the machine is interactive: it reads this process's standard input and runs until it
    /// is switched off.
    pub keyboard: bool,
    /// Whether to log root in on the console.
    pub log_in: bool,
    /// Additional kernel parameters.
    pub parameters: String,
}

/// Receives the events of a boot.
pub(crate) trait BootObserver {
    /// A phase begins, `after` the start of the machine.
    fn phase(&mut self, phase: Phase, after: Duration);
    /// KVM does not work on this host: the boot starts again without it.
    fn retry_without_kvm(&mut self);
    /// Console output. The call may block until `end`.
    fn console(&mut self, bytes: &[u8], end: Option<Instant>);
    /// Output of the command. The call may block until `end`.
    fn output(&mut self, bytes: &[u8], end: Option<Instant>);
    /// Returns the signal that interrupted blocked output, if any.
    fn interrupted(&self) -> Option<i32>;
}

/// The result of a boot.
#[derive(Debug)]
pub(crate) struct BootReport {
    /// The phase and the reason of a failure.
    pub failed: Option<(Phase, String)>,
    /// The duration of each phase.
    pub phases: Vec<(Phase, Duration)>,
    /// Bytes that the machine fetched.
    pub fetched: u64,
    /// Memory that the machine has touched, in bytes: its peak use, including the kernel's caches.
    pub peak_memory: u64,
    /// The state that its systemd reports: `running` or `degraded`.
    pub state: Option<String>,
    /// The failed units.
    pub failed_units: Vec<String>,
    /// Total and available memory, in bytes, that the machine reports once it is up.
    pub memory: Option<(u64, u64)>,
    /// The exit code of the command.
    pub code: Option<i32>,
    /// The last lines of the console.
    pub console: Vec<String>,
    /// The signal that interrupted this process.
    pub interrupted: Option<i32>,
}

/// An error that prevents a boot from starting or from being watched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BootError {
    /// QEMU is not installed.
    #[error(transparent)]
    MissingRequirement(#[from] MissingRequirement),
    /// An artifact cannot be read.
    #[error("cannot read {}", path.display())]
    Artifact {
        /// The file's path.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// A system call failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The layers cannot be opened.
    #[error(transparent)]
    ServedRoot(#[from] RootError),
    /// The kernel parameters are invalid.
    #[error(transparent)]
    Parameters(#[from] CatalogueError),
    /// There is no boot script for the machine.
    #[error("{0}")]
    Script(String),
    /// The agent's overlay cannot be made.
    #[error(transparent)]
    MountedTree(#[from] MountedTreeError),
    /// The agent's overlay cannot be made.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The agent's overlay cannot be made.
    #[error(transparent)]
    Tree(#[from] fs_model::FsError),
}

/// Bytes read at a time from the console and from the agent.
const READ_SIZE: usize = 16 << 10;
/// With less memory than this, in bytes, the initrd may not get as far as its own check of memory.
const LOW_MEMORY: u64 = 256 << 20;
/// Maximum bytes of QEMU's own messages that are kept.
const MAX_QEMU_MESSAGES: usize = 64 << 10;

/// Boots the files until the machine is up and its command has exited.
///
/// # Errors
/// Fails if the machine cannot be started or watched. A machine that does not come up is not an
/// error: see [`BootReport::failed`].
pub(crate) fn boot(
    files: &MachineFiles,
    options: &BootOptions,
    signals: &Signals,
    observer: &mut dyn BootObserver,
) -> Result<BootReport, BootError> {
    let nonce = nonce()?;
    let layers = std::iter::once(&files.base).chain(&files.overlays).cloned().collect();
    let agent = match (options.until.is_some() || options.keyboard, options.log_in) {
        (true, false) => None,
        (true, true) => Some(agent::overlay(layers, Purpose::LogIn)?),
        (false, _) => {
            let command = options.command.as_deref();
            Some(agent::overlay(layers, Purpose::Report { command, nonce: &nonce })?)
        }
    };
    let mut machine_options = qemu::QemuOptions {
        accelerator: options.accelerator.unwrap_or_else(Accelerator::best),
        memory: options.memory,
        processors: options.processors,
        script: String::new(),
        keyboard: options.keyboard,
    };
    loop {
        let own = machine_options.accelerator.parameters();
        let server = ArtifactServer::start(
            files,
            agent.as_deref(),
            &format!("{own} {}", options.parameters),
        )?;
        machine_options.script = server.script();
        let mut machine = VirtualMachine::start(&machine_options)?;
        let start = Instant::now();
        let mut boot = BootWatch {
            options,
            observer,
            start,
            accelerator: machine_options.accelerator,
            progress: BootProgress::new(start),
            console: Console::default(),
            agent: AgentReport::default(),
            qemu_messages: String::new(),
            monitor: MonitorEvents::default(),
            up: None,
            touched: 0,
        };
        boot.observer.phase(Phase::Firmware, Duration::ZERO);
        let end = boot.watch(&mut machine, &server, signals)?;
        let peak_memory = machine.peak_memory().max(boot.touched);
        machine.end();
        if matches!(end, WatchEnd::NoKvm) {
            machine_options.accelerator = Accelerator::Tcg;
            boot.observer.retry_without_kvm();
            continue;
        }
        return Ok(boot.report(end, peak_memory, server.fetched()));
    }
}

/// Returns the time to poll until `end`, or `None` if that has passed.
pub(crate) fn time_out(end: Option<Instant>) -> Option<PollTimeout> {
    let Some(end) = end else { return Some(PollTimeout::NONE) };
    let left = end.saturating_duration_since(Instant::now());
    // Rounded up, so that the deadline has passed when poll(2) times out.
    let millis = PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX);
    (!left.is_zero()).then_some(millis)
}

/// Reads from a socket of QEMU; 0 bytes once QEMU has exited.
fn read_socket(socket: &mut UnixStream, buffer: &mut [u8]) -> io::Result<usize> {
    match socket.read(buffer) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(0),
        read => read,
    }
}

/// Returns a string that does not occur in output by accident.
fn nonce() -> io::Result<String> {
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(crate::text::digest::hex(&bytes))
}

/// The reason why watching ended.
enum WatchEnd {
    /// The machine is up and the command, if any, has exited.
    Well,
    /// The machine cannot continue.
    Fault,
    /// The machine switched itself off, or reset itself.
    Off,
    /// A time limit has passed.
    TimeOut,
    /// This process received a signal.
    Interrupted(i32),
    /// KVM does not work on this host.
    NoKvm,
}

struct BootWatch<'a> {
    options: &'a BootOptions,
    observer: &'a mut dyn BootObserver,
    start: Instant,
    accelerator: Accelerator,
    progress: BootProgress,
    console: Console,
    agent: AgentReport,
    /// QEMU's own messages.
    qemu_messages: String,
    /// The events of QEMU's monitor.
    monitor: MonitorEvents,
    /// The time at which the machine came up; `None` until then.
    up: Option<Instant>,
    /// Memory that the machine had touched when the last phase began, in bytes.
    touched: u64,
}

impl BootWatch<'_> {
    fn watch(
        &mut self,
        machine: &mut VirtualMachine,
        server: &ArtifactServer,
        signals: &Signals,
    ) -> Result<WatchEnd, BootError> {
        let mut buffer = vec![0; READ_SIZE];
        loop {
            let (end, phase) = (self.deadline(), self.progress.phase());
            let Some(time_out) = time_out(end) else { return Ok(WatchEnd::TimeOut) };
            let exited = machine.exited();
            let mut fds = [
                PollFd::new(signals.as_fd(), PollFlags::POLLIN),
                PollFd::new(machine.console.as_fd(), PollFlags::POLLIN),
                PollFd::new(machine.agent.as_fd(), PollFlags::POLLIN),
                PollFd::new(server.as_fd(), PollFlags::POLLIN),
                PollFd::new(machine.qemu_messages.as_fd(), PollFlags::POLLIN),
                PollFd::new(machine.monitor.as_fd(), PollFlags::POLLIN),
                PollFd::new(exited.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut fds, time_out) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(io::Error::from(error).into()),
            }
            let ready = fds.each_ref().map(|fd| fd.any().unwrap_or(true));
            drop(exited);
            let [signalled, console, agent, requested, message, monitor, exited] = ready;
            let mut received = false;
            if signalled && let Some(signal) = signals.interruption() {
                return Ok(WatchEnd::Interrupted(signal as i32));
            }
            if requested {
                server.served().iter().for_each(|served| self.served(served));
            }
            if console {
                let read = machine.console.read(&mut buffer)?;
                received |= read > 0;
                self.console_output(&buffer[..read], end);
            }
            if agent {
                let read = read_socket(&mut machine.agent, &mut buffer)?;
                received |= read > 0;
                let observer = &mut *self.observer;
                self.agent.take(&buffer[..read], &mut |bytes| observer.output(bytes, end));
                if self.agent.ready {
                    self.come_up();
                }
            }
            if message {
                let read = machine.qemu_messages.read(&mut buffer)?;
                received |= read > 0;
                if self.qemu_messages.len() < MAX_QEMU_MESSAGES {
                    self.qemu_messages.push_str(&String::from_utf8_lossy(&buffer[..read]));
                }
                let kvm = ["KVM internal error", "failed to initialize kvm", "KVM: entry failed"];
                if self.may_retry_without_kvm()
                    && kvm.iter().any(|sign| self.qemu_messages.contains(sign))
                {
                    return Ok(WatchEnd::NoKvm);
                }
            }
            if monitor {
                let read = read_socket(&mut machine.monitor, &mut buffer)?;
                received |= read > 0;
                self.monitor.take(&buffer[..read]);
            }
            if self.progress.phase() != phase {
                self.touched = self.touched.max(machine.peak_memory());
            }
            if let Some(signal) = self.observer.interrupted() {
                return Ok(WatchEnd::Interrupted(signal));
            }
            if let Some(end) = self.is_over() {
                return Ok(end);
            }
            // Only after the last output has been read.
            if exited && !received {
                // QEMU failed before anything ran. Retry without KVM: that works, or shows the
                // reason.
                let gave_up = self.progress.phase() == Phase::Firmware
                    && !self.qemu_messages.trim().is_empty();
                return Ok(if gave_up && self.may_retry_without_kvm() {
                    WatchEnd::NoKvm
                } else {
                    WatchEnd::Off
                });
            }
        }
    }

    /// Whether KVM was selected automatically.
    fn may_retry_without_kvm(&self) -> bool {
        self.accelerator == Accelerator::Kvm && self.options.accelerator.is_none()
    }

    /// Returns the deadline of the current wait: for the machine to come up, or for the command.
    fn deadline(&self) -> Option<Instant> {
        match self.up {
            _ if self.options.keyboard => None,
            None => Some(self.start + self.options.time_out),
            Some(since) => self.options.command_time_out.map(|time_out| since + time_out),
        }
    }

    fn served(&mut self, record: &AccessRecord) {
        let now = Instant::now();
        let script = record.path == "/boot.ipxe" && record.status == 200;
        if script && self.progress.reach(Phase::Load, now) {
            self.observer.phase(Phase::Load, now - self.start);
        }
    }

    fn console_output(&mut self, bytes: &[u8], end: Option<Instant>) {
        self.observer.console(bytes, end);
        let now = Instant::now();
        let (progress, options) = (&mut self.progress, self.options);
        let mut seen = false;
        let mut reached = Vec::new();
        self.console.take(bytes, &mut |line| {
            if progress.read(line, now) {
                reached.push(progress.phase());
            }
            seen |= options.until.as_ref().is_some_and(|until| line.contains(until));
        });
        for phase in reached {
            self.observer.phase(phase, now - self.start);
        }
        // A prompt does not end with a line feed.
        seen |= options.until.as_ref().is_some_and(|until| {
            self.console.last().last().is_some_and(|line| line.contains(until))
        });
        if seen {
            self.come_up();
        }
    }

    fn come_up(&mut self) {
        let now = Instant::now();
        self.up.get_or_insert(now);
        if self.options.command.is_some() && self.progress.reach(Phase::Command, now) {
            self.observer.phase(Phase::Command, now - self.start);
        }
    }

    fn is_over(&self) -> Option<WatchEnd> {
        if self.options.keyboard {
            return None;
        }
        if self.up.is_some() {
            let done = self.options.command.is_none() || self.agent.code.is_some();
            // A kernel panic while the command runs does not end QEMU.
            let fault = self.progress.fault.is_some().then_some(WatchEnd::Fault);
            return if done { Some(WatchEnd::Well) } else { fault };
        }
        self.progress.fault.is_some().then_some(WatchEnd::Fault)
    }

    /// Describes a timeout.
    fn describe_timeout(&self, phase: Phase) -> String {
        if let (Some(_), Some(time_out)) = (self.up, self.options.command_time_out) {
            return format!("the command was still running after {} s", time_out.as_secs());
        }
        let mut text =
            format!("the machine was not up after {} s", self.options.time_out.as_secs());
        if phase == Phase::System && self.options.until.is_none() && !self.agent.received {
            text.push_str(
                "; the agent's overlay reported nothing: an initrd that accepts one overlay only \
                 leaves it out; use --until to wait for text on the console instead",
            );
        }
        text
    }

    fn report(self, end: WatchEnd, peak_memory: u64, fetched: u64) -> BootReport {
        let phase = self.progress.phase();
        let mut interrupted = None;
        let fault = self.progress.fault.clone();
        let failed = match end {
            WatchEnd::Well => None,
            // In interactive use, switching off is not a failure.
            WatchEnd::Off if self.options.keyboard => fault.filter(|_| phase < Phase::System),
            WatchEnd::Fault => fault,
            WatchEnd::Off if !self.qemu_messages.trim().is_empty() => {
                Some(format!("QEMU: {}", self.qemu_messages.trim()))
            }
            WatchEnd::Off => Some(fault.unwrap_or_else(|| {
                let action =
                    if self.monitor.reset { "reset itself" } else { "switched itself off" };
                format!("the machine {action}")
            })),
            WatchEnd::TimeOut => Some(self.describe_timeout(phase)),
            WatchEnd::Interrupted(signal) => {
                interrupted = Some(signal);
                None
            }
            WatchEnd::NoKvm => Some("KVM does not work".to_owned()),
        };
        let low_memory = phase < Phase::Fetch && self.options.memory < LOW_MEMORY;
        let failed = failed.map(|mut reason: String| {
            if low_memory {
                let mib = self.options.memory >> 20;
                reason.push_str(&format!(" ({mib} MiB of memory may be too little: see --memory)"));
            }
            reason
        });
        let AgentReport { state, failed: failed_units, memory, code, .. } = self.agent;
        BootReport {
            failed: failed.map(|reason| (phase, reason)),
            phases: self.progress.times(Instant::now()),
            fetched,
            peak_memory,
            state,
            failed_units,
            memory: (memory.0 > 0).then_some((memory.0 << 10, memory.1 << 10)),
            code,
            console: self.console.last(),
            interrupted,
        }
    }
}
