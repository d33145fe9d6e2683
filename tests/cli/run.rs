//! What the command line takes, refuses and answers.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use crate::support::stage::{EVERYBODY, Finished, Stage, Who, finish};

fn run(stage: &Stage, who: Who, options: &[&str], script: &str) -> Command {
    let mut command = stage.overcoat(who);
    command.arg("run").arg(stage.debian()).args(options).args(["--", "sh", "-c", script]);
    command
}

#[test]
fn a_command_ends_with_its_own_code() {
    let stage = Stage::new();
    for who in EVERYBODY {
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
        finish(command.args(["--", "no-such-command"])).code(127).says(&["no-such-command"]);
        let mut command = stage.overcoat(who);
        command.arg("run").arg(stage.debian());
        finish(command.args(["--", "/etc/passwd"])).code(126).says(&["/etc/passwd"]);
    }
}

#[test]
fn the_streams_of_a_command_are_its_own() {
    let stage = Stage::new();
    for who in EVERYBODY {
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
        let finished = Finished::of(&command, output).ok();
        assert!(finished.stdout == sent);
        assert_eq!(finished.stderr, "to stderr\n");
    }
}

#[test]
fn an_archive_on_standard_output_is_alone_there() {
    let stage = Stage::new();
    for who in EVERYBODY {
        let script = "echo said; echo new > /etc/new";
        let finished =
            finish(&mut run(&stage, who, &["--save", "-"], script)).ok().says(&["said\n"]);
        let archive = stage.write("archive", &finished.stdout);
        let names = stage.sh(&format!("gzip -dc '{}' | cpio --quiet -it", archive.display()));
        assert_eq!(names, ".\netc\netc/new\n");
        assert!(stage.files(who).is_empty());
    }
}

#[test]
fn a_reader_that_has_had_enough_is_no_error() {
    let stage = Stage::new();
    for who in EVERYBODY {
        let script = "head -c 20000000 /dev/urandom > /large";
        let mut command = run(&stage, who, &["--save", "-"], script);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut head = [0; 100];
        child.stdout.take().unwrap().read_exact(&mut head).unwrap();
        Finished::of(&command, child.wait_with_output().unwrap()).ok();
        assert_eq!(head[..2], [0x1f, 0x8b]);
        // The command itself is ended by the signal, as in a pipeline of the host.
        let mut command = run(&stage, who, &[], "exec yes");
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdout.take().unwrap().read_exact(&mut head).unwrap();
        Finished::of(&command, child.wait_with_output().unwrap()).code(141);
    }
}

#[test]
fn host_folders_are_shown_and_never_captured() {
    let stage = Stage::new();
    for who in EVERYBODY {
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
        finished.says(&["Read-only file system"]);
    }
}

#[test]
fn without_a_network_there_is_none() {
    let stage = Stage::new();
    for who in EVERYBODY {
        let script = "cat /proc/net/dev | grep -c :; test ! -e /etc/resolv.conf.host";
        let finished = finish(&mut run(&stage, who, &["--network", "none"], script)).ok();
        assert_eq!(finished.text(), "1\n");
    }
}

/// What is refused before anything is run: the options, and what the message must hold.
#[test]
fn mistakes_are_found_before_anything_is_run() {
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
        finished.code(2).says(parts);
        assert!(stage.files(who).is_empty(), "{options:?}");
    }
    let mut command = run(&stage, who, &["--save", "out.cpio.gz"], "echo RAN");
    let finished = finish(command.env("SOURCE_DATE_EPOCH", "yesterday")).code(2);
    assert!(!finished.text().contains("RAN"), "{finished:?}");
    finished.says(&["SOURCE_DATE_EPOCH", "yesterday"]);
    assert!(stage.files(who).is_empty());
    finish(stage.overcoat(who).arg("run")).code(2).says(&["BASE"]);
    finish(stage.overcoat(who).args(["run", "base"])).code(2).says(&["COMMAND"]);
}

#[test]
fn mistakes_in_an_image_file_are_shown_where_they_are() {
    let stage = Stage::new();
    let who = Who::Unprivileged;
    let attempt = |text: &str| {
        let file = stage.write("image.yml", text);
        let finished = finish(stage.overcoat(who).arg("build").arg(file)).code(2);
        assert!(stage.files(who).is_empty(), "{text}");
        finished
    };
    let base = stage.debian();
    attempt("bas: x.squashfs\n").says(&["image.yml:1:1", "did you mean `base`?"]);
    attempt(&format!("base: {}\n", base.display())).says(&["image.yml", "-o"]);
    attempt("base: no/base.squashfs\noutput: user/out.cpio.gz\n")
        .says(&["no/base.squashfs", "No such file"]);
    attempt(&format!("base: {}\nprovisioner: none\noutput: user/o.cpio\n", base.display()))
        .says(&["none"]);
    finish(stage.overcoat(who).args(["build", "nothing.yml"])).code(2).says(&["nothing.yml"]);
}

#[test]
fn a_report_has_standard_output_to_itself() {
    let stage = Stage::new();
    let run = |save| {
        let options = ["--save", save, "--json"];
        finish(&mut run(&stage, Who::Unprivileged, &options, "echo hello; touch /etc/x"))
    };
    let finished = run("x.cpio").ok().says(&["hello"]);
    let report: serde_json::Value = serde_json::from_slice(&finished.stdout).unwrap();
    assert_eq!(report["output"], "x.cpio");
    run("-").code(2).says(&["cannot both go to standard output"]);
}

#[test]
fn what_is_made_beside_something_shown_is_captured() {
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
