//! `boot`: boots artifacts in a QEMU machine, starting with the firmware.

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
use provisioners::{ImageTest, Project};
use serde_json::{Value, json};

use crate::cli::ui::Ui;
use crate::cli::ui::args::size_value;
use crate::cli::ui::error::{CommandError, CommandResult, ErrorKind};
use crate::cli::ui::project_images::{self, ProjectOption};
use crate::cli::ui::test_report;
use crate::sandbox::Signals;
use crate::seal::{Output, output};
use crate::serve::Catalogue;
use crate::text::size::size_text;
use crate::vm::image_tests::{self, TestResults};
use crate::vm::kvm;
use crate::vm::phase::Phase;
use crate::vm::qemu::Accelerator;
use crate::vm::{BootObserver, BootOptions, BootReport, MachineFiles, boot, time_out};

/// Maximum length of a command's output in the JSON report, in bytes.
const MAX_JSON_OUTPUT_BYTES: usize = 64 << 20;
/// PIPE_BUF of Linux, in bytes: a pipe that is ready for writing accepts this much without blocking
/// (pipe(7)).
const PIPE_BUF: usize = 4096;
/// Number of last console lines that are printed after a failure.
const CONSOLE_TAIL_LINES: usize = 20;

#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// Images of the project by name, or overlays by path
    ///
    /// Overlays are stacked in this order, the lowest first. A project file or directory before the
    /// names selects the project.
    #[arg(value_name = "NAME|OVERLAY")]
    what: Vec<String>,

    /// Use this base instead of the project's
    #[arg(long, value_name = "FILE")]
    base: Option<PathBuf>,

    /// Use this kernel instead of the project's
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,

    /// Use this initrd instead of the project's
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,

    #[command(flatten)]
    project: ProjectOption,

    /// Run a shell command in the machine once it is up
    ///
    /// overcoat exits with the command's exit code.
    #[arg(long, value_name = "COMMAND", conflicts_with_all = ["shell", "until"])]
    run: Option<String>,

    /// Run the tests of the images in the machine once it is up, and print the results as TAP
    ///
    /// These are the tests of their provisioners and of `check: tests:` that need a booted machine.
    /// The exit code is 1 if one fails.
    #[arg(long, conflicts_with_all = ["run", "shell", "until"])]
    check: bool,

    /// Write the results of --check to this file, in JUnit's format
    #[arg(long, value_name = "FILE", requires = "check")]
    junit: Option<PathBuf>,

    /// Wait for this text on the console instead of the boot agent
    ///
    /// By default, an agent in an extra overlay reports that the system is up. An initrd that
    /// accepts only one overlay cannot load the agent, so it needs this option.
    #[arg(long, value_name = "TEXT", conflicts_with = "shell", value_parser = NonEmptyStringValueParser::new())]
    until: Option<String>,

    /// Use the console interactively, logged in as root
    ///
    /// Ends when the machine is switched off; Ctrl-A X switches it off at once.
    #[arg(long)]
    shell: bool,

    /// Memory of the machine
    #[arg(long, value_name = "SIZE", default_value = "2G", value_parser = size_value)]
    memory: u64,

    /// Number of processors of the machine
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    cpus: u32,

    /// How QEMU runs the processor (default: KVM if available, else TCG)
    #[arg(long, value_name = "WHICH", value_enum)]
    accelerator: Option<AcceleratorArg>,

    /// Seconds to wait for the system to come up
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..))]
    time_out: u64,

    /// Seconds to wait for the command of --run (default: no limit)
    #[arg(long, value_name = "SECONDS", requires = "run", value_parser = clap::value_parser!(u64).range(1..))]
    run_time_out: Option<u64>,

    /// Additional kernel parameters, as one string
    #[arg(long, value_name = "PARAMETERS", default_value = "", allow_hyphen_values = true)]
    append: String,

    /// Print the machine's console while it boots
    #[arg(long)]
    console: bool,

    /// Print the result as JSON, including the output of --run
    #[arg(long)]
    json: bool,
}

/// The QEMU accelerators that can be chosen.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum AcceleratorArg {
    /// Hardware virtualization
    Kvm,
    /// Emulation in software
    Tcg,
}

pub(crate) fn run(ui: &Ui, args: &Args) -> CommandResult {
    let parts = parts(args)?;
    let tests = if args.check { booted_tests(args, &parts)? } else { Vec::new() };
    // Opened first, so that errors are reported before the boot.
    let junit = args.junit.as_deref().map(Output::file).transpose()?;
    let signals = Signals::take()?;
    let options = BootOptions {
        accelerator: args.accelerator.map(|which| match which {
            AcceleratorArg::Kvm => Accelerator::Kvm,
            AcceleratorArg::Tcg => Accelerator::Tcg,
        }),
        memory: args.memory,
        processors: args.cpus,
        time_out: Duration::from_secs(args.time_out),
        command_time_out: args.run_time_out.map(Duration::from_secs),
        until: args.until.clone(),
        command: match args.check {
            true => Some(image_tests::script(&tests)),
            false => args.run.clone(),
        },
        keyboard: args.shell,
        // An initrd of the user may not accept the extra overlay of the agent, which logs in.
        log_in: args.shell && args.initrd.is_none(),
        parameters: args.append.clone(),
    };
    let mut reporter = BootReporter {
        ui,
        args,
        signals: &signals,
        output: Vec::new(),
        truncated: false,
        results: args.check.then(|| TestResults::new(tests.len())),
        interrupted: Cell::new(None),
    };
    if args.shell {
        ui.status("machine console; Ctrl-A X switches the machine off");
    }
    if options.accelerator.is_none()
        && let Some(remedy) = kvm::open().err().as_ref().and_then(kvm::remedy)
    {
        let command = remedy.command.map(|command| format!("as root: `{command}`"));
        let advice = remedy.advice.map(str::to_owned);
        let remedy: Vec<String> = [command, advice].into_iter().flatten().collect();
        ui.status(&format!(
            "no permission for {}: emulating the processor, about ten times slower; to use KVM, {}",
            kvm::DEVICE,
            remedy.join("; ")
        ));
    }
    let terminal = TerminalGuard::new(args.shell, args.console);
    let report = boot(&parts, &options, &signals, &mut reporter)?;
    drop(terminal);
    match report.interrupted {
        // The reader of the command's output closed the pipe.
        Some(signal) if signal == Signal::SIGPIPE as i32 => return Ok(ExitCode::SUCCESS),
        Some(signal) => return Err(CommandError::signal(signal)),
        None => {}
    }
    if let Some(results) = &reporter.results {
        if let Some(mut file) = junit {
            let name = parts.overlays.last().unwrap_or(&parts.base).file_stem();
            let suite = name.unwrap_or_default().to_string_lossy();
            let junit = test_report::junit(&suite, &tests, results.results());
            file.write_all(junit.as_bytes())?;
            output::commit(vec![file])?;
        }
        if !args.json && report.failed.is_none() {
            ui.print(test_report::tap(&tests, results.results()).trim_end())?;
        }
    }
    if args.json {
        let mut value = to_json(&report, args.run.is_some().then_some(&reporter));
        if let Some(results) = &reporter.results {
            value["tests"] = test_report::json(&tests, results.results());
        }
        ui.print(&value.to_string())?;
    } else if !args.shell || report.failed.is_some() {
        print_summary(ui, &report, args.until.as_deref());
    }
    if let Some((phase, reason)) = &report.failed {
        if !args.console && !args.shell {
            let from = report.console.len().saturating_sub(CONSOLE_TAIL_LINES);
            ui.status("last lines of the console:");
            report.console[from..].iter().for_each(|line| eprint_line(&format!("  | {line}")));
        }
        let text = match phase {
            Phase::Command => format!("the machine came up, but {reason}"),
            _ => format!("the machine did not come up: {}: {reason}", phase.describe()),
        };
        return Err(CommandError::new(ErrorKind::Failed, text));
    }
    if let Some(results) = &reporter.results {
        return Ok(ExitCode::from(u8::from(!results.passed())));
    }
    let code = report.code.unwrap_or(0);
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(255)))
}

/// Returns the tests of the booted images that need a machine.
fn booted_tests(args: &Args, parts: &MachineFiles) -> Result<Vec<ImageTest>, CommandError> {
    let named: &[String] = match args.what.first() {
        Some(first) if is_overlay(args, Path::new(first)) => &[],
        _ => &args.what,
    };
    let Some((project, _)) = project_images::find(named, args.project.file())? else {
        return Err(CommandError::user("--check: name images of a project"));
    };
    let files: Vec<PathBuf> = [&parts.base].into_iter().chain(&parts.overlays).cloned().collect();
    let mut tests = project_images::tests_of(&project, &files)?;
    tests.retain(|test| test.booted);
    match tests.is_empty() {
        false => Ok(tests),
        true => Err(CommandError::user(
            "--check: the images have no tests for a booted machine; write them to tests/ of a \
             provisioner",
        )),
    }
}

/// Determines the files to boot from the command line and the project.
fn parts(args: &Args) -> Result<MachineFiles, CommandError> {
    let alone = args.base.is_some() && args.kernel.is_some() && args.initrd.is_some();
    if alone {
        let parts = MachineFiles {
            kernel: args.kernel.clone().unwrap_or_default(),
            initrd: args.initrd.clone().unwrap_or_default(),
            base: args.base.clone().unwrap_or_default(),
            overlays: args.what.iter().map(PathBuf::from).collect(),
            has_own_script: false,
        };
        return Ok(parts);
    }
    let some = args.base.is_some() || args.kernel.is_some() || args.initrd.is_some();
    let found = match args.what.first() {
        // Overlays by path, with a project for the rest.
        Some(first) if is_overlay(args, Path::new(first)) => {
            let found = project_images::find(&[], args.project.file());
            found.map(|found| found.map(|(project, _)| (project, args.what.clone())))
        }
        _ => project_images::find(&args.what, args.project.file()),
    };
    let (project, names) = match found {
        Ok(Some(found)) => found,
        // Some of the files were given, and no project has the rest.
        Err(_) | Ok(None) if some && args.project.file().is_none() => {
            return Err(CommandError::user(
                "no project found: give all of --base, --kernel and --initrd",
            ));
        }
        Err(error) => return Err(error),
        Ok(None) => {
            return Err(CommandError::user(
                "not a project: name images of a project, or give --base, --kernel and --initrd",
            ));
        }
    };
    let catalogue = Catalogue::new(&project, None, None)?;
    let mut parts: Option<MachineFiles> = None;
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
                return Err(CommandError::user(format!("name the images to boot: {all}")));
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
        let word = Path::new(name);
        match project_images::named_image(&project, word) {
            Some(_) => {
                let of = catalogue.machine_files(name).map_err(CommandError::user)?;
                if let Some(before) = &parts
                    && before.base != of.base
                {
                    return Err(CommandError::user(format!(
                        "{} and {name} have different bases",
                        names[0]
                    )));
                }
                add(of.overlays.clone());
                parts.get_or_insert(of);
            }
            None if project_images::is_path_form(word) => add(vec![word.to_owned()]),
            None => return Err(project_images::unknown_image_error(&project, word)),
        }
    }
    let parts = match parts {
        Some(parts) => parts,
        None => only_base(&project, &catalogue, args)?,
    };
    let parts = MachineFiles {
        kernel: args.kernel.clone().unwrap_or(parts.kernel),
        initrd: args.initrd.clone().unwrap_or(parts.initrd),
        base: args.base.clone().unwrap_or(parts.base),
        overlays,
        // The image knows only its own initrd.
        has_own_script: parts.has_own_script && args.initrd.is_none(),
    };
    let files = [&parts.kernel, &parts.initrd, &parts.base].into_iter().chain(&parts.overlays);
    let files: Vec<PathBuf> = files.cloned().collect();
    match project_images::unbuilt(&project, &files) {
        Some(image) => Err(project_images::not_built_error(&project, &image.name, &image.name)),
        None => Ok(parts),
    }
}

/// Returns whether the first argument is the path of an overlay.
fn is_overlay(args: &Args, first: &Path) -> bool {
    args.project.is_path(first) && !project_images::is_project(first)
}

/// Returns the files of the project's only base.
fn only_base(
    project: &Project,
    catalogue: &Catalogue,
    args: &Args,
) -> Result<MachineFiles, CommandError> {
    let bases: Vec<_> = project.images().iter().filter(|image| image.kind() == "base").collect();
    match bases[..] {
        [base] => catalogue.machine_files(&base.name).map_err(CommandError::user),
        _ => Err(CommandError::user(match args.base {
            Some(_) => "the project has several bases: give --kernel and --initrd too",
            None => "the project has several bases: give --base, --kernel and --initrd",
        })),
    }
}

/// Prints the progress of a boot and collects the command's output.
struct BootReporter<'a> {
    ui: &'a Ui,
    args: &'a Args,
    signals: &'a Signals,
    /// Output of the command, for JSON.
    output: Vec<u8>,
    /// Whether `output` is incomplete because it exceeded [`MAX_JSON_OUTPUT_BYTES`].
    truncated: bool,
    /// The results of `--check`.
    results: Option<TestResults>,
    /// The signal that interrupted blocked output, if any; SIGPIPE if the pipe was closed.
    interrupted: Cell<Option<Signal>>,
}

impl BootObserver for BootReporter<'_> {
    fn interrupted(&self) -> Option<i32> {
        self.interrupted.get().map(|signal| signal as i32)
    }

    fn phase(&mut self, phase: Phase, after: Duration) {
        if !self.args.shell {
            if self.args.console {
                // The console may be in the middle of a line.
                eprint_line("");
            }
            let (name, what) = (phase.name(), phase.describe());
            self.ui.status(&format!("{:>6.1} s  {name:<8}  {what}", after.as_secs_f64()));
        }
    }

    fn retry_without_kvm(&mut self) {
        self.ui.status(
            "KVM does not work on this host: restarting with emulation, about ten times slower",
        );
    }

    fn console(&mut self, bytes: &[u8], end: Option<Instant>) {
        if self.args.shell {
            self.write(std::io::stdout(), bytes, true, end);
        } else if self.args.console {
            self.write(std::io::stderr(), bytes, false, end);
        }
    }

    fn output(&mut self, bytes: &[u8], end: Option<Instant>) {
        if let Some(results) = &mut self.results {
            results.take(bytes);
        } else if !self.args.json {
            self.write(std::io::stdout(), bytes, true, end);
        } else if self.output.len() + bytes.len() <= MAX_JSON_OUTPUT_BYTES {
            self.output.extend_from_slice(bytes);
        } else {
            self.truncated = true;
        }
    }
}

impl BootReporter<'_> {
    /// Writes `bytes` until `end`. A closed pipe interrupts the boot if the bytes are its `result`;
    /// a closed standard error is ignored.
    fn write(&self, to: impl AsFd, bytes: &[u8], result: bool, end: Option<Instant>) {
        if self.interrupted.get().is_some() {
            return;
        }
        match write_until(to, bytes, self.signals, end) {
            WriteOutcome::Interrupted(signal) => self.interrupted.set(Some(signal)),
            WriteOutcome::Closed if result => self.interrupted.set(Some(Signal::SIGPIPE)),
            WriteOutcome::Complete | WriteOutcome::TimedOut | WriteOutcome::Closed => {}
        }
    }
}

/// The result of [`write_until`].
#[derive(Debug, PartialEq, Eq)]
enum WriteOutcome {
    /// All bytes were written, or the descriptor cannot be written to at all.
    Complete,
    /// The reader did not accept all bytes in time.
    TimedOut,
    /// The reader closed the pipe.
    Closed,
    /// A signal arrived while the write was blocked.
    Interrupted(Signal),
}

/// Writes to a descriptor that may be in non-blocking mode: QEMU sets O_NONBLOCK on a terminal that
/// it reads the keyboard from.
fn write_until(
    to: impl AsFd,
    mut bytes: &[u8],
    signals: &Signals,
    end: Option<Instant>,
) -> WriteOutcome {
    while !bytes.is_empty() {
        let Some(time_out) = time_out(end) else { return WriteOutcome::TimedOut };
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
            return WriteOutcome::Interrupted(signal);
        }
        // If `poll` fails for another reason than a signal, write without waiting.
        if waited == Err(Errno::EINTR) || (waited.is_ok() && !writable) {
            continue;
        }
        match rustix::io::write(to.as_fd(), &bytes[..bytes.len().min(PIPE_BUF)]) {
            Ok(written) => bytes = &bytes[written..],
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::PIPE) => return WriteOutcome::Closed,
            // The descriptor is closed or its disk is full, which does not stop the boot.
            Err(_) => return WriteOutcome::Complete,
        }
    }
    WriteOutcome::Complete
}

/// Writes and flushes, ignoring errors.
fn write(mut to: impl Write, bytes: &[u8]) {
    let _ = to.write_all(bytes).and_then(|()| to.flush());
}

/// Prints a line to standard error without a prefix.
fn eprint_line(line: &str) {
    write(std::io::stderr(), format!("{line}\n").as_bytes());
}

/// Prints the times and sizes of a boot.
fn print_summary(ui: &Ui, report: &BootReport, until: Option<&str>) {
    let total: Duration = report.phases.iter().map(|(_, took)| *took).sum();
    let each =
        report.phases.iter().map(|(phase, took)| format!("{phase} {:.1}", took.as_secs_f64()));
    ui.status(&format!(
        "{:.1} s: {}; {} fetched, {} of memory touched",
        total.as_secs_f64(),
        each.collect::<Vec<_>>().join(", "),
        size_text(report.fetched),
        size_text(report.peak_memory),
    ));
    if let Some((all, available)) = report.memory {
        ui.status(&format!(
            "the system is up, state: {}; {} of {} memory available",
            report.state.as_deref().unwrap_or("unknown"),
            size_text(available),
            size_text(all)
        ));
    }
    if let Some(text) = until.filter(|_| report.failed.is_none()) {
        ui.status(&format!("the system is up: found `{text}` on the console"));
    }
    if !report.failed_units.is_empty() {
        ui.warning(&format!("failed units: {}", report.failed_units.join(", ")));
    }
}

fn to_json(report: &BootReport, command: Option<&BootReporter<'_>>) -> Value {
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
        // A message of the initrd begins with the name of its failed step.
        if let Some((step, _)) = reason.split_once(": ")
            && ["network", "fetch", "verify", "unpack", "mount", "init"].contains(&step)
        {
            value["failed"]["initrd"] = json!(step);
        }
    }
    if let Some(BootReporter { output, truncated, .. }) = command {
        value["command"] = json!({
            "output": String::from_utf8_lossy(output),
            "complete": !truncated && report.code.is_some(),
            "code": report.code,
        });
    }
    value
}

/// Saves the terminal's settings, which QEMU and the machine's console change, and restores them on
/// drop.
struct TerminalGuard {
    settings: Option<nix::sys::termios::Termios>,
    /// Whether the machine's console is printed on the terminal.
    console_shown: bool,
}

impl TerminalGuard {
    fn new(interactive: bool, console: bool) -> Self {
        let stdin = std::io::stdin();
        let save = interactive && stdin.is_terminal();
        let settings = save.then(|| nix::sys::termios::tcgetattr(&stdin).ok()).flatten();
        let console_shown = (interactive || console) && std::io::stderr().is_terminal();
        TerminalGuard { settings, console_shown }
    }
}

impl Drop for TerminalGuard {
    fn drop(&mut self) {
        if let Some(settings) = &self.settings {
            let when = nix::sys::termios::SetArg::TCSADRAIN;
            let _ = nix::sys::termios::tcsetattr(std::io::stdin(), when, settings);
        }
        // Turn line wrap (DECAWM) on again, which the firmware turns off.
        if self.console_shown {
            write(std::io::stderr(), b"\x1b[?7h");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, pipe};

    use super::*;

    #[test]
    fn write_until_completes_on_a_slow_nonblocking_terminal() {
        let signals = Signals::take_set(&[]).unwrap();
        let terminal = nix::pty::openpty(None, None).unwrap();
        rustix::io::ioctl_fionbio(&terminal.slave, true).unwrap();
        let bytes: Vec<u8> = (0..200_000u32).map(|n| b'a' + (n % 23) as u8).collect();
        let mut reader = std::fs::File::from(terminal.master);
        let mut all = vec![0; bytes.len()];
        let read = std::thread::spawn(move || {
            all.chunks_mut(1000).for_each(|some| reader.read_exact(some).unwrap());
            all
        });
        assert_eq!(write_until(&terminal.slave, &bytes, &signals, None), WriteOutcome::Complete);
        // Without this, the reader would block for ever if bytes were lost.
        drop(terminal.slave);
        assert!(read.join().unwrap() == bytes);
    }

    #[test]
    fn write_until_times_out_on_a_blocked_pipe_and_detects_a_closed_one() {
        let signals = Signals::take_set(&[]).unwrap();
        let (reader, writer) = pipe().unwrap();
        let end = Instant::now() + Duration::from_millis(50);
        let outcome = write_until(&writer, &[0; 1 << 20], &signals, Some(end));
        assert_eq!(outcome, WriteOutcome::TimedOut);
        drop(reader);
        assert_eq!(write_until(&writer, &[0; 10], &signals, None), WriteOutcome::Closed);
    }
}
