//! Lints of configuration files.

use super::super::{Lint, Severity};

pub(super) static ACCOUNT_LINE: Lint = Lint {
    name: "config/account-line",
    severity: Severity::Error,
    summary: "an invalid line in passwd, group or shadow",
    why: "The C library skips lines that it cannot parse, so the account or group does not exist. \
          Of several lines with the same name only the first is used. Blank lines, and passwords \
          in a line that was cut, are typical of files that a script has appended to.",
    fix: "correct the line; `pwck -r` and `grpck -r` print details",
};

pub(super) static UID_ZERO: Lint = Lint {
    name: "config/uid-zero",
    severity: Severity::Warning,
    summary: "a second account with user id 0",
    why: "The account is root under another name: whoever logs in to it has all rights, and \
          programs that look up the name of user 0 may print it instead of root.",
    fix: "give the account an id of its own, or suppress the finding with the reason",
};

pub(super) static SHADOW: Lint = Lint {
    name: "config/shadow",
    severity: Severity::Warning,
    summary: "passwd and shadow do not match",
    why: "An account whose password is in /etc/shadow (`x` in passwd) and that has no line there \
          cannot log in: PAM refuses even logins with a key. A line of shadow without an account \
          has no effect. It happens when an overlay replaces one of the two files.",
    fix: "add the line with `pwconv` in the last step, or create accounts with useradd",
};

pub(super) static SHELL: Lint = Lint {
    name: "config/shell",
    severity: Severity::Error,
    summary: "a login shell that does not exist",
    why: "Logins to the account end at once: sshd refuses the user, login prints \"Cannot execute\".",
    fix: "install the shell, or set another one: `usermod -s /bin/bash NAME`",
};
