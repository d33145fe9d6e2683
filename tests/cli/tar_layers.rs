//! tar archives as layers: the same root as the archive of the same changes in cpio.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::stage::{BOTH_USERS, EPOCH, Stage, Who, finish};

const CHANGES: &str = "cd /etc; echo new >motd; rm issue; ln motd srv-link; ln -s motd sym
    rm -r /usr/share/doc/bash; mkdir -m 750 /srv/d; chown 7:8 /srv/d; echo in >/srv/d/file
    touch -d @1500000000 /srv/d/file /srv/d; mknod /srv/null c 1 3; mkfifo /srv/fifo
    rm -r /etc/apt; mkdir -p /etc/apt; echo kept >/etc/apt/sources.list";

/// Saves the same changes in the format of each name.
fn overlays(stage: &Stage, names: &[&str]) -> Vec<PathBuf> {
    let save = |name: &&str| {
        let path = stage.out(Who::Root).join(name);
        let mut run = stage.overcoat(Who::Root);
        run.arg("run").arg(stage.debian()).arg("--save").arg(&path);
        finish(run.env("SOURCE_DATE_EPOCH", EPOCH).args(["--", "sh", "-c", CHANGES])).ok();
        path
    };
    names.iter().map(save).collect()
}

/// Returns the entries of a stack with all their attributes, without the names of layers and times
/// of the run.
fn entries(stage: &Stage, who: Who, images: &[&Path]) -> Vec<Value> {
    let mut ls = stage.overcoat(who);
    let listed = finish(ls.args(["ls", "-R", "--json"]).args(images)).ok();
    let json: Value = serde_json::from_slice(&listed.stdout).unwrap();
    json["entries"].as_array().unwrap().clone()
}

#[test]
fn tar_is_the_same_layer_as_cpio() {
    let stage = Stage::new();
    let made = overlays(&stage, &["o.cpio.gz", "o.tar"]);
    let [cpio, tar] = &made[..] else { unreachable!() };
    stage.sh("cd root; for c in gzip zstd xz; do $c -k o.tar; done");
    let base = stage.debian();
    let expected = entries(&stage, Who::Unprivileged, &[&base, cpio]);
    assert!(expected.iter().any(|entry| entry["deleted"] == true));
    for name in ["o.tar", "o.tar.gz", "o.tar.zst", "o.tar.xz"] {
        let tar = stage.out(Who::Root).join(name);
        let found = entries(&stage, Who::Unprivileged, &[&base, &tar]);
        assert_eq!(found, expected, "{name}");
    }
    let run = |arguments: &[&str], overlay: &Path| {
        let mut command = stage.overcoat(Who::Unprivileged);
        command.arg(arguments[0]).arg(&base).arg(overlay).args(&arguments[1..]);
        finish(&mut command)
    };
    for arguments in [
        &["diff", "--text"][..],
        &["diff", "--stat"],
        &["cat", ":/etc/motd"],
        &["du"],
        &["tree", ":/srv"],
        &["run", "--", "sh", "-c", "ls -ln /etc /srv; cat /etc/motd; test ! -e /etc/issue"],
    ] {
        let plain = |overlay: &Path| {
            let name = overlay.file_name().unwrap().to_str().unwrap();
            let found = run(arguments, overlay);
            (found.code, found.text().replace(name, "OVERLAY"))
        };
        assert_eq!(plain(tar), plain(cpio), "{arguments:?}");
    }
    let check = run(&["check", "--json"], tar);
    let report: Value = serde_json::from_slice(&check.stdout).unwrap();
    let findings = report["checks"][0]["findings"].as_array().unwrap();
    assert!(
        !findings
            .iter()
            .any(|finding| { finding["lint"].as_str().unwrap().starts_with("archive/") }),
        "{report:#}"
    );
    // A truncated archive is damaged for all commands.
    let bytes = fs::read(tar).unwrap();
    let cut = stage.write("cut.tar", &bytes[..bytes.len() / 2]);
    run(&["ls"], &cut).code(2).stderr_has(&["cut.tar: damaged"]);
    let check = run(&["check"], &cut).code(1);
    assert!(check.text().contains("archive/unreadable"), "{}", check.text());
}

#[test]
fn root_as_tar_is_a_base_and_sealed_again_the_same_archive() {
    let stage = Stage::new();
    let overlay = overlays(&stage, &["o.tar"]).remove(0);
    for who in BOTH_USERS {
        let extract = |from: &[&Path], to: &str| {
            let mut extract = stage.overcoat(who);
            extract.arg("extract").args(from).args(["-o", to]).env("SOURCE_DATE_EPOCH", EPOCH);
            finish(&mut extract).ok();
            stage.out(who).join(to)
        };
        let base = stage.debian();
        let root = extract(&[&base, &overlay], "root.tar");
        let again = extract(&[&root], "again.tar");
        assert!(fs::read(&root).unwrap() == fs::read(&again).unwrap(), "{who:?}");
        let mut run = stage.overcoat(who);
        let script = "cat /etc/motd; dpkg --version | head -n 1; touch /srv/x";
        run.arg("run").arg(&root).args(["--save", "x.tar", "--", "sh", "-c", script]);
        let text = finish(&mut run).ok().text();
        assert!(text.starts_with("new\nDebian"), "{text}");
        let mut cat = stage.overcoat(who);
        let names = finish(cat.args(["ls", "-R", "x.tar"])).ok().text();
        assert_eq!(names, "srv\nsrv/x\n");
    }
}

#[test]
fn image_that_is_only_built_as_tar_is_a_layer_by_name() {
    let stage = Stage::new();
    let who = Who::Unprivileged;
    stage.write("site/p/provisioner.yml", "files: files\n");
    stage.write("site/p/files/srv/first", "1\n");
    stage.write("site/q/provisioner.yml", "files: files\n");
    stage.write("site/q/files/srv/second", "2\n");
    let base = stage.debian();
    let project = format!(
        "output: ../user/out\nimages:\n  first: {{base: {0}, provisioner: p, format: tar}}\n  \
         second: {{base: {0}, overlays: [first], provisioner: q}}\n",
        base.display()
    );
    stage.write("site/overcoat.yml", project);
    let site = stage.path("site");
    finish(stage.overcoat(who).arg("build").arg(&site)).ok();
    let mut cat = stage.overcoat(who);
    cat.current_dir(&site).args(["cat", "second", ":/srv/first", ":/srv/second"]);
    assert_eq!(finish(&mut cat).ok().text(), "1\n2\n");
    let mut ls = stage.overcoat(who);
    let listed = finish(ls.current_dir(&site).args(["ls", "first", ":/srv"])).ok().text();
    assert!(listed.contains("first") && !listed.contains("second"), "{listed}");
}
