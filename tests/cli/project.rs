//! Project builds: only outdated images are built.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::snapshot::{self, Transcript};
use crate::support::processes::{alive, family, within};
use crate::support::stage::{BOTH_USERS, EPOCH, Finished, Stage, Who, finish};

const LIMIT: Duration = Duration::from_secs(60);

/// A small project: a base made of a directory with a static busybox, two overlays, and an initrd
/// image that yields files.
struct Site {
    stage: Stage,
}

impl Site {
    fn new() -> Self {
        let stage = Stage::new();
        stage.sh("mkdir -p tree/bin tree/etc tree/srv tree/boot tree/usr/sbin
             cp $(command -v busybox) tree/bin/busybox
             for a in sh cat mkdir rm touch sleep ls chmod; do ln -s busybox tree/bin/$a; done
             echo 'root:x:0:0::/:/bin/sh' >tree/etc/passwd; echo one >tree/etc/conf
             echo gone >tree/etc/gone");
        let site = Site { stage };
        site.provisioner("base", "variables: {name: x}\nfiles: files\n");
        site.write("base/files/etc/name.j2", "{{ name }}\n");
        site.provisioner("one", "variables: {greeting: hi}\nfiles: files\nscripts: [do]\n");
        site.write("one/files/etc/greeting.j2", "{{ greeting }}\n");
        site.write("one/do", "echo more >>/etc/conf; rm /etc/gone\n");
        site.provisioner("two", "files: files\n");
        site.write("two/files/srv/two", "two\n");
        site.provisioner("kernel", "scripts: [do]\n");
        site.write(
            "kernel/do",
            "echo kernel >/boot/vmlinuz-6.1; echo initrd >/boot/initrd.img-6.1\n",
        );
        site.project(
            "  base: {kind: base, from: ../tree, provisioner: base}
  one: {base: base, provisioner: one}
  two: {base: base, overlays: [one], provisioner: two, format: [cpio.gz, cpio.zst]}
  boot: {kind: initrd, base: base, provisioner: kernel}\n",
        );
        site
    }

    fn write(&self, name: &str, content: &str) -> PathBuf {
        self.stage.write(format!("project/{name}"), content)
    }

    fn provisioner(&self, name: &str, content: &str) {
        self.write(&format!("{name}/provisioner.yml"), content);
    }

    /// Writes the project file, with these images.
    fn project(&self, images: &str) {
        self.settings("", images);
    }

    fn settings(&self, settings: &str, images: &str) {
        for who in BOTH_USERS {
            let text = format!(
                "output: {}\nnetwork: none\nsource_date_epoch: {EPOCH}\n{settings}images:\n{images}",
                self.out(who).display()
            );
            self.write(&format!("{who:?}.yml"), &text);
        }
    }

    fn edit(&self, name: &str, from: &str, to: &str) {
        let path = self.stage.path(format!("project/{name}"));
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(path, text.replace(from, to)).unwrap();
    }

    /// Changes the project files of both users.
    fn edit_project(&self, from: &str, to: &str) {
        BOTH_USERS.iter().for_each(|who| self.edit(&format!("{who:?}.yml"), from, to));
    }

    fn out(&self, who: Who) -> PathBuf {
        self.stage.out(who).join("artifacts")
    }

    fn command(&self, who: Who, arguments: &[&str]) -> Command {
        let mut command = self.stage.overcoat(who);
        command.arg("build").arg("--project").arg(self.file(who)).args(arguments);
        command
    }

    /// Returns the project file of `who`.
    fn file(&self, who: Who) -> PathBuf {
        self.stage.path(format!("project/{who:?}.yml"))
    }

    fn run(&self, who: Who, arguments: &[&str]) -> Finished {
        finish(&mut self.command(who, arguments))
    }

    /// Builds, and returns the name and state of each image in order.
    fn states(&self, who: Who, arguments: &[&str]) -> Vec<(String, String)> {
        let report = self.report(self.run(who, &[arguments, &["--json"]].concat()).ok());
        report.iter().map(|image| (text(image, "name"), text(image, "state"))).collect()
    }

    fn report(&self, finished: Finished) -> Vec<Value> {
        let report: Value = serde_json::from_slice(&finished.stdout).unwrap();
        assert_eq!(report["schema"], 2);
        report["images"].as_array().unwrap().clone()
    }

    /// Builds, and returns the names of the images that were built.
    fn built(&self, who: Who, arguments: &[&str]) -> Vec<String> {
        let states = self.states(who, arguments);
        states.into_iter().filter(|(_, state)| state == "built").map(|(name, _)| name).collect()
    }

    fn files(&self, who: Who) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.out(who))
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != ".overcoat")
            .collect();
        names.sort();
        names
    }
}

fn owned((name, state): (&str, &str)) -> (String, String) {
    (name.to_owned(), state.to_owned())
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}

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
    site.built(who, &[]);
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
fn named_images_and_their_needs_are_built() {
    let site = Site::new();
    let who = Who::Unprivileged;
    assert_eq!(site.built(who, &["two"]), ["base", "one", "two"]);
    assert_eq!(site.built(who, &["two", "--force"]), ["two"]);
    assert_eq!(site.built(who, &["boot", "-j", "1"]), ["boot"]);
    site.run(who, &["tow"]).code(2).stderr_has(&["has no image `tow`", "did you mean `two`?"]);
    site.run(who, &["-o", "x.cpio.gz"])
        .code(2)
        .stderr_has(&["--output writes a single image: name one image of the project"]);
}

/// The next base is built beside the present one, which stays in use.
#[test]
fn image_is_built_to_another_file() {
    let site = Site::new();
    let who = Who::Unprivileged;
    site.built(who, &[]);
    let out = site.out(who);
    let contents = || -> Vec<Vec<u8>> {
        let records = ["base", "one"].map(|name| format!(".overcoat/{name}.json"));
        let files = site.files(who).into_iter().chain(records);
        files.map(|name| fs::read(out.join(name)).unwrap()).collect()
    };
    let before = contents();
    let next = site.stage.out(who).join("next.squashfs");
    let next = next.to_str().unwrap();
    site.stage.sh("echo next >tree/etc/next");
    let states = site.states(who, &["base", "-n", "-o", next]);
    assert_eq!(states, [("base", "due")].map(owned));
    let report = site.report(site.run(who, &["base", "-o", next, "--json"]).ok());
    assert_eq!(text(&report[0]["outputs"][0], "output"), next);
    assert_eq!(report[0]["reasons"][0], "--output was given");
    assert!(contents() == before);
    let ls = |image: &str| {
        let mut command = site.stage.overcoat(who);
        finish(command.args(["ls", image, ":/etc/next"])).code
    };
    let own = out.join("base.squashfs");
    assert_eq!((ls(next), ls(own.to_str().unwrap())), (0, 1));
    assert!(Path::new(&format!("{next}.manifest.json")).exists());
    // The overlays are checked on it, and then the project's own base is built.
    let mut check = site.stage.overcoat(who);
    check.arg("check").arg("-p").arg(site.file(who)).args(["--base", next]);
    assert!(finish(&mut check).code(0).text().contains("one: fits"));
    assert_eq!(site.built(who, &[]), ["base"]);
    assert_eq!(ls(own.to_str().unwrap()), 0);

    // An image that it needs is built as usual.
    site.write("base/files/etc/again", "again\n");
    let other = site.stage.out(who).join("other.cpio");
    let other = other.to_str().unwrap();
    let log = site.stage.out(who).join("log");
    let log = ["--log", log.to_str().unwrap()];
    let built = site.built(who, &[&["one", "--output", other][..], &log].concat());
    assert_eq!(built, ["base", "one"]);
    assert!(fs::read(other).unwrap().starts_with(b"07070"));
    assert!(out.join("base.squashfs.manifest.json").exists());
    assert_eq!(site.built(who, &["one"]), [] as [&str; 0]);

    let own = out.join("../artifacts/two.cpio.gz.manifest.json");
    for (arguments, error) in [
        (&["one", "two", "-o", "x.cpio.gz"][..], "--output writes a single image"),
        (&["one", "-o", "-"], "cannot go to standard output: give a file"),
        (&["boot", "-o", "x.cpio.gz"], "but boot yields several"),
        (&["one", "-o", "x"], "x: unknown format"),
        (&["one", "-o", own.to_str().unwrap()], "manifest.json is an artifact of two"),
        (&["one", "--format", "tar"], "--format is for a single image"),
        (&["none", "-o", "x.cpio.gz"], "has no image `none`"),
    ] {
        site.run(who, arguments).code(2).stderr_has(&[error]);
    }
}

/// Options of the command line do not apply to images that the named ones need.
#[test]
fn options_apply_to_named_images_only() {
    let site = Site::new();
    let who = Who::Unprivileged;
    site.stage.sh("mkdir shared; echo shared >shared/file");
    let bind = format!("--bind={}:/mnt:ro", site.stage.path("shared").display());
    site.built(who, &["base"]);
    for option in [&*bind, "--level=1", "--no-manifest", "--network=host", "--ansible=--check"] {
        let states = site.states(who, &["one", "-n", option]);
        assert_eq!(states[0], ("base".to_owned(), "up_to_date".to_owned()), "{option}");
    }
    // A base that is built for a named image has no options either.
    site.write("base/files/etc/again", "again\n");
    let options = ["one", &bind, "--no-manifest", "--level", "1"];
    assert_eq!(site.built(who, &options), ["base", "one"]);
    let manifest = |name: &str| site.out(who).join(format!("{name}.manifest.json")).exists();
    assert!(manifest("base.squashfs") && !manifest("one.cpio.gz"));
    assert_eq!(site.built(who, &["one"]), ["one"]);
    assert_eq!(site.built(who, &["base"]), [] as [&str; 0]);
    // The options of an image that is named later are a reason to build it.
    assert_eq!(site.built(who, &["base", "--level", "1"]), ["base"]);
    assert_eq!(site.built(who, &["one"]), [] as [&str; 0]);
    let states = site.states(who, &["-n"]);
    assert_eq!(states[..2], [("base", "due"), ("one", "up_to_date")].map(owned));
}

#[test]
fn project_is_found_from_its_subdirectories() {
    let site = Site::new();
    let text = fs::read_to_string(site.stage.path("project/Unprivileged.yml")).unwrap();
    site.write("overcoat.yml", &text);
    let who = Who::Unprivileged;
    let build = |folder: &str, arguments: &[&str]| {
        let mut command = site.stage.overcoat(who);
        finish(command.current_dir(site.stage.path(folder)).arg("build").args(arguments))
    };
    build("project/one/files", &["one"]).ok().stderr_has(&["2 images: 0 up to date, 2 built"]);
    build("project", &["one"]).ok().stderr_has(&["2 images: 2 up to date"]);
    build(".", &["project", "one"]).ok().stderr_has(&["2 images: 2 up to date"]);
    build(".", &["project/overcoat.yml", "one"]).ok().stderr_has(&["2 images: 2 up to date"]);
    build(".", &[]).code(2).stderr_has(&["no overcoat.yml in this directory or its parents"]);
    build(".", &["nothing"]).code(2).stderr_has(&["no file nothing, and no overcoat.yml"]);
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
fn failed_image_skips_its_dependents_and_keeps_finished_images() {
    let site = Site::new();
    let who = Who::Unprivileged;
    site.write("one/do", "echo doomed; exit 3\n");
    let finished = site.run(who, &["--json", "-j", "1"]).code(1);
    assert!(finished.stderr.contains("doomed"), "{}", finished.stderr);
    let states: Vec<_> = site
        .report(finished)
        .iter()
        .map(|image| (text(image, "name"), text(image, "state")))
        .collect();
    let states: Vec<_> = states.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    let failed = [("base", "built"), ("one", "failed"), ("two", "skipped"), ("boot", "not_begun")];
    assert_eq!(states, failed);
    let base = ["base.squashfs", "base.squashfs.manifest.json", "one.cpio.gz.log"];
    assert_eq!(site.files(who), base);
    // The base is not built again.
    site.write("one/do", "touch /etc/well\n");
    assert_eq!(site.built(who, &[]), ["one", "two", "boot"]);
}

#[test]
fn errors_and_killed_child_processes_are_reported() {
    let site = Site::new();
    let who = Who::Unprivileged;
    site.write("one/do", "echo doomed; exit 3\n");
    let report = site.report(site.run(who, &["one", "--json"]).code(1));
    let error = text(&report[1], "error");
    assert!(error.contains("the step \"script do\" failed") && error.contains("doomed"), "{error}");
    // The first child of the command is the process that builds the image.
    site.write("one/do", "echo READY; while :; do sleep 1; done\n");
    let mut command = site.command(who, &["one", "--json", "-v"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "READY"));
    let worker = family(child.id())[1];
    kill(Pid::from_raw(worker as i32), Signal::SIGKILL).unwrap();
    let rest: Vec<String> = lines.map(Result::unwrap).collect();
    assert!(
        rest.iter().any(|line| line.contains("one: not built: its process was killed by signal 9"))
    );
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn output_that_is_a_layer_is_rejected() {
    let site = Site::new();
    let who = Who::Unprivileged;
    site.built(who, &["base"]);
    let base = site.out(who).join("base.squashfs");
    let before = fs::read(&base).unwrap();
    let error = "cannot overwrite a layer of the image itself";
    let again = format!("  a: {{base: {}, output: base.squashfs}}\n", base.display());
    site.project(&again);
    site.run(who, &[]).code(2).stderr_has(&[error]);
    let run =
        |arguments: &[&str]| finish(site.stage.overcoat(who).arg("run").arg(&base).args(arguments));
    let saved = base.display().to_string();
    run(&["--save", &saved, "--", "true"]).code(2).stderr_has(&[error]);
    assert!(fs::read(&base).unwrap() == before);
}

#[test]
fn project_options_are_rejected_for_image_files() {
    let site = Site::new();
    let image = site.write("image.yml", "base: ../tree\noutput: image.cpio.gz\n");
    for option in ["-n", "--explain", "--rebase", "--force", "-j2"] {
        let mut command = site.stage.overcoat(Who::Unprivileged);
        finish(command.arg("build").arg(&image).arg(option))
            .code(2)
            .stderr_has(&["is for projects"]);
    }
    assert!(!site.stage.path("project/image.cpio.gz").exists());
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
    site.run(who, &["-n", "b"]).code(2).stderr_has(&[
        "b: error: ",
        "images.b.from: `./nothing.tar` does not exist",
        "1 image: ",
    ]);
}

#[test]
fn leftover_outputs_are_reported_and_old_logs_removed() {
    let site = Site::new();
    let who = Who::Unprivileged;
    site.built(who, &[]);
    site.edit_project("format: [cpio.gz, cpio.zst]", "format: [cpio.gz]");
    site.run(who, &[])
        .ok()
        .stderr_has(&["two: ", "two.cpio.zst is a leftover of an earlier build"]);
    site.write("one/do", "exit 1\n");
    site.run(who, &["one"]).code(1);
    assert!(site.files(who).contains(&"one.cpio.gz.log".to_owned()));
    site.write("one/do", "touch /etc/one\n");
    site.built(who, &["one"]);
    assert!(!site.files(who).contains(&"one.cpio.gz.log".to_owned()));
}

#[test]
fn independent_images_are_built_in_parallel() {
    let site = Site::new();
    let who = Who::Unprivileged;
    let meeting = site.stage.out(who).join("meeting");
    fs::create_dir(&meeting).unwrap();
    site.stage.give(&meeting, who);
    // The script of each image waits for that of the other.
    for (name, other) in [("one", "two"), ("two", "one")] {
        site.provisioner(name, "scripts: [do]\n");
        let script = format!("touch /m/{name}; until [ -e /m/{other} ]; do sleep 0.01; done\n");
        site.write(&format!("{name}/do"), &script);
    }
    site.project(
        "  base: {kind: base, from: ../tree}
  one: {base: base, provisioner: one}
  two: {base: base, provisioner: two}\n",
    );
    let bind = format!("{}:/m", meeting.display());
    let finished = site.run(who, &["-j", "2", "--bind", &bind]).ok();
    finished.stderr_has(&[
        "overcoat: one: built",
        "overcoat: two: built",
        "3 images: 0 up to date, 3 built",
    ]);
}

#[test]
fn termination_of_a_build_ends_all_its_processes() {
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let site = Site::new();
        let who = Who::Unprivileged;
        for name in ["one", "two"] {
            site.provisioner(name, "scripts: [do]\n");
            site.write(&format!("{name}/do"), "echo READY; while :; do sleep 1; done\n");
        }
        site.project(
            "  base: {kind: base, from: ../tree}
  one: {base: base, provisioner: one}
  two: {base: base, provisioner: two}\n",
        );
        let mut command = site.command(who, &["-j", "2", "-v"]);
        command.stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let ready = lines.by_ref().filter(|line| line.as_ref().is_ok_and(|l| l == "READY"));
        assert_eq!(ready.take(2).count(), 2);
        let reading = std::thread::spawn(move || lines.count());
        let family = family(child.id());
        assert!(family.len() > 8, "{family:?}");
        // A second build is rejected meanwhile.
        site.run(who, &[]).code(2).stderr_has(&["another `overcoat build` is running"]);
        kill(Pid::from_raw(child.id() as i32), signal).unwrap();
        child.wait().unwrap();
        within(LIMIT, "all processes have ended", || alive(&family).is_empty());
        reading.join().unwrap();
        assert_eq!(site.files(who), ["base.squashfs", "base.squashfs.manifest.json"], "{signal}");
        // The next build continues.
        site.write("one/do", "touch /etc/one\n");
        site.write("two/do", "touch /etc/two\n");
        assert_eq!(site.built(who, &[]), ["one", "two"]);
    }
}

#[test]
fn yields_must_match_exactly_one_file() {
    let site = Site::new();
    let who = Who::Unprivileged;
    site.write("kernel/do", "echo k >/boot/vmlinuz-6.1; echo k >/boot/vmlinuz-6.5\n");
    site.run(who, &["boot"]).code(1).stderr_has(&[
        "vmlinuz: /boot/vmlinuz-* matches /boot/vmlinuz-6.1 and /boot/vmlinuz-6.5: write a pattern \
         that matches one file",
    ]);
    site.write("kernel/do", "echo k >/boot/vmlinuz-6.1\n");
    site.run(who, &["boot"])
        .code(1)
        .stderr_has(&["initrd.img: the root has no /boot/initrd.img-*"]);
    assert!(!site.files(who).iter().any(|name| name == "vmlinuz"), "all yields or none");
}

#[test]
fn base_can_be_built_from_any_root_file_system() {
    let site = Site::new();
    let who = Who::Unprivileged;
    site.stage.sh(
        "cd tree && ln etc/conf etc/link && chown 7:8 etc/conf && mknod srv/disk b 8 1 && mkfifo srv/pipe
         chmod 4755 bin/busybox; truncate -s 1M etc/hole; echo end >>etc/hole; mkdir -m 1777 tmp
         tar --numeric-owner --sort=name -cf ../tree.tar . && cd ..
         gzip -k tree.tar; xz -k tree.tar; zstd -q -k tree.tar
         mksquashfs tree tree.squashfs -quiet -no-progress
         (cd tree && find . | cpio -o -H newc --quiet | gzip) >tree.cpio.gz",
    );
    let names = [
        "tree",
        "tree.tar",
        "tree.tar.gz",
        "tree.tar.xz",
        "tree.tar.zst",
        "tree.squashfs",
        "tree.cpio.gz",
    ];
    let images: String = names
        .iter()
        .enumerate()
        .map(|(i, name)| format!("  b{i}: {{kind: base, from: ../{name}, format: tar}}\n"))
        .collect();
    site.project(&images);
    site.run(who, &[]).ok();
    let read = |i: usize| fs::read(site.out(who).join(format!("b{i}.tar"))).unwrap();
    let listed = |i: usize| {
        let path = site.out(who).join(format!("b{i}.tar"));
        site.stage.sh(&format!("tar --numeric-owner -tvf '{}'", path.display()))
    };
    for (i, name) in names.iter().enumerate() {
        // cpio stores holes as zeros and hard links in another order.
        assert!(read(i) == read(0), "{name}:\n{}\n{}", listed(i), listed(0));
    }
    let all = listed(0);
    for wanted in ["brw-r--r-- 0/0 ", "hrw-r--r-- 7/8", "prw-r--r--", "-rwsr-xr-x"] {
        assert!(all.contains(wanted), "no {wanted}\n{all}");
    }
    site.project("  b: {kind: base, from: ../tree.tar.bz2}\n");
    site.stage.sh("echo 'BZh91AY&SY' >tree.tar.bz2");
    site.run(who, &[]).code(2).stderr_has(&["tree.tar.bz2: not a tar archive"]);
    site.stage.sh("head -c 100000 tree.tar.gz >tree.tar.bz2");
    site.run(who, &[]).code(2).stderr_has(&["tree.tar.bz2"]);
    assert!(!site.files(who).iter().any(|name| name.starts_with("b.")));
}

#[test]
fn project_settings_are_defaults_that_images_override() {
    let site = Site::new();
    site.stage.sh("mkdir -p tree/etc/apt");
    let who = Who::Unprivileged;
    site.provisioner("one", "variables: {greeting: hi, place: here}\nscripts: [do]\n");
    site.write("one/do", "echo $OVERCOAT_VAR_greeting $OVERCOAT_VAR_place >/etc/printed\ngrep Proxy /etc/apt/apt.conf >/etc/apt.conf || :\n");
    site.write("vars/three.yml", "provisioner: one\ngreeting: from the file\nplace: there\n");
    site.settings(
        "variables: {greeting: hello}\napt_proxy: http://cache.example.org:3142\n",
        "  base: {kind: base, from: ../tree}
  one: {base: base, provisioner: one, variables: {greeting: own}}
  two: {base: base, provisioner: one}
  three: {base: base, config_file: vars/three.yml, variables: {place: own}}\n",
    );
    site.run(who, &[]).ok();
    let read = |image: &str, file: &str| {
        site.stage.archived_file(&site.out(who).join(format!("{image}.cpio.gz")), file)
    };
    assert_eq!(read("one", "etc/printed"), "own here\n");
    assert_eq!(read("two", "etc/printed"), "hello here\n");
    assert_eq!(read("three", "etc/printed"), "from the file own\n");
    let conf = read("one", "etc/apt.conf");
    assert!(conf.contains("Acquire::http::Proxy \"http://cache.example.org:3142\";"), "{conf}");
    site.edit("vars/three.yml", "from the file", "else");
    assert_eq!(site.built(who, &[]), ["three"]);
}

#[test]
fn json_report_is_alone_on_standard_output() {
    let site = Site::new();
    let images = site.report(site.run(Who::Unprivileged, &["--json", "two"]).ok());
    assert_eq!(images.len(), 3);
    let outputs = images[2]["outputs"].as_array().unwrap();
    assert_eq!(outputs.len(), 2);
    for output in outputs {
        let bytes = fs::read(text(output, "output")).unwrap();
        assert_eq!(output["size"], bytes.len());
    }
    let mut quiet = site.command(Who::Unprivileged, &[]);
    assert!(finish(&mut quiet).ok().stdout.is_empty());
}
