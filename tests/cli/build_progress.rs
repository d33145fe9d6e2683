//! What a build shows while it runs, and the logs that it keeps.

use std::fs;

use crate::project_fixture::Site;
use crate::support::stage::{Stage, Who};
use crate::support::terminal::OnTerminal;

/// Two images are built at the same time; each waits for the test in its step.
#[test]
fn several_images_have_a_progress_line_each_on_a_terminal() {
    let stage = Stage::new();
    stage.sh("mkdir sync; mkfifo sync/one sync/two; chmod 777 sync sync/*");
    for name in ["one", "two"] {
        stage.write(format!("project/{name}/provisioner.yml"), "scripts: [wait]\n");
        stage.write(format!("project/{name}/wait"), format!("cat /sync/{name} >/srv/{name}\n"));
    }
    let base = stage.debian();
    let image =
        |name: &str| format!("  {name}: {{base: {}, provisioner: {name}}}\n", base.display());
    stage.write(
        "project/overcoat.yml",
        format!("output: ../user/out\nnetwork: none\nimages:\n{}{}", image("one"), image("two")),
    );
    let mut build = stage.overcoat(Who::Unprivileged);
    build.current_dir(stage.path("project")).env("TERM", "xterm").args(["build", "-j", "2"]);
    build.arg("--bind").arg(format!("{}:/sync", stage.path("sync").display()));
    let mut terminal = OnTerminal::start(build);
    // In any order: both lines are drawn again and again.
    terminal.until("one: [1/15] script wait (0s)");
    terminal.until("two: [1/15] script wait (");
    terminal.until("one: [1/15] script wait (");
    stage.sh("echo >sync/one");
    terminal.until("one: built in");
    stage.sh("echo >sync/two");
    terminal.until("two: built in");
    terminal.until("2 images: 0 up to date, 2 built");
    assert!(terminal.child.wait().unwrap().success());
}

#[test]
fn logs_of_good_builds_are_kept_on_request() {
    let site = Site::new();
    let who = Who::Unprivileged;
    let log = site.out(who).join("one.cpio.gz.log");
    site.write("one/do", "echo said; echo more >>/etc/conf; rm /etc/gone\n");
    site.run(who, &["--keep-logs"]).ok();
    let text = fs::read_to_string(&log).unwrap();
    assert!(text.contains("] script do\nsaid\n"), "{text}");
    assert!(site.out(who).join("base.squashfs.log").exists());
    // Without the option, the next build removes it.
    site.run(who, &["--force", "one"]).ok();
    assert!(!log.exists());
}

/// Messages of builds that run beside others are plain lines without a terminal.
#[test]
fn steps_are_plain_lines_without_a_terminal() {
    let site = Site::new();
    let built = site.run(Who::Unprivileged, &["-j", "2"]).ok();
    assert!(!built.stderr.contains('\r') && !built.stderr.contains('\x1b'), "{}", built.stderr);
    assert!(!built.stderr.contains("\"step\""), "{}", built.stderr);
    let json = site.run(Who::Unprivileged, &["-j", "2", "--force", "--json"]).ok();
    assert!(!json.text().contains("\"step\""), "{}", json.text());
}
