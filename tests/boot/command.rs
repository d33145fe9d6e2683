//! `overcoat boot` with real artifacts, from the firmware on.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::machine::Site;
use crate::support::processes::{alive, family, within};
use crate::support::stage::{Finished, Who, finish};

/// A site with a kernel and an initrd; its overlays turn the lab's base into a bootable system.
struct Machine {
    site: Site,
    kernel: PathBuf,
    initrd: PathBuf,
}

impl Machine {
    fn new() -> Self {
        let site = Site::new();
        let (kernel, initrd) = site.kernel_and_initrd();
        Machine { site, kernel, initrd }
    }

    /// Returns `overcoat boot` of overlays, run by an unprivileged user.
    fn command(&self, overlays: &[&str], options: &[&str]) -> Command {
        let mut command = self.site.stage.overcoat(Who::Unprivileged);
        command.arg("boot").args(["--accelerator", "tcg"]);
        if !options.contains(&"--memory") {
            command.args(["--memory", "1G"]);
        }
        command.arg("--base").arg(self.site.stage.debian());
        command.arg("--kernel").arg(&self.kernel).arg("--initrd").arg(&self.initrd);
        command.args(options).args(overlays.iter().map(|name| self.site.artifact(name)));
        command
    }

    fn boot(&self, overlays: &[&str], options: &[&str]) -> Finished {
        finish(&mut self.command(overlays, options))
    }
}

#[test]
fn machine_boots_through_the_firmware_and_runs_a_command() {
    let machine = Machine::new();
    let site = &machine.site;
    site.system();
    let run = "systemctl is-active multi-user.target; cat /etc/unit; printf 'a\\n\\0b'; exit 7";
    let report = machine
        .boot(
            &["system.cpio.zst", "unit.cpio.gz"],
            &["--json", "--run", run, "--append", "overcoat.quiet"],
        )
        .code(7);
    let report: Value = serde_json::from_slice(&report.stdout).unwrap();
    assert_eq!(report["up"], true, "{report}");
    assert_eq!(report["state"], "running", "{report}");
    assert_eq!(report["command"]["code"], 7);
    assert_eq!(report["command"]["output"], "active\nof the unit\na\n\0b", "{report}");
    let phases = report["phases"].as_array().unwrap().iter().map(|p| p["phase"].as_str().unwrap());
    assert_eq!(
        phases.collect::<Vec<_>>(),
        ["firmware", "load", "kernel", "fetch", "system", "command"]
    );
    // At least the base, the kernel and the initrd.
    let size = |path: PathBuf| std::fs::metadata(path).unwrap().len();
    let least =
        size(site.stage.debian()) + size(machine.kernel.clone()) + size(machine.initrd.clone());
    assert!(report["fetched"].as_u64().unwrap() > least, "{report}");
    assert!(report["peak_memory"].as_u64().unwrap() > 200 << 20, "{report}");
    assert!(report["memory"]["available"].as_u64().unwrap() > 0, "{report}");
}

#[test]
fn tests_of_a_provisioner_run_in_the_machine_and_failed_ones_are_named() {
    let machine = Machine::new();
    let site = &machine.site;
    site.system();
    let stage = &site.stage;
    stage.write("checked/tested/provisioner.yml", "variables: {word: it's}\nfiles: files\n");
    stage.write("checked/tested/files/etc/x", "");
    stage.write("checked/tested/tests/up.yml", "- {service: multi-user.target, running: true}\n");
    stage.write("checked/tested/tests/booted/word.sh", "[ \"$OVERCOAT_VAR_word\" = \"it's\" ]\n");
    stage.write("checked/site.yml", "- {name: never, command: echo why; false, booted: true}\n");
    let project = format!(
        "images:\n  system:\n    base: {}\n    provisioner: tested\n    format: cpio.zst\n    \
         output: {}\n    check: {{tests: [site.yml]}}\n",
        stage.debian().display(),
        site.artifact("system.cpio.zst").display()
    );
    let project = stage.write("checked/overcoat.yml", project);
    let junit = stage.out(Who::Unprivileged).join("junit.xml");
    let options =
        ["--check", "--project", project.to_str().unwrap(), "--junit", junit.to_str().unwrap()];
    let expected = "TAP version 14\n1..3\nok 1 - tested: word\n\
                    ok 2 - tested: service multi-user.target\nnot ok 3 - project: never\n";
    let report = machine.boot(&["system.cpio.zst"], &options).code(1).text();
    assert!(report.starts_with(expected), "{report}");
    assert!(report.contains("site.yml:1") && report.contains("    why\n"), "{report}");
    let junit = std::fs::read_to_string(&junit).unwrap();
    assert!(junit.contains("tests=\"3\" failures=\"1\""), "{junit}");
    stage.write("checked/site.yml", "- {port: 1, listening: false}\n");
    machine.boot(&["system.cpio.zst"], &options[..3]).ok();
}

#[test]
fn failed_boot_is_reported_with_phase_and_reason() {
    let machine = Machine::new();
    let site = &machine.site;
    site.overlay(
        "noinit.cpio.gz",
        &[],
        "rm -f /sbin/init /usr/sbin/init; mkdir -p /etc; echo >/etc/x",
    );
    site.stage.sh("head -c 60 public/noinit.cpio.gz >public/cut.cpio.gz");
    machine.boot(&["noinit.cpio.gz"], &["--until", "never"]).code(1).stderr_has(&[
        "the machine did not come up: starting the system: init: /sbin/init does not exist",
        "last lines of the console:",
    ]);
    machine.boot(&["cut.cpio.gz"], &["--until", "never"]).code(1).stderr_has(&[
        "the machine did not come up: fetching and unpacking the base and the overlays: unpack: ",
        "cut.cpio.gz: damaged",
    ]);
    let reset = "rm -f /sbin/init /usr/sbin/init
        printf '#!/bin/sh\\necho b >/proc/sysrq-trigger\\nsleep 60\\n' >/usr/sbin/init
        chmod 755 /usr/sbin/init";
    site.overlay("reset.cpio.gz", &[], reset);
    machine
        .boot(&["reset.cpio.gz"], &["--until", "never"])
        .code(1)
        .stderr_has(&["starting the system: the machine reset itself"]);
    // Only the firmware starts.
    let report = machine.boot(&[], &["--until", "never", "--time-out", "2", "--json"]).code(1);
    let report: Value = serde_json::from_slice(&report.stdout).unwrap();
    assert_eq!(report["up"], false);
    assert_eq!(report["failed"]["reason"], "the machine was not up after 2 s");
    machine
        .boot(&[], &["--memory", "96M"])
        .code(1)
        .stderr_has(&["(96 MiB of memory may be too little: see --memory)"]);
    // A command that does not end, whose output is closed early.
    site.system();
    let mut command = machine.command(&["system.cpio.zst"], &["--run", "yes; sleep 1000"]);
    let mut child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    child.stdout.take().unwrap().read_exact(&mut [0; 2]).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    // A command whose output is not read, with a time limit.
    let options = ["--run", "yes", "--run-time-out", "2"];
    let mut child = machine
        .command(&["system.cpio.zst"], &options)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    machine
        .boot(&["system.cpio.zst"], &["--run", "sleep 1000", "--run-time-out", "2"])
        .code(1)
        .stderr_has(&["came up, but the command was still running after 2 s"]);
    // Errors that are found without a machine.
    site.stage.sh("ln -s base.squashfs public/over.squashfs");
    machine.boot(&["over.squashfs"], &[]).code(2).stderr_has(&["over.squashfs", "cpio archives"]);
    let mut command = machine.command(&["missing.cpio.gz"], &["--until", "x"]);
    finish(&mut command).code(2).stderr_has(&["cannot read", "missing.cpio.gz", "No such file"]);
    let long = "x".repeat(2000);
    machine
        .boot(&["system.cpio.zst"], &["--append", &long])
        .code(2)
        .stderr_has(&["cannot be booted: its kernel command line has", "use fewer overlays"]);
}

#[test]
fn until_waits_for_console_text_and_qemu_ends_with_overcoat() {
    let machine = Machine::new();
    let mut command = machine.command(&[], &["--until", "overcoat: fetching", "--console"]);
    finish(&mut command).ok().stderr_has(&[
        "iPXE",
        "overcoat: fetching",
        "fetching the kernel and its initrd",
    ]);

    let mut command = machine.command(&[], &["--until", "never"]);
    let mut child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let mut stderr = std::io::BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("fetching the kernel") {
        line.clear();
        assert!(std::io::BufRead::read_line(&mut stderr, &mut line).unwrap() > 0);
    }
    let family = family(child.id());
    assert!(family.len() > 1, "{family:?}");
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(child.id() as i32),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
    child.wait().unwrap();
    within(std::time::Duration::from_secs(60), "all processes have exited", || {
        alive(&family).is_empty()
    });
}

#[test]
fn shell_option_connects_the_keyboard_to_the_console() {
    let machine = Machine::new();
    let mut command = machine.command(&[], &["--shell", "--append", "init=/bin/sh"]);
    let mut child = command
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut keyboard = child.stdin.take().unwrap();
    let mut console = child.stdout.take().unwrap();
    let mut shown = Vec::new();
    let mut until = |what: &str| {
        let from = shown.len();
        let mut byte = [0];
        while !String::from_utf8_lossy(&shown[from..]).contains(what) {
            assert_eq!(console.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&shown));
            shown.push(byte[0]);
        }
    };
    until("# ");
    keyboard.write_all(b"echo $((6 * 7))-times\n").unwrap();
    until("42-times");
    keyboard.write_all(b"echo o >/proc/sysrq-trigger\n").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
