//! What is looked for in what an overlay brings.

use super::super::{Lint, Severity};

pub(super) static DANGLING_LINK: Lint = Lint {
    name: "works/dangling-link",
    severity: Severity::Warning,
    summary: "a symbolic link that leads to nothing",
    why: "Whoever opens it finds no such file. Links into /run, /proc, /sys, /dev and /tmp are not \
          meant: what they lead to is there when the machine is up.",
    mend: "bring what it leads to, or leave the link out",
};

pub(super) static ESCAPING_LINK: Lint = Lint {
    name: "works/escaping-link",
    severity: Severity::Warning,
    summary: "a symbolic link that climbs above the root",
    why: "It has more `..` than there are directories above it. In the machine's own root the rest of \
          them mean nothing, but from outside it leads elsewhere: in the initrd that looks into the \
          new root, in a chroot, on the host of somebody who unpacks it.",
    mend: "make it absolute, or relative with as many `..` as it needs",
};

pub(super) static ALTERNATIVE: Lint = Lint {
    name: "works/alternative",
    severity: Severity::Error,
    summary: "an alternative that leads to nothing",
    why: "The command is a link to /etc/alternatives/NAME, and that a link to the program that \
          update-alternatives chose. The program is not there, and so neither is the command.",
    mend: "install the program, or choose another one: `update-alternatives --auto NAME`",
};

pub(super) static INTERPRETER: Lint = Lint {
    name: "works/interpreter",
    severity: Severity::Error,
    summary: "a script whose interpreter is not there",
    why: "The kernel runs a script by the program in its first line. Without it the script cannot be \
          run: \"no such file or directory\", or, from env, exit code 127.",
    mend: "install the interpreter, or leave the script out",
};
