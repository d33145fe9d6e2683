//! Booting artifacts in a machine, the real way: firmware, boot server, kernel, initrd, base and
//! overlays over HTTP, and the system in them.
//!
//! Invariants:
//! - The machine ends with this process, and the server with both; nothing is written anywhere.
//! - A machine that does not come up is told with the phase it was in, and why, as far as it said.
//! - What is added to the artifacts to hear from inside is an overlay of its own, in memory.

pub mod agent;
pub mod console;
pub mod phase;
pub mod qemu;
mod server;

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::live::LiveError;
use crate::root::RootError;
use crate::sandbox::{MissingRequirement, Signals};
use crate::seal::SealError;
use crate::serve::{CatalogueError, Served};
use agent::{Purpose, Talk};
use console::Console;
use phase::{Phase, Progress};
use qemu::{Accelerator, Machine};
use server::Server;

pub use crate::serve::Parts;

/// How it is booted.
#[derive(Debug, Clone)]
pub struct Options {
    /// What it runs on; the best that works, if it is not said.
    pub accelerator: Option<Accelerator>,
    /// The machine's memory in bytes.
    pub memory: u64,
    /// Its processors.
    pub processors: u32,
    /// How long it may take to come up.
    pub time_out: Duration,
    /// How long the command may take; for ever, if it is not said.
    pub command_time_out: Option<Duration>,
    /// What stands on the console once it is up; when nothing, its system says so itself.
    pub until: Option<String>,
    /// What runs in it once it is up, by `sh`.
    pub command: Option<String>,
    /// Whether it is used by hand: it has this process's standard input, and runs until it is
    /// switched off.
    pub keyboard: bool,
    /// Whether root is logged in on the console.
    pub log_in: bool,
    /// More parameters for the kernel.
    pub parameters: String,
}

/// Who is told what happens.
pub trait Watcher {
    /// A phase begins, so long after the machine was switched on.
    fn phase(&mut self, phase: Phase, after: Duration);
    /// KVM does not work here: it begins again without.
    fn slow(&mut self);
    /// Bytes of the console, as they come. Nothing is waited for beyond `end`.
    fn console(&mut self, bytes: &[u8], end: Option<Instant>);
    /// What the command prints, as it comes. Nothing is waited for beyond `end`.
    fn output(&mut self, bytes: &[u8], end: Option<Instant>);
    /// The signal that asked to end while what it was told could not be told on.
    fn interrupted(&self) -> Option<i32>;
}

/// What came of it.
#[derive(Debug)]
pub struct Report {
    /// Why it did not come up, and in which phase, if it did not.
    pub failed: Option<(Phase, String)>,
    /// How long each phase took.
    pub phases: Vec<(Phase, Duration)>,
    /// Bytes that it fetched.
    pub fetched: u64,
    /// How much of its memory it has touched, in bytes: the most that it needed, with the kernel's
    /// caches.
    pub peak_memory: u64,
    /// What its system says of itself: `running` or `degraded`.
    pub state: Option<String>,
    /// Units that failed.
    pub failed_units: Vec<String>,
    /// Memory in all and available once it was up, in bytes, as it says itself.
    pub memory: Option<(u64, u64)>,
    /// The exit code of the command.
    pub code: Option<i32>,
    /// The last lines of the console.
    pub console: Vec<String>,
    /// The signal by which this process was asked to end meanwhile.
    pub interrupted: Option<i32>,
}

/// A machine could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// QEMU is not there.
    #[error(transparent)]
    MissingRequirement(#[from] MissingRequirement),
    /// An artifact cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Artifact {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something of the system.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The layers.
    #[error(transparent)]
    Root(#[from] RootError),
    /// The kernel's parameters.
    #[error(transparent)]
    Parameters(#[from] CatalogueError),
    /// Nothing can be told to the machine.
    #[error("{0}")]
    Script(String),
    /// The overlay that is added.
    #[error(transparent)]
    Live(#[from] LiveError),
    /// The overlay that is added.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The overlay that is added.
    #[error(transparent)]
    Tree(#[from] fs_model::FsError),
}

/// How much of the console and of the agent is read at a time, in bytes.
const READ: usize = 16 << 10;
/// A machine with less memory than this may not get as far as the initrd's own words about memory.
const SCARCE: u64 = 256 << 20;
/// How much of what QEMU itself says is kept, in bytes.
const COMPLAINTS: usize = 64 << 10;

/// Boots `parts`, until the machine is up and its command has ended.
///
/// # Errors
/// When there can be no machine. One that does not come up is no error, but [`Report::failed`].
pub fn boot(
    parts: &Parts,
    options: &Options,
    signals: &Signals,
    watcher: &mut dyn Watcher,
) -> Result<Report, BootError> {
    let nonce = nonce()?;
    let layers = std::iter::once(&parts.base).chain(&parts.overlays).cloned().collect();
    let agent = match (options.until.is_some() || options.keyboard, options.log_in) {
        (true, false) => None,
        (true, true) => Some(agent::overlay(layers, Purpose::LogIn)?),
        (false, _) => {
            let command = options.command.as_deref();
            Some(agent::overlay(layers, Purpose::Tell { command, nonce: &nonce })?)
        }
    };
    let mut made = qemu::Options {
        accelerator: options.accelerator.unwrap_or_else(Accelerator::best),
        memory: options.memory,
        processors: options.processors,
        script: String::new(),
        keyboard: options.keyboard,
    };
    loop {
        let own = made.accelerator.parameters();
        let server =
            Server::start(parts, agent.as_deref(), &format!("{own} {}", options.parameters))?;
        made.script = server.script();
        let mut machine = Machine::start(&made)?;
        let start = Instant::now();
        let mut boot = Boot {
            options,
            watcher,
            start,
            accelerator: made.accelerator,
            progress: Progress::new(start),
            console: Console::default(),
            talk: Talk::default(),
            complaints: String::new(),
            up: None,
            touched: 0,
        };
        boot.watcher.phase(Phase::Firmware, Duration::ZERO);
        let ended = boot.watch(&mut machine, &server, signals)?;
        let peak_memory = machine.peak_memory().max(boot.touched);
        machine.end();
        if matches!(ended, Ended::NoKvm) {
            made.accelerator = Accelerator::Tcg;
            boot.watcher.slow();
            continue;
        }
        return Ok(boot.report(ended, peak_memory, server.fetched()));
    }
}

/// How long to poll until `end`; nothing when that is over.
pub fn time_out(end: Option<Instant>) -> Option<PollTimeout> {
    let Some(end) = end else { return Some(PollTimeout::NONE) };
    let left = end.saturating_duration_since(Instant::now());
    // Rounded up, so that it is over when it is said to be.
    let millis = PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX);
    (!left.is_zero()).then_some(millis)
}

/// A word that nobody says by accident.
fn nonce() -> io::Result<String> {
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(crate::seal::manifest::hex(&bytes))
}

/// Why watching came to an end.
enum Ended {
    /// All is as it was asked for.
    Well,
    /// It will come no farther.
    Fault,
    /// It switched itself off.
    Off,
    /// It took too long.
    TimeOut,
    /// This process was asked to end.
    Interrupted(i32),
    /// KVM does not work on this host.
    NoKvm,
}

struct Boot<'a> {
    options: &'a Options,
    watcher: &'a mut dyn Watcher,
    start: Instant,
    accelerator: Accelerator,
    progress: Progress,
    console: Console,
    talk: Talk,
    /// What QEMU itself said.
    complaints: String,
    /// Since when it is up.
    up: Option<Instant>,
    /// How much of its memory it had touched when the last phase began.
    touched: u64,
}

impl Boot<'_> {
    fn watch(
        &mut self,
        machine: &mut Machine,
        server: &Server,
        signals: &Signals,
    ) -> Result<Ended, BootError> {
        let mut buffer = vec![0; READ];
        loop {
            let (end, phase) = (self.deadline(), self.progress.phase());
            let Some(time_out) = time_out(end) else { return Ok(Ended::TimeOut) };
            let off = machine.off();
            let mut fds = [
                PollFd::new(signals.as_fd(), PollFlags::POLLIN),
                PollFd::new(machine.console.as_fd(), PollFlags::POLLIN),
                PollFd::new(machine.agent.as_fd(), PollFlags::POLLIN),
                PollFd::new(server.as_fd(), PollFlags::POLLIN),
                PollFd::new(machine.complaints.as_fd(), PollFlags::POLLIN),
                PollFd::new(off.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut fds, time_out) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(io::Error::from(error).into()),
            }
            let ready = fds.each_ref().map(|fd| fd.any().unwrap_or(true));
            drop(off);
            let [signalled, console, agent, asked, complains, off] = ready;
            let mut said = false;
            if signalled && let Some(signal) = signals.interruption() {
                return Ok(Ended::Interrupted(signal as i32));
            }
            if asked {
                server.served().iter().for_each(|served| self.served(served));
            }
            if console {
                let read = machine.console.read(&mut buffer)?;
                said |= read > 0;
                self.heard(&buffer[..read], end);
            }
            if agent {
                let read = match machine.agent.read(&mut buffer) {
                    Ok(read) => read,
                    Err(error) if error.kind() == io::ErrorKind::ConnectionReset => 0,
                    Err(error) => return Err(error.into()),
                };
                said |= read > 0;
                let watcher = &mut *self.watcher;
                self.talk.take(&buffer[..read], &mut |bytes| watcher.output(bytes, end));
                if self.talk.ready {
                    self.come_up();
                }
            }
            if complains {
                let read = machine.complaints.read(&mut buffer)?;
                said |= read > 0;
                if self.complaints.len() < COMPLAINTS {
                    self.complaints.push_str(&String::from_utf8_lossy(&buffer[..read]));
                }
                let kvm = ["KVM internal error", "failed to initialize kvm", "KVM: entry failed"];
                if self.may_be_slow() && kvm.iter().any(|sign| self.complaints.contains(sign)) {
                    return Ok(Ended::NoKvm);
                }
            }
            if self.progress.phase() != phase {
                self.touched = self.touched.max(machine.peak_memory());
            }
            if let Some(signal) = self.watcher.interrupted() {
                return Ok(Ended::Interrupted(signal));
            }
            if let Some(ended) = self.is_over() {
                return Ok(ended);
            }
            // What it said last has been read.
            if off && !said {
                // QEMU gave up before anything ran: without KVM it may not, or says why again.
                let gave_up =
                    self.progress.phase() == Phase::Firmware && !self.complaints.trim().is_empty();
                return Ok(if gave_up && self.may_be_slow() { Ended::NoKvm } else { Ended::Off });
            }
        }
    }

    /// Whether KVM was taken because it may be there, not because it was asked for.
    fn may_be_slow(&self) -> bool {
        self.accelerator == Accelerator::Kvm && self.options.accelerator.is_none()
    }

    /// When it has to be up, or the command to have ended.
    fn deadline(&self) -> Option<Instant> {
        match self.up {
            _ if self.options.keyboard => None,
            None => Some(self.start + self.options.time_out),
            Some(since) => self.options.command_time_out.map(|time_out| since + time_out),
        }
    }

    fn served(&mut self, served: &Served) {
        let now = Instant::now();
        let script = served.path == "/boot.ipxe" && served.status == 200;
        if script && self.progress.reach(Phase::Load, now) {
            self.watcher.phase(Phase::Load, now - self.start);
        }
    }

    fn heard(&mut self, bytes: &[u8], end: Option<Instant>) {
        self.watcher.console(bytes, end);
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
            self.watcher.phase(phase, now - self.start);
        }
        // A prompt is no whole line.
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
            self.watcher.phase(Phase::Command, now - self.start);
        }
    }

    fn is_over(&self) -> Option<Ended> {
        if self.options.keyboard {
            return None;
        }
        if self.up.is_some() {
            let done = self.options.command.is_none() || self.talk.code.is_some();
            // A kernel that gives up while the command runs does not end the machine.
            let fault = self.progress.fault.is_some().then_some(Ended::Fault);
            return if done { Some(Ended::Well) } else { fault };
        }
        self.progress.fault.is_some().then_some(Ended::Fault)
    }

    /// What it means that it took too long.
    fn too_slow(&self, phase: Phase) -> String {
        if let (Some(_), Some(time_out)) = (self.up, self.options.command_time_out) {
            return format!("the command had not ended after {} s", time_out.as_secs());
        }
        let mut text = format!("it was not up after {} s", self.options.time_out.as_secs());
        if phase == Phase::System && self.options.until.is_none() && !self.talk.heard {
            text.push_str(
                "; nothing came from the overlay that overcoat adds to hear from inside: an initrd \
                 that takes one overlay alone leaves it out, and --until waits for text on the \
                 console instead",
            );
        }
        text
    }

    fn report(self, ended: Ended, peak_memory: u64, fetched: u64) -> Report {
        let phase = self.progress.phase();
        let mut interrupted = None;
        let fault = self.progress.fault.clone();
        let failed = match ended {
            Ended::Well => None,
            // What somebody did with it by hand is no fault.
            Ended::Off if self.options.keyboard => fault.filter(|_| phase < Phase::System),
            Ended::Fault => fault,
            Ended::Off if !self.complaints.trim().is_empty() => {
                Some(format!("QEMU: {}", self.complaints.trim()))
            }
            Ended::Off => {
                Some(fault.unwrap_or_else(|| "the machine switched itself off".to_owned()))
            }
            Ended::TimeOut => Some(self.too_slow(phase)),
            Ended::Interrupted(signal) => {
                interrupted = Some(signal);
                None
            }
            Ended::NoKvm => Some("KVM does not work".to_owned()),
        };
        let scarce = phase < Phase::Fetch && self.options.memory < SCARCE;
        let failed = failed.map(|mut reason: String| {
            if scarce {
                let mib = self.options.memory >> 20;
                reason.push_str(&format!(" ({mib} MiB may be too little for it: --memory)"));
            }
            reason
        });
        let Talk { state, failed: failed_units, memory, code, .. } = self.talk;
        Report {
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
