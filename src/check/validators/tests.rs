//! Outputs of real programs, and the problems that are read from them.

use super::table::{Reading, validators};
use super::{Answer, Job, ValidatorCommand, ValidatorEnd, ValidatorOutput};
use crate::check::Severity;

fn answer(name: &str, end: ValidatorEnd, text: &[u8]) -> Answer {
    let validator = validators().find(|validator| validator.name == name).unwrap();
    let limit = std::time::Duration::from_secs(7);
    let job = Job::Validator(validator);
    let command = ValidatorCommand { job, script: "", arguments: Vec::new(), limit };
    command.read(validator, &ValidatorOutput { end, text: text.to_vec() })
}

/// Returns the problems as `path:line: message`, without a path that is not named.
fn problems(name: &str, code: i32, text: &str) -> Vec<String> {
    let Answer::Problems(problems) = answer(name, ValidatorEnd::Code(code), text.as_bytes()) else {
        panic!("{name}: no problems are read from {text}");
    };
    let shown = problems.iter().map(|problem| {
        let line = problem.line.map(|line| format!(":{line}")).unwrap_or_default();
        let path = problem.path.as_deref().unwrap_or_default();
        format!("{path}{line}: {}", problem.message)
    });
    shown.collect()
}

#[track_caller]
fn assert_read(name: &str, code: i32, text: &str, expected: &[&str]) {
    assert_eq!(problems(name, code, text), expected, "{name}: {text}");
}

#[test]
fn names_are_unique_and_complete() {
    for validator in validators() {
        let same = validators().filter(|other| other.name == validator.name);
        assert_eq!(same.count(), 1, "{}", validator.name);
        assert!(!validator.program.is_empty() && !validator.command.is_empty());
        assert!((1..=60).contains(&validator.limit), "{}", validator.name);
    }
    // Tests of provisioners are no validators.
    for lint in super::lints::ALL.iter().filter(|lint| lint.name != super::lints::TEST.name) {
        let is_used = validators().any(|validator| validator.lint.name == lint.name);
        assert!(is_used, "{} has a validator", lint.name);
    }
}

#[test]
fn validators_are_documented() {
    let document = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/CHECK.md");
    let document = std::fs::read_to_string(document).unwrap();
    let section = document.split("## The image's own validators").nth(1).unwrap();
    for validator in validators() {
        let row = |line: &&str| {
            line.starts_with('|')
                && line.contains(validator.program)
                && line.ends_with(&format!("`{}` |", validator.lint.name))
        };
        assert!(section.lines().any(|line| row(&line)), "docs/CHECK.md lists {}", validator.name);
    }
}

#[test]
fn places_and_messages_are_read() {
    for (name, code, text, expected) in [
        (
            "visudo -c",
            1,
            "/etc/sudoers.d/x:1:32: syntax error\nalice ALL=(ALL) NOPASWD /bin/ls\n       ^\n\
             /etc/sudoers.d/y: bad permissions, should be mode 0440\n/etc/sudoers: parsed OK\n",
            &[
                "/etc/sudoers.d/x:1: syntax error",
                "/etc/sudoers.d/y: bad permissions, should be mode 0440",
            ][..],
        ),
        (
            "sshd -t",
            255,
            "Unable to load host key: /etc/ssh/ssh_host_rsa_key\n\
             /etc/ssh/sshd_config: line 123: Bad configuration option: Foo\n\
             /etc/ssh/sshd_config line 124: unsupported option \"maybe\".\n\
             /etc/ssh/sshd_config: terminating, 2 bad configuration options\n",
            &[
                "/etc/ssh/sshd_config:123: Bad configuration option: Foo",
                "/etc/ssh/sshd_config:124: unsupported option \"maybe\".",
            ],
        ),
        (
            "systemd-analyze verify",
            1,
            "/etc/systemd/system/x.service:2: Unknown key 'Foo' in section [Unit], ignoring.\n\
             x.service: Command /usr/bin/no is not executable: No such file or directory\n\
             x.service: Service has more than one ExecStart= setting. Refusing.\n\
             Unit x.service has a bad unit file setting.\nUnit y.service is masked.\n",
            &[
                "/etc/systemd/system/x.service:2: Unknown key 'Foo' in section [Unit], ignoring.",
                "x.service: Service has more than one ExecStart= setting. Refusing.",
            ],
        ),
        (
            "systemd-tmpfiles --create",
            65,
            "/etc/tmpfiles.d/x.conf:2: Failed to resolve user 'no': No such process\n\
             /usr/lib/tmpfiles.d/y.conf:1: Line references path below legacy directory /var/run/\n\
             Failed to create directory /x: Permission denied\n",
            &["/etc/tmpfiles.d/x.conf:2: Failed to resolve user 'no': No such process"],
        ),
        (
            "pwck -qr",
            2,
            "invalid password file entry\ndelete line 'bad:$6$secret:1'? No\n\
             user 'man': directory '/var/cache/man' does not exist\npwck: no changes\n",
            &[": invalid password file entry: bad"],
        ),
        (
            "grpck -qr",
            2,
            "group q: no user none\ndelete member 'none'? No\n\
             no matching group file entry in /etc/gshadow\nadd group 'q' in /etc/gshadow? No\n",
            &[
                ": group q: no user none",
                "/etc/gshadow: no matching group file entry in /etc/gshadow: q",
            ],
        ),
        (
            "dpkg --audit",
            0,
            "The following packages are only half configured, probably due to problems\n\
             configuring them the first time.  The configuration should be retried using\n\
             dpkg --configure <package> or the configure menu option in dselect:\n \
             adduser              add and remove users and groups\n\n",
            &[": adduser: it is only half configured"],
        ),
        (
            "dpkg --verify",
            0,
            "??5??????   /bin/ls\n??5?????? c /etc/profile\nmissing     /usr/bin/env\n\
             missing     /usr/share/doc/x/copyright\n",
            &[
                "/bin/ls: its content is not that of its package",
                "/usr/bin/env: the file of a package is missing",
            ],
        ),
        (
            "apt-get check",
            100,
            "E: Malformed entry 1 in list file /etc/apt/sources.list.d/x.list (Suite)\n\
             E: The list of sources could not be read.\n",
            &["/etc/apt/sources.list.d/x.list:1: Malformed entry 1 in list file \
                 /etc/apt/sources.list.d/x.list (Suite)"],
        ),
        (
            "apt-get check",
            100,
            "E: Syntax error /etc/apt/apt.conf.d/99x:2: Extra junk at end of file\n\
             The following packages have unmet dependencies:\n \
             curl : Depends: libcurl4 (= 7) but it is not installed\n\
             E: Unmet dependencies. Try 'apt --fix-broken install'.\n",
            &[
                "/etc/apt/apt.conf.d/99x:2: Syntax error /etc/apt/apt.conf.d/99x:2: Extra junk at \
                 end of file",
                ": curl : Depends: libcurl4 (= 7) but it is not installed",
            ],
        ),
        (
            "findmnt --verify",
            1,
            "findmnt: /etc/fstab: parse error at line 2 -- ignored\n\n1 parse error, 1 error\n/\n   \
             [E] unreachable on boot required source: UUID=1234\n",
            &["/etc/fstab:2: parse error at line 2 -- ignored"],
        ),
        (
            "modprobe -c",
            0,
            "libkmod: ERROR ../libkmod/libkmod-config.c:712 kmod_config_parse: \
             /etc/modprobe.d/x.conf line 1: ignoring bad line starting with 'frob'\n",
            &["/etc/modprobe.d/x.conf:1: ignoring bad line starting with 'frob'"],
        ),
        (
            "sh -n",
            0,
            "/etc/profile.d/x.sh: 3: Syntax error: \"(\" unexpected\n\
             /usr/local/bin/y: line 7: syntax error near unexpected token `fi'\n",
            &[
                "/etc/profile.d/x.sh:3: Syntax error: \"(\" unexpected",
                "/usr/local/bin/y:7: syntax error near unexpected token `fi'",
            ],
        ),
        (
            "ldd -r",
            0,
            "/usr/local/bin/x: undefined symbol: more\n",
            &["/usr/local/bin/x: undefined symbol: more"],
        ),
        (
            "lvmconfig --validate",
            4,
            "  Parse error at byte 111694 (line 2451): unexpected token\n  \
             Failed to load config file /etc/lvm/lvm.conf\n",
            &[":2451: Parse error at byte 111694 (line 2451): unexpected token"],
        ),
        (
            "logrotate -d",
            1,
            "error: x:2 bad rotation count 'x'\nerror: found error in /var/log/foo , skipping\n\
             error: stat of /var/log/foo failed: No such file or directory\n",
            &["x:2: bad rotation count 'x'"],
        ),
        (
            "rsyslogd -N1",
            1,
            "rsyslogd: version 8.2302.0, config validation run (level 1), master config x\n\
             rsyslogd: error during parsing file /etc/rsyslog.d/x.conf, on or before line 2: \
             warnings occurred\n",
            &["/etc/rsyslog.d/x.conf:2: error during parsing file /etc/rsyslog.d/x.conf, on or \
               before line 2: warnings occurred"],
        ),
        (
            "crontab -n",
            0,
            "\"/var/spool/cron/crontabs/x\":1: bad day-of-week\n\
             errors in crontab file, can't install.\n",
            &["/var/spool/cron/crontabs/x:1: bad day-of-week"],
        ),
    ] {
        assert_read(name, code, text, expected);
    }
}

#[test]
fn servers_are_read() {
    for (name, code, text, expected) in [
        (
            "nft -c",
            1,
            "/etc/nftables.conf:17:1-1: Error: syntax error, unexpected end of file\n\
             table foo {\n^\n",
            &["/etc/nftables.conf:17: Error: syntax error, unexpected end of file"][..],
        ),
        (
            "apparmor_parser -Q",
            1,
            "Cache read/write disabled: interface file missing.\n\
             AppArmor parser error for /etc/apparmor.d/x in profile /etc/apparmor.d/x at line 1: \
             syntax error, unexpected TOK_CLOSE\n",
            &["/etc/apparmor.d/x:1: AppArmor parser error for /etc/apparmor.d/x in profile \
               /etc/apparmor.d/x at line 1: syntax error, unexpected TOK_CLOSE"],
        ),
        (
            "nginx -t",
            1,
            "2026/12/01 02:02:58 [emerg] 5#5: unknown directive \"frob\" in \
             /etc/nginx/conf.d/x.conf:1\n\
             nginx: configuration file /etc/nginx/nginx.conf test failed\n",
            &["/etc/nginx/conf.d/x.conf:1: unknown directive \"frob\" in \
               /etc/nginx/conf.d/x.conf:1"],
        ),
        (
            "apache2ctl configtest",
            1,
            "AH00558: apache2: Could not determine the server's name\n\
             AH00526: Syntax error on line 1 of /etc/apache2/conf-enabled/x.conf:\n\
             Invalid command 'Frob', perhaps misspelled\nAction 'configtest' failed.\n",
            &["/etc/apache2/conf-enabled/x.conf:1: AH00526: Syntax error on line 1 of \
               /etc/apache2/conf-enabled/x.conf: Invalid command 'Frob', perhaps misspelled"],
        ),
        (
            "haproxy -c",
            1,
            "[NOTICE]   (5) : haproxy version is 2.6.12-1+deb12u4\n\
             [ALERT]    (5) : config : parsing [/etc/haproxy/haproxy.cfg:37] : unknown keyword \
             'frob'\n[ALERT]    (5) : config : Fatal errors found in configuration.\n",
            &["/etc/haproxy/haproxy.cfg:37: config : parsing [/etc/haproxy/haproxy.cfg:37] : \
               unknown keyword 'frob'"],
        ),
        (
            "lighttpd -tt",
            255,
            "2026-12-01 02:02:59: (configfile.c.2164) source: /etc/lighttpd/lighttpd.conf line: 56 \
             pos: 0 parser failed somehow near here: (\n",
            &["/etc/lighttpd/lighttpd.conf:56: (configfile.c.2164) source: \
               /etc/lighttpd/lighttpd.conf line: 56 pos: 0 parser failed somehow near here: ("],
        ),
        (
            "squid -k parse",
            1,
            "2026/12/01 02:02:59| /etc/squid/squid.conf(9165): unrecognized: 'frob'\n\
             2026/12/01 02:02:59| FATAL: Bungled /etc/squid/squid.conf line 9166: http_access x\n",
            &[
                "/etc/squid/squid.conf:9165: unrecognized: 'frob'",
                "/etc/squid/squid.conf:9166: Bungled /etc/squid/squid.conf line 9166: \
                 http_access x",
            ],
        ),
        (
            "named-checkconf -z",
            1,
            "zone x/IN: loading from master file /etc/bind/no failed: file not found\n\
             zone x/IN: not loaded due to errors.\n_default/x/IN: file not found\n",
            &["/etc/bind/no: zone x/IN: loading from master file /etc/bind/no failed: file not \
               found"],
        ),
        (
            "dnsmasq --test",
            1,
            "\ndnsmasq: bad option at line 690 of /etc/dnsmasq.conf\n",
            &["/etc/dnsmasq.conf:690: bad option at line 690 of /etc/dnsmasq.conf"],
        ),
        (
            "unbound-checkconf",
            1,
            "/etc/unbound/unbound.conf:11: error: unknown keyword 'frob'\n\
             /etc/unbound/unbound.conf:11: error: stray ':'\n\
             read /etc/unbound/unbound.conf failed: 2 errors in configuration file\n",
            &["/etc/unbound/unbound.conf:11: error: unknown keyword 'frob'"],
        ),
        (
            "unbound-checkconf",
            1,
            "/var/lib/unbound/root.key: No such file or directory\n\
             [1796090355] unbound-checkconf[61:0] fatal error: auto-trust-anchor-file: \
             \"/var/lib/unbound/root.key\" does not exist\n",
            &[],
        ),
        (
            "postfix check",
            0,
            "/usr/sbin/postconf: warning: /etc/postfix/main.cf: unused parameter: frob=1\n\
             /usr/sbin/postconf: warning: /etc/postfix/main.cf: unused parameter: frob=1\n",
            &["/etc/postfix/main.cf: unused parameter: frob=1"],
        ),
        (
            "doveconf -n",
            89,
            "# 2.3.19.1 (9b53102964): /etc/dovecot/dovecot.conf\n\
             doveconf: Fatal: Error in configuration file /etc/dovecot/local.conf line 1: Unknown \
             setting: frob\n",
            &[
                "/etc/dovecot/local.conf:1: Error in configuration file /etc/dovecot/local.conf line 1: \
               Unknown setting: frob",
            ],
        ),
        (
            "exim4 -bV",
            1,
            "2026-12-01 02:03:05 Exim configuration error in line 1 of /etc/exim4/exim4.conf:\n  \
             main option \"frob\" unknown\nExim version 4.96 #2 built 26-Nov-2026 14:26:47\n",
            &["/etc/exim4/exim4.conf:1: Exim configuration error in line 1 of \
               /etc/exim4/exim4.conf: main option \"frob\" unknown"],
        ),
        (
            "opendkim -n",
            78,
            "opendkim: /etc/opendkim.conf: configuration error at line 52: unrecognized \
             parameter\n",
            &["/etc/opendkim.conf:52: configuration error at line 52: unrecognized parameter"],
        ),
        (
            "slaptest -u",
            1,
            "ldif_read_file: checksum error on \"/etc/ldap/slapd.d/cn=config.ldif\"\n\
             unable to open file \"/var/run/slapd/slapd.pid\": 2 (No such file or directory)\n",
            &["/etc/ldap/slapd.d/cn=config.ldif: ldif_read_file: checksum error on \
               \"/etc/ldap/slapd.d/cn=config.ldif\""],
        ),
        (
            "testparm -s",
            1,
            "Unknown parameter encountered: \"frob\"\nIgnoring unknown parameter \"frob\"\n\
             set_variable_helper(perhaps): value is not boolean!\n",
            &[
                ": Unknown parameter encountered: \"frob\"",
                ": set_variable_helper(perhaps): value is not boolean!",
            ],
        ),
        (
            "mariadbd --help",
            7,
            "2026-12-01  2:03:00 0 [Warning] failed to retrieve the MAC address\n\
             2026-12-01  2:03:00 0 [ERROR] mariadbd: unknown variable 'frob=1'\n",
            &[": unknown variable 'frob=1'"],
        ),
        (
            "chronyd -p",
            1,
            "2026-12-01T02:03:19Z Fatal error : Invalid directive at line 48 in file \
             /etc/chrony/chrony.conf\n",
            &["/etc/chrony/chrony.conf:48: Fatal error : Invalid directive at line 48 in file \
               /etc/chrony/chrony.conf"],
        ),
        (
            "keepalived -t",
            5,
            "(Line 1) Unknown keyword 'frob'\n\
             (/etc/keepalived/keepalived.conf: Line 1) Unknown keyword 'frob'\n\
             (/etc/keepalived/keepalived.conf: Line 1) Unknown keyword 'frob'\n",
            &["/etc/keepalived/keepalived.conf:1: Unknown keyword 'frob'"],
        ),
        (
            "corosync -t",
            8,
            "parser error: /etc/corosync/corosync.conf:64: Missing closing brace\n",
            &["/etc/corosync/corosync.conf:64: parser error: /etc/corosync/corosync.conf:64: \
               Missing closing brace"],
        ),
        (
            "dhcpd -t",
            1,
            "Internet Systems Consortium DHCP Server 4.4.3-P1\n\
             /etc/dhcp/dhcpd.conf line 108: semicolon expected.\nfrob 1;\n      ^\n\
             Configuration file errors encountered -- exiting\n",
            &["/etc/dhcp/dhcpd.conf:108: semicolon expected."],
        ),
        (
            "vtysh -C",
            2,
            "line 11: % Unknown command[4]: frob 1\n",
            &[":11: line 11: % Unknown command[4]: frob 1"],
        ),
        (
            "NetworkManager --print-config",
            7,
            "Failed to read configuration: /etc/NetworkManager/conf.d/x.conf: Key file contains \
             line “frob” which is not a key-value pair\n",
            &["/etc/NetworkManager/conf.d/x.conf: Failed to read configuration: \
               /etc/NetworkManager/conf.d/x.conf: Key file contains line “frob” which is not a \
               key-value pair"],
        ),
        (
            "ifquery --list -a",
            1,
            "ifquery: /etc/network/interfaces:4: misplaced option\n\
             ifquery: couldn't read interfaces file \"/etc/network/interfaces\"\n",
            &["/etc/network/interfaces:4: misplaced option"],
        ),
        (
            "netplan generate",
            1,
            "\n** (generate:16): WARNING **: 02:03:08.436: Permissions for /etc/netplan/x.yaml are \
             too open.\n/etc/netplan/x.yaml:2:3: Error in network definition: unknown key \
             'frob'\n  frob: 1\n  ^\n",
            &["/etc/netplan/x.yaml:2: Error in network definition: unknown key 'frob'"],
        ),
        (
            "cupsd -t",
            0,
            "Unknown directive Frob on line 198 of /etc/cups/cupsd.conf.\n\
             \"/etc/cups/cupsd.conf\" is OK.\n",
            &["/etc/cups/cupsd.conf:198: Unknown directive Frob on line 198 of \
               /etc/cups/cupsd.conf."],
        ),
        (
            "proftpd -t",
            1,
            "Checking syntax of configuration file\n2026-12-01 03:24:00,123 vm proftpd[8]: fatal: \
             unknown configuration directive 'Frob' on line 211 of '/etc/proftpd/proftpd.conf'\n\
             2026-12-01 03:24:00,123 vm proftpd[8]: fatal: Did you mean:   From\n",
            &["/etc/proftpd/proftpd.conf:211: unknown configuration directive 'Frob' on line 211 \
               of '/etc/proftpd/proftpd.conf'"],
        ),
        (
            "fail2ban-client -t",
            255,
            "2026-12-01 02:03:21,742 fail2ban [17]: ERROR   Failed during configuration: Have not \
             found any log file for sshd jail\n\
             2026-12-01 02:03:21,742 fail2ban [17]: ERROR   ERROR: test configuration failed\n",
            &[],
        ),
    ] {
        assert_read(name, code, text, expected);
    }
}

#[test]
fn success_and_unsupported_versions_are_no_problems() {
    assert_read("nginx -t", 0, "[emerg] of another run\n", &[]);
    let usage = b"Unknown command verb verify.\n";
    assert!(matches!(answer("udevadm verify", ValidatorEnd::Code(1), usage), Answer::DoesNotApply));
}

#[test]
fn failure_without_a_known_message_shows_the_last_line() {
    assert_read("nginx -t", 1, "nginx: [warn] x\nsomething else\n\n", &[": something else"]);
    assert_read("nginx -t", 1, "", &[": it fails without a message"]);
}

#[test]
fn crashes_limits_and_network_are_no_results() {
    let reason = |end, text: &str| match answer("nginx -t", end, text.as_bytes()) {
        Answer::NoResult(reason) => reason,
        _ => panic!("a result: {text}"),
    };
    assert_eq!(reason(ValidatorEnd::Signal(11), ""), "nginx -t was ended by signal 11");
    assert_eq!(reason(ValidatorEnd::Code(139), ""), "nginx -t was ended by signal 11");
    assert_eq!(reason(ValidatorEnd::TimeLimit, ""), "nginx -t did not end within 7 s");
    assert_eq!(reason(ValidatorEnd::NotStarted, ""), "nginx -t could not be started");
    let text = "sh: 1: exec: nginx: Permission denied\n";
    let expected = "nginx -t could not be executed: sh: 1: exec: nginx: Permission denied";
    assert_eq!(reason(ValidatorEnd::Code(126), text), expected);
    let text = "[emerg] 5#5: host not found in upstream \"a.org\" in /etc/nginx/nginx.conf:3\n";
    assert!(reason(ValidatorEnd::Code(1), text).contains("it needs the network"));
}

#[test]
fn any_bytes_are_read() {
    let mut bytes = Vec::new();
    for index in 0..20_000_u32 {
        bytes.push((index.wrapping_mul(2_654_435_761) >> 24) as u8);
    }
    let lines =
        "/:\n/etc/x:999999999999999999999:\n\"/etc/x\":\n(/x: Line 0)\n/é:3:“\nline line 5\n";
    for validator in validators() {
        for text in [&bytes[..], lines.as_bytes()] {
            for end in [ValidatorEnd::Code(0), ValidatorEnd::Code(1)] {
                let Answer::Problems(problems) = answer(validator.name, end, text) else {
                    continue;
                };
                for problem in problems {
                    let shown = problem.message.chars().any(char::is_control);
                    assert!(!shown, "{}: {}", validator.name, problem.message);
                }
            }
        }
    }
}

#[test]
fn severities_of_lines_are_not_above_that_of_the_lint() {
    for validator in validators() {
        let above = |(_, severity): &&(&str, Severity)| *severity > validator.lint.severity;
        assert!(validator.severities.iter().find(above).is_none(), "{}", validator.name);
        if let Reading::Lines { signs, noise, .. } = &validator.reading {
            assert!(signs.iter().all(|sign| !noise.contains(sign)), "{}", validator.name);
        }
    }
}
