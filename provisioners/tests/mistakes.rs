//! Each `.yml` file in `tests/mistakes` has one mistake, and the `.txt` file beside it the expected
//! message. `UPDATE_MISTAKES=1 cargo test -p provisioners --test mistakes` updates the messages.

mod common;

use std::fs;
use std::path::Path;

use common::{chain, write_files};
use provisioners::{Image, Plan, Project, Provisioner};

#[test]
fn mistakes_are_shown_with_position_and_help() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mistakes");
    let mut names: Vec<String> = fs::read_dir(&folder)
        .unwrap()
        .filter_map(|e| {
            e.unwrap().file_name().into_string().unwrap().strip_suffix(".yml").map(str::to_owned)
        })
        .collect();
    names.sort();
    assert!(names.len() > 75);
    let mut wrong = Vec::new();
    for name in names {
        let text = fs::read_to_string(folder.join(format!("{name}.yml"))).unwrap();
        let message = message(&name, &text);
        let expected = folder.join(format!("{name}.txt"));
        if std::env::var_os("UPDATE_MISTAKES").is_some() {
            fs::write(&expected, &message).unwrap();
        }
        let wanted = fs::read_to_string(&expected).unwrap_or_default();
        if message != wanted {
            wrong.push(format!("{name}: wanted\n{wanted}\nfound\n{message}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
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
