//! What is looked for that should not be on every machine.

use super::super::{Lint, Severity};

pub(super) static SETUID: Lint = Lint {
    name: "safe/setuid",
    severity: Severity::Warning,
    summary: "a program with the rights of another user",
    why: "A setuid or setgid program is a way to other rights for everybody on the machine: one that \
          is new or changed deserves a look. Packages bring some on purpose.",
    mend: "take the bit away (chmod u-s,g-s), or silence it with the reason why it is needed",
};

pub(super) static CAPABILITY: Lint = Lint {
    name: "safe/capability",
    severity: Severity::Warning,
    summary: "a program with capabilities",
    why: "Whoever runs it has these rights of root's. Besides, they are extended attributes, which \
          cpio archives cannot carry: in such an overlay they are lost.",
    mend: "take them away (setcap -r), or silence it with the reason why they are needed",
};

pub(super) static WORLD_WRITABLE: Lint = Lint {
    name: "safe/world-writable",
    severity: Severity::Warning,
    summary: "something that everybody may change",
    why: "Any user or service of the machine, also a taken-over one, can replace what others read or \
          run. A directory that is for everybody has the sticky bit, as /tmp does.",
    mend: "take the right away (chmod o-w), or set the sticky bit on a directory (chmod +t)",
};

pub(super) static DEVICE: Lint = Lint {
    name: "safe/device",
    severity: Severity::Warning,
    summary: "a device node",
    why: "Nodes are made by the kernel in a devtmpfs at /dev, with the rights that udev gives them. One \
          that stands in an image is a way around these rights, and in /dev it is hidden anyway.",
    mend: "leave it out",
};
