//! `stat`, which shows the details of an entry.

use serde_json::Value;

use crate::image_fixture::{SMALL, layers, overcoat};
use crate::support::stage::{Stage, Who};

#[test]
fn stat_shows_all_details() {
    let stage = Stage::new();
    let (base, over) = layers(&stage, SMALL);
    let stat = |rest: &[&str]| overcoat(&stage, Who::Root, "stat", &[&base, &over], rest);
    let text = stat(&[":etc/motd", ":usr/bin/tool"]).ok().text();
    let sum = stage.sh("sha256sum layers/over/etc/motd | cut -d' ' -f1");
    for line in [
        "  owner     1000 alice",
        &format!("  sha256    {}", sum.trim()),
        "  layer     over.cpio.gz: file, 12 bytes, 0644 alice:staff",
        "  layer     base.squashfs: file, 14 bytes, 0644 root:root, hidden",
        "  mode      4755 -rwsr-xr-x",
        "  link      /usr/bin/same",
    ] {
        assert!(text.contains(line), "no {line:?}:\n{text}");
    }
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
