//! `status`; `daily_life` has its text.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use serde_json::{Value, json};

use crate::project_fixture::{Site, text};
use crate::support::stage::Who;

const WHO: Who = Who::Unprivileged;

fn states(status: &Value) -> Vec<(String, String)> {
    let images = status["images"].as_array().unwrap().iter();
    images.map(|image| (text(image, "name"), text(image, "state"))).collect()
}

fn state(status: &Value, name: &str) -> String {
    states(status).into_iter().find(|(image, _)| image == name).unwrap().1
}

#[test]
fn status_reports_state_base_and_reasons() {
    let site = Site::new();
    let status = site.json(WHO, "status", &[]);
    assert_eq!(status["schema"], 1);
    assert_eq!(states(&status).len(), 4);
    assert_eq!(state(&status, "two"), "missing");
    assert_eq!(status["images"][0]["reasons"], json!(["it was not built yet"]));
    assert!(!site.out(WHO).exists(), "it writes nothing");
    site.finish(WHO, "status", &["--exit-code"]).code(1);
    site.built(WHO, &[]);
    site.finish(WHO, "status", &["--exit-code"]).ok();

    fs::remove_file(site.out(WHO).join("vmlinuz")).unwrap();
    site.edit("base/files/etc/name.j2", "{{ name }}", "{{ name }}!");
    site.built(WHO, &["base"]);
    site.write("two/files/srv/two", "changed\n");
    site.finish(WHO, "rollback", &["base"]).ok();
    let status = site.json(WHO, "status", &[]);
    assert_eq!(state(&status, "base"), "rolled_back");
    assert_eq!(state(&status, "one"), "up_to_date");
    assert_eq!(state(&status, "two"), "due");
    assert_eq!(state(&status, "boot"), "missing");
    let one = &status["images"][1];
    assert_eq!(one["base"]["name"], "base");
    assert_eq!(one["base"]["current"], true);
    let artifact = fs::read(site.out(WHO).join("one.cpio.gz")).unwrap();
    assert_eq!(one["size"], artifact.len());
    assert_eq!(status["images"][2]["reasons"], json!(["two: files/srv/two changed"]));
    assert_eq!(status["images"][0]["kept"].as_array().unwrap().len(), 1);
    site.finish(
        WHO,
        "rollback",
        &["base", "--to", &text(&status["images"][0]["kept"][0], "sha256")],
    )
    .ok();
    let one = site.json(WHO, "status", &["one"]);
    assert_eq!(states(&one).len(), 1);
    assert_eq!(one["images"][0]["base"]["current"], false);
    assert_eq!(one["images"][0]["other_layers"], json!(["base.squashfs"]));
    site.finish(WHO, "status", &["--exit-code"]).code(1);
    site.finish(WHO, "status", &["tow"]).code(2).stderr_has(&["did you mean `two`?"]);
}

/// A mistake in one image does not hide the state of the others.
#[test]
fn status_reports_the_mistake_of_an_image() {
    let site = Site::new();
    site.built(WHO, &[]);
    site.write("one/files/etc/greeting.j2", "{{ greeting\n");
    let status = site.json(WHO, "status", &[]);
    assert_eq!(state(&status, "one"), "failed");
    assert!(text(&status["images"][1], "error").contains("greeting.j2"));
    assert_eq!(state(&status, "two"), "up_to_date");
    assert!(site.finish(WHO, "status", &[]).ok().text().contains("one    overlay  error "));
    site.finish(WHO, "status", &["--exit-code"]).code(1);
}

#[test]
fn status_reads_no_artifact() {
    let site = Site::new();
    site.built(WHO, &[]);
    for name in site.files(WHO) {
        fs::set_permissions(site.out(WHO).join(name), Permissions::from_mode(0o000)).unwrap();
    }
    // The records have the times of the files with these permissions.
    for name in ["base", "one", "two", "boot"] {
        let path = site.out(WHO).join(format!(".overcoat/{name}.json"));
        let mut record: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        for output in record["outputs"].as_array_mut().unwrap() {
            let meta = fs::metadata(site.out(WHO).join(text(output, "file"))).unwrap();
            output["stamp"]["changed"] = json!([meta.ctime(), meta.ctime_nsec()]);
        }
        fs::write(&path, record.to_string()).unwrap();
    }
    site.finish(WHO, "status", &["--exit-code"]).ok();
}
