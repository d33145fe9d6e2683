//! Kept results, and rollbacks to them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

use crate::project_fixture::{Site, owned, text};
use crate::support::stage::{Who, finish};

const WHO: Who = Who::Unprivileged;

/// Returns the content of all files in the output directory.
fn contents(site: &Site) -> BTreeMap<String, Vec<u8>> {
    let read = |name: String| {
        let content = fs::read(site.out(WHO).join(&name)).unwrap();
        (name, content)
    };
    site.files(WHO).into_iter().map(read).collect()
}

/// Returns the digests of the results of an image, the newest first, and the current one.
fn results(site: &Site, name: &str) -> (Vec<String>, String) {
    let list = site.json(WHO, "rollback", &["--list", name]);
    let results = list["images"][0]["results"].as_array().unwrap();
    let current = results.iter().find(|result| result["current"] == true);
    let digests = results.iter().map(|result| text(result, "sha256")).collect();
    (digests, current.map(|current| text(current, "sha256")).unwrap_or_default())
}

/// Gives the provisioner `one` a new script and builds. Returns the digest.
fn build_version(site: &Site, version: &str) -> String {
    site.write("one/do", &format!("echo {version} >/etc/version\n"));
    assert_eq!(site.built(WHO, &["one"]).last().unwrap(), "one");
    results(site, "one").1
}

#[test]
fn rollback_puts_all_formats_and_manifests_back() {
    let site = Site::new();
    site.built(WHO, &[]);
    let before = contents(&site);
    site.write("two/files/srv/two", "changed\n");
    site.write("kernel/do", "echo K >/boot/vmlinuz-6.1; echo I >/boot/initrd.img-6.1\n");
    assert_eq!(site.built(WHO, &[]), ["two", "boot"]);
    let after = contents(&site);
    assert!(after["two.cpio.zst"] != before["two.cpio.zst"] && after["vmlinuz"] == b"K\n");

    site.finish(WHO, "rollback", &["two"]).ok().stderr_has(&[
        "two: put back ",
        "two: stays as it is until its inputs change; `overcoat build --force two`",
    ]);
    let report = site.json(WHO, "rollback", &["boot"]);
    assert_eq!((&report["schema"], &report["name"]), (&1.into(), &"boot".into()));
    assert_eq!(report["put_back"]["outputs"][0]["file"], "vmlinuz");
    assert!(contents(&site) == before);
    let states = site.states(WHO, &[]);
    assert_eq!(
        states,
        [("base", "up_to_date"), ("one", "up_to_date"), ("two", "rolled_back")]
            .into_iter()
            .chain([("boot", "rolled_back")])
            .map(owned)
            .collect::<Vec<_>>()
    );
    // The newer result is still there.
    let newer = results(&site, "two").0[0].clone();
    site.finish(WHO, "rollback", &["two", "--to", &newer[..8]]).ok();
    assert!(fs::read(site.out(WHO).join("two.cpio.zst")).unwrap() == after["two.cpio.zst"]);
    assert_eq!(site.built(WHO, &["two"]), [] as [&str; 0]);
}

#[test]
fn rolled_back_image_stays_until_its_inputs_change() {
    let site = Site::new();
    let first = build_version(&site, "first");
    let second = build_version(&site, "second");
    site.finish(WHO, "rollback", &["one"]).ok();
    assert_eq!(results(&site, "one"), (vec![second.clone(), first.clone()], first.clone()));
    site.run(WHO, &["one"])
        .ok()
        .stderr_has(&["one: rolled back; `overcoat build --force one` builds it again"]);
    site.run(WHO, &["-n", "one"]).ok().stderr_has(&["1 up to date, 1 rolled back, 0 to be built"]);
    // An older version of overcoat, which has built the result, is no reason either.
    let path = site.out(WHO).join(".overcoat/one.json");
    let record = fs::read_to_string(&path).unwrap();
    let mut value: Value = serde_json::from_str(&record).unwrap();
    value["overcoat"] = "0.0.1".into();
    fs::write(&path, value.to_string()).unwrap();
    assert_eq!(site.states(WHO, &["one"])[1], owned(("one", "rolled_back")));
    fs::write(&path, &record).unwrap();

    // With the inputs of its build it is up to date, and with others it is built.
    site.write("one/do", "echo first >/etc/version\n");
    assert_eq!(site.states(WHO, &["one"])[1], owned(("one", "up_to_date")));
    site.write("one/do", "echo third >/etc/version\n");
    site.run(WHO, &["one", "-n", "--explain"]).ok().stderr_has(&["one: do changed"]);
    assert_eq!(site.built(WHO, &["one"]), ["one"]);
    // The result that was put back is the one before the new one.
    site.finish(WHO, "rollback", &["one"]).ok();
    assert_eq!(results(&site, "one").1, first);
    assert_eq!(site.built(WHO, &["--force", "one"]), ["one"]);
    assert_eq!(site.states(WHO, &["one"])[1], owned(("one", "up_to_date")));
}

/// An option with which a result was built is no reason to replace the one that was put back.
#[test]
fn options_of_the_replaced_result_do_not_build_a_rolled_back_image() {
    let site = Site::new();
    build_version(&site, "first");
    assert_eq!(site.built(WHO, &["one", "--level", "1"]), ["one"]);
    site.finish(WHO, "rollback", &["one"]).ok();
    assert_eq!(site.built(WHO, &["one"]), [] as [&str; 0]);
    assert_eq!(site.built(WHO, &["one", "--level", "2"]), ["one"]);
}

/// The environment of the build is an input, but a rollback does not run in it.
#[test]
fn environment_of_the_replaced_result_does_not_build_a_rolled_back_image() {
    let site = Site::new();
    let build = |arguments: &[&str]| {
        let mut command = site.command(WHO, &[arguments, &["one", "--json"]].concat());
        let images = site.report(finish(command.env("SOURCE_DATE_EPOCH", "1600000000")).ok());
        text(&images[1], "state")
    };
    assert_eq!(build(&[]), "built");
    site.write("one/do", "echo second >/etc/version\n");
    assert_eq!(build(&[]), "built");
    site.finish(WHO, "rollback", &["one"]).ok();
    assert_eq!(build(&["-n"]), "rolled_back");
    assert_eq!(site.states(WHO, &["-n", "one"])[1].1, "rolled_back");
    site.write("one/do", "echo third >/etc/version\n");
    assert_eq!(build(&["-n"]), "due");
}

#[test]
fn second_rollback_goes_further_back() {
    let site = Site::new();
    site.edit_project("network: none", "network: none\nkeep: 3");
    let versions = ["1", "2", "3", "4"].map(|version| build_version(&site, version));
    let (mut all, current) = results(&site, "one");
    all.reverse();
    assert_eq!((&all[..], &current), (&versions[1..], &versions[3]));
    site.finish(WHO, "rollback", &["one"]).ok();
    assert_eq!(results(&site, "one").1, versions[2]);
    site.finish(WHO, "rollback", &["one"]).ok();
    assert_eq!(results(&site, "one").1, versions[1]);
    let before = contents(&site);
    site.finish(WHO, "rollback", &["one"]).code(2).stderr_has(&[&format!(
        "one: no earlier result is kept; `--to {}` puts back a newer one",
        &versions[3][..12]
    )]);
    site.finish(WHO, "rollback", &["one", "--to", "x"])
        .code(2)
        .stderr_has(&["one: no kept result has a digest that begins with `x`; the kept ones are "]);
    site.finish(WHO, "rollback", &[]).code(2).stderr_has(&["<NAME>"]);
    site.finish(WHO, "rollback", &["tow"]).code(2).stderr_has(&["did you mean `two`?"]);
    site.finish(WHO, "rollback", &["two"]).code(2).stderr_has(&["two: no earlier result is kept"]);
    assert!(contents(&site) == before);
}

#[test]
fn project_and_images_set_the_number_of_kept_results() {
    let site = Site::new();
    let count = |name: &str| results(&site, name).0.len();
    for version in ["1", "2", "3"] {
        build_version(&site, version);
    }
    assert_eq!(count("one"), 2, "the default");
    site.edit_project("provisioner: one}", "provisioner: one, keep: 4}");
    assert_eq!(site.built(WHO, &["one"]), [] as [&str; 0], "not an input");
    for version in ["4", "5", "6"] {
        build_version(&site, version);
    }
    assert_eq!(count("one"), 4);
    site.edit_project("keep: 4", "keep: 1");
    build_version(&site, "7");
    assert_eq!(count("one"), 1);
    assert!(!site.out(WHO).join(".overcoat/kept/one").exists());
    // A result with the same artifacts is not another one.
    site.edit_project("keep: 1", "keep: 2");
    site.built(WHO, &["one", "--force"]);
    assert_eq!(count("one"), 1);
}

#[test]
fn bases_stay_as_long_as_an_overlay_was_built_on_them() {
    let site = Site::new();
    let base = |content: &str| {
        site.write("base/files/etc/again", content);
        assert_eq!(site.built(WHO, &["base"]), ["base"]);
    };
    site.built(WHO, &["one"]);
    let first = results(&site, "base").1;
    base("1");
    base("2");
    base("3");
    let kept = results(&site, "base").0;
    assert_eq!((kept.len(), &kept[2]), (3, &first));
    // Another overlay result on another base: the first base stays for the kept result.
    site.write("one/do", "echo one >/etc/one\n");
    site.built(WHO, &["one"]);
    base("4");
    assert!(results(&site, "base").0.contains(&first));
    // Now no result names it.
    site.write("one/do", "echo two >/etc/one\n");
    site.built(WHO, &["one"]);
    let kept = results(&site, "base").0;
    assert!(!kept.contains(&first), "{kept:?}");
    // The base that the kept overlay needs, and the one before the current one.
    assert_eq!(kept.len(), 2);
    site.edit_project("kind: base,", "kind: base, keep: 1,");
    base("5");
    assert_eq!(results(&site, "base").0.len(), 1);
}

#[test]
fn kept_files_are_links_and_failed_builds_keep_nothing() {
    let site = Site::new();
    site.built(WHO, &["one"]);
    let artifact = site.out(WHO).join("one.cpio.gz");
    let inode = |path: &std::path::Path| fs::metadata(path).unwrap().ino();
    let before = inode(&artifact);
    site.write("one/do", "exit 1\n");
    site.run(WHO, &["one"]).code(1);
    let kept = site.out(WHO).join(".overcoat/kept/one");
    assert!(!kept.join("new").exists());
    assert_eq!(results(&site, "one").0.len(), 1);
    build_version(&site, "second");
    assert_eq!(inode(&kept.join("1/files/one.cpio.gz")), before);
    assert!(kept.join("1/files/one.cpio.gz.manifest.json").exists());
    site.finish(WHO, "rollback", &["one"]).ok();
    assert_eq!(inode(&artifact), before);
    assert!(!kept.join("1").exists());

    // A file that was changed by hand is not a result.
    fs::write(&artifact, "mine").unwrap();
    site.finish(WHO, "rollback", &["one", "--to", &results(&site, "one").0[0]])
        .ok()
        .stderr_has(&["one: the replaced result is not kept: its files were changed"]);
    assert_eq!(results(&site, "one").0.len(), 1);
}

/// The project names a file that no build has written since.
#[test]
fn result_with_other_files_is_not_put_back() {
    let site = Site::new();
    build_version(&site, "first");
    site.edit_project(
        "base: base, provisioner: one",
        "base: base, output: x.cpio, provisioner: one",
    );
    build_version(&site, "second");
    let before = contents(&site);
    site.finish(WHO, "rollback", &["one"])
        .code(2)
        .stderr_has(&["one: the result has the artifacts one.cpio.gz, which the project does not"]);
    assert!(contents(&site) == before);
    // Only the files that the project does not name.
    site.built(WHO, &["two"]);
    site.edit_project("format: [cpio.gz, cpio.zst]", "format: [cpio.gz]");
    site.write("two/files/srv/two", "changed\n");
    site.built(WHO, &["two"]);
    site.finish(WHO, "rollback", &["two"])
        .code(2)
        .stderr_has(&["two: the result has the artifacts two.cpio.zst, which"]);
}

/// Without hard links, builds work as before.
#[test]
fn result_that_cannot_be_linked_is_replaced_with_a_warning() {
    let site = Site::new();
    site.built(WHO, &["one"]);
    let folder = site.out(WHO).join(".overcoat/kept");
    fs::create_dir(&folder).unwrap();
    site.stage.sh(&format!("mount -t tmpfs -o mode=777 other {}", folder.display()));
    site.write("one/do", "echo second >/etc/version\n");
    site.run(WHO, &["one"]).ok().stderr_has(&[
        "warning: one: the previous result is not kept: cannot link ",
        "one: built in",
    ]);
    assert_eq!(results(&site, "one").0.len(), 1);
    assert_eq!(site.built(WHO, &["one"]), [] as [&str; 0]);
    site.stage.sh(&format!("umount {}", folder.display()));
}

/// The artifacts are replaced, and then the build ends before it writes the record.
#[test]
fn interrupted_build_does_not_lose_the_previous_result() {
    let site = Site::new();
    let first = build_version(&site, "first");
    let out = site.out(WHO);
    let new = out.join(".overcoat/kept/one/new/files");
    fs::create_dir_all(&new).unwrap();
    for name in ["one.cpio.gz", "one.cpio.gz.manifest.json"] {
        fs::hard_link(out.join(name), new.join(name)).unwrap();
    }
    fs::write(out.join("other"), "the next result").unwrap();
    fs::rename(out.join("other"), out.join("one.cpio.gz")).unwrap();
    site.stage.sh(&format!("chown -R --reference={0} {0}/.overcoat/kept", out.display()));
    let second = build_version(&site, "second");
    assert_eq!(results(&site, "one"), (vec![second.clone(), first], second));
}

/// Also a file whose size and times are those of the build.
#[test]
fn damaged_kept_file_is_not_put_back() {
    let site = Site::new();
    build_version(&site, "first");
    build_version(&site, "second");
    let archive = site.out(WHO).join(".overcoat/kept/one/1/files/one.cpio.gz");
    let whole = fs::read(&archive).unwrap();
    let modified = fs::metadata(&archive).unwrap().modified().unwrap();
    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    fs::write(&archive, flipped).unwrap();
    fs::File::options().write(true).open(&archive).unwrap().set_modified(modified).unwrap();
    let before = contents(&site);
    site.finish(WHO, "rollback", &["one"]).code(2).stderr_has(&[
        "kept/one/1/files/one.cpio.gz: the kept file is missing or was changed",
        "remove ",
        "`overcoat rollback --list one`",
    ]);
    assert!(contents(&site) == before);
    fs::write(&archive, whole).unwrap();
    let kept = site.out(WHO).join(".overcoat/kept/one/1/files/one.cpio.gz.manifest.json");
    fs::write(&kept, "{}").unwrap();
    let before = contents(&site);
    site.finish(WHO, "rollback", &["one"])
        .code(2)
        .stderr_has(&["manifest.json: the kept file is missing or was changed"]);
    assert!(contents(&site) == before);
    assert_eq!(site.built(WHO, &["one"]), [] as [&str; 0]);
}

#[test]
fn artifacts_are_never_missing_during_builds_and_rollbacks() {
    let site = Site::new();
    build_version(&site, "first");
    let artifact = site.out(WHO).join("one.cpio.gz");
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let missing = scope.spawn(|| {
            let mut missing = 0;
            while !ended.load(Ordering::Relaxed) {
                missing += u32::from(fs::metadata(&artifact).is_err());
            }
            missing
        });
        build_version(&site, "second");
        for _ in 0..10 {
            let (all, current) = results(&site, "one");
            let other = all.iter().find(|digest| **digest != current).unwrap();
            site.finish(WHO, "rollback", &["one", "--to", other]).ok();
        }
        ended.store(true, Ordering::Relaxed);
        assert_eq!(missing.join().unwrap(), 0);
    });
}

/// Makes root the owner of a path and of everything below it.
fn give_to_root(site: &Site, path: &std::path::Path) {
    site.stage.sh(&format!("chown -R 0:0 {}", path.display()));
}

#[test]
fn renamed_image_with_the_same_artifact_has_its_earlier_results() {
    let site = Site::new();
    site.edit_project("one: {base: base,", "one: {base: base, output: x.cpio.gz,");
    let first = build_version(&site, "first");
    let second = build_version(&site, "second");
    site.edit_project("  one: {base: base,", "  renamed: {base: base,");
    site.edit_project("overlays: [one]", "overlays: [renamed]");
    site.write("one/do", "echo third >/etc/version\n");
    let message = "renamed: its earlier results are those of one, which made ";
    site.run(WHO, &["renamed"]).ok().stderr_has(&[message, "1 built"]);
    let (digests, current) = results(&site, "renamed");
    assert_eq!((digests.len(), &digests[0], &digests[1]), (2, &current, &second));
    assert_ne!(first, second);
    site.finish(WHO, "rollback", &["renamed"]).ok();
    assert_eq!(results(&site, "renamed").1, second);
    site.finish(WHO, "clean", &["-n"]).ok().stderr_has(&["nothing to remove"]);
}

#[test]
fn files_that_root_makes_belong_to_the_owner_of_the_directory() {
    let site = Site::new();
    let out = site.out(WHO);
    let as_root = |version: &str| {
        site.write("one/do", &format!("echo {version} >/etc/version\n"));
        let mut command = site.stage.overcoat(Who::Root);
        finish(command.args(["build", "one", "-p"]).arg(site.file(WHO))).ok();
    };
    ["1", "2", "3"].iter().for_each(|version| as_root(version));
    let listed = finish(std::process::Command::new("find").arg(&out).args(["-uid", "0"])).ok();
    assert_eq!(String::from_utf8_lossy(&listed.stdout), "");
    build_version(&site, "4");
    site.finish(WHO, "rollback", &["one"]).ok();
}

#[test]
fn build_succeeds_if_earlier_results_cannot_be_removed() {
    let site = Site::new();
    build_version(&site, "1");
    build_version(&site, "2");
    let kept = site.out(WHO).join(".overcoat/kept/one");
    give_to_root(&site, &kept.join("1"));
    site.write("one/do", "echo 3 >/etc/version\n");
    let advice = format!("sudo chown -R $USER {}", site.out(WHO).display());
    site.run(WHO, &["one"]).ok().stderr_has(&[
        "warning: earlier results that are too many stay: cannot remove ",
        &advice,
        "1 up to date, 1 built",
    ]);
    site.finish(WHO, "clean", &[]).code(2).stderr_has(&[&advice]);
}

#[test]
fn failed_rollback_leaves_nothing() {
    let site = Site::new();
    build_version(&site, "1");
    let second = build_version(&site, "2");
    let kept = site.out(WHO).join(".overcoat/kept/one");
    // The place of the replaced result.
    fs::create_dir(kept.join("2")).unwrap();
    fs::write(kept.join("2/x"), "").unwrap();
    site.finish(WHO, "rollback", &["one"]).code(2).stderr_has(&["cannot remove "]);
    assert!(!kept.join("new").exists());
    assert_eq!(results(&site, "one").1, second);
}

#[test]
fn lost_results_are_reported() {
    let site = Site::new();
    build_version(&site, "1");
    fs::write(site.out(WHO).join(".overcoat/one.json"), "{").unwrap();
    site.run(WHO, &["one"])
        .ok()
        .stderr_has(&["one: the previous result is not kept, because its record is damaged"]);
    let link = site.out(WHO).join("one.cpio.gz");
    fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink("missing/x", &link).unwrap();
    site.run(WHO, &["one"])
        .code(2)
        .stderr_has(&["a symbolic link to ", "missing/x, whose directory"]);
}
