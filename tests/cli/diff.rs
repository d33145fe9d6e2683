//! `diff`, which compares an overlay with its base, or two image stacks.

use std::path::Path;

use serde_json::Value;

use crate::image_fixture::{SMALL, archives, layers, overcoat};
use crate::snapshot::{self, Transcript, program};
use crate::support::stage::{BOTH_USERS, Stage};

#[test]
fn diff_shows_changed_paths_and_aspects() {
    let stage = Stage::new();
    let (base, over) = layers(&stage, SMALL);
    let _settings = snapshot::bind("");
    for who in BOTH_USERS {
        let diff = |images: &[&Path], rest: &[&str]| overcoat(&stage, who, "diff", images, rest);
        let output = diff(&[&base, &over], &[]).code(1).text();
        let mut transcript = Transcript::new(stage.path("layers"));
        for options in ["", " -u :etc/motd", " :usr"] {
            let line = format!("diff base.squashfs over.cpio.gz{options}");
            transcript.run(stage.overcoat(who), &line);
        }
        insta::assert_snapshot!("diff_shows_changed_paths_and_aspects", transcript.text());
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
fn directories_packages_and_totals_are_summed_up() {
    let folder = archives();
    let mut transcript = Transcript::new(folder.path());
    for options in ["", " --all :usr", " --stat --depth 1", " --mtime -u :etc", " --json :etc"] {
        transcript.run(program(), &format!("diff base.cpio over.cpio{options}"));
    }
    let _settings = snapshot::bind("");
    insta::assert_snapshot!("diff_directories_packages_and_totals", transcript.text());
}
