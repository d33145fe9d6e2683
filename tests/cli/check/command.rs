//! The command line of `check`: selection of images, output, exit codes, JSON and SARIF.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::programs::programs;
use super::{Pair, base, clean, findings, names, run};
use crate::support::newc::Archive;

/// A project with an overlay that has a note, a warning and an error.
fn project(check: &str) -> Pair {
    let mut overlay = clean();
    overlay.file("usr/share/man/man1/tool.1.gz", "manual");
    overlay.put("opt/all", 0o040777, "");
    overlay.file("root/.netrc", "machine a.org login b password c\n");
    let pair = Pair::new(&base(), &overlay.gzip());
    fs::write(pair.path("base.cpio.gz"), crate::support::newc::gzip(&base().bytes())).unwrap();
    let project = format!("output: .\nimages:\n  o:\n    base: ./base.cpio\n{check}");
    fs::write(pair.path("overcoat.yml"), project).unwrap();
    pair
}

#[test]
fn exit_code_depends_on_severity_and_deny() {
    let pair = project("");
    let code =
        |arguments: &[&str]| pair.check(&[&["base.cpio", "o.cpio.gz"], arguments].concat()).code;
    assert_eq!(code(&[]), 1);
    assert_eq!(code(&["--skip", "safe/credentials"]), 0);
    assert_eq!(code(&["--skip", "safe/credentials", "--deny", "warning"]), 1);
    assert_eq!(code(&["--skip", "safe", "--deny", "warning"]), 0);
    assert_eq!(code(&["--only", "lean", "--deny", "note"]), 1);
    assert_eq!(code(&["--only", "works", "--deny", "note"]), 0);
    assert_eq!(pair.check(&["base.cpio", "none.cpio.gz"]).code, 2);
    // A lower layer that cannot be read is an error.
    fs::write(pair.path("broken.cpio"), "070701 and so on").unwrap();
    assert_eq!(pair.check(&["broken.cpio", "o.cpio.gz"]).code, 2);
    // So is an unreadable archive if its lint is disabled.
    assert_eq!(pair.check(&["base.cpio", "broken.cpio", "--only", "works"]).code, 2);
    assert_eq!(pair.check(&["base.cpio", "broken.cpio"]).code, 1);
}

#[test]
fn output_names_layer_path_and_fix() {
    let pair = project("");
    pair.snapshot("output_names_layer_path_and_fix", &["check base.cpio o.cpio.gz"]);
}

#[test]
fn many_findings_are_abbreviated() {
    let mut overlay = Archive::new();
    for number in 0..25 {
        overlay.put(&format!("opt/{number:02}"), 0o040777, "");
    }
    let pair = Pair::new(&base(), &overlay.gzip());
    let output = pair.check(&["base.cpio", "o.cpio.gz"]);
    assert_eq!(output.stdout.matches("o.cpio.gz:/opt/").count(), 10);
    pair.snapshot("many_findings_are_abbreviated", &["check base.cpio o.cpio.gz"]);
    for all in ["--all", "-v"] {
        let output = pair.check(&["base.cpio", "o.cpio.gz", all]);
        assert_eq!(output.stdout.matches("o.cpio.gz:/opt/").count(), 25);
    }
}

#[test]
fn project_suppresses_findings_and_unused_suppressions_are_reported() {
    let pair = project(
        "    check:\n      skip:\n\
         \x20       - {lint: safe/credentials, path: /root/.netrc, reason: a public account}\n\
         \x20       - {lint: lean, reason: we like manuals}\n\
         \x20       - {lint: fit/changed-beneath, reason: could not run}\n\
         \x20       - {lint: safe/setuid, path: /opt/**, reason: not there any more}\n",
    );
    let output = pair.check(&[]);
    assert_eq!(output.code, 0, "{}", output.stderr);
    let unused = "o: unused suppression of safe/setuid in the project";
    assert!(output.stderr.contains(unused), "{}", output.stderr);
    assert!(!output.stderr.contains("suppression of fit/changed-beneath"), "{}", output.stderr);
    pair.snapshot("project_suppresses_findings", &["check", "check --all"]);
    let output = pair.check(&["o", "--json"]);
    assert_eq!(names(&findings(&output)), ["safe/world-writable".to_owned()].into());
    let report: Value = serde_json::from_str(&output.stdout).unwrap();
    let suppressed = report["checks"][0]["suppressed"].as_array().unwrap();
    let reasons: Vec<_> =
        suppressed.iter().map(|found| (&found["lint"], &found["reason"])).collect();
    let wanted = [
        (&json!("safe/credentials"), &json!("a public account")),
        (&json!("lean/docs"), &json!("we like manuals")),
    ];
    assert_eq!(reasons, wanted);

    // A suppression that no image uses is reported once.
    let skip = "{skip: [{lint: safe/setuid, reason: not there any more}]}";
    let pair = project(&format!(
        "    check: {skip}\n  p: {{base: ./base.cpio, overlays: [o], check: {skip}}}\n"
    ));
    fs::write(pair.path("p.cpio.gz"), Archive::new().gzip()).unwrap();
    let output = pair.check(&[]).stderr;
    assert_eq!(output.matches("unused suppression").count(), 1, "{output}");
    assert!(output.contains("o, p: unused suppression of safe/setuid in the project"), "{output}");

    // It applies to its paths only.
    let pair = project(
        "    check:\n      skip: [{lint: safe/credentials, path: /home/*/.netrc, reason: ours}]\n",
    );
    assert_eq!(pair.check(&["o"]).code, 1);
    for (check, wanted) in [
        ("    check: {skip: [{lint: safe/setuid}]}\n", "the key `reason` is missing"),
        ("    check: {skip: [{lint: safe/setuid, reason: ' '}]}\n", "the reason is empty"),
        ("    check: {skip: [{lint: setuid, reason: x}]}\n", "did you mean `safe/setuid`?"),
        ("    check: {skip: [{lint: safe/x, path: x, reason: x}]}\n", "with `/`"),
        ("    check: {budget: {size: much}}\n", "invalid size `much`"),
    ] {
        let output = project(check).check(&["o"]);
        assert_eq!(output.code, 2, "{check}: {}", output.stdout);
        assert!(output.stderr.contains(wanted), "{check}: {}", output.stderr);
    }
}

#[test]
fn base_option_checks_all_overlays_of_a_project() {
    let pair = project("  p:\n    base: ./base.cpio\n    overlays: [o]\n");
    let mut over = Archive::new();
    over.program("usr/bin/more", &programs().program);
    over.program("usr/bin/chain", &programs().chain_program);
    fs::write(pair.path("p.cpio.gz"), over.gzip()).unwrap();
    let mut next = base();
    next.file("usr/lib/libchain.so.1", &programs().chain_library);
    next.entries.retain(|entry| !entry.name.starts_with("usr/lib/libdemo.so.1"));
    fs::write(pair.path("next.cpio"), next.bytes()).unwrap();
    let lines = [
        // The program `chain` fails because a library of the base lacks a library.
        "check --base next.cpio --only works",
        // By path, each overlay separately.
        "check --base next.cpio --only fit o.cpio.gz p.cpio.gz",
    ];
    pair.snapshot("overlays_on_the_next_base", &lines);
}

#[test]
fn unbuilt_images_do_not_keep_others_from_being_checked() {
    let images = "  none: {base: ./base.cpio}\n  upon: {base: ./base.cpio, overlays: [none]}\n  \
                  packed: {base: ./base.cpio, format: tar}\n";
    let pair = project(images);
    fs::write(pair.path("upon.cpio.gz"), Archive::new().gzip()).unwrap();
    fs::write(pair.path("next.cpio"), base().bytes()).unwrap();
    pair.snapshot(
        "unbuilt_images_are_named",
        &[
            "check --only safe/setuid",
            "check --only safe/setuid --json",
            "check --base next.cpio",
            "check none",
            "check o upon",
            "check --base next.cpio none",
        ],
    );
    // Nothing to check is not a success.
    fs::remove_file(pair.path("o.cpio.gz")).unwrap();
    for arguments in [&["--sarif"][..], &["--base", "next.cpio"]] {
        let output = pair.check(arguments);
        assert_eq!(output.code, 2, "{}", output.stdout);
        assert!(
            output.stderr.contains("no image is built in a format that can be checked"),
            "{}",
            output.stderr
        );
    }
}

#[test]
fn only_new_faults_of_the_base_are_reported() {
    let mut base = base();
    base.link("etc/broken", "none");
    base.program("usr/bin/broken", &programs().other_program);
    base.link("etc/way", "plain.conf");
    base.file("etc/systemd/system/broken.service", "[Service]\nExecStart=/usr/bin/none\n");
    let wants = "etc/systemd/system/multi-user.target.wants/broken.service";
    base.link(wants, "../broken.service");
    let mut overlay = Archive::new();
    overlay.whiteout("usr/lib/libdemo.so.1.0");
    overlay.whiteout("etc/plain.conf");
    overlay.whiteout("usr/lib/systemd/system/demo.service");
    let pair = Pair::new(&base, &overlay.gzip());
    let found = pair.findings(&[]);
    let output: Vec<_> = found
        .iter()
        .map(|finding| (finding["lint"].as_str().unwrap(), finding["path"].as_str().unwrap()))
        .collect();
    let programs = ["/usr/bin/demo", "/usr/bin/env", "/usr/bin/sh", "/usr/lib/systemd/systemd"];
    let mut wanted: Vec<_> = programs.map(|path| ("works/elf-library", path)).to_vec();
    wanted.push(("works/elf-library", "/usr/sbin/init"));
    wanted.push(("works/unit-missing", "/etc/systemd/system/multi-user.target.wants/demo.service"));
    wanted.push(("works/dangling-link", "/etc/way"));
    wanted.push(("works/dangling-link", "/usr/lib/libdemo.so.1"));
    assert_eq!(output, wanted, "{found:#?}");
    // Existing faults are reported if the base is checked.
    let whole = names(&pair.findings(&["--whole", "--only", "works"]));
    assert!(whole.contains("works/elf-library") && whole.contains("works/dangling-link"));
    let output = pair.check(&["base.cpio", "--only", "works", "--json"]);
    let found = findings(&output);
    let paths: Vec<_> = found.iter().map(|finding| finding["path"].as_str().unwrap()).collect();
    let broken = ["/etc/systemd/system/broken.service", "/usr/bin/broken", "/etc/broken"];
    let (paths, broken) = (BTreeSet::from_iter(paths), BTreeSet::from(broken));
    assert_eq!(paths, broken, "{found:#?}");
}

#[test]
fn removed_interpreter_and_init_are_reported() {
    let mut base = base();
    base.program("usr/bin/lang", &programs().program);
    base.program("usr/bin/report", "#!/usr/bin/lang\n");
    base.program("usr/bin/found", "#!/usr/bin/env lang\n");
    base.program("usr/bin/never", "#!/usr/bin/none\n");
    let mut overlay = Archive::new();
    overlay.whiteout("usr/bin/lang");
    let found = Pair::new(&base, &overlay.gzip()).findings(&["--only", "works/interpreter"]);
    let paths: Vec<_> = found.iter().map(|finding| finding["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["/usr/bin/found", "/usr/bin/report"], "{found:#?}");

    let mut base = Archive::new();
    base.program("usr/lib/systemd/systemd", &programs().program);
    base.link("usr/sbin/init", "../lib/systemd/systemd");
    let mut overlay = Archive::new();
    overlay.whiteout("usr/lib/systemd/systemd");
    let pair = Pair::new(&base, &overlay.gzip());
    let output = pair.check(&["base.cpio", "o.cpio.gz", "--only", "works/dangling-link"]);
    assert!(
        output.code == 1 && output.stdout.contains("error: works/dangling-link"),
        "{}",
        output.stdout
    );
}

#[test]
fn responsible_overlay_is_named() {
    let pair = Pair::new(&base(), b"");
    let [mut one, mut two] = [Archive::new(), Archive::new()];
    one.whiteout("usr/lib/libdemo.so.1.0");
    one.whiteout("etc/plain.conf");
    two.file("opt/two", "2");
    let mut base = base();
    base.link("etc/way", "plain.conf");
    fs::write(pair.path("base.cpio"), base.bytes()).unwrap();
    for (folder, archive) in [("d1", &one), ("d2", &two)] {
        fs::create_dir(pair.path(folder)).unwrap();
        fs::write(pair.path(folder).join("o.cpio.gz"), archive.gzip()).unwrap();
    }
    let images = ["base.cpio", "d1/o.cpio.gz", "d2/o.cpio.gz", "--only", "works"];
    let found = findings(&pair.check(&[&images[..], &["--json"]].concat()));
    assert!(found.len() >= 6, "{found:#?}");
    for finding in &found {
        assert_eq!(finding["layer"], "d1/o.cpio.gz", "{finding:#?}");
    }
    let output = pair.check(&[&images[..], &["--sarif"]].concat());
    let log: Value = serde_json::from_str(&output.stdout).unwrap();
    let results = log["runs"][0]["results"].as_array().unwrap();
    let uri = |location: &Value| {
        let uri = &location["physicalLocation"]["artifactLocation"]["uri"];
        uri.as_str().unwrap().to_owned()
    };
    let mut fingerprints = BTreeSet::new();
    for result in results {
        let locations: Vec<_> = result["locations"].as_array().unwrap().iter().map(uri).collect();
        assert_eq!(locations, ["d1/o.cpio.gz"], "{result:#?}");
        fingerprints.insert(result["partialFingerprints"]["overcoat/v1"].as_str().unwrap());
    }
    assert_eq!(fingerprints.len(), results.len());
}

#[test]
fn overlay_is_checked_against_a_lower_overlay() {
    let with = |line: &str| {
        let mut overlay = Archive::new();
        overlay.file("etc/passwd", format!("{}{line}", super::PASSWD));
        overlay
    };
    let pair = Pair::new(&base(), &with("a:x:999:0::/:/bin/sh\n").gzip());
    fs::write(pair.path("b.cpio.gz"), with("b:x:999:0::/:/bin/sh\n").gzip()).unwrap();
    let only = ["--only", "fit/accounts"];
    let alone = pair.check(&[&["base.cpio", "b.cpio.gz"][..], &only].concat());
    assert_eq!(alone.code, 0, "{}", alone.stdout);
    let both = pair.check(&[&["base.cpio", "o.cpio.gz", "b.cpio.gz"][..], &only].concat());
    let text =
        "b.cpio.gz:/etc/passwd: the user a of the lower layers is missing: its id 999 is b here";
    assert!(both.code == 1 && both.stdout.contains(text), "{}", both.stdout);
}

#[test]
fn probable_mistakes_get_hints() {
    let pair = project("");
    let alone = pair.check(&["o.cpio.gz"]).stderr;
    let hint = "o.cpio.gz is checked as a complete root; name its base first if it is an overlay";
    assert!(alone.contains(hint), "{alone}");
    let output = pair.check(&["base.cpio", "--kernel", "/etc/passwd"]).stderr;
    assert!(!output.contains("complete root"), "{output}");
    assert!(output.contains("/etc/passwd has no kernel version"), "{output}");
    // PAM files of a base are notes.
    let mut base = base();
    base.file("etc/pam.d/common-auth", "auth required pam_unix.so\n");
    fs::write(pair.path("pam.cpio"), base.bytes()).unwrap();
    let found = findings(&pair.check(&["pam.cpio", "--json", "--only", "safe/pam"]));
    assert_eq!(found[0]["severity"], "note", "{found:#?}");
}

#[test]
fn module_check_without_a_kernel_is_reported_as_not_run() {
    let mut bare = base();
    bare.entries.retain(|entry| !entry.name.contains("lib/modules"));
    let mut overlay = Archive::new();
    overlay.file("usr/lib/modules/6.1.0-1/modules.dep", "kernel/one.ko:\n");
    overlay.file("usr/lib/modules/6.1.0-1/kernel/one.ko", &programs().module);
    let pair = Pair::new(&bare, &overlay.gzip());
    let output = pair.check(&["base.cpio", "o.cpio.gz", "--only", "works"]);
    let reason = "o.cpio.gz: could not run works/kernel-modules: the kernel that boots is unknown; \
                  name it with --kernel\n";
    assert!(output.code == 0 && output.stderr.contains(reason), "{}", output.stderr);
    // The base's modules name the kernel.
    fs::write(pair.path("base.cpio"), base().bytes()).unwrap();
    let output = pair.check(&["base.cpio", "o.cpio.gz", "--only", "works"]);
    assert!(!output.stderr.contains("could not run"), "{}", output.stderr);
}

#[test]
fn output_is_deterministic() {
    let pair = project("");
    let once = pair.check(&["base.cpio", "o.cpio.gz", "--whole", "--json"]).stdout;
    for _ in 0..5 {
        assert_eq!(pair.check(&["base.cpio", "o.cpio.gz", "--whole", "--json"]).stdout, once);
    }
}

#[test]
fn lints_are_listed_and_explained() {
    let here = Path::new("/");
    let list = run(here, &["--list"]);
    assert_eq!(list.code, 0);
    let names: Vec<_> = list.stdout.lines().filter_map(|line| line.strip_prefix("  ")).collect();
    assert!(names.len() > 60, "{}", list.stdout);
    for line in &names {
        let name = line.split(' ').next().unwrap();
        let output = run(here, &["--explain", name]);
        assert_eq!(output.code, 0, "{name}");
        assert!(output.stdout.starts_with(&format!("{name} (")), "{}", output.stdout);
        assert!(output.stdout.contains("\n\nTo fix it: "), "{}", output.stdout);
    }
    let some = run(here, &["--list", "--only", "fit"]).stdout;
    assert!(some.starts_with("fit: ") && !some.contains("works/"), "{some}");
    let output = run(here, &["--explain", "elf-libary"]);
    assert_eq!(output.code, 2);
    assert!(output.stderr.contains("did you mean `works/elf-library`?"), "{}", output.stderr);
    let output = run(here, &["--explain", "dangling"]);
    assert!(output.stderr.contains("did you mean `works/dangling-link`?"), "{}", output.stderr);
    let some = run(here, &["--list", "--only", "fit,lean"]).stdout;
    assert!(
        some.contains("fit: ") && some.contains("lean: ") && !some.contains("works: "),
        "{some}"
    );
    let output = run(here, &["base.cpio", "--skip", "save/setuid"]);
    assert!(output.stderr.contains("did you mean `safe/setuid`?"), "{}", output.stderr);
}

#[test]
fn sarif_has_the_required_properties() {
    let pair = project("    check: {skip: [{lint: lean/docs, reason: we like manuals}]}\n");
    let output = pair.check(&["o", "--sarif"]);
    assert_eq!(output.code, 1);
    let log: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(log["version"], "2.1.0");
    assert!(log["$schema"].as_str().unwrap().contains("sarif"));
    let run = &log["runs"][0];
    let driver = &run["tool"]["driver"];
    assert_eq!(driver["name"], "overcoat");
    let rules = driver["rules"].as_array().unwrap();
    for rule in rules {
        assert!(rule["id"].as_str().unwrap().contains('/'));
        for text in ["shortDescription", "fullDescription", "help"] {
            assert!(!rule[text]["text"].as_str().unwrap().is_empty(), "{rule}");
        }
        let level = rule["defaultConfiguration"]["level"].as_str().unwrap();
        assert!(["error", "warning", "note"].contains(&level), "{rule}");
    }
    let results = run["results"].as_array().unwrap();
    let levels: Vec<_> = results.iter().map(|result| result["level"].as_str().unwrap()).collect();
    assert_eq!(levels, ["error", "warning", "note"]);
    for result in results {
        let index = result["ruleIndex"].as_u64().unwrap() as usize;
        assert_eq!(rules[index]["id"], result["ruleId"]);
        assert!(!result["message"]["text"].as_str().unwrap().is_empty());
        let location = &result["locations"][0];
        let uri = location["physicalLocation"]["artifactLocation"]["uri"].as_str().unwrap();
        assert!(uri.ends_with("o.cpio.gz"), "{uri}");
        let path = location["logicalLocations"][0]["fullyQualifiedName"].as_str().unwrap();
        assert!(path.starts_with('/'), "{path}");
        assert!(result["partialFingerprints"]["overcoat/v1"].is_string());
    }
    assert_eq!(results[2]["suppressions"][0]["kind"], "external");
    assert_eq!(results[2]["suppressions"][0]["justification"], "we like manuals");
    assert_eq!(results[0].get("suppressions"), None);
}

#[test]
fn lints_are_explained_and_unknown_ones_are_rejected() {
    let pair = Pair::new(&base(), &clean().gzip());
    let lines = [
        "check --explain works/elf-library",
        "check --explain works/elf-libary",
        "check --only work base.cpio",
        "check --deny errors base.cpio",
    ];
    pair.snapshot("lints_are_explained", &lines);
}
