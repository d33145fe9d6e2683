//! Names of a project's images as arguments of the commands that read images.

use std::fs;
use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;

use crate::image_fixture::{SMALL, archives, layers};
use crate::mount_fixture::MountPoint;
use crate::project_fixture::Site;
use crate::snapshot::{self, Transcript, program};
use crate::support::newc::Archive;
use crate::support::stage::{BOTH_USERS, Stage, Who, finish};
use crate::support::terminal::OnTerminal;

const WHO: Who = Who::Unprivileged;

/// Creates a project whose images `over` and `top` are built on an archive.
fn site() -> TempDir {
    let folder = archives();
    let mut top = Archive::new();
    top.file("etc/top", "top\n");
    let write = |name: &str, content: &[u8]| fs::write(folder.path().join(name), content).unwrap();
    write("top.cpio", &top.bytes());
    write("other.cpio", &Archive::new().bytes());
    write(
        "overcoat.yml",
        b"output: .
images:
  over: {base: ./base.cpio, format: cpio}
  top: {base: ./base.cpio, overlays: [over], format: [tar, cpio]}
  later: {base: ./base.cpio}
  upon: {base: ./base.cpio, overlays: [later], format: cpio}
  packed: {base: ./base.cpio, format: tar}
  boot: {kind: initrd, base: ./base.cpio}
",
    );
    fs::create_dir(folder.path().join("below")).unwrap();
    folder
}

#[test]
fn name_of_an_image_selects_its_layers() {
    let folder = site();
    let mut transcript = Transcript::new(folder.path());
    for line in [
        "ls over :/etc",
        "ls top --layers :/etc",
        "ls -p below/../overcoat.yml top :/etc",
        "tree top -d",
        "cat top :/etc/motd :/etc/top",
        "du --ram top",
        "diff over",
        "diff over --to top",
        "diff --from over --to top",
        "diff base.cpio over",
        // Layers of several names are not repeated; paths are placed on a name.
        "ls over top --json -d",
        "ls ./base.cpio over top.cpio --json -d",
        "extract over -o root.tar",
        "check --only archive over",
    ] {
        transcript.run(program(), line);
    }
    let _settings = snapshot::bind("");
    insta::assert_snapshot!("names_select_layers", transcript.text());
    let stat = finish(program().current_dir(folder.path()).args(["stat", "over", ":etc/motd"]));
    assert!(stat.ok().text().contains("layer     base.cpio: file"));
    // The project is that of the nearest parent.
    let below = folder.path().join("below");
    let cat = finish(program().current_dir(below).args(["cat", "top", ":/etc/top"]));
    assert_eq!(cat.ok().text(), "top\n");
    let page = ["inspect", "over", "--no-check", "--html", "page.html"];
    finish(program().current_dir(folder.path()).args(page)).ok();
    let page = fs::read_to_string(folder.path().join("page.html")).unwrap();
    assert!(page.contains("base.cpio") && page.contains("over.cpio"));
}

#[test]
fn names_without_layers_are_rejected() {
    let folder = site();
    let mut transcript = Transcript::new(folder.path());
    for line in [
        "ls later",
        "diff upon",
        "ls -p ./overcoat.yml later",
        "du packed",
        "ls boot",
        "cat oevr :/etc/motd",
        "ls base.cpio oevr",
        "ls other.cpio over",
        "ls over --offset 32K",
        "run later -- true",
        "check later",
        "check upon",
        "check packed",
    ] {
        transcript.run(program(), line).code(2);
    }
    let _settings = snapshot::bind("");
    insta::assert_snapshot!("rejected_names", transcript.text());
}

#[test]
fn file_wins_over_the_name_of_an_image_and_the_name_over_a_directory() {
    let folder = site();
    let ls = |images: &[&str]| {
        let arguments = [&["ls", "--json", "-d"], images].concat();
        let listed = finish(program().current_dir(folder.path()).args(arguments)).ok().text();
        let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
        listed["layers"].to_string()
    };
    fs::create_dir(folder.path().join("over")).unwrap();
    assert_eq!(ls(&["over"]), r#"["./base.cpio","./over.cpio"]"#);
    assert_eq!(ls(&["./over"]), r#"["./over"]"#);
    assert_eq!(ls(&["below"]), r#"["below"]"#);
    let check = |images: &[&str]| {
        let arguments = [&["check", "--json"], images].concat();
        let report = finish(program().current_dir(folder.path()).args(arguments)).text();
        let report: serde_json::Value = serde_json::from_str(&report).unwrap();
        report["checks"][0]["layers"].as_array().unwrap().len()
    };
    assert_eq!(check(&["over"]), 2);
    fs::copy(folder.path().join("other.cpio"), folder.path().join("top")).unwrap();
    assert_eq!(ls(&["top"]), r#"["top"]"#);
    assert_eq!(check(&["top"]), 1);
    // A project with a mistake does not affect paths.
    fs::write(folder.path().join("overcoat.yml"), "images: none\n").unwrap();
    assert_eq!(ls(&["base.cpio", "below"]), r#"["base.cpio","below"]"#);
    let named = ["ls", "over.cpoi"];
    finish(program().current_dir(folder.path()).args(named))
        .code(2)
        .stderr_has(&["overcoat.yml:1:9: images: expected images"]);
}

#[test]
fn roots_are_run_and_mounted_by_name() {
    let stage = Stage::new();
    stage.debian();
    layers(&stage, SMALL);
    for who in BOTH_USERS {
        let out = stage.out(who);
        let project = "output: ../layers\nimages:\n  over: {base: ../lab/base.squashfs}\n";
        fs::write(out.join("overcoat.yml"), project).unwrap();
        let mut run = stage.overcoat(who);
        run.args(["run", "over", "--", "sh", "-c", "cat /etc/motd; test ! -e /etc/issue"]);
        assert_eq!(finish(&mut run).ok().text(), "one\n2\nthree\n");
        let mut shell = stage.overcoat(who);
        shell.args(["shell", "over"]).env("TERM", "dumb");
        let mut terminal = OnTerminal::start(shell);
        terminal.type_in("wc -l </etc/motd; exit\n");
        terminal.until("3\r\n");
        assert_eq!(terminal.end(), Some(0));
        let mount = MountPoint::new(&stage, who);
        mount.mount(&[], &[Path::new("over")]).ok();
        assert_eq!(mount.sh("cat mnt/etc/motd").ok().text(), "one\n2\nthree\n");
        mount.end();
    }
}

/// As for the other commands that read images.
#[test]
fn check_accepts_names_and_paths_together() {
    let site = Site::new();
    site.built(WHO, &["one", "two"]);
    let two = site.out(WHO).join("two.cpio.gz");
    let base = site.out(WHO).join("base.squashfs");
    let (two, base) = (two.to_str().unwrap(), base.to_str().unwrap());
    let checked = |words: &[&str]| {
        let finished = site.finish(WHO, "check", &[words, &["--json", "--deny", "error"]].concat());
        let report: Value = serde_json::from_slice(&finished.stdout).unwrap();
        report["checks"][0].clone()
    };
    let paths = checked(&[base, site.out(WHO).join("one.cpio.gz").to_str().unwrap(), two]);
    assert_eq!(checked(&["one", two])["findings"], paths["findings"]);
    assert_eq!(checked(&[base, "one"])["name"], "one");
    site.finish(WHO, "check", &["on", two]).code(2).stderr_has(&["did you mean `one`?"]);
}

#[test]
fn extract_by_name_says_which_layers_it_takes() {
    let site = Site::new();
    site.built(WHO, &["one"]);
    let to = site.stage.out(WHO).join("root.tar");
    let to = to.to_str().unwrap();
    site.finish(WHO, "extract", &["one", "-o", to])
        .ok()
        .stderr_has(&["extracting the root of base.squashfs + one.cpio.gz"]);
    let finished = site.finish(WHO, "extract", &["base", "-o", to]).ok();
    assert!(!finished.stderr.contains("extracting"), "{}", finished.stderr);
}
