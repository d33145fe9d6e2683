//! Lints of configuration files: texts that the programs reject or ignore, and similar ones that
//! they accept.

mod boot;
mod devices;
mod network;
mod random;

use super::{PASSWD, Pair, base};
use crate::support::newc::Archive;

/// Returns the findings of a group `config` as `lint path:line: message`, for an overlay that
/// `make` builds on a base that `prepare` completes.
fn found(prepare: impl FnOnce(&mut Archive), make: impl FnOnce(&mut Archive)) -> Vec<String> {
    let (mut base, mut overlay) = (base(), Archive::new());
    prepare(&mut base);
    make(&mut overlay);
    let findings = Pair::new(&base, &overlay.gzip()).findings(&["--only", "config"]);
    let text = |finding: &serde_json::Value, key: &str| finding[key].as_str().unwrap().to_owned();
    let shown = findings.iter().map(|finding| {
        let (lint, path) = (text(finding, "lint"), text(finding, "path"));
        let line = finding["line"].as_u64().map(|line| format!(":{line}")).unwrap_or_default();
        format!("{} {path}{line}: {}", lint.trim_start_matches("config/"), text(finding, "message"))
    });
    shown.collect()
}

/// Checks the findings of an overlay with these files. Each expected text is the beginning of a
/// finding.
#[track_caller]
fn assert_found(files: &[(&str, &str)], expected: &[&str]) {
    let make = |overlay: &mut Archive| {
        for (path, content) in files {
            overlay.file(path, content);
        }
    };
    let findings = found(|_| {}, make);
    let is_expected = findings.len() == expected.len()
        && findings.iter().zip(expected).all(|(finding, start)| finding.starts_with(start));
    assert!(is_expected, "{files:?}\nexpected {expected:#?}\nfound {findings:#?}");
}

#[test]
fn invalid_accounts_are_reported() {
    let passwd = |line: &str| format!("{PASSWD}{line}\n");
    for (line, expected) in [
        ("cut:x:10", "account-line /etc/passwd:3: it has 3 fields, not 7"),
        ("", "account-line /etc/passwd:3: it has 1 fields"),
        ("who:*:a:60::/:/bin/sh", "account-line /etc/passwd:3: its user or group id"),
        ("games:*:7:60::/:/bin/sh", "account-line /etc/passwd:3: games is also in line 2"),
        ("who:*:7:61::/:/bin/sh", "account-line /etc/passwd:3: who has the group id 61"),
        ("toor:*:0:0::/:/bin/sh", "uid-zero /etc/passwd:3: toor has user id 0"),
        ("who:x:7:60::/:/bin/sh", "shadow /etc/passwd:3: who has no line in /etc/shadow"),
        ("who:*:1000:60::/:/bin/zsh", "shell /etc/passwd:3: the shell of who, /bin/zsh, does not"),
        (
            "who:*:1000:60::/:/etc/group",
            "shell /etc/passwd:3: the shell of who, /etc/group, is not",
        ),
    ] {
        assert_found(&[("etc/passwd", &passwd(line))], &[expected]);
    }
    for line in ["# comment", "+::::::", "who:*:7:60::/:", "who:*:7:60::/:/usr/sbin/nologin"] {
        assert_found(&[("etc/passwd", &passwd(line))], &[]);
    }
    let group = "root:x:0:\nshadow:x:42:\n";
    let expected = "account-line /etc/passwd:2: games has the group id 60";
    assert_found(&[("etc/group", group)], &[expected]);
    let shadow = "root:*:19000::::::\nother:*:19000::::::\ngames:*:19000:::::\n";
    let expected = [
        "account-line /etc/shadow:3: it has 8 fields, not 9",
        "shadow /etc/shadow: all users can access it",
        "shadow /etc/passwd:2: games has no line in /etc/shadow",
        "shadow /etc/shadow:2: other has no line in /etc/passwd",
    ];
    assert_found(&[("etc/shadow", shadow)], &expected);
}

#[test]
fn faults_of_the_base_are_reported_if_an_overlay_causes_them() {
    let with_user = |base: &mut Archive| {
        base.file("etc/passwd", format!("{PASSWD}who:*:1000:60::/:/usr/bin/demo\n"));
    };
    let removed = found(with_user, |overlay| overlay.whiteout("usr/bin/demo"));
    let expected = "shell /etc/passwd:3: the shell of who, /usr/bin/demo, does not exist";
    assert_eq!(removed, [expected]);
    // The fault was there before.
    let broken = |base: &mut Archive| {
        base.file("etc/passwd", format!("{PASSWD}who:*:1000:60::/:/bin/zsh\n"));
    };
    let moved = format!("{PASSWD}new:*:1001:60::/:/bin/sh\nwho:*:1000:60::/:/bin/zsh\n");
    assert_eq!(found(broken, |overlay| drop(overlay.file("etc/passwd", moved))), [""; 0]);
}
