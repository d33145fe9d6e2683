//! Lints of the programs, units, links and kernels of an overlay.

use super::super::{Lint, Severity};

pub(super) static DANGLING_LINK: Lint = Lint {
    name: "works/dangling-link",
    severity: Severity::Warning,
    summary: "a dangling symbolic link",
    why: "Opening the link fails with \"no such file or directory\". Links into /run, /proc, /sys, \
          /dev and /tmp are not reported: their targets exist on the running machine.",
    fix: "add the target, or remove the link",
};

pub(super) static ESCAPING_LINK: Lint = Lint {
    name: "works/escaping-link",
    severity: Severity::Warning,
    summary: "a symbolic link that leads above the root",
    why: "The link has more `..` than it has parent directories. In the machine's own root the \
          excess is ignored, but from outside the link leads elsewhere: in the initrd that \
          accesses the new root, in a chroot, on a host that unpacks the archive.",
    fix: "make the link absolute, or relative with the right number of `..`",
};

pub(super) static ALTERNATIVE: Lint = Lint {
    name: "works/alternative",
    severity: Severity::Error,
    summary: "a dangling alternative",
    why: "The command is a link to /etc/alternatives/NAME, which is a link to the program that \
          update-alternatives selected. The program does not exist, so the command does not work.",
    fix: "install the program, or select another one: `update-alternatives --auto NAME`",
};

pub(super) static NEEDED_GONE: Lint = Lint {
    name: "works/needed",
    severity: Severity::Error,
    summary: "a file that every system needs is missing",
    why: "An overlay deletes the file, or a root that is checked as a whole lacks /sbin/init, as \
          Debian's minbase without systemd-sysv does (a warning: an overlay may add it). Without \
          /sbin/init the kernel panics, without a shell no script runs, without /etc/passwd and \
          /etc/group no account has a name, not even root; without default.target systemd has no \
          target to boot, and without /var/lib/dpkg/status apt and dpkg see no installed packages.",
    fix: "keep the file: find the step that deletes it; or install it: systemd-sysv contains \
          /sbin/init",
};

pub(super) static SHUT: Lint = Lint {
    name: "works/shut",
    severity: Severity::Error,
    summary: "a path that every user needs is not accessible",
    why: "The mode of an overlay's directory replaces the base's, for all of its contents. A user \
          other than root needs execute permission to enter a directory: without it on / or /usr \
          no service starts as another user. Libraries, the linker's cache and /etc/passwd must be \
          readable by everyone. The usual causes are a build with umask 077, or a directory of \
          mktemp -d that is unpacked as the root. For programs other than the shell and init this \
          is a warning.",
    fix: "restore the permission: `chmod o+rx` for directories and programs, `chmod o+r` for files",
};

pub(super) static INTERPRETER: Lint = Lint {
    name: "works/interpreter",
    severity: Severity::Error,
    summary: "a script whose interpreter is missing",
    why: "The kernel runs a script with the program in its first line. Without it, running the \
          script fails with \"no such file or directory\", or with exit code 127 from env. For a \
          script that is unchanged from its package this is a note: a package may only suggest an \
          interpreter.",
    fix: "install the interpreter, or remove the script",
};

pub(super) static ELF_LIBRARY: Lint = Lint {
    name: "works/elf-library",
    severity: Severity::Error,
    summary: "a missing library",
    why: "The program does not start: \"error while loading shared libraries\". Libraries are \
          searched as ld.so does: in the paths in the file itself, in the directories of \
          ld.so.conf and in the built-in directories of ld.so. It happens when a base drops or \
          renames a library that an overlay was built with, or when an overlay deletes a library \
          that the base needs.",
    fix: "install the package of the library, or rebuild the overlay on this base",
};

pub(super) static ELF_VERSION: Lint = Lint {
    name: "works/elf-version",
    severity: Severity::Error,
    summary: "a library that is too old",
    why: "The library lacks a version that the program was built with, and the program does not \
          start: \"version `GLIBC_2.38' not found\". It happens when an overlay is used on an \
          older base than it was built on, or contains an older library than the base's own \
          programs need.",
    fix: "build the overlay on the base that it boots with: `overcoat build --rebase NAME`",
};

pub(super) static ELF_MACHINE: Lint = Lint {
    name: "works/elf-machine",
    severity: Severity::Error,
    summary: "a program for another architecture",
    why: "The processor cannot run it: \"exec format error\". Files that are meant for another \
          processor, such as firmware, are not executable.",
    fix: "add the program for the base's architecture, or remove the execute permission",
};

pub(super) static ELF_INTERPRETER: Lint = Lint {
    name: "works/elf-interpreter",
    severity: Severity::Error,
    summary: "a program whose dynamic loader is missing",
    why: "The kernel starts the loader that a program names, such as ld-linux, which loads the \
          program. Without it, running the program fails with \"no such file or directory\" \
          although the file exists: it comes from another distribution or architecture.",
    fix: "use a program that was built for this distribution, or a static one",
};

pub(super) static ELF_DAMAGED: Lint = Lint {
    name: "works/elf-damaged",
    severity: Severity::Error,
    summary: "a truncated program or library",
    why: "The headers refer to more bytes than the file has: running it ends with \"segmentation \
          fault\" or \"bus error\", or the loader reports \"file too short\". A copy or a download \
          was interrupted.",
    fix: "copy the file again",
};

pub(super) static PAM_MODULE: Lint = Lint {
    name: "works/pam-module",
    severity: Severity::Error,
    summary: "a missing PAM module",
    why: "A rule in /etc/pam.d names the module. PAM treats it as a module that fails: if it is \
          required, no user can log in with that service; for other rules this is a warning. \
          Optional modules, and rules that begin with a dash (-auth), are not reported.",
    fix: "install the package of the module, or remove the rule",
};

pub(super) static LINKER_CACHE: Lint = Lint {
    name: "works/linker-cache",
    severity: Severity::Error,
    summary: "a library that is missing from the linker's cache",
    why: "ld.so reads /etc/ld.so.cache, which ldconfig writes, and not the directories of \
          /etc/ld.so.conf. The library is only in such a directory and the cache does not list it: \
          the program does not start. It happens when an overlay contains a cache that hides \
          another one, or adds a library without a new cache.",
    fix: "run ldconfig when the overlay is built; with several overlays, in the topmost one",
};

pub(super) static KERNEL_MODULES: Lint = Lint {
    name: "works/kernel-modules",
    severity: Severity::Error,
    summary: "kernel modules for another kernel",
    why: "The running kernel searches /lib/modules/ for its own version, and rejects a module that \
          was built for another one: \"invalid module format\". Drivers are missing then, such as \
          those of disks or the network. The kernel is that of --kernel or of the project, or else \
          any kernel that the base has modules for; without these the check is reported as not \
          run.",
    fix: "build the modules for the kernel that boots with the overlay; name that kernel with \
          --kernel",
};

pub(super) static MODULE_INDEX: Lint = Lint {
    name: "works/module-index",
    severity: Severity::Warning,
    summary: "kernel modules that are not in modprobe's index",
    why: "modprobe, and therefore udev, uses the index that depmod writes. A module that is not in \
          it can only be loaded with insmod and its full path.",
    fix: "run depmod when the overlay is built: `depmod KERNEL`",
};

pub(super) static MODULE_FILES: Lint = Lint {
    name: "works/module-files",
    severity: Severity::Warning,
    summary: "an index that names missing kernel modules",
    why: "modules.dep names modules whose files are missing: modprobe fails for them, and an \
          initrd generator that copies the modules of this kernel copies none. It happens when a \
          kernel is installed and removed again, or modules are deleted without running depmod. If \
          only some of the modules are missing, this is a note.",
    fix: "delete the directory of that kernel, or install its modules; after deleting modules, run \
          `depmod KERNEL`",
};

pub(super) static FIRST_BOOT: Lint = Lint {
    name: "works/first-boot",
    severity: Severity::Warning,
    summary: "each boot is a first boot, which enables or disables units again",
    why: "If /etc/machine-id is missing or contains `uninitialized`, systemd treats a boot as the \
          first one (machine-id(5)) and applies its presets: it enables units that the image \
          disables, since a unit without a rule is enabled by default, and on Fedora and its \
          relatives it also disables units. A machine that boots an image keeps no state, so this \
          happens at each boot. With an empty /etc/machine-id it does not, and systemd still \
          generates an id.",
    fix: "make /etc/machine-id an empty file (`: >/etc/machine-id`), or mask the units, or write a \
          rule for them to /etc/systemd/system-preset/",
};

pub(super) static SSH_HOST_KEYS: Lint = Lint {
    name: "works/ssh-host-keys",
    severity: Severity::Error,
    summary: "an SSH server without host keys",
    why: "sshd does not start without a host key: \"no hostkeys available\". The package generates \
          keys at installation, overcoat's clean-up deletes them, because all machines would share \
          them, and no unit generates new ones at boot. The check searches units, the scripts that \
          they run and init scripts for ssh-keygen.",
    fix: "add a unit that runs `ssh-keygen -A` before ssh.service (library:debian-base has one), \
          or disable the server",
};

pub(super) static CONTAINER: Lint = Lint {
    name: "works/container",
    severity: Severity::Warning,
    summary: "a container marker file",
    why: "Programs treat a machine with this file as a container: `systemd-detect-virt` prints \
          docker or podman, and units with ConditionVirtualization=!container are skipped. It \
          comes from the root file system of an exported container.",
    fix: "delete the file; `from:` of a base leaves it out",
};

pub(super) static DRIVERS: Lint = Lint {
    name: "works/drivers",
    severity: Severity::Note,
    summary: "a kernel without drivers for physical machines",
    why: "The kernel has drivers for virtual machines and none of the usual ones for physical \
          network cards (e1000e, igb, ixgbe, tg3, r8169) and disks (ahci, megaraid_sas, mpt3sas): \
          a physical machine that boots it has no network. Debian's linux-image-cloud-amd64 is \
          such a kernel. The check reads the modules of the root and, for a base, those of the \
          project's initrd.",
    fix: "install linux-image-amd64 instead if physical machines are to boot it",
};

pub(super) static OWNER: Lint = Lint {
    name: "works/owner",
    severity: Severity::Warning,
    summary: "a file whose owner has no account",
    why: "/etc/passwd or /etc/group of the merged root has no name for the owner's id. A service \
          that runs as a named user has no access to such files, and the next account that is \
          created may get the id and the files.",
    fix: "create the account with this id in the overlay, or change the owner to an existing \
          account",
};

pub(super) static UNIT_MISSING: Lint = Lint {
    name: "works/unit-missing",
    severity: Severity::Error,
    summary: "an enabled unit that does not exist",
    why: "A link in a .wants or .requires directory names a unit that systemd does not find. \
          systemd ignores it without a message in .wants: the service does not run; in .requires, \
          the unit that depends on it fails.",
    fix: "add the unit, or remove the link: `systemctl disable UNIT`",
};

pub(super) static UNIT_REFUSED: Lint = Lint {
    name: "works/unit-refused",
    severity: Severity::Error,
    summary: "a unit that systemd rejects",
    why: "Settings are missing from the unit file or contradict each other: \"has a bad unit file \
          setting\". The unit cannot be started.",
    fix: "fix the unit file; `systemd-analyze verify FILE` prints details",
};

pub(super) static UNIT_CYCLE: Lint = Lint {
    name: "works/unit-cycle",
    severity: Severity::Error,
    summary: "an ordering cycle of units",
    why: "Each unit is ordered after another one of them by After= and Before=. systemd drops one \
          of them at boot (\"ordering cycle\"), or all of them if they require each other. A \
          service is implicitly ordered after sysinit.target and basic.target, unless it sets \
          DefaultDependencies=no.",
    fix: "remove one After= or Before= of the cycle",
};

pub(super) static UNIT_EXEC: Lint = Lint {
    name: "works/unit-exec",
    severity: Severity::Error,
    summary: "a unit that uses a missing program, file or directory",
    why: "Starting the unit fails: with 203/EXEC for a program, with 200/CHDIR for a working \
          directory. Not reported are units with a condition that cannot hold in this root, and \
          commands whose failure is ignored (ExecStart=-). Paths in /dev, /proc, /run and /sys \
          exist only on a running machine: a condition on one is assumed to hold.",
    fix: "add the file, or fix the path in the unit",
};

pub(super) static UNIT_NEEDS: Lint = Lint {
    name: "works/unit-needs",
    severity: Severity::Error,
    summary: "a unit that requires a missing unit",
    why: "systemd does not start a unit that requires a missing unit: \"Unit X not found\". The \
          same applies to a socket, timer or path and the unit that it starts.",
    fix: "add the required unit; if it is optional, use Wants= instead of Requires=",
};

pub(super) static UNIT_USER: Lint = Lint {
    name: "works/unit-user",
    severity: Severity::Error,
    summary: "a unit that runs as an unknown user or group",
    why: "/etc/passwd of the merged root lacks the user, or /etc/group the group, and sysusers.d \
          does not create it: the unit fails with 217/USER or 216/GROUP. User= needs a user, even \
          if a group of that name exists.",
    fix: "create the account in the overlay, or set DynamicUser=yes",
};

pub(super) static UNIT_SYNTAX: Lint = Lint {
    name: "works/unit-syntax",
    severity: Severity::Warning,
    summary: "a line of a unit that systemd ignores",
    why: "systemd logs the line, ignores it, and starts the unit without the setting: for example \
          with other permissions, or at another time.",
    fix: "fix the line; `systemd-analyze verify FILE` prints details",
};

pub(super) static SOCKET: Lint = Lint {
    name: "works/socket",
    severity: Severity::Warning,
    summary: "a socket without a program",
    why: "A program that ran when the overlay was built created the socket. On the machine nothing \
          listens: connections are refused, and a server that finds the file may refuse to start. \
          Sockets belong into /run.",
    fix: "delete the socket in the last step, or stop the program before the overlay is sealed",
};

pub(super) static SELINUX: Lint = Lint {
    name: "works/selinux",
    severity: Severity::Warning,
    summary: "files without SELinux labels on a base that enforces SELinux",
    why: "/etc/selinux/config of the root says `enforcing`. Programs in confined domains cannot read \
          files without a label, so services and logins fail. cpio archives hold no labels.",
    fix: "boot with `selinux=0` or `enforcing=0`, or build the overlay as squashfs or tar with labels",
};
