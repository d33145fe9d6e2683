//! Permissions, secrets and control characters: the state that a package ships is distinguished
//! from changes by the provisioner.

use serde_json::Value;

use super::{Pair, base, findings, names};
use crate::support::newc::{Archive, PROGRAM};

const PAM: &str = "auth required pam_unix.so\n";
const SETUID: u32 = 0o104755;

/// The base, with a package that has a program, a setuid program and a PAM file.
fn packaged(version: &str) -> Archive {
    let mut base = base();
    package(&mut base, version);
    base
}

fn package(archive: &mut Archive, version: &str) {
    let login = format!("login of {version}");
    let sums = [("usr/bin/login", &login[..]), ("bin/mount", "mount")];
    let sums = sums.map(|(path, content)| format!("{:x}  {path}\n", md5(content)));
    let paths = "/.\n/usr/bin/login\n/bin/mount\n/etc/pam.d/login\n";
    let status = format!(
        "{}\nPackage: login\nStatus: install ok installed\nArchitecture: amd64\nVersion: {version}\n\
         Conffiles:\n /etc/pam.d/login {:x}\n",
        super::STATUS,
        md5(PAM)
    );
    archive.file("var/lib/dpkg/status", status);
    archive.file("var/lib/dpkg/info/login.list", paths);
    archive.file("var/lib/dpkg/info/login.md5sums", sums.concat());
    archive.put("usr/bin/login", PROGRAM, login);
    archive.put("usr/bin/mount", SETUID, "mount");
    archive.file("etc/pam.d/login", PAM);
}

fn md5(content: &str) -> md5::digest::Output<md5::Md5> {
    use md5::Digest;
    md5::Md5::digest(content)
}

/// Returns lint, severity and path of the findings in an overlay.
fn found(base: &Archive, make: impl FnOnce(&mut Archive)) -> Vec<String> {
    let mut overlay = Archive::new();
    make(&mut overlay);
    let findings = Pair::new(base, &overlay.gzip()).findings(&["--only", "safe"]);
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap().to_owned();
    findings
        .iter()
        .map(|f| [text(f, "lint"), text(f, "severity"), text(f, "path")].join(" "))
        .collect()
}

#[test]
fn changed_files_of_a_package_are_warnings() {
    let base = packaged("1");
    let of = |make: &dyn Fn(&mut Archive)| found(&base, make);
    assert_eq!(
        of(&|overlay| {
            overlay.put("usr/bin/login", SETUID, "login of 1");
        }),
        ["safe/setuid warning /usr/bin/login"]
    );
    assert_eq!(
        of(&|overlay| {
            overlay.file("etc/pam.d/login", format!("auth sufficient pam_permit.so\n{PAM}"));
        }),
        ["safe/pam warning /etc/pam.d/login"]
    );
    // With the same size.
    assert_eq!(
        of(&|overlay| {
            overlay.put("usr/bin/mount", SETUID, "other");
        }),
        ["safe/setuid warning /usr/bin/mount"]
    );
    assert_eq!(
        of(&|overlay| {
            overlay.put("usr/bin/mount", SETUID, "mount");
        }),
        [] as [&str; 0]
    );
    let token = "t=ghp_abcdefghijklmnopqrstuvwxyz0123456789\n";
    assert_eq!(
        of(&|overlay| {
            overlay.file("etc/pam.d/login", format!("{PAM}# {token}"));
        }),
        ["safe/token error /etc/pam.d/login", "safe/pam warning /etc/pam.d/login"]
    );
    // Files that a new package ships are notes.
    let brought = found(&super::base(), |overlay| package(overlay, "2"));
    assert_eq!(brought, ["safe/setuid note /usr/bin/mount", "safe/pam note /etc/pam.d/login"]);
}

#[test]
fn setuid_of_a_package_file_needs_evidence_to_be_a_note() {
    let of = |base: &Archive, make: &dyn Fn(&mut Archive)| {
        let mut overlay = Archive::new();
        package(&mut overlay, "2");
        make(&mut overlay);
        let found = Pair::new(base, &overlay.gzip()).findings(&["--only", "safe/setuid"]);
        let login = found.iter().filter(|finding| finding["path"] == "/usr/bin/login");
        let text = |finding: &Value, key: &str| finding[key].as_str().unwrap().to_owned();
        login.map(|f| [text(f, "severity"), text(f, "message")]).next().unwrap()
    };
    let setuid = |overlay: &mut Archive| {
        overlay.put("usr/bin/login", SETUID, "login of 2");
    };
    // The provisioner may have run `chmod u+s`.
    let [severity, message] = of(&super::base(), &setuid);
    assert_eq!(severity, "warning");
    let text = "its package login is not known to set these permissions";
    assert!(message.ends_with(text), "{message}");
    // A script that sets no permissions, and one that sets those of another file.
    for script in ["update-alternatives --install /bin/login", "chmod 4755 /bin/su"] {
        let [severity, _] = of(&super::base(), &|overlay| {
            setuid(overlay);
            overlay.file("var/lib/dpkg/info/login.postinst", script);
        });
        assert_eq!(severity, "warning");
    }
    // Like lldpd's.
    let [severity, message] = of(&super::base(), &|overlay| {
        setuid(overlay);
        let script = "for i in /usr/bin/login; do dpkg-statoverride --add a b 4750 $i; done";
        overlay.file("var/lib/dpkg/info/login.postinst", script);
    });
    assert_eq!(severity, "note");
    let text = "the postinst of its package login names it and sets permissions";
    assert!(message.ends_with(text), "{message}");
    // The base has the bit in an older version, or lacks it.
    let mut base = packaged("1");
    assert_eq!(of(&base, &setuid)[0], "warning");
    base.put("usr/bin/login", SETUID, "login of 1");
    let [severity, message] = of(&base, &setuid);
    assert_eq!(severity, "note");
    assert!(message.ends_with("the package login ships it this way"), "{message}");
}

#[test]
fn deleted_rules_are_reported_unless_their_package_was_removed() {
    let mut base = packaged("1");
    base.file("etc/sudoers.d/site", "a ALL=(ALL) ALL\n");
    let all = ["safe/sudoers warning /etc/sudoers.d/site", "safe/pam warning /etc/pam.d"];
    let gone = found(&base, |overlay| {
        overlay.whiteout("etc/pam.d");
        overlay.whiteout("etc/sudoers.d/site");
    });
    assert_eq!(gone, all);
    let one = found(&base, |overlay| overlay.whiteout("etc/pam.d/login"));
    assert_eq!(one, ["safe/pam warning /etc/pam.d/login"]);
    let purged = found(&base, |overlay| {
        overlay.whiteout("etc/pam.d/login");
        overlay.file("var/lib/dpkg/status", super::STATUS);
    });
    assert!(purged.is_empty(), "{purged:?}");
}

#[test]
fn control_characters_of_an_image_are_escaped() {
    let evil = "\u{1b}]0;owned\u{7}\u{202e}x";
    let mut overlay = Archive::new();
    overlay.file("etc/resolv.conf", format!("nameserver {evil}\n"));
    overlay.file(
        "etc/systemd/system/tool.service",
        format!("[Unit]\nRequires={evil}.service\n[Service]\nUser={evil}\nExecStart=/{evil}\n"),
    );
    overlay.file("etc/shadow", format!("root:*:1::::::\ngames:*:1::::::\n{evil}::1::::::\n"));
    overlay.link(&format!("etc/{evil}"), evil);
    let pair = Pair::new(&base(), &overlay.gzip());
    for form in [&[][..], &["--json"], &["--sarif"]] {
        let output = pair.check(&[&["base.cpio", "o.cpio.gz"], form].concat());
        let all = output.stdout + &output.stderr;
        assert!(all.contains("owned"), "{all}");
        let bad = |c: char| c == '\u{202e}' || c.is_control() && c != '\n';
        assert!(!all.contains(bad) && !all.contains("\\u001b"), "{all}");
    }
}

#[test]
fn proxy_password_is_not_printed() {
    let password = "secret".repeat(20);
    let mut overlay = Archive::new();
    overlay.file("etc/environment", format!("http_proxy=http://user:{password}@proxy:3128\n"));
    overlay.file("etc/nginx/site.conf", "proxy_pass http://backend:80;\n");
    overlay.file("etc/tool/x.py", "proxy = 'http://example.org'\n");
    let pair = Pair::new(&base(), &overlay.gzip());
    let output = pair.check(&["base.cpio", "o.cpio.gz", "--json", "--only", "safe"]);
    assert!(!output.stdout.contains("secret"), "{}", output.stdout);
    let found = findings(&output);
    let lints = names(&found);
    assert_eq!(lints, ["safe/credentials", "safe/proxy"].map(str::to_owned).into(), "{found:#?}");
}

#[test]
fn secrets_in_scripts_are_found_in_linear_time() {
    let body = "MIIEpAIBAAKCAQEA3Tz2mr7SZiAMfQyuvBjM9Oi9o5dtLyOuHgYkvHS8xYoxhzLr\n".repeat(3);
    let key = format!("-----BEGIN PRIVATE KEY-----\n{body}-----END PRIVATE KEY-----\n");
    let token = "ghp_abcdefghijklmnopqrstuvwxyz0123456789";
    let found = found(&base(), |overlay| {
        overlay.program("usr/local/bin/key", format!("#!/bin/sh\ncat <<E\n{key}E\n"));
        overlay.program("usr/local/bin/token", format!("#!/bin/sh\nexport T={token}\n"));
        // Takes hours if each prefix is read to the end of the file.
        for number in 0..8 {
            overlay.file(&format!("opt/{number}"), "ghp_".repeat((256 << 10) / 4));
        }
    });
    let reported =
        ["safe/private-key error /usr/local/bin/key", "safe/token error /usr/local/bin/token"];
    assert_eq!(found, reported);
}

#[test]
fn credentials_files_without_credentials_are_not_reported() {
    let found = found(&base(), |overlay| {
        for (path, content) in [
            ("root/.my.cnf", "[client]\nuser=root\npassword=\n"),
            ("root/.netrc", "# password secret\nmachine a.org login b password <password>\n"),
            ("etc/apt/auth.conf", "# machine a.org login b password changeme\n"),
            (
                "etc/apt/sources.list",
                "deb https://b@a.org/ x y\n# deb https://b:{{ c }}@a.org/ x y\n",
            ),
            (
                "etc/apt/sources.list.d/a.list",
                "deb [arch=amd64] https://a.org/x:y/@z x y\ndeb https://a.org b:c@d\n",
            ),
            ("etc/ppp/pap-secrets", "# c s secret\n* host \"\" *\nguest host \"*\" -\n"),
            ("etc/fstab", "//a/b /mnt cifs credentials=/etc/c,password=,ro 0 0\n"),
            ("root/.s3cfg", "[default]\nsecret_key = ${SECRET}\n"),
            ("root/.curlrc", "user = name\nurl = \"http://a.org\"\nuser-agent = a:b\n"),
            ("opt/a/.git/config", "[remote \"o\"]\n\turl = https://b@a.org/c\n"),
            ("opt/b/.git/config", "[remote \"o\"]\n\turl = https://b:{{ token }}@a.org/c\n"),
            ("root/.config/rclone/rclone.conf", "[a]\npass =\ntype = local\n"),
            ("opt/tool/key.ppk", "PuTTY-User-Key-File-3 is how one begins\n"),
            ("etc/wireguard/wg0.conf", "[Interface]\nPrivateKey = <private key>\n"),
        ] {
            overlay.file(path, content);
        }
    });
    assert_eq!(found, [] as [&str; 0]);
}

#[test]
fn secrets_in_comments_and_urls_are_reported() {
    let token = "t=x&token=a1b2c3d4e5f6g7h8i9";
    let reported = found(&base(), |overlay| {
        for (path, content) in [
            ("root/.netrc", "# machine a.org login b password hunter2\n".to_owned()),
            ("etc/wireguard/wg0.conf", ";PrivateKey = abcdefgh\n".to_owned()),
            ("etc/tool/source", "url: http://b:hunter2@a.org:3128/\n".to_owned()),
            ("opt/tool/fetch.sh", format!("curl \"https://a.org/x?{token}\"\n")),
            // Neither is a secret.
            ("opt/tool/name.sh", "curl https://a.org/x?token=name-of-the-token\n".to_owned()),
            ("etc/tool/example", "# http://user:password@host\n".to_owned()),
            ("usr/share/tool/fetch.sh", format!("curl https://a.org/x?{token}\n")),
        ] {
            overlay.file(path, content);
        }
    });
    let expected = [
        "safe/token error /opt/tool/fetch.sh",
        "safe/credentials error /etc/tool/source",
        "safe/credentials warning /etc/wireguard/wg0.conf",
        "safe/credentials warning /root/.netrc",
    ];
    assert_eq!(reported, expected);
}

#[test]
fn password_hash_is_a_warning_and_empty_password_an_error() {
    for (password, severity) in [("$y$j9T$salt$hash", "warning"), ("", "error")] {
        let found = found(&base(), |overlay| {
            overlay.file("etc/shadow", format!("root:{password}:1::::::\ngames:*:1::::::\n"));
        });
        assert_eq!(found, [format!("safe/password {severity} /etc/shadow")]);
    }
}
