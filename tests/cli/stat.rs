//! `stat`, which shows the details of an entry.

use serde_json::Value;

use crate::image_fixture::{SMALL, layers, overcoat};
use crate::snapshot::{self, Transcript};
use crate::support::stage::{Stage, Who};

#[test]
fn stat_shows_all_details() {
    let stage = Stage::new();
    let (base, over) = layers(&stage, SMALL);
    let stat = |rest: &[&str]| overcoat(&stage, Who::Root, "stat", &[&base, &over], rest);
    let mut transcript = Transcript::new(stage.path("layers"));
    let line = "stat base.squashfs over.cpio.gz :etc/motd :usr/bin/tool :bin :etc";
    transcript.run(stage.overcoat(Who::Root), line);
    let _settings = snapshot::bind("");
    insta::assert_snapshot!("stat_shows_all_details", transcript.text());
    let sum = stage.sh("sha256sum layers/over/etc/motd | cut -d' ' -f1");
    let json: Value = serde_json::from_slice(&stat(&["--json", ":etc/motd"]).ok().stdout).unwrap();
    assert_eq!(json["objects"][0]["sha256"], sum.trim());
    assert_eq!(json["objects"][0]["hides"], serde_json::json!([0]));
    stat(&[":etc/issue"]).code(1).stderr_has(&["/etc/issue: no such file", ", but deleted by "]);
    // A dangling link exists.
    stage.sh("ln -s ../run/tab layers/base/etc/mtab");
    let folder = base.parent().unwrap().join("base");
    let of = |command: &str, path: &str| overcoat(&stage, Who::Root, command, &[&folder], &[path]);
    assert_eq!(of("ls", ":/etc/mtab").ok().text(), "/etc/mtab\n");
    of("cat", ":/etc/mtab").code(1).stderr_has(&["/etc/mtab: broken symbolic link to ../run/tab"]);
    let slash =
        of("ls", ":/etc/mtab/").code(1).stderr_has(&["/etc/mtab: no such file or directory"]);
    assert!(!slash.stderr.contains("hidden"), "{}", slash.stderr);
}
