//! One overlay for each lint, which has findings of that lint only.

use std::collections::BTreeSet;
use std::fs;

use serde_json::{Value, json};

use super::programs::{for_another_machine, programs};
use super::{PASSWD, Pair, STATUS, base, findings, names, run, sha256};
use crate::support::newc::{Archive, DIR, FILE, LINK, gzip, gzip_with_extra};

/// An overlay and its finding.
pub(super) struct Case {
    lint: &'static str,
    /// The path; `None` for the whole layer.
    path: Option<&'static str>,
    overlay: Vec<u8>,
}

/// A case whose overlay `make` builds.
pub(super) fn with(
    lint: &'static str,
    path: &'static str,
    make: impl FnOnce(&mut Archive),
) -> Case {
    let mut overlay = Archive::new();
    make(&mut overlay);
    Case { lint, path: Some(path), overlay: overlay.gzip() }
}

fn bytes(lint: &'static str, path: Option<&'static str>, overlay: Vec<u8>) -> Case {
    Case { lint, path, overlay }
}

fn archives() -> Vec<Case> {
    let mut plain = Archive::new();
    plain.file("etc/one", "1").mtime = 1;
    plain.file("etc/two", "2");
    let (whole, compressed) = (plain.bytes(), plain.gzip());
    // With inode numbers of its own.
    let mut other = Archive::new();
    (other.file("etc/three", "3").ino, other.file("etc/four", "4").ino) = (700, 701);
    let mut first = plain.clone();
    for (archive, name) in [(&mut first, "etc/one"), (&mut other, "etc/three")] {
        let entry = archive.entries.iter_mut().find(|entry| entry.name == name).unwrap();
        (entry.ino, entry.nlink) = (800, 2);
    }
    let of = |make: &dyn Fn(&mut Archive)| {
        let mut overlay = Archive::new();
        make(&mut overlay);
        overlay.gzip()
    };
    let linked = |archive: &mut Archive, name: &str, mode: u32, data: &str| {
        let entry = archive.put(name, mode, data);
        (entry.ino, entry.nlink) = (900, 2);
    };
    vec![
        bytes("archive/unreadable", None, compressed[..compressed.len() / 2].to_vec()),
        bytes("archive/no-trailer", None, gzip(&plain.open_end())),
        bytes("archive/junk", None, [&whole[..], b"and more"].concat()),
        bytes("archive/several-members", None, {
            let (one, two) = whole.split_at(350);
            [gzip(one), gzip(two)].concat()
        }),
        bytes("archive/several-archives", None, gzip(&[first.bytes(), other.bytes()].concat())),
        bytes("archive/gzip-header", None, gzip_with_extra(&whole)),
        bytes("archive/missing-parent", Some("/opt/one"), {
            of(&|overlay| {
                overlay.raw("opt/one", FILE, "1");
            })
        }),
        bytes("archive/order", Some("/opt/one"), {
            of(&|overlay| {
                overlay.raw("opt/one", FILE, "1");
                overlay.raw("opt", DIR, "");
            })
        }),
        bytes("archive/duplicate-name", Some("/etc/one"), {
            of(&|overlay| {
                overlay.file("etc/one", "1");
                overlay.raw("etc/one", FILE, "2");
            })
        }),
        bytes("archive/absolute-name", Some("/one"), {
            of(&|overlay| {
                overlay.raw("/one", FILE, "1");
            })
        }),
        bytes("archive/dotdot-name", Some("/../one"), {
            of(&|overlay| {
                overlay.raw("../one", FILE, "1");
            })
        }),
        bytes("archive/dropped-entry", Some("/one"), {
            of(&|overlay| {
                overlay.raw("one", LINK, "");
            })
        }),
        bytes("archive/checksum", Some("/one"), {
            of(&|overlay| overlay.raw("one", FILE, "1").sum = Some(7))
        }),
        bytes("archive/shared-inode", Some("/etc/two"), {
            of(&|overlay| {
                linked(overlay, "etc/one", FILE, "1");
                linked(overlay, "etc/two", FILE, "2");
            })
        }),
        bytes("archive/split-link", Some("/etc/two"), {
            of(&|overlay| {
                linked(overlay, "etc/one", LINK, "passwd");
                linked(overlay, "etc/two", LINK, "passwd");
            })
        }),
        bytes("archive/through-link", Some("/way/one"), {
            of(&|overlay| {
                overlay.put("opt", DIR, "");
                overlay.link("way", "opt");
                overlay.raw("way/one", FILE, "1");
            })
        }),
        bytes("archive/whiteout-name", Some("/usr/share/.wh.obsolete"), {
            of(&|overlay| {
                overlay.file("usr/share/.wh.obsolete", "");
            })
        }),
        bytes("archive/no-root", None, {
            let mut overlay = Archive::default();
            overlay.file("etc/one", "1");
            overlay.gzip()
        }),
    ]
}

fn fits() -> Vec<Case> {
    vec![
        with("fit/directory-over-link", "/bin", |overlay| {
            overlay.file("bin/one", "1");
        }),
        with("fit/file-over-directory", "/usr/share/things", |overlay| {
            overlay.file("usr/share/things", "1");
        }),
        with("fit/directory-over-file", "/etc/plain.conf", |overlay| {
            overlay.file("etc/plain.conf/one", "1");
        }),
        with("fit/whiteout-of-nothing", "/usr/share/none", |overlay| {
            overlay.whiteout("usr/share/none");
        }),
        with("fit/package-database", "/var/lib/dpkg/status", |overlay| {
            overlay.file("var/lib/dpkg/status", STATUS.replace("Version: 1.0", "Version: 0.9"));
        }),
        with("fit/conffile-shadowed", "/etc/demo.conf", |overlay| {
            overlay.file("etc/demo.conf", "demo = 2\n");
        }),
        with("fit/accounts", "/etc/passwd", |overlay| {
            overlay.file("etc/passwd", PASSWD.replace("games:x:5:", "games:x:6:"));
        }),
    ]
}

/// A unit that presets can enable.
const INSTALLABLE: &str =
    "[Service]\nExecStart=/usr/bin/demo\n[Install]\nWantedBy=multi-user.target\n";

fn works() -> Vec<Case> {
    let made = programs();
    let service = |overlay: &mut Archive, text: &str| {
        overlay.file("etc/systemd/system/tool.service", text);
        let wants = "etc/systemd/system/multi-user.target.wants/tool.service";
        overlay.link(wants, "../tool.service");
    };
    let unit = "/etc/systemd/system/tool.service";
    vec![
        with("works/dangling-link", "/etc/way", |overlay| {
            overlay.link("etc/way", "none");
        }),
        with("works/needed", "/usr/sbin/init", |overlay| overlay.whiteout("usr/sbin/init")),
        with("works/needed", "/etc/passwd", |overlay| overlay.whiteout("etc/passwd")),
        with("works/shut", "/", |overlay| overlay.entries[0].mode = 0o040700),
        with("works/shut", "/usr/lib", |overlay| {
            overlay.put("usr/lib", 0o040700, "");
        }),
        with("works/escaping-link", "/etc/way", |overlay| {
            overlay.link("etc/way", "../../../etc/passwd");
        }),
        with("works/alternative", "/etc/alternatives/editor", |overlay| {
            overlay.link("etc/alternatives/editor", "/usr/bin/none");
        }),
        // In a chain of links the last one is reported.
        with("works/alternative", "/etc/alternatives/editor", |overlay| {
            overlay.link("usr/bin/editor", "/etc/alternatives/editor");
            overlay.link("etc/alternatives/editor", "/usr/bin/none");
        }),
        with("works/alternative", "/usr/bin/editor", |overlay| {
            overlay.link("usr/bin/editor", "../../etc/alternatives/editor");
        }),
        with("works/interpreter", "/usr/local/bin/one", |overlay| {
            overlay.program("usr/local/bin/one", "#!/usr/bin/env none\n");
        }),
        with("works/interpreter", "/usr/local/bin/one", |overlay| {
            overlay.program("usr/local/bin/one", "#!/bin/sh\r\nexit\r\n");
        }),
        with("works/interpreter", "/usr/local/bin/one", |overlay| {
            overlay.program("usr/local/bin/one", "#!/usr/bin/env sh\r\nexit\r\n");
        }),
        with("works/elf-library", "/etc/ld.so.preload", |overlay| {
            overlay.file("etc/ld.so.preload", "# one\nlibdemo.so.1 /usr/lib/libnone.so\n");
        }),
        with("works/elf-library", "/usr/bin/one", |overlay| {
            overlay.program("usr/bin/one", &made.other_program);
        }),
        with("works/elf-version", "/usr/bin/one", |overlay| {
            overlay.program("usr/bin/one", &made.newer_program);
        }),
        with("works/elf-machine", "/usr/bin/one", |overlay| {
            overlay.program("usr/bin/one", for_another_machine(&made.program));
        }),
        with("works/elf-interpreter", "/usr/bin/one", |overlay| {
            overlay.program("usr/bin/one", &made.foreign_program);
        }),
        with("works/elf-damaged", "/usr/bin/one", |overlay| {
            overlay.program("usr/bin/one", &made.program[..made.program.len() / 3]);
        }),
        with("works/interpreter", "/usr/local/bin/one", |overlay| {
            overlay.program("usr/local/bin/one", "#!python3\n");
        }),
        with("works/interpreter", "/usr/local/bin/one", |overlay| {
            overlay.program("usr/local/bin/one", "\u{feff}#!/bin/sh\n");
        }),
        with("works/linker-cache", "/usr/bin/one", |overlay| {
            overlay.program("usr/bin/one", &made.other_program);
            overlay.file("opt/lib/libother.so.1", &made.other_library);
        }),
        with("works/kernel-modules", "/usr/lib/modules/6.1.0-1/kernel/two.ko", |overlay| {
            let module = String::from_utf8_lossy(&made.module).contains("6.1.0-1");
            assert!(module);
            let at = made.module.windows(7).position(|window| window == b"6.1.0-1").unwrap();
            let mut other = made.module.clone();
            other[at + 6] = b'2';
            overlay.file("usr/lib/modules/6.1.0-1/kernel/two.ko", other);
            overlay.file("usr/lib/modules/6.1.0-1/modules.dep", "kernel/one.ko:\nkernel/two.ko:\n");
        }),
        with("works/module-index", "/usr/lib/modules/6.1.0-1/extra/two.ko.gz", |overlay| {
            overlay.file("usr/lib/modules/6.1.0-1/extra/two.ko.gz", gzip(&made.module));
        }),
        with("works/module-files", "/usr/lib/modules/6.1.0-2", |overlay| {
            overlay.file(
                "usr/lib/modules/6.1.0-2/modules.dep",
                "kernel/a.ko:\nkernel/b.ko: kernel/a.ko\n",
            );
        }),
        with("works/module-files", "/usr/lib/modules/6.1.0-1", |overlay| {
            overlay.whiteout("usr/lib/modules/6.1.0-1/kernel/one.ko");
        }),
        with("works/drivers", "/usr/lib/modules/6.1.0-2", |overlay| {
            let dir = "usr/lib/modules/6.1.0-2";
            overlay.file(&format!("{dir}/modules.builtin"), "kernel/drivers/net/virtio_net.ko\n");
        }),
        with("works/first-boot", "/etc/machine-id", |overlay| {
            overlay.file("etc/systemd/system/tool.service", INSTALLABLE);
        }),
        with("works/first-boot", "/etc/machine-id", |overlay| {
            overlay.file("etc/machine-id", "uninitialized\n");
            overlay.file(
                "etc/systemd/system/tool@.service",
                format!("{INSTALLABLE}DefaultInstance=a\n"),
            );
        }),
        with("works/ssh-host-keys", "/etc/systemd/system/ssh.service", |overlay| {
            overlay.program("usr/sbin/sshd", &made.program);
            overlay
                .file("etc/systemd/system/ssh.service", "[Service]\nExecStart=/usr/sbin/sshd -D\n");
            overlay
                .link("etc/systemd/system/multi-user.target.wants/ssh.service", "../ssh.service");
        }),
        with("works/container", "/.dockerenv", |overlay| {
            overlay.file(".dockerenv", "");
        }),
        with("works/container", "/run/systemd/container", |overlay| {
            overlay.file("run/systemd/container", "docker\n");
        }),
        with("works/owner", "/etc/one", |overlay| overlay.file("etc/one", "1").uid = 4242),
        with(
            "works/unit-missing",
            "/etc/systemd/system/multi-user.target.wants/none.service",
            |overlay| {
                let wants = "etc/systemd/system/multi-user.target.wants/none.service";
                overlay.link(wants, "/lib/systemd/system/none.service");
            },
        ),
        with("works/unit-refused", unit, |overlay| {
            service(overlay, "[Service]\nType=simple\nExecStop=/usr/bin/demo\n");
        }),
        with("works/socket", "/var/lib/tool/control", |overlay| {
            overlay.put("var/lib/tool/control", 0o140755, "");
        }),
        with("works/selinux", "/etc/selinux/config", |overlay| {
            overlay.file("etc/selinux/config", "# x\nSELINUX=enforcing\n");
        }),
        with("works/unit-cycle", unit, |overlay| {
            let after = "[Unit]\nAfter=demo.service\nBefore=demo.service\n";
            service(overlay, &format!("{after}[Service]\nExecStart=/usr/bin/demo\n"));
        }),
        with("works/unit-exec", unit, |overlay| {
            service(overlay, "[Service]\nExecStart=/usr/bin/none --so\n");
        }),
        with("works/unit-needs", unit, |overlay| {
            let requires = "[Unit]\nRequires=demo.service none.service\n";
            service(overlay, &format!("{requires}[Service]\nExecStart=/usr/bin/demo\n"));
        }),
        with("works/unit-user", unit, |overlay| {
            service(overlay, "[Service]\nUser=nobody-knows\nExecStart=/usr/bin/demo\n");
        }),
        with("works/unit-syntax", unit, |overlay| {
            service(overlay, "[Service]\nExecStart=/usr/bin/demo\nProtectSystm=yes\n");
        }),
    ]
}

fn safe() -> Vec<Case> {
    let body = "MIIEpAIBAAKCAQEA3Tz2mr7SZiAMfQyuvBjM9Oi9o5dtLyOuHgYkvHS8xYoxhzLr\n".repeat(3);
    let key =
        format!("-----BEGIN OPENSSH PRIVATE KEY-----\n{body}-----END OPENSSH PRIVATE KEY-----\n");
    let put = |lint, path: &'static str, content: &str| {
        with(lint, path, |overlay| {
            overlay.file(&path[1..], content);
        })
    };
    vec![
        with("safe/setuid", "/usr/bin/one", |overlay| {
            overlay.put("usr/bin/one", 0o104755, &programs().program);
        }),
        with("safe/world-writable", "/opt/all", |overlay| {
            overlay.put("opt/all", 0o040777, "");
        }),
        with("safe/device", "/dev/sda", |overlay| {
            overlay.put("dev/sda", 0o060600, "").rdev = [8, 0];
        }),
        put("safe/private-key", "/opt/tool/key.pem", &key),
        put("safe/host-key", "/etc/ssh/ssh_host_ed25519_key", &key),
        put("safe/token", "/etc/tool.env", "TOKEN=ghp_abcdefghijklmnopqrstuvwxyz0123456789\n"),
        put("safe/credentials", "/root/.netrc", "machine a.org login b password c\n"),
        put("safe/history", "/root/.bash_history", "ls\n"),
        put("safe/history", "/root/.local/share/fish/fish_history", "- cmd: ls\n"),
        put("safe/history", "/root/.node_repl_history", "1\n"),
        put("safe/credentials", "/etc/kubernetes/admin.conf", "client-key-data: A\n"),
        put(
            "safe/credentials",
            "/etc/NetworkManager/system-connections/w.nmconnection",
            "[wifi-security]\npsk=secret\n",
        ),
        put(
            "safe/credentials",
            "/etc/wpa_supplicant/wpa_supplicant.conf",
            "network={\n  psk=\"secret\"\n}\n",
        ),
        put("safe/credentials", "/etc/wireguard/wg0.conf", "[Interface]\nPrivateKey = AAA=\n"),
        put(
            "safe/credentials",
            "/root/.config/gcloud/application_default_credentials.json",
            "{\"refresh_token\": \"x\"}",
        ),
        put("safe/credentials", "/root/.gnupg/private-keys-v1.d/A.key", "(private-key)"),
        put("safe/credentials", "/etc/krb5.keytab", "\u{5}\u{2}"),
        put("safe/credentials", "/etc/bind/rndc.key", "key \"rndc-key\" {\n\tsecret \"A\";\n};\n"),
        put("safe/credentials", "/etc/munge/munge.key", "random"),
        put("safe/credentials", "/etc/apt/auth.conf", "machine a.org\nlogin b\npassword c\n"),
        put("safe/credentials", "/etc/apt/auth.conf.d/a.conf", "machine a.org login b password c"),
        put("safe/credentials", "/etc/apt/sources.list", "deb https://b:c@a.org/ bookworm main\n"),
        put("safe/credentials", "/etc/apt/sources.list.d/a.sources", "URIs: https://b:c@a.org/\n"),
        put("safe/credentials", "/etc/ppp/chap-secrets", "# c s secret ip\nname * secret *\n"),
        with("safe/credentials", "/etc/fstab", |overlay| {
            overlay.program("usr/sbin/mount.cifs", &programs().program);
            overlay.file("etc/fstab", "//a/b /mnt cifs user=b,password=c,ro 0 0\n");
        }),
        put("safe/credentials", "/root/.s3cfg", "[default]\nsecret_key = abc\n"),
        put("safe/credentials", "/root/.curlrc", "--silent\nuser = \"name:password1\"\n"),
        put(
            "safe/credentials",
            "/opt/a/.git/config",
            "[remote \"o\"]\n\turl = https://b:c@a.org/d\n",
        ),
        put("safe/credentials", "/root/.config/rclone/rclone.conf", "[a]\ntype = ftp\npass = b\n"),
        put(
            "safe/private-key",
            "/opt/tool/key.ppk",
            "PuTTY-User-Key-File-3: a\nPrivate-Lines: 1\nA\n",
        ),
        put(
            "safe/proxy",
            "/etc/systemd/system.conf.d/proxy.conf",
            "[Manager]\nDefaultEnvironment=A=b \"http_proxy=http://a:1\"\n",
        ),
        put(
            "safe/proxy",
            "/etc/systemd/system/demo.service.d/proxy.conf",
            "[Service]\nEnvironment=http_proxy=http://a:1\n",
        ),
        put("safe/private-key", "/etc/tool/one.p12", "0"),
        put(
            "safe/token",
            "/etc/tool.env",
            "AWS_SECRET_ACCESS_KEY=abcdefghijklmnopqrstuvwxyz0123456789ABCD\n",
        ),
        put("safe/authorized-keys", "/etc/ssh/authorized_keys/root", "ssh-ed25519 AAAA a@b\n"),
        put("safe/machine-id", "/etc/iscsi/initiatorname.iscsi", "InitiatorName=iqn.1993-08:1\n"),
        put("safe/machine-id", "/etc/nvme/hostnqn", "nqn.2014-08.org.nvmexpress:uuid:1\n"),
        put("safe/pam", "/etc/pam.d/common-auth", "auth required pam_unix.so\n"),
        put("safe/machine-id", "/etc/machine-id", "0123456789abcdef0123456789abcdef\n"),
        put("safe/random-seed", "/var/lib/systemd/random-seed", "seed"),
        put("safe/resolv-conf", "/etc/resolv.conf", "nameserver 10.0.0.1\n"),
        put("safe/proxy", "/etc/apt/apt.conf.d/01proxy", "Acquire::http::Proxy \"http://a:1\";\n"),
        put("safe/sudoers", "/etc/sudoers.d/tool", "tool ALL=(ALL) NOPASSWD: ALL\n"),
        put("safe/pam", "/etc/pam.d/tool", "auth sufficient pam_permit.so\n"),
        put("safe/authorized-keys", "/root/.ssh/authorized_keys", "ssh-ed25519 AAAA a@b\n"),
        with("safe/password", "/etc/shadow", |overlay| {
            let shadow = "root::19000::::::\ngames:*:19000::::::\n";
            overlay.put("etc/shadow", 0o100640, shadow).gid = 42;
        }),
    ]
}

fn lean() -> Vec<Case> {
    let put = |lint, path: &'static str, name: &str| {
        with(lint, path, |overlay| {
            overlay.file(name, "something");
        })
    };
    vec![
        put("lean/cache", "/var/cache", "var/cache/tool/index"),
        put("lean/docs", "/usr/share/man", "usr/share/man/man1/tool.1.gz"),
        put("lean/locales", "/usr/share/locale", "usr/share/locale/de/LC_MESSAGES/tool.mo"),
        put("lean/logs", "/var/log", "var/log/apt/history.log"),
        put("lean/python-bytecode", "/usr/lib/python3", "usr/lib/python3/x/__pycache__/y.pyc"),
        put("lean/leftover", "/etc/group-", "etc/group-"),
        with("lean/same-as-base", "/usr/share/things/one", |overlay| {
            overlay.file("usr/share/things/one", "1");
        }),
        with("lean/duplicate", "/opt/one", |overlay| {
            overlay.file("opt/one", [7; 70_000]);
            overlay.file("opt/two", [7; 70_000]);
        }),
        // With another time, as a copy has.
        with("lean/same-as-base", "/usr/share/things/one", |overlay| {
            overlay.file("usr/share/things/one", "1").mtime = 1;
        }),
        // Many copies in one directory are reported at the directory.
        with("lean/duplicate", "/opt/dir", |overlay| {
            for number in 0..6 {
                overlay.file(&format!("opt/dir/{number}"), [number % 3; 70_000]);
            }
            for number in 0..6 {
                overlay.file(&format!("var/lib/tool/{number}"), [number % 3 + 9; 70_000]);
            }
        }),
    ]
}

/// Checks that a finding has all fields.
fn assert_complete(finding: &Value, layer: &str) {
    for key in ["lint", "severity", "layer", "message", "fix"] {
        assert!(finding[key].as_str().is_some_and(|text| !text.is_empty()), "{key}: {finding}");
    }
    assert_eq!(finding["layer"], layer, "{finding}");
    if finding["lint"].as_str().unwrap().starts_with("lean/") {
        assert!(finding["saves"].as_u64().is_some_and(|bytes| bytes > 0), "{finding}");
    }
}

/// Lints that need more than an overlay on a base; each has a test of its own.
const OTHER_LINTS: [&str; 10] = [
    "archive/manifest",
    "archive/size-limit",
    "config/sudoers",
    "fit/base-digest",
    "fit/changed-beneath",
    "lean/machine-ram",
    "lean/ram-budget",
    "lean/size-budget",
    "safe/capability",
    "works/pam-module",
];

#[test]
fn each_lint_is_found_alone_in_its_fixture() {
    let base = base();
    let mut seen: BTreeSet<String> = OTHER_LINTS.map(str::to_owned).into();
    for case in
        [archives(), fits(), works(), super::config::cases(), safe(), lean()].into_iter().flatten()
    {
        let pair = Pair::new(&base, &case.overlay);
        let findings = pair.findings(&[]);
        assert_eq!(names(&findings), [case.lint.to_owned()].into(), "{}: {findings:#?}", case.lint);
        for finding in &findings {
            assert_complete(finding, "o.cpio.gz");
        }
        let paths: Vec<_> = findings.iter().map(|finding| finding["path"].as_str()).collect();
        assert_eq!(paths, [case.path], "{findings:#?}");
        seen.insert(case.lint.to_owned());
    }
    let all = run(std::path::Path::new("/"), &["--list", "--json"]);
    let all: Value = serde_json::from_str(&all.stdout).unwrap();
    let mut all = names_of(&all["lints"]);
    // These need the programs of an image: `validators`.
    all.retain(|name| !name.starts_with("run/"));
    assert_eq!(all, seen, "each lint has a fixture");
}

fn names_of(lints: &Value) -> BTreeSet<String> {
    let lints = lints.as_array().unwrap().iter();
    lints.map(|lint| lint["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn manifest_of_another_archive_is_reported() {
    let pair = Pair::new(&base(), &super::clean().gzip());
    pair.manifest(&json!([]));
    let mut other = super::clean();
    other.file("etc/one", "1");
    fs::write(pair.path("o.cpio.gz"), other.gzip()).unwrap();
    assert_eq!(names(&pair.findings(&[])), ["archive/manifest".to_owned()].into());
}

#[test]
fn other_base_and_changes_since_the_build_are_reported() {
    let pair = Pair::new(&base(), &super::clean().gzip());
    pair.manifest(&json!([]));
    let mut newer = base();
    newer.file("etc/plain.conf", "plain = 2\n");
    fs::write(pair.path("base.cpio"), newer.bytes()).unwrap();
    assert_eq!(names(&pair.findings(&[])), ["fit/base-digest".to_owned()].into());

    // `--base` does not report that it is another base.
    let output = pair.check(&["--base", "base.cpio", "o.cpio.gz", "--json"]);
    assert_eq!(findings(&output), [] as [Value; 0]);

    let mut overlay = super::clean();
    overlay.file("etc/plain.conf", "plain = 3\n");
    let pair = Pair::new(&newer, &overlay.gzip());
    let below = |content: &str| {
        json!({ "type": "file", "mode": "0644", "uid": 0, "gid": 0, "size": content.len(),
            "sha256": sha256(content.as_bytes()) })
    };
    let entry = |content| {
        json!([{ "path": "etc/plain.conf", "change": "modified", "type": "file", "mode": "0644",
            "uid": 0, "gid": 0, "below": below(content) }])
    };
    pair.manifest(&entry("plain = 2\n"));
    assert_eq!(pair.findings(&[]), [] as [Value; 0]);
    pair.manifest(&entry("plain = 1 and so on\n"));
    let findings = pair.findings(&[]);
    assert_eq!(names(&findings), ["fit/changed-beneath".to_owned()].into());
    assert_complete(&findings[0], "o.cpio.gz");
    assert_eq!(findings[0]["path"], "/etc/plain.conf");
    let message = findings[0]["message"].as_str().unwrap();
    assert!(
        message.contains("the base has since changed its content (20 to 10 bytes)"),
        "{message}"
    );
}

#[test]
fn file_that_is_too_large_for_an_archive_is_reported_in_a_folder() {
    let pair = Pair::new(&base(), b"");
    fs::create_dir_all(pair.path("folder/opt")).unwrap();
    let large = fs::File::create(pair.path("folder/opt/large")).unwrap();
    large.set_len(4 << 30).unwrap();
    let output = pair.check(&["base.cpio", "folder", "--json", "--skip", "works/owner"]);
    let findings = findings(&output);
    assert_eq!(names(&findings), ["archive/size-limit".to_owned()].into(), "{findings:#?}");
    assert_eq!(findings[0]["path"], "/opt/large");
}

#[test]
fn capabilities_are_reported_in_a_folder() {
    let pair = Pair::new(&base(), b"");
    fs::create_dir_all(pair.path("folder/usr/bin")).unwrap();
    fs::write(pair.path("folder/usr/bin/one"), "1").unwrap();
    let value = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let file = pair.path("folder/usr/bin/one");
    let set =
        rustix::fs::setxattr(&file, "security.capability", &value, rustix::fs::XattrFlags::empty());
    set.expect("this test runs as root, on a file system with extended attributes");
    let output = pair.check(&["base.cpio", "folder", "--json", "--skip", "works/owner"]);
    let findings = findings(&output);
    assert_eq!(names(&findings), ["safe/capability".to_owned()].into(), "{findings:#?}");
    assert!(findings[0]["message"].as_str().unwrap().contains("net_raw"), "{findings:#?}");
}

#[test]
fn overlay_over_its_budget_is_reported() {
    let mut overlay = super::clean();
    overlay.file("opt/large", (0..100_000u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>());
    let pair = Pair::new(&base(), &overlay.gzip());
    let found = |budget: &str| {
        let project = format!(
            "output: .\nimages:\n  o:\n    base: ./base.cpio\n    check: {{budget: {budget}}}\n"
        );
        fs::write(pair.path("overcoat.yml"), project).unwrap();
        let output = pair.check(&["o", "--json"]);
        let findings = findings(&output);
        for finding in &findings {
            assert_complete(finding, "./o.cpio.gz");
        }
        (output.code, names(&findings))
    };
    assert_eq!(found("{size: 10M, ram: 10M}"), (0, BTreeSet::new()));
    assert_eq!(found("{size: 10k}"), (1, ["lean/size-budget".to_owned()].into()));
    assert_eq!(found("{ram: 300k}"), (1, ["lean/ram-budget".to_owned()].into()));
    assert_eq!(found("{machine: 256M}"), (0, BTreeSet::new()));
    assert_eq!(found("{machine: 90M}"), (1, ["lean/machine-ram".to_owned()].into()));
    // The budget does not apply to the base, even if it is checked.
    let (root, overlay) = (base(), Archive::new());
    let pair = Pair::new(&root, &overlay.gzip());
    let image = "{base: ./base.cpio, check: {budget: {size: 2k, ram: 20k}}}";
    let project = format!("output: .\nimages:\n  o: {image}\n");
    fs::write(pair.path("overcoat.yml"), project).unwrap();
    let output =
        pair.check(&["o", "--whole", "--json", "--only", "lean/size-budget,lean/ram-budget"]);
    assert_eq!(names(&findings(&output)), BTreeSet::new(), "{}", output.stdout);
}

#[test]
fn intended_files_are_not_reported() {
    let foreign = for_another_machine(&programs().program);
    let mut overlay = Archive::new();
    // Cross-compilation toolchains and test data.
    overlay.program("usr/aarch64-linux-gnu/lib/libc.so.6", &foreign);
    overlay.program("usr/lib/go/debug/elf/testdata/one", &foreign);
    overlay.file("usr/lib/go/testdata/env", "T=ghp_abcdefghijklmnopqrstuvwxyz0123456789\n");
    overlay.file("etc/iscsi/initiatorname.iscsi", "GenerateName=yes\n");
    overlay.file("etc/wpa_supplicant/one.conf", "#psk=secret\nnetwork={\n}\n");
    // A database that a program rewrote with the same content.
    overlay.file("var/lib/dpkg/status", STATUS).mtime = 1;
    // A note, because it may be firmware.
    overlay.file("usr/lib/firmware/one.so", &foreign);
    overlay.file("usr/lib/firmware/sh", &foreign);
    let found = Pair::new(&base(), &overlay.gzip()).findings(&[]);
    let summary: Vec<_> = found.iter().map(|f| (&f["path"], &f["severity"])).collect();
    assert_eq!(summary, [(&json!("/usr/lib/firmware/one.so"), &json!("note"))], "{found:#?}");
}

#[test]
fn file_that_differs_only_in_its_time_is_a_note() {
    let mut overlay = Archive::new();
    overlay.program("usr/bin/demo", &programs().program).mtime = 1;
    let found = Pair::new(&base(), &overlay.gzip()).findings(&[]);
    let [found] = &found[..] else { panic!("{found:#?}") };
    assert_eq!((&found["lint"], &found["severity"]), (&json!("lean/same-as-base"), &json!("note")));
    let pages = programs().program.len().next_multiple_of(4096);
    assert_eq!(found["saves"], pages, "{found:#?}");
    let message = found["message"].as_str().unwrap();
    assert!(message.starts_with("only the time differs"), "{message}");
}

/// overcoat leaves out files that are identical to those of the base that it built on.
#[test]
fn advice_for_copies_in_an_overlay_of_overcoat_is_to_build_it_again() {
    let mut overlay = Archive::new();
    overlay.file("usr/share/things/one", "1");
    let pair = Pair::new(&base(), &overlay.gzip());
    let check = || pair.check(&["base.cpio", "o.cpio.gz", "--only", "lean/same-as-base"]).stdout;
    let foreign = check();
    assert!(foreign.contains("  fix: build the overlay with overcoat"), "{foreign}");
    pair.manifest(&json!([]));
    let own = check();
    assert!(own.contains("  fix: it was built on another base"), "{own}");
    assert!(!own.contains("build the overlay with overcoat"), "{own}");
}

/// The object has to be in the archive for the sake of its new name.
#[test]
fn file_of_the_base_with_a_new_hard_link_is_no_finding() {
    let found = |new: &str| {
        let mut overlay = Archive::new();
        for (name, data) in [("usr/share/things/one", ""), (new, "1")] {
            let entry = overlay.file(name, data);
            (entry.ino, entry.nlink) = (100, 2);
        }
        let pair = Pair::new(&base(), &overlay.gzip());
        pair.findings(&["--only", "lean/same-as-base"]).len()
    };
    assert_eq!(found("usr/share/things/new"), 0);
    // The base has both names.
    assert_eq!(found("usr/share/things/one"), 1);
}

#[test]
fn whiteout_names_are_files_in_a_marked_archive() {
    let found = |marked: bool| {
        let mut overlay = Archive::new();
        overlay.file("opt/.wh.one", "");
        if marked {
            overlay.entries[0].check = u32::from_be_bytes(*b"ovc1");
        }
        // The mark does not apply to an archive that follows.
        let mut other = Archive::new();
        other.file("etc/.wh.two", "");
        let both = gzip(&[overlay.bytes(), other.bytes()].concat());
        let found = Pair::new(&base(), &both).findings(&["--only", "archive/whiteout-name"]);
        let path = |finding: &Value| finding["path"].as_str().unwrap().to_owned();
        found.iter().map(path).collect::<Vec<_>>()
    };
    assert_eq!(found(false), ["/etc/.wh.two", "/opt/.wh.one"]);
    assert_eq!(found(true), ["/etc/.wh.two"]);
}
