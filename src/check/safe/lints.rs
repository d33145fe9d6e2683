//! What is looked for that should not be on every machine.

use super::super::{Lint, Severity};

pub(super) static SETUID: Lint = Lint {
    name: "safe/setuid",
    severity: Severity::Warning,
    summary: "a program with the rights of another user",
    why: "A setuid or setgid program is a way to other rights for everybody on the machine: one that \
          is new or changed deserves a look. Packages bring some on purpose: such a one is a note, \
          where Debian is known to have it so, or the package's postinst names the file and sets \
          rights. dpkg itself keeps no modes: of any other, the provisioner may have made it.",
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

pub(super) static PRIVATE_KEY: Lint = Lint {
    name: "safe/private-key",
    severity: Severity::Error,
    summary: "a private key",
    why: "Everybody who gets the image has it: whoever can reach the boot server, and every machine \
          that boots. An overlay is no place for a secret.",
    mend: "leave it out, and change the key; give it to the machine once it is up, and has shown who \
           it is",
};

pub(super) static TOKEN: Lint = Lint {
    name: "safe/token",
    severity: Severity::Error,
    summary: "a token or password of a service",
    why: "It has the form of a key to somebody's account: AWS, GitHub, GitLab, Slack, Google and the \
          like. Everybody who gets the image has it.",
    mend: "leave it out, and revoke it; give it to the machine once it is up, and has shown who it is",
};

pub(super) static CREDENTIALS: Lint = Lint {
    name: "safe/credentials",
    severity: Severity::Error,
    summary: "a file that is there to hold credentials",
    why: "Programs keep passwords and tokens in it. Everybody who gets the image has them. A file that \
          may hold some and has none is not found, nor is one with a value that is there to be filled \
          in, such as `<password>` or `${SECRET}`.",
    mend: "leave it out, and change what is in it",
};

pub(super) static HISTORY: Lint = Lint {
    name: "safe/history",
    severity: Severity::Warning,
    summary: "what somebody typed",
    why: "The history of a shell or of another program, from whoever made the overlay: host names, \
          paths, passwords that were typed in the wrong place.",
    mend: "delete it as the last step",
};

pub(super) static HOST_KEY: Lint = Lint {
    name: "safe/host-key",
    severity: Severity::Error,
    summary: "an SSH host key",
    why: "All machines that boot it have the same key, and everybody who gets the image can pass for \
          any of them.",
    mend: "delete it, and let the machine make its own: `ssh-keygen -A` in a unit before ssh.service",
};

pub(super) static MACHINE_ID: Lint = Lint {
    name: "safe/machine-id",
    severity: Severity::Error,
    summary: "a machine id",
    why: "All machines that boot it are the same one then: for DHCP, which may give them one address, \
          for the journal, and for whatever else tells machines apart by it.",
    mend: "let /etc/machine-id be an empty file: systemd makes one at each boot",
};

pub(super) static RANDOM_SEED: Lint = Lint {
    name: "safe/random-seed",
    severity: Severity::Warning,
    summary: "a seed of random numbers",
    why: "It is there to make a machine's random numbers like nobody else's. All machines that boot \
          it have the same one, and everybody who gets the image knows it.",
    mend: "delete it",
};

pub(super) static RESOLV_CONF: Lint = Lint {
    name: "safe/resolv-conf",
    severity: Severity::Warning,
    summary: "a resolv.conf with name servers",
    why: "They are mostly those of the host on which the overlay was made, left behind by a chroot. On \
          a machine elsewhere no name is found until somebody writes the file anew.",
    mend: "leave it out, or make it a link to where DHCP writes it",
};

pub(super) static PROXY: Lint = Lint {
    name: "safe/proxy",
    severity: Severity::Warning,
    summary: "a proxy",
    why: "It is mostly that of the host on which the overlay was made. Where it cannot be reached, \
          nothing is fetched; and a password may stand in it.",
    mend: "take it away as the last step; overcoat's own builds use one without writing it down",
};

pub(super) static SUDOERS: Lint = Lint {
    name: "safe/sudoers",
    severity: Severity::Warning,
    summary: "rules of sudo, doas or polkit",
    why: "They say who may act as root. What is new, changed or deleted deserves a look.",
    mend: "take it away, or silence it with the reason why it is needed",
};

pub(super) static PAM: Lint = Lint {
    name: "safe/pam",
    severity: Severity::Warning,
    summary: "rules of PAM",
    why: "They say who may log in, and with what. What is new, changed or deleted deserves a look.",
    mend: "take it away, or silence it with the reason why it is needed",
};

pub(super) static AUTHORIZED_KEYS: Lint = Lint {
    name: "safe/authorized-keys",
    severity: Severity::Warning,
    summary: "keys with which somebody can log in",
    why: "Their owners can log in to every machine that boots it.",
    mend: "take them away, or silence it with the reason why they are needed",
};

pub(super) static PASSWORD: Lint = Lint {
    name: "safe/password",
    severity: Severity::Error,
    summary: "an account with a password, or without any",
    why: "A hash of a password that is the same everywhere can be guessed at leisure by everybody who \
          gets the image. An account with an empty password lets anybody in at the console, and over \
          the network where PermitEmptyPasswords or the like is set. An empty password is an error; a \
          hash, which may be meant, is a warning.",
    mend: "lock the account (`passwd -l`), and log in by keys; or silence it with the reason",
};
