//! The command line of `check`: what is judged, what is told, exit codes, JSON and SARIF.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::archive::Archive;
use super::programs::programs;
use super::{Pair, base, clean, findings, names, run};

/// A project with an overlay in which a note, a warning and an error are found.
fn project(check: &str) -> Pair {
    let mut overlay = clean();
    overlay.file("usr/share/man/man1/tool.1.gz", "manual");
    overlay.put("opt/all", 0o040777, "");
    overlay.file("root/.netrc", "machine a.org login b password c\n");
    let pair = Pair::new(&base(), &overlay.gzip());
    fs::write(pair.path("base.cpio.gz"), super::archive::gzip(&base().bytes())).unwrap();
    let project = format!("output: .\nimages:\n  o:\n    base: ./base.cpio\n{check}");
    fs::write(pair.path("overcoat.yml"), project).unwrap();
    pair
}

#[test]
fn the_exit_code_says_whether_something_denied_was_found() {
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
    // What is beneath is not judged: it is needed.
    fs::write(pair.path("broken.cpio"), "070701 and so on").unwrap();
    assert_eq!(pair.check(&["broken.cpio", "o.cpio.gz"]).code, 2);
    // Nor can it be told of an archive that nobody looks into.
    assert_eq!(pair.check(&["base.cpio", "broken.cpio", "--only", "works"]).code, 2);
    assert_eq!(pair.check(&["base.cpio", "broken.cpio"]).code, 1);
}

#[test]
fn a_finding_names_layer_path_and_how_to_mend_it() {
    let pair = project("");
    let said = pair.check(&["base.cpio", "o.cpio.gz"]);
    let told = "\
error: safe/credentials: a file that is there to hold credentials
  o.cpio.gz:/root/.netrc: credentials stand in it
  fix: leave it out, and change what is in it
warning: safe/world-writable: something that everybody may change
  o.cpio.gz:/opt/all: everybody may delete and replace what is in it (mode 0777)
  fix: take the right away (chmod o-w), or set the sticky bit on a directory (chmod +t)
note: lean/docs: documentation
  o.cpio.gz:/usr/share/man: a file of documentation (saves 4.1 kB)
  fix: let overcoat's clean-up take it away (`cleanup:`), or delete it as the last step
";
    assert_eq!(said.stdout, told);
    let without_manifest = "could not run fit/changed-beneath: o.cpio.gz has no manifest";
    assert!(said.stderr.contains(without_manifest), "{}", said.stderr);
    assert!(said.stderr.ends_with("o.cpio.gz: 1 error, 1 warning, 1 note\n"), "{}", said.stderr);
}

#[test]
fn of_many_findings_some_are_told_and_how_many_more_there_are() {
    let mut overlay = Archive::new();
    for number in 0..25 {
        overlay.put(&format!("opt/{number:02}"), 0o040777, "");
    }
    let pair = Pair::new(&base(), &overlay.gzip());
    let said = pair.check(&["base.cpio", "o.cpio.gz"]);
    assert_eq!(said.stdout.matches("o.cpio.gz:/opt/").count(), 10);
    assert!(said.stdout.contains("  …and 15 more (--all shows them)\n"), "{}", said.stdout);
    for all in ["--all", "-v"] {
        let said = pair.check(&["base.cpio", "o.cpio.gz", all]);
        assert_eq!(said.stdout.matches("o.cpio.gz:/opt/").count(), 25);
    }
}

#[test]
fn a_project_silences_findings_with_a_reason_and_hears_of_silences_in_vain() {
    let pair = project(
        "    check:\n      skip:\n\
         \x20       - {lint: safe/credentials, path: /root/.netrc, reason: a public account}\n\
         \x20       - {lint: lean, reason: we like manuals}\n\
         \x20       - {lint: fit/changed-beneath, reason: could not run}\n\
         \x20       - {lint: safe/setuid, path: /opt/**, reason: not there any more}\n",
    );
    let said = pair.check(&[]);
    assert_eq!(said.code, 0, "{}", said.stderr);
    let vain = "o: unused suppression of safe/setuid in the project";
    assert!(said.stderr.contains(vain), "{}", said.stderr);
    assert!(!said.stderr.contains("suppression of fit/changed-beneath"), "{}", said.stderr);
    assert!(said.stderr.ends_with("o: 1 warning, 2 suppressed\n"), "{}", said.stderr);
    let said = pair.check(&["o", "--json"]);
    assert_eq!(names(&findings(&said)), ["safe/world-writable".to_owned()].into());
    let report: Value = serde_json::from_str(&said.stdout).unwrap();
    let silenced = report["checks"][0]["silenced"].as_array().unwrap();
    let reasons: Vec<_> = silenced.iter().map(|found| (&found["lint"], &found["reason"])).collect();
    let wanted = [
        (&json!("safe/credentials"), &json!("a public account")),
        (&json!("lean/docs"), &json!("we like manuals")),
    ];
    assert_eq!(reasons, wanted);

    // One that is in vain everywhere is told once.
    let skip = "{skip: [{lint: safe/setuid, reason: not there any more}]}";
    let pair = project(&format!(
        "    check: {skip}\n  p: {{base: ./base.cpio, overlays: [o], check: {skip}}}\n"
    ));
    fs::write(pair.path("p.cpio.gz"), Archive::new().gzip()).unwrap();
    let said = pair.check(&[]).stderr;
    assert_eq!(said.matches("unused suppression").count(), 1, "{said}");
    assert!(said.contains("o, p: unused suppression of safe/setuid in the project"), "{said}");

    // Everywhere but there it is told.
    let pair = project(
        "    check:\n      skip: [{lint: safe/credentials, path: /home/*/.netrc, reason: ours}]\n",
    );
    assert_eq!(pair.check(&["o"]).code, 1);
    for (check, wanted) in [
        ("    check: {skip: [{lint: safe/setuid}]}\n", "the key `reason` is missing"),
        ("    check: {skip: [{lint: safe/setuid, reason: ' '}]}\n", "there is no reason"),
        ("    check: {skip: [{lint: setuid, reason: x}]}\n", "did you mean `safe/setuid`?"),
        ("    check: {skip: [{lint: safe/x, path: x, reason: x}]}\n", "begins with `/`"),
        ("    check: {budget: {size: much}}\n", "`much` is no size"),
    ] {
        let said = project(check).check(&["o"]);
        assert_eq!(said.code, 2, "{check}: {}", said.stdout);
        assert!(said.stderr.contains(wanted), "{check}: {}", said.stderr);
    }
}

#[test]
fn all_overlays_of_a_project_are_tried_on_the_next_base() {
    let pair = project("  p:\n    base: ./base.cpio\n    overlays: [o]\n");
    let mut over = Archive::new();
    over.program("usr/bin/more", &programs().program);
    over.program("usr/bin/chain", &programs().chain_program);
    fs::write(pair.path("p.cpio.gz"), over.gzip()).unwrap();
    let mut next = base();
    next.file("usr/lib/libchain.so.1", &programs().chain_library);
    next.entries.retain(|entry| !entry.name.starts_with("usr/lib/libdemo.so.1"));
    fs::write(pair.path("next.cpio"), next.bytes()).unwrap();
    let said = pair.check(&["--base", "next.cpio", "--only", "works"]);
    assert_eq!(said.code, 1, "{}", said.stderr);
    let verdicts: Vec<_> = said.stdout.lines().filter(|line| line.contains("fit")).collect();
    assert_eq!(
        verdicts,
        ["o: does not fit: 1 error", "p: does not fit: 2 errors"],
        "{}",
        said.stdout
    );
    assert!(said.stdout.contains("o.cpio.gz:/usr/bin/demo-tool: it needs libdemo.so.1"));
    assert!(said.stdout.contains("p.cpio.gz:/usr/bin/more: it needs libdemo.so.1"));
    // What a library of the base lacks, the program lacks.
    let lacks =
        "p.cpio.gz:/usr/bin/chain: it loads /usr/lib/libchain.so.1, which needs libdemo.so.1";
    assert!(said.stdout.contains(lacks), "{}", said.stdout);
    // By their paths, each for itself.
    let said = pair.check(&["--base", "next.cpio", "--only", "fit", "o.cpio.gz", "p.cpio.gz"]);
    let verdicts: Vec<_> = said.stdout.lines().filter(|line| line.contains("fits")).collect();
    assert_eq!(verdicts, ["o.cpio.gz: fits: no findings", "p.cpio.gz: fits: no findings"]);
}

#[test]
fn what_an_overlay_breaks_in_its_base_is_found_and_what_was_broken_is_not() {
    let mut base = base();
    base.link("etc/broken", "none");
    base.program("usr/bin/broken", &programs().other_program);
    base.link("etc/way", "plain.conf");
    base.file("etc/systemd/system/broken.service", "[Service]\nExecStart=/usr/bin/none\n");
    let wants = "etc/systemd/system/multi-user.target.wants/broken.service";
    base.link(wants, "../broken.service");
    let mut overlay = Archive::new();
    overlay.gone("usr/lib/libdemo.so.1.0");
    overlay.gone("etc/plain.conf");
    overlay.gone("usr/lib/systemd/system/demo.service");
    let pair = Pair::new(&base, &overlay.gzip());
    let found = pair.findings(&[]);
    let said: Vec<_> = found
        .iter()
        .map(|finding| (finding["lint"].as_str().unwrap(), finding["path"].as_str().unwrap()))
        .collect();
    let programs = ["/usr/bin/demo", "/usr/bin/env", "/usr/bin/sh", "/usr/lib/systemd/systemd"];
    let mut wanted: Vec<_> = programs.map(|path| ("works/elf-library", path)).to_vec();
    wanted.push(("works/elf-library", "/usr/sbin/init"));
    wanted.push(("works/unit-missing", "/etc/systemd/system/multi-user.target.wants/demo.service"));
    wanted.push(("works/dangling-link", "/etc/way"));
    wanted.push(("works/dangling-link", "/usr/lib/libdemo.so.1"));
    assert_eq!(said, wanted, "{found:#?}");
    // All of it, where all is judged.
    let whole = names(&pair.findings(&["--whole", "--only", "works"]));
    assert!(whole.contains("works/elf-library") && whole.contains("works/dangling-link"));
    let said = pair.check(&["base.cpio", "--only", "works", "--json"]);
    let found = findings(&said);
    let paths: Vec<_> = found.iter().map(|finding| finding["path"].as_str().unwrap()).collect();
    let broken = ["/etc/systemd/system/broken.service", "/usr/bin/broken", "/etc/broken"];
    let (paths, broken) = (BTreeSet::from_iter(paths), BTreeSet::from(broken));
    assert_eq!(paths, broken, "{found:#?}");
}

#[test]
fn scripts_and_an_init_that_lose_what_runs_them_are_found() {
    let mut base = base();
    base.program("usr/bin/lang", &programs().program);
    base.program("usr/bin/report", "#!/usr/bin/lang\n");
    base.program("usr/bin/found", "#!/usr/bin/env lang\n");
    base.program("usr/bin/never", "#!/usr/bin/none\n");
    let mut overlay = Archive::new();
    overlay.gone("usr/bin/lang");
    let found = Pair::new(&base, &overlay.gzip()).findings(&["--only", "works/interpreter"]);
    let paths: Vec<_> = found.iter().map(|finding| finding["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["/usr/bin/found", "/usr/bin/report"], "{found:#?}");

    let mut base = Archive::new();
    base.program("usr/lib/systemd/systemd", &programs().program);
    base.link("usr/sbin/init", "../lib/systemd/systemd");
    let mut overlay = Archive::new();
    overlay.gone("usr/lib/systemd/systemd");
    let pair = Pair::new(&base, &overlay.gzip());
    let said = pair.check(&["base.cpio", "o.cpio.gz", "--only", "works/dangling-link"]);
    assert!(
        said.code == 1 && said.stdout.contains("error: works/dangling-link"),
        "{}",
        said.stdout
    );
}

#[test]
fn of_several_overlays_the_one_that_did_it_is_blamed() {
    let pair = Pair::new(&base(), b"");
    let [mut one, mut two] = [Archive::new(), Archive::new()];
    one.gone("usr/lib/libdemo.so.1.0");
    one.gone("etc/plain.conf");
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
    let said = pair.check(&[&images[..], &["--sarif"]].concat());
    let log: Value = serde_json::from_str(&said.stdout).unwrap();
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
fn an_overlay_is_held_against_another_beneath_it() {
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
    let text = "b.cpio.gz:/etc/passwd: the user a from beneath it is missing: 999 is b here";
    assert!(both.code == 1 && both.stdout.contains(text), "{}", both.stdout);
}

#[test]
fn what_is_probably_not_what_was_meant_is_said() {
    let pair = project("");
    let alone = pair.check(&["o.cpio.gz"]).stderr;
    let hint = "o.cpio.gz is judged as a root by itself: name its base before it";
    assert!(alone.contains(hint), "{alone}");
    let said = pair.check(&["base.cpio", "--kernel", "/etc/passwd"]).stderr;
    assert!(!said.contains("by itself"), "{said}");
    assert!(said.contains("/etc/passwd does not say the version of a kernel"), "{said}");
    // A base by itself has files of PAM's, as each has.
    let mut base = base();
    base.file("etc/pam.d/common-auth", "auth required pam_unix.so\n");
    fs::write(pair.path("pam.cpio"), base.bytes()).unwrap();
    let found = findings(&pair.check(&["pam.cpio", "--json", "--only", "safe/pam"]));
    assert_eq!(found[0]["severity"], "note", "{found:#?}");
}

#[test]
fn modules_are_not_held_against_a_kernel_that_nobody_knows_and_that_is_said() {
    let mut bare = base();
    bare.entries.retain(|entry| !entry.name.contains("lib/modules"));
    let mut overlay = Archive::new();
    overlay.file("usr/lib/modules/6.1.0-1/modules.dep", "kernel/one.ko:\n");
    overlay.file("usr/lib/modules/6.1.0-1/kernel/one.ko", &programs().module);
    let pair = Pair::new(&bare, &overlay.gzip());
    let said = pair.check(&["base.cpio", "o.cpio.gz", "--only", "works"]);
    let reason = "o.cpio.gz: could not run works/kernel-modules: which kernel boots with them \
                  is not known: --kernel names it\n";
    assert!(said.code == 0 && said.stderr.contains(reason), "{}", said.stderr);
    // Where the base has modules too, that is known well enough.
    fs::write(pair.path("base.cpio"), base().bytes()).unwrap();
    let said = pair.check(&["base.cpio", "o.cpio.gz", "--only", "works"]);
    assert!(!said.stderr.contains("could not run"), "{}", said.stderr);
}

#[test]
fn findings_are_the_same_and_in_one_order_each_time() {
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
        let said = run(here, &["--explain", name]);
        assert_eq!(said.code, 0, "{name}");
        assert!(said.stdout.starts_with(&format!("{name} (")), "{}", said.stdout);
        assert!(said.stdout.contains("\n\nTo mend it: "), "{}", said.stdout);
    }
    let some = run(here, &["--list", "--only", "fit"]).stdout;
    assert!(some.starts_with("fit: ") && !some.contains("works/"), "{some}");
    let said = run(here, &["--explain", "elf-libary"]);
    assert_eq!(said.code, 2);
    assert!(said.stderr.contains("did you mean `works/elf-library`?"), "{}", said.stderr);
    let said = run(here, &["--explain", "dangling"]);
    assert!(said.stderr.contains("did you mean `works/dangling-link`?"), "{}", said.stderr);
    let some = run(here, &["--list", "--only", "fit,lean"]).stdout;
    assert!(
        some.contains("fit: ") && some.contains("lean: ") && !some.contains("works: "),
        "{some}"
    );
    let said = run(here, &["base.cpio", "--skip", "save/setuid"]);
    assert!(said.stderr.contains("did you mean `safe/setuid`?"), "{}", said.stderr);
}

#[test]
fn sarif_has_what_the_standard_asks_for() {
    let pair = project("    check: {skip: [{lint: lean/docs, reason: we like manuals}]}\n");
    let said = pair.check(&["o", "--sarif"]);
    assert_eq!(said.code, 1);
    let log: Value = serde_json::from_str(&said.stdout).unwrap();
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
