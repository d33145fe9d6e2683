//! Lints of configuration files: texts that the programs reject or ignore, and similar ones that
//! they accept.

mod boot;
mod devices;
mod network;
mod random;

use super::lint_cases::{Case, with};
use super::programs::programs;
use super::{PASSWD, Pair, base};
use crate::support::newc::Archive;

/// For each lint, an overlay that has only its finding.
pub(super) fn cases() -> Vec<Case> {
    let put = |lint, path: &'static str, content: &str| {
        with(lint, path, |overlay| {
            overlay.file(&path[1..], content);
        })
    };
    let account = |line: &str| format!("{PASSWD}{line}\n");
    vec![
        put("config/account-line", "/etc/passwd", &account("cut:x:10")),
        put("config/uid-zero", "/etc/passwd", &account("toor:*:0:0::/:/bin/sh")),
        put("config/shadow", "/etc/passwd", &account("who:x:7:60::/:/bin/sh")),
        put("config/shell", "/etc/passwd", &account("who:*:1000:60::/:/bin/zsh")),
        with("config/nsswitch", "/etc/nsswitch.conf", |overlay| {
            overlay.file("usr/lib/libc.so.6", "");
            overlay.file("etc/nsswitch.conf", "hosts: dns\n");
        }),
        with("config/sshd", "/etc/ssh/sshd_config", |overlay| {
            overlay.program("usr/sbin/sshd", &programs().program);
            overlay.file("etc/ssh/sshd_config", "Prt 22\n");
        }),
        with("config/authorized-keys", "/root/.ssh/authorized_keys", |overlay| {
            overlay.program("usr/sbin/sshd", &programs().program);
            overlay.file("etc/ssh/sshd_config", "");
            overlay.put("root", 0o040700, "").uid = 5;
            overlay.file("root/.ssh/authorized_keys", "");
        }),
        with("config/cron", "/etc/cron.d/site", |overlay| {
            overlay.program("usr/sbin/cron", &programs().program);
            overlay.file("etc/cron.d/site", "60 * * * * root script\n");
        }),
        with("config/logrotate", "/etc/logrotate.d/site", |overlay| {
            overlay.program("usr/sbin/logrotate", &programs().program);
            overlay.file("etc/logrotate.d/site", "/var/log/site {\n");
        }),
        put("config/locale", "/etc/default/locale", "LANG=en_US.UTF-8\n"),
        put("config/time-zone", "/etc/timezone", "Mars/Base\n"),
        put("config/fstab", "/etc/fstab", "tmpfs /tmp\n"),
        put("config/fstab-device", "/etc/fstab", "UUID=1 /data ext4 defaults 0 2\n"),
        put("config/fstab-root", "/etc/fstab", "/dev/sda1 / ext4 defaults 0 1\n"),
        with("config/default-target", "/etc/systemd/system/default.target", |overlay| {
            overlay.file("etc/systemd/system/rescue.target", "[Unit]\n");
            overlay.link("etc/systemd/system/default.target", "rescue.target");
        }),
        put("config/kernel-command-line", "/etc/kernel/cmdline", "console=ttyS0\n"),
        put("config/network-file", "/etc/systemd/network/a.link", "[Link]\nName=a\n"),
        put("config/resolv-conf", "/etc/resolv.conf", "serch example.org\n"),
        put("config/hosts", "/etc/hosts", "localhost 127.0.0.1\n"),
        put("config/hostname", "/etc/hostname", "node 1\n"),
        with("config/interfaces", "/etc/network/interfaces", |overlay| {
            overlay.program("usr/sbin/ifup", "#!/bin/sh\n");
            overlay.file("etc/network/interfaces", "iface\n");
        }),
        with("config/udev-rule", "/etc/udev/rules.d/a.rules", |overlay| {
            overlay.program("usr/lib/systemd/systemd-udevd", &programs().program);
            overlay.file("etc/udev/rules.d/a.rules", "KERNEL=\"sda\", MODE=\"0660\"\n");
        }),
        put("config/modprobe", "/etc/modprobe.d/a.conf", "blacklst a\n"),
        put("config/modules-load", "/etc/modules-load.d/a.conf", "none\n"),
        put("config/sysctl", "/etc/sysctl.d/a.conf", "vm.swappiness 1\n"),
        put("config/binfmt", "/etc/binfmt.d/a.conf", ":a:E::exe::/usr/bin/none:\n"),
        put("config/tmpfiles", "/etc/tmpfiles.d/a.conf", "d /run/a 0755 none none\n"),
        put("config/sysusers", "/etc/sysusers.d/a.conf", "x a\n"),
        put("config/ld-so", "/etc/ld.so.conf.d/a.conf", "/usr/none\n"),
        put("config/dbus-policy", "/etc/dbus-1/system.d/a.conf", "<busconfig>\n"),
    ]
}

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

/// Adds the programs that read the files, with a user who can log in.
fn machine(base: &mut Archive) {
    let program = &programs().program;
    for path in ["usr/bin/sudo", "usr/sbin/cron", "usr/sbin/logrotate", "usr/bin/script"] {
        base.program(path, program);
    }
    let mut sshd = program.clone();
    let keywords = "allowusers authorizedkeysfile include kbdinteractiveauthentication match \
                    passwordauthentication permitrootlogin port pubkeyauthentication strictmodes \
                    subsystem usepam ";
    sshd.extend(keywords.bytes().map(|byte| if byte == b' ' { 0 } else { byte }));
    base.program("usr/sbin/sshd", sshd);
    base.file("usr/lib/libc.so.6", "");
    base.file("usr/lib/x86_64-linux-gnu/libnss_sss.so.2", "");
    base.put("usr/lib/locale/de_DE.utf8", 0o040755, "");
    base.file("usr/share/zoneinfo/Europe/Berlin", "TZif");
    base.file("etc/passwd", format!("{PASSWD}who:*:1000:60::/home/who:/usr/bin/sh\n"));
    base.put("home/who", 0o040750, "").uid = 1000;
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
    let findings = found(machine, make);
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
    let expected = ["account-line /etc/passwd:2: games has the group id 60, which no group has"];
    let without_group = |overlay: &mut Archive| _ = overlay.file("etc/group", group);
    assert_eq!(found(|_| {}, without_group), expected);
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
    assert_eq!(found(broken, |overlay| _ = overlay.file("etc/passwd", moved)), [""; 0]);
}

/// Checks each text as the file: those with an expected message are rejected, others accepted.
#[track_caller]
fn assert_lines(path: &str, lint: &str, cases: &[(&str, Option<&str>)]) {
    for (text, message) in cases {
        let found = found(machine, |overlay| _ = overlay.file(path, format!("{text}\n")));
        let line = text.lines().count();
        match message {
            Some(message) => {
                let expected = format!("{lint} /{path}:{line}: {message}");
                let matches = matches!(&found[..], [one] if one.starts_with(&expected));
                assert!(matches, "{text:?}: expected {expected:?}, found {found:#?}");
            }
            None => assert!(found.is_empty(), "{text:?}: {found:#?}"),
        }
    }
}

#[test]
fn sshd_configuration_that_stops_sshd_is_reported() {
    let none = "no user that may log in has an account";
    assert_lines(
        "etc/ssh/sshd_config",
        "sshd",
        &[
            ("PermitRootLogn no", Some("unknown keyword permitrootlogn")),
            ("PermitRootLogin", Some("permitrootlogin has no value")),
            ("PermitRootLogin maybe", Some("permitrootlogin cannot be maybe: use yes, no,")),
            ("PasswordAuthentication=on", Some("passwordauthentication cannot be on")),
            ("Port 70000", Some("70000 is not a port")),
            ("Match Usr who\n", Some("Match has no criterion usr")),
            ("Subsystem sftp /usr/lib/sftp", Some("/usr/lib/sftp does not exist")),
            ("AllowUsers admin other@host", Some(none)),
            (
                "PasswordAuthentication no\nUsePAM no\nPubkeyAuthentication no",
                Some("keys and passwords are off, so no one can log in"),
            ),
            ("# PermitRootLogn no\n\nPort \"22\"\nPERMITROOTLOGIN=prohibit-password", None),
            ("Subsystem sftp internal-sftp\nAllowUsers admin who", None),
            ("AllowUsers *@10.0.0.0/8\nMatch User=who Address 10.0.0.0/8", None),
            ("PasswordAuthentication no\nPubkeyAuthentication no", None),
        ],
    );
    let included = "sshd /etc/ssh/sshd_config.d/site.conf:1: unknown keyword portt";
    let files = [
        ("etc/ssh/sshd_config", "Include /etc/ssh/sshd_config.d/*.conf\n"),
        ("etc/ssh/sshd_config.d/site.conf", "Portt 22\n"),
        ("etc/ssh/sshd_config.d/off.conf~", "Portt 22\n"),
    ];
    assert_found(&files, &[included]);
    assert_found(&files[1..], &[]);
}

/// A public key.
const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ9cpGqMlgSJUBrVnVFyDGxSEPXmkBuCjBNDcVFyBk7x";

#[test]
fn authorized_keys_that_sshd_ignores_are_reported() {
    let ignored = |change: &dyn Fn(&mut Archive), config: &str| {
        found(machine, |overlay| {
            overlay.file("etc/ssh/sshd_config", config);
            overlay.put("home/who", 0o040750, "").uid = 1000;
            overlay.put("home/who/.ssh", 0o040700, "").uid = 1000;
            overlay.put("home/who/.ssh/authorized_keys", 0o100600, format!("{KEY} who\n")).uid =
                1000;
            change(overlay);
        })
    };
    let entry = |name: &'static str, mode: u32, uid: u32| {
        move |overlay: &mut Archive| {
            let entry = overlay.entries.iter_mut().find(|entry| entry.name == name).unwrap();
            (entry.mode, entry.uid) = (mode, uid);
        }
    };
    let (home, dir) = ("home/who", "home/who/.ssh");
    let file = "home/who/.ssh/authorized_keys";
    let at = "authorized-keys /home/who/.ssh/authorized_keys: sshd ignores the keys of who: ";
    for (name, mode, uid, why) in [
        (home, 0o040775, 1000, "others can write to /home/who (mode 0775)"),
        (home, 0o040777, 1000, "others can write to /home/who (mode 0777)"),
        (home, 0o040755, 5, "/home/who belongs to user id 5"),
        (dir, 0o040722, 1000, "others can write to /home/who/.ssh (mode 0722)"),
        (file, 0o100666, 1000, "others can write to /home/who/.ssh/authorized_keys (mode 0666)"),
        (file, 0o100644, 5, "/home/who/.ssh/authorized_keys belongs to user id 5"),
        (file, 0o100600, 0, "the user cannot read /home/who/.ssh/authorized_keys"),
    ] {
        assert_eq!(ignored(&entry(name, mode, uid), "Port 22\n"), [format!("{at}{why}")]);
    }
    for (name, mode, uid) in
        [(home, 0o040755, 0), (file, 0o100644, 0), (file, 0o100400, 1000), (dir, 0o040755, 1000)]
    {
        assert_eq!(ignored(&entry(name, mode, uid), "Port 22\n"), [""; 0], "{name}");
    }
    // A private group of the user, which Debian's sshd accepts.
    let private = |overlay: &mut Archive| {
        entry(home, 0o040775, 1000)(overlay);
        overlay.entries.iter_mut().find(|entry| entry.name == home).unwrap().gid = 60;
    };
    assert_eq!(ignored(&private, "Port 22\n"), [""; 0]);
    let open = entry(home, 0o040777, 1000);
    assert_eq!(ignored(&open, "StrictModes no\n"), [""; 0]);
    // Keys elsewhere.
    let elsewhere = |overlay: &mut Archive| {
        open(overlay);
        overlay.entries.retain(|entry| entry.name != file);
        overlay.put("etc/keys/who", 0o100640, format!("{KEY}\n")).gid = 42;
    };
    let unreadable =
        ["authorized-keys /etc/keys/who: sshd ignores the keys of who: the user cannot read \
          /etc/keys/who"];
    assert_eq!(ignored(&elsewhere, "AuthorizedKeysFile /etc/keys/%u\n"), unreadable);
    // Lines that are not keys.
    for (line, is_key) in [
        (KEY.to_owned(), true),
        (format!("from=\"a b\",no-pty {KEY} who@host"), true),
        (format!("# {KEY}"), true),
        ("---- BEGIN SSH2 PUBLIC KEY ----".to_owned(), false),
        (KEY.replace("ed25519 ", "rsa "), false),
        ("ssh-ed25519".to_owned(), false),
        (KEY.split_once(' ').unwrap().1.to_owned(), false),
    ] {
        let cut = |overlay: &mut Archive| {
            overlay.put(file, 0o100600, format!("{line}\n")).uid = 1000;
        };
        let found = ignored(&cut, "Port 22\n");
        assert_eq!(found.is_empty(), is_key, "{line}: {found:?}");
    }
}

#[test]
fn name_services_that_find_nothing_are_reported() {
    assert_lines(
        "etc/nsswitch.conf",
        "nsswitch",
        &[
            ("passwd: sss", Some("passwd lacks `files`")),
            ("hosts: dns", Some("hosts lacks `files`")),
            ("hosts: files", Some("hosts lacks `dns`")),
            ("group: files ldap", Some("libnss_ldap.so.2 is not installed, so ldap is skipped")),
            ("passwd files", Some("the line has no colon")),
            ("hosts: files [NOTFOUND=return dns", Some("an action has no closing bracket")),
            ("passwd: files sss\nhosts: files [!UNAVAIL=return] dns # x\nnetgroup: nis", None),
        ],
    );
}

/// The expected results are those of `visudo -c` of sudo 1.9.13.
#[test]
fn rules_that_sudo_rejects_are_reported() {
    assert_lines(
        "etc/sudoers",
        "sudoers",
        &[
            ("who ALL /bin/x", Some("`=` is missing")),
            ("who = ALL", Some("unexpected `=` in a list")),
            ("who ALL all = ALL", Some("`=` is missing before `all`")),
            ("who ALL=bin/x", Some("the command bin/x is not an absolute path")),
            ("who ALL=NOPASS: ALL", Some("unknown tag NOPASS")),
            ("who ALL=ALL,", Some("a command is missing")),
            ("who ALL=(root)", Some("a command is missing")),
            ("who ALL=(root /bin/x", Some("a list of target users has no closing bracket")),
            ("who ALL=/bin/x a:b", Some("`=` is missing")),
            ("User_Alias admins = who", Some("`admins` cannot be the name of an alias")),
            ("User_Alias A = who\nUser_Alias A = root", Some("the alias A is already defined")),
            ("ADMINS ALL=ALL", Some("the alias ADMINS is used and not defined")),
            ("who", Some("unexpected `the end of the line` in a list")),
            (
                "Defaults env_keep += \"A B\"\nCmnd_Alias X = /bin/x, /bin/y a\\:b\n# x\n\
                 who ALL=(ALL:ALL) NOPASSWD:SETENV: X, !/bin/z : b = sudoedit /etc/x # y\n\
                 %who, #1000 10.0.0.0/8,ALL = \\\n TIMEOUT=5m CWD=/ /bin/x --a=b\n\
                 who ALL=(:games) ^/bin/x(a,b)$, /bin/x ^a:b$\n\"do main\" ALL=()ALL",
                None,
            ),
        ],
    );
    let with = |name: &str, mode: u32, uid: u32| {
        found(machine, |overlay| {
            overlay.file("etc/sudoers", "@includedir /etc/sudoers.d\n");
            overlay.put(&format!("etc/sudoers.d/{name}"), mode, "who ALL=ALL\n").uid = uid;
        })
    };
    let at = "sudoers /etc/sudoers.d/";
    let ignored =
        format!("{at}site.conf: sudo ignores files whose name contains a dot or ends in ~");
    assert_eq!(with("site.conf", 0o100440, 0), [ignored]);
    let owner = format!("{at}site: it belongs to user id 1000, not to root");
    assert_eq!(with("site", 0o100440, 1000), [owner]);
    let open = format!("{at}site: all users can write to it (mode 0666)");
    assert_eq!(with("site", 0o100666, 0), [open]);
    assert_eq!(with("site", 0o100644, 0), [""; 0]);
    let loops = [("etc/sudoers", "#include /etc/sudoers\n@include sudoers.local\nwho ALL=ALL\n")];
    assert_found(&loops, &[]);
}

#[test]
fn jobs_that_cron_ignores_are_reported() {
    assert_lines(
        "etc/cron.d/site",
        "cron",
        &[
            ("60 * * * * root script", Some("invalid minute: `60`")),
            ("* 1-30 * * * root script", Some("invalid hour: `1-30`")),
            ("* * 0 * * root script", Some("invalid day of the month: `0`")),
            ("* * * foo * root script", Some("invalid month: `foo`")),
            ("*/0 * * * * root script", Some("invalid minute: `*/0`")),
            ("* * * * root script", Some("invalid day of the week: `root`")),
            ("* * * * * root", Some("the user or the command is missing")),
            ("@dayly root script", Some("unknown time @dayly")),
            ("* * * * * nobody script", Some("unknown user nobody")),
            ("* * * * * root /opt/none x", Some("/opt/none does not exist")),
            (
                "MAILTO = who\nPATH=/bin\n*/5,10 0-6 1,15 jan-mar mon,7 root /usr/bin/script\n\
                 @reboot who cd / && script\n* * * * * root [ -x /opt/none ] && /opt/none",
                None,
            ),
        ],
    );
    let no_newline = "cron /etc/cron.d/site:1: the last line has no newline";
    assert_found(&[("etc/cron.d/site", "* * * * * root script")], &[no_newline]);
    let name = "cron /etc/cron.d/site.cron: cron ignores names with other characters";
    assert_found(&[("etc/cron.d/site.cron", "* * * * * root script\n")], &[name]);
    assert_found(&[("etc/cron.d/site.dpkg-old", "nonsense")], &[]);
    let unknown = "cron /var/spool/cron/crontabs/nobody: no account has the name";
    assert_found(&[("var/spool/cron/crontabs/nobody", "* * * * * script\n")], &[unknown]);
    let put = |path: &'static str, mode: u32, uid: u32| {
        found(machine, |overlay| overlay.put(path, mode, "@daily root script\n").uid = uid)
    };
    let open = "cron /etc/cron.d/site: others than its owner can write to it (mode 0664)";
    assert_eq!(put("etc/cron.d/site", 0o100664, 0), [open]);
    let owner = "cron /etc/cron.d/site: it belongs to user id 1000, not to root";
    assert_eq!(put("etc/cron.d/site", 0o100644, 1000), [owner]);
    let script = "cron /etc/cron.daily/site: it is not executable, so run-parts ignores it";
    assert_eq!(put("etc/cron.daily/site", 0o100644, 0), [script]);
    let name = "cron /etc/cron.daily/site.sh: run-parts ignores names with other characters than \
                A-Z a-z 0-9 _ -";
    assert_eq!(put("etc/cron.daily/site.sh", 0o100755, 0), [name]);
    assert_eq!(put("etc/cron.daily/.placeholder", 0o100644, 0), [""; 0]);
    // Without cron, the files have no effect.
    let without = |overlay: &mut Archive| _ = overlay.file("etc/cron.d/site", "nonsense");
    assert_eq!(found(|_| {}, without), [""; 0]);
}

#[test]
fn configuration_that_logrotate_skips_is_reported() {
    for (text, expected) in [
        ("/var/log/a {\n dayly\n}\n", "logrotate /etc/logrotate.d/site:2: unknown directive dayly"),
        ("/var/log/a {\n daily\n", "logrotate /etc/logrotate.d/site:1: the block has no `}`"),
        (
            "/var/log/a {\n postrotate\n  kill 1\n}\n",
            "logrotate /etc/logrotate.d/site:2: postrotate has no endscript",
        ),
        (
            "/var/log/a {\n create 640 syslog games\n}\n",
            "logrotate /etc/logrotate.d/site:2: unknown user syslog",
        ),
    ] {
        assert_found(&[("etc/logrotate.d/site", text)], &[expected]);
    }
    let fine = "/var/log/a /var/log/b\n/var/log/c\n{\n  weekly\n  rotate 4\n  create 0640 who games\n  \
                sharedscripts\n  postrotate\n    anything } goes\n  endscript\n}\n\
                \"/var/log/with space\" { daily }\nsize=1M\n";
    assert_found(&[("etc/logrotate.d/site", fine)], &[]);
    assert_found(&[("etc/logrotate.d/site.bak", "nonsense\n")], &[]);
}

#[test]
fn locales_and_time_zones_that_are_not_installed_are_reported() {
    let locale = "locale /etc/default/locale:2: en_US.UTF-8 is not installed";
    let text = "# x\nLANG=en_US.UTF-8\nLC_TIME=\"de_DE.UTF-8\"\nLANGUAGE=fr\nLC_ALL=C.UTF-8\n";
    assert_found(&[("etc/default/locale", text)], &[locale]);
    let zone = "time-zone /etc/timezone:1: /usr/share/zoneinfo/Mars/Base does not exist";
    assert_found(&[("etc/timezone", "Mars/Base\n")], &[zone]);
    assert_found(&[("etc/timezone", "Europe/Berlin\n")], &[]);
    assert_found(&[("etc/timezone", "Etc/UTC\n")], &[]);
}
