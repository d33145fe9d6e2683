//! Intended changes of an overlay to its base are not reported, on that base and on newer ones.

use serde_json::{Value, json};

use super::{PASSWD, Pair, STATUS, base, findings, names, sha256};
use crate::support::newc::Archive;

/// The base, with a package that has a configuration file.
fn packaged(version: &str) -> Archive {
    let mut base = base();
    base.file("var/lib/dpkg/status", status(version, "install ok installed"));
    base.file("var/lib/dpkg/info/ntpd.list", "/.\n/etc\n/etc/ntpd.conf\n/usr/bin/ntpd\n");
    base.file("var/lib/dpkg/info/ntpd.md5sums", "0123456789abcdef0123456789abcdef  usr/bin/ntpd\n");
    base.program("usr/bin/ntpd", "#!/bin/sh\n");
    base
}

fn status(version: &str, state: &str) -> String {
    format!("{STATUS}\nPackage: ntpd\nStatus: {state}\nArchitecture: all\nVersion: {version}\n")
}

#[test]
fn removed_package_with_remaining_conffiles_is_not_reported() {
    let mut overlay = Archive::new();
    overlay.file("var/lib/dpkg/status", status("1", "deinstall ok config-files"));
    overlay.file("var/lib/dpkg/info/ntpd.list", "/.\n/etc\n/etc/ntpd.conf\n");
    overlay.whiteout("var/lib/dpkg/info/ntpd.md5sums");
    overlay.whiteout("usr/bin/ntpd");
    for version in ["1", "2"] {
        let found = Pair::new(&packaged(version), &overlay.gzip()).findings(&["--only", "fit"]);
        assert_eq!(found, [] as [Value; 0]);
    }
    // A package that a newer base has installed since is reported.
    let mut overlay = Archive::new();
    overlay.file("var/lib/dpkg/status", status("1", "deinstall ok config-files"));
    let found = Pair::new(&packaged("2"), &overlay.gzip()).findings(&["--only", "fit"]);
    assert_eq!(names(&found), ["fit/package-database".to_owned()].into(), "{found:#?}");
}

#[test]
fn directory_over_a_recorded_link_is_a_note() {
    let base = |target: &str| {
        let mut base = base();
        base.file("usr/share/doc/libtool-common/copyright", "free\n");
        base.link("usr/share/doc/libtool", target);
        base
    };
    let mut overlay = Archive::new();
    overlay.file("usr/share/doc/libtool/copyright", "free\n");
    overlay.file("bin/one", "1");
    let found = |target: &str, recorded: bool| -> Vec<String> {
        let pair = Pair::new(&base(target), &overlay.gzip());
        let over = |path: &str, target: &str| {
            json!({ "path": path, "change": "modified", "type": "directory", "mode": "0755",
                "uid": 0, "gid": 0, "below": { "type": "symlink", "mode": "0777", "uid": 0,
                "gid": 0, "target": target } })
        };
        if recorded {
            let doc = over("usr/share/doc/libtool", "libtool-common");
            pair.manifest(&json!([over("bin", "usr/bin"), doc]));
        }
        let found = pair.findings(&["--only", "fit/directory-over-link"]);
        let text = |finding: &Value, key: &str| finding[key].as_str().unwrap().to_owned();
        found.iter().map(|f| [text(f, "severity"), text(f, "path")].join(" ")).collect()
    };
    let errors = ["error /bin", "error /usr/share/doc/libtool"];
    assert_eq!(found("libtool-common", false), errors);
    // Without the base's files in /bin nothing works, so that stays an error.
    assert_eq!(found("libtool-common", true), ["error /bin", "note /usr/share/doc/libtool"]);
    assert_eq!(found("libtool-other", true), errors);
}

#[test]
fn conflicting_paths_of_independent_overlays_are_reported() {
    let overlay = |own: &str| {
        let mut overlay = Archive::new();
        overlay.file("etc/both.conf", "both\n");
        overlay.file("etc/own.conf", own);
        overlay.file("etc/plain.conf", own);
        overlay
    };
    let file = |content: &str| {
        json!({ "type": "file", "mode": "0644", "uid": 0, "gid": 0, "size": content.len(),
            "sha256": sha256(content.as_bytes()) })
    };
    let entry = |path: &str, change: &str, content: &str| {
        let mut entry = file(content);
        entry["path"] = path.into();
        entry["change"] = change.into();
        if change == "modified" {
            entry["below"] = file("plain = 1\n");
        }
        entry
    };
    let pair = Pair::new(&base(), &overlay("over\n").gzip());
    pair.manifest(&json!([
        entry("etc/both.conf", "added", "both\n"),
        entry("etc/own.conf", "added", "over\n"),
        entry("etc/plain.conf", "modified", "over\n"),
    ]));
    std::fs::write(pair.path("under.cpio.gz"), overlay("under\n").gzip()).unwrap();
    let only = ["--only", "fit/changed-beneath", "--json"];
    let output = pair.check(&[&["base.cpio", "under.cpio.gz", "o.cpio.gz"][..], &only].concat());
    let found = findings(&output);
    let messages: Vec<_> = found.iter().map(|found| (&found["path"], &found["message"])).collect();
    let wanted = [
        ("/etc/own.conf", "the overlay added it; under.cpio.gz has a file there, which is hidden"),
        (
            "/etc/plain.conf",
            "the overlay changed it; under.cpio.gz changes its content (10 to 6 bytes), which is \
             hidden",
        ),
    ]
    .map(|(path, message)| (json!(path), json!(message)));
    assert_eq!(messages, wanted.each_ref().map(|(path, message)| (path, message)));
}

#[test]
fn removed_accounts_that_own_files_of_the_base_are_reported() {
    let mut base = base();
    base.file("etc/passwd", format!("{PASSWD}files:x:700:0::/:/bin/sh\nfree:x:701:0::/:/bin/sh\n"));
    base.file("etc/group", "root:x:0:\nshadow:x:42:\ngames:x:60:\nsetgid:x:702:\n");
    base.put("opt/files", 0o100600, "").uid = 700;
    base.put("opt/setgid", 0o102755, "").gid = 702;
    let recorded = |path: &str, content: &[u8]| {
        let below = json!({ "type": "file", "mode": "0644", "uid": 0, "gid": 0,
            "size": content.len(), "sha256": sha256(content) });
        json!({ "path": path, "change": "modified", "below": below })
    };
    let of = |path: &str| {
        let entry = base.entries.iter().rfind(|entry| entry.name == path).unwrap();
        recorded(path, &entry.data)
    };
    let found = |make: &dyn Fn(&mut Archive)| -> Vec<String> {
        let mut overlay = Archive::new();
        make(&mut overlay);
        let pair = Pair::new(&base, &overlay.gzip());
        pair.manifest(&json!([of("etc/passwd"), of("etc/group")]));
        let found = pair.findings(&["--only", "fit/accounts"]);
        found.iter().map(|found| found["message"].as_str().unwrap().to_owned()).collect()
    };
    // Accounts without files may be removed, and accounts may be renamed.
    let free = |overlay: &mut Archive| {
        overlay.file("etc/passwd", format!("{PASSWD}named:x:700:0::/:/bin/sh\n"));
    };
    assert_eq!(found(&free), [] as [&str; 0]);
    // So may accounts whose files have another owner now.
    let given = |overlay: &mut Archive| {
        overlay.file("etc/passwd", PASSWD);
        overlay.put("opt/files", 0o100600, "");
    };
    assert_eq!(found(&given), [] as [&str; 0]);
    let removed = |overlay: &mut Archive| {
        overlay.file("etc/passwd", PASSWD);
        overlay.file("etc/group", "root:x:0:\nshadow:x:42:\ngames:x:60:\nsetgid:x:777:\n");
    };
    let messages = [
        "the group setgid has id 702 in the lower layers, and 777 here; id 702 owns /opt/setgid",
        "the user files (id 700) of the lower layers is missing; id 700 owns /opt/files",
    ];
    assert_eq!(found(&removed), messages);
}
