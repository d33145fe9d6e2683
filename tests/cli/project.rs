//! Project builds: images, options, outputs, processes. `staleness` tests which images are built.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::project_fixture::{Site, owned, text};
use crate::support::processes::{alive, family, within};
use crate::support::stage::{Who, finish};

const LIMIT: Duration = Duration::from_secs(60);

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
fn failed_image_skips_its_dependents_and_keeps_finished_images() {
    let site = Site::new();
    let who = Who::Unprivileged;
    site.write("one/do", "echo doomed; exit 3\n");
    let finished = site.run(who, &["--json", "-j", "1"]).code(1);
    assert!(finished.stderr.contains("doomed"), "{}", finished.stderr);
    let failed = [("base", "built"), ("one", "failed"), ("two", "skipped"), ("boot", "not_begun")];
    let failed = failed.map(|(name, state)| (name.to_owned(), state.to_owned()));
    assert_eq!(site.reported_states(finished), failed);
    let base = ["base.squashfs", "base.squashfs.manifest.json", "one.cpio.gz.log"];
    assert_eq!(site.files(who), base);
    // The base is not built again.
    site.write("one/do", "touch /etc/well\n");
    assert_eq!(site.built(who, &[]), ["one", "two", "boot"]);
}

#[test]
fn keep_going_builds_images_that_do_not_need_the_failed_one() {
    let site = Site::new();
    let who = Who::Unprivileged;
    site.write("one/do", "echo doomed; exit 3\n");
    for jobs in ["-j1", "-j4"] {
        let finished = site.run(who, &["--json", "-k", "--force", jobs]).code(1);
        let not_built = "two: not built: it needs one";
        assert!(finished.stderr.contains(not_built), "{}", finished.stderr);
        assert!(!finished.stderr.contains("not started"), "{}", finished.stderr);
        let wanted = [("base", "built"), ("one", "failed"), ("two", "skipped"), ("boot", "built")];
        let wanted = wanted.map(|(name, state)| (name.to_owned(), state.to_owned()));
        assert_eq!(site.reported_states(finished), wanted, "{jobs}");
    }
    let finished = site.run(who, &["--force", "-j1"]).code(1);
    finished.stderr_has(&["boot: not started after the failure; --keep-going builds it"]);
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
    site.run(who, &[]).code(2).stderr_has(&["`a` is built from its own artifact"]);
    let run =
        |arguments: &[&str]| finish(site.stage.overcoat(who).arg("run").arg(&base).args(arguments));
    let saved = base.display().to_string();
    run(&["--save", &saved, "--", "true"]).code(2).stderr_has(&[error]);
    assert!(fs::read(&base).unwrap() == before);
}

/// An input of another image of the project, and one of an image file.
#[test]
fn output_that_is_an_input_is_rejected() {
    let site = Site::new();
    let who = Who::Unprivileged;
    site.built(who, &["base"]);
    let out = site.out(who);
    let (built, other) = (out.join("base.squashfs"), out.join("other.squashfs"));
    fs::copy(&built, &other).unwrap();
    site.stage.give(&other, who);
    site.edit_project("  boot:", &format!("  on_other: {{base: {}}}\n  boot:", other.display()));
    let before = fs::read(&other).unwrap();
    let path = other.display().to_string();
    let error = format!("{path} would be a layer, which on_other is built from: give another file");
    site.run(who, &["base", "-o", &path]).code(2).stderr_has(&[&error]);
    let run = ["base", "--save", &path, "--", "true"];
    site.finish(who, "run", &run).code(2).stderr_has(&[&error]);
    let provisioner = site.stage.path("project/one/provisioner.yml").display().to_string();
    let log = out.join("x.squashfs").display().to_string();
    site.run(who, &["base", "-o", &log, "--log", &provisioner])
        .code(2)
        .stderr_has(&["which one is built from"]);
    let image = format!("kind: base\nfrom: {path}\nprovisioner: base\n");
    let image = site.write("image.yml", &image);
    for file in [&path, &image.display().to_string()] {
        let mut command = site.stage.overcoat(who);
        command.arg("base").arg(&image).args(["-o", file, "--format", "squashfs"]);
        finish(&mut command).code(2).stderr_has(&["which the image is built from"]);
    }
    assert!(fs::read(&other).unwrap() == before);
}

/// The output directory is in the directory that becomes a base.
#[test]
fn results_are_no_part_of_an_imported_root() {
    let site = Site::new();
    let who = Who::Unprivileged;
    site.stage.sh("cp -r tree tree2");
    let tree = site.stage.path("tree2");
    site.stage.give(&tree, who);
    let project = site.stage.path("tree2/own.yml");
    fs::write(&project, "network: none\nimages: {base: {kind: base, from: .}}\n").unwrap();
    let build = || finish(site.stage.overcoat(who).args(["build", "-p"]).arg(&project));
    build().ok().stderr_has(&["1 built"]);
    build().ok().stderr_has(&["1 up to date, 0 built"]);
    fs::write(tree.join("etc/conf"), "two").unwrap();
    build().ok().stderr_has(&["1 built"]);
    let listed = finish(site.stage.overcoat(who).arg("tree").arg(tree.join("build/base.squashfs")));
    let listed = String::from_utf8(listed.ok().stdout.clone()).unwrap();
    assert!(listed.contains("conf") && !listed.contains("build"), "{listed}");
}

#[test]
fn project_options_are_rejected_for_image_files() {
    let site = Site::new();
    let image = site.write("image.yml", "base: ../tree\noutput: image.cpio.gz\n");
    for option in ["-n", "--explain", "--rebase", "--force", "-j2", "-k"] {
        let mut command = site.stage.overcoat(Who::Unprivileged);
        finish(command.arg("build").arg(&image).arg(option))
            .code(2)
            .stderr_has(&["is for projects"]);
    }
    assert!(!site.stage.path("project/image.cpio.gz").exists());
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
        site.run(who, &[])
            .code(2)
            .stderr_has(&["another overcoat command is changing the results"]);
        site.finish(who, "clean", &[])
            .code(2)
            .stderr_has(&["another overcoat command is changing the results"]);
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
    site.write("one/do", "echo $OVERCOAT_VAR_greeting $OVERCOAT_VAR_place >/etc/printed\nsed -n 's/.*::http::Proxy \"\\(.*\\)\";.*/\\1/p' /etc/apt/apt.conf >/etc/proxy\n");
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
    assert_eq!(read("one", "etc/proxy"), "http://cache.example.org:3142\n");
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
