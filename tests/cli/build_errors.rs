//! Projects that cannot be built, and what is said of it: each with the whole message, in
//! `tests/cli/build_errors`. Mistakes that are found in the files alone are in the crate
//! `provisioners` (`tests/mistakes`).
//!
//! `UPDATE_BUILD_ERRORS=1 cargo test --test cli build_errors` writes the messages anew.

use std::fs;
use std::path::Path;

use crate::support::stage::{Stage, Who, finish};

/// A project of one overlay on the lab's base, that a test makes wrong.
struct Broken {
    stage: Stage,
}

impl Broken {
    fn new(settings: &str, image: &str, provisioner: &str) -> Self {
        let stage = Stage::new();
        let broken = Broken { stage };
        broken.write("p/provisioner.yml", provisioner);
        let base = broken.stage.debian();
        broken.write(
            "overcoat.yml",
            &format!(
                "output: ../user/out\nnetwork: none\n{settings}images:\n  image:\n    base: {}\n    \
                 provisioner: p\n{image}",
                base.display()
            ),
        );
        broken
    }

    fn write(&self, name: &str, content: &str) {
        self.stage.write(format!("project/{name}"), content);
    }

    /// Builds it, which fails with this code and the message of the table.
    fn says(&self, name: &str, code: i32, arguments: &[&str], environment: &[(&str, &str)]) {
        let mut command = self.stage.overcoat(Who::Unprivileged);
        command.current_dir(self.stage.path("project")).arg("build").args(arguments);
        command.envs(environment.iter().copied());
        let finished = finish(&mut command).code(code);
        let message = self.plain(&finished.stderr);
        let file = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join(format!("tests/cli/build_errors/{name}.txt"));
        if std::env::var_os("UPDATE_BUILD_ERRORS").is_some() {
            fs::write(&file, &message).unwrap();
        }
        let wanted = fs::read_to_string(&file).unwrap_or_default();
        assert!(message == wanted, "{name}: wanted\n{wanted}\nfound\n{message}");
        let out = self.stage.out(Who::Unprivileged).join("out");
        let left = fs::read_dir(out).into_iter().flatten().map(|e| e.unwrap().file_name());
        let left: Vec<_> =
            left.filter(|n| n != ".overcoat" && !n.to_string_lossy().ends_with(".log")).collect();
        assert!(left.is_empty(), "{name}: {left:?}");
    }

    /// A message without what is of this run alone: where it was made, and how long it took.
    fn plain(&self, message: &str) -> String {
        let message =
            message.replace(&format!("{}/", self.stage.path("").display()).replace("//", "/"), "");
        let mut plain = String::new();
        for line in message.lines() {
            let words: Vec<String> = line.split(' ').map(without_time).collect();
            // As many stars as Ansible has room for.
            plain.push_str(words.join(" ").trim_end().trim_end_matches('*').trim_end());
            plain.push('\n');
        }
        plain
    }
}

/// A word, with `N` for seconds with one digit after the point.
fn without_time(word: &str) -> String {
    let number = word.trim_matches(['(', ')']);
    let is_time = number.split_once('.').is_some_and(|(whole, part)| {
        part.len() == 1 && [whole, part].iter().all(|digits| digits.parse::<u32>().is_ok())
    });
    if is_time { word.replace(number, "N") } else { word.to_owned() }
}

#[test]
fn a_failing_script_is_told_with_its_last_words() {
    let broken = Broken::new("", "", "scripts: [fail.sh]\n");
    broken.write("p/fail.sh", "echo before\necho 'cannot find the thing' >&2\nexit 7\n");
    broken.says("script", 1, &[], &[]);
    let log = fs::read_to_string(broken.stage.path("user/out/image.cpio.gz.log")).unwrap();
    assert!(log.contains("before\ncannot find the thing\n"), "{log}");
}

#[test]
fn a_failing_task_of_a_role_is_told_with_its_last_words() {
    let broken = Broken::new("", "", "");
    fs::remove_file(broken.stage.path("project/p/provisioner.yml")).unwrap();
    broken.write("p/tasks/main.yml", "- {name: doomed, command: /no/such/program}\n");
    broken.says("task", 1, &[], &[]);
}

#[test]
fn a_program_of_the_host_that_is_missing_is_told_with_how_to_get_it() {
    let broken = Broken::new("", "", "");
    fs::remove_file(broken.stage.path("project/p/provisioner.yml")).unwrap();
    broken.write("p/tasks/main.yml", "- {name: x, command: \"true\"}\n");
    let path = broken.stage.path("programs");
    fs::create_dir(&path).unwrap();
    broken
        .stage
        .sh("for p in setpriv newuidmap newgidmap; do ln -s $(command -v $p) programs/; done");
    let path = path.display().to_string();
    broken.says("no-ansible", 2, &[], &[("PATH", &path)]);
}

#[test]
fn a_mirror_that_does_not_answer_is_told() {
    let broken = Broken::new("", "", "");
    broken.write("p/provisioner.yml", "steps: [{files: files}, {packages: [lsscsi]}]\n");
    broken.write("p/files/etc/apt/sources.list", "deb [trusted=yes] http://127.0.0.1:9 ./\n");
    broken.says("mirror", 1, &[], &[]);
}

#[test]
fn a_mirror_that_does_not_answer_is_told_for_a_base_too() {
    let broken = Broken::new("", "", "");
    broken.write(
        "overcoat.yml",
        "output: ../user/out\nmirror: http://127.0.0.1:9/debian\n\
         images: {base: {kind: base, release: bookworm}}\n",
    );
    let mut command = broken.stage.overcoat(Who::Unprivileged);
    command.current_dir(broken.stage.path("project")).arg("build");
    // What apt says besides differs from version to version.
    let wanted = ["mmdebstrap failed", "http://127.0.0.1:9/debian", "the whole log is in"];
    finish(&mut command).code(2).says(&wanted);
    let log = fs::read_to_string(broken.stage.path("user/out/base.squashfs.log")).unwrap();
    assert!(log.contains("127.0.0.1:9"), "{log}");
}

#[test]
fn a_package_that_no_source_has_is_told() {
    let broken = Broken::new("", "", "steps: [{files: files}, {packages: [lscsi]}]\n");
    broken.write("p/files/etc/apt/sources.list", "deb [trusted=yes] file:/repo ./\n");
    let bind = format!("{}:/repo:ro", broken.stage.lab().join("repo").display());
    let mut command = broken.stage.overcoat(Who::Unprivileged);
    command.current_dir(broken.stage.path("project")).args(["build", "--bind", &bind]);
    // What apt says besides differs from version to version.
    finish(&mut command).code(1).says(&["packages (1)", "Unable to locate package lscsi"]);
}

#[test]
fn a_full_upper_is_told() {
    let broken = Broken::new("upper_size: 8M\n", "", "scripts: [fill.sh]\n");
    broken.write("p/fill.sh", "head -c 100000000 /dev/urandom >/srv/big\n");
    broken.says("full", 1, &[], &[]);
}

#[test]
fn layers_that_are_not_there_or_damaged_are_told() {
    let broken = Broken::new("", "", "");
    let project = |base: &str| {
        broken.write(
            "overcoat.yml",
            &format!("output: ../user/out\nimages: {{image: {{base: {base}}}}}\n"),
        );
    };
    project("./base.squashfs");
    broken.says("no-base", 2, &[], &[]);
    broken.write("base.squashfs", "hsqs, and nothing more");
    broken.says("damaged-base", 2, &[], &[]);
    broken.write("base.squashfs", "what is this");
    broken.says("unknown-base", 2, &[], &[]);
    broken.write(
        "overcoat.yml",
        "output: ../user/out\nimages: {base: {kind: base, from: nothing.tar}}\n",
    );
    broken.says("no-from", 2, &[], &[]);
    broken.write("nothing.tar", "");
    broken.says("empty-from", 2, &[], &[]);
}

#[test]
fn what_a_template_does_not_find_is_told_before_anything_is_done() {
    let broken = Broken::new("", "", "variables: {interval: 3}\nfiles: files\n");
    broken.write("p/files/etc/x.j2", "every {{ intervall }}\n");
    broken.says("template", 2, &[], &[]);
}

#[test]
fn what_matches_nothing_is_told() {
    let broken = Broken::new("", "", "attributes: {/etc/ghost/*: {mode: \"0600\"}}\n");
    broken.says("attributes", 1, &[], &[]);
    broken.write("p/provisioner.yml", "attributes: {/etc/hostname: {owner: nosuch}}\n");
    broken.says("owner", 1, &[], &[]);
    broken.write("p/provisioner.yml", "");
    let text = fs::read_to_string(broken.stage.path("project/overcoat.yml")).unwrap();
    broken.write("overcoat.yml", &format!("{text}    kind: initrd\n"));
    broken.says("yields", 1, &[], &[]);
}

#[test]
fn a_folder_that_cannot_be_written_is_told() {
    let broken = Broken::new("", "", "");
    let text = fs::read_to_string(broken.stage.path("project/overcoat.yml")).unwrap();
    broken.write("overcoat.yml", &text.replace("../user/out", "../root/out"));
    broken.says("folder", 2, &[], &[]);
}

#[test]
fn a_name_that_is_not_in_the_project_is_told() {
    let broken = Broken::new("", "", "");
    broken.says("name", 2, &["imgae"], &[]);
    broken.says("option", 2, &["-o", "x.cpio.gz"], &[]);
}

#[test]
fn a_time_that_is_none_is_told() {
    let broken = Broken::new("", "", "");
    broken.says("epoch", 2, &[], &[("SOURCE_DATE_EPOCH", "yesterday")]);
}
