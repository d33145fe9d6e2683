//! Links, scripts, needed files and PAM modules.

use std::fs;

use serde_json::Value;

use super::{Pair, STATUS, base, findings};
use crate::support::newc::Archive;

/// Returns severity, path and message of each finding.
fn describe(findings: &[Value]) -> Vec<String> {
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap().to_owned();
    let line = |f| format!("{} {}: {}", text(f, "severity"), text(f, "path"), text(f, "message"));
    findings.iter().map(line).collect()
}

#[test]
fn base_links_that_a_changed_link_breaks_are_reported() {
    let mut base = base();
    base.program("opt/v1/bin/app", "#!/bin/sh\n");
    base.link("opt/app", "v1");
    base.link("usr/bin/app", "/opt/app/bin/app");
    base.file("opt/conf.d/app", "a = 1\n");
    base.link("etc/app", "/opt/conf.d/app");
    let mut overlay = Archive::new();
    overlay.file("opt/v2/bin/other", "");
    overlay.link("opt/app", "v2");
    let pair = Pair::new(&base, &overlay.gzip());
    let broken = "warning /usr/bin/app: the overlay removes its target /opt/app/bin/app";
    assert_eq!(describe(&pair.findings(&["--only", "works"])), [broken]);
    // With several overlays, the one with the new link is responsible.
    fs::write(pair.path("more.cpio"), Archive::new().bytes()).unwrap();
    let images = ["base.cpio", "o.cpio.gz", "more.cpio", "--only", "works", "--json"];
    let found = findings(&pair.check(&images));
    assert_eq!((found.len(), &found[0]["layer"]), (1, &Value::from("o.cpio.gz")), "{found:#?}");
    assert!(found[0].get("others").is_none(), "{found:#?}");

    // A file replaces a link to a directory; a link replaces a file.
    let mut overlay = Archive::new();
    overlay.file("opt/app", "");
    let found = Pair::new(&base, &overlay.gzip()).findings(&["--only", "works"]);
    assert_eq!(describe(&found), [broken]);
    let mut overlay = Archive::new();
    overlay.link("opt/conf.d/app", "none");
    let found = Pair::new(&base, &overlay.gzip()).findings(&["--only", "works"]);
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!(found[0]["path"], "/opt/conf.d/app");

    // A changed link is no fault if all targets exist.
    let mut overlay = Archive::new();
    overlay.program("opt/v2/bin/app", "#!/bin/sh\n");
    overlay.link("opt/app", "v2");
    let pair = Pair::new(&base, &overlay.gzip());
    assert_eq!(describe(&pair.findings(&["--only", "works"])), [] as [&str; 0]);
}

#[test]
fn link_loop_in_a_program_directory_is_not_an_error() {
    let mut overlay = Archive::new();
    overlay.whiteout("usr/share/obsolete");
    overlay.link("opt", "opt");
    let pair = Pair::new(&base(), &overlay.gzip());
    let found = pair.findings(&["--only", "works"]);
    let dangling = "warning /opt: its target opt does not exist";
    assert_eq!(describe(&found), [dangling]);
}

#[test]
fn packaged_script_without_interpreter_is_a_note() {
    let script = "#! /usr/bin/env python3\nprint()\n";
    let package = |archive: &mut Archive| {
        use md5::Digest;
        let status = "Package: iproute2\nStatus: install ok installed\nArchitecture: amd64\n\
            Version: 6.1.0-3\nSuggests: python3:any\n";
        archive.file("var/lib/dpkg/status", format!("{STATUS}\n{status}"));
        archive.file("var/lib/dpkg/info/iproute2.list", "/.\n/usr/bin/routel\n");
        let sums = format!("{:x}  usr/bin/routel\n", md5::Md5::digest(script));
        archive.file("var/lib/dpkg/info/iproute2.md5sums", sums);
        archive.program("usr/bin/routel", script);
    };
    let what = "/usr/bin/routel: its interpreter python3 does not exist";
    let note = format!("note {what}; the file is part of the package iproute2");
    let mut overlay = Archive::new();
    package(&mut overlay);
    let pair = Pair::new(&base(), &overlay.gzip());
    assert_eq!(describe(&pair.findings(&["--only", "works"])), std::slice::from_ref(&note));
    let mut whole = base();
    package(&mut whole);
    fs::write(pair.path("whole.cpio"), whole.bytes()).unwrap();
    let output = pair.check(&["whole.cpio", "--only", "works", "--json"]);
    assert_eq!((output.code, describe(&findings(&output))), (0, vec![note]));

    // An error if the script was changed, or if the overlay removes the interpreter.
    let error = format!("error {what}");
    let mut changed = overlay.clone();
    changed.program("usr/bin/routel", script.replace("print", "exit"));
    let found = Pair::new(&base(), &changed.gzip()).findings(&["--only", "works"]);
    assert_eq!(describe(&found), std::slice::from_ref(&error));
    let mut base = base();
    base.program("usr/bin/python3", "#!/bin/sh\n");
    overlay.whiteout("usr/bin/python3");
    let found = Pair::new(&base, &overlay.gzip()).findings(&["--only", "works"]);
    assert_eq!(describe(&found), [error]);
}

/// Returns the lint's findings for the overlay that `make` builds.
fn of(base: &Archive, lint: &str, make: impl FnOnce(&mut Archive)) -> Vec<String> {
    let mut overlay = Archive::new();
    make(&mut overlay);
    describe(&Pair::new(base, &overlay.gzip()).findings(&["--only", lint]))
}

#[test]
fn removed_needed_files_are_reported() {
    let base = base();
    let gone = |path: &str| of(&base, "works/needed", |overlay| overlay.whiteout(path));
    let what = "the overlay removes this file of the base";
    for path in ["usr/sbin/init", "usr/bin/sh", "etc/group", "var/lib/dpkg/status"] {
        assert_eq!(gone(path), [format!("error /{path}: {what}")]);
    }
    let status = [format!("error /var/lib/dpkg/status: {what}")];
    assert_eq!(gone("var/lib/dpkg"), status);
    assert_eq!(gone("sbin"), [format!("error /sbin/init: {what}")]);
    assert_eq!(gone("etc/plain.conf"), [] as [&str; 0]);
    // A directory replaces the file.
    let found = of(&base, "works/needed", |overlay| {
        overlay.put("etc/group", 0o040755, "");
    });
    assert_eq!(found, [format!("error /etc/group: {what}")]);
    // The file may be elsewhere, or the base may lack it.
    let found = of(&base, "works/needed", |overlay| {
        overlay.program("opt/init", "#!/bin/sh\n");
        overlay.link("usr/sbin/init", "/opt/init");
    });
    assert_eq!(found, [] as [&str; 0]);
    let found = of(&Archive::new(), "works/needed", |overlay| overlay.whiteout("etc/passwd"));
    assert_eq!(found, [] as [&str; 0]);
    let target = "etc/systemd/system/default.target";
    let found = of(&base, "works/dangling-link", |overlay| {
        overlay.link(target, "/usr/lib/systemd/system/none.target");
    });
    assert!(found[0].starts_with(&format!("error /{target}: ")), "{found:#?}");
}

#[test]
fn inaccessible_needed_paths_are_reported() {
    let base = base();
    let shut = |path: &str, mode: u32| {
        of(&base, "works/shut", |overlay| {
            let entry = base.entries.iter().find(|entry| entry.name == path).unwrap();
            let (kind, data) = (entry.mode & 0o170000, entry.data.clone());
            if path == "." {
                overlay.entries.clear();
            }
            overlay.put(path, kind | mode, data);
        })
    };
    let only = |severity: &str, path: &str, what: &str, mode: &str, was: &str| {
        [format!("{severity} /{path}: not every user can {what}: mode {mode}, {was} in the base")]
    };
    assert_eq!(shut(".", 0o700), only("error", "", "enter it", "0700", "0755"));
    assert_eq!(shut("usr", 0), only("error", "usr", "enter it", "0000", "0755"));
    assert_eq!(shut("etc/passwd", 0o600), only("error", "etc/passwd", "read it", "0600", "0644"));
    let library = "usr/lib/libdemo.so.1.0";
    assert_eq!(shut(library, 0o700), only("error", library, "read it", "0700", "0644"));
    assert_eq!(shut("usr/bin/sh", 0o700), only("error", "usr/bin/sh", "run it", "0700", "0755"));
    let demo = "usr/bin/demo";
    assert_eq!(shut(demo, 0o750), only("warning", demo, "run it", "0750", "0755"));
    // Other paths may be restricted, and the root need not be listable.
    let none = [] as [&str; 0];
    assert_eq!(shut(".", 0o711), none);
    assert_eq!(shut("usr/share/things", 0o700), none);
    assert_eq!(shut("etc/demo.conf", 0o600), none);
    let of_group = of(&base, "works/shut", |overlay| {
        overlay.put(demo, 0o100750, &super::programs().program).gid = 60;
    });
    assert_eq!(of_group, none);
    // Without a base only directories are checked.
    let mut alone = Archive::new();
    alone.file("etc/passwd", "").mode = 0o100600;
    let pair = Pair::new(&alone, b"");
    let check =
        || describe(&findings(&pair.check(&["base.cpio", "--only", "works/shut", "--json"])));
    assert_eq!(check(), none);
    alone.entries[0].mode = 0o040700;
    fs::write(pair.path("base.cpio"), alone.bytes()).unwrap();
    assert_eq!(check(), ["error /: not every user can enter it: mode 0700"]);
}

#[test]
fn missing_pam_modules_are_reported() {
    let mut base = base();
    let dir = "usr/lib/x86_64-linux-gnu/security";
    base.file(&format!("{dir}/pam_unix.so"), "");
    base.file("etc/pam.d/old", "auth required pam_old.so\n");
    let rules = "#%PAM-1.0\n@include common-auth\nauth required pam_unix.so nullok\n\
        auth\t[success=1 default=ignore]\tpam_ldap.so\naccount required pam_sss.so\n\
        -session optional pam_systemd.so\nsession include none\nsession optional pam_mail.so\n\
        session [success=ok module_unknown=ignore default=bad] pam_selinux.so\n\
        auth required /lib/x86_64-linux-gnu/security/pam_unix.so\n";
    let put = |overlay: &mut Archive| {
        overlay.file("etc/pam.d/sshd", rules);
        overlay.file("etc/pam.d/sshd.dpkg-dist", "auth required pam_none.so\n");
        overlay.file("etc/pam.d/old", "auth required pam_old.so\n# more\n");
    };
    let named = |severity: &str, module: &str| {
        format!("{severity} /etc/pam.d/sshd: module {module} is not installed")
    };
    let found = of(&base, "works/pam-module", put);
    assert_eq!(found, [named("error", "pam_sss.so"), named("warning", "pam_ldap.so")]);
    // An overlay removes the module of a base's rule.
    base.file("etc/pam.d/login", "auth required pam_unix.so\n");
    let removed = of(&base, "works/pam-module", |overlay: &mut Archive| {
        overlay.whiteout(&format!("{dir}/pam_unix.so"));
        overlay.file(&format!("{dir}/pam_deny.so"), "");
    });
    assert_eq!(removed, ["error /etc/pam.d/login: module pam_unix.so is not installed"]);
    // A root without PAM modules is incomplete.
    assert_eq!(of(&super::base(), "works/pam-module", put), [] as [&str; 0]);
}
