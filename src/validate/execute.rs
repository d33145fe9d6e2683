//! Runs commands side by side in a root, each with a time limit and a limit of its output.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::unistd::pipe2;

use super::ValidateError;
use crate::check::validators::{ValidatorCommand, ValidatorEnd, ValidatorOutput};
use crate::root::ServedRoot;
use crate::sandbox::{
    Child, CommandSpec, ExitStatus, ResourceLimits, SandboxError, Session, Signals, Stdio,
    default_environment,
};

/// Maximum bytes of output that are kept of a command. The rest is dropped.
const MAX_OUTPUT: usize = 1 << 20;
/// Maximum number of commands at the same time.
const MAX_RUNNING: usize = 4;
/// The time in which a killed command ends: it may wait for a reply of the root.
const KILL_TIME: Duration = Duration::from_secs(5);

const LIMITS: ResourceLimits =
    ResourceLimits { memory: 2 << 30, file_size: 256 << 20, processes: 1000 };

/// A command that runs.
struct Running {
    index: usize,
    child: Child,
    output: File,
    /// The other end of `output` is closed.
    is_closed: bool,
    text: Vec<u8>,
    deadline: Instant,
    /// It was killed after its time limit.
    is_killed: bool,
}

/// Runs all commands, and returns their outputs in the same order.
///
/// # Errors
/// Fails if the sandbox has ended, or a signal asks this process to end.
pub(super) fn run_all(
    root: &ServedRoot,
    commands: &[ValidatorCommand],
    signals: &Signals,
) -> Result<Vec<ValidatorOutput>, ValidateError> {
    let mut environment = default_environment(std::iter::empty());
    root.add_environment(&mut environment);
    let mut outputs: Vec<Option<ValidatorOutput>> = vec![None; commands.len()];
    let mut waiting: VecDeque<usize> = (0..commands.len()).collect();
    let mut running: Vec<Running> = Vec::new();
    let most = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_RUNNING);
    loop {
        while running.len() < most
            && let Some(index) = waiting.pop_front()
        {
            match start(root, &environment, index, &commands[index]) {
                Ok(started) => running.push(started),
                Err(SandboxError::Command { .. }) => {
                    let end = ValidatorEnd::NotStarted;
                    outputs[index] = Some(ValidatorOutput { end, text: Vec::new() });
                }
                Err(error) => return Err(error.into()),
            }
        }
        if running.is_empty() {
            break;
        }
        wait(&running, signals)?;
        if let Some(signal) = signals.interruption() {
            return Err(ValidateError::Interrupted(signal as i32));
        }
        let mut still_running = Vec::new();
        for mut command in running {
            let name = commands[command.index].name();
            match command.advance()? {
                None => still_running.push(command),
                Some(end) => {
                    tracing::debug!(name, ?end, bytes = command.text.len(), "validated");
                    outputs[command.index] = Some(ValidatorOutput { end, text: command.text });
                }
            }
        }
        running = still_running;
    }
    let missing = || ValidatorOutput { end: ValidatorEnd::NotStarted, text: Vec::new() };
    Ok(outputs.into_iter().map(|output| output.unwrap_or_else(missing)).collect())
}

fn start(
    root: &ServedRoot,
    environment: &[(OsString, OsString)],
    index: usize,
    command: &ValidatorCommand,
) -> Result<Running, SandboxError> {
    let fixed = ["/bin/sh", "-c", command.script, "sh"].map(OsString::from);
    let arguments = command.arguments.iter().cloned().map(OsString::from_vec);
    let mut spec = CommandSpec::new(fixed.into_iter().chain(arguments));
    spec.env = environment.to_vec();
    spec.session = Session::Own;
    spec.limits = Some(LIMITS);
    spec.stdin = Stdio::Null;
    let (ours, theirs) = output_pipe()
        .map_err(|error| SandboxError::Ended(format!("cannot create a pipe: {error}")))?;
    let (stdout, stderr) = theirs;
    spec.stdout = Stdio::Fd(stdout);
    spec.stderr = Stdio::Fd(stderr);
    let child = root.sandbox()?.spawn(&spec)?;
    Ok(Running {
        index,
        child,
        output: File::from(ours),
        is_closed: false,
        text: Vec::new(),
        deadline: Instant::now() + command.limit,
        is_killed: false,
    })
}

/// Returns a pipe: the end to read from, which does not block, and two copies of the other end.
fn output_pipe() -> io::Result<(OwnedFd, (OwnedFd, OwnedFd))> {
    let (ours, theirs) = pipe2(OFlag::O_CLOEXEC)?;
    fcntl(&ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    let copy = theirs.try_clone()?;
    Ok((ours, (theirs, copy)))
}

/// Waits until a command ends, prints or reaches its limit, or a signal arrives.
fn wait(running: &[Running], signals: &Signals) -> Result<(), ValidateError> {
    let mut fds = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
    for command in running {
        fds.push(PollFd::new(command.child.as_fd(), PollFlags::POLLIN));
        if !command.is_closed {
            fds.push(PollFd::new(command.output.as_fd(), PollFlags::POLLIN));
        }
    }
    let now = Instant::now();
    let next = running.iter().map(|command| command.deadline.saturating_duration_since(now)).min();
    // One more millisecond: the deadline has passed then.
    let next = next.unwrap_or_default() + Duration::from_millis(1);
    match poll(&mut fds, PollTimeout::try_from(next).unwrap_or(PollTimeout::MAX)) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(error) => Err(SandboxError::Ended(format!("cannot wait: {error}")).into()),
    }
}

impl Running {
    /// Reads what the command printed, kills it after its time limit, and returns how it ended.
    fn advance(&mut self) -> Result<Option<ValidatorEnd>, SandboxError> {
        let mut fd = [PollFd::new(self.child.as_fd(), PollFlags::POLLIN)];
        // Before the output is read: an ended command has written all of it.
        let has_ended = poll(&mut fd, PollTimeout::ZERO).is_ok_and(|ready| ready > 0);
        self.read();
        if has_ended {
            let status = self.child.wait()?;
            // Processes that it left behind end with the sandbox.
            return Ok(Some(match status {
                _ if self.is_killed => ValidatorEnd::TimeLimit,
                ExitStatus::Code(code) => ValidatorEnd::Code(code),
                ExitStatus::Signal(signal) => ValidatorEnd::Signal(signal),
            }));
        }
        if Instant::now() < self.deadline {
            return Ok(None);
        }
        if self.is_killed {
            return Ok(Some(ValidatorEnd::TimeLimit));
        }
        self.is_killed = true;
        self.deadline = Instant::now() + KILL_TIME;
        self.child.signal(Signal::SIGKILL as i32)?;
        Ok(None)
    }

    fn read(&mut self) {
        let mut buffer = [0; 16 << 10];
        // A command that prints without end must not keep this process from its other tasks.
        for _ in 0..64 {
            match self.output.read(&mut buffer) {
                Ok(0) => {
                    self.is_closed = true;
                    return;
                }
                Ok(length) => {
                    let left = MAX_OUTPUT.saturating_sub(self.text.len());
                    self.text.extend_from_slice(&buffer[..length.min(left)]);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.is_closed = true;
                    return;
                }
            }
        }
    }
}
