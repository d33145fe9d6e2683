//! Projects that share an output directory, and projects that were moved or copied.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde_json::Value;

use crate::project_fixture::{Site, text};
use crate::support::stage::{Finished, Who, finish};

const WHO: Who = Who::Unprivileged;

fn run(site: &Site, project: &Path, arguments: &[&str]) -> Finished {
    finish(site.stage.overcoat(WHO).args(arguments).arg("-p").arg(project))
}

fn json(site: &Site, project: &Path, arguments: &[&str]) -> Value {
    let finished = run(site, project, &[arguments, &["--json"]].concat()).ok();
    serde_json::from_slice(&finished.stdout).unwrap()
}

/// Returns the states of the images, and the numbers of their kept results.
fn states(site: &Site, project: &Path) -> Vec<(String, String, usize)> {
    let status = json(site, project, &["status"]);
    let images = status["images"].as_array().unwrap().iter();
    let kept = |image: &Value| image["kept"].as_array().unwrap().len();
    images.map(|image| (text(image, "name"), text(image, "state"), kept(image))).collect()
}

/// Writes the project of the images `base` and `one` with its artifacts in its own directory, which
/// belongs to the user, and builds it twice. Returns its file.
fn own_output(site: &Site, folder: &Path) -> std::path::PathBuf {
    site.stage.sh(&format!("cp -r {}/project {}", site.stage.path("").display(), folder.display()));
    let project = fs::read_to_string(site.file(WHO)).unwrap();
    let output = format!("output: {}\n", site.out(WHO).display());
    let (head, _) = project.split_once("  two:").unwrap();
    let file = folder.join("overcoat.yml");
    fs::write(&file, head.replace(&output, "")).unwrap();
    site.stage.give(folder, WHO);
    run(site, &file, &["build"]).ok();
    fs::write(folder.join("one/do"), "echo second >/etc/version\n").unwrap();
    run(site, &file, &["build"]).ok();
    file
}

fn expected(states: [(&str, &str, usize); 2]) -> Vec<(String, String, usize)> {
    states.map(|(name, state, kept)| (name.to_owned(), state.to_owned(), kept)).to_vec()
}

#[test]
fn results_of_another_project_are_neither_used_nor_replaced() {
    let site = Site::new();
    let out = site.out(WHO);
    site.built(WHO, &["base", "one"]);
    let project = fs::read_to_string(site.file(WHO)).unwrap();
    let (head, _) = project.split_once("  one:").unwrap();
    // The same image, another one with the same name, and one that only has the same file.
    for (images, file) in [
        ("  base: {kind: base, from: ../tree, provisioner: base}\n", "base.squashfs"),
        (
            "  one: {kind: base, from: ../tree, output: other.squashfs, provisioner: two}\n",
            ".overcoat/one.json",
        ),
        (
            "  other: {kind: base, from: ../tree, output: one.cpio.gz, format: squashfs}\n",
            "one.cpio.gz",
        ),
    ] {
        let (settings, _) = head.split_once("  base:").unwrap();
        let other = site.write("other.yml", &format!("{settings}{images}"));
        let files = site.files(WHO);
        let content = fs::read(out.join(file)).unwrap();
        let message = format!("{} belongs to the image ", out.join(file).display());
        let owner = format!("of the project {}", site.file(WHO).display());
        run(&site, &other, &["build"]).code(2).stderr_has(&[&message, &owner]);
        run(&site, &other, &["build", "-n"]).code(2).stderr_has(&[&message]);
        let status = json(&site, &other, &["status"]);
        assert_eq!(status["images"][0]["state"], "failed", "{status}");
        assert!(text(&status["images"][0], "error").contains(&owner));
        run(&site, &other, &["clean", "--kept"]).ok().stderr_has(&["nothing to remove"]);
        run(&site, &other, &["rollback", &text(&status["images"][0], "name")]).code(2);
        assert_eq!(site.files(WHO), files);
        assert!(fs::read(out.join(file)).unwrap() == content);
        assert_eq!(
            site.built(WHO, &[]),
            if files.len() > 4 { vec![] } else { vec!["two", "boot"] }
        );
    }
}

/// What the message advises.
#[test]
fn former_image_of_another_project_is_no_obstacle_after_clean() {
    let site = Site::new();
    site.built(WHO, &["base", "one"]);
    let project = fs::read_to_string(site.file(WHO)).unwrap();
    let (head, _) = project.split_once("  base:").unwrap();
    let image = "  one: {kind: base, from: ../tree, provisioner: two}\n";
    let other = site.write("other.yml", &format!("{head}{image}"));
    run(&site, &other, &["build"]).code(2);
    site.edit_project("  one: {base: base,", "  first: {base: base,");
    site.edit_project("overlays: [one]", "overlays: [first]");
    site.finish(WHO, "clean", &[]).ok().stderr_has(&["removed: 2 items"]);
    run(&site, &other, &["build"]).ok();
    // A project that uses another directory now has no results here.
    site.edit_project("artifacts", "others");
    let image = "  base: {kind: base, from: ../tree, provisioner: two}\n";
    let third = site.write("third.yml", &format!("{head}{image}"));
    run(&site, &third, &["build"]).ok();
}

#[test]
fn moved_and_copied_projects_keep_their_results() {
    let site = Site::new();
    let first = site.stage.path("first");
    let file = own_output(&site, &first);
    let complete = expected([("base", "up_to_date", 0), ("one", "up_to_date", 1)]);
    assert_eq!(states(&site, &file), complete);

    // A copy has results of its own.
    site.stage.sh(&format!("cp -a {0} {0}-copy", first.display()));
    let copy = site.stage.path("first-copy/overcoat.yml");
    assert_eq!(states(&site, &copy), complete);
    run(&site, &copy, &["rollback", "one"]).ok();
    assert_eq!(states(&site, &copy)[1].1, "rolled_back");
    assert_eq!(states(&site, &file), complete);
    // An image that the copy drops is a former one of the copy.
    let project = fs::read_to_string(&copy).unwrap();
    fs::write(&copy, project.split_once("  one:").unwrap().0).unwrap();
    let removed = json(&site, &copy, &["clean"]);
    assert_eq!(removed["removed"].as_array().unwrap().len(), 3, "{removed}");
    assert_eq!(states(&site, &file), complete);

    // With its directory, or only the project file, which has another name now.
    let moved = site.stage.path("moved");
    fs::rename(&first, &moved).unwrap();
    let file = moved.join("overcoat.yml");
    assert_eq!(states(&site, &file), complete);
    let renamed = moved.join("site.yml");
    fs::rename(&file, &renamed).unwrap();
    assert_eq!(states(&site, &renamed), complete);
    run(&site, &renamed, &["rollback", "one"]).ok();
    run(&site, &renamed, &["clean", "--kept"]).ok().stderr_has(&["removed: "]);
    run(&site, &renamed, &["build"]).ok().stderr_has(&["1 up to date, 1 rolled back, 0 built"]);
}

#[test]
fn directory_may_have_any_name() {
    let site = Site::new();
    let plain = site.stage.path("plain");
    own_output(&site, &plain);
    let folder = site.stage.path(OsStr::from_bytes(b"caf\xe9"));
    fs::rename(&plain, &folder).unwrap();
    let file = folder.join("overcoat.yml");
    fs::write(folder.join("one/do"), "echo third >/etc/version\n").unwrap();
    run(&site, &file, &["build"]).ok().stderr_has(&["1 up to date, 1 built"]);
    run(&site, &file, &["build"]).ok().stderr_has(&["2 up to date, 0 built"]);
    run(&site, &file, &["rollback", "one"]).ok();
    let project = fs::read_to_string(&file).unwrap();
    fs::write(&file, project.split_once("  one:").unwrap().0).unwrap();
    assert_eq!(json(&site, &file, &["status"])["leftovers"].as_array().unwrap().len(), 2);
    json(&site, &file, &["clean"]);
}
