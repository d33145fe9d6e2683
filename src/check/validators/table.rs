//! The validators: which programs of an image are asked, and how their answers are read.

use super::lints::*;
use super::output::{account_problems, apt_problems, audit_problems, verify_problems};
use super::servers::SERVERS;
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
#[derive(Clone, Copy, Debug)]
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

pub(super) const fn failed(
    signs: &'static [&'static str],
    noise: &'static [&'static str],
) -> Reading {
    Reading::Lines { when: When::Failed, signs, noise }
}

pub(super) const fn always(
    signs: &'static [&'static str],
    noise: &'static [&'static str],
) -> Reading {
    Reading::Lines { when: When::Always, signs, noise }
}

/// The values of most validators.
pub(super) const VALIDATOR: Validator = Validator {
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

/// Returns all validators, in the order in which they start.
pub(super) fn validators() -> impl Iterator<Item = &'static Validator> {
    SERVERS.iter().chain(SYSTEM)
}

/// The validators of the system's own files. Each command is a shell script, which runs in the root
/// of the image with the arguments as its parameters. What it writes to the root is thrown away.
static SYSTEM: &[Validator] = &[
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
