//! `clean`: the files that it removes, and those that it keeps.

use std::fs;

use serde_json::Value;

use crate::project_fixture::{Site, text};
use crate::support::stage::{Who, finish};

const WHO: Who = Who::Unprivileged;

/// Returns the names of the removed files, with the reasons.
fn removed(report: &Value) -> Vec<(String, String)> {
    let removed = report["removed"].as_array().unwrap().iter();
    let name = |path: String| path.rsplit_once("artifacts/").unwrap().1.to_owned();
    removed.map(|one| (name(text(one, "path")), text(one, "reason"))).collect()
}

#[test]
fn leftovers_are_removed_and_changed_and_unknown_files_stay() {
    let site = Site::new();
    let out = site.out(WHO);
    site.built(WHO, &[]);
    site.write("kernel/do", "echo K >/boot/vmlinuz-6.1; echo I >/boot/initrd.img-6.1\n");
    site.built(WHO, &["boot"]);
    site.finish(WHO, "clean", &[]).ok().stderr_has(&["nothing to remove"]);
    site.edit_project("format: [cpio.gz, cpio.zst]", "format: [cpio.gz]");
    site.edit_project("  boot: {kind: initrd, base: base, provisioner: kernel}\n", "");
    site.built(WHO, &[]);
    fs::write(out.join("two.cpio.zst"), "mine").unwrap();
    fs::write(out.join("initrd.img"), "mine").unwrap();
    fs::write(out.join("notes"), "mine").unwrap();
    let before = site.files(WHO);
    let expected = [
        (".overcoat/kept/boot/1", "former_image"),
        ("two.cpio.zst.manifest.json", "leftover"),
        ("vmlinuz", "leftover"),
    ]
    .map(|(name, reason)| (name.to_owned(), reason.to_owned()));
    let report = site.json(WHO, "clean", &["-n"]);
    assert_eq!(removed(&report), expected);
    assert_eq!(site.files(WHO), before);
    let finished = site.finish(WHO, "clean", &[]).ok().stderr_has(&[
        "initrd.img stays: it was changed after the build",
        "two.cpio.zst stays: it was changed after the build",
        "removed: 3 items",
    ]);
    assert!(finished.text().contains("vmlinuz (2 bytes, leftover of boot)"));
    assert!(!out.join(".overcoat/kept/boot").exists());
    let stay = ["vmlinuz", "two.cpio.zst.manifest.json"];
    let expected: Vec<_> = before.into_iter().filter(|name| !stay.contains(&&**name)).collect();
    assert_eq!(site.files(WHO), expected);
    // They are known until they are removed by hand.
    let status = site.json(WHO, "status", &[]);
    let leftovers = status["leftovers"].as_array().unwrap();
    assert_eq!(leftovers.len(), 2);
    assert!(leftovers.iter().all(|leftover| leftover["changed"] == true));
    fs::remove_file(out.join("initrd.img")).unwrap();
    site.finish(WHO, "clean", &[]).ok().stderr_has(&["nothing to remove"]);
    assert!(!out.join(".overcoat/boot.json").exists());
    assert_eq!(site.built(WHO, &[]), [] as [&str; 0]);
}

/// A file that an image makes again is not a leftover.
#[test]
fn file_that_is_made_again_stays() {
    let site = Site::new();
    site.built(WHO, &[]);
    site.edit_project("format: [cpio.gz, cpio.zst]", "format: [cpio.gz]");
    site.built(WHO, &[]);
    site.edit_project("format: [cpio.gz]", "format: [cpio.gz, cpio.zst]");
    assert_eq!(site.json(WHO, "status", &[])["leftovers"], Value::Array(Vec::new()));
    site.built(WHO, &[]);
    // An image gets another name, but not its artifact.
    site.edit_project("  boot: {kind: initrd,", "  kernel: {kind: initrd,");
    site.built(WHO, &[]);
    site.finish(WHO, "clean", &[]).ok();
    assert!(site.out(WHO).join("vmlinuz").exists());
    assert_eq!(site.built(WHO, &[]), [] as [&str; 0]);
}

#[test]
fn images_of_another_project_in_the_same_directory_stay() {
    let site = Site::new();
    site.built(WHO, &[]);
    let text = fs::read_to_string(site.file(WHO)).unwrap();
    let (head, _) = text.split_once("  one:").unwrap();
    let other = site.write("other.yml", head);
    let mut command = site.stage.overcoat(WHO);
    command.arg("clean").arg("--kept").arg("-p").arg(&other);
    finish(&mut command).ok().stderr_has(&["nothing to remove"]);
    assert_eq!(site.files(WHO).len(), 10);
    // The other project may have been moved, or its disk may not be mounted.
    fs::remove_file(site.file(WHO)).unwrap();
    let mut command = site.stage.overcoat(WHO);
    command.arg("clean").arg("-p").arg(&other);
    finish(&mut command).ok().stderr_has(&["nothing to remove"]);
    assert_eq!(site.files(WHO).len(), 10);
}

#[test]
fn artifacts_of_an_image_of_the_same_name_in_another_project_stay() {
    let site = Site::new();
    site.built(WHO, &["base"]);
    let text = fs::read_to_string(site.file(WHO)).unwrap();
    let (head, _) = text.split_once("  one:").unwrap();
    let other = head.replace("{kind: base,", "{kind: base, output: other.squashfs,");
    assert_ne!(other, head);
    let other = site.write("other.yml", &other);
    let run = |arguments: &[&str]| {
        let mut command = site.stage.overcoat(WHO);
        command.args(arguments).arg("-p").arg(&other);
        finish(&mut command)
    };
    let files = site.files(WHO);
    run(&["build"]).code(2);
    run(&["clean", "--kept"]).ok().stderr_has(&["nothing to remove"]);
    run(&["rollback", "base"]).code(2);
    let after = site.files(WHO);
    assert!(files.iter().all(|file| after.contains(file)), "{after:?}");
}

#[test]
fn kept_results_that_are_too_many_are_removed() {
    let site = Site::new();
    site.edit_project("network: none", "network: none\nkeep: 5");
    site.built(WHO, &["one"]);
    for version in ["1", "2"] {
        site.write("one/do", &format!("echo {version} >/etc/version\n"));
        site.write("base/files/etc/version", version);
        site.built(WHO, &["one"]);
    }
    let kept = |name: &str| {
        let status = site.json(WHO, "status", &[name]);
        status["images"][0]["kept"].as_array().unwrap().len()
    };
    assert_eq!((kept("base"), kept("one")), (2, 2));
    site.edit_project("keep: 5", "keep: 2");
    let report = site.json(WHO, "clean", &[]);
    let expected = [(".overcoat/kept/base/1", "excess"), (".overcoat/kept/one/1", "excess")];
    let expected = expected.map(|(name, reason)| (name.to_owned(), reason.to_owned()));
    assert_eq!(removed(&report), expected);
    // The current overlay is built on the base before the current one.
    site.write("base/files/etc/version", "3");
    site.built(WHO, &["base"]);
    let report = site.json(WHO, "clean", &["--kept"]);
    let expected = [(".overcoat/kept/base/2", "kept"), (".overcoat/kept/one/2", "kept")];
    let expected = expected.map(|(name, reason)| (name.to_owned(), reason.to_owned()));
    assert_eq!(removed(&report), expected);
    assert_eq!((kept("base"), kept("one")), (1, 0));
}

/// A record that someone edited, or an `output` with `..`.
#[test]
fn files_outside_of_the_output_directory_stay() {
    let site = Site::new();
    let out = site.out(WHO);
    site.built(WHO, &["base", "one"]);
    let outside = site.stage.out(WHO).join("precious");
    fs::copy(out.join("one.cpio.gz"), &outside).unwrap();
    std::os::unix::fs::symlink(site.stage.out(WHO), out.join("link")).unwrap();
    site.edit_project("  one: {base: base, provisioner: one}\n", "");
    site.edit_project("overlays: [one], ", "");
    let record = out.join(".overcoat/one.json");
    let text = fs::read_to_string(&record).unwrap();
    for path in ["../precious", "link/precious", outside.to_str().unwrap()] {
        fs::write(&record, text.replace("\"one.cpio.gz\"", &format!("\"{path}\""))).unwrap();
        site.finish(WHO, "clean", &[])
            .ok()
            .stderr_has(&["precious stays: it is not in the output directory"]);
        assert!(outside.exists());
    }
    fs::write(&record, text).unwrap();
    site.finish(WHO, "clean", &[]).ok();
    assert!(!out.join("one.cpio.gz").exists());
}

/// Kills at any time leave directories in `.overcoat/kept` that hold no result.
#[test]
fn remains_of_interrupted_commands_are_removed() {
    let site = Site::new();
    site.built(WHO, &["one"]);
    site.write("one/do", "echo second >/etc/version\n");
    site.built(WHO, &["one"]);
    let kept = site.out(WHO).join(".overcoat/kept");
    for (folder, record) in
        [("one/7", None), ("one/8", Some("{\"schema\": 2, \"num")), ("none/new", None)]
    {
        fs::create_dir_all(kept.join(folder).join("files")).unwrap();
        fs::write(kept.join(folder).join("files/one.cpio.gz"), "one").unwrap();
        if let Some(record) = record {
            fs::write(kept.join(folder).join("record.json"), record).unwrap();
        }
    }
    // A record of a later version may be needed by it.
    fs::create_dir_all(kept.join("one/9")).unwrap();
    fs::write(kept.join("one/9/record.json"), "{\"schema\": 99}").unwrap();
    let partial = |pid: u32| site.out(WHO).join(format!(".one.cpio.gz.{pid:x}-0.partial"));
    // No process has the first number, and the second one is running.
    let (ended, running) = (partial(u32::MAX), partial(std::process::id()));
    for path in [&ended, &running] {
        fs::write(path, "incomplete").unwrap();
    }
    site.stage.sh(&format!("chown -R --reference={0} {0}", site.out(WHO).display()));
    let expected = [
        (".one.cpio.gz.ffffffff-0.partial", "interrupted"),
        (".overcoat/kept/none/new", "interrupted"),
        (".overcoat/kept/one/7", "interrupted"),
        (".overcoat/kept/one/8", "interrupted"),
    ];
    let expected = expected.map(|(name, reason)| (name.to_owned(), reason.to_owned()));
    assert_eq!(removed(&site.json(WHO, "clean", &["-n"])), expected);
    assert!(ended.exists());
    assert_eq!(removed(&site.json(WHO, "clean", &[])), expected);
    assert!(!ended.exists() && running.exists() && !kept.join("none").exists());
    assert!(kept.join("one/1/record.json").exists() && kept.join("one/9").exists());
    site.finish(WHO, "clean", &[]).ok().stderr_has(&["nothing to remove"]);
}

/// Images that exchange their artifacts.
#[test]
fn file_that_another_image_makes_now_is_not_called_a_leftover() {
    let site = Site::new();
    let images = |one: &str, two: &str| {
        site.project(&format!(
            "  base: {{kind: base, from: ../tree, provisioner: base}}
  one: {{base: base, provisioner: one, output: {one}}}
  two: {{base: base, provisioner: two, output: {two}}}\n"
        ));
    };
    images("a.cpio.gz", "b.cpio.gz");
    site.built(WHO, &[]);
    images("b.cpio.gz", "a.cpio.gz");
    for arguments in [&["one"][..], &[]] {
        let finished = site.run(WHO, arguments).ok();
        assert!(!finished.stderr.contains("leftover"), "{}", finished.stderr);
    }
    site.finish(WHO, "clean", &[]).ok().stderr_has(&["nothing to remove"]);
    images("b.cpio.gz", "c.cpio.gz");
    site.run(WHO, &[]).ok().stderr_has(&["a.cpio.gz is a leftover of an earlier build"]);
}

#[test]
fn project_may_be_given_as_for_build() {
    let site = Site::new();
    site.built(WHO, &["base"]);
    let run = |what: &str| finish(site.stage.overcoat(WHO).args(["clean", "-n", what]));
    run(site.file(WHO).to_str().unwrap()).ok().stderr_has(&["nothing to remove"]);
    run("base").code(2).stderr_has(&["base is not a project", "give its directory or file"]);
}
