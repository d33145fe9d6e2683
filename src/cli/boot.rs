//! `boot`: artifacts in a machine of QEMU's, from the firmware on.

use std::cell::Cell;
use std::io::{IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::builder::NonEmptyStringValueParser;
use clap::{Args as ClapArgs, ValueEnum};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::Signal;
use provisioners::Project;
use serde_json::{Value, json};

use super::options::{size_text, size_value};
use super::{Failure, Outcome, print, project, say};
use crate::boot::phase::Phase;
use crate::boot::qemu::Accelerator;
use crate::boot::{Options, Parts, Report, Watcher, boot, time_out};
use crate::sandbox::Signals;
use crate::serve::Catalogue;

/// How much of what a command prints stands in JSON, in bytes.
const MOST_OUTPUT: usize = 64 << 20;
/// As much as a pipe that takes anything takes at once.
const PIPE_BUF: usize = 4096;
/// How many of the console's last lines are told.
const TOLD: usize = 20;

#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    /// What to boot: images of the project by name, or overlays by path, the lowest first; with a
    /// project's file or folder before the names, those of that project
    #[arg(value_name = "NAME|OVERLAY")]
    what: Vec<String>,

    /// The base, if there is no project that says which
    #[arg(long, value_name = "FILE")]
    base: Option<PathBuf>,

    /// The kernel, instead of the project's
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,

    /// The initrd, instead of the project's
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,

    /// The project file; by default the overcoat.yml of this folder or of the nearest one above
    #[arg(short, long, value_name = "FILE")]
    project: Option<PathBuf>,

    /// Run a command in the machine, by `sh`, once it is up; overcoat ends with its exit code
    #[arg(long, value_name = "COMMAND", conflicts_with_all = ["shell", "until"])]
    run: Option<String>,

    /// Wait for this text on the console, instead of for the system in the machine to say that it is
    /// up; the only way with an initrd that takes one overlay
    #[arg(long, value_name = "TEXT", conflicts_with = "shell", value_parser = NonEmptyStringValueParser::new())]
    until: Option<String>,

    /// Use the console by hand, logged in as root, until the machine is switched off (or Ctrl-A X)
    #[arg(long)]
    shell: bool,

    /// The machine's memory
    #[arg(long, value_name = "SIZE", default_value = "2G", value_parser = size_value)]
    memory: u64,

    /// The machine's processors
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    cpus: u32,

    /// What the machine runs on: KVM where it works, by default, or else a program in its place
    #[arg(long, value_name = "WHICH", value_enum)]
    accelerator: Option<AcceleratorArg>,

    /// Seconds that it may take to come up
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..))]
    time_out: u64,

    /// Seconds that the command of --run may take after that; as many as it likes, by default
    #[arg(long, value_name = "SECONDS", requires = "run", value_parser = clap::value_parser!(u64).range(1..))]
    run_time_out: Option<u64>,

    /// More kernel parameters, in one string
    #[arg(long, value_name = "PARAMETERS", default_value = "", allow_hyphen_values = true)]
    append: String,

    /// Show the console as it comes
    #[arg(long)]
    console: bool,

    /// Print what came of it as JSON; what a command prints is in it
    #[arg(long)]
    json: bool,
}

/// What a machine runs on.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum AcceleratorArg {
    Kvm,
    Tcg,
}

pub(super) fn run(args: &Args) -> Outcome {
    let parts = parts(args)?;
    let signals = Signals::take()?;
    let options = Options {
        accelerator: args.accelerator.map(|which| match which {
            AcceleratorArg::Kvm => Accelerator::Kvm,
            AcceleratorArg::Tcg => Accelerator::Tcg,
        }),
        memory: args.memory,
        processors: args.cpus,
        time_out: Duration::from_secs(args.time_out),
        command_time_out: args.run_time_out.map(Duration::from_secs),
        until: args.until.clone(),
        command: args.run.clone(),
        keyboard: args.shell,
        // Another initrd than the project's may take no more overlays than it is given.
        log_in: args.shell && args.initrd.is_none(),
        parameters: args.append.clone(),
    };
    let mut told = Told {
        args,
        signals: &signals,
        output: Vec::new(),
        cut: false,
        interrupted: Cell::new(None),
    };
    if args.shell {
        say("the machine's console; Ctrl-A X switches the machine off");
    }
    if options.accelerator.is_none() && Accelerator::is_denied() {
        say("emulating the processor, some ten times as slow: you may not use /dev/kvm; as root: \
             `usermod -aG kvm USER`, then log in again");
    }
    let terminal = Terminal::keep(args.shell, args.console);
    let report = boot(&parts, &options, &signals, &mut told)?;
    drop(terminal);
    match report.interrupted {
        // Whoever read what the command prints has had enough.
        Some(signal) if signal == Signal::SIGPIPE as i32 => return Ok(ExitCode::SUCCESS),
        Some(signal) => return Err(Failure::Signal(signal)),
        None => {}
    }
    if args.json {
        print(&to_json(&report, args.run.is_some().then_some(&told)).to_string())?;
    } else if !args.shell || report.failed.is_some() {
        tell(&report, args.until.as_deref());
    }
    if let Some((phase, reason)) = &report.failed {
        if !args.console && !args.shell {
            let from = report.console.len().saturating_sub(TOLD);
            say("the last lines of the console:");
            report.console[from..].iter().for_each(|line| plain(&format!("  | {line}")));
        }
        let text = match phase {
            Phase::Command => format!("the machine was up, but {reason}"),
            _ => format!("the machine did not come up: {}: {reason}", phase.describe()),
        };
        return Err(Failure::Error(1, text.into()));
    }
    let code = report.code.unwrap_or(0);
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(255)))
}

/// What is to be booted, from the command line and the project.
fn parts(args: &Args) -> Result<Parts, Failure> {
    let is_file = |what: &String| what.contains('/') || Path::new(what).is_file();
    let is_project = |what: &String| {
        let path = Path::new(what);
        Project::is_one(path) || path.join(provisioners::project::FILE_NAME).is_file()
    };
    let alone = args.base.is_some() && args.kernel.is_some() && args.initrd.is_some();
    if alone {
        let parts = Parts {
            kernel: args.kernel.clone().unwrap_or_default(),
            initrd: args.initrd.clone().unwrap_or_default(),
            base: args.base.clone().unwrap_or_default(),
            overlays: args.what.iter().map(PathBuf::from).collect(),
        };
        return Ok(parts);
    }
    let some = args.base.is_some() || args.kernel.is_some() || args.initrd.is_some();
    let found = match args.what.first() {
        // Overlays by path, with a project for the rest.
        Some(first) if is_file(first) && !is_project(first) => {
            let found = project::find(&[], args.project.as_deref());
            found.map(|found| found.map(|(project, _)| (project, args.what.clone())))
        }
        _ => project::find(&args.what, args.project.as_deref()),
    };
    let (project, names) = match found {
        Ok(Some(found)) => found,
        // What was given is not all that is needed without a project.
        Err(_) | Ok(None) if some && args.project.is_none() => {
            return Err(Failure::message(
                "there is no project to say the rest: give --base, --kernel and --initrd",
            ));
        }
        Err(error) => return Err(error),
        Ok(None) => {
            return Err(Failure::message(
                "name images of a project, or give --base, --kernel and --initrd",
            ));
        }
    };
    let catalogue = Catalogue::of(&project, None, None)?;
    let mut parts: Option<Parts> = None;
    let mut overlays: Vec<PathBuf> = Vec::new();
    let names = match names.is_empty() {
        false => names,
        true => match project
            .images()
            .iter()
            .filter(|image| image.kind() == "overlay")
            .collect::<Vec<_>>()[..]
        {
            [only] => vec![only.name.clone()],
            _ => {
                let all = project.images().iter().filter(|image| image.kind() != "initrd");
                let all = all.map(|image| image.name.as_str()).collect::<Vec<_>>().join(", ");
                return Err(Failure::message(format!("say what to boot: {all}")));
            }
        },
    };
    let mut add = |more: Vec<PathBuf>| {
        for path in more {
            if !overlays.contains(&path) {
                overlays.push(path);
            }
        }
    };
    for name in &names {
        match project.find(name) {
            Ok(_) => {
                let of = catalogue.parts(name).map_err(Failure::message)?;
                if let Some(before) = &parts
                    && before.base != of.base
                {
                    return Err(Failure::message(format!(
                        "{} and {name} are made on different bases",
                        names[0]
                    )));
                }
                add(of.overlays.clone());
                parts.get_or_insert(of);
            }
            Err(_) if is_file(name) => add(vec![PathBuf::from(name)]),
            Err(why) => return Err(Failure::message(why)),
        }
    }
    let parts = match parts {
        Some(parts) => parts,
        None => only_base(&project, &catalogue, args)?,
    };
    let parts = Parts {
        kernel: args.kernel.clone().unwrap_or(parts.kernel),
        initrd: args.initrd.clone().unwrap_or(parts.initrd),
        base: args.base.clone().unwrap_or(parts.base),
        overlays,
    };
    for path in [&parts.kernel, &parts.initrd, &parts.base].into_iter().chain(&parts.overlays) {
        let made = project.images().iter().find(|image| image.files().contains(path));
        if let Some(image) = made.filter(|_| !path.exists()) {
            let path = path.display();
            let name = &image.name;
            return Err(Failure::message(format!(
                "{path} was not built yet: `overcoat build {name}`"
            )));
        }
    }
    Ok(parts)
}

/// The project's only base, with its kernel.
fn only_base(project: &Project, catalogue: &Catalogue, args: &Args) -> Result<Parts, Failure> {
    let bases: Vec<_> = project.images().iter().filter(|image| image.kind() == "base").collect();
    match bases[..] {
        [base] => catalogue.parts(&base.name).map_err(Failure::message),
        _ => Err(Failure::message(match args.base {
            Some(_) => "give --kernel and --initrd too: the project has several",
            None => "the project has several bases: say which with --base, --kernel and --initrd",
        })),
    }
}

/// Tells what happens, as it happens.
struct Told<'a> {
    args: &'a Args,
    signals: &'a Signals,
    /// What the command printed, for JSON, and whether that is not all of it.
    output: Vec<u8>,
    cut: bool,
    /// The signal that asked to end while nobody read.
    interrupted: Cell<Option<Signal>>,
}

impl Watcher for Told<'_> {
    fn interrupted(&self) -> Option<i32> {
        self.interrupted.get().map(|signal| signal as i32)
    }

    fn phase(&mut self, phase: Phase, after: Duration) {
        if !self.args.shell {
            if self.args.console {
                // It may stand in the middle of a line.
                plain("");
            }
            let (name, what) = (phase.name(), phase.describe());
            say(&format!("{:>6.1} s  {name:<8}  {what}", after.as_secs_f64()));
        }
    }

    fn slow(&mut self) {
        say("KVM does not work on this host: beginning again without, some ten times as slow");
    }

    fn console(&mut self, bytes: &[u8], end: Option<Instant>) {
        if self.args.shell {
            self.write(std::io::stdout(), bytes, true, end);
        } else if self.args.console {
            self.write(std::io::stderr(), bytes, false, end);
        }
    }

    fn output(&mut self, bytes: &[u8], end: Option<Instant>) {
        if !self.args.json {
            self.write(std::io::stdout(), bytes, true, end);
        } else if self.output.len() + bytes.len() <= MOST_OUTPUT {
            self.output.extend_from_slice(bytes);
        } else {
            self.cut = true;
        }
    }
}

impl Told<'_> {
    /// Writes. When nobody ever will read a `result`, there is nothing left to do.
    fn write(&self, to: impl AsFd, bytes: &[u8], result: bool, end: Option<Instant>) {
        if self.interrupted.get().is_some() {
            return;
        }
        match write_until(to, bytes, self.signals, end) {
            Written::Interrupted(signal) => self.interrupted.set(Some(signal)),
            // Of standard error it is no matter.
            Written::Gone if result => self.interrupted.set(Some(Signal::SIGPIPE)),
            Written::All | Written::Late | Written::Gone => {}
        }
    }
}

/// What became of something that was to be written.
#[derive(Debug, PartialEq, Eq)]
enum Written {
    All,
    /// The time is over, and nobody has read the rest.
    Late,
    /// Nobody will ever read it.
    Gone,
    /// A signal came while nobody read.
    Interrupted(Signal),
}

/// Writes to what may be in non-blocking mode: QEMU sets that of a terminal that is its keyboard.
fn write_until(
    to: impl AsFd,
    mut bytes: &[u8],
    signals: &Signals,
    end: Option<Instant>,
) -> Written {
    while !bytes.is_empty() {
        let Some(time_out) = time_out(end) else { return Written::Late };
        let mut fds = [
            PollFd::new(to.as_fd(), PollFlags::POLLOUT),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        ];
        let waited = poll(&mut fds, time_out);
        let [writable, signalled] = fds.map(|fd| fd.any().unwrap_or(true));
        if waited.is_ok()
            && signalled
            && let Some(signal) = signals.interruption()
        {
            return Written::Interrupted(signal);
        }
        // What cannot be waited for is written.
        if waited == Err(Errno::EINTR) || (waited.is_ok() && !writable) {
            continue;
        }
        match rustix::io::write(to.as_fd(), &bytes[..bytes.len().min(PIPE_BUF)]) {
            Ok(written) => bytes = &bytes[written..],
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::PIPE) => return Written::Gone,
            // There is none, or it is full: what comes next is not to be told either.
            Err(_) => return Written::All,
        }
    }
    Written::All
}

/// Nobody may be there to read it.
fn write(mut to: impl Write, bytes: &[u8]) {
    let _ = to.write_all(bytes).and_then(|()| to.flush());
}

/// A line as it is.
fn plain(line: &str) {
    write(std::io::stderr(), format!("{line}\n").as_bytes());
}

fn tell(report: &Report, until: Option<&str>) {
    let total: Duration = report.phases.iter().map(|(_, took)| *took).sum();
    let each =
        report.phases.iter().map(|(phase, took)| format!("{phase} {:.1}", took.as_secs_f64()));
    say(&format!(
        "{:.1} s: {}; {} fetched, {} of memory touched",
        total.as_secs_f64(),
        each.collect::<Vec<_>>().join(", "),
        size_text(report.fetched),
        size_text(report.peak_memory),
    ));
    if let Some((all, available)) = report.memory {
        say(&format!(
            "it is up and says `{}`; {} of its {} are available",
            report.state.as_deref().unwrap_or("nothing"),
            size_text(available),
            size_text(all)
        ));
    }
    if let Some(text) = until.filter(|_| report.failed.is_none()) {
        say(&format!("it is up: its console says `{text}`"));
    }
    if !report.failed_units.is_empty() {
        say(&format!("warning: units that failed: {}", report.failed_units.join(", ")));
    }
}

fn to_json(report: &Report, command: Option<&Told<'_>>) -> Value {
    let phases = report
        .phases
        .iter()
        .map(|(phase, took)| json!({ "phase": phase.name(), "seconds": took.as_secs_f64() }))
        .collect::<Vec<_>>();
    let mut value = json!({
        "schema": 1,
        "up": report.failed.as_ref().is_none_or(|(phase, _)| *phase == Phase::Command),
        "phases": phases,
        "fetched": report.fetched,
        "peak_memory": report.peak_memory,
        "state": report.state,
        "failed_units": report.failed_units,
        "console": report.console,
    });
    if let Some((all, available)) = report.memory {
        value["memory"] = json!({ "total": all, "available": available });
    }
    if let Some((phase, reason)) = &report.failed {
        value["failed"] = json!({ "phase": phase.name(), "reason": reason });
        // What the initrd says begins with its own word for what it did.
        if let Some((step, _)) = reason.split_once(": ")
            && ["network", "fetch", "verify", "unpack", "mount", "init"].contains(&step)
        {
            value["failed"]["initrd"] = json!(step);
        }
    }
    if let Some(Told { output, cut, .. }) = command {
        value["command"] = json!({
            "output": String::from_utf8_lossy(output),
            "complete": !cut && report.code.is_some(),
            "code": report.code,
        });
    }
    value
}

/// The terminal's settings, which a machine whose console it is changes; put back when dropped.
struct Terminal {
    settings: Option<nix::sys::termios::Termios>,
    /// Whether the machine's console is shown on it.
    shown: bool,
}

impl Terminal {
    fn keep(used: bool, shown: bool) -> Self {
        let stdin = std::io::stdin();
        let keep = used && stdin.is_terminal();
        let kept = keep.then(|| nix::sys::termios::tcgetattr(&stdin).ok()).flatten();
        Terminal { settings: kept, shown: (used || shown) && std::io::stderr().is_terminal() }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(settings) = &self.settings {
            let when = nix::sys::termios::SetArg::TCSADRAIN;
            let _ = nix::sys::termios::tcsetattr(std::io::stdin(), when, settings);
        }
        // Firmware has lines cut at the edge.
        if self.shown {
            write(std::io::stderr(), b"\x1b[?7h");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, pipe};

    use super::*;

    #[test]
    fn a_terminal_that_takes_little_at_a_time_and_does_not_block_gets_all() {
        let signals = Signals::of(&[]).unwrap();
        let terminal = nix::pty::openpty(None, None).unwrap();
        rustix::io::ioctl_fionbio(&terminal.slave, true).unwrap();
        let bytes: Vec<u8> = (0..200_000u32).map(|n| b'a' + (n % 23) as u8).collect();
        let mut reader = std::fs::File::from(terminal.master);
        let mut all = vec![0; bytes.len()];
        let read = std::thread::spawn(move || {
            all.chunks_mut(1000).for_each(|some| reader.read_exact(some).unwrap());
            all
        });
        assert_eq!(write_until(&terminal.slave, &bytes, &signals, None), Written::All);
        // What was lost would be waited for: its other end says that there is no more.
        drop(terminal.slave);
        assert!(read.join().unwrap() == bytes);
    }

    #[test]
    fn nobody_is_waited_for_who_does_not_read() {
        let signals = Signals::of(&[]).unwrap();
        let (reader, writer) = pipe().unwrap();
        let end = Instant::now() + Duration::from_millis(50);
        assert_eq!(write_until(&writer, &[0; 1 << 20], &signals, Some(end)), Written::Late);
        drop(reader);
        assert_eq!(write_until(&writer, &[0; 10], &signals, None), Written::Gone);
    }
}
