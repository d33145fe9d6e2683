//! Each `.yml` file in `mistakes` has one mistake, and the snapshot beside it the expected message.
//!
//! `INSTA_UPDATE=always cargo test -p provisioners mistakes` writes the snapshots.

use std::fs;
use std::panic::catch_unwind;
use std::path::Path;

use crate::common::{chain, write_files};
use provisioners::{Image, Plan, Project, Provisioner};

#[test]
fn mistakes_are_shown_with_position_and_help() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/all/mistakes");
    let mut names: Vec<String> = fs::read_dir(&folder)
        .unwrap()
        .filter_map(|e| {
            e.unwrap().file_name().into_string().unwrap().strip_suffix(".yml").map(str::to_owned)
        })
        .collect();
    names.sort();
    assert!(names.len() > 75);
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("mistakes");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    let _settings = settings.bind_to_scope();
    let differs = |name: &String| {
        let text = fs::read_to_string(folder.join(format!("{name}.yml"))).unwrap();
        let message = message(name, &text);
        // insta panics after it has printed the difference.
        catch_unwind(|| insta::assert_snapshot!(name.as_str(), message)).is_err()
    };
    let wrong: Vec<String> = names.into_iter().filter(differs).collect();
    assert!(wrong.is_empty(), "other messages: {}", wrong.join(", "));
}

/// Returns the message that a user sees for a file with this text.
fn message(name: &str, text: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let error = if name.starts_with("provisioner-") {
        write_files(dir.path(), &[("provisioner.yml", text), ("files/etc/x", ""), ("script", "")]);
        match Provisioner::load(dir.path()) {
            Err(error) => chain(&error),
            Ok(provisioner) => chain(&Plan::new(&[provisioner]).expect_err(name)),
        }
    } else {
        let provisioner = "variables: {lldp_interval: 30, servers: []}\n";
        let file = if name.starts_with("project-") { "overcoat.yml" } else { "image.yml" };
        let files = [(file, text), ("provisioner/provisioner.yml", provisioner), ("empty/x", "")];
        write_files(dir.path(), &files);
        if file == "overcoat.yml" {
            return plain(
                dir.path(),
                &chain(&Project::load(&dir.path().join(file)).expect_err(name)),
            );
        }
        match Image::load(&dir.path().join("image.yml")) {
            Err(error) => chain(&error),
            Ok(image) => chain(&image.plan().expect_err(name)),
        }
    };
    plain(dir.path(), &error)
}

/// Returns a message without the path of the temporary folder.
fn plain(folder: &Path, message: &str) -> String {
    let folder = folder.display().to_string();
    message.replace(&format!("{folder}/"), "").replace(&folder, ".") + "\n"
}

#[test]
fn examples_have_no_mistakes() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    for file in ["discovery/discovery.yml", "base/base.yml"] {
        let plan = Image::load(&examples.join(file))
            .map_err(|e| chain(&e))
            .and_then(|image| image.plan().map_err(|e| chain(&e)));
        assert!(plan.is_ok_and(|plan| plan.steps().len() > 10), "{file}");
    }
    let project = Project::load(&examples.join("netboot/overcoat.yml"));
    let project = project.unwrap_or_else(|e| panic!("{}", chain(&e)));
    let names: Vec<&str> = project.images().iter().map(|image| image.name.as_str()).collect();
    assert_eq!(names, ["base", "discovery", "raid", "erase", "initrd"]);
    for image in project.images() {
        let plan = image.image.plan().unwrap_or_else(|e| panic!("{}: {}", image.name, chain(&e)));
        assert!(plan.steps().len() > 10, "{}", image.name);
    }
}
