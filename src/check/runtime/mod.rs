//! Lints (`works/…`) of the merged root: whether the overlay's files work in it, and whether the
//! base's files still do.

mod container;
mod drivers;
mod elf;
mod links;
mod lints;
mod modules;
mod needed;
mod owners;
mod pam;
mod scripts;
mod selinux;
mod sockets;
mod ssh;
mod units;

use super::Pass;
use super::faults::report;

use lints::*;

pub(super) static PASSES: &[Pass] = &[
    Pass { lints: &[&DANGLING_LINK, &ESCAPING_LINK, &ALTERNATIVE], run: links::links },
    Pass { lints: &[&NEEDED_GONE, &SHUT], run: needed::needed },
    Pass {
        lints: &[
            &ELF_LIBRARY,
            &ELF_VERSION,
            &ELF_MACHINE,
            &ELF_INTERPRETER,
            &ELF_DAMAGED,
            &LINKER_CACHE,
        ],
        run: elf::closure,
    },
    Pass {
        lints: &[
            &UNIT_MISSING,
            &UNIT_REFUSED,
            &UNIT_CYCLE,
            &UNIT_EXEC,
            &UNIT_NEEDS,
            &UNIT_USER,
            &UNIT_SYNTAX,
        ],
        run: units::units,
    },
    Pass { lints: &[&FIRST_BOOT], run: units::first_boot },
    Pass { lints: &[&SSH_HOST_KEYS], run: ssh::host_keys },
    Pass { lints: &[&CONTAINER], run: container::marks },
    Pass { lints: &[&KERNEL_MODULES], run: modules::modules },
    Pass { lints: &[&MODULE_INDEX], run: modules::indices },
    Pass { lints: &[&MODULE_FILES], run: modules::files },
    Pass { lints: &[&DRIVERS], run: drivers::drivers },
    Pass { lints: &[&OWNER], run: owners::owners },
    Pass { lints: &[&SOCKET], run: sockets::sockets },
    Pass { lints: &[&SELINUX], run: selinux::labels },
    Pass { lints: &[&INTERPRETER], run: scripts::interpreters },
    Pass { lints: &[&PAM_MODULE], run: |context, findings| report(context, findings, pam::survey) },
];

/// Returns whether a path belongs to another root inside this one, such as a container, or to test
/// data.
pub(in crate::check) fn is_elsewhere(path: &[u8]) -> bool {
    const ROOTS: [&[u8]; 9] = [
        b"snap/",
        b"usr/lib/debug/",
        b"var/lib/containerd/",
        b"var/lib/containers/",
        b"var/lib/docker/",
        b"var/lib/flatpak/",
        b"var/lib/lxc/",
        b"var/lib/machines/",
        b"var/lib/snapd/",
    ];
    let is_test_data = || path.split(|&byte| byte == b'/').any(|name| name == b"testdata");
    ROOTS.iter().any(|root| path.starts_with(root)) || is_cross_toolchain(path) || is_test_data()
}

/// Returns whether a path belongs to a cross-compilation toolchain: usr/aarch64-linux-gnu/.
fn is_cross_toolchain(path: &[u8]) -> bool {
    let dir = path.strip_prefix(b"usr/").and_then(|rest| rest.split(|&byte| byte == b'/').next());
    dir.is_some_and(|dir| memchr::memmem::find(dir, b"-linux-").is_some())
}
