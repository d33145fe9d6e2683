//! The validators: which programs of an image are asked, and how their answers are read.

use super::lints::*;
use super::output::{account_problems, apt_problems, audit_problems, verify_problems};
use super::{Problem, Validator};
use crate::check::Severity;

/// The files that are arguments of a validator: those that the checked layers add or change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arguments {
    /// None: the program finds its files.
    None,
    /// systemd units.
    Units,
    /// Versions of kernels whose modules the layers add or change.
    Kernels,
    /// Packages of which the layers change or delete a file.
    Packages,
    /// Shell files, each after the program that reads it.
    ShellFiles,
    /// Executable scripts of this interpreter.
    Scripts(&'static str),
    /// Dynamic programs that no package contains.
    Programs,
    /// Files in this directory that no package contains.
    FilesIn(&'static str),
}

/// How problems are read from the output of a validator.
#[derive(Clone, Copy)]
pub(super) enum Reading {
    /// Each line is a problem if it contains one of `signs` (any line if there are none) and none
    /// of `noise`; `^` is the start of a line. If the exit code matters, and no line of a failure
    /// is known, the last line is a problem.
    Lines { when: When, signs: &'static [&'static str], noise: &'static [&'static str] },
    /// By a function.
    With(fn(&str) -> Vec<Problem>),
}

/// When the lines of a validator are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    /// If its exit code is not 0.
    Failed,
    /// Always: its exit code does not tell all problems.
    Always,
}

const fn failed(signs: &'static [&'static str], noise: &'static [&'static str]) -> Reading {
    Reading::Lines { when: When::Failed, signs, noise }
}

const fn always(signs: &'static [&'static str], noise: &'static [&'static str]) -> Reading {
    Reading::Lines { when: When::Always, signs, noise }
}

/// The values of most validators.
const VALIDATOR: Validator = Validator {
    name: "",
    lint: &SUDOERS,
    program: "",
    files: &[],
    arguments: Arguments::None,
    command: "",
    reading: failed(&[], &[]),
    severities: &[],
    unsupported: &[],
    limit: 20,
};

/// Lines of a program that could not reach a name server, which it can on the machine.
pub(super) const NEEDS_NETWORK: &[&str] = &[
    "host not found",
    "could not resolve",
    "Could not resolve",
    "name resolution",
    "Name or service not known",
    "No address associated with hostname",
    "etwork is unreachable",
];

/// The validators. Each command is a shell script, which runs in the root of the image with the
/// arguments as its parameters. What it writes to the root is thrown away.
pub(super) static VALIDATORS: &[Validator] = &[
    Validator {
        name: "visudo -c",
        program: "visudo",
        files: &["etc/sudoers"],
        command: "exec visudo -c",
        // "parsed OK" of the other files; excerpts of the line and a caret follow a message.
        reading: failed(&["^/", "^>>> /"], &["parsed OK"]),
        ..VALIDATOR
    },
    Validator {
        name: "sshd -t",
        lint: &SSHD,
        program: "sshd",
        files: &["etc/ssh/sshd_config"],
        // `-T` also evaluates the conditions of Match blocks.
        command: "mkdir -p /run/sshd\n\
                  key=/tmp/overcoat-host-key\n\
                  ssh-keygen -q -t ed25519 -N '' -f $key </dev/null >/dev/null 2>&1\n\
                  sshd=$(command -v sshd)\n\
                  \"$sshd\" -t -h $key || exit\n\
                  exec \"$sshd\" -T -h $key -C user=root,host=localhost,addr=127.0.0.1 >/dev/null",
        reading: failed(
            &[],
            &["terminating, ", "Unable to load host key", "Could not load host key"],
        ),
        ..VALIDATOR
    },
    Validator {
        name: "ssh -G localhost",
        lint: &SSH,
        program: "ssh",
        files: &["etc/ssh/ssh_config"],
        command: "exec ssh -G localhost >/dev/null",
        reading: failed(&[], &["terminating, ", "Pseudo-terminal"]),
        ..VALIDATOR
    },
    Validator {
        name: "systemd-analyze verify",
        lint: &UNIT,
        program: "systemd-analyze",
        arguments: Arguments::Units,
        command: "exec systemd-analyze verify --man=no --recursive-errors=no -- \"$@\"",
        reading: always(
            &["^/", "Refusing"],
            &[
                // Advice: the settings have their effect. Other lints report missing programs and
                // units, with the conditions of the unit.
                "legacy directory",
                "obsolete",
                "deprecated",
                "is unsafe",
                "not safe",
                "has been removed",
                "no longer supported",
                "has no effect",
                "no longer has",
                "marked executable",
                "world-writable",
                "world-inaccessible",
            ],
        ),
        severities: &[("Refusing", Severity::Error), ("", Severity::Warning)],
        unsupported: &["unrecognized option"],
        limit: 30,
        ..VALIDATOR
    },
    Validator {
        name: "systemd-sysusers --dry-run",
        lint: &SYSUSERS,
        program: "systemd-sysusers",
        command: "exec systemd-sysusers --dry-run",
        reading: always(&[".conf:"], &["legacy directory"]),
        unsupported: &["unrecognized option"],
        ..VALIDATOR
    },
    Validator {
        name: "udevadm verify",
        lint: &UDEV,
        program: "udevadm",
        command: "exec udevadm verify --resolve-names=late --no-style",
        reading: failed(&[".rules:"], &["udev rules check failed"]),
        unsupported: &["Unknown command verb", "unrecognized option"],
        ..VALIDATOR
    },
    Validator {
        name: "pwck -qr",
        lint: &ACCOUNTS,
        program: "pwck",
        files: &["etc/passwd"],
        command: "exec pwck -qr",
        reading: Reading::With(account_problems),
        ..VALIDATOR
    },
    Validator {
        name: "grpck -qr",
        lint: &ACCOUNTS,
        program: "grpck",
        files: &["etc/group"],
        command: "exec grpck -qr",
        reading: Reading::With(account_problems),
        ..VALIDATOR
    },
    Validator {
        name: "dpkg --audit",
        lint: &AUDIT,
        program: "dpkg",
        files: &["var/lib/dpkg/status"],
        command: "exec dpkg --audit",
        reading: Reading::With(audit_problems),
        ..VALIDATOR
    },
    Validator {
        name: "dpkg --verify",
        lint: &PACKAGE_FILES,
        program: "dpkg",
        files: &["var/lib/dpkg/status"],
        arguments: Arguments::Packages,
        command: "exec dpkg --verify \"$@\"",
        reading: Reading::With(verify_problems),
        limit: 60,
        ..VALIDATOR
    },
    Validator {
        name: "apt-get check",
        lint: &APT,
        program: "apt-get",
        files: &["var/lib/dpkg/status"],
        command: "exec apt-get check -qq",
        reading: Reading::With(apt_problems),
        ..VALIDATOR
    },
    Validator {
        name: "findmnt --verify",
        lint: &FSTAB,
        program: "findmnt",
        files: &["etc/fstab"],
        command: "exec findmnt --verify",
        // Devices are missing here: only the syntax is of interest.
        reading: always(&["parse error at line"], &[]),
        unsupported: &["unrecognized option"],
        ..VALIDATOR
    },
    Validator {
        name: "modprobe -c",
        lint: &MODPROBE,
        program: "modprobe",
        files: &["etc/modprobe.d", "usr/lib/modprobe.d", "lib/modprobe.d"],
        command: "exec modprobe -c >/dev/null",
        reading: always(&["ignoring bad line"], &[]),
        ..VALIDATOR
    },
    Validator {
        name: "depmod -n",
        lint: &DEPMOD,
        program: "depmod",
        arguments: Arguments::Kernels,
        command: "for kernel; do depmod -n \"$kernel\" >/dev/null; done",
        reading: always(&["ERROR: ", "FATAL: "], &["modules.order", "modules.builtin"]),
        limit: 60,
        ..VALIDATOR
    },
    Validator {
        name: "grub-script-check",
        lint: &GRUB,
        program: "grub-script-check",
        files: &["boot/grub/grub.cfg"],
        command: "exec grub-script-check /boot/grub/grub.cfg",
        reading: failed(&["Syntax error at line"], &[]),
        ..VALIDATOR
    },
    Validator {
        name: "sh -n",
        lint: &SHELL,
        program: "sh",
        arguments: Arguments::ShellFiles,
        // Scripts may enable extended patterns when they run, which bash needs to parse them.
        command: "while [ $# -gt 1 ]; do\n\
                  case $1 in */bash) o='-O extglob' ;; *) o= ;; esac\n\
                  [ ! -x \"$1\" ] || \"$1\" $o -n \"$2\" </dev/null 2>&1 | head -n 1\n\
                  shift 2; done",
        reading: always(&["^/"], &["warning: "]),
        limit: 60,
        ..VALIDATOR
    },
    Validator {
        name: "python3: compile",
        lint: &SCRIPT,
        program: "python3",
        arguments: Arguments::Scripts("python3"),
        command: "exec python3 -ISE -W ignore -c '\n\
                  import sys\n\
                  for name in sys.argv[1:]:\n    \
                      try: compile(open(name, \"rb\").read(), name, \"exec\", dont_inherit=True)\n    \
                      except SyntaxError as e: print(f\"{name}:{e.lineno or 1}: {e.msg}\")\n    \
                      except ValueError as e: print(f\"{name}:1: {e}\")\n\
                  ' \"$@\"",
        reading: always(&["^/"], &[]),
        ..VALIDATOR
    },
    Validator {
        name: "ruby -c",
        lint: &SCRIPT,
        program: "ruby",
        arguments: Arguments::Scripts("ruby"),
        command: "for file; do ruby -W0 -c \"$file\" 2>&1 >/dev/null | head -n 1; done",
        reading: always(&["^/"], &[]),
        limit: 60,
        ..VALIDATOR
    },
    Validator {
        name: "perl -c",
        lint: &SCRIPT,
        program: "perl",
        arguments: Arguments::Scripts("perl"),
        command: "for file; do perl -X -c \"$file\" </dev/null 2>&1 >/dev/null; done",
        // Modules may be found from another directory, or be optional.
        reading: always(&["syntax error at", "Can't find string terminator"], &[]),
        limit: 60,
        ..VALIDATOR
    },
    Validator {
        name: "ldd -r",
        lint: &SYMBOLS,
        program: "ldd",
        arguments: Arguments::Programs,
        command: "for file; do ldd -r \"$file\" 2>&1 |\n\
                  sed -n \"s|^\\(undefined symbol: [^[:space:]]*\\).*|$file: \\1|p\"; done",
        reading: always(&["undefined symbol: "], &[]),
        limit: 60,
        ..VALIDATOR
    },
    Validator {
        name: "lvmconfig --validate",
        lint: &LVM,
        program: "lvmconfig",
        files: &["etc/lvm/lvm.conf"],
        command: "exec lvmconfig --validate",
        reading: failed(&["rror at"], &["Failed to load config"]),
        ..VALIDATOR
    },
    Validator {
        name: "logrotate -d",
        lint: &LOGROTATE,
        program: "logrotate",
        files: &["etc/logrotate.conf", "etc/logrotate.d"],
        command: "exec logrotate -d /etc/logrotate.conf 2>&1 >/dev/null",
        // Log files and directories are missing here.
        reading: always(&["error: "], &["found error in", "stat of", "because", "failed: "]),
        ..VALIDATOR
    },
    Validator {
        name: "rsyslogd -N1",
        lint: &RSYSLOG,
        program: "rsyslogd",
        files: &["etc/rsyslog.conf"],
        command: "exec rsyslogd -N1",
        reading: failed(&["rsyslogd: "], &["config validation run"]),
        ..VALIDATOR
    },
    Validator {
        name: "crontab -n",
        lint: &CRON,
        program: "crontab",
        arguments: Arguments::FilesIn("var/spool/cron/crontabs"),
        command: "for file; do crontab -n \"$file\" 2>&1; done",
        reading: always(&["\":"], &[]),
        unsupported: &["usage:", "invalid option"],
        ..VALIDATOR
    },
    Validator {
        name: "nft -c",
        lint: &NFTABLES,
        program: "nft",
        files: &["etc/nftables.conf"],
        command: "exec nft -c -f /etc/nftables.conf",
        // The kernel of this machine may lack nftables.
        reading: failed(
            &[": Error: syntax error", ": Error: unknown", ": Error: invalid"],
            &[
                "netlink",
                "Operation not",
                "Could not process rule",
                "Protocol not supported",
                "cache initialization",
                "No such file or directory",
                "Error: Unable",
            ],
        ),
        ..VALIDATOR
    },
    Validator {
        name: "apparmor_parser -Q",
        lint: &APPARMOR,
        program: "apparmor_parser",
        arguments: Arguments::FilesIn("etc/apparmor.d"),
        command: "exec apparmor_parser -QTK -- \"$@\"",
        reading: failed(&["AppArmor parser error"], &["Cache read/write", "abi"]),
        ..VALIDATOR
    },
    Validator {
        name: "nginx -t",
        lint: &NGINX,
        program: "nginx",
        files: &["etc/nginx/nginx.conf"],
        command: "exec nginx -t",
        reading: failed(&["[emerg]"], &["test failed", "bind() to"]),
        ..VALIDATOR
    },
    Validator {
        name: "apache2ctl configtest",
        lint: &APACHE,
        program: "apache2ctl",
        files: &["etc/apache2/apache2.conf"],
        command: "mkdir -p /run/apache2 /run/lock/apache2\nexec apache2ctl configtest",
        reading: failed(&[], &["AH00558", "Action 'configtest'", "error log may have"]),
        ..VALIDATOR
    },
    Validator {
        name: "httpd -t",
        lint: &APACHE,
        program: "httpd",
        files: &["etc/httpd/conf/httpd.conf"],
        command: "mkdir -p /run/httpd\nexec httpd -t",
        reading: failed(&[], &["AH00558"]),
        ..VALIDATOR
    },
    Validator {
        name: "haproxy -c",
        lint: &HAPROXY,
        program: "haproxy",
        files: &["etc/haproxy/haproxy.cfg"],
        command: "mkdir -p /run/haproxy\nexec haproxy -c -f /etc/haproxy/haproxy.cfg",
        reading: failed(&["[ALERT]"], &["Error(s) found", "Fatal errors found"]),
        ..VALIDATOR
    },
    Validator {
        name: "lighttpd -tt",
        lint: &LIGHTTPD,
        program: "lighttpd",
        files: &["etc/lighttpd/lighttpd.conf"],
        command: "exec lighttpd -tt -f /etc/lighttpd/lighttpd.conf",
        ..VALIDATOR
    },
    Validator {
        name: "squid -k parse",
        lint: &SQUID,
        program: "squid",
        files: &["etc/squid/squid.conf"],
        command: "exec squid -k parse",
        reading: always(&["FATAL: ", "unrecognized: ", "ACL not found"], &[]),
        ..VALIDATOR
    },
    Validator {
        name: "named-checkconf -z",
        lint: &NAMED,
        program: "named-checkconf",
        files: &["etc/bind/named.conf", "etc/named.conf"],
        command: "exec named-checkconf -z",
        reading: failed(&[], &["loaded serial", "not loaded due", "_default/"]),
        ..VALIDATOR
    },
    Validator {
        name: "dnsmasq --test",
        lint: &DNSMASQ,
        program: "dnsmasq",
        files: &["etc/dnsmasq.conf"],
        command: "exec dnsmasq --test",
        reading: failed(&["dnsmasq: "], &[]),
        ..VALIDATOR
    },
    Validator {
        name: "unbound-checkconf",
        lint: &UNBOUND,
        program: "unbound-checkconf",
        files: &["etc/unbound/unbound.conf"],
        command: "exec unbound-checkconf",
        // The trust anchor is created at the first start.
        reading: failed(&["error: "], &["root.key", "auto-trust-anchor-file", "stray ':'"]),
        ..VALIDATOR
    },
    Validator {
        name: "postfix check",
        lint: &POSTFIX,
        program: "postfix",
        files: &["etc/postfix/main.cf"],
        command: "postconf -n >/dev/null\npostconf -M >/dev/null\nexec postfix check",
        reading: always(
            &["warning: ", "fatal: ", "error: "],
            &["symlink leaves directory", "aliases.db", "differ", "not owned by"],
        ),
        severities: &[("warning: ", Severity::Warning)],
        limit: 30,
        ..VALIDATOR
    },
    Validator {
        name: "doveconf -n",
        lint: &DOVECOT,
        program: "doveconf",
        files: &["etc/dovecot/dovecot.conf"],
        command: "exec doveconf -n >/dev/null",
        reading: failed(&["Fatal: ", "Error: "], &[]),
        ..VALIDATOR
    },
    Validator {
        name: "exim4 -bV",
        lint: &EXIM,
        program: "exim4",
        files: &["etc/exim4/exim4.conf", "var/lib/exim4/config.autogenerated"],
        command: "exec exim4 -bV",
        reading: failed(&["configuration error"], &[]),
        ..VALIDATOR
    },
    Validator {
        name: "opendkim -n",
        lint: &OPENDKIM,
        program: "opendkim",
        files: &["etc/opendkim.conf"],
        command: "exec opendkim -n",
        ..VALIDATOR
    },
    Validator {
        name: "slaptest -u",
        lint: &SLAPD,
        program: "slaptest",
        files: &["etc/ldap/slapd.d", "etc/ldap/slapd.conf"],
        command: "mkdir -p /run/slapd\nexec slaptest -u",
        reading: failed(&[], &["config file testing succeeded", "slapd.pid"]),
        ..VALIDATOR
    },
    Validator {
        name: "testparm -s",
        lint: &SAMBA,
        program: "testparm",
        files: &["etc/samba/smb.conf"],
        command: "mkdir -p /run/samba\nexec testparm -s </dev/null",
        reading: always(&["Unknown parameter encountered", "value is not ", "Error loading"], &[]),
        ..VALIDATOR
    },
    Validator {
        name: "mariadbd --help",
        lint: &MARIADB,
        program: "mariadbd",
        files: &["etc/mysql/my.cnf", "etc/my.cnf"],
        command: "exec mariadbd --user=mysql --verbose --help >/dev/null",
        reading: failed(&["[ERROR]"], &["Aborting"]),
        ..VALIDATOR
    },
    Validator {
        name: "chronyd -p",
        lint: &CHRONY,
        program: "chronyd",
        files: &["etc/chrony/chrony.conf", "etc/chrony.conf"],
        command: "exec chronyd -p 2>&1 >/dev/null",
        reading: failed(&["Fatal error"], &[]),
        unsupported: &["invalid option"],
        ..VALIDATOR
    },
    Validator {
        name: "keepalived -t",
        lint: &KEEPALIVED,
        program: "keepalived",
        files: &["etc/keepalived/keepalived.conf"],
        command: "exec keepalived -t",
        reading: failed(
            &["Unknown keyword", "Unexpected", "missing", "invalid"],
            &[
                // Repeated with the file.
                "(Line ",
            ],
        ),
        ..VALIDATOR
    },
    Validator {
        name: "corosync -t",
        lint: &COROSYNC,
        program: "corosync",
        files: &["etc/corosync/corosync.conf"],
        command: "exec corosync -t",
        reading: failed(&["rror"], &["exiting"]),
        ..VALIDATOR
    },
    Validator {
        name: "dhcpd -t",
        lint: &DHCPD,
        program: "dhcpd",
        files: &["etc/dhcp/dhcpd.conf"],
        command: "exec dhcpd -t -cf /etc/dhcp/dhcpd.conf",
        reading: failed(&[" line "], &["errors encountered", "Copyright"]),
        ..VALIDATOR
    },
    Validator {
        name: "vtysh -C",
        lint: &FRR,
        program: "vtysh",
        files: &["etc/frr/frr.conf"],
        command: "exec vtysh -C",
        reading: failed(&["% "], &[]),
        ..VALIDATOR
    },
    Validator {
        name: "NetworkManager --print-config",
        lint: &NETWORK_MANAGER,
        program: "NetworkManager",
        files: &["etc/NetworkManager/NetworkManager.conf"],
        command: "exec NetworkManager --print-config 2>&1 >/dev/null",
        reading: failed(&["Failed to read"], &[]),
        ..VALIDATOR
    },
    Validator {
        name: "ifquery --list -a",
        lint: &IFUPDOWN,
        program: "ifquery",
        files: &["etc/network/interfaces"],
        command: "exec ifquery --list -a 2>&1 >/dev/null",
        reading: failed(&["ifquery: "], &["couldn't read interfaces file"]),
        ..VALIDATOR
    },
    Validator {
        name: "netplan generate",
        lint: &NETPLAN,
        program: "netplan",
        files: &["etc/netplan"],
        command: "exec netplan generate",
        reading: failed(&["rror"], &["WARNING"]),
        ..VALIDATOR
    },
    Validator {
        name: "cupsd -t",
        lint: &CUPS,
        program: "cupsd",
        files: &["etc/cups/cupsd.conf"],
        command: "exec cupsd -t",
        reading: always(&[" on line "], &["is OK"]),
        ..VALIDATOR
    },
    Validator {
        name: "firewall-offline-cmd --check-config",
        lint: &FIREWALLD,
        program: "firewall-offline-cmd",
        files: &["etc/firewalld"],
        command: "exec firewall-offline-cmd --check-config",
        reading: failed(&["rror"], &["Traceback"]),
        ..VALIDATOR
    },
    Validator {
        name: "fail2ban-client -t",
        lint: &FAIL2BAN,
        program: "fail2ban-client",
        files: &["etc/fail2ban/jail.conf"],
        command: "exec fail2ban-client -t",
        // Log files are missing here.
        reading: failed(&["ERROR"], &["test configuration failed", "Have not found any log file"]),
        ..VALIDATOR
    },
    Validator {
        name: "proftpd -t",
        lint: &PROFTPD,
        program: "proftpd",
        files: &["etc/proftpd/proftpd.conf"],
        command: "mkdir -p /run/proftpd\nexec proftpd -t",
        reading: failed(&["fatal: ", "error: "], &["Did you mean"]),
        ..VALIDATOR
    },
    Validator {
        name: "systemd-tmpfiles --create",
        lint: &TMPFILES,
        program: "systemd-tmpfiles",
        // Older versions have no --dry-run: what they create is thrown away, but other validators
        // may see it, so this one starts last.
        command: "out=$(systemd-tmpfiles --create --dry-run 2>&1)\n\
                  case $out in\n\
                  *'unrecognized option'*) exec systemd-tmpfiles --create ;;\n\
                  *) echo \"$out\" ;;\n\
                  esac",
        reading: always(&[".conf:"], &["legacy directory", "Duplicate line", "Would "]),
        ..VALIDATOR
    },
];
