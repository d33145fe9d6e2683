//! The beginning of a project: `init`, and the schemas for editors.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::support::stage::{Stage, Who, finish};

#[test]
fn a_new_project_can_be_read_and_planned_at_once() {
    let stage = Stage::new();
    let who = Who::Unprivileged;
    let folder = stage.out(who).join("deep/project");
    finish(stage.overcoat(who).arg("init").arg(&folder))
        .ok()
        .says(&["overcoat.yml: created a project with the images base, discovery, boot"]);
    // Physical machines boot it, too.
    let text = fs::read_to_string(folder.join("overcoat.yml")).unwrap();
    assert!(text.contains("kernel: linux-image-amd64\n"), "{text}");
    let script = folder.join("provisioners/site/scripts/10-site.sh");
    assert_eq!(fs::metadata(script).unwrap().permissions().mode() & 0o111, 0o111);
    // All that would be built, with every template rendered and every variable known.
    let mut build = stage.overcoat(who);
    finish(build.arg("build").arg("--dry-run").current_dir(&folder)).ok().says(&[
        "base: would be built",
        "discovery: would be built",
        "boot: would be built",
    ]);
    // The schemas that the files name are there.
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

/// The site's provisioner does what its comments say, on the lab's base.
#[test]
fn the_provisioner_of_a_new_project_builds() {
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
    let said = finish(&mut run).ok().text();
    assert!(said.starts_with("Welcome: this machine runs from RAM.\nLinux "), "{said}");
}

#[test]
fn a_new_project_overwrites_nothing() {
    let stage = Stage::new();
    let who = Who::Root;
    let mine = stage.write("root/provisioners/site/provisioner.yml", "mine\n");
    finish(stage.overcoat(who).arg("init"))
        .code(2)
        .says(&["provisioners/site/provisioner.yml already exists; no files were written"]);
    assert_eq!(fs::read_to_string(&mine).unwrap(), "mine\n");
    assert!(!stage.out(who).join("overcoat.yml").exists());
    assert!(!stage.out(who).join(".schema").exists());
}

#[test]
fn the_schemas_are_in_the_program() {
    let stage = Stage::new();
    for (which, file) in [("project", "overcoat"), ("provisioner", "provisioner")] {
        let said = finish(stage.overcoat(Who::Root).arg("schema").arg(which)).ok().text();
        let path = format!("{}/docs/{file}.schema.json", env!("CARGO_MANIFEST_DIR"));
        assert_eq!(said, fs::read_to_string(path).unwrap());
    }
}
