//! `diff`, which compares an overlay with its base, or two image stacks.

use std::path::Path;

use serde_json::Value;

use crate::image_fixture::{SMALL, layers, overcoat};
use crate::support::stage::{BOTH_USERS, Stage, Who};

#[test]
fn diff_shows_changed_paths_and_aspects() {
    let stage = Stage::new();
    let (base, over) = layers(&stage, SMALL);
    for who in BOTH_USERS {
        let diff = |images: &[&Path], rest: &[&str]| overcoat(&stage, who, "diff", images, rest);
        let output = diff(&[&base, &over], &[]).code(1).text();
        assert_eq!(
            output,
            "D /etc/issue  (file, 5 bytes)\n\
             C /etc/motd  (content 14 bytes -> 12 bytes; owner 0 -> 1000; group 0 -> 1000)\n\
             0 added, 1 changed, 1 deleted; 12 bytes new, 19 bytes gone\n"
        );
        let text = diff(&[&base, &over], &["-u", ":etc/motd"]).code(1).text();
        let patch = "--- a/etc/motd\n+++ b/etc/motd\n@@ -1,3 +1,3 @@\n one\n-two\n+2\n three\n";
        assert!(text.contains(patch), "{text}");
        assert_eq!(diff(&[&base, &over], &[":usr"]).ok().text(), "no differences\n");
        let json: Value =
            serde_json::from_slice(&diff(&[&base, &over], &["--json"]).code(1).stdout).unwrap();
        assert_eq!(json["schema"], 1);
        assert_eq!(json["changes"][1]["what"], serde_json::json!(["content", "owner", "group"]));
        assert_eq!(json["totals"]["deleted"], 1);

        // Whole stacks give the same result as an overlay on its base.
        let paths = [base.to_str().unwrap(), over.to_str().unwrap()];
        let stacks = diff(&[], &["--from", paths[0], "--to", paths[0], paths[1]]).code(1).text();
        assert_eq!(stacks, output);
        diff(&[], &["--from", paths[0], "--to", paths[0]]).ok();
        diff(&[&base], &["--from", paths[1], "--to", paths[1]]).ok();
        let back = diff(&[], &["--from", paths[0], paths[1], "--to", paths[0]]).code(1).text();
        assert!(back.starts_with("A /etc/issue"), "{back}");
    }
}

#[test]
fn diff_names_changed_packages() {
    let stage = Stage::new();
    let package = |name: &str, version: &str| {
        format!(
            "Package: {name}\\nStatus: install ok installed\\nArchitecture: all\\nVersion: {version}\\n\\n"
        )
    };
    let old = [package("gone", "1"), package("kept", "1"), package("up", "1.9")].concat();
    let new = [package("kept", "1"), package("new", "2"), package("up", "1.10")].concat();
    let script = format!(
        "mkdir -p base/var/lib/dpkg over/var/lib/dpkg
         printf '{old}' >base/var/lib/dpkg/status; printf '{new}' >over/var/lib/dpkg/status"
    );
    let (base, over) = layers(&stage, &script);
    let output = overcoat(&stage, Who::Root, "diff", &[&base, &over], &[]).code(1).text();
    for line in [
        "package removed: gone 1\n",
        "package installed: new 2\n",
        "package upgraded: up 1.9 -> 1.10\n",
    ] {
        assert!(output.contains(line), "no {line:?}:\n{output}");
    }
}
