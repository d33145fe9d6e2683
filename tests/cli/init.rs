//! `init`, which creates a project, and `schema`, which prints the schemas for editors.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::support::stage::{Stage, Who, finish};

#[test]
fn new_project_is_valid_and_can_be_planned() {
    let stage = Stage::new();
    let who = Who::Unprivileged;
    let folder = stage.out(who).join("deep/project");
    finish(stage.overcoat(who).arg("init").arg(&folder))
        .ok()
        .stderr_has(&["overcoat.yml: created a project with the images base, discovery, boot"]);
    // The kernel also boots physical machines.
    let text = fs::read_to_string(folder.join("overcoat.yml")).unwrap();
    assert!(text.contains("kernel: linux-image-amd64\n"), "{text}");
    let script = folder.join("provisioners/site/scripts/10-site.sh");
    assert_eq!(fs::metadata(script).unwrap().permissions().mode() & 0o111, 0o111);
    // A dry run renders all templates and checks all variables.
    let mut build = stage.overcoat(who);
    finish(build.arg("build").arg("--dry-run").current_dir(&folder)).ok().stderr_has(&[
        "base: would be built",
        "discovery: would be built",
        "boot: would be built",
    ]);
    // The schemas that the files refer to exist.
    for (file, schema) in [
        ("overcoat.yml", ".schema/overcoat.schema.json"),
        ("provisioners/site/provisioner.yml", ".schema/provisioner.schema.json"),
    ] {
        let text = fs::read_to_string(folder.join(file)).unwrap();
        let named = text.lines().next().unwrap().split_once("$schema=").unwrap().1;
        let named = folder.join(file).parent().unwrap().join(named).canonicalize().unwrap();
        assert_eq!(named, folder.join(schema).canonicalize().unwrap());
    }
}

/// Builds the provisioner `site` on the lab's base.
#[test]
fn provisioner_of_a_new_project_builds() {
    let stage = Stage::new();
    let who = Who::Unprivileged;
    finish(stage.overcoat(who).arg("init").arg("project")).ok();
    let text =
        format!("base: {}\nprovisioner: project/provisioners/site\n", stage.debian().display());
    let image = stage.out(who).join("site.yml");
    fs::write(&image, text + "variables: {greeting: Welcome}\noutput: site.cpio.gz\n").unwrap();
    finish(stage.overcoat(who).arg("build").arg(&image)).ok();
    let overlay = stage.out(who).join("site.cpio.gz");
    let listing = stage.sh(&format!("gzip -dc '{}' | cpio -itv --quiet", overlay.display()));
    for wanted in ["etc/motd", "usr/local/bin/report -> /usr/local/bin/site-report"] {
        assert!(listing.contains(wanted), "{listing}");
    }
    let report = listing
        .lines()
        .find(|line| line.ends_with(" usr/local/bin/site-report") && !line.starts_with('l'));
    assert!(report.is_some_and(|line| line.starts_with("-rwxr-xr-x")), "{report:?}");
    let mut run = stage.overcoat(who);
    run.arg("run").arg(stage.debian()).arg(&overlay).args([
        "--",
        "sh",
        "-c",
        "cat /etc/motd; report",
    ]);
    let printed = finish(&mut run).ok().text();
    assert!(printed.starts_with("Welcome: this machine runs from RAM.\nLinux "), "{printed}");
}

#[test]
fn init_overwrites_nothing() {
    let stage = Stage::new();
    let who = Who::Root;
    let mine = stage.write("root/provisioners/site/provisioner.yml", "mine\n");
    finish(stage.overcoat(who).arg("init"))
        .code(2)
        .stderr_has(&["provisioners/site/provisioner.yml already exists; no files were written"]);
    assert_eq!(fs::read_to_string(&mine).unwrap(), "mine\n");
    assert!(!stage.out(who).join("overcoat.yml").exists());
    assert!(!stage.out(who).join(".schema").exists());
}

#[test]
fn schemas_are_built_into_the_program() {
    let stage = Stage::new();
    for (which, file) in [("project", "overcoat"), ("provisioner", "provisioner")] {
        let printed = finish(stage.overcoat(Who::Root).arg("schema").arg(which)).ok().text();
        let path = format!("{}/docs/{file}.schema.json", env!("CARGO_MANIFEST_DIR"));
        assert_eq!(printed, fs::read_to_string(path).unwrap());
    }
}
