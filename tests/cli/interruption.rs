//! Interrupted and failed commands leave no process, no mount and no incomplete file.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::processes::{alive, family, within};
use crate::support::stage::{BOTH_USERS, Finished, Stage, Who, finish};
use crate::support::terminal::OnTerminal;

/// Starts processes in other sessions, changes a file, and continues to work.
const BUSY: &str = "setsid sh -c 'sleep 1000 & wait' & setsid -f sleep 1000; echo changed > /etc/new; \
                    echo READY; while :; do find / -xdev > /dev/null 2>&1; done";

/// Time limit that suffices on slow machines.
const LIMIT: Duration = Duration::from_secs(60);

/// Files and mounts before a command.
struct Before {
    files: Vec<PathBuf>,
    mounts: String,
}

impl Before {
    fn new(stage: &Stage, who: Who) -> Self {
        stage.lab();
        Before { files: stage.files(who), mounts: Stage::mounts() }
    }

    #[track_caller]
    fn assert_unchanged(&self, stage: &Stage, who: Who, family: &[u32]) {
        within(LIMIT, "all processes have ended", || alive(family).is_empty());
        assert_eq!(self.files, stage.files(who));
        assert_eq!(self.mounts, Stage::mounts());
    }
}

/// A running program.
struct Running {
    child: Child,
    family: Vec<u32>,
    rest: JoinHandle<String>,
}

impl Running {
    /// Starts a program and waits until it prints READY.
    fn start(command: &mut Command) -> Self {
        let (mut reader, writer) = std::io::pipe().unwrap();
        command.stdout(writer.try_clone().unwrap()).stderr(writer);
        let child = command.spawn().unwrap();
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut lines = BufReader::new(&mut reader);
        let mut seen = String::new();
        while !seen.ends_with("READY\n") {
            let length = lines.read_line(&mut seen).unwrap();
            assert!(length > 0, "the program ended early: {seen}");
        }
        let rest = std::thread::spawn(move || {
            let mut rest = String::new();
            // Programs inside may keep the stream open until they end.
            let _ = reader.read_to_string(&mut rest);
            rest
        });
        let family = family(child.id());
        assert!(family.len() > 3, "{family:?}");
        Running { child, family, rest }
    }

    /// Ends the program by a signal. Returns the exit code, as shells do, the rest of the output,
    /// and the processes.
    fn end(mut self, signal: Signal) -> (i32, String, Vec<u32>) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
        let status = self.child.wait().unwrap();
        let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
        let printed = self.rest.join().unwrap();
        assert!(!printed.contains("panicked"), "{printed}");
        (code, printed, self.family)
    }
}

fn run_busy(stage: &Stage, who: Who) -> Command {
    let mut command = stage.overcoat(who);
    command.arg("run").arg(stage.debian()).args(["--save", "out.cpio.gz", "--", "sh", "-c", BUSY]);
    command
}

/// Writes an image file whose provisioner runs `script`.
fn image(stage: &Stage, script: &str) -> PathBuf {
    stage.write("provisioner/provisioner.yml", "scripts: [scripts/10-first, scripts/20-work]\n");
    stage.write("provisioner/scripts/10-first", "#!/bin/sh\necho first\n");
    stage.write("provisioner/scripts/20-work", format!("#!/bin/sh\n{script}\n"));
    let base = stage.debian();
    let text = format!("base: {}\nprovisioner: provisioner\nnetwork: none\n", base.display());
    stage.write("image.yml", text)
}

fn build(stage: &Stage, who: Who, script: &str) -> Command {
    let mut command = stage.overcoat(who);
    command.args(["build", "-v", "-o", "out.cpio.gz"]).arg(image(stage, script));
    command
}

#[test]
fn killed_program_leaves_nothing() {
    let stage = Stage::new();
    for who in BOTH_USERS {
        for mut command in [run_busy(&stage, who), build(&stage, who, BUSY)] {
            let before = Before::new(&stage, who);
            let (code, _, family) = Running::start(&mut command).end(Signal::SIGKILL);
            assert_eq!(code, 137);
            before.assert_unchanged(&stage, who, &family);
        }
    }
}

#[test]
fn terminated_program_leaves_nothing() {
    let stage = Stage::new();
    for who in BOTH_USERS {
        for mut command in [run_busy(&stage, who), build(&stage, who, BUSY)] {
            for (signal, expected) in [(Signal::SIGTERM, 143), (Signal::SIGHUP, 129)] {
                let before = Before::new(&stage, who);
                let (code, printed, family) = Running::start(&mut command).end(signal);
                assert_eq!(code, expected, "{printed}");
                before.assert_unchanged(&stage, who, &family);
            }
        }
    }
}

#[test]
fn ctrl_c_leaves_nothing() {
    let stage = Stage::new();
    for who in BOTH_USERS {
        for command in [run_busy(&stage, who), build(&stage, who, BUSY)] {
            let before = Before::new(&stage, who);
            let mut terminal = OnTerminal::start(command);
            terminal.until("READY\r\n");
            let family = family(terminal.child.id());
            terminal.type_in("\x03");
            assert_eq!(terminal.end(), Some(130));
            before.assert_unchanged(&stage, who, &family);
        }
    }
}

/// Returns the number of bytes that a process has written to an unnamed output.
fn unnamed(pid: u32, folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return 0 };
    let sizes = entries.flatten().filter_map(|entry| {
        let target = fs::read_link(entry.path()).ok()?;
        let deleted = target.to_string_lossy().ends_with(" (deleted)");
        (target.starts_with(folder) && deleted).then(|| fs::metadata(entry.path()).ok())?
    });
    sizes.map(|meta| meta.len()).sum()
}

#[test]
fn signal_during_a_seal_leaves_nothing() {
    let stage = Stage::new();
    for (who, signal) in [(Who::Root, Signal::SIGKILL), (Who::Unprivileged, Signal::SIGKILL)]
        .into_iter()
        .chain([(Who::Unprivileged, Signal::SIGTERM), (Who::Root, Signal::SIGINT)])
    {
        let before = Before::new(&stage, who);
        let mut command = stage.overcoat(who);
        command.arg("run").arg(stage.debian());
        command.args(["--save", "out.cpio.gz", "--threads", "1", "--level", "9", "--", "sh", "-c"]);
        command.arg("head -c 200000000 /dev/urandom > /large; echo READY; read line || :");
        let mut running = {
            command.stdin(Stdio::piped());
            Running::start(&mut command)
        };
        // The command ends at the end of its input.
        drop(running.child.stdin.take());
        let (pid, folder) = (running.child.id(), stage.out(who));
        within(LIMIT, "the output has data", || unnamed(pid, &folder) > 0);
        let (code, printed, family) = running.end(signal);
        assert_eq!(code, 128 + signal as i32, "{printed}");
        before.assert_unchanged(&stage, who, &family);
    }
}

#[test]
fn failed_script_is_named_and_its_log_is_kept() {
    let stage = Stage::new();
    for who in BOTH_USERS {
        let before = Before::new(&stage, who);
        let script = "echo one line; seq 1 100; echo the last line >&2; exit 7";
        let mut command = stage.overcoat(who);
        command.args(["build", "-o", "out.cpio.gz"]).arg(image(&stage, script));
        let finished = finish(&mut command).code(1).stderr_has(&[
            "scripts/20-work",
            "exit code 7",
            "| the last line",
            "| 100\n",
            "out.cpio.gz.log",
        ]);
        assert!(!finished.stderr.contains("one line"), "{}", finished.stderr);
        assert_eq!(finished.stdout, b"");
        let log = stage.out(who).join("out.cpio.gz.log");
        let text = fs::read_to_string(&log).unwrap();
        assert!(text.contains("one line\n1\n2\n") && text.contains("the last line\n"), "{text}");
        assert!(text.contains("first\n"), "{text}");
        fs::remove_file(log).unwrap();
        before.assert_unchanged(&stage, who, &[]);
    }
}

#[test]
fn failed_command_is_not_saved() {
    let stage = Stage::new();
    for who in BOTH_USERS {
        let before = Before::new(&stage, who);
        let mut command = stage.overcoat(who);
        command.arg("run").arg(stage.debian()).args(["--save", "out.cpio.gz", "--", "sh", "-c"]);
        finish(command.arg("echo x > /etc/x; exit 3"))
            .code(3)
            .stderr_has(&["out.cpio.gz is not written"]);
        before.assert_unchanged(&stage, who, &[]);
    }
}

#[test]
fn full_upper_is_reported_and_nothing_is_written() {
    let stage = Stage::new();
    let fill = "dd if=/dev/urandom of=/large bs=1M count=40";
    for who in BOTH_USERS {
        let before = Before::new(&stage, who);
        let mut command = stage.overcoat(who);
        command.arg("run").arg(stage.debian()).args(["--upper-size", "20M"]);
        command.args(["--save", "out.cpio.gz", "--", "sh", "-c", fill]);
        finish(&mut command).code(1).stderr_has(&["No space left on device", "--upper-size"]);
        before.assert_unchanged(&stage, who, &[]);

        let mut command = stage.overcoat(who);
        command.args(["build", "--upper-size", "20M", "-o", "out.cpio.gz"]);
        command.arg(image(&stage, &format!("set -e\n{fill}")));
        finish(&mut command).code(1).stderr_has(&[
            "No space left on device",
            "scripts/20-work",
            "--upper-size",
        ]);
        fs::remove_file(stage.out(who).join("out.cpio.gz.log")).unwrap();
        before.assert_unchanged(&stage, who, &[]);
    }
}

/// A Python program that writes 8 MiB to a memory mapping of a file. No call of it fails.
pub(crate) const FILL_MAPPING: &str = "import mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
os.ftruncate(fd, 8 << 20)
mapping = mmap.mmap(fd, 8 << 20)
os.close(fd)
for at in range(0, 8 << 20, 1 << 20): mapping[at:at + (1 << 20)] = os.urandom(1 << 20)
mapping.close()
";

#[test]
fn mapped_data_that_does_not_fit_into_the_upper_is_an_error() {
    let stage = Stage::new();
    let map = format!("python3 -c \"{FILL_MAPPING}\" /opt/");
    let lost = "the upper layer was full, and data that a program wrote to a memory mapping is lost, \
                in /opt/large: raise its limit with --upper-size";
    for who in BOTH_USERS {
        let before = Before::new(&stage, who);
        let build = |script: &str| {
            let mut command = stage.overcoat(who);
            command.args(["build", "--upper-size", "2M", "-o", "out.cpio"]);
            finish(command.arg(image(&stage, script)))
        };
        let run = |options: &[&str], script: &str| {
            let mut command = stage.overcoat(who);
            command.arg("run").arg(stage.debian()).args(["--upper-size", "2M"]).args(options);
            finish(command.args(["--", "sh", "-c", script]))
        };
        build(&format!("{map}large")).code(2).stderr_has(&[lost, "`upper_size` in the image file"]);
        before.assert_unchanged(&stage, who, &[]);
        let save = ["--save", "out.cpio"];
        run(&save, &format!("{map}large")).code(2).stderr_has(&["out.cpio is not written", lost]);
        before.assert_unchanged(&stage, who, &[]);
        run(&[], &format!("{map}large; exit 7")).code(7).stderr_has(&["warning: ", lost]);
        // The image does not lack what was deleted or written again.
        for fix in ["rm /opt/large", ": >/opt/large", "echo >/opt/large"] {
            let finished = build(&format!("{map}large; {fix}")).ok();
            let finished = finished.stderr_has(&["the upper layer was full at some point"]);
            assert!(!finished.stderr.contains("is lost"), "{}", finished.stderr);
        }
        fs::remove_file(stage.out(who).join("out.cpio")).unwrap();
        fs::remove_file(stage.out(who).join("out.cpio.manifest.json")).unwrap();
        before.assert_unchanged(&stage, who, &[]);
    }
}

#[test]
fn removing_files_from_a_full_upper_frees_space() {
    let stage = Stage::new();
    let script = "echo before > /etc/before; dd if=/dev/urandom of=/large bs=1M count=40 && exit 9; \
                  rm /large; head -c 10000000 /dev/urandom > /etc/small && cat /etc/before";
    for who in BOTH_USERS {
        let mut command = stage.overcoat(who);
        command.arg("run").arg(stage.debian()).args(["--upper-size", "20M"]);
        command.args(["--save", "out.cpio.gz", "--", "sh", "-c", script]);
        let finished = finish(&mut command).ok().stderr_has(&["--upper-size"]);
        assert_eq!(finished.text(), "before\n");
        let archive = stage.out(who).join("out.cpio.gz");
        let names = stage.archive_names(&archive);
        assert_eq!(names, ".\netc\netc/before\netc/small\n");
    }
}

#[test]
fn full_output_disk_is_reported_and_nothing_is_written() {
    let stage = Stage::new();
    let who = Who::Root;
    let disk = stage.path("disk");
    fs::create_dir(&disk).unwrap();
    stage.sh("mount -t tmpfs -o size=5M disk disk");
    let mut command = stage.overcoat(who);
    command.arg("run").arg(stage.debian()).arg("--save").arg(disk.join("out.cpio.gz"));
    command.args(["--", "sh", "-c", "head -c 20000000 /dev/urandom > /large"]);
    finish(&mut command).code(2).stderr_has(&["disk/out.cpio.gz", "No space left on device"]);
    assert_eq!(fs::read_dir(disk).unwrap().count(), 0);
}

#[test]
fn failed_build_keeps_the_previous_output() {
    let stage = Stage::new();
    let who = Who::Unprivileged;
    let output = stage.out(who).join("out.cpio.gz");
    fs::write(&output, "the one of yesterday").unwrap();
    stage.give(&output, who);
    let finished: Finished = finish(&mut build(&stage, who, "exit 1"));
    finished.code(1);
    assert_eq!(fs::read(&output).unwrap(), b"the one of yesterday");
    finish(&mut build(&stage, who, "exit 0")).ok();
    assert_ne!(fs::read(&output).unwrap(), b"the one of yesterday");
}

#[test]
fn shell_is_saved_when_its_terminal_is_closed() {
    let stage = Stage::new();
    for who in BOTH_USERS {
        let output = stage.out(who).join("work.cpio");
        let start = || {
            let mut command = stage.overcoat(who);
            command.arg("shell").arg(stage.debian()).args(["--save", "work.cpio", "--no-manifest"]);
            let mut terminal = OnTerminal::start(command);
            terminal.type_in("trap 'echo trapped >/srv/trapped' EXIT; echo work >/srv/work\n");
            // A program that does not end by the signal.
            terminal.type_in("(trap '' HUP; sleep 1000) & sleep 0.1; echo REA''DY\n");
            terminal.until("READY\r\n");
            let family = family(terminal.child.id());
            (terminal, family)
        };
        let overcoat = |terminal: &OnTerminal| Pid::from_raw(terminal.child.id() as i32);
        // Without an output: the end was asked for.
        for signal in [Signal::SIGTERM, Signal::SIGINT] {
            let (mut terminal, family) = start();
            kill(overcoat(&terminal), signal).unwrap();
            assert_eq!(terminal.end(), Some(128 + signal as i32));
            within(LIMIT, "all processes have ended", || alive(&family).is_empty());
            assert!(!output.exists());
        }
        let names = || stage.sh(&format!("cpio -it --quiet <'{}'", output.display()));
        let (mut terminal, family) = start();
        kill(overcoat(&terminal), Signal::SIGHUP).unwrap();
        kill(overcoat(&terminal), Signal::SIGHUP).unwrap();
        assert_eq!(terminal.end(), Some(129));
        within(LIMIT, "all processes have ended", || alive(&family).is_empty());
        assert!(names().contains("srv/trapped\nsrv/work\n"), "{}", names());
        fs::remove_file(&output).unwrap();

        let (mut terminal, family) = start();
        assert_eq!(terminal.hang_up(), Some(129));
        within(LIMIT, "all processes have ended", || alive(&family).is_empty());
        assert!(names().contains("srv/trapped\nsrv/work\n"), "{}", names());
        fs::remove_file(&output).unwrap();
    }
}
