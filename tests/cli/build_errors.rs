//! Projects that cannot be built, with the complete error messages as snapshots. The crate
//! `provisioners` has the errors that are found without a build (`tests/all/mistakes`).

use std::fs;
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::snapshot;
use crate::support::processes::within;
use crate::support::stage::{REPOSITORY, Stage, Who, finish};

/// A project with one overlay on the lab's base, in which a test makes a mistake.
struct Broken {
    stage: Stage,
}

impl Broken {
    fn new(settings: &str, image: &str, provisioner: &str) -> Self {
        let stage = Stage::new();
        let broken = Broken { stage };
        broken.write("p/provisioner.yml", provisioner);
        let base = broken.stage.debian();
        broken.write(
            "overcoat.yml",
            &format!(
                "output: ../user/out\nnetwork: none\n{settings}images:\n  image:\n    base: {}\n    \
                 provisioner: p\n{image}",
                base.display()
            ),
        );
        broken
    }

    fn write(&self, name: &str, content: &str) {
        self.stage.write(format!("project/{name}"), content);
    }

    /// Checks that the build fails with this exit code and the message in `NAME.snap`.
    fn assert_error(
        &self,
        name: &str,
        code: i32,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) {
        let mut command = self.stage.overcoat(Who::Unprivileged);
        command.current_dir(self.stage.path("project")).arg("build").args(arguments);
        command.envs(environment.iter().copied());
        let finished = finish(&mut command).code(code);
        let _settings = snapshot::bind("build_errors");
        insta::assert_snapshot!(name, self.plain(&finished.stderr));
        let out = self.stage.out(Who::Unprivileged).join("out");
        let left = fs::read_dir(out).into_iter().flatten().map(|e| e.unwrap().file_name());
        let left: Vec<_> =
            left.filter(|n| n != ".overcoat" && !n.to_string_lossy().ends_with(".log")).collect();
        assert!(left.is_empty(), "{name}: {left:?}");
    }

    /// Removes the folder of the test and durations from a message.
    fn plain(&self, message: &str) -> String {
        let message = snapshot::plain(message, &self.stage.path(""));
        // Ansible prints asterisks up to the width of the terminal.
        let lines = message.lines().map(|line| line.trim_end().trim_end_matches('*').trim_end());
        lines.flat_map(|line| [line, "\n"]).collect()
    }
}

#[test]
fn failed_script_is_reported_with_its_last_output() {
    let broken = Broken::new("", "", "scripts: [fail.sh]\n");
    broken.write("p/fail.sh", "echo before\necho 'cannot find the thing' >&2\nexit 7\n");
    broken.assert_error("script", 1, &[], &[]);
    let log = fs::read_to_string(broken.stage.path("user/out/image.cpio.gz.log")).unwrap();
    assert!(log.contains("before\ncannot find the thing\n"), "{log}");
}

#[test]
fn failure_before_a_shell_is_printed_once() {
    let broken = Broken::new("", "", "scripts: [fail.sh]\n");
    broken.write("p/fail.sh", "echo 'cannot find the thing' >&2\nexit 7\n");
    let mut command = broken.stage.overcoat(Who::Unprivileged);
    command.current_dir(broken.stage.path("project"));
    // Standard input is empty, so the shell ends at once.
    let finished = finish(command.args(["build", "--json", "--shell-on-failure"])).code(1);
    let error = "error: the step \"script fail.sh\" failed";
    for part in [error, "  | cannot find the thing", "opening a shell in the root"] {
        assert_eq!(finished.stderr.matches(part).count(), 1, "{part}: {}", finished.stderr);
    }
    assert!(finished.text().contains("cannot find the thing"), "{}", finished.text());
}

#[test]
fn failed_task_is_reported_with_its_last_output() {
    let broken = Broken::new("", "", "");
    fs::remove_file(broken.stage.path("project/p/provisioner.yml")).unwrap();
    broken.write("p/tasks/main.yml", "- {name: doomed, command: /no/such/program}\n");
    broken.assert_error("task", 1, &[], &[]);
}

#[test]
fn missing_host_program_is_reported_with_its_package() {
    let broken = Broken::new("", "", "");
    fs::remove_file(broken.stage.path("project/p/provisioner.yml")).unwrap();
    broken.write("p/tasks/main.yml", "- {name: x, command: \"true\"}\n");
    let path = broken.stage.path("programs");
    fs::create_dir(&path).unwrap();
    broken
        .stage
        .sh("for p in setpriv newuidmap newgidmap; do ln -s $(command -v $p) programs/; done");
    let path = path.display().to_string();
    broken.assert_error("no-ansible", 2, &[], &[("PATH", &path)]);
}

#[test]
fn unreachable_mirror_is_reported() {
    let broken = Broken::new("", "", "");
    broken.write("p/provisioner.yml", "steps: [{files: files}, {packages: [lsscsi]}]\n");
    broken.write("p/files/etc/apt/sources.list", "deb [trusted=yes] http://127.0.0.1:9 ./\n");
    broken.assert_error("mirror", 1, &[], &[]);
}

#[test]
fn unreachable_mirror_of_a_base_is_reported() {
    let broken = Broken::new("", "", "");
    broken.write(
        "overcoat.yml",
        "output: ../user/out\nmirror: http://127.0.0.1:9/debian\n\
         images: {base: {kind: base, release: bookworm}}\n",
    );
    let mut command = broken.stage.overcoat(Who::Unprivileged);
    command.current_dir(broken.stage.path("project")).arg("build");
    // The rest of the message depends on the version of apt.
    let wanted = ["mmdebstrap failed", "http://127.0.0.1:9/debian", "the whole log is in"];
    let finished = finish(&mut command).code(2).stderr_has(&wanted);
    assert!(!finished.stderr.contains("two blocks of zeros"), "{}", finished.stderr);
    let log = fs::read_to_string(broken.stage.path("user/out/base.squashfs.log")).unwrap();
    assert!(log.contains("127.0.0.1:9"), "{log}");
}

#[test]
fn unknown_package_is_reported() {
    let broken = Broken::new("", "", "steps: [{files: files}, {packages: [lscsi]}]\n");
    broken.write("p/files/etc/apt/sources.list", REPOSITORY);
    let bind = broken.stage.bind_repository();
    let mut command = broken.stage.overcoat(Who::Unprivileged);
    command.current_dir(broken.stage.path("project")).args(["build", "--bind", &bind]);
    // The rest of the message depends on the version of apt.
    finish(&mut command).code(1).stderr_has(&["packages (1)", "Unable to locate package lscsi"]);
}

#[test]
fn unknown_packages_of_all_steps_are_reported_before_the_first_is_installed() {
    let steps = "steps: [{files: files}, {packages: [lsscsi]}, {packages: [lscsi]}]\n";
    let broken = Broken::new("", "", steps);
    broken.write("p/files/etc/apt/sources.list", REPOSITORY);
    broken.write(
        "r/tasks/main.yml",
        "- apt: {name: '{{ item.name }}={{ item.version }}'}\n  \
         loop: [{name: lsscsi, version: '0.1'}, {name: ethtool, version: '1:*'}]\n\
         - {apt: {name: x}, when: ansible_x is defined}\n",
    );
    broken.write(
        "overcoat.yml",
        &format!(
            "output: ../user/out\nimages: {{image: {{base: {}, provisioner: [p, r]}}}}\n",
            broken.stage.debian().display()
        ),
    );
    let bind = broken.stage.bind_repository();
    let build = || {
        let mut command = broken.stage.overcoat(Who::Unprivileged);
        command.current_dir(broken.stage.path("project")).args(["build", "--bind", &bind]);
        command
    };
    let mut dry = build();
    let missing = [
        "image: warning: p: packages (1): apt does not find lscsi, which fails",
        "r/tasks/main.yml:2: apt does not find lsscsi=0.1 (the archives have 0.",
        "known only when they run: ",
        "r/tasks/main.yml:3\n",
        "to fetch: ",
    ];
    finish(dry.args(["-n", "--packages"])).ok().stderr_has(&missing);
    let stderr = finish(&mut build()).code(1).stderr;
    let line = |text: &str| stderr.lines().position(|line| line.contains(text));
    let forecast = line("apt does not find lscsi").unwrap_or_else(|| panic!("{stderr}"));
    assert!(line("r/tasks/main.yml:2: apt does not find lsscsi=0.1").is_some(), "{stderr}");
    assert!(line("apt does not find ethtool").is_none(), "{stderr}");
    assert!(line("packages to fetch: ").is_some(), "{stderr}");
    assert!(line("] p: packages (1)").is_none_or(|step| forecast < step), "{stderr}");
}

/// Returns a command that asks for the packages of an overlay whose base has the mirror `source`.
fn forecast_from(broken: &Broken, source: &str) -> Command {
    broken.write("sources/etc/apt/sources.list", source);
    broken.write("tree/etc/passwd", "root:x:0:0::/:/bin/sh\n");
    let base = broken.stage.debian();
    let image = format!("base: {}, overlays: [./sources], provisioner: p", base.display());
    broken.write(
        "overcoat.yml",
        &format!(
            "output: ../user/out\nimages:\n  image: {{{image}}}\n  \
             next: {{kind: base, from: ./tree, provisioner: p}}\n"
        ),
    );
    let mut command = broken.stage.overcoat(Who::Unprivileged);
    command.current_dir(broken.stage.path("project")).args(["build", "-n", "--packages"]);
    command
}

#[test]
fn forecast_names_the_reason_if_apt_cannot_be_asked() {
    let broken = Broken::new("", "", "packages: [lsscsi]\n");
    for (source, reason) in [
        ("deb http://127.0.0.1:1/ stable main\n", "http://127.0.0.1:1"),
        ("deb ftp://127.0.0.1/ stable main\n", "ftp"),
        ("deb [trusted=yes] file:/none ./\n", "file:/none"),
        ("no source\n", "sources.list"),
    ] {
        let finished = finish(&mut forecast_from(&broken, source)).ok();
        let unchecked = "image: warning: packages were not checked, because apt fails: ";
        let finished = finished.stderr_has(&["image: asking the mirrors", unchecked]);
        let line = finished.stderr.lines().find(|line| line.contains(unchecked)).unwrap();
        assert!(line.contains(reason), "{line}");
        finished.stderr_has(&["next: packages were not checked: those of a base are unknown"]);
    }
}

/// A mirror that accepts connections and never answers.
#[test]
fn forecast_ends_at_once_when_it_is_terminated() {
    let broken = Broken::new("", "", "packages: [lsscsi]\n");
    let mirror = TcpListener::bind("127.0.0.1:0").unwrap();
    mirror.set_nonblocking(true).unwrap();
    let source = format!("deb http://{}/ stable main\n", mirror.local_addr().unwrap());
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut child = forecast_from(&broken, &source)
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut connection = None;
        within(Duration::from_secs(60), "apt connects to the mirror", || {
            connection = connection.take().or_else(|| mirror.accept().ok());
            connection.is_some()
        });
        let began = Instant::now();
        kill(Pid::from_raw(child.id() as i32), signal).unwrap();
        let status = child.wait().unwrap();
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
        assert_eq!(code, 128 + signal as i32);
    }
}

#[test]
fn full_upper_is_reported() {
    let broken = Broken::new("upper_size: 8M\n", "", "scripts: [fill.sh]\n");
    broken.write("p/fill.sh", "head -c 100000000 /dev/urandom >/srv/big\n");
    broken.assert_error("full", 1, &[], &[]);
}

#[test]
fn missing_or_damaged_layers_are_reported() {
    let broken = Broken::new("", "", "");
    let project = |base: &str| {
        broken.write(
            "overcoat.yml",
            &format!("output: ../user/out\nimages: {{image: {{base: {base}}}}}\n"),
        );
    };
    project("./base.squashfs");
    broken.assert_error("no-base", 2, &[], &[]);
    broken.write("base.squashfs", "hsqs, and nothing more");
    broken.assert_error("damaged-base", 2, &[], &[]);
    broken.write("base.squashfs", "not an image");
    broken.assert_error("unknown-base", 2, &[], &[]);
    broken.write(
        "overcoat.yml",
        "output: ../user/out\nimages: {base: {kind: base, from: nothing.tar}}\n",
    );
    broken.assert_error("no-from", 2, &[], &[]);
    broken.write("nothing.tar", "");
    broken.assert_error("empty-from", 2, &[], &[]);
}

#[test]
fn undefined_template_variable_is_reported_before_the_build() {
    let broken = Broken::new("", "", "variables: {interval: 3}\nfiles: files\n");
    broken.write("p/files/etc/x.j2", "every {{ intervall }}\n");
    broken.assert_error("template", 2, &[], &[]);
}

#[test]
fn patterns_and_owners_without_match_are_reported() {
    let broken = Broken::new("", "", "attributes: {/etc/ghost/*: {mode: \"0600\"}}\n");
    broken.assert_error("attributes", 1, &[], &[]);
    broken.write("p/provisioner.yml", "attributes: {/etc/hostname: {owner: nosuch}}\n");
    broken.assert_error("owner", 1, &[], &[]);
    broken.write("p/provisioner.yml", "");
    let text = fs::read_to_string(broken.stage.path("project/overcoat.yml")).unwrap();
    broken.write("overcoat.yml", &format!("{text}    kind: initrd\n"));
    broken.assert_error("yields", 1, &[], &[]);
}

#[test]
fn unwritable_output_folder_is_reported() {
    let broken = Broken::new("", "", "");
    let text = fs::read_to_string(broken.stage.path("project/overcoat.yml")).unwrap();
    broken.write("overcoat.yml", &text.replace("../user/out", "../root/out"));
    broken.assert_error("folder", 2, &[], &[]);
}

#[test]
fn unknown_image_name_is_reported() {
    let broken = Broken::new("", "", "");
    broken.assert_error("name", 2, &["imgae"], &[]);
    broken.assert_error("option", 2, &["-o", "x.cpio.gz"], &[]);
}

#[test]
fn invalid_source_date_epoch_is_reported() {
    let broken = Broken::new("", "", "");
    broken.assert_error("epoch", 2, &[], &[("SOURCE_DATE_EPOCH", "yesterday")]);
}

#[test]
fn errors_in_an_image_file_have_positions() {
    let stage = Stage::new();
    let who = Who::Unprivileged;
    let attempt = |text: &str| {
        let file = stage.write("image.yml", text);
        let finished = finish(stage.overcoat(who).arg("build").arg(file)).code(2);
        assert!(stage.files(who).is_empty(), "{text}");
        finished
    };
    let base = stage.debian();
    attempt("bas: x.squashfs\n").stderr_has(&["image.yml:1:1", "did you mean `base`?"]);
    attempt(&format!("base: {}\n", base.display())).stderr_has(&["image.yml", "-o"]);
    attempt("base: no/base.squashfs\noutput: user/out.cpio.gz\n")
        .stderr_has(&["no/base.squashfs", "No such file"]);
    attempt(&format!("base: {}\nprovisioner: none\noutput: user/o.cpio\n", base.display()))
        .stderr_has(&["none"]);
    finish(stage.overcoat(who).args(["build", "nothing.yml"])).code(2).stderr_has(&["nothing.yml"]);
}
