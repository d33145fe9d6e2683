//! Lints of the image's own validators.

use super::super::{Lint, Severity};

/// Declares lints.
macro_rules! lints {
    ($($id:ident $name:literal $severity:ident $summary:literal, $why:literal, $fix:literal;)+) => {
        $(pub(in crate::check) static $id: Lint = Lint {
            name: concat!("run/", $name),
            severity: Severity::$severity,
            summary: $summary,
            why: $why,
            fix: $fix,
        };)+
        /// All lints of the group, in output order.
        pub(super) static ALL: &[&Lint] = &[$(&$id),+];
    };
}

lints! {
    SUDOERS "sudoers" Error "sudo rejects its rules",
        "sudo does not use a file of rules with a syntax error, and refuses all rules if \
         /etc/sudoers has one. It ignores files with the wrong owner or mode, so the rules in them \
         do not exist.",
        "correct the line; install files of rules with the mode 0440 and the owner root";
    SSHD "sshd" Error "sshd rejects its configuration",
        "ssh.service fails at boot, so the machine cannot be reached over SSH. The check uses a \
         host key of its own, because images usually have none.",
        "correct the line; `sshd -t` prints details";
    SSH "ssh" Warning "ssh rejects its configuration",
        "ssh, scp, sftp and all programs that use them (git, rsync, ansible) end with an error on \
         the machine.",
        "correct the line; `ssh -G localhost` prints details";
    UNIT "unit" Error "a line of a unit that systemd ignores or rejects",
        "A unit that systemd refuses does not start. A line that systemd ignores (a warning) has \
         no effect. Only units that the checked layers add or change are verified; \
         missing programs and units are reported by works/unit-exec and works/unit-needs.",
        "correct the line; `systemd-analyze verify UNIT` prints details";
    SYSUSERS "sysusers" Warning "a line of sysusers.d that systemd-sysusers rejects",
        "systemd-sysusers skips the line at boot and fails, so an account or a group is missing, \
         and services that run as it do not start.",
        "correct the line; `systemd-sysusers --dry-run` prints details";
    TMPFILES "tmpfiles" Warning "a line of tmpfiles.d that systemd-tmpfiles rejects",
        "systemd-tmpfiles skips the line at boot, so a directory or file that a service needs is \
         missing, or has the wrong owner or mode.",
        "correct the line; `systemd-tmpfiles --create` prints details";
    UDEV "udev" Warning "a line of udev rules that udev rejects",
        "udev ignores the line, so a device gets no name, link or permission from it.",
        "correct the line; `udevadm verify` prints details";
    ACCOUNTS "accounts" Warning "pwck or grpck rejects a line of the account files",
        "The line is invalid or the files do not match, so an account or a group does not exist, \
         or cannot log in.",
        "correct the line; `pwck -r` and `grpck -r` print details";
    AUDIT "dpkg" Warning "a package that is not completely installed",
        "dpkg unpacked the package, but did not configure it or run its triggers: files that its \
         scripts create are missing. apt refuses further installations until it is configured.",
        "run `dpkg --configure -a` when the overlay is built";
    PACKAGE_FILES "package-files" Warning "a file of a package that was changed",
        "The file is not a configuration file and does not have the content of its package. The \
         next upgrade of the package replaces it without a question. A missing file is a note.",
        "use the program's configuration, or dpkg-divert; or suppress the finding with the reason";
    APT "apt" Error "apt cannot work with its files",
        "Each call of apt-get ends with this error, because apt reads all of its configuration \
         and all lists of sources, and checks the dependencies of all installed packages.",
        "correct the line, or install the missing packages; `apt-get check` prints details";
    FSTAB "fstab" Error "a line of fstab that mount does not understand",
        "mount and systemd ignore the line, so the file system is not mounted.",
        "correct the line; `findmnt --verify` prints details";
    MODPROBE "modprobe" Warning "a line of modprobe.d that modprobe ignores",
        "The line has no effect: an option or a block list of a kernel module does not apply.",
        "correct the line";
    DEPMOD "depmod" Error "a kernel module that depmod cannot read",
        "The module is damaged or not a module. The kernel cannot load it, and depmod leaves it \
         and the modules that need it out of modprobe's index.",
        "copy or build the module again";
    GRUB "grub" Error "a syntax error in grub.cfg",
        "GRUB stops at the error and shows its prompt or an incomplete menu.",
        "correct the file, or run update-grub; `grub-script-check FILE` prints details";
    SHELL "shell" Error "a syntax error in a shell file",
        "The shell ends with an error when it reaches the line. An error in /etc/profile or \
         /etc/profile.d affects each login. Only files that the checked layers add or change are \
         read, with the shell that their first line names; they are not executed.",
        "correct the line; `sh -n FILE` prints details";
    SCRIPT "script" Error "a syntax error in a script",
        "The interpreter rejects the script, so it does not run at all. Only executable scripts \
         for Python, Ruby or Perl that the checked layers add or change are compiled.",
        "correct the line; `python3 -m py_compile`, `ruby -c` and `perl -c` print details";
    SYMBOLS "symbols" Error "a program with a missing function",
        "A library does not have a function or variable that the program uses. The program ends \
         with \"symbol lookup error\" when it starts, or when it first calls the function. Only \
         programs that the checked layers add and no package contains are read.",
        "build the program with the libraries of the image, or install the right version";
    LVM "lvm" Error "LVM rejects its configuration",
        "No LVM command works, so volumes are not activated at boot.",
        "correct the line; `lvmconfig --validate` prints details";
    LOGROTATE "logrotate" Warning "logrotate rejects its configuration",
        "logrotate skips the log files of the section or the file, which then grow without limit, \
         and logrotate.service fails each day.",
        "correct the line; `logrotate -d /etc/logrotate.conf` prints details";
    RSYSLOG "rsyslog" Error "rsyslogd rejects its configuration",
        "rsyslogd ignores the statement, or does not start: log messages are missing.",
        "correct the line; `rsyslogd -N1` prints details";
    CRON "cron" Error "cron rejects a crontab",
        "cron ignores the whole crontab of the user, so none of its jobs run.",
        "correct the line; `crontab -n FILE` prints details";
    NFTABLES "nftables" Error "nft rejects its rules",
        "nftables.service fails at boot, so the machine has no firewall rules.",
        "correct the line; `nft -c -f /etc/nftables.conf` prints details";
    APPARMOR "apparmor" Error "a syntax error in an AppArmor profile",
        "The profile is not loaded, so the program is not confined, and apparmor.service fails.",
        "correct the line; `apparmor_parser -Q FILE` prints details";
    NGINX "nginx" Error "nginx rejects its configuration",
        "nginx.service fails at boot.",
        "correct the line; `nginx -t` prints details";
    APACHE "apache" Error "Apache rejects its configuration",
        "apache2.service fails at boot.",
        "correct the line; `apache2ctl configtest` prints details";
    HAPROXY "haproxy" Error "HAProxy rejects its configuration",
        "haproxy.service fails at boot.",
        "correct the line; `haproxy -c -f FILE` prints details";
    LIGHTTPD "lighttpd" Error "lighttpd rejects its configuration",
        "lighttpd.service fails at boot.",
        "correct the line; `lighttpd -tt -f FILE` prints details";
    SQUID "squid" Error "Squid rejects its configuration",
        "squid.service fails at boot, or ignores the line.",
        "correct the line; `squid -k parse` prints details";
    NAMED "named" Error "BIND rejects its configuration or a zone",
        "named.service fails at boot, or does not answer for the zone.",
        "correct the line; `named-checkconf -z` prints details";
    DNSMASQ "dnsmasq" Error "dnsmasq rejects its configuration",
        "dnsmasq.service fails at boot.",
        "correct the line; `dnsmasq --test` prints details";
    UNBOUND "unbound" Error "Unbound rejects its configuration",
        "unbound.service fails at boot.",
        "correct the line; `unbound-checkconf` prints details";
    POSTFIX "postfix" Error "Postfix rejects its configuration",
        "Postfix does not start, or ignores the parameter.",
        "correct the line; `postfix check` prints details";
    DOVECOT "dovecot" Error "Dovecot rejects its configuration",
        "dovecot.service fails at boot.",
        "correct the line; `doveconf -n` prints details";
    EXIM "exim" Error "Exim rejects its configuration",
        "exim4.service fails at boot, and local programs cannot send mail.",
        "correct the line; `exim4 -bV` prints details";
    OPENDKIM "opendkim" Error "OpenDKIM rejects its configuration",
        "opendkim.service fails at boot.",
        "correct the line; `opendkim -n` prints details";
    SLAPD "slapd" Error "slapd rejects its configuration",
        "slapd.service fails at boot.",
        "correct the configuration; `slaptest -u` prints details";
    SAMBA "samba" Warning "Samba rejects or ignores a parameter",
        "Samba ignores an unknown parameter, and does not start with an invalid value.",
        "correct the line of smb.conf; `testparm -s` prints details";
    MARIADB "mariadb" Error "MariaDB rejects its options",
        "mariadb.service fails at boot.",
        "correct the option; `mariadbd --verbose --help` prints details";
    CHRONY "chrony" Error "chronyd rejects its configuration",
        "chrony.service fails at boot, so the clock of the machine is not set.",
        "correct the line; `chronyd -p` prints details";
    KEEPALIVED "keepalived" Error "keepalived rejects its configuration",
        "keepalived ignores the line, or keepalived.service fails at boot.",
        "correct the line; `keepalived -t` prints details";
    COROSYNC "corosync" Error "Corosync rejects its configuration",
        "corosync.service fails at boot.",
        "correct the line; `corosync -t` prints details";
    DHCPD "dhcpd" Error "dhcpd rejects its configuration",
        "isc-dhcp-server.service fails at boot.",
        "correct the line; `dhcpd -t` prints details";
    FRR "frr" Error "FRRouting rejects its configuration",
        "The line has no effect: routes or neighbours are missing.",
        "correct the line; `vtysh -C` prints details";
    NETWORK_MANAGER "network-manager" Error "NetworkManager rejects its configuration",
        "NetworkManager.service fails at boot, so the machine has no network.",
        "correct the file; `NetworkManager --print-config` prints details";
    IFUPDOWN "ifupdown" Error "ifup rejects /etc/network/interfaces",
        "networking.service fails at boot, so the machine has no network.",
        "correct the line; `ifquery --list -a` prints details";
    NETPLAN "netplan" Error "netplan rejects its configuration",
        "netplan writes no configuration of the network at boot, so the machine has no network.",
        "correct the line; `netplan generate` prints details";
    CUPS "cups" Error "CUPS rejects its configuration",
        "cups.service fails at boot, or ignores the directive.",
        "correct the line; `cupsd -t` prints details";
    FIREWALLD "firewalld" Error "firewalld rejects its configuration",
        "firewalld.service fails at boot, or ignores the file.",
        "correct the file; `firewall-offline-cmd --check-config` prints details";
    FAIL2BAN "fail2ban" Error "Fail2ban rejects its configuration",
        "fail2ban.service fails at boot.",
        "correct the file; `fail2ban-client -t` prints details";
    PROFTPD "proftpd" Error "ProFTPD rejects its configuration",
        "proftpd.service fails at boot.",
        "correct the line; `proftpd -t` prints details";
    TEST "test" Error "a test of a provisioner or the project fails",
        "The image does not have what its author expects of it.",
        "correct the provisioner or the test";
}
