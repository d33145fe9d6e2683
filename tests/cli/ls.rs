//! `ls`, which lists the entries of images.

use serde_json::Value;

use crate::image_fixture::{SMALL, layers, overcoat};
use crate::snapshot::{self, Transcript};
use crate::support::stage::{BOTH_USERS, Stage, Who, finish};

#[test]
fn ls_lists_names_owners_and_layers() {
    let stage = Stage::new();
    let (base, over) = layers(&stage, SMALL);
    let _settings = snapshot::bind("");
    for who in BOTH_USERS {
        let mut transcript = Transcript::new(stage.path("layers"));
        for options in ["", " :/bin", " -d :bin", " -R :usr/share", " -l :etc", " --layers :etc"] {
            transcript.run(stage.overcoat(who), &format!("ls base.squashfs over.cpio.gz{options}"));
        }
        insta::assert_snapshot!("ls_names_owners_and_layers", transcript.text());
        let ls = |rest: &[&str]| overcoat(&stage, who, "ls", &[&base, &over], rest);
        let json: Value = serde_json::from_slice(&ls(&["-R", "--json"]).ok().stdout).unwrap();
        assert_eq!(json["schema"], 1);
        let entries = json["entries"].as_array().unwrap();
        let motd = entries.iter().find(|entry| entry["path"] == "etc/motd").unwrap();
        assert_eq!((&motd["layer"], &motd["hides"][0]["size"]), (&1.into(), &14.into()));
        assert!(entries.iter().any(|e| e["path"] == "etc/issue" && e["deleted"] == true));
    }
}

#[test]
fn colours_follow_the_environment() {
    let stage = Stage::new();
    let (base, _) = layers(&stage, SMALL);
    let coloured = |variables: &[(&str, &str)]| {
        let mut ls = stage.overcoat(Who::Unprivileged);
        ls.env_remove("NO_COLOR").envs(variables.iter().copied()).args(["ls", "-l"]).arg(&base);
        finish(&mut ls).ok().text().contains('\x1b')
    };
    assert!(!coloured(&[]), "a pipe");
    assert!(coloured(&[("CLICOLOR_FORCE", "1")]));
    assert!(!coloured(&[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")]));
    // The labels of errors and warnings, too.
    for (variable, label) in [("CLICOLOR_FORCE", "\x1b[31merror:\x1b[0m"), ("NO_COLOR", " error:")]
    {
        let mut cat = stage.overcoat(Who::Unprivileged);
        cat.env_remove("NO_COLOR").env(variable, "1").arg("cat").arg(&base).arg(":/none");
        finish(&mut cat).code(1).stderr_has(&[label]);
    }
}

#[test]
fn ls_agrees_with_find_on_a_mounted_debian_base() {
    let stage = Stage::new();
    let debian = stage.debian();
    let found = stage.sh(&format!(
        "mkdir m; mount -o loop,ro {} m; cd m
         find . -mindepth 1 -printf '%P %m %U %G %y %s %T@ %l\\n' | LC_ALL=C sort",
        debian.display()
    ));
    let listed = overcoat(&stage, Who::Root, "ls", &[&debian], &["-R", "--json"]).ok();
    let json: Value = serde_json::from_slice(&listed.stdout).unwrap();
    let text = |value: &Value| value.as_str().unwrap_or_default().replace("\\x5c", "\\");
    let mut lines: Vec<String> = json["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| {
            let (kind, target) = (entry["type"].as_str().unwrap(), text(&entry["target"]));
            let letter = match kind {
                "file" => "f",
                "directory" => "d",
                "symlink" => "l",
                "char-device" => "c",
                "block-device" => "b",
                "fifo" => "p",
                _ => "s",
            };
            format!(
                "{} {} {} {} {letter} {} {} {target}",
                text(&entry["path"]),
                entry["mode"].as_str().unwrap().trim_start_matches('0'),
                entry["uid"],
                entry["gid"],
                entry["size"].as_u64().map_or("-".to_owned(), |size| size.to_string()),
                entry["mtime"],
            )
        })
        .collect();
    // Only files have a size, and times are in whole seconds.
    let mut expected: Vec<String> = found
        .lines()
        .map(|line| {
            let mut words: Vec<&str> = line.split(' ').collect();
            let at = words.len() - 4;
            if words[at] != "f" {
                words[at + 1] = "-";
            }
            words[at + 2] = words[at + 2].split('.').next().unwrap();
            words.join(" ")
        })
        .collect();
    lines.sort();
    expected.sort();
    assert!(expected.len() > 5000);
    let different = expected.iter().zip(&lines).find(|(a, b)| a != b);
    assert_eq!((different, expected.len()), (None, lines.len()));
}
