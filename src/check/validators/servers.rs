//! The validators of servers and their helpers, in the form of [`super::table`].

use super::Validator;
use super::lints::*;
use super::table::{Arguments, VALIDATOR, always, failed};
use crate::check::Severity;

pub(super) static SERVERS: &[Validator] = &[
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
];
