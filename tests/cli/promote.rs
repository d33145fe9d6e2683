//! `promote`: a file that `build -o` has written becomes the artifact.

use std::fs;
use std::path::PathBuf;

use crate::project_fixture::{Site, wrapped};
use crate::support::stage::Who;

const WHO: Who = Who::Unprivileged;

fn build_to(site: &Site, name: &str, file: &str) -> PathBuf {
    let path = site.stage.out(WHO).join(file);
    let built = site.built(WHO, &[name, "-o", path.to_str().unwrap()]);
    assert_eq!(built.last().unwrap(), name);
    path
}

fn manifest(path: &std::path::Path) -> PathBuf {
    PathBuf::from(format!("{}.manifest.json", path.display()))
}

#[test]
fn promoted_base_is_up_to_date_and_the_replaced_one_is_kept() {
    let site = Site::new();
    site.built(WHO, &[]);
    let artifact = site.out(WHO).join("base.squashfs");
    let before = fs::read(&artifact).unwrap();
    site.write("base/files/etc/next", "next\n");
    let next = build_to(&site, "base", "next.squashfs");
    let content = fs::read(&next).unwrap();
    // The file may be moved before.
    let moved = site.stage.out(WHO).join("moved");
    fs::rename(&next, &moved).unwrap();
    fs::rename(manifest(&next), manifest(&moved)).unwrap();
    let report = site.json(WHO, "promote", &[moved.to_str().unwrap(), "base"]);
    assert_eq!((&report["schema"], &report["name"]), (&1.into(), &"base".into()));
    assert!(
        fs::read(&artifact).unwrap() == content && !moved.exists() && !manifest(&moved).exists()
    );
    let recorded = fs::read_to_string(manifest(&artifact)).unwrap();
    assert!(recorded.contains(report["promoted"]["sha256"].as_str().unwrap()));
    assert_eq!(site.built(WHO, &[]), [] as [&str; 0]);
    site.run(WHO, &[]).ok().stderr_has(&["one: up to date, but built on another base.squashfs"]);
    site.finish(WHO, "rollback", &["base"]).ok();
    assert!(fs::read(&artifact).unwrap() == before);
}

/// The inputs are those of the build to the file.
#[test]
fn promoted_image_is_out_of_date_if_its_inputs_have_changed_since() {
    let site = Site::new();
    site.built(WHO, &[]);
    site.write("one/do", "echo next >/etc/next\n");
    let next = build_to(&site, "one", "next.cpio.gz");
    site.write("one/do", "echo newer >/etc/next\n");
    site.finish(WHO, "promote", &[next.to_str().unwrap()]).ok();
    assert_eq!(site.built(WHO, &["one"]), ["one"]);
}

#[test]
fn file_of_another_file_system_is_promoted() {
    let site = Site::new();
    site.built(WHO, &[]);
    site.write("one/do", "echo next >/etc/next\n");
    let other = site.stage.out(WHO).join("other");
    fs::create_dir(&other).unwrap();
    site.stage.sh(&format!("mount -t tmpfs -o mode=777 other {}", other.display()));
    let next = build_to(&site, "one", "other/next.cpio.gz");
    let content = fs::read(&next).unwrap();
    site.finish(WHO, "promote", &[next.to_str().unwrap()]).ok();
    assert!(fs::read(site.out(WHO).join("one.cpio.gz")).unwrap() == content && !next.exists());
    assert_eq!(site.built(WHO, &["one"]), [] as [&str; 0]);
    site.stage.sh(&format!("umount {}", other.display()));
}

#[test]
fn other_files_are_rejected() {
    let site = Site::new();
    site.built(WHO, &[]);
    let contents = || -> Vec<Vec<u8>> {
        let files = site.files(WHO).into_iter();
        files.map(|name| fs::read(site.out(WHO).join(name)).unwrap()).collect()
    };
    let before = contents();
    let rejected = |file: &std::path::Path, name: &[&str], error: &str| {
        let arguments = [&[file.to_str().unwrap()], name].concat();
        site.finish(WHO, "promote", &arguments).code(2).stderr_has(&[error]);
        assert!(contents() == before && site.states(WHO, &["-n"]).iter().all(|s| s.1 != "due"));
    };
    let next = build_to(&site, "base", "next.squashfs");
    rejected(&next, &["one"], "next.squashfs is a result of the image base, not of one");
    rejected(&next, &["tow"], "has no image `tow`: did you mean `two`?");
    rejected(&site.out(WHO).join("base.squashfs"), &[], "base.squashfs is an artifact of base");
    rejected(&site.stage.out(WHO).join("none"), &[], "none: No such file");
    rejected(&site.stage.out(WHO), &[], "not a result of this project");

    let hidden = site.stage.out(WHO).join("hidden");
    fs::rename(manifest(&next), &hidden).unwrap();
    rejected(&next, &[], "next.squashfs.manifest.json is missing");
    fs::write(manifest(&next), "{}").unwrap();
    rejected(&next, &[], "it is not a valid manifest");
    fs::copy(manifest(&site.out(WHO).join("one.cpio.gz")), manifest(&next)).unwrap();
    rejected(&next, &[], "next.squashfs: the digest differs");
    let text = fs::read_to_string(&hidden).unwrap();
    fs::write(manifest(&next), format!("{text}\n")).unwrap();
    rejected(&next, &[], "next.squashfs: it was changed after the build");
    fs::rename(&hidden, manifest(&next)).unwrap();

    let other = build_to(&site, "one", "next.cpio.zst");
    rejected(&other, &[], "next.cpio.zst is in the format cpio.zst, but the artifacts of one are");
    let other = build_to(&site, "two", "two.cpio.zst");
    rejected(&other, &[], "the artifacts of two are two.cpio.gz and two.cpio.zst: build it with");
    // Another project, which could have the same names.
    let foreign = site.stage.out(WHO).join("foreign.cpio.gz");
    for file in [foreign.clone(), manifest(&foreign)] {
        let name = file.file_name().unwrap().to_str().unwrap().replace("foreign", "one");
        fs::copy(site.out(WHO).join(name), file).unwrap();
    }
    rejected(&foreign, &[], "foreign.cpio.gz: not a result of this project");
    let mut content = fs::read(&next).unwrap();
    content.push(0);
    fs::write(&next, content).unwrap();
    rejected(&next, &[], "the digest differs");
}

/// Removing it would remove the content of the artifact.
#[test]
fn file_that_the_artifact_is_a_link_to_is_rejected() {
    let site = Site::new();
    site.built(WHO, &["one"]);
    let next = build_to(&site, "one", "next.cpio.gz");
    let artifact = site.out(WHO).join("one.cpio.gz");
    fs::remove_file(&artifact).unwrap();
    std::os::unix::fs::symlink(&next, &artifact).unwrap();
    let finished = site.finish(WHO, "promote", &[next.to_str().unwrap()]).code(2);
    finished.stderr_has(&["next.cpio.gz is an artifact of one"]);
    assert!(next.exists());
}

/// A kill before any system call that changes names.
#[test]
fn interrupted_promotion_can_be_repeated_and_keeps_the_replaced_result() {
    let site = Site::new();
    site.built(WHO, &["base", "one"]);
    let out = site.out(WHO);
    let artifact = out.join("one.cpio.gz");
    let before = fs::read(&artifact).unwrap();
    site.write("one/do", "echo next >/etc/next\n");
    let next = build_to(&site, "one", "next.cpio.gz");
    let content = fs::read(&next).unwrap();
    let saved = site.stage.path("saved");
    site.stage.sh(&format!("cp -a {} {}", site.stage.out(WHO).display(), saved.display()));
    // Each system call that changes names, until the promotion ends before that.
    for count in 1..60 {
        site.stage.sh(&format!(
            "rm -rf {0}/artifacts {0}/next.*; cp -a {1}/. {0}",
            site.stage.out(WHO).display(),
            saved.display()
        ));
        let command = site.subcommand(WHO, "promote", &[next.to_str().unwrap()]);
        let calls = "rename,renameat,renameat2,link,linkat,unlink,unlinkat,rmdir";
        let inject = format!("inject={calls}:signal=KILL:when={count}");
        let mut traced = wrapped("strace", &["-f", "-o", "/dev/null", "-e", &inject], &command);
        let ended = traced.output().unwrap().status;
        if ended.success() {
            assert!(count > 8, "{count}");
            return;
        }
        if next.exists() {
            site.finish(WHO, "promote", &[next.to_str().unwrap()]).ok();
        } else {
            assert_eq!(site.states(WHO, &["-n", "one"])[1].1, "up_to_date", "{count}");
        }
        assert!(fs::read(&artifact).unwrap() == content, "{count}");
        assert_eq!(site.built(WHO, &["one"]), [] as [&str; 0], "{count}");
        site.finish(WHO, "rollback", &["one"]).ok();
        assert!(fs::read(&artifact).unwrap() == before, "{count}");
    }
    panic!("the promotion does not end");
}
