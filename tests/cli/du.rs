//! `du`, which sums up sizes and the memory that images need.

use serde_json::Value;

use crate::image_fixture::{archives, layers, overcoat};
use crate::snapshot::{self, Transcript, program};
use crate::support::stage::{Stage, Who};

#[test]
fn du_agrees_with_du_and_a_tmpfs() {
    let stage = Stage::new();
    let debian = stage.debian();
    stage.sh(&format!("mkdir m; mount -o loop,ro {} m", debian.display()));
    let expected = stage.sh("du -s --apparent-size -B1 m/usr/share/doc | cut -f1; find m/usr/share/doc -type d -printf '%s\\n'");
    let mut numbers = expected.lines().map(|line| line.parse::<u64>().unwrap());
    // Directories count as empty.
    let expected = numbers.next().unwrap() - numbers.sum::<u64>();
    let links = stage.sh("find m/usr/share/doc -type l -printf '%s\\n'");
    let expected = expected - links.lines().map(|line| line.parse::<u64>().unwrap()).sum::<u64>();
    let du = |rest: &[&str]| overcoat(&stage, Who::Root, "du", &[&debian], rest).ok();
    let json: Value =
        serde_json::from_slice(&du(&["--json", "-L0", ":usr/share/doc"]).stdout).unwrap();
    assert_eq!(json["directories"][0]["bytes"], expected);
    let packages: Value = serde_json::from_slice(&du(&["--json", "--packages"]).stdout).unwrap();
    let libc = packages["packages"].as_array().unwrap().iter().find(|p| p["package"] == "libc6");
    assert!(libc.unwrap()["bytes"].as_u64().unwrap() > 1_000_000);

    // An overlay in memory uses the predicted pages.
    let script = "for n in $(seq 300); do head -c $((n * 50)) /dev/zero >over/file$n; done
                  mkdir over/dir; ln over/file1 over/dir/link";
    let (base, over) = layers(&stage, script);
    let report = overcoat(&stage, Who::Root, "du", &[&base, &over], &["--ram", "--json"]).ok();
    let report: Value = serde_json::from_slice(&report.stdout).unwrap();
    stage.sh("mkdir t; mount -t tmpfs t t; cd t; zcat ../layers/over.cpio.gz | cpio -idm --quiet");
    let pages = stage.sh("df -B1 --output=used t | tail -1; stat -f -c '%f %d' t >/dev/null");
    assert_eq!(report["memory"][1]["pages"], pages.trim().parse::<u64>().unwrap());
}

#[test]
fn sizes_are_listed_by_directory_package_and_layer() {
    let folder = archives();
    let mut transcript = Transcript::new(folder.path());
    for options in ["", " -b -L1", " --packages", " --ram"] {
        transcript.run(program(), &format!("du base.cpio over.cpio{options}"));
    }
    let _settings = snapshot::bind("");
    insta::assert_snapshot!("du_by_directory_package_and_layer", transcript.text());
}
