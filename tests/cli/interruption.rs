//! However it ends, nothing is left: no process, no mount, no file that is not whole.

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
use crate::support::stage::{EVERYBODY, Finished, Stage, Who, finish};
use crate::support::terminal::OnTerminal;

/// Leaves processes of its own in other sessions, changes something, and works on.
const BUSY: &str = "setsid sh -c 'sleep 1000 & wait' & setsid -f sleep 1000; echo changed > /etc/new; \
                    echo READY; while :; do find / -xdev > /dev/null 2>&1; done";

/// Time that is always enough, however slow the machine.
const LIMIT: Duration = Duration::from_secs(60);

/// The state before, which must be that after.
struct Before {
    files: Vec<PathBuf>,
    mounts: String,
}

impl Before {
    fn of(stage: &Stage, who: Who) -> Self {
        stage.lab();
        Before { files: stage.files(who), mounts: Stage::mounts() }
    }

    #[track_caller]
    fn is_after(&self, stage: &Stage, who: Who, family: &[u32]) {
        within(LIMIT, "all processes have ended", || alive(family).is_empty());
        assert_eq!(self.files, stage.files(who));
        assert_eq!(self.mounts, Stage::mounts());
    }
}

/// A program that is at work.
struct Running {
    child: Child,
    family: Vec<u32>,
    rest: JoinHandle<String>,
}

impl Running {
    /// Starts a program and waits until one of its streams says READY.
    fn start(command: &mut Command) -> Self {
        let (mut reader, writer) = std::io::pipe().unwrap();
        command.stdout(writer.try_clone().unwrap()).stderr(writer);
        let child = command.spawn().unwrap();
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut lines = BufReader::new(&mut reader);
        let mut seen = String::new();
        while !seen.ends_with("READY\n") {
            let length = lines.read_line(&mut seen).unwrap();
            assert!(length > 0, "it ended early: {seen}");
        }
        let rest = std::thread::spawn(move || {
            let mut rest = String::new();
            // What is inside may hold the stream until it ends.
            let _ = reader.read_to_string(&mut rest);
            rest
        });
        let family = family(child.id());
        assert!(family.len() > 3, "{family:?}");
        Running { child, family, rest }
    }

    /// Ends it by a signal; its exit code as shells tell it, and what it said in the end.
    fn end(mut self, signal: Signal) -> (i32, String, Vec<u32>) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
        let status = self.child.wait().unwrap();
        let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
        let said = self.rest.join().unwrap();
        assert!(!said.contains("panicked"), "{said}");
        (code, said, self.family)
    }
}

fn run_busy(stage: &Stage, who: Who) -> Command {
    let mut command = stage.overcoat(who);
    command.arg("run").arg(stage.debian()).args(["--save", "out.cpio.gz", "--", "sh", "-c", BUSY]);
    command
}

/// An image file whose provisioner is one script.
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
fn a_killed_program_leaves_nothing() {
    let stage = Stage::new();
    for who in EVERYBODY {
        for mut command in [run_busy(&stage, who), build(&stage, who, BUSY)] {
            let before = Before::of(&stage, who);
            let (code, _, family) = Running::start(&mut command).end(Signal::SIGKILL);
            assert_eq!(code, 137);
            before.is_after(&stage, who, &family);
        }
    }
}

#[test]
fn a_terminated_program_leaves_nothing() {
    let stage = Stage::new();
    for who in EVERYBODY {
        for mut command in [run_busy(&stage, who), build(&stage, who, BUSY)] {
            for (signal, expected) in [(Signal::SIGTERM, 143), (Signal::SIGHUP, 129)] {
                let before = Before::of(&stage, who);
                let (code, said, family) = Running::start(&mut command).end(signal);
                assert_eq!(code, expected, "{said}");
                before.is_after(&stage, who, &family);
            }
        }
    }
}

#[test]
fn ctrl_c_leaves_nothing() {
    let stage = Stage::new();
    for who in EVERYBODY {
        for command in [run_busy(&stage, who), build(&stage, who, BUSY)] {
            let before = Before::of(&stage, who);
            let mut terminal = OnTerminal::start(command);
            terminal.until("READY\r\n");
            let family = family(terminal.child.id());
            terminal.type_in("\x03");
            assert_eq!(terminal.end(), Some(130));
            before.is_after(&stage, who, &family);
        }
    }
}

/// How much of an output that has no name yet a process has written.
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
fn a_program_that_is_ended_while_it_seals_leaves_nothing() {
    let stage = Stage::new();
    for (who, signal) in [(Who::Root, Signal::SIGKILL), (Who::Unprivileged, Signal::SIGKILL)]
        .into_iter()
        .chain([(Who::Unprivileged, Signal::SIGTERM), (Who::Root, Signal::SIGINT)])
    {
        let before = Before::of(&stage, who);
        let mut command = stage.overcoat(who);
        command.arg("run").arg(stage.debian());
        command.args(["--save", "out.cpio.gz", "--threads", "1", "--level", "9", "--", "sh", "-c"]);
        command.arg("head -c 200000000 /dev/urandom > /large; echo READY; read line || :");
        let mut running = {
            command.stdin(Stdio::piped());
            Running::start(&mut command)
        };
        // The end of its input ends the command.
        drop(running.child.stdin.take());
        let (pid, folder) = (running.child.id(), stage.out(who));
        within(LIMIT, "something is written", || unnamed(pid, &folder) > 0);
        let (code, said, family) = running.end(signal);
        assert_eq!(code, 128 + signal as i32, "{said}");
        before.is_after(&stage, who, &family);
    }
}

#[test]
fn a_failing_script_is_named_and_its_log_kept() {
    let stage = Stage::new();
    for who in EVERYBODY {
        let before = Before::of(&stage, who);
        let script = "echo one line; seq 1 100; echo the last line >&2; exit 7";
        let mut command = stage.overcoat(who);
        command.args(["build", "-o", "out.cpio.gz"]).arg(image(&stage, script));
        let finished = finish(&mut command).code(1).says(&[
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
        before.is_after(&stage, who, &[]);
    }
}

#[test]
fn a_failing_command_is_not_saved() {
    let stage = Stage::new();
    for who in EVERYBODY {
        let before = Before::of(&stage, who);
        let mut command = stage.overcoat(who);
        command.arg("run").arg(stage.debian()).args(["--save", "out.cpio.gz", "--", "sh", "-c"]);
        finish(command.arg("echo x > /etc/x; exit 3"))
            .code(3)
            .says(&["out.cpio.gz is not written"]);
        before.is_after(&stage, who, &[]);
    }
}

#[test]
fn a_full_upper_is_told_and_nothing_written() {
    let stage = Stage::new();
    let fill = "dd if=/dev/urandom of=/large bs=1M count=40";
    for who in EVERYBODY {
        let before = Before::of(&stage, who);
        let mut command = stage.overcoat(who);
        command.arg("run").arg(stage.debian()).args(["--upper-size", "20M"]);
        command.args(["--save", "out.cpio.gz", "--", "sh", "-c", fill]);
        finish(&mut command).code(1).says(&["No space left on device", "--upper-size"]);
        before.is_after(&stage, who, &[]);

        let mut command = stage.overcoat(who);
        command.args(["build", "--upper-size", "20M", "-o", "out.cpio.gz"]);
        command.arg(image(&stage, &format!("set -e\n{fill}")));
        finish(&mut command).code(1).says(&[
            "No space left on device",
            "scripts/20-work",
            "--upper-size",
        ]);
        fs::remove_file(stage.out(who).join("out.cpio.gz.log")).unwrap();
        before.is_after(&stage, who, &[]);
    }
}

#[test]
fn what_is_removed_from_a_full_upper_makes_room_again() {
    let stage = Stage::new();
    let script = "echo before > /etc/before; dd if=/dev/urandom of=/large bs=1M count=40 && exit 9; \
                  rm /large; head -c 10000000 /dev/urandom > /etc/small && cat /etc/before";
    for who in EVERYBODY {
        let mut command = stage.overcoat(who);
        command.arg("run").arg(stage.debian()).args(["--upper-size", "20M"]);
        command.args(["--save", "out.cpio.gz", "--", "sh", "-c", script]);
        let finished = finish(&mut command).ok().says(&["--upper-size"]);
        assert_eq!(finished.text(), "before\n");
        let archive = stage.out(who).join("out.cpio.gz");
        let names = stage.sh(&format!("gzip -dc '{}' | cpio --quiet -it", archive.display()));
        assert_eq!(names, ".\netc\netc/before\netc/small\n");
    }
}

#[test]
fn an_output_on_a_full_disk_is_told_and_nothing_written() {
    let stage = Stage::new();
    let who = Who::Root;
    let disk = stage.path("disk");
    fs::create_dir(&disk).unwrap();
    stage.sh("mount -t tmpfs -o size=5M disk disk");
    let mut command = stage.overcoat(who);
    command.arg("run").arg(stage.debian()).arg("--save").arg(disk.join("out.cpio.gz"));
    command.args(["--", "sh", "-c", "head -c 20000000 /dev/urandom > /large"]);
    finish(&mut command).code(2).says(&["disk/out.cpio.gz", "No space left on device"]);
    assert_eq!(fs::read_dir(disk).unwrap().count(), 0);
}

#[test]
fn an_older_output_stays_when_a_build_fails() {
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
