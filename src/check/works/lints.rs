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

pub(super) static NEEDED_GONE: Lint = Lint {
    name: "works/needed",
    severity: Severity::Error,
    summary: "something that no system works without is missing",
    why: "An overlay takes it away, or a root that is checked as a whole has no /sbin/init, as a \
          minbase of Debian without systemd-sysv (a warning: an overlay may add it). Without /sbin/init the kernel panics, without a shell no script is run, without /etc/passwd \
          and /etc/group nobody has a name, not even root; without default.target systemd has \
          nothing to boot into, and without /var/lib/dpkg/status no package is installed, as far as \
          apt and dpkg know.",
    mend: "keep it: find the step that deletes it; or install it: systemd-sysv has /sbin/init",
};

pub(super) static SHUT: Lint = Lint {
    name: "works/shut",
    severity: Severity::Error,
    summary: "something that everybody needs is shut",
    why: "The rights of an overlay's directory take the place of the base's, for all that is in it. \
          Whoever is not root cannot enter a directory without the right to execute it for others: \
          with / or /usr shut, no service that runs as somebody else starts. A library, the linker's \
          cache or /etc/passwd is to be read by everybody. A build under umask 077 does that, or a \
          directory of mktemp -d that is unpacked as the root. Of programs other than the shell \
          and init, this is a warning.",
    mend: "give the right back: `chmod o+rx` for directories and programs, `chmod o+r` for files",
};

pub(super) static INTERPRETER: Lint = Lint {
    name: "works/interpreter",
    severity: Severity::Error,
    summary: "a script whose interpreter is not there",
    why: "The kernel runs a script by the program in its first line. Without it the script cannot be \
          run: \"no such file or directory\", or, from env, exit code 127. Of a script that is just \
          as its package ships it, this is a note: packages may no more than suggest an interpreter.",
    mend: "install the interpreter, or leave the script out",
};

pub(super) static ELF_LIBRARY: Lint = Lint {
    name: "works/elf-library",
    severity: Severity::Error,
    summary: "a library that is not there",
    why: "The program does not start: \"error while loading shared libraries\". Libraries are looked \
          for as ld.so does it, in what the file itself says, in the directories of ld.so.conf and in \
          those that ld.so has built in. It happens when a base drops or renames a library that an \
          overlay was built with, or an overlay takes away one that the base needs.",
    mend: "install the package that has the library, or build the overlay anew on this base",
};

pub(super) static ELF_VERSION: Lint = Lint {
    name: "works/elf-version",
    severity: Severity::Error,
    summary: "a library that is too old",
    why: "The library is there, but not in the version that the program was built with: it does not \
          start, with \"version `GLIBC_2.38' not found\" or the like. It happens when an overlay \
          is put over an older base than the one it was built on, or holds an older library than the \
          base's own programs need.",
    mend: "build the overlay on the base that it is booted with: `overcoat build --rebase NAME`",
};

pub(super) static ELF_MACHINE: Lint = Lint {
    name: "works/elf-machine",
    severity: Severity::Error,
    summary: "a program for another kind of machine",
    why: "The processor cannot run it: \"exec format error\". What is for another machine on purpose, \
          firmware say, is not executable.",
    mend: "bring the one for the base's architecture, or take away the right to execute it",
};

pub(super) static ELF_INTERPRETER: Lint = Lint {
    name: "works/elf-interpreter",
    severity: Severity::Error,
    summary: "a program whose loader is not there",
    why: "The kernel starts the loader that a program names, ld-linux say, and that loads the program. \
          Without it, running the program says \"no such file or directory\", though the file is \
          there: it is from another distribution, or for another machine.",
    mend: "bring a program that was built for this distribution, or one that is linked statically",
};

pub(super) static ELF_DAMAGED: Lint = Lint {
    name: "works/elf-damaged",
    severity: Severity::Error,
    summary: "a program or library that is cut off",
    why: "Its headers tell of more than there is in the file: whoever runs it gets \"segmentation \
          fault\" or \"bus error\", or the loader says \"file too short\". A copy or a download broke off.",
    mend: "copy it again",
};

pub(super) static PAM_MODULE: Lint = Lint {
    name: "works/pam-module",
    severity: Severity::Error,
    summary: "a module of PAM that is not there",
    why: "A rule in /etc/pam.d names it. PAM takes it for a module that fails: if it is required, \
          nobody can log in by that service; of other rules this is a warning. Nothing is meant by one \
          that is optional, or with a dash before it (-auth).",
    mend: "install the package that has the module, or take the rule away",
};

pub(super) static LINKER_CACHE: Lint = Lint {
    name: "works/linker-cache",
    severity: Severity::Error,
    summary: "a library that the linker's cache does not have",
    why: "ld.so looks at /etc/ld.so.cache, which ldconfig makes, not into the directories of \
          /etc/ld.so.conf. The library lies in one of these and nowhere else, and the cache does not \
          name it: the program does not start. It happens when an overlay brings a cache that hides \
          another's, or none.",
    mend: "run ldconfig when the overlay is made; of several overlays, in the topmost",
};

pub(super) static KERNEL_MODULES: Lint = Lint {
    name: "works/kernel-modules",
    severity: Severity::Error,
    summary: "kernel modules for another kernel",
    why: "The running kernel looks in /lib/modules/ under its own version, and refuses a module that \
          was built for another: \"invalid module format\". Drivers are missing then, of disks or \
          of the network. The kernel that boots is the one of --kernel or of the project, or else one \
          that the base has modules of; where nobody says, it is told that this was not looked for.",
    mend: "build the modules for the kernel that boots with the overlay; which one that is, --kernel \
           says",
};

pub(super) static MODULE_INDEX: Lint = Lint {
    name: "works/module-index",
    severity: Severity::Warning,
    summary: "kernel modules that modprobe does not find",
    why: "modprobe, and with it udev, looks into the index that depmod makes. A module that is not in \
          it is loaded by insmod and its full path alone.",
    mend: "run depmod when the overlay is made: `depmod KERNEL`",
};

pub(super) static MODULE_FILES: Lint = Lint {
    name: "works/module-files",
    severity: Severity::Warning,
    summary: "an index of kernel modules that are not there",
    why: "modules.dep names modules whose files are missing: modprobe fails for them, and an initrd \
          that copies the modules of this kernel copies none. It happens when a kernel is installed \
          and removed again, or modules are deleted without running depmod. Where only some of the \
          modules are missing, this is a note.",
    mend: "delete the directory of that kernel, or install its modules; after deleting modules, run \
           `depmod KERNEL`",
};

pub(super) static FIRST_BOOT: Lint = Lint {
    name: "works/first-boot",
    severity: Severity::Warning,
    summary: "each boot is a first boot, which enables or disables units again",
    why: "When /etc/machine-id is missing or contains `uninitialized`, systemd takes a boot for the first \
          one (machine-id(5)) and applies its presets: units that the image disables are enabled, \
          since a unit without a rule is enabled by default, and on Fedora and its relatives units \
          are disabled as well. A machine that boots an image keeps nothing, so this happens at each \
          boot. With an empty /etc/machine-id it does not, and systemd makes an id all the same.",
    mend: "make /etc/machine-id an empty file (`: >/etc/machine-id`), or mask the units, or write a \
           rule for them into /etc/systemd/system-preset/",
};

pub(super) static SSH_HOST_KEYS: Lint = Lint {
    name: "works/ssh-host-keys",
    severity: Severity::Error,
    summary: "an SSH server without host keys",
    why: "sshd does not start without a host key: \"no hostkeys available\". The package makes keys \
          when it is installed, overcoat's clean-up takes them away, because all machines would have \
          the same, and no unit makes them when a machine boots. Units, the scripts that they run and \
          init scripts are searched for ssh-keygen.",
    mend: "add a unit that runs `ssh-keygen -A` before ssh.service (library:debian-base has one), or \
           disable the server",
};

pub(super) static CONTAINER: Lint = Lint {
    name: "works/container",
    severity: Severity::Warning,
    summary: "a mark of a container",
    why: "Programs take a machine with this file for a container: `systemd-detect-virt` names docker or \
          podman, and units with ConditionVirtualization=!container are skipped. It comes with the \
          root file system of a container that was saved.",
    mend: "delete it; `from:` of a base leaves it out",
};

pub(super) static DRIVERS: Lint = Lint {
    name: "works/drivers",
    severity: Severity::Note,
    summary: "a kernel without drivers of physical machines",
    why: "Its modules drive virtual machines and none of the usual physical network cards (e1000e, igb, \
          ixgbe, tg3, r8169) and disks (ahci, megaraid_sas, mpt3sas): a physical machine that boots it \
          finds no network. Debian's linux-image-cloud-amd64 is such a kernel. The modules of the root \
          are looked at, and those of the project's initrd when a base is checked.",
    mend: "install linux-image-amd64 instead, if physical machines are to boot it",
};

pub(super) static OWNER: Lint = Lint {
    name: "works/owner",
    severity: Severity::Warning,
    summary: "files of somebody whom the root does not know",
    why: "The number of the owner has no name in /etc/passwd or /etc/group of the merged root. A \
          service that runs by name has no right to such files, and the next account that is made may \
          get the number, and the files with it.",
    mend: "make the account in the overlay, with this number, or give the files to one that is there",
};

pub(super) static UNIT_MISSING: Lint = Lint {
    name: "works/unit-missing",
    severity: Severity::Error,
    summary: "a unit is enabled and not there",
    why: "A link in a .wants or .requires directory names a unit that systemd does not find. From \
          .wants it is passed over without a word: the service just does not run; from .requires, what \
          needs it fails.",
    mend: "bring the unit, or remove the link: `systemctl disable UNIT`",
};

pub(super) static UNIT_REFUSED: Lint = Lint {
    name: "works/unit-refused",
    severity: Severity::Error,
    summary: "a unit that systemd refuses",
    why: "Its file says too little, or what excludes each other: \"has a bad unit file setting\". It \
          cannot be started.",
    mend: "mend the unit file; `systemd-analyze verify FILE` on a machine says more",
};

pub(super) static UNIT_CYCLE: Lint = Lint {
    name: "works/unit-cycle",
    severity: Severity::Error,
    summary: "units that wait for each other",
    why: "By After= and Before= each is to be started when another one of them is up. systemd leaves \
          one of them out at boot, whichever it finds (\"ordering cycle\"), or all where they require \
          each other. A service comes after sysinit.target and basic.target by itself, unless it says \
          DefaultDependencies=no.",
    mend: "take one After= or Before= of the circle away",
};

pub(super) static UNIT_EXEC: Lint = Lint {
    name: "works/unit-exec",
    severity: Severity::Error,
    summary: "a unit that runs or reads what is not there",
    why: "It fails when it is started: with 203/EXEC if it is a program, with 200/CHDIR if it is a \
          directory to work in. A unit with a condition that is never met in this root is not meant, \
          nor a command whose failure is not to matter (ExecStart=-). What is in /dev, /proc, /run or \
          /sys is known on a machine alone: a condition on that may be met.",
    mend: "bring it, or mend the path in the unit",
};

pub(super) static UNIT_NEEDS: Lint = Lint {
    name: "works/unit-needs",
    severity: Severity::Error,
    summary: "a unit that needs another one, which is not there",
    why: "What requires a unit that cannot be found is not started: \"Unit X not found\". The same is \
          true of a socket, timer or path and the unit that it is to start.",
    mend: "bring that unit; if it may be missing, say Wants= instead of Requires=",
};

pub(super) static UNIT_USER: Lint = Lint {
    name: "works/unit-user",
    severity: Severity::Error,
    summary: "a unit that runs as somebody whom nobody knows",
    why: "The user is not in /etc/passwd of the merged root, or the group not in /etc/group, and \
          sysusers.d does not make it: the unit fails with 217/USER or 216/GROUP. A group is no user, \
          whatever it is called.",
    mend: "make the account in the overlay, or say DynamicUser=yes",
};

pub(super) static UNIT_SYNTAX: Lint = Lint {
    name: "works/unit-syntax",
    severity: Severity::Warning,
    summary: "a line of a unit that systemd passes over",
    why: "It is logged and ignored, and the unit starts without it: with other rights, say, or at \
          another time than was meant.",
    mend: "mend the line; `systemd-analyze verify FILE` on a machine says more",
};
