//! Which images of a project are out of date, and why.

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use serde_json::Value;

use crate::project_fixture::{Site, text, wrapped};
use crate::snapshot::{self, Transcript};
use crate::support::stage::{BOTH_USERS, Who, finish};

#[test]
fn second_build_does_nothing_and_both_privileges_build_the_same_bytes() {
    let site = Site::new();
    for who in BOTH_USERS {
        assert_eq!(site.built(who, &[]), ["base", "one", "two", "boot"]);
        assert_eq!(
            site.files(who),
            [
                "base.squashfs",
                "base.squashfs.manifest.json",
                "initrd.img",
                "one.cpio.gz",
                "one.cpio.gz.manifest.json",
                "two.cpio.gz",
                "two.cpio.gz.manifest.json",
                "two.cpio.zst",
                "two.cpio.zst.manifest.json",
                "vmlinuz"
            ]
        );
        assert_eq!(site.built(who, &[]), [] as [&str; 0]);
        site.run(who, &[]).ok().stderr_has(&["4 images: 4 up to date, 0 built"]);
    }
    for name in site.files(Who::Root) {
        let read = |who| fs::read(site.out(who).join(&name)).unwrap();
        assert!(read(Who::Root) == read(Who::Unprivileged), "{name}");
    }
    assert_eq!(fs::read(site.out(Who::Root).join("vmlinuz")).unwrap(), b"kernel\n");
}

#[test]
fn dry_run_lists_images_and_reasons() {
    let site = Site::new();
    let who = Who::Unprivileged;
    site.write("overcoat.yml", &fs::read_to_string(site.file(who)).unwrap());
    let mut transcript = Transcript::new(site.stage.path("project"));
    let mut run = |line: &str| {
        transcript.run(site.stage.overcoat(who), line);
    };
    run("build -n");
    run("build -n tow");
    finish(site.stage.overcoat(who).current_dir(site.stage.path("project")).arg("build")).ok();
    run("build -n");
    run("build --explain");
    site.edit("one/files/etc/greeting.j2", "{{ greeting }}", "{{ greeting }}!");
    site.edit("overcoat.yml", "provisioner: base}", "provisioner: base, variables: {name: y}}");
    site.edit("overcoat.yml", "format: [cpio.gz, cpio.zst]", "format: [cpio.gz]");
    fs::remove_file(site.out(who).join("vmlinuz")).unwrap();
    run("build -n");
    run("build -n --explain");
    run("build -n one");
    run("build -n --force --explain boot");
    let _settings = snapshot::bind("");
    insta::assert_snapshot!("build_dry_run", transcript.text());
}

#[test]
fn records_of_version_1_are_still_read() {
    let site = Site::new();
    let who = Who::Unprivileged;
    let options = ["one", "--level", "3"];
    assert_eq!(site.built(who, &options), ["base", "one"]);
    let path = site.out(who).join(".overcoat/one.json");
    let record = fs::read_to_string(&path).unwrap();
    assert!(record.contains("\"command_line\": \"--level 3\""), "{record}");
    let old = record.replace("\"schema\": 2", "\"schema\": 1");
    fs::write(&path, old.replace("\"command_line\"", "\"the command line\"")).unwrap();
    assert_eq!(site.built(who, &options), [] as [&str; 0]);
    fs::write(&path, record.replace("\"schema\": 2", "\"schema\": 3")).unwrap();
    assert_eq!(site.built(who, &options), ["one"]);
}

#[test]
fn changed_input_makes_only_its_image_outdated() {
    let site = Site::new();
    let who = Who::Unprivileged;
    site.built(who, &[]);
    let because = |arguments: &[&str], name: &str, reason: &str| {
        let dry = site.report(site.run(who, &[arguments, &["-n", "--json"]].concat()).ok());
        for image in dry {
            let due = text(&image, "name") == name;
            assert_eq!(text(&image, "state") == "due", due, "{name}: {image}");
            if due {
                assert_eq!(image["reasons"], serde_json::json!([reason]));
            }
        }
        site.run(who, &["-n", "--explain"])
            .ok()
            .stderr_has(&[&format!("{name}: would be built"), reason]);
        assert_eq!(site.built(who, arguments), [name]);
        assert_eq!(site.built(who, &[]), [] as [&str; 0], "{reason}");
    };
    site.edit("one/files/etc/greeting.j2", "{{ greeting }}", "{{ greeting }}!");
    because(&[], "one", "one: files/etc/greeting.j2 changed");
    site.write("one/files/etc/another", "");
    because(&[], "one", "one: files/etc/another is new");
    fs::remove_file(site.stage.path("project/one/files/etc/another")).unwrap();
    because(&[], "one", "one: files/etc/another was removed");
    site.edit("two/provisioner.yml", "files: files", "description: x\nfiles: files");
    because(&[], "two", "two: provisioner.yml changed");
    site.edit_project("provisioner: one}", "provisioner: one, variables: {greeting: hello}}");
    because(&[], "one", "variable greeting is new: \"hello\"");
    site.edit_project("{greeting: hello}", "{greeting: hullo}");
    because(&[], "one", "variable greeting changed from \"hello\" to \"hullo\"");
    site.edit_project("format: [cpio.gz, cpio.zst]", "format: [cpio.gz]");
    because(&[], "two", "outputs changed");
    site.edit_project("provisioner: one,", "cleanup: {all: false}, provisioner: one,");
    because(&[], "one", "cleanup was removed");
    site.edit_project("provisioner: kernel}", "provisioner: kernel, yields: {k: /boot/vmlinuz-*}}");
    let dry = site.report(site.run(who, &["-n", "--json"]).ok());
    let boot = dry.iter().find(|image| text(image, "name") == "boot").unwrap();
    let reasons = boot["reasons"].to_string();
    assert!(
        reasons.contains("yields initrd.img was removed; it was /boot/initrd.img-*"),
        "{reasons}"
    );
    site.built(who, &[]);
    fs::remove_file(site.out(who).join("one.cpio.gz")).unwrap();
    because(&[], "one", "one.cpio.gz is missing");
    fs::write(site.out(who).join("one.cpio.gz"), "mine").unwrap();
    because(&[], "one", "one.cpio.gz was changed after the build");
    let file = fs::read(site.out(who).join("one.cpio.gz")).unwrap();
    fs::write(site.out(who).join("one.cpio.gz"), file).unwrap();
    assert_eq!(site.built(who, &[]), [] as [&str; 0], "only the time changed");
}

#[test]
fn output_and_layer_paths_are_inputs_and_secrets_are_not_recorded() {
    let site = Site::new();
    let who = Who::Unprivileged;
    site.project(
        "  base: {kind: base, from: ../tree}
  one: {base: base, provisioner: one, variables: {greeting: 'http://me:secret@host/'}}
  again: {kind: base, from: OUT/base.squashfs}
  boot: {kind: initrd, base: base, provisioner: kernel}\n",
    );
    BOTH_USERS.iter().for_each(|who| {
        let out = site.out(*who).display().to_string();
        site.edit(&format!("{who:?}.yml"), "OUT", &out);
    });
    // A base built from another image is built after it.
    assert_eq!(site.built(who, &["again"]), ["base", "again"]);
    site.built(who, &[]);
    let record = fs::read_to_string(site.out(who).join(".overcoat/one.json")).unwrap();
    assert!(!record.contains("secret"), "{record}");
    site.edit_project("'http://me:secret@host/'", "'http://me:other@host/'");
    let run = site.run(who, &["one", "--explain"]).ok().stderr_has(&["variable greeting changed"]);
    assert!(!run.stderr.contains("secret") && !run.stderr.contains("other@"), "{}", run.stderr);

    fs::remove_file(site.out(who).join("one.cpio.gz.manifest.json")).unwrap();
    assert_eq!(site.built(who, &[]), ["one"]);
    fs::create_dir(site.out(who).join("sub")).unwrap();
    site.stage.give(&site.out(who).join("sub"), who);
    site.edit_project("provisioner: one,", "output: sub/one.cpio.gz, provisioner: one,");
    assert_eq!(site.built(who, &[]), ["one"]);
    site.edit_project("provisioner: kernel", "output: sub, provisioner: kernel");
    assert_eq!(site.built(who, &[]), ["boot"]);
    assert!(site.out(who).join("sub/vmlinuz").exists());
    // A base with the same file name in another directory is another layer.
    fs::copy(site.out(who).join("base.squashfs"), site.stage.path("base.squashfs")).unwrap();
    site.edit_project("one: {base: base", "one: {base: ../base.squashfs");
    let report = site.report(site.run(who, &["one", "--json"]).ok());
    assert!(report[0]["reasons"][0].as_str().unwrap().starts_with("layers changed"), "{report:?}");
}

#[test]
fn newer_base_keeps_overlays_up_to_date_and_reports_changed_paths() {
    let site = Site::new();
    let who = Who::Unprivileged;
    site.built(who, &[]);
    let overlay = || fs::read(site.out(who).join("one.cpio.gz")).unwrap();
    let before = overlay();

    // The base changes at a path that the overlay does not have.
    site.edit_project("provisioner: base}", "provisioner: base, variables: {name: y}}");
    site.run(who, &[]).ok().stderr_has(&[
        "one: up to date, but built on another base.squashfs; none of its paths changed there",
    ]);
    // The base changes at paths that the overlay changes, deletes and adds.
    site.stage.sh("echo two >tree/etc/conf; rm tree/etc/gone; echo base >tree/etc/greeting");
    let images =
        site.report(site.run(who, &["--json"]).ok().stderr_has(&["its paths that changed there"]));
    assert_eq!(
        images.iter().map(|i| text(i, "state")).collect::<Vec<_>>()[..2],
        ["built", "up_to_date"]
    );
    assert_eq!(
        images[1]["changed_below"],
        serde_json::json!([
            {"path": "etc/conf", "since": "changed"},
            {"path": "etc/gone", "since": "removed"},
            {"path": "etc/greeting", "since": "added"},
        ])
    );
    assert!(overlay() == before, "the overlay must not change");
    // Later builds report it again, until the overlay is rebuilt on the new base.
    site.run(who, &["one"])
        .ok()
        .stderr_has(&["/etc/conf changed, /etc/gone removed, /etc/greeting added"]);
    site.edit("one/do", "; rm /etc/gone", "");
    let images = site.report(site.run(who, &["--rebase", "--json"]).ok());
    let reasons = images[1]["reasons"].to_string();
    assert!(reasons.contains("--rebase was given, and base.squashfs changed"), "{reasons}");
    let conf = site.stage.archived_file(&site.out(who).join("one.cpio.gz"), "etc/conf");
    assert_eq!(conf, "two\nmore\n");
    assert_eq!(site.built(who, &["--rebase"]), [] as [&str; 0]);
}

#[test]
fn dry_run_lists_the_images_that_a_build_would_build() {
    let site = Site::new();
    let who = Who::Unprivileged;
    site.built(who, &[]);
    site.edit("base/files/etc/name.j2", "{{ name }}", "{{ name }}!");
    let due = |arguments: &[&str]| {
        let states = site.states(who, &[arguments, &["-n"]].concat());
        states.into_iter().filter(|(_, s)| s == "due").map(|(name, _)| name).collect::<Vec<_>>()
    };
    assert_eq!(due(&["one"]), ["base"]);
    assert_eq!(due(&["one", "--rebase"]), ["base", "one"]);
    assert_eq!(site.built(who, &["one", "--rebase"]), ["base", "one"]);
    site.project("  a: {base: ./nothing.squashfs}\n  b: {kind: base, from: ./nothing.tar}\n");
    for arguments in [&["-n"][..], &[]] {
        site.run(who, arguments).code(2).stderr_has(&["a: error: ", "nothing.squashfs"]);
    }
    // A dry run continues after an image with a mistake.
    site.run(who, &["-n"]).code(2).stderr_has(&["a: error: ", "b: error: "]);
    site.run(who, &["-n", "b"]).code(2).stderr_has(&[
        "b: error: ",
        "images.b.from: `./nothing.tar` does not exist",
        "1 image: ",
    ]);
}

/// Changes the content of a file, but neither its size nor its modification time.
fn change_in_place(path: &Path) {
    let modified = fs::metadata(path).unwrap().modified().unwrap();
    let mut content = fs::read(path).unwrap();
    *content.last_mut().unwrap() ^= 1;
    let file = fs::File::options().write(true).open(path).unwrap();
    (&file).write_all(&content).unwrap();
    file.set_modified(modified).unwrap();
}

#[test]
fn artifact_that_was_changed_in_place_with_its_times_is_built_again() {
    let site = Site::new();
    let who = Who::Unprivileged;
    site.built(who, &["one"]);
    let artifact = site.out(who).join("one.cpio.gz");
    change_in_place(&artifact);
    let status = site.json(who, "status", &["one"]);
    let reasons = serde_json::json!(["one.cpio.gz was changed after the build"]);
    assert_eq!(status["images"][0]["reasons"], reasons);
    assert_eq!(site.built(who, &["one"]), ["one"]);
    // Changes of the metadata are no reason.
    fs::set_permissions(&artifact, Permissions::from_mode(0o600)).unwrap();
    fs::hard_link(&artifact, site.out(who).join("link")).unwrap();
    assert_eq!(site.built(who, &["one"]), [] as [&str; 0]);
    // A record without the time of the last change is one of an earlier version.
    let path = site.out(who).join(".overcoat/one.json");
    let mut record: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for output in record["outputs"].as_array_mut().unwrap() {
        output["stamp"].as_object_mut().unwrap().remove("changed").unwrap();
    }
    fs::write(&path, record.to_string()).unwrap();
    assert_eq!(site.states(who, &["-n", "one"])[1].1, "up_to_date");
    change_in_place(&artifact);
    assert_eq!(site.built(who, &["one"]), ["one"]);
}

/// The second command after a change of the metadata reads no artifact.
#[test]
fn build_records_the_times_of_unchanged_artifacts() {
    let site = Site::new();
    let who = Who::Unprivileged;
    site.built(who, &["one"]);
    let artifact = site.out(who).join("one.cpio.gz");
    let stamps = || {
        let record = fs::read(site.out(who).join(".overcoat/one.json")).unwrap();
        let record: Value = serde_json::from_slice(&record).unwrap();
        let ctime = record["outputs"][0]["stamp"]["changed"][1].as_i64().unwrap();
        (ctime, fs::metadata(&artifact).unwrap().ctime_nsec())
    };
    let is_recorded = || stamps().0 == stamps().1;
    assert!(is_recorded());
    fs::set_permissions(&artifact, Permissions::from_mode(0o600)).unwrap();
    assert!(!is_recorded());
    site.built(who, &["one"]);
    assert!(is_recorded());
    // Commands that link artifacts.
    site.write("one/do", "exit 1\n");
    site.run(who, &["one"]).code(1);
    assert!(is_recorded());
    site.write("one/do", "echo second >/etc/version\n");
    site.built(who, &["one"]);
    site.finish(who, "rollback", &["one"]).ok();
    assert!(is_recorded());
    let next = site.stage.out(who).join("next.cpio.gz");
    site.built(who, &["one", "-o", next.to_str().unwrap()]);
    site.finish(who, "promote", &[next.to_str().unwrap()]).ok();
    assert!(is_recorded());
}

/// Opening a FIFO waits for a writer.
#[test]
fn other_files_than_regular_ones_are_reported() {
    let site = Site::new();
    let who = Who::Unprivileged;
    site.built(who, &["one"]);
    for (name, make) in [
        ("one.cpio.gz", "rm -f one.cpio.gz && mkfifo one.cpio.gz"),
        ("one.cpio.gz.manifest.json", "mkfifo one.cpio.gz.manifest.json"),
        ("one.cpio.gz", "mkfifo fifo && ln -s fifo one.cpio.gz"),
        ("one.cpio.gz", "mkdir one.cpio.gz"),
        (
            "one.cpio.gz",
            "python3 -c 'import socket as s; s.socket(s.AF_UNIX).bind(\"one.cpio.gz\")'",
        ),
    ] {
        let out = site.out(who);
        site.stage.sh(&format!("cd {}; rm -f {name}; {make}", out.display()));
        let error = format!("{name}: not a regular file: remove it");
        let finish = |arguments: &[&str]| {
            finish(&mut wrapped("timeout", &["60"], &site.command(who, arguments)))
        };
        finish(&["-n", "one"]).code(2).stderr_has(&[&error]);
        finish(&["one"]).code(2).stderr_has(&[&error]);
        let status = site.json(who, "status", &["one"]);
        assert!(text(&status["images"][0], "error").contains(&error), "{status}");
        site.stage.sh(&format!("cd {}; rm -rf {name} fifo", out.display()));
        assert_eq!(site.built(who, &["one"]), ["one"]);
    }
    // A layer, a kept file, a record and a promoted file.
    let fifo = |path: &Path| {
        let _ = fs::remove_file(path);
        site.stage.sh(&format!("mkfifo {}", path.display()));
        site.stage.give(path, who);
    };
    let kept = site.out(who).join(".overcoat/kept/one");
    site.write("one/do", "echo second >/etc/version\n");
    site.built(who, &["one"]);
    let number = fs::read_dir(&kept).unwrap().next().unwrap().unwrap().file_name();
    fifo(&kept.join(number).join("files/one.cpio.gz"));
    site.finish(who, "rollback", &["one"]).code(2).stderr_has(&["the kept file is missing"]);
    let next = site.stage.out(who).join("next.cpio.gz");
    fifo(&next);
    let promote = site.finish(who, "promote", &[next.to_str().unwrap()]);
    promote.code(2).stderr_has(&["next.cpio.gz: not a regular file"]);
    fifo(&site.out(who).join(".overcoat/one.json"));
    site.run(who, &["-n", "one", "--explain"]).ok().stderr_has(&["its last build is damaged"]);
}

#[test]
fn damaged_record_is_reported() {
    let site = Site::new();
    let who = Who::Unprivileged;
    site.built(who, &["one"]);
    let path = site.out(who).join(".overcoat/one.json");
    let record = fs::read_to_string(&path).unwrap();
    let newer = record.replace("\"schema\": 2", "\"schema\": 3");
    for (text, reason) in [
        (&record[..record.len() / 2], "the record of its last build is damaged"),
        ("", "the record of its last build is damaged"),
        (&newer, "the record of its last build is of an unknown version of overcoat"),
    ] {
        fs::write(&path, text).unwrap();
        let status = site.json(who, "status", &["one"]);
        assert_eq!(status["images"][0]["reasons"], serde_json::json!([reason]));
        assert_eq!(status["images"][0]["state"], "due");
    }
    assert_eq!(site.built(who, &["one"]), ["one"]);
}
