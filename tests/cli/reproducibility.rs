//! The same input gives the same bytes at every privilege, on every run, with any number of
//! threads.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::stage::{EACH_PRIVILEGE, EPOCH, Stage, Who, finish};
use crate::{discovery, inner_program, unpacking};

/// Reads an archive and its manifest.
fn read(archive: &Path) -> (Vec<u8>, Vec<u8>) {
    (fs::read(archive).unwrap(), fs::read(format!("{}.manifest.json", archive.display())).unwrap())
}

/// Describes the differences between two archives.
fn explain(stage: &Stage, one: &Path, two: &Path) -> String {
    let script = format!(
        "for a in '{}' '{}'; do d=$(mktemp -d -p .); (cd $d && bsdtar -xpf \"$a\"); echo $d; done | \
         xargs diff -rq --no-dereference || :",
        one.display(),
        two.display()
    );
    stage.sh(&script)
}

#[track_caller]
fn assert_same(stage: &Stage, one: &Path, two: &Path) {
    let ((a, manifest_a), (b, manifest_b)) = (read(one), read(two));
    let names = || format!("{} and {}", one.display(), two.display());
    assert!(a == b, "{}: {}", names(), explain(stage, one, two));
    assert!(manifest_a == manifest_b, "{}: the manifests differ", names());
}

/// Decompresses an archive.
fn plain(stage: &Stage, archive: &Path) -> Vec<u8> {
    let script = format!("bsdcat '{}' > plain", archive.display());
    stage.sh(&script);
    fs::read(stage.path("plain")).unwrap()
}

#[test]
fn discovery_overlay_has_the_same_bytes_in_every_build() {
    let stage = Stage::new();
    let image = discovery::image(&stage, &[], "");
    let build = |who: Who, name: &str, threads: &str, surroundings: &[(&str, &str)]| -> PathBuf {
        let output = stage.out(who).join(name);
        let mut command = discovery::build(&stage, who, &image, &output);
        command.args(["--threads", threads]).env("SOURCE_DATE_EPOCH", EPOCH);
        finish(command.envs(surroundings.iter().copied())).ok();
        output
    };
    let first = build(Who::Unprivileged, "a.cpio.gz", "2", &[]);
    let elsewhere = [("TZ", "Asia/Tokyo"), ("LANG", "de_DE.UTF-8"), ("HOME", "/nowhere")];
    let again = build(Who::Unprivileged, "b.cpio.gz", "1", &elsewhere);
    let root = build(Who::Root, "a.cpio.gz", "2", &[]);
    assert_same(&stage, &first, &again);
    assert_same(&stage, &first, &root);
    assert_same(&stage, &first, &build(Who::SingleId, "a.cpio.gz", "2", &[]));
    let content = plain(&stage, &first);
    for output in
        [build(Who::Root, "c.cpio.zst", "2", &[]), build(Who::Unprivileged, "d.cpio", "1", &[])]
    {
        assert!(plain(&stage, &output) == content, "{}", output.display());
    }
}

#[test]
fn formats_have_the_same_bytes_at_every_privilege_and_thread_count() {
    let stage = Stage::new();
    let base = unpacking::torture_base(&stage);
    for format in ["cpio.gz", "cpio.zst", "cpio", "tar"] {
        let mut first = None;
        for who in EACH_PRIVILEGE {
            for threads in ["1", "2"] {
                let output = stage.out(who).join(format!("threads-{threads}.{format}"));
                inner_program::run(&stage, who, &[&base], "torture", |command| {
                    command.env("SOURCE_DATE_EPOCH", EPOCH).args(["--threads", threads]);
                    command.arg("--save").arg(&output);
                });
                let first = first.get_or_insert_with(|| output.clone());
                assert_same(&stage, first, &output);
            }
        }
    }
}

#[test]
fn umask_does_not_affect_the_artifact() {
    let stage = Stage::new();
    let base = stage.debian();
    let build = |name: &str, umask: &str| {
        let output = stage.out(Who::Root).join(name);
        let mut command = stage.command(Who::Root, "sh");
        command.args(["-c", &format!("umask {umask}; exec \"$@\""), "sh"]);
        command.arg(stage.path("overcoat")).arg("run").arg(&base).arg("--save").arg(&output);
        command.args(["--", "sh", "-c", "echo > /etc/made; mkdir /etc/made.d; umask > /etc/umask"]);
        finish(command.env("SOURCE_DATE_EPOCH", EPOCH)).ok();
        output
    };
    assert_same(&stage, &build("a.cpio.gz", "022"), &build("b.cpio.gz", "077"));
}
