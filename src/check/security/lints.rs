//! Lints of files that are a risk on every machine that boots the image.

use super::super::{Lint, Severity};

pub(super) static SETUID: Lint = Lint {
    name: "safe/setuid",
    severity: Severity::Warning,
    summary: "a setuid or setgid program",
    why: "Every user of the machine can run the program with another user's rights: review each \
          new or changed one. The finding is a note if a package contains the file and either \
          Debian ships it setuid, or the package's postinst names it and sets permissions. dpkg \
          does not record modes, so in any other case a provisioner may have set the bit.",
    fix: "remove the bit (chmod u-s,g-s), or suppress the finding with the reason",
};

pub(super) static CAPABILITY: Lint = Lint {
    name: "safe/capability",
    severity: Severity::Warning,
    summary: "a program with file capabilities",
    why: "Every user who runs the program has these capabilities. They are stored as an extended \
          attribute, which cpio archives cannot hold: a cpio overlay loses them.",
    fix: "remove the capabilities (setcap -r), or suppress the finding with the reason",
};

pub(super) static WORLD_WRITABLE: Lint = Lint {
    name: "safe/world-writable",
    severity: Severity::Warning,
    summary: "a world-writable file or directory",
    why: "Every user and service of the machine, including a compromised one, can replace files \
          that others read or run. A shared directory needs the sticky bit, like /tmp.",
    fix: "remove the permission (chmod o-w), or set the sticky bit of a directory (chmod +t)",
};

pub(super) static DEVICE: Lint = Lint {
    name: "safe/device",
    severity: Severity::Warning,
    summary: "a device node",
    why: "The kernel creates device nodes in a devtmpfs at /dev, and udev sets their permissions. \
          A node in an image bypasses these permissions, and in /dev it is hidden by the devtmpfs.",
    fix: "remove the node",
};

pub(super) static PRIVATE_KEY: Lint = Lint {
    name: "safe/private-key",
    severity: Severity::Error,
    summary: "a private key",
    why: "Everyone who can download the image from the boot server can read the key, and so can \
          every machine that boots it.",
    fix: "remove the key from the image and replace it; send keys to a machine after boot, once it \
          is authenticated",
};

pub(super) static TOKEN: Lint = Lint {
    name: "safe/token",
    severity: Severity::Error,
    summary: "an access token of a service",
    why: "The content has the form of an access key of AWS, GitHub, GitLab, Slack, Stripe, npm or \
          PyPI. Everyone who can download the image can read it.",
    fix: "remove the token from the image and revoke it; send tokens to a machine after boot, once \
          it is authenticated",
};

pub(super) static CREDENTIALS: Lint = Lint {
    name: "safe/credentials",
    severity: Severity::Error,
    summary: "a credentials file",
    why: "Programs store passwords and tokens in this file. Everyone who can download the image \
          can read them. A file of this kind is not reported if it has no credentials, or only a \
          placeholder such as `<password>` or `${SECRET}`.",
    fix: "remove the file from the image, and change the credentials",
};

pub(super) static HISTORY: Lint = Lint {
    name: "safe/history",
    severity: Severity::Warning,
    summary: "a command history",
    why: "The history of a shell or another program from the build: it can contain host names, \
          paths and mistyped passwords.",
    fix: "delete it in the last step",
};

pub(super) static HOST_KEY: Lint = Lint {
    name: "safe/host-key",
    severity: Severity::Error,
    summary: "an SSH host key",
    why: "All machines that boot the image have the same key, and everyone who can download the \
          image can impersonate any of them.",
    fix: "delete the key, and generate one on each machine: `ssh-keygen -A` in a unit before \
          ssh.service",
};

pub(super) static MACHINE_ID: Lint = Lint {
    name: "safe/machine-id",
    severity: Severity::Error,
    summary: "a machine id",
    why: "All machines that boot the image have the same id: a DHCP server may give them the same \
          address, and journals and other programs cannot distinguish them.",
    fix: "make /etc/machine-id an empty file: systemd generates an id at each boot",
};

pub(super) static RANDOM_SEED: Lint = Lint {
    name: "safe/random-seed",
    severity: Severity::Warning,
    summary: "a random seed",
    why: "A seed must differ between machines. All machines that boot the image start with the \
          same one, and everyone who can download the image can read it.",
    fix: "delete the file",
};

pub(super) static RESOLV_CONF: Lint = Lint {
    name: "safe/resolv-conf",
    severity: Severity::Warning,
    summary: "a resolv.conf with name servers",
    why: "The name servers are usually those of the build host, left over from a chroot. In \
          another network no name resolves until the file is rewritten.",
    fix: "remove the file, or make it a link to the file that DHCP writes",
};

pub(super) static PROXY: Lint = Lint {
    name: "safe/proxy",
    severity: Severity::Warning,
    summary: "a proxy setting",
    why: "The proxy is usually that of the build host. In another network downloads fail; the \
          setting may also contain a password.",
    fix: "remove the setting in the last step; overcoat's own builds use a proxy without storing \
          it",
};

pub(super) static SUDOERS: Lint = Lint {
    name: "safe/sudoers",
    severity: Severity::Warning,
    summary: "rules of sudo, doas or polkit",
    why: "The rules define who may act as root: review each new, changed or deleted one.",
    fix: "remove the rule, or suppress the finding with the reason",
};

pub(super) static PAM: Lint = Lint {
    name: "safe/pam",
    severity: Severity::Warning,
    summary: "PAM rules",
    why: "The rules define who may log in and how: review each new, changed or deleted one.",
    fix: "remove the rule, or suppress the finding with the reason",
};

pub(super) static AUTHORIZED_KEYS: Lint = Lint {
    name: "safe/authorized-keys",
    severity: Severity::Warning,
    summary: "authorized SSH keys",
    why: "The owners of the keys can log in to every machine that boots the image.",
    fix: "remove the keys, or suppress the finding with the reason",
};

pub(super) static PASSWORD: Lint = Lint {
    name: "safe/password",
    severity: Severity::Error,
    summary: "an account with a password or with an empty one",
    why: "Everyone who can download the image can attack a password hash offline, and it is the \
          same on every machine. An account with an empty password can log in at the console, and \
          over the network with PermitEmptyPasswords or a similar setting. An empty password is an \
          error, a hash a warning, since it may be intended.",
    fix: "lock the account (`passwd -l`) and log in with keys, or suppress the finding with the \
          reason",
};
