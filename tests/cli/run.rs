//! `run`: its options, exit codes and streams.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use crate::snapshot::{self, Transcript};
use crate::support::stage::{BOTH_USERS, Finished, Stage, Who, finish};

fn run(stage: &Stage, who: Who, options: &[&str], script: &str) -> Command {
    let mut command = stage.overcoat(who);
    command.arg("run").arg(stage.debian()).args(options).args(["--", "sh", "-c", script]);
    command
}

#[test]
fn exit_code_is_that_of_the_command() {
    let stage = Stage::new();
    for who in BOTH_USERS {
        for (script, code) in [
            ("exit 0", 0),
            ("exit 3", 3),
            ("exit 255", 255),
            ("no-such-command", 127),
            ("kill -TERM $$", 143),
            ("kill -KILL $$", 137),
        ] {
            finish(&mut run(&stage, who, &[], script)).code(code);
        }
        let mut command = stage.overcoat(who);
        command.arg("run").arg(stage.debian());
        finish(command.args(["--", "no-such-command"])).code(127).stderr_has(&["no-such-command"]);
        let mut command = stage.overcoat(who);
        command.arg("run").arg(stage.debian());
        finish(command.args(["--", "/etc/passwd"])).code(126).stderr_has(&["/etc/passwd"]);
    }
}

#[test]
fn failed_commands_are_reported_with_their_exit_code() {
    let stage = Stage::new();
    stage.lab();
    let _settings = snapshot::bind("");
    for who in BOTH_USERS {
        let mut transcript = Transcript::new(stage.path("lab"));
        let save = format!("--save {}/x.cpio.gz", stage.out(who).display());
        for (options, command) in [
            ("", "false"),
            (save.as_str(), "false"),
            (save.as_str(), "no-such-command"),
            ("", "/etc/passwd"),
            ("--env NAME", "true"),
            ("--bind nothing:/mnt", "true"),
            ("--bind repo:mnt", "true"),
        ] {
            let line = format!("run base.squashfs {options} -- {command}").replace("  ", " ");
            transcript.run(stage.overcoat(who), &line);
        }
        let text = transcript.text().replace(&format!("{}/", stage.out(who).display()), "");
        insta::assert_snapshot!("run_failures", text);
    }
}

#[test]
fn mounts_and_processes_that_a_command_leaves_are_reported() {
    let stage = Stage::new();
    let leave = "mkdir /srv/left; mount -t tmpfs none /srv/left; echo lost >/srv/left/file
                 sleep 1000 >/dev/null 2>&1 </dev/null &";
    let leave_nothing =
        "mount -t tmpfs none /srv; umount /srv; mount -t tmpfs none /tmp; sleep 0 &";
    for who in BOTH_USERS {
        let output = stage.out(who).join("left.cpio.gz");
        let save = ["--save", output.to_str().unwrap()];
        finish(&mut run(&stage, who, &save, leave)).ok().stderr_has(&[
            "warning: /srv/left: a command left a file system mounted there",
            "warning: still running at the end, and killed: sleep;",
        ]);
        let finished = finish(&mut run(&stage, who, &save, leave_nothing)).ok();
        assert!(!finished.stderr.contains("warning"), "{}", finished.stderr);
    }
}

#[test]
fn loop_devices_that_a_command_leaves_are_detached() {
    let stage = Stage::new();
    let attach = "cd $root/opt; head -c 1048576 /dev/zero >overcoat-test.img
                  test -e /dev/loop-control || {
                      mknod /dev/loop-control c 10 237
                      for i in 0 1 2 3 4 5 6 7; do mknod /dev/loop$i b 7 $i; done
                  }
                  losetup -f $root/opt/overcoat-test.img";
    stage.write("p/attach", attach.replace("$root", "$OVERCOAT_ROOT"));
    stage.write("p/provisioner.yml", "scripts: [{path: attach, outside: true}]\n");
    let base = stage.debian().display().to_string();
    let image = format!("base: {base}\nprovisioner: p\nnetwork: none\n");
    let image = stage.write("image.yml", image).display().to_string();
    let inside = attach.replace("$root", "");
    let deleted = format!("{inside}; rm /opt/overcoat-test.img");
    let failed = format!("{inside}; exit 7");
    let nested = format!(
        "{inside}; device=$(losetup -n -O NAME -j /opt/overcoat-test.img); mkfs.ext4 -q $device
         mount $device /mnt; head -c 65536 /dev/zero >/mnt/overcoat-test.img
         losetup -f /mnt/overcoat-test.img"
    );
    let run = |script: &str| {
        let arguments = ["run", &base, "--save", "out.cpio", "--", "sh", "-ec", script];
        arguments.map(str::to_owned).to_vec()
    };
    let build = ["build", &image, "-o", "out.cpio"].map(str::to_owned).to_vec();
    for (arguments, code) in
        [(run(&inside), 0), (run(&deleted), 0), (run(&failed), 7), (run(&nested), 0), (build, 0)]
    {
        // Without the fix, the program does not end.
        let mut command = stage.command(Who::Root, "timeout");
        command.args(["--signal=KILL", "60"]).arg(stage.path("overcoat")).args(&arguments);
        let finished = finish(&mut command);
        let left = stage.sh("grep -l overcoat-test.img /sys/block/loop*/loop/backing_file || :");
        for device in left.split('/').filter(|name| name.starts_with("loop") && *name != "loop") {
            stage.sh(&format!("losetup -d /dev/{device}"));
        }
        let finished = finished.code(code);
        let warning = "warning: /opt/overcoat-test.img: a command left a loop device on this file";
        let deleted = warning.replace(".img", ".img (deleted)");
        let found = finished.stderr.contains(warning) || finished.stderr.contains(&deleted);
        // The changes of a failed command are not saved.
        assert!(found || code != 0, "{arguments:?}: {}", finished.stderr);
        assert_eq!(left, "", "{arguments:?}");
    }
}

#[test]
fn standard_streams_are_those_of_the_command() {
    let stage = Stage::new();
    for who in BOTH_USERS {
        let mut command = run(&stage, who, &[], "echo to stderr >&2; exec cat");
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let sent: Vec<u8> = (0..3_000_000_u32).map(|n| (n.wrapping_mul(n) >> 7) as u8).collect();
        let mut stdin = child.stdin.take().unwrap();
        let output = std::thread::scope(|scope| {
            scope.spawn(|| {
                stdin.write_all(&sent).unwrap();
                drop(stdin);
            });
            child.wait_with_output().unwrap()
        });
        let finished = Finished::new(&command, output).ok();
        assert!(finished.stdout == sent);
        assert_eq!(finished.stderr, "to stderr\n");
    }
}

#[test]
fn archive_on_standard_output_is_not_mixed_with_output() {
    let stage = Stage::new();
    for who in BOTH_USERS {
        let script = "echo printed; echo new > /etc/new";
        let finished =
            finish(&mut run(&stage, who, &["--save", "-"], script)).ok().stderr_has(&["printed\n"]);
        let archive = stage.write("archive", &finished.stdout);
        let names = stage.archive_names(&archive);
        assert_eq!(names, ".\netc\netc/new\n");
        assert!(stage.files(who).is_empty());
    }
}

#[test]
fn closed_output_pipe_is_not_an_error() {
    let stage = Stage::new();
    for who in BOTH_USERS {
        let script = "head -c 20000000 /dev/urandom > /large";
        let mut command = run(&stage, who, &["--save", "-"], script);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut head = [0; 100];
        child.stdout.take().unwrap().read_exact(&mut head).unwrap();
        Finished::new(&command, child.wait_with_output().unwrap()).ok();
        assert_eq!(head[..2], [0x1f, 0x8b]);
        // SIGPIPE ends the command itself, as in a pipeline on the host.
        let mut command = run(&stage, who, &[], "exec yes");
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdout.take().unwrap().read_exact(&mut head).unwrap();
        Finished::new(&command, child.wait_with_output().unwrap()).code(141);
    }
}

#[test]
fn bind_mounts_are_visible_and_never_captured() {
    let stage = Stage::new();
    for who in BOTH_USERS {
        let folder = stage.out(who).join("shared");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("from-host"), "host\n").unwrap();
        stage.give(&folder, who);
        let bind = format!("{}:/mnt/shared", folder.display());
        let script = "cat /mnt/shared/from-host; echo inside > /mnt/shared/from-inside; \
                      echo new > /etc/new";
        let options = ["--bind", &bind, "--save", "out.cpio"];
        assert_eq!(finish(&mut run(&stage, who, &options, script)).ok().text(), "host\n");
        assert_eq!(fs::read_to_string(folder.join("from-inside")).unwrap(), "inside\n");
        let archive = stage.out(who).join("out.cpio");
        let names = stage.sh(&format!("cpio --quiet -it < '{}'", archive.display()));
        assert_eq!(names, ".\netc\netc/new\n");
        let read_only = format!("{bind}:ro");
        let finished = finish(&mut run(&stage, who, &["--bind", &read_only], script)).ok();
        finished.stderr_has(&["Read-only file system"]);
    }
}

#[test]
fn network_none_has_no_network() {
    let stage = Stage::new();
    for who in BOTH_USERS {
        let script = "cat /proc/net/dev | grep -c :; test ! -e /etc/resolv.conf.host";
        let finished = finish(&mut run(&stage, who, &["--network", "none"], script)).ok();
        assert_eq!(finished.text(), "1\n");
    }
}

#[test]
fn kernel_command_line_of_the_builder_is_hidden() {
    let stage = Stage::new();
    let read = "test -f /proc/cmdline; cat /proc/cmdline; cat /proc/bootconfig 2>/dev/null || echo";
    for who in BOTH_USERS {
        assert_eq!(finish(&mut run(&stage, who, &[], read)).ok().text(), "\n\n", "{who:?}");
    }
    // The kernel refuses this where each visible /proc has masked files.
    let nested = "unshare -Urpfm --mount-proc cat /proc/1/comm";
    let finished = finish(&mut run(&stage, Who::Unprivileged, &[], nested)).ok();
    assert_eq!(finished.text(), "cat\n");
}

/// Each case has options and the parts of the error message.
#[test]
fn invalid_options_are_rejected_before_the_command_runs() {
    let stage = Stage::new();
    let closed = stage.path("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, PermissionsExt::from_mode(0o755)).unwrap();
    let in_closed = closed.join("out.cpio.gz");
    let in_closed = in_closed.to_str().unwrap();
    let cases: [(&[&str], &[&str]); 14] = [
        (&["--bind", "/etc"], &["HOST:PATH", "/etc"]),
        (&["--bind", "/etc:relative"], &["absolute", "/etc:relative"]),
        (&["--bind", "/no/such/folder:/mnt"], &["/no/such/folder", "No such file"]),
        (&["--save", "out.unknown"], &["out.unknown", ".cpio.gz", "--format"]),
        (&["--save", "out"], &["out", "--format"]),
        (&["--save", "no/such/folder/out.cpio.gz"], &["no/such/folder", "No such file"]),
        (&["--save", in_closed], &[in_closed, "Permission denied"]),
        (&["--save", ".", "--format", "cpio"], &["directory"]),
        (&["--upper-size", "many"], &["many", "512M"]),
        (&["--upper-size", "20"], &["20 bytes", "20M"]),
        (&["--upper-size", "63K"], &["64512 bytes", "use a unit"]),
        (&["--network", "some"], &["some", "host", "none"]),
        (&["--save", "out.cpio.gz", "--threads", "0"], &["0"]),
        (&["--save", "out.cpio.gz", "--level", "77"], &["77", "cpio.gz", "1 to 9"]),
    ];
    let who = Who::Unprivileged;
    for (options, parts) in cases {
        let finished = finish(&mut run(&stage, who, options, "echo RAN"));
        assert!(!finished.text().contains("RAN"), "{finished:?}");
        finished.code(2).stderr_has(parts);
        assert!(stage.files(who).is_empty(), "{options:?}");
    }
    let mut command = run(&stage, who, &["--save", "out.cpio.gz"], "echo RAN");
    let finished = finish(command.env("SOURCE_DATE_EPOCH", "yesterday")).code(2);
    assert!(!finished.text().contains("RAN"), "{finished:?}");
    finished.stderr_has(&["SOURCE_DATE_EPOCH", "yesterday"]);
    assert!(stage.files(who).is_empty());
    finish(stage.overcoat(who).arg("run")).code(2).stderr_has(&["BASE"]);
    finish(stage.overcoat(who).args(["run", "base"])).code(2).stderr_has(&["COMMAND"]);
}

#[test]
fn json_report_is_not_mixed_with_output() {
    let stage = Stage::new();
    let run = |save| {
        let options = ["--save", save, "--json"];
        finish(&mut run(&stage, Who::Unprivileged, &options, "echo hello; touch /etc/x"))
    };
    let finished = run("x.cpio").ok().stderr_has(&["hello"]);
    let report: serde_json::Value = serde_json::from_slice(&finished.stdout).unwrap();
    assert_eq!(report["output"], "x.cpio");
    run("-").code(2).stderr_has(&["cannot both go to standard output"]);
}

#[test]
fn files_next_to_a_bind_mount_are_captured() {
    let stage = Stage::new();
    stage.write("shown/file", "shown");
    let bind = format!("{}:/new/deep", stage.path("shown").display());
    let options = ["--bind", &bind, "--no-manifest", "--save", "-"];
    for (script, expected) in [("cat /new/deep/file", ""), ("echo >/new/mine", "./new/mine")] {
        let script = format!("test -e /new/deep/file; {script} >&2");
        let finished = finish(&mut run(&stage, Who::Unprivileged, &options, &script)).ok();
        fs::write(stage.path("x.cpio.gz"), finished.stdout).unwrap();
        let names = stage.sh("gzip -dc x.cpio.gz | cpio --quiet -t");
        let below = names.lines().filter(|name| name.starts_with("new/")).collect::<Vec<_>>();
        assert_eq!(below.join(" "), expected.trim_start_matches("./"), "{names}");
    }
}
